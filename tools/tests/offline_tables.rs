//! Disks with tables, looked at without a node: a sound one is found sound, and each single damage is found, named where it
//! is, and shown by `inspect` without a crash.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]
#![expect(clippy::disallowed_methods, reason = "tests change the bytes of a disk")]

mod support;

use std::sync::LazyLock;

use layout::journal_frame::FrameChecksum;
use layout::journal_record::RecordWriter;
use layout::manifest::{AddTable, Edit, EditWriter, ExtentRange, Extents, SetJournalStart};
use layout::manifest_record::{ManifestKind, seal};
use layout::superblock::{SUPERBLOCK_BYTES, Superblock, copy_offset};
use layout::units::{Incarnation, Sequence, TableId};
use serde_json::Value;
use shard::examine::Site;
use shard::manifest::{Reading, read_image};
use support::{Folder, Said, Server, run, serve_small};

/// Bytes of the disk.
const DISK_BYTES: usize = 6 << 20;
/// Records on it.
const RECORD_COUNT: u64 = 1500;

fn settings() -> Vec<&'static str> {
    serve_small(&[
        "limits.block_bytes=1024",
        "limits.block_cache_bytes=1MiB",
        // Blocks of one size, so that they can change places.
        "limits.run_level=0",
        "limits.merge_fan_in=3",
    ])
}

/// Records of four streams, each of 300 bytes.
fn records(times: std::ops::Range<u64>) -> String {
    let value = "v".repeat(300);
    let line = |time: u64| {
        format!("{{\"stream\":\"s{}\",\"time_us\":{},\"value\":\"{value}\"}}\n", time % 4, 1_000_000 + time)
    };
    times.map(line).collect()
}

/// Serves the disk, imports, and stops: cleanly, or by kill -9.
fn fill(folder: &Folder, times: std::ops::Range<u64>, kill: bool) -> Vec<u8> {
    let server = Server::start(folder, &settings());
    folder.write("in.ndjson", records(times));
    server.run(folder, &["import", "in.ndjson"]).done();
    if kill {
        server.kill();
    } else {
        assert_eq!(server.stop().1, 0);
    }
    std::fs::read(folder.path("disk")).unwrap()
}

/// A disk that was served twice, and killed the second time: after the first time, and in the end. Made once.
static DISKS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let folder = Folder::new();
    let format = "disk format disk --create 6MiB --shards 1 --segment 128KiB --journal 2MiB --yes";
    run(&folder, &format.split(' ').collect::<Vec<_>>()).done();
    let disks = [fill(&folder, 0..400, false), fill(&folder, 400..RECORD_COUNT, true)];
    assert!(disks.iter().all(|disk| disk.len() == DISK_BYTES));
    disks
});

/// A folder with that disk, as it was in the end.
fn with_disk() -> (Folder, Vec<u8>) {
    let folder = Folder::new();
    folder.write("disk", &DISKS[1]);
    (folder, DISKS[1].clone())
}

fn lines(said: &str) -> Vec<Value> {
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A part of a table, or of what else is inspected.
#[derive(Debug, Clone)]
struct Part {
    name: String,
    at: usize,
    bytes: usize,
}

fn number_before(text: &str, word: &str) -> usize {
    text.split(word).next().unwrap().rsplit(' ').find(|part| !part.is_empty()).unwrap().parse().unwrap()
}

/// The parts of table `number`.
fn parts(folder: &Folder, number: u64) -> Vec<Part> {
    let shown = run(folder, &["inspect", "table", "disk", &number.to_string(), "--json"]).done();
    let of_interest = |line: &Value| {
        let (name, value) = (line["name"].as_str()?, line["value"].as_str()?);
        let (name, bytes) = match name {
            "block" => ("block", number_before(value.split(',').nth(1)?, " bytes")),
            "filter" | "index" => (name, number_before(value, " bytes")),
            "magic" => ("footer", 512),
            _ => return None,
        };
        Some(Part { name: name.to_owned(), at: line["at"].as_u64()? as usize, bytes })
    };
    lines(&shown).iter().filter_map(of_interest).collect()
}

/// The numbers of the tables, those with the most bytes first.
fn tables(folder: &Folder) -> Vec<u64> {
    let shown = run(folder, &["inspect", "table", "disk", "--json"]).done();
    let all = lines(&shown);
    let values = all.iter().filter(|line| line["name"] == "table").filter_map(|line| line["value"].as_str());
    let mut sized: Vec<_> = values
        .map(|value| (number_before(value, " bytes in"), number_before(value, " of tablet") as u64))
        .collect();
    sized.sort_unstable_by(|a, b| b.cmp(a));
    sized.into_iter().map(|(_, number)| number).collect()
}

/// Place and bytes of the state.
fn state(folder: &Folder) -> Part {
    let shown = run(folder, &["inspect", "manifest", "disk", "--json"]).done();
    let all = lines(&shown);
    let line = all.iter().find(|line| line["name"] == "state").unwrap();
    let bytes = number_before(line["value"].as_str().unwrap(), " bytes");
    Part { name: "state".to_owned(), at: line["at"].as_u64().unwrap() as usize, bytes }
}

/// Looks at a damaged disk in every way; what `fsck` says.
fn look(folder: &Folder, disk: &[u8], table: u64, what: &str) -> Said {
    folder.write("damaged", disk);
    let number = table.to_string();
    for arguments in [
        &["inspect", "manifest", "damaged"][..],
        &["inspect", "table", "damaged"],
        &["inspect", "table", "damaged", &number, "--records", "--json"],
        &["inspect", "state", "damaged", "--all"],
    ] {
        let said = run(folder, arguments);
        assert!((0..=1).contains(&said.exit), "{what}: {arguments:?}: {said:?}");
    }
    run(folder, &["fsck", "damaged", "--json"])
}

/// What `fsck` found: grade, of what, what.
fn findings(said: &Said) -> Vec<(String, String, String)> {
    let all = lines(&said.out);
    let found = all.iter().filter(|line| line["part"] == "finding");
    found
        .map(|line| ["grade", "of", "what"].map(|name| line[name].as_str().unwrap().to_owned()).into())
        .collect()
}

/// `fsck` finds something wrong with this part alone, so bad, and says these words of it.
#[track_caller]
fn is_named(said: &Said, grade: &str, of: &str, word: &str) {
    let found = findings(said);
    assert_eq!((said.exit, &said.json()["sound"]), (1, &Value::Bool(false)), "{said:?}");
    assert!(found.iter().all(|(_, of_what, _)| of_what.starts_with(of)), "{of}: {found:?}");
    assert!(
        found.iter().any(|(is, _, what)| is == grade && what.contains(word)),
        "{grade} {word}: {found:?}"
    );
}

fn swap(disk: &mut [u8], a: usize, b: usize, bytes: usize) {
    let kept = disk[a..a + bytes].to_vec();
    disk.copy_within(b..b + bytes, a);
    disk[b..b + bytes].copy_from_slice(&kept);
}

#[test]
fn a_sound_disk_with_tables_is_found_sound_and_read_whole() {
    let (folder, disk) = with_disk();
    for name in ["disk", "again"] {
        folder.write(name, &disk);
        let said = run(&folder, &["fsck", name, "--json"]);
        assert_eq!((said.exit, findings(&said)), (0, Vec::new()), "{said:?}");
        let all = lines(&said.out);
        let tables = all.iter().find(|line| line["part"] == "tables").unwrap();
        assert!(tables["tables"].as_u64() > Some(4) && tables["blocks"].as_u64() > Some(100), "{tables}");
        assert_eq!(tables["bytes_read"], tables["bytes_in_use"], "all of it was read");
        let journal = all.iter().find(|line| line["part"] == "journal").unwrap();
        // It goes round, so where it begins says nothing.
        assert!(journal["operations"].as_u64() < Some(RECORD_COUNT), "the journal was trimmed: {journal}");
        let records = tables["records"].as_u64().unwrap() + journal["operations"].as_u64().unwrap();
        assert!(records >= RECORD_COUNT, "each record is in a table or in the journal: {records}");
    }
    let both = run(&folder, &["fsck", "disk", "again", "--json"]);
    assert_eq!((both.exit, both.out.matches("\"verdict\":\"whole\"").count()), (0, 2), "{both:?}");
    for arguments in ["inspect manifest disk", "inspect table disk", "inspect state disk --all"] {
        let said = run(&folder, &arguments.split(' ').collect::<Vec<_>>()).done();
        assert!(!said.contains("WRONG"), "{arguments}: {said}");
    }
    let largest = tables(&folder)[0].to_string();
    let shown = run(&folder, &["inspect", "table", "disk", &largest, "--records", "--limit", "7"]).done();
    assert_eq!((shown.matches("  record ").count(), shown.contains("WRONG")), (7, false), "{shown}");
    let block = parts(&folder, tables(&folder)[0])[3].at.to_string();
    let by_address = run(&folder, &["inspect", "table", "disk", "--at", &block]).done();
    assert!(by_address.starts_with(&format!("table {largest} of")), "{by_address}");
    let server = Server::start(&folder, &settings());
    let export = server.run(&folder, &["export"]).done();
    assert_eq!(export.lines().count() as u64, RECORD_COUNT, "a start finds what fsck found");
    assert_eq!(server.stop().1, 0);
}

#[test]
fn each_damage_of_a_table_is_named_and_never_a_crash() {
    let (folder, disk) = with_disk();
    let all = tables(&folder);
    let table = all[0];
    let parts = parts(&folder, table);
    let title = format!("table {table} of tablet");
    let of = |name: &str| parts.iter().filter(|part| part.name == name).cloned().collect::<Vec<_>>();
    let blocks = of("block");
    assert!(blocks.len() >= 8, "{parts:?}");
    let mut random = 7_usize;
    for name in ["block", "filter", "index", "footer"] {
        for part in of(name).iter().take(3) {
            // A flipped bit anywhere, and zeros all over.
            for _ in 0..3 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let mut damaged = disk.clone();
                damaged[part.at + (random >> 33) % part.bytes] ^= 1 << (random >> 60 & 7);
                let said = look(&folder, &damaged, table, name);
                is_named(&said, "damage", &title, name);
            }
            let mut damaged = disk.clone();
            damaged[part.at..part.at + part.bytes].fill(0);
            let said = look(&folder, &damaged, table, name);
            is_named(&said, "damage", &title, name);
            let shown = run(&folder, &["inspect", "table", "damaged", &table.to_string()]).done();
            assert!(shown.contains("WRONG"), "{shown}");
        }
    }
    // Blocks that are right where they belong.
    let pairs = blocks.iter().enumerate().flat_map(|(n, a)| blocks[n + 1..].iter().map(move |b| (a, b)));
    let (a, b) = pairs.into_iter().find(|(a, b)| a.bytes == b.bytes).unwrap();
    let mut damaged = disk.clone();
    swap(&mut damaged, a.at, b.at, a.bytes);
    let said = look(&folder, &damaged, table, "two blocks of a table");
    is_named(&said, "damage", &title, "checksum: expected");
    assert_eq!(findings(&said).len(), 2, "{said:?}");
    let shown = run(&folder, &["inspect", "table", "damaged", &table.to_string(), "--records"]).done();
    assert_eq!(
        shown.lines().filter(|line| line.contains("WRONG")).count(),
        3,
        "two blocks and the whole; the others are shown: {shown}"
    );
    let other = self::parts(&folder, all[1]).into_iter().find(|part| part.name == "block").unwrap();
    let bytes = blocks[0].bytes.min(other.bytes);
    let mut damaged = disk.clone();
    swap(&mut damaged, blocks[0].at, other.at, bytes);
    let said = look(&folder, &damaged, table, "blocks of two tables");
    is_named(&said, "damage", "table ", "checksum: expected");
    let titles: std::collections::BTreeSet<_> = findings(&said).into_iter().map(|(_, of, _)| of).collect();
    assert_eq!(titles.len(), 2, "both tables are named: {said:?}");
    // Without a footer the blocks are found all the same.
    let footer = &of("footer")[0];
    let mut damaged = disk.clone();
    damaged[footer.at..footer.at + 512].fill(0xee);
    folder.write("damaged", &damaged);
    let shown = run(&folder, &["inspect", "table", "damaged", &table.to_string()]).done();
    assert!(shown.matches(" block ").count() >= blocks.len(), "{shown}");
}

#[test]
fn each_damage_of_the_state_and_a_cut_are_named() {
    let (folder, disk) = with_disk();
    let state = state(&folder);
    for (at, bytes) in
        [(3, 1), (20, 1), (state.bytes / 2, 1), (state.bytes - 5, 1), (0, state.bytes), (4096, 4096)]
    {
        let mut damaged = disk.clone();
        let end = (at + bytes).min(state.bytes);
        damaged[state.at + at..state.at + end]
            .iter_mut()
            .for_each(|byte| *byte = if bytes == 1 { *byte ^ 4 } else { 0 });
        let said = look(&folder, &damaged, 1, "state");
        is_named(&said, "damage", "state", "");
        let shown = run(&folder, &["inspect", "state", "damaged"]).done();
        assert!(shown.contains("WRONG"), "{shown}");
    }
    for bytes in [DISK_BYTES - 4096, DISK_BYTES / 2, 1 << 20] {
        let said = look(&folder, &disk[..bytes], 1, "a cut file");
        assert_eq!(said.exit, 3, "{said:?}");
        assert!(said.err.contains("bring back what was cut off"), "{said:?}");
    }
}

/// A disk's manifest, found in its bytes.
struct Manifest {
    superblock: Superblock,
    site: Site,
    reading: Reading,
}

fn manifest(disk: &[u8]) -> Manifest {
    let at = copy_offset(0);
    let block = disk[at.0 as usize..][..SUPERBLOCK_BYTES].try_into().unwrap();
    let superblock = Superblock::decode(block, at).unwrap();
    let site = Site::new(&superblock, 0);
    let half = |copy: usize, half: usize| {
        let from = site.manifest().offset(copy, half, 0).0 as usize;
        disk[from..from + site.manifest().half_bytes() as usize].to_vec()
    };
    let reading = read_image(site.manifest(), [[half(0, 0), half(0, 1)], [half(1, 0), half(1, 1)]]);
    Manifest { superblock, site, reading }
}

impl Manifest {
    /// Writes one more record, right in all but what it says.
    fn append(&self, disk: &mut [u8], edits: &[Edit<'_>]) {
        let mut body = EditWriter::new();
        edits.iter().for_each(|edit| body.append(edit));
        let Reading { sequence, half, end, incarnation_max, .. } = self.reading;
        let snapshot = Sequence(sequence.0 - self.reading.edits.len() as u64);
        for copy in 0..2 {
            let mut record = vec![0; 8192];
            let mut writer = RecordWriter::new(&mut record);
            assert!(writer.append(body.bytes()));
            let zones = self.site.manifest();
            let (at, checksum) = (zones.offset(copy, half, end), FrameChecksum::manifest(zones.identity));
            let kind = ManifestKind::Edit { snapshot };
            let bytes = seal(writer, &checksum, at, incarnation_max, Sequence(sequence.0 + 1), kind);
            disk[at.0 as usize..][..bytes].copy_from_slice(&record[..bytes]);
        }
    }
}

#[test]
fn a_manifest_damaged_in_one_copy_is_a_warning_in_both_the_end() {
    let (folder, disk) = with_disk();
    let first = &DISKS[0];
    let Manifest { site, reading, .. } = manifest(&disk);
    assert!(reading.edits.len() > 2, "{reading:?}");
    let zones = site.manifest();
    let place = |copy: usize| zones.offset(copy, reading.half, 0).0 as usize;
    let half_bytes = zones.half_bytes() as usize;
    // The first record, the last one, one between.
    for at in [700, reading.end as usize - 4096 + 60, reading.end as usize / 2 / 4096 * 4096 + 200] {
        let mut damaged = disk.clone();
        for copy in 0..2 {
            damaged[place(copy) + at] ^= 0x20;
            let said = look(&folder, &damaged, 1, "manifest");
            if copy == 0 {
                is_named(&said, "mends", "manifest", "one of the two copies");
                assert_eq!((&said.json()["damages"], &said.json()["warnings"]), (&0.into(), &1.into()));
            } else {
                is_named(&said, "damage", "manifest", "cop");
                let shown = run(&folder, &["inspect", "manifest", "damaged"]);
                assert!(
                    shown.exit == 1 && shown.out.contains("WRONG") && shown.out.contains("DAMAGED"),
                    "{shown:?}"
                );
            }
        }
    }
    // Rot in a half that is not in force is none.
    let mut damaged = disk.clone();
    damaged[zones.offset(1, 1 - reading.half, 0).0 as usize + 700] ^= 1;
    assert_eq!(look(&folder, &damaged, 1, "the other half").exit, 0);
    // One copy as it was before the second start.
    let mut stale = disk.clone();
    stale[place(1)..place(1) + half_bytes].copy_from_slice(&first[place(1)..place(1) + half_bytes]);
    is_named(&look(&folder, &stale, 1, "a stale half"), "mends", "manifest", "one of the two copies");
    // Both copies whole: an older manifest is whole, and the journal is of a later start.
    let all = zones.offset(0, 0, 0).0 as usize..zones.offset(1, 1, 0).0 as usize + half_bytes;
    stale[all.clone()].copy_from_slice(&first[all]);
    let said = look(&folder, &stale, 1, "two stale copies");
    assert_eq!((said.exit, &said.json()["sound"]), (1, &Value::Bool(false)), "{said:?}");
    let journal = lines(&said.out).into_iter().find(|line| line["part"] == "journal").unwrap();
    assert_eq!(journal["tablets_damaged"].as_array().unwrap().len(), 64, "{journal}");
}

#[test]
fn a_manifest_that_says_what_cannot_be_is_named() {
    let (folder, disk) = with_disk();
    let manifest = manifest(&disk);
    let names = manifest.site.names(&manifest.reading).unwrap();
    let (&id, named) = names.tables.last_key_value().unwrap();
    let facts = &named.facts;
    let add = |table: u64, ranges: &'static [ExtentRange], facts: AddTable<'static>| {
        Edit::AddTable(AddTable { table: TableId(table), extents: Extents::List(ranges), ..facts })
    };
    let used: Vec<_> = names
        .tables
        .values()
        .flat_map(|table| &table.ranges)
        .chain(&names.state.as_ref().unwrap().ranges)
        .collect();
    let is_free =
        |extent: &u32| used.iter().all(|range| !(range.first..range.first + range.count).contains(extent));
    let first = (0..200).find(is_free).unwrap();
    let free: &'static [ExtentRange] = Box::leak(Box::new([ExtentRange { first, count: 1 }]));
    let taken: &'static [ExtentRange] = Box::leak(named.ranges.clone().into_boxed_slice());
    let mut more = named.ranges.clone();
    more.push(free[0]);
    let more: &'static [ExtentRange] = Box::leak(more.into_boxed_slice());
    let remove = Edit::RemoveTable(TableId(id));
    let start = SetJournalStart { at: 1 << 40, incarnation: Incarnation(1), sequence: Sequence(1) };
    let high = layout::units::LogIndex(1 << 40);
    let cases = [
        (vec![add(id + 1, taken, *facts)], "damage", "manifest", "extents twice"),
        (vec![Edit::SetJournalStart(start)], "damage", "manifest", "begins the journal"),
        (vec![Edit::RemoveTable(TableId(1 << 50))], "damage", "manifest", "cannot be understood"),
        (vec![remove, add(id, more, *facts)], "leak", "table ", "extents"),
        (vec![Edit::SetNextTableId(TableId(1))], "damage", "", "not below 1"),
        (
            vec![remove, add(id, taken, AddTable { log_index_max: high, ..*facts })],
            "damage",
            "table ",
            "had applied",
        ),
        (
            vec![remove, add(id, taken, AddTable { checksum: 7, ..*facts })],
            "damage",
            "table ",
            "checksum of the table",
        ),
        (
            vec![remove, add(id, taken, AddTable { time_max: 1 << 60, ..*facts })],
            "damage",
            "table ",
            "time_max",
        ),
        (
            vec![add(id + 1, free, AddTable { bytes: 2048, data_bytes: 100, ..*facts })],
            "damage",
            "table ",
            "footer",
        ),
    ];
    assert_eq!(manifest.superblock.shard_count, 1);
    for (edits, grade, of, word) in cases {
        let mut damaged = disk.clone();
        manifest.append(&mut damaged, &edits);
        is_named(&look(&folder, &damaged, id, word), grade, of, word);
    }
    // A record that says nothing new is no damage, also when the crash came before its second copy.
    let mut torn = disk.clone();
    manifest.append(&mut torn, &[Edit::SetNextTableId(TableId(names.next_table))]);
    let zones = manifest.site.manifest();
    let at = zones.offset(1, manifest.reading.half, manifest.reading.end).0 as usize;
    torn[at..at + 4096].copy_from_slice(&disk[at..at + 4096]);
    let said = look(&folder, &torn, id, "a last record in one copy");
    assert_eq!((said.exit, findings(&said)), (0, Vec::new()), "{said:?}");
    assert!(said.out.contains("\"records_in_one_copy\":1"), "{said:?}");
}
