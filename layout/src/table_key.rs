//! Keys of a table: one byte string per key whose order is the order of keys.
//!
//! Owns the encoding. Must never be changed: tables are sorted by it. Invariant: two encoded keys compare as bytes
//! as their keys compare by (bucket, space, stream, time), and a key has one encoding.
//!
//! ```text
//! | bucket 3 | space 2 | stream, 00 as 00 ff | 00 00 | time 8 |      integers big-endian
//! ```
//!
//! The end of a stream (00 00) is below every byte a longer stream can go on with (00 ff, 01, ..), so a stream
//! comes before those it is a prefix of.

use crate::checksum::short;
use crate::field::{Corrupt, Table, byte_table};
use crate::key::Key;
use crate::units::{BucketIndex, STREAM_BYTES_MAX, STREAM_BYTES_MIN, Space};

/// Longest encoded key: every byte of the longest stream is zero and takes two.
pub const TABLE_KEY_BYTES_MAX: usize = FRONT_BYTES + 2 * STREAM_BYTES_MAX + END.len() + TIME_BYTES;
/// Shortest encoded key.
pub const TABLE_KEY_BYTES_MIN: usize = FRONT_BYTES + STREAM_BYTES_MIN + END.len() + TIME_BYTES;

const FRONT_BYTES: usize = 5;
const TIME_BYTES: usize = 8;
const END: [u8; 2] = [0, 0];
const ZERO: [u8; 2] = [0, 0xff];

byte_table! {
    /// Byte table of the fixed part at the start of a key; both numbers are big-endian.
    TABLE_KEY_TABLE = "table key", FRONT_BYTES;
    K_BUCKET = "bucket", 0, 3;
    K_SPACE = "space", 3, 2;
}

/// What a key decodes to; the stream is in the buffer that the caller gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableKey {
    /// Bucket of the stream.
    pub bucket: BucketIndex,
    /// Namespace.
    pub space: Space,
    /// Bytes of the stream, 1..=128.
    pub stream_bytes: usize,
    /// Microseconds since the Unix epoch.
    pub time: u64,
}

/// Appends what all keys of a bucket start with.
pub fn encode_bucket_prefix(out: &mut Vec<u8>, bucket: BucketIndex) {
    out.extend_from_slice(&bucket.get().to_be_bytes()[1..]);
}

/// Appends what all keys of a stream, and no others, start with.
///
/// The stream has 1..=128 bytes; another length is our own bug.
pub fn encode_stream_prefix(out: &mut Vec<u8>, bucket: BucketIndex, space: Space, stream: &[u8]) {
    assert!((STREAM_BYTES_MIN..=STREAM_BYTES_MAX).contains(&stream.len()), "a stream has 1 to 128 bytes");
    encode_bucket_prefix(out, bucket);
    out.extend_from_slice(&space.0.to_be_bytes());
    let mut parts = stream.split(|byte| *byte == 0);
    out.extend_from_slice(parts.next().unwrap_or_default());
    for part in parts {
        out.extend_from_slice(&ZERO);
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&END);
}

/// Appends the encoded key; `bucket` is the bucket of its stream, which the caller has computed for the route.
pub fn encode_key(out: &mut Vec<u8>, bucket: BucketIndex, key: Key<'_>) {
    encode_stream_prefix(out, bucket, key.space, key.stream);
    out.extend_from_slice(&key.time.to_be_bytes());
}

/// The hash of an encoded key that filters are asked with: xxh3-64, seed 0. The same for every table.
#[must_use]
#[inline]
pub fn key_hash(key: &[u8]) -> u64 {
    short(key)
}

/// The time of an encoded key of at least [`TABLE_KEY_BYTES_MIN`] bytes.
pub(crate) fn key_time(key: &[u8]) -> u64 {
    u64::from_be_bytes(*key.last_chunk().expect("a key ends with its time"))
}

/// Takes an encoded key apart. That the bucket is the stream's is not checked: a hash for each record of a scan is
/// too much, and blocks have checksums.
pub fn decode_key(bytes: &[u8], stream_out: &mut [u8; STREAM_BYTES_MAX]) -> Result<TableKey, Corrupt> {
    let structure = TABLE_KEY_TABLE.structure;
    if !(TABLE_KEY_BYTES_MIN..=TABLE_KEY_BYTES_MAX).contains(&bytes.len()) {
        return Err(TABLE_KEY_TABLE.corrupt(K_BUCKET, 0));
    }
    let [b0, b1, b2] = K_BUCKET.array(bytes);
    let bucket = BucketIndex::new(u32::from_be_bytes([0, b0, b1, b2]));
    let bucket = bucket.ok_or(TABLE_KEY_TABLE.corrupt(K_BUCKET, 0))?;
    let (rest, time) = bytes[FRONT_BYTES..].split_at(bytes.len() - FRONT_BYTES - TIME_BYTES);
    let wrong = |at: usize| Corrupt { structure, field: "stream", at: (FRONT_BYTES + at) as u64 };
    let (stream, end) = rest.split_at(rest.len() - END.len());
    if end != END {
        return Err(wrong(stream.len()));
    }
    let mut length = 0;
    let mut at = 0;
    while at < stream.len() {
        let escaped = stream[at] == 0;
        if escaped && stream.get(at + 1) != Some(&ZERO[1]) {
            return Err(wrong(at));
        }
        *stream_out.get_mut(length).ok_or(wrong(at))? = stream[at];
        length += 1;
        at += if escaped { ZERO.len() } else { 1 };
    }
    let space = Space(u16::from_be_bytes(K_SPACE.array(bytes)));
    Ok(TableKey { bucket, space, stream_bytes: length, time: key_time(time) })
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 1] = [TABLE_KEY_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(space: u16, stream: &[u8], time: u64) -> Vec<u8> {
        let key = Key::new(Space(space), stream, time).expect("a valid stream");
        let mut out = Vec::new();
        encode_key(&mut out, key.bucket(), key);
        out
    }

    /// In one bucket, so that the order of streams shows.
    fn in_bucket(stream: &[u8], time: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let bucket = BucketIndex::new(5).expect("below 2^17");
        encode_key(&mut out, bucket, Key { space: Space(1), stream, time });
        out
    }

    #[test]
    fn the_longest_and_the_shortest_key_have_the_stated_size() {
        assert_eq!(encoded(0, &[0; 128], 0).len(), TABLE_KEY_BYTES_MAX);
        assert_eq!(encoded(0, &[1], u64::MAX).len(), TABLE_KEY_BYTES_MIN);
    }

    #[test]
    fn keys_that_are_no_key_are_named() {
        let mut stream = [0; 128];
        let good = encoded(3, b"a\0b", 77);
        assert!(decode_key(&good, &mut stream).is_ok());
        let mut field_of = |bytes: &[u8]| decode_key(bytes, &mut stream).expect_err("no key").field;
        assert_eq!(field_of(&good[..15]), "bucket");
        assert_eq!(field_of(&[&[0xff], &good[1..]].concat()), "bucket");
        let at = |index: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[index] = byte;
            bytes
        };
        assert_eq!(field_of(&at(7, 1)), "stream", "a zero that is not escaped");
        assert_eq!(field_of(&at(9, 1)), "stream", "no end");
        assert_eq!(field_of(&[&good[..5], &[7; 129], &good[9..]].concat()), "stream");
    }

    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(0u8), Just(1), Just(0xfe), Just(0xff), any::<u8>()];
        prop::collection::vec(byte, 1..8)
    }

    proptest! {
        #[test]
        fn bytes_are_ordered_as_keys(
            a in streams(), b in streams(), cut in 0usize..8, time in any::<[u64; 2]>(),
        ) {
            for other in [&b[..], &a[..(cut + 1).min(a.len())]] {
                let expected = (&a[..], time[0]).cmp(&(other, time[1]));
                prop_assert_eq!(in_bucket(&a, time[0]).cmp(&in_bucket(other, time[1])), expected);
                let (one, two) = (
                    Key { space: Space(0), stream: &a, time: time[0] },
                    Key { space: Space(1), stream: other, time: time[1] },
                );
                let (left, right) = (encoded(0, &a, time[0]), encoded(1, other, time[1]));
                prop_assert_eq!(left.cmp(&right), one.compare(&two));
            }
        }

        #[test]
        fn keys_round_trip(space in any::<u16>(), stream in streams(), time in any::<u64>()) {
            let bytes = encoded(space, &stream, time);
            let mut out = [0; 128];
            let key = decode_key(&bytes, &mut out).expect("a key");
            prop_assert_eq!((key.space, key.time), (Space(space), time));
            prop_assert_eq!(&out[..key.stream_bytes], &stream[..]);
            prop_assert_eq!(key.bucket, crate::key::bucket_of(Space(space), &stream));
            let mut prefix = Vec::new();
            encode_stream_prefix(&mut prefix, key.bucket, key.space, &stream);
            prop_assert_eq!(&bytes[..bytes.len() - 8], &prefix[..]);
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(
            middle in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 1..20),
        ) {
            let bytes = [&[0, 0, 1, 0, 2][..], &middle, &[0, 0], &[9; 8]].concat();
            let mut stream = [0; 128];
            if let Ok(key) = decode_key(&bytes, &mut stream) {
                let mut again = Vec::new();
                let stream = &stream[..key.stream_bytes];
                encode_key(&mut again, key.bucket, Key { space: key.space, stream, time: key.time });
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
