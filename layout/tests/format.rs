//! FORMAT.md and the code say the same: every byte table, every constant, every known bucket.
//!
//! Reads the document as text, so that a number changed on one side only fails here.

use std::collections::BTreeMap;

use layout::key::{bucket_of, tablet_of};
use layout::units::Space;
use layout::{
    cold_disk, cold_file, cold_section, journal_record, superblock, table, table_block, table_footer,
    table_seal, tablet_state, units, value_ring, version_cell, zone,
};

const DOCUMENT: &str = concat!(
    include_str!("../FORMAT.md"),
    include_str!("../FORMAT_MANIFEST.md"),
    include_str!("../FORMAT_TABLE.md"),
    "\n",
    include_str!("../FORMAT_LOG.md"),
    include_str!("../FORMAT_RING.md"),
    include_str!("../FORMAT_COLD.md"),
    "\n",
    include_str!("../FORMAT_SINK.md")
);

/// A table of the document: its size and its rows (offset, bytes, field).
type Documented = (usize, Vec<(usize, usize, String)>);

/// The cells of a table row, or `None` for other lines, header rows and rules.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// `### Table: name (N bytes)` and the rows that follow it.
fn documented_tables(document: &str) -> BTreeMap<String, Documented> {
    let mut tables: BTreeMap<String, Documented> = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in document.lines() {
        if line.starts_with('#') {
            current = line.strip_prefix("### Table: ").map(|title| {
                let (name, size) = title.split_once(" (").expect("a table's title ends with its size");
                let size = size.strip_suffix(" bytes)").expect("sizes are in bytes");
                let size = size.parse().expect("a size is a number");
                let before = tables.insert(name.to_string(), (size, Vec::new()));
                assert!(before.is_none(), "two tables {name}");
                name.to_string()
            });
        }
        let (Some(name), Some(row)) = (&current, cells(line)) else { continue };
        let [offset, bytes, field, _meaning] = row[..] else { continue };
        let (Ok(offset), Ok(bytes)) = (offset.parse(), bytes.parse()) else { continue };
        let table = tables.get_mut(name).expect("inserted at its title");
        table.1.push((offset, bytes, field.to_string()));
    }
    tables
}

fn coded_tables() -> BTreeMap<String, Documented> {
    let tables = layout::byte_tables();
    tables
        .iter()
        .map(|table| {
            let rows = table.fields.iter().map(|f| (f.offset, f.bytes, f.name.to_string())).collect();
            (table.structure.to_string(), (table.bytes, rows))
        })
        .collect()
}

#[test]
fn byte_tables_of_document_and_code_agree() {
    let (documented, coded) = (documented_tables(DOCUMENT), coded_tables());
    assert_eq!(coded.len(), layout::byte_tables().len(), "two structures of one name");
    for (name, table) in &coded {
        assert_eq!(documented.get(name), Some(table), "table {name}: left is FORMAT.md, right is the code");
    }
    let unknown: Vec<_> = documented.keys().filter(|name| !coded.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "FORMAT.md has tables that the code has not: {unknown:?}");
}

/// The comparison itself is able to fail: any number or name changed in the document is seen.
#[test]
fn a_changed_document_is_seen() {
    let coded = coded_tables();
    for (from, to) in [
        ("| 24 | 8 | sequence |", "| 24 | 4 | sequence |"),
        ("| 24 | 8 | sequence |", "| 28 | 8 | sequence |"),
        ("| 24 | 8 | sequence |", "| 24 | 8 | sequenc |"),
        ("| 24 | 8 | sequence | number of this state, from 1 |\n", ""),
        ("journal frame (512 bytes)", "journal frame (511 bytes)"),
        ("### Table: compare (32 bytes)", "### Compare (24 bytes)"),
    ] {
        let changed = DOCUMENT.replacen(from, to, 1);
        assert_ne!(changed, DOCUMENT, "{from} is in the document");
        assert_ne!(documented_tables(&changed), coded, "{from} -> {to}");
    }
}

#[test]
fn constants_of_document_and_code_agree() {
    let coded: BTreeMap<&str, u64> = [
        ("BUCKET_COUNT", u64::from(units::BUCKET_COUNT)),
        ("TABLET_COUNT", units::TABLET_COUNT as u64),
        ("SHARD_COUNT_MAX", units::SHARD_COUNT_MAX as u64),
        ("STREAM_BYTES_MAX", units::STREAM_BYTES_MAX as u64),
        ("VALUE_BYTES_MAX", units::VALUE_BYTES_MAX as u64),
        ("ENTRY_OPERATION_COUNT_MAX", units::ENTRY_OPERATION_COUNT_MAX as u64),
        ("ENTRY_BODY_BYTES_MAX", units::ENTRY_BODY_BYTES_MAX as u64),
        ("BLOCK_BYTES", units::BLOCK_BYTES as u64),
        ("SECTOR_BYTES", units::SECTOR_BYTES as u64),
        ("HEADER_AREA_BYTES", zone::HEADER_AREA_BYTES),
        ("SEGMENT_BYTES_MIN", zone::SEGMENT_BYTES_MIN),
        ("SEGMENT_BYTES_MAX", zone::SEGMENT_BYTES_MAX),
        ("SEGMENT_BYTES_DEFAULT", zone::SEGMENT_BYTES_DEFAULT),
        ("SEGMENT_COUNT_MIN", zone::SEGMENT_COUNT_MIN),
        ("FIRST_BODY_BYTES", journal_record::FIRST_BODY_BYTES as u64),
        ("FRAME_PAYLOAD_BYTES", journal_record::FRAME_PAYLOAD_BYTES as u64),
        ("COPY_COUNT", superblock::COPY_COUNT as u64),
        ("CELL_COUNT", version_cell::CELL_COUNT as u64),
        ("TABLE_KEY_BYTES_MAX", table::TABLE_KEY_BYTES_MAX as u64),
        ("RESTART_COUNT", table::RESTART_COUNT as u64),
        ("BLOCK_RAW_BYTES_MAX", table_block::BLOCK_RAW_BYTES_MAX as u64),
        ("PART_BYTES_MAX", table::PART_BYTES_MAX as u64),
        ("FOOTER_BYTES", table::FOOTER_BYTES as u64),
    ]
    .into();
    let section = DOCUMENT.split("\n## Constants\n").nth(1).expect("a section of constants");
    let section = section.split("\n## ").next().expect("its end");
    let documented: BTreeMap<&str, u64> = section
        .lines()
        .filter_map(cells)
        .filter_map(|row| match row[..] {
            [name, value] => Some((name, value.parse().ok()?)),
            _ => None,
        })
        .collect();
    assert_eq!(documented, coded);
}

#[test]
fn known_buckets_of_the_document_hold() {
    let rows: Vec<_> = DOCUMENT.lines().filter_map(cells).collect();
    let title = ["space", "stream", "bucket", "tablet"];
    let start = rows.iter().position(|row| row[..] == title).expect("a table of known buckets");
    let known = rows[start + 2..].iter().take_while(|row| row.len() == 4 && row[1].starts_with('`'));
    let mut count = 0;
    for row in known {
        let space = Space(row[0].parse().expect("a space"));
        let bucket = bucket_of(space, row[1].trim_matches('`').as_bytes());
        assert_eq!(bucket.to_string(), row[2], "{row:?}");
        assert_eq!(tablet_of(bucket).to_string(), row[3], "{row:?}");
        count += 1;
    }
    assert_eq!(count, 3);
}

/// Magics stand in the document as text.
#[test]
fn magics_are_in_the_document() {
    let magics: [&[u8]; 13] = [
        &superblock::MAGIC,
        &journal_record::FRAME_MAGIC,
        &journal_record::RECORD_MAGIC,
        &version_cell::MAGIC,
        &table_seal::RUN_MAGIC,
        &table_seal::SEALED_MAGIC,
        &table_footer::FOOTER_MAGIC,
        &tablet_state::STATE_MAGIC,
        &value_ring::MAGIC,
        &cold_disk::COLD_MAGIC,
        &cold_file::FILE_SLOT_MAGIC,
        &cold_section::SECTION_MAGIC,
        &cold_section::SECTION_BLOCK_MAGIC,
    ];
    for magic in magics {
        let row = format!("| magic | `{}` |", magic.escape_ascii());
        assert!(DOCUMENT.contains(&row), "{row}");
    }
}
