//! Cancelling: in the queue, on the way, and while it runs, for each kind of agent; and Ctrl-C.

use crate::harness::{Hive, wait_until};

#[test]
fn a_queued_task_that_is_cancelled_never_runs() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&gate.wait());
    gate.wait_for(1);
    let task = hive.spawn(["run", &format!("echo ran >{}", hive.file("ran"))]);
    wait_until("it is queued", || hive.status()["tasks"]["queued"] == 1);
    hive.run(["cancel", "2"]).prints("").says("").exits(0);
    task.ends().prints("").says("hivectl: task 2: it was cancelled before it began\n").exits(1);
    gate.open(1);
    hive.run(["wait", "1"]).exits(0);
    assert!(!hive.path("ran").exists());
    assert_eq!(hive.task(2)["attempt"], 0);
}

#[test]
fn a_cancelled_shell_task_leaves_no_process() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    let task = hive.spawn(["run", &format!("echo begun; sleep 1000 & {}", gate.wait())]);
    gate.wait_for(1);
    hive.run(["cancel", "1"]).exits(0);
    task.ends().prints("begun\n").says("hivectl: task 1: it was cancelled while it ran\n").exits(1);
    assert_eq!(hive.running("sleep"), [0; 0]);
    assert_eq!(hive.agent(1)["restarts"], 0);
    hive.run(["run", "echo next"]).prints("next\n").exits(0);
}

#[test]
fn a_task_that_ends_well_when_it_is_asked_to_is_cancelled_all_the_same() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&format!("trap 'exit 0' TERM; {}", gate.wait()));
    gate.wait_for(1);
    hive.run(["cancel", "1"]).exits(0);
    hive.run(["wait", "1"]).prints("1 cancelled\n").exits(1);
}

#[test]
fn a_cancelled_oneshot_leaves_no_process_and_the_next_is_warm() {
    let hive = Hive::new();
    let gate = hive.gate();
    let program = format!("read -r t; [ $t = go ] && exit; sleep 1000 & {}", gate.wait());
    hive.pool_start(["-n", "1", "--kind", "oneshot", "--", "sh", "-c", &program]).exits(0);
    hive.submit("x");
    gate.wait_for(1);
    hive.run(["cancel", "1"]).exits(0);
    hive.run(["wait", "1"]).prints("1 cancelled\n").exits(1);
    assert_eq!(hive.running("sleep"), [0; 0]);
    hive.run(["run", "go"]).exits(0);
}

#[test]
fn a_lines_agent_that_heeds_cancel_stays() {
    let agent = "echo READY; while read -r v id t; do
        [ $v = TASK ] && [ $t = go ] && echo DONE $id went
        [ $v = CANCEL ] && echo FAIL $id as you wish; done";
    let hive = Hive::one_line_agent(agent);
    let workload = hive.workload(1);
    hive.submit("wait");
    hive.wait_for_state(1, "running");
    hive.run(["cancel", "1"]).exits(0);
    hive.run(["wait", "1"]).prints("1 cancelled\n").exits(1);
    assert_eq!(hive.task(1)["reason"], "as you wish");
    assert_eq!(hive.workload(1), workload);
    hive.run(["run", "go"]).prints("went\n").exits(0);
}

#[test]
fn a_lines_agent_that_does_not_heed_cancel_is_started_anew() {
    let agent =
        "echo READY; while read -r v id t; do [ $t = go ] || { setsid sleep 1000 & sleep 1000; }; echo DONE $id; done";
    let hive = Hive::one_line_agent(agent);
    let workload = hive.workload(1);
    hive.submit("hang");
    wait_until("it hangs", || hive.running("sleep").len() == 2);
    hive.run(["cancel", "1"]).exits(0);
    hive.run(["wait", "1"]).prints("1 cancelled\n").exits(1);
    wait_until("no sleep is left", || hive.running("sleep").is_empty());
    hive.run(["run", "go"]).exits(0);
    assert_ne!(hive.workload(1), workload);
}

#[test]
fn a_task_that_an_agent_holds_ahead_can_be_cancelled() {
    let hive = Hive::new();
    let gate = hive.gate();
    let agent = format!(
        "echo READY; while read -r v id t; do [ $v = TASK ] || continue; [ $t = gate ] && {{ {}; }}; echo DONE $id $t; done",
        gate.wait()
    );
    hive.pool_start(["-n", "1", "--kind", "lines", "--prefetch", "4", "--", "bash", "-c", &agent]).exits(0);
    for text in ["gate", "two", "three"] {
        hive.submit(text);
    }
    gate.wait_for(1);
    wait_until("all are held", || hive.agent(1)["held"] == 3);
    hive.run(["cancel", "2"]).exits(0);
    gate.open(1);
    let waited = hive.run(["wait", "1", "2", "3"]);
    assert!(waited.out().starts_with("1 done\n2 "), "{waited}");
    // It lay in the agent's own pipe, so it may have been too late; what counts is that it ended.
    assert!(["cancelled", "done"].iter().any(|state| hive.task(2)["state"] == *state));
    assert_eq!(hive.task(3)["result"], "three");
}

#[test]
fn what_has_ended_stays_as_it_ended() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo hi"]).exits(0);
    hive.run(["cancel", "1"]).says("hivectl: task 1 has ended already: it is done\n").exits(1);
    hive.run(["result", "1"]).prints("hi\n").exits(0);
    hive.run(["cancel", "99"]).exits(4).mentions("no task 99: the last one is 1");
}

#[test]
fn cancelling_twice_is_cancelling_once() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&gate.wait());
    gate.wait_for(1);
    hive.run(["cancel", "1"]).exits(0);
    // By now it is still ending or has ended; neither is changed by asking again.
    assert!([0, 1].contains(&hive.run(["cancel", "1"]).code));
    hive.run(["wait", "1"]).prints("1 cancelled\n").exits(1);
    assert_eq!(hive.events().iter().filter(|e| e["kind"] == "cancelled").count(), 1);
    assert_eq!(hive.status()["tasks"]["cancelled"], 1);
}

#[test]
fn ctrl_c_cancels_the_task() {
    for signal in ["INT", "TERM"] {
        let hive = Hive::start(["-n", "1"]);
        let gate = hive.gate();
        let run = hive.spawn(["run", &format!("sleep 1000 & {}", gate.wait())]);
        gate.wait_for(1);
        run.signal(signal);
        run.ends().mentions("task 1: it was cancelled").exits(130);
        assert_eq!(hive.task(1)["state"], "cancelled");
        assert_eq!(hive.running("sleep"), [0; 0]);
    }
}

#[test]
fn ctrl_c_cancels_a_task_that_is_still_queued() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&gate.wait());
    gate.wait_for(1);
    let run = hive.spawn(["run", "echo never"]);
    wait_until("it is queued", || hive.status()["tasks"]["queued"] == 1);
    run.signal("INT");
    run.ends().prints("").exits(130);
    assert_eq!(hive.task(2)["state"], "cancelled");
    gate.open(1);
    hive.run(["wait", "1"]).exits(0);
}

#[test]
fn a_second_ctrl_c_leaves_a_task_that_does_not_end() {
    let hive = Hive::start(["-n", "1", "--stop-grace", "1000"]);
    let gate = hive.gate();
    let run = hive.spawn(["run", &format!("trap '' TERM; {}", gate.then("echo late"))]);
    gate.wait_for(1);
    run.signal("INT");
    wait_until("it is asked to end", || hive.events().iter().any(|e| e["kind"] == "ending"));
    run.signal("INT");
    run.ends().prints("").mentions("left the task to itself").exits(130);
    gate.open(1);
    hive.run(["wait", "1"]).exits(1);
}

#[test]
fn a_client_that_is_killed_leaves_its_task_running() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    let run = hive.spawn(["run", &gate.then("echo done anyway")]);
    gate.wait_for(1);
    run.signal("KILL");
    run.ends().exits(137);
    gate.open(1);
    hive.run(["wait", "1"]).prints("1 done\n").exits(0);
    hive.run(["result", "1"]).prints("done anyway\n").exits(0);
    let left = std::fs::read_dir(hive.live().join("replies")).unwrap().count();
    assert_eq!(left, 0, "the reply FIFO of the dead client goes too");
}
