//! Checksums and the identity they are bound to.
//!
//! Owns the two functions every structure uses: CRC-32 for blocks and records, xxh3 for long
//! things. Must never be computed over content alone where a place, a device or an owner is known:
//! bytes that are right but belong elsewhere must fail. Invariant: the identity goes in before the
//! content, so the common part of an identity is hashed once and cloned.

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64, xxh3_128};

/// CRC-32 (IEEE 802.3, the one of zlib) over an identity followed by content.
#[derive(Debug, Clone)]
pub struct Crc(crc32fast::Hasher);

impl Crc {
    /// Starts with the bytes of an identity.
    #[must_use]
    pub fn with(identity: &[u8]) -> Crc {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(identity);
        Crc(hasher)
    }

    /// The same checksum with more bytes behind it.
    #[must_use]
    #[inline]
    pub fn and(mut self, bytes: &[u8]) -> Crc {
        self.0.update(bytes);
        self
    }

    /// The checksum.
    #[must_use]
    #[inline]
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// xxh3-64 with seed 0: places of streams, checks of rows.
#[must_use]
#[inline]
pub fn short(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// xxh3-128 with seed 0 of a long thing: tables, sections, digests, value ids.
#[must_use]
pub fn long(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

/// xxh3-64 with seed 0 over pieces that are not contiguous in memory; on the stack.
#[derive(Clone, Default)]
pub(crate) struct Pieces(Xxh3Default);

impl Pieces {
    /// Adds the next piece.
    #[inline]
    pub(crate) fn add(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all pieces one after the other.
    pub(crate) fn finish(&self) -> u64 {
        self.0.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_one_of_zlib_over_identity_and_content() {
        assert_eq!(Crc::with(b"1234").and(b"56789").finish(), 0xcbf4_3926);
        assert_ne!(Crc::with(b"1235").and(b"56789").finish(), 0xcbf4_3926);
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let whole: Vec<u8> = (0..4000u32).map(|i| (i * 7) as u8).collect();
        for cut in [1, 448, 496, 3999] {
            let mut pieces = Pieces::default();
            whole.chunks(cut).for_each(|piece| pieces.add(piece));
            assert_eq!(pieces.finish(), short(&whole), "pieces of {cut}");
        }
    }
}
