//! The kits: agents of a few lines of bash or Python, whatever the text and the answer are.

use crate::harness::{Hive, Ran, noise, python, script, wait_until};

/// A hive of one agent in bash that does `body` for each task, with the text in $1.
fn bash(body: &str) -> Hive {
    let agent = format!(". {}; handler() {{ {body}\n}}; hive_serve handler", script("hive.sh"));
    Hive::start(["-n", "1", "--kind", "lines", "--", "bash", "-c", &agent])
}

/// A hive of one agent in Python that answers with `expression` of `task`.
fn py(expression: &str) -> Hive {
    let folder = script("");
    let agent =
        format!("import sys; sys.path.insert(0, '{folder}')\nfrom hive import serve\nserve(lambda task: {expression})");
    Hive::start(["-n", "1", "--kind", "lines", "--", python(), "-c", &agent])
}

fn ask(hive: &Hive, text: impl Into<Vec<u8>>) -> Ran {
    hive.cmd(["run", "-"]).stdin(text).run()
}

#[test]
fn the_sample_agents_answer() {
    for (program, agent) in [
        ("bash", "agents/upper.sh"),
        (python(), "agents/upper.py"),
        ("bash", "agents/raw.sh"),
        (python(), "agents/raw.py"),
    ] {
        let hive = Hive::start(["-n", "2", "--kind", "lines", "--", program, &script(agent)]);
        for text in ["hello", "two words"] {
            hive.run(["run", text]).prints(text.to_uppercase() + "\n").says("").exits(0);
        }
    }
}

#[test]
fn the_slow_sample_reports_its_progress() {
    let hive = Hive::start(["-n", "1", "--kind", "lines", "--", python(), &script("agents/slow.py")]);
    hive.run(["run", "0.05"]).prints("slept 0.1 s\n").exits(0);
    let percents: Vec<u64> =
        hive.events().iter().filter(|e| e["kind"] == "progress").map(|e| e["percent"].as_u64().unwrap()).collect();
    assert_eq!(percents, (0..10).map(|n| n * 10).collect::<Vec<_>>());
}

#[test]
fn a_short_text_keeps_its_blanks() {
    for hive in [bash("printf %s \"$1\""), py("task.text")] {
        for text in ["x", " a  b ", "\ttab", "-n", "*", "$HOME `id`", "\\n", "'\"", "gr\u{fc}n \u{1f41d}"] {
            ask(&hive, text).prints(format!("{text}\n")).exits(0);
        }
    }
}

#[test]
fn a_long_text_and_one_of_many_lines_come_back_byte_for_byte() {
    for hive in [bash("printf %s \"$1\""), py("task.text")] {
        for text in
            ["one\ntwo\n".to_owned(), "\n\n".to_owned(), "x".repeat(2049), format!("{}\n", "long ".repeat(60_000))]
        {
            ask(&hive, text.clone()).prints(text).exits(0);
        }
    }
}

#[test]
fn binary_texts_and_answers_come_byte_for_byte() {
    for hive in [bash("cat \"$HIVE_TEXT_FILE\""), py("task.bytes")] {
        let bytes = noise(100_000, 5);
        ask(&hive, bytes.clone()).prints(bytes).exits(0);
    }
}

#[test]
fn an_answer_of_many_lines_comes_byte_for_byte() {
    for hive in [bash("printf 'a\\nb\\n\\n'"), py("'a\\nb\\n\\n'")] {
        hive.run(["run", "x"]).prints("a\nb\n\n").exits(0);
    }
}

#[test]
fn an_answer_around_the_inline_bound_comes_whole() {
    for hive in [bash("head -c $1 /dev/zero | tr '\\0' x"), py("'x' * int(task.text)")] {
        for size in [2047, 2048, 2049, 4096, 5000] {
            let answer = hive.run(["run".to_owned(), size.to_string()]).exits(0).out();
            assert_eq!(answer.trim_end_matches('\n'), "x".repeat(size));
        }
    }
}

#[test]
fn nothing_is_an_answer_too() {
    for hive in [bash(":"), py("None")] {
        hive.run(["run", "x"]).prints("").exits(0);
    }
}

#[test]
fn a_handler_that_fails_fails_its_task_and_serves_the_next() {
    for (hive, reason) in [
        (bash("[ \"$1\" = ok ] && echo fine || { echo first >&2; echo no such model >&2; false; }"), "no such model"),
        (py("'fine' if task.text == 'ok' else {}['no such model']"), "'no such model'"),
    ] {
        hive.run(["run", "bad"]).says(&format!("hivectl: task 1 failed: {reason}\n")).exits(1);
        hive.run(["run", "ok"]).prints("fine\n").exits(0);
        assert_eq!(hive.agent(1)["restarts"], 0);
    }
}

#[test]
fn a_handler_that_exits_fails_its_task_alone() {
    for hive in [bash("[ \"$1\" = ok ] && echo fine || exit 3"), py("'fine' if task.text == 'ok' else exit(3)")] {
        hive.run(["run", "bad"]).exits(1);
        hive.run(["run", "ok"]).prints("fine\n").exits(0);
        assert_eq!(hive.agent(1)["restarts"], 0);
    }
}

#[test]
fn what_a_tool_prints_or_reads_cannot_spoil_the_wire() {
    for hive in [
        bash("cat; echo DONE 1 forged >&2; bash -c 'read -r x; echo READY >&2'; echo \"$1\""),
        py(
            "[__import__('subprocess').run(['sh', '-c', 'cat; echo DONE 1 forged; echo FAIL 1 forged >&2']), print('DONE 1 x'), task.text][-1]",
        ),
    ] {
        hive.run(["run", "one"]).prints("one\n").exits(0);
        hive.run(["run", "two"]).prints("two\n").exits(0);
        assert_eq!(hive.status()["malformed"], 0);
    }
}

#[test]
fn tools_know_their_task() {
    for hive in [
        bash("sh -c 'echo $HIVE_TASK $HIVE_AGENT'"),
        py("__import__('subprocess').check_output(['sh', '-c', 'echo $HIVE_TASK $HIVE_AGENT']).strip()"),
    ] {
        hive.run(["run", "x"]).prints("1 1\n").exits(0);
        hive.run(["run", "x"]).prints("2 1\n").exits(0);
    }
}

#[test]
fn progress_and_usage_of_a_kit_are_recorded() {
    for hive in [
        bash("hive_progress 40 so far; hive_usage in=3 out=4; echo ok"),
        py("[task.progress(40, 'so far'), task.usage(in_=3, out=4), 'ok'][-1]"),
    ] {
        hive.run(["run", "x"]).prints("ok\n").exits(0);
        let events = hive.events();
        assert!(events.iter().any(|e| e["kind"] == "progress" && e["percent"] == 40), "{events:?}");
        assert!(events.iter().any(|e| e["kind"] == "usage" && e["usage"] == "in=3 out=4"), "{events:?}");
    }
}

#[test]
fn labels_of_a_kit_are_declared() {
    let agent = format!(". {}; handler() {{ echo ok; }}; hive_serve handler gpu big", script("hive.sh"));
    let hive = Hive::start(["-n", "1", "--kind", "lines", "--", "bash", "-c", &agent]);
    hive.run(["run", "--label", "gpu", "x"]).prints("ok\n").exits(0);
    hive.run(["run", "--label", "tpu", "x"]).exits(4);
}

#[test]
fn the_doorbells_of_the_pool_do_not_kill_a_kit() {
    for hive in [bash("echo ok"), py("'ok'")] {
        let workload = hive.workload(1);
        crate::harness::kill(workload, "USR1");
        crate::harness::kill(workload, "USR2");
        hive.run(["run", "x"]).prints("ok\n").exits(0);
        assert_eq!(hive.workload(1), workload);
    }
}

#[test]
fn a_background_tool_does_not_hold_the_answer_up() {
    for hive in [bash("sleep 1000 & echo ok"), py("[__import__('subprocess').Popen(['sleep', '1000']), 'ok'][-1]")] {
        hive.run(["run", "x"]).prints("ok\n").exits(0);
        hive.run(["pool", "stop"]).exits(0);
        wait_until("it went with its agent", || hive.running("sleep").is_empty());
    }
}

#[test]
fn two_hundred_tasks_through_each_kit_all_end_right() {
    for hive in [bash("echo \"got $1\""), py("'got ' + task.text")] {
        let texts: String = (1..=200).map(|n| format!("{n}\n")).collect();
        hive.cmd(["submit", "--stdin"]).stdin(texts).run().exits(0);
        hive.run(["wait", "--all"]).exits(0);
        for task in hive.tasks() {
            assert_eq!(task["result"], format!("got {}", task["id"]));
        }
    }
}

/// The samples that count, one agent each.
fn counting() -> [Hive; 2] {
    [("bash", "agents/count.sh"), (python(), "agents/count.py")]
        .map(|(program, agent)| Hive::start(["-n", "1", "--kind", "lines", "--", program, &script(agent)]))
}

fn counts(hive: &Hive, task: u64) {
    wait_until("it counts", || hive.task(task)["percent"].as_u64() > Some(0));
}

#[test]
fn a_paused_counter_counts_down_from_where_it_was() {
    for hive in counting() {
        let task = hive.submit("100");
        counts(&hive, task);
        hive.run(["pause", "1", "--at-checkpoint"]).exits(0);
        let percent = hive.task(task)["percent"].as_u64();
        assert_eq!((hive.task(task)["state"].as_str(), hive.task(task)["percent"].as_u64()), (Some("paused"), percent));
        hive.run(["resume", "1", "--inject", "count down"]).exits(0);
        hive.run(["wait", "1"]).exits(0);
        let result = hive.run(["result", "1"]).exits(0).out();
        assert!(result.trim().ends_with("-1"), "{result}");
        let turn: Vec<i64> = result.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert!(turn.iter().all(|n| *n < 100), "it never got there: {result}");
    }
}

#[test]
fn a_kit_that_is_killed_goes_on_from_its_checkpoint() {
    for hive in counting() {
        hive.run(["pool", "restart"]).exits(0);
        let task = hive.submit("60");
        counts(&hive, task);
        let end = hive.json(["checkpoint"]);
        assert_eq!(end["state"], "complete");
        let saved = end["agents"][0]["text"].as_str().unwrap().to_owned();
        crate::harness::kill(hive.workload(1), "KILL");
        hive.run(["wait", "1"]).exits(0);
        assert_eq!((hive.task(task)["attempt"].as_u64(), saved.is_empty()), (Some(2), false));
        hive.run(["result", "1"]).prints("60\n").exits(0);
    }
}

#[test]
fn kits_hear_instructions_and_cancels_where_they_poll() {
    for hive in counting() {
        let agent = hive.workload(1);
        let task = hive.submit("1000");
        counts(&hive, task);
        hive.run(["inject", "1", "--now", "count down"]).exits(0);
        hive.run(["wait", "1"]).exits(0);
        let task = hive.submit("1000");
        counts(&hive, task);
        hive.run(["cancel", "2"]).exits(0);
        hive.run(["wait", "2"]).exits(1);
        assert_eq!(hive.task(2)["state"], "cancelled");
        assert_eq!((hive.workload(1), &hive.agent(1)["restarts"]), (agent, &0.into()), "it was not ended for that");
        hive.run(["run", "3"]).prints("3\n").exits(0);
        assert_eq!(hive.status()["malformed"], 0);
    }
}

#[test]
fn idle_kits_answer_a_barrier_at_once() {
    for hive in counting() {
        let end = hive.json(["checkpoint"]);
        assert_eq!((&end["state"], &end["agents"][0]["id"]), (&"complete".into(), &1.into()));
    }
}

#[test]
fn a_tool_of_a_bash_kit_survives_a_barrier_that_is_answered_meanwhile() {
    let [hive, _] = counting();
    let run = hive.spawn(["run", "tool 2"]);
    wait_until("it sleeps", || !hive.running("sleep").is_empty());
    let sleep = hive.running("sleep");
    let end = hive.json(["checkpoint", "--timeout", "20"]);
    assert_eq!((&end["state"], &end["agents"][0]["text"]), (&"complete".into(), &"0 1".into()));
    assert!(sleep.iter().all(|pid| hive.running("sleep").contains(pid)), "it sleeps on");
    hive.run(["inject", "1", "count down", "--now"]).exits(0);
    run.ends().prints("slept, at 0 -1\n").exits(0);
}

#[test]
fn a_long_checkpoint_goes_and_comes_by_reference() {
    let folder = script("");
    let agent = format!(
        "import sys, os, signal; sys.path.insert(0, '{folder}')
from hive import serve
def load(task, saved): task.state = saved
def work(task):
    if task.state is None:
        task.checkpoint()
        os.kill(os.getpid(), signal.SIGKILL)
    return str(len(task.state))
serve(work, checkpoint=lambda task: 'two\\nlines' * 10000, restore=load)"
    );
    let hive = Hive::start(["-n", "1", "--kind", "lines", "--", python(), "-c", &agent]);
    hive.run(["run", "x"]).prints("90000\n").exits(0);
    assert!(hive.events().iter().any(|e| e["kind"] == "checkpointed" && e["ref"].is_string()));
}
