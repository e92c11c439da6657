//! A cold disk in use: places are kept, runs of sections are written and sealed, a block is read, sections are freed.
//!
//! Must never tell that a run is written before it is durable, was read back, and the file's entry says so. Invariant: one writer,
//! which takes `&mut`; any number of readers, which each read the device once.

use super::ColdError;
use super::device::{Device, Watch};
use super::entry;
use super::fill::Filling;
use super::kept::{KeptPlaces, run_of};
use super::open::{self, FilesFound, buffer, facts_of, read_table};
use super::table::{FileFacts, FileTable, Refused, Run, Wanted};
use ioengine::{Buf, Disk, DiskError, Io};
use layout::Corrupt;
use layout::cold_disk::{ColdState, ColdSuperblock};
use layout::cold_file::{ColdFile, FILE_SLOT_BYTES, Slots};
use layout::cold_kept::{KeptFor, KeptPlace};
use layout::cold_section::{SECTION_HEADER_BYTES, SectionHeader, SectionIdentity, SectionPlace};
use layout::table::ContentChecksum;
use layout::table_index::BlockHandle;
use layout::table_seal::{BlockKind, Decompressor, open_block};
use layout::units::BLOCK_BYTES;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Bytes read back at once.
const READ_BACK_BYTES: usize = 1 << 20;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// How a disk is used.
#[derive(Clone, Copy, Debug)]
pub struct ColdLimits {
    /// Reservations at once, at most [`layout::cold_kept::KEPT_COUNT_MAX`].
    pub reserved_max: usize,
    /// How long a file that holds nothing stays as it is: longer than any request that may still read it.
    pub reuse_delay: Duration,
}

/// Reads a cold disk; each copy of it the same one.
#[derive(Clone)]
pub struct ColdReader {
    io: Io,
    disk: Rc<Disk>,
    /// Who looks at its operations.
    watch: Option<Rc<Watch>>,
    superblock: ColdSuperblock,
}

/// A cold disk and its one writer.
pub struct ColdDisk {
    reader: ColdReader,
    table: FileTable,
    kept: KeptPlaces,
    /// Files whose entry does not say what it should, in both slots: a start walked them, or they were met since.
    lost_entries: RefCell<BTreeSet<u32>>,
    limits: ColdLimits,
    /// Files whose entry was being written when the disk was set aside, or failed: it may say so, now or until the next start, and what is known here does
    /// not.
    in_doubt: BTreeSet<u32>,
    filling: Filling,
}

impl ColdDisk {
    /// Open a formatted disk, and mend of its superblock what has a whole copy. What it is, and how many of its files had to be walked, goes to the log;
    /// their entries are for [`ColdDisk::mend_entry`].
    ///
    /// # Errors
    /// [`ColdError`].
    pub async fn open(io: &Io, disk: Disk, limits: ColdLimits) -> Result<ColdDisk, ColdError> {
        ColdDisk::open_with(io, (Rc::new(disk), None), limits).await
    }

    /// The same, of a disk that is watched: it may be set aside meanwhile.
    ///
    /// # Errors
    /// [`ColdError::Aside`]: open it again when it is back. Else as of [`ColdDisk::open`].
    pub(super) async fn open_watched(watch: &Rc<Watch>, limits: ColdLimits) -> Result<ColdDisk, ColdError> {
        let disk = (Rc::clone(&watch.disk), Some(Rc::clone(watch)));
        ColdDisk::open_with(&watch.io, disk, limits).await
    }

    async fn open_with(
        io: &Io,
        (own, watch): (Rc<Disk>, Option<Rc<Watch>>),
        limits: ColdLimits,
    ) -> Result<ColdDisk, ColdError> {
        let disk = watch.as_ref().map_or(Device::plain(&own), Device::watched);
        // A killed process may have left its last writes in the device's cache.
        disk.flush().await??;
        let superblock = open::read_from(io, disk).await?;
        let mut kept = KeptPlaces::read(io, disk, &superblock).await?;
        let FilesFound { facts: mut files, mut walked, unsure } =
            read_table(io, disk, &superblock, &kept).await?;
        // Nothing is given in a file, nor read of it, until it is known what it holds.
        let (mut filling, mut due) = (Filling::Ended, unsure);
        if superblock.state == ColdState::Filling {
            (filling, due) = (Filling::Unheard, ColdDisk::due_at_start(&mut files, &walked));
            walked.clear();
        }
        let until = io.now().after(limits.reuse_delay).ns;
        files.iter_mut().for_each(|facts| facts.empty_until_ns = until);
        let copies = match open::mend_copies(io, disk, &superblock).await {
            Ok(count) => count,
            Err(error @ ColdError::Aside { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(disk = disk.name(), %error, "a superblock copy cannot be written again");
                0
            }
        };
        tracing::info!(
            disk = disk.name(),
            files = files.len(),
            walked = walked.len(),
            copies,
            "a cold disk is open"
        );
        let file_bytes = u32::try_from(superblock.geometry.file_bytes).expect("a file has at most 1 GiB");
        kept.store(io, disk, &superblock).await?;
        let mut table = FileTable::new(file_bytes, files, limits.reserved_max);
        due.into_iter().for_each(|file| table.set_due(file, true));
        kept.places().filter(|place| !place.is_sealed).for_each(|place| table.restore(run_of(place)));
        let reader = ColdReader { io: io.clone(), disk: Rc::clone(&own), watch: watch.clone(), superblock };
        if !walked.is_empty() {
            ioengine::sometimes!("files of a cold disk are walked");
        }
        let lost_entries = RefCell::new(walked.into_iter().collect());
        Ok(ColdDisk { reader, table, kept, lost_entries, limits, in_doubt: BTreeSet::new(), filling })
    }

    /// Files whose entry is refused, in a slot or both: what was freed in them may be forgotten. They are for [`ColdDisk::mend_entry`].
    #[must_use]
    pub fn lost_entries(&self) -> BTreeSet<u32> {
        self.lost_entries.borrow().clone()
    }

    pub(super) fn note_lost_entry(&self, file: u32) {
        self.lost_entries.borrow_mut().insert(file);
    }

    pub(super) fn forget_lost_entry(&self, file: u32) {
        self.lost_entries.borrow_mut().remove(&file);
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

    pub(super) fn table_mut(&mut self) -> &mut FileTable {
        &mut self.table
    }

    /// Where a disk stands that took another's place.
    pub(super) fn filling(&self) -> Filling {
        self.filling
    }

    pub(super) fn set_filling(&mut self, filling: Filling) {
        self.filling = filling;
    }

    /// The superblock says this now.
    pub(super) fn set_superblock(&mut self, superblock: ColdSuperblock) {
        self.reader.superblock = superblock;
    }

    /// The device has failed: nothing is written to it until the node starts again.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.reader.disk.ended()
    }

    pub(super) fn name(&self) -> String {
        self.reader.name()
    }

    /// What it keeps.
    #[must_use]
    pub fn kept(&self) -> &KeptPlaces {
        &self.kept
    }

    /// Generations of its files; of one that is about to begin anew the one that comes. Who names another one means another life of the file.
    ///
    /// Failing history otherwise: a place in the next life is given up again, the three machines go on in this one, and every read of it hears that it
    /// has moved.
    #[must_use]
    pub fn generations(&self) -> Vec<u32> {
        let mut generations: Vec<u32> = self.table.files().iter().map(|facts| facts.generation).collect();
        for place in self.kept.places().filter(|place| !place.is_sealed) {
            let generation = &mut generations[place.file as usize];
            *generation = (*generation).max(place.file_generation);
        }
        generations
    }

    async fn store_kept(&mut self) -> Result<(), ColdError> {
        let (io, disk, superblock) = self.reader.parts();
        self.kept.store(io, disk, superblock).await
    }

    /// A place for sections of so many bytes together: the one that is kept for them already, whatever its size, or the one that is wanted.
    /// Durable when it comes back.
    ///
    /// # Errors
    /// [`ColdError::Refused`], [`ColdError::Forgotten`]: nothing is kept. [`ColdError::Disk`], [`ColdError::Arena`]: ask again.
    pub async fn reserve(
        &mut self,
        whom: KeptFor,
        content_bytes: u32,
        section_count: u32,
        wanted: Wanted,
    ) -> Result<KeptPlace, ColdError> {
        // An earlier answer may not have left, or only one copy of it may stand: what is said now, of a place or of none, is on the disk first.
        self.store_kept().await?;
        if let Some(place) = self.kept.find(&whom).copied() {
            return Ok(place);
        }
        let pages = self.kept.lost_count();
        if pages > 0 {
            return Err(ColdError::Forgotten { name: self.name(), pages });
        }
        let now_ns = self.reader.io.now().ns;
        let full = Refused::Full { bytes: content_bytes, section_count };
        let run = match wanted {
            Wanted::Exactly(run) => Some(run),
            Wanted::From(file) => self.table.next_passing(file, content_bytes, section_count, now_ns),
        };
        let reserved = run.ok_or(full).and_then(|run| self.table.reserve(run, now_ns).map(|()| run));
        let refused = |source| ColdError::Refused { name: self.name(), source };
        let run = reserved.map_err(refused)?;
        let Some(place) = self.kept.add(whom, &run, content_bytes) else {
            self.table.give_back(&run);
            return Err(ColdError::Refused { name: self.name(), source: full });
        };
        if !ioengine::canary("answer_a_reservation_before_it_is_kept") {
            self.store_kept().await?;
        }
        Ok(place)
    }

    /// What is kept for `whom`, if it is this place.
    fn kept_for(&self, whom: &KeptFor, run: &Run) -> Result<KeptPlace, ColdError> {
        let found = self.kept.find(whom).copied().filter(|place| run_of(place) == *run);
        found.ok_or_else(|| ColdError::Unreserved { name: self.name(), run: *run })
    }

    /// Write the next piece of a run, whole blocks, `at` bytes behind its beginning. Not durable yet. The buffer comes back.
    ///
    /// # Errors
    /// [`ColdError::Unreserved`], [`ColdError::Disk`].
    pub async fn write(
        &mut self,
        whom: &KeptFor,
        run: &Run,
        at: u32,
        piece: Buf,
        bytes: usize,
    ) -> Result<Buf, ColdError> {
        match self.kept_for(whom, run) {
            Ok(place) if !place.is_sealed => self.kept.is_written_to(&place),
            _ if ioengine::canary("write_unreserved_places") => {}
            _ => return Err(ColdError::Unreserved { name: self.name(), run: *run }),
        }
        let end = u64::from(at) + bytes as u64;
        assert!(end <= u64::from(run.bytes), "a piece lies in its run");
        let place = self.reader.place(run.file, u64::from(run.offset + at));
        let (result, piece) = self.reader.device().write(piece, place, bytes).await?;
        result?;
        Ok(piece)
    }

    /// The run is written: make it durable, read it back, and say so in the file's entry. The xxh3-128 of its content as it stands on
    /// the device: who compares it with the two others knows that all three hold the same. Asked again it reads again.
    ///
    /// # Errors
    /// [`ColdError::Unequal`], [`ColdError::Malformed`]: it is not sealed, its place stays reserved and may be written again. Of what was sealed
    /// before: it has decayed. Else as [`ColdError`] says.
    pub async fn seal(
        &mut self,
        whom: &KeptFor,
        run: &Run,
        content_bytes: u32,
        expected: Option<u128>,
    ) -> Result<u128, ColdError> {
        assert!(content_bytes <= run.bytes, "the content lies in its run");
        let place = match self.kept_for(whom, run) {
            Ok(place) => place,
            Err(unreserved) => {
                // Sealed so long ago that its place made room for others.
                let stands = self.reader.header(run.file, run.offset).await?;
                let is_it = stands.is_some_and(|header| self.is_counted(&header, whom, run));
                return if is_it { self.held(run, content_bytes, expected).await } else { Err(unreserved) };
            }
        };
        if place.is_sealed {
            self.store_kept().await?;
            return self.held(run, content_bytes, expected).await;
        }
        if !ioengine::canary("say_a_section_is_there_too_early") {
            self.reader.device().flush().await??;
        }
        let checksum = self.held(run, content_bytes, expected).await?;
        self.has_its_sections(whom, run, content_bytes).await?;
        let state = self.state_with(run).await?;
        self.store(run.file, state).await?;
        self.kept.seal(&place);
        self.table.give_back(run);
        self.store_kept().await?;
        Ok(checksum)
    }

    /// Is this the header of a run's first section, in a file that still counts it?
    fn is_counted(&self, header: &SectionHeader, whom: &KeptFor, run: &Run) -> bool {
        let facts = self.table.file(run.file).copied().unwrap_or_default();
        is_of(header, whom)
            && (header.place.file_generation, header.place.number) == (run.file_generation, run.number)
            && facts.generation == run.file_generation
            && run.number < facts.section_count
    }

    /// What a file is once the run in it counts. Numbers that it passes over are freed, but for those of places that are kept still.
    ///
    /// Failing history otherwise: a place is taken behind what another machine had kept; the numbers before it are nobody's, count for ever, and
    /// the file is never begun anew.
    async fn state_with(&self, run: &Run) -> Result<ColdFile, ColdError> {
        let facts = self.table.with(run);
        let mut state = self.state(run.file).await?;
        if state.generation != run.file_generation {
            state.begin(run.file_generation);
        }
        let first_new = state.section_count;
        (state.head, state.section_count) = (facts.head, facts.section_count);
        self.free_skipped(run.file, &mut state, first_new..run.number);
        Ok(state)
    }

    /// These numbers are passed over, because another machine of the group is ahead: nothing will ever stand under them, unless it is reserved.
    ///
    /// Failing history otherwise: they count for ever, so that the file is never empty and its room is never given again.
    fn free_skipped(&self, file: u32, state: &mut ColdFile, numbers: Range<u32>) {
        let generation = state.generation;
        let is_reserved = |number: u32| {
            let mut runs = self.table.reserved().iter();
            runs.any(|run| (run.file, run.file_generation) == (file, generation) && run.has(number))
        };
        for number in numbers.filter(|number| !is_reserved(*number)) {
            if !ioengine::canary("count_what_is_passed_over") {
                ioengine::sometimes!("a number of a cold file is passed over");
                state.free(number);
            }
        }
    }

    /// A run holds the sections that were announced, back to back, each with the header that belongs to its place.
    ///
    /// Failing history otherwise: a section whose header names another number is sealed, and cannot be freed by its own.
    async fn has_its_sections(&self, whom: &KeptFor, run: &Run, content_bytes: u32) -> Result<(), ColdError> {
        let malformed = || ColdError::Malformed { name: self.name(), run: *run };
        let end = u64::from(run.offset) + u64::from(content_bytes);
        let mut at = u64::from(run.offset);
        for number in run.number..run.number + run.section_count {
            if at + SECTION_HEADER_BYTES as u64 > end {
                return Err(malformed());
            }
            let header = self.reader.header(run.file, at as u32).await?.ok_or_else(malformed)?;
            let (place, of) = (header.place, header.identity);
            let is_right = (place.number, place.file_generation) == (number, run.file_generation)
                && (of.window_from, of.window_days, of.window_generation)
                    == (whom.window_from, whom.window_days, whom.window_generation)
                && (number > run.number || of.bucket == whom.bucket);
            if !is_right {
                return Err(malformed());
            }
            at += header.bytes();
        }
        if at == end { Ok(()) } else { Err(malformed()) }
    }

    /// The checksum of what stands in a run.
    async fn held(&self, run: &Run, content_bytes: u32, expected: Option<u128>) -> Result<u128, ColdError> {
        let found = self.reader.checksum(run, content_bytes).await?;
        match expected.filter(|expected| *expected != found) {
            Some(expected) => Err(ColdError::Unequal { name: self.name(), run: *run, found, expected }),
            None => Ok(found),
        }
    }

    /// A run is given up. How many of its sections counted until now. Asked again it changes nothing. What was written to counts as written and
    /// freed: no number and no byte of a file is given twice in one generation.
    ///
    /// # Errors
    /// [`ColdError::Unreserved`] when the place is kept for, or holds, something else, [`ColdError::Unknown`] when the header there is damaged: nothing
    /// is freed.
    /// [`ColdError::Disk`], [`ColdError::Arena`]: ask again.
    pub async fn give_up(&mut self, whom: &KeptFor, run: &Run) -> Result<u32, ColdError> {
        // Of what is sealed the header says whose it is. A section in the middle of a run ends within a block that others share: the numbers
        // tell them apart.
        let is_anothers = |place: &KeptPlace| {
            !place.is_sealed
                && place.whom != *whom
                && (place.file, place.file_generation) == (run.file, run.file_generation)
                && place.number < run.number + run.section_count
                && run.number < place.number + place.section_count
        };
        if self.kept.places().any(is_anothers) {
            return Err(ColdError::Unreserved { name: self.name(), run: *run });
        }
        let facts = self.table.file(run.file).copied().unwrap_or_default();
        let kept = self.kept.find(whom).copied().filter(|place| run_of(place) == *run);
        if let Some(place) = kept.filter(|place| !place.is_sealed) {
            let facts = self.table.file(run.file).copied().unwrap_or_default();
            // Somebody else has sealed what lies behind it: its numbers are given out.
            let is_overtaken = facts.generation == run.file_generation && run.number < facts.section_count;
            if self.kept.may_be_written(&place) || is_overtaken {
                ioengine::sometimes!("a place that was written to is given up");
                let mut state = self.state_with(run).await?;
                (run.number..run.number + run.section_count).for_each(|number| {
                    state.free(number);
                });
                self.store(run.file, state).await?;
            }
            self.kept.remove(|one| one.order == place.order);
            self.table.give_back(run);
            self.store_kept().await?;
            return Ok(run.section_count);
        }
        if facts.generation != run.file_generation || run.number + run.section_count > facts.section_count {
            self.store_kept().await?;
            return Ok(0);
        }
        let state = self.state(run.file).await?;
        if (run.number..run.number + run.section_count).all(|number| state.is_freed(number)) {
            self.is_sure(run.file)?;
            self.store_kept().await?;
            return Ok(0);
        }
        // Bytes of an earlier generation say nothing about this one, and a header that cannot be read no more than one that has decayed.
        let stands = match self.reader.header(run.file, run.offset).await {
            Err(ColdError::Disk(_)) if !self.has_ended() => None,
            stands => stands?,
        };
        let stands = stands.filter(|header| header.place.file_generation == run.file_generation);
        let is_right = |header: &SectionHeader| is_of(header, whom) && header.place.number == run.number;
        match stands {
            _ if ioengine::canary("free_what_is_another") => {}
            Some(header) if is_right(&header) => {}
            Some(_) => return Err(ColdError::Unreserved { name: self.name(), run: *run }),
            None => return Err(ColdError::Unknown { name: self.name(), whom: *whom, run: *run }),
        }
        let numbers: Vec<u32> = (run.number..run.number + run.section_count).collect();
        self.free(run.file, run.file_generation, &numbers).await
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
        let gone: Vec<u64> = self
            .kept
            .places()
            .filter(|place| place.is_sealed && (place.file, place.file_generation) == (file, generation))
            .filter(|place| {
                (place.number..place.number + place.section_count).all(|number| state.is_freed(number))
            })
            .map(|place| place.order)
            .collect();
        if count > 0 {
            self.store(file, state).await?;
        }
        self.is_sure(file)?;
        self.kept.remove(|place| gone.contains(&place.order));
        self.store_kept().await?;
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

    /// Know again what the entries say that were being written when the disk was set aside. To be called before anything else is done once it is back,
    /// when nothing of before is under way.
    ///
    /// Failing history otherwise: an entry that says that sections count and others are freed is not waited for; the next one is made of what was
    /// known before and of the bits of this one, no start believes it, and what was freed counts again.
    ///
    /// # Errors
    /// [`ColdError::Disk`], [`ColdError::Aside`], [`ColdError::Arena`]: they are in doubt still.
    pub(super) async fn settle(&mut self) -> Result<(), ColdError> {
        if self.has_ended() {
            // What it shows need not last: see `is_sure`.
            return Ok(());
        }
        while let Some(file) = self.in_doubt.first().copied() {
            if !ioengine::canary("trust_what_was_known_before_a_disk_was_aside") {
                let (io, disk, superblock) = self.reader.parts();
                let on_disk = match entry::read(io, disk, superblock, file).await?.slots {
                    Slots::Known(state) | Slots::AtLeast(state, _) => state,
                    Slots::Lost(_) => ColdFile::default(),
                };
                let is_behind = self.table.file(file).is_some_and(|facts| facts.sequence < on_disk.sequence);
                if is_behind {
                    ioengine::sometimes!("an entry that was not waited for is on the disk");
                    self.set(file, &on_disk);
                }
            }
            self.in_doubt.remove(&file);
        }
        Ok(())
    }

    /// Does the entry of a file last as it stands there?
    ///
    /// Failing history otherwise: the write that frees a section fails, who asks again hears that it is free, because the entry shows it, and after the
    /// next start it counts.
    fn is_sure(&self, file: u32) -> Result<(), ColdError> {
        if !self.in_doubt.contains(&file) || ioengine::canary("count_on_an_entry_that_could_not_be_written") {
            return Ok(());
        }
        Err(DiskError::Ended { name: Rc::from(self.name()) }.into())
    }

    fn set(&mut self, file: u32, state: &ColdFile) {
        let empty_until_ns = self.reader.io.now().after(self.limits.reuse_delay).ns;
        self.table.set(file, FileFacts { empty_until_ns, ..facts_of(state) });
    }

    /// Write the next state of a file to the slot that does not hold this one.
    pub(super) async fn store(&mut self, file: u32, mut state: ColdFile) -> Result<(), ColdError> {
        state.sequence += 1;
        let superblock = self.reader.superblock;
        let at = superblock.geometry.slot_offset(file, state.slot());
        let mut block = buffer(&self.reader.io, FILE_SLOT_BYTES)?;
        let bytes = (&mut block[..FILE_SLOT_BYTES]).try_into().expect("one slot");
        state.encode(superblock.device, file, at, bytes);
        let written = self.reader.device().write_durable(block, at.0, FILE_SLOT_BYTES).await;
        if !matches!(written, Ok((Ok(()), _))) {
            self.in_doubt.insert(file);
        }
        written?.0?;
        self.set(file, &state);
        Ok(())
    }
}

/// Is it of the window and the bucket that somebody names?
fn is_of(header: &SectionHeader, whom: &KeptFor) -> bool {
    let of = &header.identity;
    (of.bucket, of.window_from, of.window_days, of.window_generation)
        == (whom.bucket, whom.window_from, whom.window_days, whom.window_generation)
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
    pub(super) fn parts(&self) -> (&Io, Device<'_>, &ColdSuperblock) {
        (&self.io, self.device(), &self.superblock)
    }

    fn device(&self) -> Device<'_> {
        self.watch.as_ref().map_or(Device::plain(&self.disk), Device::watched)
    }

    fn name(&self) -> String {
        self.disk.name().to_owned()
    }

    /// Place on the device of a byte of a file.
    fn place(&self, file: u32, at: u64) -> u64 {
        self.superblock.geometry.file_offset(file).plus(at).0
    }

    /// Read bytes of a file with one read of the device: the buffer, and where in it they begin.
    pub(super) async fn read(&self, file: u32, at: u64, bytes: usize) -> Result<(Buf, usize), ColdError> {
        let skip = (at % BLOCK) as usize;
        let whole = (skip + bytes).next_multiple_of(BLOCK_BYTES);
        let buffer = buffer(&self.io, whole)?;
        let (result, buffer) = self.device().read(buffer, self.place(file, at - skip as u64), whole).await?;
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
        super::walk::walk(&self.io, self.device(), &self.superblock, file).await
    }

    /// The same, and how many blocks the device did not read.
    pub(super) async fn walk_all(&self, file: u32) -> Result<(Vec<SectionHeader>, u64), ColdError> {
        super::walk::walk_all(&self.io, self.device(), &self.superblock, file).await
    }

    /// Check every byte of a section: see [`super::walk::examine`].
    ///
    /// # Errors
    /// [`ColdError::Disk`], [`ColdError::Arena`].
    pub async fn examine(&self, section: &SectionHeader) -> Result<Option<Corrupt>, ColdError> {
        super::walk::examine(&self.io, self.device(), &self.superblock, section).await
    }
}
