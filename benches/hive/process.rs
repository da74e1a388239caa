//! Owns the starting and ending of processes: forked helpers of the floors, and programs started with posix_spawn.
//!
//! Invariant: a process started here is waited for by its pid, and by nobody else.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, read, write};

use crate::error::{Result, Trying, failure};
use crate::os;

/// A helper that lives no longer than this value.
pub struct Child(Pid);

impl Child {
    pub fn fork(work: impl FnOnce()) -> Result<Child> {
        os::fork_child(work).map(Child).trying("forking a helper")
    }

    pub fn pid(&self) -> Pid {
        self.0
    }

    pub fn kill(&self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }

    /// Waits until it sleeps in flock(2), as the kernel says it.
    pub fn wait_until_blocked(&self) -> Result<()> {
        let call = format!("{} ", nix::libc::SYS_flock);
        for _ in 0..10_000 {
            let text = std::fs::read_to_string(format!("/proc/{}/syscall", self.0)).unwrap_or_default();
            if text.starts_with(&call) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        Err(failure("a process did not come to wait for a lock"))
    }

    pub fn wait(self) -> Result<()> {
        let ended = wait_for(self.0);
        // Ended and reaped: its pid may already be somebody else's.
        std::mem::forget(self);
        ended.map(drop)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        while waitpid(self.0, None) == Err(Errno::EINTR) {}
    }
}

/// A program, its arguments and its environment, made ready once so that a timed start does nothing else.
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    attributes: PosixSpawnAttr,
}

/// A program that runs with its standard input and output held here.
pub struct Piped {
    child: Child,
    input: OwnedFd,
    output: OwnedFd,
}

impl Program {
    pub fn new(path: &Path, arguments: &[&str]) -> Result<Program> {
        let path = c_string(&path.to_string_lossy())?;
        let mut all = vec![path.clone()];
        for argument in arguments {
            all.push(c_string(argument)?);
        }
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy();
            // A bench that runs inside a hive must not hand that hive's words on.
            if !name.starts_with("HIVE_") {
                environment.push(c_string(&format!("{name}={}", value.to_string_lossy()))?);
            }
        }
        Ok(Program { path, arguments: all, environment, attributes: attributes().trying("making spawn attributes")? })
    }

    pub fn env(mut self, name: &str, value: &Path) -> Result<Program> {
        self.environment.push(c_string(&format!("{name}={}", value.display()))?);
        Ok(self)
    }

    /// Starts it with nothing on its standard streams.
    pub fn start(&self) -> Result<Child> {
        let actions = quiet_streams().trying("preparing a start")?;
        self.spawn(&actions).map(Child)
    }

    /// Starts it and waits: the whole life of a command.
    pub fn run(&self) -> Result<()> {
        let actions = quiet_streams().trying("preparing a start")?;
        let pid = self.spawn(&actions)?;
        match wait_for(pid)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            other => Err(failure(format!("{}: {other:?}", self.path.to_string_lossy()))),
        }
    }

    /// Starts it with pipes as standard input and output.
    pub fn start_piped(&self) -> Result<Piped> {
        let (their_input, input) = pipe2(OFlag::O_CLOEXEC).trying("making a pipe")?;
        let (output, their_output) = pipe2(OFlag::O_CLOEXEC).trying("making a pipe")?;
        let mut actions = PosixSpawnFileActions::init().trying("preparing a start")?;
        actions.add_dup2(their_input.as_raw_fd(), 0).trying("preparing a start")?;
        actions.add_dup2(their_output.as_raw_fd(), 1).trying("preparing a start")?;
        let child = Child(self.spawn(&actions)?);
        Ok(Piped { child, input, output })
    }

    fn spawn(&self, actions: &PosixSpawnFileActions) -> Result<Pid> {
        posix_spawn(&*self.path, actions, &self.attributes, &self.arguments, &self.environment)
            .map_err(|cause| failure(format!("starting {}: {cause}", self.path.to_string_lossy())))
    }
}

impl Piped {
    /// Gives it its task, takes its whole answer and waits for its end; returns the length of the answer.
    pub fn finish(self, text: &[u8]) -> Result<usize> {
        let Piped { child, input, output } = self;
        write(&input, text).trying("writing to a program")?;
        drop(input);
        let mut buffer = [0; 4096];
        let mut total = 0;
        loop {
            match read(&output, &mut buffer).trying("reading from a program")? {
                0 => break,
                count => total += count,
            }
        }
        child.wait()?;
        Ok(total)
    }
}

fn wait_for(pid: Pid) -> Result<WaitStatus> {
    waitpid(pid, None).map_err(|cause| {
        // Given up (the alarm rang): the process must not outlive the measurement.
        drop(Child(pid));
        failure(format!("waiting for process {pid}: {cause}"))
    })
}

/// The Rust runtime ignores SIGPIPE; a started program must find the default.
fn attributes() -> nix::Result<PosixSpawnAttr> {
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    Ok(attributes)
}

fn quiet_streams() -> nix::Result<PosixSpawnFileActions> {
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_open(0, "/dev/null", OFlag::O_RDONLY, nix::sys::stat::Mode::empty())?;
    actions.add_open(1, "/dev/null", OFlag::O_WRONLY, nix::sys::stat::Mode::empty())?;
    Ok(actions)
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).trying("a NUL byte in an argument")
}
