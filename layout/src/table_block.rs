//! A data block of a table: sorted records, their keys cut where they start like the key before.
//!
//! Owns the bytes before compression; [`crate::table_seal`] puts them on the disk, [`crate::table_cursor`] walks
//! them. Must never allocate while reading. Invariant: keys are strictly ascending, each says exactly how many of its
//! first bytes are those of the key before, and every 16th (a *restart*) is written whole.
//!
//! ```text
//! | entry 0 | .. | entry n-1 | restart offsets, 4 each | trailer 12 |
//! entry: | shared | unshared | body bytes * 4 + flags | key tail | version | expiry 8? | value |
//! ```
//!
//! That *exactly* is what lets [`Block::get`] pass most entries by one comparison of numbers, without building a key.

use crate::field::{Corrupt, Table, byte_table};
use crate::table_key::TABLE_KEY_BYTES_MAX;
use crate::units::{VALUE_BYTES_MAX, Version};
use crate::varint;

/// Entries from one restart to the next.
pub const RESTART_COUNT: usize = 16;
/// Most bytes of a block before compression: one record with the longest key and value, and what stands around it.
pub const BLOCK_RAW_BYTES_MAX: usize = VALUE_BYTES_MAX + 4096;

const TRAILER_BYTES: usize = 12;
const EXPIRY_BYTES: usize = 8;
const RESTART_BYTES: usize = 4;
/// Most bytes of an entry without its value.
const ENTRY_EXTRA_BYTES_MAX: usize =
    2 + 2 + 5 + TABLE_KEY_BYTES_MAX + varint::VARINT_BYTES_MAX + EXPIRY_BYTES;
const _: () =
    assert!(VALUE_BYTES_MAX + ENTRY_EXTRA_BYTES_MAX + RESTART_BYTES + TRAILER_BYTES <= BLOCK_RAW_BYTES_MAX);

pub(crate) const FLAG_TOMBSTONE: u8 = 1;
pub(crate) const FLAG_EXPIRY: u8 = 2;

byte_table! {
    /// Byte table of the end of a block.
    BLOCK_TRAILER_TABLE = "table block", TRAILER_BYTES;
    T_VERSION_BASE = "version_base", 0, 8;
    T_ENTRY_COUNT = "entry_count", 8, 4;
}

/// What a table, or a memtable, says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The version its write got; of a tombstone the version of the delete.
    pub version: Version,
    /// Log time from which the record is absent, microseconds; 0 never.
    pub expiry_us: u64,
    /// The value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
}

/// A record and its encoded key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEntry<'a> {
    /// Encoded as in [`crate::table_key`].
    pub key: &'a [u8],
    /// What the block says of it.
    pub record: Record<'a>,
}

/// Makes blocks, one after the other, in buffers of its own.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    last_key: Vec<u8>,
    version_base: u64,
    entry_count: usize,
}

impl BlockBuilder {
    /// An empty block.
    #[must_use]
    pub fn new() -> BlockBuilder {
        BlockBuilder::default()
    }

    /// Appends a record; `None` is a tombstone, which has no expiry.
    ///
    /// Keys that do not ascend or are longer than [`TABLE_KEY_BYTES_MAX`], values above 1 MiB and a block above
    /// [`BLOCK_RAW_BYTES_MAX`] are our own bugs.
    pub fn push(&mut self, key: &[u8], version: Version, expiry_us: u64, value: Option<&[u8]>) {
        assert!(key.len() <= TABLE_KEY_BYTES_MAX, "a key has at most {TABLE_KEY_BYTES_MAX} bytes");
        assert!(self.is_empty() || key > &self.last_key[..], "the keys of a block ascend");
        assert!(value.is_some() || expiry_us == 0, "a tombstone does not expire");
        assert!(value.is_none_or(|value| value.len() <= VALUE_BYTES_MAX), "a value has at most 1 MiB");
        let restart = self.entry_count.is_multiple_of(RESTART_COUNT);
        let shared = if restart {
            self.restarts.push(self.bytes.len() as u32);
            0
        } else {
            common_prefix(&self.last_key, key)
        };
        if self.is_empty() {
            self.version_base = version.0;
        }
        let delta = varint::zigzag(version.0.wrapping_sub(self.version_base) as i64);
        let expiry = if expiry_us == 0 { 0 } else { EXPIRY_BYTES };
        let body_bytes = varint_bytes(delta) + expiry + value.map_or(0, <[u8]>::len);
        let flags =
            if value.is_none() { FLAG_TOMBSTONE } else { 0 } | if expiry == 0 { 0 } else { FLAG_EXPIRY };
        varint::put(&mut self.bytes, shared as u64);
        varint::put(&mut self.bytes, (key.len() - shared) as u64);
        varint::put(&mut self.bytes, (body_bytes as u64) << 2 | u64::from(flags));
        self.bytes.extend_from_slice(&key[shared..]);
        varint::put(&mut self.bytes, delta);
        if expiry > 0 {
            self.bytes.extend_from_slice(&expiry_us.to_le_bytes());
        }
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
        self.entry_count += 1;
        assert!(self.raw_bytes() <= BLOCK_RAW_BYTES_MAX, "a block has at most {BLOCK_RAW_BYTES_MAX} bytes");
    }

    /// Bytes of the block as it stands.
    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.bytes.len() + self.restarts.len() * RESTART_BYTES + TRAILER_BYTES
    }

    /// Does the next record start a block? A small one fills a block to its size and a bit above, a large one that
    /// would make it half as large again does not come into it.
    pub(crate) fn is_full(&self, full: usize, value_bytes: usize) -> bool {
        let now = self.raw_bytes();
        let with_it = now + BlockBuilder::entry_bytes_max(value_bytes);
        !self.is_empty() && (now >= full || with_it > full + full / 2 || with_it > BLOCK_RAW_BYTES_MAX)
    }

    /// The most that a record of these sizes adds.
    #[must_use]
    pub(crate) fn entry_bytes_max(value_bytes: usize) -> usize {
        ENTRY_EXTRA_BYTES_MAX + RESTART_BYTES + value_bytes
    }

    /// True before the first record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entry_count == 0
    }

    /// Records in the block.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entry_count
    }

    /// The last key; empty before the first record.
    #[must_use]
    pub fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// The block's bytes, until the next [`BlockBuilder::clear`], which must come before the next record. A block
    /// without records is our own bug.
    pub fn finish(&mut self) -> &[u8] {
        assert!(!self.is_empty(), "a block holds a record");
        for restart in self.restarts.drain(..) {
            self.bytes.extend_from_slice(&restart.to_le_bytes());
        }
        let mut trailer = [0; TRAILER_BYTES];
        T_VERSION_BASE.put(&mut trailer, self.version_base.to_le_bytes());
        T_ENTRY_COUNT.put(&mut trailer, (self.entry_count as u32).to_le_bytes());
        self.bytes.extend_from_slice(&trailer);
        &self.bytes
    }

    /// Starts the next block; the memory stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.restarts.clear();
        self.last_key.clear();
        self.entry_count = 0;
    }
}

fn varint_bytes(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Bytes at the start that two strings share.
#[inline]
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let length = a.len().min(b.len());
    let (a, b) = (&a[..length], &b[..length]);
    let eights = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    for (index, (x, y)) in eights.enumerate() {
        let difference = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if difference != 0 {
            return index * 8 + difference.trailing_zeros() as usize / 8;
        }
    }
    let start = length - length % 8;
    start + a[start..].iter().zip(&b[start..]).take_while(|(x, y)| x == y).count()
}

/// An entry's front, its tail and body being in the block.
#[derive(Clone, Copy)]
pub(crate) struct RawEntry {
    pub(crate) shared: usize,
    pub(crate) tail_at: usize,
    pub(crate) body_at: usize,
    pub(crate) next: usize,
    flags: u8,
}

/// A block's bytes, read in place. Copying it copies no bytes.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Entries only.
    entries: &'a [u8],
    restarts: &'a [[u8; RESTART_BYTES]],
    version_base: u64,
    entry_count: usize,
}

impl<'a> Block<'a> {
    /// Looks at the trailer only; what is wrong elsewhere is said when it is met.
    pub fn parse(bytes: &'a [u8]) -> Result<Block<'a>, Corrupt> {
        let structure = BLOCK_TRAILER_TABLE.structure;
        let Some((front, trailer)) = bytes.split_last_chunk::<TRAILER_BYTES>() else {
            return Err(BLOCK_TRAILER_TABLE.corrupt(T_VERSION_BASE, 0));
        };
        let entry_count = T_ENTRY_COUNT.u32(trailer) as usize;
        let restarts_bytes = entry_count.div_ceil(RESTART_COUNT) * RESTART_BYTES;
        let entries_bytes = front.len().checked_sub(restarts_bytes).filter(|_| entry_count > 0);
        let Some((entries, restarts)) = entries_bytes.map(|at| front.split_at(at)) else {
            return Err(BLOCK_TRAILER_TABLE.corrupt(T_ENTRY_COUNT, front.len() as u64));
        };
        let (restarts, []) = restarts.as_chunks() else {
            return Err(Corrupt { structure, field: "restarts", at: entries.len() as u64 });
        };
        let version_base = T_VERSION_BASE.u64(trailer);
        Ok(Block { entries, restarts, version_base, entry_count })
    }

    /// The entries of a block that was parsed before, without its restarts: for reading entries whose place is known.
    #[inline]
    pub(crate) fn of_entries(entries: &'a [u8], version_base: u64, entry_count: usize) -> Block<'a> {
        Block { entries, restarts: &[], version_base, entry_count }
    }

    pub(crate) fn version_base(&self) -> u64 {
        self.version_base
    }

    /// Records in the block, at least one.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entry_count
    }

    pub(crate) fn entries(&self) -> &'a [u8] {
        self.entries
    }

    pub(crate) fn wrong(field: &'static str, at: usize) -> Corrupt {
        Corrupt { structure: BLOCK_TRAILER_TABLE.structure, field, at: at as u64 }
    }

    /// Where the entry of a restart starts.
    #[inline]
    pub(crate) fn restart(&self, group: usize) -> usize {
        u32::from_le_bytes(self.restarts[group]) as usize
    }

    #[inline]
    pub(crate) fn entry_at(&self, at: usize) -> Result<RawEntry, Corrupt> {
        self.raw_entry(at).ok_or(Block::wrong("entry", at))
    }

    #[inline]
    fn raw_entry(&self, at: usize) -> Option<RawEntry> {
        let (shared, next) = varint::take(self.entries, at)?;
        let (unshared, next) = varint::take(self.entries, next)?;
        let (meta, tail_at) = varint::take(self.entries, next)?;
        let limit = TABLE_KEY_BYTES_MAX as u64;
        let room = (self.entries.len() - tail_at) as u64;
        let body_bytes = meta >> 2;
        if shared > limit || unshared > limit - shared || body_bytes > room || unshared > room - body_bytes {
            return None;
        }
        let body_at = tail_at + unshared as usize;
        let next = body_at + body_bytes as usize;
        Some(RawEntry { shared: shared as usize, tail_at, body_at, next, flags: meta as u8 & 3 })
    }

    /// The record of an entry.
    #[inline]
    pub(crate) fn record(&self, entry: &RawEntry) -> Result<Record<'a>, Corrupt> {
        self.raw_record(entry).ok_or(Block::wrong("record", entry.body_at))
    }

    #[inline]
    fn raw_record(&self, entry: &RawEntry) -> Option<Record<'a>> {
        let body = &self.entries[entry.body_at..entry.next];
        let (delta, at) = varint::take(body, 0)?;
        let version = Version(self.version_base.wrapping_add(varint::unzigzag(delta) as u64));
        let mut rest = &body[at..];
        let mut expiry_us = 0;
        if entry.flags & FLAG_EXPIRY != 0 {
            let expiry;
            (expiry, rest) = rest.split_first_chunk::<EXPIRY_BYTES>()?;
            expiry_us = u64::from_le_bytes(*expiry);
            if expiry_us == 0 {
                return None;
            }
        }
        let value = match entry.flags & FLAG_TOMBSTONE {
            0 if rest.len() <= VALUE_BYTES_MAX => Some(rest),
            0 => return None,
            _ if expiry_us == 0 && rest.is_empty() => None,
            _ => return None,
        };
        Some(Record { version, expiry_us, value })
    }

    /// The key of a restart, which stands whole, and its entry.
    fn restart_key(&self, group: usize) -> Result<&'a [u8], Corrupt> {
        let at = self.restart(group);
        let entry = self.entry_at(at)?;
        if entry.shared != 0 {
            return Err(Block::wrong("restarts", at));
        }
        Ok(&self.entries[entry.tail_at..entry.body_at])
    }

    /// The last group of entries whose first key is not above `key`; `None` when all are.
    pub(crate) fn group_of(&self, key: &[u8]) -> Result<Option<usize>, Corrupt> {
        let (mut low, mut high) = (0, self.restarts.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.restart_key(middle)? <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.checked_sub(1))
    }

    /// The record of a key, if the block holds it: the short way, without a cursor.
    pub fn get(&self, key: &[u8]) -> Result<Option<Record<'a>>, Corrupt> {
        let Some(group) = self.group_of(key)? else { return Ok(None) };
        let end = if group + 1 < self.restarts.len() { self.restart(group + 1) } else { self.entries.len() };
        let mut at = self.restart(group);
        // The key before is below `key` and shares its first `matched` bytes. An entry that shares more with the key
        // before differs from `key` at the same byte: still below. One that shares less has a larger byte there: above.
        let mut matched = 0;
        while at < end {
            let entry = self.entry_at(at)?;
            at = entry.next;
            if entry.shared > matched {
                continue;
            }
            if entry.shared < matched {
                return Ok(None);
            }
            let (tail, rest) = (&self.entries[entry.tail_at..entry.body_at], &key[matched..]);
            let common = common_prefix(tail, rest);
            match (tail.get(common), rest.get(common)) {
                (None, None) => return self.record(&entry).map(Some),
                (Some(_), None) => return Ok(None),
                (Some(have), Some(want)) if have > want => return Ok(None),
                _ => matched += common,
            }
        }
        Ok(None)
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 1] = [BLOCK_TRAILER_TABLE];
