//! What the replicas of a tablet know of a window that goes, or has gone, to cold disks. Part of the [state blob](crate::tablet_state),
//! and of the entry that ends a sink ([`crate::sink_operation`]).
//!
//! Owns the bytes of a sink and of a link. Must never name anything of a store's own device. Invariant: what decodes encodes to the
//! same bytes.
//!
//! ```text
//! | sink 80 | link 32 | link 32 | ..        links only once it has ended, in the order in which they were reserved
//! ```

use crate::cold_file::FILE_SECTION_COUNT_MAX;
use crate::field::{Field, Table, byte_table};
use crate::units::BucketIndex;

/// Bytes of a sink.
pub const SINK_BYTES: usize = 80;
/// Bytes of a link.
pub const LINK_BYTES: usize = 32;
/// Links of a sink at most: so that the entry that names them fits into a record.
pub const SINK_LINKS_MAX: usize = 8192;
/// Bytes of sections that one link names, at most.
pub const LINK_CONTENT_BYTES_MAX: u32 = 1 << 30;

byte_table! {
    /// Byte table of a sink in a state blob; its links follow.
    SINK_TABLE = "tablet sink", SINK_BYTES;
    S_FROM = "from", 0, 8;
    S_TO = "to", 8, 8;
    S_CHECKSUM = "checksum", 16, 16;
    S_SUNK_CHECKSUM = "sunk_checksum", 32, 16;
    S_NONCE = "nonce", 48, 8;
    S_GENERATION = "generation", 56, 4;
    S_SEAL_GENERATION = "seal_generation", 60, 4;
    S_CODEC = "codec", 64, 4;
    S_LINK_COUNT = "link_count", 68, 4;
    S_LEVEL = "level", 72, 1;
    S_FLAGS = "flags", 73, 1;
    S_RESERVED = "reserved", 74, 6;
}

byte_table! {
    /// Byte table of a link: where sections of a window stand on the three machines of a cold group.
    LINK_TABLE = "cold link", LINK_BYTES;
    L_GROUP = "group", 0, 2;
    L_DISK = "disk", 2, 2;
    L_BUCKET = "bucket", 4, 4;
    L_FILE = "file", 8, 4;
    L_FILE_GENERATION = "file_generation", 12, 4;
    L_OFFSET = "offset", 16, 4;
    L_CONTENT_BYTES = "content_bytes", 20, 4;
    L_NUMBER = "number", 24, 4;
    L_SECTION_COUNT = "section_count", 28, 4;
}

const FLAG_SUNK: u8 = 1;

/// Where sections of a window stand, back to back: the same on the three machines of a cold group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdLink {
    /// Cold group.
    pub group: u16,
    /// Number of the disk in the group.
    pub disk: u16,
    /// Bucket of the first section.
    pub bucket: BucketIndex,
    /// File of the disk.
    pub file: u32,
    /// Generation of that file, from 1.
    pub file_generation: u32,
    /// Byte of the file where the first one begins.
    pub offset: u32,
    /// Bytes of all of them.
    pub content_bytes: u32,
    /// Number of the first one in the file.
    pub number: u32,
    /// Sections, at least one.
    pub section_count: u32,
}

impl ColdLink {
    pub(crate) fn encode(&self) -> [u8; LINK_BYTES] {
        let mut bytes = [0; LINK_BYTES];
        L_GROUP.put(&mut bytes, self.group.to_le_bytes());
        L_DISK.put(&mut bytes, self.disk.to_le_bytes());
        L_BUCKET.put(&mut bytes, self.bucket.get().to_le_bytes());
        L_FILE.put(&mut bytes, self.file.to_le_bytes());
        L_FILE_GENERATION.put(&mut bytes, self.file_generation.to_le_bytes());
        L_OFFSET.put(&mut bytes, self.offset.to_le_bytes());
        L_CONTENT_BYTES.put(&mut bytes, self.content_bytes.to_le_bytes());
        L_NUMBER.put(&mut bytes, self.number.to_le_bytes());
        L_SECTION_COUNT.put(&mut bytes, self.section_count.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; LINK_BYTES]) -> Result<ColdLink, Field> {
        let bucket = BucketIndex::new(L_BUCKET.u32(bytes));
        let link = ColdLink {
            group: L_GROUP.u16(bytes),
            disk: L_DISK.u16(bytes),
            bucket: bucket.unwrap_or_default(),
            file: L_FILE.u32(bytes),
            file_generation: L_FILE_GENERATION.u32(bytes),
            offset: L_OFFSET.u32(bytes),
            content_bytes: L_CONTENT_BYTES.u32(bytes),
            number: L_NUMBER.u32(bytes),
            section_count: L_SECTION_COUNT.u32(bytes),
        };
        let right = [
            (L_BUCKET, bucket.is_some()),
            (L_FILE_GENERATION, link.file_generation > 0),
            (L_OFFSET, link.offset <= LINK_CONTENT_BYTES_MAX),
            (L_CONTENT_BYTES, (1..=LINK_CONTENT_BYTES_MAX).contains(&link.content_bytes)),
            (L_NUMBER, link.number <= FILE_SECTION_COUNT_MAX),
            (L_SECTION_COUNT, (1..=FILE_SECTION_COUNT_MAX).contains(&link.section_count)),
        ];
        right.into_iter().find_map(|(field, right)| (!right).then_some(Err(field))).unwrap_or(Ok(link))
    }
}

/// The bytes of a list of links.
#[must_use]
pub fn links_bytes(links: &[ColdLink]) -> Vec<u8> {
    links.iter().flat_map(ColdLink::encode).collect()
}

/// The links of a list; `None` when the bytes are no such list.
pub(crate) fn are_links(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<LINK_BYTES>();
    rest.is_empty()
        && chunks.len() <= SINK_LINKS_MAX
        && chunks.iter().all(|link| ColdLink::decode(link).is_ok())
}

/// The links of a list that was found right.
pub(crate) fn links(bytes: &[u8]) -> impl Iterator<Item = ColdLink> + '_ {
    let decode = |link: &[u8; LINK_BYTES]| ColdLink::decode(link).expect("the list was found right before");
    bytes.as_chunks::<LINK_BYTES>().0.iter().map(decode)
}

/// A window that goes to cold disks, or has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TabletSink {
    /// First time of the window.
    pub from: u64,
    /// First time behind it.
    pub to: u64,
    /// Of the seal that made the window's table.
    pub seal_generation: u32,
    /// Checksum of that table.
    pub checksum: u128,
    /// Of this try: sections on cold disks carry it as the generation of their window. No other seal or sink of the tablet has it.
    pub generation: u32,
    /// Drawn by who sinks, at its start: another life of the same node is another sinker.
    pub nonce: u64,
    /// Build of the compressor that makes the sections.
    pub codec: u32,
    /// Level of zstd.
    pub level: u8,
    /// Once it has ended: checksum of the table that takes the place of the sealed one.
    pub sunk: Option<u128>,
    /// Links that follow; 0 until it has ended.
    pub link_count: u32,
}

impl TabletSink {
    pub(crate) fn encode(&self) -> [u8; SINK_BYTES] {
        let mut bytes = [0; SINK_BYTES];
        S_FROM.put(&mut bytes, self.from.to_le_bytes());
        S_TO.put(&mut bytes, self.to.to_le_bytes());
        S_CHECKSUM.put(&mut bytes, self.checksum.to_le_bytes());
        S_SUNK_CHECKSUM.put(&mut bytes, self.sunk.unwrap_or(0).to_le_bytes());
        S_NONCE.put(&mut bytes, self.nonce.to_le_bytes());
        S_GENERATION.put(&mut bytes, self.generation.to_le_bytes());
        S_SEAL_GENERATION.put(&mut bytes, self.seal_generation.to_le_bytes());
        S_CODEC.put(&mut bytes, self.codec.to_le_bytes());
        S_LINK_COUNT.put(&mut bytes, self.link_count.to_le_bytes());
        S_LEVEL.put(&mut bytes, [self.level]);
        S_FLAGS.put(&mut bytes, [if self.sunk.is_some() { FLAG_SUNK } else { 0 }]);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; SINK_BYTES]) -> Result<TabletSink, Field> {
        let (flags, checksum) = (S_FLAGS.u8(bytes), u128::from_le_bytes(S_SUNK_CHECKSUM.array(bytes)));
        let is_sunk = flags == FLAG_SUNK;
        let sink = TabletSink {
            from: S_FROM.u64(bytes),
            to: S_TO.u64(bytes),
            seal_generation: S_SEAL_GENERATION.u32(bytes),
            checksum: u128::from_le_bytes(S_CHECKSUM.array(bytes)),
            generation: S_GENERATION.u32(bytes),
            nonce: S_NONCE.u64(bytes),
            codec: S_CODEC.u32(bytes),
            level: S_LEVEL.u8(bytes),
            sunk: is_sunk.then_some(checksum),
            link_count: S_LINK_COUNT.u32(bytes),
        };
        let right = [
            (S_TO, sink.from < sink.to),
            (S_CHECKSUM, sink.checksum != 0),
            (S_FLAGS, flags <= FLAG_SUNK),
            (S_SUNK_CHECKSUM, is_sunk != (checksum == 0)),
            (S_GENERATION, sink.generation > sink.seal_generation),
            (S_LINK_COUNT, is_sunk == (sink.link_count > 0) && sink.link_count as usize <= SINK_LINKS_MAX),
            (S_LEVEL, (1..=19).contains(&sink.level)),
            (S_RESERVED, S_RESERVED.is_zero(bytes)),
        ];
        right.into_iter().find_map(|(field, right)| (!right).then_some(Err(field))).unwrap_or(Ok(sink))
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 2] = [SINK_TABLE, LINK_TABLE];

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: ColdLink = ColdLink {
        group: 1,
        disk: 2,
        bucket: BucketIndex::new(131_071).unwrap(),
        file: 3,
        file_generation: 4,
        offset: 4096,
        content_bytes: 5,
        number: 6,
        section_count: 7,
    };

    #[test]
    fn sinks_and_links_round_trip_and_wrong_fields_are_named() {
        let open = TabletSink {
            from: 1,
            to: 2,
            seal_generation: 3,
            checksum: 4,
            generation: 5,
            nonce: 6,
            codec: 7,
            level: 19,
            sunk: None,
            link_count: 0,
        };
        let sunk = TabletSink { sunk: Some(u128::MAX), link_count: 8, ..open };
        for sink in [open, sunk] {
            assert_eq!(TabletSink::decode(&sink.encode()), Ok(sink));
        }
        let cases =
            [(S_TO, 1), (S_FLAGS, 2), (S_GENERATION, 3), (S_LEVEL, 20), (S_LINK_COUNT, 1), (S_RESERVED, 1)];
        for (field, value) in cases {
            let mut bytes = open.encode();
            bytes[field.offset] = value;
            assert_eq!(TabletSink::decode(&bytes).map_err(|field| field.name), Err(field.name));
        }
        assert_eq!(ColdLink::decode(&LINK.encode()), Ok(LINK));
        for field in [L_FILE_GENERATION, L_CONTENT_BYTES, L_SECTION_COUNT] {
            let mut bytes = LINK.encode();
            field.put(&mut bytes, [0; 4]);
            assert_eq!(ColdLink::decode(&bytes).map_err(|field| field.name), Err(field.name));
        }
        let list = links_bytes(&[LINK, LINK]);
        assert!(are_links(&list) && !are_links(&list[1..]));
        assert_eq!(links(&list).collect::<Vec<_>>(), [LINK, LINK]);
    }
}
