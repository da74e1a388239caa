//! flock on a file or folder: who leads. The lock dies with its holder, and no child inherits it (close-on-exec).
//! fs2 is called by its full name: std's methods of the same names would shadow it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fs2::FileExt;
use nix::libc;

/// A held exclusive lock. Letting it go (or dying) frees it.
#[derive(Debug)]
pub struct Lock {
    pub file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock if nobody has it: `None` where somebody does. Those who only look ([`is_held`]) do not count.
    pub fn try_take(path: &Path) -> io::Result<Option<Lock>> {
        Lock::try_with(open(path)?, path)
    }

    fn try_with(file: File, path: &Path) -> io::Result<Option<Lock>> {
        match FileExt::try_lock_exclusive(&file) {
            Ok(()) => {}
            // They share it for a microsecond: where it can be shared, it is waited for.
            Err(e) if is_contended(&e) => match FileExt::try_lock_shared(&file) {
                Ok(()) => FileExt::lock_exclusive(&file)?,
                Err(e) if is_contended(&e) => return Ok(None),
                Err(e) => return Err(e),
            },
            Err(e) => return Err(e),
        }
        let lock = Lock { file, path: path.to_owned() };
        // Between open and flock the file may have been removed and made again by another: then this lock is of nothing.
        Ok(lock.is_current().then_some(lock))
    }

    /// The same on a folder, which cannot be removed and made again under its holder as long as something is in it.
    pub fn try_take_folder(path: &Path) -> io::Result<Option<Lock>> {
        Lock::try_with(File::open(path)?, path)
    }

    /// Waits until the folder's lock is free, and takes it.
    pub fn wait_for_folder(path: &Path) -> io::Result<Lock> {
        let file = File::open(path)?;
        FileExt::lock_exclusive(&file)?;
        Ok(Lock { file, path: path.to_owned() })
    }

    /// Holds it under the highest number that is free from `least` on. The kernel lets go of a dead process's files from
    /// the highest number down, and some of them take it many milliseconds (inotify): who waits for a lock is spared that.
    pub fn hold_above(&mut self, least: i32) -> io::Result<()> {
        self.file = File::from(super::move_up(&self.file, least)?);
        Ok(())
    }

    /// The number of its descriptor.
    pub fn number(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Whether the file under the lock's name is still the one that is locked.
    pub fn is_current(&self) -> bool {
        let (Ok(mine), Ok(named)) = (self.file.metadata(), std::fs::symlink_metadata(&self.path)) else {
            return false;
        };
        mine.ino() == named.ino() && mine.dev() == named.dev()
    }
}

/// Whether anybody holds the exclusive lock on `path`. A look of a microsecond.
pub fn is_held(path: &Path) -> io::Result<bool> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    match FileExt::try_lock_shared(&file) {
        Ok(()) => Ok(false),
        Err(e) if is_contended(&e) => Ok(true),
        Err(e) => Err(e),
    }
}

fn is_contended(e: &io::Error) -> bool {
    e.raw_os_error() == fs2::lock_contended_error().raw_os_error()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}
