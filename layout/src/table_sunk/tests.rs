//! Sunk tables against the sections that they were made of.

use super::*;
use crate::cold_section::SectionWriter;
use crate::table_filter::Filter;
use crate::table_footer::{FOOTER_BYTES, open_filter, open_index};
use crate::table_index::Index;
use crate::table_key::TABLE_KEY_BYTES_MIN;
use crate::units::{TabletIndex, Uuid};

const CLUSTER: Uuid = Uuid([7; 16]);
const GENERATION: u32 = 9;

fn identity() -> TableIdentity {
    TableIdentity::Sunk {
        cluster: CLUSTER,
        tablet: TabletIndex::new(3).unwrap(),
        window_from: DAY_US,
        window_to: 3 * DAY_US,
        window_generation: 4,
    }
}

fn key(bucket: u32, number: u64) -> Vec<u8> {
    let mut key = bucket.to_be_bytes()[1..].to_vec();
    key.resize(TABLE_KEY_BYTES_MIN - 8, b's');
    key.extend_from_slice(&(DAY_US + number).to_be_bytes());
    key
}

fn link(bucket: u32, disk: u16, sections: &[&MadeSection]) -> ColdLink {
    ColdLink {
        group: 0,
        disk,
        bucket: BucketIndex::new(bucket).unwrap(),
        file: 1,
        file_generation: 2,
        offset: 8192,
        content_bytes: sections.iter().map(|made| made.bytes()).sum::<u64>() as u32,
        number: 5,
        section_count: sections.len() as u32,
    }
}

/// A table of three sections on two disks, the one in the middle alone on its disk.
fn table() -> (Vec<u8>, TableSummary, Vec<MadeSection>) {
    let mut writer = SunkWriter::new(identity(), GENERATION, 3);
    let mut made = Vec::new();
    for bucket in [3u32, 67, 131] {
        let section = section_identity(&identity(), GENERATION, BucketIndex::new(bucket).unwrap()).unwrap();
        let mut one = SectionWriter::new(section, 3);
        for number in 0..u64::from(bucket) * 40 {
            let value = [number as u8; 100];
            let expiry = if number == 7 { 99 } else { 0 };
            one.push(&key(bucket, number), Version((number + 1) << 16), expiry, Some(&value));
            writer.record(&key(bucket, number), Version((number + 1) << 16), expiry, Some(&value));
        }
        made.push(one.finish());
        assert_eq!(writer.section(made.last().unwrap()), made.len() - 1);
    }
    assert_eq!(writer.unlinked_count(), 3);
    writer.link(&[1], link(67, 1, &[&made[1]]));
    writer.link(&[0, 2], link(3, 0, &[&made[0], &made[2]]));
    while writer.step() {}
    let (bytes, summary) = writer.finish();
    (bytes, summary, made)
}

fn open(bytes: &[u8]) -> Result<(Footer, SunkSections, Index, Filter), Corrupt> {
    let (checksum, mut unpack) = (BlockChecksum::new(&identity()), Decompressor::new());
    let last = bytes.last_chunk::<FOOTER_BYTES>().unwrap();
    let footer = Footer::decode(&identity(), bytes.len() as u64, last)?;
    let part = |from: u64, bytes_: u64| &bytes[from as usize..(from + bytes_) as usize];
    let sections = part(footer.sections_offset(), footer.sections_bytes);
    let sections = open_sunk_sections(&checksum, &footer, sections, &mut unpack)?;
    let index = open_index(&checksum, &footer, part(footer.index_offset(), footer.index_bytes), &mut unpack)?;
    let filter =
        open_filter(&checksum, &footer, part(footer.filter_offset(), footer.filter_bytes), &mut unpack)?;
    Ok((footer, sections, index, filter))
}

#[test]
fn every_block_of_every_section_is_found_by_its_data_offset() {
    let (bytes, summary, made) = table();
    let (footer, sections, index, filter) = open(&bytes).unwrap();
    assert_eq!((footer, bytes.len() as u64), (summary.footer, summary.bytes));
    assert_eq!(footer.record_count, (3 + 67 + 131) * 40);
    assert_eq!((footer.expiring_count, footer.expiry_min, footer.tombstone_count), (3, 99, 0));
    assert_eq!(sections.generation, GENERATION);
    let offsets: Vec<_> = sections.sections().iter().map(|one| (one.link, one.offset, one.number)).collect();
    let first = made[0].bytes() as u32;
    assert_eq!(offsets, [(1, 8192, 5), (0, 8192, 5), (1, 8192 + first, 6)]);
    assert_eq!(sections.at(footer.data_bytes), None);
    for (bucket, place) in [(3u32, 0), (67, 1), (131, 2)] {
        for number in 0..u64::from(bucket) * 40 {
            let key = key(bucket, number);
            assert!(filter.contains(key_hash(&key)));
            let (_, handle) = index.find(&key).unwrap();
            let (section, link) = sections.at(handle.offset).unwrap();
            assert_eq!((section.bucket.get(), section.digest), (bucket, made[place].digest));
            assert_eq!(link.disk, u16::from(bucket == 67));
            // The same block, by the section's own index.
            let own = made[place].blocks().find(|(separator, _)| *separator >= &key[..]).unwrap().1;
            assert_eq!(handle.offset - section.data_from, own.offset);
            assert_eq!(handle.stored_bytes, own.stored_bytes);
        }
    }
}

#[test]
fn the_same_sections_give_the_same_bytes_and_damage_is_found() {
    let (bytes, summary, _) = table();
    let (again, same, _) = table();
    assert_eq!((&bytes, summary), (&again, same));
    for at in (0..bytes.len()).step_by(7) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        assert!(open(&wrong).is_err(), "byte {at}");
    }
}

#[test]
fn lists_that_do_not_add_up_are_refused() {
    let (bytes, summary, _) = table();
    let footer = summary.footer;
    let part = &bytes[..footer.sections_bytes as usize];
    let checksum = BlockChecksum::new(&identity());
    let raw = open_parts(&checksum, 0, BlockKind::Sections, part, &mut Decompressor::new()).unwrap();
    let (data, records) = (footer.data_bytes, footer.record_count);
    assert!(SunkSections::decode(&raw, data, records).is_ok());
    assert!(SunkSections::decode(&raw, data + 1, records).is_err());
    assert!(SunkSections::decode(&raw, data, records - 1).is_err());
    for cut in 0..raw.len() {
        assert!(SunkSections::decode(&raw[..cut], data, records).is_err(), "cut at {cut}");
    }
    for at in [0, 4, 12] {
        let mut wrong = raw.clone();
        wrong[at] += 1;
        assert!(SunkSections::decode(&wrong, data, records).is_err(), "byte {at}");
    }
}
