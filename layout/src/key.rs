//! The key of a record and where it belongs: bucket, tablet, order.
//!
//! Owns the hash that places a stream; every client in every language computes the same one.
//! Must never change: a changed hash is a changed disk format. Invariant: all records of a stream
//! share a bucket, and in key order a bucket, a space and a stream are each contiguous.

use std::cmp::Ordering;

use thiserror::Error;

use crate::checksum::short;
use crate::units::{BucketIndex, STREAM_BYTES_MAX, STREAM_BYTES_MIN, Space, TABLET_COUNT, TabletIndex};

/// Key of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    /// Namespace.
    pub space: Space,
    /// Owner of the sequence of records, 1..=128 bytes.
    pub stream: &'a [u8],
    /// Microseconds since the Unix epoch.
    pub time: u64,
}

/// A stream whose length is outside 1..=128 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a stream has 1 to 128 bytes, this one {bytes}")]
pub struct StreamLengthError {
    /// Bytes given.
    pub bytes: usize,
}

impl<'a> Key<'a> {
    /// A key with a valid stream, or the length that is wrong.
    pub fn new(space: Space, stream: &'a [u8], time: u64) -> Result<Key<'a>, StreamLengthError> {
        if (STREAM_BYTES_MIN..=STREAM_BYTES_MAX).contains(&stream.len()) {
            Ok(Key { space, stream, time })
        } else {
            Err(StreamLengthError { bytes: stream.len() })
        }
    }

    /// The bucket of the key's stream.
    #[must_use]
    pub fn bucket(&self) -> BucketIndex {
        bucket_of(self.space, self.stream)
    }

    /// The tablet of the key's stream.
    #[must_use]
    pub fn tablet(&self) -> TabletIndex {
        tablet_of(self.bucket())
    }

    /// Order of keys in a tablet: (bucket, space, stream as bytes, time).
    ///
    /// Hashes only when the streams differ; a structure that compares often keeps the bucket beside
    /// the key and calls [`Key::compare_in_bucket`] when the buckets are equal.
    #[must_use]
    pub fn compare(&self, other: &Key<'_>) -> Ordering {
        if self.space == other.space && self.stream == other.stream {
            return self.time.cmp(&other.time);
        }
        self.bucket().cmp(&other.bucket()).then_with(|| self.compare_in_bucket(other))
    }

    /// Order of two keys of one bucket: (space, stream as bytes, time). A stream that is a prefix of
    /// another comes first.
    #[must_use]
    pub fn compare_in_bucket(&self, other: &Key<'_>) -> Ordering {
        self.space
            .cmp(&other.space)
            .then_with(|| self.stream.cmp(other.stream))
            .then_with(|| self.time.cmp(&other.time))
    }
}

/// The bucket of a stream: the top 17 bits of xxh3-64 with seed 0 over the space as two
/// little-endian bytes followed by the stream's bytes.
///
/// The stream has at most 128 bytes; the door has checked it, a longer one is our own bug.
#[must_use]
pub fn bucket_of(space: Space, stream: &[u8]) -> BucketIndex {
    let top = (hash_of(space, stream) >> (64 - 17)) as u32;
    BucketIndex::new(top).expect("17 bits are below 2^17 buckets")
}

/// The hash of a stream, seedless xxh3-64 over its space and its bytes: the top 17 bits are its bucket, the low 32 say whether it is
/// in a share of all streams.
///
/// # Panics
/// When the stream is longer than it can be.
#[must_use]
#[inline]
pub fn hash_of(space: Space, stream: &[u8]) -> u64 {
    let mut input = [0u8; 2 + STREAM_BYTES_MAX];
    let bytes = 2 + stream.len();
    assert!(bytes <= input.len(), "a stream has at most {STREAM_BYTES_MAX} bytes");
    input[..2].copy_from_slice(&space.0.to_le_bytes());
    input[2..bytes].copy_from_slice(stream);
    short(&input[..bytes])
}

/// The tablet of a bucket: its low six bits.
#[must_use]
pub fn tablet_of(bucket: BucketIndex) -> TabletIndex {
    TabletIndex::new((bucket.get() as usize % TABLET_COUNT) as u8).expect("a remainder of 64 is below 64")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(space: u16, stream: &[u8], time: u64) -> Key<'_> {
        Key::new(Space(space), stream, time).expect("a valid stream")
    }

    /// Known answers, computed with another implementation of xxh3; FORMAT.md repeats them.
    #[test]
    fn buckets_of_known_streams() {
        let known: [(u16, &[u8], u32); 4] = KNOWN_BUCKETS;
        for (space, stream, bucket) in known {
            assert_eq!(bucket_of(Space(space), stream).get(), bucket, "{space} {stream:?}");
            assert_eq!(u32::from(tablet_of(bucket_of(Space(space), stream)).get()), bucket & 63);
        }
    }

    const KNOWN_BUCKETS: [(u16, &[u8], u32); 4] =
        [(0, b"a", 82158), (0, b"user-1", 123046), (1, b"user-1", 80868), (0xffff, &[0xff; 128], 38285)];

    #[test]
    fn stream_lengths_outside_the_limit_are_refused() {
        assert_eq!(Key::new(Space(0), b"", 0), Err(StreamLengthError { bytes: 0 }));
        assert_eq!(Key::new(Space(0), &[1; 129], 0), Err(StreamLengthError { bytes: 129 }));
        assert!(Key::new(Space(0), &[1; 128], 0).is_ok());
    }

    proptest! {
        #[test]
        fn order_is_bucket_space_stream_time(
            a in (0u16..3, prop::collection::vec(0u8..3, 1..4), 0u64..3),
            b in (0u16..3, prop::collection::vec(0u8..3, 1..4), 0u64..3),
        ) {
            let (left, right) = (key(a.0, &a.1, a.2), key(b.0, &b.1, b.2));
            let expected = (left.bucket(), left.space, left.stream, left.time)
                .cmp(&(right.bucket(), right.space, right.stream, right.time));
            prop_assert_eq!(left.compare(&right), expected);
            prop_assert_eq!(right.compare(&left), expected.reverse());
        }
    }
}
