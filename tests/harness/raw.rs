//! A client that speaks the wire itself: bytes into `ctl`, lines out of a reply FIFO.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::stat::Mode;
use serde_json::Value;

use super::wait_until;

pub struct Raw {
    ctl: File,
    reply: File,
    name: String,
    path: PathBuf,
    taken: Vec<u8>,
}

impl Raw {
    pub fn new(live: &Path, name: &str) -> Raw {
        let path = live.join("replies").join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let both = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let ctl = OpenOptions::new().write(true).open(live.join("ctl")).unwrap();
        Raw { ctl, reply: both.unwrap(), name: name.to_owned(), path, taken: Vec::new() }
    }

    /// Bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.ctl.write_all(bytes).unwrap();
    }

    /// One request; `fields` is what stands in the object beside the name of the reply FIFO.
    pub fn send(&mut self, fields: &str) {
        let line = format!("{{\"reply\":\"{}\",{fields}}}\n", self.name);
        self.write(line.as_bytes());
    }

    #[track_caller]
    pub fn answer_line(&mut self) -> String {
        let mut line = None;
        wait_until("an answer", || {
            let mut chunk = [0; 64 * 1024];
            if let Ok(n) = self.reply.read(&mut chunk) {
                self.taken.extend_from_slice(&chunk[..n]);
            }
            if let Some(end) = self.taken.iter().position(|b| *b == b'\n') {
                line = Some(String::from_utf8(self.taken.drain(..=end).collect()).unwrap());
            }
            line.is_some()
        });
        line.unwrap()
    }

    #[track_caller]
    pub fn answer(&mut self) -> Value {
        let line = self.answer_line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("no JSON ({e}): {line}"))
    }

    #[track_caller]
    pub fn ask(&mut self, fields: &str) -> Value {
        self.send(fields);
        self.answer()
    }

    /// What came and was not asked for yet: nothing, if nothing is to come.
    pub fn has_more(&mut self) -> bool {
        let mut chunk = [0; 4096];
        !self.taken.is_empty() || matches!(self.reply.read(&mut chunk), Ok(1..))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
