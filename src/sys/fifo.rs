//! Named pipes. Invariant: a FIFO is opened without following links, and what was opened is a FIFO of this user.
//! Whoever must outlive its writers opens it read-write, so that there is never an end of file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use nix::sys::stat::Mode;

pub fn make(path: &Path) -> io::Result<()> {
    Ok(nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?)
}

/// For a reader that is never to see an end of file. Non-blocking.
pub fn open_both(path: &Path) -> io::Result<File> {
    open(OpenOptions::new().read(true).write(true), path)
}

/// For a writer; with nobody reading this fails at once (ENXIO). Non-blocking.
pub fn open_write(path: &Path) -> io::Result<File> {
    open(OpenOptions::new().write(true), path)
}

/// For a reader alone. Non-blocking.
pub fn open_read(path: &Path) -> io::Result<File> {
    open(OpenOptions::new().read(true), path)
}

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    checked(options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?)
}

fn checked(file: File) -> io::Result<File> {
    let meta = file.metadata()?;
    if !meta.file_type().is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a FIFO"));
    }
    if meta.uid() != super::user_id() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    Ok(file)
}

/// A pipe without a name, both ends in one. It is found again as long as somebody has it open (`open_of`).
pub fn unnamed() -> io::Result<File> {
    let (read, _write) = super::pipe()?;
    reopen(Path::new(&format!("/proc/self/fd/{}", read.as_raw_fd())), true, true)
}

/// A pipe that a process of ours has open under this number.
pub fn open_of(pid: super::process::Pid, number: i32) -> io::Result<File> {
    let path = format!("/proc/{}/fd/{number}", pid.0);
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// A named pipe that a process has open, and whose name is gone.
pub fn open_removed(pid: super::process::Pid, path: &Path) -> io::Result<File> {
    let name = format!("{} (deleted)", path.display());
    let links = std::fs::read_dir(format!("/proc/{}/fd", pid.0))?.flatten().map(|entry| entry.path());
    let found = links.into_iter().find(|link| std::fs::read_link(link).is_ok_and(|to| to == Path::new(&name)));
    reopen(&found.ok_or(io::ErrorKind::NotFound)?, false, true)
}

/// One end of a pipe that is open here, with flags of its own.
pub fn end_of(pipe: &File, read: bool) -> io::Result<File> {
    reopen(Path::new(&format!("/proc/self/fd/{}", pipe.as_raw_fd())), read, !read)
}

fn reopen(path: &Path, read: bool, write: bool) -> io::Result<File> {
    checked(OpenOptions::new().read(read).write(write).custom_flags(libc::O_NONBLOCK).open(path)?)
}

/// Whether nothing is in the pipe.
pub fn is_empty(file: &File) -> bool {
    super::wait_readable(&[file.as_fd()], 0).is_ok_and(|ready| !ready[0])
}

/// What is in the pipe, without taking it.
pub fn look(file: &File) -> io::Result<Vec<u8>> {
    let (read, write) = super::pipe()?;
    super::widen(&write);
    let all = 1 << 20;
    match nix::fcntl::tee(file, &write, all, nix::fcntl::SpliceFFlags::SPLICE_F_NONBLOCK) {
        Err(nix::Error::EAGAIN) => return Ok(Vec::new()),
        other => other?,
    };
    drop(write);
    let mut seen = Vec::new();
    io::Read::read_to_end(&mut File::from(read), &mut seen)?;
    Ok(seen)
}

/// Takes and throws away what is in the pipe. Returns how much that was.
pub fn drain(file: &File) -> io::Result<usize> {
    let mut bin = [0; 16 * 1024];
    let mut total = 0;
    loop {
        match super::read(file, &mut bin) {
            Ok(0) => return Ok(total),
            Ok(n) => total += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(total),
            Err(e) => return Err(e),
        }
    }
}
