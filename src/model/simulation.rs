//! The model against a pretended world: agents that answer, die, start slowly, and a supervisor that is restarted.
//! One seed is one run; a failure prints its seed. After every event the invariants are checked, and at the end of a run,
//! when the faults have stopped, every accepted task must have ended.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::*;

/// A small generator of numbers: the same seed, the same run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// What runs in an agent's place, as far as the model can see it.
#[derive(Default)]
struct Place {
    generation: Generation,
    hosted: bool,
    up: bool,
    tasks: VecDeque<TaskId>,
    /// Every task that ever reached it.
    heard: BTreeSet<TaskId>,
    /// The contexts that it holds, those that it held before, and the task that made the difference.
    contexts: BTreeMap<Arc<str>, Arc<str>>,
    before: BTreeMap<Arc<str>, Arc<str>>,
    telling: TaskId,
}

struct World {
    dice: Dice,
    state: State,
    log: Vec<(Now, Event)>,
    now: Now,
    places: BTreeMap<AgentId, Place>,
    /// How often each task ended, and how often it began, by what was seen outside.
    ended: HashMap<TaskId, u32>,
    barriers: BTreeMap<BarrierId, u32>,
    begun: HashMap<TaskId, u32>,
    answered: u64,
    asked: u64,
    faults: bool,
    pending: Vec<Input>,
}

fn next(state: &State) -> Option<Event> {
    consequence(state).or_else(|| assignment(state))
}

fn to(world: &mut World) -> ReplyTo {
    world.asked += 1;
    ReplyTo { name: "sim".into(), tag: world.asked.to_string().as_str().into(), watches: false }
}

impl World {
    fn new(seed: u64) -> World {
        World {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            state: State::default(),
            log: Vec::new(),
            now: Now { mono: 1, wall: 1 },
            places: BTreeMap::new(),
            ended: HashMap::new(),
            barriers: BTreeMap::new(),
            begun: HashMap::new(),
            answered: 0,
            asked: 0,
            faults: true,
            pending: Vec::new(),
        }
    }

    fn feed(&mut self, input: Input) -> Result<(), Refusal> {
        let verdict = self.take(input);
        self.settle();
        verdict
    }

    fn take(&mut self, input: Input) -> Result<(), Refusal> {
        let mut events = Vec::new();
        decide(&self.state, self.now, input, &mut events)?;
        events.into_iter().for_each(|event| self.commit(event));
        Ok(())
    }

    fn settle(&mut self) {
        while let Some(event) = expired(&self.state, self.now).or_else(|| next(&self.state)) {
            self.commit(event);
        }
        self.check();
        for input in std::mem::take(&mut self.pending) {
            let _ = self.feed(input);
        }
    }

    fn commit(&mut self, event: Event) {
        if let Event::Ended { task, .. } = &event {
            *self.ended.entry(*task).or_default() += 1;
        }
        match &event {
            Event::BarrierBegan { barrier, .. } => drop(self.barriers.insert(*barrier, 0)),
            Event::BarrierComplete { barrier, .. } | Event::BarrierFailed { barrier, .. } => {
                *self.barriers.entry(*barrier).or_default() += 1;
            }
            Event::Assigned { agent, .. } => {
                let rests = self.state.steering.rests.contains_key(agent);
                let named = self.state.barrier.as_ref().is_some_and(|open| open.members.contains_key(agent));
                assert!(!rests && !named, "agent {agent} is given nothing while it rests or a barrier is open");
            }
            _ => {}
        }
        self.log.push((self.now, event.clone()));
        let mut effects = Vec::new();
        self.state.apply(self.now, event, &mut effects);
        effects.into_iter().for_each(|effect| self.perform(effect));
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::SpawnHost { agent, generation } => {
                self.places.insert(agent, Place { generation, hosted: true, ..Place::default() });
                let host = HostId { pid: 100 + agent.0 as i32, start_ticks: 1 };
                self.pending.push(Input::Hosted { agent, generation, host });
            }
            Effect::StartWorkload { agent, generation } => {
                let place = self.places.entry(agent).or_default();
                *place = Place { generation, hosted: true, ..Place::default() };
            }
            Effect::SendContext { agent, task, name, digest, diff } => {
                let place = self.places.entry(agent).or_default();
                if place.telling != task {
                    (place.telling, place.before) = (task, place.contexts.clone());
                }
                let held = place.contexts.insert(name, digest);
                assert!(diff.is_none_or(|diff| Some(diff.base) == held), "a difference to what agent {agent} holds");
            }
            Effect::SendTask { agent, task, attempt, .. } => {
                let begun = self.begun.entry(task).or_default();
                assert!(attempt <= *begun + 1, "task {task}: attempt {attempt} after {begun} beginnings");
                *begun = attempt;
                let place = self.places.entry(agent).or_default();
                for given in self.state.tasks.get(task).into_iter().flat_map(Task::contexts) {
                    assert_eq!(place.contexts.get(&given.name), Some(&given.digest), "task {task} on agent {agent}");
                }
                place.tasks.push_back(task);
                place.heard.insert(task);
            }
            Effect::EndTask { agent, .. } => self.pending.push(self.death(agent, false)),
            Effect::KillHost { agent } => self.pending.push(self.death(agent, true)),
            Effect::EndHost { agent, .. } => self.pending.push(self.death(agent, true)),
            Effect::EndAllHosts { .. } => {
                let ids: Vec<AgentId> = self.places.keys().copied().collect();
                ids.into_iter().for_each(|id| self.pending.push(self.death(id, true)));
            }
            Effect::Answer { .. } => self.answered += 1,
            Effect::Tell { agent, what } => self.told(agent, what),
            Effect::RingHosts { .. } | Effect::ReleaseHosts => {}
            Effect::SendCancel { .. } | Effect::CleanUp { .. } | Effect::Exit => {}
        }
    }

    fn death(&self, agent: AgentId, host: bool) -> Input {
        let generation = self.places.get(&agent).map_or(Generation(0), |p| p.generation);
        let limit = [None, Some(Limit::Memory), Some(Limit::MachineMemory)][generation.0 as usize % 3];
        Input::Down { agent, generation, loss: Loss { host, limit, ..Loss::because("sim") } }
    }

    /// What must hold after every event.
    fn check(&self) {
        let state = &self.state;
        let of = |name: &str| state.tasks.iter().filter(|t| t.state_name() == name).count() as u64;
        assert_eq!((state.counts.queued, state.counts.running), (of("queued"), of("running") + of("paused")), "counts");
        for agent in state.agents.values() {
            assert!(agent.held.len() as u32 <= agent.capacity(), "agent {} holds too much", agent.id);
            for (n, id) in agent.held.iter().enumerate() {
                let task = &state.tasks[*id];
                assert_eq!(task.agent(), Some(agent.id), "task {id} is held by {}", agent.id);
                assert_eq!(matches!(task.state, TaskState::Running { .. }), n == 0, "only the first runs: {id}");
            }
        }
        let held: usize = state.agents.values().map(|a| a.held.len()).sum();
        let placed = state.tasks.iter().filter(|t| t.ended().is_none() && t.agent().is_some()).count();
        assert_eq!(held, placed, "no task is with an agent that does not know it");
        let live = |id: &TaskId| state.tasks.get(*id).is_some_and(|task| task.ended().is_none());
        assert!(state.steering.checkpoints.keys().all(live), "a checkpoint of a task that has ended");
        assert!(state.steering.instructions.keys().all(live), "an instruction to a task that has ended");
        for (id, rest) in &state.steering.rests {
            assert!(state.agents[id].is_ready(), "agent {id} rests and is not ready");
            if let Rest::Reached { task, .. } = rest {
                assert_eq!(*task, state.agents[id].held.front().copied(), "agent {id} rests at what it holds");
            }
        }
        let open = state.barrier.as_ref().map(|open| open.id);
        assert!(self.barriers.iter().all(|(id, ends)| *ends == u32::from(Some(*id) != open)), "a barrier ends once");
        assert!(self.ended.values().all(|n| *n == 1), "a task ended twice");
        assert!(state.tasks.iter().all(|t| t.deaths <= t.retries() + 1), "attempts within limits");
    }

    fn replays_to_the_same(&self) {
        let mut again = State::default();
        for (at, event) in &self.log {
            replay(&mut again, *at, event.clone());
        }
        assert!(again == self.state, "the state is the fold of its log");
        let anywhere = self.begun.len() * 37 % (self.log.len() + 1);
        crate::record::snapshot::tests::holds_at(anywhere, &self.log);
    }

    fn step(&mut self) {
        self.now.mono += self.dice.roll(400_000) as i64;
        self.now.wall = self.now.mono;
        let agents = self.state.agents.len().max(1) as u64;
        let agent = AgentId(1 + self.dice.roll(agents) as u32);
        match self.dice.roll(if self.faults { 29 } else { 12 }) {
            0..=4 if self.faults => self.submit(),
            0..=8 => self.work(agent),
            9..=11 => self.come_up(agent),
            12 | 13 => drop(self.feed(self.death(agent, false))),
            14 => drop(self.feed(self.death(agent, true))),
            15 | 16 => {
                let task = TaskId(1 + self.dice.roll(self.state.last_task.0 + 1));
                let _ = self.feed(Input::Cancel { task });
            }
            17 => {
                let (count, to) = (1 + self.dice.roll(6) as u32, Some(to(self)));
                let _ = self.feed(Input::Scale { count, to });
            }
            18 => {
                let agent = if self.dice.one_in(2) { Some(agent) } else { None };
                let (rolling, to) = (self.dice.one_in(2), Some(to(self)));
                let _ = self.feed(Input::Restart { agent, rolling, to });
            }
            19 => {
                let to = to(self);
                let _ = self.feed(Input::Wait { what: WaitFor::All, to });
            }
            20 if self.dice.one_in(4) => {
                let standby = self.dice.one_in(2);
                self.new_leader(standby);
            }
            21 => self.now.mono += 20_000_000,
            22 | 23 => self.begin_barrier(agent),
            24 => {
                let (whom, now, to) = (self.anybody(agent), self.dice.one_in(2), Some(to(self)));
                let _ = self.feed(Input::Inject { whom, text: "x".into(), now, to });
            }
            25 => {
                let within_us = 1 + self.dice.roll(3_000_000) as i64;
                let to = Some(to(self));
                let _ = self.feed(Input::Rest { agent, within_us, to });
            }
            26 => {
                let (text, to) = (self.dice.one_in(2).then(|| "x".into()), Some(to(self)));
                let _ = self.feed(Input::Resume { agent, text, to });
            }
            _ => self.settle(),
        }
        // Time passes for deadlines too.
        self.settle();
    }

    fn submit(&mut self) {
        let mut options = Options::default();
        if self.dice.one_in(3) {
            options.priority = self.dice.roll(3) as i32 - 1;
        }
        if self.dice.one_in(4) {
            options.timeout_us = Some(1 + self.dice.roll(2_000_000) as i64);
        }
        if self.dice.one_in(4) {
            options.retries = Some(self.dice.roll(2) as u32);
        }
        if self.dice.one_in(3) {
            options.contexts = self.contexts();
        }
        if self.dice.one_in(5) {
            options.target = Target::Agent(AgentId(1 + self.dice.roll(6) as u32));
        }
        let options = (options != Options::default()).then(|| Box::new(options));
        let (waits, to) = (self.dice.one_in(2), Some(to(self)));
        let _ = self.feed(Input::Submit(Submit { text: "x".into(), options, to, waits }));
    }

    /// Some versions of a few names, with differences to some others.
    fn contexts(&mut self) -> Arc<[Given]> {
        let mut given = Vec::new();
        for name in ["a", "b"].iter().take(1 + self.dice.roll(2) as usize) {
            let version = self.dice.roll(6);
            let base = self.dice.roll(6);
            let diff = Difference { base: format!("{base}").into(), digest: "d".into(), bytes: self.dice.roll(9) };
            given.push(Given {
                name: (*name).into(),
                digest: format!("{version}").into(),
                bytes: 5,
                diffs: if base == version { vec![] } else { vec![diff] },
            });
        }
        given.into()
    }

    fn begin_barrier(&mut self, agent: AgentId) {
        let agents = if self.dice.one_in(2) { vec![] } else { vec![agent, AgentId(1)] };
        let (within_us, partial) = (1 + self.dice.roll(2_000_000) as i64, self.dice.one_in(3));
        let to = Some(to(self));
        let _ = self.feed(Input::Checkpoint(Checkpoint { agents, within_us, partial, to }));
    }

    fn anybody(&mut self, agent: AgentId) -> Whom {
        match self.dice.one_in(2) {
            true => Whom::Agent(agent),
            false => Whom::Task(TaskId(1 + self.dice.roll(self.state.last_task.0 + 1))),
        }
    }

    /// Most agents do as they are told, now or later; some say what nobody asked for.
    fn told(&mut self, agent: AgentId, what: Tell) {
        if !self.places.get(&agent).is_some_and(|place| place.up) || self.dice.one_in(3) {
            return;
        }
        let content = self.dice.one_in(2).then(|| "saved".into());
        self.pending.push(match what {
            Tell::Checkpoint(barrier) => Input::Checkpointed { agent, barrier, content },
            Tell::Pause(task) => Input::Rests { agent, task, content },
            Tell::Inject(..) | Tell::Resume(..) if self.dice.one_in(2) => {
                Input::Checkpointed { agent, barrier: BarrierId(0), content }
            }
            Tell::Inject(..) | Tell::Resume(..) => return,
        });
    }

    /// An agent answers for the task at its head, or says nothing to the point.
    fn work(&mut self, agent: AgentId) {
        let Some(task) = self.places.get_mut(&agent).filter(|p| p.up).and_then(|p| p.tasks.pop_front()) else {
            return;
        };
        let input = match self.dice.roll(6) {
            0 => Input::Failed { agent, task, reason: "sim".into() },
            // It speaks of a task that it does not hold.
            1 => Input::Done { agent, task: TaskId(task.0 + 1000), result: None },
            2 => Input::Progress { agent, task, percent: 50, text: "".into() },
            _ => Input::Done { agent, task, result: Some("ok".into()) },
        };
        let over = matches!(&input, Input::Failed { .. } | Input::Done { .. }) && self.feed(input.clone()).is_ok();
        if !over && let Some(place) = self.places.get_mut(&agent).filter(|p| p.up) {
            place.tasks.push_front(task);
        }
    }

    fn come_up(&mut self, agent: AgentId) {
        let Some(place) = self.places.get_mut(&agent).filter(|p| p.hosted && !p.up) else { return };
        place.up = true;
        let generation = place.generation;
        let abilities = ["checkpoint", "pause", "inject", "restore"].map(str::to_owned).to_vec();
        let abilities = if agent.0.is_multiple_of(3) { vec![] } else { abilities };
        let _ = self.feed(Input::Ready { agent, generation, workload: Some(1), abilities, labels: vec![] });
    }

    /// The supervisor dies. Of its hosts some live on, with what they do; the next one finds these and no others.
    fn new_leader(&mut self, standby: bool) {
        self.pending.clear();
        let (dice, state) = (&mut self.dice, &self.state);
        // What was started and not recorded is ended by the next leader, as is what is left of the dead.
        self.places.retain(|id, _| state.agents.get(id).is_some_and(|a| a.host.is_some()) && !dice.one_in(4));
        // The last task sent may have been recorded, and never written.
        for place in self.places.values_mut().filter(|_| dice.one_in(3)) {
            if let Some(task) = place.tasks.pop_back() {
                place.heard.remove(&task);
                if place.telling == task {
                    place.contexts = place.before.clone();
                }
            }
        }
        let alive: BTreeSet<AgentId> = self.places.keys().copied().collect();
        let afresh = alive.is_empty() && !standby;
        let lead = Lead { pid: 1, version: "sim".into(), boot: "sim".into(), alive, standby };
        self.take(Input::Lead(lead)).expect("to lead is never refused");
        self.state.said_again().into_iter().for_each(|effect| self.say_again(effect));
        self.settle();
        if afresh {
            self.start_pool();
        }
    }

    /// A place takes notice only of what it has not heard.
    fn say_again(&mut self, effect: Effect) {
        match effect {
            Effect::SendTask { agent, task, .. }
                if self.places.get(&agent).is_some_and(|p| p.heard.contains(&task)) => {}
            Effect::StartWorkload { agent, generation }
                if self.places.get(&agent).is_some_and(|p| p.generation == generation) => {}
            other => self.perform(other),
        }
    }

    fn start_pool(&mut self) {
        let prefetch = [1, 1, 4][self.dice.roll(3) as usize];
        let spec = Spec {
            kind: Kind::Lines,
            command: vec!["sim".into()],
            prefetch,
            max_queued: 50,
            start_patience_us: 5_000_000,
            ..Spec::default()
        };
        let count = 1 + self.dice.roll(4) as u32;
        let start = PoolStart { spec: Arc::new(spec), count: Some(count), otherwise: 1, as_before: false, to: None };
        self.feed(Input::PoolStart(start)).expect("an empty hive takes a pool");
    }

    /// With faults over, everything that was accepted ends.
    fn runs_dry(&mut self) {
        self.faults = false;
        for _ in 0..4000 {
            if self.state.counts.live() == 0 {
                return;
            }
            let parked = self.state.agents.values().any(|a| matches!(a.phase, Phase::Parked { .. }));
            if parked && self.state.retiring.is_empty() {
                let _ = self.feed(Input::Restart { agent: None, rolling: false, to: None });
            }
            if let Some(agent) = self.state.steering.rests.keys().next().copied() {
                let _ = self.feed(Input::Resume { agent, text: None, to: None });
            }
            if self.state.agents.len() < 6 {
                let _ = self.feed(Input::Scale { count: 6, to: None });
            }
            self.step();
        }
        self.tell_story();
        panic!("tasks are left: {:?}", self.state.counts);
    }

    /// What a failed run needs to be understood: the agents, and the end of the log.
    fn tell_story(&self) {
        for agent in self.state.agents.values() {
            let outside = self.places.get(&agent.id).map(|p| (p.generation, p.hosted, p.up, &p.tasks));
            eprintln!(
                "agent {}: {:?} {:?} holds {:?}; outside {outside:?}",
                agent.id, agent.phase, agent.retire, agent.held
            );
        }
        for (at, event) in self.log.iter().rev().take(40).rev() {
            eprintln!("{} {event:?}", at.mono);
        }
    }
}

fn run(seed: u64, steps: u32) {
    let mut world = World::new(seed);
    world.new_leader(false);
    (0..steps).for_each(|_| world.step());
    world.replays_to_the_same();
    world.runs_dry();
    world.replays_to_the_same();
    let accepted = world.state.last_task.0;
    assert_eq!(world.ended.len() as u64, accepted, "every accepted task ended, once");
}

/// Many short lives. `HIVE_SEEDS` makes them more, `HIVE_SEED` runs one alone (both are read when this is built).
#[test]
fn every_accepted_task_ends_once_whatever_happens() {
    let number = |text: Option<&str>| text.and_then(|v| v.parse::<u64>().ok());
    let seeds = match number(option_env!("HIVE_SEED")) {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number(option_env!("HIVE_SEEDS")).unwrap_or(2_000),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed, 120));
        assert!(outcome.is_ok(), "this run failed: HIVE_SEED={seed} repeats it");
    }
}

/// Whatever is lost of a log, what is left of it can be led, and every task that is still known ends.
#[test]
fn a_log_with_a_hole_can_be_gone_on_with() {
    for seed in 1..500 {
        let mut world = World::new(seed);
        world.new_leader(false);
        (0..120).for_each(|_| world.step());
        let from = world.dice.roll(world.log.len() as u64) as usize;
        let to = from + 1 + world.dice.roll((world.log.len() - from) as u64) as usize;
        let last = world.state.last_task;
        let hole = Event::Repaired { from: Seq(from as u64 + 1), to: Seq(to as u64) };
        let at = world.log[to - 1].0;
        world.log.splice(from..to, [(at, hole)]);
        world.state = State::default();
        for (at, event) in &world.log {
            replay(&mut world.state, *at, event.clone());
        }
        assert!(world.state.last_task >= last, "a number is never given twice");
        // Nobody lives who remembers it better.
        world.places.clear();
        world.ended.clear();
        world.barriers = world.state.barrier.iter().map(|open| (open.id, 0)).collect();
        world.begun = world.state.tasks.iter().map(|t| (t.id, t.attempts)).collect();
        world.new_leader(false);
        world.runs_dry();
    }
}
