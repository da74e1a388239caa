//! How a task ended, shown: its result to stdout byte for byte, everything else to stderr, and the exit code.

use super::{Call, exit};
use crate::client::Answer;
use crate::error::{Code, Error, Result};
use crate::model::TaskId;
use crate::store::Context;
use crate::sys::signal;
use crate::wire::reference;

/// Shows the answer to `run`, `result` or `wait` as `run` does.
pub fn show(call: &mut Call, answer: &Answer) -> Result<i32> {
    if call.json {
        call.out.line(&without_tag(answer.text()))?;
        return Ok(code(answer));
    }
    print_result(call, answer)?;
    show_stderr(call, answer)?;
    explain(answer);
    Ok(code(answer))
}

/// The exit code that a task's ending means.
pub fn code(answer: &Answer) -> i32 {
    let exit = answer.int("exit").map(|code| code as i32);
    match answer.str("state").as_deref() {
        Some("done") => exit::DONE,
        _ if answer.is("timed_out") => exit::TIMED_OUT,
        Some("failed") => match (exit.filter(|code| *code != 0), answer.int("signal")) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal as i32,
            (None, None) if answer.is("by_hive") => exit::HIVE_FAILED,
            (None, None) => exit::FAILED,
        },
        _ => exit::FAILED,
    }
}

fn print_result(call: &mut Call, answer: &Answer) -> Result<()> {
    if let Some(name) = answer.str("ref") {
        let digest = reference(&name).ok_or_else(|| Error::new(Code::Internal, format!("not a reference: {name}")))?;
        let mut file = Context::at(&call.folders.context).open(digest).map_err(|e| {
            let what = format!("the result {name} cannot be read: {}", crate::error::reason(&e));
            Error::new(Code::NoSuchContent, what)
        })?;
        return call.out.copy(&mut file);
    }
    if let Some(text) = answer.str("result") {
        call.out.bytes(text.as_bytes())?;
        if answer.flat().bool("newline").ok().flatten() != Some(false) {
            call.out.bytes(b"\n")?;
        }
    }
    call.out.finish()
}

/// What the task wrote to stderr goes to ours.
fn show_stderr(call: &Call, answer: &Answer) -> Result<()> {
    let (Some(id), Some(_)) = (answer.num("id"), answer.num("log")) else {
        return Ok(());
    };
    if let Ok(mut log) = std::fs::File::open(call.folders.task_log(TaskId(id))) {
        // The task's result is out; a stderr that is closed is nobody's loss.
        let _ = std::io::copy(&mut log, &mut std::io::stderr());
    }
    Ok(())
}

fn explain(answer: &Answer) {
    let id = answer.num("id").unwrap_or(0);
    let state = answer.str("state").unwrap_or_default();
    match (answer.str("reason"), answer.int("signal")) {
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
