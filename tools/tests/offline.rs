//! Looking at disks without a node: inspect, fsck, doctor, on sound and on damaged ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use serde_json::Value;
use support::{Folder, Server, run, sample};

const DISK: &str = "data/disk-1.img";

/// A disk with the sample on it, cleanly stopped.
fn with_sample() -> Folder {
    let folder = Folder::new();
    let server = Server::dev(&folder);
    server.run(&folder, &["import", &sample()]).done();
    assert_eq!(server.stop().1, 0);
    folder
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn damage(folder: &Folder, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(folder.path(DISK)).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn a_sound_disk_is_shown_and_found_sound() {
    let folder = with_sample();
    let superblock = run(&folder, &["inspect", "superblock", DISK]).done();
    assert_eq!(superblock.matches("TCLSUPER").count(), 4, "{superblock}");
    assert!(superblock.contains("in force: sequence") && !superblock.contains("WRONG"), "{superblock}");
    let journal = run(&folder, &["inspect", "journal", DISK, "--json"]).done();
    let wrong = lines(&journal).iter().filter(|line| line["wrong"].is_string()).count();
    let operations = lines(&journal).iter().filter(|line| line["name"] == "operation").count();
    assert_eq!((wrong, operations), (0, 3069));
    let versions = run(&folder, &["inspect", "versions", DISK, "--rows", "3"]).done();
    assert!(versions.contains("TCLVERSN") && versions.contains(" 0 torn"), "{versions}");
    let verdict = run(&folder, &["fsck", DISK, "--json"]);
    assert_eq!((verdict.exit, &verdict.json()["sound"]), (0, &Value::Bool(true)));
    let operations: u64 = lines(&verdict.out).iter().filter_map(|line| line["operations"].as_u64()).sum();
    assert_eq!(operations, 3069);
    let doctor = run(&folder, &["doctor", DISK, "--json"]);
    let findings = doctor.json();
    let ours =
        findings.as_array().unwrap().iter().find(|finding| finding["topic"] == format!("{DISK}: format"));
    assert_eq!(ours.unwrap()["verdict"], "good");
    assert!(run(&folder, &["doctor"]).out.contains("io_uring"));
    let wrong = run(&folder, &["inspect", "journal", DISK, "--shard", "64"]);
    assert!(wrong.error(2).contains("no shard 64"));
}

#[test]
fn superblock_copies_are_told_apart() {
    let folder = with_sample();
    damage(&folder, 100, &[0xff]);
    let said = run(&folder, &["inspect", "superblock", DISK]);
    assert!(said.exit == 0 && said.out.contains("WRONG"), "{said:?}");
    let said = run(&folder, &["fsck", DISK]);
    assert!(said.exit == 1 && said.out.contains("1 bad"), "{said:?}");
    damage(&folder, 4096 + 100, &[0xff]);
    damage(&folder, 8192 + 100, &[0xff]);
    let said = run(&folder, &["inspect", "superblock", DISK]);
    assert!(said.exit == 1 && said.out.contains("none is in force"), "{said:?}");
    // One copy is no quorum, and still says where the journals are.
    assert!(run(&folder, &["inspect", "journal", DISK]).done().contains("operation"));
    let error = run(&folder, &["dev", "--dir", "data", "--port", "0"]).error(3);
    assert!(error.contains("inspect superblock") && error.contains("do not format"), "{error}");
    let error = run(&folder, &["disk", "format", DISK, "--yes"]).error(3);
    assert!(error.contains("--anew"), "{error}");
}

#[test]
fn damage_in_a_journal_is_found_as_a_start_finds_it() {
    let folder = with_sample();
    let journal = run(&folder, &["inspect", "journal", DISK, "--json"]).done();
    // The third record of a shard holds entries, and more come behind it.
    let records: Vec<u64> = lines(&journal)
        .iter()
        .filter(|line| line["name"] == "record")
        .filter_map(|line| line["at"].as_u64())
        .collect();
    damage(&folder, records[2] + 600, b"rot");
    let said = run(&folder, &["fsck", DISK, "--json"]);
    assert_eq!((said.exit, &said.json()["sound"]), (1, &Value::Bool(false)));
    let damaged: usize =
        lines(&said.out).iter().filter_map(|line| line["tablets_damaged"].as_array()).map(Vec::len).sum();
    assert!(damaged > 0, "{said:?}");
    assert!(run(&folder, &["inspect", "journal", DISK]).done().contains("WRONG"));
    let server = Server::dev(&folder);
    let status = server.run(&folder, &["status", "--json"]).json();
    let counted: u64 =
        status["cores"].as_array().unwrap().iter().filter_map(|core| core["tablets_damaged"].as_u64()).sum();
    assert_eq!(damaged as u64, counted, "fsck and a start agree");
}

#[test]
fn a_disk_that_was_cut_is_looked_at_all_the_same() {
    let folder = with_sample();
    for bytes in [3 << 20, 20_000, 5000, 512, 1] {
        let file = OpenOptions::new().write(true).open(folder.path(DISK)).unwrap();
        file.set_len(bytes).unwrap();
        drop(file);
        for verb in ["superblock", "journal"] {
            let said = run(&folder, &["inspect", verb, DISK]);
            assert!((0..=3).contains(&said.exit), "{bytes} {verb}: {said:?}");
        }
        let said = run(&folder, &["fsck", DISK]);
        assert_eq!(said.exit, 3, "{bytes}: {said:?}");
        let said = run(&folder, &["serve", "--set", &format!("disk.path={DISK}")]);
        assert_eq!(said.exit, 3, "{bytes}: {said:?}");
    }
}

/// A small disk with a few records: most of it is in use, so that random damage hits something.
fn small() -> Folder {
    let folder = Folder::new();
    let format = "disk format small --create 2MiB --shards 1 --segment 64KiB --journal 256KiB --yes";
    run(&folder, &format.split(' ').collect::<Vec<_>>()).done();
    let mut serve = vec!["serve"];
    for setting in [
        "disk.path=small",
        "network.listen=127.0.0.1:0",
        "limits.staging_bytes=32KiB",
        "limits.record_bytes_max=64KiB",
        "limits.memtable_bytes=16MiB",
        "limits.memtable_record_count_max=10000",
        "limits.staging_count_max=2000",
        "limits.arena_bytes=32MiB",
    ] {
        serve.extend(["--set", setting]);
    }
    let server = Server::start(&folder, &serve);
    for time in ["1", "2", "3"] {
        server.run(&folder, &["put", "alice", time, "some value"]).done();
    }
    assert_eq!(server.stop().1, 0);
    folder
}

#[test]
fn any_damage_at_all_is_said_and_never_a_crash() {
    let folder = small();
    let good = OpenOptions::new().read(true).open(folder.path("small")).unwrap();
    let mut bytes = vec![0; 2 << 20];
    good.read_exact_at(&mut bytes, 0).unwrap();
    let mut random = 0x9e37_79b9_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    // Superblocks, the journal in use, and anywhere.
    let places = [(0, 16 << 10), (1 << 20, 32 << 10), (0, 2 << 20)];
    for round in 0..48 {
        let (start, length) = places[round % places.len()];
        let mut damaged = bytes.clone();
        for _ in 0..=next(8) {
            let at = start + next(length);
            let count = (1 + next(64)).min(damaged.len() - at);
            damaged[at..at + count].fill_with(|| next(256) as u8);
        }
        folder.write("damaged", &damaged);
        for arguments in [
            &["inspect", "superblock", "damaged"][..],
            &["inspect", "journal", "damaged", "--json"],
            &["inspect", "versions", "damaged"],
            &["fsck", "damaged"],
            &["doctor", "damaged"],
        ] {
            let said = run(&folder, arguments);
            assert!((0..=3).contains(&said.exit), "round {round} {arguments:?}: {said:?}");
        }
    }
}

#[test]
fn the_simulator_runs() {
    let folder = Folder::new();
    let said = run(&folder, &["sim", "--seed", "1", "--mode", "honest"]);
    assert_eq!(said.exit, 0, "{said:?}");
    assert!(!said.out.is_empty());
}
