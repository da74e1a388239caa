//! `queue`: items in order, pushed and popped by any processes, with no supervisor in between.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::Stdio;

use clap::{Arg, ArgAction, Command, value_parser};

use super::{Call, exit, foreground, output};
use crate::error::{Code, Error, Result};
use crate::json::Object;
use crate::store::Queue;
use crate::store::queue::{Holder, Item, Listed};
use crate::sys::{clock, process};

pub fn command(command: Command) -> Command {
    let sub = |name: &'static str, about: &'static str| Command::new(name).about(about);
    let name = || Arg::new("name").value_name("NAME").required(true).help("The queue's name");
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let holder = || {
        let holder = Arg::new("holder").long("holder").value_name("PID").value_parser(value_parser!(i32).range(1..));
        holder.help("The process that holds the item [default: the one that called hivectl]")
    };
    let ids = || {
        Arg::new("id")
            .value_name("ID")
            .num_args(0..)
            .value_parser(value_parser!(u64))
            .help("Items' numbers [default: all that the process holds]")
    };
    command
        .about("Push and pop items in order; works with and without a running hive")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            sub("push", "Add an item at the end")
                .arg(name())
                .arg(
                    Arg::new("item")
                        .value_name("ITEM")
                        .allow_hyphen_values(true)
                        .value_parser(value_parser!(OsString))
                        .help("The item, byte for byte; `-`, or none, takes it from stdin, of any size"),
                )
                .arg(flag("lines", "Each line of stdin is an item").conflicts_with("item"))
                .arg(
                    Arg::new("group")
                        .long("group")
                        .value_name("GROUP")
                        .help("Items of one group are handed out one at a time, each when the one before is done"),
                ),
        )
        .subcommand(
            sub("pop", "Take the first item: print it, or give it to a command (exit 4: there is none)")
                .arg(name())
                .arg(flag("wait", "Wait until there is one"))
                .arg(
                    Arg::new("timeout")
                        .long("timeout")
                        .value_name("SECONDS")
                        .allow_hyphen_values(true)
                        .value_parser(super::submit::seconds)
                        .help("Wait, but not longer than this (exit 5)"),
                )
                .arg(flag("ack", "Take it for good at once").conflicts_with("command"))
                .arg(holder())
                .arg(
                    Arg::new("command")
                        .value_name("CMD")
                        .num_args(1..)
                        .last(true)
                        .value_parser(value_parser!(OsString))
                        .help(
                            "Gets the item on stdin; if it succeeds the item is done, else it goes back to its place",
                        ),
                ),
        )
        .subcommand(sub("ack", "Say that popped items are done").arg(name()).arg(ids()).arg(holder()))
        .subcommand(sub("return", "Put popped items back to their places").arg(name()).arg(ids()).arg(holder()))
        .subcommand(sub("list", "Show the queues, or what is in one").arg(name().required(false)))
}

pub fn run(call: &mut Call) -> Result<i32> {
    let Some((verb, args)) = call.args.subcommand() else {
        return Ok(2);
    };
    let mut inner = Call { args, folders: call.folders.clone(), json: call.json, out: output::Output::new() };
    let code = match verb {
        "push" => push(&mut inner),
        "pop" => pop(&mut inner),
        "ack" => settle(&mut inner, true),
        "return" => settle(&mut inner, false),
        _ => list(&mut inner),
    }?;
    inner.out.finish()?;
    Ok(code)
}

fn open(call: &Call) -> Result<Queue> {
    Queue::open(&call.folders, call.text("name").map_or("", |name| name.as_str()))
}

fn push(call: &mut Call) -> Result<i32> {
    let group = call.text("group").cloned().unwrap_or_default();
    let items = match call.flag("lines") {
        false => vec![super::state::typed_bytes(call, "item", u64::MAX - 1)?],
        true => {
            let mut text = Vec::new();
            std::io::stdin().lock().read_to_end(&mut text).map_err(|e| Error::os("cannot read stdin", e))?;
            text.split_inclusive(|b| *b == b'\n')
                .map(|line| line.strip_suffix(b"\n").unwrap_or(line).to_vec())
                .collect()
        }
    };
    let mut queue = open(call)?;
    for item in items {
        let id = queue.push(&item, &group)?;
        match call.json {
            true => call.out.line(&format!("{{\"ok\":true,\"id\":{id}}}"))?,
            false => call.out.line(&id.to_string())?,
        }
    }
    Ok(exit::DONE)
}

fn pop(call: &mut Call) -> Result<i32> {
    let mut queue = open(call)?;
    let command = foreground::typed(call);
    // Whoever runs a command for the item is this process; else it is the one that will work on it.
    let holder = match command.is_some() || call.flag("ack") {
        true => Holder::of(process::my_pid().0)?,
        false => holder(call)?,
    };
    let timeout = call.args.get_one::<f64>("timeout").copied();
    let item = match (call.flag("wait"), timeout) {
        (false, None) => queue.pop(holder)?,
        _ => {
            let deadline = timeout.map(|seconds| clock::monotonic_micros() + (seconds.min(1e9) * 1e6) as i64);
            queue.pop_waiting(holder, deadline)?
        }
    };
    let Some(item) = item else {
        let name = call.text("name").map_or("", |name| name.as_str());
        return Err(match timeout {
            Some(seconds) => Error::new(Code::TimedOut, format!("the queue \"{name}\" had no item within {seconds} s")),
            None => Error::new(Code::NoSuchItem, format!("the queue \"{name}\" has no item to hand out")),
        });
    };
    if let Some(command) = command {
        return work(call, &mut queue, holder, &item, command);
    }
    if call.flag("ack") {
        // Done when it was printed: until then it goes back if this process is killed.
        print(call, &queue, &item)?;
        call.out.finish()?;
        queue.ack(item.id, holder)?;
        return Ok(exit::DONE);
    }
    print(call, &queue, &item)?;
    Ok(exit::DONE)
}

fn holder(call: &Call) -> Result<Holder> {
    let parent = nix::unistd::getppid().as_raw();
    Holder::of(call.args.get_one::<i32>("holder").copied().unwrap_or(parent))
}

fn print(call: &mut Call, queue: &Queue, item: &Item) -> Result<()> {
    let content = queue.content(item)?;
    if !call.json {
        return match content {
            Some(mut file) => call.out.copy(&mut file),
            None => call.out.bytes(&item.text),
        };
    }
    let mut line = Vec::new();
    let mut o = Object::open(&mut line);
    o.bool("ok", true).num("id", item.id);
    o.opt_str("group", Some(item.group.as_str()).filter(|group| !group.is_empty()));
    let text = std::str::from_utf8(&item.text).ok();
    match content {
        Some(file) => o.opt_str("ref", text).num("bytes", file.metadata().map_or(0, |meta| meta.len())),
        None => o.opt_str("item", text).num("bytes", item.text.len()),
    };
    o.close();
    call.out.line(&String::from_utf8_lossy(&line))
}

/// Runs a command on an item, which is done if the command succeeds.
fn work(
    call: &Call,
    queue: &mut Queue,
    holder: Holder,
    item: &Item,
    mut command: std::process::Command,
) -> Result<i32> {
    let cannot = |e| Error::os("cannot hand the item to the command", e);
    let stdin = match queue.content(item)? {
        Some(file) => Stdio::from(file),
        None => {
            // A pipe holds more than an item that lies in the queue.
            let (read, write) = crate::sys::pipe().map_err(cannot)?;
            std::fs::File::from(write).write_all(&item.text).map_err(cannot)?;
            Stdio::from(read)
        }
    };
    command.stdin(stdin).env("HIVE_ITEM", item.id.to_string());
    command.env("HIVE_QUEUE", call.text("name").map_or("", |name| name.as_str()));
    let code = foreground::run(&mut command);
    match code {
        Ok(exit::DONE) => queue.ack(item.id, holder)?,
        _ => queue.give_back(item.id, holder)?,
    };
    code
}

/// `ack` and `return`.
fn settle(call: &mut Call, done: bool) -> Result<i32> {
    let mut queue = open(call)?;
    let holder = holder(call)?;
    let mut ids: Vec<u64> = call.args.get_many::<u64>("id").into_iter().flatten().copied().collect();
    if ids.is_empty() {
        ids = queue.held_by(holder)?;
        if ids.is_empty() {
            let message = format!("process {} holds no item of this queue", holder.pid);
            return Err(Error::new(Code::NoSuchItem, message));
        }
    }
    for id in &ids {
        let was_held = if done { queue.ack(*id, holder)? } else { queue.give_back(*id, holder)? };
        if !was_held {
            let message = format!("process {} does not hold item {id}: it went back, or is done", holder.pid);
            return Err(Error::new(Code::NoSuchItem, message));
        }
    }
    if call.json {
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        call.out.line(&format!("{{\"ok\":true,\"ids\":[{}]}}", ids.join(",")))?;
    }
    Ok(exit::DONE)
}

fn list(call: &mut Call) -> Result<i32> {
    let names = match call.text("name") {
        Some(name) => vec![name.clone()],
        None => Queue::names(&call.folders),
    };
    let mut rows = Vec::new();
    for name in &names {
        if !call.folders.queues().join(name).is_dir() {
            return Err(Error::new(Code::NoSuchItem, format!("no queue \"{name}\": see `hivectl queue list`")));
        }
        rows.push((name.clone(), Queue::open(&call.folders, name)?.list()?));
    }
    if call.json {
        let queues: Vec<String> = rows.iter().map(|(name, items)| json_of(name, items)).collect();
        call.out.line(&format!("{{\"queues\":[{}]}}", queues.join(",")))?;
        return Ok(exit::DONE);
    }
    let mut table = vec![["QUEUE", "ITEM", "BYTES", "GROUP", "HELD BY"].map(str::to_owned).to_vec()];
    for (name, items) in rows {
        for item in items {
            let held = item.holder.map_or("-".to_owned(), |holder| holder.pid.to_string());
            let group = if item.group.is_empty() { "-".to_owned() } else { item.group };
            table.push(vec![name.clone(), item.id.to_string(), item.bytes.to_string(), group, held]);
        }
    }
    call.out.table(&table)?;
    Ok(exit::DONE)
}

fn json_of(name: &str, items: &[Listed]) -> String {
    let mut text = Vec::new();
    let mut o = Object::open(&mut text);
    let held = items.iter().filter(|item| item.holder.is_some()).count();
    o.str("name", name).num("ready", items.len() - held).num("held", held);
    let list = o.key("items");
    list.push(b'[');
    for (n, item) in items.iter().enumerate() {
        list.extend_from_slice(if n == 0 { b"" } else { b"," });
        let mut one = Object::open(list);
        one.num("id", item.id).num("bytes", item.bytes);
        one.opt_str("group", Some(item.group.as_str()).filter(|group| !group.is_empty()));
        if let Some(holder) = item.holder {
            one.num("holder", holder.pid);
        }
        one.close();
    }
    list.push(b']');
    o.close();
    String::from_utf8_lossy(&text).into_owned()
}
