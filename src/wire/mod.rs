//! The lines that travel on hive's pipes: parsed and written here, and nowhere else. Pure: bytes in, values out.
//! One line is one message of at most [`LINE_MAX`](crate::limits::LINE_MAX) bytes; PROTOCOL.md has the grammar.

pub mod agent;
pub mod answer;
pub mod host;
pub mod limits;
pub mod request;
pub mod steering;

/// The digest in `REF:<sha256>`, if that is what `text` is.
pub fn reference(text: &str) -> Option<&str> {
    text.strip_prefix("REF:").filter(|digest| is_digest(digest))
}

pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text can be the last field of a line as it is.
pub fn fits_inline(text: &str, max: usize) -> bool {
    text.len() <= max && memchr::memchr2(b'\n', 0, text.as_bytes()).is_none()
}

/// A name that people give: of a task, a label, a reply FIFO. It can stand in a path and in a line.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'@' | b'+');
    if name.is_empty() || name.len() > crate::limits::NAME_MAX {
        return Err(format!("{what} must have 1 to {} characters", crate::limits::NAME_MAX));
    }
    if name.starts_with('.') || !name.bytes().all(plain) {
        return Err(format!(
            "{what} \"{}\" may hold letters, digits and . _ - : @ +, and not begin with a dot",
            name.escape_debug()
        ));
    }
    Ok(())
}

/// The first word, which is short, and what follows it. In a line that is its verb.
fn split_word(line: &str) -> (&str, &str) {
    match line.bytes().position(|b| b == b' ') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_lower_case_digest_is_a_reference() {
        let digest = "a".repeat(64);
        assert_eq!(reference(&format!("REF:{digest}")), Some(digest.as_str()));
        for not in
            ["REF:", "REF:abc", &format!("ref:{digest}"), &format!("REF:{digest}0"), &format!("REF:{}", "A".repeat(64))]
        {
            assert_eq!(reference(not), None, "{not}");
        }
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "a\n", &"x".repeat(101)] {
            assert!(check_name("a name", bad).is_err(), "{bad:?}");
        }
        assert!(check_name("a name", "build-1.2_x").is_ok());
    }
}
