//! Verbs that steer agents at work: `checkpoint`, `inject`, and pausing at a checkpoint.

use clap::{Arg, ArgAction, Command};
use serde_json::Value;

use super::{Call, exit, outcome, output, submit};
use crate::client::Answer;
use crate::error::{Code, Error, Result};
use crate::json::Object;
use crate::store::Context;
use crate::wire::steering::Named;

fn timeout_arg(help: &'static str) -> Arg {
    Arg::new("timeout")
        .long("timeout")
        .value_name("SECONDS")
        .value_parser(submit::seconds)
        .allow_hyphen_values(true)
        .help(help)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn agent_arg(help: &'static str) -> Arg {
    Arg::new("agent").value_name("A").help(help)
}

// ---- checkpoint ----

pub fn checkpoint_command(command: Command) -> Command {
    command
        .about("Have agents save what they do, all at one point of the log; exit 5 if one does not")
        .arg(agent_arg("Agents, by number or name [default: all]").num_args(0..).conflicts_with("all"))
        .arg(switch("all", "All agents"))
        .arg(timeout_arg("Wait no longer than this [default: 30]"))
        .arg(switch("partial", "Complete without those that have not answered by then"))
}

pub fn checkpoint(call: &mut Call) -> Result<i32> {
    let agents: Vec<String> = call.args.get_many::<String>("agent").into_iter().flatten().cloned().collect();
    let (timeout, partial) = (seconds(call), call.flag("partial"));
    let answer = call.connect()?.ask("checkpoint", |o| {
        o.strings("agents", agents.iter().map(String::as_str)).bool("partial", partial);
        set_timeout(o, timeout);
    })?;
    let code = if answer.str("state").as_deref() == Some("failed") { exit::TIMED_OUT } else { exit::DONE };
    if call.json {
        call.out.line(&outcome::without_tag(answer.text()))?;
        return Ok(code);
    }
    let end: Value = serde_json::from_str(answer.text()).map_err(|e| Error::new(Code::Internal, e.to_string()))?;
    show_barrier(call, &end)?;
    Ok(code)
}

fn show_barrier(call: &mut Call, end: &Value) -> Result<()> {
    let rows: Vec<&Value> = end["agents"].as_array().into_iter().flatten().collect();
    let stragglers: Vec<&Value> = end["stragglers"].as_array().into_iter().flatten().collect();
    let state = end["state"].as_str().unwrap_or_default();
    if state != "failed" {
        let agents = if rows.len() == 1 { "1 agent".to_owned() } else { format!("{} agents", rows.len()) };
        call.out.line(&format!("barrier {} is {state} at record {}: {agents}", end["barrier"], end["seq"]))?;
        let mut table = vec![["AGENT", "TASK", "DONE", "CHECKPOINT"].map(str::to_owned).to_vec()];
        table.extend(rows.into_iter().map(cells));
        call.out.table(&table)?;
        call.out.finish()?;
    }
    for one in &stragglers {
        let task = one["task"].as_u64().map_or(String::new(), |task| format!(" (task {task})"));
        eprintln!("hivectl: no checkpoint from agent {}{task}: {}", one["id"], one["reason"].as_str().unwrap_or("?"));
    }
    if state == "failed" {
        let what = format!("barrier {} failed, after at most {} s", end["barrier"], end["timeout"]);
        eprintln!("hivectl: {what}: give it more time (--timeout), or do without those (--partial)");
    }
    Ok(())
}

fn cells(row: &Value) -> Vec<String> {
    let number = |name: &str| row[name].as_u64().map_or("-".to_owned(), |n| n.to_string());
    let percent = row["percent"].as_u64().map_or("-".to_owned(), |n| format!("{n} %"));
    let saved = ["ref", "text", "note"].iter().find_map(|name| row[*name].as_str()).unwrap_or("-");
    vec![number("id"), number("task"), percent, output::harmless(saved)]
}

// ---- inject ----

pub fn inject_command(command: Command) -> Command {
    command
        .about("Give an agent, or a task, an instruction: at once where it can hear it, else with the next task")
        .arg(
            Arg::new("whom")
                .value_name("A|task:ID")
                .required(true)
                .help("An agent (its number or name), or a task by its number: task:17"),
        )
        .arg(
            Arg::new("text")
                .value_name("TEXT")
                .num_args(1..)
                .required(true)
                .help("The instruction; several words are joined by blanks; `-` reads it from stdin"),
        )
        .arg(switch("now", "At once or not at all (exit 6)"))
}

pub fn inject(call: &mut Call) -> Result<i32> {
    let text = submit::text(call)?;
    let whom = call.text("whom").cloned().unwrap_or_default();
    let now = call.flag("now");
    let named = Named::parse(&whom).map_err(|e| Error::new(Code::BadRequest, e))?;
    let answer = call.connect()?.ask("inject", |o| {
        match named {
            Named::Agent(name) => o.str("agent", &name),
            Named::Task(id) => o.num("id", id.0),
        };
        o.str("text", &text).bool("now", now);
    })?;
    if call.json {
        call.out.line(&outcome::without_tag(answer.text()))?;
        return Ok(exit::DONE);
    }
    let line = match (answer.str("when").as_deref(), answer.num("id"), answer.num("agent")) {
        (Some("now"), Some(task), Some(agent)) => format!("task {task} is told, at agent {agent}"),
        (_, Some(task), _) => format!("task {task} is told when it begins"),
        (_, None, agent) => format!("agent {} is told with its next task", agent.unwrap_or(0)),
    };
    call.out.line(&line)?;
    Ok(exit::DONE)
}

// ---- pausing at a checkpoint ----

pub fn pause_command(command: Command) -> Command {
    command
        .about("Pause an agent at its next checkpoint: it saves what it does, and waits")
        .arg(agent_arg("The agent, by number or name").required(true))
        .arg(switch("at-checkpoint", "By the agent's own doing, at a point that it chooses").required(true))
        .arg(timeout_arg("Fail if it has not by then (exit 5); it works on [default: 30]"))
}

pub fn pause(call: &mut Call) -> Result<i32> {
    let (agent, timeout) = (call.text("agent").cloned(), seconds(call));
    let answer = call.connect()?.ask("pause-at-checkpoint", |o| {
        o.opt_str("agent", agent.as_deref());
        set_timeout(o, timeout);
    })?;
    if call.json {
        call.out.line(&outcome::without_tag(answer.text()))?;
        return Ok(exit::DONE);
    }
    let agent = answer.num("agent").unwrap_or(0);
    let at = answer.num("id").map_or(String::new(), |task| format!(" at task {task}{}", checkpoint_of(&answer)));
    call.out.line(&format!("agent {agent} is paused{at}"))?;
    Ok(exit::DONE)
}

fn checkpoint_of(answer: &Answer) -> String {
    let saved = answer.str("ref").or_else(|| answer.str("text"));
    saved.map_or(String::new(), |saved| format!(", checkpoint {}", output::harmless(&saved)))
}

pub fn resume_command(command: Command) -> Command {
    command
        .about("Let an agent go on that was paused at a checkpoint")
        .arg(agent_arg("The agent, by number or name").required(true))
        .arg(Arg::new("inject").long("inject").value_name("TEXT").help("And tell it this: new instructions"))
}

pub fn resume(call: &mut Call) -> Result<i32> {
    let agent = call.text("agent").cloned();
    let context = Context::at(&call.folders.context);
    let text = call.text("inject").cloned().map(|text| submit::by_reference_if_needed(text, &context)).transpose();
    let text = text.map_err(|e| Error::os("cannot store the instruction in the context store", e))?;
    let answer = call.connect()?.ask("resume", |o| {
        o.opt_str("agent", agent.as_deref()).opt_str("text", text.as_deref());
    })?;
    if call.json {
        call.out.line(&outcome::without_tag(answer.text()))?;
    }
    Ok(exit::DONE)
}

fn seconds(call: &Call) -> Option<f64> {
    call.args.get_one::<f64>("timeout").copied()
}

fn set_timeout(o: &mut Object, timeout: Option<f64>) {
    if let Some(seconds) = timeout {
        o.raw("timeout", &seconds.to_string());
    }
}
