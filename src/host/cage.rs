//! What holds a host's workloads: the agent's cgroup, its limits, and the evidence of which of them was passed.
//! Invariant: what the kernel bounds is left to it; what it does not is looked at, and only while something runs that
//! is held to it. Without a cgroup everything else goes on as it is.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::orders::Orders;
use crate::limits::{LOOK_LATEST, LOOK_SOONEST};
use crate::model::{Kind, Limit, Limits};
use crate::sys::cgroup::{self, Cgroup};
use crate::sys::process::{self, Bounds, Ending, Pid, Rlimit};
use crate::sys::{oom, signal, tree};

/// No tree takes memory faster than this, and none forks faster: until then nobody has to look.
const BYTES_PER_US: u64 = 4096;
const US_PER_FORK: u64 = 100;
/// What the kernel's killer has done is asked so often at most: the answer costs as much as a small task's tenth.
const ASK_KILLER_AFTER_US: i64 = 1_000_000;

pub struct Cage {
    limits: Limits,
    /// Where this agent's cgroup goes. `None`: nowhere.
    place: Option<PathBuf>,
    /// It carries the limits; processes are in cgroups below it.
    whole: Option<Cgroup>,
    /// Two processes may live at a time, and one of them be ended: each has a cgroup of its own then.
    is_split: bool,
    slots: [Option<Cgroup>; 2],
    /// What was killed is not used again: since Linux 6.14 whatever is born in such a cgroup later is killed too.
    used_up: Vec<Cgroup>,
    made: u64,
    kernel: Kernel,
    rlimits: Vec<Rlimit>,
    oom_score: CString,
    look: Look,
    known: Known,
}

/// What the kernel bounds by itself.
#[derive(Default)]
struct Kernel {
    memory: bool,
    nproc: bool,
}

/// The next look at what the kernel does not bound.
#[derive(Default)]
struct Look {
    at: i64,
    pause_us: u64,
    ticks: u64,
}

/// Counters as they were: what has grown since was this workload's doing.
#[derive(Default)]
struct Known {
    oom: u64,
    oom_kill: u64,
    refused_forks: u64,
    killer: u64,
    killer_asked: Option<i64>,
    cpu: Duration,
}

impl Cage {
    pub fn new(orders: &Orders) -> Cage {
        let limits = orders.spec.limits;
        let rlimits = [limits.cpu_time.map(Rlimit::cpu_time), limits.nofile.map(Rlimit::open_files)];
        Cage {
            limits,
            place: orders.cgroup.as_ref().map(|home| cgroup::of_agent(home, orders.agent.0)),
            whole: None,
            is_split: orders.spec.kind == Kind::Oneshot,
            slots: [None, None],
            used_up: Vec::new(),
            made: 0,
            kernel: Kernel::default(),
            rlimits: rlimits.into_iter().flatten().collect(),
            oom_score: oom::score_of_workload(orders.oom_score),
            look: Look::default(),
            known: Known::default(),
        }
    }

    // ---- starting ----

    /// What the next process in this slot is held to. The cgroup is made when the first one needs it.
    pub fn bounds(&mut self, slot: usize) -> Bounds<'_> {
        if self.whole.as_ref().is_none_or(|whole| !whole.is_there()) {
            self.make_whole();
        }
        let slot = if self.is_split { slot } else { 0 };
        if let (Some(whole), None) = (&self.whole, &self.slots[slot]) {
            self.used_up.retain(|old| !old.remove());
            self.made += 1;
            self.slots[slot] = Cgroup::make(&whole.path.join(self.made.to_string())).ok();
        }
        Bounds {
            cgroup: self.slots[slot].as_ref().map(Cgroup::as_fd),
            rlimits: &self.rlimits,
            nice: self.limits.nice.unwrap_or(0) as i32,
            oom_score: Some(&self.oom_score),
        }
    }

    /// A place where none can be made is not tried again.
    fn make_whole(&mut self) {
        self.slots = [None, None];
        self.whole = self.place.take().and_then(|place| Cgroup::make(&place).ok());
        self.kernel = Kernel::default();
        let Some(whole) = &self.whole else { return };
        self.place = Some(whole.path.clone());
        if let Some(memory) = self.limits.memory {
            self.kernel.memory = whole.set("memory.max", &memory.to_string()).is_ok();
            // Going to disk instead is no way to stay within it, and half a tree is no use to anybody.
            let _ = whole.set("memory.swap.max", "0");
            let _ = whole.set("memory.oom.group", "1");
        }
        if let Some(nproc) = self.limits.nproc {
            self.kernel.nproc = whole.set("pids.max", &nproc.to_string()).is_ok();
        }
        self.note_counters();
    }

    /// A process was started.
    pub fn begun(&mut self, now: i64) {
        if self.known.killer_asked.is_none_or(|at| now - at > ASK_KILLER_AFTER_US) {
            (self.known.killer, self.known.killer_asked) = (oom::kills(), Some(now));
        }
        if self.limits.cpu_time.is_some() {
            self.known.cpu = process::cpu_time_of_children();
        }
        self.look = Look { at: now + LOOK_SOONEST.as_micros() as i64, ..Look::default() };
    }

    // ---- looking ----

    /// When to look next while something runs; never, where nothing is held to what the kernel does not bound.
    pub fn next_look(&self) -> Option<i64> {
        (self.watched_memory().is_some() || self.watched_nproc().is_some()).then_some(self.look.at)
    }

    fn watched_memory(&self) -> Option<u64> {
        self.limits.memory.filter(|_| !self.kernel.memory)
    }

    fn watched_nproc(&self) -> Option<u64> {
        self.limits.nproc.filter(|_| !self.kernel.nproc)
    }

    /// Looks at everything below `me`: which limit it is above.
    pub fn look(&mut self, now: i64, me: Pid) -> Option<Limit> {
        let tree = tree::below(me);
        let latest = LOOK_LATEST.as_micros() as u64;
        let mut pause = latest;
        if let Some(limit) = self.watched_nproc() {
            let count = tree.len() as u64;
            if count > limit {
                return Some(Limit::Nproc);
            }
            pause = pause.min((limit - count) * US_PER_FORK);
        }
        if let Some(limit) = self.watched_memory() {
            // Pages that several share count for each in the first sum: it is never too low, and it is cheap.
            let mut used = tree::resident_memory(&tree);
            if used > limit {
                used = tree::shared_out_memory(&tree);
            }
            if used > limit {
                return Some(Limit::Memory);
            }
            pause = pause.min((limit - used) / BYTES_PER_US);
        }
        // Who has not run since the last look has taken nothing: looks become rare while it sleeps.
        let ticks = tree::ticks_used(&tree);
        if ticks == self.look.ticks {
            pause = pause.max(self.look.pause_us * 2);
        }
        let pause_us = pause.clamp(LOOK_SOONEST.as_micros() as u64, latest);
        self.look = Look { at: now + pause_us as i64, pause_us, ticks };
        None
    }

    // ---- ending ----

    /// Kills at once everything that was born in the cgroup; with `spared`, not what is in that slot.
    pub fn kill(&mut self, spared: Option<usize>) {
        for slot in [0, 1].into_iter().filter(|slot| Some(*slot) != spared) {
            self.used_up.extend(self.slots[slot].take());
        }
        self.used_up.iter().for_each(Cgroup::kill);
    }

    pub fn leave(&self) {
        self.whole.iter().for_each(|whole| _ = whole.remove());
    }

    /// Nobody leads any more: the hive's own cgroup goes with its last agent.
    pub fn leave_for_good(&self) {
        self.leave();
        if let Some(home) = self.place.as_ref().and_then(|place| place.parent()) {
            let _ = std::fs::remove_dir(home);
        }
    }

    /// Which limit a process that ended by itself was ended for, by what the kernel has counted.
    pub fn passed(&mut self, ending: Ending) -> Option<Limit> {
        if ending == Ending::Exit(0) {
            return None;
        }
        let by = |name| ending == Ending::Signal(name) || ending == Ending::Exit(128 + name);
        let killed = by(signal::KILL);
        let used_up = |limit: u64| {
            let used = process::cpu_time_of_children().saturating_sub(self.known.cpu);
            by(signal::XCPU) || killed && used >= Duration::from_secs(limit)
        };
        if self.limits.cpu_time.is_some_and(used_up) {
            return Some(Limit::CpuTime);
        }
        let (oom, oom_kill, refused) = (self.known.oom, self.known.oom_kill, self.known.refused_forks);
        self.note_counters();
        if self.known.oom_kill > oom_kill {
            let own = self.known.oom > oom && self.limits.memory.is_some();
            return Some(if own { Limit::Memory } else { Limit::MachineMemory });
        }
        if self.known.refused_forks > refused {
            return Some(Limit::Nproc);
        }
        if !killed {
            return None;
        }
        let before = std::mem::replace(&mut self.known.killer, oom::kills());
        (self.known.killer > before).then_some(Limit::MachineMemory)
    }

    fn note_counters(&mut self) {
        let Some(whole) = &self.whole else { return };
        self.known.oom = whole.count("memory.events", "oom");
        self.known.oom_kill = whole.count("memory.events", "oom_kill");
        self.known.refused_forks = whole.count("pids.events", "max");
    }

    pub fn in_words(&self, limit: Limit) -> Arc<str> {
        self.limits.in_words(limit)
    }
}
