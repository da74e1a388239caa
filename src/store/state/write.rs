//! Changing values: set, cas, del, and what goes when its time is over. Each is: write aside, lock the key, look, decide,
//! tell the watchers, rename. A kill between any two of these leaves the old value.

use std::cell::Cell;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::space::cost;
use super::{Key, ORDER, Pattern, Room, State, TTLS, cannot, failed, is_absence, mode, word};
use crate::error::{Code, Error, Result};
use crate::limits::VALUE_MAX;
use crate::store::folders::private;
use crate::store::stamp;
use crate::sys::clock;
use crate::sys::folder::{Folder, Found, set_modified, temporary_name};

/// How a value is set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub ttl: Option<Duration>,
    /// On disk, through a reboot. A key stays durable until it is deleted.
    pub durable: bool,
    /// Only where this is its version (0: only where it is not there).
    pub expected: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Set; this is its version.
    Set(u64),
    /// Not the expected version: this is what it has (0: it is not there).
    Lost(u64),
}

/// What an attempt has come to.
enum Step {
    Done(Outcome),
    /// Something went away under it.
    Again,
    /// The quota seems to be used up: killed writers may have left it too high.
    Full,
    /// The folder was removed and must be made anew.
    Gone,
}

/// What is to be set, made ready aside.
pub(super) struct Written<'a> {
    room: &'a Room,
    name: String,
    pub file: File,
    bytes: &'a [u8],
    /// It has its key: nothing is left aside.
    placed: Cell<bool>,
}

impl Written<'_> {
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    pub fn link(&self, to: &Folder, name: &str) -> io::Result<()> {
        self.room.tmp.link(&self.name, to, name)
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        if !self.placed.get() {
            let _ = self.room.tmp.remove(&self.name);
        }
    }
}

/// So often a step is tried that others may undo.
const ATTEMPTS: usize = 100;

impl State {
    pub fn set(&mut self, key: &Key, bytes: &[u8], options: &Options) -> Result<Outcome> {
        if bytes.len() as u64 > VALUE_MAX {
            let message = format!("the value of \"{}\" has {} bytes: at most {VALUE_MAX}", key.as_str(), bytes.len());
            return Err(Error::new(Code::Limit, message));
        }
        if options.durable && options.ttl.is_some() {
            let why = "a durable key outlives the clock that a time to live is counted on: give one of the two";
            return Err(Error::new(Code::BadRequest, why));
        }
        let mut counted = false;
        let mut durable = options.durable;
        for _ in 0..ATTEMPTS {
            match durable {
                true => self.make_kept()?,
                false => self.find_kept()?,
            }
            match self.try_set(key, bytes, options, &mut durable).map_err(|e| refused(key, e))? {
                Step::Done(outcome) => return Ok(outcome),
                Step::Again => {}
                Step::Full if counted => return Err(self.full(key)),
                Step::Full => {
                    self.recount()?;
                    counted = true;
                }
                Step::Gone => *self = State::open(&self.folders)?,
            }
        }
        Err(Error::new(Code::Internal, format!("cannot set \"{}\": its folder goes again and again", key.as_str())))
    }

    fn try_set(&self, key: &Key, bytes: &[u8], options: &Options, durable: &mut bool) -> io::Result<Step> {
        let room = self.kept.as_ref().filter(|_| *durable).unwrap_or(&self.live);
        let written = match self.write(room, bytes) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Step::Gone),
            other => other?,
        };
        let lock = self.lock(key)?;
        // Whoever removed the store has taken the lock's file with it: then others lock another one.
        if room.durable && Found::of_file(&self.page)?.links == 0 {
            return Ok(Step::Gone);
        }
        let found = self.lookup(key)?;
        if found.as_ref().is_some_and(|(at, _)| at.durable) && !room.durable {
            *durable = true;
            return Ok(Step::Again);
        }
        let found = found.map(|(_, found)| found);
        if let Some(expected) = options.expected {
            let is_there = found.as_ref().filter(|found| !self.is_over(found));
            let version = self.version_of(key, is_there)?;
            if version != expected {
                return Ok(Step::Done(Outcome::Lost(version)));
            }
        }
        if found.as_ref().is_some_and(Found::is_counter) {
            self.close_counter(key)?;
        }
        let expiry = options.ttl.map(|ttl| clock::monotonic_micros() + ttl.as_micros() as i64);
        let step = self.replace(key, &written, found.as_ref(), expiry, mode::PLAIN)?;
        drop(lock);
        Ok(step)
    }

    /// A value in a file of its own, which has no key yet.
    pub(super) fn write<'a>(&self, room: &'a Room, bytes: &'a [u8]) -> io::Result<Written<'a>> {
        let name = temporary_name();
        let file = match room.tmp.create(&name, mode::PLAIN) {
            // A process that had our pid before left it behind.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                room.tmp.remove(&name)?;
                room.tmp.create(&name, mode::PLAIN)?
            }
            other => other?,
        };
        let mut written = Written { room, name, file, bytes, placed: Cell::new(false) };
        written.file.write_all(bytes)?;
        Ok(written)
    }

    /// Puts what was written in the place of `found`. The key is locked.
    fn replace(
        &self,
        key: &Key,
        written: &Written,
        found: Option<&Found>,
        expiry: Option<i64>,
        bits: u32,
    ) -> io::Result<Step> {
        let room = written.room;
        let (before, after) = (found.map_or(0, |found| cost(found.bytes)), cost(written.bytes.len() as u64));
        if !self.reserve(after.saturating_sub(before)) {
            return Ok(Step::Full);
        }
        let done = self.rename(key, written, found, expiry, bits);
        self.give_back(if done.is_ok() { before.saturating_sub(after) } else { after.saturating_sub(before) });
        let version = match done {
            Err(e) if is_absence(&e) => {
                match room.make_parents(key) {
                    // Removed again meanwhile, by whoever deleted what was in it.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
                return Ok(Step::Again);
            }
            // A folder that a killed writer has left empty is in nobody's way.
            Err(e) if e.kind() == io::ErrorKind::IsADirectory && room.parent(key)?.remove_folder(key.parts().1)? => {
                return Ok(Step::Again);
            }
            other => other?,
        };
        self.remove_shadow(key, room)?;
        found.map_or(Ok(()), |found| self.clean_up(key, found, bits))?;
        Ok(Step::Done(Outcome::Set(version)))
    }

    fn rename(
        &self,
        key: &Key,
        written: &Written,
        found: Option<&Found>,
        expiry: Option<i64>,
        bits: u32,
    ) -> io::Result<u64> {
        let (room, file) = (written.room, &written.file);
        let parent = room.parent(key)?;
        let floor = found.map_or(0, |found| found.modified_micros);
        let version = stamp::next(self.words.at(word::STAMP), floor);
        let bits = bits | expiry.map_or(0, |_| mode::MORTAL);
        if bits != mode::PLAIN {
            file.set_permissions(Permissions::from_mode(bits | mode::PLAIN))?;
        }
        set_modified(file, version)?;
        if room.durable {
            file.sync_all()?;
        }
        if let Some(at) = expiry {
            let mut ttl = self.live.root.folder(TTLS)?.create(&version.to_string(), mode::PLAIN)?;
            ttl.write_all(format!("{at}\n").as_bytes())?;
        }
        let posted = self.post_value(key, version, written)?;
        if let Err(e) = room.tmp.rename(&written.name, &parent, key.parts().1) {
            self.take_back(&posted);
            return Err(e);
        }
        written.placed.set(true);
        if room.durable {
            parent.sync()?;
        }
        Ok(version)
    }

    /// A live value of a durable key, from before it was made durable.
    fn remove_shadow(&self, key: &Key, room: &Room) -> io::Result<()> {
        if !room.durable {
            return Ok(());
        }
        let Some(old) = self.live.find(key)? else { return Ok(()) };
        self.live.parent(key)?.remove(key.parts().1)?;
        self.clean_up(key, &old, mode::PLAIN)?;
        self.live.remove_empty_parents(key)
    }

    /// What belonged to a value that has gone, given the bits of the one in its place.
    fn clean_up(&self, key: &Key, gone: &Found, bits: u32) -> io::Result<()> {
        if gone.mode & mode::MORTAL != 0 {
            self.live.root.folder(TTLS)?.remove(&gone.modified_micros.to_string())?;
        }
        if gone.is_counter() && bits & mode::COUNTER == 0 {
            self.remove_counter(key)?;
        }
        Ok(())
    }

    /// Writes a counter's number where people look for it; it keeps its time to live. The key is locked.
    pub(super) fn publish(&self, key: &Key, text: &str, found: Option<&Found>) -> io::Result<bool> {
        let room = &self.live;
        loop {
            let written = self.write(room, text.as_bytes())?;
            let expiry = found.and_then(|found| self.expiry(found));
            match self.replace(key, &written, found, expiry, mode::COUNTER)? {
                Step::Done(_) => return Ok(true),
                Step::Again => {}
                Step::Full | Step::Gone => return Ok(false),
            }
        }
    }

    /// A durable key's number, changed under its lock.
    pub(super) fn rewrite(&mut self, key: &Key, bytes: &[u8], version: u64) -> Result<Outcome> {
        self.set(key, bytes, &Options { durable: true, expected: Some(version), ..Options::default() })
    }

    /// `false` where it was not there.
    pub fn del(&mut self, key: &Key) -> Result<bool> {
        self.find_kept()?;
        self.remove(key, |_| true).map_err(|e| failed("delete", key, e))
    }

    /// Deletes all keys that a pattern takes; returns how many.
    pub fn del_all(&mut self, pattern: &Pattern) -> Result<usize> {
        let mut count = 0;
        for entry in self.list(pattern)? {
            let key = Key::parse(&entry.key).map_err(|e| Error::new(Code::BadRequest, e))?;
            count += usize::from(self.del(&key)?);
        }
        Ok(count)
    }

    /// Removes a key whose time is over; not one that was set anew meanwhile.
    pub(super) fn expire(&self, key: &Key) -> Result<()> {
        self.remove(key, |found| self.is_over(found)).map(drop).map_err(|e| failed("delete", key, e))
    }

    fn remove(&self, key: &Key, may_go: impl Fn(&Found) -> bool) -> io::Result<bool> {
        let _lock = self.lock(key)?;
        let Some((room, found)) = self.lookup(key)?.filter(|(_, found)| may_go(found)) else {
            return Ok(false);
        };
        let was_there = !self.is_over(&found);
        if found.is_counter() {
            self.close_counter(key)?;
        }
        // First, or it would come to light.
        self.remove_shadow(key, room)?;
        let version = stamp::next(self.words.at(word::STAMP), found.modified_micros);
        self.post_removal(key, version)?;
        let parent = room.parent(key)?;
        parent.remove(key.parts().1)?;
        if room.durable {
            parent.sync()?;
        }
        self.clean_up(key, &found, mode::PLAIN)?;
        self.give_back(cost(found.bytes));
        room.remove_empty_parents(key)?;
        Ok(was_there)
    }

    /// The version that a cas compares with. A counter that has moved on since it was shown has a new one.
    fn version_of(&self, key: &Key, found: Option<&Found>) -> io::Result<u64> {
        let Some(found) = found else { return Ok(0) };
        if !found.is_counter() {
            return Ok(found.modified_micros);
        }
        let shown = self.read(key)?.map(|(value, _)| value.bytes).unwrap_or_default();
        let number = self.close_counter(key)?;
        if number.to_string().as_bytes() == shown {
            return Ok(found.modified_micros);
        }
        self.reopen_counter(key, number)?;
        self.publish(key, &number.to_string(), Some(found))?;
        Ok(self.lookup(key)?.map_or(0, |(_, found)| found.modified_micros))
    }

    fn make_kept(&mut self) -> Result<()> {
        if self.kept.is_none() {
            let root = self.folders.kept_state();
            self.folders.make_kept()?;
            private(&root)?;
            private(&root.join(super::TMP))?;
            let sync = || crate::sys::folder::Folder::open(&self.folders.kept)?.sync();
            sync().map_err(|e| cannot("sync the kept folder", e))?;
            self.words.at(word::KEPT).store(1, ORDER);
        }
        self.find_kept()
    }
}

fn refused(key: &Key, e: io::Error) -> Error {
    let kind = e.kind();
    match kind {
        io::ErrorKind::NotADirectory => {
            let (folder, _) = key.parts();
            let message =
                format!("cannot set \"{}\": part of \"{folder}\" is a key itself, not a folder", key.as_str());
            Error::new(Code::BadRequest, message)
        }
        io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty => {
            let message = format!("cannot set \"{0}\": there are keys below \"{0}/\"", key.as_str());
            Error::new(Code::BadRequest, message)
        }
        _ => failed("set", key, e),
    }
}
