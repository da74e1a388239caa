//! Owns the board group: reading and writing one row, beside a copy of 64 bytes to or from shared memory.

use std::fs::File;
use std::hint::black_box;
use std::sync::atomic::Ordering;

use hive::store::Board;
use hive::store::board::{AgentRow, Name, Writer};
use hive::sys::shm::Words;

use super::state::time;
use crate::error::{Result, Trying, failure};
use crate::live::Hive;
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "board",
    about: "one agent's row of the board; floors: a bare copy of 64 bytes from and to shared memory",
    pairs,
};

/// A cache line.
const WORDS: usize = 8;

fn pairs(config: &Config) -> Vec<Pair> {
    let samples = config.pick(200, 1000);
    let cost = Goal::Cost { p50: 10.0, p99: None };
    vec![
        Pair::new("row read", "ns", cost, move || read(samples)).against(move || floor(samples, false)),
        Pair::new("row written", "ns", cost, move || write(samples)).against(move || floor(samples, true)),
    ]
}

fn nanos(samples: usize, call: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    Ok(time(samples, 10_000, call)?.into_iter().map(|micros| micros * 1000.0).collect())
}

fn row() -> AgentRow {
    AgentRow { id: 1, state: Name::of("busy"), task: Some(17), pid: Some(1), heard: 1, ..AgentRow::default() }
}

fn opened() -> Result<(Hive, Writer)> {
    let hive = Hive::fresh()?;
    let folders = hive.folders();
    folders.make_live().map_err(|e| failure(e.message))?;
    let writer = Writer::open(&folders.board()).trying("making a board")?;
    Ok((hive, writer))
}

fn read(samples: usize) -> Result<Sampler> {
    let (hive, mut writer) = opened()?;
    writer.write_agent(&row());
    let mut board = Board::open(&hive.folders()).map_err(|e| failure(e.message))?;
    Ok(Box::new(move || {
        let _hive = &hive;
        nanos(samples, || {
            black_box(board.agent(black_box(1)).map_err(|e| failure(e.message))?);
            Ok(())
        })
    }))
}

fn write(samples: usize) -> Result<Sampler> {
    let (hive, mut writer) = opened()?;
    Ok(Box::new(move || {
        let _hive = &hive;
        nanos(samples, || {
            writer.write_agent(black_box(&row()));
            Ok(())
        })
    }))
}

fn floor(samples: usize, store: bool) -> Result<Sampler> {
    let hive = Hive::fresh()?;
    let file = File::options().read(true).write(true).create_new(true).open(hive.shared().join("line"));
    let words = Words::map(&file.trying("making a file")?, WORDS).trying("mapping a file")?;
    Ok(Box::new(move || {
        let _hive = &hive;
        let mut line = [0; WORDS];
        nanos(samples, || {
            for (n, word) in line.iter_mut().enumerate() {
                match store {
                    true => words.at(n).store(*word, Ordering::Relaxed),
                    false => *word = words.at(n).load(Ordering::Relaxed),
                }
            }
            black_box(&mut line);
            Ok(())
        })
    }))
}
