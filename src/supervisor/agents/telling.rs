//! What agents are told beside "do this" and "give it up": checkpoints, instructions, pauses; and the ring for all hosts.
//! Invariant: a bell is rung after what it stands for is there to be read. Only hosts hear the group's signals; a
//! workload is rung for by its host alone, and only one that asked for it.

use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;

use super::Agents;
use crate::model::{AgentId, BarrierId, Seq, State, Task, Tell};
use crate::sys::process;
use crate::wire::agent;
use crate::wire::host::Command;

/// A task's line, and before it what belongs to the task: the checkpoint that it goes on from, what else it was told.
pub fn write_task(out: &mut Vec<u8>, state: &State, to: AgentId, task: &Task) {
    if let Some(content) = state.restores(to, task.id) {
        agent::restore(out, content);
    }
    for text in state.instructions_for(task.id) {
        agent::tell(out, &Tell::Inject(task.id, text.clone()));
    }
    agent::task(out, task.id.0, &task.text);
}

impl Agents {
    pub fn tell(&mut self, id: AgentId, what: &Tell, state: &State) {
        let Some(out) = self.inbox(id) else { return };
        agent::tell(out, what);
        // The commands are flushed after the lines.
        if state.agents.get(&id).is_some_and(|agent| agent.can("usr1")) {
            self.command(id, &Command::Ring);
        }
    }

    /// All hosts at once: which barrier it is stands in the file that they share.
    pub fn ring(&mut self, barrier: BarrierId) {
        self.show(barrier);
        self.signal_all(Signal::SIGUSR1);
    }

    pub fn release(&mut self) {
        self.show(BarrierId(0));
        self.signal_all(Signal::SIGUSR2);
    }

    /// A few bytes of memory are there: they are written whole.
    fn show(&self, barrier: BarrierId) {
        let _ = self.shared.barrier.write_all_at(&barrier.0.to_ne_bytes(), 0);
    }

    fn signal_all(&mut self, signal: Signal) {
        for group in self.groups() {
            let _ = process::signal_group(group, signal);
        }
    }

    /// Up to which record every agent has been told what it was to be told, given that a turn up to `recorded` was flushed.
    pub fn told(&mut self, recorded: Seq) -> Seq {
        self.flushed = recorded;
        self.behind.retain(|id, _| self.links.contains_key(id));
        self.behind.values().copied().min().unwrap_or(recorded)
    }
}
