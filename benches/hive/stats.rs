//! Owns the arithmetic on samples. Percentiles are those of the nearest rank; no interpolation, no outlier is dropped.

/// What one round of one side gave.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub p50: f64,
    /// Absent where a round is a single figure (a rate, a count).
    pub p99: Option<f64>,
}

impl Round {
    /// Sorts the samples of a round and takes its percentiles. `None` without samples.
    pub fn of(mut samples: Vec<f64>) -> Option<Round> {
        samples.sort_by(f64::total_cmp);
        let p50 = rank(&samples, 0.5)?;
        let p99 = (samples.len() > 1).then(|| rank(&samples, 0.99)).flatten();
        Some(Round { p50, p99 })
    }
}

pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    rank(&values, 0.5)
}

/// The least and the greatest value.
pub fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().fold(None, |seen, value| match seen {
        None => Some((value, value)),
        Some((least, greatest)) => Some((value.min(least), value.max(greatest))),
    })
}

fn rank(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last as f64 * share).round() as usize])
}
