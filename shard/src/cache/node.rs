//! A cache node: no disk, one core per thread, one address. Starts its cores, serves, drains.
//!
//! Must never wait for the store in order to start: a cache that finds nobody answers so. Invariant: all cores serve, or none does.

use super::core::{Cache, CacheFacts};
use super::counters::CacheCounters;
use super::fetch::Fetches;
use super::get;
use super::limits::CacheLimits;
use super::many::Manys;
use super::maps;
use super::rings::{Rings, RingsFound, RingsOwner};
use crate::budget::Budget;
use crate::front::{self, Connections};
use crate::hot::HotKeys;
use crate::node::{Event, Listener};
use ioengine::sync::{Either, Notify, race};
use ioengine::{CoreConfig, CoreHandle, HostKind, Io, LaunchError, Launcher, Queue};
use net::client::{Client, ClientConfig, Through};
use net::route::ClusterMap;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How often a serving core looks whether it shall drain.
const DRAIN_POLL: Duration = Duration::from_millis(200);

const RINGS_PREFIX: &str = "values-";

/// What to run.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// The number of the node in the map.
    pub node: u32,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The cluster map to begin with; newer ones come from the store.
    pub map: ClusterMap,
    /// Cores.
    pub core_count: u16,
    /// Who runs the tasks.
    pub host: HostKind,
    /// Pin core i to processor i.
    pub pin: bool,
    /// How long an idle core looks for work before it sleeps, in microseconds.
    pub spin_us: u64,
    /// Bounds of each core.
    pub limits: CacheLimits,
}

/// What the cores of a node tell each other.
struct Shared {
    ready_count: AtomicUsize,
    failed: AtomicBool,
    draining: AtomicBool,
    events: Listener,
    facts: Arc<CacheFacts>,
}

/// A running cache node.
pub struct CacheNode {
    shared: Arc<Shared>,
    cores: Vec<CoreHandle>,
}

impl CacheNode {
    /// Begin to drain: finish what is in flight, then end.
    pub fn drain(&self) {
        // Release: whoever sees the flag sees what led to it. Nothing else is passed.
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Wait until every core has ended. Returns at once for a simulated node.
    pub fn join(self) {
        self.cores.into_iter().for_each(CoreHandle::join);
    }
}

/// Name of the region of a core's value rings.
#[must_use]
pub fn rings_name(config: &CacheConfig, core: u16) -> String {
    format!("{RINGS_PREFIX}{}-{}-{core}", config.map.cluster, config.node)
}

/// Whether this is the name of a region of value rings.
#[must_use]
pub fn is_rings_name(name: &str) -> bool {
    name.starts_with(RINGS_PREFIX)
}

/// Start a cache node. Returns once its cores are launched; `events` hears the rest.
///
/// # Errors
/// [`LaunchError`] when a core cannot be launched.
pub fn start_cache(
    launcher: &Launcher,
    config: &CacheConfig,
    events: Listener,
) -> Result<CacheNode, LaunchError> {
    let counters = (0..config.core_count).map(|_| Arc::new(CacheCounters::default())).collect();
    let facts = CacheFacts { node: config.node, cluster: config.map.cluster, counters };
    let shared = Arc::new(Shared {
        ready_count: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        events,
        facts: Arc::new(facts),
    });
    let mut cores = Vec::new();
    for index in 0..usize::from(config.core_count) {
        let core = CoreConfig {
            name: format!("cache-{index}"),
            index,
            cpu: config.pin.then_some(index),
            arena_bytes: config.limits.arena_bytes,
            operation_count_max: config.limits.operation_count_max,
            spin_us: config.spin_us,
            host: config.host,
        };
        let (config, shared) = (config.clone(), Arc::clone(&shared));
        cores.push(launcher.launch(core, move |io| run(io, config, shared))?);
    }
    Ok(CacheNode { shared, cores })
}

/// The main task of a core.
async fn run(io: Io, config: CacheConfig, shared: Arc<Shared>) {
    if let Err(text) = serve(&io, &config, &shared).await {
        // The first failure speaks; the others are its consequence.
        if !shared.failed.swap(true, Ordering::AcqRel) {
            (shared.events)(Event::Failed(text));
        }
    }
}

async fn serve(io: &Io, config: &CacheConfig, shared: &Shared) -> Result<(), String> {
    config.limits.check().map_err(|text| format!("limits: {text}"))?;
    let cache = start_core(io, config, shared)?;
    let listener = io.listen(config.listen).map_err(|error| error.to_string())?;
    // AcqRel: the last one to count sees what the others did before.
    if shared.ready_count.fetch_add(1, Ordering::AcqRel) + 1 == usize::from(config.core_count) {
        (shared.events)(Event::Serving(listener.address()));
    }
    // One accept stays in flight while the drain flag is looked at: a dropped one could drop a client with it.
    let mut accept = std::pin::pin!(listener.accept());
    loop {
        let waited = race(accept.as_mut(), io.sleep(DRAIN_POLL)).await;
        if shared.draining.load(Ordering::Acquire) || shared.failed.load(Ordering::Acquire) {
            drain(&cache).await;
            return Ok(());
        }
        match waited {
            Either::First(Ok(stream)) => front::serve(&cache, stream),
            Either::First(Err(error)) => {
                tracing::warn!(%error, "accept failed");
                io.sleep(DRAIN_POLL).await;
            }
            Either::Second(()) => continue,
        }
        accept.set(listener.accept());
    }
}

/// Attach the rings and start the tasks of a core.
fn start_core(io: &Io, config: &CacheConfig, shared: &Shared) -> Result<Rc<Cache>, String> {
    let limits = &config.limits;
    let index = u16::try_from(io.core_index()).expect("cores are few");
    let bytes = usize::try_from(limits.rings.file_bytes()).map_err(|error| error.to_string())?;
    let region = io.region(&rings_name(config, index), bytes).map_err(|error| error.to_string())?;
    let owner = RingsOwner { cluster: config.map.cluster, node: config.node, core: index };
    let (rings, found) = Rings::attach(region, &owner, limits.rings, io.random());
    tracing::info!(core = index, ?found, "value rings");
    let of_store = ClientConfig {
        deadline: limits.request_deadline,
        patience: limits.patience,
        frame_bytes: limits.frame_bytes_max,
        cluster: config.map.cluster,
        // It is the cache.
        through: Through::Store,
        ..ClientConfig::default()
    };
    let client = Client::of_map(io, config.map.clone(), of_store).map_err(|wrong| wrong.to_string())?;
    let counters = Arc::clone(&shared.facts.counters[usize::from(index)]);
    counters.rings_kept.set(u64::from(found == RingsFound::Kept));
    let cache = Rc::new(Cache {
        io: io.clone(),
        index,
        facts: Arc::clone(&shared.facts),
        rings: RefCell::new(rings),
        fetches: RefCell::new(Fetches::new(limits.fetches())),
        waited: Cell::default(),
        queued: Notify::new(),
        client,
        batches: RefCell::new(BTreeMap::new()),
        connections: Connections::default(),
        manys: RefCell::new(Manys::default()),
        waiting: Budget::new(limits.waiting_bytes_max),
        counters,
        hot: HotKeys::new(io.now()),
        limits: limits.clone(),
        front: limits.front(),
    });
    io.spawn(Queue::Foreground, get::run(Rc::clone(&cache)));
    io.spawn(Queue::Foreground, get::watch(Rc::clone(&cache)));
    io.spawn(Queue::Foreground, maps::follow(Rc::clone(&cache)));
    Ok(cache)
}

/// Finish what is in flight, then close.
async fn drain(cache: &Rc<Cache>) {
    let deadline = cache.io.now().after(cache.limits.drain_deadline);
    cache.connections.close_readers();
    while !cache.is_settled() && cache.io.now() < deadline {
        cache.io.sleep(Duration::from_millis(5)).await;
    }
    while cache.connections.count() > 0 && cache.io.now() < deadline {
        cache.io.sleep(Duration::from_millis(5)).await;
    }
    cache.connections.close_all();
}
