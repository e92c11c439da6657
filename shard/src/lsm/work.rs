//! The two tasks that keep tables few and dense: one merges runs, one seals windows. Which tablet is next, what neither may
//! touch while the other is at it, and when both ask again.
//!
//! ```text
//! runs of a tablet, newest first:   | flushed since | .. inputs of a seal, all to the oldest | windows
//!                                     may be merged    nobody else's until the seal ends
//! ```
//!
//! Must never begin a seal in a tablet in which a merge is at work: a seal takes all runs that are there. Invariant: a job
//! that found no space, or an input that it cannot read, holds up no other tablet.

use super::agree::awaited;
use super::build::BuildError;
use super::expire::{drop_expired, expired_count, pick_expired};
use super::merge::{MergeError, merge};
use super::pick::{Pick, Run, RunLimits, pick};
use super::seal::{pick_seal, seal};
use super::table::Table;
use super::window;
use super::zone::ReadError;
use crate::apply::State;
use crate::core::{Phase, Shard};
use ioengine::sync::{Either, race};
use layout::units::{LogTime, TabletIndex};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How long after ticks were asked for the policies are asked again.
pub(super) const TICK_WAIT: Duration = Duration::from_secs(1);

/// What the tasks are at.
pub(crate) struct Work {
    /// Tablets with an input that cannot be read: their tables stay as they are until the next start.
    unreadable: Cell<u64>,
    merging: Cell<Option<TabletIndex>>,
    /// The tablet, and how many runs the seal takes: the oldest.
    sealing: Cell<Option<(TabletIndex, usize)>>,
    /// Of tablets whose tables are built and wait to be put in place: how many runs went into them, the oldest.
    parked: RefCell<BTreeMap<TabletIndex, usize>>,
    /// Tablets whose merge found no space since anything changed, one bit each.
    starved: Cell<u64>,
    /// The same of seals.
    seals_starved: Cell<u64>,
    /// Tablets whose tables are about to be replaced as a whole, one bit each.
    held: Cell<u64>,
    /// The tablet whose windows are worked on.
    dropping: Cell<Option<TabletIndex>>,
    /// Tablets whose log time has to go on before anything can be done.
    ticks_due: Cell<u64>,
}

fn bit(tablet: TabletIndex) -> u64 {
    1 << tablet.index()
}

impl Work {
    pub(crate) fn new() -> Work {
        Work {
            unreadable: Cell::new(0),
            merging: Cell::new(None),
            sealing: Cell::new(None),
            parked: RefCell::default(),
            starved: Cell::new(0),
            seals_starved: Cell::new(0),
            ticks_due: Cell::new(0),
            held: Cell::new(0),
            dropping: Cell::new(None),
        }
    }

    /// Tablets that want a tick so that something can be freed, one bit each. Asked once.
    pub(crate) fn take_ticks_due(&self) -> u64 {
        self.ticks_due.replace(0)
    }

    /// Nobody touches the tables of this tablet until it is released. False: somebody is at work on them, ask again.
    pub(crate) fn hold(&self, tablet: TabletIndex) -> bool {
        self.held.set(self.held.get() | bit(tablet));
        let is_at = |at: Option<TabletIndex>| at == Some(tablet);
        !is_at(self.merging.get()) && !is_at(self.dropping.get())
    }

    /// The tables may be worked on again.
    pub(crate) fn release(&self, tablet: TabletIndex) {
        self.held.set(self.held.get() & !bit(tablet));
        self.unreadable.set(self.unreadable.get() & !bit(tablet));
    }

    /// Runs of a tablet that a pass is going through now.
    fn active_count(&self, tablet: TabletIndex) -> Option<usize> {
        self.sealing.get().filter(|(own, _)| *own == tablet).map(|(_, count)| count)
    }

    /// A pass goes through so many runs of a tablet, the oldest; `None` when it is over.
    pub(super) fn set_sealing(&self, at: Option<(TabletIndex, usize)>) {
        self.sealing.set(at);
    }

    /// Nobody else may drop windows of this tablet.
    pub(super) fn set_dropping(&self, tablet: Option<TabletIndex>) {
        self.dropping.set(tablet);
    }

    /// So many runs, the oldest, stay as they are; `None` when that is over.
    pub(super) fn set_parked(&self, tablet: TabletIndex, count: Option<usize>) {
        let mut parked = self.parked.borrow_mut();
        match count {
            Some(count) => parked.insert(tablet, count),
            None => parked.remove(&tablet),
        };
    }

    /// A merge is at work in this tablet.
    pub(super) fn is_merging(&self, tablet: TabletIndex) -> bool {
        self.merging.get() == Some(tablet)
    }

    /// Tablets whose seals found no space.
    pub(super) fn seals_starved(&self) -> &Cell<u64> {
        &self.seals_starved
    }

    /// Runs of a tablet that a seal is at, or has gone through.
    fn sealing_count(&self, tablet: TabletIndex) -> usize {
        let parked = || self.parked.borrow().get(&tablet).copied();
        self.active_count(tablet).or_else(parked).unwrap_or(0)
    }
}

/// What is to be done to a tablet's windows.
pub(super) enum Job {
    Drop(Vec<Rc<Table>>),
    Seal(window::Pick),
}

/// Merge whatever the policy picks until the core ends.
pub(crate) async fn merges(shard: Rc<Shard>) {
    let work = &shard.keeper.work;
    loop {
        let due = shard.keeper.merge_due.notified();
        shard.keeper.look_at_room();
        let Some((tablet, picked)) = next_merge(&shard) else {
            race(due, shard.io.sleep(shard.limits.maintenance_every)).await;
            work.starved.set(0);
            continue;
        };
        work.merging.set(Some(tablet));
        let done = merge(&shard, tablet, &picked).await;
        work.merging.set(None);
        if done.is_ok() {
            shard.counters.merges.add(1);
        }
        if !settle(&shard, tablet, done, &work.starved) {
            return;
        }
    }
}

/// Seal and drop windows until the core ends. What an idle tablet has to say about time is seen to as well.
pub(crate) async fn seals(shard: Rc<Shard>) {
    let work = &shard.keeper.work;
    loop {
        let due = shard.keeper.merge_due.notified();
        let Some((tablet, job)) = next_seal(&shard) else {
            let waited = race(due, shard.io.sleep(shard.limits.maintenance_every)).await;
            work.seals_starved.set(0);
            if waited == Either::Second(()) && ask_for_ticks(&shard) {
                shard.io.sleep(TICK_WAIT).await;
                shard.keeper.merge_due.notify();
            }
            continue;
        };
        let count = shard.state.borrow().tables.runs(tablet).len();
        work.dropping.set(Some(tablet));
        let done = match &job {
            Job::Drop(over) => drop_expired(&shard, tablet, over).await.map_err(MergeError::from),
            Job::Seal(picked) => {
                work.sealing.set(Some((tablet, count)));
                seal(&shard, tablet, picked).await
            }
        };
        work.sealing.set(None);
        work.dropping.set(None);
        if done.is_ok() && matches!(job, Job::Seal(_)) {
            shard.counters.seals.add(1);
        }
        if !settle(&shard, tablet, done, &work.seals_starved) {
            return;
        }
    }
}

/// What comes of a job. False when the core writes no more.
pub(super) fn settle(
    shard: &Shard,
    tablet: TabletIndex,
    done: Result<(), MergeError>,
    starved: &Cell<u64>,
) -> bool {
    match done {
        Ok(()) => {
            // There may be room now for what found none, and fewer runs for who waits for that.
            shard.keeper.work.starved.set(0);
            shard.keeper.work.seals_starved.set(0);
        }
        Err(MergeError::Build(BuildError::Space)) => {
            ioengine::sometimes!("a merge finds no space");
            starved.set(starved.get() | bit(tablet));
            // The extents that it had are free again: nobody else is told, or two that lack space wake each other for ever.
            return true;
        }
        Err(MergeError::Build(BuildError::Disk(error))) => {
            shard.keeper.end(shard, &error);
            return false;
        }
        Err(MergeError::Read(error @ ReadError::Cold { .. })) => {
            // The cold nodes come back: nothing is wrong with the table.
            ioengine::sometimes!("a pass waits for cold nodes");
            tracing::warn!(%error, tablet = tablet.get(), "a table cannot be merged now");
            return true;
        }
        Err(MergeError::Read(error) | MergeError::Build(BuildError::Read(error))) => {
            tracing::error!(%error, tablet = tablet.get(), "a table cannot be merged");
            shard.counters.disk_read_errors.add(1);
            let unreadable = &shard.keeper.work.unreadable;
            unreadable.set(unreadable.get() | bit(tablet));
        }
    }
    shard.keeper.merge_due.notify();
    true
}

/// The tables of a tablet, and its log time; `None` when there are none here, or they stay as they are.
pub(super) type Tables<'a> = (LogTime, &'a [Rc<Table>], &'a [Rc<Table>]);

pub(super) fn tables_of<'a>(
    shard: &Shard,
    state: &'a State,
    tablet: TabletIndex,
    starved: u64,
) -> Option<Tables<'a>> {
    let log_time = state.tablets[tablet.index()].as_ref()?.log_time;
    let (runs, windows) = (state.tables.runs(tablet), state.tables.windows(tablet));
    let is_whole = runs.iter().chain(windows).all(|table| !table.is_broken());
    let left = shard.keeper.work.unreadable.get() | shard.keeper.work.held.get() | starved;
    (is_whole && left & bit(tablet) == 0).then_some((log_time, runs, windows))
}

/// The merge of a tablet, were its log time this.
fn merge_of(shard: &Shard, state: &State, tablet: TabletIndex, tables: Tables<'_>) -> Option<Pick> {
    let (log_time, runs, windows) = tables;
    let zone = &shard.keeper.zone;
    let sealing_count = shard.keeper.work.sealing_count(tablet);
    let limits = RunLimits {
        fan_in: shard.limits.merge_fan_in,
        count_max: shard.limits.runs_per_tablet_max,
        sealing_count,
        keeps_dead: !awaited(shard, state, tablet).is_empty(),
        squeeze_bytes: shard
            .keeper
            .is_short()
            .then(|| zone.extents().borrow().room().free * zone.extent_bytes()),
    };
    let free = &runs[..runs.len().saturating_sub(sealing_count)];
    let free: Vec<Run> = free.iter().map(|table| run_of(table, windows, log_time)).collect();
    pick(&free, &limits)
}

/// The merge of the tablet with the most runs of those that have something to merge.
fn next_merge(shard: &Shard) -> Option<(TabletIndex, Pick)> {
    let state = shard.state.borrow();
    let starved = shard.keeper.work.starved.get();
    let merges = TabletIndex::all().filter_map(|tablet| {
        let tables = tables_of(shard, &state, tablet, starved)?;
        Some((tables.1.len(), tablet, merge_of(shard, &state, tablet, tables)?))
    });
    merges.max_by_key(|(count, ..)| *count).map(|(_, tablet, picked)| (tablet, picked))
}

/// What is to be done to a tablet's windows, were its log time this.
pub(super) fn seal_of(shard: &Shard, (log_time, runs, windows): Tables<'_>) -> Option<Job> {
    let over = pick_expired(windows, log_time).map(Job::Drop);
    let picked = || {
        let picked = pick_seal(runs, windows, log_time, &shard.limits, shard.keeper.is_short())?;
        let more = (picked.windows.len() + 1).saturating_sub(runs.len() + picked.taken.len());
        let own_count = TabletIndex::all().filter(|tablet| shard.owns(*tablet)).count();
        shard.keeper.has_room_for_tables(more, own_count).then_some(Job::Seal(picked))
    };
    over.or_else(picked)
}

fn next_seal(shard: &Shard) -> Option<(TabletIndex, Job)> {
    let state = shard.state.borrow();
    let work = &shard.keeper.work;
    TabletIndex::all().filter(|tablet| work.merging.get() != Some(*tablet)).find_map(|tablet| {
        let tables = tables_of(shard, &state, tablet, work.seals_starved.get())?;
        Some((tablet, seal_of(shard, tables)?))
    })
}

/// Log time of an idle tablet stands still, and with it what expires and what is old enough: ask for ticks where that would
/// give something to do, and nowhere else. So that an idle journal does not grow for nothing.
pub(super) fn ask_for_ticks(shard: &Shard) -> bool {
    if shard.phase.get() == Phase::Draining {
        return false;
    }
    let state = shard.state.borrow();
    let work = &shard.keeper.work;
    let starved = work.starved.get() & work.seals_starved.get();
    let wants = |tablet: &TabletIndex| {
        let Some(own) = &state.tablets[tablet.index()] else { return false };
        let Some((log_time, runs, windows)) = tables_of(shard, &state, *tablet, starved) else {
            return false;
        };
        let clock = shard.clock(own);
        let gives =
            |tables| seal_of(shard, tables).is_some() || merge_of(shard, &state, *tablet, tables).is_some();
        own.damage.is_none()
            && clock > log_time
            && !gives((log_time, runs, windows))
            && gives((clock, runs, windows))
    };
    let mut due = TabletIndex::all().filter(wants).fold(0, |due, tablet| due | bit(tablet));
    if due != 0 {
        ioengine::sometimes!("log time of an idle tablet goes on");
    }
    if shard.keeper.is_short()
        && state.memtables.can_freeze()
        && state.memtables.active.usage().record_count > 0
    {
        // Deletes free nothing while they are in memory, and too few of them come to fill it.
        shard.keeper.flush_wanted.set(true);
        let is_whole = |tablet: &TabletIndex| {
            state.tablets[tablet.index()].as_ref().is_some_and(|own| own.damage.is_none())
        };
        due |= TabletIndex::all().find(is_whole).map_or(0, bit);
    }
    if due == 0 {
        return false;
    }
    work.ticks_due.set(due);
    shard.staged.notify();
    true
}

/// A tablet that merges can help has as many runs as it may: a flush waits, writers after it.
pub(crate) fn is_crowded(shard: &Shard) -> bool {
    let state = shard.state.borrow();
    let work = &shard.keeper.work;
    TabletIndex::all().any(|tablet| {
        if state.tables.runs(tablet).len() < shard.limits.runs_per_tablet_max {
            return false;
        }
        let is_at_it = work.merging.get() == Some(tablet) || work.active_count(tablet).is_some();
        let may_be = || {
            let tables = tables_of(shard, &state, tablet, work.starved.get())?;
            merge_of(shard, &state, tablet, tables)
        };
        is_at_it || may_be().is_some()
    })
}

pub(super) fn run_of(table: &Table, windows: &[Rc<Table>], log_time: LogTime) -> Run {
    let footer = &table.parts().footer;
    Run {
        level: table.place.level,
        bytes: table.place.bytes,
        dead_count: footer.tombstone_count + expired_count(footer, log_time),
        record_count: footer.record_count,
        is_overlay: windows.iter().any(|window| window.may_hold_times(footer.time_min, footer.time_max)),
    }
}
