//! Processes: holding them by pidfd, seeing them end, finding out about them. [`start`] is next door.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::libc;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

pub use super::start::{Bounds, Place, Plan, Rlimit, start, start_all};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(pub i32);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Exit(i32),
    Signal(i32),
}

/// A process held by descriptor: its pid cannot come to mean another while this is open.
#[derive(Debug)]
pub struct Process {
    pub pid: Pid,
    fd: OwnedFd,
}

impl Process {
    /// Holds a process that exists, whoever started it.
    pub fn open(pid: Pid) -> io::Result<Process> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.0, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor (close-on-exec by definition); nobody else owns it.
        Ok(Process { pid, fd: unsafe { OwnedFd::from_raw_fd(fd as RawFd) } })
    }

    /// Sends a signal; `false` where the process has ended already.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        // SAFETY: the descriptor is a pidfd that we own; a null siginfo means "as kill would".
        let r = unsafe {
            let no_info = std::ptr::null::<libc::siginfo_t>();
            libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), signal as i32, no_info, 0)
        };
        match (r, io::Error::last_os_error()) {
            (0, _) => Ok(true),
            (_, e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            (_, e) => Err(e),
        }
    }

    /// Waits until it has ended, at most so long.
    pub fn wait_for_end(&self, timeout_ms: i32) -> bool {
        super::wait_readable(&[self.fd.as_fd()], timeout_ms).is_ok_and(|ready| ready[0])
    }

    /// Takes the ending of a child; `None` while it runs or if it is not ours.
    pub fn reap(&self) -> Option<Ending> {
        ending_of(waitid(Id::PIDFd(self.fd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).ok()?)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn ending_of(status: WaitStatus) -> Option<Ending> {
    match status {
        WaitStatus::Exited(_, code) => Some(Ending::Exit(code)),
        WaitStatus::Signaled(_, signal, _) => Some(Ending::Signal(signal as i32)),
        _ => None,
    }
}

/// What [`reap_any`] found.
pub enum Reaped {
    Child(Pid, Ending),
    /// Children exist, none has ended.
    NoneEnded,
    /// There is no child at all: the tree below a subreaper is empty.
    NoChildren,
}

/// Takes the ending of any one child. Only for a host: it owns every child it has, started or inherited.
pub fn reap_any() -> Reaped {
    match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Err(_) => Reaped::NoChildren,
        Ok(status) => match (status.pid(), ending_of(status)) {
            (Some(pid), Some(ending)) => Reaped::Child(Pid(pid.as_raw()), ending),
            _ => Reaped::NoneEnded,
        },
    }
}

/// Does something before anything else that wants the processor, where that is allowed: a crowd that forks gets so much
/// of it that who ends the crowd would come too late.
pub fn urgently(act: impl FnOnce()) {
    let urgent = set_scheduler(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, 1);
    act();
    // Only who has the privilege may take the flag back as well.
    if urgent && !set_scheduler(libc::SCHED_OTHER, 0) {
        set_scheduler(libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK, 0);
    }
}

fn set_scheduler(policy: libc::c_int, priority: libc::c_int) -> bool {
    // SAFETY: all zeros is a sched_param; the C library copies it before it returns.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = priority;
    // SAFETY: as above; 0 is this process.
    unsafe { libc::sched_setscheduler(0, policy, &param) == 0 }
}

/// Processor time of children that have ended, and of theirs that they waited for.
pub fn cpu_time_of_children() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Duration::ZERO };
    let micros = |t: TimeVal| Duration::from_micros(t.num_microseconds().max(0) as u64);
    micros(usage.user_time()) + micros(usage.system_time())
}

/// Whether there is any child, ended or not.
pub fn has_children() -> bool {
    waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT).is_ok()
}

/// Orphans below this process become its children instead of init's.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// One signal to a whole process group: `false` where it has no members.
pub fn signal_group(group: i32, signal: Signal) -> io::Result<bool> {
    match nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), signal) {
        Ok(()) => Ok(true),
        Err(nix::Error::ESRCH) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// A signal to a process that is below us: our child, or found under our own tree a moment ago.
pub fn signal_descendant(pid: Pid, signal: Signal) {
    // A process below a subreaper stays until the subreaper reaps it, so its pid cannot have passed to another.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.0), signal);
}

/// The environment of this process as it was given, NAME=value each. Nothing in hive changes it.
pub fn environment() -> impl Iterator<Item = &'static CStr> {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    // SAFETY: the C library set this before anything of ours ran; it is a list that a null pointer ends, and since nobody
    // sets a variable, list and strings stay as they are.
    let mut next = unsafe { environ };
    std::iter::from_fn(move || {
        // SAFETY: as above; the end is not passed.
        let entry = unsafe { next.as_ref() }.filter(|entry| !entry.is_null())?;
        // SAFETY: as above; the list goes on behind an entry.
        next = unsafe { next.add(1) };
        // SAFETY: as above; each entry is a string that a NUL ends.
        Some(unsafe { CStr::from_ptr(*entry) })
    })
}

/// When a process started, in clock ticks since boot: with its pid, its identity.
pub fn start_time(pid: Pid) -> io::Result<u64> {
    Ok(stat(pid)?.start_ticks)
}

/// What the kernel shows of a process.
pub struct Stat {
    /// It has ended, and nobody has taken its ending.
    pub is_zombie: bool,
    pub group: i32,
    pub start_ticks: u64,
}

pub fn stat(pid: Pid) -> io::Result<Stat> {
    let mut text = [0; 1024];
    let file = std::fs::File::open(format!("/proc/{}/stat", pid.0))?;
    let len = super::read(&file, &mut text)?;
    let text = String::from_utf8_lossy(&text[..len]);
    // The name before it may hold anything.
    let fields: Vec<&str> = text.rsplit_once(") ").map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    let number = |n: usize| fields.get(n).and_then(|f| f.parse().ok());
    let unreadable = || io::Error::other("unreadable /proc/<pid>/stat");
    Ok(Stat {
        is_zombie: matches!(fields.first(), Some(&"Z" | &"X")),
        group: number(2).ok_or_else(unreadable)? as i32,
        start_ticks: number(19).ok_or_else(unreadable)?,
    })
}

/// This boot of the machine: pids and start times mean something within one boot only.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What `ps` and `top` call this process: it was started through /proc/self/exe, and would be called "exe".
pub fn set_name() {
    let _ = nix::sys::prctl::set_name(c"hivectl");
}

pub fn my_pid() -> Pid {
    Pid(std::process::id() as i32)
}

/// A descriptor that this process was handed at its start, by its number. No child gets it by accident.
/// `None` where there is no such, or it was taken already.
pub fn handed(number: RawFd) -> Option<OwnedFd> {
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    let bit = 1u64.checked_shl(number as u32)?;
    // SAFETY: fcntl fails on a number that is not open. Each number is given out once, so there is one owner.
    unsafe {
        let open = libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) == 0;
        let first = TAKEN.fetch_or(bit, Ordering::Relaxed) & bit == 0;
        (open && first && number > 2).then(|| OwnedFd::from_raw_fd(number))
    }
}

/// A process's group.
pub fn group_of(pid: Pid) -> io::Result<i32> {
    Ok(nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(pid.0)))?.as_raw())
}

pub fn cstring(text: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "it has a NUL byte inside"))
}

/// Finds a program as a shell would, in the PATH of the environment that it will get.
pub fn find_program(name: &str, env: &[CString], folder: &Path) -> io::Result<PathBuf> {
    if name.contains('/') {
        return Ok(folder.join(name));
    }
    let path = env.iter().find_map(|e| e.as_bytes().strip_prefix(b"PATH=")).unwrap_or(b"/usr/local/bin:/usr/bin:/bin");
    std::env::split_paths(OsStr::from_bytes(path))
        .map(|dir| folder.join(dir).join(name))
        .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "command not found"))
}
