//! An operator who says anew where reads go while everything else goes wrong, in worlds with caches, by the client that people use.
//!
//! Must never draw from what the rest of the world draws from. Whatever is said may cost a client a way, never truth: clients follow it
//! late, each at another time, and their reads are judged like all others. A node whose disk is what it was never shows an older word
//! than it did, and in peace all show the same.

use super::plan::CLUSTER;
use super::scene::Scene;
use crate::sim::one_node::{PROGRESS, core};
use ioengine::Io;
use ioengine::sim::Random;
use net::client::{Client, ClientConfig, ClientError};
use net::route::{ClusterMap, Reads};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of the longest frame that it takes: any server agrees to it.
const FRAME_BYTES: u32 = 64 << 10;

/// What was said, and what came of it.
pub(super) struct Said {
    /// Part of gets that goes to caches, in parts per million: clients follow it, late.
    pub(super) share_ppm: Rc<Cell<u32>>,
    stores: Vec<(u32, SocketAddr)>,
    /// The highest revision that each node has shown.
    shown: RefCell<BTreeMap<u32, u32>>,
    /// The highest that a node has answered for.
    acknowledged: Cell<u32>,
    /// Disks are what they were: what a node knew it knows.
    remembers: bool,
    pub(super) stop: Cell<bool>,
    pub(super) wrong: RefCell<Vec<String>>,
}

impl Said {
    pub(super) fn new(scene: &Scene, share_ppm: &Rc<Cell<u32>>, remembers: bool) -> Rc<Said> {
        Rc::new(Said {
            share_ppm: Rc::clone(share_ppm),
            stores: (1..).zip(scene.stores.iter().map(|store| store.config.listen)).collect(),
            shown: RefCell::default(),
            acknowledged: Cell::new(0),
            remembers,
            stop: Cell::new(false),
            wrong: RefCell::default(),
        })
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

async fn at(io: &Io, address: SocketAddr) -> Result<Client, ClientError> {
    let short = Duration::from_millis(800);
    let config = ClientConfig {
        deadline: short,
        patience: short,
        cluster: CLUSTER,
        frame_bytes: FRAME_BYTES,
        in_flight: 4,
        ..ClientConfig::default()
    };
    Client::connect(io, &[address], config).await
}

/// Begin to say things, every so often.
pub(super) fn launch(scene: &Scene, said: &Rc<Said>, every: Duration, mut random: Random) {
    let said = Rc::clone(said);
    let main = move |io: Io| async move {
        while !said.stop.get() {
            let every = every.as_nanos() as u64;
            io.sleep(Duration::from_nanos(every / 2 + random.below(every))).await;
            // Who is down, or behind a partition, hears it from others.
            let _heard = say(&io, &said, &mut random).await;
        }
    };
    scene.machines[0].launch(core("operator", 1), main).expect("a simulated core can be launched");
}

async fn say(io: &Io, said: &Said, random: &mut Random) -> Result<(), ClientError> {
    let (node, address) = *random.pick(&said.stores);
    let client = at(io, address).await?;
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
    said.share_ppm.set(u32::from(reads.cache_share) * 100);
    let wanted = map.with_reads(&reads).expect("the same caches fit the same map");
    let after = client.set_map_at(node, &wanted).await?;
    said.see(node, &after);
    said.acknowledged.set(said.acknowledged.get().max(after.revision));
    Ok(())
}

/// In peace all come to show the same, which is no older than what was answered for; why not.
pub(super) fn agree(scene: &Scene, said: &Rc<Said>) -> Option<String> {
    let (world, said) = (&scene.world, Rc::clone(said));
    let until = world.now().after(PROGRESS);
    world.block_on(&scene.machines[0], Duration::from_secs(3_600), move |io: Io| async move {
        loop {
            let mut maps = Vec::new();
            for (node, address) in &said.stores {
                let Ok(client) = at(&io, *address).await else { continue };
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
    })
}
