//! The sections of a file, found by their headers alone: what a disk holds when its file table is not believed, and whether all
//! of it is whole.
//!
//! Must never take for a section what only looks like one: a header is bound to its place and its cluster. Invariant: every section
//! of the file's newest generation is found whose header is whole. Found is not counted: see [`walk`].

use super::ColdError;
use super::device::{Aside, Device};
use super::open::buffer;
use ioengine::{Buf, Io};
use layout::Corrupt;
use layout::cold_disk::ColdSuperblock;
use layout::cold_section::{SECTION_HEADER_BYTES, SECTION_MAGIC, SectionHeader, walk_section};
use layout::units::BLOCK_BYTES;
use std::collections::BTreeMap;

/// Bytes read at once.
const WALK_BYTES: usize = 1 << 20;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// A stretch of a file in memory.
struct Stretch<'a> {
    disk: Device<'a>,
    superblock: &'a ColdSuperblock,
    file: u32,
    buffer: Option<Buf>,
    /// Where in the file it begins, and its bytes.
    from: u64,
    bytes: usize,
    /// Blocks that the device did not read.
    unread: u64,
}

impl Stretch<'_> {
    /// The header-sized piece at `at`; `None` at the file's end, and where the device cannot read.
    async fn at(&mut self, at: u64) -> Result<Option<&[u8; SECTION_HEADER_BYTES]>, Aside> {
        let end = at + SECTION_HEADER_BYTES as u64;
        if end > self.superblock.geometry.file_bytes {
            return Ok(None);
        }
        if at < self.from || end > self.from + self.bytes as u64 {
            let from = at - at % BLOCK;
            let most = self.superblock.geometry.file_bytes - from;
            self.load(from, (WALK_BYTES as u64).min(most) as usize).await?;
            if self.bytes == 0 {
                // Some of it may still be readable; a header may reach into the next block.
                self.load(from, (2 * BLOCK_BYTES).min(most as usize)).await?;
            }
            if self.bytes == 0 {
                self.load(from, BLOCK_BYTES.min(most as usize)).await?;
            }
            self.unread += u64::from(self.bytes == 0);
        }
        let loaded = self.buffer.as_ref().map_or(&[][..], |buffer| &buffer[..self.bytes]);
        let place = at.checked_sub(self.from).map(|place| place as usize);
        Ok(place.and_then(|place| loaded.get(place..)?.first_chunk()))
    }

    async fn load(&mut self, from: u64, bytes: usize) -> Result<(), Aside> {
        let Some(buffer) = self.buffer.take() else { return Ok(()) };
        let at = self.superblock.geometry.file_offset(self.file).plus(from).0;
        let (result, buffer) = self.disk.read(buffer, at, bytes).await?;
        self.buffer = Some(buffer);
        (self.from, self.bytes) = (from, if result.is_ok() { bytes } else { 0 });
        Ok(())
    }

    /// The next byte from `at` on, and before `until`, where a header may begin: where its first bytes stand. What the device cannot read is passed
    /// over.
    async fn mark(&mut self, mut at: u64, until: u64) -> Result<Option<u64>, Aside> {
        while at < until {
            if self.at(at).await?.is_none() {
                at = (at + 1).next_multiple_of(BLOCK);
                continue;
            }
            let place = (at - self.from) as usize;
            let Some(buffer) = self.buffer.as_ref() else { return Ok(None) };
            let loaded = &buffer[place..self.bytes];
            match loaded.iter().position(|byte| *byte == SECTION_MAGIC[0]) {
                Some(first) if loaded[first..].len() < SECTION_MAGIC.len() => {
                    // The rest of it may be loaded with the next part, or be behind the end of the file.
                    let found = at + first as u64;
                    at = if first == 0 { found + 1 } else { found };
                }
                Some(first) if loaded[first..].starts_with(&SECTION_MAGIC) => {
                    return Ok(Some(at + first as u64).filter(|found| *found < until));
                }
                Some(first) => at += first as u64 + 1,
                None => at += loaded.len() as u64,
            }
        }
        Ok(None)
    }

    async fn header(&mut self, at: u64) -> Result<Option<SectionHeader>, Aside> {
        let superblock = self.superblock;
        let (group, file) = ((superblock.group, superblock.disk), self.file);
        let Some(header) = self.at(at).await? else { return Ok(None) };
        let found = SectionHeader::decode(header, superblock.cluster, group, (file, at as u32)).ok();
        Ok(found.filter(|found| at + found.bytes() <= superblock.geometry.file_bytes))
    }
}

/// The headers of all sections of a file's newest generation, by offset. Also of runs that were never told to be written, which may lie
/// over others: who asks knows by the log which ones count.
///
/// Failing history otherwise: a run is written and the power fails before its commit; in the next life a shorter one is committed in its
/// middle. Who goes from the header of the first to its end steps over the second.
///
/// # Errors
/// [`ColdError::Arena`], [`ColdError::Aside`]. What the device cannot read is passed over.
pub(super) async fn walk(
    io: &Io,
    disk: Device<'_>,
    superblock: &ColdSuperblock,
    file: u32,
) -> Result<Vec<SectionHeader>, ColdError> {
    walk_all(io, disk, superblock, file).await.map(|(found, _)| found)
}

/// The same, and how many blocks were passed over.
///
/// # Errors
/// As of [`walk`].
pub(super) async fn walk_all(
    io: &Io,
    disk: Device<'_>,
    superblock: &ColdSuperblock,
    file: u32,
) -> Result<(Vec<SectionHeader>, u64), ColdError> {
    let buffer = Some(buffer(io, WALK_BYTES)?);
    let mut stretch = Stretch { disk, superblock, file, buffer, from: 0, bytes: 0, unread: 0 };
    let mut found: BTreeMap<u64, SectionHeader> = BTreeMap::new();
    let mut newest = 0;
    let mut at = 0;
    while let Some(place) = stretch.mark(at, superblock.geometry.file_bytes).await? {
        if let Some(header) = stretch.header(place).await? {
            newest = newest.max(header.place.file_generation);
            found.insert(place, header);
        }
        at = place + 1;
    }
    found.retain(|_, header| header.place.file_generation == newest);
    Ok((found.into_values().collect(), stretch.unread))
}

/// The sections of a file from a byte of it on, in their order, that `counts`: at most so many, until one begins at or behind the end of
/// `range`. And where to go on. No two places of a generation overlap, so that what one section covers needs no second look.
///
/// # Errors
/// [`ColdError::Arena`], [`ColdError::Aside`]. What the device cannot read is passed over.
pub(super) async fn sections_from(
    reader: &super::disk::ColdReader,
    file: u32,
    range: std::ops::Range<u32>,
    count_max: usize,
    counts: impl Fn(&SectionHeader) -> bool,
) -> Result<(Vec<SectionHeader>, u32), ColdError> {
    let (io, disk, superblock) = reader.parts();
    let buffer = Some(buffer(io, WALK_BYTES)?);
    let mut stretch = Stretch { disk, superblock, file, buffer, from: 0, bytes: 0, unread: 0 };
    let (mut at, mut found) = (u64::from(range.start), Vec::new());
    while at < u64::from(range.end) && found.len() < count_max {
        match stretch.header(at).await?.filter(&counts) {
            Some(header) => {
                at += header.bytes();
                found.push(header);
            }
            // Freed, of an earlier life, damaged, or no section at all: the next one that counts may begin anywhere.
            None => {
                let until = u64::from(range.end);
                at = stretch.mark(at + 1, until).await?.unwrap_or(until);
            }
        }
    }
    Ok((found, u32::try_from(at).unwrap_or(u32::MAX)))
}

/// Read a section as a whole and check every byte of it. What is wrong with it, if anything.
///
/// # Errors
/// [`ColdError::Disk`], [`ColdError::Aside`], [`ColdError::Arena`].
pub(super) async fn examine(
    io: &Io,
    disk: Device<'_>,
    superblock: &ColdSuperblock,
    section: &SectionHeader,
) -> Result<Option<Corrupt>, ColdError> {
    let from = u64::from(section.place.offset) - u64::from(section.place.offset) % BLOCK;
    let skip = (u64::from(section.place.offset) - from) as usize;
    let bytes = skip + section.bytes() as usize;
    // A section may be larger than any buffer.
    let mut read = Vec::with_capacity(bytes);
    let mut block = buffer(io, WALK_BYTES.min(bytes.next_multiple_of(BLOCK_BYTES)))?;
    let at = superblock.geometry.file_offset(section.place.file).plus(from);
    while read.len() < bytes {
        let count = (bytes - read.len()).min(WALK_BYTES);
        let (result, back) =
            disk.read(block, at.plus(read.len() as u64).0, count.next_multiple_of(BLOCK_BYTES)).await?;
        block = back;
        result?;
        read.extend_from_slice(&block[..count]);
    }
    Ok(walk_section(section, &read[skip..], |_| {}).err())
}
