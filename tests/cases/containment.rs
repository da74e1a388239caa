//! Whatever a workload does to get away, its tree is ended when its time has come.

use std::path::PathBuf;

use crate::harness::{Hive, is_alive, kill, python, wait_until};

/// Each writes its pid to $PIDS when it has got away, and then stays for ever.
fn escapes() -> Vec<(&'static str, String)> {
    let python = python();
    vec![
        ("setsid", "setsid sh -c 'echo $$ >>$PIDS; exec sleep 1000' & wait".to_owned()),
        (
            "a double fork",
            "(setsid sh -c '(echo $(exec sh -c \"echo \\$PPID\") >>$PIDS; exec sleep 1000) &' &); sleep 1000"
                .to_owned(),
        ),
        ("TERM ignored", "trap '' TERM HUP INT; echo $$ >>$PIDS; while :; do sleep 1000; done".to_owned()),
        ("closed descriptors", "sh -c 'exec 0<&- 1>&- 2>&-; echo $$ >>$PIDS; exec sleep 1000' & wait".to_owned()),
        (
            "an empty environment",
            "P=$PIDS; env -i setsid sh -c \"echo \\$\\$ >>$P; exec /bin/sleep 1000\" & wait".to_owned(),
        ),
        ("a group of its own", "set -m; sh -c 'echo $$ >>$PIDS; exec sleep 1000' & wait".to_owned()),
        (
            "a daemon by the book",
            format!(
                "{python} -c 'import os, signal
if os.fork(): os._exit(0)
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)
if os.fork(): os._exit(0)
os.chdir(\"/\")
os.closerange(0, 100)
with open(os.environ[\"PIDS\"], \"a\") as f: print(os.getpid(), file=f)
os.execv(\"/bin/sleep\", [\"sleep\", \"1000\"])'; sleep 1000"
            ),
        ),
        ("a stopped child", "sh -c 'echo $$ >>$PIDS; kill -STOP $$; exec sleep 1000' & wait".to_owned()),
        (
            "a crowd",
            "for i in 1 2 3 4 5 6 7 8 9 10; do (setsid sh -c 'echo $$ >>$PIDS; exec sleep 1000' &); done; sleep 1000"
                .to_owned(),
        ),
    ]
}

/// Runs every escape as a task, lets `end` end it, and sees that it is gone: with whatever this machine offers, and
/// without cgroups.
fn each_escape_is_ended_by(agents: &str, end: impl Fn(&Hive, &[u64])) {
    for cgroup in ["", "none"] {
        let hive = Hive::new();
        let start = hive.cmd(["pool", "start", "-n", agents, "--stop-grace", "0.2"]);
        start.env("HIVE_CGROUP", cgroup).run().exits(0);
        assert_eq!(hive.status()["containment"] == "subreaper and marks", cgroup_of(&hive).is_none());
        escapes_are_ended(&hive, &end);
    }
}

/// The hive's cgroup, if it has one.
fn cgroup_of(hive: &Hive) -> Option<PathBuf> {
    std::fs::read_to_string(hive.kept().join("cgroup")).ok().map(|path| PathBuf::from(path.trim_end()))
}

fn escapes_are_ended(hive: &Hive, end: impl Fn(&Hive, &[u64])) {
    let pids = hive.file("pids");
    let escapes = escapes();
    let tasks: Vec<u64> = escapes
        .iter()
        .map(|(_, script)| {
            let submit = hive.cmd(["submit", script]).env("PIDS", &pids).run().exits(0);
            submit.out().trim().parse().unwrap()
        })
        .collect();
    let got_away = || hive.read("pids").lines().filter_map(|line| line.trim().parse().ok()).collect::<Vec<i32>>();
    wait_until("all have got away", || got_away().len() == escapes.len() + 9);
    let pids = got_away();
    assert!(pids.iter().all(|pid| is_alive(*pid)), "they live until they are ended");
    end(hive, &tasks);
    let left: Vec<_> = pids.iter().filter(|pid| is_alive(**pid)).collect();
    assert!(left.is_empty(), "still alive: {left:?}");
}

#[test]
fn a_stop_ends_whatever_got_away() {
    each_escape_is_ended_by("9", |hive, _| drop(hive.run(["pool", "stop"]).exits(0)));
}

#[test]
fn a_stop_at_once_ends_whatever_got_away() {
    each_escape_is_ended_by("9", |hive, _| drop(hive.run(["pool", "stop", "--now"]).exits(0)));
}

#[test]
fn a_cancelled_task_leaves_nothing_that_got_away() {
    each_escape_is_ended_by("9", |hive, tasks| {
        hive.cmd(["cancel"]).args(tasks.iter().map(u64::to_string)).run().exits(0);
        let states = hive.cmd(["wait"]).args(tasks.iter().map(u64::to_string)).run().exits(1).out();
        assert!(states.lines().all(|line| line.ends_with("cancelled")), "{states}");
    });
}

#[test]
fn a_killed_host_leaves_nothing_that_got_away() {
    each_escape_is_ended_by("9", |hive, tasks| {
        let before: Vec<i32> = (1..=9).map(|agent| hive.host(agent)).collect();
        // Their second attempt must not begin: the tasks are cancelled as soon as they are back in the queue.
        for host in &before {
            kill(*host, "STOP");
        }
        hive.cmd(["cancel"]).args(tasks.iter().map(u64::to_string)).run().exits(0);
        for host in &before {
            kill(*host, "KILL");
        }
        hive.cmd(["wait"]).args(tasks.iter().map(u64::to_string)).run().exits(1);
    });
}

#[test]
fn a_pool_that_shrinks_leaves_nothing_of_its_agents() {
    let agent = "setsid sleep 1000 & echo READY; while read -r v id t; do echo DONE $id; done";
    let hive = Hive::start(["-n", "3", "--kind", "lines", "--stop-grace", "0.2", "--", "bash", "-c", agent]);
    wait_until("each has its sleep", || hive.running("sleep").len() == 3);
    hive.run(["pool", "scale", "1"]).exits(0);
    wait_until("one agent is left", || hive.running("sleep").len() == 1);
    hive.run(["pool", "scale", "0"]).exits(0);
    wait_until("no agent is left", || hive.running("sleep").is_empty());
}

#[test]
fn what_a_task_leaves_behind_is_ended_and_its_result_does_not_wait_for_it() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "sleep 1000 & setsid sleep 1000 & echo hi"]).prints("hi\n").exits(0);
    wait_until("no sleep is left", || hive.running("sleep").is_empty());
}

#[test]
fn what_ignores_term_and_is_left_behind_is_killed() {
    let hive = Hive::start(["-n", "1"]);
    let stubborn = "(trap '' TERM HUP; setsid sleep 1000) & echo hi";
    hive.run(["run", stubborn]).prints("hi\n").exits(0);
    hive.run(["run", "echo next"]).prints("next\n").exits(0);
    assert_eq!(hive.running("sleep"), [0; 0], "the next task begins when nothing of the last one is left");
}

#[test]
fn what_is_left_behind_does_not_write_into_the_next_result() {
    let hive = Hive::start(["-n", "1"]);
    let noisy = "(trap '' TERM; while echo noise; do :; done) & echo hi";
    let first = hive.run(["run", noisy]).exits(0);
    assert!(first.out().lines().all(|line| line == "hi" || line == "noise"));
    hive.run(["run", "echo clean"]).prints("clean\n").exits(0);
}

#[test]
fn an_agent_that_ends_takes_its_tools_with_it() {
    let agent = "echo READY; read -r v id t; setsid sleep 1000 & sleep 1000 & exit 1";
    let hive = Hive::one_line_agent(agent);
    hive.run(["run", "--retries", "0", "x"]).exits(125);
    wait_until("no sleep is left", || hive.running("sleep").is_empty());
}

#[test]
fn a_task_that_signals_its_own_group_harms_nobody_else() {
    let hive = Hive::start(["-n", "2"]);
    let gate = hive.gate();
    let other = hive.spawn(["run", &gate.then("echo unharmed")]);
    gate.wait_for(1);
    hive.run(["run", "kill -9 0"]).exits(137);
    hive.run(["run", "kill -TERM 0; kill -TERM -$$"]).exits(143);
    gate.open(1);
    other.ends().prints("unharmed\n").exits(0);
}

#[test]
fn what_forks_while_it_is_killed_is_ended_too() {
    for cgroup in ["", "none"] {
        let hive = Hive::new();
        hive.cmd(["pool", "start", "-n", "1", "--stop-grace", "0.1"]).env("HIVE_CGROUP", cgroup).run().exits(0);
        let gate = hive.gate();
        // Each one that ends has another begin, in a session of its own.
        let relay = "trap '' TERM; relay() { (sleep 0.01; relay) & }; relay; relay; relay; relay";
        let task = hive.submit(&format!("{relay}; {}", gate.wait()));
        gate.wait_for(1);
        hive.run(["cancel", &task.to_string()]).exits(0);
        hive.run(["wait", &task.to_string()]).prints(format!("{task} cancelled\n")).exits(1);
        assert_eq!(hive.running("sh"), [0; 0]);
        assert_eq!(hive.running("sleep"), [0; 0]);
    }
}

/// A task that leaves a process without session, parent or environment of hive's; its pid.
fn one_that_threw_everything_away(hive: &Hive) -> i32 {
    let pid = hive.file("pid");
    hive.submit(&format!("env -i setsid /bin/sh -c 'echo $$ >{pid}; exec /bin/sleep 1000' & wait"));
    wait_until("it got away", || hive.read("pid").ends_with('\n'));
    hive.read("pid").trim().parse().unwrap()
}

fn kill_supervisor_and_host(hive: &Hive) {
    let (supervisor, host) = (hive.supervisor(), hive.host(1));
    // Neither is to see the other die.
    kill(supervisor, "STOP");
    kill(host, "KILL");
    kill(supervisor, "KILL");
    wait_until("both are dead", || !is_alive(supervisor) && !is_alive(host));
}

#[test]
fn the_next_start_ends_what_threw_everything_away_when_supervisor_and_host_were_killed() {
    let hive = Hive::start(["-n", "1"]);
    if cgroup_of(&hive).is_none() {
        return eprintln!("skipped: no cgroup v2 that this user may write to");
    }
    let lost = one_that_threw_everything_away(&hive);
    kill_supervisor_and_host(&hive);
    assert!(is_alive(lost));
    hive.pool_start(["-n", "0"]).exits(0);
    assert!(!is_alive(lost));
}

#[test]
fn a_cgroup_goes_with_its_hive() {
    let hive = Hive::start(["-n", "2"]);
    let Some(cgroup) = cgroup_of(&hive) else {
        return eprintln!("skipped: no cgroup v2 that this user may write to");
    };
    let inside = hive.run(["run", "cat /proc/self/cgroup"]).exits(0).out();
    assert!(inside.contains(cgroup.file_name().unwrap().to_str().unwrap()), "{inside}");
    let agent = cgroup.join("agent-1");
    assert!(agent.exists() && !cgroup.join("agent-2").exists(), "one is made when it is needed");
    kill(hive.host(1), "KILL");
    wait_until("it is back", || hive.agent(1)["state"] == "idle");
    assert!(!agent.exists(), "it went with its host");
    hive.run(["run", "true"]).exits(0);
    hive.run(["pool", "stop"]).exits(0);
    assert!(!cgroup.exists() && cgroup_of(&hive).is_none());
}

#[test]
fn a_hive_that_nobody_leads_any_more_leaves_no_cgroup() {
    let hive = Hive::start(["-n", "2", "--grace", "0.2"]);
    let Some(cgroup) = cgroup_of(&hive) else {
        return eprintln!("skipped: no cgroup v2 that this user may write to");
    };
    hive.run(["run", "true"]).exits(0);
    kill(hive.supervisor(), "KILL");
    wait_until("the hosts have given up", || hive.processes().is_empty());
    assert!(!cgroup.exists());
    hive.pool_start(["-n", "0"]).exits(0);
}

#[test]
fn a_hive_in_a_folder_that_is_no_cgroup_does_without() {
    let hive = Hive::new();
    hive.cmd(["pool", "start", "-n", "1"]).env("HIVE_CGROUP", hive.path("")).run().exits(0);
    assert_eq!(hive.status()["containment"], "subreaper and marks");
    hive.run(["run", "echo hi"]).prints("hi\n").exits(0);
}

/// Needs a pid namespace, in which the next pid can be chosen.
#[test]
fn a_pid_that_has_come_back_as_somebody_elses_is_left_alone() {
    let hive = Hive::new();
    let script = r#"
        hivectl pool start -n 1 >/dev/null
        host=$(hivectl --json pool status | grep -o '"pid":[0-9]*' | head -n 1 | cut -d: -f2)
        leader=$(sed 's/.*"pid":\([0-9]*\).*/\1/' $LIVE/leader)
        kill -STOP $leader; kill -9 $host $leader
        while [ -e /proc/$host ]; do sleep 0.01; done
        echo $((host - 1)) >/proc/sys/kernel/ns_last_pid
        sleep 1000 & stranger=$!
        echo $((stranger - host))
        hivectl pool start -n 1 >/dev/null; hivectl pool stop >/dev/null
        kill -0 $stranger && echo unharmed; kill -9 $stranger"#;
    let script = hive.write("reuse.sh", script);
    let ran = hive.bash(&format!("unshare --pid --fork --mount-proc --kill-child bash {script}"));
    if ran.code != 0 && String::from_utf8_lossy(&ran.stderr).starts_with("unshare: ") {
        return eprintln!("skipped: no pid namespace: {ran}");
    }
    ran.prints("0\nunharmed\n");
}
