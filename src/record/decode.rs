//! Reads a record back. Typed access to its fields, with the field named in every fault.

use std::sync::Arc;

use super::{CRC_LEN, Stamp, checksum};
use crate::json::Flat;
use crate::model::{
    AgentId, Difference, Ended, Ending, Event, Generation, Given, HostId, Kind, Limit, Loss, Options, PutBack, ReplyTo,
    Seq, Spec, StopMode, Target, TaskId, Term, Then, Verdict,
};
use crate::time;
use crate::wire;

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Not a whole record: the write was cut, or something else wrote here.
    Broken(String),
    /// Whole, but of a kind that this version does not know.
    Unknown(String),
}

/// Reads one line, without its newline.
pub fn decode(line: &[u8]) -> Result<(Stamp, Event), Fault> {
    let flat = whole(line)?;
    let r = Reader(&flat);
    Ok((r.stamp()?, r.event()?))
}

/// The fields of a line whose checksum matches.
pub(super) fn whole(line: &[u8]) -> Read<Flat<'_>> {
    let broken = |what: &str| Fault::Broken(what.to_owned());
    let body = line.len().checked_sub(CRC_LEN).ok_or_else(|| broken("it is too short"))?;
    let (body, tail) = line.split_at(body);
    if !tail.starts_with(b",\"crc\":\"") {
        return Err(broken("it has no checksum"));
    }
    if tail != &checksum(body)[..CRC_LEN] {
        return Err(broken("its checksum does not match"));
    }
    let text = std::str::from_utf8(line).map_err(|_| broken("it is not UTF-8"))?;
    Flat::parse(text).map_err(|e| broken(&e))
}

/// Typed access to the fields of a record, with the field named in every fault.
pub(super) struct Reader<'f, 'a>(pub &'f Flat<'a>);

pub(super) type Read<T> = Result<T, Fault>;

impl Reader<'_, '_> {
    pub fn stamp(&self) -> Read<Stamp> {
        let wall = time::parse(&self.str("time")?).ok_or_else(|| wrong("time"))?;
        Ok(Stamp { seq: Seq(self.num("seq")?), wall, term: Term(self.num("term")?) })
    }

    fn event(&self) -> Read<Event> {
        let kind = self.str("kind")?;
        if let Some(verdict) = Verdict::parse(&kind) {
            return Ok(Event::Ended { task: self.task()?, ended: Box::new(self.ended(verdict)?) });
        }
        Ok(match kind.as_ref() {
            "assigned" => Event::Assigned { tasks: self.tasks()?, agent: self.agent()? },
            "submitted" => Event::Submitted {
                task: self.task()?,
                text: self.str("text")?,
                options: self.options()?,
                to: self.opt_reply()?,
                waits: self.flag("waits")?,
            },
            "led" => {
                let (pid, afresh) = (self.num("pid")? as i32, self.flag("afresh")?);
                Event::Led { pid, version: self.str("version")?, boot: self.str("boot")?, afresh }
            }
            "configured" => Event::Configured { spec: Arc::new(self.spec()?) },
            "agent-added" => Event::AgentAdded { agent: self.agent()? },
            "agent-removed" => Event::AgentRemoved { agent: self.agent()? },
            "agent-hosted" => Event::Hosted {
                agent: self.agent()?,
                generation: self.generation()?,
                host: HostId { pid: self.num("pid")? as i32, start_ticks: self.num("start")? },
            },
            "agent-started" => Event::Started {
                agent: self.agent()?,
                generation: self.generation()?,
                workload: self.num("workload")? as i32,
            },
            "agent-ready" => Event::Ready {
                agent: self.agent()?,
                generation: self.generation()?,
                workload: self.opt_num("workload")?.map(|pid| pid as i32),
                abilities: self.strings("abilities")?,
                labels: self.strings("labels")?,
            },
            "agent-lost" => Event::Lost {
                agent: self.agent()?,
                generation: self.generation()?,
                loss: Loss {
                    host: self.flag("host")?,
                    cause: self.str("cause")?,
                    stderr: self.str("stderr")?,
                    limit: self.limit()?,
                },
                then: self.then()?,
            },
            "agent-restarting" => Event::Restarting { agent: self.agent()?, generation: self.generation()? },
            "agent-retiring" => Event::Retiring { agent: self.agent()?, remove: self.flag("remove")? },
            "agent-leaving" => Event::Leaving { agent: self.agent()? },
            "agent-overdue" => Event::Overdue { agent: self.agent()? },
            "rolling" => {
                let numbers = self.0.numbers("agents").map_err(Fault::Broken)?;
                Event::Rolling { agents: numbers.into_iter().map(|n| AgentId(n as u32)).collect() }
            }
            "progress" => {
                Event::Progress { task: self.task()?, percent: self.num("percent")? as u8, text: self.str("text")? }
            }
            "usage" => Event::Usage { task: self.task()?, fields: self.str("usage")? },
            "ending" => Event::Ending { task: self.task()?, why: self.why_ending()? },
            "forced" => Event::Forced { task: self.task()? },
            "given-up" => Event::GivenUp { task: self.task()? },
            "put-back" => {
                let why = PutBack::parse(&self.str("why")?).ok_or_else(|| wrong("why"))?;
                Event::PutBack { task: self.task()?, why }
            }
            "awaited" => Event::Awaited { task: self.task()?, to: self.reply()? },
            "awaited-all" => Event::AwaitedAll { to: self.reply()? },
            "awaited-room" => Event::AwaitedRoom { to: self.reply()? },
            "awaited-ready" => Event::AwaitedReady { to: self.reply()? },
            "stopping" => {
                let mode = StopMode::parse(&self.str("mode")?).ok_or_else(|| wrong("mode"))?;
                Event::Stopping { mode, to: self.opt_reply()? }
            }
            "stopped" => Event::Stopped,
            "repaired" => Event::Repaired { from: Seq(self.num("from")?), to: Seq(self.num("to")?) },
            other => return self.steering(other),
        })
    }

    pub fn num(&self, name: &str) -> Read<u64> {
        self.opt_num(name)?.ok_or_else(|| wrong(name))
    }

    pub fn opt_num(&self, name: &str) -> Read<Option<u64>> {
        self.0.u64(name).map_err(Fault::Broken)
    }

    pub fn int(&self, name: &str) -> Read<i64> {
        self.opt_int(name)?.ok_or_else(|| wrong(name))
    }

    pub fn opt_int(&self, name: &str) -> Read<Option<i64>> {
        self.0.i64(name).map_err(Fault::Broken)
    }

    pub fn flag(&self, name: &str) -> Read<bool> {
        Ok(self.0.bool(name).map_err(Fault::Broken)?.unwrap_or(false))
    }

    pub fn str(&self, name: &str) -> Read<Arc<str>> {
        self.opt_str(name)?.ok_or_else(|| wrong(name))
    }

    pub fn opt_str(&self, name: &str) -> Read<Option<Arc<str>>> {
        Ok(self.0.str(name).map_err(Fault::Broken)?.map(|t| t.as_ref().into()))
    }

    pub fn strings(&self, name: &str) -> Read<Vec<String>> {
        self.0.strings(name).map_err(Fault::Broken)
    }

    pub fn task(&self) -> Read<TaskId> {
        Ok(TaskId(self.num("task")?))
    }

    /// One is `task`, several are `tasks`.
    fn tasks(&self) -> Read<Vec<TaskId>> {
        match self.opt_num("task")? {
            Some(id) => Ok(vec![TaskId(id)]),
            None => Ok(self.0.numbers("tasks").map_err(Fault::Broken)?.into_iter().map(TaskId).collect()),
        }
    }

    pub fn agent(&self) -> Read<AgentId> {
        Ok(AgentId(self.num("agent")? as u32))
    }

    pub fn generation(&self) -> Read<Generation> {
        Ok(Generation(self.num("generation")? as u32))
    }

    pub fn opt_reply(&self) -> Read<Option<ReplyTo>> {
        let Some(name) = self.opt_str("reply")? else {
            return Ok(None);
        };
        Ok(Some(ReplyTo { name, tag: self.0.raw("tag").unwrap_or("null").into(), watches: self.flag("watch")? }))
    }

    pub fn reply(&self) -> Read<ReplyTo> {
        self.opt_reply()?.ok_or_else(|| wrong("reply"))
    }

    pub fn options(&self) -> Read<Option<Box<Options>>> {
        let labels = self.strings("labels")?;
        let target = match self.opt_num("for_agent")? {
            Some(id) => Target::Agent(AgentId(id as u32)),
            None if labels.is_empty() => Target::Any,
            None => Target::Labels(labels),
        };
        let options = Options {
            name: self.opt_str("name")?,
            target,
            priority: self.opt_int("priority")?.unwrap_or(0) as i32,
            timeout_us: self.opt_int("timeout_us")?,
            retries: self.opt_num("retries")?.map(|n| n as u32),
            surroundings: self.opt_str("surroundings")?,
            contexts: self.contexts()?,
        };
        Ok((options != Options::default()).then(|| Box::new(options)))
    }

    fn contexts(&self) -> Read<Arc<[Given]>> {
        let difference = |text: &String| {
            let mut words = text.split(' ');
            let mut next = || words.next().ok_or_else(|| wrong("diffs"));
            let (base, digest) = (next()?.into(), next()?.into());
            Ok(Difference { base, digest, bytes: next()?.parse().map_err(|_| wrong("diffs"))? })
        };
        let given = |flat: &Flat| {
            let r = Reader(flat);
            let diffs = r.strings("diffs")?.iter().map(difference).collect::<Read<_>>()?;
            Ok(Given { name: r.str("name")?, digest: r.str("digest")?, bytes: r.num("bytes")?, diffs })
        };
        self.0.objects("contexts").map_err(Fault::Broken)?.iter().map(given).collect()
    }

    pub fn spec(&self) -> Read<Spec> {
        Ok(Spec {
            kind: Kind::parse(&self.str("agents")?).ok_or_else(|| wrong("agents"))?,
            command: self.strings("command")?,
            labels: self.strings("labels")?,
            name: self.opt_str("name")?,
            surroundings: self.opt_str("surroundings")?,
            prefetch: self.num("prefetch")? as u32,
            max_queued: self.num("max_queued")?,
            stop_grace_us: self.num("stop_grace_us")? as i64,
            start_patience_us: self.num("start_patience_us")? as i64,
            orphan_grace_us: self.num("orphan_grace_us")? as i64,
            limits: wire::limits::read(self.0).map_err(Fault::Broken)?,
        })
    }

    /// A word of a later version counts as none: how it ended stays readable.
    fn limit(&self) -> Read<Option<Limit>> {
        Ok(self.opt_str("limit")?.and_then(|name| Limit::parse(&name)))
    }

    fn then(&self) -> Read<Then> {
        Ok(match self.str("then")?.as_ref() {
            "retry" => Then::Retry(self.num("after_us")? as i64),
            "park" => Then::Park,
            "remove" => Then::Remove,
            "again" => Then::Again,
            _ => return Err(wrong("then")),
        })
    }

    pub fn why_ending(&self) -> Read<Ending> {
        match self.str("why")?.as_ref() {
            "cancel" => Ok(Ending::Cancel),
            "timeout" => Ok(Ending::Timeout),
            _ => Err(wrong("why")),
        }
    }

    pub fn ended(&self, verdict: Verdict) -> Read<Ended> {
        Ok(Ended {
            agent: self.opt_num("agent")?.map(|n| AgentId(n as u32)),
            attempt: self.num("attempt")? as u32,
            result: self.opt_str("result")?,
            unterminated: self.0.bool("newline").map_err(Fault::Broken)? == Some(false),
            bytes: self.opt_num("bytes")?,
            reason: self.opt_str("reason")?,
            exit: self.opt_int("exit")?.map(|n| n as i32),
            signal: self.opt_int("signal")?.map(|n| n as i32),
            timed_out: self.flag("timed_out")?,
            limit: self.limit()?,
            by_hive: self.flag("by_hive")?,
            log: self.opt_num("log")?.unwrap_or(0),
            ..Ended::new(verdict)
        })
    }
}

pub(super) fn wrong(field: &str) -> Fault {
    Fault::Broken(format!("\"{field}\" is missing or not as it must be"))
}
