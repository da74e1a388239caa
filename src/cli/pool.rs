//! `pool`: start, stop and change the pool.

use clap::{Arg, ArgAction, Command, value_parser};

use super::{Call, exit, launch, start, status};
use crate::client::Answer;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::sys::process::{Pid, Process};

pub fn command(command: Command) -> Command {
    command
        .about("Start, stop and change the pool of agents")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(start::command())
        .subcommand(
            Command::new("stop")
                .about("Stop the hive: running tasks are ended (TERM, grace, KILL) and run again after the next start")
                .arg(Arg::new("drain").long("drain").action(ArgAction::SetTrue).help("Finish every task first"))
                .arg(
                    Arg::new("now").long("now").action(ArgAction::SetTrue).conflicts_with("drain").help("KILL at once"),
                ),
        )
        .subcommand(
            Command::new("takeover")
                .about("End the supervisor, even a suspended one, and have another lead: a standby, or a new one"),
        )
        .subcommand(Command::new("status").about("Show the agents, what they do, and how many tasks there are"))
        .subcommand(
            Command::new("scale")
                .about("Make the pool larger or smaller; an agent that leaves finishes its task first")
                .arg(
                    Arg::new("n")
                        .value_name("N")
                        .required(true)
                        .value_parser(value_parser!(u32).range(0..=i64::from(limits::AGENTS_MAX)))
                        .help("How many agents there are to be"),
                ),
        )
        .subcommand(
            Command::new("restart")
                .about("Start agents anew, each after its task; parked ones get another chance")
                .arg(Arg::new("agent").value_name("A").help("Only this agent (its number or name)"))
                .arg(Arg::new("rolling").long("rolling").action(ArgAction::SetTrue).help("One after the other")),
        )
}

pub fn run(call: &mut Call) -> Result<i32> {
    let Some((name, args)) = call.args.subcommand() else {
        return Ok(2);
    };
    let mut inner = Call { args, folders: call.folders.clone(), json: call.json, out: super::output::Output::new() };
    let code = match name {
        "start" => start::run(&mut inner),
        "stop" => stop(&mut inner),
        "status" => status::status(&mut inner),
        "takeover" => super::launch::takeover(&mut inner),
        "scale" => scale(&mut inner),
        _ => restart(&mut inner),
    }?;
    inner.out.finish()?;
    Ok(code)
}

fn stop(call: &mut Call) -> Result<i32> {
    let mode = match (call.flag("drain"), call.flag("now")) {
        (true, _) => "drain",
        (_, true) => "now",
        _ => "clean",
    };
    // Agents without a supervisor are a hive too: somebody has to lead it to its end.
    if crate::client::leader(&call.folders).is_none() && crate::client::abandoned(&call.folders).is_some() {
        launch::launch(&call.folders, &[])?;
    }
    let leader = crate::client::leader(&call.folders);
    let standbys = crate::client::standbys(&call.folders);
    let mut client = call.connect()?;
    // Held until it is gone: "stopped" is said when it has been seen.
    let supervisor = leader.and_then(|l| Process::open(Pid(l.pid)).ok());
    let answer = client.ask("stop", |o| {
        o.str("mode", mode);
    })?;
    drop(client);
    if let Some(supervisor) = supervisor {
        supervisor.wait_for_end(-1);
    }
    for standby in standbys {
        standby.wait_for_end(-1);
    }
    if call.folders.leader().exists() {
        let message = format!(
            "the hive has stopped, but {} could not be removed: see {}",
            call.folders.live.display(),
            call.folders.supervisor_log().display()
        );
        return Err(Error::new(Code::Internal, message));
    }
    if call.json {
        call.out.line(&super::outcome::without_tag(answer.text()))?;
    } else {
        call.out.line(&format!("hive {} has stopped; nothing of it is left running", call.folders.hive))?;
    }
    Ok(exit::DONE)
}

fn scale(call: &mut Call) -> Result<i32> {
    let n = call.args.get_one::<u32>("n").copied().unwrap_or(0);
    let answer = call.connect()?.ask("scale", |o| {
        o.num("n", n);
    })?;
    settled(call, &answer)
}

fn restart(call: &mut Call) -> Result<i32> {
    let (agent, rolling) = (call.text("agent").cloned(), call.flag("rolling"));
    let answer = call.connect()?.ask("restart", |o| {
        o.opt_str("agent", agent.as_deref()).bool("rolling", rolling);
    })?;
    settled(call, &answer)
}

/// Says who is ready, and of the others why not.
pub fn settled(call: &mut Call, answer: &Answer) -> Result<i32> {
    let (line, complaints) = settled_lines(&call.folders.hive, call.json, answer);
    call.out.line(&line)?;
    complaints.iter().for_each(|line| eprintln!("hivectl: {line}"));
    Ok(if complaints.is_empty() { exit::DONE } else { exit::FAILED })
}

/// What goes to stdout, and what to stderr.
pub fn settled_lines(hive: &str, json: bool, answer: &Answer) -> (String, Vec<String>) {
    let ready = answer.num("ready").unwrap_or(0);
    let line = match (json, ready) {
        (true, _) => super::outcome::without_tag(answer.text()),
        (false, 1) => format!("hive {hive}: 1 agent is ready"),
        (false, _) => format!("hive {hive}: {ready} agents are ready"),
    };
    let parked: Vec<serde_json::Value> =
        serde_json::from_str(answer.flat().raw("parked").unwrap_or("[]")).unwrap_or_default();
    let because = |agent: &serde_json::Value| agent["reason"].as_str().unwrap_or("for an unknown reason").to_owned();
    let mut complaints: Vec<String> =
        parked.iter().map(|agent| format!("agent {} is parked: {}", agent["id"], because(agent))).collect();
    if !complaints.is_empty() {
        complaints.push("mend the cause, then `hivectl pool restart`; or `hivectl pool stop`".to_owned());
    }
    (line, complaints)
}
