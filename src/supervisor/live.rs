//! The live folder under a running hive. Others can remove it (at logout RemoveIPC does, and people do): then it is made
//! again at once, under the same names. Agents do not notice: they and their hosts hold their pipes open.
//! Invariant: what was under way goes on; only names come and go. The lead does not depend on this folder.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mio::{Interest, Poll};

use super::publish::Changes;
use super::{Supervisor, Wake, recover, unwatch, watch};
use crate::error::{Error, Result};
use crate::sys::clock;
use crate::sys::notify::Watcher;

/// Whoever removes the folder may still be at it.
const TRY_AGAIN_US: i64 = 20_000;

/// The look at the live folder.
#[derive(Default)]
pub struct Live {
    losses: Option<Watcher>,
    /// It could not be made whole: when to try again.
    pub mend_at: Option<i64>,
}

impl Live {
    pub fn watch(&mut self, live: &Path, poll: &Poll) -> io::Result<()> {
        if let Some(old) = self.losses.take() {
            unwatch(poll, old.as_raw_fd());
        }
        let losses = Watcher::for_losses(live)?;
        watch(poll, losses.as_raw_fd(), Wake::Live, Interest::READABLE)?;
        self.losses = Some(losses);
        Ok(())
    }

    fn hush(&self) {
        self.losses.iter().for_each(Watcher::hush);
    }
}

impl Supervisor {
    /// Something was taken from the live folder: what is missing is made again.
    pub(super) fn mend_live(&mut self) {
        self.live.hush();
        self.live.mend_at = None;
        if self.hive.exit || self.live_is_whole() {
            return;
        }
        match self.make_live_again() {
            Ok(()) => eprintln!("hivectl: {} was removed, and is made again", self.settings.folders.live.display()),
            Err(e) => {
                eprintln!("hivectl: {} was removed: {e}", self.settings.folders.live.display());
                self.live.mend_at = Some(clock::monotonic_micros() + TRY_AGAIN_US);
            }
        }
    }

    fn live_is_whole(&self) -> bool {
        let folders = &self.settings.folders;
        let are_there = [
            folders.replies(),
            folders.agents(),
            folders.standbys(),
            folders.intake(),
            folders.marks(),
            folders.board(),
        ];
        self.lead.is_current() && self.ctl_is_current() && are_there.iter().all(|path| path.exists())
    }

    fn ctl_is_current(&self) -> bool {
        let named = std::fs::symlink_metadata(self.settings.folders.ctl()).map(|m| m.ino());
        let held = self.hive.agents.shared().ctl.metadata().map(|m| m.ino());
        matches!((named, held), (Ok(named), Ok(held)) if named == held)
    }

    fn make_live_again(&mut self) -> Result<()> {
        let folders = &self.settings.folders;
        folders.make()?;
        self.live.watch(&folders.live, &self.poll).map_err(|e| Error::os("cannot watch it", e))?;
        if !self.ctl_is_current() {
            let ctl = recover::make_ctl(folders)?;
            self.inlets.replace_ctl(&ctl, &self.poll).map_err(|e| Error::os("cannot watch its ctl", e))?;
            self.hive.agents.replace_ctl(ctl);
        }
        for id in self.hive.core.state.agents.keys() {
            folders.make_agent(*id)?;
        }
        let os = |e| Error::os("cannot map its files", e);
        if !folders.intake().exists() {
            self.intake = self.intake.copy_to(&folders.intake()).map_err(os)?;
        }
        if !folders.marks().exists() {
            self.hive.agents.copy_marks_to(&folders.marks()).map_err(os)?;
        }
        if !folders.board().exists() {
            self.board.replace(&folders.board()).map_err(os)?;
            self.hive.core.changes = Changes::all();
        }
        if !self.lead.is_current() {
            self.lead.renew(folders)?;
        }
        self.say_who_leads()
    }
}
