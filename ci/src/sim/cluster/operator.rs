//! An operator who says anew where reads go while everything else goes wrong, in worlds with caches, by the client that people use.
//! The same of simulated nodes and of real processes.
//!
//! Must never draw from what the rest of the world draws from. Whatever is said may cost a client a way, never truth: clients follow it
//! late, each at another time, and their reads are judged like all others. A node whose disk is what it was never shows an older word
//! than it did, and in peace all show the same.

use super::plan::CLUSTER;
use super::scene::Scene;
use crate::sim::one_node::{PROGRESS, core};
use ioengine::Io;
use ioengine::sim::Random;
use layout::units::Uuid;
use net::client::{Client, ClientConfig, ClientError};
use net::route::{ClusterMap, Node, Reads};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of the longest frame that it takes: any server agrees to it.
const FRAME_BYTES: u32 = 64 << 10;

/// What was said, and what came of it.
pub(crate) struct Said {
    /// Part of gets that goes to caches, in parts per million: clients follow it, late.
    pub(crate) share_ppm: Rc<Cell<u32>>,
    cluster: Uuid,
    stores: Vec<(u32, SocketAddr)>,
    /// The highest revision that each node has shown.
    shown: RefCell<BTreeMap<u32, u32>>,
    /// The highest that a node has answered for.
    acknowledged: Cell<u32>,
    /// Disks are what they were: what a node knew it knows.
    remembers: bool,
    pub(crate) stop: Cell<bool>,
    pub(crate) wrong: RefCell<Vec<String>>,
    /// Caches that may be left out of what is said, and come back; none of the simulator's.
    leaves_out: Vec<Node>,
}

impl Said {
    /// Of the nodes of a store, numbered from 1, of one cluster, all zero = whatever it is.
    pub(crate) fn new(
        cluster: Uuid,
        stores: impl IntoIterator<Item = SocketAddr>,
        share_ppm: &Rc<Cell<u32>>,
        remembers: bool,
        leaves_out: Vec<Node>,
    ) -> Rc<Said> {
        Rc::new(Said {
            share_ppm: Rc::clone(share_ppm),
            cluster,
            stores: (1..).zip(stores).collect(),
            shown: RefCell::default(),
            acknowledged: Cell::new(0),
            remembers,
            stop: Cell::new(false),
            wrong: RefCell::default(),
            leaves_out,
        })
    }

    /// Of the stores of a simulated world.
    pub(super) fn of(scene: &Scene, share_ppm: &Rc<Cell<u32>>, remembers: bool) -> Rc<Said> {
        let stores = scene.stores.iter().map(|store| store.config.listen);
        Said::new(CLUSTER, stores, share_ppm, remembers, Vec::new())
    }

    /// A node says what its map is.
    fn see(&self, node: u32, map: &ClusterMap) {
        let mut shown = self.shown.borrow_mut();
        let before = shown.entry(node).or_default();
        if self.remembers && map.revision < *before {
            let text = format!("node {node} shows revision {} of reads after {before}", map.revision);
            self.wrong.borrow_mut().push(text);
        }
        *before = map.revision.max(*before);
    }
}

async fn at(io: &Io, cluster: Uuid, address: SocketAddr) -> Result<Client, ClientError> {
    let short = Duration::from_millis(800);
    let config = ClientConfig {
        deadline: short,
        patience: short,
        cluster,
        frame_bytes: FRAME_BYTES,
        in_flight: 4,
        ..ClientConfig::default()
    };
    Client::connect(io, &[address], config).await
}

/// Begin to say things, every so often.
pub(super) fn launch(scene: &Scene, said: &Rc<Said>, every: Duration, random: Random) {
    let said = Rc::clone(said);
    let main = move |io: Io| async move {
        speak(io, said, every, random).await;
    };
    scene.machines[0].launch(core("operator", 1), main).expect("a simulated core can be launched");
}

/// Say things until told to stop; how often a node has taken a word.
pub(crate) async fn speak(io: Io, said: Rc<Said>, every: Duration, mut random: Random) -> u64 {
    let mut taken = 0;
    while !said.stop.get() {
        let every = every.as_nanos() as u64;
        io.sleep(Duration::from_nanos(every / 2 + random.below(every))).await;
        // Who is down, or behind a partition, hears it from others.
        taken += u64::from(say(&io, &said, &mut random).await.is_ok());
    }
    taken
}

async fn say(io: &Io, said: &Said, random: &mut Random) -> Result<(), ClientError> {
    let (node, address) = *random.pick(&said.stores);
    let client = at(io, said.cluster, address).await?;
    let map = client.known_map();
    said.see(node, &map);
    let mut reads: Reads = map.reads();
    reads.revision += 1;
    reads.cache_share = *random.pick(&[0, 2_000, 5_000, 10_000]);
    reads.recent_us = *random.pick(&[0, 1_000_000, u64::MAX]);
    if random.coin() && !reads.caches.is_empty() {
        reads.caches.rotate_left(1);
        reads.caches[0].zone = random.below(4) as u16;
        reads.caches.sort_unstable_by_key(|cache| cache.id);
    }
    if !said.leaves_out.is_empty() {
        reads.caches.clone_from(&said.leaves_out);
        if random.chance(300_000) {
            reads.caches.remove(random.index(reads.caches.len()));
        }
    }
    said.share_ppm.set(u32::from(reads.cache_share) * 100);
    let wanted = map.with_reads(&reads).expect("the same caches fit the same map");
    let after = client.set_map_at(node, &wanted).await?;
    said.see(node, &after);
    said.acknowledged.set(said.acknowledged.get().max(after.revision));
    Ok(())
}

/// The last word: all gets go to all caches that may be left out. Why no node takes it.
pub(crate) async fn say_all(io: &Io, said: &Said) -> Result<(), ClientError> {
    let (node, address) = said.stores[0];
    let client = at(io, said.cluster, address).await?;
    let map = client.known_map();
    let revision = map.revision + 1;
    let reads = Reads { revision, recent_us: u64::MAX, cache_share: 10_000, caches: said.leaves_out.clone() };
    let wanted = map.with_reads(&reads).expect("caches that were there fit");
    let after = client.set_map_at(node, &wanted).await?;
    said.share_ppm.set(1_000_000);
    said.acknowledged.set(said.acknowledged.get().max(after.revision));
    Ok(())
}

/// In peace all come to show the same, which is no older than what was answered for; why not.
pub(super) fn agree(scene: &Scene, said: &Rc<Said>) -> Option<String> {
    let said = Rc::clone(said);
    let main = move |io: Io| async move { agreed(&io, &said).await };
    scene.world.block_on(&scene.machines[0], Duration::from_secs(3_600), main)
}

/// The same, on a core.
pub(crate) async fn agreed(io: &Io, said: &Said) -> Option<String> {
    let until = io.now().after(PROGRESS);
    loop {
        let mut maps = Vec::new();
        for (node, address) in &said.stores {
            let Ok(client) = at(io, said.cluster, *address).await else { continue };
            said.see(*node, &client.known_map());
            maps.push(client.known_map());
        }
        let all = maps.len() == said.stores.len();
        let same = maps.windows(2).all(|pair| pair[0] == pair[1]);
        let kept = !said.remembers || maps.iter().all(|map| map.revision >= said.acknowledged.get());
        if all && same && kept {
            return None;
        }
        if io.now() >= until {
            let shown: Vec<_> =
                maps.iter().map(|map| (map.revision, map.recent_us, map.cache_share)).collect();
            let acknowledged = said.acknowledged.get();
            return Some(format!(
                "nodes show {shown:?} of where reads go, and {acknowledged} was answered for"
            ));
        }
        io.sleep(Duration::from_millis(200)).await;
    }
}
