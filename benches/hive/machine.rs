//! Owns what a figure has to say about where it was taken, and the placement of what is measured.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::utsname::uname;
use nix::unistd::Pid;

use crate::error::{Result, Trying};

/// Where the processes of a measurement may run. Children inherit it, so it is entered before they are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Client, supervisor, hosts and agents on the first core this process may use.
    OneCore,
    /// Wherever the kernel puts them.
    Unpinned,
}

impl Placement {
    pub fn label(self) -> &'static str {
        match self {
            Placement::OneCore => "one core",
            Placement::Unpinned => "unpinned",
        }
    }

    /// Applies to this thread and what it starts until the guard is dropped.
    pub fn enter(self) -> Result<Placed> {
        let before = sched_getaffinity(Pid::from_raw(0)).trying("reading the allowed cores")?;
        if self == Placement::OneCore {
            let mut one = CpuSet::new();
            let first = (0..CpuSet::count()).find(|&core| before.is_set(core).unwrap_or(false));
            one.set(first.unwrap_or(0)).trying("choosing a core")?;
            sched_setaffinity(Pid::from_raw(0), &one).trying("pinning to one core")?;
        }
        Ok(Placed { before })
    }
}

/// Gives the cores back when it goes out of scope.
pub struct Placed {
    before: CpuSet,
}

impl Drop for Placed {
    fn drop(&mut self) {
        // A core that was taken away meanwhile leaves the thread pinned; the figures say so by themselves.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

/// One line: processor, cores, kernel.
pub fn describe() -> String {
    let kernel = uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} cores, Linux {kernel}", processor())
}

/// The load of the last minute, as the kernel states it.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name"));
    let name = model.and_then(|line| line.split_once(": ")).map(|(_, name)| name.trim().to_string());
    name.unwrap_or_else(|| std::env::consts::ARCH.to_string())
}
