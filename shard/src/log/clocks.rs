//! What the clocks of the other nodes say, by the messages that come from them: a node whose clock is ahead of a majority's does
//! not propose, because they would refuse its stamps, and its entries would be in everybody's way.
//!
//! A clock is heard with the delay of its message, so that it seems to be behind by that much: of the last seconds the best counts.

use ioengine::Instant;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of a clock before a message.
pub(super) const CLOCK_BYTES: usize = 8;
/// How long a clock that was heard counts.
const FRESH: Duration = Duration::from_secs(4);
/// How far behind ours a clock may seem, microseconds: half of what an acceptor grants.
const BEHIND_MAX_US: i64 = 500_000;
/// A difference to the monotonic clock of so many microseconds since the last look is no drift.
const JUMP_US: i128 = 100_000;

/// A clock, as the difference to ours, microseconds: negative if it is behind.
#[derive(Clone, Copy)]
struct Heard {
    ahead_us: i64,
    at: Instant,
}

/// The clocks of the peers.
#[derive(Default)]
pub(super) struct Clocks {
    heard: RefCell<BTreeMap<u32, Heard>>,
    /// Our clock when it was looked at last, microseconds.
    own: Cell<Option<(u64, Instant)>>,
}

impl Clocks {
    /// A message of `node` says what its clock was when it was sent.
    pub(super) fn heard(&self, node: u32, clock_us: u64, own_us: u64, at: Instant) {
        self.look(own_us, at);
        let ahead_us = i64::try_from(i128::from(clock_us) - i128::from(own_us)).unwrap_or(i64::MIN);
        let mut clocks = self.heard.borrow_mut();
        let heard = clocks.entry(node).or_insert(Heard { ahead_us, at });
        if ahead_us >= heard.ahead_us || at.since(heard.at) > FRESH / 2 {
            *heard = Heard { ahead_us, at };
        }
    }

    /// If our clock was set since it was looked at last, what was heard before says nothing of it any more.
    fn look(&self, own_us: u64, now: Instant) {
        let before = self.own.replace(Some((own_us, now)));
        let Some((before_us, before)) = before else { return };
        let passed_us = now.since(before).as_micros() as i128;
        if (i128::from(own_us) - i128::from(before_us) - passed_us).abs() > JUMP_US {
            ioengine::sometimes!("the clock was set");
            self.heard.borrow_mut().clear();
        }
    }

    /// Would a majority of these nodes take a stamp of this one's clock?
    pub(super) fn agree(&self, members: &[u32], own: u32, own_us: u64, now: Instant) -> bool {
        self.look(own_us, now);
        let clocks = self.heard.borrow();
        let agrees = |node: &u32| {
            *node == own
                || clocks
                    .get(node)
                    .is_some_and(|heard| heard.ahead_us >= -BEHIND_MAX_US && now.since(heard.at) <= FRESH)
        };
        let count = members.iter().filter(|node| agrees(node)).count();
        count > members.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant { ns: seconds * 1_000_000_000 }
    }

    #[test]
    fn who_is_ahead_of_a_majority_does_not_propose() {
        let members = [1, 2, 3];
        let clocks = Clocks::default();
        assert!(!clocks.agree(&members, 1, 9_900_000, at(1)), "nobody was heard");
        clocks.heard(2, 9_800_000, 9_900_000, at(1));
        assert!(clocks.agree(&members, 1, 9_900_000, at(1)));
        // Ours jumps ahead by a minute: what was heard before says nothing any more.
        assert!(!clocks.agree(&members, 1, 70_900_000, at(2)));
        clocks.heard(2, 10_800_000, 70_900_000, at(2));
        clocks.heard(3, 10_800_000, 70_900_000, at(2));
        assert!(!clocks.agree(&members, 1, 70_900_000, at(2)));
        assert!(clocks.agree(&[1], 1, 70_900_000, at(2)), "alone it is a majority");
        // It is set right again; one message in time is enough, and counts for a while, whatever comes late behind it.
        clocks.heard(3, 12_500_000, 12_900_000, at(4));
        clocks.heard(3, 11_900_000, 13_900_000, at(5));
        assert!(clocks.agree(&members, 1, 13_900_000, at(5)));
        assert!(!clocks.agree(&members, 1, 23_900_000, at(15)), "what is not heard any more does not count");
    }
}
