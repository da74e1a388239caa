//! A hive for one test: folders of its own, commands with a deadline, and a look at the end that nothing is left.
//! Invariant: nothing here waits by sleeping for a guessed time; it waits for something to be seen, with a deadline.

mod command;
mod gate;
mod raw;

pub use command::{Cmd, Ran, Running};
pub use gate::Gate;
pub use raw::Raw;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// After this a thing that was waited for is taken never to come.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub const HIVECTL: &str = env!("CARGO_BIN_EXE_hivectl");
pub const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

pub struct Hive {
    root: PathBuf,
    shm: PathBuf,
    name: &'static str,
}

impl Hive {
    /// Folders, and nothing that runs.
    pub fn new() -> Hive {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let name = format!("hive-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let (root, shm) = (std::env::temp_dir().join(&name), Path::new("/dev/shm").join(&name));
            if fs::create_dir(&root).is_ok() {
                fs::create_dir(root.join("scratch")).unwrap();
                return Hive { root, shm, name: "default" };
            }
        }
    }

    /// A hive that was started with `pool start ARGS...`.
    pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Hive {
        let hive = Hive::new();
        hive.pool_start(args).exits(0);
        hive
    }

    /// Two agents of kind `lines` that run a bash script.
    pub fn lines(script: &str) -> Hive {
        Hive::start(["-n", "2", "--kind", "lines", "--", "bash", "-c", script])
    }

    /// The same with one agent.
    pub fn one_line_agent(script: &str) -> Hive {
        Hive::start(["-n", "1", "--kind", "lines", "--", "bash", "-c", script])
    }

    pub fn oneshot<S: AsRef<OsStr>>(agents: &str, command: impl IntoIterator<Item = S>) -> Hive {
        let hive = Hive::new();
        hive.cmd(["pool", "start", "-n", agents, "--kind", "oneshot", "--"]).args(command).run().exits(0);
        hive
    }

    pub fn pool_start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.cmd(["pool", "start"]).args(args).run()
    }

    /// A hivectl command in this hive's folders.
    pub fn cmd<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.dress(Cmd::new(HIVECTL, args))
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.cmd(args).run()
    }

    pub fn spawn<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        self.cmd(args).spawn()
    }

    /// A bash script that finds `hivectl` in its PATH and the live folder in LIVE.
    pub fn bash(&self, script: &str) -> Ran {
        self.bash_command(script).run()
    }

    /// The same, that goes on running.
    pub fn spawn_bash(&self, script: &str) -> Running {
        self.bash_command(script).spawn()
    }

    fn bash_command(&self, script: &str) -> Cmd {
        let bin = Path::new(HIVECTL).parent().unwrap().display();
        let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
        self.dress(Cmd::new("bash", ["-c", script])).env("PATH", path).env("LIVE", self.live())
    }

    pub fn children_of(&self, pid: i32) -> Vec<i32> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn dress(&self, cmd: Cmd) -> Cmd {
        cmd.env("HIVE_DIR", self.root.join("kept")).env("HIVE_SHM", &self.shm)
    }

    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        self.cmd(["--json"]).args(args).run().exits(0).json()
    }

    pub fn live(&self) -> PathBuf {
        self.shm.join(self.name)
    }

    /// Where the log and results of this hive are kept.
    pub fn kept(&self) -> PathBuf {
        self.root.join("kept").join(self.name)
    }

    /// A file of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join("scratch").join(name)
    }

    /// The same, as text for scripts.
    pub fn file(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.file(name)
    }

    pub fn gate(&self) -> Gate {
        Gate::new(self.path("gate"), self.path("entered"))
    }

    pub fn raw(&self, name: &str) -> Raw {
        Raw::new(&self.live(), name)
    }

    // ---- what is asked often ----

    pub fn status(&self) -> Value {
        self.json(["pool", "status"])
    }

    pub fn agent(&self, id: u64) -> Value {
        let status = self.status();
        let agents = status["agents"].as_array().unwrap();
        agents.iter().find(|a| a["id"] == id).unwrap_or_else(|| panic!("no agent {id} in {status}")).clone()
    }

    pub fn supervisor(&self) -> i32 {
        self.status()["supervisor"]["pid"].as_i64().unwrap() as i32
    }

    pub fn host(&self, agent: u64) -> i32 {
        self.agent(agent)["pid"].as_i64().unwrap() as i32
    }

    pub fn workload(&self, agent: u64) -> i32 {
        self.agent(agent)["workload"].as_i64().unwrap() as i32
    }

    pub fn task(&self, id: u64) -> Value {
        self.json(["task", &id.to_string()])
    }

    pub fn tasks(&self) -> Vec<Value> {
        self.json(["tasks"])["tasks"].as_array().unwrap().clone()
    }

    pub fn events(&self) -> Vec<Value> {
        let text = self.run(["events"]).exits(0).out();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn submit(&self, text: &str) -> u64 {
        self.run(["submit", text]).exits(0).out().trim().parse().unwrap()
    }

    pub fn submit_times(&self, times: usize, text: &str) {
        for _ in 0..times {
            self.submit(text);
        }
    }

    pub fn submit_with(&self, options: &[&str], text: &str) -> u64 {
        self.cmd(["submit"]).args(options).args([text]).run().exits(0).out().trim().parse().unwrap()
    }

    /// A task that may not have been accepted yet.
    #[track_caller]
    pub fn wait_for_state(&self, task: u64, state: &str) {
        let holds = || self.tasks().iter().any(|t| t["id"] == task && t["state"] == state);
        wait_until(&format!("task {task} is {state}"), holds);
    }

    // ---- processes ----

    /// Every process that carries this hive in its environment, but for those that hivectl's user started.
    pub fn processes(&self) -> Vec<Process> {
        processes_with(&format!("{}/", self.root.display()))
    }

    /// Those of them that run `program`.
    pub fn running(&self, program: &str) -> Vec<i32> {
        self.processes().into_iter().filter(|p| p.name == program).map(|p| p.pid).collect()
    }

    fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> =
            self.processes().iter().map(|p| format!("process {} ({})", p.pid, p.line)).collect();
        for entry in fs::read_dir(&self.shm).into_iter().flatten().flatten() {
            let inside: Vec<_> = fs::read_dir(entry.path()).into_iter().flatten().flatten().map(|e| e.path()).collect();
            // What outlives a supervisor, and is used without one.
            let stays = |path: &PathBuf| ["state", "locks", "queues"].iter().any(|name| path.ends_with(name));
            if inside.is_empty() || !inside.iter().all(stays) {
                left.push(format!("{} with {inside:?}", entry.path().display()));
            }
        }
        left
    }

    fn kill_leftovers(&self) {
        for _ in 0..100 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            left.iter().for_each(|p| kill(p.pid, "KILL"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops every hive in these folders.
    fn stop_all(&self) -> Result<(), String> {
        let hives = fs::read_dir(&self.shm).into_iter().flatten().flatten();
        // Where no supervisor was, there are only state, locks and queues.
        let hives: Vec<_> = hives.filter(|hive| hive.path().join("leader").exists()).collect();
        for hive in hives {
            let stop = self.cmd(["--hive"]).args([hive.file_name()]).args(["pool", "stop", "--now"]);
            let ran = stop.try_run().map_err(|ran| format!("`pool stop --now` hung: {ran}"))?;
            if ran.code != 0 {
                return Err(format!("`pool stop --now` failed: {ran}"));
            }
        }
        Ok(())
    }
}

impl Drop for Hive {
    fn drop(&mut self) {
        let stopped = self.stop_all();
        let left = self.leftovers();
        self.kill_leftovers();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.kept().join("supervisor.log")).unwrap_or_default();
            eprintln!("supervisor.log:\n{log}");
        }
        let _ = fs::remove_dir_all(&self.shm);
        let _ = fs::remove_dir_all(&self.root);
        if !std::thread::panicking() {
            assert!(stopped.is_ok() && left.is_empty(), "{stopped:?}; left behind: {left:#?}");
        }
    }
}

/// A process as /proc shows it.
pub struct Process {
    pub pid: i32,
    pub name: String,
    pub line: String,
}

/// Zombies have no environment and are not found.
fn processes_with(needle: &str) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let env = fs::read(entry.path().join("environ")).unwrap_or_default();
        if env.windows(needle.len()).any(|w| w == needle.as_bytes()) {
            let text = |file: &str| {
                let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
            };
            found.push(Process { pid, name: text("comm"), line: text("cmdline") });
        }
    }
    found
}

/// Whether a process is there and no zombie: its first thread may be one while another still holds its files.
pub fn is_alive(pid: i32) -> bool {
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    stat(pid).is_some_and(|fields| !["Z", "X"].contains(&fields[0].as_str()) || threads() > 1)
}

/// The fields of /proc/PID/stat after the name: state, parent, group, session, ...
pub fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// The most memory that a process has had resident, in bytes.
pub fn peak_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

pub fn kill(pid: i32, signal: &str) {
    let signal: nix::sys::signal::Signal = format!("SIG{signal}").parse().unwrap();
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The real interpreter: what is found in PATH may be a slow wrapper of it.
pub fn python() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| {
        Cmd::new("python3", ["-c", "import sys; print(sys.executable)"]).run().exits(0).out().trim().to_owned()
    })
}

pub fn script(name: &str) -> String {
    format!("{PROJECT}/scripts/{name}")
}

/// Bytes that compress to nothing else and hold every value: the same ones for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}
