//! Sections in a stream of a file's bytes, each proven as it goes by. No disk, no network, no clock.
//!
//! Must never call proven what was not read as a whole: header, index, every block and the digest of the records. Invariant: a number is proven once
//! all bytes of its section have gone by, in their place; at most the section that goes by is held.

use layout::cold_section::{SECTION_HEADER_BYTES, SECTION_MAGIC, SectionHeader, walk_section};
use layout::units::Uuid;
use std::collections::BTreeSet;

/// Longest section that is held: longer ones are read back from the disk that they were written to.
pub(super) const HELD_BYTES_MAX: u64 = 8 << 20;

/// Whose bytes go by.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamOf {
    pub(super) cluster: Uuid,
    /// Cold group, and disk.
    pub(super) place: (u16, u16),
    pub(super) file: u32,
    pub(super) generation: u32,
    /// Byte up to which the file is written.
    pub(super) head: u32,
}

/// The sections of a file, as its bytes go by.
pub(super) struct Prover<C> {
    of: StreamOf,
    counts: C,
    held: Vec<u8>,
    /// Byte of the file where `held` begins.
    from: u64,
    /// Byte of the file that is looked at.
    at: u64,
    /// Numbers of the sections that were proven.
    pub(super) proven: BTreeSet<u32>,
    /// Sections that are too long to be held.
    pub(super) long: Vec<SectionHeader>,
}

impl<C: Fn(u32) -> bool> Prover<C> {
    /// From the first byte of the file on; only sections whose number `counts` are looked at.
    pub(super) fn new(of: StreamOf, counts: C) -> Prover<C> {
        Prover { of, counts, held: Vec::new(), from: 0, at: 0, proven: BTreeSet::new(), long: Vec::new() }
    }

    /// The next bytes of the file.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    fn held_end(&self) -> u64 {
        self.from + self.held.len() as u64
    }

    fn header(&self) -> Option<SectionHeader> {
        let bytes = self.held.get((self.at - self.from) as usize..)?.first_chunk::<SECTION_HEADER_BYTES>()?;
        let found =
            SectionHeader::decode(bytes, self.of.cluster, self.of.place, (self.of.file, self.at as u32))
                .ok()?;
        let is_of_it = found.place.file_generation == self.of.generation
            && (self.counts)(found.place.number)
            && self.at + found.bytes() <= u64::from(self.of.head);
        is_of_it.then_some(found)
    }

    /// Look at one section more of what has gone by. False when more bytes are needed.
    pub(super) fn step(&mut self) -> bool {
        if self.at + SECTION_HEADER_BYTES as u64 > self.held_end() {
            self.forget();
            return false;
        }
        let Some(header) = self.header() else {
            return self.seek();
        };
        let end = self.at + header.bytes();
        if header.bytes() > HELD_BYTES_MAX {
            self.long.push(header);
        } else if end > self.held_end() {
            self.forget();
            return false;
        } else {
            let from = (self.at - self.from) as usize;
            let bytes = &self.held[from..from + header.bytes() as usize];
            if ioengine::canary("rebuild_believes_what_is_not_proven")
                || walk_section(&header, bytes, |_| {}).is_ok()
            {
                self.proven.insert(header.place.number);
            } else {
                ioengine::sometimes!("a section that is copied to a new disk is not proven");
            }
        }
        self.at = end;
        true
    }

    /// On to the next byte where a header may begin.
    fn seek(&mut self) -> bool {
        let from = (self.at + 1 - self.from) as usize;
        let found = self.held[from..].windows(SECTION_MAGIC.len()).position(|bytes| *bytes == SECTION_MAGIC);
        match found {
            Some(found) => self.at += 1 + found as u64,
            None => {
                // The magic may be cut by the end of what has gone by.
                self.at = (self.at + 1).max((self.held_end() + 1).saturating_sub(SECTION_MAGIC.len() as u64));
            }
        }
        true
    }

    /// What is behind is not held any more.
    fn forget(&mut self) {
        let gone = (self.at.min(self.held_end()) - self.from) as usize;
        self.held.drain(..gone);
        self.from += gone as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::cold_section::{SectionIdentity, SectionPlace, SectionWriter};
    use layout::key::{Key, bucket_of};
    use layout::table::encode_key;
    use layout::units::{Space, Version};

    const OF: StreamOf =
        StreamOf { cluster: Uuid([3; 16]), place: (1, 2), file: 5, generation: 7, head: 1 << 20 };

    fn section(number: u32, offset: u32, generation: u32) -> Vec<u8> {
        let stream = format!("stream {number}").into_bytes();
        let bucket = bucket_of(Space(1), &stream);
        let identity = SectionIdentity {
            cluster: OF.cluster,
            bucket,
            window_from: 0,
            window_days: 1,
            window_generation: 3,
        };
        let mut writer = SectionWriter::new(identity, 1);
        for time in 0..200 {
            let mut key = Vec::new();
            encode_key(&mut key, bucket, Key { space: Space(1), stream: &stream, time });
            let value: Vec<u8> = (0..300u64).map(|at| ((at * at * (time + 7)) >> 3) as u8).collect();
            writer.push(&key, Version((time + 1) << 16), 0, Some(&value));
        }
        let (group, disk) = OF.place;
        let place = SectionPlace { group, disk, file: OF.file, file_generation: generation, offset, number };
        writer.finish().at(place).to_vec()
    }

    /// Three that count, one that does not, one of another life, and gaps.
    fn file() -> (Vec<u8>, Vec<u32>) {
        let (mut bytes, mut starts) = (vec![0x54; 100], Vec::new());
        for (number, generation) in [(0, 7), (1, 7), (9, 7), (2, 6), (3, 7)] {
            starts.push(bytes.len() as u32);
            bytes.extend(section(number, bytes.len() as u32, generation));
            bytes.extend(vec![b'T'; number as usize * 700]);
        }
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        (bytes, starts)
    }

    fn proven(bytes: &[u8], piece: usize) -> Vec<u32> {
        let mut prover = Prover::new(OF, |number| number < 9);
        for bytes in bytes.chunks(piece) {
            prover.push(bytes);
            while prover.step() {}
            assert!(prover.held.len() < 64 << 10, "what has gone by is not held");
        }
        prover.proven.into_iter().collect()
    }

    #[test]
    fn sections_are_found_and_proven_however_they_are_cut() {
        let (bytes, _) = file();
        for piece in [1 << 20, 4_096, 5_000, 777] {
            assert_eq!(proven(&bytes, piece), [0, 1, 3], "pieces of {piece}");
        }
    }

    #[test]
    fn one_that_is_damaged_is_not_proven_and_hides_no_other() {
        let (bytes, starts) = file();
        for (at, left) in
            [(starts[1], vec![0, 3]), (starts[1] + 900, vec![0, 3]), (starts[4] + 8, vec![0, 1])]
        {
            let mut wrong = bytes.clone();
            wrong[at as usize] ^= 0x10;
            assert_eq!(proven(&wrong, 4_096), left, "a bit at {at}");
        }
    }
}
