//! Whatever a workload does to get away, its tree is ended when its time has come.

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

/// Runs every escape as a task, lets `end` end it, and sees that it is gone.
fn each_escape_is_ended_by(agents: &str, end: impl Fn(&Hive, &[u64])) {
    let hive = Hive::start(["-n", agents, "--stop-grace", "0.2"]);
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
    end(&hive, &tasks);
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
