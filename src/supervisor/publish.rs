//! The board, kept as the state is: what a turn changed is written at its end, before anybody is told.
//! Invariant: nothing here is read back to decide anything. A board that cannot be written costs those who read it, and
//! nobody else.

use std::path::Path;

use super::core::Core;
use crate::error::reason;
use crate::model::{self, Agent, AgentId, Course, Event, State};
use crate::store::board::{AgentRow, HiveRow, Name, Sharing, Tokens, Writer};
use crate::sys::process;

/// Agents, each once, in the order in which they came.
#[derive(Default)]
struct Set {
    list: Vec<AgentId>,
    has: Vec<bool>,
}

impl Set {
    #[inline]
    fn add(&mut self, agent: AgentId) {
        let at = agent.0 as usize;
        if at >= self.has.len() {
            self.has.resize(at + 1, false);
        }
        if !std::mem::replace(&mut self.has[at], true) {
            self.list.push(agent);
        }
    }

    fn has(&self, agent: AgentId) -> bool {
        self.has.get(agent.0 as usize).is_some_and(|has| *has)
    }

    fn clear(&mut self) {
        self.list.drain(..).for_each(|agent| self.has[agent.0 as usize] = false);
    }
}

/// What has changed since the board was last written.
#[derive(Default)]
pub struct Changes {
    agents: Set,
    heard: Set,
    all: bool,
}

impl Changes {
    pub fn all() -> Changes {
        Changes { all: true, ..Changes::default() }
    }

    /// Takes note of whom an event is about, before it is applied.
    #[inline]
    pub fn note(&mut self, state: &State, event: &Event) {
        let holder = |task| state.tasks.get(task).and_then(|task| task.agent());
        let agent = match event {
            Event::AgentAdded { agent }
            | Event::AgentRemoved { agent }
            | Event::Hosted { agent, .. }
            | Event::Started { agent, .. }
            | Event::Ready { agent, .. }
            | Event::Lost { agent, .. }
            | Event::Restarting { agent, .. }
            | Event::Leaving { agent }
            | Event::Overdue { agent }
            | Event::Assigned { agent, .. }
            | Event::Checkpointed { agent, .. }
            | Event::AskedToRest { agent, .. }
            | Event::Rested { agent, .. }
            | Event::RestMissed { agent }
            | Event::WentOn { agent, .. } => Some(*agent),
            Event::Progress { task, .. } | Event::Usage { task, .. } | Event::PutBack { task, .. } => holder(*task),
            Event::Ended { ended, .. } => ended.agent,
            Event::Led { .. } | Event::Repaired { .. } | Event::Stopping { .. } | Event::Stopped => {
                self.all = true;
                None
            }
            // These change what is to be, and not what a row shows.
            Event::Configured { .. }
            | Event::Retiring { .. }
            | Event::Rolling { .. }
            | Event::Submitted { .. }
            | Event::Ending { .. }
            | Event::Forced { .. }
            | Event::GivenUp { .. }
            | Event::BarrierBegan { .. }
            | Event::BarrierComplete { .. }
            | Event::BarrierFailed { .. }
            | Event::Injected { .. }
            | Event::Awaited { .. }
            | Event::AwaitedAll { .. }
            | Event::AwaitedRoom { .. }
            | Event::AwaitedReady { .. } => None,
        };
        if let Some(agent) = agent {
            self.agents.add(agent);
        }
    }

    /// An agent, or its host, has said something.
    #[inline]
    pub fn heard(&mut self, agent: AgentId) {
        self.heard.add(agent);
    }
}

/// What the board shows beside the state.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Beside {
    pub since: i64,
    pub malformed: u64,
    pub clients_cut: u64,
}

pub struct Publisher {
    board: Writer,
    pid: i32,
    /// As it was written last.
    beside: Beside,
}

impl Publisher {
    pub fn open(path: &Path) -> std::io::Result<Publisher> {
        Ok(Publisher { board: Writer::open(path)?, pid: process::my_pid().0, beside: Beside::default() })
    }

    /// Another file takes its place.
    pub fn replace(&mut self, path: &Path) -> std::io::Result<()> {
        let new = Writer::open(path)?;
        std::mem::replace(&mut self.board, new).close();
        Ok(())
    }

    pub fn close(&mut self) {
        self.board.close();
    }

    /// Writes what the turn changed.
    pub fn publish(&mut self, core: &mut Core, beside: Beside, recorded: bool) {
        let changes = &mut core.changes;
        if !recorded && changes.heard.list.is_empty() && beside == self.beside {
            return;
        }
        self.beside = beside;
        let now = core.now.wall;
        if std::mem::take(&mut changes.all) {
            self.write_all(&core.state);
        }
        let only_heard = changes.heard.list.iter().filter(|agent| !changes.agents.has(**agent));
        for id in changes.agents.list.iter().chain(only_heard) {
            let heard = changes.heard.has(*id).then_some(now);
            self.write_agent(&core.state, *id, heard);
        }
        changes.agents.clear();
        changes.heard.clear();
        self.board.write_hive(&hive_row(core, beside, self.pid));
    }

    fn write_all(&mut self, state: &State) {
        for id in (1..=self.board.rows()).map(AgentId).filter(|id| !state.agents.contains_key(id)) {
            self.board.clear_agent(id.0);
        }
        state.agents.keys().for_each(|id| self.write_agent(state, *id, None));
    }

    fn write_agent(&mut self, state: &State, id: AgentId, heard: Option<i64>) {
        if !self.board.has_row(id.0)
            && let Err(e) = self.board.grow(id.0 as usize)
        {
            eprintln!("hivectl: the board has no room for agent {id}: {}", reason(&e));
            return;
        }
        match state.agents.get(&id) {
            Some(agent) => {
                let heard = heard.unwrap_or_else(|| self.board.heard(id.0));
                self.board.write_agent(&agent_row(state, agent, heard));
            }
            None => self.board.clear_agent(id.0),
        }
    }
}

fn hive_row(core: &Core, beside: Beside, pid: i32) -> HiveRow {
    let state = &core.state;
    let counts = &state.counts;
    HiveRow {
        pid,
        term: core.log.term.0,
        since: beside.since,
        state: Name::of(match state.course {
            Course::Running => "running",
            Course::Stopping { .. } => "stopping",
            Course::Stopped => "stopped",
        }),
        agents: state.agents.len() as u64,
        queued: counts.queued,
        running: counts.running,
        done: counts.done,
        failed: counts.failed,
        cancelled: counts.cancelled,
        last_task: state.last_task.0,
        records: core.recorded().0,
        malformed: beside.malformed,
        clients_cut: beside.clients_cut,
        tokens: tokens(&state.used),
        shared: sharing(&state.shared),
        updated: core.now.wall,
    }
}

fn agent_row(state: &State, agent: &Agent, heard: i64) -> AgentRow {
    let task = agent.held.front().copied();
    AgentRow {
        id: agent.id.0,
        state: Name::of(agent.state_name()),
        task: task.map(|task| task.0),
        since: agent.since.wall,
        progress: task.and_then(|task| state.tasks.get(task)).and_then(|task| task.percent),
        held: agent.held.len() as u64,
        tokens: tokens(&agent.used),
        pid: agent.host.map(|host| host.pid),
        workload: agent.workload.filter(|_| agent.is_ready()),
        restarts: u64::from(agent.restarts),
        heard,
        shared: sharing(&agent.shared),
    }
}

fn tokens(used: &model::Usage) -> Tokens {
    Tokens { input: used.input, output: used.output, cache: used.cache, usd_micros: used.usd_micros }
}

fn sharing(shared: &model::Shared) -> Sharing {
    Sharing { asked: shared.asked, sent: shared.sent }
}
