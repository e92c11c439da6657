//! What a seed means for a group of nodes: everything about a run, drawn before it begins. As `sim::plan` does for one node,
//! whose draws of bounds, disks and load are used here on generators of their own.

use super::caches::CachesPlan;
use super::colds::ColdsPlan;
use crate::sim::client::Patience;
use crate::sim::plan::{self, Load, Mode, Times};
use ioengine::sim::{DiskConfig, Random, WorldConfig};
use layout::units::Uuid;
use shard::format::FormatPlan;
use shard::limits::Limits;
use std::time::Duration;

/// Everybody's cluster.
pub(super) const CLUSTER: Uuid = Uuid([7; 16]);
/// Connections that a core takes at least: its peers must find room beside the clients.
const CONNECTIONS_MIN: usize = 32;

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// Processes of some nodes die.
    Kill,
    /// A process dies between two stores to shared memory.
    KillInStores,
    /// Some nodes lose power; often all at once.
    PowerCut,
    /// A node drains.
    Drain,
    /// Processes of some nodes stand still.
    Pause,
    /// A node's clock jumps.
    ClockJump,
    /// A node's clock is off by a little more than agreed on, or a little less.
    ClockSkew,
    DiskSlow,
    DiskStall,
    DiskFull,
    DiskErrors,
    /// The machines fall into two parts.
    Split,
    /// Nothing comes through from one node to another.
    OneWay,
    /// A node is cut off from everybody.
    Isolate,
    /// All links are bad.
    LinksBad,
    /// Each link gets delays and losses of its own.
    LinksSwarm,
    /// Rubbish from strangers.
    Hostile,
}

impl Trouble {
    const ALL: [Trouble; 17] = [
        Trouble::Kill,
        Trouble::KillInStores,
        Trouble::PowerCut,
        Trouble::Drain,
        Trouble::Pause,
        Trouble::ClockJump,
        Trouble::ClockSkew,
        Trouble::DiskSlow,
        Trouble::DiskStall,
        Trouble::DiskFull,
        Trouble::DiskErrors,
        Trouble::Split,
        Trouble::OneWay,
        Trouble::Isolate,
        Trouble::LinksBad,
        Trouble::LinksSwarm,
        Trouble::Hostile,
    ];
}

/// A store node.
#[derive(Clone, Copy, Debug)]
pub(super) struct StorePlan {
    pub(super) core_count: u16,
    pub(super) zone: u16,
    /// How far its clock is off, in microseconds.
    pub(super) skew_us: i64,
}

/// A client.
#[derive(Clone, Debug)]
pub(super) struct ClientPlan {
    pub(super) machine: u16,
    pub(super) lanes: u16,
    pub(super) patience: Patience,
    /// Which replica it asks first, in their order.
    pub(super) first: usize,
}

/// A run of a group of nodes.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) mode: Mode,
    pub(super) world: WorldConfig,
    pub(super) stores: Vec<StorePlan>,
    /// Replicas of a tablet.
    pub(super) replicas: u8,
    pub(super) disk: DiskConfig,
    /// Of each core.
    pub(super) journal_bytes: u64,
    pub(super) segment_bytes: u64,
    pub(super) limits: Limits,
    pub(super) machine_count: u16,
    pub(super) clients: Vec<ClientPlan>,
    pub(super) load: Load,
    /// Lanes that read what single replicas hold.
    pub(super) peek_every: Option<Duration>,
    /// How often each kind of trouble comes, in relation to the others.
    pub(super) troubles: Vec<(Trouble, u64)>,
    /// Mean time from one trouble to the next.
    pub(super) trouble_every: Duration,
    /// Mean time from one trouble with a disk, other than errors, to the next.
    pub(super) disk_trouble_every: Option<Duration>,
    /// Length of the part with faults.
    pub(super) life: Duration,
    /// Chance that a start is cut short before it serves, or soon after, in parts per million.
    pub(super) start_cut_ppm: u32,
    /// Cache nodes before the store, in three worlds of sixteen.
    pub(super) caches: Option<CachesPlan>,
    /// Cold nodes behind the store: in worlds of their own mode.
    pub(super) colds: Option<ColdsPlan>,
    /// Each start of a node draws which versions it speaks with the others: in one world of three.
    pub(super) mixes_versions: bool,
}

impl Plan {
    /// What `seed` means in `mode`.
    pub(super) fn draw(seed: u64, mode: Mode) -> Plan {
        let root = Random::new(seed).fork(mode.name(), 0);
        let random = &mut root.fork("plan", 0);
        let world = world(random, &mut root.fork("world", 0));
        let (stores, replicas) = stores(&mut root.fork("stores", 0));
        let mut limits = plan::limits(&mut root.fork("limits", 0));
        limits.connection_count_max = limits.connection_count_max.max(CONNECTIONS_MIN);
        // A full table of request ids is room again soon enough for the progress that peace must bring.
        limits.request_count_max = limits.request_count_max.max(128);
        limits.request_horizon_min = limits.request_horizon_min.min(Duration::from_secs(1));
        plan::scrub(seed, &mut root.fork("scrub", 0), &mut limits);
        let times = plan::windows(&mut root.fork("windows", 0), &mut limits, world.wall_start_us);
        let colds = (mode == Mode::Sink).then(|| ColdsPlan::draw(&mut root.fork("colds", 0), &mut limits));
        let times = if seed.is_multiple_of(20) && colds.is_none() {
            times
        } else {
            often_sealed(&mut root.fork("often sealed", 0), &mut limits, times)
        };
        plan::dictionaries(seed, &mut root.fork("dictionary", 0), &mut limits);
        limits.verify_period = verify_period(seed, &mut root.fork("verify", 0));
        limits.check().expect("drawn limits hold together");
        let segment_bytes = *random.pick(&[64 << 10, 128 << 10, 256 << 10]);
        let segment_bytes = limits.record_bytes_max.next_multiple_of(64 << 10).max(segment_bytes);
        let journal_bytes = (if random.chance(250_000) { 768u64 << 10 } else { 2 << (20 + random.below(2)) })
            .next_multiple_of(segment_bytes)
            .max(4 * segment_bytes);
        let core_count_max = stores.iter().map(|store| store.core_count).max().unwrap_or(1);
        let mut disk = plan::disk(&mut root.fork("disk", 0), u64::from(core_count_max) * journal_bytes);
        disk.bytes = disk.bytes.max(u64::from(core_count_max) * journal_bytes + (48 << 20));
        disk.bytes = disk.bytes.next_multiple_of(1 << 20);
        let machine_count = 1 + random.below(3) as u16;
        let clients = clients(&mut root.fork("clients", 0), machine_count);
        // The others stay what they were, those of ci/seeds.txt among them.
        let with_caches = matches!(seed % 16, 7 | 8 | 12) && mode == Mode::Cluster;
        let caches = with_caches.then(|| CachesPlan::draw(&mut root.fork("caches", 0), &limits));
        let lanes = clients.iter().map(|client| u64::from(client.lanes)).sum();
        Plan {
            seed,
            mode,
            world,
            stores,
            replicas,
            disk,
            journal_bytes,
            segment_bytes,
            load: load(&mut root.fork("load", 0), lanes, &limits, times),
            limits,
            mixes_versions: seed % 3 == 1 && colds.is_none(),
            colds,
            caches,
            machine_count,
            clients,
            peek_every: random.coin().then(|| plan::ms(random, 20..400)),
            troubles: troubles(&mut root.fork("troubles", 0)),
            trouble_every: plan::ms(random, 400..3_500),
            disk_trouble_every: disk_trouble_every(seed, mode, &mut root.fork("disk troubles", 0)),
            life: plan::ms(random, 12_000..36_000),
            start_cut_ppm: if random.chance(300_000) { 100_000 << random.below(3) } else { 0 },
        }
    }

    /// What happens is what a group must survive, and go on.
    pub(super) fn is_safe(&self) -> bool {
        self.mode != Mode::ClusterUnsafe
    }

    /// How the disk of a node is made.
    pub(super) fn format_plan(&self, store: usize, recovers: bool) -> FormatPlan {
        FormatPlan {
            cluster: CLUSTER,
            node: u32::try_from(store).expect("nodes are few") + 1,
            shard_count: self.stores[store].core_count,
            journal_bytes: Some(self.journal_bytes),
            segment_bytes: self.segment_bytes,
            recovers,
            anew: false,
        }
    }
}

/// In one world of four: what the other seeds meant stays as it was.
fn disk_trouble_every(seed: u64, mode: Mode, random: &mut Random) -> Option<Duration> {
    let every = plan::ms(random, 1_000..6_000);
    (seed % 4 == 2 || mode == Mode::ClusterUnsafe).then_some(every)
}

/// In most groups windows are sealed again and again while they are in trouble: they are small, close at once, and most records
/// go into old ones.
fn often_sealed(random: &mut Random, limits: &mut Limits, times: Times) -> Times {
    limits.seal_age = Duration::from_secs(random.below(2));
    limits.window_bytes = 1 << 10;
    let is_long_ago = times == Times::OneDay || !random.chance(100_000);
    if is_long_ago { Times::Apart(900_000_000 << random.below(7)) } else { times }
}

/// Half the worlds of one node are sluggish. Here every operation crosses the network several times: few of them are.
fn world(random: &mut Random, swarm: &mut Random) -> WorldConfig {
    let mut world = WorldConfig::swarm(swarm);
    world.poll_ns = 100..500 << random.below(5);
    if !random.chance(150_000) {
        let delay = 5_000 << random.below(6);
        world.link.delay_ns = delay..delay * (2 + random.below(3));
        world.link.loss_ppm = world.link.loss_ppm.min(2_000);
    }
    world
}

/// As for one node, but a third slower: each operation is work for three nodes or five.
/// Replicas are compared many times in a life, in one world of four: what the others meant stays as it was.
fn verify_period(seed: u64, random: &mut Random) -> Duration {
    let period = Duration::from_secs(4 << random.below(3));
    if seed % 4 == 3 { period } else { Duration::ZERO }
}

fn load(random: &mut Random, lanes: u64, limits: &Limits, times: Times) -> Load {
    let load = plan::load(random, lanes, limits, times);
    Load { period_us: load.period_us * 4 / 3, ..load }
}

/// The nodes, and how many of them hold a tablet.
fn stores(random: &mut Random) -> (Vec<StorePlan>, u8) {
    let (count, replicas) = *random.pick(&[(3, 3), (3, 3), (3, 3), (3, 3), (5, 5), (5, 3), (6, 3)]);
    let same = random.coin();
    let first_count = 1 + random.below(2) as u16;
    let skew_most = *random.pick(&[0, 1_000, 300_000, 900_000]);
    let stores = (0..count).map(|number| {
        let core_count = if same { first_count } else { 1 + random.below(2) as u16 };
        let skew = random.below(2 * skew_most + 1) as i64 - skew_most as i64;
        StorePlan { core_count, zone: number % 3, skew_us: skew / 2 }
    });
    (stores.collect(), replicas)
}

fn clients(random: &mut Random, machine_count: u16) -> Vec<ClientPlan> {
    let count = 1 + random.below(8) as u16;
    // Mostly all begin at the first replica, as the protocol says; sometimes they make replicas compete.
    let competing = random.chance(400_000);
    let client = |number: u16| {
        let lanes = 1 + random.below(if count < 3 { 4 } else { 2 }) as u16;
        let reads_slowly = random.chance(100_000);
        let patience = Patience {
            reads_slowly,
            attempt: plan::ms(random, 50..1_500),
            whole: plan::ms(random, 1_000..8_000),
            hangs_up: random.coin(),
            tells_log_time: !random.chance(150_000),
            insists: random.chance(100_000),
        };
        let first = if competing { random.index(3) } else { 0 };
        ClientPlan { machine: number % machine_count, lanes, patience, first }
    };
    (0..count).map(client).collect()
}

fn troubles(random: &mut Random) -> Vec<(Trouble, u64)> {
    let mut list = Vec::new();
    for trouble in Trouble::ALL {
        if random.coin() {
            list.push((trouble, 1 + random.below(8)));
        }
    }
    // Every seed has some way to begin again, and some way to lose touch.
    list.push((*random.pick(&[Trouble::Kill, Trouble::PowerCut, Trouble::PowerCut]), 3));
    list.push((*random.pick(&[Trouble::Split, Trouble::OneWay, Trouble::Isolate, Trouble::Pause]), 2));
    list
}
