//! Owns the pool group: how long `pool start` takes until its agents are ready.

use std::path::Path;
use std::time::Instant;

use crate::error::Result;
use crate::fifo::{self, Named};
use crate::live::{Hive, own_path};
use crate::process::{Child, Program};
use crate::roles::FLOOR_AGENT;
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "pool",
    about: "`pool start -n 100`, start to end, shell agents; floor: 100 started processes open two FIFOs and say ready",
    pairs,
};

const AGENTS: usize = 100;

fn pairs(config: &Config) -> Vec<Pair> {
    let samples = config.pick(3, 5);
    let goal = Goal::Cost { p50: 1.3, p99: None };
    let name = format!("{AGENTS} shell agents ready");
    vec![Pair::new(name, "us", goal, move || hive(samples)).against(move || floor(samples))]
}

fn hive(samples: usize) -> Result<Sampler> {
    Ok(Box::new(move || (0..samples).map(|_| start_hive()).collect()))
}

/// Fresh folders each time: a start that reads an old log is another measurement.
fn start_hive() -> Result<f64> {
    let hive = Hive::fresh()?;
    let command = hive.program(&["pool", "start", "-n", &AGENTS.to_string()])?;
    let start = Instant::now();
    command.run()?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

fn floor(samples: usize) -> Result<Sampler> {
    let (tasks, ready) = (Named::new("tasks")?, Named::new("ready")?);
    let paths = [tasks.0.to_string_lossy(), ready.0.to_string_lossy()];
    let agent = Program::new(Path::new(&own_path()?), &[FLOOR_AGENT, &paths[0], &paths[1]])?;
    let (tasks_end, ready_end) = (fifo::open_both(&tasks.0)?, fifo::open_both(&ready.0)?);
    Ok(Box::new(move || {
        let _held_open = (&tasks_end, &tasks, &ready);
        (0..samples)
            .map(|_| {
                let start = Instant::now();
                let agents: Vec<Child> = (0..AGENTS).map(|_| agent.start()).collect::<Result<_>>()?;
                let mut missing = agents.len();
                while missing > 0 {
                    missing -= fifo::take(&ready_end, &mut [0; AGENTS])?;
                }
                Ok(start.elapsed().as_secs_f64() * 1e6)
            })
            .collect()
    }))
}
