//! Operations of a log that no client sends: a sealed window begins to go to cold disks, has gone there, or stays after all.
//!
//! Owns their bytes. Must never allocate: links are borrowed from the entry. Invariant: as with all operations, each has one encoding.
//!
//! ```text
//! | fixed 49 | checksum 16 |                        begin: of the sealed table
//! | fixed 49 | checksum 16 | link 32, .. |          sunk: of the table that takes its place
//! | fixed 49 |                                      given up
//! ```

use crate::field::{Corrupt, Field, Table, byte_table};
use crate::tablet_sink::{ColdLink, are_links, links};

/// Bytes of the fixed part: as many as of any operation.
pub(crate) const SINK_FIXED_BYTES: usize = 49;
const CHECKSUM_BYTES: usize = 16;

byte_table! {
    /// Byte table of the fixed part of a sink; a checksum and links may follow.
    SINK_OPERATION_TABLE = "sink", SINK_FIXED_BYTES;
    S_KIND = "kind", 0, 1;
    S_STEP = "step", 1, 1;
    S_LEVEL = "level", 2, 1;
    S_RESERVED = "reserved", 3, 1;
    S_LIST_BYTES = "list_bytes", 4, 4;
    S_GENERATION = "generation", 8, 4;
    S_SEAL_GENERATION = "seal_generation", 12, 4;
    S_FROM = "from", 16, 8;
    S_TO = "to", 24, 8;
    S_NONCE = "nonce", 32, 8;
    S_CODEC = "codec", 40, 4;
    S_RESERVED_2 = "reserved_2", 44, 5;
}

pub(crate) const KIND_SINK: u8 = 8;

const STEP_BEGIN: u8 = 1;
const STEP_SUNK: u8 = 2;
const STEP_GIVEN_UP: u8 = 3;

/// A window begins to go to cold disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkBegin {
    /// Above that of every seal and sink of the tablet before; else the entry does nothing.
    pub generation: u32,
    /// First time of the window.
    pub from: u64,
    /// First time behind it.
    pub to: u64,
    /// Of the seal that made its table.
    pub seal_generation: u32,
    /// Checksum of that table.
    pub checksum: u128,
    /// Who sinks: drawn at a start.
    pub nonce: u64,
    /// Build of its compressor.
    pub codec: u32,
    /// Level of zstd, 1 to 19.
    pub level: u8,
}

/// A step of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink<'a> {
    /// It begins.
    Begin(SinkBegin),
    /// All three machines hold all of it.
    Sunk {
        /// Of the begin; if it is not the one that is open, the entry does nothing.
        generation: u32,
        /// Checksum of the table that takes the place of the sealed one.
        checksum: u128,
        /// Where its sections stand.
        links: Links<'a>,
    },
    /// It will not be done.
    GivenUp {
        /// Of the begin.
        generation: u32,
    },
}

/// Links of an entry, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Links<'a>(&'a [u8]);

impl<'a> Links<'a> {
    /// As [`crate::tablet_sink::links_bytes`] makes them; `None` when they are none, or too many.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Links<'a>> {
        (!bytes.is_empty() && are_links(bytes)).then_some(Links(bytes))
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = ColdLink> + 'a {
        links(self.0)
    }
}

impl<'a> Sink<'a> {
    pub(crate) fn encoded_bytes(&self) -> usize {
        SINK_FIXED_BYTES
            + match self {
                Sink::Begin(_) => CHECKSUM_BYTES,
                Sink::Sunk { links, .. } => CHECKSUM_BYTES + links.0.len(),
                Sink::GivenUp { .. } => 0,
            }
    }

    pub(crate) fn encode_into(&self, piece: &mut impl FnMut(&[u8])) {
        let mut bytes = [0; SINK_FIXED_BYTES];
        S_KIND.put(&mut bytes, [KIND_SINK]);
        let list_bytes = u32::try_from(self.encoded_bytes() - SINK_FIXED_BYTES).expect("a list is bounded");
        S_LIST_BYTES.put(&mut bytes, list_bytes.to_le_bytes());
        let (step, generation) = match self {
            Sink::Begin(begin) => {
                S_LEVEL.put(&mut bytes, [begin.level]);
                S_SEAL_GENERATION.put(&mut bytes, begin.seal_generation.to_le_bytes());
                S_FROM.put(&mut bytes, begin.from.to_le_bytes());
                S_TO.put(&mut bytes, begin.to.to_le_bytes());
                S_NONCE.put(&mut bytes, begin.nonce.to_le_bytes());
                S_CODEC.put(&mut bytes, begin.codec.to_le_bytes());
                (STEP_BEGIN, begin.generation)
            }
            Sink::Sunk { generation, .. } => (STEP_SUNK, *generation),
            Sink::GivenUp { generation } => (STEP_GIVEN_UP, *generation),
        };
        S_STEP.put(&mut bytes, [step]);
        S_GENERATION.put(&mut bytes, generation.to_le_bytes());
        piece(&bytes);
        match self {
            Sink::Begin(begin) => piece(&begin.checksum.to_le_bytes()),
            Sink::Sunk { checksum, links, .. } => {
                piece(&checksum.to_le_bytes());
                piece(links.0);
            }
            Sink::GivenUp { .. } => {}
        }
    }
}

/// Reads what stands at the start of `bytes`, and its length; `at` is its place, for the error.
pub(crate) fn decode(bytes: &[u8], at: u64) -> Result<(Sink<'_>, usize), Corrupt> {
    let wrong = |field: Field| SINK_OPERATION_TABLE.corrupt(field, at);
    let fixed = bytes.first_chunk::<SINK_FIXED_BYTES>().ok_or(wrong(S_KIND))?;
    if !(STEP_BEGIN..=STEP_GIVEN_UP).contains(&S_STEP.u8(fixed)) {
        return Err(wrong(S_STEP));
    }
    let is_begin = S_STEP.u8(fixed) == STEP_BEGIN;
    let only_of_begin = [S_LEVEL, S_SEAL_GENERATION, S_FROM, S_TO, S_NONCE, S_CODEC];
    let zero = [S_RESERVED, S_RESERVED_2];
    let others = only_of_begin.iter().filter(|_| !is_begin);
    if let Some(field) = zero.iter().chain(others).find(|field| !field.is_zero(fixed)) {
        return Err(wrong(*field));
    }
    let end = (S_LIST_BYTES.u32(fixed) as usize).saturating_add(SINK_FIXED_BYTES);
    let list = bytes.get(SINK_FIXED_BYTES..end).ok_or(wrong(S_LIST_BYTES))?;
    let generation = S_GENERATION.u32(fixed);
    let checksum = || {
        let (checksum, rest) = list.split_first_chunk::<CHECKSUM_BYTES>()?;
        Some((u128::from_le_bytes(*checksum), rest)).filter(|(checksum, _)| *checksum != 0)
    };
    let bad_list = || Corrupt { structure: SINK_OPERATION_TABLE.structure, field: "list", at };
    let sink = match S_STEP.u8(fixed) {
        STEP_BEGIN => {
            let (checksum, rest) = checksum().ok_or_else(bad_list)?;
            let begin = SinkBegin {
                generation,
                from: S_FROM.u64(fixed),
                to: S_TO.u64(fixed),
                seal_generation: S_SEAL_GENERATION.u32(fixed),
                checksum,
                nonce: S_NONCE.u64(fixed),
                codec: S_CODEC.u32(fixed),
                level: S_LEVEL.u8(fixed),
            };
            let right = [
                (S_TO, begin.from < begin.to),
                (S_SEAL_GENERATION, begin.seal_generation < generation),
                (S_LEVEL, (1..=19).contains(&begin.level)),
                (S_LIST_BYTES, rest.is_empty()),
            ];
            if let Some((field, _)) = right.into_iter().find(|(_, right)| !right) {
                return Err(wrong(field));
            }
            Sink::Begin(begin)
        }
        STEP_SUNK => {
            let (checksum, rest) = checksum().ok_or_else(bad_list)?;
            Sink::Sunk { generation, checksum, links: Links::new(rest).ok_or_else(bad_list)? }
        }
        _ if list.is_empty() => Sink::GivenUp { generation },
        _ => return Err(wrong(S_LIST_BYTES)),
    };
    Ok((sink, end))
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 1] = [SINK_OPERATION_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Operation;
    use crate::tablet_sink::links_bytes;
    use crate::units::BucketIndex;

    const BEGIN: SinkBegin = SinkBegin {
        generation: 9,
        from: 1,
        to: 2,
        seal_generation: 8,
        checksum: 5,
        nonce: 6,
        codec: 10507,
        level: 3,
    };

    fn encoded(operation: &Operation<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        operation.encode_into(&mut |piece: &[u8]| bytes.extend_from_slice(piece));
        assert_eq!(bytes.len(), operation.encoded_bytes());
        bytes
    }

    #[test]
    fn steps_round_trip_and_every_cut_is_seen() {
        let link = ColdLink {
            group: 0,
            disk: 1,
            bucket: BucketIndex::new(7).unwrap(),
            file: 2,
            file_generation: 1,
            offset: 4096,
            content_bytes: 100,
            number: 0,
            section_count: 1,
        };
        let list = links_bytes(&[link, ColdLink { disk: 2, ..link }]);
        let links = Links::new(&list).unwrap();
        let steps = [
            Sink::Begin(BEGIN),
            Sink::Sunk { generation: 9, checksum: 3, links },
            Sink::GivenUp { generation: 9 },
        ];
        for step in steps {
            let operation = Operation::Sink(step);
            let bytes = encoded(&operation);
            assert_eq!(Operation::decode(&bytes, 0), Ok((operation, bytes.len())));
            assert!((0..bytes.len()).all(|cut| Operation::decode(&bytes[..cut], 0).is_err()));
            assert!(!operation.can_follow_in_batch());
        }
        assert_eq!(links.iter().map(|link| link.disk).collect::<Vec<_>>(), [1, 2]);
        assert!(Links::new(&[]).is_none() && Links::new(&list[..33]).is_none());
    }

    #[test]
    fn wrong_fields_are_named() {
        let begin = encoded(&Operation::Sink(Sink::Begin(BEGIN)));
        let given_up = encoded(&Operation::Sink(Sink::GivenUp { generation: 9 }));
        let cases = [
            (&begin, S_STEP, 4),
            (&begin, S_LEVEL, 20),
            (&begin, S_TO, 1),
            (&begin, S_SEAL_GENERATION, 9),
            (&begin, S_LIST_BYTES, 17),
            (&given_up, S_NONCE, 1),
            (&given_up, S_RESERVED_2, 1),
        ];
        for (good, field, value) in cases {
            let mut bytes = good.clone();
            bytes[field.offset] = value;
            assert_eq!(Operation::decode(&bytes, 0).expect_err(field.name).field, field.name);
        }
    }
}
