//! `run`: hand over a task, wait, print its result, exit as it did. Ctrl-C cancels it.

use std::os::fd::OwnedFd;

use clap::Command;
use nix::sys::signal::Signal;

use super::submit::{Common, options, text, text_arg};
use super::{Call, exit, outcome};
use crate::client::{Answer, Client};
use crate::error::Result;
use crate::sys::{self, signal};

const RUN: u64 = 1;
const CANCEL: u64 = 2;

pub fn command(command: Command) -> Command {
    options(command).about("Run a task, print its result, and exit as it did").arg(text_arg().required(true))
}

pub fn run(call: &mut Call) -> Result<i32> {
    let mut client = call.connect()?;
    let common = Common::of(call, &mut client)?;
    let text = text(call)?;
    let status = StatusLine::new();
    // Before anything is asked for: from then on there is something to cancel.
    let interrupts = signal::doorbell(&[Signal::SIGINT, Signal::SIGTERM]).ok();
    client.send(RUN, "run", |o| {
        o.str("text", &text);
        common.write(o);
        if status.shown {
            o.bool("watch", true);
        }
    })?;
    let (answer, cancelled) = wait_for_end(&mut client, status, interrupts.as_ref())?;
    let code = outcome::show(call, &answer.accepted()?)?;
    Ok(if cancelled && code != exit::DONE { exit::INTERRUPTED } else { code })
}

/// Waits for the end, showing how it comes on. The first Ctrl-C cancels the task, the second one leaves it.
fn wait_for_end(client: &mut Client, mut status: StatusLine, interrupts: Option<&OwnedFd>) -> Result<(Answer, bool)> {
    let mut cancelled = false;
    loop {
        let Some(answer) = client.answer_until(None, interrupts)? else {
            interrupts.into_iter().for_each(signal::hush);
            status.clear();
            if cancelled {
                eprintln!("hivectl: left the task to itself: see `hivectl tasks`");
                std::process::exit(exit::INTERRUPTED);
            }
            cancelled = true;
            client.send(CANCEL, "cancel", |o| {
                o.num("run", RUN);
            })?;
            continue;
        };
        if answer.is_news() {
            status.show(&answer);
            continue;
        }
        if answer.tag() == RUN {
            status.clear();
            return Ok((answer, cancelled));
        }
    }
}

/// One line on a terminal that says what goes on, and vanishes.
struct StatusLine {
    shown: bool,
    dirty: bool,
}

impl StatusLine {
    fn new() -> StatusLine {
        StatusLine { shown: sys::is_terminal(&std::io::stderr()), dirty: false }
    }

    fn show(&mut self, news: &Answer) {
        if !self.shown {
            return;
        }
        let text = match (news.num("agent"), news.num("ahead")) {
            (Some(agent), _) => {
                let percent = news.num("percent").map(|p| format!(", {p} %")).unwrap_or_default();
                format!("task {}: running on agent {agent}{percent}", news.num("id").unwrap_or(0))
            }
            (None, ahead) => format!("task {}: queued behind {}", news.num("id").unwrap_or(0), ahead.unwrap_or(0)),
        };
        eprint!("\r\x1b[K{text}");
        self.dirty = true;
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.dirty) {
            eprint!("\r\x1b[K");
        }
    }
}
