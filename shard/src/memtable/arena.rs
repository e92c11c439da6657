//! The arena of record nodes: one region of bytes, laid out at start, filled from the front.
//!
//! Owns the bytes of a node and nothing of how nodes are found. Must never grow and never move a node: a
//! node is named by its offset in units of eight bytes (32 bits reach 32 GiB), in the index and in the lists.
//! Invariant: a node's header says where its stream, its links and its value lie, all inside the arena.
//!
//! A node, in units of eight bytes; these bytes never leave the process, so they are in its own byte order:
//!
//! ```text
//!  0  version
//!  1  expiry, microseconds, 0 = none
//!  2  time
//!  3  bucket (17 bits) | space (16) | stream bytes (8) | height (4) | units of the value's place (18)
//!  4  value bytes (32; all ones = tombstone) | node unit where the value lies (32)
//!  5  previous node (32) | next node at level 0 (32)
//!  6  next nodes at levels 1, 2, … two per unit, as many as the height asks
//!  …  stream, padded to a unit
//!  …  value, padded to a unit
//! ```
//!
//! With a stream of up to 16 bytes and height 1 (three nodes of four) header and key are 64 bytes.

use layout::key::Key;
use layout::units::{BUCKET_COUNT, BucketIndex, STREAM_BYTES_MAX, Space, VALUE_BYTES_MAX, Version};

use super::Record;

/// Offsets are in units of this many bytes.
pub(super) const UNIT_BYTES: usize = 8;
/// Levels of a list: one node in four reaches the next, so 12 levels serve 4^12 = 16 M records per tablet.
pub(super) const LEVEL_COUNT: usize = 12;
/// No node: the head of a list, or its end.
pub(super) const NONE: u32 = 0;

/// Bytes before the links of level 1 and above.
const HEADER_BYTES: usize = 6 * UNIT_BYTES;
/// The value length that says "tombstone".
const TOMBSTONE: u32 = u32::MAX;

const BUCKET_BITS: u32 = 17;
const SPACE_SHIFT: u32 = BUCKET_BITS;
const STREAM_SHIFT: u32 = SPACE_SHIFT + 16;
const HEIGHT_SHIFT: u32 = STREAM_SHIFT + 8;
const CAPACITY_SHIFT: u32 = HEIGHT_SHIFT + 4;
const CAPACITY_BITS: u32 = 18;

const _: () = assert!(BUCKET_COUNT == 1 << BUCKET_BITS);
const _: () = assert!(STREAM_BYTES_MAX < 1 << 8 && LEVEL_COUNT < 1 << 4);
const _: () = assert!(VALUE_BYTES_MAX.div_ceil(UNIT_BYTES) < 1 << CAPACITY_BITS);
const _: () = assert!(CAPACITY_SHIFT + CAPACITY_BITS <= 64);
const _: () = assert!(VALUE_BYTES_MAX < TOMBSTONE as usize);

/// Units of the links above level 0 of a node of this height.
pub(super) const fn tower_units(height: usize) -> usize {
    height / 2
}

/// Units of a new node.
pub(super) const fn node_units(height: usize, stream_bytes: usize, value_bytes: usize) -> usize {
    HEADER_BYTES / UNIT_BYTES
        + tower_units(height)
        + stream_bytes.div_ceil(UNIT_BYTES)
        + value_bytes.div_ceil(UNIT_BYTES)
}

/// The header of a node, read once.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) version: Version,
    expiry_us: u64,
    time: u64,
    shape: u64,
    value_bytes: u32,
    value_at: u32,
}

impl Header {
    pub(super) fn bucket(&self) -> u32 {
        (self.shape & ((1 << BUCKET_BITS) - 1)) as u32
    }

    fn space(&self) -> Space {
        Space((self.shape >> SPACE_SHIFT) as u16)
    }

    fn stream_bytes(&self) -> usize {
        usize::from((self.shape >> STREAM_SHIFT) as u8)
    }

    pub(super) fn height(&self) -> usize {
        (self.shape >> HEIGHT_SHIFT) as usize & 0xf
    }

    fn capacity_units(&self) -> usize {
        (self.shape >> CAPACITY_SHIFT) as usize & ((1 << CAPACITY_BITS) - 1)
    }
}

/// The bytes and how far they are used.
pub(super) struct Arena {
    bytes: Vec<u8>,
    /// Units given out; unit 0 is never a node, so that 0 can mean none.
    used_units: usize,
    garbage_units: usize,
}

impl Arena {
    /// An empty arena of `bytes` bytes, rounded down to units, at most 32 GiB.
    pub(super) fn new(bytes: usize) -> Arena {
        assert!(bytes / UNIT_BYTES <= u32::MAX as usize, "32-bit offsets in units of 8 bytes reach 32 GiB");
        assert!(bytes >= UNIT_BYTES, "unit 0 is never a node");
        // Zeroed memory of the system: not touched yet, so it can still get huge pages.
        let mut bytes = vec![0; bytes / UNIT_BYTES * UNIT_BYTES];
        ioengine::memory::prefer_huge_pages(&mut bytes);
        Arena { bytes, used_units: 1, garbage_units: 0 }
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.used_units * UNIT_BYTES
    }

    pub(super) fn garbage_bytes(&self) -> usize {
        self.garbage_units * UNIT_BYTES
    }

    pub(super) fn free_units(&self) -> usize {
        self.bytes.len() / UNIT_BYTES - self.used_units
    }

    /// Forget every node. The caller holds no offsets any more.
    pub(super) fn reset(&mut self) {
        self.used_units = 1;
        self.garbage_units = 0;
    }

    fn take(&mut self, units: usize) -> Option<u32> {
        if units > self.free_units() {
            return None;
        }
        let unit = self.used_units;
        self.used_units += units;
        Some(u32::try_from(unit).expect("an arena has at most 2^32 units"))
    }

    /// A new node, in no list: its links are whatever lay there. `None` when the arena is full.
    pub(super) fn node(
        &mut self,
        height: usize,
        bucket: BucketIndex,
        key: Key<'_>,
        record: Record<'_>,
    ) -> Option<u32> {
        assert!((1..=LEVEL_COUNT).contains(&height), "a node has 1..=12 levels");
        let value = record.value.unwrap_or(&[]);
        let node = self.take(node_units(height, key.stream.len(), value.len()))?;
        let stream_at = HEADER_BYTES + tower_units(height) * UNIT_BYTES;
        let value_at = stream_at + key.stream.len().next_multiple_of(UNIT_BYTES);
        let capacity = value.len().div_ceil(UNIT_BYTES);
        let shape = u64::from(bucket.get())
            | u64::from(key.space.0) << SPACE_SHIFT
            | (key.stream.len() as u64) << STREAM_SHIFT
            | (height as u64) << HEIGHT_SHIFT
            | (capacity as u64) << CAPACITY_SHIFT;
        self.set(node, 2, key.time);
        self.set(node, 3, shape);
        let start = node as usize * UNIT_BYTES;
        self.bytes[start + stream_at..][..key.stream.len()].copy_from_slice(key.stream);
        self.write_record(node, node + (value_at / UNIT_BYTES) as u32, record);
        Some(node)
    }

    /// Put a newer record into `node`: in place when the value fits, else at a new place, leaving garbage.
    /// False, and nothing changed, when the arena is full.
    #[must_use]
    pub(super) fn replace(&mut self, node: u32, record: Record<'_>) -> bool {
        let header = self.header(node);
        let units = record.value.map_or(0, <[u8]>::len).div_ceil(UNIT_BYTES);
        let mut value_at = header.value_at;
        if units > header.capacity_units() {
            let Some(place) = self.take(units) else { return false };
            self.garbage_units += header.capacity_units();
            let capacity_mask = ((1u64 << CAPACITY_BITS) - 1) << CAPACITY_SHIFT;
            self.set(node, 3, header.shape & !capacity_mask | (units as u64) << CAPACITY_SHIFT);
            value_at = place;
        }
        self.write_record(node, value_at, record);
        true
    }

    fn write_record(&mut self, node: u32, value_at: u32, record: Record<'_>) {
        self.set(node, 0, record.version.0);
        self.set(node, 1, record.expiry_us);
        let value_bytes = match record.value {
            Some(value) => {
                self.bytes[value_at as usize * UNIT_BYTES..][..value.len()].copy_from_slice(value);
                u32::try_from(value.len()).expect("values have at most 1 MiB")
            }
            None => TOMBSTONE,
        };
        self.set(node, 4, u64::from(value_bytes) | u64::from(value_at) << 32);
    }

    /// The node is in no list and no index any more: its space is garbage until the next reset.
    pub(super) fn discard(&mut self, node: u32) {
        let header = self.header(node);
        self.garbage_units += node_units(header.height(), header.stream_bytes(), 0) + header.capacity_units();
    }

    pub(super) fn header(&self, node: u32) -> Header {
        let (units, _) = self.bytes[node as usize * UNIT_BYTES..][..HEADER_BYTES].as_chunks::<UNIT_BYTES>();
        let unit = |index: usize| u64::from_ne_bytes(units[index]);
        let value = unit(4);
        Header {
            version: Version(unit(0)),
            expiry_us: unit(1),
            time: unit(2),
            shape: unit(3),
            value_bytes: value as u32,
            value_at: (value >> 32) as u32,
        }
    }

    /// The key of a node whose header was read.
    pub(super) fn key(&self, node: u32, header: &Header) -> Key<'_> {
        let at = node as usize * UNIT_BYTES + HEADER_BYTES + tower_units(header.height()) * UNIT_BYTES;
        Key { space: header.space(), stream: &self.bytes[at..at + header.stream_bytes()], time: header.time }
    }

    /// The record of a node whose header was read.
    pub(super) fn record(&self, header: &Header) -> Record<'_> {
        let value = (header.value_bytes != TOMBSTONE).then(|| {
            let at = header.value_at as usize * UNIT_BYTES;
            &self.bytes[at..at + header.value_bytes as usize]
        });
        Record { version: header.version, expiry_us: header.expiry_us, value }
    }

    /// The node before this one at level 0.
    pub(super) fn previous(&self, node: u32) -> u32 {
        self.half(node as usize * UNIT_BYTES + 5 * UNIT_BYTES)
    }

    pub(super) fn set_previous(&mut self, node: u32, previous: u32) {
        self.set_half(node as usize * UNIT_BYTES + 5 * UNIT_BYTES, previous);
    }

    /// The node after this one at `level`, which is below the node's height.
    pub(super) fn next(&self, node: u32, level: usize) -> u32 {
        self.half(node as usize * UNIT_BYTES + 5 * UNIT_BYTES + 4 + level * 4)
    }

    pub(super) fn set_next(&mut self, node: u32, level: usize, next: u32) {
        self.set_half(node as usize * UNIT_BYTES + 5 * UNIT_BYTES + 4 + level * 4, next);
    }

    /// Ask the processor for the first lines of a node: header, key and the start of a small value.
    pub(super) fn prefetch(&self, node: u32) {
        let start = node as usize * UNIT_BYTES;
        for line in 0..4 {
            ioengine::memory::prefetch(&self.bytes, start + line * 64);
        }
    }

    fn set(&mut self, node: u32, unit: usize, value: u64) {
        let at = (node as usize + unit) * UNIT_BYTES;
        self.bytes[at..at + UNIT_BYTES].copy_from_slice(&value.to_ne_bytes());
    }

    fn half(&self, at: usize) -> u32 {
        u32::from_ne_bytes(*self.bytes[at..].first_chunk().expect("links lie inside the arena"))
    }

    fn set_half(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
}
