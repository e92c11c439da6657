//! The stage: a world with a group of store nodes, each on a formatted disk of its own, machines for clients, and one for
//! the hostile. Starts and ends nodes, and knows what they said of themselves.

use super::caches::Cache;
use super::colds;
use super::plan::{CLUSTER, Plan};
use crate::sim::client::Orders;
use crate::sim::cold::Machine;
use crate::sim::history::History;
use crate::sim::scene::{DISK, PORT, Standing, formatted};
use ioengine::Launcher;
use ioengine::sim::{DiskHandle, NodeConfig as SimNode, NodeHandle, Random, World, WorldConfig};
use layout::units::TabletIndex;
use net::peer::PeerVersions;
use net::route::{self, ClusterMap, Roles};
use shard::node::{Event, Node, NodeConfig, start};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// Number of the first machine of clients; stores are numbered from 1.
const MACHINES_FROM: u16 = 50;
/// Number of the first cache node.
const CACHES_FROM: u16 = 70;

/// One store node.
pub(super) struct Store {
    pub(super) node: NodeHandle,
    pub(super) disk: DiskHandle,
    pub(super) config: NodeConfig,
    events: Arc<Mutex<Vec<Event>>>,
    process: Option<Node>,
}

impl Store {
    /// Ask it to drain.
    pub(super) fn drain(&self) {
        if let Some(process) = &self.process {
            process.drain();
        }
    }

    pub(super) fn standing(&self) -> Standing {
        if !self.node.is_running() {
            return Standing::Down;
        }
        let events = self.events.lock().expect("one thread");
        if events.iter().any(|event| matches!(event, Event::Serving(_))) {
            Standing::Serving
        } else {
            Standing::Starting
        }
    }

    /// Why the last start failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.events.lock().expect("one thread").iter().find_map(|event| match event {
            Event::Failed(text) => Some(text.clone()),
            Event::Recovered { .. } | Event::Serving(_) => None,
        })
    }

    fn start(&mut self) {
        assert!(!self.node.is_running(), "one process at a time");
        self.events.lock().expect("one thread").clear();
        let events = Arc::clone(&self.events);
        let listener = Arc::new(move |event| events.lock().expect("one thread").push(event));
        let process = start(&Launcher::Simulated(self.node), &self.config, listener);
        self.process = Some(process.expect("a simulated core can be launched"));
    }
}

/// A world with a group of store nodes.
pub(super) struct Scene {
    pub(super) world: World,
    pub(super) stores: Vec<Store>,
    pub(super) machines: Vec<NodeHandle>,
    pub(super) hostile: NodeHandle,
    /// Cache nodes, in some worlds.
    pub(super) caches: Vec<Cache>,
    /// Cold nodes, in worlds with a sink.
    pub(super) colds: Vec<Machine>,
    /// Which part of gets goes to them.
    pub(super) cache_share_ppm: Option<Rc<Cell<u32>>>,
    /// By tablet, the nodes that hold it, in the order in which clients try them.
    pub(super) orders: Rc<Orders>,
    pub(super) history: Rc<RefCell<History>>,
    /// Where each start draws which versions its node speaks: in some worlds.
    versions: Option<Random>,
}

pub(super) fn address(number: u16) -> SocketAddr {
    SocketAddr::new(SimNode::numbered(number).address, PORT)
}

/// The map of the group.
fn map(plan: &Plan) -> ClusterMap {
    let nodes: Vec<route::Node> = (1u16..)
        .zip(&plan.stores)
        .map(|(number, store)| route::Node {
            id: u32::from(number),
            address: address(number),
            zone: store.zone,
            roles: Roles::STORE,
            shard_count: store.core_count,
        })
        .collect();
    let members = nodes.iter().map(|node| node.id).collect();
    let caches = plan.caches.iter().flat_map(|caches| &caches.core_counts).zip(CACHES_FROM..);
    let caches = caches.map(|(&core_count, number)| route::Node {
        id: u32::from(number),
        address: address(number),
        zone: 0,
        roles: Roles::CACHE,
        shard_count: core_count,
    });
    let nodes = nodes.into_iter().chain(caches).collect();
    let map = ClusterMap {
        epoch: 1,
        cluster: CLUSTER,
        revision: 0,
        recent_us: 0,
        cache_share: 0,
        nodes,
        groups: vec![route::Group { replicas: plan.replicas, members }],
    };
    map.validate().expect("a drawn map is valid");
    map
}

impl Scene {
    /// Everything is there and nothing runs.
    pub(super) fn new(plan: &Plan, canaries: Vec<String>, trace: bool) -> Scene {
        let config = WorldConfig { canaries, trace_text: trace, ..plan.world.clone() };
        let world = World::new(plan.seed, config);
        let map = map(plan);
        let sink = plan.colds.as_ref().map(colds::settings);
        let order = map.replica_order(0).expect("a valid map has an order");
        let orders =
            TabletIndex::all().map(|tablet| order.of(tablet).iter().map(|&one| usize::from(one)).collect());
        let stores = (1u16..)
            .zip(&plan.stores)
            .map(|(number, store)| {
                let node = world.add_node(SimNode::numbered(number));
                node.set_wall_offset(store.skew_us);
                let wanted = plan.format_plan(usize::from(number) - 1, false);
                let seed = Random::new(plan.seed).fork("format", u64::from(number)).bits();
                let image = formatted(seed, &plan.disk, wanted);
                let disk = world.add_disk_with(&node, DISK, plan.disk.clone(), image);
                let config = NodeConfig {
                    disk: DISK.to_owned(),
                    listen: address(number),
                    advertise: None,
                    map: Some(map.clone()),
                    without: Vec::new(),
                    versions: PeerVersions::ALL,
                    core_count: store.core_count,
                    host: ioengine::HostKind::Own,
                    pin: false,
                    spin_us: 0,
                    limits: plan.limits.clone(),
                    sink,
                };
                Store { node, disk, config, events: Arc::default(), process: None }
            })
            .collect();
        let machines = (0..plan.machine_count)
            .map(|number| world.add_node(SimNode::numbered(MACHINES_FROM + number)))
            .collect();
        let hostile = world.add_node(SimNode::numbered(100));
        let caches = plan.caches.iter().flat_map(|caches| caches.of(&map));
        let caches = caches.map(|config| Cache::new(&world, config)).collect();
        // Behind the stores, whose places among the nodes are known.
        let colds = plan.colds.as_ref().map_or_else(Vec::new, |plan| plan.machines(&world));
        let repeats = plan.limits.sealed_dictionary_bytes > 0;
        Scene {
            world,
            stores,
            machines,
            hostile,
            caches,
            colds,
            cache_share_ppm: plan.caches.as_ref().map(|caches| Rc::new(Cell::new(caches.share_ppm))),
            orders: Rc::new(orders.collect()),
            history: Rc::new(RefCell::new(History::new(0).repeating(repeats))),
            versions: plan.mixes_versions.then(|| Random::new(plan.seed).fork("versions", 0)),
        }
    }

    /// Begin a start of a node.
    pub(super) fn start(&mut self, store: usize) {
        let mut history = self.history.borrow_mut();
        let order = history.tick();
        history.starts.push(order);
        drop(history);
        if let Some(random) = &mut self.versions {
            let newest = 1 + random.below(u64::from(PeerVersions::ALL.newest())) as u8;
            let versions = PeerVersions::up_to(newest).expect("this build speaks it");
            self.stores[store].config.versions = versions;
        }
        self.stores[store].start();
    }
}
