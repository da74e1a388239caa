//! What clients write to `ctl`: a JSON object, or the short form for shells.
//! Invariant: a parsed request is within every bound of its fields; what is not is refused with the name of the field.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use super::check_name;
use super::steering::{self, Named};
use crate::json::{self, Flat};
use crate::limits;
use crate::model::{Difference, Given, Kind, Options, PoolStart, ReplyTo, Spec, StopMode, Tag, Target, TaskId};

#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub to: Option<ReplyTo>,
    pub op: Op,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Submit {
        text: Arc<str>,
        options: Option<Box<Options>>,
        waits: bool,
        agent: Option<Arc<str>>,
    },
    Cancel(TaskId),
    /// The task that this client's request with this tag waits for.
    CancelRun(Tag),
    Wait(TaskId),
    WaitAll,
    WaitRoom,
    Task(TaskId),
    Result(TaskId),
    Tasks {
        from: u64,
        limit: u64,
    },
    Status,
    /// The last versions of these contexts.
    Contexts(Vec<String>),
    /// The request's fields are content with this digest.
    More(Arc<str>),
    PoolStart(Box<PoolStart>),
    Scale(u32),
    Restart {
        agent: Option<Arc<str>>,
        rolling: bool,
    },
    Stop(StopMode),
    /// Of these agents, by number or name; of all where none is named.
    Checkpoint {
        agents: Vec<Arc<str>>,
        within_us: i64,
        partial: bool,
    },
    Inject {
        whom: Named,
        text: Arc<str>,
        now: bool,
    },
    PauseAtCheckpoint {
        agent: Arc<str>,
        within_us: i64,
    },
    Resume {
        agent: Arc<str>,
        text: Option<Arc<str>>,
    },
}

/// A request that cannot be understood, and whom to tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Malformed {
    pub to: Option<ReplyTo>,
    pub message: String,
}

/// What a request costs the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// It begins something that goes on.
    Work,
    /// It is remembered until it is answered.
    Wait,
    /// Nothing, or what is set aside for it: to look, to cancel and to stop is always possible.
    Free,
}

impl Op {
    pub fn cost(&self) -> Cost {
        match self {
            Op::Submit { .. } | Op::PoolStart(_) | Op::Scale(_) | Op::Restart { .. } | Op::More(_) => Cost::Work,
            Op::Checkpoint { .. } | Op::Inject { .. } | Op::PauseAtCheckpoint { .. } => Cost::Work,
            Op::Resume { .. } => Cost::Wait,
            Op::Wait(_) | Op::WaitAll | Op::WaitRoom => Cost::Wait,
            Op::Cancel(_) | Op::CancelRun(_) | Op::Stop(_) => Cost::Free,
            Op::Task(_) | Op::Result(_) | Op::Tasks { .. } | Op::Status | Op::Contexts(_) => Cost::Free,
        }
    }
}

const OPS: &str = "submit, run, cancel, wait, wait-all, wait-room, task, result, tasks, status, contexts, pool-start, \
                   scale, restart, stop, checkpoint, inject, pause-at-checkpoint, resume";

/// Names that were met lately, so that a client's thousand requests share one copy of each.
#[derive(Debug, Default)]
pub struct Names(VecDeque<Arc<str>>);

impl Names {
    const KEPT: usize = 8;

    fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| known.as_ref() == name) {
            return known.clone();
        }
        if self.0.len() == Self::KEPT {
            self.0.pop_front();
        }
        let new: Arc<str> = name.into();
        self.0.push_back(new.clone());
        new
    }
}

pub fn parse(line: &str, names: &mut Names) -> Result<Request, Malformed> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.starts_with('{') {
        return parse_json(line, names);
    }
    short(line).map(|op| Request { to: None, op }).map_err(|message| Malformed { to: None, message })
}

const SHORT: &str = "submit, cancel, inject or checkpoint";

/// `submit build the docs`, `cancel 17`: nobody is answered.
fn short(line: &str) -> Result<Op, String> {
    let (verb, rest) = super::split_word(line);
    match verb {
        "submit" if rest.is_empty() => Err("submit needs a text".into()),
        "submit" => Ok(Op::Submit { text: whole(rest)?, options: None, waits: false, agent: None }),
        "cancel" => {
            rest.trim().parse().map(|id| Op::Cancel(TaskId(id))).map_err(|_| "cancel needs a task's number".into())
        }
        "inject" => steering::short_inject(rest),
        "checkpoint" => steering::checkpoint(&Flat::parse("{}")?),
        _ => Err(format!("unknown verb \"{}\": {SHORT}, or a JSON request", verb.escape_debug())),
    }
}

fn parse_json(line: &str, names: &mut Names) -> Result<Request, Malformed> {
    if let Some(request) = simple_task(line, names) {
        return Ok(request);
    }
    let flat = Flat::parse(line).map_err(|e| Malformed { to: None, message: format!("not a JSON object: {e}") })?;
    let to = reply_to(&flat, names).map_err(|message| Malformed { to: None, message })?;
    match operation(&flat, names) {
        Ok(op) => Ok(Request { to, op }),
        Err(message) => Err(Malformed { to, message }),
    }
}

/// What comes by the thousand, read in one pass: a task of which nothing is said but its text and who is answered.
/// `None` leaves the line to the general way, with all that may be wrong with it.
fn simple_task(line: &str, names: &mut Names) -> Option<Request> {
    let (mut op, mut text, mut reply, mut tag) = (None, None, None, None);
    json::plain_fields(line, |name, value| {
        let field = match name {
            "op" => &mut op,
            "text" => &mut text,
            "reply" => &mut reply,
            "tag" => &mut tag,
            _ => return None,
        };
        field.replace(value).is_none().then_some(())
    })?;
    let waits = match op? {
        "\"run\"" => true,
        "\"submit\"" => false,
        _ => return None,
    };
    let text = unescaped(text?)?.into();
    let name = unescaped(reply?)?;
    let tag = tag.unwrap_or("null");
    if check_name("\"reply\"", name).is_err() || tag.len() > limits::TAG_MAX {
        return None;
    }
    let to = Some(ReplyTo { name: names.share(name), tag: tag.into(), watches: false });
    Some(Request { to, op: Op::Submit { text, options: None, waits, agent: None } })
}

/// The string that a plain value is.
fn unescaped(value: &str) -> Option<&str> {
    value.strip_prefix('"')?.strip_suffix('"')
}

fn reply_to(flat: &Flat, names: &mut Names) -> Result<Option<ReplyTo>, String> {
    let Some(name) = flat.str("reply")? else {
        return Ok(None);
    };
    check_name("\"reply\"", &name)?;
    let tag = flat.raw("tag").unwrap_or("null");
    if tag.len() > limits::TAG_MAX {
        return Err(format!("\"tag\" is longer than {} bytes", limits::TAG_MAX));
    }
    let watches = flat.bool("watch")?.unwrap_or(false);
    Ok(Some(ReplyTo { name: names.share(&name), tag: tag.into(), watches }))
}

/// The fields of a request that stand elsewhere than in its line. They cannot refer further.
pub fn parse_fields(text: &str, names: &mut Names) -> Result<Op, String> {
    match operation(&Flat::parse(text)?, names)? {
        Op::More(_) => Err("\"more\" stands in a request's line alone".into()),
        op => Ok(op),
    }
}

fn operation(flat: &Flat, names: &mut Names) -> Result<Op, String> {
    let Some(op) = flat.str("op")? else {
        return Err("\"op\" is missing".into());
    };
    if let Some(digest) = digest(flat, "more")? {
        return Ok(Op::More(digest.as_ref().into()));
    }
    let id = || flat.u64("id")?.map(TaskId).ok_or_else(|| format!("\"{op}\" needs an \"id\""));
    let count = || agents(flat, "n")?.ok_or_else(|| format!("\"{op}\" needs \"n\""));
    Ok(match op.as_ref() {
        "run" => submit(flat, names, true)?,
        "submit" => submit(flat, names, false)?,
        "cancel" => match flat.raw("run") {
            Some(tag) => Op::CancelRun(tag.into()),
            None => Op::Cancel(id()?),
        },
        "wait" => Op::Wait(id()?),
        "wait-all" => Op::WaitAll,
        "wait-room" => Op::WaitRoom,
        "task" => Op::Task(id()?),
        "result" => Op::Result(id()?),
        "tasks" => Op::Tasks { from: flat.u64("from")?.unwrap_or(0), limit: flat.u64("limit")?.unwrap_or(u64::MAX) },
        "status" => Op::Status,
        "contexts" => Op::Contexts(flat.strings("names")?),
        "pool-start" => Op::PoolStart(Box::new(pool_start(flat)?)),
        "scale" => Op::Scale(count()?),
        "restart" => Op::Restart { agent: agent(flat)?, rolling: flat.bool("rolling")?.unwrap_or(false) },
        "stop" => Op::Stop(stop_mode(flat)?),
        "checkpoint" => steering::checkpoint(flat)?,
        "inject" => steering::inject(flat)?,
        "pause-at-checkpoint" => steering::pause(flat)?,
        "resume" => steering::resume(flat)?,
        other => {
            return Err(format!("unknown \"op\" \"{}\": {OPS}", other.escape_debug()));
        }
    })
}

/// A number of agents.
fn agents(flat: &Flat, name: &str) -> Result<Option<u32>, String> {
    match flat.u64(name)? {
        Some(n) if n > u64::from(limits::AGENTS_MAX) => {
            Err(format!("\"{name}\" may be at most {}", limits::AGENTS_MAX))
        }
        other => Ok(other.map(|n| n as u32)),
    }
}

fn pool_start(flat: &Flat) -> Result<PoolStart, String> {
    let (count, otherwise) = (agents(flat, "n")?, agents(flat, "otherwise")?);
    let Some(otherwise) = otherwise.or(count) else { return Err("\"pool-start\" needs \"n\"".into()) };
    let as_before = flat.bool("as_before")?.unwrap_or(false);
    Ok(PoolStart { spec: Arc::new(spec(flat)?), count, otherwise, as_before, to: None })
}

fn submit(flat: &Flat, names: &mut Names, waits: bool) -> Result<Op, String> {
    let Some(text) = flat.str("text")? else {
        return Err("\"text\" is missing".into());
    };
    let text = whole(&text)?;
    if flat.names().all(|name| matches!(name, "op" | "text" | "reply" | "tag")) {
        return Ok(Op::Submit { text, options: None, waits, agent: None });
    }
    let options = Options {
        name: named(flat, "name")?,
        target: labels(flat)?,
        priority: flat.i64("priority")?.unwrap_or(0).clamp(-1_000_000, 1_000_000) as i32,
        timeout_us: seconds(flat, "timeout")?,
        retries: match flat.u64("retries")? {
            Some(n) if n > u64::from(limits::RETRIES_MAX) => {
                return Err(format!("\"retries\" may be at most {}", limits::RETRIES_MAX));
            }
            other => other.map(|n| n as u32),
        },
        surroundings: digest(flat, "surroundings")?.map(|digest| names.share(&digest)),
        contexts: contexts(flat)?,
    };
    let plain = options == Options::default();
    Ok(Op::Submit { text, options: (!plain).then(|| Box::new(options)), waits, agent: agent(flat)? })
}

/// `"context":{NAME:DIGEST}`; what a client knows of their differences is in `"diffs":["NEW BASE DIFF BYTES", ...]`.
fn contexts(flat: &Flat) -> Result<Arc<[Given]>, String> {
    let Some(object) = flat.raw("context").filter(|raw| *raw != "null") else { return Ok(Arc::default()) };
    let object = Flat::parse(object).map_err(|_| "\"context\" must be an object of names and digests".to_owned())?;
    let diffs = flat.strings("diffs")?;
    let diffs = diffs.iter().map(|text| difference(text)).collect::<Result<Vec<_>, _>>()?;
    let given = |name: &str| {
        check_name("a context's name", name)?;
        let new = digest(&object, name)?.ok_or_else(|| format!("context \"{name}\" needs a SHA-256 digest"))?;
        let diffs = diffs.iter().filter(|(to, _)| *to == new).map(|(_, diff)| diff.clone()).collect();
        Ok(Given { name: name.into(), digest: new.as_ref().into(), bytes: 0, diffs })
    };
    let contexts = object.names().map(given).collect::<Result<Arc<[Given]>, String>>()?;
    match contexts.len() {
        0..=limits::CONTEXTS_MAX => Ok(contexts),
        _ => Err(format!("\"context\" may name at most {}", limits::CONTEXTS_MAX)),
    }
}

fn difference(text: &str) -> Result<(&str, Difference), String> {
    let words: Vec<&str> = text.split(' ').collect();
    match (&words[..], words.last().and_then(|bytes| bytes.parse().ok())) {
        ([new, base, diff, _], Some(bytes)) if [new, base, diff].iter().all(|d| super::is_digest(d)) => {
            Ok((new, Difference { base: (*base).into(), digest: (*diff).into(), bytes }))
        }
        _ => Err("each of \"diffs\" must be three SHA-256 digests (new, base, difference) and a length".into()),
    }
}

/// A text may have many lines; its length is bounded by that of the request's own line.
pub(super) fn whole(text: &str) -> Result<Arc<str>, String> {
    if text.contains('\0') {
        return Err("the text holds a NUL byte: put it into the context store and send its REF".into());
    }
    Ok(text.into())
}

/// An agent, by number or name.
pub(super) fn agent(flat: &Flat) -> Result<Option<Arc<str>>, String> {
    match (flat.str("agent"), flat.u64("agent")) {
        (_, Ok(Some(number))) => Ok(Some(number.to_string().into())),
        (Ok(name), _) => Ok(name.map(|n| n.as_ref().into())),
        (Err(_), _) => Err("\"agent\" must be a number or a name".into()),
    }
}

fn labels(flat: &Flat) -> Result<Target, String> {
    let mut labels = flat.strings("labels")?;
    if labels.is_empty() {
        return Ok(Target::Any);
    }
    for label in &labels {
        check_name("a label", label)?;
    }
    labels.sort();
    labels.dedup();
    Ok(Target::Labels(labels))
}

fn spec(flat: &Flat) -> Result<Spec, String> {
    let kind = flat.str("kind")?.unwrap_or("shell".into());
    let kind = Kind::parse(&kind).ok_or_else(|| {
        let known = Kind::ALL.map(Kind::name).join(", ");
        format!("unknown kind \"{}\": {known}", kind.escape_debug())
    })?;
    let command = flat.strings("command")?;
    match kind {
        Kind::Shell if !command.is_empty() => {
            return Err("a shell agent runs the tasks' own commands and takes none".into());
        }
        Kind::Lines | Kind::Oneshot if command.is_empty() => {
            return Err(format!("a {} agent needs a command", kind.name()));
        }
        _ => {}
    }
    let labels = flat.strings("labels")?;
    for label in &labels {
        check_name("a label", label)?;
    }
    let prefetch = flat.u64("prefetch")?.unwrap_or(1);
    if !(1..=u64::from(limits::PREFETCH_MAX)).contains(&prefetch) {
        return Err(format!("\"prefetch\" must be 1 to {}", limits::PREFETCH_MAX));
    }
    let micros = |d: std::time::Duration| d.as_micros() as i64;
    Ok(Spec {
        kind,
        command,
        labels,
        name: named(flat, "name")?,
        surroundings: digest(flat, "surroundings")?.map(|digest| digest.as_ref().into()),
        prefetch: prefetch as u32,
        max_queued: flat.u64("max_queued")?.unwrap_or(limits::QUEUED_MAX),
        stop_grace_us: seconds(flat, "stop_grace")?.unwrap_or(micros(limits::STOP_GRACE)),
        start_patience_us: seconds(flat, "start_patience")?.unwrap_or(micros(limits::START_PATIENCE)),
        orphan_grace_us: seconds(flat, "orphan_grace")?.unwrap_or(micros(limits::ORPHAN_GRACE)),
        limits: super::limits::read(flat)?,
    })
}

fn stop_mode(flat: &Flat) -> Result<StopMode, String> {
    let Some(mode) = flat.str("mode")? else {
        return Ok(StopMode::Clean);
    };
    StopMode::parse(&mode).ok_or_else(|| "\"mode\" must be clean, drain or now".into())
}

fn named(flat: &Flat, field: &str) -> Result<Option<Arc<str>>, String> {
    let Some(name) = flat.str(field)? else {
        return Ok(None);
    };
    check_name(&format!("\"{field}\""), &name)?;
    Ok(Some(name.as_ref().into()))
}

fn digest<'a>(flat: &Flat<'a>, field: &str) -> Result<Option<Cow<'a, str>>, String> {
    match flat.str(field)? {
        Some(text) if !super::is_digest(&text) => Err(format!("\"{field}\" must be a SHA-256 digest")),
        other => Ok(other),
    }
}

/// A duration in seconds, fractions allowed, as microseconds.
pub(super) fn seconds(flat: &Flat, field: &str) -> Result<Option<i64>, String> {
    match flat.f64(field)? {
        Some(s) if !(s.is_finite() && s > 0.0 && s < 1e10) => {
            Err(format!("\"{field}\" must be a number of seconds above 0"))
        }
        other => Ok(other.map(|s| (s * 1e6).ceil() as i64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, Malformed> {
        super::parse(line, &mut Names::default())
    }

    fn refused(line: &str) -> String {
        parse(line).unwrap_err().message
    }

    #[test]
    fn the_short_form() {
        let Op::Submit { text, waits, .. } = parse("submit build  the docs").unwrap().op else { panic!() };
        assert_eq!((text.as_ref(), waits), ("build  the docs", false));
        assert_eq!(parse("cancel 17").unwrap().op, Op::Cancel(TaskId(17)));
        assert!(refused("frobnicate 2").contains("frobnicate"));
        assert!(refused("cancel x").contains("number"));
        assert!(refused("").contains("unknown verb"));
    }

    #[test]
    fn a_bad_field_is_named_and_the_asker_is_known() {
        let bad = parse(r#"{"op":"run","reply":"me","tag":[1],"text":"x","timeout":-1}"#).unwrap_err();
        assert_eq!(&*bad.to.unwrap().tag, "[1]");
        assert!(bad.message.contains("timeout"));
        for (line, word) in [
            (r#"{"op":"run"}"#, "text"),
            (r#"{"op":"zap"}"#, "zap"),
            (r#"{"text":"x"}"#, "op"),
            (r#"{"op":"run","text":"x","reply":"../x"}"#, "reply"),
            (r#"{"op":"run","text":"x","labels":"rust"}"#, "labels"),
            (r#"{"op":"run","text":5}"#, "text"),
            (r#"{"op":"scale"}"#, "n"),
            (r#"{"op":"scale","n":99999}"#, "at most"),
            (r#"{"op":"pool-start","n":1,"kind":"lines"}"#, "command"),
            (r#"{"op":"run","text":"x"#, "JSON"),
        ] {
            assert!(refused(line).contains(word), "{line}: {}", refused(line));
        }
    }

    #[test]
    fn options_are_absent_where_nothing_was_said() {
        let Op::Submit { options, agent, .. } = parse(r#"{"op":"submit","text":"x"}"#).unwrap().op else { panic!() };
        assert_eq!((options, agent), (None, None));
        let line = r#"{"op":"submit","text":"x","agent":2,"timeout":1.5,"labels":["b","a"]}"#;
        let Op::Submit { options, agent, .. } = parse(line).unwrap().op else { panic!() };
        let options = options.unwrap();
        assert_eq!(agent.as_deref(), Some("2"));
        assert_eq!(options.timeout_us, Some(1_500_000));
        assert_eq!(options.target, Target::Labels(vec!["a".into(), "b".into()]));
    }
}
