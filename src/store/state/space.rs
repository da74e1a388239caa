//! How much a hive's values take up, against its quota. Invariant: the count is never too low: it grows before a value
//! comes and shrinks after one has gone. Where a killed writer has left it too high, it is counted anew before anything
//! is refused.

use std::sync::atomic::AtomicU64;

use super::{Key, ORDER, State, TTLS, cannot, word};
use crate::error::{Code, Error, Result};
use crate::limits::STATE_BYTES_MAX;
use crate::sys::clock;
use crate::sys::folder::{Found, sweep};

/// What a value of so many bytes takes up: whole pages, and its place in a folder.
pub fn cost(bytes: u64) -> u64 {
    bytes.next_multiple_of(4096) + 1024
}

/// Takes away, and stops at nothing.
pub fn lessen(word: &AtomicU64, by: u64) {
    if by > 0 {
        let _ = word.fetch_update(ORDER, ORDER, |now| Some(now.saturating_sub(by)));
    }
}

impl State {
    pub fn quota(&self) -> u64 {
        match self.words.at(word::QUOTA).load(ORDER) {
            0 => STATE_BYTES_MAX,
            quota => quota,
        }
    }

    /// Values that are there stay, whatever they take up.
    pub fn set_quota(&self, bytes: u64) {
        self.words.at(word::QUOTA).store(bytes, ORDER);
    }

    pub fn used(&self) -> u64 {
        self.words.at(word::BYTES).load(ORDER)
    }

    /// `false`: there is no room for so much more.
    pub(super) fn reserve(&self, more: u64) -> bool {
        if more == 0 {
            return true;
        }
        let word = self.words.at(word::BYTES);
        let fits = word.fetch_add(more, ORDER) + more <= self.quota();
        if !fits {
            lessen(word, more);
        }
        fits
    }

    pub(super) fn give_back(&self, bytes: u64) {
        lessen(self.words.at(word::BYTES), bytes);
    }

    pub(super) fn full(&self, key: &Key) -> Error {
        let (used, quota) = (self.used(), self.quota());
        let remedy = "delete keys, or `hivectl state quota BYTES`";
        let message = format!("cannot set \"{}\": {used} of {quota} bytes are used: {remedy}", key.as_str());
        Error::new(Code::Limit, message)
    }

    /// Looks at everything: removes what is over and what was left behind, and counts the rest.
    pub(super) fn recount(&self) -> Result<()> {
        let failed = |e| cannot("count what the store holds", e);
        for (key, found) in self.everything().map_err(failed)? {
            if self.is_over(&found) {
                let key = Key::parse(&key).map_err(|e| Error::new(Code::Internal, e))?;
                self.expire(&key)?;
            }
        }
        let count = || {
            let _all = self.lock_all()?;
            let values = self.everything()?;
            let ttls = self.live.root.folder(TTLS)?;
            for (name, _) in ttls.list()? {
                if !values.iter().any(|(_, found)| found.modified_micros.to_string() == name) {
                    ttls.remove(&name)?;
                }
            }
            let used = values.iter().map(|(_, found)| cost(found.bytes)).sum();
            self.words.at(word::BYTES).store(used, ORDER);
            sweep(&self.live.tmp, (clock::wall_micros() as u64).saturating_sub(super::LEFT_OVER_MICROS))
        };
        count().map_err(failed)
    }

    fn everything(&self) -> std::io::Result<Vec<(String, Found)>> {
        let mut values = Vec::new();
        for room in self.rooms() {
            room.walk("", &mut values)?;
        }
        Ok(values)
    }
}
