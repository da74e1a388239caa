//! Logs that were cut, flipped, zeroed and added to, byte by byte: what a start and a repair make of each.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::log::{self, Log, Replayed};
use super::{repair, segment, snapshot};
use crate::model::{AgentId, Ended, Event, Seq, TaskId, Term, Verdict};
use crate::record::snapshot::Point;
use crate::record::{self, Stamp};

const ALL: Seq = Seq(u64::MAX);

fn open(folder: &Path) -> crate::error::Result<(Log, Replayed)> {
    Log::open(folder, ALL, 0, Point::step)
}

/// A folder of events that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("hive-log-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new("/dev/shm").join(name);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    /// Segments with these records each.
    fn with(segments: &[&[Vec<u8>]]) -> Folder {
        let (folder, mut first) = (Folder::new(), 1);
        for records in segments {
            folder.write(first, &records.concat());
            first += records.len() as u64;
        }
        folder
    }

    fn path(&self, first: u64) -> PathBuf {
        self.0.join(segment::name(Seq(first)))
    }

    fn write(&self, first: u64, bytes: &[u8]) {
        fs::write(self.path(first), bytes).unwrap();
    }

    fn replay(&self) -> crate::error::Result<Replayed> {
        log::replay(&self.0, ALL, ALL, 0, Point::step)
    }

    fn last(&self) -> u64 {
        self.replay().unwrap().point.seq.0
    }

    /// Mends what there is, and checks that all is well afterwards. Says what was lost.
    fn mended(&self) -> Vec<(u64, u64)> {
        let mut survey = repair::survey(&self.0, |_, _| {}).unwrap();
        if let Some(torn) = &survey.torn {
            log::cut_at(&torn.file, torn.offset).unwrap();
        }
        repair::mend(&mut survey.damage, 5).unwrap();
        let again = repair::survey(&self.0, |_, _| {}).unwrap();
        assert!(again.is_clean() && again.torn.is_none(), "{:?}", again.damage);
        let (log, replayed) = open(&self.0).unwrap();
        assert_eq!(log.last, replayed.point.seq);
        survey.damage.iter().filter_map(|d| d.lost).map(|(a, b)| (a.0, b.0)).collect()
    }

    fn kept(&self) -> Vec<Vec<u8>> {
        let files = fs::read_dir(&self.0).unwrap().flatten().map(|e| e.path());
        files.filter(|p| p.to_string_lossy().contains(".cut-at-")).map(|p| fs::read(p).unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn led() -> Event {
    Event::Led { pid: 1, version: "0".into(), boot: "b".into(), afresh: false }
}

/// The life of `tasks` tasks: three records each.
fn records(tasks: u64) -> Vec<Vec<u8>> {
    let mut events = vec![led()];
    for task in (1..=tasks).map(TaskId) {
        events.push(Event::Submitted { task, text: "echo x".into(), options: None, to: None, waits: false });
        events.push(Event::Assigned { tasks: vec![task], agent: AgentId(1) });
        let ended = Ended { result: Some("x".into()), ..Ended::new(Verdict::Done) };
        events.push(Event::Ended { task, ended: Box::new(ended) });
    }
    let encode = |(n, event): (usize, &Event)| {
        let (mut moment, mut out) = (record::Moment::default(), Vec::new());
        moment.set(0, Term(1));
        record::encode(&mut out, Seq(n as u64 + 1), &moment, event);
        out
    };
    events.iter().enumerate().map(encode).collect()
}

#[test]
fn a_log_that_is_cut_at_any_byte_opens_with_all_whole_records() {
    let records = records(3);
    let whole = records.concat();
    for cut in 0..whole.len() {
        let folder = Folder::new();
        folder.write(1, &whole[..cut]);
        let mut end = 0;
        let count = records
            .iter()
            .take_while(|r| {
                end += r.len();
                end <= cut
            })
            .count();
        let (mut log, replayed) = open(&folder.0).unwrap();
        assert_eq!(log.last.0, count as u64, "cut at {cut}");
        let boundary: usize = records[..count].iter().map(Vec::len).sum();
        assert_eq!(replayed.torn.map_or(cut as u64, |torn| torn.offset), boundary as u64);
        log.append(&records[count], Seq(count as u64 + 1)).unwrap();
        assert_eq!(folder.last(), count as u64 + 1, "it goes on after a cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is_and_can_be_mended() {
    let records = records(2);
    let whole = records.concat();
    let starts: Vec<usize> = (0..records.len()).map(|n| records[..n].iter().map(Vec::len).sum()).collect();
    for at in 0..whole.len() {
        let folder = Folder::new();
        let mut bad = whole.clone();
        bad[at] ^= 1 << (at % 8);
        folder.write(1, &bad);
        let hit = starts.partition_point(|start| *start <= at);
        if hit == records.len() {
            assert!(folder.replay().unwrap().torn.is_some(), "bit of byte {at}: the last record is torn");
            assert_eq!(folder.mended(), []);
            continue;
        }
        let error = folder.replay().err().unwrap_or_else(|| panic!("bit of byte {at} was not seen")).message;
        let place = format!("{} at byte {}:", folder.path(1).display(), starts[hit - 1]);
        assert!(error.contains(&place), "bit of byte {at}: {error}");
        let lost = folder.mended();
        assert_eq!(lost, [(hit as u64, hit as u64)], "bit of byte {at}");
        assert_eq!(folder.kept().len(), 1);
        assert_eq!(folder.last(), records.len() as u64);
    }
}

#[test]
fn zero_pages_and_garbage_at_the_end_are_a_torn_tail_and_in_the_middle_are_damage() {
    let records = records(40);
    let whole = records.concat();
    for junk in [&[0; 4096][..], b"garbage", b"two\nlines\n", &[0xff; 9]] {
        let folder = Folder::new();
        folder.write(1, &[&whole, junk].concat());
        assert_eq!(open(&folder.0).unwrap().1.torn.unwrap().bytes, junk.len() as u64);
        assert_eq!(folder.last(), records.len() as u64);
    }
    let folder = Folder::new();
    let mut zeroed = whole.clone();
    zeroed[4096..8192].fill(0);
    folder.write(1, &zeroed);
    assert!(folder.replay().is_err());
    let [(from, to)] = folder.mended()[..] else { panic!("one hole") };
    assert!(to - from > 10, "{from} to {to}");
    let text = fs::read_to_string(folder.path(1)).unwrap();
    assert!(text.contains(&format!("\"kind\":\"repaired\",\"from\":{from},\"to\":{to},")), "{text}");
    let kept = folder.kept();
    assert!(zeroed.windows(kept[0].len()).any(|w| w == kept[0]), "what was cut is kept as it was");
}

#[test]
fn a_line_too_many_is_cut_out_and_nothing_is_missing() {
    let records = records(2);
    let folder = Folder::new();
    let doubled: Vec<u8> = [&records[..3], &records[1..2], &records[3..]].concat().concat();
    folder.write(1, &doubled);
    assert!(folder.replay().err().unwrap().message.contains("record 2 follows record 3"));
    assert_eq!(folder.mended(), []);
    assert_eq!(fs::read(folder.path(1)).unwrap(), records.concat());
    assert_eq!(folder.kept(), [records[1].clone()]);
}

#[test]
fn whole_segments_may_be_missing_or_end_too_early() {
    let records = records(5);
    let parts = [&records[..4], &records[4..8], &records[8..12], &records[12..]];
    for missing in [1, 5, 9] {
        let folder = Folder::with(&parts);
        fs::remove_file(folder.path(missing)).unwrap();
        assert!(folder.replay().is_err(), "without the segment of record {missing}");
        assert_eq!(folder.mended(), [(missing, missing + 3)]);
    }
    let folder = Folder::with(&parts);
    let short = parts[1].concat();
    folder.write(5, &short[..short.len() - 3]);
    assert!(folder.replay().is_err());
    assert_eq!(folder.mended(), [(8, 8)]);
    let folder = Folder::with(&parts);
    for first in [1, 5] {
        folder.write(first, b"");
    }
    assert_eq!(folder.mended(), [(1, 8)], "two empty files are one hole");
}

fn snapshot_of(records: &[Vec<u8>]) -> Point {
    let mut point = Point::default();
    for record in records {
        let (stamp, event) = record::decode(&record[..record.len() - 1]).unwrap();
        point.step(stamp, event);
    }
    point
}

#[test]
fn a_snapshot_makes_up_for_what_is_damaged_or_gone_before_it() {
    let records = records(5);
    let whole = snapshot_of(&records);
    let folder = Folder::with(&[&records[..4], &records[4..8], &records[8..]]);
    snapshot::write(&folder.0, &snapshot_of(&records[..8])).unwrap();
    folder.write(1, b"damaged");
    assert!(folder.replay().unwrap().point == whole, "what a snapshot covers is not read");
    fs::remove_file(folder.path(1)).unwrap();
    assert!(folder.replay().unwrap().point == whole);
    let survey = repair::survey(&folder.0, |_, _| {}).unwrap();
    assert!(survey.is_clean() && survey.first == Some(Seq(5)), "{:?}", survey.damage);
    fs::remove_file(folder.path(5)).unwrap();
    assert!(folder.replay().unwrap().point == whole);
    assert_eq!(folder.mended(), []);
    // The snapshot alone.
    fs::remove_file(folder.path(9)).unwrap();
    let (log, replayed) = open(&folder.0).unwrap();
    assert_eq!((log.last, replayed.point.state.counts.done), (Seq(8), 2));
}

#[test]
fn a_damaged_snapshot_is_passed_over_for_an_older_one() {
    let records = records(5);
    let folder = Folder::with(&[&records[..4], &records[4..8], &records[8..]]);
    for at in [4, 8] {
        snapshot::write(&folder.0, &snapshot_of(&records[..at])).unwrap();
    }
    let newest = snapshot::list(&folder.0).unwrap().remove(0);
    let good = fs::read(&newest).unwrap();
    for bad in [&good[..good.len() / 2], b"", &[&good[..], b"more"].concat()] {
        fs::write(&newest, bad).unwrap();
        let replayed = folder.replay().unwrap();
        assert!(replayed.point == snapshot_of(&records));
        assert_eq!(replayed.passed.len(), 1, "and it is said: {:?}", replayed.passed);
    }
    snapshot::drop_older(&folder.0, 1).unwrap();
    fs::remove_file(folder.path(1)).unwrap();
    assert!(folder.replay().err().unwrap().message.contains("no snapshot says what came before"));
}

#[test]
fn a_log_that_ends_before_its_snapshot_is_refused_and_can_be_mended() {
    let records = records(5);
    let folder = Folder::with(&[&records[..4], &records[4..8]]);
    snapshot::write(&folder.0, &snapshot_of(&records[..8])).unwrap();
    let short = records[4..7].concat();
    for cut in [short.len(), short.len() - 5] {
        folder.write(5, &short[..cut]);
        assert!(folder.replay().err().unwrap().message.contains("a snapshot stands at record 8"));
        let lost = folder.mended();
        assert_eq!(lost.last().unwrap().1, 8);
        assert_eq!(folder.last(), 8);
    }
}

#[test]
fn any_moment_can_be_replayed_with_and_without_a_snapshot() {
    let records = records(5);
    let folder = Folder::with(&[&records[..4], &records[4..8], &records[8..]]);
    let at = |folder: &Path, n: u64| log::replay(folder, Seq(n), Seq(n), 0, Point::step).unwrap().point;
    for with_snapshot in [false, true] {
        for n in 1..=records.len() {
            assert!(at(&folder.0, n as u64) == snapshot_of(&records[..n]), "after {n}, {with_snapshot}");
        }
        snapshot::write(&folder.0, &snapshot_of(&records[..8])).unwrap();
    }
}

#[test]
fn records_that_were_perhaps_not_seen_to_are_read_whatever_snapshots_there_are() {
    let records = records(5);
    let folder = Folder::with(&[&records[..4], &records[4..8], &records[8..]]);
    for at in [4, 8] {
        snapshot::write(&folder.0, &snapshot_of(&records[..at])).unwrap();
    }
    let read = |seen_to: u64| {
        let mut first = None;
        let each = |point: &mut Point, stamp: Stamp, event| {
            first.get_or_insert(stamp.seq.0);
            point.step(stamp, event);
        };
        let (_, replayed) = Log::open(&folder.0, Seq(seen_to), 0, each).unwrap();
        assert!(replayed.point == snapshot_of(&records));
        first.unwrap()
    };
    assert_eq!([u64::MAX, 9, 8, 7, 4, 3].map(read), [9, 9, 9, 5, 5, 1]);
    // As long as they are kept.
    fs::remove_file(folder.path(1)).unwrap();
    assert_eq!([7, 4, 3].map(read), [5, 5, 9]);
}
