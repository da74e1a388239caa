//! Brings in what came: bytes from pipes into the intake, lines to those who understand them.
//! Invariant: a pipe's bytes reach the intake before anything is decided on them, and no line, however broken, stops a turn.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use mio::{Interest, Poll};

use super::core::Answered;
use super::{Hive, Supervisor, Wake, unwatch, watch};
use crate::error::Result;
use crate::limits::LINE_MAX;
use crate::model::AgentId;
use crate::store::Intake;
use crate::store::intake::{Begun, Carried, Left, Source};
use crate::sys::{self, failpoint};
use crate::wire::host::Report;

const CTL: Source = Source(1);
const HOSTS: Source = Source(2);
/// The first of those that `ctl` has been.
const FORMER_CTL: u64 = 3;
const FORMERS_MAX: usize = 8;
const FIRST_AGENT: u64 = 16;

fn agent_source(id: AgentId) -> Source {
    Source(FIRST_AGENT + u64::from(id.0))
}

fn source_of_former(place: usize) -> u64 {
    FORMER_CTL + (place % FORMERS_MAX) as u64
}

fn is_former(source: Source) -> bool {
    (FORMER_CTL..FORMER_CTL + FORMERS_MAX as u64).contains(&source.0)
}

fn agent_of(source: Source) -> AgentId {
    AgentId((source.0 - FIRST_AGENT) as u32)
}

/// The pipes that are read, and what of them has been taken without its end.
pub struct Inlets {
    ctl: File,
    hosts: File,
    /// A `ctl` whose name is gone: clients that had it open may still write to it.
    former: VecDeque<File>,
    /// How many there ever were: each has a place of its own, taken again by the one so many later.
    formers: usize,
    halves: HashMap<u64, Carried>,
    /// Sources that may have more to read: edge-triggered readiness is said once.
    pending: VecDeque<Source>,
}

/// What is known of a line whose beginning is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) enum Overlong {
    /// An agent's answer to this task.
    AnswerTo(u64),
    Other,
}

impl Overlong {
    /// As the intake keeps it, beside the end of the line.
    fn begun(known: Option<Overlong>) -> Begun {
        match known {
            None => 0,
            Some(Overlong::Other) => 1,
            Some(Overlong::AnswerTo(task)) => task.saturating_add(2),
        }
    }

    fn of(begun: Begun) -> Option<Overlong> {
        match begun {
            0 => None,
            1 => Some(Overlong::Other),
            task => Some(Overlong::AnswerTo(task - 2)),
        }
    }
}

impl Inlets {
    pub fn new(ctl: &File, hosts: &File, former: Option<File>) -> io::Result<Inlets> {
        let (ctl, hosts) = (ctl.try_clone()?, hosts.try_clone()?);
        let formers = usize::from(former.is_some());
        let former = former.into_iter().collect();
        Ok(Inlets { ctl, hosts, former, formers, halves: HashMap::new(), pending: VecDeque::new() })
    }

    /// Another pipe stands under the name: clients that have the old one open are still heard.
    pub fn replace_ctl(&mut self, ctl: &File, poll: &Poll) -> io::Result<()> {
        let ctl = ctl.try_clone()?;
        watch(poll, ctl.as_raw_fd(), Wake::Ctl, Interest::READABLE)?;
        let old = std::mem::replace(&mut self.ctl, ctl);
        unwatch(poll, old.as_raw_fd());
        let place = self.formers % FORMERS_MAX;
        watch(poll, old.as_raw_fd(), Wake::FormerCtl(place), Interest::READABLE)?;
        if self.former.len() == FORMERS_MAX
            && let Some(oldest) = self.former.pop_front()
        {
            unwatch(poll, oldest.as_raw_fd());
        }
        self.former.push_back(old);
        self.formers += 1;
        if let Some(half) = self.halves.remove(&CTL.0) {
            self.halves.insert(source_of_former(place), half);
        }
        Ok(())
    }

    fn former_at(&self, source: Source) -> Option<&File> {
        let first = self.formers - self.former.len();
        let at = (first..self.formers).position(|place| source_of_former(place) == source.0)?;
        self.former.get(at)
    }

    pub fn watch(&self, poll: &Poll) -> io::Result<()> {
        watch(poll, self.ctl.as_raw_fd(), Wake::Ctl, Interest::READABLE)?;
        watch(poll, self.hosts.as_raw_fd(), Wake::Hosts, Interest::READABLE)?;
        let former = self.former.iter().enumerate();
        former
            .into_iter()
            .try_for_each(|(n, file)| watch(poll, file.as_raw_fd(), Wake::FormerCtl(n), Interest::READABLE))
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn add(&mut self, source: Source) {
        if !self.pending.contains(&source) {
            self.pending.push_back(source);
        }
    }

    /// The turn's events are in the log, and what they ask for is done: half lines are carried over, the rest is over.
    pub fn turn_is_done(&mut self, intake: &mut Intake) {
        let halves: Vec<(Source, Carried)> =
            self.halves.iter().map(|(source, half)| (Source(*source), half.clone())).collect();
        let places = intake.finish(&halves);
        for ((source, half), place) in halves.into_iter().zip(places) {
            self.halves.insert(source.0, Carried { range: place, ..half });
        }
    }

    /// An agent's pipe was made anew: what an older one left unfinished is void.
    pub fn forget(&mut self, id: AgentId) {
        self.halves.remove(&agent_source(id).0);
    }

    fn keep_half(&mut self, source: Source, half: Carried) {
        match half.range.is_empty() && half.begun == 0 {
            true => drop(self.halves.remove(&source.0)),
            false => drop(self.halves.insert(source.0, half)),
        }
    }
}

/// A line as it was taken.
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// The end of one that was too long.
    Tail(&'a [u8], Overlong),
}

impl Supervisor {
    pub(super) fn collect(&mut self, woken: &mut VecDeque<Wake>) -> Result<()> {
        while let Some(wake) = woken.pop_front() {
            match wake {
                Wake::Ctl => self.inlets.add(CTL),
                Wake::Hosts => self.inlets.add(HOSTS),
                Wake::FormerCtl(place) => self.inlets.add(Source(source_of_former(place))),
                Wake::AgentOut(id) => self.inlets.add(agent_source(id)),
                Wake::AgentIn(id) | Wake::HostPipe(id) => self.hive.agents.writable(id),
                Wake::HostGone(id) => self.hive.agents.host_gone(id, &self.poll, &self.hive.core.state),
                Wake::Client(slot) => self.hive.clients.writable(slot),
                Wake::Live => self.mend_live(),
                Wake::Signals => self.heard_signal(),
                Wake::Bell => self.heard_bell()?,
            }
        }
        // Who was rung for at once answers at once: all are let speak, and taken in one turn.
        if self.hive.core.state.barrier.as_ref().is_some_and(|open| open.rung) {
            sys::let_others_run();
        }
        for _ in 0..self.inlets.pending.len() {
            let Some(source) = self.inlets.pending.pop_front() else {
                break;
            };
            if self.take(source) {
                self.inlets.pending.push_back(source);
            }
        }
        self.hear_of_losses();
        Ok(())
    }

    /// News that something is gone is heeded only after its last words.
    fn hear_of_losses(&mut self) {
        while let Some(id) = self.hive.agents.first_news() {
            while self.take(agent_source(id)) {
                if !self.intake.has_room() {
                    return;
                }
            }
            if self.hive.agents.tell_news(&mut self.hive.core) {
                self.inlets.forget(id);
            }
        }
    }

    /// Reads once from a source and handles its whole lines. Returns whether there may be more.
    fn take(&mut self, source: Source) -> bool {
        let pipe = match source {
            CTL => Some(&self.inlets.ctl),
            HOSTS => Some(&self.inlets.hosts),
            source if is_former(source) => self.inlets.former_at(source),
            source => self.hive.agents.out(agent_of(source)),
        };
        let Some(pipe) = pipe else { return false };
        let carried = self.inlets.halves.get(&source.0).cloned().unwrap_or_default();
        match self.intake.read(source, &carried, pipe) {
            Ok(Some(taken)) if taken.new == 0 => false,
            Ok(Some(taken)) => {
                failpoint::pass("taken");
                let half = self.hive.split(source, &self.intake, Carried { range: taken.range, ..carried });
                self.inlets.keep_half(source, half);
                taken.full
            }
            Ok(None) => true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) => {
                eprintln!("hivectl: cannot read pipe {}: {e}", source.0);
                false
            }
        }
    }
}

impl Hive {
    /// Handles every whole line of what was taken. Returns the half line at its end.
    fn split(&mut self, source: Source, intake: &Intake, taken: Carried) -> Carried {
        let Carried { range, begun } = taken;
        let bytes = intake.bytes(range.clone());
        let (mut from, mut overlong) = (0, Overlong::of(begun));
        while let Some(len) = memchr::memchr(b'\n', &bytes[from..]) {
            let line = &bytes[from..from + len];
            if overlong.is_none() && len < LINE_MAX {
                self.line(source, Line::Whole(line));
            } else {
                let (tail, begun) = self.lose_beginning(source, line, overlong.take());
                self.line(source, Line::Tail(tail, begun));
            }
            from += len + 1;
        }
        let mut half = &bytes[from..];
        if half.len() >= LINE_MAX {
            let (tail, begun) = self.lose_beginning(source, half, overlong);
            (half, overlong) = (tail, Some(begun));
        }
        Carried { range: range.end - half.len()..range.end, begun: Overlong::begun(overlong) }
    }

    /// Keeps the end of a line that is too long. An agent's beginning is output all the same.
    fn lose_beginning<'b>(&mut self, source: Source, line: &'b [u8], begun: Option<Overlong>) -> (&'b [u8], Overlong) {
        let (beginning, tail) = line.split_at(line.len().saturating_sub(LINE_MAX - 1));
        let agent = (source.0 >= FIRST_AGENT).then(|| agent_of(source));
        if let Some(id) = agent {
            self.agents.output(id, beginning, &self.core.state);
        }
        let begun = begun.unwrap_or_else(|| match agent {
            Some(_) => answered_task(line).map_or(Overlong::Other, Overlong::AnswerTo),
            None => Overlong::Other,
        });
        (tail, begun)
    }

    fn line(&mut self, source: Source, line: Line) {
        match source {
            source if source == CTL || is_former(source) => self.ctl_line(line),
            HOSTS => {
                let report = match line {
                    Line::Whole(bytes) => std::str::from_utf8(bytes).ok().and_then(Report::parse),
                    Line::Tail(..) => None,
                };
                match report {
                    Some(report) => self.agents.report(report, &mut self.core),
                    None => self.malformed += 1,
                }
            }
            source => {
                let understood = self.agents.said(agent_of(source), line, &mut self.core);
                self.malformed += u64::from(!understood);
            }
        }
    }
}

impl Supervisor {
    /// What the last supervisor took and was not done with. Where its events are in the log, the lines are history, but
    /// for requests that nothing in the log answers; half lines go on either way.
    pub(super) fn take_left(&mut self, left: Left, answered: Option<&Answered>) {
        for (source, taken) in left.entries {
            let is_agent = source.0 >= FIRST_AGENT;
            if is_agent && self.hive.agents.out(agent_of(source)).is_none() {
                continue;
            }
            let half = match left.recorded_from {
                None => self.hive.split(source, &self.intake, taken),
                Some(_) => {
                    if let Some(answered) = answered.filter(|_| source == CTL || is_former(source)) {
                        self.hive.request_again(self.intake.bytes(taken.range.clone()), answered);
                    }
                    end_of_last_line(&self.intake, taken)
                }
            };
            self.inlets.keep_half(source, half);
        }
    }
}

/// The half line at the end of lines that are history.
fn end_of_last_line(intake: &Intake, taken: Carried) -> Carried {
    match memchr::memrchr(b'\n', intake.bytes(taken.range.clone())) {
        Some(at) => Carried { range: taken.range.start + at + 1..taken.range.end, begun: 0 },
        None => taken,
    }
}

/// Whether a line on `ctl` claims to be a request: then nothing inside it is taken for another.
pub(super) fn begins_as_request(line: &[u8]) -> bool {
    [&b"{"[..], b"submit ", b"cancel ", b"inject ", b"checkpoint"].iter().any(|verb| line.starts_with(verb))
}

/// The task that an agent's line says it has ended, read from the line's beginning alone.
pub(super) fn answered_task(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(b"DONE ").or_else(|| line.strip_prefix(b"FAIL "))?;
    let digits = rest.split(|b| *b == b' ').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
