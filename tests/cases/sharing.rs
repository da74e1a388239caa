//! Contexts: what tasks are given by name, and that an agent is sent only what it has not seen.

use serde_json::Value;

use super::takeover::kill_supervisor;
use crate::harness::{Hive, python, script, wait_until};

/// Takes down each CONTEXT line, and answers each task after a moment.
const TELLS: &str = "echo READY
while IFS= read -r line; do
    read -r verb id _ <<<\"$line\"
    case $verb in
        CONTEXT) echo \"$HIVE_AGENT $line\" >>\"$LINES\" ;;
        TASK) sleep 0.05; [[ $line == *die ]] && exit 1; echo \"DONE $id\" ;;
    esac
done";

fn pool(agents: &str, options: &[&str]) -> Hive {
    let hive = Hive::new();
    let start = hive.cmd(["pool", "start", "-n", agents, "--kind", "lines"]).args(options);
    start.args(["--", "bash", "-c", TELLS]).env("LINES", hive.path("lines")).run().exits(0);
    hive
}

/// About 50 KB of text whose lines can be told apart.
fn notes(changed: Option<usize>) -> String {
    let line = |n| match changed {
        Some(at) if at == n => format!("line {n} of the notes is not what it was\n"),
        _ => format!("line {n} of the notes that every task is given\n"),
    };
    (0..1000).map(line).collect()
}

fn told(hive: &Hive) -> Vec<String> {
    hive.read("lines").lines().map(str::to_owned).collect()
}

/// Bytes asked for and bytes sent, in all.
fn shared(hive: &Hive) -> (u64, u64) {
    let stats = hive.json(["context", "stats"]);
    let number = |what: &str| stats["context"][what].as_u64().unwrap();
    (number("asked"), number("sent"))
}

#[test]
fn ten_tasks_with_the_same_context_on_two_agents_send_it_twice() {
    let hive = pool("2", &[]);
    let text = notes(None);
    let given = format!("notes=@{}", hive.write("notes", &text));
    hive.cmd(["submit", "--stdin", "--context", &given]).stdin("x\n".repeat(10)).run().exits(0);
    hive.run(["wait", "--all"]).prints("10 done, 0 failed, 0 cancelled\n");
    let size = text.len() as u64;
    assert_eq!(shared(&hive), (10 * size, 2 * size));
    assert_eq!(told(&hive).len(), 2);
    let agents = hive.json(["context", "stats"])["agents"].clone();
    let each: Vec<&Value> = agents.as_array().unwrap().iter().map(|a| &a["context"]["sent"]).collect();
    assert_eq!(each, [size, size]);
    let shown = hive.run(["context", "stats"]).exits(0).out();
    assert!(shown.contains("80.0 %"), "{shown}");
}

#[test]
fn a_changed_line_goes_as_a_difference_that_patch_takes() {
    let hive = pool("1", &["--prefetch", "4"]);
    let run = |text: &str| {
        let given = format!("notes=@{}", hive.write("notes", text));
        hive.run(["run", "--context", &given, "x"]).exits(0);
    };
    run(&notes(None));
    let before = shared(&hive).1;
    run(&notes(Some(500)));
    assert!(shared(&hive).1 - before < 1000, "{} bytes for a changed line", shared(&hive).1 - before);
    let told = told(&hive);
    let of = |line: &str, key: &str| line.split(key).nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let (old, new) = (of(&told[0], "notes "), of(&told[1], "notes "));
    assert_eq!(of(&told[1], "base="), old);
    let get = |reference: &str| hive.run(["context", "get", reference]).exits(0).out();
    assert_eq!(get(&new), notes(Some(500)));
    hive.write("old", get(&old));
    hive.write("diff", get(&of(&told[1], "diff=")));
    hive.bash(&format!("cd {} && patch -s old diff", hive.path("").display())).exits(0);
    assert_eq!(hive.read("old"), notes(Some(500)));

    // Back to the first: that difference is known, too. Then nothing that has anything in common with it.
    run(&notes(None));
    assert!(shared(&hive).1 - before < 2000);
    let before = shared(&hive).1;
    run("something else\n");
    assert_eq!(shared(&hive).1 - before, 15);
}

#[test]
fn an_agent_that_was_started_again_has_seen_nothing() {
    let hive = pool("1", &[]);
    let reference = format!("notes={}", hive.cmd(["context", "put"]).stdin("n").run().out().trim());
    for (text, lines) in [("x", 1), ("x", 1), ("die", 2), ("x", 2)] {
        let code = i32::from(text == "die") * 125;
        hive.run(["run", "--retries", "0", "--context", &reference, text]).exits(code);
        if text == "die" {
            wait_until("it is back", || hive.agent(1)["state"] == "idle");
            hive.run(["run", "--context", &reference, "x"]).exits(0);
        }
        assert_eq!(told(&hive).len(), lines, "{text}");
    }
    hive.run(["pool", "restart"]).exits(0);
    hive.run(["run", "--context", &reference, "x"]).exits(0);
    assert_eq!(told(&hive).len(), 3);
}

#[test]
fn the_agent_that_has_seen_a_context_is_preferred() {
    let hive = pool("3", &[]);
    let reference = format!("notes={}", hive.cmd(["context", "put"]).stdin("n").run().out().trim());
    hive.run(["run", "--agent", "3", "--context", &reference, "x"]).exits(0);
    for _ in 0..4 {
        hive.run(["run", "--context", &reference, "x"]).exits(0);
    }
    assert!(hive.tasks().iter().all(|task| task["agent"] == 3), "{:?}", hive.tasks());
    assert_eq!(hive.task(2)["context"]["notes"], format!("REF:{}", &reference[6..]));
}

#[test]
fn what_agents_have_seen_outlives_the_supervisor() {
    let hive = pool("1", &[]);
    let given = format!("notes=@{}", hive.write("notes", notes(None)));
    hive.run(["run", "--context", &given, "x"]).exits(0);
    kill_supervisor(&hive);
    hive.run(["pool", "start"]).exits(0);
    hive.run(["run", "--context", &given, "x"]).exits(0);
    assert_eq!(told(&hive).len(), 1);
    let size = notes(None).len() as u64;
    assert_eq!(shared(&hive), (2 * size, size));
}

#[test]
fn a_shell_task_finds_its_contexts_in_the_environment() {
    let hive = Hive::start(["-n", "1"]);
    let file = hive.write("notes", "from a file\n");
    let given = [format!("notes=@{file}"), "my-plan.2=-".to_owned()];
    let run = hive.cmd([
        "run",
        "--context",
        &given[0],
        "--context",
        &given[1],
        "cat $HIVE_CONTEXT_NOTES $HIVE_CONTEXT_MY_PLAN_2",
    ]);
    run.stdin("from stdin\n").run().prints("from a file\nfrom stdin\n").exits(0);
    hive.run(["run", "echo ${HIVE_CONTEXT_NOTES-none}"]).prints("none\n").exits(0);
}

#[test]
fn the_kits_hand_contexts_and_their_changes_to_the_handler() {
    let folder = script("");
    let bash = format!(
        ". {}; handler() {{ cat \"$(hive_context \"$1\")\"; sh -c 'cat $HIVE_CONTEXT_NOTES';
            if changes=$(hive_changes notes 2>/dev/null); then grep -c '^[-+]line' \"$changes\"; else echo none; fi; }}
        hive_serve handler",
        script("hive.sh")
    );
    let python_code = format!(
        "import sys; sys.path.insert(0, '{folder}')
from hive import serve
import subprocess
def handler(task):
    changes = task.changes('notes')
    count = sum(line[:5] in (b'+line', b'-line') for line in changes.splitlines()) if changes else 'none'
    same = open(task.contexts['notes'], 'rb').read()
    assert same == task.context(task.text)
    return same + subprocess.check_output(['sh', '-c', 'cat $HIVE_CONTEXT_NOTES']) + f'{{count}}\\n'.encode()
serve(handler)"
    );
    for (program, code) in [("bash", bash.as_str()), (python(), python_code.as_str())] {
        let hive = Hive::start(["-n", "1", "--kind", "lines", "--", program, "-c", code]);
        for (text, changes) in [(notes(None), "none"), (notes(Some(7)), "2"), (notes(Some(7)), "none")] {
            let given = format!("notes=@{}", hive.write("notes", &text));
            hive.run(["run", "--context", &given, "notes"]).prints(format!("{text}{text}{changes}\n")).exits(0);
        }
    }
}

#[test]
fn what_cannot_be_given_is_refused_and_named() {
    let hive = Hive::start(["-n", "1"]);
    let missing = format!("notes={}", "0".repeat(64));
    for (given, code, words) in [
        ("notes", 2, "NAME=REF"),
        ("no tes=@/dev/null", 2, "a context's name"),
        ("notes=abc", 2, "names no content"),
        ("notes=@/no/such/file", 1, "/no/such/file"),
        (&missing, 4, "no such content is stored"),
        ("a=-", 2, "stdin is read for the text"),
    ] {
        let ran = hive.cmd(["submit", "--context", given, "-"]).stdin("x").run();
        ran.exits(code).mentions(words);
    }
    hive.run(["submit", "--context", "a=@/dev/null", "--context", "a=@/dev/null", "x"]).exits(2).mentions("before");
    let mut raw = hive.raw("me");
    for (fields, word) in [
        (format!("\"context\":{{\"n\":\"{}\"}}", "0".repeat(64)), "not stored"),
        ("\"context\":{\"n\":\"abc\"}".to_owned(), "digest"),
        ("\"context\":[1]".to_owned(), "context"),
        (format!("\"context\":{{\"../n\":\"{}\"}}", "0".repeat(64)), "name"),
        (format!("\"context\":{{}},\"diffs\":[\"{}\"]", "0".repeat(64)), "diffs"),
    ] {
        let answer = raw.ask(&format!("\"op\":\"submit\",\"text\":\"x\",{fields}"));
        assert!(answer["error"]["message"].as_str().unwrap().contains(word), "{answer}");
    }
    let oneshot = Hive::oneshot("1", ["cat"]);
    oneshot.run(["run", "--context", "a=@/dev/null", "x"]).exits(2).mentions("oneshot");
}

#[test]
fn many_contexts_go_by_a_request_that_is_longer_than_a_line() {
    let hive = pool("1", &[]);
    for round in 0..3 {
        let mut run = hive.cmd(["run"]);
        for n in 0..16 {
            let name = format!("context-{n:090}");
            let file = hive.write(&format!("c{n}"), notes(Some(20 * n + round)));
            run = run.args(["--context", &format!("{name}=@{file}")]);
        }
        run.args(["x"]).run().exits(0);
    }
    let (asked, sent) = shared(&hive);
    assert!(sent < asked / 2, "{sent} of {asked}");
    let one_more: Vec<String> = (0..17).flat_map(|n| ["--context".to_owned(), format!("c{n}=@/dev/null")]).collect();
    hive.cmd(["submit"]).args(one_more).args(["x"]).run().exits(2).mentions("at most 16");
}
