//! Writes a state as lines. Its counterpart is `read.rs`: the same fields in the same order.

use super::{FORMAT, Point, steering};
use crate::json::Object;
use crate::model::{
    Agent, Counts, Course, Deadline, Ended, Ending, Frame, Phase, ReplyTo, Retire, Shared, Spec, Task, TaskState, Usage,
};
use crate::record::{ended_fields, ending_name, options_fields, reply_fields, seal, spec_fields};
use crate::time;

/// Bytes that are gathered before they are handed on.
const CHUNK: usize = 1 << 20;

/// Hands on all lines, in chunks.
pub fn write<E>(point: &Point, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let (mut out, mut lines) = (Vec::with_capacity(CHUNK + 4096), 0_u64);
    let mut line = |fields: &dyn Fn(&mut Object)| {
        let start = out.len();
        fields(&mut Object::open(&mut out));
        seal(&mut out, start);
        lines += 1;
        if out.len() < CHUNK {
            return Ok(());
        }
        let taken = take(&out);
        out.clear();
        taken
    };
    let frame = point.state.frame();
    line(&|o| head(o, point))?;
    line(&|o| hive(o, &frame))?;
    for wait in &frame.all_waits {
        line(&|o| {
            reply_fields(kind(o, "all-wait").num("last", wait.last.0).num("left", wait.left), Some(&wait.to));
            o.nums("ended", verdicts(&wait.ended));
        })?;
    }
    for name in &frame.surroundings {
        line(&|o| {
            kind(o, "surroundings").str("digest", name);
        })?;
    }
    for (name, versions) in frame.contexts.iter() {
        line(&|o| {
            kind(o, "context").str("name", name).strings("versions", versions.iter().map(|digest| digest.as_ref()));
        })?;
    }
    for (at, what) in &frame.deadlines {
        line(&|o| deadline(o, *at, *what))?;
    }
    steering::write(&frame, &mut line)?;
    for one in point.state.tasks_in_order() {
        line(&|o| task(o, one))?;
    }
    for one in point.state.agents.values() {
        line(&|o| agent(o, one))?;
    }
    let start = out.len();
    kind(&mut Object::open(&mut out), "end").num("lines", lines);
    seal(&mut out, start);
    take(&out)
}

pub(super) fn kind<'o, 'a>(o: &'o mut Object<'a>, name: &str) -> &'o mut Object<'a> {
    o.str("kind", name)
}

fn head(o: &mut Object, point: &Point) {
    kind(o, "snapshot").num("format", FORMAT).str("version", env!("CARGO_PKG_VERSION"));
    o.num("seq", point.seq.0).str("time", &time::text(point.wall)).num("term", point.term.0);
    if let Some(leader) = point.leader {
        o.num("pid", leader.pid).num("since", leader.since);
    }
}

fn hive(o: &mut Object, frame: &Frame) {
    kind(o, "hive");
    match &frame.course {
        Course::Running => o.str("course", "running"),
        Course::Stopping { mode, waiting } => {
            o.str("course", "stopping").str("mode", mode.name());
            replies(o, "waiting", waiting)
        }
        Course::Stopped => o.str("course", "stopped"),
    };
    o.opt_str("boot", frame.boot.as_deref()).num("last_task", frame.last_task.0);
    o.num("last_barrier", frame.last_barrier.0);
    if let Some(agents) = frame.unclaimed {
        o.num("unclaimed", agents);
    }
    o.nums("ended", verdicts(&frame.ended)).nums("unawaited", verdicts(&frame.unawaited));
    o.nums("room", frame.room.iter().flat_map(|(held, agent)| [*held, agent.0]));
    o.nums("retiring", frame.retiring.iter().map(|a| a.0)).nums("rolling", frame.rolling.iter().map(|a| a.0));
    o.nums("shared", shared(&frame.shared)).nums("used", used(&frame.used));
    replies(o, "room_waits", &frame.room_waits);
    replies(o, "ready_waits", &frame.ready_waits);
    spec(o, &frame.spec);
}

fn verdicts(counts: &Counts) -> [u64; 3] {
    [counts.done, counts.failed, counts.cancelled]
}

fn shared(shared: &Shared) -> [u64; 2] {
    [shared.asked, shared.sent]
}

fn used(used: &Usage) -> [u64; 4] {
    [used.input, used.output, used.cache, used.usd_micros]
}

fn spec(o: &mut Object, spec: &Spec) {
    let mut s = Object::open(o.key("spec"));
    spec_fields(&mut s, spec);
    s.close();
}

pub(super) fn replies<'o, 'a>(o: &'o mut Object<'a>, name: &str, list: &[ReplyTo]) -> &'o mut Object<'a> {
    let out = o.key(name);
    out.push(b'[');
    for (n, to) in list.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let mut one = Object::open(out);
        reply_fields(&mut one, Some(to));
        one.close();
    }
    out.push(b']');
    o
}

fn deadline(o: &mut Object, at: i64, what: Deadline) {
    kind(o, "deadline").num("at", at);
    match what {
        Deadline::Timeout(task) => o.str("what", "timeout").num("task", task.0),
        Deadline::Escalate(task) => o.str("what", "escalate").num("task", task.0),
        Deadline::GiveUp(task) => o.str("what", "give-up").num("task", task.0),
        Deadline::Restart(agent) => o.str("what", "restart").num("agent", agent.0),
        Deadline::Start(agent) => o.str("what", "start").num("agent", agent.0),
        Deadline::Barrier => o.str("what", "barrier"),
        Deadline::Rest(agent) => o.str("what", "rest").num("agent", agent.0),
    };
}

fn task(o: &mut Object, task: &Task) {
    kind(o, "task").num("task", task.id.0).str("text", &task.text);
    if let Some(options) = &task.options {
        options_fields(o, options);
    }
    o.num("submitted", task.submitted).num("attempts", task.attempts).num("deaths", task.deaths);
    if let Some(percent) = task.percent {
        o.num("percent", percent);
    }
    if let Some(asker) = &task.asker {
        replies(o, "asker", std::slice::from_ref(asker));
    }
    if !task.waiting.is_empty() {
        replies(o, "waiting", &task.waiting);
    }
    match &task.state {
        TaskState::Queued => drop(o.str("state", "queued")),
        TaskState::Held { agent, ending } => {
            o.str("state", "held").num("agent", agent.0);
            why(o, *ending);
        }
        TaskState::Running { agent, since, ending, paused } => {
            o.str("state", "running").num("agent", agent.0).nums("since", [since.mono, since.wall]);
            o.bool("paused", *paused);
            why(o, *ending);
        }
        TaskState::Ended(ended) => task_ended(o, ended),
    }
}

fn why(o: &mut Object, ending: Option<Ending>) {
    o.opt_str("why", ending.map(ending_name));
}

fn task_ended(o: &mut Object, ended: &Ended) {
    ended_fields(o.str("state", ended.verdict.name()), ended).num("ended", ended.at);
    if let Some(started) = ended.started {
        o.num("started", started);
    }
}

fn agent(o: &mut Object, agent: &Agent) {
    kind(o, "agent").num("agent", agent.id.0).num("generation", agent.generation.0);
    match &agent.phase {
        Phase::Starting { overdue } => o.str("phase", "starting").bool("overdue", *overdue),
        Phase::Ready => o.str("phase", "ready"),
        Phase::Backoff { until, reason } => o.str("phase", "backoff").num("until", *until).str("reason", reason),
        Phase::Parked { reason } => o.str("phase", "parked").str("reason", reason),
        Phase::Leaving => o.str("phase", "leaving"),
    };
    if let Some(host) = agent.host {
        o.num("pid", host.pid).num("start", host.start_ticks);
    }
    if let Some(workload) = agent.workload {
        o.num("workload", workload);
    }
    match agent.retire {
        Some(Retire::Restart) => drop(o.str("retire", "restart")),
        Some(Retire::Remove) => drop(o.str("retire", "remove")),
        None => {}
    }
    o.nums("held", agent.held.iter().map(|t| t.0)).nums("since", [agent.since.mono, agent.since.wall]);
    o.num("restarts", agent.restarts).nums("deaths", agent.deaths.iter().copied());
    o.strings("abilities", agent.abilities.iter().map(String::as_str));
    o.strings("labels", agent.labels.iter().map(String::as_str));
    o.nums("shared", shared(&agent.shared)).nums("used", used(&agent.used));
    let seen: Vec<String> = agent.seen.iter().map(|(name, digest)| format!("{name} {digest}")).collect();
    o.strings("seen", seen.iter().map(String::as_str));
    spec(o, &agent.spec);
}
