//! One node on the real back end: threads, io_uring, a file, loopback. Narrow: what can go wrong is tortured in the
//! simulator; this shows that the same code runs on the machine.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use ioengine::disk::DiskOpen;
use ioengine::uring::{Runtime, region_path};
use ioengine::{CoreConfig, Launcher};
use layout::units::Uuid;
use shard::format::format;
use shard::limits::Limits;
use shard::node::{Event, Node, NodeConfig, start};
use shard::recover::region_name;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use support::Client;

const CORES: u16 = 2;

/// Removes the version caches of a device, also when the test fails.
struct VersionCaches(Uuid);

impl Drop for VersionCaches {
    fn drop(&mut self) {
        for shard in 0..CORES {
            let _ = std::fs::remove_file(region_path(&region_name(self.0, shard)));
        }
    }
}

fn serve(disk: &str) -> (Node, SocketAddr) {
    let config = NodeConfig {
        disk: disk.to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        advertise: None,
        map: None,
        without: Vec::new(),
        versions: net::peer::PeerVersions::ALL,
        core_count: CORES,
        host: ioengine::HostKind::Own,
        pin: false,
        spin_us: 0,
        limits: Limits::small(),
        sink: None,
    };
    let (sender, receiver) = mpsc::channel();
    let node = start(&Launcher::Threads, &config, Arc::new(move |event| drop(sender.send(event)))).unwrap();
    for event in receiver {
        match event {
            Event::Serving(address) => return (node, address),
            Event::Failed(text) => panic!("{text}"),
            Event::Recovered { damaged_tablet_count, .. } => assert_eq!(damaged_tablet_count, 0),
        }
    }
    panic!("the node ended without a word");
}

#[test]
fn what_was_put_is_there_after_a_drain_and_another_start() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk").to_str().unwrap().to_owned();
    ioengine::uring::create_file(std::path::Path::new(&path), 32 << 20).unwrap();
    let runtime = Runtime::new(CoreConfig::small("test", 0)).unwrap();
    let io = runtime.io().clone();
    let formatted = runtime.block_on(async {
        let disk = io.open_disk(&path, DiskOpen::default()).unwrap();
        format(&io, &disk, &support::plan(CORES)).await.unwrap()
    });
    let _caches = VersionCaches(formatted.device);
    let mut puts = 0u64;
    for _ in 0..3 {
        let (node, address) = serve(&path);
        runtime.block_on(async {
            let mut client = Client::connect(io.clone(), address).await;
            for n in 0..puts {
                let (_, value) = client.get(format!("s{}", n % 13).as_bytes(), n).await.unwrap();
                assert_eq!(value, n.to_le_bytes());
            }
            for n in puts..puts + 100 {
                client.put(format!("s{}", n % 13).as_bytes(), n, &n.to_le_bytes()).await.unwrap();
            }
        });
        puts += 100;
        node.drain();
        node.join();
    }
}

#[test]
fn a_port_that_somebody_listens_on_is_refused_even_if_it_is_shared() {
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    taken.set_reuse_address(true).unwrap();
    taken.set_reuse_port(true).unwrap();
    taken.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    taken.listen(1).unwrap();
    let address = taken.local_addr().unwrap().as_socket().unwrap();
    let runtime = Runtime::new(CoreConfig::small("test", 0)).unwrap();
    let refused = runtime.io().listen(address).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("listen on"), "{refused}");
    drop(taken);
    let first = runtime.io().listen(address).unwrap();
    let second = runtime.io().listen(first.address()).unwrap();
    assert_eq!(first.address(), second.address(), "cores of one process share");
}
