//! What a seed means: everything about a run of one node, drawn before it begins. Swarm: each seed has its own subset of
//! operations, faults and bounds, and its own strengths, so that rare combinations come up.

use super::client::Patience;
use ioengine::sim::{DiskConfig, DiskLatency, Random, WorldConfig};
use layout::zone::HEADER_AREA_BYTES;
use shard::journal::record_bytes;
use shard::limits::Limits;
use std::ops::Range;
use std::time::Duration;

/// How many nodes there are, and what may happen to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// One node; its disk fails, is slow, full or torn by a crash. Nothing acknowledged is lost.
    Honest,
    /// One node; its disk rots, loses writes and puts them elsewhere. No wrong value is ever returned.
    Lying,
    /// A group of nodes, to which happens what the atlas says must be survived. Nothing acknowledged is lost, and it goes on.
    Cluster,
    /// A group of nodes, to which anything happens. Nothing wrong is ever returned.
    ClusterUnsafe,
    /// Three cold nodes, of which one's disks may lie. What all three have sealed is there.
    Cold,
    /// A group of nodes, before three cold nodes to which they sink what is old: to all of them happens what must be survived.
    Sink,
}

impl Mode {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Honest => "honest",
            Mode::Lying => "lying",
            Mode::Cluster => "cluster",
            Mode::ClusterUnsafe => "cluster-unsafe",
            Mode::Cold => "cold",
            Mode::Sink => "sink",
        }
    }

    /// All of them.
    pub const ALL: [Mode; 6] =
        [Mode::Honest, Mode::Lying, Mode::Cluster, Mode::ClusterUnsafe, Mode::Cold, Mode::Sink];

    /// Whether it is about several nodes.
    #[must_use]
    pub fn is_cluster(self) -> bool {
        matches!(self, Mode::Cluster | Mode::ClusterUnsafe | Mode::Sink)
    }
}

/// How often each operation comes, in relation to the others.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub(crate) put: u64,
    pub(crate) delete: u64,
    pub(crate) compare_and_set: u64,
    pub(crate) batch: u64,
    pub(crate) get: u64,
    pub(crate) get_if_newer: u64,
    pub(crate) multi_get: u64,
    pub(crate) scan: u64,
    pub(crate) head: u64,
    pub(crate) streams: u64,
    pub(crate) other: u64,
}

/// How the times of a stream's records lie. Number 0, 1, .. of a stream is a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    /// All in one day long ago, close together and far apart.
    OneDay,
    /// A record every so many microseconds, from long ago on.
    Apart(u64),
    /// The same back from this time, which lies ahead of the first of the clock.
    Back { from: u64, apart: u64 },
}

impl Times {
    /// A time.
    pub(crate) fn of(self, number: u64) -> u64 {
        match self {
            // Far apart and close together.
            Times::OneDay if number.is_multiple_of(3) => number * 1_000_000_007,
            Times::OneDay => number,
            Times::Apart(apart) => number * apart,
            Times::Back { from, apart } => from.saturating_sub(number * apart),
        }
    }
}

/// What clients do.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) weights: Weights,
    /// Every lane does so many operations in a row, all lanes together, and then rests.
    pub(crate) burst: u64,
    /// From one burst to the next, in microseconds.
    pub(crate) period_us: u64,
    /// Longest pause between two operations of a burst, in microseconds.
    pub(crate) gap_us: u64,
    pub(crate) hot_stream_count: u64,
    pub(crate) cold_stream_count: u64,
    pub(crate) hot_time_count: u64,
    pub(crate) cold_time_count: u64,
    /// How the times of records lie.
    pub(crate) times: Times,
    /// Chance of a hot stream, in parts per million.
    pub(crate) hot_ppm: u32,
    /// Largest value, in bytes.
    pub(crate) value_bytes_max: u64,
    /// Chance that a put has an expiry, in parts per million.
    pub(crate) expiry_ppm: u32,
    /// How far ahead expiries lie, in microseconds.
    pub(crate) expiry_us: Range<u64>,
}

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    Kill,
    KillInStores,
    PowerCut,
    Drain,
    Pause,
    ClockJump,
    DiskSlow,
    DiskStall,
    DiskFull,
    DiskErrors,
    Partition,
    LinkBad,
    Hostile,
    Rot,
    RotSuperblock,
    Unreadable,
    LoseWrites,
    MisdirectWrites,
    IgnoreFlushes,
    /// Writes are lost, and then the node ends at once: with its memory, or without.
    LoseTail,
}

impl Trouble {
    const HONEST: [Trouble; 13] = [
        Trouble::Kill,
        Trouble::KillInStores,
        Trouble::PowerCut,
        Trouble::Drain,
        Trouble::Pause,
        Trouble::ClockJump,
        Trouble::DiskSlow,
        Trouble::DiskStall,
        Trouble::DiskFull,
        Trouble::DiskErrors,
        Trouble::Partition,
        Trouble::LinkBad,
        Trouble::Hostile,
    ];
    const LIES: [Trouble; 7] = [
        Trouble::Rot,
        Trouble::RotSuperblock,
        Trouble::Unreadable,
        Trouble::LoseWrites,
        Trouble::MisdirectWrites,
        Trouble::IgnoreFlushes,
        Trouble::LoseTail,
    ];
}

/// A run of one node.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) seed: u64,
    pub(super) mode: Mode,
    pub(super) world: WorldConfig,
    pub(super) core_count: u16,
    pub(super) disk: DiskConfig,
    pub(super) journal_bytes: u64,
    pub(super) segment_bytes: u64,
    pub(super) limits: Limits,
    pub(super) machine_count: u16,
    /// By client: machine, lanes, patience.
    pub(super) clients: Vec<(u16, u16, Patience)>,
    pub(super) load: Load,
    /// How often each kind of trouble comes, in relation to the others.
    pub(super) troubles: Vec<(Trouble, u64)>,
    /// Mean time from one trouble to the next.
    pub(super) trouble_every: Duration,
    /// Lengths of the parts with faults; before each but the first the disk is formatted anew.
    pub(super) lives: Vec<Duration>,
    /// Chance that a write of such a format is lost, in parts per million.
    pub(super) format_lost_ppm: u32,
    /// Chance that a start is cut short before it serves, or soon after, in parts per million.
    pub(super) start_cut_ppm: u32,
}

pub(super) fn ms(random: &mut Random, range: Range<u64>) -> Duration {
    Duration::from_micros(random.within(&(range.start * 1000..range.end * 1000)))
}

impl Plan {
    /// What `seed` means in `mode`.
    #[must_use]
    pub fn draw(seed: u64, mode: Mode) -> Plan {
        let root = Random::new(seed).fork(mode.name(), 0);
        let random = &mut root.fork("plan", 0);
        let mut world = WorldConfig::swarm(&mut root.fork("world", 0));
        // A sluggish network is drawn now and then, not half the time: what takes long has few operations a second.
        if !random.chance(200_000) {
            let delay = 5_000 << random.below(6);
            world.link.delay_ns = delay..delay * (2 + random.below(3));
            world.link.loss_ppm = world.link.loss_ppm.min(2_000);
        }
        let core_count = *random.pick(&[1, 1, 2, 2, 3, 4]);
        let mut limits = limits(random);
        let segment_bytes = *random.pick(&[64 << 10, 128 << 10, 256 << 10]);
        let segment_bytes = limits.record_bytes_max.next_multiple_of(64 << 10).max(segment_bytes);
        // Mostly room for a whole run; sometimes so little that it is full soon.
        let journal_bytes = (if random.chance(150_000) { 768 << 10 } else { 4 << (20 + random.below(3)) }
            / u64::from(core_count))
        .next_multiple_of(segment_bytes)
        .max(4 * segment_bytes);
        let mut disk = disk(random, u64::from(core_count) * journal_bytes);
        let machine_count = 1 + random.below(3) as u16;
        let client_count = 1 + random.below(8) as u16;
        let clients: Vec<(u16, u16, Patience)> = (0..client_count)
            .map(|number| {
                let lanes = 1 + random.below(if client_count < 3 { 4 } else { 2 }) as u16;
                let reads_slowly = random.chance(150_000);
                let patience = Patience {
                    reads_slowly,
                    attempt: ms(random, 50..2_000),
                    whole: ms(random, 1_000..8_000),
                    hangs_up: random.coin(),
                    tells_log_time: !random.chance(150_000),
                    insists: random.chance(100_000),
                };
                (number % machine_count, lanes, patience)
            })
            .collect();
        let lanes = clients.iter().map(|client| u64::from(client.1)).sum();
        scrub(seed, &mut root.fork("scrub", 0), &mut limits);
        let times = windows(&mut root.fork("windows", 0), &mut limits, world.wall_start_us);
        dictionaries(seed, &mut root.fork("dictionary", 0), &mut limits);
        if upkeep(&mut root.fork("upkeep", 0), &mut limits) {
            let zones = u64::from(core_count) * (journal_bytes + (512 << 10));
            disk.bytes = (HEADER_AREA_BYTES + zones).next_multiple_of(1 << 20);
        }
        Plan {
            seed,
            mode,
            world,
            core_count,
            disk,
            journal_bytes,
            segment_bytes,
            load: load(random, lanes, &limits, times),
            limits,
            machine_count,
            clients,
            troubles: troubles(random, mode),
            trouble_every: ms(random, 700..5_000),
            lives: match mode {
                Mode::Honest => vec![ms(random, 12_000..40_000)],
                // What lies do to a node lasts: fresh disks are worth more than long lives.
                Mode::Lying => (0..1 + random.below(4)).map(|_| ms(random, 3_000..12_000)).collect(),
                Mode::Cluster | Mode::ClusterUnsafe | Mode::Cold | Mode::Sink => {
                    panic!("it has a plan of its own")
                }
            },
            format_lost_ppm: if mode == Mode::Lying && random.coin() { 400_000 } else { 0 },
            start_cut_ppm: if random.chance(300_000) { 100_000 << random.below(3) } else { 0 },
        }
    }
}

pub(super) fn limits(random: &mut Random) -> Limits {
    let small = Limits::small();
    let staging_bytes = *random.pick(&[16 << 10, 32 << 10, 64 << 10, 64 << 10]);
    let overhead = 64 * layout::log_entry::ENTRY_HEADER_BYTES;
    let few = random.chance(200_000);
    let tight = random.chance(250_000);
    let frame_bytes_max = *random.pick(&[8 << 10, 40 << 10, 64 << 10]);
    let forward_count_max = if tight { 1 << random.below(4) } else { small.forward_count_max };
    let frame = frame_bytes_max as usize + net::frame::HEADER_BYTES;
    let memtable_steps = if random.coin() { 3 } else { 8 };
    let mut limits = Limits {
        // Mostly so small that a life has many flushes and merges.
        memtable_bytes: (4 * staging_bytes).max((64 << 10) << random.below(memtable_steps)),
        memtable_record_count_max: 1 << (11 + random.below(4)),
        block_cache_bytes: (4 << 10) << random.below(6),
        block_bytes: *random.pick(&[512, 1024, 4096]),
        run_level: random.below(3) as i32,
        merge_fan_in: 2 + random.below(4) as usize,
        reader_count: 1 + random.below(6) as usize,
        parked_count_max: 1 << random.below(7),
        waiting_bytes_max: if few { 2 * frame_bytes_max as usize } else { small.waiting_bytes_max },
        version_row_count: 1 << random.below(9),
        connection_count_max: if few { 5 } else { 64 },
        in_flight_max: 1 + random.below(16) as u32,
        frame_bytes_max,
        forward_count_max,
        ring_bytes: if tight { (frame + (8 << 10)).next_power_of_two() } else { small.ring_bytes },
        outbox_bytes_max: if tight { frame + (64 << 10) } else { small.outbox_bytes_max },
        arena_bytes: small.arena_bytes,
        staging_bytes,
        staging_count_max: if few { 16 } else { 256 },
        record_bytes_max: record_bytes(staging_bytes + overhead),
        request_count_max: *random.pick(&[16, 128, 512, 512]),
        request_horizon: Duration::from_secs(*random.pick(&[10, 60, 600])),
        request_horizon_min: Duration::from_millis(*random.pick(&[100, 1_000, 10_000])),
        recent_count: 4 << random.below(6),
        request_deadline: ms(random, 1_000..5_000),
        mark_after: ms(random, 20..500),
        drain_deadline: ms(random, 2_000..10_000),
        ..small
    };
    while tight && (Limits { arena_bytes: limits.arena_bytes / 2, ..limits.clone() }).check().is_ok() {
        limits.arena_bytes /= 2;
    }
    limits.check().expect("drawn limits hold together");
    limits
}

/// Sealed windows, drawn apart: what a seed meant before there were any stays as it was. Which times records have.
pub(super) fn windows(random: &mut Random, limits: &mut Limits, wall_start_us: u64) -> Times {
    const HOUR_US: u64 = 3_600_000_000;
    limits.seal_age = Duration::from_secs(*random.pick(&[0, 1, 3_600, 24 * 3_600, 4 * 24 * 3_600]));
    limits.window_bytes = (4 << 10) << random.below(6);
    limits.sealed_block_bytes = *random.pick(&[512, 2048, 16 << 10]);
    limits.sealed_level = random.below(4) as i32;
    limits.sealed_cache_bytes = (4 << 10) << random.below(6);
    limits.check().expect("drawn limits hold together");
    let apart = *random.pick(&[HOUR_US, 8 * HOUR_US, 30 * HOUR_US, 400 * 24 * HOUR_US]);
    match random.below(4) {
        0 => Times::OneDay,
        1 => Times::Apart(apart),
        _ => Times::Back { from: wall_start_us + 4 * HOUR_US, apart: apart.min(30 * HOUR_US) },
    }
}

/// Sealed windows with dictionaries, in one world of five, in which values have something to put into them: what the other
/// seeds meant stays as it was.
pub(super) fn dictionaries(seed: u64, random: &mut Random, limits: &mut Limits) {
    limits.sealed_dictionary_bytes = 0;
    if seed % 5 == 4 {
        limits.sealed_dictionary_bytes = *random.pick(&[300, 800, 2000]);
        limits.sealed_block_bytes = 512;
        limits.sealed_level = 1 + random.below(9) as i32;
    }
    limits.check().expect("drawn limits hold together");
}

/// A scrub that goes round many times in a life, in one world of five: what the other seeds meant stays as it was.
pub(super) fn scrub(seed: u64, random: &mut Random, limits: &mut Limits) {
    let is_on = seed % 5 == 2;
    limits.scrub_period = if is_on { ms(random, 300..6_000) } else { Duration::ZERO };
    limits.scrub_bytes_per_second = (64 << 10) << random.below(10);
    limits.check().expect("drawn limits hold together");
}

/// Bounds of what merges and seals may leave, drawn apart as well: so small that they are reached. True where
/// tables have so little room that they are full before long, and stay so.
pub(super) fn upkeep(random: &mut Random, limits: &mut Limits) -> bool {
    limits.runs_per_tablet_max = limits.merge_fan_in + 1 + random.below(12) as usize;
    limits.windows_per_tablet_max = 34 + random.below(30) as usize;
    limits.maintenance_bytes_per_second = (16 << 10) << random.below(12);
    limits.maintenance_every = Duration::from_millis(*random.pick(&[50, 500, 2_000, 60_000]));
    let is_tight = random.chance(100_000);
    if is_tight {
        // Both memtables fill, too, and wait.
        limits.memtable_bytes = (4 * limits.staging_bytes).max(64 << 10);
    }
    limits.check().expect("drawn limits hold together");
    is_tight
}

pub(super) fn disk(random: &mut Random, journals_bytes: u64) -> DiskConfig {
    let scale = *random.pick(&[1, 1, 1, 4, 20]);
    let usual = DiskLatency::default();
    DiskConfig {
        block_bytes: *random.pick(&[512, 4096]),
        volatile_cache: !random.chance(250_000),
        latency: DiskLatency {
            read_ns: usual.read_ns * scale,
            write_ns: usual.write_ns * scale,
            flush_ns: usual.flush_ns * scale * (1 + random.below(4)),
            jitter_ns: usual.jitter_ns << random.below(6),
            ..usual
        },
        // The least leaves tables so little room that flushes find none.
        ..DiskConfig::new((journals_bytes + (*random.pick(&[4, 32, 64, 64]) << 20)).next_multiple_of(1 << 20))
    }
}

pub(super) fn load(random: &mut Random, lanes: u64, limits: &Limits, times: Times) -> Load {
    // A weight that is often zero: seeds that never scan, or never delete, reach other states.
    let mut some = |most: u64| if random.chance(300_000) { 0 } else { 1 + random.below(most) };
    let weights = Weights {
        put: 20 + some(40),
        delete: some(15),
        compare_and_set: some(30),
        batch: some(15),
        get: 20 + some(50),
        get_if_newer: some(30),
        multi_get: some(10),
        scan: some(15),
        head: some(10),
        streams: some(4),
        other: some(2),
    };
    let burst = 1 + random.below(5);
    let per_second = 60 + random.below(60);
    let longest = 2 << random.below(6);
    Load {
        weights,
        burst,
        period_us: lanes * burst * 1_000_000 / per_second,
        gap_us: *random.pick(&[1, 50, 500, 3_000]),
        hot_stream_count: 1 + random.below(4),
        cold_stream_count: 1 + random.below(60),
        times,
        hot_time_count: 1 + random.below(6),
        cold_time_count: 1 + random.below(40),
        hot_ppm: 200_000 + 100_000 * random.below(8) as u32,
        value_bytes_max: if random.chance(200_000) {
            (limits.staging_bytes as u64 / 2).min(32 << 10)
        } else {
            16 * longest
        },
        expiry_ppm: if random.coin() { 0 } else { 50_000 << random.below(4) },
        expiry_us: 0..200_000 << random.below(7),
    }
}

fn troubles(random: &mut Random, mode: Mode) -> Vec<(Trouble, u64)> {
    let mut list = Vec::new();
    for trouble in Trouble::HONEST {
        if random.coin() {
            list.push((trouble, 1 + random.below(8)));
        }
    }
    if mode == Mode::Lying {
        let lies = random.below(Trouble::LIES.len() as u64) as usize;
        list.push((Trouble::LIES[lies], 4 + random.below(8)));
        for trouble in Trouble::LIES {
            if random.chance(300_000) {
                list.push((trouble, 1 + random.below(6)));
            }
        }
    }
    // Every seed has some way to begin again.
    let way = *random.pick(&[Trouble::Kill, Trouble::PowerCut, Trouble::PowerCut, Trouble::Drain]);
    list.push((way, 3));
    list
}
