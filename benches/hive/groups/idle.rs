//! Owns the idle group: what 100 warm agents cost while nothing happens. Its floor is nothing at all: a blocked process
//! is not switched to.
//!
//! Invariant: between the first and the last look nobody talks to the hive; the looks are at /proc only.

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Result, Trying, failure};
use crate::live::Hive;
use crate::os;
use crate::runner::{Config, Goal, Group, Pair};
use crate::stats::median;

pub const GROUP: Group =
    Group { name: "idle", about: "100 shell agents at rest: supervisor and hosts; goals are absolute", pairs };

/// For what a start leaves to be done (the first sync of the log).
const SETTLE: Duration = Duration::from_secs(1);

/// What one rest showed.
#[derive(Clone, Copy)]
struct Rest {
    switches: f64,
    cpu_us: f64,
    supervisor_kib: f64,
    host_kib: f64,
}

fn pairs(config: &Config) -> Vec<Pair> {
    let seconds = config.pick(10, 60);
    // One rest serves all figures.
    let seen: Rc<RefCell<Option<Rest>>> = Rc::default();
    let pair = |name: &str, unit, most, figure: fn(&Rest) -> f64| {
        let seen = Rc::clone(&seen);
        Pair::new(name, unit, Goal::Ceiling(most), move || {
            Ok(Box::new(move || {
                let rest = match *seen.borrow() {
                    Some(rest) => rest,
                    None => take_rest(seconds)?,
                };
                *seen.borrow_mut() = Some(rest);
                Ok(vec![figure(&rest)])
            }))
        })
        .once()
    };
    vec![
        pair(&format!("context switches in {seconds} s, all"), "count", 0.0, |rest| rest.switches),
        pair(&format!("CPU used in {seconds} s, all"), "us", 0.0, |rest| rest.cpu_us),
        pair("supervisor, resident", "KiB", 4096.0, |rest| rest.supervisor_kib),
        pair("host, private, median", "KiB", 512.0, |rest| rest.host_kib),
    ]
}

fn take_rest(seconds: u64) -> Result<Rest> {
    let hive = Hive::start(&["-n", "100"])?;
    let status = hive.status()?;
    let supervisor = pid(&status["supervisor"]["pid"])?;
    let agents = status["agents"].as_array().ok_or_else(|| failure("`pool status` lists no agents"))?;
    let hosts = agents.iter().map(|agent| pid(&agent["pid"])).collect::<Result<Vec<_>>>()?;
    let all: Vec<i64> = hosts.iter().copied().chain([supervisor]).collect();

    rest(SETTLE)?;
    let before = (sum(&all, switches)?, sum(&all, cpu_us)?);
    rest(Duration::from_secs(seconds))?;
    let after = (sum(&all, switches)?, sum(&all, cpu_us)?);

    let private = hosts.iter().map(|&host| private_kib(host)).collect::<Result<Vec<_>>>()?;
    Ok(Rest {
        switches: after.0 - before.0,
        cpu_us: after.1 - before.1,
        supervisor_kib: field_sum(&format!("/proc/{supervisor}/status"), &["VmRSS:"])?,
        host_kib: median(private).ok_or_else(|| failure("a pool without hosts"))?,
    })
}

fn rest(time: Duration) -> Result<()> {
    std::thread::sleep(time);
    if os::stopped() { Err(failure("stopped")) } else { Ok(()) }
}

fn pid(value: &Value) -> Result<i64> {
    value.as_i64().ok_or_else(|| failure(format!("`pool status` shows {value} for a pid")))
}

fn sum(pids: &[i64], figure: fn(&str) -> Result<f64>) -> Result<f64> {
    let mut total = 0.0;
    for pid in pids {
        let folder = format!("/proc/{pid}/task");
        for thread in fs::read_dir(&folder).trying(&folder)?.flatten() {
            total += figure(&thread.path().to_string_lossy())?;
        }
    }
    Ok(total)
}

fn switches(thread: &str) -> Result<f64> {
    field_sum(&format!("{thread}/status"), &["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"])
}

fn cpu_us(thread: &str) -> Result<f64> {
    let path = format!("{thread}/schedstat");
    let text = fs::read_to_string(&path).trying(&path)?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse().trying(&path)?;
    Ok(nanoseconds / 1000.0)
}

fn private_kib(pid: i64) -> Result<f64> {
    field_sum(&format!("/proc/{pid}/smaps_rollup"), &["Private_Clean:", "Private_Dirty:"])
}

/// Adds the numbers behind these names in a file of /proc.
fn field_sum(path: &str, names: &[&str]) -> Result<f64> {
    let text = fs::read_to_string(path).trying(path)?;
    let mut total = 0.0;
    for name in names {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse::<f64>().ok());
        total += number.ok_or_else(|| failure(format!("{path}: no {name}")))?;
    }
    Ok(total)
}
