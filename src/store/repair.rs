//! Looks at every record of a log, and mends what is damaged: an explicit act of a person.
//! Invariant: nothing is thrown away. What is cut out lies beside the log, and a `repaired` record stands where records
//! are missing, so that numbers go on without a gap and everybody can see it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::log::Torn;
use super::segment::{self, Place, Step, Walk};
use super::snapshot;
use crate::error::{Error, Result};
use crate::model::{Event, Seq, Term};
use crate::record::{self, Moment, Stamp};

/// What every record of a log was found to be.
#[derive(Default)]
pub struct Survey {
    pub segments: u64,
    pub bytes: u64,
    pub records: u64,
    pub first: Option<Seq>,
    pub last: Option<Seq>,
    /// The first and the last.
    pub terms: Option<(Term, Term)>,
    /// Holes that were mended before.
    pub repaired: Vec<(Seq, Seq)>,
    pub damage: Vec<Damage>,
    /// The last record was not written to its end.
    pub torn: Option<Torn>,
    /// Each with the record that it stands at, or what is wrong with it.
    pub snapshots: Vec<(PathBuf, std::result::Result<Seq, String>)>,
    /// The record that the first segment is named by.
    named: Seq,
    /// The last segment, and its length.
    end: Option<(PathBuf, u64)>,
}

/// Bytes that are no records, or a place where records are missing.
#[derive(Debug, Clone)]
pub struct Damage {
    pub file: PathBuf,
    pub from: u64,
    pub to: u64,
    pub what: String,
    /// The records that are missing here, from the first to the last.
    pub lost: Option<(Seq, Seq)>,
    term: Term,
    /// Where what was cut out lies now.
    pub kept: Option<PathBuf>,
}

/// Looks at the whole log. A record of a later version is an error: nothing can be said of such a log.
pub fn survey(folder: &Path, mut each: impl FnMut(Stamp, &Event)) -> Result<Survey> {
    let os = |e: io::Error| Error::os(format!("cannot read the log at {}", folder.display()), e);
    let mut found = Survey::default();
    for path in snapshot::list(folder).map_err(os)? {
        let at = snapshot::read(&path, 0).map(|point| point.seq);
        found.snapshots.push((path, at));
    }
    let mut place = Place::default();
    for path in segment::list(folder).map_err(os)? {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // The oldest may go while we look.
            Err(e) if e.kind() == io::ErrorKind::NotFound && found.records == 0 => continue,
            Err(e) => return Err(Error::os(format!("cannot read {}", path.display()), e)),
        };
        if found.segments == 0 {
            found.named = segment::seq_of_name(&path);
        }
        found.segments += 1;
        found.bytes += bytes.len() as u64;
        found.end = Some((path.clone(), bytes.len() as u64));
        place = found.segment(&path, &bytes, place, &mut each)?;
    }
    found.end(place);
    Ok(found)
}

impl Survey {
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty()
    }

    /// The newest snapshot that can be used.
    pub fn newest_snapshot(&self) -> Option<Seq> {
        self.snapshots.iter().find_map(|(_, at)| at.as_ref().ok()).copied()
    }

    fn segment(
        &mut self,
        path: &Path,
        bytes: &[u8],
        place: Place,
        each: &mut impl FnMut(Stamp, &Event),
    ) -> Result<Place> {
        let mut walk = Walk::new(bytes, place);
        let mut before = place;
        while let Some(step) = walk.next() {
            match step {
                Step::Record { at, stamp, event } => {
                    self.record(path, at, stamp, &event, before);
                    each(stamp, &event);
                }
                Step::Fault { from, to, what } => self.damage.push(Damage {
                    file: path.to_owned(),
                    from: from as u64,
                    to: to as u64,
                    what,
                    lost: None,
                    term: before.term,
                    kept: None,
                }),
                Step::Unknown { at, kind } => return Err(super::log::unknown(path, at as u64, &kind)),
            }
            before = walk.place;
        }
        Ok(walk.place)
    }

    fn record(&mut self, path: &Path, at: usize, stamp: Stamp, event: &Event, before: Place) {
        let first = if let Event::Repaired { from, to } = event {
            self.repaired.push((*from, *to));
            *from
        } else {
            stamp.seq
        };
        let due = before.last.map_or_else(|| self.beginning(), |last| Seq(last.0 + 1));
        // Everything between the last good record and this one is lost; the last damage is where that is said.
        if first > due {
            if self.damage.is_empty() {
                let what = format!("it begins with record {first}, and no snapshot says what came before");
                self.damage.push(Damage::hole(path, at as u64, what, stamp.term));
            }
            self.lose(due, Seq(first.0 - 1));
        }
        self.records += 1;
        self.first.get_or_insert(first);
        self.last = Some(stamp.seq);
        let (first_term, _) = self.terms.unwrap_or((stamp.term, stamp.term));
        self.terms = Some((first_term, stamp.term));
    }

    /// The record that the log has to begin with: old ones may have gone where a snapshot holds what they came to.
    fn beginning(&self) -> Seq {
        let held = self.newest_snapshot().is_some_and(|at| at.0 + 1 >= self.named.0);
        if held { self.named } else { Seq(1) }
    }

    fn lose(&mut self, from: Seq, to: Seq) {
        if let Some(damage) = self.damage.last_mut() {
            damage.lost = Some((from, to));
        }
    }

    /// Damage at the very end is a torn tail, unless a snapshot knows of records that are not there.
    fn end(&mut self, place: Place) {
        let Some((path, len)) = self.end.clone() else { return };
        let last = place.last.unwrap_or_default();
        let tail = self.damage.pop_if(|d| d.file == path && d.to == len && d.lost.is_none());
        match (tail, self.newest_snapshot().filter(|at| *at > last)) {
            (tail, Some(at)) => {
                let what = format!("the log ends with record {last}, and a snapshot stands at record {at}");
                let tail = tail.unwrap_or_else(|| Damage::hole(&path, len, what, place.term));
                self.damage.push(Damage { lost: Some((Seq(last.0 + 1), at)), ..tail });
            }
            (Some(tail), None) => {
                self.torn = Some(Torn { file: path, offset: tail.from, bytes: tail.to - tail.from });
            }
            (None, None) => {}
        }
    }
}

impl Damage {
    fn hole(file: &Path, at: u64, what: String, term: Term) -> Damage {
        Damage { file: file.to_owned(), from: at, to: at, what, lost: None, term, kept: None }
    }
}

/// Cuts the damage out, and marks what is missing. The log must have no writer.
pub fn mend(damage: &mut [Damage], wall: i64) -> Result<()> {
    for in_one_file in damage.chunk_by_mut(|a, b| a.file == b.file) {
        let path = in_one_file[0].file.clone();
        mend_segment(&path, in_one_file, wall).map_err(|e| Error::os(format!("cannot mend {}", path.display()), e))?;
    }
    Ok(())
}

fn mend_segment(path: &Path, damage: &mut [Damage], wall: i64) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let (mut mended, mut from) = (Vec::with_capacity(bytes.len()), 0);
    for one in damage {
        mended.extend_from_slice(&bytes[from..one.from as usize]);
        if let Some((first, last)) = one.lost {
            let mut moment = Moment::default();
            moment.set(wall, one.term);
            record::encode(&mut mended, last, &moment, &Event::Repaired { from: first, to: last });
        }
        let cut = &bytes[one.from as usize..one.to as usize];
        if !cut.is_empty() {
            one.kept = Some(keep(path, one.from, cut)?);
        }
        from = one.to as usize;
    }
    mended.extend_from_slice(&bytes[from..]);
    let unfinished = path.with_extension("mended-unfinished");
    let _ = fs::remove_file(&unfinished);
    write_new(&unfinished, &mended)?;
    fs::rename(&unfinished, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// What was cut out, under a name that says from where.
fn keep(path: &Path, offset: u64, cut: &[u8]) -> io::Result<PathBuf> {
    for n in 1.. {
        let again = if n > 1 { format!("-{n}") } else { String::new() };
        let kept = path.with_extension(format!("cut-at-{offset}{again}"));
        match write_new(&kept, cut) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| kept),
        }
    }
    unreachable!("some number is free")
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
