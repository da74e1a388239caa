//! Owns the takeover group: how long a hive is without a leader, and a task without an agent, when one is killed.

use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Result, Trying, failure};
use crate::fifo;
use crate::live::Hive;
use crate::process::Child;
use crate::runner::{Config, Goal, Group, Pair, Sampler};

pub const GROUP: Group = Group {
    name: "takeover",
    about: "kill -9 of the leader, of an agent; floors: a process blocked in flock has the lock; a pidfd tells of a death and another process answers",
    pairs,
};

const PATIENCE: Duration = Duration::from_secs(20);
const AGENTS: usize = 100;

fn pairs(config: &Config) -> Vec<Pair> {
    let kills = config.pick(10, 50);
    vec![
        Pair::new("death to leading, standby, 100 agents", "us", Goal::Cost { p50: 4.0, p99: Some(4.0) }, move || {
            to_leading(kills)
        })
        .against(move || super::lock::floor_take_over(kills)),
        Pair::new("death to first answered task, 100 agents", "us", Goal::Ceiling(10_000.0), move || to_answer(kills)),
        Pair::new("agent killed, a spare answers", "us", Goal::Cost { p50: 3.0, p99: None }, move || to_spare(kills))
            .against(move || floor_spare(kills)),
    ]
}

/// From the kill until the leader file names another.
fn to_leading(kills: usize) -> Result<Sampler> {
    let hive = Hive::start(&["-n", &AGENTS.to_string()])?;
    Ok(Box::new(move || {
        let changes = Inotify::init(InitFlags::IN_CLOEXEC).trying("watching")?;
        changes.add_watch(&hive.folders().live, AddWatchFlags::IN_MODIFY).trying("watching the live folder")?;
        let mut times = Vec::with_capacity(kills);
        for _ in 0..kills {
            let leader = prepare(&hive)?;
            let start = Instant::now();
            kill(leader, Signal::SIGKILL).trying("killing the leader")?;
            while hive_leader(&hive).is_none_or(|pid| pid == leader) {
                let mut ready = [PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
                poll(&mut ready, PollTimeout::from(1000u16)).trying("waiting for a leader")?;
                changes.read_events().trying("reading changes")?;
                if start.elapsed() > PATIENCE {
                    return Err(failure("nobody leads"));
                }
            }
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    }))
}

/// From the kill until a task that was written then is answered.
fn to_answer(kills: usize) -> Result<Sampler> {
    let hive = Hive::of_lines_agents(AGENTS, &[])?;
    let mut client = hive.connect()?;
    Ok(Box::new(move || {
        let mut times = Vec::with_capacity(kills);
        for _ in 0..kills {
            let leader = prepare(&hive)?;
            let start = Instant::now();
            kill(leader, Signal::SIGKILL).trying("killing the leader")?;
            client.round_trip()?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    }))
}

/// A standby waits behind the leader.
fn prepare(hive: &Hive) -> Result<Pid> {
    let leader = hive_leader(hive).ok_or_else(|| failure("nobody leads"))?;
    hive.control(&["pool", "start", "--standby"])?;
    // It has said that it waits just before it does.
    std::thread::sleep(Duration::from_millis(30));
    Ok(leader)
}

fn hive_leader(hive: &Hive) -> Option<Pid> {
    let text = fs::read_to_string(hive.folders().leader()).ok()?;
    let said: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(Pid::from_raw(said["pid"].as_i64()? as i32))
}

/// An agent is killed in the middle of a task: from there until the other one has answered it.
fn to_spare(kills: usize) -> Result<Sampler> {
    let files = Hive::fresh()?;
    let (hang, never) = (files.shared().join("hang"), files.shared().join("never"));
    fifo::make(&never)?;
    let script = format!(
        "set -C; echo READY; while read -r v id t; do if {{ : >{}; }} 2>/dev/null; then read -r _ <{}; fi; echo \"DONE $id x\"; done",
        hang.display(),
        never.display()
    );
    Ok(Box::new(move || {
        let _files = &files;
        let mut times = Vec::with_capacity(kills);
        for _ in 0..kills {
            // Afresh each time: an agent that dies too often is parked.
            let hive = Hive::start(&["-n", "2", "--kind", "lines", "--", "bash", "-c", &script])?;
            let mut client = hive.connect()?;
            let _ = fs::remove_file(&hang);
            let asked = std::thread::spawn(move || client.round_trip().map(|_| Instant::now()));
            let end = Instant::now() + PATIENCE;
            while !hang.exists() {
                if Instant::now() > end {
                    return Err(failure("no agent took the task"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            let status = hive.status()?;
            let busy = status["agents"].as_array().into_iter().flatten().find(|agent| agent["state"] == "busy");
            let pid = busy.and_then(|agent| agent["workload"].as_i64()).ok_or_else(|| failure("no agent is busy"))?;
            let start = Instant::now();
            kill(Pid::from_raw(pid as i32), Signal::SIGKILL).trying("killing the agent")?;
            let answered = asked.join().map_err(|_| failure("the client panicked"))??;
            times.push((answered - start).as_secs_f64() * 1e6);
        }
        Ok(times)
    }))
}

/// A process dies, whoever holds it by pidfd writes to another, and that one answers.
fn floor_spare(kills: usize) -> Result<Sampler> {
    Ok(Box::new(move || {
        let (there, back) = (fifo::anonymous()?, fifo::anonymous()?);
        let _spare = Child::fork(|| {
            let mut byte = [0];
            while fifo::take(&there, &mut byte).is_ok() && fifo::put(&back, &byte).is_ok() {}
        })?;
        let mut times = Vec::with_capacity(kills);
        for _ in 0..kills {
            let agent = Child::fork(|| {
                loop {
                    std::thread::park();
                }
            })?;
            std::thread::sleep(Duration::from_millis(2));
            let pidfd = pidfd_of(agent.pid())?;
            let start = Instant::now();
            agent.kill();
            poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)
                .trying("waiting for a death")?;
            fifo::put(&there, b"x")?;
            fifo::take(&back, &mut [0])?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    }))
}

fn pidfd_of(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor, ours alone, or -1.
    match unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) } {
        -1 => Err(failure("pidfd_open failed")),
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}
