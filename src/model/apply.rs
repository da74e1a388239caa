//! Folds one event into the state, and says what the world has to do about it.
//! Invariant: total and deterministic. An event that makes no sense here changes nothing; decide never makes such a one.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::{Ended, Event, Loss, PutBack, StopMode, Then, Verdict};
use super::task::{Ending, Options, ReplyTo, Task, TaskState};
use super::{
    Agent, AgentId, AllWait, Body, Course, Deadline, Effect, Generation, Kind, Now, Phase, Retire, State, TaskId,
};
use crate::limits;

/// What a replay does with effects: nothing. The world has seen to them before.
pub fn replay(state: &mut State, at: Now, event: &Event) {
    let mut out = Vec::new();
    state.apply(at, event, &mut out);
}

impl State {
    pub fn apply(&mut self, at: Now, event: &Event, out: &mut Vec<Effect>) {
        match event {
            Event::Led { .. } => self.led(),
            Event::Configured { spec } => self.spec = spec.clone(),
            Event::AgentAdded { agent } => {
                self.agents.insert(*agent, Agent::new(*agent, self.spec.clone(), at));
                self.expect_ready(at, *agent);
                out.push(Effect::SpawnHost { agent: *agent, generation: Generation(1) });
            }
            Event::AgentRemoved { agent } => self.agent_removed(*agent, out),
            Event::Hosted { agent, host, .. } => {
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.host = Some(*host);
                }
            }
            Event::Ready { agent, workload, abilities, labels, .. } => {
                self.ready(at, *agent, *workload, abilities, labels);
                self.tell_settled(out);
            }
            Event::Lost { agent, loss, then, .. } => self.lost(at, *agent, loss, then, out),
            Event::Restarting { agent, generation } => self.restarting(at, *agent, *generation, out),
            Event::Retiring { agent, remove } => {
                let retire = if *remove { Retire::Remove } else { Retire::Restart };
                self.rolling.retain(|id| id != agent);
                if self.agents.contains_key(agent) {
                    self.retiring.insert(*agent);
                }
                self.with_agent(*agent, |a| a.retire = Some(retire));
            }
            Event::Leaving { agent } => {
                self.clear_agent_deadlines(*agent);
                self.with_agent(*agent, |a| (a.phase, a.since) = (Phase::Leaving, at));
                out.push(Effect::EndHost { agent: *agent, mode: StopMode::Clean });
            }
            Event::Overdue { agent } => {
                self.clear_agent_deadlines(*agent);
                self.with_agent(*agent, |a| a.phase = Phase::Starting { overdue: true });
                out.push(Effect::EndTask { agent: *agent, task: TaskId(0) });
            }
            Event::Rolling { agents } => self.rolling = agents.iter().copied().collect(),
            Event::Submitted { task, text, options, to, waits } => {
                let waiting = to.iter().filter(|_| *waits).cloned().collect();
                self.submitted(at, *task, text, options.clone(), waiting);
                match to {
                    Some(to) if !waits => out.push(Effect::Answer { to: to.clone(), body: Body::Accepted(*task) }),
                    _ => self.tell_watchers(*task, out),
                }
            }
            Event::Assigned { task, agent } => self.assigned(at, *task, *agent, out),
            Event::Progress { task, percent, .. } => {
                if let Some(task) = self.tasks.get_mut(task) {
                    task.percent = Some(*percent);
                }
                self.tell_watchers(*task, out);
            }
            Event::Usage { .. } => {}
            Event::Ending { task, why } => self.ending(at, *task, *why, out),
            Event::Forced { task } => self.end_by_force(*task, out),
            Event::PutBack { task, why } => self.put_back(at, *task, *why, out),
            Event::Ended { task, ended } => self.ended(at, *task, ended, out),
            Event::Awaited { task, to } => {
                if let Some(task) = self.tasks.get_mut(task) {
                    task.waiting.push(to.clone());
                }
            }
            Event::AwaitedAll { to } => self.awaited_all(to, out),
            Event::AwaitedRoom { to } => {
                self.room_waits.push(to.clone());
                self.tell_room(out);
            }
            Event::AwaitedReady { to } => {
                self.ready_waits.push(to.clone());
                self.tell_settled(out);
            }
            Event::Stopping { mode, to } => self.stopping(*mode, to.as_ref(), out),
            Event::Stopped => self.stopped(out),
        }
    }

    /// A new leader starts with no hosts of its own: those of a dead one are looked for by recovery, not assumed.
    fn led(&mut self) {
        self.course = Course::Running;
        self.agents.clear();
        self.room.clear();
        self.deadlines.clear();
        self.retiring.clear();
        self.rolling.clear();
        self.all_waits.clear();
        self.room_waits.clear();
        self.ready_waits.clear();
    }

    // ---- agents ----

    fn with_agent(&mut self, id: AgentId, change: impl FnOnce(&mut Agent)) {
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        change(agent);
        self.find_room(id);
    }

    /// Puts the agent among those that can take a task, or takes it out. One that holds several is filled up again only
    /// when it is down to half, so that it is woken once for many tasks.
    fn find_room(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        let held = agent.held.len() as u32;
        let capacity = agent.capacity();
        let takes = agent.is_ready() && agent.retire.is_none();
        let key = (held, id);
        if takes && held <= capacity / 2 && held < capacity {
            self.room.insert(key);
        } else if !takes || held >= capacity {
            self.room.remove(&key);
        }
    }

    fn expect_ready(&mut self, at: Now, id: AgentId) {
        let Some(patience) = self.agents.get(&id).map(|a| a.spec.start_patience_us) else {
            return;
        };
        self.deadlines.insert((at.mono + patience, Deadline::Start(id)));
    }

    fn clear_agent_deadlines(&mut self, id: AgentId) {
        self.deadlines.retain(|(_, what)| *what != Deadline::Start(id) && *what != Deadline::Restart(id));
    }

    fn ready(&mut self, at: Now, id: AgentId, workload: i32, abilities: &[String], labels: &[String]) {
        self.clear_agent_deadlines(id);
        self.with_agent(id, |agent| {
            agent.phase = Phase::Ready { workload };
            agent.since = at;
            agent.abilities = abilities.to_vec();
            agent.labels = agent.spec.labels.iter().chain(labels).cloned().collect();
        });
    }

    fn lost(&mut self, at: Now, id: AgentId, loss: &Loss, then: &Then, out: &mut Vec<Effect>) {
        self.clear_agent_deadlines(id);
        if loss.host {
            out.push(Effect::CleanUp { agent: id });
        }
        let reason: Arc<str> = match loss.stderr.trim() {
            "" => loss.cause.clone(),
            stderr => format!("{}: {stderr}", loss.cause).into(),
        };
        let until = at.mono + if let Then::Retry(after) = then { *after } else { 0 };
        self.with_agent(id, |agent| {
            agent.since = at;
            if loss.host {
                agent.host = None;
            }
            match then {
                Then::Retry(_) | Then::Park => {
                    agent.deaths.push_back(at.mono);
                    let oldest = at.mono - limits::DEATHS_WINDOW.as_micros() as i64;
                    agent.deaths.retain(|death| *death >= oldest);
                }
                Then::Again | Then::Remove => {}
            }
            agent.phase = match then {
                Then::Park => Phase::Parked { reason },
                Then::Retry(_) | Then::Again => Phase::Backoff { until, reason },
                Then::Remove => Phase::Leaving,
            };
        });
        match then {
            Then::Retry(_) | Then::Again => drop(self.deadlines.insert((until, Deadline::Restart(id)))),
            Then::Park => self.tell_settled(out),
            Then::Remove => {}
        }
    }

    fn restarting(&mut self, at: Now, id: AgentId, generation: Generation, out: &mut Vec<Effect>) {
        self.clear_agent_deadlines(id);
        let spec = self.spec.clone();
        let mut hosted = false;
        self.with_agent(id, |agent| {
            hosted = agent.host.is_some();
            agent.phase = Phase::Starting { overdue: false };
            agent.since = at;
            agent.generation = generation;
            agent.restarts += 1;
            agent.retire = None;
            if !hosted {
                agent.spec = spec;
            }
        });
        self.retiring.remove(&id);
        self.expect_ready(at, id);
        out.push(match hosted {
            true => Effect::StartWorkload { agent: id, generation },
            false => Effect::SpawnHost { agent: id, generation },
        });
    }

    fn agent_removed(&mut self, id: AgentId, out: &mut Vec<Effect>) {
        self.clear_agent_deadlines(id);
        self.retiring.remove(&id);
        if let Some(agent) = self.agents.remove(&id) {
            self.room.remove(&(agent.held.len() as u32, id));
        }
        self.tell_settled(out);
    }

    // ---- tasks ----

    fn submitted(
        &mut self,
        at: Now,
        id: TaskId,
        text: &Arc<str>,
        options: Option<Box<Options>>,
        waiting: Vec<ReplyTo>,
    ) {
        let mut options = options;
        if let Some(name) = options.as_mut().and_then(|o| o.surroundings.as_mut()) {
            match self.surroundings.get(name) {
                Some(shared) => *name = shared.clone(),
                None => drop(self.surroundings.insert(name.clone())),
            }
        }
        let state = TaskState::Queued;
        let (text, submitted) = (text.clone(), at.wall);
        let task = Task { id, text, options, state, submitted, attempts: 0, deaths: 0, percent: None, waiting };
        self.last_task = id;
        self.counts.queued += 1;
        self.queue.add(task.target(), task.priority(), id);
        self.tasks.insert(id, task);
    }

    fn assigned(&mut self, at: Now, id: TaskId, to: AgentId, out: &mut Vec<Effect>) {
        let (Some(task), Some(agent)) = (self.tasks.get_mut(&id), self.agents.get_mut(&to)) else {
            return;
        };
        self.queue.remove(&task.target(), task.priority(), id);
        self.room.remove(&(agent.held.len() as u32, to));
        agent.held.push_back(id);
        task.state = TaskState::Held { agent: to, ending: None };
        out.push(Effect::SendTask {
            agent: to,
            task: id,
            attempt: task.attempts + 1,
            text: task.text.clone(),
            surroundings: task.surroundings().filter(|_| agent.spec.kind.is_hosted()).cloned(),
        });
        let (first, held, capacity) = (agent.held.len() == 1, agent.held.len() as u32, agent.capacity());
        if held < capacity {
            self.room.insert((held, to));
        }
        if first {
            agent.since = at;
            self.begin(at, id);
        }
        self.tell_watchers(id, out);
        self.tell_room(out);
    }

    /// A task comes to the head of its agent: now it runs.
    fn begin(&mut self, at: Now, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let TaskState::Held { agent, ending } = task.state else {
            return;
        };
        task.state = TaskState::Running { agent, since: at, ending };
        task.attempts += 1;
        self.counts.queued -= 1;
        self.counts.running += 1;
        if let Some(timeout) = task.timeout_us() {
            self.deadlines.insert((at.mono + timeout, Deadline::Timeout(id)));
        }
    }

    /// A task leaves its agent, whatever becomes of it; the next one begins.
    fn release(&mut self, at: Now, id: TaskId, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let (holder, since) = match task.state {
            TaskState::Running { agent, since, .. } => (agent, Some(since)),
            TaskState::Held { agent, .. } => (agent, None),
            TaskState::Queued | TaskState::Ended(_) => return,
        };
        if let (Some(since), Some(timeout)) = (since, task.timeout_us()) {
            self.deadlines.remove(&(since.mono + timeout, Deadline::Timeout(id)));
        }
        if task.ending().is_some() {
            self.deadlines.retain(|(_, what)| *what != Deadline::Escalate(id));
        }
        let Some(agent) = self.agents.get_mut(&holder) else {
            return;
        };
        self.room.remove(&(agent.held.len() as u32, holder));
        let was_first = agent.held.front() == Some(&id);
        agent.held.retain(|held| *held != id);
        agent.since = at;
        let next = agent.held.front().copied().filter(|_| was_first);
        // A dead agent's tasks are all put back: none of them begins.
        if let Some(next) = next.filter(|_| agent.is_ready()) {
            self.begin(at, next);
            if self.tasks.get(&next).is_some_and(|t| t.ending().is_some()) {
                self.end_by_force(next, out);
            }
        }
        self.find_room(holder);
    }

    fn ending(&mut self, at: Now, id: TaskId, why: Ending, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if let (TaskState::Running { since, .. }, Some(timeout)) = (&task.state, task.timeout_us()) {
            self.deadlines.remove(&(since.mono + timeout, Deadline::Timeout(id)));
        }
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
                    out.push(Effect::EndTask { agent, task: id });
                }
            }
            TaskState::Queued | TaskState::Ended(_) => {}
        }
    }

    fn end_by_force(&mut self, id: TaskId, out: &mut Vec<Effect>) {
        self.deadlines.retain(|(_, what)| *what != Deadline::Escalate(id));
        if let Some(agent) = self.tasks.get(&id).and_then(|t| t.agent()) {
            out.push(Effect::EndTask { agent, task: id });
        }
    }

    fn put_back(&mut self, at: Now, id: TaskId, why: PutBack, out: &mut Vec<Effect>) {
        let Some(was_running) = self.tasks.get(&id).map(|t| matches!(t.state, TaskState::Running { .. })) else {
            return;
        };
        self.release(at, id, out);
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        task.state = TaskState::Queued;
        task.percent = None;
        if why == PutBack::AgentDied {
            task.deaths += 1;
        }
        if was_running {
            self.counts.running -= 1;
            self.counts.queued += 1;
        }
        self.queue.add(task.target(), task.priority(), id);
        self.tell_watchers(id, out);
    }

    fn ended(&mut self, at: Now, id: TaskId, ended: &Ended, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let started = match &task.state {
            TaskState::Running { since, .. } => Some(since.wall),
            TaskState::Queued | TaskState::Held { .. } => None,
            TaskState::Ended(_) => return,
        };
        if task.state == TaskState::Queued {
            self.queue.remove(&task.target(), task.priority(), id);
        }
        self.release(at, id, out);
        match started {
            Some(_) => self.counts.running -= 1,
            None => self.counts.queued -= 1,
        }
        match ended.verdict {
            Verdict::Done => self.counts.done += 1,
            Verdict::Failed => self.counts.failed += 1,
            Verdict::Cancelled => self.counts.cancelled += 1,
        }
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let waiting = std::mem::take(&mut task.waiting);
        out.extend(waiting.into_iter().map(|to| Effect::Answer { to, body: Body::Ended(id) }));
        task.state = TaskState::Ended(Box::new(Ended { started, at: at.wall, ..ended.clone() }));
        self.ended.push_back(id);
        self.ended_bytes += task.size();
        self.tell_all_waits(id, ended.verdict, out);
        self.tell_room(out);
        self.forget_oldest();
    }

    /// Ended tasks are remembered within a bound; older ones are in the log.
    fn forget_oldest(&mut self) {
        while self.ended_bytes > limits::ENDED_BYTES_MAX {
            let Some(task) = self.ended.pop_front().and_then(|id| self.tasks.remove(&id)) else {
                return;
            };
            self.ended_bytes -= task.size();
        }
    }

    // ---- those who wait ----

    fn tell_watchers(&self, id: TaskId, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let watchers = task.waiting.iter().filter(|to| to.watches);
        out.extend(watchers.map(|to| Effect::Answer { to: to.clone(), body: Body::Watch(id) }));
    }

    fn awaited_all(&mut self, to: &ReplyTo, out: &mut Vec<Effect>) {
        let left = self.counts.live();
        if left == 0 {
            out.push(Effect::Answer { to: to.clone(), body: Body::AllEnded { done: 0, failed: 0, cancelled: 0 } });
            return;
        }
        let last = self.last_task;
        self.all_waits.push(AllWait { to: to.clone(), last, left, done: 0, failed: 0, cancelled: 0 });
    }

    fn tell_all_waits(&mut self, id: TaskId, verdict: Verdict, out: &mut Vec<Effect>) {
        for wait in self.all_waits.iter_mut().filter(|w| id <= w.last) {
            wait.left -= 1;
            match verdict {
                Verdict::Done => wait.done += 1,
                Verdict::Failed => wait.failed += 1,
                Verdict::Cancelled => wait.cancelled += 1,
            }
        }
        for wait in self.all_waits.extract_if(.., |w| w.left == 0) {
            let body = Body::AllEnded { done: wait.done, failed: wait.failed, cancelled: wait.cancelled };
            out.push(Effect::Answer { to: wait.to, body });
        }
    }

    /// A queue that was full is open again when it is down to nine tenths: waiting writers are not woken one by one.
    fn tell_room(&mut self, out: &mut Vec<Effect>) {
        if self.room_waits.is_empty() || self.counts.queued > self.spec.max_queued - self.spec.max_queued / 10 {
            return;
        }
        out.extend(self.room_waits.drain(..).map(|to| Effect::Answer { to, body: Body::Room }));
    }

    fn tell_settled(&mut self, out: &mut Vec<Effect>) {
        if self.ready_waits.is_empty() || !self.agents.values().all(|a| a.is_settled()) {
            return;
        }
        out.extend(self.ready_waits.drain(..).map(|to| Effect::Answer { to, body: Body::Settled }));
    }

    // ---- the end ----

    fn stopping(&mut self, mode: StopMode, to: Option<&ReplyTo>, out: &mut Vec<Effect>) {
        let (before, mut waiting) = match std::mem::take(&mut self.course) {
            Course::Stopping { mode, waiting } => (Some(mode), waiting),
            Course::Running | Course::Stopped => (None, Vec::new()),
        };
        waiting.extend(to.cloned());
        // A stop may be made harder, never softer.
        let mode = before.map_or(mode, |before| before.max(mode));
        self.course = Course::Stopping { mode, waiting };
        if mode != StopMode::Drain && before != Some(mode) {
            self.deadlines.retain(|(_, what)| matches!(what, Deadline::Timeout(_)));
            let ids: Vec<AgentId> = self.agents.keys().copied().collect();
            for id in ids {
                self.with_agent(id, |a| a.phase = Phase::Leaving);
            }
            out.push(Effect::EndAllHosts { mode });
        }
    }

    fn stopped(&mut self, out: &mut Vec<Effect>) {
        for task in self.tasks.values_mut() {
            let told = |to| Effect::Answer { to, body: Body::StoppedBefore(Some(task.id)) };
            out.extend(task.waiting.drain(..).map(told));
        }
        let mut others: VecDeque<ReplyTo> = self.all_waits.drain(..).map(|w| w.to).collect();
        others.extend(self.room_waits.drain(..).chain(self.ready_waits.drain(..)));
        out.extend(others.into_iter().map(|to| Effect::Answer { to, body: Body::StoppedBefore(None) }));
        if let Course::Stopping { waiting, .. } = std::mem::replace(&mut self.course, Course::Stopped) {
            out.extend(waiting.into_iter().map(|to| Effect::Answer { to, body: Body::Stopped }));
        }
        self.agents.clear();
        self.room.clear();
        self.deadlines.clear();
        self.retiring.clear();
        self.rolling.clear();
        out.push(Effect::Exit);
    }
}
