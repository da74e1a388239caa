//! A change of leaders: what the next one makes of what the log says and the machine shows, and what it says again to
//! those whom its predecessor may not have reached. Recovery as a table: each pair has one row, by one name.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::event::{Event, Loss, PutBack, Then};
use super::loss::put_back_or_end;
use super::{
    Agent, AgentId, Body, Course, Deadline, Effect, Generation, Kind, Phase, Rest, Retire, State, StopMode, TaskState,
    Tell, sharing,
};

/// What a new leader brings along.
#[derive(Debug, Clone, PartialEq)]
pub struct Lead {
    pub pid: i32,
    pub version: Arc<str>,
    pub boot: Arc<str>,
    /// Agents whose host, as the log names it, was seen alive.
    pub alive: BTreeSet<AgentId>,
    /// It waited for the lead, and goes on with whatever was under way. Else a person started it, to say what is to be.
    pub standby: bool,
}

/// What becomes of an agent when the leader changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// A host on record, and it lives: it goes on with what it does.
    Adopt,
    /// A host on record, and it is gone: its tasks are put back, and another is started (or the agent goes, if it was to).
    Replace,
    /// None on record, though one was to be started: whatever was started unrecorded is ended, and one is started again.
    StartAgain,
    /// None on record, and none due: it waits for its time, for a person, or for its removal.
    Rest,
}

impl Row {
    pub fn of(agent: &Agent, alive: bool) -> Row {
        match (agent.host, &agent.phase) {
            (Some(_), _) if alive => Row::Adopt,
            (Some(_), _) => Row::Replace,
            (None, Phase::Starting { .. } | Phase::Ready) => Row::StartAgain,
            (None, Phase::Backoff { .. } | Phase::Parked { .. } | Phase::Leaving) => Row::Rest,
        }
    }
}

/// The first events of a term.
pub(super) fn lead(state: &State, lead: Lead, out: &mut Vec<Event>) {
    let Lead { pid, version, boot, alive, standby } = lead;
    let rebooted = state.boot.as_ref().is_some_and(|before| *before != boot);
    let afresh = alive.is_empty() && !standby;
    out.push(Event::Led { pid, version, boot, afresh });
    for agent in state.agents.values() {
        match Row::of(agent, alive.contains(&agent.id)) {
            Row::Adopt => {}
            Row::Rest | Row::StartAgain if afresh => out.push(Event::AgentRemoved { agent: agent.id }),
            Row::Rest => {}
            Row::Replace => replace(state, agent, rebooted, afresh, out),
            Row::StartAgain => {
                out.push(Event::Restarting { agent: agent.id, generation: Generation(agent.generation.0 + 1) });
            }
        }
    }
}

/// Nobody saw this host die, so nobody is blamed for it: neither the agent, nor the task it had.
fn replace(state: &State, agent: &Agent, rebooted: bool, afresh: bool, out: &mut Vec<Event>) {
    let stopping = matches!(state.course, Course::Stopping { mode: StopMode::Clean | StopMode::Now, .. });
    let then = match (agent.retire, &agent.phase) {
        _ if stopping || afresh => Then::Remove,
        (Some(Retire::Remove), _) => Then::Remove,
        (None, Phase::Parked { .. }) => Then::Park,
        (Some(Retire::Restart) | None, _) => Then::Again,
    };
    let cause = if rebooted { "the machine was started anew" } else { "its host died while nobody led" };
    let loss = Loss { host: true, ..Loss::because(cause) };
    out.push(Event::Lost { agent: agent.id, generation: agent.generation, loss, then });
    for task in agent.held.iter().rev() {
        put_back_or_end(state, *task, PutBack::Stopped, out);
    }
    out.extend(afresh.then_some(Event::AgentRemoved { agent: agent.id }));
}

impl State {
    /// Nothing lives: whatever was being stopped has stopped, and a new pool is to be asked for.
    pub(super) fn led(&mut self, boot: Arc<str>, afresh: bool, out: &mut Vec<Effect>) {
        self.boot = Some(boot);
        self.unclaimed = self.agents.keys().last().map(|last| last.0).filter(|_| self.course == Course::Running);
        if afresh && let Course::Stopping { waiting, .. } = std::mem::take(&mut self.course) {
            out.extend(waiting.into_iter().map(|to| Effect::Answer { to, body: Body::Stopped }));
        }
    }

    /// What agents with a living host were told, or should have been: recorded, but perhaps never delivered.
    /// Whoever has heard it before takes no notice.
    pub fn said_again(&self) -> Vec<Effect> {
        let mut out = Vec::new();
        if let Course::Stopping { mode: mode @ (StopMode::Clean | StopMode::Now), .. } = self.course {
            out.push(Effect::EndAllHosts { mode });
        }
        for agent in self.agents.values().filter(|agent| agent.host.is_some()) {
            self.said_to(agent, &mut out);
        }
        match &self.barrier {
            Some(_) => self.ask_members(&mut out),
            // Hosts may have been rung for, and not released.
            None if self.agents.values().any(|a| a.host.is_some() && a.spec.kind.is_hosted()) => {
                out.push(Effect::ReleaseHosts);
            }
            None => {}
        }
        out
    }

    fn said_to(&self, agent: &Agent, out: &mut Vec<Effect>) {
        let id = agent.id;
        match agent.phase {
            Phase::Leaving => out.push(Effect::EndHost { agent: id, mode: StopMode::Clean }),
            Phase::Starting { overdue } => {
                out.push(Effect::StartWorkload { agent: id, generation: agent.generation });
                if overdue {
                    out.push(Effect::EndTask { agent: id, task: super::TaskId(0) });
                }
            }
            Phase::Ready => {
                self.tasks_again(agent, out);
                if let Some(Rest::Asked { task, .. }) = self.steering.rests.get(&id) {
                    out.push(Effect::Tell { agent: id, what: Tell::Pause(*task) });
                }
            }
            Phase::Backoff { .. } | Phase::Parked { .. } => {}
        }
    }

    fn tasks_again(&self, agent: &Agent, out: &mut Vec<Effect>) {
        let due = |what: Deadline| self.deadlines.iter().any(|(_, due)| *due == what);
        for id in &agent.held {
            let task = &self.tasks[*id];
            let begun = u32::from(!matches!(task.state, TaskState::Running { .. }));
            sharing::give_again(agent.id, task, out);
            out.push(Effect::SendTask { agent: agent.id, task: *id, attempt: task.attempts + begun });
            if task.ending().is_none() {
                continue;
            }
            if agent.spec.kind == Kind::Lines && due(Deadline::Escalate(*id)) {
                out.push(Effect::SendCancel { agent: agent.id, task: *id });
            } else if due(Deadline::GiveUp(*id)) {
                out.push(Effect::EndTask { agent: agent.id, task: *id });
            }
        }
    }
}
