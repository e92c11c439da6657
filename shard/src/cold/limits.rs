//! Every bound of a core of a cold node.

use super::disk::ColdLimits;
use super::gray::GrayLimits;
use crate::front::FrontLimits;
use layout::cold_kept::KEPT_COUNT_MAX;
use std::time::Duration;

/// Bounds of a core of a cold node, and of each of its disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdNodeLimits {
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
    /// Bodies of requests that wait for a disk, bytes.
    pub waiting_bytes_max: usize,
    /// Reads that wait for a disk.
    pub read_count_max: usize,
    /// Reads of a disk under way.
    pub reads_in_flight: usize,
    /// Other requests that wait for a disk.
    pub work_count_max: usize,
    /// How long work waits while there are reads, at most.
    pub work_patience: Duration,
    /// Requests on their way to another core.
    pub forward_count_max: u32,
    /// Reservations of a disk, at most 568.
    pub reserved_max: usize,
    /// Damaged places that a disk remembers for repair.
    pub repair_count_max: usize,
    /// How long a damaged place that could not be mended waits for the next try; twice as long each time, up to a thousand times that.
    pub repair_retry: Duration,
    /// In which time every section of a disk is read and checked; 0 = never.
    pub scrub_period: Duration,
    /// What the scrub of a disk reads at most in a second, bytes.
    pub scrub_bytes_per_second: u64,
    /// What an operation of a disk may take, besides its bytes; ten times that is far too slow.
    pub disk_service: Duration,
    /// A disk on which nothing ends for so long is set aside; 0 = none ever is.
    pub disk_hang_after: Duration,
    /// How long a disk is set aside at least; twice as long if that was a short while ago.
    pub aside_min: Duration,
    /// The same at most, however often it was.
    pub aside_max: Duration,
    /// What the filling of a disk that took another's place writes at most in a second, bytes.
    pub rebuild_bytes_per_second: u64,
    /// How long a machine of the group may be silent before a disk is filled from the other one alone.
    pub rebuild_alone_after: Duration,
    /// From a request to its answer, or to `Timeout`.
    pub request_deadline: Duration,
    /// How long an emptied file stays as it is: above `request_deadline`, for clients and redirects under way.
    pub reuse_delay: Duration,
    /// From the begin of a connection to its hello.
    pub hello_deadline: Duration,
    /// From the order to drain to the end.
    pub drain_deadline: Duration,
}

impl Default for ColdNodeLimits {
    fn default() -> ColdNodeLimits {
        ColdNodeLimits {
            arena_bytes: 96 << 20,
            operation_count_max: 1024,
            connection_count_max: 512,
            frame_bytes_max: 4 << 20,
            in_flight_max: 256,
            outbox_bytes_max: 8 << 20,
            waiting_bytes_max: 64 << 20,
            read_count_max: 1024,
            reads_in_flight: 8,
            work_count_max: 64,
            work_patience: Duration::from_millis(200),
            forward_count_max: 256,
            reserved_max: 384,
            repair_count_max: 1024,
            repair_retry: Duration::from_secs(1),
            scrub_period: Duration::from_secs(21 * 24 * 3600),
            scrub_bytes_per_second: 32 << 20,
            disk_service: Duration::from_millis(25),
            disk_hang_after: Duration::from_secs(2),
            aside_min: Duration::from_secs(5),
            aside_max: Duration::from_secs(600),
            rebuild_bytes_per_second: 1 << 30,
            rebuild_alone_after: Duration::from_secs(600),
            request_deadline: Duration::from_secs(30),
            reuse_delay: Duration::from_secs(300),
            hello_deadline: Duration::from_secs(5),
            drain_deadline: Duration::from_secs(10),
        }
    }
}

impl ColdNodeLimits {
    /// Whether they hold together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), String> {
        let frames = net::request::FRAME_BYTES_MIN..=net::frame::BODY_BYTES_MAX;
        let rules = [
            (frames.contains(&self.frame_bytes_max), "a frame has 4 KiB to 4 MiB"),
            (self.outbox_bytes_max > self.frame_bytes_max as usize, "an answer fits its connection"),
            (self.waiting_bytes_max >= self.frame_bytes_max as usize, "a request may wait"),
            (self.connection_count_max > 0 && self.in_flight_max > 0, "there are connections, with requests"),
            (
                [self.read_count_max, self.reads_in_flight, self.work_count_max].iter().all(|one| *one > 0),
                "something may be asked of a disk",
            ),
            (
                self.scrub_bytes_per_second > 0,
                "scrub_bytes_per_second is more than 0; scrub_period 0 ends the scrub",
            ),
            (!self.disk_service.is_zero(), "disk_service is more than 0"),
            (self.aside_min <= self.aside_max, "aside_min is no more than aside_max"),
            (self.rebuild_bytes_per_second > 0, "rebuild_bytes_per_second is more than 0"),
            (self.forward_count_max > 0, "something may go to another core"),
            ((1..=KEPT_COUNT_MAX).contains(&self.reserved_max), "a disk keeps 1 to 568 places"),
            (
                self.reuse_delay > self.request_deadline,
                "an emptied file outlives the requests that may read it",
            ),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err((*rule).to_owned()))
    }

    /// What a core lays out or may come to hold, bytes, part by part; of a node with so many cores.
    #[must_use]
    pub fn memory(&self, core_count: usize) -> Vec<(&'static str, usize)> {
        vec![
            ("buffers", self.arena_bytes),
            ("requests waiting for a disk", self.waiting_bytes_max),
            ("ways to the other machines of the group", super::others::ARENA_BYTES),
            ("rings from other cores", self.ring_bytes() * core_count.saturating_sub(1)),
        ]
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

    pub(super) fn disk(&self) -> ColdLimits {
        ColdLimits { reserved_max: self.reserved_max, reuse_delay: self.reuse_delay }
    }

    pub(super) fn gray(&self) -> GrayLimits {
        GrayLimits {
            service: self.disk_service,
            hang_after: self.disk_hang_after,
            aside_min: self.aside_min,
            aside_max: self.aside_max,
        }
    }

    /// Bytes of a ring from one core to another: two whole requests, and small answers to all that may be asked.
    pub(super) fn ring_bytes(&self) -> usize {
        let small = self.forward_count_max as usize * crate::mesh::SMALL_MESSAGE_BYTES;
        2 * (self.frame_bytes_max as usize + 4096) + small
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_together_and_what_does_not_is_named() {
        assert_eq!(ColdNodeLimits::default().check(), Ok(()));
        let wrong = ColdNodeLimits { reuse_delay: Duration::from_secs(1), ..ColdNodeLimits::default() };
        let found = wrong.check().expect_err("it is below the deadline");
        assert!(found.contains("outlives"), "{found}");
        assert!(ColdNodeLimits { reserved_max: 569, ..ColdNodeLimits::default() }.check().is_err());
    }
}
