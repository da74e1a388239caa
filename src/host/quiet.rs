//! When a started program has become quiet: it waits for its stdin, and does nothing else.
//! Seen, not assumed: the kernel shows in which system call a process is blocked. A program that waits for several
//! things at once counts as quiet when it has used no processor time between two looks.

use crate::sys::process::Pid;
use crate::sys::tree::{self, Reading};

const FIRST_LOOK: i64 = 500;
const LONGEST_PAUSE: i64 = 100_000;
/// How long "no processor time" must last.
const STILL_FOR: i64 = 200_000;

pub struct Watch {
    /// When to look next, on the monotonic clock.
    pub at: i64,
    pub began: i64,
    pause: i64,
    /// Since when, and at how many ticks, it has been waiting for several things.
    still: Option<(i64, u64)>,
}

impl Watch {
    pub fn new(now: i64) -> Watch {
        Watch { at: now + FIRST_LOOK, began: now, pause: FIRST_LOOK, still: None }
    }

    /// Looks once, and says when to look again.
    pub fn is_quiet(&mut self, now: i64, root: Pid, stdin: Option<u64>) -> bool {
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.at = now + self.pause;
        let Some(stdin) = stdin else { return true };
        let mut all = tree::below(root);
        all.push(root);
        match all.iter().map(|pid| tree::reading(*pid, stdin)).max() {
            Some(Reading::Yes) => true,
            Some(Reading::Perhaps) => {
                let ticks = tree::ticks_used(&all);
                match self.still {
                    Some((since, before)) if before == ticks => now - since >= STILL_FOR,
                    _ => {
                        self.still = Some((now, ticks));
                        false
                    }
                }
            }
            Some(Reading::No) | None => {
                self.still = None;
                false
            }
        }
    }
}
