//! Named pipes. Invariant: a FIFO is opened without following links, and what was opened is a FIFO of this user.
//! Whoever must outlive its writers opens it read-write, so that there is never an end of file.

use std::fs::{File, OpenOptions};
use std::io;
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
    let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)?;
    let meta = file.metadata()?;
    if !meta.file_type().is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a FIFO"));
    }
    if meta.uid() != super::user_id() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    Ok(file)
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
