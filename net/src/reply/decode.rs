//! Reading replies: the client's side.

use layout::units::{
    LogIndex, LogTime, OPERATION_COUNT_MAX, STREAM_BYTES_MAX, Space, Uuid, VALUE_BYTES_MAX, Version,
};
use thiserror::Error;

use super::{
    CODE_KNOWN, CODE_REPEATED, CODE_TOO_OLD, batch, get, head, hello, mismatch, multi_get, multi_get_item,
};
use super::{record, records, stream, streams, written};
use crate::cold::ColdAnswer;
use crate::field::{Field, Read};
use crate::operation::Operation;
use crate::outcome::{Limit, Outcome, OutcomeCode, Why};
use crate::redirect::Redirect;

/// A reply, borrowed from the frame's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Log time of the tablet that answered; 0 when none was asked.
    pub log_time: LogTime,
    /// What it says.
    pub answer: Answer<'a>,
}

/// What a reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Any outcome but Ok.
    Not(Outcome),
    /// Hello: what was agreed.
    Hello(HelloReply),
    /// Ping: the body that was sent.
    Echo(&'a [u8]),
    /// Get: the record.
    Record {
        /// Its version.
        version: Version,
        /// When it expires by log time, µs; 0 = never.
        expiry: u64,
        /// Its value.
        value: &'a [u8],
    },
    /// Get with REDIRECT: where the record lies, if there is one.
    Redirect(Redirect),
    /// MultiGet: an answer per key.
    MultiGet(MultiGetAnswer<'a>),
    /// Put, Delete, CompareAndSet: applied.
    Written(Written),
    /// Batch: applied as a whole.
    BatchWritten {
        /// Version of operation 0 and whether this answers a retry; operation i has that version + i.
        first: Written,
        /// How many operations.
        count: u32,
    },
    /// Scan, Head: a page of records.
    Records(Records<'a>),
    /// Streams: a page of streams.
    Streams(StreamList<'a>),
    /// Map, SetMap: bytes for [`crate::route::ClusterMap::decode`].
    Map(&'a [u8]),
    /// Status, Verify and Hot: JSON text.
    Status(&'a str),
    /// An operation about a cold disk; its records are [`Answer::Record`] and [`Answer::Records`].
    Cold(ColdAnswer<'a>),
}

/// A write that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The version that the write has. A delete has one too (its place in the log), while its key's visible version is 0.
    pub version: Version,
    /// It had been applied before: this answers a retry.
    pub repeated: bool,
}

/// What a server agreed to in hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloReply {
    /// The protocol version spoken from here on.
    pub protocol: u8,
    /// The longest body in either direction, bytes.
    pub frame_bytes: u32,
    /// Requests in flight at most.
    pub in_flight: u32,
    /// The node's number in the cluster map.
    pub node: u32,
    /// Features that both sides know, one bit each.
    pub features: u64,
    /// The cluster the node belongs to.
    pub cluster: Uuid,
    /// Which start of the node this is.
    pub incarnation: u32,
    /// Epoch of the node's cluster map.
    pub map_epoch: u32,
    /// The node closes the connection after this long without a frame, ms; 0 = never.
    pub idle_ms: u32,
}

/// Why a body is not a reply to the operation. The connection cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("wrong bytes in the reply to {operation:?}: field {field} at byte {at}")]
pub struct ReplyError {
    /// The operation answered.
    pub operation: Operation,
    /// The first field found wrong, as in PROTOCOL.md.
    pub field: &'static str,
    /// Where in the body, bytes.
    pub at: u32,
}

/// What is left of a reply's body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest<'a> {
    pub(crate) operation: Operation,
    pub(crate) bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    pub(crate) fn wrong(&self, field: Field) -> ReplyError {
        ReplyError { operation: self.operation, field: field.name, at: (self.at + field.offset) as u32 }
    }

    #[inline]
    pub(crate) fn head<const N: usize>(&self) -> Result<&'a [u8; N], ReplyError> {
        self.bytes.first_chunk::<N>().ok_or(self.short())
    }

    fn short(&self) -> ReplyError {
        ReplyError { operation: self.operation, field: "end", at: (self.at + self.bytes.len()) as u32 }
    }

    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'a [u8], ReplyError> {
        let taken = self.bytes.get(..bytes).ok_or(self.short())?;
        self.bytes = &self.bytes[bytes..];
        self.at += bytes;
        Ok(taken)
    }

    fn all(&mut self) -> &'a [u8] {
        self.at += self.bytes.len();
        std::mem::take(&mut self.bytes)
    }

    pub(crate) fn reserved<const N: usize>(&self, fixed: &[u8; N], field: Field) -> Result<(), ReplyError> {
        if fixed.is_zero(field) { Ok(()) } else { Err(self.wrong(field)) }
    }
}

/// Which outcomes an operation can have besides those that every operation can.
fn outcome_fits(operation: Operation, outcome: OutcomeCode) -> bool {
    match outcome {
        OutcomeCode::NotFound => matches!(operation, Operation::Get | Operation::ColdGet),
        OutcomeCode::Redirect => operation == Operation::Get,
        OutcomeCode::Moved => operation.is_of_cold(),
        OutcomeCode::NotModified => matches!(operation, Operation::Get | Operation::Map),
        OutcomeCode::VersionMismatch => operation == Operation::CompareAndSet,
        OutcomeCode::UnknownOutcome => operation.is_write(),
        OutcomeCode::Timeout => !operation.is_write(),
        _ => true,
    }
}

enum Head {
    Ok { code: u8, detail: u32 },
    Redirect,
    Not(Outcome),
}

/// Reads a reply head and, behind it, what belongs to an outcome that is not Ok.
#[inline]
fn decode_head(rest: &mut Rest<'_>, operation: Operation) -> Result<(LogTime, Head), ReplyError> {
    let fixed = rest.head::<{ head::BYTES }>()?;
    let Some(outcome) = OutcomeCode::from_code(fixed.u8(head::OUTCOME)) else {
        return Err(rest.wrong(head::OUTCOME));
    };
    if !outcome_fits(operation, outcome) {
        return Err(rest.wrong(head::OUTCOME));
    }
    rest.reserved(fixed, head::RESERVED)?;
    let (code, detail) = (fixed.u8(head::CODE), fixed.u32(head::DETAIL));
    let log_time = LogTime(fixed.u64(head::LOG_TIME));
    let limit = || Limit::from_code(code).ok_or(rest.wrong(head::CODE));
    let not = match outcome {
        OutcomeCode::Ok => {
            rest.take(head::BYTES)?;
            return Ok((log_time, Head::Ok { code, detail }));
        }
        OutcomeCode::Redirect => {
            if code != 0 {
                return Err(rest.wrong(head::CODE));
            }
            if detail != 0 {
                return Err(rest.wrong(head::DETAIL));
            }
            rest.take(head::BYTES)?;
            return Ok((log_time, Head::Redirect));
        }
        OutcomeCode::Busy => Outcome::Busy { limit: limit()?, hint_ms: detail },
        OutcomeCode::TooLarge => Outcome::TooLarge { limit: limit()? },
        OutcomeCode::BadRequest => {
            Outcome::BadRequest { why: Why::from_code(code).ok_or(rest.wrong(head::CODE))?, at: detail }
        }
        OutcomeCode::WrongGroup => Outcome::WrongGroup { epoch: detail },
        OutcomeCode::VersionMismatch => {
            let mut behind = *rest;
            behind.take(head::BYTES)?;
            let current = Version(behind.head::<{ mismatch::BYTES }>()?.u64(mismatch::CURRENT));
            if code == 0 && current != Version::ABSENT {
                return Err(behind.wrong(mismatch::CURRENT));
            }
            Outcome::VersionMismatch { current: (code == CODE_KNOWN).then_some(current) }
        }
        OutcomeCode::NotFound => Outcome::NotFound,
        OutcomeCode::NotModified => Outcome::NotModified,
        OutcomeCode::Moved => Outcome::Moved,
        OutcomeCode::NotCurrent => Outcome::NotCurrent,
        OutcomeCode::Unauthorized => Outcome::Unauthorized,
        OutcomeCode::Corrupt => Outcome::Corrupt,
        OutcomeCode::UnknownOutcome if code == CODE_TOO_OLD => Outcome::TooOld,
        OutcomeCode::UnknownOutcome => Outcome::UnknownOutcome,
        OutcomeCode::Timeout => Outcome::Timeout,
    };
    let (said_code, said_detail) = super::encode::code_and_detail(&not);
    if code != said_code {
        return Err(rest.wrong(head::CODE));
    }
    if detail != said_detail {
        return Err(rest.wrong(head::DETAIL));
    }
    rest.take(super::encode::reply_bytes_outcome(&not))?;
    Ok((log_time, Head::Not(not)))
}

impl<'a> Reply<'a> {
    /// Decodes the body of a reply to `operation`.
    ///
    /// # Errors
    /// The first field found wrong.
    pub fn decode(operation: Operation, body: &'a [u8]) -> Result<Reply<'a>, ReplyError> {
        let mut rest = Rest { operation, bytes: body, at: 0 };
        let whole = rest;
        let (log_time, outcome) = decode_head(&mut rest, operation)?;
        let answer = match outcome {
            Head::Not(outcome) => Answer::Not(outcome),
            Head::Redirect => Answer::Redirect(Redirect::decode(&mut rest)?),
            Head::Ok { code, detail } => {
                let repeats = operation.is_write();
                if code & !(u8::from(repeats) * CODE_REPEATED) != 0 {
                    return Err(whole.wrong(head::CODE));
                }
                if detail != 0 && !matches!(operation, Operation::Get | Operation::ColdGet) {
                    return Err(whole.wrong(head::DETAIL));
                }
                decode_ok(&mut rest, operation, code == CODE_REPEATED, detail)?
            }
        };
        if rest.bytes.is_empty() { Ok(Reply { log_time, answer }) } else { Err(rest.short()) }
    }
}

fn decode_ok<'a>(
    rest: &mut Rest<'a>,
    operation: Operation,
    repeated: bool,
    detail: u32,
) -> Result<Answer<'a>, ReplyError> {
    Ok(match operation {
        Operation::Hello => Answer::Hello(decode_hello(rest)?),
        Operation::Ping => Answer::Echo(rest.all()),
        Operation::Get | Operation::ColdGet => {
            let (version, expiry, value) = decode_record(rest, detail)?;
            Answer::Record { version, expiry, value }
        }
        Operation::MultiGet => Answer::MultiGet(decode_multi_get(rest)?),
        Operation::Put | Operation::Delete | Operation::CompareAndSet => {
            let version = Version(rest.head::<{ written::BYTES }>()?.u64(written::VERSION));
            if version.is_absent() {
                return Err(rest.wrong(written::VERSION));
            }
            rest.take(written::BYTES)?;
            Answer::Written(Written { version, repeated })
        }
        Operation::Batch => {
            let fixed = rest.head::<{ batch::BYTES }>()?;
            let (version, count) = (Version(fixed.u64(batch::VERSION)), fixed.u32(batch::COUNT));
            if version.is_absent() {
                return Err(rest.wrong(batch::VERSION));
            }
            if count == 0 || count as usize > OPERATION_COUNT_MAX {
                return Err(rest.wrong(batch::COUNT));
            }
            rest.reserved(fixed, batch::RESERVED)?;
            rest.take(batch::BYTES)?;
            Answer::BatchWritten { first: Written { version, repeated }, count }
        }
        Operation::Scan | Operation::Head | Operation::ColdScan => Answer::Records(decode_records(rest)?),
        Operation::Streams => Answer::Streams(decode_streams(rest)?),
        Operation::Map | Operation::SetMap => Answer::Map(rest.all()),
        Operation::Status | Operation::Verify | Operation::Hot => {
            let at = *rest;
            let text = std::str::from_utf8(rest.all());
            Answer::Status(text.map_err(|_| ReplyError { operation, field: "text", at: at.at as u32 })?)
        }
        operation if operation.is_of_cold() => Answer::Cold(crate::cold::decode_answer(rest)?),
        _ => return Err(rest.short()),
    })
}

fn decode_hello(rest: &mut Rest<'_>) -> Result<HelloReply, ReplyError> {
    let fixed = rest.head::<{ hello::BYTES }>()?;
    rest.reserved(fixed, hello::RESERVED)?;
    rest.reserved(fixed, hello::RESERVED_2)?;
    let reply = HelloReply {
        protocol: fixed.u8(hello::PROTOCOL),
        frame_bytes: fixed.u32(hello::FRAME_BYTES),
        in_flight: fixed.u32(hello::IN_FLIGHT),
        node: fixed.u32(hello::NODE),
        features: fixed.u64(hello::FEATURES),
        cluster: Uuid(fixed.bytes(hello::CLUSTER)),
        incarnation: fixed.u32(hello::INCARNATION),
        map_epoch: fixed.u32(hello::MAP_EPOCH),
        idle_ms: fixed.u32(hello::IDLE_MS),
    };
    if !(crate::request::FRAME_BYTES_MIN..=crate::frame::BODY_BYTES_MAX).contains(&reply.frame_bytes) {
        return Err(rest.wrong(hello::FRAME_BYTES));
    }
    if reply.in_flight == 0 {
        return Err(rest.wrong(hello::IN_FLIGHT));
    }
    rest.take(hello::BYTES)?;
    Ok(reply)
}

/// The version, expiry and value behind the head of a get's Ok reply.
#[inline]
fn decode_record<'a>(rest: &mut Rest<'a>, value_bytes: u32) -> Result<(Version, u64, &'a [u8]), ReplyError> {
    let fixed = rest.head::<{ get::BYTES }>()?;
    let version = Version(fixed.u64(get::VERSION));
    if version.is_absent() {
        return Err(rest.wrong(get::VERSION));
    }
    rest.take(get::BYTES)?;
    Ok((version, fixed.u64(get::EXPIRY), rest.take(value_bytes as usize)?))
}

/// A multi-get's answers, in any order, one per key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultiGetAnswer<'a> {
    count: u32,
    items: &'a [u8],
}

/// One key's answer in a [`MultiGetAnswer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultiGetItem<'a> {
    /// Position of the key in the request.
    pub index: u16,
    /// As a get's: [`Answer::Record`] or [`Answer::Not`].
    pub reply: Reply<'a>,
}

fn decode_item<'a>(rest: &mut Rest<'a>) -> Result<MultiGetItem<'a>, ReplyError> {
    let fixed = rest.head::<{ multi_get_item::BYTES }>()?;
    rest.reserved(fixed, multi_get_item::RESERVED)?;
    let index = fixed.u16(multi_get_item::INDEX);
    rest.take(multi_get_item::BYTES)?;
    let whole = *rest;
    let (log_time, outcome) = decode_head(rest, Operation::Get)?;
    let answer = match outcome {
        Head::Not(outcome) => Answer::Not(outcome),
        Head::Ok { code: 0, detail } => {
            let (version, expiry, value) = decode_record(rest, detail)?;
            Answer::Record { version, expiry, value }
        }
        Head::Ok { .. } => return Err(whole.wrong(head::CODE)),
        Head::Redirect => return Err(whole.wrong(head::OUTCOME)),
    };
    Ok(MultiGetItem { index, reply: Reply { log_time, answer } })
}

fn decode_multi_get<'a>(rest: &mut Rest<'a>) -> Result<MultiGetAnswer<'a>, ReplyError> {
    let fixed = rest.head::<{ multi_get::BYTES }>()?;
    let count = fixed.u32(multi_get::COUNT);
    if count == 0 || count as usize > OPERATION_COUNT_MAX {
        return Err(rest.wrong(multi_get::COUNT));
    }
    rest.reserved(fixed, multi_get::RESERVED)?;
    rest.take(multi_get::BYTES)?;
    let items = rest.bytes;
    // Each key is answered exactly once: a repeated index would leave another key without an answer.
    let mut seen = [0u64; OPERATION_COUNT_MAX / 64];
    for _ in 0..count {
        let whole = *rest;
        let index = decode_item(rest)?.index as usize;
        if index >= count as usize || seen[index / 64] & (1 << (index % 64)) != 0 {
            return Err(whole.wrong(multi_get_item::INDEX));
        }
        seen[index / 64] |= 1 << (index % 64);
    }
    Ok(MultiGetAnswer { count, items: &items[..items.len() - rest.bytes.len()] })
}

impl<'a> MultiGetAnswer<'a> {
    /// How many keys were answered.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// The answers in the order in which they came; each index 0..count exactly once.
    pub fn items(&self) -> impl Iterator<Item = MultiGetItem<'a>> + use<'a> {
        let mut rest = Rest { operation: Operation::MultiGet, bytes: self.items, at: 0 };
        (0..self.count)
            .map(move |_| decode_item(&mut rest).expect("the items were checked when the reply was decoded"))
    }
}

/// A page of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Records<'a> {
    /// The tablet's applied log index at which the page was read. Pages of one scan can have different ones.
    pub log_index: LogIndex,
    /// Where the next page begins: its `from` when forward, its `to` when backward. None when this is the last page.
    pub resume: Option<u64>,
    count: u32,
    items: &'a [u8],
}

/// One record of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its time, µs.
    pub time: u64,
    /// Its version.
    pub version: Version,
    /// When it expires by log time, µs; 0 = never.
    pub expiry: u64,
    /// Its value.
    pub value: &'a [u8],
}

#[inline]
fn decode_page_record<'a>(rest: &mut Rest<'a>) -> Result<Record<'a>, ReplyError> {
    let fixed = rest.head::<{ record::BYTES }>()?;
    let version = Version(fixed.u64(record::VERSION));
    if version.is_absent() {
        return Err(rest.wrong(record::VERSION));
    }
    let bytes = fixed.u32(record::VALUE_BYTES) as usize;
    if bytes > VALUE_BYTES_MAX {
        return Err(rest.wrong(record::VALUE_BYTES));
    }
    rest.take(record::BYTES)?;
    Ok(Record {
        time: fixed.u64(record::TIME),
        version,
        expiry: fixed.u64(record::EXPIRY),
        value: rest.take(bytes)?,
    })
}

fn decode_records<'a>(rest: &mut Rest<'a>) -> Result<Records<'a>, ReplyError> {
    let fixed = rest.head::<{ records::BYTES }>()?;
    let (more, resume, count) =
        (fixed.u8(records::MORE), fixed.u64(records::RESUME), fixed.u32(records::COUNT));
    if more > 1 {
        return Err(rest.wrong(records::MORE));
    }
    if more == 0 && resume != 0 {
        return Err(rest.wrong(records::RESUME));
    }
    if count as usize > OPERATION_COUNT_MAX {
        return Err(rest.wrong(records::COUNT));
    }
    rest.reserved(fixed, records::RESERVED)?;
    let log_index = LogIndex(fixed.u64(records::LOG_INDEX));
    rest.take(records::BYTES)?;
    let items = rest.bytes;
    for _ in 0..count {
        decode_page_record(rest)?;
    }
    let items = &items[..items.len() - rest.bytes.len()];
    Ok(Records { log_index, resume: (more == 1).then_some(resume), count, items })
}

impl<'a> Records<'a> {
    /// How many records the page has.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// The records in the order asked for.
    pub fn iter(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let mut rest = Rest { operation: Operation::Scan, bytes: self.items, at: 0 };
        (0..self.count).map(move |_| {
            decode_page_record(&mut rest).expect("the records were checked when the reply was decoded")
        })
    }
}

/// A page of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamList<'a> {
    /// A page follows: ask again with `after` = the last stream of this one.
    pub more: bool,
    count: u32,
    items: &'a [u8],
}

fn decode_stream<'a>(rest: &mut Rest<'a>) -> Result<(Space, &'a [u8]), ReplyError> {
    let fixed = rest.head::<{ stream::BYTES }>()?;
    let bytes = usize::from(fixed.u8(stream::STREAM_BYTES));
    if bytes == 0 || bytes > STREAM_BYTES_MAX {
        return Err(rest.wrong(stream::STREAM_BYTES));
    }
    rest.reserved(fixed, stream::RESERVED)?;
    rest.take(stream::BYTES)?;
    Ok((Space(fixed.u16(stream::SPACE)), rest.take(bytes)?))
}

fn decode_streams<'a>(rest: &mut Rest<'a>) -> Result<StreamList<'a>, ReplyError> {
    let fixed = rest.head::<{ streams::BYTES }>()?;
    let (more, count) = (fixed.u8(streams::MORE), fixed.u32(streams::COUNT));
    // A page without a last stream cannot be followed by another.
    if more > 1 || (more == 1 && count == 0) {
        return Err(rest.wrong(streams::MORE));
    }
    if count as usize > OPERATION_COUNT_MAX {
        return Err(rest.wrong(streams::COUNT));
    }
    rest.reserved(fixed, streams::RESERVED)?;
    rest.take(streams::BYTES)?;
    let items = rest.bytes;
    for _ in 0..count {
        decode_stream(rest)?;
    }
    Ok(StreamList { more: more == 1, count, items: &items[..items.len() - rest.bytes.len()] })
}

impl<'a> StreamList<'a> {
    /// How many streams the page has.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// The streams in key order.
    pub fn iter(&self) -> impl Iterator<Item = (Space, &'a [u8])> + use<'a> {
        let mut rest = Rest { operation: Operation::Streams, bytes: self.items, at: 0 };
        (0..self.count).map(move |_| {
            decode_stream(&mut rest).expect("the streams were checked when the reply was decoded")
        })
    }
}
