//! Owns how a measurement is taken: hive, floor, hive, floor, ... so that a slow minute of the machine hits both alike.
//!
//! Invariant: whatever a side started is ended when its sampler is dropped, also after a failure.

use std::time::Duration;

use nix::unistd::alarm;

use crate::error::{Result, failure};
use crate::machine;
use crate::os;
use crate::stats::Round;

/// Takes the samples of one round.
pub type Sampler = Box<dyn FnMut() -> Result<Vec<f64>>>;
/// Starts what a side needs and hands back its sampler.
pub type Prepare = Box<dyn FnOnce() -> Result<Sampler>>;

/// What a good figure is.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Printed, not judged: hive / floor.
    None,
    /// A cost: hive / floor is at most this.
    Cost { p50: f64, p99: Option<f64> },
    /// A rate: hive / floor is at least this.
    Rate(f64),
    /// The floor is a peer that hive has to beat: peer / hive is at least this (`None`: printed, not judged).
    SpeedUp(Option<f64>),
    /// No floor: hive's own figure is at most this.
    Ceiling(f64),
}

/// The same work done by hive and by its floor.
pub struct Pair {
    pub name: String,
    pub unit: &'static str,
    pub goal: Goal,
    hive: Prepare,
    floor: Option<Prepare>,
    once: bool,
}

/// A subject of the bench: its pairs are made when it runs, one after the other.
pub struct Group {
    pub name: &'static str,
    pub about: &'static str,
    pub pairs: fn(&Config) -> Vec<Pair>,
}

/// What the command line asked for.
#[derive(Clone, Debug)]
pub struct Config {
    pub quick: bool,
    pub rounds: usize,
    pub floors_only: bool,
}

/// All rounds of one pair.
pub struct Measured {
    pub name: String,
    pub unit: &'static str,
    pub goal: Goal,
    pub hive: Vec<Round>,
    pub floor: Vec<Round>,
    pub load: f64,
}

impl Config {
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

impl Pair {
    pub fn new(
        name: impl Into<String>,
        unit: &'static str,
        goal: Goal,
        hive: impl FnOnce() -> Result<Sampler> + 'static,
    ) -> Pair {
        Pair { name: name.into(), unit, goal, hive: Box::new(hive), floor: None, once: false }
    }

    pub fn against(mut self, floor: impl FnOnce() -> Result<Sampler> + 'static) -> Pair {
        self.floor = Some(Box::new(floor));
        self
    }

    /// For a count that is exact: more rounds would say nothing more.
    pub fn once(mut self) -> Pair {
        self.once = true;
        self
    }
}

/// Longer than any round takes on a slow machine; a side that hangs is given up, not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes all rounds of one pair.
pub fn measure(pair: Pair, config: &Config) -> Result<Measured> {
    let rounds = if pair.once { 1 } else { config.rounds };
    let mut hive = if config.floors_only { None } else { Some(in_time(pair.hive)?) };
    let mut floor = pair.floor.map(in_time).transpose()?;
    let mut measured =
        Measured { name: pair.name, unit: pair.unit, goal: pair.goal, hive: vec![], floor: vec![], load: 0.0 };
    for _ in 0..rounds {
        measured.hive.extend(round(&mut hive)?);
        measured.floor.extend(round(&mut floor)?);
    }
    measured.load = machine::load();
    Ok(measured)
}

fn round(side: &mut Option<Sampler>) -> Result<Option<Round>> {
    match side {
        None => Ok(None),
        Some(sampler) => Ok(Round::of(in_time(sampler)?)),
    }
}

fn in_time<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    if os::stopped() {
        return Err(failure("stopped"));
    }
    alarm::set(PATIENCE.as_secs() as u32);
    let outcome = work();
    // Cancelled before anything is cleaned up, which must not be interrupted.
    alarm::cancel();
    outcome
}
