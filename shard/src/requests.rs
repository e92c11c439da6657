//! The request ids that a tablet has applied, with their outcomes: a retry of a write is told what the first
//! sending did, and nothing is applied twice.
//!
//! Owns a ring of ids in the order they were applied, of fixed capacity, and an index over it. Must never allocate
//! after start, read a clock, or let an answer depend on anything but the calls of [`RequestTable::record`]: the
//! table is part of the tablet's replicated state, the same at every replica (its index is not, nobody sees it).
//!
//! # The rule
//!
//! An id carries the log time `L` of its tablet that the client knew when it first sent. Log time never runs
//! backwards, so an id is applied at a log time `A ≥ L`, if at all ([`Seen::Ahead`] refuses the others). The table
//! forgets ids only from its oldest end; `floor` is 1 above the highest `A` it has forgotten, 0 at first. Then
//! - an id that is in the table is answered with its outcome;
//! - else, `L ≥ floor`: were it applied and forgotten, `A ≥ L ≥ floor > A`. So it was never applied: new;
//! - else it may have been applied and forgotten, and is never applied (again): too old.
//!
//! An id with `L = 0` (the client knows no log time) needs no rule of its own: it is the smallest log time, new as
//! long as nothing was ever forgotten and too old for ever after. The history that a kinder rule ("0 = first
//! contact, take it") would lose: 0 applied at 5, forgotten at 700, its retry comes at 800 and is applied twice.
//! So the answer to a too old id carries the log time: a client that sent the id *once* knows from
//! this answer that this sending applied nothing, takes a new id with that log time, and sends again; a client that
//! sent it more than once reports `UnknownOutcome`.
//!
//! # When ids go
//!
//! An id is kept for `horizon` of log time. When the table is full, the oldest may go earlier, after `horizon_min`;
//! if it is younger than that, new ids are refused (`Busy`): ci/decisions/0010 has the numbers.

use layout::units::{LogTime, RequestId, Version};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64_with_seed, xxh3_128};

use crate::kept::Kept;
use crate::positions::Positions;

/// Ids past their horizon that one call of [`RequestTable::record`] forgets at most: more than it adds, so that the
/// table shrinks after a burst, and few, so that no write waits for thousands.
const FORGET_COUNT_MAX: usize = 4;

/// Sizes of a table, the same at every replica of a tablet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Ids at most.
    pub capacity: usize,
    /// Log time for which an id is kept when there is room, microseconds.
    pub horizon_us: u64,
    /// Log time for which an id is kept in any case, microseconds; at most `horizon_us`.
    pub horizon_min_us: u64,
}

impl RequestLimits {
    /// Memory that a table of these limits takes at start, bytes.
    #[must_use]
    pub fn footprint_bytes(&self) -> usize {
        self.capacity * size_of::<AppliedRequest>() + Positions::footprint_bytes(self.capacity)
    }
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Status of the reply, as on the wire.
    pub status: u8,
    /// Version the write got, or that it met.
    pub version: Version,
}

/// What a table knows of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Never applied: apply it and record it.
    New,
    /// Applied before, with this outcome: apply nothing.
    Applied(Outcome),
    /// It may have been applied and forgotten: apply nothing, `UnknownOutcome`.
    TooOld,
    /// It names a log time that the tablet has not reached, which no replica can have told a client: never applied,
    /// apply nothing, `BadRequest`. Only the verdict at apply counts; at the door, where this replica may be
    /// behind the one that told the client, treat it as new.
    Ahead,
    /// Never applied, and no room to remember that it was: apply nothing, `Busy`.
    Full,
}

/// An id that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedRequest {
    /// Whose request, and which.
    pub id: RequestId,
    /// Log time at which it was applied.
    pub log_time: LogTime,
    /// What it did.
    pub outcome: Outcome,
}

impl AppliedRequest {
    const NONE: AppliedRequest = AppliedRequest {
        id: RequestId { client: 0, log_time: 0, sequence: 0 },
        log_time: LogTime(0),
        outcome: Outcome { status: 0, version: Version::ABSENT },
    };

    fn hash(&self) -> u128 {
        let mut bytes = [0u8; RequestId::BYTES + 17];
        bytes[..24].copy_from_slice(&self.id.to_bytes());
        bytes[24..32].copy_from_slice(&self.log_time.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.outcome.version.0.to_le_bytes());
        bytes[40] = self.outcome.status;
        xxh3_128(&bytes)
    }
}

/// Request ids of one tablet.
pub struct RequestTable {
    limits: RequestLimits,
    ring: Vec<AppliedRequest>,
    /// Position of the oldest.
    first: usize,
    count: usize,
    /// An id that is not in the table and whose own log time is below this may have been forgotten.
    floor: u64,
    /// Log time of the last call of `record`.
    log_time: LogTime,
    /// Sum of the hashes of the ids in the table.
    sum: u128,
    index: Positions,
    seed: u64,
    /// The table as it was when it was to be written down.
    kept: Option<Kept<AppliedRequest>>,
}

impl RequestTable {
    /// An empty table: the only moment that allocates. `seed` is random and this process's own; it keeps clients
    /// from choosing ids that collide in the index.
    #[must_use]
    pub fn new(limits: RequestLimits, seed: u64) -> RequestTable {
        assert!(limits.horizon_min_us <= limits.horizon_us, "ids are not kept longer when the table is full");
        RequestTable {
            limits,
            ring: vec![AppliedRequest::NONE; limits.capacity],
            first: 0,
            count: 0,
            floor: 0,
            log_time: LogTime(0),
            sum: 0,
            index: Positions::new(limits.capacity),
            seed,
            kept: None,
        }
    }

    /// Let a table that has seen no id have forgotten everything below `floor`.
    pub(crate) fn begin_at(&mut self, floor: LogTime) {
        assert!(self.count == 0 && self.floor == 0, "only a table without ids begins elsewhere");
        self.floor = floor.0;
    }

    /// Put back the next id of a table that was written down, oldest first. What a smaller table cannot hold, it forgets.
    pub(crate) fn restore(&mut self, request: AppliedRequest) {
        if self.count == self.ring.len() {
            self.forget_oldest();
        }
        let position = self.position(self.count);
        self.ring[position] = request;
        self.count += 1;
        self.log_time = self.log_time.max(request.log_time);
        self.sum = self.sum.wrapping_add(request.hash());
        self.index.insert(self.hash(&request.id), position);
    }

    fn hash(&self, id: &RequestId) -> u64 {
        xxh3_64_with_seed(&id.to_bytes(), self.seed)
    }

    fn position(&self, age_rank: usize) -> usize {
        let position = self.first + age_rank;
        if position < self.ring.len() { position } else { position - self.ring.len() }
    }

    /// What is known of an id, for an entry at this log time. Changes nothing. At the door it says what is likely;
    /// what it says when the entry is applied, with the entry's log time, decides.
    #[must_use]
    pub fn check(&self, id: RequestId, log_time: LogTime) -> Seen {
        let found = self.index.find(self.hash(&id), |position| self.ring[position].id == id);
        if let Some(position) = found.filter(|_| !ioengine::canary("forget_request_ids")) {
            return Seen::Applied(self.ring[position].outcome);
        }
        if id.log_time < self.floor {
            Seen::TooOld
        } else if id.log_time > log_time.0 {
            Seen::Ahead
        } else if self.has_room(1, log_time) {
            Seen::New
        } else {
            Seen::Full
        }
    }

    /// Would this many new ids be taken at this log time?
    #[must_use]
    pub fn has_room(&self, id_count: usize, log_time: LogTime) -> bool {
        let free = self.ring.len() - self.count;
        if id_count <= free {
            return true;
        }
        // Ids lie in the order of their log times: if the last one that must go may go, so may those before it.
        let leaving = id_count - free;
        leaving <= self.count
            && self.ring[self.position(leaving - 1)].log_time.0.saturating_add(self.limits.horizon_min_us)
                <= log_time.0
    }

    /// An id was applied at this log time. Called in applied order, for ids of which [`RequestTable::check`] said
    /// [`Seen::New`] at this log time.
    pub fn record(&mut self, id: RequestId, outcome: Outcome, log_time: LogTime) {
        assert!(log_time >= self.log_time, "log time never runs backwards");
        assert_eq!(self.check(id, log_time), Seen::New, "only a new id is applied");
        self.log_time = log_time;
        for _ in 0..FORGET_COUNT_MAX {
            let oldest = self.ring[self.first].log_time.0;
            if self.count == 0 || oldest.saturating_add(self.limits.horizon_us) >= log_time.0 {
                break;
            }
            self.forget_oldest();
        }
        if self.count == self.ring.len() {
            self.forget_oldest();
        }
        let request = AppliedRequest { id, log_time, outcome };
        let position = self.position(self.count);
        if let Some(kept) = &mut self.kept {
            kept.save(&self.ring, position);
        }
        self.ring[position] = request;
        self.count += 1;
        self.sum = self.sum.wrapping_add(request.hash());
        self.index.insert(self.hash(&id), position);
    }

    fn forget_oldest(&mut self) {
        let oldest = self.ring[self.first];
        self.index.remove(self.hash(&oldest.id), self.first);
        self.sum = self.sum.wrapping_sub(oldest.hash());
        self.floor = oldest.log_time.0.saturating_add(1);
        self.first = self.position(1);
        self.count -= 1;
    }

    /// An id that is not in the table and whose own log time is below this is too old.
    #[must_use]
    pub fn floor(&self) -> LogTime {
        LogTime(self.floor)
    }

    /// Ids in the table.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Keep the table as it is now, until [`RequestTable::let_go`]. The ids in it.
    pub(crate) fn keep(&mut self) -> usize {
        self.kept = Some(Kept::new(self.first, self.count));
        self.count
    }

    /// An id that was kept, by its rank in the order they were applied.
    pub(crate) fn kept(&self, rank: usize) -> AppliedRequest {
        self.kept.as_ref().expect("the table was kept").get(&self.ring, rank)
    }

    /// What was kept is written down.
    pub(crate) fn let_go(&mut self) {
        self.kept = None;
    }

    /// The ids in the table, in the order they were applied.
    pub fn entries(&self) -> impl Iterator<Item = &AppliedRequest> {
        (0..self.count).map(|age_rank| &self.ring[self.position(age_rank)])
    }

    /// A number that two replicas have in common when they have applied the same.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let mut hasher = Xxh3Default::new();
        hasher.update(&self.sum.to_le_bytes());
        hasher.update(&(self.count as u64).to_le_bytes());
        hasher.update(&self.floor.to_le_bytes());
        hasher.digest128()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const LIMITS: RequestLimits = RequestLimits { capacity: 8, horizon_us: 100, horizon_min_us: 10 };

    fn id(log_time: u64, sequence: u64) -> RequestId {
        RequestId { client: 1, log_time, sequence }
    }

    fn outcome(version: u64) -> Outcome {
        Outcome { status: 0, version: Version(version) }
    }

    fn table(limits: RequestLimits) -> RequestTable {
        RequestTable::new(limits, 7)
    }

    #[test]
    fn a_retry_gets_the_outcome_of_the_first_sending() {
        let mut table = table(LIMITS);
        assert_eq!(table.check(id(0, 1), LogTime(5)), Seen::New);
        table.record(id(0, 1), outcome(9), LogTime(5));
        assert_eq!(table.check(id(0, 1), LogTime(500)), Seen::Applied(outcome(9)));
        assert_eq!(table.check(id(0, 2), LogTime(5)), Seen::New);
        assert_eq!(table.check(id(1, 1), LogTime(5)), Seen::New);
    }

    /// Applied with log time 0, forgotten, tried again: the history that a kind rule for 0 would lose.
    #[test]
    fn an_unknown_log_time_is_taken_only_until_something_was_forgotten() {
        let mut table = table(LIMITS);
        table.record(id(0, 1), outcome(1), LogTime(5));
        table.record(id(0, 2), outcome(2), LogTime(104));
        assert_eq!(table.check(id(0, 1), LogTime(106)), Seen::Applied(outcome(1)));
        table.record(id(104, 3), outcome(3), LogTime(106));
        assert_eq!(table.floor(), LogTime(6));
        assert_eq!(table.check(id(0, 1), LogTime(106)), Seen::TooOld);
        assert_eq!(table.check(id(0, 4), LogTime(106)), Seen::TooOld);
        assert_eq!(table.check(id(5, 4), LogTime(106)), Seen::TooOld, "5 is the log time of a forgotten one");
        assert_eq!(table.check(id(6, 4), LogTime(106)), Seen::New);
        assert_eq!(table.check(id(0, 2), LogTime(106)), Seen::Applied(outcome(2)));
    }

    #[test]
    fn a_full_table_forgets_early_but_not_too_early() {
        let mut table = table(LIMITS);
        (0..8).for_each(|n| table.record(id(0, n), outcome(n), LogTime(20 + n)));
        assert_eq!(table.check(id(20, 9), LogTime(29)), Seen::Full);
        assert_eq!(table.check(id(0, 3), LogTime(29)), Seen::Applied(outcome(3)), "a retry needs no room");
        assert!(!table.has_room(1, LogTime(29)) && table.has_room(1, LogTime(30)));
        assert!(!table.has_room(2, LogTime(30)) && table.has_room(2, LogTime(31)));
        assert!(table.has_room(8, LogTime(1000)) && !table.has_room(9, LogTime(1000)));
        assert_eq!(table.check(id(20, 9), LogTime(30)), Seen::New);
        table.record(id(20, 9), outcome(9), LogTime(30));
        assert_eq!(table.floor(), LogTime(21));
        assert_eq!(table.check(id(0, 0), LogTime(30)), Seen::TooOld);
        assert_eq!(table.count(), 8);
    }

    #[test]
    fn a_log_time_that_no_replica_told_is_refused_each_time() {
        let mut table = table(LIMITS);
        assert_eq!(table.check(id(21, 1), LogTime(20)), Seen::Ahead);
        table.record(id(20, 2), outcome(2), LogTime(20));
        assert_eq!(table.check(id(21, 1), LogTime(21)), Seen::New, "it was refused, so it was never applied");
    }

    #[test]
    fn a_long_silence_is_forgotten_in_small_steps() {
        let mut table = table(RequestLimits { capacity: 100, ..LIMITS });
        (0..50).for_each(|n| table.record(id(0, n), outcome(n), LogTime(1)));
        table.record(id(900, 100), outcome(0), LogTime(1000));
        assert_eq!(table.count(), 50 - FORGET_COUNT_MAX + 1);
        (1..13).for_each(|n| table.record(id(900, 100 + n), outcome(n), LogTime(1000)));
        assert_eq!(table.count(), 13);
        assert_eq!(table.floor(), LogTime(2));
    }

    #[test]
    #[should_panic(expected = "only a new id")]
    fn to_apply_an_id_twice_is_our_own_bug() {
        let mut table = table(LIMITS);
        table.record(id(0, 1), outcome(1), LogTime(5));
        table.record(id(0, 1), outcome(2), LogTime(6));
    }

    /// The same rules, written plainly: a list, searched from its front.
    struct Naive {
        limits: RequestLimits,
        list: Vec<AppliedRequest>,
        floor: u64,
    }

    impl Naive {
        fn check(&self, id: RequestId, now: u64) -> Seen {
            if let Some(known) = self.list.iter().find(|request| request.id == id) {
                return Seen::Applied(known.outcome);
            }
            let full = self.list.len() == self.limits.capacity
                && now - self.list[0].log_time.0 < self.limits.horizon_min_us;
            match id.log_time {
                known if known < self.floor => Seen::TooOld,
                known if known > now => Seen::Ahead,
                _ if full => Seen::Full,
                _ => Seen::New,
            }
        }

        fn record(&mut self, id: RequestId, outcome: Outcome, now: u64) {
            let mut gone = 0;
            while gone < 4
                && gone < self.list.len()
                && now - self.list[gone].log_time.0 > self.limits.horizon_us
            {
                gone += 1;
            }
            if gone == 0 && self.list.len() == self.limits.capacity {
                gone = 1;
            }
            for request in self.list.drain(..gone) {
                self.floor = request.log_time.0 + 1;
            }
            self.list.push(AppliedRequest { id, log_time: LogTime(now), outcome });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        /// Clients that know the log time of some moment in the past (or none) send new requests and retry old
        /// ones at any time, past both horizons: nothing is applied twice, what is younger than the lower horizon
        /// is always remembered, and two replicas with other seeds agree.
        #[test]
        fn nothing_is_applied_twice(
            steps in prop::collection::vec((0u64..30, 0u64..60, any::<prop::sample::Index>(), 0u8..3), 1..300),
            capacity in 1usize..12,
        ) {
            let limits = RequestLimits { capacity, horizon_us: 60, horizon_min_us: 10 };
            let mut one = RequestTable::new(limits, 1);
            let mut two = RequestTable::new(limits, 2);
            let mut naive = Naive { limits, list: Vec::new(), floor: 0 };
            let mut sent: Vec<RequestId> = Vec::new();
            let mut applied: BTreeMap<RequestId, (u64, Outcome)> = BTreeMap::new();
            let mut now = 0u64;
            for (number, (wait, age, which, kind)) in steps.into_iter().enumerate() {
                // Mostly in bursts, so that the table fills.
                now += wait.saturating_sub(20);
                let id = match kind {
                    0 if !sent.is_empty() => sent[which.index(sent.len())],
                    1 if age % 4 == 0 => id(0, number as u64),
                    _ => id(now.saturating_sub(age), number as u64),
                };
                sent.push(id);
                let seen = one.check(id, LogTime(now));
                prop_assert_eq!(seen, two.check(id, LogTime(now)));
                prop_assert_eq!(seen, naive.check(id, now));
                match (seen, applied.get(&id)) {
                    (Seen::New, known) => {
                        prop_assert_eq!(known, None, "applied twice");
                        let outcome = Outcome { status: kind, version: Version(number as u64) };
                        one.record(id, outcome, LogTime(now));
                        two.record(id, outcome, LogTime(now));
                        naive.record(id, outcome, now);
                        applied.insert(id, (now, outcome));
                    }
                    (Seen::Applied(outcome), known) => {
                        prop_assert_eq!(known.map(|known| known.1), Some(outcome));
                    }
                    (Seen::TooOld, Some((at, _))) => prop_assert!(now - at >= limits.horizon_min_us),
                    (Seen::Full | Seen::Ahead, known) => prop_assert_eq!(known, None),
                    (Seen::TooOld, None) => {}
                }
                prop_assert_eq!(one.digest(), two.digest());
                prop_assert_eq!(one.entries().copied().collect::<Vec<_>>(), naive.list.clone());
                prop_assert_eq!(one.floor().0, naive.floor);
            }
        }
    }

    #[test]
    fn the_digest_tells_states_apart() {
        let digest = |requests: &[(u64, u64, u64)]| {
            let mut table = table(LIMITS);
            requests
                .iter()
                .for_each(|&(n, version, at)| table.record(id(0, n), outcome(version), LogTime(at)));
            table.digest()
        };
        let base = digest(&[(1, 1, 1), (2, 2, 2)]);
        assert_ne!(base, digest(&[(1, 1, 1), (2, 2, 3)]));
        assert_ne!(base, digest(&[(1, 1, 1), (2, 3, 2)]));
        assert_ne!(base, digest(&[(1, 1, 1)]));
        assert_eq!(base, digest(&[(1, 1, 1), (2, 2, 2)]));
        // What is forgotten leaves no trace but the floor.
        assert_eq!(digest(&[(1, 1, 1), (2, 2, 200)]), digest(&[(3, 7, 1), (2, 2, 200)]));
        assert_ne!(digest(&[(1, 1, 1), (2, 2, 200)]), digest(&[(3, 7, 2), (2, 2, 200)]));
    }
}
