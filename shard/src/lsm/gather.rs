//! What tables hold of a range: newest record of each key, in order, until a page is full. Joined with the memtables by
//! whoever asked.

use super::cursor::{Cursors, TableCursor};
use super::table::Table;
use super::zone::ReadError;
use crate::core::Shard;
use crate::memtable::{Direction, Record};
use crate::scan::Span;
use layout::key::{Key, bucket_of};
use layout::table_key::{decode_key, encode_key, encode_stream_prefix};
use layout::units::{BucketIndex, LogTime, STREAM_BYTES_MAX, Space, Version};
use net::request::Streams;
use std::ops::Range;
use std::rc::Rc;

/// Records looked at between two looks at other work.
const STEP_COUNT: u32 = 256;
/// Records looked at for one page: a range of tombstones must not hold a reader for ever.
const LOOKED_AT_MAX: u32 = 65_536;
/// What a scan reads at once when it goes on through a table.
const WINDOW_BYTES: u64 = 128 << 10;

struct Gotten {
    time: u64,
    version: Version,
    expiry_us: u64,
    value: Range<usize>,
}

struct GottenStream {
    bucket: BucketIndex,
    space: Space,
    name: Range<usize>,
}

/// What was found in tables.
pub(crate) struct Gathered {
    bytes: Vec<u8>,
    records: Vec<Gotten>,
    /// The first time that was not gathered any more; `None` when the tables hold no more of the range.
    pub(crate) resume: Option<u64>,
    streams: Vec<GottenStream>,
    /// There are streams behind the last one gathered.
    pub(crate) more_streams: bool,
}

impl Gathered {
    /// Nothing, and nothing more.
    pub(crate) const NONE: Gathered = Gathered {
        bytes: Vec::new(),
        records: Vec::new(),
        resume: None,
        streams: Vec::new(),
        more_streams: false,
    };

    fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.streams.clear();
        (self.resume, self.more_streams) = (None, false);
    }

    /// The records, each with its time, in the direction of the span.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, Record<'_>)> {
        self.records.iter().map(|gotten| {
            let value = Some(&self.bytes[gotten.value.clone()]);
            (gotten.time, Record { version: gotten.version, expiry_us: gotten.expiry_us, value })
        })
    }

    /// The streams in key order.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (BucketIndex, Space, &[u8])> {
        self.streams.iter().map(|one| (one.bucket, one.space, &self.bytes[one.name.clone()]))
    }
}

/// Time of an encoded key.
pub(crate) fn time_of(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(0, |time| u64::from_be_bytes(*time))
}

/// Gather the records of a span that tables hold, until `page_bytes` or the span's limit is reached: those visible at
/// the tablet's log time, in the span's direction, into `reader.gathered`.
pub(crate) async fn gather(
    shard: &Shard,
    span: &Span<'_>,
    page_bytes: usize,
    reader: &mut super::Reader,
) -> Result<(), ReadError> {
    let bucket = bucket_of(span.space, span.stream);
    let (tables, log_time) = {
        let state = shard.state.borrow();
        let tablet = span.tablet();
        let tables: Vec<Rc<Table>> = state.tables.overlapping(tablet, span.from, span.to).cloned().collect();
        (tables, state.tablet(tablet).log_time)
    };
    let super::Reader { gathered, unpack, key, prefix, .. } = reader;
    gathered.clear();
    prefix.clear();
    encode_stream_prefix(prefix, bucket, span.space, span.stream);
    let first = match span.direction {
        Direction::Forward => span.from,
        Direction::Backward => span.to,
    };
    key.clear();
    encode_key(key, bucket, Key { space: span.space, stream: span.stream, time: first });
    let mut cursors = Cursors::new(tables.len(), span.direction);
    for table in tables {
        let mut cursor = TableCursor::new(table, WINDOW_BYTES)?;
        match span.direction {
            Direction::Forward => cursor.seek(key, unpack).await?,
            Direction::Backward => cursor.seek_back(key, unpack).await?,
        };
        cursors.push(cursor);
    }
    let mut looked_at = 0;
    while let Some(cursor) = cursors.next(prefix) {
        key.clear();
        key.extend_from_slice(cursor.key().expect("it is at a record"));
        let time = time_of(key);
        if !(span.from..=span.to).contains(&time) {
            break;
        }
        let is_full = gathered.bytes.len() >= page_bytes
            || (span.record_limit > 0 && gathered.records.len() >= span.record_limit as usize)
            || looked_at >= LOOKED_AT_MAX;
        if is_full {
            gathered.resume = Some(time);
            break;
        }
        if let Some(entry) = cursor.entry()? {
            gathered.push(time, &entry.record, log_time);
        }
        cursors.advance(key, unpack).await?;
        looked_at += 1;
        if looked_at.is_multiple_of(STEP_COUNT) {
            ioengine::sync::yield_now().await;
        }
    }
    Ok(())
}

impl Gathered {
    fn push(&mut self, time: u64, record: &Record<'_>, now: LogTime) {
        let Some(value) = record.value.filter(|_| !now.has_expired(record.expiry_us)) else { return };
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(value);
        let value = begin..self.bytes.len();
        self.records.push(Gotten { time, version: record.version, expiry_us: record.expiry_us, value });
    }
}

/// Gather the streams of a tablet behind `asked.after` that tables know, as many as fit a page.
pub(crate) async fn gather_streams(
    shard: &Shard,
    asked: &Streams<'_>,
    page_bytes: usize,
    reader: &mut super::Reader,
) -> Result<(), ReadError> {
    let tables: Vec<Rc<Table>> =
        shard.state.borrow().tables.overlapping(asked.tablet, 0, u64::MAX).cloned().collect();
    let super::Reader { gathered, unpack, key, .. } = reader;
    gathered.clear();
    key.clear();
    if let Some((space, stream)) = asked.after {
        encode_key(key, bucket_of(space, stream), Key { space, stream, time: u64::MAX });
    }
    let mut cursors = Cursors::new(tables.len(), Direction::Forward);
    for table in tables {
        let mut cursor = TableCursor::new(table, 0)?;
        cursor.seek(key, unpack).await?;
        cursors.push(cursor);
    }
    // A record may stand at the very key that was looked for: the last time there is.
    cursors.advance(key, unpack).await?;
    while let Some(cursor) = cursors.next(&[]) {
        let mut name = [0; STREAM_BYTES_MAX];
        let found = decode_key(cursor.key().expect("it is at a record"), &mut name)
            .map_err(|corrupt| ReadError::Corrupt { table: cursor.table.place.id, corrupt })?;
        let stream = &name[..found.stream_bytes];
        if asked.space.is_none_or(|wanted| wanted == found.space) {
            let is_full = gathered.bytes.len() >= page_bytes
                || (asked.limit > 0 && gathered.streams.len() >= asked.limit as usize);
            if is_full {
                gathered.more_streams = true;
                return Ok(());
            }
            let begin = gathered.bytes.len();
            gathered.bytes.extend_from_slice(stream);
            let name = begin..gathered.bytes.len();
            gathered.streams.push(GottenStream { bucket: found.bucket, space: found.space, name });
        }
        key.clear();
        encode_key(key, found.bucket, Key { space: found.space, stream, time: u64::MAX });
        cursors.pass(key, unpack).await?;
        ioengine::sync::yield_now().await;
    }
    Ok(())
}
