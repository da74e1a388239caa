//! A task that the supervisor has forgotten, or that there is no supervisor to ask about: what its records come to.

use std::path::Path;

use super::Call;
use crate::client::Answer;
use crate::error::{Code, Error, Result};
use crate::model::{Ended, Event, Now, Options, Seq, State, Task, TaskId, TaskState, replay};
use crate::record::Stamp;
use crate::store::{log, segment, snapshot};
use crate::wire::answer;

/// What is asked about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    All,
    /// How it ended.
    End,
}

/// Finds a task's records in the log, and lets the model say what they come to.
pub fn of(call: &Call, id: u64, about: About) -> Result<Answer> {
    let folder = call.folders.events();
    let segments = segment::list(&folder).map_err(|e| Error::os(format!("cannot list {}", folder.display()), e))?;
    let mut state = State::default();
    let mut end: Option<(Now, Box<Ended>)> = None;
    let mut each = |stamp: Stamp, event: Event| {
        let at = Now { mono: stamp.wall, wall: stamp.wall };
        match event {
            Event::Submitted { task, .. } if task.0 == id => replay(&mut state, at, event),
            Event::Ended { task, ended } if task.0 == id && end.is_none() => end = Some((at, ended)),
            _ => {}
        }
    };
    let needle = format!("\"task\":{id},");
    for path in &segments {
        match std::fs::read(path) {
            Ok(bytes) => log::scan_lines_with(&bytes, needle.as_bytes(), &mut each),
            // The oldest may go while we look.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::os(format!("cannot read {}", path.display()), e)),
        }
    }
    let submitted = state.tasks.get(TaskId(id)).is_some();
    match end {
        Some(_) if !submitted && about == About::All => {
            let message = format!(
                "the record of task {id}'s submission is no longer kept: `hivectl result {id}` says how it ended"
            );
            return Err(Error::new(Code::Forgotten, message));
        }
        Some((at, mut ended)) if !submitted => {
            ended.at = at.wall;
            state.tasks.insert(nothing_but_its_end(id, ended));
        }
        Some((at, ended)) => replay(&mut state, at, Event::Ended { task: TaskId(id), ended }),
        None => {}
    }
    let task = state.tasks.get(TaskId(id)).ok_or_else(|| nowhere(&folder, id))?;
    let mut out = Vec::new();
    match about {
        About::All => answer::one_task(&mut out, "1", task),
        About::End => answer::ended(&mut out, "1", task),
    }
    Ok(Answer::from_line(String::from_utf8_lossy(&out).into_owned()))
}

fn nothing_but_its_end(id: u64, ended: Box<Ended>) -> Task {
    Task {
        id: TaskId(id),
        text: "".into(),
        options: None::<Box<Options>>,
        state: TaskState::Ended(ended),
        submitted: 0,
        attempts: 0,
        deaths: 0,
        percent: None,
        asker: None,
        waiting: Vec::new(),
    }
}

/// Never there, or there once: then a snapshot has counted it.
fn nowhere(folder: &Path, id: u64) -> Error {
    let counted = snapshot::newest(folder, Seq(u64::MAX), 0).map_or(0, |(point, _)| point.state.last_task.0);
    if id == 0 || id > counted {
        return Error::new(Code::NoSuchTask, format!("no task {id} in the log at {}", folder.display()));
    }
    let message = format!("task {id}: its records are no longer kept: `pool start --keep-log` keeps more");
    Error::new(Code::Forgotten, message)
}
