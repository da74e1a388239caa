//! Those who asked: their reply FIFOs, opened without waiting, written without waiting, let go when they are gone.
//! Invariant: a client that does not read costs a bounded buffer and nothing else; others do not notice.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use mio::Poll;

use super::Wake;
use crate::limits;
use crate::model::{ReplyTo, Seq};
use crate::outbox::{Outbox, Unit};
use crate::sys::fifo;
use crate::sys::process::{Pid, Process};

pub struct Clients {
    folder: PathBuf,
    slots: Vec<Option<Client>>,
    by_name: HashMap<Arc<str>, usize>,
    /// Whom the last answer went to: most go to the same.
    last: Option<(Arc<str>, usize)>,
    /// Slots with something to write since the last flush.
    dirty: Vec<usize>,
    /// With `--durable`: answers whose records are not yet on disk.
    durable: bool,
    held: VecDeque<Held>,
    /// Up to which record the turns before this one were flushed.
    flushed: Seq,
    /// Clients whose answers did not all fit: up to which record they have them.
    behind: BTreeMap<usize, Seq>,
    /// How many were ever opened: now and then what dead clients left is cleared away.
    opened: usize,
    /// Clients that were dropped with answers unread.
    pub cut: u64,
}

/// An answer that waits for the disk.
struct Held {
    /// Records before the turn that it belongs to, and the last one it stands on.
    before: Seq,
    after: Seq,
    name: Arc<str>,
    bytes: Vec<u8>,
}

/// A client that was not written to for this long (in microseconds) is looked at again before it is.
const REST: i64 = 1000;

struct Client {
    name: Arc<str>,
    path: PathBuf,
    outbox: Outbox,
    /// When it was last written to.
    written: i64,
    /// It stands in `dirty`.
    dirty: bool,
    /// Since when its pipe takes nothing.
    stalled: Option<i64>,
}

impl Clients {
    pub fn new(folder: PathBuf, durable: bool) -> Clients {
        Clients {
            folder,
            slots: Vec::new(),
            by_name: HashMap::new(),
            last: None,
            dirty: Vec::new(),
            durable,
            held: VecDeque::new(),
            flushed: Seq(0),
            behind: BTreeMap::new(),
            opened: 0,
            cut: 0,
        }
    }

    /// Up to which record everybody was answered, given that a turn up to `recorded` has just been flushed.
    pub fn answered(&mut self, recorded: Seq) -> Seq {
        self.flushed = recorded;
        let held = self.held.front().map(|held| held.before);
        self.behind.values().copied().chain(held).min().unwrap_or(recorded)
    }

    /// Appends an answer. `after` is the last record it stands on.
    pub fn answer(&mut self, to: &ReplyTo, after: Seq, write: impl FnOnce(&mut Vec<u8>)) {
        if self.durable {
            let mut bytes = Vec::new();
            write(&mut bytes);
            self.held.push_back(Held { before: self.flushed, after, name: to.name.clone(), bytes });
        } else if let Some(client) = self.client(&to.name) {
            write(client.outbox.buffer());
        }
    }

    /// Lets go the answers whose records are on disk.
    pub fn release(&mut self, synced: Seq) {
        while self.held.front().is_some_and(|held| held.after <= synced) {
            let Some(Held { name, bytes, .. }) = self.held.pop_front() else {
                return;
            };
            if let Some(client) = self.client(&name) {
                client.outbox.buffer().extend_from_slice(&bytes);
            }
        }
    }

    fn client(&mut self, name: &Arc<str>) -> Option<&mut Client> {
        let slot = match &self.last {
            Some((last, slot)) if Arc::ptr_eq(last, name) => *slot,
            _ => {
                let slot = match self.by_name.get(name) {
                    Some(slot) => *slot,
                    None => self.open(name)?,
                };
                self.last = Some((name.clone(), slot));
                slot
            }
        };
        if self.slots[slot].as_ref().is_some_and(|c| c.outbox.waiting() > limits::CLIENT_QUEUE_MAX) {
            self.cut(slot);
            return None;
        }
        let client = self.slots[slot].as_mut()?;
        if !std::mem::replace(&mut client.dirty, true) {
            self.dirty.push(slot);
        }
        Some(client)
    }

    fn open(&mut self, name: &Arc<str>) -> Option<usize> {
        if self.by_name.len() >= limits::CLIENTS_OPEN_MAX {
            self.close_idle();
        }
        self.opened += 1;
        if self.opened.is_multiple_of(limits::CLIENTS_OPEN_MAX) {
            self.clear_away();
        }
        let path = self.folder.join(name.as_ref());
        let removed =
            |_| client_pid(name).map_or(Err(io::ErrorKind::NotFound.into()), |pid| fifo::open_removed(pid, &path));
        let Ok(file) = fifo::open_write(&path).or_else(removed) else {
            self.gone(name);
            return None;
        };
        let client = Client {
            name: name.clone(),
            path,
            outbox: Outbox::new(file, Unit::Bytes),
            written: i64::MAX / 2,
            dirty: false,
            stalled: None,
        };
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(client);
        self.by_name.insert(name.clone(), slot);
        Some(slot)
    }

    fn close_idle(&mut self) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().is_some_and(|c| c.outbox.waiting() == 0) {
                self.forget(slot);
            }
        }
    }

    /// Writes what the pipes take.
    pub fn flush(&mut self, poll: &Poll, mono: i64) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            self.flush_one(poll, slot, mono);
        }
        self.dirty = dirty;
        let patience = limits::CLIENT_PATIENCE.as_micros() as i64;
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().and_then(|c| c.stalled).is_some_and(|since| mono - since >= patience) {
                self.cut(slot);
            }
        }
    }

    /// The pipe of a client that had been full takes bytes again.
    pub fn writable(&mut self, slot: usize) {
        self.dirty.push(slot);
    }

    fn flush_one(&mut self, poll: &Poll, slot: usize, mono: i64) {
        let Some(client) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        client.dirty = false;
        // A pipe may have been made anew while the old one still has a reader (a child that inherited it): the name says who
        // is meant. Nobody does that between two answers of a moment, and a look costs a fifth of a round trip.
        let rested = mono - std::mem::replace(&mut client.written, mono) > REST;
        if rested && client.outbox.is_replaced(&client.path) {
            return self.reopen(poll, slot, mono);
        }
        let flushed = client.outbox.flush(poll.registry(), Wake::Client(slot).token());
        if client.outbox.waiting() > 0 {
            self.behind.entry(slot).or_insert(self.flushed);
        } else if client.stalled.is_some() {
            self.behind.remove(&slot);
        }
        match flushed {
            Ok(_) if client.outbox.waiting() == 0 => client.stalled = None,
            Ok(true) => client.stalled = Some(mono),
            Ok(false) => client.stalled = client.stalled.or(Some(mono)),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.reopen(poll, slot, mono),
            Err(_) => self.cut(slot),
        }
    }

    /// Nobody reads the pipe that we hold. A new client may have made a new one of the same name.
    fn reopen(&mut self, poll: &Poll, slot: usize, mono: i64) {
        let Some(client) = self.slots[slot].take() else {
            return;
        };
        self.by_name.remove(&client.name);
        self.last = None;
        let (name, mut outbox) = (client.name, client.outbox);
        let bytes = outbox.take_waiting();
        drop(outbox);
        let Some(slot) = self.open(&name) else { return };
        if let Some(client) = self.slots[slot].as_mut() {
            client.outbox.buffer().extend_from_slice(&bytes);
            match client.outbox.flush(poll.registry(), Wake::Client(slot).token()) {
                Ok(_) if client.outbox.waiting() == 0 => {}
                Ok(_) => client.stalled = Some(mono),
                Err(_) => self.cut(slot),
            }
        }
    }

    fn cut(&mut self, slot: usize) {
        if let Some(client) = &self.slots[slot] {
            let name = client.name.clone();
            self.gone(&name);
        }
        self.forget(slot);
    }

    fn forget(&mut self, slot: usize) {
        self.last = None;
        self.behind.remove(&slot);
        if let Some(client) = self.slots[slot].take() {
            self.by_name.remove(&client.name);
        }
    }

    /// A client of hivectl's own that is gone takes its pipe with it, in case it could not do so itself.
    fn gone(&mut self, name: &str) {
        self.cut += 1;
        self.remove_if_dead(name);
    }

    /// Clients that died before they asked for anything were never met: their pipes are found by looking.
    fn clear_away(&self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            entry.file_name().to_str().into_iter().for_each(|name| self.remove_if_dead(name));
        }
    }

    fn remove_if_dead(&self, name: &str) {
        if client_pid(name).is_some_and(|pid| Process::open(pid).is_err()) {
            let _ = std::fs::remove_file(self.folder.join(name));
        }
    }

    /// When patience with somebody ends.
    pub fn next_deadline(&self) -> Option<i64> {
        let patience = limits::CLIENT_PATIENCE.as_micros() as i64;
        self.slots.iter().flatten().filter_map(|c| c.stalled).min().map(|since| since + patience)
    }
}

/// The process that a pipe is of, where hivectl made it.
fn client_pid(name: &str) -> Option<Pid> {
    name.strip_prefix("hivectl-")?.split('-').next()?.parse().ok().map(Pid)
}
