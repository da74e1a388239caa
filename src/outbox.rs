//! Bytes on their way into a pipe whose reader may be slow. Never blocks: what does not fit waits here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::limits::LINE_MAX;
use crate::sys;

/// Whether a reader may ever see half a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Writes hold whole lines of at most LINE_MAX bytes, so each goes in wholly or not at all:
    /// after a take-over nobody has to guess how much of a line arrived.
    Lines,
    /// As many bytes as fit: answers may be longer than a pipe.
    Bytes,
}

/// A buffer up to this size is kept for the next turn.
const KEPT_MAX: usize = 512 * 1024;

pub struct Outbox {
    pub file: File,
    unit: Unit,
    bytes: Vec<u8>,
    sent: usize,
    /// Bytes sent before those in the buffer.
    before: u64,
    watched: bool,
}

impl Outbox {
    pub fn new(file: File, unit: Unit) -> Outbox {
        Outbox { file, unit, bytes: Vec::new(), sent: 0, before: 0, watched: false }
    }

    /// Where to append what is to be sent: whole lines.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Whether another pipe stands under this name by now.
    pub fn is_replaced(&self, path: &Path) -> bool {
        let (Ok(named), Ok(ours)) = (std::fs::symlink_metadata(path), self.file.metadata()) else { return false };
        named.ino() != ours.ino()
    }

    /// What is not sent yet, to go elsewhere.
    pub fn take_waiting(&mut self) -> Vec<u8> {
        self.bytes.split_off(self.sent)
    }

    /// How many bytes ever went into the pipe, and how many will have when all is sent.
    pub fn sent(&self) -> u64 {
        self.before + self.sent as u64
    }

    pub fn end(&self) -> u64 {
        self.before + self.bytes.len() as u64
    }

    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Writes what the pipe takes; watches for room if that is not all. Returns whether anything went.
    pub fn flush(&mut self, registry: &Registry, token: Token) -> io::Result<bool> {
        let before = self.sent;
        while self.sent < self.bytes.len() {
            let end = self.next_end();
            match sys::write(&self.file, &self.bytes[self.sent..end]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let moved = self.sent > before;
                    self.close_up();
                    if !self.watched {
                        registry.register(&mut SourceFd(&self.file.as_raw_fd()), token, Interest::WRITABLE)?;
                        self.watched = true;
                    }
                    return Ok(moved);
                }
                Err(e) => return Err(e),
            }
        }
        let moved = self.sent > before;
        self.before += self.bytes.len() as u64;
        self.bytes.clear();
        self.sent = 0;
        if self.watched {
            registry.deregister(&mut SourceFd(&self.file.as_raw_fd()))?;
            self.watched = false;
        }
        // A burst is over: its memory goes back.
        if self.bytes.capacity() > KEPT_MAX {
            self.bytes = Vec::new();
        }
        Ok(moved)
    }

    /// Moves what is left to the front, if that is the smaller part: so no byte is moved more than once or twice.
    fn close_up(&mut self) {
        if self.sent > self.bytes.len() / 2 {
            self.before += self.sent as u64;
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn next_end(&self) -> usize {
        match self.unit {
            Unit::Bytes => self.bytes.len(),
            Unit::Lines if self.bytes.len() - self.sent <= LINE_MAX => self.bytes.len(),
            Unit::Lines => {
                let chunk = &self.bytes[self.sent..self.sent + LINE_MAX];
                let lines = chunk.iter().rposition(|b| *b == b'\n').map_or(LINE_MAX, |at| at + 1);
                self.sent + lines
            }
        }
    }
}
