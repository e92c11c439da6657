//! What a generator saw: answers by outcome, latencies by operation. Laid out before the load begins; recording
//! allocates nothing. Counts only while it is told to, so that warming up leaves no trace.

use hdrhistogram::Histogram;
use net::Operation;
use net::outcome::OutcomeCode;
use std::collections::BTreeMap;

/// Longest latency that is told apart, nanoseconds: a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Digits of a latency that are kept.
const DIGITS: u8 = 3;
/// Outcome codes, with room for what a foreign server may say (code 0).
const OUTCOME_COUNT: usize = 16;

/// Name under which a failure of a foreign server is counted.
const FOREIGN_FAILURE: &str = "Failure";

/// Latencies in nanoseconds.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("the bounds are constants that fit")
}

/// What an answer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The server's outcome.
    Outcome(OutcomeCode),
    /// A server with another protocol failed the request.
    Failure,
}

/// Counts and latencies of one run.
#[derive(Clone, Debug)]
pub struct Meter {
    on: bool,
    latencies: Vec<(Operation, Histogram<u64>)>,
    /// How late requests left after their intended start, in an open load.
    lateness: Histogram<u64>,
    outcomes: [u64; OUTCOME_COUNT],
    answered: u64,
    /// Records in the answers to scans and heads.
    received_bytes: u64,
    sent_bytes: u64,
    retries: u64,
}

impl Meter {
    /// For these operations.
    #[must_use]
    pub fn new(operations: &[Operation]) -> Meter {
        Meter {
            on: false,
            latencies: operations.iter().map(|&operation| (operation, histogram())).collect(),
            lateness: histogram(),
            outcomes: [0; OUTCOME_COUNT],
            answered: 0,
            received_bytes: 0,
            sent_bytes: 0,
            retries: 0,
        }
    }

    /// Begin or end the measured window.
    pub fn switch(&mut self, on: bool) {
        self.on = on;
    }

    /// So many requests were asked again because the server was busy.
    pub fn again(&mut self, count: usize) {
        self.retries += count as u64;
    }

    /// Requests that were asked again, also outside of the window.
    #[must_use]
    pub fn retry_count(&self) -> u64 {
        self.retries
    }

    /// A request of `operation` was answered `latency_ns` after it should have started.
    #[inline]
    pub fn answered(&mut self, operation: Operation, heard: Heard, latency_ns: u64) {
        if !self.on {
            return;
        }
        self.answered += 1;
        let code = match heard {
            Heard::Outcome(code) => usize::from(code.code()),
            Heard::Failure => 0,
        };
        self.outcomes[code] += 1;
        if let Some((_, latencies)) = self.latencies.iter_mut().find(|(of, _)| *of == operation) {
            latencies.saturating_record(latency_ns);
        }
    }

    /// A request left `late_ns` after its intended start.
    #[inline]
    pub fn left(&mut self, late_ns: u64) {
        if self.on {
            self.lateness.saturating_record(late_ns);
        }
    }

    /// Bytes went out.
    #[inline]
    pub fn sent(&mut self, bytes: usize) {
        if self.on {
            self.sent_bytes += bytes as u64;
        }
    }

    /// Bytes came in.
    #[inline]
    pub fn received(&mut self, bytes: usize) {
        if self.on {
            self.received_bytes += bytes as u64;
        }
    }

    /// What another meter of the same operations saw, too.
    pub(crate) fn add(&mut self, other: &Meter) {
        for ((_, mine), (_, theirs)) in self.latencies.iter_mut().zip(&other.latencies) {
            mine.add(theirs).expect("histograms of one shape");
        }
        self.lateness.add(&other.lateness).expect("histograms of one shape");
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += theirs;
        }
        self.answered += other.answered;
        self.received_bytes += other.received_bytes;
        self.retries += other.retries;
        self.sent_bytes += other.sent_bytes;
    }

    /// Answers in the window.
    #[must_use]
    pub fn answer_count(&self) -> u64 {
        self.answered
    }

    /// Bytes sent and received in the window.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.sent_bytes, self.received_bytes)
    }

    /// Answers by the name of their outcome; those that never came up are left out.
    #[must_use]
    pub fn outcomes(&self) -> BTreeMap<&'static str, u64> {
        let name = |code: usize| match u8::try_from(code).ok().and_then(OutcomeCode::from_code) {
            Some(code) => code.name(),
            None => FOREIGN_FAILURE,
        };
        let counted = self.outcomes.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(code, &count)| (name(code), count)).collect()
    }

    /// Latencies of each operation that was answered, in nanoseconds.
    pub fn latencies(&self) -> impl Iterator<Item = (Operation, &Histogram<u64>)> {
        let seen = self.latencies.iter().filter(|(_, latencies)| !latencies.is_empty());
        seen.map(|(operation, latencies)| (*operation, latencies))
    }

    /// How late requests left, in nanoseconds; empty for a closed load.
    #[must_use]
    pub fn lateness(&self) -> &Histogram<u64> {
        &self.lateness
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_measured_window_counts() {
        let mut meter = Meter::new(&[Operation::Get, Operation::Put]);
        let ok = Heard::Outcome(OutcomeCode::Ok);
        meter.answered(Operation::Get, ok, 5);
        meter.switch(true);
        meter.answered(Operation::Get, ok, 1_000);
        meter.answered(Operation::Get, Heard::Outcome(OutcomeCode::NotFound), 3_000);
        meter.answered(Operation::Put, Heard::Failure, u64::MAX);
        meter.switch(false);
        meter.answered(Operation::Put, ok, 5);
        assert_eq!(meter.answer_count(), 3);
        assert_eq!(meter.outcomes(), BTreeMap::from([("Ok", 1), ("NotFound", 1), ("Failure", 1)]));
        let seen: Vec<(Operation, u64, u64)> =
            meter.latencies().map(|(of, all)| (of, all.len(), all.max())).collect();
        assert_eq!((seen[0].0, seen[0].1), (Operation::Get, 2));
        assert!((3_000..3_010).contains(&seen[0].2));
        assert!(seen[1].2 >= LATENCY_NS_MAX, "the longest is kept as the longest");
    }
}
