//! `events repair`: cuts damage out of a log that nobody writes, and says in words what is lost by it.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Command;

use super::super::{Call, exit};
use super::verify::{damage_fields, in_words, list, records};
use crate::client;
use crate::error::{Code, Error, Result};
use crate::json::Object;
use crate::model::{Event, HostId, Seq, TaskId};
use crate::store::Folders;
use crate::store::log::{self, Replayed, Torn};
use crate::store::repair::{self, Damage, Survey};
use crate::sys::clock;
use crate::sys::lock::Lock;
use crate::sys::process::{self, Pid};

pub fn command() -> Command {
    Command::new("repair").about("Cut damage out of the log of a hive that does not run; what is cut is kept beside it")
}

pub fn run(call: &mut Call) -> Result<i32> {
    let folder = super::folder(call)?;
    let _alone = alone(&call.folders)?;
    let mut hosts = Vec::new();
    let mut survey = repair::survey(&folder, |_, event| {
        if let Event::Hosted { host, .. } = event {
            hosts.push(*host);
        }
    })?;
    refuse_the_living(&hosts)?;
    let torn = survey.torn.take();
    if let Some(torn) = &torn {
        log::cut_at(&torn.file, torn.offset)?;
    }
    repair::mend(&mut survey.damage, clock::wall_micros())?;
    let follows = Follows::of(&folder, &survey)?;
    match call.json {
        true => call.out.line(&json(&survey, torn.as_ref(), &follows))?,
        false => report(call, &survey, torn.as_ref(), &follows)?,
    }
    Ok(exit::DONE)
}

/// The lock of whoever writes the log: while it is held nobody else can lead.
fn alone(folders: &Folders) -> Result<Lock> {
    let lock = Lock::try_take_folder(&folders.kept)
        .map_err(|e| Error::os(format!("cannot lock {}", folders.kept.display()), e))?;
    lock.ok_or_else(|| {
        let who = client::leader(folders).map_or_else(String::new, |l| format!(" (supervisor {})", l.pid));
        let message = format!("hive {} runs{who}, and writes this log: `hivectl pool stop` ends it", folders.hive);
        Error::new(Code::AlreadyRunning, message)
    })
}

/// Agents that live on without a supervisor do what a log with a hole no longer says.
fn refuse_the_living(hosts: &[HostId]) -> Result<()> {
    let lives = |host: &&HostId| process::start_time(Pid(host.pid)).is_ok_and(|ticks| ticks == host.start_ticks);
    let Some(host) = hosts.iter().find(lives) else { return Ok(()) };
    let message = format!(
        "agents of this hive are alive without a supervisor (host {}): they end by themselves after the grace time (`pool start --grace`): try again then",
        host.pid
    );
    Err(Error::new(Code::AlreadyRunning, message))
}

/// What a hole means for tasks.
#[derive(Default)]
struct Follows {
    /// Submitted in a hole: nobody knows them any more.
    forgotten: BTreeSet<TaskId>,
    /// Not ended before the hole, nor after it: they run (again) at the next start.
    open: BTreeSet<TaskId>,
    /// Records that a snapshot makes up for.
    harmless: BTreeSet<Seq>,
}

impl Follows {
    fn of(folder: &Path, survey: &Survey) -> Result<Follows> {
        let mut follows = Follows::default();
        let holes: Vec<(Seq, Seq)> = survey.damage.iter().filter_map(|d| d.lost).collect();
        let held = survey.newest_snapshot().unwrap_or_default();
        follows.harmless.extend(holes.iter().filter(|(_, to)| *to <= held).map(|(from, _)| *from));
        let Some((first, _)) = holes.iter().find(|(_, to)| *to > held) else { return Ok(follows) };
        let (before, end) = (Seq(first.0 - 1), Seq(u64::MAX));
        let mut live: BTreeSet<TaskId> = BTreeSet::new();
        let mut last_before = None;
        let Replayed { point, .. } = log::replay(folder, before.max(held), end, 0, |point, stamp, event| {
            match &event {
                Event::Repaired { from, .. } if holes.iter().any(|(first, _)| first == from) => {
                    live.extend(point.state.tasks.iter().filter(|t| t.ended().is_none()).map(|t| t.id));
                    last_before.get_or_insert(point.state.last_task);
                }
                Event::Submitted { task, .. } => {
                    if let Some(last) = last_before.take() {
                        follows.forgotten.extend((last.0 + 1..task.0).map(TaskId));
                    }
                }
                _ => {}
            }
            point.step(stamp, event);
        })?;
        let state = &point.state;
        follows.open =
            live.into_iter().filter(|id| state.tasks.get(*id).is_some_and(|t| t.ended().is_none())).collect();
        Ok(follows)
    }
}

fn report(call: &mut Call, survey: &Survey, torn: Option<&Torn>, follows: &Follows) -> Result<()> {
    if let Some(torn) = torn {
        call.out.line(&format!(
            "{}: byte {}: cut off {} bytes that were no whole record: kept beside it",
            torn.file.display(),
            torn.offset,
            torn.bytes
        ))?;
    }
    for damage in &survey.damage {
        call.out.line(&in_words(damage))?;
        if let Some(kept) = &damage.kept {
            call.out.line(&format!("  cut out, and kept as {}", kept.display()))?;
        }
        if let Some(line) = consequences(damage, follows) {
            call.out.line(&format!("  {line}"))?;
        }
    }
    if !follows.forgotten.is_empty() {
        let many = ids(&follows.forgotten);
        call.out.line(&format!("submitted in what is lost, and so unknown from now on: {many}: submit them again"))?;
    }
    if !follows.open.is_empty() {
        let many = ids(&follows.open);
        let what = "not ended as far as the log still says, and so run at the next start, perhaps again";
        call.out.line(&format!("{what}: {many}: `hivectl cancel` those that are not to be"))?;
    }
    match survey.damage.is_empty() && torn.is_none() {
        true => call.out.line("nothing is damaged: the log is as it was"),
        false => {
            call.out.line("the log is whole again: `hivectl events verify` shows it, `hivectl pool start` goes on")
        }
    }
}

fn consequences(damage: &Damage, follows: &Follows) -> Option<String> {
    let (first, last) = damage.lost?;
    let lost = records(first, last);
    Some(if follows.harmless.contains(&first) {
        format!("{lost} lost as history only: a snapshot holds what came of it")
    } else {
        format!("{lost} lost; what happened in them did not happen, as far as the hive knows from now on")
    })
}

fn ids(tasks: &BTreeSet<TaskId>) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<String> = tasks.iter().take(SHOWN).map(TaskId::to_string).collect();
    let more = tasks.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("task{} {}{rest}", if tasks.len() == 1 { "" } else { "s" }, shown.join(", "))
}

fn json(survey: &Survey, torn: Option<&Torn>, follows: &Follows) -> String {
    let mut text = Vec::new();
    let mut o = Object::open(&mut text);
    o.bool("ok", true);
    list(o.key("damage"), &survey.damage, damage_fields);
    if let Some(torn) = torn {
        let mut t = Object::open(o.key("torn"));
        t.str("file", &torn.file.display().to_string()).num("from", torn.offset).num("bytes", torn.bytes);
        t.close();
    }
    o.nums("forgotten_tasks", follows.forgotten.iter().map(|id| id.0));
    o.nums("open_tasks", follows.open.iter().map(|id| id.0));
    o.close();
    String::from_utf8_lossy(&text).into_owned()
}
