//! A barrier: all agents that it names save what they do, at one point of the log. Between its beginning and its end no
//! task is given to them; what they have goes on. It is complete when each has answered, and then the log up to that
//! record, with the checkpoints in it, says all there is to say about them.
//! Invariant: at most one barrier is open, and each ends once: complete, or failed with those that did not answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decide::{Decision, Refusal, known_agent, refuse, running};
use super::effect::{Body, Effect, Tell};
use super::event::{Event, StopMode};
use super::{Agent, AgentId, BarrierId, Course, Deadline, Now, ReplyTo, Seq, State, TaskId, TaskState};
use crate::error::Code;

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// None: all of them.
    pub agents: Vec<AgentId>,
    pub within_us: i64,
    /// Those that have not answered by then are left out.
    pub partial: bool,
    pub to: Option<ReplyTo>,
}

/// A barrier that is open.
#[derive(Debug, Clone, PartialEq)]
pub struct Barrier {
    pub id: BarrierId,
    pub within_us: i64,
    pub partial: bool,
    pub to: Option<ReplyTo>,
    /// Hosts were rung for, and are to be released.
    pub rung: bool,
    pub members: BTreeMap<AgentId, Member>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Member {
    Awaited,
    Answered(Saved),
    /// It cannot answer any more: why.
    Lost(Arc<str>),
}

/// What an agent answered, or what is known of it without asking.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Saved {
    /// The task that it was at.
    pub task: Option<TaskId>,
    pub percent: Option<u8>,
    /// The task's checkpoint: a text, or `REF:<sha256>`.
    pub content: Option<Arc<str>>,
    /// What its host saw.
    pub note: Option<Arc<str>>,
}

/// How a barrier ended.
#[derive(Debug, Clone, PartialEq)]
pub struct BarrierEnd {
    pub id: BarrierId,
    /// The record at which it ended: all checkpoints stand at or before it.
    pub seq: Seq,
    pub failed: bool,
    pub within_us: i64,
    pub saved: Vec<(AgentId, Saved)>,
    pub stragglers: Vec<Straggler>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Straggler {
    pub agent: AgentId,
    pub task: Option<TaskId>,
    pub reason: Arc<str>,
}

impl Barrier {
    fn is_awaited(&self) -> bool {
        self.members.values().any(|member| *member == Member::Awaited)
    }

    fn stragglers(&self) -> Vec<AgentId> {
        let missing = |member: &Member| !matches!(member, Member::Answered(_));
        self.members.iter().filter(|(_, member)| missing(member)).map(|(id, _)| *id).collect()
    }
}

impl Agent {
    /// Whether somebody is there who answers for it: a host that runs its tasks, or a program that said it can.
    /// For any other the model answers: what it holds, and how far that is.
    fn answers_barriers(&self) -> bool {
        self.is_ready() && (self.spec.kind.is_hosted() || self.can("checkpoint"))
    }
}

pub(super) fn begin(state: &State, asked: Checkpoint, out: &mut Vec<Event>) -> Decision {
    running(state)?;
    if let Some(open) = &state.barrier {
        let message = format!(
            "barrier {} is open still, for at most {} s: wait until it has ended",
            open.id,
            open.within_us as f64 / 1e6
        );
        return refuse(Code::BarrierOpen, message);
    }
    let Checkpoint { mut agents, within_us, partial, to } = asked;
    agents.iter().try_for_each(|id| known_agent(state, *id))?;
    agents.sort_unstable();
    agents.dedup();
    if agents.is_empty() {
        agents.extend(state.agents.keys());
    }
    if agents.is_empty() {
        return refuse(Code::NoSuchAgent, "this pool has no agents: `hivectl pool scale N` makes some");
    }
    let barrier = BarrierId(state.last_barrier.0 + 1);
    out.push(Event::BarrierBegan { barrier, agents, within_us, partial, to });
    Ok(())
}

/// A checkpoint that an agent says it has made. One that nobody asked for, or that comes late or twice, is kept for its task.
pub(super) fn said(
    state: &State,
    id: AgentId,
    barrier: BarrierId,
    content: Option<Arc<str>>,
    out: &mut Vec<Event>,
) -> Decision {
    let Some(agent) = state.agents.get(&id).filter(|agent| agent.is_ready()) else {
        return Err(Refusal { code: Code::NoSuchAgent, message: format!("agent {id} is not ready") });
    };
    let task = agent.held.front().copied();
    if state.awaits(barrier, id) {
        out.push(Event::Checkpointed { agent: id, barrier, task, content, note: None });
    } else if task.is_some() && content.is_some() {
        out.push(Event::Checkpointed { agent: id, barrier: BarrierId(0), task, content, note: None });
    }
    Ok(())
}

/// What a host says for the tasks that it runs itself.
pub(super) fn host_said(state: &State, id: AgentId, barrier: BarrierId, note: Arc<str>, out: &mut Vec<Event>) {
    if state.awaits(barrier, id) {
        let task = state.agents.get(&id).and_then(|agent| agent.held.front().copied());
        out.push(Event::Checkpointed { agent: id, barrier, task, content: None, note: Some(note) });
    }
}

/// Its time is up: complete without the stragglers where that will do.
pub(super) fn overdue(state: &State) -> Option<Event> {
    let open = state.barrier.as_ref()?;
    Some(open.end(!open.partial))
}

/// It ends by itself when nobody is waited for any more, and when the hive stops.
pub(super) fn consequence(state: &State) -> Option<Event> {
    let open = state.barrier.as_ref()?;
    let stopping = match state.course {
        Course::Running | Course::Stopping { mode: StopMode::Drain, .. } => false,
        Course::Stopping { .. } | Course::Stopped => true,
    };
    match (stopping, open.is_awaited()) {
        (true, _) => Some(open.end(true)),
        (false, true) => None,
        (false, false) => Some(open.end(!open.partial && !open.stragglers().is_empty())),
    }
}

impl Barrier {
    fn end(&self, failed: bool) -> Event {
        let (barrier, stragglers) = (self.id, self.stragglers());
        match failed {
            true => Event::BarrierFailed { barrier, stragglers },
            false => Event::BarrierComplete { barrier, stragglers },
        }
    }
}

impl State {
    /// Whether this barrier waits for this agent.
    pub fn awaits(&self, barrier: BarrierId, agent: AgentId) -> bool {
        let open = self.barrier.as_ref().filter(|open| open.id == barrier);
        open.and_then(|open| open.members.get(&agent)) == Some(&Member::Awaited)
    }

    pub(super) fn is_in_barrier(&self, agent: AgentId) -> bool {
        self.barrier.as_ref().is_some_and(|open| open.members.contains_key(&agent))
    }

    pub(super) fn barrier_began(&mut self, at: Now, id: BarrierId, asked: Checkpoint, out: &mut Vec<Effect>) {
        let Checkpoint { agents, within_us, partial, to } = asked;
        self.last_barrier = id;
        let known = agents.iter().filter_map(|id| self.agents.get(id));
        let members: BTreeMap<AgentId, Member> = known
            .map(|agent| match agent.answers_barriers() {
                true => (agent.id, Member::Awaited),
                false => (agent.id, Member::Answered(self.known_of(agent))),
            })
            .collect();
        let hosted = |id: &AgentId| self.agents.get(id).is_some_and(|agent| agent.spec.kind.is_hosted());
        let rung = members.iter().any(|(id, member)| *member == Member::Awaited && hosted(id));
        let open = Barrier { id, within_us, partial, to, rung, members };
        self.barrier = Some(Box::new(open));
        self.deadlines.insert((at.mono + within_us, Deadline::Barrier));
        agents.iter().for_each(|agent| self.find_room(*agent));
        self.ask_members(out);
    }

    /// Asks those that have not answered: by a line where the program reads one, by one ring for all hosts. Asked twice,
    /// they answer twice, and the second time does not count.
    pub(super) fn ask_members(&self, out: &mut Vec<Effect>) {
        let Some(open) = &self.barrier else { return };
        let awaited = open.members.iter().filter(|(_, member)| **member == Member::Awaited);
        let lines = awaited.filter(|(id, _)| self.agents.get(id).is_some_and(|agent| !agent.spec.kind.is_hosted()));
        out.extend(lines.map(|(id, _)| Effect::Tell { agent: *id, what: Tell::Checkpoint(open.id) }));
        out.extend(open.rung.then_some(Effect::RingHosts { barrier: open.id }));
    }

    /// What is known of an agent that is not asked.
    fn known_of(&self, agent: &Agent) -> Saved {
        let task = agent.held.front().copied();
        let percent = task.and_then(|task| self.tasks.get(task)?.percent);
        Saved { task, percent, content: task.and_then(|task| self.checkpoint_of(task).cloned()), note: None }
    }

    pub(super) fn checkpointed(
        &mut self,
        id: AgentId,
        barrier: BarrierId,
        task: Option<TaskId>,
        content: Option<Arc<str>>,
        note: Option<Arc<str>>,
    ) {
        let live = task.filter(|task| self.is_live(*task));
        if let (Some(task), Some(content)) = (live, &content) {
            self.steering.checkpoints.insert(task, content.clone());
        }
        if self.awaits(barrier, id)
            && let Some(open) = &mut self.barrier
        {
            let percent = task.and_then(|task| self.tasks.get(task)?.percent);
            open.members.insert(id, Member::Answered(Saved { task, percent, content, note }));
        }
    }

    /// An agent is gone: if it has not answered, it never will.
    pub(super) fn lost_to_barrier(&mut self, id: AgentId, reason: &str) {
        if let Some(member) = self.barrier.as_mut().and_then(|open| open.members.get_mut(&id))
            && *member == Member::Awaited
        {
            *member = Member::Lost(reason.into());
        }
    }

    pub(super) fn barrier_over(&mut self, failed: bool, out: &mut Vec<Effect>) {
        let Some(open) = self.barrier.take() else { return };
        self.deadlines.retain(|(_, what)| *what != Deadline::Barrier);
        open.members.keys().for_each(|agent| self.find_room(*agent));
        let Barrier { id, within_us, to, rung, members, .. } = *open;
        out.extend(rung.then_some(Effect::ReleaseHosts));
        let Some(to) = to else { return };
        let mut end = BarrierEnd { id, seq: self.seq, failed, within_us, saved: vec![], stragglers: vec![] };
        for (agent, member) in members {
            match member {
                Member::Answered(saved) => end.saved.push((agent, saved)),
                Member::Awaited => end.stragglers.push(self.straggler(agent, "it has not answered".into())),
                Member::Lost(reason) => end.stragglers.push(self.straggler(agent, reason)),
            }
        }
        out.push(Effect::Answer { to, body: Body::Barrier(Box::new(end)) });
    }

    fn straggler(&self, id: AgentId, reason: Arc<str>) -> Straggler {
        let task = self.agents.get(&id).and_then(|agent| agent.held.front().copied());
        let state = task.and_then(|task| self.tasks.get(task)).map(|task| &task.state);
        let paused = matches!(state, Some(TaskState::Running { paused: true, .. }));
        Straggler { agent: id, task, reason: if paused { "it is paused".into() } else { reason } }
    }
}
