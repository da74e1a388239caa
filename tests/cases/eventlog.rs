//! The event log as a thing of its own: checked, mended, replayed, compared; snapshots, and what is kept of it.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Hive, Ran, kill, wait_until};

fn folder(hive: &Hive) -> PathBuf {
    hive.kept().join("events")
}

fn files(hive: &Hive, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder(hive)).unwrap().flatten().map(|e| e.path()).collect();
    let is = |e: &str| e == extension || extension.ends_with('-') && e.starts_with(extension);
    found.retain(|path| path.extension().is_some_and(|e| is(&e.to_string_lossy())));
    found.sort();
    found
}

fn segment(hive: &Hive) -> PathBuf {
    files(hive, "jsonl").pop().unwrap()
}

/// A hive that ran these tasks and has stopped.
fn stopped_after(tasks: usize) -> Hive {
    let hive = Hive::start(["-n", "1"]);
    for n in 1..=tasks {
        hive.run(["run", &format!("echo {n}; echo said {n} >&2")]).exits(0);
    }
    hive.run(["pool", "stop"]).exits(0);
    hive
}

/// Makes one segment into many, of so many records each: as if it had grown large.
fn split(hive: &Hive, records: usize) {
    let last = segment(hive);
    let text = fs::read_to_string(&last).unwrap();
    fs::remove_file(&last).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for part in lines.chunks(records) {
        let seq = serde_json::from_str::<Value>(part[0]).unwrap()["seq"].as_u64().unwrap();
        fs::write(folder(hive).join(format!("{seq:020}.jsonl")), part.concat()).unwrap();
    }
}

/// Changes a byte of the first record of this kind; says its number.
fn spoil(hive: &Hive, kind: &str) -> u64 {
    let log = segment(hive);
    let mut bytes = fs::read(&log).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    let at = text.find(&format!("\"kind\":\"{kind}\"")).unwrap();
    let line = &text[text[..at].rfind('\n').map_or(0, |n| n + 1)..];
    let seq = serde_json::from_str::<Value>(line.lines().next().unwrap()).unwrap()["seq"].as_u64().unwrap();
    bytes[at + 3] ^= 1;
    fs::write(&log, bytes).unwrap();
    seq
}

fn verify(hive: &Hive) -> Ran {
    hive.run(["events", "verify"])
}

#[test]
fn a_whole_log_is_clean_while_a_hive_runs_and_while_none_does() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo x"]).exits(0);
    let running = hive.json(["events", "verify"]);
    assert_eq!((&running["ok"], &running["first"]), (&true.into(), &1.into()));
    assert_eq!(running["records"], hive.events().len());
    hive.run(["pool", "stop"]).exits(0);
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["pool", "stop"]).exits(0);
    let ran = verify(&hive).exits(0).says("").out();
    assert!(ran.contains(" records in 1 segment, ") && ran.contains(", terms 1 to 2; 0 snapshots"), "{ran}");
}

#[test]
fn verify_under_load_sees_no_damage() {
    let hive = Hive::start(["-n", "2"]);
    let mut load = hive.cmd(["submit", "--stdin"]).stdin("true\n".repeat(400)).spawn();
    while !load.has_ended() {
        verify(&hive).exits(0).says("");
    }
    load.ends().exits(0);
    hive.run(["wait", "--all"]).exits(0);
    verify(&hive).exits(0).says("");
}

#[test]
fn a_torn_tail_is_named_as_such_and_is_no_damage() {
    let hive = stopped_after(1);
    let log = segment(&hive);
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() - 10]).unwrap();
    verify(&hive).exits(0).mentions("are no whole record, as a crash leaves them: the next start cuts them off");
    assert!(hive.json(["events", "verify"])["torn"]["bytes"].as_u64().unwrap() > 0);
    hive.pool_start(["-n", "1"]).exits(0);
    verify(&hive).exits(0).says("");
}

#[test]
fn damage_is_named_mended_and_said_and_then_all_is_well() {
    let hive = stopped_after(3);
    let lost = spoil(&hive, "done");
    let log = segment(&hive);
    let ran = verify(&hive).exits(1).mentions("`hivectl events repair`").out();
    assert!(ran.contains(&format!("{}: bytes ", log.display())), "{ran}");
    assert!(ran.contains(&format!("its checksum does not match; record {lost} is missing")), "{ran}");
    let told = hive.cmd(["--json", "events", "verify"]).run().exits(1).json();
    assert_eq!((&told["ok"], &told["damage"][0]["first_lost"]), (&false.into(), &lost.into()));
    hive.pool_start(["-n", "1"]).exits(1).mentions("the log is damaged").mentions("`hivectl events repair`");

    let said = hive.run(["events", "repair"]).exits(0).says("").out();
    assert!(said.contains(&format!("record {lost} is lost; what happened in them did not happen")), "{said}");
    assert!(
        said.contains("not ended as far as the log still says, and so run at the next start, perhaps again: task 1:")
    );
    assert_eq!(files(&hive, "cut-at-").len(), 1);
    assert!(verify(&hive).exits(0).says("").out().contains(&format!("repaired: record {lost} is lost")));
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["wait", "--all"]).exits(0);
    hive.run(["result", "1"]).prints("1\n").exits(0);
    hive.run(["result", "2"]).prints("2\n").exits(0);
    verify(&hive).exits(0).says("");
    let hole = hive.events().into_iter().find(|e| e["kind"] == "repaired").unwrap();
    assert_eq!((&hole["seq"], &hole["from"], &hole["to"]), (&lost.into(), &lost.into(), &lost.into()));
}

#[test]
fn tasks_that_were_submitted_in_a_hole_are_named() {
    let hive = stopped_after(3);
    spoil(&hive, "submitted");
    let told = hive.json(["events", "repair"]);
    assert_eq!(told["forgotten_tasks"], serde_json::json!([1]));
    hive.run(["result", "1"]).prints("1\n").exits(0);
    hive.run(["task", "1"]).exits(4).mentions("no longer kept");
    hive.pool_start(["-n", "1"]).exits(0);
    assert_eq!(hive.submit("true"), 4, "no number is given twice");
    hive.run(["wait", "4"]).exits(0);
}

#[test]
fn a_log_that_is_well_is_left_as_it_is_by_a_repair() {
    let hive = stopped_after(1);
    let before = fs::read(segment(&hive)).unwrap();
    hive.run(["events", "repair"]).prints("nothing is damaged: the log is as it was\n").exits(0);
    assert_eq!(fs::read(segment(&hive)).unwrap(), before);
    hive.run(["--hive", "other", "events", "repair"]).exits(3);
}

#[test]
fn a_log_that_somebody_writes_or_may_write_is_not_mended() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["events", "repair"]).exits(6).mentions("hive default runs (supervisor ").mentions("pool stop");
    let (supervisor, host) = (hive.supervisor(), hive.host(1));
    kill(supervisor, "KILL");
    wait_until("the supervisor is dead", || !crate::harness::is_alive(supervisor));
    hive.run(["events", "repair"]).exits(6).mentions(&format!("alive without a supervisor (host {host})"));
    hive.pool_start(["-n", "1"]).exits(0);
}

#[test]
fn a_replay_shows_what_was_shown() {
    let hive = Hive::start(["-n", "2", "--name", "w"]);
    let gate = hive.gate();
    hive.run(["run", "exit 3"]).exits(3);
    hive.submit_times(2, &gate.wait());
    gate.wait_for(2);
    hive.submit_with(&["--name", "later"], "echo later");
    let (status, tasks) = (hive.status(), hive.tasks());
    let at = hive.events().last().unwrap()["seq"].as_u64().unwrap();
    gate.open(2);
    hive.run(["wait", "--all"]).exits(0);
    let then = hive.json(["events", "replay", "--at", &at.to_string()]);
    assert_eq!(then["tasks"].as_array().unwrap(), &tasks);
    let mut agents = status["agents"].clone();
    agents.as_array_mut().unwrap().iter_mut().for_each(|a| drop(a.as_object_mut().unwrap().remove("rss")));
    assert_eq!(then["status"]["agents"], agents);
    for name in ["hive", "state", "tasks"] {
        assert_eq!(then["status"][name], status[name]);
    }
    for name in ["pid", "term"] {
        assert_eq!(then["status"]["supervisor"][name], status["supervisor"][name]);
    }
    let text = hive.run(["events", "replay", "--at", &at.to_string()]).exits(0).out();
    assert!(text.starts_with(&format!("after record {at}, at ")), "{text}");
    assert!(text.contains("tasks: 1 queued, 2 running, 0 done, 1 failed, 0 cancelled"), "{text}");
    assert!(text.contains("later: echo later"), "{text}");
    assert_eq!(hive.json(["events", "replay"])["tasks"], Value::from(hive.tasks()));
    hive.run(["events", "replay", "--at", "100000"]).exits(4).mentions("there is no record 100000");
    hive.run(["events", "replay", "--at", "0"]).exits(2);
}

#[test]
fn two_logs_are_compared_step_by_step() {
    let (one, other) = (stopped_after(2), stopped_after(3));
    let (a, b) = (folder(&one), folder(&other));
    let diff = |more: &[&str]| one.cmd(["events", "diff"]).args([&a, &b]).args(more).run();
    let own = one.run(["events", "diff", "default", segment(&one).to_str().unwrap()]).exits(0).out();
    assert!(own.starts_with("the logs are the same: "), "{own}");
    let ran = diff(&["--ignore", "surroundings"]).exits(1).out();
    let lines: Vec<&str> = ran.lines().collect();
    assert!(lines[1].starts_with("A {") && lines[1].contains("\"kind\":\"stopping\""), "{ran}");
    assert!(lines[2].starts_with("B {") && lines[2].contains("\"kind\":\"submitted\""), "{ran}");
    assert!(diff(&["--exact"]).exits(1).out().starts_with("the logs are the same for 0 records, and part here:"));
    let told: Value = one.cmd(["--json", "events", "diff"]).args([&a, &b]).run().exits(1).json();
    assert_eq!((&told["same"], &told["a"]["seq"]), (&false.into(), &told["b"]["seq"]));
    one.run(["events", "diff", "default", "nowhere"]).exits(2).mentions("nowhere is neither a hive");
}

#[test]
fn a_log_that_is_a_copy_and_shorter_has_ended() {
    let hive = stopped_after(1);
    let lines = fs::read_to_string(segment(&hive)).unwrap();
    let short: Vec<&str> = lines.split_inclusive('\n').take(5).collect();
    let copy = hive.write("copy.jsonl", short.concat());
    let ran = hive.run(["events", "diff", "default", &copy]).exits(1).out();
    assert!(ran.starts_with("the logs are the same for 5 records") && ran.ends_with("B (has ended)\n"), "{ran}");
}

#[test]
fn snapshots_are_made_of_closed_segments_and_a_start_needs_nothing_before_them() {
    let hive = stopped_after(4);
    split(&hive, 5);
    hive.pool_start(["-n", "1"]).exits(0);
    wait_until("a snapshot is there", || !files(&hive, "snapshot").is_empty());
    hive.run(["run", "echo more"]).exits(0);
    hive.run(["pool", "stop"]).exits(0);
    let tasks = hive.json(["events", "replay"])["tasks"].clone();
    // Whatever is before it may be damaged or gone: what it came to is in the snapshot.
    let first = files(&hive, "jsonl").remove(0);
    fs::write(&first, "damaged").unwrap();
    verify(&hive).exits(1);
    hive.pool_start(["-n", "1"]).exits(0);
    assert_eq!(Value::from(hive.tasks()), tasks);
    hive.run(["pool", "stop"]).exits(0);
    let said = hive.run(["events", "repair"]).exits(0).out();
    assert!(said.contains("lost as history only: a snapshot holds what came of it"), "{said}");
    verify(&hive).exits(0).says("");
}

#[test]
fn a_damaged_snapshot_is_passed_over_and_said() {
    let hive = stopped_after(2);
    split(&hive, 5);
    hive.pool_start(["-n", "1"]).exits(0);
    wait_until("a snapshot is there", || !files(&hive, "snapshot").is_empty());
    hive.run(["pool", "stop"]).exits(0);
    fs::write(&files(&hive, "snapshot")[0], "damaged").unwrap();
    verify(&hive).exits(0).mentions("is not used: it is damaged");
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["result", "2"]).prints("2\n").exits(0);
    let said = fs::read_to_string(hive.kept().join("supervisor.log")).unwrap();
    assert!(said.contains("is not used: it is damaged"), "{said}");
}

#[test]
fn the_oldest_records_go_beyond_the_bound_and_that_is_said() {
    let hive = stopped_after(4);
    split(&hive, 5);
    for round in 1..=2 {
        hive.pool_start(["-n", "1", "--keep-log", "1K"]).exits(0);
        wait_until("a snapshot is there", || files(&hive, "snapshot").len() == round);
        if round == 1 {
            // As much news as the snapshot is large.
            hive.submit_times(20, "echo between");
            hive.run(["wait", "--all"]).exits(0);
            assert_eq!(hive.events()[0]["seq"], 1, "nothing goes before two snapshots hold it");
            hive.run(["pool", "stop"]).exits(0);
            split(&hive, 5);
        }
    }
    wait_until("old segments are gone", || hive.events()[0]["seq"].as_u64() > Some(1));
    hive.run(["result", "1"]).prints("1\n").exits(0);
    let (first, last) = (hive.events()[0]["seq"].clone(), hive.events().len());
    hive.run(["pool", "stop"]).exits(0);
    let told = hive.json(["events", "verify"]);
    assert_eq!((&told["ok"], &told["first"]), (&true.into(), &first));
    assert!(told["records"].as_u64().unwrap() >= last as u64);
    for verb in ["result", "task", "logs"] {
        hive.run([verb, "1"]).exits(4).mentions("no longer kept");
    }
    hive.run(["result", "99"]).exits(3);
    hive.run(["events", "replay", "--at", "1"]).exits(4).mentions("record 1 is no longer kept");
    assert!(!hive.kept().join("logs/1.log").exists(), "its log went with it");
    hive.pool_start(["-n", "1"]).exits(0);
    assert_eq!(hive.submit("echo on"), 25);
    hive.run(["wait", "25"]).exits(0);
}

#[test]
fn the_next_leader_keeps_as_much_as_the_one_before() {
    let hive = Hive::start(["-n", "1", "--keep-log", "20G"]);
    hive.run(["pool", "takeover"]).exits(0);
    let leader: Value = serde_json::from_str(&fs::read_to_string(hive.live().join("leader")).unwrap()).unwrap();
    assert_eq!((&leader["keep_log"], &leader["term"]), (&(20_u64 << 30).into(), &2.into()));
}

#[test]
fn a_bound_that_is_none_is_wrong_use() {
    let hive = Hive::new();
    for bad in ["much", "-1", "1X", ""] {
        hive.pool_start(["-n", "1", &format!("--keep-log={bad}")]).exits(2).mentions("it must be a number of bytes");
    }
}
