//! A client of a hive: writes requests to `ctl`, reads answers from a reply FIFO of its own. Used by every verb.
//! Invariant: it never waits for a supervisor that is not there, and takes its FIFO with it when it goes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Code, Error, Result};
use crate::json::{Flat, Object};
use crate::limits::{LEADERLESS_PATIENCE, LINE_MAX};
use crate::store::{Context, Folders};
use crate::sys::notify::Watcher;
use crate::sys::process::{Pid, Process, my_pid};
use crate::sys::{self, clock, fifo, lock};

pub struct Client {
    ctl: File,
    reply: File,
    path: PathBuf,
    name: String,
    folders: Folders,
    leader: Leadership,
    /// How long it waits for another leader.
    patience: Duration,
    taken: Vec<u8>,
    /// Where the next line begins in `taken`.
    from: usize,
}

/// Who leads a hive, as its leader file says.
#[derive(Debug, Clone, Copy)]
pub struct Leader {
    pub pid: i32,
    pub term: u64,
}

/// Whether anybody will answer.
enum Leadership {
    Led(Process),
    /// The leader died. Its agents live on for a while, and the next leader answers what it left unanswered.
    Awaited {
        until: i64,
        changes: Watcher,
    },
}

/// A hive whose supervisor is dead, and whose agents are not.
pub struct Abandoned {
    pub agents: usize,
    pub for_us: i64,
}

/// One answer, or news about one that is to come.
pub struct Answer(String);

impl Answer {
    pub fn from_line(line: String) -> Answer {
        Answer(line)
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    pub fn flat(&self) -> Flat<'_> {
        Flat::parse(&self.0).unwrap_or_else(|_| Flat::parse("{}").expect("an empty object"))
    }

    pub fn tag(&self) -> u64 {
        self.num("tag").unwrap_or(0)
    }

    pub fn num(&self, name: &str) -> Option<u64> {
        self.flat().u64(name).ok().flatten()
    }

    pub fn str(&self, name: &str) -> Option<String> {
        self.flat().str(name).ok().flatten().map(|t| t.into_owned())
    }

    pub fn is(&self, name: &str) -> bool {
        self.flat().bool(name).ok().flatten() == Some(true)
    }

    /// News of a task that one asked to watch.
    pub fn is_news(&self) -> bool {
        self.flat().raw("event").is_some()
    }

    /// The answer itself, or the refusal that it is.
    pub fn accepted(self) -> Result<Answer> {
        if self.is("ok") {
            return Ok(self);
        }
        let flat = self.flat();
        let error = flat.raw("error").and_then(|raw| Flat::parse(raw).ok());
        let part = |name: &str| {
            error.as_ref().and_then(|e| e.str(name).ok().flatten()).map(|t| t.into_owned()).unwrap_or_default()
        };
        Err(Error::new(Code::parse(&part("code")), part("message")))
    }
}

/// The process that leads. Where one is about to (it has the lock, and has not said who it is; or a standby waits for a
/// lock that has just become free) it is waited for.
fn await_leader(folders: &Folders) -> Result<Process> {
    let until = clock::monotonic_micros() + LEADERLESS_PATIENCE.as_micros() as i64;
    let mut changes = None;
    loop {
        if let Some(process) = leader(folders).and_then(|leader| Process::open(Pid(leader.pid)).ok()) {
            return Ok(process);
        }
        let soon = lock::is_held(&folders.leader()).unwrap_or(false) || !standbys(folders).is_empty();
        let left = left_until(until);
        match &mut changes {
            _ if !soon || left.is_zero() => return Err(nobody_leads(folders)),
            // Looked at once more after the watch has begun: nothing is missed.
            None => changes = Watcher::new(&[&folders.live]).ok(),
            Some(changes) => {
                let waited = changes.wait(left.as_millis() as i32 + 1);
                waited.map_err(|e| Error::os("cannot wait for the hive's leader", e))?;
            }
        }
    }
}

/// Supervisors that wait for the lead.
pub fn standbys(folders: &Folders) -> Vec<Process> {
    let files = std::fs::read_dir(folders.standbys()).into_iter().flatten().flatten();
    let pids = files.filter_map(|file| file.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Process::open(Pid(pid)).ok()).collect()
}

/// The leader of a hive, if one is alive.
pub fn leader(folders: &Folders) -> Option<Leader> {
    if !lock::is_held(&folders.leader()).unwrap_or(false) {
        return None;
    }
    let text = std::fs::read_to_string(folders.leader()).ok()?;
    let flat = Flat::parse(text.trim()).ok()?;
    Some(Leader { pid: flat.u64("pid").ok()?? as i32, term: flat.u64("term").ok()?? })
}

/// What is left of a hive that nobody leads: each of its hosts has said so in a file.
pub fn abandoned(folders: &Folders) -> Option<Abandoned> {
    let mut found: Option<Abandoned> = None;
    for agent in std::fs::read_dir(folders.agents()).ok()?.flatten() {
        let path = agent.path().join("orphaned");
        let (Ok(pid), Ok(since)) = (std::fs::read_to_string(&path), path.metadata().and_then(|m| m.modified())) else {
            continue;
        };
        if pid.trim().parse().is_ok_and(|pid| Process::open(Pid(pid)).is_ok()) {
            let for_us = since.elapsed().map_or(0, |age| age.as_micros() as i64);
            let before = found.get_or_insert(Abandoned { agents: 0, for_us });
            *before = Abandoned { agents: before.agents + 1, for_us: before.for_us.max(for_us) };
        }
    }
    found
}

/// Nobody leads: what can be said of it, and what to do.
pub fn nobody_leads(folders: &Folders) -> Error {
    let (hive, live) = (&folders.hive, folders.live.display());
    let message = match abandoned(folders) {
        None => format!("no hive \"{hive}\" is running at {live}: start one with `hivectl pool start`"),
        Some(Abandoned { agents, for_us }) => {
            let (is, they) = if agents == 1 { ("1 agent is", "it") } else { ("agents are", "them") };
            let alive = if agents == 1 { is.to_owned() } else { format!("{agents} {is}") };
            let ago = crate::time::duration(for_us);
            format!(
                "the supervisor of hive {hive} died {ago} ago; {alive} alive: `hivectl pool start` takes {they} over"
            )
        }
    };
    Error::new(Code::NoHive, message)
}

impl Client {
    pub fn connect(folders: &Folders) -> Result<Client> {
        let leader = Leadership::Led(await_leader(folders)?);
        // For reading too, though it never does: so what was written waits for the next leader, should this one die.
        let ctl = fifo::open_both(&folders.ctl())
            .map_err(|e| Error::os(format!("cannot open {}", folders.ctl().display()), e))?;
        let name = format!("hivectl-{}-{}", my_pid().0, clock::monotonic_micros());
        let path = folders.replies().join(&name);
        fifo::make(&path).map_err(|e| Error::os(format!("cannot make {}", path.display()), e))?;
        let reply = match fifo::open_both(&path) {
            Ok(reply) => reply,
            Err(e) => {
                let _ = std::fs::remove_file(&path);
                return Err(Error::os(format!("cannot open {}", path.display()), e));
            }
        };
        Ok(Client {
            ctl,
            reply,
            path,
            name,
            folders: folders.clone(),
            leader,
            patience: LEADERLESS_PATIENCE,
            taken: Vec::new(),
            from: 0,
        })
    }

    /// One request; `fields` writes what belongs to its operation. What is longer than a line goes by reference.
    pub fn encode(&self, tag: u64, op: &str, fields: impl FnOnce(&mut Object)) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut o = Object::open(&mut text);
        fields(o.str("op", op));
        o.close();
        let line = self.line(tag, &text);
        if line.len() <= LINE_MAX {
            return Ok(line);
        }
        let stored = Context::at(&self.folders.context).put(&text);
        let digest = stored.map_err(|e| Error::os("cannot store the request in the context store", e))?;
        Ok(self.line(tag, format!("{{\"op\":\"{op}\",\"more\":\"{digest}\"}}").as_bytes()))
    }

    /// The line of a request whose fields are these.
    fn line(&self, tag: u64, fields: &[u8]) -> Vec<u8> {
        // The newline before it ends whatever garbage somebody may have left in the pipe without one.
        let mut line = vec![b'\n'];
        let mut o = Object::open(&mut line);
        o.str("reply", &self.name).num("tag", tag).more(b",").more(&fields[1..fields.len() - 1]);
        o.close();
        line.push(b'\n');
        line
    }

    pub fn send(&mut self, tag: u64, op: &str, fields: impl FnOnce(&mut Object)) -> Result<()> {
        let line = self.encode(tag, op, fields)?;
        self.write(&line)
    }

    /// Whole lines of at most LINE_MAX bytes together: they go in as one.
    pub fn write(&mut self, lines: &[u8]) -> Result<()> {
        while !self.try_write(lines)? {
            self.wait(None, true)?;
        }
        Ok(())
    }

    /// `false`: the pipe is full.
    pub fn try_write(&mut self, lines: &[u8]) -> Result<bool> {
        match sys::write(&self.ctl, lines) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(Error::os("cannot write to the hive's ctl", e)),
        }
    }

    /// Does not wait for another leader, should this one die.
    pub fn impatient(mut self) -> Client {
        self.patience = Duration::ZERO;
        self
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, op: &str, fields: impl FnOnce(&mut Object)) -> Result<Answer> {
        self.ask_as(1, op, fields)
    }

    /// The same under a tag of its own, where other requests follow: their answers cannot be taken for this one's, said twice.
    pub fn ask_as(&mut self, tag: u64, op: &str, fields: impl FnOnce(&mut Object)) -> Result<Answer> {
        self.send(tag, op, fields)?;
        self.answer()?.accepted()
    }

    /// The next answer; waits for it as long as there is a supervisor, or may be one again.
    pub fn answer(&mut self) -> Result<Answer> {
        loop {
            if let Some(answer) = self.next_answer()? {
                return Ok(answer);
            }
            self.wait(None, false)?;
        }
    }

    /// The next answer, or `None` when the deadline has passed (on the monotonic clock) or `also` can be read.
    pub fn answer_until(&mut self, deadline: Option<i64>, also: Option<&impl AsFd>) -> Result<Option<Answer>> {
        loop {
            if let Some(answer) = self.next_answer()? {
                return Ok(Some(answer));
            }
            let left = deadline.map(|d| Duration::from_micros((d - clock::monotonic_micros()).max(0) as u64));
            if left.is_some_and(|l| l.is_zero()) || self.wait_also(left, false, also)? {
                return Ok(None);
            }
        }
    }

    /// An answer that has come already.
    pub fn next_answer(&mut self) -> Result<Option<Answer>> {
        loop {
            if let Some(len) = memchr::memchr(b'\n', &self.taken[self.from..]) {
                let line = String::from_utf8_lossy(&self.taken[self.from..self.from + len]).into_owned();
                self.from += len + 1;
                return Ok(Some(Answer(line)));
            }
            self.taken.drain(..self.from);
            self.from = 0;
            let mut chunk = [0; LINE_MAX];
            match self.reply.read(&mut chunk) {
                Ok(n) => self.taken.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::os("cannot read the hive's answers", e)),
            }
        }
    }

    /// Waits until answers can be read, or (if asked) requests written, or the time is up.
    pub fn wait(&mut self, timeout: Option<Duration>, for_room: bool) -> Result<()> {
        self.wait_also(timeout, for_room, None::<&File>).map(drop)
    }

    /// The same; returns whether `also` can be read.
    fn wait_also(&mut self, timeout: Option<Duration>, for_room: bool, also: Option<&impl AsFd>) -> Result<bool> {
        let leader = match &self.leader {
            Leadership::Led(leader) => leader.as_fd(),
            Leadership::Awaited { changes, .. } => changes.as_fd(),
        };
        let mut fds = vec![PollFd::new(self.reply.as_fd(), PollFlags::POLLIN), PollFd::new(leader, PollFlags::POLLIN)];
        if let Some(also) = also {
            fds.push(PollFd::new(also.as_fd(), PollFlags::POLLIN));
        }
        if for_room {
            fds.push(PollFd::new(self.ctl.as_fd(), PollFlags::POLLOUT));
        }
        let patience = match self.leader {
            Leadership::Led(_) => None,
            Leadership::Awaited { until, .. } => Some(left_until(until)),
        };
        let timeout = timeout.into_iter().chain(patience).min().map_or(PollTimeout::NONE, |t| {
            PollTimeout::try_from(t.as_millis().saturating_add(1).min(i32::MAX as u128) as i32)
                .unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Err(nix::Error::EINTR) => return Ok(false),
            other => other.map_err(|e| Error::os("cannot wait for the hive", e))?,
        };
        let ready = |n: usize| fds.get(n).and_then(|fd| fd.any()).unwrap_or(false);
        let also_ready = also.is_some() && ready(2);
        if !ready(0) && (ready(1) || patience.is_some_and(|left| left.is_zero())) {
            self.look_for_leader()?;
        }
        Ok(also_ready)
    }

    /// The leader is gone, or something has changed since it went.
    fn look_for_leader(&mut self) -> Result<()> {
        if let Leadership::Led(_) = self.leader {
            let cannot = |e| Error::os(format!("cannot watch {}", self.folders.live.display()), e);
            let until = clock::monotonic_micros() + self.patience.as_micros() as i64;
            // It went in good order, and took everything with it.
            if !self.folders.ctl().exists() {
                return Err(nobody_leads(&self.folders));
            }
            self.leader = Leadership::Awaited { until, changes: Watcher::new(&[&self.folders.live]).map_err(cannot)? };
        }
        let Leadership::Awaited { until, changes } = &mut self.leader else { return Ok(()) };
        changes.hush();
        if let Some(leader) = leader(&self.folders).and_then(|leader| Process::open(Pid(leader.pid)).ok()) {
            self.leader = Leadership::Led(leader);
        } else if left_until(*until).is_zero() {
            // As long as agents live, somebody may come for them.
            if self.patience.is_zero() || abandoned(&self.folders).is_none() {
                return Err(nobody_leads(&self.folders));
            }
            *until = clock::monotonic_micros() + LEADERLESS_PATIENCE.as_micros() as i64;
        }
        Ok(())
    }
}

fn left_until(moment: i64) -> Duration {
    Duration::from_micros((moment - clock::monotonic_micros()).max(0) as u64)
}

impl AsFd for Client {
    /// Can be read when an answer has come.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.reply.as_fd()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
