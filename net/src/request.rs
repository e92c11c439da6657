//! Requests: what a client asks, borrowed from the frame's body.
//!
//! Owns decoding and encoding of every request body. Must never allocate or copy while decoding, and never believe a
//! count or a length before the bytes are there. Invariant: a decoded request is valid as a whole, so iterating a
//! multi-get or a batch cannot fail later. What depends on the state of a tablet (time too far ahead, wrong group) is
//! the shard's to say.

mod hello;
mod read;
mod write;

pub use hello::{AUTH_BYTES_MAX, AuthMethod, FRAME_BYTES_MIN, Hello, Map};
pub use read::{Get, Head, MultiGet, MultiGetBody, Scan, Streams};
pub use write::{
    Batch, BatchBody, BatchOperation, Change, CompareAndSet, Delete, Put, TIME_AT, request_id_at,
};
pub(crate) use {hello::tables as hello_tables, read::tables as read_tables, write::tables as write_tables};

use layout::key::Key;
use layout::units::{STREAM_BYTES_MAX, Space, Version};
use thiserror::Error;

use crate::cold::ColdRequest;
use crate::field::Sink;
use crate::operation::Operation;
use crate::outcome::{Limit, Outcome, Why};

/// A request, borrowed from the body it was decoded from or from what a client is about to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// The first request of a connection.
    Hello(Hello<'a>),
    /// Echo: the whole body comes back.
    Ping(&'a [u8]),
    /// One record.
    Get(Get<'a>),
    /// Many records.
    MultiGet(MultiGet<'a>),
    /// Write a record.
    Put(Put<'a>),
    /// Delete a record.
    Delete(Delete<'a>),
    /// Write a record when its version is the expected one.
    CompareAndSet(CompareAndSet<'a>),
    /// Several writes of one stream, all or none.
    Batch(Batch<'a>),
    /// A range of times of a stream.
    Scan(Scan<'a>),
    /// The newest records of a stream.
    Head(Head<'a>),
    /// The streams of a tablet.
    Streams(Streams<'a>),
    /// The cluster map.
    Map(Map),
    /// Counters of the node.
    Status,
    /// Have replicas compared.
    Verify,
    /// Say anew where reads go: bytes for [`crate::route::ClusterMap::decode`].
    SetMap(&'a [u8]),
    /// The keys asked for most.
    Hot,
    /// About a cold disk.
    Cold(ColdRequest<'a>),
}

/// Why a body is not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The bytes are wrong.
    #[error("{why} (byte {at} of the body)")]
    Bad {
        /// What is wrong.
        why: Why,
        /// Where in the body, bytes.
        at: u32,
    },
    /// A value or a count is over its limit.
    #[error("too large: {limit}")]
    TooLarge {
        /// Which limit.
        limit: Limit,
    },
}

impl RequestError {
    /// The outcome that answers the request.
    pub const fn outcome(self) -> Outcome {
        match self {
            RequestError::Bad { why, at } => Outcome::BadRequest { why, at },
            RequestError::TooLarge { limit } => Outcome::TooLarge { limit },
        }
    }
}

impl<'a> Request<'a> {
    /// Decodes the body of a request.
    ///
    /// # Errors
    /// One thing that is wrong; when several are, which one is not part of the protocol.
    pub fn decode(operation: Operation, body: &'a [u8]) -> Result<Request<'a>, RequestError> {
        let mut body = Body::new(body);
        let request = match operation {
            Operation::Ping => return Ok(Request::Ping(body.rest)),
            Operation::SetMap => return Ok(Request::SetMap(body.rest)),
            Operation::Hello => Request::Hello(Hello::decode(&mut body)?),
            Operation::Get => Request::Get(Get::decode(&mut body)?),
            Operation::MultiGet => Request::MultiGet(MultiGet::decode(&mut body)?),
            Operation::Put => Request::Put(Put::decode(&mut body)?),
            Operation::Delete => Request::Delete(Delete::decode(&mut body)?),
            Operation::CompareAndSet => Request::CompareAndSet(CompareAndSet::decode(&mut body)?),
            Operation::Batch => Request::Batch(Batch::decode(&mut body)?),
            Operation::Scan => Request::Scan(Scan::decode(&mut body)?),
            Operation::Head => Request::Head(Head::decode(&mut body)?),
            Operation::Streams => Request::Streams(Streams::decode(&mut body)?),
            Operation::Map => Request::Map(Map::decode(&mut body)?),
            Operation::Status => Request::Status,
            Operation::Verify => Request::Verify,
            Operation::Hot => Request::Hot,
            operation if operation.is_of_cold() => Request::Cold(ColdRequest::decode(operation, &mut body)?),
            _ => return Err(body.bad(Why::UnknownOperation, 0)),
        };
        body.end()?;
        Ok(request)
    }

    /// Appends the body.
    ///
    /// # Panics
    /// When a stream is not 1..=128 bytes or a value over 4 GiB: the caller has checked its input.
    pub fn encode(&self, out: &mut impl Sink) {
        match self {
            Request::Hello(hello) => hello.encode(out),
            Request::Ping(bytes) | Request::SetMap(bytes) => out.put(bytes),
            Request::Get(get) => get.encode(out),
            Request::MultiGet(many) => many.encode(out),
            Request::Put(put) => put.encode(out),
            Request::Delete(delete) => delete.encode(out),
            Request::CompareAndSet(cas) => cas.encode(out),
            Request::Batch(batch) => batch.encode(out),
            Request::Scan(scan) => scan.encode(out),
            Request::Head(head) => head.encode(out),
            Request::Streams(streams) => streams.encode(out),
            Request::Map(map) => map.encode(out),
            Request::Cold(cold) => cold.encode(out),
            Request::Status | Request::Verify | Request::Hot => {}
        }
    }

    /// Bytes that [`Request::encode`] appends.
    pub fn encoded_bytes(&self) -> usize {
        match self {
            Request::Hello(hello) => hello.encoded_bytes(),
            Request::Ping(bytes) | Request::SetMap(bytes) => bytes.len(),
            Request::Get(get) => get.encoded_bytes(),
            Request::MultiGet(many) => many.encoded_bytes(),
            Request::Put(put) => put.encoded_bytes(),
            Request::Delete(delete) => delete.encoded_bytes(),
            Request::CompareAndSet(cas) => cas.encoded_bytes(),
            Request::Batch(batch) => batch.encoded_bytes(),
            Request::Scan(scan) => scan.encoded_bytes(),
            Request::Head(head) => head.encoded_bytes(),
            Request::Streams(streams) => streams.encoded_bytes(),
            Request::Map(_) => Map::BYTES,
            Request::Cold(cold) => cold.encoded_bytes(),
            Request::Status | Request::Verify | Request::Hot => 0,
        }
    }

    /// The operation of the request.
    pub const fn operation(&self) -> Operation {
        match self {
            Request::Hello(_) => Operation::Hello,
            Request::Ping(_) => Operation::Ping,
            Request::Get(_) => Operation::Get,
            Request::MultiGet(_) => Operation::MultiGet,
            Request::Put(_) => Operation::Put,
            Request::Delete(_) => Operation::Delete,
            Request::CompareAndSet(_) => Operation::CompareAndSet,
            Request::Batch(_) => Operation::Batch,
            Request::Scan(_) => Operation::Scan,
            Request::Head(_) => Operation::Head,
            Request::Streams(_) => Operation::Streams,
            Request::Map(_) => Operation::Map,
            Request::Status => Operation::Status,
            Request::Verify => Operation::Verify,
            Request::SetMap(_) => Operation::SetMap,
            Request::Hot => Operation::Hot,
            Request::Cold(cold) => cold.operation(),
        }
    }

    /// The space and stream that decide where the request goes; None when it is of no stream or of many.
    pub const fn stream(&self) -> Option<(Space, &'a [u8])> {
        match self {
            Request::Get(Get { key, .. })
            | Request::Put(Put { key, .. })
            | Request::Delete(Delete { key, .. })
            | Request::CompareAndSet(CompareAndSet { key, .. }) => Some((key.space, key.stream)),
            Request::Batch(Batch { space, stream, .. })
            | Request::Scan(Scan { space, stream, .. })
            | Request::Head(Head { space, stream, .. }) => Some((*space, stream)),
            Request::Hello(_)
            | Request::Ping(_)
            | Request::MultiGet(_)
            | Request::Streams(_)
            | Request::Map(_)
            | Request::Status
            | Request::Verify
            | Request::SetMap(_)
            | Request::Hot
            // Of a bucket, and where that was sunk to: no tablet answers.
            | Request::Cold(_) => None,
        }
    }
}

/// What is left of a body and where that starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Body<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Body<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Body<'a> {
        Body { rest: bytes, at: 0 }
    }

    /// The error at `offset` from here.
    pub(crate) fn bad(&self, why: Why, offset: usize) -> RequestError {
        RequestError::Bad { why, at: (self.at + offset) as u32 }
    }

    /// The bytes of a fixed structure that starts here. Does not move on, so that errors of its fields are found by
    /// [`Body::bad`]; [`Body::skip`] does.
    #[inline]
    pub(crate) fn head<const N: usize>(&self) -> Result<&'a [u8; N], RequestError> {
        self.rest.first_chunk::<N>().ok_or_else(|| self.bad(Why::Short, self.rest.len()))
    }

    #[inline]
    pub(crate) fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
        self.at += bytes;
    }

    /// The next `bytes` bytes.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'a [u8], RequestError> {
        let taken = self.rest.get(..bytes).ok_or_else(|| self.bad(Why::Short, self.rest.len()))?;
        self.skip(bytes);
        Ok(taken)
    }

    /// A stream of the length that stood at `length_at` bytes before here.
    #[inline]
    pub(crate) fn stream(&mut self, bytes: u8, length_before: usize) -> Result<&'a [u8], RequestError> {
        if bytes == 0 || bytes as usize > STREAM_BYTES_MAX {
            return Err(RequestError::Bad { why: Why::Stream, at: (self.at - length_before) as u32 });
        }
        self.take(bytes as usize)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn end(&self) -> Result<(), RequestError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad(Why::Trailing, 0)) }
    }
}

/// Flags of read requests: answer from this replica without asking the others, and say how old that may be.
pub(crate) const FLAG_LOCAL: u8 = 1 << 0;

/// A stream's length as it stands on the wire.
pub(crate) fn stream_bytes(stream: &[u8]) -> u8 {
    assert!((1..=STREAM_BYTES_MAX).contains(&stream.len()), "a stream has 1 to 128 bytes");
    stream.len() as u8
}

/// A key without checks: the caller has taken the stream from [`Body::stream`].
pub(crate) fn key(space: u16, stream: &[u8], time: u64) -> Key<'_> {
    Key { space: Space(space), stream, time }
}

/// The optional version of a flag and a field.
pub(crate) fn optional_version(given: bool, number: u64) -> Option<Version> {
    given.then_some(Version(number))
}
