//! Owns what this binary does when it is started as somebody else: an agent of a pool, an agent of a floor, a client of
//! a floor. One binary, so that both sides of a comparison start the same number of bytes.

use std::ffi::OsString;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{getpid, read, unlink, write};

use crate::error::Result;
use crate::fifo::{self, BATCH_MAX, RECORD};
use crate::lines;

/// Resident agent that speaks hive's lines and answers every task with its own text.
pub const AGENT: &str = "--agent";
/// Opens two FIFOs, says ready, and answers records.
pub const FLOOR_AGENT: &str = "--floor-agent";
/// Asks a floor's supervisor once and exits: the least a command can do.
pub const FLOOR_CLIENT: &str = "--floor-client";

/// Plays a hidden role if the first argument names one. Done before anything else in `main`.
pub fn play(arguments: &[OsString]) -> bool {
    let argument = |index: usize| Path::new(arguments.get(index).map_or("".as_ref(), |text| text.as_os_str()));
    let outcome = match arguments.get(1).and_then(|role| role.to_str()) {
        Some(AGENT) => lines_agent(),
        Some(FLOOR_AGENT) => floor_agent(argument(2), argument(3)),
        Some(FLOOR_CLIENT) => floor_client(argument(2)),
        _ => return false,
    };
    if let Err(cause) = outcome {
        eprintln!("{}: {cause}", arguments[1].to_string_lossy());
        std::process::exit(1);
    }
    true
}

fn lines_agent() -> Result<()> {
    let (input, output) = (std::io::stdin(), std::io::stdout());
    fifo::put(&output, b"READY\n")?;
    let mut answers = Vec::with_capacity(2 * BATCH_MAX);
    let mut buffer = vec![0; fifo::PIPE_SIZE + BATCH_MAX];
    let mut kept = 0;
    while let Ok(count @ 1..) = read(&input, &mut buffer[kept..]) {
        let end = kept + count;
        let mut unread = &buffer[..end];
        while let Some(line) = lines::next(&mut unread) {
            answer_line(line, &mut answers, |batch| fifo::put(&output, batch))?;
        }
        if !answers.is_empty() {
            fifo::put(&output, &answers)?;
            answers.clear();
        }
        kept = unread.len();
        buffer.copy_within(end - kept..end, 0);
    }
    Ok(())
}

/// `TASK <id> <text>` becomes `DONE <id> <text>`; what would not fit one whole write goes out first.
fn answer_line(line: &[u8], answers: &mut Vec<u8>, mut flush: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let (verb, rest) = line.split_at(line.len().min(5));
    match verb {
        b"TASK " => {
            if answers.len() + line.len() > BATCH_MAX {
                flush(answers)?;
                answers.clear();
            }
            answers.extend_from_slice(b"DONE ");
            answers.extend_from_slice(rest);
        }
        b"STOP\n" => std::process::exit(0),
        b"PING " => {
            answers.extend_from_slice(b"PONG ");
            answers.extend_from_slice(rest);
        }
        _ => {}
    }
    Ok(())
}

fn floor_agent(tasks: &Path, answers: &Path) -> Result<()> {
    let (tasks, answers) = (fifo::open_both(tasks)?, fifo::open_both(answers)?);
    fifo::put(&answers, b"r")?;
    let mut record = [0; RECORD];
    while let Ok(count @ 1..) = read(&tasks, &mut record) {
        fifo::put(&answers, &record[..count])?;
    }
    Ok(())
}

/// Makes its reply FIFO, writes one line of work that names it, waits for the answer, removes the FIFO.
fn floor_client(supervisor: &Path) -> Result<()> {
    let mut reply = supervisor.as_os_str().to_owned();
    reply.push(format!("-{}", getpid()));
    let reply = Path::new(&reply);
    fifo::make(reply)?;
    let requests = fifo::open_as(supervisor, OFlag::O_WRONLY)?;
    let mut record = [0; 2 * RECORD];
    let name = reply.as_os_str().as_encoded_bytes();
    record[..name.len()].copy_from_slice(name);
    let asked = write(&requests, &record).is_ok();
    // Blocks until the supervisor opens the other end.
    let answers = fifo::open_as(reply, OFlag::O_RDONLY)?;
    let answered = matches!(read(&answers, &mut record), Ok(1..));
    let _ = unlink(reply);
    std::process::exit(if asked && answered { 0 } else { 1 });
}
