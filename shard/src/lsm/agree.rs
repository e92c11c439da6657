//! Seals of a group: the log says which windows are sealed, as of which entry, and what their tables are; each replica builds them, tells
//! their checksums, and puts in place what the log has agreed on.
//!
//! ```text
//! seal begins, entry I        sealed, entry S
//!    |  flush, build, tell       |  the same bytes: in place; others: copied from a peer, then in place
//! ---I-----------------------..--S-----------------------------------------------------------------> log
//! ```
//!
//! Must never put a table in place that the log does not name, or drop what went into it before. Invariant: a window's table has
//! what was written up to I, and every record written behind I stays above it, deleted ones among them: so the table of any
//! replica is right beneath the runs of any other (decision 0044).

use super::build::BuildError;
use super::keeper::Keeper;
use super::merge::MergeError;
use super::publish::Made;
use super::room::Purpose;
use super::seal::{Output, Pass, Target, put_in_place, write};
use super::table::Table;
use super::table_copy::take_window;
use super::work::{Job, TICK_WAIT, ask_for_ticks, seal_of, settle, tables_of};
use super::{expire, window};
use crate::apply::State;
use crate::core::Shard;
use crate::log::Logs;
use crate::seals::{Seals, Sinking};
use crate::sink::Moving;
use ioengine::Instant;
use ioengine::sync::{Either, race};
use layout::log_entry::Operation;
use layout::manifest::Edit;
use layout::seal_operation::{AgreedTable, Seal, SealOptions, Sealed, spans_bytes, tables_bytes};
use layout::table_seal::Compressor;
use layout::tablet_window::TabletWindow;
use layout::units::{LogIndex, LogTime, TabletIndex};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How often it is looked what has become of an open seal.
const POLL: Duration = Duration::from_millis(100);
/// Each further replica in a tablet's order proposes so much later.
const STAGE: Duration = Duration::from_millis(500);
/// Stages that a replica without room waits before it gives a seal up.
const SPACE_STAGES: u32 = 40;
/// How long what was proposed may take before it is proposed again.
const PROPOSE_AGAIN: Duration = Duration::from_secs(2);
/// How often what was built is told again.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// How long a majority may differ, with nothing new heard, before a seal is given up.
const GIVE_UP: Duration = Duration::from_secs(4);
/// How long to wait before a table is asked for again that no peer gave.
const COPY_AGAIN: Duration = Duration::from_secs(1);
/// Windows of one seal.
const WINDOWS_MAX: usize = 256;
/// Seals of a core that may be open before another one is proposed: what is built waits on the device.
const OPEN_MAX: usize = 4;

/// Tables that are built and not in place.
struct Parked {
    /// Of the open seal; 0 for windows that are agreed on already.
    generation: u32,
    pass: Pass,
    output: Output,
    told_at: Option<Instant>,
    copy_at: Option<Instant>,
}

/// Seals that the log has not ended yet, and what this replica wants of it.
#[derive(Default)]
pub(crate) struct Agreeing {
    parked: RefCell<BTreeMap<TabletIndex, Parked>>,
    /// Since when a replica wants something proposed: a seal, the end of one of this generation.
    wants: RefCell<BTreeMap<TabletIndex, (Want, Instant)>>,
    /// Sunk tables that are made here, by the last sink of each tablet.
    sunk: RefCell<BTreeMap<TabletIndex, Made>>,
    /// Not before then a table is asked for that takes the place of a sealed one.
    swap_at: RefCell<BTreeMap<TabletIndex, Instant>>,
    /// Sunk windows that are to be moved to other cold files, in order of time.
    moving: RefCell<BTreeMap<TabletIndex, Vec<Moving>>>,
    /// What was proposed last, and when.
    proposed: RefCell<BTreeMap<TabletIndex, (Want, Instant)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Begin(u32),
    End(u32),
    GiveUp(u32),
}

/// What a look at a tablet came to.
#[derive(PartialEq, Eq)]
enum Looked {
    /// Something was done: there may be more.
    Worked,
    /// Something is under way: look again soon.
    Waits,
    Idle,
}

/// A tablet, as it was when it was looked at.
struct Look {
    seals: Rc<Seals>,
    log_time: LogTime,
    runs: Vec<Rc<Table>>,
    windows: Vec<Rc<Table>>,
}

/// Windows whose tables may yet come beneath the runs of this replica.
pub(super) fn awaited(shard: &Shard, state: &State, tablet: TabletIndex) -> Vec<TabletWindow> {
    if shard.logs.is_none() || ioengine::canary("drop_what_is_above_a_seal") {
        return Vec::new();
    }
    let Some(own) = &state.tablets[tablet.index()] else { return Vec::new() };
    let mut all = missing(&own.seals, state.tables.windows(tablet), own.log_time);
    all.extend(&own.seals.open);
    all
}

/// Is it a table that the log names: a sealed one, or a sunk one?
pub(super) fn is_named(seals: &Seals, table: &Table) -> bool {
    let window = table.window().map(|own| (own.from, own.to, own.generation));
    window.is_some_and(|window| seals.names(window, table.place.checksum))
}

/// Windows that are sealed, and whose tables are not here.
fn missing(seals: &Seals, windows: &[Rc<Table>], log_time: LogTime) -> Vec<TabletWindow> {
    let is_missing = |window: &&TabletWindow| {
        let at = windows.binary_search_by_key(&Some(window.from), |table| table.window().map(|own| own.from));
        let is_it = |table: &Table| table.window().is_some_and(|own| own.generation == window.generation);
        let is_here = at.is_ok_and(|at| is_it(&windows[at]) && is_named(seals, &windows[at]));
        !is_here && !log_time.has_expired(window.over_at)
    };
    seals.sealed.iter().filter(is_missing).copied().collect()
}

/// What a table comes to, as the log names it.
fn agreed_of(made: Option<&Made>) -> AgreedTable {
    made.map_or(AgreedTable { checksum: 0, over_at: 0 }, |made| AgreedTable {
        checksum: made.table.place.checksum,
        over_at: expire::over_at(&made.table),
    })
}

/// Tell who compares replicas what is in place here.
pub(super) fn tell_in_place(table: &Table, tablet: TabletIndex) {
    if let Some(window) = table.window().filter(|_| !table.is_sunk()) {
        tell_table(tablet, window, table.place.checksum);
    }
}

/// The same of a table with this checksum.
pub(super) fn tell_table(tablet: TabletIndex, window: window::Window, checksum: u128) {
    if ioengine::collects_facts() {
        let mut name = vec![tablet.get()];
        name.extend_from_slice(&window.from.to_le_bytes());
        name.extend_from_slice(&window.to.to_le_bytes());
        name.extend_from_slice(&window.generation.to_le_bytes());
        ioengine::fact("sealed", layout::checksum::short(&name), (checksum ^ (checksum >> 64)) as u64);
    }
}

impl Agreeing {
    /// A sealed table with this checksum, in place or built.
    pub(crate) fn table(&self, shard: &Shard, tablet: TabletIndex, checksum: u128) -> Option<Rc<Table>> {
        let is_it = |table: &&Rc<Table>| table.place.checksum == checksum && !table.is_broken();
        let state = shard.state.borrow();
        if let Some(table) = state.tables.windows(tablet).iter().find(is_it) {
            return Some(Rc::clone(table));
        }
        if let Some(made) = self.sunk.borrow().get(&tablet).filter(|made| is_it(&&made.table)) {
            return Some(Rc::clone(&made.table));
        }
        let parked = self.parked.borrow();
        let built = parked.get(&tablet)?.output.windows.iter().flatten().map(|made| &made.table);
        built.into_iter().find(is_it).cloned()
    }

    /// A sunk table is made: the log will name it, or never.
    pub(crate) fn park_sunk(&self, tablet: TabletIndex, made: Made) {
        self.sunk.borrow_mut().insert(tablet, made);
    }

    /// The log has named another one, or none.
    pub(crate) fn drop_sunk(&self, tablet: TabletIndex, checksum: u128) {
        let mut sunk = self.sunk.borrow_mut();
        if sunk.get(&tablet).is_some_and(|made| made.table.place.checksum == checksum) {
            sunk.remove(&tablet);
        }
    }

    /// What was built for a tablet is of no use any more.
    pub(crate) fn forget(&self, shard: &Shard, tablet: TabletIndex) {
        self.parked.borrow_mut().remove(&tablet);
        shard.keeper.work.set_parked(tablet, None);
    }

    /// These sunk windows are to be sealed again, so that they are sunk to another place, and no others.
    pub(crate) fn set_moving(&self, moving: BTreeMap<TabletIndex, Vec<Moving>>) {
        self.moving.replace(moving);
    }

    /// Sunk windows that are to be sealed again, where there is room for them.
    fn to_move(&self, shard: &Shard, tablet: TabletIndex, look: &Look) -> Vec<(u64, u64)> {
        let moving = self.moving.borrow();
        let wanted = moving.get(&tablet).map_or(&[][..], |wanted| wanted);
        let is_sunk = |wanted: &&Moving| {
            let of = |window: &&TabletWindow| (window.from, window.to, window.generation) == **wanted;
            let window = look.seals.sealed.iter().find(of);
            window.is_some_and(|window| look.seals.sunk_of(window).is_some())
        };
        // What is on its way to cold disks comes first.
        if wanted.is_empty() || look.seals.sink_open().is_some() {
            return Vec::new();
        }
        let spans: Vec<_> = wanted.iter().filter(is_sunk).map(|&(from, to, _)| (from, to)).collect();
        let own_count = TabletIndex::all().filter(|tablet| shard.owns(*tablet)).count();
        let is_room = !shard.keeper.is_short() && shard.keeper.has_room_for_tables(1, own_count);
        if is_room { spans } else { Vec::new() }
    }

    /// This replica would like something proposed. True when its turn has come.
    fn is_due(&self, shard: &Shard, tablet: TabletIndex, rank: u32, want: Want) -> bool {
        let now = shard.io.now();
        let since = {
            let mut wants = self.wants.borrow_mut();
            let entry = wants.entry(tablet).or_insert((want, now));
            if entry.0 != want {
                *entry = (want, now);
            }
            entry.1
        };
        let proposed = self.proposed.borrow();
        let is_proposed = proposed
            .get(&tablet)
            .is_some_and(|(before, at)| *before == want && now.since(*at) < PROPOSE_AGAIN);
        now.since(since) >= STAGE * rank && !is_proposed
    }

    fn propose(&self, shard: &Shard, logs: &Logs, tablet: TabletIndex, want: Want, operation: Operation<'_>) {
        if logs.stage_own(shard, tablet, operation) {
            self.proposed.borrow_mut().insert(tablet, (want, shard.io.now()));
        }
    }
}

/// See to the windows of a group's tablets until the core ends.
pub(crate) async fn run(shard: Rc<Shard>) {
    let Some(logs) = &shard.logs else { return };
    let work = &shard.keeper.work;
    loop {
        let due = shard.keeper.merge_due.notified();
        let (mut has_worked, mut waits) = (false, false);
        for tablet in TabletIndex::all().filter(|tablet| logs.rank(*tablet).is_some()) {
            let looked = look_after(&shard, logs, tablet).await;
            work.set_sealing(None);
            work.set_dropping(None);
            match looked {
                Ok(looked) => {
                    has_worked |= looked == Looked::Worked;
                    waits |= looked != Looked::Idle;
                }
                Err(error) => {
                    if matches!(error, MergeError::Build(BuildError::Space)) {
                        give_up_for_space(&shard, logs, tablet);
                    }
                    if !settle(&shard, tablet, Err(error), work.seals_starved()) {
                        return;
                    }
                }
            }
        }
        if has_worked {
            settle_all(&shard);
        }
        let sleep = if waits { POLL } else { shard.limits.maintenance_every };
        if race(due, shard.io.sleep(sleep)).await == Either::Second(()) && !waits {
            work.seals_starved().set(0);
            if ask_for_ticks(&shard) {
                shard.io.sleep(TICK_WAIT).await;
                shard.keeper.merge_due.notify();
            }
        }
    }
}

/// There may be room for who found none, and something to merge.
fn settle_all(shard: &Shard) {
    shard.keeper.work.seals_starved().set(0);
    shard.keeper.merge_due.notify();
}

/// One look at a tablet, and the one thing that is due.
async fn look_after(shard: &Rc<Shard>, logs: &Logs, tablet: TabletIndex) -> Result<Looked, MergeError> {
    let agreeing = &shard.keeper.agreeing;
    let Some(look) = look_at(shard, tablet) else { return Ok(Looked::Idle) };
    if shard.keeper.work.is_merging(tablet) {
        return Ok(Looked::Waits);
    }
    let open = look.seals.open.first().map(|open| open.generation);
    let parked = agreeing.parked.borrow().get(&tablet).map(|parked| parked.generation);
    if let Some(generation) = parked {
        if generation != 0 && open == Some(generation) {
            tend(shard, logs, tablet);
            return Ok(Looked::Waits);
        }
        return install(shard, tablet, &look).await;
    }
    if let Some(over) = expire::pick_expired(&look.windows, look.log_time) {
        shard.keeper.work.set_dropping(Some(tablet));
        expire::drop_expired(shard, tablet, &over).await?;
        return Ok(Looked::Worked);
    }
    let missing = missing(&look.seals, &look.windows, look.log_time);
    let is_stale = |table: &Rc<Table>| !is_named(&look.seals, table);
    if !missing.is_empty() || look.windows.iter().any(is_stale) {
        ioengine::sometimes!("a replica lacks a sealed table");
        return build(shard, tablet, &look, missing, 0).await;
    }
    if let Some((sinking, table)) = to_swap(&look) {
        return swap(shard, tablet, sinking, table).await;
    }
    if let Some(generation) = open {
        return build(shard, tablet, &look, look.seals.open.clone(), generation).await;
    }
    Ok(want_seal(shard, logs, tablet, &look))
}

fn look_at(shard: &Shard, tablet: TabletIndex) -> Option<Look> {
    let state = shard.state.borrow();
    let starved = shard.keeper.work.seals_starved().get();
    let (log_time, runs, windows) = tables_of(shard, &state, tablet, starved)?;
    let own = state.tablets[tablet.index()].as_ref().filter(|own| !own.awaits_tables)?;
    Some(Look { seals: Rc::clone(&own.seals), log_time, runs: runs.to_vec(), windows: windows.to_vec() })
}

/// Does the policy want a seal, or is something to be moved? Then it is proposed, by the first replica at once.
fn want_seal(shard: &Shard, logs: &Logs, tablet: TabletIndex, look: &Look) -> Looked {
    let Some((rank, _)) = logs.rank(tablet) else { return Looked::Idle };
    let agreeing = &shard.keeper.agreeing;
    let job = seal_of(shard, (look.log_time, &look.runs, &look.windows));
    let windows: Vec<(u64, u64)> = match job {
        Some(Job::Seal(picked)) => picked.windows.iter().map(|window| (window.from, window.to)).collect(),
        Some(Job::Drop(_)) => Vec::new(),
        None => agreeing.to_move(shard, tablet, look),
    };
    if windows.is_empty() || !logs.is_voter(tablet) {
        agreeing.wants.borrow_mut().remove(&tablet);
        return Looked::Idle;
    }
    let Some(generation) = look.seals.begun.checked_add(1) else { return Looked::Idle };
    let want = Want::Begin(generation);
    if !agreeing.is_due(shard, tablet, rank, want) || open_count(shard) >= OPEN_MAX {
        return Looked::Waits;
    }
    let spans = spans_bytes(windows.into_iter().take(WINDOWS_MAX));
    let options = Keeper::sealed_options(&shard.limits);
    let options = SealOptions {
        codec: Compressor::build(),
        block_bytes: options.block_bytes,
        dictionary_bytes: options.dictionary_bytes_max,
        level: options
            .level
            .map_or(0, |level| u8::try_from(level).expect("at most 19, by the check of the limits")),
    };
    let seal = Seal::new(generation, options, &spans)
        .expect("a policy picks windows in order, apart from each other");
    agreeing.propose(shard, logs, tablet, want, Operation::Seal(seal));
    Looked::Waits
}

/// Seals of this core that are open.
fn open_count(shard: &Shard) -> usize {
    shard.state.borrow().tablets.iter().flatten().filter(|own| !own.seals.open.is_empty()).count()
}

/// What was built for the open seal: tell it, and see whether a majority has the same.
fn tend(shard: &Shard, logs: &Logs, tablet: TabletIndex) {
    let Some((rank, _)) = logs.rank(tablet) else { return };
    let (agreeing, now) = (&shard.keeper.agreeing, shard.io.now());
    let generation = {
        let mut parked = agreeing.parked.borrow_mut();
        let Some(parked) = parked.get_mut(&tablet) else { return };
        if parked.told_at.is_none_or(|at| now.since(at) >= TELL_AGAIN) {
            parked.told_at = Some(now);
            let tables: Vec<_> = parked.output.windows.iter().map(|made| agreed_of(made.as_ref())).collect();
            logs.tell_built(shard, tablet, parked.generation, &tables);
        }
        parked.generation
    };
    let votes = logs.seal_votes(tablet, generation);
    let (want, list) = match votes.agreed {
        Some(tables) => (Want::End(generation), tables_bytes(&tables)),
        None if votes.are_many && votes.last.is_some_and(|at| now.since(at) >= GIVE_UP) => {
            (Want::GiveUp(generation), Vec::new())
        }
        None => return,
    };
    if agreeing.is_due(shard, tablet, rank, want) {
        if list.is_empty() {
            ioengine::sometimes!("a seal finds no majority");
        }
        let sealed = Sealed::new(generation, &list).expect("as many as windows of a seal");
        agreeing.propose(shard, logs, tablet, want, Operation::Sealed(sealed));
    }
}

/// There is no room for what the open seal takes. Others may have some; not for ever, since what hides something stays meanwhile.
fn give_up_for_space(shard: &Shard, logs: &Logs, tablet: TabletIndex) {
    let open = {
        let state = shard.state.borrow();
        state.tablets[tablet.index()]
            .as_ref()
            .and_then(|own| own.seals.open.first().map(|open| open.generation))
    };
    let (Some(generation), Some((rank, _))) = (open, logs.rank(tablet)) else { return };
    let (agreeing, want) = (&shard.keeper.agreeing, Want::GiveUp(generation));
    if agreeing.is_due(shard, tablet, SPACE_STAGES + rank, want) {
        ioengine::sometimes!("a seal is given up for want of space");
        let sealed = Sealed::new(generation, &[]).expect("without tables");
        agreeing.propose(shard, logs, tablet, want, Operation::Sealed(sealed));
    }
}

/// Is what was written up to an entry in tables? If not, it will be.
fn is_flushed(shard: &Shard, tablet: TabletIndex, index: LogIndex) -> bool {
    let state = shard.state.borrow();
    let memtables = [Some(&state.memtables.active), state.memtables.frozen()];
    let in_memory: usize = memtables.iter().flatten().map(|memtable| memtable.record_count(tablet)).sum();
    if in_memory == 0 || state.flushed[tablet.index()] >= index {
        return true;
    }
    if state.captured_index(tablet).is_none_or(|captured| captured < index) && state.memtables.can_freeze() {
        shard.keeper.flush_wanted.set(true);
        shard.staged.notify();
    }
    false
}

/// Build the tables of these windows, and the run of the rest.
async fn build(
    shard: &Rc<Shard>,
    tablet: TabletIndex,
    look: &Look,
    windows: Vec<TabletWindow>,
    generation: u32,
) -> Result<Looked, MergeError> {
    let upto = windows.iter().map(|window| window.index).max().unwrap_or(LogIndex(0));
    if !is_flushed(shard, tablet, upto) {
        return Ok(Looked::Waits);
    }
    // Once what has to be flushed is: the tables are those of now.
    let Some(now) = look_at(shard, tablet).filter(|now| now.seals == look.seals) else {
        return Ok(Looked::Worked);
    };
    let is_taken = |table: &Rc<Table>| {
        let is_sealed = is_named(&now.seals, table);
        let meets = |own: window::Window| windows.iter().any(|window| window.meets(own.from, own.to));
        !is_sealed || table.window().is_some_and(meets)
    };
    let (taken, kept) = now.windows.into_iter().partition(is_taken);
    let target = |window: &TabletWindow| Target {
        window: window::Window { from: window.from, to: window.to, generation: window.generation },
        upto: window.index,
        log_time: window.log_time,
        options: Keeper::logged_options(&window.options),
    };
    let awaited = awaited(shard, &shard.state.borrow(), tablet);
    let (targets, log_time) = (windows.iter().map(target).collect(), now.log_time);
    let pass = Pass { targets, runs: now.runs, taken, kept, log_time, awaited };
    let (work, agreeing) = (&shard.keeper.work, &shard.keeper.agreeing);
    let count = pass.runs.len();
    work.set_dropping(Some(tablet));
    work.set_sealing(Some((tablet, count)));
    let output = write(shard, tablet, &pass).await?;
    work.set_parked(tablet, Some(count));
    let parked = Parked { generation, pass, output, told_at: None, copy_at: None };
    agreeing.parked.borrow_mut().insert(tablet, parked);
    Ok(Looked::Worked)
}

/// The log has ended the seal that something was built for: put in place what it names, copied where it is other than what was built.
async fn install(shard: &Rc<Shard>, tablet: TabletIndex, look: &Look) -> Result<Looked, MergeError> {
    let (agreeing, work) = (&shard.keeper.agreeing, &shard.keeper.work);
    let Some(mut parked) = agreeing.parked.borrow_mut().remove(&tablet) else { return Ok(Looked::Idle) };
    let find = |target: &Target| {
        let is_it = |window: &&TabletWindow| {
            let target = target.window;
            (window.from, window.to, window.generation) == (target.from, target.to, target.generation)
        };
        look.seals.sealed.iter().find(is_it)
    };
    let is_ended = parked.generation != 0 && look.seals.agreed == parked.generation;
    if !is_ended && !parked.pass.targets.iter().all(|target| find(target).is_some()) {
        ioengine::sometimes!("tables of a seal are given up");
        agreeing.forget(shard, tablet);
        return Ok(Looked::Worked);
    }
    let now = shard.io.now();
    if parked.copy_at.is_some_and(|at| now < at) {
        agreeing.parked.borrow_mut().insert(tablet, parked);
        return Ok(Looked::Waits);
    }
    work.set_dropping(Some(tablet));
    for place in 0..parked.pass.targets.len() {
        let window = find(&parked.pass.targets[place]);
        let own = parked.output.windows[place].as_ref().map(|made| made.table.place.checksum);
        let wanted = window.and_then(|window| window.checksum);
        let sunk = window.and_then(|window| look.seals.sunk_of(window));
        if own == wanted || (own.is_some() && wanted.is_some() && ioengine::canary("seal_installs_its_own")) {
            continue;
        }
        if window.is_none() {
            parked.output.windows[place] = None;
            continue;
        }
        // Who has sunk it has the sealed one no more.
        let mut taken = Ok(None);
        for checksum in sunk.into_iter().chain(wanted) {
            taken = take_window(shard, tablet, parked.pass.targets[place].window, checksum).await;
            if !matches!(taken, Ok(None)) {
                break;
            }
        }
        if taken.is_err() {
            work.set_parked(tablet, None);
        }
        let Some(made) = taken? else {
            parked.copy_at = Some(shard.io.now().after(COPY_AGAIN));
            agreeing.parked.borrow_mut().insert(tablet, parked);
            return Ok(Looked::Waits);
        };
        parked.output.windows[place] = Some(made);
    }
    let Parked { pass, output, .. } = parked;
    let done = put_in_place(shard, tablet, pass, output).await;
    work.set_parked(tablet, None);
    done?;
    ioengine::sometimes!("a group seals a window");
    shard.counters.seals.add(1);
    shard.state.borrow().tables.windows(tablet).iter().for_each(|table| tell_in_place(table, tablet));
    Ok(Looked::Worked)
}

/// A window that the log says is sunk, and whose sealed table is still here.
fn to_swap(look: &Look) -> Option<(&Sinking, &Rc<Table>)> {
    let of = |table: &&Rc<Table>| {
        let sinking = look.seals.sink_at(table.window()?.from)?;
        let is_sealed = !table.is_sunk() && table.place.checksum == sinking.sink.checksum;
        let is_over = sinking.sink.sunk.is_some() || ioengine::canary("drop_before_sunk");
        (is_sealed && is_over).then_some(sinking)
    };
    look.windows.iter().find_map(|table| of(&table).map(|sinking| (sinking, table)))
}

/// A planted bug: the sealed table goes when its sink begins.
async fn drop_early(shard: &Rc<Shard>, tablet: TabletIndex, table: &Rc<Table>) -> Result<Looked, MergeError> {
    expire::drop_expired(shard, tablet, &[Rc::clone(table)]).await?;
    Ok(Looked::Worked)
}

/// Put a sunk table in the place of the sealed one: the one made here, a peer's, or one made now of the links that the log has.
async fn swap(
    shard: &Rc<Shard>,
    tablet: TabletIndex,
    sinking: &Sinking,
    table: &Rc<Table>,
) -> Result<Looked, MergeError> {
    let agreeing = &shard.keeper.agreeing;
    let Some(checksum) = sinking.sink.sunk else { return drop_early(shard, tablet, table).await };
    if agreeing.swap_at.borrow().get(&tablet).is_some_and(|at| shard.io.now() < *at) {
        return Ok(Looked::Waits);
    }
    let own = agreeing.sunk.borrow_mut().remove(&tablet);
    let mut made = own.filter(|made| made.table.place.checksum == checksum);
    if made.is_none() {
        let window = table.window().expect("a sealed table");
        made = take_window(shard, tablet, window, checksum).await?;
    }
    if made.is_none() {
        made = crate::sink::rebuild(shard, tablet, table, &sinking.sink, &sinking.links).await?;
    }
    let Some(made) = made else {
        agreeing.swap_at.borrow_mut().insert(tablet, shard.io.now().after(COPY_AGAIN));
        return Ok(Looked::Waits);
    };
    agreeing.swap_at.borrow_mut().remove(&tablet);
    shard.keeper.work.set_dropping(Some(tablet));
    // The sealed one may have gone while others were asked.
    let is_here = look_at(shard, tablet).is_some_and(|now| {
        is_named(&now.seals, &made.table) && now.windows.iter().any(|own| Rc::ptr_eq(own, table))
    });
    if !is_here {
        return Ok(Looked::Worked);
    }
    shard.keeper.zone.disk().flush().await.map_err(BuildError::from)?;
    crate::log::until_told(shard, tablet).await;
    shard.keeper.commit(&[Edit::RemoveTable(table.place.id), made.edit()], Purpose::Merge).await?;
    made.table.set_named(true);
    tell_in_place(&made.table, tablet);
    let gone = [Rc::clone(table)];
    shard.state.borrow_mut().tables.seal(tablet, (&[], &gone), (None, vec![made.table]));
    table.set_named(false);
    ioengine::sometimes!("a sealed table gives way to a sunk one");
    shard.counters.sink_dropped_bytes.add(table.place.bytes);
    Ok(Looked::Worked)
}
