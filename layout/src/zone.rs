//! Zones: how a device is cut for its shards.
//!
//! Owns the arithmetic from a device's size to the places of journals and tables. Must never touch
//! a device or guess a size. Invariant: zones are multiples of 4096 bytes, lie behind the header
//! area, inside the device, and no two overlap.
//!
//! ```text
//! | superblock copies .. header area 1 MiB | journal 0 | .. | journal S-1 | tables 0 | .. | tables S-1 |
//! ```

use thiserror::Error;

use crate::units::{BLOCK_BYTES, DiskOffset, SHARD_COUNT_MAX};

/// Bytes at the start of a device that hold the superblock copies and are otherwise reserved.
pub const HEADER_AREA_BYTES: u64 = 1 << 20;
/// Smallest journal segment, bytes. A record never spans segments, so this also bounds values;
/// it is this small for tests, a node that takes values of 1 MiB needs 2 MiB and more.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Largest journal segment, bytes.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Journal segment a node is formatted with by default, bytes (16 MiB = three of the largest records).
pub const SEGMENT_BYTES_DEFAULT: u64 = 16 << 20;
/// Fewest segments of a journal: one that is written, one that is next, two that wait to be freed.
pub const SEGMENT_COUNT_MIN: u64 = 4;
/// Largest journal a device is given by default, bytes per shard.
pub const JOURNAL_BYTES_DEFAULT_MAX: u64 = 16 << 30;
/// Part of a device that journals take by default: one of this many.
pub const JOURNAL_SHARE_DEFAULT: u64 = 4;

/// Smallest extent of tables, bytes.
pub const EXTENT_BYTES_MIN: u32 = 16 << 10;
/// Largest extent of tables, bytes.
pub const EXTENT_BYTES_MAX: u32 = 1 << 20;
/// Extent of a zone of 1 GiB and more by default, bytes.
pub const EXTENT_BYTES_DEFAULT: u32 = 256 << 10;
/// Fewest extents of a table zone.
pub const EXTENT_COUNT_MIN: u64 = 16;
/// Smallest half of a manifest copy, bytes.
pub const MANIFEST_HALF_BYTES_MIN: u32 = 16 << 10;
/// Largest half of a manifest copy, bytes.
pub const MANIFEST_HALF_BYTES_MAX: u32 = 64 << 20;
/// Copies of a manifest.
pub const MANIFEST_COPY_COUNT: u64 = 2;
/// Halves of a copy.
pub const MANIFEST_HALF_COUNT: u64 = 2;
/// Smallest table zone, bytes: the smallest manifest and the fewest of the smallest extents.
pub const TABLES_BYTES_MIN: u64 = MANIFEST_COPY_COUNT * MANIFEST_HALF_COUNT * MANIFEST_HALF_BYTES_MIN as u64
    + EXTENT_COUNT_MIN * EXTENT_BYTES_MIN as u64;

/// A contiguous part of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// First byte.
    pub offset: DiskOffset,
    /// Length.
    pub bytes: u64,
}

impl Range {
    /// The first byte behind the range; `None` when that is beyond 2^64.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.offset.0.checked_add(self.bytes)
    }

    /// True when `bytes` bytes at `offset` lie in the range.
    #[must_use]
    pub fn holds(&self, offset: DiskOffset, bytes: u64) -> bool {
        let (Some(end), Some(wanted_end)) = (self.end(), offset.0.checked_add(bytes)) else { return false };
        offset >= self.offset && wanted_end <= end
    }
}

/// The zones of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardZones {
    /// Ring of segments of the write-ahead log.
    pub journal: Range,
    /// Extents of tables.
    pub tables: Range,
}

/// How a table zone is cut: | manifest copy 0, half 0 | copy 0, half 1 | copy 1, half 0 | copy 1, half 1 | extents ..
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableGeometry {
    /// Bytes of an extent: a power of two from 16 KiB to 1 MiB.
    pub extent_bytes: u32,
    /// Bytes of one half of one copy of the manifest: a multiple of 4096 from 16 KiB to 64 MiB.
    pub manifest_half_bytes: u32,
}

impl TableGeometry {
    /// The default for a zone of this size: extents of a 4096th of it, at most 256 KiB; halves of a 256th, at
    /// least 64 KiB in a zone of 2 MiB and more.
    #[must_use]
    pub fn for_zone(tables_bytes: u64) -> TableGeometry {
        let least = if tables_bytes < 2 << 20 { MANIFEST_HALF_BYTES_MIN } else { 64 << 10 };
        let half = (tables_bytes / 256).clamp(u64::from(least), u64::from(MANIFEST_HALF_BYTES_MAX));
        let share = (tables_bytes / 4096).clamp(u64::from(EXTENT_BYTES_MIN), u64::from(EXTENT_BYTES_DEFAULT));
        TableGeometry {
            extent_bytes: 1 << share.ilog2(),
            manifest_half_bytes: (half - half % BLOCK_BYTES as u64) as u32,
        }
    }

    /// Bytes of all halves of all copies.
    #[must_use]
    pub fn manifest_bytes(&self) -> u64 {
        MANIFEST_COPY_COUNT * MANIFEST_HALF_COUNT * u64::from(self.manifest_half_bytes)
    }

    /// True when a zone of this size holds the manifest and enough extents, which 32 bits can number.
    pub(crate) fn fits(&self, tables_bytes: u64) -> bool {
        let extents = tables_bytes.checked_sub(self.manifest_bytes());
        let count = extents.and_then(|bytes| bytes.checked_div(u64::from(self.extent_bytes)));
        count.is_some_and(|count| (EXTENT_COUNT_MIN..=u64::from(u32::MAX)).contains(&count))
    }
}

impl ShardZones {
    /// Half 0 or 1 of copy 0 or 1 of the manifest.
    #[must_use]
    pub fn manifest_half(&self, geometry: TableGeometry, copy: usize, half: usize) -> Range {
        assert!((copy as u64) < MANIFEST_COPY_COUNT && (half as u64) < MANIFEST_HALF_COUNT, "two times two");
        let number = copy as u64 * MANIFEST_HALF_COUNT + half as u64;
        let bytes = u64::from(geometry.manifest_half_bytes);
        Range { offset: self.tables.offset.plus(number * bytes), bytes }
    }

    /// Where extent 0 starts, and how many there are.
    #[must_use]
    pub fn extents(&self, geometry: TableGeometry) -> (DiskOffset, u32) {
        let bytes = self.tables.bytes - geometry.manifest_bytes();
        let count = u32::try_from(bytes / u64::from(geometry.extent_bytes));
        let offset = self.tables.offset.plus(geometry.manifest_bytes());
        (offset, count.expect("a superblock numbers its extents with 32 bits"))
    }
}

/// Why a device cannot be cut as asked, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Shard count of 0 or above the table of the superblock.
    #[error("a device holds 1 to {SHARD_COUNT_MAX} shards, {0} were asked for: choose a count in that range")]
    ShardCount(u16),
    /// Block size that is not a power of two between a sector and the unit of our writes.
    #[error(
        "the device's block is {0} bytes; blocks of 512, 1024, 2048 and 4096 are supported: use another device"
    )]
    BlockBytes(u32),
    /// Segment size out of range or not a multiple of 4096.
    #[error(
        "a journal segment of {0} bytes: choose a multiple of 4096 from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
    )]
    SegmentBytes(u64),
    /// The journal asked for is less than the fewest segments.
    #[error(
        "a journal of {journal_bytes} bytes holds fewer than {SEGMENT_COUNT_MIN} segments of {segment_bytes}: give at least {least}"
    )]
    JournalSmall {
        /// Bytes asked for, per shard.
        journal_bytes: u64,
        /// Segment size asked for.
        segment_bytes: u64,
        /// Smallest journal with that segment size.
        least: u64,
    },
    /// The device cannot hold the header area and all zones.
    #[error(
        "the device has {device_bytes} bytes, {shard_count} shards with these journals need at least {least}: use a larger device, fewer shards, or smaller journals or segments"
    )]
    DeviceSmall {
        /// Bytes of the device.
        device_bytes: u64,
        /// Shards asked for.
        shard_count: u16,
        /// Smallest device that would do.
        least: u64,
    },
}

/// Cuts a device of `device_bytes` for `shard_count` shards.
///
/// `journal_bytes` is per shard and is rounded down to whole segments; `None` takes a quarter of the
/// device for all journals, at most 16 GiB each and at least four segments each. What is left is
/// shared evenly as table zones; a zone of tables has at least one segment's size and [`TABLES_BYTES_MIN`].
pub fn plan(
    device_bytes: u64,
    block_bytes: u32,
    shard_count: u16,
    journal_bytes: Option<u64>,
    segment_bytes: u64,
) -> Result<Vec<ShardZones>, PlanError> {
    let block = BLOCK_BYTES as u64;
    if shard_count == 0 || usize::from(shard_count) > SHARD_COUNT_MAX {
        return Err(PlanError::ShardCount(shard_count));
    }
    if !is_block_size(block_bytes) {
        return Err(PlanError::BlockBytes(block_bytes));
    }
    if !is_segment_size(segment_bytes) {
        return Err(PlanError::SegmentBytes(segment_bytes));
    }
    let shards = u64::from(shard_count);
    let least_journal = SEGMENT_COUNT_MIN * segment_bytes;
    let usable = device_bytes.saturating_sub(HEADER_AREA_BYTES);
    let wanted = match journal_bytes {
        Some(journal_bytes) if journal_bytes < least_journal => {
            return Err(PlanError::JournalSmall { journal_bytes, segment_bytes, least: least_journal });
        }
        Some(journal_bytes) => journal_bytes,
        None => (usable / JOURNAL_SHARE_DEFAULT / shards)
            .clamp(least_journal, JOURNAL_BYTES_DEFAULT_MAX.max(least_journal)),
    };
    let journal = wanted - wanted % segment_bytes;
    let least = journal
        .checked_add(segment_bytes.max(TABLES_BYTES_MIN))
        .and_then(|per_shard| per_shard.checked_mul(shards))
        .and_then(|all| all.checked_add(HEADER_AREA_BYTES))
        .unwrap_or(u64::MAX);
    if device_bytes < least {
        return Err(PlanError::DeviceSmall { device_bytes, shard_count, least });
    }
    let tables = (usable - journal * shards) / shards;
    let tables = tables - tables % block;
    let tables_start = HEADER_AREA_BYTES + journal * shards;
    Ok((0..shards)
        .map(|shard| ShardZones {
            journal: Range { offset: DiskOffset(HEADER_AREA_BYTES + shard * journal), bytes: journal },
            tables: Range { offset: DiskOffset(tables_start + shard * tables), bytes: tables },
        })
        .collect())
}

/// True for the block sizes of devices we can write in units of 4096 bytes.
pub(crate) fn is_block_size(block_bytes: u32) -> bool {
    matches!(block_bytes, 512 | 1024 | 2048 | 4096)
}

/// True for segment sizes a journal can have.
pub(crate) fn is_segment_size(segment_bytes: u64) -> bool {
    (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
        && segment_bytes.is_multiple_of(BLOCK_BYTES as u64)
}

/// True for sizes that an extent can have.
pub(crate) fn is_extent_size(extent_bytes: u32) -> bool {
    (EXTENT_BYTES_MIN..=EXTENT_BYTES_MAX).contains(&extent_bytes) && extent_bytes.is_power_of_two()
}

/// True for sizes that a half of a manifest copy can have.
pub(crate) fn is_manifest_half_size(half_bytes: u32) -> bool {
    (MANIFEST_HALF_BYTES_MIN..=MANIFEST_HALF_BYTES_MAX).contains(&half_bytes)
        && (half_bytes as usize).is_multiple_of(BLOCK_BYTES)
}

/// The first shard whose zones break the invariant of this file, if any.
pub(crate) fn first_wrong(zones: &[ShardZones], device_bytes: u64, segment_bytes: u64) -> Option<usize> {
    let parts = |shard: usize| [zones[shard].journal, zones[shard].tables];
    (0..zones.len()).find(|&shard| {
        let journal = zones[shard].journal;
        if segment_bytes == 0
            || !journal.bytes.is_multiple_of(segment_bytes)
            || journal.bytes / segment_bytes < SEGMENT_COUNT_MIN
        {
            return true;
        }
        parts(shard).iter().enumerate().any(|(part, range)| {
            let outside = range.offset.0 < HEADER_AREA_BYTES
                || range.end().is_none_or(|end| end > device_bytes)
                || !range.offset.0.is_multiple_of(BLOCK_BYTES as u64)
                || !range.bytes.is_multiple_of(BLOCK_BYTES as u64)
                || range.bytes == 0;
            outside
                || (0..=shard).any(|other| {
                    let earlier = if other == shard { part } else { 2 };
                    parts(other)[..earlier].iter().any(|before| overlap(before, range))
                })
        })
    })
}

fn overlap(a: &Range, b: &Range) -> bool {
    let (Some(a_end), Some(b_end)) = (a.end(), b.end()) else { return true };
    a.offset.0 < b_end && b.offset.0 < a_end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn one_shard_by_default_has_a_quarter_as_journal() {
        let zones = plan(1 << 30, 512, 1, None, 16 * MIB).expect("1 GiB is enough");
        assert_eq!(zones.len(), 1);
        assert_eq!(zones[0].journal, Range { offset: DiskOffset(MIB), bytes: 240 * MIB });
        assert_eq!(zones[0].tables, Range { offset: DiskOffset(241 * MIB), bytes: (1024 - 241) * MIB });
    }

    #[test]
    fn errors_say_what_where_and_what_to_do() {
        assert_eq!(plan(1 << 30, 512, 0, None, 16 * MIB), Err(PlanError::ShardCount(0)));
        assert_eq!(plan(1 << 30, 512, 65, None, 16 * MIB), Err(PlanError::ShardCount(65)));
        assert_eq!(plan(1 << 30, 8192, 1, None, 16 * MIB), Err(PlanError::BlockBytes(8192)));
        assert_eq!(plan(1 << 30, 512, 1, None, 16 * MIB + 512), Err(PlanError::SegmentBytes(16 * MIB + 512)));
        let small = plan(1 << 30, 512, 1, Some(63 * MIB), 16 * MIB).expect_err("three segments");
        assert!(small.to_string().contains("at least 67108864"), "{small}");
        let least = MIB + 2 * (64 + 16) * MIB;
        assert_eq!(
            plan(least - 1, 512, 2, None, 16 * MIB),
            Err(PlanError::DeviceSmall { device_bytes: least - 1, shard_count: 2, least })
        );
        assert!(plan(least, 512, 2, None, 16 * MIB).is_ok());
        assert!(matches!(
            plan(0, 512, 64, Some(u64::MAX), SEGMENT_BYTES_MIN),
            Err(PlanError::DeviceSmall { least: u64::MAX, .. })
        ));
    }

    #[test]
    fn a_table_zone_is_cut_into_manifest_and_extents() {
        let geometry = TableGeometry::for_zone(1 << 30);
        assert_eq!(geometry, TableGeometry { extent_bytes: 256 << 10, manifest_half_bytes: 4 << 20 });
        let tables = Range { offset: DiskOffset(MIB), bytes: 1 << 30 };
        let zones = ShardZones { tables, ..ShardZones::default() };
        let half = |copy, half| zones.manifest_half(geometry, copy, half);
        assert_eq!(half(0, 0), Range { offset: DiskOffset(MIB), bytes: 4 * MIB });
        assert_eq!(half(1, 0).offset.0, half(0, 1).end().expect("small"));
        assert_eq!(half(1, 1).end(), Some(17 * MIB));
        assert_eq!(zones.extents(geometry), (DiskOffset(17 * MIB), (1024 - 16) * 4));
        assert!(!geometry.fits(16 * MIB + 15 * (256 << 10)) && geometry.fits(16 * MIB + 16 * (256 << 10)));
        assert!(!TableGeometry::default().fits(1 << 30));
    }

    proptest! {
        #[test]
        fn every_zone_has_a_geometry(tables_bytes in TABLES_BYTES_MIN..1 << 40, shift in 0u32..20) {
            let tables_bytes = (tables_bytes >> shift).max(TABLES_BYTES_MIN);
            let geometry = TableGeometry::for_zone(tables_bytes);
            prop_assert!(geometry.fits(tables_bytes), "{:?}", geometry);
            prop_assert!(is_extent_size(geometry.extent_bytes));
            prop_assert!(is_manifest_half_size(geometry.manifest_half_bytes));
        }

        #[test]
        fn every_plan_keeps_the_invariant(
            device_bytes in 0u64..1 << 42, shard_count in 1u16..=64, segment_blocks in 16u64..8192,
            journal_segments in prop::option::of(4u64..64),
        ) {
            let segment = segment_blocks * 4096;
            let journal = journal_segments.map(|count| count * segment + 17);
            if let Ok(zones) = plan(device_bytes, 4096, shard_count, journal, segment) {
                prop_assert_eq!(zones.len(), usize::from(shard_count));
                prop_assert_eq!(first_wrong(&zones, device_bytes, segment), None);
                let used: u64 = zones.iter().map(|z| z.journal.bytes + z.tables.bytes).sum();
                prop_assert!(device_bytes - HEADER_AREA_BYTES - used < 64 * 4096 + 4096);
            }
        }

        #[test]
        fn any_two_overlapping_zones_are_seen(shard in 0usize..4, other in 0usize..4, tables: bool) {
            prop_assume!(shard != other);
            let mut zones = plan(1 << 30, 4096, 4, None, 4 * MIB).expect("1 GiB is enough");
            if tables {
                zones[shard].tables = zones[other].tables;
            } else {
                zones[shard].journal = zones[other].tables;
                zones[shard].journal.bytes = 16 * MIB;
            }
            prop_assert!(first_wrong(&zones, 1 << 30, 4 * MIB).is_some());
        }
    }
}
