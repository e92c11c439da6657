//! A group of our nodes as processes of the running program: `thermocline serve`, one disk file each. Owns the processes and their
//! files, and ends and removes them.

use crate::outside::{self, Beside};
use crate::target::TargetError;
use ioengine::CoreConfig;
use ioengine::uring::{Runtime, SHARED_MEMORY_VARIABLE};
use layout::units::{TabletIndex, Uuid};
use net::route::{self, ClusterMap, Roles};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Settings of each node beside its place.
const SETTINGS: [&str; 3] = [
    "limits.memtable_bytes=256MiB",
    "limits.memtable_record_count_max=1000000",
    "limits.block_cache_bytes=16MiB",
];
/// Room for a round's puts.
const DISK_SIZE: &str = "6 GiB";

/// A running group.
pub(crate) struct Group {
    nodes: Vec<Beside>,
    folder: PathBuf,
    /// Where each listens.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Group {
    /// Makes disks below `dir` and starts a node on each.
    pub(crate) fn start(dir: &Path, addresses: &[SocketAddr], shards: u16) -> Result<Group, TargetError> {
        let failed = |error: &dyn std::fmt::Display| TargetError(format!("a group of nodes: {error}"));
        let folder = dir.join("group");
        outside::remove_folder(&folder);
        outside::make_folder(&folder).map_err(|error| failed(&error))?;
        let program = std::env::current_exe().map_err(|error| failed(&error))?.display().to_string();
        let cluster = Uuid(*b"thermocline perf").to_string();
        let members: Vec<String> = (1..)
            .zip(addresses)
            .map(|(id, address)| format!("{{ id = {id}, address = \"{address}\", zone = {id} }}"))
            .collect();
        let members = format!("cluster.nodes=[{}]", members.join(", "));
        // Beside the version caches of others on this machine.
        let memory = format!("{SHARED_MEMORY_VARIABLE}={}", folder.display());
        let mut group = Group { nodes: Vec::new(), folder: folder.clone(), addresses: addresses.to_vec() };
        for (number, address) in (1..).zip(addresses) {
            let disk = folder.join(format!("disk-{number}")).display().to_string();
            let (number, shards) = (number.to_string(), shards.to_string());
            let format =
                ["disk", "format", &disk, "--create", DISK_SIZE, "--journal", "1 GiB", "--shards", &shards];
            let format =
                [&format[..], &["--node", &number, "--cluster", &cluster, "--found", "--yes"]].concat();
            outside::run(&program, &format).map_err(|error| failed(&error))?;
            let own = [format!("disk.path={disk}"), format!("network.listen={address}"), members.clone()];
            let settings = own.iter().map(String::as_str).chain(SETTINGS);
            let words =
                [program.as_str(), "serve"].into_iter().chain(settings.flat_map(|one| ["--set", one]));
            let command = ["env", &memory].into_iter().chain(words).map(str::to_owned);
            group.nodes.push(Beside::start(&command.collect::<Vec<_>>()).map_err(|error| failed(&error))?);
        }
        Ok(group)
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Beside::pid).collect()
    }

    /// The command of the first node.
    pub(crate) fn command(&self) -> &str {
        &self.nodes[0].command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.nodes.clear();
        outside::remove_folder(&self.folder);
    }
}

/// Which of `count` nodes, equal but for their number, clients try first for each tablet.
pub(crate) fn first_replicas(addresses: &[SocketAddr]) -> Vec<usize> {
    let node = |(id, &address): (u32, &SocketAddr)| route::Node {
        id,
        address,
        zone: u16::try_from(id).expect("nodes are few"),
        roles: Roles::STORE,
        shard_count: 1,
    };
    let nodes: Vec<route::Node> = (1u32..).zip(addresses).map(node).collect();
    let groups = vec![route::Group { replicas: 3, members: nodes.iter().map(|node| node.id).collect() }];
    let map = ClusterMap {
        epoch: 1,
        cluster: Uuid([7; 16]),
        revision: 0,
        recent_us: 0,
        cache_share: 0,
        nodes,
        groups,
    };
    let order = map.replica_order(0).expect("a map of three equals has an order");
    TabletIndex::all().map(|tablet| usize::from(order.of(tablet)[0])).collect()
}

/// A clock of a core that does nothing else.
pub(crate) struct Clock(pub(crate) Runtime);

impl Clock {
    pub(crate) fn io(&self) -> &ioengine::Io {
        self.0.io()
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.block_on(future)
    }

    pub(crate) fn rest(&self, wait: Duration) {
        self.0.block_on(self.0.io().sleep(wait));
    }
}

/// Addresses that nobody listens on now.
pub(crate) fn free_addresses<const COUNT: usize>() -> Result<([SocketAddr; COUNT], Clock), TargetError> {
    let failed = |error: &dyn std::fmt::Display| TargetError(format!("no free port: {error}"));
    let runtime = Runtime::new(CoreConfig::small("port", 0)).map_err(|error| failed(&error))?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listeners = (0..COUNT)
        .map(|_| runtime.io().listen(any).map_err(|error| failed(&error)))
        .collect::<Result<Vec<_>, _>>()?;
    let addresses = std::array::from_fn(|at| listeners[at].address());
    drop(listeners);
    Ok((addresses, Clock(runtime)))
}
