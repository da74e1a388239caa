//! One process that was started, and its three pipes: what it is fed, what it answers, what else it says.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};

use super::capture::Capture;
use crate::limits;
use crate::model::Limit;
use crate::store::{BoundedLog, Context};
use crate::sys;
use crate::sys::process::{Ending, Pid};
use crate::wire::agent::{Told, parse_told};

/// Which pipe of a job a token means.
const STDOUT: usize = 0;
const STDERR: usize = 1;
const STDIN: usize = 2;

/// Reads of one pipe in one go; then others have their turn.
const READS_AT_ONCE: usize = 32;
/// What one read takes: most answers are short, and a long one is worth a wide buffer.
const READ_SHORT: usize = 16 * 1024;
const READ_LONG: usize = 128 * 1024;

pub struct Job {
    pub task: Option<u64>,
    pub pid: Pid,
    /// Its mark (HIVE_START) in the environment of everything that it starts.
    mark: String,
    /// Tells the tokens of two jobs apart.
    pub slot: usize,
    context: Context,
    stdin: Option<Feed>,
    /// Absent for `lines`, whose answers go to the supervisor by themselves.
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
    pub capture: Capture,
    /// Only for an answer that keeps coming.
    wide: Vec<u8>,
    /// Where stderr goes; before it has a task, to the agent's log.
    pub log: Option<BoundedLog>,
    tail: Vec<u8>,
    pub ending: Option<Ending>,
    /// It was told to end.
    pub by_host: bool,
    /// It was ended for this.
    pub limit: Option<Limit>,
}

struct Pipe {
    file: File,
    /// There may be more in it.
    more: bool,
    /// Nobody can write to it any more.
    ended: bool,
}

/// What a process is fed on its stdin, until it is all there or nobody reads any more.
struct Feed {
    pipe: File,
    chunk: Vec<u8>,
    rest: Option<File>,
    watched: bool,
}

/// The pipes' ends that stay with the host.
#[derive(Default)]
pub struct Ends {
    pub stdin: Option<File>,
    pub stdout: Option<File>,
    pub stderr: Option<File>,
}

impl Job {
    pub fn new(pid: Pid, slot: usize, mark: String, ends: Ends, context: Context, poll: &Poll) -> io::Result<Job> {
        let pipe = |file: Option<File>, which: usize| -> io::Result<Option<Pipe>> {
            let Some(file) = file else { return Ok(None) };
            sys::set_nonblocking(&file, true)?;
            poll.registry().register(&mut SourceFd(&file.as_raw_fd()), token(slot, which), Interest::READABLE)?;
            Ok(Some(Pipe { file, more: false, ended: false }))
        };
        let (stdout, stderr) = (pipe(ends.stdout, STDOUT)?, pipe(ends.stderr, STDERR)?);
        if let Some(stdin) = &ends.stdin {
            sys::set_nonblocking(stdin, true)?;
        }
        let stdin = ends.stdin.map(|pipe| Feed { pipe, chunk: Vec::new(), rest: None, watched: false });
        let capture = Capture::new();
        Ok(Job {
            task: None,
            pid,
            mark,
            slot,
            context,
            stdin,
            stdout,
            stderr,
            capture,
            wide: Vec::new(),
            log: None,
            tail: Vec::new(),
            ending: None,
            by_host: false,
            limit: None,
        })
    }

    pub fn marker(&self) -> String {
        format!("HIVE_START={}", self.mark)
    }

    /// The inode of the pipe that is its stdin.
    pub fn stdin_inode(&self) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        self.stdin.as_ref().and_then(|feed| feed.pipe.metadata().ok()).map(|m| m.ino())
    }

    /// Feeds a text, or a file, and then the end of it.
    pub fn feed(&mut self, text: &str, file: Option<File>, poll: &Poll) {
        if let Some(feed) = &mut self.stdin {
            (feed.chunk, feed.rest) = (if file.is_some() { Vec::new() } else { text.as_bytes().to_vec() }, file);
        }
        self.feed_more(Some(poll));
    }

    fn feed_more(&mut self, poll: Option<&Poll>) {
        let slot = self.slot;
        let Some(feed) = &mut self.stdin else { return };
        loop {
            if feed.chunk.is_empty() && !feed.refill() {
                break;
            }
            match sys::write(&feed.pipe, &feed.chunk) {
                Ok(n) => drop(feed.chunk.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if let (false, Some(poll)) = (feed.watched, poll) {
                        let fd = feed.pipe.as_raw_fd();
                        feed.watched = poll
                            .registry()
                            .register(&mut SourceFd(&fd), token(slot, STDIN), Interest::WRITABLE)
                            .is_ok();
                    }
                    return;
                }
                // It reads no further: that is its business.
                Err(_) => break,
            }
        }
        // Closing the descriptor takes it out of the poll, and is the end of the text.
        self.stdin = None;
    }

    pub fn ready(&mut self, which: usize, agent_log: &mut BoundedLog) {
        match which {
            STDIN => self.feed_more(None),
            STDOUT => self.stdout.iter_mut().for_each(|p| p.more = true),
            _ => self.stderr.iter_mut().for_each(|p| p.more = true),
        }
        self.take_more(agent_log);
    }

    pub fn has_more(&self) -> bool {
        [&self.stdout, &self.stderr].into_iter().flatten().any(|p| p.more)
    }

    pub fn take_more(&mut self, agent_log: &mut BoundedLog) {
        for _ in 0..READS_AT_ONCE {
            if !self.take_once(agent_log) {
                return;
            }
        }
    }

    /// Everything that is still in the pipes. Not until their end: a grandchild may hold them open for ever.
    pub fn drain(&mut self, agent_log: &mut BoundedLog) {
        for pipe in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            pipe.more = true;
        }
        while self.take_once(agent_log) {}
    }

    fn take_once(&mut self, agent_log: &mut BoundedLog) -> bool {
        let mut short = [0; READ_SHORT];
        let buffer = if self.capture.is_long() { &mut self.wide[..] } else { &mut short[..] };
        if let Some(n) = self.stdout.as_mut().and_then(|pipe| pipe.read(buffer)) {
            self.capture.take(&buffer[..n], &self.context);
            if self.capture.is_long() && self.wide.is_empty() {
                self.wide = vec![0; READ_LONG];
                self.stdout.iter().for_each(|pipe| sys::widen(&pipe.file));
            }
        }
        if let Some(n) = self.stderr.as_mut().and_then(|pipe| pipe.read(&mut short)) {
            let bytes = &short[..n];
            self.log.as_mut().unwrap_or(agent_log).write(bytes);
            self.tail.extend_from_slice(&bytes[n.saturating_sub(limits::STDERR_TAIL_MAX)..]);
            let extra = self.tail.len().saturating_sub(limits::STDERR_TAIL_MAX);
            self.tail.drain(..extra);
        }
        self.has_more()
    }

    /// The end of what it wrote to stderr, as text.
    pub fn stderr_tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        // It is shown on terminals, and travels in one line: nothing in it may act on either.
        text.trim().chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
    }

    pub fn unwatch(&self, poll: &Poll) {
        for pipe in [&self.stdout, &self.stderr].into_iter().flatten() {
            let _ = poll.registry().deregister(&mut SourceFd(&pipe.file.as_raw_fd()));
        }
    }
}

/// What tells the processes of one start from those of another.
pub fn mark(host: Pid, start: u64) -> String {
    format!("{}.{start}", host.0)
}

fn token(slot: usize, which: usize) -> Token {
    Token(super::JOBS + slot * 4 + which)
}

impl Pipe {
    /// One read. Nothing to read, or the end: there is no more.
    fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if !self.more || self.ended {
            self.more = false;
            return None;
        }
        match sys::read(&self.file, buffer) {
            Ok(n) if n > 0 => Some(n),
            other => {
                self.more = false;
                self.ended = other.is_ok();
                None
            }
        }
    }
}

impl Feed {
    fn refill(&mut self) -> bool {
        let Some(file) = &mut self.rest else {
            return false;
        };
        self.chunk.resize(64 * 1024, 0);
        let n = file.read(&mut self.chunk).unwrap_or(0);
        self.chunk.truncate(n);
        n > 0
    }
}

/// A task as it comes in one or more lines.
#[derive(Default)]
pub struct Next {
    pub task: u64,
    pub attempt: u32,
    pub surroundings: Option<Arc<str>>,
    /// Names and digests.
    pub contexts: Vec<(String, String)>,
    pub text: String,
}

/// Reads the lines of a hosted agent's `in`: what comes before a TASK is gathered for it.
pub fn next(line: &str, gathered: &mut Next) -> Option<Next> {
    let told = parse_told(line)?;
    let (Told::With { task, .. } | Told::Context { task, .. } | Told::Task { task, .. }) = told;
    if gathered.task != task {
        *gathered = Next { task, attempt: 1, ..Next::default() };
    }
    match told {
        Told::With { attempt, surroundings, .. } => {
            (gathered.attempt, gathered.surroundings) = (attempt, surroundings.map(Arc::from));
            None
        }
        Told::Context { name, digest, .. } => {
            gathered.contexts.push((name.to_owned(), digest.to_owned()));
            None
        }
        Told::Task { text, .. } => {
            gathered.text = text.to_owned();
            Some(std::mem::take(gathered))
        }
    }
}
