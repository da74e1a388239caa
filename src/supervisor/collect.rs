//! Brings in what came: bytes from pipes into the intake, lines to those who understand them.
//! Invariant: a pipe's bytes reach the intake before anything is decided on them, and no line, however broken, stops a turn.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Range;

use super::{Hive, Supervisor, Wake};
use crate::error::Result;
use crate::limits::LINE_MAX;
use crate::model::AgentId;
use crate::store::Intake;
use crate::store::intake::Source;
use crate::wire::host::Report;

const CTL: Source = Source(1);
const HOSTS: Source = Source(2);
const FIRST_AGENT: u64 = 16;

fn agent_source(id: AgentId) -> Source {
    Source(FIRST_AGENT + u64::from(id.0))
}

/// The pipes that are read, and what of them has been taken without its end.
pub struct Inlets {
    ctl: File,
    hosts: File,
    states: HashMap<u64, Inlet>,
    /// Sources that may have more to read: edge-triggered readiness is said once.
    pending: VecDeque<Source>,
}

/// What is known of a line whose beginning is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlong {
    /// An agent's answer to this task.
    AnswerTo(u64),
    Other,
}

#[derive(Default)]
struct Inlet {
    /// Where the half line lies in the intake.
    half: Range<usize>,
    /// The line under way is longer than any may be: only its end is kept.
    overlong: Option<Overlong>,
}

impl Inlets {
    pub fn new(ctl: File, hosts: File) -> Inlets {
        Inlets { ctl, hosts, states: HashMap::new(), pending: VecDeque::new() }
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn add(&mut self, source: Source) {
        if !self.pending.contains(&source) {
            self.pending.push_back(source);
        }
    }

    /// The turn's events are in the log: half lines are carried over, everything else is done with.
    pub fn turn_is_recorded(&mut self, intake: &mut Intake) {
        let mut halves: Vec<(Source, Range<usize>)> = Vec::new();
        for (source, inlet) in self.states.iter().filter(|(_, inlet)| !inlet.half.is_empty()) {
            halves.push((Source(*source), inlet.half.clone()));
        }
        let places = intake.finish(&halves);
        for ((source, _), place) in halves.iter().zip(places) {
            self.states.entry(source.0).or_default().half = place;
        }
    }

    /// An agent's pipe was made anew: what an older one left unfinished is void.
    pub fn forget(&mut self, id: AgentId) {
        self.states.remove(&agent_source(id).0);
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
                Wake::AgentOut(id) => self.inlets.add(agent_source(id)),
                Wake::AgentIn(id) | Wake::HostPipe(id) => self.hive.agents.writable(id),
                Wake::HostGone(id) => self.hive.agents.host_gone(id, &self.poll, &self.hive.core.state),
                Wake::Client(slot) => self.hive.clients.writable(slot),
                Wake::Signals => self.heard_signal(),
                Wake::Bell => self.heard_bell()?,
            }
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
        while let Some(id) = self.hive.agents.first_loss() {
            while self.take(agent_source(id)) {
                if !self.intake.has_room() {
                    return;
                }
            }
            self.inlets.forget(id);
            self.hive.agents.tell_loss(&mut self.hive.core);
        }
    }

    /// Reads once from a source and handles its whole lines. Returns whether there may be more.
    fn take(&mut self, source: Source) -> bool {
        let pipe = match source {
            CTL => Some(&self.inlets.ctl),
            HOSTS => Some(&self.inlets.hosts),
            Source(n) => self.hive.agents.out(AgentId((n - FIRST_AGENT) as u32)),
        };
        let Some(pipe) = pipe else { return false };
        let inlet = self.inlets.states.get(&source.0);
        let (half, overlong) = inlet.map_or((0..0, None), |i| (i.half.clone(), i.overlong));
        match self.intake.read(source, half, pipe) {
            Ok(Some(taken)) if taken.new == 0 => false,
            Ok(Some(taken)) => {
                let bytes = self.intake.bytes(taken.range.clone());
                let (half, overlong) = self.hive.split(source, bytes, overlong);
                let half = taken.range.end - half..taken.range.end;
                if !half.is_empty() || overlong.is_some() || inlet.is_some() {
                    self.inlets.states.insert(source.0, Inlet { half, overlong });
                }
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
    /// Handles every whole line. Returns the length of the half line at the end, and what is known of its beginning if
    /// that is gone.
    fn split(&mut self, source: Source, bytes: &[u8], mut overlong: Option<Overlong>) -> (usize, Option<Overlong>) {
        let mut from = 0;
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
        let half = &bytes[from..];
        if half.len() < LINE_MAX {
            return (half.len(), overlong);
        }
        let (tail, begun) = self.lose_beginning(source, half, overlong);
        (tail.len(), Some(begun))
    }

    /// Keeps the end of a line that is too long. An agent's beginning is output all the same.
    fn lose_beginning<'b>(&mut self, source: Source, line: &'b [u8], begun: Option<Overlong>) -> (&'b [u8], Overlong) {
        let (beginning, tail) = line.split_at(line.len().saturating_sub(LINE_MAX - 1));
        let agent = (source.0 >= FIRST_AGENT).then(|| AgentId((source.0 - FIRST_AGENT) as u32));
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
            CTL => self.ctl_line(line),
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
            Source(n) => {
                let understood = self.agents.said(AgentId((n - FIRST_AGENT) as u32), line, &mut self.core);
                self.malformed += u64::from(!understood);
            }
        }
    }

    /// What the last supervisor took from `ctl` and did not record. What it took from hosts and agents is void:
    /// they are gone.
    pub(super) fn take_left(&mut self, left: Vec<(Source, Vec<u8>)>) {
        for (_, bytes) in left.into_iter().filter(|(source, _)| *source == CTL) {
            self.split(CTL, &bytes, None);
        }
    }
}

/// Whether a line on `ctl` claims to be a request: then nothing inside it is taken for another.
pub(super) fn begins_as_request(line: &[u8]) -> bool {
    line.starts_with(b"{") || line.starts_with(b"submit ") || line.starts_with(b"cancel ")
}

/// The task that an agent's line says it has ended, read from the line's beginning alone.
pub(super) fn answered_task(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(b"DONE ").or_else(|| line.strip_prefix(b"FAIL "))?;
    let digits = rest.split(|b| *b == b' ').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
