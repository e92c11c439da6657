//! Cold disks without a node: made, refused, listed, looked at, cleared.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use layout::cold_disk::ColdGeometry;
use serde_json::Value;
use support::cold::{CLUSTER, GROUP, core, format, get_all, make_disk, sink, start, way};
use support::{Folder, run};

const BYTES: u64 = 4 << 20;

fn block(folder: &Folder, name: &str, at: u64) -> Vec<u8> {
    let file = OpenOptions::new().read(true).open(folder.path(name)).unwrap();
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

fn copies(folder: &Folder, name: &str) -> Vec<bool> {
    let geometry = ColdGeometry::plan(BYTES, 256 << 10, u32::MAX).unwrap();
    let at = (0..3).map(|copy| geometry.copy_offset(copy).0);
    at.map(|at| block(folder, name, at).starts_with(b"TCLCOLDS")).collect()
}

fn kind(folder: &Folder, name: &str) -> String {
    run(folder, &["disk", "list", name, "--json"]).json()["kind"].as_str().unwrap().to_owned()
}

fn store(folder: &Folder, name: &str, more: &[&str]) -> support::Said {
    let format = ["disk", "format", name, "--shards", "1", "--segment", "64KiB", "--journal", "256KiB"];
    run(folder, &[&format[..], more].concat())
}

#[test]
fn a_disk_is_formatted_only_when_told_to_and_never_over_what_it_holds() {
    let folder = Folder::new();
    folder.write("a", vec![0; BYTES as usize]);
    let said = format(&folder, "a", 4, 1, &[]).done();
    assert!(said.contains("nothing was written") && said.contains("files of 256 KiB"), "{said}");
    assert_eq!((copies(&folder, "a"), kind(&folder, "a").as_str()), (vec![false; 3], "empty"));
    let said = format(&folder, "new", 4, 1, &["--create", "4 MiB"]).done();
    assert!(said.contains("nothing was written") && !folder.names().contains(&"new".to_owned()), "{said}");

    let said = format(&folder, "a", 4, 1, &["--yes", "--json"]).json();
    assert_eq!((said["number"].as_u64(), said["done"].as_bool()), (Some(1), Some(true)));
    assert_eq!((copies(&folder, "a"), kind(&folder, "a").as_str()), (vec![true; 3], "cold"));
    for more in [&[][..], &["--yes"]] {
        assert!(format(&folder, "a", 4, 2, more).error(3).contains("--anew"));
    }
    let of = run(&folder, &["disk", "inspect", "a", "--json"]).json();
    assert_eq!(of["cluster"].as_str(), Some(CLUSTER.to_string().as_str()));
    assert_eq!(
        [&of["node"], &of["group"], &of["number"]].map(Value::as_u64),
        [4, u64::from(GROUP), 1].map(Some)
    );
    assert_eq!((of["state"].as_str(), of["sections"].as_u64()), (Some("whole"), Some(0)));
    format(&folder, "a", 4, 2, &["--anew", "--fills", "--yes"]).done();
    let of = run(&folder, &["disk", "inspect", "a", "--json"]).json();
    assert_eq!((of["number"].as_u64(), of["state"].as_str()), (Some(2), Some("filling")));

    let config = ["--set", "node.role=cold", "--set", "cold.disks=[\"a\"]"];
    let said = run(&folder, &[&["doctor", "--json"][..], &config].concat()).json();
    let format_of = said.as_array().unwrap().iter().find(|finding| finding["topic"] == "a: format").unwrap();
    assert_eq!(format_of["verdict"], "good", "{said}");
    assert!(format_of["what"].as_str().unwrap().contains("disk 2 of cold group 3"), "{said}");

    // One end alone says what it is, and that is enough to leave it alone.
    for (name, at) in [("first", 0), ("last", BYTES - 4096)] {
        make_disk(&folder, name, 4, 1);
        let file = OpenOptions::new().write(true).open(folder.path(name)).unwrap();
        file.write_all_at(&[0; 4096], at).unwrap();
        assert_eq!(kind(&folder, name), "cold");
        assert!(format(&folder, name, 4, 1, &["--yes"]).error(3).contains("a cold disk"));
        assert!(store(&folder, name, &["--anew", "--yes"]).error(3).contains("cold disk"));
        assert_eq!(run(&folder, &["disk", "inspect", name]).exit, 0);
    }
    folder.write("foreign", [vec![0; 2 << 20], vec![9; 2 << 20]].concat());
    assert_eq!(kind(&folder, "foreign"), "foreign");
    for more in [&["--yes"][..], &["--yes", "--anew"]] {
        assert!(format(&folder, "foreign", 4, 1, more).error(3).contains("data of an unknown kind"));
    }
    assert_eq!(block(&folder, "foreign", BYTES - 4096), vec![9; 4096]);
    folder.write("small", vec![0; 256 << 10]);
    assert!(format(&folder, "small", 4, 1, &["--yes"]).error(3).contains("small"));
    let wrong = run(&folder, &["disk", "format", "a", "--cold", "--yes"]).error(2);
    assert!(wrong.contains("--cluster") && wrong.contains("--group") && wrong.contains("--disk"), "{wrong}");
    assert_eq!(format(&folder, "a", 4, 1, &["--shards", "2"]).exit, 2);
}

#[test]
fn a_disk_is_a_cold_one_or_a_stores_and_never_both() {
    let folder = Folder::new();
    store(&folder, "a", &["--create", "4MiB", "--yes"]).done();
    assert_eq!(kind(&folder, "a"), "store");
    assert!(run(&folder, &["disk", "inspect", "a"]).done().contains("shards"));
    assert!(format(&folder, "a", 4, 1, &["--yes"]).error(3).contains("the disk of a store"));
    format(&folder, "a", 4, 1, &["--yes", "--anew"]).done();
    assert_eq!(kind(&folder, "a"), "cold");
    assert!((0..4).all(|copy| !block(&folder, "a", copy * 4096).starts_with(b"TCLSUPER")));
    run(&folder, &["disk", "wipe", "a", "--yes"]).done();
    store(&folder, "a", &["--yes"]).done();
    assert_eq!(kind(&folder, "a"), "store");
}

#[test]
fn a_wipe_clears_all_copies_and_leaves_a_disk_that_can_be_formatted() {
    let folder = Folder::new();
    make_disk(&folder, "a", 4, 1);
    let server = start(&folder, &["a"]);
    {
        let core = core();
        let way = way(core.io(), &server.endpoint);
        let sunk = core.block_on(sink(&way, 1, 1, 2, 300));
        assert_eq!(core.block_on(get_all(&way, &sunk)), (600, 0));
    }
    // While a node has it nobody else may write to it; looking is no harm.
    assert!(format(&folder, "a", 4, 1, &["--anew", "--yes"]).exit == 3);
    assert_eq!(run(&folder, &["disk", "wipe", "a", "--yes"]).exit, 3);
    let of = run(&folder, &["disk", "inspect", "a", "--json"]).json();
    assert_eq!([&of["sections"], &of["files_used"]].map(Value::as_u64), [Some(2), Some(1)]);
    assert!(run(&folder, &["disk", "list", "a"]).done().contains("disk 1 of cold group 3, node 4"));
    assert_eq!(server.stop().1, 0);

    let said = run(&folder, &["disk", "wipe", "a"]).done();
    assert!(said.contains("disk 1 of cold group 3") && said.contains("nothing was wiped"), "{said}");
    assert_eq!(copies(&folder, "a"), [true; 3]);
    assert!(run(&folder, &["disk", "wipe", "a", "--yes"]).done().contains("3 superblock copies cleared"));
    assert_eq!((copies(&folder, "a"), kind(&folder, "a").as_str()), (vec![false; 3], "empty"));
    assert_eq!(run(&folder, &["disk", "wipe", "a", "--yes"]).exit, 1);
    format(&folder, "a", 5, 0, &["--yes"]).done();
    let of = run(&folder, &["disk", "inspect", "a", "--json"]).json();
    assert_eq!([&of["node"], &of["sections"]].map(Value::as_u64), [Some(5), Some(0)]);
}
