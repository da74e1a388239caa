//! Where a turn's bytes are between the pipe and the log. A pipe forgets what was read; a supervisor may be killed
//! between the read and the record. So it reads into shared memory, which outlives it: one system call both takes the
//! bytes and keeps them. The next leader finds here what was taken and not recorded.
//!
//! Two halves. A turn fills one: entries of (source, length, bytes). When its events are recorded, half lines are
//! carried into the other half, which then becomes the current one; without half lines the same half is emptied.
//! Before the record is written the half says which sequence number its events begin with: if the log has reached
//! that, the half is history. It is emptied when what was recorded is done, and not before: what the next leader finds
//! stays where it is until that leader has recorded it.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::Path;

use memmap2::MmapMut;

use crate::limits::{LINE_MAX, READ_MAX, TURN_BYTES_MAX};
use crate::model::Seq;
use crate::sys;

const MAGIC: u64 = u64::from_le_bytes(*b"HIVEIN01");
const HEADER: usize = 4096;
/// Where the header's words stand.
const AT_MAGIC: usize = 0;
const AT_CURRENT: usize = 8;
const AT_FIRST_SEQ: usize = 16;
/// Source, length, and what is known of its line's beginning, before each entry's bytes.
const ENTRY: usize = 24;
/// The length of an entry whose read has not returned.
const UNKNOWN: u64 = u64::MAX;
/// The first sequence number of a half that has none yet.
const UNRECORDED: u64 = u64::MAX;

/// Which pipe bytes came from. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source(pub u64);

/// What an entry's bytes begin with: 0 for the beginning of a line, else what the owner of the line keeps of it.
pub type Begun = u64;

/// Bytes that begin in the middle of things: a half line, carried from turn to turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    pub range: Range<usize>,
    pub begun: Begun,
}

/// What the last supervisor left here.
pub struct Left {
    pub entries: Vec<(Source, Carried)>,
    /// Their events are in the log, from this number on: only half lines, and answers, may be unfinished.
    pub recorded_from: Option<Seq>,
}

/// One read's bytes.
pub struct Taken {
    /// Where they lie, with what was carried before them.
    pub range: Range<usize>,
    /// How many of them are new.
    pub new: usize,
    /// The pipe may hold more: a short read has emptied it.
    pub full: bool,
}

pub struct Intake {
    map: MmapMut,
    half: usize,
    used: usize,
}

impl Intake {
    pub fn open(path: &Path) -> io::Result<Intake> {
        let mut intake = Intake { map: sys::shm::map(path, HEADER + 2 * TURN_BYTES_MAX)?, half: 0, used: 0 };
        if intake.word(AT_MAGIC) == MAGIC {
            intake.half = (intake.word(AT_CURRENT) & 1) as usize;
        } else {
            intake.map.fill(0);
            intake.set_word(AT_FIRST_SEQ, UNRECORDED);
            intake.set_word(AT_FIRST_SEQ + 8, UNRECORDED);
            intake.set_word(AT_MAGIC, MAGIC);
        }
        Ok(intake)
    }

    /// The number that the events of what was left begin with, if they had been decided.
    pub fn deciding(&self) -> Option<Seq> {
        Some(Seq(self.word(AT_FIRST_SEQ + 8 * self.half))).filter(|first| first.0 != UNRECORDED)
    }

    /// What the last supervisor took and was not done with, given how far its log goes. It stays here until the turn that
    /// takes it up is finished.
    pub fn recover(&mut self, last_recorded: Seq) -> Left {
        let other = 1 - self.half;
        self.map[Self::base_of(other)..Self::base_of(other) + TURN_BYTES_MAX].fill(0);
        self.set_word(AT_FIRST_SEQ + 8 * other, UNRECORDED);
        let (entries, used) = self.entries();
        for (_, entry) in &entries {
            // The last one's length may not have been known.
            let at = self.base() + entry.range.start - ENTRY;
            self.set_word(at + 8, entry.range.len() as u64);
        }
        self.used = used;
        Left { entries, recorded_from: self.deciding().filter(|first| *first <= last_recorded) }
    }

    /// Whether another read can be taken in this turn.
    pub fn has_room(&self) -> bool {
        self.used + ENTRY + 2 * LINE_MAX <= TURN_BYTES_MAX - 8
    }

    /// Reads once from a pipe, behind what was carried of its last line. `None` where this turn has no room left.
    pub fn read(&mut self, source: Source, carried: &Carried, pipe: &impl AsFd) -> io::Result<Option<Taken>> {
        let start = self.used + ENTRY;
        if !self.has_room() {
            return Ok(None);
        }
        let Carried { range: carried, begun } = carried.clone();
        let room = (TURN_BYTES_MAX - 8 - start - carried.len()).min(READ_MAX);
        let base = self.base();
        self.set_word(base + self.used + 8, UNKNOWN);
        self.set_word(base + self.used + 16, begun);
        self.set_word(base + self.used, source.0);
        self.map.copy_within(base + carried.start..base + carried.end, base + start);
        let at = start + carried.len();
        let result = sys::read(pipe, &mut self.map[base + at..base + at + room]);
        let n = *result.as_ref().unwrap_or(&0);
        if n == 0 {
            // Nothing came: take the entry back, so that the half is zero behind what is used.
            self.map[base + self.used..base + at].fill(0);
            return result.map(|_| Some(Taken { range: at..at, new: 0, full: false }));
        }
        let end = at + n;
        self.set_word(base + self.used + 8, (end - start) as u64);
        self.used = end.next_multiple_of(8);
        Ok(Some(Taken { range: start..end, new: n, full: n == room }))
    }

    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        let base = self.base();
        &self.map[base + range.start..base + range.end]
    }

    /// The events of this turn will be recorded from `first` on.
    pub fn will_record(&mut self, first: Seq) {
        self.set_word(AT_FIRST_SEQ + 8 * self.half, first.0);
    }

    /// The turn is recorded, and done. Keeps the half lines and forgets the rest; returns their new places.
    pub fn finish(&mut self, half_lines: &[(Source, Carried)]) -> Vec<Range<usize>> {
        let (old, old_used) = (self.half, self.used);
        if half_lines.is_empty() {
            self.empty(old, old_used);
            self.used = 0;
            return Vec::new();
        }
        let new = 1 - old;
        let (from, to) = (Self::base_of(old), Self::base_of(new));
        let mut used = 0;
        let mut places = Vec::with_capacity(half_lines.len());
        for (source, Carried { range, begun }) in half_lines {
            let start = used + ENTRY;
            self.set_word(to + used, source.0);
            self.set_word(to + used + 8, range.len() as u64);
            self.set_word(to + used + 16, *begun);
            self.map.copy_within(from + range.start..from + range.end, to + start);
            places.push(start..start + range.len());
            used = (start + range.len()).next_multiple_of(8);
        }
        self.set_word(AT_FIRST_SEQ + 8 * new, UNRECORDED);
        self.set_word(AT_CURRENT, new as u64);
        self.half = new;
        self.used = used;
        self.empty(old, old_used);
        places
    }

    /// The same intake in another file: this one's name is gone.
    pub fn copy_to(&self, path: &Path) -> io::Result<Intake> {
        let mut map = sys::shm::map(path, HEADER + 2 * TURN_BYTES_MAX)?;
        map.copy_from_slice(&self.map);
        Ok(Intake { map, ..*self })
    }

    fn empty(&mut self, half: usize, used: usize) {
        let base = Self::base_of(half);
        self.map[base..base + used].fill(0);
        self.set_word(AT_FIRST_SEQ + 8 * half, UNRECORDED);
    }

    /// The entries of the current half, and where they end.
    fn entries(&self) -> (Vec<(Source, Carried)>, usize) {
        let (base, mut at) = (self.base(), 0);
        let mut found = Vec::new();
        while at + ENTRY <= TURN_BYTES_MAX {
            let (source, len, begun) = (self.word(base + at), self.word(base + at + 8), self.word(base + at + 16));
            if source == 0 {
                break;
            }
            let start = at + ENTRY;
            let rest = &self.map[base + start..base + TURN_BYTES_MAX];
            // A read that did not return: the kernel may have filled in some bytes, and behind them all is zero.
            let len = match len {
                UNKNOWN => rest.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1),
                known => (known as usize).min(rest.len()),
            };
            found.push((Source(source), Carried { range: start..start + len, begun }));
            at = (start + len).next_multiple_of(8);
        }
        (found, at)
    }

    fn base(&self) -> usize {
        Self::base_of(self.half)
    }

    fn base_of(half: usize) -> usize {
        HEADER + half * TURN_BYTES_MAX
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.map[at..at + 8].try_into().expect("8 bytes"))
    }

    fn set_word(&mut self, at: usize, value: u64) {
        self.map[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Case(std::path::PathBuf);

    impl Case {
        fn new(name: &str) -> Case {
            let path = std::env::temp_dir().join(format!("hive-intake-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            Case(path)
        }

        fn open(&self) -> Intake {
            Intake::open(&self.0).unwrap()
        }
    }

    impl Drop for Case {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn pipe_with(bytes: &[u8]) -> std::io::PipeReader {
        let (read, mut write) = std::io::pipe().unwrap();
        write.write_all(bytes).unwrap();
        read
    }

    const NOTHING: Carried = Carried { range: 0..0, begun: 0 };

    /// What is left, as bytes; and whether it is history.
    fn left(intake: &mut Intake, last: u64) -> (Vec<(u64, Vec<u8>, Begun)>, bool) {
        let Left { entries, recorded_from } = intake.recover(Seq(last));
        let read = |(source, c): &(Source, Carried)| (source.0, intake.bytes(c.range.clone()).to_vec(), c.begun);
        (entries.iter().map(read).collect(), recorded_from.is_some())
    }

    #[test]
    fn what_was_taken_and_not_recorded_is_found_until_it_is() {
        let case = Case::new("taken");
        let mut intake = case.open();
        assert!(left(&mut intake, 0).0.is_empty());
        let taken = intake.read(Source(1), &NOTHING, &pipe_with(b"one\ntwo\n")).unwrap().unwrap();
        assert_eq!((intake.bytes(taken.range), taken.new), (&b"one\ntwo\n"[..], 8));
        intake.read(Source(2), &NOTHING, &pipe_with(b"three\n")).unwrap().unwrap();
        intake.will_record(Seq(5));
        drop(intake);
        let both = vec![(1, b"one\ntwo\n".to_vec(), 0), (2, b"three\n".to_vec(), 0)];
        assert_eq!(left(&mut case.open(), 4), (both.clone(), false));
        let mut next = case.open();
        assert_eq!(left(&mut next, 4), (both, false), "the one that found it died too");
        next.finish(&[]);
        assert!(left(&mut case.open(), 4).0.is_empty());
    }

    #[test]
    fn what_was_recorded_is_history() {
        let case = Case::new("recorded");
        let mut intake = case.open();
        intake.read(Source(1), &NOTHING, &pipe_with(b"one\n")).unwrap().unwrap();
        intake.will_record(Seq(5));
        drop(intake);
        assert_eq!(left(&mut case.open(), 5), (vec![(1, b"one\n".to_vec(), 0)], true));
    }

    #[test]
    fn half_a_line_is_carried_over_turns_and_over_a_death() {
        let case = Case::new("half");
        let mut intake = case.open();
        let range = intake.read(Source(1), &NOTHING, &pipe_with(b"one\ntw")).unwrap().unwrap().range;
        let half = Carried { range: range.start + 4..range.end, begun: 7 };
        let place = intake.finish(&[(Source(1), half)]).remove(0);
        assert_eq!(intake.bytes(place.clone()), b"tw");
        drop(case.open());
        let half = Carried { range: place, begun: 7 };
        let taken = intake.read(Source(1), &half, &pipe_with(b"o\n")).unwrap().unwrap();
        assert_eq!((intake.bytes(taken.range), taken.new), (&b"two\n"[..], 2));
        drop(intake);
        let (entries, _) = left(&mut case.open(), 0);
        assert_eq!(entries, vec![(1, b"tw".to_vec(), 7), (1, b"two\n".to_vec(), 7)]);
    }

    #[test]
    fn a_turn_has_a_bound() {
        let case = Case::new("bound");
        let mut intake = case.open();
        let mut taken = 0;
        while intake.read(Source(1), &NOTHING, &pipe_with(&[b'x'; READ_MAX])).unwrap().is_some() {
            taken += 1;
        }
        assert!((2..=4).contains(&taken), "{taken}");
        intake.finish(&[]);
        assert!(intake.read(Source(1), &NOTHING, &pipe_with(b"x")).unwrap().is_some());
    }
}
