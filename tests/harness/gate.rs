//! A gate that tasks wait at: so a test knows that they run, and says when they go on.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use nix::sys::stat::Mode;

use super::wait_until;

pub struct Gate {
    fifo: PathBuf,
    entered: PathBuf,
    /// Open for reading too, so that neither side ever waits in `open`.
    pipe: File,
}

impl Gate {
    pub fn new(fifo: PathBuf, entered: PathBuf) -> Gate {
        nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let pipe = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        Gate { fifo, entered, pipe }
    }

    /// Shell: says that it is here, and waits until it may go on.
    pub fn wait(&self) -> String {
        format!("echo here >>{}; read -r _ <{}", self.entered.display(), self.fifo.display())
    }

    /// The same for a task that is to print something afterwards.
    pub fn then(&self, rest: &str) -> String {
        format!("{}; {rest}", self.wait())
    }

    pub fn entered(&self) -> usize {
        fs::read_to_string(&self.entered).unwrap_or_default().lines().count()
    }

    #[track_caller]
    pub fn wait_for(&self, tasks: usize) {
        wait_until(&format!("{tasks} tasks at the gate"), || self.entered() >= tasks);
    }

    /// Lets so many go on.
    pub fn open(&self, tasks: usize) {
        (&self.pipe).write_all(&vec![b'\n'; tasks]).unwrap();
    }
}
