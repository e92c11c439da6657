//! Three cold nodes of a group as processes: what decays on the disk of one is written anew from the others, whether somebody asks for it or not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]
#![expect(
    clippy::disallowed_methods,
    reason = "ports are named before any node listens on them, disks decay, and their bytes are compared"
)]

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use layout::cold_disk::ColdGeometry;
use serde_json::Value;
use support::cold::{Sunk, core, get_all, make_disk, serve, sink, way};
use support::{Folder, Server};

const DISK_BYTES: u64 = 4 << 20;
const FILE_BYTES: u64 = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// Three ports that were free a moment ago, below those that the system gives to whoever connects.
fn ports() -> [u16; 3] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = || loop {
        let number = std::process::id().wrapping_mul(83).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
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

impl Group {
    fn new() -> Group {
        let (folder, ports) = (Folder::new(), ports());
        for node in 0..3 {
            make_disk(&folder, &name(node), 11 + node as u32, 0);
        }
        Group { folder, ports }
    }

    fn start(&self, node: usize, scrub_period: &str) -> Server {
        let others = self.ports.iter().filter(|port| **port != self.ports[node]);
        let others: Vec<String> = others.map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let mut arguments = serve(&[&name(node)]);
        for setting in [
            format!("network.listen=127.0.0.1:{}", self.ports[node]),
            format!("cold.peers=[{}]", others.join(", ")),
            format!("cold.scrub_period={scrub_period}"),
        ] {
            arguments.extend(["--set".to_owned(), setting]);
        }
        Server::start(&self.folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What stands in the places of all sections, and in the blocks that they share.
    fn stands(&self, node: usize, sunk: &Sunk) -> Vec<u8> {
        let mut bytes = vec![0; (sunk.place.content_bytes as usize).next_multiple_of(4096)];
        let file = OpenOptions::new().read(true).open(self.folder.path(&name(node))).unwrap();
        file.read_exact_at(&mut bytes, at(sunk)).unwrap();
        bytes
    }

    /// Bytes of a disk become others.
    fn decay(&self, node: usize, sunk: &Sunk, bytes: std::ops::Range<u64>) {
        let file = OpenOptions::new().write(true).open(self.folder.path(&name(node))).unwrap();
        let other = vec![0xa5; (bytes.end - bytes.start) as usize];
        file.write_all_at(&other, at(sunk) + bytes.start).unwrap();
    }
}

fn name(node: usize) -> String {
    format!("cold-{node}")
}

/// Where on the device the sections begin.
fn at(sunk: &Sunk) -> u64 {
    let geometry = ColdGeometry::plan(DISK_BYTES, FILE_BYTES, u32::MAX).unwrap();
    geometry.file_offset(sunk.place.file).0 + u64::from(sunk.place.offset)
}

fn counter(folder: &Folder, server: &Server, name: &str) -> u64 {
    let status: Value = server.run(folder, &["status", "--json"]).json();
    status["disks"]["0"]["counters"][name].as_u64().unwrap()
}

/// Until a disk has mended so many sections and nothing waits.
fn wait_for_repair(folder: &Folder, server: &Server, sections: u64) {
    let began = Instant::now();
    while counter(folder, server, "repaired") < sections || counter(folder, server, "repair_queue") > 0 {
        assert!(began.elapsed() < PATIENCE, "{}", server.run(folder, &["status"]).done());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_decays_on_one_of_three_machines_is_written_anew() {
    let group = Group::new();
    let core = core();
    let mut servers: Vec<Server> = (0..3).map(|node| group.start(node, "0 s")).collect();
    let mut sunk = Vec::new();
    for server in &servers {
        sunk.push(core.block_on(sink(&way(core.io(), &server.endpoint), 0, 1, 4, 600)));
    }
    let sunk = &sunk[0];
    let whole = group.stands(0, sunk);
    assert_eq!((group.stands(1, sunk), group.stands(2, sunk)), (whole.clone(), whole.clone()));

    // The end of one section, and header and data of the next; who asks finds it.
    servers.remove(1).kill();
    let second = u64::from(sunk.places().nth(1).unwrap().offset - sunk.place.offset);
    group.decay(1, sunk, second - 700..second + 300);
    servers.insert(1, group.start(1, "0 s"));
    let (_, corrupt) = core.block_on(get_all(&way(core.io(), &servers[1].endpoint), sunk));
    assert!(corrupt > 0);
    wait_for_repair(&group.folder, &servers[1], 2);
    assert_eq!(group.stands(1, sunk), whole, "byte for byte what the others hold");
    let again = core.block_on(get_all(&way(core.io(), &servers[1].endpoint), sunk));
    assert_eq!(again, (sunk.record_count(), 0));

    // A header, which no get reads: the scrub misses its section.
    servers.remove(1).kill();
    group.decay(1, sunk, 0..20);
    servers.insert(1, group.start(1, "1 s"));
    wait_for_repair(&group.folder, &servers[1], 1);
    assert_eq!(group.stands(1, sunk), whole, "byte for byte what the others hold");
    let shown = servers[1].run(&group.folder, &["status"]).done();
    assert!(shown.contains("1 sections repaired") && shown.contains("scrub"), "{shown}");
}
