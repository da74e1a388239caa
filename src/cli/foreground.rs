//! Commands that a verb runs while it holds something for them: a lock, an office, an item. They end with the verb, and
//! the verb exits as they did.

use std::ffi::OsString;
use std::io;
use std::process::Command;

use super::Call;
use crate::error::{Code, Error, Result};
use crate::sys::child::{Child, Seen};
use crate::sys::notify::Watcher;
use crate::sys::process::Ending;

/// The command line after `--`.
pub fn typed(call: &Call) -> Option<Command> {
    let mut words = call.args.get_many::<OsString>("command")?;
    let mut command = Command::new(words.next()?);
    command.args(words);
    Some(command)
}

/// Runs a command to its end: its exit code, as shells say it.
pub fn run(command: &mut Command) -> Result<i32> {
    let child = match start(command)? {
        Ok(child) => child,
        Err(code) => return Ok(code),
    };
    loop {
        if let Seen::Ended(ending) = child.wait(None::<&Watcher>, -1).map_err(cannot_wait)? {
            return Ok(code(ending));
        }
    }
}

/// Starts a command; where it cannot be, says so and gives the code that a shell would exit with.
pub fn start(command: &mut Command) -> Result<std::result::Result<Child, i32>> {
    match Child::start(command) {
        Ok(child) => Ok(Ok(child)),
        Err(e) => {
            let code = if e.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            let program = command.get_program().to_string_lossy().into_owned();
            eprintln!("hivectl: {}", Error::os(format!("cannot start {program}"), e));
            Ok(Err(code))
        }
    }
}

pub fn code(ending: Ending) -> i32 {
    match ending {
        Ending::Exit(code) => code,
        Ending::Signal(signal) => 128 + signal,
    }
}

pub fn cannot_wait(e: io::Error) -> Error {
    Error::new(Code::Internal, Error::os("cannot wait for the command", e).message)
}
