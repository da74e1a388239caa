//! Checkpoints, instructions and pauses on the clients' pipes: how they are asked for, and how that is answered.

use std::sync::Arc;

use super::agent::clip;
use super::answer::ok;
use super::reference;
use super::request::{Op, agent, seconds, whole};
use crate::json::{Flat, Object};
use crate::limits::{CHECKPOINT_PATIENCE, TEXT_INLINE_MAX};
use crate::model::{AgentId, BarrierEnd, Saved, TaskId, Way};

pub fn checkpoint(flat: &Flat) -> Result<Op, String> {
    let agents = flat.strings("agents").map_err(|_| "\"agents\" must be a list of numbers or names, as strings")?;
    let agents = agents.into_iter().map(Arc::from).collect();
    Ok(Op::Checkpoint { agents, within_us: within(flat)?, partial: flat.bool("partial")?.unwrap_or(false) })
}

pub fn inject(flat: &Flat) -> Result<Op, String> {
    let Some(text) = flat.str("text")? else { return Err("\"inject\" needs a \"text\"".into()) };
    let whom = match (flat.u64("id")?, agent(flat)?) {
        (Some(id), None) => Named::Task(TaskId(id)),
        (None, Some(name)) => Named::Agent(name),
        _ => return Err("\"inject\" needs an \"agent\" or the \"id\" of a task".into()),
    };
    Ok(Op::Inject { whom, text: whole(&text)?, now: flat.bool("now")?.unwrap_or(false) })
}

pub fn pause(flat: &Flat) -> Result<Op, String> {
    Ok(Op::PauseAtCheckpoint { agent: one_agent(flat)?, within_us: within(flat)? })
}

pub fn resume(flat: &Flat) -> Result<Op, String> {
    let text = flat.str("text")?.map(|text| whole(&text)).transpose()?;
    Ok(Op::Resume { agent: one_agent(flat)?, text: text.filter(|text| !text.is_empty()) })
}

/// `inject 2 use tabs`, `inject task:17 use tabs`.
pub fn short_inject(rest: &str) -> Result<Op, String> {
    let (whom, text) = super::split_word(rest);
    if text.is_empty() {
        return Err("inject needs an agent (or task:ID) and a text".into());
    }
    Ok(Op::Inject { whom: Named::parse(whom)?, text: whole(text)?, now: false })
}

/// Whom a person named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// By its number or name.
    Agent(Arc<str>),
    Task(TaskId),
}

impl Named {
    /// An agent, but for `task:17`.
    pub fn parse(word: &str) -> Result<Named, String> {
        match word.strip_prefix("task:") {
            Some(id) => id.parse().map(|id| Named::Task(TaskId(id))).map_err(|_| format!("no task's number: {word}")),
            None => Ok(Named::Agent(word.into())),
        }
    }
}

fn one_agent(flat: &Flat) -> Result<Arc<str>, String> {
    agent(flat)?.ok_or_else(|| "\"agent\" is missing".into())
}

fn within(flat: &Flat) -> Result<i64, String> {
    Ok(seconds(flat, "timeout")?.unwrap_or(CHECKPOINT_PATIENCE.as_micros() as i64))
}

// ---- answers ----

/// How a barrier ended.
pub fn barrier(out: &mut Vec<u8>, tag: &str, end: &BarrierEnd) {
    ok(out, tag, |o| {
        let state = match (end.failed, end.stragglers.is_empty()) {
            (true, _) => "failed",
            (false, false) => "partial",
            (false, true) => "complete",
        };
        o.num("barrier", end.id.0).str("state", state).num("seq", end.seq.0);
        o.raw("timeout", &(end.within_us as f64 / 1e6).to_string());
        list(o, "agents", &end.saved, |o, (agent, saved)| row(o, *agent, saved));
        list(o, "stragglers", &end.stragglers, |o, straggler| {
            o.num("id", straggler.agent.0);
            if let Some(task) = straggler.task {
                o.num("task", task.0);
            }
            o.str("reason", &straggler.reason);
        });
    });
}

fn list<T>(o: &mut Object, name: &str, items: &[T], write: impl Fn(&mut Object, &T)) {
    let out = o.key(name);
    out.push(b'[');
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let mut one = Object::open(out);
        write(&mut one, item);
        one.close();
    }
    out.push(b']');
}

fn row(o: &mut Object, agent: AgentId, saved: &Saved) {
    o.num("id", agent.0);
    if let Some(task) = saved.task {
        o.num("task", task.0);
    }
    if let Some(percent) = saved.percent {
        o.num("percent", percent);
    }
    content(o, saved.content.as_deref());
    o.opt_str("note", saved.note.as_deref());
}

/// A text that is long stands whole in the log.
fn content(o: &mut Object, content: Option<&str>) {
    match content.map(|text| (text, reference(text))) {
        Some((text, Some(_))) => drop(o.str("ref", text)),
        Some((text, None)) => drop(o.str("text", clip(text))),
        None => {}
    }
}

/// Where an instruction went.
pub fn injected(out: &mut Vec<u8>, tag: &str, way: Way) {
    ok(out, tag, |o| {
        o.str("when", if way.now { "now" } else { "next-task" });
        if let Some(agent) = way.agent {
            o.num("agent", agent.0);
        }
        if let Some(task) = way.task {
            o.num("id", task.0);
        }
    });
}

pub fn rested(out: &mut Vec<u8>, tag: &str, agent: AgentId, task: Option<TaskId>, saved: Option<&str>) {
    ok(out, tag, |o| {
        o.num("agent", agent.0);
        if let Some(task) = task {
            o.num("id", task.0);
        }
        content(o, saved);
    });
}

/// Whether what an agent says it has saved can go back to it in a line.
pub fn fits(content: &str) -> bool {
    content.len() <= TEXT_INLINE_MAX
}
