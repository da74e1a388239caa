//! Steering: a task's last checkpoint, instructions to those that work, and agents that were asked to rest at their next
//! checkpoint.
//! Invariant: an agent that rests, or was asked to, is given no task; the clock of a task that rests stands still. What is
//! kept for a task goes with it from agent to agent, and ends when it ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decide::{Decision, Refusal, known_agent, refuse, unknown_task};
use super::effect::{Body, Effect, Tell};
use super::event::Event;
use super::{Agent, AgentId, Deadline, Kind, Now, Phase, ReplyTo, State, TaskId, TaskState};
use crate::error::Code;
use crate::limits::INSTRUCTIONS_MAX;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Steering {
    /// The last checkpoint of each task that has one and has not ended.
    pub checkpoints: BTreeMap<TaskId, Arc<str>>,
    /// What tasks that have not ended were told beside their text, in order: every attempt hears it.
    pub instructions: BTreeMap<TaskId, Vec<Arc<str>>>,
    /// What agents are to be told with their next task.
    pub waiting: BTreeMap<AgentId, Vec<Arc<str>>>,
    /// Agents that were asked to rest, or do.
    pub rests: BTreeMap<AgentId, Rest>,
}

impl Steering {
    /// The task has ended.
    pub(super) fn forget(&mut self, task: TaskId) {
        self.checkpoints.remove(&task);
        self.instructions.remove(&task);
    }
}

/// An agent that is to do nothing for a while, by its own doing.
#[derive(Debug, Clone, PartialEq)]
pub enum Rest {
    /// It was asked, at this task; these wait to hear that it has.
    Asked { task: TaskId, waiting: Vec<ReplyTo> },
    /// It has saved this task and waits; or it had none. Since when, on the monotonic clock.
    Reached { task: Option<TaskId>, since: i64 },
}

impl Rest {
    fn task(&self) -> Option<TaskId> {
        match self {
            Rest::Asked { task, .. } => Some(*task),
            Rest::Reached { task, .. } => *task,
        }
    }
}

/// Whom an instruction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    Agent(AgentId),
    Task(TaskId),
}

/// Where an instruction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    pub agent: Option<AgentId>,
    pub task: Option<TaskId>,
    /// To a task that an agent has begun; else with the next that begins.
    pub now: bool,
}

impl Agent {
    /// Whether its READY line declared this.
    pub fn can(&self, ability: &str) -> bool {
        self.abilities.iter().any(|known| known == ability)
    }
}

// ---- what is asked ----

pub(super) fn inject(
    state: &State,
    whom: Whom,
    text: Arc<str>,
    at_once: bool,
    to: Option<ReplyTo>,
    out: &mut Vec<Event>,
) -> Decision {
    let way = way(state, whom)?;
    if at_once && !way.now {
        let who = match whom {
            Whom::Agent(id) => format!("agent {id}"),
            Whom::Task(id) => format!("task {id}"),
        };
        let why = "takes no instruction now: nothing runs there that declared `inject`; without --now it comes with the next task";
        return refuse(Code::Unable, format!("{who} {why}"));
    }
    let kept = match way {
        Way { task: Some(task), .. } => state.steering.instructions.get(&task),
        Way { agent, .. } => agent.and_then(|agent| state.steering.waiting.get(&agent)),
    };
    if kept.is_some_and(|kept| kept.len() >= INSTRUCTIONS_MAX) {
        return refuse(Code::Limit, format!("{INSTRUCTIONS_MAX} instructions are kept for it already"));
    }
    out.push(Event::Injected { way, text, to });
    Ok(())
}

fn way(state: &State, whom: Whom) -> Result<Way, Refusal> {
    let with_next = |agent: &Agent| match agent.spec.kind {
        Kind::Lines => Ok(Way { agent: Some(agent.id), task: None, now: false }),
        Kind::Shell | Kind::Oneshot => Err(no_channel(agent.spec.kind)),
    };
    let at = |agent: &Agent, task| Way { agent: Some(agent.id), task: Some(task), now: true };
    match whom {
        Whom::Agent(id) => {
            known_agent(state, id)?;
            let agent = &state.agents[&id];
            match agent.held.front() {
                Some(task) if agent.can("inject") => Ok(at(agent, *task)),
                _ => with_next(agent),
            }
        }
        Whom::Task(id) => {
            let Some(task) = state.tasks.get(id) else {
                return Err(unknown_task(state, id).err().unwrap_or_else(|| unable("there is no such task")));
            };
            match &task.state {
                TaskState::Queued if state.spec.kind == Kind::Lines => {
                    Ok(Way { agent: None, task: Some(id), now: false })
                }
                TaskState::Queued => Err(no_channel(state.spec.kind)),
                TaskState::Held { agent, .. } | TaskState::Running { agent, .. } => match &state.agents[agent] {
                    agent if agent.can("inject") => Ok(at(agent, id)),
                    agent => with_next(agent),
                },
                TaskState::Ended(ended) => Err(Refusal {
                    code: Code::HasEnded,
                    message: format!("task {id} has ended already: it is {}", ended.verdict.name()),
                }),
            }
        }
    }
}

fn no_channel(kind: Kind) -> Refusal {
    unable(format!("a {} task takes nothing but its text: only agents of kind lines hear instructions", kind.name()))
}

fn unable(message: impl Into<String>) -> Refusal {
    Refusal { code: Code::Unable, message: message.into() }
}

pub(super) fn ask_to_rest(
    state: &State,
    id: AgentId,
    within_us: i64,
    to: Option<ReplyTo>,
    out: &mut Vec<Event>,
) -> Decision {
    known_agent(state, id)?;
    let agent = &state.agents[&id];
    if !matches!(agent.phase, Phase::Ready) {
        return refuse(Code::Unable, format!("agent {id} cannot pause: it is {}", agent.state_name()));
    }
    match (state.steering.rests.get(&id), agent.held.front().copied()) {
        (Some(Rest::Reached { task, .. }), _) => out.push(Event::Rested { agent: id, task: *task, content: None, to }),
        (_, None) => out.push(Event::Rested { agent: id, task: None, content: None, to }),
        (_, Some(task)) if agent.can("pause") => {
            out.push(Event::AskedToRest { agent: id, task, within_us: Some(within_us), to });
        }
        (_, Some(_)) => {
            let why = "cannot pause at a checkpoint: it did not declare `pause` in its READY line";
            return refuse(Code::Unable, format!("agent {id} {why}"));
        }
    }
    Ok(())
}

/// An agent says that it rests. If nobody wants that any more, it is told to go on.
pub(super) fn rests(
    state: &State,
    id: AgentId,
    task: TaskId,
    content: Option<Arc<str>>,
    out: &mut Vec<Event>,
) -> Decision {
    match state.steering.rests.get(&id) {
        Some(Rest::Asked { task: asked, .. }) if *asked == task => {
            out.push(Event::Rested { agent: id, task: Some(task), content, to: None });
        }
        Some(_) => {}
        None => {
            let kept = content.is_some();
            let barrier = super::BarrierId(0);
            out.extend(kept.then_some(Event::Checkpointed {
                agent: id,
                barrier,
                task: Some(task),
                content,
                note: None,
            }));
            out.push(Event::WentOn { agent: id, task: Some(task), text: None, to: None });
        }
    }
    Ok(())
}

pub(super) fn resume(
    state: &State,
    id: AgentId,
    text: Option<Arc<str>>,
    to: Option<ReplyTo>,
    out: &mut Vec<Event>,
) -> Decision {
    known_agent(state, id)?;
    let Some(rest) = state.steering.rests.get(&id) else {
        return refuse(Code::Unable, format!("agent {id} is not paused"));
    };
    let agent = &state.agents[&id];
    if text.is_some() && agent.spec.kind != Kind::Lines {
        return Err(no_channel(agent.spec.kind));
    }
    out.push(Event::WentOn { agent: id, task: rest.task(), text, to });
    Ok(())
}

// ---- what follows by itself ----

/// The task at which an agent was asked to rest is no longer there: it rests without one, or is asked at the next.
pub(super) fn consequence(state: &State) -> Option<Event> {
    state.steering.rests.iter().find_map(|(id, rest)| {
        let front = state.agents.get(id)?.held.front().copied();
        match front {
            _ if front == rest.task() => None,
            None => Some(Event::Rested { agent: *id, task: None, content: None, to: None }),
            Some(task) => Some(Event::AskedToRest { agent: *id, task, within_us: None, to: None }),
        }
    })
}

// ---- what that makes of the state ----

impl State {
    pub fn checkpoint_of(&self, task: TaskId) -> Option<&Arc<str>> {
        self.steering.checkpoints.get(&task)
    }

    pub(super) fn is_live(&self, task: TaskId) -> bool {
        self.tasks.get(task).is_some_and(|task| task.ended().is_none())
    }

    /// What an agent is told before this task: the checkpoint that it goes on from, if it can.
    pub fn restores(&self, agent: AgentId, task: TaskId) -> Option<&Arc<str>> {
        let can = self.agents.get(&agent).is_some_and(|agent| agent.can("restore"));
        self.checkpoint_of(task).filter(|_| can)
    }

    /// And the instructions that came for it so far.
    pub fn instructions_for(&self, task: TaskId) -> &[Arc<str>] {
        self.steering.instructions.get(&task).map_or(&[], Vec::as_slice)
    }

    /// The word that people and scripts see.
    pub fn agent_state(&self, agent: &Agent) -> &'static str {
        let awaited = self.barrier.as_ref().is_some_and(|open| self.awaits(open.id, agent.id));
        match self.steering.rests.get(&agent.id) {
            Some(Rest::Reached { .. }) => "paused",
            _ if awaited => "checkpointing",
            _ => agent.state_name(),
        }
    }

    pub(super) fn injected(&mut self, way: Way, text: Arc<str>, to: Option<ReplyTo>, out: &mut Vec<Effect>) {
        let Way { agent, task, now } = way;
        if let (true, Some(agent), Some(task)) = (now, agent, task) {
            out.push(Effect::Tell { agent, what: Tell::Inject(task, text.clone()) });
        }
        match (task.filter(|task| self.is_live(*task)), agent) {
            (Some(task), _) => self.steering.instructions.entry(task).or_default().push(text),
            (None, Some(agent)) => self.steering.waiting.entry(agent).or_default().push(text),
            (None, None) => {}
        }
        out.extend(to.map(|to| Effect::Answer { to, body: Body::Injected(way) }));
    }

    /// What waited for the agent's next task is that task's from here on.
    pub(super) fn hand_instructions(&mut self, agent: AgentId, task: TaskId) {
        let hears = self.agents.get(&agent).is_some_and(|a| a.spec.kind == Kind::Lines);
        if self.steering.waiting.is_empty() || !hears || !self.is_live(task) {
            return;
        }
        if let Some(waiting) = self.steering.waiting.remove(&agent) {
            self.steering.instructions.entry(task).or_default().extend(waiting);
        }
    }

    pub(super) fn asked_to_rest(
        &mut self,
        at: Now,
        id: AgentId,
        task: TaskId,
        within_us: Option<i64>,
        to: Option<ReplyTo>,
        out: &mut Vec<Effect>,
    ) {
        if !self.agents.get(&id).is_some_and(Agent::is_ready) {
            return;
        }
        let mut waiting = match self.steering.rests.remove(&id) {
            Some(Rest::Asked { waiting, .. }) => waiting,
            Some(Rest::Reached { .. }) | None => Vec::new(),
        };
        waiting.extend(to);
        self.steering.rests.insert(id, Rest::Asked { task, waiting });
        if let Some(within) = within_us
            && !self.deadlines.iter().any(|(_, what)| *what == Deadline::Rest(id))
        {
            self.deadlines.insert((at.mono + within, Deadline::Rest(id)));
        }
        self.find_room(id);
        out.push(Effect::Tell { agent: id, what: Tell::Pause(task) });
    }

    pub(super) fn rested(
        &mut self,
        at: Now,
        id: AgentId,
        task: Option<TaskId>,
        content: Option<Arc<str>>,
        to: Option<ReplyTo>,
        out: &mut Vec<Effect>,
    ) {
        let held = |task: &TaskId| self.agents.get(&id).is_some_and(|agent| agent.held.front() == Some(task));
        if !self.agents.get(&id).is_some_and(Agent::is_ready) || !task.as_ref().is_none_or(held) {
            return;
        }
        self.deadlines.retain(|(_, what)| *what != Deadline::Rest(id));
        let (mut waiting, since) = match self.steering.rests.remove(&id) {
            Some(Rest::Asked { waiting, .. }) => (waiting, at.mono),
            Some(Rest::Reached { since, .. }) => (Vec::new(), since),
            None => (Vec::new(), at.mono),
        };
        waiting.extend(to);
        if let (Some(task), Some(content)) = (task, content) {
            self.steering.checkpoints.insert(task, content);
        }
        if let Some(task) = task.and_then(|task| self.tasks.get_mut(task)) {
            task.stop_clock(&mut self.deadlines);
        }
        self.steering.rests.insert(id, Rest::Reached { task, since });
        self.with_agent(id, |agent| agent.since = at);
        let content = task.and_then(|task| self.checkpoint_of(task).cloned());
        let body = Body::Rested { agent: id, task, content };
        out.extend(waiting.into_iter().map(|to| Effect::Answer { to, body: body.clone() }));
    }

    /// It goes on: told to, or because it was not to rest any more.
    pub(super) fn went_on(
        &mut self,
        at: Now,
        id: AgentId,
        task: Option<TaskId>,
        text: Option<Arc<str>>,
        to: Option<ReplyTo>,
        out: &mut Vec<Effect>,
    ) {
        if let Some(Rest::Reached { task: Some(task), since }) = self.steering.rests.get(&id)
            && let Some(task) = self.tasks.get_mut(*task)
        {
            task.go_on(at.mono - since, &mut self.deadlines);
        }
        self.end_rest(id, Code::Unable, "it was resumed before it had paused", out);
        match (task, &text) {
            (Some(task), Some(text)) if self.is_live(task) => {
                self.steering.instructions.entry(task).or_default().push(text.clone())
            }
            (None, Some(text)) => self.steering.waiting.entry(id).or_default().push(text.clone()),
            _ => {}
        }
        self.with_agent(id, |agent| agent.since = at);
        out.extend(task.map(|task| Effect::Tell { agent: id, what: Tell::Resume(task, text) }));
        out.extend(to.map(|to| Effect::Answer { to, body: Body::Ok }));
    }

    /// It did not rest in time: it is not asked to any more.
    pub(super) fn rest_missed(&mut self, id: AgentId, out: &mut Vec<Effect>) {
        let task = self.steering.rests.get(&id).and_then(Rest::task);
        self.end_rest(id, Code::TimedOut, "it has not come to a checkpoint in time, and works on", out);
        self.find_room(id);
        out.extend(task.map(|task| Effect::Tell { agent: id, what: Tell::Resume(task, None) }));
    }

    /// Nobody waits for it any more, and it may be given tasks.
    pub(super) fn end_rest(&mut self, id: AgentId, code: Code, why: &str, out: &mut Vec<Effect>) {
        let Some(rest) = self.steering.rests.remove(&id) else { return };
        self.deadlines.retain(|(_, what)| *what != Deadline::Rest(id));
        let Rest::Asked { waiting, .. } = rest else { return };
        let refusal = Refusal { code, message: format!("agent {id} has not paused: {why}") };
        out.extend(waiting.into_iter().map(|to| Effect::Answer { to, body: Body::Refused(refusal.clone()) }));
    }

    /// Whether what was to be said to an agent long ago is still to be said.
    pub fn still_stands(&self, effect: &Effect) -> bool {
        let Effect::Tell { agent, what } = effect else { return true };
        let holds = |task: &TaskId| self.agents.get(agent).is_some_and(|agent| agent.held.contains(task));
        match what {
            Tell::Inject(task, _) => holds(task),
            Tell::Resume(task, _) => holds(task) && !self.steering.rests.contains_key(agent),
            // These are said again because of what the state is.
            Tell::Checkpoint(_) | Tell::Pause(_) => false,
        }
    }
}
