//! `fsck` of cold disks: sound ones, and each kind of damage, beside what a node answers on the same disk.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use layout::cold_disk::ColdGeometry;
use net::cold::{ColdPlace, ColdRequest};
use serde_json::Value;
use support::cold::{Sunk, core, get_all, make_disk, make_large_disk, sink, sink_large, start, way};
use support::{Folder, Said, run};

const DISK: &str = "a";

fn geometry() -> ColdGeometry {
    ColdGeometry::plan(4 << 20, 256 << 10, u32::MAX).unwrap()
}

/// A disk with a run of three sections and one of two, of which nothing is freed.
fn with_sections() -> (Folder, Vec<Sunk>) {
    let folder = Folder::new();
    make_disk(&folder, DISK, 4, 1);
    let server = start(&folder, &[DISK]);
    let core = core();
    let way = way(core.io(), &server.endpoint);
    let sunk = vec![core.block_on(sink(&way, 1, 1, 3, 400)), core.block_on(sink(&way, 1, 2, 2, 50))];
    drop(way);
    assert_eq!(server.stop().1, 0);
    (folder, sunk)
}

fn damage(folder: &Folder, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(folder.path(DISK)).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

/// Where a byte of a section stands on the device.
fn at(place: &ColdPlace, byte: u32) -> u64 {
    geometry().file_offset(place.file).0 + u64::from(place.offset + byte)
}

fn fsck(folder: &Folder) -> Said {
    run(folder, &["fsck", DISK, "--json"])
}

/// The line of what was covered, and the findings: grade, of.
fn told(said: &Said) -> (Value, Vec<(String, String)>) {
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let coverage = lines.iter().find(|line| line["part"] == "cold").unwrap().clone();
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    let findings = lines.iter().filter(|line| line["part"] == "finding");
    (coverage, findings.map(|line| (text(line, "grade"), text(line, "of"))).collect())
}

fn number(coverage: &Value, name: &str) -> u64 {
    coverage[name].as_u64().unwrap()
}

#[test]
fn a_sound_disk_is_covered_whole() {
    let (folder, sunk) = with_sections();
    let said = fsck(&folder);
    let (coverage, findings) = told(&said);
    assert_eq!((said.exit, findings), (0, vec![]), "{said:?}");
    let of = ["copies_good", "files_used", "sections", "sections_sound", "records"]
        .map(|name| number(&coverage, name));
    assert_eq!(of, [3, 1, 5, 5, 1300]);
    let bytes: u64 = sunk.iter().map(|sunk| u64::from(sunk.place.content_bytes)).sum();
    assert_eq!([number(&coverage, "bytes_in_use"), number(&coverage, "bytes_read")], [bytes, bytes]);
    assert!(run(&folder, &["fsck", DISK]).done().ends_with("sound\n"));

    // What a node frees counts no more, whatever becomes of it.
    let server = start(&folder, &[DISK]);
    assert_eq!(fsck(&folder).exit, 3, "a node uses it");
    let core = core();
    let way = way(core.io(), &server.endpoint);
    core.block_on(way.ask(&ColdRequest::Free { place: sunk[1].place })).unwrap();
    drop(way);
    server.kill();
    damage(&folder, at(&sunk[1].place, 100), &[0xff; 16]);
    let (coverage, findings) = told(&fsck(&folder));
    assert_eq!(findings, vec![]);
    assert_eq!(["sections", "sections_freed"].map(|name| number(&coverage, name)), [3, 2]);
}

#[test]
fn each_damaged_section_is_found_and_no_other() {
    let (folder, sunk) = with_sections();
    let places: Vec<ColdPlace> = sunk[0].places().collect();
    // A byte of the data of the second section of the first run.
    damage(&folder, at(&places[1], 200), b"rot");
    let said = fsck(&folder);
    let (coverage, findings) = told(&said);
    assert_eq!((said.exit, findings), (1, vec![("damage".to_owned(), "section".to_owned())]), "{said:?}");
    assert!(said.out.contains(&format!("bucket {}", places[1].whom.bucket.get())), "{said:?}");
    assert_eq!(["sections", "sections_sound", "records"].map(|name| number(&coverage, name)), [5, 4, 900]);
    assert!(number(&coverage, "bytes_read") < number(&coverage, "bytes_in_use"));
    // The node says of the same records that they are corrupt, and has the others.
    let server = start(&folder, &[DISK]);
    let core = core();
    let way = way(core.io(), &server.endpoint);
    let (right, corrupt) = core.block_on(get_all(&way, &sunk[0]));
    assert!(corrupt > 0 && right >= 800 && right + corrupt == 1200, "{right}, {corrupt}");
    assert_eq!(core.block_on(get_all(&way, &sunk[1])), (100, 0));
    drop(way);
    assert_eq!(server.stop().1, 0);
    // The last byte of the last section of the other run: of its index.
    let last = sunk[1].places().last().unwrap();
    damage(&folder, at(&last, last.content_bytes - 1), &[0x5a]);
    assert_eq!(told(&fsck(&folder)).1.len(), 2);
    // The header of the first section of the first run: those behind it are found by their own.
    damage(&folder, at(&places[0], 20), &[0xee; 4]);
    let said = fsck(&folder);
    let (coverage, findings) = told(&said);
    assert_eq!((findings.len(), number(&coverage, "sections_sound")), (3, 2), "{said:?}");
    assert_eq!(said.out.matches("is not found").count(), 1, "{said:?}");
}

#[test]
fn copies_that_are_bad_are_warned_of_and_nothing_is_lost() {
    let (folder, _) = with_sections();
    let bad = |of: &str| ("warning".to_owned(), of.to_owned());
    damage(&folder, geometry().copy_offset(1).0 + 50, &[0xff]);
    let said = fsck(&folder);
    let (coverage, findings) = told(&said);
    assert_eq!((said.exit, findings, number(&coverage, "copies_good")), (1, vec![bad("superblock")], 2));
    assert!(run(&folder, &["fsck", DISK]).out.ends_with("damaged, and nothing is lost\n"));
    damage(&folder, geometry().kept_offset(0, 1).0 + 200, &[0xff]);
    assert_eq!(told(&fsck(&folder)).1, [bad("superblock"), bad("kept places")]);
    // One slot of the file's entry, the other says enough or the file is walked.
    damage(&folder, geometry().slot_offset(0, 0).0 + 60, &[0xff]);
    let (coverage, findings) = told(&fsck(&folder));
    assert_eq!(findings, [bad("superblock"), bad("kept places"), bad("file table")]);
    assert_eq!(number(&coverage, "sections_sound"), 5);
    // Both: what was freed counts again, and all sections are still found.
    damage(&folder, geometry().slot_offset(0, 1).0 + 60, &[0xff]);
    damage(&folder, geometry().kept_offset(0, 0).0 + 200, &[0xff]);
    let (coverage, findings) = told(&fsck(&folder));
    let damage_of = |of: &str| ("damage".to_owned(), of.to_owned());
    assert_eq!(findings, [bad("superblock"), damage_of("kept places"), damage_of("file table")]);
    assert_eq!(number(&coverage, "sections_sound"), 5);
    // Without any copy of the superblock there is nothing to check by.
    for copy in [0, 2] {
        damage(&folder, geometry().copy_offset(copy).0 + 50, &[0xff]);
    }
    assert!(fsck(&folder).error(3).contains("none of the superblock copies"));
}

/// Failing history otherwise: a section larger than any buffer cannot be read by who checks it, and is never checked.
#[test]
fn a_section_larger_than_any_buffer_is_checked_to_its_last_byte() {
    let folder = Folder::new();
    make_large_disk(&folder, DISK);
    let server = start(&folder, &[DISK]);
    let core = core();
    let way = way(core.io(), &server.endpoint);
    let sunk = core.block_on(sink_large(&way, 1, 200, 100_000));
    drop(way);
    assert_eq!(server.stop().1, 0);
    assert!(sunk.place.content_bytes as usize > ioengine::buffer::BUFFER_BYTES_MAX);
    let (coverage, findings) = told(&fsck(&folder));
    assert_eq!((findings, number(&coverage, "records")), (vec![], 200));
    assert_eq!(number(&coverage, "bytes_read"), u64::from(sunk.place.content_bytes));
    let geometry = ColdGeometry::plan(80 << 20, 32 << 20, u32::MAX).unwrap();
    let last =
        geometry.file_offset(sunk.place.file).0 + u64::from(sunk.place.offset + sunk.place.content_bytes - 1);
    damage(&folder, last, &[0x5a]);
    assert_eq!(told(&fsck(&folder)).1.len(), 1);
}
