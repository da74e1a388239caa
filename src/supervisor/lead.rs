//! Who leads: the one that holds the lock of the kept folder, in which the log lies. Whoever does not hold it never
//! touches the log. The live folder's `leader` file is locked too, and says who it is, for those who ask.
//! Invariant: no child inherits a lock (close-on-exec), and a lock dies with its holder.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::Settings;
use super::standby::{self, Heir};
use crate::error::{Code, Error, Result};
use crate::json::{Flat, Object};
use crate::store::{Folders, log};
use crate::sys::lock::Lock;
use crate::sys::process;
use crate::time;

pub struct Lead {
    /// Of the kept folder: it cannot be taken away under its holder as long as the log is in it.
    log: Lock,
    leader: Lock,
}

impl Lead {
    /// Takes the lead, or says who has it.
    pub fn take(folders: &Folders) -> Result<Lead> {
        let log = Lock::try_take_folder(&folders.kept)
            .map_err(|e| Error::os(format!("cannot lock {}", folders.kept.display()), e))?;
        match log {
            Some(log) => Lead::with(folders, log),
            None => Err(runs_already(folders)),
        }
    }

    /// Waits until the one that leads is gone, and leads. `None` where its hive was stopped: then there is nothing to lead.
    pub fn inherit(folders: &Folders, waiting: impl FnOnce()) -> Result<Option<(Lead, Sign, Option<Heir>)>> {
        let sign = Sign::put_up(folders)?;
        let (log, heir) = standby::wait(folders, waiting)?;
        if log::is_stopped(&folders.events()).map_err(|e| Error::os("cannot read the end of the log", e))? {
            // Whoever stopped it may have died before it was done with that.
            let _ = folders.remove_live();
            return Ok(None);
        }
        if !folders.ctl().exists() {
            folders.make()?;
        }
        Ok(Some((Lead::with(folders, log)?, sign, heir)))
    }

    fn with(folders: &Folders, log: Lock) -> Result<Lead> {
        let path = folders.leader();
        match Lock::try_take(&path) {
            Ok(Some(leader)) => Ok(Lead { log, leader }),
            Ok(None) => Err(runs_already(folders)),
            Err(e) => Err(Error::os(format!("cannot lock {}", path.display()), e)),
        }
    }

    /// Whoever waits for the lead is not to wait for anything else that this process had open.
    pub fn let_go_first(&mut self, open_files_max: u64) -> io::Result<()> {
        let above = open_files_max.min(LOCKS_ABOVE) as i32 - 2;
        self.log.hold_above(above)?;
        self.leader.hold_above(above + 1)
    }

    /// Whether the live folder is still this leader's.
    pub fn is_current(&self) -> bool {
        self.leader.is_current()
    }

    /// The live folder was removed and made again: its lock is taken again. The other one was never let go.
    pub fn renew(&mut self, folders: &Folders) -> Result<()> {
        let path = folders.leader();
        let lock = Lock::try_take(&path).map_err(|e| Error::os(format!("cannot lock {}", path.display()), e))?;
        self.leader = lock.ok_or_else(|| runs_already(folders))?;
        // Let go before the log's, as the other one was: whoever waits for that finds this one free.
        let held = self.leader.hold_above(self.log.number() + 1);
        held.map_err(|e| Error::os(format!("cannot hold {}", path.display()), e))
    }

    /// Takes over what the former leader said of itself: whether it was `--durable`, where it was pinned, what it kept.
    pub fn former(&self, settings: &mut Settings) {
        let mut text = String::new();
        let _ = (&self.leader.file).read_to_string(&mut text);
        let Ok(said) = Flat::parse(text.trim()) else { return };
        settings.durable = said.bool("durable").ok().flatten() == Some(true);
        settings.pin = said.u64("pin").ok().flatten().map(|cpu| cpu as usize);
        settings.keep_log = said.u64("keep_log").ok().flatten().unwrap_or(settings.keep_log);
    }

    /// Says who leads, for clients to read, and how, for the next one.
    pub fn say(&self, term: u64, since: i64, settings: &Settings) -> io::Result<()> {
        let mut text = Vec::new();
        let mut o = Object::open(&mut text);
        o.num("pid", process::my_pid().0).num("term", term).str("since", &time::text(since));
        if settings.durable {
            o.bool("durable", true);
        }
        if let Some(cpu) = settings.pin {
            o.num("pin", cpu);
        }
        o.num("keep_log", settings.keep_log);
        o.close();
        text.push(b'\n');
        self.leader.file.set_len(0)?;
        self.leader.file.write_all_at(&text, 0)
    }
}

/// More than a supervisor of some two hundred agents has open. Each process that it starts copies a table up to here.
pub const LOCKS_ABOVE: u64 = 1000;

/// By this file others see that a standby waits. It goes when the standby leads, or has nothing to wait for.
pub struct Sign(PathBuf);

impl Sign {
    fn put_up(folders: &Folders) -> Result<Sign> {
        let path = folders.standbys().join(process::my_pid().0.to_string());
        std::fs::write(&path, "").map_err(|e| Error::os(format!("cannot write {}", path.display()), e))?;
        Ok(Sign(path))
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn runs_already(folders: &Folders) -> Error {
    let text = std::fs::read_to_string(folders.leader()).unwrap_or_default();
    let pid = Flat::parse(text.trim()).ok().and_then(|leader| leader.u64("pid").ok().flatten());
    let who = pid.map_or_else(String::new, |pid| format!(" (supervisor {pid})"));
    let remedy = "`hivectl pool status` shows it, `hivectl pool stop` ends it, `--hive NAME` starts another beside it";
    Error::new(Code::AlreadyRunning, format!("hive {} runs already{who}: {remedy}", folders.hive))
}
