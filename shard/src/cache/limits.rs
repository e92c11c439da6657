//! Every bound of a core of a cache node.

use super::fetch::FetchLimits;
use crate::front::FrontLimits;
use layout::value_ring::RingGeometry;
use std::time::Duration;

/// Bounds of a core of a cache node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Sizes of its value rings.
    pub rings: RingGeometry,
    /// Buffers, bytes.
    pub arena_bytes: usize,
    /// Operations in flight with the kernel.
    pub operation_count_max: usize,
    /// Connections of clients.
    pub connection_count_max: usize,
    /// Longest body of a frame, bytes.
    pub frame_bytes_max: u32,
    /// Requests in flight on a connection.
    pub in_flight_max: u32,
    /// Answers that wait to be sent on a connection, bytes.
    pub outbox_bytes_max: usize,
    /// Answers of multi-gets that are not whole yet, bytes.
    pub waiting_bytes_max: usize,
    /// Gets that wait for the store.
    pub waiting_count_max: usize,
    /// Keys of one store group that are asked about at a time.
    pub fetch_count_max: usize,
    /// Those of them of which nothing is held: a cold cache asks the store for no more.
    pub miss_count_max: usize,
    /// Keys of a batch.
    pub batch_count_max: usize,
    /// Batches under way to one node: what comes meanwhile waits and leaves together.
    pub batches_in_flight: usize,
    /// From a get to its answer, or to `Timeout`.
    pub request_deadline: Duration,
    /// How long one replica may be silent before the next is asked.
    pub patience: Duration,
    /// From the begin of a connection to its hello.
    pub hello_deadline: Duration,
    /// From the order to drain to the end.
    pub drain_deadline: Duration,
}

impl Default for CacheLimits {
    fn default() -> CacheLimits {
        CacheLimits {
            rings: RingGeometry { chain_count: 16, chain_bytes: 16 << 20, line_count: 1 << 14 },
            arena_bytes: 64 << 20,
            operation_count_max: 4096,
            connection_count_max: 1024,
            frame_bytes_max: 4 << 20,
            in_flight_max: 1024,
            outbox_bytes_max: 8 << 20,
            waiting_bytes_max: 64 << 20,
            waiting_count_max: 65_536,
            fetch_count_max: 16_384,
            miss_count_max: 4096,
            batch_count_max: 512,
            batches_in_flight: 2,
            request_deadline: Duration::from_secs(5),
            patience: Duration::from_millis(500),
            hello_deadline: Duration::from_secs(5),
            drain_deadline: Duration::from_secs(5),
        }
    }
}

impl CacheLimits {
    /// Whether they hold together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), String> {
        let rules = [
            (
                self.rings.is_valid(),
                "value rings: 1 to 256 chains of 4 KiB to 64 GiB in steps of 4 KiB, with lines",
            ),
            (
                (net::request::FRAME_BYTES_MIN..=net::frame::BODY_BYTES_MAX).contains(&self.frame_bytes_max),
                "a frame has 4 KiB to 4 MiB",
            ),
            (self.outbox_bytes_max > self.frame_bytes_max as usize, "an answer fits its connection"),
            (self.in_flight_max > 0 && self.connection_count_max > 0, "there are connections, with requests"),
            (self.miss_count_max <= self.fetch_count_max, "misses are fetches"),
            (
                [self.miss_count_max, self.batch_count_max, self.batches_in_flight]
                    .iter()
                    .all(|one| *one > 0),
                "something may be asked",
            ),
            (self.batch_count_max <= layout::units::OPERATION_COUNT_MAX, "a batch is one request"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err((*rule).to_owned()))
    }

    pub(super) fn front(&self) -> FrontLimits {
        FrontLimits {
            connection_count_max: self.connection_count_max,
            frame_bytes_max: self.frame_bytes_max,
            in_flight_max: self.in_flight_max,
            outbox_bytes_max: self.outbox_bytes_max,
            hello_deadline: self.hello_deadline,
            request_deadline: self.request_deadline,
        }
    }

    pub(super) fn fetches(&self) -> FetchLimits {
        FetchLimits {
            of_group: self.fetch_count_max,
            misses_of_group: self.miss_count_max,
            waiting: self.waiting_count_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_together_and_what_does_not_is_named() {
        assert_eq!(CacheLimits::default().check(), Ok(()));
        let wrong = CacheLimits { miss_count_max: 1 << 20, ..CacheLimits::default() };
        assert_eq!(wrong.check(), Err("misses are fetches".to_owned()));
        let wrong = CacheLimits { batches_in_flight: 0, ..CacheLimits::default() };
        assert!(wrong.check().is_err());
    }
}
