//! The event log: segments of JSON lines, appended to by one writer, read by anyone.
//! Invariant: a turn is one write; a record that was appended is never changed. A torn tail is cut, and said;
//! damage before the end is refused with its place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::libc;

use crate::error::{Code, Error, Result};
use crate::limits::{LINE_MAX, LOG_PIECE, SEGMENT_BYTES};
use crate::model::{Event, Seq, Term};
use crate::record::{self, Fault, Stamp};
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
}

/// What opening found besides the records.
pub struct Opened {
    pub log: Log,
    /// Bytes of a torn record that were cut off.
    pub cut: Option<Torn>,
}

pub struct Torn {
    pub file: PathBuf,
    pub offset: u64,
    pub bytes: usize,
}

impl Log {
    /// Opens for appending, after handing every record to `each`.
    pub fn open(folder: &Path, mut each: impl FnMut(Stamp, Event)) -> Result<Opened> {
        let segments = segments(folder).map_err(|e| Error::os(format!("cannot list {}", folder.display()), e))?;
        let (mut last, mut term, mut cut) = (Seq(0), Term(0), None);
        for (n, path) in segments.iter().enumerate() {
            let bytes = fs::read(path).map_err(|e| Error::os(format!("cannot read {}", path.display()), e))?;
            let good = scan(path, &bytes, last, |stamp, event| {
                (last, term) = (stamp.seq, stamp.term);
                each(stamp, event);
            })?;
            if good < bytes.len() {
                if n + 1 < segments.len() {
                    return Err(damaged(path, good as u64, "it ends within a record, and another segment follows"));
                }
                cut_at(path, good as u64)?;
                cut = Some(Torn { file: path.clone(), offset: good as u64, bytes: bytes.len() - good });
            }
        }
        let path = segments.last().cloned().unwrap_or_else(|| folder.join(segment_name(Seq(1))));
        let file = open_append(&path).map_err(|e| Error::os(format!("cannot open {}", path.display()), e))?;
        let len = file.metadata().map_err(|e| Error::os(format!("cannot look at {}", path.display()), e))?.len();
        sync_folder(folder);
        let (file, full_at) = (Arc::new(file), SEGMENT_BYTES);
        let log = Log { folder: folder.to_owned(), file, len, reserved: len, full_at, last, term };
        Ok(Opened { log, cut })
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
        let path = self.folder.join(segment_name(Seq(self.last.0 + 1)));
        let file = open_append(&path)?;
        let Ok(reserved) = reserve(&file, 0, self.room()) else {
            self.full_at = self.len + LOG_PIECE;
            return fs::remove_file(path);
        };
        self.give_back();
        (self.file, self.len, self.reserved, self.full_at) = (Arc::new(file), 0, reserved, SEGMENT_BYTES);
        sync_folder(&self.folder);
        Ok(())
    }
}

/// Whether the log ends with the end of its hive.
pub fn is_stopped(folder: &Path) -> io::Result<bool> {
    let Some(last) = segments(folder)?.pop() else { return Ok(false) };
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

fn segment_name(first: Seq) -> String {
    format!("{:020}.jsonl", first.0)
}

/// The segments in order.
pub fn segments(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    found.sort();
    Ok(found)
}

/// The sequence number that a segment begins with, by its name.
pub fn first_seq(segment: &Path) -> Seq {
    Seq(segment.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok()).unwrap_or(0))
}

/// Hands on every record of one segment. Returns the length of the good part; what follows it is a torn tail.
pub fn scan(path: &Path, bytes: &[u8], mut last: Seq, mut each: impl FnMut(Stamp, Event)) -> Result<usize> {
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes[at..].iter().position(|b| *b == b'\n').map(|n| at + n);
        let fault = match end.map(|end| record::decode(&bytes[at..end])) {
            Some(Ok((stamp, event))) if stamp.seq.0 == last.0 + 1 => {
                last = stamp.seq;
                each(stamp, event);
                at = end.unwrap_or(bytes.len()) + 1;
                continue;
            }
            Some(Ok((stamp, _))) => format!("record {} follows record {last}", stamp.seq),
            Some(Err(Fault::Unknown(kind))) => {
                let remedy = "it was written by a later version of hive: use that one";
                return Err(damaged(
                    path,
                    at as u64,
                    &format!("a record of kind \"{kind}\", unknown to this version: {remedy}"),
                ));
            }
            Some(Err(Fault::Broken(what))) => what,
            None => "the record has no end".to_owned(),
        };
        // Nothing whole may follow a torn record: if something does, this is not a tail but damage.
        let rest = &bytes[end.map_or(bytes.len(), |end| end + 1)..];
        if rest.split(|b| *b == b'\n').any(|line| record::decode(line).is_ok()) {
            return Err(damaged(path, at as u64, &fault));
        }
        return Ok(at);
    }
    Ok(at)
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

fn damaged(path: &Path, offset: u64, what: &str) -> Error {
    let message = format!(
        "the log is damaged: {} at byte {offset}: {what}; whole records follow, so it was not cut by a crash: restore the file",
        path.display()
    );
    Error::new(Code::Internal, message)
}

/// Cuts a torn tail, and keeps what was cut beside the log.
fn cut_at(path: &Path, offset: u64) -> Result<()> {
    let what = || format!("cannot cut the torn end of {}", path.display());
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| Error::os(what(), e))?;
    let len = file.metadata().map_err(|e| Error::os(what(), e))?.len();
    let mut tail = vec![0; (len - offset) as usize];
    file.read_exact_at(&mut tail, offset).map_err(|e| Error::os(what(), e))?;
    fs::write(path.with_extension(format!("torn-at-{offset}")), &tail).map_err(|e| Error::os(what(), e))?;
    file.set_len(offset).and_then(|()| file.sync_all()).map_err(|e| Error::os(what(), e))
}
