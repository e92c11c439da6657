//! Life of a seal: all runs of a tablet, and the sealed tables of the windows that are sealed again, become one sealed table
//! per window and one run of the rest: what is newer, and what lies above windows that take no part.
//!
//! A sealed table has exactly the newest version of each key of its window that had not expired at the log time with which
//! the pass began, and no tombstones: nothing lies beneath it. Its bytes follow from that, the window and the cluster alone,
//! however the records came: also its dictionary, which it makes of its own first blocks (decision 0027). The rest keeps a tombstone only where a window that takes no part may have the key.
//!
//! In a group the log says which windows, as of which entry (`agree`): then a record that was written later stays in the rest,
//! above its window, and the table has the one before it.
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
use layout::table::TableOptions;
use layout::table_seal::{Compressor, Decompressor, TableIdentity};
use layout::tablet_window::TabletWindow;
use layout::units::{LogIndex, LogTime, TableId, TabletIndex, Version};
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
            is_sunk: table.is_sunk(),
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

/// A window to be written.
pub(super) struct Target {
    pub(super) window: Window,
    /// What was written behind this entry is not for it.
    pub(super) upto: LogIndex,
    /// What has expired then is not, either.
    pub(super) log_time: LogTime,
    pub(super) options: TableOptions<'static>,
}

/// What goes into a pass, and what stays beside it.
pub(super) struct Pass {
    /// In order of time.
    pub(super) targets: Vec<Target>,
    /// All runs of the tablet, newest first.
    pub(super) runs: Vec<Rc<Table>>,
    /// Sealed windows that take part.
    pub(super) taken: Vec<Rc<Table>>,
    /// Those that do not.
    pub(super) kept: Vec<Rc<Table>>,
    pub(super) log_time: LogTime,
    /// Windows of which this replica has not yet the table: what was written behind their entries stays, dead or not. Failing
    /// history otherwise: a delete is dropped for want of anything beneath, and what it hides comes with another's table.
    pub(super) awaited: Vec<TabletWindow>,
}

/// What a pass has written.
pub(super) struct Output {
    /// Of each target; `None` when there are no records.
    pub(super) windows: Vec<Option<Made>>,
    pub(super) rest: Option<Made>,
}

/// Where the records go.
struct Outputs {
    windows: Vec<(Window, TableBuilder)>,
    /// The rest goes here, in one of the passes.
    rest: Option<TableBuilder>,
}

/// Seal what the policy picked.
pub(super) async fn seal(shard: &Rc<Shard>, tablet: TabletIndex, picked: &Pick) -> Result<(), MergeError> {
    let pass = {
        let state = shard.state.borrow();
        let windows = state.tables.windows(tablet).iter().cloned().enumerate();
        let (taken, kept): (Vec<_>, Vec<_>) = windows.partition(|(place, _)| picked.taken.contains(place));
        let tables = |list: Vec<(usize, Rc<Table>)>| list.into_iter().map(|(_, table)| table).collect();
        let log_time = state.tablet(tablet).log_time;
        let options = Keeper::sealed_options(&shard.limits);
        let target =
            |window: &Window| Target { window: *window, upto: LogIndex(u64::MAX), log_time, options };
        Pass {
            targets: picked.windows.iter().map(target).collect(),
            runs: state.tables.runs(tablet).to_vec(),
            taken: tables(taken),
            kept: tables(kept),
            log_time,
            awaited: Vec::new(),
        }
    };
    let output = write(shard, tablet, &pass).await?;
    put_in_place(shard, tablet, pass, output).await
}

/// Make what a pass has written durable, and show it in the place of what went into it.
pub(super) async fn put_in_place(
    shard: &Shard,
    tablet: TabletIndex,
    pass: Pass,
    output: Output,
) -> Result<(), MergeError> {
    let keeper = &shard.keeper;
    let Output { windows, rest } = output;
    let made: Vec<Made> = windows.into_iter().flatten().collect();
    keeper.zone.disk().flush().await.map_err(BuildError::from)?;
    let gone = || pass.runs.iter().chain(&pass.taken);
    let mut edits: Vec<Edit<'_>> = gone().map(|table| Edit::RemoveTable(table.place.id)).collect();
    edits.extend(made.iter().chain(&rest).map(Made::edit));
    crate::log::until_told(shard, tablet).await;
    keeper.commit(&edits, Purpose::Merge).await?;
    drop(edits);
    mark(&pass, &made);
    count(shard, &pass, &made, rest.as_ref());
    made.iter().chain(&rest).for_each(|made| made.table.set_named(true));
    let windows = made.into_iter().map(|made| made.table).collect();
    let old = (&pass.runs[..], &pass.taken[..]);
    shard.state.borrow_mut().tables.seal(tablet, old, (rest.map(|made| made.table), windows));
    gone().for_each(|table| table.set_named(false));
    Ok(())
}

/// Was something of this span sealed before?
fn is_again(pass: &Pass, window: &Window) -> bool {
    pass.taken
        .iter()
        .filter_map(|table| table.window())
        .any(|old| window.from < old.to && old.from < window.to)
}

/// Count what was written.
fn count(shard: &Shard, pass: &Pass, windows: &[Made], rest: Option<&Made>) {
    let counters = &shard.counters;
    for Made { facts, table } in windows {
        counters.seal_written_bytes.add(facts.bytes);
        let again = table.window().is_some_and(|window| is_again(pass, &window));
        counters.seal_again_written_bytes.add(if again { facts.bytes } else { 0 });
    }
    counters.seal_rest_written_bytes.add(rest.map_or(0, |made| made.facts.bytes));
}

/// Say what has happened.
fn mark(pass: &Pass, made: &[Made]) {
    let before = |target: &Target| {
        let window = target.window;
        let old = pass.taken.iter().filter_map(|table| table.window());
        old.into_iter().any(|old| (old.from, old.to) == (window.from, window.to))
    };
    if pass.targets.iter().any(before) {
        ioengine::sometimes!("a window is sealed again");
    } else if !pass.taken.is_empty() {
        ioengine::sometimes!("windows are merged");
    }
    if made.iter().filter_map(|made| made.table.window()).any(|window| !is_again(pass, &window)) {
        ioengine::sometimes!("a window is sealed");
    }
    if made.iter().any(|made| made.table.has_dictionary()) {
        ioengine::sometimes!("a window is sealed with a dictionary");
    }
}

/// Write the sealed tables, and the run of the rest: those that have records.
pub(super) async fn write(shard: &Rc<Shard>, tablet: TabletIndex, pass: &Pass) -> Result<Output, MergeError> {
    let keeper = &shard.keeper;
    let all = || pass.runs.iter().chain(&pass.taken);
    // More is had when it is needed; nobody knows yet which table needs most.
    let outputs_count = pass.targets.len() as u64 + 1;
    let expected_bytes = all().map(|table| table.place.bytes).sum::<u64>() / outputs_count;
    let sink = || Sink::new(Rc::clone(&keeper.zone), Purpose::Merge, expected_bytes);
    let windows = pass.targets.iter().map(|target| target.window);
    let ends = pass.kept.iter().filter_map(|table| table.window()).chain(windows);
    let sealed_to = ends.map(|window| window.to).max().unwrap_or(0);
    let mut unpack = Decompressor::new();
    let mut made = Vec::new();
    let mut rest = None;
    // Also without a window there is a rest.
    let mut groups: Vec<&[Target]> = pass.targets.chunks(OPEN_COUNT_MAX).collect();
    let last = groups.pop().unwrap_or_default();
    for (is_last, group) in groups.into_iter().map(|group| (false, group)).chain([(true, last)]) {
        let builder = |target: &Target| {
            let identity = keeper.owner.sealed(tablet, target.window);
            let (options, compressor) = (target.options, Compressor::new());
            (target.window, TableBuilder::new(identity, options, compressor, sink(), sealed_to))
        };
        let mut outputs = Outputs { windows: group.iter().map(builder).collect(), rest: None };
        let rest_id = keeper.next_table();
        let rest_identity = keeper.owner.run(tablet, rest_id);
        if is_last {
            let options = keeper.options(&shard.limits);
            let builder = TableBuilder::new(rest_identity, options, Compressor::new(), sink(), sealed_to);
            outputs.rest = Some(builder);
        }
        copy(shard, pass, &mut outputs, &mut unpack).await?;
        for (window, output) in outputs.windows {
            let identity = keeper.owner.sealed(tablet, window);
            made.push(finish(output, keeper.next_table(), tablet, 0, identity, &mut unpack).await?);
        }
        if let Some(output) = outputs.rest {
            let level = pass.runs.iter().map(|table| table.place.level).max().unwrap_or(0);
            rest = Some((output, rest_id, level, rest_identity));
        }
    }
    let (mut output, id, level, identity) = rest.expect("there is a last group of windows");
    // A window that nothing was found for is none: the rest has no records in it either.
    let ends = pass.kept.iter().chain(made.iter().flatten().map(|made: &Made| &made.table));
    output.set_sealed_to(ends.filter_map(|table| table.window()).map(|window| window.to).max().unwrap_or(0));
    let rest = finish(output, id, tablet, level, identity, &mut unpack).await?;
    Ok(Output { windows: made, rest })
}

/// End a table that has records.
async fn finish(
    output: TableBuilder,
    id: TableId,
    tablet: TabletIndex,
    level: u8,
    identity: TableIdentity,
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
    pass: &Pass,
    outputs: &mut Outputs,
    unpack: &mut Decompressor,
) -> Result<(), MergeError> {
    // Of the windows only those that go into these: what they hold goes nowhere else, unless they reach beyond the targets.
    let is_asked = |table: &&Rc<Table>| {
        outputs.windows.iter().any(|(window, _)| table.may_hold_times(window.from, window.to - 1))
            || (outputs.rest.is_some() && !pass.covers(table))
    };
    let taken: Vec<_> = pass.taken.iter().filter(is_asked).collect();
    let tables = || pass.runs.iter().chain(taken.iter().copied());
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
        let (later, record) = pass.split(entry.key, &entry.record, &cursors)?;
        if let Some(later) = later
            && let Some(rest) = &mut outputs.rest
        {
            put(rest, entry.key, &later).await?;
        }
        if let Some(record) = record
            && let Some(output) = outputs.of(pass, entry.key, &record, forgets)
        {
            put(output, entry.key, &record).await?;
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

async fn put(output: &mut TableBuilder, key: &[u8], record: &Record<'_>) -> Result<(), BuildError> {
    output.push(key, record);
    if output.is_due() {
        output.write().await?;
    }
    Ok(())
}

impl Pass {
    /// Is all of a sealed table's window in the windows to be written?
    fn covers(&self, table: &Table) -> bool {
        let Some(own) = table.window() else { return false };
        let shared =
            |target: &Target| target.window.to.min(own.to).saturating_sub(target.window.from.max(own.from));
        self.targets.iter().map(shared).sum::<u64>() == own.to - own.from
    }

    /// The target that a time falls in.
    fn target(&self, time: u64) -> Option<&Target> {
        self.targets.iter().find(|target| holds(&target.window, time))
    }

    /// Of a key whose newest record this is: what was written behind the entry of its window, dead or not, and what goes on.
    fn split<'a>(
        &self,
        key: &[u8],
        newest: &Record<'a>,
        cursors: &'a Cursors,
    ) -> Result<(Option<Record<'a>>, Option<Record<'a>>), MergeError> {
        let target = self.target(time_of(key));
        match target.filter(|target| newest.version.log_index(0) > target.upto) {
            None => Ok((None, Some(*newest))),
            Some(_) if ioengine::canary("seal_takes_newer") => Ok((None, Some(*newest))),
            Some(target) => {
                ioengine::sometimes!("a record is written behind the entry of its seal");
                let older = cursors.newest_upto(key, target.upto)?;
                let is_dead = || newest.value.is_none() || self.log_time.has_expired(newest.expiry_us);
                let is_forgotten = ioengine::canary("seal_forgets_what_is_above")
                    || (ioengine::canary("drop_what_is_above_a_seal") && is_dead());
                Ok(((!is_forgotten).then_some(*newest), older.map(|entry| entry.record)))
            }
        }
    }
}

impl Outputs {
    fn written_bytes(&self) -> u64 {
        let all = self.windows.iter().map(|(_, output)| output).chain(&self.rest);
        all.map(TableBuilder::written_bytes).sum()
    }

    /// Which one takes the record of a key; `None` when none does, or does in this pass.
    fn of(
        &mut self,
        pass: &Pass,
        key: &[u8],
        record: &Record<'_>,
        forgets: bool,
    ) -> Option<&mut TableBuilder> {
        let time = time_of(key);
        let is_alive = |log_time: LogTime| record.value.is_some() && !log_time.has_expired(record.expiry_us);
        if let Some(target) = pass.target(time) {
            let is_lost = !is_alive(target.log_time) || (forgets && target.window.generation > 1);
            let here = self.windows.iter_mut().find(|(here, _)| *here == target.window)?;
            return (!is_lost).then_some(&mut here.1);
        }
        let hides = || {
            pass.kept.iter().any(|table| table.may_hold(time, key))
                || awaits(&pass.awaited, time, record.version)
        };
        self.rest.as_mut().filter(|_| is_alive(pass.log_time) || hides())
    }
}

/// Was this written behind the entry of a window whose table may yet come beneath it?
pub(super) fn awaits(awaited: &[TabletWindow], time: u64, version: Version) -> bool {
    let is_above = |window: &TabletWindow| window.holds(time) && version.log_index(0) > window.index;
    awaited.iter().any(is_above)
}

/// Does a time fall in a window?
fn holds(window: &Window, time: u64) -> bool {
    let late_us = if ioengine::canary("seal_what_is_newer") { super::window::DAY_US } else { 0 };
    window.holds(time) || (late_us > 0 && (window.to..window.to + late_us).contains(&time))
}
