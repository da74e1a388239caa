//! The kernel, each call wrapped once. Owns all `unsafe` of hive.
//! Invariant: every descriptor is owned and close-on-exec from its creation; a pid is only ever signalled
//! through a pidfd or by the process that is its parent. Knows nothing of tasks or agents.

pub mod begin;
pub mod cgroup;
pub mod child;
pub mod clock;
pub mod failpoint;
pub mod fifo;
pub mod folder;
pub mod lock;
pub mod notify;
pub mod oom;
pub mod process;
pub mod shm;
pub mod signal;
pub mod start;
pub mod tree;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

/// A pipe whose ends no child inherits.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

pub fn set_nonblocking(fd: &impl AsFd, on: bool) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let flags = if on { flags | OFlag::O_NONBLOCK } else { flags - OFlag::O_NONBLOCK };
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// Reads once; an interrupted call is made again.
pub fn read(fd: &impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match nix::unistd::read(fd, into) {
            Err(nix::Error::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Writes once; an interrupted call is made again.
pub fn write(fd: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match nix::unistd::write(fd, bytes) {
            Err(nix::Error::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Whether anybody has this file, opened here for reading, open for writing: the kernel grants no read lease then. It knows,
/// whatever pid namespace they are in; where the file system grants none at all, somebody may have.
pub fn is_written_to(file: &std::fs::File) -> bool {
    use std::os::fd::AsRawFd;
    let lease = |kind: i32| {
        // SAFETY: takes no pointer; the descriptor is borrowed from `file`.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }
    };
    let refused = lease(libc::F_RDLCK) != 0;
    lease(libc::F_UNLCK);
    refused
}

/// Waits until one of `fds` can be read or `timeout_ms` (-1: for ever) has passed; says which can.
pub fn wait_readable(fds: &[std::os::fd::BorrowedFd], timeout_ms: i32) -> io::Result<Vec<bool>> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut polls: Vec<PollFd> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let timeout = PollTimeout::try_from(timeout_ms).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut polls, timeout) {
            Err(nix::Error::EINTR) => continue,
            other => other?,
        };
        return Ok(polls.iter().map(|p| p.any().unwrap_or(false)).collect());
    }
}

/// Sets room aside on the disk for part of a file, whose length stays as it is.
pub fn reserve(file: &impl AsFd, from: u64, bytes: u64) -> io::Result<()> {
    use nix::fcntl::{FallocateFlags, fallocate};
    Ok(fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from as i64, bytes as i64)?)
}

/// A larger pipe, for one that carries a lot. Where the user's share of pipe memory is used up, it stays as it is.
pub fn widen(pipe: &impl AsFd) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(1 << 20));
}

/// Raises the soft limit of open files to the hard one; returns what it was, for workloads to get back.
pub fn raise_open_files() -> io::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    static BEFORE: OnceLock<u64> = OnceLock::new();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(*BEFORE.get_or_init(|| soft))
}

/// How many files this process may have open.
pub fn open_files_max() -> io::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit};
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// The same file under a number of at least `least`.
pub fn move_up(fd: &impl AsFd, least: i32) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(least))?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

pub fn set_open_files(soft: u64) -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?)
}

/// Keeps the calling process on one processor.
pub fn let_others_run() {
    let _ = nix::sched::sched_yield();
}

pub fn pin_to(cpu: usize) -> io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    Ok(nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?)
}

/// Makes an open descriptor mean another file from here on; its number stays.
pub fn replace(old: &std::fs::File, new: &impl AsFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: both are open; `old` goes on owning its number, which now names the same file as `new`.
    match unsafe { libc::dup3(new.as_fd().as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The processors that a process may run on, as numbers.
pub fn processors_of(pid: process::Pid) -> io::Result<Vec<usize>> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(pid.0))?;
    Ok((0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

pub fn set_processors(cpus: &[usize]) -> io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    Ok(nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?)
}

/// The calling thread gives way to all others.
pub fn be_nice() {
    // SAFETY: no memory is touched; 0 names the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// What a large piece of work took and let go goes back to the machine.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator's own call, safe from any thread.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// From here on stdout goes nowhere; whoever read it sees its end.
pub fn close_stdout() -> io::Result<()> {
    let nothing = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    Ok(nix::unistd::dup2_stdout(nothing)?)
}

pub fn is_terminal(fd: &impl AsFd) -> bool {
    nix::unistd::isatty(fd).unwrap_or(false)
}

pub fn user_id() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Closes what whoever started us had open above stderr: it is not ours to keep, or to hand on.
/// Called before anything is opened here.
pub fn close_inherited() {
    // SAFETY: nothing in this process owns a descriptor above 2 yet, so none is closed under its owner.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
}
