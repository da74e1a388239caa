//! The supervisor dies at a named place, at its first, second, ... passing; the next one must find everything.

use std::collections::BTreeMap;

use super::takeover::{kill_supervisor, leader};
use crate::harness::{Hive, is_alive, wait_until};

/// Fifty tasks on a hive whose supervisor dies at `place`, each time at another passing.
fn dies_at(place: &str, passings: &[u32], kind: &str) {
    for n in passings {
        let hive = Hive::new();
        let ran = hive.file("ran");
        let script = format!(
            "echo READY; while read -r v id t; do [ $v = TASK ] && echo $id >>{ran} && echo DONE $id $id; done"
        );
        let command: &[&str] = if kind == "lines" { &["--", "bash", "-c", &script] } else { &[] };
        let start = ["pool", "start", "-n", "3", "--kind", kind];
        // It may die before it is ready: then the starter says so, and nothing is kept from the next start.
        hive.cmd(start).args(command).env("HIVE_FAIL", format!("{place}:{n}")).run();
        let text = format!("echo $HIVE_TASK >>{ran}; echo $HIVE_TASK\n").repeat(50);
        let mut submit = hive.cmd(["submit", "--stdin"]).stdin(text).spawn();
        wait_until("all is done", || {
            if leader(&hive).is_none_or(|pid| !is_alive(pid)) {
                hive.cmd(start).args(command).run().exits(0);
            }
            submit.has_ended() && hive.run(["wait", "--all", "--timeout", "0.2"]).code == 0
        });
        let acknowledged: Vec<u64> = submit.ends().out().lines().map(|id| id.parse().unwrap()).collect();
        // What is asked below is not to kill the one that is asked.
        hive.run(["pool", "takeover"]).exits(0);
        check(&hive, &acknowledged, &format!("{place}:{n} {kind}"));
    }
}

fn check(hive: &Hive, acknowledged: &[u64], what: &str) {
    let tasks = hive.tasks();
    for task in &tasks {
        assert_eq!(
            (&task["state"], &task["result"]),
            (&"done".into(), &task["id"].to_string().into()),
            "{what}: {task}"
        );
    }
    let ids: Vec<u64> = tasks.iter().map(|t| t["id"].as_u64().unwrap()).collect();
    assert!(acknowledged.iter().all(|id| ids.contains(id)), "{what}: every acknowledged task is there");
    let mut times = BTreeMap::new();
    hive.read("ran").lines().for_each(|id| *times.entry(id.to_owned()).or_insert(0) += 1);
    // A host that died with its task would be another matter; here only supervisors die.
    assert!(times.values().all(|n| *n == 1), "{what}: none ran twice: {times:?}");
    let mut ended: Vec<u64> =
        hive.events().iter().filter(|e| e["kind"] == "done").map(|e| e["task"].as_u64().unwrap()).collect();
    ended.sort_unstable();
    assert_eq!(ended, ids, "{what}: each ends once");
}

macro_rules! places {
    ($($test:ident $place:literal $passings:expr;)*) => {$(
        #[test]
        fn $test() {
            dies_at($place, &$passings, "shell");
            dies_at($place, &$passings, "lines");
        }
    )*};
}

places! {
    between_taking_and_deciding "taken" [1, 4, 9, 20, 40];
    between_deciding_and_recording "decided" [1, 3, 6, 12, 30];
    between_recording_and_performing "recorded" [1, 4, 8, 15, 30, 60];
    between_performing_and_sending "performed" [2, 5, 11, 25, 50];
    between_answering_and_marking_it "answered" [2, 5, 11, 25, 50];
    between_marking_and_emptying_the_intake "marked" [2, 5, 11, 25, 50];
    after_a_turn "done" [2, 5, 11, 25, 50];
    before_a_sync "sync" [1, 2];
    before_a_host_is_started "spawn" [1, 2, 3];
    before_a_host_is_recorded "spawned" [1, 2, 3];
}

#[test]
fn between_marking_a_send_and_sending() {
    dies_at("sending", &[1, 2, 5, 10, 25, 40], "lines");
}

#[test]
fn between_sending_and_marking_it() {
    dies_at("sent", &[1, 2, 5, 10, 25, 40], "lines");
}

/// The next leader dies too, in the middle of its take-over, and the one after it.
#[test]
fn in_the_take_over_itself() {
    for place in ["adopted", "led", "took-left", "decided", "recorded", "performed", "answered", "marked"] {
        let hive = Hive::start(["-n", "3"]);
        let ran = hive.file("ran");
        let text = format!("echo $HIVE_TASK >>{ran}; sleep 0.01; echo $HIVE_TASK\n").repeat(50);
        let submit = hive.cmd(["submit", "--stdin"]).stdin(text).spawn();
        submit.wait_for_out("5\n");
        kill_supervisor(&hive);
        for _ in 0..2 {
            hive.cmd(["pool", "start"]).env("HIVE_FAIL", format!("{place}:1")).run();
        }
        hive.cmd(["pool", "start"]).run().exits(0);
        let acknowledged: Vec<u64> = submit.ends().out().lines().map(|id| id.parse().unwrap()).collect();
        hive.run(["wait", "--all"]).exits(0);
        check(&hive, &acknowledged, place);
    }
}
