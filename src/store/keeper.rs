//! Folds closed segments into snapshots, and lets the oldest go, in a thread of its own.
//! Invariant: a snapshot is a function of the log alone (the one before and the segments since), so this thread and the
//! supervisor's share nothing but files. A segment goes only when every snapshot that is kept stands after it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::segment::{self, Place, Step, Walk};
use super::{log, snapshot};
use crate::model::{Event, Seq};
use crate::record::snapshot::Point;
use crate::sys;

/// Two, so that one may turn out to be damaged.
const SNAPSHOTS_KEPT: usize = 2;

pub struct Keeper(Arc<Work>);

struct Work {
    folder: PathBuf,
    task_logs: PathBuf,
    keep_bytes: u64,
    thread: Mutex<Thread>,
}

/// There is one only while there is something to do: it is niced, and a process that is killed is gone, with its locks,
/// when the last of its threads has had its turn.
enum Thread {
    None,
    Works { again: bool },
}

impl Keeper {
    /// Looks at once: whoever led before may have ended in the middle of it.
    pub fn start(folder: &Path, task_logs: &Path, keep_bytes: u64) -> io::Result<Keeper> {
        let (folder, task_logs) = (folder.to_owned(), task_logs.to_owned());
        let has_closed = segment::list(&folder)?.len() > 1;
        let keeper = Keeper(Arc::new(Work { folder, task_logs, keep_bytes, thread: Mutex::new(Thread::None) }));
        if has_closed {
            keeper.segment_closed();
        }
        Ok(keeper)
    }

    pub fn segment_closed(&self) {
        let mut thread = self.0.thread.lock().unwrap_or_else(|e| e.into_inner());
        if let Thread::Works { again } = &mut *thread {
            *again = true;
            return;
        }
        let work = self.0.clone();
        match std::thread::Builder::new().name("snapshots".into()).spawn(move || work.serve()) {
            Ok(_) => *thread = Thread::Works { again: false },
            // The next closed segment is another chance.
            Err(e) => eprintln!("hivectl: cannot start a thread for snapshots: {e}"),
        }
    }
}

impl Work {
    fn serve(&self) {
        sys::be_nice();
        loop {
            if let Err(why) = self.fold().and_then(|()| self.let_go().map_err(|e| e.to_string())) {
                eprintln!("hivectl: no snapshot of the log at {}: {why}", self.folder.display());
            }
            sys::give_memory_back();
            let mut thread = self.thread.lock().unwrap_or_else(|e| e.into_inner());
            match &mut *thread {
                Thread::Works { again } if *again => *again = false,
                _ => {
                    *thread = Thread::None;
                    return;
                }
            }
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
