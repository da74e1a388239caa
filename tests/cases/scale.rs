//! A pool that grows, shrinks and starts anew while it works.

use crate::harness::{Hive, is_alive, wait_until};

#[test]
fn a_pool_grows() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["pool", "scale", "3"]).prints("hive default: 3 agents are ready\n").says("").exits(0);
    hive.run(["run", "--agent", "3", "echo $HIVE_AGENT"]).prints("3\n").exits(0);
}

#[test]
fn a_pool_that_grows_takes_up_what_is_queued() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit_times(3, &gate.wait());
    gate.wait_for(1);
    hive.run(["pool", "scale", "3"]).exits(0);
    gate.wait_for(3);
    gate.open(3);
    hive.run(["wait", "--all"]).exits(0);
}

#[test]
fn an_agent_that_leaves_finishes_its_task_first() {
    let hive = Hive::start(["-n", "3"]);
    let gate = hive.gate();
    let task = hive.spawn(["run", "--agent", "3", &gate.then("echo finished")]);
    gate.wait_for(1);
    let scale = hive.spawn(["pool", "scale", "1"]);
    wait_until("agent 2 is gone", || hive.status()["agents"].as_array().unwrap().len() == 2);
    assert_eq!(hive.agent(3)["state"], "busy");
    hive.run(["run", "echo $HIVE_AGENT"]).prints("1\n").exits(0);
    gate.open(1);
    task.ends().prints("finished\n").exits(0);
    scale.ends().says("").exits(0);
    wait_until("agent 3 is gone", || hive.status()["agents"].as_array().unwrap().len() == 1);
}

#[test]
fn an_agent_that_was_to_leave_may_stay_after_all() {
    let hive = Hive::start(["-n", "2"]);
    let gate = hive.gate();
    let task = hive.spawn(["run", "--agent", "2", &gate.then("echo finished")]);
    gate.wait_for(1);
    let scale = hive.spawn(["pool", "scale", "1"]);
    wait_until("it is to leave", || hive.events().iter().any(|e| e["kind"] == "agent-retiring" && e["remove"] == true));
    let back = hive.spawn(["pool", "scale", "2"]);
    wait_until("it is to stay", || hive.events().iter().any(|e| e["kind"] == "agent-retiring" && e["remove"] == false));
    gate.open(1);
    task.ends().prints("finished\n").exits(0);
    scale.ends().exits(0);
    back.ends().exits(0);
    wait_until("two are ready", || {
        hive.status()["agents"].as_array().unwrap().iter().filter(|a| a["state"] == "idle").count() == 2
    });
    hive.run(["run", "--agent", "2", "echo here"]).prints("here\n").exits(0);
}

#[test]
fn a_restart_does_not_bring_back_an_agent_that_is_to_leave() {
    let hive = Hive::start(["-n", "2"]);
    let gate = hive.gate();
    let task = hive.spawn(["run", "--agent", "2", &gate.then("echo finished")]);
    gate.wait_for(1);
    let scale = hive.spawn(["pool", "scale", "1"]);
    wait_until("it is to leave", || hive.events().iter().any(|e| e["kind"] == "agent-retiring" && e["remove"] == true));
    let restart = hive.spawn(["pool", "restart"]);
    wait_until("agent 1 is new", || hive.agent(1)["restarts"] == 1);
    gate.open(1);
    task.ends().prints("finished\n").exits(0);
    scale.ends().exits(0);
    restart.ends().exits(0);
    wait_until("agent 2 is gone", || hive.status()["agents"].as_array().unwrap().len() == 1);
}

#[test]
fn a_task_bound_to_an_agent_that_leaves_is_not_forgotten() {
    let hive = Hive::start(["-n", "2"]);
    let gate = hive.gate();
    hive.submit_with(&["--agent", "2"], &gate.wait());
    gate.wait_for(1);
    let bound = hive.submit_with(&["--agent", "2"], "echo bound");
    let scale = hive.spawn(["pool", "scale", "1"]);
    gate.open(1);
    scale.ends().exits(0);
    // It waits for an agent of that number, and is seen to.
    wait_until("agent 2 is gone", || hive.status()["agents"].as_array().unwrap().len() == 1);
    let state = hive.task(bound)["state"].clone();
    if state == "queued" {
        hive.run(["pool", "scale", "2"]).exits(0);
        hive.run(["wait".to_owned(), bound.to_string()]).exits(0);
    }
    hive.run(["result".to_owned(), bound.to_string()]).prints("bound\n").exits(0);
}

#[test]
fn a_restart_gives_every_agent_a_new_process() {
    let hive = Hive::start(["-n", "2"]);
    let before = [hive.host(1), hive.host(2)];
    hive.run(["pool", "restart"]).prints("hive default: 2 agents are ready\n").exits(0);
    let after = [hive.host(1), hive.host(2)];
    assert!(before.iter().all(|old| !after.contains(old) && !is_alive(*old)));
    assert_eq!(hive.agent(1)["restarts"], 1);
    hive.run(["run", "echo hi"]).prints("hi\n").exits(0);
}

#[test]
fn a_restart_of_one_agent_leaves_the_others() {
    let hive = Hive::start(["-n", "2", "--name", "w"]);
    let before = [hive.host(1), hive.host(2)];
    hive.run(["pool", "restart", "w-2"]).exits(0);
    assert_eq!(hive.host(1), before[0]);
    assert_ne!(hive.host(2), before[1]);
    hive.run(["pool", "restart", "9"]).exits(4).mentions("no agent 9: this pool has agents 1 to 2");
}

#[test]
fn a_restart_waits_for_a_busy_agent() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    let task = hive.spawn(["run", &gate.then("echo finished")]);
    gate.wait_for(1);
    let before = hive.host(1);
    let restart = hive.spawn(["pool", "restart"]);
    wait_until("it is to restart", || hive.events().iter().any(|e| e["kind"] == "agent-retiring"));
    assert_eq!(hive.agent(1)["state"], "busy");
    gate.open(1);
    task.ends().prints("finished\n").exits(0);
    restart.ends().exits(0);
    wait_until("it is another process", || hive.agent(1)["pid"].as_i64().is_some_and(|pid| pid as i32 != before));
}

#[test]
fn a_rolling_restart_takes_one_agent_at_a_time() {
    let hive = Hive::start(["-n", "3"]);
    let before = [hive.host(1), hive.host(2), hive.host(3)];
    hive.run(["pool", "restart", "--rolling"]).exits(0);
    wait_until("all are new", || {
        hive.status()["agents"].as_array().unwrap().iter().all(|a| a["restarts"] == 1 && a["state"] == "idle")
    });
    assert!(before.iter().all(|old| !is_alive(*old)));
    let mut down = 0;
    for event in hive.events() {
        match event["kind"].as_str().unwrap() {
            "agent-leaving" => {
                down += 1;
                assert_eq!(down, 1, "a second one left before the first was back: {event}");
            }
            "agent-ready" if down > 0 => down -= 1,
            _ => {}
        }
    }
}

#[test]
fn restart_says_so_when_all_are_back() {
    let hive = Hive::start(["-n", "2"]);
    for how in [&["pool", "restart"][..], &["pool", "restart", "--rolling"]] {
        let before = [hive.host(1), hive.host(2)];
        hive.run(how).prints("hive default: 2 agents are ready\n").exits(0);
        let now = [hive.agent(1), hive.agent(2)];
        for (agent, old) in now.iter().zip(before) {
            assert!(agent["pid"].as_i64().unwrap() as i32 != old && agent["state"] == "idle", "{how:?}: {agent}");
        }
    }
}

#[test]
fn a_pool_that_shrinks_is_said_to_be_ready() {
    let hive = Hive::start(["-n", "3"]);
    hive.run(["pool", "scale", "1"]).prints("hive default: 1 agent is ready\n").says("").exits(0);
    wait_until("two are gone", || hive.status()["agents"].as_array().unwrap().len() == 1);
}

#[test]
fn work_goes_on_through_scaling_and_restarts() {
    let hive = Hive::start(["-n", "2"]);
    let batch = hive.cmd(["submit", "--stdin"]).stdin("echo $HIVE_TASK\n".repeat(150)).spawn();
    for args in [&["scale", "4"][..], &["restart"], &["scale", "1"], &["restart", "--rolling"], &["scale", "3"]] {
        hive.cmd(["pool"]).args(args).run().exits(0);
    }
    batch.ends().exits(0);
    hive.run(["wait", "--all"]).exits(0);
    for task in hive.tasks() {
        assert_eq!((&task["result"], &task["attempt"]), (&task["id"].to_string().into(), &1.into()), "{task}");
    }
}
