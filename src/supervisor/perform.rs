//! Does what recorded events made necessary. Nothing here decides.

use mio::Poll;

use super::{Hive, agents};
use crate::model::Effect;
use crate::wire::host::Command;
use crate::wire::{agent, answer};

impl Hive {
    /// Performs the turn's effects. What that brings about by itself (a host was started) is recorded next turn.
    pub(super) fn perform(&mut self, poll: &Poll) {
        let mut effects = std::mem::take(&mut self.core.effects);
        for effect in effects.drain(..) {
            // Hosts that come one after the other are started together.
            if !matches!(effect, Effect::SpawnHost { .. }) {
                self.agents.start_hosts(&mut self.core, poll);
            }
            self.perform_one(effect);
        }
        self.agents.start_hosts(&mut self.core, poll);
        // Effects that came about meanwhile stay for the next turn.
        if self.core.effects.is_empty() {
            self.core.effects = effects;
        }
    }

    fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::Answer { to, body } => {
                let (state, recorded) = (&self.core.state, self.core.recorded());
                self.clients.answer(&to, recorded, |out| answer::body(out, &to.tag, state, &body));
            }
            Effect::SendContext { agent: id, task, name, digest, diff } => {
                let diff = diff.as_ref().map(|diff| (diff.base.as_ref(), diff.digest.as_ref()));
                if let Some(out) = self.agents.inbox(id) {
                    agent::context(out, task.0, &name, &digest, diff);
                }
            }
            Effect::SendTask { agent: id, task, attempt } => {
                let state = &self.core.state;
                let hosted = state.agents.get(&id).is_some_and(|a| a.spec.kind.is_hosted());
                // A task is not forgotten in the turn in which it was given.
                let (Some(task), Some(out)) = (state.tasks.get(task), self.agents.inbox(id)) else {
                    return;
                };
                if hosted {
                    agent::with(out, task.id.0, attempt, task.surroundings().map(|name| name.as_ref()));
                }
                if hosted {
                    agent::task(out, task.id.0, &task.text);
                } else {
                    agents::write_task(out, state, id, task);
                    self.agents.delivers(id, task.id, attempt);
                }
            }
            Effect::SendCancel { agent: id, task } => {
                if let Some(out) = self.agents.inbox(id) {
                    agent::cancel(out, task.0);
                }
            }
            Effect::Tell { agent, what } => self.agents.tell(agent, &what, &self.core.state),
            Effect::RingHosts { barrier } => self.agents.ring(barrier),
            Effect::ReleaseHosts => self.agents.release(),
            Effect::SpawnHost { agent, generation } => self.agents.will_start_host(agent, generation),
            Effect::StartWorkload { agent, generation } => self.agents.start_workload(agent, generation),
            Effect::EndTask { agent, task } => self.agents.command(agent, &Command::End(task.0)),
            Effect::KillHost { agent } => self.agents.kill_host(agent),
            Effect::EndHost { agent, mode } => self.agents.command(agent, &Command::Stop(mode)),
            Effect::EndAllHosts { mode } => self.agents.end_all(mode),
            Effect::CleanUp { agent } => self.agents.clean_up(Some(agent)),
            Effect::Exit => {
                self.agents.clean_up(None);
                self.exit = true;
            }
        }
    }
}
