//! Life of a merge: neighbouring runs of a tablet become one, newest version of each key, in the maintenance queue and
//! in small steps. What is deleted or expired goes when nothing older lies beneath, neither a run nor a sealed window. The
//! same task does the seals (`seal`): one of both at a time. Merges go first: they bound what a get has to ask.
//!
//! Order, and what a crash between two steps leaves: output written and flushed (before: extents that nobody names);
//! edit {add, remove} durable in one record (before: the inputs count); shown; the inputs' extents are free when the last
//! reader has let go of them. An expired record is dropped by the log time that the tablet had when the merge began: it
//! was absent to every read since, and stays so.

use super::build::{BuildError, Sink, TableBuilder};
use super::cursor::{Cursors, TableCursor};
use super::extents::Purpose;
use super::gather::time_of;
use super::pick::{Pick, Run, pick};
use super::publish::{Made, Written};
use super::seal::{pick_seal, seal};
use super::table::Table;
use super::window;
use super::zone::ReadError;
use crate::core::Shard;
use crate::memtable::Direction;
use layout::manifest::Edit;
use layout::table_seal::{Compressor, Decompressor};
use layout::units::{LogTime, TabletIndex};
use std::rc::Rc;
use std::time::Duration;

/// Records taken between two looks at other work.
pub(super) const STEP_COUNT: u32 = 128;
/// Bytes of each input that are read at once.
pub(super) const WINDOW_BYTES: u64 = 256 << 10;
/// How long to wait before a merge that found no space is tried again.
const SPACE_RETRY: Duration = Duration::from_millis(500);

/// Why a merge ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MergeError {
    /// An input cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The output cannot be written.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// What is to be done to a tablet.
enum Job {
    Merge(Pick),
    Seal(window::Pick),
}

/// Merge and seal whatever the policies pick until the core ends.
pub(crate) async fn run(shard: Rc<Shard>) {
    // Tablets with an input that cannot be read: their tables stay as they are until the next start.
    let mut unreadable = 0u64;
    // A seal wants room for a copy of a tablet: one that found none waits for the next flush.
    let mut may_seal = true;
    loop {
        let due = shard.keeper.merge_due.notified();
        let Some((tablet, job)) = next(&shard, unreadable, may_seal) else {
            due.await;
            may_seal = true;
            continue;
        };
        let done = match &job {
            Job::Merge(picked) => merge(&shard, tablet, picked).await,
            Job::Seal(picked) => seal(&shard, tablet, picked).await,
        };
        match done {
            Ok(()) => {
                let counters = &shard.counters;
                let counter = if matches!(job, Job::Merge(_)) { &counters.merges } else { &counters.seals };
                counter.add(1);
            }
            Err(MergeError::Build(BuildError::Space)) => {
                ioengine::sometimes!("a merge finds no space");
                may_seal = false;
                shard.io.sleep(SPACE_RETRY).await;
            }
            Err(MergeError::Build(BuildError::Disk(error))) => return shard.keeper.end(&shard, &error),
            Err(MergeError::Read(error) | MergeError::Build(BuildError::Read(error))) => {
                tracing::error!(%error, tablet = tablet.get(), "a table cannot be merged");
                shard.counters.disk_read_errors.add(1);
                unreadable |= 1 << tablet.index();
            }
        }
    }
}

/// The tablet with the most runs of those that have something to merge; else one that has something to seal.
fn next(shard: &Shard, unreadable: u64, may_seal: bool) -> Option<(TabletIndex, Job)> {
    let state = shard.state.borrow();
    let candidates = || {
        TabletIndex::all().filter_map(|tablet| {
            let log_time = state.tablets[tablet.index()].as_ref()?.log_time;
            let (runs, windows) = (state.tables.runs(tablet), state.tables.windows(tablet));
            let is_whole = runs.iter().chain(windows).all(|table| !table.is_broken())
                && unreadable & (1 << tablet.index()) == 0;
            is_whole.then_some((tablet, log_time, runs, windows))
        })
    };
    let merges = candidates().filter_map(|(tablet, log_time, tables, windows)| {
        let runs: Vec<Run> = tables.iter().map(|table| run_of(table, windows, log_time)).collect();
        Some((tables.len(), tablet, pick(&runs, shard.limits.merge_fan_in)?))
    });
    if let Some((_, tablet, picked)) = merges.max_by_key(|(count, ..)| *count) {
        return Some((tablet, Job::Merge(picked)));
    }
    if !may_seal {
        return None;
    }
    candidates().find_map(|(tablet, log_time, runs, windows)| {
        Some((tablet, Job::Seal(pick_seal(runs, windows, log_time, &shard.limits)?)))
    })
}

fn run_of(table: &Table, windows: &[Rc<Table>], log_time: LogTime) -> Run {
    let footer = &table.parts().footer;
    // Only when all that expire have expired is their number known.
    let expired = if log_time.has_expired(footer.expiry_max) { footer.expiring_count } else { 0 };
    Run {
        level: table.place.level,
        bytes: table.place.bytes,
        dead_count: footer.tombstone_count + expired,
        record_count: footer.record_count,
        is_overlay: windows.iter().any(|window| window.may_hold_times(footer.time_min, footer.time_max)),
    }
}

async fn merge(shard: &Rc<Shard>, tablet: TabletIndex, picked: &Pick) -> Result<(), MergeError> {
    let (inputs, windows, sealed_to, log_time) = {
        let state = shard.state.borrow();
        let tables = &state.tables;
        let inputs = tables.runs(tablet)[picked.tables.clone()].to_vec();
        (inputs, tables.windows(tablet).to_vec(), tables.sealed_to(tablet), state.tablet(tablet).log_time)
    };
    let keeper = &shard.keeper;
    let id = keeper.next_table();
    let identity = keeper.owner.run(tablet, id);
    let expected_bytes = inputs.iter().map(|table| table.place.bytes).sum();
    let sink = Sink::new(Rc::clone(&keeper.zone), Purpose::Merge, expected_bytes);
    let options = keeper.options(&shard.limits);
    let mut output = TableBuilder::new(identity, options, Compressor::new(), sink, sealed_to);
    copy(&inputs, picked.is_bottom.then_some(&windows), log_time, &mut output).await?;
    let mut made = None;
    if !output.is_empty() {
        let (built, _) = output.finish().await?;
        let written = Written { id, tablet, level: picked.level, identity, built };
        made = Some(written.open(&mut Decompressor::new()).await?);
    }
    keeper.zone.disk().flush().await.map_err(BuildError::from)?;
    let mut edits: Vec<Edit<'_>> = inputs.iter().map(|table| Edit::RemoveTable(table.place.id)).collect();
    edits.extend(made.as_ref().filter(|_| !ioengine::canary("forget_a_run")).map(Made::edit));
    keeper.commit(&edits).await?;
    drop(edits);
    ioengine::sometimes!("runs are merged");
    if let Some(made) = &made {
        made.table.place.extents.set_named(true);
    }
    shard.state.borrow_mut().tables.replace(tablet, &inputs, made.map(|made| made.table));
    inputs.iter().for_each(|table| table.place.extents.set_named(false));
    Ok(())
}

/// Copy the newest record of each key from `inputs`, newest first, to `output`. With `beneath`, nothing but these sealed
/// windows is older.
async fn copy(
    inputs: &[Rc<Table>],
    beneath: Option<&Vec<Rc<Table>>>,
    log_time: LogTime,
    output: &mut TableBuilder,
) -> Result<(), MergeError> {
    let mut unpack = Decompressor::new();
    let mut cursors = Cursors::new(inputs.len(), Direction::Forward);
    for table in inputs {
        let mut cursor = TableCursor::new(Rc::clone(table), WINDOW_BYTES)?;
        cursor.seek_first(&mut unpack).await?;
        cursors.push(cursor);
    }
    let (mut key, mut looked_at) = (Vec::new(), 0u32);
    while let Some(newest) = cursors.next(&[]) {
        let entry = newest.entry()?.expect("the least key stands at a record");
        let record = entry.record;
        let is_alive = record.value.is_some() && !log_time.has_expired(record.expiry_us);
        let hides = |windows: &Vec<Rc<Table>>| {
            let time = time_of(entry.key);
            !ioengine::canary("drop_tombstone_above_window")
                && windows.iter().any(|window| window.may_hold(time, entry.key))
        };
        if is_alive || beneath.map_or(!ioengine::canary("drop_tombstone_early"), hides) {
            output.push(entry.key, &record);
        }
        key.clear();
        key.extend_from_slice(entry.key);
        cursors.advance(&key, &mut unpack).await?;
        if output.is_due() {
            output.write().await?;
        }
        looked_at += 1;
        if looked_at.is_multiple_of(STEP_COUNT) {
            ioengine::sync::yield_now().await;
        }
    }
    Ok(())
}
