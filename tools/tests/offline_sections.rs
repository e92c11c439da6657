//! Sections of sealed tables, looked at without a node: shown whole, and as much as can be read of damaged ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]
#![expect(clippy::disallowed_methods, reason = "tests change the bytes of a disk")]

mod support;

use layout::key::bucket_of;
use layout::units::Space;
use serde_json::Value;
use support::{Folder, Server, run, serve_small};

fn settings() -> Vec<&'static str> {
    serve_small(&["limits.window_bytes=16KiB", "limits.sealed_block_bytes=1024"])
}

/// A part of a table: name, what is said of it, place on the disk.
type Part = (String, String, usize);

fn parts(said: &str) -> Vec<Part> {
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let part = |line: Value| {
        let (name, value) = (line["name"].as_str()?.to_owned(), line["value"].as_str()?.to_owned());
        Some((name, value, line["at"].as_u64()? as usize))
    };
    lines.filter_map(part).collect()
}

/// A disk with a sealed window of this stream, and the number of its table.
fn sealed(folder: &Folder, stream: &str) -> u64 {
    let format = "disk format disk --create 6MiB --shards 1 --segment 128KiB --journal 2MiB --yes";
    run(folder, &format.split(' ').collect::<Vec<_>>()).done();
    let value = "words that come again and again ".repeat(10);
    // Records of 1970: old enough to be sealed; and what makes the memtable full.
    for first in (0..4000).step_by(500) {
        let server = Server::start(folder, &settings());
        let line = |time| {
            format!(
                "{{\"stream\":\"{stream}\",\"time_us\":{},\"value\":\"{value}{time}\"}}\n",
                1_000_000 + time
            )
        };
        folder.write("in.ndjson", (first..first + 500).map(line).collect::<String>());
        server.run(folder, &["import", "in.ndjson"]).done();
        assert_eq!(server.stop().1, 0);
        let shown = run(folder, &["inspect", "table", "disk", "--json"]).done();
        if let Some((_, value, _)) =
            parts(&shown).iter().find(|(_, value, _)| value.contains("sealed window"))
        {
            return value.split(' ').nth(1).unwrap().parse().unwrap();
        }
    }
    panic!("nothing was sealed");
}

#[test]
fn a_section_is_shown_also_when_the_table_is_damaged() {
    let folder = Folder::new();
    let number = sealed(&folder, "stream").to_string();
    let bucket = bucket_of(Space(0), b"stream").get();
    let (own, other) = (bucket.to_string(), ((bucket + 64) % 131_072).to_string());
    let show = |disk, bucket| run(&folder, &["inspect", "section", disk, &number, bucket, "--json"]).done();
    let whole = parts(&run(&folder, &["inspect", "table", "disk", &number, "--json"]).done());
    let of = |name: &str| whole.iter().find(|part| part.0 == name).unwrap().clone();
    assert!(of("sections").1.contains(" 1 sections, the largest of bucket"), "{whole:?}");
    let shown = show("disk", &own);
    assert!(shown.contains(&format!("of bucket {bucket}: ")) && !shown.contains("wrong\":\""), "{shown}");
    let records = shown.matches("space 0 stream").count();
    assert!(records > 100, "{shown}");
    let absent = show("disk", &other);
    assert!(absent.contains("none of bucket") && !absent.contains("stream \\\""), "{absent}");
    let none = run(&folder, &["inspect", "section", "disk", "77777", &own]);
    assert_eq!(none.exit, 1, "{none:?}");
    let disk = std::fs::read(folder.path("disk")).unwrap();
    // What is damaged, and whether records can still be shown: without its dictionary a block cannot be read.
    for name in ["block", "sections", "dictionary", "index", "filter", "magic"] {
        let mut damaged = disk.clone();
        damaged[of(name).2 + 5] ^= 0x10;
        folder.write("damaged", &damaged);
        let shown = show("damaged", &own);
        assert_eq!(shown.contains("wrong\":\""), name != "filter", "{name}: {shown}");
        let left = shown.matches("space 0 stream").count();
        let is_expected = match name {
            "block" => (1..records).contains(&left),
            "dictionary" => left < records,
            _ => left == records,
        };
        assert!(is_expected, "{name}: {left} of {records}");
        let said = run(&folder, &["fsck", "damaged", "--json"]);
        assert_eq!(said.exit, 1, "{name}: {said:?}");
        assert!(said.out.contains(if name == "magic" { "footer" } else { name }), "{name}: {said:?}");
    }
}
