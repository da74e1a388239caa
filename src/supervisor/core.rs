//! The model at work: inputs become events, events become records and effects.
//! Owns the state and the log. Touches no pipe and no process.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::publish::Changes;
use super::room::Room;
use super::standby::Heir;
use crate::error::{Error, Result};
use crate::model::{
    AgentId, Effect, Event, Input, Lead, Now, Refusal, ReplyTo, Seq, State, Tag, Term, assignment, consequence, decide,
    expired,
};
use crate::record::snapshot::Point;
use crate::record::{self, Moment, Stamp};
use crate::store::log::Replayed;
use crate::store::{Folders, Log};
use crate::sys::process;

pub struct Core {
    pub state: State,
    pub log: Log,
    pub room: Room,
    pub now: Now,
    /// What the turn's events make necessary, to be performed once they are recorded.
    pub effects: Vec<Effect>,
    /// Whom the turn's events are about.
    pub changes: Changes,
    /// Records of this turn, not yet written.
    records: Vec<u8>,
    next: Seq,
    decided: Vec<Event>,
    moment: Moment,
}

/// Requests that events answer: by whom, and under which tag.
#[derive(Default)]
pub struct Answered(BTreeSet<(Arc<str>, Tag)>);

impl Answered {
    pub fn has(&self, to: &ReplyTo) -> bool {
        self.0.contains(&(to.name.clone(), to.tag.clone()))
    }
}

/// Of the records that are replayed, which were perhaps not seen to.
#[derive(Debug, Clone, Copy)]
pub struct Unfinished {
    /// Answers that stand on later records may not have been written, nor agents been told.
    pub answered: Seq,
    /// The last turn's records begin here.
    pub turn: Seq,
}

/// What the newest records asked for, as long as it is perhaps not done.
#[derive(Default)]
pub struct Tail(VecDeque<(Seq, Vec<Effect>, Option<ReplyTo>)>);

impl Tail {
    /// Applies a record, and keeps whom it answers or tells something, and who asked for it.
    pub fn apply(&mut self, point: &mut Point, stamp: Stamp, event: Event, shift: i64) {
        let asker = event.asked_by().cloned();
        let effects = point.apply(stamp, event, shift);
        let unsaid = effects.filter(|effect| matches!(effect, Effect::Answer { .. } | Effect::Tell { .. }));
        let answers: Vec<Effect> = unsaid.collect();
        if asker.is_some() || !answers.is_empty() {
            self.0.push_back((stamp.seq, answers, asker));
        }
    }

    /// Up to this record everybody was answered.
    pub fn forget(&mut self, answered: Seq) {
        while self.0.front().is_some_and(|(seq, ..)| *seq <= answered) {
            self.0.pop_front();
        }
    }

    fn settle(self, unfinished: Unfinished) -> (Vec<Effect>, Answered) {
        let (mut effects, mut answered) = (Vec::new(), Answered::default());
        for (seq, answers, asker) in self.0 {
            if seq > unfinished.answered {
                effects.extend(answers);
            }
            answered.0.extend(asker.filter(|_| seq >= unfinished.turn).map(|to| (to.name, to.tag)));
        }
        (effects, answered)
    }
}

impl Core {
    /// Replays the log. Answers that were perhaps not written are the first effects of this leadership.
    pub fn open(folders: &Folders, now: Now, unfinished: Unfinished) -> Result<(Core, Option<Answered>)> {
        let shift = now.mono - now.wall;
        // What was perhaps not seen to is read as it happened: a snapshot would not say it.
        let seen_to = unfinished.answered.min(Seq(unfinished.turn.0.saturating_sub(1)));
        let mut tail = Tail::default();
        let (log, replayed) =
            Log::open(&folders.events(), seen_to, shift, |point, stamp, event| match stamp.seq <= seen_to {
                true => drop(point.apply(stamp, event, shift)),
                false => tail.apply(point, stamp, event, shift),
            })?;
        Ok(Core::of(log, replayed, tail, now, unfinished))
    }

    /// The same, where a standby has read most of it.
    pub fn inherit(
        folders: &Folders,
        heir: Option<Heir>,
        now: Now,
        unfinished: Unfinished,
    ) -> Result<(Core, Option<Answered>)> {
        let read = |mut heir: Heir| heir.read_on(folders).is_ok().then_some(heir);
        let Some(Heir { replayed, tail, .. }) = heir.and_then(read) else {
            return Core::open(folders, now, unfinished);
        };
        let log = Log::after(&folders.events(), &replayed)?;
        Ok(Core::of(log, replayed, tail, now, unfinished))
    }

    /// A log that was read to its end, and what its newest records asked for.
    pub fn of(log: Log, replayed: Replayed, tail: Tail, now: Now, unfinished: Unfinished) -> (Core, Option<Answered>) {
        replayed.passed.iter().for_each(|why| eprintln!("hivectl: {why}"));
        if let Some(torn) = replayed.torn {
            let (file, offset, bytes) = (torn.file.display(), torn.offset, torn.bytes);
            eprintln!(
                "hivectl: the log's last record was torn: cut {bytes} bytes at {offset} of {file} (kept beside it)"
            );
        }
        let (mut effects, answered) = tail.settle(unfinished);
        effects.retain(|effect| replayed.point.state.still_stands(effect));
        let core = Core {
            state: replayed.point.state,
            next: Seq(log.last.0 + 1),
            log,
            room: Room::new(),
            now,
            effects,
            changes: Changes::all(),
            records: Vec::new(),
            decided: Vec::new(),
            moment: Moment::default(),
        };
        // Where every answer was written, nobody has to be asked who was not.
        let all = unfinished.answered >= core.recorded();
        (core, (!all).then_some(answered))
    }

    /// Begins a new term, with the agents whose hosts live. Its first events are those of the take-over; what was recorded
    /// and perhaps not said is said again.
    pub fn lead(&mut self, now: Now, alive: BTreeSet<AgentId>, standby: bool) {
        self.now = now;
        self.log.term = Term(self.log.term.0 + 1);
        let (version, boot) = (env!("CARGO_PKG_VERSION").into(), process::boot_id().into());
        let lead = Lead { pid: process::my_pid().0, version, boot, alive, standby };
        self.feed(Input::Lead(lead))
            .unwrap_or_else(|refusal| unreachable!("to lead is never refused: {}", refusal.message));
        self.effects.extend(self.state.said_again());
    }

    /// One input: decided, and its events applied.
    pub fn feed(&mut self, input: Input) -> std::result::Result<(), Refusal> {
        let mut decided = std::mem::take(&mut self.decided);
        let verdict = decide(&self.state, self.now, input, &mut decided);
        if verdict.is_ok() {
            for event in decided.drain(..) {
                self.commit(event);
            }
        }
        decided.clear();
        self.decided = decided;
        verdict
    }

    /// What is due, and what follows from the state by itself.
    pub fn settle(&mut self) {
        while let Some(event) = expired(&self.state, self.now) {
            self.commit(event);
        }
        while let Some(event) = consequence(&self.state) {
            self.commit(event);
        }
        while let Some(event) = assignment(&self.state).filter(|_| self.may_begin()) {
            self.commit(event);
            while let Some(event) = consequence(&self.state) {
                self.commit(event);
            }
        }
    }

    fn commit(&mut self, event: Event) {
        self.moment.set(self.now.wall, self.log.term);
        record::encode(&mut self.records, self.next, &self.moment, &event);
        self.state.seq = self.next;
        self.next.0 += 1;
        self.changes.note(&self.state, &event);
        self.state.apply(self.now, event, &mut self.effects);
    }

    /// The first sequence number of this turn's events, if it has any.
    pub fn unrecorded_from(&self) -> Option<Seq> {
        (!self.records.is_empty()).then_some(Seq(self.log.last.0 + 1))
    }

    pub fn unwritten(&self) -> usize {
        self.records.len()
    }

    /// Everything up to here is in the log.
    pub fn recorded(&self) -> Seq {
        self.log.last
    }

    /// Writes the turn's records: one write.
    pub fn record(&mut self) -> io::Result<()> {
        self.log.append(&self.records, Seq(self.next.0 - 1))?;
        self.records.clear();
        Ok(())
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::new(refusal.code, refusal.message)
    }
}
