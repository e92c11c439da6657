//! The index of a table: for each data block a key that separates it from the next, and where it lies.
//!
//! Owns the bytes of the index and the search in them. Must never allocate after it was opened. Invariant: an open
//! index was read once from end to end, so that a search meets no wrong byte and needs no error.
//!
//! ```text
//! | header 8 | first key | entry of block 0 | entry of block 1 | ..
//! entry: | shared | unshared | separator's tail | gap | stored bytes | records |
//! ```
//!
//! Every 16th separator stands whole. A search halves an array of the first eight bytes of all separators, which is small
//! and contiguous; only where several blocks, or the key, begin with the same eight does it read a group of entries.

use crate::field::{Corrupt, Table, byte_table};
use crate::table_block::common_prefix;
use crate::table_key::TABLE_KEY_BYTES_MAX;
use crate::table_seal::{BLOCK_HEADER_BYTES, BLOCK_STORED_BYTES_MAX};
use crate::varint;

/// Separators from one that stands whole to the next.
const GROUP_COUNT: usize = 16;
const INDEX_HEADER_BYTES: usize = 8;

byte_table! {
    /// Byte table of the start of an index.
    INDEX_TABLE = "table index", INDEX_HEADER_BYTES;
    I_BLOCK_COUNT = "block_count", 0, 4;
    I_FIRST_KEY_BYTES = "first_key_bytes", 4, 2;
    I_RESERVED = "reserved", 6, 2;
}

/// Where a data block lies in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHandle {
    /// Logical offset in the table.
    pub offset: u64,
    /// Bytes of header and payload.
    pub stored_bytes: u32,
    /// Records in it.
    pub record_count: u32,
}

impl BlockHandle {
    /// The first byte behind the block.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.stored_bytes)
    }
}

/// A short key from `last` on and below `next`: what separates a block from the one behind it.
pub(crate) fn separator<'k>(last: &'k [u8], next: &'k [u8]) -> &'k [u8] {
    // One byte more than they share makes it larger than `last`; it is below `next` if `next` goes on.
    let length = common_prefix(last, next) + 1;
    if length < next.len() { &next[..length] } else { last }
}

/// Makes an index, block by block.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    first_key: Vec<u8>,
    entries: Vec<u8>,
    last: Vec<u8>,
    end: u64,
    block_count: u32,
}

impl IndexBuilder {
    /// Keeps the table's first key.
    pub(crate) fn first_key(&mut self, key: &[u8]) {
        self.first_key.extend_from_slice(key);
    }

    /// The next block and what separates it from the one behind it.
    pub(crate) fn push(&mut self, separator: &[u8], handle: BlockHandle) {
        let whole = (self.block_count as usize).is_multiple_of(GROUP_COUNT);
        let shared = if whole { 0 } else { common_prefix(&self.last, separator) };
        varint::put(&mut self.entries, shared as u64);
        varint::put(&mut self.entries, (separator.len() - shared) as u64);
        self.entries.extend_from_slice(&separator[shared..]);
        varint::put(&mut self.entries, handle.offset - self.end);
        varint::put(&mut self.entries, u64::from(handle.stored_bytes));
        varint::put(&mut self.entries, u64::from(handle.record_count));
        self.last.clear();
        self.last.extend_from_slice(separator);
        self.end = handle.end();
        self.block_count += 1;
    }

    /// Blocks so far.
    pub(crate) fn block_count(&self) -> u32 {
        self.block_count
    }

    /// The index's bytes.
    pub(crate) fn finish(&self) -> Vec<u8> {
        let mut header = [0; INDEX_HEADER_BYTES];
        I_BLOCK_COUNT.put(&mut header, self.block_count.to_le_bytes());
        I_FIRST_KEY_BYTES.put(&mut header, (self.first_key.len() as u16).to_le_bytes());
        [&header[..], &self.first_key, &self.entries].concat()
    }
}

/// Where a group of entries starts.
#[derive(Debug, Clone, Copy)]
struct Group {
    at: u32,
    /// End of the block before the group.
    end: u64,
}

struct Entry {
    shared: usize,
    tail_at: usize,
    tail_end: usize,
    handle: BlockHandle,
    next: usize,
}

/// An open index.
#[derive(Debug, Clone)]
pub struct Index {
    bytes: Box<[u8]>,
    /// The first eight bytes of each separator, as a number.
    heads: Box<[u64]>,
    groups: Box<[Group]>,
    block_count: u32,
    record_count: u64,
    first_key_bytes: usize,
    last_key: Box<[u8]>,
}

/// Orders like the bytes it was made from, where those differ in the first eight.
#[inline]
fn head(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => key.iter().fold(0, |head, byte| head << 8 | u64::from(*byte)) << (64 - 8 * key.len().max(1)),
    }
}

impl Index {
    /// Reads an index from end to end; its blocks must lie in the first `data_bytes` of the table and end there.
    pub fn decode(bytes: Vec<u8>, data_bytes: u64) -> Result<Index, Corrupt> {
        let structure = INDEX_TABLE.structure;
        if bytes.len() < INDEX_HEADER_BYTES || u32::try_from(bytes.len()).is_err() {
            return Err(INDEX_TABLE.corrupt(I_BLOCK_COUNT, 0));
        }
        let block_count = I_BLOCK_COUNT.u32(&bytes);
        let first_key_bytes = usize::from(I_FIRST_KEY_BYTES.u16(&bytes));
        let entries_at = INDEX_HEADER_BYTES + first_key_bytes;
        if !(1..=TABLE_KEY_BYTES_MAX).contains(&first_key_bytes) || entries_at > bytes.len() {
            return Err(INDEX_TABLE.corrupt(I_FIRST_KEY_BYTES, 0));
        }
        if !I_RESERVED.is_zero(&bytes) {
            return Err(INDEX_TABLE.corrupt(I_RESERVED, 0));
        }
        let (mut heads, mut groups) = (Vec::new(), Vec::new());
        let mut last = Vec::with_capacity(TABLE_KEY_BYTES_MAX);
        let (mut at, mut end, mut count, mut record_count) = (entries_at, 0, 0u32, 0u64);
        while at < bytes.len() {
            let wrong = Corrupt { structure, field: "entry", at: at as u64 };
            let entry = take(&bytes, at, end).ok_or(wrong)?;
            let tail = &bytes[entry.tail_at..entry.tail_end];
            let whole = (count as usize).is_multiple_of(GROUP_COUNT);
            let exact = match (last.get(entry.shared), tail.first()) {
                _ if whole => entry.shared == 0 && tail > &last[..],
                (Some(before), Some(now)) => now > before,
                (None, Some(_)) => entry.shared == last.len(),
                _ => false,
            };
            let fits = (BLOCK_HEADER_BYTES + 1..=BLOCK_STORED_BYTES_MAX)
                .contains(&(entry.handle.stored_bytes as usize))
                && entry.handle.record_count > 0
                && entry.handle.end() <= data_bytes;
            if !exact || !fits {
                return Err(wrong);
            }
            last.truncate(entry.shared);
            last.extend_from_slice(tail);
            if last.len() > TABLE_KEY_BYTES_MAX {
                return Err(wrong);
            }
            heads.push(head(&last));
            if whole {
                groups.push(Group { at: at as u32, end });
                if count == 0 && last[..] < bytes[INDEX_HEADER_BYTES..entries_at] {
                    return Err(INDEX_TABLE.corrupt(I_FIRST_KEY_BYTES, 0));
                }
            }
            record_count += u64::from(entry.handle.record_count);
            count = count.saturating_add(1);
            (at, end) = (entry.next, entry.handle.end());
        }
        if count == 0 || count != block_count || end != data_bytes {
            return Err(INDEX_TABLE.corrupt(I_BLOCK_COUNT, 0));
        }
        Ok(Index {
            bytes: bytes.into(),
            heads: heads.into(),
            groups: groups.into(),
            block_count,
            record_count,
            first_key_bytes,
            last_key: last.into(),
        })
    }

    /// Data blocks of the table, at least one.
    #[must_use]
    pub fn block_count(&self) -> u32 {
        self.block_count
    }

    /// Records of the table.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.record_count
    }

    /// Memory that the index takes, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Index>()
            + self.bytes.len()
            + self.last_key.len()
            + size_of_val(&self.heads[..])
            + size_of_val(&self.groups[..])
    }

    /// The first key of the table.
    #[must_use]
    pub fn first_key(&self) -> &[u8] {
        &self.bytes[INDEX_HEADER_BYTES..INDEX_HEADER_BYTES + self.first_key_bytes]
    }

    /// The last key of the table.
    #[must_use]
    pub fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    fn entry(&self, at: usize, end: u64) -> Entry {
        take(&self.bytes, at, end).expect("every entry was read when the index was opened")
    }

    /// The separator that a group starts with.
    fn group_key(&self, group: usize) -> &[u8] {
        let entry = self.entry(self.groups[group].at as usize, self.groups[group].end);
        &self.bytes[entry.tail_at..entry.tail_end]
    }

    /// The number and place of the only block that can hold `key`, and of the first that can hold a key from `key` on;
    /// `None` behind the last key.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<(u32, BlockHandle)> {
        let block = self.find_block(key)?;
        self.handle(block).map(|handle| (block, handle))
    }

    /// The same, its number alone.
    #[must_use]
    #[inline]
    pub fn find_block(&self, key: &[u8]) -> Option<u32> {
        let wanted = head(key);
        // Blocks whose separators are below the key: all with a lower head, and of those with the same head the first ones.
        let first = self.heads.partition_point(|head| *head < wanted);
        match self.heads.get(first) {
            Some(head) if *head == wanted => self.find_from(key, first, wanted),
            Some(_) => Some(first as u32),
            None => None,
        }
    }

    /// The same, where the separators from `first` on begin with the same eight bytes as the key.
    fn find_from(&self, key: &[u8], first: usize, wanted: u64) -> Option<u32> {
        let behind = first + self.heads[first..].partition_point(|head| *head == wanted);
        // Groups that start below the key.
        let (mut low, mut high) = (first.div_ceil(GROUP_COUNT), behind.div_ceil(GROUP_COUNT));
        while low < high {
            let middle = (low + high) / 2;
            if self.group_key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let group = low.saturating_sub(1);
        let (mut at, mut end) = (self.groups[group].at as usize, self.groups[group].end);
        let mut block = (group * GROUP_COUNT) as u32;
        // As in `Block::get`: the separator before is below `key` and shares its first `matched` bytes.
        let mut matched = 0;
        while block < self.block_count {
            let entry = self.entry(at, end);
            if (block as usize).is_multiple_of(GROUP_COUNT) {
                matched = 0;
            }
            let below = if entry.shared == matched {
                let (tail, rest) = (&self.bytes[entry.tail_at..entry.tail_end], &key[matched..]);
                let common = common_prefix(tail, rest);
                matched += common;
                tail[common..] < rest[common..]
            } else {
                entry.shared > matched
            };
            if !below {
                return Some(block);
            }
            (at, end) = (entry.next, entry.handle.end());
            block += 1;
        }
        None
    }

    /// The number of the block that begins at `offset`, or of the first one behind; the block count when there is none.
    #[must_use]
    pub fn block_at(&self, offset: u64) -> u32 {
        let group = self.groups.partition_point(|group| group.end <= offset).saturating_sub(1);
        let mut block = (group * GROUP_COUNT) as u32;
        while self.handle(block).is_some_and(|handle| handle.offset < offset) {
            block += 1;
        }
        block
    }

    /// Where a block lies, by its number; `None` from the block count on.
    #[must_use]
    pub fn handle(&self, block: u32) -> Option<BlockHandle> {
        if block >= self.block_count {
            return None;
        }
        let group = self.groups[block as usize / GROUP_COUNT];
        let mut entry = self.entry(group.at as usize, group.end);
        for _ in 0..block as usize % GROUP_COUNT {
            entry = self.entry(entry.next, entry.handle.end());
        }
        Some(entry.handle)
    }
}

/// The entry at `at`, the block before it ending at `end`.
#[inline]
fn take(bytes: &[u8], at: usize, end: u64) -> Option<Entry> {
    let (shared, at) = varint::take(bytes, at)?;
    let (unshared, tail_at) = varint::take(bytes, at)?;
    let limit = TABLE_KEY_BYTES_MAX as u64;
    if shared > limit || unshared > limit {
        return None;
    }
    let tail_end = tail_at + unshared as usize;
    let (gap, at) = varint::take(bytes, tail_end)?;
    let (stored_bytes, at) = varint::take(bytes, at)?;
    let (record_count, next) = varint::take(bytes, at)?;
    let handle = BlockHandle {
        offset: end.checked_add(gap)?,
        stored_bytes: u32::try_from(stored_bytes).ok()?,
        record_count: u32::try_from(record_count).ok()?,
    };
    handle.offset.checked_add(stored_bytes)?;
    Some(Entry { shared: shared as usize, tail_at, tail_end, handle, next })
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 1] = [INDEX_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    type Blocks = Vec<(Vec<u8>, BlockHandle)>;

    fn build(keys: &BTreeSet<Vec<u8>>, gap: u64) -> (Blocks, Vec<u8>) {
        let mut builder = IndexBuilder::default();
        let mut blocks = Blocks::new();
        let mut end = 0;
        builder.first_key(keys.first().expect("a key"));
        for (number, key) in keys.iter().enumerate() {
            let offset = end + if number % 3 == 1 { gap } else { 0 };
            let handle =
                BlockHandle { offset, stored_bytes: 17 + number as u32, record_count: 1 + number as u32 };
            builder.push(key, handle);
            end = handle.end();
            blocks.push((key.clone(), handle));
        }
        assert_eq!(builder.block_count() as usize, keys.len());
        (blocks, builder.finish())
    }

    fn keys() -> impl Strategy<Value = BTreeSet<Vec<u8>>> {
        let byte = prop_oneof![Just(0u8), Just(1), Just(0xff)];
        prop::collection::btree_set(prop::collection::vec(byte, 1..12), 1..150)
    }

    proptest! {
        #[test]
        fn finds_like_a_sorted_list(keys in keys(), gap in 0u64..9000, probes in prop::collection::vec(
            prop::collection::vec(0u8..3, 0..12), 30,
        )) {
            let (blocks, bytes) = build(&keys, gap);
            let data_bytes = blocks.last().expect("a block").1.end();
            let index = Index::decode(bytes, data_bytes).expect("what was built");
            prop_assert_eq!(index.block_count() as usize, blocks.len());
            prop_assert_eq!(index.first_key(), &blocks[0].0[..]);
            prop_assert_eq!(index.last_key(), &blocks[blocks.len() - 1].0[..]);
            for (number, (key, handle)) in blocks.iter().enumerate() {
                prop_assert_eq!(index.handle(number as u32), Some(*handle));
                prop_assert_eq!(index.find(key), Some((number as u32, *handle)));
                prop_assert_eq!(index.find_block(key), Some(number as u32));
            }
            prop_assert_eq!(index.handle(blocks.len() as u32), None);
            for mut probe in probes {
                probe.iter_mut().for_each(|byte| if *byte == 2 { *byte = 0xff });
                let number = blocks.partition_point(|(key, _)| key < &probe);
                let expected = blocks.get(number).map(|(_, handle)| (number as u32, *handle));
                prop_assert_eq!(index.find(&probe), expected);
            }
        }

        #[test]
        fn any_bytes_give_an_index_or_corrupt(
            keys in keys(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let (blocks, mut bytes) = build(&keys, 3);
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(index) = Index::decode(bytes, blocks[blocks.len() - 1].1.end()) {
                for key in &keys {
                    let _ = index.find(key);
                }
                (0..index.block_count()).for_each(|block| assert!(index.handle(block).is_some()));
            }
        }

        #[test]
        fn separators_separate(a in prop::collection::vec(0u8..3, 1..6), b in prop::collection::vec(0u8..3, 1..6)) {
            prop_assume!(a < b);
            let between = separator(&a, &b);
            prop_assert!(&a[..] <= between && between < &b[..], "{a:?} {between:?} {b:?}");
        }
    }

    #[test]
    fn wrong_places_and_counts_are_refused() {
        let keys: BTreeSet<Vec<u8>> = (0..40u8).map(|key| vec![key, 7]).collect();
        let (blocks, bytes) = build(&keys, 0);
        let end = blocks[39].1.end();
        assert!(Index::decode(bytes.clone(), end).is_ok());
        assert_eq!(Index::decode(bytes.clone(), end - 1).expect_err("behind the data").field, "entry");
        assert_eq!(Index::decode(bytes.clone(), end + 1).expect_err("a gap at the end").field, "block_count");
        assert!(Index::decode(bytes[..bytes.len() - 1].to_vec(), end).is_err());
        let mut fewer = bytes.clone();
        fewer[0] -= 1;
        assert_eq!(Index::decode(fewer, end).expect_err("a count").field, "block_count");
        for length in 0..10 {
            assert!(Index::decode(vec![0; length], 0).is_err());
        }
    }
}
