//! What clients ask: parsed, completed with what only the supervisor knows, decided, answered.

use std::sync::Arc;

use super::Hive;
use super::collect::{Line, begins_as_request};
use super::core::Answered;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::model::{
    AgentId, Body, Effect, Given, Input, Options, PoolStart, ReplyTo, Submit, Target, TaskId, WaitFor, unknown_task,
};
use crate::sys::process;
use crate::wire::request::{Op, Request};
use crate::wire::{answer, fits_inline, reference, request};

impl Hive {
    pub(super) fn ctl_line(&mut self, line: Line) {
        let bytes = match line {
            Line::Whole([]) => return,
            Line::Whole(bytes) => bytes,
            // Whose text this is cannot be told any more, and so nothing in it is obeyed.
            Line::Tail(..) => {
                self.malformed += 1;
                return;
            }
        };
        if let Ok(Ok(request)) = std::str::from_utf8(bytes).map(|text| request::parse(text, &mut self.names)) {
            return self.request(request);
        }
        self.malformed += 1;
        let text = String::from_utf8_lossy(bytes);
        if begins_as_request(bytes) {
            self.tell_malformed(&text);
        } else if let Some(request) = self.request_after_garbage(&text) {
            self.request(request);
        }
    }

    /// Requests of a turn that was recorded, and whose answers the last supervisor may not have written: those that an event
    /// answers are answered by that, the others are asked again.
    pub(super) fn request_again(&mut self, bytes: &[u8], answered: &Answered) {
        let whole = memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1);
        for line in bytes[..whole].split(|b| *b == b'\n') {
            let Some(Ok(request)) = std::str::from_utf8(line).ok().map(|text| request::parse(text, &mut self.names))
            else {
                continue;
            };
            if request.to.as_ref().is_some_and(|to| !answered.has(to)) {
                self.request(request);
            }
        }
    }

    /// Somebody wrote garbage without a newline, and an honest request was joined to its end: find it there.
    fn request_after_garbage(&mut self, text: &str) -> Option<Request> {
        const TRIES: usize = 64;
        text.match_indices("{\"").take(TRIES).find_map(|(at, _)| request::parse(&text[at..], &mut self.names).ok())
    }

    /// Tells who asked what is wrong, if that can be read from the line.
    fn tell_malformed(&mut self, text: &str) {
        let (to, message) = match request::parse(text, &mut self.names) {
            Ok(request) => (request.to, "the line is not UTF-8".to_owned()),
            Err(request::Malformed { to, message }) => (to, message),
        };
        if let Some(to) = to {
            self.refuse(&to, &Error::new(Code::BadRequest, message));
        }
    }

    fn request(&mut self, request: Request) {
        let Request { to, op } = request;
        if let Err(error) = self.serve(op, to.clone())
            && let Some(to) = to
        {
            self.refuse(&to, &error);
        }
    }

    fn refuse(&mut self, to: &ReplyTo, error: &Error) {
        let after = self.core.recorded();
        self.clients.answer(to, after, |out| answer::error(out, &to.tag, error.code, &error.message));
    }

    fn serve(&mut self, op: Op, to: Option<ReplyTo>) -> Result<()> {
        self.core.room_for(op.cost())?;
        let input = match op {
            Op::Submit { text, options, waits, agent } => self.submission(text, options, waits, agent, to)?,
            Op::Cancel(task) => {
                self.core.feed(Input::Cancel { task })?;
                return self.ok(to);
            }
            Op::CancelRun(tag) => {
                let to = asker(to)?;
                let waits = |w: &ReplyTo| w.name == to.name && w.tag == tag;
                let found = self.core.state.tasks.iter().find(|t| t.waiters().any(waits)).map(|t| t.id);
                let task = found.ok_or_else(|| Error::new(Code::NoSuchTask, "no task is waited for under this tag"))?;
                self.core.feed(Input::Cancel { task })?;
                return self.ok(Some(to));
            }
            Op::Wait(task) => return self.wait(task, to),
            Op::WaitAll => Input::Wait { what: WaitFor::All, to: asker(to)? },
            Op::WaitRoom => Input::Wait { what: WaitFor::Room, to: asker(to)? },
            Op::Task(task) => return self.show_task(task, to, false),
            Op::Result(task) => return self.show_task(task, to, true),
            Op::Tasks { from, limit } => {
                let to = asker(to)?;
                let state = &self.core.state;
                self.clients.answer(&to, self.core.recorded(), |out| {
                    answer::tasks(out, &to.tag, state, from, limit, limits::TASKS_PAGE_BYTES);
                });
                return Ok(());
            }
            Op::Status => return self.status(to),
            Op::Contexts(names) => {
                let to = asker(to)?;
                let state = &self.core.state;
                self.clients.answer(&to, self.core.recorded(), |out| answer::contexts(out, &to.tag, state, &names));
                return Ok(());
            }
            Op::PoolStart(start) => Input::PoolStart(PoolStart { to, ..*start }),
            Op::More(digest) => {
                let op = self.rest_of_request(&digest)?;
                return self.serve(op, to);
            }
            Op::Scale(count) => Input::Scale { count, to },
            Op::Restart { agent, rolling } => {
                let agent = agent.map(|name| self.agent_called(&name)).transpose()?;
                Input::Restart { agent, rolling, to }
            }
            Op::Stop(mode) => Input::Stop { mode, to },
            Op::Checkpoint { .. } | Op::Inject { .. } | Op::PauseAtCheckpoint { .. } | Op::Resume { .. } => {
                self.steering(op, to)?
            }
        };
        Ok(self.core.feed(input)?)
    }

    /// A request that is longer than a line: the line names where its fields are.
    fn rest_of_request(&mut self, digest: &str) -> Result<Op> {
        let text = std::fs::read_to_string(self.context.path(digest))
            .map_err(|e| Error::os("cannot read the rest of the request", e))?;
        request::parse_fields(&text, &mut self.names).map_err(|e| Error::new(Code::BadRequest, e))
    }

    /// A text that cannot be a field of a line goes by reference from here on.
    pub(super) fn as_field(&self, text: Arc<str>) -> Result<Arc<str>> {
        if let Some(digest) = reference(&text) {
            // Named now, and only soon in the log: no clearing shall take it in between.
            self.context.renew(digest);
            return Ok(text);
        }
        if fits_inline(&text, limits::TEXT_INLINE_MAX) {
            return Ok(text);
        }
        let stored = self.context.put(text.as_bytes());
        Ok(format!("REF:{}", stored.map_err(|e| Error::os("cannot store the text", e))?).into())
    }

    fn submission(
        &mut self,
        text: Arc<str>,
        mut options: Option<Box<Options>>,
        waits: bool,
        agent: Option<Arc<str>>,
        to: Option<ReplyTo>,
    ) -> Result<Input> {
        let text = self.as_field(text)?;
        if let Some(options) = options.as_mut().filter(|o| !o.contexts.is_empty()) {
            options.contexts = self.contexts_given(&options.contexts)?;
        }
        if let Some(name) = agent {
            let id = self.agent_called(&name)?;
            options.get_or_insert_default().target = Target::Agent(id);
        }
        Ok(Input::Submit(Submit { text, options, to, waits }))
    }

    /// Contexts with their lengths: they must be there, and stay until the log names them.
    fn contexts_given(&mut self, given: &[Given]) -> Result<Arc<[Given]>> {
        let look = |given: &Given| {
            let found = std::fs::metadata(self.context.path(&given.digest));
            let missing = || {
                let what = format!("context {} is REF:{}, which is not stored", given.name, given.digest);
                Error::new(Code::NoSuchContent, format!("{what}: put it (`hivectl context put`)"))
            };
            let bytes = found.ok().filter(|_| self.context.renew(&given.digest)).ok_or_else(missing)?.len();
            for diff in &given.diffs {
                self.context.renew(&diff.digest);
            }
            Ok(Given { bytes, ..given.clone() })
        };
        let given: Vec<Given> = given.iter().map(look).collect::<Result<_>>()?;
        if *self.given != given[..] {
            self.given = given.into();
        }
        Ok(self.given.clone())
    }

    pub(super) fn agent_called(&self, name: &str) -> Result<AgentId> {
        if let Ok(number) = name.parse() {
            return Ok(AgentId(number));
        }
        let found = self.core.state.agents.values().find(|a| a.name().as_deref() == Some(name));
        found.map(|a| a.id).ok_or_else(|| {
            Error::new(Code::NoSuchAgent, format!("no agent is called {name}: see `hivectl pool status`"))
        })
    }

    fn wait(&mut self, task: TaskId, to: Option<ReplyTo>) -> Result<()> {
        let to = asker(to)?;
        if self.core.state.tasks.get(task).is_some_and(|t| t.ended().is_some()) {
            self.core.effects.push(Effect::Answer { to, body: Body::Ended(task) });
            return Ok(());
        }
        Ok(self.core.feed(Input::Wait { what: WaitFor::Task(task), to })?)
    }

    fn show_task(&mut self, id: TaskId, to: Option<ReplyTo>, ended: bool) -> Result<()> {
        let to = asker(to)?;
        let Some(task) = self.core.state.tasks.get(id) else {
            return Ok(unknown_task(&self.core.state, id)?);
        };
        self.clients.answer(&to, self.core.recorded(), |out| match ended {
            true => answer::ended(out, &to.tag, task),
            false => answer::one_task(out, &to.tag, task),
        });
        Ok(())
    }

    fn status(&mut self, to: Option<ReplyTo>) -> Result<()> {
        let to = asker(to)?;
        let me = process::my_pid();
        let processors = crate::sys::processors_of(me).unwrap_or_default();
        let containment = self.agents.containment();
        let machine = answer::Machine {
            group: self.agents.group(),
            containment: &containment,
            processors: &processors,
            malformed: self.malformed,
            clients_cut: self.clients.cut,
        };
        let facts = answer::Facts {
            hive: &self.name,
            pid: me.0,
            term: self.core.log.term.0,
            since: self.since,
            machine: Some(machine),
        };
        let state = &self.core.state;
        self.clients.answer(&to, self.core.recorded(), |out| answer::status(out, &to.tag, state, &facts));
        Ok(())
    }

    /// Said with the turn's other answers, when its events are recorded.
    fn ok(&mut self, to: Option<ReplyTo>) -> Result<()> {
        self.core.effects.extend(to.map(|to| Effect::Answer { to, body: Body::Ok }));
        Ok(())
    }
}

pub(super) fn asker(to: Option<ReplyTo>) -> Result<ReplyTo> {
    to.ok_or_else(|| Error::new(Code::BadRequest, "this request asks for an answer and needs \"reply\""))
}
