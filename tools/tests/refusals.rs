//! What is wrong is said: what, where and what to do, with the right exit code.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use support::{Folder, Server, run, sample, thermocline};

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in:\n{text}");
    }
}

#[test]
fn wrong_use_is_told_from_failure() {
    let folder = Folder::new();
    for arguments in [
        &["fly"][..],
        &[],
        &["get", "alice"],
        &["get", "alice", "yesterday"],
        &["get", "", "5"],
        &["scan", "alice", "7..5"],
        &["put", "alice", "5", "x", "--ttl", "5"],
        &["mget", "alice", "5", "bob"],
        &["serve"],
        &["serve", "--set", "disk.pat=x"],
        &["dev", "--nodes", "2"],
    ] {
        let said = run(&folder, arguments);
        assert_eq!(said.exit, 2, "{arguments:?}: {said:?}");
        assert!(!said.err.is_empty(), "{arguments:?}");
    }
    says(&run(&folder, &["dev", "--nodes", "2"]).err, &["--nodes", "1, 3 or 5"]);
    says(&run(&folder, &["get", "a", "2013-01-01T10:00:00"]).err, &["no zone", "end it with Z"]);
    // Nobody listens on a port of 0.
    says(
        &run(&folder, &["get", "a", "1", "--endpoint", "127.0.0.1:1"]).error(3),
        &["127.0.0.1:1", "--endpoint"],
    );
    says(&run(&folder, &["get", "a", "1", "--endpoint", "nowhere"]).error(2), &["HOST:PORT"]);
    let said = run(&folder, &["import", "no such file"]);
    says(&said.error(3), &["no such file", "check the path"]);
    assert_eq!(run(&folder, &["--help"]).exit, 0);
    let said =
        thermocline(&folder).args(["config", "print"]).env("THERMOCLINE_LOG", "x=loud").output().unwrap();
    assert_eq!(said.status.code(), Some(2));
}

#[test]
fn settings_that_are_wrong_are_named_with_their_line() {
    let folder = Folder::new();
    folder.write(
        "f.toml",
        "[disk]\npath = \"x\"\n\n[limits]\nmemtable_byte = \"1 GiB\"\nmark_after = \"soon\"\n",
    );
    let error = run(&folder, &["serve", "--config", "f.toml"]).error(2);
    says(&error, &["f.toml:5", "did you mean limits.memtable_bytes", "f.toml:6", "\"soon\" is no duration"]);
    assert_eq!(run(&folder, &["config", "check", "--config", "f.toml"]).exit, 2);
    let printed = run(&folder, &["config", "print", "--set", "disk.path=/dev/null"]).done();
    says(
        &printed,
        &["[limits]", "memtable_bytes = \"512 MiB\"", "# default", "path = \"/dev/null\"", "# flag"],
    );
    folder.write("printed.toml", printed);
    let checked = run(&folder, &["config", "check", "--config", "printed.toml"]).done();
    says(&checked, &["one core", "memtable", "MiB", "hold together"]);
    assert!(run(&folder, &["config", "check", "--json"]).json()["bytes_per_node"].as_u64() > Some(1 << 20));
    assert!(run(&folder, &["config", "print", "--json"]).json().as_array().unwrap().len() > 20);
}

#[test]
fn disks_that_are_not_ours_are_refused() {
    let folder = Folder::new();
    let serve = |disk: &str| run(&folder, &["serve", "--set", &format!("disk.path={disk}")]).error(3);
    says(&serve("nowhere"), &["nowhere", "check the path"]);
    folder.write("empty", vec![0; 1 << 20]);
    says(&serve("empty"), &["not formatted", "thermocline disk format empty --yes"]);
    folder.write("tiny", vec![0; 4096]);
    says(&serve("tiny"), &["not formatted"]);
    folder.write("foreign", [&[0; 510][..], b"\x55\xaa", &[0; 1 << 20]].concat());
    says(&serve("foreign"), &["MBR"]);
    let format = |arguments: &[&str]| run(&folder, &[&["disk", "format"], arguments].concat());
    says(&format(&["foreign", "--yes"]).error(3), &["MBR", "wipefs"]);
    says(&format(&["tiny", "--yes"]).error(3), &["4096 bytes"]);
    let plan = ["new", "--create", "64 MiB", "--shards", "2", "--segment", "1 MiB"];
    says(&format(&plan).done(), &["2 shards", "--yes"]);
    assert!(!folder.path("new").exists(), "a dry run writes nothing");
    says(&format(&[&plan[..], &["--yes"]].concat()).done(), &["formatted"]);
    says(&format(&["new", "--yes"]).error(3), &["formatted already", "--anew"]);
    assert_eq!(format(&["new", "--anew", "--segment", "1 MiB", "--yes"]).exit, 0);
    assert_eq!(format(&["new", "--json", "--anew", "--segment", "1 MiB"]).json()["done"], false);
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let folder = Folder::new();
    let server = Server::dev(&folder);
    let other = Folder::new();
    let port = server.endpoint.rsplit(':').next().unwrap();
    // One node: of several any may say first that its port is taken, by whoever else has it.
    let error = run(&other, &["dev", "--nodes", "1", "--port", port, "--disk-size", "256 MiB"]).error(3);
    says(&error, &[port, "in use"]);
    let error = run(&folder, &["dev", "--dir", "data", "--port", "0"]).error(3);
    says(&error, &["disk-1.img", "another process uses it"]);
    says(&run(&folder, &["fsck", "data/disk-1.img"]).error(3), &["another process uses it"]);
    assert_eq!(server.run(&folder, &["put", "a", "1", "x"]).exit, 0, "the first one is none the worse");
}

#[test]
fn a_full_disk_refuses_writes_and_goes_on_reading() {
    let folder = Folder::new();
    let plan = ["--create", "4 MiB", "--shards", "1", "--segment", "128 KiB", "--journal", "1 MiB"];
    run(&folder, &[&["disk", "format", "small", "--yes"], &plan[..]].concat()).done();
    let small = [
        "serve",
        "--set",
        "disk.path=small",
        "--set",
        "network.listen=127.0.0.1:0",
        "--set",
        "limits.staging_bytes=64 KiB",
        "--set",
        "limits.record_bytes_max=128 KiB",
        "--set",
        "limits.memtable_bytes=16 MiB",
        "--set",
        "limits.memtable_record_count_max=10000",
        "--set",
        "limits.staging_count_max=2000",
        "--set",
        "limits.arena_bytes=32 MiB",
    ];
    let server = Server::start(&folder, &small);
    let said =
        server.run(&folder, &["import", &sample(), "--json", "--patience", "300 ms", "--rejects", "r"]);
    assert_eq!(said.exit, 3, "{said:?}");
    says(&said.err, &["space on the device", "import the file again"]);
    let counts = said.json();
    let of = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(of("read"), of("stored") + of("duplicate") + of("conflict") + of("refused"));
    assert!(of("stored") > 100 && of("stored") < 3069, "{counts}");
    let before = server.run(&folder, &["export"]).done();
    // Rows that were on their way when the import stopped may be there, too; none of the counted ones is missing.
    assert!(before.lines().count() as u64 >= of("stored"));
    server.kill();
    let server = Server::start(&folder, &small);
    assert_eq!(server.run(&folder, &["export"]).done(), before);
}
