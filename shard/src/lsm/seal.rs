//! Life of a seal: all runs of a tablet, and the sealed tables of the windows that are sealed again, become one sealed table
//! per window and one run of the rest: what is newer, and what lies above windows that take no part.
//!
//! A sealed table has exactly the newest version of each key of its window that had not expired at the log time with which
//! the pass began, and no tombstones: nothing lies beneath it. Its bytes follow from that, the window and the cluster alone,
//! however the records came: also its dictionary, which it makes of its own first blocks (decision 0027). The rest keeps a tombstone only where a window that takes no part may have the key.
//!
//! Order, and what a crash leaves, as with a merge (`merge`): one edit names all outputs and drops all inputs, so that no
//! state between has a record twice or not at all.

use super::build::{BuildError, Sink, TableBuilder};
use super::cursor::{Cursors, TableCursor};
use super::expire::expired_count;
use super::gather::time_of;
use super::keeper::Keeper;
use super::merge::{MergeError, WINDOW_BYTES};
use super::pace::{Step, rest};
use super::publish::{Made, Written};
use super::room::Purpose;
use super::table::Table;
use super::window::{Pick, Run, Sealed, Window, WindowLimits, pick};
use crate::core::Shard;
use crate::limits::Limits;
use crate::memtable::{Direction, Record};
use layout::manifest::Edit;
use layout::table_seal::{Compressor, Decompressor};
use layout::units::{LogTime, TabletIndex};
use std::rc::Rc;

/// Sealed tables written at once; a pass with more windows goes through its inputs again.
pub(crate) const OPEN_COUNT_MAX: usize = 8;

/// What the policy picks for a tablet whose tables can all be read.
pub(super) fn pick_seal(
    runs: &[Rc<Table>],
    windows: &[Rc<Table>],
    log_time: LogTime,
    limits: &Limits,
    is_short: bool,
) -> Option<Pick> {
    let run_of = |table: &Rc<Table>| {
        let footer = &table.parts().footer;
        Run {
            times: (footer.time_min, footer.time_max),
            bytes: footer.raw_bytes,
            record_count: footer.record_count,
            spread: table.place.spread,
        }
    };
    let sealed_of = |table: &Rc<Table>| {
        let footer = &table.parts().footer;
        Some(Sealed {
            window: table.window()?,
            bytes: footer.raw_bytes,
            record_count: footer.record_count,
            expired_count: expired_count(footer, log_time),
        })
    };
    let runs: Vec<Run> = runs.iter().map(run_of).collect();
    let sealed: Vec<Sealed> = windows.iter().filter_map(sealed_of).collect();
    let limits = WindowLimits {
        seal_age_us: u64::try_from(limits.seal_age.as_micros()).unwrap_or(u64::MAX),
        window_bytes: limits.window_bytes as u64,
        count_max: limits.windows_per_tablet_max,
        is_short,
    };
    pick(&runs, &sealed, log_time, &limits)
}

/// What goes into a pass, and what stays beside it.
struct Inputs {
    /// All runs of the tablet, newest first.
    runs: Vec<Rc<Table>>,
    /// Sealed windows that take part.
    taken: Vec<Rc<Table>>,
    /// Those that do not.
    kept: Vec<Rc<Table>>,
    log_time: LogTime,
}

/// Where the records go.
struct Outputs {
    windows: Vec<(Window, TableBuilder)>,
    /// The rest goes here, in one of the passes.
    rest: Option<TableBuilder>,
}

/// Seal what the policy picked.
pub(super) async fn seal(shard: &Rc<Shard>, tablet: TabletIndex, picked: &Pick) -> Result<(), MergeError> {
    let inputs = {
        let state = shard.state.borrow();
        let windows = state.tables.windows(tablet).iter().cloned().enumerate();
        let (taken, kept): (Vec<_>, Vec<_>) = windows.partition(|(place, _)| picked.taken.contains(place));
        let tables = |list: Vec<(usize, Rc<Table>)>| list.into_iter().map(|(_, table)| table).collect();
        Inputs {
            runs: state.tables.runs(tablet).to_vec(),
            taken: tables(taken),
            kept: tables(kept),
            log_time: state.tablet(tablet).log_time,
        }
    };
    let (made, rest) = write(shard, tablet, picked, &inputs).await?;
    let keeper = &shard.keeper;
    keeper.zone.disk().flush().await.map_err(BuildError::from)?;
    let gone = || inputs.runs.iter().chain(&inputs.taken);
    let mut edits: Vec<Edit<'_>> = gone().map(|table| Edit::RemoveTable(table.place.id)).collect();
    edits.extend(made.iter().chain(&rest).map(Made::edit));
    crate::log::until_told(shard, tablet).await;
    keeper.commit(&edits, Purpose::Merge).await?;
    drop(edits);
    mark(picked, &inputs, &made);
    count(shard, &made, rest.as_ref());
    made.iter().chain(&rest).for_each(|made| made.table.place.extents.set_named(true));
    let windows = made.into_iter().map(|made| made.table).collect();
    let old = (&inputs.runs[..], &inputs.taken[..]);
    shard.state.borrow_mut().tables.seal(tablet, old, (rest.map(|made| made.table), windows));
    gone().for_each(|table| table.place.extents.set_named(false));
    Ok(())
}

/// Count what was written.
fn count(shard: &Shard, windows: &[Made], rest: Option<&Made>) {
    let counters = &shard.counters;
    for Made { facts, .. } in windows {
        counters.seal_written_bytes.add(facts.bytes);
        let again = if facts.window_generation > 1 { facts.bytes } else { 0 };
        counters.seal_again_written_bytes.add(again);
    }
    counters.seal_rest_written_bytes.add(rest.map_or(0, |made| made.facts.bytes));
}

/// Say what has happened.
fn mark(picked: &Pick, inputs: &Inputs, made: &[Made]) {
    let before = |window: &Window| {
        inputs
            .taken
            .iter()
            .filter_map(|table| table.window())
            .any(|old| (old.from, old.to) == (window.from, window.to))
    };
    if picked.windows.iter().any(before) {
        ioengine::sometimes!("a window is sealed again");
    } else if !inputs.taken.is_empty() {
        ioengine::sometimes!("windows are merged");
    }
    if made.iter().any(|made| made.facts.window_generation == 1) {
        ioengine::sometimes!("a window is sealed");
    }
    if made.iter().any(|made| made.table.has_dictionary()) {
        ioengine::sometimes!("a window is sealed with a dictionary");
    }
}

/// Write the sealed tables, and the run of the rest: those that have records.
async fn write(
    shard: &Rc<Shard>,
    tablet: TabletIndex,
    picked: &Pick,
    inputs: &Inputs,
) -> Result<(Vec<Made>, Option<Made>), MergeError> {
    let keeper = &shard.keeper;
    let all = || inputs.runs.iter().chain(&inputs.taken);
    // More is had when it is needed; nobody knows yet which table needs most.
    let outputs_count = picked.windows.len() as u64 + 1;
    let expected_bytes = all().map(|table| table.place.bytes).sum::<u64>() / outputs_count;
    let sink = || Sink::new(Rc::clone(&keeper.zone), Purpose::Merge, expected_bytes);
    let ends = inputs.kept.iter().filter_map(|table| table.window()).chain(picked.windows.iter().copied());
    let sealed_to = ends.map(|window| window.to).max().unwrap_or(0);
    let mut unpack = Decompressor::new();
    let mut made = Vec::new();
    let mut rest = None;
    let group_count = picked.windows.len().div_ceil(OPEN_COUNT_MAX);
    for (number, group) in picked.windows.chunks(OPEN_COUNT_MAX).enumerate() {
        let builder = |window: &Window| {
            let identity = keeper.owner.sealed(tablet, *window);
            let options = Keeper::sealed_options(&shard.limits);
            (*window, TableBuilder::new(identity, options, Compressor::new(), sink(), sealed_to))
        };
        let mut outputs = Outputs { windows: group.iter().map(builder).collect(), rest: None };
        let rest_id = keeper.next_table();
        let rest_identity = keeper.owner.run(tablet, rest_id);
        if number + 1 == group_count {
            let options = keeper.options(&shard.limits);
            let builder = TableBuilder::new(rest_identity, options, Compressor::new(), sink(), sealed_to);
            outputs.rest = Some(builder);
        }
        copy(shard, inputs, picked, &mut outputs, &mut unpack).await?;
        for (window, output) in outputs.windows {
            let identity = keeper.owner.sealed(tablet, window);
            made.extend(finish(output, keeper.next_table(), tablet, 0, identity, &mut unpack).await?);
        }
        if let Some(output) = outputs.rest {
            let level = inputs.runs.iter().map(|table| table.place.level).max().unwrap_or(0);
            rest = Some((output, rest_id, level, rest_identity));
        }
    }
    let (mut output, id, level, identity) = rest.expect("there is a last group of windows");
    // A window that nothing was found for is none: the rest has no records in it either.
    let ends = inputs.kept.iter().chain(made.iter().map(|made: &Made| &made.table));
    output.set_sealed_to(ends.filter_map(|table| table.window()).map(|window| window.to).max().unwrap_or(0));
    let rest = finish(output, id, tablet, level, identity, &mut unpack).await?;
    Ok((made, rest))
}

/// End a table that has records.
async fn finish(
    output: TableBuilder,
    id: layout::units::TableId,
    tablet: TabletIndex,
    level: u8,
    identity: layout::table_seal::TableIdentity,
    unpack: &mut Decompressor,
) -> Result<Option<Made>, MergeError> {
    if output.is_empty() {
        return Ok(None);
    }
    let (built, _) = output.finish().await?;
    Ok(Some(Written { id, tablet, level, identity, built }.open(unpack).await?))
}

/// Copy the newest record of each key to the output that it belongs to.
async fn copy(
    shard: &Shard,
    inputs: &Inputs,
    picked: &Pick,
    outputs: &mut Outputs,
    unpack: &mut Decompressor,
) -> Result<(), MergeError> {
    // Of the windows only those that go into these: what they hold goes nowhere else.
    let is_asked = |table: &&Rc<Table>| {
        outputs.windows.iter().any(|(window, _)| table.may_hold_times(window.from, window.to - 1))
    };
    let taken: Vec<_> = inputs.taken.iter().filter(is_asked).collect();
    let tables = || inputs.runs.iter().chain(taken.iter().copied());
    let mut cursors = Cursors::new(tables().count(), Direction::Forward);
    for table in tables() {
        let mut cursor = TableCursor::new(Rc::clone(table), WINDOW_BYTES)?;
        cursor.seek_first(unpack).await?;
        cursors.push(cursor);
    }
    let (mut key, mut step, mut moved_before) = (Vec::new(), Step::of_seal(), 0);
    while let Some(newest) = cursors.next(&[]) {
        let entry = newest.entry()?.expect("the least key stands at a record");
        let forgets = ioengine::canary("forget_the_overlay") && newest.table.window().is_none();
        if let Some(output) = outputs.of(picked, inputs, entry.key, &entry.record, forgets) {
            output.push(entry.key, &entry.record);
            if output.is_due() {
                output.write().await?;
            }
        }
        let is_over = step.add(entry.key, entry.record.value);
        key.clear();
        key.extend_from_slice(entry.key);
        cursors.advance(&key, unpack).await?;
        if is_over {
            let moved = cursors.read_bytes() + outputs.written_bytes();
            rest(shard, moved - std::mem::replace(&mut moved_before, moved)).await;
        }
    }
    Ok(())
}

impl Outputs {
    fn written_bytes(&self) -> u64 {
        let all = self.windows.iter().map(|(_, output)| output).chain(&self.rest);
        all.map(TableBuilder::written_bytes).sum()
    }

    /// Which one takes the newest record of a key; `None` when none does, or does in this pass.
    fn of(
        &mut self,
        picked: &Pick,
        inputs: &Inputs,
        key: &[u8],
        record: &Record<'_>,
        forgets: bool,
    ) -> Option<&mut TableBuilder> {
        let time = time_of(key);
        let is_alive = record.value.is_some() && !inputs.log_time.has_expired(record.expiry_us);
        let place = picked.windows.iter().position(|window| holds(window, time));
        if let Some(place) = place {
            let window = picked.windows[place];
            let is_lost = !is_alive || (forgets && window.generation > 1);
            let here = self.windows.iter_mut().find(|(here, _)| *here == window)?;
            return (!is_lost).then_some(&mut here.1);
        }
        let hides = || inputs.kept.iter().any(|table| table.may_hold(time, key));
        self.rest.as_mut().filter(|_| is_alive || hides())
    }
}

/// Does a time fall in a window?
fn holds(window: &Window, time: u64) -> bool {
    let late_us = if ioengine::canary("seal_what_is_newer") { super::window::DAY_US } else { 0 };
    window.holds(time) || (late_us > 0 && (window.to..window.to + late_us).contains(&time))
}
