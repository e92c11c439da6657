//! Gets of records that are in memory, all keys equally likely: the floor under every other read.

use super::numbers::{NAME_BYTES, StreamName, fill, hash};
use super::{Workload, request_room};
use layout::key::Key;
use layout::units::{LogTime, Space, TabletIndex};
use net::request::{BatchBody, BatchOperation, Change, Get};
use net::request_id::RequestIds;
use net::{Operation, Request};

/// Records of each stream.
const RECORDS_PER_STREAM: u64 = 16;
/// Bytes of each value.
pub const VALUE_BYTES: usize = 128;
/// Time of the first record of each stream: 2025-01-01.
const TIME_FIRST_US: u64 = 1_735_689_600_000_000;
/// Between two records of a stream: an hour.
const TIME_STEP_US: u64 = 3_600_000_000;

/// Time of a record of its stream.
fn time_of(record: u64) -> u64 {
    TIME_FIRST_US + (record % RECORDS_PER_STREAM) * TIME_STEP_US
}

/// Gets.
#[derive(Clone, Debug)]
pub struct GetMemory {
    seed: u64,
    record_count: u64,
    asked: u64,
    name: StreamName,
}

impl GetMemory {
    /// Over `record_count` records, rounded up to whole streams.
    #[must_use]
    pub fn new(record_count: u64, seed: u64) -> GetMemory {
        let record_count = record_count.next_multiple_of(RECORDS_PER_STREAM);
        GetMemory { seed, record_count, asked: 0, name: StreamName::of(0) }
    }

    /// The writes that make what is asked for. `client` is a random number that no other writer has.
    #[must_use]
    pub fn history(&self, client: u64) -> History {
        History {
            stream_count: self.record_count / RECORDS_PER_STREAM,
            written: 0,
            name: StreamName::of(0),
            body: BatchBody::new(),
            ids: RequestIds::new(client),
            seed: self.seed,
        }
    }
}

impl Workload for GetMemory {
    fn operations(&self) -> &'static [Operation] {
        &[Operation::Get]
    }

    fn request_bytes_max(&self) -> usize {
        request_room(1, NAME_BYTES, 0)
    }

    fn next(&mut self) -> Option<Request<'_>> {
        self.asked += 1;
        let record = hash(self.seed, self.asked) % self.record_count;
        self.name = StreamName::of(record / RECORDS_PER_STREAM);
        let key = Key { space: Space::DEFAULT, stream: self.name.bytes(), time: time_of(record) };
        Some(Request::Get(Get { key, local: false, if_newer: None, redirect: false }))
    }
}

/// Writes of all records, a stream at a time.
#[derive(Clone, Debug)]
pub struct History {
    seed: u64,
    stream_count: u64,
    written: u64,
    name: StreamName,
    body: BatchBody,
    ids: RequestIds,
}

impl Workload for History {
    fn operations(&self) -> &'static [Operation] {
        &[Operation::Batch]
    }

    fn request_bytes_max(&self) -> usize {
        let records = RECORDS_PER_STREAM as usize;
        request_room(records, NAME_BYTES, records * VALUE_BYTES)
    }

    fn next(&mut self) -> Option<Request<'_>> {
        if self.written == self.stream_count {
            return None;
        }
        let stream = self.written;
        self.written += 1;
        self.name = StreamName::of(stream);
        self.body.clear();
        let mut value = [0; VALUE_BYTES];
        for number in 0..RECORDS_PER_STREAM {
            let record = stream * RECORDS_PER_STREAM + number;
            fill(hash(self.seed, record), &mut value);
            let change = Change::Put { expiry: 0, value: &value };
            assert!(
                self.body.push(&BatchOperation { time: time_of(record), change }),
                "a few small records fit a batch"
            );
        }
        let tablet = layout::key::tablet_of(layout::key::bucket_of(Space::DEFAULT, self.name.bytes()));
        let id = self.ids.next(0, tablet);
        self.body.request(id, Space::DEFAULT, self.name.bytes()).map(Request::Batch)
    }

    fn learn(&mut self, tablet: TabletIndex, log_time: LogTime) {
        self.ids.learn(0, tablet, log_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_asked_for_was_written() {
        let mut gets = GetMemory::new(100, 3);
        let mut history = gets.history(1);
        let mut written = BTreeSet::new();
        while let Some(Request::Batch(batch)) = history.next() {
            for one in batch.operations() {
                assert!(written.insert((batch.stream.to_vec(), one.time)), "each record is written once");
            }
        }
        assert_eq!(written.len(), 112, "whole streams");
        let mut asked = BTreeSet::new();
        for _ in 0..5_000 {
            let Some(Request::Get(get)) = gets.next() else { panic!("gets have no end") };
            assert!(written.contains(&(get.key.stream.to_vec(), get.key.time)));
            asked.insert((get.key.stream.to_vec(), get.key.time));
        }
        assert_eq!(asked, written, "every record is asked for sooner or later");
    }

    #[test]
    fn requests_keep_to_their_room() {
        let mut gets = GetMemory::new(100, 3);
        let room = gets.history(1).request_bytes_max();
        assert!(gets.history(1).next().unwrap().encoded_bytes() + 32 <= room);
        let room = gets.request_bytes_max();
        assert!(gets.next().unwrap().encoded_bytes() + 32 <= room);
    }
}
