//! A cache node before one store, in one simulated world, with the client that people use: what is read through it is what the
//! store has, whatever happens to the cache.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use ioengine::sim::{DiskConfig, NodeConfig as SimNode, NodeHandle, World, WorldConfig};
use ioengine::{CoreConfig, HostKind, Io, Launcher, Queue};
use layout::key::Key;
use layout::units::{Space, Uuid, Version};
use layout::value_ring::RingGeometry;
use net::client::{Client, ClientConfig, Newer};
use net::route::{ClusterMap, Node, Roles};
use shard::cache::{CacheConfig, CacheLimits, CacheNode, start_cache};
use shard::format::{FormatPlan, format};
use shard::limits::Limits;
use shard::node::{Event, NodeConfig, start};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PORT: u16 = 7420;
const CLUSTER: Uuid = Uuid([7; 16]);
const DAY: Duration = Duration::from_secs(86_400);

struct Scene {
    world: World,
    store: NodeHandle,
    cache: NodeHandle,
    clients: NodeHandle,
    config: CacheConfig,
}

fn at(node: &NodeHandle) -> SocketAddr {
    SocketAddr::new(node.address(), PORT)
}

impl Scene {
    fn new(seed: u64) -> Scene {
        Scene::bounded(seed, CacheLimits::default().miss_count_max, 1)
    }

    /// With a cache of so many cores, each of which asks the store for so many values at a time.
    fn bounded(seed: u64, miss_count_max: usize, core_count: u16) -> Scene {
        Scene::planted(seed, miss_count_max, core_count, &[])
    }

    /// And with these planted bugs.
    fn planted(seed: u64, miss_count_max: usize, core_count: u16, canaries: &[&str]) -> Scene {
        let canaries = canaries.iter().map(|name| (*name).to_owned()).collect();
        let world = World::new(seed, WorldConfig { canaries, ..WorldConfig::default() });
        let [store, cache, clients] = [1, 9, 20].map(|number| world.add_node(SimNode::numbered(number)));
        let _disk = world.add_disk(&store, "ssd", DiskConfig::new(64 << 20));
        world.block_on(&store, DAY, move |io: Io| async move {
            let disk = io.open_disk("ssd", ioengine::disk::DiskOpen::default()).unwrap();
            let plan = FormatPlan {
                cluster: CLUSTER,
                node: 1,
                shard_count: 1,
                journal_bytes: Some(4 << 20),
                segment_bytes: 256 << 10,
                recovers: false,
                anew: false,
            };
            format(&io, &disk, &plan).await.unwrap();
        });
        let mut map = ClusterMap::single(CLUSTER, 1, at(&store), 1);
        let roles = Roles::CACHE;
        map.nodes.push(Node { id: 9, address: at(&cache), zone: 0, roles, shard_count: 1 });
        let limits = CacheLimits {
            rings: RingGeometry { chain_count: 2, chain_bytes: 1 << 20, line_count: 256 },
            arena_bytes: 8 << 20,
            frame_bytes_max: 256 << 10,
            outbox_bytes_max: 1 << 20,
            request_deadline: Duration::from_secs(2),
            miss_count_max,
            ..CacheLimits::default()
        };
        let config = CacheConfig {
            node: 9,
            listen: at(&cache),
            map,
            core_count,
            host: HostKind::Own,
            pin: false,
            spin_us: 0,
            limits,
        };
        let scene = Scene { world, store, cache, clients, config };
        scene.start_store();
        let _running = scene.start_cache();
        scene
    }

    fn start_store(&self) {
        let config = NodeConfig {
            disk: "ssd".to_owned(),
            listen: at(&self.store),
            advertise: None,
            map: None,
            without: Vec::new(),
            versions: net::peer::PeerVersions::ALL,
            core_count: 1,
            host: HostKind::Own,
            pin: false,
            spin_us: 0,
            limits: Limits::small(),
            sink: None,
        };
        let (events, heard) = Scene::listen();
        let _node = start(&Launcher::Simulated(self.store), &config, events).unwrap();
        self.until_serving(heard);
    }

    fn start_cache(&self) -> CacheNode {
        let (events, heard) = Scene::listen();
        let node = start_cache(&Launcher::Simulated(self.cache), &self.config, events).unwrap();
        self.until_serving(heard);
        node
    }

    fn listen() -> (shard::node::Listener, Arc<Mutex<Vec<Event>>>) {
        let heard: Arc<Mutex<Vec<Event>>> = Arc::default();
        let told = Arc::clone(&heard);
        (Arc::new(move |event| told.lock().unwrap().push(event)), heard)
    }

    fn until_serving(&self, heard: Arc<Mutex<Vec<Event>>>) {
        let serves = move || heard.lock().unwrap().iter().any(|event| matches!(event, Event::Serving(_)));
        self.world.run_while(Duration::from_secs(60), move || !serves());
    }

    /// With a client of the store, and one that takes the cache for the store.
    fn with<T: 'static, M>(&self, main: impl FnOnce(Client, Client) -> M + 'static) -> T
    where
        M: Future<Output = T> + 'static,
    {
        let [store, cache] = [(1, at(&self.store)), (9, at(&self.cache))];
        self.world.block_on(&self.clients, DAY, move |io| async move {
            let of = |(id, address)| {
                let config = ClientConfig { frame_bytes: 256 << 10, ..ClientConfig::default() };
                Client::of_map(&io, ClusterMap::single(CLUSTER, id, address, 1), config).unwrap()
            };
            main(of(store), of(cache)).await
        })
    }

    /// Begin to get a key through the cache from a machine of its own: the value, as soon as it is there.
    fn get_from(&self, machine: u16) -> Arc<Mutex<Option<Vec<u8>>>> {
        let (got, node) = (Arc::new(Mutex::new(None)), self.world.add_node(SimNode::numbered(machine)));
        let (told, address) = (Arc::clone(&got), at(&self.cache));
        node.launch(CoreConfig::small("asks", 0), move |io| async move {
            let map = ClusterMap::single(CLUSTER, 9, address, 1);
            let client =
                Client::of_map(&io, map, ClientConfig { frame_bytes: 256 << 10, ..ClientConfig::default() });
            let found = client.unwrap().get(key(1)).await.unwrap().unwrap();
            *told.lock().unwrap() = Some(found.value);
        })
        .unwrap();
        self.world.run_for(Duration::from_millis(200));
        got
    }

    /// A counter of the cache.
    fn count(&self, name: &'static str) -> u64 {
        let text = self.with(|_, cache| async move { cache.status().await.unwrap() });
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status["role"].as_str(), status["node"].as_u64()), (Some("cache"), Some(9)));
        status["cache_cores"][0][name].as_u64().unwrap()
    }
}

fn key(time: u64) -> Key<'static> {
    Key { space: Space(0), stream: b"alice", time }
}

#[test]
fn a_get_through_a_cache_is_what_the_store_has() {
    let scene = Scene::new(1);
    scene.with(|store, cache| async move {
        assert_eq!(cache.get(key(1)).await.unwrap(), None);
        let first = store.put(key(1), 0, b"one").await.unwrap().version;
        for _ in 0..3 {
            let found = cache.get(key(1)).await.unwrap().unwrap();
            assert_eq!((found.version, found.value.as_slice()), (first, b"one".as_slice()));
        }
        assert_eq!(cache.get_if_newer(key(1), first).await.unwrap(), Newer::NotModified);
        let large = vec![7; 2_000];
        let second = store.put(key(1), 0, &large).await.unwrap().version;
        match cache.get_if_newer(key(1), first).await.unwrap() {
            Newer::Found(found) => assert_eq!((found.version, found.value), (second, large)),
            other => panic!("{other:?}"),
        }
        store.delete(key(1)).await.unwrap();
        assert_eq!(cache.get(key(1)).await.unwrap(), None);
        assert_eq!(cache.get_if_newer(key(1), Version::ABSENT).await.unwrap(), Newer::NotModified);
        assert_eq!(cache.get_if_newer(key(1), second).await.unwrap(), Newer::Absent);
    });
    assert_eq!((scene.count("newer"), scene.count("not_modified"), scene.count("absent")), (2, 3, 4));
}

/// A question to the store that has left is of no use to a get that comes later: between the two a write may have been acknowledged.
#[test]
fn a_get_is_not_answered_by_a_question_that_had_left_before() {
    let second_of = |canaries: &[&str]| {
        let scene = Scene::planted(10, CacheLimits::default().miss_count_max, 1, canaries);
        scene.with(|store, cache| async move {
            store.put(key(1), 0, b"first").await.unwrap();
            assert_eq!(cache.get(key(1)).await.unwrap().unwrap().value, b"first");
        });
        // The store's answers are held up on their way.
        scene.world.partition_one_way(&scene.store, &scene.cache);
        let one = scene.get_from(21);
        scene.with(|store, _| async move {
            store.put(key(1), 0, b"second").await.unwrap();
        });
        let other = scene.get_from(22);
        assert_eq!((one.lock().unwrap().clone(), other.lock().unwrap().clone()), (None, None));
        scene.world.heal_all();
        scene.world.run_for(Duration::from_secs(20));
        assert!(one.lock().unwrap().is_some(), "who came first is answered, with one or the other");
        other.lock().unwrap().clone().unwrap()
    };
    assert_eq!(second_of(&[]), b"second");
    assert_eq!(second_of(&["share_a_fetch_that_has_left"]), b"first", "the planted bug is not seen");
}

/// What expires is gone, also if the store has not been asked for the value again.
#[test]
fn what_has_expired_is_not_shown() {
    let scene = Scene::new(2);
    scene.with(|store, cache| async move {
        let now = store.put(key(5), 0, b"clock").await.map(|_| cache.io().wall_us()).unwrap();
        store.put(key(1), now + 2_000_000, b"soon gone").await.unwrap();
        assert!(cache.get(key(1)).await.unwrap().is_some());
        cache.io().sleep(Duration::from_secs(5)).await;
        store.put(key(2), 0, b"moves log time on").await.unwrap();
        assert_eq!(cache.get(key(1)).await.unwrap(), None);
    });
}

#[test]
fn gets_that_come_together_leave_together_and_share_questions() {
    let scene = Scene::new(3);
    scene.with(|store, cache| async move {
        for time in 0..50 {
            store.put(key(time), 0, &time.to_le_bytes()).await.unwrap();
        }
        let left = Rc::new(Cell::new(200));
        for number in 0..200u64 {
            let (cache, left) = (cache.clone(), Rc::clone(&left));
            cache.io().clone().spawn(Queue::Foreground, async move {
                let found = cache.get(key(number % 50)).await.unwrap().unwrap();
                assert_eq!(found.value, (number % 50).to_le_bytes());
                left.set(left.get() - 1);
            });
        }
        while left.get() > 0 {
            cache.io().sleep(Duration::from_millis(1)).await;
        }
        let keys: Vec<Key<'_>> = (0..60).map(key).collect();
        let found = cache.mget(&keys).await.unwrap();
        for (time, found) in (0u64..).zip(found) {
            let value = found.unwrap().map(|found| found.value);
            assert_eq!(value, (time < 50).then(|| time.to_le_bytes().to_vec()));
        }
    });
    let (gets, keys, batches) = (scene.count("gets"), scene.count("batched_keys"), scene.count("batches"));
    assert_eq!(gets, 260);
    assert!(keys < 230, "{keys} questions for {gets} gets");
    assert!(batches < 40, "{batches} batches for {keys} questions");
}

#[test]
fn a_kill_keeps_the_values_and_a_loss_of_power_does_not() {
    let scene = Scene::new(4);
    scene.with(|store, cache| async move {
        for time in 0..20 {
            store.put(key(time), 0, b"kept").await.unwrap();
            cache.get(key(time)).await.unwrap().unwrap();
        }
    });
    let read = || {
        scene.with(|_, cache| async move {
            for time in 0..20 {
                assert_eq!(cache.get(key(time)).await.unwrap().unwrap().value, b"kept");
            }
        });
    };
    scene.cache.kill();
    let _running = scene.start_cache();
    read();
    assert_eq!((scene.count("rings_kept"), scene.count("not_modified"), scene.count("newer")), (1, 20, 0));
    scene.cache.power_cut();
    let running = scene.start_cache();
    read();
    assert_eq!((scene.count("rings_kept"), scene.count("not_modified"), scene.count("newer")), (0, 0, 20));
    running.drain();
    scene.world.run_for(Duration::from_secs(3));
    assert!(!scene.cache.is_running(), "it drains");
}

/// Without the store's word there is no answer, however well the cache knows the value.
#[test]
fn a_cache_without_its_store_shows_nothing() {
    let scene = Scene::new(5);
    scene.with(|store, cache| async move {
        store.put(key(1), 0, b"known").await.unwrap();
        assert!(cache.get(key(1)).await.unwrap().is_some());
    });
    scene.store.power_cut();
    scene.with(|_, cache| async move {
        let began = cache.io().now();
        let asked = cache.with_deadline(Duration::from_secs(8)).get(key(1)).await;
        assert!(asked.is_err(), "{asked:?}");
        assert!(cache.io().now().since(began) < Duration::from_secs(9));
    });
    scene.world.run_for(Duration::from_secs(5));
    assert_eq!(scene.count("waiting"), 0, "nobody waits for ever");
    scene.start_store();
    scene.with(|_, cache| async move {
        assert_eq!(cache.get(key(1)).await.unwrap().unwrap().value, b"known");
    });
}

/// A cold cache asks a store that is slow for no more values than its bound, refuses the rest with `Busy`, and goes on asking about what
/// it holds; whoever was refused comes again, and all are answered.
#[test]
fn a_cold_cache_does_not_bring_all_its_misses_to_the_store() {
    const GETS: u64 = 100;
    async fn count(cache: &Client, name: &str) -> u64 {
        let status: serde_json::Value = serde_json::from_str(&cache.status().await.unwrap()).unwrap();
        status["cache_cores"][0][name].as_u64().unwrap()
    }
    const FEW: u64 = 8;
    for bound in [FEW as usize, 4096] {
        let is_bounded = bound < GETS as usize;
        let scene = Scene::bounded(7, bound, 1);
        let slow = scene.store;
        scene.with(move |store, cache| async move {
            for time in 0..=GETS {
                store.put(key(time), 0, b"cold").await.unwrap();
            }
            cache.get(key(GETS)).await.unwrap().unwrap();
            let before = count(&cache, "batched_keys").await;
            slow.pause();
            let answered = Rc::new(Cell::new(0));
            for time in (0..=GETS).rev() {
                let (cache, answered) = (cache.clone(), Rc::clone(&answered));
                cache.io().clone().spawn(Queue::Foreground, async move {
                    assert_eq!(cache.get(key(time)).await.unwrap().unwrap().value, b"cold");
                    answered.set(answered.get() + 1);
                });
            }
            cache.io().sleep(Duration::from_millis(400)).await;
            // Those of which nothing is held, and the one of which something is.
            let asked = count(&cache, "batched_keys").await - before;
            // Without the bound more, but not all: two batches are on their way, and who came after them waits for one to come back.
            assert!(
                if is_bounded { asked == FEW + 1 } else { asked > 2 * FEW },
                "{asked} with a bound of {bound}"
            );
            assert_eq!(count(&cache, "busy").await > 0, is_bounded);
            slow.resume();
            cache.io().sleep(Duration::from_secs(8)).await;
            assert_eq!(answered.get(), GETS + 1, "with a bound of {bound}");
        });
    }
}

/// A key that everybody asks for is served by each core of a cache that is asked, from its own rings, after asking the store; and each
/// core, and the store, names it first among its keys.
#[test]
fn a_hot_key_is_served_and_named_by_every_core_that_is_asked_for_it() {
    const CLIENTS: usize = 12;
    let scene = Scene::bounded(8, 4096, 2);
    let cache_map = ClusterMap::single(CLUSTER, 9, at(&scene.cache), 2);
    scene.with(move |store, cache| async move {
        let io = cache.io().clone();
        for time in 0..200 {
            store.put(key(time), 0, b"first").await.unwrap();
        }
        let clients: Vec<Client> = (0..CLIENTS)
            .map(|_| Client::of_map(&io, cache_map.clone(), ClientConfig::default()).unwrap())
            .collect();
        let mut version = Version::ABSENT;
        for round in 0..600u64 {
            if round % 100 == 50 {
                version = store.put(key(7), 0, b"again").await.unwrap().version;
            }
            for (number, client) in (0u64..).zip(&clients) {
                let hot = client.get(key(7)).await.unwrap().unwrap();
                assert!(hot.version == version || version.is_absent(), "an older value after a write");
                client.get(key((round * 12 + number) % 200)).await.unwrap().unwrap();
            }
        }
        io.sleep(Duration::from_secs(6)).await;
        let said = |text: String| -> Vec<serde_json::Value> {
            let said: serde_json::Value = serde_json::from_str(&text).unwrap();
            said["cores"].as_array().unwrap().clone()
        };
        let status: serde_json::Value = serde_json::from_str(&cache.status().await.unwrap()).unwrap();
        let of_cache = said(cache.hot_at(9).await.unwrap());
        assert_eq!(of_cache.len(), 2);
        for (core, counters) in of_cache.iter().zip(status["cache_cores"].as_array().unwrap()) {
            let first = &core["keys"][0];
            assert_eq!((first["stream"].as_str(), first["time_us"].as_u64()), (Some("alice"), Some(7)));
            let (rate, of_core) = (first["gets_per_second"].as_f64(), core["gets_per_second"].as_f64());
            let part = rate.unwrap() / of_core.unwrap();
            assert!((0.4..0.6).contains(&part), "every other get was of it: {core}");
            assert!(counters["not_modified"].as_u64().unwrap() > 1_000, "{counters}");
            assert!((400_000..600_000).contains(&counters["hot_first_ppm"].as_u64().unwrap()), "{counters}");
        }
        let of_store = said(store.hot_at(1).await.unwrap());
        assert_eq!(of_store[0]["keys"][0]["time_us"].as_u64(), Some(7));
    });
}
