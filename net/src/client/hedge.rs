//! When a get that a cache has not answered is asked of somebody else, too: how long most take, and how many may be asked twice.
//!
//! Must never let more be asked twice than its share, however slow all are: what is slow for want of room would be slower. Nothing
//! that writes comes here.
//!
//! Dean and Barroso, *The Tail at Scale*, 2013: a second request after the time that 95 of 100 take adds a few percent of load, and takes
//! the slow end away.

use std::cell::{Cell, RefCell};
use std::time::Duration;

/// Latencies remembered of each node.
const TAKEN: usize = 64;
/// Of so many the slowest but three is the 95th of a hundred.
const RANK: usize = TAKEN - 1 - TAKEN / 20;
/// So many new ones before they are looked at again.
const LOOKED_AT: usize = 8;
/// What may be asked twice in a row, when long nothing was.
const SAVED_MAX: u64 = 8;
/// One get asked twice.
const WHOLE: u64 = 1_000_000;

/// What a node took for its last answers.
pub(super) struct Taken {
    us: RefCell<[u32; TAKEN]>,
    count: Cell<usize>,
    most_us: Cell<u32>,
}

impl Default for Taken {
    fn default() -> Taken {
        Taken { us: RefCell::new([0; TAKEN]), count: Cell::new(0), most_us: Cell::new(u32::MAX) }
    }
}

impl Taken {
    /// An answer took so long.
    pub(super) fn add(&self, took: Duration) {
        let count = self.count.get();
        let mut us = self.us.borrow_mut();
        us[count % TAKEN] = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.count.set(count + 1);
        if count + 1 >= TAKEN && (count + 1).is_multiple_of(LOOKED_AT) {
            let mut sorted = *us;
            sorted.sort_unstable();
            self.most_us.set(sorted[RANK]);
        }
    }

    /// What 95 of 100 took at most; `None` until there were enough.
    pub(super) fn most(&self) -> Option<Duration> {
        let us = self.most_us.get();
        (us < u32::MAX).then(|| Duration::from_micros(u64::from(us)))
    }
}

/// How many gets may be asked twice: a share of all, with a few saved.
pub(super) struct Share {
    ppm: u64,
    saved: Cell<u64>,
}

impl Share {
    /// So many of a million.
    pub(super) fn new(ppm: u32) -> Share {
        let saved = if ppm == 0 { 0 } else { SAVED_MAX * WHOLE };
        Share { ppm: u64::from(ppm), saved: Cell::new(saved) }
    }

    /// A get begins.
    pub(super) fn earn(&self) {
        self.saved.set((self.saved.get() + self.ppm).min(SAVED_MAX * WHOLE));
    }

    /// Whether one may be asked twice; it counts as asked.
    pub(super) fn spend(&self) -> bool {
        let left = self.saved.get().checked_sub(WHOLE);
        self.saved.set(left.unwrap_or_else(|| self.saved.get()));
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_most_took_is_known_after_enough_and_follows() {
        let taken = Taken::default();
        for number in 0..TAKEN as u64 {
            assert_eq!(taken.most(), None);
            taken.add(Duration::from_micros(if number % 32 == 0 { 90_000 } else { 100 + number }));
        }
        assert_eq!(
            taken.most(),
            Some(Duration::from_micros(162)),
            "the two slow ones, and one more, are left out"
        );
        (0..TAKEN).for_each(|_| taken.add(Duration::from_millis(3)));
        assert_eq!(taken.most(), Some(Duration::from_millis(3)));
    }

    #[test]
    fn a_share_is_kept_and_little_is_saved() {
        let share = Share::new(50_000);
        let mut spent = 0u64;
        for _ in 0..10_000 {
            share.earn();
            spent += u64::from(share.spend());
        }
        assert!((500..=500 + SAVED_MAX).contains(&spent), "{spent}");
        (0..100_000).for_each(|_| share.earn());
        assert_eq!((0..100).filter(|_| share.spend()).count() as u64, SAVED_MAX);
        let none = Share::new(0);
        none.earn();
        assert!(!none.spend());
    }
}
