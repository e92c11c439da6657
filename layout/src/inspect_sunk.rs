//! Text of a sunk table, for `thermocline inspect`, also of a damaged one: where its sections stand, and what finds their blocks.
//!
//! Owns what is shown of it. Must never look for records in it: they stand on cold disks. Invariant: what a decoder refuses is marked
//! wrong.

use crate::inspect::line;
use crate::inspect_table::{Dump, part_of};
use crate::table::{BlockChecksum, Decompressor, Footer, TableIdentity, open_filter, open_index};
use crate::table_sunk::{SunkSection, SunkSections, open_sunk_sections};
use crate::tablet_sink::ColdLink;
use crate::units::BucketIndex;

/// The parts of a sunk table whose footer is right.
pub(crate) fn parts(dump: &mut Dump, identity: &TableIdentity, footer: &Footer, bytes: &[u8]) {
    let checksum = BlockChecksum::new(identity);
    if let Some(sections) = sections(dump, identity, footer, bytes) {
        let (count, links) = (sections.sections().len(), sections.links().len());
        let text = format!("{count} sections on {links} links, sunk with generation {}", sections.generation);
        dump.lines.push(line(footer.sections_offset(), "sections", text));
        for link in sections.links() {
            dump.lines.push(line(footer.sections_offset(), "  link", link_text(link)));
        }
    }
    let at = footer.index_offset();
    let part = part_of(bytes, at, footer.index_bytes);
    match open_index(&checksum, footer, part, &mut Decompressor::new()) {
        Ok(index) => {
            let text = format!("{} bytes, {} blocks on cold disks", part.len(), index.block_count());
            dump.lines.push(line(at, "index", text));
        }
        Err(corrupt) => dump.part_wrong(at, "index", part, &corrupt),
    }
    let at = footer.filter_offset();
    let part = part_of(bytes, at, footer.filter_bytes);
    match open_filter(&checksum, footer, part, &mut Decompressor::new()) {
        Ok(filter) => {
            dump.lines.push(line(at, "filter", format!("{} bytes, {} keys", part.len(), filter.key_count())));
        }
        Err(corrupt) => dump.part_wrong(at, "filter", part, &corrupt),
    }
}

/// The section of a bucket in a sunk table whose footer is right.
pub(crate) fn section(
    dump: &mut Dump,
    identity: &TableIdentity,
    footer: &Footer,
    bytes: &[u8],
    bucket: BucketIndex,
) {
    let Some(sections) = sections(dump, identity, footer, bytes) else { return };
    let found = sections.sections().iter().find(|section| section.bucket == bucket);
    let text = found.map_or_else(
        || format!("none of bucket {bucket}"),
        |section| section_text(section, &sections.links()[section.link as usize]),
    );
    dump.lines.push(line(footer.sections_offset(), "section", text));
}

fn sections(
    dump: &mut Dump,
    identity: &TableIdentity,
    footer: &Footer,
    bytes: &[u8],
) -> Option<SunkSections> {
    let at = footer.sections_offset();
    let part = part_of(bytes, at, footer.sections_bytes);
    let opened = open_sunk_sections(&BlockChecksum::new(identity), footer, part, &mut Decompressor::new());
    opened.map_err(|corrupt| dump.part_wrong(at, "sections", part, &corrupt)).ok()
}

pub(crate) fn link_text(link: &ColdLink) -> String {
    format!(
        "{} sections from bucket {} on: group {} disk {} file {} generation {} offset {}, {} bytes, from number {} on",
        link.section_count,
        link.bucket,
        link.group,
        link.disk,
        link.file,
        link.file_generation,
        link.offset,
        link.content_bytes,
        link.number
    )
}

fn section_text(section: &SunkSection, link: &ColdLink) -> String {
    format!(
        "of bucket {}: {} records, {} bytes on group {} disk {} file {} generation {} offset {}, number {}, digest {:032x}",
        section.bucket,
        section.record_count,
        section.bytes(),
        link.group,
        link.disk,
        link.file,
        link.file_generation,
        section.offset,
        section.number,
        section.digest
    )
}
