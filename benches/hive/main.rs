//! The figures of hive beside the limit of the kernel: `scripts/bench [--quick] [--json] [--list] [GROUP...]`.
//!
//! Each group compares what hive does with the same work done by as many processes over as many hops that do nothing
//! else (`floor/`), interleaved in one run. It only measures: the exit status is 0 unless a figure could not be taken.

mod client;
mod error;
mod fifo;
mod floor;
mod groups;
mod lines;
mod live;
mod machine;
mod os;
mod process;
mod report;
mod roles;
mod runner;
mod stats;

use std::process::ExitCode;

use crate::runner::{Config, Group, measure};

const USAGE: &str = "\
usage: scripts/bench [--quick] [--json] [--list] [--rounds N] [--floors] [--match TEXT] [GROUP...]
  --quick       fewer samples, 3 rounds instead of 5
  --json        one line of JSON for each figure
  --list        the groups and what they compare
  --rounds N    rounds of each pair, at least 3 for a figure that counts
  --floors      the floors alone, without hive
  --match TEXT  only figures whose name contains TEXT
HIVECTL=PATH measures another binary than the one built here.";

/// What was typed.
struct Options {
    config: Config,
    json: bool,
    list: bool,
    /// Part of the names of the figures wanted; empty for all.
    wanted: String,
    groups: Vec<Group>,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if roles::play(&arguments) {
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = arguments[1..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
    // cargo passes `--bench` when it is asked to measure; `cargo test --benches` only asks whether this starts.
    if !words.iter().any(|word| word == "--bench") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match parse(&words) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if options.list {
        for group in &options.groups {
            println!("{:<11} {}", group.name, group.about);
        }
        return ExitCode::SUCCESS;
    }
    if let Err(cause) = os::catch_signals() {
        eprintln!("bench: catching signals: {cause}");
        return ExitCode::FAILURE;
    }
    if run(&options) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// True if every figure could be taken.
fn run(options: &Options) -> bool {
    let config = &options.config;
    let mode = if config.quick { "quick" } else { "full" };
    let machine = format!("{}, load {}, {mode}, {} rounds", machine::describe(), machine::load(), config.rounds);
    if options.json {
        eprintln!("{machine}")
    } else {
        println!("{machine}")
    }
    let mut complete = true;
    for group in &options.groups {
        if !options.json {
            println!("{}", report::table_head(group.name, group.about));
        }
        for pair in (group.pairs)(config).into_iter().filter(|pair| pair.name.contains(&options.wanted)) {
            let name = pair.name.clone();
            match measure(pair, config) {
                Ok(measured) if options.json => {
                    println!("{}", report::json_line(group.name, &measured))
                }
                Ok(measured) => println!("{}", report::table_row(&measured)),
                Err(cause) => {
                    complete = false;
                    eprintln!("bench: {}: {name}: {cause}", group.name);
                }
            }
            if os::stopped() {
                return false;
            }
        }
    }
    complete
}

fn parse(words: &[String]) -> Result<Options, String> {
    let (mut quick, mut json, mut list, mut floors_only) = (false, false, false, false);
    let (mut rounds, mut wanted, mut names) = (None, String::new(), Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bench" => {}
            "--quick" => quick = true,
            "--json" => json = true,
            "--list" => list = true,
            "--floors" => floors_only = true,
            "--rounds" => {
                let count = words.next().and_then(|count| count.parse().ok()).filter(|&count| count > 0);
                rounds = Some(count.ok_or("--rounds needs a number above 0")?);
            }
            "--match" => wanted = words.next().ok_or("--match needs a text")?.clone(),
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            name => names.push(name),
        }
    }
    for name in &names {
        if !groups::ALL.iter().any(|group| group.name == *name) {
            return Err(format!("no group is called {name}; --list shows them"));
        }
    }
    let chosen = groups::ALL.into_iter().filter(|group| names.is_empty() || names.contains(&group.name));
    let rounds = rounds.unwrap_or(if quick { 3 } else { 5 });
    Ok(Options { config: Config { quick, rounds, floors_only }, json, list, wanted, groups: chosen.collect() })
}
