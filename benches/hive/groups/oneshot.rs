//! Owns the oneshot group: a task for a program that was started ahead, against starting it for the task, and against
//! one that already waits in this process's hand.

use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{Result, failure};
use crate::fifo::RECORD;
use crate::floor::relay::Relay;
use crate::live::Hive;
use crate::machine::Placement;
use crate::process::{Piped, Program};
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "oneshot",
    about: "a task for a warm oneshot agent, one core; peer: the program started for it; \
            floor: four hops and a program that already waits on its input",
    pairs,
};

/// A program that answers with what it read.
struct Subject {
    label: &'static str,
    path: PathBuf,
    arguments: &'static [&'static str],
    /// Long enough for the next process to be started and quiet again; both sides rest alike between samples.
    rest: Duration,
}

const TEXT: [u8; RECORD] = [b'x'; RECORD];

fn pairs(config: &Config) -> Vec<Pair> {
    let samples = config.pick((15, 6), (100, 30));
    let mut pairs = Vec::new();
    for subject in subjects().into_iter().map(Rc::new) {
        let count = if subject.rest > Duration::from_millis(50) { samples.1 } else { samples.0 };
        let [hive_1, hive_2, cold, waiting] = [(); 4].map(|()| Rc::clone(&subject));
        pairs.push(
            Pair::new(format!("{}: warm, against a start", subject.label), "us", Goal::SpeedUp(None), move || {
                hive(&hive_1, count)
            })
            .against(move || cold_start(&cold, count)),
        );
        let goal = Goal::Cost { p50: 1.5, p99: None };
        pairs.push(
            Pair::new(format!("{}: warm, against one that waits", subject.label), "us", goal, move || {
                hive(&hive_2, count)
            })
            .against(move || already_waiting(&waiting, count)),
        );
    }
    pairs
}

fn subjects() -> Vec<Subject> {
    let short = Duration::from_millis(20);
    let mut subjects = vec![
        Subject { label: "cat", path: "/bin/cat".into(), arguments: &[], rest: short },
        Subject { label: "sh -c cat", path: "/bin/sh".into(), arguments: &["-c", "cat"], rest: short },
    ];
    if let Some(path) = python() {
        let arguments = &["-c", "import sys; sys.stdout.write(sys.stdin.read())"];
        subjects.push(Subject { label: "python3", path, arguments, rest: Duration::from_millis(150) });
    }
    subjects
}

/// The interpreter itself: what is found first is often a shell script that looks for it.
fn python() -> Option<PathBuf> {
    let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(asked.stdout).ok()?.trim());
    path.is_file().then_some(path)
}

fn hive(subject: &Rc<Subject>, samples: usize) -> Result<Sampler> {
    let _placed = Placement::OneCore.enter()?;
    let path = subject.path.to_string_lossy();
    let mut arguments = vec!["-n", "1", "--kind", "oneshot", "--", &path];
    arguments.extend_from_slice(subject.arguments);
    let hive = Hive::start(&arguments)?;
    let mut client = hive.connect()?;
    let rest = subject.rest;
    Ok(Box::new(move || {
        let _hive = &hive;
        let _placed = Placement::OneCore.enter()?;
        client.round_trip()?;
        (0..samples)
            .map(|_| {
                std::thread::sleep(rest);
                client.round_trip()
            })
            .collect()
    }))
}

fn cold_start(subject: &Rc<Subject>, samples: usize) -> Result<Sampler> {
    let program = Program::new(&subject.path, subject.arguments)?;
    Ok(Box::new(move || {
        let _placed = Placement::OneCore.enter()?;
        whole_answer(program.start_piped()?)?;
        (0..samples)
            .map(|_| {
                let start = Instant::now();
                whole_answer(program.start_piped()?)?;
                Ok(start.elapsed().as_secs_f64() * 1e6)
            })
            .collect()
    }))
}

fn already_waiting(subject: &Rc<Subject>, samples: usize) -> Result<Sampler> {
    let _placed = Placement::OneCore.enter()?;
    let program = Program::new(&subject.path, subject.arguments)?;
    let relay = Relay::start()?;
    let rest = subject.rest;
    Ok(Box::new(move || {
        let _placed = Placement::OneCore.enter()?;
        (0..samples)
            .map(|_| {
                let waiting = program.start_piped()?;
                std::thread::sleep(rest);
                let start = Instant::now();
                relay.round_trip()?;
                whole_answer(waiting)?;
                Ok(start.elapsed().as_secs_f64() * 1e6)
            })
            .collect()
    }))
}

fn whole_answer(program: Piped) -> Result<()> {
    match program.finish(&TEXT)? {
        RECORD => Ok(()),
        other => Err(failure(format!("a program answered {other} bytes for {RECORD}"))),
    }
}
