//! JSON, as far as hive needs it. Reading: [`Flat`], one object's fields with their raw values. Writing: [`Object`], field by
//! field into a buffer; [`quote`] is the one place that escapes a string.

mod flat;

use std::borrow::Cow;

pub use flat::{Flat, plain_fields};

/// The string that a raw JSON value is, or `None` if it is no string.
pub fn unquote(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// Appends `text` as a JSON string, quotes included.
pub fn quote(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut from = 0;
    loop {
        let plain = plain_prefix(&bytes[from..]);
        out.extend_from_slice(&bytes[from..from + plain]);
        from += plain;
        let Some(byte) = bytes.get(from) else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\r' => out.extend_from_slice(b"\\r"),
            other => out.extend_from_slice(format!("\\u{other:04x}").as_bytes()),
        }
        from += 1;
    }
    out.push(b'"');
}

/// How long a text is as a JSON string.
pub fn quoted_len(text: &str) -> usize {
    let mut out = Vec::with_capacity(text.len() + 2);
    quote(&mut out, text);
    out.len()
}

/// How many bytes at the beginning need no escape. Eight at a time: nearly all of a log is such text.
fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGH;
    let equals = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("8 bytes"));
        let marks = below(word, 0x20) | equals(word, b'"') | equals(word, b'\\') | equals(word, 0x7f);
        if marks != 0 {
            // The lowest mark is exact; a borrow can only spoil those above it.
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\' | 0x7f);
    at + bytes[at..].iter().position(special).unwrap_or(bytes.len() - at)
}

/// Appends a whole number in decimal.
pub fn number(out: &mut Vec<u8>, n: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// The longest name of a field that hive writes.
const NAME_MAX: usize = 28;

/// Writes one JSON object field by field into a buffer; commas are its business.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub fn open(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object { out, first: true }
    }

    /// `name` is a plain word of hive's own and needs no escapes. Inlined with the rest, so that names are constants, and
    /// put together before it is appended, so that there is room to be made once.
    #[inline(always)]
    pub fn key(&mut self, name: &str) -> &mut Vec<u8> {
        let mut text = [0; NAME_MAX + 4];
        let end = name.len() + 2;
        text[..2].copy_from_slice(b",\"");
        text[2..end].copy_from_slice(name.as_bytes());
        text[end..end + 2].copy_from_slice(b"\":");
        self.out.extend_from_slice(&text[usize::from(self.first)..end + 2]);
        self.first = false;
        self.out
    }

    /// A name of somebody else's.
    pub fn any_key(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(b',');
        }
        quote(self.out, name);
        self.out.push(b':');
        self.out
    }

    #[inline(always)]
    pub fn str(&mut self, name: &str, text: &str) -> &mut Self {
        quote(self.key(name), text);
        self
    }

    #[inline(always)]
    pub fn num(&mut self, name: &str, n: impl itoa::Integer) -> &mut Self {
        number(self.key(name), n);
        self
    }

    #[inline(always)]
    pub fn bool(&mut self, name: &str, value: bool) -> &mut Self {
        self.raw(name, if value { "true" } else { "false" })
    }

    #[inline(always)]
    pub fn raw(&mut self, name: &str, json: &str) -> &mut Self {
        self.key(name).extend_from_slice(json.as_bytes());
        self
    }

    /// What somebody else has written: fields, or a piece of one.
    #[inline(always)]
    pub fn more(&mut self, json: &[u8]) -> &mut Self {
        self.out.extend_from_slice(json);
        self
    }

    #[inline(always)]
    pub fn opt_str(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.str(name, text),
            None => self,
        }
    }

    pub fn strings<'s>(&mut self, name: &str, items: impl IntoIterator<Item = &'s str>) -> &mut Self {
        let out = self.key(name);
        out.push(b'[');
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            quote(out, item);
        }
        out.push(b']');
        self
    }

    pub fn nums(&mut self, name: &str, items: impl IntoIterator<Item = impl itoa::Integer>) -> &mut Self {
        let out = self.key(name);
        out.push(b'[');
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            number(out, item);
        }
        out.push(b']');
        self
    }

    pub fn close(self) {
        self.out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_read_back() {
        for text in ["", "plain", "a\"b\\c", "tab\tnewline\nbell\u{7}del\u{7f}", "žluťoučký 🐝"] {
            let mut out = Vec::new();
            quote(&mut out, text);
            assert_eq!(unquote(std::str::from_utf8(&out).unwrap()).unwrap(), text);
        }
    }
}
