//! Scans of a range of times of a stream: `SCAN_RECORDS` records each, from any record of any stream on, all equally likely.

use super::numbers::{NAME_BYTES, StreamName, fill, hash};
use super::{Workload, request_room};
use layout::key::Key;
use layout::units::{LogTime, Space, TabletIndex};
use net::request::{BatchBody, BatchOperation, Change, Scan};
use net::request_id::RequestIds;
use net::{Operation, Request};

/// Records of each stream.
pub const RECORDS_PER_STREAM: u64 = 4_096;
/// Records that a scan asks for.
pub const SCAN_RECORDS: u64 = 1_000;
/// Bytes of each value.
pub const VALUE_BYTES: usize = 128;
/// Records written together while preloading.
const BATCH_RECORDS: u64 = 64;
const _: () = assert!(RECORDS_PER_STREAM.is_multiple_of(BATCH_RECORDS), "batches divide a stream evenly");
/// Time of the first record of each stream: 2025-04-01.
const TIME_FIRST_US: u64 = 1_743_465_600_000_000;
/// Between two records of a stream: a minute.
const TIME_STEP_US: u64 = 60_000_000;
/// Number of the first stream: none of another workload on the same node.
const STREAM_FIRST: u64 = 10_000_000_000;

fn time_of(record: u64) -> u64 {
    TIME_FIRST_US + (record % RECORDS_PER_STREAM) * TIME_STEP_US
}

/// Scans.
#[derive(Clone, Debug)]
pub struct Scans {
    seed: u64,
    stream_count: u64,
    asked: u64,
    name: StreamName,
}

impl Scans {
    /// Over about `record_count` records, rounded up to whole streams.
    #[must_use]
    pub fn new(record_count: u64, seed: u64) -> Scans {
        let stream_count = record_count.div_ceil(RECORDS_PER_STREAM).max(1);
        Scans { seed, stream_count, asked: 0, name: StreamName::of(STREAM_FIRST) }
    }

    /// Records in all.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.stream_count * RECORDS_PER_STREAM
    }

    /// The writes that make the records. `client` is a random number that no other writer has.
    #[must_use]
    pub fn history(&self, client: u64) -> History {
        History {
            seed: self.seed,
            record_count: self.record_count(),
            written: 0,
            name: self.name,
            body: BatchBody::new(),
            ids: RequestIds::new(client),
        }
    }
}

impl Workload for Scans {
    fn operations(&self) -> &'static [Operation] {
        &[Operation::Scan]
    }

    fn request_bytes_max(&self) -> usize {
        request_room(1, NAME_BYTES, 0)
    }

    fn next(&mut self) -> Option<Request<'_>> {
        self.asked += 1;
        let random = hash(self.seed, self.asked);
        let first = (random >> 32) % (RECORDS_PER_STREAM - SCAN_RECORDS + 1);
        self.name = StreamName::of(STREAM_FIRST + random % self.stream_count);
        Some(Request::Scan(Scan {
            space: Space::DEFAULT,
            stream: self.name.bytes(),
            from: time_of(first),
            to: time_of(first + SCAN_RECORDS - 1),
            backward: false,
            local: false,
            record_limit: 0,
            byte_limit: 0,
        }))
    }
}

/// Writes of all records, some of a stream at a time.
#[derive(Clone, Debug)]
pub struct History {
    seed: u64,
    record_count: u64,
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
        let records = BATCH_RECORDS as usize;
        request_room(records, NAME_BYTES, records * VALUE_BYTES)
    }

    fn next(&mut self) -> Option<Request<'_>> {
        if self.written == self.record_count {
            return None;
        }
        let first = self.written;
        self.written += BATCH_RECORDS;
        self.name = StreamName::of(STREAM_FIRST + first / RECORDS_PER_STREAM);
        self.body.clear();
        let mut value = [0; VALUE_BYTES];
        for record in first..self.written {
            fill(hash(self.seed, record), &mut value);
            let change = Change::Put { expiry: 0, value: &value };
            assert!(
                self.body.push(&BatchOperation { time: time_of(record), change }),
                "a few small records fit a batch"
            );
        }
        let key = Key { space: Space::DEFAULT, stream: self.name.bytes(), time: 0 };
        let id = self.ids.next(0, key.tablet());
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
    fn every_scan_finds_as_many_records_as_it_asks_for() {
        let mut scans = Scans::new(10_000, 3);
        assert_eq!(scans.record_count(), 3 * RECORDS_PER_STREAM);
        let mut history = scans.history(1);
        let room = history.request_bytes_max();
        let mut written = BTreeSet::new();
        while let Some(request @ Request::Batch(batch)) = history.next() {
            assert!(request.encoded_bytes() + 32 <= room);
            for one in batch.operations() {
                assert!(written.insert((batch.stream.to_vec(), one.time)), "each record is written once");
            }
        }
        assert_eq!(written.len() as u64, scans.record_count());
        let room = scans.request_bytes_max();
        let mut begins = BTreeSet::new();
        for _ in 0..200 {
            let Some(request @ Request::Scan(scan)) = scans.next() else { panic!("scans have no end") };
            assert!(request.encoded_bytes() + 32 <= room);
            let range = (scan.stream.to_vec(), scan.from)..=(scan.stream.to_vec(), scan.to);
            assert_eq!(written.range(range).count() as u64, SCAN_RECORDS);
            begins.insert((scan.stream.to_vec(), scan.from));
        }
        assert!(begins.len() > 150);
    }
}
