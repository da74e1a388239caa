//! Running a command with a deadline, and asking for exactly what it printed.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DEADLINE, kill, wait_until};

/// A command before it runs.
pub struct Cmd {
    command: Command,
    stdin: Option<Vec<u8>>,
}

/// A command that runs; killed if it is dropped.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    out: Stream,
    err: Stream,
    shown: String,
}

/// A command that has ended.
#[derive(Clone)]
pub struct Ran {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// 128 + n for signal n, as shells say it.
    pub code: i32,
    shown: String,
}

impl Cmd {
    /// Nothing of the surrounding hive, and no wish for colours, is passed on.
    pub fn new<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Cmd {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HIVE_") || name == "NO_COLOR" {
                command.env_remove(name);
            }
        }
        command.args(args);
        Cmd { command, stdin: Some(Vec::new()) }
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Cmd {
        self.command.env(name, value);
        self
    }

    pub fn dir(mut self, dir: impl AsRef<Path>) -> Cmd {
        self.command.current_dir(dir);
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Cmd {
        self.stdin = Some(bytes.into());
        self
    }

    /// stdin stays open for `Running::write`.
    pub fn open_stdin(mut self) -> Cmd {
        self.stdin = None;
        self
    }

    pub fn spawn(mut self) -> Running {
        let shown = format!("{:?}", self.command);
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("cannot start {shown}: {e}"));
        let mut stdin = child.stdin.take();
        if let Some(bytes) = self.stdin {
            let mut pipe = stdin.take().unwrap();
            // A reader that goes early is its own business.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let (out, err) = (Stream::new(child.stdout.take().unwrap()), Stream::new(child.stderr.take().unwrap()));
        Running { child, stdin, out, err, shown }
    }

    #[track_caller]
    pub fn run(self) -> Ran {
        self.try_run().unwrap_or_else(|ran| panic!("it hung, and was killed: {ran}"))
    }

    /// `Err`: it hung, and this is what it printed.
    pub fn try_run(self) -> Result<Ran, Ran> {
        self.spawn().end_by(Instant::now() + DEADLINE)
    }
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: &str) {
        kill(self.pid(), signal);
    }

    /// What it has printed so far.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.out.bytes.lock().unwrap()).into_owned()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    #[track_caller]
    pub fn wait_for_out(&self, part: &str) {
        wait_until(&format!("{} prints {part:?}", self.shown), || self.out().contains(part));
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("stdin is open").write_all(bytes).unwrap();
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    #[track_caller]
    pub fn ends(self) -> Ran {
        self.end_by(Instant::now() + DEADLINE).unwrap_or_else(|ran| panic!("it hung, and was killed: {ran}"))
    }

    fn end_by(mut self, deadline: Instant) -> Result<Ran, Ran> {
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                // Its pipes end with it, or it has left them to a process that it should not have.
                let all = self.out.wait_for_end(deadline) && self.err.wait_for_end(deadline);
                let ran = self.ran(status);
                return if all { Ok(ran) } else { Err(ran) };
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        Err(self.ran(status))
    }

    fn ran(&self, status: ExitStatus) -> Ran {
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let taken = |stream: &Stream| stream.bytes.lock().unwrap().clone();
        Ran { stdout: taken(&self.out), stderr: taken(&self.err), code, shown: self.shown.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes out of a pipe, collected as it comes.
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: Arc<Mutex<bool>>,
}

impl Stream {
    fn new(mut from: impl Read + Send + 'static) -> Stream {
        let stream = Stream { bytes: Arc::default(), ended: Arc::default() };
        let (bytes, ended) = (stream.bytes.clone(), stream.ended.clone());
        std::thread::spawn(move || {
            let mut chunk = [0; 64 * 1024];
            while let Ok(n @ 1..) = from.read(&mut chunk) {
                bytes.lock().unwrap().extend_from_slice(&chunk[..n]);
            }
            *ended.lock().unwrap() = true;
        });
        stream
    }

    fn wait_for_end(&self, deadline: Instant) -> bool {
        while !*self.ended.lock().unwrap() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

impl Ran {
    pub fn out(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("stdout is UTF-8")
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {self}"))
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "exit code: {self}");
        self
    }

    /// Exactly this on stdout.
    #[track_caller]
    pub fn prints(self, stdout: impl AsRef<[u8]>) -> Ran {
        let expected = stdout.as_ref();
        let same = self.stdout == expected;
        assert!(same, "expected {} bytes, {:?}: {self}", expected.len(), head(expected));
        self
    }

    /// Exactly this on stderr.
    #[track_caller]
    pub fn says(self, stderr: &str) -> Ran {
        assert_eq!(self.err(), stderr, "stderr: {self}");
        self
    }

    /// This somewhere on stderr.
    #[track_caller]
    pub fn mentions(self, part: &str) -> Ran {
        assert!(self.err().contains(part), "{part:?} is not on stderr: {self}");
        self
    }
}

fn head(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(1000)]).into_owned()
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (out, err) = (head(&self.stdout), head(&self.stderr));
        let Ran { shown, code, .. } = self;
        write!(f, "{shown} exited with {code}; stdout ({} bytes) {out:?}; stderr {err:?}", self.stdout.len())
    }
}
