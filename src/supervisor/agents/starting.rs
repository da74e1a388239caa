//! Hosts, started: their pipes, their orders, their processes. Those that are due together are started side by side.
//! Invariant: all hosts started here are in one process group, and a host that could not be started is a loss.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use mio::{Interest, Poll};
use nix::libc;

use super::{Agents, Core, Link, Pipes, Wake, unwatch, watch};
use crate::host::{Orders, number};
use crate::model::{AgentId, Generation, HostId, Input, Loss, State};
use crate::sys::process::{self, Bounds, Pid, Place, Plan, Process};
use crate::sys::{failpoint, fifo};

/// A host that can be started.
struct Prepared {
    agent: AgentId,
    generation: Generation,
    pipes: Pipes,
    args: Vec<CString>,
    env: Vec<CString>,
    fds: [RawFd; 9],
}

impl Agents {
    /// This one is started with the others that are due.
    pub fn will_start_host(&mut self, agent: AgentId, generation: Generation) {
        self.due.push((agent, generation));
    }

    /// Starts the hosts that are due, with fresh pipes. A failure is a loss like any other: the restart policy retries it.
    pub fn start_hosts(&mut self, core: &mut Core, poll: &Poll) {
        if self.due.is_empty() {
            return;
        }
        let due = std::mem::take(&mut self.due);
        let stdio = self.stdio();
        let mut hosts = Vec::with_capacity(due.len());
        for (agent, generation) in due {
            let stdio = stdio.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()));
            match stdio.and_then(|stdio| self.prepare(agent, generation, stdio, &core.state, poll)) {
                Ok(host) => hosts.push(host),
                Err(e) => self.not_started(agent, generation, &e),
            }
        }
        let started = self.start(&hosts);
        for (Prepared { agent, generation, pipes, .. }, pid) in hosts.into_iter().zip(started) {
            match pid.and_then(|pid| self.link(agent, pipes, pid, poll)) {
                Ok(host) => {
                    // A hosted agent is never refused.
                    let _ = core.feed(Input::Hosted { agent, generation, host });
                }
                Err(e) => self.not_started(agent, generation, &e),
            }
        }
    }

    fn not_started(&mut self, agent: AgentId, generation: Generation, e: &io::Error) {
        let cause = format!("cannot start its host: {}", crate::error::reason(e));
        self.losses.push_back((agent, generation, Loss { host: true, ..Loss::because(cause) }));
    }

    /// What hosts have for stdin and stdout, and for stderr.
    fn stdio(&self) -> io::Result<(File, File)> {
        let nothing = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let mut log = OpenOptions::new();
        log.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        Ok((nothing, log.open(self.folders.supervisor_log())?))
    }

    fn prepare(
        &mut self,
        id: AgentId,
        generation: Generation,
        (nothing, log): &(File, File),
        state: &State,
        poll: &Poll,
    ) -> io::Result<Prepared> {
        let spec = &state.agents.get(&id).ok_or_else(|| io::Error::other("no such agent"))?.spec;
        self.folders.make_agent(id).map_err(|e| io::Error::other(e.message))?;
        let folder = self.folders.agent(id);
        if let Some(old) = self.links.remove(&id) {
            unwatch(poll, old.out.as_raw_fd());
        }
        let pipes =
            Pipes { out: fresh(&folder.join("out"))?, inbox: fresh(&folder.join("in"))?, commands: fifo::unnamed()? };
        watch(poll, pipes.out.as_raw_fd(), Wake::AgentOut(id), Interest::READABLE)?;
        self.marks.forget(id);
        let orders = Orders {
            folders: self.folders.clone(),
            agent: id,
            generation,
            spec: spec.clone(),
            supervisor: process::my_pid().0,
            open_files: self.open_files,
            oom_score: self.oom_score,
            processors: self.processors.clone(),
            cgroup: self.cgroup.as_ref().map(|home| home.path.clone()),
        };
        let mut fds = [nothing.as_raw_fd(); 9];
        for (number, file) in [
            (2, log),
            (number::CTL, &self.shared.ctl),
            (number::HOSTS, &self.shared.hosts),
            (number::IN, &pipes.inbox),
            (number::OUT, &pipes.out),
            (number::COMMANDS, &pipes.commands),
            (number::BARRIER, &self.shared.barrier),
        ] {
            fds[number as usize] = file.as_raw_fd();
        }
        failpoint::pass("spawn");
        Ok(Prepared { agent: id, generation, args: orders.args()?, env: orders.env()?, fds, pipes })
    }

    /// When the last member of the group has gone, its number means nothing and a new group begins. So one host is
    /// started alone: then there is a group, and the others can join it in any order.
    fn start(&mut self, hosts: &[Prepared]) -> Vec<io::Result<Pid>> {
        let mut started = Vec::with_capacity(hosts.len());
        let mut left = hosts;
        while let Some((first, rest)) = left.split_first() {
            started.push(self.start_first(first));
            left = rest;
            if matches!(started.last(), Some(Ok(_))) {
                break;
            }
        }
        let plans: Vec<Plan> = left.iter().map(|host| host.plan(self.group)).collect();
        started.extend(process::start_all(&plans));
        started
    }

    fn start_first(&mut self, host: &Prepared) -> io::Result<Pid> {
        if self.group != 0 {
            match process::start(&host.plan(self.group)) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ESRCH)) => {}
                other => return other,
            }
        }
        let pid = process::start(&host.plan(0))?;
        self.group = pid.0;
        Ok(pid)
    }

    fn link(&mut self, id: AgentId, pipes: Pipes, pid: Pid, poll: &Poll) -> io::Result<HostId> {
        failpoint::pass("spawned");
        let host = Process::open(pid)?;
        watch(poll, host.as_raw_fd(), Wake::HostGone(id), Interest::READABLE)?;
        self.links.insert(id, Link::new(pipes, host, false));
        Ok(HostId { pid: pid.0, start_ticks: process::start_time(pid).unwrap_or(0) })
    }
}

impl Prepared {
    fn plan(&self, group: i32) -> Plan<'_> {
        Plan {
            program: Path::new("/proc/self/exe"),
            args: &self.args,
            env: &self.env,
            folder: None,
            fds: &self.fds,
            place: Place::Group(group),
            bounds: Bounds::default(),
        }
    }
}

/// A pipe that nobody has written to yet.
fn fresh(path: &Path) -> io::Result<File> {
    match fifo::make(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            fifo::make(path)?;
        }
        other => other?,
    }
    fifo::open_both(path)
}
