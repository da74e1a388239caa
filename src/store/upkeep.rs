//! Looking after the store of contents: what is there, what is damaged, what can go.
//!
//! Invariant: what somebody relies on stays. A clearing lists contents first, then searches the logs, so that what is
//! stored later is not in its list. What is in it and is relied upon meanwhile is renewed by whoever does so, by name. So a
//! file is first moved out of its place, and goes only if it is still the one, and of the age, that was listed; else it
//! goes back. No lock is taken: neither side can hold up the other, wherever one is stopped or killed. Readers keep what
//! they have open.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::libc;

use super::references::{References, gather};
use super::{Context, folders};
use crate::error::{Error, Result, reason};
use crate::limits::CONTEXT_DRAFT_GRACE;
use crate::sys;

/// One content, as it was when it was listed.
#[derive(Debug, Clone)]
pub struct Item {
    pub digest: String,
    pub bytes: u64,
    /// When it was last stored or relied upon, in microseconds.
    pub modified: i64,
    version: Version,
}

/// Which file it was: one that was stored anew or renewed has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    inode: u64,
    modified: (i64, i64),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    pub files: u64,
    pub bytes: u64,
}

/// What the store holds, and who refers to it.
pub struct Survey {
    pub items: Vec<Item>,
    /// By hive, places in `items`.
    pub references: References,
    /// What is being written, or was left by writers that died.
    pub drafts: Total,
    pub damaged: Total,
}

/// What a clearing may take.
pub struct Allowed {
    /// Younger content stays.
    pub grace: Duration,
    /// Only as much goes as is needed to come down to so many bytes.
    pub max_bytes: Option<u64>,
}

/// What a clearing takes.
pub struct Clearing {
    pub items: Vec<Item>,
    pub drafts: Vec<PathBuf>,
    pub before: Total,
}

/// Content that is not what its name says, and why.
pub struct Damage {
    pub digest: String,
    pub reason: String,
    /// Where it lies now.
    pub moved: PathBuf,
}

impl Total {
    pub fn of<'a>(items: impl IntoIterator<Item = &'a Item>) -> Total {
        items.into_iter().fold(Total::default(), |t, item| t.and(item.bytes))
    }

    fn and(self, bytes: u64) -> Total {
        Total { files: self.files + 1, bytes: self.bytes + bytes }
    }
}

/// Looks at the whole store, and at all that the hives below `bases` keep.
pub fn survey(context: &Context, bases: &[&Path]) -> Result<Survey> {
    let items = list(context)?;
    let known: HashMap<&str, usize> = items.iter().enumerate().map(|(n, item)| (item.digest.as_str(), n)).collect();
    let references = gather(bases, context.folder(), &known)?;
    let total = |dir: &Path| -> Result<Total> {
        Ok(files(dir)?.iter().fold(Total::default(), |total, (_, m)| total.and(m.len())))
    };
    let (drafts, damaged) = (total(&context.tmp())?, total(&context.damaged())?);
    Ok(Survey { items, references, drafts, damaged })
}

impl Survey {
    pub fn is_referenced(&self, place: usize) -> bool {
        self.references.values().any(|places| places.contains(&place))
    }
}

/// What would go now. The oldest goes first where not all has to.
pub fn plan(context: &Context, bases: &[&Path], allowed: &Allowed, now: i64) -> Result<Clearing> {
    put_back_left(context)?;
    let survey = survey(context, bases)?;
    let before = Total::of(&survey.items);
    let grace = allowed.grace.as_micros() as i64;
    let loose = survey
        .items
        .iter()
        .enumerate()
        .filter(|(place, item)| now.saturating_sub(item.modified) >= grace && !survey.is_referenced(*place));
    let mut items: Vec<Item> = loose.map(|(_, item)| item.clone()).collect();
    items.sort_by_key(|item| item.modified);
    if let Some(max) = allowed.max_bytes {
        let mut left = before.bytes;
        let enough = items.iter().position(|item| {
            let done = left <= max;
            left -= item.bytes;
            done
        });
        items.truncate(enough.unwrap_or(items.len()));
    }
    Ok(Clearing { items, drafts: abandoned(context, allowed.grace, now)?, before })
}

impl Clearing {
    /// Takes it all, but for what was stored anew or relied upon since it was listed. Says what went.
    pub fn carry_out(&self, context: &Context) -> Result<Total> {
        let mut gone = Total::default();
        for item in &self.items {
            if let Some(taken) = take(context, item)? {
                remove(&taken)?;
                gone = gone.and(item.bytes);
            }
        }
        self.drafts.iter().try_for_each(|path| remove(path))?;
        Ok(gone)
    }
}

/// Hashes contents, as many at a time as there are processors, and moves what is damaged to `damaged/`.
/// Says how much was looked at, and what is wrong.
pub fn verify(context: &Context, items: &[Item]) -> Result<(Total, Vec<Damage>)> {
    let next = AtomicUsize::new(0);
    let outcome = Mutex::new((Total::default(), Vec::new(), None));
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            let looked = check(context, &item.digest);
            let mut outcome = outcome.lock().unwrap_or_else(|e| e.into_inner());
            match looked {
                Ok(None) => {}
                Ok(Some(damage)) => {
                    outcome.0 = outcome.0.and(item.bytes);
                    outcome.1.extend(damage);
                }
                Err(e) => {
                    outcome.2 = Some(e);
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
        // One that cannot be started leaves its share to the others.
        for _ in 1..workers {
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let (total, mut damaged, error) = outcome.into_inner().unwrap_or_else(|e| e.into_inner());
    damaged.sort_by(|a: &Damage, b| a.digest.cmp(&b.digest));
    error.map_or(Ok((total, damaged)), Err)
}

/// Looks at one content. `None`: it has gone meanwhile.
fn check(context: &Context, digest: &str) -> Result<Option<Option<Damage>>> {
    loop {
        let Ok(item) = look_up(context, digest) else { return Ok(None) };
        let reason = match context.verified(digest) {
            Ok(_) => return Ok(Some(None)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => e.to_string(),
            Err(e) if e.raw_os_error() == Some(libc::EIO) => format!("it cannot be read: {}", reason(&e)),
            Err(e) => return Err(Error::os(format!("cannot read {}", context.path(digest).display()), e)),
        };
        // Where it is not the one that was hashed any more, the one that is there now is looked at.
        if let Some(taken) = take(context, &item)? {
            folders::private(&context.damaged())?;
            let moved = context.damaged().join(digest);
            fs::rename(&taken, &moved)
                .map_err(|e| Error::os(format!("cannot move {} to {}", taken.display(), moved.display()), e))?;
            return Ok(Some(Some(Damage { digest: digest.to_owned(), reason, moved })));
        }
    }
}

/// Every content, by digest.
pub fn list(context: &Context) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for first in 0..=255u8 {
        let start = format!("{first:02x}");
        for (name, m) in files(&context.folder().join(&start))? {
            let digest = format!("{start}{name}");
            if crate::wire::is_digest(&digest) {
                items.push(item(digest, &m));
            }
        }
    }
    items.sort_by(|a, b| a.digest.cmp(&b.digest));
    Ok(items)
}

/// One content.
pub fn look_up(context: &Context, digest: &str) -> io::Result<Item> {
    fs::symlink_metadata(context.path(digest)).map(|m| item(digest.to_owned(), &m))
}

fn item(digest: String, m: &fs::Metadata) -> Item {
    let version = Version::of(m);
    let modified = version.modified.0 * 1_000_000 + version.modified.1 / 1000;
    Item { digest, bytes: m.len(), modified, version }
}

impl Version {
    fn of(m: &fs::Metadata) -> Version {
        Version { inode: m.ino(), modified: (m.mtime(), m.mtime_nsec()) }
    }
}

const TAKEN: &str = "taken-";

/// Moves a file out of its place, if it is still the one that was listed: where it lies then.
fn take(context: &Context, item: &Item) -> Result<Option<PathBuf>> {
    let from = context.path(&item.digest);
    let to = context.tmp().join(format!("{TAKEN}{}-{}", item.digest, std::process::id()));
    let failed = |e: io::Error| Error::os(format!("cannot take {} out of the store", from.display()), e);
    match fs::rename(&from, &to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    }
    let unchanged = fs::symlink_metadata(&to).is_ok_and(|m| Version::of(&m) == item.version);
    if unchanged {
        return Ok(Some(to));
    }
    put_back(&to, &from).map_err(failed)?;
    Ok(None)
}

/// Gives a taken file its place again, unless the same content has been stored there meanwhile.
fn put_back(taken: &Path, place: &Path) -> io::Result<()> {
    match fs::hard_link(taken, place) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    fs::remove_file(taken).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// What a clearing that was killed had taken.
fn put_back_left(context: &Context) -> Result<()> {
    for (name, _) in files(&context.tmp())? {
        let digest = name.strip_prefix(TAKEN).and_then(|rest| rest.get(..64));
        if let Some(digest) = digest.filter(|digest| crate::wire::is_digest(digest)) {
            let place = context.path(digest);
            put_back(&context.tmp().join(&name), &place)
                .map_err(|e| Error::os(format!("cannot put back {}", place.display()), e))?;
        }
    }
    Ok(())
}

/// Files of writers that have gone: nobody has them open for writing, and nobody wrote for a while.
fn abandoned(context: &Context, grace: Duration, now: i64) -> Result<Vec<PathBuf>> {
    let grace = grace.max(CONTEXT_DRAFT_GRACE).as_micros() as i64;
    let mut left = Vec::new();
    for (name, m) in files(&context.tmp())? {
        // Whoever took it gives it back or removes it.
        let taken = name.starts_with(TAKEN);
        let path = context.tmp().join(name);
        let age = now.saturating_sub(m.mtime() * 1_000_000);
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = || OpenOptions::new().read(true).custom_flags(flags).open(&path);
        if age >= grace && !taken && opened().is_ok_and(|file| !sys::is_written_to(&file)) {
            left.push(path);
        }
    }
    Ok(left)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::os(format!("cannot remove {}", path.display()), e)),
        _ => Ok(()),
    }
}

/// The regular files in a folder; none, where there is no such folder.
fn files(folder: &Path) -> Result<Vec<(String, fs::Metadata)>> {
    let failed = |e: io::Error| Error::os(format!("cannot list {}", folder.display()), e);
    let list = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in list {
        let entry = entry.map_err(failed)?;
        // One that has gone since, or has a name that is none of the store's, is not in it.
        if let (Ok(name), Ok(m)) = (entry.file_name().into_string(), entry.metadata())
            && m.is_file()
        {
            found.push((name, m));
        }
    }
    Ok(found)
}
