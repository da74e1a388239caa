//! What can go wrong, said in full: what was tried, on what, why it failed, and what to do next.
//! Owns the mapping from an error to an exit code; nothing else in hive chooses one.

use std::fmt;
use std::io;

/// The stable name of an error, as it stands in `"error":{"code":...}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    BadRequest,
    NoHive,
    NoSuchAgent,
    NoSuchTask,
    /// Ended so long ago that only the log knows.
    Forgotten,
    NoSuchLabel,
    NoSuchRecord,
    NoSuchContent,
    /// Content that is not what its name says.
    Damaged,
    NoSuchKey,
    NoSuchItem,
    /// Somebody else was first: the version is not the expected one.
    Conflict,
    TimedOut,
    AlreadyRunning,
    Limit,
    NoAgents,
    Stopping,
    /// What was asked for is not in the power of this agent or task.
    Unable,
    BarrierOpen,
    NotReady,
    HasEnded,
    DiskFull,
    Internal,
}

/// One row a code: its name on the wire and the exit code of a command that meets it.
const TABLE: &[(Code, &str, i32)] = &[
    (Code::BadRequest, "bad-request", 2),
    (Code::NoHive, "no-hive", 3),
    (Code::NoSuchAgent, "no-such-agent", 4),
    (Code::NoSuchTask, "no-such-task", 4),
    (Code::Forgotten, "forgotten", 4),
    (Code::NoSuchLabel, "no-such-label", 4),
    (Code::NoSuchRecord, "no-such-record", 4),
    (Code::NoSuchContent, "no-such-content", 4),
    (Code::Damaged, "damaged", 1),
    (Code::NoSuchKey, "no-such-key", 4),
    (Code::NoSuchItem, "no-such-item", 4),
    (Code::Conflict, "conflict", 1),
    (Code::TimedOut, "timed-out", 5),
    (Code::AlreadyRunning, "already-running", 6),
    (Code::Limit, "limit", 6),
    (Code::NoAgents, "no-agents", 6),
    (Code::Stopping, "stopping", 6),
    (Code::Unable, "unable", 6),
    (Code::BarrierOpen, "barrier-open", 6),
    (Code::NotReady, "not-ready", 1),
    (Code::HasEnded, "has-ended", 1),
    (Code::DiskFull, "disk-full", 6),
    (Code::Internal, "internal", 1),
];

impl Code {
    pub fn name(self) -> &'static str {
        self.row().1
    }

    pub fn exit(self) -> i32 {
        self.row().2
    }

    pub fn parse(name: &str) -> Code {
        TABLE.iter().find(|row| row.1 == name).map_or(Code::Internal, |row| row.0)
    }

    fn row(self) -> &'static (Code, &'static str, i32) {
        TABLE.iter().find(|row| row.0 == self).expect("every code has a row: tested")
    }
}

#[derive(Debug, Clone)]
pub struct Error {
    pub code: Code,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into() }
    }

    /// A system call that failed: `what` says what was tried and on what.
    pub fn os(what: impl fmt::Display, cause: impl Into<io::Error>) -> Error {
        let cause = cause.into();
        let code = match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::DiskFull,
            _ => Code::Internal,
        };
        Error::new(code, format!("{what}: {}", reason(&cause)))
    }
}

/// The cause in words, without the number that `io::Error` appends.
pub fn reason(cause: &io::Error) -> String {
    let text = cause.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_row_and_comes_back_by_name() {
        for (code, name, _) in TABLE {
            assert_eq!(Code::parse(name), *code);
            assert_eq!(code.name(), *name);
        }
        assert_eq!(Code::Internal.exit(), 1);
    }
}
