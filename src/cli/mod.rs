//! The command line: what was typed, turned into what it means here. Each verb is one row of `VERBS`.
//! Invariant: results go to stdout, everything else to stderr; a closed stdout ends a verb quietly.

mod context;
mod events;
mod foreground;
mod given;
mod launch;
mod lock;
mod logs;
mod outcome;
mod output;
mod past_task;
mod pool;
mod queue;
mod run;
mod start;
mod state;
mod stats;
mod status;
mod steer;
mod submit;
mod task;

pub use launch::supervise;

use std::ffi::OsString;
use std::mem::ManuallyDrop;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::store::Folders;
use output::Output;

/// What every verb is given.
pub struct Call<'a> {
    pub args: &'a ArgMatches,
    pub folders: Folders,
    pub json: bool,
    pub out: Output,
}

impl Call<'_> {
    pub fn connect(&self) -> Result<Client> {
        Client::connect(&self.folders)
    }

    pub fn text(&self, name: &str) -> Option<&String> {
        self.args.get_one::<String>(name)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.args.get_flag(name)
    }
}

/// Exit codes of hivectl's own; a task's own code is passed through by `run`.
pub mod exit {
    pub const DONE: i32 = 0;
    pub const FAILED: i32 = 1;
    pub const TIMED_OUT: i32 = 5;
    /// `run`: not the task failed but hive.
    pub const HIVE_FAILED: i32 = 125;
    pub const INTERRUPTED: i32 = 130;
    pub const BROKEN_PIPE: i32 = 141;
}

struct Verb {
    name: &'static str,
    command: fn(Command) -> Command,
    run: fn(&mut Call) -> Result<i32>,
}

/// In the order that help shows them.
const VERBS: &[Verb] = &[
    Verb { name: "pool", command: pool::command, run: pool::run },
    Verb { name: "run", command: run::command, run: run::run },
    Verb { name: "submit", command: submit::command, run: submit::run },
    Verb { name: "wait", command: task::wait_command, run: task::wait },
    Verb { name: "result", command: task::result_command, run: task::result },
    Verb { name: "tasks", command: task::tasks_command, run: task::tasks },
    Verb { name: "task", command: task::task_command, run: task::task },
    Verb { name: "cancel", command: task::cancel_command, run: task::cancel },
    Verb { name: "pause", command: steer::pause_command, run: steer::pause },
    Verb { name: "resume", command: steer::resume_command, run: steer::resume },
    Verb { name: "inject", command: steer::inject_command, run: steer::inject },
    Verb { name: "checkpoint", command: steer::checkpoint_command, run: steer::checkpoint },
    Verb { name: "logs", command: logs::command, run: logs::run },
    Verb { name: "context", command: context::command, run: context::run },
    Verb { name: "state", command: state::command, run: state::run },
    Verb { name: "lock", command: lock::lock_command, run: lock::lock },
    Verb { name: "elect", command: lock::elect_command, run: lock::elect },
    Verb { name: "queue", command: queue::command, run: queue::run },
    Verb { name: "stats", command: stats::command, run: stats::run },
    Verb { name: "events", command: events::command, run: events::run },
    Verb { name: "paths", command: paths_command, run: paths },
];

const CODES: &str = "\
Exit codes:
  0 done   1 the task failed, or the answer is no   2 wrong use   3 no hive is running
  4 no such agent, task, label, content, key or item   5 timed out   6 refused (limit, disk full, running already)
  `run` exits with the task's own code where it has one, `lock`, `elect` and `queue pop` with their
  command's; with 125 where hive failed.

Environment:
  HIVE_NAME  the hive to talk to (default: default)      HIVE_DIR  where logs and results are kept
  HIVE_SHM   where pipes and live state are (default: /dev/shm/hive-<uid>)      NO_COLOR  no colours";

pub fn main(args: &[OsString]) -> i32 {
    // A verb is short, and its memory goes back with the process: to take it apart piece by piece would be most of the work.
    let mut command = ManuallyDrop::new(command_for(args));
    let matches = match command.try_get_matches_from_mut(args) {
        Ok(matches) => ManuallyDrop::new(matches),
        Err(e) => {
            let code = if e.use_stderr() { 2 } else { 0 };
            return if e.print().is_err() { exit::BROKEN_PIPE } else { code };
        }
    };
    let Some((name, args)) = matches.subcommand() else {
        return 2;
    };
    let Some(verb) = VERBS.iter().find(|v| v.name == name) else {
        return 2;
    };
    let named = std::env::var("HIVE_NAME").ok().filter(|name| !name.is_empty());
    let hive = matches.get_one::<String>("hive").or(named.as_ref()).map_or("default", |name| name.as_str());
    let json = matches.get_flag("json");
    let outcome = Folders::of(hive).and_then(|folders| {
        let mut call = Call { args, folders, json, out: Output::new() };
        let code = (verb.run)(&mut call)?;
        call.out.finish()?;
        Ok(code)
    });
    match outcome {
        Ok(code) => code,
        Err(e) if output::is_broken_pipe(&e) => exit::BROKEN_PIPE,
        Err(e) => complain(&e, json, name),
    }
}

/// Only the verb that was typed is built: a command line is parsed thousands of times more often than help is read.
fn command_for(args: &[OsString]) -> Command {
    let typed = args.iter().skip(1).find_map(|a| a.to_str().and_then(|a| VERBS.iter().find(|v| v.name == a)));
    let root = Command::new("hivectl")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Keeps a pool of agent processes warm, and hands them tasks over named pipes")
        .after_help(CODES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(Arg::new("hive").long("hive").value_name("NAME").global(true).help("Which hive [default: default]"))
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .global(true)
                .help("Print JSON, with stable field names"),
        );
    match typed {
        Some(verb) => root.subcommand((verb.command)(Command::new(verb.name))),
        None => VERBS.iter().fold(root, |root, verb| root.subcommand((verb.command)(Command::new(verb.name)))),
    }
}

/// An error, in words or as JSON; and its exit code. `run` keeps its codes apart from the task's.
fn complain(error: &Error, json: bool, verb: &str) -> i32 {
    if json {
        let mut text = Vec::new();
        let mut o = crate::json::Object::open(&mut text);
        let mut e = crate::json::Object::open(o.bool("ok", false).key("error"));
        e.str("code", error.code.name()).str("message", &error.message);
        e.close();
        o.close();
        eprintln!("{}", String::from_utf8_lossy(&text));
    } else {
        eprintln!("hivectl: {error}");
    }
    match error.code.exit() {
        1 if matches!(verb, "run" | "lock" | "elect") => exit::HIVE_FAILED,
        code => code,
    }
}

fn paths_command(command: Command) -> Command {
    command.about("Print where this hive keeps its files and pipes").arg(
        Arg::new("which")
            .value_name("WHICH")
            .help("Print this path alone: live, ctl, replies, board, state, locks, queues, kept, kept_state, events, logs, context, supervisor_log"),
    )
}

fn paths(call: &mut Call) -> Result<i32> {
    let f = call.folders.clone();
    let rows = [
        ("live", &f.live),
        ("ctl", &f.ctl()),
        ("replies", &f.replies()),
        ("board", &f.board()),
        ("state", &f.state()),
        ("locks", &f.locks()),
        ("queues", &f.queues()),
        ("kept", &f.kept),
        ("kept_state", &f.kept_state()),
        ("events", &f.events()),
        ("logs", &f.logs()),
        ("context", &f.context),
        ("supervisor_log", &f.supervisor_log()),
    ]
    .map(|(name, path)| (name, path.display().to_string()));
    if let Some(which) = call.text("which").cloned() {
        let Some((_, path)) = rows.iter().find(|(name, _)| *name == which) else {
            let known = rows.map(|(name, _)| name).join(", ");
            return Err(Error::new(Code::BadRequest, format!("no path is called \"{which}\": {known}")));
        };
        return call.out.line(path).map(|()| exit::DONE);
    }
    if call.json {
        let mut text = Vec::new();
        let mut o = crate::json::Object::open(&mut text);
        o.str("hive", &f.hive);
        rows.iter().for_each(|(name, path)| {
            o.str(name, path);
        });
        o.close();
        return call.out.line(&String::from_utf8_lossy(&text)).map(|()| exit::DONE);
    }
    for (name, path) in rows {
        call.out.line(&format!("{name:<16}{path}"))?;
    }
    Ok(exit::DONE)
}
