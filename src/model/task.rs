//! A task: what is to be done, and where it stands.

use std::sync::Arc;

use super::event::Ended;
use super::queue::Target;
use super::{AgentId, Now, TaskId};

/// A client's request that is still to be answered: the reply FIFO's name, and the tag as raw JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    pub name: Arc<str>,
    pub tag: Arc<str>,
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
        since: Now,
        ending: Option<Ending>,
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
    pub waiting: Vec<ReplyTo>,
}

impl Task {
    /// What it takes to remember it, roughly.
    pub fn size(&self) -> usize {
        let result = self.ended().and_then(|e| e.result.as_ref()).map_or(0, |r| r.len());
        crate::limits::ENDED_OVERHEAD + self.text.len() + result
    }

    pub fn target(&self) -> Target {
        self.options.as_ref().map_or(Target::Any, |o| o.target.clone())
    }

    pub fn priority(&self) -> i32 {
        self.options.as_ref().map_or(0, |o| o.priority)
    }

    pub fn timeout_us(&self) -> Option<i64> {
        self.options.as_ref().and_then(|o| o.timeout_us)
    }

    pub fn retries(&self) -> u32 {
        self.options.as_ref().and_then(|o| o.retries).unwrap_or(crate::limits::RETRIES_DEFAULT)
    }

    pub fn name(&self) -> Option<&Arc<str>> {
        self.options.as_ref().and_then(|o| o.name.as_ref())
    }

    pub fn surroundings(&self) -> Option<&Arc<str>> {
        self.options.as_ref().and_then(|o| o.surroundings.as_ref())
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
            TaskState::Running { .. } => "running",
            TaskState::Ended(ended) => ended.verdict.name(),
        }
    }
}
