//! A directory of a data block: which entry has a key, found without reading those before it. In memory only, made when a
//! block comes into a cache.
//!
//! Owns the bytes of the directory. Must never allocate, and never be used with another block than the one it was made
//! of. Invariant: an entry whose key is asked for has the key's tag, and what is found was compared with the key byte by byte.
//!
//! ```text
//! | entries 2 | entries' bytes 2 | trailer's version base 8 | tags, 1 each | ways back, 1 each | offsets, 2 each |
//! ```
//!
//! The idea is the hash index of RocksDB's data blocks; but a key here stands in pieces: an entry has what it does not
//! share with the key before. Its *way back* is how many entries before it the one stands that shares less with its own
//! predecessor: that one has the bytes just before. Two or three steps lead to a restart, where the key begins; a search
//! from the restart reads eight entries on average, each a line of memory or two.

use crate::table_block::{Block, RESTART_COUNT, RawEntry, Record};
use crate::table_key::{TABLE_KEY_BYTES_MAX, key_hash};

/// Entries of a block that gets a directory, at most: with more, too many have the tag of a key that is asked for.
pub const ENTRY_COUNT_MAX: usize = 512;
/// Bytes of a directory for each entry, beside [`DIRECTORY_HEAD_BYTES`].
pub const DIRECTORY_ENTRY_BYTES: usize = 4;
/// Bytes of a directory before the first tag.
pub const DIRECTORY_HEAD_BYTES: usize = 12;

/// Entries that share bytes of a key and lead back to where they stand: one for each entry of a group at most.
const STEPS_MAX: usize = RESTART_COUNT;

#[inline]
fn tag_of(hash: u64) -> u8 {
    hash as u8
}

/// Makes the directory of a block at the start of `out`; its bytes. `None` when it does not fit there, or the block is
/// larger than a directory can say, or wrong.
pub fn write_directory(block: &Block<'_>, out: &mut [u8]) -> Option<usize> {
    let count = block.entry_count();
    let bytes = DIRECTORY_HEAD_BYTES + count * DIRECTORY_ENTRY_BYTES;
    let entries_bytes = u16::try_from(block.entries().len()).ok()?;
    if count > ENTRY_COUNT_MAX || bytes > out.len() {
        return None;
    }
    let (head, rest) = out[..bytes].split_at_mut(DIRECTORY_HEAD_BYTES);
    head[..2].copy_from_slice(&(count as u16).to_le_bytes());
    head[2..4].copy_from_slice(&entries_bytes.to_le_bytes());
    head[4..].copy_from_slice(&block.version_base().to_le_bytes());
    let (tags, rest) = rest.split_at_mut(count);
    let (ways, offsets) = rest.split_at_mut(count);
    let mut key = [0; TABLE_KEY_BYTES_MAX];
    let (mut key_bytes, mut at) = (0, 0);
    // What each entry since the last restart shares, by its place in the group.
    let mut shared = [0; RESTART_COUNT];
    for (number, offset) in offsets.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let entry = block.entry_at(at).ok()?;
        let place = number % RESTART_COUNT;
        if entry.shared > key_bytes || (place == 0 && entry.shared != 0) {
            return None;
        }
        let tail = &block.entries()[entry.tail_at..entry.body_at];
        key_bytes = entry.shared + tail.len();
        key[entry.shared..key_bytes].copy_from_slice(tail);
        let way = match entry.shared {
            0 => 0,
            // The restart shares nothing: there is one.
            bytes => 1 + shared[..place].iter().rev().position(|before| *before < bytes)?,
        };
        shared[place] = entry.shared;
        tags[number] = tag_of(key_hash(&key[..key_bytes]));
        ways[number] = way as u8;
        *offset = (at as u16).to_le_bytes();
        at = entry.next;
    }
    Some(bytes)
}

/// A directory's bytes, and those of its block.
#[derive(Debug, Clone, Copy)]
pub struct Directory<'a> {
    tags: &'a [u8],
    ways: &'a [u8],
    offsets: &'a [[u8; 2]],
    block: Block<'a>,
}

impl<'a> Directory<'a> {
    /// The directory that [`write_directory`] has made of the block whose bytes are `raw`. Reads its head only.
    ///
    /// # Panics
    /// When they are not what was made.
    #[must_use]
    #[inline]
    pub fn new(directory: &'a [u8], raw: &'a [u8]) -> Directory<'a> {
        let (head, rest) = directory.split_at(DIRECTORY_HEAD_BYTES);
        let count = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let entries_bytes = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let base = u64::from_le_bytes(*head[4..].first_chunk().expect("the head has twelve bytes"));
        let (tags, rest) = rest.split_at(count);
        let (ways, offsets) = rest.split_at(count);
        let offsets = &offsets.as_chunks().0[..count];
        Directory { tags, ways, offsets, block: Block::of_entries(&raw[..entries_bytes], base, count) }
    }

    /// Numbers of the entries that may have a key of this hash, of one call at a time the first from `from` on.
    #[inline]
    fn candidate(&self, hash: u64, from: usize) -> Option<usize> {
        const ONES: u64 = 0x0101_0101_0101_0101;
        let wanted = ONES * u64::from(tag_of(hash));
        let rest = self.tags.get(from..)?;
        let (eights, last) = rest.as_chunks::<8>();
        for (index, eight) in eights.iter().enumerate() {
            // The lowest byte that is zero is found by its top bit; bytes above it may be found wrongly.
            let difference = u64::from_le_bytes(*eight) ^ wanted;
            let zeros = difference.wrapping_sub(ONES) & !difference & (ONES << 7);
            if zeros != 0 {
                return Some(from + index * 8 + zeros.trailing_zeros() as usize / 8);
            }
        }
        let place = last.iter().position(|tag| *tag == tag_of(hash))?;
        Some(from + eights.len() * 8 + place)
    }

    #[inline]
    fn entry(&self, number: usize) -> Option<RawEntry> {
        self.block.entry_at(usize::from(u16::from_le_bytes(*self.offsets.get(number)?))).ok()
    }

    /// Offsets in the block of what [`Directory::get`] will read first of the key with this hash: its entry, then those
    /// that its key begins in. For bringing them near.
    #[inline]
    pub fn steps(&self, hash: u64, mut near: impl FnMut(usize)) {
        let Some(mut number) = self.candidate(hash, 0) else { return };
        for _ in 0..STEPS_MAX {
            let (Some(offset), Some(way)) = (self.offsets.get(number), self.ways.get(number)) else { return };
            near(usize::from(u16::from_le_bytes(*offset)));
            if *way == 0 {
                return;
            }
            number = number.saturating_sub(usize::from(*way));
        }
    }

    /// Whether the key of an entry is `key`.
    #[inline]
    fn is(&self, number: usize, entry: &RawEntry, key: &[u8]) -> Option<bool> {
        if entry.shared + (entry.body_at - entry.tail_at) != key.len() {
            return Some(false);
        }
        let entries = self.block.entries();
        if entries[entry.tail_at..entry.body_at] != key[entry.shared..] {
            return Some(false);
        }
        let (mut number, mut missing) = (number, entry.shared);
        while missing > 0 {
            number = number.checked_sub(usize::from(*self.ways.get(number)?).max(1))?;
            let before = self.entry(number)?;
            if before.shared < missing {
                let piece = entries.get(before.tail_at..before.tail_at + (missing - before.shared))?;
                if *piece != key[before.shared..missing] {
                    return Some(false);
                }
                missing = before.shared;
            }
        }
        Some(true)
    }

    /// The record of `key`, whose hash ([`key_hash`]) is `hash`, if the block holds it. `Err` when the bytes are not
    /// those that the directory was made of, as far as that is met.
    #[inline]
    pub fn get(&self, key: &[u8], hash: u64) -> Result<Option<Record<'a>>, crate::field::Corrupt> {
        let mut from = 0;
        while let Some(number) = self.candidate(hash, from) {
            let wrong = Block::wrong("entry", number);
            let entry = self.entry(number).ok_or(wrong)?;
            if self.is(number, &entry, key).ok_or(wrong)? {
                return self.block.record(&entry).map(Some);
            }
            from = number + 1;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_block::BlockBuilder;
    use crate::units::Version;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn block_of(keys: &BTreeMap<Vec<u8>, u64>) -> Vec<u8> {
        let mut builder = BlockBuilder::new();
        for (key, number) in keys {
            builder.push(key, Version(*number), 0, Some(&number.to_le_bytes()[..(number % 9) as usize]));
        }
        builder.finish().to_vec()
    }

    /// Keys with long common fronts, as those of a stream have.
    fn keys() -> impl Strategy<Value = BTreeMap<Vec<u8>, u64>> {
        let byte = prop_oneof![4 => Just(0u8), 2 => Just(1), 1 => Just(0xff)];
        prop::collection::btree_map(prop::collection::vec(byte, 1..14), any::<u64>(), 1..200)
    }

    proptest! {
        #[test]
        fn finds_what_a_search_finds(keys in keys(), probes in prop::collection::vec(
            prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff)], 0..14), 40,
        )) {
            let raw = block_of(&keys);
            let block = Block::parse(&raw).expect("what was built");
            let mut bytes = vec![0; DIRECTORY_HEAD_BYTES + keys.len() * DIRECTORY_ENTRY_BYTES];
            prop_assert_eq!(write_directory(&block, &mut bytes), Some(bytes.len()));
            let directory = Directory::new(&bytes, &raw);
            for key in keys.keys() {
                let found = directory.get(key, key_hash(key)).expect("nothing is wrong");
                prop_assert_eq!(found, block.get(key).expect("nothing is wrong"));
                prop_assert!(found.is_some());
                let mut steps = Vec::new();
                directory.steps(key_hash(key), |offset| steps.push(offset));
                prop_assert!((1..=STEPS_MAX).contains(&steps.len()) && steps.iter().all(|at| *at < raw.len()));
            }
            for probe in probes {
                let expected = block.get(&probe).expect("nothing is wrong");
                prop_assert_eq!(directory.get(&probe, key_hash(&probe)).expect("nothing is wrong"), expected);
            }
            // Another key with the tag of one that is there is told from it.
            for key in keys.keys() {
                let other = [&key[..], &[7]].concat();
                prop_assert_eq!(directory.get(&other, key_hash(key)).expect("nothing is wrong"), None);
                let shorter = directory.get(&key[1..], key_hash(key)).expect("nothing is wrong");
                // Of one that is there, too, the tag may be the same.
                prop_assert!(shorter.is_none() || keys.contains_key(&key[1..]));
            }
        }
    }

    #[test]
    fn a_block_that_is_too_much_for_one_has_none() {
        let many = (0..ENTRY_COUNT_MAX as u64 + 1).map(|number| (number.to_be_bytes().to_vec(), number));
        let many: BTreeMap<_, _> = many.collect();
        let raw = block_of(&many);
        let mut out = vec![0; 1 << 20];
        assert_eq!(
            write_directory(&Block::parse(&raw).expect("a block"), &mut out),
            None,
            "too many entries"
        );
        let few: BTreeMap<_, _> = many.into_iter().take(ENTRY_COUNT_MAX).collect();
        let raw = block_of(&few);
        let block = Block::parse(&raw).expect("a block");
        let bytes = write_directory(&block, &mut out).expect("as many as there may be");
        assert_eq!(bytes, DIRECTORY_HEAD_BYTES + ENTRY_COUNT_MAX * DIRECTORY_ENTRY_BYTES);
        assert_eq!(write_directory(&block, &mut out[..bytes - 1]), None, "no room");
        let mut builder = BlockBuilder::new();
        builder.push(b"a", Version(1), 0, Some(&[0; 1 << 16]));
        let raw = builder.finish().to_vec();
        assert_eq!(write_directory(&Block::parse(&raw).expect("a block"), &mut out), None, "too many bytes");
    }
}
