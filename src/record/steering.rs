//! The records of barriers, instructions and pauses at a checkpoint, both ways; and what of them a snapshot holds.

use std::sync::Arc;

use super::decode::{Fault, Read, Reader};
use super::{Fields, kind, reply_fields};
use crate::json::Object;
use crate::model::{AgentId, BarrierId, Event, TaskId, Way};
use crate::wire::reference;

pub(super) fn fields<'o, 'a>(o: Fields<'o, 'a>, event: &Event) -> Fields<'o, 'a> {
    match event {
        Event::BarrierBegan { barrier, agents, within_us, partial, to } => {
            kind(o, "barrier-began").num("barrier", barrier.0).nums("agents", agents.iter().map(|a| a.0));
            o.num("within_us", *within_us);
            flag(o, "partial", *partial);
            reply_fields(o, to.as_ref())
        }
        Event::Checkpointed { agent, barrier, task, content, note } => {
            kind(o, "checkpointed").num("barrier", barrier.0).num("agent", agent.0);
            saved(o, *task, content.as_deref()).opt_str("note", note.as_deref())
        }
        Event::BarrierComplete { barrier, stragglers } => over(o, "barrier-complete", *barrier, stragglers),
        Event::BarrierFailed { barrier, stragglers } => over(o, "barrier-failed", *barrier, stragglers),
        Event::Injected { way, text, to } => {
            kind(o, "injected");
            if let Some(agent) = way.agent {
                o.num("agent", agent.0);
            }
            number(o, "task", way.task);
            flag(o, "now", way.now);
            reply_fields(o.str("text", text), to.as_ref())
        }
        Event::AskedToRest { agent, task, within_us, to } => {
            kind(o, "pause-asked").num("agent", agent.0).num("task", task.0);
            if let Some(within) = within_us {
                o.num("within_us", *within);
            }
            reply_fields(o, to.as_ref())
        }
        Event::Rested { agent, task, content, to } => {
            kind(o, "pause-reached").num("agent", agent.0);
            reply_fields(saved(o, *task, content.as_deref()), to.as_ref())
        }
        Event::RestMissed { agent } => kind(o, "pause-missed").num("agent", agent.0),
        Event::WentOn { agent, task, text, to } => {
            kind(o, "pause-over").num("agent", agent.0);
            reply_fields(number(o, "task", *task).opt_str("text", text.as_deref()), to.as_ref())
        }
        other => unreachable!("no record of steering: {other:?}"),
    }
}

fn flag(o: &mut Object, name: &str, value: bool) {
    if value {
        o.bool(name, true);
    }
}

fn number<'o, 'a>(o: Fields<'o, 'a>, name: &str, task: Option<TaskId>) -> Fields<'o, 'a> {
    match task {
        Some(task) => o.num(name, task.0),
        None => o,
    }
}

fn saved<'o, 'a>(o: Fields<'o, 'a>, task: Option<TaskId>, content: Option<&str>) -> Fields<'o, 'a> {
    number(o, "task", task);
    match content {
        Some(name) if reference(name).is_some() => o.str("ref", name),
        text => o.opt_str("text", text),
    }
}

fn over<'o, 'a>(o: Fields<'o, 'a>, name: &str, barrier: BarrierId, stragglers: &[AgentId]) -> Fields<'o, 'a> {
    kind(o, name).num("barrier", barrier.0).nums("stragglers", stragglers.iter().map(|a| a.0))
}

impl Reader<'_, '_> {
    pub(super) fn steering(&self, kind: &str) -> Read<Event> {
        Ok(match kind {
            "barrier-began" => Event::BarrierBegan {
                barrier: self.barrier()?,
                agents: self.agents("agents")?,
                within_us: self.int("within_us")?,
                partial: self.flag("partial")?,
                to: self.opt_reply()?,
            },
            "checkpointed" => Event::Checkpointed {
                agent: self.agent()?,
                barrier: self.barrier()?,
                task: self.opt_task()?,
                content: self.content()?,
                note: self.opt_str("note")?,
            },
            "barrier-complete" => {
                Event::BarrierComplete { barrier: self.barrier()?, stragglers: self.agents("stragglers")? }
            }
            "barrier-failed" => {
                Event::BarrierFailed { barrier: self.barrier()?, stragglers: self.agents("stragglers")? }
            }
            "injected" => {
                let agent = self.opt_num("agent")?.map(|n| AgentId(n as u32));
                let way = Way { agent, task: self.opt_task()?, now: self.flag("now")? };
                Event::Injected { way, text: self.str("text")?, to: self.opt_reply()? }
            }
            "pause-asked" => Event::AskedToRest {
                agent: self.agent()?,
                task: self.task()?,
                within_us: self.opt_int("within_us")?,
                to: self.opt_reply()?,
            },
            "pause-reached" => Event::Rested {
                agent: self.agent()?,
                task: self.opt_task()?,
                content: self.content()?,
                to: self.opt_reply()?,
            },
            "pause-missed" => Event::RestMissed { agent: self.agent()? },
            "pause-over" => Event::WentOn {
                agent: self.agent()?,
                task: self.opt_task()?,
                text: self.opt_str("text")?,
                to: self.opt_reply()?,
            },
            other => return Err(Fault::Unknown(other.to_owned())),
        })
    }

    fn barrier(&self) -> Read<BarrierId> {
        Ok(BarrierId(self.num("barrier")?))
    }

    fn opt_task(&self) -> Read<Option<TaskId>> {
        Ok(self.opt_num("task")?.map(TaskId))
    }

    fn content(&self) -> Read<Option<Arc<str>>> {
        Ok(self.opt_str("ref")?.or(self.opt_str("text")?))
    }

    fn agents(&self, name: &str) -> Read<Vec<AgentId>> {
        let numbers = self.0.numbers(name).map_err(Fault::Broken)?;
        Ok(numbers.into_iter().map(|n| AgentId(n as u32)).collect())
    }
}

/// One of each, and of what may be absent both.
#[cfg(test)]
pub(super) fn samples() -> Vec<Event> {
    use crate::model::ReplyTo;
    let to = Some(ReplyTo { name: "me".into(), tag: "1".into(), watches: false });
    let (agent, barrier, task) = (AgentId(2), BarrierId(3), Some(TaskId(4)));
    let text: Option<Arc<str>> = Some("a \"b\"".into());
    let name: Option<Arc<str>> = Some(format!("REF:{}", "a".repeat(64)).into());
    let way = Way { agent: Some(agent), task, now: true };
    vec![
        Event::BarrierBegan { barrier, agents: vec![agent, AgentId(5)], within_us: 7, partial: true, to: to.clone() },
        Event::Checkpointed { agent, barrier, task, content: text.clone(), note: None },
        Event::Checkpointed { agent, barrier: BarrierId(0), task, content: name.clone(), note: None },
        Event::Checkpointed { agent, barrier, task: None, content: None, note: text.clone() },
        Event::BarrierComplete { barrier, stragglers: vec![] },
        Event::BarrierFailed { barrier, stragglers: vec![agent] },
        Event::Injected { way, text: "x".into(), to: to.clone() },
        Event::Injected { way: Way { agent: None, now: false, ..way }, text: "x".into(), to: None },
        Event::AskedToRest { agent, task: TaskId(4), within_us: Some(9), to: to.clone() },
        Event::AskedToRest { agent, task: TaskId(4), within_us: None, to: None },
        Event::Rested { agent, task, content: name, to: to.clone() },
        Event::Rested { agent, task: None, content: None, to: None },
        Event::RestMissed { agent },
        Event::WentOn { agent, task, text, to },
        Event::WentOn { agent, task: None, text: None, to: None },
    ]
}
