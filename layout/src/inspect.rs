//! Text of every structure, for `thermocline inspect`, also of damaged bytes.
//!
//! Owns how a field is shown. Must never stop at the first error: a wrong field is marked and the
//! rest is shown, because who looks at a damaged device wants to know what is left. Invariant: a
//! structure that its decoder accepts has no line marked wrong, one that it refuses has at least one.

use std::fmt;

use crate::field::{Corrupt, Field, Table, is_zero};
use crate::journal_frame::{FRAME_BYTES, FRAME_HEADER_BYTES, Frame, FrameChecksum, JournalIdentity};
use crate::journal_record::{
    RECORD_HEADER_BYTES, RECORD_MAGIC, RECORD_TABLE, RecordHeader, RecordKind, read_record,
};
use crate::log_entry::{Entry, EntryIter, Operation, Write};
use crate::log_item::{Item, ItemIter};
use crate::operation::Change;
use crate::sink_operation::{Sink, SinkBegin};
use crate::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_TABLE, Superblock};
use crate::tip::{TIP_BYTES, TipIter};
use crate::units::{DiskOffset, TABLET_COUNT};
use crate::version_cell::Row;
use crate::version_file::{self, HEADER_BYTES, HEADER_TABLE, TabletState};

/// One line of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where the field starts: on the device, in the file, or in the record's body.
    pub at: u64,
    /// Field or structure.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub wrong: Option<String>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>14}  {:<22} {}", self.at, self.name, self.value)?;
        match &self.wrong {
            Some(why) => write!(f, "  <- WRONG: {why}"),
            None => Ok(()),
        }
    }
}

pub(crate) fn line(at: u64, name: impl Into<String>, value: impl Into<String>) -> Line {
    Line { at, name: name.into(), value: value.into(), wrong: None }
}

pub(crate) fn wrong_line(corrupt: Corrupt) -> Line {
    Line {
        at: corrupt.at,
        name: corrupt.structure.to_string(),
        value: "unreadable from here".to_string(),
        wrong: Some(format!("field {}", corrupt.field)),
    }
}

/// The lines of a fixed structure; fields that fail their check are marked.
pub(crate) fn table_lines(
    table: &Table,
    bytes: &[u8],
    base: u64,
    wrong: &[Field],
    skip: &[&str],
) -> Vec<Line> {
    let shown = table.fields.iter().filter(|field| !skip.contains(&field.name));
    shown
        .map(|field| {
            let place = field.slice(bytes);
            let mut line = line(base.saturating_add(field.offset as u64), field.name, value_text(place));
            if wrong.contains(field) {
                line.wrong = Some("not what this field can be here".to_string());
            }
            line
        })
        .collect()
}

/// Numbers as numbers, magics as text, identities as uuid, long fields as their first bytes.
fn value_text(bytes: &[u8]) -> String {
    let number = || bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    match bytes.len() {
        4 | 8 if bytes.iter().all(u8::is_ascii_uppercase) => format!("\"{}\"", bytes.escape_ascii()),
        1..=8 => {
            let number = number();
            if number < 10 { format!("{number}") } else { format!("{number} (0x{number:x})") }
        }
        16 => {
            let mut uuid = [0; 16];
            uuid.copy_from_slice(bytes);
            crate::units::Uuid(uuid).to_string()
        }
        _ if is_zero(bytes) => format!("{} bytes of zero", bytes.len()),
        _ => short_text(bytes),
    }
}

/// Length and the first bytes, printable.
pub(crate) fn short_text(bytes: &[u8]) -> String {
    const SHOWN: usize = 32;
    let dots = if bytes.len() > SHOWN { ".." } else { "" };
    format!("{} bytes \"{}{dots}\"", bytes.len(), bytes[..bytes.len().min(SHOWN)].escape_ascii())
}

/// The error of bytes that are shorter than the structure.
pub(crate) fn short_lines(table: &Table, bytes: &[u8], at: u64) -> Vec<Line> {
    vec![Line {
        at,
        name: table.structure.to_string(),
        value: short_text(bytes),
        wrong: Some(format!("needs {} bytes", table.bytes)),
    }]
}

/// A superblock copy that was read at `offset`.
#[must_use]
pub fn superblock(bytes: &[u8], offset: DiskOffset) -> Vec<Line> {
    let Some(block) = bytes.first_chunk::<SUPERBLOCK_BYTES>() else {
        return short_lines(&SUPERBLOCK_TABLE, bytes, offset.0);
    };
    let superblock = Superblock::parse(block);
    let wrong: Vec<Field> = superblock.wrong_fields(block, offset).collect();
    let mut lines = table_lines(&SUPERBLOCK_TABLE, block, offset.0, &wrong, &["zones"]);
    let zones = SUPERBLOCK_TABLE.fields.iter().find(|field| field.name == "zones");
    let zones_at = offset.0.saturating_add(zones.map_or(0, |field| field.offset as u64));
    let zones_wrong = wrong.iter().any(|field| Some(field) == zones);
    for (shard, zones) in superblock.zones.iter().enumerate() {
        if shard < usize::from(superblock.shard_count) || *zones != Default::default() {
            let text = format!(
                "journal {} + {}, tables {} + {}",
                zones.journal.offset, zones.journal.bytes, zones.tables.offset, zones.tables.bytes
            );
            lines.push(line(zones_at.saturating_add(shard as u64 * 32), format!("zones[{shard}]"), text));
        }
    }
    if zones_wrong {
        lines.push(Line {
            at: zones_at,
            name: "zones".to_string(),
            value: format!("{} shards", superblock.shard_count),
            wrong: Some("zones overlap, leave the device, or are not whole segments".to_string()),
        });
    }
    lines
}

/// A part of a journal that was read at `offset`, a multiple of 512: frames, records, entries.
///
/// Runs of frames of one class are one line. A record that cannot be read as a whole is shown by its
/// header and frames.
#[must_use]
pub fn journal(identity: JournalIdentity, offset: DiskOffset, bytes: &[u8]) -> Vec<Line> {
    let checksum = FrameChecksum::new(identity);
    let (frames, rest) = bytes.as_chunks::<FRAME_BYTES>();
    let place = |index: usize| offset.0.saturating_add((index * FRAME_BYTES) as u64);
    let class = |index: usize| checksum.classify(DiskOffset(place(index)), &frames[index]);
    let mut lines = Vec::new();
    let mut body = Vec::new();
    let mut index = 0;
    while index < frames.len() {
        let this = class(index);
        if let Frame::Valid { incarnation, sequence } = this {
            let payload = &frames[index][FRAME_HEADER_BYTES..];
            if payload.starts_with(&RECORD_MAGIC) {
                let at = DiskOffset(place(index));
                let payload_at = DiskOffset(at.0.saturating_add(FRAME_HEADER_BYTES as u64));
                lines.push(line(at.0, "record", format!("sequence {sequence}, incarnation {incarnation}")));
                let header = RecordHeader::decode(incarnation, sequence, payload, payload_at);
                lines.extend(record_header_lines(payload, payload_at, header.err()));
                match read_record(identity, at, frames[index..].as_flattened(), &mut body) {
                    Ok(header) => {
                        lines.extend(match header.fields.kind {
                            RecordKind::Open | RecordKind::Mark => tips(&body),
                            RecordKind::Entries => entries(&body),
                            RecordKind::Items => items(&body),
                        });
                        index += header.frame_count as usize;
                        continue;
                    }
                    Err(corrupt) => lines.push(wrong_line(corrupt)),
                }
            }
        }
        let run = (index + 1..frames.len())
            .take_while(|&next| {
                class(next) == this && !frames[next][FRAME_HEADER_BYTES..].starts_with(&RECORD_MAGIC)
            })
            .count();
        lines.push(frame_line(place(index), this, run + 1));
        index += run + 1;
    }
    if !rest.is_empty() {
        lines.extend(short_lines(&crate::journal_frame::FRAME_TABLE, rest, place(frames.len())));
    }
    lines
}

pub(crate) fn frame_line(at: u64, class: Frame, count: usize) -> Line {
    let name = if count == 1 { "frame".to_string() } else { format!("{count} frames") };
    match class {
        Frame::Zero => line(at, name, "zero"),
        Frame::Bad => Line { wrong: Some("checksum".to_string()), ..line(at, name, "bad") },
        Frame::Valid { incarnation, sequence } => {
            line(at, name, format!("valid, sequence {sequence}, incarnation {incarnation}"))
        }
    }
}

fn record_header_lines(payload: &[u8], at: DiskOffset, corrupt: Option<Corrupt>) -> Vec<Line> {
    if payload.len() < RECORD_HEADER_BYTES {
        return short_lines(&RECORD_TABLE, payload, at.0);
    }
    let named = |field: &&Field| corrupt.is_some_and(|corrupt| corrupt.field == field.name);
    let wrong: Vec<Field> = RECORD_TABLE.fields.iter().filter(named).copied().collect();
    let mut lines = table_lines(&RECORD_TABLE, payload, at.0, &wrong, &[]);
    lines.iter_mut().for_each(|line| line.name.insert_str(0, "  "));
    lines
}

/// The tips of an open or mark record's body; places are those in the body.
#[must_use]
pub fn tips(body: &[u8]) -> Vec<Line> {
    let mut at = 0;
    let text = |tip: Result<_, Corrupt>| match tip {
        Ok((tablet, index)) => {
            let line = line(at, "  tip", format!("tablet {tablet} index {index}"));
            at += TIP_BYTES as u64;
            line
        }
        Err(corrupt) => wrong_line(corrupt),
    };
    TipIter::new(body).map(text).collect()
}

/// The entries and operations of a record's body; places are those in the body.
#[must_use]
pub fn entries(body: &[u8]) -> Vec<Line> {
    let mut lines = Vec::new();
    for entry in EntryIter::new(body) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(corrupt) => {
                lines.push(wrong_line(corrupt));
                break;
            }
        };
        entry_lines(&entry, &mut lines);
    }
    lines
}

fn entry_lines(entry: &Entry<'_>, lines: &mut Vec<Line>) {
    let header = entry.header;
    let text = format!(
        "tablet {} index {} stamp {} operations {} bytes {}",
        header.tablet, header.log_index, header.stamp, header.operation_count, header.body_bytes
    );
    let mut at = entry.body_at;
    lines.push(line(at - crate::log_entry::ENTRY_HEADER_BYTES as u64, "  entry", text));
    for operation in entry.operations() {
        match operation {
            Ok(operation) => {
                lines.push(line(at, "    operation", operation_text(&operation)));
                at += operation.encoded_bytes() as u64;
            }
            Err(corrupt) => lines.push(wrong_line(corrupt)),
        }
    }
}

/// Votes and chosen entries of a replica.
fn items(body: &[u8]) -> Vec<Line> {
    let mut lines = Vec::new();
    for item in ItemIter::new(body) {
        let (tablet, item) = match item {
            Ok(item) => item,
            Err(corrupt) => {
                lines.push(wrong_line(corrupt));
                break;
            }
        };
        let (text, entry) = match item {
            Item::Vote { applied, state, entry } => {
                let name = if state.voter { "vote" } else { "learner-only" };
                let (index, vote) = (state.open().0, state.vote);
                let applied = applied.index.0;
                (format!("tablet {tablet} {name} at index {index}, applied {applied}: {vote:?}"), entry)
            }
            Item::Chosen { chosen, entry } => (
                format!("tablet {tablet} chosen at index {}: {:?}", chosen.index.0, chosen.value),
                Some(entry),
            ),
        };
        lines.push(line(0, "  item", text));
        if let Some(entry) = entry {
            entry_lines(&entry, &mut lines);
        }
    }
    lines
}

fn sink_text(sink: &Sink<'_>) -> String {
    match sink {
        Sink::Begin(SinkBegin { generation, from, to, seal_generation, checksum, .. }) => {
            format!(
                "sink, generation {generation}: {from} to {to}, sealed {seal_generation}, {checksum:032x}"
            )
        }
        Sink::Sunk { generation, checksum, links } => {
            let count = links.iter().count();
            format!("sunk, generation {generation}: {checksum:032x}, {count} links")
        }
        Sink::GivenUp { generation } => format!("sink given up, generation {generation}"),
    }
}

fn operation_text(operation: &Operation<'_>) -> String {
    let Write { key, request, expiry_us, atomic_with_next, change } = match operation {
        Operation::Write(write) => write,
        Operation::Tick => return "tick".to_string(),
        Operation::Verify => return "verify".to_string(),
        Operation::Seal(seal) => {
            let spans: Vec<String> = seal.spans().map(|(from, to)| format!("{from} to {to}")).collect();
            return format!("seal, generation {}: {}", seal.generation, spans.join(", "));
        }
        Operation::Sealed(sealed) => {
            let tables: Vec<String> =
                sealed.tables().map(|table| format!("{:032x}", table.checksum)).collect();
            return format!("sealed, generation {}: {}", sealed.generation, tables.join(", "));
        }
        Operation::Sink(sink) => return sink_text(sink),
    };
    let value_text = |value: Option<&[u8]>| {
        value.map_or("delete".to_string(), |value| format!("value {}", short_text(value)))
    };
    let what = match change {
        Change::Put { value } => format!("put {}", value_text(Some(value))),
        Change::Delete => "delete".to_string(),
        Change::CompareAndSet { expected, observed, observed_index, observed_expiry_us, value } => format!(
            "compare-and-set expected {expected} observed {observed} at index {observed_index} expiring {observed_expiry_us} {}",
            value_text(*value)
        ),
    };
    let expiry = if *expiry_us == 0 { String::new() } else { format!(" expiry {expiry_us}") };
    let atomic = if *atomic_with_next { " atomic with next" } else { "" };
    format!(
        "{what}; space {} stream \"{}\" time {} request {request}{expiry}{atomic}",
        key.space,
        key.stream.escape_ascii(),
        key.time
    )
}

/// The header of a version file.
#[must_use]
pub fn version_header(bytes: &[u8]) -> Vec<Line> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return short_lines(&HEADER_TABLE, bytes, 0);
    };
    let wrong: Vec<Field> = version_file::wrong_fields(header).collect();
    let mut lines = table_lines(&HEADER_TABLE, header, 0, &wrong, &["tablets"]);
    for (tablet, state) in version_file::tablet_states(header).iter().enumerate().take(TABLET_COUNT) {
        if *state != TabletState::default() {
            let at = version_file::TABLETS_OFFSET + tablet * 16;
            let text = format!("coherent to index {}, generation {}", state.coherent_index, state.generation);
            lines.push(line(at as u64, format!("tablets[{tablet}]"), text));
        }
    }
    lines
}

/// A row of a version file, `row` being its number.
#[must_use]
pub fn version_row(row: u64, words: &Row) -> Vec<Line> {
    let at = HEADER_BYTES as u64 + row.saturating_mul(64);
    let mut lines = vec![line(at, format!("row {row}"), format!("{:016x?}", words.0))];
    match words.decode() {
        Ok(cells) => lines.extend(cells.iter().enumerate().map(|(position, cell)| {
            let text = format!("tag {:016x} version {}", cell.tag.get(), cell.version);
            line(at + 16 * position as u64, format!("  cell {position}"), text)
        })),
        Err(torn) => lines[0].wrong = Some(torn.to_string()),
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superblock::{copy_offset, tests::example};
    use crate::units::{LogIndex, TabletIndex};

    fn marked(lines: &[Line]) -> Vec<&str> {
        lines.iter().filter(|line| line.wrong.is_some()).map(|line| line.name.trim()).collect()
    }

    #[test]
    fn a_superblock_shows_every_field_and_marks_all_that_are_wrong() {
        let mut block = [0; SUPERBLOCK_BYTES];
        example(3).encode(1, &mut block);
        let lines = superblock(&block, copy_offset(1));
        assert_eq!(marked(&lines), [""; 0]);
        assert_eq!(lines.len(), SUPERBLOCK_TABLE.fields.len() - 1 + 64);
        assert!(lines[0].to_string().ends_with("magic                  \"TCLSUPER\""), "{}", lines[0]);
        block[70] = 200;
        block[72..76].fill(0);
        block[129] ^= 1;
        assert_eq!(
            marked(&superblock(&block, copy_offset(1))),
            ["shard_count", "generation", "checksum", "zones"]
        );
        assert_eq!(marked(&superblock(&block[..4000], copy_offset(1))), ["superblock"]);
    }

    #[test]
    fn tips_are_shown_with_their_place() {
        let tip = |tablet, index| crate::tip::encode(TabletIndex::new(tablet).unwrap(), LogIndex(index));
        let lines = tips(&[tip(3, 7), tip(2, 9)].concat());
        assert_eq!((lines[0].at, lines[0].value.as_str()), (0, "tablet 3 index 7"));
        assert_eq!((marked(&lines), lines[1].at), (vec!["tip"], 9));
    }

    #[test]
    fn a_row_shows_its_cells_or_that_it_is_torn() {
        assert_eq!(version_row(3, &Row::EMPTY).len(), 1);
        let torn = version_row(3, &Row([1; 8]));
        assert_eq!(torn[0].wrong.as_deref(), Some("torn version row"));
        assert_eq!(torn[0].at, 4096 + 192);
    }
}
