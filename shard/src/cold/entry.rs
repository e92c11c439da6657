//! The entry of a file in a cold disk's table: what it says, also where the device does not read all of it, and how it is written again.
//!
//! Must never take a device that fails for an entry that has decayed. Invariant: an entry that is lost takes nothing with it but which sections of its file
//! were freed, and these count until both other machines say so: see `reconcile`.
//!
//! ```text
//! | slot 0, 4 KiB | slot 1, 4 KiB |    read as one piece; piece by piece where that fails; believed to have decayed only while the device reads elsewhere
//! ```

use super::ColdError;
use super::agreed::Agreed;
use super::device::Device;
use super::disk::ColdDisk;
use super::open::{buffer, read_what_is_there, slots_of};
use super::table::FileFacts;
use ioengine::Io;
use layout::cold_disk::{ColdSuperblock, FILE_ENTRY_BYTES};
use layout::cold_file::{ColdFile, FILE_SLOT_BYTES, Slots};
use layout::units::DiskOffset;
use std::cmp::Ordering;
use std::ops::Range;

/// How often a piece is tried that the device does not read.
const TRIES: usize = 3;
const ENTRY_BYTES: usize = FILE_ENTRY_BYTES as usize;
/// No slot begins like this: what was not read is refused.
const UNREAD: u8 = 0xff;

/// What stands in an entry.
pub(super) struct Entry {
    pub(super) slots: Slots,
    /// The device read both slots.
    pub(super) is_read: bool,
}

impl Entry {
    /// Do both slots say what they should?
    pub(super) fn is_whole(&self) -> bool {
        self.is_read && matches!(self.slots, Slots::Known(_))
    }
}

/// Read bytes of an entry into their place in `entry`, tried more than once.
async fn read_piece(
    io: &Io,
    disk: Device<'_>,
    at: DiskOffset,
    (entry, piece): (&mut [u8; ENTRY_BYTES], Range<usize>),
) -> Result<(), ColdError> {
    let mut block = buffer(io, piece.len())?;
    let mut tried = 1;
    loop {
        let (result, back) = disk.read(block, at.plus(piece.start as u64).0, piece.len()).await?;
        block = back;
        match result {
            Ok(()) => {
                entry[piece.clone()].copy_from_slice(&block[..piece.len()]);
                return Ok(());
            }
            Err(error) if tried == TRIES => return Err(error.into()),
            Err(_) => tried += 1,
        }
    }
}

/// What a file's entry says, of a disk that is open. A slot that the device does not read is refused like one that is damaged.
///
/// Failing history otherwise: a sector of an entry has become unreadable, and a seal, a free, a repair and a scrub of the file fail for as long as the
/// machine lives; no write ever mends the sector, because each begins with this read.
///
/// # Errors
/// [`ColdError::Disk`]: the device reads nothing elsewhere, either. [`ColdError::Aside`], [`ColdError::Arena`].
pub(super) async fn read(
    io: &Io,
    disk: Device<'_>,
    superblock: &ColdSuperblock,
    file: u32,
) -> Result<Entry, ColdError> {
    let at = superblock.geometry.slot_offset(file, 0);
    let mut entry = [UNREAD; ENTRY_BYTES];
    let error = match read_piece(io, disk, at, (&mut entry, 0..ENTRY_BYTES)).await {
        Ok(()) => return Ok(Entry { slots: slots_of(superblock, file, &entry), is_read: true }),
        Err(error @ ColdError::Disk(_)) if !ioengine::canary("take_a_decayed_entry_for_a_failing_disk") => {
            error
        }
        Err(error) => return Err(error),
    };
    let mut read_count = 0;
    for slot in 0..ENTRY_BYTES / FILE_SLOT_BYTES {
        let piece = slot * FILE_SLOT_BYTES..(slot + 1) * FILE_SLOT_BYTES;
        match read_piece(io, disk, at, (&mut entry, piece)).await {
            Ok(()) => read_count += 1,
            Err(ColdError::Disk(_)) => {}
            Err(error) => return Err(error),
        }
    }
    if read_count == 0 && read_what_is_there(io, disk).await?.1.is_some() {
        return Err(error);
    }
    ioengine::sometimes!("a part of the entry of a cold file cannot be read");
    tracing::warn!(disk = disk.name(), file, %error, "the entry of a file is read in part: it is to be written again");
    let is_read = read_count == ENTRY_BYTES / FILE_SLOT_BYTES;
    Ok(Entry { slots: slots_of(superblock, file, &entry), is_read })
}

impl ColdDisk {
    /// What is known of a file, with the bits that stand on the disk alone. Its next state goes to a slot that is refused, if one is.
    pub(super) async fn state(&self, file: u32) -> Result<ColdFile, ColdError> {
        let reader = self.reader();
        let (io, disk, superblock) = reader.parts();
        let facts = *self.table().file(file).expect("a file of the disk");
        let entry = read(io, disk, superblock, file).await?;
        if !entry.is_whole() {
            self.note_lost_entry(file);
        }
        let (on_disk, stays) = match entry.slots {
            Slots::Known(state) => (state, None),
            Slots::AtLeast(state, _) => {
                let stays = Some(state.slot()).filter(|_| state.sequence > 0);
                (state, stays)
            }
            Slots::Lost(_) => (ColdFile::default(), None),
        };
        // What the walk found beyond a refused slot counts, too.
        let mut state = on_disk;
        if state.generation < facts.generation {
            state.begin(facts.generation);
        }
        state.sequence = state.sequence.max(facts.sequence);
        // The one slot that still says something is the last to be written.
        if stays.is_some_and(|stays| stays != state.slot()) {
            state.sequence += 1;
        }
        (state.head, state.section_count) = (facts.head, facts.section_count);
        Ok(state)
    }

    /// What both others hold of a file of which not all could be read: from now on it is as any other.
    ///
    /// What this machine alone has sealed and cannot read is nobody's: a place that counts is sealed or reserved on all three.
    pub(super) fn learn(&mut self, file: u32, agreed: &Agreed) {
        let own = *self.table().file(file).expect("a file of the disk");
        let theirs = agreed.facts(own.sequence);
        let known = match theirs.generation.cmp(&own.generation) {
            // Which of them are free is asked for.
            Ordering::Greater => FileFacts { freed_count: 0, ..theirs },
            Ordering::Less => own,
            Ordering::Equal => FileFacts {
                head: own.head.max(theirs.head),
                section_count: own.section_count.max(theirs.section_count),
                ..own
            },
        };
        self.table_mut().set(file, FileFacts { empty_until_ns: own.empty_until_ns, ..known });
        self.table_mut().set_due(file, false);
        ioengine::sometimes!("the others say what a file holds that could not be read");
    }

    /// Write the entry of a file again of which a slot is refused, so that no later start has to walk the file. Of one that is still to be filled nothing
    /// is said yet.
    ///
    /// # Errors
    /// [`ColdError::Disk`], [`ColdError::Arena`].
    pub async fn mend_entry(&mut self, file: u32) -> Result<(), ColdError> {
        if self.table().is_due(file) {
            self.forget_lost_entry(file);
            return Ok(());
        }
        // A state goes to the slot that does not hold the one before: two of them mend both.
        for _slot in 0..ENTRY_BYTES / FILE_SLOT_BYTES {
            let state = self.state(file).await?;
            if !self.is_entry_whole(file).await? {
                ioengine::sometimes!("an entry of a cold disk's file table is written again");
                if state.generation > 0 { self.store(file, state).await? } else { self.clear(file).await? }
            }
        }
        if self.is_entry_whole(file).await? {
            self.forget_lost_entry(file);
        }
        Ok(())
    }

    async fn is_entry_whole(&self, file: u32) -> Result<bool, ColdError> {
        let reader = self.reader();
        let (io, disk, superblock) = reader.parts();
        Ok(read(io, disk, superblock, file).await?.is_whole())
    }

    /// Of a file that was never begun the entry says nothing.
    async fn clear(&self, file: u32) -> Result<(), ColdError> {
        let reader = self.reader();
        let (io, disk, superblock) = reader.parts();
        let mut block = buffer(io, ENTRY_BYTES)?;
        block[..ENTRY_BYTES].fill(0);
        let at = superblock.geometry.slot_offset(file, 0);
        disk.write_durable(block, at.0, ENTRY_BYTES).await?.0?;
        Ok(())
    }
}
