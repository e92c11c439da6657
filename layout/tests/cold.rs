//! Sections of cold disks, against a map: what is written is found by one block, damage and strangers are seen, and neither a place nor
//! who makes it changes what stands in it.

use std::collections::BTreeMap;

use layout::cold_section::{
    COLD_BLOCK_BYTES, MadeSection, SECTION_HEADER_BYTES, SectionHeader, SectionIdentity, SectionPlace,
    SectionWriter, open_section_index, walk_section,
};
use layout::key::Key;
use layout::table::{Block, BlockKind, Decompressor, encode_key, open_block};
use layout::table_sections::SectionSum;
use layout::units::{BucketIndex, Space, Uuid, Version};
use proptest::prelude::*;

type Kept = (u64, u64, Option<Vec<u8>>);
type Model = BTreeMap<Vec<u8>, Kept>;

const CLUSTER: Uuid = Uuid([3; 16]);

fn bucket() -> BucketIndex {
    BucketIndex::new(70_001).expect("below 131,072")
}

fn identity() -> SectionIdentity {
    let (window_from, window_days) = (86_400_000_000 * 16, 4);
    SectionIdentity { cluster: CLUSTER, bucket: bucket(), window_from, window_days, window_generation: 2 }
}

const PLACE: SectionPlace =
    SectionPlace { group: 1, disk: 3, file: 9, file_generation: 4, offset: 8_123, number: 5 };

fn key(stream: u8, time: u64) -> Vec<u8> {
    let mut key = Vec::new();
    encode_key(&mut key, bucket(), Key { space: Space(7), stream: &[stream, 1, 2], time });
    key
}

fn made(identity: SectionIdentity, model: &Model) -> MadeSection {
    let mut writer = SectionWriter::new(identity, 3);
    for (key, (version, expiry, value)) in model {
        writer.push(key, Version(*version), *expiry, value.as_deref());
    }
    writer.finish()
}

fn header(bytes: &[u8], place: SectionPlace) -> Result<SectionHeader, layout::Corrupt> {
    let header = bytes.first_chunk::<SECTION_HEADER_BYTES>().expect("a section has a header");
    SectionHeader::decode(header, CLUSTER, (place.group, place.disk), (place.file, place.offset))
}

/// As a cold get does it: the index is at hand, one block is read.
fn get(bytes: &[u8], key: &[u8]) -> Option<Kept> {
    let found = header(bytes, PLACE).expect("it stands in its place");
    let (checksum, mut unpack) = (found.identity.checksum(), Decompressor::new());
    let (data, stored) = bytes[SECTION_HEADER_BYTES..].split_at(found.data_bytes as usize);
    let index = open_section_index(&checksum, &found, stored, &mut unpack).expect("the index is whole");
    let (_, handle) = index.find(key)?;
    let (stored, mut raw) = (&data[handle.offset as usize..handle.end() as usize], Vec::new());
    open_block(&checksum, handle.offset, BlockKind::Data, stored, None, &mut unpack, &mut raw)
        .expect("the block is whole");
    let block = Block::parse(&raw).expect("the block is whole");
    let record = block.get(key).expect("the block is whole")?;
    Some((record.version.0, record.expiry_us, record.value.map(<[u8]>::to_vec)))
}

fn model(count: u64, value_bytes: usize) -> Model {
    let value =
        |at: u64| (0..value_bytes).map(|byte| (at.wrapping_mul(31) as usize + byte / 3) as u8).collect();
    let kept = |at: u64| (at << 16, if at.is_multiple_of(7) { at + 1 } else { 0 }, Some(value(at)));
    (0..count).map(|at| (key((at % 5) as u8, at * 1_000_003), kept(at))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_is_found_by_one_block(
        records in prop::collection::btree_map(
            (0u8..4, 0u64..5_000), (1u64..1 << 40, 0u64..3, prop::option::of(prop::collection::vec(any::<u8>(), 0..4_000))), 1..120,
        ),
        absent in prop::collection::vec((0u8..5, 0u64..5_000), 8),
    ) {
        let kept = |(version, expiry, value): (u64, u64, Option<Vec<u8>>)| {
            (version, if value.is_none() { 0 } else { expiry }, value)
        };
        let model: Model =
            records.into_iter().map(|((stream, time), record)| (key(stream, time), kept(record))).collect();
        let mut made = made(identity(), &model);
        let bytes = made.at(PLACE).to_vec();
        for (key, kept) in &model {
            let found = get(&bytes, key);
            prop_assert_eq!(found.as_ref(), Some(kept));
        }
        for (stream, time) in absent {
            let key = key(stream, time);
            let found = get(&bytes, &key);
            prop_assert_eq!(found.as_ref(), model.get(&key));
        }
        let found = header(&bytes, PLACE).expect("it stands in its place");
        let (mut walked, mut sum) = (Model::new(), SectionSum::new());
        walk_section(&found, &bytes, |entry| {
            let record = entry.record;
            let value = record.value.map(<[u8]>::to_vec);
            walked.insert(entry.key.to_vec(), (record.version.0, record.expiry_us, value));
        }).expect("it is whole");
        prop_assert_eq!(&walked, &model);
        for (key, (version, expiry, value)) in &model {
            sum.add(key, Version(*version), *expiry, value.as_deref());
        }
        prop_assert_eq!(sum.finish().2, found.digest, "it is the digest of a sealed table's section");
    }
}

#[test]
fn two_makers_make_the_same_bytes_and_a_place_shows_in_the_header_alone() {
    let model = model(4_000, 120);
    let (mut first, mut second) = (made(identity(), &model), made(identity(), &model));
    let there = SectionPlace { disk: 4, offset: 77, number: 1, ..PLACE };
    assert_eq!(first.at(PLACE), second.at(PLACE));
    let (here, there) = (first.at(PLACE).to_vec(), second.at(there).to_vec());
    assert_ne!(here[..SECTION_HEADER_BYTES], there[..SECTION_HEADER_BYTES]);
    assert_eq!(here[SECTION_HEADER_BYTES..], there[SECTION_HEADER_BYTES..]);
    let found = header(&here, PLACE).expect("it stands in its place");
    let stored = &here[SECTION_HEADER_BYTES + found.data_bytes as usize..];
    let index = open_section_index(&identity().checksum(), &found, stored, &mut Decompressor::new());
    let raw_bytes = model.len() * 120;
    let blocks = index.expect("the index is whole").block_count() as usize;
    assert!(
        (raw_bytes / COLD_BLOCK_BYTES / 2..=raw_bytes / COLD_BLOCK_BYTES + 2).contains(&blocks),
        "{blocks}"
    );
}

#[test]
fn a_section_is_refused_where_it_was_not_written_and_for_who_it_is_not() {
    let mut made = made(identity(), &model(300, 60));
    let bytes = made.at(PLACE).to_vec();
    assert_eq!(header(&bytes, PLACE).map(|found| found.place), Ok(PLACE));
    let places = [
        SectionPlace { group: 2, ..PLACE },
        SectionPlace { disk: 2, ..PLACE },
        SectionPlace { file: 8, ..PLACE },
        SectionPlace { offset: 8_124, ..PLACE },
    ];
    for place in places {
        assert_eq!(header(&bytes, place).map_err(|corrupt| corrupt.field), Err("checksum"), "{place:?}");
    }
    let found = header(&bytes, PLACE).expect("it stands in its place");
    let others = [
        SectionIdentity { cluster: Uuid([4; 16]), ..identity() },
        SectionIdentity { bucket: BucketIndex::new(70_002).expect("a bucket"), ..identity() },
        SectionIdentity { window_from: 0, ..identity() },
        SectionIdentity { window_days: 8, ..identity() },
        SectionIdentity { window_generation: 3, ..identity() },
    ];
    for other in others {
        let wrong = SectionHeader { identity: other, ..found };
        assert!(walk_section(&wrong, &bytes, |_| {}).is_err(), "{other:?}");
    }
}

#[test]
fn every_flipped_byte_is_found() {
    let mut made = made(identity(), &model(900, 100));
    let bytes = made.at(PLACE).to_vec();
    let is_whole =
        |bytes: &[u8]| header(bytes, PLACE).is_ok_and(|found| walk_section(&found, bytes, |_| {}).is_ok());
    assert!(is_whole(&bytes));
    for at in (0..SECTION_HEADER_BYTES).chain((SECTION_HEADER_BYTES..bytes.len()).step_by(37)) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        assert!(!is_whole(&wrong), "byte {at} of {}", bytes.len());
    }
    for short in [0, SECTION_HEADER_BYTES, bytes.len() - 1] {
        let found = header(&bytes, PLACE).expect("it stands in its place");
        assert!(walk_section(&found, &bytes[..short], |_| {}).is_err());
    }
}

#[test]
fn a_value_larger_than_a_block_has_one_of_its_own() {
    let mut model = model(50, 10);
    let large: Vec<u8> = (0..1_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    model.insert(key(9, 1), (77 << 16, 0, Some(large)));
    let mut made = made(identity(), &model);
    let bytes = made.at(PLACE).to_vec();
    for (key, kept) in &model {
        assert_eq!(get(&bytes, key).as_ref(), Some(kept));
    }
}

/// Beside its index a section costs little, and the index little per record.
#[test]
fn what_stands_around_the_records_is_small() {
    let made = made(identity(), &model(20_000, 120));
    assert_eq!(made.bytes(), (SECTION_HEADER_BYTES as u64) + u64::from(made.data_bytes + made.index_bytes));
    assert!(u64::from(made.index_bytes) * 2 <= 20_000, "{} bytes of index", made.index_bytes);
}
