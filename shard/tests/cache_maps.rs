//! A cache node before a group whose map changes while the cache runs: it hears of it, and goes on without a start.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod group_scene;

use group_scene::{CLUSTER, PORT, Scene, check_all, put_all};
use ioengine::sim::{NodeConfig as SimNode, NodeHandle};
use ioengine::{HostKind, Launcher};
use layout::value_ring::RingGeometry;
use net::client::{Client, ClientConfig, Through};
use net::route::{ClusterMap, Node, Reads, Roles};
use shard::cache::{CacheConfig, CacheLimits, start_cache};
use shard::node::Event;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const CACHE: u32 = 9;
const CORES: u16 = 2;

/// Far more than the few seconds in which each core asks, also when the node that it asks first is gone.
const SECONDS: Duration = Duration::from_secs(15);

/// A cache of two cores that begins with the map that the first store has.
fn start(scene: &Scene) -> NodeHandle {
    let node = scene.world.add_node(SimNode::numbered(CACHE as u16));
    let limits = CacheLimits {
        rings: RingGeometry { chain_count: 2, chain_bytes: 64 << 10, line_count: 64 },
        arena_bytes: 8 << 20,
        frame_bytes_max: 256 << 10,
        outbox_bytes_max: 1 << 20,
        request_deadline: Duration::from_secs(4),
        patience: Duration::from_millis(500),
        ..CacheLimits::default()
    };
    let config = CacheConfig {
        node: CACHE,
        listen: SocketAddr::new(node.address(), PORT),
        map: scene.stores[0].config.map.clone().unwrap(),
        core_count: CORES,
        host: HostKind::Own,
        pin: false,
        spin_us: 0,
        limits,
    };
    let heard: Arc<Mutex<Vec<Event>>> = Arc::default();
    let told = Arc::clone(&heard);
    let events = Arc::new(move |event| told.lock().unwrap().push(event));
    let _runs = start_cache(&Launcher::Simulated(node), &config, events).unwrap();
    let serves = move || heard.lock().unwrap().iter().any(|event| matches!(event, Event::Serving(_)));
    assert!(!scene.world.run_while(SECONDS, move || !serves()) || node.is_running());
    node
}

fn named(node: &NodeHandle) -> Vec<Node> {
    let address = SocketAddr::new(node.address(), PORT);
    vec![Node { id: CACHE, address, zone: 0, roles: Roles::CACHE, shard_count: CORES }]
}

/// What each core of the cache knows: the epoch of its map.
fn epochs(scene: &Scene, cache: &NodeHandle) -> Vec<u64> {
    let address = SocketAddr::new(cache.address(), PORT);
    scene.world.block_on(&scene.clients, Duration::from_secs(60), move |io| async move {
        let map = ClusterMap::single(CLUSTER, CACHE, address, CORES);
        let client = Client::of_map(&io, map, ClientConfig::default()).unwrap();
        let status: serde_json::Value = serde_json::from_str(&client.status().await.unwrap()).unwrap();
        status["cache_cores"]
            .as_array()
            .unwrap()
            .iter()
            .map(|core| core["map_epoch"].as_u64().unwrap())
            .collect()
    })
}

/// Every get goes through the cache; how many came so.
fn read_through(scene: &Scene, cache: &NodeHandle, map: &ClusterMap) -> u64 {
    let caches = named(cache);
    let reads = Reads { revision: map.revision, recent_us: 0, cache_share: 0, caches };
    let map = map.with_reads(&reads).unwrap();
    scene.world.block_on(&scene.clients, Duration::from_secs(3_600), move |io| async move {
        let config = ClientConfig {
            through: Through::Caches,
            hedged_ppm: 0,
            patience: Duration::from_secs(8),
            frame_bytes: 256 << 10,
            ..ClientConfig::default()
        };
        let client = Client::of_map(&io, map, config).unwrap();
        check_all(&client, 0..97).await;
        client.routed().by_cache
    })
}

/// No get is asked of it, so that no answer of the store tells it anything.
#[test]
fn each_core_of_a_cache_that_nobody_asks_hears_a_word() {
    let scene = Scene::new(41, 3, 1);
    let cache = start(&scene);
    scene.wait(SECONDS);
    assert_eq!(epochs(&scene, &cache), [1, 1]);
    let map = scene.stores[0].config.map.clone().unwrap();
    for revision in 1..=3 {
        let reads = Reads { revision, recent_us: 7, cache_share: 1, caches: named(&cache) };
        let wanted = map.with_reads(&reads).unwrap();
        scene.client(move |client| async move { client.set_map_at(3, &wanted).await.unwrap() });
        // Whom it asks is drawn: one of three nodes is gone, and is passed over, another may not have been told yet.
        scene.stores[usize::from(revision == 3)].node.power_cut();
        scene.wait(SECONDS);
        assert_eq!(epochs(&scene, &cache), [1 + u64::from(revision); 2], "after word {revision}");
        scene.start(usize::from(revision == 3));
        scene.wait(SECONDS);
    }
    assert!(scene.marks("a cache hears of another map"));
}

/// All nodes of the store are restarted with other settings, by which two of them have moved. The cache is before them all the time, and
/// in the end reaches the two alone.
#[test]
fn a_cache_goes_on_when_nodes_of_its_store_have_moved() {
    let mut scene = Scene::new(42, 3, 1);
    scene.client(|client| async move { put_all(&client, 0..97).await });
    let cache = start(&scene);
    let before = scene.stores[0].config.map.clone().unwrap();
    assert_eq!(read_through(&scene, &cache, &before), 97);
    let mut after = ClusterMap { epoch: 2, ..before };
    for node in &mut after.nodes[..2] {
        node.address.set_port(PORT + 1);
    }
    for (store, node) in scene.stores.iter_mut().zip(&after.nodes) {
        store.node.power_cut();
        store.config.listen = node.address;
        store.config.map = Some(after.clone());
    }
    (0..3).for_each(|number| scene.start(number));
    scene.wait(SECONDS);
    assert_eq!(epochs(&scene, &cache), [2, 2]);
    for alone in [1, 0] {
        scene.world.partition(&cache, &scene.stores[2].node);
        scene.world.partition(&cache, &scene.stores[1 - alone].node);
        assert_eq!(read_through(&scene, &cache, &after), 97, "by node {} alone", alone + 1);
        scene.world.heal_all();
    }
}
