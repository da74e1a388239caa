//! Owns the dispatch group: a task of 64 bytes from a resident client to a resident agent and back.

use std::time::Instant;

use crate::error::Result;
use crate::floor::relay::Relay;
use crate::live::Hive;
use crate::machine::Placement;
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "dispatch",
    about: "client -> supervisor -> agent -> supervisor -> client, 64 B, log on; floor: four FIFO hops",
    pairs,
};

/// Before the first sample: caches warm, the reply FIFO opened by the supervisor.
const WARM_UP: usize = 200;

fn pairs(config: &Config) -> Vec<Pair> {
    let samples = config.pick(5_000, 20_000);
    // A latency is judged pinned: across cores it measures how long a halted processor takes to wake.
    let judged = Goal::Cost { p50: 1.5, p99: Some(3.0) };
    [(Placement::OneCore, judged), (Placement::Unpinned, Goal::None)]
        .into_iter()
        .map(|(placement, goal)| {
            Pair::new(format!("round trip, {}", placement.label()), "us", goal, move || hive(placement, samples))
                .against(move || floor(placement, samples))
        })
        .collect()
}

fn hive(placement: Placement, samples: usize) -> Result<Sampler> {
    let _placed = placement.enter()?;
    let hive = Hive::of_lines_agents(1, &[])?;
    let mut client = hive.connect()?;
    Ok(Box::new(move || {
        let _hive = &hive;
        let _placed = placement.enter()?;
        for _ in 0..WARM_UP {
            client.round_trip()?;
        }
        (0..samples).map(|_| client.round_trip()).collect()
    }))
}

fn floor(placement: Placement, samples: usize) -> Result<Sampler> {
    let _placed = placement.enter()?;
    let relay = Relay::start()?;
    Ok(Box::new(move || {
        let _placed = placement.enter()?;
        for _ in 0..WARM_UP {
            relay.round_trip()?;
        }
        (0..samples)
            .map(|_| {
                let start = Instant::now();
                relay.round_trip()?;
                Ok(start.elapsed().as_secs_f64() * 1e6)
            })
            .collect()
    }))
}
