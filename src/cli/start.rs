//! `pool start`: a supervisor in the background (or here, with `--foreground`), and then the pool.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Command, value_parser};

use super::launch::launch;
use super::{Call, exit, pool};
use crate::client::{self, Answer, Client};
use crate::error::{Code, Error, Result};
use crate::json::{Flat, Object};
use crate::limits;
use crate::store::Context;
use crate::store::surroundings::Surroundings;
use crate::supervisor::{self, Settings};
use crate::sys;
use crate::sys::{clock, process};
use crate::time;

pub fn command() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("start")
        .about("Start the hive; returns when all agents are ready, or says which are not and why")
        .arg(Arg::new("n").short('n').long("agents").value_name("N").value_parser(value_parser!(u32).range(0..=i64::from(limits::AGENTS_MAX))).help("How many agents [default: one a processor]"))
        .arg(option("kind", "KIND", "shell: tasks are shell commands; lines: CMD is resident and speaks hive's protocol; oneshot: CMD is started ahead and reads one task from stdin").value_parser(["shell", "lines", "oneshot"]).default_value("shell"))
        .arg(option("name", "NAME", "What the agents are called: NAME-1, NAME-2, ..."))
        .arg(option("label", "LABEL", "A label of these agents, for `--label` of tasks; may be given several times").action(ArgAction::Append))
        .arg(option("prefetch", "N", "Tasks that a lines agent may hold ahead [default: 1]").value_parser(value_parser!(u32)))
        .arg(option("max-queued", "N", "Tasks that may wait before more are refused [default: 1048576]").value_parser(value_parser!(u64).range(1..)))
        .arg(option("stop-grace", "SECONDS", "Between TERM and KILL [default: 5]").allow_hyphen_values(true).value_parser(super::submit::seconds))
        .arg(option("start-timeout", "SECONDS", "An agent not ready after this counts as dead [default: 60]").allow_hyphen_values(true).value_parser(super::submit::seconds))
        .arg(
            option("grace", "SECONDS", "Agents end by themselves when no supervisor has led for this long [default: 30]")
                .allow_hyphen_values(true)
                .value_parser(super::submit::seconds),
        )
        .arg(option("memory", "SIZE", "Most memory of an agent's tree, such as 512M or 2G").value_parser(size))
        .arg(option("cpu-time", "SECONDS", "Most processor time of each of its processes").value_parser(value_parser!(u64)))
        .arg(option("nproc", "N", "Most processes of an agent's tree").value_parser(value_parser!(u64)))
        .arg(option("nofile", "N", "Most open files of each of its processes").value_parser(value_parser!(u64)))
        .arg(option("nice", "N", "How much nicer than hive itself its processes are, 0 to 19").value_parser(value_parser!(u64)))
        .arg(option("pin", "CPU", "Keep the supervisor on this processor").value_parser(value_parser!(usize)))
        .arg(
            option("keep-log", "SIZE", "How much of the event log is kept, as 500M or 20G; the oldest goes first [default: 1G]")
                .value_parser(super::context::bytes),
        )
        .arg(flag("durable", "Answer only what is on disk: survives the machine, not just its processes"))
        .arg(flag("standby", "Wait beside a hive that runs, and lead it at once when its supervisor dies").conflicts_with_all(["foreground", "n", "command"]))
        .arg(flag("foreground", "Stay in the foreground; TERM or Ctrl-C stops the hive"))
        .arg(Arg::new("command").value_name("CMD").num_args(0..).last(true).help("The agents' program and its arguments"))
}

pub fn run(call: &mut Call) -> Result<i32> {
    sys::close_inherited();
    if call.flag("standby") {
        return stand_by(call);
    }
    Pool::check(call)?;
    call.folders.make()?;
    let request = Pool::of(call)?;
    if call.flag("foreground") {
        return foreground(call, request);
    }
    let leader = match client::leader(&call.folders) {
        None => None,
        // A supervisor without agents is one whose starter died before it could ask for them.
        Some(leader) => match refuse_second_pool(call, leader.pid) {
            // It was dying when it was looked at: nobody leads.
            Err(e) if e.code == Code::NoHive => None,
            other => other.map(|()| Some(leader))?,
        },
    };
    if leader.is_none() {
        launch(&call.folders, &supervisor_options(call))?;
    }
    let mut client = call.connect()?.impatient();
    let answer = match client.ask("pool-start", |o| request.write(o)) {
        // Nothing of a hive stays that was not to be.
        Err(e) if e.code == Code::BadRequest => {
            let supervisor =
                client::leader(&call.folders).and_then(|l| process::Process::open(process::Pid(l.pid)).ok());
            let _ = client.ask("stop", |_| {});
            supervisor.map(|s| s.wait_for_end(-1));
            return Err(e);
        }
        // Nobody led: so it is the pool of a start whose supervisor died before it answered, and was taken up by this one.
        Err(e) if e.code == Code::AlreadyRunning && leader.is_none() => {
            let agents = rows(&client.ask("status", |_| {})?).len();
            client.ask("scale", |o| {
                o.num("n", agents);
            })?
        }
        other => other?,
    };
    pool::settled(call, &answer)
}

fn rows(status: &Answer) -> Vec<serde_json::Value> {
    serde_json::from_str(status.flat().raw("agents").unwrap_or("[]")).unwrap_or_default()
}

/// What is the supervisor's own business, and not its agents'.
fn supervisor_options(call: &Call) -> Vec<String> {
    let mut options = Vec::new();
    if let Some(cpu) = call.args.get_one::<usize>("pin") {
        options.extend(["--pin".to_owned(), cpu.to_string()]);
    }
    options.extend(call.flag("durable").then(|| "--durable".to_owned()));
    if let Some(bytes) = call.args.get_one::<u64>("keep-log") {
        options.extend(["--keep-log".to_owned(), bytes.to_string()]);
    }
    options
}

/// Beside a hive that runs: another supervisor waits for its turn.
fn stand_by(call: &mut Call) -> Result<i32> {
    let leader = client::leader(&call.folders).ok_or_else(|| client::nobody_leads(&call.folders))?;
    launch(&call.folders, &["--standby".to_owned(), "--as-before".to_owned()])?;
    call.out.line(&format!("hive {}: a standby waits behind supervisor {}", call.folders.hive, leader.pid))?;
    Ok(exit::DONE)
}

fn refuse_second_pool(call: &Call, pid: i32) -> Result<()> {
    let answer = call.connect()?.impatient().ask("status", |_| {})?;
    let rows = rows(&answer);
    // One that has just begun is somebody's, who is about to ask for them.
    let since =
        answer.flat().raw("supervisor").and_then(|raw| Flat::parse(raw).ok()?.str("since").ok()?.map(String::from));
    let age = since.and_then(|since| time::parse(&since)).map_or(0, |since| clock::wall_micros() - since);
    let waited = age > limits::STARTER_PATIENCE.as_micros() as i64;
    if waited && rows.is_empty() && answer.str("state").as_deref() == Some("running") {
        return Ok(());
    }
    if answer.str("state").as_deref() == Some("stopping") {
        let message =
            format!("hive {} is stopping (supervisor {pid}): start it again when it is gone", call.folders.hive);
        return Err(Error::new(Code::Stopping, message));
    }
    let busy = rows.iter().filter(|a| a["state"] == "busy").count();
    let remedy = "`hivectl pool status` shows it, `hivectl pool stop` ends it, `--hive NAME` starts another beside it";
    let message = format!(
        "hive {} runs already (supervisor {pid}, {} agents, {busy} of them busy): {remedy}",
        call.folders.hive,
        rows.len()
    );
    Err(Error::new(Code::AlreadyRunning, message))
}

/// The options that say what the agents are to be.
const SHAPE: [&str; 14] = [
    "kind",
    "name",
    "label",
    "prefetch",
    "max-queued",
    "stop-grace",
    "start-timeout",
    "grace",
    "command",
    "memory",
    "cpu-time",
    "nproc",
    "nofile",
    "nice",
];

/// The pool that is asked for.
struct Pool {
    count: Option<u32>,
    /// Nothing was said of what agents are to be: those that are taken over stay as they are.
    as_before: bool,
    kind: String,
    name: Option<String>,
    labels: Vec<String>,
    command: Vec<String>,
    numbers: Vec<(&'static str, String)>,
    surroundings: String,
}

impl Pool {
    fn of(call: &Call) -> Result<Pool> {
        let many =
            |name: &str| -> Vec<String> { call.args.get_many::<String>(name).into_iter().flatten().cloned().collect() };
        let mut numbers = Vec::new();
        let mut add = |name, value: Option<String>| numbers.extend(value.map(|v| (name, v)));
        add("prefetch", call.args.get_one::<u32>("prefetch").map(u32::to_string));
        add("max_queued", call.args.get_one::<u64>("max-queued").map(u64::to_string));
        add("stop_grace", call.args.get_one::<f64>("stop-grace").map(f64::to_string));
        add("orphan_grace", call.args.get_one::<f64>("grace").map(f64::to_string));
        add("start_patience", call.args.get_one::<f64>("start-timeout").map(f64::to_string));
        for (option, field) in
            [("memory", "memory"), ("cpu-time", "cpu_time"), ("nproc", "nproc"), ("nofile", "nofile"), ("nice", "nice")]
        {
            add(field, call.args.get_one::<u64>(option).map(u64::to_string));
        }
        let here = Surroundings::here().and_then(|here| here.store(&Context::at(&call.folders.context)));
        let says = |name: &str| call.args.value_source(name) == Some(ValueSource::CommandLine);
        let pool = Pool {
            count: call.args.get_one("n").copied(),
            as_before: !SHAPE.into_iter().any(says),
            kind: call.text("kind").cloned().unwrap_or_default(),
            name: call.text("name").cloned(),
            labels: many("label"),
            command: many("command"),
            numbers,
            surroundings: here.map_err(|e| Error::os("cannot store this environment in the context store", e))?,
        };
        Ok(pool)
    }

    /// What can be told before anything is made.
    fn check(call: &Call) -> Result<()> {
        let has_command = call.args.get_many::<String>("command").is_some_and(|c| c.len() > 0);
        let wrong = match (call.text("kind").map_or("", |k| k.as_str()), has_command) {
            ("shell", true) => {
                "shell agents run the tasks' own commands and take none: add `--kind lines` or `--kind oneshot`"
            }
            ("lines" | "oneshot", false) => "this kind of agent needs its program: add `-- CMD ARGS...`",
            _ => return Ok(()),
        };
        Err(Error::new(Code::BadRequest, wrong))
    }

    fn write(&self, o: &mut Object) {
        if let Some(count) = self.count {
            o.num("n", count);
        }
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        o.num("otherwise", processors)
            .bool("as_before", self.as_before)
            .str("kind", &self.kind)
            .opt_str("name", self.name.as_deref());
        o.strings("labels", self.labels.iter().map(String::as_str))
            .strings("command", self.command.iter().map(String::as_str));
        self.numbers.iter().for_each(|(name, value)| {
            o.raw(name, value);
        });
        o.str("surroundings", &self.surroundings);
    }
}

/// Bytes, or so many K, M, G or T of 1024.
fn size(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        "T" => Some(40),
        _ => None,
    };
    let bytes = shift.and_then(|shift| digits.parse::<u64>().ok()?.checked_mul(1 << shift));
    bytes.ok_or_else(|| "it must be a size such as 512M, 2G or a number of bytes".to_owned())
}

/// The supervisor is this process. Its pool is asked for by a client, as in the background.
fn foreground(call: &mut Call, request: Pool) -> Result<i32> {
    let settings = Settings {
        folders: call.folders.clone(),
        pin: call.args.get_one("pin").copied(),
        durable: call.flag("durable"),
        standby: false,
        as_before: false,
        keep_log: call.args.get_one("keep-log").copied().unwrap_or(limits::KEEP_LOG_BYTES),
    };
    let (folders, json) = (call.folders.clone(), call.json);
    supervisor::run(settings, move || {
        let asked = std::thread::Builder::new().name("start".into()).spawn(move || {
            match Client::connect(&folders).and_then(|mut client| client.ask("pool-start", |o| request.write(o))) {
                Ok(answer) => {
                    let (line, complaints) = pool::settled_lines(&folders.hive, json, &answer);
                    println!("{line}");
                    complaints.iter().for_each(|line| eprintln!("hivectl: {line}"));
                }
                Err(e) => eprintln!("hivectl: {e}"),
            }
        });
        drop(asked);
    })?;
    Ok(exit::DONE)
}
