//! What happened: the vocabulary of the log. An event is a fact; applying it cannot fail.

use std::sync::Arc;

use super::task::{Ending, Options, ReplyTo};
use super::{AgentId, BarrierId, Generation, HostId, Limit, Seq, Spec, TaskId, Way};

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A supervisor took the lead; the record's term is its number.
    Led {
        pid: i32,
        version: Arc<str>,
        boot: Arc<str>,
        /// No agent was alive, and a person started it.
        afresh: bool,
    },
    /// `pool start` said what new agents are to be like.
    Configured {
        spec: Arc<Spec>,
    },
    AgentAdded {
        agent: AgentId,
    },
    AgentRemoved {
        agent: AgentId,
    },
    /// A host process runs.
    Hosted {
        agent: AgentId,
        generation: Generation,
        host: HostId,
    },
    /// Its program runs; it says itself when it is ready.
    Started {
        agent: AgentId,
        generation: Generation,
        workload: i32,
    },
    Ready {
        agent: AgentId,
        generation: Generation,
        workload: Option<i32>,
        abilities: Vec<String>,
        labels: Vec<String>,
    },
    /// The workload, or with it the host, is gone.
    Lost {
        agent: AgentId,
        generation: Generation,
        loss: Loss,
        then: Then,
    },
    /// The back-off is over, or a person asked: the next generation starts.
    Restarting {
        agent: AgentId,
        generation: Generation,
    },
    /// To restart or to leave, as soon as it holds nothing.
    Retiring {
        agent: AgentId,
        remove: bool,
    },
    /// Its host was told to end everything and go.
    Leaving {
        agent: AgentId,
    },
    /// It was not ready in time: its host ends it, and reports the loss.
    Overdue {
        agent: AgentId,
    },
    Rolling {
        agents: Vec<AgentId>,
    },

    Submitted {
        task: TaskId,
        text: Arc<str>,
        options: Option<Box<Options>>,
        to: Option<ReplyTo>,
        /// `run` waits for the end, `submit` for the number.
        waits: bool,
    },
    /// What an agent is given at once: more than one task only where it may hold several.
    Assigned {
        tasks: Vec<TaskId>,
        agent: AgentId,
    },
    Progress {
        task: TaskId,
        percent: u8,
        text: Arc<str>,
    },
    Usage {
        task: TaskId,
        fields: Arc<str>,
    },
    /// A running task was told to end.
    Ending {
        task: TaskId,
        why: Ending,
    },
    /// It was told before and did not: now it is ended.
    Forced {
        task: TaskId,
    },
    /// Its host does not end it: the host is killed, and what is below it is ended from outside.
    GivenUp {
        task: TaskId,
    },
    PutBack {
        task: TaskId,
        why: PutBack,
    },
    Ended {
        task: TaskId,
        ended: Box<Ended>,
    },

    Awaited {
        task: TaskId,
        to: ReplyTo,
    },
    AwaitedAll {
        to: ReplyTo,
    },
    AwaitedRoom {
        to: ReplyTo,
    },
    AwaitedReady {
        to: ReplyTo,
    },

    BarrierBegan {
        barrier: BarrierId,
        agents: Vec<AgentId>,
        within_us: i64,
        partial: bool,
        to: Option<ReplyTo>,
    },
    /// What an agent has saved, or its host has seen. Barrier 0: nobody asked for it.
    Checkpointed {
        agent: AgentId,
        barrier: BarrierId,
        task: Option<TaskId>,
        content: Option<Arc<str>>,
        note: Option<Arc<str>>,
    },
    BarrierComplete {
        barrier: BarrierId,
        stragglers: Vec<AgentId>,
    },
    BarrierFailed {
        barrier: BarrierId,
        stragglers: Vec<AgentId>,
    },
    /// Something was said to a task beside its text.
    Injected {
        way: Way,
        text: Arc<str>,
        to: Option<ReplyTo>,
    },
    /// An agent is to pause at its next checkpoint. Without a time: the one that it was given before goes on.
    AskedToRest {
        agent: AgentId,
        task: TaskId,
        within_us: Option<i64>,
        to: Option<ReplyTo>,
    },
    /// It has saved its task and waits; or it had none.
    Rested {
        agent: AgentId,
        task: Option<TaskId>,
        content: Option<Arc<str>>,
        to: Option<ReplyTo>,
    },
    /// It did not come to a checkpoint in time.
    RestMissed {
        agent: AgentId,
    },
    WentOn {
        agent: AgentId,
        task: Option<TaskId>,
        text: Option<Arc<str>>,
        to: Option<ReplyTo>,
    },

    Stopping {
        mode: StopMode,
        to: Option<ReplyTo>,
    },
    Stopped,

    /// The records `from` to `to` were lost, and a person said that the hive is to go on without them.
    Repaired {
        from: Seq,
        to: Seq,
    },
}

impl Event {
    /// The request that brought it about, where that is answered because of it.
    pub fn asked_by(&self) -> Option<&ReplyTo> {
        match self {
            Event::Submitted { to, .. }
            | Event::Stopping { to, .. }
            | Event::BarrierBegan { to, .. }
            | Event::Injected { to, .. }
            | Event::AskedToRest { to, .. }
            | Event::Rested { to, .. }
            | Event::WentOn { to, .. } => to.as_ref(),
            Event::Awaited { to, .. }
            | Event::AwaitedAll { to }
            | Event::AwaitedRoom { to }
            | Event::AwaitedReady { to } => Some(to),
            _ => None,
        }
    }
}

/// How a hive stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum StopMode {
    /// Finish every task first.
    Drain,
    /// End running tasks (TERM, grace, KILL) and put them back.
    #[default]
    Clean,
    /// KILL, at once.
    Now,
}

impl StopMode {
    pub fn name(self) -> &'static str {
        match self {
            StopMode::Drain => "drain",
            StopMode::Clean => "clean",
            StopMode::Now => "now",
        }
    }

    pub fn parse(name: &str) -> Option<StopMode> {
        [StopMode::Drain, StopMode::Clean, StopMode::Now].into_iter().find(|m| m.name() == name)
    }
}

/// How a hosted task's process ended, as its host saw it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exited {
    pub exit: Option<i32>,
    pub signal: Option<i32>,
    /// The host ended it, because it was told to.
    pub by_host: bool,
    /// It could not be started at all: why.
    pub failure: Option<Arc<str>>,
    pub result: Option<Arc<str>>,
    pub unterminated: bool,
    pub bytes: Option<u64>,
    pub log: u64,
    /// It was ended for this.
    pub limit: Option<Limit>,
}

/// How an agent was lost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loss {
    /// The host is gone too, and with it everything below it.
    pub host: bool,
    /// "exit 1", "killed by SIGSEGV", "command not found", ...
    pub cause: Arc<str>,
    /// The last of what it wrote to stderr.
    pub stderr: Arc<str>,
    /// It was ended for this.
    pub limit: Option<Limit>,
}

impl Loss {
    /// Of the workload alone, with nothing more to say about it.
    pub fn because(cause: impl Into<Arc<str>>) -> Loss {
        Loss { cause: cause.into(), ..Loss::default() }
    }

    /// The cause, and what it said itself.
    pub fn in_words(&self) -> Arc<str> {
        match self.stderr.trim() {
            "" => self.cause.clone(),
            stderr => format!("{}: {stderr}", self.cause).into(),
        }
    }
}

/// What follows a loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// Started again after so many microseconds.
    Retry(i64),
    /// Too many deaths.
    Park,
    /// It was to go.
    Remove,
    /// It was to be restarted, or was ended on purpose: at once, and it does not count.
    Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutBack {
    /// Its agent died under it.
    AgentDied,
    /// Its agent went before it began.
    NotBegun,
    /// The hive stopped, or the agent was told to leave.
    Stopped,
}

impl PutBack {
    pub const ALL: [PutBack; 3] = [PutBack::AgentDied, PutBack::NotBegun, PutBack::Stopped];

    pub fn name(self) -> &'static str {
        match self {
            PutBack::AgentDied => "agent-died",
            PutBack::NotBegun => "not-begun",
            PutBack::Stopped => "stopped",
        }
    }

    pub fn parse(name: &str) -> Option<PutBack> {
        PutBack::ALL.into_iter().find(|p| p.name() == name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Done,
    Failed,
    Cancelled,
}

impl Verdict {
    pub const ALL: [Verdict; 3] = [Verdict::Done, Verdict::Failed, Verdict::Cancelled];

    pub fn name(self) -> &'static str {
        match self {
            Verdict::Done => "done",
            Verdict::Failed => "failed",
            Verdict::Cancelled => "cancelled",
        }
    }

    pub fn parse(name: &str) -> Option<Verdict> {
        Verdict::ALL.into_iter().find(|v| v.name() == name)
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub verdict: Verdict,
    pub agent: Option<AgentId>,
    pub attempt: u32,
    /// What it answered: a line, or `REF:<sha256>`.
    pub result: Option<Arc<str>>,
    /// The answer did not end in a newline, so none is added when it is printed.
    pub unterminated: bool,
    /// Bytes of the answer where it went by reference.
    pub bytes: Option<u64>,
    /// Why it failed, in words.
    pub reason: Option<Arc<str>>,
    pub exit: Option<i32>,
    pub signal: Option<i32>,
    pub timed_out: bool,
    /// It was ended for this.
    pub limit: Option<Limit>,
    /// Not the task failed but what should have run it.
    pub by_hive: bool,
    /// Bytes in the task's log.
    pub log: u64,
    /// When it began and ended (wall clock). Filled in when it is applied.
    pub started: Option<i64>,
    pub at: i64,
}

impl Ended {
    pub fn new(verdict: Verdict) -> Ended {
        Ended {
            verdict,
            agent: None,
            attempt: 0,
            result: None,
            unterminated: false,
            bytes: None,
            reason: None,
            exit: None,
            signal: None,
            timed_out: false,
            limit: None,
            by_hive: false,
            log: 0,
            started: None,
            at: 0,
        }
    }

    pub fn because(verdict: Verdict, reason: impl Into<Arc<str>>) -> Ended {
        Ended { reason: Some(reason.into()), ..Ended::new(verdict) }
    }
}
