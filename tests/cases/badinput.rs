//! Wrong use of the command line: refused with exit 2 and in words, and nothing hangs.

use crate::harness::Hive;

#[test]
fn what_cannot_be_understood_is_wrong_use() {
    let hive = Hive::start(["-n", "1"]);
    for args in [
        &[][..],
        &["frobnicate"],
        &["--frobnicate"],
        &["run"],
        &["run", "--frobnicate", "true"],
        &["run", "--timeout", "soon", "true"],
        &["run", "--timeout"],
        &["run", "--priority", "high", "true"],
        &["run", "--priority", "99999999999", "true"],
        &["run", "--retries", "-1", "true"],
        &["submit"],
        &["submit", "--stdin", "x"],
        &["wait"],
        &["wait", "--all", "1"],
        &["wait", "x"],
        &["wait", "-1"],
        &["wait", "99999999999999999999999"],
        &["result"],
        &["result", "1", "2"],
        &["task"],
        &["cancel"],
        &["cancel", "x"],
        &["pool"],
        &["pool", "frobnicate"],
        &["pool", "scale"],
        &["pool", "scale", "x"],
        &["pool", "scale", "-1"],
        &["pool", "scale", "5000"],
        &["pool", "start", "-n", "5000"],
        &["pool", "start", "-n", "x"],
        &["pool", "start", "--kind", "frobnicate"],
        &["pool", "stop", "--now", "--drain"],
        &["events", "--since", "x"],
    ] {
        let ran = hive.run(args).prints("").exits(2);
        assert!(!ran.stderr.is_empty() && !ran.err().contains("panicked"), "{ran}");
    }
    hive.run(["run", "echo hi"]).prints("hi\n").exits(0);
}

#[test]
fn what_the_supervisor_refuses_is_wrong_use_too() {
    let hive = Hive::start(["-n", "4"]);
    for (args, code, part) in [
        (&["run", "--timeout", "0", "true"][..], 2, "timeout"),
        (&["run", "--timeout=-1", "true"], 2, "timeout"),
        (&["run", "--timeout", "1e300", "true"], 2, "timeout"),
        (&["run", "--retries", "1001", "true"], 2, "\"retries\" may be at most 1000"),
        (&["run", "--name", "a b", "true"], 2, "\"name\""),
        (&["run", "--name", "", "true"], 2, "\"name\" must have 1 to 100 characters"),
        (&["run", "--label", "a/b", "true"], 2, "a label \"a/b\" may hold letters"),
        (&["run", "--label", "gpu", "true"], 4, "no agent has the label gpu: see `hivectl pool status`"),
        (&["run", "--agent", "9", "true"], 4, "no agent 9: this pool has agents 1 to 4"),
        (&["run", "--agent", "0", "true"], 4, "no agent 0: this pool has agents 1 to 4"),
        (&["submit", "--agent", "9", "true"], 4, "no agent 9"),
        (&["submit", "--agent", "nine", "true"], 4, "no agent is called nine"),
    ] {
        let ran = hive.run(args).prints("").exits(code).mentions(part);
        assert!(ran.err().starts_with("hivectl: ") || ran.err().starts_with("error: "), "{ran}");
    }
    assert_eq!(hive.tasks().len(), 0);
}

#[test]
fn a_number_that_is_none_does_not_hang_the_command() {
    let hive = Hive::start(["-n", "1"]);
    for number in ["nan", "inf", "-inf"] {
        hive.run(["run", &format!("--timeout={number}"), "true"]).prints("").exits(2).mentions("timeout");
    }
}

#[test]
fn a_pool_with_a_number_that_is_none_is_not_started() {
    for option in [
        "--stop-grace=nan",
        "--start-timeout=inf",
        "--stop-grace=-1",
        "--prefetch=0",
        "--prefetch=257",
        "--label=a b",
        "--name=a/b",
    ] {
        let hive = Hive::new();
        hive.pool_start(["-n", "1", option]).prints("").exits(2);
        assert!(!hive.live().exists(), "{option}: what was started for it is stopped again");
    }
}

#[test]
fn a_kind_without_its_program_is_not_started() {
    let hive = Hive::new();
    for kind in ["lines", "oneshot"] {
        hive.pool_start(["-n", "1", "--kind", kind])
            .exits(2)
            .mentions("this kind of agent needs its program: add `-- CMD ARGS...`");
    }
    hive.pool_start(["-n", "1", "--", "cat"]).exits(2).mentions("add `--kind lines` or `--kind oneshot`");
    hive.run(["pool", "status"]).exits(3);
}

#[test]
fn a_hives_name_cannot_leave_its_folder() {
    let hive = Hive::new();
    for name in ["../x", "a/b", ".", ".hidden", "a b"] {
        hive.run(["--hive", name, "pool", "start", "-n", "1"]).exits(2).mentions("a hive's name");
    }
}

#[test]
fn an_empty_text_is_a_task_that_does_nothing() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", ""]).prints("").says("").exits(0);
    hive.cmd(["run", "-"]).stdin("").run().prints("").says("").exits(0);
}

#[test]
fn arguments_that_are_not_utf8_are_refused_in_words() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let hive = Hive::start(["-n", "1"]);
    let odd = OsStr::from_bytes(b"echo \xff");
    let ran = hive.run([OsStr::new("run"), odd]).prints("").exits(2);
    assert!(ran.err().contains("UTF-8"), "{ran}");
    hive.cmd(["run", "-"]).stdin(&b"printf '\xff'"[..]).run().prints(b"\xff").exits(0);
}

#[test]
fn a_closed_stdin_and_stdout_harm_nothing() {
    let hive = Hive::start(["-n", "1"]);
    hive.bash("hivectl run 'echo hi' <&-").prints("hi\n").exits(0);
    hive.bash("hivectl run 'echo hi' 2>&-").prints("hi\n").exits(0);
    hive.bash("hivectl run 'echo hi' >&- 2>/dev/null; hivectl tasks >&- 2>&-; hivectl run 'echo still here'")
        .prints("still here\n")
        .exits(0);
}

#[test]
fn without_any_home_the_remedy_is_named() {
    let hive = Hive::new();
    hive.bash("unset HIVE_DIR XDG_STATE_HOME HOME; hivectl paths")
        .exits(2)
        .mentions("set HIVE_DIR to a folder of yours");
}
