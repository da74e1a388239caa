//! Watching keys. A watcher has a mailbox, a folder below `.watch/`; whoever changes a key that it asks for links the new
//! value into it, under the change's version, before the change is seen anywhere else. So nothing is overwritten before
//! it was told, and the watcher is woken by the kernel (inotify).
//!
//! Invariant: a change is in the mailbox once, changes of one key in the order of their versions. The watcher holds a lock
//! on `keys` in its mailbox: a mailbox without that lock is a dead one's, and goes. What waits there is bounded: the
//! mailbox that is furthest behind is removed, and its owner says so.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::space::{cost, lessen};
use super::write::Written;
use super::{Key, MAIL, ORDER, Pattern, State, cannot, mode, word};
use crate::error::{Code, Error, Result};
use crate::limits::MAIL_BYTES_MAX;
use crate::sys::clock;
use crate::sys::folder::{Folder, Found, set_modified, temporary_name};
use crate::sys::notify::Watcher;

const KEYS: &str = "keys";

/// A letter: where, under which name, and what it takes up.
pub(super) struct Posted(Folder, String, u64);

/// What has happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub version: u64,
    /// `None`: it was deleted, or its time was over.
    pub value: Option<Vec<u8>>,
}

impl State {
    /// Tells whoever watches what a key is about to be.
    pub(super) fn post_value(&self, key: &Key, version: u64, written: &Written) -> io::Result<Vec<Posted>> {
        let mut posted = Vec::new();
        for mailbox in self.mailboxes(key)? {
            let letter = format!("{version}+{}", key.flat());
            let linked = match written.link(&mailbox, &letter) {
                // It is on another file system: the watcher gets a copy.
                Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                    let copy = self.write(&self.live, written.bytes())?;
                    set_modified(&copy.file, version)?;
                    copy.link(&mailbox, &letter)
                }
                other => other,
            };
            self.account(mailbox, letter, cost(written.bytes().len() as u64), linked, &mut posted)?;
        }
        Ok(posted)
    }

    pub(super) fn post_removal(&self, key: &Key, version: u64) -> io::Result<()> {
        for mailbox in self.mailboxes(key)? {
            let letter = format!("{version}-{}", key.flat());
            let made = mailbox.create(&letter, mode::PLAIN).map(drop);
            self.account(mailbox, letter, cost(0), made, &mut Vec::new())?;
        }
        Ok(())
    }

    fn account(
        &self,
        mailbox: Folder,
        letter: String,
        cost: u64,
        delivered: io::Result<()>,
        posted: &mut Vec<Posted>,
    ) -> io::Result<()> {
        match delivered {
            // Its owner, or another writer, has just removed it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        posted.push(Posted(mailbox, letter, cost));
        if self.words.at(word::MAIL).fetch_add(cost, ORDER) + cost > MAIL_BYTES_MAX {
            self.cut_off_the_fullest()?;
        }
        Ok(())
    }

    /// The change did not come about.
    pub(super) fn take_back(&self, posted: &[Posted]) {
        for Posted(mailbox, letter, cost) in posted {
            if mailbox.remove(letter).is_ok_and(|was_there| was_there) {
                lessen(self.words.at(word::MAIL), *cost);
            }
        }
    }

    /// The mailboxes of those who live and watch this key.
    fn mailboxes(&self, key: &Key) -> io::Result<Vec<Folder>> {
        let hint = self.words.at(word::WATCHED);
        let seen = hint.load(ORDER);
        if seen == 0 {
            return Ok(Vec::new());
        }
        let all = self.live.root.folder(MAIL)?;
        let names = all.list()?;
        if names.is_empty() {
            // Unless one has come since: it has counted the hint up.
            let _ = hint.compare_exchange(seen, 0, ORDER, ORDER);
        }
        let mut found = Vec::new();
        for (name, _) in names {
            let mailbox = match all.folder(&name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            match owner_wants(&mailbox, key)? {
                Some(true) => found.push(mailbox),
                Some(false) => {}
                None => self.remove_mailbox(&all, &name, &mailbox)?,
            }
        }
        Ok(found)
    }

    fn remove_mailbox(&self, all: &Folder, name: &str, mailbox: &Folder) -> io::Result<()> {
        for (letter, _) in mailbox.list()? {
            if let Some(found) = mailbox.find(&letter)?
                && mailbox.remove(&letter)?
                && letter != KEYS
            {
                lessen(self.words.at(word::MAIL), cost(found.bytes));
            }
        }
        all.remove_folder(name).map(drop)
    }

    /// Too much waits: it is counted, for a killed process may have left the count too high; and then the fullest goes.
    fn cut_off_the_fullest(&self) -> io::Result<()> {
        let all = self.live.root.folder(MAIL)?;
        let (mut total, mut fullest) = (0, None);
        for (name, _) in all.list()? {
            let Ok(mailbox) = all.folder(&name) else { continue };
            let mut bytes = 0;
            for (letter, _) in mailbox.list()? {
                bytes += mailbox.find(&letter)?.map_or(0, |found| cost(found.bytes));
            }
            total += bytes;
            if fullest.as_ref().is_none_or(|(most, _, _)| bytes > *most) {
                fullest = Some((bytes, name, mailbox));
            }
        }
        self.words.at(word::MAIL).store(total, ORDER);
        match fullest.filter(|_| total > MAIL_BYTES_MAX) {
            Some((_, name, mailbox)) => self.remove_mailbox(&all, &name, &mailbox),
            None => Ok(()),
        }
    }
}

/// Whether the mailbox's owner asked for this key; `None` where it has no living owner.
fn owner_wants(mailbox: &Folder, key: &Key) -> io::Result<Option<bool>> {
    let keys = match mailbox.read(KEYS) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let keys = match Flock::lock(keys, FlockArg::LockSharedNonblock) {
        Ok(_) => return Ok(None),
        Err((keys, Errno::EWOULDBLOCK)) => keys,
        Err((_, e)) => return Err(e.into()),
    };
    let mut text = String::new();
    // Not by its length, which would have to be asked for.
    keys.take(u64::MAX).read_to_string(&mut text)?;
    Ok(Some(text.lines().filter_map(|line| Pattern::parse(line).ok()).any(|pattern| pattern.takes(key.as_str()))))
}

/// Somebody who is told of every change of some keys.
pub struct Watch {
    name: String,
    mailbox: Folder,
    /// Held for as long as this lives.
    keys: Flock<File>,
    watcher: Watcher,
    letters: VecDeque<(u64, bool, Key, String)>,
    /// When keys go that have a time to live: nobody else may look then.
    expiries: BTreeMap<String, i64>,
}

impl Watch {
    /// From the return of this on no change is missed.
    pub fn new(state: &mut State, patterns: &[Pattern]) -> Result<Watch> {
        let text: String = patterns.iter().flat_map(|pattern| [pattern.as_str(), "\n"]).collect();
        let make = || -> io::Result<Watch> {
            let all = state.live.root.folder(MAIL)?;
            let name = temporary_name();
            let mut keys = state.live.tmp.create(&name, mode::PLAIN)?;
            keys.write_all(text.as_bytes())?;
            let keys = Flock::lock(keys, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
            let mailbox = loop {
                all.make(&name)?;
                let mailbox = all.folder(&name)?;
                // Without `keys` it looks like one that was left: a writer may have removed it.
                match state.live.tmp.rename(&name, &mailbox, KEYS) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => break other.map(|()| mailbox)?,
                }
            };
            let watcher = Watcher::new(&[&state.folders.state().join(MAIL).join(&name)])?;
            state.words.at(word::WATCHED).fetch_add(1, ORDER);
            // Those who had looked before are done when this is.
            drop(state.lock_all()?);
            Ok(Watch { name, mailbox, keys, watcher, letters: VecDeque::new(), expiries: BTreeMap::new() })
        };
        let mut watch = make().map_err(|e| cannot("watch the store", e))?;
        watch.letters = watch.waiting().map_err(|e| cannot("look for changes", e))?.into();
        let now = clock::monotonic_micros();
        for pattern in patterns {
            let mortal =
                state.list(pattern)?.into_iter().filter_map(|entry| Some((entry.key, entry.expires_in? + now)));
            watch.expiries.extend(mortal);
        }
        Ok(watch)
    }

    /// The next change; `None` where none has come until `deadline` (on the monotonic clock).
    pub fn next(&mut self, state: &mut State, deadline: Option<i64>) -> Result<Option<Change>> {
        let mut looked = false;
        loop {
            // The first durable key may be among them.
            state.find_kept()?;
            while let Some((version, is_value, key, letter)) = self.letters.pop_front() {
                let change = self.open(state, version, is_value, &key, &letter);
                if let Some(change) = change.map_err(|e| cannot("read a change", e))? {
                    return Ok(Some(change));
                }
            }
            if self.keys.metadata().map_or(0, |meta| meta.nlink()) == 0 {
                let why = "too much has changed that it did not read; read the keys, and watch again";
                return Err(Error::new(Code::Limit, format!("this watcher was cut off: {why}")));
            }
            let now = clock::monotonic_micros();
            if looked && deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(None);
            }
            if self.end_what_is_over(state, now)? {
                continue;
            }
            let until = deadline.into_iter().chain(self.expiries.values().copied()).min();
            let wait = until.map(|at| Duration::from_micros((at - now).max(0) as u64));
            // Rounded up, or it would wake before its time.
            let wait = wait.map_or(-1, |wait| (wait.as_millis() as i32).saturating_add(1));
            self.watcher.wait(wait).map_err(|e| cannot("wait for changes", e))?;
            // What came before the wait was taken before it; what comes after this look wakes the next one.
            self.letters = self.waiting().map_err(|e| cannot("look for changes", e))?.into();
            looked = true;
        }
    }

    /// What lies in the mailbox, in the order of versions.
    fn waiting(&self) -> io::Result<Vec<(u64, bool, Key, String)>> {
        let mut letters = Vec::new();
        for (letter, _) in self.mailbox.list()? {
            let Some(at) = letter.find(['+', '-']) else { continue };
            let (version, key) = (letter[..at].parse(), Key::from_flat(&letter[at + 1..]));
            if let (Ok(version), Some(key)) = (version, key) {
                letters.push((version, letter.as_bytes()[at] == b'+', key, letter));
            }
        }
        letters.sort_by_key(|(version, ..)| *version);
        Ok(letters)
    }

    /// Takes a letter out of the box: `None` where its change did not come about.
    fn open(
        &mut self,
        state: &State,
        version: u64,
        is_value: bool,
        key: &Key,
        letter: &str,
    ) -> io::Result<Option<Change>> {
        let look = || -> io::Result<(bool, Option<Found>)> {
            let found = state.lookup(key)?.map(|(_, found)| found);
            let now = found.map_or(0, |found| found.modified_micros);
            Ok((if is_value { now >= version } else { now == 0 || now > version }, found))
        };
        let (mut is_so, mut found) = look()?;
        if !is_so {
            // Whoever wrote it is done when the key's lock is free, or dead.
            drop(state.lock(key)?);
            (is_so, found) = look()?;
        }
        let was_so = || -> io::Result<bool> {
            Ok(self.waiting()?.iter().any(|(later, _, of, _)| of == key && *later > version))
        };
        let is_real = is_so || was_so()?;
        let Ok(mut file) = self.mailbox.read(letter) else {
            // Taken back, or cut off.
            return Ok(None);
        };
        let (mut value, meta) = (Vec::new(), file.metadata()?);
        if is_value && is_real {
            file.read_to_end(&mut value)?;
        }
        if self.mailbox.remove(letter)? {
            lessen(state.words.at(word::MAIL), cost(meta.len()));
        }
        if !is_real {
            return Ok(None);
        }
        match found.and_then(|found| state.expiry(&found)) {
            Some(at) => self.expiries.insert(key.as_str().to_owned(), at),
            None => self.expiries.remove(key.as_str()),
        };
        Ok(Some(Change { key: key.as_str().to_owned(), version, value: is_value.then_some(value) }))
    }

    /// Removes keys whose time is over, which tells all who watch. `true`: there were some.
    fn end_what_is_over(&mut self, state: &mut State, now: i64) -> Result<bool> {
        let over: Vec<String> =
            self.expiries.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in &over {
            self.expiries.remove(key);
            if let Ok(key) = Key::parse(key) {
                state.expire(&key)?;
            }
        }
        Ok(!over.is_empty())
    }

    /// Its mailbox goes with it.
    pub fn close(self, state: &State) -> Result<()> {
        let close = || state.remove_mailbox(&state.live.root.folder(MAIL)?, &self.name, &self.mailbox);
        close().map_err(|e| cannot("close a mailbox", e))
    }
}
