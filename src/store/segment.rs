//! One file of the event log: its name, and its records one by one, with what is no record told apart.
//! Invariant: every byte of a segment is in exactly one step of a walk over it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::{Event, Seq, Term};
use crate::record::{self, Fault, Stamp};

pub fn name(first: Seq) -> String {
    format!("{:020}.jsonl", first.0)
}

/// The segments in order.
pub fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    named(folder, "jsonl")
}

/// The files with this extension, in the order of their names.
pub fn named(folder: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    let mut found: Vec<PathBuf> = paths.into_iter().filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    Ok(found)
}

/// The sequence number that a file is named by.
pub fn seq_of_name(path: &Path) -> Seq {
    Seq(path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok()).unwrap_or(0))
}

/// What a walk finds next.
pub enum Step {
    Record {
        at: usize,
        stamp: Stamp,
        event: Event,
    },
    /// These bytes are no record, or one that cannot stand here. At `to` there is one that can, or the end.
    /// Where both are the same, records are missing.
    Fault {
        from: usize,
        to: usize,
        what: String,
    },
    /// A record of a later version.
    Unknown {
        at: usize,
        kind: String,
    },
}

/// The record that was last met, in this segment or one before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    /// `None`: anything may come.
    pub last: Option<Seq>,
    pub term: Term,
}

impl Place {
    /// Why this record cannot come next.
    fn against(&self, stamp: &Stamp, event: &Event) -> Option<String> {
        let last = self.last?;
        // A repair stands for all records that were lost.
        let first = if let Event::Repaired { from, .. } = event { *from } else { stamp.seq };
        if first.0 != last.0 + 1 {
            return Some(format!("record {first} follows record {last}"));
        }
        (stamp.term < self.term).then(|| format!("a record of term {} follows one of term {}", stamp.term, self.term))
    }

    /// Whether it may come some time later.
    fn is_before(&self, stamp: &Stamp) -> bool {
        self.last.is_none_or(|last| last < stamp.seq) && self.term <= stamp.term
    }
}

pub struct Walk<'b> {
    bytes: &'b [u8],
    at: usize,
    pub place: Place,
    /// Something is missing: the next record is where the log goes on.
    resuming: bool,
}

impl<'b> Walk<'b> {
    pub fn new(bytes: &'b [u8], place: Place) -> Walk<'b> {
        Walk { bytes, at: 0, place, resuming: false }
    }

    /// The line that begins at `at`, without its newline, and where the next begins.
    fn line(&self, at: usize) -> (Option<&'b [u8]>, usize) {
        match memchr::memchr(b'\n', &self.bytes[at..]) {
            Some(len) => (Some(&self.bytes[at..at + len]), at + len + 1),
            None => (None, self.bytes.len()),
        }
    }

    /// The next place from `at` on where the log may go on: also within a line, after half a record without a newline.
    fn resume_from(&self, at: usize) -> usize {
        let beginnings = memchr::memmem::find_iter(&self.bytes[at..], b"{\"seq\":").map(|n| at + n);
        let may_go_on = |at: &usize| match self.line(*at).0.map(record::decode) {
            Some(Ok((stamp, _))) => self.place.is_before(&stamp),
            Some(Err(Fault::Unknown(_))) => true,
            Some(Err(Fault::Broken(_))) | None => false,
        };
        beginnings.into_iter().find(may_go_on).unwrap_or(self.bytes.len())
    }
}

impl Iterator for Walk<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let (at, (line, next)) = (self.at, self.line(self.at));
        let what = match line.map(record::decode) {
            Some(Ok((stamp, event))) => {
                let wrong = self.place.against(&stamp, &event).filter(|_| !self.resuming);
                let Some(wrong) = wrong else {
                    self.place = Place { last: Some(stamp.seq), term: stamp.term };
                    (self.at, self.resuming) = (next, false);
                    return Some(Step::Record { at, stamp, event });
                };
                wrong
            }
            Some(Err(Fault::Unknown(kind))) => {
                self.at = next;
                return Some(Step::Unknown { at, kind });
            }
            Some(Err(Fault::Broken(what))) => what,
            None => "the record has no end".to_owned(),
        };
        self.at = self.resume_from(at);
        self.resuming = true;
        Some(Step::Fault { from: at, to: self.at, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TaskId;

    fn record(seq: u64, term: u64) -> Vec<u8> {
        let (mut moment, mut out) = (record::Moment::default(), Vec::new());
        moment.set(0, Term(term));
        record::encode(&mut out, Seq(seq), &moment, &Event::Forced { task: TaskId(seq) });
        out
    }

    /// Steps in short: a record's number, or what a fault holds.
    fn story(parts: &[&[u8]]) -> Vec<String> {
        let bytes = parts.concat();
        let steps: Vec<Step> = Walk::new(&bytes, Place::default()).collect();
        let tell = |step: &Step| match step {
            Step::Record { stamp, .. } => stamp.seq.to_string(),
            Step::Fault { from, to, what } => format!("{} bytes: {what}", to - from),
            Step::Unknown { kind, .. } => kind.clone(),
        };
        steps.iter().map(tell).collect()
    }

    #[test]
    fn what_is_no_record_is_told_apart_wherever_it_is() {
        let (a, b, c, d) = (&record(1, 1)[..], &record(2, 1)[..], &record(3, 2)[..], &record(4, 2)[..]);
        assert_eq!(story(&[a, b, c]), ["1", "2", "3"]);
        assert_eq!(story(&[a, b"junk\n", b]), ["1", "5 bytes: it is too short", "2"]);
        assert_eq!(story(&[a, b, &c[..9]]), ["1", "2", "9 bytes: the record has no end"]);
        assert_eq!(story(&[a, &b[..9], c, d])[1..], ["9 bytes: its checksum does not match", "3", "4"]);
        assert_eq!(story(&[a, c]), ["1", "0 bytes: record 3 follows record 1", "3"]);
        assert_eq!(story(&[a, a, b])[1], format!("{} bytes: record 1 follows record 1", a.len()));
        let old = record(4, 1);
        assert_eq!(story(&[c, &old, d])[1], format!("{} bytes: a record of term 1 follows one of term 2", old.len()));
    }
}
