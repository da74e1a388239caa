//! `lock` and `elect`: a command that runs while nobody else's does; and one that runs while this process is the leader.

use std::ffi::OsString;
use std::process::Command as Program;
use std::time::Duration;

use clap::{Arg, ArgAction, Command, value_parser};
use nix::sys::signal::Signal;

use super::{Call, exit, foreground};
use crate::error::{Code, Error, Result};
use crate::json::Object;
use crate::limits::STOP_GRACE;
use crate::store::Locks;
use crate::store::locks::{Lock, Patience, Sharing};
use crate::sys::child::{Child, Seen};
use crate::sys::notify::Watcher;

pub fn lock_command(command: Command) -> Command {
    common(command, &["list"])
        .about("Run a command while holding a lock; flock(1) on the same file excludes it, and the other way round")
        .arg(Arg::new("shared").long("shared").action(ArgAction::SetTrue).help("With others who share it too"))
        .arg(
            Arg::new("list")
                .long("list")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(["name", "shared", "timeout", "nonblock", "command"])
                .help("Show who holds which lock, and who waits for one"),
        )
}

pub fn elect_command(command: Command) -> Command {
    let hook = |name: &'static str, help: &'static str| Arg::new(name).long(name).value_name("CMD").help(help);
    common(command, &[])
        .about("Run a command as the only leader; others who ask wait, and one takes over when the leader ends or dies")
        .arg(hook("on-gain", "A shell command to run first; if it fails, the office is given up"))
        .arg(hook("on-loss", "A shell command to run when the command has ended, before the next leader comes"))
}

fn common(command: Command, instead: &[&'static str]) -> Command {
    let needed = |arg: Arg| arg.required_unless_present_any(instead);
    command
        .arg(needed(Arg::new("name").value_name("NAME").help("The lock's name")))
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .allow_hyphen_values(true)
                .value_parser(super::submit::seconds)
                .help("Give up (exit 5) when it was not to be had within this time"),
        )
        .arg(
            Arg::new("nonblock")
                .long("nonblock")
                .action(ArgAction::SetTrue)
                .conflicts_with("timeout")
                .help("Give up (exit 5) at once"),
        )
        .arg(needed(
            Arg::new("command")
                .value_name("CMD")
                .num_args(1..)
                .last(true)
                .value_parser(value_parser!(OsString))
                .help("What to run; it finds a number that grows with every holding in HIVE_FENCE"),
        ))
}

pub fn lock(call: &mut Call) -> Result<i32> {
    if call.flag("list") {
        return list(call);
    }
    let sharing = if call.flag("shared") { Sharing::Shared } else { Sharing::Alone };
    let (_, lock) = take(call, sharing)?;
    foreground::run(&mut dressed(typed(call)?, call, &lock))
}

pub fn elect(call: &mut Call) -> Result<i32> {
    let (locks, lock) = take(call, Sharing::Alone)?;
    if let Some(hook) = call.text("on-gain") {
        let code = foreground::run(&mut dressed(shell(hook), call, &lock))?;
        if code != 0 {
            eprintln!("hivectl: gave up the office: `{hook}` exited with {code}");
            return Ok(code);
        }
    }
    let code = lead(call, &locks, &lock)?;
    if let Some(hook) = call.text("on-loss") {
        let after = foreground::run(&mut dressed(shell(hook), call, &lock))?;
        return Ok(if code == exit::DONE { after } else { code });
    }
    Ok(code)
}

/// Runs the leader's command. A leader whose lock is not the one that others see steps down.
fn lead(call: &Call, locks: &Locks, lock: &Lock) -> Result<i32> {
    let watcher = locks.watch()?;
    let child = match foreground::start(&mut dressed(typed(call)?, call, lock))? {
        Ok(child) => child,
        Err(code) => return Ok(code),
    };
    while lock.is_current() {
        match child.wait(Some(&watcher), -1).map_err(foreground::cannot_wait)? {
            Seen::Ended(ending) => return Ok(foreground::code(ending)),
            Seen::Other => watcher.hush(),
            Seen::TimedOut => {}
        }
    }
    eprintln!("hivectl: stepped down: the lock's file was removed, and another may lead by a new one");
    step_down(&child)
}

fn step_down(child: &Child) -> Result<i32> {
    let mut wait = STOP_GRACE.as_millis() as i32;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        child.signal(signal).map_err(foreground::cannot_wait)?;
        // Only a running process hears TERM.
        child.signal(Signal::SIGCONT).map_err(foreground::cannot_wait)?;
        if let Seen::Ended(ending) = child.wait(None::<&Watcher>, wait).map_err(foreground::cannot_wait)? {
            return Ok(foreground::code(ending));
        }
        wait = -1;
    }
    Ok(exit::FAILED)
}

fn take(call: &Call, sharing: Sharing) -> Result<(Locks, Lock)> {
    let name = call.text("name").map_or("", |name| name.as_str());
    let seconds = call.args.get_one::<f64>("timeout");
    let patience = match (call.flag("nonblock"), seconds) {
        (true, _) => Patience::No,
        (false, Some(seconds)) => Patience::AtMost(Duration::from_secs_f64(seconds.min(1e9))),
        (false, None) => Patience::ForEver,
    };
    let locks = Locks::open(&call.folders)?;
    match locks.take(name, sharing, patience)? {
        Some(lock) => Ok((locks, lock)),
        None => {
            let after = seconds.map_or(String::new(), |seconds| format!(" after {seconds} s"));
            let message = format!("the lock \"{name}\" is held{after}: `hivectl lock --list` shows by whom");
            Err(Error::new(Code::TimedOut, message))
        }
    }
}

fn typed(call: &Call) -> Result<Program> {
    foreground::typed(call).ok_or_else(|| Error::new(Code::BadRequest, "no command was given: add `-- CMD ARGS...`"))
}

fn shell(text: &str) -> Program {
    let mut program = Program::new("sh");
    program.args(["-c", text]);
    program
}

fn dressed(mut program: Program, call: &Call, lock: &Lock) -> Program {
    program.env("HIVE_FENCE", lock.fence.to_string());
    program.env("HIVE_LOCK", call.text("name").map_or("", |name| name.as_str()));
    program
}

fn list(call: &mut Call) -> Result<i32> {
    let parties = match call.folders.locks().is_dir() {
        true => Locks::open(&call.folders)?.parties()?,
        false => Vec::new(),
    };
    if call.json {
        let mut line = b"{\"locks\":[".to_vec();
        for (n, party) in parties.iter().enumerate() {
            line.extend_from_slice(if n == 0 { b"" } else { b"," });
            let mut o = Object::open(&mut line);
            o.str("name", &party.lock).num("pid", party.pid).bool("holds", party.holds).bool("shared", party.shared);
            o.close();
        }
        line.extend_from_slice(b"]}");
        call.out.line(&String::from_utf8_lossy(&line))?;
        return Ok(exit::DONE);
    }
    let heading = ["LOCK", "PID", "DOES", "HOW"].map(str::to_owned).to_vec();
    let rows = parties.iter().map(|party| {
        let does = if party.holds { "holds" } else { "waits" };
        let how = if party.shared { "shared" } else { "alone" };
        vec![party.lock.clone(), party.pid.to_string(), does.to_owned(), how.to_owned()]
    });
    let rows: Vec<Vec<String>> = [heading].into_iter().chain(rows).collect();
    call.out.table(&rows)?;
    Ok(exit::DONE)
}
