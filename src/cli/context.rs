//! `context`: content by its SHA-256, put, fetched, compared and looked after. It needs no supervisor.
//! Invariant: what `get` and `diff` print was hashed first; content that is not what its name says is refused.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use clap::{Arg, ArgAction, Command};

use super::output::size;
use super::{Call, exit};
use crate::error::{Code, Error, Result, reason};
use crate::json::Object;
use crate::limits::{CONTEXT_GRACE, CONTEXT_TEXT_MAX, DIFF_MAX};
use crate::store::board::{Board, Sharing};
use crate::store::context::{Stored, Verified};
use crate::store::upkeep::{self, Allowed, Item, Total};
use crate::store::{Context, Folders, diff};
use crate::sys::clock;
use crate::time;

pub fn command(command: Command) -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let one = |name: &'static str| {
        Arg::new(name).value_name("REF").required(true).help("REF:DIGEST, a digest, or its first digits")
    };
    let put = Command::new("put")
        .about("Store files, or stdin; print the SHA-256 of each")
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .num_args(0..)
                .default_value("-")
                .help("A file; - is stdin [default: -]")
                .hide_default_value(true),
        )
        .arg(flag("durable").help("Return when it is on disk, not only in the kernel's hands"));
    let gc = Command::new("gc")
        .about("Remove what no hive's log refers to")
        .arg(flag("dry-run").help("Only print what would go"))
        .arg(
            Arg::new("grace")
                .long("grace")
                .value_name("SECONDS")
                .allow_hyphen_values(true)
                .value_parser(grace)
                .help("Keep what was stored or relied upon in the last so many seconds [default: 3600]"),
        )
        .arg(
            Arg::new("max-size")
                .long("max-size")
                .value_name("SIZE")
                .allow_hyphen_values(true)
                .value_parser(bytes)
                .help("Remove only as much as brings the store down to SIZE (500M, 2G), the oldest first"),
        );
    command
        .about("Content by its SHA-256: stored once, shared by all hives")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(put)
        .subcommand(
            Command::new("get").about("Print content, if it is what its name says").arg(one("ref").num_args(1..)),
        )
        .subcommand(
            Command::new("path")
                .about("Print the file that holds a content, to be read or mapped, not written")
                .arg(one("ref").num_args(1..)),
        )
        .subcommand(
            Command::new("diff")
                .about("What changed, as a unified diff; exit 1 where something did")
                .arg(one("a"))
                .arg(one("b")),
        )
        .subcommand(Command::new("stats").about("What is stored, and who refers to it"))
        .subcommand(gc)
        .subcommand(
            Command::new("verify")
                .about("Hash everything (or some); move what is damaged aside, name it, exit 1")
                .arg(one("ref").required(false).num_args(1..)),
        )
}

pub fn run(call: &mut Call) -> Result<i32> {
    let Some((name, args)) = call.args.subcommand() else { return Ok(2) };
    let mut call = Call { args, folders: call.folders.clone(), json: call.json, out: super::Output::new() };
    let context = Context::at(&call.folders.context);
    let code = match name {
        "put" => put(&mut call, context),
        "get" => get(&mut call, &context),
        "path" => path(&mut call, &context),
        "diff" => differ(&mut call, &context),
        "stats" => stats(&mut call, &context),
        "gc" => gc(&mut call, &context),
        _ => verify(&mut call, &context),
    }?;
    call.out.finish()?;
    Ok(code)
}

fn put(call: &mut Call, context: Context) -> Result<i32> {
    let context = if call.flag("durable") { context.durable() } else { context };
    for name in named(call, "file") {
        let stored = match name.as_str() {
            "-" => context.put_from(&mut io::stdin().lock()),
            name => File::open(name).and_then(|mut file| context.put_from(&mut file)),
        };
        let what = if name == "-" { "stdin" } else { &name };
        let Stored { digest, bytes, new } = stored.map_err(|e| Error::os(format!("cannot store {what}"), e))?;
        if call.json {
            json(call, |o| {
                about(o, &digest, bytes);
                o.bool("new", new);
            })?;
        } else {
            call.out.line(&digest)?;
        }
    }
    Ok(exit::DONE)
}

fn get(call: &mut Call, context: &Context) -> Result<i32> {
    for name in named(call, "ref") {
        let digest = context.resolve(&name)?;
        let content = context.verified(&digest).map_err(|e| unusable(&digest, &e))?;
        if call.json {
            let (bytes, text) = as_text(content)?;
            json(call, |o| {
                about(o, &digest, bytes);
                o.opt_str("text", text.as_deref());
            })?;
            continue;
        }
        match content {
            Verified::Bytes(bytes) => call.out.bytes(&bytes)?,
            Verified::File(mut file) => call.out.copy(&mut file)?,
        }
    }
    Ok(exit::DONE)
}

/// Its length; and itself, where JSON can hold it.
fn as_text(content: Verified) -> Result<(u64, Option<String>)> {
    let bytes = match content {
        Verified::Bytes(bytes) => bytes,
        Verified::File(file) => {
            let failed = |e| Error::os("cannot read the content", e);
            let len = file.metadata().map_err(failed)?.len();
            if len > CONTEXT_TEXT_MAX {
                return Ok((len, None));
            }
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut &file, &mut bytes).map_err(failed)?;
            bytes
        }
    };
    Ok((bytes.len() as u64, String::from_utf8(bytes).ok()))
}

fn path(call: &mut Call, context: &Context) -> Result<i32> {
    for name in named(call, "ref") {
        let digest = context.resolve(&name)?;
        let found = upkeep::look_up(context, &digest).map_err(|e| unusable(&digest, &e))?;
        // Whoever asks is about to open it.
        context.renew(&digest);
        let path = context.path(&digest).display().to_string();
        if call.json {
            json(call, |o| {
                about(o, &digest, found.bytes).str("path", &path);
            })?;
        } else {
            call.out.line(&path)?;
        }
    }
    Ok(exit::DONE)
}

fn differ(call: &mut Call, context: &Context) -> Result<i32> {
    let names = ["a", "b"].map(|side| call.text(side).cloned().unwrap_or_default());
    let [a, b] = [context.resolve(&names[0])?, context.resolve(&names[1])?];
    let (old, new) = (to_compare(context, &a)?, to_compare(context, &b)?);
    let (name_a, name_b) = (format!("REF:{a}"), format!("REF:{b}"));
    let binary = old.contains(&0) || new.contains(&0);
    let changes = (!binary).then(|| diff::unified((&name_a, &old), (&name_b, &new)));
    let code = if a == b { exit::DONE } else { exit::FAILED };
    if call.json {
        json(call, |o| {
            o.bool("same", a == b).str("a", &name_a).str("b", &name_b).bool("binary", binary);
            if let Some(changes) = &changes {
                o.num("added", changes.added).num("removed", changes.removed);
                o.str("diff", &String::from_utf8_lossy(&changes.text));
            }
        })?;
    } else if let Some(changes) = changes {
        call.out.bytes(&changes.text)?;
    } else if a != b {
        call.out.line(&format!("Binary contents {name_a} and {name_b} differ"))?;
    }
    Ok(code)
}

fn to_compare(context: &Context, digest: &str) -> Result<Vec<u8>> {
    let unusable = |e: &io::Error| unusable(digest, e);
    let found = upkeep::look_up(context, digest).map_err(|e| unusable(&e))?;
    if found.bytes > DIFF_MAX {
        let most = size(DIFF_MAX);
        let message = format!(
            "REF:{digest} has {}: only up to {most} are compared; see `hivectl context path`",
            size(found.bytes)
        );
        return Err(Error::new(Code::Limit, message));
    }
    match context.verified(digest).map_err(|e| unusable(&e))? {
        Verified::Bytes(bytes) => Ok(bytes),
        Verified::File(mut file) => {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut file, &mut bytes).map_err(|e| unusable(&e))?;
            Ok(bytes)
        }
    }
}

fn stats(call: &mut Call, context: &Context) -> Result<i32> {
    let folders = call.folders.clone();
    let survey = upkeep::survey(context, &bases(&folders))?;
    let (mut used, mut unused) = (Vec::new(), Vec::new());
    for (place, item) in survey.items.iter().enumerate() {
        if survey.is_referenced(place) { used.push(item) } else { unused.push(item) }
    }
    let rows: Vec<(String, Total)> = [
        ("stored", Total::of(&survey.items)),
        ("referred to", Total::of(used)),
        ("not referred to", Total::of(unused)),
        ("being written, or left", survey.drafts),
        ("damaged", survey.damaged),
    ]
    .map(|(name, total)| (name.to_owned(), total))
    .into();
    let of_hive =
        |places: &std::collections::HashSet<usize>| Total::of(places.iter().map(|place| &survey.items[*place]));
    let sharing = sharing(&folders);
    let hives = survey.references.iter().map(|(hive, places)| (hive.as_str(), of_hive(places)));
    if call.json {
        return json(call, |o| {
            o.num("files", rows[0].1.files).num("bytes", rows[0].1.bytes);
            for (name, (_, total)) in ["referenced", "unreferenced", "drafts", "damaged"].iter().zip(&rows[1..]) {
                put_total(o, name, *total);
            }
            list(o, "hives", hives, |o, (hive, total)| {
                o.str("hive", hive).num("files", total.files).num("bytes", total.bytes);
            });
            if let Some((all, agents)) = sharing {
                super::stats::shared(o, all);
                list(o, "agents", agents.iter(), |o, (id, shared)| super::stats::shared(o.num("id", *id), *shared));
            }
        });
    }
    let heading = ["CONTENT", "FILES", "SIZE"].map(str::to_owned).to_vec();
    let by_hive = hives.map(|(hive, total)| (format!("  by hive {hive}"), total));
    let mut shown = rows.clone();
    shown.splice(2..2, by_hive);
    let cells = shown.into_iter().map(|(name, t)| vec![name, t.files.to_string(), size(t.bytes)]);
    call.out.table(&std::iter::once(heading).chain(cells).collect::<Vec<_>>())?;
    if let Some((all, agents)) = sharing {
        let row = |name: String, shared: Sharing| {
            let saved = format!("{:.1} %", percent_saved(shared));
            vec![name, size(shared.asked), size(shared.sent), saved]
        };
        let mut rows = vec![["GIVEN TO", "ASKED FOR", "SENT", "SAVED"].map(str::to_owned).to_vec()];
        rows.extend(agents.into_iter().map(|(id, shared)| row(format!("agent {id}"), shared)));
        rows.push(row(format!("all, in hive {}", folders.hive), all));
        call.out.line("")?;
        call.out.table(&rows)?;
    }
    Ok(exit::DONE)
}

/// What the tasks of this hive were given, and what of that was sent: in all, and to each agent that was given any.
fn sharing(folders: &Folders) -> Option<(Sharing, Vec<(u32, Sharing)>)> {
    let mut board = Board::open(folders).ok()?;
    let all = board.hive().ok()?.shared;
    let agents = board.agents().ok()?.into_iter().filter(|agent| agent.shared.asked > 0);
    (all.asked > 0).then(|| (all, agents.map(|agent| (agent.id, agent.shared)).collect()))
}

pub fn percent_saved(shared: Sharing) -> f64 {
    100.0 * (1.0 - shared.sent as f64 / shared.asked.max(1) as f64)
}

fn gc(call: &mut Call, context: &Context) -> Result<i32> {
    let grace = call.args.get_one::<Duration>("grace").copied().unwrap_or(CONTEXT_GRACE);
    let allowed = Allowed { grace, max_bytes: call.args.get_one("max-size").copied() };
    let now = clock::wall_micros();
    let folders = call.folders.clone();
    let plan = upkeep::plan(context, &bases(&folders), &allowed, now)?;
    let dry = call.flag("dry-run");
    let gone = if dry { Total::of(&plan.items) } else { plan.carry_out(context)? };
    let kept = Total { files: plan.before.files - gone.files, bytes: plan.before.bytes - gone.bytes };
    if call.json {
        json(call, |o| {
            o.bool("dry_run", dry);
            put_total(o, "removed", gone);
            put_total(o, "kept", kept);
            o.num("drafts", plan.drafts.len());
            if dry {
                list(o, "contents", plan.items.iter(), |o, item| {
                    about(o, &item.digest, item.bytes).str("modified", &time::text(item.modified));
                });
            }
        })?;
    } else {
        if dry {
            show_items(call, &plan.items, now)?;
        }
        let would = if dry { "would remove" } else { "removed" };
        let drafts =
            if plan.drafts.is_empty() { String::new() } else { format!(" and {} abandoned drafts", plan.drafts.len()) };
        call.out.line(&format!("{would} {}{drafts}; {} stay", said(gone), said(kept)))?;
    }
    match allowed.max_bytes {
        Some(max) if kept.bytes > max => {
            eprintln!(
                "hivectl: more than {} stay: they are referred to, or younger than {} s",
                size(max),
                grace.as_secs_f64()
            );
            Ok(exit::FAILED)
        }
        _ => Ok(exit::DONE),
    }
}

fn show_items(call: &mut Call, items: &[Item], now: i64) -> Result<()> {
    for item in items {
        call.out.line(&format!(
            "{}  {}  {} old",
            item.digest,
            size(item.bytes),
            time::duration(now - item.modified)
        ))?;
    }
    Ok(())
}

fn verify(call: &mut Call, context: &Context) -> Result<i32> {
    let names = named(call, "ref");
    let items = match names.is_empty() {
        true => upkeep::list(context)?,
        false => names.iter().map(|name| wanted(context, name)).collect::<Result<Vec<_>>>()?,
    };
    let (looked_at, damaged) = upkeep::verify(context, &items)?;
    let code = if damaged.is_empty() { exit::DONE } else { exit::FAILED };
    if call.json {
        json(call, |o| {
            o.num("files", looked_at.files).num("bytes", looked_at.bytes);
            list(o, "damaged", damaged.iter(), |o, damage| {
                o.str("digest", &damage.digest).str("reason", &damage.reason);
                o.str("path", &damage.moved.display().to_string());
            });
        })?;
        return Ok(code);
    }
    for damage in &damaged {
        call.out.line(&format!("{}  {}; moved to {}", damage.digest, damage.reason, damage.moved.display()))?;
    }
    let found = if damaged.is_empty() { "all are what they were".into() } else { format!("{} damaged", damaged.len()) };
    call.out.line(&format!("{}: {found}", said(looked_at)))?;
    Ok(code)
}

fn wanted(context: &Context, name: &str) -> Result<Item> {
    let digest = context.resolve(name)?;
    upkeep::look_up(context, &digest).map_err(|e| unusable(&digest, &e))
}

// ---- what they share ----

/// Where hives keep what may refer to contents.
fn bases(folders: &Folders) -> Vec<&Path> {
    [&folders.kept, &folders.live].into_iter().filter_map(|folder| folder.parent()).collect()
}

fn named(call: &Call, what: &str) -> Vec<String> {
    call.args.get_many::<String>(what).into_iter().flatten().cloned().collect()
}

fn unusable(digest: &str, cause: &io::Error) -> Error {
    match cause.kind() {
        io::ErrorKind::NotFound => Error::new(
            Code::NoSuchContent,
            format!("no content REF:{digest} is stored: put it (`hivectl context put`)"),
        ),
        io::ErrorKind::InvalidData => Error::new(
            Code::Damaged,
            format!("REF:{digest} is damaged: {}: run `hivectl context verify`, and put it anew", reason(cause)),
        ),
        _ => Error::new(Code::Internal, format!("cannot read REF:{digest}: {}", reason(cause))),
    }
}

/// One JSON object, as one line.
fn json(call: &mut Call, fill: impl FnOnce(&mut Object)) -> Result<i32> {
    let mut text = Vec::new();
    let mut o = Object::open(&mut text);
    fill(o.bool("ok", true));
    o.close();
    call.out.bytes(&text)?;
    call.out.bytes(b"\n")?;
    Ok(exit::DONE)
}

fn about<'o, 'a>(o: &'o mut Object<'a>, digest: &str, bytes: u64) -> &'o mut Object<'a> {
    o.str("digest", digest).str("ref", &format!("REF:{digest}")).num("bytes", bytes)
}

fn put_total(o: &mut Object, name: &str, total: Total) {
    let mut inner = Object::open(o.key(name));
    inner.num("files", total.files).num("bytes", total.bytes);
    inner.close();
}

fn list<T>(o: &mut Object, name: &str, items: impl Iterator<Item = T>, mut fill: impl FnMut(&mut Object, T)) {
    let text = o.key(name);
    text.push(b'[');
    for (n, item) in items.enumerate() {
        if n > 0 {
            text.push(b',');
        }
        let mut inner = Object::open(text);
        fill(&mut inner, item);
        inner.close();
    }
    text.push(b']');
}

fn said(total: Total) -> String {
    format!("{} content{} ({})", total.files, if total.files == 1 { "" } else { "s" }, size(total.bytes))
}

fn grace(text: &str) -> std::result::Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    let duration = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    duration.ok_or_else(|| "it must be a number of seconds, 0 or more".to_owned())
}

/// A size as people write it: 500M, 2G, 1.5 GiB, 4096.
pub fn bytes(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = text[digits.len()..].trim().to_ascii_uppercase();
    let power = match unit.trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => 99,
    };
    let number: Option<f64> = digits.parse().ok();
    number
        .filter(|n| power < 99 && *n >= 0.0 && n.is_finite())
        .map(|n| (n * (1u64 << power) as f64) as u64)
        .ok_or_else(|| "it must be a number of bytes, K, M, G or T".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, expected) in
            [("0", 0), ("4096", 4096), ("1k", 1024), ("500M", 500 << 20), ("2GiB", 2 << 30), ("1.5 GB", 3 << 29)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "G", "-1", "1X", "1e", "ten", "nan", "inf"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
