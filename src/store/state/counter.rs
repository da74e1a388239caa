//! Counters: 64-bit words in mapped files, so that adding is one atomic operation, whatever processes share the counter.
//! The number is in `.counters/<key>`; the value's own file shows it in digits, as it was when somebody last published it
//! (each `hivectl state incr` does), and says by a permission bit that it is a counter.
//!
//! Invariant: a counter that is replaced or deleted is closed first: its number is kept beside, then the word gets a
//! number that none can have. Whoever adds to a closed one sees so from what was there before, and it does not count.

use std::io;

use super::{COUNTERS, Key, ORDER, Outcome, State, failed, mode};
use crate::error::{Code, Error, Result};
use crate::limits::{COUNTER_MAX, INCR_MAX};
use crate::sys::shm::Words;

const NUMBER: usize = 0;
/// The number that a closed counter had.
const SAVED: usize = 1;
const WORDS: usize = 2;
const CLOSED: i64 = i64::MIN;
/// Far below what a counter may be, far above a closed one to which late-comers have added.
const CLOSED_BELOW: i64 = -(3 << 61);

/// A counter, mapped. It is to be opened anew when it says so.
#[derive(Debug)]
pub struct Counter {
    words: Words,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdded {
    /// The key was set or deleted: `State::counter` opens what is there now.
    Closed,
    TooLarge,
}

impl Counter {
    /// Adds, and says what it is then.
    pub fn add(&self, by: i64) -> std::result::Result<i64, NotAdded> {
        if by.unsigned_abs() > INCR_MAX as u64 {
            return Err(NotAdded::TooLarge);
        }
        let word = self.words.signed(NUMBER);
        let before = word.fetch_add(by, ORDER);
        if before < CLOSED_BELOW {
            return Err(NotAdded::Closed);
        }
        let now = before + by;
        if now.unsigned_abs() > COUNTER_MAX as u64 {
            word.fetch_sub(by, ORDER);
            return Err(NotAdded::TooLarge);
        }
        Ok(now)
    }

    /// What it is: `None` where it was closed.
    pub fn get(&self) -> Option<i64> {
        Some(self.words.signed(NUMBER).load(ORDER)).filter(|number| *number >= CLOSED_BELOW)
    }

    /// Nobody's addition counts from here on; returns the number it ends with. The key is locked.
    fn close(&self) -> i64 {
        let word = self.words.signed(NUMBER);
        loop {
            let number = word.load(ORDER);
            if number < CLOSED_BELOW {
                return self.words.signed(SAVED).load(ORDER);
            }
            // Kept before it is overwritten: killed in between, it is still there.
            self.words.signed(SAVED).store(number, ORDER);
            if word.compare_exchange(number, CLOSED, ORDER, ORDER).is_ok() {
                return number;
            }
        }
    }
}

impl State {
    /// Adds to a number and shows the new one; a key that is not there counts from 0.
    pub fn incr(&mut self, key: &Key, by: i64) -> Result<i64> {
        loop {
            let value = self.get(key)?;
            if let Some(value) = value.filter(|value| value.durable) {
                let number = number_in(key, &value.bytes)?.checked_add(by).filter(|n| in_bounds(*n) && in_bounds(by));
                let number = number.ok_or_else(|| too_large(key))?;
                match self.rewrite(key, number.to_string().as_bytes(), value.version)? {
                    Outcome::Set(_) => return Ok(number),
                    Outcome::Lost(_) => continue,
                }
            }
            match self.counter(key)?.add(by) {
                Ok(number) => {
                    self.publish_counter(key)?;
                    return Ok(number);
                }
                Err(NotAdded::Closed) => {}
                Err(NotAdded::TooLarge) => return Err(too_large(key)),
            }
        }
    }

    /// Maps a counter; what is there must be a whole number, nothing counts as 0. Not for durable keys.
    pub fn counter(&mut self, key: &Key) -> Result<Counter> {
        // What is over goes.
        self.get(key)?;
        let failed = |e| failed("count in", key, e);
        let mut counted = false;
        loop {
            let lock = self.lock(key).map_err(failed)?;
            let found = self.lookup(key).map_err(failed)?;
            if found.as_ref().is_some_and(|(room, _)| room.durable) {
                let why = "it is durable: use `incr`, which writes each step to the disk";
                return Err(Error::new(Code::BadRequest, format!("cannot map \"{}\": {why}", key.as_str())));
            }
            let found = found.map(|(_, found)| found);
            if found.as_ref().is_some_and(|found| found.is_counter()) {
                self.mend(key).map_err(failed)?;
            } else {
                let shown = self.read(key).map_err(failed)?;
                let number = shown.map_or(Ok(0), |(value, _)| number_in(key, &value.bytes))?;
                self.reopen_counter(key, number).map_err(failed)?;
                if !self.publish(key, &number.to_string(), found.as_ref()).map_err(failed)? {
                    drop(lock);
                    if counted {
                        return Err(self.full(key));
                    }
                    self.recount()?;
                    counted = true;
                    continue;
                }
            }
            return self.open_counter(key).map_err(failed)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()));
        }
    }

    /// Shows a counter's number in its file, for those who read that, and to watchers.
    pub fn publish_counter(&mut self, key: &Key) -> Result<()> {
        let publish = || {
            let _lock = self.lock(key)?;
            let found = self.lookup(key)?.map(|(_, found)| found).filter(|found| found.is_counter());
            match (found, self.counted(key)?) {
                (Some(found), Some(number)) => self.publish(key, &number.to_string(), Some(&found)).map(drop),
                // Set or deleted meanwhile: there is nothing to show.
                _ => Ok(()),
            }
        };
        publish().map_err(|e| failed("show the counter", key, e))
    }

    /// The number of a key whose file says that it is a counter: `None` while it is replaced.
    pub(super) fn counted(&self, key: &Key) -> io::Result<Option<i64>> {
        Ok(self.open_counter(key)?.and_then(|counter| counter.get()))
    }

    fn open_counter(&self, key: &Key) -> io::Result<Option<Counter>> {
        match self.live.root.folder(COUNTERS)?.change(&key.flat()) {
            Ok(file) => Ok(Some(Counter { words: Words::map(&file, WORDS)? })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Ends a counter and says its last number. The key is locked.
    pub(super) fn close_counter(&self, key: &Key) -> io::Result<i64> {
        match self.open_counter(key)? {
            Some(counter) => Ok(counter.close()),
            None => {
                let shown = self.read(key)?.map(|(value, _)| value.bytes).unwrap_or_default();
                Ok(parse(&shown).unwrap_or(0))
            }
        }
    }

    /// Puts a new word in the place of the old one, which nobody uses any more. The key is locked.
    pub(super) fn reopen_counter(&self, key: &Key, number: i64) -> io::Result<()> {
        let name = crate::sys::folder::temporary_name();
        let counter = Counter { words: Words::map(&self.live.tmp.create(&name, mode::PLAIN)?, WORDS)? };
        counter.words.signed(NUMBER).store(number, ORDER);
        self.live.tmp.rename(&name, &self.live.root.folder(COUNTERS)?, &key.flat())
    }

    pub(super) fn remove_counter(&self, key: &Key) -> io::Result<()> {
        self.live.root.folder(COUNTERS)?.remove(&key.flat()).map(drop)
    }

    /// A counter that somebody closed and was killed before it was replaced goes on with its number.
    pub(super) fn mend_counter(&mut self, key: &Key) -> Result<()> {
        let mend = || {
            let _lock = self.lock(key)?;
            match self.lookup(key)?.is_some_and(|(_, found)| found.is_counter()) {
                true => self.mend(key),
                false => Ok(()),
            }
        };
        mend().map_err(|e| failed("read", key, e))
    }

    fn mend(&self, key: &Key) -> io::Result<()> {
        if self.counted(key)?.is_none() {
            let number = self.close_counter(key)?;
            self.reopen_counter(key, number)?;
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

fn in_bounds(number: i64) -> bool {
    number.unsigned_abs() <= COUNTER_MAX as u64
}

fn number_in(key: &Key, bytes: &[u8]) -> Result<i64> {
    parse(bytes).filter(|number| in_bounds(*number)).ok_or_else(|| {
        let message = format!("cannot count in \"{}\": what is there is no whole number within bounds", key.as_str());
        Error::new(Code::BadRequest, message)
    })
}

fn too_large(key: &Key) -> Error {
    let rule = format!("a counter stays within {COUNTER_MAX} both ways, and takes at most {INCR_MAX} at once");
    Error::new(Code::Limit, format!("cannot add so much to \"{}\": {rule}", key.as_str()))
}
