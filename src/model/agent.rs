//! An agent: a numbered place, what runs there, and what it is doing; and how events change that.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::{Loss, StopMode, Then};
use super::{AgentId, Deadline, Effect, Generation, Limit, Limits, Now, Seen, Shared, State, TaskId, Usage};
use crate::error::Code;
use crate::limits;

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
    /// How long hosts live on without a supervisor.
    pub orphan_grace_us: i64,
    pub limits: Limits,
}

impl Spec {
    /// Whether agents of either are the same to those who give them tasks.
    pub fn runs_the_same_as(&self, other: &Spec) -> bool {
        *self
            == Spec {
                surroundings: self.surroundings.clone(),
                max_queued: self.max_queued,
                stop_grace_us: self.stop_grace_us,
                start_patience_us: self.start_patience_us,
                orphan_grace_us: self.orphan_grace_us,
                ..other.clone()
            }
    }
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
    Ready,
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
    /// The program's process, where there is one of its own.
    pub workload: Option<i32>,
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
    /// The contexts that its workload was told of.
    pub seen: Seen,
    pub shared: Shared,
    pub used: Usage,
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
            workload: None,
            held: VecDeque::new(),
            retire: None,
            since: at,
            restarts: 0,
            deaths: VecDeque::new(),
            abilities: Vec::new(),
            seen: Seen::default(),
            shared: Shared::default(),
            used: Usage::default(),
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
        matches!(self.phase, Phase::Ready)
    }

    /// Settled means that waiting for it any longer makes no sense: it is ready and to stay so, parked, or to go for good.
    pub fn is_settled(&self) -> bool {
        match self.retire {
            Some(Retire::Remove) => true,
            Some(Retire::Restart) => false,
            // It may say that it is ready before its host has said what it is.
            None if self.is_ready() => self.spec.kind != Kind::Lines || self.workload.is_some(),
            None => matches!(self.phase, Phase::Parked { .. }),
        }
    }

    /// Whether its workload passed a limit of its own over a task, which is the task's failure and not the agent's.
    pub fn fails_its_work(&self, loss: &Loss) -> bool {
        let works = !self.spec.kind.is_hosted() && self.is_ready() && !self.held.is_empty();
        works && loss.limit.is_some_and(Limit::is_its_own)
    }

    /// The word that people and scripts see.
    pub fn state_name(&self) -> &'static str {
        match self.phase {
            Phase::Starting { .. } | Phase::Backoff { .. } => "starting",
            Phase::Ready if self.held.is_empty() => "idle",
            Phase::Ready => "busy",
            Phase::Parked { .. } => "parked",
            Phase::Leaving => "stopping",
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match &self.phase {
            Phase::Backoff { reason, .. } | Phase::Parked { reason } => Some(reason),
            Phase::Starting { .. } | Phase::Ready | Phase::Leaving => None,
        }
    }
}

impl State {
    pub(super) fn with_agent(&mut self, id: AgentId, change: impl FnOnce(&mut Agent)) {
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        change(agent);
        self.find_room(id);
    }

    /// Puts the agent among those that can take a task, or takes it out. One that holds several is filled up again only
    /// when it is down to half, so that it is woken once for many tasks.
    pub(super) fn find_room(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else { return };
        let held = agent.held.len() as u32;
        let capacity = agent.capacity();
        let kept_free = self.is_in_barrier(id) || self.steering.rests.contains_key(&id);
        let takes = agent.is_ready() && agent.retire.is_none() && !kept_free;
        let key = (held, id);
        if takes && held <= capacity / 2 && held < capacity {
            self.room.insert(key);
        } else if !takes || held >= capacity {
            self.room.remove(&key);
        }
    }

    pub(super) fn expect_ready(&mut self, at: Now, id: AgentId) {
        let Some(patience) = self.agents.get(&id).map(|a| a.spec.start_patience_us) else {
            return;
        };
        self.deadlines.insert((at.mono + patience, Deadline::Start(id)));
    }

    pub(super) fn clear_agent_deadlines(&mut self, id: AgentId) {
        self.deadlines.retain(|(_, what)| *what != Deadline::Start(id) && *what != Deadline::Restart(id));
    }

    pub(super) fn agent_added(&mut self, at: Now, id: AgentId, out: &mut Vec<Effect>) {
        self.agents.insert(id, Agent::new(id, self.spec.clone(), at));
        self.expect_ready(at, id);
        out.push(Effect::SpawnHost { agent: id, generation: Generation(1) });
    }

    pub(super) fn agent_ready(
        &mut self,
        at: Now,
        id: AgentId,
        workload: Option<i32>,
        abilities: Vec<String>,
        labels: Vec<String>,
    ) {
        self.clear_agent_deadlines(id);
        self.with_agent(id, |agent| {
            agent.phase = Phase::Ready;
            agent.workload = workload.or(agent.workload);
            agent.since = at;
            agent.abilities = abilities;
            agent.labels = agent.spec.labels.iter().cloned().chain(labels).collect();
        });
    }

    pub(super) fn agent_lost(&mut self, at: Now, id: AgentId, loss: Loss, then: Then, out: &mut Vec<Effect>) {
        self.clear_agent_deadlines(id);
        self.left_off(id, &loss.cause, out);
        if loss.host {
            out.push(Effect::CleanUp { agent: id });
        }
        let reason = loss.in_words();
        let until = at.mono + if let Then::Retry(after) = then { after } else { 0 };
        self.with_agent(id, |agent| {
            agent.since = at;
            agent.workload = None;
            agent.seen.clear();
            if loss.host {
                agent.host = None;
            }
            match then {
                Then::Retry(_) | Then::Park => {
                    agent.deaths.push_back(at.mono);
                    let oldest = at.mono - limits::DEATHS_WINDOW.as_micros() as i64;
                    agent.deaths.retain(|death| *death >= oldest);
                }
                Then::Again | Then::Remove => {}
            }
            agent.phase = match then {
                // It was parked before: that is still the reason.
                Then::Park if matches!(agent.phase, Phase::Parked { .. }) => agent.phase.clone(),
                Then::Park => Phase::Parked { reason },
                Then::Retry(_) | Then::Again => Phase::Backoff { until, reason },
                Then::Remove => Phase::Leaving,
            };
        });
        match then {
            Then::Retry(_) | Then::Again => drop(self.deadlines.insert((until, Deadline::Restart(id)))),
            Then::Park => self.tell_settled(out),
            // Its workload went first; the host is still to go.
            Then::Remove if !loss.host => out.push(Effect::EndHost { agent: id, mode: StopMode::Clean }),
            Then::Remove => {}
        }
    }

    pub(super) fn agent_retiring(&mut self, id: AgentId, remove: bool) {
        self.rolling.retain(|rolling| *rolling != id);
        if self.agents.contains_key(&id) {
            self.retiring.insert(id);
        }
        self.with_agent(id, |a| a.retire = Some(if remove { Retire::Remove } else { Retire::Restart }));
    }

    pub(super) fn agent_restarting(&mut self, at: Now, id: AgentId, generation: Generation, out: &mut Vec<Effect>) {
        self.clear_agent_deadlines(id);
        self.left_off(id, "it is started anew", out);
        let spec = self.spec.clone();
        let mut hosted = false;
        self.with_agent(id, |agent| {
            hosted = agent.host.is_some();
            agent.phase = Phase::Starting { overdue: false };
            agent.workload = None;
            agent.since = at;
            agent.generation = generation;
            agent.seen.clear();
            agent.restarts += 1;
            agent.retire = None;
            if !hosted {
                agent.spec = spec;
            }
        });
        self.retiring.remove(&id);
        self.expect_ready(at, id);
        out.push(match hosted {
            true => Effect::StartWorkload { agent: id, generation },
            false => Effect::SpawnHost { agent: id, generation },
        });
    }

    /// Nothing more is heard of what it did: nobody waits for that.
    pub(super) fn left_off(&mut self, id: AgentId, cause: &str, out: &mut Vec<Effect>) {
        self.lost_to_barrier(id, cause);
        self.end_rest(id, Code::Unable, cause, out);
    }

    pub(super) fn agent_removed(&mut self, id: AgentId, out: &mut Vec<Effect>) {
        self.clear_agent_deadlines(id);
        self.left_off(id, "it was taken out of the pool", out);
        self.steering.waiting.remove(&id);
        self.retiring.remove(&id);
        self.rolling.retain(|rolling| *rolling != id);
        if let Some(agent) = self.agents.remove(&id) {
            self.room.remove(&(agent.held.len() as u32, id));
        }
        self.tell_settled(out);
    }
}
