//! `state`: values under keys, shared by all processes of this user, with no supervisor in between.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::{Arg, ArgAction, Command, value_parser};

use super::{Call, exit, output};
use crate::error::{Code, Error, Result};
use crate::json::Object;
use crate::limits;
use crate::store::State;
use crate::store::state::{Entry, Key, Options, Outcome, Pattern, Watch};
use crate::sys::clock;

pub fn command(command: Command) -> Command {
    let sub = |name: &'static str, about: &'static str| Command::new(name).about(about);
    let key = || Arg::new("key").value_name("KEY").required(true).help("A path, like plan/step");
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let ttl = Arg::new("ttl").long("ttl").value_name("SECONDS").allow_hyphen_values(true);
    let ttl = ttl.value_parser(super::submit::seconds).help("It goes by itself after this time");
    let durable = flag("durable", "Keep it on disk, through a reboot; a key stays durable until it is deleted");
    let command = command
        .about("Set and get values that all processes share; works with and without a running hive")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            sub("get", "Print a value, byte for byte (exit 4: there is none)")
                .arg(key())
                .arg(flag("version", "Print its version instead, for `cas`")),
        )
        .subcommand(sub("set", "Set a value").arg(key()).arg(value()).arg(ttl.clone()).arg(durable.clone()))
        .subcommand(
            sub("cas", "Set a value only where the key still has this version (exit 1: it has another)")
                .arg(key())
                .arg(
                    Arg::new("version")
                        .value_name("VERSION")
                        .required(true)
                        .value_parser(value_parser!(u64))
                        .help("As `state get --version` prints it; 0: only where there is none"),
                )
                .arg(value())
                .arg(ttl)
                .arg(durable),
        )
        .subcommand(
            sub("incr", "Add to a number, and print what it is then; a key that is not there counts from 0")
                .arg(key())
                .arg(
                    Arg::new("by")
                        .long("by")
                        .value_name("N")
                        .default_value("1")
                        .allow_hyphen_values(true)
                        .value_parser(value_parser!(i64))
                        .help("How much, below 0 to subtract"),
                ),
        )
        .subcommand(
            sub("del", "Delete keys (exit 4: one was not there)")
                .arg(key().num_args(1..).help("A key; with a slash at its end, everything below")),
        );
    looking(command)
}

/// The parts that look at many keys, or at none.
fn looking(command: Command) -> Command {
    let sub = |name: &'static str, about: &'static str| Command::new(name).about(about);
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    command
        .subcommand(
            sub("list", "List the keys")
                .arg(pattern().num_args(0..=1))
                .arg(flag("long", "With version, size, where it is kept and how long it lives").short('l')),
        )
        .subcommand(
            sub("watch", "Print each change of some keys as it happens: key, tab, value")
                .arg(pattern().num_args(1..).required(true))
                .arg(flag("current", "Begin with what the keys are now"))
                .arg(
                    Arg::new("count")
                        .short('n')
                        .long("count")
                        .value_name("N")
                        .value_parser(value_parser!(u64).range(1..))
                        .help("End after so many changes"),
                )
                .arg(
                    Arg::new("timeout")
                        .long("timeout")
                        .value_name("SECONDS")
                        .allow_hyphen_values(true)
                        .value_parser(super::submit::seconds)
                        .help("Give up (exit 5) after this time"),
                ),
        )
        .subcommand(sub("quota", "Print how many bytes all values of this hive may take up, or change it").arg(
            Arg::new("bytes").value_name("BYTES").value_parser(value_parser!(u64).range(1..)).help("The new quota"),
        ))
}

fn value() -> Arg {
    Arg::new("value")
        .value_name("VALUE")
        .allow_hyphen_values(true)
        .value_parser(value_parser!(OsString))
        .help("The value, byte for byte; `-`, or none, takes it from stdin, of up to 64 MiB")
}

fn pattern() -> Arg {
    Arg::new("key").value_name("KEY").help("A key; with a slash at its end, everything below")
}

pub fn run(call: &mut Call) -> Result<i32> {
    let Some((name, args)) = call.args.subcommand() else {
        return Ok(2);
    };
    let mut inner = Call { args, folders: call.folders.clone(), json: call.json, out: output::Output::new() };
    let code = match name {
        "get" => get(&mut inner),
        "set" | "cas" => set(&mut inner, name),
        "incr" => incr(&mut inner),
        "del" => del(&mut inner),
        "list" => list(&mut inner),
        "watch" => watch(&mut inner),
        _ => quota(&mut inner),
    }?;
    inner.out.finish()?;
    Ok(code)
}

fn key(call: &Call) -> Result<Key> {
    Key::parse(call.text("key").map_or("", |key| key.as_str())).map_err(|e| Error::new(Code::BadRequest, e))
}

fn patterns(call: &Call) -> Result<Vec<Pattern>> {
    let typed = call.args.get_many::<String>("key").into_iter().flatten();
    let parsed: std::result::Result<Vec<Pattern>, String> = typed.map(|text| Pattern::parse(text)).collect();
    parsed.map_err(|e| Error::new(Code::BadRequest, e))
}

fn missing(key: &Key) -> Error {
    Error::new(Code::NoSuchKey, format!("no key \"{}\": see `hivectl state list`", key.as_str()))
}

fn get(call: &mut Call) -> Result<i32> {
    let key = key(call)?;
    let mut state = State::find(&call.folders)?;
    let value = state.as_mut().map_or(Ok(None), |state| state.get(&key))?;
    let (Some(state), Some(value)) = (state, value) else {
        return Err(missing(&key));
    };
    if call.json {
        let mut line = Vec::new();
        let mut o = Object::open(&mut line);
        o.bool("ok", true).str("key", key.as_str()).num("version", value.version).num("bytes", value.bytes.len());
        o.opt_str("value", std::str::from_utf8(&value.bytes).ok()).bool("durable", value.durable);
        o.str("path", &state.path(&key, value.durable).display().to_string());
        o.close();
        call.out.line(&String::from_utf8_lossy(&line))?;
    } else if call.flag("version") {
        call.out.line(&value.version.to_string())?;
    } else {
        call.out.bytes(&value.bytes)?;
    }
    Ok(exit::DONE)
}

fn set(call: &mut Call, verb: &str) -> Result<i32> {
    let key = key(call)?;
    let options = Options {
        ttl: call.args.get_one::<f64>("ttl").map(|seconds| Duration::from_secs_f64(seconds.min(1e9))),
        durable: call.flag("durable"),
        expected: (verb == "cas").then(|| call.args.get_one::<u64>("version").copied().unwrap_or(0)),
    };
    let bytes = typed_bytes(call, "value", limits::VALUE_MAX)?;
    let version = match State::open(&call.folders)?.set(&key, &bytes, &options)? {
        Outcome::Set(version) => version,
        Outcome::Lost(version) => {
            let now = if version == 0 { "it is not there".to_owned() } else { format!("it has version {version}") };
            let message = format!("\"{}\" was not set: {now}, not the expected one", key.as_str());
            return Err(Error::new(Code::Conflict, message));
        }
    };
    match (call.json, verb) {
        (true, _) => answer(call, &key, |o| {
            o.num("version", version);
        })?,
        (false, "cas") => call.out.line(&version.to_string())?,
        (false, _) => {}
    }
    Ok(exit::DONE)
}

/// What was typed, or what stdin holds, byte for byte.
pub fn typed_bytes(call: &Call, name: &str, most: u64) -> Result<Vec<u8>> {
    if let Some(typed) = call.args.get_one::<OsString>(name).filter(|typed| *typed != "-") {
        return Ok(typed.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(most + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::os("cannot read stdin", e))?;
    Ok(bytes)
}

fn incr(call: &mut Call) -> Result<i32> {
    let key = key(call)?;
    let by = call.args.get_one::<i64>("by").copied().unwrap_or(1);
    let number = State::open(&call.folders)?.incr(&key, by)?;
    match call.json {
        true => answer(call, &key, |o| {
            o.num("value", number);
        })?,
        false => call.out.line(&number.to_string())?,
    }
    Ok(exit::DONE)
}

fn answer(call: &mut Call, key: &Key, fields: impl FnOnce(&mut Object)) -> Result<()> {
    let mut line = Vec::new();
    let mut o = Object::open(&mut line);
    fields(o.bool("ok", true).str("key", key.as_str()));
    o.close();
    call.out.line(&String::from_utf8_lossy(&line))
}

fn del(call: &mut Call) -> Result<i32> {
    let patterns = patterns(call)?;
    let mut state = State::find(&call.folders)?;
    let (mut count, mut absent) = (0, None);
    for pattern in patterns {
        let deleted = match (&mut state, pattern.key()) {
            (None, _) => 0,
            (Some(state), Some(key)) => usize::from(state.del(&key)?),
            (Some(state), None) => state.del_all(&pattern)?,
        };
        count += deleted;
        absent = absent.or_else(|| Some(pattern).filter(|_| deleted == 0));
    }
    if let Some(pattern) = absent {
        let message = format!("no key \"{}\"; deleted: {count}", pattern.as_str());
        return Err(Error::new(Code::NoSuchKey, message));
    }
    if call.json {
        call.out.line(&format!("{{\"ok\":true,\"deleted\":{count}}}"))?;
    }
    Ok(exit::DONE)
}

fn list(call: &mut Call) -> Result<i32> {
    let pattern = patterns(call)?.pop().unwrap_or_else(Pattern::all);
    let mut state = State::find(&call.folders)?;
    let entries = state.as_mut().map_or(Ok(Vec::new()), |state| state.list(&pattern))?;
    let (used, quota) = state.map_or((0, limits::STATE_BYTES_MAX), |state| (state.used(), state.quota()));
    if call.json {
        let rows: Vec<String> = entries.iter().map(json_of).collect();
        let rows = rows.join(",");
        call.out.line(&format!("{{\"keys\":[{rows}],\"used\":{used},\"quota\":{quota}}}"))?;
    } else if call.flag("long") {
        let heading = ["KEY", "VERSION", "BYTES", "KEPT", "LIVES"].map(str::to_owned).to_vec();
        let rows: Vec<Vec<String>> = [heading].into_iter().chain(entries.iter().map(row_of)).collect();
        call.out.table(&rows)?;
    } else {
        entries.iter().try_for_each(|entry| call.out.line(&entry.key))?;
    }
    Ok(exit::DONE)
}

fn json_of(entry: &Entry) -> String {
    let mut row = Vec::new();
    let mut o = Object::open(&mut row);
    o.str("key", &entry.key).num("version", entry.version).num("bytes", entry.bytes).bool("durable", entry.durable);
    o.bool("counter", entry.counter);
    if let Some(left) = entry.expires_in {
        o.raw("expires_in", &format!("{:.6}", left as f64 / 1e6));
    }
    o.close();
    String::from_utf8_lossy(&row).into_owned()
}

fn row_of(entry: &Entry) -> Vec<String> {
    let kept = if entry.durable { "disk" } else { "memory" };
    let lives = entry.expires_in.map_or("-".to_owned(), crate::time::duration);
    vec![entry.key.clone(), entry.version.to_string(), entry.bytes.to_string(), kept.to_owned(), lives]
}

fn watch(call: &mut Call) -> Result<i32> {
    let patterns = patterns(call)?;
    let mut state = State::open(&call.folders)?;
    let timeout = call.args.get_one::<f64>("timeout").copied();
    let deadline = timeout.map(|seconds| clock::monotonic_micros() + (seconds.min(1e9) * 1e6) as i64);
    let mut watch = Watch::new(&mut state, &patterns)?;
    let mut told = std::collections::HashMap::new();
    if call.flag("current") {
        for pattern in &patterns {
            for entry in state.list(pattern)? {
                let Ok(key) = Key::parse(&entry.key) else { continue };
                let Some(value) = state.get(&key)? else { continue };
                told.insert(entry.key.clone(), value.version);
                print(call, &entry.key, value.version, Some(&value.bytes))?;
            }
        }
    }
    call.out.finish()?;
    let mut left = call.args.get_one::<u64>("count").copied();
    while left != Some(0) {
        let Some(change) = watch.next(&mut state, deadline)? else {
            watch.close(&state)?;
            let message = format!("no change within {} s", timeout.unwrap_or_default());
            return Err(Error::new(Code::TimedOut, message));
        };
        // It came between the beginning of the watch and the look at what is.
        if told.get(&change.key).is_some_and(|version| change.version <= *version) {
            continue;
        }
        print(call, &change.key, change.version, change.value.as_deref())?;
        call.out.finish()?;
        left = left.map(|left| left - 1);
    }
    watch.close(&state)?;
    Ok(exit::DONE)
}

fn print(call: &mut Call, key: &str, version: u64, value: Option<&[u8]>) -> Result<()> {
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    if call.json {
        let mut line = Vec::new();
        let mut o = Object::open(&mut line);
        o.str("key", key).num("version", version).bool("deleted", value.is_none());
        o.opt_str("value", text);
        if let Some(value) = value {
            o.num("bytes", value.len());
        }
        o.close();
        return call.out.line(&String::from_utf8_lossy(&line));
    }
    let shown = match (value, text.map(|text| text.strip_suffix('\n').unwrap_or(text))) {
        (None, _) => "(deleted)".to_owned(),
        (Some(_), Some(text)) if !text.chars().any(char::is_control) => text.to_owned(),
        (Some(value), _) => format!("({} bytes)", value.len()),
    };
    call.out.line(&format!("{key}\t{shown}"))
}

fn quota(call: &mut Call) -> Result<i32> {
    let state = State::open(&call.folders)?;
    if let Some(bytes) = call.args.get_one::<u64>("bytes") {
        state.set_quota(*bytes);
    }
    let (used, quota) = (state.used(), state.quota());
    match call.json {
        true => call.out.line(&format!("{{\"ok\":true,\"used\":{used},\"quota\":{quota}}}"))?,
        false => call.out.line(&format!("{used} of {quota} bytes are used"))?,
    }
    Ok(exit::DONE)
}
