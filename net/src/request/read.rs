//! Bodies of the requests that read: Get, MultiGet, Scan, Head, Streams.

use layout::key::Key;
use layout::units::{OPERATION_COUNT_MAX, STREAM_BYTES_MAX, Space, TabletIndex, Version};

use super::{Body, FLAG_LOCAL, RequestError, key, optional_version, stream_bytes};
use crate::field::{Read, Sink, Table, Write, wire_table};
use crate::operation::Operation;
use crate::outcome::{Limit, Why};

wire_table! {
    get = "Get", 24;
    SPACE = "space", 0, 2;
    STREAM_BYTES = "stream_bytes", 2, 1;
    FLAGS = "flags", 3, 1;
    RESERVED = "reserved", 4, 4;
    TIME = "time", 8, 8;
    IF_NEWER = "if_newer", 16, 8;
}
wire_table! {
    multi_get = "MultiGet", 8;
    COUNT = "count", 0, 2;
    RESERVED = "reserved", 2, 6;
}
wire_table! {
    scan = "Scan", 32;
    SPACE = "space", 0, 2;
    STREAM_BYTES = "stream_bytes", 2, 1;
    FLAGS = "flags", 3, 1;
    RECORD_LIMIT = "record_limit", 4, 4;
    FROM = "from", 8, 8;
    TO = "to", 16, 8;
    BYTE_LIMIT = "byte_limit", 24, 4;
    RESERVED = "reserved", 28, 4;
}
wire_table! {
    head = "Head", 16;
    SPACE = "space", 0, 2;
    STREAM_BYTES = "stream_bytes", 2, 1;
    FLAGS = "flags", 3, 1;
    RECORD_LIMIT = "record_limit", 4, 4;
    BYTE_LIMIT = "byte_limit", 8, 4;
    RESERVED = "reserved", 12, 4;
}
wire_table! {
    streams = "Streams", 16;
    TABLET = "tablet", 0, 1;
    FLAGS = "flags", 1, 1;
    AFTER_SPACE = "after_space", 2, 2;
    SPACE = "space", 4, 2;
    AFTER_STREAM_BYTES = "after_stream_bytes", 6, 1;
    RESERVED = "reserved", 7, 1;
    LIMIT = "limit", 8, 4;
    GROUP = "group", 12, 2;
    RESERVED_2 = "reserved", 14, 2;
}

/// The tables of this file for the test that reads the document.
pub(crate) fn tables() -> [&'static Table; 5] {
    [&get::TABLE, &multi_get::TABLE, &scan::TABLE, &head::TABLE, &streams::TABLE]
}

/// Get: `if_newer` holds a version to compare with.
const FLAG_IF_NEWER: u8 = 1 << 1;
/// Get: where the record lies may be answered in its place.
const FLAG_REDIRECT: u8 = 1 << 2;
/// Scan: from the end of the range to its beginning.
const FLAG_BACKWARD: u8 = 1 << 1;
/// Streams: go on after the stream in the body.
const FLAG_AFTER: u8 = 1 << 0;
/// Streams: only those of `space`.
const FLAG_ONE_SPACE: u8 = 1 << 1;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Get<'a> {
    /// Which one.
    pub key: Key<'a>,
    /// Answer from this replica without asking the others.
    pub local: bool,
    /// Answer `NotModified` when the current version equals this one; 0 asks "still absent?".
    pub if_newer: Option<Version>,
    /// Answer where the record lies when it lies on cold disks; not among those of a MultiGet.
    pub redirect: bool,
}

impl<'a> Get<'a> {
    #[inline]
    pub(super) fn decode(body: &mut Body<'a>) -> Result<Get<'a>, RequestError> {
        let fixed = body.head::<{ get::BYTES }>()?;
        let flags = fixed.u8(get::FLAGS);
        if flags & !(FLAG_LOCAL | FLAG_IF_NEWER | FLAG_REDIRECT) != 0 {
            return Err(body.bad(Why::Flags, get::FLAGS.offset));
        }
        if !fixed.is_zero(get::RESERVED) {
            return Err(body.bad(Why::Reserved, get::RESERVED.offset));
        }
        let if_newer = optional_version(flags & FLAG_IF_NEWER != 0, fixed.u64(get::IF_NEWER));
        if if_newer.is_none() && !fixed.is_zero(get::IF_NEWER) {
            return Err(body.bad(Why::Version, get::IF_NEWER.offset));
        }
        body.skip(get::BYTES);
        let stream = body.stream(fixed.u8(get::STREAM_BYTES), get::BYTES - get::STREAM_BYTES.offset)?;
        Ok(Get {
            key: key(fixed.u16(get::SPACE), stream, fixed.u64(get::TIME)),
            local: flags & FLAG_LOCAL != 0,
            if_newer,
            redirect: flags & FLAG_REDIRECT != 0,
        })
    }

    /// The key of the frame at the start of `input`, if it looks like a get, and the frame's bytes. Nothing is checked
    /// but that the bytes are there: a hint for bringing near what a batch of gets will read, never an answer.
    #[inline]
    pub fn peek(input: &'a [u8]) -> Option<(Option<Key<'a>>, usize)> {
        let (operation, body_bytes) = crate::frame::peek(input)?;
        let frame_bytes = crate::frame::HEADER_BYTES.checked_add(body_bytes)?;
        let body = input.get(crate::frame::HEADER_BYTES..frame_bytes)?;
        if operation != Operation::Get.code() {
            return Some((None, frame_bytes));
        }
        let fixed = body.first_chunk::<{ get::BYTES }>()?;
        let bytes = usize::from(fixed.u8(get::STREAM_BYTES));
        let stream = body
            .get(get::BYTES..get::BYTES + bytes)
            .filter(|stream| (1..=STREAM_BYTES_MAX).contains(&stream.len()))?;
        Some((Some(key(fixed.u16(get::SPACE), stream, fixed.u64(get::TIME))), frame_bytes))
    }

    pub(super) fn encode(&self, out: &mut impl Sink) {
        let flags = u8::from(self.local) * FLAG_LOCAL
            + u8::from(self.if_newer.is_some()) * FLAG_IF_NEWER
            + u8::from(self.redirect) * FLAG_REDIRECT;
        out.put(
            &[0; get::BYTES]
                .set(get::SPACE, self.key.space.0.to_le_bytes())
                .set(get::STREAM_BYTES, [stream_bytes(self.key.stream)])
                .set(get::FLAGS, [flags])
                .set(get::TIME, self.key.time.to_le_bytes())
                .set(get::IF_NEWER, self.if_newer.unwrap_or(Version::ABSENT).0.to_le_bytes()),
        );
        out.put(self.key.stream);
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        get::BYTES + self.key.stream.len()
    }
}

/// Up to 4096 gets in one request, of any streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultiGet<'a> {
    count: u16,
    /// `count` bodies of Get, one after the other; checked when decoded or built.
    items: &'a [u8],
}

impl<'a> MultiGet<'a> {
    pub(super) fn decode(body: &mut Body<'a>) -> Result<MultiGet<'a>, RequestError> {
        let fixed = body.head::<{ multi_get::BYTES }>()?;
        let count = fixed.u16(multi_get::COUNT);
        if count == 0 {
            return Err(body.bad(Why::Count, multi_get::COUNT.offset));
        }
        if count as usize > OPERATION_COUNT_MAX {
            return Err(RequestError::TooLarge { limit: Limit::Operations });
        }
        if !fixed.is_zero(multi_get::RESERVED) {
            return Err(body.bad(Why::Reserved, multi_get::RESERVED.offset));
        }
        body.skip(multi_get::BYTES);
        let items = body.rest();
        for _ in 0..count {
            let begin = *body;
            if Get::decode(body)?.redirect {
                return Err(begin.bad(Why::Flags, get::FLAGS.offset));
            }
        }
        Ok(MultiGet { count, items: &items[..items.len() - body.rest().len()] })
    }

    pub(super) fn encode(&self, out: &mut impl Sink) {
        out.put(&[0; multi_get::BYTES].set(multi_get::COUNT, self.count.to_le_bytes()));
        out.put(self.items);
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        multi_get::BYTES + self.items.len()
    }

    /// How many gets, 1..=4096.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// The gets in order; the position of each is the index its answer carries.
    pub fn gets(&self) -> impl Iterator<Item = Get<'a>> + use<'a> {
        let mut body = Body::new(self.items);
        (0..self.count)
            .map(move |_| Get::decode(&mut body).expect("the items were checked when the request was made"))
    }
}

/// Builds the items of a [`MultiGet`]. Reuse it to keep its memory.
#[derive(Debug, Clone, Default)]
pub struct MultiGetBody {
    count: u16,
    items: Vec<u8>,
}

impl MultiGetBody {
    /// Empty.
    pub fn new() -> MultiGetBody {
        MultiGetBody::default()
    }

    /// Forgets all gets and keeps the memory.
    pub fn clear(&mut self) {
        self.count = 0;
        self.items.clear();
    }

    /// Adds a get; false when 4096 are there already.
    ///
    /// # Panics
    /// When the stream is not 1..=128 bytes, or the get may be redirected.
    #[must_use]
    pub fn push(&mut self, get: &Get<'_>) -> bool {
        assert!(!get.redirect, "the keys of a multi-get are not redirected");
        if self.count as usize == OPERATION_COUNT_MAX {
            return false;
        }
        get.encode(&mut self.items);
        self.count += 1;
        true
    }

    /// The request; None when nothing was pushed.
    pub fn request(&self) -> Option<MultiGet<'_>> {
        (self.count > 0).then_some(MultiGet { count: self.count, items: &self.items })
    }
}

/// Records of one stream whose times are in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan<'a> {
    /// Namespace.
    pub space: Space,
    /// Owner of the records.
    pub stream: &'a [u8],
    /// First time, inclusive, µs.
    pub from: u64,
    /// Last time, inclusive, µs; not below `from`.
    pub to: u64,
    /// Newest first instead of oldest first.
    pub backward: bool,
    /// Answer from this replica without asking the others.
    pub local: bool,
    /// At most this many records; 0 = as many as fit.
    pub record_limit: u32,
    /// At most this many bytes of records, but always one record; 0 = as many as fit in the frame.
    pub byte_limit: u32,
}

impl<'a> Scan<'a> {
    pub(super) fn decode(body: &mut Body<'a>) -> Result<Scan<'a>, RequestError> {
        let fixed = body.head::<{ scan::BYTES }>()?;
        let flags = fixed.u8(scan::FLAGS);
        if flags & !(FLAG_LOCAL | FLAG_BACKWARD) != 0 {
            return Err(body.bad(Why::Flags, scan::FLAGS.offset));
        }
        let (from, to) = (fixed.u64(scan::FROM), fixed.u64(scan::TO));
        if from > to {
            return Err(body.bad(Why::Range, scan::FROM.offset));
        }
        if !fixed.is_zero(scan::RESERVED) {
            return Err(body.bad(Why::Reserved, scan::RESERVED.offset));
        }
        body.skip(scan::BYTES);
        let stream = body.stream(fixed.u8(scan::STREAM_BYTES), scan::BYTES - scan::STREAM_BYTES.offset)?;
        Ok(Scan {
            space: Space(fixed.u16(scan::SPACE)),
            stream,
            from,
            to,
            backward: flags & FLAG_BACKWARD != 0,
            local: flags & FLAG_LOCAL != 0,
            record_limit: fixed.u32(scan::RECORD_LIMIT),
            byte_limit: fixed.u32(scan::BYTE_LIMIT),
        })
    }

    /// The key of the frame at the start of `input`, if it looks like a get, and the frame's bytes. Nothing is checked
    /// but that the bytes are there: a hint for bringing near what a batch of gets will read, never an answer.
    #[inline]
    pub fn peek(input: &'a [u8]) -> Option<(Option<Key<'a>>, usize)> {
        let (operation, body_bytes) = crate::frame::peek(input)?;
        let frame_bytes = crate::frame::HEADER_BYTES.checked_add(body_bytes)?;
        let body = input.get(crate::frame::HEADER_BYTES..frame_bytes)?;
        if operation != Operation::Get.code() {
            return Some((None, frame_bytes));
        }
        let fixed = body.first_chunk::<{ get::BYTES }>()?;
        let bytes = usize::from(fixed.u8(get::STREAM_BYTES));
        let stream = body
            .get(get::BYTES..get::BYTES + bytes)
            .filter(|stream| (1..=STREAM_BYTES_MAX).contains(&stream.len()))?;
        Some((Some(key(fixed.u16(get::SPACE), stream, fixed.u64(get::TIME))), frame_bytes))
    }

    pub(super) fn encode(&self, out: &mut impl Sink) {
        let flags = u8::from(self.local) * FLAG_LOCAL + u8::from(self.backward) * FLAG_BACKWARD;
        out.put(
            &[0; scan::BYTES]
                .set(scan::SPACE, self.space.0.to_le_bytes())
                .set(scan::STREAM_BYTES, [stream_bytes(self.stream)])
                .set(scan::FLAGS, [flags])
                .set(scan::RECORD_LIMIT, self.record_limit.to_le_bytes())
                .set(scan::FROM, self.from.to_le_bytes())
                .set(scan::TO, self.to.to_le_bytes())
                .set(scan::BYTE_LIMIT, self.byte_limit.to_le_bytes()),
        );
        out.put(self.stream);
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        scan::BYTES + self.stream.len()
    }
}

/// The newest records of one stream, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// Namespace.
    pub space: Space,
    /// Owner of the records.
    pub stream: &'a [u8],
    /// Answer from this replica without asking the others.
    pub local: bool,
    /// At most this many records; 0 = as many as fit.
    pub record_limit: u32,
    /// At most this many bytes of records, but always one record; 0 = as many as fit in the frame.
    pub byte_limit: u32,
}

impl<'a> Head<'a> {
    pub(super) fn decode(body: &mut Body<'a>) -> Result<Head<'a>, RequestError> {
        let fixed = body.head::<{ head::BYTES }>()?;
        let flags = fixed.u8(head::FLAGS);
        if flags & !FLAG_LOCAL != 0 {
            return Err(body.bad(Why::Flags, head::FLAGS.offset));
        }
        if !fixed.is_zero(head::RESERVED) {
            return Err(body.bad(Why::Reserved, head::RESERVED.offset));
        }
        body.skip(head::BYTES);
        let stream = body.stream(fixed.u8(head::STREAM_BYTES), head::BYTES - head::STREAM_BYTES.offset)?;
        Ok(Head {
            space: Space(fixed.u16(head::SPACE)),
            stream,
            local: flags & FLAG_LOCAL != 0,
            record_limit: fixed.u32(head::RECORD_LIMIT),
            byte_limit: fixed.u32(head::BYTE_LIMIT),
        })
    }

    pub(super) fn encode(&self, out: &mut impl Sink) {
        out.put(
            &[0; head::BYTES]
                .set(head::SPACE, self.space.0.to_le_bytes())
                .set(head::STREAM_BYTES, [stream_bytes(self.stream)])
                .set(head::FLAGS, [u8::from(self.local) * FLAG_LOCAL])
                .set(head::RECORD_LIMIT, self.record_limit.to_le_bytes())
                .set(head::BYTE_LIMIT, self.byte_limit.to_le_bytes()),
        );
        out.put(self.stream);
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        head::BYTES + self.stream.len()
    }
}

/// The streams of one tablet in key order (bucket, space, stream as bytes), page by page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams<'a> {
    /// The group of the tablet.
    pub group: u16,
    /// The tablet.
    pub tablet: TabletIndex,
    /// Only streams of this space.
    pub space: Option<Space>,
    /// Only streams behind this one in key order: the last of the page before.
    pub after: Option<(Space, &'a [u8])>,
    /// At most this many; 0 = as many as fit.
    pub limit: u32,
}

impl<'a> Streams<'a> {
    pub(super) fn decode(body: &mut Body<'a>) -> Result<Streams<'a>, RequestError> {
        let fixed = body.head::<{ streams::BYTES }>()?;
        let Some(tablet) = TabletIndex::new(fixed.u8(streams::TABLET)) else {
            return Err(body.bad(Why::Tablet, streams::TABLET.offset));
        };
        let flags = fixed.u8(streams::FLAGS);
        if flags & !(FLAG_AFTER | FLAG_ONE_SPACE) != 0 {
            return Err(body.bad(Why::Flags, streams::FLAGS.offset));
        }
        let (goes_on, one_space) = (flags & FLAG_AFTER != 0, flags & FLAG_ONE_SPACE != 0);
        // Fields whose flag is not set are reserved: a client that forgets the flag learns it.
        for (field, given) in [
            (streams::AFTER_SPACE, goes_on),
            (streams::SPACE, one_space),
            (streams::AFTER_STREAM_BYTES, goes_on),
            (streams::RESERVED, false),
            (streams::RESERVED_2, false),
        ] {
            if !given && !fixed.is_zero(field) {
                return Err(body.bad(Why::Reserved, field.offset));
            }
        }
        body.skip(streams::BYTES);
        let after = if goes_on {
            let length_before = streams::BYTES - streams::AFTER_STREAM_BYTES.offset;
            let stream = body.stream(fixed.u8(streams::AFTER_STREAM_BYTES), length_before)?;
            Some((Space(fixed.u16(streams::AFTER_SPACE)), stream))
        } else {
            None
        };
        Ok(Streams {
            group: fixed.u16(streams::GROUP),
            tablet,
            space: one_space.then_some(Space(fixed.u16(streams::SPACE))),
            after,
            limit: fixed.u32(streams::LIMIT),
        })
    }

    pub(super) fn encode(&self, out: &mut impl Sink) {
        let flags =
            u8::from(self.after.is_some()) * FLAG_AFTER + u8::from(self.space.is_some()) * FLAG_ONE_SPACE;
        out.put(
            &[0; streams::BYTES]
                .set(streams::TABLET, [self.tablet.get()])
                .set(streams::FLAGS, [flags])
                .set(streams::AFTER_SPACE, self.after.map_or(0, |(space, _)| space.0).to_le_bytes())
                .set(streams::SPACE, self.space.map_or(0, |space| space.0).to_le_bytes())
                .set(streams::AFTER_STREAM_BYTES, [self.after.map_or(0, |(_, stream)| stream_bytes(stream))])
                .set(streams::LIMIT, self.limit.to_le_bytes())
                .set(streams::GROUP, self.group.to_le_bytes()),
        );
        if let Some((_, stream)) = self.after {
            out.put(stream);
        }
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        streams::BYTES + self.after.map_or(0, |(_, stream)| stream.len())
    }
}
