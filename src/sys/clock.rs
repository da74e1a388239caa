//! The two clocks, in microseconds: a monotonic one for deadlines, and the wall for labels.
//! Nothing else in hive reads a clock.

use nix::time::{ClockId, clock_gettime};

pub fn monotonic_micros() -> i64 {
    micros(ClockId::CLOCK_MONOTONIC)
}

pub fn wall_micros() -> i64 {
    micros(ClockId::CLOCK_REALTIME)
}

fn micros(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |t| t.tv_sec() * 1_000_000 + t.tv_nsec() / 1_000)
}
