//! Reads one flat JSON object without building a tree: names with their raw values, borrowed from the line.
//! Invariant: a value is handed on exactly as it was written, so a tag comes back byte for byte.
//! Writing JSON is here too: [`quote`] is the one place that escapes a string.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of one JSON object, in the order written.
pub struct Flat<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Flat<'a> {
    pub fn parse(line: &'a str) -> Result<Flat<'a>, String> {
        serde_json::from_str(line).map_err(|e| e.to_string())
    }

    pub fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.get())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(n, _)| n.as_ref())
    }

    /// A string field: `None` where it is absent or null, an error where it is something else.
    pub fn str(&self, name: &str) -> Result<Option<Cow<'a, str>>, String> {
        let Some(raw) = self.present(name) else {
            return Ok(None);
        };
        unquote(raw).map(Some).ok_or_else(|| format!("\"{name}\" must be a string"))
    }

    pub fn u64(&self, name: &str) -> Result<Option<u64>, String> {
        self.number(name, "a whole number, 0 or more")
    }

    pub fn i64(&self, name: &str) -> Result<Option<i64>, String> {
        self.number(name, "a whole number")
    }

    pub fn f64(&self, name: &str) -> Result<Option<f64>, String> {
        self.number(name, "a number")
    }

    pub fn bool(&self, name: &str) -> Result<Option<bool>, String> {
        self.number(name, "true or false")
    }

    pub fn strings(&self, name: &str) -> Result<Vec<String>, String> {
        self.list(name, "a list of strings")
    }

    pub fn numbers(&self, name: &str) -> Result<Vec<u64>, String> {
        self.list(name, "a list of whole numbers")
    }

    fn list<T: for<'d> Deserialize<'d>>(&self, name: &str, what: &str) -> Result<Vec<T>, String> {
        let Some(raw) = self.present(name) else {
            return Ok(Vec::new());
        };
        serde_json::from_str(raw).map_err(|_| format!("\"{name}\" must be {what}"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str, what: &str) -> Result<Option<T>, String> {
        let Some(raw) = self.present(name) else {
            return Ok(None);
        };
        raw.parse().map(Some).map_err(|_| format!("\"{name}\" must be {what}"))
    }

    fn present(&self, name: &str) -> Option<&'a str> {
        self.raw(name).filter(|raw| *raw != "null")
    }
}

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
        let special = below(word, 0x20) | equals(word, b'"') | equals(word, b'\\') | equals(word, 0x7f);
        if special != 0 {
            break;
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

    /// `name` is a plain word of hive's own and needs no escapes. Inlined with the rest, so that names are constants.
    #[inline(always)]
    pub fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
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

    pub fn close(self) {
        self.out.push(b'}');
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Flat<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Flat<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Flat<'de>, M::Error> {
                let mut fields = Vec::with_capacity(12);
                while let Some(name) = map.next_key::<Name<'de>>()? {
                    fields.push((name.0, map.next_value()?));
                }
                Ok(Flat(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A field's name: borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_back_as_it_was_written() {
        let flat = Flat::parse(r#"{"op":"run","tag":{"a": [1, 2.50]},"n":null}"#).unwrap();
        assert_eq!(flat.raw("tag"), Some(r#"{"a": [1, 2.50]}"#));
        assert_eq!(flat.str("op").unwrap().unwrap(), "run");
        assert_eq!(flat.u64("n").unwrap(), None);
        assert!(flat.u64("op").is_err());
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        for text in ["", "plain", "a\"b\\c", "tab\tnewline\nbell\u{7}del\u{7f}", "žluťoučký 🐝"] {
            let mut out = Vec::new();
            quote(&mut out, text);
            assert_eq!(unquote(std::str::from_utf8(&out).unwrap()).unwrap(), text);
        }
    }
}
