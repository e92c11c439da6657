//! A section on a cold disk: all records of a bucket in one sealed window, in blocks that can be read each alone.
//!
//! Owns its bytes. Blocks and index carry logical identity only, so that the three copies are equal byte for byte; the header
//! also says where it stands, so that a disk can be walked. Must never depend on how the sealed table lay in its blocks: the
//! same records give the same section. Invariant: what opens was made for this bucket, this window and this generation of it.
//!
//! ```text
//! | header 64 | data block | data block | .. | index |       sections stand back to back, without padding
//! ```

use crate::FORMAT_VERSION;
use crate::checksum::Crc;
use crate::field::{Corrupt, Field, Table, byte_table};
use crate::table::{BlockEntry, Made};
use crate::table_block::{BLOCK_RAW_BYTES_MAX, Block, BlockBuilder};
use crate::table_columns::ColumnsBuilder;
use crate::table_cursor::Cursor;
use crate::table_index::{BlockHandle, Index, IndexBuilder, separator};
use crate::table_seal::{
    BLOCK_HEADER_BYTES, BlockChecksum, BlockKind, Compression, Compressor, Decompressor, Packed, open_block,
    open_parts, seal_packed, seal_parts,
};
use crate::table_sections::{SectionSum, bucket_of_key};
use crate::units::{BucketIndex, Uuid, Version};

/// Bytes before the blocks of a section.
pub const SECTION_HEADER_BYTES: usize = 64;
/// First bytes of a section.
pub const SECTION_MAGIC: [u8; 4] = *b"TCLS";
/// First bytes of the identity of a section's blocks.
pub const SECTION_BLOCK_MAGIC: [u8; 8] = *b"TCLCOLDB";
/// Size of a data block before compression: large, because a disk takes as long for 64 KiB as for 4.
pub const COLD_BLOCK_BYTES: usize = 64 << 10;

const PLACE_BYTES: usize = 40;
const IDENTITY_BYTES: usize = 56;
const CHECKED_FROM: usize = 8;

byte_table! {
    /// Byte table of a section's header.
    SECTION_TABLE = "cold section", SECTION_HEADER_BYTES;
    H_MAGIC = "magic", 0, 4;
    H_CHECKSUM = "checksum", 4, 4;
    H_BUCKET = "bucket", 8, 4;
    H_WINDOW_GENERATION = "window_generation", 12, 4;
    H_WINDOW_FROM = "window_from", 16, 8;
    H_WINDOW_DAYS = "window_days", 24, 4;
    H_FILE_GENERATION = "file_generation", 28, 4;
    H_NUMBER = "number", 32, 4;
    H_RECORD_COUNT = "record_count", 36, 4;
    H_DATA_BYTES = "data_bytes", 40, 4;
    H_INDEX_BYTES = "index_bytes", 44, 4;
    H_DIGEST = "digest", 48, 16;
}

byte_table! {
    /// Byte table of what the checksum of a header covers before the header's own fields; never stored.
    SECTION_PLACE_TABLE = "cold section place", PLACE_BYTES;
    P_MAGIC = "magic", 0, 8;
    P_FORMAT_VERSION = "format_version", 8, 4;
    P_CLUSTER = "cluster", 12, 16;
    P_GROUP = "group", 28, 2;
    P_DISK = "disk", 30, 2;
    P_FILE = "file", 32, 4;
    P_OFFSET = "offset", 36, 4;
}

byte_table! {
    /// Byte table of the identity of a section's blocks; never stored.
    SECTION_IDENTITY_TABLE = "cold block identity", IDENTITY_BYTES;
    S_MAGIC = "magic", 0, 8;
    S_FORMAT_VERSION = "format_version", 8, 4;
    S_CLUSTER = "cluster", 12, 16;
    S_BUCKET = "bucket", 28, 4;
    S_WINDOW_FROM = "window_from", 32, 8;
    S_WINDOW_DAYS = "window_days", 40, 4;
    S_WINDOW_GENERATION = "window_generation", 44, 4;
    S_OFFSET = "offset", 48, 8;
}

/// Which section it is: part of every checksum in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SectionIdentity {
    /// Uuid of the cluster.
    pub cluster: Uuid,
    /// Whose records it holds.
    pub bucket: BucketIndex,
    /// First time of the window, microseconds.
    pub window_from: u64,
    /// Length of the window, days.
    pub window_days: u32,
    /// How often the window was sealed.
    pub window_generation: u32,
}

impl SectionIdentity {
    /// The checksum of its blocks.
    #[must_use]
    pub fn checksum(&self) -> BlockChecksum {
        let mut bytes = [0; IDENTITY_BYTES];
        S_MAGIC.put(&mut bytes, SECTION_BLOCK_MAGIC);
        S_FORMAT_VERSION.put(&mut bytes, FORMAT_VERSION.to_le_bytes());
        S_CLUSTER.put(&mut bytes, self.cluster.0);
        S_BUCKET.put(&mut bytes, self.bucket.get().to_le_bytes());
        S_WINDOW_FROM.put(&mut bytes, self.window_from.to_le_bytes());
        S_WINDOW_DAYS.put(&mut bytes, self.window_days.to_le_bytes());
        S_WINDOW_GENERATION.put(&mut bytes, self.window_generation.to_le_bytes());
        BlockChecksum::with(Crc::with(&bytes[..S_OFFSET.offset]))
    }
}

/// Where a section stands: the same on the three machines of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SectionPlace {
    /// Cold group.
    pub group: u16,
    /// Number of the disk in the group.
    pub disk: u16,
    /// File of the disk.
    pub file: u32,
    /// Generation of that file.
    pub file_generation: u32,
    /// Byte of the file.
    pub offset: u32,
    /// Number of the section in the file.
    pub number: u32,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionHeader {
    /// Which section it is.
    pub identity: SectionIdentity,
    /// Where it stands.
    pub place: SectionPlace,
    /// Records, at least one.
    pub record_count: u32,
    /// Bytes of its data blocks.
    pub data_bytes: u32,
    /// Bytes of its index.
    pub index_bytes: u32,
    /// xxh3-128 of the records, as a sealed table's list of sections has it.
    pub digest: u128,
}

impl SectionHeader {
    /// Bytes of the whole section.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        SECTION_HEADER_BYTES as u64 + u64::from(self.data_bytes) + u64::from(self.index_bytes)
    }

    fn checksum(&self, header: &[u8]) -> u32 {
        let mut place = [0; PLACE_BYTES];
        P_MAGIC.put(&mut place, SECTION_BLOCK_MAGIC);
        P_FORMAT_VERSION.put(&mut place, FORMAT_VERSION.to_le_bytes());
        P_CLUSTER.put(&mut place, self.identity.cluster.0);
        P_GROUP.put(&mut place, self.place.group.to_le_bytes());
        P_DISK.put(&mut place, self.place.disk.to_le_bytes());
        P_FILE.put(&mut place, self.place.file.to_le_bytes());
        P_OFFSET.put(&mut place, self.place.offset.to_le_bytes());
        Crc::with(&place).and(&header[CHECKED_FROM..SECTION_HEADER_BYTES]).finish()
    }

    /// Writes the header over `header`.
    pub fn encode(&self, header: &mut [u8; SECTION_HEADER_BYTES]) {
        H_MAGIC.put(header, SECTION_MAGIC);
        H_BUCKET.put(header, self.identity.bucket.get().to_le_bytes());
        H_WINDOW_GENERATION.put(header, self.identity.window_generation.to_le_bytes());
        H_WINDOW_FROM.put(header, self.identity.window_from.to_le_bytes());
        H_WINDOW_DAYS.put(header, self.identity.window_days.to_le_bytes());
        H_FILE_GENERATION.put(header, self.place.file_generation.to_le_bytes());
        H_NUMBER.put(header, self.place.number.to_le_bytes());
        H_RECORD_COUNT.put(header, self.record_count.to_le_bytes());
        H_DATA_BYTES.put(header, self.data_bytes.to_le_bytes());
        H_INDEX_BYTES.put(header, self.index_bytes.to_le_bytes());
        H_DIGEST.put(header, self.digest.to_le_bytes());
        let checksum = self.checksum(header);
        H_CHECKSUM.put(header, checksum.to_le_bytes());
    }

    /// Reads the header that was found at `offset` of a file: which section it is, its generation and its number are what it says.
    ///
    /// # Errors
    /// [`Corrupt`] with the first field that is wrong, also when it was written for another place.
    pub fn decode(
        header: &[u8; SECTION_HEADER_BYTES],
        cluster: Uuid,
        (group, disk): (u16, u16),
        (file, offset): (u32, u32),
    ) -> Result<SectionHeader, Corrupt> {
        let wrong = |field: Field| SECTION_TABLE.corrupt(field, u64::from(offset));
        if H_MAGIC.array(header) != SECTION_MAGIC {
            return Err(wrong(H_MAGIC));
        }
        let bucket = BucketIndex::new(H_BUCKET.u32(header));
        let found = SectionHeader {
            identity: SectionIdentity {
                cluster,
                bucket: bucket.unwrap_or_default(),
                window_from: H_WINDOW_FROM.u64(header),
                window_days: H_WINDOW_DAYS.u32(header),
                window_generation: H_WINDOW_GENERATION.u32(header),
            },
            place: SectionPlace {
                group,
                disk,
                file,
                file_generation: H_FILE_GENERATION.u32(header),
                offset,
                number: H_NUMBER.u32(header),
            },
            record_count: H_RECORD_COUNT.u32(header),
            data_bytes: H_DATA_BYTES.u32(header),
            index_bytes: H_INDEX_BYTES.u32(header),
            digest: u128::from_le_bytes(H_DIGEST.array(header)),
        };
        let block_min = BLOCK_HEADER_BYTES as u32 + 1;
        let right = [
            (H_CHECKSUM, H_CHECKSUM.u32(header) == found.checksum(header)),
            (H_BUCKET, bucket.is_some()),
            (H_FILE_GENERATION, found.place.file_generation > 0),
            (H_RECORD_COUNT, found.record_count > 0),
            (H_DATA_BYTES, found.data_bytes >= block_min),
            (H_INDEX_BYTES, found.index_bytes >= block_min),
        ];
        match right.into_iter().find(|(_, right)| !right) {
            Some((field, _)) => Err(wrong(field)),
            None => Ok(found),
        }
    }
}

/// A section that was made and stands nowhere yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeSection {
    /// Which it is.
    pub identity: SectionIdentity,
    /// Records.
    pub record_count: u32,
    /// Bytes of its data blocks.
    pub data_bytes: u32,
    /// Bytes of its index.
    pub index_bytes: u32,
    /// xxh3-128 of the records.
    pub digest: u128,
    /// Bytes of its data blocks before compression.
    pub raw_bytes: u64,
    first_key: Vec<u8>,
    /// Its blocks, each with what separates it from the next.
    blocks: Vec<(Vec<u8>, BlockHandle)>,
    /// All of it, the header still empty.
    bytes: Vec<u8>,
}

impl MadeSection {
    /// All of it, with the header that belongs to `place`.
    #[must_use]
    pub fn at(&mut self, place: SectionPlace) -> &[u8] {
        let MadeSection { identity, record_count, data_bytes, index_bytes, digest, .. } = *self;
        let header = SectionHeader { identity, place, record_count, data_bytes, index_bytes, digest };
        header.encode(self.bytes.first_chunk_mut().expect("a section begins with its header"));
        &self.bytes
    }

    /// Bytes of the whole section.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Key of its first record.
    #[must_use]
    pub fn first_key(&self) -> &[u8] {
        &self.first_key
    }

    /// Its blocks in order, each with what separates it from the next; the last one with the last key.
    pub fn blocks(&self) -> impl Iterator<Item = (&[u8], &BlockHandle)> {
        self.blocks.iter().map(|(separator, handle)| (separator.as_slice(), handle))
    }
}

/// Makes one section, record by record.
pub struct SectionWriter {
    identity: SectionIdentity,
    checksum: BlockChecksum,
    compressor: Compressor,
    level: i32,
    block: BlockBuilder,
    columns: ColumnsBuilder,
    index: IndexBuilder,
    sum: SectionSum,
    /// The block before the one that is filled, which waits for what separates the two, and its last key.
    waiting: Option<(BlockHandle, Vec<u8>)>,
    raw_bytes: u64,
    first_key: Vec<u8>,
    blocks: Vec<(Vec<u8>, BlockHandle)>,
    out: Vec<u8>,
}

impl SectionWriter {
    /// An empty section, to be compressed at this level of zstd.
    #[must_use]
    pub fn new(identity: SectionIdentity, level: i32) -> SectionWriter {
        SectionWriter {
            identity,
            checksum: identity.checksum(),
            compressor: Compressor::new(),
            level,
            block: BlockBuilder::new(),
            columns: ColumnsBuilder::default(),
            index: IndexBuilder::default(),
            sum: SectionSum::new(),
            waiting: None,
            raw_bytes: 0,
            first_key: Vec::new(),
            blocks: Vec::new(),
            out: vec![0; SECTION_HEADER_BYTES],
        }
    }

    /// Appends a record; `None` is a tombstone. The key is encoded as in [`crate::table_key`].
    ///
    /// Keys that do not ascend or are of another bucket are our own bug.
    pub fn push(&mut self, key: &[u8], version: Version, expiry_us: u64, value: Option<&[u8]>) {
        assert!(bucket_of_key(key) == Some(self.identity.bucket), "a section has the records of one bucket");
        if self.block.is_full(COLD_BLOCK_BYTES, value.map_or(0, <[u8]>::len)) {
            self.end_block();
        }
        match self.waiting.take() {
            Some((handle, last)) => {
                assert!(key > &last[..], "the keys of a section ascend");
                self.add_block(separator(&last, key), handle);
            }
            None if self.block.is_empty() => {
                self.index.first_key(key);
                self.first_key.extend_from_slice(key);
            }
            None => {}
        }
        self.block.push(key, version, expiry_us, value);
        self.sum.add(key, version, expiry_us, value);
    }

    fn add_block(&mut self, separator: &[u8], handle: BlockHandle) {
        self.index.push(separator, handle);
        self.blocks.push((separator.to_vec(), handle));
    }

    fn end_block(&mut self) {
        let (record_count, last) = (self.block.entry_count() as u32, self.block.last_key().to_vec());
        let made = Made::of(self.block.finish(), record_count, Some(&mut self.columns));
        self.raw_bytes += made.raw_bytes as u64;
        let (codec, payload) = self.compressor.pack(made.bytes, Compression::Level(self.level));
        let offset = (self.out.len() - SECTION_HEADER_BYTES) as u64;
        let packed =
            Packed { kind: BlockKind::Data, raw_bytes: made.raw_bytes, form: made.form, codec, payload };
        let stored_bytes = seal_packed(&self.checksum, offset, packed, &mut self.out) as u32;
        self.waiting = Some((BlockHandle { offset, stored_bytes, record_count }, last));
        self.block.clear();
    }

    /// Ends the section. One without records, and one of 4 GiB, are our own bugs.
    #[must_use]
    pub fn finish(mut self) -> MadeSection {
        self.end_block();
        let (handle, last) = self.waiting.take().expect("a section has a record");
        self.add_block(&last, handle);
        let data_bytes = handle.end();
        let index = self.index.finish();
        let (kind, compression) = (BlockKind::Index, Compression::Level(self.level));
        seal_parts(
            &self.checksum,
            data_bytes,
            kind,
            &index,
            compression,
            &mut self.compressor,
            &mut self.out,
        );
        let (record_count, _, digest) = self.sum.finish();
        let index_bytes = self.out.len() - SECTION_HEADER_BYTES - data_bytes as usize;
        let small = |number: u64| u32::try_from(number).expect("a section fits in a file");
        MadeSection {
            identity: self.identity,
            record_count: small(record_count),
            data_bytes: small(data_bytes),
            index_bytes: small(index_bytes as u64),
            digest,
            raw_bytes: self.raw_bytes,
            first_key: self.first_key,
            blocks: self.blocks,
            bytes: self.out,
        }
    }
}

/// The index of a section, from the bytes behind its data.
///
/// # Errors
/// [`Corrupt`].
pub fn open_section_index(
    checksum: &BlockChecksum,
    header: &SectionHeader,
    stored: &[u8],
    unpack: &mut Decompressor,
) -> Result<Index, Corrupt> {
    let data_bytes = u64::from(header.data_bytes);
    Index::decode(open_parts(checksum, data_bytes, BlockKind::Index, stored, unpack)?, data_bytes)
}

/// Reads all of a section, whose header was found in its place, and hands each record to `each`. What does not agree with header and
/// digest is found.
///
/// # Errors
/// [`Corrupt`]; records may have been handed over before.
pub fn walk_section(
    header: &SectionHeader,
    bytes: &[u8],
    mut each: impl FnMut(BlockEntry<'_>),
) -> Result<(), Corrupt> {
    let wrong = |field: Field| SECTION_TABLE.corrupt(field, u64::from(header.place.offset));
    if bytes.len() as u64 != header.bytes() {
        return Err(wrong(H_DATA_BYTES));
    }
    let (checksum, mut unpack) = (header.identity.checksum(), Decompressor::new());
    let (data, stored) = bytes[SECTION_HEADER_BYTES..].split_at(header.data_bytes as usize);
    let index = open_section_index(&checksum, header, stored, &mut unpack)?;
    let (mut sum, mut out) = (SectionSum::new(), Vec::with_capacity(BLOCK_RAW_BYTES_MAX / 16));
    for number in 0..index.block_count() {
        let handle = index.handle(number).ok_or(wrong(H_INDEX_BYTES))?;
        let stored = &data[handle.offset as usize..handle.end() as usize];
        open_block(&checksum, handle.offset, BlockKind::Data, stored, None, &mut unpack, &mut out)?;
        let (block, mut cursor) = (Block::parse(&out)?, Cursor::new());
        let mut is_there = cursor.seek_first(&block)?;
        while is_there {
            let Some(entry) = cursor.entry(&block)? else { break };
            sum.add(entry.key, entry.record.version, entry.record.expiry_us, entry.record.value);
            each(entry);
            is_there = cursor.next(&block)?;
        }
    }
    let (record_count, _, digest) = sum.finish();
    match () {
        () if record_count != u64::from(header.record_count) => Err(wrong(H_RECORD_COUNT)),
        () if digest != header.digest => Err(wrong(H_DIGEST)),
        () => Ok(()),
    }
}

/// The byte tables of this file, for the comparison with FORMAT_COLD.md.
pub(crate) const TABLES: [Table; 3] = [SECTION_TABLE, SECTION_PLACE_TABLE, SECTION_IDENTITY_TABLE];
