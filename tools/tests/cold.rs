//! A cold node as people start it: over io_uring, on files, with kill -9.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use net::client::{ClientConfig, ColdNode};
use net::cold::{COLD_READ_BYTES_MAX, ColdAnswer, ColdBlocks};
use net::outcome::{Limit, Outcome};
use net::reply::Answer;
use serde_json::Value;
use support::cold::{
    GROUP, core, format, get_all, list, make_disk, read, runs, serve, sink, sink_large, start, way, way_of,
};
use support::{Folder, Server, run};

fn with_disks(names: &[&str]) -> Folder {
    let folder = Folder::new();
    for (disk, name) in (0..).zip(names) {
        make_disk(&folder, name, 4, disk);
    }
    folder
}

/// A counter of a disk.
fn counter(status: &Value, disk: u16, name: &str) -> u64 {
    status["disks"][disk.to_string()]["counters"][name].as_u64().unwrap()
}

fn status(folder: &Folder, server: &Server) -> Value {
    server.run(folder, &["status", "--json"]).json()
}

#[test]
fn what_is_sealed_is_read_with_one_read_of_the_device_and_outlives_kill_9() {
    let folder = with_disks(&["cold-0", "cold-1"]);
    let server = start(&folder, &["cold-0", "cold-1"]);
    let mut sunk = Vec::new();
    {
        let core = core();
        let way = way(core.io(), &server.endpoint);
        for disk in 0..2 {
            sunk.push(core.block_on(sink(&way, disk, 1, 3, 400)));
            let count = sunk[usize::from(disk)].record_count();
            assert_eq!(core.block_on(get_all(&way, &sunk[usize::from(disk)])), (count, 0));
        }
        let said = status(&folder, &server);
        assert_eq!((said["role"].as_str(), said["node"].as_u64()), (Some("cold"), Some(4)));
        assert_eq!(said["group"].as_u64(), Some(u64::from(GROUP)));
        for disk in 0..2 {
            let reads = ["reads", "device_reads"].map(|name| counter(&said, disk, name));
            assert_eq!(reads, [1200, 1200], "a get reads the device once");
            assert_eq!(counter(&said, disk, "sealed"), 1);
        }
        let shown = server.run(&folder, &["status"]).done();
        assert!(shown.contains("cold-1") && shown.contains("device_reads"), "{shown}");
    }
    server.kill();

    let server = start(&folder, &["cold-0", "cold-1"]);
    let core = core();
    let way = way(core.io(), &server.endpoint);
    for (disk, sunk) in (0..).zip(&sunk) {
        assert_eq!(core.block_on(get_all(&way, sunk)), (1200, 0));
        let listed = core.block_on(list(&way, disk));
        let held: Vec<_> =
            listed.iter().map(|place| (place.whom.bucket, place.offset, place.number)).collect();
        let known: Vec<_> =
            sunk.places().map(|place| (place.whom.bucket, place.offset, place.number)).collect();
        assert_eq!(held, known);
    }
    let said = status(&folder, &server);
    assert_eq!(counter(&said, 1, "device_reads"), 1200);
    drop(way);
    // Nobody else can have the disks meanwhile.
    let arguments = serve(&["cold-0", "cold-1"]);
    let second = run(&folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(second.error(3).contains("none of the disks"));
    assert_eq!(server.stop(), (String::new(), 0), "it drains and ends");
}

#[test]
fn blocks_are_read_as_they_are_stored_with_one_read_of_the_device() {
    let folder = Folder::new();
    for (disk, name) in [(0, "cold-0"), (1, "cold-1")] {
        format(&folder, name, 4, disk, &["--file", "32 MiB", "--create", "80 MiB", "--yes"]).done();
    }
    let server = start(&folder, &["cold-0", "cold-1"]);
    let core = core();
    let (config, small) = (
        ClientConfig { frame_bytes: 4 << 20, ..ClientConfig::default() },
        ClientConfig { frame_bytes: 64 << 10, ..ClientConfig::default() },
    );
    let (way, small) =
        (way_of(core.io(), &server.endpoint, &config), way_of(core.io(), &server.endpoint, &small));
    // One of the disks may belong to another core than the one that is connected to.
    for disk in 0..2 {
        let sunk = core.block_on(sink_large(&way, disk, 1_500, 4_000));
        let mut asked = 0;
        for bytes_max in [COLD_READ_BYTES_MAX, 300_000, 1] {
            let runs = runs(&sunk, bytes_max);
            assert!(runs.len() > 2, "6 MB are not read at once");
            for (blocks, written) in runs {
                let reply = core.block_on(read(&way, blocks));
                let Answer::Cold(ColdAnswer::Read(found)) = reply.answer() else {
                    panic!("{:?}", reply.answer())
                };
                assert!(found == written, "{blocks:?} has other bytes");
                asked += 1;
            }
        }
        let counters = || {
            let said = status(&folder, &server);
            ["reads", "device_reads", "moved", "corrupt"].map(|name| counter(&said, disk, name))
        };
        assert_eq!(counters(), [asked, asked, 0, 0]);

        let (first, _) = runs(&sunk, 300_000)[0];
        let not = |way: &ColdNode, blocks: ColdBlocks| {
            let reply = core.block_on(read(way, blocks));
            let Answer::Not(outcome) = reply.answer() else { panic!("{:?}", reply.answer()) };
            outcome
        };
        // What does not fit, and what is gone, is known before the disk is asked.
        assert_eq!(not(&small, first), Outcome::TooLarge { limit: Limit::Frame });
        let gone = ColdBlocks { file_generation: first.file_generation + 1, ..first };
        assert_eq!(not(&way, gone), Outcome::Moved);
        assert_eq!(counters(), [asked, asked, 1, 0]);
        // Of another window, within a block, and cut within the last.
        for wrong in [
            ColdBlocks { window_generation: first.window_generation + 1, ..first },
            ColdBlocks { block_offset: first.block_offset + 1, ..first },
            ColdBlocks { block_bytes: first.block_bytes - 1, ..first },
        ] {
            assert_eq!(not(&way, wrong), Outcome::Corrupt, "{wrong:?}");
        }
        assert_eq!(counters(), [asked, asked + 3, 1, 3]);
    }
    drop((way, small));
    assert_eq!(server.stop().1, 0);
}

#[test]
fn a_disk_that_does_not_answer_is_left_out_and_named() {
    let folder = with_disks(&["cold-0", "cold-1"]);
    let server = start(&folder, &["gone", "cold-1", "cold-0"]);
    let core = core();
    let way = way(core.io(), &server.endpoint);
    let sunk = core.block_on(sink(&way, 1, 1, 1, 20));
    assert_eq!(core.block_on(get_all(&way, &sunk)), (20, 0));
    assert_eq!(status(&folder, &server)["absent_disks"], serde_json::json!(["gone"]));
    assert!(server.run(&folder, &["status"]).done().contains("gone"));
    assert!(folder.text("server.log").contains("gone"));
    drop(way);
    assert_eq!(server.stop().1, 0);
}

#[test]
fn a_store_says_what_its_cold_group_is() {
    let folder = Folder::new();
    let format = "disk format store --create 256MiB --shards 1 --yes";
    run(&folder, &format.split(' ').collect::<Vec<_>>()).done();
    folder.write(
        "f.toml",
        "[disk]\npath = \"store\"\n[network]\nlisten = \"127.0.0.1:0\"\n[sink]\n\
         nodes = [\"10.0.0.11:7420\", \"10.0.0.12:7420\", \"10.0.0.13:7420\"]\ngroup = 3\ndisks = 12\nafter = \"30 days\"\n",
    );
    let server = Server::start(&folder, &["serve", "--config", "f.toml"]);
    let expected = serde_json::json!({
        "nodes": ["10.0.0.11:7420", "10.0.0.12:7420", "10.0.0.13:7420"],
        "group": 3, "disk_count": 12, "after_us": 30 * 86_400_000_000_u64,
    });
    assert_eq!(status(&folder, &server)["sink"], expected);
    assert_eq!(server.stop().1, 0);
    assert!(folder.text("server.log").contains("this store is alone: nothing sinks"));
    let other = ["serve", "--config", "f.toml", "--set", "sink.nodes=[\"10.0.0.11:7420\"]"];
    let error = run(&folder, &other).error(2);
    assert!(error.contains("sink: nodes has 1 addresses"), "{error}");
    let without = ["serve", "--config", "f.toml", "--set", "sink.nodes=", "--set", "sink.disks=0"];
    let server = Server::start(&folder, &without);
    assert_eq!(status(&folder, &server).get("sink"), None);
    assert_eq!(server.stop().1, 0);
}

#[test]
fn what_cannot_be_served_is_refused_with_what_to_do() {
    let folder = with_disks(&["cold-0", "cold-1"]);
    make_disk(&folder, "other", 5, 2);
    make_disk(&folder, "twin", 4, 1);
    folder.write("blank", vec![0; 4 << 20]);
    folder.write("foreign", vec![7; 4 << 20]);
    let store = "disk format store --create 2MiB --shards 1 --segment 64KiB --journal 256KiB --yes";
    run(&folder, &store.split(' ').collect::<Vec<_>>()).done();
    let fails = |disks: &[&str], exit: i32, what: &str| {
        let arguments = serve(disks);
        let error = run(&folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).error(exit);
        assert!(error.contains(what), "{disks:?}: {error}");
    };
    fails(&[], 2, "set disks in [cold]");
    fails(&["cold-0", "other"], 2, "name the disks of one node in cold.disks");
    fails(&["cold-0", "cold-1", "twin"], 3, "both are disk 1 of the group");
    fails(&["blank"], 3, "thermocline disk format blank --cold");
    fails(&["cold-0", "foreign"], 3, "data of an unknown kind");
    fails(&["store"], 3, "the disk of a store");
    fails(&["gone", "gone too"], 3, "no disk of [cold] answers");
    fails(&["cold-0", "cold-0"], 2, "has cold-0 twice");
    let store = run(&folder, &["serve", "--set", "disk.path=cold-0"]).error(3);
    assert!(store.contains("cold.disks of a node with the role cold"), "{store}");
    // Not even anew: what a cold disk holds is not a store's to give away.
    for anew in [&["disk", "format", "cold-0", "--shards", "1", "--yes"][..], &["--anew"]].iter().scan(
        Vec::new(),
        |all, more| {
            all.extend_from_slice(more);
            Some(all.clone())
        },
    ) {
        assert!(run(&folder, &anew).error(3).contains("cold disk"), "{anew:?}");
    }
    folder.write("cold.toml", "[node]\nrole = \"cold\"\n[cold]\ndisk = [\"cold-0\"]\n");
    let typo = run(&folder, &["serve", "--config", "cold.toml"]).error(2);
    assert!(typo.contains("cold.toml:4") && typo.contains("did you mean cold.disks?"), "{typo}");
    folder
        .write("cold.toml", "[node]\nrole = \"cold\"\n[cold]\ndisks = [\"cold-0\", \"cold-1\"]\ncores = 1\n");
    let checked = run(&folder, &["config", "check", "--config", "cold.toml"]).done();
    assert!(
        checked.contains("1 cores, as [cold] and its disks say") && !checked.contains("note: disk"),
        "{checked}"
    );
    let error = run(&folder, &["serve", "--config", "cold.toml", "--without", "2", "--yes"]).error(2);
    assert!(error.contains("no vote"), "{error}");
}
