//! How a task may end: each way is told apart from the others, by exit code and in words.

use crate::harness::Hive;

#[test]
fn the_exit_code_of_a_task_is_that_of_run() {
    let hive = Hive::start(["-n", "1"]);
    for code in [0, 1, 2, 3, 5, 7, 124, 125, 126, 127, 130, 255] {
        hive.run(["run".to_owned(), format!("exit {code}")]).prints("").says("").exits(code);
    }
}

#[test]
fn a_task_that_is_killed_says_by_which_signal() {
    let hive = Hive::start(["-n", "1"]);
    for (signal, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139), ("HUP", 129)] {
        let id = hive.task_count() + 1;
        let said = format!("hivectl: task {id} was killed by SIG{signal}\n");
        hive.run(["run".to_owned(), format!("echo first; kill -{signal} $$")])
            .prints("first\n")
            .says(&said)
            .exits(code);
    }
}

#[test]
fn a_command_that_is_not_there_is_the_tasks_failure() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "no-such-command-here"]).exits(127).mentions("not found");
}

#[test]
fn a_task_that_takes_too_long_is_ended() {
    let hive = Hive::start(["-n", "1"]);
    let run = hive.run(["run", "--timeout", "0.2", "echo begun; sleep 1000"]);
    run.prints("begun\n").exits(5).mentions("task 1 failed: it timed out after 0.2 s");
    assert_eq!(hive.running("sleep"), [0; 0]);
    assert_eq!(hive.task(1)["timed_out"], true);
    hive.run(["result", "1"]).exits(5);
    hive.run(["run", "echo next"]).prints("next\n").exits(0);
}

#[test]
fn a_task_that_ignores_term_is_killed_when_its_time_is_up() {
    let hive = Hive::start(["-n", "1", "--stop-grace", "0.2"]);
    let stubborn = "trap '' TERM; echo begun; while :; do sleep 1000; done";
    hive.run(["run", "--timeout", "0.2", stubborn]).prints("begun\n").exits(5);
    assert_eq!(hive.running("sleep"), [0; 0]);
}

#[test]
fn the_time_in_the_queue_does_not_count() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&gate.wait());
    gate.wait_for(1);
    let task = hive.submit_with(&["--timeout", "0.1"], "true");
    hive.submit_with(&["--priority", "1"], "sleep 0.2");
    gate.open(1);
    hive.run(["wait".to_owned(), task.to_string()]).prints(format!("{task} done\n")).exits(0);
}

#[test]
fn a_lines_agent_that_takes_too_long_is_started_anew() {
    let hive =
        Hive::one_line_agent("echo READY; while read -r v id t; do [ $t = hang ] && sleep 1000; echo DONE $id; done");
    hive.run(["run", "--timeout", "0.2", "hang"]).exits(5).mentions("timed out after 0.2 s");
    hive.run(["run", "go"]).exits(0);
    assert_eq!(hive.agent(1)["restarts"], 1);
}

#[test]
fn wait_says_how_each_task_ended() {
    let hive = Hive::start(["-n", "1"]);
    for text in ["true", "false", "true"] {
        hive.submit(text);
    }
    hive.run(["wait", "1", "2", "3"]).prints("1 done\n2 failed\n3 done\n").exits(1);
    hive.run(["wait", "1", "3"]).prints("1 done\n3 done\n").exits(0);
    hive.run(["wait", "4"]).exits(4).mentions("no task 4");
}

#[test]
fn wait_all_counts() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&gate.then("false"));
    gate.wait_for(1);
    hive.submit("true");
    hive.submit("true");
    hive.run(["cancel", "3"]).exits(0);
    let waiting = hive.spawn(["wait", "--all"]);
    crate::harness::wait_until("it waits", || hive.events().iter().any(|e| e["kind"] == "awaited-all"));
    gate.open(1);
    waiting.ends().prints("1 done, 1 failed, 1 cancelled\n").exits(1);
    hive.run(["wait", "--all"]).prints("0 done, 0 failed, 0 cancelled\n").exits(0);
}

#[test]
fn waiting_may_be_bounded() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&gate.wait());
    gate.wait_for(1);
    for what in ["1", "--all"] {
        hive.run(["wait", "--timeout", "0.1", what]).prints("").exits(5).mentions("the time is up");
    }
    gate.open(1);
    hive.run(["wait", "--timeout", "50", "1"]).prints("1 done\n").exits(0);
}

impl Hive {
    fn task_count(&self) -> usize {
        self.tasks().len()
    }
}
