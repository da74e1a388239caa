//! A full disk: new work is refused and says why, what was accepted ends and is recorded, and all goes on when there is
//! room again. On a file system of 1 MiB, in a mount namespace of the test's own.

use crate::harness::{Hive, Ran};

/// Runs a bash script with HIVE_DIR on a disk of 1 MiB. `None` where this machine allows no such namespace.
fn on_a_small_disk(hive: &Hive, script: &str) -> Option<Ran> {
    let small = r#"mkdir -p "$HIVE_DIR" && mount -t tmpfs -o size=1m small "$HIVE_DIR" || exit 99
fill() { dd if=/dev/zero of="$HIVE_DIR/fill" bs=4k 2>/dev/null; }
room() { rm "$HIVE_DIR/fill"; }
until_full() { for _ in $(seq 2000); do hivectl submit true >/dev/null || return; done; }
until_ok() { for _ in $(seq 500); do "$@" && return; sleep 0.02; done; echo "in vain: $*"; return 1; }
"#;
    let ran = hive.bash(&format!("unshare -rm bash -c {}", quoted(&format!("{small}{script}"))));
    if ran.code == 99 || ran.err().contains("unshare failed") {
        eprintln!("skipped: no mount namespace here: {}", ran.err());
        return None;
    }
    Some(ran)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[test]
fn new_work_is_refused_running_work_ends_and_all_goes_on_with_room() {
    let hive = Hive::new();
    let gate = hive.gate();
    let script = format!(
        r#"hivectl pool start -n 2
hivectl run {held} & run=$!
until_ok test -e {entered}
fill
until_full; echo "submit $?"
hivectl run echo no; echo "run $?"
printf 'echo a\necho b\n' | hivectl submit --stdin; echo "stdin $?"
hivectl tasks >/dev/null; echo "tasks $?"
echo >{fifo}
wait $run; echo "held $?"
hivectl pool status --json | grep -o '"running":[0-9]*'
room
until_ok hivectl run echo yes
hivectl wait --all; hivectl pool stop; echo "stop $?"
hivectl pool start -n 1 && hivectl result 1; hivectl pool stop"#,
        held = quoted(&gate.then("echo held")),
        entered = hive.file("entered"),
        fifo = hive.file("gate"),
    );
    let Some(ran) = on_a_small_disk(&hive, &script) else { return };
    let out = ran.out();
    for part in
        ["submit 6\n", "run 6\n", "stdin 6\n", "tasks 0\n", "held\nheld 0\n", "\"running\":0\n", "yes\n", "stop 0\n"]
    {
        assert!(out.contains(part), "{part:?} is missing: {out}\n{}", ran.err());
    }
    assert!(out.ends_with("held\nhive default has stopped; nothing of it is left running\n"), "{out}");
    ran.mentions("the disk is full, and nothing more can be accepted");
}

#[test]
fn what_was_accepted_begins_again_when_there_is_room() {
    let hive = Hive::new();
    let gate = hive.gate();
    let script = format!(
        r#"hivectl pool start -n 1
hivectl submit {held} >/dev/null
for n in $(seq 20); do hivectl submit echo $n; done >/dev/null
until_ok test -e {entered}
fill
echo >{fifo}
until_ok sh -c 'hivectl task 1 --json | grep -q done'
until_full; echo "submit $?"
room
hivectl wait --all; echo "wait $?"
hivectl result 21
hivectl pool stop --now"#,
        held = quoted(&gate.then("echo held")),
        entered = hive.file("entered"),
        fifo = hive.file("gate"),
    );
    let Some(ran) = on_a_small_disk(&hive, &script) else { return };
    let out = ran.out();
    assert!(out.contains("submit 6\n") && out.contains("wait 0\n20\n"), "{out}\n{}", ran.err());
}

#[test]
fn a_result_that_finds_no_room_is_a_failure_that_says_so() {
    let hive = Hive::new();
    let script = r#"hivectl pool start -n 1
hivectl run 'head -c 5000000 /dev/zero' >/dev/null; echo "run $?"
hivectl run echo after
hivectl pool stop"#;
    let Some(ran) = on_a_small_disk(&hive, script) else { return };
    let out = ran.out();
    assert!(out.contains("run 125\n") && out.contains("after\n"), "{out}\n{}", ran.err());
    ran.mentions("cannot store its result: no space left on device");
}

#[test]
fn a_start_on_a_full_disk_says_why() {
    let hive = Hive::new();
    let script = r#"fill; hivectl pool start -n 1; echo "start $?"; room; hivectl pool start -n 1; hivectl pool stop"#;
    let Some(ran) = on_a_small_disk(&hive, script) else { return };
    assert!(
        ran.out().contains("start 6\n") && ran.out().contains("1 agent is ready\n"),
        "{}\n{}",
        ran.out(),
        ran.err()
    );
    ran.mentions("no space left on device");
}
