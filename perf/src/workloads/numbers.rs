//! Numbers that workloads are made of: hashes, zipf, names of streams, values. Pure; the same again for a seed.

use crate::load::unit;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of a name that [`StreamName`] makes.
pub const NAME_BYTES: usize = 16;

/// A hash of two numbers.
#[must_use]
pub fn hash(seed: u64, number: u64) -> u64 {
    xxh3_64_with_seed(&number.to_le_bytes(), seed)
}

/// The name of a numbered stream: `user-` and eleven digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamName([u8; NAME_BYTES]);

impl StreamName {
    /// Of stream `number`.
    #[must_use]
    pub fn of(number: u64) -> StreamName {
        let mut bytes = *b"user-00000000000";
        let mut rest = number;
        for digit in bytes[5..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        StreamName(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Fill `out` with bytes that depend on `seed` alone: letters, as compressible as text is not.
pub fn fill(seed: u64, out: &mut [u8]) {
    let mut state = seed | 1;
    for piece in out.chunks_mut(8) {
        // A step of xorshift: fast, and no two pieces alike.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        for (byte, random) in piece.iter_mut().zip(state.to_le_bytes()) {
            *byte = b'a' + random % 26;
        }
    }
}

/// Ranks 0..count with probability proportional to 1 / (rank + 1)^theta (Gray and others, "Quickly generating
/// billion-record synthetic databases", 1994; the one of YCSB).
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    count: f64,
    theta: f64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    /// Over `count` ranks; `theta` in 0..1, 0.99 is usual.
    ///
    /// # Panics
    /// When count is 0 or theta outside 0..1.
    #[must_use]
    pub fn new(count: u64, theta: f64) -> Zipf {
        assert!(count > 0 && (0.0..1.0).contains(&theta), "ranks and a theta below 1");
        let zeta_of = |count: u64| (1..=count).map(|rank| (rank as f64).powf(-theta)).sum::<f64>();
        let zeta = zeta_of(count);
        let size = count as f64;
        let eta = (1.0 - (2.0 / size).powf(1.0 - theta)) / (1.0 - zeta_of(2) / zeta);
        Zipf { count: size, theta, alpha: 1.0 / (1.0 - theta), zeta, eta }
    }

    /// The rank that 64 random bits stand for.
    #[must_use]
    pub fn rank(&self, random: u64) -> u64 {
        let point = unit(random);
        let scaled = point * self.zeta;
        if scaled < 1.0 || self.count < 2.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(self.theta) {
            return 1;
        }
        let rank = self.count * (self.eta * point - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count as u64 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_their_numbers_and_do_not_meet() {
        assert_eq!(StreamName::of(1234).bytes(), b"user-00000001234");
        assert!(StreamName::of(9).bytes() < StreamName::of(10).bytes());
    }

    #[test]
    fn values_depend_on_their_seed_alone() {
        let of = |seed, bytes| {
            let mut value = vec![0; bytes];
            fill(seed, &mut value);
            value
        };
        assert_eq!(of(5, 100), of(5, 100));
        assert_eq!(of(5, 100)[..50], of(5, 50)[..]);
        assert_ne!(of(5, 100), of(7, 100));
    }

    #[test]
    fn zipf_prefers_low_ranks_by_its_law() {
        let zipf = Zipf::new(1000, 0.99);
        let mut counts = vec![0_u64; 1000];
        for number in 0..1_000_000 {
            counts[zipf.rank(hash(1, number)) as usize] += 1;
        }
        let zeta: f64 = (1..=1000).map(|rank| f64::from(rank).powf(-0.99)).sum();
        for rank in [0_usize, 1, 99] {
            let want = ((rank + 1) as f64).powf(-0.99) / zeta * 1e6;
            assert!(
                (counts[rank] as f64 / want - 1.0).abs() < 0.2,
                "rank {rank}: {} of {want}",
                counts[rank]
            );
        }
        assert!(counts.iter().all(|&count| count > 0));
        assert_eq!(Zipf::new(1, 0.5).rank(u64::MAX), 0);
    }
}
