//! Cache nodes before a group, in some of its worlds: how they are drawn, started and ended, and what goes wrong with them.
//!
//! Must never draw from what the rest of the world draws from: a world without caches is what it was before there were any.
//! Whatever happens to a cache may cost answers, never truth: the reads through it are judged like all others.

use super::plan::Plan;
use super::scene::{Scene, address};
use crate::sim::plan;
use crate::sim::scene::Standing;
use ioengine::sim::{NodeConfig as SimNode, NodeHandle, Random, World};
use ioengine::{HostKind, Instant, Launcher};
use layout::value_ring::RingGeometry;
use net::route::{ClusterMap, Roles};
use shard::cache::{CacheConfig, CacheLimits, CacheNode, rings_name, start_cache};
use shard::limits::Limits;
use shard::node::Event;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The caches of a world.
#[derive(Clone, Debug)]
pub(super) struct CachesPlan {
    /// Of each, its cores.
    pub(super) core_counts: Vec<u16>,
    limits: CacheLimits,
    /// Part of gets that goes to them, in parts per million.
    pub(super) share_ppm: u32,
    /// Mean time from one trouble to the next.
    trouble_every: Duration,
    /// Mean time from one word of where reads go to the next.
    pub(super) said_every: Duration,
}

impl CachesPlan {
    pub(super) fn draw(random: &mut Random, of_store: &Limits) -> CachesPlan {
        let few = random.chance(200_000);
        let limits = CacheLimits {
            rings: RingGeometry {
                chain_count: 1 + random.below(3) as u16,
                chain_bytes: 4096 << random.below(6),
                line_count: 1 + random.below(64),
            },
            arena_bytes: of_store.arena_bytes,
            operation_count_max: of_store.operation_count_max,
            connection_count_max: of_store.connection_count_max,
            frame_bytes_max: of_store.frame_bytes_max,
            outbox_bytes_max: of_store.outbox_bytes_max.max(of_store.frame_bytes_max as usize + 4096),
            waiting_count_max: if few { 8 } else { 1024 },
            fetch_count_max: if few { 6 } else { 512 },
            miss_count_max: if few { 3 } else { 256 },
            batch_count_max: 1 << random.below(8),
            batches_in_flight: 1 + random.index(3),
            request_deadline: plan::ms(random, 300..3_000),
            patience: plan::ms(random, 20..500),
            ..CacheLimits::default()
        };
        limits.check().expect("drawn limits hold together");
        CachesPlan {
            core_counts: (0..1 + random.below(2)).map(|_| 1 + random.below(2) as u16).collect(),
            limits,
            share_ppm: *random.pick(&[200_000, 500_000, 900_000]),
            trouble_every: plan::ms(random, 300..4_000),
            said_every: plan::ms(random, 300..6_000),
        }
    }

    /// What each runs, by the map that names them.
    pub(super) fn of(&self, map: &ClusterMap) -> Vec<CacheConfig> {
        let caches = map.nodes.iter().filter(|node| node.roles.has(Roles::CACHE));
        let config = caches.map(|node| CacheConfig {
            node: node.id,
            listen: address(u16::try_from(node.id).expect("nodes are few")),
            map: map.clone(),
            core_count: node.shard_count,
            host: HostKind::Own,
            pin: false,
            spin_us: 0,
            limits: self.limits.clone(),
        });
        config.collect()
    }
}

/// One cache node.
pub(super) struct Cache {
    pub(super) node: NodeHandle,
    pub(super) config: CacheConfig,
    events: Arc<Mutex<Vec<Event>>>,
    process: Option<CacheNode>,
}

impl Cache {
    pub(super) fn new(world: &World, config: CacheConfig) -> Cache {
        let node = world.add_node(SimNode::numbered(u16::try_from(config.node).expect("nodes are few")));
        Cache { node, config, events: Arc::default(), process: None }
    }

    pub(super) fn start(&mut self) {
        assert!(!self.node.is_running(), "one process at a time");
        self.events.lock().expect("one thread").clear();
        let events = Arc::clone(&self.events);
        let listener = Arc::new(move |event| events.lock().expect("one thread").push(event));
        let process = start_cache(&Launcher::Simulated(self.node), &self.config, listener);
        self.process = Some(process.expect("a simulated core can be launched"));
    }

    /// Ask it to drain.
    pub(super) fn drain(&self) {
        if let Some(process) = &self.process {
            process.drain();
        }
    }

    fn standing(&self) -> Standing {
        let events = self.events.lock().expect("one thread");
        if !self.node.is_running() {
            Standing::Down
        } else if events.iter().any(|event| matches!(event, Event::Serving(_))) {
            Standing::Serving
        } else {
            Standing::Starting
        }
    }

    fn failure(&self) -> Option<String> {
        self.events.lock().expect("one thread").iter().find_map(|event| match event {
            Event::Failed(text) => Some(text.clone()),
            Event::Recovered { .. } | Event::Serving(_) => None,
        })
    }

    /// Bits of its shared memory change, of one core, at any places behind the header.
    fn damage(&self, random: &mut Random) {
        let core = random.below(u64::from(self.config.core_count)) as u16;
        let name = rings_name(&self.config, core);
        let words = self.config.limits.rings.file_bytes() / 8;
        let rings = self.config.limits.rings.ring_offset(0) / 8;
        for _ in 0..1 << random.below(10) {
            // Mostly where the values are.
            let from = if random.chance(800_000) { rings } else { 16 };
            let word = from + random.below(words - from);
            // Not there: it has not started since the machine lost power.
            let _is_there = self.node.flip_region_bits(&name, word as usize, 1 << random.below(64));
        }
    }
}

/// What is planned for a cache.
#[derive(Clone, Copy, Default)]
struct Watch {
    start_at: Option<Instant>,
    resume_at: Option<Instant>,
    /// It drains, and is ended then if it has not ended.
    end_by: Option<Instant>,
}

/// Troubles of caches, on a generator of their own.
pub(super) struct CacheTrouble {
    random: Random,
    watches: Vec<Watch>,
    every: Duration,
    next: Instant,
    /// No more troubles: who is down is started at once.
    is_over: bool,
    /// What must not be.
    pub(super) wrong: Vec<String>,
}

const NEVER: Instant = Instant { ns: u64::MAX };

impl CacheTrouble {
    pub(super) fn new(plan: &Plan, now: Instant) -> CacheTrouble {
        let random = Random::new(plan.seed).fork(plan.mode.name(), 0).fork("cache trouble", 0);
        let count = plan.caches.as_ref().map_or(0, |caches| caches.core_counts.len());
        let every = plan.caches.as_ref().map_or(Duration::MAX, |caches| caches.trouble_every);
        let next = if count > 0 { now.after(every) } else { NEVER };
        CacheTrouble {
            random,
            watches: vec![Watch::default(); count],
            every,
            next,
            is_over: false,
            wrong: Vec::new(),
        }
    }

    /// When to look again.
    pub(super) fn due(&self) -> Instant {
        let of = |watch: &Watch| [watch.start_at, watch.resume_at, watch.end_by];
        self.watches.iter().flat_map(of).flatten().min().map_or(self.next, |at| at.min(self.next))
    }

    pub(super) fn turn(&mut self, scene: &mut Scene, now: Instant) {
        for place in 0..self.watches.len() {
            self.watch(scene, place, now);
        }
        if now >= self.next {
            let every = self.every.as_nanos() as u64;
            self.next = now.after(Duration::from_nanos(every / 2 + self.random.below(every)));
            let place = self.random.index(self.watches.len());
            self.begin(scene, place, now);
        }
    }

    fn watch(&mut self, scene: &mut Scene, place: usize, now: Instant) {
        let (cache, watch) = (&mut scene.caches[place], &mut self.watches[place]);
        if watch.resume_at.is_some_and(|at| at <= now) {
            watch.resume_at = None;
            cache.node.resume();
        }
        if watch.end_by.is_some_and(|by| by <= now) {
            watch.end_by = None;
            if cache.node.is_running() && !cache.node.is_paused() {
                self.wrong.push("a cache that drains does not end in time".to_owned());
            }
            cache.node.kill();
        }
        if cache.standing() != Standing::Down {
            return;
        }
        self.wrong.extend(cache.failure().map(|text| format!("a start of a cache failed: {text}")));
        let pause = if self.is_over { 1 } else { 1 + self.random.below(1_500) };
        let start_at = *watch.start_at.get_or_insert(now.after(Duration::from_millis(pause)));
        if start_at <= now {
            *watch = Watch::default();
            cache.start();
        }
    }

    fn begin(&mut self, scene: &Scene, place: usize, now: Instant) {
        let cache = &scene.caches[place];
        let soon = Duration::from_millis(1 + self.random.below(3_000));
        match self.random.below(8) {
            0 => cache.node.kill(),
            1 => cache.node.kill_after_stores(self.random.below(200)),
            2 => cache.node.power_cut(),
            3 if cache.standing() == Standing::Serving && self.watches[place].end_by.is_none() => {
                cache.drain();
                let by = cache.config.limits.drain_deadline + Duration::from_secs(10);
                self.watches[place].end_by = Some(now.after(by));
            }
            4 => {
                cache.node.pause();
                self.watches[place].resume_at = Some(now.after(soon));
            }
            // Until the next trouble of the network is over: what it holds grows old.
            5 => {
                let store = self.random.index(scene.stores.len());
                scene.world.partition(&cache.node, &scene.stores[store].node);
            }
            _ => cache.damage(&mut self.random),
        }
    }

    /// End every trouble.
    pub(super) fn end_all(&mut self, scene: &Scene) {
        self.next = NEVER;
        self.is_over = true;
        for (cache, watch) in scene.caches.iter().zip(&mut self.watches) {
            cache.node.resume();
            // What was to die in a store to shared memory dies now.
            cache.node.kill();
            *watch = Watch::default();
        }
    }
}
