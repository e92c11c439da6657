//! When a pass may go on: so that all of it takes the period, and never faster than so many bytes per second. Pure.

use ioengine::Instant;
use std::time::Duration;

/// The time of one pass.
pub(crate) struct Pace {
    began: Instant,
    period: Duration,
    bytes_per_second: u64,
    total: u64,
    done: u64,
    due: Instant,
}

impl Pace {
    /// Of a pass that begins now.
    pub(crate) fn new(now: Instant, period: Duration, bytes_per_second: u64) -> Pace {
        assert!(bytes_per_second > 0, "a pass gets on");
        Pace { began: now, period, bytes_per_second, total: 0, done: 0, due: now }
    }

    /// So many bytes will be read.
    pub(crate) fn begin(&mut self, total: u64) {
        self.total = total;
    }

    /// So many were read, just now.
    pub(crate) fn add(&mut self, now: Instant, bytes: u64) {
        self.done += bytes;
        let at_most = Duration::from_nanos(nanos(1_000_000_000, bytes, self.bytes_per_second));
        let share = Duration::from_nanos(nanos(
            u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX),
            self.done.min(self.total),
            self.total.max(1),
        ));
        self.due = now.after(at_most).max(self.began.after(share));
    }

    /// Bytes read, and bytes that will be read.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.done.min(self.total), self.total)
    }

    /// When it may go on.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// When the next one may begin.
    pub(crate) fn ends(&self) -> Instant {
        self.began.after(self.period).max(self.due)
    }
}

/// `of * part / whole`, without overflow.
fn nanos(of: u64, part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(of) * u128::from(part) / u128::from(whole)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant { ns: 5_000_000_000 };

    fn at(seconds: u64) -> Instant {
        START.after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_pass_takes_its_period_and_bytes_their_share_of_it() {
        let mut pace = Pace::new(START, Duration::from_secs(1000), 1 << 40);
        pace.begin(4000);
        pace.add(START, 1000);
        assert_eq!(pace.due(), at(250));
        pace.add(at(250), 2000);
        assert_eq!((pace.due(), pace.progress()), (at(750), (3000, 4000)));
        // A table was larger than thought, because a journal has grown.
        pace.add(at(750), 5000);
        assert_eq!((pace.due(), pace.progress(), pace.ends()), (at(1000), (4000, 4000), at(1000)));
    }

    #[test]
    fn no_faster_than_it_may_though_the_period_is_missed() {
        let mut pace = Pace::new(START, Duration::from_secs(2), 100);
        pace.begin(1000);
        for n in 1..=10 {
            pace.add(at(n - 1), 100);
            assert_eq!(pace.due(), at(n));
        }
        assert_eq!(pace.ends(), at(10));
    }

    #[test]
    fn who_was_held_up_does_not_hurry() {
        let mut pace = Pace::new(START, Duration::from_secs(10), 100);
        pace.begin(1000);
        pace.add(at(60), 100);
        assert_eq!(pace.due(), at(61));
    }

    #[test]
    fn nothing_in_use_waits_for_the_period_all_the_same() {
        let mut pace = Pace::new(START, Duration::from_secs(9), 1);
        pace.begin(0);
        pace.add(START, 0);
        assert_eq!((pace.due(), pace.ends()), (START, at(9)));
    }
}
