//! Life of a full memtable: frozen between two journal records, written as one run per tablet, made durable, named by the
//! manifest together with the state of the tablets at the freeze and the place where replay begins from then on, shown,
//! emptied, and only then is the journal trimmed.
//!
//! Order, and what a crash between two steps leaves: tables and state written and flushed (before: extents that nobody
//! names, free at the next start); manifest edit durable (before: the journal replays all of it); tables shown and the
//! frozen memtable emptied (memory only); journal trimmed (before: replay would begin at the new start all the same).

use super::build::{BuildError, Sink, TableBuilder};
use super::capture::Head;
use super::names::{NamedState, start_edit};
use super::publish::Made;
use super::room::Purpose;
use super::work::is_crowded;
use super::zone::HeldExtents;
use crate::core::Shard;
use crate::journal::JournalStart;
use crate::log::{Install, Logs};
use crate::memtable::Direction;
use ioengine::sync::race;
use layout::key::Key;
use layout::manifest::Edit;
use layout::table_key::encode_key;
use layout::table_seal::{Compressor, Decompressor};
use layout::tablet_state::{StateIdentity, StateWriter};
use layout::units::{BucketIndex, STREAM_BYTES_MAX, Space, TabletIndex};
use std::ops::{Bound, Range};
use std::rc::Rc;
use std::time::Duration;

/// Records taken from the memtable between two looks at other work.
const STEP_COUNT: usize = 64;
/// Request ids, or recent keys, written down between two looks at other work.
const STATE_STEP_COUNT: usize = 1024;
/// How long to wait before a flush that found no space is tried again.
const SPACE_RETRY: Duration = Duration::from_millis(200);
/// How long a flush waits for a merge before it looks again.
const MERGES_RETRY: Duration = Duration::from_secs(1);

/// The last record taken from the memtable.
struct Place {
    bucket: BucketIndex,
    space: Space,
    stream: [u8; STREAM_BYTES_MAX],
    stream_bytes: usize,
    time: u64,
}

impl Place {
    fn key(&self) -> Key<'_> {
        Key { space: self.space, stream: &self.stream[..self.stream_bytes], time: self.time }
    }
}

/// Flush frozen memtables until the core ends.
pub(crate) async fn run(shard: Rc<Shard>) {
    loop {
        let froze = shard.keeper.froze.notified();
        let Some(start) = shard.keeper.frozen_at.get() else {
            froze.await;
            continue;
        };
        wait_for_merges(&shard).await;
        let purpose = if shard.keeper.is_short() { Purpose::LateFlush } else { Purpose::Flush };
        match flush(&shard, start, purpose).await {
            Ok(()) => {
                shard.counters.flushes.add(1);
                if purpose == Purpose::LateFlush {
                    shard.keeper.set_spent();
                }
                shard.keeper.look_at_room();
                shard.keeper.merge_due.notify();
                // Who was refused for want of room may try again, and the next freeze may be due.
                shard.staged.notify();
                shard.settled.notify();
            }
            Err(BuildError::Space) => {
                ioengine::sometimes!("a flush finds no space");
                shard.keeper.set_short();
                shard.keeper.merge_due.notify();
                shard.io.sleep(SPACE_RETRY).await;
            }
            Err(BuildError::Read(error)) => {
                tracing::error!(%error, "a table that was just written cannot be read: the flush is tried again");
                shard.io.sleep(SPACE_RETRY).await;
            }
            Err(BuildError::Disk(error)) => return shard.keeper.end(&shard, &error),
        }
    }
}

/// While merges lag: the memtables fill, writers are told so, and gets have no more tables to ask.
async fn wait_for_merges(shard: &Shard) {
    loop {
        let changed = shard.keeper.merge_due.notified();
        if !is_crowded(shard) {
            return;
        }
        ioengine::sometimes!("a flush waits for merges");
        race(changed, shard.io.sleep(MERGES_RETRY)).await;
    }
}

async fn flush(shard: &Rc<Shard>, start: JournalStart, purpose: Purpose) -> Result<(), BuildError> {
    let keeper = &shard.keeper;
    let mut made = Vec::new();
    let (mut compressor, mut unpack) = (Compressor::new(), Decompressor::new());
    let copied = shard.logs.as_ref().map_or(0, Logs::installing);
    for tablet in TabletIndex::all().filter(|tablet| copied & 1 << tablet.index() == 0) {
        let count = shard.state.borrow().memtables.frozen().map_or(0, |frozen| frozen.record_count(tablet));
        if count > 0 {
            let (built, back) = write_run(shard, tablet, compressor, purpose).await?;
            compressor = back;
            made.push(built.open(&mut unpack).await?);
        }
    }
    let (state, extents_of_state) = write_state(shard, purpose).await?;
    // Nothing that the manifest names may be lost by a power cut.
    if !ioengine::canary("manifest_before_data") {
        keeper.zone.disk().flush().await?;
    }
    if let Some(logs) = &shard.logs {
        logs.restated().await;
    }
    let before = keeper.state();
    let state_bytes = state.bytes;
    let installs = shard.logs.as_ref().map(Logs::take_installs).unwrap_or_default();
    let mut edits: Vec<Edit<'_>> = made.iter().map(Made::edit).collect();
    for install in &installs {
        let mut state = shard.state.borrow_mut();
        // Before the edit can be seen: a cell may tell of what the tablet had before.
        state.versions.raise_generation(install.tablet);
        // What the tablet had goes in the same edit: its records in the frozen memtable were not written.
        let had = state.tables.runs(install.tablet).iter().chain(state.tables.windows(install.tablet));
        let gone = had.filter(|table| !install.keeps(table));
        edits.extend(gone.map(|table| Edit::RemoveTable(table.place.id)));
        edits.extend(install.made().map(Made::edit));
    }
    edits.extend([state.edit(), start_edit(start)]);
    let committed = keeper.commit(&edits, purpose).await;
    drop(edits);
    if let (Err(_), Some(logs)) = (&committed, &shard.logs) {
        logs.give_installs_back(installs);
        return committed;
    }
    committed?;
    extents_of_state.set_named(true);
    let bytes = made.iter().map(|made| made.table.place.bytes).sum();
    keeper.pace.flushed(shard.io.now(), bytes);
    shard.counters.flush_written_bytes.add(bytes);
    shard.counters.state_written_bytes.add(state_bytes);
    show(shard, made, &installs);
    if let Some(logs) = &shard.logs {
        installs.into_iter().for_each(|install| logs.installed(shard, install));
    }
    if let Some(before) = before {
        keeper.zone.give(&before.ranges);
    }
    shard.journal.as_ref().expect("only a shard with a journal freezes").trim(start);
    Ok(())
}

/// The frozen records can be found in tables from now on.
fn show(shard: &Shard, made: Vec<Made>, installs: &[Install]) {
    let mut state = shard.state.borrow_mut();
    for install in installs {
        install.made().for_each(|made| made.table.set_named(true));
        let (run, windows) = install.tables();
        let old = state.tables.install(install.tablet, run, &windows);
        old.iter().for_each(|table| table.set_named(false));
    }
    for run in made {
        run.table.set_named(true);
        state.tables.add(run.facts.tablet, run.table);
    }
    state.tables.moved();
    state.memtables.thaw();
    state.end_capture();
    shard.keeper.frozen_at.set(None);
}

/// Write the frozen records of a tablet as a run.
async fn write_run(
    shard: &Shard,
    tablet: TabletIndex,
    compressor: Compressor,
    purpose: Purpose,
) -> Result<(super::publish::Written, Compressor), BuildError> {
    let keeper = &shard.keeper;
    let id = keeper.next_table();
    let identity = keeper.owner.run(tablet, id);
    let options = keeper.options(&shard.limits);
    let expected = shard.state.borrow().memtables.frozen().map_or(0, |frozen| {
        let usage = frozen.usage();
        (usage.used_bytes * frozen.record_count(tablet) / usage.record_count.max(1)) as u64 / 2
    });
    let zone = Rc::clone(&keeper.zone);
    let sealed_to = shard.state.borrow().tables.sealed_to(tablet);
    let sink = Sink::new(zone, purpose, expected);
    let mut output = TableBuilder::new(identity, options, compressor, sink, sealed_to);
    let mut place: Option<Place> = None;
    let mut key = Vec::new();
    while take(shard, tablet, &mut place, &mut key, &mut output) {
        output.write().await?;
        ioengine::sync::yield_now().await;
    }
    let (built, compressor) = output.finish().await?;
    Ok((super::publish::Written { id, tablet, level: 0, identity, built }, compressor))
}

/// Take the next records of the frozen memtable. False when there are no more.
fn take(
    shard: &Shard,
    tablet: TabletIndex,
    place: &mut Option<Place>,
    key: &mut Vec<u8>,
    output: &mut TableBuilder,
) -> bool {
    let state = shard.state.borrow();
    let frozen = state.memtables.frozen().expect("it is flushed now");
    let from = match place {
        None => Bound::Unbounded,
        Some(place) => Bound::Excluded((place.bucket, place.key())),
    };
    let mut last = None;
    for entry in frozen.range(tablet, from, Direction::Forward).take(STEP_COUNT) {
        key.clear();
        encode_key(key, entry.bucket, entry.key);
        output.push(key, &entry.record);
        last = Some(entry);
    }
    let Some(entry) = last else { return false };
    let mut stream = [0; STREAM_BYTES_MAX];
    stream[..entry.key.stream.len()].copy_from_slice(entry.key.stream);
    let Key { space, stream: name, time } = entry.key;
    *place = Some(Place { bucket: entry.bucket, space, stream, stream_bytes: name.len(), time });
    true
}

/// What is remembered, cut into what is written down between two looks at other work.
fn steps(count: u32) -> impl Iterator<Item = Range<usize>> {
    let count = count as usize;
    (0..count).step_by(STATE_STEP_COUNT).map(move |from| from..count.min(from + STATE_STEP_COUNT))
}

/// The end of a step: write what makes whole writes, and look at other work.
async fn write_whole(writer: &mut StateWriter, sink: &mut Sink) -> Result<(), BuildError> {
    while writer.pending().len() >= super::build::WRITE_BYTES {
        let taken = sink.write(writer.pending(), false).await?;
        writer.consume(taken);
    }
    ioengine::sync::yield_now().await;
    Ok(())
}

/// Write the state that the tablets had at the freeze: the blob, and its extents.
async fn write_state(shard: &Shard, purpose: Purpose) -> Result<(NamedState, HeldExtents), BuildError> {
    let keeper = &shard.keeper;
    let blob = keeper.next_table();
    let super::keeper::TableOwner { device, shard: index, generation, .. } = keeper.owner;
    let identity = StateIdentity { device, shard: index, generation, blob };
    let count = shard.state.borrow().capture_count();
    let mut writer = StateWriter::new(&identity, count);
    let mut sink = Sink::new(Rc::clone(&keeper.zone), purpose, 0);
    for tablet in TabletIndex::all() {
        let head = shard.state.borrow_mut().captured(tablet);
        let Some(Head { head, seals }) = head else { continue };
        writer.begin_tablet(&head);
        for ranks in steps(head.request_count) {
            shard.state.borrow().write_requests(tablet, ranks, &mut writer);
            write_whole(&mut writer, &mut sink).await?;
        }
        for ranks in steps(head.recent_count) {
            shard.state.borrow().write_recent(tablet, ranks, &mut writer);
            write_whole(&mut writer, &mut sink).await?;
        }
        super::capture::write_seals(&seals, &mut writer);
    }
    let summary = writer.finish();
    while !writer.pending().is_empty() {
        let taken = sink.write(writer.pending(), true).await?;
        writer.consume(taken);
    }
    let extents = sink.finish();
    let ranges = extents.ranges().to_vec();
    let named = NamedState { blob, ranges, bytes: summary.bytes, checksum: summary.checksum };
    Ok((named, extents))
}
