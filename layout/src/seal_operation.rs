//! Operations of a log that no client sends: a seal of windows that begins at its entry, and one that a majority has agreed on.
//!
//! Owns their bytes. Must never allocate: lists are borrowed from the entry. Invariant: as with all operations, each has one
//! encoding.
//!
//! ```text
//! | fixed 49 | span 16, .. |            seal
//! | fixed 49 | agreed table 24, .. |    sealed, in the order of the spans of the seal
//! ```

use crate::field::{Corrupt, Field, Table, byte_table};

/// Bytes of the fixed part: as many as of any operation.
pub(crate) const SEAL_BYTES: usize = 49;
const SPAN_BYTES: usize = 16;
const AGREED_BYTES: usize = 24;
/// Windows of one seal at most.
pub const SEAL_WINDOWS_MAX: usize = 1024;

byte_table! {
    /// Byte table of the fixed part of a seal and of a sealed; a list follows.
    SEAL_TABLE = "seal", SEAL_BYTES;
    S_KIND = "kind", 0, 1;
    S_LEVEL = "level", 1, 1;
    S_RESERVED = "reserved", 2, 2;
    S_LIST_BYTES = "list_bytes", 4, 4;
    S_GENERATION = "generation", 8, 4;
    S_CODEC = "codec", 12, 4;
    S_BLOCK_BYTES = "block_bytes", 16, 4;
    S_DICTIONARY_BYTES = "dictionary_bytes", 20, 4;
    S_RESERVED_2 = "reserved_2", 24, 25;
}

byte_table! {
    /// Byte table of a window to be sealed.
    SPAN_TABLE = "seal span", SPAN_BYTES;
    P_FROM = "from", 0, 8;
    P_TO = "to", 8, 8;
}

byte_table! {
    /// Byte table of a sealed table that a majority has.
    AGREED_TABLE = "agreed table", AGREED_BYTES;
    A_CHECKSUM = "checksum", 0, 16;
    A_OVER_AT = "over_at", 16, 8;
}

pub(crate) const KIND_SEAL: u8 = 6;
pub(crate) const KIND_SEALED: u8 = 7;

/// How a sealed table is made, beside its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealOptions {
    /// Build of the compressor: whoever has another one makes other bytes, and copies the table.
    pub codec: u32,
    /// Bytes of a block before compression.
    pub block_bytes: u32,
    /// Largest dictionary, bytes; 0 = none.
    pub dictionary_bytes: u32,
    /// Level of zstd; 0 = not compressed.
    pub level: u8,
}

impl SealOptions {
    const NONE: SealOptions = SealOptions { codec: 0, block_bytes: 0, dictionary_bytes: 0, level: 0 };
}

/// Begins a seal: at this entry the content of its windows is taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal<'a> {
    /// Above that of every seal of the tablet before; else the entry does nothing.
    pub generation: u32,
    /// How the tables are made.
    pub options: SealOptions,
    spans: &'a [u8],
}

/// Ends a seal: these are its tables; without any it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// Of the seal; if another one has begun, the entry does nothing.
    pub generation: u32,
    tables: &'a [u8],
}

/// A sealed table that a majority has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgreedTable {
    /// xxh3-128 of all of its bytes; 0 = there are no records, and no table.
    pub checksum: u128,
    /// Log time from which nothing in it can be seen; 0 = never.
    pub over_at: u64,
}

/// The bytes of a list of windows, `from` and `to` of each, for [`Seal::new`].
#[must_use]
pub fn spans_bytes(spans: impl Iterator<Item = (u64, u64)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (from, to) in spans {
        out.extend_from_slice(&from.to_le_bytes());
        out.extend_from_slice(&to.to_le_bytes());
    }
    out
}

/// The bytes of a list of tables, for [`Sealed::new`].
#[must_use]
pub fn tables_bytes(tables: &[AgreedTable]) -> Vec<u8> {
    let mut out = Vec::new();
    for table in tables {
        out.extend_from_slice(&table.checksum.to_le_bytes());
        out.extend_from_slice(&table.over_at.to_le_bytes());
    }
    out
}

/// Windows in order, apart from each other, not empty, and not too many.
fn are_spans(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<SPAN_BYTES>();
    let mut end = 0;
    let in_order = chunks.iter().all(|span| {
        let (from, to) = (P_FROM.u64(span), P_TO.u64(span));
        from >= std::mem::replace(&mut end, to) && from < to
    });
    rest.is_empty() && in_order && (1..=SEAL_WINDOWS_MAX).contains(&chunks.len())
}

/// The tables of a list, as in [`tables_bytes`]; `None` when the bytes are no such list, or too many.
#[must_use]
pub fn read_tables(bytes: &[u8]) -> Option<Vec<AgreedTable>> {
    are_tables(bytes).then(|| tables(bytes).collect())
}

fn are_tables(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<AGREED_BYTES>();
    let right =
        |table: &[u8; AGREED_BYTES]| A_CHECKSUM.array::<16>(table) != [0; 16] || A_OVER_AT.is_zero(table);
    rest.is_empty() && chunks.len() <= SEAL_WINDOWS_MAX && chunks.iter().all(right)
}

fn tables(bytes: &[u8]) -> impl Iterator<Item = AgreedTable> + '_ {
    bytes.as_chunks::<AGREED_BYTES>().0.iter().map(|table| AgreedTable {
        checksum: u128::from_le_bytes(A_CHECKSUM.array(table)),
        over_at: A_OVER_AT.u64(table),
    })
}

impl<'a> Seal<'a> {
    /// Of windows whose list is in `spans`; `None` when they are not in order, touch each other, or are none or too many.
    #[must_use]
    pub fn new(generation: u32, options: SealOptions, spans: &'a [u8]) -> Option<Seal<'a>> {
        are_spans(spans).then_some(Seal { generation, options, spans })
    }

    /// First time, and first time behind it, of each window, in order of time.
    pub fn spans(&self) -> impl Iterator<Item = (u64, u64)> + 'a {
        self.spans.as_chunks::<SPAN_BYTES>().0.iter().map(|span| (P_FROM.u64(span), P_TO.u64(span)))
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        SEAL_BYTES + self.spans.len()
    }

    pub(crate) fn encode_into(&self, piece: &mut impl FnMut(&[u8])) {
        piece(&fixed(KIND_SEAL, self.generation, &self.options, self.spans));
        piece(self.spans);
    }
}

impl<'a> Sealed<'a> {
    /// Of the tables whose list is in `tables`; `None` when they are too many.
    #[must_use]
    pub fn new(generation: u32, tables: &'a [u8]) -> Option<Sealed<'a>> {
        are_tables(tables).then_some(Sealed { generation, tables })
    }

    /// No tables came to be: the seal is over, and what was sealed before stays.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.tables.is_empty()
    }

    /// The tables, in the order of the windows of the seal.
    pub fn tables(&self) -> impl Iterator<Item = AgreedTable> + 'a {
        tables(self.tables)
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        SEAL_BYTES + self.tables.len()
    }

    pub(crate) fn encode_into(&self, piece: &mut impl FnMut(&[u8])) {
        piece(&fixed(KIND_SEALED, self.generation, &SealOptions::NONE, self.tables));
        piece(self.tables);
    }
}

fn fixed(kind: u8, generation: u32, options: &SealOptions, list: &[u8]) -> [u8; SEAL_BYTES] {
    let mut bytes = [0; SEAL_BYTES];
    S_KIND.put(&mut bytes, [kind]);
    S_LEVEL.put(&mut bytes, [options.level]);
    S_LIST_BYTES.put(&mut bytes, u32::try_from(list.len()).expect("a list is bounded").to_le_bytes());
    S_GENERATION.put(&mut bytes, generation.to_le_bytes());
    S_CODEC.put(&mut bytes, options.codec.to_le_bytes());
    S_BLOCK_BYTES.put(&mut bytes, options.block_bytes.to_le_bytes());
    S_DICTIONARY_BYTES.put(&mut bytes, options.dictionary_bytes.to_le_bytes());
    bytes
}

/// A seal or a sealed, as it was read.
pub(crate) enum Read<'a> {
    Seal(Seal<'a>),
    Sealed(Sealed<'a>),
}

/// Reads what stands at the start of `bytes`, of one of the two kinds, and its length; `at` is its place, for the error.
pub(crate) fn decode(bytes: &[u8], at: u64) -> Result<(Read<'_>, usize), Corrupt> {
    let wrong = |field: Field| SEAL_TABLE.corrupt(field, at);
    let fixed = bytes.first_chunk::<SEAL_BYTES>().ok_or(wrong(S_KIND))?;
    let zero = [S_RESERVED, S_RESERVED_2].into_iter().find(|field| !field.is_zero(fixed));
    if let Some(field) = zero {
        return Err(wrong(field));
    }
    let end = (S_LIST_BYTES.u32(fixed) as usize).saturating_add(SEAL_BYTES);
    let list = bytes.get(SEAL_BYTES..end).ok_or(wrong(S_LIST_BYTES))?;
    let generation = S_GENERATION.u32(fixed);
    let options = SealOptions {
        codec: S_CODEC.u32(fixed),
        block_bytes: S_BLOCK_BYTES.u32(fixed),
        dictionary_bytes: S_DICTIONARY_BYTES.u32(fixed),
        level: S_LEVEL.u8(fixed),
    };
    let bad_list = || Corrupt { structure: SEAL_TABLE.structure, field: "list", at };
    if S_KIND.u8(fixed) == KIND_SEAL {
        if !(512..=65_536).contains(&options.block_bytes) {
            return Err(wrong(S_BLOCK_BYTES));
        }
        if options.dictionary_bytes > 512 << 10 {
            return Err(wrong(S_DICTIONARY_BYTES));
        }
        if options.level > 19 {
            return Err(wrong(S_LEVEL));
        }
        let seal = Seal::new(generation, options, list).ok_or_else(bad_list)?;
        return Ok((Read::Seal(seal), end));
    }
    if options != SealOptions::NONE {
        return Err(wrong(S_CODEC));
    }
    let sealed = Sealed::new(generation, list).ok_or_else(bad_list)?;
    Ok((Read::Sealed(sealed), end))
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 3] = [SEAL_TABLE, SPAN_TABLE, AGREED_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Operation;

    const OPTIONS: SealOptions =
        SealOptions { codec: 10507, block_bytes: 4096, dictionary_bytes: 9, level: 6 };

    fn encoded(operation: &Operation<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        operation.encode_into(&mut |piece: &[u8]| bytes.extend_from_slice(piece));
        assert_eq!(bytes.len(), operation.encoded_bytes());
        bytes
    }

    #[test]
    fn both_round_trip_and_every_cut_is_seen() {
        let spans = spans_bytes([(0, 5), (5, 9), (20, u64::MAX)].into_iter());
        let tables = [AgreedTable { checksum: 0, over_at: 0 }, AgreedTable { checksum: 7, over_at: 8 }];
        let list = tables_bytes(&tables);
        let seal = Operation::Seal(Seal::new(3, OPTIONS, &spans).unwrap());
        let sealed = Operation::Sealed(Sealed::new(3, &list).unwrap());
        for operation in [seal, sealed] {
            let bytes = encoded(&operation);
            assert_eq!(Operation::decode(&bytes, 0), Ok((operation, bytes.len())));
            assert!((0..bytes.len()).all(|cut| Operation::decode(&bytes[..cut], 0).is_err()));
            assert!(!operation.can_follow_in_batch());
        }
        let Operation::Seal(seal) = seal else { panic!("a seal") };
        assert_eq!(seal.spans().collect::<Vec<_>>(), [(0, 5), (5, 9), (20, u64::MAX)]);
        assert_eq!(read_tables(&list).unwrap(), tables);
    }

    #[test]
    fn lists_out_of_order_or_without_anything_are_refused() {
        let spans = |spans: &[(u64, u64)]| spans_bytes(spans.iter().copied());
        for wrong in [&[][..], &[(5, 5)], &[(0, 5), (4, 9)], &[(9, 10), (0, 1)]] {
            assert!(Seal::new(1, OPTIONS, &spans(wrong)).is_none(), "{wrong:?}");
        }
        assert!(Sealed::new(1, &[]).unwrap().is_given_up());
        assert!(Sealed::new(1, &[0; AGREED_BYTES + 1]).is_none());
        assert!(Sealed::new(1, &tables_bytes(&[AgreedTable { checksum: 0, over_at: 1 }])).is_none());
        assert!(Sealed::new(1, &[0; AGREED_BYTES * (SEAL_WINDOWS_MAX + 1)]).is_none());
    }

    #[test]
    fn wrong_fields_are_named() {
        let spans = spans_bytes([(0, 5)].into_iter());
        let seal = encoded(&Operation::Seal(Seal::new(3, OPTIONS, &spans).unwrap()));
        let list = tables_bytes(&[AgreedTable { checksum: 9, over_at: 0 }]);
        let sealed = encoded(&Operation::Sealed(Sealed::new(3, &list).unwrap()));
        let cases = [
            (&seal, S_RESERVED, 1),
            (&seal, S_RESERVED_2, 1),
            (&seal, S_LEVEL, 20),
            (&seal, S_LIST_BYTES, 17),
            (&sealed, S_CODEC, 1),
        ];
        for (good, field, value) in cases {
            let mut bytes = good.clone();
            bytes[field.offset] = value;
            assert_eq!(Operation::decode(&bytes, 0).expect_err(field.name).field, field.name);
        }
    }
}
