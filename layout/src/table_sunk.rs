//! A sunk table: what stays on the SSD of a sealed window whose records stand on cold disks. Index and filter of all of its records,
//! and where each section is: so a get finds with one read of a cold disk what it looks for, and with none that it is not there.
//!
//! Owns the list of sections and the writer. Must never depend on how the sealed table lay in its blocks, or on who makes it. Invariant:
//! the same sections at the same links give the same bytes.
//!
//! ```text
//! | sunk sections | index | filter | footer 512 |
//! sunk sections: | header 16 | link 32, .. | entry, .. |           one entry per section, buckets ascending
//! entry: | bucket - that before | link | data bytes | index bytes | records | digest 16 |
//! ```
//!
//! Offsets in the index are *data offsets*: as if the data blocks of all sections stood back to back, in the order of their buckets.

use crate::cold_section::{COLD_BLOCK_BYTES, MadeSection, SECTION_HEADER_BYTES, SectionIdentity};
use crate::field::{Corrupt, Table, byte_table};
use crate::table::{ContentChecksum, TableSummary};
use crate::table_filter::FilterBuilder;
use crate::table_footer::Footer;
use crate::table_index::{BlockHandle, IndexBuilder};
use crate::table_key::{key_hash, key_time};
use crate::table_seal::{
    BlockChecksum, BlockKind, Compression, Compressor, Decompressor, TableIdentity, open_parts, seal_parts,
};
use crate::tablet_sink::{ColdLink, LINK_BYTES, SINK_LINKS_MAX};
use crate::units::{BucketIndex, LogIndex, Version};
use crate::varint;

const SUNK_HEADER_BYTES: usize = 16;
const DIGEST_BYTES: usize = 16;
/// Microseconds of a day, the unit of windows on cold disks.
const DAY_US: u64 = 86_400_000_000;

byte_table! {
    /// Byte table of the start of a list of sunk sections.
    SUNK_SECTIONS_TABLE = "sunk sections", SUNK_HEADER_BYTES;
    S_SECTION_COUNT = "section_count", 0, 4;
    S_LINK_COUNT = "link_count", 4, 4;
    S_GENERATION = "generation", 8, 4;
    S_RESERVED = "reserved", 12, 4;
}

/// A section of a sunk table, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SunkSection {
    /// Whose records it has.
    pub bucket: BucketIndex,
    /// Which of the table's links names it.
    pub link: u32,
    /// Data offset of its first block.
    pub data_from: u64,
    /// Bytes of its data blocks.
    pub data_bytes: u32,
    /// Bytes of its index.
    pub index_bytes: u32,
    /// Byte of the file where it begins.
    pub offset: u32,
    /// Number of it in the file.
    pub number: u32,
    /// Records.
    pub record_count: u32,
    /// xxh3-128 of its records, as the section's header has it.
    pub digest: u128,
}

impl SunkSection {
    /// Bytes of the whole section.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        SECTION_HEADER_BYTES as u64 + u64::from(self.data_bytes) + u64::from(self.index_bytes)
    }
}

/// The sections of a sunk table, in order, and their links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SunkSections {
    /// Of the sink: what the sections carry as the generation of their window.
    pub generation: u32,
    links: Box<[ColdLink]>,
    sections: Box<[SunkSection]>,
}

impl SunkSections {
    /// Reads a list from end to end: of a table of so many bytes of data, and records.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn decode(bytes: &[u8], data_bytes: u64, record_count: u64) -> Result<SunkSections, Corrupt> {
        let wrong = |field| Corrupt { structure: SUNK_SECTIONS_TABLE.structure, field, at: 0 };
        let header = bytes.first_chunk::<SUNK_HEADER_BYTES>().ok_or(wrong(S_SECTION_COUNT.name))?;
        if !S_RESERVED.is_zero(header) {
            return Err(wrong(S_RESERVED.name));
        }
        let (section_count, link_count) = (S_SECTION_COUNT.u32(header), S_LINK_COUNT.u32(header) as usize);
        let entries_at = SUNK_HEADER_BYTES + link_count.min(SINK_LINKS_MAX) * LINK_BYTES;
        let links = bytes.get(SUNK_HEADER_BYTES..entries_at).ok_or(wrong(S_LINK_COUNT.name))?;
        let links = links.as_chunks::<LINK_BYTES>().0.iter().map(ColdLink::decode);
        let links: Box<[ColdLink]> = links.collect::<Result<_, _>>().map_err(|field| wrong(field.name))?;
        if links.is_empty() || links.len() != link_count {
            return Err(wrong(S_LINK_COUNT.name));
        }
        let mut places: Vec<Place> = links.iter().map(Place::of).collect();
        let (mut sections, mut at) = (Vec::<SunkSection>::new(), entries_at);
        let (mut data_from, mut records) = (0u64, 0u64);
        while at < bytes.len() {
            let entry = Corrupt { at: at as u64, ..wrong("entry") };
            let before = sections.last().map(|section| section.bucket);
            let (mut section, next) = take(bytes, at, before).ok_or(entry)?;
            let place = places.get_mut(section.link as usize).ok_or(entry)?;
            section.data_from = data_from;
            (section.offset, section.number) = place.next(&section, &links).ok_or(entry)?;
            data_from = data_from.checked_add(u64::from(section.data_bytes)).ok_or(entry)?;
            records += u64::from(section.record_count);
            sections.push(section);
            at = next;
        }
        let is_full = places.iter().all(Place::is_full);
        if sections.len() as u64 != u64::from(section_count) || sections.is_empty() || !is_full {
            return Err(wrong(S_SECTION_COUNT.name));
        }
        if data_from != data_bytes || records != record_count {
            return Err(wrong("entry"));
        }
        Ok(SunkSections { generation: S_GENERATION.u32(header), links, sections: sections.into() })
    }

    /// All of them, buckets ascending.
    #[must_use]
    pub fn sections(&self) -> &[SunkSection] {
        &self.sections
    }

    /// Where they stand, in the order in which that was reserved.
    #[must_use]
    pub fn links(&self) -> &[ColdLink] {
        &self.links
    }

    /// The section whose data a data offset lies in.
    #[must_use]
    pub fn at(&self, data_offset: u64) -> Option<(&SunkSection, &ColdLink)> {
        let place = self.sections.partition_point(|section| section.data_from <= data_offset);
        let section = self.sections.get(place.checked_sub(1)?)?;
        let is_inside = data_offset - section.data_from < u64::from(section.data_bytes);
        is_inside.then(|| (section, &self.links[section.link as usize]))
    }

    /// Memory that they take, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.links.len() * size_of::<ColdLink>() + self.sections.len() * size_of::<SunkSection>()
    }
}

/// How far the sections of a link have come.
struct Place {
    link: ColdLink,
    bytes: u64,
    count: u32,
}

impl Place {
    fn of(link: &ColdLink) -> Place {
        Place { link: *link, bytes: 0, count: 0 }
    }

    /// Where the next section stands; `None` when the link has no room for it.
    fn next(&mut self, section: &SunkSection, links: &[ColdLink]) -> Option<(u32, u32)> {
        let link = links.get(section.link as usize)?;
        let is_first = self.count > 0 || link.bucket == section.bucket;
        let offset = u32::try_from(u64::from(link.offset) + self.bytes).ok()?;
        let number = link.number.checked_add(self.count)?;
        self.bytes += section.bytes();
        self.count += 1;
        let fits = self.bytes <= u64::from(link.content_bytes) && self.count <= link.section_count;
        (is_first && fits).then_some((offset, number))
    }

    fn is_full(&self) -> bool {
        self.bytes == u64::from(self.link.content_bytes) && self.count == self.link.section_count
    }
}

/// The section at `at`, and the place behind it; where it stands is not known yet.
fn take(bytes: &[u8], at: usize, before: Option<BucketIndex>) -> Option<(SunkSection, usize)> {
    let (mut numbers, mut at) = ([0; 5], at);
    for number in &mut numbers {
        (*number, at) = varint::take(bytes, at)?;
    }
    let next = at + DIGEST_BYTES;
    let digest = u128::from_le_bytes(bytes.get(at..next)?.try_into().ok()?);
    let small = |number: u64| u32::try_from(number).ok();
    let [bucket, link, data_bytes, index_bytes, record_count] = numbers.map(small);
    let bucket = before.map_or(0, BucketIndex::get).checked_add(bucket?)?;
    let section = SunkSection {
        bucket: BucketIndex::new(bucket).filter(|bucket| before.is_none_or(|before| *bucket > before))?,
        link: link?,
        data_from: 0,
        data_bytes: data_bytes.filter(|bytes| *bytes > 0)?,
        index_bytes: index_bytes.filter(|bytes| *bytes > 0)?,
        offset: 0,
        number: 0,
        record_count: record_count.filter(|count| *count > 0)?,
        digest,
    };
    Some((section, next))
}

/// A section of a table that is being written.
struct Entry {
    bucket: BucketIndex,
    link: Option<u32>,
    data_bytes: u32,
    index_bytes: u32,
    record_count: u32,
    digest: u128,
}

/// Writes a sunk table: records and sections in order, links as they come.
pub struct SunkWriter {
    identity: TableIdentity,
    generation: u32,
    level: i32,
    index: IndexBuilder,
    filter: FilterBuilder,
    entries: Vec<Entry>,
    links: Vec<ColdLink>,
    footer: Footer,
}

impl SunkWriter {
    /// Of a window that is sunk with this generation. `identity` is that of a sunk table; index and sections are compressed at `level`.
    #[must_use]
    pub fn new(identity: TableIdentity, generation: u32, level: i32) -> SunkWriter {
        assert!(matches!(identity, TableIdentity::Sunk { .. }), "a sunk table has its own identity");
        let footer = Footer { is_sunk: true, ..Footer::empty(COLD_BLOCK_BYTES as u32, 0) };
        SunkWriter {
            identity,
            generation,
            level,
            index: IndexBuilder::default(),
            filter: FilterBuilder::new(),
            entries: Vec::new(),
            links: Vec::new(),
            footer,
        }
    }

    /// The next record of the table, which its section has.
    pub fn record(&mut self, key: &[u8], version: Version, expiry_us: u64, value: Option<&[u8]>) {
        self.filter.add(key_hash(key));
        self.footer.add(key_time(key), LogIndex(version.0 >> 16), expiry_us, value.is_none());
    }

    /// The next section, whose records were shown before: its place among the sections.
    pub fn section(&mut self, section: &MadeSection) -> usize {
        if self.entries.is_empty() {
            self.index.first_key(section.first_key());
        }
        let base = self.footer.data_bytes;
        for (separator, handle) in section.blocks() {
            self.index.push(separator, BlockHandle { offset: base + handle.offset, ..*handle });
            self.footer.block_count += 1;
        }
        self.footer.raw_bytes += section.raw_bytes;
        self.footer.data_bytes += u64::from(section.data_bytes);
        self.entries.push(Entry {
            bucket: section.identity.bucket,
            link: None,
            data_bytes: section.data_bytes,
            index_bytes: section.index_bytes,
            record_count: section.record_count,
            digest: section.digest,
        });
        self.entries.len() - 1
    }

    /// These sections, in order, stand there.
    pub fn link(&mut self, sections: &[usize], link: ColdLink) {
        let number = u32::try_from(self.links.len()).expect("links are bounded");
        sections.iter().for_each(|section| self.entries[*section].link = Some(number));
        self.links.push(link);
    }

    /// Links so far.
    #[must_use]
    pub fn links(&self) -> &[ColdLink] {
        &self.links
    }

    /// Sections that no link names yet.
    #[must_use]
    pub fn unlinked_count(&self) -> usize {
        self.entries.iter().filter(|entry| entry.link.is_none()).count()
    }

    /// Does a part of the work of ending the table, as long as a block takes. False when there is none left.
    pub fn step(&mut self) -> bool {
        self.filter.step()
    }

    /// The table's bytes. A table without sections, or one of which no link says where it stands, is our own bug.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, TableSummary) {
        assert!(!self.entries.is_empty() && self.unlinked_count() == 0, "every section stands somewhere");
        let mut header = [0; SUNK_HEADER_BYTES];
        let count = |count: usize| u32::try_from(count).expect("buckets are few").to_le_bytes();
        S_SECTION_COUNT.put(&mut header, count(self.entries.len()));
        S_LINK_COUNT.put(&mut header, count(self.links.len()));
        S_GENERATION.put(&mut header, self.generation.to_le_bytes());
        let mut sections = header.to_vec();
        self.links.iter().for_each(|link| sections.extend_from_slice(&link.encode()));
        let mut before = 0;
        for entry in &self.entries {
            let bucket = entry.bucket.get();
            let link = entry.link.unwrap_or_default();
            let numbers = [bucket - before, link, entry.data_bytes, entry.index_bytes, entry.record_count];
            numbers.into_iter().for_each(|number| varint::put(&mut sections, u64::from(number)));
            sections.extend_from_slice(&entry.digest.to_le_bytes());
            before = bucket;
        }
        let (mut footer, mut out) = (self.footer, Vec::new());
        let (checksum, mut compressor) = (BlockChecksum::new(&self.identity), Compressor::new());
        let mut part = |out: &mut Vec<u8>, kind, raw: &[u8], compression: Compression<'_>| {
            let start = out.len() as u64;
            seal_parts(&checksum, start, kind, raw, compression, &mut compressor, out);
            out.len() as u64 - start
        };
        let level = Compression::Level(self.level);
        footer.sections_bytes = part(&mut out, BlockKind::Sections, &sections, level);
        footer.index_bytes = part(&mut out, BlockKind::Index, &self.index.finish(), level);
        footer.filter_bytes = part(&mut out, BlockKind::Filter, &self.filter.finish(), Compression::None);
        let mut content = ContentChecksum::new();
        content.add(&out);
        footer.content_checksum = content.finish();
        let last = footer.encode(&self.identity);
        content.add(&last);
        out.extend_from_slice(&last);
        let summary = TableSummary { footer, bytes: out.len() as u64, checksum: content.finish() };
        (out, summary)
    }
}

/// Opens the list of sunk sections from its part, `footer.sections_bytes` from `footer.sections_offset()` on.
///
/// # Errors
/// [`Corrupt`].
pub fn open_sunk_sections(
    checksum: &BlockChecksum,
    footer: &Footer,
    part: &[u8],
    decompressor: &mut Decompressor,
) -> Result<SunkSections, Corrupt> {
    let raw = open_parts(checksum, footer.sections_offset(), BlockKind::Sections, part, decompressor)?;
    SunkSections::decode(&raw, footer.data_bytes, footer.record_count)
}

/// Which section it is on the cold disks; `None` when the table is not a sunk one, or its window is not made of days.
#[must_use]
pub fn section_identity(
    identity: &TableIdentity,
    generation: u32,
    bucket: BucketIndex,
) -> Option<SectionIdentity> {
    let TableIdentity::Sunk { cluster, window_from, window_to, .. } = *identity else { return None };
    let window_days = window_days(window_from, window_to)?;
    Some(SectionIdentity { cluster, bucket, window_from, window_days, window_generation: generation })
}

/// Length of a window in days; `None` when it is not made of days.
#[must_use]
pub fn window_days(from: u64, to: u64) -> Option<u32> {
    let length = to.checked_sub(from)?;
    u32::try_from(length / DAY_US).ok().filter(|_| length > 0 && length.is_multiple_of(DAY_US))
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 1] = [SUNK_SECTIONS_TABLE];

#[cfg(test)]
mod tests;
