//! Keys: paths below the state folder. Pure: what a key may be, how it is written as one file name, which lock is its.
//! Invariant: a `Key` names a file below the folder and none of hive's own there, which begin with a dot.

use crate::limits::{KEY_MAX, KEY_PART_MAX};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    pub fn parse(text: &str) -> Result<Key, String> {
        check(text)?;
        Ok(Key(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder that it lies in ("" at the top), and its name there.
    pub fn parts(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }

    /// As one file name.
    pub fn flat(&self) -> String {
        if self.0.bytes().all(|b| !matches!(b, b'/' | b'%')) {
            return self.0.clone();
        }
        self.0.replace('%', "%25").replace('/', "%2F")
    }

    pub fn from_flat(name: &str) -> Option<Key> {
        Key::parse(&name.replace("%2F", "/").replace("%25", "%")).ok()
    }

    /// FNV-1a: which of the locks is this key's.
    pub fn hash(&self) -> u64 {
        self.0.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }
}

/// Keys that are meant together: one key, or with a slash at its end all below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    pub fn parse(text: &str) -> Result<Pattern, String> {
        check(text.strip_suffix('/').unwrap_or(text))?;
        Ok(Pattern(text.to_owned()))
    }

    /// Every key.
    pub fn all() -> Pattern {
        Pattern(String::new())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one key that is meant, or none where it is a folder.
    pub fn key(&self) -> Option<Key> {
        Key::parse(&self.0).ok()
    }

    pub fn takes(&self, key: &str) -> bool {
        self.0.is_empty() || self.0 == key || (self.0.ends_with('/') && key.starts_with(&self.0))
    }
}

fn check(text: &str) -> Result<(), String> {
    let shown = || text.chars().take(40).collect::<String>().escape_debug().to_string();
    if text.is_empty() {
        return Err("a key must not be empty".to_owned());
    }
    let flat = text.len() + 2 * text.bytes().filter(|b| matches!(b, b'/' | b'%')).count();
    if flat > KEY_MAX {
        let rule = format!("it may have {KEY_MAX} bytes, where / and % count three");
        return Err(format!("the key \"{}...\" is too long ({} bytes): {rule}", shown(), text.len()));
    }
    let wrong = |part: &str| part.is_empty() || part.starts_with('.') || part.len() > KEY_PART_MAX;
    if text.chars().any(char::is_control) {
        return Err(format!("the key \"{}\" holds a control character (a newline, a NUL, ...)", shown()));
    }
    if text.split('/').any(wrong) {
        let rule = "no part of a path may be empty or begin with a dot";
        return Err(format!("the key \"{}\" is refused: {rule}", shown()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_leave_the_folder_or_mean_nothing_are_refused() {
        for wrong in ["", "/", "/a", "a/", "a//b", "..", "../x", "a/../b", ".hive", "a/.tmp", "a\nb", "a\0b", "\u{7f}"]
        {
            assert!(Key::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(Key::parse(&"x".repeat(KEY_MAX)).is_ok());
        assert!(Key::parse(&"x".repeat(KEY_MAX + 1)).unwrap_err().contains("too long (201 bytes)"));
        for fine in ["a", "plan/step", "user:1", "50%", "ein Schlüssel", "a..b"] {
            assert_eq!(Key::parse(fine).unwrap().as_str(), fine);
        }
    }

    #[test]
    fn a_key_is_one_file_name_and_back() {
        for key in ["a", "plan/step", "50%/%2F", "a/b/c"] {
            let key = Key::parse(key).unwrap();
            assert!(!key.flat().contains('/'));
            assert_eq!(Key::from_flat(&key.flat()), Some(key));
        }
    }

    #[test]
    fn a_pattern_is_a_key_or_a_folder() {
        let takes = |pattern: &str, key: &str| Pattern::parse(pattern).unwrap().takes(key);
        assert!(takes("plan", "plan") && takes("plan/", "plan/step") && Pattern::all().takes("x"));
        assert!(!takes("plan", "plan/step") && !takes("plan/", "plan") && !takes("plan/", "planet/x"));
        assert!(["../", "/", ""].iter().all(|wrong| Pattern::parse(wrong).is_err()));
    }
}
