//! Logs that former versions wrote, as they wrote them: each stays readable. See `tests/fixtures`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Hive, PROJECT};

/// A hive whose log is a stored one: the files whose names end in one of these.
fn with_log(name: &str, files: &[&str]) -> Hive {
    let hive = Hive::new();
    let events = hive.kept().join("events");
    fs::create_dir_all(&events).unwrap();
    for entry in fs::read_dir(Path::new(PROJECT).join("tests/fixtures").join(name)).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if files.iter().any(|end| name.ends_with(end)) {
            fs::copy(entry.path(), events.join(name)).unwrap();
        }
    }
    hive
}

/// Id, state, attempts, and how it ended.
type Row = (u64, &'static str, u64, &'static str);

const TASKS: &[Row] = &[
    (1, "done", 1, "one"),
    (2, "failed", 1, "7"),
    (3, "failed", 1, "it timed out after 0.2 s"),
    (4, "done", 1, "quote \" backslash \\ tab\t end"),
    (5, "done", 1, "REF:c59d3c0480cc2d71d8f646e735e92da65450311eec46e81a5db8c7e6e8a92054"),
    (6, "cancelled", 1, "it was cancelled while it ran"),
    (7, "queued", 2, ""),
    (8, "cancelled", 0, "it was cancelled before it began"),
    (9, "done", 2, "sleep 100!"),
    (10, "done", 1, "hello!"),
    (11, "failed", 1, "because"),
];

fn rows(tasks: &Value) -> Vec<(u64, String, u64, String)> {
    let how = |task: &Value| {
        let told = ["result", "ref", "reason", "exit"].map(|name| match &task[name] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        });
        told.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    };
    let row = |t: &Value| {
        let (id, attempt) = (t["id"].as_u64().unwrap(), t["attempt"].as_u64().unwrap());
        (id, t["state"].as_str().unwrap().to_owned(), attempt, how(t))
    };
    tasks.as_array().unwrap().iter().map(row).collect()
}

#[test]
fn a_log_of_format_1_is_read_with_its_snapshot_and_without() {
    let expected: Vec<_> = TASKS.iter().map(|(id, state, n, how)| (*id, (*state).into(), *n, (*how).into())).collect();
    for files in [&["jsonl"][..], &["jsonl", "snapshot"], &["68.jsonl", "snapshot"]] {
        let hive = with_log("log-format-1", files);
        hive.run(["events", "verify"]).exits(0).says("");
        let whole = hive.json(["events", "replay"]);
        assert_eq!(rows(&whole["tasks"]), expected, "{files:?}");
        assert_eq!((&whole["seq"], &whole["status"]["state"]), (&113.into(), &"stopped".into()));

        hive.pool_start(["-n", "1"]).exits(0);
        assert_eq!(rows(&hive.json(["tasks"])["tasks"]), expected, "{files:?}");
        hive.run(["run", "echo on"]).prints("on\n").exits(0);
        assert_eq!(hive.tasks().last().unwrap()["id"], 12);
        hive.run(["events", "verify"]).exits(0).says("");
    }
}
