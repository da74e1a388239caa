//! Owns the hive under measurement: its fresh folders, its start, its status, its end.
//!
//! Invariant: when a `Hive` is dropped no process of it is left, also when `hivectl` hung or failed. Its processes are
//! known by the fresh folder in their environment, so nobody else's can be meant.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hive::store::Folders;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::client::Client;
use crate::error::{Result, Trying, failure};
use crate::process::Program;

/// A control command that takes longer is ended.
const CONTROL_PATIENCE: Duration = Duration::from_secs(60);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Fresh folders in which one hive lives, started or not.
pub struct Hive {
    kept: PathBuf,
    shared: PathBuf,
}

/// The release binary built beside this bench; HIVECTL names another one.
pub fn hivectl() -> PathBuf {
    std::env::var_os("HIVECTL").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_hivectl")), PathBuf::from)
}

impl Hive {
    /// Folders only.
    pub fn fresh() -> Result<Hive> {
        let name = format!("hive-bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        let shared = Path::new("/dev/shm").join(&name);
        for folder in [&kept, &shared] {
            fs::create_dir_all(folder).trying(format_args!("making {}", folder.display()))?;
        }
        Ok(Hive { kept, shared })
    }

    /// Where it keeps what outlives it (HIVE_DIR).
    pub fn folder(&self) -> &Path {
        &self.kept
    }

    /// The same folders for hive's library.
    pub fn folders(&self) -> Folders {
        let (live, kept) = (self.shared.join("default"), self.kept.join("default"));
        Folders { hive: "default".into(), live, kept, context: self.kept.join("context") }
    }

    /// A folder in shared memory, for a floor.
    pub fn shared(&self) -> &Path {
        &self.shared
    }

    /// A running pool: `pool start` with these arguments has said that every agent is ready.
    pub fn start(arguments: &[&str]) -> Result<Hive> {
        let hive = Hive::fresh()?;
        let mut all = vec!["pool", "start"];
        all.extend_from_slice(arguments);
        hive.control(&all)?;
        Ok(hive)
    }

    /// A pool of resident agents that are this binary itself.
    pub fn of_lines_agents(agents: usize, options: &[&str]) -> Result<Hive> {
        let (count, me) = (agents.to_string(), own_path()?);
        let mut arguments = vec!["-n", &count, "--kind", "lines"];
        arguments.extend_from_slice(options);
        arguments.extend_from_slice(&["--", &me, crate::roles::AGENT]);
        Hive::start(&arguments)
    }

    /// `hivectl` with these arguments and this hive's environment, ready for a timed start.
    pub fn program(&self, arguments: &[&str]) -> Result<Program> {
        Program::new(&hivectl(), arguments)?.env("HIVE_DIR", &self.kept)?.env("HIVE_SHM", &self.shared)
    }

    /// Where its log lies.
    pub fn events(&self) -> PathBuf {
        self.kept.join("default/events")
    }

    pub fn connect(&self) -> Result<Client> {
        let paths = self.control_json(&["paths", "--json"])?;
        let live = paths["live"].as_str().ok_or_else(|| failure("`hivectl paths --json` names no live folder"))?;
        Client::connect(Path::new(live), "bench")
    }

    pub fn status(&self) -> Result<Value> {
        self.control_json(&["pool", "status", "--json"])
    }

    fn control_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.control(arguments)?;
        serde_json::from_str(&text).trying(format_args!("reading the answer of `hivectl {}`", arguments.join(" ")))
    }

    /// Runs a command outside of any measurement and returns what it printed.
    pub fn control(&self, arguments: &[&str]) -> Result<String> {
        let what = format!("`hivectl {}`", arguments.join(" "));
        // Files, not pipes: a detached supervisor that kept a pipe open would keep the reader waiting.
        let (out, err) = (self.kept.join("bench-stdout"), self.kept.join("bench-stderr"));
        let mut command = Command::new(hivectl());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HIVE_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).env("HIVE_DIR", &self.kept).env("HIVE_SHM", &self.shared).stdin(Stdio::null());
        command.stdout(File::create(&out).trying(&what)?).stderr(File::create(&err).trying(&what)?);
        let mut child = command.spawn().trying(&what)?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().trying(&what)? {
                break status;
            }
            if start.elapsed() > CONTROL_PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failure(format!("{what}: given up after {:.1} s", start.elapsed().as_secs_f64())));
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if !status.success() {
            let said = fs::read_to_string(&err).unwrap_or_default();
            return Err(failure(format!("{what}: {status}: {}", said.trim())));
        }
        fs::read_to_string(&out).trying(what)
    }

    /// Every process that was started with this hive's folder in its environment.
    fn processes(&self) -> Vec<Pid> {
        let marker = format!("HIVE_SHM={}", self.shared.display()).into_bytes();
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers
            .filter(|number: &i32| {
                let environment = fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
                environment.split(|&byte| byte == 0).any(|word| word == marker)
            })
            .map(Pid::from_raw)
            .collect()
    }

    /// Ends by pid what `pool stop` left; says how many there were.
    fn sweep(&self) -> usize {
        let left = self.processes();
        for _ in 0..100 {
            let processes = self.processes();
            if processes.is_empty() {
                break;
            }
            for pid in processes {
                let _ = kill(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        left.len()
    }
}

impl Drop for Hive {
    fn drop(&mut self) {
        if !self.processes().is_empty() {
            let stopped = self.control(&["pool", "stop"]);
            if let Err(cause) = &stopped {
                eprintln!("bench: {cause}");
            }
            let left = self.sweep();
            if left > 0 {
                eprintln!("bench: {left} processes were left after `pool stop` and have been killed");
            }
        }
        for folder in [&self.kept, &self.shared] {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// This binary, for the roles it plays.
pub fn own_path() -> Result<String> {
    let path = std::env::current_exe().trying("finding this binary")?;
    Ok(path.to_string_lossy().into_owned())
}
