//! Signals as a descriptor that can be read, so that the one place that waits hears them like everything else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};

pub const KILL: i32 = Signal::SIGKILL as i32;
pub const XCPU: i32 = Signal::SIGXCPU as i32;

/// Becomes readable when one of `signals` arrives; they do nothing else from here on. Signals do not queue: one byte may
/// stand for many.
pub fn doorbell(signals: &[Signal]) -> io::Result<OwnedFd> {
    let (bell, ring) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal as i32, OwnedFd::from(ring.try_clone()?))?;
    }
    Ok(bell.into())
}

/// The same for signals that nothing else in this process is to hear, with no handler in between: they are blocked. Before
/// any other thread is started.
pub fn blocked_doorbell(signals: &[Signal]) -> io::Result<SignalFd> {
    let set: SigSet = signals.iter().copied().collect();
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Takes what rang.
pub fn hush(bell: &impl AsFd) {
    let mut bytes = [0; 64];
    while matches!(super::read(bell, &mut bytes), Ok(n) if n > 0) {}
}

/// The same for such a bell: at once all that can be pending.
pub fn hush_blocked(bell: &SignalFd) {
    let mut signals = [0; 64 * size_of::<siginfo>()];
    let _ = super::read(bell, &mut signals);
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
