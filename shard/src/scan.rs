//! Scans of a stream's times, the newest of a stream, and the streams of a tablet: from the memtables, and from what was
//! gathered of tables before, into the reply, as much as fits, with where to go on.

use crate::apply::State;
use crate::get::visible;
use crate::lsm::Gathered;
use crate::memtable::{Direction, Look, Record, StreamRange};
use layout::key::{bucket_of, tablet_of};
use layout::units::{BUCKET_COUNT, Space, TABLET_COUNT, TabletIndex};
use net::outcome::Outcome;
use net::reply::{RecordsWriter, StreamsWriter};
use net::request::{Head, Scan, Streams};
use std::cmp::Ordering;

/// Records looked at in one turn at most: a stream of tombstones must not hold up everyone else.
const LOOKED_AT_MAX: u32 = 65_536;

/// Searches for streams in one turn at most, once one was found: a page, or two for each bucket of a tablet.
const SEARCHES_MAX: usize = 4096;
const _: () = assert!(
    SEARCHES_MAX == 2 * BUCKET_COUNT as usize / TABLET_COUNT,
    "as many as the buckets of a tablet can take"
);

/// A scan or head, as one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    pub(crate) space: Space,
    pub(crate) stream: &'a [u8],
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) direction: Direction,
    pub(crate) record_limit: u32,
    /// 0: as much as fits.
    pub(crate) byte_limit: u32,
    /// Whatever this replica has will do.
    pub(crate) local: bool,
}

impl<'a> From<Scan<'a>> for Span<'a> {
    fn from(scan: Scan<'a>) -> Span<'a> {
        let direction = if scan.backward { Direction::Backward } else { Direction::Forward };
        Span {
            space: scan.space,
            stream: scan.stream,
            from: scan.from,
            to: scan.to,
            direction,
            record_limit: scan.record_limit,
            byte_limit: scan.byte_limit,
            local: scan.local,
        }
    }
}

impl<'a> From<Head<'a>> for Span<'a> {
    fn from(head: Head<'a>) -> Span<'a> {
        Span {
            space: head.space,
            stream: head.stream,
            from: 0,
            to: u64::MAX,
            direction: Direction::Backward,
            record_limit: head.record_limit,
            byte_limit: head.byte_limit,
            local: head.local,
        }
    }
}

impl Span<'_> {
    pub(crate) fn tablet(&self) -> TabletIndex {
        tablet_of(bucket_of(self.space, self.stream))
    }
}

/// Records of a span that memory alone can answer into `out`, a reply body. `None` when not even one record fits,
/// though there is one. The span's byte limit never keeps back the first record.
pub(crate) fn records(state: &State, span: &Span<'_>, out: &mut [u8]) -> Option<Result<usize, Outcome>> {
    records_with(state, span, &Gathered::NONE, out)
}

/// As [`records`], with what was gathered of tables.
pub(crate) fn records_with(
    state: &State,
    span: &Span<'_>,
    gathered: &Gathered,
    out: &mut [u8],
) -> Option<Result<usize, Outcome>> {
    let limit = span.byte_limit as usize;
    if limit == 0 || limit >= out.len() {
        return page(state, span, gathered, out);
    }
    let least = net::reply::reply_bytes_records();
    if let Some(done) = page(state, span, gathered, &mut out[..limit.max(least)]) {
        return Some(done);
    }
    page(state, &Span { record_limit: 1, ..*span }, gathered, out)
}

fn page(
    state: &State,
    span: &Span<'_>,
    gathered: &Gathered,
    out: &mut [u8],
) -> Option<Result<usize, Outcome>> {
    let bucket = bucket_of(span.space, span.stream);
    let tablet = tablet_of(bucket);
    let own = state.tablet(tablet);
    // What may be missing cannot be shown as absent.
    if own.damage.is_some() && !span.local {
        return Some(Err(Outcome::Corrupt));
    }
    if own.awaits_tables {
        return Some(Err(Outcome::NotCurrent));
    }
    let mut writer = RecordsWriter::new(out, own.log_time, own.applied);
    // Beyond what was gathered, what memory has is not all.
    let times = match (gathered.resume, span.direction) {
        (None, _) => span.from..=span.to,
        (Some(resume), Direction::Forward) => span.from..=resume.saturating_sub(1),
        (Some(resume), Direction::Backward) => resume.saturating_add(1)..=span.to,
    };
    let Span { space, stream, direction, .. } = *span;
    let memory = state
        .memtables
        .stream_range(StreamRange { bucket, space, stream, times, direction })
        .map(|entry| (entry.key.time, entry.record));
    let range = newest_of(memory, gathered.records(), span.direction);
    for (looked_at, (time, record)) in (0..).zip(range) {
        if looked_at == LOOKED_AT_MAX || (span.record_limit > 0 && writer.count() == span.record_limit) {
            return Some(Ok(writer.finish(Some(time))));
        }
        if let Some(record) = visible(record, own.log_time)
            && !writer.push(time, record.version, record.expiry_us, record.value)
        {
            if writer.count() == 0 {
                return None;
            }
            let skip = u64::from(ioengine::canary("scan_skips_a_record"));
            return Some(Ok(writer.finish(Some(time.saturating_add(skip)))));
        }
    }
    Some(Ok(writer.finish(gathered.resume)))
}

/// Records of memory and of tables in one order of time; of a time that both have, memory's is the newer.
fn newest_of<'a>(
    memory: impl Iterator<Item = (u64, Record<'a>)>,
    tables: impl Iterator<Item = (u64, Record<'a>)>,
    direction: Direction,
) -> impl Iterator<Item = (u64, Record<'a>)> {
    let (mut memory, mut tables) = (memory.peekable(), tables.peekable());
    std::iter::from_fn(move || {
        let (Some((a, _)), Some((b, _))) = (memory.peek(), tables.peek()) else {
            return memory.next().or_else(|| tables.next());
        };
        let order = if direction == Direction::Forward { a.cmp(b) } else { b.cmp(a) };
        match order {
            Ordering::Less => memory.next(),
            Ordering::Greater => tables.next(),
            Ordering::Equal => {
                tables.next();
                memory.next()
            }
        }
    })
}

/// Streams of a tablet in key order that memory alone knows into `out`, a reply body.
pub(crate) fn streams(state: &State, asked: &Streams<'_>, out: &mut [u8]) -> Result<usize, Outcome> {
    streams_with(state, asked, &Gathered::NONE, out)
}

/// As [`streams`], with what was gathered of tables.
pub(crate) fn streams_with(
    state: &State,
    asked: &Streams<'_>,
    gathered: &Gathered,
    out: &mut [u8],
) -> Result<usize, Outcome> {
    let tablet = asked.tablet;
    let own = state.tablet(tablet);
    if own.damage.is_some() {
        return Err(Outcome::Corrupt);
    }
    if own.awaits_tables {
        return Err(Outcome::NotCurrent);
    }
    let mut writer = StreamsWriter::new(out, own.log_time);
    let after = asked.after.map(|(space, stream)| (bucket_of(space, stream), space, stream));
    let mut memory = state.memtables.streams(tablet, after, asked.space).peekable();
    let mut tables = gathered.streams().peekable();
    for looked_at in 0.. {
        // A page of none could not say where to go on; looks that find nothing are at most two per bucket.
        if looked_at >= SEARCHES_MAX && writer.count() > 0 {
            ioengine::sometimes!("a page of streams ends for want of time");
            return Ok(writer.finish(true));
        }
        let in_memory = match memory.peek() {
            Some(Look::Passed) => {
                memory.next();
                continue;
            }
            Some(Look::Stream(space, stream)) => Some((bucket_of(*space, stream), *space, *stream)),
            None => None,
        };
        let (bucket, space, stream) = match (in_memory, tables.peek().copied()) {
            // Behind the last stream that was gathered, what memory has is not all.
            (_, None) if gathered.more_streams => return Ok(writer.finish(true)),
            (None, None) => break,
            (Some(a), Some(b)) => a.min(b),
            (Some(one), None) | (None, Some(one)) => one,
        };
        if (asked.limit > 0 && writer.count() == asked.limit) || !writer.push(space, stream) {
            return Ok(writer.finish(true));
        }
        if in_memory == Some((bucket, space, stream)) {
            memory.next();
        }
        if tables.peek() == Some(&(bucket, space, stream)) {
            tables.next();
        }
    }
    Ok(writer.finish(false))
}
