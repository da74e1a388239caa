//! Files that take what programs print, within a bound. Made when the first byte comes: most tasks print nothing.
//! A log that cannot be written never stops the work; its owner goes on without.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::libc;

pub struct BoundedLog {
    path: PathBuf,
    max: u64,
    /// At the bound: start over and keep one older file, or cut with a notice.
    rotates: bool,
    file: Option<(File, u64)>,
    /// Bytes taken since this was made.
    pub taken: u64,
}

impl BoundedLog {
    pub fn cut(path: PathBuf, max: u64) -> BoundedLog {
        BoundedLog { path, max, rotates: false, file: None, taken: 0 }
    }

    pub fn rotating(path: PathBuf, max: u64) -> BoundedLog {
        BoundedLog { path, max, rotates: true, file: None, taken: 0 }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.taken += bytes.len() as u64;
        let _ = self.try_write(bytes);
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (max, rotates) = (self.max, self.rotates);
        let (file, len) = self.open()?;
        let before = *len;
        *len += bytes.len() as u64;
        if *len <= max {
            return file.write_all(bytes);
        }
        if !rotates {
            if before <= max {
                file.write_all(&bytes[..(max - before) as usize])?;
                writeln!(file, "\n[hive: the log is cut here, at {max} bytes]")?;
            }
            return Ok(());
        }
        fs::rename(&self.path, self.path.with_extension("1"))?;
        self.file = None;
        let tail = &bytes[bytes.len().saturating_sub(max as usize)..];
        let (file, len) = self.open()?;
        *len += tail.len() as u64;
        file.write_all(tail)
    }

    fn open(&mut self) -> io::Result<&mut (File, u64)> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let file = options.open(&self.path)?;
            let len = file.metadata()?.len();
            self.file = Some((file, len));
        }
        self.file.as_mut().ok_or_else(|| io::Error::other("just opened"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("hive-output-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn a_log_is_cut_with_a_notice_and_stays_cut() {
        let path = path("cut");
        let mut log = BoundedLog::cut(path.clone(), 10);
        for part in ["12345", "67890ab", "more"] {
            log.write(part.as_bytes());
        }
        drop(log);
        BoundedLog::cut(path.clone(), 10).write(b"later");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("1234567890\n[hive: the log is cut here"), "{text}");
        assert!(!text.contains("more") && !text.contains("later"));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_rotating_log_keeps_the_newest() {
        let path = path("rotate");
        let mut log = BoundedLog::rotating(path.clone(), 10);
        for part in ["12345678", "abcdefgh", "xyz"] {
            log.write(part.as_bytes());
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "xyz");
        assert_eq!(fs::read_to_string(path.with_extension("1")).unwrap(), "abcdefgh");
        fs::remove_file(path.with_extension("1")).unwrap();
        fs::remove_file(path).unwrap();
    }
}
