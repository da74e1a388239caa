//! What a host is told when it is started: one JSON object in its environment, so that `ps` shows a short line.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Code, Error, Result};
use crate::json::{Flat, Object};
use crate::model::{AgentId, Generation, Kind, Spec};
use crate::store::Folders;
use crate::store::surroundings::Surroundings;
use crate::sys::process::{self, cstring};
use crate::wire::limits;

const VAR: &str = "HIVE_HOST";

/// What a host is handed, and keeps open as long as it lives: whoever leads next finds the pipes here, by number.
pub mod number {
    /// Kept open, so that what clients write while nobody leads waits there.
    pub const CTL: i32 = 3;
    /// Reports of all hosts.
    pub const HOSTS: i32 = 4;
    pub const IN: i32 = 5;
    pub const OUT: i32 = 6;
    /// Commands to this host.
    pub const COMMANDS: i32 = 7;
    /// Which barrier is open: eight bytes that all hosts share.
    pub const BARRIER: i32 = 8;
}

pub struct Orders {
    pub folders: Folders,
    pub agent: AgentId,
    pub generation: Generation,
    pub spec: Arc<Spec>,
    pub supervisor: i32,
    /// What workloads get back that the supervisor changed for itself.
    pub open_files: u64,
    pub oom_score: i32,
    pub processors: Vec<usize>,
    /// The hive's cgroup, if it has one.
    pub cgroup: Option<PathBuf>,
}

impl Orders {
    pub fn args(&self) -> io::Result<Vec<CString>> {
        let who = format!("{}/{} {}", self.folders.hive, self.agent, self.spec.kind.name());
        [String::from("hivectl"), String::from("host"), who].into_iter().map(cstring).collect()
    }

    /// The environment of this process, and the orders.
    pub fn env(&self) -> io::Result<Vec<CString>> {
        let orders = format!("{VAR}=");
        let inherited = process::environment().filter(|var| !var.to_bytes().starts_with(orders.as_bytes()));
        let mut env: Vec<CString> = inherited.map(CStr::to_owned).collect();
        env.push(cstring(format!("{VAR}={}", self.encode()))?);
        Ok(env)
    }

    /// What the environment of a host of this agent begins with, whoever started it.
    pub fn mark(folders: &Folders, agent: AgentId) -> String {
        let mut out = Vec::new();
        let mut o = Object::open(&mut out);
        Orders::whose(&mut o, folders, agent);
        format!("{VAR}={},", String::from_utf8_lossy(&out))
    }

    fn whose(o: &mut Object, folders: &Folders, agent: AgentId) {
        let path = |p: &PathBuf| p.to_string_lossy().into_owned();
        o.str("hive", &folders.hive).str("live", &path(&folders.live)).str("kept", &path(&folders.kept));
        o.str("context", &path(&folders.context)).num("agent", agent.0);
    }

    fn encode(&self) -> String {
        let mut out = Vec::new();
        let mut o = Object::open(&mut out);
        Orders::whose(&mut o, &self.folders, self.agent);
        o.num("generation", self.generation.0);
        o.str("kind", self.spec.kind.name()).strings("command", self.spec.command.iter().map(String::as_str));
        o.opt_str("surroundings", self.spec.surroundings.as_deref()).num("stop_grace_us", self.spec.stop_grace_us);
        o.num("orphan_grace_us", self.spec.orphan_grace_us);
        o.num("start_patience_us", self.spec.start_patience_us).num("supervisor", self.supervisor);
        o.num("open_files", self.open_files).num("oom_score", self.oom_score);
        o.opt_str("cgroup", self.cgroup.as_ref().map(|p| p.to_string_lossy()).as_deref());
        limits::write(&mut o, &self.spec.limits);
        let cpus: Vec<String> = self.processors.iter().map(usize::to_string).collect();
        o.raw("processors", &format!("[{}]", cpus.join(",")));
        o.close();
        String::from_utf8_lossy(&out).into_owned()
    }

    pub fn from_env() -> Result<Orders> {
        let text = std::env::var(VAR).unwrap_or_default();
        let bad = |e: String| Error::new(Code::Internal, format!("a host is started by a supervisor alone: {e}"));
        Orders::decode(&text).map_err(bad)
    }

    fn decode(text: &str) -> std::result::Result<Orders, String> {
        let flat = Flat::parse(text)?;
        let str = |name: &str| flat.str(name)?.map(|t| t.into_owned()).ok_or(format!("\"{name}\" is missing"));
        let num = |name: &str| flat.u64(name)?.ok_or(format!("\"{name}\" is missing"));
        let spec = Spec {
            kind: Kind::parse(&str("kind")?).ok_or("\"kind\" is unknown")?,
            command: flat.strings("command")?,
            surroundings: flat.str("surroundings")?.map(|t| t.as_ref().into()),
            stop_grace_us: num("stop_grace_us")? as i64,
            start_patience_us: num("start_patience_us")? as i64,
            orphan_grace_us: num("orphan_grace_us")? as i64,
            limits: limits::read(&flat)?,
            ..Spec::default()
        };
        let folders = Folders {
            hive: str("hive")?,
            live: str("live")?.into(),
            kept: str("kept")?.into(),
            context: str("context")?.into(),
        };
        Ok(Orders {
            folders,
            agent: AgentId(num("agent")? as u32),
            generation: Generation(num("generation")? as u32),
            spec: Arc::new(spec),
            supervisor: num("supervisor")? as i32,
            open_files: num("open_files")?,
            oom_score: flat.i64("oom_score")?.unwrap_or(0) as i32,
            cgroup: flat.str("cgroup")?.map(|path| path.as_ref().into()),
            processors: flat.numbers("processors")?.into_iter().map(|n| n as usize).collect(),
        })
    }

    /// Surroundings as every workload of this agent gets them: it can find its hive again.
    pub fn dress(&self, surroundings: Surroundings) -> Surroundings {
        let f = &self.folders;
        let agent = self.agent.to_string();
        let parent = |p: &PathBuf| p.parent().map(|p| p.as_os_str().to_owned()).unwrap_or_default();
        surroundings.with(&[
            ("HIVE_NAME", OsStr::new(&f.hive)),
            ("HIVE_AGENT", OsStr::new(&agent)),
            ("HIVE_CONTEXT", f.context.as_os_str()),
            ("HIVE_LIVE", f.live.as_os_str()),
            ("HIVE_DIR", &parent(&f.kept)),
            ("HIVE_SHM", &parent(&f.live)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Limits;

    #[test]
    fn orders_are_read_back() {
        let folders =
            Folders { hive: "h".into(), live: "/l/h".into(), kept: "/k/h".into(), context: "/k/context".into() };
        let spec = Spec {
            kind: Kind::Lines,
            command: vec!["a".into(), "b \"c\"".into()],
            stop_grace_us: 5,
            limits: Limits { nproc: Some(7), ..Limits::default() },
            ..Spec::default()
        };
        let orders = Orders {
            folders,
            agent: AgentId(3),
            generation: Generation(2),
            spec: Arc::new(spec),
            supervisor: 9,
            open_files: 1024,
            oom_score: -100,
            cgroup: Some("/sys/fs/cgroup/h".into()),
            processors: vec![0, 1],
        };
        let read = Orders::decode(&orders.encode()).unwrap();
        assert_eq!(read.spec, orders.spec);
        assert_eq!((read.agent, read.generation, read.supervisor), (AgentId(3), Generation(2), 9));
        assert_eq!((read.oom_score, read.cgroup), (-100, orders.cgroup));
        assert_eq!((read.folders.live, read.processors), ("/l/h".into(), vec![0, 1]));
    }
}
