//! What other machines of the group are told of a disk's files, and handed of their bytes; and what is not done on a disk that is being filled.
//!
//! Must never say anything of a file that is not there yet. Invariant: what is said of a file was true at one moment: the task that writes says it.

use super::ColdError;
use super::core::{ColdCore, Job, Spindle};
use super::disk::ColdDisk;
use super::fill::Filling;
use net::cold::*;
use net::outcome::{Limit, Outcome};

/// Files of a page unless fewer are wanted.
const FILES_COUNT: usize = 256;

/// Is it asked of a file that is not there yet, or of a disk that knows nothing yet?
pub(super) fn is_not_yet(disk: &ColdDisk, request: &ColdRequest<'_>) -> bool {
    let is_heard = disk.filling() != Filling::Unheard;
    match request {
        ColdRequest::Files(_) | ColdRequest::Copy(_) => false,
        _ if !is_heard => true,
        ColdRequest::Free { place } | ColdRequest::Write { place, .. } | ColdRequest::Seal { place, .. } => {
            disk.table().is_due(place.file)
        }
        ColdRequest::List { file, .. } => disk.table().is_due(*file),
        _ => false,
    }
}

/// A page of files.
pub(super) async fn files(
    core: &ColdCore,
    spindle: &Spindle,
    disk: &ColdDisk,
    job: &Job,
    of: &ColdFilesOf,
) -> Result<(), ColdError> {
    let geometry = &spindle.superblock.geometry;
    let most = if of.limit == 0 { FILES_COUNT } else { (of.limit as usize).min(FILES_COUNT) };
    let (mut items, mut item_bytes, mut more) = (Vec::new(), 0, None);
    for file in of.file..geometry.file_count {
        let facts = *disk.table().file(file).expect("a file of the disk");
        let reserved: Vec<ColdReservedRun> = disk
            .table()
            .reserved()
            .iter()
            .filter(|run| run.file == file)
            .map(|run| ColdReservedRun {
                file_generation: run.file_generation,
                number: run.number,
                section_count: run.section_count,
            })
            .collect();
        if disk.table().is_due(file) || (facts.generation == 0 && reserved.is_empty()) {
            continue;
        }
        if items.len() == most {
            more = Some(file);
            break;
        }
        let freed = if of.freed { disk.state(file).await?.freed_bytes().to_vec() } else { Vec::new() };
        let item = ColdFileSaid {
            file,
            generation: facts.generation,
            head: facts.head,
            section_count: facts.section_count,
            freed,
            reserved,
        };
        if files_reply_bytes(item_bytes + item.reply_bytes()) > job.to.frame_bytes as usize {
            if items.is_empty() {
                core.say(&job.to, &Outcome::TooLarge { limit: Limit::Frame });
                return Ok(());
            }
            more = Some(file);
            break;
        }
        item_bytes += item.reply_bytes();
        items.push(item);
    }
    let head = ColdFilesHead {
        is_filling: disk.filling() != Filling::Ended || disk.table().is_any_due(),
        file_count: geometry.file_count,
        file_bytes: geometry.file_bytes as u32,
        more,
    };
    core.answer(&job.to, files_reply_bytes(item_bytes), |out| encode_files(out, &head, &items));
    Ok(())
}

/// Bytes of a file as they stand.
pub(super) async fn copy(
    core: &ColdCore,
    spindle: &Spindle,
    disk: &ColdDisk,
    job: &Job,
    of: &ColdCopyOf,
) -> Result<(), ColdError> {
    let reply_bytes = copy_reply_bytes(of.bytes as usize);
    if reply_bytes > job.to.frame_bytes as usize {
        core.say(&job.to, &Outcome::TooLarge { limit: Limit::Frame });
        return Ok(());
    }
    if disk.table().is_due(of.file) {
        return Err(ColdError::NotYet { name: disk.name() });
    }
    let facts = disk.table().file(of.file).copied().unwrap_or_default();
    let is_inside = u64::from(of.offset) + u64::from(of.bytes) <= u64::from(facts.head);
    if facts.generation != of.file_generation || !is_inside {
        core.say(&job.to, &Outcome::Moved);
        return Ok(());
    }
    match disk.reader().read(of.file, u64::from(of.offset), of.bytes as usize).await {
        Ok((block, skip)) => {
            spindle.counters.copied_bytes.add(u64::from(of.bytes));
            let bytes = &block[skip..skip + of.bytes as usize];
            core.answer(&job.to, reply_bytes, |out| encode_copy(out, bytes));
            Ok(())
        }
        Err(ColdError::Disk(_)) if !disk.has_ended() => {
            core.say(&job.to, &Outcome::Corrupt);
            Ok(())
        }
        Err(error) => Err(error),
    }
}
