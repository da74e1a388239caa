//! Snapshots of whatever the simulation lives through.

use super::*;
use crate::model::Event;

fn text(point: &Point) -> Vec<u8> {
    let mut text = Vec::new();
    write(point, |chunk| {
        text.extend_from_slice(chunk);
        Ok::<(), ()>(())
    })
    .unwrap();
    text
}

fn read(text: &[u8], shift: i64) -> Result<Point, crate::record::Fault> {
    let mut reading = Reading::new(shift);
    for line in text.split_inclusive(|b| *b == b'\n') {
        reading.line(line.strip_suffix(b"\n").unwrap_or(line))?;
    }
    reading.finish()
}

fn fold(point: &mut Point, events: &[(Now, Event)], shift: i64) {
    for (at, event) in events {
        let stamp = Stamp { seq: Seq(point.seq.0 + 1), wall: at.wall, term: Term(1) };
        drop(point.apply(stamp, event.clone(), shift));
    }
}

/// For a log of the simulation: a snapshot at `at` is read back as it was, and the rest of the log on top of it comes to
/// what the whole log comes to, on whatever clock.
pub fn holds_at(at: usize, log: &[(Now, Event)]) {
    let (mut start, mut whole) = (Point::default(), Point::default());
    fold(&mut start, &log[..at], 0);
    let text = text(&start);
    assert!(read(&text, 0).unwrap() == start, "a snapshot after {at} events is read back as it was");
    let mut from_snapshot = read(&text, 77_000).unwrap();
    fold(&mut from_snapshot, &log[at..], 77_000);
    fold(&mut whole, log, 77_000);
    assert!(from_snapshot == whole, "a snapshot after {at} events and the rest come to the same as all");
}

#[test]
fn a_snapshot_that_was_cut_or_changed_is_no_snapshot() {
    let mut point = Point::default();
    let submitted =
        Event::Submitted { task: crate::model::TaskId(1), text: "x".into(), options: None, to: None, waits: false };
    fold(&mut point, &[(Now::default(), submitted)], 0);
    let good = text(&point);
    let lines: Vec<&[u8]> = good.split_inclusive(|b| *b == b'\n').collect();
    assert_eq!(lines.len(), 4);
    for missing in 0..lines.len() {
        let cut: Vec<u8> =
            lines.iter().enumerate().filter(|(n, _)| *n != missing).flat_map(|(_, l)| l.to_vec()).collect();
        assert!(read(&cut, 0).is_err(), "without line {missing}");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(read(&bad, 0).is_err(), "byte {at}");
    }
    assert!(read(&[&good[..], lines[2]].concat(), 0).is_err(), "something follows the end");
}

#[test]
fn a_snapshot_of_a_later_format_is_told_apart() {
    let mut text = br#"{"kind":"snapshot","format":99"#.to_vec();
    crate::record::seal(&mut text, 0);
    assert_eq!(read(&text, 0).err(), Some(crate::record::Fault::Unknown("format 99".into())));
}
