//! Text of a manifest, for `thermocline inspect`, also of a damaged one: records and their edits.
//!
//! Owns what is shown of it. Must never stop at damage: the edits of a record that fails its checksum are shown as far as
//! they can be read, and marked. Which half is in force this file does not say: who reads all four does.

use crate::inspect::{Line, frame_line, line, table_lines, wrong_line};
use crate::journal_frame::{FRAME_BYTES, FRAME_HEADER_BYTES, Frame, FrameChecksum, JournalIdentity};
use crate::journal_record::{BLOCK_FRAMES, RECORD_HEADER_BYTES};
use crate::manifest::{AddTable, Edit, EditIter, Extents};
use crate::manifest_record::{MANIFEST_RECORD_MAGIC, MANIFEST_RECORD_TABLE, ManifestHeader, ManifestKind};
use crate::units::{DiskOffset, Incarnation, Sequence};

/// A half of a manifest copy that was read at `offset`: records with their edits, and what stands between them.
///
/// `twin` is where the same half of the other copy stands: what was written for there is good here, too.
#[must_use]
pub fn manifest(identity: JournalIdentity, offset: DiskOffset, twin: DiskOffset, bytes: &[u8]) -> Vec<Line> {
    let checksum = FrameChecksum::manifest(identity);
    let (frames, rest) = bytes.as_chunks::<FRAME_BYTES>();
    let place = |from: DiskOffset, index: usize| from.0.saturating_add((index * FRAME_BYTES) as u64);
    let class = |index: usize| match checksum.classify(DiskOffset(place(offset, index)), &frames[index]) {
        Frame::Bad => checksum.classify(DiskOffset(place(twin, index)), &frames[index]),
        sorted => sorted,
    };
    let classes: Vec<Frame> = (0..frames.len()).map(class).collect();
    let begins = |index: usize| {
        index.is_multiple_of(BLOCK_FRAMES)
            && frames[index][FRAME_HEADER_BYTES..].starts_with(&MANIFEST_RECORD_MAGIC)
    };
    let mut lines = Vec::new();
    let mut index = 0;
    while index < frames.len() {
        if begins(index) {
            let (shown, count) =
                record(DiskOffset(place(offset, index)), &frames[index..], &classes[index..]);
            lines.extend(shown);
            index += count;
            continue;
        }
        let same = |next: &usize| classes[*next] == classes[index] && !begins(*next);
        let run = 1 + (index + 1..frames.len()).take_while(same).count();
        lines.push(frame_line(place(offset, index), classes[index], run));
        index += run;
    }
    if !rest.is_empty() {
        let cut = line(place(offset, frames.len()), "frame", format!("{} bytes", rest.len()));
        lines.push(Line { wrong: Some("cut".to_string()), ..cut });
    }
    lines
}

/// The record that begins with the first of `frames`, and how many frames it takes.
fn record(at: DiskOffset, frames: &[[u8; FRAME_BYTES]], classes: &[Frame]) -> (Vec<Line>, usize) {
    let payload_at = at.plus(FRAME_HEADER_BYTES as u64);
    let payload = &frames[0][FRAME_HEADER_BYTES..];
    // Of a frame that fails its checksum what it says of itself is shown, too.
    let (incarnation, sequence) = match classes[0] {
        Frame::Valid { incarnation, sequence } => (incarnation, sequence),
        Frame::Zero | Frame::Bad => Frame::said(&frames[0]),
    };
    let decoded = ManifestHeader::decode(incarnation, sequence, payload, payload_at);
    let mut lines = vec![line(at.0, "record", title(incarnation, sequence, decoded.as_ref().ok()))];
    let header = match decoded {
        Ok(header) if header.frame_count as usize <= frames.len() => header,
        decoded => {
            let named = decoded.err().map(|corrupt| corrupt.field);
            let wrong: Vec<_> = MANIFEST_RECORD_TABLE
                .fields
                .iter()
                .filter(|field| Some(field.name) == named)
                .copied()
                .collect();
            let fields = table_lines(&MANIFEST_RECORD_TABLE, payload, payload_at.0, &wrong, &[]);
            lines.extend(fields.into_iter().map(|line| Line { name: format!("  {}", line.name), ..line }));
            lines[0].wrong = Some("its header cannot be right".to_string());
            lines.push(frame_line(at.0, classes[0], 1));
            return (lines, 1);
        }
    };
    let count = header.frame_count as usize;
    let own = Frame::Valid { incarnation, sequence };
    let others: Vec<String> = (0..count)
        .filter(|&index| classes[index] != own)
        .map(|index| other(at, index, classes[index]))
        .collect();
    if !others.is_empty() {
        lines[0].wrong =
            Some(format!("of its {count} frames {} are not: {}", others.len(), others.join(", ")));
    }
    let mut body = Vec::new();
    if let Err(corrupt) = header.body(frames[..count].as_flattened(), at, &mut body) {
        lines.push(wrong_line(corrupt));
        body = salvage(&frames[..count], header.body_bytes as usize);
    }
    lines.extend(edits(&body));
    (lines, count)
}

fn title(incarnation: Incarnation, sequence: Sequence, header: Option<&ManifestHeader>) -> String {
    let kind = match header.map(|header| header.kind) {
        Some(ManifestKind::Snapshot { part, last }) => {
            format!("snapshot, part {part}{}", if last { ", the last" } else { "" })
        }
        Some(ManifestKind::Edit { snapshot }) => format!("edit of snapshot {snapshot}"),
        None => "of no kind".to_string(),
    };
    let bytes = header.map_or(0, ManifestHeader::record_bytes);
    format!("sequence {sequence}, incarnation {incarnation}, {kind}, {bytes} bytes")
}

fn other(at: DiskOffset, index: usize, class: Frame) -> String {
    let place = at.plus((index * FRAME_BYTES) as u64);
    match class {
        Frame::Zero => format!("zero at {place}"),
        Frame::Bad => format!("bad at {place}"),
        Frame::Valid { sequence, .. } => format!("of sequence {sequence} at {place}"),
    }
}

/// The body as it stands, right or wrong.
fn salvage(frames: &[[u8; FRAME_BYTES]], body_bytes: usize) -> Vec<u8> {
    let payloads: Vec<u8> = frames.iter().flat_map(|frame| &frame[FRAME_HEADER_BYTES..]).copied().collect();
    payloads.into_iter().skip(RECORD_HEADER_BYTES).take(body_bytes).collect()
}

fn extents_text(extents: &Extents<'_>) -> String {
    let ranges: Vec<_> = extents.iter().map(|range| format!("{}+{}", range.first, range.count)).collect();
    ranges.join(" ")
}

/// Edits that stand back to back; places are those in `bytes`.
#[must_use]
pub fn edits(bytes: &[u8]) -> Vec<Line> {
    let mut walk = EditIter::new(bytes);
    let mut lines = Vec::new();
    loop {
        let at = walk.at();
        match walk.next() {
            None => return lines,
            Some(Ok(edit)) => lines.push(line(at, "  edit", edit_text(&edit))),
            Some(Err(corrupt)) => lines.push(wrong_line(corrupt)),
        }
    }
}

fn edit_text(edit: &Edit<'_>) -> String {
    match edit {
        Edit::AddTable(AddTable { table, tablet, kind, level, extents, bytes, record_count, .. }) => format!(
            "add table {table} of tablet {tablet}: {kind:?}, level {level}, {record_count} records, {bytes} bytes in extents {}",
            extents_text(extents)
        ),
        Edit::RemoveTable(table) => format!("remove table {table}"),
        Edit::SetState(state) => format!(
            "set state {}: {} bytes in extents {}",
            state.blob,
            state.bytes,
            extents_text(&state.extents)
        ),
        Edit::SetJournalStart(start) => format!(
            "set journal start {}: sequence {}, incarnation {}",
            start.at, start.sequence, start.incarnation
        ),
        Edit::SetNextTableId(table) => format!("set next table id {table}"),
    }
}
