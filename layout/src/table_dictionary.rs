//! Making the dictionary of a table from its own first blocks, in small steps.
//!
//! Owns the choice of what goes into it, after the FastCover of zstd (dictBuilder/fastcover.c): the stretches whose eight-byte
//! strings occur in most pieces of the sample. Must never depend on anything but the sample and the size asked for: tables of
//! replicas are equal byte for byte. Invariant: what is made is content only, without zstd's own header, so that a change of
//! zstd cannot change it; the best stretch is at its end, where references to it are shortest.
//!
//! ```text
//! sample:  | epoch | epoch | ..          of each in turn the best stretch of at most 512 bytes, until there is enough;
//!            ~~~                         what was taken counts no more
//! ```

/// Bytes of the strings that are counted.
const STRING_BYTES: usize = 8;
/// Most bytes of a stretch. On two real data sets 200 to 1,200 made no difference, 64 was 2 % worse.
const STRETCH_BYTES: usize = 512;
/// Strings count once in each piece of the sample that has them.
const PIECE_BYTES: usize = 4096;
/// Strings are told apart by so many bits of their hash: counts take 1 MiB.
const HASH_BITS: u32 = 18;
/// Memory of all that is counted.
pub(crate) const COUNTS_BYTES: usize = (4 + 4 + 2) << HASH_BITS;
/// The sample is gone through about so many times.
const PASS_COUNT: usize = 4;
/// Epochs without anything that comes again, in a row, after which there is nothing left.
const BARREN_COUNT: usize = 8;
/// Counting looks at so many bytes in a step: about 150 µs.
const STEP_BYTES: usize = 32 << 10;
/// What a dictionary of zstd's own form begins with; content must not.
const ZSTD_MAGIC: [u8; 4] = 0xec30_a437_u32.to_le_bytes();

/// Makes a dictionary.
pub(crate) struct Trainer {
    sample: Vec<u8>,
    bytes_max: usize,
    /// By hash of a string: pieces that have it; 0 once it is taken.
    counts: Vec<u32>,
    /// By hash: the last piece in which it was counted.
    last_piece: Vec<u32>,
    /// By hash: how often it stands in the stretch that is looked at.
    inside: Vec<u16>,
    /// Where counting goes on.
    counted_to: usize,
    epoch: usize,
    barren_count: usize,
    /// Stretches, best first.
    stretches: Vec<(usize, usize)>,
    chosen_bytes: usize,
}

#[inline]
fn hash_at(bytes: &[u8], at: usize) -> usize {
    let string: [u8; STRING_BYTES] = bytes[at..at + STRING_BYTES].try_into().expect("eight bytes");
    (u64::from_le_bytes(string).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HASH_BITS)) as usize
}

impl Trainer {
    /// For a dictionary of at most `bytes_max`, which is not 0.
    pub(crate) fn new(sample: Vec<u8>, bytes_max: usize) -> Trainer {
        assert!(bytes_max > 0, "a dictionary has bytes");
        Trainer {
            sample,
            bytes_max,
            counts: vec![0; 1 << HASH_BITS],
            last_piece: vec![0; 1 << HASH_BITS],
            inside: vec![0; 1 << HASH_BITS],
            counted_to: 0,
            epoch: 0,
            barren_count: 0,
            stretches: Vec::new(),
            chosen_bytes: 0,
        }
    }

    /// Does a part of the work, some 100 µs; false when there is none left.
    pub(crate) fn step(&mut self) -> bool {
        if self.counted_to < self.sample.len() {
            self.count();
            return true;
        }
        if self.chosen_bytes >= self.bytes_max || self.barren_count >= BARREN_COUNT.max(self.epochs().0) {
            return false;
        }
        self.choose();
        true
    }

    fn count(&mut self) {
        let end = self.sample.len().min(self.counted_to + STEP_BYTES);
        for (number, piece) in self.sample[self.counted_to..end].chunks(PIECE_BYTES).enumerate() {
            // Counts from 1: 0 is no piece.
            let number = (self.counted_to / PIECE_BYTES + number + 1) as u32;
            for at in 0..(piece.len() + 1).saturating_sub(STRING_BYTES) {
                let hash = hash_at(piece, at);
                if self.last_piece[hash] != number {
                    self.last_piece[hash] = number;
                    self.counts[hash] += 1;
                }
            }
        }
        self.counted_to = end;
    }

    /// How many epochs there are, and their bytes.
    fn epochs(&self) -> (usize, usize) {
        let wanted = (self.bytes_max / STRETCH_BYTES / PASS_COUNT).max(1);
        let bytes = (self.sample.len() / wanted).max(STRETCH_BYTES * 10).min(self.sample.len()).max(1);
        ((self.sample.len() / bytes).max(1), bytes)
    }

    /// The best stretch of the next epoch.
    fn choose(&mut self) {
        let (count, bytes) = self.epochs();
        let begin = self.epoch % count * bytes;
        let end = self.sample.len().min(begin + bytes);
        self.epoch += 1;
        let Some((from, to)) = self.best(begin, end) else {
            self.barren_count += 1;
            return;
        };
        self.barren_count = 0;
        // What occurs in one piece only helps nobody else.
        let is_rare = |at: &usize| self.counts[hash_at(&self.sample, *at)] <= 1;
        let first = (from..to).find(|at| !is_rare(at)).unwrap_or(to);
        let last = (first..to).rev().find(|at| !is_rare(at)).unwrap_or(first);
        for at in from..to {
            let hash = hash_at(&self.sample, at);
            self.counts[hash] = 0;
        }
        let length = (last + STRING_BYTES - first).min(self.bytes_max - self.chosen_bytes);
        self.stretches.push((first, first + length));
        self.chosen_bytes += length;
    }

    /// Where the strings of the best stretch between two places begin, and end; `None` when its strings occur in less than two
    /// pieces each.
    fn best(&mut self, begin: usize, end: usize) -> Option<(usize, usize)> {
        let most = STRETCH_BYTES - STRING_BYTES + 1;
        let (mut best, mut score, mut from) = ((0, 0, 0), 0u64, begin);
        let strings = begin..(end + 1).saturating_sub(STRING_BYTES);
        for at in strings.clone() {
            let hash = hash_at(&self.sample, at);
            if self.inside[hash] == 0 {
                score += self.worth(hash);
            }
            self.inside[hash] += 1;
            if at + 1 - from > most {
                let hash = hash_at(&self.sample, from);
                self.inside[hash] -= 1;
                if self.inside[hash] == 0 {
                    score -= self.worth(hash);
                }
                from += 1;
            }
            if score > best.0 {
                best = (score, from, at + 1);
            }
        }
        for at in from..strings.end.max(from) {
            self.inside[hash_at(&self.sample, at)] = 0;
        }
        // Less is what a few hashes that meet by chance make of noise.
        let (score, from, to) = best;
        (score > (to - from) as u64).then_some((from, to))
    }

    /// What it saves to have a string: nothing if it occurs in one piece only.
    fn worth(&self, hash: usize) -> u64 {
        u64::from(self.counts[hash].saturating_sub(1))
    }

    /// The dictionary; empty when nothing in the sample occurs twice.
    pub(crate) fn finish(self) -> Vec<u8> {
        let stretches = self.stretches.iter().rev().map(|(from, to)| &self.sample[*from..*to]);
        let mut dictionary = stretches.collect::<Vec<_>>().concat();
        while dictionary.starts_with(&ZSTD_MAGIC) {
            dictionary.drain(..ZSTD_MAGIC.len());
        }
        dictionary
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn train(sample: &[u8], bytes_max: usize) -> Vec<u8> {
        let mut trainer = Trainer::new(sample.to_vec(), bytes_max);
        while trainer.step() {}
        assert!(trainer.inside.iter().all(|count| *count == 0), "no stretch is looked at any more");
        trainer.finish()
    }

    /// Numbers that look random.
    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn what_comes_again_is_taken_and_noise_is_not() {
        let phrase = b"a phrase that stands in every piece of the sample, and is long enough to be found";
        let other = b"another one, which stands in half of them";
        let piece = |number: u64| {
            let second = if number.is_multiple_of(2) { &other[..] } else { &[] };
            // Little noise: hashes of much of it meet by chance.
            let mut piece = [&noise(number, 100), &phrase[..], second].concat();
            piece.resize(PIECE_BYTES, number as u8);
            piece
        };
        let sample: Vec<u8> = (0..64).flat_map(piece).collect();
        let dictionary = train(&sample, 1024);
        let place = |what: &[u8]| dictionary.windows(what.len()).rposition(|window| window == what);
        assert!(place(phrase).is_some() && place(other).is_some(), "{}", dictionary.escape_ascii());
        assert!(dictionary.len() < 512, "{} bytes, the rest is noise", dictionary.len());
        assert_eq!(train(&noise(5, 10_000), 4096), [0; 0]);
        for bytes in 0..20 {
            assert_eq!(train(&noise(5, bytes), 9), [0; 0], "a sample of {bytes} bytes");
        }
    }

    #[test]
    fn a_dictionary_does_not_begin_as_one_of_zstd() {
        let word = [&ZSTD_MAGIC[..], b"and more of it"].concat();
        let mut trainer = Trainer::new(word.clone(), 100);
        trainer.stretches.push((0, word.len()));
        assert_eq!(trainer.finish(), &word[4..], "the magic goes");
    }

    proptest! {
        #[test]
        fn any_sample_gives_a_dictionary_within_its_size(
            words in prop::collection::vec(prop::collection::vec(0u8..4, 0..40), 0..300), bytes_max in 1usize..3000,
        ) {
            let sample = words.concat();
            let dictionary = train(&sample, bytes_max);
            prop_assert!(dictionary.len() <= bytes_max);
            prop_assert_eq!(dictionary, train(&sample, bytes_max));
        }
    }
}
