//! What the world has to do because of an event. Performed only after the event is recorded.

use std::sync::Arc;

use super::{AgentId, BarrierEnd, BarrierId, Counts, Difference, Generation, Refusal, ReplyTo, StopMode, TaskId, Way};

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    SpawnHost {
        agent: AgentId,
        generation: Generation,
    },
    /// To a living host: start the next workload.
    StartWorkload {
        agent: AgentId,
        generation: Generation,
    },
    /// Before the task's line: a content by name, and if it has seen another of that name, what changed.
    SendContext {
        agent: AgentId,
        task: TaskId,
        name: Arc<str>,
        digest: Arc<str>,
        diff: Option<Difference>,
    },
    /// The task's line to the agent. Read the text from the state.
    SendTask {
        agent: AgentId,
        task: TaskId,
        attempt: u32,
    },
    /// Ask a cooperative agent to give a task up.
    SendCancel {
        agent: AgentId,
        task: TaskId,
    },
    /// A line to a `lines` agent beside its tasks.
    Tell {
        agent: AgentId,
        what: Tell,
    },
    /// All hosts are rung for, in one call: those that run tasks themselves say how theirs stand, and begin no other.
    RingHosts {
        barrier: BarrierId,
    },
    /// The barrier is over: they go on.
    ReleaseHosts,
    /// Its host ends the task's tree (for `lines`: the workload's).
    EndTask {
        agent: AgentId,
        task: TaskId,
    },
    /// The host does not obey: it is killed.
    KillHost {
        agent: AgentId,
    },
    /// The host ends everything below it and goes.
    EndHost {
        agent: AgentId,
        mode: StopMode,
    },
    /// The same for all hosts, in one call.
    EndAllHosts {
        mode: StopMode,
    },
    /// What a dead host left behind is found and ended.
    CleanUp {
        agent: AgentId,
    },
    Answer {
        to: ReplyTo,
        body: Body,
    },
    /// The supervisor's work is done.
    Exit,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Tell {
    Checkpoint(BarrierId),
    Inject(TaskId, Arc<str>),
    Pause(TaskId),
    Resume(TaskId, Option<Arc<str>>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// `submit` was accepted.
    Accepted(TaskId),
    /// The task has ended: read it from the state.
    Ended(TaskId),
    AllEnded(Counts),
    /// What was asked for is done.
    Ok,
    /// The queue has room again.
    Room,
    /// Every agent is ready or parked.
    Settled,
    /// The hive has stopped: what was asked for.
    Stopped,
    /// The hive has stopped before this could be answered; a task will be run after the next start.
    StoppedBefore(Option<TaskId>),
    Barrier(Box<BarrierEnd>),
    Injected(Way),
    /// It has come to its checkpoint, and waits.
    Rested {
        agent: AgentId,
        task: Option<TaskId>,
        content: Option<Arc<str>>,
    },
    /// What was asked for did not come about.
    Refused(Refusal),
    /// To one that watches: how the task stands. Read it from the state.
    Watch(TaskId),
}
