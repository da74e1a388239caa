//! Owns the recovery group: how long a start takes that has a long history behind it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hive::model::{AgentId, Ended, Event, Seq, TaskId, Term, Verdict};
use hive::record::{self, Moment};

use crate::error::{Result, Trying, failure};
use crate::live::Hive;
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "recovery",
    about: "`pool start -n 0` on a log of 1,000,000 events, start to end: all of them read, and with snapshots",
    pairs,
};

const EVENTS: u64 = 1_000_000;
const SEGMENT: u64 = 100_000;

fn pairs(config: &Config) -> Vec<Pair> {
    let samples = config.pick(2, 5);
    vec![
        Pair::new("without a snapshot", "us", Goal::Ceiling(2e6), move || without_snapshot(samples)),
        Pair::new("with one", "us", Goal::Ceiling(5e5), move || with_snapshot(samples)),
    ]
}

fn without_snapshot(samples: usize) -> Result<Sampler> {
    let hive = with_history()?;
    Ok(Box::new(move || {
        let start = || {
            snapshots(&hive)?.iter().try_for_each(fs::remove_file).trying("removing snapshots")?;
            start_and_stop(&hive)
        };
        (0..samples).map(|_| start()).collect()
    }))
}

fn with_snapshot(samples: usize) -> Result<Sampler> {
    let hive = with_history()?;
    hive.program(&["pool", "start", "-n", "0"])?.run()?;
    let end = Instant::now() + Duration::from_secs(60);
    while snapshots(&hive)?.is_empty() {
        if Instant::now() > end {
            return Err(failure("no snapshot is made"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    hive.program(&["pool", "stop"])?.run()?;
    Ok(Box::new(move || (0..samples).map(|_| start_and_stop(&hive)).collect()))
}

fn start_and_stop(hive: &Hive) -> Result<f64> {
    let (start, stop) = (hive.program(&["pool", "start", "-n", "0"])?, hive.program(&["pool", "stop"])?);
    let before = Instant::now();
    start.run()?;
    let took = before.elapsed().as_secs_f64() * 1e6;
    stop.run()?;
    Ok(took)
}

fn snapshots(hive: &Hive) -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(hive.events()).trying("listing the log")?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|e| e == "snapshot")).collect())
}

/// A hive that ran a third of a million tasks.
fn with_history() -> Result<Hive> {
    let hive = Hive::fresh()?;
    let folder = hive.events();
    fs::create_dir_all(&folder).trying("making the folder of events")?;
    for first in (1..=EVENTS).step_by(SEGMENT as usize) {
        write_segment(&folder, first).trying("writing a log")?;
    }
    Ok(hive)
}

fn write_segment(folder: &Path, first: u64) -> std::io::Result<()> {
    let (mut text, mut moment) = (Vec::new(), Moment::default());
    for seq in first..(first + SEGMENT).min(EVENTS + 1) {
        moment.set(1_790_000_000_000_000 + seq as i64 * 50, Term(1));
        record::encode(&mut text, Seq(seq), &moment, &event(seq));
    }
    fs::write(folder.join(format!("{first:020}.jsonl")), text)
}

/// The first three make the agent; then each task is submitted, assigned and done.
fn event(seq: u64) -> Event {
    let (task, agent) = (TaskId(seq.saturating_sub(1) / 3), AgentId(1));
    match (seq, seq % 3) {
        (1, _) => Event::Led { pid: 1, version: "0".into(), boot: "another".into(), afresh: false },
        (2, _) => Event::AgentAdded { agent },
        (3, _) => Event::Restarting { agent, generation: Default::default() },
        (_, 1) => {
            let text = format!("echo {task} and a few more words").into();
            Event::Submitted { task, text, options: None, to: None, waits: false }
        }
        (_, 2) => Event::Assigned { tasks: vec![task], agent },
        _ => {
            let result = Some(format!("{task} and a few more words").into());
            Event::Ended { task, ended: Box::new(Ended { result, exit: Some(0), ..Ended::new(Verdict::Done) }) }
        }
    }
}
