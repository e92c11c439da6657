//! Golden images of a cold disk: a superblock copy, a file's slot, a page of kept places, a section.

use layout::cold_disk::{ColdGeometry, ColdState, ColdSuperblock};
use layout::cold_file::{ColdFile, FILE_SLOT_BYTES};
use layout::cold_kept::{KEPT_PAGE_BYTES, KeptFor, KeptPage, KeptPlace};
use layout::cold_section::{SectionHeader, SectionIdentity, SectionPlace, SectionWriter, walk_section};
use layout::key::Key;
use layout::table::encode_key;
use layout::units::{BucketIndex, DiskOffset, Space, Uuid, Version};

const DEVICE: Uuid = Uuid([0xdc; 16]);
const CLUSTER: Uuid = Uuid([0xc7; 16]);
const FILE: u32 = 9;
const PAGE: u32 = 2;
const PLACE: SectionPlace =
    SectionPlace { group: 1, disk: 3, file: FILE, file_generation: 4, offset: 8_192, number: 5 };

fn superblock() -> ColdSuperblock {
    ColdSuperblock {
        sequence: 2,
        device: DEVICE,
        cluster: CLUSTER,
        node: 204,
        group: 1,
        disk: 3,
        state: ColdState::Whole,
        block_bytes: 4096,
        geometry: ColdGeometry { device_bytes: 64 << 20, file_bytes: 1 << 20, file_count: 62 },
    }
}

fn file() -> ColdFile {
    let mut file = ColdFile::default();
    (file.sequence, file.generation, file.head, file.section_count) = (7, 4, 16_384, 11);
    for number in [0, 3, 8] {
        assert!(file.free(number), "each once");
    }
    file
}

fn bucket() -> BucketIndex {
    BucketIndex::new(129).expect("below 2^17")
}

fn identity() -> SectionIdentity {
    let (window_from, window_days) = (86_400_000_000 * 16, 4);
    SectionIdentity { cluster: CLUSTER, bucket: bucket(), window_from, window_days, window_generation: 2 }
}

fn page() -> KeptPage {
    let SectionIdentity { window_from, window_days, window_generation, .. } = identity();
    let whom = KeptFor { tablet_group: 6, bucket: bucket(), window_from, window_days, window_generation };
    let reserved = KeptPlace {
        whom,
        file: FILE,
        file_generation: 4,
        offset: 8_192,
        content_bytes: 5_000,
        number: 5,
        section_count: 3,
        is_sealed: false,
        order: 77,
    };
    let sealed = KeptPlace {
        whom: KeptFor { window_generation: 1, ..whom },
        offset: 0,
        number: 4,
        section_count: 1,
        is_sealed: true,
        order: 76,
        ..reserved
    };
    KeptPage { sequence: 31, places: vec![reserved, sealed] }
}

/// Key, version, expiry, value.
type Row = (Vec<u8>, u64, u64, Option<&'static [u8]>);

fn records() -> Vec<Row> {
    let record = |time: u64, version: u64, expiry: u64, value: Option<&'static [u8]>| {
        let mut key = Vec::new();
        encode_key(&mut key, bucket(), Key { space: Space(2), stream: b"user-1", time });
        (key, version << 16, expiry, value)
    };
    vec![
        record(101, 7, 1_800_000_000_000_000, Some(b"first")),
        record(102, 8, 0, None),
        record(104, 9, 0, Some(b"second")),
    ]
}

fn section() -> Vec<u8> {
    // Level 0 would be the library's default: 1 is the least that compresses, and nothing here is worth compressing.
    let mut writer = SectionWriter::new(identity(), 1);
    for (key, version, expiry, value) in records() {
        writer.push(&key, Version(version), expiry, value);
    }
    writer.finish().at(PLACE).to_vec()
}

fn slot_at() -> DiskOffset {
    superblock().geometry.slot_offset(FILE, 1)
}

fn page_at() -> DiskOffset {
    superblock().geometry.kept_offset(PAGE, 1)
}

/// The images as today's code writes them: name and bytes.
pub(crate) fn written() -> [(&'static str, Vec<u8>); 4] {
    let mut copy = [0; 4096];
    superblock().encode(1, &mut copy);
    let mut slot = [0; FILE_SLOT_BYTES];
    file().encode(DEVICE, FILE, slot_at(), &mut slot);
    let mut kept = [0; KEPT_PAGE_BYTES];
    page().encode(DEVICE, PAGE, page_at(), &mut kept);
    [
        ("cold_superblock_copy_1.bin", copy.to_vec()),
        ("cold_file.bin", slot.to_vec()),
        ("cold_kept_places.bin", kept.to_vec()),
        ("cold_section.bin", section()),
    ]
}

/// The images as they are committed, in the order of [`written`].
pub(crate) const COMMITTED: [&[u8]; 4] = [
    include_bytes!("../../golden/cold_superblock_copy_1.bin"),
    include_bytes!("../../golden/cold_file.bin"),
    include_bytes!("../../golden/cold_kept_places.bin"),
    include_bytes!("../../golden/cold_section.bin"),
];

#[test]
fn cold_superblock_decodes() {
    let block = COMMITTED[0].try_into().expect("4096 bytes");
    let at = superblock().geometry.copy_offset(1);
    assert_eq!(ColdSuperblock::decode(block, at), Ok(superblock()));
}

#[test]
fn cold_file_decodes() {
    let block = COMMITTED[1].try_into().expect("4096 bytes");
    assert_eq!(ColdFile::decode(block, (DEVICE, FILE, 1 << 20), slot_at()), Ok(Some(file())));
}

#[test]
fn cold_kept_places_decode() {
    let block = COMMITTED[2].try_into().expect("4096 bytes");
    assert_eq!(KeptPage::decode(block, (DEVICE, PAGE), page_at()), Ok(Some(page())));
}

#[test]
fn cold_section_decodes() {
    let header = COMMITTED[3].first_chunk().expect("a header");
    let header = SectionHeader::decode(header, CLUSTER, (PLACE.group, PLACE.disk), (FILE, PLACE.offset));
    let header = header.expect("a committed header");
    assert_eq!((header.identity, header.place, header.record_count), (identity(), PLACE, 3));
    let mut found = Vec::new();
    walk_section(&header, COMMITTED[3], |entry| {
        let value = entry.record.value.map(<[u8]>::to_vec);
        found.push((entry.key.to_vec(), entry.record.version.0, entry.record.expiry_us, value));
    })
    .expect("a committed section");
    let expected: Vec<_> = records()
        .into_iter()
        .map(|(key, version, expiry, value)| (key, version, expiry, value.map(<[u8]>::to_vec)))
        .collect();
    assert_eq!(found, expected);
}
