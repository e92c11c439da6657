//! Puts that keep a node's background work going, and gets of what was put before: one put to three gets.

use super::numbers::{NAME_BYTES, StreamName, fill, hash};
use super::{Workload, request_room};
use layout::key::Key;
use layout::units::{LogTime, Space, TabletIndex};
use net::request::{Get, Put};
use net::request_id::RequestIds;
use net::{Operation, Request};

/// Bytes of each value.
pub const VALUE_BYTES: usize = 400;
/// Streams written to.
const STREAM_COUNT: u64 = 4096;
/// Time of the first record: 2025-06-01.
const TIME_FIRST_US: u64 = 1_748_736_000_000_000;
/// From one record to the next: so that they make windows of many days.
const STEP_US: u64 = 10_000_000;
/// The newest records are not asked for: their puts may be on their way.
const YOUNG_COUNT: u64 = 50_000;
/// Gets per put.
const GETS: u64 = 3;

/// Bytes of a record that its writer gave: stream, time, value.
pub const GIVEN_BYTES: u64 = (NAME_BYTES + 8 + VALUE_BYTES) as u64;

/// Puts and gets.
#[derive(Clone, Debug)]
pub struct Churn {
    seed: u64,
    /// Puts only, and so many of them.
    loads: Option<u64>,
    written: u64,
    turn: u64,
    name: StreamName,
    value: [u8; VALUE_BYTES],
    ids: RequestIds,
}

impl Churn {
    /// Loads `count` records. `client` is a random number that no other writer has.
    #[must_use]
    pub fn load(seed: u64, client: u64, count: u64) -> Churn {
        let ids = RequestIds::new(client);
        Churn {
            seed,
            loads: Some(count),
            written: 0,
            turn: 0,
            name: StreamName::of(0),
            value: [0; VALUE_BYTES],
            ids,
        }
    }

    /// Goes on without end where a load of `written` records ended.
    #[must_use]
    pub fn go_on(seed: u64, client: u64, written: u64) -> Churn {
        Churn { loads: None, written, ..Churn::load(seed, client, 0) }
    }

    fn key(&mut self, number: u64) -> Key<'_> {
        self.name = StreamName::of(hash(self.seed, number) % STREAM_COUNT);
        Key { space: Space::DEFAULT, stream: self.name.bytes(), time: TIME_FIRST_US + number * STEP_US }
    }

    fn put(&mut self) -> Request<'_> {
        self.written += 1;
        fill(hash(self.seed, self.written), &mut self.value);
        let tablet = self.key(self.written).tablet();
        let id = self.ids.next(0, tablet);
        let time = TIME_FIRST_US + self.written * STEP_US;
        let key = Key { space: Space::DEFAULT, stream: self.name.bytes(), time };
        Request::Put(Put { id, key, expiry: 0, value: &self.value })
    }
}

impl Workload for Churn {
    fn operations(&self) -> &'static [Operation] {
        &[Operation::Put, Operation::Get]
    }

    fn request_bytes_max(&self) -> usize {
        request_room(1, NAME_BYTES, VALUE_BYTES)
    }

    fn next(&mut self) -> Option<Request<'_>> {
        if let Some(count) = self.loads {
            return (self.written < count).then(|| self.put());
        }
        self.turn += 1;
        if self.turn.is_multiple_of(GETS + 1) {
            return Some(self.put());
        }
        let old = self.written.saturating_sub(YOUNG_COUNT).max(1);
        let number = 1 + hash(self.seed ^ 0x9e37, self.turn) % old;
        Some(Request::Get(Get { key: self.key(number), local: false, if_newer: None, redirect: false }))
    }

    fn learn(&mut self, tablet: TabletIndex, log_time: LogTime) {
        self.ids.learn(0, tablet, log_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    type Keys = BTreeSet<(Vec<u8>, u64)>;

    fn keys(mut churn: Churn, count: usize) -> (Keys, Keys) {
        let (mut put, mut got) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..count {
            match churn.next() {
                Some(Request::Put(request)) => {
                    put.insert((request.key.stream.to_vec(), request.key.time));
                }
                Some(Request::Get(request)) => {
                    got.insert((request.key.stream.to_vec(), request.key.time));
                }
                Some(other) => panic!("{other:?}"),
                None => break,
            }
        }
        (put, got)
    }

    #[test]
    fn every_get_asks_for_a_record_that_was_loaded() {
        let (loaded, _) = keys(Churn::load(7, 1, 80_000), usize::MAX);
        assert_eq!(loaded.len(), 80_000);
        let (put, got) = keys(Churn::go_on(7, 2, 80_000), 8_000);
        assert_eq!((put.len(), put.intersection(&loaded).count()), (2_000, 0));
        assert!(got.len() > 5_000 && got.is_subset(&loaded));
    }
}
