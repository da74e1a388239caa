//! All tasks by number. Numbers are consecutive and most work is about the newest, so they lie side by side in chunks:
//! a look-up is one step into a small table, and neighbours share their cache lines.

use std::collections::HashMap;
use std::ops::Index;

use super::{IdHash, Task, TaskId};

const CHUNK: u64 = 32;
/// As many as a turn's requests fill.
const SPARE_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tasks {
    chunks: HashMap<u64, Box<Chunk>, IdHash>,
    /// Empty ones: where tasks are forgotten as fast as new ones come, the same memory goes round.
    spare: Vec<Box<Chunk>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Chunk {
    slots: [Option<Task>; CHUNK as usize],
    used: u64,
}

impl Tasks {
    pub fn get(&self, id: TaskId) -> Option<&Task> {
        self.chunks.get(&(id.0 / CHUNK))?.slots[(id.0 % CHUNK) as usize].as_ref()
    }

    pub fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.chunks.get_mut(&(id.0 / CHUNK))?.slots[(id.0 % CHUNK) as usize].as_mut()
    }

    /// A new number: each is given once.
    pub fn insert(&mut self, task: Task) {
        let id = task.id.0;
        let empty = || Box::new(Chunk { slots: [const { None }; CHUNK as usize], used: 0 });
        let spare = &mut self.spare;
        let chunk = self.chunks.entry(id / CHUNK).or_insert_with(|| spare.pop().unwrap_or_else(empty));
        chunk.used += 1;
        chunk.slots[(id % CHUNK) as usize] = Some(task);
    }

    pub fn remove(&mut self, id: TaskId) -> Option<Task> {
        let key = id.0 / CHUNK;
        let chunk = self.chunks.get_mut(&key)?;
        let task = chunk.slots[(id.0 % CHUNK) as usize].take()?;
        chunk.used -= 1;
        if chunk.used == 0 {
            let empty = self.chunks.remove(&key).filter(|_| self.spare.len() < SPARE_MAX);
            self.spare.extend(empty);
        }
        Some(task)
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = &Task> {
        self.chunks.values().flat_map(|chunk| chunk.slots.iter().flatten())
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Task> {
        self.chunks.values_mut().flat_map(|chunk| chunk.slots.iter_mut().flatten())
    }

    /// The numbers from `from` on, in order.
    pub fn ids_from(&self, from: u64) -> Vec<TaskId> {
        let mut ids: Vec<TaskId> = self.iter().map(|task| task.id).filter(|id| id.0 >= from).collect();
        ids.sort_unstable();
        ids
    }
}

/// For a task that an agent holds, or that was just found: such a one is always there.
impl Index<TaskId> for Tasks {
    type Output = Task;

    fn index(&self, id: TaskId) -> &Task {
        self.get(id).unwrap_or_else(|| panic!("task {id} is held and must be known"))
    }
}
