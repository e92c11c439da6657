//! Replies: what a server answers.
//!
//! Owns the 16 bytes that begin every reply body (outcome, detail, log time) and the bodies behind them. Encoding
//! writes into the caller's bytes and never allocates; `reply_bytes_*` say beforehand how much room it takes.
//! Decoding borrows and checks everything, so that iterating over records cannot fail later. Invariant: a reply that
//! decodes has a known outcome that fits its operation.

mod decode;
mod encode;

pub(crate) use decode::Rest;
pub use decode::{
    Answer, HelloReply, MultiGetAnswer, MultiGetItem, Record, Records, Reply, ReplyError, StreamList, Written,
};
pub use encode::{
    MultiGetWriter, RecordsWriter, StreamsWriter, encode_batch_written, encode_echo, encode_get_ok,
    encode_hello, encode_map, encode_outcome, encode_status, encode_written, patch_multi_get_head,
    reply_bytes_batch_written, reply_bytes_get_ok, reply_bytes_hello, reply_bytes_multi_get,
    reply_bytes_outcome, reply_bytes_payload, reply_bytes_record, reply_bytes_records, reply_bytes_stream,
    reply_bytes_streams, reply_bytes_written,
};
pub(crate) use encode::{encode_ok_head, encode_redirect_head, reply_head_bytes};

use crate::field::{Table, wire_table};

wire_table! {
    /// What every reply body begins with.
    head = "reply head", 16;
    OUTCOME = "outcome", 0, 1;
    CODE = "code", 1, 1;
    RESERVED = "reserved", 2, 2;
    DETAIL = "detail", 4, 4;
    LOG_TIME = "log_time", 8, 8;
}
wire_table! {
    mismatch = "VersionMismatch reply", 8;
    CURRENT = "current", 0, 8;
}
wire_table! {
    get = "Get reply", 16;
    VERSION = "version", 0, 8;
    EXPIRY = "expiry", 8, 8;
}
wire_table! {
    multi_get = "MultiGet reply", 8;
    COUNT = "count", 0, 4;
    RESERVED = "reserved", 4, 4;
}
wire_table! {
    multi_get_item = "MultiGet reply item", 4;
    INDEX = "index", 0, 2;
    RESERVED = "reserved", 2, 2;
}
wire_table! {
    written = "write reply", 8;
    VERSION = "version", 0, 8;
}
wire_table! {
    batch = "Batch reply", 16;
    VERSION = "first_version", 0, 8;
    COUNT = "count", 8, 4;
    RESERVED = "reserved", 12, 4;
}
wire_table! {
    records = "Scan and Head reply", 24;
    LOG_INDEX = "log_index", 0, 8;
    RESUME = "resume", 8, 8;
    COUNT = "count", 16, 4;
    MORE = "more", 20, 1;
    RESERVED = "reserved", 21, 3;
}
wire_table! {
    record = "record", 28;
    TIME = "time", 0, 8;
    VERSION = "version", 8, 8;
    EXPIRY = "expiry", 16, 8;
    VALUE_BYTES = "value_bytes", 24, 4;
}
wire_table! {
    streams = "Streams reply", 8;
    COUNT = "count", 0, 4;
    MORE = "more", 4, 1;
    RESERVED = "reserved", 5, 3;
}
wire_table! {
    stream = "stream", 4;
    SPACE = "space", 0, 2;
    STREAM_BYTES = "stream_bytes", 2, 1;
    RESERVED = "reserved", 3, 1;
}
wire_table! {
    hello = "Hello reply", 56;
    PROTOCOL = "protocol", 0, 1;
    RESERVED = "reserved", 1, 3;
    FRAME_BYTES = "frame_bytes", 4, 4;
    IN_FLIGHT = "in_flight", 8, 4;
    NODE = "node", 12, 4;
    FEATURES = "features", 16, 8;
    CLUSTER = "cluster", 24, 16;
    INCARNATION = "incarnation", 40, 4;
    MAP_EPOCH = "map_epoch", 44, 4;
    IDLE_MS = "idle_ms", 48, 4;
    RESERVED_2 = "reserved", 52, 4;
}

/// The tables of this file for the test that reads the document.
pub(crate) fn tables() -> [&'static Table; 12] {
    [
        &head::TABLE,
        &mismatch::TABLE,
        &get::TABLE,
        &multi_get::TABLE,
        &multi_get_item::TABLE,
        &written::TABLE,
        &batch::TABLE,
        &records::TABLE,
        &record::TABLE,
        &streams::TABLE,
        &stream::TABLE,
        &hello::TABLE,
    ]
}

/// Code byte of a `VersionMismatch`: the current version is known.
const CODE_KNOWN: u8 = 1;
/// Code byte of an `Ok` write: it was applied before, this answers a retry.
const CODE_REPEATED: u8 = 1;
/// Code byte of `UnknownOutcome`: the request id is too old; this sending applied nothing.
const CODE_TOO_OLD: u8 = 1;
