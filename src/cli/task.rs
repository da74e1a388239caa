//! Verbs about tasks that exist: `wait`, `result`, `tasks`, `task`, `cancel`.

use std::io::Read;

use clap::{Arg, ArgAction, Command, value_parser};

use super::past_task::{self, About};
use super::{Call, exit, outcome, output};
use crate::client::{Answer, Client};
use crate::error::{Code, Error, Result};
use crate::json::{Flat, unquote};
use crate::store::Context;
use crate::sys::clock;
use crate::{time, wire};

fn ids_arg() -> Arg {
    Arg::new("id").value_name("ID").num_args(1..).value_parser(value_parser!(u64)).help("A task's number")
}

fn ids(call: &Call) -> Vec<u64> {
    call.args.get_many::<u64>("id").into_iter().flatten().copied().collect()
}

pub fn wait_command(command: Command) -> Command {
    command
        .about("Wait until tasks have ended; exit 0 if all of them are done")
        .arg(ids_arg().required_unless_present("all"))
        .arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .conflicts_with("id")
                .help("Every task that there is now"),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .value_parser(super::submit::seconds)
                .allow_hyphen_values(true)
                .help("Wait no longer than this (exit 5)"),
        )
}

pub fn wait(call: &mut Call) -> Result<i32> {
    let deadline = call.args.get_one::<f64>("timeout").map(|s| clock::monotonic_micros() + (s * 1e6) as i64);
    let mut client = call.connect()?;
    if call.flag("all") {
        client.send(1, "wait-all", |_| {})?;
        return all_ended(call, await_answer(&mut client, deadline)?);
    }
    let mut code = exit::DONE;
    for id in ids(call) {
        client.send(1, "wait", |o| {
            o.num("id", id);
        })?;
        let answer = await_answer(&mut client, deadline)?;
        let answer = match answer.accepted() {
            Err(e) if e.code == Code::Forgotten => past_task::of(call, id, About::End)?,
            other => other?,
        };
        if answer.str("state").as_deref() != Some("done") {
            code = exit::FAILED;
        }
        match call.json {
            true => call.out.line(&outcome::without_tag(answer.text()))?,
            false => call.out.line(&format!("{id} {}", answer.str("state").unwrap_or_default()))?,
        }
        call.out.finish()?;
    }
    Ok(code)
}

fn await_answer(client: &mut Client, deadline: Option<i64>) -> Result<Answer> {
    let answer = client.answer_until(deadline, None::<&std::fs::File>)?;
    answer.ok_or_else(|| Error::new(Code::TimedOut, "the time is up, and not everything has ended: the tasks go on"))
}

fn all_ended(call: &mut Call, answer: Answer) -> Result<i32> {
    let answer = answer.accepted()?;
    let count = |name: &str| answer.num(name).unwrap_or(0);
    let (done, failed, cancelled) = (count("done"), count("failed"), count("cancelled"));
    match call.json {
        true => call.out.line(&outcome::without_tag(answer.text()))?,
        false => call.out.line(&format!("{done} done, {failed} failed, {cancelled} cancelled"))?,
    }
    Ok(if failed + cancelled == 0 { exit::DONE } else { exit::FAILED })
}

pub fn result_command(command: Command) -> Command {
    command
        .about("Print the result of a task that has ended, and exit as it did")
        .arg(ids_arg().num_args(1).required(true))
}

pub fn result(call: &mut Call) -> Result<i32> {
    let id = ids(call)[0];
    let answer = ask_about(call, "result", id, About::End)?;
    match answer.str("state").as_deref() {
        Some("done" | "failed" | "cancelled") => outcome::show(call, &answer),
        state => {
            let message = format!(
                "task {id} has not ended: it is {}; `hivectl wait {id}` waits for it",
                state.unwrap_or("unknown")
            );
            Err(Error::new(Code::NotReady, message))
        }
    }
}

/// What the supervisor says of a task; where it has forgotten it, or there is none, what the log says.
pub fn ask_about(call: &Call, op: &str, id: u64, about: About) -> Result<Answer> {
    let asked = call.connect().and_then(|mut client| {
        client.ask(op, |o| {
            o.num("id", id);
        })
    });
    match asked {
        Err(e) if e.code == Code::Forgotten => past_task::of(call, id, about),
        Err(e) if e.code == Code::NoHive => {
            past_task::of(call, id, about).map_err(|of| if of.code == Code::Forgotten { of } else { e })
        }
        other => other,
    }
}

pub fn cancel_command(command: Command) -> Command {
    command
        .about("Cancel tasks: a queued one at once, a running one by ending all that it started")
        .arg(ids_arg().required(true))
}

pub fn cancel(call: &mut Call) -> Result<i32> {
    let mut client = call.connect()?;
    for id in ids(call) {
        client.ask("cancel", |o| {
            o.num("id", id);
        })?;
    }
    Ok(exit::DONE)
}

pub fn task_command(command: Command) -> Command {
    command.about("Show one task").arg(ids_arg().num_args(1).required(true))
}

pub fn task(call: &mut Call) -> Result<i32> {
    let id = ids(call)[0];
    let answer = ask_about(call, "task", id, About::All)?;
    let task = answer.flat().raw("task").unwrap_or("{}").to_owned();
    if call.json {
        call.out.line(&task)?;
        return Ok(exit::DONE);
    }
    let flat = Flat::parse(&task).map_err(|e| Error::new(Code::Internal, e))?;
    for name in flat.names() {
        let raw = flat.raw(name).unwrap_or("null");
        call.out.line(&format!("{name:<11}{}", output::harmless(&unquote(raw).unwrap_or(raw.into()))))?;
    }
    Ok(exit::DONE)
}

pub fn tasks_command(command: Command) -> Command {
    command.about("List tasks: those that live, and those that ended lately").arg(
        Arg::new("state")
            .long("state")
            .value_name("STATE")
            .value_parser(["queued", "running", "paused", "done", "failed", "cancelled"])
            .help("Only those in this state"),
    )
}

/// Asks page by page: an answer holds as many tasks as a client's queue takes.
pub fn tasks(call: &mut Call) -> Result<i32> {
    let mut client = call.connect()?;
    let wanted = call.text("state").cloned();
    let mut rows: Vec<String> = Vec::new();
    let mut from = 0;
    loop {
        let answer = client.ask("tasks", |o| {
            o.num("from", from);
        })?;
        let page: Vec<Box<serde_json::value::RawValue>> =
            serde_json::from_str(answer.flat().raw("tasks").unwrap_or("[]"))
                .map_err(|e| Error::new(Code::Internal, e.to_string()))?;
        rows.extend(
            page.iter()
                .map(|row| row.get().to_owned())
                .filter(|row| wanted.as_ref().is_none_or(|w| state_of(row) == *w)),
        );
        match answer.num("next") {
            Some(next) => from = next,
            None => break,
        }
    }
    if call.json {
        call.out.bytes(b"{\"tasks\":[")?;
        for (n, row) in rows.iter().enumerate() {
            call.out.bytes(if n > 0 { b",\n" } else { b"" })?;
            call.out.bytes(row.as_bytes())?;
        }
        call.out.line("]}")?;
        return Ok(exit::DONE);
    }
    let table = table(&rows, &Context::at(&call.folders.context), clock::wall_micros());
    call.out.table(&table)?;
    Ok(exit::DONE)
}

/// Tasks for people, as they are (or were) at `now`.
pub fn table(rows: &[String], context: &Context, now: i64) -> Vec<Vec<String>> {
    let heading = ["ID", "STATE", "AGENT", "TRY", "AGE", "TOOK", "TEXT"].map(str::to_owned).to_vec();
    std::iter::once(heading).chain(rows.iter().filter_map(|row| cells(row, context, now))).collect()
}

fn state_of(row: &str) -> String {
    Flat::parse(row).ok().and_then(|f| f.str("state").ok().flatten().map(|s| s.into_owned())).unwrap_or_default()
}

/// The first line of a task's text, wherever it is.
fn headline(text: &str, context: &Context) -> String {
    let Some(digest) = wire::reference(text) else { return wire::answer::headline(text).into_owned() };
    let mut first = Vec::new();
    let read = context.open(digest).and_then(|file| file.take(256).read_to_end(&mut first));
    match read {
        Ok(_) => wire::answer::headline(&String::from_utf8_lossy(&first)).into_owned(),
        Err(_) => text.to_owned(),
    }
}

fn cells(row: &str, context: &Context, now: i64) -> Option<Vec<String>> {
    let flat = Flat::parse(row).ok()?;
    let text = |name: &str| flat.str(name).ok().flatten().map(|t| t.into_owned());
    let num = |name: &str| flat.u64(name).ok().flatten().map(|n| n.to_string());
    let at = |name: &str| text(name).and_then(|t| time::parse(&t));
    let age = at("submitted").map(|at| time::duration(now - at)).unwrap_or_default();
    let took = at("started").map(|started| time::duration(at("ended").unwrap_or(now) - started)).unwrap_or_default();
    let mut shown: String = headline(&text("text")?, context).chars().take(60).collect();
    if let Some(name) = text("name") {
        shown = format!("{name}: {shown}");
    }
    Some(vec![num("id")?, text("state")?, num("agent").unwrap_or("-".into()), num("attempt")?, age, took, shown])
}
