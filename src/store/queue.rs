//! Queues: items in order, pushed and popped by any number of processes, without a daemon.
//!
//! An item is a file in `ready/`, named by its number; popping it is one rename to `leased/`, under a name that says who
//! holds it (pid and start time); acknowledging it removes it. A holder that has died has its items put back, to their old
//! places, by whoever pops next.
//!
//! Invariant: an item is in one of the two folders from its push to its acknowledgement, and leaves by that alone: so it
//! is acknowledged exactly once. No number in `ready/` is below `head`. Pushing and popping hold one lock (a range of the
//! page's file, which dies with its holder) for the few calls that change these.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use crate::error::{Code, Error, Result};
use crate::limits::{ITEM_INLINE_MAX, NAME_MAX, QUEUE_ITEMS_MAX};
use crate::store::folders::private;
use crate::store::{Context, Folders};
use crate::sys::folder::{Folder, Found, Range, sweep, temporary_name};
use crate::sys::notify::Watcher;
use crate::sys::process::{Pid, Process, start_time};
use crate::sys::shm::Words;
use crate::sys::{self, clock};
use crate::wire::check_name;

const PAGE: &str = ".hive";
const LOCK_AT: i64 = 4096;
/// The last number that was given to an item.
const TAIL: usize = 0;
/// Nothing that is ready has a number below this.
const HEAD: usize = 1;
const WORDS: usize = 2;
const ORDER: std::sync::atomic::Ordering = std::sync::atomic::Ordering::SeqCst;
/// What dead pushers left half written is removed when it is older than this.
const LEFT_OVER_MICROS: u64 = 10_000_000;

#[derive(Debug)]
pub struct Queue {
    folders: Folders,
    name: String,
    tmp: Folder,
    ready: Folder,
    leased: Folder,
    page: File,
    words: Words,
}

/// A process for which an item is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    pub pid: i32,
    /// In clock ticks since boot: a pid alone may come to mean another.
    pub start: u64,
}

/// An item that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub id: u64,
    pub group: String,
    /// As it lies in the queue: itself, or a reference to where it is.
    pub text: Vec<u8>,
}

/// An item as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: u64,
    pub group: String,
    pub bytes: u64,
    pub holder: Option<Holder>,
}

impl Holder {
    /// A process that lives.
    pub fn of(pid: i32) -> Result<Holder> {
        let start = start_time(Pid(pid)).map_err(|e| Error::os(format!("cannot hold an item for process {pid}"), e))?;
        Ok(Holder { pid, start })
    }

    fn process(self) -> Option<Process> {
        let process = Process::open(Pid(self.pid)).ok()?;
        let is_it = start_time(Pid(self.pid)).is_ok_and(|start| start == self.start);
        (is_it && !process.wait_for_end(0)).then_some(process)
    }
}

/// The name of a file in `leased/`: `<number>.<pid>.<start>.<group>`.
struct Lease {
    file: String,
    id: u64,
    holder: Holder,
    group: String,
}

impl Lease {
    fn parse(file: String) -> Option<Lease> {
        let mut parts = file.splitn(4, '.');
        let id = parts.next()?.parse().ok()?;
        let holder = Holder { pid: parts.next()?.parse().ok()?, start: parts.next()?.parse().ok()? };
        let group = parts.next()?.to_owned();
        Some(Lease { file, id, holder, group })
    }

    fn name(id: u64, holder: Holder, group: &str) -> String {
        format!("{id}.{}.{}.{group}", holder.pid, holder.start)
    }
}

impl Queue {
    /// Opens a queue, which is made where there is none: no supervisor has to run.
    pub fn open(folders: &Folders, name: &str) -> Result<Queue> {
        check_name("a queue's name", name).map_err(|e| Error::new(Code::BadRequest, e))?;
        folders.make_live()?;
        let path = folders.queues().join(name);
        for dir in [&folders.queues(), &path, &path.join(".tmp"), &path.join("ready"), &path.join("leased")] {
            private(dir)?;
        }
        let open = || {
            let root = Folder::open(&path)?;
            let page = root.read_write(PAGE)?;
            let words = Words::map(&page, WORDS)?;
            let (tmp, ready, leased) = (root.folder(".tmp")?, root.folder("ready")?, root.folder("leased")?);
            sweep(&tmp, (clock::wall_micros() as u64).saturating_sub(LEFT_OVER_MICROS))?;
            Ok(Queue { folders: folders.clone(), name: name.to_owned(), tmp, ready, leased, page, words })
        };
        open().map_err(|e: io::Error| Error::os(format!("cannot open the queue {}", path.display()), e))
    }

    /// The names of a hive's queues.
    pub fn names(folders: &Folders) -> Vec<String> {
        let entries = std::fs::read_dir(folders.queues()).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| check_name("", name).is_ok());
        names.sort();
        names
    }

    /// Adds an item at the end; returns its number. Items of one group (not "") are handed out one at a time.
    pub fn push(&mut self, item: &[u8], group: &str) -> Result<u64> {
        check_group(group)?;
        let reference;
        let text = if item.len() > ITEM_INLINE_MAX {
            self.folders.make_context()?;
            let digest = Context::at(&self.folders.context).put(item);
            let digest = digest.map_err(|e| Error::os("cannot store the item in the context store", e))?;
            reference = format!("REF:{digest}");
            reference.as_bytes()
        } else {
            item
        };
        let text = [group.as_bytes(), b"\n", text].concat();
        match self.try_push(&text) {
            Ok(Some(id)) => Ok(id),
            Ok(None) => {
                let message = format!("the queue \"{}\" is full: {QUEUE_ITEMS_MAX} items wait", self.name);
                Err(Error::new(Code::Limit, message))
            }
            Err(e) => Err(self.failed("push to", e)),
        }
    }

    fn try_push(&mut self, text: &[u8]) -> io::Result<Option<u64>> {
        let name = temporary_name();
        self.tmp.remove(&name)?;
        let written = self.tmp.create(&name, 0o600).and_then(|mut file| file.write_all(text));
        let pushed = written.and_then(|()| {
            let _lock = self.lock()?;
            if self.waiting()? >= QUEUE_ITEMS_MAX {
                return Ok(None);
            }
            // Given out before it is used: killed in between, a number is left out, and nothing else.
            let id = self.words.at(TAIL).fetch_add(1, ORDER) + 1;
            self.tmp.rename(&name, &self.ready, &id.to_string())?;
            Ok(Some(id))
        });
        if !matches!(pushed, Ok(Some(_))) {
            let _ = self.tmp.remove(&name);
        }
        pushed
    }

    /// How many wait, at least; they are only counted where the numbers say too many.
    fn waiting(&self) -> io::Result<u64> {
        let span = self.words.at(TAIL).load(ORDER).saturating_sub(self.words.at(HEAD).load(ORDER));
        if span < QUEUE_ITEMS_MAX { Ok(span) } else { Ok(self.ready.list()?.len() as u64) }
    }

    /// The first item that may be handed out, held from now on. `None`: there is none now.
    pub fn pop(&mut self, holder: Holder) -> Result<Option<Item>> {
        self.try_pop(holder).map_err(|e| self.failed("pop from", e))
    }

    fn try_pop(&mut self, holder: Holder) -> io::Result<Option<Item>> {
        let _lock = self.lock()?;
        let mut busy: HashSet<String> = self.put_back_of_the_dead()?.into_iter().map(|lease| lease.group).collect();
        busy.remove("");
        let (first, last) = (self.words.at(HEAD).load(ORDER).max(1), self.words.at(TAIL).load(ORDER));
        let mut passed_none = true;
        for id in first..=last {
            let name = id.to_string();
            let mut file = match self.ready.read(&name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    // Numbers come under the lock: one that is not there now never will be, but by being put back.
                    if passed_none {
                        self.words.at(HEAD).store(id + 1, ORDER);
                    }
                    continue;
                }
                other => other?,
            };
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let (group, text) = parts_of(bytes);
            if busy.contains(&group) {
                passed_none = false;
                continue;
            }
            self.ready.rename(&name, &self.leased, &Lease::name(id, holder, &group))?;
            if passed_none {
                self.words.at(HEAD).store(id + 1, ORDER);
            }
            return Ok(Some(Item { id, group, text }));
        }
        Ok(None)
    }

    /// Puts back what dead processes hold; returns what the living do. The queue is locked.
    fn put_back_of_the_dead(&self) -> io::Result<Vec<Lease>> {
        let mut living = Vec::new();
        for lease in self.leases()? {
            match lease.holder.process() {
                Some(_) => living.push(lease),
                None => self.put_back(&lease)?,
            }
        }
        Ok(living)
    }

    fn put_back(&self, lease: &Lease) -> io::Result<()> {
        // First, so that nothing ready is ever below the head.
        self.words.at(HEAD).fetch_min(lease.id, ORDER);
        self.leased.rename(&lease.file, &self.ready, &lease.id.to_string())
    }

    fn leases(&self) -> io::Result<Vec<Lease>> {
        Ok(self.leased.list()?.into_iter().filter_map(|(file, _)| Lease::parse(file)).collect())
    }

    /// Done: the item leaves the queue for good. `false` where this holder does not hold it.
    pub fn ack(&mut self, id: u64, holder: Holder) -> Result<bool> {
        let ack = || {
            let _lock = self.lock()?;
            match self.lease(id, holder)? {
                Some(lease) => self.leased.remove(&lease.file),
                None => Ok(false),
            }
        };
        ack().map_err(|e| self.failed("acknowledge an item of", e))
    }

    /// Not done: the item goes back to its place, before all that came later.
    pub fn give_back(&mut self, id: u64, holder: Holder) -> Result<bool> {
        let give_back = || {
            let _lock = self.lock()?;
            match self.lease(id, holder)? {
                Some(lease) => self.put_back(&lease).map(|()| true),
                None => Ok(false),
            }
        };
        give_back().map_err(|e| self.failed("give back an item of", e))
    }

    fn lease(&self, id: u64, holder: Holder) -> io::Result<Option<Lease>> {
        Ok(self.leases()?.into_iter().find(|lease| lease.id == id && lease.holder == holder))
    }

    /// The numbers of what a process holds, in order.
    pub fn held_by(&self, holder: Holder) -> Result<Vec<u64>> {
        let leases = self.leases().map_err(|e| self.failed("look into", e))?;
        let mut held: Vec<u64> = leases.iter().filter(|lease| lease.holder == holder).map(|lease| lease.id).collect();
        held.sort_unstable();
        Ok(held)
    }

    /// What is in it, in order.
    pub fn list(&mut self) -> Result<Vec<Listed>> {
        let list = || {
            let _lock = self.lock()?;
            let leases = self.put_back_of_the_dead()?;
            let mut items = Vec::new();
            for lease in leases {
                let bytes =
                    self.leased.find(&lease.file)?.map_or(0, |found| found.bytes - lease.group.len() as u64 - 1);
                items.push(Listed { id: lease.id, group: lease.group, bytes, holder: Some(lease.holder) });
            }
            for (name, _) in self.ready.list()? {
                let Ok(id) = name.parse() else { continue };
                let mut bytes = Vec::new();
                self.ready.read(&name)?.read_to_end(&mut bytes)?;
                let (group, text) = parts_of(bytes);
                items.push(Listed { id, group, bytes: text.len() as u64, holder: None });
            }
            items.sort_by_key(|item| item.id);
            Ok(items)
        };
        list().map_err(|e| self.failed("look into", e))
    }

    /// Pops, waiting for an item until `deadline` (on the monotonic clock; none: for ever). Woken by a push, by an
    /// acknowledgement, and by the death of whoever holds an item.
    pub fn pop_waiting(&mut self, holder: Holder, deadline: Option<i64>) -> Result<Option<Item>> {
        let folder = self.folders.queues().join(&self.name);
        let watcher = Watcher::with_removals(&[&folder.join("ready"), &folder.join("leased")]);
        let watcher = watcher.map_err(|e| self.failed("watch", e))?;
        loop {
            if let Some(item) = self.pop(holder)? {
                return Ok(Some(item));
            }
            let left = deadline.map(|deadline| deadline - clock::monotonic_micros());
            if left.is_some_and(|left| left <= 0) {
                return Ok(None);
            }
            let leases = self.leases().map_err(|e| self.failed("look into", e))?;
            let holders: Option<Vec<Process>> = leases.iter().map(|lease| lease.holder.process()).collect();
            // One has died since: what it held is there now.
            let Some(holders) = holders else { continue };
            let fds: Vec<_> =
                [watcher.as_fd()].into_iter().chain(holders.iter().map(|holder| holder.as_fd())).collect();
            let wait = left.map_or(-1, |left| (left / 1000 + 1).min(i64::from(i32::MAX)) as i32);
            sys::wait_readable(&fds, wait).map_err(|e| self.failed("wait for", e))?;
            watcher.hush();
        }
    }

    /// Where an item's content lies, if it goes by reference.
    pub fn content(&self, item: &Item) -> Result<Option<File>> {
        let digest = std::str::from_utf8(&item.text).ok().and_then(|text| text.strip_prefix("REF:"));
        let is_digest = |d: &&str| d.len() == 64 && d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let Some(digest) = digest.filter(is_digest) else { return Ok(None) };
        Context::at(&self.folders.context).open(digest).map(Some).map_err(|e| {
            let message = format!("cannot open the content of item {}: REF:{digest}", item.id);
            let code = if e.kind() == io::ErrorKind::NotFound { Code::NoSuchContent } else { Code::Internal };
            Error::new(code, Error::os(message, e).message)
        })
    }

    fn lock(&self) -> io::Result<Range<'_>> {
        let lock = Range::lock(&self.page, LOCK_AT, 1)?;
        match Found::of_file(&self.page)?.links {
            0 => Err(io::Error::other("it was removed meanwhile")),
            _ => Ok(lock),
        }
    }

    fn failed(&self, what: &str, e: io::Error) -> Error {
        Error::os(format!("cannot {what} the queue \"{}\"", self.name), e)
    }
}

/// An item's file: its group, a newline, the item.
fn parts_of(mut bytes: Vec<u8>) -> (String, Vec<u8>) {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let group = String::from_utf8_lossy(&bytes[..end]).into_owned();
    bytes.drain(..(end + 1).min(bytes.len()));
    (group, bytes)
}

fn check_group(group: &str) -> Result<()> {
    const _: () = assert!(NAME_MAX + 64 < 255, "a lease is one file name");
    match group {
        "" => Ok(()),
        _ => check_name("a group's name", group).map_err(|e| Error::new(Code::BadRequest, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_a_file_name_and_back() {
        let holder = Holder { pid: 12, start: 345 };
        let lease = Lease::parse(Lease::name(7, holder, "a.b")).unwrap();
        assert_eq!((lease.id, lease.holder, lease.group.as_str()), (7, holder, "a.b"));
        assert!(Lease::parse("7.x.1.".into()).is_none());
        assert_eq!(parts_of(b"g\nan\nitem".to_vec()), ("g".to_owned(), b"an\nitem".to_vec()));
        assert_eq!(parts_of(b"\n".to_vec()), (String::new(), Vec::new()));
    }
}
