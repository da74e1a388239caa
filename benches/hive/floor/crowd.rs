//! Owns the throughput floor: a generator, a supervisor that deals records out, agents that echo them, a collector.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::sys::epoll::{EpollEvent, EpollTimeout};
use nix::unistd::read;

use crate::error::Result;
use crate::fifo::{self, PIPE_SIZE, RECORD};
use crate::floor::relay::watch;
use crate::process::Child;

/// Records an agent takes in one read, and so the most it is dealt in one write.
const DEAL_MAX: usize = 32;

/// The supervisor and its agents, resident over all rounds.
pub struct Crowd {
    requests: OwnedFd,
    answers: OwnedFd,
    _processes: Vec<Child>,
}

impl Crowd {
    /// `held`: how many records an agent may have at a time.
    pub fn start(agents: usize, held: usize) -> Result<Crowd> {
        let (requests, answers, results) = (fifo::anonymous()?, fifo::anonymous()?, fifo::anonymous()?);
        let mut hands = Vec::new();
        let mut processes = Vec::new();
        for place in 0..agents {
            let tasks = fifo::anonymous()?;
            processes.push(Child::fork(|| echo_signed(place as u8, &tasks, &results))?);
            hands.push(Hand { tasks, free: held });
        }
        let mut dealer = Dealer { hands, held, waiting: VecDeque::new() };
        processes.push(Child::fork(|| dealer.run(&requests, &results, &answers))?);
        Ok(Crowd { requests, answers, _processes: processes })
    }

    /// Records per second with `total` of them sent `batch` to a write.
    pub fn run(&self, total: usize, batch: usize) -> Result<f64> {
        let start = Instant::now();
        let generator = Child::fork(|| {
            let bytes = vec![0; batch * RECORD];
            let mut left = total;
            while left > 0 {
                let now = left.min(batch);
                if fifo::put(&self.requests, &bytes[..now * RECORD]).is_err() {
                    return;
                }
                left -= now;
            }
        })?;
        let mut buffer = vec![0; PIPE_SIZE];
        let mut missing = total * RECORD;
        while missing > 0 {
            missing -= fifo::take(&self.answers, &mut buffer)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        generator.wait()?;
        Ok(total as f64 / seconds)
    }
}

/// What an agent has and how much more it may get.
struct Hand {
    tasks: OwnedFd,
    free: usize,
}

struct Dealer {
    hands: Vec<Hand>,
    held: usize,
    waiting: VecDeque<[u8; RECORD]>,
}

impl Dealer {
    fn run(&mut self, requests: &OwnedFd, results: &OwnedFd, answers: &OwnedFd) {
        let Ok(epoll) = watch([requests, results]) else {
            return;
        };
        let mut events = [EpollEvent::empty(); 2];
        let mut buffer = vec![0; PIPE_SIZE];
        while let Ok(count) = epoll.wait(&mut events, EpollTimeout::NONE) {
            for event in &events[..count] {
                let outcome = match event.data() {
                    0 => fifo::take(requests, &mut buffer).map(|size| self.accept(&buffer[..size])),
                    _ => fifo::take(results, &mut buffer).and_then(|size| {
                        self.free(&buffer[..size]);
                        fifo::put(answers, &buffer[..size])
                    }),
                };
                if outcome.is_err() {
                    return;
                }
            }
            if self.deal().is_err() {
                return;
            }
        }
    }

    fn accept(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes.as_chunks::<RECORD>().0);
    }

    /// An agent signs a record with its place.
    fn free(&mut self, bytes: &[u8]) {
        for record in bytes.as_chunks::<RECORD>().0 {
            self.hands[usize::from(record[0])].free += 1;
        }
    }

    /// One write per agent and turn; an agent that may hold many waits until half of them are free, so that writes
    /// stay few.
    fn deal(&mut self) -> Result<()> {
        let mut batch = Vec::with_capacity(DEAL_MAX * RECORD);
        let agents = self.hands.len();
        for hand in &mut self.hands {
            if self.waiting.is_empty() {
                break;
            }
            let fair_share = self.waiting.len().div_ceil(agents);
            let count = hand.free.min(fair_share).min(DEAL_MAX);
            if count == 0 || (self.held > 1 && hand.free < self.held / 2) {
                continue;
            }
            batch.clear();
            for record in self.waiting.drain(..count) {
                batch.extend_from_slice(&record);
            }
            hand.free -= count;
            fifo::put(&hand.tasks, &batch)?;
        }
        Ok(())
    }
}

fn echo_signed(place: u8, tasks: &OwnedFd, results: &OwnedFd) {
    let mut buffer = [0; DEAL_MAX * RECORD];
    while let Ok(size @ 1..) = read(tasks, &mut buffer) {
        for record in buffer[..size].chunks_mut(RECORD) {
            record[0] = place;
        }
        if fifo::put(results, &buffer[..size]).is_err() {
            return;
        }
    }
}
