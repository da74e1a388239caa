//! What agents and hosts say, and what it means to the model.
//! Invariant: a line counts only for the generation that can have said it; a loss is told after its agent's last words.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::Poll;

use super::{Agents, write_task};
use crate::limits;
use crate::model::{AgentId, BarrierId, Generation, Input, Limit, Loss, State, TaskId};
use crate::store::BoundedLog;
use crate::supervisor::collect::{Line, Overlong, answered_task};
use crate::supervisor::core::Core;
use crate::supervisor::unwatch;
use crate::sys::process::Ending;
use crate::sys::{oom, signal};
use crate::wire::agent::{self, Said};
use crate::wire::host::{Command, News, Report};

impl Agents {
    pub fn host_gone(&mut self, id: AgentId, poll: &Poll, state: &State) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(host) = link.host.take() else { return };
        unwatch(poll, host.as_raw_fd());
        if link.adopted {
            self.left_behind.push((id, host.pid));
        }
        let ending = host.reap();
        let before = std::mem::replace(&mut self.oom_kills, oom::kills());
        let out_of_memory = ending == Some(Ending::Signal(signal::KILL)) && self.oom_kills > before;
        let limit = out_of_memory.then_some(Limit::MachineMemory);
        let cause = match (limit, ending) {
            (Some(_), _) => "its host was taken by the kernel's out-of-memory killer".to_owned(),
            (None, Some(Ending::Signal(n))) => format!("its host was killed by SIG{}", signal::name(n)),
            (None, Some(Ending::Exit(code))) => format!("its host exited with {code}"),
            (None, None) => "its host is gone".to_owned(),
        };
        let generation = state.agents.get(&id).map_or(Generation(0), |a| a.generation);
        self.losses.push_back((id, generation, Loss { host: true, limit, ..Loss::because(cause) }));
    }

    /// The agent of whom there is news that is heeded only after its last words.
    pub fn first_news(&self) -> Option<AgentId> {
        self.losses.front().map(|(id, _, _)| *id).or_else(|| self.waiting.front().copied())
    }

    /// Tells the model. Returns whether the agent's workload is gone.
    pub fn tell_news(&mut self, core: &mut Core) -> bool {
        let Some((agent, generation, loss)) = self.losses.pop_front() else {
            self.settle(&core.state);
            return false;
        };
        if let Some(link) = self.links.get_mut(&agent) {
            link.log = None;
        }
        // A loss is a fact: the model does not refuse it.
        let _ = core.feed(Input::Down { agent, generation, loss });
        true
    }

    /// An agent has read all it was sent, and said all it had to say: a task that it still holds and was perhaps not sent,
    /// was not.
    fn settle(&mut self, state: &State) {
        let Some(id) = self.waiting.pop_front() else { return };
        let (Some(link), Some(agent)) = (self.links.get_mut(&id), state.agents.get(&id)) else { return };
        if agent.held.front().is_none_or(|first| !link.unsettled.contains(first)) {
            return;
        }
        let unsettled = std::mem::take(&mut link.unsettled);
        for task in agent.held.iter().filter(|held| unsettled.contains(held)) {
            let task = &state.tasks[*task];
            for given in task.contexts() {
                agent::context(link.inbox.buffer(), task.id.0, &given.name, &given.digest, None);
            }
            write_task(link.inbox.buffer(), state, id, task);
        }
        self.dirty.push(id);
    }

    pub fn report(&mut self, report: Report, core: &mut Core) {
        let Report { agent, generation, news } = report;
        let current = core.state.agents.get(&agent).is_some_and(|a| a.generation == generation);
        if !current || !self.links.contains_key(&agent) {
            return;
        }
        core.changes.heard(agent);
        let input = match news {
            News::Started(workload) => Input::Started { agent, generation, workload },
            News::Ready(pid) => {
                let workload = Some(pid).filter(|pid| *pid != 0);
                Input::Ready { agent, generation, workload, abilities: Vec::new(), labels: Vec::new() }
            }
            News::Seen(barrier, note) => Input::Seen { agent, generation, barrier, note },
            News::Waits(_) => return self.waiting.push_back(agent),
            News::Down(loss) => return self.losses.push_back((agent, generation, loss)),
        };
        // News of what has been overtaken is no news.
        let _ = core.feed(input);
    }

    /// One line of an agent. Returns whether it was good protocol or plain output.
    pub fn said(&mut self, id: AgentId, line: Line, core: &mut Core) -> bool {
        let bytes = match line {
            Line::Whole(bytes) => bytes,
            Line::Tail(bytes, begun) => {
                self.output_line(id, bytes, &core.state);
                return self.overlong(id, begun, core);
            }
        };
        let Some(agent) = core.state.agents.get(&id) else {
            return true;
        };
        let (hosted, generation) = (agent.spec.kind.is_hosted(), agent.generation);
        core.changes.heard(id);
        let said = match std::str::from_utf8(bytes) {
            Ok(text) => agent::parse(text.strip_suffix('\r').unwrap_or(text), hosted),
            Err(_) => match answered_task(bytes) {
                Some(task) => Said::Fail { task, reason: "its answer is not UTF-8: it must go by reference" },
                None => Said::Output,
            },
        };
        let input = match said {
            Said::Done { task, text } => Input::Done { agent: id, task: TaskId(task), result: text.map(Arc::from) },
            Said::Exited { task, how } => Input::Exited { agent: id, task: TaskId(task), how },
            Said::Fail { task, reason } => Input::Failed { agent: id, task: TaskId(task), reason: reason.into() },
            // With a full disk there is room for what must be kept, and no more.
            Said::Progress { .. } | Said::Usage { .. } | Said::Checkpointed { .. } if !core.is_roomy() => return true,
            Said::Progress { task, percent, text } => {
                Input::Progress { agent: id, task: TaskId(task), percent, text: text.into() }
            }
            Said::Usage { task, fields } => Input::Usage { agent: id, task: TaskId(task), fields: fields.into() },
            Said::Checkpointed { barrier, content } => {
                Input::Checkpointed { agent: id, barrier: BarrierId(barrier), content: content.map(Arc::from) }
            }
            Said::Paused { task, content } => {
                Input::Rests { agent: id, task: TaskId(task), content: content.map(Arc::from) }
            }
            Said::Ready { abilities, labels } => {
                let owned = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect();
                let (abilities, labels) = (owned(abilities), owned(labels));
                Input::Ready { agent: id, generation, workload: None, abilities, labels }
            }
            Said::Pong => return true,
            Said::Malformed(_) => {
                self.output_line(id, bytes, &core.state);
                return false;
            }
            Said::Output => {
                self.output_line(id, bytes, &core.state);
                return true;
            }
        };
        let ends = matches!(input, Input::Done { .. } | Input::Failed { .. });
        let heeded = core.feed(input).is_ok();
        if ends {
            self.ask_to_settle(id, &core.state);
        }
        heeded
    }

    /// The next task has come to the agent's head, and it was perhaps not sent.
    pub(super) fn ask_to_settle(&mut self, id: AgentId, state: &State) {
        let (Some(link), Some(agent)) = (self.links.get(&id), state.agents.get(&id)) else { return };
        if let Some(first) = agent.held.front().filter(|first| link.unsettled.contains(first)) {
            self.command(id, &Command::Settle(first.0));
        }
    }

    /// An answer that is too long ends its task all the same: nobody waits for ever for a line that was refused.
    fn overlong(&mut self, id: AgentId, begun: Overlong, core: &mut Core) -> bool {
        let Overlong::AnswerTo(task) = begun else { return true };
        let reason = format!("its answer was longer than {} bytes: it must go by reference", limits::LINE_MAX);
        let _ = core.feed(Input::Failed { agent: id, task: TaskId(task), reason: reason.into() });
        false
    }

    fn output_line(&mut self, id: AgentId, bytes: &[u8], state: &State) {
        self.output(id, bytes, state);
        self.output(id, b"\n", state);
    }

    /// What an agent prints that is not protocol belongs to its running task, or to itself.
    pub fn output(&mut self, id: AgentId, bytes: &[u8], state: &State) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let Some(task) = state.agents.get(&id).and_then(|a| a.held.front().copied()) else {
            BoundedLog::rotating(self.folders.agent(id).join("log"), limits::AGENT_LOG_MAX).write(bytes);
            return;
        };
        if link.log.as_ref().is_none_or(|(of, _)| *of != task) {
            link.log = Some((task, BoundedLog::cut(self.folders.task_log(task), limits::TASK_LOG_MAX)));
        }
        if let Some((_, log)) = &mut link.log {
            log.write(bytes);
        }
    }
}
