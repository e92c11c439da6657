//! The filter of a table: whether a key may be in it, from a few bits per key.
//!
//! Owns binary fuse filters (Graf and Lemire, 2022) with fingerprints of eight bits: a key that is in the table is
//! always found, one that is not passes with a chance of 1 in 256. Must never say no to a key that is in the table:
//! each partition is asked for all of its keys before it is believed. Invariant: the numbers of an open filter were
//! checked against each other, so that no hash reads outside.
//!
//! ```text
//! | header 16 | partition 24, 2^n times | fingerprints of partition 0 | of partition 1 | ..
//! ```
//!
//! Cut in partitions by the top bits of a key's hash, because building is linear in keys and must be possible in steps of
//! a few milliseconds, and because the three bytes that a question reads then lie in one partition of tens of KiB.
//!
//! **When building fails.** The library tries up to 1,000 seeds, of which nearly each second works. Should all fail, a
//! second thousand with another salt is tried, and then the partition is left without fingerprints: always maybe.
//! The salt is a hash of all keys of the partition: who chooses keys cannot choose those that fail.

use xorf::{BinaryFuse8, BinaryFuse8Ref, DmaSerializable, Filter as _, FilterRef};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::field::{Corrupt, Table, byte_table};

/// Keys of a partition that the count of partitions aims at, at most. Building takes some milliseconds; smaller ones need more than ten bits per key.
const PARTITION_KEY_COUNT: usize = 65_536;
/// Keys are sorted into this many heaps as they come, so that no step has to touch all of them.
const HEAP_BITS: u32 = 8;
const HEAP_COUNT: usize = 1 << HEAP_BITS;
/// Salts that are tried for a partition.
const SALT_COUNT: u64 = 2;

const FILTER_HEADER_BYTES: usize = 16;
const PARTITION_BYTES: usize = 24;
const DESCRIPTOR_BYTES: usize = 20;

byte_table! {
    /// Byte table of the start of a filter.
    FILTER_TABLE = "table filter", FILTER_HEADER_BYTES;
    L_KEY_COUNT = "key_count", 0, 8;
    L_PARTITION_BITS = "partition_bits", 8, 1;
    L_FINGERPRINT_BITS = "fingerprint_bits", 9, 1;
    L_RESERVED = "reserved", 10, 6;
}

byte_table! {
    /// Byte table of a partition.
    PARTITION_TABLE = "filter partition", PARTITION_BYTES;
    P_SEED = "seed", 0, 8;
    P_SEGMENT_LENGTH = "segment_length", 8, 4;
    P_SEGMENT_MASK = "segment_mask", 12, 4;
    P_SEGMENT_COUNT_LENGTH = "segment_count_length", 16, 4;
    P_FINGERPRINT_COUNT = "fingerprint_count", 20, 4;
}

const _: () =
    assert!(DESCRIPTOR_BYTES == BinaryFuse8::DESCRIPTOR_LEN, "the library's descriptor is our bytes");

/// Makes a filter: hashes come in, partitions are built one by one.
#[derive(Debug)]
pub struct FilterBuilder {
    heaps: Vec<Vec<u64>>,
    key_count: usize,
    /// Set with the first step.
    partition_bits: Option<u32>,
    partitions: Vec<u8>,
    fingerprints: Vec<u8>,
}

impl Default for FilterBuilder {
    fn default() -> FilterBuilder {
        FilterBuilder::new()
    }
}

impl FilterBuilder {
    /// Without keys.
    #[must_use]
    pub fn new() -> FilterBuilder {
        FilterBuilder {
            heaps: vec![Vec::new(); HEAP_COUNT],
            key_count: 0,
            partition_bits: None,
            partitions: Vec::new(),
            fingerprints: Vec::new(),
        }
    }

    /// Adds the hash of a key ([`crate::table_key::key_hash`]); after the first step our own bug.
    pub fn add(&mut self, hash: u64) {
        assert!(self.partition_bits.is_none(), "no key comes after the filter is begun");
        self.heaps[(hash >> (64 - HEAP_BITS)) as usize].push(hash);
        self.key_count += 1;
    }

    /// Memory of the hashes, bytes: 8 per key, and what the heaps keep in reserve.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let reserved: usize = self.heaps.iter().map(Vec::capacity).sum();
        reserved * size_of::<u64>() + self.partitions.capacity() + self.fingerprints.capacity()
    }

    /// Builds the next partition; false when there was none left.
    pub fn step(&mut self) -> bool {
        let bits = *self.partition_bits.get_or_insert_with(|| {
            let least = self.key_count.div_ceil(PARTITION_KEY_COUNT).next_power_of_two().trailing_zeros();
            least.min(HEAP_BITS)
        });
        let partition = self.partitions.len() / PARTITION_BYTES;
        if partition == 1 << bits {
            return false;
        }
        let heaps_each = HEAP_COUNT >> bits;
        let mut hashes = Vec::new();
        for heap in &mut self.heaps[partition * heaps_each..(partition + 1) * heaps_each] {
            hashes.append(heap);
            *heap = Vec::new();
        }
        hashes.sort_unstable();
        hashes.dedup();
        let mut entry = [0; PARTITION_BYTES];
        if let Some(built) = (0..SALT_COUNT).find_map(|attempt| build(&hashes, attempt)) {
            built.dma_copy_descriptor_to(&mut entry[..DESCRIPTOR_BYTES]);
            P_FINGERPRINT_COUNT.put(&mut entry, (built.fingerprints.len() as u32).to_le_bytes());
            self.fingerprints.extend_from_slice(&built.fingerprints);
        }
        self.partitions.extend_from_slice(&entry);
        true
    }

    /// Builds what is left; the filter's bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        while self.step() {}
        let bits = self.partition_bits.expect("a step sets it");
        let mut header = [0; FILTER_HEADER_BYTES];
        L_KEY_COUNT.put(&mut header, (self.key_count as u64).to_le_bytes());
        L_PARTITION_BITS.put(&mut header, [bits as u8]);
        L_FINGERPRINT_BITS.put(&mut header, [8]);
        [&header[..], &self.partitions, &self.fingerprints].concat()
    }
}

/// A filter of these hashes, sorted and distinct, that finds each of them.
fn build(hashes: &[u64], attempt: u64) -> Option<BinaryFuse8> {
    let salt = hashes.iter().fold(attempt, |salt, hash| xxh3_64_with_seed(&hash.to_le_bytes(), salt));
    let salted = hashes.iter().map(|hash| hash.wrapping_add(salt));
    let mut built = BinaryFuse8::try_from_iterator(salted).ok()?;
    // The library adds its seed to each key first, so salt and seed are one number for the reader.
    built.descriptor.seed = built.descriptor.seed.wrapping_add(salt);
    hashes.iter().all(|hash| built.contains(hash)).then_some(built)
}

#[derive(Debug, Clone, Copy)]
struct Partition {
    descriptor: [u8; DESCRIPTOR_BYTES],
    fingerprint_count: u32,
    /// Where the fingerprints start in the filter's bytes.
    at: usize,
}

/// An open filter.
#[derive(Debug, Clone)]
pub struct Filter {
    bytes: Box<[u8]>,
    partitions: Box<[Partition]>,
    partition_bits: u32,
    key_count: u64,
}

impl Filter {
    /// The filter of a table that has none: always maybe.
    #[must_use]
    pub fn always() -> Filter {
        Filter { bytes: Box::default(), partitions: Box::default(), partition_bits: 0, key_count: 0 }
    }

    /// Builds the filter's bytes at once, for tests and small tables.
    #[must_use]
    pub fn build(hashes: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let mut builder = FilterBuilder::new();
        hashes.into_iter().for_each(|hash| builder.add(hash));
        builder.finish()
    }

    /// Reads a filter's bytes; every number in them is checked.
    pub fn decode(bytes: Vec<u8>) -> Result<Filter, Corrupt> {
        if bytes.len() < FILTER_HEADER_BYTES {
            return Err(FILTER_TABLE.corrupt(L_KEY_COUNT, 0));
        }
        let partition_bits = u32::from(L_PARTITION_BITS.u8(&bytes));
        let fingerprints_at = (partition_bits <= HEAP_BITS)
            .then(|| FILTER_HEADER_BYTES + (PARTITION_BYTES << partition_bits))
            .filter(|at| *at <= bytes.len())
            .ok_or(FILTER_TABLE.corrupt(L_PARTITION_BITS, 0))?;
        if L_FINGERPRINT_BITS.u8(&bytes) != 8 {
            return Err(FILTER_TABLE.corrupt(L_FINGERPRINT_BITS, 0));
        }
        if !L_RESERVED.is_zero(&bytes) {
            return Err(FILTER_TABLE.corrupt(L_RESERVED, 0));
        }
        let mut partitions = Vec::with_capacity(1 << partition_bits);
        let mut at = fingerprints_at;
        let table = &bytes[FILTER_HEADER_BYTES..fingerprints_at];
        for (number, entry) in table.as_chunks::<PARTITION_BYTES>().0.iter().enumerate() {
            let place = (FILTER_HEADER_BYTES + number * PARTITION_BYTES) as u64;
            let wrong = |field| Err(PARTITION_TABLE.corrupt(field, place));
            let count = P_FINGERPRINT_COUNT.u32(entry);
            let length = P_SEGMENT_LENGTH.u32(entry);
            if count == 0 {
                if !crate::field::is_zero(entry) {
                    return wrong(P_FINGERPRINT_COUNT);
                }
            } else {
                // A hash reads at h < segment_count_length, and in the two segments behind that of h.
                let span = P_SEGMENT_COUNT_LENGTH.u32(entry);
                if !length.is_power_of_two() {
                    return wrong(P_SEGMENT_LENGTH);
                }
                if P_SEGMENT_MASK.u32(entry) != length - 1 {
                    return wrong(P_SEGMENT_MASK);
                }
                if span == 0 || !span.is_multiple_of(length) {
                    return wrong(P_SEGMENT_COUNT_LENGTH);
                }
                let reached = u64::from(span) + 2 * u64::from(length);
                if reached != u64::from(count) || count as usize > bytes.len() - at {
                    return wrong(P_FINGERPRINT_COUNT);
                }
            }
            let descriptor = *entry.first_chunk().expect("a partition is longer than its descriptor");
            partitions.push(Partition { descriptor, fingerprint_count: count, at });
            at += count as usize;
        }
        if at != bytes.len() {
            return Err(Corrupt { structure: FILTER_TABLE.structure, field: "fingerprints", at: at as u64 });
        }
        let key_count = L_KEY_COUNT.u64(&bytes);
        Ok(Filter { bytes: bytes.into(), partitions: partitions.into(), partition_bits, key_count })
    }

    /// False when no key of the table has this hash ([`crate::table_key::key_hash`]).
    #[must_use]
    #[inline]
    pub fn contains(&self, hash: u64) -> bool {
        // Shifting 64 bits out of 64 is no shift: with one partition nothing is left.
        let number = hash.checked_shr(64 - self.partition_bits).unwrap_or(0);
        let Some(partition) = self.partitions.get(number as usize) else { return true };
        if partition.fingerprint_count == 0 {
            return true;
        }
        let fingerprints = &self.bytes[partition.at..partition.at + partition.fingerprint_count as usize];
        BinaryFuse8Ref::from_dma(&partition.descriptor, fingerprints).contains(&hash)
    }

    /// Keys that it was made from; 0 without a filter.
    #[must_use]
    pub fn key_count(&self) -> u64 {
        self.key_count
    }

    /// Memory that the filter takes, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Filter>() + self.bytes.len() + self.partitions.len() * size_of::<Partition>()
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 2] = [FILTER_TABLE, PARTITION_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::short;
    use proptest::prelude::*;

    fn hash(number: u64) -> u64 {
        short(&number.to_le_bytes())
    }

    #[test]
    fn finds_all_keys_and_few_others() {
        for count in [0u64, 1, 2, 3, 5, 17, 100, 1000, 30_000, 70_000] {
            let bytes = Filter::build((0..count).map(hash));
            let size = bytes.len();
            let filter = Filter::decode(bytes).expect("what was built");
            assert!((0..count).all(|number| filter.contains(hash(number))), "{count} keys");
            assert_eq!(filter.key_count(), count);
            assert!(filter.partitions.iter().all(|partition| partition.fingerprint_count > 0), "{count}");
            let others = (0..20_000).filter(|number| filter.contains(hash(1 << 40 | number))).count();
            assert!(others < 160, "{others} of 20,000 others pass a filter of {count} keys");
            if count >= 30_000 {
                assert!(size as u64 * 8 <= count * 10, "{size} bytes for {count} keys");
            }
        }
    }

    #[test]
    fn one_key_many_times_and_hashes_of_one_partition_are_taken() {
        let filter = Filter::decode(Filter::build([7; 100])).expect("what was built");
        assert!(filter.contains(7));
        let crowd = || (0..40_000u64).map(|number| hash(number) >> 8);
        let filter = Filter::decode(Filter::build(crowd())).expect("what was built");
        assert!(crowd().all(|hash| filter.contains(hash)));
    }

    #[test]
    fn without_a_filter_everything_may_be_there() {
        assert!(Filter::always().contains(0) && Filter::always().contains(u64::MAX));
        let mut bytes = Filter::build((0..10).map(hash));
        bytes.truncate(FILTER_HEADER_BYTES);
        bytes.extend_from_slice(&[0; PARTITION_BYTES]);
        let filter = Filter::decode(bytes).expect("a partition that could not be built");
        assert!(filter.contains(3));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_filter_or_corrupt(
            count in 0u64..300, changes in prop::collection::vec((0usize..40, any::<u8>()), 1..4),
            hashes in prop::collection::vec(any::<u64>(), 50),
        ) {
            let mut bytes = Filter::build((0..count).map(hash));
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Ok(filter) = Filter::decode(bytes) {
                hashes.iter().for_each(|hash| { let _ = filter.contains(*hash); });
            }
        }
    }
}
