//! What hive answers: one JSON object a line, the tag first. Field names here are what scripts rely on.

use std::borrow::Cow;

use super::{limits, reference, steering};
use crate::error::Code;
use crate::json::{Object, quote};
use crate::model::{Agent, Body, Course, Ended, Limit, Limits, Phase, State, Task, TaskId, TaskState, Verdict};
use crate::time;

/// Appends the answer to one request.
pub fn body(out: &mut Vec<u8>, tag: &str, state: &State, body: &Body) {
    match body {
        Body::Accepted(id) => ok(out, tag, |o| {
            o.num("id", id.0);
        }),
        Body::Ended(id) => match state.tasks.get(*id) {
            Some(task) => ended(out, tag, task),
            None => error(out, tag, Code::Forgotten, &format!("task {id} ended, and was forgotten at once")),
        },
        Body::AllEnded(ended) => ok(out, tag, |o| {
            o.num("done", ended.done).num("failed", ended.failed).num("cancelled", ended.cancelled);
        }),
        Body::Ok | Body::Room | Body::Stopped => ok(out, tag, |_| {}),
        Body::Settled => settled(out, tag, state),
        Body::StoppedBefore(Some(id)) => {
            let message =
                format!("the hive was stopped; task {id} is queued and runs after the next `hivectl pool start`");
            error(out, tag, Code::Stopping, &message);
        }
        Body::StoppedBefore(None) => error(out, tag, Code::Stopping, "the hive was stopped"),
        Body::Watch(id) => watch(out, tag, state, *id),
        Body::Barrier(end) => steering::barrier(out, tag, end),
        Body::Injected(way) => steering::injected(out, tag, *way),
        Body::Rested { agent, task, content } => steering::rested(out, tag, *agent, *task, content.as_deref()),
        Body::Refused(refusal) => error(out, tag, refusal.code, &refusal.message),
    }
}

pub fn ok(out: &mut Vec<u8>, tag: &str, fields: impl FnOnce(&mut Object)) {
    let mut o = Object::open(out);
    o.raw("tag", tag).bool("ok", true);
    fields(&mut o);
    o.close();
    out.push(b'\n');
}

pub fn error(out: &mut Vec<u8>, tag: &str, code: Code, message: &str) {
    let mut o = Object::open(out);
    o.raw("tag", tag).bool("ok", false);
    let mut e = Object::open(o.key("error"));
    e.str("code", code.name()).str("message", message);
    e.close();
    o.close();
    out.push(b'\n');
}

/// How a task ended, as `run`, `wait` and `result` answer.
pub fn ended(out: &mut Vec<u8>, tag: &str, task: &Task) {
    ok(out, tag, |o| {
        o.num("id", task.id.0).str("state", task.state_name());
        if let Some(ended) = task.ended() {
            outcome(o, ended);
            o.num("attempt", ended.attempt);
            if let Some(agent) = ended.agent {
                o.num("agent", agent.0);
            }
        }
    });
}

fn outcome(o: &mut Object, ended: &Ended) {
    match ended.result.as_deref().map(|text| (text, reference(text))) {
        Some((text, Some(_))) => o.str("ref", text),
        Some((text, None)) => o.str("result", text),
        None if ended.verdict == Verdict::Done => o.str("result", "").bool("newline", false),
        None => o,
    };
    if ended.unterminated {
        o.bool("newline", false);
    }
    if let Some(bytes) = ended.bytes {
        o.num("bytes", bytes);
    }
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
    o.opt_str("reason", ended.reason.as_deref());
    if ended.log > 0 {
        o.num("log", ended.log);
    }
}

/// The answer to `task`.
pub fn one_task(out: &mut Vec<u8>, tag: &str, one: &Task) {
    ok(out, tag, |o| task(o.key("task"), one));
}

/// One task as `tasks` and `task` show it.
pub fn task(out: &mut Vec<u8>, task: &Task) {
    let mut o = Object::open(out);
    o.num("id", task.id.0);
    o.opt_str("name", task.name().map(|n| n.as_ref()));
    o.str("state", task.state_name());
    if let Some(agent) = task.agent() {
        o.num("agent", agent.0);
    }
    // A task that was read from its last records alone has the number there.
    let attempts = task.ended().map_or(0, |ended| ended.attempt).max(task.attempts);
    o.num("attempt", attempts).str("text", &task.text);
    if !task.contexts().is_empty() {
        let mut contexts = Object::open(o.key("context"));
        for given in task.contexts() {
            quote(contexts.any_key(&given.name), &format!("REF:{}", given.digest));
        }
        contexts.close();
    }
    let stamp = |o: &mut Object, name: &str, at: i64| {
        o.str(name, &time::text(at));
    };
    stamp(&mut o, "submitted", task.submitted);
    match &task.state {
        TaskState::Running { since, .. } => stamp(&mut o, "started", since.wall),
        TaskState::Ended(ended) => {
            if let Some(started) = ended.started {
                stamp(&mut o, "started", started);
            }
            stamp(&mut o, "ended", ended.at);
            outcome(&mut o, ended);
        }
        TaskState::Queued | TaskState::Held { .. } => {}
    }
    if let Some(percent) = task.percent {
        o.num("percent", percent);
    }
    o.close();
}

/// A page of tasks from number `from` on; `next` says where the next page begins.
pub fn tasks(out: &mut Vec<u8>, tag: &str, state: &State, from: u64, limit: u64, page_bytes: usize) {
    let ids = state.tasks.ids_from(from);
    ok(out, tag, |o| {
        let list = o.key("tasks");
        let start = list.len();
        list.push(b'[');
        let mut next = None;
        for (n, id) in ids.iter().enumerate() {
            if n as u64 >= limit || list.len() - start > page_bytes {
                next = Some(*id);
                break;
            }
            if n > 0 {
                list.push(b',');
            }
            task(list, &state.tasks[*id]);
        }
        list.push(b']');
        if let Some(next) = next {
            o.num("next", next.0);
        }
    });
}

/// The versions of contexts that agents may have seen, the newest first. A host starts each process anew: it has seen none.
pub fn contexts(out: &mut Vec<u8>, tag: &str, state: &State, names: &[String]) {
    ok(out, tag, |o| {
        let mut versions = Object::open(o.key("contexts"));
        for name in names.iter().filter(|_| !state.spec.kind.is_hosted()) {
            let digests = state.contexts.of(name).rev().map(|digest| format!("\"{digest}\""));
            let list = format!("[{}]", digests.collect::<Vec<_>>().join(","));
            versions.any_key(name).extend_from_slice(list.as_bytes());
        }
        versions.close();
    });
}

/// What the state does not know, for the status.
pub struct Facts<'a> {
    pub hive: &'a str,
    pub pid: i32,
    pub term: u64,
    pub since: i64,
    /// Known only while it lives.
    pub machine: Option<Machine<'a>>,
}

pub struct Machine<'a> {
    pub group: i32,
    /// What holds the agents' processes together.
    pub containment: &'a str,
    pub processors: &'a [usize],
    pub malformed: u64,
    pub clients_cut: u64,
}

pub fn status(out: &mut Vec<u8>, tag: &str, state: &State, facts: &Facts) {
    ok(out, tag, |o| {
        o.str("hive", facts.hive);
        let course = match &state.course {
            Course::Running => "running",
            Course::Stopping { .. } => "stopping",
            Course::Stopped => "stopped",
        };
        o.str("state", course);
        let mut s = Object::open(o.key("supervisor"));
        s.num("pid", facts.pid).num("term", facts.term).str("since", &time::text(facts.since));
        if let Some(machine) = &facts.machine {
            s.nums("processors", machine.processors.iter().copied());
        }
        s.close();
        if let Some(machine) = &facts.machine {
            o.num("pgid", machine.group).str("containment", machine.containment);
        }
        let list = o.key("agents");
        list.push(b'[');
        for (n, agent) in state.agents.values().enumerate() {
            if n > 0 {
                list.push(b',');
            }
            agent_row(list, agent, state.agent_state(agent));
        }
        list.push(b']');
        let mut t = Object::open(o.key("tasks"));
        let c = &state.counts;
        t.num("queued", c.queued).num("running", c.running).num("done", c.done);
        t.num("failed", c.failed).num("cancelled", c.cancelled);
        t.close();
        if let Some(machine) = &facts.machine {
            o.num("malformed", machine.malformed).num("clients_cut", machine.clients_cut);
        }
    });
}

fn agent_row(out: &mut Vec<u8>, agent: &Agent, shown: &str) {
    let mut o = Object::open(out);
    o.num("id", agent.id.0);
    o.opt_str("name", agent.name().as_deref());
    o.str("kind", agent.spec.kind.name()).str("state", shown);
    if let Some(host) = agent.host {
        o.num("pid", host.pid);
    }
    if let Some(workload) = agent.workload.filter(|_| agent.is_ready()) {
        o.num("workload", workload);
    }
    if let Some(task) = agent.held.front() {
        o.num("task", task.0);
    }
    if agent.held.len() > 1 {
        o.num("held", agent.held.len());
    }
    o.str("since", &time::text(agent.since.wall)).num("restarts", agent.restarts);
    o.strings("labels", agent.labels.iter().map(String::as_str));
    if !agent.abilities.is_empty() {
        o.strings("abilities", agent.abilities.iter().map(String::as_str));
    }
    if agent.spec.limits != Limits::default() {
        let mut l = Object::open(o.key("limits"));
        limits::write(&mut l, &agent.spec.limits);
        l.close();
    }
    o.opt_str("reason", agent.reason());
    o.close();
}

/// Which agents are ready, and of the others what is wrong with them.
fn settled(out: &mut Vec<u8>, tag: &str, state: &State) {
    ok(out, tag, |o| {
        o.num("ready", state.agents.values().filter(|a| a.is_ready() && a.retire.is_none()).count());
        let list = o.key("parked");
        list.push(b'[');
        for (n, agent) in state.agents.values().filter(|a| matches!(a.phase, Phase::Parked { .. })).enumerate() {
            if n > 0 {
                list.push(b',');
            }
            let mut a = Object::open(list);
            a.num("id", agent.id.0).str("reason", agent.reason().unwrap_or("not ready"));
            a.close();
        }
        list.push(b']');
    });
}

fn watch(out: &mut Vec<u8>, tag: &str, state: &State, id: TaskId) {
    let Some(task) = state.tasks.get(id) else {
        return;
    };
    let mut o = Object::open(out);
    o.raw("tag", tag).str("event", "progress").num("id", id.0).str("state", task.state_name());
    match task.agent() {
        Some(agent) => o.num("agent", agent.0),
        None => o.num("ahead", state.queued_before(task)),
    };
    if let Some(percent) = task.percent {
        o.num("percent", percent);
    }
    o.close();
    out.push(b'\n');
}

/// The first line of a text, for people.
pub fn headline(text: &str) -> Cow<'_, str> {
    let first = text.lines().next().unwrap_or("");
    if first.len() == text.len() { Cow::Borrowed(text) } else { Cow::Owned(format!("{first} ...")) }
}
