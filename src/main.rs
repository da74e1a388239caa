//! hivectl: one binary, three lives. `host` and `supervise` are started by hivectl itself; everything else is a verb.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let code = match args.nth(1).as_deref().and_then(|a| a.to_str()) {
        Some("host") => hive::host::main(),
        Some("supervise") => hive::cli::supervise(args.collect()),
        _ => hive::cli::main(),
    };
    ExitCode::from(code as u8)
}
