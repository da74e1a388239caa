//! The board: what a hive and each of its agents do, in a mapped file that anybody of this user reads without asking.
//! Its layout is in PROTOCOL.md: 64-bit words, little-endian; a block for the hive, then a row for each agent.
//!
//! Invariant: only the supervisor writes. Each block begins with a count that is odd while the block is written, and has
//! changed when it was: a reader that finds it even, and the same before and after, has read what was written as one.
//! The file only grows. One that gives way to another says so (`closed`): its readers open the board anew.

mod row;

pub use row::{AgentRow, HiveRow, Name, Sharing, Tokens};

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

use nix::libc;

use crate::error::{Code, Error, Result};
use crate::limits::AGENTS_MAX;
use crate::sys::shm::{View, Words};

const MAGIC: u64 = u64::from_le_bytes(*b"HIVEBD01");
/// How many rows are made at a time: about two pages.
const ROWS_AT_ONCE: usize = 42;
/// Reads of a block that is being written, before its writer counts as stopped or dead in the middle of it; and how many of
/// them before the processor is left to others, of whom the writer may be one.
const TRIES: u32 = 1_000_000;
const TRIES_AT_ONCE: u32 = 100;

/// Where words stand from the beginning of the file.
mod head {
    pub const MAGIC: usize = 0;
    /// In bytes, all four.
    pub const HIVE_AT: usize = 1;
    pub const HIVE_BYTES: usize = 2;
    pub const ROWS_AT: usize = 3;
    pub const ROW_BYTES: usize = 4;
    pub const ROWS: usize = 5;
    pub const CLOSED: usize = 6;
    pub const WORDS: usize = 8;
}

const HIVE_AT: usize = head::WORDS;
const HIVE_WORDS: usize = 24;
const ROWS_AT: usize = HIVE_AT + HIVE_WORDS;
const ROW_WORDS: usize = 24;

/// The board as its supervisor has it.
#[derive(Debug)]
pub struct Writer {
    file: File,
    words: Words,
    rows: usize,
}

impl Writer {
    /// Takes over the board of a former supervisor, or makes one.
    pub fn open(path: &Path) -> io::Result<Writer> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path)?;
        let words = Words::map(&file, ROWS_AT)?;
        let rows = if words.at(head::MAGIC).load(Acquire) == MAGIC { words.at(head::ROWS).load(Relaxed) } else { 0 };
        let mut board = Writer { file, words, rows: 0 };
        for (at, value) in [
            (head::HIVE_AT, HIVE_AT * 8),
            (head::HIVE_BYTES, HIVE_WORDS * 8),
            (head::ROWS_AT, ROWS_AT * 8),
            (head::ROW_BYTES, ROW_WORDS * 8),
        ] {
            board.words.at(at).store(value as u64, Relaxed);
        }
        board.grow((rows as usize).clamp(1, AGENTS_MAX as usize))?;
        board.words.at(head::CLOSED).store(0, Release);
        board.words.at(head::MAGIC).store(MAGIC, Release);
        Ok(board)
    }

    /// Whether it has a row for each agent up to this one; else it is to grow.
    pub fn has_row(&self, agent: u32) -> bool {
        agent as usize <= self.rows
    }

    pub fn rows(&self) -> u32 {
        self.rows as u32
    }

    /// Makes room for so many agents. Rows that were there stay as they are.
    pub fn grow(&mut self, rows: usize) -> io::Result<()> {
        let rows = rows.next_multiple_of(ROWS_AT_ONCE);
        self.words = Words::map(&self.file, ROWS_AT + rows * ROW_WORDS)?;
        self.rows = rows;
        // Said when it is so.
        self.words.at(head::ROWS).store(rows as u64, Release);
        Ok(())
    }

    pub fn write_hive(&mut self, hive: &HiveRow) {
        write(&self.words, HIVE_AT, &hive.words());
    }

    /// An agent's row; there is one.
    pub fn write_agent(&mut self, row: &AgentRow) {
        write(&self.words, place(row.id), &row.words());
    }

    /// When the agent was last heard, as its row has it.
    pub fn heard(&self, agent: u32) -> i64 {
        self.words.at(place(agent) + 11).load(Relaxed) as i64
    }

    pub fn clear_agent(&mut self, agent: u32) {
        write(&self.words, place(agent), &[0; ROW_WORDS - 1]);
    }

    /// Its readers are to look elsewhere.
    pub fn close(&mut self) {
        self.words.at(head::CLOSED).store(1, Release);
    }
}

fn place(agent: u32) -> usize {
    ROWS_AT + (agent as usize - 1) * ROW_WORDS
}

/// Writes a block so that no reader takes a part of it for the whole.
#[inline]
fn write(words: &Words, at: usize, values: &[u64]) {
    let count = words.at(at);
    // Odd from here on. A writer that was killed in the middle left it so.
    let writing = (count.load(Relaxed) + 1) | 1;
    count.store(writing, Relaxed);
    fence(Release);
    for (n, value) in values.iter().enumerate() {
        words.at(at + 1 + n).store(*value, Relaxed);
    }
    count.store(writing + 1, Release);
}

/// A block as it was at one moment. `None`: it is being written, by one who is stopped or dead.
#[inline]
fn read<const N: usize>(words: &View, at: usize) -> Option<[u64; N]> {
    let mut values = [0; N];
    for tries in 1..=TRIES {
        let before = words.load(at, Acquire);
        if before & 1 == 0 {
            for (n, value) in values.iter_mut().enumerate() {
                *value = words.load(at + 1 + n, Relaxed);
            }
            fence(Acquire);
            if words.load(at, Relaxed) == before {
                return Some(values);
            }
        }
        match tries.is_multiple_of(TRIES_AT_ONCE) {
            true => std::thread::yield_now(),
            false => std::hint::spin_loop(),
        }
    }
    None
}

/// The board of a hive, for whoever wants to know. It needs no supervisor, and costs it nothing.
///
/// ```no_run
/// use hive::{Board, Folders};
///
/// let mut board = Board::open(&Folders::of("default")?)?;
/// println!("{} tasks wait", board.hive()?.queued);
/// for agent in board.agents()? {
///     println!("agent {} is {}", agent.id, agent.state.as_str());
/// }
/// # Ok::<(), hive::error::Error>(())
/// ```
#[derive(Debug)]
pub struct Board {
    path: PathBuf,
    words: View,
    /// In words: where the hive's block is, where the rows are, how long one is.
    hive_at: usize,
    rows_at: usize,
    row_words: usize,
    rows: usize,
}

impl Board {
    pub fn open(folders: &crate::store::Folders) -> Result<Board> {
        Board::at(&folders.board())
    }

    fn at(path: &Path) -> Result<Board> {
        let cannot = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => {
                let remedy = "no hive runs there: start one with `hivectl pool start`";
                Error::new(Code::NoHive, format!("no board at {}: {remedy}", path.display()))
            }
            _ => Error::os(format!("cannot map the board {}", path.display()), e),
        };
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(cannot)?;
        let words = View::map(&file, head::WORDS).map_err(cannot)?;
        let head = |at: usize| words.load(at, Acquire);
        let word = |at: usize| head(at) as usize / 8;
        let fits = word(head::HIVE_BYTES) >= HIVE_WORDS && word(head::ROW_BYTES) >= ROW_WORDS;
        if head(head::MAGIC) != MAGIC || !fits {
            let why = "it is of another version, or is just being made";
            return Err(Error::new(Code::Internal, format!("cannot read the board {}: {why}", path.display())));
        }
        let (hive_at, rows_at, row_words) = (word(head::HIVE_AT), word(head::ROWS_AT), word(head::ROW_BYTES));
        let rows = head(head::ROWS) as usize;
        let words = View::map(&file, rows_at + rows * row_words).map_err(cannot)?;
        Ok(Board { path: path.to_owned(), words, hive_at, rows_at, row_words, rows })
    }

    /// The hive as a whole, as it is now.
    pub fn hive(&mut self) -> Result<HiveRow> {
        self.keep_up()?;
        let words = read(&self.words, self.hive_at).ok_or_else(|| self.unfinished())?;
        Ok(HiveRow::read(&words))
    }

    /// One agent; `None` where there is none of this number.
    #[inline]
    pub fn agent(&mut self, agent: u32) -> Result<Option<AgentRow>> {
        self.keep_up()?;
        if agent == 0 || agent as usize > self.rows {
            return Ok(None);
        }
        let at = self.rows_at + (agent as usize - 1) * self.row_words;
        let words = read(&self.words, at).ok_or_else(|| self.unfinished())?;
        Ok(AgentRow::read(&words))
    }

    /// All agents, by number. Each row is whole; between two of them time may pass.
    pub fn agents(&mut self) -> Result<Vec<AgentRow>> {
        self.keep_up()?;
        (1..=self.rows as u32).filter_map(|agent| self.agent(agent).transpose()).collect()
    }

    /// The board grew, or was made anew.
    #[inline]
    fn keep_up(&mut self) -> Result<()> {
        let (closed, rows) = (self.words.load(head::CLOSED, Acquire), self.words.load(head::ROWS, Acquire));
        if closed != 0 || rows as usize != self.rows {
            *self = Board::at(&self.path)?;
        }
        Ok(())
    }

    fn unfinished(&self) -> Error {
        let why = "its supervisor was stopped or killed while it wrote; the next one writes all of it";
        Error::new(Code::Internal, format!("cannot read the board {}: {why}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u32, n: u64) -> AgentRow {
        AgentRow {
            id,
            state: Name::of("checkpointing"),
            task: Some(n + 1),
            since: n as i64,
            progress: Some((n % 101) as u8),
            held: n,
            tokens: Tokens { input: n, output: n, cache: n, usd_micros: n },
            pid: Some(7),
            workload: None,
            restarts: n,
            heard: n as i64,
            shared: Sharing { asked: n, sent: n },
        }
    }

    #[test]
    fn what_is_written_is_read_through_growth_a_successor_and_a_new_file() {
        let path = std::env::temp_dir().join(format!("hive-board-{}", std::process::id()));
        let mut writer = Writer::open(&path).unwrap();
        let mut board = Board::at(&path).unwrap();
        assert_eq!(board.agents().unwrap(), []);
        writer.write_agent(&row(2, 5));
        writer.write_hive(&HiveRow { queued: 3, state: Name::of("running"), ..HiveRow::default() });
        assert_eq!(board.agents().unwrap(), [row(2, 5)]);
        assert_eq!((board.hive().unwrap().queued, board.hive().unwrap().state.as_str()), (3, "running"));
        writer.grow(AGENTS_MAX as usize).unwrap();
        writer.write_agent(&row(AGENTS_MAX, 6));
        assert_eq!(board.agents().unwrap(), [row(2, 5), row(AGENTS_MAX, 6)]);

        // One that was killed while it wrote.
        let count = writer.words.at(place(2));
        count.store(count.load(Relaxed) + 1, Relaxed);
        assert!(board.agent(2).is_err());
        let mut next = Writer::open(&path).unwrap();
        assert!(next.has_row(AGENTS_MAX));
        next.write_agent(&row(2, 8));
        assert_eq!(board.agent(2).unwrap(), Some(row(2, 8)));

        std::fs::remove_file(&path).unwrap();
        let mut other = Writer::open(&path).unwrap();
        other.write_agent(&row(1, 1));
        next.close();
        assert_eq!(board.agents().unwrap(), [row(1, 1)]);
        other.clear_agent(1);
        assert_eq!(board.agents().unwrap(), []);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_reader_never_sees_half_a_row() {
        let path = std::env::temp_dir().join(format!("hive-board-torn-{}", std::process::id()));
        let mut writer = Writer::open(&path).unwrap();
        writer.write_agent(&row(1, 0));
        let mut board = Board::at(&path).unwrap();
        let reader = std::thread::spawn(move || {
            let mut last = 0;
            while last < 20_000 {
                let found = board.agent(1).unwrap().unwrap();
                last = found.held;
                assert_eq!(found, row(1, last));
            }
        });
        let mut n = 0;
        while !reader.is_finished() {
            n += 1;
            writer.write_agent(&row(1, n));
        }
        reader.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
