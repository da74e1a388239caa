//! Logs of tasks and agents, and the event log: as they are, and as they grow.

use serde_json::Value;

use crate::harness::{Hive, wait_until};

#[test]
fn the_log_of_a_task_is_its_stderr() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo one >&2; echo out; printf two >&2"]).prints("out\n").exits(0);
    hive.run(["logs", "1"]).prints("one\ntwo").says("").exits(0);
}

#[test]
fn a_task_that_said_nothing_has_an_empty_log() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "true"]).exits(0);
    hive.run(["logs", "1"]).prints("").says("").exits(0);
    hive.run(["logs", "-f", "1"]).prints("").exits(0);
    hive.run(["logs", "2"]).exits(4).mentions("no task 2");
    hive.run(["logs", "--agent", "7"]).exits(4).mentions("no agent 7 here");
    hive.run(["logs", "x"]).exits(2).mentions("\"x\" is not a task's number");
    hive.run(["logs"]).exits(2);
}

#[test]
fn a_log_is_followed_until_its_task_has_ended() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&format!("echo one >&2; {}; echo two >&2; {}; printf three >&2", gate.wait(), gate.wait()));
    gate.wait_for(1);
    let mut follow = hive.spawn(["logs", "-f", "1"]);
    follow.wait_for_out("one\n");
    gate.open(1);
    follow.wait_for_out("two\n");
    assert!(!follow.has_ended());
    gate.open(1);
    follow.ends().prints("one\ntwo\nthree").exits(0);
}

#[test]
fn a_log_can_be_followed_before_the_task_begins() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&gate.wait());
    gate.wait_for(1);
    hive.submit("echo late >&2");
    let follow = hive.spawn(["logs", "-f", "2"]);
    wait_until("it waits", || hive.events().iter().any(|e| e["kind"] == "awaited" && e["task"] == 2));
    gate.open(1);
    follow.ends().prints("late\n").exits(0);
}

#[test]
fn attempts_of_a_task_share_its_log() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&format!("echo attempt $HIVE_ATTEMPT >&2; {}", gate.wait()));
    gate.wait_for(1);
    hive.run(["pool", "stop"]).exits(0);
    hive.pool_start(["-n", "1"]).exits(0);
    gate.wait_for(2);
    gate.open(1);
    hive.run(["wait", "1"]).exits(0);
    hive.run(["logs", "1"]).prints("attempt 1\nattempt 2\n").exits(0);
}

#[test]
fn a_large_stderr_is_whole() {
    let hive = Hive::start(["-n", "1"]);
    let run =
        hive.run(["run", "i=0; while [ $i -lt 300 ]; do head -c 1000 /dev/zero | tr '\\0' e >&2; i=$((i+1)); done"]);
    assert_eq!(run.stderr.len(), 300_000);
    run.prints("").exits(0);
    hive.run(["logs", "1"]).prints("e".repeat(300_000)).exits(0);
}

#[test]
fn the_log_of_a_task_has_a_bound_and_says_so() {
    let hive = Hive::start(["-n", "1"]);
    let bound = 64 << 20;
    hive.submit(&format!("head -c {} /dev/zero >&2; echo fine", bound + 1_000_000));
    hive.run(["wait", "1"]).prints("1 done\n").exits(0);
    assert_eq!(hive.task(1)["result"], "fine");
    let log = std::fs::read(hive.kept().join("logs/1.log")).unwrap();
    assert!(log[..bound].iter().all(|b| *b == 0));
    assert_eq!(String::from_utf8_lossy(&log[bound..]), format!("\n[hive: the log is cut here, at {bound} bytes]\n"));
}

#[test]
fn events_are_numbered_and_in_order() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo hi"]).exits(0);
    let events = hive.events();
    for (n, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], n + 1);
        assert!(event["time"].is_string() && event["term"] == 1 && event["kind"].is_string(), "{event}");
    }
    let kinds: Vec<&str> = events.iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["led", "configured"]);
    assert_eq!(kinds[kinds.len() - 3..], ["submitted", "assigned", "done"]);
}

#[test]
fn events_can_be_read_from_a_number_on_and_without_a_hive() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "true"]).exits(0);
    let all = hive.events();
    hive.run(["pool", "stop"]).exits(0);
    let from = hive.run(["events", "--since", "4"]).exits(0).out();
    let first: Value = serde_json::from_str(from.lines().next().unwrap()).unwrap();
    assert_eq!(first["seq"], 4);
    assert!(from.lines().count() > all.len() - 3, "what came with the stop is there too");
    let last: Value = serde_json::from_str(from.lines().last().unwrap()).unwrap();
    assert_eq!(last["kind"], "stopped");
}

#[test]
fn events_are_followed_as_they_come() {
    let hive = Hive::start(["-n", "1"]);
    let last = hive.events().len();
    let mut follow = hive.cmd(["events", "-f", "--since"]).args([(last + 1).to_string()]).spawn();
    hive.run(["run", "echo followed"]).exits(0);
    follow.wait_for_out("\"kind\":\"done\"");
    hive.run(["run", "echo again"]).exits(0);
    follow.wait_for_out("\"task\":2");
    assert!(!follow.has_ended());
    let first: Value = serde_json::from_str(follow.out().lines().next().unwrap()).unwrap();
    assert_eq!((&first["seq"], &first["kind"]), (&(last + 1).into(), &"submitted".into()));
}

#[test]
fn events_of_no_hive_are_an_error_in_words() {
    let hive = Hive::new();
    let ran = hive.run(["events"]);
    assert_ne!(ran.code, 0, "{ran}");
    ran.prints("").mentions("hivectl: ");
}
