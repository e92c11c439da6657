//! Making a disk ours for the cold tier; finding out what it is, and what is in it.
//!
//! Must never leave a disk that looks formatted and is not: the file table is zeroed before the superblock is written, last copy
//! first, so that the copy that is looked for first comes when all else is there.

use super::ColdError;
use super::device::{Aside, Device};
use super::entry;
use super::kept::{KeptPlaces, run_of};
use super::table::{FileFacts, Run};
use super::walk::walk_all;
use ioengine::{Buf, Disk, DiskError, Io};
use layout::cold_disk::{
    COLD_COPY_COUNT, COLD_SUPERBLOCK_BYTES, ColdCopy, ColdGeometry, ColdState, ColdSuperblock,
    FILE_ENTRY_BYTES, choose_cold, last_copy_offset,
};
use layout::cold_file::{ColdFile, FILE_SLOT_BYTES, Slots, choose_slot};
use layout::cold_section::SectionHeader;
use layout::units::{DiskOffset, Uuid};
use layout::zone::Range;

/// What to make of a disk.
#[derive(Clone, Copy, Debug)]
pub struct ColdFormat {
    /// Cluster it will belong to.
    pub cluster: Uuid,
    /// Node it will belong to, from 1.
    pub node: u32,
    /// Cold group of that node.
    pub group: u16,
    /// Its number in the group.
    pub disk: u16,
    /// Size of a file, bytes.
    pub file_bytes: u64,
    /// Most files: as many as the other disks of its number have.
    pub file_count_max: u32,
    /// It takes the place of a disk that was lost.
    pub fills: bool,
    /// Format it even if it is formatted already; what it held is gone.
    pub anew: bool,
}

/// Bytes of the file table read at once.
const TABLE_READ_BYTES: usize = 1 << 20;

pub(super) fn buffer(io: &Io, bytes: usize) -> Result<Buf, ColdError> {
    io.buffer(bytes).ok_or(ColdError::Arena { bytes })
}

/// What stands in the place of a copy, the buffer, and what the device said if it does not read it.
async fn read_copy(
    disk: Device<'_>,
    at: DiskOffset,
    block: Buf,
) -> Result<(ColdCopy, Buf, Option<DiskError>), Aside> {
    let (result, mut block) = disk.read(block, at.0, COLD_SUPERBLOCK_BYTES).await?;
    if let Err(error) = &result {
        tracing::warn!(%error, "a superblock copy of a cold disk cannot be read");
        block[..COLD_SUPERBLOCK_BYTES].fill(0);
    }
    let bytes: &[u8; COLD_SUPERBLOCK_BYTES] = block[..COLD_SUPERBLOCK_BYTES].try_into().expect("one block");
    Ok((ColdSuperblock::decode(bytes, at), block, result.err()))
}

/// What stands at the places of the superblock: those at both ends, and the one in the middle if one of them says where that is.
///
/// # Errors
/// [`ColdError::Aside`], [`ColdError::Arena`]. A copy that cannot be read by the device counts as damaged.
pub(super) async fn read_copies(io: &Io, disk: Device<'_>) -> Result<Vec<ColdCopy>, ColdError> {
    read_what_is_there(io, disk).await.map(|(copies, _)| copies)
}

/// The same, and what the device said if it reads none of them.
pub(super) async fn read_what_is_there(
    io: &Io,
    disk: Device<'_>,
) -> Result<(Vec<ColdCopy>, Option<DiskError>), ColdError> {
    let mut block = buffer(io, COLD_SUPERBLOCK_BYTES)?;
    let (mut copies, mut errors) = (Vec::with_capacity(COLD_COPY_COUNT), Vec::new());
    for at in [Some(DiskOffset(0)), last_copy_offset(disk.geometry().bytes)].into_iter().flatten() {
        let (copy, back, error) = read_copy(disk, at, block).await?;
        block = back;
        copies.push(copy);
        errors.extend(error);
    }
    let reads_none = errors.len() == copies.len();
    let known = copies.iter().flatten().next().map(|copy| copy.geometry);
    if let Some(at) = known.map(|geometry| geometry.copy_offset(1)).filter(|at| at.0 < disk.geometry().bytes)
    {
        let (copy, ..) = read_copy(disk, at, block).await?;
        copies.push(copy);
    }
    Ok((copies, errors.pop().filter(|_| reads_none)))
}

async fn write_copies(io: &Io, disk: Device<'_>, superblock: &ColdSuperblock) -> Result<(), ColdError> {
    let mut block = buffer(io, COLD_SUPERBLOCK_BYTES)?;
    for copy in (0..COLD_COPY_COUNT).rev() {
        let bytes = (&mut block[..COLD_SUPERBLOCK_BYTES]).try_into().expect("one block");
        superblock.encode(copy, bytes);
        let at = superblock.geometry.copy_offset(copy).0;
        let (result, back) = disk.write_durable(block, at, COLD_SUPERBLOCK_BYTES).await?;
        block = back;
        result?;
    }
    Ok(())
}

/// Write those copies again that do not say what is in force. How many there were.
///
/// # Errors
/// [`ColdError::Disk`], [`ColdError::Arena`]; the copies that are left say the same as before.
pub(super) async fn mend_copies(
    io: &Io,
    disk: Device<'_>,
    superblock: &ColdSuperblock,
) -> Result<usize, ColdError> {
    let mut count = 0;
    for copy in 0..COLD_COPY_COUNT {
        let at = superblock.geometry.copy_offset(copy);
        let (found, mut block, _) = read_copy(disk, at, buffer(io, COLD_SUPERBLOCK_BYTES)?).await?;
        if found.as_ref() == Ok(superblock) {
            continue;
        }
        let bytes = (&mut block[..COLD_SUPERBLOCK_BYTES]).try_into().expect("one block");
        superblock.encode(copy, bytes);
        disk.write_durable(block, at.0, COLD_SUPERBLOCK_BYTES).await?.0?;
        ioengine::sometimes!("a superblock copy of a cold disk is written again");
        count += 1;
    }
    Ok(count)
}

/// The superblock in force, without changing anything.
///
/// # Errors
/// [`ColdError::Superblock`] when none counts, [`ColdError::Cut`] when the device has become smaller, [`ColdError::Disk`].
pub async fn read(io: &Io, disk: &Disk) -> Result<ColdSuperblock, ColdError> {
    read_from(io, Device::plain(disk)).await
}

/// The same of a disk that may be set aside meanwhile.
pub(super) async fn read_from(io: &Io, disk: Device<'_>) -> Result<ColdSuperblock, ColdError> {
    let name = || disk.name().to_owned();
    let (copies, unread) = read_what_is_there(io, disk).await?;
    if let Some(error) = unread {
        return Err(error.into());
    }
    let found = choose_cold(&copies).map_err(|source| ColdError::Superblock { name: name(), source })?;
    let (bytes, formatted) = (disk.geometry().bytes, found.geometry.device_bytes);
    if bytes < formatted {
        return Err(ColdError::Cut { name: name(), bytes, formatted });
    }
    Ok(found)
}

/// Format `disk`.
///
/// # Errors
/// [`ColdError`]; the disk is then not formatted, or formatted as before when `anew` was not set.
pub async fn format(io: &Io, disk: &Disk, wanted: &ColdFormat) -> Result<ColdSuperblock, ColdError> {
    let name = || disk.name().to_owned();
    let copies = read_copies(io, Device::plain(disk)).await?;
    if let (Ok(before), false) = (choose_cold(&copies), wanted.anew) {
        return Err(ColdError::Formatted { name: name(), cluster: before.cluster, node: before.node });
    }
    let device = disk.geometry();
    let geometry = ColdGeometry::plan(device.bytes, wanted.file_bytes, wanted.file_count_max)
        .map_err(|source| ColdError::Plan { name: name(), source })?;
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&io.random().to_le_bytes());
    uuid[8..].copy_from_slice(&io.random().to_le_bytes());
    let superblock = ColdSuperblock {
        sequence: 1,
        device: Uuid(uuid),
        cluster: wanted.cluster,
        node: wanted.node,
        group: wanted.group,
        disk: wanted.disk,
        state: if wanted.fills { ColdState::Filling } else { ColdState::Whole },
        block_bytes: device.block_bytes,
        geometry,
    };
    // No copy of an earlier life may be found beside what comes, wherever that life had its middle.
    let before = copies.iter().flatten().map(|copy| copy.geometry);
    let places =
        before.chain([geometry]).flat_map(|of| (0..COLD_COPY_COUNT).map(move |copy| of.copy_offset(copy)));
    let inside = places.filter(|at| at.0 + COLD_SUPERBLOCK_BYTES as u64 <= device.bytes);
    let range = |offset| Range { offset, bytes: COLD_SUPERBLOCK_BYTES as u64 };
    let (offset, bytes) = geometry.file_table();
    let (kept_at, kept_bytes) = geometry.kept();
    let tables = [Range { offset, bytes }, Range { offset: kept_at, bytes: kept_bytes }];
    let ranges: Vec<Range> = inside.map(range).chain(tables).collect();
    zero(io, disk, ranges).await?;
    write_copies(io, Device::plain(disk), &superblock).await?;
    Ok(superblock)
}

/// Bytes cleared at either end of a disk that is wiped: where those who make a disk theirs look for what it holds.
pub const WIPED_END_BYTES: u64 = 1 << 20;

/// Take our mark from a disk: its superblock copies are gone, and what stands at both of its ends, and nobody finds what it held, though
/// most bytes are still there. How many places of copies were cleared: three, or two of a disk whose copies at both ends are damaged.
///
/// # Errors
/// [`ColdError::Disk`], [`ColdError::Arena`]; the disk may then have lost some of its copies.
pub async fn wipe(io: &Io, disk: &Disk) -> Result<usize, ColdError> {
    let copies = read_copies(io, Device::plain(disk)).await?;
    let middles = copies.iter().flatten().map(|copy| copy.geometry.copy_offset(1));
    // That in the middle first: only the others know where it is.
    let mut places: Vec<DiskOffset> = middles.collect();
    places.dedup();
    places.extend(last_copy_offset(disk.geometry().bytes));
    places.push(DiskOffset(0));
    places.retain(|at| at.0 + COLD_SUPERBLOCK_BYTES as u64 <= disk.geometry().bytes);
    for &offset in &places {
        zero(io, disk, vec![Range { offset, bytes: COLD_SUPERBLOCK_BYTES as u64 }]).await?;
    }
    let whole = disk.geometry().bytes;
    let bytes = WIPED_END_BYTES.min(whole);
    let last = (whole - bytes).next_multiple_of(u64::from(disk.geometry().block_bytes));
    let ends = [(0, bytes), (last, whole - last)].map(|(at, bytes)| Range { offset: DiskOffset(at), bytes });
    zero(io, disk, ends.to_vec()).await?;
    Ok(places.len())
}

/// How full a disk is, by its file table and its kept places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColdOverview {
    /// Files that were begun.
    pub file_used_count: u32,
    /// Entries of files that are torn or damaged: these files were walked.
    pub file_walked_count: u64,
    /// Bytes written, also of sections that were freed since.
    pub head_bytes: u64,
    /// Sections that count.
    pub section_count: u64,
    /// Sections that were freed in files that hold others.
    pub freed_count: u64,
    /// Places that are reserved and not sealed.
    pub reserved_count: usize,
    /// Pages of kept places that are damaged in both copies.
    pub kept_lost_count: u32,
}

/// What is on a disk that is open, without changing anything.
///
/// # Errors
/// [`ColdError::Disk`], [`ColdError::Arena`].
pub async fn overview(io: &Io, disk: &Disk, superblock: &ColdSuperblock) -> Result<ColdOverview, ColdError> {
    let disk = Device::plain(disk);
    let kept = KeptPlaces::read(io, disk, superblock).await?;
    let FilesFound { facts: files, walked, .. } = read_table(io, disk, superblock, &kept).await?;
    let mut all = ColdOverview {
        file_walked_count: walked.len() as u64,
        reserved_count: kept.places().filter(|place| !place.is_sealed).count(),
        kept_lost_count: kept.lost_count(),
        ..ColdOverview::default()
    };
    for facts in files.iter().filter(|facts| facts.generation > 0) {
        all.file_used_count += 1;
        all.head_bytes += u64::from(facts.head);
        all.freed_count += u64::from(facts.freed_count);
        all.section_count += u64::from(facts.section_count.saturating_sub(facts.freed_count));
    }
    Ok(all)
}

async fn zero(io: &Io, disk: &Disk, ranges: Vec<Range>) -> Result<(), ColdError> {
    crate::format::zero(io, disk, ranges).await.map_err(|error| match error {
        crate::format::FormatError::Disk(error) => ColdError::Disk(error),
        _ => ColdError::Arena { bytes: TABLE_READ_BYTES },
    })
}

/// Say that a disk that was being filled holds all that it should.
///
/// # Errors
/// [`ColdError`]: it says what it said before, or is whole.
pub async fn fill_ended(
    io: &Io,
    disk: &Disk,
    superblock: &ColdSuperblock,
) -> Result<ColdSuperblock, ColdError> {
    fill_ended_on(io, Device::plain(disk), superblock).await
}

/// The same of a disk that may be set aside meanwhile.
pub(super) async fn fill_ended_on(
    io: &Io,
    disk: Device<'_>,
    superblock: &ColdSuperblock,
) -> Result<ColdSuperblock, ColdError> {
    let whole = ColdSuperblock { state: ColdState::Whole, sequence: superblock.sequence + 1, ..*superblock };
    write_copies(io, disk, &whole).await?;
    Ok(whole)
}

/// What the bytes of an entry say.
pub(super) fn slots_of(superblock: &ColdSuperblock, file: u32, entry: &[u8]) -> Slots {
    let own = (superblock.device, file, superblock.geometry.file_bytes);
    let (slots, _) = entry.as_chunks::<FILE_SLOT_BYTES>();
    let slot =
        |number: usize| ColdFile::decode(&slots[number], own, superblock.geometry.slot_offset(file, number));
    choose_slot([slot(0), slot(1)])
}

/// What the entries of a disk say, and the files where they do not.
pub(super) struct FilesFound {
    pub(super) facts: Vec<FileFacts>,
    /// Files whose entry is lost, or one of its slots: they were walked.
    pub(super) walked: Vec<u32>,
    /// Those of them of which the device did not read all: they may hold more than was found.
    pub(super) unsure: Vec<u32>,
}

/// The state of all files, by their entries; those whose entry is torn or decayed by what stands in them.
///
/// # Errors
/// [`ColdError::Disk`], [`ColdError::Arena`].
pub(super) async fn read_table(
    io: &Io,
    disk: Device<'_>,
    superblock: &ColdSuperblock,
    kept: &KeptPlaces,
) -> Result<FilesFound, ColdError> {
    let (at, bytes) = superblock.geometry.file_table();
    let mut entries = Vec::with_capacity(superblock.geometry.file_count as usize);
    let mut block = buffer(io, TABLE_READ_BYTES)?;
    let mut read = 0;
    while read < bytes {
        let count = (TABLE_READ_BYTES as u64).min(bytes - read) as usize;
        let (result, back) = disk.read(block, at.plus(read).0, count).await?;
        block = back;
        if let Err(error) = &result {
            tracing::warn!(%error, "a part of a cold disk's file table is read entry by entry");
        }
        for entry in block[..count].chunks(FILE_ENTRY_BYTES as usize) {
            let file = entries.len() as u32;
            entries.push(if result.is_ok() { Some(slots_of(superblock, file, entry)) } else { None });
        }
        read += count as u64;
    }
    drop(block);
    let mut found = FilesFound { facts: Vec::with_capacity(entries.len()), walked: vec![], unsure: vec![] };
    for (file, slots) in (0u32..).zip(entries) {
        let slots = match slots {
            Some(slots) => slots,
            None => entry::read(io, disk, superblock, file).await?.slots,
        };
        let least = match slots {
            Slots::Known(state) => {
                found.facts.push(facts_of(&state));
                continue;
            }
            Slots::AtLeast(state, _) => facts_of(&state),
            Slots::Lost(_) => FileFacts::default(),
        };
        let (facts, gaps) = walk_file(io, disk, (superblock, kept), file, least).await?;
        tracing::warn!(
            disk = disk.name(),
            file,
            blocks_not_read = gaps,
            "the entry of a file is lost, or one of its slots: the file is walked"
        );
        found.facts.push(facts);
        found.walked.push(file);
        // Failing history otherwise: what the device does not read of a file is taken for empty, and places are given where sections stand.
        if gaps > 0 && !ioengine::canary("believe_a_walk_with_gaps") {
            ioengine::sometimes!("a file of a cold disk may hold more than was found");
            found.unsure.push(file);
        }
    }
    Ok(found)
}

pub(super) fn facts_of(state: &ColdFile) -> FileFacts {
    FileFacts {
        sequence: state.sequence,
        generation: state.generation,
        head: state.head,
        section_count: state.section_count,
        freed_count: state.freed_count(),
        empty_until_ns: 0,
    }
}

/// What a file holds at least, and what its sections say beyond that, with how many blocks of it were not read: those that stand where a place is reserved say nothing, they are not sealed.
///
/// Failing history otherwise: what was written to a place, and not sealed, makes numbers before it count that are nobody's; no machine ever frees them, and
/// the file is never begun anew.
async fn walk_file(
    io: &Io,
    disk: Device<'_>,
    (superblock, kept): (&ColdSuperblock, &KeptPlaces),
    file: u32,
    least: FileFacts,
) -> Result<(FileFacts, u64), ColdError> {
    let (mut sections, unread) = walk_all(io, disk, superblock, file).await?;
    let reserved: Vec<Run> =
        kept.places().filter(|place| !place.is_sealed && place.file == file).map(run_of).collect();
    let is_reserved = |section: &SectionHeader| {
        let at = &section.place;
        reserved.iter().any(|run| run.file_generation == at.file_generation && run.has(at.number))
    };
    sections.retain(|section| !is_reserved(section) || ioengine::canary("count_what_is_reserved"));
    let Some(newest) = sections.iter().map(|section| section.place.file_generation).max() else {
        return Ok((least, unread));
    };
    if newest < least.generation {
        return Ok((least, unread));
    }
    let begun = if newest == least.generation {
        least
    } else {
        FileFacts { generation: newest, ..FileFacts::default() }
    };
    let mut facts = FileFacts { sequence: least.sequence, ..begun };
    for section in sections.iter().filter(|section| section.place.file_generation == newest) {
        let end = u64::from(section.place.offset) + section.bytes();
        let end = end.next_multiple_of(layout::units::BLOCK_BYTES as u64) as u32;
        facts.head = facts.head.max(end);
        facts.section_count = facts.section_count.max(section.place.number + 1);
    }
    Ok((facts, unread))
}
