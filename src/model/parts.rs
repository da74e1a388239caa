//! A state taken apart into what has to be stored, and put together again: what a snapshot is made of.
//! Invariant: what was taken apart and put together is equal to what it was. What follows from tasks and agents (the
//! queue, most counts) is not stored but made again. A field that is added to the state does not compile here until
//! somebody has said which of the two it is.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::{
    Agent, AgentId, AllWait, Barrier, BarrierId, Counts, Course, Deadline, ReplyTo, Seq, Shared, Spec, State, Steering,
    Task, TaskId, TaskState, Usage, Versions,
};

/// All of a state but its tasks and agents, and what follows from those.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Frame {
    pub seq: Seq,
    pub course: Course,
    pub boot: Option<Arc<str>>,
    pub unclaimed: Option<u32>,
    pub spec: Arc<Spec>,
    pub last_task: TaskId,
    /// Of tasks that have ended: the others can be counted.
    pub ended: Counts,
    pub unawaited: Counts,
    pub room: BTreeSet<(u32, AgentId)>,
    pub deadlines: BTreeSet<(i64, Deadline)>,
    pub retiring: BTreeSet<AgentId>,
    pub all_waits: Vec<AllWait>,
    pub room_waits: Vec<ReplyTo>,
    pub ready_waits: Vec<ReplyTo>,
    pub rolling: VecDeque<AgentId>,
    pub barrier: Option<Box<Barrier>>,
    pub last_barrier: BarrierId,
    pub steering: Steering,
    pub surroundings: BTreeSet<Arc<str>>,
    pub contexts: Versions,
    pub shared: Shared,
    pub used: Usage,
}

impl State {
    pub fn frame(&self) -> Frame {
        let State {
            seq,
            course,
            boot,
            unclaimed,
            spec,
            agents: _,
            tasks: _,
            ended: _,
            ended_bytes: _,
            last_task,
            counts,
            queue: _,
            room,
            deadlines,
            retiring,
            unawaited,
            all_waits,
            room_waits,
            ready_waits,
            rolling,
            barrier,
            last_barrier,
            steering,
            surroundings,
            contexts,
            shared,
            used,
        } = self;
        Frame {
            seq: *seq,
            course: course.clone(),
            boot: boot.clone(),
            unclaimed: *unclaimed,
            spec: spec.clone(),
            last_task: *last_task,
            ended: Counts { queued: 0, running: 0, ..*counts },
            unawaited: *unawaited,
            room: room.clone(),
            deadlines: deadlines.clone(),
            retiring: retiring.clone(),
            all_waits: all_waits.clone(),
            room_waits: room_waits.clone(),
            ready_waits: ready_waits.clone(),
            rolling: rolling.clone(),
            barrier: barrier.clone(),
            last_barrier: *last_barrier,
            steering: steering.clone(),
            surroundings: surroundings.clone(),
            contexts: contexts.clone(),
            shared: *shared,
            used: *used,
        }
    }

    /// All tasks: those that have ended as they ended, then the others by number. In this order they are put back.
    pub fn tasks_in_order(&self) -> impl Iterator<Item = &Task> {
        let live = self.tasks.ids_from(0).into_iter().filter_map(|id| self.tasks.get(id));
        let ended = self.ended.iter().filter_map(|id| self.tasks.get(*id));
        ended.chain(live.filter(|task| task.ended().is_none()))
    }

    /// Puts a task back that [`Self::tasks_in_order`] named.
    pub fn restore_task(&mut self, mut task: Task) {
        if let Some(name) = task.options.as_mut().and_then(|o| o.surroundings.as_mut())
            && let Some(shared) = self.surroundings.get(name)
        {
            *name = shared.clone();
        }
        match task.state {
            TaskState::Queued => {
                self.counts.queued += 1;
                self.queue.add(task.target(), task.priority(), task.id);
            }
            TaskState::Held { .. } => self.counts.queued += 1,
            TaskState::Running { .. } => self.counts.running += 1,
            TaskState::Ended(_) => {
                self.ended.push_back(task.id);
                self.ended_bytes += task.size();
            }
        }
        self.tasks.insert(task);
    }

    pub fn restore_agent(&mut self, mut agent: Agent) {
        if agent.spec == self.spec {
            agent.spec = self.spec.clone();
        }
        self.agents.insert(agent.id, agent);
    }
}

impl Frame {
    /// A state without tasks and agents, to be given them.
    pub fn into_state(self) -> State {
        State {
            seq: self.seq,
            course: self.course,
            boot: self.boot,
            unclaimed: self.unclaimed,
            spec: self.spec,
            last_task: self.last_task,
            counts: self.ended,
            unawaited: self.unawaited,
            room: self.room,
            deadlines: self.deadlines,
            retiring: self.retiring,
            all_waits: self.all_waits,
            room_waits: self.room_waits,
            ready_waits: self.ready_waits,
            rolling: self.rolling,
            barrier: self.barrier,
            last_barrier: self.last_barrier,
            steering: self.steering,
            surroundings: self.surroundings,
            contexts: self.contexts,
            shared: self.shared,
            used: self.used,
            ..State::default()
        }
    }
}
