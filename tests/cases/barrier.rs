//! Barriers: every agent saves what it does at one point of the log, and nothing that works is disturbed by it.

use serde_json::{Value, json};

use super::takeover::kill_supervisor;
use crate::harness::{Hive, kill, wait_until};

/// Answers barriers, and tasks with their text; a text that begins with `gate` first waits at the gate.
fn saver(gate: &str) -> String {
    format!(
        "echo READY checkpoint; while read -r v id t; do case $v in
            CHECKPOINT) echo CHECKPOINTED $id at-$HIVE_AGENT ;;
            TASK) [[ $t = gate* ]] && {{ {gate}; }}; echo \"DONE $id $t\" ;; esac; done"
    )
}

fn lines(hive: &Hive, n: &str, script: &str) {
    hive.pool_start(["-n", n, "--kind", "lines", "--", "bash", "-c", script]).exits(0);
}

fn kinds(hive: &Hive, prefix: &str) -> Vec<Value> {
    hive.events().into_iter().filter(|e| e["kind"].as_str().unwrap().starts_with(prefix)).collect()
}

#[test]
fn a_hundred_agents_checkpoint_at_one_record() {
    let hive = Hive::new();
    lines(&hive, "100", &saver("true"));
    let end = hive.json(["checkpoint"]);
    assert_eq!((&end["state"], &end["barrier"], &end["stragglers"]), (&json!("complete"), &json!(1), &json!([])));
    let agents = end["agents"].as_array().unwrap();
    assert_eq!(agents.len(), 100);
    assert!(agents.iter().all(|a| a["text"] == format!("at-{}", a["id"])), "{agents:?}");
    let complete = kinds(&hive, "barrier-complete");
    assert_eq!((complete.len(), &complete[0]["seq"]), (1, &end["seq"]));
    let said = kinds(&hive, "checkpointed");
    assert_eq!(said.len(), 100);
    assert!(said.iter().all(|e| e["seq"].as_u64() < end["seq"].as_u64()), "all stand before the record that says so");
    // Nobody is held up afterwards.
    hive.run(["run", "x"]).prints("x\n").exits(0);
}

#[test]
fn one_that_stands_still_is_named_at_the_deadline() {
    let hive = Hive::new();
    lines(&hive, "3", &saver("true"));
    let still = hive.workload(2);
    kill(still, "STOP");
    let ran = hive.run(["checkpoint", "--timeout", "0.3"]).exits(5);
    ran.prints("").mentions("no checkpoint from agent 2: it has not answered").mentions("barrier 1 failed");
    let end = hive.cmd(["--json", "checkpoint", "--timeout", "0.3", "--partial"]).run().exits(0).json();
    assert_eq!((&end["state"], &end["agents"][1]["id"]), (&json!("partial"), &json!(3)));
    assert_eq!(end["stragglers"][0]["id"], 2);
    // Without it there is nothing to wait for; with it again neither, late answers to old barriers notwithstanding.
    assert_eq!(hive.json(["checkpoint", "1", "3"])["state"], "complete");
    kill(still, "CONT");
    assert_eq!(hive.json(["checkpoint", "--all"])["state"], "complete");
    assert_eq!(hive.status()["malformed"], 0);
}

#[test]
fn hosts_answer_for_the_tasks_they_run_and_nothing_is_disturbed() {
    for kind in ["shell", "oneshot"] {
        let hive = Hive::new();
        // Whatever is sent to the group would end this: nothing here handles a signal.
        let work = "sleep 1; echo slept";
        let command: &[&str] =
            if kind == "shell" { &[] } else { &["--", "sh", "-c", "cat >/dev/null; sleep 1; echo slept"] };
        hive.cmd(["pool", "start", "-n", "3", "--kind", kind]).args(command).run().exits(0);
        let run = hive.spawn(["run", work]);
        wait_until("it sleeps", || !hive.running("sleep").is_empty());
        let end = hive.json(["checkpoint"]);
        assert_eq!(end["state"], "complete", "{end}");
        let rows = end["agents"].as_array().unwrap();
        let busy = rows.iter().find(|row| row["task"] == 1).unwrap();
        assert!(busy["note"].as_str().unwrap().contains("works"), "{end}");
        assert_eq!(rows.iter().filter(|row| row["note"] == "idle").count(), 2, "{end}");
        run.ends().prints("slept\n").exits(0);
        assert!(hive.status()["agents"].as_array().unwrap().iter().all(|a| a["restarts"] == 0));
        // All take tasks again.
        for agent in ["1", "2", "3"] {
            hive.run(["run", "--agent", agent, "echo on"]).exits(0);
        }
    }
}

#[test]
fn a_host_that_stands_still_is_named() {
    let hive = Hive::start(["-n", "2"]);
    let host = hive.host(2);
    kill(host, "STOP");
    hive.run(["checkpoint", "--timeout", "0.3"]).exits(5).mentions("agent 2");
    kill(host, "CONT");
    assert_eq!(hive.json(["checkpoint"])["state"], "complete");
    hive.run(["run", "--agent", "2", "echo on"]).prints("on\n").exits(0);
}

#[test]
fn a_tool_of_an_agent_without_support_survives_and_its_progress_is_the_answer() {
    let hive = Hive::new();
    let agent = "echo READY; while read -r v id t; do [ $v = TASK ] || continue
        echo PROGRESS $id 41; sleep 1; echo \"DONE $id $?\"; done";
    lines(&hive, "1", agent);
    let run = hive.spawn(["run", "x"]);
    wait_until("it is at 41 %", || !kinds(&hive, "progress").is_empty());
    let end = hive.json(["checkpoint"]);
    assert_eq!(end["agents"], json!([{"id": 1, "task": 1, "percent": 41}]));
    run.ends().prints("0\n").exits(0);
}

#[test]
fn a_workload_that_asked_for_it_is_rung_by_its_host() {
    let hive = Hive::new();
    // It cannot read while its tool runs; its trap tells it to look.
    let agent = "trap 'rung=1' USR1; rung=; echo READY usr1 checkpoint
        look() { local v b; while read -r -t 0.01 v b; do [ $v = CHECKPOINT ] && echo CHECKPOINTED $b rung$rung; done; }
        while read -r v id t; do case $v in
            CHECKPOINT) echo CHECKPOINTED $id idle ;;
            TASK) sleep 1000 & echo PROGRESS $id 1; wait $!; look; kill $!; wait $!; echo \"DONE $id $?\" ;; esac; done";
    lines(&hive, "2", agent);
    let run = hive.spawn(["run", "--agent", "1", "x"]);
    wait_until("it works", || !kinds(&hive, "progress").is_empty());
    let end = hive.json(["checkpoint"]);
    assert_eq!((&end["agents"][0]["text"], &end["agents"][1]["text"]), (&json!("rung1"), &json!("idle")));
    run.ends().prints("143\n").exits(0);
}

#[test]
fn no_task_is_given_to_those_in_a_barrier() {
    let hive = Hive::new();
    lines(&hive, "2", &saver("true"));
    let still = hive.workload(1);
    kill(still, "STOP");
    let barrier = hive.spawn(["checkpoint", "1", "--timeout", "30"]);
    wait_until("it is open", || hive.agent(1)["state"] == "checkpointing");
    hive.run(["checkpoint"]).exits(6).mentions("barrier 1 is open still");
    let waits = hive.submit_with(&["--agent", "1"], "later");
    hive.run(["run", "elsewhere"]).prints("elsewhere\n").exits(0);
    assert_eq!(hive.task(waits)["state"], "queued");
    kill(still, "CONT");
    barrier.ends().exits(0);
    hive.run(["wait", &waits.to_string()]).exits(0);
}

#[test]
fn one_that_dies_meanwhile_is_named_at_once() {
    let hive = Hive::new();
    lines(&hive, "2", &saver("true"));
    kill(hive.workload(1), "STOP");
    let barrier = hive.spawn(["checkpoint", "--timeout", "50"]);
    wait_until("it is open", || hive.agent(1)["state"] == "checkpointing");
    kill(hive.workload(1), "KILL");
    barrier.ends().exits(5).mentions("no checkpoint from agent 1: it was killed by SIGKILL");
    wait_until("it is back", || hive.agent(1)["state"] == "idle");
    assert_eq!(hive.json(["checkpoint"])["state"], "complete");
}

#[test]
fn a_barrier_outlives_its_supervisor() {
    for shell in [true, false] {
        let hive = Hive::new();
        match shell {
            true => drop(hive.pool_start(["-n", "3"]).exits(0)),
            false => lines(&hive, "3", &saver("true")),
        }
        let still = if shell { hive.host(1) } else { hive.workload(1) };
        kill(still, "STOP");
        let barrier = hive.spawn(["--json", "checkpoint", "--timeout", "50"]);
        wait_until("it is open", || hive.agent(1)["state"] == "checkpointing");
        kill_supervisor(&hive);
        let start = hive.cmd(["pool", "start", "-n", "3"]);
        match shell {
            true => start.run().exits(0),
            false => start.args(["--kind", "lines", "--", "bash", "-c", &saver("true")]).run().exits(0),
        };
        kill(still, "CONT");
        let end = barrier.ends().exits(0).json();
        assert_eq!((&end["state"], end["agents"].as_array().unwrap().len()), (&json!("complete"), 3), "{end}");
        assert_eq!(hive.json(["checkpoint"])["barrier"], 2);
        assert_eq!(hive.status()["supervisor"]["term"], 2);
    }
}

#[test]
fn hosts_that_were_not_released_are_by_the_next_leader() {
    let hive = Hive::start(["-n", "2"]);
    let barrier = hive.spawn(["checkpoint", "--timeout", "50"]);
    barrier.ends().exits(0);
    // They are held when the supervisor dies after the record and before the release.
    let host = hive.host(1);
    kill(host, "STOP");
    hive.run(["checkpoint", "--timeout", "0.1"]).exits(5);
    kill_supervisor(&hive);
    kill(host, "CONT");
    hive.pool_start(["-n", "2"]).exits(0);
    for agent in ["1", "2"] {
        hive.run(["run", "--agent", agent, "echo on"]).prints("on\n").exits(0);
    }
}

#[test]
fn a_stop_ends_a_barrier() {
    let hive = Hive::new();
    lines(&hive, "2", &saver("true"));
    kill(hive.workload(1), "STOP");
    let barrier = hive.spawn(["checkpoint", "--timeout", "50"]);
    wait_until("it is open", || hive.agent(1)["state"] == "checkpointing");
    hive.run(["pool", "stop", "--now"]).exits(0);
    barrier.ends().exits(5).mentions("no checkpoint from agent 1: the hive is being stopped");
}

#[test]
fn a_task_that_is_put_back_goes_on_from_its_last_checkpoint() {
    let hive = Hive::new();
    let agent = "echo READY checkpoint restore; from=nothing; while read -r v id t; do case $v in
        RESTORE) from=\"$id${t:+ $t}\" ;;
        TASK) if [ \"$from\" = nothing ]; then echo CHECKPOINTED 0 step one; echo CHECKPOINTED 0 step two; kill -9 $$; fi
            echo \"DONE $id $from\"; from=nothing ;; esac; done";
    lines(&hive, "2", agent);
    hive.run(["run", "x"]).prints("step two\n").exits(0);
    assert_eq!(hive.task(1)["attempt"], 2);
    // It is the task's, and ends with it.
    let again = hive.spawn(["run", "y"]);
    again.ends().prints("step two\n").exits(0);
    let said = kinds(&hive, "checkpointed");
    assert_eq!(said.iter().map(|e| &e["text"]).collect::<Vec<_>>(), ["step one", "step two", "step one", "step two"]);
}

#[test]
fn agents_that_cannot_be_restored_are_not_told() {
    let hive = Hive::new();
    let heard = hive.file("heard");
    let agent = format!(
        "echo READY; while read -r v id t; do echo $v >>{heard}; [ $v = TASK ] || continue
         [ -e {heard}.again ] || {{ touch {heard}.again; echo CHECKPOINTED 0 x; kill -9 $$; }}; echo DONE $id; done"
    );
    lines(&hive, "1", &agent);
    hive.run(["run", "x"]).exits(0);
    assert_eq!(hive.read("heard"), "TASK\nTASK\n");
}

#[test]
fn nobody_else_can_answer_and_garbage_counts_as_malformed() {
    let hive = Hive::new();
    let agent = "echo READY checkpoint; while read -r v id t; do case $v in
        CHECKPOINT) echo CHECKPOINTED 99 other; echo CHECKPOINTED x; echo CHECKPOINTED $id ;; esac; done";
    lines(&hive, "1", agent);
    let end = hive.json(["checkpoint"]);
    assert_eq!(end["agents"], json!([{"id": 1}]));
    assert_eq!(hive.status()["malformed"], 1);
}

#[test]
fn wrong_questions_are_refused() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["checkpoint", "7"]).exits(4).mentions("no agent 7");
    hive.run(["checkpoint", "--timeout", "0"]).exits(2);
    hive.run(["checkpoint", "1", "--all"]).exits(2);
    let mut raw = hive.raw("me");
    raw.write(b"checkpoint\n");
    wait_until("the short form begins one", || kinds(&hive, "barrier-complete").len() == 1);
    let answer = raw.ask(r#""op":"checkpoint","agents":["1"],"tag":1"#);
    assert_eq!((&answer["ok"], &answer["state"]), (&json!(true), &json!("complete")));
}
