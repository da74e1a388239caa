//! A host in a barrier: rung for with all others, it looks which barrier is open, says how its task stands, and begins no
//! other until it is released.
//! Invariant: a bell alone means nothing. What is open is read from the file that all hosts share, so a ring that is
//! missed, doubled or late does no harm.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::Host;
use crate::model::{BarrierId, Kind};
use crate::sys::{process, signal};
use crate::wire::host::News;

pub struct Bell {
    pub rings: SignalFd,
    /// The number of the barrier that is open, or 0.
    file: File,
    open: BarrierId,
}

impl Bell {
    pub fn new(file: File) -> io::Result<Bell> {
        let rings = signal::blocked_doorbell(&[Signal::SIGUSR1, Signal::SIGUSR2])?;
        Ok(Bell { rings, file, open: BarrierId(0) })
    }

    /// Whether no task is to be begun.
    pub fn holds(&self) -> bool {
        self.open != BarrierId(0)
    }

    fn look(&self) -> BarrierId {
        let mut number = [0; 8];
        // A few bytes of memory are there: they are read whole.
        let _ = self.file.read_exact_at(&mut number, 0);
        BarrierId(u64::from_ne_bytes(number))
    }
}

impl Host {
    /// A program that reads its own lines answers for itself.
    pub(super) fn rung(&mut self) {
        signal::hush_blocked(&self.bell.rings);
        if !self.orders.spec.kind.is_hosted() {
            return;
        }
        self.bell.open = self.bell.look();
        if self.bell.holds() {
            let note = self.how_it_stands();
            self.report(News::Seen(self.bell.open, note.into()));
        }
    }

    fn how_it_stands(&self) -> String {
        let Some(job) = self.current.as_ref().filter(|job| job.task.is_some()) else { return "idle".to_owned() };
        let logged = job.log.as_ref().map_or(0, |log| log.taken);
        format!("process {} works, {logged} bytes in its log", job.pid.0)
    }

    /// The workload asked for this when it said that it was ready. It is our child: its pid is nobody else's.
    pub(super) fn ring_workload(&self) {
        if let Some(job) =
            self.current.as_ref().filter(|job| self.orders.spec.kind == Kind::Lines && job.ending.is_none())
        {
            process::signal_descendant(job.pid, Signal::SIGUSR1);
        }
    }
}
