//! Which contents the hives of a user refer to. A reference is any word of 64 hexadecimal digits in a file that a hive keeps,
//! but for what tasks and agents printed: so no kind of record, present or to come, can be overlooked.
//! Invariant: a file that cannot be read is an error, never "no references".

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

use crate::error::{Code, Error, Result};

/// What in a hive's folders holds what tasks and agents printed.
const PRINTED: [&str; 3] = ["logs", "agents", "replies"];
/// Searches until one finds no more than the one before.
const PASSES_MAX: usize = 100;
const CHUNK: usize = 1024 * 1024;
const DIGITS: usize = 64;

/// The places of the known digests that each hive refers to.
pub type References = BTreeMap<String, HashSet<usize>>;

/// A state of a file: one that grew or was replaced has another.
#[derive(PartialEq, Eq, Hash, Clone)]
struct Seen {
    path: PathBuf,
    inode: u64,
    len: u64,
    changed: (i64, i64),
}

/// Searches the folders of all hives below `bases`. `known` gives each digest that matters its place.
///
/// Meanwhile a log's segment may give way to a snapshot, and what is queued may get another name. So it searches again, only
/// what has changed, until that finds nothing more and no part of a log has gone unread.
pub fn gather(bases: &[&Path], store: &Path, known: &HashMap<&str, usize>) -> Result<References> {
    let mut found = References::new();
    let mut searched: HashSet<Seen> = HashSet::new();
    for pass in 0..PASSES_MAX {
        let (mut more, mut unread) = (false, false);
        for (hive, path) in files(bases, store)? {
            let places = found.entry(hive).or_default();
            let looked = look(&path, &mut searched, |digest| {
                more |= known.get(digest).is_some_and(|place| places.insert(*place));
            });
            let there = looked.map_err(|e| Error::os(format!("cannot search {} for references", path.display()), e))?;
            unread |= !there && path.parent().is_some_and(|folder| folder.ends_with("events"));
        }
        if pass > 0 && !more && !unread {
            return Ok(found);
        }
    }
    Err(Error::new(Code::Internal, "the hives' logs change too fast to be searched for references: try again later"))
}

/// Searches one file, unless it was searched as it is now. False: it has gone.
fn look(path: &Path, searched: &mut HashSet<Seen>, found: impl FnMut(&str)) -> io::Result<bool> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let m = file.metadata()?;
    let seen = Seen { path: path.to_owned(), inode: m.ino(), len: m.len(), changed: (m.mtime(), m.mtime_nsec()) };
    if !searched.contains(&seen) {
        search(&mut file, found)?;
        searched.insert(seen);
    }
    Ok(true)
}

/// Every regular file that may refer to something, with its hive's name.
fn files(bases: &[&Path], store: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut all = Vec::new();
    for base in bases {
        for (name, path) in entries(base)? {
            // The store itself lies beside the hives.
            if path != store && fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
                let hive = name.to_string_lossy().into_owned();
                walk(&path, &mut |file| all.push((hive.clone(), file)), true)?;
            }
        }
    }
    Ok(all)
}

fn walk(folder: &Path, found: &mut impl FnMut(PathBuf), top: bool) -> Result<()> {
    for (name, path) in entries(folder)? {
        let name = name.to_string_lossy();
        if top && (PRINTED.contains(&&*name) || name.starts_with("supervisor.log")) {
            continue;
        }
        match fs::symlink_metadata(&path) {
            Ok(m) if m.is_dir() => walk(&path, found, false)?,
            Ok(m) if m.is_file() => found(path),
            _ => {}
        }
    }
    Ok(())
}

/// What is in a folder; nothing, where there is none.
fn entries(folder: &Path) -> Result<Vec<(std::ffi::OsString, PathBuf)>> {
    let listed = fs::read_dir(folder).and_then(|list| {
        list.map(|entry| entry.map(|entry| (entry.file_name(), entry.path()))).collect::<io::Result<Vec<_>>>()
    });
    match listed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|e| Error::os(format!("cannot list {}", folder.display()), e)),
    }
}

/// Every digest in a file of any length.
fn search(file: &mut impl Read, mut found: impl FnMut(&str)) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut held = 0;
    loop {
        let n = match file.read(&mut buffer[held..]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let end = held + n;
        if n == 0 {
            digests(&buffer[..end], &mut found);
            return Ok(());
        }
        // A word that reaches the end may go on. One that is too long already is kept just as too long.
        let word = buffer[..end].iter().rev().take(2 * DIGITS).take_while(|b| is_digit(**b)).count();
        digests(&buffer[..end - word], &mut found);
        buffer.copy_within(end - word..end, 0);
        held = word;
    }
}

/// Every word of exactly 64 digits. Of each 64 bytes at least one lies in any such word: only there is looked closer.
fn digests(bytes: &[u8], found: &mut impl FnMut(&str)) {
    let mut from = 0;
    while let Some(probe) = bytes.get(from + DIGITS - 1) {
        let at = from + DIGITS - 1;
        if !is_digit(*probe) {
            from = at + 1;
            continue;
        }
        let before = bytes[from..at].iter().rev().take_while(|b| is_digit(**b)).count();
        let after = bytes[at..].iter().take_while(|b| is_digit(**b)).count();
        if before + after == DIGITS
            && let Ok(word) = std::str::from_utf8(&bytes[at - before..at + after])
        {
            found(word);
        }
        from = at + after;
    }
}

fn is_digit(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<String> {
        let mut words = Vec::new();
        search(&mut &*text, |word| words.push(word.to_owned())).unwrap();
        words
    }

    #[test]
    fn only_words_of_exactly_64_digits_count_wherever_they_stand() {
        let digest = "0123456789abcdef".repeat(4);
        for (text, count) in [
            (digest.clone(), 1),
            (format!("x{digest}"), 1),
            (format!("\"text\":\"REF:{digest}\",\"surroundings\":\"{digest}\""), 2),
            (format!("{digest} {digest}"), 2),
            (format!("{digest}0"), 0),
            (digest[1..].to_owned(), 0),
            (format!("{digest}{digest}"), 0),
            (String::new(), 0),
        ] {
            assert_eq!(all(text.as_bytes()), vec![digest.clone(); count], "{text}");
        }
    }

    #[test]
    fn a_word_across_two_reads_is_found() {
        let digest = "f".repeat(DIGITS);
        for before in CHUNK - 70..CHUNK + 3 {
            let text = [vec![b'-'; before], digest.clone().into_bytes(), vec![b'-'; 70]].concat();
            assert_eq!(all(&text), std::slice::from_ref(&digest), "{before}");
            let longer = [vec![b'-'; before], b"f".repeat(200), vec![b'-'; 70]].concat();
            assert!(all(&longer).is_empty(), "{before}");
        }
    }
}
