//! Folds one event into the state, and says what the world has to do about it.
//! Invariant: total and deterministic. An event that makes no sense here changes nothing; decide never makes such a one.

use std::collections::VecDeque;

use super::event::{Event, StopMode, Verdict};
use super::task::ReplyTo;
use super::{AgentId, AllWait, Body, Checkpoint, Course, Deadline, Effect, Now, Phase, State, TaskId, TaskState};

/// What a replay does with effects: nothing. The world has seen to them before.
pub fn replay(state: &mut State, at: Now, event: Event) {
    let mut out = Vec::new();
    state.apply(at, event, &mut out);
}

impl State {
    pub fn apply(&mut self, at: Now, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Led { boot, afresh, .. } => self.led(boot, afresh, out),
            Event::Configured { spec } => (self.spec, self.unclaimed) = (spec, None),
            Event::AgentAdded { agent } => self.agent_added(at, agent, out),
            Event::AgentRemoved { agent } => self.agent_removed(agent, out),
            Event::Hosted { agent, host, .. } => self.with_agent(agent, |a| a.host = Some(host)),
            Event::Started { agent, workload, .. } => {
                self.with_agent(agent, |a| a.workload = Some(workload));
                self.tell_settled(out);
            }
            Event::Ready { agent, workload, abilities, labels, .. } => {
                self.agent_ready(at, agent, workload, abilities, labels);
                self.tell_settled(out);
            }
            Event::Lost { agent, loss, then, .. } => self.agent_lost(at, agent, loss, then, out),
            Event::Restarting { agent, generation } => self.agent_restarting(at, agent, generation, out),
            Event::Retiring { agent, remove } => {
                self.agent_retiring(agent, remove);
                self.tell_settled(out);
            }
            Event::Leaving { agent } => {
                self.clear_agent_deadlines(agent);
                self.left_off(agent, "it leaves the pool, or is started anew", out);
                self.with_agent(agent, |a| (a.phase, a.since) = (Phase::Leaving, at));
                out.push(Effect::EndHost { agent, mode: StopMode::Clean });
            }
            Event::Overdue { agent } => {
                self.clear_agent_deadlines(agent);
                self.with_agent(agent, |a| a.phase = Phase::Starting { overdue: true });
                out.push(Effect::EndTask { agent, task: TaskId(0) });
            }
            Event::Rolling { agents } => self.rolling = agents.into(),
            Event::Submitted { task, text, options, to, waits } => {
                self.submitted(at, task, text, options, to, waits, out)
            }
            Event::Assigned { tasks, agent } => self.assigned(at, &tasks, agent, out),
            Event::Progress { task, percent, .. } => {
                if let Some(task) = self.tasks.get_mut(task) {
                    task.percent = Some(percent);
                    task.tell_watchers(out);
                }
            }
            Event::Usage { task, fields } => self.used(task, &fields),
            Event::Ending { task, why } => self.ending(at, task, why, out),
            Event::Forced { task } => self.end_by_force(at, task, out),
            Event::GivenUp { task } => self.give_up(task, out),
            Event::PutBack { task, why } => self.put_back(at, task, why, out),
            Event::Ended { task, ended } => self.ended(at, task, ended, out),
            Event::Awaited { task, to } => {
                if let Some(task) = self.tasks.get_mut(task) {
                    task.waiting.push(to);
                }
            }
            Event::AwaitedAll { to } => self.awaited_all(to, out),
            Event::AwaitedRoom { to } => {
                self.room_waits.push(to);
                self.tell_room(out);
            }
            Event::AwaitedReady { to } => {
                self.ready_waits.push(to);
                self.tell_settled(out);
            }
            Event::BarrierBegan { barrier, agents, within_us, partial, to } => {
                self.barrier_began(at, barrier, Checkpoint { agents, within_us, partial, to }, out)
            }
            Event::Checkpointed { agent, barrier, task, content, note } => {
                self.checkpointed(agent, barrier, task, content, note)
            }
            Event::BarrierComplete { .. } => self.barrier_over(false, out),
            Event::BarrierFailed { .. } => self.barrier_over(true, out),
            Event::Injected { way, text, to } => self.injected(way, text, to, out),
            Event::AskedToRest { agent, task, within_us, to } => {
                self.asked_to_rest(at, agent, task, within_us, to, out)
            }
            Event::Rested { agent, task, content, to } => self.rested(at, agent, task, content, to, out),
            Event::RestMissed { agent } => self.rest_missed(agent, out),
            Event::WentOn { agent, task, text, to } => self.went_on(at, agent, task, text, to, out),
            Event::Stopping { mode, to } => self.stopping(mode, to, out),
            Event::Stopped => self.stopped(out),
            Event::Repaired { from, to } => self.repaired(to.0.saturating_sub(from.0) + 1),
        }
    }

    /// So many records are missing: who did what is not known any more. No agent is, and what has not ended waits.
    fn repaired(&mut self, lost: u64) {
        // Each may have been a task's, whose number is not to be given again.
        self.last_task.0 += lost;
        for task in self.tasks.iter_mut() {
            match task.state {
                TaskState::Held { .. } => {}
                TaskState::Running { .. } => {
                    self.counts.running -= 1;
                    self.counts.queued += 1;
                }
                TaskState::Queued | TaskState::Ended(_) => continue,
            }
            (task.state, task.percent) = (TaskState::Queued, None);
            self.queue.add(task.target(), task.priority(), task.id);
        }
        self.course = Course::Running;
        self.unclaimed = None;
        self.agents.clear();
        self.room.clear();
        self.deadlines.clear();
        self.retiring.clear();
        self.rolling.clear();
        self.all_waits.clear();
        self.room_waits.clear();
        self.ready_waits.clear();
        self.barrier = None;
        self.steering.rests.clear();
        self.steering.waiting.clear();
    }

    // ---- those who wait ----

    pub(super) fn awaited_all(&mut self, to: ReplyTo, out: &mut Vec<Effect>) {
        let left = self.counts.live();
        if left == 0 {
            out.push(Effect::Answer { to, body: Body::AllEnded(std::mem::take(&mut self.unawaited)) });
            return;
        }
        let last = self.last_task;
        self.all_waits.push(AllWait { to, last, left, ended: std::mem::take(&mut self.unawaited) });
    }

    pub(super) fn tell_all_waits(&mut self, id: TaskId, verdict: Verdict, somebody_knows: bool, out: &mut Vec<Effect>) {
        let mut covered = somebody_knows;
        for wait in self.all_waits.iter_mut().filter(|w| id <= w.last) {
            wait.left -= 1;
            wait.ended.count(verdict);
            covered = true;
        }
        if !covered {
            self.unawaited.count(verdict);
        }
        for wait in self.all_waits.extract_if(.., |w| w.left == 0) {
            out.push(Effect::Answer { to: wait.to, body: Body::AllEnded(wait.ended) });
        }
    }

    /// A queue that was full is open again when it is down to nine tenths: waiting writers are not woken one by one.
    pub(super) fn tell_room(&mut self, out: &mut Vec<Effect>) {
        if self.room_waits.is_empty() || self.counts.queued > self.spec.max_queued - self.spec.max_queued / 10 {
            return;
        }
        out.extend(self.room_waits.drain(..).map(|to| Effect::Answer { to, body: Body::Room }));
    }

    pub(super) fn tell_settled(&mut self, out: &mut Vec<Effect>) {
        let running = self.course == Course::Running;
        if !running || !self.rolling.is_empty() || !self.agents.values().all(|a| a.is_settled()) {
            return;
        }
        out.extend(self.ready_waits.drain(..).map(|to| Effect::Answer { to, body: Body::Settled }));
    }

    // ---- the end ----

    fn stopping(&mut self, mode: StopMode, to: Option<ReplyTo>, out: &mut Vec<Effect>) {
        let (before, mut waiting) = match std::mem::take(&mut self.course) {
            Course::Stopping { mode, waiting } => (Some(mode), waiting),
            Course::Running | Course::Stopped => (None, Vec::new()),
        };
        waiting.extend(to);
        // A stop may be made harder, never softer.
        let mode = before.map_or(mode, |before| before.max(mode));
        self.course = Course::Stopping { mode, waiting };
        if mode != StopMode::Drain && before != Some(mode) {
            self.deadlines.retain(|(_, what)| matches!(what, Deadline::Timeout(_)));
            let ids: Vec<AgentId> = self.agents.keys().copied().collect();
            for id in ids {
                self.left_off(id, "the hive is being stopped", out);
                self.with_agent(id, |a| a.phase = Phase::Leaving);
            }
            out.push(Effect::EndAllHosts { mode });
        }
    }

    fn stopped(&mut self, out: &mut Vec<Effect>) {
        for task in self.tasks.iter_mut() {
            let id = task.id;
            let told = |to| Effect::Answer { to, body: Body::StoppedBefore(Some(id)) };
            out.extend(task.take_waiters().map(told));
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
