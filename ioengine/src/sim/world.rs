//! The world: virtual time, the queue of events, every node, disk and connection, one seed. Time moves only from
//! event to event. Nothing in it asks the machine it runs on for anything: one seed, one history.

use super::core::SimCore;
use super::disk::{DiskConfig, DiskState};
use super::disk_handle::DiskHandle;
use super::fault::{Fault, FaultKind, FaultLog};
use super::image::DiskImage;
use super::link::LinkConfig;
use super::network::Network;
use super::node::{Node, NodeConfig, NodeHandle};
use super::queue::{Event, EventQueue};
use super::random::Random;
use super::trace::Trace;
use crate::clock::Instant;
use crate::io::Io;
use crate::launch::CoreConfig;
use crate::marks::Fact;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// How the world behaves. All of it may be drawn from the seed ([`WorldConfig::swarm`]).
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// Which ready task, and which completion, comes next is drawn; else the longest waiting.
    pub shuffle_tasks: bool,
    /// What a poll costs, in nanoseconds.
    pub poll_ns: Range<u64>,
    /// Polls in one turn at most; 1 to this many are drawn.
    pub turn_polls_max: u64,
    /// How long a sleeping core takes to wake, in nanoseconds.
    pub wake_ns: Range<u64>,
    /// How long a bell takes to be heard, in nanoseconds.
    pub bell_ns: Range<u64>,
    /// Timers fire up to this much late, in nanoseconds.
    pub timer_late_ns: u64,
    /// Wall clock at the start, microseconds since the Unix epoch.
    pub wall_start_us: u64,
    /// Links between nodes, until changed.
    pub link: LinkConfig,
    /// Keep the trace as text too.
    pub trace_text: bool,
    /// Planted bugs to switch on, by name ([`canary`](crate::canary)).
    pub canaries: Vec<String>,
}

impl Default for WorldConfig {
    /// A quick, quiet world: tasks shuffled, no faults.
    fn default() -> WorldConfig {
        WorldConfig {
            shuffle_tasks: true,
            poll_ns: 200..3_000,
            turn_polls_max: 32,
            wake_ns: 500..20_000,
            bell_ns: 500..30_000,
            timer_late_ns: 50_000,
            wall_start_us: 1_767_225_600_000_000, // 2026-01-01
            link: LinkConfig::default(),
            trace_text: false,
            canaries: Vec::new(),
        }
    }
}

impl WorldConfig {
    /// Speeds and orders drawn from `random`: some worlds are brisk, some sluggish.
    #[must_use]
    pub fn swarm(random: &mut Random) -> WorldConfig {
        let slow = random.below(8);
        WorldConfig {
            shuffle_tasks: random.chance(800_000),
            poll_ns: 100..500 << slow,
            turn_polls_max: 1 + random.below(64),
            wake_ns: 100..1_000 << random.below(8),
            bell_ns: 100..1_000 << random.below(8),
            timer_late_ns: 1_000 << random.below(12),
            link: LinkConfig::swarm(random),
            ..WorldConfig::default()
        }
    }
}

thread_local! {
    /// Worlds that live on this thread, so that handles can be plain numbers.
    static WORLDS: RefCell<(u64, Vec<Weak<Shared>>)> = const { RefCell::new((0, Vec::new())) };
}

/// The world of a handle, if it still lives on this thread.
pub(crate) fn find(id: u64) -> Option<Rc<Shared>> {
    let found = WORLDS
        .try_with(|worlds| worlds.borrow().1.iter().filter_map(Weak::upgrade).find(|shared| shared.id == id));
    found.ok().flatten()
}

/// The world of a handle.
pub(crate) fn of(id: u64) -> Rc<Shared> {
    find(id).expect("a handle is used on the thread of its world, while that lives")
}

/// What all parts of a world share.
pub(crate) struct Shared {
    pub(crate) id: u64,
    pub(crate) seed: u64,
    pub(crate) config: WorldConfig,
    time: Cell<u64>,
    queue: RefCell<EventQueue>,
    pub(crate) trace: Trace,
    pub(crate) random: RefCell<Random>,
    pub(crate) cores: RefCell<Vec<Option<Rc<SimCore>>>>,
    pub(crate) nodes: RefCell<Vec<Node>>,
    pub(crate) disks: RefCell<Vec<DiskState>>,
    pub(crate) network: RefCell<Network>,
    pub(crate) faults: RefCell<FaultLog>,
    marks: RefCell<BTreeMap<&'static str, u64>>,
    facts: RefCell<Vec<Fact>>,
    running: Cell<bool>,
    /// The process whose task is being polled.
    pub(crate) polling: Cell<Option<u32>>,
    /// Asks the run to end after this event.
    stop: Cell<bool>,
    /// A core alone in its time takes several steps in one event.
    inline: Cell<bool>,
    pub(crate) next_process: Cell<u32>,
}

impl Shared {
    pub(crate) fn now(&self) -> u64 {
        self.time.get()
    }

    /// Schedule `event` this much after now.
    pub(crate) fn push(&self, delay: u64, event: Event) {
        self.queue.borrow_mut().push(self.time.get().saturating_add(delay), event);
    }

    pub(crate) fn push_at(&self, time: u64, event: Event) {
        self.queue.borrow_mut().push(time.max(self.time.get()), event);
    }

    /// A number of `range` from the scheduler's generator.
    pub(crate) fn draw(&self, range: &Range<u64>) -> u64 {
        self.random.borrow_mut().within(range)
    }

    pub(crate) fn below(&self, count: usize) -> usize {
        self.random.borrow_mut().index(count)
    }

    pub(crate) fn core(&self, id: u32) -> Option<Rc<SimCore>> {
        self.cores.borrow().get(id as usize)?.clone()
    }

    pub(crate) fn fault(&self, node: u32, disk: Option<u32>, offset: u64, bytes: u64, kind: FaultKind) {
        let disk = disk.map(|disk| DiskHandle { world: self.id, disk });
        let at = Instant { ns: self.now() };
        self.trace.note(at.ns, super::trace::Tag::Fault, u64::from(node), offset);
        self.faults.borrow_mut().add(Fault { at, node, disk, offset, bytes, kind });
    }

    fn dispatch(&self, time: u64, event: Event, until: u64) {
        match event {
            Event::Step { core } => self.steps(core, until),
            Event::Timer { core } => {
                if let Some(core) = self.core(core) {
                    core.timer_fires(self, time);
                }
            }
            Event::Bell { core } => {
                if let Some(core) = self.core(core) {
                    core.wake(self);
                }
            }
            Event::Disk { disk, operation } => self.disk_due(disk, operation),
            Event::Syn { socket } => self.syn_due(socket),
            Event::SynAck { socket } => self.syn_ack_due(socket),
            Event::Segment { segment } => self.segment_due(segment),
            Event::Reset { socket } => self.reset_due(socket),
            Event::Window { socket } => self.window_due(socket),
        }
    }

    /// Let a core take steps for as long as nothing else comes first.
    fn steps(&self, id: u32, until: u64) {
        let Some(core) = self.core(id) else { return };
        loop {
            self.polling.set(Some(core.process.id));
            crate::marks::at(core.node, core.process.id);
            let next = core.step(self);
            self.polling.set(None);
            if !core.process.alive.get() {
                self.bury(core.node);
                return;
            }
            let Some(next) = next else { return };
            if self.stop.get()
                || !self.inline.get()
                || next > until
                || self.queue.borrow().next_time() <= next
            {
                self.push_at(next, Event::Step { core: id });
                return;
            }
            self.time.set(next);
        }
    }

    /// Run events due until `until` while `go_on` holds, asked before each event when `inline` is false.
    fn run(self: &Rc<Shared>, until: u64, inline: bool, mut go_on: impl FnMut() -> bool) {
        let _context = Context::enter(self);
        self.stop.set(false);
        self.inline.set(inline);
        let overslept: Vec<Rc<SimCore>> =
            self.cores.borrow().iter().flatten().filter(|core| core.overslept()).cloned().collect();
        for core in overslept {
            core.wake(self);
        }
        while !self.stop.get() && go_on() {
            let Some((time, event)) = self.queue.borrow_mut().pop_until(until) else { return };
            self.time.set(time);
            self.dispatch(time, event, until);
        }
    }
}

/// What is set on the thread while a world runs; taken back also when a task panics, with a word on where.
struct Context<'a> {
    shared: &'a Rc<Shared>,
}

impl<'a> Context<'a> {
    fn enter(shared: &'a Rc<Shared>) -> Context<'a> {
        assert!(!shared.running.replace(true), "a world is not run from inside itself");
        crate::marks::begin(shared.config.canaries.iter().cloned());
        Context { shared }
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        let mut marks = self.shared.marks.borrow_mut();
        for (name, count) in crate::marks::end() {
            *marks.entry(name).or_insert(0) += count;
        }
        drop(marks);
        self.shared.facts.borrow_mut().extend(crate::marks::take_facts());
        self.shared.running.set(false);
        if std::thread::panicking() {
            eprintln!(
                "simulated world: seed {}, virtual time {} ns, {} events",
                self.shared.seed,
                self.shared.now(),
                self.shared.trace.count()
            );
        }
    }
}

/// A simulated world. Dropping it ends every process in it.
pub struct World {
    pub(crate) shared: Rc<Shared>,
}

impl World {
    /// A world without nodes at time 0.
    #[must_use]
    pub fn new(seed: u64, config: WorldConfig) -> World {
        let root = Random::new(seed);
        let shared = WORLDS.with_borrow_mut(|(last, worlds)| {
            *last += 1;
            let shared = Rc::new(Shared {
                id: *last,
                seed,
                time: Cell::new(0),
                queue: RefCell::new(EventQueue::new()),
                trace: Trace::new(seed, config.trace_text),
                random: RefCell::new(root.fork("schedule", 0)),
                cores: RefCell::default(),
                nodes: RefCell::default(),
                disks: RefCell::default(),
                network: RefCell::new(Network::new(root.fork("network", 0), config.link.clone())),
                faults: RefCell::default(),
                marks: RefCell::default(),
                facts: RefCell::default(),
                running: Cell::new(false),
                polling: Cell::new(None),
                stop: Cell::new(false),
                inline: Cell::new(true),
                next_process: Cell::new(1),
                config,
            });
            worlds.retain(|world| world.strong_count() > 0);
            worlds.push(Rc::downgrade(&shared));
            shared
        });
        World { shared }
    }

    /// The seed it was made from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant { ns: self.shared.now() }
    }

    /// A generator for whoever sets the scene, apart from the world's own.
    #[must_use]
    pub fn random(&self, name: &str) -> Random {
        Random::new(self.shared.seed).fork("scene", 0).fork(name, 0)
    }

    /// Run until virtual time `until`.
    pub fn run_until(&self, until: Instant) {
        self.shared.run(until.ns, true, || true);
        self.shared.time.set(self.shared.time.get().max(until.ns));
    }

    /// Run for `duration` of virtual time.
    pub fn run_for(&self, duration: Duration) {
        self.run_until(self.now().after(duration));
    }

    /// Run until nothing is scheduled any more, at most for `limit`. True if it came to that.
    pub fn run_until_idle(&self, limit: Duration) -> bool {
        self.shared.run(self.now().after(limit).ns, true, || true);
        self.shared.queue.borrow().is_empty()
    }

    /// Run while `condition` holds (asked before every event), at most for `limit`. True if it ended by itself.
    pub fn run_while(&self, limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
        let until = self.now().after(limit);
        let mut held = true;
        self.shared.run(until.ns, false, || {
            held = condition();
            held
        });
        !held || !condition()
    }

    /// One event. False when nothing is scheduled.
    pub fn step(&self) -> bool {
        let mut left = 1;
        let any = !self.shared.queue.borrow().is_empty();
        self.shared.run(u64::MAX, false, || {
            left -= 1;
            left == 0
        });
        any
    }

    /// Run `main` on a fresh core of `node` until it has finished. Panics when it has not after `limit`.
    pub fn block_on<T, F, M>(&self, node: &NodeHandle, limit: Duration, main: F) -> T
    where
        T: 'static,
        F: FnOnce(Io) -> M + 'static,
        M: Future<Output = T> + 'static,
    {
        let out = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&out);
        let shared = Rc::downgrade(&self.shared);
        let launched = node.launch(CoreConfig::small("block_on", 0), move |io| async move {
            let value = main(io).await;
            *slot.borrow_mut() = Some(value);
            if let Some(shared) = shared.upgrade() {
                shared.stop.set(true);
            }
        });
        launched.expect("a simulated core can be launched");
        self.shared.run(self.now().after(limit).ns, true, || true);
        let value = out.borrow_mut().take();
        value.unwrap_or_else(|| {
            panic!("not finished within {limit:?} of virtual time (seed {})", self.shared.seed)
        })
    }

    /// Add a machine, switched on, without disks and without a process.
    pub fn add_node(&self, config: NodeConfig) -> NodeHandle {
        let mut nodes = self.shared.nodes.borrow_mut();
        assert!(nodes.iter().all(|node| node.address != config.address), "an address is one node's");
        let index = u32::try_from(nodes.len()).expect("nodes fit u32");
        let random = Random::new(self.shared.seed).fork("node", u64::from(index));
        nodes.push(Node::new(config, random));
        self.shared.network.borrow_mut().grow(nodes.len());
        NodeHandle { world: self.shared.id, node: index }
    }

    /// Add an empty disk to a node. Its name is unique there.
    pub fn add_disk(&self, node: &NodeHandle, name: &str, config: DiskConfig) -> DiskHandle {
        let image = DiskImage::new(config.bytes);
        self.add_disk_with(node, name, config, image)
    }

    /// Add a disk with contents.
    pub fn add_disk_with(
        &self,
        node: &NodeHandle,
        name: &str,
        config: DiskConfig,
        image: DiskImage,
    ) -> DiskHandle {
        let mut disks = self.shared.disks.borrow_mut();
        let index = u32::try_from(disks.len()).expect("disks fit u32");
        let taken = disks.iter().any(|disk| disk.node == node.node && disk.name == name);
        assert!(!taken, "{name} is one disk of its node");
        let random = Random::new(self.shared.seed).fork("disk", u64::from(index));
        disks.push(DiskState::new(node.node, name, config, image, random));
        DiskHandle { world: self.shared.id, disk: index }
    }

    /// Running hash of every event so far: equal for equal histories.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.shared.trace.hash()
    }

    /// Events so far.
    #[must_use]
    pub fn event_count(&self) -> u64 {
        self.shared.trace.count()
    }

    /// The lines of the trace since the last call, if [`WorldConfig::trace_text`] asked for them.
    #[must_use]
    pub fn take_trace(&self) -> Vec<String> {
        self.shared.trace.take_text()
    }

    /// Every fault injected so far, in order.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.shared.faults.borrow().list.clone()
    }

    /// How often each kind of fault was injected; network faults too, which are not listed one by one.
    #[must_use]
    pub fn fault_counts(&self) -> BTreeMap<&'static str, u64> {
        self.shared.faults.borrow().counts.clone()
    }

    /// How often each [`sometimes!`](crate::sometimes) mark was passed.
    #[must_use]
    pub fn marks(&self) -> BTreeMap<&'static str, u64> {
        self.shared.marks.borrow().clone()
    }

    /// The [`fact`](crate::fact)s told since the last call, in order.
    #[must_use]
    pub fn take_facts(&self) -> Vec<Fact> {
        self.shared.facts.take()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let count = self.shared.nodes.borrow().len();
        for node in 0..count {
            self.shared.bury(u32::try_from(node).expect("nodes fit u32"));
        }
    }
}
