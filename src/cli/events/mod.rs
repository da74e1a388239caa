//! `events`: the log as it is, and as it grows; and the verbs about it.
//! Invariant: read from the files, never through the supervisor: nothing to overflow.

mod diff;
mod repair;
mod replay;
mod verify;

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command, value_parser};

use super::output::Output;
use super::{Call, exit};
use crate::error::{Code, Error, Result};
use crate::model::Seq;
use crate::store::segment;
use crate::sys::notify::Watcher;

pub fn command(command: Command) -> Command {
    command
        .about("Print the event log: what happened, in order, one JSON object a line")
        .arg(Arg::new("follow").short('f').long("follow").action(ArgAction::SetTrue).help("Go on as events come"))
        .arg(
            Arg::new("since")
                .long("since")
                .value_name("SEQ")
                .value_parser(value_parser!(u64))
                .help("Only events with this number or a higher one"),
        )
        .args_conflicts_with_subcommands(true)
        .subcommand(verify::command())
        .subcommand(repair::command())
        .subcommand(replay::command())
        .subcommand(diff::command())
}

pub fn run(call: &mut Call) -> Result<i32> {
    let Some((name, args)) = call.args.subcommand() else {
        return print(call);
    };
    let mut inner = Call { args, folders: call.folders.clone(), json: call.json, out: Output::new() };
    let code = match name {
        "verify" => verify::run(&mut inner),
        "repair" => repair::run(&mut inner),
        "replay" => replay::run(&mut inner),
        _ => diff::run(&mut inner),
    }?;
    inner.out.finish()?;
    Ok(code)
}

/// Where the log is, if there is one.
fn folder(call: &Call) -> Result<PathBuf> {
    let folder = call.folders.events();
    match folder.is_dir() {
        true => Ok(folder),
        false => {
            let message =
                format!("no hive \"{}\" ever ran here: there is no log at {}", call.folders.hive, folder.display());
            Err(Error::new(Code::NoHive, message))
        }
    }
}

fn segments(folder: &Path) -> Result<Vec<PathBuf>> {
    segment::list(folder).map_err(|e| Error::os(format!("cannot list {}", folder.display()), e))
}

fn print(call: &mut Call) -> Result<i32> {
    let folder = folder(call)?;
    let since = call.args.get_one::<u64>("since").copied().unwrap_or(0);
    // Watched before it is read, so that nothing falls between.
    let watcher = match call.flag("follow") {
        true => Some(Watcher::new(&[&folder]).map_err(|e| Error::os(format!("cannot watch {}", folder.display()), e))?),
        false => None,
    };
    let mut reader: Option<Tail> = None;
    loop {
        let list = segments(&folder)?;
        for (n, path) in list.iter().enumerate() {
            let over = list.get(n + 1).is_some_and(|next| segment::seq_of_name(next).0 <= since);
            let done = reader.as_ref().is_some_and(|tail| *path < tail.path);
            if over || done {
                continue;
            }
            if reader.as_ref().is_none_or(|tail| tail.path != *path) {
                // The oldest may go at any time.
                reader = Tail::open(path)?.or(reader);
            }
            if let Some(tail) = reader.as_mut().filter(|tail| tail.path == *path) {
                tail.print(call, Seq(since))?;
            }
        }
        call.out.finish()?;
        let Some(watcher) = &watcher else {
            return Ok(exit::DONE);
        };
        watcher.wait(-1).map_err(|e| Error::os("cannot wait for events", e))?;
    }
}

/// One segment, read as far as it goes in whole lines.
struct Tail {
    path: PathBuf,
    from: BufReader<File>,
    half: Vec<u8>,
}

impl Tail {
    fn open(path: &PathBuf) -> Result<Option<Tail>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::os(format!("cannot read {}", path.display()), e)),
        };
        Ok(Some(Tail { path: path.clone(), from: BufReader::with_capacity(256 * 1024, file), half: Vec::new() }))
    }

    fn print(&mut self, call: &mut Call, since: Seq) -> Result<()> {
        loop {
            let n = self.from.by_ref().read_until(b'\n', &mut self.half);
            n.map_err(|e| Error::os(format!("cannot read {}", self.path.display()), e))?;
            if !self.half.ends_with(b"\n") {
                return Ok(());
            }
            if seq_of(&self.half) >= since.0 {
                call.out.bytes(&self.half)?;
            }
            self.half.clear();
        }
    }
}

/// Every record begins with `{"seq":N,`.
fn seq_of(line: &[u8]) -> u64 {
    let digits = line.get(7..).unwrap_or_default().iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0, |n, digit| n * 10 + u64::from(digit - b'0'))
}
