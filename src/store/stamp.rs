//! Numbers that are given out once and only grow: the wall clock in microseconds, moved on by one where it stands still
//! or goes back. Versions of values and fencing numbers are such.
//! Invariant: no two calls on one word, by whatever process, return the same number; a later call returns a higher one.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::clock;

/// The next number of the word, above `floor` too.
pub fn next(word: &AtomicU64, floor: u64) -> u64 {
    let now = clock::wall_micros().max(0) as u64;
    let mut last = word.load(Ordering::SeqCst);
    loop {
        let number = now.max(last + 1).max(floor + 1);
        match word.compare_exchange_weak(last, number, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return number,
            Err(other) => last = other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_whatever_the_clock_says() {
        let word = AtomicU64::new(0);
        let first = next(&word, 0);
        assert!(first > 1_600_000_000_000_000, "microseconds of these years");
        let ahead = first + 1_000_000_000;
        word.store(ahead, Ordering::SeqCst);
        assert_eq!(next(&word, 0), ahead + 1);
        assert_eq!(next(&word, ahead + 10), ahead + 11);
        assert_eq!(next(&word, 0), ahead + 12);
    }
}
