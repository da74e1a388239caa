//! Limits of agents: passing one is an outcome of its own, with the kernel's help and without it.

use crate::harness::{Hive, kill, python, wait_until};

/// With whatever this machine offers, and with nothing of it.
const HELP: [&str; 2] = ["", "none"];

fn hive_with(help: &str, args: &[&str]) -> Hive {
    let hive = Hive::new();
    hive.cmd(["pool", "start", "-n", "1"]).args(args).env("HIVE_CGROUP", help).run().exits(0);
    hive
}

/// Takes memory and stays.
fn hungry(mebibytes: u32) -> String {
    format!("exec {} -c 'import time; x = b\"a\" * ({mebibytes} << 20); time.sleep(1000)'", python())
}

#[test]
fn passing_the_memory_limit_fails_the_task_and_says_so() {
    for help in HELP {
        let hive = hive_with(help, &["--memory", "64M"]);
        hive.run(["run", &hungry(300)]).says("hivectl: task 1 failed: memory limit 64 MiB\n").exits(137);
        assert_eq!(hive.task(1)["limit"], "memory");
        hive.run(["run", "echo next"]).prints("next\n").exits(0);
        assert_eq!(hive.agent(1)["restarts"], 0);
        assert_eq!(hive.agent(1)["limits"]["memory"], 64 << 20);
    }
}

#[test]
fn the_memory_of_a_tree_counts_as_a_whole() {
    let hive = hive_with("", &["--memory", "100M"]);
    let crowd = format!("for i in 1 2 3 4; do ({}) & done; wait", hungry(40));
    hive.run(["run", &crowd]).mentions("memory limit 100 MiB").exits(137);
    wait_until("nothing is left of it", || hive.processes().len() == 2);
}

#[test]
fn memory_that_is_only_reserved_does_not_count() {
    let hive = hive_with("", &["--memory", "64M"]);
    let reserve = format!("{} -c 'import mmap; m = mmap.mmap(-1, 8 << 30); print(len(m) >> 30)'", python());
    hive.run(["run", &reserve]).prints("8\n").exits(0);
}

#[test]
fn passing_the_limit_of_processor_time_fails_the_task_and_says_so() {
    let hive = hive_with("", &["--cpu-time", "1"]);
    let stubborn = "trap '' XCPU; while :; do :; done";
    for (task, text, code) in [(1, "while :; do :; done", 152), (2, stubborn, 137)] {
        hive.run(["run", text]).mentions("failed: cpu time limit 1 s").exits(code);
        assert_eq!(hive.task(task)["limit"], "cpu-time");
    }
    hive.run(["run", "exit 3"]).says("").exits(3);
}

#[test]
fn a_fork_bomb_is_ended_and_nobody_else_is_harmed() {
    for help in HELP {
        let hive = hive_with(help, &["--nproc", "30"]);
        // It doubles until it is ended, but never past some hundreds: the machine is others' too.
        let bomb = "bomb() { [ $1 = 0 ] && exec sleep 1000; bomb $(($1 - 1)) | bomb $(($1 - 1)) & wait; }; bomb 8";
        let ran = hive.run(["run", bomb]);
        assert_ne!(ran.code, 0);
        assert_eq!(hive.task(1)["limit"], "nproc");
        hive.run(["run", "echo next"]).prints("next\n").exits(0);
        wait_until("nothing is left of it", || hive.running("sh").is_empty());
    }
}

#[test]
fn open_files_and_niceness_are_those_asked_for() {
    let hive = hive_with("", &["--nofile", "77", "--nice", "3"]);
    let mine: i32 = hive.bash("nice").out().trim().parse().unwrap();
    hive.run(["run", "ulimit -n; ulimit -Hn; nice"]).prints(format!("77\n77\n{}\n", mine + 3)).exits(0);
}

#[test]
fn a_lines_agent_that_passes_a_limit_fails_its_task_and_is_started_anew() {
    let hungry = hungry(300).replace('\'', "'\\''");
    let agent =
        format!("echo READY; while read -r v id t; do [ $t = big ] && eval '{hungry}'; echo DONE $id fine; done");
    let hive = hive_with("", &["--memory", "64M", "--kind", "lines", "--prefetch", "4", "--", "bash", "-c", &agent]);
    for task in 1..=6 {
        hive.submit(if task % 2 == 1 { "big" } else { "small" });
    }
    hive.run(["wait", "1", "2", "3", "4", "5", "6"])
        .prints("1 failed\n2 done\n3 failed\n4 done\n5 failed\n6 done\n")
        .exits(1);
    assert_eq!((&hive.task(1)["limit"], &hive.task(1)["reason"]), (&"memory".into(), &"memory limit 64 MiB".into()));
    assert_eq!(hive.task(2)["result"], "fine");
}

#[test]
fn a_oneshot_that_passes_a_limit_fails_its_task_alone() {
    let program = format!("read -r t; [ $t = small ] && echo fine && exit; {}", hungry(300));
    let hive = hive_with("", &["--memory", "64M", "--kind", "oneshot", "--", "sh", "-c", &program]);
    let ask = |text: &str| hive.cmd(["run", "-"]).stdin(format!("{text}\n")).run();
    ask("big").mentions("memory limit 64 MiB").exits(137);
    ask("small").prints("fine\n").exits(0);
}

#[test]
fn a_kill_by_somebody_else_is_not_called_a_limit() {
    let hive = hive_with("", &["--memory", "64M", "--cpu-time", "5", "--nproc", "50"]);
    let gate = hive.gate();
    let run = hive.spawn(["run", &format!("echo $$ >{}; {}", hive.file("pid"), gate.wait())]);
    gate.wait_for(1);
    kill(hive.read("pid").trim().parse().unwrap(), "KILL");
    run.ends().says("hivectl: task 1 was killed by SIGKILL\n").exits(137);
    assert!(hive.task(1)["limit"].is_null());
}

#[test]
fn a_limit_that_makes_no_sense_is_refused() {
    let hive = Hive::new();
    for (option, value, word) in [
        ("--memory", "lots", "512M"),
        ("--memory", "5", "\"memory\" must be at least 1048576"),
        ("--nice", "20", "\"nice\" may be at most 19"),
        ("--cpu-time", "0", "\"cpu_time\" must be at least 1"),
        ("--nofile", "3", "\"nofile\" must be at least 16"),
    ] {
        hive.pool_start(["-n", "1", option, value]).mentions(word).exits(2);
    }
    hive.run(["pool", "status"]).exits(3);
}

#[test]
fn sizes_may_be_said_in_several_ways() {
    for (size, bytes) in [("64M", 64 << 20), ("1g", 1 << 30), ("65536KiB", 64 << 20), ("67108864", 64 << 20)] {
        let hive = hive_with("", &["--memory", size]);
        assert_eq!(hive.agent(1)["limits"]["memory"], bytes, "{size}");
    }
}

#[test]
fn limits_outlive_a_restart_of_the_agent() {
    let hive = hive_with("", &["--nofile", "77"]);
    hive.run(["pool", "restart"]).exits(0);
    kill(hive.host(1), "KILL");
    wait_until("it is back", || hive.agent(1)["state"] == "idle");
    hive.run(["run", "ulimit -n"]).prints("77\n").exits(0);
}

#[test]
fn workloads_are_the_first_that_the_out_of_memory_killer_takes() {
    let hive = hive_with("", &[]);
    let score = |pid: i32| -> i32 {
        std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    let workload: i32 = hive.run(["run", "cat /proc/self/oom_score_adj"]).exits(0).out().trim().parse().unwrap();
    let mine = score(std::process::id() as i32);
    assert_eq!(workload, (mine + 500).min(1000));
    for own in [hive.host(1), hive.supervisor()] {
        assert!(score(own) <= mine);
    }
}
