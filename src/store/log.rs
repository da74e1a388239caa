//! The event log: segments of JSON lines, appended to by one writer, read by anyone; and what they come to.
//! Invariant: a turn is one write; a record that was appended is never changed. A torn tail is cut, and said;
//! damage before the end is refused with its place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::libc;

use super::keeper::Keeper;
use super::segment::{self, Place, Step, Walk};
use super::snapshot;
use crate::error::{Code, Error, Result};
use crate::limits::{LINE_MAX, LOG_PIECE, SEGMENT_BYTES};
use crate::model::{Event, Seq, Term};
use crate::record::snapshot::Point;
use crate::record::{self, Stamp};
use crate::sys;

pub struct Log {
    folder: PathBuf,
    file: Arc<File>,
    len: u64,
    /// Up to here the file has room on the disk.
    reserved: u64,
    /// When the next segment is begun.
    full_at: u64,
    pub last: Seq,
    pub term: Term,
    keeper: Option<Keeper>,
}

/// What the log comes to.
pub struct Replayed {
    pub point: Point,
    /// Bytes at the end that are no whole record.
    pub torn: Option<Torn>,
    /// Snapshots that could not be used, and why.
    pub passed: Vec<String>,
    end: End,
}

/// How far the log was read.
#[derive(Default)]
struct End {
    segment: Option<PathBuf>,
    /// Where the next record of it begins.
    at: u64,
    place: Place,
}

impl Replayed {
    /// Reads what was appended since.
    pub fn read_on(&mut self, folder: &Path, mut each: impl FnMut(&mut Point, Stamp, Event)) -> Result<()> {
        loop {
            let path = match &self.end.segment {
                Some(path) => path.clone(),
                None => folder.join(segment::name(Seq(self.point.seq.0 + 1))),
            };
            let bytes = match read_from(&path, self.end.at) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.end.segment.is_none() => return Ok(()),
                other => other.map_err(|e| Error::os(format!("cannot read {}", path.display()), e))?,
            };
            let read = self.take(&path, self.end.at, &bytes, true, Seq(u64::MAX), &mut each)?;
            debug_assert!(read, "nothing is left out");
            let next = folder.join(segment::name(Seq(self.point.seq.0 + 1)));
            if self.torn.is_some() || next == path || !next.exists() {
                return Ok(());
            }
            self.end = End { segment: Some(next), at: 0, place: self.end.place };
        }
    }

    /// Takes the records of one segment, from byte `from` on. `false`: not all, as `until` came first.
    fn take(
        &mut self,
        path: &Path,
        from: u64,
        bytes: &[u8],
        is_last: bool,
        until: Seq,
        each: &mut impl FnMut(&mut Point, Stamp, Event),
    ) -> Result<bool> {
        let mut walk = Walk::new(bytes, self.end.place);
        let mut end = bytes.len();
        self.torn = None;
        for step in walk.by_ref() {
            match step {
                // What the snapshot holds already.
                Step::Record { stamp, .. } if stamp.seq <= self.point.seq => {}
                Step::Record { stamp, .. } if stamp.seq > until => return Ok(false),
                Step::Record { at, stamp, event } => {
                    let first = if let Event::Repaired { from, .. } = event { from } else { stamp.seq };
                    if first.0 > self.point.seq.0 + 1 {
                        return Err(damaged(path, from + at as u64, &missing(self.point.seq, first)));
                    }
                    each(&mut self.point, stamp, event);
                }
                Step::Fault { from: at, to, .. } if to == bytes.len() && is_last => {
                    let bytes = (to - at) as u64;
                    self.torn = Some(Torn { file: path.to_owned(), offset: from + at as u64, bytes });
                    end = at;
                    break;
                }
                Step::Fault { from: at, what, .. } => return Err(damaged(path, from + at as u64, &what)),
                Step::Unknown { at, kind } => return Err(unknown(path, from + at as u64, &kind)),
            }
        }
        self.end = End { segment: Some(path.to_owned()), at: from + end as u64, place: walk.place };
        Ok(true)
    }
}

fn read_from(path: &Path, at: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(io::SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub struct Torn {
    pub file: PathBuf,
    pub offset: u64,
    pub bytes: u64,
}

/// From the newest good snapshot on, up to record `until` or the end. `each` applies every record that the snapshot does
/// not hold, or it has not happened.
pub fn replay(
    folder: &Path,
    snapshot_until: Seq,
    until: Seq,
    shift: i64,
    mut each: impl FnMut(&mut Point, Stamp, Event),
) -> Result<Replayed> {
    let os = |e: io::Error| Error::os(format!("cannot read the log at {}", folder.display()), e);
    let segments = segment::list(folder).map_err(os)?;
    let (point, passed) = snapshot::newest(folder, snapshot_until, shift).map_err(os)?;
    let next = Seq(point.seq.0 + 1);
    let mut replayed = Replayed { point, torn: None, passed, end: End::default() };
    let begin = segments.partition_point(|path| segment::seq_of_name(path) <= next).saturating_sub(1);
    for (n, path) in segments.iter().enumerate().skip(begin) {
        let bytes = fs::read(path).map_err(|e| Error::os(format!("cannot read {}", path.display()), e))?;
        if !replayed.take(path, 0, &bytes, n + 1 == segments.len(), until, &mut each)? {
            return Ok(replayed);
        }
    }
    let point = &replayed.point;
    if let (Some(path), Some(last)) = (segments.last(), replayed.end.place.last)
        && last < point.seq
        && until > last
    {
        let what = format!("it ends with record {last}, and a snapshot stands at record {}", point.seq);
        return Err(damaged(path, fs::metadata(path).map_or(0, |m| m.len()), &what));
    }
    Ok(replayed)
}

impl Log {
    /// Opens for appending, and says what the log comes to. A torn tail is cut off. Records after `seen_to` are read one
    /// by one as long as they are kept, whatever snapshots there are.
    pub fn open(
        folder: &Path,
        seen_to: Seq,
        shift: i64,
        each: impl FnMut(&mut Point, Stamp, Event),
    ) -> Result<(Log, Replayed)> {
        let os = |e: io::Error| Error::os(format!("cannot read the log at {}", folder.display()), e);
        let from_the_first = segment::list(folder).map_err(os)?.first().is_none_or(|s| segment::seq_of_name(s).0 <= 1);
        let snapshots = snapshot::list(folder).map_err(os)?;
        let reachable = from_the_first || snapshots.iter().any(|path| segment::seq_of_name(path) <= seen_to);
        let end = Seq(u64::MAX);
        let replayed = replay(folder, if reachable { seen_to } else { end }, end, shift, each)?;
        Ok((Log::after(folder, &replayed)?, replayed))
    }

    /// Opens for appending to what was read to its end. A torn tail is cut off.
    pub fn after(folder: &Path, replayed: &Replayed) -> Result<Log> {
        if let Some(torn) = &replayed.torn {
            cut_at(&torn.file, torn.offset)?;
        }
        let point = &replayed.point;
        let fresh = || folder.join(segment::name(Seq(point.seq.0 + 1)));
        let path = replayed.end.segment.clone().unwrap_or_else(fresh);
        let file = open_append(&path).map_err(|e| Error::os(format!("cannot open {}", path.display()), e))?;
        let len = file.metadata().map_err(|e| Error::os(format!("cannot look at {}", path.display()), e))?.len();
        if len == 0 {
            sync_folder(folder);
        }
        let (last, term) = (point.seq, point.term);
        let (file, full_at) = (Arc::new(file), SEGMENT_BYTES);
        Ok(Log { folder: folder.to_owned(), file, len, reserved: len, full_at, last, term, keeper: None })
    }

    /// From now on closed segments are folded into snapshots, and old ones go: see [`Keeper`].
    pub fn keep(&mut self, task_logs: &Path, bytes: u64) -> io::Result<()> {
        self.keeper = Some(Keeper::start(&self.folder, task_logs, bytes)?);
        Ok(())
    }

    /// Appends whole records, up to `last`. On an error nothing of them stays.
    pub fn append(&mut self, records: &[u8], last: Seq) -> io::Result<()> {
        if self.len >= self.full_at {
            self.next_segment()?;
        }
        if let Err(e) = (&*self.file).write_all(records) {
            let _ = self.file.set_len(self.len);
            return Err(e);
        }
        self.len += records.len() as u64;
        self.last = last;
        Ok(())
    }

    /// The file that was written last: what is to be synced.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Room for that many bytes more, without making the file longer. `false`: the disk is full.
    pub fn reserve(&mut self, bytes: u64) -> bool {
        match reserve(&self.file, self.reserved, self.len + bytes) {
            Ok(reserved) => self.reserved = reserved,
            Err(_) => return false,
        }
        true
    }

    /// How many bytes can be appended for certain.
    pub fn room(&self) -> u64 {
        self.reserved.saturating_sub(self.len)
    }

    /// Nothing more is appended.
    pub fn give_back(&self) {
        let _ = self.file.set_len(self.len);
    }

    /// Begins the next segment, with as much room as this one has left. Where there is none, this one grows on.
    fn next_segment(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let path = self.folder.join(segment::name(Seq(self.last.0 + 1)));
        let file = open_append(&path)?;
        let Ok(reserved) = reserve(&file, 0, self.room()) else {
            self.full_at = self.len + LOG_PIECE;
            return fs::remove_file(path);
        };
        self.give_back();
        (self.file, self.len, self.reserved, self.full_at) = (Arc::new(file), 0, reserved, SEGMENT_BYTES);
        sync_folder(&self.folder);
        if let Some(keeper) = &self.keeper {
            keeper.segment_closed();
        }
        Ok(())
    }
}

/// Whether the log ends with the end of its hive.
pub fn is_stopped(folder: &Path) -> io::Result<bool> {
    let Some(last) = segment::list(folder)?.pop() else { return Ok(false) };
    let file = File::open(last)?;
    let from = file.metadata()?.len().saturating_sub(LINE_MAX as u64);
    let mut end = vec![0; LINE_MAX];
    let len = file.read_at(&mut end, from)?;
    let lines = end[..len].strip_suffix(b"\n").unwrap_or(&end[..len]);
    let last = lines.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    Ok(matches!(record::decode(last), Ok((_, Event::Stopped))))
}

/// Has the disk set room aside from `have` to `want`; returns how far there is some. A file system that cannot do this is
/// taken at its word: its writes will say when it is full.
fn reserve(file: &File, have: u64, want: u64) -> io::Result<u64> {
    if want <= have {
        return Ok(have);
    }
    match sys::reserve(file, have, want - have) {
        Ok(()) => Ok(want),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => Ok(u64::MAX),
        Err(e) => Err(e),
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).read(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// A new name in a folder is only safe once the folder is.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Hands on the records of those lines that contain `needle`: a search, not a check.
pub fn scan_lines_with(bytes: &[u8], needle: &[u8], each: &mut impl FnMut(Stamp, Event)) {
    let finder = memchr::memmem::Finder::new(needle);
    for line in bytes.split(|b| *b == b'\n').filter(|line| finder.find(line).is_some()) {
        if let Ok((stamp, event)) = record::decode(line) {
            each(stamp, event);
        }
    }
}

fn missing(last: Seq, first: Seq) -> String {
    match last {
        Seq(0) => format!("it begins with record {first}, and no snapshot says what came before"),
        last => format!("record {first} follows record {last}"),
    }
}

fn damaged(path: &Path, offset: u64, what: &str) -> Error {
    let remedy = "restore the file, or let `hivectl events repair` cut the damage out";
    let message = format!(
        "the log is damaged: {} at byte {offset}: {what}; it goes on elsewhere, so this was no crash: {remedy}",
        path.display()
    );
    Error::new(Code::Internal, message)
}

pub fn unknown(path: &Path, offset: u64, kind: &str) -> Error {
    let message = format!(
        "{} at byte {offset}: a record of kind \"{kind}\", unknown to this version: a later version of hive wrote it: use that one",
        path.display()
    );
    Error::new(Code::Internal, message)
}

/// Cuts a torn tail, and keeps what was cut beside the log.
pub fn cut_at(path: &Path, offset: u64) -> Result<()> {
    let what = || format!("cannot cut the torn end of {}", path.display());
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| Error::os(what(), e))?;
    let len = file.metadata().map_err(|e| Error::os(what(), e))?.len();
    let mut tail = vec![0; (len - offset) as usize];
    file.read_exact_at(&mut tail, offset).map_err(|e| Error::os(what(), e))?;
    fs::write(path.with_extension(format!("torn-at-{offset}")), &tail).map_err(|e| Error::os(what(), e))?;
    file.set_len(offset).and_then(|()| file.sync_all()).map_err(|e| Error::os(what(), e))
}
