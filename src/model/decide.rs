//! Turns what arrives into events, or refuses it. Reads the state, changes nothing.

use std::sync::Arc;

use super::event::{Ended, Event, Exited, Loss, PutBack, StopMode, Verdict};
use super::loss::{WHILE_IT_RAN, down, out_of_time, put_back_or_end};
use super::queue::Target;
use super::task::{Ending, Options, ReplyTo, TaskState};
use super::{
    Agent, AgentId, BarrierId, Checkpoint, Course, Generation, HostId, Kind, Lead, Now, Phase, Retire, Spec, State,
    TaskId, Whom, barrier, lead, steer,
};
use crate::error::Code;
use crate::limits;

/// Why something is not done: the code scripts see, and the words people read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Submit {
    pub text: Arc<str>,
    pub options: Option<Box<Options>>,
    pub to: Option<ReplyTo>,
    pub waits: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PoolStart {
    pub spec: Arc<Spec>,
    pub count: Option<u32>,
    /// How many where nobody said, and none were taken over.
    pub otherwise: u32,
    /// Agents that were taken over stay as they are: nothing was said of what they should be.
    pub as_before: bool,
    pub to: Option<ReplyTo>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    Task(TaskId),
    All,
    Room,
    Ready,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Lead(Lead),
    PoolStart(PoolStart),
    Scale {
        count: u32,
        to: Option<ReplyTo>,
    },
    /// One agent, or all of them; `rolling`: one after the other.
    Restart {
        agent: Option<AgentId>,
        rolling: bool,
        to: Option<ReplyTo>,
    },
    Stop {
        mode: StopMode,
        to: Option<ReplyTo>,
    },
    Submit(Submit),
    Cancel {
        task: TaskId,
    },
    Wait {
        what: WaitFor,
        to: ReplyTo,
    },
    Checkpoint(Checkpoint),
    Inject {
        whom: Whom,
        text: Arc<str>,
        /// To what runs, or not at all.
        now: bool,
        to: Option<ReplyTo>,
    },
    /// The agent is to pause at its next checkpoint.
    Rest {
        agent: AgentId,
        within_us: i64,
        to: Option<ReplyTo>,
    },
    Resume {
        agent: AgentId,
        text: Option<Arc<str>>,
        to: Option<ReplyTo>,
    },

    Hosted {
        agent: AgentId,
        generation: Generation,
        host: HostId,
    },
    Started {
        agent: AgentId,
        generation: Generation,
        workload: i32,
    },
    Ready {
        agent: AgentId,
        generation: Generation,
        workload: Option<i32>,
        abilities: Vec<String>,
        labels: Vec<String>,
    },
    Down {
        agent: AgentId,
        generation: Generation,
        loss: Loss,
    },

    Done {
        agent: AgentId,
        task: TaskId,
        result: Option<Arc<str>>,
    },
    Failed {
        agent: AgentId,
        task: TaskId,
        reason: Arc<str>,
    },
    Exited {
        agent: AgentId,
        task: TaskId,
        how: Exited,
    },
    Progress {
        agent: AgentId,
        task: TaskId,
        percent: u8,
        text: Arc<str>,
    },
    Usage {
        agent: AgentId,
        task: TaskId,
        fields: Arc<str>,
    },
    Checkpointed {
        agent: AgentId,
        barrier: BarrierId,
        content: Option<Arc<str>>,
    },
    /// From the host of an agent that runs its tasks itself.
    Seen {
        agent: AgentId,
        generation: Generation,
        barrier: BarrierId,
        note: Arc<str>,
    },
    Rests {
        agent: AgentId,
        task: TaskId,
        content: Option<Arc<str>>,
    },
}

pub(super) type Decision = Result<(), Refusal>;

pub(super) fn refuse(code: Code, message: impl Into<String>) -> Decision {
    Err(Refusal { code, message: message.into() })
}

pub fn decide(state: &State, now: Now, input: Input, out: &mut Vec<Event>) -> Decision {
    match input {
        Input::Lead(new) => {
            lead::lead(state, new, out);
            Ok(())
        }
        Input::PoolStart(start) => pool_start(state, start, out),
        Input::Scale { count, to } => scale(state, count, to, out),
        Input::Restart { agent, rolling, to } => restart(state, agent, rolling, to, out),
        Input::Stop { mode, to } => {
            out.push(Event::Stopping { mode, to });
            Ok(())
        }
        Input::Submit(submit) => accept(state, submit, out),
        Input::Cancel { task } => cancel(state, task, out),
        Input::Wait { what, to } => wait(state, what, to, out),
        Input::Hosted { agent, generation, host } => {
            if current(state, agent, generation).is_some() {
                out.push(Event::Hosted { agent, generation, host });
            }
            Ok(())
        }
        Input::Started { agent, generation, workload } => {
            let runs = |a: &Agent| matches!(a.phase, Phase::Starting { .. } | Phase::Ready);
            if current(state, agent, generation).is_some_and(|a| runs(a) && a.workload != Some(workload)) {
                out.push(Event::Started { agent, generation, workload });
            }
            Ok(())
        }
        Input::Ready { agent, generation, workload, abilities, labels } => {
            if current(state, agent, generation).is_some_and(|a| matches!(a.phase, Phase::Starting { .. })) {
                out.push(Event::Ready { agent, generation, workload, abilities, labels });
            }
            Ok(())
        }
        Input::Down { agent, generation, loss } => down(state, now, agent, generation, loss, out),
        Input::Done { agent, task, result } => {
            held(state, agent, task)?;
            end(state, task, Ended { result, ..Ended::new(Verdict::Done) }, out);
            Ok(())
        }
        Input::Failed { agent, task, reason } => {
            held(state, agent, task)?;
            let verdict = match state.tasks[task].ending() {
                Some(Ending::Cancel) => Verdict::Cancelled,
                Some(Ending::Timeout) | None => Verdict::Failed,
            };
            let timed_out = state.tasks[task].ending() == Some(Ending::Timeout);
            end(state, task, Ended { timed_out, ..Ended::because(verdict, reason) }, out);
            Ok(())
        }
        Input::Exited { agent, task, how } => {
            held(state, agent, task)?;
            exited(state, agent, task, how, out);
            Ok(())
        }
        Input::Progress { agent, task, percent, text } => {
            held(state, agent, task)?;
            if state.tasks[task].percent != Some(percent) || !text.is_empty() {
                out.push(Event::Progress { task, percent, text });
            }
            Ok(())
        }
        Input::Usage { agent, task, fields } => {
            held(state, agent, task)?;
            out.push(Event::Usage { task, fields });
            Ok(())
        }
        Input::Checkpoint(asked) => barrier::begin(state, asked, out),
        Input::Inject { whom, text, now, to } => steer::inject(state, whom, text, now, to, out),
        Input::Rest { agent, within_us, to } => steer::ask_to_rest(state, agent, within_us, to, out),
        Input::Resume { agent, text, to } => steer::resume(state, agent, text, to, out),
        Input::Checkpointed { agent, barrier, content } => barrier::said(state, agent, barrier, content, out),
        Input::Seen { agent, generation, barrier, note } => {
            if current(state, agent, generation).is_some() {
                barrier::host_said(state, agent, barrier, note, out);
            }
            Ok(())
        }
        Input::Rests { agent, task, content } => {
            held(state, agent, task)?;
            steer::rests(state, agent, task, content, out)
        }
    }
}

pub(super) fn current(state: &State, id: AgentId, generation: Generation) -> Option<&Agent> {
    state.agents.get(&id).filter(|a| a.generation == generation)
}

/// A line about a task is heeded only from the agent that holds it.
fn held(state: &State, agent: AgentId, task: TaskId) -> Decision {
    if state.agents.get(&agent).is_some_and(|a| a.held.contains(&task)) {
        return Ok(());
    }
    refuse(Code::NoSuchTask, format!("agent {agent} does not hold task {task}"))
}

fn pool_start(state: &State, start: PoolStart, out: &mut Vec<Event>) -> Decision {
    running(state)?;
    if !state.agents.is_empty() && state.unclaimed.is_none() {
        return refuse(
            Code::AlreadyRunning,
            "this hive has a pool already: see `hivectl pool status`, or `pool scale N`",
        );
    }
    let as_before = start.as_before && state.unclaimed.is_some();
    let spec = if as_before { state.spec.clone() } else { start.spec };
    out.push(Event::Configured { spec: spec.clone() });
    // Agents that were taken over and are to be something else now become it as soon as they hold no task.
    let others = state.agents.values().filter(|a| a.retire.is_none() && !a.spec.runs_the_same_as(&spec));
    out.extend(others.filter(|_| !as_before).map(|a| Event::Retiring { agent: a.id, remove: false }));
    scale(state, start.count.or(state.unclaimed).unwrap_or(start.otherwise), start.to, out)
}

fn scale(state: &State, count: u32, to: Option<ReplyTo>, out: &mut Vec<Event>) -> Decision {
    running(state)?;
    if count > limits::AGENTS_MAX {
        return refuse(Code::Limit, format!("a pool has at most {} agents", limits::AGENTS_MAX));
    }
    let stay = |id: &AgentId| id.0 <= count;
    for id in (1..=count).map(AgentId) {
        if !state.agents.contains_key(&id) {
            out.push(Event::AgentAdded { agent: id });
        } else if state.agents[&id].retire == Some(Retire::Remove) {
            out.push(Event::Retiring { agent: id, remove: false });
        }
    }
    for id in state.agents.keys().filter(|id| !stay(id)) {
        out.push(Event::Retiring { agent: *id, remove: true });
    }
    out.extend(to.map(|to| Event::AwaitedReady { to }));
    Ok(())
}

fn restart(
    state: &State,
    agent: Option<AgentId>,
    rolling: bool,
    to: Option<ReplyTo>,
    out: &mut Vec<Event>,
) -> Decision {
    running(state)?;
    let agents: Vec<AgentId> = match agent {
        Some(id) => {
            known_agent(state, id)?;
            vec![id]
        }
        // One that is to leave is not brought back by a restart.
        None => state.agents.values().filter(|a| a.retire != Some(Retire::Remove)).map(|a| a.id).collect(),
    };
    match rolling {
        true => out.push(Event::Rolling { agents }),
        false => out.extend(agents.into_iter().map(|agent| Event::Retiring { agent, remove: false })),
    }
    out.extend(to.map(|to| Event::AwaitedReady { to }));
    Ok(())
}

pub(super) fn running(state: &State) -> Decision {
    match state.course {
        Course::Running => Ok(()),
        Course::Stopping { .. } | Course::Stopped => refuse(
            Code::Stopping,
            "this hive is stopping and takes no new work: start it again with `hivectl pool start`",
        ),
    }
}

pub(super) fn known_agent(state: &State, id: AgentId) -> Decision {
    if state.agents.contains_key(&id) {
        return Ok(());
    }
    let known = match (state.agents.keys().next(), state.agents.keys().last()) {
        (Some(first), Some(last)) if first != last => {
            format!("this pool has agents {first} to {last}")
        }
        (Some(only), _) => format!("this pool has agent {only} alone"),
        _ => "this pool has no agents".to_owned(),
    };
    refuse(Code::NoSuchAgent, format!("no agent {id}: {known}"))
}

/// Refuses a task that could never run as things stand, so that nobody waits for it in vain.
fn accept(state: &State, submit: Submit, out: &mut Vec<Event>) -> Decision {
    running(state)?;
    if state.counts.queued >= state.spec.max_queued {
        let full =
            format!("{} tasks wait already, and that is the limit: wait until some are done", state.counts.queued);
        return refuse(Code::Limit, full);
    }
    if state.spec.kind == Kind::Oneshot && submit.options.as_ref().is_some_and(|o| !o.contexts.is_empty()) {
        let why = "a oneshot agent is started before its task, and cannot be told of contexts";
        return refuse(Code::BadRequest, format!("{why}: name the file in the text (`hivectl context path REF`)"));
    }
    let target = submit.options.as_ref().map_or(&Target::Any, |o| &o.target);
    if let Target::Agent(id) = target {
        known_agent(state, *id)?;
    }
    let mut fitting = state.agents.values().filter(|a| target.admits(a)).peekable();
    if let (Target::Labels(labels), None) = (target, fitting.peek()) {
        let message = format!("no agent has the label {}: see `hivectl pool status`", labels.join(" and "));
        return refuse(Code::NoSuchLabel, message);
    }
    if let Some(Phase::Parked { reason }) = fitting.peek().map(|a| &a.phase)
        && fitting.all(|a| matches!(a.phase, Phase::Parked { .. }))
    {
        let remedy = "mend the cause, then `hivectl pool restart`";
        return refuse(Code::NoAgents, format!("every agent that could run it is parked ({reason}): {remedy}"));
    }
    let Submit { text, options, to, waits } = submit;
    out.push(Event::Submitted { task: TaskId(state.last_task.0 + 1), text, options, to, waits });
    Ok(())
}

fn cancel(state: &State, id: TaskId, out: &mut Vec<Event>) -> Decision {
    let Some(task) = state.tasks.get(id) else {
        return unknown_task(state, id);
    };
    match &task.state {
        TaskState::Queued => {
            let ended = Ended::because(Verdict::Cancelled, "it was cancelled before it began");
            end(state, id, ended, out);
        }
        TaskState::Held { ending: None, .. } | TaskState::Running { ending: None, .. } => {
            out.push(Event::Ending { task: id, why: Ending::Cancel });
        }
        TaskState::Held { .. } | TaskState::Running { .. } => {}
        TaskState::Ended(ended) => {
            return refuse(Code::HasEnded, format!("task {id} has ended already: it is {}", ended.verdict.name()));
        }
    }
    Ok(())
}

pub fn unknown_task(state: &State, id: TaskId) -> Decision {
    match id.0 == 0 || id > state.last_task {
        true => refuse(Code::NoSuchTask, format!("no task {id}: the last one is {}", state.last_task)),
        false => {
            refuse(Code::Forgotten, format!("task {id} ended long ago: it is in the log alone (`hivectl events`)"))
        }
    }
}

fn wait(state: &State, what: WaitFor, to: ReplyTo, out: &mut Vec<Event>) -> Decision {
    match what {
        WaitFor::Task(task) if state.tasks.get(task).is_some() => out.push(Event::Awaited { task, to }),
        WaitFor::Task(task) => return unknown_task(state, task),
        WaitFor::All => out.push(Event::AwaitedAll { to }),
        WaitFor::Room => out.push(Event::AwaitedRoom { to }),
        WaitFor::Ready => out.push(Event::AwaitedReady { to }),
    }
    Ok(())
}

pub(super) fn end(state: &State, id: TaskId, mut ended: Ended, out: &mut Vec<Event>) {
    let task = &state.tasks[id];
    ended.agent = task.agent();
    ended.attempt = task.attempts;
    out.push(Event::Ended { task: id, ended: Box::new(ended) });
}

fn exited(state: &State, agent: AgentId, id: TaskId, how: Exited, out: &mut Vec<Event>) {
    let task = &state.tasks[id];
    let Exited { exit, signal, by_host, failure, result, unterminated, bytes, log, limit } = how;
    let succeeded = exit == Some(0);
    let hives_fault = limit.is_none() && (failure.is_some() || (exit.is_none() && signal.is_none()));
    let (verdict, reason, timed_out) = match (by_host, task.ending()) {
        (true, Some(Ending::Cancel)) => (Verdict::Cancelled, Some(WHILE_IT_RAN.into()), false),
        (true, Some(Ending::Timeout)) => (Verdict::Failed, Some(out_of_time(task)), true),
        (true, None) if !succeeded => return put_back_or_end(state, id, PutBack::Stopped, out),
        _ if succeeded && failure.is_none() => (Verdict::Done, None, false),
        _ => {
            let passed = limit.and_then(|l| Some(state.agents.get(&agent)?.spec.limits.in_words(l)));
            (Verdict::Failed, passed.or(failure), false)
        }
    };
    let ended = Ended {
        agent: Some(agent),
        attempt: task.attempts,
        result,
        unterminated,
        bytes,
        reason,
        exit,
        signal,
        timed_out,
        limit: limit.filter(|_| verdict == Verdict::Failed && !timed_out),
        by_hive: verdict == Verdict::Failed && hives_fault && !timed_out,
        log,
        ..Ended::new(verdict)
    };
    out.push(Event::Ended { task: id, ended: Box::new(ended) });
}
