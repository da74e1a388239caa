//! Owns the barrier group: how long it takes until every agent has answered a barrier, against one signal to a group of
//! as many processes and an answer from each.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::floor::ring::Ring;
use crate::live::Hive;
use crate::machine::Placement;
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "barrier",
    about: "a barrier over shell agents at rest, asked by a resident client, all acknowledged; \
            floor: one signal to a group, and an answer from each",
    pairs,
};

/// Whoever answered is released, and goes back to sleep, between two barriers.
fn rest(agents: usize) {
    std::thread::sleep(Duration::from_micros(5000 + 50 * agents as u64));
}

fn pairs(config: &Config) -> Vec<Pair> {
    let samples = config.pick(20, 100);
    [10, 100, 1000]
        .map(|agents| {
            let goal = Goal::Cost { p50: 1.5, p99: None };
            let hive = move || hive(agents, samples);
            let floor = move || floor(agents, samples);
            Pair::new(format!("{agents} agents, one core"), "us", goal, hive).against(floor)
        })
        .into()
}

fn hive(agents: usize, samples: usize) -> Result<Sampler> {
    let _placed = Placement::OneCore.enter()?;
    let hive = Hive::start(&["-n", &agents.to_string()])?;
    let mut client = hive.connect()?;
    Ok(Box::new(move || {
        let _hive = &hive;
        let _placed = Placement::OneCore.enter()?;
        (0..samples)
            .map(|_| {
                rest(agents);
                client.checkpoint()
            })
            .collect()
    }))
}

fn floor(agents: usize, samples: usize) -> Result<Sampler> {
    let _placed = Placement::OneCore.enter()?;
    let ring = Ring::start(agents)?;
    Ok(Box::new(move || {
        let _placed = Placement::OneCore.enter()?;
        (0..samples)
            .map(|_| {
                rest(agents);
                let start = Instant::now();
                ring.round()?;
                Ok(start.elapsed().as_secs_f64() * 1e6)
            })
            .collect()
    }))
}
