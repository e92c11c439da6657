//! Nodes of a group in one simulated world: every core sends numbered messages to every peer. What arrives was sent, to that core
//! and by that node; strangers are not heard; links come back; a dead peer costs a bounded amount of memory.

use crate::cluster::Group;
use crate::core::Shard;
use crate::format::{FormatPlan, format};
use crate::limits::Limits;
use crate::node::{Event, NodeConfig, start};
use ioengine::sim::{DiskConfig, LinkConfig, NodeConfig as SimNode, NodeHandle, Random, World, WorldConfig};
use ioengine::{Io, Launcher};
use layout::key::Key;
use layout::superblock_peers::{Lives, Origin};
use layout::units::{Incarnation, RequestId, Space, TabletIndex, Uuid};
use net::frame::next_frame;
use net::operation::Operation;
use net::outcome::Outcome;
use net::peer::{
    Introduction, PeerAnswer, PeerHello, PeerVersions, Refusal, message_head, next_answer, seal_batch,
};
use net::reply::{Answer, Reply};
use net::request::{Get, Head, Hello, Map, MultiGetBody, Put, Request, Streams};
use net::route::{ClusterMap, Group as MapGroup, Node, Roles};
use net::session::append_frame;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The kind of message that these tests send: it never comes to the log.
pub(crate) const KIND: u8 = 255;
const CLUSTER: Uuid = Uuid([7; 16]);
const CORES: u16 = 2;

/// From node, to node, core that sent, tablet, number.
type Sent = (u32, u32, u16, u8, u64);

#[derive(Default)]
struct Seen {
    shards: Vec<Weak<Shard>>,
    sent: BTreeSet<Sent>,
    dropped: u64,
    received: Vec<Sent>,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// A core of a node has started.
pub(crate) fn started(shard: &Rc<Shard>) {
    SEEN.with_borrow_mut(|seen| seen.shards.push(Rc::downgrade(shard)));
}

/// A message of these tests has come.
pub(crate) fn received(shard: &Rc<Shard>, from: u32, tablet: TabletIndex, body: &[u8]) {
    let (core, rest) = body.split_first_chunk::<2>().expect("a core");
    let number = u64::from_le_bytes(rest[..8].try_into().expect("a number"));
    assert!(rest[8..].iter().all(|byte| *byte == number as u8), "the filling is as it was sent");
    let sent = (from, shard.facts.node, u16::from_le_bytes(*core), tablet.get(), number);
    SEEN.with_borrow_mut(|seen| seen.received.push(sent));
}

/// Every core that lives sends a message to every peer, of `bytes` and more.
fn send_round(number: u64, bytes: usize) {
    let shards: Vec<Rc<Shard>> =
        SEEN.with_borrow(|seen| seen.shards.iter().filter_map(Weak::upgrade).collect());
    for shard in shards {
        for peer in shard.facts.group.peers() {
            let tablet = TabletIndex::new(((number * 7 + u64::from(peer.node)) % 64) as u8).unwrap();
            let filling = vec![number as u8; bytes];
            let core = shard.index.to_le_bytes();
            let went = shard.links.send(peer.node, tablet, KIND, &[&core, &number.to_le_bytes(), &filling]);
            let sent = (shard.facts.node, peer.node, shard.index, tablet.get(), number);
            SEEN.with_borrow_mut(|seen| if went { seen.sent.extend([sent]) } else { seen.dropped += 1 });
        }
    }
}

fn map(zones: &[u16], replicas: u8) -> ClusterMap {
    let node = |(id, zone): (u32, &u16)| Node {
        id,
        address: SocketAddr::new([10, 0, 0, id as u8].into(), 7420),
        zone: *zone,
        roles: Roles::STORE,
        shard_count: CORES,
    };
    let nodes: Vec<Node> = (1..).zip(zones).map(node).collect();
    let members = nodes.iter().map(|node| node.id).collect();
    let groups = vec![MapGroup { replicas, members }];
    ClusterMap { epoch: 5, cluster: CLUSTER, revision: 0, recent_us: 0, cache_share: 0, nodes, groups }
}

struct Scene {
    world: World,
    nodes: Vec<NodeHandle>,
    map: ClusterMap,
    limits: Limits,
}

impl Scene {
    fn new(seed: u64, map: ClusterMap, config: WorldConfig) -> Scene {
        SEEN.set(Seen::default());
        let world = World::new(seed, config);
        let nodes: Vec<NodeHandle> =
            map.nodes.iter().map(|n| world.add_node(SimNode::numbered(n.id as u16))).collect();
        let limits = Limits { scrub_period: Duration::ZERO, ..Limits::small() };
        for (store, node) in nodes.iter().zip(&map.nodes) {
            assert_eq!(store.address(), node.address.ip());
            world.add_disk(store, "ssd", DiskConfig::new(32 << 20));
            let plan = FormatPlan {
                cluster: CLUSTER,
                node: node.id,
                shard_count: CORES,
                journal_bytes: Some(2 << 20),
                segment_bytes: 256 << 10,
                recovers: false,
                anew: false,
            };
            world.block_on(store, Duration::from_secs(60), move |io: Io| async move {
                let disk = io.open_disk("ssd", ioengine::disk::DiskOpen::default()).unwrap();
                format(&io, &disk, &plan).await.unwrap();
            });
        }
        Scene { world, nodes, map, limits }
    }

    /// Start a node with this map and wait until it serves; else why not.
    fn start_with(&self, place: usize, map: ClusterMap) -> Result<(), String> {
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let config = NodeConfig {
            disk: "ssd".to_owned(),
            listen: map.nodes[place].address,
            advertise: None,
            map: Some(map),
            without: Vec::new(),
            versions: net::peer::PeerVersions::ALL,
            core_count: CORES,
            host: ioengine::HostKind::Own,
            pin: false,
            spin_us: 0,
            limits: self.limits.clone(),
            sink: None,
        };
        let heard = Arc::clone(&events);
        let listener = Arc::new(move |event| heard.lock().unwrap().push(event));
        let _node = start(&Launcher::Simulated(self.nodes[place]), &config, listener).unwrap();
        let heard = Arc::clone(&events);
        let ended = |event: &Event| matches!(event, Event::Serving(_) | Event::Failed(_));
        self.world.run_while(Duration::from_secs(60), move || !heard.lock().unwrap().iter().any(ended));
        let failed = events.lock().unwrap().iter().find_map(|event| match event {
            Event::Failed(text) => Some(text.clone()),
            _ => None,
        });
        failed.map_or(Ok(()), Err)
    }

    fn start(&self, place: usize) {
        self.start_with(place, self.map.clone()).unwrap();
    }

    /// Links between living cores that are up, and all there could be.
    fn links(&self) -> (usize, usize) {
        let up = |shard: &Rc<Shard>| {
            let peers = shard.facts.group.peers().iter();
            (peers.clone().filter(|peer| shard.links.is_up(peer.node)).count(), peers.count())
        };
        let shards = self.shards();
        shards.iter().map(up).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    fn shards(&self) -> Vec<Rc<Shard>> {
        SEEN.with_borrow(|seen| seen.shards.iter().filter_map(Weak::upgrade).collect())
    }

    fn all_up(&self) -> bool {
        let (up, all) = self.links();
        up == all && all == self.nodes.len() * (self.nodes.len() - 1) * usize::from(CORES)
    }

    /// Run until every link is up; how long it took.
    fn heal(&self, seed: u64) {
        assert!(
            self.world.run_while(Duration::from_secs(30), || !self.all_up()),
            "seed {seed}: {:?} links came back",
            self.links()
        );
    }
}

/// What arrived was sent, by that core to that node, for that tablet, and once.
fn check(seed: u64) -> (usize, usize) {
    SEEN.with_borrow(|seen| {
        let mut once = BTreeSet::new();
        for received in &seen.received {
            assert!(seen.sent.contains(received), "seed {seed}: {received:?} was never sent");
            assert!(once.insert(received), "seed {seed}: {received:?} came twice");
        }
        (once.len(), seen.sent.len())
    })
}

#[test]
fn messages_arrive_in_a_quiet_world() {
    let scene = Scene::new(1, map(&[1, 2, 3], 3), WorldConfig::default());
    (0..3).for_each(|place| scene.start(place));
    scene.heal(1);
    for number in 0..200 {
        send_round(number, (number as usize * 37) % 3000);
        scene.world.run_for(Duration::from_millis(1));
    }
    scene.world.run_for(Duration::from_secs(1));
    let (arrived, sent) = check(1);
    assert_eq!((arrived, sent), (200 * 12, 200 * 12), "nothing is lost on links that are up");
    let shards = scene.shards();
    let relayed = |shard: &&Rc<Shard>| shard.counters.peer_received.get() > 0;
    assert_eq!(shards.iter().filter(relayed).count(), 6, "every core got its share");
    let frames: u64 = shards.iter().map(|shard| shard.counters.peer_received_bytes.get()).sum();
    assert_eq!(frames, shards.iter().map(|shard| shard.counters.peer_sent_bytes.get()).sum::<u64>());
}

#[test]
fn messages_of_one_turn_leave_in_few_frames_in_order() {
    let scene = Scene::new(2, map(&[1, 2, 3], 3), WorldConfig::default());
    (0..3).for_each(|place| scene.start(place));
    scene.heal(2);
    let before: u64 = scene.shards().iter().map(|shard| shard.counters.peer_sent_bytes.get()).sum();
    (0..50).for_each(|number| send_round(number, 10));
    scene.world.run_for(Duration::from_millis(100));
    assert_eq!(check(2), (600, 600));
    let after: u64 = scene.shards().iter().map(|shard| shard.counters.peer_sent_bytes.get()).sum();
    let heads = (after - before) - 600 * (8 + 10 + 10);
    // With what the log had to say meanwhile.
    assert!(heads <= 600 * 32 / 4, "{heads} bytes beside the messages: a frame for each would be 19,200");
    SEEN.with_borrow(|seen| {
        let of = |tablet: u8| seen.received.iter().filter(move |sent| sent.3 == tablet);
        let mut last = std::collections::BTreeMap::new();
        for (from, to, core, _, number) in (0..64).flat_map(of) {
            assert!(last.insert((from, to, core, number % 64), number) < Some(number));
        }
    });
}

#[test]
fn links_come_back_after_partitions_kills_and_power_cuts() {
    for seed in 0..30u64 {
        let mut random = Random::new(seed);
        let scene = Scene::new(seed, map(&[1, 2, 3], 3), WorldConfig::swarm(&mut random));
        (0..3).for_each(|place| scene.start(place));
        scene.heal(seed);
        let mut number = 0;
        for _ in 0..6 {
            let place = random.index(3);
            let (one, other) = (&scene.nodes[place], &scene.nodes[(place + 1) % 3]);
            match random.below(5) {
                0 => scene.world.partition(one, other),
                1 => scene.world.partition_one_way(one, other),
                2 => scene.world.isolate(one),
                3 => one.kill(),
                _ => one.power_cut(),
            }
            for _ in 0..40 {
                send_round(number, random.index(20_000));
                number += 1;
                scene.world.run_for(Duration::from_millis(1 + random.below(300)));
            }
            check(seed);
            scene.world.heal_all();
            if !one.is_running() {
                scene.start(place);
            }
            scene.heal(seed);
        }
        let before = check(seed).0;
        for _ in 0..20 {
            send_round(number, 100);
            number += 1;
            scene.world.run_for(Duration::from_millis(20));
        }
        scene.world.run_for(Duration::from_secs(5));
        assert!(check(seed).0 > before, "seed {seed}: messages arrive again");
    }
}

#[test]
fn a_dead_peer_costs_a_bounded_amount_of_memory() {
    let scene = Scene::new(3, map(&[1, 2, 3], 3), WorldConfig::default());
    (0..3).for_each(|place| scene.start(place));
    scene.heal(3);
    scene.world.isolate(&scene.nodes[2]);
    let most = |shards: &[Rc<Shard>]| {
        shards.iter().filter(|s| s.facts.node != 3).map(|s| s.io.arena_bytes().1).max().unwrap()
    };
    let idle = most(&scene.shards());
    let mut peak = 0;
    for number in 0..4000 {
        send_round(number, 30_000);
        scene.world.run_for(Duration::from_millis(3));
        peak = peak.max(most(&scene.shards()));
    }
    // A link holds the frames that wait and those being sent, 128 KiB each; there are two, and connections beside them.
    assert!(peak < idle + 2 * 2 * (128 << 10) + (256 << 10), "{idle} bytes idle, {peak} with a dead peer");
    let dropped = SEEN.with_borrow(|seen| seen.dropped);
    assert!(dropped > 4000, "{dropped} dropped: what cannot be sent is not kept");
    check(3);
}

#[test]
fn a_message_longer_than_a_frame_and_a_full_link_are_refused() {
    let scene = Scene::new(4, map(&[1, 2, 3], 3), WorldConfig::default());
    (0..3).for_each(|place| scene.start(place));
    scene.heal(4);
    let shard = scene.shards().remove(0);
    let peer = shard.facts.group.peers()[0].node;
    let tablet = TabletIndex::new(3).unwrap();
    let most = shard.limits.frame_bytes_max as usize - 8;
    assert!(!shard.links.send(peer, tablet, KIND, &[&vec![0; most + 1]]));
    assert!(shard.links.send(peer, tablet, KIND, &[&vec![0; most]]));
    let mut fits = 0;
    while shard.links.send(peer, tablet, KIND, &[&[0; 1000]]) {
        fits += 1;
    }
    assert!((40..70).contains(&fits), "{fits} more: nearly as much again waits for the one send");
    scene.world.run_for(Duration::from_secs(1));
    assert!(shard.links.send(peer, tablet, KIND, &[&[0; 1000]]), "there is room again");
    assert_eq!(SEEN.with_borrow(|seen| seen.received.len()), fits + 1, "what was taken has arrived");
}

#[test]
fn what_waits_on_a_slow_link_stays_fresh() {
    let scene = Scene::new(9, map(&[1, 2, 3], 3), WorldConfig::default());
    (0..3).for_each(|place| scene.start(place));
    scene.heal(9);
    // 8 KiB in 40 ms or so.
    let slow = LinkConfig {
        delay_ns: 20_000_000..21_000_000,
        send_buffer_bytes: 8 << 10,
        receive_buffer_bytes: 8 << 10,
        ..LinkConfig::default()
    };
    scene.world.set_links(&slow);
    // Far more than the links carry, for long.
    for number in 0..3000 {
        send_round(number, 1500);
        scene.world.run_for(Duration::from_millis(1));
    }
    assert_eq!(scene.links().0, scene.links().1, "a busy link is no dead one");
    let newest = 3000;
    send_round(newest, 1500);
    let late = SEEN.with_borrow(|seen| seen.received.iter().map(|sent| sent.4).max().unwrap());
    assert!(newest - late < 500, "the newest that has arrived was sent {} ms ago", newest - late);
    check(9);
}

/// Call node 1 as somebody; what comes back, and send it a message all the same.
fn call(scene: &Scene, from: &NodeHandle, hello: PeerHello) -> Option<Refusal> {
    let address = scene.map.nodes[0].address;
    scene.world.block_on(from, Duration::from_secs(60), move |io| async move {
        let stream = io.connect(address).await.unwrap();
        let mut buffer = io.buffer(4096).unwrap();
        let mut bytes = hello.frame().to_vec();
        let mut batch = vec![0; 32];
        batch.extend(message_head(TabletIndex::new(1).unwrap(), KIND, 10));
        batch.extend([0; 10]);
        seal_batch(&mut batch, 0, hello.map_epoch);
        bytes.extend(batch);
        buffer[..bytes.len()].copy_from_slice(&bytes);
        stream.send(buffer, 0..bytes.len()).await.0.unwrap();
        let (mut answer, mut filled) = (io.buffer(4096).unwrap(), 0);
        loop {
            let end = answer.len();
            let (count, back) = stream.receive(answer, filled..end).await;
            answer = back;
            filled += count.unwrap();
            if let PeerAnswer::Hello { reply, .. } = next_answer(&answer[..filled], false).unwrap() {
                return reply.refusal;
            }
        }
    })
}

/// A founder's disk, in this life.
fn introduction(incarnation: u32) -> Introduction {
    let mut lives = Lives::default();
    lives.begin(Incarnation(incarnation), u64::from(incarnation) * 100);
    let device = Uuid([2; 16]);
    Introduction { incarnation: Incarnation(incarnation), device, origin: Origin::Founder, lives }
}

/// Node 2 calls node 1.
fn hello(introduction: Introduction) -> PeerHello {
    PeerHello {
        protocol: 1,
        shard_count: CORES,
        node: 2,
        to: 1,
        map_epoch: 5,
        frame_bytes: 64 << 10,
        versions: PeerVersions::ALL,
        cluster: CLUSTER,
        introduction,
    }
}

#[test]
fn another_disk_of_a_node_is_refused_also_after_a_restart() {
    let scene = Scene::new(7, map(&[1, 2, 3], 3), WorldConfig::default());
    let outside = scene.world.add_node(SimNode::numbered(9));
    scene.start(0);
    let good = introduction(5);
    assert_eq!(call(&scene, &outside, hello(good)), Some(Refusal::NotYet));
    scene.world.run_for(Duration::from_secs(1));
    assert_eq!(call(&scene, &outside, hello(good)), None);
    scene.nodes[0].power_cut();
    scene.start(0);
    let founder = Introduction { device: Uuid([3; 16]), ..introduction(9) };
    let recovered =
        |birth| Introduction { origin: Origin::Recovered { birth: Incarnation(birth) }, ..founder };
    for (comes, refusal) in [
        (founder, Some(Refusal::Disk)),
        (introduction(4), Some(Refusal::RolledBack)),
        (recovered(0), Some(Refusal::Unborn)),
        (recovered(5), Some(Refusal::Disk)),
        (good, None),
        (recovered(6), Some(Refusal::NotYet)),
    ] {
        assert_eq!(call(&scene, &outside, hello(comes)), refusal, "{comes:?}");
    }
    scene.world.run_for(Duration::from_secs(1));
    assert_eq!(call(&scene, &outside, hello(recovered(6))), None);
    assert_eq!(call(&scene, &outside, hello(good)), Some(Refusal::Disk), "the former one comes back");
}

#[test]
fn strangers_are_refused_by_name_and_not_heard() {
    let scene = Scene::new(5, map(&[1, 2, 3], 3), WorldConfig::default());
    let outside = scene.world.add_node(SimNode::numbered(9));
    scene.start(0);
    let good = hello(introduction(1));
    for (hello, refusal) in [
        (PeerHello { cluster: Uuid([8; 16]), ..good }, Refusal::Cluster),
        (PeerHello { node: 9, ..good }, Refusal::Stranger),
        (PeerHello { node: 1, ..good }, Refusal::Stranger),
        (PeerHello { to: 3, ..good }, Refusal::Node),
        (PeerHello { map_epoch: 4, ..good }, Refusal::MapEpoch),
        (PeerHello { shard_count: 3, ..good }, Refusal::Shards),
    ] {
        assert_eq!(call(&scene, &outside, hello), Some(refusal));
        scene.world.run_for(Duration::from_secs(1));
        SEEN.with_borrow(|seen| assert!(seen.received.is_empty(), "{refusal:?} was heard"));
    }
    assert_eq!(call(&scene, &outside, good), Some(Refusal::NotYet), "it was never met");
    scene.world.run_for(Duration::from_secs(1));
    SEEN.with_borrow(|seen| assert!(seen.received.is_empty(), "nothing is heard before it is remembered"));
    assert_eq!(call(&scene, &outside, good), None);
    scene.world.run_for(Duration::from_secs(1));
    SEEN.with_borrow(|seen| assert_eq!(seen.received, [(2, 1, 0, 1, 0)]));
    let refused: u64 = scene.shards().iter().map(|shard| shard.counters.peers_refused.get()).sum();
    assert_eq!(refused, 6);
}

#[test]
fn a_message_of_a_tablet_that_is_not_here_is_not_passed_on() {
    let scene = Scene::new(6, map(&[1, 1, 2, 2, 3, 3], 3), WorldConfig::default());
    (0..6).for_each(|place| scene.start(place));
    scene.heal(6);
    for number in 0..64 {
        send_round(number, 1);
    }
    scene.world.run_for(Duration::from_secs(1));
    let group = &scene.shards()[0].facts.group;
    SEEN.with_borrow(|seen| {
        assert!(!seen.received.is_empty());
        for (from, to, _, tablet, _) in &seen.received {
            let holders = group.replicas(TabletIndex::new(*tablet).unwrap());
            assert!(holders.contains(from) && holders.contains(to), "tablet {tablet} from {from} to {to}");
        }
    });
    let misplaced: u64 = scene.shards().iter().map(|shard| shard.counters.peer_misplaced.get()).sum();
    assert_eq!(misplaced + check(6).0 as u64, check(6).1 as u64, "each was passed on or counted");
}

#[test]
fn a_map_that_does_not_fit_the_disk_stops_the_start() {
    let whole = map(&[1, 2, 3], 3);
    let scene = Scene::new(7, whole.clone(), WorldConfig::default());
    let failed = |map: ClusterMap| scene.start_with(0, map).unwrap_err();
    assert!(failed(ClusterMap { cluster: Uuid([8; 16]), ..whole.clone() }).contains("cluster"));
    let mut shards = whole.clone();
    shards.nodes[0].shard_count = 5;
    assert!(failed(shards).contains("5"));
    let mut without = whole.clone();
    without.nodes[0].id = 7;
    without.nodes.rotate_left(1);
    without.groups[0].members[0] = 7;
    let text = scene.start_with(2, without).unwrap_err();
    assert!(text.contains("node 3") || text.contains("node 1") || !text.is_empty(), "{text}");
}

#[test]
fn who_holds_what_is_the_same_at_all_nodes() {
    for (zones, replicas) in
        [(&[1, 2, 3][..], 3), (&[1, 2, 3, 4, 5], 5), (&[1, 2, 3, 4, 5], 3), (&[1, 1, 2, 2, 3, 3], 3)]
    {
        let map = map(zones, replicas);
        let group = |own: u32| Group::of(map.clone(), own, CLUSTER, CORES).unwrap();
        let left = group(1).without(&[2, 2, 2, 2, 2, 2]).unwrap();
        assert_eq!(
            left.peers_left(),
            left.peers().len() - 1,
            "a node is given up once, however often it is named"
        );
        let first = group(1);
        assert!(!first.is_alone());
        for own in 1..=zones.len() as u32 {
            let group = group(own);
            assert!(group.peers().iter().all(|peer| peer.node != own));
            assert_eq!(group.peers().len(), zones.len() - 1);
            for tablet in TabletIndex::all() {
                let replicas_of = group.replicas(tablet);
                assert_eq!(replicas_of, first.replicas(tablet));
                assert_eq!(group.order(tablet), first.order(tablet));
                assert_eq!(replicas_of.len(), usize::from(replicas));
                assert!(replicas_of.is_sorted());
                let place = group.place(tablet).map(|place| replicas_of[usize::from(place)]);
                assert_eq!(place, replicas_of.contains(&own).then_some(own));
                let mut order = group.order(tablet).to_vec();
                order.sort_unstable();
                assert_eq!(order, replicas_of);
            }
        }
    }
    let alone = Group::alone(4);
    assert!(alone.is_alone() && alone.map().is_none());
    assert_eq!(
        (alone.replicas(TabletIndex::new(9).unwrap()), alone.place(TabletIndex::new(9).unwrap())),
        (&[4][..], Some(0))
    );
}

/// Ask node `place` as a client; the body of its answer.
fn ask(scene: &Scene, from: &NodeHandle, place: usize, request: &Request<'_>) -> Vec<u8> {
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 1,
        method: net::request::AuthMethod::None,
        auth: &[],
        features: 0,
        frame_bytes: 64 << 10,
        in_flight: 4,
        client: 1,
        cluster: CLUSTER,
    };
    let mut bytes = Vec::new();
    append_frame(&Request::Hello(hello), 0, 0, &mut bytes);
    append_frame(request, 1, 0, &mut bytes);
    let address = scene.map.nodes[place].address;
    scene.world.block_on(from, Duration::from_secs(60), move |io| async move {
        let stream = io.connect(address).await.unwrap();
        let mut buffer = io.buffer(64 << 10).unwrap();
        buffer[..bytes.len()].copy_from_slice(&bytes);
        stream.send(buffer, 0..bytes.len()).await.0.unwrap();
        let (mut answer, mut filled) = (io.buffer(128 << 10).unwrap(), 0);
        loop {
            let end = answer.len();
            let (count, back) = stream.receive(answer, filled..end).await;
            answer = back;
            filled += count.unwrap();
            let Some(first) = next_frame(&answer[..filled], 64 << 10).unwrap() else { continue };
            assert_eq!(first.header.operation, Operation::Hello);
            if let Some(second) = next_frame(&answer[first.consumed..filled], 64 << 10).unwrap() {
                return second.body.to_vec();
            }
        }
    })
}

#[test]
fn a_tablet_that_is_not_here_is_refused_at_every_door() {
    let scene = Scene::new(8, map(&[1, 1, 2, 2, 3, 3], 3), WorldConfig::default());
    let outside = scene.world.add_node(SimNode::numbered(9));
    scene.start(0);
    let group = Group::of(scene.map.clone(), 1, CLUSTER, CORES).unwrap();
    let wrong = Answer::Not(Outcome::WrongGroup { epoch: 5 });
    let names: Vec<[u8; 2]> = (0..40u16).map(u16::to_le_bytes).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| Key::new(Space(0), name, 7).unwrap()).collect();
    let here = |key: &Key<'_>| group.holds(key.tablet());
    assert!(keys.iter().any(here) && keys.iter().any(|key| !here(key)));
    let id = RequestId { client: 1, log_time: 0, sequence: 1 };
    let mut many = MultiGetBody::new();
    for key in &keys {
        // Local: a node that is alone among six cannot say what is the newest.
        let get = Get { key: *key, local: true, if_newer: None, redirect: false };
        assert!(many.push(&get));
        let body = ask(&scene, &outside, 0, &Request::Get(get));
        let answer = Reply::decode(Operation::Get, &body).unwrap().answer;
        assert_eq!(answer, if here(key) { Answer::Not(Outcome::NotFound) } else { wrong });
        if here(key) {
            continue;
        }
        let put = Request::Put(Put { id, key: *key, expiry: 0, value: b"x" });
        let scan = Request::Head(Head {
            space: key.space,
            stream: key.stream,
            local: true,
            record_limit: 1,
            byte_limit: 0,
        });
        let streams =
            Request::Streams(Streams { group: 0, tablet: key.tablet(), space: None, after: None, limit: 1 });
        for request in [put, scan, streams] {
            let body = ask(&scene, &outside, 0, &request);
            assert_eq!(Reply::decode(request.operation(), &body).unwrap().answer, wrong, "{request:?}");
        }
    }
    let body = ask(&scene, &outside, 0, &Request::MultiGet(many.request().unwrap()));
    let Answer::MultiGet(items) = Reply::decode(Operation::MultiGet, &body).unwrap().answer else { panic!() };
    for item in items.items() {
        let there = !here(&keys[usize::from(item.index)]);
        assert_eq!(item.reply.answer, if there { wrong } else { Answer::Not(Outcome::NotFound) });
    }
    let body = ask(&scene, &outside, 0, &Request::Map(Map { known_epoch: 0 }));
    let Answer::Map(bytes) = Reply::decode(Operation::Map, &body).unwrap().answer else { panic!() };
    assert_eq!(ClusterMap::decode(bytes).unwrap(), scene.map, "who is refused finds the right node");
}
