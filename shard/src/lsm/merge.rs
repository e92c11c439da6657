//! Life of a merge: neighbouring runs of a tablet become one, newest version of each key, in the maintenance queue and
//! in small steps. What is deleted or expired goes when nothing older lies beneath, neither a run nor a sealed window; a
//! run of nothing else goes without being read.
//!
//! Order, and what a crash between two steps leaves: output written and flushed (before: extents that nobody names);
//! edit {add, remove} durable in one record (before: the inputs count); shown; the inputs' extents are free when the last
//! reader has let go of them. An expired record is dropped by the log time that the tablet had when the merge began: it
//! was absent to every read since, and stays so.

use super::agree::awaited;
use super::build::{BuildError, Sink, TableBuilder};
use super::cursor::{Cursors, TableCursor};
use super::gather::time_of;
use super::pace::{Step, rest};
use super::pick::Pick;
use super::publish::{Made, Written};
use super::room::Purpose;
use super::seal::awaits;
use super::table::Table;
use super::work::run_of;
use super::zone::ReadError;
use crate::core::Shard;
use crate::memtable::Direction;
use layout::manifest::Edit;
use layout::table_seal::{Compressor, Decompressor};
use layout::tablet_window::TabletWindow;
use layout::units::{LogTime, TabletIndex};
use std::rc::Rc;

/// Bytes of each input that are read at once.
pub(super) const WINDOW_BYTES: u64 = 256 << 10;

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

/// Merge what the policy picked.
pub(super) async fn merge(shard: &Rc<Shard>, tablet: TabletIndex, picked: &Pick) -> Result<(), MergeError> {
    let (inputs, windows, sealed_to, log_time, awaited) = {
        let state = shard.state.borrow();
        let tables = &state.tables;
        let inputs = tables.runs(tablet)[picked.tables.clone()].to_vec();
        let (windows, log_time) = (tables.windows(tablet).to_vec(), state.tablet(tablet).log_time);
        let awaited = awaited(shard, &state, tablet);
        (inputs, windows, tables.sealed_to(tablet), log_time, awaited)
    };
    let keeper = &shard.keeper;
    let id = keeper.next_table();
    let identity = keeper.owner.run(tablet, id);
    let expected_bytes = inputs.iter().map(|table| table.place.bytes).sum();
    let sink = Sink::new(Rc::clone(&keeper.zone), Purpose::Merge, expected_bytes);
    let options = keeper.options(&shard.limits);
    let mut output = TableBuilder::new(identity, options, Compressor::new(), sink, sealed_to);
    let is_dead = |table: &Rc<Table>| {
        let run = run_of(table, &windows, log_time);
        run.dead_count >= run.record_count && !run.is_overlay && awaited.is_empty()
    };
    if !picked.is_bottom || !inputs.iter().all(is_dead) {
        let beneath = picked.is_bottom.then_some(Beneath { windows, awaited });
        copy(shard, &inputs, beneath.as_ref(), log_time, &mut output).await?;
    }
    let mut made = None;
    if !output.is_empty() {
        let (built, _) = output.finish().await?;
        let written = Written { id, tablet, level: picked.level, identity, built };
        made = Some(written.open(&mut Decompressor::new()).await?);
    }
    keeper.zone.disk().flush().await.map_err(BuildError::from)?;
    let mut edits: Vec<Edit<'_>> = inputs.iter().map(|table| Edit::RemoveTable(table.place.id)).collect();
    edits.extend(made.as_ref().filter(|_| !ioengine::canary("forget_a_run")).map(Made::edit));
    crate::log::until_told(shard, tablet).await;
    keeper.commit(&edits, Purpose::Merge).await?;
    drop(edits);
    ioengine::sometimes!("runs are merged");
    if let Some(made) = &made {
        shard.counters.merge_written_bytes.add(made.facts.bytes);
        made.table.set_named(true);
    }
    shard.state.borrow_mut().tables.replace(tablet, &inputs, made.map(|made| made.table));
    inputs.iter().for_each(|table| table.set_named(false));
    Ok(())
}

/// What is older than the oldest run.
struct Beneath {
    windows: Vec<Rc<Table>>,
    /// Windows whose tables may yet come there.
    awaited: Vec<TabletWindow>,
}

/// Copy the newest record of each key from `inputs`, newest first, to `output`. With `beneath`, nothing but that is older.
async fn copy(
    shard: &Shard,
    inputs: &[Rc<Table>],
    beneath: Option<&Beneath>,
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
    let (mut key, mut step, mut moved_before) = (Vec::new(), Step::of_merge(), 0);
    while let Some(newest) = cursors.next(&[]) {
        let entry = newest.entry()?.expect("the least key stands at a record");
        let record = entry.record;
        let is_alive = record.value.is_some() && !log_time.has_expired(record.expiry_us);
        let hides = |beneath: &Beneath| {
            let time = time_of(entry.key);
            let is_above = |window: &Rc<Table>| window.may_hold(time, entry.key);
            !ioengine::canary("drop_tombstone_above_window") && beneath.windows.iter().any(is_above)
                || awaits(&beneath.awaited, time, record.version)
        };
        if is_alive || beneath.map_or(!ioengine::canary("drop_tombstone_early"), hides) {
            output.push(entry.key, &record);
        }
        let is_over = step.add(entry.key, record.value);
        key.clear();
        key.extend_from_slice(entry.key);
        cursors.advance(&key, &mut unpack).await?;
        if output.is_due() {
            output.write().await?;
        }
        if is_over {
            let moved = cursors.read_bytes() + output.written_bytes();
            rest(shard, moved - std::mem::replace(&mut moved_before, moved)).await;
        }
    }
    Ok(())
}
