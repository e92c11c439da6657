//! Sections of a cold disk as a store's sinker makes them, of numbered streams.
//!
//! Invariant: the same cluster, stream, window and seed give the same section.

use crate::workloads::numbers::{StreamName, fill, hash};
use layout::cold_section::{MadeSection, SectionIdentity, SectionPlace, SectionWriter};
use layout::key::{Key, bucket_of};
use layout::table::encode_key;
use layout::units::{Space, Uuid, Version};
use net::cold::ColdPlace;

/// Records of a section: about 320 KiB of them.
pub(super) const SECTION_RECORDS: u64 = 2_048;
/// Bytes of a value.
pub(super) const VALUE_BYTES: usize = 128;
/// Bytes of a disk for each record: what it is given, and some.
pub(super) const BYTES_PER_RECORD: u64 = 192;
/// Microseconds from one record of a stream to the next.
const STEP_US: u64 = 1_000_000;
/// The first day that sections are of.
pub(super) const WINDOW_FROM_US: u64 = 1_600_041_600_000_000;
/// Microseconds of a day: each window is one.
pub(super) const DAY_US: u64 = 86_400_000_000;

/// The records of a stream in the window that begins there, compressed at this level of zstd.
pub(super) fn section(cluster: Uuid, stream: u64, window_from: u64, seed: u64, level: i32) -> MadeSection {
    let name = StreamName::of(stream);
    let bucket = bucket_of(Space::DEFAULT, name.bytes());
    let identity = SectionIdentity { cluster, bucket, window_from, window_days: 1, window_generation: 1 };
    let mut writer = SectionWriter::new(identity, level);
    let (mut key, mut value) = (Vec::new(), [0; VALUE_BYTES]);
    for number in 0..SECTION_RECORDS {
        key.clear();
        encode_key(&mut key, bucket, key_of(&name, window_from, number));
        fill(hash(seed, stream * SECTION_RECORDS + number), &mut value);
        writer.push(&key, Version((number + 1) << 16), 0, Some(&value));
    }
    writer.finish()
}

/// Key of a record of the section.
pub(super) fn key_of(name: &StreamName, window_from: u64, number: u64) -> Key<'_> {
    Key { space: Space::DEFAULT, stream: name.bytes(), time: window_from + number * STEP_US }
}

/// The bytes of a run of sections in the place that was agreed on for it.
pub(super) fn run_bytes(sections: &mut [MadeSection], place: &ColdPlace) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(place.content_bytes as usize);
    for (number, section) in (place.number..).zip(sections) {
        let at = SectionPlace {
            group: place.group,
            disk: place.disk,
            file: place.file,
            file_generation: place.file_generation,
            offset: place.offset + u32::try_from(bytes.len()).expect("a run fits a file"),
            number,
        };
        bytes.extend_from_slice(section.at(at));
    }
    bytes
}
