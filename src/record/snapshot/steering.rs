//! The open barrier and what is kept for steering, as lines of a snapshot, both ways.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::read::Line;
use super::write::{kind, replies};
use crate::json::Object;
use crate::model::{AgentId, Barrier, BarrierId, Frame, Member, Rest, Saved, TaskId};
use crate::record::Fault;
use crate::record::decode::{Read, wrong};

type Write<'w, E> = &'w mut dyn FnMut(&dyn Fn(&mut Object)) -> Result<(), E>;

pub(super) fn write<E>(frame: &Frame, line: Write<E>) -> Result<(), E> {
    if let Some(open) = &frame.barrier {
        line(&|o| barrier(o, open))?;
        for (id, one) in &open.members {
            line(&|o| member(o, *id, one))?;
        }
    }
    let steering = &frame.steering;
    for (id, content) in &steering.checkpoints {
        line(&|o| {
            kind(o, "checkpoint").num("task", id.0).str("content", content);
        })?;
    }
    for (id, texts) in &steering.instructions {
        line(&|o| instructions(o, "task", id.0, texts))?;
    }
    for (id, texts) in &steering.waiting {
        line(&|o| instructions(o, "agent", u64::from(id.0), texts))?;
    }
    for (id, one) in &steering.rests {
        line(&|o| rest(o, *id, one))?;
    }
    Ok(())
}

fn instructions(o: &mut Object, of: &str, id: u64, texts: &[Arc<str>]) {
    kind(o, "instructions").num(of, id).strings("texts", texts.iter().map(AsRef::as_ref));
}

fn barrier(o: &mut Object, open: &Barrier) {
    kind(o, "barrier").num("barrier", open.id.0).num("within_us", open.within_us);
    o.bool("partial", open.partial).bool("rung", open.rung);
    replies(o, "asker", open.to.as_slice());
}

fn member(o: &mut Object, id: AgentId, member: &Member) {
    kind(o, "member").num("agent", id.0);
    match member {
        Member::Awaited => o.str("state", "awaited"),
        Member::Lost(reason) => o.str("state", "lost").str("reason", reason),
        Member::Answered(Saved { task, percent, content, note }) => {
            o.str("state", "answered");
            if let Some(task) = task {
                o.num("task", task.0);
            }
            if let Some(percent) = percent {
                o.num("percent", *percent);
            }
            o.opt_str("content", content.as_deref()).opt_str("note", note.as_deref())
        }
    };
}

fn rest(o: &mut Object, id: AgentId, rest: &Rest) {
    kind(o, "rest").num("agent", id.0);
    match rest {
        Rest::Asked { task, waiting } => drop(replies(o.num("task", task.0), "waiting", waiting)),
        Rest::Reached { task, since } => {
            if let Some(task) = task {
                o.num("task", task.0);
            }
            o.num("since", *since);
        }
    }
}

impl Line<'_, '_> {
    /// Takes a line of one of these kinds into the frame.
    pub(super) fn steering(&self, kind: &str, frame: &mut Frame) -> Read<()> {
        let steering = &mut frame.steering;
        let texts = || Ok(self.r.strings("texts")?.into_iter().map(Arc::from).collect());
        match kind {
            "barrier" => frame.barrier = Some(Box::new(self.barrier()?)),
            "member" => {
                let open = frame.barrier.as_mut().ok_or_else(|| Fault::Broken("a line is out of place".into()))?;
                open.members.insert(self.r.agent()?, self.member()?);
            }
            "checkpoint" => drop(steering.checkpoints.insert(self.r.task()?, self.r.str("content")?)),
            "instructions" if self.r.opt_num("task")?.is_some() => {
                steering.instructions.insert(self.r.task()?, texts()?);
            }
            "instructions" => drop(steering.waiting.insert(self.r.agent()?, texts()?)),
            "rest" => drop(steering.rests.insert(self.r.agent()?, self.rest()?)),
            other => return Err(Fault::Unknown(other.to_owned())),
        }
        Ok(())
    }

    fn barrier(&self) -> Read<Barrier> {
        Ok(Barrier {
            id: BarrierId(self.r.num("barrier")?),
            within_us: self.r.int("within_us")?,
            partial: self.r.flag("partial")?,
            rung: self.r.flag("rung")?,
            to: self.replies("asker")?.pop(),
            members: BTreeMap::new(),
        })
    }

    fn member(&self) -> Read<Member> {
        Ok(match self.r.str("state")?.as_ref() {
            "awaited" => Member::Awaited,
            "lost" => Member::Lost(self.r.str("reason")?),
            "answered" => Member::Answered(Saved {
                task: self.r.opt_num("task")?.map(TaskId),
                percent: self.r.opt_num("percent")?.map(|percent| percent as u8),
                content: self.r.opt_str("content")?,
                note: self.r.opt_str("note")?,
            }),
            _ => return Err(wrong("state")),
        })
    }

    fn rest(&self) -> Read<Rest> {
        Ok(match self.r.opt_int("since")? {
            Some(since) => Rest::Reached { task: self.r.opt_num("task")?.map(TaskId), since: since + self.shift },
            None => Rest::Asked { task: self.r.task()?, waiting: self.replies("waiting")? },
        })
    }
}
