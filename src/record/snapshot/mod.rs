//! A state at a point of the log, as lines: what a start reads instead of all that came before. Each line has a checksum,
//! as a record has; the first says which format it is and of which record, the last how many lines there are.
//! Invariant: what is encoded decodes to the same state, moved to the clock of whoever reads it. Pure.

mod read;
mod steering;
#[cfg(test)]
pub mod tests;
mod write;

pub use read::Reading;
pub use write::write;

use super::Stamp;
use crate::model::{Effect, Event, Now, Seq, State, Term};

/// Which lines are understood. A field may be added without a new number; whoever reads skips what it does not know.
/// 2: lines for barriers and steering.
const FORMAT: u64 = 2;

/// What the log comes to, up to one of its records.
#[derive(Default)]
pub struct Point {
    pub state: State,
    /// The record that it stands at; 0 before the first.
    pub seq: Seq,
    pub wall: i64,
    pub term: Term,
    pub leader: Option<Leader>,
    effects: Vec<Effect>,
}

/// Who led at that point, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    pub pid: i32,
    pub since: i64,
}

impl Point {
    /// Goes on to the next record, on the wall's clock.
    pub fn step(&mut self, stamp: Stamp, event: Event) {
        drop(self.apply(stamp, event, 0));
    }

    /// Goes on to the next record, and says what it had the world do: mostly that was seen to when it happened.
    /// `shift` is what the reader's monotonic clock is ahead of the wall's.
    pub fn apply(&mut self, stamp: Stamp, event: Event, shift: i64) -> impl Iterator<Item = Effect> {
        if let Event::Led { pid, .. } = &event {
            self.leader = Some(Leader { pid: *pid, since: stamp.wall });
        }
        (self.seq, self.wall, self.term) = (stamp.seq, stamp.wall, stamp.term);
        self.state.seq = stamp.seq;
        self.state.apply(Now { mono: stamp.wall + shift, wall: stamp.wall }, event, &mut self.effects);
        self.effects.drain(..)
    }
}

impl PartialEq for Point {
    fn eq(&self, other: &Point) -> bool {
        let stamp = |p: &Point| (p.seq, p.wall, p.term, p.leader);
        stamp(self) == stamp(other) && self.state == other.state
    }
}
