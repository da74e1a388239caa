//! Content by SHA-256: stored once, named by its digest, the same one as sha256sum prints.
//! Invariant: a file under its digest's name is complete; it comes there by rename from `tmp/`. Its modification time says
//! when it was last stored or relied upon: what is found there is renewed before it is relied upon, so that no
//! [clearing](super::upkeep) that looked before takes it away.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::AT_FDCWD;
use nix::libc;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use sha2::{Digest, Sha256};

use super::folders::private;
use crate::error::{Code, Error};
use crate::limits::{CONTEXT_AT_ONCE, CONTEXT_CHUNK};

/// The store of contents in one folder, shared by all hives of a user. Making one costs nothing: the folder is made by
/// the first that stores something.
#[derive(Debug, Clone)]
pub struct Context {
    folder: PathBuf,
    durable: bool,
}

/// What was stored, or found to be there.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    pub digest: String,
    pub bytes: u64,
    /// Whether it was not there before.
    pub new: bool,
}

/// Content that is what its name says.
pub enum Verified {
    /// Small content, as it was hashed.
    Bytes(Vec<u8>),
    /// Larger content, from its beginning.
    File(File),
}

impl Context {
    pub fn at(folder: &Path) -> Context {
        Context { folder: folder.to_owned(), durable: false }
    }

    /// The same store, but what it says to be stored is on disk, and so is its name.
    pub fn durable(self) -> Context {
        Context { durable: true, ..self }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where what turned out to be damaged lies, under its digest.
    pub(super) fn damaged(&self) -> PathBuf {
        self.folder.join("damaged")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    /// The file that holds (or would hold) this content.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(&digest[..2]).join(&digest[2..])
    }

    /// The file as it is: nothing looks whether its bytes are still those that were stored.
    pub fn open(&self, digest: &str) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(self.path(digest))
    }

    /// The content, if it is what its name says: an error of kind `InvalidData` where it is not.
    pub fn verified(&self, digest: &str) -> io::Result<Verified> {
        let mut file = self.open(digest)?;
        let mut bytes = vec![0; CONTEXT_AT_ONCE];
        let n = read_full(&mut file, &mut bytes)?;
        bytes.truncate(n);
        let whole = n < CONTEXT_AT_ONCE;
        let mut hash = Sha256::new_with_prefix(&bytes);
        if !whole {
            bytes.resize(CONTEXT_CHUNK, 0);
            while let n @ 1.. = read_some(&mut file, &mut bytes)? {
                hash.update(&bytes[..n]);
            }
            file.rewind()?;
        }
        let found = hex(&hash.finalize());
        if found != digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("its SHA-256 is now {found}")));
        }
        Ok(if whole { Verified::Bytes(bytes) } else { Verified::File(file) })
    }

    /// The digest that `name` stands for: a whole one, or the beginning of one that is stored; `REF:` may stand before.
    pub fn resolve(&self, name: &str) -> Result<String, Error> {
        let digits = name.strip_prefix("REF:").unwrap_or(name).to_ascii_lowercase();
        if !(4..=64).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            let what = format!("\"{}\" names no content: it takes REF: and a SHA-256, or", name.escape_debug());
            return Err(Error::new(Code::BadRequest, format!("{what} at least the first 4 of its digits")));
        }
        if digits.len() == 64 {
            return Ok(digits);
        }
        let (folder, start) = digits.split_at(2);
        let names = fs::read_dir(self.folder.join(folder)).into_iter().flatten().flatten();
        let mut found: Vec<String> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|rest| rest.len() == 62 && rest.starts_with(start))
            .map(|rest| format!("{folder}{rest}"))
            .collect();
        found.sort();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Error::new(Code::NoSuchContent, format!("no content begins with {digits}"))),
            _ => Err(Error::new(Code::BadRequest, format!("{digits} is the beginning of {}", found.join(", ")))),
        }
    }

    /// Stores bytes that are at hand. Nothing is written where they are stored already.
    pub fn put(&self, bytes: &[u8]) -> io::Result<String> {
        self.put_whole(bytes).map(|stored| stored.digest)
    }

    /// Stores what comes, of any size, in constant memory.
    pub fn put_from(&self, from: &mut impl Read) -> io::Result<Stored> {
        let mut chunk = vec![0; CONTEXT_AT_ONCE];
        let mut n = read_full(from, &mut chunk)?;
        if n < CONTEXT_AT_ONCE {
            return self.put_whole(&chunk[..n]);
        }
        let mut writer = self.writer()?;
        chunk.resize(CONTEXT_CHUNK, 0);
        while n > 0 {
            writer.write_all(&chunk[..n])?;
            n = read_some(from, &mut chunk)?;
        }
        writer.store()
    }

    fn put_whole(&self, bytes: &[u8]) -> io::Result<Stored> {
        let digest = hex(&Sha256::digest(bytes));
        let len = bytes.len() as u64;
        if self.rely_on(&digest, len)? {
            return Ok(Stored { digest, bytes: len, new: false });
        }
        let mut draft = self.draft()?;
        draft.file.write_all(bytes)?;
        self.keep(&mut draft, &digest)?;
        Ok(Stored { digest, bytes: len, new: true })
    }

    /// Content that is stored as it comes; its digest is known at the end.
    pub fn writer(&self) -> io::Result<Writer> {
        Ok(Writer { context: self.clone(), draft: self.draft()?, hash: Sha256::new(), len: 0 })
    }

    /// Whether this content is here; if so, it counts as stored now.
    pub fn renew(&self, digest: &str) -> bool {
        // By its name, in one call: either that was before a clearing took the file out of its place, which then sees that
        // it is new, or there is no such name any more.
        let now = TimeSpec::UTIME_NOW;
        utimensat(AT_FDCWD, &self.path(digest), &now, &now, UtimensatFlags::NoFollowSymlink).is_ok()
    }

    /// Whether this content is here, has its length, and stays.
    fn rely_on(&self, digest: &str, bytes: u64) -> io::Result<bool> {
        // A power cut may leave the name of a file without its bytes.
        let there = fs::symlink_metadata(self.path(digest)).is_ok_and(|m| m.is_file() && m.len() == bytes);
        if !there || !self.renew(digest) {
            return Ok(false);
        }
        if self.durable {
            // Whoever stored it may not have synced it.
            self.open(digest)?.sync_all()?;
            self.sync_name(digest)?;
        }
        Ok(true)
    }

    fn draft(&self) -> io::Result<Draft> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = self.tmp().join(format!("{}-{n}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Draft { file, path, named: false }),
                // A process that had our pid before left it behind.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.make()?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Makes the folders of the store. Only the first that stores anything has to.
    pub(super) fn make(&self) -> io::Result<()> {
        let base = self.folder.parent().unwrap_or(&self.folder);
        fs::create_dir_all(base.parent().unwrap_or(base))?;
        [base, &self.folder, &self.tmp()].into_iter().try_for_each(|dir| private(dir).map_err(io::Error::other))
    }

    /// Gives a draft its name. Where the name is taken meanwhile, the same content takes its place.
    fn keep(&self, draft: &mut Draft, digest: &str) -> io::Result<()> {
        if self.durable {
            draft.file.sync_all()?;
        }
        let path = self.path(digest);
        match fs::rename(&draft.path, &path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let made = DirBuilder::new().mode(0o700).create(self.folder.join(&digest[..2]));
                match made {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                    _ => fs::rename(&draft.path, &path)?,
                }
            }
            other => other?,
        }
        draft.named = true;
        if self.durable { self.sync_name(digest) } else { Ok(()) }
    }

    /// The folder that holds the name, and the one that holds that folder's.
    fn sync_name(&self, digest: &str) -> io::Result<()> {
        File::open(self.folder.join(&digest[..2]))?.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }
}

/// A file in `tmp/` that goes with its owner, unless it was given its digest's name.
struct Draft {
    file: File,
    path: PathBuf,
    named: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.named {
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub struct Writer {
    context: Context,
    draft: Draft,
    hash: Sha256,
    len: u64,
}

impl Writer {
    /// Makes it content: returns its digest and length.
    pub fn finish(self) -> io::Result<(String, u64)> {
        self.store().map(|stored| (stored.digest, stored.bytes))
    }

    fn store(mut self) -> io::Result<Stored> {
        let (digest, bytes) = (hex(&self.hash.finalize()), self.len);
        let new = !self.context.rely_on(&digest, bytes)?;
        if new {
            self.context.keep(&mut self.draft, &digest)?;
        }
        Ok(Stored { digest, bytes, new })
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.draft.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads until `into` is full or nothing is left.
fn read_full(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let n @ 1.. = read_some(from, &mut into[filled..])? {
        filled += n;
    }
    Ok(filled)
}

/// Reads once; an interrupted call is made again.
fn read_some(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(into) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| char::from(b"0123456789abcdef"[n as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_found_under_the_digest_that_sha256sum_prints() {
        let folder = std::env::temp_dir().join(format!("hive-context-{}", std::process::id()));
        fs::create_dir_all(folder.join("tmp")).unwrap();
        let context = Context::at(&folder);
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(context.put(b"abc").unwrap(), known);
        assert_eq!(
            context.put_from(&mut &b"abc"[..]).unwrap(),
            Stored { digest: known.to_owned(), bytes: 3, new: false }
        );
        assert_eq!(fs::read(context.path(known)).unwrap(), b"abc");
        assert_eq!(fs::read_dir(folder.join("tmp")).unwrap().count(), 0);
        fs::remove_dir_all(&folder).unwrap();
    }
}
