//! The block cache of a shard: blocks of tables as they are read, decompressed, in memory laid out at start.
//!
//! Sets of eight places; within a set the one that has not been asked for since the hand passed makes room (second
//! chance). Must never grow. Table numbers are never used twice, so a place never holds what another table had.
//!
//! A table remembers where each of its blocks was put, and the place says itself what it holds: so a get reads neither sets nor
//! hashes, and the first line of the place has the begin of the block's directory. A get that is looked ahead at brings
//! near those lines, then the entry that they name.

use layout::Corrupt;
use layout::table_block::{Block, Record};
use layout::table_directory::{Directory, write_directory};
use layout::units::TableId;
use std::cell::Cell;

/// Places in a set.
const PLACE_COUNT: usize = 8;

/// Which block: number of the table, number of the block in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockId {
    pub(crate) table: TableId,
    pub(crate) block: u32,
}

impl BlockId {
    fn hash(self) -> u64 {
        let mixed =
            (self.table.0 ^ u64::from(self.block).rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }
}

/// A slot begins with: table 8, block 4, bytes of the block 4, bytes of its directory 4; the block stands at its end.
/// Bytes of 0: nothing is in it.
const HEAD_BYTES: usize = 20;
/// In place of the directory's bytes: none was made yet.
const NOT_MADE: u32 = u32::MAX;
/// What slots begin at a multiple of.
const LINE_BYTES: usize = 64;
/// Lines of a slot that a search of its directory begins with.
const LINES_NEAR: usize = 2;
/// Lines of an entry that a search reads: its key, and a small value.
const ENTRY_LINES_NEAR: usize = 3;

/// Blocks in memory.
pub(crate) struct BlockCache {
    places: Vec<Option<BlockId>>,
    /// Whether a place was asked for since the hand passed. Not in the slot: the hand reads eight of them.
    asked: Vec<Cell<bool>>,
    /// `stride` for each place, from `first` on: head, directory, block.
    memory: Vec<u8>,
    first: usize,
    stride: usize,
    slot_bytes: usize,
    hands: Vec<u8>,
}

/// A block that is here.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'a> {
    /// `None`: not made yet; empty: it cannot have one.
    directory: Option<&'a [u8]>,
    raw: &'a [u8],
}

impl<'a> Kept<'a> {
    /// The record of an encoded key with this [`layout::table_key::key_hash`].
    #[inline]
    pub(crate) fn get(&self, key: &[u8], hash: u64) -> Result<Option<Record<'a>>, Corrupt> {
        match self.directory {
            Some(directory) if !directory.is_empty() => Directory::new(directory, self.raw).get(key, hash),
            _ => Block::parse(self.raw)?.get(key),
        }
    }

    /// Was it not tried yet to make its directory?
    #[inline]
    pub(crate) fn wants_directory(&self) -> bool {
        self.directory.is_none()
    }

    /// Ask the processor for what a search for a key with this hash will read.
    #[inline]
    pub(crate) fn prefetch_entry(&self, hash: u64) {
        let Some(directory) = self.directory.filter(|directory| !directory.is_empty()) else { return };
        let mut lines = ENTRY_LINES_NEAR;
        Directory::new(directory, self.raw).steps(hash, |offset| {
            for line in 0..lines {
                ioengine::memory::prefetch(self.raw, offset + line * LINE_BYTES);
            }
            lines = 1;
        });
    }
}

impl BlockCache {
    /// Lay out a cache of about `bytes` for blocks of at most `slot_bytes`.
    pub(crate) fn new(bytes: usize, slot_bytes: usize) -> BlockCache {
        let set_count = (bytes / slot_bytes / PLACE_COUNT).max(1);
        let count = set_count * PLACE_COUNT;
        let stride = (HEAD_BYTES + slot_bytes).next_multiple_of(LINE_BYTES);
        // Zeroed memory of the system: not touched yet, so it can still get huge pages.
        let mut memory = vec![0; count * stride + LINE_BYTES];
        ioengine::memory::prefer_huge_pages(&mut memory);
        let first = memory.as_ptr().align_offset(LINE_BYTES);
        BlockCache {
            places: vec![None; count],
            asked: vec![Cell::new(false); count],
            memory,
            first,
            stride,
            slot_bytes,
            hands: vec![0; set_count],
        }
    }

    fn set(&self, id: BlockId) -> usize {
        let sets = self.hands.len() as u128;
        ((u128::from(id.hash()) * sets) >> 64) as usize
    }

    fn find(&self, id: BlockId) -> Option<usize> {
        let first = self.set(id) * PLACE_COUNT;
        (first..first + PLACE_COUNT).find(|place| self.places[*place] == Some(id))
    }

    #[inline]
    fn slot_at(&self, place: u32) -> usize {
        self.first + place as usize * self.stride
    }

    /// Ask the processor for the begin of a place.
    #[inline]
    pub(crate) fn prefetch(&self, place: u32) {
        for line in 0..LINES_NEAR {
            ioengine::memory::prefetch(&self.memory, self.slot_at(place) + line * LINE_BYTES);
        }
    }

    /// The block, if it is here; `place` is where it was put. Does not count as asking.
    #[inline]
    pub(crate) fn peek(&self, place: u32, id: BlockId) -> Option<Kept<'_>> {
        let at = self.slot_at(place);
        let slot = self.memory.get(at..at + self.stride)?;
        let number = |at: usize| u32::from_le_bytes(*slot[at..].first_chunk().expect("a slot has its head"));
        let table = u64::from_le_bytes(*slot.first_chunk().expect("a slot has its head"));
        let (raw_bytes, directory_bytes) = (number(12) as usize, number(16));
        if raw_bytes == 0 || table != id.table.0 || number(8) != id.block {
            return None;
        }
        let (rest, raw) = slot[HEAD_BYTES..].split_at(self.stride - HEAD_BYTES - raw_bytes);
        let directory = (directory_bytes != NOT_MADE).then(|| &rest[..directory_bytes as usize]);
        Some(Kept { directory, raw })
    }

    /// The block, if it is here; `place` is where it was put.
    #[inline]
    pub(crate) fn get(&self, place: u32, id: BlockId) -> Option<Kept<'_>> {
        let kept = self.peek(place, id)?;
        self.asked[place as usize].set(true);
        Some(kept)
    }

    /// Keep a block; where. Its directory is made when it is asked for again: most blocks that are read from the device never are.
    /// One that is larger than a slot is not kept.
    pub(crate) fn put(&mut self, id: BlockId, block: &[u8]) -> Option<u32> {
        if block.len() > self.slot_bytes || block.is_empty() || self.find(id).is_some() {
            return None;
        }
        let set = self.set(id);
        let place = loop {
            let place = set * PLACE_COUNT + usize::from(self.hands[set]);
            self.hands[set] = (self.hands[set] + 1) % PLACE_COUNT as u8;
            if self.places[place].is_none() || !self.asked[place].replace(false) {
                break place;
            }
        };
        self.places[place] = Some(id);
        self.asked[place].set(false);
        let at = self.slot_at(place as u32);
        let slot = &mut self.memory[at..at + self.stride];
        slot[self.stride - block.len()..].copy_from_slice(block);
        slot[..8].copy_from_slice(&id.table.0.to_le_bytes());
        for (at, number) in [(8, id.block), (12, block.len() as u32), (16, NOT_MADE)] {
            slot[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        Some(place as u32)
    }

    /// Make the directory of the block that is there, if both fit the slot.
    pub(crate) fn make_directory(&mut self, place: u32) {
        let (at, stride) = (self.slot_at(place), self.stride);
        let Some((head, rest)) =
            self.memory.get_mut(at..at + stride).and_then(|slot| slot.split_at_mut_checked(HEAD_BYTES))
        else {
            return;
        };
        let (front, directory_bytes) = head.split_at_mut(HEAD_BYTES - 4);
        let raw_bytes = u32::from_le_bytes(*front.last_chunk().expect("a head ends with two sizes")) as usize;
        let (room, raw) = rest.split_at_mut(stride - HEAD_BYTES - raw_bytes);
        let made = Block::parse(raw).ok().and_then(|block| write_directory(&block, room)).unwrap_or(0);
        directory_bytes.copy_from_slice(&(made as u32).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::table_block::BlockBuilder;
    use layout::table_key::key_hash;
    use layout::units::Version;

    fn id(block: u32) -> BlockId {
        BlockId { table: TableId(7), block }
    }

    /// Where blocks were put, as tables remember it.
    #[derive(Default)]
    struct Places(Vec<(BlockId, u32)>);

    impl Places {
        fn put(&mut self, cache: &mut BlockCache, id: BlockId, block: &[u8]) {
            let Some(place) = cache.put(id, block) else { return };
            self.0.retain(|(other, _)| *other != id);
            self.0.push((id, place));
        }

        fn get<'c>(&self, cache: &'c BlockCache, id: BlockId) -> Option<&'c [u8]> {
            let (_, place) = self.0.iter().find(|(other, _)| *other == id)?;
            cache.get(*place, id).map(|kept| kept.raw)
        }
    }

    #[test]
    fn what_is_asked_for_stays_and_what_is_not_goes() {
        let (mut cache, mut places) = (BlockCache::new(8 * 16, 16), Places::default());
        for block in 0..8 {
            places.put(&mut cache, id(block), &[block as u8; 16]);
        }
        for block in 8..100 {
            assert_eq!(places.get(&cache, id(3)), Some([3; 16].as_slice()), "asked for each time, it stays");
            places.put(&mut cache, id(block), &[block as u8; 10]);
            assert_eq!(places.get(&cache, id(block)), Some([block as u8; 10].as_slice()));
        }
        assert_eq!(places.get(&cache, id(4)), None);
    }

    #[test]
    fn a_block_larger_than_a_slot_is_not_kept() {
        let mut cache = BlockCache::new(1 << 10, 16);
        assert_eq!(cache.put(id(1), &[1; 17]), None);
        assert!(cache.peek(0, id(0)).is_none() && cache.peek(u32::MAX, id(0)).is_none());
    }

    #[test]
    fn tables_do_not_see_each_others_blocks() {
        let (mut cache, mut places) = (BlockCache::new(1 << 16, 16), Places::default());
        for table in 0..100 {
            places.put(&mut cache, BlockId { table: TableId(table), block: 1 }, &[table as u8; 3]);
        }
        for table in 0..100 {
            let found = places.get(&cache, BlockId { table: TableId(table), block: 1 });
            assert!(found.is_none_or(|found| found == [table as u8; 3]));
            assert_eq!(places.get(&cache, BlockId { table: TableId(table), block: 0 }), None);
        }
    }

    #[test]
    fn records_are_found_with_a_directory_and_without() {
        for (slot_bytes, has_directory) in [(6000, true), (4125, false)] {
            let mut builder = BlockBuilder::new();
            for number in 0..30u64 {
                builder.push(&number.to_be_bytes(), Version(number + 1), 0, Some(&[number as u8; 128]));
            }
            let block = builder.finish();
            let mut cache = BlockCache::new(1 << 16, slot_bytes);
            let place = cache.put(id(1), block).expect("it fits");
            for is_made in [false, true] {
                let kept = cache.get(place, id(1)).expect("it was put there");
                assert_eq!((kept.wants_directory(), kept.raw), (!is_made, block), "{}", block.len());
                assert_eq!(kept.directory.is_some_and(|bytes| !bytes.is_empty()), is_made && has_directory);
                for number in 0..31u64 {
                    let key = number.to_be_bytes();
                    kept.prefetch_entry(key_hash(&key));
                    let found = kept.get(&key, key_hash(&key)).expect("nothing is wrong");
                    let expected = (number < 30).then_some(Version(number + 1));
                    assert_eq!(found.map(|record| record.version), expected);
                }
                cache.make_directory(place);
            }
            cache.make_directory(u32::MAX);
        }
    }
}
