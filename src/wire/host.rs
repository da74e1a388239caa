//! The lines between the supervisor and a host, beside the agent's own: commands and reports.

use std::sync::Arc;

use super::split_word;
use crate::json::{Flat, Object};
use crate::model::{AgentId, BarrierId, Generation, Limit, Loss, StopMode};

/// What a host is told on its `host` FIFO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ends what is left of the last workload, empties the agent's `in`, and starts the next.
    Start(Generation),
    /// Ends the running task's tree; for `lines`, the workload's.
    End(u64),
    /// Ends everything and goes.
    Stop(StopMode),
    /// Another supervisor leads now: this process.
    Leader(i32),
    /// `ctl` was made anew: that one is to be kept open.
    Ctl,
    /// The workload may not have been sent this task: when it waits for something to read and there is nothing, say so.
    Settle(u64),
    /// The workload has been written a line that it wants to be rung for.
    Ring,
}

impl Command {
    pub fn encode(&self) -> String {
        match self {
            Command::Start(generation) => format!("START {generation}\n"),
            Command::End(task) => format!("END {task}\n"),
            Command::Stop(mode) => format!("STOP {}\n", mode.name()),
            Command::Leader(pid) => format!("LEADER {pid}\n"),
            Command::Ctl => "CTL\n".to_owned(),
            Command::Settle(task) => format!("SETTLE {task}\n"),
            Command::Ring => "RING\n".to_owned(),
        }
    }

    pub fn parse(line: &str) -> Option<Command> {
        let (verb, rest) = split_word(line);
        match verb {
            "START" => rest.parse().ok().map(|g| Command::Start(Generation(g))),
            "END" => rest.parse().ok().map(Command::End),
            "STOP" => StopMode::parse(rest).map(Command::Stop),
            "LEADER" => rest.parse().ok().map(Command::Leader),
            "CTL" => Some(Command::Ctl),
            "RING" => Some(Command::Ring),
            "SETTLE" => rest.parse().ok().map(Command::Settle),
            _ => None,
        }
    }
}

/// What a host reports on the `hosts` FIFO, which all hosts share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub agent: AgentId,
    pub generation: Generation,
    pub news: News,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The workload was started; what it says on its own decides when it is ready.
    Started(i32),
    /// The host (shell) or its workload (oneshot) is ready.
    Ready(i32),
    /// The workload is gone, with everything below it.
    Down(Loss),
    /// The workload waits for something to read, and there is nothing: it was not sent this task.
    Waits(u64),
    /// How the task stands that the host runs, for this barrier.
    Seen(BarrierId, Arc<str>),
}

impl Report {
    pub fn encode(&self) -> Vec<u8> {
        let Report { agent, generation, news } = self;
        let mut out = format!("{agent} {generation} ").into_bytes();
        match news {
            News::Started(pid) => out.extend_from_slice(format!("STARTED {pid}").as_bytes()),
            News::Ready(pid) => out.extend_from_slice(format!("READY {pid}").as_bytes()),
            News::Waits(task) => out.extend_from_slice(format!("WAITS {task}").as_bytes()),
            News::Seen(barrier, note) => out.extend_from_slice(format!("SEEN {barrier} {note}").as_bytes()),
            News::Down(loss) => {
                out.extend_from_slice(b"DOWN ");
                let mut o = Object::open(&mut out);
                o.str("cause", &loss.cause).str("stderr", &loss.stderr).opt_str("limit", loss.limit.map(Limit::name));
                o.close();
            }
        }
        out.push(b'\n');
        out
    }

    pub fn parse(line: &str) -> Option<Report> {
        let (agent, rest) = split_word(line);
        let (generation, rest) = split_word(rest);
        let (verb, rest) = split_word(rest);
        let news = match verb {
            "STARTED" => News::Started(rest.parse().ok()?),
            "READY" => News::Ready(rest.parse().ok()?),
            "WAITS" => News::Waits(rest.parse().ok()?),
            "SEEN" => {
                let (barrier, note) = split_word(rest);
                News::Seen(BarrierId(barrier.parse().ok()?), note.into())
            }
            "DOWN" => {
                let flat = Flat::parse(rest).ok()?;
                let text = |name| Some(Arc::<str>::from(flat.str(name).ok()??.as_ref()));
                let limit = flat.str("limit").ok()?.and_then(|name| Limit::parse(&name));
                News::Down(Loss { host: false, cause: text("cause")?, stderr: text("stderr")?, limit })
            }
            _ => return None,
        };
        Some(Report { agent: AgentId(agent.parse().ok()?), generation: Generation(generation.parse().ok()?), news })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_and_commands_are_read_back() {
        for command in [
            Command::Start(Generation(3)),
            Command::End(17),
            Command::Stop(StopMode::Now),
            Command::Leader(5),
            Command::Ctl,
            Command::Settle(3),
            Command::Ring,
        ] {
            assert_eq!(Command::parse(command.encode().trim_end()), Some(command));
        }
        let loss = Loss { stderr: "a\n\"b\"".into(), limit: Some(Limit::Memory), ..Loss::because("exit 1") };
        for news in
            [News::Started(5), News::Ready(0), News::Waits(3), News::Seen(BarrierId(4), "a b".into()), News::Down(loss)]
        {
            let report = Report { agent: AgentId(2), generation: Generation(9), news };
            let line = report.encode();
            assert_eq!(Report::parse(std::str::from_utf8(&line).unwrap().trim_end()), Some(report));
        }
    }
}
