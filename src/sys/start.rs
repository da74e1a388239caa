//! Starting a process: all is prepared here, and the last steps are ours, in the child, before its program begins.
//! Until then the child borrows our memory while we wait (as vfork's does), so the cost does not grow with ours.
//! Invariant: a started program has default signal dispositions (but for a group's bells), an empty mask, and exactly the descriptors that it was given.
//! Between clone and exec nothing is allocated, locked or unwound: plain system calls on what was prepared.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::libc;

use super::process::{Pid, cstring};

/// Where a new process stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A session of its own.
    Session,
    /// A process group: a given one, or (0) one of its own. The group's bells (USR1, USR2) are not heard before the
    /// program says so: by default they would end it.
    Group(i32),
}

/// What to start, and where.
pub struct Plan<'a> {
    pub program: &'a Path,
    pub args: &'a [CString],
    pub env: &'a [CString],
    pub folder: Option<&'a Path>,
    /// What it has open, by number: stdin, stdout, stderr, and what else it is handed.
    pub fds: &'a [RawFd],
    pub place: Place,
    pub bounds: Bounds<'a>,
}

/// What the program, and all that it starts, is held to. Nothing, by default.
#[derive(Clone, Copy, Default)]
pub struct Bounds<'a> {
    /// The folder of the cgroup that it is born in, where that is possible.
    pub cgroup: Option<BorrowedFd<'a>>,
    pub rlimits: &'a [Rlimit],
    /// How much nicer than we it is.
    pub nice: i32,
    /// What the kernel's out-of-memory killer is told, as text.
    pub oom_score: Option<&'a CStr>,
}

/// A resource limit as setrlimit takes it.
#[derive(Clone, Copy)]
pub struct Rlimit {
    resource: Resource,
    values: libc::rlimit,
}

/// Its number, in the type that the C library in use has for it.
#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

impl Rlimit {
    /// Seconds of processor time of one process: asked to end by SIGXCPU, and killed a second later.
    pub fn cpu_time(seconds: u64) -> Rlimit {
        Rlimit::within(libc::RLIMIT_CPU, seconds, seconds + 1)
    }

    pub fn open_files(count: u64) -> Rlimit {
        Rlimit::within(libc::RLIMIT_NOFILE, count, count)
    }

    /// No limit goes above the hard one that we have ourselves.
    fn within(resource: Resource, soft: u64, hard: u64) -> Rlimit {
        let mut ours = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: `ours` is a whole rlimit that outlives the call.
        unsafe { libc::getrlimit(resource, &mut ours) };
        let values = libc::rlimit { rlim_cur: soft.min(ours.rlim_max), rlim_max: hard.min(ours.rlim_max) };
        Rlimit { resource, values }
    }
}

/// Everything that the child needs, made before it is born.
struct Child<'a> {
    program: CString,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    folder: Option<CString>,
    fds: Vec<RawFd>,
    place: Place,
    bounds: Bounds<'a>,
    /// Why it could not become its program: the child writes it, we read it.
    error: libc::c_int,
}

/// Starts a process.
pub fn start(plan: &Plan) -> io::Result<Pid> {
    // A descriptor whose own number is one of those to be filled would be overwritten before its turn.
    let moved = plan.fds.iter().filter(|fd| (**fd as usize) < plan.fds.len());
    let moved = moved.map(|fd| Ok((*fd, move_up(*fd, plan.fds.len())?)));
    let moved = moved.collect::<io::Result<Vec<(RawFd, OwnedFd)>>>()?;
    let to_fill = |fd: &RawFd| moved.iter().find(|(from, _)| from == fd).map_or(*fd, |(_, to)| to.as_raw_fd());
    let mut child = Child {
        program: cstring(plan.program.as_os_str())?,
        argv: pointers(plan.args),
        envp: pointers(plan.env),
        folder: plan.folder.map(|f| cstring(f.as_os_str())).transpose()?,
        fds: plan.fds.iter().map(to_fill).collect(),
        place: plan.place,
        bounds: plan.bounds,
        error: 0,
    };
    let mut stack = Stack::new();
    let signals = Blocked::all();
    let born = born_in_cgroup(&mut stack, &mut child).or_else(|_| born(&mut stack, &mut child));
    drop(signals);
    let pid = born?;
    // SAFETY: `child` is alive and initialised; the read is volatile because another process wrote it.
    match unsafe { std::ptr::read_volatile(&child.error) } {
        0 => Ok(Pid(pid)),
        error => {
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            Err(io::Error::from_raw_os_error(error))
        }
    }
}

/// Starts many. A thread waits in each start until the new process has its own program, so there are as many threads as
/// processors, for as long as this takes.
pub fn start_all(plans: &[Plan]) -> Vec<io::Result<Pid>> {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = plans.len().div_ceil(processors).max(1);
    let start_share = |plans: &[Plan]| plans.iter().map(start).collect::<Vec<_>>();
    let mut shares = plans.chunks(share);
    let own = shares.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let helpers: Vec<_> = shares.map(|plans| (plans, scope.spawn(move || start_share(plans)))).collect();
        let mut started = start_share(own);
        for (plans, helper) in helpers {
            started.extend(helper.join().unwrap_or_else(|_| start_share(plans)));
        }
        started
    })
}

/// The same file under a number of at least `least`.
fn move_up(fd: RawFd, least: usize) -> io::Result<OwnedFd> {
    // SAFETY: the caller's descriptor is open for as long as it is used here; fcntl makes a new one, which only we own.
    unsafe {
        match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least as libc::c_int) {
            -1 => Err(io::Error::last_os_error()),
            new => Ok(OwnedFd::from_raw_fd(new)),
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

const FLAGS: i32 = libc::CLONE_VM | libc::CLONE_VFORK;
/// A flag of clone3 alone: it lies above those of clone.
#[cfg(target_arch = "x86_64")]
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// The child begins outside, and goes into its cgroup by itself: the kernel may take milliseconds for that.
fn born(stack: &mut Stack, child: &mut Child) -> io::Result<i32> {
    // SAFETY: the child runs on a stack of its own while we are suspended until it has begun its program or ended, so
    // nobody else touches `child` or the stack meanwhile; with all signals blocked no handler runs in it.
    let pid = unsafe { libc::clone(run_child, stack.top(), FLAGS | libc::SIGCHLD, (&raw mut *child).cast()) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

/// The child is born in its cgroup, which costs nothing. Fails where that cannot be done.
#[cfg(target_arch = "x86_64")]
fn born_in_cgroup(stack: &mut Stack, child: &mut Child) -> io::Result<i32> {
    let cgroup = child.bounds.cgroup.take().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSYS))?;
    // SAFETY: all zeros is a clone_args that asks for nothing.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = FLAGS as u64 | CLONE_INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = stack.bottom() as u64;
    args.stack_size = Stack::BYTES as u64;
    args.cgroup = cgroup.as_raw_fd() as u64;
    let pid: i64;
    // SAFETY: as for `born`. The C library has no function for this call: the child, to which it returns 0 on the new
    // stack, calls `run_child` there, which never comes back; to us the kernel gives all registers but these three back.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            in("r12") &raw mut *child,
            in("r13") run_child as extern "C" fn(*mut libc::c_void) -> libc::c_int,
            in("rdi") &args,
            in("rsi") std::mem::size_of::<libc::clone_args>(),
            inlateout("rax") libc::SYS_clone3 => pid,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if pid > 0 {
        return Ok(pid as i32);
    }
    child.bounds.cgroup = Some(cgroup);
    Err(io::Error::from_raw_os_error(-pid as i32))
}

#[cfg(not(target_arch = "x86_64"))]
fn born_in_cgroup(_: &mut Stack, _: &mut Child) -> io::Result<i32> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

extern "C" fn run_child(child: *mut libc::c_void) -> libc::c_int {
    let child = child.cast::<Child>();
    // SAFETY: we are the child, and `start` gave us this pointer to its `Child`, which it does not touch until we have
    // gone. _exit leaves its memory as it is.
    unsafe {
        let error = (*child).become_program();
        std::ptr::write_volatile(&raw mut (*child).error, error);
        libc::_exit(127)
    }
}

impl Child<'_> {
    /// Returns only if that fails: why.
    fn become_program(&self) -> libc::c_int {
        match self.take_place().and_then(|()| self.accept_bounds()) {
            // SAFETY: program, argv and envp are NUL-terminated and live in the parent, which waits.
            Ok(()) => unsafe {
                libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
                errno()
            },
            Err(error) => error,
        }
    }

    fn take_place(&self) -> Result<(), libc::c_int> {
        clear_signals();
        // SAFETY: calls on integers, and on a path that lives in the parent.
        unsafe {
            match self.place {
                Place::Session => done(libc::setsid())?,
                Place::Group(group) => {
                    set_action(libc::SIGUSR1 as usize, libc::SIG_IGN);
                    set_action(libc::SIGUSR2 as usize, libc::SIG_IGN);
                    done(libc::setpgid(0, group))?
                }
            }
            if let Some(folder) = &self.folder {
                done(libc::chdir(folder.as_ptr()))?;
            }
            for (target, fd) in (0..).zip(&self.fds) {
                done(libc::dup2(*fd, target))?;
            }
        }
        Ok(())
    }

    /// What cannot be had of a cgroup or a score is done without; a limit that cannot be set is an error.
    fn accept_bounds(&self) -> Result<(), libc::c_int> {
        let Bounds { cgroup, rlimits, nice, oom_score } = self.bounds;
        if let Some(cgroup) = cgroup {
            tell(cgroup.as_raw_fd(), c"cgroup.procs", c"0");
        }
        if let Some(score) = oom_score {
            tell(libc::AT_FDCWD, c"/proc/self/oom_score_adj", score);
        }
        // SAFETY: calls on integers and on rlimits that live in the parent.
        unsafe {
            if nice != 0 {
                libc::nice(nice);
            }
            for limit in rlimits {
                done(libc::setrlimit(limit.resource, &limit.values))?;
            }
        }
        Ok(())
    }
}

fn errno() -> libc::c_int {
    // SAFETY: the C library's own place for it; the parent, who shares it, waits.
    unsafe { *libc::__errno_location() }
}

fn done(returned: libc::c_int) -> Result<(), libc::c_int> {
    if returned < 0 { Err(errno()) } else { Ok(()) }
}

/// Writes a word into a file of the kernel's.
fn tell(folder: RawFd, file: &CStr, word: &CStr) {
    // SAFETY: both texts are NUL-terminated and static or the parent's; the descriptor is closed where it was opened.
    unsafe {
        let fd = libc::openat(folder, file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, word.as_ptr().cast(), word.count_bytes());
            libc::close(fd);
        }
    }
}

/// As many bytes as the kernel has signals bits.
const MASK: usize = 8;

/// Every signal as it is by default, and none blocked. By the kernel's own calls: the C library hides two signals.
fn clear_signals() {
    (1..=MASK * 8).for_each(|signal| set_action(signal, libc::SIG_DFL));
    set_mask(0);
}

fn set_action(signal: usize, handler: libc::sighandler_t) {
    let action = [handler as u64, 0, 0, 0];
    // SAFETY: the kernel's sigaction begins with the handler, and is no longer than this; SIG_DFL and SIG_IGN run no code.
    // For KILL and STOP it only says no.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), 0, MASK) };
}

fn set_mask(new: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: both masks are as long as the kernel is told.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const new, &raw mut old, MASK) };
    old
}

/// While this lives no signal handler runs in this thread.
struct Blocked(u64);

impl Blocked {
    fn all() -> Blocked {
        Blocked(set_mask(u64::MAX))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        set_mask(self.0);
    }
}

/// The stack of a child before its program has its own.
struct Stack(Vec<u128>);

impl Stack {
    const BYTES: usize = 32 * 1024;

    fn new() -> Stack {
        Stack(Vec::with_capacity(Stack::BYTES / size_of::<u128>()))
    }

    fn bottom(&mut self) -> *mut u128 {
        self.0.as_mut_ptr()
    }

    /// Stacks grow downwards. It is aligned as calls want it.
    fn top(&mut self) -> *mut libc::c_void {
        self.bottom().wrapping_add(Stack::BYTES / size_of::<u128>()).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{Ending, Process};

    fn run(script: &str, bounds: Bounds) -> Option<Ending> {
        let args: Vec<CString> = ["sh", "-c", script].map(|a| CString::new(a).unwrap()).into();
        let plan = Plan {
            program: Path::new("/bin/sh"),
            args: &args,
            env: &[],
            folder: Some(Path::new("/")),
            fds: &[0, 1, 2],
            place: Place::Session,
            bounds,
        };
        let process = Process::open(start(&plan).unwrap()).unwrap();
        assert!(process.wait_for_end(10_000));
        process.reap()
    }

    #[test]
    fn a_child_is_held_to_its_bounds() {
        let rlimits = [Rlimit::open_files(33), Rlimit::cpu_time(7)];
        let bounds = Bounds { rlimits: &rlimits, nice: 3, oom_score: Some(c"777"), cgroup: None };
        let script = "read score </proc/self/oom_score_adj
            [ $(ulimit -n) = 33 ] && [ $(ulimit -t) = 7 ] && [ $(ulimit -Ht) = 8 ] && [ $score = 777 ]";
        assert_eq!(run(script, bounds), Some(Ending::Exit(0)));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_here() {
        let plan = |program, folder| Plan {
            program: Path::new(program),
            args: &[],
            env: &[],
            folder: Some(Path::new(folder)),
            fds: &[0, 1, 2],
            place: Place::Session,
            bounds: Bounds::default(),
        };
        for (program, folder) in [("/no/such/program", "/"), ("/bin/true", "/no/such/folder")] {
            let error = start(&plan(program, folder)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        }
    }
}
