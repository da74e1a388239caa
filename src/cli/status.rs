//! `pool status`: who is there and what they do.

use serde_json::Value;

use super::{Call, exit, output};
use crate::error::{Code, Error, Result};
use crate::sys::clock;
use crate::sys::process::Pid;
use crate::sys::tree::Census;
use crate::time;

pub fn status(call: &mut Call) -> Result<i32> {
    let answer = call.connect()?.ask("status", |_| {})?;
    let mut status: Value = serde_json::from_str(&super::outcome::without_tag(answer.text()))
        .map_err(|e| Error::new(Code::Internal, e.to_string()))?;
    add_memory(&mut status);
    if call.json {
        call.out.line(&status.to_string())?;
        return Ok(exit::DONE);
    }
    for line in heading(&status) {
        call.out.line(&line)?;
    }
    let columns = ["AGENT", "KIND", "STATE", "TASK", "SINCE", "PID", "WORKLOAD", "MEMORY", "RESTARTS", "NOTE"];
    let mut rows = vec![columns.map(str::to_owned).to_vec()];
    rows.extend(status["agents"].as_array().into_iter().flatten().map(row));
    call.out.table(&rows)?;
    Ok(exit::DONE)
}

/// Memory of each agent's whole tree, counted here: the supervisor has better things to do.
fn add_memory(status: &mut Value) {
    let Ok(census) = Census::take() else { return };
    for agent in status["agents"].as_array_mut().into_iter().flatten() {
        if let Some(pid) = agent["pid"].as_i64() {
            agent["rss"] = census.memory_of(Pid(pid as i32)).into();
        }
    }
    if let Some(pid) = status["supervisor"]["pid"].as_i64() {
        status["supervisor"]["rss"] = census.memory_of_one(Pid(pid as i32)).into();
    }
}

fn heading(status: &Value) -> [String; 3] {
    let supervisor = &status["supervisor"];
    let cpus: Vec<String> = supervisor["processors"].as_array().into_iter().flatten().map(Value::to_string).collect();
    let tasks = &status["tasks"];
    [
        format!(
            "hive {} ({}): supervisor {} on processors {}, term {}, since {}, {}; agents' group {}",
            text(&status["hive"]),
            text(&status["state"]),
            supervisor["pid"],
            cpus.join(","),
            supervisor["term"],
            ago(&supervisor["since"]),
            output::size(supervisor["rss"].as_u64().unwrap_or(0)),
            status["pgid"],
        ),
        format!("containment: {}{}", text(&status["containment"]), limits(status)),
        format!(
            "tasks: {} queued, {} running, {} done, {} failed, {} cancelled",
            tasks["queued"], tasks["running"], tasks["done"], tasks["failed"], tasks["cancelled"]
        ),
    ]
}

/// What the agents are held to: those of the first, which are those of all but in a pool that changes.
fn limits(status: &Value) -> String {
    let Some(limits) = status["agents"][0]["limits"].as_object() else { return String::new() };
    let word = |(name, value): (&String, &Value)| match (name.as_str(), value.as_u64()) {
        ("memory", Some(bytes)) => format!("memory {}", crate::model::size(bytes)),
        ("cpu_time", Some(seconds)) => format!("cpu time {seconds} s"),
        _ => format!("{name} {value}"),
    };
    format!("; limits: {}", limits.iter().map(word).collect::<Vec<_>>().join(", "))
}

fn row(agent: &Value) -> Vec<String> {
    let or_dash = |value: &Value| {
        if value.is_null() { "-".to_owned() } else { text(value) }
    };
    let id = match agent["name"].as_str() {
        Some(name) => format!("{} {name}", agent["id"]),
        None => agent["id"].to_string(),
    };
    vec![
        id,
        text(&agent["kind"]),
        text(&agent["state"]),
        or_dash(&agent["task"]),
        ago(&agent["since"]),
        or_dash(&agent["pid"]),
        or_dash(&agent["workload"]),
        agent["rss"].as_u64().map_or("-".to_owned(), output::size),
        text(&agent["restarts"]),
        agent["reason"].as_str().map(|r| r.lines().next().unwrap_or("").to_owned()).unwrap_or_default(),
    ]
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn ago(value: &Value) -> String {
    let at = value.as_str().and_then(time::parse);
    at.map_or_else(String::new, |at| time::duration(clock::wall_micros() - at))
}
