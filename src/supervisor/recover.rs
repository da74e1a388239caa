//! Take-over: what a former leader left, found and brought in. Its agents live on under this one; what it recorded and
//! perhaps did not do is done; what it took and did not record is taken up.
//! Invariant: a process is what the log says only if pid, start time and boot agree; of any other nothing is touched.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use mio::Poll;
use nix::libc;

use super::agents::{Agents, Shared, mark_of_workloads};
use super::core::Core;
use crate::error::{Error, Result};
use crate::host::{Orders, number};
use crate::model::{AgentId, Effect, Kind, Row, State};
use crate::store::Folders;
use crate::sys::process::{self, Pid, Process};
use crate::sys::{fifo, shm, tree};

/// A host that lives, and its process group.
pub type Living = (AgentId, Process, i32);

/// The hosts that the log says run, and that do.
pub fn living_hosts(state: &State) -> io::Result<Vec<Living>> {
    if state.boot.as_deref() != Some(process::boot_id().as_str()) {
        return Ok(Vec::new());
    }
    let mut living = Vec::new();
    for (id, host) in state.agents.values().filter_map(|agent| Some((agent.id, agent.host?))) {
        let process = match Process::open(Pid(host.pid)) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => continue,
            other => other?,
        };
        // Looked at while it is held: from here on the pid cannot come to mean another.
        let stat = process::stat(process.pid).ok();
        if let Some(stat) = stat.filter(|stat| stat.start_ticks == host.start_ticks && !stat.is_zombie) {
            living.push((id, process, stat.group));
        }
    }
    Ok(living)
}

/// What all hosts share: what a living one holds, or new. With it, a `ctl` that is still held though another stands under
/// its name.
pub fn shared_pipes(folders: &Folders, host: Option<Pid>) -> Result<(Shared, Option<File>)> {
    let ctl = make_ctl(folders)?;
    let shared = |ctl: File| match host {
        None => Ok((Shared { ctl, hosts: fifo::unnamed()?, barrier: shm::unnamed(&[0; 8])? }, None)),
        Some(host) => held_pipes(host, ctl),
    };
    shared(ctl).map_err(|e| Error::os("cannot open what the hosts share", e))
}

/// The pipe that clients write to, under its name.
pub fn make_ctl(folders: &Folders) -> Result<File> {
    let path = folders.ctl();
    let made = match fifo::make(&path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => fifo::open_both(&path),
    };
    made.map_err(|e| Error::os(format!("cannot open {}", path.display()), e))
}

/// What a host holds, and its `ctl` if it is not this one.
fn held_pipes(host: Pid, ctl: File) -> io::Result<(Shared, Option<File>)> {
    let held = fifo::open_of(host, number::CTL)?;
    let same = held.metadata()?.ino() == ctl.metadata()?.ino();
    let (hosts, barrier) = (fifo::open_of(host, number::HOSTS)?, fifo::open_of(host, number::BARRIER)?);
    Ok((Shared { ctl, hosts, barrier }, (!same).then_some(held)))
}

/// Takes over every living host. One whose pipes cannot be had is of no use, and is ended.
pub fn adopt(agents: &mut Agents, living: Vec<Living>, poll: &Poll) -> BTreeSet<AgentId> {
    let mut adopted = BTreeSet::new();
    for (id, host, group) in living {
        let pid = host.pid;
        match agents.adopt(id, host, group, poll) {
            Ok(()) => drop(adopted.insert(id)),
            Err(e) => {
                eprintln!("hivectl: cannot take over agent {id} (process {}): {e}; it is ended", pid.0);
                tree::end_stranger(pid);
            }
        }
    }
    adopted
}

/// Ends what is left of hosts that died while nobody led, and hosts that were started and never recorded.
pub fn end_remains(state: &State, folders: &Folders, adopted: &BTreeSet<AgentId>) {
    let mut marks = Vec::new();
    for agent in state.agents.values() {
        match (Row::of(agent, adopted.contains(&agent.id)), agent.host) {
            (Row::Replace, Some(host)) => marks.push(mark_of_workloads(folders, Pid(host.pid))),
            (Row::StartAgain, _) => marks.push(vec![Orders::mark(folders, agent.id)]),
            (Row::Adopt | Row::Rest | Row::Replace, _) => {}
        }
    }
    tree::end_marked(&marks);
    // One that threw its environment away as well is still in its agent's cgroup.
    if let Some(home) = folders.cgroup().find() {
        home.end_agents(|agent| adopted.contains(&AgentId(agent)));
    }
}

/// Of the tasks that are said again, those that a `lines` agent was sent before are not: it would do them twice.
/// (A host knows itself what it has begun.)
pub fn hold_back_what_was_sent(core: &mut Core, agents: &mut Agents) {
    let mut sent = BTreeSet::new();
    for agent in core.state.agents.values().filter(|a| a.spec.kind == Kind::Lines && !a.held.is_empty()) {
        let count = agents.sent_before(agent, &core.state);
        sent.extend(agent.held.iter().take(count).copied());
    }
    core.effects.retain(|effect| match effect {
        Effect::SendTask { task, .. } | Effect::SendContext { task, .. } => !sent.contains(task),
        _ => true,
    });
}
