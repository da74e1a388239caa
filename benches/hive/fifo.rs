//! Owns named pipes: making them, opening them, and reading and writing whole records.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, read, unlink, write};

use crate::error::{Result, Trying, failure};
use crate::os;

/// The size of a record in every floor.
pub const RECORD: usize = 64;
/// What a pipe takes in one piece (PIPE_BUF): batches are at most this long.
pub const BATCH_MAX: usize = 4096;
/// What a pipe holds.
pub const PIPE_SIZE: usize = 65536;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A name nobody else uses, where FIFOs cost no disk.
pub fn fresh_path(what: &str) -> PathBuf {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/dev/shm/hive-bench-{}-{what}-{count}", std::process::id()))
}

pub fn make(path: &Path) -> Result<()> {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).trying(format_args!("making {}", path.display()))
}

/// Read-write, so that neither side's end is ever seen as an end of file.
pub fn open_both(path: &Path) -> Result<OwnedFd> {
    open_as(path, OFlag::O_RDWR)
}

pub fn open_as(path: &Path, how: OFlag) -> Result<OwnedFd> {
    open(path, how | OFlag::O_CLOEXEC, Mode::empty()).trying(format_args!("opening {}", path.display()))
}

/// A named FIFO held open, its name gone again: it is inherited, and nothing is left behind.
pub fn anonymous() -> Result<OwnedFd> {
    let path = fresh_path("fifo");
    make(&path)?;
    let fifo = open_both(&path);
    let _ = unlink(&path);
    fifo
}

/// Writes at most `BATCH_MAX` bytes, which a blocking pipe takes whole.
pub fn put(fifo: impl AsFd, bytes: &[u8]) -> Result<()> {
    match write(fifo, bytes) {
        Ok(count) if count == bytes.len() => Ok(()),
        Ok(count) => Err(failure(format!("a pipe took {count} of {} bytes", bytes.len()))),
        Err(cause) => Err(failure(format!("writing to a pipe: {cause}"))),
    }
}

/// Takes what there is, at least one byte.
pub fn take(fifo: impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    match read(fifo, buffer) {
        Ok(0) => Err(failure("a pipe has ended")),
        Ok(count) => Ok(count),
        Err(Errno::EINTR) => Err(failure(if os::stopped() { "stopped" } else { "nothing came in time" })),
        Err(cause) => Err(failure(format!("reading from a pipe: {cause}"))),
    }
}

/// A FIFO that is removed with this value.
pub struct Named(pub PathBuf);

impl Named {
    pub fn new(what: &str) -> Result<Named> {
        let path = fresh_path(what);
        make(&path)?;
        Ok(Named(path))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = unlink(&self.0);
    }
}
