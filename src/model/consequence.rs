//! What happens without an input: because a moment has come, or because the state asks for it.

use super::event::{Event, StopMode};
use super::task::Ending;
use super::{Agent, AgentId, Course, Deadline, Generation, Now, Phase, Retire, State, barrier, steer};

/// The event for the first deadline that has passed, if one has.
pub fn expired(state: &State, now: Now) -> Option<Event> {
    let (_, what) = state.deadlines.first().filter(|(at, _)| *at <= now.mono)?;
    Some(match *what {
        Deadline::Timeout(task) => Event::Ending { task, why: Ending::Timeout },
        Deadline::Escalate(task) => Event::Forced { task },
        Deadline::GiveUp(task) => Event::GivenUp { task },
        Deadline::Restart(id) => Event::Restarting { agent: id, generation: next_generation(state, id) },
        Deadline::Start(agent) => Event::Overdue { agent },
        Deadline::Barrier => return barrier::overdue(state),
        Deadline::Rest(agent) => Event::RestMissed { agent },
    })
}

/// What follows from the state by itself: the next step of whatever is under way.
/// Asked again after each event until there is nothing more.
pub fn consequence(state: &State) -> Option<Event> {
    if let Some(event) = barrier::consequence(state).or_else(|| steer::consequence(state)) {
        return Some(event);
    }
    match &state.course {
        Course::Running => {}
        Course::Stopping { mode: StopMode::Drain, .. } if state.counts.live() > 0 => {}
        Course::Stopping { mode: StopMode::Drain, .. } => {
            return Some(Event::Stopping { mode: StopMode::Clean, to: None });
        }
        Course::Stopping { .. } => {
            let gone = state.agents.values().find(|a| a.host.is_none()).map(|a| Event::AgentRemoved { agent: a.id });
            return gone.or_else(|| state.agents.is_empty().then_some(Event::Stopped));
        }
        Course::Stopped => return None,
    }
    state.retiring.iter().map(|id| &state.agents[id]).find_map(retire).or_else(|| roll(state))
}

/// The next tasks for the least laden agent that has room and a task to suit it: its fair share of what waits.
/// It begins something: whoever asks must have room to record how that ends.
pub fn assignment(state: &State) -> Option<Event> {
    let takes = match state.course {
        Course::Running | Course::Stopping { mode: StopMode::Drain, .. } => true,
        Course::Stopping { .. } | Course::Stopped => false,
    };
    if !takes || state.queue.is_empty() || state.room.is_empty() {
        return None;
    }
    let share = state.queue.len().div_ceil(state.room.len());
    let fair = |agent: &Agent| {
        let room = agent.capacity() as usize - agent.held.len();
        let tasks = state.queue.best_for(agent, share.min(room));
        (!tasks.is_empty()).then_some((agent.id, tasks))
    };
    let (agent, tasks) = state.room.iter().find_map(|(_, id)| fair(&state.agents[id]))?;
    // Who has seen what the task needs goes before who has less to do, if it would take that task, too.
    let informed = state.best_informed(tasks[0]).filter(|other| *other != agent);
    let instead = informed.and_then(|other| fair(&state.agents[&other])).filter(|(_, others)| others[0] == tasks[0]);
    let (agent, tasks) = instead.unwrap_or((agent, tasks));
    Some(Event::Assigned { tasks, agent })
}

fn retire(agent: &Agent) -> Option<Event> {
    let id = agent.id;
    match (&agent.phase, agent.retire?) {
        (Phase::Leaving, Retire::Remove) if agent.host.is_none() => Some(Event::AgentRemoved { agent: id }),
        (Phase::Leaving, _) => None,
        (_, Retire::Remove) if agent.host.is_none() => Some(Event::AgentRemoved { agent: id }),
        // No host, nothing to end: the next generation starts at once.
        (_, Retire::Restart) if agent.host.is_none() => {
            Some(Event::Restarting { agent: id, generation: Generation(agent.generation.0 + 1) })
        }
        _ if agent.held.is_empty() => Some(Event::Leaving { agent: id }),
        _ => None,
    }
}

/// A rolling restart goes on when everyone is back.
fn roll(state: &State) -> Option<Event> {
    let next = state.rolling.front()?;
    let calm = state.retiring.is_empty() && state.agents.values().all(|a| a.is_settled());
    calm.then_some(Event::Retiring { agent: *next, remove: false })
}

fn next_generation(state: &State, id: AgentId) -> Generation {
    Generation(state.agents.get(&id).map_or(1, |a| a.generation.0 + 1))
}
