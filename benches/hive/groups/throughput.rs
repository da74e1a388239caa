//! Owns the throughput group: tiny tasks a second with many under way, one at a time for each agent and sixteen.

use crate::error::Result;
use crate::fifo::{BATCH_MAX, RECORD};
use crate::floor::crowd::Crowd;
use crate::live::Hive;
use crate::machine::Placement;
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "throughput",
    about: "tasks of 64 B a second, many under way, log on; \
            floor: the same records through a supervisor and agents that do nothing",
    pairs,
};

/// One comparison.
#[derive(Clone, Copy)]
struct Load {
    agents: usize,
    /// Tasks an agent may hold.
    held: usize,
    /// Records in one write of the generator; the client puts as many whole lines in a write as fit the same bytes.
    batch: usize,
    total: usize,
    placement: Placement,
}

const FULL_WRITES: usize = BATCH_MAX / RECORD;

fn pairs(config: &Config) -> Vec<Pair> {
    let total = config.pick(50_000, 200_000);
    let mut pairs = Vec::new();
    for held in [1, 16] {
        let usual = Load { agents: 8, held, batch: FULL_WRITES, total, placement: Placement::Unpinned };
        for agents in [1, 8, 32, 100] {
            pairs.push(pair(Load { agents, ..usual }));
        }
        // As a client that writes each request by itself sees it.
        pairs.push(pair(Load { batch: 1, ..usual }));
        // Steadier than the others: nothing depends on which core a process wakes up on.
        pairs.push(pair(Load { placement: Placement::OneCore, ..usual }));
    }
    pairs
}

fn pair(load: Load) -> Pair {
    let how = if load.held == 1 { "one at a time".into() } else { format!("prefetch {}", load.held) };
    let writes = if load.batch == 1 { ", a write each" } else { "" };
    let goal = Goal::Rate(if load.held == 1 { 0.6 } else { 0.5 });
    let place = if load.placement == Placement::OneCore { ", one core" } else { "" };
    let agents = if load.agents == 1 { "agent" } else { "agents" };
    let name = format!("{} {agents}, {how}{writes}{place}", load.agents);
    Pair::new(name, "task/s", goal, move || hive(load)).against(move || floor(load))
}

fn hive(load: Load) -> Result<Sampler> {
    let _placed = load.placement.enter()?;
    let held = load.held.to_string();
    let options: &[&str] = if load.held == 1 { &[] } else { &["--prefetch", &held] };
    let hive = Hive::of_lines_agents(load.agents, options)?;
    let mut client = hive.connect()?;
    Ok(Box::new(move || {
        let _hive = &hive;
        let _placed = load.placement.enter()?;
        Ok(vec![client.flood(load.total as u64, load.batch)?])
    }))
}

fn floor(load: Load) -> Result<Sampler> {
    let _placed = load.placement.enter()?;
    let crowd = Crowd::start(load.agents, load.held)?;
    Ok(Box::new(move || {
        let _placed = load.placement.enter()?;
        Ok(vec![crowd.run(load.total, load.batch)?])
    }))
}
