//! The tables of a shard: sorted, immutable, on its device. Full memtables become runs (`flush`), runs become fewer runs
//! (`merge`, by the policy in `pick`), gets and scans read them (`fetch`, `gather`), and the manifest says which there are.
//!
//! Owns the extents and who may use them. Must never show a table before its bytes and its manifest edit are durable, or
//! free an extent while the manifest or a reader may still name it. Invariant: of two tables of a tablet, the one nearer
//! to the front of the list has the newer version of every key that both have; memtables are newer than all.

pub(crate) mod build;
mod cache;
mod capture;
mod cursor;
pub mod examine;
mod extents;
mod fetch;
pub(crate) mod flush;
mod gather;
mod keeper;
pub(crate) mod merge;
mod names;
pub(crate) mod open;
mod pick;
mod publish;
mod table;
mod zone;

pub(crate) use capture::Capture;
pub(crate) use fetch::fetch;
pub(crate) use gather::{Gathered, gather, gather_streams};
pub(crate) use keeper::Keeper;
pub(crate) use open::OpenError;
pub(crate) use open::{Opened, open};
pub(crate) use table::Table;
pub(crate) use zone::ReadError;

use crate::get::Visible;
use crate::memtable::Record;
use cache::{BlockCache, BlockId};
use layout::key::Key;
use layout::table_block::Block;
use layout::table_key::{encode_key, key_hash};
use layout::table_seal::Decompressor;
use layout::units::{TABLET_COUNT, TableId, TabletIndex, Version};
use std::cell::RefCell;
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

/// The tables of a shard that can be read, by tablet, newest first.
pub(crate) struct Tables {
    by_tablet: Vec<Vec<Rc<Table>>>,
    /// How often records of a tablet have moved from a memtable into tables.
    moved_counts: Vec<u64>,
    cache: BlockCache,
    /// An encoded key.
    key: RefCell<Vec<u8>>,
}

impl Tables {
    /// No tables; lays out a block cache of `cache_bytes`.
    pub(crate) fn new(cache_bytes: usize, block_bytes: usize) -> Tables {
        Tables {
            by_tablet: vec![Vec::new(); TABLET_COUNT],
            moved_counts: vec![0; TABLET_COUNT],
            cache: BlockCache::new(cache_bytes, block_bytes),
            key: RefCell::default(),
        }
    }

    /// The tables of a tablet, newest first.
    pub(crate) fn of(&self, tablet: TabletIndex) -> &[Rc<Table>] {
        &self.by_tablet[tablet.index()]
    }

    /// The tables of a tablet that may hold records of these times, newest first.
    pub(crate) fn overlapping(
        &self,
        tablet: TabletIndex,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = &Rc<Table>> {
        self.of(tablet).iter().filter(move |table| table.may_hold_times(from, to))
    }

    /// Does any table of a tablet perhaps hold records of these times?
    pub(crate) fn overlap(&self, tablet: TabletIndex, from: u64, to: u64) -> bool {
        self.overlapping(tablet, from, to).next().is_some()
    }

    /// Changes whenever records of the tablet have moved from a memtable into tables.
    pub(crate) fn moved_count(&self, tablet: TabletIndex) -> u64 {
        self.moved_counts[tablet.index()]
    }

    /// A flush: its tables come to the front.
    pub(crate) fn add(&mut self, tablet: TabletIndex, table: Rc<Table>) {
        self.by_tablet[tablet.index()].insert(0, table);
    }

    /// Records have moved from the memtable into tables.
    pub(crate) fn moved(&mut self) {
        self.moved_counts.iter_mut().for_each(|count| *count += 1);
    }

    /// A merge: `old`, neighbours in the list, are one table now, or none if nothing was left of them.
    pub(crate) fn replace(&mut self, tablet: TabletIndex, old: &[Rc<Table>], new: Option<Rc<Table>>) {
        let list = &mut self.by_tablet[tablet.index()];
        let first = list
            .iter()
            .position(|table| Rc::ptr_eq(table, &old[0]))
            .expect("only a merge takes tables away, and there is one at a time");
        assert!(
            list[first..].iter().zip(old).filter(|(a, b)| Rc::ptr_eq(a, b)).count() == old.len(),
            "what is merged are neighbours"
        );
        list.splice(first..first + old.len(), new);
    }

    /// What memory knows of a record that is in no memtable.
    pub(crate) fn look(&self, tablet: TabletIndex, key: Key<'_>) -> Probe<'_> {
        let tables = self.of(tablet);
        if tables.is_empty() {
            return Probe::Absent;
        }
        let mut encoded = self.key.borrow_mut();
        encoded.clear();
        encode_key(&mut encoded, key.bucket(), key);
        let hash = key_hash(&encoded);
        for table in tables {
            if table.is_broken() {
                return Probe::Disk;
            }
            let Some((block, _)) = table.block_of(key.time, &encoded, hash) else { continue };
            let Some(raw) = self.cache.get(BlockId { table: table.place.id, block }) else {
                return Probe::Disk;
            };
            match Block::parse(raw).and_then(|block| block.get(&encoded)) {
                Ok(None) => {}
                Ok(Some(record)) => return Probe::Record(record),
                // It was right when it was read: let the reader read it again and say what is wrong.
                Err(_) => return Probe::Disk,
            }
        }
        Probe::Absent
    }

    /// Take down which tables a reader has to ask.
    pub(crate) fn list(&self, tablet: TabletIndex, reader: &mut Reader) {
        reader.tables.clear();
        reader.tables.extend(self.of(tablet).iter().cloned());
    }

    /// Keep a block that was read.
    fn keep(&mut self, table: TableId, block: u32, raw: &[u8]) {
        self.cache.put(BlockId { table, block }, raw);
    }

    fn cached(&self, table: TableId, block: u32) -> Option<&[u8]> {
        self.cache.get(BlockId { table, block })
    }

    /// Tables, and their bytes on the device, and the memory of their indexes and filters.
    pub(crate) fn sizes(&self) -> (u64, u64, u64) {
        let all = self.by_tablet.iter().flatten();
        all.fold((0, 0, 0), |(count, bytes, memory), table| {
            (count + 1, bytes + table.place.bytes, memory + table.memory_bytes() as u64)
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
