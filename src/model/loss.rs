//! An agent is gone: what becomes of it, and of the tasks that it held. Reads the state, changes nothing.

use std::sync::Arc;

use super::decide::{Decision, current, end};
use super::event::{Ended, Event, Loss, PutBack, StopMode, Then, Verdict};
use super::task::{Ending, TaskState};
use super::{Agent, AgentId, Course, Generation, Now, Phase, Retire, State, Task, TaskId};
use crate::limits;

pub(super) fn down(
    state: &State,
    now: Now,
    id: AgentId,
    generation: Generation,
    mut loss: Loss,
    out: &mut Vec<Event>,
) -> Decision {
    let Some(agent) = current(state, id, generation) else {
        return Ok(());
    };
    // A workload that was lost before is only news if now its host is gone too.
    let dead_already = matches!(agent.phase, Phase::Backoff { .. } | Phase::Parked { .. });
    if dead_already && !(loss.host && agent.host.is_some()) {
        return Ok(());
    }
    if let Phase::Starting { overdue: true } = agent.phase {
        let patience = agent.spec.start_patience_us as f64 / 1e6;
        loss.cause = format!("it was not ready within {patience} s").into();
    }
    let stopping = !matches!(state.course, Course::Running | Course::Stopping { mode: StopMode::Drain, .. });
    let leaving = stopping || agent.phase == Phase::Leaving;
    let then = match agent.retire {
        _ if stopping => Then::Remove,
        Some(Retire::Remove) => Then::Remove,
        Some(Retire::Restart) => Then::Again,
        None if agent.held.front().is_some_and(|t| state.tasks[*t].ending().is_some()) => Then::Again,
        None if matches!(agent.phase, Phase::Parked { .. }) => Then::Park,
        None if dead_already => Then::Again,
        // The work passed a limit, not the agent: it is the work that fails.
        None if agent.fails_its_work(&loss) => Then::Again,
        None => after_death(agent, now.mono),
    };
    out.push(Event::Lost { agent: id, generation, loss: loss.clone(), then });
    let to_blame = agent.held.front().copied().filter(|_| agent.fails_its_work(&loss));
    // A host that lives reports a loss only between tasks: what it was sent meanwhile has not begun.
    let begun = loss.host || !agent.spec.kind.is_hosted();
    for task in agent.held.iter().rev() {
        if to_blame == Some(*task) && state.tasks[*task].ending().is_none() {
            end(state, *task, Ended { limit: loss.limit, ..Ended::because(Verdict::Failed, loss.cause.clone()) }, out);
            continue;
        }
        let why = if !begun {
            PutBack::NotBegun
        } else if leaving {
            PutBack::Stopped
        } else {
            PutBack::AgentDied
        };
        put_back_or_fail(state, *task, why, &loss, out);
    }
    Ok(())
}

/// The restart policy: back off twice as long each time, and park what dies too often.
fn after_death(agent: &Agent, mono: i64) -> Then {
    let oldest = mono - limits::DEATHS_WINDOW.as_micros() as i64;
    let deaths = agent.deaths.iter().filter(|death| **death >= oldest).count();
    if deaths + 1 >= limits::DEATHS_MAX {
        return Then::Park;
    }
    let first = limits::BACKOFF_FIRST.as_micros() as i64;
    Then::Retry((first << deaths).min(limits::BACKOFF_MAX.as_micros() as i64))
}

/// A task that has killed as many agents as it may fails for good, with the evidence.
fn put_back_or_fail(state: &State, id: TaskId, why: PutBack, loss: &Loss, out: &mut Vec<Event>) {
    let task = &state.tasks[id];
    let running = matches!(task.state, TaskState::Running { .. });
    if running && why == PutBack::AgentDied && task.ending().is_none() && task.deaths >= task.retries() {
        let times = task.deaths + 1;
        let reason = format!("its agent died under it, {times} of {times} times: {}", loss.in_words());
        end(state, id, Ended { by_hive: true, limit: loss.limit, ..Ended::because(Verdict::Failed, reason) }, out);
        return;
    }
    put_back_or_end(state, id, why, out);
}

pub(super) const WHILE_IT_RAN: &str = "it was cancelled while it ran";
const AT_MOST_ONCE: &str = "it was ended while it ran, and with no retries it is not begun again";

/// A task whose agent is gone waits again, unless it was told to end: then it has.
pub(super) fn put_back_or_end(state: &State, id: TaskId, why: PutBack, out: &mut Vec<Event>) {
    let task = &state.tasks[id];
    let running = matches!(task.state, TaskState::Running { .. });
    match task.ending() {
        Some(Ending::Cancel) => end(state, id, Ended::because(Verdict::Cancelled, WHILE_IT_RAN), out),
        Some(Ending::Timeout) => {
            let ended = Ended::because(Verdict::Failed, out_of_time(task));
            end(state, id, Ended { timed_out: true, ..ended }, out);
        }
        None if running && why == PutBack::Stopped && task.retries() == 0 => {
            end(state, id, Ended { by_hive: true, ..Ended::because(Verdict::Failed, AT_MOST_ONCE) }, out);
        }
        None => {
            let why = if running { why } else { PutBack::NotBegun };
            out.push(Event::PutBack { task: id, why });
        }
    }
}

pub(super) fn out_of_time(task: &Task) -> Arc<str> {
    let limit = task.timeout_us().unwrap_or_default() as f64 / 1e6;
    format!("it timed out after {limit} s").into()
}
