//! Life of a merge: neighbouring runs of a tablet become one, newest version of each key, in the maintenance queue and
//! in small steps. What is deleted or expired goes when nothing older lies beneath.
//!
//! Order, and what a crash between two steps leaves: output written and flushed (before: extents that nobody names);
//! edit {add, remove} durable in one record (before: the inputs count); shown; the inputs' extents are free when the last
//! reader has let go of them. An expired record is dropped by the log time that the tablet had when the merge began: it
//! was absent to every read since, and stays so.

use super::build::{BuildError, TableBuilder};
use super::cursor::{Cursors, TableCursor};
use super::extents::Purpose;
use super::pick::{Pick, Run, pick};
use super::publish::{Made, Written};
use super::table::Table;
use super::zone::ReadError;
use crate::core::Shard;
use crate::memtable::Direction;
use layout::manifest::Edit;
use layout::table_seal::{Compressor, Decompressor};
use layout::units::{LogTime, TabletIndex};
use std::rc::Rc;
use std::time::Duration;

/// Records taken between two looks at other work.
const STEP_COUNT: u32 = 128;
/// Bytes of each input that are read at once.
const WINDOW_BYTES: u64 = 256 << 10;
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

/// Merge whatever the policy picks until the core ends.
pub(crate) async fn run(shard: Rc<Shard>) {
    // Tablets with an input that cannot be read: their runs stay as they are until the next start.
    let mut unreadable = 0u64;
    loop {
        let due = shard.keeper.merge_due.notified();
        let Some((tablet, picked)) = next(&shard, unreadable) else {
            due.await;
            continue;
        };
        match merge(&shard, tablet, &picked).await {
            Ok(()) => {
                shard.counters.merges.add(1);
            }
            Err(MergeError::Build(BuildError::Space)) => {
                ioengine::sometimes!("a merge finds no space");
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

/// The tablet with the most runs of those that have something to merge.
fn next(shard: &Shard, unreadable: u64) -> Option<(TabletIndex, Pick)> {
    let state = shard.state.borrow();
    let candidates = TabletIndex::all().filter(|tablet| unreadable & (1 << tablet.index()) == 0);
    let picked = candidates.filter_map(|tablet| {
        let tables = state.tables.of(tablet);
        let log_time = state.tablets[tablet.index()].as_ref()?.log_time;
        if tables.iter().any(|table| table.is_broken()) {
            return None;
        }
        let runs: Vec<Run> = tables.iter().map(|table| run_of(table, log_time)).collect();
        Some((tables.len(), tablet, pick(&runs, shard.limits.merge_fan_in)?))
    });
    picked.max_by_key(|(count, ..)| *count).map(|(_, tablet, picked)| (tablet, picked))
}

fn run_of(table: &Table, log_time: LogTime) -> Run {
    let footer = &table.parts().footer;
    // Only when all that expire have expired is their number known.
    let expired = if log_time.has_expired(footer.expiry_max) { footer.expiring_count } else { 0 };
    Run {
        level: table.place.level,
        bytes: table.place.bytes,
        dead_count: footer.tombstone_count + expired,
        record_count: footer.record_count,
    }
}

async fn merge(shard: &Rc<Shard>, tablet: TabletIndex, picked: &Pick) -> Result<(), MergeError> {
    let (inputs, log_time) = {
        let state = shard.state.borrow();
        (state.tables.of(tablet)[picked.tables.clone()].to_vec(), state.tablet(tablet).log_time)
    };
    let keeper = &shard.keeper;
    let id = keeper.next_table();
    let identity = keeper.owner.identity(tablet, id);
    let mut output = TableBuilder::new(
        Rc::clone(&keeper.zone),
        identity,
        keeper.options(&shard.limits),
        Compressor::new(),
        Purpose::Merge,
        inputs.iter().map(|table| table.place.bytes).sum(),
    );
    copy(&inputs, picked.is_bottom, log_time, &mut output).await?;
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

/// Copy the newest record of each key from `inputs`, newest first, to `output`.
async fn copy(
    inputs: &[Rc<Table>],
    is_bottom: bool,
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
        let expired = log_time.has_expired(record.expiry_us);
        let tombstone_needed = !is_bottom && !ioengine::canary("drop_tombstone_early");
        if tombstone_needed || (record.value.is_some() && !expired) {
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
