//! A group of nodes in one simulated world, with the client that people use, for the tests of groups.

#![allow(dead_code, reason = "each test file uses its part of this")]

#[path = "../support/mod.rs"]
mod by_hand;

use ioengine::sim::{
    DiskConfig, DiskHandle, DiskImage, NodeConfig as SimNode, NodeHandle, World, WorldConfig,
};
use ioengine::{Io, Launcher};
use layout::key::Key;
use layout::superblock::{SUPERBLOCK_BYTES, Superblock};
use layout::units::{DiskOffset, Space, Uuid};
use net::client::{Client, ClientConfig};
use net::peer::PeerVersions;
use net::route::{ClusterMap, Group, Node, Roles};
use shard::format::{FormatPlan, format};
use shard::limits::Limits;
use shard::node::{Event, NodeConfig, start};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const PORT: u16 = 7420;
pub(crate) const CLUSTER: Uuid = Uuid([7; 16]);

pub(crate) struct Store {
    pub(crate) node: NodeHandle,
    pub(crate) disk: DiskHandle,
    pub(crate) config: NodeConfig,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) stores: Vec<Store>,
    pub(crate) clients: NodeHandle,
}

pub(crate) fn map(stores: &[NodeHandle], cores: u16) -> ClusterMap {
    let node = |(id, store): (u32, &NodeHandle)| Node {
        id,
        address: SocketAddr::new(store.address(), PORT),
        zone: id as u16,
        roles: Roles::STORE,
        shard_count: cores,
    };
    let nodes: Vec<Node> = (1..).zip(stores).map(node).collect();
    let members = nodes.iter().map(|node| node.id).collect();
    ClusterMap {
        epoch: 1,
        cluster: CLUSTER,
        revision: 0,
        recent_us: 0,
        cache_share: 0,
        nodes,
        groups: vec![Group { replicas: 3, members }],
    }
}

/// Formats the disk of a node that does not run.
pub(crate) fn formatted(world: &World, node: &NodeHandle, id: u32, cores: u16, recovers: bool) {
    world.block_on(node, Duration::from_secs(60), move |io: Io| async move {
        let disk = io.open_disk("ssd", ioengine::disk::DiskOpen::default()).unwrap();
        let plan = FormatPlan {
            cluster: CLUSTER,
            node: id,
            shard_count: cores,
            journal_bytes: Some(4 << 20),
            segment_bytes: 256 << 10,
            recovers,
            anew: false,
        };
        format(&io, &disk, &plan).await.unwrap();
    });
}

impl Scene {
    pub(crate) fn new(seed: u64, count: u16, cores: u16) -> Scene {
        Scene::with(seed, count, cores, &[], Limits::small())
    }

    /// With these bugs planted.
    pub(crate) fn with(seed: u64, count: u16, cores: u16, canaries: &[&str], limits: Limits) -> Scene {
        let canaries = canaries.iter().map(|&name| name.to_owned()).collect();
        let world = World::new(seed, WorldConfig { canaries, ..WorldConfig::default() });
        let nodes: Vec<NodeHandle> =
            (1..=count).map(|number| world.add_node(SimNode::numbered(number))).collect();
        let clients = world.add_node(SimNode::numbered(count + 1));
        let map = map(&nodes, cores);
        let mut stores = Vec::new();
        for (id, node) in (1u32..).zip(nodes) {
            let disk = world.add_disk(&node, "ssd", DiskConfig::new(64 << 20));
            formatted(&world, &node, id, cores, false);
            let config = NodeConfig {
                disk: "ssd".to_owned(),
                listen: SocketAddr::new(node.address(), PORT),
                advertise: None,
                map: Some(map.clone()),
                without: Vec::new(),
                versions: PeerVersions::ALL,
                core_count: cores,
                host: ioengine::HostKind::Own,
                pin: false,
                spin_us: 0,
                limits: limits.clone(),
                sink: None,
            };
            stores.push(Store { node, disk, config, events: Arc::default() });
        }
        let scene = Scene { world, stores, clients };
        (0..scene.stores.len()).for_each(|number| scene.start(number));
        scene
    }

    pub(crate) fn start(&self, number: usize) {
        assert_eq!(self.try_start(number), None);
    }

    /// Start a node and wait until it serves; why it does not.
    pub(crate) fn try_start(&self, number: usize) -> Option<String> {
        let store = &self.stores[number];
        let events = Arc::clone(&store.events);
        events.lock().unwrap().clear();
        let listener = Arc::new(move |event| events.lock().unwrap().push(event));
        start(&Launcher::Simulated(store.node), &store.config, listener).unwrap();
        let events = Arc::clone(&store.events);
        self.world.run_while(Duration::from_secs(60), move || {
            !events.lock().unwrap().iter().any(|event| matches!(event, Event::Serving(_) | Event::Failed(_)))
        });
        let events = store.events.lock().unwrap();
        events.iter().find_map(|event| match event {
            Event::Failed(text) => Some(text.clone()),
            _ => None,
        })
    }

    /// The disk of a node is lost, and a new one formatted.
    pub(crate) fn replace_disk(&self, number: usize, recovers: bool) {
        let store = &self.stores[number];
        store.node.power_cut();
        store.disk.wipe();
        formatted(&self.world, &store.node, number as u32 + 1, store.config.core_count, recovers);
    }

    pub(crate) fn marks(&self, name: &str) -> bool {
        self.world.marks().contains_key(name)
    }

    pub(crate) fn client<T: 'static, M>(&self, main: impl FnOnce(Client) -> M + 'static) -> T
    where
        M: Future<Output = T> + 'static,
    {
        let endpoints: Vec<SocketAddr> = self.stores.iter().map(|store| store.config.listen).collect();
        self.world.block_on(&self.clients, Duration::from_secs(86_400), move |io| async move {
            let config = ClientConfig { cluster: CLUSTER, frame_bytes: 256 << 10, ..ClientConfig::default() };
            main(Client::connect(&io, &endpoints, config).await.unwrap()).await
        })
    }

    pub(crate) fn wait(&self, duration: Duration) {
        self.world.run_for(duration);
    }

    /// A counter of each node, summed over its cores.
    pub(crate) fn counters(&self, name: &'static str) -> Vec<u64> {
        let of = |store: &Store| {
            let endpoint = store.config.listen;
            self.world.block_on(&self.clients, Duration::from_secs(60), move |io| async move {
                let config = ClientConfig { cluster: CLUSTER, ..ClientConfig::default() };
                let client = Client::connect(&io, &[endpoint], config).await.unwrap();
                let status: serde_json::Value =
                    serde_json::from_str(&client.status().await.unwrap()).unwrap();
                status["cores"].as_array().unwrap().iter().map(|core| core[name].as_u64().unwrap()).sum()
            })
        };
        self.stores.iter().map(of).collect()
    }

    /// Records 0..count as this node alone has them.
    pub(crate) fn local(&self, number: usize, count: u64) -> Vec<Option<Vec<u8>>> {
        let endpoint = self.stores[number].config.listen;
        self.world.block_on(&self.clients, Duration::from_secs(86_400), move |io| async move {
            let mut found = Vec::new();
            // The client tries replicas in their order: ask this node by hand.
            let mut node = by_hand::Client::connect(io, endpoint).await;
            for record in 0..count {
                found.push(node.get_local(stream(record).as_bytes(), record).await);
            }
            found
        })
    }
}

pub(crate) fn stream(record: u64) -> String {
    format!("stream-{}", record % 97)
}

pub(crate) fn key(stream: &str, time: u64) -> Key<'_> {
    Key { space: Space(0), stream: stream.as_bytes(), time }
}

pub(crate) fn value(record: u64) -> Vec<u8> {
    format!("value of {record}").into_bytes()
}

pub(crate) async fn put_all(client: &Client, records: std::ops::Range<u64>) {
    for record in records {
        let stream = stream(record);
        client.put(key(&stream, record), 0, &value(record)).await.unwrap();
    }
}

pub(crate) async fn check_all(client: &Client, records: std::ops::Range<u64>) {
    for record in records {
        let stream = stream(record);
        let found = client.get(key(&stream, record)).await.unwrap();
        assert_eq!(found.map(|found| found.value), Some(value(record)), "record {record}");
    }
}

pub(crate) fn all(count: u64) -> Vec<Option<Vec<u8>>> {
    (0..count).map(|record| Some(value(record))).collect()
}

/// Where the journal of a shard lies.
pub(crate) fn journal_of(image: &DiskImage, shard: usize) -> (u64, usize) {
    let block = image.get(0, SUPERBLOCK_BYTES);
    let superblock = Superblock::decode(block.as_slice().try_into().unwrap(), DiskOffset(0)).unwrap();
    let zone = superblock.shard_zones()[shard].journal;
    (zone.offset.0, zone.bytes as usize)
}

/// Checksums of the sealed tables that were put in place: by window, of each node.
pub(crate) fn in_place(
    scene: &Scene,
) -> std::collections::BTreeMap<u64, std::collections::BTreeMap<u32, u64>> {
    let mut windows = std::collections::BTreeMap::<u64, std::collections::BTreeMap<u32, u64>>::new();
    for fact in scene.world.take_facts().iter().filter(|fact| fact.name == "sealed") {
        let before = windows.entry(fact.key).or_default().insert(fact.node, fact.value);
        assert!(before.is_none_or(|before| before == fact.value), "one window, one table");
    }
    windows
}
