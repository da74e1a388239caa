//! An agent: a numbered place, what runs there, and what it is doing.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{AgentId, Generation, Now, TaskId};

/// What an agent's workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// The task's text is a shell command, run by the host.
    #[default]
    Shell,
    /// A resident program that speaks the wire on its own stdin and stdout.
    Lines,
    /// A program that reads one task from stdin, started ahead.
    Oneshot,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Shell, Kind::Lines, Kind::Oneshot];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Shell => "shell",
            Kind::Lines => "lines",
            Kind::Oneshot => "oneshot",
        }
    }

    pub fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == name)
    }

    /// Whether the host runs the tasks itself: then it gets more than the bare wire, and reports exit codes.
    pub fn is_hosted(self) -> bool {
        match self {
            Kind::Shell | Kind::Oneshot => true,
            Kind::Lines => false,
        }
    }
}

/// What `pool start` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spec {
    pub kind: Kind,
    pub command: Vec<String>,
    pub labels: Vec<String>,
    /// What agents are called; with more than one, their number follows.
    pub name: Option<Arc<str>>,
    /// Digest of the folder and environment that resident workloads keep.
    pub surroundings: Option<Arc<str>>,
    pub prefetch: u32,
    pub max_queued: u64,
    pub stop_grace_us: i64,
    pub start_patience_us: i64,
}

/// A host process, told apart from any other that had or will have its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostId {
    pub pid: i32,
    pub start_ticks: u64,
}

/// What is to become of an agent once it holds no task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retire {
    Restart,
    Remove,
}

/// Where an agent stands. Busy and idle are not here: they follow from what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The workload was asked for and has not said that it is ready.
    Starting {
        overdue: bool,
    },
    Ready {
        workload: i32,
    },
    /// Dead; started again when the time comes.
    Backoff {
        until: i64,
        reason: Arc<str>,
    },
    /// Died too often; started again only when a person says so.
    Parked {
        reason: Arc<str>,
    },
    /// Told to leave; gone when its host is.
    Leaving,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    pub id: AgentId,
    pub spec: Arc<Spec>,
    pub phase: Phase,
    pub host: Option<HostId>,
    pub generation: Generation,
    /// The tasks it was given and has not ended, in order; the first has begun.
    pub held: VecDeque<TaskId>,
    pub retire: Option<Retire>,
    pub since: Now,
    pub restarts: u32,
    /// When it died, on the monotonic clock, as far back as the restart policy looks.
    pub deaths: VecDeque<i64>,
    /// What its READY line declared besides the labels of its spec.
    pub abilities: Vec<String>,
    pub labels: Vec<String>,
}

impl Agent {
    pub fn new(id: AgentId, spec: Arc<Spec>, at: Now) -> Agent {
        Agent {
            id,
            labels: spec.labels.clone(),
            spec,
            phase: Phase::Starting { overdue: false },
            host: None,
            generation: Generation(1),
            held: VecDeque::new(),
            retire: None,
            since: at,
            restarts: 0,
            deaths: VecDeque::new(),
            abilities: Vec::new(),
        }
    }

    /// Tasks that it may hold: more than one only where the workload reads them by itself.
    pub fn capacity(&self) -> u32 {
        if self.spec.kind == Kind::Lines { self.spec.prefetch.max(1) } else { 1 }
    }

    pub fn name(&self) -> Option<String> {
        self.spec.name.as_ref().map(|name| format!("{name}-{}", self.id))
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// Settled means that waiting for it any longer makes no sense: it is ready, or it is parked.
    pub fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. } | Phase::Parked { .. })
    }

    /// The word that people and scripts see.
    pub fn state_name(&self) -> &'static str {
        match self.phase {
            Phase::Starting { .. } | Phase::Backoff { .. } => "starting",
            Phase::Ready { .. } if self.held.is_empty() => "idle",
            Phase::Ready { .. } => "busy",
            Phase::Parked { .. } => "parked",
            Phase::Leaving => "stopping",
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match &self.phase {
            Phase::Backoff { reason, .. } | Phase::Parked { reason } => Some(reason),
            Phase::Starting { .. } | Phase::Ready { .. } | Phase::Leaving => None,
        }
    }
}
