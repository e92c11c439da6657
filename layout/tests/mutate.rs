//! The fuzz bodies on the stable toolchain: mutated golden images and random bytes, fixed seed.
//!
//! Every run tries the same inputs. Each test also counts how often the decoders accepted, so that a
//! mutation that never gets past a checksum is seen.

#[path = "../fuzz/bodies.rs"]
mod bodies;
#[path = "../fuzz/bodies_rings.rs"]
mod bodies_rings;
#[path = "../fuzz/bodies_tables.rs"]
mod bodies_tables;

const SUPERBLOCK: &[u8] = include_bytes!("../golden/superblock_copy_1.bin");
const RECORD: &[u8] = include_bytes!("../golden/journal_record.bin");
const BODY: &[u8] = include_bytes!("../golden/journal_body.bin");
const VERSION_HEADER: &[u8] = include_bytes!("../golden/version_header.bin");
const VERSION_ROW: &[u8] = include_bytes!("../golden/version_row.bin");
const VALUE_RING: &[u8] = include_bytes!("../golden/value_ring.bin");
const TABLE: &[u8] = include_bytes!("../golden/table.bin");
const SEALED: &[u8] = include_bytes!("../golden/sealed_table.bin");
const COLUMNS: &[u8] = include_bytes!("../golden/table_columns.bin");
const STATE: &[u8] = include_bytes!("../golden/tablet_state.bin");
const MANIFEST: &[u8] = include_bytes!("../golden/manifest_record.bin");

/// Inputs per test.
const INPUT_COUNT: usize = 12_000;

/// splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// One to four changes; places lean to the first bytes, where the headers are.
fn mutate(random: &mut Random, image: &[u8]) -> Vec<u8> {
    const NUMBERS: [u64; 8] = [0, 1, 127, 128, 129, 0xffff, u32::MAX as u64, u64::MAX];
    let mut bytes = image.to_vec();
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            return bytes;
        }
        let reach = if random.below(2) == 0 { bytes.len().min(160) } else { bytes.len() };
        let place = random.below(reach);
        match random.below(8) {
            0 | 1 => bytes[place] ^= 1 << random.below(8),
            2 => bytes[place] = random.next() as u8,
            3 => {
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - place);
                bytes[place..place + width].copy_from_slice(&number[..width]);
            }
            4 => {
                let length = random.below(bytes.len() - place + 1).min(64);
                bytes[place..place + length].fill(0);
            }
            5 => {
                let length = random.below(bytes.len() - place + 1).min(512);
                let from = random.below(bytes.len() - length + 1);
                bytes.copy_within(from..from + length, place);
            }
            6 => bytes.truncate(random.below(bytes.len() + 1)),
            _ => {
                let piece: Vec<u8> = (0..random.below(80)).map(|_| random.next() as u8).collect();
                bytes.splice(place..place, piece);
            }
        }
    }
    bytes
}

/// Runs `body` over mutated images (nine of ten) and random bytes; answers what was accepted.
fn run(seed: u64, images: &[&[u8]], body: fn(&[u8]) -> usize) -> usize {
    let mut random = Random(seed);
    let mut accepted: usize = images.iter().map(|image| body(image)).sum();
    assert!(accepted >= images.len(), "every image is accepted as it is");
    for number in 0..INPUT_COUNT {
        let input = if number % 10 == 9 {
            let length = random.below(3000);
            (0..length).map(|_| random.next() as u8).collect()
        } else {
            let image = images[random.below(images.len())];
            mutate(&mut random, image)
        };
        accepted += body(&input);
    }
    accepted
}

#[test]
fn superblocks() {
    let mut four = Vec::new();
    (0..4).for_each(|_| four.extend_from_slice(SUPERBLOCK));
    let accepted = run(1, &[SUPERBLOCK, &four], bodies::superblock);
    assert!(accepted > INPUT_COUNT / 20, "only {accepted} were accepted");
}

#[test]
fn journals() {
    let two = [RECORD, &[0; 4096]].concat();
    let accepted = run(2, &[RECORD, &two], bodies::journal);
    assert!(accepted > INPUT_COUNT / 20, "only {accepted} were accepted");
}

#[test]
fn entries() {
    let accepted = run(3, &[BODY], bodies::entries);
    assert!(accepted > INPUT_COUNT, "only {accepted} were accepted");
}

#[test]
fn version_files() {
    let accepted = run(4, &[VERSION_HEADER, VERSION_ROW], bodies::version);
    assert!(accepted > INPUT_COUNT, "only {accepted} were accepted");
}

#[test]
fn value_rings() {
    let ring = &VALUE_RING[VALUE_RING.len() - 4096..];
    let accepted = run(12, &[VALUE_RING, ring, &ring[3120..]], bodies_rings::value_ring);
    assert!(accepted > INPUT_COUNT, "only {accepted} were accepted");
}

/// The payloads of the stored blocks of a golden table, which are not compressed.
fn payloads(table: &'static [u8]) -> Vec<&'static [u8]> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at + 512 < table.len() {
        let bytes = u32::from_le_bytes(table[at + 8..at + 12].try_into().expect("four bytes")) as usize;
        parts.push(&table[at + 16..at + 16 + bytes]);
        at += 16 + bytes;
    }
    parts
}

#[test]
fn tables() {
    let accepted = run(5, &[TABLE], bodies_tables::table);
    assert!(accepted > INPUT_COUNT / 20, "only {accepted} were accepted");
}

#[test]
fn sealed_tables() {
    let accepted = run(10, &[SEALED], bodies_tables::sealed_table);
    // Few: the digests of sections are not made right, and a changed record is not theirs.
    assert!(accepted > INPUT_COUNT / 200, "only {accepted} were accepted");
}

#[test]
fn blocks_indexes_filters_and_sections() {
    let parts = [payloads(TABLE), payloads(SEALED)].concat();
    assert!(parts.len() >= 9, "twice two blocks, an index, a filter; and sections");
    let accepted = run(6, &parts, bodies_tables::table_parts);
    assert!(accepted > INPUT_COUNT / 20, "only {accepted} were accepted");
}

#[test]
fn columns() {
    let accepted = run(11, &[COLUMNS], bodies_tables::table_columns);
    assert!(accepted > INPUT_COUNT / 20, "only {accepted} were accepted");
}

#[test]
fn manifests() {
    let two = [MANIFEST, &[0; 4096]].concat();
    let accepted = run(7, &[MANIFEST, &two], bodies_tables::manifest);
    assert!(accepted > INPUT_COUNT / 20, "only {accepted} were accepted");
}

#[test]
fn edits() {
    // Behind the frame header and the record's; the image is one frame long but for its last bytes.
    let body_bytes = u32::from_le_bytes(MANIFEST[28..32].try_into().expect("four bytes")) as usize;
    let (frames, _) = MANIFEST.as_chunks::<512>();
    let payloads: Vec<u8> = frames.iter().flat_map(|frame| &frame[16..]).copied().collect();
    let accepted = run(8, &[&payloads[48..48 + body_bytes]], bodies_tables::edits);
    assert!(accepted > INPUT_COUNT / 2, "only {accepted} were accepted");
}

#[test]
fn states() {
    let accepted = run(9, &[STATE], bodies_tables::state);
    assert!(accepted > INPUT_COUNT / 20, "only {accepted} were accepted");
}
