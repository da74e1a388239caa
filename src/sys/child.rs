//! A command that a verb runs in the foreground, in its own group and on its terminal: signals are handed on, and it does
//! not outlive the verb (PR_SET_PDEATHSIG), so that whoever holds something for it can be killed at any time.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::process::{Ending, Pid, Process};

/// What a person or a program may send to a verb and mean its command.
const HANDED_ON: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

pub struct Child {
    process: Process,
    signals: SignalFd,
}

/// What a wait has ended with.
pub enum Seen {
    Ended(Ending),
    /// The other descriptor can be read.
    Other,
    TimedOut,
}

impl Child {
    /// Starts a command. From here on the signals in `HANDED_ON` go to it alone.
    pub fn start(command: &mut Command) -> io::Result<Child> {
        let set = SigSet::from_iter(HANDED_ON);
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let parent = std::process::id();
        // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid, sigprocmask.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
                // Orphaned before the line above: then nobody would say so.
                if nix::unistd::getppid().as_raw() as u32 == parent { Ok(()) } else { Err(nix::Error::ESRCH.into()) }
            });
        }
        let child = command.spawn()?;
        Ok(Child { process: Process::open(Pid(child.id() as i32))?, signals })
    }

    /// Waits for its end, or until `other` can be read, at most so long (-1: for ever).
    pub fn wait(&self, other: Option<&impl AsFd>, timeout_ms: i32) -> io::Result<Seen> {
        loop {
            let mut fds = vec![self.process.as_fd(), self.signals.as_fd()];
            fds.extend(other.map(|other| other.as_fd()));
            let ready = super::wait_readable(&fds, timeout_ms)?;
            if ready[1] {
                self.hand_on()?;
            }
            if ready[0]
                && let Some(ending) = self.process.reap()
            {
                return Ok(Seen::Ended(ending));
            }
            match (ready.get(2), ready.iter().any(|ready| *ready)) {
                (Some(true), _) => return Ok(Seen::Other),
                (_, false) => return Ok(Seen::TimedOut),
                _ => {}
            }
        }
    }

    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        self.process.signal(signal)
    }

    fn hand_on(&self) -> io::Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            // What comes from the terminal has gone to the whole group, the command included.
            let is_from_terminal = info.ssi_code == libc::SI_KERNEL;
            if let Some(signal) = Signal::try_from(info.ssi_signo as i32).ok().filter(|_| !is_from_terminal) {
                self.process.signal(signal)?;
            }
        }
        Ok(())
    }
}
