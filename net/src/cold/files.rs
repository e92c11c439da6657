//! What a machine of a cold group says of the files of a disk, and bytes of a file as they stand: what a disk that took another's place is filled by.
//!
//! Owns ColdFiles and ColdCopy. Must never allocate while decoding. Invariant: of an item that decodes no number is freed that was not given out.

use super::tables::{copied, copy, file, files, filled, run};
use super::{COLD_READ_BYTES_MAX, ColdRequest};
use crate::field::{Read, Sink, SliceSink, Write};
use crate::outcome::Why;
use crate::reply::{ReplyError, Rest, encode_ok_head, reply_bytes_payload};
use crate::request::{Body, RequestError};
use layout::cold_file::FILE_SECTION_COUNT_MAX;
use layout::units::{BLOCK_BYTES, LogTime};

/// ColdFiles: with the numbers that are freed.
const FLAG_FREED: u8 = 1 << 0;
/// Largest byte of a file.
const OFFSET_MAX: u32 = 1 << 30;

/// Files of a disk that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdFilesOf {
    /// Cold group.
    pub group: u16,
    /// Disk.
    pub disk: u16,
    /// The first.
    pub file: u32,
    /// At most this many; 0 = as the node likes.
    pub limit: u32,
    /// With the numbers that are freed.
    pub freed: bool,
}

impl ColdFilesOf {
    pub(super) fn decode(body: &mut Body<'_>) -> Result<ColdFilesOf, RequestError> {
        let fixed = body.head::<{ files::BYTES }>()?;
        let flags = fixed.u8(files::FLAGS);
        if flags & !FLAG_FREED != 0 {
            return Err(body.bad(Why::Flags, files::FLAGS.offset));
        }
        if !fixed.is_zero(files::RESERVED) {
            return Err(body.bad(Why::Reserved, files::RESERVED.offset));
        }
        body.skip(files::BYTES);
        Ok(ColdFilesOf {
            group: fixed.u16(files::GROUP),
            disk: fixed.u16(files::DISK),
            file: fixed.u32(files::FILE),
            limit: fixed.u32(files::LIMIT),
            freed: flags & FLAG_FREED != 0,
        })
    }

    pub(super) fn bytes(&self) -> [u8; files::BYTES] {
        [0; files::BYTES]
            .set(files::GROUP, self.group.to_le_bytes())
            .set(files::DISK, self.disk.to_le_bytes())
            .set(files::FILE, self.file.to_le_bytes())
            .set(files::LIMIT, self.limit.to_le_bytes())
            .set(files::FLAGS, [u8::from(self.freed) * FLAG_FREED])
    }
}

/// Bytes of a file that are asked for as they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdCopyOf {
    /// Cold group.
    pub group: u16,
    /// Disk.
    pub disk: u16,
    /// File of the disk.
    pub file: u32,
    /// Generation of that file, from 1.
    pub file_generation: u32,
    /// Byte of the file, a multiple of 4096.
    pub offset: u32,
    /// How many, a multiple of 4096, at most [`COLD_READ_BYTES_MAX`].
    pub bytes: u32,
}

impl ColdCopyOf {
    pub(super) fn decode(body: &mut Body<'_>) -> Result<ColdCopyOf, RequestError> {
        let fixed = body.head::<{ copy::BYTES }>()?;
        if !fixed.is_zero(copy::RESERVED) {
            return Err(body.bad(Why::Reserved, copy::RESERVED.offset));
        }
        let found = ColdCopyOf {
            group: fixed.u16(copy::GROUP),
            disk: fixed.u16(copy::DISK),
            file: fixed.u32(copy::FILE),
            file_generation: fixed.u32(copy::FILE_GENERATION),
            offset: fixed.u32(copy::OFFSET),
            bytes: fixed.u32(copy::COUNT),
        };
        let blocks = |bytes: u32| bytes.is_multiple_of(BLOCK_BYTES as u32);
        let right = [
            (copy::FILE_GENERATION, found.file_generation > 0),
            (copy::OFFSET, blocks(found.offset) && found.offset <= OFFSET_MAX),
            (copy::COUNT, blocks(found.bytes) && (1..=COLD_READ_BYTES_MAX).contains(&found.bytes)),
        ];
        if let Some((field, _)) = right.into_iter().find(|(_, right)| !right) {
            return Err(body.bad(Why::Place, field.offset));
        }
        body.skip(copy::BYTES);
        Ok(found)
    }

    pub(super) fn encoded(&self) -> [u8; copy::BYTES] {
        [0; copy::BYTES]
            .set(copy::GROUP, self.group.to_le_bytes())
            .set(copy::DISK, self.disk.to_le_bytes())
            .set(copy::FILE, self.file.to_le_bytes())
            .set(copy::FILE_GENERATION, self.file_generation.to_le_bytes())
            .set(copy::OFFSET, self.offset.to_le_bytes())
            .set(copy::COUNT, self.bytes.to_le_bytes())
    }
}

impl ColdRequest<'_> {
    pub(super) const FILES_BYTES: usize = files::BYTES;
    pub(super) const COPY_BYTES: usize = copy::BYTES;
}

/// Numbers of a file that are reserved together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ColdReservedRun {
    /// Generation of the file that they are of.
    pub file_generation: u32,
    /// The first.
    pub number: u32,
    /// How many, at least one.
    pub section_count: u32,
}

/// What a machine says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdFileItem<'a> {
    /// Number of the file.
    pub file: u32,
    /// How often it was begun; 0 = never: something is reserved in it.
    pub generation: u32,
    /// Byte up to which it is written.
    pub head: u32,
    /// Numbers of sections given out.
    pub section_count: u32,
    /// Bit n mod 8 of byte n / 8: section n does not count. Empty unless it was asked for; zeros at its end are left out.
    pub freed: &'a [u8],
    reserved: &'a [u8],
}

impl<'a> ColdFileItem<'a> {
    /// What is reserved in it, and not sealed.
    pub fn reserved(&self) -> impl Iterator<Item = ColdReservedRun> + use<'a> {
        let (runs, _) = self.reserved.as_chunks::<{ run::BYTES }>();
        runs.iter().map(|bytes| ColdReservedRun {
            file_generation: bytes.u32(run::FILE_GENERATION),
            number: bytes.u32(run::NUMBER),
            section_count: bytes.u32(run::SECTION_COUNT),
        })
    }

    /// Reads the item at the front of `bytes`, and what is behind it.
    fn read(bytes: &'a [u8]) -> Option<(ColdFileItem<'a>, &'a [u8])> {
        let (fixed, rest) = bytes.split_first_chunk::<{ file::BYTES }>()?;
        let freed = rest.get(..usize::from(fixed.u16(file::FREED_BYTES)))?;
        let rest = &rest[freed.len()..];
        let reserved = rest.get(..usize::from(fixed.u16(file::RESERVED_COUNT)) * run::BYTES)?;
        let found = ColdFileItem {
            file: fixed.u32(file::FILE),
            generation: fixed.u32(file::GENERATION),
            head: fixed.u32(file::HEAD),
            section_count: fixed.u32(file::SECTION_COUNT),
            freed,
            reserved,
        };
        let count = found.section_count as usize;
        let behind = |byte: u8| count / 8 == freed.len() - 1 && u32::from(byte) >> (count % 8) != 0;
        let is_right = found.head <= OFFSET_MAX
            && found.section_count <= FILE_SECTION_COUNT_MAX
            && freed.len() <= count.div_ceil(8)
            && !freed.last().is_some_and(|last| *last == 0 || behind(*last))
            && found.reserved().all(|run| run.file_generation > 0 && run.section_count > 0);
        is_right.then(|| (found, &rest[reserved.len()..]))
    }
}

/// A file as it is said: its item, and what is reserved in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ColdFileSaid {
    /// Number of the file.
    pub file: u32,
    /// How often it was begun.
    pub generation: u32,
    /// Byte up to which it is written.
    pub head: u32,
    /// Numbers of sections given out.
    pub section_count: u32,
    /// As [`ColdFileItem::freed`].
    pub freed: Vec<u8>,
    /// What is reserved in it.
    pub reserved: Vec<ColdReservedRun>,
}

impl ColdFileSaid {
    /// Bytes of it in a reply.
    #[must_use]
    pub fn reply_bytes(&self) -> usize {
        file::BYTES + self.freed.len() + self.reserved.len() * run::BYTES
    }
}

/// What a disk is, as its machine says with its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdFilesHead {
    /// It took another's place and is being filled: of files that are not here yet it says nothing.
    pub is_filling: bool,
    /// Files of the disk.
    pub file_count: u32,
    /// Bytes of each.
    pub file_bytes: u32,
    /// File to go on with; None at the end.
    pub more: Option<u32>,
}

/// A page of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdFiles<'a> {
    /// What the disk is.
    pub head: ColdFilesHead,
    items: &'a [u8],
}

impl<'a> ColdFiles<'a> {
    /// The files, ascending; of those left out the machine has nothing, or says nothing.
    pub fn iter(&self) -> impl Iterator<Item = ColdFileItem<'a>> + use<'a> {
        let mut left = self.items;
        std::iter::from_fn(move || {
            if left.is_empty() {
                return None;
            }
            let (found, rest) =
                ColdFileItem::read(left).expect("items were checked when the reply was decoded");
            left = rest;
            Some(found)
        })
    }
}

pub(super) fn decode_files<'a>(rest: &mut Rest<'a>) -> Result<ColdFiles<'a>, ReplyError> {
    let fixed = rest.head::<{ filled::BYTES }>()?;
    rest.reserved(fixed, filled::RESERVED)?;
    let (count, more, state) = (fixed.u32(filled::COUNT), fixed.u8(filled::MORE), fixed.u8(filled::STATE));
    let next = fixed.u32(filled::FILE);
    if more > 1 {
        return Err(rest.wrong(filled::MORE));
    }
    if !(1..=2).contains(&state) {
        return Err(rest.wrong(filled::STATE));
    }
    if more == 0 && next != 0 {
        return Err(rest.wrong(filled::FILE));
    }
    let head = ColdFilesHead {
        is_filling: state == 2,
        file_count: fixed.u32(filled::FILE_COUNT),
        file_bytes: fixed.u32(filled::FILE_BYTES),
        more: (more == 1).then_some(next),
    };
    rest.take(filled::BYTES)?;
    let items = rest.bytes;
    for _ in 0..count {
        let (_, behind) = ColdFileItem::read(rest.bytes).ok_or(rest.wrong(file::FREED_BYTES))?;
        rest.take(rest.bytes.len() - behind.len())?;
    }
    Ok(ColdFiles { head, items: &items[..items.len() - rest.bytes.len()] })
}

pub(super) fn decode_copy<'a>(rest: &mut Rest<'a>) -> Result<&'a [u8], ReplyError> {
    let fixed = rest.head::<{ copied::BYTES }>()?;
    rest.reserved(fixed, copied::RESERVED)?;
    let bytes = fixed.u32(copied::COUNT);
    if bytes == 0 || bytes > COLD_READ_BYTES_MAX || !bytes.is_multiple_of(BLOCK_BYTES as u32) {
        return Err(rest.wrong(copied::COUNT));
    }
    rest.take(copied::BYTES)?;
    rest.take(bytes as usize)
}

/// Bytes of a reply to ColdFiles with items of so many.
#[must_use]
pub const fn files_reply_bytes(item_bytes: usize) -> usize {
    reply_bytes_payload(filled::BYTES + item_bytes)
}

/// Bytes of a reply to ColdCopy with so many.
#[must_use]
pub const fn copy_reply_bytes(bytes: usize) -> usize {
    reply_bytes_payload(copied::BYTES + bytes)
}

/// The reply to ColdFiles.
pub fn encode_files(out: &mut [u8], head: &ColdFilesHead, items: &[ColdFileSaid]) -> usize {
    let mut out = SliceSink::new(out);
    encode_ok_head(&mut out, LogTime(0));
    out.put(
        &[0; filled::BYTES]
            .set(filled::COUNT, (items.len() as u32).to_le_bytes())
            .set(filled::MORE, [u8::from(head.more.is_some())])
            .set(filled::STATE, [1 + u8::from(head.is_filling)])
            .set(filled::FILE, head.more.unwrap_or(0).to_le_bytes())
            .set(filled::FILE_COUNT, head.file_count.to_le_bytes())
            .set(filled::FILE_BYTES, head.file_bytes.to_le_bytes()),
    );
    for one in items {
        let short = |count: usize| u16::try_from(count).expect("a file has few").to_le_bytes();
        out.put(
            &[0; file::BYTES]
                .set(file::FILE, one.file.to_le_bytes())
                .set(file::GENERATION, one.generation.to_le_bytes())
                .set(file::HEAD, one.head.to_le_bytes())
                .set(file::SECTION_COUNT, one.section_count.to_le_bytes())
                .set(file::FREED_BYTES, short(one.freed.len()))
                .set(file::RESERVED_COUNT, short(one.reserved.len())),
        );
        out.put(&one.freed);
        for reserved in &one.reserved {
            out.put(
                &[0; run::BYTES]
                    .set(run::FILE_GENERATION, reserved.file_generation.to_le_bytes())
                    .set(run::NUMBER, reserved.number.to_le_bytes())
                    .set(run::SECTION_COUNT, reserved.section_count.to_le_bytes()),
            );
        }
    }
    out.used()
}

/// The reply to ColdCopy: bytes as they stand.
pub fn encode_copy(out: &mut [u8], bytes: &[u8]) -> usize {
    assert!((1..=COLD_READ_BYTES_MAX as usize).contains(&bytes.len()), "a request names as many");
    let mut out = SliceSink::new(out);
    encode_ok_head(&mut out, LogTime(0));
    out.put(&[0; copied::BYTES].set(copied::COUNT, (bytes.len() as u32).to_le_bytes()));
    out.put(bytes);
    out.used()
}
