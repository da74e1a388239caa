//! The supervisor's ends of its agents: their pipes and host processes; what is started, sent and ended.
//! Invariant: nothing here waits for an agent; what its pipe does not take is kept, and marked as sent when it has gone.

mod adopting;
mod hearing;
mod starting;
mod telling;

pub use telling::write_task;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::path::Path;

use mio::Poll;
use nix::sys::signal::Signal;

use super::core::Core;
use super::{Wake, unwatch, watch};
use crate::model::{AgentId, Generation, Loss, Seq, StopMode, TaskId};
use crate::outbox::{Outbox, Unit};
use crate::store::marks::Delivery;
use crate::store::{BoundedLog, Folders, Marks};
use crate::sys::cgroup::Cgroup;
use crate::sys::process::{self, Pid, Process};
use crate::sys::{cgroup, failpoint, oom, tree};
use crate::wire::host::Command;

pub struct Agents {
    folders: Folders,
    links: BTreeMap<AgentId, Link>,
    /// The pipes that all hosts are handed.
    shared: Shared,
    marks: Marks,
    /// The pool's process group: every host is in it, the supervisor is not. Hosts that were taken over have another:
    /// nobody can join a group of another session.
    group: i32,
    former_groups: BTreeSet<i32>,
    /// Hosts that somebody else had started, and that died: what was below them is not below us.
    left_behind: Vec<(AgentId, Pid)>,
    /// Adopted agents that do not know yet who leads, and when they are told.
    untold: Vec<AgentId>,
    tell_at: Option<i64>,
    /// Agents with something to write since the last flush.
    dirty: Vec<AgentId>,
    /// Hosts to start together.
    due: Vec<(AgentId, Generation)>,
    /// Agents whose pipes did not take all: up to which record they were told everything.
    behind: BTreeMap<AgentId, Seq>,
    /// Up to which record the turns before this one were flushed.
    flushed: Seq,
    /// What was lost and not yet told to the model.
    losses: VecDeque<(AgentId, Generation, Loss)>,
    /// Agents that wait for a task which they were perhaps not sent.
    waiting: VecDeque<AgentId>,
    /// What hosts get back that the supervisor changed for itself.
    open_files: u64,
    oom_score: i32,
    processors: Vec<usize>,
    /// The hive's cgroup, where there can be one.
    cgroup: Option<Cgroup>,
    /// How many processes the kernel's out-of-memory killer had taken when it was last asked.
    oom_kills: u64,
}

/// Pipes of the whole pool, as descriptors.
pub struct Shared {
    pub ctl: File,
    pub hosts: File,
    /// Which barrier is open: hosts look here when they are rung for.
    pub barrier: File,
}

struct Link {
    out: File,
    inbox: Outbox,
    commands: Outbox,
    host: Option<Process>,
    /// Another supervisor started it: it is nobody's child here.
    adopted: bool,
    /// Which task each line still in `inbox` is about, and where it ends (`lines` alone: a host knows what it has begun).
    unsent: VecDeque<(u64, Delivery)>,
    /// Tasks that the last supervisor was sending when it died: they may have arrived or not.
    unsettled: Vec<TaskId>,
    /// The log of the task that printed last.
    log: Option<(TaskId, BoundedLog)>,
}

/// The pipes of one agent.
struct Pipes {
    out: File,
    inbox: File,
    commands: File,
}

impl Link {
    fn new(pipes: Pipes, host: Process, adopted: bool) -> Link {
        Link {
            out: pipes.out,
            inbox: Outbox::new(pipes.inbox, Unit::Lines),
            commands: Outbox::new(pipes.commands, Unit::Lines),
            host: Some(host),
            adopted,
            unsent: VecDeque::new(),
            unsettled: Vec::new(),
            log: None,
        }
    }
}

impl Agents {
    pub fn new(folders: Folders, shared: Shared, marks: Marks, open_files: u64, processors: Vec<usize>) -> Agents {
        let cgroup = folders.cgroup().make();
        Agents {
            folders,
            links: BTreeMap::new(),
            shared,
            marks,
            group: 0,
            former_groups: BTreeSet::new(),
            left_behind: Vec::new(),
            untold: Vec::new(),
            tell_at: None,
            dirty: Vec::new(),
            due: Vec::new(),
            behind: BTreeMap::new(),
            flushed: Seq(0),
            losses: VecDeque::new(),
            waiting: VecDeque::new(),
            open_files,
            oom_score: oom::protect_myself(),
            processors,
            cgroup,
            oom_kills: oom::kills(),
        }
    }

    /// What holds the agents' processes together, in words.
    pub fn containment(&self) -> String {
        cgroup::containment(self.cgroup.as_ref())
    }

    pub fn out(&self, id: AgentId) -> Option<&File> {
        self.links.get(&id).map(|link| &link.out)
    }

    pub fn has_news(&self) -> bool {
        !self.losses.is_empty() || !self.waiting.is_empty()
    }

    /// Every answer that stands on records up to here is written.
    pub fn answered(&mut self, upto: Seq) {
        self.marks.set_answered(upto);
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// `ctl` was made anew: hosts hold that one from here on.
    pub fn replace_ctl(&mut self, ctl: File) {
        self.shared.ctl = ctl;
        let ids: Vec<AgentId> = self.links.keys().copied().collect();
        ids.into_iter().for_each(|id| self.command(id, &Command::Ctl));
    }

    pub fn copy_marks_to(&mut self, path: &Path) -> io::Result<()> {
        self.marks = self.marks.copy_to(path)?;
        Ok(())
    }

    /// The group that status shows.
    pub fn group(&self) -> i32 {
        if self.group != 0 { self.group } else { self.former_groups.first().copied().unwrap_or(0) }
    }

    /// Where to append lines for an agent.
    pub fn inbox(&mut self, id: AgentId) -> Option<&mut Vec<u8>> {
        let link = self.links.get_mut(&id)?;
        if self.dirty.last() != Some(&id) {
            self.dirty.push(id);
        }
        Some(link.inbox.buffer())
    }

    /// The line appended last is this one of a `lines` agent: it is marked when it has gone.
    pub fn delivers(&mut self, id: AgentId, task: TaskId, attempt: u32) {
        if let Some(link) = self.links.get_mut(&id) {
            link.unsent.push_back((link.inbox.end(), Delivery::of(task, attempt)));
        }
    }

    /// The workload begins anew.
    pub fn start_workload(&mut self, id: AgentId, generation: Generation) {
        self.marks.forget(id);
        if let Some(link) = self.links.get_mut(&id) {
            link.unsettled.clear();
        }
        self.command(id, &Command::Start(generation));
    }

    pub fn command(&mut self, id: AgentId, command: &Command) {
        if let Some(link) = self.links.get_mut(&id) {
            link.commands.buffer().extend_from_slice(command.encode().as_bytes());
            self.dirty.push(id);
        }
    }

    /// Every host at once. TERM is a clean stop; CONT in case somebody stopped one.
    pub fn end_all(&mut self, mode: StopMode) {
        if mode == StopMode::Now {
            let ids: Vec<AgentId> = self.links.keys().copied().collect();
            ids.into_iter().for_each(|id| self.command(id, &Command::Stop(mode)));
        }
        for group in self.groups() {
            if mode != StopMode::Now {
                let _ = process::signal_group(group, Signal::SIGTERM);
            }
            let _ = process::signal_group(group, Signal::SIGCONT);
        }
    }

    /// Groups that have members: those of adopted hosts are looked at first, lest their number means another by now.
    pub(super) fn groups(&mut self) -> Vec<i32> {
        let hosts = self.links.values().filter(|link| link.adopted).filter_map(|link| link.host.as_ref());
        let alive: BTreeSet<i32> = hosts.filter_map(|host| process::group_of(host.pid).ok()).collect();
        self.former_groups.retain(|group| alive.contains(group));
        self.former_groups.iter().copied().chain(Some(self.group).filter(|group| *group != 0)).collect()
    }

    /// A host that does not obey. Its end is heard like any other's, and then its tree is ended.
    pub fn kill_host(&self, id: AgentId) {
        if let Some(host) = self.links.get(&id).and_then(|link| link.host.as_ref()) {
            let _ = host.signal(Signal::SIGKILL);
        }
    }

    /// What killed hosts left behind came up as our children, or is found by its mark where we did not start them: end it.
    pub fn clean_up(&mut self, id: Option<AgentId>) {
        let hosts: Vec<Pid> = self.links.values().filter_map(|l| l.host.as_ref()).map(|h| h.pid).collect();
        tree::end_adopted(process::my_pid(), &hosts);
        let left = self.left_behind.extract_if(.., |(of, _)| id.is_none_or(|id| id == *of));
        let marks: Vec<tree::Marks> = left.map(|(_, host)| mark_of_workloads(&self.folders, host)).collect();
        tree::end_marked(&marks);
        match id {
            Some(id) => self.end_cgroup(id),
            None => self.folders.cgroup().leave(),
        }
    }

    fn end_cgroup(&self, id: AgentId) {
        let path = self.cgroup.as_ref().map(|home| cgroup::of_agent(&home.path, id.0));
        if let Some(left) = path.and_then(|path| Cgroup::open(&path).ok()) {
            left.end();
        }
    }

    pub fn flush(&mut self, poll: &Poll) {
        self.dirty.sort_unstable();
        self.dirty.dedup();
        for id in self.dirty.drain(..) {
            let Some(link) = self.links.get_mut(&id) else {
                continue;
            };
            // We hold both pipes open for reading too, so they take what fits and keep it.
            if link.unsent.is_empty() {
                let _ = link.inbox.flush(poll.registry(), Wake::AgentIn(id).token());
            } else {
                self.marks.begin_sending(id);
                failpoint::pass("sending");
                let _ = link.inbox.flush(poll.registry(), Wake::AgentIn(id).token());
                failpoint::pass("sent");
                let gone = link.inbox.sent();
                let sent = link.unsent.partition_point(|(end, _)| *end <= gone);
                self.marks.was_sent(id, link.unsent.drain(..sent).next_back().map(|(_, delivery)| delivery));
            }
            match link.inbox.waiting() {
                0 => drop(self.behind.remove(&id)),
                _ => drop(self.behind.entry(id).or_insert(self.flushed)),
            }
            let _ = link.commands.flush(poll.registry(), Wake::HostPipe(id).token());
        }
    }

    pub fn writable(&mut self, id: AgentId) {
        self.dirty.push(id);
    }
}

/// How the processes of a host's workloads are known, wherever they hang.
pub fn mark_of_workloads(folders: &Folders, host: Pid) -> tree::Marks {
    vec![format!("HIVE_LIVE={}", folders.live.display()), format!("HIVE_START={}.", host.0)]
}
