//! The tree of processes below one process: found by looking, ended until looking finds nothing.
//! Invariant: nothing here trusts sessions or groups; a workload may have left both.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::libc;
use nix::sys::signal::Signal;

use super::process::{Pid, Process, signal_descendant};

/// Every process below `root`, parents before children, `root` itself not among them.
pub fn below(root: Pid) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut parent = root;
    loop {
        children_of(parent, &mut found);
        if at == found.len() {
            return found;
        }
        parent = found[at];
        at += 1;
    }
}

/// The children of all threads of a process. A process that ends meanwhile has none.
fn children_of(parent: Pid, found: &mut Vec<Pid>) {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", parent.0)) else {
        return;
    };
    for thread in threads.flatten() {
        let Ok(list) = std::fs::read_to_string(thread.path().join("children")) else {
            continue;
        };
        found.extend(list.split_ascii_whitespace().filter_map(|p| p.parse().ok()).map(Pid));
    }
}

/// Asks processes below this one to end. CONT after TERM: a stopped process cannot hear TERM.
pub fn ask_to_end(pids: &[Pid]) {
    for pid in pids {
        signal_descendant(*pid, Signal::SIGTERM);
        signal_descendant(*pid, Signal::SIGCONT);
    }
}

/// Kills everything below `root`, this process, but what is `spared` and what is below that. Each is stopped before its
/// children are looked for, so that it forks no more of them, until a look finds nobody new.
pub fn kill(root: Pid, spared: impl Fn(Pid) -> bool) {
    let mut stopped: HashSet<Pid> = HashSet::new();
    for _ in 0..ROUNDS {
        let known = stopped.len();
        let mut left = vec![root];
        while let Some(parent) = left.pop() {
            let mut children = Vec::new();
            children_of(parent, &mut children);
            children.retain(|pid| !spared(*pid));
            for pid in &children {
                if stopped.insert(*pid) {
                    signal_descendant(*pid, Signal::SIGSTOP);
                }
            }
            left.extend(children);
        }
        if stopped.len() == known {
            break;
        }
    }
    stopped.into_iter().for_each(|pid| signal_descendant(pid, Signal::SIGKILL));
}

/// Resident memory of processes in bytes; what several share counts for each of them.
pub fn resident_memory(pids: &[Pid]) -> u64 {
    let of = |pid: &Pid| {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", pid.0)).ok()?;
        statm.split(' ').nth(1)?.parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum::<u64>() * page_bytes()
}

/// The same, with what several share divided among them.
pub fn shared_out_memory(pids: &[Pid]) -> u64 {
    let of = |pid: &Pid| {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.0)).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum::<u64>() * 1024
}

fn page_bytes() -> u64 {
    let asked = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    asked.ok().flatten().map_or(4096, |bytes| bytes as u64)
}

/// Every process of the machine with its children and its resident memory in bytes: one look for many questions.
pub struct Census {
    rows: HashMap<Pid, u64>,
    children: HashMap<Pid, Vec<Pid>>,
}

impl Census {
    pub fn take() -> io::Result<Census> {
        let page = page_bytes();
        let mut census = Census { rows: HashMap::new(), children: HashMap::new() };
        for pid in all_processes() {
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", pid.0)) else {
                continue;
            };
            let Some((_, rest)) = stat.rsplit_once(") ") else {
                continue;
            };
            let fields: Vec<&str> = rest.split(' ').collect();
            let number = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
            let parent = Pid(number(1) as i32);
            census.rows.insert(pid, number(21) * page);
            census.children.entry(parent).or_default().push(pid);
        }
        Ok(census)
    }

    pub fn memory_of_one(&self, pid: Pid) -> u64 {
        self.rows.get(&pid).copied().unwrap_or(0)
    }

    /// Resident memory of a process and all below it.
    pub fn memory_of(&self, root: Pid) -> u64 {
        let mut total = 0;
        let mut left = vec![root];
        while let Some(pid) = left.pop() {
            total += self.memory_of_one(pid);
            left.extend(self.children.get(&pid).into_iter().flatten());
        }
        total
    }
}

/// Whether a process was started with `entry` (`NAME=value`) in its environment.
pub fn has_in_environment(pid: Pid, entry: &str) -> bool {
    let env = std::fs::read(format!("/proc/{}/environ", pid.0)).unwrap_or_default();
    env.split(|b| *b == 0).any(|var| var == entry.as_bytes())
}

/// What marks a process: its environment at its start had an entry beginning with each of these.
pub type Marks = Vec<String>;

/// Ends every process that carries one of `marks`, wherever it hangs in the tree by now. This process and those above it
/// are spared: they look, they are not looked for.
pub fn end_marked(marks: &[Marks]) {
    if marks.is_empty() {
        return;
    }
    // What starts anew while others are ended is found in the next round.
    for _ in 0..ROUNDS {
        let above = ancestors();
        let marked: Vec<Pid> = all_processes().filter(|pid| !above.contains(pid) && is_marked(*pid, marks)).collect();
        if marked.is_empty() {
            return;
        }
        marked.into_iter().for_each(end_stranger);
    }
}

fn is_marked(pid: Pid, marks: &[Marks]) -> bool {
    let env = std::fs::read(format!("/proc/{}/environ", pid.0)).unwrap_or_default();
    let begins = |prefix: &String| env.split(|b| *b == 0).any(|var| var.starts_with(prefix.as_bytes()));
    marks.iter().any(|prefixes| prefixes.iter().all(begins))
}

fn all_processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok().map(Pid))
}

/// This process and all above it.
pub fn ancestors() -> Vec<Pid> {
    let mut found = vec![super::process::my_pid()];
    while let Some(parent) =
        found.last().and_then(|pid| parent_of(*pid)).filter(|pid| pid.0 > 0 && !found.contains(pid))
    {
        found.push(parent);
    }
    found
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.0)).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok().map(Pid)
}

/// Processor time that processes have used, in clock ticks.
pub fn ticks_used(pids: &[Pid]) -> u64 {
    let of = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.0)).ok()?;
        let fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).take(2);
        Some(fields.filter_map(|f| f.parse::<u64>().ok()).sum::<u64>())
    };
    pids.iter().filter_map(of).sum()
}

/// How a process stands to the pipe that is its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reading {
    No,
    /// It waits for one of several things, and has the pipe open.
    Perhaps,
    /// It is blocked in a read of the pipe.
    Yes,
}

/// Whether a process is blocked in a read of the pipe with this inode, by what the kernel shows of its system calls.
pub fn reading(pid: Pid, pipe: u64) -> Reading {
    let holds = |fd: &str| {
        std::fs::metadata(format!("/proc/{}/fd/{fd}", pid.0)).is_ok_and(|m| m.file_type().is_fifo() && m.ino() == pipe)
    };
    let call = std::fs::read_to_string(format!("/proc/{}/syscall", pid.0)).unwrap_or_default();
    let mut words = call.split(' ');
    let Some(number) = words.next().and_then(|n| n.parse::<i64>().ok()) else {
        return Reading::No;
    };
    if [libc::SYS_read, libc::SYS_readv].contains(&number) {
        let fd = words.next().and_then(|hex| u32::from_str_radix(hex.trim_start_matches("0x"), 16).ok());
        return if fd.is_some_and(|fd| holds(&fd.to_string())) { Reading::Yes } else { Reading::No };
    }
    if WAITS_FOR_SEVERAL.contains(&number) && holds("0") { Reading::Perhaps } else { Reading::No }
}

#[cfg(target_arch = "x86_64")]
const WAITS_FOR_SEVERAL: [i64; 7] = [
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_io_uring_enter,
];
#[cfg(not(target_arch = "x86_64"))]
const WAITS_FOR_SEVERAL: [i64; 4] =
    [libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_pwait, libc::SYS_io_uring_enter];

/// Ends a process that is not our child, and everything below it. It is stopped first, so that it cannot start more.
pub fn end_stranger(root: Pid) {
    let Ok(process) = Process::open(root) else {
        return;
    };
    let _ = process.signal(Signal::SIGSTOP);
    let mut held: Vec<Process> = Vec::new();
    loop {
        let new: Vec<Pid> = below(root).into_iter().filter(|pid| held.iter().all(|h| h.pid != *pid)).collect();
        if new.is_empty() {
            break;
        }
        for member in new.into_iter().filter_map(|pid| Process::open(pid).ok()) {
            let _ = member.signal(Signal::SIGSTOP);
            held.push(member);
        }
    }
    for member in held.iter().chain([&process]) {
        let _ = member.signal(Signal::SIGKILL);
    }
    for member in held.iter().chain([&process]) {
        member.wait_for_end(ENDING_PATIENCE_MS);
    }
}

/// Ends what came up to `me`, a subreaper, from below dead children: every child that is not one of `own`.
pub fn end_adopted(me: Pid, own: &[Pid]) {
    // Each round ends what the last one orphaned; what cannot be killed sits in the kernel and is left to it.
    for _ in 0..ROUNDS {
        let mut children = Vec::new();
        children_of(me, &mut children);
        children.retain(|pid| !own.contains(pid));
        if children.is_empty() {
            return;
        }
        for pid in children {
            end_stranger(pid);
            let _ = Process::open(pid).map(|p| p.reap());
        }
    }
}

/// Rounds of looking and ending; what is left then sits in the kernel.
const ROUNDS: usize = 100;
/// A killed process that is not gone after this sits in the kernel; waiting longer does not help.
const ENDING_PATIENCE_MS: i32 = 2_000;
