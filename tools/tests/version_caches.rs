//! The version caches that disks leave in shared memory go with their disks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use support::{Folder, Server, run, thermocline};

/// Names of version caches that stand in `folder`.
fn caches(folder: &std::path::Path) -> Vec<String> {
    let names =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("thermocline-versions-")).collect();
    names.sort();
    names
}

/// A node with two shards served once from `disk`.
fn serve_once(folder: &Folder, disk: &str) {
    let disk = format!("disk.path={disk}");
    let server = Server::start(folder, &["serve", "--set", &disk, "--set", "network.listen=127.0.0.1:0"]);
    assert_eq!(caches(&folder.path("")).len(), 2);
    assert_eq!(server.stop().1, 0);
}

const FORMAT: [&str; 9] =
    ["disk", "format", "d", "--shards", "2", "--segment", "16MiB", "--journal", "64MiB"];

#[test]
fn format_and_wipe_remove_those_of_the_former_disk() {
    let folder = Folder::new();
    run(&folder, &[&FORMAT[..], &["--create", "192MiB", "--yes"]].concat()).done();
    serve_once(&folder, "d");
    let first = caches(&folder.path(""));
    run(&folder, &[&FORMAT[..], &["--anew"]].concat()).done();
    assert_eq!(caches(&folder.path("")), first, "a dry run removes nothing");
    run(&folder, &[&FORMAT[..], &["--anew", "--yes"]].concat()).done();
    assert!(caches(&folder.path("")).is_empty(), "the disk has another life");
    serve_once(&folder, "d");
    assert_ne!(caches(&folder.path("")), first);
    let dry = run(&folder, &["disk", "wipe", "d"]).done();
    assert!(dry.contains("--yes") && caches(&folder.path("")).len() == 2, "{dry}");
    let said = run(&folder, &["disk", "wipe", "d", "--yes"]).done();
    assert!(said.contains("2 version caches") && caches(&folder.path("")).is_empty(), "{said}");
    assert!(run(&folder, &["inspect", "superblock", "d"]).exit != 0);
    assert_eq!(run(&folder, &["disk", "wipe", "d", "--yes"]).exit, 1, "it is nobody's now");
    run(&folder, &[&FORMAT[..], &["--yes"]].concat()).done();
    folder.write("foreign", [b"XFSB".as_slice(), &vec![0; 8 << 20]].concat());
    let error = run(&folder, &["disk", "wipe", "foreign", "--yes"]).error(3);
    assert!(error.contains("XFS"), "{error}");
}

#[test]
fn a_disk_that_is_served_is_not_wiped() {
    let folder = Folder::new();
    run(&folder, &[&FORMAT[..], &["--create", "192MiB", "--yes"]].concat()).done();
    let server =
        Server::start(&folder, &["serve", "--set", "disk.path=d", "--set", "network.listen=127.0.0.1:0"]);
    assert_eq!(run(&folder, &["disk", "wipe", "d", "--yes"]).exit, 3);
    assert_eq!(caches(&folder.path("")).len(), 2);
    assert_eq!(server.stop().1, 0);
}

#[test]
fn doctor_names_those_of_no_disk_that_it_sees() {
    let folder = Folder::new();
    run(&folder, &[&FORMAT[..], &["--create", "192MiB", "--yes"]].concat()).done();
    let said = |arguments: &[&str]| run(&folder, &[&["doctor"], arguments].concat()).out;
    let server =
        Server::start(&folder, &["serve", "--set", "disk.path=d", "--set", "network.listen=127.0.0.1:0"]);
    assert!(said(&[]).contains("each of a disk that is here or in use"), "in use");
    assert_eq!(server.stop().1, 0);
    assert!(said(&["d"]).contains("each of a disk that is here or in use"), "its disk is named");
    let blind = said(&[]);
    let caches = caches(&folder.path(""));
    assert!(blind.contains("2 files with") && caches.iter().all(|name| blind.contains(name)), "{blind}");
    assert!(blind.contains("rm "), "{blind}");
}

#[test]
fn dev_keeps_its_own_in_its_folder() {
    let folder = Folder::new();
    let start = || {
        let mut command = thermocline(&folder);
        command.env_remove("THERMOCLINE_SHM_DIR");
        Server::start_command(
            &folder,
            command.args(["dev", "--nodes", "1", "--dir", "data", "--port", "0", "--disk-size", "256 MiB"]),
        )
    };
    assert_eq!(start().stop().1, 0);
    let made = caches(&folder.path("data"));
    assert!(
        !made.is_empty() && made.iter().all(|name| !std::path::Path::new("/dev/shm").join(name).exists())
    );
    assert_eq!(start().stop().1, 0);
    assert_eq!(caches(&folder.path("data")), made, "the next start takes them up");
    let mut inspect = thermocline(&folder);
    let said =
        inspect.env_remove("THERMOCLINE_SHM_DIR").args(["inspect", "versions", "data/disk-1.img"]).output();
    assert!(String::from_utf8(said.unwrap().stdout).unwrap().contains("TCLVERSN"), "found beside the disk");
}
