//! `events replay`: the hive as it was after some record: what `pool status` and `tasks` would have shown then.

use clap::{Arg, Command, value_parser};
use serde_json::Value;

use super::super::{Call, exit, outcome, status, task};
use crate::error::{Code, Error, Result};
use crate::json::Object;
use crate::model::Seq;
use crate::record::snapshot::Point;
use crate::store::{Context, log, segment};
use crate::time;
use crate::wire::answer;

pub fn command() -> Command {
    Command::new("replay").about("Show the hive as it was: its agents and tasks at some record of the log").arg(
        Arg::new("at")
            .long("at")
            .value_name("SEQ")
            .value_parser(value_parser!(u64).range(1..))
            .help("After this record [default: the last]"),
    )
}

pub fn run(call: &mut Call) -> Result<i32> {
    let folder = super::folder(call)?;
    let at = call.args.get_one::<u64>("at").map(|at| Seq(*at));
    let until = at.unwrap_or(Seq(u64::MAX));
    let oldest = super::segments(&folder)?.first().map_or(Seq(0), |path| segment::seq_of_name(path));
    let point = log::replay(&folder, until, until, 0, Point::step)?.point;
    if point.seq == Seq(0) && until < oldest {
        let message = format!("record {until} is no longer kept: the log begins with record {oldest}");
        return Err(Error::new(Code::Forgotten, message));
    }
    // A repair stands for records that cannot be told apart any more.
    if at.is_some_and(|at| at > point.seq) || point.seq == Seq(0) {
        let message = format!("there is no record {until} to stop at: the last before it is {}", point.seq);
        return Err(Error::new(Code::NoSuchRecord, message));
    }
    show(call, &point)?;
    Ok(exit::DONE)
}

fn show(call: &mut Call, point: &Point) -> Result<()> {
    let (status, tasks) = (status_of(call, point), tasks_of(point));
    let at = time::text(point.wall);
    if call.json {
        let mut text = Vec::new();
        let mut o = Object::open(&mut text);
        o.num("seq", point.seq.0).str("time", &at).num("term", point.term.0).raw("status", &status);
        o.raw("tasks", &format!("[{}]", tasks.join(",\n")));
        o.close();
        return call.out.line(&String::from_utf8_lossy(&text));
    }
    let status: Value = serde_json::from_str(&status).map_err(|e| Error::new(Code::Internal, e.to_string()))?;
    call.out.line(&format!("after record {}, at {at}:", point.seq))?;
    status::show(call, &status, point.wall)?;
    if !tasks.is_empty() {
        call.out.line("")?;
        let table = task::table(&tasks, &Context::at(&call.folders.context), point.wall);
        call.out.table(&table)?;
    }
    Ok(())
}

/// As the supervisor would have answered.
fn status_of(call: &Call, point: &Point) -> String {
    let facts = answer::Facts {
        hive: &call.folders.hive,
        pid: point.leader.map_or(0, |leader| leader.pid),
        term: point.term.0,
        since: point.leader.map_or(point.wall, |leader| leader.since),
        machine: None,
    };
    let mut text = Vec::new();
    answer::status(&mut text, "0", &point.state, &facts);
    outcome::without_tag(String::from_utf8_lossy(&text).trim_end())
}

fn tasks_of(point: &Point) -> Vec<String> {
    let tasks = &point.state.tasks;
    let row = |id| {
        let mut text = Vec::new();
        answer::task(&mut text, &tasks[id]);
        String::from_utf8_lossy(&text).into_owned()
    };
    tasks.ids_from(0).into_iter().map(row).collect()
}
