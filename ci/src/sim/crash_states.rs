//! Every state that a loss of power may leave on the disk of a node, opened by a node.
//!
//! One short life is recorded, on a disk that has had an earlier one, from the first write of its format on: format anew,
//! start, writes from several lanes, drain, start, writes, kill, start, writes. For each point between two completions, each legal state of the sectors that were
//! not yet durable (all of them where they are few, samples elsewhere) becomes the disk of a fresh world. The node there
//! must start, show everything that was acknowledged before that point and nothing that was never sent, take another
//! write and keep all of it over another start.

use super::client::{Client, Patience, Shared, Ways};
use super::history::{Does, Fate, History, KeyIndex, Seen, StreamIndex};
use super::report::Clock;
use super::wire::{Wire, WireLimits};
use ioengine::sim::{
    CrashLimits, CrashState, DiskConfig, DiskHandle, NodeConfig as SimNode, NodeHandle, Random, Recording,
    World, WorldConfig,
};
use ioengine::{Instant, Io, Launcher, Queue};
use layout::units::{Space, Uuid};
use shard::format::{FormatPlan, format};
use shard::limits::Limits;
use shard::node::{Event, NodeConfig, start};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DISK: &str = "ssd";
const LANES: u16 = 3;
/// Writes of a lane between two ends of the process.
const WRITES: u64 = 4;
/// Undecided sectors up to which every subset is a state: a record of one block.
const SUBSET_BITS: u32 = 8;

/// What the states of one recording showed.
#[derive(Clone, Debug, Default)]
pub struct CrashReport {
    /// Legal states, without repetitions.
    pub state_count: u64,
    /// Of these, opened.
    pub opened_count: u64,
    /// Of these, from the middle of the format: no node may start from them, or an empty one.
    pub unformatted_count: u64,
    /// What is wrong, at most a few of them in full.
    pub violations: Vec<String>,
    /// Processor seconds.
    pub cpu_s: f64,
}

/// What a seed means here.
struct Setting {
    seed: u64,
    core_count: u16,
    block_bytes: u32,
    limits: Limits,
    canaries: Vec<String>,
}

/// What was recorded.
struct Recorded {
    recording: Recording,
    formatted: Instant,
    history: History,
}

/// A node in a world of its own.
struct Stage {
    world: World,
    store: NodeHandle,
    clients: NodeHandle,
    disk: DiskHandle,
    config: NodeConfig,
    events: Arc<Mutex<Vec<Event>>>,
}

/// Record the life of `seed` and open at most `limit` of the states that a crash may leave.
#[must_use]
pub fn run(seed: u64, limit: u64, canaries: &[String]) -> CrashReport {
    let clock = Clock::start();
    let random = &mut Random::new(seed).fork("crash states", 0);
    let setting = Setting {
        seed,
        core_count: 1 + random.below(2) as u16,
        block_bytes: *random.pick(&[512, 4096]),
        limits: Limits {
            memtable_bytes: 256 << 10,
            memtable_record_count_max: 1024,
            request_count_max: 64,
            version_row_count: 16,
            mark_after: Duration::from_millis(5 + random.below(50)),
            ..Limits::small()
        },
        canaries: canaries.to_vec(),
    };
    let recorded = record(&setting);
    let crash_limits = CrashLimits { subset_bits: SUBSET_BITS, sample_count: 24 };
    let states = || recorded.recording.crash_states(crash_limits, seed);
    let mut report = CrashReport { state_count: states().count() as u64, ..CrashReport::default() };
    // Evenly spread, each run of a seed its own share.
    let stride = report.state_count.div_ceil(limit.max(1)).max(1);
    let first = random.below(stride);
    for (number, state) in (0..).zip(states()).filter(|(number, _)| number % stride == first) {
        report.opened_count += 1;
        match open(&setting, &recorded, &state, number) {
            Ok(Opened::Served) => {}
            Ok(Opened::Unformatted) => report.unformatted_count += 1,
            Err(what) => {
                let cut = state.cut;
                report.violations.push(format!("seed {seed}, state {number} (cut {cut}): {what}"));
                if report.violations.len() >= 10 {
                    break;
                }
            }
        }
    }
    report.cpu_s = clock.seconds();
    report
}

impl Stage {
    fn new(setting: &Setting, seed: u64, image: Option<ioengine::sim::DiskImage>) -> Stage {
        let world =
            World::new(seed, WorldConfig { canaries: setting.canaries.clone(), ..WorldConfig::default() });
        let store = world.add_node(SimNode::numbered(1));
        let clients = world.add_node(SimNode::numbered(2));
        let shards = u64::from(setting.core_count);
        let bytes = (1 << 20) + shards * JOURNAL_BYTES + (1 << 20);
        let config = DiskConfig { block_bytes: setting.block_bytes, ..DiskConfig::new(bytes) };
        let disk = match image {
            None => world.add_disk(&store, DISK, config),
            Some(image) => world.add_disk_with(&store, DISK, config, image),
        };
        let config = NodeConfig {
            disk: DISK.to_owned(),
            listen: SocketAddr::new(store.address(), 7420),
            advertise: None,
            map: None,
            without: Vec::new(),
            versions: net::peer::PeerVersions::ALL,
            core_count: setting.core_count,
            host: ioengine::HostKind::Own,
            pin: false,
            spin_us: 0,
            limits: setting.limits.clone(),
            sink: None,
        };
        Stage { world, store, clients, disk, config, events: Arc::default() }
    }

    fn format(&self, setting: &Setting, anew: bool) {
        let wanted = FormatPlan {
            cluster: Uuid([7; 16]),
            node: 1,
            shard_count: setting.core_count,
            journal_bytes: Some(JOURNAL_BYTES),
            segment_bytes: SEGMENT_BYTES,
            recovers: false,
            anew,
        };
        self.world.block_on(&self.store, Duration::from_secs(60), move |io: Io| async move {
            let disk = io.open_disk(DISK, ioengine::disk::DiskOpen::default()).expect("the disk was added");
            format(&io, &disk, &wanted).await.expect("an honest disk can be formatted");
        });
    }

    /// Start the node and wait until it serves; else what it said.
    fn start(&self) -> Result<shard::node::Node, String> {
        self.events.lock().expect("one thread").clear();
        let events = Arc::clone(&self.events);
        let listener = Arc::new(move |event| events.lock().expect("one thread").push(event));
        let node =
            start(&Launcher::Simulated(self.store), &self.config, listener).expect("a core can be launched");
        for _ in 0..30_000 {
            self.world.run_for(Duration::from_millis(1));
            for event in self.events.lock().expect("one thread").iter() {
                match event {
                    Event::Serving(_) => return Ok(node),
                    Event::Failed(text) => return Err(text.clone()),
                    Event::Recovered { damaged_tablet_count: 0, .. } => {}
                    Event::Recovered { .. } => return Err(format!("a crash is no damage: {event:?}")),
                }
            }
        }
        Err("it neither serves nor says why".to_owned())
    }

    /// Run `work` with a client on the clients' machine.
    fn client<T: 'static, F>(
        &self,
        history: &Rc<RefCell<History>>,
        work: impl FnOnce(Rc<Client>) -> F + 'static,
    ) -> T
    where
        F: Future<Output = T> + 'static,
    {
        let (address, history) = (self.config.listen, Rc::clone(history));
        self.world.block_on(&self.clients, Duration::from_secs(600), move |io: Io| async move {
            work(client(&io, address, &history)).await
        })
    }
}

/// Journal of a shard: small, so that looking through all of it is cheap.
const JOURNAL_BYTES: u64 = 4 * SEGMENT_BYTES;
const SEGMENT_BYTES: u64 = 128 << 10;
/// The life before the recorded one, and its keys.
const OLD_LIFE: u16 = 0;
const OLD_STREAM: &[u8] = b"old";
const OLD_KEYS: u64 = 6;

fn client(io: &Io, address: SocketAddr, history: &Rc<RefCell<History>>) -> Rc<Client> {
    let limits = WireLimits {
        in_flight: 8,
        frame_bytes: 64 << 10,
        connect: Duration::from_secs(2),
        read_pause: Duration::ZERO,
    };
    let patience = Patience {
        attempt: Duration::from_secs(2),
        whole: Duration::from_secs(20),
        hangs_up: true,
        tells_log_time: true,
        insists: true,
        reads_slowly: false,
    };
    let shared = Rc::new(Shared {
        history: Rc::clone(history),
        device_failed: Cell::new(0),
        may_be_corrupt: false,
        may_begin_late: Cell::new(false),
        stop: Cell::new(false),
        busy: Cell::new(0),
    });
    let random = io.random() | 1;
    let wire = Wire::new(io.clone(), address, limits, random, Rc::clone(history));
    Rc::new(Client::new(0, io.clone(), Ways::one(wire), shared, random, patience))
}

fn record(setting: &Setting) -> Recorded {
    let stage = Stage::new(setting, setting.seed, None);
    stage.format(setting, false);
    let old = Rc::new(RefCell::new(History::new(OLD_LIFE)));
    let node = stage.start().expect("an honest disk starts");
    stage.client(&old, |client| async move {
        let stream = client.stream(Space(0), OLD_STREAM);
        for time in 0..OLD_KEYS {
            client.write(stream, &[(time, Does::Put { bytes: 20, expiry: 0 })], None).await;
        }
    });
    drop(node);
    stage.store.kill();
    let recorder = stage.disk.recorder();
    stage.format(setting, true);
    let formatted = stage.world.now();
    let history = Rc::new(RefCell::new(History::new(1)));
    for (round, end) in (0u64..).zip([true, false, false]) {
        let node = stage.start().expect("an honest disk starts");
        let seed = setting.seed;
        stage.client(&history, move |client| lanes(client, seed, round));
        if end {
            node.drain();
            stage.world.run_for(Duration::from_secs(2));
            assert!(!stage.store.is_running(), "a quiet node drains");
        } else {
            stage.store.kill();
        }
    }
    let history = history.borrow().clone();
    Recorded { recording: recorder.recording(), formatted, history }
}

/// Several lanes write at once, each to keys of its own, so that records carry more than one entry and the order of the
/// writes of a key is known.
async fn lanes(client: Rc<Client>, seed: u64, round: u64) {
    let left = Rc::new(Cell::new(LANES));
    for lane in 0..LANES {
        let (client, left) = (Rc::clone(&client), Rc::clone(&left));
        let mut random = Random::new(seed).fork("lane", round << 16 | u64::from(lane));
        let io = client.io.clone();
        io.spawn(Queue::Foreground, async move {
            let name = format!("lane-{lane}");
            let stream = client.stream(Space(0), name.as_bytes());
            for _ in 0..WRITES {
                let does = drawn(&mut random);
                client.write(stream, &does, None).await;
                client.io.sleep(Duration::from_micros(random.below(400))).await;
            }
            left.set(left.get() - 1);
        });
    }
    while left.get() > 0 {
        client.io.sleep(Duration::from_millis(1)).await;
    }
    // Now and then the journal falls quiet long enough for a mark.
    client.io.sleep(Duration::from_millis(Random::new(seed).fork("quiet", round).below(80))).await;
}

fn drawn(random: &mut Random) -> Vec<(u64, Does)> {
    let put = |random: &mut Random| {
        let bytes = if random.chance(200_000) { random.below(7_000) } else { random.below(100) };
        Does::Put { bytes: bytes.max(8) as u32, expiry: 0 }
    };
    match random.below(6) {
        0 => vec![(random.below(3), Does::Delete)],
        1 | 2 => vec![(0, put(random)), (1, put(random)), (2, Does::Delete)],
        _ => vec![(random.below(3), put(random))],
    }
}

enum Opened {
    Served,
    Unformatted,
}

/// Open one state and see that it is right.
fn open(setting: &Setting, recorded: &Recorded, state: &CrashState, number: u64) -> Result<Opened, String> {
    let crash = state.before.unwrap_or(Instant { ns: u64::MAX });
    let stage = Stage::new(setting, setting.seed ^ number << 20, Some(state.image.clone()));
    let node = match stage.start() {
        Ok(node) => node,
        Err(_) if crash <= recorded.formatted => return Ok(Opened::Unformatted),
        Err(text) => return Err(format!("it does not start: {text}")),
    };
    if crash <= recorded.formatted {
        // Cut before the format had touched anything that matters: the earlier life, whole; or the new one, empty.
        let old = stage.client(&Rc::new(RefCell::new(History::new(OLD_LIFE))), |client| async move {
            let stream = client.stream(Space(0), OLD_STREAM);
            let mut missing = 0;
            for time in 0..OLD_KEYS {
                missing += u64::from(client.get(stream, time, None).await == Ok(Seen::Absent));
            }
            missing
        });
        let whole = [0, OLD_KEYS].contains(&old);
        return if whole {
            Ok(Opened::Unformatted)
        } else {
            Err(format!("{old} of the old records are gone"))
        };
    }
    let history = Rc::new(RefCell::new(recorded.history.clone()));
    shown(&stage, &history, crash)?;
    // Every so often, life goes on: one more write, a loss of power, and everything again.
    if number.is_multiple_of(4) {
        let put = stage.client(&history, |client| async move {
            let stream = client.stream(Space(0), b"after");
            client.write(stream, &[(1, Does::Put { bytes: 30, expiry: 0 })], None).await
        });
        if !put {
            return Err("it takes no write".to_owned());
        }
        drop(node);
        stage.store.power_cut();
        stage.start().map_err(|text| format!("it does not start again: {text}"))?;
        shown(&stage, &history, crash)?;
        let stream = history.borrow_mut().keys.stream(Space(0), b"after");
        let seen = stage.client(&history, move |client| async move { client.get(stream, 1, None).await });
        if !matches!(seen, Ok(Seen::Value(..))) {
            return Err(format!("the write behind the crash is not there: {seen:?}"));
        }
    }
    Ok(Opened::Served)
}

/// Read every key that was written before the crash, and compare.
fn shown(stage: &Stage, history: &Rc<RefCell<History>>, crash: Instant) -> Result<(), String> {
    let keys: Vec<(KeyIndex, StreamIndex, u64)> = {
        let mut history = history.borrow_mut();
        let old = history.keys.stream(Space(0), OLD_STREAM);
        let _key = history.keys.key(old, 0);
        let all = (0u32..)
            .zip(&history.keys.keys)
            .map(|(number, &(stream, time))| (KeyIndex(number), stream, time));
        all.filter(|&(_, stream, _)| history.keys.facts(stream).name != b"after").collect()
    };
    let asked = keys.clone();
    let seen = stage.client(history, move |client| async move {
        let mut seen = Vec::new();
        for &(_, stream, time) in &asked {
            seen.push(client.get(stream, time, None).await);
        }
        seen
    });
    let history = history.borrow();
    if let Some((_, trouble)) = history.troubles.first() {
        return Err(trouble.to_string());
    }
    let mut places = Vec::new();
    for (&(key, ..), seen) in keys.iter().zip(seen) {
        let seen = seen.map_err(|why| format!("{} is answered {why:?}", history.keys.name(key)))?;
        places.push((key, judge(&history, key, seen, crash)?));
    }
    whole_batches(&history, &places)
}

/// What a key shows.
#[derive(Clone, Copy, Debug)]
struct Place {
    write: Option<u32>,
    certain: bool,
}

/// Which write of a key is seen, by its place among all writes, and whether that is certain: nothing is there after any
/// delete; then the last one that may be it. `None` when none is.
fn judge(history: &History, key: KeyIndex, seen: Seen, crash: Instant) -> Result<Place, String> {
    let touching: Vec<(u32, Does)> = (0u32..)
        .zip(&history.writes)
        .filter(|(_, write)| write.fate != Fate::Refused && write.at_ns.0 < crash.ns)
        .filter_map(|(number, write)| {
            let last = write.changes.iter().rev().find(|change| change.key == key)?;
            Some((number, last.does))
        })
        .collect();
    let acked = |number: u32| {
        let write = &history.writes[number as usize];
        matches!(write.fate, Fate::Acked { .. }) && write.at_ns.1 < crash.ns
    };
    let least = touching.iter().map(|one| one.0).rfind(|&number| acked(number));
    let found = match seen {
        Seen::Value(_, by) => {
            let sent = touching.iter().any(|one| one.0 == by.write);
            sent.then_some(Some(by.write)).ok_or("a write that was not yet sent")
        }
        Seen::Absent => {
            let delete =
                touching.iter().rfind(|one| one.1 == Does::Delete && Some(one.0) >= least).map(|one| one.0);
            if least.is_none() || delete.is_some() { Ok(delete) } else { Err("nothing") }
        }
        Seen::Version(_) | Seen::Short(..) => Err("no value"),
    };
    let name = || history.keys.name(key);
    let found = found.map_err(|what| format!("{} shows {what}; write {least:?} was acknowledged", name()))?;
    if found < least {
        return Err(format!("{} shows write {found:?}, and {least:?} was acknowledged", name()));
    }
    Ok(Place { write: found, certain: seen != Seen::Absent })
}

/// A batch that is seen in one of its keys is not missing, or older, in another.
fn whole_batches(history: &History, places: &[(KeyIndex, Place)]) -> Result<(), String> {
    for &(key, place) in places {
        let Place { write: Some(number), certain: true } = place else { continue };
        for change in &history.writes[number as usize].changes {
            let other = places.iter().find(|one| one.0 == change.key).and_then(|one| one.1.write);
            if other < Some(number) {
                let (one, two) = (history.keys.name(key), history.keys.name(change.key));
                return Err(format!("batch {number} is in {one} and not in {two}, which shows {other:?}"));
            }
        }
    }
    Ok(())
}

impl std::fmt::Display for CrashReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} legal states, {} opened, {} of them from the middle of a format, {} wrong, {:.1} s",
            self.state_count,
            self.opened_count,
            self.unformatted_count,
            self.violations.len(),
            self.cpu_s
        )?;
        for violation in &self.violations {
            write!(f, "\n  WRONG {violation}")?;
        }
        Ok(())
    }
}
