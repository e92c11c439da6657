//! How fast merges and seals go: bytes per second, by how much there is to do. Pure but for `rest`.
//!
//! Counts what they read and write, not what flushes write: those must never wait for their own debt. Must never hold a job
//! back while writers or space wait for it. Invariant: over any time, what was spent at a rate is at most the rate times that
//! time, the credit of a tenth of a second, and one step.

use crate::core::Shard;
use ioengine::Instant;
use std::cell::RefCell;
use std::time::Duration;

/// Records of one step.
const STEP_COUNT: u32 = 128;
/// Bytes of keys and values of one step of a merge: at a level of zstd that does 200 MB/s a sixth of a millisecond, and as
/// much again to read them. A larger value is a step of its own.
const MERGE_STEP_BYTES: usize = 32 << 10;
/// The same of a seal, whose level of zstd, with a dictionary, does 16 MB/s: a millisecond.
const SEAL_STEP_BYTES: usize = 16 << 10;
/// Unused budget is kept for so long.
const CREDIT: Duration = Duration::from_millis(100);
/// What a job does when it rests for longer: look whether it is wanted more by now.
const REST_MAX: Duration = Duration::from_millis(20);
/// Each byte flushed is read and written once per level, and a pass of a seal copies four for each.
const PER_LEVEL: u64 = 2;
const PER_SEAL: u64 = 8;

/// One step of a job: what it goes through between two looks at other work.
pub(super) struct Step {
    bytes_max: usize,
    count: u32,
    bytes: usize,
}

impl Step {
    /// Of a merge.
    pub(super) fn of_merge() -> Step {
        Step { bytes_max: MERGE_STEP_BYTES, count: 0, bytes: 0 }
    }

    /// Of a seal.
    pub(super) fn of_seal() -> Step {
        Step { bytes_max: SEAL_STEP_BYTES, count: 0, bytes: 0 }
    }

    /// One more record. True when the step is over.
    pub(super) fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> bool {
        self.count += 1;
        self.bytes += key.len() + value.map_or(0, <[u8]>::len);
        let is_over = self.count >= STEP_COUNT || self.bytes >= self.bytes_max;
        if is_over {
            (self.count, self.bytes) = (0, 0);
        }
        is_over
    }
}

/// What a rate follows.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// The least, bytes per second.
    floor: u64,
    /// What flushes write, bytes per second.
    flushed: u64,
    /// Levels of runs there are.
    level_count: u64,
    /// Writers, or space, wait.
    is_urgent: bool,
}

/// Bytes per second; `None` = as fast as can be.
fn rate(load: &Load) -> Option<u64> {
    let Load { floor, flushed, level_count, is_urgent } = *load;
    let debt = flushed.saturating_mul(PER_LEVEL * level_count + PER_SEAL);
    (!is_urgent).then_some(floor.max(debt).max(1))
}

/// A token bucket that may go into debt by one step.
#[derive(Debug)]
struct Bucket {
    /// Bytes that may be spent now; below 0 what has to be waited for.
    balance: i128,
    at: Instant,
}

impl Bucket {
    /// How long to wait until nothing is owed.
    fn owed(&mut self, now: Instant, rate: Option<u64>) -> Duration {
        let passed = now.since(self.at).as_nanos();
        self.at = self.at.max(now);
        let Some(rate) = rate else {
            self.balance = self.balance.max(0);
            return Duration::ZERO;
        };
        let of = |nanos: u128| i128::try_from(u128::from(rate) * nanos / 1_000_000_000).unwrap_or(i128::MAX);
        self.balance = self.balance.saturating_add(of(passed)).min(of(CREDIT.as_nanos()));
        let owed = u128::try_from(-self.balance).unwrap_or(0) * 1_000_000_000;
        Duration::from_nanos(u64::try_from(owed.div_ceil(u128::from(rate))).unwrap_or(u64::MAX))
    }

    fn spend(&mut self, bytes: u64) {
        self.balance -= i128::from(bytes);
    }
}

/// What flushes bring: the mean of the last, as long as another might still come at that rate.
#[derive(Debug, Default)]
struct Flushed {
    last: Option<(Instant, u64)>,
    per_second: u64,
}

fn per_second(bytes: u64, over: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000 / over.as_micros().max(1)).unwrap_or(u64::MAX)
}

impl Flushed {
    fn add(&mut self, now: Instant, bytes: u64) {
        if let Some((before, _)) = self.last {
            self.per_second = self.per_second / 2 + per_second(bytes, now.since(before)) / 2;
        }
        self.last = Some((now, bytes));
    }

    fn now(&self, now: Instant) -> u64 {
        self.last.map_or(0, |(at, bytes)| self.per_second.min(per_second(bytes, now.since(at))))
    }
}

/// The pace of a shard.
pub(crate) struct Pace {
    bucket: RefCell<Bucket>,
    flushed: RefCell<Flushed>,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Pace {
        Pace { bucket: RefCell::new(Bucket { balance: 0, at: now }), flushed: RefCell::default() }
    }

    /// A flush has written so much.
    pub(crate) fn flushed(&self, now: Instant, bytes: u64) {
        self.flushed.borrow_mut().add(now, bytes);
    }
}

/// The end of a step that has read and written so many bytes: other work, and the budget.
pub(super) async fn rest(shard: &Shard, bytes: u64) {
    let pace = &shard.keeper.pace;
    pace.bucket.borrow_mut().spend(bytes);
    ioengine::sync::yield_now().await;
    loop {
        let now = shard.io.now();
        let owed = pace.bucket.borrow_mut().owed(now, rate(&load(shard, now)));
        if owed.is_zero() {
            return;
        }
        ioengine::sometimes!("a merge or a seal keeps to its budget");
        shard.io.sleep(owed.min(REST_MAX)).await;
    }
}

fn load(shard: &Shard, now: Instant) -> Load {
    let state = shard.state.borrow();
    let (run_count, level_count) = state.tables.most();
    // Urgent before a flush waits: at three quarters of the bound.
    let is_crowded = run_count * 4 >= shard.limits.runs_per_tablet_max * 3;
    Load {
        floor: shard.limits.maintenance_bytes_per_second,
        flushed: shard.keeper.pace.flushed.borrow().now(now),
        level_count: level_count as u64,
        is_urgent: is_crowded || shard.keeper.is_short(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant { ns: ms * 1_000_000 }
    }

    #[test]
    fn a_job_keeps_to_the_rate_but_for_the_credit_and_a_step() {
        let mut bucket = Bucket { balance: 0, at: at(0) };
        let (mut now, mut spent) = (at(5_000), 0u64);
        let begin = now;
        while spent < 10_000_000 {
            let owed = bucket.owed(now, Some(1_000_000));
            now = now.after(owed);
            if owed.is_zero() {
                bucket.spend(4096);
                spent += 4096;
            }
        }
        let took = now.since(begin);
        assert!((9_890..=9_910).contains(&took.as_millis()), "a tenth of a second was saved up: {took:?}");
    }

    #[test]
    fn a_large_step_is_paid_before_the_next() {
        let mut bucket = Bucket { balance: 0, at: at(0) };
        bucket.spend(2_000_000);
        assert_eq!(bucket.owed(at(0), Some(1_000_000)), Duration::from_secs(2));
        assert_eq!(bucket.owed(at(500), Some(1_000_000)), Duration::from_millis(1_500));
        assert_eq!(bucket.owed(at(500), None), Duration::ZERO, "nobody waits while it is urgent");
        assert_eq!(bucket.owed(at(500), Some(1_000_000)), Duration::ZERO, "and what was owed is forgotten");
    }

    #[test]
    fn the_rate_follows_what_flushes_bring() {
        let idle = Load { floor: 1000, flushed: 0, level_count: 0, is_urgent: false };
        assert_eq!(rate(&idle), Some(1000));
        assert_eq!(rate(&Load { flushed: 100, level_count: 3, ..idle }), Some(1400));
        assert_eq!(rate(&Load { is_urgent: true, ..idle }), None);
        assert_eq!(rate(&Load { floor: 0, ..idle }), Some(1), "it always gets on");
        let mut flushed = Flushed::default();
        assert_eq!(flushed.now(at(0)), 0);
        for n in 0..20 {
            flushed.add(at(1000 * n), 5000);
        }
        assert!((4_900..=5_000).contains(&flushed.now(at(19_500))), "{}", flushed.now(at(19_500)));
        assert_eq!(flushed.now(at(29_000)), 500, "none for ten seconds");
    }

    #[test]
    fn a_step_is_so_many_records_or_bytes() {
        let mut step = Step::of_merge();
        let small = (0..1000).filter(|_| step.add(b"key", Some(b"value"))).count();
        assert_eq!(small, 7);
        let mut step = Step::of_seal();
        assert!(step.add(b"key", Some(&vec![0; 16 << 10])), "a large value is a step");
        assert!(!step.add(b"key", None));
    }
}
