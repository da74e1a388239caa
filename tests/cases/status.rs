//! What is shown: status, tasks, one task, paths, help; for people and for scripts.

use crate::harness::{Hive, wait_until};

#[test]
fn status_has_the_fields_that_scripts_rely_on() {
    let hive = Hive::start(["-n", "2", "--name", "w", "--label", "fast"]);
    let gate = hive.gate();
    hive.submit_with(&["--agent", "1"], &gate.wait());
    gate.wait_for(1);
    let status = hive.status();
    assert_eq!((&status["hive"], &status["state"]), (&"default".into(), &"running".into()));
    assert_eq!(status["supervisor"]["term"], 1);
    assert!(status["supervisor"]["pid"].is_u64() && status["pgid"].is_u64() && status["containment"].is_string());
    let is_time =
        |v: &serde_json::Value| v.as_str().is_some_and(|t| t.len() == 27 && t.ends_with('Z') && &t[19..20] == ".");
    assert!(is_time(&status["supervisor"]["since"]), "{status}");
    let agent = &status["agents"][0];
    assert_eq!((&agent["id"], &agent["name"], &agent["kind"]), (&1.into(), &"w-1".into(), &"shell".into()));
    assert_eq!((&agent["state"], &agent["task"], &agent["restarts"]), (&"busy".into(), &1.into(), &0.into()));
    assert!(is_time(&agent["since"]) && agent["pid"].is_u64() && agent["rss"].as_u64().unwrap() > 0);
    assert_eq!(agent["labels"], serde_json::json!(["fast"]));
    assert_eq!(status["agents"][1]["state"], "idle");
    assert_eq!(status["tasks"], serde_json::json!({"queued": 0, "running": 1, "done": 0, "failed": 0, "cancelled": 0}));
    gate.open(1);
    hive.run(["wait", "1"]).exits(0);
}

#[test]
fn status_for_people_has_a_row_for_each_agent() {
    let hive = Hive::start(["-n", "2"]);
    hive.run(["run", "true"]).exits(0);
    let text = hive.run(["pool", "status"]).says("").exits(0).out();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with(&format!("hive default (running): supervisor {} on processors ", hive.supervisor())),
        "{text}"
    );
    assert_eq!(lines[1], format!("containment: {}", hive.status()["containment"].as_str().unwrap()));
    assert_eq!(lines[2], "tasks: 0 queued, 0 running, 1 done, 0 failed, 0 cancelled");
    assert!(lines[3].starts_with("AGENT  KIND   STATE  TASK"), "{text}");
    assert!(lines[4].starts_with("1      shell  idle   -") && lines[5].starts_with("2      shell  idle   -"), "{text}");
    assert_eq!(lines.len(), 6);
}

#[test]
fn there_are_no_colours_where_there_is_no_terminal() {
    let hive = Hive::start(["-n", "1"]);
    for colours in [None, Some("1")] {
        let cmd = hive.cmd(["pool", "status"]);
        let cmd = if let Some(value) = colours { cmd.env("NO_COLOR", value) } else { cmd };
        assert!(!cmd.run().exits(0).out().contains('\x1b'));
    }
}

#[test]
fn no_color_is_honoured_on_a_terminal() {
    let hive = Hive::start(["-n", "1"]);
    let on_a_terminal = |prefix: &str| {
        hive.bash(&format!("script -qec '{prefix} hivectl pool status' /dev/null </dev/null")).exits(0).out()
    };
    assert!(on_a_terminal("").contains("\x1b[32midle\x1b[0m"));
    assert!(!on_a_terminal("NO_COLOR=1").contains('\x1b'));
}

#[test]
fn tasks_have_the_fields_that_scripts_rely_on() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "--name", "build", "echo hi; exit 3"]).exits(3);
    let task = &hive.tasks()[0];
    for (field, value) in [("id", 1), ("agent", 1), ("attempt", 1), ("exit", 3)] {
        assert_eq!(task[field], value, "{task}");
    }
    for (field, value) in [("name", "build"), ("state", "failed"), ("text", "echo hi; exit 3"), ("result", "hi")] {
        assert_eq!(task[field], value, "{task}");
    }
    assert!(["submitted", "started", "ended"].iter().all(|f| task[f].as_str().unwrap().ends_with('Z')), "{task}");
    assert_eq!(&hive.task(1), task);
}

#[test]
fn tasks_go_well_with_jq() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "true"]).exits(0);
    hive.run(["run", "false"]).exits(1);
    hive.bash("hivectl tasks --json | jq -r '.tasks[] | \"\\(.id) \\(.state)\"'").prints("1 done\n2 failed\n").exits(0);
    hive.bash("hivectl --json pool status | jq .tasks.done").prints("1\n").exits(0);
    hive.bash("hivectl events | jq -r .kind | head -3").prints("led\nconfigured\nagent-added\n").exits(0);
}

#[test]
fn tasks_can_be_told_by_their_state() {
    let hive = Hive::start(["-n", "1"]);
    for text in ["true", "false", "true"] {
        hive.submit(text);
    }
    hive.run(["wait", "--all"]);
    let ids = |state: &str| {
        let list = hive.json(["tasks", "--state", state]);
        list["tasks"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((ids("done"), ids("failed"), ids("queued")), (vec![1, 3], vec![2], vec![]));
    hive.run(["tasks", "--state", "odd"]).exits(2);
}

#[test]
fn tasks_for_people_are_a_table_of_one_line_each() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "--name", "two", "true"]).exits(0);
    hive.run(["run", "echo one\necho two"]).exits(0);
    let text = hive.run(["tasks"]).exits(0).out();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("ID  STATE  AGENT  TRY") && lines[1].starts_with("1   done   1      1"), "{text}");
    assert!(lines[1].ends_with("  two: true"), "{text}");
}

#[test]
fn a_text_with_terminal_codes_is_shown_harmlessly() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "true \x1b[2J\x1b[1mgotcha\x07"]).exits(0);
    for verb in [&["tasks"][..], &["task", "1"]] {
        let shown = hive.run(verb).exits(0).out();
        assert!(!shown.contains('\x1b'), "{verb:?} shows control characters as they are: {shown:?}");
    }
}

#[test]
fn one_task_for_people_is_a_line_for_each_field() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo hi"]).exits(0);
    let text = hive.run(["task", "1"]).exits(0).out();
    assert!(text.starts_with("id         1\nstate      done\nagent      1\n"), "{text}");
    hive.run(["task", "7"]).exits(4).mentions("no task 7: the last one is 1");
}

#[test]
fn paths_are_printed_and_true() {
    let hive = Hive::start(["-n", "1"]);
    let paths = hive.json(["paths"]);
    assert_eq!(paths["live"], hive.live().to_str().unwrap());
    for name in ["live", "ctl", "replies", "kept", "events", "logs", "context"] {
        assert!(std::path::Path::new(paths[name].as_str().unwrap()).exists(), "{name}: {paths}");
    }
    let first = hive.run(["paths"]).exits(0).out();
    assert!(first.starts_with(&format!("live            {}\n", hive.live().display())), "{first}");
}

#[test]
fn paths_need_no_hive_that_runs() {
    let hive = Hive::new();
    hive.run(["paths"]).says("").exits(0);
}

#[test]
fn a_reader_that_goes_early_is_no_error() {
    let hive = Hive::start(["-n", "1"]);
    hive.cmd(["submit", "--stdin"]).stdin("echo some text to make the list long\n".repeat(1500)).run().exits(0);
    hive.run(["wait", "--all"]).exits(0);
    hive.run(["run", "head -c 3000000 /dev/zero"]).exits(0);
    for verb in
        ["tasks", "--json tasks", "events", "result 1501", "pool status", "paths", "--help", "run --help", "task 1"]
    {
        let shell = format!("hivectl {verb} 2>&1 >/dev/full | cat >/dev/null; hivectl {verb} | head -c 1 >/dev/null");
        hive.bash(&shell).prints("").says("").exits(0);
    }
}

#[test]
fn a_full_disk_under_stdout_is_an_error() {
    let hive = Hive::start(["-n", "1"]);
    hive.run(["run", "echo hi"]).exits(0);
    for verb in ["tasks", "result 1", "events", "run 'echo hi'"] {
        hive.bash(&format!("hivectl {verb} >/dev/full; [ $? != 0 ]")).exits(0).mentions("no space left on device");
    }
}

#[test]
fn every_verb_has_help() {
    let hive = Hive::new();
    let top = hive.run(["--help"]).says("").exits(0).out();
    let verbs = ["pool", "run", "submit", "wait", "result", "tasks", "task", "cancel", "logs", "events", "paths"];
    for verb in verbs {
        assert!(top.contains(&format!("\n  {verb} ")), "{verb} is not in {top}");
        let help = hive.run([verb, "--help"]).says("").exits(0).out();
        assert!(help.contains(&format!("Usage: hivectl {verb}")), "{help}");
    }
    for verb in ["start", "stop", "status", "scale", "restart"] {
        let help = hive.run(["pool", verb, "--help"]).says("").exits(0).out();
        assert!(help.contains(&format!("Usage: hivectl pool {verb}")), "{help}");
    }
    assert!(top.contains("Exit codes:"));
    hive.run(["--version"]).prints(format!("hivectl {}\n", env!("CARGO_PKG_VERSION"))).exits(0);
}

#[test]
fn without_a_hive_every_verb_says_how_to_start_one() {
    let hive = Hive::new();
    let said = format!(
        "hivectl: no hive \"default\" is running at {}: start one with `hivectl pool start`\n",
        hive.live().display()
    );
    for verb in [
        &["run", "true"][..],
        &["submit", "true"],
        &["wait", "1"],
        &["wait", "--all"],
        &["result", "1"],
        &["tasks"],
        &["task", "1"],
        &["cancel", "1"],
        &["logs", "1"],
        &["pool", "status"],
        &["pool", "stop"],
        &["pool", "scale", "2"],
        &["pool", "restart"],
    ] {
        hive.run(verb).prints("").says(&said).exits(3);
    }
    let json = hive.run(["--json", "run", "true"]).exits(3);
    let error: serde_json::Value = serde_json::from_slice(&json.stderr).unwrap();
    assert_eq!((&error["ok"], &error["error"]["code"]), (&false.into(), &"no-hive".into()));
}

#[test]
fn memory_of_an_agent_is_that_of_its_tree() {
    let hive = Hive::start(["-n", "1"]);
    let before = hive.agent(1)["rss"].as_u64().unwrap();
    let gate = hive.gate();
    let hungry = format!(
        "{} -c 'import sys; x = b\"x\" * 50_000_000; print(\"big\", file=sys.stderr, flush=True); sys.stdin.read()' <&3",
        crate::harness::python()
    );
    hive.submit(&format!("exec 3<{}; {hungry}", hive.file("gate")));
    wait_until("it has grown", || hive.agent(1)["rss"].as_u64().unwrap() > before + 50_000_000);
    hive.run(["cancel", "1"]).exits(0);
    hive.run(["wait", "1"]).exits(1);
    drop(gate);
}
