//! A file mapped into memory: what is stored there outlives the process that stored it.
//! Invariant: the room is allocated before it is mapped, so a full /dev/shm is an error here and never a SIGBUS later.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use memmap2::MmapMut;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;

/// Maps `path` read-write at `len` bytes, making it if need be. What it held stays.
pub fn map(path: &Path, len: usize) -> io::Result<MmapMut> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    reserve(&file, len as i64)?;
    // SAFETY: the file lies in a 0700 folder of this user, its room is allocated, and hive never makes it shorter.
    unsafe { MmapMut::map_mut(&file) }
}

fn reserve(file: &File, len: i64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::empty(), 0, len)?)
}
