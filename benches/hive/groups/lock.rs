//! Owns the lock group: a lock that nobody else wants, and how fast the next in line has it when its holder is killed.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use hive::store::Locks;
use hive::store::locks::{Patience, Sharing};
use nix::fcntl::{Flock, FlockArg};

use super::state::time;
use crate::error::{Result, Trying, failure};
use crate::fifo;
use crate::live::Hive;
use crate::process::Child;
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "lock",
    about: "locks through the library; floors: open, flock, close; a process blocked in flock when the holder is killed",
    pairs,
};

fn pairs(config: &Config) -> Vec<Pair> {
    let (samples, kills) = (config.pick(200, 1000), config.pick(50, 200));
    let cost = |p50, p99| Goal::Cost { p50, p99 };
    vec![
        Pair::new("lock, uncontended", "us", cost(2.0, None), move || lock(samples)).against(move || floor(samples)),
        Pair::new("take-over from a killed holder", "us", cost(4.0, Some(4.0)), move || hive_take_over(kills))
            .against(move || floor_take_over(kills)),
    ]
}

fn lock(samples: usize) -> Result<Sampler> {
    let hive = Hive::fresh()?;
    let locks = Locks::open(&hive.folders()).trying("opening the locks")?;
    Ok(Box::new(move || {
        let _hive = &hive;
        time(samples, 100, || locks.take("x", Sharing::Alone, Patience::ForEver).map(drop).trying("locking"))
    }))
}

fn floor(samples: usize) -> Result<Sampler> {
    let hive = Hive::fresh()?;
    let path = hive.shared().join("x");
    Ok(Box::new(move || {
        let _hive = &hive;
        time(samples, 100, || flock(&path).map(drop))
    }))
}

fn flock(path: &PathBuf) -> Result<Flock<File>> {
    let file =
        File::options().read(true).write(true).create(true).truncate(false).open(path).trying("opening a file")?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| failure(format!("locking a file: {e}")))
}

fn hive_take_over(kills: usize) -> Result<Sampler> {
    let hive = Hive::fresh()?;
    let folders = hive.folders();
    Ok(Box::new(move || {
        let _hive = &hive;
        take_over(kills, || {
            let locks = Locks::open(&folders).trying("opening the locks")?;
            Ok(Box::new(move || {
                locks.take("x", Sharing::Alone, Patience::ForEver).map(|lock| Box::new(lock) as Held).trying("locking")
            }))
        })
    }))
}

pub(super) fn floor_take_over(kills: usize) -> Result<Sampler> {
    let hive = Hive::fresh()?;
    let path = hive.shared().join("x");
    Ok(Box::new(move || {
        let _hive = &hive;
        take_over(kills, || {
            let path = path.clone();
            Ok(Box::new(move || flock(&path).map(|lock| Box::new(lock) as Held)))
        })
    }))
}

type Held = Box<dyn std::any::Any>;
type Take = Box<dyn FnOnce() -> Result<Held>>;

/// From the kill of the holder until the waiter has said that it holds.
fn take_over(kills: usize, prepare: impl Fn() -> Result<Take>) -> Result<Vec<f64>> {
    let holds = fifo::anonymous()?;
    let party = || -> Result<Child> {
        Child::fork(|| {
            let hold = || -> Result<()> {
                let _held = prepare()?()?;
                fifo::put(&holds, b"h")?;
                loop {
                    std::thread::park();
                }
            };
            hold().unwrap_or_else(|e| eprintln!("bench: {e}"));
        })
    };
    let mut holder = party()?;
    fifo::take(&holds, &mut [0])?;
    let mut times = Vec::with_capacity(kills);
    for _ in 0..kills {
        let waiter = party()?;
        waiter.wait_until_blocked()?;
        let start = Instant::now();
        holder.kill();
        fifo::take(&holds, &mut [0])?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        holder = waiter;
    }
    Ok(times)
}
