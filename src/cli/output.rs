//! Writing to stdout: buffered, with a closed reader told apart from a real failure; and tables and colours for people.

use std::io::{self, BufWriter, Stdout, Write};

use crate::error::{Code, Error, Result};
use crate::sys;

pub struct Output {
    to: BufWriter<Stdout>,
    colours: bool,
}

const BROKEN: &str = "stdout was closed";

impl Output {
    pub fn new() -> Output {
        let colours = sys::is_terminal(&io::stdout()) && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Output { to: BufWriter::with_capacity(64 * 1024, io::stdout()), colours }
    }

    pub fn line(&mut self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(|e| failed(&e))
    }

    /// Copies a file, in the kernel where it can.
    pub fn copy(&mut self, from: &mut std::fs::File) -> Result<()> {
        self.finish()?;
        io::copy(from, self.to.get_mut()).map(drop).map_err(|e| failed(&e))
    }

    /// For what streams: shown as it comes.
    pub fn finish(&mut self) -> Result<()> {
        self.to.flush().map_err(|e| failed(&e))
    }

    /// Rows as columns, each as wide as its widest cell. The first row is the heading.
    pub fn table(&mut self, rows: &[Vec<String>]) -> Result<()> {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| harmless(cell)).collect()).collect();
        for (n, row) in rows.iter().enumerate() {
            let mut text = String::new();
            for (c, cell) in row.iter().enumerate() {
                let pad = if c + 1 == row.len() { 0 } else { widths[c] + 2 - cell.chars().count() };
                text.push_str(&if n == 0 { self.paint("1", cell) } else { self.paint(colour_of(cell), cell) });
                text.extend(std::iter::repeat_n(' ', pad));
            }
            self.line(text.trim_end())?;
        }
        Ok(())
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What a terminal would obey is shown instead.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// States have a colour each; everything else has none.
fn colour_of(cell: &str) -> &'static str {
    match cell {
        "idle" | "done" => "32",
        "busy" | "running" => "36",
        "starting" | "queued" | "paused" | "checkpointing" | "stopping" | "cancelled" => "33",
        "parked" | "failed" => "31",
        _ => "",
    }
}

fn failed(e: &io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::BrokenPipe => Error::new(Code::Internal, BROKEN),
        _ => Error::new(Code::Internal, format!("cannot write to stdout: {}", crate::error::reason(e))),
    }
}

pub fn is_broken_pipe(e: &Error) -> bool {
    e.message == BROKEN
}

pub fn size(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{} KiB", bytes / 1024),
        1_048_576..=1_073_741_823 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}
