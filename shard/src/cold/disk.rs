//! A cold disk in use: runs of sections are written, a block is read, sections are freed.
//!
//! Must never tell that a run is written before it is durable, was read back, and the file's entry says so. Invariant: one writer,
//! which takes `&mut`; any number of readers, which each read the device once.

use super::ColdError;
use super::open::{self, buffer, facts_of, read_slots, read_table};
use super::table::{FileFacts, FileTable, Run};
use ioengine::{Buf, Disk, Io};
use layout::Corrupt;
use layout::cold_disk::ColdSuperblock;
use layout::cold_file::{ColdFile, FILE_SLOT_BYTES, Slots};
use layout::cold_section::{SECTION_HEADER_BYTES, SectionHeader, SectionIdentity, SectionPlace};
use layout::table::ContentChecksum;
use layout::table_index::BlockHandle;
use layout::table_seal::{BlockKind, Decompressor, open_block};
use layout::units::BLOCK_BYTES;
use std::rc::Rc;
use std::time::Duration;

/// Bytes read back at once.
const READ_BACK_BYTES: usize = 1 << 20;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// How a disk is used.
#[derive(Clone, Copy, Debug)]
pub struct ColdLimits {
    /// Reservations at once.
    pub reserved_max: usize,
    /// How long a file that holds nothing stays as it is: longer than any request that may still read it.
    pub reuse_delay: Duration,
}

/// Reads a cold disk; each copy of it the same one.
#[derive(Clone)]
pub struct ColdReader {
    io: Io,
    disk: Rc<Disk>,
    superblock: ColdSuperblock,
}

/// A cold disk and its one writer.
pub struct ColdDisk {
    reader: ColdReader,
    table: FileTable,
    limits: ColdLimits,
}

impl ColdDisk {
    /// Open a formatted disk. What it is, and how many of its files had to be walked, goes to the log.
    ///
    /// # Errors
    /// [`ColdError`].
    pub async fn open(io: &Io, disk: Disk, limits: ColdLimits) -> Result<ColdDisk, ColdError> {
        // A killed process may have left its last writes in the device's cache.
        disk.flush().await?;
        let superblock = open::read(io, &disk).await?;
        let (mut files, walked) = read_table(io, &disk, &superblock).await?;
        let until = io.now().after(limits.reuse_delay).ns;
        files.iter_mut().for_each(|facts| facts.empty_until_ns = until);
        tracing::info!(disk = disk.name(), files = files.len(), walked, "a cold disk is open");
        if walked > 0 {
            ioengine::sometimes!("files of a cold disk are walked");
        }
        let file_bytes = u32::try_from(superblock.geometry.file_bytes).expect("a file has at most 1 GiB");
        let table = FileTable::new(file_bytes, files, limits.reserved_max);
        let reader = ColdReader { io: io.clone(), disk: Rc::new(disk), superblock };
        Ok(ColdDisk { reader, table, limits })
    }

    /// For who only reads.
    #[must_use]
    pub fn reader(&self) -> ColdReader {
        self.reader.clone()
    }

    /// What the disk says of itself.
    #[must_use]
    pub fn superblock(&self) -> &ColdSuperblock {
        &self.reader.superblock
    }

    /// Its places.
    #[must_use]
    pub fn table(&self) -> &FileTable {
        &self.table
    }

    fn name(&self) -> String {
        self.reader.name()
    }

    /// Where a run would go: see [`FileTable::next`].
    #[must_use]
    pub fn next(&self, content_bytes: u32, section_count: u32) -> Option<Run> {
        self.table.next(content_bytes, section_count, self.reader.io.now().ns)
    }

    /// Keep a place.
    ///
    /// # Errors
    /// [`ColdError::Refused`].
    pub fn reserve(&mut self, run: Run) -> Result<(), ColdError> {
        let reserved = self.table.reserve(run, self.reader.io.now().ns);
        reserved.map_err(|source| ColdError::Refused { name: self.name(), source })
    }

    /// Give a place back that will not be written.
    pub fn give_back(&mut self, run: &Run) {
        self.table.give_back(run);
    }

    fn reserved(&self, run: &Run) -> Result<(), ColdError> {
        let is_reserved = self.table.is_reserved(run) || ioengine::canary("write_unreserved_places");
        if is_reserved { Ok(()) } else { Err(ColdError::Unreserved { name: self.name(), run: *run }) }
    }

    /// Write the next piece of a run, whole blocks, `at` bytes behind its beginning. Not durable yet.
    ///
    /// # Errors
    /// [`ColdError::Unreserved`], [`ColdError::Disk`]. The buffer comes back when there was no fault.
    pub async fn write(&mut self, run: &Run, at: u32, piece: Buf, bytes: usize) -> Result<Buf, ColdError> {
        self.reserved(run)?;
        let end = u64::from(at) + bytes as u64;
        assert!(end <= u64::from(run.bytes), "a piece lies in its run");
        let place = self.reader.place(run.file, u64::from(run.offset + at));
        let (result, piece) = self.reader.disk.write(piece, place, bytes).await;
        result?;
        Ok(piece)
    }

    /// The run is written: make it durable, read it back, and say so in the file's entry. The xxh3-128 of its first `content_bytes` as they
    /// stand on the device: who compares it with the two others knows that all three hold the same.
    ///
    /// # Errors
    /// [`ColdError`]: the run does not count, and its place stays reserved.
    pub async fn commit(&mut self, run: &Run, content_bytes: u32) -> Result<u128, ColdError> {
        self.reserved(run)?;
        assert!(content_bytes <= run.bytes, "the content lies in its run");
        if !ioengine::canary("say_a_section_is_there_too_early") {
            self.reader.disk.flush().await?;
        }
        let checksum = self.reader.checksum(run, content_bytes).await?;
        let facts = self.table.with(run);
        let mut state = self.state(run.file).await?;
        if state.generation != run.file_generation {
            state.begin(run.file_generation);
        }
        (state.head, state.section_count) = (facts.head, facts.section_count);
        self.store(run.file, state).await?;
        self.table.give_back(run);
        Ok(checksum)
    }

    /// These sections of a file's generation do not count any more. How many did until now. Asked again it changes nothing.
    ///
    /// # Errors
    /// [`ColdError::Disk`], [`ColdError::Arena`]: they may count still.
    pub async fn free(&mut self, file: u32, generation: u32, numbers: &[u32]) -> Result<u32, ColdError> {
        let known = self.table.file(file).copied().filter(|facts| facts.generation == generation);
        let Some(facts) = known else { return Ok(0) };
        let mut state = self.state(file).await?;
        let inside = numbers.iter().filter(|number| **number < facts.section_count);
        let count = inside.filter(|number| state.free(**number)).count() as u32;
        if count > 0 {
            self.store(file, state).await?;
        }
        Ok(count)
    }

    /// The numbers of a file's sections that have been freed, and its generation.
    ///
    /// # Errors
    /// [`ColdError::Disk`], [`ColdError::Arena`].
    pub async fn freed(&self, file: u32) -> Result<(u32, Vec<u32>), ColdError> {
        let state = self.state(file).await?;
        let freed = (0..state.section_count).filter(|&number| state.is_freed(number)).collect();
        Ok((state.generation, freed))
    }

    /// What is known of a file, with the bits that stand on the disk alone.
    async fn state(&self, file: u32) -> Result<ColdFile, ColdError> {
        let ColdReader { io, disk, superblock } = &self.reader;
        let facts = *self.table.file(file).expect("a file of the disk");
        let on_disk = match read_slots(io, disk, superblock, file).await? {
            Slots::Known(state) | Slots::AtLeast(state, _) => state,
            Slots::Lost(_) => ColdFile::default(),
        };
        // What the walk found beyond a refused slot counts, too.
        let mut state = on_disk;
        if state.generation < facts.generation {
            state.begin(facts.generation);
        }
        state.sequence = state.sequence.max(facts.sequence);
        (state.head, state.section_count) = (facts.head, facts.section_count);
        Ok(state)
    }

    /// Write the next state of a file to the slot that does not hold this one.
    async fn store(&mut self, file: u32, mut state: ColdFile) -> Result<(), ColdError> {
        state.sequence += 1;
        let superblock = self.reader.superblock;
        let at = superblock.geometry.slot_offset(file, state.slot());
        let mut block = buffer(&self.reader.io, FILE_SLOT_BYTES)?;
        let bytes = (&mut block[..FILE_SLOT_BYTES]).try_into().expect("one slot");
        state.encode(superblock.device, file, at, bytes);
        let (result, _) = self.reader.disk.write_durable(block, at.0, FILE_SLOT_BYTES).await;
        result?;
        let empty_until_ns = self.reader.io.now().after(self.limits.reuse_delay).ns;
        self.table.set(file, FileFacts { empty_until_ns, ..facts_of(&state) });
        Ok(())
    }
}

/// A block of a section, as the store's index knows it.
#[derive(Debug, Clone, Copy)]
pub struct ColdBlock {
    /// Whose records they are.
    pub identity: SectionIdentity,
    /// Where the section stands.
    pub place: SectionPlace,
    /// Where the block lies among the section's data.
    pub handle: BlockHandle,
}

impl ColdBlock {
    /// Check what was read for this block, and put what it holds into `out`.
    ///
    /// # Errors
    /// [`Corrupt`]: it is another block, or none.
    pub fn open(&self, stored: &Stored, unpack: &mut Decompressor, out: &mut Vec<u8>) -> Result<(), Corrupt> {
        let checksum = self.identity.checksum();
        open_block(&checksum, self.handle.offset, BlockKind::Data, stored.bytes(), None, unpack, out)
    }
}

/// Bytes of a disk, where a block should be.
pub struct Stored {
    buffer: Buf,
    skip: usize,
    bytes: usize,
}

impl Stored {
    /// The bytes asked for.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.skip..self.skip + self.bytes]
    }

    /// Bytes that the device read for them: whole blocks.
    #[must_use]
    pub fn device_bytes(&self) -> usize {
        (self.skip + self.bytes).next_multiple_of(BLOCK_BYTES)
    }
}

impl ColdReader {
    fn name(&self) -> String {
        self.disk.name().to_owned()
    }

    /// Place on the device of a byte of a file.
    fn place(&self, file: u32, at: u64) -> u64 {
        self.superblock.geometry.file_offset(file).plus(at).0
    }

    /// Read bytes of a file with one read of the device: the buffer, and where in it they begin.
    async fn read(&self, file: u32, at: u64, bytes: usize) -> Result<(Buf, usize), ColdError> {
        let skip = (at % BLOCK) as usize;
        let whole = (skip + bytes).next_multiple_of(BLOCK_BYTES);
        let buffer = buffer(&self.io, whole)?;
        let (result, buffer) = self.disk.read(buffer, self.place(file, at - skip as u64), whole).await;
        result?;
        Ok((buffer, skip))
    }

    /// Put a block into `out`, before compression: one read of the device, checked against what it should be.
    ///
    /// # Errors
    /// [`ColdError::Moved`] when another section stands there now, [`ColdError::Corrupt`] when nothing whole does, [`ColdError::Disk`],
    /// [`ColdError::Arena`].
    pub async fn block(
        &self,
        wanted: &ColdBlock,
        unpack: &mut Decompressor,
        out: &mut Vec<u8>,
    ) -> Result<(), ColdError> {
        let stored = self.stored(wanted).await?;
        let Err(source) = wanted.open(&stored, unpack, out) else { return Ok(()) };
        drop(stored);
        let SectionPlace { file, offset, .. } = wanted.place;
        match self.header(file, offset).await? {
            Some(found) if found.identity != wanted.identity => {
                Err(ColdError::Moved { name: self.name(), file, offset })
            }
            _ => Err(ColdError::Corrupt { name: self.name(), source }),
        }
    }

    /// What stands where a block should, unchecked: one read of the device.
    ///
    /// # Errors
    /// [`ColdError::Moved`] when this disk has no such place, [`ColdError::Disk`], [`ColdError::Arena`].
    pub async fn stored(&self, wanted: &ColdBlock) -> Result<Stored, ColdError> {
        let ColdBlock { place, handle, .. } = wanted;
        let at = u64::from(place.offset) + SECTION_HEADER_BYTES as u64 + handle.offset;
        let bytes = handle.stored_bytes as usize;
        let lies_inside = place.file < self.superblock.geometry.file_count
            && at + bytes as u64 <= self.superblock.geometry.file_bytes;
        if !lies_inside {
            return Err(ColdError::Moved { name: self.name(), file: place.file, offset: place.offset });
        }
        let (buffer, skip) = self.read(place.file, at, bytes).await?;
        Ok(Stored { buffer, skip, bytes })
    }

    /// The header of the section that stands there, if one does.
    ///
    /// # Errors
    /// [`ColdError::Disk`], [`ColdError::Arena`].
    pub async fn header(&self, file: u32, offset: u32) -> Result<Option<SectionHeader>, ColdError> {
        let (buffer, skip) = self.read(file, u64::from(offset), SECTION_HEADER_BYTES).await?;
        let header = buffer[skip..].first_chunk().expect("a header was read");
        let group = (self.superblock.group, self.superblock.disk);
        Ok(SectionHeader::decode(header, self.superblock.cluster, group, (file, offset)).ok())
    }

    /// xxh3-128 of the first bytes of a run.
    async fn checksum(&self, run: &Run, content_bytes: u32) -> Result<u128, ColdError> {
        let mut sum = ContentChecksum::new();
        let mut at = 0;
        while at < content_bytes {
            let count = (content_bytes - at).min(READ_BACK_BYTES as u32);
            let (buffer, skip) = self.read(run.file, u64::from(run.offset + at), count as usize).await?;
            sum.add(&buffer[skip..skip + count as usize]);
            at += count;
        }
        Ok(sum.finish())
    }

    /// All sections of a file: see [`super::walk::walk`].
    ///
    /// # Errors
    /// [`ColdError::Arena`].
    pub async fn walk(&self, file: u32) -> Result<Vec<SectionHeader>, ColdError> {
        super::walk::walk(&self.io, &self.disk, &self.superblock, file).await
    }

    /// Check every byte of a section: see [`super::walk::examine`].
    ///
    /// # Errors
    /// [`ColdError::Disk`], [`ColdError::Arena`].
    pub async fn examine(&self, section: &SectionHeader) -> Result<Option<Corrupt>, ColdError> {
        super::walk::examine(&self.io, &self.disk, &self.superblock, section).await
    }
}
