//! A place in a table: goes forward and backward over its records, one block in memory at a time. Places in several
//! tables go through them as through one.

use super::table::Table;
use super::zone::ReadError;
use crate::memtable::Direction;
use layout::table_block::{Block, BlockEntry};
use layout::table_cursor::Cursor;
use layout::table_seal::Decompressor;
use layout::units::LogIndex;
use std::rc::Rc;

/// Bytes of a table that were read together.
#[derive(Default)]
pub(crate) struct Window {
    offset: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Read another part of the table.
    pub(super) async fn load(&mut self, table: &Table, offset: u64, bytes: usize) -> Result<(), ReadError> {
        self.bytes.clear();
        self.offset = offset;
        table.read_data(offset, bytes, &mut self.bytes).await
    }

    /// The part of the window that a place in the table covers.
    pub(crate) fn part(&self, offset: u64, bytes: usize) -> Option<&[u8]> {
        let begin = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        self.bytes.get(begin..begin.checked_add(bytes)?)
    }
}

/// A place in a table.
pub(crate) struct TableCursor {
    pub(crate) table: Rc<Table>,
    number: u32,
    raw: Vec<u8>,
    cursor: Cursor,
    window: Window,
    /// How much is read at once when blocks are walked through in order; 0 = each block alone.
    window_bytes: u64,
    /// What it grows to.
    window_bytes_max: u64,
    /// Bytes read so far.
    read_bytes: u64,
}

impl TableCursor {
    /// At no record. Once blocks are walked through in order, `window_bytes` are read at once.
    pub(crate) fn new(table: Rc<Table>, window_bytes: u64) -> Result<TableCursor, ReadError> {
        if table.is_broken() {
            return Err(ReadError::Broken { table: table.place.id });
        }
        Ok(TableCursor {
            table,
            number: 0,
            raw: Vec::new(),
            cursor: Cursor::new(),
            window: Window::default(),
            window_bytes: 0,
            window_bytes_max: window_bytes,
            read_bytes: 0,
        })
    }

    fn corrupt(&self, corrupt: layout::Corrupt) -> ReadError {
        ReadError::Corrupt { table: self.table.place.id, corrupt }
    }

    async fn load(&mut self, number: u32, unpack: &mut Decompressor) -> Result<(), ReadError> {
        let handle = self.table.parts().index.handle(number).expect("the number is below the count");
        let bytes = handle.stored_bytes as usize;
        if self.window.part(handle.offset, bytes).is_none() {
            let left = self.table.parts().footer.data_bytes.saturating_sub(handle.offset);
            let want = self.window_bytes.min(left).max(bytes as u64) as usize;
            self.window.load(&self.table, handle.offset, want).await?;
            self.read_bytes += want as u64;
            self.window_bytes = (self.window_bytes * 2).max(16 << 10).min(self.window_bytes_max);
        }
        let stored = self.window.part(handle.offset, bytes).expect("just read");
        self.raw.clear();
        self.table.unpack(handle.offset, stored, unpack, &mut self.raw)?;
        self.number = number;
        self.cursor = Cursor::new();
        Ok(())
    }

    fn block(&self) -> Result<Block<'_>, ReadError> {
        Block::parse(&self.raw).map_err(|corrupt| self.corrupt(corrupt))
    }

    /// Move within the block: `step` on the cursor. True when it is at a record then.
    fn within(
        &mut self,
        step: impl FnOnce(&mut Cursor, &Block<'_>) -> Result<bool, layout::Corrupt>,
    ) -> Result<bool, ReadError> {
        let mut cursor = std::mem::take(&mut self.cursor);
        let result = step(&mut cursor, &self.block()?);
        self.cursor = cursor;
        result.map_err(|corrupt| self.corrupt(corrupt))
    }

    /// To the first record.
    pub(crate) async fn seek_first(&mut self, unpack: &mut Decompressor) -> Result<bool, ReadError> {
        self.load(0, unpack).await?;
        self.within(|cursor, block| cursor.seek_first(block))
    }

    /// To the first record whose key is not below `key`. True when there is one.
    pub(crate) async fn seek(&mut self, key: &[u8], unpack: &mut Decompressor) -> Result<bool, ReadError> {
        let found = self.table.parts().index.find(key);
        let Some((number, _)) = found else {
            self.cursor = Cursor::new();
            return Ok(false);
        };
        self.load(number, unpack).await?;
        if self.within(|cursor, block| cursor.seek(block, key))? {
            return Ok(true);
        }
        self.next_block(unpack).await
    }

    /// To the last record whose key is not above `key`. True when there is one.
    pub(crate) async fn seek_back(
        &mut self,
        key: &[u8],
        unpack: &mut Decompressor,
    ) -> Result<bool, ReadError> {
        let found = self.table.parts().index.find(key);
        let number = found.map_or(self.table.parts().index.block_count() - 1, |(number, _)| number);
        self.load(number, unpack).await?;
        if self.within(|cursor, block| cursor.seek_back(block, key))? {
            return Ok(true);
        }
        self.previous_block(unpack).await
    }

    async fn next_block(&mut self, unpack: &mut Decompressor) -> Result<bool, ReadError> {
        if self.number + 1 >= self.table.parts().index.block_count() {
            self.cursor = Cursor::new();
            return Ok(false);
        }
        self.load(self.number + 1, unpack).await?;
        self.within(|cursor, block| cursor.seek_first(block))
    }

    async fn previous_block(&mut self, unpack: &mut Decompressor) -> Result<bool, ReadError> {
        let Some(number) = self.number.checked_sub(1) else {
            self.cursor = Cursor::new();
            return Ok(false);
        };
        self.load(number, unpack).await?;
        self.within(|cursor, block| cursor.seek_last(block))
    }

    /// To the next record. True when there is one.
    pub(crate) async fn next(&mut self, unpack: &mut Decompressor) -> Result<bool, ReadError> {
        if !self.cursor.is_at_entry() {
            return Ok(false);
        }
        if self.within(|cursor, block| cursor.next(block))? {
            return Ok(true);
        }
        self.next_block(unpack).await
    }

    /// To the record before. True when there is one.
    pub(crate) async fn previous(&mut self, unpack: &mut Decompressor) -> Result<bool, ReadError> {
        if !self.cursor.is_at_entry() {
            return Ok(false);
        }
        if self.within(|cursor, block| cursor.previous(block))? {
            return Ok(true);
        }
        self.previous_block(unpack).await
    }

    /// The key here.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.cursor.key()
    }

    /// The record here, with its key.
    pub(crate) fn entry(&self) -> Result<Option<BlockEntry<'_>>, ReadError> {
        // The cursor borrows the block's bytes, which are ours.
        let block = self.block()?;
        self.cursor.entry(&block).map_err(|corrupt| self.corrupt(corrupt))
    }
}

/// Cursors over tables, newest first, that go through them as through one.
pub(crate) struct Cursors {
    cursors: Vec<TableCursor>,
    direction: Direction,
}

impl Cursors {
    /// None yet, with room for `count`.
    pub(crate) fn new(count: usize, direction: Direction) -> Cursors {
        Cursors { cursors: Vec::with_capacity(count), direction }
    }

    /// Bytes that all of them have read.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.cursors.iter().map(|cursor| cursor.read_bytes).sum()
    }

    /// One more, over an older table than those before.
    pub(crate) fn push(&mut self, cursor: TableCursor) {
        self.cursors.push(cursor);
    }

    /// The cursor with the next key; of equal ones that of the newest table. Only keys that begin with `prefix`.
    pub(crate) fn next(&self, prefix: &[u8]) -> Option<&TableCursor> {
        let mut best: Option<(&TableCursor, &[u8])> = None;
        for cursor in &self.cursors {
            let Some(key) = cursor.key().filter(|key| key.starts_with(prefix)) else { continue };
            let is_before = best.is_none_or(|(_, best)| match self.direction {
                Direction::Forward => key < best,
                Direction::Backward => key > best,
            });
            if is_before {
                best = Some((cursor, key));
            }
        }
        best.map(|(cursor, _)| cursor)
    }

    /// The newest record of `key`, which the cursors stand at, that was written up to this entry.
    pub(crate) fn newest_upto(
        &self,
        key: &[u8],
        upto: LogIndex,
    ) -> Result<Option<BlockEntry<'_>>, ReadError> {
        for cursor in self.cursors.iter().filter(|cursor| cursor.key() == Some(key)) {
            let entry = cursor.entry()?.filter(|entry| entry.record.version.log_index(0) <= upto);
            if entry.is_some() {
                return Ok(entry);
            }
        }
        Ok(None)
    }

    /// Move every cursor that is at `key` on.
    pub(crate) async fn advance(&mut self, key: &[u8], unpack: &mut Decompressor) -> Result<(), ReadError> {
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.key() == Some(key)) {
            match self.direction {
                Direction::Forward => cursor.next(unpack).await?,
                Direction::Backward => cursor.previous(unpack).await?,
            };
        }
        Ok(())
    }

    /// Move every cursor that is not behind `key` there, past the keys between. Forward only.
    pub(crate) async fn pass(&mut self, key: &[u8], unpack: &mut Decompressor) -> Result<(), ReadError> {
        for cursor in self.cursors.iter_mut().filter(|cursor| cursor.key().is_some_and(|at| at <= key)) {
            cursor.seek(key, unpack).await?;
        }
        self.advance(key, unpack).await
    }
}
