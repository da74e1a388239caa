//! Deaths by kill -9: of hosts, and of the supervisor. What was accepted ends, once, and nothing stays behind.

use crate::harness::{Hive, is_alive, kill, wait_until};

fn kill_supervisor(hive: &Hive) {
    let supervisor = hive.supervisor();
    kill(supervisor, "KILL");
    wait_until("the supervisor is dead", || !is_alive(supervisor));
}

#[test]
fn a_task_of_a_killed_host_is_put_back_and_runs_again() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    let run = hive.spawn(["run", &format!("sleep 1000 & {}", gate.then("echo attempt $HIVE_ATTEMPT"))]);
    gate.wait_for(1);
    wait_until("its child runs", || hive.running("sleep").len() == 1);
    let (first, host) = (hive.running("sleep")[0], hive.host(1));
    kill(host, "KILL");
    gate.wait_for(2);
    assert!(!is_alive(first), "nothing of the first attempt lives when the second begins");
    gate.open(1);
    run.ends().prints("attempt 2\n").exits(0);
    assert_ne!(hive.host(1), host);
    assert_eq!(hive.agent(1)["restarts"], 1);
}

#[test]
fn a_task_that_is_there_when_three_hosts_die_fails_with_the_evidence() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    let run = hive.spawn(["run", &gate.wait()]);
    for times in 1..=3 {
        gate.wait_for(times);
        kill(hive.host(1), "KILL");
    }
    run.ends().exits(125).mentions("its agent died under it, 3 of 3 times: its host was killed by SIGKILL");
}

#[test]
fn a_host_that_is_killed_at_rest_comes_back() {
    for kind in [
        &["shell"][..],
        &["lines", "--", "bash", "-c", "echo READY; while read -r v id t; do echo DONE $id x; done"],
        &["oneshot", "--", "sh", "-c", "cat >/dev/null; echo x"],
    ] {
        let hive = Hive::new();
        hive.cmd(["pool", "start", "-n", "1", "--kind"]).args(kind).run().exits(0);
        let (host, workload) = (hive.host(1), hive.agent(1)["workload"].as_i64());
        kill(host, "KILL");
        wait_until("another host is there", || hive.agent(1)["pid"].as_i64().is_some_and(|pid| pid as i32 != host));
        assert!(workload.is_none_or(|pid| !is_alive(pid as i32)), "its workload is ended first");
        hive.run(["run", "echo x"]).prints("x\n").exits(0);
    }
}

#[test]
fn all_hosts_may_be_killed_at_once() {
    let hive = Hive::start(["-n", "3"]);
    let gate = hive.gate();
    hive.submit_times(3, &gate.then("echo ok"));
    gate.wait_for(3);
    kill(-(hive.status()["pgid"].as_i64().unwrap() as i32), "KILL");
    gate.wait_for(6);
    gate.open(3);
    hive.run(["wait", "1", "2", "3"]).prints("1 done\n2 done\n3 done\n").exits(0);
    assert_eq!(hive.tasks()[0]["attempt"], 2);
}

#[test]
fn the_supervisor_may_die_many_times_under_load() {
    let hive = Hive::start(["-n", "2"]);
    let mut accepted = 0;
    for round in 0..4 {
        let batch = hive.cmd(["submit", "--stdin"]).stdin("echo $HIVE_TASK\n".repeat(40)).spawn();
        let supervisor = hive.supervisor();
        batch.wait_for_out(&format!("{}\n", accepted + 10));
        kill(supervisor, "KILL");
        let ran = batch.ends();
        let last = ran.out().lines().last().map_or(0, |id| id.parse().unwrap());
        wait_until("it is dead", || !is_alive(supervisor));
        hive.pool_start(["-n", "2"]).exits(0);
        accepted = hive.tasks().iter().map(|t| t["id"].as_u64().unwrap()).max().unwrap();
        assert!(accepted >= last, "round {round}: task {last} was acknowledged, and {accepted} is the last one known");
    }
    hive.run(["wait", "--all"]).exits(0);
    for task in hive.tasks() {
        assert_eq!((&task["state"], &task["result"]), (&"done".into(), &task["id"].to_string().into()), "{task}");
    }
    let mut ended: Vec<u64> =
        hive.events().iter().filter(|e| e["kind"] == "done").map(|e| e["task"].as_u64().unwrap()).collect();
    ended.sort_unstable();
    assert_eq!(ended, (1..=accepted).collect::<Vec<_>>(), "each ends once");
}

#[test]
fn results_outlive_everything() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo short; echo err >&2"]).exits(0);
    hive.run(["run", "head -c 10000 /dev/zero | tr '\\0' x"]).exits(0);
    hive.run(["run", "exit 7"]).exits(7);
    kill_supervisor(&hive);
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["result", "1"]).prints("short\n").says("err\n").exits(0);
    hive.run(["result", "2"]).prints("x".repeat(10_000)).exits(0);
    hive.run(["result", "3"]).prints("").exits(7);
    hive.run(["pool", "stop"]).exits(0);
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["result", "2"]).prints("x".repeat(10_000)).exits(0);
}

#[test]
fn what_lived_below_a_host_that_died_with_its_supervisor_is_ended_by_the_next() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&format!("sleep 1000 & setsid sleep 1000 & {}", gate.wait()));
    gate.wait_for(1);
    let (supervisor, host) = (hive.supervisor(), hive.host(1));
    wait_until("its children run", || hive.running("sleep").len() == 2);
    let below = hive.running("sleep");
    for pid in [supervisor, host] {
        kill(pid, "KILL");
    }
    wait_until("both are dead", || !is_alive(supervisor) && !is_alive(host));
    hive.pool_start(["-n", "1"]).exits(0);
    gate.wait_for(2);
    assert!(below.iter().all(|pid| !is_alive(*pid)), "the first attempt is dead when the second begins");
    gate.open(1);
    hive.run(["wait", "1"]).prints("1 done\n").exits(0);
}

#[test]
fn an_abandoned_hive_ends_itself() {
    let hive = Hive::start(["-n", "2", "--grace", "1", "--stop-grace", "1"]);
    let gate = hive.gate();
    hive.submit(&format!("trap '' TERM; setsid sleep 1000 & {}", gate.wait()));
    gate.wait_for(1);
    kill_supervisor(&hive);
    assert!(!hive.processes().is_empty());
    wait_until("no process is left", || hive.processes().is_empty());
    hive.pool_start(["-n", "1"]).exits(0);
    gate.open(1);
    hive.run(["wait", "1"]).prints("1 done\n").exits(0);
}

#[test]
fn a_torn_last_record_is_cut_and_said() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo kept"]).exits(0);
    hive.run(["pool", "stop"]).exits(0);
    let log = segment(&hive);
    let mut bytes = std::fs::read(&log).unwrap();
    let len = bytes.len();
    bytes.truncate(len - 10);
    std::fs::write(&log, &bytes).unwrap();
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["result", "1"]).prints("kept\n").exits(0);
    let said = std::fs::read_to_string(hive.kept().join("supervisor.log")).unwrap();
    assert!(said.contains("the log's last record was torn: cut"), "{said}");
}

#[test]
fn damage_in_the_middle_of_the_log_refuses_the_start_and_names_the_place() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo kept"]).exits(0);
    hive.run(["pool", "stop"]).exits(0);
    let log = segment(&hive);
    let good = std::fs::read(&log).unwrap();
    let mut bad = good.clone();
    bad[300] ^= 1;
    std::fs::write(&log, &bad).unwrap();
    hive.pool_start(["-n", "1"])
        .exits(1)
        .mentions("the log is damaged")
        .mentions(log.to_str().unwrap())
        .mentions("at byte ");
    assert_eq!(std::fs::read(&log).unwrap(), bad, "it is left as it was");
    std::fs::write(&log, &good).unwrap();
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["result", "1"]).prints("kept\n").exits(0);
}

fn segment(hive: &Hive) -> std::path::PathBuf {
    let mut found: Vec<_> =
        std::fs::read_dir(hive.kept().join("events")).unwrap().flatten().map(|e| e.path()).collect();
    found.sort();
    found.pop().unwrap()
}
