//! Content by SHA-256: stored once, named by its digest, the same one as sha256sum prints.
//! Invariant: a file under its digest's name is complete; it comes there by rename from `tmp/`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use sha2::{Digest, Sha256};

#[derive(Debug, Clone)]
pub struct Context {
    folder: PathBuf,
}

impl Context {
    pub fn at(folder: &Path) -> Context {
        Context { folder: folder.to_owned() }
    }

    /// The file that holds (or would hold) this content.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(&digest[..2]).join(&digest[2..])
    }

    pub fn open(&self, digest: &str) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(self.path(digest))
    }

    /// Stores bytes that are at hand. Nothing is written where they are stored already.
    pub fn put(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = hex(&Sha256::digest(bytes));
        if self.path(&digest).exists() {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer.file.write_all(bytes)?;
        self.keep(writer.temporary, &digest)?;
        Ok(digest)
    }

    /// Stores what comes, of any size, in constant memory.
    pub fn put_from(&self, from: &mut impl Read) -> io::Result<(String, u64)> {
        let mut writer = self.writer()?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return writer.finish(),
                Ok(n) => writer.write_all(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Content that is stored as it comes; its digest is known at the end.
    pub fn writer(&self) -> io::Result<Writer> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = self.folder.join("tmp").join(format!("{}-{n}", std::process::id()));
            let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            match opened {
                Ok(file) => {
                    let temporary = Temporary(path);
                    return Ok(Writer { context: self.clone(), file, temporary, hash: Sha256::new(), len: 0 });
                }
                // A process that had our pid before left it behind.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn keep(&self, temporary: Temporary, digest: &str) -> io::Result<()> {
        let path = self.path(digest);
        match fs::rename(&temporary.0, &path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                use std::os::unix::fs::DirBuilderExt;
                let made = fs::DirBuilder::new().mode(0o700).create(self.folder.join(&digest[..2]));
                match made {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                    _ => fs::rename(&temporary.0, &path)?,
                }
            }
            other => other?,
        }
        std::mem::forget(temporary);
        Ok(())
    }
}

/// A file that goes with its owner unless it was kept.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub struct Writer {
    context: Context,
    file: File,
    temporary: Temporary,
    hash: Sha256,
    len: u64,
}

impl Writer {
    /// Makes it content: returns its digest and length.
    pub fn finish(self) -> io::Result<(String, u64)> {
        let digest = hex(&self.hash.finalize());
        self.context.keep(self.temporary, &digest)?;
        Ok((digest, self.len))
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
        assert_eq!(context.put_from(&mut &b"abc"[..]).unwrap(), (known.to_owned(), 3));
        assert_eq!(fs::read(context.path(known)).unwrap(), b"abc");
        assert_eq!(fs::read_dir(folder.join("tmp")).unwrap().count(), 0);
        fs::remove_dir_all(&folder).unwrap();
    }
}
