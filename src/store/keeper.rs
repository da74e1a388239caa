//! Folds closed segments into snapshots, and lets the oldest go, in a thread of its own.
//! Invariant: a snapshot is a function of the log alone (the one before and the segments since), so this thread and the
//! supervisor's share nothing but files. A segment goes only when every snapshot that is kept stands after it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::segment::{self, Place, Step, Walk};
use super::{log, snapshot};
use crate::model::{Event, Seq};
use crate::record::snapshot::Point;
use crate::sys;

/// Two, so that one may turn out to be damaged.
const SNAPSHOTS_KEPT: usize = 2;

/// The thread ends with this. What it has begun it leaves: nothing is lost by that.
pub struct Keeper {
    wake: Sender<()>,
}

impl Keeper {
    /// Looks at once: whoever led before may have ended in the middle of it.
    pub fn start(folder: &Path, task_logs: &Path, keep_bytes: u64) -> io::Result<Keeper> {
        let (wake, woken) = channel();
        let work = Work { folder: folder.to_owned(), task_logs: task_logs.to_owned(), keep_bytes };
        std::thread::Builder::new().name("snapshots".into()).spawn(move || work.serve(&woken))?;
        let keeper = Keeper { wake };
        keeper.segment_closed();
        Ok(keeper)
    }

    pub fn segment_closed(&self) {
        // A thread that has ended has said why.
        let _ = self.wake.send(());
    }
}

struct Work {
    folder: PathBuf,
    task_logs: PathBuf,
    keep_bytes: u64,
}

impl Work {
    fn serve(&self, woken: &Receiver<()>) {
        sys::be_nice();
        while woken.recv().is_ok() {
            while woken.try_recv().is_ok() {}
            if let Err(why) = self.fold().and_then(|()| self.let_go().map_err(|e| e.to_string())) {
                eprintln!("hivectl: no snapshot of the log at {}: {why}", self.folder.display());
            }
            sys::give_memory_back();
        }
    }

    /// The closed segments that the last snapshot does not hold, if they are worth another: writing a large state
    /// again and again for little news would cost more than it saves at the next start.
    fn fold(&self) -> Result<(), String> {
        let told = |e: io::Error| crate::error::reason(&e);
        let segments = segment::list(&self.folder).map_err(told)?;
        let Some((open, closed)) = segments.split_last() else { return Ok(()) };
        let last = snapshot::list(&self.folder).map_err(told)?.into_iter().next();
        let stands_at = last.as_deref().map_or(Seq(0), segment::seq_of_name);
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |m| m.len());
        let news: u64 = closed.iter().filter(|path| segment::seq_of_name(path) > stands_at).map(size).sum();
        if news == 0 || news < last.as_ref().map_or(0, size) {
            return Ok(());
        }
        let end = Seq(segment::seq_of_name(open).0 - 1);
        let replayed = log::replay(&self.folder, end, end, 0, Point::step).map_err(|e| e.message)?;
        replayed.passed.iter().for_each(|why| eprintln!("hivectl: {why}"));
        snapshot::write(&self.folder, &replayed.point).map_err(told)?;
        snapshot::drop_older(&self.folder, SNAPSHOTS_KEPT).map_err(told)
    }

    /// The oldest segments, beyond the bound, and the logs of the tasks that ended in them.
    fn let_go(&self) -> io::Result<()> {
        let segments = segment::list(&self.folder)?;
        let snapshots = snapshot::list(&self.folder)?;
        let (SNAPSHOTS_KEPT.., Some(oldest)) = (snapshots.len(), snapshots.last()) else { return Ok(()) };
        let covered = segment::seq_of_name(oldest);
        let sizes: Vec<u64> = segments.iter().map(|p| fs::metadata(p).map(|m| m.len())).collect::<io::Result<_>>()?;
        let mut total: u64 = sizes.iter().sum();
        for (n, next) in segments.iter().enumerate().skip(1) {
            if total <= self.keep_bytes || segment::seq_of_name(next).0 > covered.0 + 1 {
                break;
            }
            let going = &segments[n - 1];
            self.forget_logs(&fs::read(going)?);
            fs::remove_file(going)?;
            total -= sizes[n - 1];
        }
        Ok(())
    }

    fn forget_logs(&self, bytes: &[u8]) {
        for step in Walk::new(bytes, Place::default()) {
            if let Step::Record { event: Event::Ended { task, ended }, .. } = step
                && ended.log > 0
            {
                let _ = fs::remove_file(self.task_logs.join(format!("{task}.log")));
            }
        }
    }
}
