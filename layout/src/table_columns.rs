//! The other form of a data block: what is alike stands together, for the compressor. Only stored, never searched.
//!
//! Owns the way from a block to its columns and back. Must never be read in place: a reader makes the block of it first.
//! Invariant: what decodes is a block that [`Block::check`] accepts, and a block comes back as the bytes that it was.
//!
//! ```text
//! | numbers | fronts | times | versions | sizes | expiries | values |      numbers: entries, time unit, lowest time, and the
//!                                                                         bytes of each column but the last
//! front:    | shared | unshared | records | tail |        of keys that differ in their time only
//! time:     | (time - that before) / unit |               of the first of a front: less the lowest one
//! version:  | log index - that before | operation |       the first difference is to 0
//! size:     | value bytes * 4 + flags |
//! ```

use crate::field::Corrupt;
use crate::table_block::{
    BLOCK_RAW_BYTES_MAX, Block, BlockBuilder, BlockEntry, FLAG_EXPIRY, FLAG_TOMBSTONE, common_prefix,
};
use crate::table_cursor::Cursor;
use crate::table_key::{TABLE_KEY_BYTES_MAX, key_time};
use crate::units::{VALUE_BYTES_MAX, Version};
use crate::varint;

/// Name of this form in errors.
pub const COLUMNS_STRUCTURE: &str = "table columns";
/// A block of fewer records stays as it is: there is little that is alike.
pub(crate) const COLUMNS_COUNT_MIN: usize = 4;

const TIME_BYTES: usize = 8;
const EXPIRY_BYTES: usize = 8;
/// Bits of a version that count the operations of an entry.
const OPERATION_BITS: u32 = 16;
/// Columns whose bytes are among the numbers.
const SIZED_COUNT: usize = 5;
const FRONTS: usize = 0;
const TIMES: usize = 1;
const VERSIONS: usize = 2;
const SIZES: usize = 3;
const EXPIRIES: usize = 4;

/// Makes columns of blocks, in buffers of its own.
#[derive(Default)]
pub struct ColumnsBuilder {
    sized: [Vec<u8>; SIZED_COUNT],
    values: Vec<u8>,
    /// The front that has not ended, how much of it is that of the one before, and its records.
    front: Vec<u8>,
    shared: usize,
    front_count: u64,
    out: Vec<u8>,
}

/// What must be known before the first time is written.
struct Times {
    unit: u64,
    lowest: u64,
}

fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn front_of(key: &[u8]) -> &[u8] {
    &key[..key.len() - TIME_BYTES]
}

/// Shows each record of a block that was made here.
fn each(block: &Block<'_>, mut show: impl FnMut(&BlockEntry<'_>)) {
    let right = "a block that was just made can be read";
    let mut cursor = Cursor::new();
    let mut found = cursor.seek_first(block).expect(right);
    while found {
        show(&cursor.entry(block).expect(right).expect("the cursor is at an entry"));
        found = cursor.next(block).expect(right);
    }
}

impl Times {
    fn of(block: &Block<'_>) -> Times {
        let (mut lowest, mut first, mut unit) = (u64::MAX, None, 0);
        each(block, |entry| {
            let time = key_time(entry.key);
            lowest = lowest.min(time);
            unit = divisor(unit, time.abs_diff(*first.get_or_insert(time)));
        });
        Times { unit: unit.max(1), lowest }
    }
}

impl ColumnsBuilder {
    /// The columns of a block, until the next call. A block that does not come from [`BlockBuilder`], or whose keys do not end
    /// with a time, is our own bug.
    pub fn build(&mut self, block: &Block<'_>) -> &[u8] {
        self.sized.iter_mut().for_each(Vec::clear);
        self.values.clear();
        self.front.clear();
        self.front_count = 0;
        let times = Times::of(block);
        let (mut time_before, mut version_before) = (times.lowest, 0);
        each(block, |entry| {
            let time = key_time(entry.key);
            if self.front_count == 0 || front_of(entry.key) != self.front {
                self.begin_front(front_of(entry.key));
                time_before = times.lowest;
            }
            self.front_count += 1;
            varint::put(&mut self.sized[TIMES], (time - time_before) / times.unit);
            time_before = time;
            self.push(entry, &mut version_before);
        });
        self.end_front();
        self.out.clear();
        for number in [block.entry_count() as u64, times.unit, times.lowest] {
            varint::put(&mut self.out, number);
        }
        self.sized.iter().for_each(|column| varint::put(&mut self.out, column.len() as u64));
        self.sized.iter().chain([&self.values]).for_each(|column| self.out.extend_from_slice(column));
        &self.out
    }

    fn begin_front(&mut self, front: &[u8]) {
        self.end_front();
        self.shared = common_prefix(&self.front, front);
        self.front.clear();
        self.front.extend_from_slice(front);
    }

    fn end_front(&mut self) {
        let count = std::mem::take(&mut self.front_count);
        if count > 0 {
            let (column, tail) = (&mut self.sized[FRONTS], &self.front[self.shared..]);
            varint::put(column, self.shared as u64);
            varint::put(column, tail.len() as u64);
            varint::put(column, count);
            column.extend_from_slice(tail);
        }
    }

    /// All of a record but its key.
    fn push(&mut self, entry: &BlockEntry<'_>, version_before: &mut u64) {
        let Version(version) = entry.record.version;
        let index = version >> OPERATION_BITS;
        let difference = index as i64 - (*version_before >> OPERATION_BITS) as i64;
        varint::put(&mut self.sized[VERSIONS], varint::zigzag(difference));
        varint::put(&mut self.sized[VERSIONS], version & ((1 << OPERATION_BITS) - 1));
        *version_before = version;
        let (value, expiry_us) = (entry.record.value.unwrap_or_default(), entry.record.expiry_us);
        let tombstone = if entry.record.value.is_none() { FLAG_TOMBSTONE } else { 0 };
        let flags = tombstone | if expiry_us > 0 { FLAG_EXPIRY } else { 0 };
        varint::put(&mut self.sized[SIZES], (value.len() as u64) << 2 | u64::from(flags));
        if expiry_us > 0 {
            self.sized[EXPIRIES].extend_from_slice(&expiry_us.to_le_bytes());
        }
        self.values.extend_from_slice(value);
    }
}

/// What was not read of a column.
struct Column<'a>(&'a [u8]);

impl<'a> Column<'a> {
    #[inline]
    fn number(&mut self) -> Option<u64> {
        let (number, next) = varint::take(self.0, 0)?;
        self.0 = &self.0[next..];
        Some(number)
    }

    #[inline]
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// The columns of a block, as far as they were read.
struct Columns<'a> {
    sized: [Column<'a>; SIZED_COUNT],
    values: Column<'a>,
    entry_count: u64,
    unit: u64,
    lowest: u64,
    version_before: u64,
}

impl<'a> Columns<'a> {
    fn open(bytes: &'a [u8]) -> Option<Columns<'a>> {
        let mut rest = Column(bytes);
        let [entry_count, unit, lowest] = [rest.number()?, rest.number()?, rest.number()?];
        let mut lengths = [0; SIZED_COUNT];
        for length in &mut lengths {
            *length = usize::try_from(rest.number()?).ok()?;
        }
        let mut sized = [const { Column(&[]) }; SIZED_COUNT];
        for (column, length) in sized.iter_mut().zip(lengths) {
            column.0 = rest.bytes(length)?;
        }
        Some(Columns { sized, values: rest, entry_count, unit, lowest, version_before: 0 })
    }

    /// All of them, as entries of a block of at most `bytes_max`.
    fn read(&mut self, bytes_max: usize, rows: &mut BlockBuilder) -> Option<()> {
        let mut key = [0; TABLE_KEY_BYTES_MAX];
        let mut front_bytes = 0;
        while !self.sized[FRONTS].0.is_empty() {
            let fronts = &mut self.sized[FRONTS];
            let [shared, unshared, count] = [fronts.number()?, fronts.number()?, fronts.number()?];
            let shared = usize::try_from(shared).ok().filter(|shared| *shared <= front_bytes)?;
            let tail = fronts.bytes(usize::try_from(unshared).ok()?)?;
            front_bytes = shared + tail.len();
            key.get_mut(shared..front_bytes)?.copy_from_slice(tail);
            let key = key.get_mut(..front_bytes + TIME_BYTES)?;
            let mut time = self.lowest;
            for number in 0..count {
                let step = self.sized[TIMES].number()?.checked_mul(self.unit)?;
                time = time.checked_add(step).filter(|_| number == 0 || step > 0)?;
                key[front_bytes..].copy_from_slice(&time.to_be_bytes());
                if number == 0 && !rows.is_empty() && rows.last_key() >= &key[..] {
                    return None;
                }
                self.read_record(key, bytes_max, rows)?;
            }
        }
        let is_read = self.sized.iter().chain([&self.values]).all(|column| column.0.is_empty());
        (is_read && rows.entry_count() as u64 == self.entry_count).then_some(())
    }

    /// The next record, which has this key.
    fn read_record(&mut self, key: &[u8], bytes_max: usize, rows: &mut BlockBuilder) -> Option<()> {
        let versions = &mut self.sized[VERSIONS];
        let (difference, operation) = (versions.number()?, versions.number()?);
        let index = (self.version_before >> OPERATION_BITS) as i64;
        let index = u64::try_from(index.checked_add(varint::unzigzag(difference))?).ok()?;
        if index >> (u64::BITS - OPERATION_BITS) > 0 || operation >> OPERATION_BITS > 0 {
            return None;
        }
        self.version_before = index << OPERATION_BITS | operation;
        let size = self.sized[SIZES].number()?;
        let (bytes, is_tombstone) = (size >> 2, size & u64::from(FLAG_TOMBSTONE) != 0);
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= VALUE_BYTES_MAX)?;
        let mut expiry_us = 0;
        if size & u64::from(FLAG_EXPIRY) != 0 {
            let expiry = self.sized[EXPIRIES].bytes(EXPIRY_BYTES)?;
            expiry_us = u64::from_le_bytes(expiry.try_into().ok()?);
            if expiry_us == 0 {
                return None;
            }
        }
        if is_tombstone && (bytes > 0 || expiry_us > 0) {
            return None;
        }
        let value = self.values.bytes(bytes)?;
        let with_it = rows.raw_bytes() + BlockBuilder::entry_bytes_max(bytes);
        if rows.raw_bytes() > bytes_max || (!rows.is_empty() && with_it > BLOCK_RAW_BYTES_MAX) {
            return None;
        }
        rows.push(key, Version(self.version_before), expiry_us, (!is_tombstone).then_some(value));
        Some(())
    }
}

/// The block of `raw_bytes` whose columns these are, in `rows`.
pub fn read_columns<'r>(
    bytes: &[u8],
    raw_bytes: usize,
    rows: &'r mut BlockBuilder,
) -> Result<&'r [u8], Corrupt> {
    rows.clear();
    let wrong = |field| Corrupt { structure: COLUMNS_STRUCTURE, field, at: 0 };
    let mut columns = Columns::open(bytes).ok_or(wrong("numbers"))?;
    columns.read(raw_bytes, rows).ok_or(wrong("entry"))?;
    if rows.is_empty() || rows.raw_bytes() != raw_bytes {
        return Err(wrong("entries"));
    }
    Ok(rows.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// By front and time: version, expiry, value.
    type Model = BTreeMap<(Vec<u8>, u64), (u64, u64, Option<Vec<u8>>)>;

    fn block_of(model: &Model) -> Vec<u8> {
        let mut builder = BlockBuilder::new();
        for ((front, time), (version, expiry, value)) in model {
            let key = [&front[..], &[0, 0], &time.to_be_bytes()].concat();
            builder.push(&key, Version(*version), *expiry, value.as_deref());
        }
        builder.finish().to_vec()
    }

    fn columns_of(rows: &[u8]) -> Vec<u8> {
        ColumnsBuilder::default().build(&Block::parse(rows).expect("a block")).to_vec()
    }

    fn models() -> impl Strategy<Value = Model> {
        let front = prop::collection::vec(1u8..4, 0..5);
        let time = prop_oneof![(0u64..50).prop_map(|time| 1_000_000 * time), 0u64..9, any::<u64>()];
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..30));
        let version = prop_oneof![any::<u64>(), 0u64..1 << 24];
        let kept = (version, 0u64..3, value)
            .prop_map(|(version, expiry, value)| (version, if value.is_some() { expiry } else { 0 }, value));
        prop::collection::btree_map((front, time), kept, 1..120)
    }

    proptest! {
        #[test]
        fn a_block_comes_back_as_it_was(models in prop::collection::vec(models(), 1..4)) {
            let (mut builder, mut back) = (ColumnsBuilder::default(), BlockBuilder::new());
            for model in &models {
                let rows = block_of(model);
                let columns = builder.build(&Block::parse(&rows).expect("a block"));
                prop_assert_eq!(read_columns(columns, rows.len(), &mut back), Ok(&rows[..]));
                for other in [0, rows.len() - 1, rows.len() + 1] {
                    prop_assert!(read_columns(columns, other, &mut back).is_err(), "another size");
                }
            }
        }

        #[test]
        fn any_bytes_give_a_block_that_is_right_or_corrupt(
            model in models(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let rows = block_of(&model);
            let mut columns = columns_of(&rows);
            for (index, byte) in changes {
                let at = index.index(columns.len());
                columns[at] = byte;
            }
            let mut back = BlockBuilder::new();
            if let Ok(bytes) = read_columns(&columns, rows.len(), &mut back) {
                Block::parse(bytes).and_then(|block| block.check()).expect("what decodes is right");
            }
        }
    }

    /// Varints of one byte, one after the other.
    fn columns(numbers: [u8; 3], sized: [&[u8]; SIZED_COUNT], values: &[u8]) -> Vec<u8> {
        let lengths = sized.map(|column| column.len() as u8);
        [&numbers[..], &lengths, &sized.concat(), values].concat()
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let fronts = [0, 1, 2, b'a'];
        let good = columns([2, 5, 10], [&fronts, &[0, 3], &[2, 0, 0, 1], &[4, 1], &[]], b"v");
        let mut rows = BlockBuilder::new();
        rows.push(b"a\0\0\0\0\0\0\0\x0a", Version(1 << 16), 0, Some(b"v"));
        rows.push(b"a\0\0\0\0\0\0\0\x19", Version((1 << 16) + 1), 0, None);
        let bytes = rows.finish().to_vec();
        let mut back = BlockBuilder::new();
        assert_eq!(read_columns(&good, bytes.len(), &mut back), Ok(&bytes[..]));
        assert_eq!(
            columns_of(&bytes),
            columns([2, 15, 10], [&fronts, &[0, 1], &[2, 0, 0, 1], &[4, 1], &[]], b"v")
        );
        let mut field_of = |bytes_of: Vec<u8>| {
            read_columns(&bytes_of, bytes.len(), &mut back).expect_err("it is none").field
        };
        let versions = [2, 0, 0, 1];
        assert_eq!(field_of(good[..8].to_vec()), "numbers");
        for (what, wrong) in [
            ("a third entry", columns([3, 5, 10], [&fronts, &[0, 3], &versions, &[4, 1], &[]], b"v")),
            ("the same time", columns([2, 5, 10], [&fronts, &[0, 0], &versions, &[4, 1], &[]], b"v")),
            ("no unit", columns([2, 0, 10], [&fronts, &[0, 3], &versions, &[4, 1], &[]], b"v")),
            (
                "shared with nothing",
                columns([2, 5, 10], [&[1, 1, 2, b'a'], &[0, 3], &versions, &[4, 1], &[]], b"v"),
            ),
            (
                "a front below",
                columns(
                    [2, 5, 10],
                    [&[0, 1, 1, b'b', 0, 1, 1, b'a'], &[0, 3], &versions, &[4, 1], &[]],
                    b"v",
                ),
            ),
            ("an index below 0", columns([2, 5, 10], [&fronts, &[0, 3], &[1, 0, 0, 1], &[4, 1], &[]], b"v")),
            ("a tombstone's value", columns([2, 5, 10], [&fronts, &[0, 3], &versions, &[4, 5], &[]], b"vw")),
            ("an expiry of 0", columns([2, 5, 10], [&fronts, &[0, 3], &versions, &[6, 1], &[0; 8]], b"v")),
            ("no expiry", columns([2, 5, 10], [&fronts, &[0, 3], &versions, &[6, 1], &[]], b"v")),
            ("a value too many", columns([2, 5, 10], [&fronts, &[0, 3], &versions, &[4, 1], &[]], b"vw")),
            ("a value too few", columns([2, 5, 10], [&fronts, &[0, 3], &versions, &[4, 1], &[]], b"")),
            ("a time too many", columns([2, 5, 10], [&fronts, &[0, 3, 1], &versions, &[4, 1], &[]], b"v")),
        ] {
            assert_eq!(field_of(wrong), "entry", "{what}");
        }
        let one = columns([1, 5, 10], [&[0, 1, 1, b'a'], &[0], &[2, 0], &[4], &[]], b"v");
        assert_eq!(field_of(one), "entries");
    }
}
