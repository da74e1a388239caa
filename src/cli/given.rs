//! `--context NAME=...` of `run` and `submit`: contents that a task is given, and what changed in them since the versions
//! that agents may have seen. The comparing is done here: a supervisor has no time for it.

use std::fs::File;
use std::io;

use clap::{Arg, ArgAction, Command};

use super::Call;
use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::json::{Flat, Object};
use crate::limits::{CONTEXT_COMPARED_MAX, CONTEXTS_MAX};
use crate::store::{Context, diff};
use crate::wire::check_name;

/// None that a task's request has.
const TAG: u64 = 1 << 40;

pub fn option(command: Command) -> Command {
    command.arg(
        Arg::new("context")
            .long("context")
            .value_name("NAME=REF|@FILE|-")
            .action(ArgAction::Append)
            .help("Give it this content under a name: stored content, a file, or stdin; may be given several times"),
    )
}

/// What the tasks of one call are given.
#[derive(Default)]
pub struct Contexts {
    /// Names and digests.
    given: Vec<(String, String)>,
    diffs: Vec<String>,
}

impl Contexts {
    pub fn of(call: &Call, client: &mut Client) -> Result<Contexts> {
        let context = Context::at(&call.folders.context);
        let mut given: Vec<(String, String)> = Vec::new();
        for typed in call.args.get_many::<String>("context").into_iter().flatten() {
            let (name, source) =
                typed.split_once('=').ok_or_else(|| wrong(typed, "it takes NAME=REF or NAME=@FILE"))?;
            check_name("a context's name", name).map_err(|e| wrong(typed, &e))?;
            if given.iter().any(|(known, _)| known == name) {
                return Err(wrong(typed, "this name was given before"));
            }
            if source == "-" && reads_stdin(call) {
                return Err(wrong(typed, "stdin is read for the text already"));
            }
            given.push((name.to_owned(), stored(&context, typed, source)?));
        }
        if given.len() > CONTEXTS_MAX {
            let most = format!("a task can be given at most {CONTEXTS_MAX} contexts");
            return Err(Error::new(Code::BadRequest, most));
        }
        let diffs = if given.is_empty() { Vec::new() } else { differences(&context, &given, client)? };
        Ok(Contexts { given, diffs })
    }

    pub fn write(&self, o: &mut Object) {
        if self.given.is_empty() {
            return;
        }
        let mut contexts = Object::open(o.key("context"));
        for (name, digest) in &self.given {
            crate::json::quote(contexts.any_key(name), digest);
        }
        contexts.close();
        if !self.diffs.is_empty() {
            o.strings("diffs", self.diffs.iter().map(String::as_str));
        }
    }
}

fn wrong(typed: &str, why: &str) -> Error {
    Error::new(Code::BadRequest, format!("cannot take --context \"{}\": {why}", typed.escape_debug()))
}

/// Whether the task's text, or its tasks, come from stdin.
fn reads_stdin(call: &Call) -> bool {
    let batch = call.args.try_get_one::<bool>("stdin").ok().flatten() == Some(&true);
    batch || call.args.get_many::<String>("text").into_iter().flatten().eq(["-"])
}

/// The digest of what is named, which is stored now if it was not.
fn stored(context: &Context, typed: &str, source: &str) -> Result<String> {
    let store = |from: io::Result<Box<dyn io::Read>>| {
        let stored = from.and_then(|mut from| context.put_from(&mut from));
        stored.map(|stored| stored.digest).map_err(|e| Error::os(format!("cannot store --context {typed}"), e))
    };
    match source.strip_prefix('@') {
        Some(file) => store(File::open(file).map(|file| Box::new(file) as _)),
        None if source == "-" => store(Ok(Box::new(io::stdin().lock()))),
        None => {
            let digest = context.resolve(source).map_err(|e| Error::new(e.code, wrong(typed, &e.message).message))?;
            match context.renew(&digest) {
                true => Ok(digest),
                false => Err(Error::new(Code::NoSuchContent, wrong(typed, "no such content is stored").message)),
            }
        }
    }
}

/// What changed since each version that agents may have seen, where that is smaller: new, base, difference, its length.
fn differences(context: &Context, given: &[(String, String)], client: &mut Client) -> Result<Vec<String>> {
    let names = given.iter().map(|(name, _)| name.as_str());
    let answer = client.ask_as(TAG, "contexts", |o| {
        o.strings("names", names);
    })?;
    let known = answer.flat().raw("contexts").and_then(|raw| Flat::parse(raw).ok());
    let mut diffs = Vec::new();
    for (name, digest) in given {
        let bases = known.as_ref().and_then(|known| known.strings(name).ok()).unwrap_or_default();
        for base in bases.iter().filter(|base| *base != digest) {
            if let Some((diff, bytes)) = difference(context, name, base, digest)? {
                diffs.push(format!("{digest} {base} {diff} {bytes}"));
            }
        }
    }
    Ok(diffs)
}

/// `None` where there is nothing to gain, or a version is gone.
fn difference(context: &Context, name: &str, base: &str, new: &str) -> Result<Option<(String, u64)>> {
    let text = |digest: &str| {
        let path = context.path(digest);
        let small = path.metadata().is_ok_and(|m| m.len() <= CONTEXT_COMPARED_MAX);
        std::fs::read(path).ok().filter(|bytes| small && !bytes.contains(&0))
    };
    let (Some(old), Some(new)) = (text(base), text(new)) else { return Ok(None) };
    let changes = diff::unified((name, &old), (name, &new)).text;
    if changes.len() >= new.len() {
        return Ok(None);
    }
    let stored = context.put(&changes).map_err(|e| Error::os(format!("cannot store what changed in {name}"), e))?;
    Ok(Some((stored, changes.len() as u64)))
}
