//! What agents used of what is paid for, as they said in USAGE lines. Each line adds to what was said before.

use super::{State, TaskId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens.
    pub input: u64,
    pub output: u64,
    pub cache: u64,
    /// Millionths of a dollar.
    pub usd_micros: u64,
}

impl Usage {
    /// Adds what `in=`, `out=`, `cache=` and `usd=` say; other words mean nothing here.
    fn add(&mut self, fields: &str) {
        for (key, value) in fields.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
            let sum = match key {
                "in" => &mut self.input,
                "out" => &mut self.output,
                "cache" => &mut self.cache,
                "usd" => &mut self.usd_micros,
                _ => continue,
            };
            let more = match key {
                // As a whole number it has no bounds that matter; what is no number, or below zero, is 0.
                "usd" => (value.parse().unwrap_or(0.0_f64) * 1e6).round() as u64,
                _ => value.parse().unwrap_or(0),
            };
            *sum = sum.saturating_add(more);
        }
    }
}

impl State {
    pub(super) fn used(&mut self, task: TaskId, fields: &str) {
        self.used.add(fields);
        let agent = self.tasks.get(task).and_then(|task| task.agent());
        if let Some(agent) = agent.and_then(|id| self.agents.get_mut(&id)) {
            agent.used.add(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_add_up_and_nonsense_counts_for_nothing() {
        let mut used = Usage::default();
        for fields in ["in=3 out=4 usd=0.25", "cache=7 in=10 usd=1e-6", "in=x out=-5 usd=-1 usd=nan in", ""] {
            used.add(fields);
        }
        assert_eq!(used, Usage { input: 13, output: 4, cache: 7, usd_micros: 250_001 });
        used.add("in=18446744073709551615 usd=1e300");
        assert_eq!((used.input, used.usd_micros), (u64::MAX, u64::MAX));
    }
}
