//! Units and limits: one type per thing that could be swapped for another.
//!
//! Owns the newtypes of offsets, indexes, versions and identities and the constants that size them.
//! Must never hold behaviour beyond conversion. Invariant: a value of a bounded index type is in
//! its bounds, because only its `new` makes one.

use std::fmt;
use std::str::FromStr;

/// Buckets of the whole key space: 2^17, the smallest piece that is ever routed, moved or sunk.
pub const BUCKET_COUNT: u32 = 131_072;
/// Tablets of a group: bucket & 63.
pub const TABLET_COUNT: usize = 64;
/// Shards a device can be formatted for: one superblock holds the zones of this many.
pub const SHARD_COUNT_MAX: usize = 64;
/// Shortest stream, bytes.
pub const STREAM_BYTES_MIN: usize = 1;
/// Longest stream, bytes.
pub const STREAM_BYTES_MAX: usize = 128;
/// Longest value, bytes (1 MiB).
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Operations in one client batch.
pub const OPERATION_COUNT_MAX: usize = 4_096;
/// Operations in one log entry: their position is the low 16 bits of the version.
pub const ENTRY_OPERATION_COUNT_MAX: usize = 65_535;
/// Bytes of the operations of one log entry (4 MiB).
pub const ENTRY_BODY_BYTES_MAX: usize = 4 << 20;
/// Alignment and smallest size of any device access, bytes.
pub const BLOCK_BYTES: usize = 4_096;
/// The unit a device writes atomically, bytes (media assumption in FORMAT.md).
pub const SECTOR_BYTES: usize = 512;

const _: () = assert!((BUCKET_COUNT as usize).is_multiple_of(TABLET_COUNT));
const _: () = assert!(TABLET_COUNT.is_power_of_two() && TABLET_COUNT <= 256);
const _: () = assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(OPERATION_COUNT_MAX <= ENTRY_OPERATION_COUNT_MAX);
const _: () = assert!(VALUE_BYTES_MAX < ENTRY_BODY_BYTES_MAX);

/// Declares a plain number with its own type: any value is allowed.
macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Bytes from the start of a device.
    DiskOffset(u64)
}
number! {
    /// A shard of a node, 0..shard count of its format.
    ShardIndex(u16)
}
number! {
    /// Position of an entry in a tablet's log, from 1; 0 = before the first.
    LogIndex(u64)
}
number! {
    /// A tablet's own time, microseconds since the Unix epoch; never runs backwards.
    LogTime(u64)
}
number! {
    /// A namespace of streams; 0 is the default one.
    Space(u16)
}
number! {
    /// One start of a process on a device, from 1; bumped and flushed before anything else is done.
    Incarnation(u32)
}
number! {
    /// Number of a journal record, from 1, without gaps over all incarnations of a device's format.
    Sequence(u64)
}
number! {
    /// A table of a device, from 1; never used twice on the device. Blobs of state count with them.
    TableId(u64)
}

impl Space {
    /// The default space.
    pub const DEFAULT: Space = Space(0);
}

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }
}

impl LogTime {
    /// Is a record absent now that expires at `expiry_us` of log time, microseconds, 0 = never?
    #[must_use]
    pub fn has_expired(self, expiry_us: u64) -> bool {
        expiry_us != 0 && expiry_us <= self.0
    }
}

impl Sequence {
    /// The sequence after this one.
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }
}

impl Incarnation {
    /// The incarnation of the start after this one; `None` once 2^32 - 1 starts are used up.
    #[must_use]
    pub fn next(self) -> Option<Incarnation> {
        self.0.checked_add(1).map(Incarnation)
    }
}

impl DiskOffset {
    /// This offset moved up by `bytes`; an overflow is our own bug.
    #[must_use]
    pub fn plus(self, bytes: u64) -> DiskOffset {
        DiskOffset(self.0.checked_add(bytes).expect("devices are smaller than 2^64 bytes"))
    }
}

/// One of the 131,072 buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BucketIndex(u32);

impl BucketIndex {
    /// `None` from 131,072 on.
    #[must_use]
    pub const fn new(index: u32) -> Option<BucketIndex> {
        if index < BUCKET_COUNT { Some(BucketIndex(index)) } else { None }
    }

    /// The number, below [`BUCKET_COUNT`].
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for BucketIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the 64 tablets of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TabletIndex(u8);

impl TabletIndex {
    /// `None` from 64 on.
    #[must_use]
    pub const fn new(index: u8) -> Option<TabletIndex> {
        if (index as usize) < TABLET_COUNT { Some(TabletIndex(index)) } else { None }
    }

    /// The number, below [`TABLET_COUNT`].
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number as an index of arrays of [`TABLET_COUNT`] elements.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All tablets in order.
    pub fn all() -> impl Iterator<Item = TabletIndex> {
        (0..TABLET_COUNT as u8).map(TabletIndex)
    }

    /// The shard that owns this tablet on a node with `shard_count` shards (at least 1).
    #[must_use]
    pub fn shard(self, shard_count: u16) -> ShardIndex {
        assert!(shard_count > 0, "a node has at least one shard");
        ShardIndex(u16::from(self.0) % shard_count)
    }
}

impl fmt::Display for TabletIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Version of a record: ((log index + base of the bucket) << 16) + position in the entry; 0 = absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

impl Version {
    /// The version of a key that was never written, is deleted or has expired.
    pub const ABSENT: Version = Version(0);

    /// The version of the operation at `position` of the entry at `index`.
    ///
    /// Index + base must be 1..2^48: at 10^6 entries a second of one tablet that lasts 8.9 years
    /// only if every entry held one operation; entries are batches, so the bound is out of reach
    /// and passing it is our own bug.
    #[must_use]
    pub fn new(index: LogIndex, base: u64, position: u16) -> Version {
        let number = index.0.checked_add(base).expect("log index + base is below 2^48");
        assert!((1..1 << 48).contains(&number), "log index + base is in 1..2^48, got {number}");
        Version((number << 16) + u64::from(position))
    }

    /// The log index that gave this version in a bucket of this base; 0 for a version below the base.
    #[must_use]
    pub fn log_index(self, base: u64) -> LogIndex {
        LogIndex((self.0 >> 16).saturating_sub(base))
    }

    /// Position of the operation in its entry.
    #[must_use]
    pub fn position(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// True for 0.
    #[must_use]
    pub fn is_absent(self) -> bool {
        self == Version::ABSENT
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes a write idempotent: a retry carries the same one. 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId {
    /// 64 random bits of the client.
    pub client: u64,
    /// The tablet's log time that the client knew when it first sent, microseconds; 0 = unknown.
    pub log_time: u64,
    /// The client's own count.
    pub sequence: u64,
}

impl RequestId {
    /// Bytes of an encoded id.
    pub const BYTES: usize = 24;

    /// Client, log time, sequence, each little-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; RequestId::BYTES] {
        let mut bytes = [0; RequestId::BYTES];
        bytes[..8].copy_from_slice(&self.client.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.log_time.to_le_bytes());
        bytes[16..].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// The reverse of [`RequestId::to_bytes`]; every value is an id.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; RequestId::BYTES]) -> RequestId {
        let ([client, log_time, sequence], []) = bytes.as_chunks::<8>() else {
            unreachable!("24 bytes are three numbers of eight");
        };
        RequestId {
            client: u64::from_le_bytes(*client),
            log_time: u64::from_le_bytes(*log_time),
            sequence: u64::from_le_bytes(*sequence),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}-{}", self.client, self.log_time, self.sequence)
    }
}

/// Identity of a device or a cluster: 16 random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

/// A text that is not 32 hexadecimal digits with optional dashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a uuid is 32 hexadecimal digits, dashes allowed")]
pub struct UuidTextError;

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Uuid {
    type Err = UuidTextError;

    fn from_str(text: &str) -> Result<Uuid, UuidTextError> {
        let mut bytes = [0u8; 16];
        let mut count = 0;
        for digit in text.chars().filter(|c| *c != '-') {
            let digit = digit.to_digit(16).ok_or(UuidTextError)?;
            let byte = bytes.get_mut(count / 2).ok_or(UuidTextError)?;
            *byte = (*byte << 4) | digit as u8;
            count += 1;
        }
        if count == 32 { Ok(Uuid(bytes)) } else { Err(UuidTextError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_index_plus_base_and_position() {
        let version = Version::new(LogIndex(7), 100, 3);
        assert_eq!(version.0, (107 << 16) + 3);
        assert_eq!(version.log_index(100), LogIndex(7));
        assert_eq!(version.position(), 3);
        assert!(Version::new(LogIndex(1), 0, 0) > Version::ABSENT);
        assert!(Version::new(LogIndex(2), 0, 0) > Version::new(LogIndex(1), 0, u16::MAX));
        assert_eq!(Version(5 << 16).log_index(9), LogIndex(0));
    }

    #[test]
    #[should_panic(expected = "1..2^48")]
    fn version_of_index_zero_would_be_absent() {
        let _ = Version::new(LogIndex(0), 0, 0);
    }

    #[test]
    fn what_expires_at_a_log_time_is_absent_from_then_on() {
        assert!(!LogTime(6).has_expired(7) && LogTime(7).has_expired(7) && LogTime(8).has_expired(7));
        assert!(!LogTime(u64::MAX).has_expired(0), "0 is never");
    }

    #[test]
    fn bounded_indexes_refuse_the_first_number_outside() {
        assert_eq!(BucketIndex::new(BUCKET_COUNT - 1).map(BucketIndex::get), Some(131_071));
        assert_eq!(BucketIndex::new(BUCKET_COUNT), None);
        assert_eq!(TabletIndex::new(63).map(TabletIndex::get), Some(63));
        assert_eq!(TabletIndex::new(64), None);
        assert_eq!(TabletIndex::all().count(), 64);
    }

    #[test]
    fn tablets_spread_over_shards() {
        for shard_count in 1..=64u16 {
            let mut counts = vec![0usize; usize::from(shard_count)];
            TabletIndex::all().for_each(|tablet| counts[usize::from(tablet.shard(shard_count).0)] += 1);
            let least = counts.iter().min().expect("at least one shard");
            let most = counts.iter().max().expect("at least one shard");
            assert!(most - least <= 1 && *least >= 1, "{shard_count}: {counts:?}");
        }
    }

    #[test]
    fn request_id_round_trips_in_field_order() {
        let id = RequestId { client: 0x0807_0605_0403_0201, log_time: 9, sequence: u64::MAX };
        let bytes = id.to_bytes();
        assert_eq!(bytes[..9], [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(RequestId::from_bytes(&bytes), id);
    }

    #[test]
    fn uuid_text_round_trips_and_refuses_other_lengths() {
        let uuid = Uuid(std::array::from_fn(|i| i as u8 * 17));
        assert_eq!(uuid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(uuid.to_string().parse(), Ok(uuid));
        assert_eq!("00112233445566778899AABBCCDDEEFF".parse(), Ok(uuid));
        for bad in ["", "00", "00112233445566778899aabbccddeef", "00112233445566778899aabbccddeeff0", "g"] {
            assert_eq!(bad.parse::<Uuid>(), Err(UuidTextError), "{bad}");
        }
    }
}
