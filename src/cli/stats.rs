//! `stats`: the figures of a hive as its board has them, for people, for scripts, and for Prometheus. It asks nobody.

use std::fmt::{Display, Write};

use clap::{Arg, ArgAction, Command};

use super::output::size;
use super::{Call, exit};
use crate::client;
use crate::error::{Code, Result};
use crate::json::Object;
use crate::store::Board;
use crate::store::board::{AgentRow, HiveRow, Sharing, Tokens};
use crate::sys::clock;
use crate::time;

pub fn command(command: Command) -> Command {
    command.about("Figures of the hive and its agents, read from the board without asking the supervisor").arg(
        Arg::new("prometheus")
            .long("prometheus")
            .action(ArgAction::SetTrue)
            .conflicts_with("json")
            .help("In the text format of Prometheus"),
    )
}

pub fn run(call: &mut Call) -> Result<i32> {
    let mut board = Board::open(&call.folders).map_err(|e| match e.code {
        Code::NoHive => client::nobody_leads(&call.folders),
        _ => e,
    })?;
    let (hive, agents) = (board.hive()?, board.agents()?);
    let led = client::leader(&call.folders).is_some();
    let name = call.folders.hive.clone();
    if call.flag("prometheus") {
        call.out.bytes(prometheus(&name, led, &hive, &agents).as_bytes())?;
        return Ok(exit::DONE);
    }
    if call.json {
        return json(call, led, &hive, &agents);
    }
    for line in heading(&name, led, &hive) {
        call.out.line(&line)?;
    }
    let columns = ["AGENT", "STATE", "TASK", "PROGRESS", "SINCE", "HEARD", "TOKENS", "PID", "WORKLOAD", "RESTARTS"];
    let mut rows = vec![columns.map(str::to_owned).to_vec()];
    rows.extend(agents.iter().map(row));
    call.out.table(&rows)?;
    Ok(exit::DONE)
}

fn heading(name: &str, led: bool, hive: &HiveRow) -> Vec<String> {
    let led = if led { "" } else { ", which is dead: this is how it was" };
    let mut lines = vec![
        format!(
            "hive {name} ({}): supervisor {}, term {}, since {}{led}",
            hive.state.as_str(),
            hive.pid,
            hive.term,
            ago(hive.since)
        ),
        format!(
            "tasks: {} queued, {} running, {} done, {} failed, {} cancelled",
            hive.queued, hive.running, hive.done, hive.failed, hive.cancelled
        ),
    ];
    if hive.tokens != Tokens::default() {
        let Tokens { input, output, cache, .. } = hive.tokens;
        lines.push(format!("tokens: {input} in, {output} out, {cache} from cache; {} USD", usd(hive.tokens)));
    }
    if hive.shared != Sharing::default() {
        let Sharing { asked, sent } = hive.shared;
        let saved = super::context::percent_saved(hive.shared);
        lines.push(format!("context: {} asked for, {} sent: {saved:.1} % saved", size(asked), size(sent)));
    }
    lines
}

fn row(agent: &AgentRow) -> Vec<String> {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    vec![
        agent.id.to_string(),
        agent.state.as_str().to_owned(),
        or_dash(agent.task.map(|task| task.to_string())),
        or_dash(agent.progress.map(|percent| format!("{percent} %"))),
        ago(agent.since),
        or_dash(Some(agent.heard).filter(|at| *at != 0).map(ago)),
        (agent.tokens.input + agent.tokens.output).to_string(),
        or_dash(agent.pid.map(|pid| pid.to_string())),
        or_dash(agent.workload.map(|pid| pid.to_string())),
        agent.restarts.to_string(),
    ]
}

fn ago(at: i64) -> String {
    time::duration(clock::wall_micros() - at)
}

fn usd(tokens: Tokens) -> String {
    format!("{}.{:06}", tokens.usd_micros / 1_000_000, tokens.usd_micros % 1_000_000)
}

fn json(call: &mut Call, led: bool, hive: &HiveRow, agents: &[AgentRow]) -> Result<i32> {
    let mut text = Vec::new();
    let mut o = Object::open(&mut text);
    o.bool("ok", true).str("hive", &call.folders.hive).str("state", hive.state.as_str()).bool("led", led);
    let mut s = Object::open(o.key("supervisor"));
    s.num("pid", hive.pid).num("term", hive.term).str("since", &time::text(hive.since));
    s.close();
    let mut t = Object::open(o.key("tasks"));
    t.num("queued", hive.queued).num("running", hive.running).num("done", hive.done);
    t.num("failed", hive.failed).num("cancelled", hive.cancelled).num("last", hive.last_task);
    t.close();
    o.num("records", hive.records).num("malformed", hive.malformed).num("clients_cut", hive.clients_cut);
    used(&mut o, hive.tokens);
    shared(&mut o, hive.shared);
    o.str("updated", &time::text(hive.updated));
    let list = o.key("agents");
    list.push(b'[');
    for (n, agent) in agents.iter().enumerate() {
        if n > 0 {
            list.push(b',');
        }
        agent_json(list, agent);
    }
    list.push(b']');
    o.close();
    call.out.bytes(&text)?;
    call.out.bytes(b"\n")?;
    Ok(exit::DONE)
}

fn agent_json(out: &mut Vec<u8>, agent: &AgentRow) {
    let mut o = Object::open(out);
    o.num("id", agent.id).str("state", agent.state.as_str());
    let numbers = [
        ("task", agent.task),
        ("percent", agent.progress.map(u64::from)),
        ("pid", agent.pid.map(|pid| pid as u64)),
        ("workload", agent.workload.map(|pid| pid as u64)),
    ];
    for (name, value) in numbers.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        o.num(name, value);
    }
    o.num("held", agent.held).str("since", &time::text(agent.since));
    if agent.heard != 0 {
        o.str("heard", &time::text(agent.heard));
    }
    o.num("restarts", agent.restarts);
    used(&mut o, agent.tokens);
    shared(&mut o, agent.shared);
    o.close();
}

fn used(o: &mut Object, tokens: Tokens) {
    let mut t = Object::open(o.key("tokens"));
    t.num("in", tokens.input).num("out", tokens.output).num("cache", tokens.cache).raw("usd", &usd(tokens));
    t.close();
}

/// What `context stats` shows, too.
pub fn shared(o: &mut Object, shared: Sharing) {
    let mut s = Object::open(o.key("context"));
    s.num("asked", shared.asked).num("sent", shared.sent);
    s.close();
}

// ---- for Prometheus ----

/// Metrics as they are written down: a family with its help once, then its samples.
struct Page<'a> {
    text: String,
    hive: &'a str,
}

impl Page<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP hive_{name} {help}\n# TYPE hive_{name} {kind}\n");
    }

    /// Names and values of labels need no escapes: a hive's name has none, and the others are of this program.
    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        let _ = write!(self.text, "hive_{name}{{hive=\"{}\"", self.hive);
        for (label, text) in labels {
            let _ = write!(self.text, ",{label}=\"{text}\"");
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

fn prometheus(name: &str, led: bool, hive: &HiveRow, agents: &[AgentRow]) -> String {
    let mut page = Page { text: String::new(), hive: name };
    page.one("up", "gauge", "Whether a supervisor leads the hive.", u8::from(led));
    page.one("supervisor_start_time_seconds", "gauge", "When the supervisor began to lead.", seconds(hive.since));
    page.one("updated_timestamp_seconds", "gauge", "When the board was last written.", seconds(hive.updated));
    page.one("term", "gauge", "Leaderships so far.", hive.term);
    page.one("records_total", "counter", "Records in the event log.", hive.records);
    page.one("submitted_total", "counter", "Tasks accepted.", hive.last_task);
    page.family("tasks", "gauge", "Tasks that have not ended.");
    page.sample("tasks", &[("state", &"queued")], hive.queued);
    page.sample("tasks", &[("state", &"running")], hive.running);
    page.family("ended_total", "counter", "Tasks that have ended.");
    for (state, count) in [("done", hive.done), ("failed", hive.failed), ("cancelled", hive.cancelled)] {
        page.sample("ended_total", &[("state", &state)], count);
    }
    page.one("malformed_total", "counter", "Lines refused since the supervisor began.", hive.malformed);
    page.one("clients_cut_total", "counter", "Clients dropped since the supervisor began.", hive.clients_cut);
    page.family("context_bytes_total", "counter", "Bytes of context that tasks asked for, and that were sent.");
    page.sample("context_bytes_total", &[("what", &"asked")], hive.shared.asked);
    page.sample("context_bytes_total", &[("what", &"sent")], hive.shared.sent);
    page.one("used_usd_total", "counter", "What agents reported to have cost.", usd(hive.tokens));
    page.family("used_tokens_total", "counter", "Tokens that agents reported.");
    for (kind, count) in kinds(hive.tokens) {
        page.sample("used_tokens_total", &[("kind", &kind)], count);
    }
    agents_for_prometheus(&mut page, agents);
    page.text
}

fn agents_for_prometheus(page: &mut Page, agents: &[AgentRow]) {
    let mut each = |name: &str, kind: &str, help: &str, value: &dyn Fn(&AgentRow) -> Option<String>| {
        page.family(name, kind, help);
        for agent in agents {
            if let Some(value) = value(agent) {
                page.sample(name, &[("agent", &agent.id)], value);
            }
        }
    };
    each("agent_task", "gauge", "The task that the agent runs.", &|a| a.task.map(|task| task.to_string()));
    each("agent_held", "gauge", "Tasks that the agent holds.", &|a| Some(a.held.to_string()));
    each("agent_progress_percent", "gauge", "How far its task is.", &|a| a.progress.map(|p| p.to_string()));
    each("agent_since_timestamp_seconds", "gauge", "Since when it does what it does.", &|a| Some(seconds(a.since)));
    each("agent_heard_timestamp_seconds", "gauge", "When it was last heard.", &|a| {
        (a.heard != 0).then(|| seconds(a.heard))
    });
    each("agent_restarts_total", "counter", "How often it was started again.", &|a| Some(a.restarts.to_string()));
    page.family("agent_state", "gauge", "1 for the state that the agent is in.");
    for agent in agents {
        page.sample("agent_state", &[("agent", &agent.id), ("state", &agent.state.as_str())], 1);
    }
    page.family("agent_tokens_total", "counter", "Tokens that the agent reported.");
    for agent in agents {
        for (kind, count) in kinds(agent.tokens) {
            page.sample("agent_tokens_total", &[("agent", &agent.id), ("kind", &kind)], count);
        }
    }
}

fn kinds(tokens: Tokens) -> [(&'static str, u64); 3] {
    [("in", tokens.input), ("out", tokens.output), ("cache", tokens.cache)]
}

fn seconds(micros: i64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}
