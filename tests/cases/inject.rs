//! Instructions to those that work, and pauses at a checkpoint.

use serde_json::json;

use super::takeover::kill_supervisor;
use crate::harness::{Hive, wait_until};

/// Collects what it is told at a task until a word ends it; pauses when it is asked to.
const HEARS: &str = "echo READY inject pause; told=; while read -r v id t; do case $v in
    TASK) now=$id; [ \"$t\" = short ] && { echo \"DONE $id $told\"; told=; } ;;
    INJECT) told=\"$told[$t]\"; [ \"$t\" = end ] && { echo \"DONE $id $told\"; told=; } ;;
    PAUSE) echo \"PAUSED $id at $told\" ;;
    RESUME) told=\"$told<$t>\"; [ \"$t\" = end ] && { echo \"DONE $id $told\"; told=; } ;; esac; done";

fn hive() -> Hive {
    Hive::one_line_agent(HEARS)
}

fn begun(hive: &Hive, task: u64) {
    wait_until("it runs", || hive.task(task)["state"] == "running");
}

#[test]
fn a_running_task_that_declared_it_is_told_at_once() {
    let hive = hive();
    let run = hive.spawn(["run", "long"]);
    wait_until("it runs", || !hive.tasks().is_empty() && hive.task(1)["state"] == "running");
    hive.run(["inject", "1", "use", "tabs", "--now"]).prints("task 1 is told, at agent 1\n").exits(0);
    hive.run(["inject", "task:1", "end"]).exits(0);
    run.ends().prints("[use tabs][end]\n").exits(0);
    hive.run(["inject", "task:1", "late"]).exits(1).mentions("task 1 has ended already");
}

#[test]
fn an_idle_agent_is_told_with_its_next_task() {
    let hive = hive();
    hive.run(["inject", "1", "--now", "x"]).exits(6).mentions("takes no instruction now");
    let said = hive.json(["inject", "1", "be brief"]);
    assert_eq!((&said["when"], &said["agent"]), (&json!("next-task"), &json!(1)));
    hive.run(["run", "short"]).prints("[be brief]\n").exits(0);
    hive.run(["run", "short"]).prints("").exits(0);
}

#[test]
fn the_short_form_is_heard_too() {
    let hive = hive();
    let mut raw = hive.raw("me");
    raw.write(b"inject 1 use tabs\n");
    wait_until("it was taken", || hive.events().iter().any(|e| e["kind"] == "injected"));
    hive.run(["run", "short"]).prints("[use tabs]\n").exits(0);
}

#[test]
fn a_long_instruction_goes_by_reference() {
    let hive = hive();
    hive.cmd(["inject", "1", "-"]).stdin("two\nlines").run().exits(0);
    let told = hive.run(["run", "short"]).exits(0).out();
    assert!(told.starts_with("[REF:"), "{told}");
}

#[test]
fn an_instruction_stays_with_its_task_when_the_agent_dies() {
    let hive = Hive::new();
    let again = hive.file("again");
    let agent = format!(
        "echo READY inject; told=; while read -r v id t; do case $v in
         INJECT) told=\"$told[$t]\"; [ -e {again} ] || {{ touch {again}; kill -9 $$; }} ;;
         TASK) [ -e {again} ] && echo \"DONE $id $told\" ;; esac; done"
    );
    hive.pool_start(["-n", "1", "--kind", "lines", "--", "bash", "-c", &agent]).exits(0);
    let run = hive.spawn(["run", "x"]);
    wait_until("it runs", || !hive.tasks().is_empty() && hive.task(1)["state"] == "running");
    hive.run(["inject", "1", "first"]).exits(0);
    run.ends().prints("[first]\n").exits(0);
}

#[test]
fn who_has_no_channel_refuses() {
    for args in [&["-n", "1"][..], &["-n", "1", "--kind", "oneshot", "--", "cat"]] {
        let hive = Hive::start(args);
        hive.run(["inject", "1", "x"]).exits(6).mentions("only agents of kind lines hear instructions");
        hive.run(["inject", "1", "x", "--now"]).exits(6);
        hive.run(["inject", "task:5", "x"]).exits(4);
        hive.run(["inject", "9", "x"]).exits(4);
        hive.run(["pause", "1"]).exits(2);
    }
}

#[test]
fn an_agent_pauses_at_its_checkpoint_and_goes_on_with_new_words() {
    let hive = hive();
    let task = hive.submit_with(&["--timeout", "2"], "long");
    begun(&hive, task);
    hive.run(["inject", "1", "a"]).exits(0);
    let ran = hive.run(["pause", "1", "--at-checkpoint"]).exits(0);
    ran.prints("agent 1 is paused at task 1, checkpoint at [a]\n");
    assert_eq!((&hive.agent(1)["state"], &hive.task(1)["state"]), (&json!("paused"), &json!("paused")));
    // Twice is once.
    hive.run(["pause", "1", "--at-checkpoint"]).exits(0);
    // It takes nothing meanwhile, and its time stands still.
    let other = hive.submit("short");
    std::thread::sleep(std::time::Duration::from_millis(2200));
    assert_eq!((&hive.task(1)["state"], &hive.task(other)["state"]), (&json!("paused"), &json!("queued")));
    hive.run(["resume", "1", "--inject", "end"]).exits(0);
    hive.run(["wait", "1", "2"]).exits(0);
    hive.run(["result", "1"]).prints("[a]<end>\n").exits(0);
    hive.run(["resume", "1"]).exits(6).mentions("agent 1 is not paused");
}

#[test]
fn an_idle_agent_pauses_at_once_and_takes_no_task() {
    let hive = hive();
    hive.run(["pause", "1", "--at-checkpoint"]).prints("agent 1 is paused\n").exits(0);
    let task = hive.submit("short");
    assert_eq!(hive.agent(1)["state"], "paused");
    assert_eq!(hive.task(task)["state"], "queued");
    hive.run(["resume", "1", "--inject", "hello"]).exits(0);
    hive.run(["wait", "1"]).exits(0);
    hive.run(["result", "1"]).prints("[hello]\n").exits(0);
}

#[test]
fn who_does_not_pause_in_time_is_said_to_and_works_on() {
    let hive = Hive::new();
    let go = hive.gate();
    // It is deaf while it works, and obeys late: then it is told to go on at once.
    let agent = format!(
        "echo READY pause; while read -r v id t; do case $v in
         TASK) now=$id; {} ;; PAUSE) echo PAUSED $id late; read -r v id t; read -r v2 id t; echo \"DONE $now $v $v2\" ;; esac; done",
        go.wait()
    );
    hive.pool_start(["-n", "1", "--kind", "lines", "--", "bash", "-c", &agent]).exits(0);
    let run = hive.spawn(["run", "x"]);
    go.wait_for(1);
    hive.run(["pause", "1", "--at-checkpoint", "--timeout", "0.2"]).exits(5).mentions("agent 1 has not paused");
    assert_eq!(hive.agent(1)["state"], "busy");
    go.open(1);
    // The first RESUME takes the question back, the second answers what came late.
    run.ends().prints("RESUME RESUME\n").exits(0);
}

#[test]
fn who_cannot_pause_refuses() {
    let hive = Hive::new();
    let gate = hive.gate();
    let agent = format!("echo READY; while read -r v id t; do {}; echo DONE $id; done", gate.wait());
    hive.pool_start(["-n", "1", "--kind", "lines", "--", "bash", "-c", &agent]).exits(0);
    hive.submit("x");
    gate.wait_for(1);
    hive.run(["pause", "1", "--at-checkpoint"]).exits(6).mentions("did not declare `pause`");
    hive.run(["pause", "3", "--at-checkpoint"]).exits(4);
    gate.open(1);
    hive.run(["wait", "--all"]).exits(0);
}

#[test]
fn a_paused_task_can_be_cancelled_and_its_agent_killed() {
    let hive = hive();
    let task = hive.submit("long");
    begun(&hive, task);
    hive.run(["pause", "1", "--at-checkpoint"]).exits(0);
    hive.run(["cancel", "1"]).exits(0);
    // It does not hear CANCEL: it is ended, and so is its pause.
    hive.run(["wait", "1"]).exits(1);
    wait_until("it is back", || hive.agent(1)["state"] == "idle");
    hive.run(["run", "short"]).exits(0);
}

#[test]
fn a_pause_outlives_its_supervisor() {
    let hive = hive();
    let task = hive.submit("long");
    begun(&hive, task);
    hive.run(["pause", "1", "--at-checkpoint"]).exits(0);
    kill_supervisor(&hive);
    hive.pool_start(["-n", "1", "--kind", "lines", "--", "bash", "-c", HEARS]).exits(0);
    assert_eq!(hive.agent(1)["state"], "paused");
    hive.run(["resume", "1", "--inject", "end"]).exits(0);
    hive.run(["wait", "1"]).exits(0);
    hive.run(["result", "1"]).prints("<end>\n").exits(0);
}

#[test]
fn a_paused_hive_can_be_stopped() {
    let hive = hive();
    let task = hive.submit("long");
    begun(&hive, task);
    hive.run(["pause", "1", "--at-checkpoint"]).exits(0);
    hive.run(["pool", "stop"]).exits(0);
    hive.pool_start(["-n", "1", "--kind", "lines", "--", "bash", "-c", HEARS]).exits(0);
    begun(&hive, task);
    hive.run(["inject", "1", "end"]).exits(0);
    hive.run(["wait", "1"]).exits(0);
}
