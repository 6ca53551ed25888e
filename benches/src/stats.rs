//! Order statistics: medians, percentiles, and intervals that assume no distribution.

use serde::Serialize;

/// A median with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Interval {
    /// The sample median.
    pub(crate) median: f64,
    /// Lower end.
    pub(crate) low: f64,
    /// Upper end.
    pub(crate) high: f64,
}

impl Interval {
    /// The median of `samples` and the interval between two order statistics that holds the true median with a
    /// probability of at least 95 %. With fewer than 6 samples no such pair exists: the whole range is taken.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        let rank = interval_rank(sorted.len());
        Some(Self {
            median: median_of_sorted(&sorted)?,
            low: *sorted.get(rank)?,
            high: *sorted.get(sorted.len() - 1 - rank)?,
        })
    }
}

/// The largest `k` with `P(Binomial(n, ½) ≤ k) ≤ 2.5 %`: the rank, from 0, of the interval's lower end.
/// (David and Nagaraja, Order Statistics, §7.1.)
fn interval_rank(n: usize) -> usize {
    let mut term = 0.5f64.powi(i32::try_from(n).unwrap_or(i32::MAX)); // P(X = 0)
    let mut sum = 0.0;
    for k in 0..n {
        sum += term;
        if sum > 0.025 {
            return k.saturating_sub(1);
        }
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    0
}

/// The value below which `percent` of the samples lie (nearest rank).
pub(crate) fn percentile(samples: &[f64], percent: f64) -> Option<f64> {
    let sorted = sorted(samples);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// The median.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    median_of_sorted(&sorted(samples))
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { Some((sorted[sorted.len() / 2 - 1] + upper) / 2.0) }
}

#[cfg(test)]
mod tests {
    use super::{Interval, interval_rank, percentile};

    #[test]
    fn ranks_are_those_of_the_sign_test() {
        // Tables of the sign test, two-sided 5 %: n = 15 → 4th and 12th value, n = 20 → 6th and 15th.
        assert_eq!(interval_rank(15), 3);
        assert_eq!(interval_rank(20), 5);
        assert_eq!(interval_rank(6), 0);
        assert_eq!(interval_rank(5), 0);
    }

    #[test]
    fn interval_encloses_the_median() {
        let samples: Vec<f64> = (1..=15).rev().map(f64::from).collect();
        let interval = Interval::of(&samples);
        assert_eq!(interval, Some(Interval { median: 8.0, low: 4.0, high: 12.0 }));
        assert_eq!(Interval::of(&[]), None);
    }

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&samples, 50.0), Some(100.0));
        assert_eq!(percentile(&samples, 99.0), Some(198.0));
        assert_eq!(percentile(&[], 99.0), None);
    }
}
