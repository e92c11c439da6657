//! The tables of a shard: sorted, immutable, on its device. Full memtables become runs (`flush`), runs become fewer runs
//! (`merge`, by the policy in `pick`), old records become sealed windows (`seal`, by the policy in `window`), both in tasks of
//! their own (`work`), gets and scans read them (`fetch`, `gather`), and the manifest says which there are.
//!
//! Owns the extents and who may use them. Must never show a table before its bytes and its manifest edit are durable, or
//! free an extent while the manifest or a reader may still name it. Invariant: of two tables of a tablet, the one nearer
//! to the front of the list has the newer version of every key that both have; memtables are newer than all. The list has the
//! runs, newest first, and behind them the sealed windows, no two of which share a time.

pub(crate) mod agree;
pub(crate) mod build;
mod cache;
mod capture;
pub(crate) mod copy;
mod cursor;
pub mod examine;
mod expire;
mod extents;
mod fetch;
pub(crate) mod flush;
mod gather;
mod keeper;
mod merge;
mod names;
pub(crate) mod open;
mod pace;
mod pick;
mod publish;
mod room;
pub(crate) mod scrub;
mod seal;
mod table;
mod table_copy;
mod window;
pub(crate) mod work;
mod zone;

pub(crate) use capture::Capture;
pub(crate) use cursor::TableCursor;
pub(crate) use fetch::{Fetched, Told, fetch};
pub(crate) use gather::{Gathered, gather, gather_streams};
pub(crate) use keeper::Keeper;
pub(crate) use merge::MergeError;
pub(crate) use open::OpenError;
pub(crate) use open::{Opened, open};
pub(crate) use publish::{Made, make_sunk};
pub(crate) use seal::OPEN_COUNT_MAX as SEALED_AT_ONCE;
pub(crate) use table::Table;
pub(crate) use table_copy::{is_whole, take_file};
pub(crate) use window::COUNT_MAX_LEAST as WINDOWS_PER_TABLET_LEAST;
pub(crate) use zone::ReadError;

use crate::get::Visible;
use crate::limits::Limits;
use crate::memtable::Record;
use cache::{BlockCache, BlockId, Kept};
use layout::key::Key;
use layout::table_key::{encode_key, key_hash};
use layout::table_seal::Decompressor;
use layout::units::{TABLET_COUNT, TabletIndex, Version};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What memory knows of a record that is in no memtable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe<'a> {
    /// No table has it.
    Absent,
    /// The newest table that has it has this; maybe a tombstone.
    Record(Record<'a>),
    /// A block has to be read to know.
    Disk,
}

/// What looking ahead has found out about a key: the newest of the tables that may hold it, and the block. True as long
/// as the tables are the same, which is checked when it is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    /// The filters' hash of the key.
    hash: u64,
    change_count: u64,
    /// Its number among those that are asked.
    table: u32,
    block: u32,
}

/// The tables of a shard that can be read.
pub(crate) struct Tables {
    /// By tablet, newest first.
    runs: Vec<Vec<Rc<Table>>>,
    /// By tablet, in order of time.
    windows: Vec<Vec<Rc<Table>>>,
    /// How often records of a tablet have moved from a memtable into tables.
    moved_counts: Vec<u64>,
    /// How often a table has come or gone.
    change_count: u64,
    /// Blocks of runs.
    cache: BlockCache,
    /// Blocks of sealed tables, which are larger.
    sealed_cache: BlockCache,
    /// A block that was asked for and has no directory yet: whether it is of a sealed table, and its place.
    undirected: Cell<Option<(bool, u32)>>,
    /// An encoded key.
    key: RefCell<Vec<u8>>,
}

impl Tables {
    /// No tables; lays out the block caches.
    pub(crate) fn new(limits: &Limits) -> Tables {
        let (slot_bytes, sealed_slot_bytes) = limits.block_slot_bytes();
        Tables {
            runs: vec![Vec::new(); TABLET_COUNT],
            windows: vec![Vec::new(); TABLET_COUNT],
            moved_counts: vec![0; TABLET_COUNT],
            change_count: 0,
            cache: BlockCache::new(limits.block_cache_bytes, slot_bytes),
            sealed_cache: BlockCache::new(limits.sealed_cache_bytes, sealed_slot_bytes),
            undirected: Cell::new(None),
            key: RefCell::default(),
        }
    }

    /// The runs of a tablet, newest first.
    pub(crate) fn runs(&self, tablet: TabletIndex) -> &[Rc<Table>] {
        &self.runs[tablet.index()]
    }

    /// The sealed windows of a tablet, in order of time: older than the runs.
    pub(crate) fn windows(&self, tablet: TabletIndex) -> &[Rc<Table>] {
        &self.windows[tablet.index()]
    }

    /// Where the last sealed window of a tablet ends; 0 when it has none.
    pub(crate) fn sealed_to(&self, tablet: TabletIndex) -> u64 {
        self.windows(tablet).last().and_then(|table| table.window()).map_or(0, |window| window.to)
    }

    /// The sealed window that a time falls in.
    #[inline]
    fn window_at(&self, tablet: TabletIndex, time: u64) -> Option<&Rc<Table>> {
        let windows = self.windows(tablet);
        let ends_before = |table: &Rc<Table>| table.window().is_some_and(|window| window.to <= time);
        let table = windows.get(windows.partition_point(ends_before))?;
        table.window().is_some_and(|window| window.holds(time)).then_some(table)
    }

    /// The tables of a tablet that a get of this time asks, newest first.
    #[inline]
    fn asked(&self, tablet: TabletIndex, time: u64) -> impl Iterator<Item = &Rc<Table>> {
        self.runs(tablet).iter().chain(self.window_at(tablet, time))
    }

    /// The tables of a tablet that may hold records of these times, newest first.
    pub(crate) fn overlapping(
        &self,
        tablet: TabletIndex,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = &Rc<Table>> {
        let all = self.runs(tablet).iter().chain(self.windows(tablet));
        all.filter(move |table| table.may_hold_times(from, to))
    }

    /// Does any table of a tablet perhaps hold records of these times?
    pub(crate) fn overlap(&self, tablet: TabletIndex, from: u64, to: u64) -> bool {
        self.overlapping(tablet, from, to).next().is_some()
    }

    /// Changes whenever records of the tablet have moved from a memtable into tables.
    pub(crate) fn moved_count(&self, tablet: TabletIndex) -> u64 {
        self.moved_counts[tablet.index()]
    }

    /// A flush: its runs come to the front.
    pub(crate) fn add(&mut self, tablet: TabletIndex, table: Rc<Table>) {
        self.change_count += 1;
        self.runs[tablet.index()].insert(0, table);
    }

    /// A sealed table: among the windows, by its time.
    pub(crate) fn add_window(&mut self, tablet: TabletIndex, table: Rc<Table>) {
        self.change_count += 1;
        let from = |table: &Table| table.window().map(|window| window.from);
        let windows = &mut self.windows[tablet.index()];
        let place = windows.partition_point(|other| from(other) < from(&table));
        windows.insert(place, table);
    }

    /// Records have moved from the memtable into tables.
    pub(crate) fn moved(&mut self) {
        self.moved_counts.iter_mut().for_each(|count| *count += 1);
    }

    /// A merge: `old`, neighbours among the runs, are one run now, or none if nothing was left of them.
    pub(crate) fn replace(&mut self, tablet: TabletIndex, old: &[Rc<Table>], new: Option<Rc<Table>>) {
        self.change_count += 1;
        let list = &mut self.runs[tablet.index()];
        let Some(first) = old.first() else {
            list.extend(new);
            return;
        };
        let first = list
            .iter()
            .position(|table| Rc::ptr_eq(table, first))
            .expect("only a merge or a seal takes runs away, and there is one at a time");
        assert!(
            list[first..].iter().zip(old).filter(|(a, b)| Rc::ptr_eq(a, b)).count() == old.len(),
            "what is merged are neighbours"
        );
        list.splice(first..first + old.len(), new);
    }

    /// A seal: all of the oldest runs, `old_runs`, and `old_windows` are these windows and one run now, or none.
    pub(crate) fn seal(
        &mut self,
        tablet: TabletIndex,
        (old_runs, old_windows): (&[Rc<Table>], &[Rc<Table>]),
        (new_run, new_windows): (Option<Rc<Table>>, Vec<Rc<Table>>),
    ) {
        self.replace(tablet, old_runs, new_run);
        let before = self.windows[tablet.index()].len();
        self.windows[tablet.index()].retain(|table| !old_windows.iter().any(|old| Rc::ptr_eq(table, old)));
        assert!(
            before == self.windows(tablet).len() + old_windows.len(),
            "only a seal takes windows away, and there is one at a time"
        );
        new_windows.into_iter().for_each(|table| self.add_window(tablet, table));
        let ends = self.windows(tablet).iter().filter_map(|table| table.window());
        assert!(
            ends.clone().zip(ends.skip(1)).all(|(before, behind)| before.to <= behind.from),
            "no two windows share a time"
        );
    }

    /// A copy: this run, if there is one, and these windows are all that the tablet has; what it had beside them comes back.
    pub(crate) fn install(
        &mut self,
        tablet: TabletIndex,
        run: Option<Rc<Table>>,
        windows: &[Rc<Table>],
    ) -> Vec<Rc<Table>> {
        self.change_count += 1;
        let mut old = std::mem::replace(&mut self.runs[tablet.index()], run.into_iter().collect());
        old.append(&mut self.windows[tablet.index()]);
        old.retain(|table| !windows.iter().any(|kept| Rc::ptr_eq(kept, table)));
        windows.iter().for_each(|table| self.add_window(tablet, Rc::clone(table)));
        old
    }

    /// Look ahead at a key: which table is asked first, and which block of it. That block's place comes near.
    pub(crate) fn aim(&self, tablet: TabletIndex, key: Key<'_>) -> Option<Aim> {
        let mut encoded = self.key.borrow_mut();
        encoded.clear();
        encode_key(&mut encoded, key.bucket(), key);
        let hash = key_hash(&encoded);
        for (number, table) in self.asked(tablet, key.time).enumerate() {
            if table.is_broken() {
                return None;
            }
            if let Some(block) = table.block_near(key.time, &encoded, hash) {
                self.cache_of(table).prefetch(table.kept_at(block)?);
                return Some(Aim { hash, change_count: self.change_count, table: number as u32, block });
            }
        }
        None
    }

    /// A get that was aimed comes soon: what it reads of its block comes near.
    pub(crate) fn approach(&self, tablet: TabletIndex, key: Key<'_>, aim: &Aim) {
        if aim.change_count != self.change_count {
            return;
        }
        let Some(table) = self.asked(tablet, key.time).nth(aim.table as usize) else { return };
        let id = BlockId { table: table.place.id, block: aim.block };
        if let Some(kept) = table.kept_at(aim.block).and_then(|place| self.cache_of(table).peek(place, id)) {
            kept.prefetch_entry(aim.hash);
        }
    }

    /// What memory knows of a record that is in no memtable. What looking ahead has found out is not found out again.
    pub(crate) fn look(&self, tablet: TabletIndex, key: Key<'_>, aim: Option<Aim>) -> Probe<'_> {
        if self.runs(tablet).is_empty() && self.windows(tablet).is_empty() {
            return Probe::Absent;
        }
        let mut encoded = self.key.borrow_mut();
        encoded.clear();
        encode_key(&mut encoded, key.bucket(), key);
        let aim = aim.filter(|aim| aim.change_count == self.change_count);
        let hash = aim.map_or_else(|| key_hash(&encoded), |aim| aim.hash);
        let first = aim.map_or(0, |aim| aim.table as usize);
        for (number, table) in self.asked(tablet, key.time).enumerate().skip(first) {
            if table.is_broken() {
                return Probe::Disk;
            }
            let block = match aim {
                Some(aim) if number == first => Some(aim.block),
                _ => table.block_near(key.time, &encoded, hash),
            };
            let Some(block) = block else { continue };
            let Some(kept) = self.cached(table, block) else {
                if table.passes(hash) {
                    return Probe::Disk;
                }
                continue;
            };
            match kept.get(&encoded, hash) {
                Ok(None) => {}
                Ok(Some(record)) => return Probe::Record(record),
                // It was right when it was read: let the reader read it again and say what is wrong.
                Err(_) => return Probe::Disk,
            }
        }
        Probe::Absent
    }

    /// Take down which tables a reader has to ask for a record of this time.
    pub(crate) fn list(&self, tablet: TabletIndex, time: u64, reader: &mut Reader) {
        reader.tables.clear();
        reader.tables.extend(self.asked(tablet, time).cloned());
    }

    /// Keep a block that was read.
    fn keep(&mut self, table: &Table, block: u32, raw: &[u8]) {
        let id = BlockId { table: table.place.id, block };
        let cache = if table.window().is_some() { &mut self.sealed_cache } else { &mut self.cache };
        if let Some(place) = cache.put(id, raw) {
            table.set_kept(block, place);
        }
    }

    #[inline]
    fn cache_of(&self, table: &Table) -> &BlockCache {
        if table.window().is_some() { &self.sealed_cache } else { &self.cache }
    }

    #[inline]
    fn cached(&self, table: &Table, block: u32) -> Option<Kept<'_>> {
        let place = table.kept_at(block)?;
        let kept = self.cache_of(table).get(place, BlockId { table: table.place.id, block })?;
        if kept.wants_directory() {
            self.undirected.set(Some((table.window().is_some(), place)));
        }
        Some(kept)
    }

    /// Is there a block that was asked for and has no directory yet?
    #[inline]
    pub(crate) fn wants_directory(&self) -> bool {
        self.undirected.get().is_some()
    }

    /// Make the directory of the block that was asked for last without one.
    pub(crate) fn make_directory(&mut self) {
        if let Some((is_sealed, place)) = self.undirected.take() {
            let cache = if is_sealed { &mut self.sealed_cache } else { &mut self.cache };
            cache.make_directory(place);
        }
    }

    /// Runs of the tablet that has most, and levels of the one that has most.
    pub(crate) fn most(&self) -> (usize, usize) {
        let levels =
            |runs: &Vec<Rc<Table>>| runs.iter().map(|table| usize::from(table.place.level) + 1).max();
        let counts = self.runs.iter().map(Vec::len).max();
        (counts.unwrap_or(0), self.runs.iter().filter_map(levels).max().unwrap_or(0))
    }

    /// Windows of the tablet that has most.
    pub(crate) fn windows_most(&self) -> usize {
        self.windows.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Tables, and their bytes on the device, and the memory of their indexes and filters.
    pub(crate) fn sizes(&self) -> (u64, u64, u64) {
        let all = self.runs.iter().chain(&self.windows).flatten();
        all.fold((0, 0, 0), |(count, bytes, memory), table| {
            (count + 1, bytes + table.place.bytes, memory + table.memory_bytes() as u64)
        })
    }

    /// Sunk windows, bytes of their blocks on cold disks, and their records.
    pub(crate) fn sunk_sizes(&self) -> (u64, u64, u64) {
        let sunk = self.windows.iter().flatten().filter(|table| table.is_sunk() && !table.is_broken());
        sunk.fold((0, 0, 0), |(count, bytes, records), table| {
            let footer = &table.parts().footer;
            (count + 1, bytes + footer.data_bytes, records + footer.record_count)
        })
    }

    /// Sealed windows, sunk ones too, their bytes on the device, and the records in those that can be read.
    pub(crate) fn sealed_sizes(&self) -> (u64, u64, u64) {
        self.windows.iter().flatten().fold((0, 0, 0), |(count, bytes, records), table| {
            let own = if table.is_broken() { 0 } else { table.parts().footer.record_count };
            (count + 1, bytes + table.place.bytes, records + own)
        })
    }
}

/// What a reader works with; its memory is used again for each request.
pub(crate) struct Reader {
    /// Its place among the readers.
    pub(crate) number: usize,
    /// The value of the record that was found.
    pub(crate) value: Vec<u8>,
    /// What tables hold of a range.
    pub(crate) gathered: Gathered,
    tables: Vec<Rc<Table>>,
    key: Vec<u8>,
    prefix: Vec<u8>,
    stored: Vec<u8>,
    raw: Vec<u8>,
    unpack: Decompressor,
}

impl Reader {
    pub(crate) fn new(number: usize) -> Reader {
        Reader {
            number,
            value: Vec::new(),
            gathered: Gathered::NONE,
            tables: Vec::new(),
            key: Vec::new(),
            prefix: Vec::new(),
            stored: Vec::new(),
            raw: Vec::new(),
            unpack: Decompressor::new(),
        }
    }

    /// Keep a record that was found in memory.
    pub(crate) fn keep(&mut self, found: &Visible<'_>) -> (Version, u64) {
        self.value.clear();
        self.value.extend_from_slice(found.value);
        (found.version, found.expiry_us)
    }
}
