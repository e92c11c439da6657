//! PROTOCOL.md, EXAMPLES.md and the code say the same: every byte table, every code, every limit, every example.

use std::collections::BTreeMap;

use net::frame::{BODY_BYTES_BEFORE_HELLO, BODY_BYTES_MAX, PORT_DEFAULT, next_frame};
use net::outcome::{Limit, OutcomeCode, Why};
use net::session::ServerLimits;
use net::{Operation, Reply, Request};
use serde_json::Value;

const DOCUMENT: &str = concat!(include_str!("../PROTOCOL.md"), "\n", include_str!("../COLD.md"));
const EXAMPLES: &str = include_str!("../EXAMPLES.md");
const VECTORS: &str = include_str!("../golden/vectors.json");

/// The cells of a table row, or None for other lines.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// The rows under each heading of level three whose first cell is a number.
fn sections() -> BTreeMap<&'static str, Vec<Vec<&'static str>>> {
    let mut sections: BTreeMap<&str, Vec<Vec<&str>>> = BTreeMap::new();
    let mut current = None;
    for line in DOCUMENT.lines() {
        if line.starts_with('#') {
            current = line.strip_prefix("### ");
            if let Some(title) = current {
                assert!(sections.insert(title, Vec::new()).is_none(), "two sections {title}");
            }
        }
        let (Some(title), Some(row)) = (current, cells(line)) else { continue };
        if row[0].parse::<u32>().is_ok() {
            sections.get_mut(title).expect("inserted at its title").push(row);
        }
    }
    sections
}

#[test]
fn byte_tables_agree() {
    let sections = sections();
    let documented: Vec<&str> =
        sections.keys().copied().filter(|title| title.starts_with("Table: ")).collect();
    let mut coded = Vec::new();
    for table in net::field::tables() {
        let title = format!("Table: {} ({} bytes)", table.structure, table.bytes);
        let rows =
            sections.get(title.as_str()).unwrap_or_else(|| panic!("PROTOCOL.md has no section {title}"));
        let said: Vec<(usize, usize, &str)> = rows
            .iter()
            .map(|row| (row[0].parse().expect("an offset"), row[1].parse().expect("bytes"), row[2]))
            .collect();
        let is: Vec<(usize, usize, &str)> =
            table.fields.iter().map(|f| (f.offset, f.bytes, f.name)).collect();
        assert_eq!(said, is, "{title}");
        coded.push(title);
    }
    coded.sort();
    let mut documented: Vec<String> = documented.into_iter().map(str::to_owned).collect();
    documented.sort();
    assert_eq!(documented, coded, "tables of the document and of the code");
}

#[test]
fn codes_agree() {
    let sections = sections();
    let said = |title: &str| -> Vec<(u8, &str)> {
        sections[title].iter().map(|row| (row[0].parse().expect("a code"), row[1])).collect()
    };
    let operations: Vec<_> = Operation::ALL.iter().map(|o| (o.code(), o.name())).collect();
    assert_eq!(said("Codes: operations"), operations);
    let of_cold: Vec<_> = Operation::COLD.iter().map(|o| (o.code(), o.name())).collect();
    assert_eq!(said("Codes: operations of cold disks"), of_cold);
    let outcomes: Vec<_> = OutcomeCode::ALL.iter().map(|o| (o.code(), o.name())).collect();
    assert_eq!(said("Codes: outcomes"), outcomes);
    let limits: Vec<_> = Limit::ALL.iter().map(|l| (l.code(), l.name())).collect();
    assert_eq!(said("Codes: limits"), limits);
    let whys: Vec<_> = Why::ALL.iter().map(|w| (w.code(), w.name())).collect();
    assert_eq!(said("Codes: bad requests"), whys);
    let between = [Operation::PeerHello, Operation::PeerBatch].map(|o| (o.code(), o.name()));
    assert_eq!(said("Codes: operations between nodes"), between);
    let refusals: Vec<_> = net::peer::Refusal::ALL.iter().map(|r| (*r as u8, format!("{r:?}"))).collect();
    let refusals: Vec<_> = refusals.iter().map(|(code, name)| (*code, name.as_str())).collect();
    assert_eq!(said("Codes: refusals between nodes"), refusals);
    for row in &sections["Codes: operations"] {
        let operation = Operation::from_code(row[0].parse().expect("a code")).expect("a known code");
        assert_eq!(row[4] == "yes", operation.is_write(), "{operation:?} writes");
    }
}

/// A number of the document that is also one of the code.
fn limit(row: &str) -> &'static str {
    let found = DOCUMENT.lines().filter_map(cells).find(|cells| cells[0] == row);
    found.unwrap_or_else(|| panic!("PROTOCOL.md has no row {row}"))[1]
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).expect("digits")).collect();
    groups.join(",")
}

#[test]
fn limits_agree() {
    use layout::units::*;
    assert_eq!(limit("stream"), format!("{STREAM_BYTES_MIN} to {STREAM_BYTES_MAX} bytes"));
    assert_eq!(limit("value"), format!("0 to {} bytes", with_commas(VALUE_BYTES_MAX as u64)));
    let body = limit("body of a frame");
    assert!(body.contains(&with_commas(u64::from(BODY_BYTES_BEFORE_HELLO))));
    assert!(body.contains(&with_commas(u64::from(BODY_BYTES_MAX))));
    let many = limit("keys of a MultiGet, operations of a Batch, records or streams of a page");
    assert_eq!(many, with_commas(OPERATION_COUNT_MAX as u64));
    assert_eq!(
        limit("token in Hello"),
        format!("{} bytes", with_commas(net::request::AUTH_BYTES_MAX as u64))
    );
    assert_eq!(limit("TCP port"), format!("{PORT_DEFAULT} by default"));
    let server = ServerLimits::default();
    assert!(
        limit("requests in flight")
            .contains(&format!("{} by default", with_commas(u64::from(server.in_flight))))
    );
    let before = DOCUMENT.lines().find(|line| line.starts_with("| before hello |")).expect("a row");
    assert!(before.contains(&format!("within {} s", server.hello_us / 1_000_000)));
    let open = DOCUMENT.lines().find(|line| line.starts_with("| open |")).expect("a row");
    assert!(open.contains(&format!("within {} s", server.frame_us / 1_000_000)));
}

/// The blocks ```` ```hex name ```` of EXAMPLES.md.
fn examples() -> BTreeMap<&'static str, Vec<u8>> {
    let mut examples = BTreeMap::new();
    let mut current: Option<(&str, Vec<u8>)> = None;
    for line in EXAMPLES.lines() {
        if let Some(name) = line.strip_prefix("```hex ") {
            current = Some((name, Vec::new()));
        } else if line == "```" {
            if let Some((name, bytes)) = current.take() {
                assert!(examples.insert(name, bytes).is_none(), "two examples {name}");
            }
        } else if let Some((_, bytes)) = &mut current {
            let digits = line.split('#').next().expect("split gives at least one piece");
            bytes.extend(
                digits
                    .split_whitespace()
                    .map(|pair| u8::from_str_radix(pair, 16).expect("a pair of hex digits")),
            );
        }
    }
    examples
}

#[test]
fn examples_decode_and_are_the_vectors_of_their_names() {
    let vectors: Value = serde_json::from_str(VECTORS).expect("the vectors are JSON");
    let examples = examples();
    assert!(examples.len() >= 9, "worked examples belong to the protocol");
    for (name, bytes) in examples {
        let frame = next_frame(&bytes, BODY_BYTES_MAX).expect("a right frame").expect("a whole frame");
        assert_eq!(frame.consumed, bytes.len(), "{name}");
        if frame.header.is_reply {
            Reply::decode(frame.header.operation, frame.body).unwrap_or_else(|e| panic!("{name}: {e}"));
        } else {
            Request::decode(frame.header.operation, frame.body).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let list = vectors["vectors"].as_array().expect("a list");
        let vector = list.iter().find(|v| v["name"] == name).unwrap_or_else(|| panic!("no vector {name}"));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(vector["hex"], hex, "{name}");
    }
}
