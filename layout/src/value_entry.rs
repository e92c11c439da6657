//! An entry of a value ring: one record as a cache node keeps it, bound to its place and to the ring's life.
//!
//! Owns the entry's bytes and its checksum. Must never be believed without both: a process can be killed in the middle of
//! writing one, and the bytes of an earlier lap lie around it. Invariant: what decodes was written as a whole, at just this
//! position, by the ring whose salt this is.
//!
//! ```text
//! | checksum 8 | position 8 | version 8 | expiry 8 | time 8 | value_bytes 4 | space 2 | stream_bytes 1 | kind 1 | stream | value | zeros |
//! ```
//! An entry starts and ends at multiples of [`UNIT_BYTES`], so that 32 bits name a place in 64 GiB.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::field::{Corrupt, Field, Table, byte_table, is_zero};
use crate::key::Key;
use crate::units::{STREAM_BYTES_MAX, Space, VALUE_BYTES_MAX, Version};

/// Bytes that entries and positions are multiples of.
pub const UNIT_BYTES: usize = 16;

byte_table! {
    /// Byte table of the fixed part.
    ENTRY_TABLE = "value entry", 48;
    E_CHECKSUM = "checksum", 0, 8;
    E_POSITION = "position", 8, 8;
    E_VERSION = "version", 16, 8;
    E_EXPIRY = "expiry", 24, 8;
    E_TIME = "time", 32, 8;
    E_VALUE_BYTES = "value_bytes", 40, 4;
    E_SPACE = "space", 44, 2;
    E_STREAM_BYTES = "stream_bytes", 46, 1;
    E_KIND = "kind", 47, 1;
}

/// Bytes of the fixed part.
pub const ENTRY_HEAD_BYTES: usize = ENTRY_TABLE.bytes;
/// The longest entry.
pub const ENTRY_BYTES_MAX: usize = entry_bytes(STREAM_BYTES_MAX, VALUE_BYTES_MAX);

const KIND_VALUE: u8 = 1;
const KIND_ABSENT: u8 = 2;
const KIND_GAP: u8 = 3;

const _: () = assert!(ENTRY_HEAD_BYTES.is_multiple_of(UNIT_BYTES) && UNIT_BYTES.is_multiple_of(8));

/// One record as it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Whose it is.
    pub key: Key<'a>,
    /// Its version; `ABSENT` for a known absence.
    pub version: Version,
    /// When it expires by log time, µs; 0 = never.
    pub expiry: u64,
    /// Its value; `None` for a known absence.
    pub value: Option<&'a [u8]>,
}

/// What the fixed part says, before anything is proven: enough to step over an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Where the entry says that it stands.
    pub position: u64,
    /// The version it says it has.
    pub version: Version,
    /// All its bytes, a multiple of [`UNIT_BYTES`].
    pub bytes: usize,
    /// It only fills the end of the ring.
    pub is_gap: bool,
}

/// Bytes of an entry, a multiple of [`UNIT_BYTES`].
#[must_use]
pub const fn entry_bytes(stream_bytes: usize, value_bytes: usize) -> usize {
    (ENTRY_HEAD_BYTES + stream_bytes + value_bytes).next_multiple_of(UNIT_BYTES)
}

impl<'a> Entry<'a> {
    /// Bytes that [`Entry::encode`] writes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        entry_bytes(self.key.stream.len(), self.value.map_or(0, <[u8]>::len))
    }

    /// Writes the entry over all of `out`, for this place of a ring of this salt. A wrong length, stream or value is our own bug.
    pub fn encode(&self, salt: u64, position: u64, out: &mut [u8]) {
        let value = self.value.unwrap_or_default();
        assert!(out.len() == self.bytes(), "the caller has measured it");
        assert!((1..=STREAM_BYTES_MAX).contains(&self.key.stream.len()), "a stream has 1 to 128 bytes");
        assert!(value.len() <= VALUE_BYTES_MAX, "a value has at most 1 MiB");
        assert!(
            self.value.is_some() != self.version.is_absent(),
            "an absence has version 0, a value another"
        );
        out.fill(0);
        E_POSITION.put(out, position.to_le_bytes());
        E_VERSION.put(out, self.version.0.to_le_bytes());
        E_EXPIRY.put(out, self.expiry.to_le_bytes());
        E_TIME.put(out, self.key.time.to_le_bytes());
        E_VALUE_BYTES.put(out, (value.len() as u32).to_le_bytes());
        E_SPACE.put(out, self.key.space.0.to_le_bytes());
        E_STREAM_BYTES.put(out, [self.key.stream.len() as u8]);
        E_KIND.put(out, [if self.value.is_some() { KIND_VALUE } else { KIND_ABSENT }]);
        let stream_end = ENTRY_HEAD_BYTES + self.key.stream.len();
        out[ENTRY_HEAD_BYTES..stream_end].copy_from_slice(self.key.stream);
        out[stream_end..stream_end + value.len()].copy_from_slice(value);
        seal(out, salt);
    }

    /// The entry in these bytes, all of them, if it was written as a whole for this place of a ring of this salt.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn decode(bytes: &'a [u8], salt: u64, position: u64) -> Result<Entry<'a>, Corrupt> {
        let wrong = |field: Field| ENTRY_TABLE.corrupt(field, 0);
        let head = bytes.first_chunk::<ENTRY_HEAD_BYTES>().ok_or(wrong(E_CHECKSUM))?;
        let shape = Shape::of(head).ok_or(wrong(E_KIND))?;
        if shape.bytes != bytes.len() {
            return Err(wrong(E_VALUE_BYTES));
        }
        if E_CHECKSUM.u64(head) != checksum(bytes, salt) {
            return Err(wrong(E_CHECKSUM));
        }
        if shape.position != position {
            return Err(wrong(E_POSITION));
        }
        Entry::parts(bytes, head).ok_or(wrong(E_KIND))
    }

    /// As [`Entry::decode`], believing whatever checksum and position there are: what must never be done, for a test that it shows.
    #[must_use]
    pub fn decode_unproven(bytes: &'a [u8]) -> Option<Entry<'a>> {
        let head = bytes.first_chunk::<ENTRY_HEAD_BYTES>()?;
        Shape::of(head).filter(|shape| shape.bytes == bytes.len())?;
        Entry::parts(bytes, head)
    }

    fn parts(bytes: &'a [u8], head: &[u8; ENTRY_HEAD_BYTES]) -> Option<Entry<'a>> {
        let stream_end = ENTRY_HEAD_BYTES + usize::from(E_STREAM_BYTES.u8(head));
        let value_end = stream_end + E_VALUE_BYTES.u32(head) as usize;
        let stream = bytes.get(ENTRY_HEAD_BYTES..stream_end)?;
        let value = bytes.get(stream_end..value_end)?;
        let version = Version(E_VERSION.u64(head));
        let is_value = E_KIND.u8(head) == KIND_VALUE;
        if E_KIND.u8(head) == KIND_GAP || is_value == version.is_absent() || !is_zero(&bytes[value_end..]) {
            return None;
        }
        let key = Key { space: Space(E_SPACE.u16(head)), stream, time: E_TIME.u64(head) };
        Some(Entry { key, version, expiry: E_EXPIRY.u64(head), value: is_value.then_some(value) })
    }
}

impl Shape {
    /// What a fixed part says; `None` when nothing says so.
    #[must_use]
    pub fn of(head: &[u8; ENTRY_HEAD_BYTES]) -> Option<Shape> {
        let (stream_bytes, value_bytes) =
            (usize::from(E_STREAM_BYTES.u8(head)), E_VALUE_BYTES.u32(head) as usize);
        let kind = E_KIND.u8(head);
        let fits = match kind {
            KIND_VALUE => (1..=STREAM_BYTES_MAX).contains(&stream_bytes) && value_bytes <= VALUE_BYTES_MAX,
            KIND_ABSENT => (1..=STREAM_BYTES_MAX).contains(&stream_bytes) && value_bytes == 0,
            KIND_GAP => stream_bytes == 0 && value_bytes <= ENTRY_BYTES_MAX,
            _ => false,
        };
        fits.then(|| Shape {
            position: E_POSITION.u64(head),
            version: Version(E_VERSION.u64(head)),
            bytes: entry_bytes(stream_bytes, value_bytes),
            is_gap: kind == KIND_GAP,
        })
    }

    /// The fixed part of a gap: `bytes` to the end of the ring that no entry fits into. It is stepped over, never believed.
    #[must_use]
    pub fn gap(position: u64, bytes: usize) -> [u8; ENTRY_HEAD_BYTES] {
        assert!(
            bytes.is_multiple_of(UNIT_BYTES) && (ENTRY_HEAD_BYTES..=ENTRY_BYTES_MAX).contains(&bytes),
            "a gap has room for its head and is shorter than an entry"
        );
        let mut head = [0; ENTRY_HEAD_BYTES];
        E_POSITION.put(&mut head, position.to_le_bytes());
        E_VALUE_BYTES.put(&mut head, ((bytes - ENTRY_HEAD_BYTES) as u32).to_le_bytes());
        E_KIND.put(&mut head, [KIND_GAP]);
        head
    }

    /// Whether the fixed part is of this key; its stream is compared by the caller.
    #[must_use]
    pub fn is_of(head: &[u8; ENTRY_HEAD_BYTES], key: &Key<'_>) -> bool {
        E_SPACE.u16(head) == key.space.0
            && E_TIME.u64(head) == key.time
            && usize::from(E_STREAM_BYTES.u8(head)) == key.stream.len()
            && E_KIND.u8(head) != KIND_GAP
    }
}

/// xxh3-64 of all bytes behind the checksum, seeded with the ring's salt: entries of an earlier life of the same memory fail.
fn checksum(bytes: &[u8], salt: u64) -> u64 {
    xxh3_64_with_seed(&bytes[E_CHECKSUM.bytes..], salt)
}

/// Makes the checksum right.
pub fn seal(bytes: &mut [u8], salt: u64) {
    let sum = checksum(bytes, salt);
    E_CHECKSUM.put(bytes, sum.to_le_bytes());
}

/// The byte tables of this file, for the comparison with FORMAT_RING.md.
pub const TABLES: [Table; 1] = [ENTRY_TABLE];

#[cfg(test)]
mod tests {
    use super::*;

    fn example(value: Option<&[u8]>) -> Entry<'_> {
        let version = if value.is_some() { Version(77) } else { Version::ABSENT };
        Entry { key: Key { space: Space(3), stream: b"user-1", time: 99 }, version, expiry: 5, value }
    }

    fn encoded(entry: &Entry<'_>) -> Vec<u8> {
        let mut bytes = vec![0xee; entry.bytes()];
        entry.encode(11, 4096, &mut bytes);
        bytes
    }

    #[test]
    fn entries_round_trip() {
        for value in [Some(b"a value".as_slice()), Some(b""), None, Some(&[7; 1000])] {
            let bytes = encoded(&example(value));
            assert!(bytes.len().is_multiple_of(UNIT_BYTES));
            assert_eq!(Entry::decode(&bytes, 11, 4096), Ok(example(value)));
        }
    }

    #[test]
    fn another_place_another_salt_or_another_length_is_refused() {
        let bytes = encoded(&example(Some(b"a value")));
        assert_eq!(Entry::decode(&bytes, 11, 4112).expect_err("moved").field, "position");
        assert_eq!(Entry::decode(&bytes, 12, 4096).expect_err("another life").field, "checksum");
        assert!(Entry::decode(&bytes[..bytes.len() - 16], 11, 4096).is_err());
        assert!(Entry::decode(&[], 11, 4096).is_err());
    }

    /// A kill leaves any prefix of the new bytes over any old ones, word by word; a fault of the memory any byte.
    #[test]
    fn every_torn_or_changed_byte_is_refused() {
        let bytes = encoded(&example(Some(b"a value of some length, longer than a unit")));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(Entry::decode(&changed, 11, 4096).is_err(), "byte {at}");
        }
        let older = encoded(&example(Some(b"another value of the same length as this a")));
        assert_eq!(older.len(), bytes.len());
        for at in (8..bytes.len()).step_by(8) {
            let torn = [&bytes[..at], &older[at..]].concat();
            assert!(torn == bytes || torn == older || Entry::decode(&torn, 11, 4096).is_err(), "word {at}");
            assert!(Entry::decode(&[&bytes[..at], &vec![0; bytes.len() - at]].concat(), 11, 4096).is_err());
        }
    }

    #[test]
    fn a_gap_is_stepped_over_and_never_believed() {
        let mut bytes = vec![0; 160];
        bytes[..ENTRY_HEAD_BYTES].copy_from_slice(&Shape::gap(4096, 160));
        let shape = Shape::of(bytes.first_chunk().expect("long enough")).expect("a gap");
        assert_eq!((shape.bytes, shape.is_gap, shape.position), (160, true, 4096));
        seal(&mut bytes, 11);
        assert!(Entry::decode(&bytes, 11, 4096).is_err());
    }
}
