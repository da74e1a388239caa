//! The supervisor: one thread, one place that waits. A turn is: collect what came, decide, record it in one write,
//! perform, answer, sleep until the next deadline or the next byte.
//! Invariant: nothing is done or answered before it is recorded. No periodic wake-up: at rest it sleeps for ever.

mod agents;
mod clients;
mod collect;
mod core;
mod perform;
mod recover;
mod requests;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::libc;

use crate::error::{Code, Error, Result};
use crate::json::Flat;
use crate::limits;
use crate::model::{AgentId, Input, Now, StopMode};
use crate::store::sync::Syncer;
use crate::store::{Context, Folders, Intake};
use crate::sys::lock::Lock;
use crate::sys::{self, clock, fifo, process, signal};
use crate::wire::request::Names;
use agents::Agents;
use clients::Clients;
use collect::Inlets;
use core::Core;

/// How a supervisor is to run.
pub struct Settings {
    pub folders: Folders,
    /// Keep to this processor.
    pub pin: Option<usize>,
    /// Answer only what is on disk.
    pub durable: bool,
}

pub struct Supervisor {
    settings: Settings,
    hive: Hive,
    poll: Poll,
    intake: Intake,
    inlets: Inlets,
    syncer: Syncer,
    bell: UnixStream,
    signals: UnixStream,
    lock: Lock,
}

/// Everything that a line, once taken, can touch.
struct Hive {
    name: String,
    core: Core,
    agents: Agents,
    clients: Clients,
    context: Context,
    names: Names,
    /// Set by the last effect of a hive's life.
    exit: bool,
    malformed: u64,
    since: i64,
}

/// What a poll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Ctl,
    Hosts,
    Signals,
    Bell,
    AgentOut(AgentId),
    AgentIn(AgentId),
    HostPipe(AgentId),
    HostGone(AgentId),
    Client(usize),
}

const CLIENT_BIT: usize = 1 << 40;

impl Wake {
    fn token(self) -> Token {
        let agent = |id: AgentId, n: usize| ((id.0 as usize + 4) << 2) + n;
        Token(match self {
            Wake::Ctl => 0,
            Wake::Hosts => 1,
            Wake::Signals => 2,
            Wake::Bell => 3,
            Wake::AgentOut(id) => agent(id, 0),
            Wake::AgentIn(id) => agent(id, 1),
            Wake::HostPipe(id) => agent(id, 2),
            Wake::HostGone(id) => agent(id, 3),
            Wake::Client(slot) => CLIENT_BIT + slot,
        })
    }

    fn of(token: Token) -> Wake {
        let n = token.0;
        let id = AgentId((n >> 2).wrapping_sub(4) as u32);
        match n {
            0 => Wake::Ctl,
            1 => Wake::Hosts,
            2 => Wake::Signals,
            3 => Wake::Bell,
            n if n >= CLIENT_BIT => Wake::Client(n - CLIENT_BIT),
            n if n & 3 == 0 => Wake::AgentOut(id),
            n if n & 3 == 1 => Wake::AgentIn(id),
            n if n & 3 == 2 => Wake::HostPipe(id),
            _ => Wake::HostGone(id),
        }
    }
}

/// Runs a supervisor until its hive is stopped. `ready` is called when requests are taken.
pub fn run(settings: Settings, ready: impl FnOnce()) -> Result<()> {
    let mut supervisor = Supervisor::start(settings)?;
    ready();
    supervisor.serve()
}

impl Supervisor {
    fn start(settings: Settings) -> Result<Supervisor> {
        let folders = &settings.folders;
        let os = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| Error::os(what, e)
        };
        process::set_name();
        folders.make()?;
        let lock = take_lead(folders)?;
        let open_files = sys::raise_open_files().map_err(os("cannot raise the limit of open files"))?;
        let processors = sys::processors_of(process::my_pid()).map_err(os("cannot read the processors"))?;
        if let Some(cpu) = settings.pin {
            sys::pin_to(cpu).map_err(os(&format!("cannot keep to processor {cpu}")))?;
        }
        process::adopt_orphans().map_err(os("cannot become a subreaper"))?;

        let poll = Poll::new().map_err(os("cannot make an epoll"))?;
        let mut core = Core::open(folders, now())?;
        // Opened before the old hosts go: they alone hold what was written while nobody led.
        let (ctl, hosts) = (pipe(&folders.ctl())?, pipe(&folders.hosts())?);
        recover::end_old_hosts(&core.state, folders);
        core.lead(now(), process::my_pid().0);

        let mut intake =
            Intake::open(&folders.intake()).map_err(os("cannot map the intake (is the live folder's space full?)"))?;
        let left = intake.recover(core.recorded());
        let stop_signals = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
        let signals = signal::doorbell(&stop_signals).map_err(os("cannot listen for signals"))?;
        let pause = if settings.durable { Duration::ZERO } else { limits::SYNC_WITHIN };
        let (syncer, bell) = Syncer::start(pause).map_err(os("cannot start the syncing thread"))?;
        for (fd, wake) in [
            (ctl.as_raw_fd(), Wake::Ctl),
            (hosts.as_raw_fd(), Wake::Hosts),
            (signals.as_raw_fd(), Wake::Signals),
            (bell.as_raw_fd(), Wake::Bell),
        ] {
            watch(&poll, fd, wake, Interest::READABLE).map_err(os("cannot watch a pipe"))?;
        }
        let since = clock::wall_micros();
        write_leader(&lock, core.log.term.0, since).map_err(os("cannot write the leader file"))?;
        let hive = Hive {
            name: folders.hive.clone(),
            core,
            agents: Agents::new(folders.clone(), open_files, processors),
            clients: Clients::new(folders.replies(), settings.durable),
            context: Context::at(&folders.context),
            names: Names::default(),
            exit: false,
            malformed: 0,
            since,
        };
        let inlets = Inlets::new(ctl, hosts);
        let mut supervisor = Supervisor { settings, hive, poll, intake, inlets, syncer, bell, signals, lock };
        supervisor.hive.take_left(left);
        supervisor.finish_turn()?;
        Ok(supervisor)
    }

    fn serve(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(256);
        let mut woken = VecDeque::new();
        while !self.hive.exit {
            self.wait(&mut events, &mut woken)?;
            self.hive.core.now = now();
            self.collect(&mut woken)?;
            self.finish_turn()?;
        }
        self.leave()
    }

    /// The one place that sleeps.
    fn wait(&mut self, events: &mut Events, woken: &mut VecDeque<Wake>) -> Result<()> {
        let at_once =
            self.inlets.has_pending() || self.hive.agents.has_losses() || self.hive.core.unrecorded_from().is_some();
        let timeout = if at_once { Some(Duration::ZERO) } else { self.until_next_deadline() };
        match self.poll.poll(events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => other.map_err(|e| Error::os("cannot wait for events", e))?,
        }
        woken.extend(events.iter().map(|event| Wake::of(event.token())));
        Ok(())
    }

    fn until_next_deadline(&self) -> Option<Duration> {
        let due =
            [self.hive.core.state.next_deadline(), self.hive.clients.next_deadline()].into_iter().flatten().min()?;
        // Rounded up to the poll's milliseconds, or it would wake just before the deadline and spin.
        Some(Duration::from_micros((due - clock::monotonic_micros()).max(0) as u64))
    }

    /// Decide what is due, record the turn, perform, answer. In this order: what is done or said must be in the log.
    fn finish_turn(&mut self) -> Result<()> {
        let hive = &mut self.hive;
        hive.core.settle();
        if let Some(first) = hive.core.unrecorded_from() {
            self.intake.will_record(first);
            hive.core
                .record()
                .map_err(|e| Error::os("cannot write the event log; the supervisor stops, the agents go on", e))?;
            self.syncer.written(hive.core.log.file(), hive.core.recorded());
        }
        self.inlets.turn_is_recorded(&mut self.intake);
        hive.perform(&self.poll);
        hive.agents.flush(&self.poll);
        hive.clients.release(self.syncer.synced());
        hive.clients.flush(&self.poll, hive.core.now.mono);
        Ok(())
    }

    /// The end of a stopped hive: nothing of it stays but the log.
    fn leave(&mut self) -> Result<()> {
        self.syncer.finish();
        self.hive.clients.release(self.syncer.synced());
        self.hive.clients.flush(&self.poll, self.hive.core.now.mono);
        let live = &self.settings.folders.live;
        if !self.lock.is_current() {
            return Err(Error::new(
                Code::Internal,
                format!("{} is another supervisor's now: left alone", live.display()),
            ));
        }
        std::fs::remove_dir_all(live).map_err(|e| Error::os(format!("cannot remove {}", live.display()), e))
    }

    fn heard_signal(&mut self) {
        signal::hush(&self.signals);
        // To stop is never refused.
        let _ = self.hive.core.feed(Input::Stop { mode: StopMode::Clean, to: None });
    }

    fn heard_bell(&mut self) -> Result<()> {
        signal::hush(&self.bell);
        if self.syncer.has_failed() {
            return Err(Error::new(
                Code::Internal,
                "the disk did not take the event log (fdatasync failed); the supervisor stops rather than answer what may be lost",
            ));
        }
        Ok(())
    }
}

fn now() -> Now {
    Now { mono: clock::monotonic_micros(), wall: clock::wall_micros() }
}

/// The lock, or who has it. A client that looks takes it for a microsecond, so once is not enough.
fn take_lead(folders: &Folders) -> Result<Lock> {
    let path = folders.leader();
    for _ in 0..20 {
        match Lock::try_take(&path) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(e) => return Err(Error::os(format!("cannot lock {}", path.display()), e)),
        }
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let pid = Flat::parse(text.trim()).ok().and_then(|leader| leader.u64("pid").ok().flatten());
    let who = pid.map_or_else(String::new, |pid| format!(" (supervisor {pid})"));
    let remedy = "`hivectl pool status` shows it, `hivectl pool stop` ends it, `--hive NAME` starts another beside it";
    let message = format!("hive {} runs already{who}: {remedy}", folders.hive);
    Err(Error::new(Code::AlreadyRunning, message))
}

/// Who leads, for clients to read.
fn write_leader(lock: &Lock, term: u64, since: i64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let text =
        format!("{{\"pid\":{},\"term\":{term},\"since\":\"{}\"}}\n", process::my_pid().0, crate::time::text(since));
    lock.file.set_len(0)?;
    lock.file.write_all_at(text.as_bytes(), 0)
}

/// A pipe that others write to. What was written while no supervisor lived waits in it, if a host held it open.
fn pipe(path: &std::path::Path) -> Result<File> {
    match fifo::make(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::os(format!("cannot make {}", path.display()), e))
        }
        _ => fifo::open_both(path).map_err(|e| Error::os(format!("cannot open {}", path.display()), e)),
    }
}

fn watch(poll: &Poll, fd: i32, wake: Wake, interest: Interest) -> io::Result<()> {
    poll.registry().register(&mut SourceFd(&fd), wake.token(), interest)
}

fn unwatch(poll: &Poll, fd: i32) {
    let _ = poll.registry().deregister(&mut SourceFd(&fd));
}
