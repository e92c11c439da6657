//! Numbers of varying length: seven bits per byte, low ones first, the top bit says that more follow.
//!
//! Owns the one encoding of each number: the shortest. Invariant: `take` accepts nothing that `put` does not write.

/// Most bytes of an encoded number.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Appends a number, 1..=10 bytes.
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The number at `at` and the place behind it; `None` when it is cut, above 2^64 or not the shortest.
#[inline]
pub(crate) fn take(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((u64::from(first), at + 1));
    }
    take_long(bytes, at)
}

fn take_long(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut number = 0u64;
    for (index, byte) in bytes.get(at..)?.iter().enumerate().take(VARINT_BYTES_MAX) {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            let shortest = *byte != 0 && (index + 1 < VARINT_BYTES_MAX || *byte == 1);
            return shortest.then_some((number, at + index + 1));
        }
    }
    None
}

/// Small numbers for small differences of either sign.
#[inline]
pub(crate) fn zigzag(difference: i64) -> u64 {
    (difference << 1 ^ difference >> 63) as u64
}

/// The reverse of [`zigzag`].
#[inline]
pub(crate) fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_that_are_cut_too_long_or_too_large_are_refused() {
        assert_eq!(take(&[], 0), None);
        assert_eq!(take(&[1], 7), None);
        assert_eq!(take(&[0x80], 0), None);
        assert_eq!(take(&[0x80, 0], 0), None, "0 in two bytes");
        assert_eq!(take(&[0xff; 10], 0), None);
        let largest = [&[0xff; 9][..], &[1]].concat();
        assert_eq!(take(&largest, 0), Some((u64::MAX, 10)));
        assert_eq!(take(&[&[0xff; 9][..], &[2]].concat(), 0), None, "2^64");
    }

    proptest! {
        #[test]
        fn numbers_round_trip(number in any::<u64>(), shift in 0u32..64, difference in any::<i64>()) {
            let mut out = vec![0xee];
            put(&mut out, number >> shift);
            prop_assert_eq!(take(&out, 1), Some((number >> shift, out.len())));
            prop_assert_eq!(unzigzag(zigzag(difference)), difference);
        }

        #[test]
        fn what_is_taken_is_written_the_same(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Some((number, end)) = take(&bytes, 0) {
                let mut again = Vec::new();
                put(&mut again, number);
                prop_assert_eq!(&again, &bytes[..end]);
            }
        }
    }
}
