//! Owns the state group: values through the library beside bare files, counters beside a bare atomic add, and how fast a
//! watcher hears of a change beside a bare inotify wake-up.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hive::store::State;
use hive::store::state::{Key, Options, Pattern, Watch};
use hive::sys::shm::Words;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::error::{Result, Trying};
use crate::fifo;
use crate::live::Hive;
use crate::machine::Placement;
use crate::process::Child;
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "state",
    about: "the state store through the library; floors: a bare write and rename, open and read, atomic add, inotify",
    pairs,
};

const VALUE: usize = 4096;

fn pairs(config: &Config) -> Vec<Pair> {
    let samples = config.pick(200, 1000);
    let wakes = config.pick(500, 3000);
    let cost = |p50| Goal::Cost { p50, p99: None };
    vec![
        Pair::new("set 4 KiB", "us", cost(1.3), move || set(samples)).against(move || floor_set(samples)),
        Pair::new("get 4 KiB", "us", cost(1.3), move || get(samples)).against(move || floor_get(samples)),
        Pair::new("incr, mapped counter", "ns", cost(3.0), move || incr(samples)).against(move || floor_incr(samples)),
        Pair::new("watch, one core", "us", cost(2.0), move || watch(wakes)).against(move || floor_watch(wakes)),
    ]
}

/// Each sample is the mean of `batch` calls, in microseconds.
pub fn time(samples: usize, batch: usize, mut call: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(samples);
    for _ in 0..samples {
        let start = Instant::now();
        for _ in 0..batch {
            call()?;
        }
        times.push(start.elapsed().as_secs_f64() * 1e6 / batch as f64);
    }
    Ok(times)
}

fn key() -> Result<Key> {
    Key::parse("step").trying("naming a key")
}

fn set(samples: usize) -> Result<Sampler> {
    let hive = Hive::fresh()?;
    let mut state = State::open(&hive.folders()).trying("opening the store")?;
    let (key, value) = (key()?, vec![b'x'; VALUE]);
    Ok(Box::new(move || {
        let _hive = &hive;
        time(samples, 50, || state.set(&key, &value, &Options::default()).map(drop).trying("setting"))
    }))
}

fn floor_set(samples: usize) -> Result<Sampler> {
    let hive = Hive::fresh()?;
    let (aside, path) = (hive.shared().join("aside"), hive.shared().join("step"));
    let value = vec![b'x'; VALUE];
    Ok(Box::new(move || {
        let _hive = &hive;
        time(samples, 50, || {
            fs::write(&aside, &value).and_then(|()| fs::rename(&aside, &path)).trying("replacing a file")
        })
    }))
}

fn get(samples: usize) -> Result<Sampler> {
    let hive = Hive::fresh()?;
    let mut state = State::open(&hive.folders()).trying("opening the store")?;
    let key = key()?;
    state.set(&key, &[b'x'; VALUE], &Options::default()).trying("setting")?;
    Ok(Box::new(move || {
        let _hive = &hive;
        time(samples, 50, || state.get(&key).map(drop).trying("getting"))
    }))
}

fn floor_get(samples: usize) -> Result<Sampler> {
    let hive = Hive::fresh()?;
    let path = hive.shared().join("step");
    fs::write(&path, [b'x'; VALUE]).trying("writing a file")?;
    Ok(Box::new(move || {
        let _hive = &hive;
        time(samples, 50, || {
            let mut value = vec![0; VALUE];
            File::open(&path).and_then(|mut file| file.read_exact(&mut value)).trying("reading a file")
        })
    }))
}

fn incr(samples: usize) -> Result<Sampler> {
    let hive = Hive::fresh()?;
    let mut state = State::open(&hive.folders()).trying("opening the store")?;
    let counter = state.counter(&key()?).trying("opening a counter")?;
    Ok(Box::new(move || {
        let _hive = &hive;
        let times =
            time(samples, 10_000, || counter.add(1).map(drop).map_err(|e| crate::error::failure(format!("{e:?}"))))?;
        Ok(times.into_iter().map(|micros| micros * 1000.0).collect())
    }))
}

fn floor_incr(samples: usize) -> Result<Sampler> {
    let hive = Hive::fresh()?;
    let file = File::options().read(true).write(true).create_new(true).open(hive.shared().join("word"));
    let words = Words::map(&file.trying("making a file")?, 1).trying("mapping a file")?;
    Ok(Box::new(move || {
        let _hive = &hive;
        let times = time(samples, 10_000, || {
            std::hint::black_box(words.at(0).fetch_add(1, Ordering::SeqCst));
            Ok(())
        })?;
        Ok(times.into_iter().map(|micros| micros * 1000.0).collect())
    }))
}

/// From before the change until the watcher, another process, has read it and said so.
fn watch(samples: usize) -> Result<Sampler> {
    let _placed = Placement::OneCore.enter()?;
    let hive = Hive::fresh()?;
    let folders = hive.folders();
    let seen = fifo::anonymous()?;
    let watcher = Child::fork(|| {
        let look = || -> Result<()> {
            let mut state = State::open(&folders).trying("opening the store")?;
            let pattern = Pattern::parse("step").trying("naming a key")?;
            let mut watch = Watch::new(&mut state, &[pattern]).trying("watching")?;
            fifo::put(&seen, b"r")?;
            while watch.next(&mut state, None).trying("waiting for a change")?.is_some() {
                fifo::put(&seen, b"c")?;
            }
            Ok(())
        };
        look().unwrap_or_else(|e| eprintln!("bench: {e}"));
    })?;
    fifo::take(&seen, &mut [0])?;
    let mut state = State::open(&hive.folders()).trying("opening the store")?;
    let key = key()?;
    Ok(Box::new(move || {
        let (_hive, _watcher, _placed) = (&hive, &watcher, Placement::OneCore.enter()?);
        time(samples, 1, || {
            state.set(&key, b"now", &Options::default()).trying("setting")?;
            fifo::take(&seen, &mut [0]).map(drop)
        })
    }))
}

fn floor_watch(samples: usize) -> Result<Sampler> {
    let _placed = Placement::OneCore.enter()?;
    let hive = Hive::fresh()?;
    let folder: PathBuf = hive.shared().join("values");
    fs::create_dir(&folder).trying("making a folder")?;
    let (aside, path) = (hive.shared().join("aside"), folder.join("step"));
    let seen = fifo::anonymous()?;
    let watcher = Child::fork(|| {
        let look = || -> Result<()> {
            let inotify = Inotify::init(InitFlags::empty()).trying("making an inotify")?;
            inotify.add_watch(&folder, AddWatchFlags::IN_MOVED_TO).trying("watching")?;
            fifo::put(&seen, b"r")?;
            loop {
                inotify.read_events().trying("waiting for a change")?;
                fs::read(&path).trying("reading a file")?;
                fifo::put(&seen, b"c")?;
            }
        };
        look().unwrap_or_else(|e| eprintln!("bench: {e}"));
    })?;
    fifo::take(&seen, &mut [0])?;
    Ok(Box::new(move || {
        let (_hive, _watcher, _placed) = (&hive, &watcher, Placement::OneCore.enter()?);
        time(samples, 1, || {
            fs::write(&aside, b"now").and_then(|()| fs::rename(&aside, &path)).trying("replacing a file")?;
            fifo::take(&seen, &mut [0]).map(drop)
        })
    }))
}
