//! Signals as a descriptor that can be read, so that the one place that waits hears them like everything else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub const KILL: i32 = Signal::SIGKILL as i32;
pub const XCPU: i32 = Signal::SIGXCPU as i32;

/// Becomes readable when one of `signals` arrives; they do nothing else from here on, in this thread and those that it
/// starts: so this comes before any other thread. Signals do not queue: one may stand for many.
/// Processes that [`super::start`] starts have none blocked.
pub fn doorbell(signals: &[Signal]) -> io::Result<OwnedFd> {
    let set: SigSet = signals.iter().copied().collect();
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?.into())
}

/// Takes what rang.
pub fn hush(bell: &impl AsFd) {
    let mut bytes = [0; 512];
    while matches!(super::read(bell, &mut bytes), Ok(n) if n == bytes.len()) {}
}

/// Ignores a signal for this process. Workloads get defaults again when they are started.
pub fn ignore(which: Signal) -> io::Result<()> {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { signal(which, SigHandler::SigIgn) }?;
    Ok(())
}

/// The signal's name without its "SIG", for people.
pub fn name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| number.to_string(), |s| s.as_str().trim_start_matches("SIG").to_owned())
}
