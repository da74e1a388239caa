//! One event as one line of the log: JSON with a sequence number, a time, a term, a kind, and a checksum last.
//! Invariant: what is encoded decodes to the same event. Pure. The format is versioned by the segment's first record.

mod decode;
pub mod snapshot;
mod steering;

pub use decode::{Fault, decode};

use crate::json::{Object, number, quote};
use crate::model::{
    AgentId, Ended, Ending, Event, Generation, Given, Limit, Loss, Options, ReplyTo, Seq, Spec, Target, Term, Then,
};
use crate::time;
use crate::wire;

/// What stands before and after the event's own fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub seq: Seq,
    pub wall: i64,
    pub term: Term,
}

/// What a log that this version writes asks of its reader. 2: one `assigned` may name several `tasks`. 3: barriers,
/// instructions and pauses at a checkpoint.
const FORMAT: u32 = 3;

/// `,"crc":"` + 8 hex digits + `"}`
const CRC_LEN: usize = 18;

/// What the records of one turn have in common, as it stands in each of them: `,"time":"...","term":1,"kind":"`.
#[derive(Default)]
pub struct Moment {
    wall: i64,
    term: Term,
    text: Vec<u8>,
}

impl Moment {
    /// Does nothing while it is still the same moment.
    pub fn set(&mut self, wall: i64, term: Term) {
        if self.wall == wall && self.term == term && !self.text.is_empty() {
            return;
        }
        (self.wall, self.term) = (wall, term);
        self.text.clear();
        self.text.extend_from_slice(b",\"time\":\"");
        time::write(&mut self.text, wall);
        self.text.extend_from_slice(b"\",\"term\":");
        number(&mut self.text, term.0);
        self.text.extend_from_slice(b",\"kind\":\"");
    }
}

/// Appends one record with its newline.
pub fn encode(out: &mut Vec<u8>, seq: Seq, moment: &Moment, event: &Event) {
    let start = out.len();
    let mut o = Object::open(out);
    o.num("seq", seq.0).more(&moment.text);
    fields(&mut o, event);
    seal(out, start);
}

/// Ends a line that was begun at `start`: its checksum, and the newline.
fn seal(out: &mut Vec<u8>, start: usize) {
    let end = checksum(&out[start..]);
    out.extend_from_slice(&end);
}

/// What stands after `body` in a whole line, and the newline.
fn checksum(body: &[u8]) -> [u8; CRC_LEN + 1] {
    let crc = crc32fast::hash(body);
    let mut end = *b",\"crc\":\"........\"}\n";
    for (digit, shift) in end[8..16].iter_mut().zip((0..32).step_by(4).rev()) {
        *digit = b"0123456789abcdef"[(crc >> shift & 15) as usize];
    }
    end
}

fn fields(o: &mut Object, event: &Event) {
    match event {
        Event::Led { pid, version, boot, afresh } => {
            kind(o, "led").num("pid", *pid).str("version", version).str("boot", boot).num("format", FORMAT);
            if *afresh { o.bool("afresh", true) } else { o }
        }
        Event::Configured { spec } => spec_fields(kind(o, "configured"), spec),
        Event::AgentAdded { agent } => kind(o, "agent-added").num("agent", agent.0),
        Event::AgentRemoved { agent } => kind(o, "agent-removed").num("agent", agent.0),
        Event::Hosted { agent, generation, host } => {
            start(o, "agent-hosted", *agent, *generation).num("pid", host.pid).num("start", host.start_ticks)
        }
        Event::Started { agent, generation, workload } => {
            start(o, "agent-started", *agent, *generation).num("workload", *workload)
        }
        Event::Ready { agent, generation, workload, abilities, labels } => {
            start(o, "agent-ready", *agent, *generation);
            if let Some(workload) = workload {
                o.num("workload", *workload);
            }
            o.strings("abilities", abilities.iter().map(String::as_str))
                .strings("labels", labels.iter().map(String::as_str))
        }
        Event::Lost { agent, generation, loss, then } => lost(start(o, "agent-lost", *agent, *generation), loss, then),
        Event::Restarting { agent, generation } => start(o, "agent-restarting", *agent, *generation),
        Event::Retiring { agent, remove } => kind(o, "agent-retiring").num("agent", agent.0).bool("remove", *remove),
        Event::Leaving { agent } => kind(o, "agent-leaving").num("agent", agent.0),
        Event::Overdue { agent } => kind(o, "agent-overdue").num("agent", agent.0),
        Event::Rolling { agents } => kind(o, "rolling").nums("agents", agents.iter().map(|agent| agent.0)),
        Event::Submitted { task, text, options, to, waits } => {
            kind(o, "submitted").num("task", task.0).str("text", text);
            if let Some(options) = options {
                options_fields(o, options);
            }
            if *waits {
                o.bool("waits", true);
            }
            reply_fields(o, to.as_ref())
        }
        Event::Assigned { tasks, agent } => {
            let o = kind(o, "assigned");
            match tasks[..] {
                [task] => o.num("task", task.0),
                _ => o.nums("tasks", tasks.iter().map(|task| task.0)),
            };
            o.num("agent", agent.0)
        }
        Event::Progress { task, percent, text } => {
            kind(o, "progress").num("task", task.0).num("percent", *percent).str("text", text)
        }
        Event::Usage { task, fields } => kind(o, "usage").num("task", task.0).str("usage", fields),
        Event::Ending { task, why } => kind(o, "ending").num("task", task.0).str("why", ending_name(*why)),
        Event::Forced { task } => kind(o, "forced").num("task", task.0),
        Event::GivenUp { task } => kind(o, "given-up").num("task", task.0),
        Event::PutBack { task, why } => kind(o, "put-back").num("task", task.0).str("why", why.name()),
        Event::Ended { task, ended } => ended_fields(kind(o, ended.verdict.name()).num("task", task.0), ended),
        Event::Awaited { task, to } => reply_fields(kind(o, "awaited").num("task", task.0), Some(to)),
        Event::AwaitedAll { to } => reply_fields(kind(o, "awaited-all"), Some(to)),
        Event::AwaitedRoom { to } => reply_fields(kind(o, "awaited-room"), Some(to)),
        Event::AwaitedReady { to } => reply_fields(kind(o, "awaited-ready"), Some(to)),
        Event::BarrierBegan { .. }
        | Event::Checkpointed { .. }
        | Event::BarrierComplete { .. }
        | Event::BarrierFailed { .. }
        | Event::Injected { .. }
        | Event::AskedToRest { .. }
        | Event::Rested { .. }
        | Event::RestMissed { .. }
        | Event::WentOn { .. } => steering::fields(o, event),
        Event::Stopping { mode, to } => reply_fields(kind(o, "stopping").str("mode", mode.name()), to.as_ref()),
        Event::Stopped => kind(o, "stopped"),
        Event::Repaired { from, to } => kind(o, "repaired").num("from", from.0).num("to", to.0),
    };
}

type Fields<'o, 'a> = &'o mut Object<'a>;

/// The value of the field that [`Moment`] has begun.
#[inline(always)]
fn kind<'o, 'a>(o: Fields<'o, 'a>, name: &str) -> Fields<'o, 'a> {
    o.more(name.as_bytes()).more(b"\"")
}

fn start<'o, 'a>(o: Fields<'o, 'a>, name: &str, agent: AgentId, generation: Generation) -> Fields<'o, 'a> {
    kind(o, name).num("agent", agent.0).num("generation", generation.0)
}

fn spec_fields<'o, 'a>(o: Fields<'o, 'a>, spec: &Spec) -> Fields<'o, 'a> {
    o.str("agents", spec.kind.name())
        .strings("command", spec.command.iter().map(String::as_str))
        .strings("labels", spec.labels.iter().map(String::as_str))
        .opt_str("name", spec.name.as_deref())
        .opt_str("surroundings", spec.surroundings.as_deref())
        .num("prefetch", spec.prefetch)
        .num("max_queued", spec.max_queued)
        .num("stop_grace_us", spec.stop_grace_us)
        .num("start_patience_us", spec.start_patience_us)
        .num("orphan_grace_us", spec.orphan_grace_us);
    wire::limits::write(o, &spec.limits);
    o
}

fn lost<'o, 'a>(o: Fields<'o, 'a>, loss: &Loss, then: &Then) -> Fields<'o, 'a> {
    o.bool("host", loss.host).str("cause", &loss.cause).str("stderr", &loss.stderr);
    o.opt_str("limit", loss.limit.map(Limit::name));
    match then {
        Then::Retry(after) => o.str("then", "retry").num("after_us", *after),
        Then::Park => o.str("then", "park"),
        Then::Remove => o.str("then", "remove"),
        Then::Again => o.str("then", "again"),
    }
}

fn options_fields(o: &mut Object, options: &Options) {
    o.opt_str("name", options.name.as_deref());
    match &options.target {
        Target::Any => {}
        Target::Agent(id) => drop(o.num("for_agent", id.0)),
        Target::Labels(labels) => drop(o.strings("labels", labels.iter().map(String::as_str))),
    }
    if options.priority != 0 {
        o.num("priority", options.priority);
    }
    if let Some(timeout) = options.timeout_us {
        o.num("timeout_us", timeout);
    }
    if let Some(retries) = options.retries {
        o.num("retries", retries);
    }
    o.opt_str("surroundings", options.surroundings.as_deref());
    if !options.contexts.is_empty() {
        contexts_field(o.key("contexts"), &options.contexts);
    }
}

fn contexts_field(out: &mut Vec<u8>, contexts: &[Given]) {
    out.push(b'[');
    for (n, given) in contexts.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let mut one = Object::open(out);
        one.str("name", &given.name).str("digest", &given.digest).num("bytes", given.bytes);
        if !given.diffs.is_empty() {
            let diffs = given.diffs.iter().map(|diff| format!("{} {} {}", diff.base, diff.digest, diff.bytes));
            one.strings("diffs", diffs.collect::<Vec<_>>().iter().map(String::as_str));
        }
        one.close();
    }
    out.push(b']');
}

fn reply_fields<'o, 'a>(o: Fields<'o, 'a>, to: Option<&ReplyTo>) -> Fields<'o, 'a> {
    let Some(to) = to else { return o };
    quote(o.key("reply"), &to.name);
    o.raw("tag", &to.tag);
    if to.watches { o.bool("watch", true) } else { o }
}

fn ended_fields<'o, 'a>(o: Fields<'o, 'a>, ended: &Ended) -> Fields<'o, 'a> {
    if let Some(agent) = ended.agent {
        o.num("agent", agent.0);
    }
    o.num("attempt", ended.attempt).opt_str("result", ended.result.as_deref());
    if ended.unterminated {
        o.bool("newline", false);
    }
    if let Some(bytes) = ended.bytes {
        o.num("bytes", bytes);
    }
    o.opt_str("reason", ended.reason.as_deref());
    if let Some(exit) = ended.exit {
        o.num("exit", exit);
    }
    if let Some(signal) = ended.signal {
        o.num("signal", signal);
    }
    if ended.timed_out {
        o.bool("timed_out", true);
    }
    o.opt_str("limit", ended.limit.map(Limit::name));
    if ended.by_hive {
        o.bool("by_hive", true);
    }
    if ended.log > 0 {
        o.num("log", ended.log);
    }
    o
}

fn ending_name(why: Ending) -> &'static str {
    match why {
        Ending::Cancel => "cancel",
        Ending::Timeout => "timeout",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Difference, HostId, Kind, Limits, PutBack, StopMode, TaskId, Verdict};

    fn samples() -> Vec<Event> {
        let to = ReplyTo { name: "me".into(), tag: "{\"a\": 1}".into(), watches: true };
        let diff = Difference { base: "d1".into(), digest: "d3".into(), bytes: 3 };
        let options = Options {
            name: Some("b".into()),
            target: Target::Agent(AgentId(2)),
            priority: -3,
            timeout_us: Some(5),
            retries: Some(0),
            surroundings: None,
            contexts: [Given { name: "notes".into(), digest: "d2".into(), bytes: 9, diffs: vec![diff] }].into(),
        };
        let labelled = Options { target: Target::Labels(vec!["rust".into()]), ..Options::default() };
        let stderr = "bad\nworse \"x\"".into();
        let loss = Loss { host: true, cause: "exit 1".into(), stderr, limit: Some(Limit::MachineMemory) };
        let mut all = vec![
            Event::Led { pid: 7, version: "0.1.0".into(), boot: "b".into(), afresh: true },
            Event::Configured {
                spec: Arc::new(Spec {
                    kind: Kind::Lines,
                    command: vec!["a b".into()],
                    prefetch: 16,
                    limits: Limits { memory: Some(1 << 30), nice: Some(5), ..Limits::default() },
                    ..Spec::default()
                }),
            },
            Event::AgentAdded { agent: AgentId(1) },
            Event::AgentRemoved { agent: AgentId(1) },
            Event::Hosted { agent: AgentId(1), generation: Generation(2), host: HostId { pid: 5, start_ticks: 99 } },
            Event::Ready {
                agent: AgentId(1),
                generation: Generation(2),
                workload: Some(6),
                abilities: vec!["usr1".into()],
                labels: vec![],
            },
            Event::Started { agent: AgentId(1), generation: Generation(2), workload: 6 },
            Event::Restarting { agent: AgentId(1), generation: Generation(3) },
            Event::Retiring { agent: AgentId(1), remove: true },
            Event::Leaving { agent: AgentId(1) },
            Event::Overdue { agent: AgentId(1) },
            Event::Rolling { agents: vec![AgentId(1), AgentId(2)] },
            Event::Submitted {
                task: TaskId(1),
                text: "a\"\\\nb".into(),
                options: Some(Box::new(options)),
                to: Some(to.clone()),
                waits: true,
            },
            Event::Submitted {
                task: TaskId(2),
                text: "".into(),
                options: Some(Box::new(labelled)),
                to: None,
                waits: false,
            },
            Event::Assigned { tasks: vec![TaskId(1)], agent: AgentId(1) },
            Event::Assigned { tasks: vec![TaskId(2), TaskId(3)], agent: AgentId(1) },
            Event::Progress { task: TaskId(1), percent: 41, text: "half".into() },
            Event::Usage { task: TaskId(1), fields: "in=1 out=2".into() },
            Event::Ending { task: TaskId(1), why: Ending::Timeout },
            Event::Forced { task: TaskId(1) },
            Event::GivenUp { task: TaskId(1) },
            Event::Awaited { task: TaskId(1), to: to.clone() },
            Event::AwaitedAll { to: to.clone() },
            Event::AwaitedRoom { to: to.clone() },
            Event::AwaitedReady { to: to.clone() },
            Event::Stopping { mode: StopMode::Drain, to: Some(to) },
            Event::Stopped,
            Event::Repaired { from: Seq(3), to: Seq(11) },
        ];
        all.extend(steering::samples());
        all.extend(PutBack::ALL.map(|why| Event::PutBack { task: TaskId(1), why }));
        for then in [Then::Retry(5), Then::Park, Then::Remove, Then::Again] {
            all.push(Event::Lost { agent: AgentId(1), generation: Generation(1), loss: loss.clone(), then });
        }
        for verdict in Verdict::ALL {
            let ended = Ended {
                agent: Some(AgentId(1)),
                attempt: 2,
                result: Some("x".into()),
                unterminated: true,
                bytes: Some(9),
                reason: Some("y".into()),
                exit: Some(-1),
                signal: Some(9),
                timed_out: true,
                by_hive: true,
                log: 3,
                ..Ended::new(verdict)
            };
            all.push(Event::Ended { task: TaskId(1), ended: Box::new(ended) });
        }
        all
    }

    fn line(event: &Event) -> Vec<u8> {
        let (mut out, mut moment) = (Vec::new(), Moment::default());
        moment.set(1_700_000_000_000_001, Term(3));
        encode(&mut out, Seq(12), &moment, event);
        out
    }

    #[test]
    fn every_event_is_read_back() {
        for event in samples() {
            let bytes = line(&event);
            let (stamp, read) = decode(bytes.strip_suffix(b"\n").unwrap()).unwrap();
            assert_eq!(read, event);
            assert_eq!((stamp.seq, stamp.term, stamp.wall), (Seq(12), Term(3), 1_700_000_000_000_001));
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(json["seq"], 12);
        }
    }

    #[test]
    fn a_changed_byte_is_found() {
        let good = line(&Event::Assigned { tasks: vec![TaskId(1)], agent: AgentId(1) });
        let good = &good[..good.len() - 1];
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            assert!(decode(&bad).is_err(), "byte {at}");
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_kind_of_a_later_version_is_told_apart_from_damage() {
        let mut text = br#"{"seq":1,"time":"1970-01-01T00:00:00.000000Z","term":1,"kind":"teleported""#.to_vec();
        let crc = crc32fast::hash(&text);
        text.extend_from_slice(format!(",\"crc\":\"{crc:08x}\"}}").as_bytes());
        assert_eq!(decode(&text), Err(Fault::Unknown("teleported".into())));
    }
}
