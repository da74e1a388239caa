//! Owns the command group: a whole `hivectl run`, from its start to its end, with a resident agent.

use std::path::Path;
use std::time::Instant;

use crate::error::{Result, Trying};
use crate::floor::relay::Desk;
use crate::live::{Hive, own_path};
use crate::machine::Placement;
use crate::process::Program;
use crate::roles::FLOOR_CLIENT;
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "command",
    about: "`hivectl run x`, start to end; floor: a static client that makes a FIFO, asks over four hops, removes it",
    pairs,
};

const WARM_UP: usize = 10;

fn pairs(config: &Config) -> Vec<Pair> {
    let samples = config.pick(200, 500);
    [(Placement::OneCore, Goal::Cost { p50: 1.15, p99: None }), (Placement::Unpinned, Goal::None)]
        .into_iter()
        .map(|(placement, goal)| {
            Pair::new(format!("whole command, {}", placement.label()), "us", goal, move || hive(placement, samples))
                .against(move || floor(placement, samples))
        })
        .collect()
}

fn hive(placement: Placement, samples: usize) -> Result<Sampler> {
    let _placed = placement.enter()?;
    let hive = Hive::of_lines_agents(1, &[])?;
    let command = hive.program(&["run", "x"])?;
    Ok(Box::new(move || {
        let _hive = &hive;
        time_runs(placement, &command, samples)
    }))
}

fn floor(placement: Placement, samples: usize) -> Result<Sampler> {
    let _placed = placement.enter()?;
    let desk = Desk::start()?;
    let path = desk.path().to_str().ok_or("not UTF-8").trying("naming the floor's FIFO")?;
    let command = Program::new(Path::new(&own_path()?), &[FLOOR_CLIENT, path])?;
    Ok(Box::new(move || {
        let _desk = &desk;
        time_runs(placement, &command, samples)
    }))
}

fn time_runs(placement: Placement, command: &Program, samples: usize) -> Result<Vec<f64>> {
    let _placed = placement.enter()?;
    for _ in 0..WARM_UP {
        command.run()?;
    }
    (0..samples)
        .map(|_| {
            let start = Instant::now();
            command.run()?;
            Ok(start.elapsed().as_secs_f64() * 1e6)
        })
        .collect()
}
