//! Named locks: flock on files below `locks/`, so that flock(1) and hive exclude each other. A lock dies with its holder,
//! and no child inherits it (close-on-exec).
//! Invariant: a lock that was given is on the file that has the lock's name; its fence is a number that no earlier holding
//! of any lock of this hive had, and all later ones exceed.

use std::fs::File;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Code, Error, Result};
use crate::store::folders::private;
use crate::store::{Folders, stamp};
use crate::sys::folder::{Folder, Found};
use crate::sys::notify::Watcher;
use crate::sys::shm::Words;
use crate::wire::check_name;

/// The page with the last fence that was given out.
const PAGE: &str = ".fence";
const FENCE: usize = 0;

/// The locks of a hive.
#[derive(Debug)]
pub struct Locks {
    folders: Folders,
    folder: Arc<Folder>,
    words: Words,
}

/// A held lock. Letting it go (or dying) frees it.
#[derive(Debug)]
pub struct Lock {
    file: Flock<File>,
    name: String,
    folder: Arc<Folder>,
    /// Grows with every holding: who meets a higher one elsewhere is no longer the holder.
    pub fence: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    Alone,
    /// With others who share it too.
    Shared,
}

/// How long to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    No,
    AtMost(Duration),
    ForEver,
}

/// A process that holds a lock, or waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    pub lock: String,
    pub pid: i32,
    pub holds: bool,
    pub shared: bool,
}

impl Locks {
    /// The locks of a hive, whether one runs or not.
    pub fn open(folders: &Folders) -> Result<Locks> {
        folders.make_live()?;
        let path = folders.locks();
        private(&path)?;
        let open = || {
            let folder = Arc::new(Folder::open(&path)?);
            let words = Words::map(&folder.read_write(PAGE)?, 1)?;
            Ok(Locks { folders: folders.clone(), folder, words })
        };
        open().map_err(|e: io::Error| Error::os(format!("cannot open the locks in {}", path.display()), e))
    }

    /// Takes a lock: `None` where the patience has ended first.
    pub fn take(&self, name: &str, sharing: Sharing, patience: Patience) -> Result<Option<Lock>> {
        check_name("a lock's name", name).map_err(|e| Error::new(Code::BadRequest, e))?;
        let failed = |e| Error::os(format!("cannot lock {}", self.folders.locks().join(name).display()), e);
        let deadline = match patience {
            Patience::AtMost(time) => Some(std::time::Instant::now() + time),
            Patience::No | Patience::ForEver => None,
        };
        loop {
            let file = self.folder.read_write(name).map_err(failed)?;
            let file = match deadline {
                None => flock(file, sharing, patience == Patience::ForEver).map_err(failed)?,
                Some(deadline) => flock_until(file, sharing, deadline).map_err(failed)?,
            };
            let Some(file) = file else { return Ok(None) };
            let mut lock = Lock { file, name: name.to_owned(), folder: self.folder.clone(), fence: 0 };
            // Between open and flock the file may have been removed and made again: then this is a lock of nothing.
            if lock.is_current() {
                lock.fence = stamp::next(self.words.at(FENCE), 0);
                return Ok(Some(lock));
            }
        }
    }

    /// Wakes when a lock's file comes or goes.
    pub fn watch(&self) -> Result<Watcher> {
        let path = self.folders.locks();
        let watcher = Watcher::with_removals(&[&path]);
        watcher.map_err(|e| Error::os(format!("cannot watch {}", path.display()), e))
    }

    /// Who holds which lock, and who waits for it, as the kernel says; whatever program they are.
    pub fn parties(&self) -> Result<Vec<Party>> {
        let read = || {
            let table = std::fs::read_to_string("/proc/locks")?;
            let mut parties = Vec::new();
            let mut names = self.folder.list()?;
            names.sort();
            for (name, _) in names.into_iter().filter(|(name, _)| !name.starts_with('.')) {
                if let Some(found) = self.folder.find(&name)? {
                    parties.extend(table.lines().filter_map(|line| party(line, &name, &found)));
                }
            }
            Ok(parties)
        };
        read().map_err(|e: io::Error| Error::os("cannot list the locks", e))
    }
}

impl Lock {
    /// Whether the file under the lock's name is still the one that is locked. If it is not, others may hold the new one.
    pub fn is_current(&self) -> bool {
        let named = self.folder.find(&self.name);
        match (Found::of_file(&self.file), named) {
            (Ok(mine), Ok(Some(named))) => mine.is_same_file(&named),
            _ => false,
        }
    }
}

fn flock(file: File, sharing: Sharing, wait: bool) -> io::Result<Option<Flock<File>>> {
    let how = match (sharing, wait) {
        (Sharing::Alone, true) => FlockArg::LockExclusive,
        (Sharing::Alone, false) => FlockArg::LockExclusiveNonblock,
        (Sharing::Shared, true) => FlockArg::LockShared,
        (Sharing::Shared, false) => FlockArg::LockSharedNonblock,
    };
    let mut file = file;
    loop {
        match Flock::lock(file, how) {
            Ok(locked) => return Ok(Some(locked)),
            Err((same, Errno::EINTR)) => file = same,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, e)) => return Err(e.into()),
        }
    }
}

/// flock knows no deadline, and a signal that comes just before the call would be lost: a thread waits, and is left where
/// it is when the time is over. If it then gets the lock, it lets it go.
fn flock_until(file: File, sharing: Sharing, deadline: std::time::Instant) -> io::Result<Option<Flock<File>>> {
    if let Some(locked) = flock(file.try_clone()?, sharing, false)? {
        return Ok(Some(locked));
    }
    let (give, take) = mpsc::channel();
    std::thread::Builder::new().name("flock".into()).spawn(move || drop(give.send(flock(file, sharing, true))))?;
    match take.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now())) {
        Ok(locked) => locked,
        Err(_) => Ok(None),
    }
}

/// A line of /proc/locks: `4: FLOCK  ADVISORY  WRITE 7323 00:1a:12 0 EOF`; whoever waits has `->` before `FLOCK`.
fn party(line: &str, lock: &str, file: &Found) -> Option<Party> {
    let mut words = line.split_whitespace().skip(1).peekable();
    let holds = words.next_if_eq(&"->").is_none();
    let (kind, _, mode) = (words.next()?, words.next()?, words.next()?);
    let (pid, place) = (words.next()?.parse().ok()?, words.next()?);
    let mut place = place.split(':');
    let mut number = |radix| u64::from_str_radix(place.next()?, radix).ok();
    let (major, minor, inode) = (number(16)?, number(16)?, number(10)?);
    let is_this = inode == file.inode && nix::sys::stat::makedev(major, minor) == file.device;
    (kind == "FLOCK" && is_this).then(|| Party { lock: lock.to_owned(), pid, holds, shared: mode == "READ" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_says_who_holds_and_who_waits() {
        let device = nix::sys::stat::makedev(0, 0x1a);
        let file = Found { inode: 12, device, bytes: 0, mode: 0, modified_micros: 0, is_folder: false, links: 1 };
        let of = |line| party(line, "x", &file);
        let holder = Party { lock: "x".into(), pid: 7323, holds: true, shared: false };
        assert_eq!(of("4: FLOCK  ADVISORY  WRITE 7323 00:1a:12 0 EOF"), Some(holder.clone()));
        let waits = Party { pid: 9, holds: false, shared: true, ..holder };
        assert_eq!(of("4: -> FLOCK  ADVISORY  READ 9 00:1a:12 0 EOF"), Some(waits));
        assert_eq!(of("4: FLOCK  ADVISORY  WRITE 7323 00:1a:13 0 EOF"), None);
        assert_eq!(of("4: POSIX  ADVISORY  WRITE 7323 00:1a:12 0 EOF"), None);
        assert_eq!(of("nonsense"), None);
    }
}
