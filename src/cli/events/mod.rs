//! `events`: the log as it is, and as it grows. Read from the files, never through the supervisor: nothing to overflow.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, value_parser};

use super::{Call, exit};
use crate::error::{Code, Error, Result};
use crate::model::Seq;
use crate::store::log::{first_seq, segments};
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
}

pub fn run(call: &mut Call) -> Result<i32> {
    let folder = call.folders.events();
    if !folder.is_dir() {
        let message =
            format!("no hive \"{}\" ever ran here: there is no log at {}", call.folders.hive, folder.display());
        return Err(Error::new(Code::NoHive, message));
    }
    let since = call.args.get_one::<u64>("since").copied().unwrap_or(0);
    // Watched before it is read, so that nothing falls between.
    let watcher = match call.flag("follow") {
        true => Some(Watcher::new(&[&folder]).map_err(|e| Error::os(format!("cannot watch {}", folder.display()), e))?),
        false => None,
    };
    let mut reader: Option<Tail> = None;
    loop {
        let list = segments(&folder).map_err(|e| Error::os(format!("cannot list {}", folder.display()), e))?;
        for (n, path) in list.iter().enumerate() {
            let over = list.get(n + 1).is_some_and(|next| first_seq(next).0 <= since);
            let done = reader.as_ref().is_some_and(|tail| *path < tail.path);
            if over || done {
                continue;
            }
            if reader.as_ref().is_none_or(|tail| tail.path != *path) {
                reader = Some(Tail::open(path)?);
            }
            if let Some(tail) = &mut reader {
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
    fn open(path: &PathBuf) -> Result<Tail> {
        let file = File::open(path).map_err(|e| Error::os(format!("cannot read {}", path.display()), e))?;
        Ok(Tail { path: path.clone(), from: BufReader::with_capacity(256 * 1024, file), half: Vec::new() })
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
