//! Brings the log to the disk, off the supervisor's thread: at most so long after it was written.
//! Invariant: at rest this thread sleeps without a deadline; under load it is woken once per period, not once per turn.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::model::Seq;
use crate::sys::failpoint;

/// What the loop and the syncing thread share.
struct Shared {
    task: Mutex<Task>,
    wake: Condvar,
    /// Everything up to here is on disk.
    synced: AtomicU64,
    failed: AtomicBool,
}

#[derive(Default)]
struct Task {
    /// Written but not on disk: the file, and how far.
    dirty: Option<(Arc<File>, Seq)>,
    closing: bool,
}

pub struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// `pause` is how long writes are gathered before they are synced. The stream gets a byte after each sync.
    pub fn start(pause: Duration) -> io::Result<(Syncer, UnixStream)> {
        let (bell, ring) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ring.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            task: Mutex::default(),
            wake: Condvar::new(),
            synced: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("sync".into())
            .stack_size(64 * 1024)
            .spawn(move || work(&theirs, pause, OwnedFd::from(ring)))?;
        Ok((Syncer { shared, thread: Some(thread) }, bell))
    }

    /// Everything up to `seq` was written to `file`.
    pub fn written(&self, file: &Arc<File>, seq: Seq) {
        let mut task = self.shared.task.lock().unwrap_or_else(|e| e.into_inner());
        let idle = task.dirty.is_none();
        task.dirty = Some((file.clone(), seq));
        drop(task);
        if idle {
            self.shared.wake.notify_one();
        }
    }

    pub fn synced(&self) -> Seq {
        Seq(self.shared.synced.load(Ordering::Acquire))
    }

    /// Syncs what is left, and ends.
    pub fn finish(&mut self) {
        self.shared.task.lock().unwrap_or_else(|e| e.into_inner()).closing = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// A sync failed: what was written since the last good one may be lost, and no later sync can tell.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.finish();
    }
}

fn work(shared: &Shared, pause: Duration, ring: OwnedFd) {
    let mut task = shared.task.lock().unwrap_or_else(|e| e.into_inner());
    loop {
        while task.dirty.is_none() && !task.closing {
            task = shared.wake.wait(task).unwrap_or_else(|e| e.into_inner());
        }
        if !pause.is_zero() && !task.closing {
            // Gather: more is written meanwhile, and `dirty` stays set, so that nobody wakes us for it.
            task = shared
                .wake
                .wait_timeout_while(task, pause, |t| !t.closing)
                .map(|r| r.0)
                .unwrap_or_else(|e| e.into_inner().0);
        }
        let Some((file, seq)) = task.dirty.take() else {
            return;
        };
        let closing = task.closing;
        drop(task);
        failpoint::pass("sync");
        match file.sync_data() {
            Ok(()) => shared.synced.store(seq.0, Ordering::Release),
            Err(_) => shared.failed.store(true, Ordering::Release),
        }
        let _ = crate::sys::write(&ring, b".");
        if closing {
            return;
        }
        task = shared.task.lock().unwrap_or_else(|e| e.into_inner());
    }
}
