//! How a task ended, shown: its result to stdout byte for byte, everything else to stderr, and the exit code.

use std::borrow::Cow;

use super::{Call, exit};
use crate::client::Answer;
use crate::error::{Code, Error, Result};
use crate::json::Flat;
use crate::model::TaskId;
use crate::store::Context;
use crate::sys::signal;
use crate::wire::reference;

/// Shows the answer to `run`, `result` or `wait` as `run` does.
pub fn show(call: &mut Call, answer: &Answer) -> Result<i32> {
    let end = End(answer.flat());
    if call.json {
        call.out.line(&without_tag(answer.text()))?;
        return Ok(code(&end));
    }
    print_result(call, &end)?;
    show_stderr(call, &end);
    explain(&end);
    Ok(code(&end))
}

/// What an answer says of a task's end; what it does not say is absent.
struct End<'a>(Flat<'a>);

impl End<'_> {
    fn str(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.str(name).ok().flatten()
    }

    fn num(&self, name: &str) -> Option<i64> {
        self.0.i64(name).ok().flatten()
    }

    fn bool(&self, name: &str) -> Option<bool> {
        self.0.bool(name).ok().flatten()
    }

    fn id(&self) -> u64 {
        self.0.u64("id").ok().flatten().unwrap_or(0)
    }
}

/// The exit code that a task's ending means.
fn code(end: &End) -> i32 {
    let exit = end.num("exit").map(|code| code as i32);
    match end.str("state").as_deref() {
        Some("done") => exit::DONE,
        _ if end.bool("timed_out") == Some(true) => exit::TIMED_OUT,
        Some("failed") => match (exit.filter(|code| *code != 0), end.num("signal")) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal as i32,
            (None, None) if end.bool("by_hive") == Some(true) => exit::HIVE_FAILED,
            (None, None) => exit::FAILED,
        },
        _ => exit::FAILED,
    }
}

fn print_result(call: &mut Call, end: &End) -> Result<()> {
    if let Some(name) = end.str("ref") {
        let digest = reference(&name).ok_or_else(|| Error::new(Code::Internal, format!("not a reference: {name}")))?;
        let mut file = Context::at(&call.folders.context).open(digest).map_err(|e| {
            let what = format!("the result {name} cannot be read: {}", crate::error::reason(&e));
            Error::new(Code::NoSuchContent, what)
        })?;
        return call.out.copy(&mut file);
    }
    if let Some(text) = end.str("result") {
        call.out.bytes(text.as_bytes())?;
        if end.bool("newline") != Some(false) {
            call.out.bytes(b"\n")?;
        }
    }
    call.out.finish()
}

/// What the task wrote to stderr goes to ours.
fn show_stderr(call: &Call, end: &End) {
    if end.num("log").is_none() {
        return;
    }
    if let Ok(mut log) = std::fs::File::open(call.folders.task_log(TaskId(end.id()))) {
        // The task's result is out; a stderr that is closed is nobody's loss.
        let _ = std::io::copy(&mut log, &mut std::io::stderr());
    }
}

fn explain(end: &End) {
    let id = end.id();
    let state = end.str("state").unwrap_or_default();
    match (end.str("reason"), end.num("signal")) {
        (Some(reason), _) if state == "cancelled" => {
            eprintln!("hivectl: task {id}: {reason}")
        }
        (Some(reason), _) => eprintln!("hivectl: task {id} failed: {reason}"),
        (None, Some(n)) if state == "failed" => {
            eprintln!("hivectl: task {id} was killed by SIG{}", signal::name(n as i32))
        }
        _ => {}
    }
}

/// The answer as on the wire, but for the tag, which was ours.
pub fn without_tag(text: &str) -> String {
    match text.strip_prefix("{\"tag\":").and_then(|rest| rest.split_once(',')) {
        Some((_, rest)) => format!("{{{rest}"),
        None => text.to_owned(),
    }
}
