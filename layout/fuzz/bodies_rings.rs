//! What is tried with any bytes of a file of value rings, shared by the fuzz target and by tests/mutate.rs.
//!
//! Owns the properties: as in bodies.rs, a decoder never panics, and what it accepts encodes to the same bytes.

use layout::checksum::Crc;
use layout::value_entry::{ENTRY_HEAD_BYTES, Entry, Shape, UNIT_BYTES, seal};
use layout::value_ring::{RING_HEADER_BYTES, RingHeader, Slot, position_at};

/// The salt of the golden image.
const SALT: u64 = 0x0123_4567_89ab_cdef;
/// Places at which an entry is looked for.
const PLACES_MAX: usize = 64;

/// A header, and entries wherever one may start: as they are, and with their checksums made right.
pub(crate) fn value_ring(data: &[u8]) -> usize {
    let mut accepted = header(data);
    for at in (0..data.len()).step_by(UNIT_BYTES).take(PLACES_MAX + RING_HEADER_BYTES / UNIT_BYTES) {
        let Some(head) = data[at..].first_chunk::<ENTRY_HEAD_BYTES>() else { break };
        if let Some(word) = data[at..].first_chunk::<8>() {
            let slot = Slot(u64::from_le_bytes(*word));
            assert!(slot.touched().is_touched() && slot.touched().offset() == slot.offset());
            if let Some(position) = position_at(at as u64, 4096, slot.offset()) {
                assert!(position < at as u64 && position % 4096 == slot.offset());
            }
        }
        let Some(shape) = Shape::of(head) else { continue };
        let Some(bytes) = data.get(at..at + shape.bytes) else { continue };
        let mut bytes = bytes.to_vec();
        for fix_checksum in [false, true] {
            if fix_checksum {
                seal(&mut bytes, SALT);
            }
            let decoded = Entry::decode(&bytes, SALT, shape.position);
            assert!(decoded.is_err() || Entry::decode_unproven(&bytes) == decoded.ok());
            if let Ok(entry) = decoded {
                assert_eq!((entry.bytes(), entry.version), (shape.bytes, shape.version));
                let mut again = vec![0xee; bytes.len()];
                entry.encode(SALT, shape.position, &mut again);
                assert!(again == bytes, "what decodes encodes to the same bytes");
                accepted += 1;
            }
        }
    }
    accepted
}

fn header(data: &[u8]) -> usize {
    let mut accepted = 0;
    let mut bytes = [0; RING_HEADER_BYTES];
    let length = data.len().min(RING_HEADER_BYTES);
    bytes[..length].copy_from_slice(&data[..length]);
    for fix_checksum in [false, true] {
        if fix_checksum {
            let checksum = Crc::with(&bytes[..124]).finish();
            bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
        }
        if let Ok(header) = RingHeader::decode(&bytes) {
            let mut again = [0; RING_HEADER_BYTES];
            header.encode(&mut again);
            assert!(again == bytes, "what decodes encodes to the same bytes");
            accepted += 1;
        }
    }
    accepted
}
