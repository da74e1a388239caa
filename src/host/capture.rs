//! A task's answer as its process prints it: a short one stays in memory, a long one goes to the context store as it
//! comes. Invariant: memory is bounded whatever is printed, and every byte is in the result or the result is a failure.

use std::io::Write;
use std::sync::Arc;

use crate::limits::RESULT_INLINE_MAX;
use crate::store::Context;
use crate::store::context::Writer;

/// Kept in memory before it is stored: one write instead of many for a middling answer.
const IN_MEMORY_MAX: usize = 64 * 1024;

pub enum Capture {
    Memory(Vec<u8>),
    Stored(Box<Writer>),
    Failed(String),
}

/// What an answer came to.
#[derive(Default)]
pub struct Answer {
    pub result: Option<Arc<str>>,
    pub unterminated: bool,
    pub bytes: Option<u64>,
    pub failure: Option<String>,
}

impl Capture {
    pub fn new() -> Capture {
        Capture::Memory(Vec::new())
    }

    pub fn take(&mut self, bytes: &[u8], context: &Context) {
        if let Err(e) = self.try_take(bytes, context) {
            *self = Capture::Failed(format!("cannot store its result: {}", crate::error::reason(&e)));
        }
    }

    fn try_take(&mut self, bytes: &[u8], context: &Context) -> std::io::Result<()> {
        match self {
            Capture::Memory(kept) if kept.len() + bytes.len() <= IN_MEMORY_MAX => kept.extend_from_slice(bytes),
            Capture::Memory(kept) => {
                let mut writer = context.writer()?;
                writer.write_all(kept)?;
                writer.write_all(bytes)?;
                *self = Capture::Stored(Box::new(writer));
            }
            Capture::Stored(writer) => writer.write_all(bytes)?,
            Capture::Failed(_) => {}
        }
        Ok(())
    }

    /// Whether this answer is one that keeps coming.
    pub fn is_long(&self) -> bool {
        matches!(self, Capture::Stored(_))
    }

    pub fn finish(self, context: &Context) -> Answer {
        let stored = match self {
            Capture::Memory(bytes) => match inline(&bytes) {
                Some(answer) => return answer,
                None => context.put(&bytes).map(|digest| (digest, bytes.len() as u64)),
            },
            Capture::Stored(writer) => writer.finish(),
            Capture::Failed(failure) => {
                return Answer { failure: Some(failure), ..Answer::default() };
            }
        };
        match stored {
            Ok((digest, bytes)) => {
                Answer { result: Some(format!("REF:{digest}").into()), bytes: Some(bytes), ..Answer::default() }
            }
            Err(e) => Answer {
                failure: Some(format!("cannot store its result: {}", crate::error::reason(&e))),
                ..Answer::default()
            },
        }
    }
}

/// A short text travels in the line itself. The newline that usually ends it is left out, and its absence is said.
fn inline(bytes: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(bytes).ok().filter(|t| !t.contains('\0'))?;
    let line = text.strip_suffix('\n');
    let result = line.unwrap_or(text);
    // What has to be escaped in the line takes more room there.
    let escaped = result.bytes().filter(|b| *b < 0x20 || matches!(b, b'"' | b'\\' | 0x7f)).count() * 5;
    let fits = result.len() + escaped <= RESULT_INLINE_MAX && crate::wire::reference(result).is_none();
    fits.then(|| Answer { result: Some(result.into()), unterminated: line.is_none(), ..Answer::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inline_is_the_text_without_its_last_newline() {
        let of = |bytes: &[u8]| inline(bytes).map(|a| (a.result.unwrap().to_string(), a.unterminated));
        assert_eq!(of(b"hi\n"), Some(("hi".into(), false)));
        assert_eq!(of(b"hi"), Some(("hi".into(), true)));
        assert_eq!(of(b""), Some((String::new(), true)));
        assert_eq!(of(b"\n"), Some((String::new(), false)));
        assert_eq!(of(b"a\nb\n\n"), Some(("a\nb\n".into(), false)));
        assert_eq!(of(b"\xff\n"), None);
        assert_eq!(of(b"a\0b\n"), None);
        assert_eq!(of(&[b'x'; RESULT_INLINE_MAX + 1]), None);
        assert_eq!(of(&[7; RESULT_INLINE_MAX / 2]), None);
    }
}
