//! flock on a file: who leads. The lock dies with its holder, and no child inherits it (close-on-exec).
//! fs2 is called by its full name: std's methods of the same names would shadow it.

use std::fs::{File, OpenOptions};
use std::io;
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
    /// Takes the lock if it is free: `None` where somebody holds it.
    pub fn try_take(path: &Path) -> io::Result<Option<Lock>> {
        let file = open(path)?;
        match FileExt::try_lock_exclusive(&file) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
        let lock = Lock { file, path: path.to_owned() };
        // Between open and flock the file may have been removed and made again by another: then this lock is of nothing.
        Ok(lock.is_current().then_some(lock))
    }

    /// Whether the file under the lock's name is still the one that is locked.
    pub fn is_current(&self) -> bool {
        let (Ok(mine), Ok(named)) = (self.file.metadata(), std::fs::symlink_metadata(&self.path)) else {
            return false;
        };
        mine.ino() == named.ino() && mine.dev() == named.dev()
    }
}

/// Whether anybody holds the exclusive lock on `path`. A look of a microsecond: takers try more than once.
pub fn is_held(path: &Path) -> io::Result<bool> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    match FileExt::try_lock_shared(&file) {
        Ok(()) => Ok(false),
        Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(true),
        Err(e) => Err(e),
    }
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
