//! Ending what runs below a host: asked first, killed when the grace is over, and done when looking finds nothing.

use std::time::Duration;

use super::{Host, Job, Next, Then};
use crate::model::{Kind, Loss};
use crate::sys::process::{self, Ending, Pid, Reaped};
use crate::sys::{clock, signal, tree};
use crate::wire::host::News;

/// On a single processor the answer would wait for the start of the next process: it is let pass first.
const WARM_UP_AFTER_ANSWER: Duration = Duration::from_millis(1);
/// What is left of a finished task's tree is asked to end, and killed after this.
const LEFTOVER_GRACE: Duration = Duration::from_millis(200);

impl Host {
    /// Asks everything below to end, and sees to it that it does. `all`: the warm process too.
    pub(super) fn begin_sweep(&mut self, kill_at: i64, all: bool) {
        if all {
            self.quiet = None;
            if let Some(warm) = self.warm.take() {
                warm.unwatch(&self.poll);
            }
        }
        if process::has_children() {
            tree::ask_to_end(&self.victims());
        }
        self.sweep = Some(self.sweep.map_or(kill_at, |at| at.min(kill_at)));
        self.reap();
    }

    /// Everything below but the warm process and what it started.
    pub(super) fn victims(&self) -> Vec<Pid> {
        let all = tree::below(self.me);
        let Some(warm) = &self.warm else { return all };
        let spared = tree::below(warm.pid);
        let marker = warm.marker();
        all.into_iter()
            .filter(|pid| *pid != warm.pid && !spared.contains(pid) && !tree::has_in_environment(*pid, &marker))
            .collect()
    }

    pub(super) fn kill_victims(&mut self) {
        self.cage.kill(self.warm.as_ref().map(|warm| warm.slot));
        let warm = self.warm.as_ref().map(|warm| (warm.pid, warm.marker()));
        let spared =
            |pid| warm.as_ref().is_some_and(|(warm, marker)| pid == *warm || tree::has_in_environment(pid, marker));
        process::urgently(|| tree::kill(self.me, spared));
    }

    /// Takes the endings of children. When nothing is left below, what was to follow follows.
    pub(super) fn reap(&mut self) {
        let none_left = loop {
            match process::reap_any() {
                Reaped::Child(pid, ending) => self.child_ended(pid, ending),
                Reaped::NoneEnded => break false,
                Reaped::NoChildren => break true,
            }
        };
        if self.sweep.is_none() {
            return;
        }
        // The usual case is cheap: there is no child at all, and nobody has to be looked for.
        let victims = if none_left { Vec::new() } else { self.victims() };
        if victims.is_empty() && (none_left || self.warm.is_some()) {
            self.sweep = None;
            self.leftovers_unasked = false;
            self.swept();
        } else if std::mem::take(&mut self.leftovers_unasked) {
            tree::ask_to_end(&victims);
        }
    }

    pub(super) fn child_ended(&mut self, pid: Pid, ending: Ending) {
        if let Some(job) = self.current.as_mut().filter(|j| j.pid == pid) {
            job.ending = Some(ending);
            if !job.by_host && job.limit.is_none() {
                job.limit = self.cage.passed(ending);
            }
            if self.orders.spec.kind == Kind::Lines {
                self.workload_ended(ending);
            } else if self.then == Then::GoOn {
                let ended = self.report_end();
                // The answer goes first; what is to be cleared up and started anew can wait that long.
                self.flush();
                drop(ended);
                self.begin_sweep_of_leftovers();
            }
        } else if self.warm.as_ref().is_some_and(|j| j.pid == pid) {
            self.warm_ended(ending);
        }
    }

    /// A task has ended by itself. What it left behind goes too, but has a moment to do so in peace.
    pub(super) fn begin_sweep_of_leftovers(&mut self) {
        if let Some(at) = &mut self.warm_up_at {
            *at = (*at).min(clock::monotonic_micros() + WARM_UP_AFTER_ANSWER.as_micros() as i64);
        }
        if let Some(loss) = self.warm_lost.take() {
            self.then = Then::Down(loss);
        }
        self.sweep = Some(clock::monotonic_micros() + LEFTOVER_GRACE.as_micros() as i64);
        self.leftovers_unasked = true;
    }

    pub(super) fn workload_ended(&mut self, ending: Ending) {
        let Some(mut job) = self.current.take() else {
            return;
        };
        job.drain(&mut self.log);
        job.unwatch(&self.poll);
        if matches!(self.then, Then::GoOn | Then::Report) {
            self.then = Then::Down(self.loss(&job, ending));
        }
        let at = clock::monotonic_micros() + LEFTOVER_GRACE.as_micros() as i64;
        self.begin_sweep(self.sweep.unwrap_or(at), true);
    }

    pub(super) fn warm_ended(&mut self, ending: Ending) {
        let Some(mut job) = self.warm.take() else {
            return;
        };
        self.quiet = None;
        job.drain(&mut self.log);
        job.unwatch(&self.poll);
        job.limit = job.limit.or_else(|| self.cage.passed(ending));
        let loss = self.loss(&job, ending);
        if self.current.is_some() {
            self.warm_lost = Some(loss);
        } else if self.then == Then::GoOn {
            self.then = Then::Down(loss);
            self.begin_sweep(clock::monotonic_micros(), true);
        }
    }

    /// Whether there is anything that could pass a limit.
    pub(super) fn runs_something(&self) -> bool {
        self.sweep.is_none() && (self.current.is_some() || self.warm.is_some())
    }

    /// What is above a limit that the kernel does not keep is ended here, at once.
    pub(super) fn look_at_limits(&mut self, now: i64) {
        let Some(limit) = self.cage.look(now, self.me) else {
            return;
        };
        match (&mut self.current, &self.warm) {
            (Some(job), _) => {
                job.limit = Some(limit);
                self.sweep = Some(now);
            }
            (None, Some(_)) => {
                self.then = Then::Down(Loss { limit: Some(limit), ..Loss::because(self.cage.in_words(limit)) });
                self.begin_sweep(now, true);
            }
            (None, None) => {}
        }
    }

    /// A process's end as a loss.
    fn loss(&self, job: &Job, ending: Ending) -> Loss {
        let cause = match (job.limit, ending) {
            (Some(limit), _) => self.cage.in_words(limit),
            (None, Ending::Exit(code)) => format!("it exited with {code}").into(),
            (None, Ending::Signal(n)) => format!("it was killed by SIG{}", signal::name(n)).into(),
        };
        Loss { host: false, cause, stderr: job.stderr_tail().into(), limit: job.limit }
    }

    /// Nothing is left below.
    pub(super) fn swept(&mut self) {
        if self.current.as_ref().is_some_and(|job| job.ending.is_some()) {
            drop(self.report_end());
        }
        match std::mem::replace(&mut self.then, Then::GoOn) {
            Then::GoOn => {}
            Then::Report => {
                if self.orders.spec.kind == Kind::Oneshot {
                    self.warm_up();
                }
            }
            Then::Down(loss) => {
                self.is_down = true;
                self.report(News::Down(loss));
            }
            Then::Start(_) => {
                // Nobody wrote for the new generation yet: what is in the pipe was for the old one.
                self.inbox.clear();
                self.gathered = Next::default();
                self.is_down = false;
                self.was_ready = false;
                self.start_workload();
            }
            Then::Leave => self.then = Then::Leave,
        }
    }
}
