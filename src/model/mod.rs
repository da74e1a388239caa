//! What hive is, without how: tasks, agents and the rules between them, as a fold over events.
//! Two functions carry everything: [`decide`] turns an input into events or a refusal; [`State::apply`] folds one event
//! into the state and names the [`Effect`]s it has on the world. Live running, replay and simulation use the same two.
//! Invariant: no clock, no randomness, no I/O; time is an argument.

mod agent;
mod apply;
mod barrier;
mod consequence;
mod decide;
mod effect;
mod event;
mod lead;
mod limit;
mod loss;
mod parts;
mod queue;
mod sharing;
#[cfg(test)]
mod simulation;
mod steer;
mod tag;
mod task;
mod tasks;
mod usage;

pub use agent::{Agent, HostId, Kind, Phase, Retire, Spec};
pub use apply::replay;
pub use barrier::{Barrier, BarrierEnd, Checkpoint, Member, Saved, Straggler};
pub use consequence::{assignment, consequence, expired};
pub use decide::{Input, PoolStart, Refusal, Submit, WaitFor, decide, unknown_task};
pub use effect::{Body, Effect, Tell};
pub use event::{Ended, Event, Exited, Loss, PutBack, StopMode, Then, Verdict};
pub use lead::{Lead, Row};
pub use limit::{Limit, Limits, size};
pub use parts::Frame;
pub use queue::Target;
pub use sharing::{Difference, Given, Seen, Shared, Versions};
pub use steer::{Rest, Steering, Way, Whom};
pub use tag::Tag;
pub use task::{Ending, Options, ReplyTo, Task, TaskState};
pub use tasks::Tasks;
pub use usage::Usage;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use queue::Queue;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A task's number, from 1 on.
    TaskId(u64)
);
number!(
    /// An agent's place in the pool, from 1 on.
    AgentId(u32)
);
number!(
    /// Which start of an agent's workload: what an earlier one said does not count.
    Generation(u32)
);
number!(
    /// The number of a leadership.
    Term(u64)
);
number!(
    /// A barrier's number, from 1 on; 0 is none.
    BarrierId(u64)
);
number!(
    /// A record's place in the log, from 1 on.
    Seq(u64)
);

/// One moment on both clocks, in microseconds: `mono` for deadlines, `wall` for labels.
/// In a replay `mono` is the moment's distance from the replaying process's own clock, so it may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    pub mono: i64,
    pub wall: i64,
}

/// What the hive is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Course {
    #[default]
    Running,
    /// Told to stop; no new work. `waiting` are the clients that asked.
    Stopping {
        mode: StopMode,
        waiting: Vec<ReplyTo>,
    },
    Stopped,
}

/// What happens at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// A running task has used up its time.
    Timeout(TaskId),
    /// A task that was asked to end has not.
    Escalate(TaskId),
    /// A host that was told to end a task has not done so in any time that it may take.
    GiveUp(TaskId),
    /// An agent's back-off is over.
    Restart(AgentId),
    /// An agent should have been ready by now.
    Start(AgentId),
    /// The open barrier has used up its time.
    Barrier,
    /// An agent that was asked to pause at its next checkpoint has used up its time.
    Rest(AgentId),
}

/// Clients that wait for every task up to `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllWait {
    pub to: ReplyTo,
    pub last: TaskId,
    pub left: u64,
    /// How those that ended since then did.
    pub ended: Counts,
}

/// How many tasks there are of each sort. `done`, `failed` and `cancelled` count since the log began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub queued: u64,
    pub running: u64,
    pub done: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl Counts {
    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Done => self.done += 1,
            Verdict::Failed => self.failed += 1,
            Verdict::Cancelled => self.cancelled += 1,
        }
    }

    pub fn live(&self) -> u64 {
        self.queued + self.running
    }
}

/// The whole state of a hive.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct State {
    /// The record that was applied last.
    pub seq: Seq,
    pub course: Course,
    /// The boot of the machine in which the last leader ran: pids mean something within one boot only.
    pub boot: Option<Arc<str>>,
    /// So many agents were a former leader's: the next `pool start` says what is to become of them.
    pub unclaimed: Option<u32>,
    /// What `pool start` asked for; new agents are made from it.
    pub spec: Arc<Spec>,
    pub agents: BTreeMap<AgentId, Agent>,
    pub tasks: Tasks,
    /// Ended tasks that are still remembered, oldest first, and what they take.
    pub ended: VecDeque<TaskId>,
    pub ended_bytes: usize,
    pub last_task: TaskId,
    pub counts: Counts,
    queue: Queue,
    /// Agents that can take a task now, the least laden first.
    room: BTreeSet<(u32, AgentId)>,
    deadlines: BTreeSet<(i64, Deadline)>,
    /// Agents that are to restart or to leave.
    retiring: BTreeSet<AgentId>,
    /// How tasks ended of which nobody has been told yet: the next wait for all is.
    pub unawaited: Counts,
    pub all_waits: Vec<AllWait>,
    /// Clients that wait until there is room in the queue.
    pub room_waits: Vec<ReplyTo>,
    /// Clients that wait until every agent is ready or parked.
    pub ready_waits: Vec<ReplyTo>,
    /// Agents still to be restarted, one at a time.
    pub rolling: VecDeque<AgentId>,
    /// The one that is open.
    pub barrier: Option<Box<Barrier>>,
    pub last_barrier: BarrierId,
    pub steering: Steering,
    /// Environments by name, so that a million tasks share one.
    surroundings: BTreeSet<Arc<str>>,
    /// What tasks were given lately, by name.
    pub contexts: Versions,
    /// Since the log began, whatever became of the agents.
    pub shared: Shared,
    pub used: Usage,
}

impl State {
    /// When something is due next, on the monotonic clock.
    pub fn next_deadline(&self) -> Option<i64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// How many tasks stand before this one, were it queued now: what a person is told.
    pub fn queued_before(&self, task: &Task) -> u64 {
        self.queue.before(task.target(), task.priority(), task.id)
    }
}

/// Task ids are small consecutive numbers: one multiplication spreads them enough.
#[derive(Default)]
pub struct IdHasher(u64);

pub type IdHash = BuildHasherDefault<IdHasher>;

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
