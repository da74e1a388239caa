//! The state store: values under keys, as plain files below `state/` that any program can read, used by any number of
//! processes at once and by no supervisor.
//!
//! Invariant: a value's file is complete and never changed; it comes under its key by one rename, so a reader sees the
//! old value or the new one. Its modification time is its version, given out under the key's lock and never twice.
//! Locks are ranges of one file: they die with their holders, and nothing else keeps anybody out.

mod counter;
mod key;
mod mail;
mod space;
mod write;

pub use counter::{Counter, NotAdded};
pub use key::{Key, Pattern};
pub use mail::{Change, Watch};
pub use write::{Options, Outcome};

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;

use crate::error::{Code, Error, Result};
use crate::store::Folders;
use crate::store::folders::private;
use crate::sys::clock;
use crate::sys::folder::{Folder, Found, Range, sweep};
use crate::sys::shm::Words;

/// The words of the page that all users of a store share.
mod word {
    /// Which layout this is.
    pub const LAYOUT: usize = 0;
    /// The last version that was given out.
    pub const STAMP: usize = 1;
    /// What all values take up; never too low.
    pub const BYTES: usize = 2;
    /// 0: the default.
    pub const QUOTA: usize = 3;
    /// Not 0: somebody watches, or did lately.
    pub const WATCHED: usize = 4;
    /// Bytes in all mailboxes.
    pub const MAIL: usize = 5;
    /// Not 0: there are durable keys.
    pub const KEPT: usize = 6;
    pub const COUNT: usize = 7;
}

const LAYOUT: u64 = 1;
const PAGE: &str = ".hive";
const TTLS: &str = ".ttl";
const COUNTERS: &str = ".counters";
const MAIL: &str = ".watch";
const TMP: &str = ".tmp";
/// Locks are bytes of the page's file, behind the page: byte 0 of them is for all keys together.
const LOCKS_FROM: i64 = 4096;

/// What a value's permission bits say beside "this user alone".
mod mode {
    pub const PLAIN: u32 = 0o600;
    /// The sticky bit: it has a time to live, which lies in `.ttl/<version>`.
    pub const MORTAL: u32 = 0o1000;
    /// The owner's x: a counter. The file shows its number as it was; the number itself is in `.counters/`.
    pub const COUNTER: u32 = 0o100;
}

/// Temporary files of dead processes are removed when they are older than this.
const LEFT_OVER_MICROS: u64 = 10_000_000;

/// A store, open. Not to be used on both sides of a fork: the two would not keep each other out.
#[derive(Debug)]
pub struct State {
    folders: Folders,
    live: Room,
    kept: Option<Room>,
    page: File,
    words: Words,
}

/// A folder of values, with one for those that are being written.
#[derive(Debug)]
struct Room {
    root: Folder,
    tmp: Folder,
    durable: bool,
}

/// The folder that a key lies in.
enum Parent<'a> {
    Root(&'a Folder),
    Below(Folder),
}

impl Deref for Parent<'_> {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        match self {
            Parent::Root(folder) => folder,
            Parent::Below(folder) => folder,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub bytes: Vec<u8>,
    pub version: u64,
    pub durable: bool,
}

/// A key as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub version: u64,
    pub bytes: u64,
    pub durable: bool,
    pub counter: bool,
    /// Microseconds until it goes.
    pub expires_in: Option<i64>,
}

impl State {
    /// Opens a hive's store, which is made where there is none: no supervisor has to run.
    pub fn open(folders: &Folders) -> Result<State> {
        folders.make_live()?;
        let root = folders.state();
        private(&root)?;
        for name in [TMP, TTLS, COUNTERS, MAIL] {
            private(&root.join(name))?;
        }
        let kept = folders.kept_state();
        State::open_in(folders, kept.is_dir()).map_err(|e| cannot(&format!("open the store {}", root.display()), e))
    }

    /// The store, if there is one: to look into none is no reason to make one.
    pub fn find(folders: &Folders) -> Result<Option<State>> {
        match folders.state().is_dir() || folders.kept_state().is_dir() {
            true => State::open(folders).map(Some),
            false => Ok(None),
        }
    }

    fn open_in(folders: &Folders, has_kept: bool) -> io::Result<State> {
        let live = Room::open(&folders.state(), false)?;
        let page = live.root.read_write(PAGE)?;
        let words = Words::map(&page, word::COUNT)?;
        match words.at(word::LAYOUT).compare_exchange(0, LAYOUT, ORDER, ORDER) {
            Ok(_) | Err(LAYOUT) => {}
            Err(_) => return Err(io::Error::other("a later version of hive has made it")),
        }
        let kept = if has_kept { Some(Room::open(&folders.kept_state(), true)?) } else { None };
        if kept.is_some() {
            words.at(word::KEPT).store(1, ORDER);
        }
        let now = clock::wall_micros() as u64;
        for room in [Some(&live), kept.as_ref()].into_iter().flatten() {
            sweep(&room.tmp, now.saturating_sub(LEFT_OVER_MICROS))?;
        }
        Ok(State { folders: folders.clone(), live, kept, page, words })
    }

    /// The value of a key: `None` where it is not there.
    pub fn get(&mut self, key: &Key) -> Result<Option<Value>> {
        self.find_kept()?;
        loop {
            let mut value = self.read(key).map_err(|e| failed("read", key, e))?;
            match &mut value {
                Some((value, found)) if found.is_counter() => match self.counted(key) {
                    Ok(Some(number)) => value.bytes = number.to_string().into_bytes(),
                    // It is just being replaced: once more, behind whoever does that.
                    Ok(None) => {
                        self.mend_counter(key)?;
                        continue;
                    }
                    Err(e) => return Err(failed("read", key, e)),
                },
                Some((_, found)) if self.is_over(found) => {
                    self.expire(key)?;
                    continue;
                }
                _ => {}
            }
            return Ok(value.map(|(value, _)| value));
        }
    }

    fn read(&self, key: &Key) -> io::Result<Option<(Value, Found)>> {
        for room in self.rooms() {
            let mut file = match room.root.read(key.as_str()) {
                Ok(file) => file,
                Err(e) if is_absence(&e) => continue,
                Err(e) => return Err(e),
            };
            let found = Found::of_file(&file)?;
            if found.is_folder {
                continue;
            }
            // A file never changes under its name, so its length is known: one read.
            let mut bytes = vec![0; found.bytes as usize];
            file.read_exact(&mut bytes)?;
            let value = Value { bytes, version: found.modified_micros, durable: room.durable };
            return Ok(Some((value, found)));
        }
        Ok(None)
    }

    /// The file in which a value lies, for those who want to map or copy it. It is not there for ever.
    pub fn path(&self, key: &Key, durable: bool) -> std::path::PathBuf {
        if durable { self.folders.kept_state().join(key.as_str()) } else { self.folders.state().join(key.as_str()) }
    }

    /// All keys that a pattern takes, in order.
    pub fn list(&mut self, pattern: &Pattern) -> Result<Vec<Entry>> {
        self.find_kept()?;
        let mut entries = Vec::new();
        let cannot_list = |e| cannot("list the keys", e);
        for room in self.rooms() {
            let mut found = Vec::new();
            room.walk("", &mut found).map_err(cannot_list)?;
            for (key, found) in found.into_iter().filter(|(key, _)| pattern.takes(key)) {
                let expires_in = self.expiry(&found).map(|at| at - clock::monotonic_micros());
                if expires_in.is_some_and(|left| left <= 0) {
                    continue;
                }
                let (version, counter) = (found.modified_micros, found.is_counter());
                entries.push(Entry { key, version, bytes: found.bytes, durable: room.durable, counter, expires_in });
            }
        }
        // A durable value stands before a live one that a killed writer has left beside it.
        entries.sort_by(|a, b| (&a.key, b.durable).cmp(&(&b.key, a.durable)));
        entries.dedup_by(|later, first| later.key == first.key);
        Ok(entries)
    }

    /// Where a key may lie, in the order of what counts.
    fn rooms(&self) -> impl Iterator<Item = &Room> {
        self.kept.iter().chain([&self.live])
    }

    /// Another process may have made the first durable key since this store was opened.
    fn find_kept(&mut self) -> Result<()> {
        if self.kept.is_none() && self.words.at(word::KEPT).load(ORDER) != 0 && self.folders.kept_state().is_dir() {
            let room = Room::open(&self.folders.kept_state(), true);
            self.kept = Some(room.map_err(|e| cannot("open the durable part of the store", e))?);
        }
        Ok(())
    }

    fn lookup(&self, key: &Key) -> io::Result<Option<(&Room, Found)>> {
        for room in self.rooms() {
            if let Some(found) = room.find(key)? {
                return Ok(Some((room, found)));
            }
        }
        Ok(None)
    }

    fn lock(&self, key: &Key) -> io::Result<Range<'_>> {
        // Half of the numbers, so that none is beyond what a file's offset may be.
        Range::lock(&self.page, LOCKS_FROM + 1 + (key.hash() >> 2) as i64, 1)
    }

    /// Waits until nobody changes anything, and keeps it so.
    fn lock_all(&self) -> io::Result<Range<'_>> {
        Range::lock(&self.page, LOCKS_FROM, 0)
    }

    /// When it goes, on the monotonic clock.
    fn expiry(&self, found: &Found) -> Option<i64> {
        if found.mode & mode::MORTAL == 0 {
            return None;
        }
        let mut text = String::new();
        self.live.root.read(&format!("{TTLS}/{}", found.modified_micros)).ok()?.read_to_string(&mut text).ok()?;
        text.trim_end().parse().ok()
    }

    fn is_over(&self, found: &Found) -> bool {
        self.expiry(found).is_some_and(|at| at <= clock::monotonic_micros())
    }
}

const ORDER: std::sync::atomic::Ordering = std::sync::atomic::Ordering::SeqCst;

impl Found {
    fn is_counter(&self) -> bool {
        self.mode & mode::COUNTER != 0
    }
}

impl Room {
    fn open(path: &std::path::Path, durable: bool) -> io::Result<Room> {
        let root = Folder::open(path)?;
        // Whoever made the room may have been killed before it was furnished.
        root.make(TMP)?;
        let tmp = root.folder(TMP)?;
        Ok(Room { root, tmp, durable })
    }

    fn parent(&self, key: &Key) -> io::Result<Parent<'_>> {
        match key.parts().0 {
            "" => Ok(Parent::Root(&self.root)),
            folder => self.root.folder(folder).map(Parent::Below),
        }
    }

    fn make_parents(&self, key: &Key) -> io::Result<()> {
        let folder = key.parts().0;
        let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
        for end in ends.filter(|end| *end > 0) {
            let (above, name) = folder[..end].rsplit_once('/').unwrap_or(("", &folder[..end]));
            let above =
                if above.is_empty() { Parent::Root(&self.root) } else { Parent::Below(self.root.folder(above)?) };
            above.make(name)?;
            if self.durable {
                above.sync()?;
            }
        }
        // A value where a folder must be is found out here.
        self.parent(key).map(drop)
    }

    /// Folders in which nothing is left go, as far up as that is so.
    fn remove_empty_parents(&self, key: &Key) -> io::Result<()> {
        let mut folder = key.parts().0;
        while !folder.is_empty() {
            let (above, name) = folder.rsplit_once('/').unwrap_or(("", folder));
            let parent =
                if above.is_empty() { Parent::Root(&self.root) } else { Parent::Below(self.root.folder(above)?) };
            if !parent.remove_folder(name)? {
                return Ok(());
            }
            folder = above;
        }
        Ok(())
    }

    fn find(&self, key: &Key) -> io::Result<Option<Found>> {
        match self.parent(key) {
            Ok(parent) => Ok(parent.find(key.parts().1)?.filter(|found| !found.is_folder)),
            Err(e) if is_absence(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Every value below `folder`. What goes while this looks is left out.
    fn walk(&self, folder: &str, into: &mut Vec<(String, Found)>) -> io::Result<()> {
        let opened =
            if folder.is_empty() { Ok(Parent::Root(&self.root)) } else { self.root.folder(folder).map(Parent::Below) };
        let opened = match opened {
            Err(e) if is_absence(&e) => return Ok(()),
            other => other?,
        };
        for (name, is_folder) in opened.list()?.into_iter().filter(|(name, _)| !name.starts_with('.')) {
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if is_folder {
                self.walk(&path, into)?;
            } else if let Some(found) = opened.find(&name)?.filter(|_| Key::parse(&path).is_ok()) {
                into.push((path, found));
            }
        }
        Ok(())
    }
}

/// Nothing has that name, or something on the way to it is no folder.
fn is_absence(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn cannot(what: &str, e: io::Error) -> Error {
    Error::os(format!("cannot {what}"), e)
}

fn failed(what: &str, key: &Key, e: io::Error) -> Error {
    let key = key.as_str();
    if matches!(e.raw_os_error(), Some(nix::libc::ELOOP | nix::libc::EXDEV)) {
        let message = format!("cannot {what} \"{key}\": a symbolic link is on its way; hive follows none");
        return Error::new(Code::BadRequest, message);
    }
    cannot(&format!("{what} \"{key}\""), e)
}
