//! `pool stop`: what becomes of the work, and that nothing stays behind.

use crate::harness::{Hive, is_alive, kill, wait_until};

#[test]
fn stop_says_that_nothing_is_left() {
    let hive = Hive::start(["-n", "3"]);
    hive.run(["run", "true"]).exits(0);
    let stop = hive.run(["pool", "stop"]);
    stop.prints("hive default has stopped; nothing of it is left running\n").says("").exits(0);
    assert!(!hive.live().exists());
    assert!(hive.processes().is_empty());
    hive.run(["pool", "stop"]).exits(3).mentions("no hive \"default\" is running");
}

#[test]
fn a_running_task_is_put_back_and_runs_after_the_next_start() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    let task = hive.submit(&gate.then("echo attempt $HIVE_ATTEMPT"));
    let queued = hive.submit("echo second");
    gate.wait_for(1);
    hive.run(["pool", "stop"]).exits(0);
    hive.pool_start(["-n", "1"]).exits(0);
    gate.wait_for(2);
    gate.open(1);
    hive.run(["wait".to_owned(), task.to_string(), queued.to_string()]).prints("1 done\n2 done\n").exits(0);
    hive.run(["result", "1"]).prints("attempt 2\n").exits(0);
    hive.run(["result", "2"]).prints("second\n").exits(0);
}

#[test]
fn a_stop_is_not_counted_as_a_death() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit_with(&["--retries", "1"], &gate.then("echo ok"));
    for times in 1..=3 {
        gate.wait_for(times);
        hive.run(["pool", "stop"]).exits(0);
        hive.pool_start(["-n", "1"]).exits(0);
    }
    gate.wait_for(4);
    gate.open(1);
    hive.run(["wait", "1"]).prints("1 done\n").exits(0);
    assert_eq!(hive.task(1)["attempt"], 4);
}

#[test]
fn with_no_retries_a_task_that_a_stop_ended_is_not_begun_again() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit_with(&["--retries", "0"], &gate.wait());
    gate.wait_for(1);
    hive.submit_with(&["--retries", "0"], "echo had not begun");
    hive.run(["pool", "stop"]).exits(0);
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["wait", "1", "2"]).prints("1 failed\n2 done\n").exits(1);
    hive.run(["result", "1"]).mentions("with no retries it is not begun again").exits(125);
    assert_eq!(gate.entered(), 1);
}

#[test]
fn tasks_of_lines_agents_are_put_back_too() {
    let hive = Hive::new();
    let gate = hive.gate();
    let agent = format!("echo READY; while read -r v id t; do {}; echo DONE $id $t; done", gate.wait());
    let start =
        || hive.pool_start(["-n", "1", "--kind", "lines", "--prefetch", "4", "--", "bash", "-c", &agent]).exits(0);
    start();
    (1..=5).for_each(|n| _ = hive.submit(&n.to_string()));
    gate.wait_for(1);
    hive.run(["pool", "stop"]).exits(0);
    start();
    gate.open(5);
    hive.run(["wait", "1", "2", "3", "4", "5"]).exits(0);
    for task in hive.tasks() {
        assert_eq!(task["result"], task["id"].to_string());
    }
}

#[test]
fn tasks_of_oneshots_are_put_back_too() {
    let hive = Hive::new();
    let gate = hive.gate();
    let program = format!("cat; {}", gate.wait());
    let start = || hive.pool_start(["-n", "1", "--kind", "oneshot", "--", "sh", "-c", &program]).exits(0);
    start();
    hive.submit("x");
    gate.wait_for(1);
    hive.run(["pool", "stop"]).exits(0);
    start();
    gate.open(1);
    hive.run(["wait", "1"]).exits(0);
    hive.run(["result", "1"]).prints("x").exits(0);
}

#[test]
fn whoever_waits_for_a_task_is_told_that_the_hive_stopped() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    let run = hive.spawn(["run", &gate.wait()]);
    gate.wait_for(1);
    let (wait, all) = (hive.spawn(["wait", "1"]), hive.spawn(["wait", "--all"]));
    let asked = |kind: &str| hive.events().iter().any(|e| e["kind"] == kind);
    wait_until("both wait", || asked("awaited") && asked("awaited-all"));
    hive.run(["pool", "stop"]).exits(0);
    let said = "hivectl: the hive was stopped; task 1 is queued and runs after the next `hivectl pool start`\n";
    run.ends().prints("").says(said).exits(6);
    wait.ends().says(said).exits(6);
    all.ends().says("hivectl: the hive was stopped\n").exits(6);
}

#[test]
fn drain_finishes_every_task_first_and_takes_no_more() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    let run = hive.spawn(["run", &gate.then("echo finished")]);
    gate.wait_for(1);
    hive.submit("echo queued");
    let stop = hive.spawn(["pool", "stop", "--drain"]);
    wait_until("it drains", || hive.status()["state"] == "stopping");
    hive.run(["submit", "true"]).exits(6).mentions("this hive is stopping and takes no new work");
    gate.open(1);
    run.ends().prints("finished\n").exits(0);
    stop.ends().exits(0);
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["result", "2"]).prints("queued\n").exits(0);
}

#[test]
fn a_drain_can_be_cut_short() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&gate.wait());
    gate.wait_for(1);
    let drain = hive.spawn(["pool", "stop", "--drain"]);
    wait_until("it drains", || hive.status()["state"] == "stopping");
    hive.run(["pool", "stop"]).exits(0);
    drain.ends().exits(0);
    hive.pool_start(["-n", "1"]).exits(0);
    gate.wait_for(2);
    gate.open(1);
    hive.run(["wait", "1"]).prints("1 done\n").exits(0);
}

#[test]
fn a_task_may_clean_up_when_the_hive_stops() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    let cleaned = hive.file("cleaned");
    hive.submit(&format!("trap 'echo yes >{cleaned}; exit 1' TERM; {}", gate.wait()));
    gate.wait_for(1);
    hive.run(["pool", "stop"]).exits(0);
    assert_eq!(hive.read("cleaned"), "yes\n");
}

#[test]
fn a_stopped_process_is_woken_to_hear_term() {
    let hive = Hive::start(["-n", "1"]);
    let cleaned = hive.file("cleaned");
    let gate = hive.gate();
    hive.submit(&format!("trap 'echo yes >{cleaned}; exit 1' TERM; echo $$ >{}; {}", hive.file("pid"), gate.wait()));
    gate.wait_for(1);
    kill(hive.read("pid").trim().parse().unwrap(), "STOP");
    hive.run(["pool", "stop"]).exits(0);
    assert_eq!(hive.read("cleaned"), "yes\n");
}

#[test]
fn who_ignores_term_is_killed_after_the_grace() {
    let hive = Hive::start(["-n", "2", "--stop-grace", "0.2"]);
    let gate = hive.gate();
    hive.submit_times(2, &format!("trap '' TERM HUP INT; {}", gate.wait()));
    gate.wait_for(2);
    hive.run(["pool", "stop"]).exits(0);
    assert!(hive.processes().is_empty());
}

#[test]
fn now_does_not_wait_for_the_grace() {
    let hive = Hive::start(["-n", "1", "--stop-grace", "1000"]);
    let gate = hive.gate();
    hive.submit(&format!("trap '' TERM HUP INT; {}", gate.wait()));
    gate.wait_for(1);
    hive.run(["pool", "stop", "--now"]).exits(0);
    assert!(hive.processes().is_empty());
}

#[test]
fn a_clean_stop_can_be_made_harder() {
    let hive = Hive::start(["-n", "1", "--stop-grace", "1000"]);
    let gate = hive.gate();
    hive.submit(&format!("trap '' TERM HUP INT; {}", gate.wait()));
    gate.wait_for(1);
    let clean = hive.spawn(["pool", "stop"]);
    wait_until("it stops", || hive.status()["state"] == "stopping");
    hive.run(["pool", "stop", "--now"]).exits(0);
    clean.ends().exits(0);
}

#[test]
fn a_term_to_the_supervisor_is_a_clean_stop() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&gate.then("echo back"));
    gate.wait_for(1);
    let supervisor = hive.supervisor();
    kill(supervisor, "TERM");
    wait_until("it is gone", || !is_alive(supervisor));
    assert!(!hive.live().exists());
    assert!(hive.processes().is_empty());
    hive.pool_start(["-n", "1"]).exits(0);
    gate.open(1);
    hive.run(["wait", "1"]).prints("1 done\n").exits(0);
}

#[test]
fn stop_tells_json() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["--json", "pool", "stop"]).prints("{\"ok\":true}\n").exits(0);
}

#[test]
fn a_pool_that_is_still_starting_can_be_stopped() {
    let hive = Hive::new();
    let start = hive.spawn(["pool", "start", "-n", "2", "--kind", "lines", "--", "sleep", "1000"]);
    wait_until("both were started", || hive.running("sleep").len() == 2);
    hive.run(["pool", "stop"]).exits(0);
    start.ends().exits(6).mentions("the hive was stopped");
}
