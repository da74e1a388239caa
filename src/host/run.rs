//! Starting what an agent runs: the resident workload, the warm process, a task's command.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::capture::Capture;
use super::job::{self, Ends, Job, Next};
use super::{Host, Then, WARM_UP_AFTER, quiet};
use crate::error::reason;
use crate::limits;
use crate::model::{Exited, Kind, Loss};
use crate::store::BoundedLog;
use crate::store::surroundings::Surroundings;
use crate::sys::process::{self, Ending, Place, Plan, cstring};
use crate::sys::{self, clock, fifo};
use crate::wire::host::News;
use crate::wire::{agent, reference};

/// The longest command that is handed over as an argument (the kernel takes 128 KiB); a longer one is run from its file.
const ARGUMENT_MAX: u64 = 100 * 1024;
/// As [`WARM_UP_AFTER`], where there is a single processor: by then a task mostly waits for something.
const WARM_UP_AFTER_ALONE: Duration = Duration::from_millis(50);

impl Host {
    /// What has to run before the agent is ready.
    pub(super) fn start_workload(&mut self) {
        match self.orders.spec.kind {
            Kind::Shell => self.report(News::Ready(0)),
            Kind::Oneshot => self.warm_up(),
            Kind::Lines => match self.start_resident() {
                Ok(job) => {
                    let pid = job.pid.0;
                    self.current = Some(job);
                    self.report(News::Started(pid));
                }
                Err(cause) => self.failed_to_start(cause),
            },
        }
    }

    fn failed_to_start(&mut self, cause: String) {
        self.is_down = true;
        self.report(News::Down(Loss::because(cause)));
    }

    /// `lines`: the agent's pipes are the workload's own stdin and stdout.
    fn start_resident(&mut self) -> Result<Job, String> {
        let pipes = || -> io::Result<(File, File)> {
            let (stdin, stdout) = (fifo::end_of(&self.inbox.file, true)?, fifo::end_of(&self.out.file, false)?);
            sys::set_nonblocking(&stdin, false)?;
            sys::set_nonblocking(&stdout, false)?;
            Ok((stdin, stdout))
        };
        let (stdin, stdout) = pipes().map_err(|e| format!("cannot open its pipes: {}", reason(&e)))?;
        self.start_command(OwnedFd::from(stdin), Some(OwnedFd::from(stdout)), Ends::default())
    }

    /// `oneshot`: the next process is started, and reads nothing yet.
    pub(super) fn warm_up(&mut self) {
        if self.warm.is_some() || self.then == Then::Leave {
            return;
        }
        let started =
            sys::pipe().map_err(|e| format!("cannot make a pipe: {}", reason(&e))).and_then(|(read, write)| {
                self.start_command(read, None, Ends { stdin: Some(File::from(write)), ..Ends::default() })
            });
        match started {
            Ok(job) => {
                // Only the first one is waited for: later ones are started beside a task, and simply used.
                if !self.was_ready {
                    self.quiet = Some(quiet::Watch::new(clock::monotonic_micros()));
                }
                self.warm = Some(job);
            }
            Err(cause) => match &self.current {
                Some(_) => self.warm_lost = Some(Loss::because(cause)),
                None => self.failed_to_start(cause),
            },
        }
    }

    /// Whether the warm process has settled down to wait for its task.
    pub(super) fn look_for_quiet(&mut self, now: i64) {
        let (Some(warm), Some(watch)) = (&self.warm, &mut self.quiet) else {
            return;
        };
        let last_look = now - watch.began >= self.orders.spec.start_patience_us / 2;
        if watch.is_quiet(now, warm.pid, warm.stdin_inode()) || last_look {
            let pid = warm.pid.0;
            self.quiet = None;
            self.was_ready = true;
            self.report(News::Ready(pid));
        }
    }

    /// Whether the workload waits for a task that it was perhaps not sent.
    pub(super) fn look_for_waiting(&mut self, now: i64) {
        use std::os::unix::fs::MetadataExt;
        let (Some(job), Some((task, watch))) = (&self.current, &mut self.settling) else {
            self.settling = None;
            return;
        };
        let stdin = self.inbox.file.metadata().ok().map(|m| m.ino());
        if watch.is_quiet(now, job.pid, stdin) && fifo::is_empty(&self.inbox.file) {
            let task = *task;
            self.settling = None;
            self.report(News::Waits(task));
        }
    }

    /// The pool's own command, in the pool's surroundings.
    fn start_command(&mut self, stdin: OwnedFd, stdout: Option<OwnedFd>, ends: Ends) -> Result<Job, String> {
        let command = &self.orders.spec.command;
        let program = process::find_program(&command[0], &self.own.env, &self.own.folder)
            .map_err(|e| format!("{}: {}", command[0], reason(&e)))?;
        let args: Result<Vec<CString>, _> = command.iter().map(cstring).collect();
        let args = args.map_err(|e| format!("{}: {}", command[0], reason(&e)))?;
        let surroundings = self.own.clone();
        self.start(&program, &args, surroundings, stdin, stdout, ends)
    }

    /// Starts a process in a session of its own. Its stdout is `stdout`, or a pipe that is read here.
    fn start(
        &mut self,
        program: &Path,
        args: &[CString],
        surroundings: Surroundings,
        stdin: OwnedFd,
        stdout: Option<OwnedFd>,
        mut ends: Ends,
    ) -> Result<Job, String> {
        self.starts += 1;
        let slot = (self.starts & 1) as usize;
        let mark = job::mark(self.me, self.starts);
        let surroundings = surroundings.with(&[("HIVE_START", OsStr::new(&mark))]);
        let pipes = || -> io::Result<_> {
            let answer = if stdout.is_none() { Some(sys::pipe()?) } else { None };
            Ok((answer, sys::pipe()?))
        };
        let (answer, (err_read, err_write)) = pipes().map_err(|e| format!("cannot make a pipe: {}", reason(&e)))?;
        let (out_read, out_write) = match answer {
            Some((read, write)) => (Some(File::from(read)), write),
            None => (None, stdout.ok_or("no stdout")?),
        };
        let plan = Plan {
            program,
            args,
            env: &surroundings.env,
            folder: Some(&surroundings.folder),
            fds: &[stdin.as_raw_fd(), out_write.as_raw_fd(), err_write.as_raw_fd()],
            place: Place::Session,
            bounds: self.cage.bounds(slot),
        };
        let pid = process::start(&plan).map_err(|e| {
            let folder = &surroundings.folder;
            match folder.is_dir() {
                true => format!("cannot start {}: {}", program.display(), reason(&e)),
                false => format!("cannot enter {}: no such folder", folder.display()),
            }
        })?;
        self.cage.begun(clock::monotonic_micros());
        (ends.stdout, ends.stderr) = (out_read, Some(File::from(err_read)));
        Job::new(pid, slot, mark, ends, self.context.clone(), &self.poll)
            .map_err(|e| format!("cannot watch it: {}", reason(&e)))
    }

    /// Runs one task.
    pub(super) fn run(&mut self, next: Next) {
        let task = next.task;
        let started = match self.orders.spec.kind {
            Kind::Oneshot => self.feed_warm(&next.text),
            Kind::Shell | Kind::Lines => self.start_shell(next),
        };
        match started {
            Ok(mut job) => {
                job.task = Some(task);
                let path = self.orders.folders.task_log(crate::model::TaskId(task));
                job.log = Some(BoundedLog::cut(path, limits::TASK_LOG_MAX));
                self.current = Some(job);
                if self.orders.spec.kind == Kind::Oneshot {
                    // With one processor nobody but the task could do the work of the start meanwhile.
                    let alone = self.orders.processors.len() == 1;
                    let after = if alone { WARM_UP_AFTER_ALONE } else { WARM_UP_AFTER };
                    self.warm_up_at = Some(clock::monotonic_micros() + after.as_micros() as i64);
                }
            }
            Err(failure) => {
                let how = Exited { failure: Some(failure.into()), ..Exited::default() };
                self.out.buffer().extend_from_slice(&agent::exited(task, &how));
            }
        }
    }

    fn start_shell(&mut self, next: Next) -> Result<Job, String> {
        let mut surroundings = self.surroundings(next.surroundings)?;
        let script = self.script(&next.text)?;
        let args = match &script {
            Script::Text(text) => vec!["sh", "-c", "--", text],
            Script::File(path) => vec!["sh", "--", path],
        };
        let args: Result<Vec<CString>, _> = args.into_iter().map(cstring).collect();
        let args = args.map_err(|e| format!("cannot hand the command to the shell: {}", reason(&e)))?;
        let nothing = OpenOptions::new()
            .read(true)
            .open("/dev/null")
            .map_err(|e| format!("cannot open /dev/null: {}", reason(&e)))?;
        let (task, attempt) = (next.task.to_string(), next.attempt.to_string());
        for (name, digest) in &next.contexts {
            surroundings = surroundings.with(&[(&context_variable(name), self.context.path(digest).as_os_str())]);
        }
        let surroundings =
            surroundings.with(&[("HIVE_TASK", OsStr::new(&task)), ("HIVE_ATTEMPT", OsStr::new(&attempt))]);
        self.start(Path::new("/bin/sh"), &args, surroundings, OwnedFd::from(nothing), None, Ends::default())
    }

    /// The submitter's folder and environment; the pool's own where none came with the task.
    fn surroundings(&mut self, digest: Option<Arc<str>>) -> Result<Surroundings, String> {
        let Some(digest) = digest else {
            return Ok(self.own.clone());
        };
        if let Some((_, known)) = self.last.as_ref().filter(|(name, _)| *name == digest) {
            return Ok(known.clone());
        }
        let loaded = Surroundings::load(&self.context, &digest)
            .map_err(|e| format!("cannot read the task's environment {digest}: {}", reason(&e)))?;
        let dressed = self.orders.dress(loaded);
        self.last = Some((digest, dressed.clone()));
        Ok(dressed)
    }

    fn script(&self, text: &str) -> Result<Script, String> {
        let Some(digest) = reference(text) else {
            return Ok(Script::Text(text.to_owned()));
        };
        let path = self.context.path(digest);
        let missing = |e: io::Error| format!("cannot read the task's text {text}: {}", reason(&e));
        if std::fs::metadata(&path).map_err(missing)?.len() <= ARGUMENT_MAX {
            // A text with a NUL cannot be an argument: then the file is the script.
            if let Ok(text) = String::from_utf8(std::fs::read(&path).map_err(missing)?)
                && !text.contains('\0')
            {
                return Ok(Script::Text(text));
            }
        }
        Ok(Script::File(path.to_string_lossy().into_owned()))
    }

    /// `oneshot`: the warm process gets its task and the end of it.
    fn feed_warm(&mut self, text: &str) -> Result<Job, String> {
        let file = match reference(text) {
            Some(digest) => Some(
                self.context.open(digest).map_err(|e| format!("cannot read the task's text {text}: {}", reason(&e)))?,
            ),
            None => None,
        };
        if self.warm.is_none() {
            self.warm_up();
        }
        self.quiet = None;
        let Some(mut job) = self.warm.take() else {
            return Err(self.warm_failure());
        };
        job.feed(text, file, &self.poll);
        Ok(job)
    }

    fn warm_failure(&mut self) -> String {
        self.warm_lost
            .take()
            .map_or_else(|| "its program could not be started".to_owned(), |loss| loss.cause.to_string())
    }

    /// Says how the running task's process ended, with its answer; what is left of it can be let go when that is said.
    pub(super) fn report_end(&mut self) -> Option<Job> {
        let mut job = self.current.take()?;
        job.drain(&mut self.log);
        let task = job.task?;
        let answer = std::mem::replace(&mut job.capture, Capture::new()).finish(&self.context);
        let (exit, signal) = match job.ending {
            Some(Ending::Exit(code)) => (Some(code), None),
            Some(Ending::Signal(n)) => (None, Some(n)),
            None => (None, None),
        };
        let how = Exited {
            exit,
            signal,
            by_host: job.by_host,
            limit: job.limit,
            failure: answer.failure.map(Arc::from),
            result: answer.result,
            unterminated: answer.unterminated,
            bytes: answer.bytes,
            log: job.log.as_ref().map_or(0, |log| log.taken),
        };
        self.out.buffer().extend_from_slice(&agent::exited(task, &how));
        Some(job)
    }
}

/// Where a task finds the file of a context: `HIVE_CONTEXT_NOTES` for `notes`.
fn context_variable(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("HIVE_CONTEXT_{}", name.chars().map(letter).collect::<String>())
}

enum Script {
    Text(String),
    File(String),
}
