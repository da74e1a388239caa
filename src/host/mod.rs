//! The host: one process per agent, in the pool's group, subreaper of its workload. It starts what the agent runs,
//! takes what that prints, and ends all of it when told. It decides nothing about tasks: it does and reports.
//! Invariant: no process below it outlives it on purpose, and "ended" is said when nothing is left below.
//! At rest it sleeps without a deadline.

mod barrier;
mod cage;
mod capture;
mod ending;
mod job;
mod orders;
mod quiet;
mod run;

pub use orders::{Orders, number};

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::Signal;

use crate::error::{Code, Error, Result};
use crate::limits;
use crate::model::{Exited, Generation, Kind, Loss, StopMode};
use crate::outbox::{Outbox, Unit};
use crate::store::surroundings::Surroundings;
use crate::store::{BoundedLog, Context};
use crate::sys::process::{self, Pid, Process};
use crate::sys::{self, clock, fifo, signal};
use crate::wire::agent;
use crate::wire::host::{Command, News, Report};
use barrier::Bell;
use cage::Cage;
use job::{Job, Next};

const IN: Token = Token(0);
const COMMANDS: Token = Token(1);
const CHILD: Token = Token(2);
const TERMINATE: Token = Token(3);
const SUPERVISOR: Token = Token(4);
const OUT: Token = Token(5);
const HOSTS: Token = Token(6);
const BELL: Token = Token(7);
/// Two jobs may have pipes at a time: the one that runs and the one that is warm.
const JOBS: usize = 8;

/// A task that ends sooner is not made to share the processor with the start of the next process.
const WARM_UP_AFTER: Duration = Duration::from_millis(5);
/// Between two rounds of killing, should one not be enough.
const KILL_AGAIN: Duration = Duration::from_millis(20);

struct Host {
    orders: Orders,
    me: Pid,
    poll: Poll,
    context: Context,
    /// The agent's `in`: read here for hosted kinds, by the workload for `lines`.
    inbox: Lines,
    commands: Lines,
    out: Outbox,
    reports: Outbox,
    /// Held open, so that what clients write while nobody leads waits there.
    ctl: File,
    children: OwnedFd,
    terminate: OwnedFd,
    bell: Bell,
    supervisor: Option<Process>,
    /// With no supervisor: when to give up.
    orphan_until: Option<i64>,
    /// And when to say so.
    note_at: Option<i64>,
    generation: Generation,
    /// Surroundings of the resident kinds, and the last ones of a shell task, by digest.
    own: Surroundings,
    last: Option<(Arc<str>, Surroundings)>,
    /// The workload of `lines`, or the task that runs.
    current: Option<Job>,
    /// `oneshot`: the process that waits for the next task.
    warm: Option<Job>,
    /// The next one is started when its task runs for this long, or has ended.
    warm_up_at: Option<i64>,
    /// This generation's first warm process was reported ready.
    was_ready: bool,
    /// A look at whether the warm one is quiet: when, and how often it was looked.
    quiet: Option<quiet::Watch>,
    /// Everything below but the warm one is being ended; when the next round of killing is due.
    sweep: Option<i64>,
    /// What a task left behind has not been asked to end yet.
    leftovers_unasked: bool,
    /// What to do once nothing is left below.
    then: Then,
    /// The loss of the workload was reported: tasks that come meanwhile are put back by the supervisor, and not run here.
    is_down: bool,
    /// A loss that is reported when the running task has ended.
    warm_lost: Option<Loss>,
    cage: Cage,
    log: BoundedLog,
    starts: u64,
    /// The lines before a TASK line.
    gathered: Next,
    /// The attempt that was begun last: a new leader may send it again.
    begun: Option<(u64, u32)>,
    /// A task that is to end, and has not come yet.
    doomed: Option<u64>,
    /// A task that the workload was sent or not, and the look at which of the two.
    settling: Option<(u64, quiet::Watch)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Then {
    /// Take the next task.
    GoOn,
    /// Report the end of the task that was ended on purpose.
    Report,
    /// Report that the workload is gone.
    Down(Loss),
    /// Start the workload of this generation.
    Start(Generation),
    Leave,
}

pub fn main() -> i32 {
    match Orders::from_env().and_then(Host::new).and_then(|mut host| host.serve()) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("hivectl host: {e}");
            1
        }
    }
}

impl Host {
    fn new(orders: Orders) -> Result<Host> {
        let os = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| Error::os(what, e)
        };
        process::set_name();
        for ignored in [Signal::SIGHUP, Signal::SIGINT] {
            signal::ignore(ignored).map_err(os("cannot ignore a signal"))?;
        }
        process::adopt_orphans().map_err(os("cannot become a subreaper"))?;
        sys::set_open_files(orders.open_files).map_err(os("cannot set the limit of open files"))?;
        sys::set_processors(&orders.processors).map_err(os("cannot set the processors"))?;
        let children = signal::doorbell(&[Signal::SIGCHLD]).map_err(os("cannot listen for signals"))?;
        let terminate = signal::doorbell(&[Signal::SIGTERM]).map_err(os("cannot listen for signals"))?;
        let poll = Poll::new().map_err(os("cannot make an epoll"))?;
        let handed = |number: i32| {
            let missing = || Error::new(Code::Internal, format!("a host is started by a supervisor: no pipe {number}"));
            process::handed(number).map(File::from).ok_or_else(missing)
        };
        let bell = Bell::new(handed(number::BARRIER)?).map_err(os("cannot listen for signals"))?;
        let context = Context::at(&orders.folders.context);
        let own = match &orders.spec.surroundings {
            Some(digest) => Surroundings::load(&context, digest).map_err(os("cannot read the pool's environment"))?,
            None => Surroundings::here().map_err(os("cannot tell where this is"))?,
        };
        let own = orders.dress(own);
        let mut host = Host {
            me: process::my_pid(),
            ctl: handed(number::CTL)?,
            reports: Outbox::new(handed(number::HOSTS)?, Unit::Lines),
            inbox: Lines::new(handed(number::IN)?),
            out: Outbox::new(handed(number::OUT)?, Unit::Lines),
            commands: Lines::new(handed(number::COMMANDS)?),
            supervisor: None,
            orphan_until: None,
            note_at: None,
            generation: orders.generation,
            log: BoundedLog::rotating(orders.folders.agent(orders.agent).join("log"), limits::AGENT_LOG_MAX),
            cage: Cage::new(&orders),
            poll,
            context,
            children,
            terminate,
            bell,
            own,
            orders,
            last: None,
            current: None,
            warm: None,
            warm_up_at: None,
            was_ready: false,
            quiet: None,
            sweep: None,
            leftovers_unasked: false,
            then: Then::GoOn,
            is_down: false,
            warm_lost: None,
            starts: 0,
            gathered: Next::default(),
            begun: None,
            doomed: None,
            settling: None,
        };
        host.watch()?;
        host.start_workload();
        Ok(host)
    }

    fn watch(&mut self) -> Result<()> {
        let mut fds = vec![
            (self.commands.file.as_raw_fd(), COMMANDS),
            (self.children.as_raw_fd(), CHILD),
            (self.terminate.as_raw_fd(), TERMINATE),
            (self.bell.rings.as_raw_fd(), BELL),
        ];
        if self.orders.spec.kind.is_hosted() {
            fds.push((self.inbox.file.as_raw_fd(), IN));
        }
        for (fd, token) in fds {
            let added = self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
            added.map_err(|e| Error::os("cannot watch a pipe", e))?;
        }
        self.follow(Pid(self.orders.supervisor));
        Ok(())
    }

    fn serve(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(16);
        loop {
            self.go_on();
            self.flush();
            if self.then == Then::Leave && self.sweep.is_none() {
                match self.supervisor {
                    Some(_) => self.cage.leave(),
                    None => self.cage.leave_for_good(),
                }
                return Ok(());
            }
            match self.poll.poll(&mut events, self.timeout()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|e| Error::os("cannot wait for events", e))?,
            }
            for event in &events {
                self.heard(event.token());
            }
            self.tick();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let jobs = [&self.current, &self.warm];
        if jobs.into_iter().flatten().any(|j| j.has_more()) {
            return Some(Duration::ZERO);
        }
        let quiet = self.quiet.as_ref().map(|q| q.at);
        let settling = self.settling.as_ref().map(|(_, watch)| watch.at);
        let look = self.cage.next_look().filter(|_| self.runs_something());
        let due = [self.sweep, self.orphan_until, self.note_at, self.warm_up_at, quiet, settling, look];
        let due = due.into_iter().flatten().min()?;
        Some(Duration::from_micros((due - clock::monotonic_micros()).max(0) as u64))
    }

    fn heard(&mut self, token: Token) {
        match token {
            IN => self.inbox.ready = true,
            COMMANDS => {
                self.commands.ready = true;
                while let Some(line) = self.commands.next() {
                    if let Some(command) = Command::parse(&String::from_utf8_lossy(&line)) {
                        self.obey(command);
                    }
                }
            }
            CHILD => {
                signal::hush(&self.children);
                self.reap();
            }
            TERMINATE => {
                signal::hush(&self.terminate);
                self.obey(Command::Stop(StopMode::Clean));
            }
            BELL => self.rung(),
            SUPERVISOR => self.supervisor_gone(),
            OUT | HOSTS => {}
            Token(n) => self.job_ready(n - JOBS),
        }
    }

    fn supervisor_gone(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            let _ = self.poll.registry().deregister(&mut SourceFd(&supervisor.as_raw_fd()));
        }
        let now = clock::monotonic_micros();
        self.orphan_until = Some(now + self.orders.spec.orphan_grace_us);
        self.note_at = Some(now + limits::ORPHAN_NOTE_AFTER.as_micros() as i64);
    }

    /// Lives and dies with this supervisor from here on.
    fn follow(&mut self, supervisor: Pid) {
        if let Some(former) = self.supervisor.take() {
            let _ = self.poll.registry().deregister(&mut SourceFd(&former.as_raw_fd()));
        }
        let watch = |process: &Process| {
            self.poll.registry().register(&mut SourceFd(&process.as_raw_fd()), SUPERVISOR, Interest::READABLE).is_ok()
        };
        self.supervisor = Process::open(supervisor).ok().filter(watch);
        match self.supervisor {
            None => self.supervisor_gone(),
            Some(_) if self.orphan_until.take().is_some() && self.note_at.take().is_none() => {
                let _ = std::fs::remove_file(self.orders.folders.orphaned(self.orders.agent));
            }
            Some(_) => {}
        }
    }

    fn obey(&mut self, command: Command) {
        let now = clock::monotonic_micros();
        match command {
            // Said again by a new leader: it was heard.
            Command::Start(generation) if generation == self.generation => {}
            Command::Start(generation) if self.then != Then::Leave => {
                self.generation = generation;
                self.then = Then::Start(generation);
                self.warm_lost = None;
                self.settling = None;
                self.begin_sweep(now + self.orders.spec.stop_grace_us, true);
            }
            Command::Start(_) => {}
            Command::End(task) => {
                let runs =
                    self.current.as_mut().filter(|job| self.orders.spec.kind == Kind::Lines || job.task == Some(task));
                if let Some(job) = runs {
                    job.by_host = true;
                    if self.then == Then::GoOn {
                        self.then = Then::Report;
                    }
                    self.begin_sweep(now + self.orders.spec.stop_grace_us, false);
                } else if self.warm.is_some() && task == 0 {
                    self.begin_sweep(now, true);
                } else if task != 0 && self.begun.is_none_or(|(begun, _)| begun != task) {
                    self.doomed = Some(task);
                }
            }
            Command::Leader(pid) => self.follow(Pid(pid)),
            Command::Ctl => {
                if let Ok(ctl) = fifo::open_both(&self.orders.folders.ctl()) {
                    let _ = sys::replace(&self.ctl, &ctl);
                }
            }
            Command::Ring => self.ring_workload(),
            Command::Settle(task) => self.settling = Some((task, quiet::Watch::new(now))),
            Command::Stop(mode) => {
                for job in [&mut self.current, &mut self.warm].into_iter().flatten() {
                    job.by_host = true;
                }
                self.then = Then::Leave;
                self.quiet = None;
                let grace = if mode == StopMode::Now { 0 } else { self.orders.spec.stop_grace_us };
                self.begin_sweep(now + grace, true);
            }
        }
    }

    fn tick(&mut self) {
        let now = clock::monotonic_micros();
        if self.runs_something() && self.cage.next_look().is_some_and(|at| at <= now) {
            self.look_at_limits(now);
        }
        if self.sweep.is_some_and(|at| at <= now) {
            self.kill_victims();
            self.sweep = Some(now + KILL_AGAIN.as_micros() as i64);
            self.reap();
        }
        if self.warm_up_at.is_some_and(|at| at <= now) {
            self.warm_up_at = None;
            self.warm_up();
        }
        if self.note_at.is_some_and(|at| at <= now) {
            self.note_at = None;
            // For people: when it was, and who is left. Nothing depends on it.
            let _ = std::fs::write(self.orders.folders.orphaned(self.orders.agent), format!("{}\n", self.me.0));
        }
        if self.orphan_until.is_some_and(|at| at <= now) {
            self.orphan_until = None;
            self.obey(Command::Stop(StopMode::Clean));
        }
        if self.quiet.as_ref().is_some_and(|q| q.at <= now) {
            self.look_for_quiet(now);
        }
        if self.settling.as_ref().is_some_and(|(_, watch)| watch.at <= now) {
            self.look_for_waiting(now);
        }
    }

    // ---- saying ----

    fn report(&mut self, news: News) {
        let report = Report { agent: self.orders.agent, generation: self.generation, news };
        self.reports.buffer().extend_from_slice(&report.encode());
    }

    fn flush(&mut self) {
        let registry = self.poll.registry();
        // Both pipes are open for reading here too: they take what fits and keep it for the next leader.
        let _ = self.out.flush(registry, OUT);
        let _ = self.reports.flush(registry, HOSTS);
    }
}

/// Whole lines from a pipe.
struct Lines {
    file: File,
    bytes: VecDeque<u8>,
    /// The pipe may hold something: edge-triggered readiness is said once.
    ready: bool,
}

impl Lines {
    fn new(file: File) -> Lines {
        Lines { file, bytes: VecDeque::new(), ready: true }
    }

    /// Forgets everything that was written so far.
    fn clear(&mut self) {
        self.bytes.clear();
        let _ = fifo::drain(&self.file);
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.bytes.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
                line.pop();
                return Some(line);
            }
            if !self.ready {
                return None;
            }
            let mut chunk = [0; limits::LINE_MAX];
            match sys::read(&self.file, &mut chunk) {
                Ok(n) if n > 0 => self.bytes.extend(&chunk[..n]),
                _ => self.ready = false,
            }
        }
    }
}

impl Host {
    fn job_ready(&mut self, n: usize) {
        let log = &mut self.log;
        for job in [&mut self.current, &mut self.warm].into_iter().flatten().filter(|j| j.slot == n / 4) {
            job.ready(n % 4, log);
        }
    }

    /// Takes up whatever can go on: more output, and the next task if nothing runs.
    fn go_on(&mut self) {
        let log = &mut self.log;
        for job in [&mut self.current, &mut self.warm].into_iter().flatten().filter(|j| j.has_more()) {
            job.take_more(log);
        }
        while self.current.is_none()
            && self.sweep.is_none()
            && !self.is_down
            && self.then == Then::GoOn
            && !self.bell.holds()
            && self.orders.spec.kind.is_hosted()
        {
            let Some(line) = self.inbox.next() else {
                return;
            };
            match job::next(&String::from_utf8_lossy(&line), &mut self.gathered) {
                Some(next) if self.begun == Some((next.task, next.attempt)) => {}
                Some(next) => {
                    let task = next.task;
                    self.begun = Some((task, next.attempt));
                    if self.doomed.take() == Some(task) {
                        let ended = Exited { by_host: true, ..Exited::default() };
                        self.out.buffer().extend_from_slice(&agent::exited(task, &ended));
                    } else {
                        self.run(next);
                    }
                }
                None => {}
            }
        }
    }
}
