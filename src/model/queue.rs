//! The tasks that wait for an agent: by whom they may be run, by priority, by age.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
type Place = (Reverse<i32>, TaskId);

/// Tasks that the same agents may run.
#[derive(Debug, Clone, Default)]
struct Lane {
    /// Those of no priority, in the order they came: nearly all.
    usual: VecDeque<TaskId>,
    /// Those with one, and those that were put back.
    others: BTreeSet<Place>,
}

/// Two lanes are the same if the same tasks wait in them: which were put back does not matter.
impl PartialEq for Lane {
    fn eq(&self, other: &Lane) -> bool {
        let all = |lane: &Lane| lane.firsts(usize::MAX).collect::<BTreeSet<Place>>();
        self.len() == other.len() && all(self) == all(other)
    }
}

impl Lane {
    fn add(&mut self, place: Place) {
        match place {
            (Reverse(0), id) if self.usual.back().is_none_or(|last| *last < id) => self.usual.push_back(id),
            _ => drop(self.others.insert(place)),
        }
    }

    fn remove(&mut self, place: Place) {
        let first = self.usual.front() == Some(&place.1);
        if first {
            self.usual.pop_front();
        } else if !self.others.remove(&place)
            && let Ok(at) = self.usual.binary_search(&place.1)
        {
            self.usual.remove(at);
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.usual.len() + self.others.len()
    }

    /// The first so many of the usual ones and of the others: the first of all are among them.
    fn firsts(&self, count: usize) -> impl Iterator<Item = Place> {
        let usual = self.usual.iter().take(count).map(|id| (Reverse(0), *id));
        usual.chain(self.others.iter().take(count).copied())
    }

    fn before(&self, place: Place) -> usize {
        self.others.range(..place).count() + self.usual.partition_point(|id| (Reverse(0), *id) < place)
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Queue {
    /// For any agent: nearly all, so their lane always stands.
    any: Lane,
    /// For some: none of these lanes is empty.
    some: BTreeMap<Target, Lane>,
}

impl Queue {
    pub fn add(&mut self, target: &Target, priority: i32, id: TaskId) {
        let lane = match target {
            Target::Any => &mut self.any,
            target => self.some.entry(target.clone()).or_default(),
        };
        lane.add((Reverse(priority), id));
    }

    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.some.is_empty()
    }

    pub fn len(&self) -> usize {
        self.any.len() + self.some.values().map(Lane::len).sum::<usize>()
    }

    pub fn remove(&mut self, target: &Target, priority: i32, id: TaskId) {
        let place = (Reverse(priority), id);
        if *target == Target::Any {
            return self.any.remove(place);
        }
        let Some(lane) = self.some.get_mut(target) else { return };
        lane.remove(place);
        if lane.is_empty() {
            self.some.remove(target);
        }
    }

    /// The tasks that this agent should take next, at most so many.
    pub fn best_for(&self, agent: &Agent, count: usize) -> Vec<TaskId> {
        let lanes = self.some.iter().filter(|(target, _)| target.admits(agent)).map(|(_, lane)| lane);
        let mut places: Vec<Place> = lanes.chain([&self.any]).flat_map(|lane| lane.firsts(count)).collect();
        places.sort_unstable();
        places.into_iter().take(count).map(|(_, id)| id).collect()
    }

    /// How many stand before this one in its lane.
    pub fn before(&self, target: &Target, priority: i32, id: TaskId) -> u64 {
        let lane = if *target == Target::Any { Some(&self.any) } else { self.some.get(target) };
        lane.map_or(0, |lane| lane.before((Reverse(priority), id)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Now, Spec};
    use super::*;

    #[test]
    fn priority_goes_first_then_age_whoever_may_run_it() {
        let agent = |n| Agent::new(AgentId(n), Arc::new(Spec::default()), Now::default());
        let mut queue = Queue::default();
        let mine = Target::Agent(AgentId(1));
        for (id, priority, target) in [
            (2, 0, &Target::Any),
            (4, 0, &mine),
            (5, 0, &Target::Any),
            (6, -1, &Target::Any),
            (7, 3, &mine),
            (8, 0, &Target::Any),
        ] {
            queue.add(target, priority, TaskId(id));
        }
        // Put back.
        queue.add(&Target::Any, 0, TaskId(1));
        let best = |queue: &Queue, n, count| queue.best_for(&agent(n), count).iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(best(&queue, 1, 9), [7, 1, 2, 4, 5, 8, 6]);
        assert_eq!(best(&queue, 2, 3), [1, 2, 5]);
        assert_eq!((queue.len(), queue.before(&Target::Any, 0, TaskId(8))), (7, 3));
        queue.remove(&Target::Any, 0, TaskId(5));
        queue.remove(&mine, 3, TaskId(7));
        assert_eq!(best(&queue, 1, 2), [1, 2]);
        assert_eq!(best(&queue, 1, 9), [1, 2, 4, 8, 6]);
        for (id, priority, target) in
            [(1, 0, &Target::Any), (2, 0, &Target::Any), (4, 0, &mine), (6, -1, &Target::Any), (8, 0, &Target::Any)]
        {
            queue.remove(target, priority, TaskId(id));
        }
        assert!(queue.is_empty());
    }
}
