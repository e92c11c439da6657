//! Import and export against a real node: bad rows, repeated keys, pipes, interruption, order.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Folder, Server, interrupt, run_with};

/// Rows as in the flights of 2013: two without a stream, repeated keys with equal and other values, a short row.
const FLIGHTS: &str = "year,dep_delay,tailnum,minute,time_hour\n\
    2013,2,N14228,15,2013-01-01T10:00:00Z\n\
    2013,4,N24211,29,2013-01-01T10:00:00Z\n\
    2013,NA,NA,30,2013-01-01T10:00:00Z\n\
    2013,7,N14228,15,2013-01-01T10:00:00Z\n\
    2013,4,N24211,29,2013-01-01T10:00:00Z\n\
    2013,,,0,2013-01-01T11:00:00Z\n\
    2013,9,N14228\n\
    2013,8,N14228,16,2013-01-01T10:00:00Z\n";

fn flights(on_conflict: &str) -> (Folder, Server, Value) {
    let folder = Folder::new();
    let server = Server::dev(&folder);
    folder.write("flights.csv", FLIGHTS);
    let said = server.run(&folder, &arguments(on_conflict));
    assert_eq!(said.exit, 0, "{said:?}");
    let counts = said.json();
    (folder, server, counts)
}

fn arguments(on_conflict: &str) -> [&str; 9] {
    let columns = ["--stream", "tailnum", "--time", "time_hour,minute"];
    let [stream, tailnum, time, hour] = columns;
    ["import", "flights.csv", stream, tailnum, time, hour, "--on-conflict", on_conflict, "--json"]
}

fn counts(read: u64, stored: u64, duplicate: u64, conflict: u64, refused: u64) -> Value {
    json!({"read": read, "stored": stored, "duplicate": duplicate, "conflict": conflict, "refused": refused})
}

/// Time and `dep_delay` of every record, in the order of the export.
fn exported(folder: &Folder, server: &Server) -> Vec<(String, u64, String)> {
    let text = server.run(folder, &["export"]).done();
    let record = |line| {
        let record: Value = serde_json::from_str(line).unwrap();
        let row: Value = serde_json::from_str(record["value"].as_str().unwrap()).unwrap();
        let stream = record["stream"].as_str().unwrap().to_owned();
        (
            stream,
            record["time_us"].as_u64().unwrap() - 1_357_034_400_000_000,
            row["dep_delay"].as_str().unwrap().to_owned(),
        )
    };
    text.lines().map(record).collect()
}

fn owned(records: &[(&str, u64, &str)]) -> Vec<(String, u64, String)> {
    records.iter().map(|(stream, time, delay)| (stream.to_string(), *time, delay.to_string())).collect()
}

const MINUTE: u64 = 60_000_000;

#[test]
fn repeated_keys_are_refused_by_line() {
    let (folder, server, first) = flights("refuse");
    assert_eq!(first, counts(8, 3, 1, 1, 3));
    let rejects: Vec<Value> = folder
        .text("flights.csv.rejects.ndjson")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut lines: Vec<(u64, &str)> =
        rejects.iter().map(|row| (row["line"].as_u64().unwrap(), row["reason"].as_str().unwrap())).collect();
    lines.sort_unstable();
    assert_eq!(lines, [(4, "stream_missing"), (5, "conflict"), (7, "stream_missing"), (8, "field_count")]);
    let stored =
        owned(&[("N14228", 15 * MINUTE, "2"), ("N14228", 16 * MINUTE, "8"), ("N24211", 29 * MINUTE, "4")]);
    assert_eq!(exported(&folder, &server), stored, "the export is exactly what was stored");
    assert_eq!(server.run(&folder, &arguments("refuse")).json(), counts(8, 0, 4, 1, 3), "again: nothing new");
}

#[test]
fn repeated_keys_are_nudged_until_free() {
    let (folder, server, first) = flights("nudge");
    assert_eq!(first, counts(8, 4, 1, 0, 3));
    let stored = owned(&[
        ("N14228", 15 * MINUTE, "2"),
        ("N14228", 15 * MINUTE + 1, "7"),
        ("N14228", 16 * MINUTE, "8"),
        ("N24211", 29 * MINUTE, "4"),
    ]);
    assert_eq!(exported(&folder, &server), stored);
    assert_eq!(server.run(&folder, &arguments("nudge")).json(), counts(8, 0, 5, 0, 3), "again: nothing new");
}

#[test]
fn repeated_keys_are_overwritten_when_asked() {
    let (folder, server, first) = flights("overwrite");
    assert_eq!(first, counts(8, 3, 1, 1, 3));
    let stored =
        owned(&[("N14228", 15 * MINUTE, "7"), ("N14228", 16 * MINUTE, "8"), ("N24211", 29 * MINUTE, "4")]);
    assert_eq!(exported(&folder, &server), stored);
}

#[test]
fn many_small_records_of_one_stream_and_many_streams_come_back_in_order() {
    let folder = Folder::new();
    let server = Server::dev(&folder);
    let mut rows = Vec::new();
    // More than a page of one stream, repeated at once, and streams whose order is not that of their tablets.
    for time in (0..10_000_u64).rev() {
        rows.push(("one".to_owned(), time));
    }
    for stream in 0..300 {
        rows.push((format!("stream {stream}"), 7));
    }
    let line = |(stream, time): &(String, u64)| {
        format!("{{\"stream\":\"{stream}\",\"time_us\":{time},\"value\":\"v\"}}\n")
    };
    let mut text: String = rows.iter().map(line).collect();
    text.push_str(&line(&rows[0]));
    let said = run_with(&folder, &["import", "-", "--json", "--endpoint", &server.endpoint], text.as_bytes());
    assert_eq!(said.json(), counts(10_301, 10_300, 1, 0, 0));
    rows.sort();
    let export = server.run(&folder, &["export"]).done();
    let keys = export.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        (record["stream"].as_str().unwrap().to_owned(), record["time_us"].as_u64().unwrap())
    });
    assert!(keys.eq(rows), "the export is in order of stream, then time");
}

#[test]
fn an_interrupted_import_says_how_far_it_came() {
    let folder = Folder::new();
    let server = Server::dev(&folder);
    let mut child = server
        .command(&folder)
        .args(["import", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // The last row is cut in the middle: it must not be taken for whole.
    input
        .write_all(b"{\"stream\":\"a\",\"time_us\":1,\"value\":\"x\"}\n{\"stream\":\"a\",\"time_us\":2,\"va")
        .unwrap();
    // The first row is stored before the pipe gives more: the import does not hold back what it has.
    while server.run(&folder, &["get", "a", "1"]).exit != 0 {}
    interrupt(&child);
    let mut out = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut out).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), counts(1, 1, 0, 0, 0));
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(error.contains("interrupted"), "{error}");
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn a_damaged_file_gives_what_was_before_the_damage() {
    let folder = Folder::new();
    let server = Server::dev(&folder);
    let mut text = String::new();
    for time in 0..50_000 {
        text.push_str(&format!("{{\"stream\":\"s\",\"time_us\":{time},\"value\":\"{}\"}}\n", time * 7919));
    }
    let mut packed = vec![0; zstd_safe::compress_bound(text.len())];
    let bytes = zstd_safe::compress(&mut packed[..], text.as_bytes(), 3).unwrap();
    folder.write("cut.zst", &packed[..bytes / 2]);
    let said = server.run(&folder, &["import", "cut.zst", "--json"]);
    let counts = said.json();
    assert_eq!(counts["stored"], counts["read"]);
    let records = server.run(&folder, &["export"]).done().lines().count() as u64;
    assert_eq!(counts["stored"], records);
    assert!(said.error(3).contains("in the middle of a zstd frame"));
}
