//! A machine with cold disks in a simulated world: formatted, and started again as often as it ends.

use ioengine::disk::DiskOpen;
use ioengine::sim::{DiskArm, DiskConfig, DiskHandle, DiskLatency, NodeConfig, NodeHandle, Random, World};
use ioengine::{HostKind, Io, Launcher};
use layout::units::Uuid;
use net::cold::{ColdAnswer, ColdFilesOf, ColdKept, ColdPlace, ColdRequest};
use net::reply::Answer;
use shard::cold::open::{ColdFormat, format};
use shard::cold::{ColdConfig, ColdNode, ColdNodeLimits, start_cold};
use shard::node::Event;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Size of the files of the disks.
pub(in crate::sim) const FILE_BYTES: u64 = 256 << 10;
const PORT: u16 = 7420;

/// A machine with cold disks.
pub(in crate::sim) struct Machine {
    pub(in crate::sim) handle: NodeHandle,
    pub(in crate::sim) disks: Vec<DiskHandle>,
    /// Disks that rotted or lied.
    pub(in crate::sim) damaged: Vec<bool>,
    pub(in crate::sim) config: ColdConfig,
    running: Option<ColdNode>,
    /// Processes so far.
    pub(in crate::sim) starts: u64,
    pub(in crate::sim) events: Arc<Mutex<Vec<Event>>>,
}

/// What a machine is made of.
pub(in crate::sim) struct Made {
    pub(in crate::sim) cluster: Uuid,
    pub(in crate::sim) group: u16,
    pub(in crate::sim) number: u16,
    pub(in crate::sim) disk_count: u16,
    pub(in crate::sim) core_count: u16,
    pub(in crate::sim) limits: ColdNodeLimits,
}

/// Bounds of a small node.
pub(in crate::sim) fn limits() -> ColdNodeLimits {
    ColdNodeLimits {
        arena_bytes: 8 << 20,
        frame_bytes_max: 256 << 10,
        outbox_bytes_max: 1 << 20,
        waiting_bytes_max: 1 << 20,
        request_deadline: Duration::from_secs(3),
        repair_retry: Duration::from_millis(100),
        // Longer than trouble lasts: what a machine alone knows is lost to a disk that is filled without it.
        rebuild_alone_after: Duration::from_secs(60),
        scrub_period: Duration::ZERO,
        // Somewhat more than the disks here take.
        disk_service: Duration::from_micros(300),
        aside_min: Duration::from_millis(500),
        aside_max: Duration::from_secs(3),
        ..ColdNodeLimits::default()
    }
}

impl Machine {
    /// With freshly formatted disks; nothing runs.
    pub(in crate::sim) fn new(world: &World, made: Made, mut disk: impl FnMut() -> DiskConfig) -> Machine {
        let Made { cluster, group, number, disk_count, core_count, limits } = made;
        let handle = world.add_node(NodeConfig::numbered(number));
        let config = ColdConfig {
            node: u32::from(number),
            cluster,
            group,
            listen: SocketAddr::new(handle.address(), PORT),
            disks: (0..disk_count).map(|disk| format!("hdd{disk}")).collect(),
            peers: Vec::new(),
            core_count,
            host: HostKind::Own,
            pin: false,
            spin_us: 0,
            limits,
        };
        let damaged = vec![false; usize::from(disk_count)];
        let (disks, events) = (Vec::new(), Arc::default());
        let mut machine = Machine { handle, disks, damaged, config, running: None, starts: 0, events };
        for place in 0..disk_count {
            machine.disks.push(world.add_disk(&handle, &format!("hdd{place}"), disk()));
            machine.format(world, place, false);
        }
        machine
    }

    /// Format one of its disks, which is blank; nothing runs.
    pub(in crate::sim) fn format(&self, world: &World, disk: u16, fills: bool) {
        let name = format!("hdd{disk}");
        let wanted = ColdFormat {
            cluster: self.config.cluster,
            node: self.config.node,
            group: self.config.group,
            disk,
            file_bytes: FILE_BYTES,
            file_count_max: u32::MAX,
            fills,
            anew: false,
        };
        world.block_on(&self.handle, Duration::from_secs(600), move |io: Io| async move {
            let device = io.open_disk(&name, DiskOpen::default()).expect("the machine has it");
            format(&io, &device, &wanted).await.expect("an empty disk can be formatted");
        });
    }

    /// Tell each of a group where the others are.
    pub(in crate::sim) fn introduce(machines: &mut [Machine]) {
        let addresses: Vec<SocketAddr> = machines.iter().map(|machine| machine.config.listen).collect();
        for machine in machines {
            let own = machine.config.listen;
            machine.config.peers = addresses.iter().copied().filter(|other| *other != own).collect();
        }
    }

    pub(in crate::sim) fn start(&mut self) {
        let events = Arc::clone(&self.events);
        let listener = Arc::new(move |event| events.lock().expect("no panic with it").push(event));
        self.events.lock().expect("no panic with it").clear();
        self.starts += 1;
        let launcher = Launcher::Simulated(self.handle);
        self.running =
            Some(start_cold(&launcher, &self.config, listener).expect("a simulated core can be launched"));
    }

    pub(in crate::sim) fn heard(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.lock().expect("no panic with it").iter().any(wanted)
    }
}

/// A small disk with an arm: a hundredth of the times of a real one, so that much happens.
pub(in crate::sim) fn disk_config(random: &mut Random, file_count: u64) -> DiskConfig {
    let arm = DiskArm { settle_ns: 5_000, stroke_ns: 80_000, rotation_ns: 83_000 };
    let latency = DiskLatency { page_ns: 250, jitter_ns: 2_000, arm: Some(arm), ..DiskLatency::default() };
    let bytes = (file_count * FILE_BYTES + (320 << 10)).next_multiple_of(4096);
    DiskConfig { volatile_cache: !random.chance(200_000), latency, ..DiskConfig::new(bytes) }
}

/// All that a disk keeps and holds, by its own word; `None` when it does not say.
pub(crate) async fn list(
    way: &net::client::ColdNode,
    group: u16,
    disk: u16,
    limit: u32,
) -> Option<Vec<(ColdKept, ColdPlace)>> {
    let (mut all, mut from) = (Vec::new(), (0, 0));
    loop {
        let request = ColdRequest::List { group, disk, file: from.0, offset: from.1, limit };
        let reply = way.ask(&request).await.ok()?;
        let Answer::Cold(ColdAnswer::Listed(list)) = reply.answer() else { return None };
        all.extend(list.iter());
        match list.more {
            Some(more) => from = more,
            None => return Some(all),
        }
    }
}

/// How many files a disk has, and up to which byte those that were begun are written, by its machine's own word; `None` when it does not say.
pub(crate) async fn files(
    way: &net::client::ColdNode,
    group: u16,
    disk: u16,
) -> Option<(u32, Vec<(u32, u32)>)> {
    let (mut heads, mut from) = (Vec::new(), 0);
    loop {
        let request = ColdRequest::Files(ColdFilesOf { group, disk, file: from, limit: 0, freed: false });
        let reply = way.ask(&request).await.ok()?;
        let Answer::Cold(ColdAnswer::Files(files)) = reply.answer() else { return None };
        heads.extend(files.iter().map(|item| (item.file, item.head)));
        match files.head.more {
            Some(more) => from = more,
            None => return Some((files.head.file_count, heads)),
        }
    }
}

/// A section: file, generation, number.
type Number = (u32, u32, u32);

/// The sections that count on a disk by its file table, whether they are found or not; `None` when it does not say.
pub(crate) async fn counted(
    way: &net::client::ColdNode,
    (group, disk): (u16, u16),
) -> Option<BTreeSet<Number>> {
    let (mut counted, mut from) = (BTreeSet::new(), Some(0));
    while let Some(file) = from {
        let request = ColdRequest::Files(ColdFilesOf { group, disk, file, limit: 0, freed: true });
        let reply = way.ask(&request).await.ok()?;
        let Answer::Cold(ColdAnswer::Files(files)) = reply.answer() else { return None };
        for item in files.iter() {
            let is_freed = |number: u32| {
                item.freed.get(number as usize / 8).is_some_and(|byte| byte >> (number % 8) & 1 == 1)
            };
            let is_reserved = |number: u32| {
                item.reserved().any(|run| {
                    run.file_generation == item.generation
                        && (run.number..run.number + run.section_count).contains(&number)
                })
            };
            let numbers = (0..item.section_count).filter(|&number| !is_freed(number) && !is_reserved(number));
            counted.extend(numbers.map(|number| (item.file, item.generation, number)));
        }
        from = files.head.more;
    }
    Some(counted)
}

/// What a disk holds by its file table is what it lists; what is not the same, if anything.
pub(crate) async fn listed_is_counted(
    way: &net::client::ColdNode,
    (group, disk): (u16, u16),
    listed: &[(ColdKept, ColdPlace)],
) -> Result<(), String> {
    let sealed = |(kept, place): &(ColdKept, ColdPlace)| {
        let numbers = place.number..place.number + place.section_count;
        let is_it = *kept == ColdKept::Sealed && place.disk == disk;
        let (file, generation) = (place.file, place.file_generation);
        numbers.filter(move |_| is_it).map(move |number| (file, generation, number))
    };
    let listed: BTreeSet<Number> = listed.iter().flat_map(sealed).collect();
    let counted = counted(way, (group, disk)).await;
    let counted = counted.ok_or_else(|| format!("it does not say what counts on disk {disk}"))?;
    match counted.symmetric_difference(&listed).next() {
        None => Ok(()),
        Some((file, generation, number)) => Err(format!(
            "{} sections count on disk {disk} and {} are found, first apart in file {file}, generation {generation}, number {number}",
            counted.len(),
            listed.len()
        )),
    }
}
