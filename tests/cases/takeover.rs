//! A change of leaders under a hive that lives: agents go on, nothing is lost, nothing is done twice.

use std::collections::BTreeMap;
use std::fs;

use crate::harness::{Hive, is_alive, kill, python, wait_until};

/// Kills the supervisor, and sees it dead.
pub fn kill_supervisor(hive: &Hive) -> i32 {
    let supervisor = hive.supervisor();
    kill(supervisor, "KILL");
    wait_until("the supervisor is dead", || !is_alive(supervisor));
    supervisor
}

pub fn leader(hive: &Hive) -> Option<i32> {
    let text = fs::read_to_string(hive.live().join("leader")).ok()?;
    serde_json::from_str::<serde_json::Value>(&text).ok()?["pid"].as_i64().map(|pid| pid as i32)
}

/// Starts a standby, kills the leader, and waits for the standby to lead.
fn succeed(hive: &Hive) {
    hive.pool_start(["--standby"]).exits(0);
    let dead = kill_supervisor(hive);
    wait_until("another leads", || leader(hive).is_some_and(|pid| pid != dead && is_alive(pid)));
}

fn pids(hive: &Hive) -> Vec<(u64, i64, Option<i64>)> {
    let agents = hive.status()["agents"].as_array().unwrap().clone();
    agents.iter().map(|a| (a["id"].as_u64().unwrap(), a["pid"].as_i64().unwrap(), a["workload"].as_i64())).collect()
}

fn times(hive: &Hive, file: &str) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    hive.read(file).lines().for_each(|line| *times.entry(line.to_owned()).or_default() += 1);
    times
}

#[test]
fn what_runs_goes_on_without_a_supervisor_and_is_answered_by_the_next() {
    for kind in ["shell", "oneshot", "lines"] {
        let hive = Hive::new();
        let gate = hive.gate();
        let work = format!("{}; echo done-$HIVE_AGENT", gate.wait());
        let script = format!("echo READY; while read -r v id text; do ({work}) </dev/null; echo DONE $id x; done");
        let command: &[&str] = match kind {
            "shell" => &[],
            "oneshot" => &["--", "sh", "-c", &format!("cat >/dev/null; {work}")],
            _ => &["--", "bash", "-c", &script],
        };
        hive.cmd(["pool", "start", "-n", "2", "--kind", kind]).args(command).run().exits(0);
        let before = pids(&hive);
        let run = hive.spawn(["run", if kind == "shell" { &work } else { "go" }]);
        gate.wait_for(1);
        kill_supervisor(&hive);
        let start = hive.cmd(["pool", "start", "-n", "2", "--kind", kind]).args(command).run();
        start.exits(0).prints("hive default: 2 agents are ready\n");
        assert_eq!(hive.tasks()[0]["state"], "running", "{kind}");
        gate.open(1);
        let expected = if kind == "lines" { "x\n" } else { "done-1\n" };
        run.ends().prints(expected).exits(0);
        assert_eq!(hive.task(1)["attempt"], 1, "{kind}");
        let after = pids(&hive);
        let hosts = |pids: &[(u64, i64, Option<i64>)]| pids.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>();
        assert_eq!(hosts(&before), hosts(&after), "{kind}: no host was restarted");
        assert_eq!(hive.status()["supervisor"]["term"], 2);
    }
}

#[test]
fn what_ends_while_nobody_leads_is_collected() {
    let hive = Hive::start(["-n", "2"]);
    let gate = hive.gate();
    let one = hive.submit(&gate.then("echo one"));
    let two = hive.submit(&gate.then("head -c 100000 /dev/zero | tr '\\0' y"));
    gate.wait_for(2);
    kill_supervisor(&hive);
    gate.open(2);
    wait_until("both have ended", || hive.processes().iter().all(|p| p.name != "sh"));
    hive.pool_start([""; 0]).exits(0);
    hive.run(["result", &one.to_string()]).prints("one\n").exits(0);
    hive.run(["result", &two.to_string()]).prints("y".repeat(100_000)).exits(0);
}

#[test]
fn what_is_asked_while_nobody_leads_is_taken_by_the_next() {
    let hive = Hive::start(["-n", "1"]);
    let mut raw = hive.raw("me");
    kill_supervisor(&hive);
    raw.send(r#""op":"run","text":"echo later","tag":"a""#);
    raw.send(r#""op":"run","text":"echo again","tag":"b""#);
    hive.pool_start(["-n", "1"]).exits(0);
    let mut answers = [raw.answer(), raw.answer()].map(|a| (a["tag"].to_string(), a["result"].to_string()));
    answers.sort();
    assert_eq!(answers, [("\"a\"".into(), "\"later\"".into()), ("\"b\"".into(), "\"again\"".into())]);
}

#[test]
fn five_deaths_under_load_lose_nothing_and_do_nothing_twice() {
    let hive = Hive::start(["-n", "8"]);
    let before = pids(&hive);
    let ran = hive.file("ran");
    let line = format!("sleep 0.1; echo $HIVE_TASK >>{ran}; echo $HIVE_TASK\n");
    let wait = hive.cmd(["submit", "--stdin"]).stdin(line.repeat(200)).spawn();
    for _ in 0..5 {
        succeed(&hive);
    }
    wait.ends().exits(0);
    hive.run(["wait", "--all"]).exits(0);
    let tasks = hive.tasks();
    assert_eq!(tasks.len(), 200);
    for task in tasks {
        assert_eq!((&task["state"], &task["result"]), (&"done".into(), &task["id"].to_string().into()), "{task}");
    }
    assert!(times(&hive, "ran").values().all(|n| *n == 1), "{:?}", times(&hive, "ran"));
    assert_eq!(before, pids(&hive), "no agent was restarted");
}

#[test]
fn raw_agents_are_sent_every_task_once_whenever_the_supervisor_dies() {
    let hive = Hive::new();
    let ran = hive.file("ran");
    let script =
        format!("echo READY; while read -r v id t; do [ $v = TASK ] && echo $id >>{ran} && echo DONE $id $t; done");
    for prefetch in ["1", "16"] {
        hive.cmd(["pool", "start", "-n", "4", "--kind", "lines", "--prefetch", prefetch, "--", "bash", "-c", &script])
            .run()
            .exits(0);
        let before = pids(&hive);
        let text: String = (0..3000).map(|n| format!("t{n}\n")).collect();
        let submit = hive.cmd(["submit", "--stdin"]).stdin(text).spawn();
        for _ in 0..6 {
            succeed(&hive);
        }
        submit.ends().exits(0);
        hive.run(["wait", "--all"]).exits(0);
        assert_eq!(before, pids(&hive), "no agent was restarted");
        assert!(times(&hive, "ran").values().all(|n| *n == 1), "none ran twice");
        hive.run(["pool", "stop"]).exits(0);
    }
    let ended = hive.events().iter().filter(|e| e["kind"] == "done").count();
    assert_eq!((ended, times(&hive, "ran").len()), (6000, 6000));
}

#[test]
fn a_run_is_answered_once_through_many_leaders() {
    let hive = Hive::start(["-n", "2"]);
    let gate = hive.gate();
    let run = hive.spawn(["run", &gate.then("echo ok")]);
    gate.wait_for(1);
    for _ in 0..3 {
        succeed(&hive);
    }
    gate.open(1);
    run.ends().prints("ok\n").exits(0);
    assert_eq!(hive.status()["supervisor"]["term"], 4);
}

#[test]
fn a_suspended_leader_is_ended_before_another_leads() {
    for standby in [true, false] {
        let hive = Hive::start(["-n", "1"]);
        let old = hive.supervisor();
        let gate = hive.gate();
        let run = hive.spawn(["run", &gate.then("echo ok")]);
        gate.wait_for(1);
        if standby {
            hive.pool_start(["--standby"]).exits(0);
        }
        kill(old, "STOP");
        hive.run(["pool", "takeover"]).exits(0).out().ends_with("leads, term 2\n").then_some(()).unwrap();
        assert!(!is_alive(old), "it is gone before the other leads");
        kill(old, "CONT");
        gate.open(1);
        run.ends().prints("ok\n").exits(0);
        let terms: Vec<u64> = hive.events().iter().map(|e| e["term"].as_u64().unwrap()).collect();
        assert!(terms.is_sorted(), "no record of the old term follows the new one's first: {terms:?}");
    }
}

#[test]
fn a_takeover_of_a_hive_that_nobody_leads_leads_it() {
    let hive = Hive::start(["-n", "1"]);
    let before = pids(&hive);
    kill_supervisor(&hive);
    let said = hive.json(["pool", "takeover"]);
    assert_eq!((said["term"].as_u64(), said["pid"].as_i64()), (Some(2), Some(i64::from(hive.supervisor()))));
    assert_eq!(before, pids(&hive));
}

#[test]
fn every_verb_says_who_is_left() {
    let hive = Hive::start(["-n", "2"]);
    kill_supervisor(&hive);
    wait_until("the hosts know", || {
        hive.live().join("agents/2/orphaned").exists() && hive.live().join("agents/1/orphaned").exists()
    });
    for verb in [&["run", "true"][..], &["tasks"], &["pool", "status"], &["submit", "x"]] {
        hive.run(verb)
            .exits(3)
            .mentions("the supervisor of hive default died ")
            .mentions("ago; 2 agents are alive: `hivectl pool start` takes them over");
    }
    hive.run(["pool", "stop"]).exits(0).prints("hive default has stopped; nothing of it is left running\n");
    assert!(hive.processes().is_empty());
}

#[test]
fn a_stop_ends_the_standbys_too() {
    let hive = Hive::start(["-n", "1"]);
    for _ in 0..3 {
        hive.pool_start(["--standby"]).exits(0);
    }
    hive.run(["pool", "stop"]).exits(0);
    assert!(hive.processes().is_empty(), "nothing of it is left");
    hive.pool_start(["--standby"]).exits(3).mentions("no hive \"default\" is running");
}

#[test]
fn of_three_standbys_one_leads_and_then_the_next() {
    let hive = Hive::start(["-n", "1"]);
    for _ in 0..3 {
        hive.pool_start(["--standby"]).exits(0);
    }
    for term in 2..=4 {
        let dead = kill_supervisor(&hive);
        wait_until("another leads", || leader(&hive).is_some_and(|pid| pid != dead && is_alive(pid)));
        hive.run(["run", "echo $HIVE_TASK"]).exits(0);
        assert_eq!(hive.status()["supervisor"]["term"], term);
    }
}

#[test]
fn hosts_that_die_while_nobody_leads_are_replaced_and_the_others_kept() {
    let hive = Hive::start(["-n", "3"]);
    let gate = hive.gate();
    hive.submit_times(3, &format!("setsid sleep 1000 & {}", gate.then("echo $HIVE_ATTEMPT")));
    gate.wait_for(3);
    let before = pids(&hive);
    let dead = hive.task(1)["agent"].as_u64().unwrap();
    wait_until("all tools run", || hive.running("sleep").len() == 3);
    kill_supervisor(&hive);
    kill(before.iter().find(|p| p.0 == dead).unwrap().1 as i32, "KILL");
    hive.pool_start(["-n", "3"]).exits(0);
    gate.wait_for(4);
    gate.open(3);
    hive.run(["wait", "--all"]).exits(0);
    let attempts: Vec<_> = hive.tasks().iter().map(|t| t["result"].as_str().unwrap().to_owned()).collect();
    assert_eq!(attempts, ["2", "1", "1"]);
    let kept = pids(&hive).iter().filter(|pid| before.contains(pid)).count();
    assert_eq!(kept, 2);
}

#[test]
fn a_pool_start_after_a_death_makes_the_pool_what_it_asks_for() {
    let hive = Hive::start(["-n", "2"]);
    let before = pids(&hive);
    kill_supervisor(&hive);
    hive.pool_start(["-n", "3"]).exits(0);
    assert_eq!(pids(&hive)[..2], before[..]);
    kill_supervisor(&hive);
    hive.pool_start(["-n", "1", "--label", "rust"]).exits(0);
    wait_until("the others have gone", || pids(&hive).len() == 1);
    assert_eq!(hive.agent(1)["labels"][0], "rust");
    assert_ne!(pids(&hive)[0].1, before[0].1, "one that is to be something else is started anew");
    kill_supervisor(&hive);
    let one = pids_of_dead(&hive);
    hive.pool_start([""; 0]).exits(0);
    assert_eq!(pids(&hive)[0].1, one, "where nothing is asked for, all stays as it was");
    assert_eq!(hive.agent(1)["labels"][0], "rust");
}

fn pids_of_dead(hive: &Hive) -> i64 {
    hive.events().iter().rev().find(|e| e["kind"] == "agent-hosted").unwrap()["pid"].as_i64().unwrap()
}

#[test]
fn a_stop_that_was_interrupted_is_finished_by_the_standby() {
    let hive = Hive::start(["-n", "1", "--stop-grace", "2"]);
    let gate = hive.gate();
    hive.submit(&format!("trap '' TERM; {}", gate.wait()));
    gate.wait_for(1);
    hive.pool_start(["--standby"]).exits(0);
    let supervisor = hive.supervisor();
    let stop = hive.spawn(["pool", "stop"]);
    wait_until("it stops", || hive.events().iter().any(|e| e["kind"] == "stopping"));
    kill(supervisor, "KILL");
    stop.ends();
    wait_until("nothing is left", || hive.processes().is_empty() && !hive.live().exists());
    hive.pool_start(["-n", "1"]).exits(0);
    gate.wait_for(2);
    gate.open(1);
    hive.run(["wait", "1"]).prints("1 done\n").exits(0);
}

#[test]
fn everything_killed_at_once_begins_again_with_the_same_pool() {
    let hive = Hive::start(["-n", "3", "--label", "x"]);
    hive.pool_start(["--standby"]).exits(0);
    let gate = hive.gate();
    hive.submit_times(5, &format!("setsid sleep 1000 & {}", gate.then("echo ok")));
    gate.wait_for(3);
    let all = hive.processes();
    let hosts: Vec<_> = all.iter().filter(|p| p.name == "hivectl").collect();
    assert_eq!(hosts.len(), 5, "supervisor, standby, three hosts");
    hosts.iter().for_each(|p| kill(p.pid, "KILL"));
    wait_until("all are dead", || hosts.iter().all(|p| !is_alive(p.pid)));
    hive.pool_start([""; 0]).exits(0).prints("hive default: 3 agents are ready\n");
    gate.wait_for(6);
    assert!(all.iter().all(|p| !is_alive(p.pid)), "nothing of the old trees is alive");
    gate.open(5);
    hive.run(["wait", "--all"]).exits(0);
    assert_eq!(hive.status()["tasks"]["done"], 5);
}

#[test]
fn twenty_supervisors_at_once_and_one_leads() {
    for _ in 0..10 {
        let hive = Hive::new();
        let starts: Vec<_> = (0..20).map(|_| hive.spawn(["pool", "start", "-n", "1"])).collect();
        let codes: Vec<i32> = starts.into_iter().map(|start| start.ends().code).collect();
        assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
        let led = hive.events().iter().filter(|e| e["kind"] == "led").count();
        assert_eq!(led, 1, "losers touch nothing");
    }
}

#[test]
fn a_child_of_a_task_does_not_keep_the_lead() {
    let hive = Hive::start(["-n", "1"]);
    let pid = hive.file("pid");
    hive.run(["run", &format!("setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >{pid}; exec sleep 0.1")])
        .exits(0);
    succeed(&hive);
    hive.run(["run", "echo ok"]).prints("ok\n").exits(0);
}

/// As `rm -rf` does: it may find that what it removes comes back.
fn remove_live(hive: &Hive) {
    while fs::remove_dir_all(hive.live()).is_err_and(|e| e.kind() == std::io::ErrorKind::DirectoryNotEmpty) {}
}

#[test]
fn a_live_folder_that_is_removed_is_made_again() {
    let hive = Hive::start(["-n", "2"]);
    let before = pids(&hive);
    let gate = hive.gate();
    let waiting = hive.spawn(["run", &gate.then("echo ok")]);
    gate.wait_for(1);
    for round in 0..12 {
        remove_live(&hive);
        wait_until("it is made again", || hive.live().join("ctl").exists() && leader(&hive).is_some());
        hive.run(["run", &format!("echo {round}")]).prints(format!("{round}\n")).exits(0);
    }
    assert_eq!(before, pids(&hive), "agents do not notice");
    remove_live(&hive);
    wait_until("it is made again", || leader(&hive).is_some());
    succeed(&hive);
    assert_eq!(before, pids(&hive), "a take-over still finds them");
    gate.open(1);
    waiting.ends().prints("ok\n").exits(0);
}

#[test]
fn a_standby_gets_the_lead_of_a_leader_that_made_its_live_folder_again() {
    let hive = Hive::start(["-n", "4"]);
    let before = pids(&hive);
    for _ in 0..10 {
        remove_live(&hive);
        wait_until("it is made again", || hive.live().join("ctl").exists() && leader(&hive).is_some());
        succeed(&hive);
    }
    assert_eq!(before, pids(&hive));
}

#[test]
fn a_live_folder_that_goes_with_its_supervisor_does_not_keep_the_next_from_its_agents() {
    let hive = Hive::start(["-n", "2"]);
    let before = pids(&hive);
    let gate = hive.gate();
    let task = hive.submit(&gate.then("echo ok")).to_string();
    gate.wait_for(1);
    kill_supervisor(&hive);
    fs::remove_dir_all(hive.live()).unwrap();
    hive.pool_start(["-n", "2"]).exits(0);
    assert_eq!(before, pids(&hive));
    gate.open(1);
    hive.run(["wait", &task]).prints(format!("{task} done\n")).exits(0);
    hive.run(["run", "echo new"]).prints("new\n").exits(0);
}

#[test]
fn raw_agents_are_sent_nothing_twice_when_the_live_folder_goes_with_its_supervisor() {
    let hive = Hive::new();
    let (gate, ran) = (hive.gate(), hive.file("ran"));
    let work = gate.wait();
    let script =
        format!("echo READY; while read -r v id t; do echo $id >>{ran}; ({work}) </dev/null; echo DONE $id $t; done");
    hive.cmd(["pool", "start", "-n", "2", "--kind", "lines", "--prefetch", "4", "--", "bash", "-c", &script])
        .run()
        .exits(0);
    let before = pids(&hive);
    hive.cmd(["submit", "--stdin"]).stdin("x\n".repeat(12)).run().exits(0);
    gate.wait_for(2);
    kill_supervisor(&hive);
    fs::remove_dir_all(hive.live()).unwrap();
    hive.pool_start([""; 0]).exits(0);
    gate.open(12);
    hive.run(["wait", "--all"]).exits(0);
    assert_eq!(times(&hive, "ran").values().copied().collect::<Vec<_>>(), [1; 12]);
    assert_eq!(before, pids(&hive));
}

#[test]
fn a_pool_start_right_after_the_supervisor_was_killed_takes_over() {
    let hive = Hive::start(["-n", "1"]);
    for _ in 0..20 {
        // Not seen dead: it may still be dying when the next one looks.
        kill(hive.supervisor(), "KILL");
        hive.pool_start([""; 0]).exits(0);
    }
}

#[test]
fn a_python_agent_is_taken_over_in_the_middle_of_its_task() {
    let hive = Hive::new();
    let gate = hive.gate();
    let code = format!(
        "import subprocess,sys\nprint('READY',flush=True)\nfor l in sys.stdin:\n v,i,t=l.rstrip('\\n').split(' ',2)\n \
         subprocess.run({:?},shell=True,stdin=subprocess.DEVNULL)\n print('DONE',i,t.upper(),flush=True)",
        gate.wait()
    );
    hive.cmd(["pool", "start", "-n", "1", "--kind", "lines", "--", python(), "-c", &code]).run().exits(0);
    let before = pids(&hive);
    let run = hive.spawn(["run", "hello"]);
    gate.wait_for(1);
    succeed(&hive);
    gate.open(1);
    run.ends().prints("HELLO\n").exits(0);
    assert_eq!(before, pids(&hive));
}
