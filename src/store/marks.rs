//! What of the recorded was done: which answers were written, and which task each agent was sent last.
//! The log says what was decided; a supervisor that dies between the record and the pipe leaves it here how far it came,
//! so that the next one says again what was not said, and nothing twice that must not be.
//! Invariant: a mark follows its deed by one store. What was under way at the death is named (`sending`), not guessed.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memmap2::MmapMut;

use crate::limits::AGENTS_MAX;
use crate::model::{AgentId, Seq, TaskId};
use crate::sys;

const MAGIC: u64 = u64::from_le_bytes(*b"HIVEMK01");
const AT_MAGIC: usize = 0;
const AT_ANSWERED: usize = 8;
const AT_SENDING: usize = 16;
const AT_AGENTS: usize = 64;
const LEN: usize = AT_AGENTS + 8 * (AGENTS_MAX as usize + 1);

/// A task's attempt, as one word. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery(u64);

impl Delivery {
    pub fn of(task: TaskId, attempt: u32) -> Delivery {
        Delivery(task.0 << 16 | u64::from(attempt & 0xffff))
    }
}

pub struct Marks(MmapMut);

impl Marks {
    /// With a new file, everything recorded so far counts as done: nobody is left who was waiting.
    pub fn open(path: &Path) -> io::Result<Marks> {
        let mut marks = Marks(sys::shm::map(path, LEN)?);
        if marks.word(AT_MAGIC) != MAGIC {
            marks.0.fill(0);
            marks.set(AT_ANSWERED, u64::MAX);
            marks.set(AT_MAGIC, MAGIC);
        }
        Ok(marks)
    }

    /// The same mark in the file of another process, which is not touched.
    pub fn look(path: &Path) -> Option<Seq> {
        let mut word = [0; 8];
        std::fs::File::open(path).ok()?.read_exact_at(&mut word, AT_ANSWERED as u64).ok()?;
        Some(Seq(u64::from_ne_bytes(word)))
    }

    /// Every answer that stands on records up to here was written to whoever waited for it.
    pub fn answered(&self) -> Seq {
        Seq(self.word(AT_ANSWERED))
    }

    pub fn set_answered(&mut self, upto: Seq) {
        self.set(AT_ANSWERED, upto.0);
    }

    /// What an agent was sent last.
    pub fn sent(&self, agent: AgentId) -> Option<Delivery> {
        Some(Delivery(self.word(place(agent)))).filter(|delivery| delivery.0 != 0)
    }

    /// Whether something was being sent to this agent, so that it may have arrived or not. Where the marks were lost with
    /// the live folder, that is so of every agent.
    pub fn may_be_sending(&self, agent: AgentId) -> bool {
        self.word(AT_SENDING) == u64::from(agent.0) || self.answered() == Seq(u64::MAX)
    }

    pub fn begin_sending(&mut self, agent: AgentId) {
        self.set(AT_SENDING, u64::from(agent.0));
    }

    pub fn was_sent(&mut self, agent: AgentId, last: Option<Delivery>) {
        if let Some(last) = last {
            self.set(place(agent), last.0);
        }
        self.set(AT_SENDING, 0);
    }

    /// Its workload begins anew, and has been sent nothing.
    pub fn forget(&mut self, agent: AgentId) {
        self.set(place(agent), 0);
    }

    /// The same marks in another file: this one's name is gone.
    pub fn copy_to(&self, path: &Path) -> io::Result<Marks> {
        let mut map = sys::shm::map(path, LEN)?;
        map.copy_from_slice(&self.0);
        Ok(Marks(map))
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.0[at..at + 8].try_into().expect("8 bytes"))
    }

    fn set(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
}

fn place(agent: AgentId) -> usize {
    AT_AGENTS + 8 * agent.0.min(AGENTS_MAX) as usize
}
