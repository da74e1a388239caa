//! The supervisor: one thread, one place that waits. A turn is: collect what came, decide, record it in one write,
//! perform, answer, sleep until the next deadline or the next byte.
//! Invariant: nothing is done or answered before it is recorded. No periodic wake-up: at rest it sleeps for ever.

mod agents;
mod clients;
mod collect;
mod core;
mod lead;
mod live;
mod perform;
mod publish;
mod recover;
mod requests;
mod room;
mod standby;
mod steering;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::Signal;

use crate::error::{Code, Error, Result};
use crate::limits;
use crate::model::{AgentId, Given, Input, Now, Seq, StopMode};
use crate::store::sync::Syncer;
use crate::store::{Context, Folders, Intake, Marks};
use crate::sys::{self, clock, failpoint, process, signal};
use crate::wire::request::Names;
use agents::Agents;
use clients::Clients;
use collect::Inlets;
use core::{Core, Unfinished};
use lead::Lead;
use live::Live;
use publish::{Beside, Publisher};
use standby::Heir;

/// How a supervisor is to run.
pub struct Settings {
    pub folders: Folders,
    /// Keep to this processor.
    pub pin: Option<usize>,
    /// Answer only what is on disk.
    pub durable: bool,
    /// Wait until the one that leads is gone.
    pub standby: bool,
    /// Be as durable as the former leader, and where it was, and keep what it kept.
    pub as_before: bool,
    /// Bytes of the log that are kept.
    pub keep_log: u64,
}

pub struct Supervisor {
    settings: Settings,
    hive: Hive,
    poll: Poll,
    intake: Intake,
    inlets: Inlets,
    syncer: Syncer,
    bell: UnixStream,
    signals: OwnedFd,
    lead: Lead,
    live: Live,
    board: Publisher,
}

/// Everything that a line, once taken, can touch.
struct Hive {
    name: String,
    core: Core,
    agents: Agents,
    clients: Clients,
    context: Context,
    names: Names,
    /// The contexts of the last task that was given any: the next one often has the same.
    given: Arc<[Given]>,
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
    /// One of those that `ctl` was before it was made anew.
    FormerCtl(usize),
    Live,
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
            Wake::FormerCtl(place) => 8 + place,
            Wake::Live => 5,
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
            8..16 => Wake::FormerCtl(n - 8),
            5 => Wake::Live,
            n if n >= CLIENT_BIT => Wake::Client(n - CLIENT_BIT),
            n if n & 3 == 0 => Wake::AgentOut(id),
            n if n & 3 == 1 => Wake::AgentIn(id),
            n if n & 3 == 2 => Wake::HostPipe(id),
            _ => Wake::HostGone(id),
        }
    }
}

/// Runs a supervisor until its hive is stopped. `ready` is called when requests are taken; or, by a standby, when it waits.
pub fn run(settings: Settings, ready: impl FnOnce()) -> Result<()> {
    process::set_name();
    if settings.standby {
        let Some((lead, sign, heir)) = Lead::inherit(&settings.folders, ready)? else { return Ok(()) };
        let mut supervisor = Supervisor::start(settings, lead, heir)?;
        drop(sign);
        return supervisor.serve();
    }
    settings.folders.make()?;
    let lead = Lead::take(&settings.folders)?;
    let mut supervisor = Supervisor::start(settings, lead, None)?;
    ready();
    supervisor.serve()
}

impl Supervisor {
    fn start(mut settings: Settings, mut lead: Lead, heir: Option<Heir>) -> Result<Supervisor> {
        if settings.as_before {
            lead.former(&mut settings);
        }
        let folders = &settings.folders;
        let os = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| Error::os(what, e)
        };
        // Before any thread is started: one that did not hold them back would be ended by them, and all of us with it.
        let stop_signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
        let signals = signal::doorbell(&stop_signals).map_err(os("cannot listen for signals"))?;
        let open_files = sys::raise_open_files().map_err(os("cannot raise the limit of open files"))?;
        lead.let_go_first(sys::open_files_max().unwrap_or(0)).map_err(os("cannot hold the locks"))?;
        let processors = sys::processors_of(process::my_pid()).map_err(os("cannot read the processors"))?;
        if let Some(cpu) = settings.pin {
            sys::pin_to(cpu).map_err(os(&format!("cannot keep to processor {cpu}")))?;
        }
        process::adopt_orphans().map_err(os("cannot become a subreaper"))?;

        let poll = Poll::new().map_err(os("cannot make an epoll"))?;
        let full = "(is the live folder's space full?)";
        let mut intake = Intake::open(&folders.intake()).map_err(os(&format!("cannot map the intake {full}")))?;
        let marks = Marks::open(&folders.marks()).map_err(os(&format!("cannot map the marks {full}")))?;
        let board = Publisher::open(&folders.board()).map_err(os(&format!("cannot map the board {full}")))?;
        let unfinished = Unfinished { answered: marks.answered(), turn: intake.deciding().unwrap_or(Seq(u64::MAX)) };
        let (mut core, answered) = Core::inherit(folders, heir, now(), unfinished)?;

        // It leads: what it knows is what the log comes to. Whoever writes to it now is heard in its first turn.
        let since = clock::wall_micros();
        lead.say(core.log.term.0 + 1, since, &settings).map_err(os("cannot write the leader file"))?;
        let living = recover::living_hosts(&core.state).map_err(os("cannot look for the agents of the last leader"))?;
        let host = living.first().map(|(_, host, _)| host.pid);
        let (shared, former) = recover::shared_pipes(folders, host)?;
        let inlets = Inlets::new(&shared.ctl, &shared.hosts, former).map_err(os("cannot open the hive's pipes"))?;
        let mut agents = Agents::new(folders.clone(), shared, marks, open_files, processors);
        let adopted = recover::adopt(&mut agents, living, &poll);
        failpoint::pass("adopted");
        recover::end_remains(&core.state, folders, &adopted);
        core.lead(now(), adopted, settings.standby);
        core.log.keep(&folders.logs(), settings.keep_log).map_err(os("cannot start the thread for snapshots"))?;
        recover::hold_back_what_was_sent(&mut core, &mut agents);
        agents.tell_soon(core.now.mono, core.state.spec.orphan_grace_us);

        let left = intake.recover(core.recorded());
        let pause = if settings.durable { Duration::ZERO } else { limits::SYNC_WITHIN };
        let (syncer, bell) = Syncer::start(pause).map_err(os("cannot start the syncing thread"))?;
        inlets.watch(&poll).map_err(os("cannot watch a pipe"))?;
        for (fd, wake) in [(signals.as_raw_fd(), Wake::Signals), (bell.as_raw_fd(), Wake::Bell)] {
            watch(&poll, fd, wake, Interest::READABLE).map_err(os("cannot watch a pipe"))?;
        }
        let mut live = Live::default();
        live.watch(&folders.live, &poll).map_err(os("cannot watch the live folder"))?;
        let hive = Hive {
            name: folders.hive.clone(),
            core,
            agents,
            clients: Clients::new(folders.replies(), settings.durable),
            context: Context::at(&folders.context),
            names: Names::default(),
            given: Arc::default(),
            exit: false,
            malformed: 0,
            since,
        };
        let mut supervisor =
            Supervisor { settings, hive, poll, intake, inlets, syncer, bell, signals, lead, live, board };
        failpoint::pass("led");
        supervisor.take_left(left, answered.as_ref());
        failpoint::pass("took-left");
        supervisor.finish_turn()?;
        Ok(supervisor)
    }

    fn serve(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(256);
        let mut woken = VecDeque::new();
        while !self.hive.exit {
            self.wait(&mut events, &mut woken)?;
            self.hive.core.now = now();
            if self.live.mend_at.is_some_and(|at| at <= self.hive.core.now.mono) {
                self.mend_live();
            }
            self.hive.agents.tell_who_leads(self.hive.core.now.mono);
            self.collect(&mut woken)?;
            self.finish_turn()?;
        }
        self.leave()
    }

    /// The one place that sleeps.
    fn wait(&mut self, events: &mut Events, woken: &mut VecDeque<Wake>) -> Result<()> {
        let at_once =
            self.inlets.has_pending() || self.hive.agents.has_news() || self.hive.core.unrecorded_from().is_some();
        let timeout = if at_once { Some(Duration::ZERO) } else { self.until_next_deadline() };
        match self.poll.poll(events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => other.map_err(|e| Error::os("cannot wait for events", e))?,
        }
        woken.extend(events.iter().map(|event| Wake::of(event.token())));
        Ok(())
    }

    fn until_next_deadline(&self) -> Option<Duration> {
        let core = &self.hive.core;
        let due = [
            core.state.next_deadline(),
            core.next_look_for_room(),
            self.hive.agents.tell_at(),
            self.hive.clients.next_deadline(),
            self.live.mend_at,
        ];
        let due = due.into_iter().flatten().min()?;
        // Rounded up to the poll's milliseconds, or it would wake just before the deadline and spin.
        Some(Duration::from_micros((due - clock::monotonic_micros()).max(0) as u64))
    }

    /// Decide what is due, record the turn, perform, answer. In this order: what is done or said must be in the log.
    fn finish_turn(&mut self) -> Result<()> {
        let hive = &mut self.hive;
        hive.core.settle();
        let unrecorded = hive.core.unrecorded_from();
        if let Some(first) = unrecorded {
            self.intake.will_record(first);
            failpoint::pass("decided");
            hive.core
                .record()
                .map_err(|e| Error::os("cannot write the event log; the supervisor stops, the agents go on", e))?;
            self.syncer.written(hive.core.log.file(), hive.core.recorded());
        }
        failpoint::pass("recorded");
        // Shown before anybody is told.
        let beside = Beside { since: hive.since, malformed: hive.malformed, clients_cut: hive.clients.cut };
        self.board.publish(&mut hive.core, beside, unrecorded.is_some());
        hive.perform(&self.poll);
        failpoint::pass("performed");
        hive.agents.flush(&self.poll);
        hive.clients.release(self.syncer.synced());
        hive.clients.flush(&self.poll, hive.core.now.mono);
        failpoint::pass("answered");
        let recorded = hive.core.recorded();
        let done = hive.clients.answered(recorded).min(hive.agents.told(recorded));
        hive.agents.answered(done);
        failpoint::pass("marked");
        self.inlets.turn_is_done(&mut self.intake);
        failpoint::pass("done");
        Ok(())
    }

    /// The end of a stopped hive: nothing of it stays but the log, and what is used without a supervisor.
    fn leave(&mut self) -> Result<()> {
        self.syncer.finish();
        self.hive.core.log.give_back();
        self.hive.clients.release(self.syncer.synced());
        self.hive.clients.flush(&self.poll, self.hive.core.now.mono);
        let live = &self.settings.folders.live;
        if !self.lead.is_current() {
            return Err(Error::new(
                Code::Internal,
                format!("{} is another supervisor's now: left alone", live.display()),
            ));
        }
        self.settings.folders.remove_live()?;
        self.board.close();
        Ok(())
    }

    fn say_who_leads(&self) -> Result<()> {
        let said = self.lead.say(self.hive.core.log.term.0, self.hive.since, &self.settings);
        said.map_err(|e| Error::os("cannot write the leader file", e))
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

fn watch(poll: &Poll, fd: i32, wake: Wake, interest: Interest) -> io::Result<()> {
    poll.registry().register(&mut SourceFd(&fd), wake.token(), interest)
}

fn unwatch(poll: &Poll, fd: i32) {
    let _ = poll.registry().deregister(&mut SourceFd(&fd));
}
