//! Text of one section of a table, for `thermocline inspect`, also of a damaged one.
//!
//! Owns what is shown of it. Must never stop where something else can still be read: without footer, index or list of
//! sections the records of the bucket are looked for in every block. Invariant: what a decoder refuses is marked wrong.

use crate::field::Corrupt;
use crate::inspect::{Line, line};
use crate::inspect_sunk;
use crate::inspect_table::{Dump, TableShown, part_of, section_text};
use crate::table::{
    Block, BlockChecksum, Decompressor, FOOTER_BYTES, Footer, Index, Section, SectionReader, TableIdentity,
    open_index,
};
use crate::units::BucketIndex;

/// The section of a bucket in a table, the blocks that it lies in and its records, if its digest is theirs.
#[must_use]
pub fn section(identity: &TableIdentity, bytes: &[u8], bucket: BucketIndex, shown: TableShown) -> Vec<Line> {
    let mut dump = Dump::new(identity, bytes, shown.records_max);
    dump.bucket = Some(bucket);
    let total = bytes.len() as u64;
    let Some(Ok(footer)) = bytes.last_chunk().map(|footer| Footer::decode(identity, total, footer)) else {
        dump.walk(&bytes[..bytes.len().saturating_sub(FOOTER_BYTES)], shown.extent_bytes);
        return dump.lines;
    };
    // Its fields are those of the table: `inspect table` shows them.
    dump.lines.clear();
    if footer.is_sunk {
        inspect_sunk::section(&mut dump, identity, &footer, bytes, bucket);
        return dump.lines;
    }
    let at = footer.sections_offset();
    let sections = dump.sections(&footer, bytes);
    let found = sections.as_ref().and_then(|sections| sections.find(bucket));
    match found {
        Some(section) => dump.lines.push(line(at, "section", section_text(&section))),
        None if sections.is_some() => {
            dump.lines.push(line(at, "section", format!("none of bucket {bucket}")));
        }
        None => {}
    }
    dump.dictionary(&footer, bytes);
    let index_at = footer.index_offset();
    let part = part_of(bytes, index_at, footer.index_bytes);
    match open_index(&BlockChecksum::new(identity), &footer, part, &mut Decompressor::new()) {
        Ok(index) => blocks(&mut dump, bytes, &index, bucket, found),
        Err(corrupt) => {
            dump.part_wrong(index_at, "index", part, &corrupt);
            dump.walk(part_of(bytes, 0, footer.data_bytes), u64::from(footer.extent_bytes));
        }
    }
    dump.lines
}

/// The blocks that can have records of the bucket, by the index.
fn blocks(dump: &mut Dump, bytes: &[u8], index: &Index, bucket: BucketIndex, found: Option<Section>) {
    let end = index.block_count() - 1;
    // The block of the next bucket may begin with records of this one.
    let block_of = |bucket: u32| index.find(&bucket.to_be_bytes()[1..]).map_or(end, |(number, _)| number);
    let (first, last) = (block_of(bucket.get()), block_of(bucket.get() + 1));
    let mut reader = found.map(SectionReader::new);
    let mut wrong: Option<Corrupt> = None;
    for number in first..=last {
        let Some(handle) = index.handle(number) else { continue };
        let stored = part_of(bytes, handle.offset, u64::from(handle.stored_bytes));
        let text = format!("number {number}, {} bytes, {} records", handle.stored_bytes, handle.record_count);
        let raw = dump.block(handle.offset, stored, text);
        let is_wanted = reader.as_ref().is_some_and(|reader| reader.wanted() == Some(number));
        let taken = match (raw, &mut reader) {
            (Some(raw), Some(reader)) if is_wanted => {
                Block::parse(&raw).and_then(|block| reader.block(&block, |_| {}))
            }
            _ => Ok(()),
        };
        wrong = wrong.or(taken.err());
    }
    let Some(reader) = reader else { return };
    let wrong = wrong.or(reader.finish().err());
    if let Some(Corrupt { field, .. }) = wrong {
        let why = format!("its {field} is not that of the records");
        dump.wrong(0, "section", format!("of bucket {bucket}"), why);
    }
}
