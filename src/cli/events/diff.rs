//! `events diff A B`: the first record where two logs part.
//! Compared is what happened, not when and by whom: fields that differ between any two runs are left aside, unless they
//! are asked for.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};

use super::super::{Call, exit};
use super::seq_of;
use crate::error::{Code, Error, Result};
use crate::json::{Flat, Object};
use crate::store::Folders;

/// When, on which machine, in which process, asked through which pipe.
const INCIDENTAL: &[&str] = &["time", "crc", "boot", "pid", "start", "workload", "reply"];

pub fn command() -> Command {
    let log = |name: &'static str| {
        Arg::new(name).value_name(name).required(true).help("A hive's name, its folder of events, or a file of events")
    };
    Command::new("diff")
        .about("Show the first record where two logs part; exit 1 if they do")
        .arg(log("A"))
        .arg(log("B"))
        .arg(
            Arg::new("exact")
                .long("exact")
                .action(ArgAction::SetTrue)
                .help("Compare every field: otherwise time, crc, boot, pid, start, workload and reply may differ"),
        )
        .arg(
            Arg::new("ignore")
                .long("ignore")
                .value_name("FIELD")
                .action(ArgAction::Append)
                .help("A field that may differ as well; may be given several times"),
        )
}

pub fn run(call: &mut Call) -> Result<i32> {
    let (mut a, mut b) = (Lines::of(call, "A")?, Lines::of(call, "B")?);
    let mut ignored: Vec<&str> = call.args.get_many::<String>("ignore").into_iter().flatten().map(|s| &**s).collect();
    if !call.flag("exact") {
        ignored.extend(INCIDENTAL);
    }
    let (mut left, mut right) = (a.next()?, b.next()?);
    // One of them may have let its oldest records go.
    while let (Some(l), Some(r)) = (&left, &right) {
        match seq_of(l).cmp(&seq_of(r)) {
            std::cmp::Ordering::Less => left = a.next()?,
            std::cmp::Ordering::Greater => right = b.next()?,
            std::cmp::Ordering::Equal => break,
        }
    }
    let first = left.as_deref().map_or(0, seq_of);
    let mut same = 0;
    while let (Some(l), Some(r)) = (&left, &right)
        && alike(l, r, &ignored)
    {
        same += 1;
        (left, right) = (a.next()?, b.next()?);
    }
    tell(call, same, first, left.as_deref(), right.as_deref())
}

fn tell(call: &mut Call, same: u64, first: u64, left: Option<&[u8]>, right: Option<&[u8]>) -> Result<i32> {
    let text = |line: Option<&[u8]>| line.map(|l| String::from_utf8_lossy(l).trim_end().to_owned());
    let differ = left.is_some() || right.is_some();
    if call.json {
        let mut out = Vec::new();
        let mut o = Object::open(&mut out);
        o.bool("same", !differ).num("records", same);
        for (name, line) in [("a", left), ("b", right)] {
            if let Some(line) = text(line) {
                let whole = serde_json::from_str::<serde_json::Value>(&line).is_ok();
                if whole {
                    o.raw(name, &line)
                } else {
                    o.str(name, &line)
                };
            }
        }
        o.close();
        call.out.line(&String::from_utf8_lossy(&out))?;
    } else if !differ {
        call.out.line(&format!("the logs are the same: {same} records, from {first} on"))?;
    } else {
        call.out.line(&format!("the logs are the same for {same} records, and part here:"))?;
        for (name, line) in [("A", left), ("B", right)] {
            call.out.line(&format!("{name} {}", text(line).unwrap_or_else(|| "(has ended)".into())))?;
        }
    }
    Ok(if differ { exit::FAILED } else { exit::DONE })
}

/// Whether two records say the same, but for what is ignored.
fn alike(a: &[u8], b: &[u8], ignored: &[&str]) -> bool {
    if a == b {
        return true;
    }
    let flat = |line| std::str::from_utf8(line).ok().and_then(|text| Flat::parse(text).ok());
    let (Some(a), Some(b)) = (flat(a), flat(b)) else { return false };
    let fields = |flat: &Flat| -> Vec<(String, Option<String>)> {
        let kept = flat.names().filter(|name| !ignored.contains(name));
        kept.map(|name| (name.to_owned(), flat.raw(name).map(str::to_owned))).collect()
    };
    fields(&a) == fields(&b)
}

/// The lines of a log, one segment after the other.
struct Lines {
    files: std::vec::IntoIter<PathBuf>,
    open: Option<(PathBuf, BufReader<File>)>,
}

impl Lines {
    /// What stands on the command line: a path where there is a slash in it or no such hive, else a hive's name.
    fn of(call: &Call, arg: &str) -> Result<Lines> {
        let name = call.text(arg).map_or("", |name| name.as_str());
        // A name cannot have a slash in it.
        let hive = Folders::of(name).ok().map(|folders| folders.events()).filter(|folder| folder.is_dir());
        let path = hive.unwrap_or_else(|| Path::new(name).to_owned());
        let inner = path.join("events");
        let files = match () {
            () if inner.is_dir() => super::segments(&inner)?,
            () if path.is_dir() => super::segments(&path)?,
            () if path.is_file() => vec![path],
            () => {
                let message = format!("{name} is neither a hive that ever ran here, nor a folder or file of events");
                return Err(Error::new(Code::BadRequest, message));
            }
        };
        if files.is_empty() {
            return Err(Error::new(Code::BadRequest, format!("there are no events in {name}")));
        }
        Ok(Lines { files: files.into_iter(), open: None })
    }

    /// The next line, with its newline if it has one.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let os = |path: &Path, e| Error::os(format!("cannot read {}", path.display()), e);
        loop {
            if let Some((path, file)) = &mut self.open {
                let mut line = Vec::new();
                if file.read_until(b'\n', &mut line).map_err(|e| os(path, e))? > 0 {
                    return Ok(Some(line));
                }
            }
            let Some(path) = self.files.next() else { return Ok(None) };
            let file = File::open(&path).map_err(|e| os(&path, e))?;
            self.open = Some((path, BufReader::with_capacity(256 * 1024, file)));
        }
    }
}
