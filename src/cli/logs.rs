//! `logs`: what a task or an agent printed that is not a result.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};

use super::past_task::About;
use super::task::ask_about;
use super::{Call, exit};
use crate::client::Client;
use crate::error::{Code, Error, Result};
use crate::model::{AgentId, TaskId};
use crate::sys::notify::Watcher;

pub fn command(command: Command) -> Command {
    command
        .about("Print what a task wrote to stderr, or what an agent said beside its protocol")
        .arg(Arg::new("id").value_name("ID").required_unless_present("agent").help("A task's number"))
        .arg(
            Arg::new("agent")
                .long("agent")
                .value_name("A")
                .conflicts_with("id")
                .help("An agent's own log, by its number"),
        )
        .arg(
            Arg::new("follow")
                .short('f')
                .long("follow")
                .action(ArgAction::SetTrue)
                .help("Go on as it grows; a task's log until the task has ended"),
        )
}

pub fn run(call: &mut Call) -> Result<i32> {
    let (path, task) = which(call)?;
    let follow = call.flag("follow");
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let watcher = match follow {
        true => Some(Watcher::new(&[&folder]).map_err(|e| Error::os(format!("cannot watch {}", folder.display()), e))?),
        false => None,
    };
    let mut client = task.filter(|_| follow).map(|id| waiting(call, id)).transpose()?;
    let mut log = Growing { path, open: None };
    loop {
        // Asked before the last look: what was written before the end is still shown.
        let ended = match &mut client {
            Some(client) => client.next_answer()?.is_some(),
            None => false,
        };
        log.print(call)?;
        call.out.finish()?;
        match (&watcher, ended) {
            (None, _) | (_, true) => return Ok(exit::DONE),
            (Some(watcher), false) => {
                watcher.wait_with(client.as_ref()).map_err(|e| Error::os("cannot wait for the log", e))?
            }
        };
    }
}

fn which(call: &Call) -> Result<(PathBuf, Option<u64>)> {
    let number = |text: &str, what: &str| {
        text.parse::<u64>().map_err(|_| Error::new(Code::BadRequest, format!("\"{text}\" is not {what}'s number")))
    };
    if let Some(agent) = call.text("agent") {
        let folder = call.folders.agent(AgentId(number(agent, "an agent")? as u32));
        if !folder.is_dir() {
            return Err(Error::new(Code::NoSuchAgent, format!("no agent {agent} here: see `hivectl pool status`")));
        }
        return Ok((folder.join("log"), None));
    }
    let id = number(call.text("id").map_or("", |t| t.as_str()), "a task")?;
    let path = call.folders.task_log(TaskId(id));
    if !path.exists() {
        // No log is no error; no such task is one, and so is a log that went with its task's records.
        let answer = ask_about(call, "result", id, About::End)?;
        if answer.num("log").is_some() {
            return Err(Error::new(Code::Forgotten, format!("the log of task {id} is no longer kept")));
        }
    }
    Ok((path, Some(id)))
}

fn waiting(call: &Call, id: u64) -> Result<Client> {
    let mut client = call.connect()?;
    client.send(1, "wait", |o| {
        o.num("id", id);
    })?;
    Ok(client)
}

/// A file that may come later, grow, and be replaced by a new one.
struct Growing {
    path: PathBuf,
    open: Option<File>,
}

impl Growing {
    fn print(&mut self, call: &mut Call) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let failed = |e: std::io::Error, path: &Path| Error::os(format!("cannot read {}", path.display()), e);
        if let Some(file) = &mut self.open {
            copy(file, call)?;
            let same = |file: &File| Some(file.metadata().ok()?.ino() == std::fs::metadata(&self.path).ok()?.ino());
            if same(file) == Some(true) {
                return Ok(());
            }
        }
        self.open = match File::open(&self.path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(failed(e, &self.path)),
        };
        self.open.as_mut().map_or(Ok(()), |file| copy(file, call))
    }
}

fn copy(file: &mut File, call: &mut Call) -> Result<()> {
    let mut chunk = [0; 64 * 1024];
    loop {
        let n = file.read(&mut chunk).map_err(|e| Error::os("cannot read the log", e))?;
        if n == 0 {
            return Ok(());
        }
        call.out.bytes(&chunk[..n])?;
    }
}
