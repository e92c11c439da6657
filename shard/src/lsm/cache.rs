//! The block cache of a shard: blocks of tables as they are read, decompressed, in memory laid out at start.
//!
//! Sets of eight places; within a set the one that has not been asked for since the hand passed makes room (second
//! chance). Must never grow. Table numbers are never used twice, so a place never holds what another table had.

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

struct Place {
    id: Option<BlockId>,
    bytes: u32,
    asked: Cell<bool>,
}

/// Blocks in memory.
pub(crate) struct BlockCache {
    places: Vec<Place>,
    /// `slot_bytes` for each place.
    memory: Vec<u8>,
    slot_bytes: usize,
    hands: Vec<u8>,
}

impl BlockCache {
    /// Lay out a cache of about `bytes` for blocks of at most `slot_bytes`.
    pub(crate) fn new(bytes: usize, slot_bytes: usize) -> BlockCache {
        let set_count = (bytes / slot_bytes / PLACE_COUNT).max(1);
        let count = set_count * PLACE_COUNT;
        BlockCache {
            places: (0..count).map(|_| Place { id: None, bytes: 0, asked: Cell::new(false) }).collect(),
            memory: vec![0; count * slot_bytes],
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
        (first..first + PLACE_COUNT).find(|place| self.places[*place].id == Some(id))
    }

    /// The block, if it is here.
    pub(crate) fn get(&self, id: BlockId) -> Option<&[u8]> {
        let place = self.find(id)?;
        self.places[place].asked.set(true);
        let first = place * self.slot_bytes;
        Some(&self.memory[first..first + self.places[place].bytes as usize])
    }

    /// Keep a block. One that is larger than a slot is not kept.
    pub(crate) fn put(&mut self, id: BlockId, block: &[u8]) {
        if block.len() > self.slot_bytes || self.find(id).is_some() {
            return;
        }
        let set = self.set(id);
        let place = loop {
            let place = set * PLACE_COUNT + usize::from(self.hands[set]);
            self.hands[set] = (self.hands[set] + 1) % PLACE_COUNT as u8;
            if self.places[place].id.is_none() || !self.places[place].asked.replace(false) {
                break place;
            }
        };
        let first = place * self.slot_bytes;
        self.memory[first..first + block.len()].copy_from_slice(block);
        self.places[place] = Place { id: Some(id), bytes: block.len() as u32, asked: Cell::new(false) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(block: u32) -> BlockId {
        BlockId { table: TableId(7), block }
    }

    #[test]
    fn what_is_asked_for_stays_and_what_is_not_goes() {
        let mut cache = BlockCache::new(8 * 16, 16);
        for block in 0..8 {
            cache.put(id(block), &[block as u8; 16]);
        }
        for block in 8..100 {
            assert_eq!(cache.get(id(3)), Some([3; 16].as_slice()), "asked for each time, it stays");
            cache.put(id(block), &[block as u8; 10]);
            assert_eq!(cache.get(id(block)), Some([block as u8; 10].as_slice()));
        }
        assert_eq!(cache.get(id(4)), None);
    }

    #[test]
    fn a_block_larger_than_a_slot_is_not_kept() {
        let mut cache = BlockCache::new(1 << 10, 16);
        cache.put(id(1), &[1; 17]);
        assert_eq!(cache.get(id(1)), None);
    }

    #[test]
    fn tables_do_not_see_each_others_blocks() {
        let mut cache = BlockCache::new(1 << 16, 16);
        for table in 0..100 {
            cache.put(BlockId { table: TableId(table), block: 1 }, &[table as u8; 3]);
        }
        for table in 0..100 {
            let found = cache.get(BlockId { table: TableId(table), block: 1 });
            assert!(found.is_none_or(|found| found == [table as u8; 3]));
            assert_eq!(cache.get(BlockId { table: TableId(table), block: 0 }), None);
        }
    }
}
