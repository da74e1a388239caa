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
    show(call, &status, clock::wall_micros())?;
    Ok(exit::DONE)
}

/// For people, as it is (or was) at `now`.
pub fn show(call: &mut Call, status: &Value, now: i64) -> Result<()> {
    for line in heading(status, now) {
        call.out.line(&line)?;
    }
    let columns = ["AGENT", "KIND", "STATE", "TASK", "SINCE", "PID", "WORKLOAD", "MEMORY", "RESTARTS", "NOTE"];
    let mut rows = vec![columns.map(str::to_owned).to_vec()];
    rows.extend(status["agents"].as_array().into_iter().flatten().map(|agent| row(agent, now)));
    call.out.table(&rows)
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

fn heading(status: &Value, now: i64) -> [String; 3] {
    let supervisor = &status["supervisor"];
    let cpus: Vec<String> = supervisor["processors"].as_array().into_iter().flatten().map(Value::to_string).collect();
    let tasks = &status["tasks"];
    let on = if cpus.is_empty() { String::new() } else { format!(" on processors {}", cpus.join(",")) };
    // What only a living hive can be asked.
    let memory = supervisor["rss"].as_u64().map_or_else(String::new, |rss| format!(", {}", output::size(rss)));
    let group = status["pgid"].as_i64().map_or_else(String::new, |group| format!("; agents' group {group}"));
    let containment = status["containment"].as_str().unwrap_or("not known now");
    let containment = format!("containment: {containment}{}", limits(status));
    [
        format!(
            "hive {} ({}): supervisor {}{on}, term {}, since {}{memory}{group}",
            text(&status["hive"]),
            text(&status["state"]),
            supervisor["pid"],
            supervisor["term"],
            ago(&supervisor["since"], now),
        ),
        containment,
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

fn row(agent: &Value, now: i64) -> Vec<String> {
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
        ago(&agent["since"], now),
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

fn ago(value: &Value, now: i64) -> String {
    let at = value.as_str().and_then(time::parse);
    at.map_or_else(String::new, |at| time::duration(now - at))
}
