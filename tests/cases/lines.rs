//! Resident programs that speak the wire, as people write them.

use std::fs;

use crate::harness::{Hive, kill, peak_memory, python, wait_until};

const UPPER: &str = "echo READY; while read -r verb id text; do [ $verb = TASK ] && echo \"DONE $id ${text^^}\"; done";

/// Answers each task with its text; a text that begins with `gate` first waits at the gate.
fn at_gate(gate: &str) -> String {
    format!("echo READY; while read -r v id t; do [[ $t = gate* ]] && {{ {gate}; }}; echo \"DONE $id $t\"; done")
}

#[test]
fn four_words_of_bash_are_an_agent() {
    let hive = Hive::lines(UPPER);
    hive.run(["run", "hello"]).prints("HELLO\n").says("").exits(0);
    hive.run(["run", "two words"]).prints("TWO WORDS\n").exits(0);
}

#[test]
fn four_lines_of_python_are_an_agent() {
    let agent = "print('READY', flush=True)
while True:
    verb, id, text = input().split(' ', 2)
    print('DONE', id, text.upper(), flush=True)";
    let hive = Hive::start(["-n", "2", "--kind", "lines", "--", python(), "-c", agent]);
    hive.run(["run", "hello"]).prints("HELLO\n").exits(0);
    hive.run(["run", "again"]).prints("AGAIN\n").exits(0);
}

#[test]
fn an_answer_may_be_empty() {
    let hive = Hive::one_line_agent("echo READY; while read -r v id t; do echo DONE $id; done");
    hive.run(["run", "x"]).prints("").exits(0);
}

#[test]
fn blanks_within_a_text_and_an_answer_stay() {
    let hive = Hive::one_line_agent(
        "echo READY; while IFS= read -r line; do rest=${line#TASK }; echo \"DONE ${rest%% *} ${rest#* }\"; done",
    );
    hive.run(["run", "  a  b  "]).prints("  a  b  \n").exits(0);
}

#[test]
fn an_agent_may_end_its_lines_as_windows_does() {
    let hive = Hive::one_line_agent(
        "printf 'READY\\r\\n'; while read -r v id t; do printf 'DONE %s %s\\r\\n' $id \"$t\"; done",
    );
    hive.run(["run", "x"]).prints("x\n").exits(0);
}

#[test]
fn an_agent_may_say_that_a_task_failed() {
    let hive = Hive::one_line_agent("echo READY; while read -r v id t; do echo FAIL $id no such model; done");
    hive.run(["run", "x"]).prints("").says("hivectl: task 1 failed: no such model\n").exits(1);
    assert_eq!(hive.agent(1)["restarts"], 0);
}

#[test]
fn a_longer_answer_than_the_inline_bound_comes_whole() {
    let agent =
        "echo READY; while read -r v id t; do printf 'DONE %s %s\\n' $id $(head -c $t /dev/zero | tr '\\0' x); done";
    let hive = Hive::one_line_agent(agent);
    for size in [2047, 2048, 2049, 4000] {
        hive.run(["run".to_owned(), size.to_string()]).prints("x".repeat(size) + "\n").exits(0);
    }
}

#[test]
fn an_answer_by_reference_comes_as_the_content() {
    let agent = "echo READY; while read -r v id t; do
        printf 'a\\nb' >$HIVE_CONTEXT/tmp/mine; sum=$(sha256sum <$HIVE_CONTEXT/tmp/mine); sum=${sum%% *}
        mkdir -p $HIVE_CONTEXT/${sum:0:2}; mv $HIVE_CONTEXT/tmp/mine $HIVE_CONTEXT/${sum:0:2}/${sum:2}
        echo DONE $id REF:$sum; done";
    let hive = Hive::one_line_agent(agent);
    hive.run(["run", "x"]).prints("a\nb").exits(0);
}

#[test]
fn what_is_not_protocol_is_the_tasks_output() {
    let hive =
        Hive::one_line_agent("echo READY; while read -r v id t; do echo thinking; echo hard; echo DONE $id ok; done");
    hive.run(["run", "x"]).prints("ok\n").exits(0);
    hive.run(["logs", "1"]).prints("thinking\nhard\n").exits(0);
}

#[test]
fn stderr_of_a_resident_program_is_its_agents_log() {
    let hive = Hive::one_line_agent("echo warming up >&2; echo READY; while read -r v id t; do echo DONE $id ok; done");
    wait_until("the log is there", || hive.run(["logs", "--agent", "1"]).out() == "warming up\n");
}

#[test]
fn progress_and_usage_are_recorded() {
    let hive = Hive::new();
    let gate = hive.gate();
    let work = "echo PROGRESS $id 41.7 nearly; echo USAGE $id in=3 out=4";
    let agent = format!("echo READY; while read -r v id t; do {work}; {}; echo DONE $id; done", gate.wait());
    hive.pool_start(["-n", "1", "--kind", "lines", "--", "bash", "-c", &agent]).exits(0);
    hive.submit("x");
    wait_until("the progress is seen", || hive.task(1)["percent"] == 41);
    gate.open(1);
    hive.run(["wait", "1"]).exits(0);
    let events = hive.events();
    assert!(events.iter().any(|e| e["kind"] == "usage" && e["task"] == 1 && e["usage"] == "in=3 out=4"));
    assert!(events.iter().any(|e| e["kind"] == "progress" && e["text"] == "nearly"));
}

#[test]
fn a_label_that_an_agent_declares_draws_tasks() {
    let agent = "echo READY usr1 agent$HIVE_AGENT; while read -r v id t; do echo DONE $id $HIVE_AGENT; done";
    let hive = Hive::start(["-n", "2", "--kind", "lines", "--label", "all", "--", "bash", "-c", agent]);
    hive.run(["run", "--label", "agent2", "x"]).prints("2\n").exits(0);
    hive.run(["run", "--label", "agent1", "--label", "all", "x"]).prints("1\n").exits(0);
    hive.run(["run", "--label", "agent1", "--label", "agent2", "x"])
        .exits(4)
        .mentions("no agent has the label agent1 and agent2");
    assert_eq!(hive.agent(2)["labels"], serde_json::json!(["all", "agent2"]));
    assert_eq!(hive.agent(2)["abilities"], serde_json::json!(["usr1"]));
}

#[test]
fn only_the_agent_that_holds_a_task_can_end_it() {
    let hive = Hive::new();
    let gate = hive.gate();
    // Agent 2 claims to have done what agent 1 holds.
    let agent = format!(
        "echo READY; while read -r v id t; do [ $HIVE_AGENT = 2 ] && echo DONE 1 forged; [ $HIVE_AGENT = 1 ] && {{ {}; }}; echo DONE $id $t; done",
        gate.wait()
    );
    hive.pool_start(["-n", "2", "--kind", "lines", "--", "bash", "-c", &agent]).exits(0);
    let first = hive.spawn(["run", "--agent", "1", "honest"]);
    gate.wait_for(1);
    hive.run(["run", "--agent", "2", "other"]).prints("other\n").exits(0);
    gate.open(1);
    first.ends().prints("honest\n").exits(0);
    assert_eq!(hive.status()["malformed"], 1);
}

#[test]
fn an_answer_that_is_said_twice_counts_once() {
    let hive = Hive::one_line_agent(
        "echo READY; while read -r v id t; do echo DONE $id $t; echo DONE $id twice; echo FAIL $id x; done",
    );
    for n in 0..20 {
        hive.run(["run".to_owned(), n.to_string()]).prints(format!("{n}\n")).exits(0);
    }
    assert_eq!(hive.status()["tasks"]["done"], 20);
}

#[test]
fn malformed_lines_of_an_agent_are_counted_and_harm_nothing() {
    let agent = r"echo READY; while read -r v id t; do
        echo DONE; echo DONE x; echo PROGRESS $id 101; echo PROGRESS; echo FAIL; echo USAGE nothing; echo
        printf '\377\376\n'; printf 'a\0b\n'; head -c 10000 /dev/zero | tr '\0' x; echo
        echo DONE $id ok; done";
    let hive = Hive::one_line_agent(agent);
    hive.run(["run", "x"]).prints("ok\n").exits(0);
    hive.run(["run", "x"]).prints("ok\n").exits(0);
    assert_eq!(hive.status()["malformed"], 12);
    assert_eq!(hive.agent(1)["restarts"], 0);
    let log = hive.run(["logs", "1"]).exits(0);
    assert!(log.stdout.windows(10_000).any(|w| w.iter().all(|b| *b == b'x')), "the long line is output: {log}");
}

#[test]
fn a_long_line_of_output_is_whole_however_it_comes() {
    let agent = "import os
os.write(1, b'READY\\n')
while True:
    id = os.read(0, 4096).split()[1]
    os.write(1, b'a' * 5000 + b'\\n' + b'b' * 9000 + b'\\n' + b'c' * 4095 + b'\\n' + b'd' * 4096 + b'\\n')
    os.write(1, b'DONE ' + id + b' ok\\n')";
    let hive = Hive::start(["-n", "1", "--kind", "lines", "--", python(), "-c", agent]);
    hive.run(["run", "x"]).prints("ok\n").exits(0);
    let lines = [("a", 5000), ("b", 9000), ("c", 4095), ("d", 4096)].map(|(letter, len)| letter.repeat(len) + "\n");
    hive.run(["logs", "1"]).prints(lines.concat()).exits(0);
}

#[test]
fn endless_output_without_a_newline_costs_no_memory() {
    let agent = "echo READY; while read -r v id t; do head -c 20000000 /dev/zero; echo; echo DONE $id ok; done";
    let hive = Hive::one_line_agent(agent);
    hive.run(["run", "x"]).prints("ok\n").exits(0);
    assert!(peak_memory(hive.supervisor()) < 32 << 20);
    assert_eq!(fs::metadata(hive.kept().join("logs/1.log")).unwrap().len(), 20_000_001);
}

#[test]
fn an_agent_that_does_not_read_costs_the_others_nothing() {
    let agent = "echo READY; [ $HIVE_AGENT = 1 ] && exec sleep 1000; while read -r v id t; do echo DONE $id ok; done";
    let hive = Hive::start(["-n", "2", "--kind", "lines", "--prefetch", "256", "--", "bash", "-c", agent]);
    let texts = format!("{}\n", "x".repeat(2000)).repeat(200);
    hive.cmd(["submit", "--stdin", "--agent", "1"]).stdin(texts).run().exits(0);
    wait_until("it holds more than its pipe takes", || hive.agent(1)["held"] == 200);
    for _ in 0..10 {
        hive.run(["run", "--agent", "2", "y"]).prints("ok\n").exits(0);
    }
}

#[test]
fn an_answer_that_is_not_utf8_does_not_hang_the_task() {
    let hive = Hive::one_line_agent("echo READY; while read -r v id t; do printf 'DONE %s gr\\374n\\n' $id; done");
    let run = hive.run(["run", "--timeout", "10", "x"]);
    assert_ne!(run.code, 5, "the answer was not understood, and nobody was told: {run}");
}

#[test]
fn an_answer_longer_than_a_line_does_not_hang_the_task() {
    let agent = "echo READY; while read -r v id t; do echo DONE $id $(head -c 5000 /dev/zero | tr '\\0' x); done";
    let hive = Hive::one_line_agent(agent);
    let run = hive.run(["run", "--timeout", "10", "x"]);
    assert_ne!(run.code, 5, "the answer was not understood, and nobody was told: {run}");
}

// ---- death ----

#[test]
fn a_task_whose_agent_dies_is_tried_again() {
    let hive = Hive::new();
    let once = hive.file("once");
    let agent = format!(
        "echo READY; while read -r v id t; do [ -e {once} ] || {{ : >{once}; exit 1; }}; echo DONE $id $t; done"
    );
    hive.pool_start(["-n", "1", "--kind", "lines", "--", "bash", "-c", &agent]).exits(0);
    let answer = hive.json(["run", "x"]);
    assert_eq!((&answer["state"], &answer["attempt"]), (&"done".into(), &2.into()));
}

#[test]
fn a_task_that_kills_every_agent_fails_with_the_evidence() {
    let hive = Hive::one_line_agent("echo READY; read -r v id t; echo 'out of cheese' >&2; exit 9");
    let run = hive.run(["run", "x"]).prints("").exits(125);
    run.mentions("task 1 failed: its agent died under it, 3 of 3 times: it exited with 9: out of cheese");
    assert_eq!(hive.task(1)["attempt"], 3);
}

#[test]
fn with_no_retries_a_task_runs_at_most_once() {
    let hive = Hive::new();
    let tries = hive.file("tries");
    let agent = format!("echo READY; while read -r v id t; do echo $id >>{tries}; kill -9 $$; done");
    hive.pool_start(["-n", "1", "--kind", "lines", "--", "bash", "-c", &agent]).exits(0);
    let run = hive.run(["run", "--retries", "0", "x"]).exits(125);
    run.mentions("its agent died under it, 1 of 1 times: it was killed by SIGKILL");
    assert_eq!(hive.read("tries"), "1\n");
}

#[test]
fn an_agent_that_dies_at_rest_comes_back() {
    let hive = Hive::one_line_agent(UPPER);
    let before = hive.workload(1);
    kill(before, "KILL");
    wait_until("another workload is there", || {
        hive.agent(1)["workload"].as_i64().is_some_and(|pid| pid as i32 != before)
    });
    hive.run(["run", "hello"]).prints("HELLO\n").exits(0);
    assert_eq!(hive.agent(1)["restarts"], 1);
}

#[test]
fn an_agent_that_answers_and_dies_has_answered() {
    let hive = Hive::one_line_agent("echo READY; read -r v id t; echo DONE $id last words; exit 1");
    for _ in 0..3 {
        let answer = hive.json(["run", "x"]);
        assert_eq!((&answer["result"], &answer["attempt"]), (&"last words".into(), &1.into()));
    }
}

// ---- prefetch ----

#[test]
fn an_agent_may_hold_tasks_ahead_and_ends_them_in_order() {
    let hive = Hive::new();
    let gate = hive.gate();
    let agent = at_gate(&gate.wait());
    hive.pool_start(["-n", "1", "--kind", "lines", "--prefetch", "16", "--", "bash", "-c", &agent]).exits(0);
    hive.submit("gate");
    gate.wait_for(1);
    (1..=20).for_each(|n| _ = hive.submit(&n.to_string()));
    wait_until("it holds sixteen", || hive.agent(1)["held"] == 16);
    gate.open(1);
    hive.run(["wait", "--all"]).exits(0);
    let ended: Vec<u64> =
        hive.events().iter().filter(|e| e["kind"] == "done").map(|e| e["task"].as_u64().unwrap()).collect();
    assert_eq!(ended, (1..=21).collect::<Vec<_>>());
}

#[test]
fn what_an_agent_held_and_had_not_begun_goes_back_as_if_nothing_had_been() {
    let hive = Hive::new();
    let gate = hive.gate();
    let agent = at_gate(&gate.wait());
    hive.pool_start(["-n", "1", "--kind", "lines", "--prefetch", "16", "--", "bash", "-c", &agent]).exits(0);
    hive.submit("gate");
    gate.wait_for(1);
    (2..=20).for_each(|n| _ = hive.submit_with(&["--retries", "0"], &n.to_string()));
    wait_until("it holds sixteen", || hive.agent(1)["held"] == 16);
    kill(hive.workload(1), "KILL");
    gate.wait_for(2);
    gate.open(1);
    hive.run(["wait", "--all"]).exits(0);
    for task in hive.tasks() {
        let expected = if task["id"] == 1 { 2 } else { 1 };
        assert_eq!((&task["state"], &task["attempt"]), (&"done".into(), &expected.into()), "{task}");
        if task["id"] != 1 {
            assert_eq!(task["result"], task["id"].to_string());
        }
    }
}

#[test]
fn with_two_agents_the_other_one_takes_over_what_was_held() {
    let hive = Hive::new();
    let gate = hive.gate();
    let agent = at_gate(&gate.wait());
    hive.pool_start(["-n", "2", "--kind", "lines", "--prefetch", "8", "--", "bash", "-c", &agent]).exits(0);
    hive.submit("gate");
    hive.submit("gate");
    gate.wait_for(2);
    let texts: String = (0..40).map(|n| format!("{n}\n")).collect();
    hive.cmd(["submit", "--stdin"]).stdin(texts).run().exits(0);
    kill(hive.workload(1), "KILL");
    gate.open(3);
    hive.run(["wait", "--all"]).exits(0);
    let results: Vec<_> = hive.tasks().iter().skip(2).map(|t| t["result"].as_str().unwrap().to_owned()).collect();
    assert_eq!(results, (0..40).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn thousands_of_tiny_tasks_all_end_right() {
    let agent = "import sys
print('READY', flush=True)
for line in sys.stdin:
    verb, id, text = line.split()
    if verb == 'TASK': print('DONE', id, int(text) * 2, flush=True)";
    let hive = Hive::start(["-n", "3", "--kind", "lines", "--prefetch", "16", "--", python(), "-c", agent]);
    let texts: String = (1..=3000).map(|n| format!("{n}\n")).collect();
    let ids = hive.cmd(["submit", "--stdin"]).stdin(texts).run().exits(0).out();
    assert_eq!(ids, (1..=3000).map(|n| format!("{n}\n")).collect::<String>());
    hive.run(["wait", "--all"]).exits(0);
    for task in hive.tasks() {
        assert_eq!(task["result"], (task["id"].as_u64().unwrap() * 2).to_string());
    }
}

#[test]
fn the_pipes_of_an_agent_are_its_stdin_and_stdout() {
    let hive = Hive::one_line_agent(UPPER);
    let pid = hive.workload(1);
    for (fd, name) in [(0, "in"), (1, "out")] {
        let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
        assert_eq!(link, hive.live().join("agents/1").join(name));
    }
}
