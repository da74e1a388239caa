//! What an agent's workload is held to, and which of that it passed.

use std::sync::Arc;

/// Bounds of one agent's workload. `None`: no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes, of the whole tree.
    pub memory: Option<u64>,
    /// Seconds of processor time, of each process.
    pub cpu_time: Option<u64>,
    /// Open files, of each process.
    pub nofile: Option<u64>,
    /// Processes, of the whole tree.
    pub nproc: Option<u64>,
    /// How much nicer than hive itself it is.
    pub nice: Option<u64>,
}

/// What a workload was ended for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Memory,
    CpuTime,
    Nproc,
    /// No limit of its own: the machine had no memory left, and the kernel chose it.
    MachineMemory,
}

impl Limit {
    pub const ALL: [Limit; 4] = [Limit::Memory, Limit::CpuTime, Limit::Nproc, Limit::MachineMemory];

    /// The word that scripts see.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Memory => "memory",
            Limit::CpuTime => "cpu-time",
            Limit::Nproc => "nproc",
            Limit::MachineMemory => "machine-memory",
        }
    }

    pub fn parse(name: &str) -> Option<Limit> {
        Limit::ALL.into_iter().find(|l| l.name() == name)
    }

    /// Whether the workload itself is to blame: then the same work would end the same way again.
    pub fn is_its_own(self) -> bool {
        match self {
            Limit::Memory | Limit::CpuTime | Limit::Nproc => true,
            Limit::MachineMemory => false,
        }
    }
}

impl Limits {
    /// What was passed, as the reason of an end.
    pub fn in_words(&self, passed: Limit) -> Arc<str> {
        match passed {
            Limit::Memory => format!("memory limit {}", size(self.memory.unwrap_or_default())).into(),
            Limit::CpuTime => format!("cpu time limit {} s", self.cpu_time.unwrap_or_default()).into(),
            Limit::Nproc => format!("process limit {}", self.nproc.unwrap_or_default()).into(),
            Limit::MachineMemory => "the machine ran out of memory: the kernel's out-of-memory killer ended it".into(),
        }
    }
}

/// In the largest unit that leaves no rest.
pub fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes > 0 && bytes & ((1 << shift) - 1) == 0) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_said_as_it_was_asked_for() {
        let limits = |memory| Limits { memory: Some(memory), ..Limits::default() };
        for (memory, words) in
            [(512 << 20, "512 MiB"), (2 << 30, "2 GiB"), (1536 << 20, "1536 MiB"), (1000, "1000 bytes")]
        {
            assert_eq!(limits(memory).in_words(Limit::Memory).as_ref(), format!("memory limit {words}"));
        }
    }
}
