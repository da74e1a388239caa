//! Owns the barrier floor: a supervisor that is asked, rings for a group of processes by one signal, takes an answer from
//! each, and answers.

use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, setpgid};

use crate::error::{Result, Trying};
use crate::fifo::{self, PIPE_SIZE, RECORD};
use crate::process::Child;

pub struct Ring {
    requests: OwnedFd,
    answers: OwnedFd,
    _processes: Vec<Child>,
}

impl Ring {
    pub fn start(agents: usize) -> Result<Ring> {
        let (requests, answers, saved) = (fifo::anonymous()?, fifo::anonymous()?, fifo::anonymous()?);
        let bell = SigSet::from(Signal::SIGUSR1);
        // Blocked before they are there: none can be ended by a ring that it does not wait for yet.
        bell.thread_block().trying("blocking a signal")?;
        let mut processes: Vec<Child> = Vec::with_capacity(agents + 1);
        for _ in 0..agents {
            let group = processes.first().map_or(Pid::from_raw(0), Child::pid);
            let child = Child::fork(|| answer_rings(&bell, &saved))?;
            setpgid(child.pid(), group).trying("joining a group")?;
            processes.push(child);
        }
        let group = processes[0].pid();
        processes.push(Child::fork(|| while barrier(&requests, group, agents, &saved, &answers).is_ok() {})?);
        bell.thread_unblock().trying("unblocking a signal")?;
        Ok(Ring { requests, answers, _processes: processes })
    }

    pub fn round(&self) -> Result<()> {
        let mut record = [b'x'; RECORD];
        fifo::put(&self.requests, &record)?;
        fifo::take(&self.answers, &mut record).map(drop)
    }
}

fn answer_rings(bell: &SigSet, saved: &OwnedFd) {
    let record = [b's'; RECORD];
    while bell.wait().is_ok() && fifo::put(saved, &record).is_ok() {}
}

fn barrier(requests: &OwnedFd, group: Pid, agents: usize, saved: &OwnedFd, answers: &OwnedFd) -> Result<()> {
    let mut buffer = vec![0; PIPE_SIZE];
    fifo::take(requests, &mut buffer[..RECORD])?;
    killpg(group, Signal::SIGUSR1).trying("ringing for a group")?;
    let mut missing = agents * RECORD;
    while missing > 0 {
        missing -= fifo::take(saved, &mut buffer)?;
    }
    fifo::put(answers, &buffer[..RECORD])
}
