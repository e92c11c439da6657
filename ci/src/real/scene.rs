//! The stage: disks, addresses, a proxy between each two nodes, and the nodes as processes.
//!
//! Owns how a node is configured: small memtables, journals and tails, so that seconds of load flush, merge, seal and need copies.
//! Invariant: `limits` are those that the nodes were started with.

use super::beside::Stage;
use super::caches::{self, Cache};
use super::colds::{self, Cold};
use super::disks::{self, Harm};
use super::links::{self, Cuts};
use super::process::Process;
use super::{Options, RealError};
use crate::sim::client::Orders;
use crate::sim::cluster::work::Routes;
use crate::sim::history::History;
use ioengine::Io;
use ioengine::marks::CANARY_VARIABLE;
use ioengine::uring::SHARED_MEMORY_VARIABLE;
use layout::units::{TabletIndex, Uuid};
use net::route::{self, ClusterMap, Roles};
use shard::limits::Limits;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

/// Shards of each disk.
const SHARDS: u16 = 2;
/// How long a node may take to answer after its start.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(30);
/// Part of gets that goes to caches until an operator says otherwise, in parts per million.
const SHARE_PPM: u32 = 900_000;
/// How often to look.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// A node.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    pub(super) disk: PathBuf,
    pub(super) memory: PathBuf,
    pub(super) log: PathBuf,
    pub(super) process: Option<Process>,
    /// Stands still.
    pub(super) paused: bool,
    /// Was asked to drain.
    pub(super) draining: bool,
    /// What is the matter with its disk.
    pub(super) harm: Option<Harm>,
    pub(super) starts: u64,
    command: Vec<String>,
    nodes: String,
    canary: Option<String>,
}

impl Node {
    /// Begin a start.
    pub(super) fn start(&mut self, binary: &Path) -> Result<(), RealError> {
        assert!(self.process.is_none(), "one process at a time");
        let arguments: Vec<&str> = self.command.iter().map(String::as_str).collect();
        let (memory, log) = (&self.memory, &self.log);
        self.process = Some(launch(binary, &arguments, &self.nodes, memory, self.canary.as_deref(), log)?);
        self.starts += 1;
        Ok(())
    }

    /// From the next start on.
    pub(super) fn set(&mut self, setting: &str, value: &str) {
        let key = format!("{setting}=");
        match self.command.iter().position(|word| word.starts_with(&key)) {
            Some(at) => self.command[at] = key + value,
            None => self.command.extend(["--set".to_owned(), key + value]),
        }
    }

    /// Kill -9, running or standing still.
    pub(super) fn kill(&mut self) {
        (self.paused, self.draining) = (false, false);
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }
}

/// Starts a process of a node: a store, or a cache before `nodes`.
pub(super) fn launch(
    binary: &Path,
    arguments: &[&str],
    nodes: &str,
    memory: &Path,
    canary: Option<&str>,
    log: &Path,
) -> Result<Process, RealError> {
    std::fs::create_dir_all(memory).map_err(RealError::io(format!("{}", memory.display())))?;
    let mut command = Command::new(binary);
    command.args(arguments).env("THERMOCLINE_CLUSTER_NODES", nodes);
    command.env(SHARED_MEMORY_VARIABLE, memory).env_remove(CANARY_VARIABLE);
    command.env("THERMOCLINE_LOG", "info");
    command.envs(canary.map(|canary| (CANARY_VARIABLE, canary)));
    Process::start(command, log)
}

/// The group.
pub(super) struct Scene {
    pub(super) io: Io,
    pub(super) binary: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) nodes: Vec<Node>,
    pub(super) caches: Vec<Cache>,
    pub(super) colds: Vec<Cold>,
    /// The nodes as caches are told of them.
    pub(super) stores: String,
    pub(super) canary: Option<String>,
    pub(super) cuts: Rc<Cuts>,
    pub(super) limits: Limits,
    pub(super) routes: Routes,
    pub(super) history: Rc<RefCell<History>>,
    /// Nodes whose disk may be damaged, one bit each.
    pub(super) rotten: u64,
    cluster: String,
    disk_size: &'static str,
    segment: &'static str,
}

/// How the nodes of a group are set up.
pub(super) struct Setup {
    /// `section.key=value`
    pub(super) settings: Vec<&'static str>,
    /// The limits among them, as the checkers know them.
    pub(super) limits: Limits,
    pub(super) disk_size: &'static str,
    /// Of its journals.
    pub(super) segment: &'static str,
    /// Whether there is a proxy between each two nodes.
    pub(super) proxies: bool,
}

/// Small bounds, for a group that is to be tormented.
pub(super) fn small() -> Setup {
    let settings = vec![
        "limits.staging_bytes=32KiB",
        "limits.record_bytes_max=64KiB",
        "limits.memtable_bytes=512KiB",
        "limits.memtable_record_count_max=600",
        "limits.staging_count_max=100",
        "limits.arena_bytes=32MiB",
        "limits.log_tail_bytes=128KiB",
        "limits.block_cache_bytes=1MiB",
        "limits.seal_age=2s",
        "limits.window_bytes=64KiB",
        "limits.maintenance_every=1s",
        "limits.scrub_period=20s",
    ];
    let limits = Limits {
        staging_bytes: 32 << 10,
        record_bytes_max: 64 << 10,
        memtable_bytes: 512 << 10,
        memtable_record_count_max: 600,
        staging_count_max: 100,
        arena_bytes: 32 << 20,
        ..Limits::default()
    };
    Setup { settings, limits, disk_size: "96 MiB", segment: "1 MiB", proxies: true }
}

/// The order in which clients try the nodes of each tablet.
fn orders(addresses: &[SocketAddr]) -> Orders {
    let node = |(id, &address): (u32, &SocketAddr)| route::Node {
        id,
        address,
        zone: u16::try_from(id).expect("nodes are few"),
        roles: Roles::STORE,
        shard_count: SHARDS,
    };
    let nodes: Vec<route::Node> = (1u32..).zip(addresses).map(node).collect();
    let members = nodes.iter().map(|node| node.id).collect();
    let replicas = u8::try_from(nodes.len()).expect("nodes are few");
    let groups = vec![route::Group { replicas, members }];
    let map = ClusterMap {
        epoch: 1,
        cluster: Uuid([7; 16]),
        revision: 0,
        recent_us: 0,
        cache_share: 0,
        nodes,
        groups,
    };
    let order = map.replica_order(0).expect("a map of equals has an order");
    TabletIndex::all().map(|tablet| order.of(tablet).iter().map(|&one| usize::from(one)).collect()).collect()
}

impl Scene {
    /// Everything is there and nothing runs.
    pub(super) async fn new(
        io: &Io,
        options: &Options,
        setup: Setup,
        history: &Rc<RefCell<History>>,
    ) -> Result<Scene, RealError> {
        let folder = &options.folder;
        std::fs::create_dir_all(folder).map_err(RealError::io(format!("{}", folder.display())))?;
        let count = usize::from(options.nodes);
        let cuts = Cuts::none(count);
        let addresses = (0..count).map(|node| free_address(io, node)).collect::<Result<Vec<_>, _>>()?;
        let Setup { settings, limits, disk_size, segment, proxies } = setup;
        let caches = Cache::some(io, options.caches, folder)?;
        let members: Vec<String> = caches.iter().map(Cache::member).collect();
        let named = (!caches.is_empty()).then(|| format!("cluster.caches=[{}]", members.join(", ")));
        let colds = if options.colds { Cold::some(io, folder)? } else { Vec::new() };
        let sinks = Cold::settings(&colds);
        let mut stores = String::new();
        let mut nodes = Vec::new();
        let mut cluster = None;
        for (node, &address) in addresses.iter().enumerate() {
            let disk = folder.join(format!("disk-{}.img", node + 1));
            let known = cluster.as_deref().map(|cluster| (cluster, "--found"));
            cluster = Some(format(&options.binary, &disk, (disk_size, segment), node + 1, known)?);
            let mut members = Vec::new();
            for (other, &real) in addresses.iter().enumerate() {
                let known = if other == node || !proxies {
                    real
                } else {
                    links::proxy(io, &cuts, (node, other), real)?
                };
                let id = other + 1;
                members.push(format!("{{ id = {id}, address = \"{known}\", zone = {id} }}"));
            }
            let own = [format!("disk.path={}", disk.display()), format!("network.listen={address}")];
            let replicas = format!("cluster.replicas={count}");
            let all =
                own.iter().map(String::as_str).chain([replicas.as_str()]).chain(settings.iter().copied());
            let all = all.chain(named.as_deref()).chain(sinks.iter().map(String::as_str));
            let command = std::iter::once("serve").chain(all.flat_map(|setting| ["--set", setting]));
            stores = format!("[{}]", members.join(", "));
            nodes.push(Node {
                address,
                disk: disk.clone(),
                memory: folder.join(format!("memory-{}", node + 1)),
                log: folder.join(format!("node-{}.log", node + 1)),
                process: None,
                paused: false,
                draining: false,
                harm: None,
                starts: 0,
                command: command.map(str::to_owned).collect(),
                nodes: stores.clone(),
                canary: options.canary.clone(),
            });
        }
        let cluster = cluster.expect("there are nodes");
        Cold::format(&colds, &options.binary, &cluster)?;
        let places = caches.iter().map(|cache| cache.side.address).collect();
        let share_ppm = (!caches.is_empty()).then(|| (places, Rc::new(Cell::new(SHARE_PPM))));
        let cold = colds.iter().map(|cold| cold.side.address).collect();
        let routes =
            Routes { orders: Rc::new(orders(&addresses)), addresses, caches: share_ppm, colds: cold };
        // The first ones: a minority.
        let rotten = if options.damage { (1 << ((count - 1) / 2)) - 1 } else { 0 };
        Ok(Scene {
            io: io.clone(),
            binary: options.binary.clone(),
            folder: folder.clone(),
            nodes,
            caches,
            colds,
            stores,
            canary: options.canary.clone(),
            cuts,
            limits,
            routes,
            history: Rc::clone(history),
            rotten,
            cluster,
            disk_size,
            segment,
        })
    }

    /// A new disk in place of a node's that is lost: it takes its data from the others before it votes.
    pub(super) fn format_again(&self, node: usize) -> Result<(), RealError> {
        let disk = &self.nodes[node].disk;
        if disk.exists() {
            disks::remove(disk)?;
        }
        let known = Some((&*self.cluster, "--recover"));
        format(&self.binary, disk, (self.disk_size, self.segment), node + 1, known).map(drop)
    }

    /// The nodes beside the group, and what a start of one needs.
    pub(super) fn sides(&mut self) -> (&mut [Cache], &mut [Cold], Stage<'_>) {
        let Scene { binary, caches, colds, canary, stores, .. } = self;
        (caches, colds, Stage { binary, stores, canary: canary.as_deref() })
    }

    /// Begin a start of a node.
    pub(super) fn start(&mut self, node: usize) -> Result<(), RealError> {
        let mut history = self.history.borrow_mut();
        let order = history.tick();
        history.starts.push(order);
        drop(history);
        self.nodes[node].start(&self.binary)
    }

    /// Fresh nodes serve.
    pub(super) async fn start_all(&mut self) -> Result<(), RealError> {
        for node in 0..self.nodes.len() {
            self.start(node)?;
        }
        let until = self.io.now().after(START_PATIENCE);
        for cache in 0..self.caches.len() {
            caches::start(self, cache)?;
        }
        colds::start_all(self)?;
        for node in 0..self.nodes.len() {
            while !self.answers(node).await {
                if self.io.now() >= until || self.has_ended(node) {
                    let log = self.nodes[node].log.display();
                    return Err(RealError::Tool(format!("a fresh node does not serve, see {log}")));
                }
                self.io.sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// A node stands still, if it runs.
    pub(super) fn pause(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.paused = true;
        node.process.iter_mut().for_each(Process::pause);
    }

    /// It goes on.
    pub(super) fn resume(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if std::mem::take(&mut node.paused) {
            node.process.iter_mut().for_each(Process::resume);
        }
    }

    /// A node is asked to drain, if it runs.
    pub(super) fn drain(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if let Some(process) = &mut node.process {
            process.drain();
            node.draining = true;
        }
    }

    /// Whether a node takes connections.
    pub(super) async fn answers(&self, node: usize) -> bool {
        self.io.connect(self.nodes[node].address).await.is_ok()
    }

    /// Whether the process of a node is there no more.
    pub(super) fn has_ended(&mut self, node: usize) -> bool {
        self.nodes[node].process.as_mut().is_none_or(|process| process.ended().is_some())
    }
}

/// An address of its own for each node, at a port where nobody listens.
pub(super) fn free_address(io: &Io, node: usize) -> Result<SocketAddr, RealError> {
    let number = u8::try_from(node + 1).expect("nodes are few");
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, number)), 0);
    let listener = io.listen(address).map_err(|error| RealError::Tool(error.to_string()))?;
    Ok(listener.address())
}

/// Makes the disk of a node, of a cluster that is there in the way named beside it; the cluster it belongs to.
fn format(
    binary: &Path,
    disk: &Path,
    (size, segment): (&str, &str),
    node: usize,
    cluster: Option<(&str, &str)>,
) -> Result<String, RealError> {
    let mut command = Command::new(binary);
    command.args(["disk", "format"]).arg(disk).args([
        "--create",
        size,
        "--segment",
        segment,
        "--yes",
        "--json",
    ]);
    command.args(["--shards", &SHARDS.to_string(), "--node", &node.to_string()]);
    command.args(cluster.into_iter().flat_map(|(cluster, how)| ["--cluster", cluster, how]));
    let output = command.output().map_err(RealError::io(format!("{}", binary.display())))?;
    let said = || RealError::Tool(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)));
    let text: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|_| said())?;
    text["cluster"].as_str().map(str::to_owned).ok_or_else(said)
}
