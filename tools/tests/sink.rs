//! What is old leaves the disks of a trial for those of its three cold nodes, by itself, and is read from there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]
#![expect(clippy::disallowed_methods, reason = "waits for other processes")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Folder, Server, run};

const DEV: [&str; 7] = ["dev", "--dir", "data", "--port", "0", "--disk-size", "512 MiB"];
/// Records, an hour apart, the last one three months ago.
const COUNT: u64 = 24_000;
const HOUR_US: u64 = 3_600_000_000;
const FIRST_US: u64 = 1_690_000_000_000_000;
const STREAMS: u64 = 3;
/// By then it has sunk; only a test that fails waits for so long.
const PATIENCE: Duration = Duration::from_secs(240);

fn value(number: u64) -> String {
    // Not what compresses away: then there would be nothing to sink.
    let hash = |salt: u64| (number.wrapping_add(salt)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    (0..160).fold(String::new(), |mut text, salt| {
        write!(text, "{:x}", hash(salt).wrapping_mul(hash(salt + 99))).unwrap();
        text
    })
}

fn lines(count: u64) -> BTreeMap<(String, u64), String> {
    (0..count)
        .map(|number| {
            ((format!("sensor-{}", number % STREAMS), FIRST_US + number * HOUR_US / STREAMS), value(number))
        })
        .collect()
}

/// A number of all cores of a node.
fn sum(status: &Value, name: &str) -> u64 {
    status["cores"].as_array().unwrap().iter().map(|core| core[name].as_u64().unwrap()).sum()
}

fn sunk(folder: &Folder, server: &Server) -> u64 {
    sum(&server.run(folder, &["status", "--json"]).json(), "sunk_records")
}

/// Those of a trial that said they serve beside the first.
fn others(folder: &Folder) -> Vec<String> {
    let log = folder.text("server.log");
    let said = log.lines().filter_map(|line| line.strip_prefix("serving on ")?.strip_suffix(", too"));
    said.map(str::to_owned).collect()
}

/// The cold nodes of a trial: the last three of them.
fn colds(folder: &Folder) -> Vec<String> {
    let all = others(folder);
    all[all.len() - 3..].to_vec()
}

/// Gets that stores have answered with where the record lies.
fn redirected(folder: &Folder, server: &Server) -> u64 {
    let mut all = vec![server.run(folder, &["status", "--json"]).json()];
    let of = |endpoint: String| run(folder, &["status", "--json", "--endpoint", &endpoint]).json();
    all.extend(others(folder).into_iter().map(of));
    let cores = all.iter().filter_map(|status| status["cores"].as_array()).flatten();
    cores.filter_map(|core| core["gets_redirected"].as_u64()).sum()
}

/// Reads of all disks of the cold nodes, as asked for and as done by the devices.
fn reads(folder: &Folder) -> (u64, u64) {
    let (mut asked, mut done) = (0, 0);
    for endpoint in colds(folder) {
        let status = run(folder, &["status", "--json", "--endpoint", &endpoint]).json();
        for disk in status["disks"].as_object().unwrap().values() {
            asked += disk["counters"]["reads"].as_u64().unwrap();
            done += disk["counters"]["device_reads"].as_u64().unwrap();
        }
    }
    (asked, done)
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A trial that has all these records, most of them on cold disks.
fn sunk_trial(folder: &Folder, lines: &BTreeMap<(String, u64), String>) -> Server {
    let text = lines.iter().fold(String::new(), |mut text, ((stream, time), value)| {
        writeln!(text, "{{\"stream\":\"{stream}\",\"time_us\":{time},\"value\":\"{value}\"}}").unwrap();
        text
    });
    folder.write("all.ndjson", text);
    let server = Server::start(folder, &DEV);
    server.run(folder, &["import", "all.ndjson"]).done();
    server
}

fn exported(folder: &Folder, server: &Server) -> BTreeMap<(String, u64), String> {
    server.run(folder, &["export", "--out", "export.ndjson"]).done();
    let parse = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        let of = |name: &str| record[name].as_str().unwrap().to_owned();
        ((of("stream"), record["time_us"].as_u64().unwrap()), of("value"))
    };
    folder.text("export.ndjson").lines().map(parse).collect()
}

/// Turn a bit in some of the blocks that two machines hold the same: those of sections, since all else names its disk.
fn damage(folder: &Folder) -> u64 {
    let name = "data/cold-1-0.img";
    let (mut one, other) =
        (std::fs::read(folder.path(name)).unwrap(), std::fs::read(folder.path("data/cold-2-0.img")).unwrap());
    let mut count = 0;
    for (number, (block, twin)) in one.chunks_mut(4096).zip(other.chunks(4096)).enumerate() {
        if number % 7 == 3 && block == twin && block.iter().any(|byte| *byte != 0) {
            block[number % 4096] ^= 1 << (number % 8);
            count += 1;
        }
    }
    folder.write(name, one);
    count
}

/// Damages that `fsck` finds on the first cold disk.
fn damages(folder: &Folder) -> u64 {
    let said = run(folder, &["fsck", "--json", "data/cold-1-0.img"]);
    let verdict = said.out.lines().last().map(|line| serde_json::from_str::<Value>(line).unwrap());
    verdict.unwrap()["damages"].as_u64().unwrap()
}

#[test]
fn a_damaged_cold_disk_says_nothing_wrong_and_is_mended_where_it_is_read() {
    let folder = Folder::new();
    let lines = lines(COUNT / 4);
    let server = sunk_trial(&folder, &lines);
    wait_until("most of it sinks", || sunk(&folder, &server) > COUNT / 8);
    assert_eq!(server.stop().1, 0);
    assert!(damage(&folder) > 0, "there is nothing on the cold disk");
    let before = damages(&folder);
    assert!(before > 0, "fsck finds what was damaged");

    let server = Server::start(&folder, &DEV);
    // Each time other copies are read.
    let mut rounds = 0;
    let first = colds(&folder)[0].clone();
    let counter = |name: &str| {
        let status = run(&folder, &["status", "--json", "--endpoint", &first]).json();
        status["disks"]["0"]["counters"][name].as_u64().unwrap()
    };
    wait_until("what is damaged is read", || {
        assert!(exported(&folder, &server) == lines, "a record is lost, or another one");
        rounds += 1;
        counter("corrupt") > 0
    });
    wait_until("what was read is mended", || counter("repaired") > 0 && counter("repair_queue") == 0);
    assert!(exported(&folder, &server) == lines, "a record is lost, or another one");
    assert_eq!(server.stop().1, 0);
    let after = damages(&folder);
    assert!(after < before, "{before} damages before, {after} after {rounds} rounds");
}

#[test]
fn what_is_old_sinks_by_itself_survives_kill_9_and_is_read_with_one_read_each() {
    let folder = Folder::new();
    let lines = lines(COUNT);
    let server = sunk_trial(&folder, &lines);
    // All of them die while windows are on their way, again and again.
    wait_until("something sinks", || sunk(&folder, &server) > 0);
    server.kill();
    for _ in 0..2 {
        let server = Server::start(&folder, &DEV);
        std::thread::sleep(Duration::from_millis(700));
        server.kill();
    }
    let server = Server::start(&folder, &DEV);
    wait_until("most of it sinks", || sunk(&folder, &server) > COUNT / 2);

    // Old records come from a cold disk, each with one read of a device.
    // The client reads them there itself.
    let (before, redirects) = (reads(&folder), redirected(&folder, &server));
    let mut asked = 0;
    for ((stream, time), value) in lines.iter().step_by(701).take(9) {
        let found = server.run(&folder, &["get", stream, &time.to_string()]).done();
        assert_eq!(found.trim_end(), value);
        asked += 1;
    }
    let after = reads(&folder);
    let (more, device) = (after.0 - before.0, after.1 - before.1);
    assert!(more > 0 && more <= asked, "{more} reads of cold disks for {asked} gets");
    assert_eq!(more, device, "each read of a block reads a device once");
    assert_eq!(redirected(&folder, &server) - redirects, more, "each by who asked");

    let exported = exported(&folder, &server);
    assert!(exported == lines, "{} of {} records, or other values", exported.len(), lines.len());

    // What is written late lies above, and hides what is beneath.
    let ((stream, time), _) = lines.first_key_value().unwrap();
    server.run(&folder, &["put", stream, &time.to_string(), "late"]).done();
    assert_eq!(server.run(&folder, &["get", stream, &time.to_string()]).done(), "late\n");
    assert_eq!(server.stop().1, 0);

    // By the disks alone: all that is linked stands on all three, and in the end nothing else does.
    let since = Instant::now();
    loop {
        let links = links(&folder);
        assert_eq!(links["wrong"], 0, "{links}");
        assert!(links["linked"].as_u64().unwrap() > 0, "{links}");
        if links["unlinked"] == 0 {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "what nobody links is not swept: {links}");
        let server = Server::start(&folder, &DEV);
        std::thread::sleep(Duration::from_secs(45));
        assert_eq!(server.stop().1, 0);
    }
}

/// What the disks of all nodes say of links.
fn links(folder: &Folder) -> Value {
    let mut arguments = vec!["fsck".to_owned(), "--json".to_owned(), "--rebuild-links".to_owned()];
    arguments.extend((1..=3).map(|node| format!("data/disk-{node}.img")));
    arguments.extend((1..=3).flat_map(|node| (0..2).map(move |disk| format!("data/cold-{node}-{disk}.img"))));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = run(folder, &arguments).done();
    let mut lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.rfind(|line| line["part"] == "links").unwrap()
}
