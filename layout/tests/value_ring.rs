//! The committed image of a file of value rings decodes to what it was made from, and that encodes to the same bytes.
//!
//! Apart from `golden.rs`: rings have a version of their own, since a file of another one is emptied, not converted.

use layout::key::Key;
use layout::units::{Space, Uuid, Version};
use layout::value_entry::{ENTRY_HEAD_BYTES, Entry, Shape, UNIT_BYTES};
use layout::value_ring::{
    CHAIN_COUNT_MAX, LINE_SLOTS, RING_HEADER_BYTES, RingGeometry, RingHeader, Slot, position_at,
};

const IMAGE: &[u8] = include_bytes!("../golden/value_ring.bin");
const GEOMETRY: RingGeometry = RingGeometry { chain_count: 1, chain_bytes: 4096, line_count: 2 };
const SALT: u64 = 0x0123_4567_89ab_cdef;
/// The second lap has begun: one entry is of it, two of the first are left.
const HEAD: u64 = 4096 + 64;

fn header() -> RingHeader {
    let mut heads = [0; CHAIN_COUNT_MAX];
    heads[0] = HEAD;
    RingHeader { cluster: Uuid([0xc7; 16]), node: 9, core: 1, geometry: GEOMETRY, salt: SALT, heads }
}

/// (position, entry).
fn entries() -> [(u64, Entry<'static>); 3] {
    let key = |stream: &'static [u8], time| Key { space: Space(2), stream, time };
    let value: &[u8] = &[0x5a; 3000];
    [
        (
            64,
            Entry {
                key: key(b"user-1", 101),
                version: Version(458_754),
                expiry: 1 << 50,
                value: Some(value),
            },
        ),
        (3120, Entry { key: key(b"user-2", 5), version: Version::ABSENT, expiry: 0, value: None }),
        (
            4096,
            Entry { key: key(b"user-1", 102), version: Version(458_755), expiry: 0, value: Some(b"short") },
        ),
    ]
}

fn written() -> Vec<u8> {
    let mut bytes = vec![0; GEOMETRY.file_bytes() as usize];
    header().encode((&mut bytes[..RING_HEADER_BYTES]).try_into().expect("4096 bytes"));
    let mut filled = [0; 2];
    for (position, entry) in entries() {
        let at = GEOMETRY.ring_offset(0) + position % GEOMETRY.chain_bytes;
        entry.encode(SALT, position, &mut bytes[at as usize..at as usize + entry.bytes()]);
        let spot = GEOMETRY.spot(SALT, &entry.key);
        let slot = GEOMETRY.line_offset(0, spot.line) as usize + 8 * filled[spot.line as usize];
        filled[spot.line as usize] += 1;
        let word = Slot::new(spot.tag, position % GEOMETRY.chain_bytes).touched();
        bytes[slot..slot + 8].copy_from_slice(&word.0.to_le_bytes());
    }
    let gap = 3120 + entries()[1].1.bytes();
    let at = GEOMETRY.ring_offset(0) as usize + gap;
    bytes[at..at + ENTRY_HEAD_BYTES].copy_from_slice(&Shape::gap(gap as u64, 4096 - gap));
    bytes
}

#[test]
fn the_image_is_what_todays_code_writes() {
    assert!(IMAGE == written(), "bytes of value rings have changed: raise RING_VERSION");
}

#[test]
#[ignore = "overwrites the image: only for a new RING_VERSION"]
#[expect(clippy::disallowed_methods, reason = "writes into the repository, not what is tested")]
fn write_image() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/value_ring.bin");
    std::fs::write(path, written()).expect("the folder is there");
}

#[test]
fn the_image_decodes() {
    let found = RingHeader::decode(IMAGE.first_chunk().expect("a header"));
    assert_eq!(found, Ok(header()));
    for (position, entry) in entries() {
        let at = (GEOMETRY.ring_offset(0) + position % GEOMETRY.chain_bytes) as usize;
        assert_eq!(Entry::decode(&IMAGE[at..at + entry.bytes()], SALT, position), Ok(entry));
        assert_eq!(position_at(HEAD, GEOMETRY.chain_bytes, position % GEOMETRY.chain_bytes), Some(position));
        let spot = GEOMETRY.spot(SALT, &entry.key);
        let line = GEOMETRY.line_offset(spot.chain, spot.line) as usize;
        let slots = IMAGE[line..line + 8 * LINE_SLOTS].as_chunks::<8>().0;
        let slot = slots.iter().map(|word| Slot(u64::from_le_bytes(*word))).find(|slot| slot.is_of(spot.tag));
        assert_eq!(slot.expect("its slot").offset(), position % GEOMETRY.chain_bytes);
    }
    // From entry to entry, and over the gap, to the end of the ring.
    let mut at = 64;
    while at < GEOMETRY.chain_bytes as usize {
        let place = GEOMETRY.ring_offset(0) as usize + at;
        let shape = Shape::of(IMAGE[place..].first_chunk().expect("room")).expect("an entry or a gap");
        assert_eq!(shape.position as usize, at);
        at += shape.bytes;
    }
    assert!(at == GEOMETRY.chain_bytes as usize && at.is_multiple_of(UNIT_BYTES));
}
