//! What is said to a node with cold disks: reserve, write, seal, free, get, scan, list, index, read, files, copy. COLD.md is the document.
//!
//! Owns the bodies of these requests and of their replies. Must never allocate or copy while decoding, nor believe a count or a length
//! before the bytes are there. Invariant: a request that decodes names a place that can be; whether it is here is the node's to say.

mod encode;
mod files;
mod tables;

pub use encode::{
    FREED_REPLY_BYTES, RESERVED_REPLY_BYTES, SEALED_REPLY_BYTES, encode_freed, encode_index, encode_listed,
    encode_read, encode_reserved, encode_sealed, encode_written, index_reply_bytes, listed_reply_bytes,
    read_reply_bytes,
};
pub use files::{
    ColdCopyOf, ColdFileItem, ColdFileSaid, ColdFiles, ColdFilesHead, ColdFilesOf, ColdReservedRun,
    copy_reply_bytes, encode_copy, encode_files, files_reply_bytes,
};
pub(crate) use tables::tables;

use layout::cold_kept::KeptFor;
use layout::key::Key;
use layout::units::{BLOCK_BYTES, BucketIndex, Space};

use crate::field::{Field, Read, Sink, Write};
use crate::operation::Operation;
use crate::outcome::Why;
use crate::reply::{ReplyError, Rest};
use crate::request::{Body, RequestError, key as key_of, stream_bytes};
use tables::{
    block, freed, get, index, item, list, listed, place, read, reserve, reserved, scan, seal, write,
};

/// ColdReserve: this place and no other.
const FLAG_EXACTLY: u8 = 1 << 0;
/// ColdScan: newest first.
const FLAG_BACKWARD: u8 = 1 << 1;
/// Most bytes of the blocks of a ColdScan or ColdRead, and of the block of a ColdGet: what one read of a disk is for.
pub const COLD_READ_BYTES_MAX: u32 = 2 << 20;
/// Most places of a ColdList reply.
pub const COLD_LIST_COUNT_MAX: u32 = 4_096;

/// Sections of one sealed window, and where they stand: the same on the three machines of a cold group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ColdPlace {
    /// Cold group.
    pub group: u16,
    /// Number of the disk in the group.
    pub disk: u16,
    /// Whose they are.
    pub whom: KeptFor,
    /// File of the disk. Where no place is named: files below it that are in use are passed over.
    pub file: u32,
    /// Generation of that file, from 1; 0 where no place is named.
    pub file_generation: u32,
    /// Byte of the file where they begin, a multiple of 4096 (of a listed section: any).
    pub offset: u32,
    /// Their bytes, before padding.
    pub content_bytes: u32,
    /// Number of the first one in the file.
    pub number: u32,
    /// Sections, at least one.
    pub section_count: u32,
}

impl ColdPlace {
    /// Is a place named, or only what wants one?
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.file_generation > 0
    }

    fn read(fixed: &[u8; place::BYTES]) -> Option<ColdPlace> {
        Some(ColdPlace {
            group: fixed.u16(place::GROUP),
            disk: fixed.u16(place::DISK),
            whom: KeptFor {
                tablet_group: fixed.u16(place::TABLET_GROUP),
                bucket: BucketIndex::new(fixed.u32(place::BUCKET))?,
                window_from: fixed.u64(place::WINDOW_FROM),
                window_days: fixed.u32(place::WINDOW_DAYS),
                window_generation: fixed.u32(place::WINDOW_GENERATION),
            },
            file: fixed.u32(place::FILE),
            file_generation: fixed.u32(place::FILE_GENERATION),
            offset: fixed.u32(place::OFFSET),
            content_bytes: fixed.u32(place::CONTENT_BYTES),
            number: fixed.u32(place::NUMBER),
            section_count: fixed.u32(place::SECTION_COUNT),
        })
    }

    fn bytes(&self) -> [u8; place::BYTES] {
        [0; place::BYTES]
            .set(place::GROUP, self.group.to_le_bytes())
            .set(place::DISK, self.disk.to_le_bytes())
            .set(place::BUCKET, self.whom.bucket.get().to_le_bytes())
            .set(place::WINDOW_FROM, self.whom.window_from.to_le_bytes())
            .set(place::WINDOW_DAYS, self.whom.window_days.to_le_bytes())
            .set(place::WINDOW_GENERATION, self.whom.window_generation.to_le_bytes())
            .set(place::TABLET_GROUP, self.whom.tablet_group.to_le_bytes())
            .set(place::FILE, self.file.to_le_bytes())
            .set(place::FILE_GENERATION, self.file_generation.to_le_bytes())
            .set(place::OFFSET, self.offset.to_le_bytes())
            .set(place::CONTENT_BYTES, self.content_bytes.to_le_bytes())
            .set(place::NUMBER, self.number.to_le_bytes())
            .set(place::SECTION_COUNT, self.section_count.to_le_bytes())
    }

    fn decode(body: &mut Body<'_>, must_be_named: bool) -> Result<ColdPlace, RequestError> {
        let fixed = body.head::<{ place::BYTES }>()?;
        if !fixed.is_zero(place::RESERVED) {
            return Err(body.bad(Why::Reserved, place::RESERVED.offset));
        }
        let wrong = |field: crate::field::Field| Err(body.bad(Why::Place, field.offset));
        let Some(found) = ColdPlace::read(fixed) else { return wrong(place::BUCKET) };
        let ColdPlace { offset, content_bytes, number, section_count, .. } = found;
        if content_bytes == 0 || content_bytes > 1 << 30 {
            return wrong(place::CONTENT_BYTES);
        }
        if section_count == 0 || section_count > layout::cold_file::FILE_SECTION_COUNT_MAX {
            return wrong(place::SECTION_COUNT);
        }
        if must_be_named != found.is_named() || (!must_be_named && (offset, number) != (0, 0)) {
            return wrong(place::FILE_GENERATION);
        }
        if offset > 1 << 30 {
            return wrong(place::OFFSET);
        }
        if number > layout::cold_file::FILE_SECTION_COUNT_MAX {
            return wrong(place::NUMBER);
        }
        body.skip(place::BYTES);
        Ok(found)
    }
}

/// Blocks of a section, back to back, as the store's link and index name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdBlocks {
    /// Cold group.
    pub group: u16,
    /// Number of the disk in the group.
    pub disk: u16,
    /// Whose records they are.
    pub bucket: BucketIndex,
    /// First time of the window, microseconds.
    pub window_from: u64,
    /// Length of the window, days.
    pub window_days: u32,
    /// How often the window was sealed.
    pub window_generation: u32,
    /// File of the disk.
    pub file: u32,
    /// Generation of that file, from 1.
    pub file_generation: u32,
    /// Byte of the file where the section begins.
    pub offset: u32,
    /// Where the first block begins among the section's data, bytes.
    pub block_offset: u32,
    /// Bytes of the blocks, as stored; 0 in ColdIndex.
    pub block_bytes: u32,
}

impl ColdBlocks {
    /// Bytes of it on the wire.
    pub(crate) const BYTES: usize = block::BYTES;

    fn decode(body: &mut Body<'_>, has_blocks: bool) -> Result<ColdBlocks, RequestError> {
        let fixed = body.head::<{ block::BYTES }>()?;
        if !fixed.is_zero(block::RESERVED) {
            return Err(body.bad(Why::Reserved, block::RESERVED.offset));
        }
        let wrong = |field: Field| body.bad(Why::Place, field.offset);
        let found = ColdBlocks::read(fixed, has_blocks).map_err(wrong)?;
        body.skip(block::BYTES);
        Ok(found)
    }

    pub(crate) fn decode_reply(rest: &mut Rest<'_>) -> Result<ColdBlocks, ReplyError> {
        let fixed = rest.head::<{ block::BYTES }>()?;
        rest.reserved(fixed, block::RESERVED)?;
        let found = ColdBlocks::read(fixed, true).map_err(|field| rest.wrong(field))?;
        rest.take(block::BYTES)?;
        Ok(found)
    }

    /// The first field that cannot be, otherwise.
    fn read(fixed: &[u8; block::BYTES], has_blocks: bool) -> Result<ColdBlocks, Field> {
        let Some(bucket) = BucketIndex::new(fixed.u32(block::BUCKET)) else { return Err(block::BUCKET) };
        let found = ColdBlocks {
            group: fixed.u16(block::GROUP),
            disk: fixed.u16(block::DISK),
            bucket,
            window_from: fixed.u64(block::WINDOW_FROM),
            window_days: fixed.u32(block::WINDOW_DAYS),
            window_generation: fixed.u32(block::WINDOW_GENERATION),
            file: fixed.u32(block::FILE),
            file_generation: fixed.u32(block::FILE_GENERATION),
            offset: fixed.u32(block::OFFSET),
            block_offset: fixed.u32(block::BLOCK_OFFSET),
            block_bytes: fixed.u32(block::BLOCK_BYTES),
        };
        if found.file_generation == 0 {
            return Err(block::FILE_GENERATION);
        }
        if found.offset > 1 << 30 {
            return Err(block::OFFSET);
        }
        if found.block_offset > 1 << 30 || (!has_blocks && found.block_offset > 0) {
            return Err(block::BLOCK_OFFSET);
        }
        if found.block_bytes > COLD_READ_BYTES_MAX || has_blocks != (found.block_bytes > 0) {
            return Err(block::BLOCK_BYTES);
        }
        Ok(found)
    }

    pub(crate) fn bytes(&self) -> [u8; block::BYTES] {
        [0; block::BYTES]
            .set(block::GROUP, self.group.to_le_bytes())
            .set(block::DISK, self.disk.to_le_bytes())
            .set(block::BUCKET, self.bucket.get().to_le_bytes())
            .set(block::WINDOW_FROM, self.window_from.to_le_bytes())
            .set(block::WINDOW_DAYS, self.window_days.to_le_bytes())
            .set(block::WINDOW_GENERATION, self.window_generation.to_le_bytes())
            .set(block::FILE, self.file.to_le_bytes())
            .set(block::FILE_GENERATION, self.file_generation.to_le_bytes())
            .set(block::OFFSET, self.offset.to_le_bytes())
            .set(block::BLOCK_OFFSET, self.block_offset.to_le_bytes())
            .set(block::BLOCK_BYTES, self.block_bytes.to_le_bytes())
    }
}

/// A range of a stream's times within blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdScan<'a> {
    /// Where to look.
    pub blocks: ColdBlocks,
    /// Space of the stream.
    pub space: Space,
    /// The stream.
    pub stream: &'a [u8],
    /// First time, included.
    pub from: u64,
    /// Last time, included.
    pub to: u64,
    /// Newest first.
    pub backward: bool,
    /// At most this many records; 0 = as the node likes.
    pub record_limit: u32,
    /// At most this many bytes of reply, but at least one record; 0 = as the node likes.
    pub byte_limit: u32,
}

/// A request to a node with cold disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColdRequest<'a> {
    /// Keep a place.
    Reserve {
        /// For whom and how much; the place itself with `exactly`, otherwise the first file of those in use that may be taken.
        place: ColdPlace,
        /// This place and no other.
        exactly: bool,
    },
    /// Write a piece.
    Write {
        /// Where to.
        place: ColdPlace,
        /// Bytes behind the beginning of the place, a multiple of 4096.
        at: u32,
        /// A multiple of 4096 bytes, but for the last piece.
        bytes: &'a [u8],
    },
    /// Make it durable and read it back.
    Seal {
        /// What.
        place: ColdPlace,
        /// xxh3-128 of what was written.
        checksum: u128,
    },
    /// Give a place up.
    Free {
        /// What.
        place: ColdPlace,
    },
    /// One record.
    Get {
        /// The block that has it, if there is such a record.
        blocks: ColdBlocks,
        /// Which one.
        key: Key<'a>,
    },
    /// Records of a stream.
    Scan(ColdScan<'a>),
    /// What a disk keeps and holds.
    List {
        /// Cold group.
        group: u16,
        /// Disk.
        disk: u16,
        /// File to go on with; reservations come with file 0, offset 0.
        file: u32,
        /// Byte of the file to go on with.
        offset: u32,
        /// At most this many; 0 = as the node likes.
        limit: u32,
    },
    /// The index of a section.
    Index {
        /// Which; without blocks.
        section: ColdBlocks,
    },
    /// Blocks as they are stored.
    Read {
        /// Which.
        blocks: ColdBlocks,
    },
    /// What is known of files.
    Files(ColdFilesOf),
    /// Bytes of a file as they stand.
    Copy(ColdCopyOf),
}

impl<'a> ColdRequest<'a> {
    pub(crate) fn decode(operation: Operation, body: &mut Body<'a>) -> Result<ColdRequest<'a>, RequestError> {
        let unknown = body.bad(Why::UnknownOperation, 0);
        Ok(match operation {
            Operation::ColdReserve => ColdRequest::decode_reserve(body)?,
            Operation::ColdWrite => ColdRequest::decode_write(body)?,
            Operation::ColdSeal => {
                let checksum = u128::from_le_bytes(body.head::<{ seal::BYTES }>()?.bytes(seal::CHECKSUM));
                body.skip(seal::BYTES);
                ColdRequest::Seal { place: ColdPlace::decode(body, true)?, checksum }
            }
            Operation::ColdFree => ColdRequest::Free { place: ColdPlace::decode(body, true)? },
            Operation::ColdGet => ColdRequest::decode_get(body)?,
            Operation::ColdScan => ColdRequest::decode_scan(body)?,
            Operation::ColdList => {
                let fixed = body.head::<{ list::BYTES }>()?;
                body.skip(list::BYTES);
                ColdRequest::List {
                    group: fixed.u16(list::GROUP),
                    disk: fixed.u16(list::DISK),
                    file: fixed.u32(list::FILE),
                    offset: fixed.u32(list::OFFSET),
                    limit: fixed.u32(list::LIMIT),
                }
            }
            Operation::ColdIndex => ColdRequest::Index { section: ColdBlocks::decode(body, false)? },
            Operation::ColdRead => ColdRequest::Read { blocks: ColdBlocks::decode(body, true)? },
            Operation::ColdFiles => ColdRequest::Files(ColdFilesOf::decode(body)?),
            Operation::ColdCopy => ColdRequest::Copy(ColdCopyOf::decode(body)?),
            _ => return Err(unknown),
        })
    }

    /// A place is asked for.
    fn decode_reserve(body: &mut Body<'a>) -> Result<ColdRequest<'a>, RequestError> {
        let fixed = body.head::<{ reserve::BYTES }>()?;
        let flags = fixed.u8(reserve::FLAGS);
        if flags & !FLAG_EXACTLY != 0 {
            return Err(body.bad(Why::Flags, reserve::FLAGS.offset));
        }
        if !fixed.is_zero(reserve::RESERVED) {
            return Err(body.bad(Why::Reserved, reserve::RESERVED.offset));
        }
        body.skip(reserve::BYTES);
        let exactly = flags & FLAG_EXACTLY != 0;
        Ok(ColdRequest::Reserve { place: ColdPlace::decode(body, exactly)?, exactly })
    }

    /// Bytes come for a place.
    fn decode_write(body: &mut Body<'a>) -> Result<ColdRequest<'a>, RequestError> {
        let fixed = body.head::<{ write::BYTES }>()?;
        if !fixed.is_zero(write::RESERVED) {
            return Err(body.bad(Why::Reserved, write::RESERVED.offset));
        }
        let at = fixed.u32(write::AT);
        let wrong_at = body.bad(Why::Place, write::AT.offset);
        body.skip(write::BYTES);
        let place = ColdPlace::decode(body, true)?;
        let bytes = body.rest();
        let end = u64::from(at) + bytes.len() as u64;
        let content = u64::from(place.content_bytes);
        let is_whole = bytes.len().is_multiple_of(BLOCK_BYTES) || end == content;
        if !at.is_multiple_of(BLOCK_BYTES as u32) || bytes.is_empty() || end > content || !is_whole {
            return Err(wrong_at);
        }
        body.skip(bytes.len());
        Ok(ColdRequest::Write { place, at, bytes })
    }

    /// A record is asked for.
    fn decode_get(body: &mut Body<'a>) -> Result<ColdRequest<'a>, RequestError> {
        let fixed = body.head::<{ get::BYTES }>()?;
        if !fixed.is_zero(get::RESERVED) {
            return Err(body.bad(Why::Reserved, get::RESERVED.offset));
        }
        body.skip(get::BYTES);
        let blocks = ColdBlocks::decode(body, true)?;
        let before = get::BYTES + block::BYTES - get::STREAM_BYTES.offset;
        let stream = body.stream(fixed.u8(get::STREAM_BYTES), before)?;
        Ok(ColdRequest::Get { blocks, key: key_of(fixed.u16(get::SPACE), stream, fixed.u64(get::TIME)) })
    }

    /// A range of records is asked for.
    fn decode_scan(body: &mut Body<'a>) -> Result<ColdRequest<'a>, RequestError> {
        let fixed = body.head::<{ scan::BYTES }>()?;
        let flags = fixed.u8(scan::FLAGS);
        if flags & !FLAG_BACKWARD != 0 {
            return Err(body.bad(Why::Flags, scan::FLAGS.offset));
        }
        if !fixed.is_zero(scan::RESERVED) {
            return Err(body.bad(Why::Reserved, scan::RESERVED.offset));
        }
        let (from, to) = (fixed.u64(scan::FROM), fixed.u64(scan::TO));
        if from > to {
            return Err(body.bad(Why::Range, scan::FROM.offset));
        }
        body.skip(scan::BYTES);
        let blocks = ColdBlocks::decode(body, true)?;
        let before = scan::BYTES + block::BYTES - scan::STREAM_BYTES.offset;
        let stream = body.stream(fixed.u8(scan::STREAM_BYTES), before)?;
        Ok(ColdRequest::Scan(ColdScan {
            blocks,
            space: Space(fixed.u16(scan::SPACE)),
            stream,
            from,
            to,
            backward: flags & FLAG_BACKWARD != 0,
            record_limit: fixed.u32(scan::RECORD_LIMIT),
            byte_limit: fixed.u32(scan::BYTE_LIMIT),
        }))
    }

    pub(crate) fn encode(&self, out: &mut impl Sink) {
        match self {
            ColdRequest::Reserve { place, exactly } => {
                out.put(&[0; reserve::BYTES].set(reserve::FLAGS, [u8::from(*exactly) * FLAG_EXACTLY]));
                out.put(&place.bytes());
            }
            ColdRequest::Write { place, at, bytes } => {
                out.put(&[0; write::BYTES].set(write::AT, at.to_le_bytes()));
                out.put(&place.bytes());
                out.put(bytes);
            }
            ColdRequest::Seal { place, checksum } => {
                out.put(&checksum.to_le_bytes());
                out.put(&place.bytes());
            }
            ColdRequest::Free { place } => out.put(&place.bytes()),
            ColdRequest::Get { blocks, key } => {
                out.put(
                    &[0; get::BYTES]
                        .set(get::SPACE, key.space.0.to_le_bytes())
                        .set(get::STREAM_BYTES, [stream_bytes(key.stream)])
                        .set(get::TIME, key.time.to_le_bytes()),
                );
                out.put(&blocks.bytes());
                out.put(key.stream);
            }
            ColdRequest::Scan(one) => {
                out.put(
                    &[0; scan::BYTES]
                        .set(scan::SPACE, one.space.0.to_le_bytes())
                        .set(scan::STREAM_BYTES, [stream_bytes(one.stream)])
                        .set(scan::FLAGS, [u8::from(one.backward) * FLAG_BACKWARD])
                        .set(scan::RECORD_LIMIT, one.record_limit.to_le_bytes())
                        .set(scan::FROM, one.from.to_le_bytes())
                        .set(scan::TO, one.to.to_le_bytes())
                        .set(scan::BYTE_LIMIT, one.byte_limit.to_le_bytes()),
                );
                out.put(&one.blocks.bytes());
                out.put(one.stream);
            }
            ColdRequest::List { group, disk, file, offset, limit } => out.put(
                &[0; list::BYTES]
                    .set(list::GROUP, group.to_le_bytes())
                    .set(list::DISK, disk.to_le_bytes())
                    .set(list::FILE, file.to_le_bytes())
                    .set(list::OFFSET, offset.to_le_bytes())
                    .set(list::LIMIT, limit.to_le_bytes()),
            ),
            ColdRequest::Index { section: blocks } | ColdRequest::Read { blocks } => out.put(&blocks.bytes()),
            ColdRequest::Files(of) => out.put(&of.bytes()),
            ColdRequest::Copy(of) => out.put(&of.encoded()),
        }
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        match self {
            ColdRequest::Reserve { .. } => reserve::BYTES + place::BYTES,
            ColdRequest::Write { bytes, .. } => write::BYTES + place::BYTES + bytes.len(),
            ColdRequest::Seal { .. } => seal::BYTES + place::BYTES,
            ColdRequest::Free { .. } => place::BYTES,
            ColdRequest::Get { key, .. } => get::BYTES + block::BYTES + key.stream.len(),
            ColdRequest::Scan(one) => scan::BYTES + block::BYTES + one.stream.len(),
            ColdRequest::List { .. } => list::BYTES,
            ColdRequest::Index { .. } | ColdRequest::Read { .. } => block::BYTES,
            ColdRequest::Files(_) => Self::FILES_BYTES,
            ColdRequest::Copy(_) => Self::COPY_BYTES,
        }
    }

    /// The operation of the request.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        match self {
            ColdRequest::Reserve { .. } => Operation::ColdReserve,
            ColdRequest::Write { .. } => Operation::ColdWrite,
            ColdRequest::Seal { .. } => Operation::ColdSeal,
            ColdRequest::Free { .. } => Operation::ColdFree,
            ColdRequest::Get { .. } => Operation::ColdGet,
            ColdRequest::Scan(_) => Operation::ColdScan,
            ColdRequest::List { .. } => Operation::ColdList,
            ColdRequest::Index { .. } => Operation::ColdIndex,
            ColdRequest::Read { .. } => Operation::ColdRead,
            ColdRequest::Files(_) => Operation::ColdFiles,
            ColdRequest::Copy(_) => Operation::ColdCopy,
        }
    }

    /// Cold group and disk that it is about.
    #[must_use]
    pub const fn disk(&self) -> (u16, u16) {
        match self {
            ColdRequest::Reserve { place, .. }
            | ColdRequest::Write { place, .. }
            | ColdRequest::Seal { place, .. }
            | ColdRequest::Free { place } => (place.group, place.disk),
            ColdRequest::Get { blocks, .. }
            | ColdRequest::Scan(ColdScan { blocks, .. })
            | ColdRequest::Index { section: blocks }
            | ColdRequest::Read { blocks } => (blocks.group, blocks.disk),
            ColdRequest::List { group, disk, .. } => (*group, *disk),
            ColdRequest::Files(of) => (of.group, of.disk),
            ColdRequest::Copy(of) => (of.group, of.disk),
        }
    }
}

/// What is known of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ColdKept {
    /// It is kept from now on.
    New = 1,
    /// It was kept before for the same sections; not sealed.
    Reserved = 2,
    /// What stands there is sealed.
    Sealed = 3,
    /// Nothing is kept: the place asked for is not free, and this one would be given.
    Taken = 4,
}

impl ColdKept {
    fn from_code(code: u8) -> Option<ColdKept> {
        [ColdKept::New, ColdKept::Reserved, ColdKept::Sealed, ColdKept::Taken]
            .into_iter()
            .find(|kept| *kept as u8 == code)
    }
}

/// An Ok answer of a node with cold disks; a ColdGet's and a ColdScan's are a Get's and a Scan's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColdAnswer<'a> {
    /// ColdReserve.
    Reserved(ColdKept, ColdPlace),
    /// ColdWrite: taken, not durable yet.
    Written,
    /// ColdSeal: xxh3-128 of what the disk holds.
    Sealed(u128),
    /// ColdFree: sections that counted until now.
    Freed(u32),
    /// ColdList.
    Listed(ColdListed<'a>),
    /// ColdIndex.
    Index(ColdIndex<'a>),
    /// ColdRead: the blocks as they are stored.
    Read(&'a [u8]),
    /// ColdFiles.
    Files(ColdFiles<'a>),
    /// ColdCopy: bytes as they stand, unproven.
    Copied(&'a [u8]),
}

/// A page of what a disk keeps and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdListed<'a> {
    /// Where to go on: file and byte; None at the end.
    pub more: Option<(u32, u32)>,
    items: &'a [u8],
}

const ITEM_BYTES: usize = item::BYTES + place::BYTES;

impl<'a> ColdListed<'a> {
    /// The places: reserved ones, and each section that counts by itself.
    pub fn iter(&self) -> impl Iterator<Item = (ColdKept, ColdPlace)> + use<'a> {
        let (items, _) = self.items.as_chunks::<ITEM_BYTES>();
        items.iter().map(|bytes| read_item(bytes).expect("the items were checked when the reply was decoded"))
    }
}

fn read_item(bytes: &[u8; ITEM_BYTES]) -> Option<(ColdKept, ColdPlace)> {
    let kept = ColdKept::from_code(bytes[item::STATE.offset]);
    let kept = kept.filter(|kept| matches!(kept, ColdKept::Reserved | ColdKept::Sealed))?;
    let reserved = item::RESERVED;
    let place: &[u8; place::BYTES] = bytes.last_chunk()?;
    let is_zero = bytes[reserved.offset..reserved.offset + reserved.bytes].iter().all(|byte| *byte == 0);
    let place = ColdPlace::read(place).filter(|_| is_zero && place.is_zero(place::RESERVED))?;
    Some((kept, place))
}

/// A section's header and index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdIndex<'a> {
    /// Records of the section.
    pub record_count: u32,
    /// Bytes of its data blocks.
    pub data_bytes: u32,
    /// Number of the section in its file.
    pub number: u32,
    /// xxh3-128 of its records.
    pub digest: u128,
    /// Its index as it is stored.
    pub index: &'a [u8],
}

pub(crate) fn decode_answer<'a>(rest: &mut Rest<'a>) -> Result<ColdAnswer<'a>, ReplyError> {
    Ok(match rest.operation {
        Operation::ColdReserve => {
            let fixed = rest.head::<{ reserved::BYTES }>()?;
            let Some(kept) = ColdKept::from_code(fixed.u8(reserved::STATE)) else {
                return Err(rest.wrong(reserved::STATE));
            };
            rest.reserved(fixed, reserved::RESERVED)?;
            rest.take(reserved::BYTES)?;
            let fixed = rest.head::<{ place::BYTES }>()?;
            rest.reserved(fixed, place::RESERVED)?;
            let found = ColdPlace::read(fixed).ok_or(rest.wrong(place::BUCKET))?;
            if !found.is_named() {
                return Err(rest.wrong(place::FILE_GENERATION));
            }
            rest.take(place::BYTES)?;
            ColdAnswer::Reserved(kept, found)
        }
        Operation::ColdWrite => ColdAnswer::Written,
        Operation::ColdSeal => {
            let checksum = rest.head::<{ seal::BYTES }>()?.bytes(seal::CHECKSUM);
            rest.take(seal::BYTES)?;
            ColdAnswer::Sealed(u128::from_le_bytes(checksum))
        }
        Operation::ColdFree => {
            let fixed = rest.head::<{ freed::BYTES }>()?;
            rest.reserved(fixed, freed::RESERVED)?;
            let count = fixed.u32(freed::COUNT);
            rest.take(freed::BYTES)?;
            ColdAnswer::Freed(count)
        }
        Operation::ColdList => {
            let fixed = rest.head::<{ listed::BYTES }>()?;
            rest.reserved(fixed, listed::RESERVED)?;
            let (count, more) = (fixed.u32(listed::COUNT), fixed.u8(listed::MORE));
            let resume = (fixed.u32(listed::FILE), fixed.u32(listed::OFFSET));
            if count > COLD_LIST_COUNT_MAX {
                return Err(rest.wrong(listed::COUNT));
            }
            if more > 1 {
                return Err(rest.wrong(listed::MORE));
            }
            if more == 0 && resume != (0, 0) {
                return Err(rest.wrong(listed::FILE));
            }
            rest.take(listed::BYTES)?;
            let items = rest.bytes;
            for _ in 0..count {
                read_item(rest.head::<ITEM_BYTES>()?).ok_or(rest.wrong(item::STATE))?;
                rest.take(ITEM_BYTES)?;
            }
            let items = &items[..items.len() - rest.bytes.len()];
            ColdAnswer::Listed(ColdListed { more: (more == 1).then_some(resume), items })
        }
        Operation::ColdIndex => {
            let fixed = rest.head::<{ index::BYTES }>()?;
            let index_bytes = fixed.u32(index::INDEX_BYTES) as usize;
            let (record_count, data_bytes) = (fixed.u32(index::RECORD_COUNT), fixed.u32(index::DATA_BYTES));
            let digest = u128::from_le_bytes(fixed.bytes(index::DIGEST));
            let number = fixed.u32(index::NUMBER);
            rest.take(index::BYTES)?;
            let index = rest.take(index_bytes)?;
            ColdAnswer::Index(ColdIndex { record_count, data_bytes, number, digest, index })
        }
        Operation::ColdRead => {
            let fixed = rest.head::<{ read::BYTES }>()?;
            rest.reserved(fixed, read::RESERVED)?;
            let block_bytes = fixed.u32(read::BLOCK_BYTES);
            if block_bytes == 0 || block_bytes > COLD_READ_BYTES_MAX {
                return Err(rest.wrong(read::BLOCK_BYTES));
            }
            rest.take(read::BYTES)?;
            ColdAnswer::Read(rest.take(block_bytes as usize)?)
        }
        Operation::ColdFiles => ColdAnswer::Files(files::decode_files(rest)?),
        Operation::ColdCopy => ColdAnswer::Copied(files::decode_copy(rest)?),
        _ => unreachable!("only operations of cold disks come here"),
    })
}
