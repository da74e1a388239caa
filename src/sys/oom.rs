//! The kernel's out-of-memory killer: whom it takes first, and whether it was at work.
//! Invariant: workloads go first, hosts and supervisor last, as far as this user may say so.

use std::ffi::CString;

/// How far hive's own processes and its workloads are moved away from what was inherited, of 1000.
const STEP: i32 = 500;
/// One that cannot be killed at all is none of ours to make.
const LEAST: i32 = -999;
const MOST: i32 = 1000;

const SCORE: &str = "/proc/self/oom_score_adj";

/// Moves this process, and hosts that it starts, out of the way of the killer where that is allowed: lowering a score
/// needs a privilege. Returns what it was.
pub fn protect_myself() -> i32 {
    let inherited = std::fs::read_to_string(SCORE).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let _ = std::fs::write(SCORE, (inherited - STEP).max(LEAST).to_string());
    inherited
}

/// The score of a workload, as text for the kernel.
pub fn score_of_workload(inherited: i32) -> CString {
    CString::new((inherited + STEP).min(MOST).to_string()).unwrap_or_default()
}

/// How many processes the killer has taken since the machine was started.
pub fn kills() -> u64 {
    let mut text = vec![0; 16 * 1024];
    let len = std::fs::File::open("/proc/vmstat").and_then(|file| super::read(&file, &mut text)).unwrap_or(0);
    super::cgroup::entry(&String::from_utf8_lossy(&text[..len]), "oom_kill").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_above_and_within_what_the_kernel_takes() {
        assert_eq!(score_of_workload(0).as_c_str(), c"500");
        assert_eq!(score_of_workload(900).as_c_str(), c"1000");
    }
}
