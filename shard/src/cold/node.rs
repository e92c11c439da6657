//! A cold node: raw disks, each owned by one core; one address. Starts its cores, opens its disks, serves, drains.
//!
//! Must never serve a disk that is not its own: another cluster, node or group on it ends the start. Invariant: all cores serve, or none
//! does; a disk that does not answer at the start is left out, one that hangs comes when it is well, and the others serve.

use super::core::{self, ColdCore, ColdFacts, DiskFacts, Spindle};
use super::damage::Damaged;
use super::device::Watch;
use super::disk::ColdDisk;
use super::limits::ColdNodeLimits;
use super::others::Others;
use super::queue::DiskQueue;
use super::{ColdError, aside, others, rebuild, reconcile, repair, scrub, serve};
use crate::budget::Budget;
use crate::front::{self, Connections};
use crate::mesh::Peers;
use crate::node::{Event, Listener};
use ioengine::disk::DiskOpen;
use ioengine::ring::{MeshPort, mesh};
use ioengine::sync::{Either, Notify, race};
use ioengine::{CoreConfig, CoreHandle, HostKind, Io, LaunchError, Launcher, Queue};
use layout::units::Uuid;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often a serving core looks whether it shall drain.
const DRAIN_POLL: Duration = Duration::from_millis(200);
/// How often a core that has opened its disks looks whether the others have.
const READY_POLL: Duration = Duration::from_millis(2);

/// What to run.
#[derive(Clone, Debug)]
pub struct ColdConfig {
    /// The number of the node.
    pub node: u32,
    /// Its cluster.
    pub cluster: Uuid,
    /// Its cold group.
    pub group: u16,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Names of its disks.
    pub disks: Vec<String>,
    /// Where the two other machines of its group serve; none = nothing is mended.
    pub peers: Vec<SocketAddr>,
    /// Cores; disk i goes to core i modulo this.
    pub core_count: u16,
    /// Who runs the tasks.
    pub host: HostKind,
    /// Pin core i to processor i.
    pub pin: bool,
    /// How long an idle core looks for work before it sleeps, in microseconds.
    pub spin_us: u64,
    /// Bounds of each core.
    pub limits: ColdNodeLimits,
}

/// What the cores of a node tell each other.
struct Shared {
    ready_count: AtomicUsize,
    failed: AtomicBool,
    draining: AtomicBool,
    events: Listener,
    facts: Arc<ColdFacts>,
}

/// A running cold node.
pub struct ColdNode {
    shared: Arc<Shared>,
    cores: Vec<CoreHandle>,
}

impl ColdNode {
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

/// Start a cold node. Returns once its cores are launched; `events` hears the rest.
///
/// # Errors
/// [`LaunchError`] when a core cannot be launched.
pub fn start_cold(
    launcher: &Launcher,
    config: &ColdConfig,
    events: Listener,
) -> Result<ColdNode, LaunchError> {
    let facts = ColdFacts {
        node: config.node,
        cluster: config.cluster,
        group: config.group,
        disks: Mutex::default(),
        absent: Mutex::default(),
        awaited: Mutex::default(),
    };
    let shared = Arc::new(Shared {
        ready_count: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        events,
        facts: Arc::new(facts),
    });
    let ports = mesh(usize::from(config.core_count), config.limits.ring_bytes());
    let mut cores = Vec::new();
    for (index, port) in ports.into_iter().enumerate() {
        let core = CoreConfig {
            name: format!("cold-{index}"),
            index,
            cpu: config.pin.then_some(index),
            arena_bytes: config.limits.arena_bytes + others::ARENA_BYTES,
            operation_count_max: config.limits.operation_count_max,
            spin_us: config.spin_us,
            host: config.host,
        };
        let (config, shared) = (config.clone(), Arc::clone(&shared));
        cores.push(launcher.launch(core, move |io| run(io, config, shared, port))?);
    }
    Ok(ColdNode { shared, cores })
}

/// The main task of a core.
async fn run(io: Io, config: ColdConfig, shared: Arc<Shared>, port: MeshPort) {
    if let Err(text) = serve_core(&io, &config, &shared, port).await {
        // The first failure speaks; the others are its consequence.
        if !shared.failed.swap(true, Ordering::AcqRel) {
            (shared.events)(Event::Failed(text));
        }
    }
}

async fn serve_core(io: &Io, config: &ColdConfig, shared: &Shared, port: MeshPort) -> Result<(), String> {
    config.limits.check().map_err(|text| format!("limits: {text}"))?;
    let core_count = usize::from(config.core_count);
    let index = u16::try_from(io.core_index()).expect("cores are few");
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for (peer, ends) in (0u16..).zip(port.attach(io)) {
        let (sender, receiver) = ends.unzip();
        senders.push(sender);
        receivers.extend(receiver.map(|receiver| (peer, receiver)));
    }
    let limits = &config.limits;
    let core = Rc::new(ColdCore {
        io: io.clone(),
        index,
        facts: Arc::clone(&shared.facts),
        front: limits.front(),
        connections: Connections::default(),
        connections_refused: Cell::new(0),
        waiting: Budget::new(limits.waiting_bytes_max),
        peers: Peers::new(senders, limits.frame_bytes_max as usize + 4096),
        others: Others::new(io, &config.peers, config.cluster, limits.frame_bytes_max),
        spindles: RefCell::default(),
        owners: RefCell::default(),
        draining: Cell::new(false),
        limits: limits.clone(),
    });
    let own: Vec<&String> =
        config.disks.iter().skip(usize::from(index)).step_by(usize::from(config.core_count)).collect();
    let entering = Rc::new(Entering { left: Cell::new(own.len()), ..Entering::default() });
    for name in own {
        let (core, config, name) = (Rc::clone(&core), config.clone(), name.clone());
        io.spawn(Queue::Foreground, enter(core, config, name, Rc::clone(&entering)));
    }
    entering.all().await?;
    // AcqRel: the last one to count sees what the others did before.
    shared.ready_count.fetch_add(1, Ordering::AcqRel);
    while shared.ready_count.load(Ordering::Acquire) < core_count {
        if shared.failed.load(Ordering::Acquire) || shared.draining.load(Ordering::Acquire) {
            return Ok(());
        }
        io.sleep(READY_POLL).await;
    }
    let owners: BTreeMap<u16, u16> = shared
        .facts
        .disks
        .lock()
        .expect("no core panics with it")
        .iter()
        .map(|(n, d)| (*n, d.core))
        .collect();
    // A disk that hangs comes when it is well.
    if owners.is_empty() && !shared.facts.is_awaited() {
        return Err(
            "none of the disks of [cold] can be opened: see the log for each, and mend one".to_owned()
        );
    }
    *core.owners.borrow_mut() = owners;
    for (peer, receiver) in receivers {
        io.spawn(Queue::Foreground, core::receive(Rc::clone(&core), peer, receiver));
    }
    let listener = io.listen(config.listen).map_err(|error| error.to_string())?;
    if index == 0 {
        (shared.events)(Event::Serving(listener.address()));
    }
    let watching = Rc::clone(&core);
    io.spawn(Queue::Foreground, async move {
        loop {
            watching.io.sleep(DRAIN_POLL).await;
            let now = watching.io.now();
            for connection in watching.connections.all() {
                if connection.expired(now) {
                    connection.end();
                }
            }
        }
    });
    // One accept stays in flight while the drain flag is looked at: a dropped one could drop a client with it.
    let mut accept = std::pin::pin!(listener.accept());
    loop {
        let waited = race(accept.as_mut(), io.sleep(DRAIN_POLL)).await;
        if shared.draining.load(Ordering::Acquire) || shared.failed.load(Ordering::Acquire) {
            drain(&core).await;
            return Ok(());
        }
        match waited {
            Either::First(Ok(stream)) => front::serve(&core, stream),
            Either::First(Err(error)) => {
                tracing::warn!(%error, "accept failed");
                io.sleep(DRAIN_POLL).await;
            }
            Either::Second(()) => continue,
        }
        accept.set(listener.accept());
    }
}

/// The disks of a core on their way in, each in a task of its own: one that hangs keeps no other waiting.
#[derive(Default)]
struct Entering {
    /// Those of which nothing is known yet.
    left: Cell<usize>,
    failure: RefCell<Option<String>>,
    changed: Notify,
}

impl Entering {
    /// What becomes of one is known.
    fn known(&self) {
        self.left.set(self.left.get() - 1);
        self.changed.notify();
    }

    /// Until it is known of all. The first failure ends it.
    async fn all(&self) -> Result<(), String> {
        loop {
            let changed = self.changed.notified();
            if let Some(text) = self.failure.take() {
                return Err(text);
            }
            if self.left.get() == 0 {
                return Ok(());
            }
            changed.await;
        }
    }
}

/// Open a disk and begin to serve it. One that cannot be opened is left out; one that hangs, is slow or fails is opened when it is well.
async fn enter(core: Rc<ColdCore>, config: ColdConfig, name: String, entering: Rc<Entering>) {
    let watch = match core.io.open_disk(&name, DiskOpen::default()) {
        Ok(disk) => Watch::new(&core.io, disk, config.limits.gray()),
        Err(error) => {
            core.facts.leave_out(&name, &error);
            return entering.known();
        }
    };
    core.io.spawn(Queue::Foreground, aside::run(Rc::clone(&watch)));
    let (mut wait, mut is_late) = (config.limits.aside_min, false);
    let opened = loop {
        let error = match ColdDisk::open_watched(&watch, config.limits.disk()).await {
            Ok(disk) => break serve_disk(&core, &config, &watch, disk),
            Err(error @ (ColdError::Aside { .. } | ColdError::Disk(_))) => error,
            Err(error) => break Err(error.to_string()),
        };
        if watch.disk.ended() {
            core.facts.leave_out(&name, &error);
            break Ok(());
        }
        if !is_late {
            tracing::error!(disk = name, %error, "a cold disk does not answer: the node serves without it until it does");
            ioengine::sometimes!("a cold disk does not answer when it is opened");
            core.facts.awaited.lock().expect("no core panics with it").push(name.clone());
            is_late = true;
            entering.known();
        }
        if matches!(error, ColdError::Disk(_)) {
            core.io.sleep(wait).await;
            wait = (wait * 2).min(config.limits.aside_max);
        }
        watch.is_back().await;
    };
    if !is_late {
        *entering.failure.borrow_mut() = opened.err().or(entering.failure.take());
        return entering.known();
    }
    // The others serve already, and go on.
    core.facts.awaited.lock().expect("no core panics with it").retain(|other| *other != name);
    match opened {
        Ok(()) => {
            ioengine::sometimes!("a cold disk that did not answer at the start is served after all");
            tracing::warn!(disk = name, "a cold disk that did not answer at the start is served");
        }
        Err(error) => core.facts.leave_out(&name, &error),
    }
}

/// Begin to serve a disk that is open.
fn serve_disk(
    core: &Rc<ColdCore>,
    config: &ColdConfig,
    watch: &Rc<Watch>,
    disk: ColdDisk,
) -> Result<(), String> {
    let (io, limits, name) = (&core.io, &config.limits, watch.name());
    let superblock = *disk.superblock();
    let (of, own) = (
        (superblock.cluster, superblock.node, superblock.group),
        (config.cluster, config.node, config.group),
    );
    if of != own {
        return Err(format!(
            "disk {name} belongs to cluster {}, node {}, cold group {}, and this is cluster {}, node {}, cold group {}: bring back the \
             right disk, or format this one with `thermocline disk format`",
            of.0, of.1, of.2, own.0, own.1, own.2
        ));
    }
    let counters = Arc::clone(&watch.counters);
    counters.disk.set(u64::from(superblock.disk));
    counters.files.set(u64::from(superblock.geometry.file_count));
    counters.file_bytes.set(superblock.geometry.file_bytes);
    counters.room_bytes.set(disk.table().room().0);
    counters.kept.set(disk.table().reserved().len() as u64);
    let damaged = Arc::new(Mutex::new(Damaged::new(limits.repair_count_max)));
    {
        let mut disks = core.facts.disks.lock().expect("no core panics with it");
        if let Some(other) = disks.get(&superblock.disk) {
            return Err(format!(
                "disks {name} and {} both are disk {} of the group: one of them is a copy; take it out",
                other.name, superblock.disk
            ));
        }
        let facts = DiskFacts {
            name: name.to_owned(),
            core: core.index,
            counters: Arc::clone(&counters),
            damaged: Arc::clone(&damaged),
        };
        disks.insert(superblock.disk, facts);
    }
    watch.superblock.set(Some(superblock));
    let spindle = Rc::new(Spindle {
        superblock,
        reader: disk.reader(),
        queue: RefCell::new(DiskQueue::new(limits.read_count_max, limits.work_count_max)),
        reads_queued: Notify::new(),
        work_queued: Notify::new(),
        under_way: Cell::new(0),
        generations: RefCell::new(disk.generations()),
        due: RefCell::new(vec![false; superblock.geometry.file_count as usize]),
        counters,
        watch: Rc::clone(watch),
        damaged,
        damage_noted: Notify::new(),
        lost_entries: RefCell::default(),
        entry_lost: Notify::new(),
        errands: RefCell::default(),
    });
    spindle.follow(&disk);
    core.spindles.borrow_mut().insert(superblock.disk, Rc::clone(&spindle));
    for _ in 0..limits.reads_in_flight {
        io.spawn(Queue::Foreground, serve::read(Rc::clone(core), Rc::clone(&spindle)));
    }
    io.spawn(Queue::Foreground, aside::refuse(Rc::clone(core), Rc::clone(&spindle)));
    io.spawn(Queue::Maintenance, serve::work(Rc::clone(core), Rc::clone(&spindle), disk));
    io.spawn(Queue::Maintenance, reconcile::run(Rc::clone(core), Rc::clone(&spindle)));
    if core.others.count() > 0 {
        io.spawn(Queue::Maintenance, repair::run(Rc::clone(core), Rc::clone(&spindle)));
        if spindle.is_filling() {
            io.spawn(Queue::Maintenance, rebuild::run(Rc::clone(core), Rc::clone(&spindle)));
        }
    } else if spindle.is_filling() {
        tracing::error!(
            disk = name,
            "a cold disk is to be filled, and cold.peers names nobody to fill it from"
        );
    }
    if !limits.scrub_period.is_zero() {
        io.spawn(Queue::Maintenance, scrub::run(Rc::clone(core), spindle));
    }
    Ok(())
}

/// Finish what is in flight, then close.
async fn drain(core: &Rc<ColdCore>) {
    core.draining.set(true);
    let deadline = core.io.now().after(core.limits.drain_deadline);
    core.connections.close_readers();
    while (!core.is_settled() || core.connections.count() > 0) && core.io.now() < deadline {
        core.io.sleep(Duration::from_millis(5)).await;
    }
    core.connections.close_all();
}
