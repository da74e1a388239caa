//! What the blocks of the board hold, as values and as words. PROTOCOL.md says where each word stands.

use super::{HIVE_WORDS, ROW_WORDS};

/// A word that stands for "there is none".
const NONE: u64 = u64::MAX;

/// A state's name, as it stands in two words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Name([u8; 16]);

impl Name {
    pub fn of(text: &str) -> Name {
        let mut name = Name::default();
        let len = text.len().min(name.0.len());
        name.0[..len].copy_from_slice(&text.as_bytes()[..len]);
        name
    }

    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        std::str::from_utf8(&self.0[..end]).unwrap_or("")
    }

    fn words(self) -> [u64; 2] {
        let (words, _) = self.0.as_chunks();
        [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
    }

    fn read(words: [u64; 2]) -> Name {
        let mut name = Name::default();
        name.0[..8].copy_from_slice(&words[0].to_le_bytes());
        name.0[8..].copy_from_slice(&words[1].to_le_bytes());
        name
    }
}

/// The hive as a whole. Times are microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HiveRow {
    pub pid: i32,
    pub term: u64,
    pub since: i64,
    /// `running`, `stopping`.
    pub state: Name,
    pub agents: u64,
    pub queued: u64,
    pub running: u64,
    pub done: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub last_task: u64,
    /// Records in the log.
    pub records: u64,
    pub malformed: u64,
    pub clients_cut: u64,
    pub tokens: Tokens,
    pub shared: Sharing,
    pub updated: i64,
}

/// What was reported by USAGE lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
    pub cache: u64,
    pub usd_micros: u64,
}

/// Bytes of context that tasks asked for, and that were sent for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sharing {
    pub asked: u64,
    pub sent: u64,
}

/// One agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentRow {
    pub id: u32,
    /// As `pool status` shows it.
    pub state: Name,
    /// The task that runs.
    pub task: Option<u64>,
    pub since: i64,
    /// In percent.
    pub progress: Option<u8>,
    /// Tasks that it holds.
    pub held: u64,
    pub tokens: Tokens,
    pub pid: Option<i32>,
    pub workload: Option<i32>,
    pub restarts: u64,
    /// When it or its host was last heard; 0: not since this board was made.
    pub heard: i64,
    pub shared: Sharing,
}

impl HiveRow {
    pub(super) fn words(&self) -> [u64; HIVE_WORDS - 1] {
        let [state_0, state_1] = self.state.words();
        let Tokens { input, output, cache, usd_micros } = self.tokens;
        let mut words = [0; HIVE_WORDS - 1];
        words[..22].copy_from_slice(&[
            self.updated as u64,
            self.pid as u64,
            self.term,
            self.since as u64,
            state_0,
            state_1,
            self.agents,
            self.queued,
            self.running,
            self.done,
            self.failed,
            self.cancelled,
            self.last_task,
            self.records,
            self.malformed,
            self.clients_cut,
            input,
            output,
            cache,
            usd_micros,
            self.shared.asked,
            self.shared.sent,
        ]);
        words
    }

    pub(super) fn read(w: &[u64; HIVE_WORDS - 1]) -> HiveRow {
        HiveRow {
            updated: w[0] as i64,
            pid: w[1] as i32,
            term: w[2],
            since: w[3] as i64,
            state: Name::read([w[4], w[5]]),
            agents: w[6],
            queued: w[7],
            running: w[8],
            done: w[9],
            failed: w[10],
            cancelled: w[11],
            last_task: w[12],
            records: w[13],
            malformed: w[14],
            clients_cut: w[15],
            tokens: Tokens { input: w[16], output: w[17], cache: w[18], usd_micros: w[19] },
            shared: Sharing { asked: w[20], sent: w[21] },
        }
    }
}

impl AgentRow {
    pub(super) fn words(&self) -> [u64; ROW_WORDS - 1] {
        let [state_0, state_1] = self.state.words();
        let Tokens { input, output, cache, usd_micros } = self.tokens;
        let pid = |pid: Option<i32>| pid.map_or(0, |pid| pid as u64);
        let mut words = [0; ROW_WORDS - 1];
        words[..17].copy_from_slice(&[
            u64::from(self.id),
            state_0,
            state_1,
            self.task.unwrap_or(0),
            self.since as u64,
            self.progress.map_or(NONE, u64::from),
            self.held,
            pid(self.pid),
            pid(self.workload),
            self.restarts,
            self.heard as u64,
            input,
            output,
            cache,
            usd_micros,
            self.shared.asked,
            self.shared.sent,
        ]);
        words
    }

    /// `None` where no agent is.
    pub(super) fn read(w: &[u64; ROW_WORDS - 1]) -> Option<AgentRow> {
        let pid = |word: u64| Some(word as i32).filter(|pid| *pid != 0);
        (w[0] != 0).then(|| AgentRow {
            id: w[0] as u32,
            state: Name::read([w[1], w[2]]),
            task: Some(w[3]).filter(|task| *task != 0),
            since: w[4] as i64,
            progress: Some(w[5]).filter(|percent| *percent != NONE).map(|percent| percent as u8),
            held: w[6],
            pid: pid(w[7]),
            workload: pid(w[8]),
            restarts: w[9],
            heard: w[10] as i64,
            tokens: Tokens { input: w[11], output: w[12], cache: w[13], usd_micros: w[14] },
            shared: Sharing { asked: w[15], sent: w[16] },
        })
    }
}
