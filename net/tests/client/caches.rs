//! Gets by way of caches: who is asked when, what a new map changes, and that the store answers what no cache does.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioengine::sim::{NodeConfig, NodeHandle};
use layout::units::Space;
use net::Operation;
use net::client::{Client, ClientConfig, Routed, Through};
use net::outcome::{Limit, Outcome};
use net::route::{Node, Reads, Roles};

use super::server::{Spoil, Store};
use super::{PORT, Scene, key};

/// A store and two caches before it, which are servers like it that answer gets of what they hold.
struct Caches {
    scene: Scene,
    nodes: Vec<NodeHandle>,
    caches: Vec<Rc<Store>>,
}

fn busy() -> Spoil {
    Spoil::Say(Outcome::Busy { limit: Limit::Queue, hint_ms: 5 })
}

impl Caches {
    fn new(seed: u64, recent_us: u64, cache_share: u16) -> Caches {
        let scene = Scene::new(seed);
        let nodes: Vec<NodeHandle> =
            [101, 102].map(|id| scene.world.add_node(NodeConfig::numbered(id))).into();
        let named = (101..).zip(&nodes).map(|(id, node)| Node {
            id,
            address: SocketAddr::new(node.address(), PORT),
            zone: 0,
            roles: Roles::CACHE,
            shard_count: 1,
        });
        let reads = Reads { revision: 1, recent_us, cache_share, caches: named.collect() };
        let map = scene.store.map.borrow().with_reads(&reads).expect("caches fit the map");
        *scene.store.map.borrow_mut() = map.clone();
        let caches: Vec<Rc<Store>> = (101..).zip(&nodes).map(|(id, _)| Store::new(map.clone(), id)).collect();
        for (node, cache) in nodes.iter().zip(&caches) {
            scene.start(node, cache);
        }
        Caches { scene, nodes, caches }
    }

    fn asked(&self, operation: Operation) -> [usize; 3] {
        let of = |store: &Store| store.asked(operation);
        [of(&self.scene.store), of(&self.caches[0]), of(&self.caches[1])]
    }

    fn run<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        through: Through,
        test: impl FnOnce(Client) -> F + 'static,
    ) -> T {
        let address = self.scene.address();
        self.scene.run_io(move |io| async move {
            let config = ClientConfig { through, ..ClientConfig::default() };
            test(Client::connect(&io, &[address], config).await.expect("the server is there")).await
        })
    }
}

#[test]
fn recent_gets_are_spread_over_the_caches_and_old_ones_go_to_the_store() {
    let scene = Caches::new(1, 3_600_000_000, 10_000);
    let routed = scene.run(Through::Map, |client| async move {
        let now = client.io().wall_us();
        for _ in 0..40 {
            assert_eq!(client.get(key("s", now)).await.unwrap(), None);
        }
        client.get(key("s", now - 3_600_000_001)).await.unwrap();
        client.with_local_reads(true).get(key("s", now)).await.unwrap();
        client.put(key("s", now), 0, b"v").await.unwrap();
        client.head(Space(0), b"s", 1).await.unwrap();
        client.routed()
    });
    let [store, first, second] = scene.asked(Operation::Get);
    assert_eq!((store, first + second), (2, 40));
    assert!(first > 8 && second > 8, "{first} and {second}");
    assert_eq!(routed, Routed { by_cache: 40, ..Routed::default() });
    assert_eq!((scene.asked(Operation::Put), scene.asked(Operation::Head)), ([1, 0, 0], [1, 0, 0]));
}

#[test]
fn a_client_may_be_told_where_to_go() {
    for (through, of_store) in [(Through::Store, 1), (Through::Caches, 0)] {
        let scene = Caches::new(2, 3_600_000_000, 10_000);
        scene.run(through, |client| async move { client.get(key("s", 1)).await.unwrap() });
        assert_eq!(scene.asked(Operation::Get)[0], of_store, "{through:?}");
    }
}

#[test]
fn a_multi_get_is_split_between_one_cache_and_the_store() {
    let scene = Caches::new(3, 3_600_000_000, 10_000);
    for cache in &scene.caches {
        cache
            .records
            .borrow_mut()
            .insert((0, b"s".to_vec(), u64::MAX), (layout::units::Version(7), 0, b"c".to_vec()));
    }
    scene
        .scene
        .store
        .records
        .borrow_mut()
        .insert((0, b"s".to_vec(), 1), (layout::units::Version(8), 0, b"o".to_vec()));
    let values = scene.run(Through::Map, |client| async move {
        let keys = [key("s", u64::MAX), key("s", 1), key("t", u64::MAX)];
        let answers = client.mget(&keys).await.unwrap();
        answers.into_iter().map(|answer| answer.unwrap().map(|found| found.value)).collect::<Vec<_>>()
    });
    assert_eq!(values, [Some(b"c".to_vec()), Some(b"o".to_vec()), None]);
    let [store, first, second] = scene.asked(Operation::MultiGet);
    assert_eq!((store, first + second), (1, 1));
}

#[test]
fn keys_that_no_cache_answers_are_asked_of_the_store() {
    for outcome in [Outcome::Timeout, Outcome::Busy { limit: Limit::Queue, hint_ms: 2 }] {
        let scene = Caches::new(4, u64::MAX, 10_000);
        for cache in &scene.caches {
            cache.script(move |request| {
                matches!(request, net::Request::Get(get) if get.key.time == 2).then_some(Spoil::Say(outcome))
            });
        }
        let answers = scene.run(Through::Map, |client| async move {
            client.mget(&[key("s", 1), key("s", 2)]).await.unwrap()
        });
        assert!(answers.iter().all(|answer| *answer == Ok(None)), "{answers:?}");
        assert_eq!(scene.asked(Operation::MultiGet)[0], 1, "{outcome}: the rest alone comes to the store");
    }
}

#[test]
fn a_cache_that_is_gone_costs_its_share_nothing_but_a_try() {
    let scene = Caches::new(5, u64::MAX, 10_000);
    scene.nodes[0].kill();
    let took = scene.run(Through::Map, |client| async move {
        let begun = client.io().now();
        for _ in 0..40 {
            client.get(key("s", 1)).await.unwrap();
        }
        client.io().now().since(begun)
    });
    assert_eq!(scene.asked(Operation::Get), [0, 0, 40]);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn with_all_caches_gone_the_store_answers() {
    let scene = Caches::new(6, u64::MAX, 10_000);
    scene.nodes.iter().for_each(NodeHandle::kill);
    let routed = scene.run(Through::Map, |client| async move {
        client.get(key("s", 1)).await.unwrap();
        client.routed()
    });
    assert_eq!((scene.asked(Operation::Get)[0], routed), (1, Routed { fell_back: 1, ..Routed::default() }));
}

/// The store hears of a miss that cold caches refuse only after they were asked again, and again, with growing waits.
#[test]
fn busy_caches_are_waited_for_before_the_store_is_asked() {
    let scene = Caches::new(7, u64::MAX, 10_000);
    scene.caches.iter().for_each(|cache| cache.script(|_| Some(busy())));
    let took = scene.run(Through::Map, |client| async move {
        let begun = client.io().now();
        client.get(key("s", 1)).await.unwrap();
        client.io().now().since(begun)
    });
    assert_eq!(scene.asked(Operation::Get), [1, 3, 3]);
    assert!(took >= Duration::from_millis(5 * (1 + 2 + 4) / 2), "waits grow: {took:?}");
    let scene = Caches::new(7, u64::MAX, 10_000);
    scene.caches.iter().for_each(|cache| cache.spoil(Operation::Get, 1, busy()));
    scene.run(Through::Map, |client| async move { client.get(key("s", 1)).await.unwrap() });
    assert_eq!(scene.asked(Operation::Get)[0], 0, "the store is spared");
}

#[test]
fn a_new_map_moves_the_gets_of_a_running_client() {
    let scene = Caches::new(8, u64::MAX, 10_000);
    let (store, caches) = (Rc::clone(&scene.scene.store), scene.caches.clone());
    let counts = scene.run(Through::Map, move |client| async move {
        let cached = || caches.iter().map(|cache| cache.asked(Operation::Get)).sum::<usize>();
        let counts = Rc::new(Cell::new(Vec::new()));
        for (revision, share) in [(2, 0), (3, 10_000)] {
            for _ in 0..10 {
                client.get(key("s", 1)).await.unwrap();
            }
            let mut said = counts.take();
            said.push((store.asked(Operation::Get), cached()));
            counts.set(said);
            let map = store.map.borrow().with_reads(&Reads {
                revision,
                cache_share: share,
                ..store.map.borrow().reads()
            });
            // Also what a cache answers names the epoch.
            for server in caches.iter().chain([&store]) {
                *server.map.borrow_mut() = map.clone().unwrap();
            }
            client.get(key("s", 1)).await.unwrap();
            client.io().sleep(Duration::from_millis(50)).await;
        }
        for _ in 0..10 {
            client.get(key("s", 1)).await.unwrap();
        }
        let mut said = counts.take();
        said.push((store.asked(Operation::Get), cached()));
        said
    });
    assert_eq!(counts, [(0, 10), (10, 11), (11, 21)]);
}

#[test]
fn a_map_of_another_cluster_is_not_taken() {
    let scene = Caches::new(9, u64::MAX, 0);
    let store = Rc::clone(&scene.scene.store);
    scene.run(Through::Map, move |client| async move {
        let mut other = store.map.borrow().clone();
        (other.cluster, other.epoch) = (layout::units::Uuid([5; 16]), 90);
        *store.map.borrow_mut() = other;
        client.get(key("s", 1)).await.unwrap();
        client.io().sleep(Duration::from_millis(50)).await;
        assert_eq!(client.epoch(), 2);
    });
}

/// Gets, one after the other: how long the slowest took, and what was counted.
async fn slowest(client: &Client, count: usize) -> (Duration, Routed) {
    let mut slowest = Duration::ZERO;
    for _ in 0..count {
        let begun = client.io().now();
        client.get(key("s", 1)).await.expect("somebody answers");
        slowest = slowest.max(client.io().now().since(begun));
    }
    (slowest, client.routed())
}

fn delayed(cache: &Store, by: Duration) {
    cache.script(move |request| matches!(request, net::Request::Get(_)).then_some(Spoil::Delay(by)));
}

#[test]
fn a_get_that_a_slow_cache_keeps_is_asked_of_the_next_and_others_go_there_first() {
    let scene = Caches::new(10, u64::MAX, 10_000);
    let slow = Rc::clone(&scene.caches[0]);
    let (before, after, took) = scene.run(Through::Map, move |client| async move {
        let (_, before) = slowest(&client, 300).await;
        delayed(&slow, Duration::from_millis(300));
        let (took, after) = slowest(&client, 300).await;
        (before, after, took)
    });
    assert_eq!((before.hedged, before.by_cache), (0, 300), "nothing was slow");
    assert!(took < Duration::from_millis(10), "nobody waits for the slow one: {took:?}");
    assert!((1..=8).contains(&after.hedged) && after.hedges_won == after.hedged, "{after:?}");
    assert_eq!((after.by_cache, scene.asked(Operation::Get)[0]), (600, 0), "the store is spared");
}

#[test]
fn a_cache_that_stands_still_is_not_waited_for_and_asked_again_when_it_goes_on() {
    let scene = Caches::new(11, u64::MAX, 10_000);
    let still = scene.nodes[1];
    let (took, between) = scene.run(Through::Map, move |client| async move {
        slowest(&client, 300).await;
        still.pause();
        let (took, _) = slowest(&client, 300).await;
        for number in 0..20u64 {
            client.put(key("s", 100 + number), 0, b"v").await.unwrap();
        }
        still.resume();
        client.io().sleep(Duration::from_secs(5)).await;
        let before = client.routed();
        let (_, after) = slowest(&client, 300).await;
        (took, after.hedged - before.hedged)
    });
    assert!(took < Duration::from_millis(10), "{took:?}");
    assert_eq!(between, 0, "it is as quick as before");
    let [_, _, second] = scene.asked(Operation::Get);
    assert!(second > 200, "and asked as before: {second}");
    let puts = scene.asked(Operation::Put);
    assert_eq!(
        (puts, scene.scene.store.applied_count.get()),
        ([20, 0, 0], 20),
        "a write is never asked twice"
    );
}

/// Nothing is known yet of what answers take, so that each of them seems slow.
#[test]
fn no_more_than_a_share_of_gets_is_asked_twice_however_slow_all_are() {
    let scene = Caches::new(12, u64::MAX, 10_000);
    for (cache, ms) in scene.caches.iter().zip([30, 50]) {
        delayed(cache, Duration::from_millis(ms));
    }
    let address = scene.scene.address();
    let routed = scene.scene.run_io(move |io| async move {
        let config = ClientConfig { patience: Duration::from_millis(80), ..ClientConfig::default() };
        let client = Client::connect(&io, &[address], config).await.unwrap();
        slowest(&client, 60).await.1
    });
    assert_eq!((routed.by_cache, routed.fell_back), (60, 0));
    assert!((8..=8 + 60 / 20).contains(&routed.hedged), "{routed:?}");
    let asked: usize = scene.asked(Operation::Get).iter().sum();
    assert!(asked <= 60 + routed.hedged as usize, "{asked}");
}

#[test]
fn behind_the_last_cache_is_the_store() {
    let scene = Caches::new(13, u64::MAX, 10_000);
    let (slow, store) = (Rc::clone(&scene.caches[0]), Rc::clone(&scene.scene.store));
    let reads = store.map.borrow().reads();
    let alone = Reads { revision: 2, caches: reads.caches[..1].to_vec(), ..reads };
    let map = store.map.borrow().with_reads(&alone).unwrap();
    *store.map.borrow_mut() = map.clone();
    *slow.map.borrow_mut() = map;
    let (took, routed) = scene.run(Through::Map, move |client| async move {
        slowest(&client, 100).await;
        delayed(&slow, Duration::from_millis(300));
        slowest(&client, 5).await
    });
    assert!(took < Duration::from_millis(10), "{took:?}");
    let [asked, ..] = scene.asked(Operation::Get);
    assert_eq!((asked, routed), (5, Routed { by_cache: 100, fell_back: 0, hedged: 5, hedges_won: 5 }));
    let config = ClientConfig { hedged_ppm: 0, ..ClientConfig::default() };
    let address = scene.scene.address();
    let (took, routed) = scene.scene.run_io(move |io| async move {
        let client = Client::connect(&io, &[address], config).await.unwrap();
        slowest(&client, 5).await
    });
    assert!(took >= Duration::from_millis(300), "who wants none has none: {took:?}");
    assert_eq!(routed, Routed { by_cache: 5, ..Routed::default() });
}

/// A multi-get, too; and what a busy cache says counts though it was asked second.
#[test]
fn a_multi_get_is_asked_of_the_next_as_a_whole() {
    let scene = Caches::new(14, u64::MAX, 10_000);
    let slow = Rc::clone(&scene.caches[0]);
    slow.script(|request| {
        matches!(request, net::Request::MultiGet(_)).then_some(Spoil::Delay(Duration::from_millis(300)))
    });
    let (took, routed) = scene.run(Through::Map, move |client| async move {
        slowest(&client, 200).await;
        let mut took = Duration::ZERO;
        for _ in 0..40 {
            let begun = client.io().now();
            client.mget(&[key("s", 1), key("t", 1)]).await.unwrap();
            took = took.max(client.io().now().since(begun));
        }
        (took, client.routed())
    });
    assert!(took < Duration::from_millis(10) && routed.hedged > 0, "{took:?}, {routed:?}");
    assert_eq!(scene.asked(Operation::MultiGet)[0], 0);
}
