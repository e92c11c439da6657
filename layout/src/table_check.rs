//! Whether a table agrees with itself: its blocks with its index, its filter and its footer.
//!
//! Owns the rules and no reading: who calls it brings the blocks in order, already opened. Must never stop at the first
//! disagreement. Invariant: a table that [`crate::table::TableWriter`] wrote has none.

use std::fmt;

use crate::key::{bucket_of, tablet_of};
use crate::table::{
    Block, BlockEntry, BlockHandle, Cursor, Filter, Footer, Index, TABLE_KEY_BYTES_MAX, decode_key, key_hash,
};
use crate::table_check_sections::SectionsCheck;
use crate::table_sections::Sections;
use crate::units::{LogIndex, STREAM_BYTES_MAX, TabletIndex};

/// Two places of a table, or of what names it, that should say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// Where it shows: logical offset of the block, or of the footer.
    pub at: u64,
    /// What is compared.
    pub what: &'static str,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.what, self.expected, self.found)
    }
}

/// What the records of a table add up to.
#[derive(Debug, Clone, Copy)]
struct Counted {
    block_count: u32,
    record_count: u64,
    tombstone_count: u64,
    expiring_count: u64,
    time: (u64, u64),
    log_index: (u64, u64),
    expiry: (u64, u64),
    raw_bytes: u64,
}

/// Takes the blocks of a table in order.
pub struct TableCheck<'a> {
    /// `None`: whose keys they are is not asked.
    tablet: Option<TabletIndex>,
    footer: &'a Footer,
    index: &'a Index,
    /// `None` when it cannot be read: then nothing is asked of it.
    filter: Option<&'a Filter>,
    /// `None` of a run, and when they cannot be read.
    sections: Option<SectionsCheck>,
    counted: Counted,
    last_key: Vec<u8>,
    /// A block was left out.
    incomplete: bool,
    found: Vec<Disagreement>,
}

impl<'a> TableCheck<'a> {
    /// Of a table; with `tablet` each key is asked whether it is of that tablet.
    #[must_use]
    pub fn new(
        tablet: Option<TabletIndex>,
        footer: &'a Footer,
        index: &'a Index,
        filter: Option<&'a Filter>,
    ) -> TableCheck<'a> {
        let counted = Counted {
            block_count: 0,
            record_count: 0,
            tombstone_count: 0,
            expiring_count: 0,
            time: (u64::MAX, 0),
            log_index: (u64::MAX, 0),
            expiry: (u64::MAX, 0),
            raw_bytes: 0,
        };
        let last_key = Vec::with_capacity(TABLE_KEY_BYTES_MAX);
        let (sections, found) = (None, Vec::new());
        TableCheck { tablet, footer, index, filter, sections, counted, last_key, incomplete: false, found }
    }

    /// And of these sections: before the first block.
    #[must_use]
    pub fn with_sections(mut self, sections: Option<&Sections>) -> TableCheck<'a> {
        self.sections = sections.map(|sections| SectionsCheck::new(sections, self.footer.sections_offset()));
        self
    }

    /// The next block cannot be read: the sums cannot be compared.
    pub fn skip(&mut self) {
        self.incomplete = true;
        self.sections.iter_mut().for_each(SectionsCheck::gap);
    }

    /// Records so far.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.counted.record_count
    }

    fn wrong(&mut self, at: u64, what: &'static str, expected: impl fmt::Display, found: impl fmt::Display) {
        let (expected, found) = (expected.to_string(), found.to_string());
        self.found.push(Disagreement { at, what, expected, found });
    }

    /// The next block, number `number` of the index, before compression.
    pub fn block(&mut self, number: u32, handle: BlockHandle, raw: &[u8]) {
        let at = handle.offset;
        self.counted.block_count += 1;
        self.counted.raw_bytes += raw.len() as u64;
        let before = self.counted.record_count;
        let checked = Block::parse(raw).and_then(|block| {
            block.check()?;
            self.records(number, at, &block)
        });
        if let Err(corrupt) = checked {
            self.skip();
            let place = format!("{} at byte {} of the block", corrupt.field, corrupt.at);
            self.wrong(at, "records of the block", "a block", format!("{}: {place}", corrupt.structure));
            return;
        }
        let count = self.counted.record_count - before;
        if count != u64::from(handle.record_count) {
            self.wrong(at, "records of the block", format!("{} by the index", handle.record_count), count);
        }
    }

    fn records(&mut self, number: u32, at: u64, block: &Block<'_>) -> Result<(), crate::Corrupt> {
        let mut cursor = Cursor::new();
        let mut more = cursor.seek_first(block)?;
        let mut first = true;
        let (mut strangers, mut missed, mut place) = (0_u64, 0_u64, 0);
        while let Some(entry) = cursor.entry(block)?.filter(|_| more) {
            if first {
                self.first_of_block(number, at, entry.key);
                first = false;
            }
            strangers += u64::from(!self.is_own(entry.key));
            missed += u64::from(self.filter.is_some_and(|filter| !filter.contains(key_hash(entry.key))));
            self.count(&entry);
            if let Some(sections) = &mut self.sections {
                sections.record((number, place), &entry);
            }
            place += 1;
            self.last_key.clear();
            self.last_key.extend_from_slice(entry.key);
            more = cursor.next(block)?;
        }
        if self.index.find(&self.last_key).is_none_or(|(found, _)| found != number) {
            self.wrong(at, "last key of the block", "within what the index says of it", "outside");
        }
        if number + 1 == self.index.block_count() && self.last_key != self.index.last_key() {
            self.wrong(at, "last key of the table", "that of the index", "another");
        }
        if strangers > 0 {
            self.wrong(at, "keys of the block", "of the table's tablet", format!("{strangers} of others"));
        }
        if missed > 0 {
            self.wrong(at, "filter", "every key of the block", format!("{missed} it does not admit"));
        }
        Ok(())
    }

    fn first_of_block(&mut self, number: u32, at: u64, key: &[u8]) {
        if !self.last_key.is_empty() && key <= &self.last_key[..] {
            self.wrong(at, "first key of the block", "above the keys before it", "not above");
        }
        if self.index.find(key).is_none_or(|(found, _)| found != number) {
            self.wrong(at, "first key of the block", "within what the index says of it", "outside");
        }
        if number == 0 && key != self.index.first_key() {
            self.wrong(at, "first key of the table", "that of the index", "another");
        }
    }

    /// Is it a key, in the bucket of its stream, in this tablet?
    fn is_own(&self, key: &[u8]) -> bool {
        let Some(tablet) = self.tablet else { return true };
        let mut stream = [0; STREAM_BYTES_MAX];
        decode_key(key, &mut stream).is_ok_and(|key| {
            let bucket = bucket_of(key.space, &stream[..key.stream_bytes]);
            bucket == key.bucket && tablet_of(bucket) == tablet
        })
    }

    fn count(&mut self, entry: &BlockEntry<'_>) {
        let counted = &mut self.counted;
        let widen = |span: &mut (u64, u64), value: u64| *span = (span.0.min(value), span.1.max(value));
        counted.record_count += 1;
        counted.tombstone_count += u64::from(entry.record.value.is_none());
        if let Some(time) = entry.key.last_chunk() {
            widen(&mut counted.time, u64::from_be_bytes(*time));
        }
        widen(&mut counted.log_index, entry.record.version.0 >> 16);
        if entry.record.expiry_us > 0 {
            counted.expiring_count += 1;
            widen(&mut counted.expiry, entry.record.expiry_us);
        }
    }

    /// All blocks were brought: what the footer says against what they add up to.
    #[must_use]
    pub fn finish(mut self) -> Vec<Disagreement> {
        self.found.extend(self.sections.take().map(SectionsCheck::finish).unwrap_or_default());
        if self.incomplete {
            return self.found;
        }
        let (counted, footer) = (self.counted, *self.footer);
        let expiry = if counted.expiring_count > 0 { counted.expiry } else { (0, 0) };
        let LogIndex(log_index_min) = footer.log_index_min;
        let LogIndex(log_index_max) = footer.log_index_max;
        let sums = [
            ("block_count", u64::from(footer.block_count), u64::from(counted.block_count)),
            ("record_count", footer.record_count, counted.record_count),
            ("tombstone_count", footer.tombstone_count, counted.tombstone_count),
            ("expiring_count", footer.expiring_count, counted.expiring_count),
            ("time_min", footer.time_min, counted.time.0),
            ("time_max", footer.time_max, counted.time.1),
            ("log_index_min", log_index_min, counted.log_index.0),
            ("log_index_max", log_index_max, counted.log_index.1),
            ("expiry_min", footer.expiry_min, expiry.0),
            ("expiry_max", footer.expiry_max, expiry.1),
            ("raw_bytes", footer.raw_bytes, counted.raw_bytes),
        ];
        for (field, said, is) in sums {
            if said != is {
                self.wrong(footer.footer_offset(), field, format!("{said} by the footer"), is);
            }
        }
        self.found
    }
}

/// What the footer says of its table against what the manifest says of it.
#[must_use]
pub fn compare_facts(facts: &crate::manifest::AddTable<'_>, footer: &Footer) -> Vec<Disagreement> {
    let pairs = [
        ("table_bytes", facts.bytes, footer.table_bytes()),
        ("data_bytes", facts.data_bytes, footer.data_bytes),
        ("record_count", facts.record_count, footer.record_count),
        ("tombstone_count", facts.tombstone_count, footer.tombstone_count),
        ("time_min", facts.time_min, footer.time_min),
        ("time_max", facts.time_max, footer.time_max),
        ("log_index_min", facts.log_index_min.0, footer.log_index_min.0),
        ("log_index_max", facts.log_index_max.0, footer.log_index_max.0),
        ("expiry_min", facts.expiry_min, footer.expiry_min),
        ("expiry_max", facts.expiry_max, footer.expiry_max),
    ];
    let differ = pairs.into_iter().filter(|(_, said, is)| said != is);
    let text = |(what, said, is): (&'static str, u64, u64)| Disagreement {
        at: footer.footer_offset(),
        what,
        expected: format!("{said} by the manifest"),
        found: format!("{is} in the footer"),
    };
    differ.map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::table::{
        BlockChecksum, BlockKind, Compressor, Decompressor, TableIdentity, TableOptions, TableWriter,
        encode_key, open_block, open_filter, open_index,
    };
    use crate::units::{ShardIndex, Space, TableId, Uuid, Version};

    /// A table, opened: footer, index, filter, and its blocks before compression.
    struct Opened {
        tablet: TabletIndex,
        footer: Footer,
        index: Index,
        filter: Filter,
        blocks: Vec<Vec<u8>>,
    }

    fn table(times: impl Iterator<Item = u64>) -> Opened {
        let bucket = bucket_of(Space(0), b"stream");
        let tablet = tablet_of(bucket);
        let identity = TableIdentity::Run {
            device: Uuid([1; 16]),
            shard: ShardIndex(0),
            generation: 1,
            tablet,
            table: TableId(3),
        };
        let options = TableOptions {
            block_bytes: 512,
            level: None,
            extent_bytes: 1 << 14,
            dictionary: None,
            dictionary_bytes_max: 0,
        };
        let mut writer = TableWriter::new(identity, options, Compressor::new());
        for time in times {
            let mut key = Vec::new();
            encode_key(&mut key, bucket, Key { space: Space(0), stream: b"stream", time });
            let (expiry, value) = match time % 3 {
                0 => (0, None),
                1 => (time + 9, Some(&[7; 40][..])),
                _ => (0, Some(&[8; 40][..])),
            };
            writer.push(&key, Version((time + 5) << 16), expiry, value);
        }
        let footer = writer.finish().footer;
        let bytes = writer.pending();
        let (checksum, mut unpack) = (BlockChecksum::new(&identity), Decompressor::new());
        let part = |at: u64, length: u64| &bytes[at as usize..(at + length) as usize];
        let index_part = part(footer.index_offset(), footer.index_bytes);
        let index = open_index(&checksum, &footer, index_part, &mut unpack).expect("an index");
        let filter_part = part(footer.filter_offset(), footer.filter_bytes);
        let filter = open_filter(&checksum, &footer, filter_part, &mut unpack).expect("a filter");
        let open = |number| {
            let handle: BlockHandle = index.handle(number).expect("a block");
            let stored = part(handle.offset, u64::from(handle.stored_bytes));
            let mut raw = Vec::new();
            open_block(&checksum, handle.offset, BlockKind::Data, stored, None, &mut unpack, &mut raw)
                .expect("a block");
            raw
        };
        let blocks = (0..index.block_count()).map(open).collect();
        Opened { tablet, footer, index, filter, blocks }
    }

    fn check(table: &Opened, tablet: TabletIndex, order: &[usize]) -> Vec<&'static str> {
        let mut check = TableCheck::new(Some(tablet), &table.footer, &table.index, Some(&table.filter));
        for (number, block) in (0..).zip(order) {
            let handle = table.index.handle(number).expect("a block");
            check.block(number, handle, &table.blocks[*block]);
        }
        let mut found: Vec<_> = check.finish().into_iter().map(|found| found.what).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn a_table_as_it_was_written_agrees_with_itself() {
        for count in [1, 20, 200] {
            let table = table(0..count);
            let order: Vec<_> = (0..table.blocks.len()).collect();
            assert_eq!(check(&table, table.tablet, &order), [""; 0], "{count}");
        }
    }

    #[test]
    fn swapped_blocks_other_tablets_and_wrong_sums_are_named() {
        let mut table = table(0..60);
        let order: Vec<_> = (0..table.blocks.len()).collect();
        let mut swapped = order.clone();
        swapped.swap(1, 2);
        let found = check(&table, table.tablet, &swapped);
        assert!(found.contains(&"first key of the block") && found.contains(&"last key of the block"));
        let other = TabletIndex::new((table.tablet.get() + 1) % 64).expect("below 64");
        assert_eq!(check(&table, other, &order), ["keys of the block"]);
        table.footer.time_max += 1;
        table.footer.expiry_min += 1;
        assert_eq!(check(&table, table.tablet, &order), ["expiry_min", "time_max"]);
        table.filter = Filter::decode(Filter::build([1, 2, 3])).expect("a filter");
        assert!(check(&table, table.tablet, &order).contains(&"filter"));
    }

    #[test]
    fn blocks_of_another_index_and_bytes_that_are_no_block_are_named() {
        let (table, other) = (table(0..60), table(1..61));
        let order: Vec<_> = (0..table.blocks.len()).collect();
        let mixed = Opened { index: other.index, ..table };
        assert!(!check(&mixed, mixed.tablet, &order).is_empty());
        let mut check = TableCheck::new(Some(mixed.tablet), &mixed.footer, &mixed.index, None);
        check.block(0, mixed.index.handle(0).expect("a block"), &[0; 40]);
        check.skip();
        let found = check.finish();
        assert_eq!(found.len(), 1, "sums of what could not be read are not compared: {found:?}");
        assert!(found[0].to_string().contains("table block"), "{}", found[0]);
    }
}
