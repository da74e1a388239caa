//! Control groups (v2), where this user may make one: one for the hive, and in it one for each agent.
//! What a process does cannot take it out of its cgroup, so all of it is found, frozen and killed at once.
//! Invariant: never required. A file of the kernel's that is not there is a thing that is done in another way.
//! Only folders under the hive's own name are ever emptied; this process and those above it are spared.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{AccessFlags, access};

use super::process::{Pid, Process};

/// What bounds an agent: the kernel does it where these are at work.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// What an agent's cgroup is called, before its number.
const AGENT: &str = "agent-";
/// Rounds of killing; what is left then sits in the kernel.
const ROUNDS: usize = 100;
/// A killed process that is not gone after this sits in the kernel; waiting longer does not help.
const PATIENCE_MS: i32 = 2_000;

/// One cgroup that exists.
#[derive(Debug)]
pub struct Cgroup {
    pub path: PathBuf,
    folder: File,
}

impl Cgroup {
    pub fn make(path: &Path) -> io::Result<Cgroup> {
        match fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Cgroup::open(path),
        }
    }

    /// Only what the kernel itself keeps as a cgroup.
    pub fn open(path: &Path) -> io::Result<Cgroup> {
        let folder = File::open(path)?;
        match fstatfs(&folder)?.filesystem_type() {
            CGROUP2_SUPER_MAGIC => Ok(Cgroup { path: path.to_owned(), folder }),
            _ => Err(io::Error::other("it is no cgroup")),
        }
    }

    /// Whether it is still there: an administrator may have removed it.
    pub fn is_there(&self) -> bool {
        self.has("cgroup.procs")
    }

    pub fn has(&self, file: &str) -> bool {
        self.path.join(file).exists()
    }

    pub fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.path.join(file), value)
    }

    /// A counter in one of its files.
    pub fn count(&self, file: &str, name: &str) -> u64 {
        entry(&self.read(file), name).unwrap_or(0)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    /// The processes in it and in those below it.
    pub fn processes(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        for folder in folders(&self.path) {
            let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            // 0 stands for a process of another pid namespace: it has no number here.
            found.extend(list.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).map(Pid));
        }
        found
    }

    /// Stops everything in it from running, or lets it run again. Frozen is when [`Cgroup::is_frozen`] says so.
    pub fn freeze(&self, on: bool) -> io::Result<()> {
        self.set("cgroup.freeze", if on { "1" } else { "0" })
    }

    pub fn is_frozen(&self) -> bool {
        self.count("cgroup.events", "frozen") == 1
    }

    /// Kills everything in it at once, whatever it forks meanwhile.
    pub fn kill(&self) {
        if self.set("cgroup.kill", "1").is_ok() {
            return;
        }
        // Before Linux 5.14: nothing that is frozen forks, and a frozen process can be killed.
        let _ = self.freeze(true);
        for process in self.processes().into_iter().filter_map(|pid| Process::open(pid).ok()) {
            let _ = process.signal(Signal::SIGKILL);
        }
        let _ = self.freeze(false);
    }

    /// Ends everything in it, and removes it when it is empty.
    pub fn end(&self) {
        let spared = super::tree::ancestors();
        for _ in 0..ROUNDS {
            let members = self.processes();
            let (ours, others): (Vec<Pid>, Vec<Pid>) = members.into_iter().partition(|pid| spared.contains(pid));
            // Held first: a pid that is signalled or waited for is that of the process that was in it.
            let held: Vec<Process> = others.into_iter().filter_map(|pid| Process::open(pid).ok()).collect();
            if held.is_empty() {
                break;
            }
            match ours.is_empty() {
                true => self.kill(),
                false => held.iter().for_each(|process| drop(process.signal(Signal::SIGKILL))),
            }
            for process in &held {
                process.wait_for_end(PATIENCE_MS);
                let _ = process.reap();
            }
        }
        self.remove();
    }

    /// Of a hive's cgroup: ends what is in those of its agents that do not live.
    pub fn end_agents(&self, lives: impl Fn(u32) -> bool) {
        for path in folders(&self.path) {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let agent = name.strip_prefix(AGENT).and_then(|number| number.parse().ok());
            if let Some(dead) = agent.filter(|agent| !lives(*agent)).and_then(|_| Cgroup::open(&path).ok()) {
                dead.end();
            }
        }
    }

    /// Removes it and those below it, if nothing is left in them. Returns whether it is gone.
    pub fn remove(&self) -> bool {
        folders(&self.path).iter().rev().for_each(|folder| _ = fs::remove_dir(folder));
        !self.is_there()
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// A cgroup's folder and all below it, parents before children.
fn folders(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut at = 0;
    while at < found.len() {
        let inside = fs::read_dir(&found[at]).into_iter().flatten().flatten();
        let below: Vec<PathBuf> =
            inside.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
        found.extend(below);
        at += 1;
    }
    found
}

/// Where an agent's cgroup is, in its hive's.
pub fn of_agent(home: &Path, agent: u32) -> PathBuf {
    home.join(format!("{AGENT}{agent}"))
}

/// The number behind a name, in a file of such lines.
pub fn entry(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(key, _)| *key == name)?.1.trim().parse().ok()
}

/// The cgroup of a hive. Its name holds the hive's name and the identity of its kept folder, so it is its own whoever
/// leads; a file in that folder says where it is, because the next leader may be started from another place.
pub struct Home {
    /// The hive's name, for people who look.
    pub hive: String,
    /// The hive's kept folder.
    pub kept: PathBuf,
}

impl Home {
    fn note(&self) -> PathBuf {
        self.kept.join("cgroup")
    }

    fn name(&self) -> io::Result<String> {
        let kept = fs::metadata(&self.kept)?;
        Ok(format!("hive-{}-{:x}.{:x}", self.hive, kept.dev(), kept.ino()))
    }

    /// The one that an earlier leader made, if it is still there.
    pub fn find(&self) -> Option<Cgroup> {
        let path = PathBuf::from(fs::read_to_string(self.note()).ok()?.trim_end());
        let name = self.name().ok()?;
        if path.file_name() != Some(OsStr::new(&name)) {
            return None;
        }
        Cgroup::open(&path).ok()
    }

    /// Finds it or makes it, at the place where the kernel does most. `None`: there is no place, or none is wanted.
    pub fn make(&self) -> Option<Cgroup> {
        let wanted = std::env::var_os("HIVE_CGROUP").filter(|v| !v.is_empty());
        if wanted.as_deref() == Some(OsStr::new("none")) {
            return None;
        }
        if let Some(found) = self.find() {
            return Some(found);
        }
        let base = wanted.map(PathBuf::from).or_else(best_place)?;
        let made = Cgroup::make(&base.join(self.name().ok()?)).ok()?;
        for controller in CONTROLLERS {
            let _ = made.set("cgroup.subtree_control", &format!("+{controller}"));
        }
        // Without the note a later leader would not find it.
        if fs::write(self.note(), format!("{}\n", made.path.display())).is_err() {
            made.remove();
            return None;
        }
        Some(made)
    }

    /// Empties it, and removes it and the note of it.
    pub fn leave(&self) {
        if let Some(found) = self.find() {
            found.end();
        }
        let _ = fs::remove_file(self.note());
    }
}

/// What holds an agent's processes together, in words: the one place that says so.
pub fn containment(home: Option<&Cgroup>) -> String {
    let Some(home) = home else { return "subreaper and marks".to_owned() };
    let controllers = home.read("cgroup.subtree_control");
    let mut words = Vec::new();
    words.extend(home.has("cgroup.kill").then_some("kill"));
    words.extend(home.has("cgroup.freeze").then_some("freeze"));
    words.extend(CONTROLLERS.into_iter().filter(|c| controllers.split_whitespace().any(|at_work| at_work == *c)));
    format!("cgroup v2: {}", words.join(", "))
}

/// Where a hive's cgroup goes: in our own, or the nearest above it that this user may write to and where the kernel
/// bounds memory; failing that, where it does not.
fn best_place() -> Option<PathBuf> {
    let (mount, own) = own_cgroup()?;
    let inside = own.ancestors().take_while(|dir| dir.starts_with(&mount));
    let writable: Vec<&Path> = inside.take_while(|dir| is_writable(dir)).collect();
    let bounds_memory = |dir: &&&Path| {
        let at_work = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        at_work.split_whitespace().any(|controller| controller == "memory")
    };
    writable.iter().find(bounds_memory).or(writable.first()).map(|dir| dir.to_path_buf())
}

fn is_writable(dir: &Path) -> bool {
    let may = AccessFlags::W_OK;
    access(dir, may).is_ok() && access(&dir.join("cgroup.procs"), may).is_ok()
}

/// Where cgroup v2 is mounted, and the folder of the cgroup that this process is in.
fn own_cgroup() -> Option<(PathBuf, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, mount) = mounts.lines().find_map(cgroup_mount)?;
    let below = Path::new(own).strip_prefix(root).ok()?;
    Some((PathBuf::from(mount), Path::new(mount).join(below)))
}

/// Of a line of mountinfo, if it is of cgroup v2: which part of the tree is mounted, and where.
fn cgroup_mount(line: &str) -> Option<(&str, &str)> {
    let (mount, source) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    source.starts_with("cgroup2 ").then_some((fields.next()?, fields.next()?))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::sys::process::{Bounds, Place, Plan, start};

    #[test]
    fn a_mount_is_read() {
        let v2 = "34 25 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup_mount(v2), Some(("/", "/sys/fs/cgroup/unified")));
        assert_eq!(cgroup_mount("35 25 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"), None);
    }

    #[test]
    fn a_counter_is_read_by_its_whole_name() {
        let events = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(entry(events, "oom"), Some(2));
        assert_eq!(entry(events, "oom_kill"), Some(1));
        assert_eq!(entry(events, "kill"), None);
    }

    #[test]
    fn a_folder_that_is_no_cgroup_is_refused() {
        assert!(Cgroup::open(Path::new("/tmp")).is_err());
    }

    /// Where none can be made this shows nothing, and says so.
    #[test]
    fn what_is_frozen_stands_still_and_what_is_killed_is_gone() {
        let Some(base) = best_place() else { return eprintln!("skipped: no writable cgroup v2") };
        let Ok(cgroup) = Cgroup::make(&base.join(format!("hive-unit-test-{}", std::process::id()))) else {
            return eprintln!("skipped: {} takes no cgroup", base.display());
        };
        let child = sleeper(&cgroup);
        cgroup.freeze(true).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !cgroup.is_frozen() && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(cgroup.is_frozen());
        assert!(cgroup.processes().contains(&child.pid), "it was born in it");
        cgroup.end();
        assert!(!cgroup.is_there());
        assert!(child.wait_for_end(0));
    }

    fn sleeper(cgroup: &Cgroup) -> Process {
        let args = [c"sleep".into(), c"1000".into()];
        let nothing = File::options().read(true).write(true).open("/dev/null").unwrap();
        let plan = Plan {
            program: Path::new("/bin/sleep"),
            args: &args,
            env: &[],
            folder: None,
            fds: &[nothing.as_raw_fd(); 3],
            place: Place::Session,
            bounds: Bounds { cgroup: Some(cgroup.as_fd()), ..Bounds::default() },
        };
        Process::open(start(&plan).unwrap()).unwrap()
    }
}
