//! The footer of a table: its last 512 bytes, from which everything else in it is found.
//!
//! Owns their bytes. Must never be believed for another table, or at another place than the table's end. Invariant: what
//! decodes names parts that follow each other from byte 0 to the footer, and bounds that are in order.
//!
//! ```text
//! | data blocks, padding between | sections? | dictionary? | index | filter? | footer 512 |
//! ```

use crate::FORMAT_VERSION;
use crate::field::{Corrupt, Field, Table, byte_table};
use crate::table_filter::Filter;
use crate::table_index::Index;
use crate::table_seal::{BlockChecksum, BlockKind, Decompressor, Dictionary, TableIdentity, open_parts};
use crate::table_sections::Sections;
use crate::units::{LogIndex, SECTOR_BYTES};

/// Bytes of a footer.
pub const FOOTER_BYTES: usize = 512;
/// First bytes of a footer.
pub const FOOTER_MAGIC: [u8; 8] = *b"TCLTABLE";

const _: () = assert!(FOOTER_BYTES == SECTOR_BYTES);

byte_table! {
    /// Byte table of a footer.
    FOOTER_TABLE = "table footer", FOOTER_BYTES;
    F_MAGIC = "magic", 0, 8;
    F_FORMAT_VERSION = "format_version", 8, 4;
    F_KIND = "kind", 12, 1;
    F_TABLET = "tablet", 13, 1;
    F_RESERVED = "reserved", 14, 2;
    F_TABLE_ID = "table_id", 16, 8;
    F_WINDOW_FROM = "window_from", 24, 8;
    F_WINDOW_TO = "window_to", 32, 8;
    F_WINDOW_GENERATION = "window_generation", 40, 4;
    F_BLOCK_COUNT = "block_count", 44, 4;
    F_BLOCK_BYTES = "block_bytes", 48, 4;
    F_EXTENT_BYTES = "extent_bytes", 52, 4;
    F_RECORD_COUNT = "record_count", 56, 8;
    F_TOMBSTONE_COUNT = "tombstone_count", 64, 8;
    F_EXPIRING_COUNT = "expiring_count", 72, 8;
    F_TIME_MIN = "time_min", 80, 8;
    F_TIME_MAX = "time_max", 88, 8;
    F_LOG_INDEX_MIN = "log_index_min", 96, 8;
    F_LOG_INDEX_MAX = "log_index_max", 104, 8;
    F_EXPIRY_MIN = "expiry_min", 112, 8;
    F_EXPIRY_MAX = "expiry_max", 120, 8;
    F_RAW_BYTES = "raw_bytes", 128, 8;
    F_DATA_BYTES = "data_bytes", 136, 8;
    F_DICTIONARY_BYTES = "dictionary_bytes", 144, 8;
    F_INDEX_BYTES = "index_bytes", 152, 8;
    F_FILTER_BYTES = "filter_bytes", 160, 8;
    F_CONTENT_CHECKSUM = "content_checksum", 168, 16;
    F_SECTIONS_BYTES = "sections_bytes", 184, 8;
    F_PADDING = "padding", 192, 316;
    F_CHECKSUM = "checksum", 508, 4;
}

const KIND_RUN: u8 = 1;
const KIND_SEALED: u8 = 2;
const KIND_SUNK: u8 = 3;

/// What a table says of itself. Its kind, id and window are those of its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Data blocks.
    pub block_count: u32,
    /// Size before compression at which data blocks were cut.
    pub block_bytes: u32,
    /// No data block crosses a multiple of this in the table, unless it is larger.
    pub extent_bytes: u32,
    /// Records, tombstones among them; at least one.
    pub record_count: u64,
    /// Records that say that their key is deleted.
    pub tombstone_count: u64,
    /// Records with an expiry.
    pub expiring_count: u64,
    /// Lowest time of a key.
    pub time_min: u64,
    /// Highest time of a key.
    pub time_max: u64,
    /// Lowest version >> 16.
    pub log_index_min: LogIndex,
    /// Highest version >> 16.
    pub log_index_max: LogIndex,
    /// Lowest expiry of the records that have one; 0 when none has.
    pub expiry_min: u64,
    /// Highest expiry.
    pub expiry_max: u64,
    /// Bytes of all data blocks before compression.
    pub raw_bytes: u64,
    /// Bytes of the data blocks as stored and the padding between them: the first bytes of the table.
    pub data_bytes: u64,
    /// Bytes of the list of sections behind the data; 0 = none, in a run.
    pub sections_bytes: u64,
    /// Bytes of the dictionary behind the sections; 0 = none.
    pub dictionary_bytes: u64,
    /// Bytes of the index behind the dictionary.
    pub index_bytes: u64,
    /// Bytes of the filter behind the index; 0 = none, every key may be there.
    pub filter_bytes: u64,
    /// xxh3-128 of everything before the footer.
    pub content_checksum: u128,
    /// Its data blocks stand on cold disks, not in the table: of a sunk table.
    pub is_sunk: bool,
}

impl Footer {
    /// Of a table without records.
    pub(crate) fn empty(block_bytes: u32, extent_bytes: u32) -> Footer {
        Footer {
            block_count: 0,
            block_bytes,
            extent_bytes,
            record_count: 0,
            tombstone_count: 0,
            expiring_count: 0,
            time_min: u64::MAX,
            time_max: 0,
            log_index_min: LogIndex(u64::MAX),
            log_index_max: LogIndex(0),
            expiry_min: 0,
            expiry_max: 0,
            raw_bytes: 0,
            data_bytes: 0,
            sections_bytes: 0,
            dictionary_bytes: 0,
            index_bytes: 0,
            filter_bytes: 0,
            content_checksum: 0,
            is_sunk: false,
        }
    }

    /// One more record.
    pub(crate) fn add(&mut self, time: u64, log_index: LogIndex, expiry_us: u64, is_tombstone: bool) {
        self.record_count += 1;
        self.tombstone_count += u64::from(is_tombstone);
        self.time_min = self.time_min.min(time);
        self.time_max = self.time_max.max(time);
        self.log_index_min = self.log_index_min.min(log_index);
        self.log_index_max = self.log_index_max.max(log_index);
        if expiry_us > 0 {
            self.expiry_min =
                if self.expiring_count == 0 { expiry_us } else { self.expiry_min.min(expiry_us) };
            self.expiry_max = self.expiry_max.max(expiry_us);
            self.expiring_count += 1;
        }
    }

    /// Where the list of sections starts.
    #[must_use]
    pub fn sections_offset(&self) -> u64 {
        if self.is_sunk { 0 } else { self.data_bytes }
    }

    /// Where the dictionary starts.
    #[must_use]
    pub fn dictionary_offset(&self) -> u64 {
        self.sections_offset() + self.sections_bytes
    }

    /// Where the index starts.
    #[must_use]
    pub fn index_offset(&self) -> u64 {
        self.dictionary_offset() + self.dictionary_bytes
    }

    /// Where the filter starts.
    #[must_use]
    pub fn filter_offset(&self) -> u64 {
        self.index_offset() + self.index_bytes
    }

    /// Where the footer itself starts.
    #[must_use]
    pub fn footer_offset(&self) -> u64 {
        self.filter_offset() + self.filter_bytes
    }

    /// Bytes of the whole table.
    #[must_use]
    pub fn table_bytes(&self) -> u64 {
        self.footer_offset() + FOOTER_BYTES as u64
    }

    /// The footer's bytes. Values that the decoder would refuse are our own bug.
    #[must_use]
    pub fn encode(&self, identity: &TableIdentity) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        F_MAGIC.put(&mut bytes, FOOTER_MAGIC);
        F_FORMAT_VERSION.put(&mut bytes, FORMAT_VERSION.to_le_bytes());
        put_identity(identity, &mut bytes);
        F_BLOCK_COUNT.put(&mut bytes, self.block_count.to_le_bytes());
        F_BLOCK_BYTES.put(&mut bytes, self.block_bytes.to_le_bytes());
        F_EXTENT_BYTES.put(&mut bytes, self.extent_bytes.to_le_bytes());
        F_RECORD_COUNT.put(&mut bytes, self.record_count.to_le_bytes());
        F_TOMBSTONE_COUNT.put(&mut bytes, self.tombstone_count.to_le_bytes());
        F_EXPIRING_COUNT.put(&mut bytes, self.expiring_count.to_le_bytes());
        F_TIME_MIN.put(&mut bytes, self.time_min.to_le_bytes());
        F_TIME_MAX.put(&mut bytes, self.time_max.to_le_bytes());
        F_LOG_INDEX_MIN.put(&mut bytes, self.log_index_min.0.to_le_bytes());
        F_LOG_INDEX_MAX.put(&mut bytes, self.log_index_max.0.to_le_bytes());
        F_EXPIRY_MIN.put(&mut bytes, self.expiry_min.to_le_bytes());
        F_EXPIRY_MAX.put(&mut bytes, self.expiry_max.to_le_bytes());
        F_RAW_BYTES.put(&mut bytes, self.raw_bytes.to_le_bytes());
        F_DATA_BYTES.put(&mut bytes, self.data_bytes.to_le_bytes());
        F_SECTIONS_BYTES.put(&mut bytes, self.sections_bytes.to_le_bytes());
        F_DICTIONARY_BYTES.put(&mut bytes, self.dictionary_bytes.to_le_bytes());
        F_INDEX_BYTES.put(&mut bytes, self.index_bytes.to_le_bytes());
        F_FILTER_BYTES.put(&mut bytes, self.filter_bytes.to_le_bytes());
        F_CONTENT_CHECKSUM.put(&mut bytes, self.content_checksum.to_le_bytes());
        let sum = checksum(&BlockChecksum::new(identity), self.footer_offset(), &bytes);
        F_CHECKSUM.put(&mut bytes, sum.to_le_bytes());
        let again = Footer::decode(identity, self.table_bytes(), &bytes);
        assert!(again == Ok(*self), "a footer we write can be read again: {again:?}");
        bytes
    }

    /// Reads the last bytes of a table of `table_bytes`.
    pub fn decode(
        identity: &TableIdentity,
        table_bytes: u64,
        bytes: &[u8; FOOTER_BYTES],
    ) -> Result<Footer, Corrupt> {
        let base = table_bytes.saturating_sub(FOOTER_BYTES as u64);
        match wrong_fields(identity, table_bytes, bytes).next() {
            Some(field) => Err(FOOTER_TABLE.corrupt(field, base)),
            None => Ok(Footer::parse(bytes)),
        }
    }

    /// The values as they stand, right or wrong.
    pub(crate) fn parse(bytes: &[u8; FOOTER_BYTES]) -> Footer {
        Footer {
            block_count: F_BLOCK_COUNT.u32(bytes),
            block_bytes: F_BLOCK_BYTES.u32(bytes),
            extent_bytes: F_EXTENT_BYTES.u32(bytes),
            record_count: F_RECORD_COUNT.u64(bytes),
            tombstone_count: F_TOMBSTONE_COUNT.u64(bytes),
            expiring_count: F_EXPIRING_COUNT.u64(bytes),
            time_min: F_TIME_MIN.u64(bytes),
            time_max: F_TIME_MAX.u64(bytes),
            log_index_min: LogIndex(F_LOG_INDEX_MIN.u64(bytes)),
            log_index_max: LogIndex(F_LOG_INDEX_MAX.u64(bytes)),
            expiry_min: F_EXPIRY_MIN.u64(bytes),
            expiry_max: F_EXPIRY_MAX.u64(bytes),
            raw_bytes: F_RAW_BYTES.u64(bytes),
            data_bytes: F_DATA_BYTES.u64(bytes),
            sections_bytes: F_SECTIONS_BYTES.u64(bytes),
            dictionary_bytes: F_DICTIONARY_BYTES.u64(bytes),
            index_bytes: F_INDEX_BYTES.u64(bytes),
            filter_bytes: F_FILTER_BYTES.u64(bytes),
            content_checksum: u128::from_le_bytes(F_CONTENT_CHECKSUM.array(bytes)),
            is_sunk: F_KIND.u8(bytes) == KIND_SUNK,
        }
    }

    /// The sum of the parts and the footer, when it is a number.
    fn table_bytes_checked(&self) -> Option<u64> {
        let parts = [
            if self.is_sunk { 0 } else { self.data_bytes },
            self.sections_bytes,
            self.dictionary_bytes,
            self.index_bytes,
            self.filter_bytes,
        ];
        parts.into_iter().try_fold(FOOTER_BYTES as u64, u64::checked_add)
    }
}

fn checksum(of_table: &BlockChecksum, offset: u64, bytes: &[u8; FOOTER_BYTES]) -> u32 {
    of_table.of(offset, &bytes[..F_CHECKSUM.offset])
}

fn put_identity(identity: &TableIdentity, bytes: &mut [u8]) {
    F_TABLET.put(bytes, [identity.tablet().get()]);
    match *identity {
        TableIdentity::Run { table, .. } => {
            F_KIND.put(bytes, [KIND_RUN]);
            F_TABLE_ID.put(bytes, table.0.to_le_bytes());
        }
        TableIdentity::Sealed { window_from, window_to, window_generation, .. }
        | TableIdentity::Sunk { window_from, window_to, window_generation, .. } => {
            let is_sunk = matches!(identity, TableIdentity::Sunk { .. });
            F_KIND.put(bytes, [if is_sunk { KIND_SUNK } else { KIND_SEALED }]);
            F_WINDOW_FROM.put(bytes, window_from.to_le_bytes());
            F_WINDOW_TO.put(bytes, window_to.to_le_bytes());
            F_WINDOW_GENERATION.put(bytes, window_generation.to_le_bytes());
        }
    }
}

/// The fields that are wrong in a footer that ends a table of `table_bytes`, in the order of the checks.
pub(crate) fn wrong_fields(
    identity: &TableIdentity,
    table_bytes: u64,
    bytes: &[u8; FOOTER_BYTES],
) -> impl Iterator<Item = Field> + use<> {
    let footer = Footer::parse(bytes);
    let mut own = [0; FOOTER_BYTES];
    put_identity(identity, &mut own);
    let same = |field: Field| field.slice(&own) == field.slice(bytes);
    let expiry_in_order = match footer.expiring_count {
        0 => footer.expiry_min == 0 && footer.expiry_max == 0,
        _ => 0 < footer.expiry_min && footer.expiry_min <= footer.expiry_max,
    };
    let offset = table_bytes.saturating_sub(FOOTER_BYTES as u64);
    let right = [
        (F_MAGIC, F_MAGIC.array(bytes) == FOOTER_MAGIC),
        (F_FORMAT_VERSION, F_FORMAT_VERSION.u32(bytes) == FORMAT_VERSION),
        (F_CHECKSUM, F_CHECKSUM.u32(bytes) == checksum(&BlockChecksum::new(identity), offset, bytes)),
        (F_KIND, same(F_KIND)),
        (F_TABLET, same(F_TABLET)),
        (F_TABLE_ID, same(F_TABLE_ID)),
        (F_WINDOW_FROM, same(F_WINDOW_FROM)),
        (F_WINDOW_TO, same(F_WINDOW_TO)),
        (F_WINDOW_GENERATION, same(F_WINDOW_GENERATION)),
        (F_BLOCK_COUNT, footer.block_count > 0),
        (F_RECORD_COUNT, footer.record_count >= u64::from(footer.block_count)),
        (F_TOMBSTONE_COUNT, footer.tombstone_count <= footer.record_count),
        (F_EXPIRING_COUNT, footer.expiring_count <= footer.record_count),
        (F_TIME_MAX, footer.time_min <= footer.time_max),
        (F_LOG_INDEX_MAX, footer.log_index_min <= footer.log_index_max),
        (F_EXPIRY_MAX, expiry_in_order),
        (F_DATA_BYTES, footer.table_bytes_checked() == Some(table_bytes) && footer.data_bytes > 0),
        (F_INDEX_BYTES, footer.index_bytes > 0),
        (F_SECTIONS_BYTES, (footer.sections_bytes > 0) != matches!(identity, TableIdentity::Run { .. })),
        (F_RESERVED, F_RESERVED.is_zero(bytes)),
        (F_PADDING, F_PADDING.is_zero(bytes)),
    ];
    right.into_iter().filter_map(|(field, right)| (!right).then_some(field))
}

/// Opens the index from its part, `footer.index_bytes` from `footer.index_offset()` on.
pub fn open_index(
    checksum: &BlockChecksum,
    footer: &Footer,
    part: &[u8],
    decompressor: &mut Decompressor,
) -> Result<Index, Corrupt> {
    let raw = open_parts(checksum, footer.index_offset(), BlockKind::Index, part, decompressor)?;
    let index = Index::decode(raw, footer.data_bytes)?;
    let base = footer.footer_offset();
    if index.block_count() != footer.block_count {
        return Err(FOOTER_TABLE.corrupt(F_BLOCK_COUNT, base));
    }
    if index.record_count() != footer.record_count {
        return Err(FOOTER_TABLE.corrupt(F_RECORD_COUNT, base));
    }
    Ok(index)
}

/// Opens the filter from its part, `footer.filter_bytes` from `footer.filter_offset()` on; a table without one
/// has a filter that says maybe to every key.
pub fn open_filter(
    checksum: &BlockChecksum,
    footer: &Footer,
    part: &[u8],
    decompressor: &mut Decompressor,
) -> Result<Filter, Corrupt> {
    if footer.filter_bytes == 0 {
        return Ok(Filter::always());
    }
    let raw = open_parts(checksum, footer.filter_offset(), BlockKind::Filter, part, decompressor)?;
    let filter = Filter::decode(raw)?;
    if filter.key_count() != footer.record_count {
        return Err(FOOTER_TABLE.corrupt(F_RECORD_COUNT, footer.footer_offset()));
    }
    Ok(filter)
}

/// Opens the dictionary from its part, `footer.dictionary_bytes` from `footer.dictionary_offset()` on; `None` for
/// a table that has none.
pub fn open_dictionary(
    checksum: &BlockChecksum,
    footer: &Footer,
    part: &[u8],
    decompressor: &mut Decompressor,
) -> Result<Option<Dictionary>, Corrupt> {
    if footer.dictionary_bytes == 0 {
        return Ok(None);
    }
    let offset = footer.dictionary_offset();
    let raw = open_parts(checksum, offset, BlockKind::Dictionary, part, decompressor)?;
    let corrupt = FOOTER_TABLE.corrupt(F_DICTIONARY_BYTES, footer.footer_offset());
    Dictionary::new(&raw).map(Some).ok_or(corrupt)
}

/// Opens the list of sections from its part, `footer.sections_bytes` from `footer.sections_offset()` on; `None` for a
/// run, which has none.
pub fn open_sections(
    checksum: &BlockChecksum,
    footer: &Footer,
    part: &[u8],
    decompressor: &mut Decompressor,
) -> Result<Option<Sections>, Corrupt> {
    if footer.sections_bytes == 0 {
        return Ok(None);
    }
    let raw = open_parts(checksum, footer.sections_offset(), BlockKind::Sections, part, decompressor)?;
    Sections::decode(raw, footer.block_count, footer.record_count).map(Some)
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 1] = [FOOTER_TABLE];
