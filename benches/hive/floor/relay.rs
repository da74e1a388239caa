//! Owns the four hops of one task: client, supervisor, agent, supervisor, client; 64 bytes, level-triggered epoll.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::error::{Result, Trying};
use crate::fifo::{self, Named, RECORD};
use crate::process::Child;

/// A supervisor and one agent that pass a record around for a resident client.
pub struct Relay {
    requests: OwnedFd,
    answers: OwnedFd,
    _processes: [Child; 2],
}

/// The same for clients that come once and name a reply FIFO of their own.
pub struct Desk {
    requests: Named,
    _processes: [Child; 2],
}

impl Relay {
    pub fn start() -> Result<Relay> {
        let (requests, answers) = (fifo::anonymous()?, fifo::anonymous()?);
        let (tasks, results) = (fifo::anonymous()?, fifo::anonymous()?);
        let agent = Child::fork(|| echo::<RECORD>(&tasks, &results))?;
        let supervisor = Child::fork(|| {
            let mut record = [0; RECORD];
            serve([&requests, &results], |source| {
                let (from, to) = if source == 0 { (&requests, &tasks) } else { (&results, &answers) };
                pass(from, to, &mut record)
            });
        })?;
        Ok(Relay { requests, answers, _processes: [supervisor, agent] })
    }

    pub fn round_trip(&self) -> Result<()> {
        let mut record = [b'x'; RECORD];
        fifo::put(&self.requests, &record)?;
        fifo::take(&self.answers, &mut record).map(drop)
    }
}

impl Desk {
    pub fn start() -> Result<Desk> {
        let name = Named::new("desk")?;
        let requests = fifo::open_both(&name.0)?;
        let (tasks, results) = (fifo::anonymous()?, fifo::anonymous()?);
        let agent = Child::fork(|| echo::<{ 2 * RECORD }>(&tasks, &results))?;
        let supervisor = Child::fork(|| {
            let mut record = [0; 2 * RECORD];
            serve([&requests, &results], |source| match source {
                0 => pass(&requests, &tasks, &mut record),
                _ => fifo::take(&results, &mut record).and_then(|_| answer_by_name(&record)),
            });
        })?;
        Ok(Desk { requests: name, _processes: [supervisor, agent] })
    }

    pub fn path(&self) -> &Path {
        &self.requests.0
    }
}

/// An agent that does nothing: what it reads it writes.
fn echo<const SIZE: usize>(tasks: &OwnedFd, results: &OwnedFd) {
    let mut record = [0; SIZE];
    while pass(tasks, results, &mut record).is_ok() {}
}

fn pass(from: impl AsFd, to: impl AsFd, record: &mut [u8]) -> Result<()> {
    let count = fifo::take(from, record)?;
    fifo::put(to, &record[..count])
}

fn answer_by_name(record: &[u8]) -> Result<()> {
    let name = CStr::from_bytes_until_nul(record).trying("reading a reply's name")?;
    let path = PathBuf::from(name.to_string_lossy().as_ref());
    fifo::put(fifo::open_as(&path, OFlag::O_WRONLY)?, record)
}

/// A supervisor's loop: sleeps until a source has something and handles one piece of it at a time.
pub fn serve<const SOURCES: usize>(sources: [&OwnedFd; SOURCES], mut handle: impl FnMut(usize) -> Result<()>) {
    let Ok(epoll) = watch(sources) else { return };
    let mut events = [EpollEvent::empty(); SOURCES];
    while let Ok(count) = epoll.wait(&mut events, EpollTimeout::NONE) {
        for event in &events[..count] {
            if handle(event.data() as usize).is_err() {
                return;
            }
        }
    }
}

/// Level-triggered, each source known by its place in the list.
pub fn watch<const SOURCES: usize>(sources: [&OwnedFd; SOURCES]) -> nix::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (place, source) in sources.into_iter().enumerate() {
        epoll.add(source, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
    }
    Ok(epoll)
}
