//! Owns every unsafe call of the bench, each wrapped once. Nothing here knows what is measured.
//!
//! Invariant: `fork` is only called while this process has one thread, so that a child may do anything its parent may.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid, fork};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Forks a child that runs `work` and exits; it dies with this process, whatever happens.
pub fn fork_child(work: impl FnOnce()) -> nix::Result<Pid> {
    // SAFETY: the bench has one thread whenever it forks (the writer thread of a flood is joined before the flood
    // returns), so no lock can be left held in the child.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = set_pdeathsig(Signal::SIGKILL);
            let ended_well = catch_unwind(AssertUnwindSafe(work)).is_ok();
            let _ = std::io::stderr().flush();
            // SAFETY: `_exit` only ends the process; the parent's exit handlers must not run twice.
            unsafe { libc::_exit(if ended_well { 0 } else { 1 }) }
        }
    }
}

/// From here on an alarm, an interrupt or a request to end makes a blocking call return EINTR instead of ending the
/// bench, so that what it started is always ended in the ordinary way.
pub fn catch_signals() -> nix::Result<()> {
    // No SA_RESTART: a blocked read must return.
    let on_alarm = SigAction::new(SigHandler::Handler(ring_again), SaFlags::empty(), SigSet::empty());
    let on_stop = SigAction::new(SigHandler::Handler(remember_stop), SaFlags::empty(), SigSet::empty());
    // SAFETY: both handlers do nothing but an atomic store and `alarm`, which are async-signal-safe.
    unsafe {
        sigaction(Signal::SIGALRM, &on_alarm)?;
        sigaction(Signal::SIGINT, &on_stop)?;
        sigaction(Signal::SIGTERM, &on_stop)?;
    }
    Ok(())
}

/// True once the user asked the bench to end.
pub fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

extern "C" fn ring_again(_signal: libc::c_int) {
    // One alarm may hit between two calls and interrupt nothing: repeat until it is cancelled.
    // SAFETY: `alarm` takes no pointer and is async-signal-safe.
    unsafe { libc::alarm(1) };
}

extern "C" fn remember_stop(_signal: libc::c_int) {
    STOPPED.store(true, Ordering::Relaxed);
    // SAFETY: as above; a blocked measurement is interrupted again until it gives up.
    unsafe { libc::alarm(1) };
}
