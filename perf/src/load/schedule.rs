//! When requests shall start: fixed before anything is sent, so that a slow answer delays nothing but itself. Latency
//! is measured from here. Pure, and the same again for the same seed.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// How intended starts are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// All the same.
    Constant,
    /// As of many independent askers: exponentially distributed.
    Poisson,
}

/// Intended starts, in nanoseconds from the first one's origin.
#[derive(Clone, Debug)]
pub struct Schedule {
    spacing: Spacing,
    mean_ns: f64,
    /// Exact, so that rounding does not add up.
    at_ns: f64,
    random: Xoshiro256PlusPlus,
}

impl Schedule {
    /// `rate` requests per second.
    ///
    /// # Panics
    /// When the rate is not above 0.
    #[must_use]
    pub fn new(spacing: Spacing, rate: f64, seed: u64) -> Schedule {
        assert!(rate > 0.0 && rate.is_finite(), "a schedule has a rate");
        Schedule { spacing, mean_ns: 1e9 / rate, at_ns: 0.0, random: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }
}

impl Iterator for Schedule {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let gap = match self.spacing {
            Spacing::Constant => 1.0,
            // 1 - u lies in (0, 1]: its logarithm is finite.
            Spacing::Poisson => -(1.0 - super::unit(self.random.next_u64())).ln(),
        };
        self.at_ns += gap * self.mean_ns;
        Some(self.at_ns as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spacings_keep_the_rate_and_the_order() {
        for spacing in [Spacing::Constant, Spacing::Poisson] {
            let starts: Vec<u64> = Schedule::new(spacing, 1e6, 7).take(100_000).collect();
            assert!(starts.is_sorted());
            let last = *starts.last().unwrap() as f64;
            assert!((last / 1e8 - 1.0).abs() < 0.02, "{spacing:?}: {last}");
        }
    }

    #[test]
    fn poisson_gaps_vary_as_much_as_they_are_long() {
        let starts: Vec<u64> = Schedule::new(Spacing::Poisson, 1e6, 7).take(100_000).collect();
        let gaps: Vec<f64> = starts.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.03, "{deviation} {mean}");
    }

    #[test]
    fn a_seed_gives_the_same_starts_and_another_seed_others() {
        let take = |seed| Schedule::new(Spacing::Poisson, 1e5, seed).take(100).collect::<Vec<u64>>();
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }
}
