//! Machines and the process on each: start, kill, loss of power, pause, signals, clocks, shared memory.
//! A machine keeps its regions over a kill of the process, and only its disks over a loss of power.

use super::core::{SimCore, Start};
use super::disk_handle::DiskHandle;
use super::fault::FaultKind;
use super::random::Random;
use super::trace::Tag;
use super::world::{self, Shared};
use crate::io::Io;
use crate::launch::{CoreConfig, LaunchError};
use crate::operation::{Errno, OperationId};
use crate::region::{Region, RegionError, StoreHook};
use crate::signal::Signal;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

/// A machine to be added to a world.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// For messages.
    pub name: String,
    /// Its one address on the network; loopback addresses are each node's own besides.
    pub address: IpAddr,
}

impl NodeConfig {
    /// A node at 10.0.x.y by its number, 1 for the first.
    #[must_use]
    pub fn numbered(number: u16) -> NodeConfig {
        let [high, low] = number.to_be_bytes();
        NodeConfig { name: format!("node {number}"), address: IpAddr::V4(Ipv4Addr::new(10, 0, high, low)) }
    }
}

/// What lives and dies with one process.
pub(crate) struct ProcessState {
    pub(crate) id: u32,
    /// Cleared the moment it dies: nothing it does later has an effect.
    pub(crate) alive: Cell<bool>,
    pub(crate) paused: Cell<bool>,
    /// It dies of a loss of power, not of a kill.
    power: Cell<bool>,
    /// Stores to regions that still take effect.
    stores_left: Cell<Option<u64>>,
}

impl StoreHook for ProcessState {
    fn alive(&self) -> bool {
        match self.stores_left.get() {
            Some(0) => self.alive.set(false),
            Some(left) => self.stores_left.set(Some(left - 1)),
            None => {}
        }
        self.alive.get()
    }
}

/// A disk opened by a process; dropping it gives the disk free.
pub(crate) struct Claim {
    pub(crate) world: u64,
    pub(crate) disk: u32,
    pub(crate) process: u32,
    pub(crate) writable: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.writable
            && let Some(shared) = world::find(self.world)
        {
            shared.disk_release(self.disk, self.process);
        }
    }
}

struct Process {
    state: Rc<ProcessState>,
    cores: Vec<u32>,
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    random: Random,
    /// Switched on. Off from a loss of power to the next launch.
    pub(crate) up: bool,
    boot: u64,
    wall_offset_us: i64,
    regions: BTreeMap<String, Rc<Vec<AtomicU64>>>,
    process: Option<Process>,
    signals: VecDeque<u32>,
    signal_waiters: VecDeque<(u32, OperationId)>,
    pub(crate) next_port: u16,
}

impl Node {
    pub(crate) fn new(config: NodeConfig, random: Random) -> Node {
        Node {
            name: config.name,
            address: config.address,
            random,
            up: true,
            boot: 0,
            wall_offset_us: 0,
            regions: BTreeMap::new(),
            process: None,
            signals: VecDeque::new(),
            signal_waiters: VecDeque::new(),
            next_port: 32_768,
        }
    }
}

impl Shared {
    pub(crate) fn wall_us(&self, node: u32) -> u64 {
        let offset = self.nodes.borrow()[node as usize].wall_offset_us;
        (self.config.wall_start_us + self.now() / 1000).saturating_add_signed(offset)
    }

    pub(crate) fn boot_id(&self, node: u32) -> [u8; 16] {
        let nodes = self.nodes.borrow();
        let node = &nodes[node as usize];
        let mut random = node.random.fork("boot", node.boot);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&random.bits().to_le_bytes());
        id[8..].copy_from_slice(&random.bits().to_le_bytes());
        id
    }

    pub(crate) fn region(
        &self,
        node: u32,
        process: &Rc<ProcessState>,
        name: &str,
        bytes: usize,
    ) -> Result<Region, RegionError> {
        if bytes == 0 || !bytes.is_multiple_of(64) {
            return Err(RegionError {
                name: name.to_owned(),
                bytes,
                what: "not a multiple of 64 bytes".to_owned(),
                mend: "round it up".to_owned(),
            });
        }
        let count = bytes / 8;
        let mut nodes = self.nodes.borrow_mut();
        let regions = &mut nodes[node as usize].regions;
        let known = regions.get(name).filter(|words| words.len() == count).cloned();
        let existed = known.is_some();
        let words = known.unwrap_or_else(|| {
            let words: Rc<Vec<AtomicU64>> = Rc::new((0..count).map(|_| AtomicU64::new(0)).collect());
            regions.insert(name.to_owned(), Rc::clone(&words));
            words
        });
        let hook = Rc::clone(process) as Rc<dyn StoreHook>;
        // SAFETY: the vector has `count` words, is never resized and lives as long as its Rc.
        Ok(unsafe { Region::new(words.as_ptr(), count, existed, Some(hook), words) })
    }

    fn launch(&self, node: u32, config: &CoreConfig, start: Start) -> Result<(), LaunchError> {
        let shared = world::of(self.id);
        let refuse = |what: &str, mend: &str| LaunchError {
            name: config.name.clone(),
            what: what.to_owned(),
            mend: mend.to_owned(),
        };
        let state = {
            let mut nodes = self.nodes.borrow_mut();
            let node = &mut nodes[node as usize];
            node.up = true;
            match &node.process {
                Some(process) if process.state.alive.get() => Rc::clone(&process.state),
                Some(_) => return Err(refuse("its process is just dying", "launch it after this poll")),
                None => {
                    let id = self.next_process.get();
                    self.next_process.set(id + 1);
                    let state = Rc::new(ProcessState {
                        id,
                        alive: Cell::new(true),
                        paused: Cell::new(false),
                        power: Cell::new(false),
                        stores_left: Cell::new(None),
                    });
                    node.process = Some(Process { state: Rc::clone(&state), cores: Vec::new() });
                    state
                }
            }
        };
        let id = u32::try_from(self.cores.borrow().len()).expect("cores fit u32");
        let core = SimCore::new(&shared, id, node, &state, config, start)
            .map_err(|error| refuse(&error.to_string(), "give the simulator more memory"))?;
        self.cores.borrow_mut().push(Some(Rc::clone(&core)));
        let mut nodes = self.nodes.borrow_mut();
        nodes[node as usize].process.as_mut().expect("found or made above").cores.push(id);
        drop(nodes);
        core.wake(self);
        Ok(())
    }

    /// A core's main task has ended and nothing of it is in flight any more.
    pub(crate) fn core_ended(&self, core: &SimCore) {
        self.cores.borrow_mut()[core.id as usize] = None;
        let last = {
            let mut nodes = self.nodes.borrow_mut();
            let node = &mut nodes[core.node as usize];
            let process = node.process.as_mut().expect("an ending core has its process");
            process.cores.retain(|&id| id != core.id);
            process.cores.is_empty()
        };
        if last {
            self.bury(core.node);
        }
    }

    /// End the process of a node, if it has one: killed, cut off from power, or done.
    pub(crate) fn bury(&self, node: u32) {
        let process = {
            let mut nodes = self.nodes.borrow_mut();
            let node = &mut nodes[node as usize];
            node.signals.clear();
            node.signal_waiters.clear();
            node.process.take()
        };
        let Some(process) = process else { return };
        let state = process.state;
        let cores: Vec<Rc<SimCore>> = process.cores.iter().filter_map(|&id| self.core(id)).collect();
        let power = state.power.get();
        if !cores.is_empty() {
            self.trace.note(self.now(), Tag::Kill, u64::from(node), u64::from(power));
            if !power {
                self.fault(node, None, 0, 0, FaultKind::Kill);
            }
        }
        // First what the kernel and the devices still see, then the tasks, whose drops see a dead driver.
        state.alive.set(false);
        if power {
            self.disks_power_cut(node);
        } else {
            self.disks_process_ended(node, &process.cores);
        }
        self.network_process_ended(state.id, power);
        for core in &cores {
            self.cores.borrow_mut()[core.id as usize] = None;
        }
        for core in cores {
            core.tear_down();
        }
        self.disks_release(node, state.id);
        if power {
            self.power_off(node);
        }
    }

    fn power_off(&self, node: u32) {
        let mut nodes = self.nodes.borrow_mut();
        let node = &mut nodes[node as usize];
        node.up = false;
        node.boot += 1;
        node.regions.clear();
    }

    pub(crate) fn signal_wait(&self, node: u32, core: u32, id: OperationId) {
        self.nodes.borrow_mut()[node as usize].signal_waiters.push_back((core, id));
        self.signal_deliver(node);
    }

    pub(crate) fn signal_cancel(&self, node: u32, core: u32, id: OperationId) {
        let waiters = &mut self.nodes.borrow_mut()[node as usize].signal_waiters;
        let before = waiters.len();
        waiters.retain(|&waiter| waiter != (core, id));
        if waiters.len() < before
            && let Some(core) = self.core(core)
        {
            core.complete(self, id, Err(Errno(libc::ECANCELED)));
        }
    }

    fn signal_deliver(&self, node: u32) {
        loop {
            let mut nodes = self.nodes.borrow_mut();
            let node = &mut nodes[node as usize];
            if node.signals.is_empty() || node.signal_waiters.is_empty() {
                return;
            }
            let number = node.signals.pop_front().expect("seen above");
            let (core, id) = node.signal_waiters.pop_front().expect("seen above");
            drop(nodes);
            if let Some(core) = self.core(core) {
                core.complete(self, id, Ok(number));
            }
        }
    }
}

/// A node of the simulated world. A plain number: it may be sent anywhere, but used only on the world's thread
/// while the world lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeHandle {
    pub(crate) world: u64,
    pub(crate) node: u32,
}

impl NodeHandle {
    fn shared(&self) -> Rc<Shared> {
        world::of(self.world)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Node) -> T) -> T {
        change(&mut self.shared().nodes.borrow_mut()[self.node as usize])
    }

    fn process(&self) -> Option<Rc<ProcessState>> {
        self.with(|node| node.process.as_ref().map(|process| Rc::clone(&process.state)))
            .filter(|process| process.alive.get())
    }

    /// Start a core of this node's process and run `main` on it. The first core starts the process, and the machine
    /// if it has no power.
    ///
    /// # Errors
    /// [`LaunchError`] when the host has no memory for it, or inside the poll in which the process dies.
    pub fn launch<F, M>(&self, config: CoreConfig, main: F) -> Result<(), LaunchError>
    where
        F: FnOnce(Io) -> M + 'static,
        M: Future<Output = ()> + 'static,
    {
        self.shared().launch(self.node, &config, Box::new(move |io| Box::pin(main(io))))
    }

    fn end(&self, power: bool) {
        let shared = self.shared();
        let Some(process) = self.process() else {
            if power {
                shared.disks_power_cut(self.node);
                shared.power_off(self.node);
            }
            return;
        };
        process.alive.set(false);
        process.power.set(power);
        // A process that ends itself is torn down when its poll has returned.
        if shared.polling.get() != Some(process.id) {
            shared.bury(self.node);
        }
    }

    /// The process dies at once (SIGKILL). What it had in flight is done, not done, or done in part.
    pub fn kill(&self) {
        self.end(false);
    }

    /// The process dies in place of its store number `count` + 1 to shared memory, counted from now.
    pub fn kill_after_stores(&self, count: u64) {
        if let Some(process) = self.process() {
            process.stores_left.set(Some(count));
        }
    }

    /// The machine loses power: process, shared memory and unflushed writes are gone, connections fall silent. It is
    /// off until a core is launched.
    pub fn power_cut(&self) {
        self.shared().trace.note(self.shared().now(), Tag::PowerCut, u64::from(self.node), 0);
        self.end(true);
    }

    /// Stop the process (SIGSTOP). Devices and network go on.
    pub fn pause(&self) {
        if let Some(process) = self.process() {
            let shared = self.shared();
            shared.fault(self.node, None, 0, 0, FaultKind::Pause);
            shared.trace.note(shared.now(), Tag::Pause, u64::from(self.node), 0);
            process.paused.set(true);
        }
    }

    /// Let a stopped process go on (SIGCONT).
    pub fn resume(&self) {
        let shared = self.shared();
        let Some(process) = self.process() else { return };
        if process.paused.replace(false) {
            shared.trace.note(shared.now(), Tag::Resume, u64::from(self.node), 0);
            let cores = self.with(|node| node.process.as_ref().map(|process| process.cores.clone()));
            for core in cores.into_iter().flatten().filter_map(|id| shared.core(id)) {
                core.resume(&shared);
            }
        }
    }

    /// Send the process a signal. It stays pending until a core asks for it; the same signal twice is one.
    pub fn signal(&self, signal: Signal) {
        let shared = self.shared();
        if self.process().is_none() {
            return;
        }
        let number = match signal {
            Signal::Terminate => libc::SIGTERM,
            Signal::Reload => libc::SIGHUP,
        }
        .cast_unsigned();
        shared.trace.note(shared.now(), Tag::Signal, u64::from(self.node), u64::from(number));
        self.with(|node| {
            if !node.signals.contains(&number) {
                node.signals.push_back(number);
            }
        });
        shared.signal_deliver(self.node);
    }

    /// Whether a process runs here.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process().is_some()
    }

    /// Whether the process is stopped.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.process().is_some_and(|process| process.paused.get())
    }

    /// Name given at the start.
    #[must_use]
    pub fn name(&self) -> String {
        self.with(|node| node.name.clone())
    }

    /// Its address on the network.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.with(|node| node.address)
    }

    /// Index in the order in which nodes were added, as in [`Fault::node`](super::Fault).
    #[must_use]
    pub fn index(&self) -> u32 {
        self.node
    }

    /// Its disk of this name.
    #[must_use]
    pub fn disk(&self, name: &str) -> Option<DiskHandle> {
        let shared = self.shared();
        let disks = shared.disks.borrow();
        let index = disks.iter().position(|disk| disk.node == self.node && disk.name == name)?;
        Some(DiskHandle { world: self.world, disk: u32::try_from(index).expect("disks fit u32") })
    }

    /// How far this node's wall clock is off, in microseconds.
    #[must_use]
    pub fn wall_offset_us(&self) -> i64 {
        self.with(|node| node.wall_offset_us)
    }

    /// Set how far this node's wall clock is off, in microseconds.
    pub fn set_wall_offset(&self, offset_us: i64) {
        self.with(|node| node.wall_offset_us = offset_us);
    }

    /// Let this node's wall clock jump by so many microseconds.
    pub fn jump_wall(&self, delta_us: i64) {
        self.with(|node| node.wall_offset_us = node.wall_offset_us.saturating_add(delta_us));
    }

    /// Words of a shared region as they stand, for checkers; `None` when it does not exist.
    #[must_use]
    pub fn region_words(&self, name: &str) -> Option<Vec<u64>> {
        self.with(|node| {
            let words = node.regions.get(name)?;
            // Relaxed: the world has one thread.
            Some(words.iter().map(|word| word.load(std::sync::atomic::Ordering::Relaxed)).collect())
        })
    }

    /// Flip bits of a word of a shared region: the machine's memory has failed. False when there is no such word.
    pub fn flip_region_bits(&self, name: &str, word: usize, bits: u64) -> bool {
        self.with(|node| {
            let word = node.regions.get(name).and_then(|words| words.get(word));
            // Relaxed: the world has one thread.
            word.is_some_and(|word| {
                word.fetch_xor(bits, std::sync::atomic::Ordering::Relaxed);
                true
            })
        })
    }
}
