//! What a generator talks: our protocol, or that of somebody it is compared with. A workload speaks in requests of
//! ours; a wire turns them into bytes and answers back into outcomes, without allocating. One value per connection.

pub mod echo;
pub mod etcd;
pub mod memcached;
pub mod redis;
pub mod thermocline;

use super::meter::Heard;
use layout::units::LogTime;
use net::Request;

/// An answer, as far as a generator looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The number that the request was given.
    pub tag: u32,
    /// What it says.
    pub heard: Heard,
    /// Log time of the tablet; 0 where there is none.
    pub log_time: LogTime,
    /// Of `Busy`: when to come again, in milliseconds; else 0.
    pub hint_ms: u32,
}

/// What stands at the front of the bytes received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// An answer of this many bytes.
    Answer(Answered, usize),
    /// Part of an answer that takes more, of this many bytes.
    Part(usize),
    /// More bytes are wanted, to this count in all.
    Need(usize),
}

/// What came is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's answer: {0}")]
pub struct WireError(pub String);

/// One side of one connection.
pub trait Wire {
    /// Bytes that open the connection, written to `out`; 0 when there is nothing to say.
    fn open(&mut self, out: &mut [u8]) -> usize;

    /// Look for the answer to what `open` sent. Bytes it took, or `None` when more are needed.
    ///
    /// # Errors
    /// The server refuses.
    fn opened(&mut self, input: &[u8]) -> Result<Option<usize>, WireError>;

    /// Bytes that `request` takes at most.
    fn request_bytes_max(&self, request: &Request<'_>) -> usize;

    /// Write `request` to `out` and remember `tag` for its answer. Returns the bytes written.
    fn request(&mut self, request: &Request<'_>, tag: u32, out: &mut [u8]) -> usize;

    /// What stands at the front of `input`.
    ///
    /// # Errors
    /// What came is no answer to what was sent.
    fn next(&mut self, input: &[u8]) -> Result<Next, WireError>;
}
