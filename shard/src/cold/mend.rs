//! Sections that are written anew where they stood, on a disk whose copy of them is damaged.
//!
//! Must never write over a section that is whole, nor bring back one that was freed. Invariant: of a block that sections share, the bytes of the
//! others are written as they stand; what is said to be mended was flushed, read back and compared.
//!
//! ```text
//! |  block  |  block  |  block  |        sections share their first and their last block with those beside them
//!  ..other][ the damaged one ][other..
//! ```

use super::ColdError;
use super::disk::{ColdDisk, ColdReader};
use super::open::buffer;
use super::proven::Proven;
use super::table::Run;
use layout::cold_file::ColdFile;
use layout::cold_section::SectionHeader;
use layout::units::BLOCK_BYTES;
use std::ops::Range;

/// Bytes written, or read back, at once.
const PIECE_BYTES: usize = 1 << 20;
const BLOCK: u64 = BLOCK_BYTES as u64;
/// How often a block that the device does not read is tried.
const READ_TRIES: usize = 3;

/// Which sections of a file count.
#[derive(Debug, Clone)]
pub struct Counting {
    state: ColdFile,
    /// Reserved, not sealed.
    reserved: Vec<Run>,
}

impl Counting {
    /// How often the file was begun.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.state.generation
    }

    /// Bytes up to which it is written.
    #[must_use]
    pub fn head(&self) -> u32 {
        self.state.head
    }

    /// Numbers of sections given out in it.
    #[must_use]
    pub fn section_count(&self) -> u32 {
        self.state.section_count
    }

    /// Does the section of this number count?
    #[must_use]
    pub fn counts(&self, number: u32) -> bool {
        number < self.state.section_count
            && !self.state.is_freed(number)
            && !self.reserved.iter().any(|run| run.has(number))
    }

    /// Does this section count?
    #[must_use]
    pub fn has(&self, section: &SectionHeader) -> bool {
        section.place.file_generation == self.state.generation && self.counts(section.place.number)
    }

    /// Numbers of those that count.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..self.state.section_count).filter(|number| self.counts(*number))
    }
}

/// What came of writing sections anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewritten {
    /// They stand there again: so many bytes were written.
    Yes(u64),
    /// One of them does not count any more: nothing was written.
    Gone,
}

impl ColdDisk {
    /// Which sections of a file count.
    ///
    /// # Errors
    /// [`ColdError::Disk`], [`ColdError::Arena`].
    pub async fn counting(&self, file: u32) -> Result<Counting, ColdError> {
        let state = self.state(file).await?;
        let is_of = |run: &&Run| (run.file, run.file_generation) == (file, state.generation);
        let reserved = self.table().reserved().iter().filter(is_of).copied().collect();
        Ok(Counting { state, reserved })
    }

    /// Write sections of a file over what stands in their places, in the order of their places. A block that they share with others and that the device
    /// does not read ends it, unless nothing else `stands_beside` them.
    ///
    /// # Errors
    /// [`ColdError::Differs`]: the header of another section stands in one of the places, nothing was written. [`ColdError::Unequal`]: what is read back is
    /// something else. [`ColdError::Disk`], [`ColdError::Arena`].
    pub async fn rewrite(
        &mut self,
        sections: &[Proven],
        stands_beside: bool,
    ) -> Result<Rewritten, ColdError> {
        let Some(file) = sections.first().map(|section| section.header().place.file) else {
            return Ok(Rewritten::Gone);
        };
        let counting = self.counting(file).await?;
        let reader = self.reader();
        for section in sections {
            let header = section.header();
            if header.place.file != file
                || !counting.has(header)
                || section.range().end > u64::from(counting.head())
            {
                return Ok(Rewritten::Gone);
            }
            let stands = match reader.header(file, header.place.offset).await {
                Err(error @ ColdError::Aside { .. }) => return Err(error),
                // A device that does not read it may hold anything.
                stands => stands.ok().flatten(),
            };
            if let Some(stands) = stands
                && stands.place.file_generation == counting.generation()
                && stands != *header
            {
                return Err(ColdError::Differs { name: self.name(), file, offset: header.place.offset });
            }
        }
        let (from, image) = self.image(file, sections, stands_beside).await?;
        self.put(file, from, &image).await?;
        Ok(Rewritten::Yes(image.len() as u64))
    }

    /// The blocks that sections stand in, with all that stands in them: where they begin, and their bytes.
    async fn image(
        &self,
        file: u32,
        sections: &[Proven],
        stands_beside: bool,
    ) -> Result<(u64, Vec<u8>), ColdError> {
        let from = sections.iter().map(|section| section.range().start).min().unwrap_or(0) / BLOCK * BLOCK;
        let end =
            sections.iter().map(|section| section.range().end).max().unwrap_or(0).next_multiple_of(BLOCK);
        let mut image = vec![0; (end - from) as usize];
        for at in (from..end).step_by(BLOCK_BYTES) {
            if is_covered(sections, at..at + BLOCK)
                || ioengine::canary("repair_writes_over_what_stands_beside")
            {
                continue;
            }
            match block_of(&self.reader(), file, at).await {
                Ok(block) => image[(at - from) as usize..][..BLOCK_BYTES].copy_from_slice(&block),
                Err(ColdError::Disk(_)) if !stands_beside => {}
                Err(error) => return Err(error),
            }
        }
        for section in sections {
            let at = (section.range().start - from) as usize;
            image[at..at + section.bytes().len()].copy_from_slice(section.bytes());
        }
        Ok((from, image))
    }

    /// Write whole blocks, flush, read back and compare.
    async fn put(&mut self, file: u32, from: u64, image: &[u8]) -> Result<(), ColdError> {
        let reader = self.reader();
        let (io, disk, superblock) = reader.parts();
        let place = superblock.geometry.file_offset(file).plus(from);
        let mut piece = buffer(io, PIECE_BYTES.min(image.len()))?;
        for (number, bytes) in image.chunks(PIECE_BYTES).enumerate() {
            piece[..bytes.len()].copy_from_slice(bytes);
            let at = place.plus((number * PIECE_BYTES) as u64).0;
            let (result, back) = disk.write(piece, at, bytes.len()).await?;
            piece = back;
            result?;
        }
        disk.flush().await??;
        if ioengine::canary("repair_without_reading_back") {
            return Ok(());
        }
        for (number, bytes) in image.chunks(PIECE_BYTES).enumerate() {
            let at = place.plus((number * PIECE_BYTES) as u64).0;
            let (result, back) = disk.read(piece, at, bytes.len()).await?;
            piece = back;
            result?;
            if piece[..bytes.len()] != *bytes {
                ioengine::sometimes!("a mended section is not what was written");
                return Err(ColdError::NotTaken { name: self.name(), file, offset: from });
            }
        }
        Ok(())
    }
}

/// Do these sections take every byte of a range?
fn is_covered(sections: &[Proven], range: Range<u64>) -> bool {
    let mut at = range.start;
    for section in sections.iter().map(Proven::range) {
        if section.start <= at && at < section.end {
            at = section.end;
        }
    }
    at >= range.end
}

/// A block of a file, read more than once if need be.
pub(super) async fn block_of(reader: &ColdReader, file: u32, at: u64) -> Result<Vec<u8>, ColdError> {
    let mut tried = 1;
    loop {
        match reader.read(file, at, BLOCK_BYTES).await {
            Ok((block, skip)) => return Ok(block[skip..skip + BLOCK_BYTES].to_vec()),
            Err(error @ ColdError::Disk(_)) if tried == READ_TRIES => return Err(error),
            Err(ColdError::Disk(_)) => tried += 1,
            Err(error) => return Err(error),
        }
    }
}
