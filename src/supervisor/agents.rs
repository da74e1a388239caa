//! The supervisor's ends of its agents: pipes, host processes, and what their lines mean to the model.
//! Invariant: a line counts only for the generation that can have said it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use mio::{Interest, Poll};
use nix::libc;
use nix::sys::signal::Signal;

use super::collect::{Line, Overlong, answered_task};
use super::core::Core;
use super::{Wake, unwatch, watch};
use crate::host::Orders;
use crate::limits;
use crate::model::{AgentId, Generation, HostId, Input, Loss, State, StopMode, TaskId};
use crate::outbox::{Outbox, Unit};
use crate::store::{BoundedLog, Folders};
use crate::sys::process::{self, Ending, Pid, Place, Plan, Process};
use crate::sys::{fifo, signal, tree};
use crate::wire::agent::{self, Said};
use crate::wire::host::{Command, News, Report};

pub struct Agents {
    folders: Folders,
    links: BTreeMap<AgentId, Link>,
    /// The pool's process group: every host is in it, the supervisor is not.
    pub group: i32,
    /// Agents with something to write since the last flush.
    dirty: Vec<AgentId>,
    /// What was lost and not yet told to the model.
    losses: VecDeque<(AgentId, Generation, Loss)>,
    /// What hosts get back that the supervisor changed for itself.
    open_files: u64,
    processors: Vec<usize>,
}

struct Link {
    out: File,
    inbox: Outbox,
    commands: Outbox,
    host: Option<Process>,
    /// The workload that runs, as its host reported, and of which generation it is.
    workload: Option<(Generation, i32)>,
    /// READY came before the host's report of the start.
    ready: Option<(Vec<String>, Vec<String>)>,
    /// The log of the task that printed last.
    log: Option<(TaskId, BoundedLog)>,
}

impl Agents {
    pub fn new(folders: Folders, open_files: u64, processors: Vec<usize>) -> Agents {
        Agents {
            folders,
            links: BTreeMap::new(),
            group: 0,
            dirty: Vec::new(),
            losses: VecDeque::new(),
            open_files,
            processors,
        }
    }

    pub fn out(&self, id: AgentId) -> Option<&File> {
        self.links.get(&id).map(|link| &link.out)
    }

    pub fn has_losses(&self) -> bool {
        !self.losses.is_empty()
    }

    // ---- doing ----

    /// Starts a host with fresh pipes. A failure is a loss like any other: it is retried by the restart policy.
    pub fn spawn(&mut self, id: AgentId, generation: Generation, core: &mut Core, poll: &Poll) {
        match self.try_spawn(id, generation, &core.state, poll) {
            Ok(host) => {
                // A hosted agent is never refused.
                let _ = core.feed(Input::Hosted { agent: id, generation, host });
            }
            Err(e) => {
                let cause = format!("cannot start its host: {}", crate::error::reason(&e)).into();
                self.losses.push_back((id, generation, Loss { host: true, cause, stderr: "".into() }));
            }
        }
    }

    fn try_spawn(&mut self, id: AgentId, generation: Generation, state: &State, poll: &Poll) -> io::Result<HostId> {
        let spec = &state.agents.get(&id).ok_or_else(|| io::Error::other("no such agent"))?.spec;
        self.folders.make_agent(id).map_err(|e| io::Error::other(e.message))?;
        let folder = self.folders.agent(id);
        if let Some(old) = self.links.remove(&id) {
            unwatch(poll, old.out.as_raw_fd());
        }
        let both = |name: &str| fresh(&folder.join(name));
        let (out, inbox, commands) = (both("out")?, both("in")?, both("host")?);
        watch(poll, out.as_raw_fd(), Wake::AgentOut(id), Interest::READABLE)?;
        let orders = Orders {
            folders: self.folders.clone(),
            agent: id,
            generation,
            spec: spec.clone(),
            supervisor: process::my_pid().0,
            open_files: self.open_files,
            processors: self.processors.clone(),
        };
        let pid = self.start_host(&orders)?;
        let host = Process::open(pid)?;
        watch(poll, host.as_raw_fd(), Wake::HostGone(id), Interest::READABLE)?;
        let link = Link {
            out,
            inbox: Outbox::new(inbox, Unit::Lines),
            commands: Outbox::new(commands, Unit::Lines),
            host: Some(host),
            workload: None,
            ready: None,
            log: None,
        };
        self.links.insert(id, link);
        Ok(HostId { pid: pid.0, start_ticks: process::start_time(pid).unwrap_or(0) })
    }

    /// All hosts share one group. When the last member has gone, the number means nothing and a new group begins.
    fn start_host(&mut self, orders: &Orders) -> io::Result<Pid> {
        let nothing = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let own = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.folders.supervisor_log())?;
        let args = orders.args()?;
        let env = orders.env()?;
        let mut plan = Plan {
            program: Path::new("/proc/self/exe"),
            args: &args,
            env: &env,
            folder: None,
            stdio: [nothing.as_raw_fd(), nothing.as_raw_fd(), own.as_raw_fd()],
            place: Place::Group(self.group),
        };
        if self.group != 0 {
            match process::start(&plan) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ESRCH)) => plan.place = Place::Group(0),
                other => return other,
            }
        }
        let pid = process::start(&plan)?;
        self.group = pid.0;
        Ok(pid)
    }

    /// Where to append lines for an agent.
    pub fn inbox(&mut self, id: AgentId) -> Option<&mut Vec<u8>> {
        let link = self.links.get_mut(&id)?;
        if self.dirty.last() != Some(&id) {
            self.dirty.push(id);
        }
        Some(link.inbox.buffer())
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
        } else if self.group != 0 {
            let _ = process::signal_group(self.group, Signal::SIGTERM);
        }
        if self.group != 0 {
            let _ = process::signal_group(self.group, Signal::SIGCONT);
        }
    }

    /// A host that does not obey. Its end is heard like any other's, and then its tree is ended.
    pub fn kill_host(&self, id: AgentId) {
        if let Some(host) = self.links.get(&id).and_then(|link| link.host.as_ref()) {
            let _ = host.signal(Signal::SIGKILL);
        }
    }

    /// What killed hosts left behind came up as our children: end it.
    pub fn clean_up(&self) {
        let hosts: Vec<Pid> = self.links.values().filter_map(|l| l.host.as_ref()).map(|h| h.pid).collect();
        tree::end_adopted(process::my_pid(), &hosts);
    }

    pub fn flush(&mut self, poll: &Poll) {
        self.dirty.sort_unstable();
        self.dirty.dedup();
        for id in self.dirty.drain(..) {
            let Some(link) = self.links.get_mut(&id) else {
                continue;
            };
            // We hold both pipes open for reading too, so they take what fits and keep it.
            let _ = link.inbox.flush(poll.registry(), Wake::AgentIn(id).token());
            let _ = link.commands.flush(poll.registry(), Wake::HostPipe(id).token());
        }
    }

    pub fn writable(&mut self, id: AgentId) {
        self.dirty.push(id);
    }

    // ---- hearing ----

    pub fn host_gone(&mut self, id: AgentId, poll: &Poll, state: &State) {
        let Some(host) = self.links.get_mut(&id).and_then(|link| link.host.take()) else {
            return;
        };
        unwatch(poll, host.as_raw_fd());
        let cause = match host.reap() {
            Some(Ending::Signal(n)) => format!("its host was killed by SIG{}", signal::name(n)),
            Some(Ending::Exit(code)) => format!("its host exited with {code}"),
            None => "its host is gone".to_owned(),
        };
        let generation = state.agents.get(&id).map_or(Generation(0), |a| a.generation);
        self.losses.push_back((id, generation, Loss { host: true, cause: cause.into(), stderr: "".into() }));
    }

    /// The agent of the first loss that is still to be told.
    pub fn first_loss(&self) -> Option<AgentId> {
        self.losses.front().map(|(id, _, _)| *id)
    }

    pub fn tell_loss(&mut self, core: &mut Core) {
        let Some((agent, generation, loss)) = self.losses.pop_front() else {
            return;
        };
        if let Some(link) = self.links.get_mut(&agent) {
            (link.workload, link.ready, link.log) = (None, None, None);
        }
        // A loss is a fact: the model does not refuse it.
        let _ = core.feed(Input::Down { agent, generation, loss });
    }

    pub fn report(&mut self, report: Report, core: &mut Core) {
        let Report { agent, generation, news } = report;
        let current = core.state.agents.get(&agent).is_some_and(|a| a.generation == generation);
        let Some(link) = self.links.get_mut(&agent).filter(|_| current) else {
            return;
        };
        match news {
            News::Started(pid) => {
                link.workload = Some((generation, pid));
                if let Some((abilities, labels)) = link.ready.take() {
                    let _ = core.feed(Input::Ready { agent, generation, workload: pid, abilities, labels });
                }
            }
            News::Ready(workload) => {
                let _ =
                    core.feed(Input::Ready { agent, generation, workload, abilities: Vec::new(), labels: Vec::new() });
            }
            News::Down(loss) => self.losses.push_back((agent, generation, loss)),
        }
    }

    /// One line of an agent. Returns whether it was good protocol or plain output.
    pub fn said(&mut self, id: AgentId, line: Line, core: &mut Core) -> bool {
        let bytes = match line {
            Line::Whole(bytes) => bytes,
            Line::Tail(bytes, begun) => {
                self.output_line(id, bytes, &core.state);
                return self.overlong(id, begun, core);
            }
        };
        let Some(agent) = core.state.agents.get(&id) else {
            return true;
        };
        let (hosted, generation) = (agent.spec.kind.is_hosted(), agent.generation);
        let said = match std::str::from_utf8(bytes) {
            Ok(text) => agent::parse(text.strip_suffix('\r').unwrap_or(text), hosted),
            Err(_) => match answered_task(bytes) {
                Some(task) => Said::Fail { task, reason: "its answer is not UTF-8: it must go by reference" },
                None => Said::Output,
            },
        };
        let input = match said {
            Said::Done { task, text } => Input::Done { agent: id, task: TaskId(task), result: text.map(Arc::from) },
            Said::Exited { task, how } => Input::Exited { agent: id, task: TaskId(task), how },
            Said::Fail { task, reason } => Input::Failed { agent: id, task: TaskId(task), reason: reason.into() },
            Said::Progress { task, percent, text } => {
                Input::Progress { agent: id, task: TaskId(task), percent, text: text.into() }
            }
            Said::Usage { task, fields } => Input::Usage { agent: id, task: TaskId(task), fields: fields.into() },
            Said::Ready { abilities, labels } => {
                let owned = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect();
                return self.ready(id, generation, owned(abilities), owned(labels), core);
            }
            Said::Pong => return true,
            Said::Malformed(_) => {
                self.output_line(id, bytes, &core.state);
                return false;
            }
            Said::Output => {
                self.output_line(id, bytes, &core.state);
                return true;
            }
        };
        core.feed(input).is_ok()
    }

    /// An answer that is too long ends its task all the same: nobody waits for ever for a line that was refused.
    fn overlong(&mut self, id: AgentId, begun: Overlong, core: &mut Core) -> bool {
        let Overlong::AnswerTo(task) = begun else { return true };
        let reason = format!("its answer was longer than {} bytes: it must go by reference", limits::LINE_MAX);
        let _ = core.feed(Input::Failed { agent: id, task: TaskId(task), reason: reason.into() });
        false
    }

    fn ready(
        &mut self,
        id: AgentId,
        generation: Generation,
        abilities: Vec<String>,
        labels: Vec<String>,
        core: &mut Core,
    ) -> bool {
        let Some(link) = self.links.get_mut(&id) else {
            return true;
        };
        match link.workload.filter(|(of, _)| *of == generation) {
            Some((_, workload)) => {
                core.feed(Input::Ready { agent: id, generation, workload, abilities, labels }).is_ok()
            }
            None => {
                link.ready = Some((abilities, labels));
                true
            }
        }
    }

    fn output_line(&mut self, id: AgentId, bytes: &[u8], state: &State) {
        self.output(id, bytes, state);
        self.output(id, b"\n", state);
    }

    /// What an agent prints that is not protocol belongs to its running task, or to itself.
    pub fn output(&mut self, id: AgentId, bytes: &[u8], state: &State) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let Some(task) = state.agents.get(&id).and_then(|a| a.held.front().copied()) else {
            BoundedLog::rotating(self.folders.agent(id).join("log"), limits::AGENT_LOG_MAX).write(bytes);
            return;
        };
        if link.log.as_ref().is_none_or(|(of, _)| *of != task) {
            link.log = Some((task, BoundedLog::cut(self.folders.task_log(task), limits::TASK_LOG_MAX)));
        }
        if let Some((_, log)) = &mut link.log {
            log.write(bytes);
        }
    }
}

/// A pipe that nobody has written to yet.
fn fresh(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fifo::make(path)?;
    fifo::open_both(path)
}
