//! A standby: it waits in flock for the lead, and keeps the state near by reading the log as it grows.
//! Invariant: it costs a hive at rest nothing, as it is woken by changes of the log alone, and a busy one fifty looks a second.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use super::core::Tail;
use super::lead::LOCKS_ABOVE;
use crate::error::{Error, Result};
use crate::limits::STANDBY_PAUSE;
use crate::model::Seq;
use crate::store::log::{self, Replayed};
use crate::store::{Folders, Marks};
use crate::sys::lock::Lock;
use crate::sys::notify::Watcher;
use crate::sys::{self, clock};

/// The log as far as it was read, and what its newest records may still want done.
pub struct Heir {
    pub replayed: Replayed,
    pub tail: Tail,
    /// What the monotonic clock is ahead of the wall's.
    shift: i64,
}

impl Heir {
    fn new(folders: &Folders) -> Result<Heir> {
        let shift = clock::monotonic_micros() - clock::wall_micros();
        let answered = Marks::look(&folders.marks()).unwrap_or(Seq(u64::MAX));
        let mut tail = Tail::default();
        let end = Seq(u64::MAX);
        let replayed = log::replay(&folders.events(), answered, end, shift, |point, stamp, event| {
            tail.apply(point, stamp, event, shift);
        })?;
        let mut heir = Heir { replayed, tail, shift };
        heir.tail.forget(answered);
        Ok(heir)
    }

    /// Reads what was appended since.
    pub fn read_on(&mut self, folders: &Folders) -> Result<()> {
        let Heir { replayed, tail, shift } = self;
        replayed.read_on(&folders.events(), |point, stamp, event| tail.apply(point, stamp, event, *shift))?;
        if let Some(answered) = Marks::look(&folders.marks()) {
            self.tail.forget(answered);
        }
        Ok(())
    }
}

/// Waits until the lock of the log is free, and has it. With it comes the state, unless the log could not be followed:
/// then whoever leads reads it anew, and finds out why.
pub fn wait(folders: &Folders, waiting: impl FnOnce()) -> Result<(Lock, Option<Heir>)> {
    let os = |e| Error::os(format!("cannot wait for the lock of {}", folders.kept.display()), e);
    let changes = Watcher::new(&[&folders.events()]).map_err(os)?;
    let near = Arc::new(Mutex::new(Heir::new(folders).ok()));
    // A process of several threads waits for the kernel whenever its table of descriptors has to grow: it is grown now.
    let _ = sys::raise_open_files().and_then(|_| sys::move_up(&changes, LOCKS_ABOVE as i32));
    let (bell, mut ring) = UnixStream::pair().map_err(os)?;
    let (followed, theirs) = (folders.clone(), near.clone());
    // It is left to end by itself: to give up inotify takes the kernel many milliseconds.
    std::thread::Builder::new()
        .name("follow".into())
        .spawn(move || while follow(&followed, &changes, &bell, &theirs).is_ok_and(|goes_on| goes_on) {})
        .map_err(os)?;
    waiting();
    let lock = Lock::wait_for_folder(&folders.kept).map_err(os)?;
    let _ = ring.write_all(b".");
    let heir = near.lock().unwrap_or_else(|e| e.into_inner()).take();
    Ok((lock, heir))
}

/// Waits for the log to grow, and reads it. `false` when the bell has rung.
fn follow(folders: &Folders, changes: &Watcher, bell: &UnixStream, near: &Mutex<Option<Heir>>) -> io::Result<bool> {
    // What is written now is soon followed by more.
    let rung = sys::wait_readable(&[bell.as_fd(), changes.as_fd()], -1)?[0]
        || sys::wait_readable(&[bell.as_fd()], STANDBY_PAUSE.as_millis() as i32)?[0];
    changes.hush();
    let mut heir = near.lock().unwrap_or_else(|e| e.into_inner());
    *heir = heir.take().and_then(|mut heir| heir.read_on(folders).is_ok().then_some(heir));
    Ok(!rung)
}
