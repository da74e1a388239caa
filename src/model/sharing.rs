//! Contexts: contents by name that tasks are given, and which of them each agent has seen. An agent is told of a version
//! once; of the next one it is told what changed, where that is known and smaller.
//! Invariant: what `seen` says was told to the workload that runs now, before the task that needs it.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use super::{Agent, AgentId, Effect, State, Task, TaskId};
use crate::limits::{CONTEXT_NAMES_MAX, CONTEXT_VERSIONS_MAX};

/// A content that a task is given under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub name: Arc<str>,
    pub digest: Arc<str>,
    pub bytes: u64,
    /// What changed since other versions.
    pub diffs: Vec<Difference>,
}

/// How to come from one content to another: a content itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub base: Arc<str>,
    pub digest: Arc<str>,
    pub bytes: u64,
}

/// Bytes of context that tasks asked for, and that were sent because their agents did not have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shared {
    pub asked: u64,
    pub sent: u64,
}

impl Shared {
    fn count(&mut self, asked: u64, sent: u64) {
        self.asked = self.asked.saturating_add(asked);
        self.sent = self.sent.saturating_add(sent);
    }
}

/// The version that an agent has seen of each name; the one that was sent longest ago first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen(VecDeque<(Arc<str>, Arc<str>)>);

impl Seen {
    pub fn get(&self, name: &str) -> Option<&Arc<str>> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, digest)| digest)
    }

    pub fn set(&mut self, name: Arc<str>, digest: Arc<str>) {
        self.0.retain(|(known, _)| *known != name);
        if self.0.len() == CONTEXT_NAMES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((name, digest));
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Arc<str>, Arc<str>)> {
        self.0.iter()
    }
}

/// The last versions of each name that tasks were given, the newest last: what a client may say the difference to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versions(VecDeque<(Arc<str>, VecDeque<Arc<str>>)>);

impl Versions {
    pub fn of(&self, name: &str) -> impl DoubleEndedIterator<Item = &Arc<str>> {
        self.0.iter().filter(move |(known, _)| **known == *name).flat_map(|(_, versions)| versions)
    }

    pub fn add(&mut self, name: &Arc<str>, digest: &Arc<str>) {
        let known = self.0.iter().position(|(known, _)| known == name).and_then(|at| self.0.remove(at));
        let (name, mut versions) = known.unwrap_or_else(|| (name.clone(), VecDeque::new()));
        if versions.back() != Some(digest) {
            versions.retain(|version| version != digest);
            if versions.len() == CONTEXT_VERSIONS_MAX {
                versions.pop_front();
            }
            versions.push_back(digest.clone());
        }
        if self.0.len() == CONTEXT_NAMES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((name, versions));
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Arc<str>, VecDeque<Arc<str>>)> {
        self.0.iter()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Tells an agent what it has not seen of a task's contexts. A host starts a new process for each task, which has seen
/// nothing.
pub(super) fn give(agent: &mut Agent, task: &Task, total: &mut Shared, out: &mut Vec<Effect>) {
    for given in task.contexts() {
        let seen = agent.seen.get(&given.name);
        let known = seen == Some(&given.digest);
        let smaller = |diff: &&Difference| Some(&diff.base) == seen && diff.bytes < given.bytes;
        let diff = given.diffs.iter().find(smaller).filter(|_| !known).cloned();
        let sent = if known { 0 } else { diff.as_ref().map_or(given.bytes, |diff| diff.bytes) };
        agent.shared.count(given.bytes, sent);
        total.count(given.bytes, sent);
        if known {
            continue;
        }
        if !agent.spec.kind.is_hosted() {
            agent.seen.set(given.name.clone(), given.digest.clone());
        }
        out.push(tell(agent.id, task.id, given, diff));
    }
}

/// The same for a task that its agent was perhaps not told of: whole, as it may have been told of a part of it.
pub(super) fn give_again(agent: AgentId, task: &Task, out: &mut Vec<Effect>) {
    out.extend(task.contexts().iter().map(|given| tell(agent, task.id, given, None)));
}

fn tell(agent: AgentId, task: TaskId, given: &Given, diff: Option<Difference>) -> Effect {
    Effect::SendContext { agent, task, name: given.name.clone(), digest: given.digest.clone(), diff }
}

impl State {
    /// Of the agents with room the one that has seen most of what this task is given; the least laden of several.
    pub(super) fn best_informed(&self, task: TaskId) -> Option<AgentId> {
        if self.contexts.is_empty() {
            return None;
        }
        let task = self.tasks.get(task).filter(|task| !task.contexts().is_empty())?;
        let has_seen = |agent: &Agent| -> u64 {
            let known = task.contexts().iter().filter(|given| agent.seen.get(&given.name) == Some(&given.digest));
            known.map(|given| given.bytes).sum()
        };
        let informed = self.room.iter().filter_map(|(held, id)| {
            let agent = self.agents.get(id).filter(|agent| task.target().admits(agent))?;
            let bytes = has_seen(agent);
            (bytes > 0).then_some((Reverse(bytes), *held, *id))
        });
        informed.min().map(|(_, _, id)| id)
    }
}
