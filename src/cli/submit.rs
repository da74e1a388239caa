//! `submit`: hand over a task and print its number; with `--stdin` a task for each line, as fast as they come.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;

use clap::{Arg, ArgAction, Command, value_parser};

use super::given::Contexts;
use super::{Call, exit, outcome};
use crate::client::{Answer, Client};
use crate::error::{Code, Error, Result};
use crate::json::{Object, quoted_len};
use crate::limits;
use crate::store::Context;
use crate::store::surroundings::Surroundings;
use crate::wire::fits_inline;

pub fn command(command: Command) -> Command {
    options(command)
        .about("Hand over a task, and print its number")
        .arg(
            Arg::new("stdin")
                .long("stdin")
                .action(ArgAction::SetTrue)
                .conflicts_with("text")
                .help("Read tasks from stdin, one a line; prints a number for each"),
        )
        .arg(text_arg().required_unless_present("stdin"))
}

pub fn text_arg() -> Arg {
    Arg::new("text")
        .value_name("TEXT")
        .num_args(1..)
        .trailing_var_arg(true)
        .help("What is to be done; several words are joined by blanks; `-` reads it from stdin, of any size and shape")
}

/// The options that `run` and `submit` share.
pub fn options(command: Command) -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    super::given::option(command)
        .arg(option("name", "NAME", "A name to show beside its number"))
        .arg(option("agent", "A", "Only this agent may run it (its number or name)"))
        .arg(
            option("label", "LABEL", "Only agents with this label may run it; may be given several times")
                .action(ArgAction::Append),
        )
        .arg(
            option("timeout", "SECONDS", "End an attempt that runs longer")
                .value_parser(seconds)
                .allow_hyphen_values(true),
        )
        .arg(
            option("priority", "N", "Higher goes first [default: 0]")
                .value_parser(value_parser!(i32))
                .allow_hyphen_values(true),
        )
        .arg(
            option("retries", "N", "How often it may be tried again when its agent died [default: 2]")
                .value_parser(value_parser!(u32)),
        )
}

/// JSON has no word for a number that is none.
pub fn seconds(text: &str) -> std::result::Result<f64, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds.filter(|s| s.is_finite() && *s > 0.0).ok_or_else(|| "it must be a number of seconds above 0".to_owned())
}

/// What every task of this call has in common, as JSON fields.
pub struct Common {
    name: Option<String>,
    agent: Option<String>,
    labels: Vec<String>,
    timeout: Option<f64>,
    priority: Option<i32>,
    retries: Option<u32>,
    surroundings: String,
    contexts: Contexts,
}

impl Common {
    pub fn of(call: &Call, client: &mut Client) -> Result<Common> {
        let here = Surroundings::here().map_err(|e| Error::os("cannot tell the working directory", e))?;
        let stored = here.store(&Context::at(&call.folders.context));
        Ok(Common {
            name: call.text("name").cloned(),
            agent: call.text("agent").cloned(),
            labels: call.args.get_many::<String>("label").into_iter().flatten().cloned().collect(),
            timeout: call.args.get_one("timeout").copied(),
            priority: call.args.get_one("priority").copied(),
            retries: call.args.get_one("retries").copied(),
            surroundings: stored.map_err(|e| Error::os("cannot store this environment in the context store", e))?,
            contexts: Contexts::of(call, client)?,
        })
    }

    pub fn write(&self, o: &mut Object) {
        o.opt_str("name", self.name.as_deref()).opt_str("agent", self.agent.as_deref());
        if !self.labels.is_empty() {
            o.strings("labels", self.labels.iter().map(String::as_str));
        }
        if let Some(timeout) = self.timeout {
            o.raw("timeout", &timeout.to_string());
        }
        if let Some(priority) = self.priority {
            o.num("priority", priority);
        }
        if let Some(retries) = self.retries {
            o.num("retries", retries);
        }
        o.str("surroundings", &self.surroundings);
        self.contexts.write(o);
    }
}

/// The task's text: from the arguments, or all of stdin; by reference where it is not one short line.
pub fn text(call: &Call) -> Result<String> {
    let words: Vec<&String> = call.args.get_many::<String>("text").into_iter().flatten().collect();
    let context = Context::at(&call.folders.context);
    let failed = |e: io::Error| Error::os("cannot store the task's text in the context store", e);
    if words.len() == 1 && words[0] == "-" {
        let mut bytes = Vec::new();
        let mut stdin = io::stdin().lock();
        let cannot = |e: io::Error| Error::os("cannot read the task's text from stdin", e);
        stdin.by_ref().take(limits::TEXT_INLINE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
        return match std::str::from_utf8(&bytes) {
            Ok(text) if fits_inline(text, limits::TEXT_INLINE_MAX) && crate::wire::reference(text).is_none() => {
                Ok(text.to_owned())
            }
            _ => Ok(format!("REF:{}", context.put_from(&mut bytes.as_slice().chain(stdin)).map_err(failed)?.digest)),
        };
    }
    let text = words.iter().map(|w| w.as_str()).collect::<Vec<_>>().join(" ");
    by_reference_if_needed(text, &context).map_err(failed)
}

pub fn by_reference_if_needed(text: String, context: &Context) -> io::Result<String> {
    // What has to be escaped takes more room in the request.
    let fits = fits_inline(&text, limits::TEXT_INLINE_MAX) && quoted_len(&text) <= limits::TEXT_INLINE_MAX + 2;
    if fits { Ok(text) } else { Ok(format!("REF:{}", context.put(text.as_bytes())?)) }
}

pub fn run(call: &mut Call) -> Result<i32> {
    let mut client = call.connect()?;
    let common = Common::of(call, &mut client)?;
    if call.flag("stdin") {
        return Batch::new(call, client, common).run();
    }
    let text = text(call)?;
    let answer = client.ask("submit", |o| {
        o.str("text", &text);
        common.write(o);
    })?;
    show(call, &answer)?;
    Ok(exit::DONE)
}

fn show(call: &mut Call, answer: &Answer) -> Result<()> {
    match call.json {
        true => call.out.line(&outcome::without_tag(answer.text())),
        false => call.out.line(&answer.num("id").unwrap_or(0).to_string()),
    }
}

/// Requests under way at a time: enough to keep the supervisor busy, few enough to hold in two pipes.
const WINDOW: usize = 256;

/// Many tasks through one pipe: the writer is held back by what is under way, and by a full queue.
struct Batch<'c, 'a> {
    call: &'c mut Call<'a>,
    client: Client,
    common: Common,
    context: Context,
    /// Texts under way, by the line they came on, which is their tag: a refusal may overtake an acceptance.
    under_way: BTreeMap<u64, String>,
    /// Texts that a full queue sent back: first to be sent again.
    again: BTreeMap<u64, String>,
    /// Accepted, and not printed because an earlier line is still under way.
    accepted: BTreeMap<u64, Answer>,
    /// The last line that was read, and the last one whose number was printed.
    read: u64,
    printed: u64,
    lines: Vec<u8>,
    input_ended: bool,
}

impl<'c, 'a> Batch<'c, 'a> {
    fn new(call: &'c mut Call<'a>, client: Client, common: Common) -> Self {
        let context = Context::at(&call.folders.context);
        Batch {
            call,
            client,
            common,
            context,
            under_way: BTreeMap::new(),
            again: BTreeMap::new(),
            accepted: BTreeMap::new(),
            read: 0,
            printed: 0,
            lines: Vec::new(),
            input_ended: false,
        }
    }

    fn run(mut self) -> Result<i32> {
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(|e| Error::os("cannot read stdin", e))?;
        let mut stdin = BufReader::with_capacity(64 * 1024, File::from(stdin));
        loop {
            while self.under_way.len() < WINDOW {
                let Some((line, text)) = self.next_text(&mut stdin)? else {
                    break;
                };
                self.push(line, text)?;
                // A writer that pauses is not made to wait for a full batch.
                if self.again.is_empty() && stdin.buffer().is_empty() && !readable(stdin.get_ref()) {
                    break;
                }
            }
            self.flush()?;
            if self.under_way.is_empty() {
                if self.input_ended && self.again.is_empty() {
                    return Ok(exit::DONE);
                }
                continue;
            }
            let full = self.answers()?;
            if full {
                self.wait_for_room()?;
            }
        }
    }

    fn next_text(&mut self, stdin: &mut impl BufRead) -> Result<Option<(u64, String)>> {
        if let Some(again) = self.again.pop_first() {
            return Ok(Some(again));
        }
        if self.input_ended {
            return Ok(None);
        }
        let mut line = Vec::new();
        let n = stdin.read_until(b'\n', &mut line).map_err(|e| Error::os("cannot read tasks from stdin", e))?;
        if n == 0 {
            self.input_ended = true;
            return Ok(None);
        }
        if line.ends_with(b"\n") {
            line.pop();
        }
        let text = match String::from_utf8(line) {
            Ok(text) => by_reference_if_needed(text, &self.context),
            Err(e) => self.context.put(e.as_bytes()).map(|digest| format!("REF:{digest}")),
        };
        self.read += 1;
        let text = text.map_err(|e| Error::os("cannot store a task's text in the context store", e))?;
        Ok(Some((self.read, text)))
    }

    fn push(&mut self, tag: u64, text: String) -> Result<()> {
        let line = self.client.encode(tag, "submit", |o| {
            o.str("text", &text);
            self.common.write(o);
        })?;
        if self.lines.len() + line.len() > limits::LINE_MAX {
            self.flush()?;
        }
        self.lines.extend_from_slice(&line);
        self.under_way.insert(tag, text);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.lines.is_empty() {
            self.client.write(&self.lines)?;
            self.lines.clear();
        }
        Ok(())
    }

    /// Takes the answers that have come, at least one. Returns whether the queue was found full.
    fn answers(&mut self) -> Result<bool> {
        let mut full = false;
        let mut next = Some(self.client.answer()?);
        while let Some(answer) = next {
            let tag = answer.tag();
            let text = self.under_way.remove(&tag).unwrap_or_default();
            match answer.accepted() {
                Ok(answer) => drop(self.accepted.insert(tag, answer)),
                Err(e) if e.code == Code::Limit => {
                    self.again.insert(tag, text);
                    full = true;
                }
                Err(e) => return Err(e),
            }
            while let Some(answer) = self.accepted.remove(&(self.printed + 1)) {
                self.printed += 1;
                show(self.call, &answer)?;
            }
            next = self.client.next_answer()?;
        }
        self.call.out.finish()?;
        Ok(full)
    }

    /// The rest of what is under way comes back first, so that the order stays.
    fn wait_for_room(&mut self) -> Result<()> {
        while !self.under_way.is_empty() {
            self.answers()?;
        }
        self.client.ask("wait-room", |_| {}).map(drop)
    }
}

fn readable(file: &File) -> bool {
    crate::sys::wait_readable(&[file.as_fd()], 0).is_ok_and(|ready| ready[0])
}
