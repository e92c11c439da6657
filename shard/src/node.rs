//! A node: one disk, one core per shard, one address. Starts them in order, serves, drains.
//!
//! Order of a start: core 0 opens the disk and takes a new incarnation, flushed before anything else; each core then
//! recovers its shard; when all are ready, all listen. Nothing is served before everything is recovered.

use crate::budget::Budget;
use crate::cluster::{self, Calls, Disks, Group, Links, Maps};
use crate::commit;
use crate::connection;
use crate::core::{NodeFacts, Phase, Shard};
use crate::counters::Counters;
use crate::format::{self, FormatError};
use crate::hot::HotKeys;
use crate::limits::Limits;
use crate::log::{self, Logs};
use crate::lsm;
use crate::mesh::{self, Peers};
use crate::parked::{self, Parking};
use crate::recover::{Recovered, Report, Start, recover, region_name};
use crate::scrub;
use crate::sink::{self, ColdGroup};
use crate::sink_settings::SinkSettings;
use crate::staging::Batch;
use crate::versions::Versions;
use ioengine::disk::{DiskOpen, DiskShare};
use ioengine::ring::{self, MeshPort, Receiver, Sender};
use ioengine::sync::{Either, Notify, race};
use ioengine::{Buf, CoreConfig, CoreHandle, Disk, HostKind, Io, LaunchError, Launcher, Queue};
use layout::superblock::Superblock;
use layout::units::{ENTRY_BODY_BYTES_MAX, Incarnation};
use net::peer::PeerVersions;
use net::route::{ClusterMap, Reads};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How often cores look at what they tell each other while starting and ending.
const POLL: Duration = Duration::from_millis(1);
/// How often a serving core looks whether it shall drain.
const DRAIN_POLL: Duration = Duration::from_millis(200);

/// Epoch of the map of a node that is its own group and was given none.
const MAP_EPOCH: u32 = 1;

/// What to run.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Path or name of the disk.
    pub disk: String,
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// The address that clients are told; `None` is the one listened on.
    pub advertise: Option<SocketAddr>,
    /// The map of the group, the same at all its nodes; `None`: the node is its own group.
    pub map: Option<ClusterMap>,
    /// Other nodes of the group that an operator gives up for this life: where this node may have forgotten what it promised it votes again
    /// without their word. What only they have is lost, and their disks have to be formatted anew. Empty but in an emergency.
    pub without: Vec<u32>,
    /// The versions of the messages between nodes that it speaks: all of this build, or fewer while a group is brought from one build
    /// to another and back.
    pub versions: PeerVersions,
    /// Cores, which is the shard count of the disk.
    pub core_count: u16,
    /// Who runs the tasks.
    pub host: HostKind,
    /// Pin core i to processor i.
    pub pin: bool,
    /// How long an idle core looks for work before it sleeps, in microseconds.
    pub spin_us: u64,
    /// Bounds of each core.
    pub limits: Limits,
    /// Where sealed windows are sunk to, the same at all nodes of the group; `None`: they stay.
    pub sink: Option<SinkSettings>,
}

/// What a node tells whoever started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A shard is recovered; the text says what was found.
    Recovered {
        /// Which.
        shard: u16,
        /// Records replayed.
        record_count: u64,
        /// Log entries replayed.
        entry_count: u64,
        /// Tablets that lost part of their log, or may have.
        damaged_tablet_count: usize,
    },
    /// All cores serve on this address.
    Serving(SocketAddr),
    /// It cannot start; the text says what, where, and what to do.
    Failed(String),
}

/// Who hears of events. Called on the threads of the cores.
pub type Listener = Arc<dyn Fn(Event) + Send + Sync>;

/// What the cores of a starting node tell each other.
struct Boot {
    opened: OnceLock<Opened>,
    ready_count: AtomicUsize,
    address: OnceLock<SocketAddr>,
    failed: AtomicBool,
    draining: AtomicBool,
    events: Listener,
}

struct Opened {
    share: DiskShare,
    superblock: Superblock,
    previous: Incarnation,
    facts: Arc<NodeFacts>,
}

/// A running node.
pub struct Node {
    boot: Arc<Boot>,
    cores: Vec<CoreHandle>,
}

impl Node {
    /// Begin to drain: finish what is in flight, refuse what is new, then end.
    pub fn drain(&self) {
        // Release: whoever sees the flag sees what led to it. Nothing else is passed.
        self.boot.draining.store(true, Ordering::Release);
    }

    /// A handle by which a signal handler task or another thread can drain the node.
    pub fn drainer(&self) -> impl Fn() + Send + Sync + 'static {
        let boot = Arc::clone(&self.boot);
        move || boot.draining.store(true, Ordering::Release)
    }

    /// Wait until every core has ended. Returns at once for a simulated node.
    pub fn join(self) {
        self.cores.into_iter().for_each(CoreHandle::join);
    }
}

/// Start a node. Returns once its cores are launched; `events` hears the rest.
///
/// # Errors
/// [`LaunchError`] when a core cannot be launched.
pub fn start(launcher: &Launcher, config: &NodeConfig, events: Listener) -> Result<Node, LaunchError> {
    let boot = Arc::new(Boot {
        opened: OnceLock::new(),
        ready_count: AtomicUsize::new(0),
        address: OnceLock::new(),
        failed: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        events,
    });
    let ports = ring::mesh(usize::from(config.core_count), config.limits.ring_bytes);
    let mut cores = Vec::new();
    for (index, port) in ports.into_iter().enumerate() {
        let core = CoreConfig {
            name: format!("shard-{index}"),
            index,
            cpu: config.pin.then_some(index),
            arena_bytes: config.limits.arena_bytes
                + if config.sink.is_some() { sink::ARENA_BYTES } else { 0 },
            operation_count_max: config.limits.operation_count_max,
            spin_us: config.spin_us,
            host: config.host,
        };
        let (config, boot) = (config.clone(), Arc::clone(&boot));
        cores.push(launcher.launch(core, move |io| run(io, config, boot, port))?);
    }
    Ok(Node { boot, cores })
}

/// The main task of a core.
async fn run(io: Io, config: NodeConfig, boot: Arc<Boot>, port: MeshPort) {
    if let Err(text) = serve(&io, &config, &boot, port).await {
        // The first failure speaks; the others are its consequence.
        if !boot.failed.swap(true, Ordering::AcqRel) {
            (boot.events)(Event::Failed(text));
        }
    }
}

async fn serve(io: &Io, config: &NodeConfig, boot: &Boot, port: MeshPort) -> Result<(), String> {
    config.limits.check().map_err(|text| format!("limits: {text}"))?;
    let index = u16::try_from(io.core_index()).expect("cores are few");
    let disk = if index == 0 {
        let disk = io.open_disk(&config.disk, DiskOpen::default()).map_err(|error| error.to_string())?;
        let opened = open(io, &disk, config, boot).await?;
        assert!(boot.opened.set(opened).is_ok(), "only core 0 opens");
        disk
    } else {
        let share = wait_for(io, boot, || boot.opened.get().map(|opened| opened.share.clone())).await?;
        io.attach_disk(&share).map_err(|error| error.to_string())?
    };
    let opened = boot.opened.get().expect("just waited for");
    let shard = Box::pin(start_shard(io, config, boot, opened, disk, index, port)).await?;
    // AcqRel: the last one to count sees what the others did before.
    let ready = boot.ready_count.fetch_add(1, Ordering::AcqRel) + 1;
    tracing::debug!(shard = index, ready, "shard ready");
    listen(io, config, boot, &shard).await?;
    drain(&shard).await;
    Ok(())
}

async fn wait_for<T>(io: &Io, boot: &Boot, get: impl Fn() -> Option<T>) -> Result<T, String> {
    loop {
        if let Some(value) = get() {
            return Ok(value);
        }
        if boot.failed.load(Ordering::Acquire) || boot.draining.load(Ordering::Acquire) {
            return Err("another core has ended the start".to_owned());
        }
        io.sleep(POLL).await;
    }
}

/// Core 0: the disk, its superblock, and a new incarnation.
async fn open(io: &Io, disk: &Disk, config: &NodeConfig, boot: &Boot) -> Result<Opened, String> {
    let opening = format::look(io, disk).await.map_err(|error| error.to_string())?;
    let found = &opening.current;
    if found.shard_count != config.core_count {
        return Err(format!(
            "disk {} is cut for {} shards and the node was started with {} cores: start it with as many as shards",
            config.disk, found.shard_count, config.core_count
        ));
    }
    let of_disk = |text: String| format!("disk {}: {text}", config.disk);
    let group = match &config.map {
        None => Group::alone(found.node),
        Some(map) => Group::of(map.clone(), found.node, found.cluster, found.shard_count).map_err(of_disk)?,
    };
    let group = group.without(&config.without).map_err(of_disk)?;
    if !config.without.is_empty() {
        tracing::warn!(
            nodes = ?config.without,
            "an operator has given these nodes up: tablets that may have forgotten what they promised vote again without their word; \
             acknowledged writes that only those nodes have are lost, and their disks must be formatted anew before they come back"
        );
    }
    let is_over = || boot.draining.load(Ordering::Acquire);
    let birth = if found.origin.is_unborn() {
        Some(cluster::birth(io, &group, found, is_over).await.map_err(of_disk)?)
    } else {
        None
    };
    let life = if group.is_alone() { 0 } else { io.random() };
    let superblock = opening.begin(io, disk, birth, life).await.map_err(|error| error.to_string())?;
    let previous = found.incarnation;
    let counters = || Arc::new(Counters::of(group.peers().iter().map(|peer| peer.node)));
    let counters = (0..superblock.shard_count).map(|_| counters()).collect();
    let facts = Arc::new(NodeFacts {
        node: superblock.node,
        cluster: superblock.cluster,
        incarnation: superblock.incarnation,
        core_count: superblock.shard_count,
        settings_epoch: group.map().map_or(MAP_EPOCH, |map| map.epoch),
        versions: config.versions,
        calls: Calls::new(group.peers()),
        group,
        disks: Disks::new(format::introduction(&superblock), superblock.peers),
        maps: Maps::new(Reads::from_stored(&superblock.reads)),
        counters,
        verifies_asked: AtomicU64::new(0),
    });
    Ok(Opened { share: disk.share(), superblock, previous, facts })
}

/// The map by the settings of the node; `address` is told by a node that is its own group.
fn map(facts: &NodeFacts, address: SocketAddr) -> ClusterMap {
    let own = || ClusterMap::single(facts.cluster, facts.node, address, facts.core_count);
    let map = facts.group.map().cloned().unwrap_or_else(own);
    assert_eq!(map.epoch, facts.settings_epoch, "a node has one map");
    map
}

/// Say what a recovery found, in the log and the counters.
fn tell(shard: u16, report: &Report, counters: &Counters) {
    tracing::info!(
        shard,
        records = report.replayed.record_count,
        entries = report.entry_count,
        tail = ?report.replayed.tail,
        gaps = report.replayed.gaps.len(),
        versions = ?report.versions,
        "shard recovered"
    );
    for tablet in &report.damaged {
        tracing::error!(
            tablet = tablet.get(),
            "tablet lost part of its log: it answers `Corrupt`, or in a group takes a copy from a peer"
        );
    }
    counters.replayed_records.set(report.replayed.record_count);
    counters.replayed_entries.set(report.entry_count);
    counters.versions_kept.set(u64::from(report.versions == crate::versions::Attached::Kept));
}

/// Recover a shard and start its tasks.
async fn start_shard(
    io: &Io,
    config: &NodeConfig,
    boot: &Boot,
    opened: &Opened,
    disk: Disk,
    index: u16,
    port: MeshPort,
) -> Result<Rc<Shard>, String> {
    let limits = &config.limits;
    let superblock = &opened.superblock;
    let bytes = Versions::region_bytes(limits.version_row_count);
    let region =
        io.region(&region_name(superblock.device, index), bytes).map_err(|error| error.to_string())?;
    let group = &opened.facts.group;
    let previous = opened.previous;
    let from = Start { disk, superblock, previous, shard: index, limits, region, group };
    let Recovered { mut state, keeper, journal, buffer, report, logs } =
        recover(io, from).await.map_err(|e| e.to_string())?;
    let counters = Arc::clone(&opened.facts.counters[usize::from(index)]);
    tell(index, &report, &counters);
    let (senders, receivers) = rings(io, port);
    let logs = if group.is_alone() {
        None
    } else {
        Some(Logs::start(io, group, &config.limits, superblock.incarnation, &mut state, logs)?)
    };
    let mut limits = config.limits.clone();
    if logs.is_some() {
        limits.staging_bytes = limits.staging_bytes.min(log::entry_bytes_max(&limits));
    }
    let limits = &limits;
    let group = |settings: &SinkSettings| ColdGroup::new(io, settings, superblock.cluster, limits);
    let cold = config.sink.as_ref().map(group).transpose()?.map(Rc::new);
    keeper.zone.set_cold(cold.clone());
    let batch = || RefCell::new(Batch::new(limits.staging_bytes, limits.staging_count_max));
    let waiting = Rc::new(Budget::new(limits.waiting_bytes_max));
    let shard = Rc::new(Shard {
        io: io.clone(),
        index,
        facts: Arc::clone(&opened.facts),
        limits: limits.clone(),
        sink: config.sink,
        cold: cold.clone(),
        state: RefCell::new(state),
        logs,
        journal,
        batch: batch(),
        flying: batch(),
        flying_bytes: Cell::new(0),
        marked: Cell::new(true),
        stuck: Cell::new(false),
        failed: Cell::new(false),
        staged: Notify::new(),
        settled: Notify::new(),
        phase: Cell::new(Phase::Serving),
        turn_us: Cell::new(io.now().ns / 1000),
        ticks_wanted: Cell::new(0),
        connections: connection::Connections::default(),
        gathers: crate::gather::Gathers::default(),
        keeper,
        parking: Parking::new(limits.reader_count, limits.parked_count_max, Rc::clone(&waiting)),
        waiting,
        peers: Peers::new(senders, limits.frame_bytes_max as usize + net::frame::HEADER_BYTES),
        links: Links::new(
            io,
            opened.facts.group.peers(),
            limits.frame_bytes_max,
            opened.facts.settings_epoch,
            &counters,
        ),
        counters,
        hot: HotKeys::new(io.now()),
    });
    let buffer = log::write_queued(&shard, buffer).await.map_err(|error| error.to_string())?;
    spawn(&shard, buffer, receivers);
    #[cfg(test)]
    cluster::started(&shard);
    // Before anyone can ask: a status answered by another core says what this one found.
    shard.publish_counters();
    (boot.events)(Event::Recovered {
        shard: index,
        record_count: report.replayed.record_count,
        entry_count: report.entry_count,
        damaged_tablet_count: report.damaged.len(),
    });
    Ok(shard)
}

/// The ends of the rings between this core and the others: one to each of them, and those that there are from them.
fn rings(io: &Io, port: MeshPort) -> (Vec<Option<Sender>>, Vec<(u16, Receiver)>) {
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for (peer, ends) in (0u16..).zip(port.attach(io)) {
        let (sender, receiver) =
            ends.map_or((None, None), |(sender, receiver)| (Some(sender), Some(receiver)));
        senders.push(sender);
        receivers.extend(receiver.map(|receiver| (peer, receiver)));
    }
    (senders, receivers)
}

/// Start the tasks of a core. `buffer` holds a journal record.
fn spawn(shard: &Rc<Shard>, buffer: Buf, receivers: Vec<(u16, Receiver)>) {
    let (io, limits) = (&shard.io, &shard.limits);
    let scratch = Vec::with_capacity(ENTRY_BODY_BYTES_MAX.min(limits.staging_bytes));
    if shard.logs.is_some() {
        io.spawn(Queue::Foreground, log::run_commit(Rc::clone(shard), buffer, scratch));
        io.spawn(Queue::Foreground, log::run_clock(Rc::clone(shard)));
        io.spawn(Queue::Maintenance, log::run_verify(Rc::clone(shard)));
    } else {
        io.spawn(Queue::Foreground, commit::run(Rc::clone(shard), buffer, scratch));
    }
    if shard.journal.is_some() {
        io.spawn(Queue::Maintenance, lsm::flush::run(Rc::clone(shard)));
        io.spawn(Queue::Maintenance, lsm::work::merges(Rc::clone(shard)));
        if shard.logs.is_some() {
            io.spawn(Queue::Maintenance, lsm::agree::run(Rc::clone(shard)));
            if shard.cold.is_some() {
                io.spawn(Queue::Maintenance, sink::run(Rc::clone(shard)));
                io.spawn(Queue::Scrub, sink::run_sweep(Rc::clone(shard)));
            }
        } else {
            if shard.cold.is_some() && shard.index == 0 {
                tracing::warn!(
                    "the config names cold nodes, and this store is alone: nothing sinks, since replicas agree on what does; give it a group, or take \
                     [sink] out"
                );
            }
            io.spawn(Queue::Maintenance, lsm::work::seals(Rc::clone(shard)));
        }
    }
    if !limits.scrub_period.is_zero() {
        io.spawn(Queue::Scrub, scrub::run(Rc::clone(shard)));
    }
    io.spawn(Queue::Foreground, connection::watch(Rc::clone(shard)));
    for reader in 0..limits.reader_count {
        io.spawn(Queue::Foreground, parked::work(Rc::clone(shard), reader));
    }
    for (peer, receiver) in receivers {
        io.spawn(Queue::Foreground, mesh::receive(Rc::clone(shard), peer, receiver));
    }
    for place in 0..shard.facts.group.peers().len() {
        io.spawn(Queue::Foreground, cluster::run(Rc::clone(shard), place));
    }
}

/// Listen once all cores are ready, and accept until the node drains.
async fn listen(io: &Io, config: &NodeConfig, boot: &Boot, shard: &Rc<Shard>) -> Result<(), String> {
    let all = usize::from(config.core_count);
    wait_for(io, boot, || (boot.ready_count.load(Ordering::Acquire) >= all).then_some(())).await?;
    let listener = if shard.index == 0 {
        served(io, shard).await.map_err(|error| error.to_string())?;
        let listener = io.listen(config.listen).map_err(|error| error.to_string())?;
        let told = config.advertise.unwrap_or(listener.address());
        shard.facts.maps.begin(&map(&shard.facts, told));
        cluster::tell_all(shard);
        assert!(boot.address.set(listener.address()).is_ok(), "only core 0 chooses the port");
        listener
    } else {
        let address = wait_for(io, boot, || boot.address.get().copied()).await?;
        io.listen(address).map_err(|error| error.to_string())?
    };
    // Counted twice: ready, then listening.
    if boot.ready_count.fetch_add(1, Ordering::AcqRel) + 1 == 2 * all {
        (boot.events)(Event::Serving(listener.address()));
    }
    // One accept stays in flight while the drain flag is looked at: a dropped one could drop a client with it.
    let mut accept = std::pin::pin!(listener.accept());
    loop {
        let waited = race(accept.as_mut(), io.sleep(DRAIN_POLL)).await;
        if boot.draining.load(Ordering::Acquire) || boot.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        match waited {
            Either::First(Ok(stream)) => connection::serve(shard, stream),
            Either::First(Err(error)) => {
                tracing::warn!(%error, "accept failed");
                io.sleep(DRAIN_POLL).await;
            }
            Either::Second(()) => continue,
        }
        accept.set(listener.accept());
    }
}

/// Each core has written to its journal: the superblock says so, that a start may miss it.
async fn served(io: &Io, shard: &Shard) -> Result<(), FormatError> {
    if shard.facts.group.is_alone() {
        return Ok(());
    }
    let claim = loop {
        match shard.facts.disks.claim() {
            Some(claim) => break claim,
            None => io.sleep(POLL).await,
        }
    };
    let disk = shard.keeper.zone.disk();
    format::update(io, disk, |superblock| superblock.served = superblock.incarnation).await?;
    drop(claim);
    Ok(())
}

/// Finish what is in flight, then close.
async fn drain(shard: &Rc<Shard>) {
    shard.phase.set(Phase::Draining);
    shard.staged.notify();
    let deadline = shard.io.now().after(shard.limits.drain_deadline);
    while !shard.is_settled() && shard.io.now() < deadline {
        race(shard.settled.notified(), shard.io.sleep(Duration::from_millis(50))).await;
    }
    // Answers are in the outboxes now; readers end, writers send what is left.
    shard.connections.close_readers();
    while shard.connections.count() > 0 && shard.io.now() < deadline {
        shard.io.sleep(Duration::from_millis(5)).await;
    }
    shard.connections.close_all();
}
