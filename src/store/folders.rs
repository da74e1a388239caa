//! Where a hive lies: the live folder in shared memory, and the kept one on disk.
//! Owns the names of all files. A folder is made 0700, and refused if it is another's or no real folder.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result, reason};
use crate::model::{AgentId, TaskId};
use crate::sys;
use crate::sys::cgroup::Home;

#[derive(Debug, Clone)]
pub struct Folders {
    pub hive: String,
    pub live: PathBuf,
    pub kept: PathBuf,
    pub context: PathBuf,
}

impl Folders {
    /// The folders of hive `name`, by the environment. Nothing is made yet.
    pub fn of(name: &str) -> Result<Folders> {
        crate::wire::check_name("a hive's name", name).map_err(|e| Error::new(Code::BadRequest, e))?;
        let set = |var: &str| std::env::var_os(var).filter(|v| !v.is_empty()).map(PathBuf::from);
        let kept = match (set("HIVE_DIR"), set("XDG_STATE_HOME").filter(|p| p.is_absolute()), set("HOME")) {
            (Some(dir), _, _) => dir,
            (None, Some(state), _) => state.join("hive"),
            (None, None, Some(home)) => home.join(".local/state/hive"),
            (None, None, None) => {
                let why = "neither HIVE_DIR, XDG_STATE_HOME nor HOME is set: set HIVE_DIR to a folder of yours";
                return Err(Error::new(Code::BadRequest, why));
            }
        };
        let live = set("HIVE_SHM").unwrap_or_else(|| PathBuf::from(format!("/dev/shm/hive-{}", sys::user_id())));
        let (kept, live) = (absolute(&kept)?, absolute(&live)?);
        Ok(Folders {
            hive: name.to_owned(),
            live: live.join(name),
            context: kept.join("context"),
            kept: kept.join(name),
        })
    }

    /// Makes every folder that a supervisor needs.
    pub fn make(&self) -> Result<()> {
        self.make_live()?;
        self.make_kept()?;
        for dir in [
            &self.context,
            &self.context.join("tmp"),
            &self.replies(),
            &self.agents(),
            &self.standbys(),
            &self.events(),
            &self.logs(),
        ] {
            private(dir)?;
        }
        Ok(())
    }

    /// Makes the live folder for what needs no supervisor: state, locks, queues.
    pub fn make_live(&self) -> Result<()> {
        make_under_base(&self.live)
    }

    /// Makes the store of contents.
    pub fn make_context(&self) -> Result<()> {
        self.make_kept()?;
        private(&self.context)?;
        private(&self.context.join("tmp"))
    }

    pub fn make_kept(&self) -> Result<()> {
        make_under_base(&self.kept)
    }

    /// Removes what a supervisor made in the live folder. What others may be using without one stays: a lock whose file
    /// were removed would be two locks. The leader's file goes last: with it the next one may come.
    pub fn remove_live(&self) -> Result<()> {
        let cannot = |path: &Path, e| Error::os(format!("cannot remove {}", path.display()), e);
        let stays = [self.state(), self.locks(), self.queues(), self.leader()];
        for entry in fs::read_dir(&self.live).map_err(|e| cannot(&self.live, e))?.flatten() {
            let path = entry.path();
            if stays.contains(&path) {
                continue;
            }
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|e| cannot(&path, e))?;
        }
        match fs::remove_file(self.leader()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(cannot(&self.leader(), e)),
            _ => {}
        }
        match fs::remove_dir(&self.live) {
            Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty => Err(cannot(&self.live, e)),
            _ => Ok(()),
        }
    }

    pub fn make_agent(&self, agent: AgentId) -> Result<()> {
        private(&self.agent(agent))
    }

    pub fn ctl(&self) -> PathBuf {
        self.live.join("ctl")
    }

    pub fn leader(&self) -> PathBuf {
        self.live.join("leader")
    }

    pub fn intake(&self) -> PathBuf {
        self.live.join("intake")
    }

    pub fn marks(&self) -> PathBuf {
        self.live.join("marks")
    }

    pub fn board(&self) -> PathBuf {
        self.live.join("board")
    }

    /// Where a host says that it has lost its supervisor.
    pub fn orphaned(&self, agent: AgentId) -> PathBuf {
        self.agent(agent).join("orphaned")
    }

    /// Supervisors that wait for the lead: a file each, named by process.
    pub fn standbys(&self) -> PathBuf {
        self.live.join("standbys")
    }

    pub fn replies(&self) -> PathBuf {
        self.live.join("replies")
    }

    pub fn agents(&self) -> PathBuf {
        self.live.join("agents")
    }

    pub fn agent(&self, agent: AgentId) -> PathBuf {
        self.agents().join(agent.to_string())
    }

    pub fn state(&self) -> PathBuf {
        self.live.join("state")
    }

    /// Durable keys.
    pub fn kept_state(&self) -> PathBuf {
        self.kept.join("state")
    }

    pub fn locks(&self) -> PathBuf {
        self.live.join("locks")
    }

    pub fn queues(&self) -> PathBuf {
        self.live.join("queues")
    }

    pub fn events(&self) -> PathBuf {
        self.kept.join("events")
    }

    pub fn logs(&self) -> PathBuf {
        self.kept.join("logs")
    }

    pub fn cgroup(&self) -> Home {
        Home { hive: self.hive.clone(), kept: self.kept.clone() }
    }

    /// What a task printed that is not its result.
    pub fn task_log(&self, task: TaskId) -> PathBuf {
        self.logs().join(format!("{task}.log"))
    }

    pub fn supervisor_log(&self) -> PathBuf {
        self.kept.join("supervisor.log")
    }
}

/// Makes a hive's folder, with the base that all hives of this user share.
fn make_under_base(folder: &Path) -> Result<()> {
    let base = folder.parent().unwrap_or(folder);
    if !base.is_dir() {
        fs::create_dir_all(base.parent().unwrap_or(base))
            .map_err(|e| Error::os(format!("cannot make {}", base.display()), e))?;
    }
    private(base)?;
    private(folder)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::os(format!("cannot tell where {} is", path.display()), e))
}

/// Makes `dir` for this user alone, or checks that it is that.
pub fn private(dir: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => {
            return Err(Error::os(format!("cannot make the folder {}", dir.display()), e));
        }
    }
    let meta = fs::symlink_metadata(dir).map_err(|e| Error::os(format!("cannot look at {}", dir.display()), e))?;
    let wrong = if !meta.is_dir() {
        "it is not a folder"
    } else if meta.uid() != sys::user_id() {
        "it belongs to another user"
    } else {
        ""
    };
    if !wrong.is_empty() {
        let remedy = "remove it, or set HIVE_DIR and HIVE_SHM to folders of yours";
        return Err(Error::new(Code::Internal, format!("cannot use {}: {wrong}: {remedy}", dir.display())));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(|e| {
            Error::new(Code::Internal, format!("cannot close {} to others: {}", dir.display(), reason(&e)))
        })?;
    }
    Ok(())
}
