//! Durable puts of small records: each a new record of one of some thousand streams.

use super::numbers::{NAME_BYTES, StreamName, fill, hash};
use super::{Workload, request_room};
use layout::key::Key;
use layout::units::{LogTime, Space, TabletIndex};
use net::request::Put;
use net::request_id::RequestIds;
use net::{Operation, Request};

/// Bytes of each value.
pub const VALUE_BYTES: usize = 128;
/// Streams written to.
const STREAM_COUNT: u64 = 4096;
/// Time of the first record: 2025-06-01.
const TIME_FIRST_US: u64 = 1_748_736_000_000_000;

/// Puts.
#[derive(Clone, Debug)]
pub struct PutDurable {
    seed: u64,
    written: u64,
    name: StreamName,
    value: [u8; VALUE_BYTES],
    ids: RequestIds,
    /// Tablets put to, one bit each.
    tablets: u64,
}

impl PutDurable {
    /// Puts without end. `client` is a random number that no other writer has.
    #[must_use]
    pub fn new(seed: u64, client: u64) -> PutDurable {
        PutDurable {
            seed,
            written: 0,
            name: StreamName::of(0),
            value: [0; VALUE_BYTES],
            ids: RequestIds::new(client),
            tablets: u64::MAX,
        }
    }

    /// The same to some tablets only, one bit each.
    #[must_use]
    pub fn only(self, tablets: u64) -> PutDurable {
        assert!(tablets != 0, "there is something to put to");
        PutDurable { tablets, ..self }
    }
}

impl Workload for PutDurable {
    fn operations(&self) -> &'static [Operation] {
        &[Operation::Put]
    }

    fn request_bytes_max(&self) -> usize {
        request_room(1, NAME_BYTES, VALUE_BYTES)
    }

    fn next(&mut self) -> Option<Request<'_>> {
        let random = loop {
            self.written += 1;
            let random = hash(self.seed, self.written);
            self.name = StreamName::of(random % STREAM_COUNT);
            let key = Key { space: Space::DEFAULT, stream: self.name.bytes(), time: 0 };
            if self.tablets >> key.tablet().index() & 1 == 1 {
                break random;
            }
        };
        fill(random, &mut self.value);
        // Each its own microsecond: no two puts meet.
        let time = TIME_FIRST_US + self.written;
        let key = Key { space: Space::DEFAULT, stream: self.name.bytes(), time };
        let id = self.ids.next(0, key.tablet());
        Some(Request::Put(Put { id, key, expiry: 0, value: &self.value }))
    }

    fn learn(&mut self, tablet: TabletIndex, log_time: LogTime) {
        self.ids.learn(0, tablet, log_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_put_is_a_new_record_with_a_new_id() {
        let mut puts = PutDurable::new(1, 1);
        let room = puts.request_bytes_max();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let Some(request @ Request::Put(put)) = puts.next() else { panic!("puts have no end") };
            assert!(request.encoded_bytes() + 32 <= room);
            assert!(seen.insert((put.key.stream.to_vec(), put.key.time, put.id)));
        }
    }
}
