//! `pool start`: a supervisor in the background (or here, with `--foreground`), and then the pool.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::{Arg, ArgAction, Command, value_parser};

use super::{Call, exit, pool};
use crate::client::{self, Answer, Client};
use crate::error::{Code, Error, Result};
use crate::json::Object;
use crate::limits;
use crate::store::surroundings::Surroundings;
use crate::store::{Context, Folders};
use crate::supervisor::{self, Settings};
use crate::sys;
use crate::sys::process::{self, Place, Plan, cstring};

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
        .arg(option("pin", "CPU", "Keep the supervisor on this processor").value_parser(value_parser!(usize)))
        .arg(flag("durable", "Answer only what is on disk: survives the machine, not just its processes"))
        .arg(flag("foreground", "Stay in the foreground; TERM or Ctrl-C stops the hive"))
        .arg(Arg::new("command").value_name("CMD").num_args(0..).last(true).help("The agents' program and its arguments"))
}

pub fn run(call: &mut Call) -> Result<i32> {
    sys::close_inherited();
    Pool::check(call)?;
    call.folders.make()?;
    let request = Pool::of(call)?;
    if call.flag("foreground") {
        return foreground(call, request);
    }
    match client::leader(&call.folders) {
        // A supervisor without agents is one whose starter died before it could ask for them.
        Some(leader) => refuse_second_pool(call, leader.pid)?,
        None => launch(call)?,
    }
    let mut client = call.connect()?;
    let answer = match request.ask(&mut client, &call.folders) {
        // Nothing of a hive stays that was not to be.
        Err(e) if e.code == Code::BadRequest => {
            let supervisor =
                client::leader(&call.folders).and_then(|l| process::Process::open(process::Pid(l.pid)).ok());
            let _ = client.ask("stop", |_| {});
            supervisor.map(|s| s.wait_for_end(-1));
            return Err(e);
        }
        other => other?,
    };
    pool::settled(call, &answer)
}

fn refuse_second_pool(call: &Call, pid: i32) -> Result<()> {
    let answer = call.connect()?.ask("status", |_| {})?;
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(answer.flat().raw("agents").unwrap_or("[]")).unwrap_or_default();
    if rows.is_empty() && answer.str("state").as_deref() == Some("running") {
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

/// The pool that is asked for.
struct Pool {
    count: u32,
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
        let here = Surroundings::here().and_then(|here| here.store(&Context::at(&call.folders.context)));
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let pool = Pool {
            count: call.args.get_one("n").copied().unwrap_or(processors),
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

    /// A command may be longer than a line: then the request's fields go by reference.
    fn ask(&self, client: &mut Client, folders: &Folders) -> Result<Answer> {
        let mut fields = Vec::new();
        let mut o = Object::open(&mut fields);
        self.write(o.str("op", "pool-start"));
        o.close();
        if fields.len() + limits::NOTE_MAX < limits::LINE_MAX {
            return client.ask("pool-start", |o| self.write(o));
        }
        let digest = Context::at(&folders.context).put(&fields);
        let digest = digest.map_err(|e| Error::os("cannot store the request in the context store", e))?;
        client.ask("pool-start", |o| {
            o.str("more", &digest);
        })
    }

    fn write(&self, o: &mut Object) {
        o.num("n", self.count).str("kind", &self.kind).opt_str("name", self.name.as_deref());
        o.strings("labels", self.labels.iter().map(String::as_str))
            .strings("command", self.command.iter().map(String::as_str));
        self.numbers.iter().for_each(|(name, value)| {
            o.raw(name, value);
        });
        o.str("surroundings", &self.surroundings);
    }
}

/// Starts the supervisor as a process of its own, in a session of its own, and waits until it takes requests.
fn launch(call: &Call) -> Result<()> {
    let cannot = |e: std::io::Error| Error::os("cannot start the supervisor", e);
    let log = open_log(&call.folders)?;
    let nothing = File::open("/dev/null").map_err(cannot)?;
    let (read, write) = sys::pipe().map_err(cannot)?;
    let mut args = vec!["hivectl".to_owned(), "supervise".into(), call.folders.hive.clone()];
    if let Some(cpu) = call.args.get_one::<usize>("pin") {
        args.extend(["--pin".to_owned(), cpu.to_string()]);
    }
    if call.flag("durable") {
        args.push("--durable".into());
    }
    let args = args.into_iter().map(cstring).collect::<std::io::Result<Vec<_>>>().map_err(cannot)?;
    // The supervisor stands elsewhere: what was relative here is told to it as it was meant.
    let base = |path: &Path| path.parent().unwrap_or(path).as_os_str().to_owned();
    let (kept, live) = (base(&call.folders.kept), base(&call.folders.live));
    let env = Surroundings::here().map_err(cannot)?.with(&[("HIVE_DIR", &kept), ("HIVE_SHM", &live)]).env;
    let plan = Plan {
        program: Path::new("/proc/self/exe"),
        args: &args,
        env: &env,
        folder: Some(Path::new("/")),
        stdio: [nothing.as_raw_fd(), write.as_raw_fd(), log.as_raw_fd()],
        place: Place::Session,
    };
    process::start(&plan).map_err(cannot)?;
    drop(write);
    let mut said = String::new();
    File::from(read).read_to_string(&mut said).map_err(cannot)?;
    match said.trim_end().split_once(' ') {
        _ if said == READY => Ok(()),
        Some((code, message)) => Err(Error::new(Code::parse(code), message)),
        None => {
            let message =
                format!("the supervisor ended before it was ready: see {}", call.folders.supervisor_log().display());
            Err(Error::new(Code::Internal, message))
        }
    }
}

const READY: &str = "ready\n";

fn open_log(folders: &Folders) -> Result<File> {
    let path = folders.supervisor_log();
    if std::fs::metadata(&path).is_ok_and(|m| m.len() > limits::SUPERVISOR_LOG_MAX) {
        let _ = std::fs::rename(&path, path.with_extension("log.1"));
    }
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    options.open(&path).map_err(|e| Error::os(format!("cannot open {}", path.display()), e))
}

/// The life of a supervisor that `launch` started. stdout is the pipe on which the starter waits.
pub fn supervise(args: Vec<OsString>) -> i32 {
    let words: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let pin = words.iter().position(|w| w == "--pin").and_then(|at| words.get(at + 1)).and_then(|n| n.parse().ok());
    let durable = words.iter().any(|w| w == "--durable");
    let hive = words.first().map_or("default", |w| w.as_str());
    let outcome =
        Folders::of(hive).and_then(|folders| supervisor::run(Settings { folders, pin, durable }, || say(READY)));
    match outcome {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("hivectl supervise: {e}");
            say(&format!("{} {e}\n", e.code.name()));
            1
        }
    }
}

/// To the starter, once; then there is nobody to talk to.
fn say(text: &str) {
    use std::io::Write;
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    let _ = sys::close_stdout();
}

/// The supervisor is this process. Its pool is asked for by a client, as in the background.
fn foreground(call: &mut Call, request: Pool) -> Result<i32> {
    let settings = Settings {
        folders: call.folders.clone(),
        pin: call.args.get_one("pin").copied(),
        durable: call.flag("durable"),
    };
    let (folders, json) = (call.folders.clone(), call.json);
    supervisor::run(settings, move || {
        let asked = std::thread::Builder::new().name("start".into()).spawn(move || {
            match Client::connect(&folders).and_then(|mut client| request.ask(&mut client, &folders)) {
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
