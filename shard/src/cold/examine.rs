//! Is a cold disk sound? Every byte of every section that counts, by what the disk says of itself: its file table says which count, their
//! headers where they are, their digest what they hold.
//!
//! Must never change anything, and never call sound what it has not read. Invariant: each section that counts is found whole, or named
//! by one finding. What a power cut leaves behind a file's head is no finding.

use super::ColdError;
use super::device::Device;
use super::entry;
use super::kept::{KeptPlaces, run_of};
use super::open::{read_copies, read_table};
use super::table::FileFacts;
use super::walk;
use ioengine::{Disk, Io};
use layout::cold_disk::{COLD_COPY_COUNT, ColdSuperblock};
use layout::cold_file::{ColdFile, Slots};
use layout::cold_section::SectionHeader;
use layout::units::DiskOffset;
use std::collections::{BTreeMap, BTreeSet};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColdGrade {
    /// Something cannot be read, or is not what it should be: another machine of the group has to answer.
    Damage,
    /// One copy of several is bad: nothing is lost.
    Warning,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdFinding {
    /// How bad it is.
    pub grade: ColdGrade,
    /// Which part: superblock, file table, kept places, section.
    pub part: &'static str,
    /// File it is in, or about.
    pub file: Option<u32>,
    /// What, with what it means.
    pub what: String,
    /// Where on the device.
    pub at: Option<DiskOffset>,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColdCoverage {
    /// Superblock copies that say what is in force.
    pub copy_count: usize,
    /// Files that were begun.
    pub file_used_count: u32,
    /// Sections that count.
    pub section_count: u64,
    /// Those of them that were read as a whole and are sound.
    pub section_sound_count: u64,
    /// Sections that were freed: not looked at.
    pub section_freed_count: u64,
    /// Records in the sound ones.
    pub record_count: u64,
    /// Bytes of the sections that count, of those that were found.
    pub bytes_in_use: u64,
    /// Bytes of these that were read and compared.
    pub bytes_read: u64,
    /// Places reserved and not sealed: not looked at.
    pub reserved_count: usize,
}

/// Something that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColdSeen {
    /// A section that counts, all of it read and sound.
    Sound(SectionHeader),
    /// Something is wrong.
    Finding(ColdFinding),
}

/// Look at all of a disk whose superblock in force this is; sound sections and findings as they come.
///
/// # Errors
/// [`ColdError::Arena`], and [`ColdError::Disk`] where the file table or the superblock cannot be read at all. A section that cannot be
/// read is a finding.
pub async fn examine_disk(
    io: &Io,
    disk: &Disk,
    superblock: &ColdSuperblock,
    mut seen: impl FnMut(ColdSeen),
) -> Result<ColdCoverage, ColdError> {
    let disk = Device::plain(disk);
    let mut coverage = ColdCoverage::default();
    let mut each = |finding| seen(ColdSeen::Finding(finding));
    let warning =
        |part, what: String| ColdFinding { grade: ColdGrade::Warning, part, file: None, what, at: None };
    for copy in read_copies(io, disk).await? {
        match copy {
            Ok(copy) if copy == *superblock => coverage.copy_count += 1,
            Ok(copy) => {
                let what = format!(
                    "a copy is of sequence {}, and {} is in force",
                    copy.sequence, superblock.sequence
                );
                each(warning("superblock", what));
            }
            Err(corrupt) => each(ColdFinding {
                at: Some(DiskOffset(corrupt.at)),
                ..warning(
                    "superblock",
                    format!(
                        "{corrupt}; one whole copy of {COLD_COPY_COUNT} is enough, and the next start writes it again"
                    ),
                )
            }),
        }
    }
    let kept = KeptPlaces::read(io, disk, superblock).await?;
    coverage.reserved_count = kept.places().filter(|place| !place.is_sealed).count();
    for _ in 0..kept.lost_count() {
        let what = "a page is damaged in both copies: this disk gives no places until it is formatted anew";
        each(ColdFinding { grade: ColdGrade::Damage, ..warning("kept places", what.to_owned()) });
    }
    for _ in 0..kept.unequal_count() {
        let what = "the copies of a page differ: the next start writes both anew";
        each(warning("kept places", what.to_owned()));
    }
    let files = read_table(io, disk, superblock, &kept).await?.facts;
    for (file, facts) in (0u32..).zip(&files) {
        let state = file_state(io, disk, superblock, file, &mut seen).await?;
        if facts.generation == 0 {
            continue;
        }
        coverage.file_used_count += 1;
        let is_freed = |number: u32| {
            state.generation == facts.generation && number < state.section_count && state.is_freed(number)
        };
        let is_reserved = |number: u32| {
            kept.places().filter(|place| !place.is_sealed).any(|place| {
                (place.file, place.file_generation) == (file, facts.generation) && run_of(place).has(number)
            })
        };
        let freed_count = (0..facts.section_count).filter(|number| is_freed(*number)).count() as u64;
        let counting: BTreeSet<u32> =
            (0..facts.section_count).filter(|number| !is_freed(*number) && !is_reserved(*number)).collect();
        coverage.section_count += counting.len() as u64;
        coverage.section_freed_count += freed_count;
        if !counting.is_empty() {
            let looked = examine_file(io, disk, superblock, (file, facts), counting, &mut coverage).await?;
            looked.into_iter().for_each(&mut seen);
        }
    }
    Ok(coverage)
}

/// What a file's entry says, or as much as can still be read of it.
async fn file_state(
    io: &Io,
    disk: Device<'_>,
    superblock: &ColdSuperblock,
    file: u32,
    seen: &mut impl FnMut(ColdSeen),
) -> Result<ColdFile, ColdError> {
    let at = Some(superblock.geometry.slot_offset(file, 0));
    let of_entry = |grade, what: String| {
        ColdSeen::Finding(ColdFinding { grade, part: "file table", file: Some(file), what, at })
    };
    let entry = entry::read(io, disk, superblock, file).await;
    let is_unread = entry.as_ref().is_ok_and(|entry| !entry.is_read);
    match entry.map(|entry| entry.slots) {
        Ok(Slots::Known(state)) => Ok(state),
        Ok(Slots::AtLeast(state, corrupt)) => {
            let why = if is_unread { "the device does not read it".to_owned() } else { corrupt.to_string() };
            let what = format!(
                "{why}: one slot of two is torn or damaged: the next start walks the file and writes both again"
            );
            seen(of_entry(ColdGrade::Warning, what));
            Ok(state)
        }
        Ok(Slots::Lost(_)) if is_unread => {
            let what = "neither slot can be read: what was freed in the file counts again until the two other machines say so";
            seen(of_entry(ColdGrade::Damage, what.to_owned()));
            Ok(ColdFile::default())
        }
        Ok(Slots::Lost([first, _])) => {
            let what = format!("{first}, and the other slot, too: what was freed in the file counts again");
            seen(of_entry(ColdGrade::Damage, what));
            Ok(ColdFile::default())
        }
        Err(ColdError::Disk(error)) => {
            seen(of_entry(ColdGrade::Damage, format!("{error}: what was freed in the file counts again")));
            Ok(ColdFile::default())
        }
        Err(error) => Err(error),
    }
}

/// The sections of a file that count: the sound ones, and what is wrong with the others.
async fn examine_file(
    io: &Io,
    disk: Device<'_>,
    superblock: &ColdSuperblock,
    (file, facts): (u32, &FileFacts),
    mut counting: BTreeSet<u32>,
    coverage: &mut ColdCoverage,
) -> Result<Vec<ColdSeen>, ColdError> {
    let place = |offset: u32| superblock.geometry.file_offset(file).plus(u64::from(offset));
    let mut bad: BTreeMap<u32, (SectionHeader, String)> = BTreeMap::new();
    let mut found = Vec::new();
    for header in walk::walk(io, disk, superblock, file).await? {
        let number = header.place.number;
        if header.place.file_generation != facts.generation || !counting.contains(&number) {
            continue;
        }
        let end = u64::from(header.place.offset) + header.bytes();
        let wrong = match walk::examine(io, disk, superblock, &header).await {
            Ok(_) if end > u64::from(facts.head) => {
                Some(format!("it ends behind the file's head, {}", facts.head))
            }
            Ok(wrong) => wrong.map(|corrupt| corrupt.to_string()),
            Err(ColdError::Disk(error)) => Some(error.to_string()),
            Err(error) => return Err(error),
        };
        match wrong {
            Some(what) => {
                bad.insert(number, (header, what));
            }
            None => {
                counting.remove(&number);
                coverage.section_sound_count += 1;
                coverage.record_count += u64::from(header.record_count);
                coverage.bytes_in_use += header.bytes();
                coverage.bytes_read += header.bytes();
                found.push(ColdSeen::Sound(header));
            }
        }
    }
    let finding = |number: u32| {
        let (at, what) = match bad.get(&number) {
            Some((header, what)) => {
                let of = &header.identity;
                let whose = format!(
                    "section {number}, bucket {}, window from {} of {} days, generation {}",
                    of.bucket.get(),
                    of.window_from,
                    of.window_days,
                    of.window_generation
                );
                (Some(place(header.place.offset)), format!("{whose}: {what}"))
            }
            None => {
                let what = "its header, or that of one before it in its run, is damaged";
                (None, format!("section {number} is not found: {what}"))
            }
        };
        ColdSeen::Finding(ColdFinding {
            grade: ColdGrade::Damage,
            part: "section",
            file: Some(file),
            what,
            at,
        })
    };
    found.extend(counting.iter().map(|number| finding(*number)));
    coverage.bytes_in_use += bad
        .iter()
        .filter(|(number, _)| counting.contains(number))
        .map(|(_, (header, _))| header.bytes())
        .sum::<u64>();
    Ok(found)
}
