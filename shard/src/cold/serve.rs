//! What a disk is asked for: reads by several tasks at once, in the order of the disk; all else by one, after the reads, one after the
//! other.
//!
//! Must never show what is not proven by a checksum over what was asked for. Invariant: a get that is answered with a record, or with
//! none, has read the device once.
//!
//! | step of a get | where |
//! |---|---|
//! | it waits in the order of the disk | `core.rs: enqueue`, `queue.rs` |
//! | its file has another generation now: Moved, without a read | `read` |
//! | the block is read with one read of the device | `disk.rs: stored` |
//! | it opens under the identity that was asked for: its record is answered, or that there is none | `find` |
//! | it does not: Corrupt, and the place waits for repair | `damaged` |

use super::ColdError;
use super::aside::REFUSAL;
use super::core::{ColdCore, Job, Spindle};
use super::damage::Suspect;
use super::disk::{ColdBlock, ColdDisk, Stored};
use super::serve_files;
use super::table::{Refused, Run, Wanted};
use super::walk::sections_from;
use ioengine::Buf;
use ioengine::sync::race;
use layout::Corrupt;
use layout::cold_kept::{KeptFor, KeptPlace};
use layout::cold_section::{SECTION_HEADER_BYTES, SectionHeader, SectionIdentity, SectionPlace};
use layout::table::{Block, Cursor, encode_key};
use layout::table_index::BlockHandle;
use layout::table_key::{decode_key, encode_stream_prefix};
use layout::table_seal::{BlockChecksum, BlockKind, Decompressor, StoredBlock};
use layout::units::{BLOCK_BYTES, LogIndex, LogTime, STREAM_BYTES_MAX, Version};
use net::cold::*;
use net::outcome::{Limit, Outcome, Why};
use net::reply::{
    RecordsWriter, encode_get_ok, encode_outcome, reply_bytes_get_ok, reply_bytes_outcome,
    reply_bytes_record, reply_bytes_records,
};
use net::request::Request;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of a file that one page of a list looks through, at most, beyond the section it is in.
const LIST_BYTES: u64 = 8 << 20;
/// Files that one page of a list looks at.
const LIST_FILES: usize = 4_096;
/// Places of a page unless fewer are wanted: they fit a frame of 64 KiB.
const LIST_COUNT: usize = 1_024;

/// Where on the device the blocks are, for the order of the queue; 0 where there is no such place.
pub(super) fn place_of(spindle: &Spindle, blocks: &ColdBlocks) -> u64 {
    let geometry = &spindle.superblock.geometry;
    if blocks.file >= geometry.file_count {
        return 0;
    }
    geometry.file_offset(blocks.file).0 + u64::from(blocks.offset) + u64::from(blocks.block_offset)
}

fn identity_of(spindle: &Spindle, blocks: &ColdBlocks) -> SectionIdentity {
    SectionIdentity {
        cluster: spindle.superblock.cluster,
        bucket: blocks.bucket,
        window_from: blocks.window_from,
        window_days: blocks.window_days,
        window_generation: blocks.window_generation,
    }
}

fn block_of(spindle: &Spindle, blocks: &ColdBlocks) -> ColdBlock {
    let place = SectionPlace {
        group: blocks.group,
        disk: blocks.disk,
        file: blocks.file,
        file_generation: blocks.file_generation,
        offset: blocks.offset,
        number: 0,
    };
    let handle = BlockHandle {
        offset: u64::from(blocks.block_offset),
        stored_bytes: blocks.block_bytes,
        record_count: 0,
    };
    ColdBlock { identity: identity_of(spindle, blocks), place, handle }
}

/// Answer reads of a disk for as long as the core lives: one of several tasks.
pub(super) async fn read(core: Rc<ColdCore>, spindle: Rc<Spindle>) {
    let mut unpack = Decompressor::new();
    loop {
        let queued = spindle.reads_queued.notified();
        let job = spindle.queue.borrow_mut().take_read();
        let Some(job) = job else {
            queued.await;
            continue;
        };
        spindle.counters.waiting_reads.set(spindle.queue.borrow().read_count() as u64);
        spindle.under_way.set(spindle.under_way.get() + 1);
        read_one(&core, &spindle, &job, &mut unpack).await;
        spindle.under_way.set(spindle.under_way.get() - 1);
        let took_us = (core.io.now().since(job.since).as_micros()) as u64;
        let counters = &spindle.counters;
        let mean = counters.read_latency_us.get();
        counters.read_latency_us.set(mean + took_us / 64 - mean / 64);
        counters.read_latency_us_max.set(counters.read_latency_us_max.get().max(took_us));
        // Work waits until there are no reads.
        spindle.work_queued.notify();
    }
}

fn is_overdue(core: &ColdCore, spindle: &Spindle, job: &Job) -> bool {
    let is_late = core.io.now().since(job.since) > core.limits.request_deadline;
    if is_late {
        ioengine::sometimes!("a request waits too long for a cold disk");
        spindle.counters.overdue.add(1);
        core.say(&job.to, &Outcome::Timeout);
    }
    is_late
}

async fn read_one(core: &ColdCore, spindle: &Spindle, job: &Job, unpack: &mut Decompressor) {
    if is_overdue(core, spindle, job) {
        return;
    }
    let Ok(Request::Cold(request)) = Request::decode(job.to.operation, &job.body) else {
        panic!("it was decoded before it was queued")
    };
    let done = match request {
        ColdRequest::Get { blocks, key } => get(core, spindle, job, &blocks, key, unpack).await,
        ColdRequest::Scan(scan) => self::scan(core, spindle, job, &scan, unpack).await,
        ColdRequest::Index { section } => index(core, spindle, job, &section).await,
        ColdRequest::Read { blocks } => read_stored(core, spindle, job, &blocks).await,
        other => panic!("{other:?} is no read"),
    };
    if let Err(outcome) = done {
        if outcome == Outcome::Moved {
            spindle.counters.moved.add(1);
        }
        core.say(&job.to, &outcome);
    }
}

/// The file is still the one that the link means.
fn is_there(spindle: &Spindle, blocks: &ColdBlocks) -> Result<(), Outcome> {
    if spindle.is_due(blocks.file) && !ioengine::canary("serve_what_is_not_there_yet") {
        ioengine::sometimes!("a read of a new disk comes too early");
        return Err(Outcome::Busy { limit: Limit::Device, hint_ms: 1_000 });
    }
    let generation = spindle.generations.borrow().get(blocks.file as usize).copied();
    if generation == Some(blocks.file_generation) { Ok(()) } else { Err(Outcome::Moved) }
}

/// What is wrong is counted, named, and kept for repair.
fn damaged(spindle: &Spindle, blocks: &ColdBlocks, what: &dyn std::fmt::Display) -> Outcome {
    let at = u64::from(blocks.offset) + u64::from(blocks.block_offset);
    tracing::warn!(disk = spindle.superblock.disk, file = blocks.file, at, %what, "a place of a cold disk is damaged");
    ioengine::sometimes!("a place of a cold disk is damaged");
    spindle.counters.corrupt.add(1);
    spindle.suspect(Suspect {
        file: blocks.file,
        generation: blocks.file_generation,
        offset: blocks.offset,
        at,
        unwanted: None,
    });
    Outcome::Corrupt
}

/// Read blocks with one read of the device.
async fn stored(spindle: &Spindle, blocks: &ColdBlocks) -> Result<Stored, Outcome> {
    is_there(spindle, blocks)?;
    let found = spindle.reader.stored(&block_of(spindle, blocks)).await;
    let found = match found {
        Ok(found) => found,
        Err(ColdError::Moved { .. }) => return Err(Outcome::Moved),
        Err(ColdError::Arena { .. }) => return Err(Outcome::Busy { limit: Limit::Memory, hint_ms: 20 }),
        Err(ColdError::Aside { .. }) => return Err(REFUSAL),
        Err(error) => {
            spindle.counters.device_reads.add(1);
            // It was begun anew while it was read, or it cannot be read.
            is_there(spindle, blocks)?;
            return Err(damaged(spindle, blocks, &error));
        }
    };
    spindle.counters.device_reads.add(1);
    spindle.counters.device_read_bytes.add(found.device_bytes() as u64);
    is_there(spindle, blocks)?;
    Ok(found)
}

async fn get(
    core: &ColdCore,
    spindle: &Spindle,
    job: &Job,
    blocks: &ColdBlocks,
    key: layout::key::Key<'_>,
    unpack: &mut Decompressor,
) -> Result<(), Outcome> {
    let stored = stored(spindle, blocks).await?;
    let mut block = block_of(spindle, blocks);
    if ioengine::canary("believe_a_cold_block_of_any_section") {
        let header = spindle.reader.header(blocks.file, blocks.offset).await;
        if let Ok(Some(header)) = header {
            block.identity = header.identity;
        }
    }
    let (mut encoded, mut raw) = (Vec::new(), Vec::new());
    encode_key(&mut encoded, blocks.bucket, key);
    let opened = block.open(&stored, unpack, &mut raw);
    let found = opened.and_then(|()| Block::parse(&raw)?.get(&encoded));
    let record = found.map_err(|corrupt| damaged(spindle, blocks, &corrupt))?;
    spindle.counters.reads.add(1);
    match record.and_then(|record| record.value.map(|value| (record.version, record.expiry_us, value))) {
        Some((version, expiry, value)) => core.answer(&job.to, reply_bytes_get_ok(value.len()), |out| {
            encode_get_ok(out, LogTime(0), version, expiry, value)
        }),
        None => core.answer(&job.to, reply_bytes_outcome(&Outcome::NotFound), |out| {
            encode_outcome(out, LogTime(0), &Outcome::NotFound)
        }),
    }
    Ok(())
}

/// A record that goes back.
struct Found {
    time: u64,
    version: Version,
    expiry_us: u64,
    value: Vec<u8>,
}

/// The block that begins `at` bytes behind the first of those that stand back to back: proven to be of the section that was asked for, and
/// to lie in its place there.
fn proven<'a>(
    checksum: &BlockChecksum,
    of: &ColdBlocks,
    stored: &'a [u8],
    at: usize,
) -> Result<StoredBlock<'a>, Corrupt> {
    let offset = u64::from(of.block_offset) + at as u64;
    let block = StoredBlock::read(checksum, offset, &stored[at..])?;
    if block.kind != BlockKind::Data {
        return Err(Corrupt { structure: "cold blocks", field: "kind", at: offset });
    }
    Ok(block)
}

/// The records of a range among blocks that stand back to back, oldest first.
fn records(
    spindle: &Spindle,
    scan: &ColdScan<'_>,
    stored: &[u8],
    unpack: &mut Decompressor,
) -> Result<Vec<Found>, Corrupt> {
    let checksum = identity_of(spindle, &scan.blocks).checksum();
    let mut prefix = Vec::new();
    encode_stream_prefix(&mut prefix, scan.blocks.bucket, scan.space, scan.stream);
    let (mut found, mut raw, mut name) = (Vec::new(), Vec::new(), [0; STREAM_BYTES_MAX]);
    let mut at = 0;
    while at < stored.len() {
        let block = proven(&checksum, &scan.blocks, stored, at)?;
        raw.clear();
        block.unpack(u64::from(scan.blocks.block_offset) + at as u64, None, unpack, &mut raw)?;
        at += block.stored_bytes();
        let (block, mut cursor) = (Block::parse(&raw)?, Cursor::new());
        let mut goes_on = cursor.seek(&block, &prefix)?;
        while goes_on {
            let Some(entry) = cursor.entry(&block)? else { break };
            if !entry.key.starts_with(&prefix) {
                break;
            }
            let time = decode_key(entry.key, &mut name)?.time;
            let record = entry.record;
            if let Some(value) = record.value.filter(|_| (scan.from..=scan.to).contains(&time)) {
                let (version, expiry_us) = (record.version, record.expiry_us);
                found.push(Found { time, version, expiry_us, value: value.to_vec() });
            }
            goes_on = cursor.next(&block)?;
        }
    }
    Ok(found)
}

async fn scan(
    core: &ColdCore,
    spindle: &Spindle,
    job: &Job,
    scan: &ColdScan<'_>,
    unpack: &mut Decompressor,
) -> Result<(), Outcome> {
    let stored = stored(spindle, &scan.blocks).await?;
    let found = records(spindle, scan, stored.bytes(), unpack);
    let mut found = found.map_err(|corrupt| damaged(spindle, &scan.blocks, &corrupt))?;
    if scan.backward {
        found.reverse();
    }
    spindle.counters.reads.add(1);
    let (count_max, bytes_max) = (
        if scan.record_limit == 0 { u32::MAX } else { scan.record_limit } as usize,
        if scan.byte_limit == 0 { u32::MAX } else { scan.byte_limit }.min(job.to.frame_bytes) as usize,
    );
    let (mut count, mut bytes) = (0, reply_bytes_records());
    for record in found.iter().take(count_max.min(layout::units::OPERATION_COUNT_MAX)) {
        let more = bytes + reply_bytes_record(record.value.len());
        if count > 0 && more > bytes_max {
            break;
        }
        (count, bytes) = (count + 1, more);
    }
    let resume = found.get(count).map(|record| record.time);
    core.answer(&job.to, bytes, |out| {
        let mut writer = RecordsWriter::new(out, LogTime(0), LogIndex(0));
        for Found { time, version, expiry_us, value } in &found[..count] {
            assert!(writer.push(*time, *version, *expiry_us, value), "room was counted");
        }
        writer.finish(resume)
    });
    Ok(())
}

/// Blocks as they are stored. What would not fit the reply costs no read of the device.
async fn read_stored(
    core: &ColdCore,
    spindle: &Spindle,
    job: &Job,
    blocks: &ColdBlocks,
) -> Result<(), Outcome> {
    let reply_bytes = read_reply_bytes(blocks.block_bytes as usize);
    if reply_bytes > job.to.frame_bytes as usize {
        return Err(Outcome::TooLarge { limit: Limit::Frame });
    }
    let found = stored(spindle, blocks).await?;
    let (checksum, bytes) = (identity_of(spindle, blocks).checksum(), found.bytes());
    let is_believed =
        ioengine::canary("show_stored_blocks_unproven") || ioengine::canary("repair_from_an_unproven_copy");
    let mut at = if is_believed { bytes.len() } else { 0 };
    while at < bytes.len() {
        let block = proven(&checksum, blocks, bytes, at);
        at += block.map_err(|corrupt| damaged(spindle, blocks, &corrupt))?.stored_bytes();
    }
    spindle.counters.reads.add(1);
    core.answer(&job.to, reply_bytes, |out| encode_read(out, bytes));
    Ok(())
}

async fn index(core: &ColdCore, spindle: &Spindle, job: &Job, of: &ColdBlocks) -> Result<(), Outcome> {
    is_there(spindle, of)?;
    if u64::from(of.offset) + SECTION_HEADER_BYTES as u64 > spindle.superblock.geometry.file_bytes {
        return Err(Outcome::Moved);
    }
    let no_room = Outcome::Busy { limit: Limit::Memory, hint_ms: 20 };
    let header = match spindle.reader.header(of.file, of.offset).await {
        Ok(Some(header)) => header,
        Ok(None) => return Err(damaged(spindle, of, &"no header stands there")),
        Err(ColdError::Arena { .. }) => return Err(no_room),
        Err(ColdError::Aside { .. }) => return Err(REFUSAL),
        Err(error) => return Err(damaged(spindle, of, &error)),
    };
    is_there(spindle, of)?;
    if header.identity != identity_of(spindle, of) || header.place.file_generation != of.file_generation {
        return Err(Outcome::Moved);
    }
    let mut block = block_of(spindle, of);
    block.handle.offset = u64::from(header.data_bytes);
    block.handle.stored_bytes = header.index_bytes;
    let found = match spindle.reader.stored(&block).await {
        Ok(found) => found,
        Err(ColdError::Arena { .. }) => return Err(no_room),
        Err(ColdError::Aside { .. }) => return Err(REFUSAL),
        Err(error) => return Err(damaged(spindle, of, &error)),
    };
    let (mut unpack, stored) = (Decompressor::new(), found.bytes());
    layout::cold_section::open_section_index(&header.identity.checksum(), &header, stored, &mut unpack)
        .map_err(|corrupt| damaged(spindle, of, &corrupt))?;
    let answer = ColdIndex {
        record_count: header.record_count,
        data_bytes: header.data_bytes,
        number: header.place.number,
        digest: header.digest,
        index: stored,
    };
    core.answer(&job.to, index_reply_bytes(stored.len()), |out| encode_index(out, &answer));
    Ok(())
}

/// Carry out all else that is asked of a disk, one after the other: the one task that writes.
pub(super) async fn work(core: Rc<ColdCore>, spindle: Rc<Spindle>, mut disk: ColdDisk) {
    loop {
        let queued = spindle.work_queued.notified();
        let has_work = spindle.queue.borrow().work_count() > 0;
        let since = spindle.errands.borrow().front().map(|errand| errand.since);
        if !has_work && since.is_none() {
            queued.await;
            continue;
        }
        // Reads first, for a while.
        let until = core.io.now().after(core.limits.work_patience);
        while spindle.queue.borrow().read_count() > 0 && core.io.now() < until {
            let again = spindle.work_queued.notified();
            race(again, core.io.sleep(Duration::from_millis(10))).await;
        }
        // What others ask for goes first, for as long again.
        if since.is_some_and(|since| !has_work || core.io.now().since(since) > core.limits.work_patience) {
            let errand = spindle.errands.borrow_mut().pop_front();
            if let Some(errand) = errand {
                errand.run(&mut disk).await;
                spindle.follow(&disk);
            }
            continue;
        }
        let Some(job) = spindle.queue.borrow_mut().take_work() else { continue };
        spindle.counters.waiting_work.set(spindle.queue.borrow().work_count() as u64);
        spindle.under_way.set(spindle.under_way.get() + 1);
        work_one(&core, &spindle, &mut disk, &job).await;
        spindle.under_way.set(spindle.under_way.get() - 1);
        spindle.counters.kept.set(disk.table().reserved().len() as u64);
        spindle.counters.room_bytes.set(disk.table().room().0);
    }
}

fn run_named(place: &ColdPlace) -> Run {
    let ColdPlace { file, file_generation, offset, number, section_count, .. } = *place;
    let bytes = place.content_bytes.next_multiple_of(BLOCK_BYTES as u32);
    Run { file, file_generation, offset, bytes, number, section_count }
}

fn said(spindle: &Spindle, kept: &KeptPlace) -> ColdPlace {
    let KeptPlace { whom, file, file_generation, offset, content_bytes, number, section_count, .. } = *kept;
    let (group, disk) = (spindle.superblock.group, spindle.superblock.disk);
    ColdPlace { group, disk, whom, file, file_generation, offset, content_bytes, number, section_count }
}

fn outcome_of(core: &ColdCore, spindle: &Spindle, disk: &ColdDisk, error: &ColdError) -> Outcome {
    match error {
        ColdError::Unreserved { .. } => Outcome::Moved,
        ColdError::Unequal { .. } | ColdError::Malformed { .. } => {
            tracing::warn!(%error, "a cold disk holds something else than what was written");
            spindle.counters.unequal.add(1);
            Outcome::Corrupt
        }
        ColdError::Arena { .. } => Outcome::Busy { limit: Limit::Memory, hint_ms: 20 },
        ColdError::Aside { .. } => REFUSAL,
        ColdError::NotYet { .. } => Outcome::Busy { limit: Limit::Device, hint_ms: 1_000 },
        ColdError::Unknown { whom, run, .. } => {
            ioengine::sometimes!("what is to be freed has a damaged header");
            spindle.suspect(Suspect {
                file: run.file,
                generation: run.file_generation,
                offset: run.offset,
                at: run.offset.into(),
                unwanted: Some((*run, *whom)),
            });
            Outcome::Busy { limit: Limit::Device, hint_ms: 1_000 }
        }
        ColdError::Refused { .. } if disk.table().reserved().len() >= core.limits.reserved_max => {
            Outcome::Busy { limit: Limit::Tables, hint_ms: 1_000 }
        }
        ColdError::Refused { .. } => Outcome::Busy { limit: Limit::Space, hint_ms: 1_000 },
        error => {
            tracing::error!(%error, "a cold disk does not do what it is asked");
            spindle.counters.failed.set(u64::from(disk.has_ended()));
            Outcome::Busy { limit: Limit::Device, hint_ms: 1_000 }
        }
    }
}

async fn work_one(core: &ColdCore, spindle: &Spindle, disk: &mut ColdDisk, job: &Job) {
    if is_overdue(core, spindle, job) {
        return;
    }
    let Ok(Request::Cold(request)) = Request::decode(job.to.operation, &job.body) else {
        panic!("it was decoded before it was queued")
    };
    let done = match disk.settle().await {
        Err(error) => Err(error),
        Ok(()) => carry_out(core, spindle, disk, job, &request).await,
    };
    if let Err(error) = done {
        let outcome = outcome_of(core, spindle, disk, &error);
        core.say(&job.to, &outcome);
    }
    spindle.follow(disk);
}

async fn carry_out(
    core: &ColdCore,
    spindle: &Spindle,
    disk: &mut ColdDisk,
    job: &Job,
    request: &ColdRequest<'_>,
) -> Result<(), ColdError> {
    if serve_files::is_not_yet(disk, request) {
        return Err(ColdError::NotYet { name: disk.name() });
    }
    match *request {
        ColdRequest::Reserve { place, exactly } => reserve(core, spindle, disk, job, &place, exactly).await,
        ColdRequest::Write { place, at, bytes } => write(core, spindle, disk, job, &place, at, bytes).await,
        ColdRequest::Seal { place, checksum } => {
            let run = run_named(&place);
            let sealed = if lies_inside(spindle, &place) {
                disk.seal(&place.whom, &run, place.content_bytes, Some(checksum)).await
            } else {
                Err(ColdError::Unreserved { name: String::new(), run })
            };
            sealed.map(|checksum| {
                spindle.counters.sealed.add(1);
                core.answer_small(&job.to, |out| encode_sealed(out, checksum));
            })
        }
        ColdRequest::Free { place } => {
            let run = run_named(&place);
            let freed = match lies_inside(spindle, &place) {
                true => disk.give_up(&place.whom, &run).await,
                false => Ok(0),
            };
            let freed = match freed {
                // There is nobody to ask whose it is.
                Err(ColdError::Unknown { .. }) if core.others.count() == 0 => {
                    let numbers: Vec<u32> = (run.number..run.number + run.section_count).collect();
                    disk.free(run.file, run.file_generation, &numbers).await
                }
                freed => freed,
            };
            freed.map(|count| {
                spindle.counters.freed.add(u64::from(count));
                core.answer_small(&job.to, |out| encode_freed(out, count));
            })
        }
        ColdRequest::List { file, offset, limit, .. } => {
            list(core, spindle, disk, job, (file, offset), limit).await
        }
        ColdRequest::Files(ref of) => serve_files::files(core, spindle, disk, job, of).await,
        ColdRequest::Copy(ref of) => serve_files::copy(core, spindle, disk, job, of).await,
        ref other => panic!("{other:?} is a read"),
    }
}

fn lies_inside(spindle: &Spindle, place: &ColdPlace) -> bool {
    let geometry = &spindle.superblock.geometry;
    let end = u64::from(place.offset) + u64::from(place.content_bytes);
    place.file < geometry.file_count && end.next_multiple_of(BLOCK_BYTES as u64) <= geometry.file_bytes
}

async fn reserve(
    core: &ColdCore,
    spindle: &Spindle,
    disk: &mut ColdDisk,
    job: &Job,
    place: &ColdPlace,
    exactly: bool,
) -> Result<(), ColdError> {
    if u64::from(place.content_bytes) > spindle.superblock.geometry.file_bytes {
        core.say(&job.to, &Outcome::BadRequest { why: Why::Place, at: 44 });
        return Ok(());
    }
    let before = disk.kept().find(&place.whom).copied();
    let wanted = if exactly { Wanted::Exactly(run_named(place)) } else { Wanted::From(place.file) };
    let reserved = disk.reserve(place.whom, place.content_bytes, place.section_count, wanted).await;
    let (kept, found) = match reserved {
        Ok(found) if before.is_none() => {
            spindle.counters.reserved.add(1);
            // Who still reads an earlier life of the file is told so, before a byte of it is written over.
            let mut generations = spindle.generations.borrow_mut();
            let generation = &mut generations[found.file as usize];
            *generation = (*generation).max(found.file_generation);
            (ColdKept::New, said(spindle, &found))
        }
        Ok(found) => {
            ioengine::sometimes!("a place is reserved again");
            spindle.counters.reserved_again.add(1);
            let kept = if found.is_sealed { ColdKept::Sealed } else { ColdKept::Reserved };
            (kept, said(spindle, &found))
        }
        Err(ColdError::Refused { source: Refused::Taken { next: Some(next) }, .. }) => {
            ioengine::sometimes!("a place that three machines want is taken on one");
            let Run { file, file_generation, offset, number, section_count, .. } = next;
            (ColdKept::Taken, ColdPlace { file, file_generation, offset, number, section_count, ..*place })
        }
        Err(error) => return Err(error),
    };
    core.answer(&job.to, RESERVED_REPLY_BYTES, |out| encode_reserved(out, kept, &found));
    Ok(())
}

async fn write(
    core: &ColdCore,
    spindle: &Spindle,
    disk: &mut ColdDisk,
    job: &Job,
    place: &ColdPlace,
    at: u32,
    bytes: &[u8],
) -> Result<(), ColdError> {
    let run = run_named(place);
    if !lies_inside(spindle, place) {
        return Err(ColdError::Unreserved { name: String::new(), run });
    }
    let whole = bytes.len().next_multiple_of(BLOCK_BYTES);
    let mut piece: Buf = core.io.buffer(whole).ok_or(ColdError::Arena { bytes: whole })?;
    piece[..bytes.len()].copy_from_slice(bytes);
    piece[bytes.len()..whole].fill(0);
    disk.write(&place.whom, &run, at, piece, whole).await?;
    spindle.counters.written_bytes.add(bytes.len() as u64);
    core.answer_small(&job.to, encode_written);
    Ok(())
}

fn listed_section(spindle: &Spindle, header: &SectionHeader) -> ColdPlace {
    let (of, at) = (&header.identity, &header.place);
    ColdPlace {
        group: spindle.superblock.group,
        disk: spindle.superblock.disk,
        whom: KeptFor {
            tablet_group: u16::MAX,
            bucket: of.bucket,
            window_from: of.window_from,
            window_days: of.window_days,
            window_generation: of.window_generation,
        },
        file: at.file,
        file_generation: at.file_generation,
        offset: at.offset,
        content_bytes: u32::try_from(header.bytes()).expect("a section fits its file"),
        number: at.number,
        section_count: 1,
    }
}

/// A page of what a disk keeps and holds. The first has the reservations; they are bounded so that they fit it.
async fn list(
    core: &ColdCore,
    spindle: &Spindle,
    disk: &ColdDisk,
    job: &Job,
    from: (u32, u32),
    limit: u32,
) -> Result<(), ColdError> {
    let fits = (job.to.frame_bytes as usize - listed_reply_bytes(0))
        / (listed_reply_bytes(1) - listed_reply_bytes(0));
    let most = if limit == 0 { LIST_COUNT } else { limit as usize };
    let most = most.min(fits).min(COLD_LIST_COUNT_MAX as usize);
    let mut places = Vec::new();
    let (mut file, mut offset) = from;
    if from == (0, 0) {
        let kept = disk.kept().places().filter(|place| !place.is_sealed);
        places.extend(kept.map(|place| (ColdKept::Reserved, said(spindle, place))));
        places.truncate(fits - 1);
    }
    // However much is reserved, each page gets on.
    let most = most.max(places.len() + 1);
    let (mut left, mut files_left) = (LIST_BYTES, LIST_FILES);
    let file_count = spindle.superblock.geometry.file_count;
    while file < file_count && places.len() < most && left > 0 && files_left > 0 {
        if disk.table().is_due(file) {
            break;
        }
        let facts = *disk.table().file(file).expect("a file of the disk");
        files_left -= 1;
        if offset < facts.head && facts.freed_count < facts.section_count {
            let counting = disk.counting(file).await?;
            let until = (u64::from(offset) + left).min(u64::from(facts.head)) as u32;
            let room = most - places.len();
            let counts = |header: &SectionHeader| counting.has(header);
            let (found, next) = sections_from(&disk.reader(), file, offset..until, room, counts).await?;
            places.extend(found.iter().map(|header| (ColdKept::Sealed, listed_section(spindle, header))));
            left = left.saturating_sub(u64::from(next.saturating_sub(offset)).max(1));
            offset = next;
            if offset < facts.head {
                continue;
            }
        }
        (file, offset) = (file + 1, 0);
    }
    let more = (file < file_count).then_some((file, offset));
    core.answer(&job.to, listed_reply_bytes(places.len()), |out| encode_listed(out, &places, more));
    Ok(())
}

/// A place that is kept says the same as what is answered of it.
#[cfg(test)]
mod tests {
    use super::super::kept::run_of;
    use super::*;
    use layout::units::BucketIndex;

    #[test]
    fn a_run_is_the_same_by_both_names() {
        let whom = KeptFor {
            tablet_group: 1,
            bucket: BucketIndex::new(9).expect("a bucket"),
            window_from: 5,
            window_days: 1,
            window_generation: 2,
        };
        let kept = KeptPlace {
            whom,
            file: 3,
            file_generation: 4,
            offset: 8_192,
            content_bytes: 5_000,
            number: 7,
            section_count: 2,
            is_sealed: false,
            order: 1,
        };
        let place = ColdPlace {
            group: 1,
            disk: 2,
            whom,
            file: 3,
            file_generation: 4,
            offset: 8_192,
            content_bytes: 5_000,
            number: 7,
            section_count: 2,
        };
        assert_eq!(run_named(&place), run_of(&kept));
    }
}
