//! The folder and the environment that a task runs in, and that no secret of them is written down.

use std::fs;
use std::path::Path;

use crate::harness::{Hive, python};

#[test]
fn a_shell_task_runs_where_and_as_its_submitter_stands() {
    let hive = Hive::start(["-n", "1"]);
    let there = hive.path("there");
    fs::create_dir(&there).unwrap();
    let run = |colour: &str| hive.cmd(["run", "pwd; echo $COLOUR"]).env("COLOUR", colour).dir(&there).run();
    run("red").prints(format!("{}\nred\n", there.display())).exits(0);
    run("two words").prints(format!("{}\ntwo words\n", there.display())).exits(0);
}

#[test]
fn resident_programs_keep_the_surroundings_of_pool_start() {
    for kind in ["lines", "oneshot"] {
        let hive = Hive::new();
        let (there, other) = (hive.path("there"), hive.path("other"));
        fs::create_dir(&there).unwrap();
        fs::create_dir(&other).unwrap();
        let program = match kind {
            "lines" => "echo READY; while read -r v id t; do echo DONE $id $COLOUR $PWD; done",
            _ => "cat >/dev/null; echo $COLOUR $PWD",
        };
        let start = hive.cmd(["pool", "start", "-n", "1", "--kind", kind, "--", "bash", "-c", program]);
        start.env("COLOUR", "green").dir(&there).run().exits(0);
        let run = hive.cmd(["run", "x"]).env("COLOUR", "red").dir(&other).run();
        run.prints(format!("green {}\n", there.display())).exits(0);
    }
}

#[test]
fn a_folder_that_is_gone_is_hives_failure_and_named() {
    let hive = Hive::start(["-n", "1"]);
    let there = hive.path("there");
    fs::create_dir(&there).unwrap();
    let gate = hive.gate();
    hive.submit(&gate.wait());
    gate.wait_for(1);
    let task = hive.cmd(["run", "true"]).dir(&there).spawn();
    hive.wait_for_state(2, "queued");
    fs::remove_dir(&there).unwrap();
    gate.open(1);
    task.ends().exits(125).mentions(&format!("cannot enter {}: no such folder", there.display()));
}

#[test]
fn secrets_of_the_environment_are_not_in_any_log() {
    let hive = Hive::new();
    let secret = "sesame-4711";
    let start = hive.cmd(["pool", "start", "-n", "1"]).env("SECRET", secret).run();
    start.exits(0);
    hive.cmd(["run", "[ -n \"$SECRET\" ]"]).env("SECRET", secret).run().exits(0);
    hive.cmd(["submit", "true"]).env("SECRET", secret).run().exits(0);
    hive.run(["wait", "--all"]).exits(0);
    let mut looked = 0;
    each_file(&hive.kept(), &mut |path, content| {
        looked += 1;
        let found = content.windows(secret.len()).any(|w| w == secret.as_bytes());
        assert!(!found, "the secret is in {}", path.display());
    });
    assert!(looked >= 2, "the event log and the supervisor's were looked at");
}

#[test]
fn a_variable_with_a_newline_and_one_with_odd_bytes_arrive_whole() {
    let hive = Hive::start(["-n", "1"]);
    let show = format!("{} -c 'import os; print(ascii(os.environb[b\"ODD\"]))'", python());
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"a\nb=\xff c");
    hive.cmd(["run", &show]).env("ODD", odd).run().prints("b'a\\nb=\\xff c'\n").exits(0);
}

#[test]
fn what_one_hive_set_is_not_handed_on_to_another() {
    let hive = Hive::start(["-n", "1"]);
    let run = hive.cmd(["run", "echo $HIVE_TASK $HIVE_AGENT $HIVE_ATTEMPT ${HIVE_HOST-none}"]);
    run.env("HIVE_TASK", "99").env("HIVE_AGENT", "98").env("HIVE_HOST", "x").run().prints("1 1 1 none\n").exits(0);
}

fn each_file(folder: &Path, look: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => each_file(&path, look),
            false => look(&path, &fs::read(&path).unwrap()),
        }
    }
}
