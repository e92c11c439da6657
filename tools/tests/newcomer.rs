//! The first ten minutes of a newcomer: a trial node, the verbs, a stop, a kill, everything found again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use support::{Folder, Server, run_with, sample};

#[test]
fn the_first_ten_minutes() {
    let folder = Folder::new();
    let server = Server::dev(&folder);
    assert!(folder.text("server.log").contains("thermocline put alice"), "says what to type next");
    let run = |arguments: &[&str]| server.run(&folder, arguments);
    let time = "2026-11-20T08:00:00Z";
    let version = run(&["put", "alice", time, "first light"]).done();
    assert!(version.starts_with("version "), "{version}");
    assert_eq!(run(&["get", "alice", time]).done(), "first light\n");
    assert_eq!(run(&["get", "alice", "1795161600000000", "--raw"]).done(), "first light");
    assert_eq!(run(&["get", "alice", "2026-11-20T08:59:00Z,0"]).done(), "first light\n");
    let record = run(&["get", "alice", time, "--json"]).json();
    assert_eq!(
        (&record["value"], &record["time_us"]),
        (&"first light".into(), &1_795_161_600_000_000_u64.into())
    );
    let version = record["version"].to_string();
    assert_eq!(run(&["get", "alice", time, "--if-newer", &version]).error(1), "not modified\n");
    assert_eq!(run(&["get", "alice", time, "--if-newer", "1", "--local"]).done(), "first light\n");
    assert_eq!(run(&["get", "bob", "5"]).error(1), "not found\n");
    assert_eq!(run(&["get", "bob", "5", "--json"]).json()["outcome"], "NotFound");
    let refused = run(&["put", "alice", time, "second", "--expect", "0", "--json"]);
    assert_eq!((refused.exit, &refused.json()["outcome"]), (1, &"VersionMismatch".into()));
    run(&["put", "alice", time, "second", "--expect", &version]).done();
    run(&["put", "alice", "7", "@@home", "--ttl", "90 days"]).done();
    let lines = run(&["scan", "alice"]).done();
    assert_eq!(lines, "1970-01-01T00:00:00.000007Z  @home\n2026-11-20T08:00:00Z  second\n");
    assert_eq!(run(&["scan", "alice", "..7", "--reverse", "--json"]).json()["value"], "@home");
    assert_eq!(run(&["scan", "alice", "8..", "--limit", "1"]).done(), "2026-11-20T08:00:00Z  second\n");
    assert_eq!(run(&["head", "alice", "-n", "1"]).done(), "2026-11-20T08:00:00Z  second\n");
    let many = run(&["mget", "alice", "7", "bob", "5", "alice", time]);
    assert_eq!((many.exit, many.out.lines().count(), many.err.as_str()), (1, 2, "bob 5: not found\n"));
    run(&["del", "alice", "7"]).done();
    assert_eq!(run(&["get", "alice", "7"]).exit, 1);
    assert_eq!(run(&["get", "alice", time, "--space", "9"]).exit, 1, "another space is another record");
    let imported = run(&["import", &sample()]).done();
    assert_eq!(imported, "read 3069: stored 3069, duplicate 0, conflict 0, refused 0\n");
    let status = run(&["status", "--json"]).json();
    assert!(status["cores"].as_array().is_some_and(|cores| !cores.is_empty()), "{status}");
    assert!(run(&["status"]).done().contains("journal_records"));
    assert_eq!(run(&["export", "--out", "all.ndjson"]).done(), "3070 records of 272 streams\n");
    let again = run(&["import", "all.ndjson", "--json"]);
    let expected =
        serde_json::json!({"read": 3070, "stored": 0, "duplicate": 3070, "conflict": 0, "refused": 0});
    assert_eq!(again.json(), expected);
    let (rest, exit) = server.stop();
    assert_eq!((rest.as_str(), exit), ("", 0), "one line on standard output, and a clean end");
    let all = folder.text("all.ndjson");
    let server = Server::dev(&folder);
    assert_eq!(server.run(&folder, &["export"]).done(), all, "a second start finds everything");
    server.kill();
    let server = Server::dev(&folder);
    assert_eq!(server.run(&folder, &["export"]).done(), all, "also after kill -9");
    assert!(!folder.names().iter().any(|name| name.ends_with(".part")), "{:?}", folder.names());
}

#[test]
fn any_bytes_are_kept_as_they_are() {
    let folder = Folder::new();
    let server = Server::dev(&folder);
    let run = |arguments: &[&str]| server.run(&folder, arguments);
    let value: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    folder.write("value", &value);
    run(&["put", "binary", "1", "@value", "--space", "3"]).done();
    let got = server.command(&folder).args(["get", "binary", "1", "--raw", "--space", "3"]).output().unwrap();
    assert!(got.stdout == value, "the value came back changed");
    folder.write("too long", [&value[..], b"x"].concat());
    assert!(run(&["put", "binary", "2", "@too long"]).error(3).contains("more than 1048576 bytes"));
    let put = server.command(&folder).args(["put", "s", "1", "-", "--ttl", "1000 days"]).output().unwrap();
    assert!(put.status.success(), "standard input is empty here, and so is the value");
    assert_eq!(run(&["get", "s", "1"]).done(), "\n");
    use std::os::unix::ffi::OsStrExt;
    let stream = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    assert!(server.command(&folder).arg("put").arg(stream).args(["5", "-"]).status().unwrap().success());
    run(&["export", "--out", "all.ndjson"]).done();
    let all = folder.text("all.ndjson");
    let lines: Vec<serde_json::Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0]["value_base64"].is_string() && lines[0]["space"] == 3, "{}", lines[0]["stream"]);
    assert!(lines[1]["expiry_us"].is_u64() && lines[1]["value"] == "", "{}", lines[1]);
    assert_eq!(lines[2]["stream_base64"], "//4=");
    assert_eq!(run(&["export", "--space", "3"]).done().lines().count(), 1);
    // Into an empty store and out again: equal but for the versions, which are each log's own.
    let other = Folder::new();
    let second = Server::dev(&other);
    let said = run_with(&other, &["import", "-", "--endpoint", &second.endpoint, "--json"], all.as_bytes());
    assert_eq!(said.json()["stored"], 3);
    let without_version = |text: &str| -> Vec<serde_json::Value> {
        let read = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let strip = |mut value: serde_json::Value| {
            value.as_object_mut().unwrap().remove("version");
            value
        };
        text.lines().map(read).map(strip).collect()
    };
    let back = second.run(&other, &["export"]).done();
    assert!(without_version(&back) == without_version(&all), "an import of an export gives an equal store");
}
