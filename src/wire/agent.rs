//! The lines between the supervisor and an agent, both ways.

use std::sync::Arc;

use super::{split_word, steering};
use crate::json::{self, Flat, Object};
use crate::limits::{NOTE_MAX, RESULT_INLINE_MAX};
use crate::model::{Exited, Limit, Tell};

/// What an agent said.
#[derive(Debug, Clone, PartialEq)]
pub enum Said<'a> {
    Ready {
        abilities: Vec<&'a str>,
        labels: Vec<&'a str>,
    },
    Progress {
        task: u64,
        percent: u8,
        text: &'a str,
    },
    Done {
        task: u64,
        text: Option<&'a str>,
    },
    Fail {
        task: u64,
        reason: &'a str,
    },
    Usage {
        task: u64,
        fields: &'a str,
    },
    Checkpointed {
        barrier: u64,
        content: Option<&'a str>,
    },
    Paused {
        task: u64,
        content: Option<&'a str>,
    },
    Pong,
    /// From a host alone: how the process of a task ended.
    Exited {
        task: u64,
        how: Exited,
    },
    /// Not protocol: output of the running task.
    Output,
    /// A verb of the protocol, but not as it must be: what is wrong with it.
    Malformed(&'static str),
}

const ABILITIES: [&str; 5] = ["usr1", "pause", "inject", "restore", "checkpoint"];

pub fn parse(line: &str, hosted: bool) -> Said<'_> {
    let (verb, rest) = split_word(line);
    match verb {
        "DONE" => match number(rest) {
            Some((task, text)) => Said::Done { task, text: Some(text).filter(|t| !t.is_empty()) },
            None => Said::Malformed("DONE needs the task's number"),
        },
        "EXITED" if hosted => number(rest)
            .and_then(|(task, json)| Some(Said::Exited { task, how: parse_exited(json)? }))
            .unwrap_or(Said::Output),
        "READY" => {
            let words = || rest.split_ascii_whitespace();
            Said::Ready {
                abilities: words().filter(|w| ABILITIES.contains(w)).collect(),
                labels: words().filter(|w| !ABILITIES.contains(w)).collect(),
            }
        }
        "PROGRESS" => match number(rest).and_then(|(task, rest)| Some((task, percent(rest)?))) {
            Some((task, (percent, text))) => Said::Progress { task, percent, text: clip(text) },
            None => Said::Malformed("PROGRESS needs the task's number and a percentage"),
        },
        "FAIL" => match number(rest) {
            Some((task, reason)) => Said::Fail { task, reason: clip(reason) },
            None => Said::Malformed("FAIL needs the task's number"),
        },
        "USAGE" => match number(rest) {
            Some((task, fields)) => Said::Usage { task, fields: clip(fields) },
            None => Said::Malformed("USAGE needs the task's number"),
        },
        "CHECKPOINTED" => match saved(rest) {
            Some((barrier, content)) => Said::Checkpointed { barrier, content },
            None => Said::Malformed("CHECKPOINTED needs the barrier's number, and a short text or a reference"),
        },
        "PAUSED" => match saved(rest) {
            Some((task, content)) => Said::Paused { task, content },
            None => Said::Malformed("PAUSED needs the task's number, and a short text or a reference"),
        },
        "PONG" => Said::Pong,
        _ => Said::Output,
    }
}

fn number(rest: &str) -> Option<(u64, &str)> {
    let (number, rest) = split_word(rest);
    Some((number.parse().ok()?, rest))
}

fn saved(rest: &str) -> Option<(u64, Option<&str>)> {
    let (number, content) = number(rest)?;
    steering::fits(content).then_some((number, Some(content).filter(|content| !content.is_empty())))
}

fn percent(rest: &str) -> Option<(u8, &str)> {
    let (percent, text) = split_word(rest);
    let percent: f64 = percent.trim_end_matches('%').parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some((percent as u8, text))
}

/// Cuts a note to what fits beside other fields, at a character.
pub fn clip(text: &str) -> &str {
    let mut end = text.len().min(NOTE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `text` is one line by the model's rule.
pub fn task(out: &mut Vec<u8>, id: u64, text: &str) {
    out.extend_from_slice(b"TASK ");
    json::number(out, id);
    out.push(b' ');
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

/// Before the TASK line of a hosted agent: what its process needs to know.
pub fn with(out: &mut Vec<u8>, id: u64, attempt: u32, surroundings: Option<&str>) {
    out.extend_from_slice(b"WITH ");
    json::number(out, id);
    out.push(b' ');
    json::number(out, attempt);
    out.push(b' ');
    out.extend_from_slice(surroundings.unwrap_or("-").as_bytes());
    out.push(b'\n');
}

/// Before the TASK line: a content by its name; where the agent has seen another of that name, also what changed since.
pub fn context(out: &mut Vec<u8>, id: u64, name: &str, digest: &str, diff: Option<(&str, &str)>) {
    out.extend_from_slice(format!("CONTEXT {id} {name} REF:{digest}").as_bytes());
    if let Some((base, diff)) = diff {
        out.extend_from_slice(format!(" base=REF:{base} diff=REF:{diff}").as_bytes());
    }
    out.push(b'\n');
}

pub fn cancel(out: &mut Vec<u8>, id: u64) {
    out.extend_from_slice(format!("CANCEL {id}\n").as_bytes());
}

/// What an agent is told beside its tasks.
pub fn tell(out: &mut Vec<u8>, what: &Tell) {
    let (verb, id, text) = match what {
        Tell::Checkpoint(barrier) => ("CHECKPOINT", barrier.0, None),
        Tell::Inject(task, text) => ("INJECT", task.0, Some(text)),
        Tell::Pause(task) => ("PAUSE", task.0, None),
        Tell::Resume(task, text) => ("RESUME", task.0, text.as_ref()),
    };
    out.extend_from_slice(format!("{verb} {id}").as_bytes());
    if let Some(text) = text {
        out.push(b' ');
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'\n');
}

/// The next task goes on from what was saved.
pub fn restore(out: &mut Vec<u8>, content: &str) {
    out.extend_from_slice(format!("RESTORE {content}\n").as_bytes());
}

/// What a host reads from its agent's `in`.
#[derive(Debug, PartialEq, Eq)]
pub enum Told<'a> {
    With { task: u64, attempt: u32, surroundings: Option<&'a str> },
    Context { task: u64, name: &'a str, digest: &'a str },
    Task { task: u64, text: &'a str },
}

pub fn parse_told(line: &str) -> Option<Told<'_>> {
    let (verb, rest) = split_word(line);
    let (task, rest) = number(rest)?;
    match verb {
        "TASK" => Some(Told::Task { task, text: rest }),
        "CONTEXT" => {
            let (name, rest) = split_word(rest);
            let digest = super::reference(split_word(rest).0)?;
            Some(Told::Context { task, name, digest })
        }
        "WITH" => {
            let (attempt, surroundings) = rest.split_once(' ')?;
            let attempt = attempt.parse().ok()?;
            Some(Told::With { task, attempt, surroundings: Some(surroundings).filter(|s| super::is_digest(s)) })
        }
        _ => None,
    }
}

/// The line by which a host reports the end of a task's process.
pub fn exited(task: u64, how: &Exited) -> Vec<u8> {
    let mut out = format!("EXITED {task} ").into_bytes();
    let mut o = Object::open(&mut out);
    if let Some(exit) = how.exit {
        o.num("exit", exit);
    }
    if let Some(signal) = how.signal {
        o.num("signal", signal);
    }
    if how.by_host {
        o.bool("by_host", true);
    }
    o.opt_str("limit", how.limit.map(Limit::name));
    o.opt_str("failure", how.failure.as_deref());
    if how.unterminated {
        o.bool("unterminated", true);
    }
    if let Some(bytes) = how.bytes {
        o.num("bytes", bytes);
    }
    if how.log > 0 {
        o.num("log", how.log);
    }
    o.opt_str("result", how.result.as_deref());
    o.close();
    out.push(b'\n');
    out
}

fn parse_exited(json: &str) -> Option<Exited> {
    let flat = Flat::parse(json).ok()?;
    let text = |name| Some(flat.str(name).ok()?.map(|t| Arc::<str>::from(t.as_ref())));
    let result: Option<Arc<str>> = text("result")?;
    Some(Exited {
        exit: flat.i64("exit").ok()?.map(|n| n as i32),
        signal: flat.i64("signal").ok()?.map(|n| n as i32),
        by_host: flat.bool("by_host").ok()?.unwrap_or(false),
        failure: text("failure")?,
        limit: flat.str("limit").ok()?.and_then(|name| Limit::parse(&name)),
        unterminated: flat.bool("unterminated").ok()?.unwrap_or(false),
        bytes: flat.u64("bytes").ok()?,
        log: flat.u64("log").ok()?.unwrap_or(0),
        result: result.filter(|r| r.len() <= RESULT_INLINE_MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_agent() {
        assert_eq!(parse("DONE 17 a  b ", false), Said::Done { task: 17, text: Some("a  b ") });
        assert_eq!(parse("DONE 17", false), Said::Done { task: 17, text: None });
        assert_eq!(parse("FAIL 3 no such file", false), Said::Fail { task: 3, reason: "no such file" });
        assert_eq!(parse("PROGRESS 3 41.7% half", false), Said::Progress { task: 3, percent: 41, text: "half" });
        assert_eq!(parse("READY usr1 rust", false), Said::Ready { abilities: vec!["usr1"], labels: vec!["rust"] });
        assert!(matches!(parse("DONE x", false), Said::Malformed(_)));
        assert!(matches!(parse("PROGRESS 3 101", false), Said::Malformed(_)));
        assert_eq!(parse("done 17", false), Said::Output);
        assert_eq!(parse("EXITED 1 {}", false), Said::Output);
    }

    #[test]
    fn what_a_host_writes_is_read_back() {
        let how = Exited {
            exit: Some(7),
            by_host: true,
            result: Some("a\nb \"c\"".into()),
            unterminated: true,
            limit: Some(Limit::CpuTime),
            log: 12,
            ..Exited::default()
        };
        let line = exited(9, &how);
        let text = std::str::from_utf8(&line).unwrap().trim_end();
        assert_eq!(parse(text, true), Said::Exited { task: 9, how });
        let mut told = Vec::new();
        let digest = "a".repeat(64);
        with(&mut told, 9, 2, None);
        context(&mut told, 9, "notes", &digest, None);
        task(&mut told, 9, "echo  hi");
        let lines: Vec<_> = std::str::from_utf8(&told).unwrap().lines().map(parse_told).collect();
        assert_eq!(lines[0], Some(Told::With { task: 9, attempt: 2, surroundings: None }));
        assert_eq!(lines[1], Some(Told::Context { task: 9, name: "notes", digest: &digest }));
        assert_eq!(lines[2], Some(Told::Task { task: 9, text: "echo  hi" }));
    }
}
