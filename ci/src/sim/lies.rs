//! The one exception: a record that the disk acknowledged and never stored, at the very tail of a journal, cannot be told
//! from one that was never written (FORMAT.md, journal). Recognised here from the bytes on the disk before each start, the
//! list of injected faults and what clients were told, and from nothing else that the node says.
//!
//! Excused is a tablet only if all of this holds: its journal, read by this file's own reader, ends before an index that
//! a client was told of; exactly where the next record would stand a write was lost or misdirected; as many records in
//! a row were lost there as indexes are missing; and no shared memory survives that knows better.

use super::history::{self, Fate, History, Order};
use super::scene::{Scene, superblock};
use ioengine::Instant;
use ioengine::sim::{DiskImage, FaultKind};
use layout::journal_record::{FRAME_BYTES, Frame, FrameChecksum, RecordHeader, RecordKind, read_record};
use layout::log_entry::EntryIter;
use layout::manifest::{Edit, EditIter, SetJournalStart};
use layout::superblock::Superblock;
use layout::tip::TipIter;
use layout::units::{BLOCK_BYTES, LogTime, Sequence, ShardIndex, TABLET_COUNT, TabletIndex};
use layout::version_file;
use layout::zone::Range;
use shard::journal::{JournalStart, JournalZone, identity};
use shard::manifest::{ManifestZones, read_image};
use shard::recover::region_name;
use std::collections::BTreeMap;

/// Where a journal ends, and the last index of each tablet in it.
struct Ending {
    end: u64,
    /// Behind a record at the end that is damaged and held no entry, by its whole first frame: it costs nothing (FORMAT.md, journal),
    /// and what was written behind it may be lost as well.
    damaged_end: Option<u64>,
    /// Of the last record.
    sequence: u64,
    applied: [u64; TABLET_COUNT],
    /// The last stamp of each tablet that is in the journal.
    log_times: [LogTime; TABLET_COUNT],
}

/// A write that the disk made disappear.
#[derive(Clone, Copy)]
struct Vanished {
    at: Instant,
    offset: u64,
    bytes: u64,
}

/// What a start finds on the disk, of tablets whose journal may have lost its tail: the last index that is there, and how
/// many records in a row vanished behind it, and the last log time that is there.
pub(super) struct Found {
    /// When, in the order of events.
    pub(super) start: Order,
    tablets: Vec<(TabletIndex, u64, u64, LogTime)>,
}

/// By shard and tablet: the highest index that shared memory has known since it was last gone. A process that makes it
/// forget is wrong, and excused from nothing.
#[derive(Default)]
pub(super) struct Remembered(BTreeMap<u16, [u64; TABLET_COUNT]>);

impl Remembered {
    fn look(&mut self, scene: &Scene, superblock: &Superblock, shard: u16) -> [u64; TABLET_COUNT] {
        let now = surviving(scene, superblock, shard);
        let before = self.0.entry(shard).or_insert([0; TABLET_COUNT]);
        let is_gone = scene.store.region_words(&region_name(superblock.device, shard)).is_none();
        for (before, now) in before.iter_mut().zip(now) {
            *before = if is_gone { 0 } else { now.max(*before) };
        }
        *before
    }
}

/// What the start that comes now finds. Faults before `since` belong to an earlier format.
pub(super) fn look(scene: &Scene, start: Order, since: Instant, remembered: &mut Remembered) -> Found {
    let mut found = Found { start, tablets: Vec::new() };
    let vanished: Vec<Vanished> = scene
        .world
        .faults()
        .iter()
        .filter(|fault| fault.at >= since && fault.disk == Some(scene.disk))
        .filter(|fault| matches!(fault.kind, FaultKind::WriteLost | FaultKind::WriteMisdirected { .. }))
        .map(|fault| Vanished { at: fault.at, offset: fault.offset, bytes: fault.bytes })
        .collect();
    let image = scene.disk.snapshot();
    let Some(superblock) = superblock(&image) else { return found };
    let known: Vec<_> =
        (0..superblock.shard_count).map(|shard| remembered.look(scene, &superblock, shard)).collect();
    if vanished.is_empty() {
        return found;
    }
    for shard in 0..superblock.shard_count {
        let zones = superblock.shard_zones()[usize::from(shard)];
        let zone = JournalZone {
            identity: layout::journal_record::JournalIdentity {
                device: superblock.device,
                shard: ShardIndex(shard),
                generation: superblock.generation,
            },
            range: zones.journal,
            segment_bytes: superblock.segment_bytes,
            record_bytes_max: scene.config.limits.record_bytes_max,
        };
        let mut ending = read(&image, &zone);
        // The last record may be gone because nobody needs it any more.
        if let Some(start) = journal_start(&image, &superblock, shard)
            && start.sequence.0 > ending.sequence
        {
            ending.end = start.at;
        }
        let ends = [Some(ending.end), ending.damaged_end];
        let lost = ends.into_iter().flatten().map(|end| lost_in_a_row(&zone, end, &vanished));
        let in_a_row = lost.max().expect("there is an end");
        let known = known[usize::from(shard)];
        for tablet in TabletIndex::all().filter(|tablet| tablet.shard(superblock.shard_count).0 == shard) {
            let is = ending.applied[tablet.index()];
            if in_a_row > 0 && known[tablet.index()] <= is {
                found.tablets.push((tablet, is, in_a_row, ending.log_times[tablet.index()]));
            }
        }
    }
    found
}

/// Tablets, one bit each, of which some start found less than what clients were told of, by the exception. Told by the
/// processes before that start: also when the answer was still on its way while the node began again. Of an answer that
/// came after the start nobody knows which process gave it: one that names more than was lost is of the new one.
pub(super) fn excused(history: &History, found: &[Found]) -> u64 {
    let mut excused = 0;
    for found in found.iter().filter(|found| !found.tablets.is_empty()) {
        let told = told(history, found.start);
        for &(tablet, is, in_a_row, log_time) in &found.tablets {
            let of_tablet = || told.iter().filter(move |told| told.tablet == tablet);
            let lost = is + 1..=is + in_a_row;
            let none_beyond = of_tablet().all(|told| !told.before || told.index <= *lost.end());
            // A deletion, or an entry that did nothing, is seen by no version: by its log time.
            let later_time = || {
                let sent_before = |told: &&history::Told| told.tablet == tablet && told.invoked < found.start;
                history.told.iter().filter(sent_before).any(|told| told.log_time > log_time)
            };
            let seen = of_tablet().any(|told| lost.contains(&told.index)) || later_time();
            if none_beyond && seen {
                excused |= 1 << tablet.index();
            }
        }
    }
    excused
}

/// A log index that an answer named.
struct Told {
    tablet: TabletIndex,
    index: u64,
    /// The answer came before the start, too.
    before: bool,
}

/// The log indexes that answers to what was sent before `start` named.
fn told(history: &History, start: Order) -> Vec<Told> {
    let mut all = Vec::new();
    let mut add = |tablet: TabletIndex, index: u64, returned: Order| {
        all.push(Told { tablet, index, before: returned < start });
    };
    for write in history.writes.iter().filter(|write| write.sent < start) {
        if let Fate::Acked { first, .. } = write.fate {
            add(history.keys.facts(write.stream).tablet, first.log_index(0).0, write.returned);
        }
    }
    for read in history.reads.iter().filter(|read| read.invoked < start) {
        add(history.keys.tablet(read.key), read.seen.version().log_index(0).0, read.returned);
    }
    for page in history.pages.iter().filter(|page| page.invoked < start) {
        add(history.keys.facts(page.stream).tablet, page.log_index.0, page.returned);
    }
    all
}

/// Where the manifest says that replay begins, and the record before.
fn journal_start(image: &DiskImage, superblock: &Superblock, shard: u16) -> Option<JournalStart> {
    let zones = superblock.shard_zones()[usize::from(shard)];
    let half = |copy, half| zones.manifest_half(superblock.tables, copy, half);
    let copies = [[half(0, 0), half(0, 1)], [half(1, 0), half(1, 1)]];
    let identity = identity(superblock.device, ShardIndex(shard), superblock.generation);
    let bytes =
        |range: &Range| image.get(range.offset.0, usize::try_from(range.bytes).expect("a small zone"));
    let halves = copies.each_ref().map(|halves| halves.each_ref().map(bytes));
    let reading = read_image(&ManifestZones { identity, copies }, halves);
    let mut start = None;
    for edit in reading.snapshot.iter().chain(&reading.edits).flat_map(|body| EditIter::new(body)) {
        if let Ok(Edit::SetJournalStart(SetJournalStart { at, incarnation, sequence })) = edit {
            start = Some(JournalStart { at, incarnation, sequence: Sequence(sequence.0.saturating_sub(1)) });
        }
    }
    start
}

/// Every whole record of the zone, wherever it stands; the one with the highest number that is not void is the last.
fn read(image: &DiskImage, zone: &JournalZone) -> Ending {
    let checksum = FrameChecksum::new(zone.identity);
    let mut records: BTreeMap<_, (RecordHeader, u64, Vec<u8>)> = BTreeMap::new();
    let mut damaged: Vec<(RecordHeader, u64)> = Vec::new();
    let mut block = [0; FRAME_BYTES];
    for at in (0..zone.bytes()).step_by(BLOCK_BYTES) {
        let offset = zone.offset(at);
        if !image.is_stored(offset.0) {
            continue;
        }
        image.read(offset.0, &mut block);
        let Frame::Valid { incarnation, sequence } = checksum.classify(offset, &block) else { continue };
        let payload = &block[FRAME_BYTES - layout::journal_record::FRAME_PAYLOAD_BYTES..];
        let Ok(header) = RecordHeader::decode(incarnation, sequence, payload, offset) else { continue };
        if header.record_bytes() > zone.left_in_segment(at) {
            continue;
        }
        let mut body = Vec::new();
        let bytes =
            image.get(offset.0, usize::try_from(header.record_bytes()).expect("a record fits memory"));
        if read_record(zone.identity, offset, &bytes, &mut body).is_ok() {
            records.insert((sequence, incarnation), (header, at, body));
        } else if matches!(header.fields.kind, RecordKind::Open | RecordKind::Mark) {
            damaged.push((header, at));
        }
    }
    let opens: Vec<_> = records
        .values()
        .filter(|(header, ..)| header.fields.kind == RecordKind::Open)
        .map(|(header, ..)| (header.fields.incarnation, header.fields.previous_sequence))
        .collect();
    let is_void = |header: &RecordHeader| {
        let fields = &header.fields;
        opens.iter().any(|open| open.0 > fields.incarnation && fields.sequence > open.1)
    };
    let mut ending = Ending {
        end: 0,
        damaged_end: None,
        sequence: 0,
        applied: [0; TABLET_COUNT],
        log_times: [LogTime(0); TABLET_COUNT],
    };
    for (header, at, body) in records.into_values().filter(|(header, ..)| !is_void(header)) {
        ending.end = at + header.record_bytes();
        ending.sequence = header.fields.sequence.0;
        let mut raise = |tablet: TabletIndex, index: u64| {
            let applied = &mut ending.applied[tablet.index()];
            *applied = (*applied).max(index);
        };
        match header.fields.kind {
            RecordKind::Open | RecordKind::Mark => {
                TipIter::new(&body).flatten().for_each(|(tablet, index)| raise(tablet, index.0));
            }
            // Of worlds with one node these are.
            RecordKind::Items => {}
            RecordKind::Entries => {
                for entry in EntryIter::new(&body).flatten() {
                    let header = entry.header;
                    raise(header.tablet, header.log_index.0);
                    let last = &mut ending.log_times[header.tablet.index()];
                    *last = (*last).max(header.stamp);
                }
            }
        }
    }
    let is_next = |header: &RecordHeader| header.fields.sequence.0 == ending.sequence + 1 && !is_void(header);
    let next = damaged.iter().find(|(header, at)| *at == ending.end && is_next(header));
    ending.damaged_end = next.map(|(header, at)| at + header.record_bytes());
    ending
}

/// How many records in a row vanished from where the journal ends.
fn lost_in_a_row(zone: &JournalZone, end: u64, vanished: &[Vanished]) -> u64 {
    let (mut end, mut after, mut count) = (end, None, 0);
    loop {
        let places = [end, zone.next_segment(end)].map(|place| zone.offset(place).0);
        // One record is in flight at a time, so each was lost at a time of its own.
        let next = vanished
            .iter()
            .filter(|one| after.is_none_or(|after| one.at > after))
            .find(|one| places.contains(&one.offset));
        let Some(next) = next else { return count };
        (end, after, count) = (next.offset - zone.range.offset.0 + next.bytes, Some(next.at), count + 1);
    }
}

/// By tablet: the index that shared memory knows, where a start may believe it.
fn surviving(scene: &Scene, superblock: &Superblock, shard: u16) -> [u64; TABLET_COUNT] {
    let nothing = [0; TABLET_COUNT];
    let Some(words) = scene.store.region_words(&region_name(superblock.device, shard)) else {
        return nothing;
    };
    let bytes: Vec<u8> =
        words.iter().take(version_file::HEADER_BYTES / 8).flat_map(|word| word.to_le_bytes()).collect();
    let Some(bytes) = bytes.first_chunk() else { return nothing };
    let Ok(header) = version_file::Header::decode(bytes) else { return nothing };
    // A region that is there is of this boot.
    let believed = header.device == superblock.device
        && header.generation == superblock.generation
        && header.shard == ShardIndex(shard)
        && header.incarnation == superblock.incarnation;
    if believed { header.tablets.map(|tablet| tablet.coherent_index) } else { nothing }
}
