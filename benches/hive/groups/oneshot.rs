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
    about: "a task for a warm oneshot agent; peer: the program started for it; \
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
    shown_unpinned: bool,
}

const TEXT: [u8; RECORD] = [b'x'; RECORD];

fn pairs(config: &Config) -> Vec<Pair> {
    let samples = config.pick((15, 6), (100, 30));
    let mut pairs = Vec::new();
    for subject in subjects().into_iter().map(Rc::new) {
        let count = if subject.rest > Duration::from_millis(50) { samples.1 } else { samples.0 };
        pairs.push(against_a_start(&subject, Placement::OneCore, count));
        pairs.push(against_one_that_waits(&subject, Placement::OneCore, count));
        if subject.shown_unpinned {
            // The next process may be started on the other core meanwhile.
            pairs.push(against_a_start(&subject, Placement::Unpinned, count));
            pairs.push(against_one_that_waits(&subject, Placement::Unpinned, count));
        }
    }
    pairs
}

fn against_a_start(subject: &Rc<Subject>, placement: Placement, samples: usize) -> Pair {
    let name = format!("{}: warm, against a start, {}", subject.label, placement.label());
    let [ours, cold] = [(); 2].map(|()| Rc::clone(subject));
    Pair::new(name, "us", Goal::SpeedUp(None), move || hive(&ours, placement, samples))
        .against(move || cold_start(&cold, placement, samples))
}

fn against_one_that_waits(subject: &Rc<Subject>, placement: Placement, samples: usize) -> Pair {
    let name = format!("{}: warm, against waiting, {}", subject.label, placement.label());
    let goal = match placement {
        Placement::OneCore => Goal::Cost { p50: 1.5, p99: None },
        Placement::Unpinned => Goal::None,
    };
    let [ours, waiting] = [(); 2].map(|()| Rc::clone(subject));
    Pair::new(name, "us", goal, move || hive(&ours, placement, samples))
        .against(move || already_waiting(&waiting, placement, samples))
}

fn subjects() -> Vec<Subject> {
    let short = Duration::from_millis(20);
    let mut subjects = vec![
        Subject { label: "cat", path: "/bin/cat".into(), arguments: &[], rest: short, shown_unpinned: true },
        Subject {
            label: "sh -c cat",
            path: "/bin/sh".into(),
            arguments: &["-c", "cat"],
            rest: short,
            shown_unpinned: false,
        },
    ];
    if let Some(path) = python() {
        let arguments = &["-c", "import sys; sys.stdout.write(sys.stdin.read())"];
        subjects.push(Subject {
            label: "python3",
            path,
            arguments,
            rest: Duration::from_millis(150),
            shown_unpinned: false,
        });
    }
    subjects
}

/// The interpreter itself: what is found first is often a shell script that looks for it.
fn python() -> Option<PathBuf> {
    let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(asked.stdout).ok()?.trim());
    path.is_file().then_some(path)
}

fn hive(subject: &Rc<Subject>, placement: Placement, samples: usize) -> Result<Sampler> {
    let _placed = placement.enter()?;
    let path = subject.path.to_string_lossy();
    let mut arguments = vec!["-n", "1", "--kind", "oneshot", "--", &path];
    arguments.extend_from_slice(subject.arguments);
    let hive = Hive::start(&arguments)?;
    let mut client = hive.connect()?;
    let rest = subject.rest;
    Ok(Box::new(move || {
        let _hive = &hive;
        let _placed = placement.enter()?;
        client.round_trip()?;
        (0..samples)
            .map(|_| {
                std::thread::sleep(rest);
                client.round_trip()
            })
            .collect()
    }))
}

fn cold_start(subject: &Rc<Subject>, placement: Placement, samples: usize) -> Result<Sampler> {
    let program = Program::new(&subject.path, subject.arguments)?;
    Ok(Box::new(move || {
        let _placed = placement.enter()?;
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

fn already_waiting(subject: &Rc<Subject>, placement: Placement, samples: usize) -> Result<Sampler> {
    let _placed = placement.enter()?;
    let program = Program::new(&subject.path, subject.arguments)?;
    let relay = Relay::start()?;
    let rest = subject.rest;
    Ok(Box::new(move || {
        let _placed = placement.enter()?;
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
