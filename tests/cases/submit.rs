//! `submit`: numbers, order, batches, and a queue that has an end.

use crate::harness::{Hive, wait_until};

#[test]
fn submit_prints_the_number_and_does_not_wait() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.run(["submit", &gate.then("echo hi")]).prints("1\n").says("").exits(0);
    assert_eq!(hive.json(["submit", "true"])["id"], 2);
    gate.open(1);
    hive.run(["wait", "1"]).exits(0);
    hive.run(["result", "1"]).prints("hi\n").exits(0);
}

#[test]
fn a_thousand_lines_are_a_thousand_tasks_and_each_result_is_right() {
    let hive = Hive::start(["-n", "2"]);
    let ids = hive.bash("seq 1000 | sed 's/^/echo /' | hivectl submit --stdin").exits(0).out();
    assert_eq!(ids, (1..=1000).map(|n| format!("{n}\n")).collect::<String>());
    hive.run(["wait", "--all"]).exits(0);
    let tasks = hive.tasks();
    assert_eq!(tasks.len(), 1000);
    for task in tasks {
        assert_eq!((&task["state"], &task["result"]), (&"done".into(), &task["id"].to_string().into()), "{task}");
    }
}

#[test]
fn twenty_thousand_lines_are_taken_and_none_is_lost() {
    let agent = "echo READY; while read -r v id t; do echo DONE $id $t; done";
    let hive = Hive::start(["-n", "2", "--kind", "lines", "--prefetch", "16", "--", "bash", "-c", agent]);
    let texts: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    let ids = hive.cmd(["submit", "--stdin"]).stdin(texts).run().exits(0).out();
    assert_eq!(ids.lines().count(), 20_000);
    hive.run(["wait", "--all"]).exits(0);
    let tasks = hive.tasks();
    assert_eq!(tasks.len(), 20_000);
    for (n, task) in tasks.iter().enumerate() {
        assert_eq!(task["result"], (n + 1).to_string(), "{task}");
    }
}

#[test]
fn a_full_queue_holds_the_writer_back_and_nothing_is_lost() {
    let agent = "echo READY; while read -r v id t; do echo DONE $id $t; done";
    let hive = Hive::start(["-n", "1", "--kind", "lines", "--max-queued", "100", "--", "bash", "-c", agent]);
    let texts: String = (1..=3000).map(|n| format!("{n}\n")).collect();
    let ids = hive.cmd(["submit", "--stdin"]).stdin(texts).run().exits(0).out();
    hive.run(["wait", "--all"]).exits(0);
    let ids: Vec<u64> = ids.lines().map(|id| id.parse().unwrap()).collect();
    let tasks = hive.tasks();
    assert_eq!(tasks.len(), 3000);
    let mut results: Vec<u64> = tasks.iter().map(|t| t["result"].as_str().unwrap().parse().unwrap()).collect();
    results.sort_unstable();
    assert_eq!(results, (1..=3000).collect::<Vec<_>>(), "each text ran once");
    for (n, id) in ids.iter().enumerate() {
        let task = &tasks[*id as usize - 1];
        assert_eq!(
            task["result"],
            (n + 1).to_string(),
            "line {} of the output is the number of that line's task",
            n + 1
        );
    }
}

#[test]
fn the_queue_never_grows_beyond_its_bound() {
    let hive = Hive::new();
    let gate = hive.gate();
    hive.pool_start(["-n", "1", "--max-queued", "10"]).exits(0);
    hive.submit(&gate.wait());
    gate.wait_for(1);
    let mut batch = hive.cmd(["submit", "--stdin"]).stdin("true\n".repeat(50)).spawn();
    wait_until("the queue is full", || hive.status()["tasks"]["queued"] == 10);
    hive.run(["submit", "true"]).prints("").exits(6).mentions("10 tasks wait already, and that is the limit");
    hive.run(["run", "true"]).prints("").exits(6).mentions("wait until some are done");
    assert!(!batch.has_ended());
    gate.open(1);
    assert_eq!(batch.ends().exits(0).out().lines().count(), 50);
    hive.run(["wait", "--all"]).exits(0);
    assert_eq!(hive.status()["tasks"]["done"], 51);
}

#[test]
fn the_first_task_of_a_batch_runs_while_the_writer_goes_on() {
    let hive = Hive::start(["-n", "1"]);
    let mut batch = hive.cmd(["submit", "--stdin"]).open_stdin().spawn();
    for n in 1..=3 {
        batch.write(format!("echo {n}\n").as_bytes());
        hive.wait_for_state(n, "done");
        batch.wait_for_out(&format!("{n}\n"));
    }
    batch.close_stdin();
    batch.ends().prints("1\n2\n3\n").exits(0);
}

#[test]
fn a_batch_whose_hive_stops_says_so_and_what_was_printed_is_kept() {
    let hive = Hive::start(["-n", "1"]);
    let mut batch = hive.cmd(["submit", "--stdin"]).open_stdin().spawn();
    batch.write(b"echo kept\n");
    batch.wait_for_out("1\n");
    hive.run(["pool", "stop"]).exits(0);
    batch.write(b"echo too late\n");
    batch.close_stdin();
    batch.ends().prints("1\n").exits(3).mentions("hivectl pool start");
    hive.pool_start(["-n", "1"]).exits(0);
    hive.run(["wait", "1"]).prints("1 done\n").exits(0);
}

#[test]
fn a_batch_of_one_half_line_is_one_task() {
    let hive = Hive::start(["-n", "1"]);
    hive.cmd(["submit", "--stdin"]).stdin("echo no newline").run().prints("1\n").exits(0);
    hive.cmd(["submit", "--stdin"]).stdin("").run().prints("").exits(0);
    hive.run(["wait", "--all"]).exits(0);
    hive.run(["result", "1"]).prints("no newline\n").exits(0);
}

#[test]
fn a_long_line_of_a_batch_goes_by_reference() {
    let hive = Hive::start(["-n", "1"]);
    let texts = format!("echo {}\necho short\n", "x".repeat(50_000));
    hive.cmd(["submit", "--stdin"]).stdin(texts).run().prints("1\n2\n").exits(0);
    hive.run(["wait", "--all"]).exits(0);
    hive.run(["result", "1"]).prints("x".repeat(50_000) + "\n").exits(0);
    hive.run(["result", "2"]).prints("short\n").exits(0);
}

#[test]
fn a_batch_shares_its_options() {
    let hive = Hive::start(["-n", "2"]);
    let batch = hive.cmd(["submit", "--stdin", "--agent", "2", "--name", "twin"]);
    batch.stdin("echo $HIVE_AGENT\necho $HIVE_AGENT\n").run().prints("1\n2\n").exits(0);
    hive.run(["wait", "--all"]).exits(0);
    for task in hive.tasks() {
        assert_eq!((&task["result"], &task["name"]), (&"2".into(), &"twin".into()));
    }
}

#[test]
fn tasks_run_in_the_order_of_their_priority_and_then_of_their_age() {
    let hive = Hive::start(["-n", "1"]);
    let gate = hive.gate();
    hive.submit(&gate.wait());
    gate.wait_for(1);
    let order = hive.file("order");
    let note =
        |priority: &str, word: &str| hive.submit_with(&["--priority", priority], &format!("echo {word} >>{order}"));
    note("0", "c1");
    note("-5", "e");
    note("7", "a");
    note("0", "c2");
    note("1", "b");
    note("0", "c3");
    gate.open(1);
    hive.run(["wait", "--all"]).exits(0);
    assert_eq!(hive.read("order"), "a\nb\nc1\nc2\nc3\ne\n");
}

#[test]
fn a_task_for_one_agent_waits_for_it_and_lets_others_pass() {
    let hive = Hive::start(["-n", "2"]);
    let gate = hive.gate();
    hive.submit_with(&["--agent", "2"], &gate.wait());
    gate.wait_for(1);
    let bound = hive.submit_with(&["--agent", "2", "--priority", "9"], "echo $HIVE_AGENT");
    hive.run(["run", "echo $HIVE_AGENT"]).prints("1\n").exits(0);
    assert_eq!(hive.task(bound)["state"], "queued");
    gate.open(1);
    hive.run(["wait".to_owned(), bound.to_string()]).exits(0);
    hive.run(["result".to_owned(), bound.to_string()]).prints("2\n").exits(0);
}

#[test]
fn idle_agents_share_the_work() {
    let hive = Hive::start(["-n", "3"]);
    let gate = hive.gate();
    hive.submit_times(3, &gate.wait());
    gate.wait_for(3);
    assert_eq!(hive.status()["tasks"]["running"], 3);
    gate.open(3);
    hive.run(["wait", "--all"]).exits(0);
}
