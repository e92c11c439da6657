//! Blocks of a table as they stand on the disk: header, checksum bound to identity, compression.
//!
//! Owns the stored form of every block, whatever it holds. Must never allocate from a length it has not checked.
//! Invariant: what opens was sealed for this table, this kind of content and this offset.
//!
//! ```text
//! | header 16 | payload: the block's bytes or its columns, as they are or as one zstd frame |
//! | header 16 | payload: checksum of the dictionary 4, one zstd frame that needs it |
//! ```

use zstd_safe::{CCtx, CDict, DCtx, DDict};

use crate::FORMAT_VERSION;
use crate::checksum::Crc;
use crate::codec_context::Lent;
use crate::field::{Corrupt, Field, Table, byte_table};
use crate::table_block::{BLOCK_RAW_BYTES_MAX, BlockBuilder};
use crate::table_columns::read_columns;
use crate::units::{ShardIndex, TableId, TabletIndex, Uuid};

/// Bytes before a block's payload.
pub const BLOCK_HEADER_BYTES: usize = 16;
/// Most bytes of a stored block.
pub const BLOCK_STORED_BYTES_MAX: usize = BLOCK_HEADER_BYTES + BLOCK_RAW_BYTES_MAX;
/// Most raw bytes of a part of what stands behind the data, and of a dictionary.
pub const PART_BYTES_MAX: usize = 1 << 20;
/// First bytes of the identity of a run's blocks.
pub const RUN_MAGIC: [u8; 8] = *b"TCLRUNBK";
/// First bytes of the identity of a sealed table's blocks.
pub const SEALED_MAGIC: [u8; 8] = *b"TCLSEALB";

/// First bytes of the identity of what a sunk table consists of.
pub const SUNK_MAGIC: [u8; 8] = *b"TCLSUNKB";

const RUN_IDENTITY_BYTES: usize = 51;
const SEALED_IDENTITY_BYTES: usize = 57;
const OFFSET_BYTES: usize = 8;
const DICTIONARY_CHECKSUM_BYTES: usize = 4;

byte_table! {
    /// Byte table of a stored block's header.
    BLOCK_HEADER_TABLE = "stored block", BLOCK_HEADER_BYTES;
    H_CHECKSUM = "checksum", 0, 4;
    H_RAW_BYTES = "raw_bytes", 4, 4;
    H_PAYLOAD_BYTES = "payload_bytes", 8, 4;
    H_CODEC = "codec", 12, 1;
    H_KIND = "kind", 13, 1;
    H_FORM = "form", 14, 1;
    H_RESERVED = "reserved", 15, 1;
}

byte_table! {
    /// Byte table of the identity of a run's blocks; never stored.
    RUN_IDENTITY_TABLE = "run block identity", RUN_IDENTITY_BYTES;
    R_MAGIC = "magic", 0, 8;
    R_FORMAT_VERSION = "format_version", 8, 4;
    R_DEVICE = "device", 12, 16;
    R_SHARD = "shard", 28, 2;
    R_GENERATION = "generation", 30, 4;
    R_TABLET = "tablet", 34, 1;
    R_TABLE_ID = "table_id", 35, 8;
    R_OFFSET = "offset", 43, OFFSET_BYTES;
}

byte_table! {
    /// Byte table of the identity of a sealed table's blocks; never stored.
    SEALED_IDENTITY_TABLE = "sealed block identity", SEALED_IDENTITY_BYTES;
    S_MAGIC = "magic", 0, 8;
    S_FORMAT_VERSION = "format_version", 8, 4;
    S_CLUSTER = "cluster", 12, 16;
    S_TABLET = "tablet", 28, 1;
    S_WINDOW_FROM = "window_from", 29, 8;
    S_WINDOW_TO = "window_to", 37, 8;
    S_WINDOW_GENERATION = "window_generation", 45, 4;
    S_OFFSET = "offset", 49, OFFSET_BYTES;
}

/// Which table it is: part of every checksum in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableIdentity {
    /// A run: a table of one device.
    Run {
        /// Uuid of the device.
        device: Uuid,
        /// Shard that owns it.
        shard: ShardIndex,
        /// Generation of the device's superblock.
        generation: u32,
        /// Tablet whose records it holds.
        tablet: TabletIndex,
        /// Never used twice on a device.
        table: TableId,
    },
    /// The sealed table of a window: the same bytes at every replica.
    Sealed {
        /// Uuid of the cluster.
        cluster: Uuid,
        /// Tablet whose records it holds.
        tablet: TabletIndex,
        /// First time of the window, microseconds.
        window_from: u64,
        /// First time behind the window, microseconds.
        window_to: u64,
        /// How often the window was sealed.
        window_generation: u32,
    },
    /// What stays of a window whose records are on cold disks: the same bytes at every replica.
    Sunk {
        /// Uuid of the cluster.
        cluster: Uuid,
        /// Tablet whose records it names.
        tablet: TabletIndex,
        /// First time of the window, microseconds.
        window_from: u64,
        /// First time behind the window, microseconds.
        window_to: u64,
        /// How often the window was sealed.
        window_generation: u32,
    },
}

impl TableIdentity {
    /// The tablet whose records it holds.
    #[must_use]
    pub fn tablet(&self) -> TabletIndex {
        match self {
            TableIdentity::Run { tablet, .. }
            | TableIdentity::Sealed { tablet, .. }
            | TableIdentity::Sunk { tablet, .. } => *tablet,
        }
    }
}

/// The checksum of a table's blocks, its identity hashed once.
#[derive(Debug, Clone)]
pub struct BlockChecksum(Crc);

impl BlockChecksum {
    /// For the blocks of this table.
    #[must_use]
    pub fn new(identity: &TableIdentity) -> BlockChecksum {
        match *identity {
            TableIdentity::Run { device, shard, generation, tablet, table } => {
                let mut bytes = [0; RUN_IDENTITY_BYTES];
                R_MAGIC.put(&mut bytes, RUN_MAGIC);
                R_FORMAT_VERSION.put(&mut bytes, FORMAT_VERSION.to_le_bytes());
                R_DEVICE.put(&mut bytes, device.0);
                R_SHARD.put(&mut bytes, shard.0.to_le_bytes());
                R_GENERATION.put(&mut bytes, generation.to_le_bytes());
                R_TABLET.put(&mut bytes, [tablet.get()]);
                R_TABLE_ID.put(&mut bytes, table.0.to_le_bytes());
                BlockChecksum(Crc::with(&bytes[..R_OFFSET.offset]))
            }
            TableIdentity::Sealed { cluster, tablet, window_from, window_to, window_generation }
            | TableIdentity::Sunk { cluster, tablet, window_from, window_to, window_generation } => {
                let is_sunk = matches!(identity, TableIdentity::Sunk { .. });
                let mut bytes = [0; SEALED_IDENTITY_BYTES];
                S_MAGIC.put(&mut bytes, if is_sunk { SUNK_MAGIC } else { SEALED_MAGIC });
                S_FORMAT_VERSION.put(&mut bytes, FORMAT_VERSION.to_le_bytes());
                S_CLUSTER.put(&mut bytes, cluster.0);
                S_TABLET.put(&mut bytes, [tablet.get()]);
                S_WINDOW_FROM.put(&mut bytes, window_from.to_le_bytes());
                S_WINDOW_TO.put(&mut bytes, window_to.to_le_bytes());
                S_WINDOW_GENERATION.put(&mut bytes, window_generation.to_le_bytes());
                BlockChecksum(Crc::with(&bytes[..S_OFFSET.offset]))
            }
        }
    }

    /// For the blocks of what has this identity.
    pub(crate) fn with(identity: Crc) -> BlockChecksum {
        BlockChecksum(identity)
    }

    /// Over the identity, with the logical offset of what follows, and its bytes.
    #[inline]
    pub(crate) fn of(&self, offset: u64, bytes: &[u8]) -> u32 {
        self.0.clone().and(&offset.to_le_bytes()).and(bytes).finish()
    }
}

/// What a stored block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Records.
    Data,
    /// The dictionary that data blocks are compressed with.
    Dictionary,
    /// A part of the index.
    Index,
    /// A part of the filter.
    Filter,
    /// A part of the list of sections.
    Sections,
}

impl BlockKind {
    fn to_number(self) -> u8 {
        match self {
            BlockKind::Data => 1,
            BlockKind::Dictionary => 2,
            BlockKind::Index => 3,
            BlockKind::Filter => 4,
            BlockKind::Sections => 5,
        }
    }

    fn from_number(number: u8) -> Option<BlockKind> {
        use BlockKind::{Data, Dictionary, Filter, Index, Sections};
        [Data, Dictionary, Index, Filter, Sections].into_iter().find(|kind| kind.to_number() == number)
    }

    /// Most bytes before compression.
    fn raw_bytes_max(self) -> usize {
        match self {
            BlockKind::Data => BLOCK_RAW_BYTES_MAX,
            _ => PART_BYTES_MAX,
        }
    }
}

/// What a payload is before compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The block as it is read.
    Rows,
    /// Its columns: only of data, and smaller.
    Columns,
}

impl Form {
    fn to_number(self) -> u8 {
        match self {
            Form::Rows => 0,
            Form::Columns => 1,
        }
    }

    fn from_number(number: u8) -> Option<Form> {
        [Form::Rows, Form::Columns].into_iter().find(|form| form.to_number() == number)
    }
}

/// How a payload is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    Raw,
    /// One zstd frame.
    Zstd,
    /// The checksum of the table's dictionary, and one zstd frame that needs it.
    ZstdDictionary,
}

impl Codec {
    fn to_number(self) -> u8 {
        match self {
            Codec::Raw => 0,
            Codec::Zstd => 1,
            Codec::ZstdDictionary => 2,
        }
    }

    fn from_number(number: u8) -> Option<Codec> {
        [Codec::Raw, Codec::Zstd, Codec::ZstdDictionary].into_iter().find(|codec| codec.to_number() == number)
    }
}

/// A dictionary prepared for writing at one level.
pub struct WriteDictionary {
    prepared: CDict<'static>,
    checksum: u32,
}

impl WriteDictionary {
    /// `None` when zstd cannot use the bytes as a dictionary.
    #[must_use]
    pub fn new(bytes: &[u8], level: i32) -> Option<WriteDictionary> {
        let checksum = Crc::with(bytes).finish();
        CDict::try_create(bytes, level).map(|prepared| WriteDictionary { prepared, checksum })
    }
}

/// A dictionary prepared for reading, once per table.
pub struct Dictionary {
    prepared: DDict<'static>,
    /// Of its bytes. With another dictionary a frame gives other bytes, and zstd does not notice.
    checksum: u32,
}

impl Dictionary {
    /// `None` when zstd cannot use the bytes as a dictionary.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Dictionary> {
        let checksum = Crc::with(bytes).finish();
        DDict::try_create(bytes).map(|prepared| Dictionary { prepared, checksum })
    }

    /// Memory that it takes, bytes: its own bytes, and the tables that zstd keeps for each dictionary.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.prepared.sizeof()
    }
}

/// How blocks are compressed.
#[derive(Clone, Copy)]
pub enum Compression<'a> {
    /// Not.
    None,
    /// zstd at this level.
    Level(i32),
    /// zstd with a dictionary, at the level that it was prepared for.
    Dictionary(&'a WriteDictionary),
}

/// Compresses blocks; its context and buffer are used again and again.
pub struct Compressor {
    context: Lent<CCtx<'static>>,
    buffer: Vec<u8>,
}

impl Default for Compressor {
    fn default() -> Compressor {
        Compressor::new()
    }
}

impl Compressor {
    /// Build of the compressor: two builds may make different bytes of the same records.
    #[must_use]
    pub fn build() -> u32 {
        zstd_safe::version_number()
    }

    /// A context of this thread.
    #[must_use]
    pub fn new() -> Compressor {
        Compressor { context: Lent::new(), buffer: Vec::new() }
    }

    /// The payload of a block: the frame if that is smaller than what it holds.
    pub(crate) fn pack<'c>(&'c mut self, raw: &'c [u8], compression: Compression<'_>) -> (Codec, &'c [u8]) {
        let room = raw.len().saturating_sub(1);
        if self.buffer.len() < room {
            self.buffer.resize(room, 0);
        }
        let payload = &mut self.buffer[..room];
        let (codec, packed) = match compression {
            Compression::None => return (Codec::Raw, raw),
            Compression::Level(level) => (Codec::Zstd, self.context.compress(payload, raw, level)),
            Compression::Dictionary(dictionary) => {
                let Some((front, frame)) = payload.split_first_chunk_mut::<DICTIONARY_CHECKSUM_BYTES>()
                else {
                    return (Codec::Raw, raw);
                };
                *front = dictionary.checksum.to_le_bytes();
                let frame = self.context.compress_using_cdict(frame, raw, &dictionary.prepared);
                (Codec::ZstdDictionary, frame.map(|bytes| DICTIONARY_CHECKSUM_BYTES + bytes))
            }
        };
        match packed {
            Ok(bytes) => (codec, &self.buffer[..bytes]),
            // The frame has no room: compression saves nothing.
            Err(_) => (Codec::Raw, raw),
        }
    }
}

/// Decompresses blocks; its context and buffers are used again and again.
pub struct Decompressor {
    context: Lent<DCtx<'static>>,
    columns: Vec<u8>,
    rows: BlockBuilder,
}

impl Default for Decompressor {
    fn default() -> Decompressor {
        Decompressor::new()
    }
}

impl Decompressor {
    /// A context of this thread.
    #[must_use]
    pub fn new() -> Decompressor {
        Decompressor { context: Lent::new(), columns: Vec::new(), rows: BlockBuilder::new() }
    }
}

/// Appends the stored form of a block for this offset; answers the bytes that it takes.
///
/// An empty block or one above the limit of its kind is our own bug.
pub fn seal_block(
    checksum: &BlockChecksum,
    offset: u64,
    kind: BlockKind,
    raw: &[u8],
    compression: Compression<'_>,
    compressor: &mut Compressor,
    out: &mut Vec<u8>,
) -> usize {
    let (codec, payload) = compressor.pack(raw, compression);
    seal_packed(
        checksum,
        offset,
        Packed { kind, raw_bytes: raw.len(), form: Form::Rows, codec, payload },
        out,
    )
}

/// A block that is compressed.
pub(crate) struct Packed<'a> {
    pub(crate) kind: BlockKind,
    /// Bytes of the block as it is read.
    pub(crate) raw_bytes: usize,
    pub(crate) form: Form,
    pub(crate) codec: Codec,
    pub(crate) payload: &'a [u8],
}

/// Appends header and payload.
pub(crate) fn seal_packed(
    checksum: &BlockChecksum,
    offset: u64,
    packed: Packed<'_>,
    out: &mut Vec<u8>,
) -> usize {
    let Packed { kind, raw_bytes, form, codec, payload } = packed;
    assert!((1..=kind.raw_bytes_max()).contains(&raw_bytes), "a block of {raw_bytes} bytes is written");
    let mut header = [0; BLOCK_HEADER_BYTES];
    H_RAW_BYTES.put(&mut header, (raw_bytes as u32).to_le_bytes());
    H_PAYLOAD_BYTES.put(&mut header, (payload.len() as u32).to_le_bytes());
    H_CODEC.put(&mut header, [codec.to_number()]);
    H_KIND.put(&mut header, [kind.to_number()]);
    H_FORM.put(&mut header, [form.to_number()]);
    let start = out.len();
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    let sum = checksum.of(offset, &out[start + H_RAW_BYTES.offset..]);
    H_CHECKSUM.put(&mut out[start..], sum.to_le_bytes());
    out.len() - start
}

/// A stored block whose checksum and header are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlock<'a> {
    /// What it holds.
    pub kind: BlockKind,
    /// How.
    pub codec: Codec,
    /// What the payload is before compression.
    pub form: Form,
    /// Bytes of the block before compression; below the limit of its kind.
    pub raw_bytes: usize,
    /// The payload; the block itself when the codec is raw, or its columns.
    pub payload: &'a [u8],
}

impl<'a> StoredBlock<'a> {
    /// Reads the header at the start of `bytes`, which may go on behind the block, and checks the whole block.
    pub fn read(checksum: &BlockChecksum, offset: u64, bytes: &'a [u8]) -> Result<StoredBlock<'a>, Corrupt> {
        let wrong = |field: Field| Err(BLOCK_HEADER_TABLE.corrupt(field, offset));
        if bytes.len() < BLOCK_HEADER_BYTES {
            return wrong(H_CHECKSUM);
        }
        let payload_bytes = H_PAYLOAD_BYTES.u32(bytes) as usize;
        let Some(payload) = bytes[BLOCK_HEADER_BYTES..].get(..payload_bytes) else {
            return wrong(H_PAYLOAD_BYTES);
        };
        let covered = &bytes[H_RAW_BYTES.offset..BLOCK_HEADER_BYTES + payload_bytes];
        if H_CHECKSUM.u32(bytes) != checksum.of(offset, covered) {
            return wrong(H_CHECKSUM);
        }
        let Some(kind) = BlockKind::from_number(H_KIND.u8(bytes)) else { return wrong(H_KIND) };
        let Some(codec) = Codec::from_number(H_CODEC.u8(bytes)) else { return wrong(H_CODEC) };
        let raw_bytes = H_RAW_BYTES.u32(bytes) as usize;
        if !(1..=kind.raw_bytes_max()).contains(&raw_bytes) {
            return wrong(H_RAW_BYTES);
        }
        let form = Form::from_number(H_FORM.u8(bytes));
        let Some(form) = form.filter(|form| *form == Form::Rows || kind == BlockKind::Data) else {
            return wrong(H_FORM);
        };
        let is_as_it_was = (codec, form) == (Codec::Raw, Form::Rows);
        let saves = if is_as_it_was { payload_bytes == raw_bytes } else { payload_bytes < raw_bytes };
        if !saves {
            return wrong(H_PAYLOAD_BYTES);
        }
        if !H_RESERVED.is_zero(bytes) {
            return wrong(H_RESERVED);
        }
        Ok(StoredBlock { kind, codec, form, raw_bytes, payload })
    }

    /// Bytes of header and payload.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        BLOCK_HEADER_BYTES + self.payload.len()
    }

    /// The checksum in the header at the start of `bytes`, and the one that the block would have at `offset`; `None` when
    /// its length leads out of `bytes`. For who says what is wrong with a block.
    #[must_use]
    pub fn checksums(checksum: &BlockChecksum, offset: u64, bytes: &[u8]) -> Option<(u32, u32)> {
        let header = bytes.get(..BLOCK_HEADER_BYTES)?;
        let covered =
            bytes.get(H_RAW_BYTES.offset..BLOCK_HEADER_BYTES + H_PAYLOAD_BYTES.u32(header) as usize)?;
        Some((H_CHECKSUM.u32(header), checksum.of(offset, covered)))
    }

    /// Appends the block before compression to `out`; on an error `out` is as it was. `offset` is for the error.
    pub fn unpack(
        &self,
        offset: u64,
        dictionary: Option<&Dictionary>,
        decompressor: &mut Decompressor,
        out: &mut Vec<u8>,
    ) -> Result<(), Corrupt> {
        let Decompressor { context, columns, rows } = decompressor;
        if self.form == Form::Rows {
            return self.unpack_payload(offset, dictionary, context, out);
        }
        columns.clear();
        self.unpack_payload(offset, dictionary, context, columns)?;
        let block = read_columns(columns, self.raw_bytes, rows);
        out.extend_from_slice(block.map_err(|corrupt| Corrupt { at: offset, ..corrupt })?);
        Ok(())
    }

    /// Appends what the payload holds.
    fn unpack_payload(
        &self,
        offset: u64,
        dictionary: Option<&Dictionary>,
        context: &mut DCtx<'static>,
        out: &mut Vec<u8>,
    ) -> Result<(), Corrupt> {
        let start = out.len();
        if self.codec == Codec::Raw {
            out.extend_from_slice(self.payload);
            return Ok(());
        }
        let wrong = |field| Corrupt { structure: BLOCK_HEADER_TABLE.structure, field, at: offset };
        let (frame, dictionary) = match (self.codec, dictionary) {
            (Codec::ZstdDictionary, None) => return Err(wrong(H_CODEC.name)),
            (Codec::ZstdDictionary, Some(dictionary)) => {
                let parts = self.payload.split_first_chunk().ok_or(wrong("payload"))?;
                let is_its_own = u32::from_le_bytes(*parts.0) == dictionary.checksum;
                if !is_its_own {
                    return Err(wrong("dictionary"));
                }
                (parts.1, Some(dictionary))
            }
            _ => (self.payload, None),
        };
        out.resize(start + self.raw_bytes, 0);
        let room = &mut out[start..];
        let unpacked = match dictionary {
            Some(dictionary) => context.decompress_using_ddict(room, frame, &dictionary.prepared),
            None => context.decompress(room, frame),
        };
        let bytes = unpacked.ok().filter(|bytes| match self.form {
            Form::Rows => *bytes == self.raw_bytes,
            Form::Columns => *bytes < self.raw_bytes,
        });
        out.truncate(start + bytes.unwrap_or(0));
        bytes.map(|_| ()).ok_or(wrong("payload"))
    }
}

/// Puts the block that is stored in exactly `stored` into `out`, over what was there; on an error `out` is empty.
///
/// The dictionary is the table's, if it has one. Keeps the memory of `out`: a block that is not larger than the ones before
/// allocates nothing.
pub fn open_block(
    checksum: &BlockChecksum,
    offset: u64,
    kind: BlockKind,
    stored: &[u8],
    dictionary: Option<&Dictionary>,
    decompressor: &mut Decompressor,
    out: &mut Vec<u8>,
) -> Result<(), Corrupt> {
    out.clear();
    let block = StoredBlock::read(checksum, offset, stored)?;
    if block.kind != kind {
        return Err(BLOCK_HEADER_TABLE.corrupt(H_KIND, offset));
    }
    if block.stored_bytes() != stored.len() {
        return Err(BLOCK_HEADER_TABLE.corrupt(H_PAYLOAD_BYTES, offset));
    }
    block.unpack(offset, dictionary, decompressor, out)
}

/// Appends what stands behind the data: its bytes cut into parts, sealed back to back from `offset` on.
pub(crate) fn seal_parts(
    checksum: &BlockChecksum,
    offset: u64,
    kind: BlockKind,
    raw: &[u8],
    compression: Compression<'_>,
    compressor: &mut Compressor,
    out: &mut Vec<u8>,
) {
    let mut at = offset;
    for part in raw.chunks(PART_BYTES_MAX) {
        at += seal_block(checksum, at, kind, part, compression, compressor, out) as u64;
    }
}

/// The bytes of what is cut into parts, which stand back to back in exactly `stored`.
pub(crate) fn open_parts(
    checksum: &BlockChecksum,
    offset: u64,
    kind: BlockKind,
    mut stored: &[u8],
    decompressor: &mut Decompressor,
) -> Result<Vec<u8>, Corrupt> {
    let mut out = Vec::new();
    let mut at = offset;
    while !stored.is_empty() {
        let block = StoredBlock::read(checksum, at, stored)?;
        if block.kind != kind {
            return Err(BLOCK_HEADER_TABLE.corrupt(H_KIND, at));
        }
        block.unpack(at, None, decompressor, &mut out)?;
        at = at.saturating_add(block.stored_bytes() as u64);
        stored = &stored[block.stored_bytes()..];
    }
    Ok(out)
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 3] = [BLOCK_HEADER_TABLE, RUN_IDENTITY_TABLE, SEALED_IDENTITY_TABLE];
