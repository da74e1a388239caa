//! Owns a resident client of a hive: one reply FIFO held open, requests as JSON lines into `ctl`.
//!
//! Invariant: no tag is used twice, because a known (reply, tag) may be answered from the log without running anything.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::unistd::{unlink, write};

use crate::error::{Result, failure};
use crate::fifo::{self, BATCH_MAX, PIPE_SIZE, RECORD};
use crate::lines;

/// Requests under way in a flood: enough for 100 agents that hold 16 each.
const IN_FLIGHT_MAX: u64 = 4096;

/// All tags have as many digits, so that a request is a template with its tag written over.
const FIRST_TAG: u64 = 10_000_000;
const LAST_TAG: u64 = 99_999_999;
const TAG_DIGITS: usize = 8;

pub struct Client {
    /// Non-blocking: a writer that waits must also see that the flood was given up.
    requests: OwnedFd,
    answers: OwnedFd,
    reply: PathBuf,
    name: String,
    next_tag: u64,
}

impl Client {
    pub fn connect(live: &Path, name: &str) -> Result<Client> {
        let reply = live.join("replies").join(name);
        fifo::make(&reply)?;
        let answers = fifo::open_both(&reply)?;
        let requests = fifo::open_as(&live.join("ctl"), OFlag::O_WRONLY | OFlag::O_NONBLOCK)?;
        Ok(Client { requests, answers, reply, name: name.to_string(), next_tag: FIRST_TAG })
    }

    /// One task of 64 bytes, there and back; microseconds from the write to the whole answer.
    pub fn round_trip(&mut self) -> Result<f64> {
        let mut request = template(&self.name);
        set_tag(&mut request, self.next_tag);
        self.next_tag += 1;
        let mut answer = [0; 2 * BATCH_MAX];
        let start = Instant::now();
        fifo::put(&self.requests, &request)?;
        let mut length = 0;
        while length == 0 || answer[length - 1] != b'\n' {
            length += fifo::take(&self.answers, &mut answer[length..])?;
        }
        let elapsed = start.elapsed();
        expect_done(&answer[..length])?;
        Ok(elapsed.as_secs_f64() * 1e6)
    }

    /// A barrier over all agents; microseconds from the write to the whole answer.
    pub fn checkpoint(&mut self) -> Result<f64> {
        let request = format!("{{\"op\":\"checkpoint\",\"reply\":\"{}\",\"tag\":{}}}\n", self.name, self.next_tag);
        self.next_tag += 1;
        let mut answer = vec![0; PIPE_SIZE];
        let start = Instant::now();
        fifo::put(&self.requests, request.as_bytes())?;
        let mut length = 0;
        while length == 0 || answer[length - 1] != b'\n' {
            answer.resize(length + PIPE_SIZE, 0);
            length += fifo::take(&self.answers, &mut answer[length..])?;
        }
        let elapsed = start.elapsed();
        match contains(&answer[..length], br#""state":"complete""#) {
            true => Ok(elapsed.as_secs_f64() * 1e6),
            false => Err(failure(format!("a barrier failed: {}", String::from_utf8_lossy(&answer[..length]).trim()))),
        }
    }

    /// `total` tasks with many under way; tasks per second from the first write to the last answer.
    /// `lines_per_write`: at most so many requests in one write (and never more than a pipe takes whole).
    pub fn flood(&mut self, total: u64, lines_per_write: usize) -> Result<f64> {
        let first_tag = self.next_tag;
        self.next_tag += total;
        if self.next_tag > LAST_TAG {
            return Err(failure("more tasks than there are tags"));
        }
        let progress = Progress::default();
        let (requests, name) = (self.requests.as_fd(), self.name.as_str());
        let start = Instant::now();
        let seconds = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                // Signals are for the thread that reads: it gives up, and says so through `progress`.
                let _ = SigSet::all().thread_block();
                write_requests(requests, name, first_tag, total, lines_per_write, &progress)
            });
            let read = read_answers(&self.answers, first_tag, total, &progress, writer.thread());
            let seconds = start.elapsed().as_secs_f64();
            progress.given_up.store(read.is_err(), Ordering::Release);
            writer.thread().unpark();
            let wrote = writer.join().unwrap_or_else(|_| Err(failure("the writer panicked")));
            read.and(wrote).map(|()| seconds)
        })?;
        Ok(total as f64 / seconds)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = unlink(&self.reply);
    }
}

/// What the two threads of a flood tell each other.
#[derive(Default)]
struct Progress {
    answered: AtomicU64,
    writer_waits: AtomicBool,
    given_up: AtomicBool,
}

/// A request whose tag is still to be set.
fn template(reply: &str) -> Vec<u8> {
    let text = "x".repeat(RECORD);
    format!("{{\"op\":\"run\",\"text\":\"{text}\",\"reply\":\"{reply}\",\"tag\":{FIRST_TAG}}}\n").into_bytes()
}

fn set_tag(request: &mut [u8], tag: u64) {
    let end = request.len() - b"}\n".len();
    let mut left = tag;
    for digit in request[end - TAG_DIGITS..end].iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
}

fn write_requests(
    requests: impl AsFd + Copy,
    name: &str,
    first_tag: u64,
    total: u64,
    lines_per_write: usize,
    progress: &Progress,
) -> Result<()> {
    let template = template(name);
    let lines_max = lines_per_write.min(BATCH_MAX / template.len());
    let mut batch = template.repeat(lines_max);
    let mut sent = 0;
    while sent < total {
        let lines = lines_max.min((total - sent) as usize);
        await_room(sent, lines as u64, progress);
        let bytes = &mut batch[..lines * template.len()];
        for (place, line) in bytes.chunks_mut(template.len()).enumerate() {
            set_tag(line, first_tag + sent + place as u64);
        }
        if !put_patiently(requests, bytes, progress)? {
            return Ok(());
        }
        sent += lines as u64;
    }
    Ok(())
}

/// Waits until a whole batch more may be under way: a batch that shrank would measure the number of writes.
fn await_room(sent: u64, lines: u64, progress: &Progress) {
    let full = || sent + lines - progress.answered.load(Ordering::SeqCst) > IN_FLIGHT_MAX;
    while full() && !progress.given_up.load(Ordering::Acquire) {
        progress.writer_waits.store(true, Ordering::SeqCst);
        if full() {
            // The time bounds a wake-up that came between the two looks.
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// False when the flood was given up meanwhile.
fn put_patiently(requests: impl AsFd + Copy, batch: &[u8], progress: &Progress) -> Result<bool> {
    while !progress.given_up.load(Ordering::Acquire) {
        match write(requests, batch) {
            Ok(count) if count == batch.len() => return Ok(true),
            Ok(count) => {
                return Err(failure(format!("ctl took {count} of {} bytes", batch.len())));
            }
            Err(Errno::EAGAIN) => {
                let mut wait = [PollFd::new(requests.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut wait, PollTimeout::from(200u8));
            }
            Err(cause) => return Err(failure(format!("writing to ctl: {cause}"))),
        }
    }
    Ok(false)
}

/// Reads until every tag was answered once, each with a task that is done.
fn read_answers(answers: &OwnedFd, first_tag: u64, total: u64, progress: &Progress, writer: &Thread) -> Result<()> {
    let mut seen = vec![false; total as usize];
    let mut buffer = vec![0; 2 * PIPE_SIZE];
    let (mut kept, mut count) = (0, 0);
    while count < total {
        let end = kept + fifo::take(answers, &mut buffer[kept..])?;
        let mut unread = &buffer[..end];
        while let Some(line) = lines::next(&mut unread) {
            let place = tag_of(line).and_then(|tag| tag.checked_sub(first_tag));
            match place.and_then(|place| seen.get_mut(place as usize)) {
                Some(slot) if !*slot => *slot = true,
                _ => {
                    return Err(failure(format!("an unexpected answer: {}", String::from_utf8_lossy(line))));
                }
            }
            expect_done(line)?;
            count += 1;
        }
        kept = unread.len();
        buffer.copy_within(end - kept..end, 0);
        progress.answered.store(count, Ordering::SeqCst);
        if progress.writer_waits.swap(false, Ordering::SeqCst) {
            writer.unpark();
        }
    }
    Ok(())
}

/// The tag leads the answer, so it is found without a parser that would cost more than the task.
fn tag_of(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(br#"{"tag":"#)?;
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

fn expect_done(answer: &[u8]) -> Result<()> {
    if contains(answer, br#""state":"done""#) {
        return Ok(());
    }
    Err(failure(format!("a task was not done: {}", String::from_utf8_lossy(answer).trim())))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
