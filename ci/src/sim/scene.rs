//! The stage: a world with one store node on one formatted disk, machines for clients, and one for the hostile. Starts
//! and ends the node, and knows what it said of itself.

use super::history::History;
use super::lies;
use super::plan::Plan;
use ioengine::sim::{
    DiskConfig, DiskHandle, DiskImage, NodeConfig as SimNode, NodeHandle, World, WorldConfig,
};
use ioengine::{Instant, Io, Launcher};
use layout::superblock::{COPY_COUNT, SUPERBLOCK_BYTES, Superblock, choose, copy_offset};
use layout::units::Uuid;
use shard::format::{FormatPlan, format};
use shard::node::{Event, Node, NodeConfig, start};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Name of the node's disk.
pub(super) const DISK: &str = "ssd";
pub(super) const PORT: u16 = 7420;

/// How one life of the node's process ended, or that it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// No process.
    Down,
    /// It recovers.
    Starting,
    /// It serves.
    Serving,
}

/// A world with a store node.
pub(super) struct Scene {
    pub(super) world: World,
    pub(super) store: NodeHandle,
    pub(super) machines: Vec<NodeHandle>,
    pub(super) hostile: NodeHandle,
    pub(super) disk: DiskHandle,
    pub(super) config: NodeConfig,
    pub(super) history: Rc<RefCell<History>>,
    /// When the disk was formatted.
    pub(super) formatted_at: Instant,
    /// What each start found on the disk, where lies may have shortened it.
    pub(super) found: Vec<lies::Found>,
    /// What shared memory has known since the last loss of power, whatever processes made of it.
    pub(super) remembered: lies::Remembered,
    events: Arc<Mutex<Vec<Event>>>,
    node: Option<Node>,
}

pub(super) fn format_plan(plan: &Plan, anew: bool) -> FormatPlan {
    FormatPlan {
        cluster: Uuid([7; 16]),
        node: 1,
        shard_count: plan.core_count,
        journal_bytes: Some(plan.journal_bytes),
        segment_bytes: plan.segment_bytes,
        recovers: false,
        anew,
    }
}

/// A freshly formatted disk, with its zeroed parts as never written: a thin device, on which want of space can come
/// and on which rot finds what is in use.
pub(super) fn formatted(seed: u64, config: &DiskConfig, wanted: FormatPlan) -> DiskImage {
    let world = World::new(seed, WorldConfig::default());
    let node = world.add_node(SimNode::numbered(1));
    let quick = DiskConfig { block_bytes: config.block_bytes, ..DiskConfig::new(config.bytes) };
    let disk = world.add_disk(&node, DISK, quick);
    world.block_on(&node, Duration::from_secs(60), move |io: Io| async move {
        let disk = io.open_disk(DISK, ioengine::disk::DiskOpen::default()).expect("the disk was just added");
        format(&io, &disk, &wanted).await.expect("an empty honest disk can be formatted");
    });
    let whole = disk.snapshot();
    let mut thin = DiskImage::new(whole.bytes());
    let mut page = vec![0; 4096];
    for offset in (0..whole.bytes()).step_by(page.len()).filter(|&offset| whole.is_stored(offset)) {
        whole.read(offset, &mut page);
        if page.iter().any(|&byte| byte != 0) {
            thin.write(offset, &page);
        }
    }
    thin
}

/// The superblock in force on an image, as the format says.
pub(super) fn superblock(image: &DiskImage) -> Option<Superblock> {
    let copies: Vec<_> = (0..COPY_COUNT)
        .map(|index| {
            let offset = copy_offset(index);
            let bytes = image.get(offset.0, SUPERBLOCK_BYTES);
            Superblock::decode(bytes[..].try_into().expect("one block"), offset)
        })
        .collect();
    choose(&copies.try_into().expect("four copies")).ok()
}

impl Scene {
    /// Everything is there and nothing runs.
    pub(super) fn new(plan: &Plan, canaries: Vec<String>, trace: bool) -> Scene {
        let image = formatted(plan.seed, &plan.disk, format_plan(plan, false));
        let config = WorldConfig { canaries, trace_text: trace, ..plan.world.clone() };
        let world = World::new(plan.seed, config);
        let store = world.add_node(SimNode::numbered(1));
        let machines =
            (0..plan.machine_count).map(|number| world.add_node(SimNode::numbered(2 + number))).collect();
        let hostile = world.add_node(SimNode::numbered(100));
        let disk = world.add_disk_with(&store, DISK, plan.disk.clone(), image);
        let config = NodeConfig {
            disk: DISK.to_owned(),
            listen: SocketAddr::new(store.address(), PORT),
            advertise: None,
            map: None,
            without: Vec::new(),
            versions: net::peer::PeerVersions::ALL,
            core_count: plan.core_count,
            host: ioengine::HostKind::Own,
            pin: false,
            spin_us: 0,
            limits: plan.limits.clone(),
            sink: None,
        };
        let repeats = plan.limits.sealed_dictionary_bytes > 0;
        Scene {
            world,
            store,
            machines,
            hostile,
            disk,
            config,
            history: Rc::new(RefCell::new(History::new(0).repeating(repeats))),
            formatted_at: Instant { ns: 0 },
            found: Vec::new(),
            remembered: lies::Remembered::default(),
            events: Arc::default(),
            node: None,
        }
    }

    /// Format the disk anew, for a new history. False when that fails.
    pub(super) fn format_anew(&mut self, wanted: FormatPlan) -> bool {
        assert!(!self.store.is_running(), "one process at a time");
        let formatted = self.world.block_on(&self.store, Duration::from_secs(60), move |io: Io| async move {
            match io.open_disk(DISK, ioengine::disk::DiskOpen::default()) {
                Ok(disk) => format(&io, &disk, &wanted).await.is_ok(),
                Err(_) => false,
            }
        });
        let (life, repeats) = (self.history.borrow().life + 1, self.history.borrow().repeats);
        *self.history.borrow_mut() = History::new(life).repeating(repeats);
        self.formatted_at = self.world.now();
        self.found.clear();
        self.remembered = lies::Remembered::default();
        formatted
    }

    /// Begin a start of the node.
    pub(super) fn start(&mut self) {
        assert!(!self.store.is_running(), "one process at a time");
        let order = self.history.borrow_mut().tick();
        self.history.borrow_mut().starts.push(order);
        let mut remembered = std::mem::take(&mut self.remembered);
        self.found.push(lies::look(self, order, self.formatted_at, &mut remembered));
        self.remembered = remembered;
        let events = Arc::clone(&self.events);
        events.lock().expect("one thread").clear();
        let listener = Arc::new(move |event| events.lock().expect("one thread").push(event));
        let node = start(&Launcher::Simulated(self.store), &self.config, listener);
        self.node = Some(node.expect("a simulated core can be launched"));
    }

    /// Ask the node to drain.
    pub(super) fn drain(&self) {
        if let Some(node) = &self.node {
            node.drain();
        }
    }

    pub(super) fn standing(&self) -> Standing {
        if !self.store.is_running() {
            return Standing::Down;
        }
        let events = self.events.lock().expect("one thread");
        if events.iter().any(|event| matches!(event, Event::Serving(_))) {
            Standing::Serving
        } else {
            Standing::Starting
        }
    }

    /// Why the last start failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.events.lock().expect("one thread").iter().find_map(|event| match event {
            Event::Failed(text) => Some(text.clone()),
            Event::Recovered { .. } | Event::Serving(_) => None,
        })
    }
}
