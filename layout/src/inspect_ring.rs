//! Text of a file of value rings, for `thermocline inspect values`, also of a damaged one.
//!
//! Must never believe an entry that the cache would not: what counts as one has its checksum and its place. Invariant: every byte
//! of a ring that was ever given out is counted once, as named, superseded, damaged or filling.

use std::collections::BTreeMap;

use crate::inspect::{Line, line, short_lines, short_text, table_lines};
use crate::value_entry::{ENTRY_HEAD_BYTES, Entry, Shape, UNIT_BYTES};
use crate::value_ring::{
    HEAD_MAX, LINE_SLOTS, RING_HEADER_BYTES, RING_HEADER_TABLE, RingGeometry, RingHeader, Slot, position_at,
    wrong_fields,
};

/// What stands in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainCounts {
    /// Bytes that it has given out, ever.
    pub head: u64,
    /// Bytes of its ring that were ever written.
    pub written_bytes: u64,
    /// Entries that a slot names: what a get finds.
    pub named_count: u64,
    /// Their bytes.
    pub named_bytes: u64,
    /// Of these, known absences.
    pub absent_count: u64,
    /// Of these, those read since they were written: they are written again before they are overwritten.
    pub touched_count: u64,
    /// Whole entries that no slot names any more, because a newer one of their key, or of their line, took it.
    pub superseded_count: u64,
    /// Their bytes.
    pub superseded_bytes: u64,
    /// Entries that say that they stand here, and whose checksum or bytes say otherwise.
    pub damaged_count: u64,
    /// Their bytes.
    pub damaged_bytes: u64,
    /// Ends of the ring that no entry fitted into, rests of what is half overwritten, and bytes that are no entry.
    pub filling_bytes: u64,
    /// Slots that are used.
    pub slot_count: u64,
    /// Of these, those that name no whole entry.
    pub stale_slot_count: u64,
}

/// The lines of a header, given what the file begins with. Heads that cannot be are marked; heads of 0 are left out.
#[must_use]
pub fn ring_header(bytes: &[u8]) -> Vec<Line> {
    let Some(header) = bytes.first_chunk::<RING_HEADER_BYTES>() else {
        return short_lines(&RING_HEADER_TABLE, bytes, 0);
    };
    let wrong: Vec<_> = wrong_fields(header).collect();
    let mut lines = table_lines(&RING_HEADER_TABLE, header, 0, &wrong, &["heads"]);
    if let Ok(header) = RingHeader::decode(header) {
        for (chain, head) in (0..header.geometry.chain_count).zip(header.heads) {
            if head > 0 {
                let mut of =
                    line(RingGeometry::head_offset(chain), format!("heads[{chain}]"), head.to_string());
                of.wrong = (!is_head(head)).then(|| "no position: the chain starts empty".to_owned());
                lines.push(of);
            }
        }
    }
    lines
}

fn is_head(head: u64) -> bool {
    head <= HEAD_MAX && head.is_multiple_of(UNIT_BYTES as u64)
}

/// Where the slots and the ring of a chain stand in the file: offset and bytes of each.
#[must_use]
pub fn chain_parts(geometry: &RingGeometry, chain: u16) -> [(u64, u64); 2] {
    let slots = geometry.line_offset(chain, 0);
    let slots_end = geometry.line_offset(chain, geometry.line_count);
    [(slots, slots_end - slots), (geometry.ring_offset(chain), geometry.chain_bytes)]
}

/// Goes through a chain, given its two parts, oldest bytes first; `show` hears of each entry, damaged ones marked. `None` when
/// its head cannot be, or a part is not as long as it must be.
pub fn chain(
    [slots, ring]: [&[u8]; 2],
    header: &RingHeader,
    chain: u16,
    show: &mut dyn FnMut(Line),
) -> Option<ChainCounts> {
    let geometry = &header.geometry;
    let head = header.heads[usize::from(chain)];
    let wanted = chain_parts(geometry, chain).map(|(_, bytes)| bytes);
    if !is_head(head) || [slots, ring].map(|part| part.len() as u64) != wanted {
        return None;
    }
    let ring_offset = geometry.ring_offset(chain);
    let mut counts =
        ChainCounts { head, written_bytes: head.min(geometry.chain_bytes), ..ChainCounts::default() };
    let mut named = BTreeMap::new();
    for (number, slot) in slots.as_chunks::<8>().0.iter().enumerate() {
        let slot = Slot(u64::from_le_bytes(*slot));
        if slot.is_used() {
            counts.slot_count += 1;
            let line = (number / LINE_SLOTS) as u64;
            // Two that name one place: at most one of them is of its key.
            named.entry(slot.offset()).or_insert_with(Vec::new).push((line, slot));
        }
    }
    let mut position = head - counts.written_bytes;
    while position < head {
        let offset = position % geometry.chain_bytes;
        let at = ring_offset + offset;
        let Some((shape, bytes)) = entry_at(ring, geometry, head, position) else {
            position += UNIT_BYTES as u64;
            counts.filling_bytes += UNIT_BYTES as u64;
            continue;
        };
        position += shape.bytes as u64;
        if shape.is_gap {
            counts.filling_bytes += shape.bytes as u64;
            continue;
        }
        match Entry::decode(bytes, header.salt, shape.position) {
            Ok(entry) => {
                let spot = geometry.spot(header.salt, &entry.key);
                let slots = named.get(&offset).into_iter().flatten();
                let slot = slots.filter(|(line, _)| spot.chain == chain && *line == spot.line);
                let slot = slot.map(|(_, slot)| slot).find(|slot| slot.is_of(spot.tag));
                if slot.is_some() {
                    counts.named_count += 1;
                    counts.named_bytes += shape.bytes as u64;
                    counts.absent_count += u64::from(entry.value.is_none());
                } else {
                    counts.superseded_count += 1;
                    counts.superseded_bytes += shape.bytes as u64;
                }
                let is_touched = slot.is_some_and(|slot| slot.is_touched());
                counts.touched_count += u64::from(is_touched);
                show(line(at, "entry", entry_text(&entry, slot.is_some(), is_touched)));
            }
            Err(corrupt) => {
                counts.damaged_count += 1;
                counts.damaged_bytes += shape.bytes as u64;
                let text = format!("{} bytes at position {}", shape.bytes, shape.position);
                let wrong = Some(format!("field {}", corrupt.field));
                show(Line { wrong, ..line(at, "entry", text) });
            }
        }
    }
    counts.stale_slot_count = counts.slot_count - counts.named_count;
    Some(counts)
}

/// What says of itself that it stands at a position, with its bytes.
fn entry_at<'a>(
    ring: &'a [u8],
    geometry: &RingGeometry,
    head: u64,
    position: u64,
) -> Option<(Shape, &'a [u8])> {
    let offset = position % geometry.chain_bytes;
    assert_eq!(position_at(head, geometry.chain_bytes, offset), Some(position), "it was given out");
    let rest = &ring[usize::try_from(offset).expect("the ring is in memory")..];
    let shape = Shape::of(rest.first_chunk::<ENTRY_HEAD_BYTES>()?)?;
    let stands = shape.position == position && position + shape.bytes as u64 <= head;
    Some((shape, rest.get(..shape.bytes).filter(|_| stands)?))
}

fn entry_text(entry: &Entry<'_>, is_named: bool, is_touched: bool) -> String {
    let key = entry.key;
    let stream = key.stream.escape_ascii();
    let value = entry.value.map_or("absent".to_owned(), short_text);
    let expiry = if entry.expiry == 0 { String::new() } else { format!(" expires {}", entry.expiry) };
    let state = match (is_named, is_touched) {
        (false, _) => ", superseded",
        (true, true) => ", read",
        (true, false) => "",
    };
    format!(
        "space {} stream \"{stream}\" time {} version {}{expiry} {value}{state}",
        key.space.0, key.time, entry.version
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::units::{Space, Uuid, Version};
    use crate::value_ring::CHAIN_COUNT_MAX;

    const GEOMETRY: RingGeometry = RingGeometry { chain_count: 1, chain_bytes: 4096, line_count: 1 };
    const SALT: u64 = 77;

    fn put(file: &mut [u8], at: u64, bytes: &[u8]) {
        file[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// A file of one chain with these entries, (time, version or absence, slot), one behind the other from `from` on.
    fn file(from: u64, entries: &[(u64, u64, Option<usize>)]) -> (Vec<u8>, RingHeader) {
        let mut bytes = vec![0; GEOMETRY.file_bytes() as usize];
        let mut head = from;
        for (time, version, slot) in entries {
            let key = Key { space: Space(1), stream: b"st", time: *time };
            let value = (*version > 0).then_some(&b"a value"[..]);
            let entry = Entry { key, version: Version(*version), expiry: 0, value };
            let offset = head % GEOMETRY.chain_bytes;
            let mut encoded = vec![0; entry.bytes()];
            entry.encode(SALT, head, &mut encoded);
            put(&mut bytes, GEOMETRY.ring_offset(0) + offset, &encoded);
            if let Some(slot) = slot {
                let word = Slot::new(GEOMETRY.spot(SALT, &key).tag, offset).touched();
                put(&mut bytes, GEOMETRY.line_offset(0, 0) + *slot as u64 * 8, &word.0.to_le_bytes());
            }
            head += encoded.len() as u64;
        }
        let mut heads = [0; CHAIN_COUNT_MAX];
        heads[0] = head;
        let header =
            RingHeader { cluster: Uuid([7; 16]), node: 9, core: 0, geometry: GEOMETRY, salt: SALT, heads };
        let mut front = [0; RING_HEADER_BYTES];
        header.encode(&mut front);
        put(&mut bytes, 0, &front);
        (bytes, header)
    }

    fn parts(file: &[u8]) -> [&[u8]; 2] {
        chain_parts(&GEOMETRY, 0).map(|(offset, bytes)| &file[offset as usize..(offset + bytes) as usize])
    }

    fn shown(file: &[u8], header: &RingHeader) -> (ChainCounts, Vec<Line>) {
        let mut lines = Vec::new();
        let counts = chain(parts(file), header, 0, &mut |line| lines.push(line)).expect("a whole chain");
        let ChainCounts { named_bytes, superseded_bytes, damaged_bytes, filling_bytes, .. } = counts;
        let all = named_bytes + superseded_bytes + damaged_bytes + filling_bytes;
        assert_eq!(all, counts.written_bytes, "every byte is counted once");
        (counts, lines)
    }

    #[test]
    fn entries_are_told_apart_by_who_names_them() {
        let (bytes, header) = file(0, &[(1, 5, None), (1, 6, Some(0)), (2, 0, Some(3))]);
        let (counts, lines) = shown(&bytes, &header);
        assert_eq!((counts.named_count, counts.absent_count, counts.touched_count), (2, 1, 2));
        assert_eq!((counts.superseded_count, counts.damaged_count, counts.stale_slot_count), (1, 0, 0));
        assert_eq!(lines.len(), 3);
        assert!(lines[0].value.contains("time 1") && lines[0].value.ends_with("superseded"), "{lines:?}");
        assert!(lines[2].value.contains("absent"), "{lines:?}");
        assert!(ring_header(&bytes).iter().all(|line| line.wrong.is_none()));
    }

    #[test]
    fn a_flipped_bit_of_an_entry_is_damage_or_no_entry_and_its_slot_stale() {
        let (bytes, header) = file(0, &[(1, 5, Some(0)), (2, 6, Some(1)), (3, 7, Some(2))]);
        let second = GEOMETRY.ring_offset(0) as usize + 64;
        for bit in 0..(48 + 2 + 7) * 8 {
            let mut bytes = bytes.clone();
            bytes[second + bit / 8] ^= 1 << (bit % 8);
            let (counts, lines) = shown(&bytes, &header);
            assert!(counts.named_count <= 2 && counts.stale_slot_count >= 1, "bit {bit}: {counts:?}");
            assert!(counts.damaged_count == 1 || counts.filling_bytes > 0, "bit {bit}: {counts:?}");
            assert_eq!(lines.iter().filter(|line| line.wrong.is_some()).count() as u64, counts.damaged_count);
        }
        let [slots, ring] = parts(&bytes);
        assert_eq!(chain([slots, &ring[..64]], &header, 0, &mut |_| ()), None);
    }

    /// The head has come round: what stood at the begin of the ring is gone, the rest of it fills.
    #[test]
    fn a_chain_that_has_come_round_is_read_from_its_oldest_bytes() {
        let (bytes, header) = file(4096 * 3 + 16, &[(1, 5, Some(0)), (2, 6, Some(1))]);
        let (counts, _) = shown(&bytes, &header);
        assert_eq!((counts.named_count, counts.written_bytes, counts.head), (2, 4096, 4096 * 3 + 16 + 128));
        assert_eq!(counts.filling_bytes, 4096 - 128);
    }

    #[test]
    fn a_header_is_shown_whatever_is_wrong_with_it() {
        let (mut bytes, _) = file(0, &[(1, 5, Some(0))]);
        put(&mut bytes, RingGeometry::head_offset(0), &7u64.to_le_bytes());
        let wrong = |bytes: &[u8]| -> Vec<String> {
            ring_header(bytes).into_iter().filter(|line| line.wrong.is_some()).map(|line| line.name).collect()
        };
        assert_eq!(wrong(&bytes), ["heads[0]"]);
        bytes[40] ^= 1;
        assert_eq!(wrong(&bytes), ["chain_count", "checksum"]);
        assert_eq!(wrong(&bytes[..100]).len(), 1);
    }
}
