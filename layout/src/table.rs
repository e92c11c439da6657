//! The writer of a table: sorted records in, bytes out, in the order in which they are written.
//!
//! Owns the order of a table's parts and what its footer says. Must never know where the table will lie. Invariant: the
//! same identity, options and records give the same bytes.
//!
//! ```text
//! | block | block | 0 0 0 | block | .. | sections? | dictionary? | index | filter | footer 512 |
//!                       ^ multiple of extent_bytes
//! ```
//!
//! A data block lies in one extent, so that one device read gets it; zeros fill what is left of an extent that the next
//! block does not fit into. A block larger than an extent starts where the one before ends.

use xxhash_rust::xxh3::Xxh3Default;

pub use crate::table_block::{Block, BlockBuilder, BlockEntry, RESTART_COUNT, Record};
pub use crate::table_cursor::Cursor;
pub use crate::table_filter::{Filter, FilterBuilder};
pub use crate::table_footer::{
    FOOTER_BYTES, Footer, open_dictionary, open_filter, open_index, open_sections,
};
pub use crate::table_index::{BlockHandle, Index};
pub use crate::table_key::{
    TABLE_KEY_BYTES_MAX, TABLE_KEY_BYTES_MIN, TableKey, decode_key, encode_bucket_prefix, encode_key,
    encode_stream_prefix, key_hash,
};
pub use crate::table_seal::{
    BLOCK_HEADER_BYTES, BLOCK_STORED_BYTES_MAX, BlockChecksum, BlockKind, Codec, Compression, Compressor,
    Decompressor, Dictionary, Form, PART_BYTES_MAX, StoredBlock, TableIdentity, WriteDictionary, open_block,
    seal_block,
};
pub use crate::table_sections::{Section, SectionReader, SectionSum, Sections, bucket_of_key};

use crate::table_block::BLOCK_RAW_BYTES_MAX;
use crate::table_columns::{COLUMNS_COUNT_MIN, ColumnsBuilder};
use crate::table_held::{Chosen, Held};
use crate::table_index::{IndexBuilder, separator};
use crate::table_key::key_time;
use crate::table_seal::{Packed, seal_packed, seal_parts};
use crate::table_sections::SectionsBuilder;
use crate::units::{LogIndex, Version};

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableOptions<'a> {
    /// Size of a data block before compression, bytes; a record that does not fit has a block of its own.
    pub block_bytes: u32,
    /// Level of zstd; `None` stores blocks as they are.
    pub level: Option<i32>,
    /// Extents of the device; at least a block.
    pub extent_bytes: u32,
    /// Dictionary of the data blocks, 1 byte..=1 MiB; not used without a level.
    pub dictionary: Option<&'a [u8]>,
    /// Without one, the table makes one of at most so many bytes from its own first blocks, if that makes it smaller; 0 none.
    pub dictionary_bytes_max: u32,
}

impl TableOptions<'_> {
    /// Memory that making dictionaries takes while so many tables are filled at once: the samples, one of them twice, and
    /// what is counted of that one.
    #[must_use]
    pub fn dictionary_memory_bytes(dictionary_bytes_max: usize, table_count: usize) -> usize {
        let sample_bytes = dictionary_bytes_max * crate::table_held::SAMPLE_PER_DICTIONARY;
        let counts = if dictionary_bytes_max == 0 { 0 } else { crate::table_dictionary::COUNTS_BYTES };
        (table_count + 1) * sample_bytes + counts
    }
}

/// A table that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSummary {
    /// What it says of itself.
    pub footer: Footer,
    /// All of its bytes.
    pub bytes: u64,
    /// xxh3-128 of all of its bytes, footer included.
    pub checksum: u128,
}

/// xxh3-128 of the bytes of a table, piece by piece.
#[derive(Clone, Default)]
pub struct ContentChecksum(Xxh3Default);

impl ContentChecksum {
    /// Of nothing.
    #[must_use]
    pub fn new() -> ContentChecksum {
        ContentChecksum::default()
    }

    /// Adds the next piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The checksum of all pieces so far.
    #[must_use]
    pub fn finish(&self) -> u128 {
        self.0.digest128()
    }
}

/// The block before the one that is filled: what separates the two is not known yet.
enum Waiting {
    /// It is written.
    Stored(BlockHandle),
    /// It is held back.
    Held,
}

/// A data block before compression, in the form in which it is stored.
#[derive(Clone, Copy)]
pub(crate) struct Made<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) form: Form,
    /// Bytes of the block as it is read.
    pub(crate) raw_bytes: usize,
    pub(crate) record_count: u32,
}

impl<'a> Made<'a> {
    /// As columns, if somebody makes them and they are smaller.
    pub(crate) fn of(raw: &'a [u8], record_count: u32, columns: Option<&'a mut ColumnsBuilder>) -> Made<'a> {
        let rows = Made { bytes: raw, form: Form::Rows, raw_bytes: raw.len(), record_count };
        let Some(columns) = columns.filter(|_| record_count as usize >= COLUMNS_COUNT_MIN) else {
            return rows;
        };
        let bytes = columns.build(&Block::parse(raw).expect("the block was just made"));
        if bytes.len() < raw.len() { Made { bytes, form: Form::Columns, ..rows } } else { rows }
    }
}

/// Writes one table.
pub struct TableWriter {
    identity: TableIdentity,
    checksum: BlockChecksum,
    compressor: Compressor,
    level: Option<i32>,
    write_dictionary: Option<WriteDictionary>,
    dictionary: Vec<u8>,
    block: BlockBuilder,
    /// Of a table that is compressed.
    columns: Option<Box<ColumnsBuilder>>,
    /// Blocks that wait for their dictionary.
    held: Option<Held>,
    /// A block that waits for the key behind it, which its separator needs.
    waiting: Option<Waiting>,
    /// The last key of the block that waits.
    waiting_key: Vec<u8>,
    index: IndexBuilder,
    filter: FilterBuilder,
    /// Of a sealed table.
    sections: Option<SectionsBuilder>,
    footer: Footer,
    content: ContentChecksum,
    /// Bytes that were made and not yet taken.
    out: Vec<u8>,
    /// Logical offset of the next byte.
    offset: u64,
    finished: bool,
}

impl TableWriter {
    /// An empty table. Sizes outside their limits and a dictionary that zstd cannot use are our own bug.
    #[must_use]
    pub fn new(identity: TableIdentity, options: TableOptions<'_>, compressor: Compressor) -> TableWriter {
        let block_bytes = options.block_bytes as usize;
        assert!((1..=BLOCK_RAW_BYTES_MAX).contains(&block_bytes), "a block of {block_bytes} bytes");
        assert!(options.extent_bytes > 0, "an extent has bytes");
        let dictionary = options.level.and(options.dictionary);
        let write_dictionary = dictionary.zip(options.level).map(|(bytes, level)| {
            assert!((1..=PART_BYTES_MAX).contains(&bytes.len()), "a dictionary has at most 1 MiB");
            WriteDictionary::new(bytes, level).expect("a dictionary is tried before it is given to tables")
        });
        let trained = options.dictionary_bytes_max as usize;
        assert!(trained <= PART_BYTES_MAX, "a dictionary has at most 1 MiB");
        let level_of_held = options.level.filter(|_| dictionary.is_none() && trained > 0);
        TableWriter {
            identity,
            checksum: BlockChecksum::new(&identity),
            compressor,
            level: options.level,
            write_dictionary,
            dictionary: dictionary.unwrap_or_default().to_vec(),
            block: BlockBuilder::new(),
            columns: options.level.map(|_| Box::default()),
            held: level_of_held.map(|level| Held::new(level, trained)),
            waiting: None,
            waiting_key: Vec::new(),
            index: IndexBuilder::default(),
            filter: FilterBuilder::new(),
            sections: matches!(identity, TableIdentity::Sealed { .. }).then(SectionsBuilder::default),
            footer: Footer::empty(options.block_bytes, options.extent_bytes),
            content: ContentChecksum::new(),
            out: Vec::new(),
            offset: 0,
            finished: false,
        }
    }

    /// True before the first record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.footer.record_count == 0
    }

    /// Records so far.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.footer.record_count
    }

    /// About how many bytes the table would have if it ended here.
    #[must_use]
    pub fn bytes_estimate(&self) -> u64 {
        let records = self.footer.record_count;
        let blocks = u64::from(self.footer.block_count) + 1;
        let held = self.held.as_ref().map_or(0, Held::memory_bytes) as u64;
        self.offset
            + held
            + self.block.raw_bytes() as u64
            + records * 10 / 8
            + blocks * 40
            + FOOTER_BYTES as u64
    }

    /// Memory beyond that of one block and the bytes not yet taken: about 8 per record, 30 per block and section.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let sections = self.sections.as_ref().map_or(0, SectionsBuilder::memory_bytes);
        let held = self.held.as_ref().map_or(0, Held::memory_bytes);
        self.filter.memory_bytes() + sections + held + self.out.capacity() + self.block.raw_bytes()
    }

    /// Appends a record; `None` is a tombstone, which has no expiry. The key is encoded as in [`crate::table_key`].
    ///
    /// Keys that do not ascend are our own bug.
    pub fn push(&mut self, key: &[u8], version: Version, expiry_us: u64, value: Option<&[u8]>) {
        assert!(!self.finished, "a finished table takes no records");
        assert!((TABLE_KEY_BYTES_MIN..=TABLE_KEY_BYTES_MAX).contains(&key.len()), "keys are encoded");
        if self.block.is_full(self.footer.block_bytes as usize, value.map_or(0, <[u8]>::len)) {
            self.end_block();
        }
        if let Some(waiting) = self.waiting.take() {
            assert!(key > &self.waiting_key[..], "the keys of a table ascend");
            let separator = separator(&self.waiting_key, key);
            match (waiting, &mut self.held) {
                (Waiting::Stored(handle), _) => self.index.push(separator, handle),
                (Waiting::Held, Some(held)) => held.separate(separator),
                (Waiting::Held, None) => unreachable!("who lets the last held block go says where it went"),
            }
        }
        if self.is_empty() {
            self.index.first_key(key);
        }
        if let Some(sections) = &mut self.sections {
            let place = (self.footer.block_count, self.block.entry_count() as u32);
            sections.push(place, key, (version, expiry_us, value));
        }
        self.block.push(key, version, expiry_us, value);
        self.filter.add(key_hash(key));
        self.footer.add(key_time(key), LogIndex(version.0 >> 16), expiry_us, value.is_none());
    }

    fn end_block(&mut self) {
        let mut block = std::mem::take(&mut self.block);
        let mut columns = self.columns.take();
        let record_count = block.entry_count() as u32;
        self.waiting_key.clear();
        self.waiting_key.extend_from_slice(block.last_key());
        let raw = block.finish();
        self.footer.block_count += 1;
        self.footer.raw_bytes += raw.len() as u64;
        let made = Made::of(raw, record_count, columns.as_deref_mut());
        self.waiting = Some(if let Some(held) = &mut self.held {
            held.push(&made);
            Waiting::Held
        } else {
            let dictionary = self.write_dictionary.take();
            let stored = self.store(&made, dictionary.as_ref());
            self.write_dictionary = dictionary;
            Waiting::Stored(stored)
        });
        block.clear();
        (self.block, self.columns) = (block, columns);
    }

    /// Appends a data block to the table.
    fn store(&mut self, made: &Made<'_>, dictionary: Option<&WriteDictionary>) -> BlockHandle {
        let compression = match (dictionary, self.level) {
            (Some(dictionary), _) => Compression::Dictionary(dictionary),
            (None, Some(level)) => Compression::Level(level),
            (None, None) => Compression::None,
        };
        let (codec, payload) = self.compressor.pack(made.bytes, compression);
        let stored_bytes = (BLOCK_HEADER_BYTES + payload.len()) as u64;
        let extent = u64::from(self.footer.extent_bytes);
        let room = extent - self.offset % extent;
        let padding = if stored_bytes > room && stored_bytes <= extent { room } else { 0 };
        let start = self.out.len();
        self.out.resize(start + padding as usize, 0);
        let offset = self.offset + padding;
        let Made { raw_bytes, form, record_count, .. } = *made;
        let packed = Packed { kind: BlockKind::Data, raw_bytes, form, codec, payload };
        seal_packed(&self.checksum, offset, packed, &mut self.out);
        self.content.add(&self.out[start..]);
        self.offset = offset + stored_bytes;
        self.footer.data_bytes = self.offset;
        BlockHandle { offset, stored_bytes: stored_bytes as u32, record_count }
    }

    /// Is there work that [`TableWriter::work`] should do before the next record? What is left then is done at the end.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.held.as_ref().is_some_and(Held::has_work)
    }

    /// Does a part of making the dictionary and of writing the blocks that were held back for it: as long as the
    /// compression of a block takes. False when there is none left.
    pub fn work(&mut self) -> bool {
        let Some(mut held) = self.held.take_if(|held| held.has_work()) else { return false };
        if !held.decide(&mut self.compressor) {
            self.held = Some(held);
            return true;
        }
        if let Some(leaving) = held.leave() {
            let dictionary = held.chosen().map(|chosen| &chosen.prepared);
            let handle = self.store(&held.made(&leaving), dictionary);
            match leaving.separator {
                Some(separator) => self.index.push(&separator, handle),
                None => self.waiting = Some(Waiting::Stored(handle)),
            }
            self.held = Some(held);
            return true;
        }
        if let Some(Chosen { bytes, prepared }) = held.into_chosen() {
            self.dictionary = bytes;
            self.write_dictionary = Some(prepared);
        }
        false
    }

    /// Ends the last block; what is held back is all that the dictionary is made from.
    fn end_records(&mut self) {
        if !self.block.is_empty() {
            self.end_block();
        }
        self.held.iter_mut().for_each(Held::close);
    }

    /// Bytes that were made and not yet consumed: the next ones of the table.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.out
    }

    /// The first `bytes` of [`TableWriter::pending`] are written, or copied away.
    pub fn consume(&mut self, bytes: usize) {
        self.out.drain(..bytes);
    }

    /// After the last record: does a part of what is to be done, some milliseconds; false when there is none left.
    /// [`TableWriter::finish`] does what was not done.
    pub fn step(&mut self) -> bool {
        self.end_records();
        self.work() || self.filter.step()
    }

    /// Ends the table: its last bytes are pending afterwards. A table without records, or ended twice, is our own bug.
    pub fn finish(&mut self) -> TableSummary {
        assert!(!self.finished && !self.is_empty(), "a table is ended once and holds a record");
        self.finished = true;
        self.end_records();
        while self.work() {}
        let Some(Waiting::Stored(handle)) = self.waiting.take() else {
            unreachable!("the last block waits for the end")
        };
        self.index.push(&self.waiting_key, handle);
        assert!(self.index.block_count() == self.footer.block_count, "every block is in the index");
        let compression = self.level.map_or(Compression::None, Compression::Level);
        let sections = self.sections.take().map_or_else(Vec::new, SectionsBuilder::finish);
        self.footer.sections_bytes = self.part(BlockKind::Sections, &sections, compression);
        let dictionary = std::mem::take(&mut self.dictionary);
        self.footer.dictionary_bytes = self.part(BlockKind::Dictionary, &dictionary, compression);
        let index = self.index.finish();
        self.footer.index_bytes = self.part(BlockKind::Index, &index, compression);
        let filter = std::mem::take(&mut self.filter).finish();
        self.footer.filter_bytes = self.part(BlockKind::Filter, &filter, Compression::None);
        self.footer.content_checksum = self.content.finish();
        let footer = self.footer.encode(&self.identity);
        self.content.add(&footer);
        self.out.extend_from_slice(&footer);
        self.offset += FOOTER_BYTES as u64;
        assert!(self.offset == self.footer.table_bytes(), "the parts follow each other");
        TableSummary { footer: self.footer, bytes: self.offset, checksum: self.content.finish() }
    }

    fn part(&mut self, kind: BlockKind, raw: &[u8], compression: Compression<'_>) -> u64 {
        let start = self.out.len();
        let (checksum, compressor) = (&self.checksum, &mut self.compressor);
        seal_parts(checksum, self.offset, kind, raw, compression, compressor, &mut self.out);
        self.content.add(&self.out[start..]);
        let bytes = (self.out.len() - start) as u64;
        self.offset += bytes;
        bytes
    }

    /// The compressor, for the next table.
    #[must_use]
    pub fn into_compressor(self) -> Compressor {
        self.compressor
    }
}
