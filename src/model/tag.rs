//! A client's tag: raw JSON that goes back as it came. Nearly all are small numbers, and every task of a large batch has one,
//! so a short tag needs no memory of its own.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(Text);

/// Invariant: a text that fits is held in place, and the bytes behind it are zero, so that equal tags are equal values.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Text {
    Here { len: u8, bytes: [u8; HERE_MAX] },
    Elsewhere(Arc<str>),
}

/// As many as make the whole no larger than a shared text's pointer, length and kind.
const HERE_MAX: usize = 22;

const _: () = assert!(size_of::<Tag>() == 24);

impl From<&str> for Tag {
    fn from(text: &str) -> Tag {
        let mut bytes = [0; HERE_MAX];
        match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                Tag(Text::Here { len: text.len() as u8, bytes })
            }
            None => Tag(Text::Elsewhere(text.into())),
        }
    }
}

impl Deref for Tag {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Text::Here { len, bytes } => std::str::from_utf8(&bytes[..usize::from(*len)]).expect("it was a str"),
            Text::Elsewhere(text) => text,
        }
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_of_any_length_is_kept_as_it_was() {
        for text in ["", "1", "\"ž🐝\"", &"9".repeat(HERE_MAX), &"9".repeat(HERE_MAX + 1), &"x".repeat(256)] {
            assert_eq!(&*Tag::from(text), text);
            assert_eq!(Tag::from(text), Tag::from(text).clone());
        }
        assert_ne!(Tag::from("1"), Tag::from("10"));
    }
}
