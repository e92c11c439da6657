//! Writing replies into the caller's bytes. Each function returns how many bytes it wrote.
//!
//! # Panics
//! All of them when `out` is too short: the caller reserved what `reply_bytes_*` said.

use layout::units::{LogIndex, LogTime, OPERATION_COUNT_MAX, Space, Version};

use super::decode::HelloReply;
use super::{
    CODE_KNOWN, CODE_REPEATED, CODE_TOO_OLD, batch, get, head, hello, mismatch, multi_get, multi_get_item,
};
use super::{record, records, stream, streams, written};
use crate::field::{Sink, SliceSink, Write};
use crate::outcome::{Outcome, OutcomeCode};

/// Bytes of a reply that is an outcome without a result.
pub const fn reply_bytes_outcome(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::VersionMismatch { .. } => head::BYTES + mismatch::BYTES,
        _ => head::BYTES,
    }
}

/// Bytes of a get's Ok reply.
#[inline]
pub const fn reply_bytes_get_ok(value_bytes: usize) -> usize {
    head::BYTES + get::BYTES + value_bytes
}

/// Bytes of an Ok reply to Put, Delete or CompareAndSet.
pub const fn reply_bytes_written() -> usize {
    head::BYTES + written::BYTES
}

/// Bytes of an Ok reply to Batch.
pub const fn reply_bytes_batch_written() -> usize {
    head::BYTES + batch::BYTES
}

/// Bytes of an Ok reply to MultiGet whose items, each a get's reply, take `items_bytes` together.
pub const fn reply_bytes_multi_get(count: usize, items_bytes: usize) -> usize {
    head::BYTES + multi_get::BYTES + count * multi_get_item::BYTES + items_bytes
}

/// Bytes of an Ok reply to Scan or Head without its records.
pub const fn reply_bytes_records() -> usize {
    head::BYTES + records::BYTES
}

/// Bytes of one record of a Scan or Head reply.
#[inline]
pub const fn reply_bytes_record(value_bytes: usize) -> usize {
    record::BYTES + value_bytes
}

/// Bytes of an Ok reply to Streams without its streams.
pub const fn reply_bytes_streams() -> usize {
    head::BYTES + streams::BYTES
}

/// Bytes of one stream of a Streams reply.
pub const fn reply_bytes_stream(stream_bytes: usize) -> usize {
    stream::BYTES + stream_bytes
}

/// Bytes of an Ok reply to Hello.
pub const fn reply_bytes_hello() -> usize {
    head::BYTES + hello::BYTES
}

/// Bytes of an Ok reply to Ping, Map, Status, Verify or Hot with a payload of this size.
pub const fn reply_bytes_payload(payload_bytes: usize) -> usize {
    head::BYTES + payload_bytes
}

#[inline]
fn head_bytes(outcome: OutcomeCode, code: u8, detail: u32, log_time: LogTime) -> [u8; head::BYTES] {
    [0; head::BYTES]
        .set(head::OUTCOME, [outcome.code()])
        .set(head::CODE, [code])
        .set(head::DETAIL, detail.to_le_bytes())
        .set(head::LOG_TIME, log_time.0.to_le_bytes())
}

/// Bytes of the head of every reply.
pub(crate) const fn reply_head_bytes() -> usize {
    head::BYTES
}

/// The head of a redirect.
pub(crate) fn encode_redirect_head(out: &mut impl Sink, log_time: LogTime) {
    out.put(&head_bytes(OutcomeCode::Redirect, 0, 0, log_time));
}

/// The head of an Ok without code and detail.
pub(crate) fn encode_ok_head(out: &mut impl Sink, log_time: LogTime) {
    out.put(&head_bytes(OutcomeCode::Ok, 0, 0, log_time));
}

#[inline]
fn put_get_ok(out: &mut impl Sink, log_time: LogTime, version: Version, expiry: u64, value: &[u8]) {
    out.put(&head_bytes(OutcomeCode::Ok, 0, value.len() as u32, log_time));
    out.put(
        &[0; get::BYTES].set(get::VERSION, version.0.to_le_bytes()).set(get::EXPIRY, expiry.to_le_bytes()),
    );
    out.put(value);
}

/// The code and the detail that say the rest of an outcome; 0 where there is none.
pub(super) fn code_and_detail(outcome: &Outcome) -> (u8, u32) {
    match *outcome {
        Outcome::Busy { limit, hint_ms } => (limit.code(), hint_ms),
        Outcome::TooLarge { limit } => (limit.code(), 0),
        Outcome::BadRequest { why, at } => (why.code(), at),
        Outcome::WrongGroup { epoch } => (0, epoch),
        Outcome::VersionMismatch { current } => (u8::from(current.is_some()) * CODE_KNOWN, 0),
        Outcome::TooOld => (CODE_TOO_OLD, 0),
        Outcome::NotFound
        | Outcome::NotModified
        | Outcome::NotCurrent
        | Outcome::Moved
        | Outcome::Unauthorized
        | Outcome::Corrupt
        | Outcome::UnknownOutcome
        | Outcome::Timeout => (0, 0),
    }
}

fn put_outcome(out: &mut impl Sink, log_time: LogTime, outcome: &Outcome) {
    let (code, detail) = code_and_detail(outcome);
    out.put(&head_bytes(outcome.code(), code, detail, log_time));
    if let Outcome::VersionMismatch { current } = outcome {
        let current = current.unwrap_or(Version::ABSENT);
        out.put(&[0; mismatch::BYTES].set(mismatch::CURRENT, current.0.to_le_bytes()));
    }
}

/// An outcome without a result, for any operation. `log_time` is the tablet's, 0 when no tablet was asked.
pub fn encode_outcome(out: &mut [u8], log_time: LogTime, outcome: &Outcome) -> usize {
    let mut out = SliceSink::new(out);
    put_outcome(&mut out, log_time, outcome);
    out.used()
}

/// A get's record. The hot path: two fixed heads and one copy of the value.
#[inline]
pub fn encode_get_ok(
    out: &mut [u8],
    log_time: LogTime,
    version: Version,
    expiry: u64,
    value: &[u8],
) -> usize {
    let mut out = SliceSink::new(out);
    put_get_ok(&mut out, log_time, version, expiry, value);
    out.used()
}

/// A put, delete or compare-and-set that was applied at `version`; `repeated` when this answers a retry.
pub fn encode_written(out: &mut [u8], log_time: LogTime, version: Version, repeated: bool) -> usize {
    let mut out = SliceSink::new(out);
    out.put(&head_bytes(OutcomeCode::Ok, u8::from(repeated) * CODE_REPEATED, 0, log_time));
    out.put(&[0; written::BYTES].set(written::VERSION, version.0.to_le_bytes()));
    out.used()
}

/// A batch that was applied: its operation i has version `first + i`.
pub fn encode_batch_written(
    out: &mut [u8],
    log_time: LogTime,
    first: Version,
    count: u32,
    repeated: bool,
) -> usize {
    let mut out = SliceSink::new(out);
    out.put(&head_bytes(OutcomeCode::Ok, u8::from(repeated) * CODE_REPEATED, 0, log_time));
    out.put(
        &[0; batch::BYTES].set(batch::VERSION, first.0.to_le_bytes()).set(batch::COUNT, count.to_le_bytes()),
    );
    out.used()
}

fn encode_payload(out: &mut [u8], payload: &[u8]) -> usize {
    let mut out = SliceSink::new(out);
    out.put(&head_bytes(OutcomeCode::Ok, 0, 0, LogTime(0)));
    out.put(payload);
    out.used()
}

/// Ping's echo.
pub fn encode_echo(out: &mut [u8], body: &[u8]) -> usize {
    encode_payload(out, body)
}

/// The cluster map as [`crate::route::ClusterMap::encode`] wrote it.
pub fn encode_map(out: &mut [u8], map: &[u8]) -> usize {
    encode_payload(out, map)
}

/// Counters as JSON text.
pub fn encode_status(out: &mut [u8], json: &str) -> usize {
    encode_payload(out, json.as_bytes())
}

/// What the server agreed to.
pub fn encode_hello(out: &mut [u8], reply: &HelloReply) -> usize {
    let mut out = SliceSink::new(out);
    out.put(&head_bytes(OutcomeCode::Ok, 0, 0, LogTime(0)));
    out.put(
        &[0; hello::BYTES]
            .set(hello::PROTOCOL, [reply.protocol])
            .set(hello::FRAME_BYTES, reply.frame_bytes.to_le_bytes())
            .set(hello::IN_FLIGHT, reply.in_flight.to_le_bytes())
            .set(hello::NODE, reply.node.to_le_bytes())
            .set(hello::FEATURES, reply.features.to_le_bytes())
            .set(hello::CLUSTER, reply.cluster.0)
            .set(hello::INCARNATION, reply.incarnation.to_le_bytes())
            .set(hello::MAP_EPOCH, reply.map_epoch.to_le_bytes())
            .set(hello::IDLE_MS, reply.idle_ms.to_le_bytes()),
    );
    out.used()
}

/// Writes a MultiGet reply item by item, in any order. Items of several shards can also be written apart with
/// [`MultiGetWriter::items_only`] and put together behind one head.
#[derive(Debug)]
pub struct MultiGetWriter<'a> {
    out: SliceSink<'a>,
}

impl<'a> MultiGetWriter<'a> {
    /// Begins a reply to a multi-get of `count` keys.
    pub fn new(out: &'a mut [u8], count: usize) -> MultiGetWriter<'a> {
        let mut out = SliceSink::new(out);
        out.put(&head_bytes(OutcomeCode::Ok, 0, 0, LogTime(0)));
        out.put(&[0; multi_get::BYTES].set(multi_get::COUNT, (count as u32).to_le_bytes()));
        MultiGetWriter { out }
    }

    /// Only items, no head: a shard's part of a reply.
    pub fn items_only(out: &'a mut [u8]) -> MultiGetWriter<'a> {
        MultiGetWriter { out: SliceSink::new(out) }
    }

    fn index(&mut self, index: u16) {
        self.out.put(&[0; multi_get_item::BYTES].set(multi_get_item::INDEX, index.to_le_bytes()));
    }

    /// The record of key `index`; false, and nothing written, when it does not fit.
    #[must_use]
    #[inline]
    pub fn record(
        &mut self,
        index: u16,
        log_time: LogTime,
        version: Version,
        expiry: u64,
        value: &[u8],
    ) -> bool {
        if self.out.room() < multi_get_item::BYTES + reply_bytes_get_ok(value.len()) {
            return false;
        }
        self.index(index);
        put_get_ok(&mut self.out, log_time, version, expiry, value);
        true
    }

    /// What else became of key `index`; false, and nothing written, when it does not fit.
    #[must_use]
    pub fn outcome(&mut self, index: u16, log_time: LogTime, outcome: &Outcome) -> bool {
        if self.out.room() < multi_get_item::BYTES + reply_bytes_outcome(outcome) {
            return false;
        }
        self.index(index);
        put_outcome(&mut self.out, log_time, outcome);
        true
    }

    /// Bytes written.
    pub fn finish(self) -> usize {
        self.out.used()
    }
}

/// Writes the head of a MultiGet reply in front of items written apart: the first [`reply_bytes_multi_get`]`(0, 0)`
/// bytes of `out`.
pub fn patch_multi_get_head(out: &mut [u8], count: usize) {
    let _ = MultiGetWriter::new(out, count);
}

/// Writes a Scan or Head reply record by record, in the order asked for.
#[derive(Debug)]
pub struct RecordsWriter<'a> {
    out: SliceSink<'a>,
    count: u32,
}

impl<'a> RecordsWriter<'a> {
    /// Begins a reply that holds at most what fits into `out`; `log_index` is the applied index it was read at.
    pub fn new(out: &'a mut [u8], log_time: LogTime, log_index: LogIndex) -> RecordsWriter<'a> {
        let mut out = SliceSink::new(out);
        out.put(&head_bytes(OutcomeCode::Ok, 0, 0, log_time));
        out.put(&[0; records::BYTES].set(records::LOG_INDEX, log_index.0.to_le_bytes()));
        RecordsWriter { out, count: 0 }
    }

    /// Adds a record; false, and nothing written, when it does not fit or the page has all that a page may have.
    #[must_use]
    #[inline]
    pub fn push(&mut self, time: u64, version: Version, expiry: u64, value: &[u8]) -> bool {
        if self.out.room() < reply_bytes_record(value.len()) || self.count as usize == OPERATION_COUNT_MAX {
            return false;
        }
        self.out.put(
            &[0; record::BYTES]
                .set(record::TIME, time.to_le_bytes())
                .set(record::VERSION, version.0.to_le_bytes())
                .set(record::EXPIRY, expiry.to_le_bytes())
                .set(record::VALUE_BYTES, (value.len() as u32).to_le_bytes()),
        );
        self.out.put(value);
        self.count += 1;
        true
    }

    /// Records added.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Ends the reply. `resume` = the time at which the next page begins, None when there is none.
    pub fn finish(mut self, resume: Option<u64>) -> usize {
        let patch = |field: crate::field::Field| head::BYTES + field.offset;
        self.out.patch(patch(records::RESUME), &resume.unwrap_or(0).to_le_bytes());
        self.out.patch(patch(records::COUNT), &self.count.to_le_bytes());
        self.out.patch(patch(records::MORE), &[u8::from(resume.is_some())]);
        self.out.used()
    }
}

/// Writes a Streams reply stream by stream, in key order.
#[derive(Debug)]
pub struct StreamsWriter<'a> {
    out: SliceSink<'a>,
    count: u32,
}

impl<'a> StreamsWriter<'a> {
    /// Begins a reply that holds at most what fits into `out`.
    pub fn new(out: &'a mut [u8], log_time: LogTime) -> StreamsWriter<'a> {
        let mut out = SliceSink::new(out);
        out.put(&head_bytes(OutcomeCode::Ok, 0, 0, log_time));
        out.put(&[0; streams::BYTES]);
        StreamsWriter { out, count: 0 }
    }

    /// Adds a stream; false, and nothing written, when it does not fit or the page has all that a page may have.
    #[must_use]
    pub fn push(&mut self, space: Space, name: &[u8]) -> bool {
        if self.out.room() < reply_bytes_stream(name.len()) || self.count as usize == OPERATION_COUNT_MAX {
            return false;
        }
        self.out.put(
            &[0; stream::BYTES]
                .set(stream::SPACE, space.0.to_le_bytes())
                .set(stream::STREAM_BYTES, [crate::request::stream_bytes(name)]),
        );
        self.out.put(name);
        self.count += 1;
        true
    }

    /// Streams added.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Ends the reply; `more` when a page follows.
    pub fn finish(mut self, more: bool) -> usize {
        self.out.patch(head::BYTES + streams::COUNT.offset, &self.count.to_le_bytes());
        self.out.patch(head::BYTES + streams::MORE.offset, &[u8::from(more)]);
        self.out.used()
    }
}
