//! Waiting for files to change, without looking again and again (inotify).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

pub struct Watcher(Inotify);

const CHANGES: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF);

impl Watcher {
    /// Watches what is in these folders.
    pub fn new(folders: &[&Path]) -> io::Result<Watcher> {
        Watcher::with(folders, CHANGES)
    }

    /// Watches also for what goes.
    pub fn with_removals(folders: &[&Path]) -> io::Result<Watcher> {
        Watcher::with(folders, CHANGES | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM)
    }

    /// Watches a folder for what is taken from it, and for its own end.
    pub fn for_losses(folder: &Path) -> io::Result<Watcher> {
        let what = AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        Watcher::with(&[folder], what)
    }

    fn with(folders: &[&Path], what: AddWatchFlags) -> io::Result<Watcher> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        for folder in folders {
            inotify.add_watch(*folder, what)?;
        }
        Ok(Watcher(inotify))
    }

    /// Waits for a change, at most so long (-1: for ever).
    pub fn wait(&self, timeout_ms: i32) -> io::Result<()> {
        super::wait_readable(&[self.0.as_fd()], timeout_ms)?;
        self.hush();
        Ok(())
    }

    /// Waits for a change, or until `other` can be read.
    pub fn wait_with(&self, other: Option<&impl AsFd>) -> io::Result<()> {
        let mut fds: Vec<BorrowedFd> = vec![self.0.as_fd()];
        fds.extend(other.map(|o| o.as_fd()));
        super::wait_readable(&fds, -1)?;
        self.hush();
        Ok(())
    }

    /// What changed does not matter: whoever waits looks for itself.
    pub fn hush(&self) {
        while self.0.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}

impl AsFd for Watcher {
    /// Can be read when something has changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
