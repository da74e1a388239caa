//! Reads one flat JSON object without building a tree: names with their raw values, borrowed from the line.
//! Invariant: a value is handed on exactly as it was written, so a tag comes back byte for byte.
//!
//! Nearly every line is plain (see [`plain_fields`]) and is read in one pass, without memory of its own; serde reads the others.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{plain_prefix, unquote};

/// The fields of one JSON object, in the order written.
pub struct Flat<'a>(Fields<'a>);

#[allow(clippy::large_enum_variant, reason = "it lives on the stack, and is nearly always the large one")]
enum Fields<'a> {
    Plain(Plain<'a>),
    Any(Vec<(Cow<'a, str>, &'a RawValue)>),
}

impl<'a> Flat<'a> {
    pub fn parse(line: &'a str) -> Result<Flat<'a>, String> {
        match Plain::parse(line) {
            Some(plain) => Ok(Flat(Fields::Plain(plain))),
            None => serde_json::from_str(line).map_err(|e| e.to_string()),
        }
    }

    #[inline]
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        match &self.0 {
            Fields::Plain(plain) => plain.fields().iter().find(|(n, _)| *n == name).map(|(_, v)| *v),
            Fields::Any(any) => any.iter().find(|(n, _)| n == name).map(|(_, v)| v.get()),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (plain, any) = match &self.0 {
            Fields::Plain(plain) => (plain.fields(), &[][..]),
            Fields::Any(any) => (&[][..], &any[..]),
        };
        plain.iter().map(|(n, _)| *n).chain(any.iter().map(|(n, _)| n.as_ref()))
    }

    /// A string field: `None` where it is absent or null, an error where it is something else.
    #[inline]
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

    pub fn integers(&self, name: &str) -> Result<Vec<i64>, String> {
        self.list(name, "a list of whole numbers")
    }

    /// A field that is a list of flat objects.
    pub fn objects(&self, name: &str) -> Result<Vec<Flat<'a>>, String> {
        let Some(raw) = self.present(name) else { return Ok(Vec::new()) };
        serde_json::from_str(raw).map_err(|_| format!("\"{name}\" must be a list of objects"))
    }

    fn list<T: for<'d> Deserialize<'d>>(&self, name: &str, what: &str) -> Result<Vec<T>, String> {
        let Some(raw) = self.present(name) else {
            return Ok(Vec::new());
        };
        serde_json::from_str(raw).map_err(|_| format!("\"{name}\" must be {what}"))
    }

    #[inline]
    fn number<T: std::str::FromStr>(&self, name: &str, what: &str) -> Result<Option<T>, String> {
        let Some(raw) = self.present(name) else {
            return Ok(None);
        };
        raw.parse().map(Some).map_err(|_| format!("\"{name}\" must be {what}"))
    }

    #[inline]
    fn present(&self, name: &str) -> Option<&'a str> {
        self.raw(name).filter(|raw| *raw != "null")
    }
}

/// The fields of an object that was read in one pass, where they are few.
struct Plain<'a> {
    fields: [(&'a str, &'a str); Plain::MAX],
    count: usize,
}

impl<'a> Plain<'a> {
    const MAX: usize = 16;

    fn fields(&self) -> &[(&'a str, &'a str)] {
        &self.fields[..self.count]
    }

    fn parse(line: &'a str) -> Option<Plain<'a>> {
        let mut plain = Plain { fields: [("", ""); Plain::MAX], count: 0 };
        plain_fields(line, |name, value| {
            *plain.fields.get_mut(plain.count)? = (name, value);
            plain.count += 1;
            Some(())
        })?;
        Some(plain)
    }
}

/// Hands on each name and raw value of a plain object: one whose names and strings have no escapes, and whose other values
/// are whole numbers or words. `None` where the line is not plain (it may be no JSON at all), or where `each` says so.
#[inline]
pub fn plain_fields<'a>(line: &'a str, mut each: impl FnMut(&'a str, &'a str) -> Option<()>) -> Option<()> {
    let mut rest = Rest(line.strip_prefix('{')?.strip_suffix('}')?);
    loop {
        rest.skip_spaces();
        let name = rest.string()?;
        rest.skip_spaces();
        rest.take(b':')?;
        rest.skip_spaces();
        let value = match rest.first()? {
            b'"' => rest.string()?,
            _ => rest.word()?,
        };
        each(&name[1..name.len() - 1], value)?;
        rest.skip_spaces();
        match rest.first() {
            None => return Some(()),
            Some(_) => rest.take(b',')?,
        }
    }
}

/// What is left of a plain object, without its closing brace.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    #[inline]
    fn first(&self) -> Option<u8> {
        self.0.as_bytes().first().copied()
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Option<()> {
        (self.first()? == byte).then(|| self.0 = &self.0[1..])
    }

    #[inline]
    fn skip_spaces(&mut self) {
        while self.first() == Some(b' ') {
            self.0 = &self.0[1..];
        }
    }

    /// A string, with its quotes.
    #[inline]
    fn string(&mut self) -> Option<&'a str> {
        let bytes = self.0.as_bytes();
        let end = 1 + plain_prefix(bytes.get(1..)?);
        (bytes[0] == b'"' && bytes.get(end) == Some(&b'"')).then(|| self.split(end + 1))
    }

    /// A whole number, `true`, `false` or `null`.
    fn word(&mut self) -> Option<&'a str> {
        let end = self.0.bytes().position(|b| matches!(b, b',' | b' ')).unwrap_or(self.0.len());
        let word = self.split(end);
        let digits = word.strip_prefix('-').unwrap_or(word).as_bytes();
        let is_number = digits.first().is_some_and(|d| *d != b'0' || digits.len() == 1);
        let is_number = is_number && digits.iter().all(u8::is_ascii_digit);
        (is_number || matches!(word, "true" | "false" | "null")).then_some(word)
    }

    #[inline]
    fn split(&mut self, at: usize) -> &'a str {
        let (head, tail) = self.0.split_at(at);
        self.0 = tail;
        head
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Flat<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Flat<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Flat<'de>, M::Error> {
                let mut fields = Vec::with_capacity(12);
                while let Some(name) = map.next_key::<Name<'de>>()? {
                    fields.push((name.0, map.next_value()?));
                }
                Ok(Flat(Fields::Any(fields)))
            }
        }
        deserializer.deserialize_map(Object)
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

    /// Whatever the one pass takes, serde takes too, and reads the same.
    #[test]
    fn a_plain_line_is_read_as_any_other() {
        let values = concat!(
            r#""x"|""|"a b: {c}, d"|"žlutý 🐝"|"\n"|"\x"|"a"b"|""#,
            "\"\u{7f}\"|\"\t\"|\"|\"a|0|-0|-12|00|01|-|1.5|1e3|+1|true|null|nul|truefalse|[1]|{}|1 2|"
        )
        .split('|');
        let objects = values.flat_map(|v| {
            [
                format!(r#"{{"op":{v}}}"#),
                format!(r#"{{ "op" : {v} , "n":7 }}"#),
                format!(r#"{{"n":7,"op":{v}"#),
                format!(r#"{{"n":7,"op":{v},}}"#),
                format!(r#"{{"n":7 "op":{v}}}"#),
                format!(r#"{{"n":7,,"op":{v}}}"#),
                format!(r#"{{"op":{v}}}}}"#),
                format!(r#"{{"op"{v}}}"#),
                format!(r#"{{{v}:1}}"#),
            ]
        });
        let mut plain = 0;
        for line in objects.chain(["{}".to_owned(), "{".to_owned(), String::new(), "{\"a\":1}\u{a0}".to_owned()]) {
            let Some(quick) = Plain::parse(&line) else { continue };
            plain += 1;
            let Ok(Flat(Fields::Any(slow))) = serde_json::from_str::<Flat>(&line) else { panic!("not JSON: {line}") };
            let slow: Vec<_> = slow.iter().map(|(name, value)| (name.as_ref(), value.get())).collect();
            assert_eq!(quick.fields(), slow, "{line}");
        }
        assert!(plain >= 20, "{plain}");
    }
}
