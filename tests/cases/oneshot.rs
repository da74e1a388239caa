//! Programs that read one task from stdin, started ahead.

use crate::harness::{Hive, is_alive, kill, noise, python, wait_until};

#[test]
fn cat_answers_with_its_task() {
    let hive = Hive::oneshot("2", ["cat"]);
    for text in ["x", "two words", "REF: no reference", "  blanks  "] {
        hive.run(["run", text]).prints(text).says("").exits(0);
    }
}

#[test]
fn a_slow_starter_is_warm_when_its_task_comes() {
    let hive = Hive::oneshot("2", ["sh", "-c", "sleep 1; cat"]);
    let warm = hive.workload(1);
    assert!(is_alive(warm));
    assert_eq!(hive.running("sleep"), [0; 0], "its start is over");
    hive.run(["run", "--agent", "1", "x"]).prints("x").exits(0);
}

#[test]
fn a_python_program_is_a_oneshot() {
    let program = "import sys; print(sys.stdin.read().upper(), end='')";
    let hive = Hive::oneshot("1", [python(), "-c", program]);
    hive.run(["run", "hello"]).prints("HELLO").exits(0);
    hive.run(["run", "again"]).prints("AGAIN").exits(0);
}

#[test]
fn each_task_has_a_process_of_its_own() {
    let hive = Hive::oneshot("1", ["sh", "-c", "cat >/dev/null; echo $$"]);
    let mut pids: Vec<String> = (0..5).map(|_| hive.run(["run", "x"]).exits(0).out()).collect();
    pids.sort();
    pids.dedup();
    assert_eq!(pids.len(), 5);
}

#[test]
fn the_next_process_is_warm_while_the_task_runs() {
    let hive = Hive::new();
    let gate = hive.gate();
    let program = format!("cat >/dev/null; {}", gate.wait());
    hive.pool_start(["-n", "1", "--kind", "oneshot", "--", "sh", "-c", &program]).exits(0);
    hive.submit("x");
    gate.wait_for(1);
    // One sh waits at the gate; beside it one that waits for its task, with the cat that reads it.
    wait_until("the next one is warm", || hive.running("sh").len() == 2 && hive.running("cat").len() == 1);
    gate.open(1);
    hive.run(["wait", "1"]).exits(0);
}

#[test]
fn exit_code_and_stderr_of_a_oneshot_are_those_of_the_task() {
    let hive = Hive::oneshot("1", ["sh", "-c", "read -r t; echo out; echo err >&2; exit $t"]);
    hive.run(["run", "7"]).prints("out\n").says("err\n").exits(7);
    hive.run(["run", "0"]).prints("out\n").says("err\n").exits(0);
}

#[test]
fn a_large_text_arrives_and_comes_back_byte_for_byte() {
    let hive = Hive::oneshot("1", ["cat"]);
    for (size, seed) in [(2048, 1), (2049, 2), (70_000, 3), (1_500_000, 4)] {
        let text = noise(size, seed);
        hive.cmd(["run", "-"]).stdin(text.clone()).run().prints(&text).exits(0);
    }
    let literal = format!("REF:{}", "0".repeat(64));
    hive.cmd(["run", "-"]).stdin(literal.clone()).run().prints(&literal).exits(0);
}

#[test]
fn a_program_that_does_not_read_its_task_can_still_do_it() {
    // Blocked on stdin first, so that it counts as warm; then it leaves most of its task unread.
    let hive = Hive::oneshot("1", ["sh", "-c", "read -r first; echo $first"]);
    let text = format!("first\n{}", "rest\n".repeat(100_000));
    hive.cmd(["run", "-"]).stdin(text).run().prints("first\n").exits(0);
}

#[test]
fn a_warm_process_that_dies_is_replaced() {
    let hive = Hive::oneshot("1", ["cat"]);
    let warm = hive.workload(1);
    kill(warm, "KILL");
    wait_until("another one is warm", || hive.agent(1)["workload"].as_i64().is_some_and(|pid| pid as i32 != warm));
    let answer = hive.json(["run", "x"]);
    assert_eq!((&answer["result"], &answer["attempt"]), (&"x".into(), &1.into()));
}

#[test]
fn a_warm_process_that_dies_beside_a_running_task_costs_nothing() {
    let hive = Hive::new();
    let gate = hive.gate();
    let ran = hive.file("ran");
    let program = format!("t=$(cat); [ \"$t\" = first ] && {{ {}; }}; echo $t >>{ran}; echo $t", gate.wait());
    hive.pool_start(["-n", "1", "--kind", "oneshot", "--", "sh", "-c", &program]).exits(0);
    let first = hive.spawn(["run", "first"]);
    gate.wait_for(1);
    wait_until("the next one is warm", || hive.running("cat").len() == 1);
    let second = hive.spawn(["run", "--retries", "0", "second"]);
    wait_until("it is queued", || hive.status()["tasks"]["queued"] == 1);
    kill(hive.running("cat")[0], "KILL");
    wait_until("the warm one is gone", || hive.read("ran") == "\n");
    gate.open(1);
    first.ends().prints("first\n").exits(0);
    second.ends().prints("second\n").exits(0);
    assert_eq!(hive.read("ran"), "\nfirst\nsecond\n", "each task ran once");
}

#[test]
fn a_program_that_does_not_wait_for_its_task_parks_the_agent() {
    let hive = Hive::new();
    let start = hive.pool_start(["-n", "1", "--kind", "oneshot", "--", "sh", "-c", "echo usage: x >&2; exit 2"]);
    start.exits(1).mentions("agent 1 is parked: it exited with 2: usage: x");
}

#[test]
fn what_a_oneshot_leaves_behind_is_ended() {
    let hive = Hive::oneshot("1", ["sh", "-c", "cat; sleep 1000 & setsid sleep 1000 & :"]);
    hive.run(["run", "x"]).prints("x").exits(0);
    wait_until("no sleep is left", || hive.running("sleep").is_empty());
    hive.run(["run", "y"]).prints("y").exits(0);
}

#[test]
fn what_it_says_before_its_task_is_the_agents_log() {
    let hive = Hive::oneshot("1", ["sh", "-c", "echo early >&2; cat"]);
    wait_until("it is there", || hive.run(["logs", "--agent", "1"]).out().contains("early\n"));
}

#[test]
fn many_tasks_on_few_oneshots_all_end_right() {
    let hive = Hive::oneshot("2", ["sed", "s/^/got /"]);
    let texts: String = (1..=60).map(|n| format!("{n}\n")).collect();
    hive.cmd(["submit", "--stdin"]).stdin(texts).run().exits(0);
    hive.run(["wait", "--all"]).exits(0);
    for task in hive.tasks() {
        assert_eq!(task["result"], format!("got {}", task["id"]), "{task}");
    }
}
