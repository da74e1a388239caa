//! A folder held by its descriptor, and files named from there. Invariant: no name leads out of the folder or through a
//! symbolic link (RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS); every descriptor is close-on-exec.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, FcntlArg, OFlag, OpenHow, RenameFlags, ResolveFlag, fcntl, openat2, renameat, renameat2};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, futimens, mkdirat};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

#[derive(Debug)]
pub struct Folder(OwnedFd);

/// What there is to know of a file without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub inode: u64,
    pub device: u64,
    pub bytes: u64,
    /// The permission bits.
    pub mode: u32,
    pub modified_micros: u64,
    pub is_folder: bool,
    /// How many names it has: 0 for a file that was removed.
    pub links: u64,
}

impl Folder {
    /// Opens a folder that was checked to be this user's.
    pub fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Folder(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    pub fn folder(&self, name: &str) -> io::Result<Folder> {
        self.open_as(name, OFlag::O_DIRECTORY, 0).map(Folder)
    }

    pub fn read(&self, name: &str) -> io::Result<File> {
        // Not to wait in open, should it be a FIFO.
        self.open_as(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0).map(File::from)
    }

    /// For reading and writing, made if it is not there.
    pub fn read_write(&self, name: &str) -> io::Result<File> {
        self.open_as(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NONBLOCK, 0o600).map(File::from)
    }

    /// The same for a file that is there.
    pub fn change(&self, name: &str) -> io::Result<File> {
        self.open_as(name, OFlag::O_RDWR | OFlag::O_NONBLOCK, 0).map(File::from)
    }

    /// A file that was not there before.
    pub fn create(&self, name: &str, mode: u32) -> io::Result<File> {
        self.open_as(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL, mode).map(File::from)
    }

    fn open_as(&self, name: &str, flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_retain(mode))
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        loop {
            match openat2(&self.0, name, how) {
                // A rename elsewhere while `..` could have been crossed: asked again, as openat2(2) says.
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Makes a folder of this user's alone, or finds it there.
    pub fn make(&self, name: &str) -> io::Result<()> {
        match mkdirat(&self.0, name, Mode::S_IRWXU) {
            Err(nix::Error::EEXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    pub fn find(&self, name: &str) -> io::Result<Option<Found>> {
        match fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Found::of(&stat))),
            Err(nix::Error::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Moves a file into another folder, in the place of what has that name.
    pub fn rename(&self, name: &str, to: &Folder, new: &str) -> io::Result<()> {
        Ok(renameat(&self.0, name, &to.0, new)?)
    }

    /// The same; refused where the name is taken.
    pub fn rename_new(&self, name: &str, to: &Folder, new: &str) -> io::Result<()> {
        Ok(renameat2(&self.0, name, &to.0, new, RenameFlags::RENAME_NOREPLACE)?)
    }

    /// A second name for a file.
    pub fn link(&self, name: &str, to: &Folder, new: &str) -> io::Result<()> {
        Ok(linkat(&self.0, name, &to.0, new, AtFlags::empty())?)
    }

    /// `false` where there is no such file.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        self.unlink(name, UnlinkatFlags::NoRemoveDir)
    }

    /// `false` where there is no such folder, or something in it.
    pub fn remove_folder(&self, name: &str) -> io::Result<bool> {
        match self.unlink(name, UnlinkatFlags::RemoveDir) {
            Err(e) if e.raw_os_error() == Some(libc::ENOTEMPTY) => Ok(false),
            other => other,
        }
    }

    fn unlink(&self, name: &str, what: UnlinkatFlags) -> io::Result<bool> {
        match unlinkat(&self.0, name, what) {
            Ok(()) => Ok(true),
            Err(nix::Error::ENOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The names in it, with whether each is a folder; in no order.
    pub fn list(&self) -> io::Result<Vec<(String, bool)>> {
        let mut names = Vec::new();
        // Opened anew: a listing moves the descriptor's position, which a clone would share.
        for entry in Dir::from_fd(self.open_as(".", OFlag::O_DIRECTORY, 0)?)?.iter() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push((name, entry.file_type() == Some(Type::Directory)));
            }
        }
        Ok(names)
    }

    /// Writes to the disk which names are in it.
    pub fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fsync(&self.0)?)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Found {
    pub fn of_file(file: &File) -> io::Result<Found> {
        Ok(Found::of(&fstat(file)?))
    }

    fn of(stat: &FileStat) -> Found {
        Found {
            inode: stat.st_ino,
            device: stat.st_dev,
            bytes: stat.st_size as u64,
            mode: stat.st_mode & 0o7777,
            modified_micros: (stat.st_mtime * 1_000_000 + stat.st_mtime_nsec / 1_000).max(0) as u64,
            is_folder: stat.st_mode & libc::S_IFMT == libc::S_IFDIR,
            links: u64::from(stat.st_nlink as u32),
        }
    }

    pub fn is_same_file(&self, other: &Found) -> bool {
        (self.inode, self.device) == (other.inode, other.device)
    }
}

/// Says when a file was changed, to the microsecond.
pub fn set_modified(file: &File, micros: u64) -> io::Result<()> {
    let time = TimeSpec::microseconds(micros as i64);
    Ok(futimens(file, &time, &time)?)
}

/// A locked range of a file (an open file description lock). Dying frees it; a thread of the same process that uses
/// the same open file is not kept out.
pub struct Range<'f> {
    file: &'f File,
    start: i64,
    len: i64,
}

impl<'f> Range<'f> {
    /// Waits for it. A `len` of 0 is all from `start` on.
    pub fn lock(file: &'f File, start: i64, len: i64) -> io::Result<Range<'f>> {
        loop {
            match fcntl(file, FcntlArg::F_OFD_SETLKW(&description(libc::F_WRLCK, start, len))) {
                Err(nix::Error::EINTR) => {}
                other => {
                    other?;
                    return Ok(Range { file, start, len });
                }
            }
        }
    }
}

impl Drop for Range<'_> {
    fn drop(&mut self) {
        let _ = fcntl(self.file, FcntlArg::F_OFD_SETLK(&description(libc::F_UNLCK, self.start, self.len)));
    }
}

fn description(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 }
}

/// The name of a file in a folder of temporary ones, that no other living process makes.
pub fn temporary_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes files that processes which have died left in a folder of temporary ones.
pub fn sweep(folder: &Folder, older_than_micros: u64) -> io::Result<()> {
    for (name, _) in folder.list()? {
        let owner = name.split('.').next().and_then(|pid| pid.parse().ok()).map(super::process::Pid);
        let old = folder.find(&name)?.is_some_and(|found| found.modified_micros < older_than_micros);
        // Where it lives elsewhere (another namespace of pids), age alone must do; nobody writes for so long.
        if old && owner.is_none_or(|pid| super::process::Process::open(pid).is_err()) {
            folder.remove(&name)?;
        }
    }
    Ok(())
}
