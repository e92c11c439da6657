//! A disk of one of three cold nodes is lost: `disk replace` makes a new one ready, and it is filled from the two others, over a kill of the process, too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]
#![expect(
    clippy::disallowed_methods,
    reason = "ports are named before any node listens on them, a disk is lost, and bytes are compared"
)]

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use layout::cold_disk::ColdGeometry;
use serde_json::Value;
use support::cold::{Sunk, core, get_all, make_disk, serve, sink_of, way};
use support::{Folder, Server, run};

const DISK_BYTES: u64 = 4 << 20;
const FILE_BYTES: u64 = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
/// The machine that loses its disk.
const LOST: usize = 1;

/// Three ports that were free a moment ago, below those that the system gives to whoever connects.
fn ports() -> [u16; 3] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = || loop {
        let number = std::process::id().wrapping_mul(89).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(number % 10_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    };
    [next(), next(), next()]
}

struct Group {
    folder: Folder,
    ports: [u16; 3],
}

fn name(node: usize) -> String {
    format!("cold-{node}")
}

impl Group {
    fn new() -> Group {
        let (folder, ports) = (Folder::new(), ports());
        (0..3).for_each(|node| make_disk(&folder, &name(node), 11 + node as u32, 0));
        Group { folder, ports }
    }

    fn start(&self, node: usize, rebuild_rate: &str) -> Server {
        let others = self.ports.iter().filter(|port| **port != self.ports[node]);
        let others: Vec<String> = others.map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let mut arguments = serve(&[&name(node)]);
        for setting in [
            format!("network.listen=127.0.0.1:{}", self.ports[node]),
            format!("cold.peers=[{}]", others.join(", ")),
            "cold.scrub_period=0 s".to_owned(),
            format!("cold.rebuild_bytes_per_second={rebuild_rate}"),
        ] {
            arguments.extend(["--set".to_owned(), setting]);
        }
        Server::start(&self.folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What stands in the places of all sections of a run.
    fn stands(&self, node: usize, sunk: &Sunk) -> Vec<u8> {
        let geometry = ColdGeometry::plan(DISK_BYTES, FILE_BYTES, u32::MAX).unwrap();
        let at = geometry.file_offset(sunk.place.file).0 + u64::from(sunk.place.offset);
        let mut bytes = vec![0; (sunk.place.content_bytes as usize).next_multiple_of(4096)];
        let file = OpenOptions::new().read(true).open(self.folder.path(&name(node))).unwrap();
        file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    /// Another disk stands where one was: a blank one.
    fn blank(&self, node: usize) {
        let file = OpenOptions::new().write(true).truncate(true).open(self.folder.path(&name(node))).unwrap();
        file.set_len(DISK_BYTES).unwrap();
        file.write_all_at(&vec![0; DISK_BYTES as usize], 0).unwrap();
        file.sync_all().unwrap();
    }

    fn replace(&self, more: &[&str]) -> support::Said {
        let (disk, from, node) =
            (name(LOST), format!("127.0.0.1:{}", self.ports[0]), (11 + LOST).to_string());
        let mut arguments =
            vec!["disk", "replace", &disk, "--cold", "--node", &node, "--disk", "0", "--from", &from];
        arguments.extend(more);
        run(&self.folder, &arguments)
    }

    fn inspect(&self, node: usize) -> Value {
        run(&self.folder, &["disk", "inspect", &name(node), "--json"]).json()
    }
}

fn counters(folder: &Folder, server: &Server) -> Value {
    let status: Value = server.run(folder, &["status", "--json"]).json();
    status["disks"]["0"]["counters"].clone()
}

/// Until the counters of a disk are as wanted.
fn wait_for(folder: &Folder, server: &Server, wanted: impl Fn(&dyn Fn(&str) -> u64) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let all = counters(folder, server);
        if wanted(&|name| all[name].as_u64().unwrap()) {
            return all;
        }
        assert!(began.elapsed() < PATIENCE, "{}", server.run(folder, &["status"]).done());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_lost_disk_is_replaced_and_filled_from_the_two_others() {
    let group = Group::new();
    let core = core();
    let mut servers: Vec<Option<Server>> = (0..3).map(|node| Some(group.start(node, "1 GiB"))).collect();
    let mut all: Vec<Sunk> = Vec::new();
    for generation in 1..=10 {
        for server in servers.iter().flatten() {
            let way = way(core.io(), &server.endpoint);
            let sunk = core.block_on(sink_of(&way, 0, (generation, 8, 24), 1_000));
            all.retain(|other| other.place != sunk.place);
            all.push(sunk);
        }
    }
    let files: std::collections::BTreeSet<u32> = all.iter().map(|sunk| sunk.place.file).collect();
    assert!(all.len() == 10 && files.len() >= 3, "{files:?}");

    servers[LOST].take().unwrap().kill();
    let used = group.replace(&["--yes"]);
    assert_ne!(used.exit, 0, "it is one of ours, and was not lost");
    group.blank(LOST);
    assert!(group.replace(&[]).done().contains("nothing was written"));
    assert!(group.replace(&["--yes"]).done().contains("to be filled from the others"));
    assert_eq!(group.inspect(LOST)["state"], "filling");

    // Slowly, so that it is killed in the middle.
    let server = group.start(LOST, "200 KiB");
    let shown = server.run(&group.folder, &["status"]).done();
    assert!(shown.contains("FILLING: file"), "{shown}");
    let then = wait_for(&group.folder, &server, |of| of("rebuild_files") > 0);
    assert_eq!(then["rebuilding"], 1);
    server.kill();
    assert_eq!(group.inspect(LOST)["state"], "filling");
    let server = group.start(LOST, "1 GiB");
    let end = wait_for(&group.folder, &server, |of| of("rebuilding") == 0);
    assert!(
        end["rebuild_total_bytes"].as_u64() < then["rebuild_total_bytes"].as_u64(),
        "it goes on: {then} {end}"
    );
    assert_eq!((&end["rebuild_left_out"], &end["rebuilds"]), (&Value::from(0), &Value::from(1)));

    // It alone has everything.
    (0..3).filter(|node| *node != LOST).for_each(|node| servers[node].take().unwrap().kill());
    for sunk in &all {
        let found = core.block_on(get_all(&way(core.io(), &server.endpoint), sunk));
        assert_eq!(found, (sunk.record_count(), 0));
    }
    server.kill();
    for sunk in &all {
        assert!(group.stands(LOST, sunk) == group.stands(0, sunk), "byte for byte what the others hold");
    }
    let (own, other) = (group.inspect(LOST), group.inspect(0));
    assert_eq!(own["state"], "whole");
    for field in ["files_used", "written_bytes", "sections", "sections_freed"] {
        assert_eq!(own[field], other[field], "{field}");
    }
    assert!(run(&group.folder, &["fsck", &name(LOST)]).done().ends_with("sound\n"));
}
