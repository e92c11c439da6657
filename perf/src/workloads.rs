//! What is asked of a server, in which order: deterministic from a seed. A workload speaks in requests of our protocol
//! and owns the bytes they borrow; it never waits, reads a clock or knows who answers.

pub mod churn;
pub mod get_memory;
pub mod ingest;
pub mod numbers;
pub mod put_durable;
pub mod scans;
pub mod timeline;
pub mod ycsb;

use layout::units::{LogTime, TabletIndex};
use net::{Operation, Request};

/// A source of requests. Must not allocate in `next` once it is made.
pub trait Workload {
    /// The operations it uses.
    fn operations(&self) -> &'static [Operation];

    /// Bytes that one of its requests takes at most on any wire: see [`request_room`].
    fn request_bytes_max(&self) -> usize;

    /// The next request; `None` when there are no more.
    fn next(&mut self) -> Option<Request<'_>>;

    /// The next request on a connection, by its number. Of one that has one request in flight at most, what it was asked before was
    /// answered.
    fn next_on(&mut self, connection: usize) -> Option<Request<'_>> {
        let _ = connection;
        self.next()
    }

    /// The answer to a write told the log time of its tablet: ids of later writes carry it.
    fn learn(&mut self, tablet: TabletIndex, log_time: LogTime) {
        let _ = (tablet, log_time);
    }
}

/// Bytes that a request of `record_count` records of a stream of `stream_bytes` and `value_bytes` in all takes at most
/// on any wire: a frame of ours, or one command for each record.
#[must_use]
pub const fn request_room(record_count: usize, stream_bytes: usize, value_bytes: usize) -> usize {
    256 + record_count * (128 + stream_bytes) + value_bytes
}
