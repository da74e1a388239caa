//! A file mapped into memory: what is stored there outlives the process that stored it.
//! Invariant: the room is allocated before it is mapped, so a full /dev/shm is an error here and never a SIGBUS later.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use memmap2::{MmapMut, MmapOptions, MmapRaw};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};

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

/// A few bytes that whoever is handed the file shares: it has no name, and goes with the last who holds it.
pub fn unnamed(bytes: &[u8]) -> io::Result<File> {
    let file = File::from(memfd_create("hive", MFdFlags::MFD_CLOEXEC)?);
    file.write_all_at(bytes, 0)?;
    Ok(file)
}

fn reserve(file: &File, len: i64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::empty(), 0, len)?)
}

/// Words that any number of processes change at once, each with one atomic operation.
#[derive(Debug)]
pub struct Words {
    map: MmapRaw,
    count: usize,
}

impl Words {
    /// Maps the first `count` words of a file; those that were not there are zero.
    pub fn map(file: &File, count: usize) -> io::Result<Words> {
        reserve(file, (count * 8) as i64)?;
        Ok(Words { map: MmapRaw::map_raw(file)?, count })
    }

    #[inline]
    pub fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "a word of the map");
        // SAFETY: the word lies inside the map, a map begins at a page, so the word is aligned; the map lives as long as
        // the reference, and everybody who shares the file uses atomic operations.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(index)) }
    }

    /// The same word as a number that may be below zero.
    pub fn signed(&self, index: usize) -> &AtomicI64 {
        assert!(index < self.count, "a word of the map");
        // SAFETY: as in `at`.
        unsafe { AtomicI64::from_ptr(self.map.as_mut_ptr().cast::<i64>().add(index)) }
    }
}

/// Words that others write, to be read.
#[derive(Debug)]
pub struct View {
    map: MmapRaw,
    count: usize,
}

impl View {
    /// Maps the first `count` words of a file that never gets shorter.
    pub fn map(file: &File, count: usize) -> io::Result<View> {
        if file.metadata()?.len() < (count * 8) as u64 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than it must be"));
        }
        Ok(View { map: MmapOptions::new().len(count * 8).map_raw_read_only(file)?, count })
    }

    #[inline]
    pub fn load(&self, index: usize, order: Ordering) -> u64 {
        assert!(index < self.count, "a word of the map");
        // SAFETY: the word lies inside the map and is aligned, as in `Words::at`; it is loaded only, which a map that
        // cannot be written to allows, and whoever writes to the file does so by atomic operations.
        unsafe { AtomicU64::from_ptr(self.map.as_ptr().cast_mut().cast::<u64>().add(index)) }.load(order)
    }
}
