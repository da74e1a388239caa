//! A supervisor in the background: its start, its life, and what is done where one died.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Call, exit};
use crate::client::{self, Leader};
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::store::Folders;
use crate::store::surroundings::Surroundings;
use crate::supervisor::{self, Settings};
use crate::sys::notify::Watcher;
use crate::sys::process::{self, Bounds, Pid, Place, Plan, Process, cstring};
use crate::sys::{self, clock};
use nix::sys::signal::Signal;

/// `pool takeover`: the leader is ended, whether it hears or is suspended, and another leads. What runs goes on.
pub fn takeover(call: &mut Call) -> Result<i32> {
    let former = client::leader(&call.folders);
    if let Some(former) = former {
        end(call, former)?;
    }
    let next = match succession(&call.folders, former)? {
        Some(next) => next,
        None => {
            launch(&call.folders, &["--as-before".to_owned()])?;
            client::leader(&call.folders).ok_or_else(|| client::nobody_leads(&call.folders))?
        }
    };
    if call.json {
        let mut text = Vec::new();
        let mut o = crate::json::Object::open(&mut text);
        o.str("hive", &call.folders.hive).num("pid", next.pid).num("term", next.term);
        if let Some(former) = former {
            o.num("former", former.pid);
        }
        o.close();
        call.out.line(&String::from_utf8_lossy(&text))?;
    } else {
        call.out.line(&format!("hive {}: supervisor {} leads, term {}", call.folders.hive, next.pid, next.term))?;
    }
    Ok(exit::DONE)
}

/// Killed, and seen dead, before anyone else leads: so whatever it was about to write, send or signal, it never will.
fn end(call: &Call, former: Leader) -> Result<()> {
    let cannot = |e| Error::os(format!("cannot end the supervisor {}", former.pid), e);
    let process = match Process::open(Pid(former.pid)) {
        Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(()),
        other => other.map_err(cannot)?,
    };
    // Held now: if it is still the one that leads, its pid cannot come to mean another.
    if client::leader(&call.folders).is_none_or(|leader| leader.pid != former.pid) {
        return Ok(());
    }
    process.signal(Signal::SIGKILL).map_err(cannot)?;
    if !process.wait_for_end(limits::KILL_PATIENCE.as_millis() as i32) {
        let why =
            "it was killed and is not gone: it hangs in the kernel, and may still write; nobody may lead before it is";
        return Err(Error::new(Code::Internal, format!("cannot end the supervisor {}: {why}", former.pid)));
    }
    Ok(())
}

/// Waits for a standby to lead, if there is one.
fn succession(folders: &Folders, former: Option<Leader>) -> Result<Option<Leader>> {
    let changes =
        Watcher::new(&[&folders.live]).map_err(|e| Error::os(format!("cannot watch {}", folders.live.display()), e))?;
    let until = clock::monotonic_micros() + limits::KILL_PATIENCE.as_micros() as i64;
    loop {
        let next = client::leader(folders).filter(|leader| former.is_none_or(|former| former.term < leader.term));
        if next.is_some() {
            return Ok(next);
        }
        let left_ms = (until - clock::monotonic_micros()) / 1000;
        if left_ms <= 0 || client::standbys(folders).is_empty() {
            return Ok(None);
        }
        changes.wait(left_ms as i32).map_err(|e| Error::os("cannot wait for the standby", e))?;
    }
}

/// Starts the supervisor as a process of its own, in a session of its own, and waits until it takes requests.
/// `options`: its arguments besides the hive's name.
pub fn launch(folders: &Folders, options: &[String]) -> Result<()> {
    let cannot = |e: std::io::Error| Error::os("cannot start the supervisor", e);
    folders.make()?;
    let log = open_log(folders)?;
    let nothing = File::open("/dev/null").map_err(cannot)?;
    let (read, write) = sys::pipe().map_err(cannot)?;
    let args = ["hivectl", "supervise", &folders.hive].map(str::to_owned).into_iter().chain(options.iter().cloned());
    let args = args.map(cstring).collect::<std::io::Result<Vec<_>>>().map_err(cannot)?;
    // The supervisor stands elsewhere: what was relative here is told to it as it was meant.
    let base = |path: &Path| path.parent().unwrap_or(path).as_os_str().to_owned();
    let (kept, live) = (base(&folders.kept), base(&folders.live));
    let env = Surroundings::here().map_err(cannot)?.with(&[("HIVE_DIR", &kept), ("HIVE_SHM", &live)]).env;
    let plan = Plan {
        program: Path::new("/proc/self/exe"),
        args: &args,
        env: &env,
        folder: Some(Path::new("/")),
        fds: &[nothing.as_raw_fd(), write.as_raw_fd(), log.as_raw_fd()],
        place: Place::Session,
        bounds: Bounds::default(),
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
                format!("the supervisor ended before it was ready: see {}", folders.supervisor_log().display());
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
pub fn supervise(args: &[OsString]) -> i32 {
    let words: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let number = |name: &str| {
        let at = words.iter().position(|w| w == name)?;
        words.get(at + 1)?.parse::<u64>().ok()
    };
    let pin = number("--pin").map(|cpu| cpu as usize);
    let keep_log = number("--keep-log").unwrap_or(limits::KEEP_LOG_BYTES);
    let has = |flag: &str| words.iter().any(|w| w == flag);
    let (durable, standby, as_before) = (has("--durable"), has("--standby"), has("--as-before"));
    let hive = words.first().map_or("default", |w| w.as_str());
    let settings = |folders| Settings { folders, pin, durable, standby, as_before, keep_log };
    let outcome = Folders::of(hive).and_then(|folders| supervisor::run(settings(folders), || say(READY)));
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
