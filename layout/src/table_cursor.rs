//! A place in a data block: seek, step forward, step back.
//!
//! Owns the key at that place, built in a buffer of its own. Must never allocate, and never holds a block: who keeps
//! the block's bytes keeps the cursor beside them and gives the block to each call. Invariant: at an entry, the
//! buffer holds exactly its key; after an error or behind either end the cursor is at no entry.

use crate::field::Corrupt;
use crate::table_block::{Block, BlockEntry, RESTART_COUNT, RawEntry};
use crate::table_key::TABLE_KEY_BYTES_MAX;

/// A place in a block. Every call takes the same block until the next seek.
#[derive(Clone)]
pub struct Cursor {
    key: [u8; TABLE_KEY_BYTES_MAX],
    key_bytes: usize,
    /// Number of the entry in the block.
    number: usize,
    entry: Option<RawEntry>,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.entry {
            Some(_) => write!(f, "Cursor at {} {:x?}", self.number, &self.key[..self.key_bytes]),
            None => write!(f, "Cursor at no entry"),
        }
    }
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor::new()
    }
}

impl Cursor {
    /// At no entry.
    #[must_use]
    pub fn new() -> Cursor {
        Cursor { key: [0; TABLE_KEY_BYTES_MAX], key_bytes: 0, number: 0, entry: None }
    }

    /// True at an entry.
    #[must_use]
    pub fn is_at_entry(&self) -> bool {
        self.entry.is_some()
    }

    /// The encoded key here; `None` at no entry.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.entry.map(|_| &self.key[..self.key_bytes])
    }

    /// The entry here; `None` at no entry.
    pub fn entry<'c>(&'c self, block: &Block<'c>) -> Result<Option<BlockEntry<'c>>, Corrupt> {
        let Some(entry) = &self.entry else { return Ok(None) };
        assert!(entry.next <= block.entries().len(), "a cursor is asked with the block it was placed in");
        Ok(Some(BlockEntry { key: &self.key[..self.key_bytes], record: block.record(entry)? }))
    }

    /// Reads entry `number` at `at`, the key buffer holding the key before it. True when there is one.
    fn read(&mut self, block: &Block<'_>, number: usize, at: usize) -> Result<bool, Corrupt> {
        self.entry = None;
        if number == block.entry_count() {
            return if at == block.entries().len() {
                Ok(false)
            } else {
                Err(Block::wrong("entry_count", at))
            };
        }
        let restart = number.is_multiple_of(RESTART_COUNT);
        let entry = block.entry_at(at)?;
        let fits = if restart {
            block.restart(number / RESTART_COUNT) == at && entry.shared == 0
        } else {
            entry.shared <= self.key_bytes
        };
        if !fits {
            return Err(Block::wrong("entry", at));
        }
        let tail = &block.entries()[entry.tail_at..entry.body_at];
        self.key_bytes = entry.shared + tail.len();
        self.key[entry.shared..self.key_bytes].copy_from_slice(tail);
        self.number = number;
        self.entry = Some(entry);
        Ok(true)
    }

    fn read_restart(&mut self, block: &Block<'_>, group: usize) -> Result<bool, Corrupt> {
        self.key_bytes = 0;
        self.read(block, group * RESTART_COUNT, block.restart(group))
    }

    /// To the first entry. Like every move, answers whether the cursor is at an entry then.
    pub fn seek_first(&mut self, block: &Block<'_>) -> Result<bool, Corrupt> {
        self.read_restart(block, 0)
    }

    /// To the last entry.
    pub fn seek_last(&mut self, block: &Block<'_>) -> Result<bool, Corrupt> {
        self.seek_number(block, block.entry_count() - 1)
    }

    /// To the entry of this number, which is below the block's count.
    pub(crate) fn seek_number(&mut self, block: &Block<'_>, number: usize) -> Result<bool, Corrupt> {
        let mut found = self.read_restart(block, number / RESTART_COUNT)?;
        while found && self.number < number {
            found = self.next(block)?;
        }
        Ok(found)
    }

    /// To the first entry whose key is not below `key`.
    pub fn seek(&mut self, block: &Block<'_>, key: &[u8]) -> Result<bool, Corrupt> {
        self.entry = None;
        let group = block.group_of(key)?.unwrap_or(0);
        let mut found = self.read_restart(block, group)?;
        while found && &self.key[..self.key_bytes] < key {
            found = self.next(block)?;
        }
        Ok(found)
    }

    /// To the last entry whose key is not above `key`.
    pub fn seek_back(&mut self, block: &Block<'_>, key: &[u8]) -> Result<bool, Corrupt> {
        if !self.seek(block, key)? {
            return self.seek_last(block);
        }
        if &self.key[..self.key_bytes] == key { Ok(true) } else { self.previous(block) }
    }

    /// To the next entry; stays at no entry.
    pub fn next(&mut self, block: &Block<'_>) -> Result<bool, Corrupt> {
        match self.entry {
            Some(entry) => self.read(block, self.number + 1, entry.next),
            None => Ok(false),
        }
    }

    /// To the entry before; stays at no entry. Reads from the restart before it: up to 16 entries.
    pub fn previous(&mut self, block: &Block<'_>) -> Result<bool, Corrupt> {
        match (self.entry.take(), self.number.checked_sub(1)) {
            (Some(_), Some(number)) => self.seek_number(block, number),
            _ => Ok(false),
        }
    }
}

impl Block<'_> {
    /// Reads every entry: keys ascend, each shares exactly what it says, restarts stand where they should, records
    /// can be read. For checkers; a reader meets these one by one.
    pub fn check(&self) -> Result<(), Corrupt> {
        let mut cursor = Cursor::new();
        let mut before = Cursor::new();
        let mut found = cursor.seek_first(self)?;
        while found {
            cursor.entry(self)?;
            let (key, last) = (&cursor.key[..cursor.key_bytes], before.key().unwrap_or_default());
            let entry = cursor.entry.expect("the cursor is at an entry");
            let exact = cursor.number.is_multiple_of(RESTART_COUNT)
                || crate::table_block::common_prefix(key, last) == entry.shared;
            if !exact || key.is_empty() || (before.is_at_entry() && key <= last) {
                return Err(Block::wrong("entry", entry.tail_at));
            }
            before.clone_from(&cursor);
            found = cursor.next(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_block::{BLOCK_RAW_BYTES_MAX, BlockBuilder, Record};
    use crate::units::{VALUE_BYTES_MAX, Version};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Model = BTreeMap<Vec<u8>, (u64, u64, Option<Vec<u8>>)>;

    fn record(kept: &(u64, u64, Option<Vec<u8>>)) -> Record<'_> {
        Record { version: Version(kept.0), expiry_us: kept.1, value: kept.2.as_deref() }
    }

    fn block_of(model: &Model) -> Vec<u8> {
        let mut builder = BlockBuilder::new();
        for (key, kept) in model {
            builder.push(key, Version(kept.0), kept.1, kept.2.as_deref());
        }
        assert_eq!(builder.entry_count(), model.len());
        let bytes = builder.raw_bytes();
        let raw = builder.finish().to_vec();
        assert_eq!(raw.len(), bytes);
        raw
    }

    fn models() -> impl Strategy<Value = Model> {
        let key = prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff)], 1..9);
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..30));
        let kept = (any::<u64>(), 0u64..3, value)
            .prop_map(|(version, expiry, value)| (version, if value.is_some() { expiry } else { 0 }, value));
        prop::collection::btree_map(key, kept, 1..120)
    }

    proptest! {
        #[test]
        fn a_block_answers_like_a_map(model in models(), probes in prop::collection::vec(
            prop::collection::vec(0u8..3, 0..9), 20,
        )) {
            let raw = block_of(&model);
            let block = Block::parse(&raw).expect("what was built");
            block.check().expect("what was built");
            let mut cursor = Cursor::new();
            let mut found = cursor.seek_first(&block).unwrap();
            for (key, kept) in &model {
                prop_assert!(found);
                let entry = cursor.entry(&block).unwrap().unwrap();
                prop_assert_eq!((entry.key, entry.record), (&key[..], record(kept)));
                prop_assert_eq!(block.get(key).unwrap(), Some(record(kept)));
                found = cursor.next(&block).unwrap();
            }
            prop_assert!(!found && !cursor.is_at_entry());
            found = cursor.seek_last(&block).unwrap();
            for key in model.keys().rev() {
                prop_assert!(found);
                prop_assert_eq!(cursor.key(), Some(&key[..]));
                found = cursor.previous(&block).unwrap();
            }
            prop_assert!(!found && cursor.key().is_none());
            for mut probe in probes {
                probe.iter_mut().for_each(|byte| if *byte == 2 { *byte = 0xff });
                prop_assert_eq!(block.get(&probe).unwrap(), model.get(&probe).map(record));
                cursor.seek(&block, &probe).unwrap();
                let expected = model.range(probe.clone()..).next();
                prop_assert_eq!(cursor.key(), expected.map(|(key, _)| &key[..]));
                cursor.seek_back(&block, &probe).unwrap();
                let expected = model.range(..=probe).next_back();
                prop_assert_eq!(cursor.key(), expected.map(|(key, _)| &key[..]));
            }
        }

        #[test]
        fn any_bytes_give_values_or_corrupt(
            model in models(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut raw = block_of(&model);
            for (index, byte) in changes {
                let at = index.index(raw.len());
                raw[at] = byte;
            }
            let Ok(block) = Block::parse(&raw) else { return Ok(()) };
            let _ = block.check();
            let mut cursor = Cursor::new();
            for key in model.keys() {
                let _ = block.get(key);
                let _ = cursor.seek(&block, key).and_then(|_| cursor.previous(&block));
                let _ = cursor.seek_back(&block, key).and_then(|_| cursor.entry(&block).map(|_| ()));
            }
        }
    }

    #[test]
    fn the_largest_record_fits_into_a_block_of_its_own() {
        let value = vec![7; VALUE_BYTES_MAX];
        let mut builder = BlockBuilder::new();
        builder.push(&[1; TABLE_KEY_BYTES_MAX], Version(u64::MAX), u64::MAX, Some(&value));
        assert!(builder.raw_bytes() <= BLOCK_RAW_BYTES_MAX);
        let raw = builder.finish().to_vec();
        let block = Block::parse(&raw).unwrap();
        let found = block.get(&[1; TABLE_KEY_BYTES_MAX]).unwrap().unwrap();
        assert_eq!((found.expiry_us, found.value.map(<[u8]>::len)), (u64::MAX, Some(VALUE_BYTES_MAX)));
        builder.clear();
        builder.push(b"a", Version(1), 0, Some(b""));
        let raw = builder.finish();
        assert_eq!(raw.len(), 3 + 1 + 1 + 4 + 12);
        assert_eq!(Block::parse(raw).unwrap().get(b"a").unwrap().unwrap().value, Some(&b""[..]));
    }

    #[test]
    fn short_and_empty_blocks_are_refused() {
        for length in 0..13 {
            assert!(Block::parse(&vec![0; length]).is_err(), "{length} zeros");
        }
        assert!(Block::parse(&[0xff; 64]).is_err());
    }

    #[test]
    #[should_panic(expected = "keys of a block ascend")]
    fn keys_out_of_order_are_our_own_bug() {
        let mut builder = BlockBuilder::new();
        builder.push(b"b", Version(1), 0, None);
        builder.push(b"b", Version(2), 0, None);
    }
}
