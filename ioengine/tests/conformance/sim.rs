//! The suite on the simulated back end: each case in several worlds, whose speeds and orders are drawn from seeds.

use crate::env::{Case, DISK_BYTES_MIN, DiskFaults, Env};
use ioengine::sim::{DiskConfig, LinkConfig, NodeConfig, NodeHandle, PPM, Random, World, WorldConfig};
use ioengine::{HostKind, Launcher};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Worlds per case.
const SEED_COUNT: u64 = 24;
/// Virtual time after which a case hangs.
const HANG: Duration = Duration::from_secs(600);

struct SimFaults(NodeHandle);

impl DiskFaults for SimFaults {
    fn flushes_fail(&self, disk: &str, fail: bool) {
        let disk = self.0.disk(disk).unwrap();
        let faults = disk.faults();
        disk.set_faults(ioengine::sim::DiskFaults { flush_error_ppm: if fail { PPM } else { 0 }, ..faults });
    }

    fn full(&self, disk: &str, full: bool) {
        let disk = self.0.disk(disk).unwrap();
        let faults = disk.faults();
        disk.set_faults(ioengine::sim::DiskFaults { full_after_bytes: full.then_some(0), ..faults });
    }
}

fn run(name: &'static str, case: Case) {
    for seed in 0..SEED_COUNT {
        let mut random = Random::new(seed).fork(name, 0);
        let quiet = seed == 0;
        let mut config = if quiet { WorldConfig::default() } else { WorldConfig::swarm(&mut random) };
        // Cases say how much fits on the way without a reader, and wait a few milliseconds for a connection.
        config.link = LinkConfig { timeout_ns: u64::MAX, ..LinkConfig::default() };
        let world = World::new(seed, config);
        let node = world.add_node(NodeConfig::numbered(1));
        for disk in ["first", "second"] {
            let block_bytes = if random.coin() { 512 } else { 4096 };
            let volatile_cache = random.coin();
            world.add_disk(
                &node,
                disk,
                DiskConfig { block_bytes, volatile_cache, ..DiskConfig::new(DISK_BYTES_MIN) },
            );
        }
        let done = Rc::new(Cell::new(false));
        let finished = Rc::clone(&done);
        node.launch(Env::core(name, 0, HostKind::Own), move |io| async move {
            let env = Env {
                launcher: Launcher::Simulated(node),
                host: HostKind::Own,
                disks: vec!["first".to_owned(), "second".to_owned()],
                listen: SocketAddr::new(node.address(), 0),
                nobody: SocketAddr::new(node.address(), 1),
                region: "case".to_owned(),
                faults: Some(Rc::new(SimFaults(node))),
            };
            case(io, env).await;
            finished.set(true);
        })
        .unwrap();
        assert!(world.run_while(HANG, || !done.get()), "{name} hangs (seed {seed})");
        assert!(world.run_while(HANG, || node.is_running()), "{name}: its cores do not end (seed {seed})");
    }
}

conformance!(super::run);
