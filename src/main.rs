//! hivectl: one binary, three lives. `host` and `supervise` are started by hivectl itself; everything else is a verb.
#![no_main]

use std::ffi::OsString;

hive::begins_with!(life);

fn life(args: Vec<OsString>) -> i32 {
    match args.get(1).and_then(|a| a.to_str()) {
        Some("host") => hive::host::main(),
        Some("supervise") => hive::cli::supervise(&args[2..]),
        _ => hive::cli::main(&args),
    }
}
