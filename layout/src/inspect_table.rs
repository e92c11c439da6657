//! Text of tables and state blobs, for `thermocline inspect`, also of damaged ones.
//!
//! Owns what is shown of them. Must never stop where something else can still be read: a table whose footer is
//! whole shows each part, whatever the others are. Invariant: what a decoder refuses is marked wrong.

use crate::checksum::long;
use crate::field::{Corrupt, is_zero};
use crate::inspect::{Line, line, short_text, table_lines, wrong_line};
use crate::inspect_sunk;
use crate::table::{
    Block, BlockChecksum, BlockEntry, BlockKind, Cursor, Decompressor, Dictionary, FOOTER_BYTES, Footer,
    Form, Section, Sections, StoredBlock, TableIdentity, bucket_of_key, decode_key, open_block,
    open_dictionary, open_filter, open_index, open_sections,
};
use crate::table_check::{Disagreement, TableCheck};
use crate::table_footer::{FOOTER_TABLE, wrong_fields};
use crate::tablet_sink::TabletSink;
use crate::tablet_state::{StateIdentity, StateItem, StateReader};
use crate::tablet_window::TabletWindow;
use crate::units::BucketIndex;

/// The footer of a table of `table_bytes`.
#[must_use]
pub fn footer(identity: &TableIdentity, table_bytes: u64, bytes: &[u8]) -> Vec<Line> {
    let base = table_bytes.saturating_sub(FOOTER_BYTES as u64);
    let Some(bytes) = bytes.last_chunk::<FOOTER_BYTES>() else {
        return vec![Line {
            wrong: Some(format!("needs {FOOTER_BYTES} bytes")),
            ..line(base, FOOTER_TABLE.structure, short_text(bytes))
        }];
    };
    let wrong: Vec<_> = wrong_fields(identity, table_bytes, bytes).collect();
    table_lines(&FOOTER_TABLE, bytes, base, &wrong, &[])
}

/// How much of a table is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableShown {
    /// Extents of the device: behind what cannot be read, a block begins at a multiple of this again.
    pub extent_bytes: u64,
    /// Most records shown.
    pub records_max: u64,
}

/// A whole table: footer, sections, each block, and some records. Places are those in the table.
///
/// Without footer or index the blocks are found one behind the other, by their own headers.
#[must_use]
pub fn table(identity: &TableIdentity, bytes: &[u8], shown: TableShown) -> Vec<Line> {
    let total = bytes.len() as u64;
    let mut dump = Dump::new(identity, bytes, shown.records_max);
    let decoded = bytes.last_chunk().map(|footer| Footer::decode(identity, total, footer));
    let Some(Ok(found)) = decoded else {
        dump.walk(&bytes[..bytes.len().saturating_sub(FOOTER_BYTES)], shown.extent_bytes);
        return dump.lines;
    };
    if found.is_sunk {
        inspect_sunk::parts(&mut dump, identity, &found, bytes);
    } else {
        dump.parts(&found, bytes);
    }
    let content = long(&bytes[..bytes.len() - FOOTER_BYTES]);
    if content != found.content_checksum {
        let text = format!("expected {:032x}, found {content:032x}", found.content_checksum);
        let base = line(0, "content", format!("{} bytes", bytes.len() - FOOTER_BYTES));
        dump.lines.push(Line { wrong: Some(format!("checksum of the whole: {text}")), ..base });
    }
    dump.lines
}

/// What is wrong with a stored block that is not what should stand at `offset`: expected and found, as text.
#[must_use]
pub fn block_fault(checksum: &BlockChecksum, offset: u64, stored: &[u8], corrupt: &Corrupt) -> String {
    if is_zero(stored) {
        return "all zero".to_string();
    }
    let Corrupt { structure, field, .. } = corrupt;
    match StoredBlock::checksums(checksum, offset, stored) {
        Some((said, is)) if said != is => {
            format!("{structure}: checksum: expected {said:#010x}, found {is:#010x}")
        }
        Some(_) => format!("{structure}: field {field} is wrong under a right checksum"),
        None => format!("{structure}: field {field}: the block does not end where it should"),
    }
}

/// Text of a table, as it grows.
pub(crate) struct Dump {
    checksum: BlockChecksum,
    decompressor: Decompressor,
    dictionary: Option<Dictionary>,
    /// Only records of this bucket are shown, and only blocks that have some.
    pub(crate) bucket: Option<BucketIndex>,
    records_left: u64,
    pub(crate) lines: Vec<Line>,
}

impl Dump {
    /// The footer's text.
    pub(crate) fn new(identity: &TableIdentity, bytes: &[u8], records_max: u64) -> Dump {
        Dump {
            checksum: BlockChecksum::new(identity),
            decompressor: Decompressor::new(),
            dictionary: None,
            bucket: None,
            records_left: records_max,
            lines: footer(identity, bytes.len() as u64, bytes),
        }
    }

    pub(crate) fn wrong(&mut self, at: u64, name: &str, value: String, why: String) {
        self.lines.push(Line { wrong: Some(why), ..line(at, name, value) });
    }

    /// The list of sections of a table whose footer is right.
    pub(crate) fn sections(&mut self, footer: &Footer, bytes: &[u8]) -> Option<Sections> {
        let at = footer.sections_offset();
        let part = part_of(bytes, at, footer.sections_bytes);
        match open_sections(&self.checksum, footer, part, &mut self.decompressor) {
            Ok(sections) => sections,
            Err(corrupt) => {
                self.part_wrong(at, "sections", part, &corrupt);
                None
            }
        }
    }

    /// The dictionary of a table whose footer is right, for the blocks behind.
    pub(crate) fn dictionary(&mut self, footer: &Footer, bytes: &[u8]) {
        let at = footer.dictionary_offset();
        let part = part_of(bytes, at, footer.dictionary_bytes);
        match open_dictionary(&self.checksum, footer, part, &mut self.decompressor) {
            Ok(dictionary) => self.dictionary = dictionary,
            Err(corrupt) => return self.part_wrong(at, "dictionary", part, &corrupt),
        }
        if let Some(dictionary) = &self.dictionary {
            let text = format!("{} bytes, {} in memory", part.len(), dictionary.memory_bytes());
            self.lines.push(line(at, "dictionary", text));
        }
    }

    /// The parts of a table whose footer is right.
    fn parts(&mut self, footer: &Footer, bytes: &[u8]) {
        let section = |at: u64, length: u64| part_of(bytes, at, length);
        let sections = self.sections(footer, bytes);
        if let Some(sections) = &sections {
            let at = footer.sections_offset();
            self.lines.push(line(at, "sections", sections_text(sections, footer.sections_bytes)));
        }
        self.dictionary(footer, bytes);
        let at = footer.filter_offset();
        let part = section(at, footer.filter_bytes);
        let filter = open_filter(&self.checksum, footer, part, &mut self.decompressor);
        let filter = match filter {
            Ok(filter) => {
                let text = format!("{} bytes, {} keys", part.len(), filter.key_count());
                self.lines.push(line(at, "filter", text));
                Some(filter)
            }
            Err(corrupt) => {
                self.part_wrong(at, "filter", part, &corrupt);
                None
            }
        };
        let at = footer.index_offset();
        let part = section(at, footer.index_bytes);
        let index = match open_index(&self.checksum, footer, part, &mut self.decompressor) {
            Ok(index) => index,
            Err(corrupt) => {
                self.part_wrong(at, "index", part, &corrupt);
                return self.walk(section(0, footer.data_bytes), u64::from(footer.extent_bytes));
            }
        };
        let text = format!("{} bytes, {} blocks", part.len(), index.block_count());
        self.lines.push(line(at, "index", text));
        let mut check =
            TableCheck::new(None, footer, &index, filter.as_ref()).with_sections(sections.as_ref());
        for number in 0..index.block_count() {
            let Some(handle) = index.handle(number) else { continue };
            let stored = section(handle.offset, u64::from(handle.stored_bytes));
            let text = format!("{} bytes, {} records", handle.stored_bytes, handle.record_count);
            match self.block(handle.offset, stored, text) {
                Some(raw) => check.block(number, handle, &raw),
                None => check.skip(),
            }
        }
        for Disagreement { at, what, expected, found } in check.finish() {
            self.wrong(at, what, found, format!("expected {expected}"));
        }
    }

    pub(crate) fn part_wrong(&mut self, at: u64, name: &str, part: &[u8], corrupt: &Corrupt) {
        let fault = block_fault(&self.checksum, at, part, corrupt);
        let why = format!("{fault} ({corrupt})");
        self.wrong(at, name, format!("{} bytes", part.len()), why);
    }

    /// A stored data block and its records; its bytes before compression if they can be had.
    pub(crate) fn block(&mut self, offset: u64, stored: &[u8], text: String) -> Option<Vec<u8>> {
        let mut raw = Vec::new();
        let (dictionary, kind) = (self.dictionary.as_ref(), BlockKind::Data);
        match open_block(&self.checksum, offset, kind, stored, dictionary, &mut self.decompressor, &mut raw) {
            Ok(()) => {
                let records = block_lines(&raw, offset, self.bucket, &mut self.records_left);
                if self.bucket.is_none() || !records.is_empty() {
                    let form = StoredBlock::read(&self.checksum, offset, stored).map(|block| block.form);
                    let as_columns = if form == Ok(Form::Columns) { ", as columns" } else { "" };
                    self.lines.push(line(offset, "block", text + as_columns));
                }
                self.lines.extend(records);
                Some(raw)
            }
            Err(corrupt) => {
                let fault = block_fault(&self.checksum, offset, stored, &corrupt);
                self.wrong(offset, "block", text, fault);
                None
            }
        }
    }

    /// Blocks one behind the other, by their own headers.
    pub(crate) fn walk(&mut self, bytes: &[u8], extent_bytes: u64) {
        let extent = usize::try_from(extent_bytes.max(1)).unwrap_or(usize::MAX);
        if self.dictionary.is_none() {
            self.dictionary = self.dictionary_among(bytes, extent);
        }
        let mut at = 0;
        while at < bytes.len() {
            let offset = at as u64;
            match StoredBlock::read(&self.checksum, offset, &bytes[at..]) {
                Ok(block) => {
                    let stored = &bytes[at..at + block.stored_bytes()];
                    let text = format!("{} bytes, {:?}", stored.len(), block.kind);
                    if block.kind == BlockKind::Data {
                        self.block(offset, stored, text);
                    } else if self.bucket.is_none() {
                        self.lines.push(line(offset, "block", text));
                    }
                    at += stored.len();
                }
                Err(corrupt) => {
                    let end = (at + 1).next_multiple_of(extent).min(bytes.len());
                    let rest = &bytes[at..end];
                    let text = format!("{} bytes to the end of the extent", rest.len());
                    if is_zero(rest) {
                        self.lines.push(line(offset, "zero", text));
                    } else {
                        let fault = block_fault(&self.checksum, offset, rest, &corrupt);
                        self.wrong(offset, "no block", text, fault);
                    }
                    at = end;
                }
            }
        }
    }
}

impl Dump {
    /// The dictionary of a table of which nobody says where it stands: behind the blocks that need it.
    fn dictionary_among(&mut self, bytes: &[u8], extent: usize) -> Option<Dictionary> {
        let mut at = 0;
        while at < bytes.len() {
            let Ok(block) = StoredBlock::read(&self.checksum, at as u64, &bytes[at..]) else {
                at = (at + 1).next_multiple_of(extent);
                continue;
            };
            if block.kind == BlockKind::Dictionary {
                let mut raw = Vec::new();
                block.unpack(at as u64, None, &mut self.decompressor, &mut raw).ok()?;
                return Dictionary::new(&raw);
            }
            at += block.stored_bytes();
        }
        None
    }
}

/// A data block before compression, and up to `records_left` of its records. All of it is at `at`: where the block stands.
#[must_use]
pub fn raw_block(raw: &[u8], at: u64, records_left: &mut u64) -> Vec<Line> {
    block_lines(raw, at, None, records_left)
}

/// The same, of one bucket only if it is given.
fn block_lines(raw: &[u8], at: u64, only: Option<BucketIndex>, records_left: &mut u64) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut walk = || -> Result<(), Corrupt> {
        let block = Block::parse(raw)?;
        let mut cursor = Cursor::new();
        let mut found = *records_left > 0 && cursor.seek_first(&block)?;
        while found && *records_left > 0 {
            if let Some(entry) = cursor.entry(&block)?
                && (only.is_none() || bucket_of_key(entry.key) == only)
            {
                lines.push(line(at, "  record", entry_text(&entry)));
                *records_left -= 1;
            }
            found = cursor.next(&block)?;
        }
        block.check()
    };
    if let Err(Corrupt { structure, field, at: byte }) = walk() {
        let why = format!("field {field} at byte {byte} of the block before compression");
        lines.push(Line { wrong: Some(why), ..line(at, structure, "unreadable from here") });
    }
    lines
}

/// The bytes of a part of a table whose footer was checked against its length.
pub(crate) fn part_of(bytes: &[u8], at: u64, length: u64) -> &[u8] {
    &bytes[at as usize..(at + length) as usize]
}

fn sections_text(sections: &Sections, bytes: u64) -> String {
    let largest = sections.iter().max_by_key(|section| section.raw_bytes);
    let largest =
        largest.map_or_else(String::new, |section| format!(", the largest {}", section_text(&section)));
    format!("{bytes} bytes, {} sections{largest}", sections.section_count())
}

pub(crate) fn section_text(section: &Section) -> String {
    let Section { bucket, block, place, record_count, raw_bytes, digest } = section;
    format!(
        "of bucket {bucket}: {record_count} records, {raw_bytes} bytes, from place {place} of block {block}, digest {digest:032x}"
    )
}

fn entry_text(entry: &BlockEntry<'_>) -> String {
    let mut stream = [0; crate::units::STREAM_BYTES_MAX];
    let key = match decode_key(entry.key, &mut stream) {
        Ok(key) => format!(
            "bucket {} space {} stream \"{}\" time {}",
            key.bucket,
            key.space,
            stream[..key.stream_bytes].escape_ascii(),
            key.time
        ),
        Err(_) => format!("key {}", short_text(entry.key)),
    };
    let expiry = match entry.record.expiry_us {
        0 => String::new(),
        expiry => format!(" expiry {expiry}"),
    };
    let value = entry.record.value.map_or("tombstone".to_string(), short_text);
    format!("{key} version {}{expiry} {value}", entry.record.version)
}

/// A state blob: its tablets, and with `all` each request id and recent key.
#[must_use]
pub fn state(identity: &StateIdentity, bytes: &[u8], all: bool) -> Vec<Line> {
    let mut reader = StateReader::new(identity, bytes.len() as u64);
    let mut input = bytes;
    let mut lines = Vec::new();
    loop {
        let at = reader.at();
        match reader.next(&mut input) {
            Ok(Some(StateItem::Tablet(head))) => {
                let damage = match head.damage {
                    None => "no entry lost".to_string(),
                    Some((from, None)) => format!("lost from {from} on"),
                    Some((from, Some(to))) => format!("lost {from} to {to}"),
                };
                let text = format!(
                    "{} applied {} log time {} {damage} requests {} floor {} recent {} from {} to {} windows {} generation {}",
                    head.tablet,
                    head.applied,
                    head.log_time,
                    head.request_count,
                    head.request_floor,
                    head.recent_count,
                    head.recent_floor,
                    head.recent_newest,
                    head.window_count,
                    head.seal_generation
                );
                lines.push(line(at, "tablet", text));
            }
            Ok(Some(StateItem::Request(request))) if all => {
                let text = format!(
                    "{} at {} status {} version {}",
                    request.id, request.log_time, request.status, request.version
                );
                lines.push(line(at, "  request", text));
            }
            Ok(Some(StateItem::Recent(recent))) if all => {
                lines.push(line(at, "  recent", format!("{:032x} at {}", recent.key_hash, recent.log_index)));
            }
            Ok(Some(StateItem::Window(window))) => {
                let state = window.checksum.map_or("open".to_string(), |checksum| format!("{checksum:032x}"));
                let TabletWindow { from, to, generation, index, .. } = window;
                let text = format!("{from} to {to} generation {generation} at entry {index}: {state}");
                lines.push(line(at, "  window", text));
            }
            Ok(Some(StateItem::Sink(sink))) => {
                let TabletSink { from, to, generation, seal_generation, .. } = sink;
                let state = sink.sunk.map_or("open".to_string(), |checksum| format!("{checksum:032x}"));
                let text =
                    format!("{from} to {to} generation {generation} of seal {seal_generation}: {state}");
                lines.push(line(at, "  sink", text));
            }
            Ok(Some(StateItem::Link(link))) => {
                lines.push(line(at, "    link", inspect_sunk::link_text(&link)));
            }
            Ok(Some(StateItem::End { checksum })) => {
                lines.push(line(at, "checksum", format!("{checksum:032x}")));
                return lines;
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                let cut = line(at, "state blob", "ends here");
                lines.push(Line { wrong: Some("the blob is cut".to_string()), ..cut });
                return lines;
            }
            Err(corrupt) => {
                lines.push(wrong_line(corrupt));
                return lines;
            }
        }
    }
}
