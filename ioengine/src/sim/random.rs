//! The tree of generators: every part of a world draws from its own, derived from the seed by name and number, so
//! that one part's draws never shift another's. Integer arithmetic only: the same on every machine.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use std::ops::Range;

/// One million: chances are given in parts per million.
pub const PPM: u32 = 1_000_000;

/// Mix one word into a running hash. Not cryptographic.
#[inline]
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    let x = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31)
}

/// Hash of some bytes, for traces: four lanes, so that the processor need not wait for one product to start the next.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    const LANES: usize = 4;
    let (words, rest) = bytes.as_chunks::<8>();
    let (groups, tail) = words.as_chunks::<LANES>();
    let mut lanes = [bytes.len() as u64, 1, 2, 3];
    for group in groups {
        for (lane, word) in lanes.iter_mut().zip(group) {
            let word = u64::from_le_bytes(*word);
            *lane = (*lane ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
    let mut hash = lanes.into_iter().fold(0, mix);
    for word in tail {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    for &byte in rest {
        hash = mix(hash, u64::from(byte));
    }
    hash
}

/// A generator with a place in the tree.
#[derive(Clone, Debug)]
pub struct Random {
    key: u64,
    generator: Xoshiro256PlusPlus,
}

impl Random {
    /// Root of a tree.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random { key: seed, generator: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// The child `name`, `index`: depends on the place in the tree alone, not on what was drawn before.
    #[must_use]
    pub fn fork(&self, name: &str, index: u64) -> Random {
        Random::new(mix(mix(self.key, hash_bytes(name.as_bytes())), index))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// A number in `0..count`; 0 when `count` is 0.
    pub fn below(&mut self, count: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(count);
        u64::try_from(wide >> 64).expect("the high half fits")
    }

    /// As [`Random::below`] for indexes.
    pub fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("below a usize")
    }

    /// A number in `range`; its start when it is empty.
    pub fn within(&mut self, range: &Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// True with a chance of `ppm` in a million. Draws nothing when the chance is 0.
    pub fn chance(&mut self, ppm: u32) -> bool {
        ppm != 0 && self.below(u64::from(PPM)) < u64::from(ppm)
    }

    /// True half the time.
    pub fn coin(&mut self) -> bool {
        self.bits() >> 63 == 1
    }

    /// One of `choices`, which is not empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_depend_on_their_place_alone() {
        let mut drawn = Random::new(7);
        let before = drawn.fork("disk", 1).bits();
        drawn.bits();
        assert_eq!(before, drawn.fork("disk", 1).bits());
        assert_ne!(before, drawn.fork("disk", 2).bits());
        assert_ne!(before, drawn.fork("core", 1).bits());
        assert_ne!(before, Random::new(8).fork("disk", 1).bits());
    }

    #[test]
    fn a_hash_tells_any_flipped_bit_and_any_length() {
        for length in [0, 1, 7, 8, 31, 32, 33, 100] {
            let bytes = vec![0; length];
            let hash = hash_bytes(&bytes);
            assert_ne!(hash, hash_bytes(&vec![0; length + 1]));
            for at in 0..length * 8 {
                let mut other = bytes.clone();
                other[at / 8] ^= 1 << (at % 8);
                assert_ne!(hash, hash_bytes(&other), "bit {at} of {length} bytes");
            }
        }
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut random = Random::new(1);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[random.index(5)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
        assert_eq!(random.below(0), 0);
        assert!((0..1000).filter(|_| random.chance(250_000)).count().abs_diff(250) < 80);
    }
}
