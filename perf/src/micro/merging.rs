//! Two blocks whose keys alternate, walked through as one and built anew: what a merge does for each record, without its reads.

use layout::table_block::{Block, BlockBuilder};
use layout::table_cursor::Cursor;

/// Two places, one in each block.
pub(super) struct Merging<'a> {
    blocks: [Block<'a>; 2],
    cursors: [Cursor; 2],
    built: BlockBuilder,
}

impl<'a> Merging<'a> {
    /// At the first record of both.
    pub(super) fn new(blocks: [Block<'a>; 2]) -> Merging<'a> {
        let mut merging =
            Merging { blocks, cursors: [Cursor::new(), Cursor::new()], built: BlockBuilder::new() };
        merging.begin();
        merging
    }

    fn begin(&mut self) {
        for (cursor, block) in self.cursors.iter_mut().zip(&self.blocks) {
            cursor.seek_first(block).expect("a block just built is whole");
        }
        self.built.clear();
    }

    /// The record of the least key goes into the new block. At the end of both it begins again.
    pub(super) fn step(&mut self) {
        let least = match (self.cursors[0].key(), self.cursors[1].key()) {
            (Some(one), Some(other)) => usize::from(one > other),
            (Some(_), None) => 0,
            (None, Some(_)) => 1,
            (None, None) => {
                self.begin();
                0
            }
        };
        let (cursor, block) = (&mut self.cursors[least], &self.blocks[least]);
        let entry = cursor.entry(block).expect("a block just built is whole").expect("it stands at a record");
        let record = entry.record;
        self.built.push(entry.key, record.version, record.expiry_us, record.value);
        cursor.next(block).expect("a block just built is whole");
    }
}
