//! Snapshots as files beside the segments: `<the record it stands at>.snapshot`.
//! Invariant: a file under such a name was complete when it got it. One that is damaged, or of a later version, is passed
//! over, and said: an older one and more of the log come to the same.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::segment;
use crate::error::reason;
use crate::model::Seq;
use crate::record::Fault;
use crate::record::snapshot::{self, Point, Reading};

const EXTENSION: &str = "snapshot";
/// While it is being written.
const UNFINISHED: &str = "snapshot-unfinished";

/// All there are, the newest first.
pub fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = segment::named(folder, EXTENSION)?;
    found.reverse();
    Ok(found)
}

/// The newest good one that stands at `until` or before, or the beginning of everything; and what was passed over.
pub fn newest(folder: &Path, until: Seq, shift: i64) -> io::Result<(Point, Vec<String>)> {
    let mut passed = Vec::new();
    for path in list(folder)?.into_iter().filter(|path| segment::seq_of_name(path) <= until) {
        match read(&path, shift) {
            Ok(point) => return Ok((point, passed)),
            Err(why) => passed.push(format!("the snapshot {} is not used: {why}", path.display())),
        }
    }
    Ok((Point::default(), passed))
}

/// Reads one, moved to the clock that is `shift` ahead of the wall's.
pub fn read(path: &Path, shift: i64) -> Result<Point, String> {
    let told = |e: io::Error| reason(&e);
    let faulty = |fault: Fault| match fault {
        Fault::Broken(what) => format!("it is damaged: {what}"),
        Fault::Unknown(what) => format!("a later version wrote it: {what}"),
    };
    let mut from = BufReader::with_capacity(256 * 1024, File::open(path).map_err(told)?);
    let (mut reading, mut line) = (Reading::new(shift), Vec::new());
    while from.read_until(b'\n', &mut line).map_err(told)? > 0 {
        reading.line(line.strip_suffix(b"\n").unwrap_or(&line)).map_err(faulty)?;
        line.clear();
    }
    let point = reading.finish().map_err(faulty)?;
    match point.seq == segment::seq_of_name(path) {
        true => Ok(point),
        false => Err(format!("it stands at record {}, and is named otherwise", point.seq)),
    }
}

/// Writes one, and gives it its name when it is on disk.
pub fn write(folder: &Path, point: &Point) -> io::Result<()> {
    let path = folder.join(format!("{:020}.{EXTENSION}", point.seq.0));
    let unfinished = path.with_extension(UNFINISHED);
    let written = write_to(&unfinished, point).and_then(|()| fs::rename(&unfinished, &path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write_to(path: &Path, point: &Point) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path)?;
    snapshot::write(point, |chunk| file.write_all(chunk))?;
    file.sync_all()
}

/// Removes all but the newest `keep`, and what was never finished.
pub fn drop_older(folder: &Path, keep: usize) -> io::Result<()> {
    let unfinished = segment::named(folder, UNFINISHED)?;
    list(folder)?.iter().skip(keep).chain(&unfinished).try_for_each(fs::remove_file)
}
