//! Room in the log, taken before anything is accepted or begun: what was accepted can always be ended and recorded.
//! Invariant: a task is begun only when its end fits, and a request is accepted only when it does not use up that room.

use super::core::Core;
use crate::error::{Code, Error, Result};
use crate::limits::{DISK_FULL_LOOK, LOG_PIECE, LOG_RESERVE, LOG_RESERVE_REQUEST, LOG_RESERVE_TASK};
use crate::wire::request::Cost;

/// How room is asked for.
pub struct Room {
    /// What is taken at once: less and less as the disk fills up.
    piece: u64,
    /// There was none for tasks that wait: when to look again.
    look_at: Option<i64>,
}

impl Room {
    pub fn new() -> Room {
        Room { piece: LOG_PIECE, look_at: None }
    }
}

impl Core {
    /// Room for a request that is to be accepted, or the reason why there is none.
    pub fn room_for(&mut self, cost: Cost) -> Result<()> {
        let spare = match cost {
            Cost::Work => LOG_RESERVE_REQUEST as i64,
            // To wait for what was accepted is possible as long as half of the reserve is there.
            Cost::Wait => -(LOG_RESERVE as i64) / 2,
            Cost::Free => return Ok(()),
        };
        if self.has_room(spare) {
            return Ok(());
        }
        let remedy = "free some space; what was accepted goes on, and new work is taken again when there is room";
        Err(Error::new(Code::DiskFull, format!("the disk is full, and nothing more can be accepted: {remedy}")))
    }

    /// Whether another task may begin. If not, it is asked again after a while.
    pub fn may_begin(&mut self) -> bool {
        let may = self.has_room(0);
        let next_look = self.now.mono + DISK_FULL_LOOK.as_micros() as i64;
        self.room.look_at = (!may).then_some(next_look);
        may
    }

    /// Whether what is not needed for ever can be recorded too.
    pub fn is_roomy(&self) -> bool {
        self.log.room() >= self.needed(0)
    }

    pub fn next_look_for_room(&self) -> Option<i64> {
        self.room.look_at
    }

    fn has_room(&mut self, more: i64) -> bool {
        let needed = self.needed(more);
        while self.log.room() < needed {
            if self.log.reserve(needed + self.room.piece) {
                self.room.piece = (self.room.piece * 2).min(LOG_PIECE);
            } else if self.room.piece > LOG_RESERVE_REQUEST {
                self.room.piece /= 2;
            } else {
                return self.log.reserve(needed);
            }
        }
        true
    }

    /// What is decided and not written, what agents may hold, and what must always go.
    fn needed(&self, more: i64) -> u64 {
        let held = self.state.agents.len() as u64 * u64::from(self.state.spec.prefetch.max(1));
        (self.unwritten() as u64 + LOG_RESERVE + LOG_RESERVE_TASK * held).saturating_add_signed(more)
    }
}
