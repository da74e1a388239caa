//! A task: what is to be done, and where it stands; and how events change that.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::event::{Ended, PutBack};
use super::queue::Target;
use super::tag::Tag;
use super::{AgentId, Body, Counts, Deadline, Effect, Given, Kind, Now, State, TaskId, sharing};
use crate::limits;

/// A client's request that is still to be answered: the reply FIFO's name, and the tag as raw JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    pub name: Arc<str>,
    pub tag: Tag,
    /// It also wants to hear how the task comes on.
    pub watches: bool,
}

/// What was said beside the text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    pub name: Option<Arc<str>>,
    pub target: Target,
    pub priority: i32,
    pub timeout_us: Option<i64>,
    /// Agents it may kill before it fails for good.
    pub retries: Option<u32>,
    /// Digest of the submitter's folder and environment.
    pub surroundings: Option<Arc<str>>,
    /// Contents that its agent is to have. Tasks that are handed over together share one list.
    pub contexts: Arc<[Given]>,
}

/// Why a running task was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Cancel,
    Timeout,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TaskState {
    Queued,
    /// Given to an agent that is still at an earlier one.
    Held {
        agent: AgentId,
        ending: Option<Ending>,
    },
    Running {
        agent: AgentId,
        /// While it is paused, its clock stands still: `mono` moves on when that is over.
        since: Now,
        ending: Option<Ending>,
        paused: bool,
    },
    Ended(Box<Ended>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub id: TaskId,
    pub text: Arc<str>,
    /// Absent where everything is as by default: most tasks of a large batch.
    pub options: Option<Box<Options>>,
    pub state: TaskState,
    pub submitted: i64,
    /// Attempts begun; the one that runs is the last of them.
    pub attempts: u32,
    /// Agents that died under it.
    pub deaths: u32,
    pub percent: Option<u8>,
    /// Whose `run` this is.
    pub asker: Option<ReplyTo>,
    /// Who else waits for its end.
    pub waiting: Vec<ReplyTo>,
}

impl Task {
    /// What it takes to remember it, roughly.
    pub fn size(&self) -> usize {
        let result = self.ended().and_then(|e| e.result.as_ref()).map_or(0, |r| r.len());
        limits::ENDED_OVERHEAD + self.text.len() + result
    }

    /// Everybody who waits for its end.
    pub fn waiters(&self) -> impl Iterator<Item = &ReplyTo> {
        self.asker.iter().chain(&self.waiting)
    }

    /// Takes them: they are answered now.
    pub(super) fn take_waiters(&mut self) -> impl Iterator<Item = ReplyTo> + use<> {
        self.asker.take().into_iter().chain(std::mem::take(&mut self.waiting))
    }

    pub(super) fn tell_watchers(&self, out: &mut Vec<Effect>) {
        let watchers = self.waiters().filter(|to| to.watches);
        out.extend(watchers.map(|to| Effect::Answer { to: to.clone(), body: Body::Watch(self.id) }));
    }

    pub fn target(&self) -> &Target {
        static ANY: Target = Target::Any;
        self.options.as_ref().map_or(&ANY, |o| &o.target)
    }

    pub fn priority(&self) -> i32 {
        self.options.as_ref().map_or(0, |o| o.priority)
    }

    pub fn timeout_us(&self) -> Option<i64> {
        self.options.as_ref().and_then(|o| o.timeout_us)
    }

    pub fn retries(&self) -> u32 {
        self.options.as_ref().and_then(|o| o.retries).unwrap_or(limits::RETRIES_DEFAULT)
    }

    pub fn name(&self) -> Option<&Arc<str>> {
        self.options.as_ref().and_then(|o| o.name.as_ref())
    }

    pub fn surroundings(&self) -> Option<&Arc<str>> {
        self.options.as_ref().and_then(|o| o.surroundings.as_ref())
    }

    pub fn contexts(&self) -> &[Given] {
        self.options.as_ref().map_or(&[], |o| &o.contexts)
    }

    pub fn agent(&self) -> Option<AgentId> {
        match &self.state {
            TaskState::Queued => None,
            TaskState::Held { agent, .. } | TaskState::Running { agent, .. } => Some(*agent),
            TaskState::Ended(ended) => ended.agent,
        }
    }

    pub fn ending(&self) -> Option<Ending> {
        match &self.state {
            TaskState::Queued | TaskState::Ended(_) => None,
            TaskState::Held { ending, .. } | TaskState::Running { ending, .. } => *ending,
        }
    }

    pub fn ended(&self) -> Option<&Ended> {
        match &self.state {
            TaskState::Ended(ended) => Some(ended),
            TaskState::Queued | TaskState::Held { .. } | TaskState::Running { .. } => None,
        }
    }

    pub fn state_name(&self) -> &'static str {
        match &self.state {
            TaskState::Queued | TaskState::Held { .. } => "queued",
            TaskState::Running { paused: true, .. } => "paused",
            TaskState::Running { .. } => "running",
            TaskState::Ended(ended) => ended.verdict.name(),
        }
    }
}

impl State {
    #[allow(clippy::too_many_arguments, reason = "the fields of one event")]
    pub(super) fn submitted(
        &mut self,
        at: Now,
        id: TaskId,
        text: Arc<str>,
        mut options: Option<Box<Options>>,
        to: Option<ReplyTo>,
        waits: bool,
        out: &mut Vec<Effect>,
    ) {
        if let Some(name) = options.as_mut().and_then(|o| o.surroundings.as_mut()) {
            match self.surroundings.get(name) {
                Some(shared) => *name = shared.clone(),
                None => drop(self.surroundings.insert(name.clone())),
            }
        }
        for given in options.iter().flat_map(|o| o.contexts.iter()) {
            self.contexts.add(&given.name, &given.digest);
        }
        let (asker, submitter) = if waits { (to, None) } else { (None, to) };
        out.extend(submitter.map(|to| Effect::Answer { to, body: Body::Accepted(id) }));
        let task = Task {
            id,
            text,
            options,
            state: TaskState::Queued,
            submitted: at.wall,
            attempts: 0,
            deaths: 0,
            percent: None,
            asker,
            waiting: Vec::new(),
        };
        task.tell_watchers(out);
        self.last_task = id;
        self.counts.queued += 1;
        self.queue.add(task.target(), task.priority(), id);
        self.tasks.insert(task);
    }

    pub(super) fn assigned(&mut self, at: Now, ids: &[TaskId], to: AgentId, out: &mut Vec<Effect>) {
        if let Some(first) = ids.first() {
            self.hand_instructions(to, *first);
        }
        let Some(agent) = self.agents.get_mut(&to) else { return };
        self.room.remove(&(agent.held.len() as u32, to));
        for id in ids {
            let Some(task) = self.tasks.get_mut(*id) else { continue };
            self.queue.remove(task.target(), task.priority(), *id);
            task.state = TaskState::Held { agent: to, ending: None };
            sharing::give(agent, task, &mut self.shared, out);
            out.push(Effect::SendTask { agent: to, task: *id, attempt: task.attempts + 1 });
            if agent.held.is_empty() {
                agent.since = at;
                task.begin(at, &mut self.counts, &mut self.deadlines);
            }
            agent.held.push_back(*id);
            task.tell_watchers(out);
        }
        let holds = agent.held.len() as u32;
        if holds < agent.capacity() {
            self.room.insert((holds, to));
        }
        self.tell_room(out);
    }

    /// A task has left its agent, whatever becomes of it; the next one begins.
    fn released(&mut self, at: Now, id: TaskId, holder: AgentId, out: &mut Vec<Effect>) {
        let Some(agent) = self.agents.get_mut(&holder) else { return };
        self.room.remove(&(agent.held.len() as u32, holder));
        let was_first = agent.held.front() == Some(&id);
        if was_first {
            agent.held.pop_front();
        } else {
            agent.held.retain(|held| *held != id);
        }
        agent.since = at;
        // A dead agent's tasks are all put back: none of them begins.
        let next = agent.held.front().copied().filter(|_| was_first && agent.is_ready());
        if let Some(next) = next.and_then(|next| self.tasks.get_mut(next)) {
            next.begin(at, &mut self.counts, &mut self.deadlines);
            if next.ending().is_some() {
                let next = next.id;
                self.end_by_host(at, next, holder, out);
            }
        }
        self.find_room(holder);
    }

    pub(super) fn ending(&mut self, at: Now, id: TaskId, why: Ending, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.forget_deadlines(&mut self.deadlines);
        match &mut task.state {
            TaskState::Held { ending, .. } => *ending = Some(why),
            TaskState::Running { ending, agent, .. } => {
                *ending = Some(why);
                let agent = *agent;
                let cooperative = self.agents.get(&agent).is_some_and(|a| a.spec.kind == Kind::Lines);
                if cooperative {
                    // It is asked first; what a host runs is ended by the host, which asks by TERM.
                    out.push(Effect::SendCancel { agent, task: id });
                    let at = at.mono + limits::CANCEL_GRACE.as_micros() as i64;
                    self.deadlines.insert((at, Deadline::Escalate(id)));
                } else {
                    self.end_by_host(at, id, agent, out);
                }
            }
            TaskState::Queued | TaskState::Ended(_) => {}
        }
    }

    /// The host is told to end it, and has the grace and a little more to do so.
    fn end_by_host(&mut self, at: Now, id: TaskId, agent: AgentId, out: &mut Vec<Effect>) {
        out.push(Effect::EndTask { agent, task: id });
        let grace = self.agents.get(&agent).map_or(0, |a| a.spec.stop_grace_us);
        let patience = grace + limits::HOST_PATIENCE.as_micros() as i64;
        self.deadlines.insert((at.mono + patience, Deadline::GiveUp(id)));
    }

    pub(super) fn give_up(&mut self, id: TaskId, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get(id) else { return };
        task.forget_deadlines(&mut self.deadlines);
        out.extend(task.agent().map(|agent| Effect::KillHost { agent }));
    }

    pub(super) fn end_by_force(&mut self, at: Now, id: TaskId, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get(id) else { return };
        task.forget_deadlines(&mut self.deadlines);
        if let Some(agent) = task.agent() {
            self.end_by_host(at, id, agent, out);
        }
    }

    pub(super) fn put_back(&mut self, at: Now, id: TaskId, why: PutBack, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.forget_deadlines(&mut self.deadlines);
        let holder = match std::mem::replace(&mut task.state, TaskState::Queued) {
            TaskState::Running { agent, .. } => {
                self.counts.running -= 1;
                self.counts.queued += 1;
                // It was given, and never begun: that was no attempt.
                task.attempts -= u32::from(why == PutBack::NotBegun);
                agent
            }
            TaskState::Held { agent, .. } => agent,
            other @ (TaskState::Queued | TaskState::Ended(_)) => {
                task.state = other;
                return;
            }
        };
        task.percent = None;
        task.deaths += u32::from(why == PutBack::AgentDied);
        self.queue.add(task.target(), task.priority(), id);
        task.tell_watchers(out);
        self.released(at, id, holder, out);
    }

    pub(super) fn ended(&mut self, at: Now, id: TaskId, mut ended: Box<Ended>, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let verdict = ended.verdict;
        let holder = match task.state {
            TaskState::Running { agent, since, .. } => {
                self.counts.running -= 1;
                ended.started = Some(since.wall);
                Some(agent)
            }
            TaskState::Held { agent, .. } => {
                self.counts.queued -= 1;
                Some(agent)
            }
            TaskState::Queued => {
                self.counts.queued -= 1;
                self.queue.remove(task.target(), task.priority(), id);
                None
            }
            TaskState::Ended(_) => return,
        };
        task.forget_deadlines(&mut self.deadlines);
        self.steering.forget(id);
        ended.at = at.wall;
        task.state = TaskState::Ended(ended);
        let told = out.len();
        out.extend(task.take_waiters().map(|to| Effect::Answer { to, body: Body::Ended(id) }));
        let somebody_knows = out.len() > told;
        self.ended.push_back(id);
        self.ended_bytes += task.size();
        self.counts.count(verdict);
        if let Some(holder) = holder {
            self.released(at, id, holder, out);
        }
        self.tell_all_waits(id, verdict, somebody_knows, out);
        self.tell_room(out);
        self.forget_oldest();
    }

    /// Ended tasks are remembered within a bound; older ones are in the log.
    fn forget_oldest(&mut self) {
        while self.ended_bytes > limits::ENDED_BYTES_MAX {
            let Some(task) = self.ended.pop_front().and_then(|id| self.tasks.remove(id)) else { return };
            self.ended_bytes -= task.size();
        }
    }
}

impl Task {
    /// It comes to the head of its agent: now it runs.
    fn begin(&mut self, at: Now, counts: &mut Counts, deadlines: &mut BTreeSet<(i64, Deadline)>) {
        let TaskState::Held { agent, ending } = self.state else { return };
        self.state = TaskState::Running { agent, since: at, ending, paused: false };
        self.attempts += 1;
        counts.queued -= 1;
        counts.running += 1;
        if let (Some(timeout), None) = (self.timeout_us(), ending) {
            deadlines.insert((at.mono + timeout, Deadline::Timeout(self.id)));
        }
    }

    /// Its timeout does not run from here on.
    pub(super) fn stop_clock(&mut self, deadlines: &mut BTreeSet<(i64, Deadline)>) {
        if self.ending().is_none() {
            self.forget_deadlines(deadlines);
        }
        if let TaskState::Running { paused, .. } = &mut self.state {
            *paused = true;
        }
    }

    /// After a pause of so long.
    pub(super) fn go_on(&mut self, after_us: i64, deadlines: &mut BTreeSet<(i64, Deadline)>) {
        let timeout = self.timeout_us().filter(|_| self.ending().is_none());
        if let TaskState::Running { paused: paused @ true, since, .. } = &mut self.state {
            *paused = false;
            since.mono += after_us;
            deadlines.extend(timeout.map(|timeout| (since.mono + timeout, Deadline::Timeout(self.id))));
        }
    }

    fn forget_deadlines(&self, deadlines: &mut BTreeSet<(i64, Deadline)>) {
        let TaskState::Running { since, ending, .. } = self.state else { return };
        if ending.is_some() {
            deadlines.retain(|(_, what)| *what != Deadline::Escalate(self.id) && *what != Deadline::GiveUp(self.id));
        } else if let Some(timeout) = self.timeout_us() {
            deadlines.remove(&(since.mono + timeout, Deadline::Timeout(self.id)));
        }
    }
}
