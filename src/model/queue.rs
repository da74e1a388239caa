//! The tasks that wait for an agent: by whom they may be run, by priority, by age.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Agent, AgentId, TaskId};

/// Who may run a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Target {
    #[default]
    Any,
    Agent(AgentId),
    /// Any agent that has all of these labels.
    Labels(Vec<String>),
}

impl Target {
    pub fn admits(&self, agent: &Agent) -> bool {
        match self {
            Target::Any => true,
            Target::Agent(id) => *id == agent.id,
            Target::Labels(labels) => labels.iter().all(|l| agent.labels.contains(l)),
        }
    }
}

/// A task that is put back has a smaller number than those still waiting, and so its old place.
type Lane = BTreeSet<(Reverse<i32>, TaskId)>;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Queue {
    lanes: BTreeMap<Target, Lane>,
}

impl Queue {
    pub fn add(&mut self, target: Target, priority: i32, id: TaskId) {
        self.lanes.entry(target).or_default().insert((Reverse(priority), id));
    }

    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub fn remove(&mut self, target: &Target, priority: i32, id: TaskId) {
        let Some(lane) = self.lanes.get_mut(target) else {
            return;
        };
        lane.remove(&(Reverse(priority), id));
        if lane.is_empty() {
            self.lanes.remove(target);
        }
    }

    /// The task that this agent should take next.
    pub fn best_for(&self, agent: &Agent) -> Option<TaskId> {
        let firsts = self.lanes.iter().filter(|(target, _)| target.admits(agent)).filter_map(|(_, lane)| lane.first());
        firsts.min().map(|(_, id)| *id)
    }

    /// How many stand before this one in its lane.
    pub fn before(&self, target: &Target, priority: i32, id: TaskId) -> u64 {
        self.lanes.get(target).map_or(0, |lane| lane.range(..(Reverse(priority), id)).count() as u64)
    }
}
