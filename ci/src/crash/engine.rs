//! The real engine on a recorded device, and the checker that opens a crash state with it. Owns the child processes
//! that serve; the engine is `shard::node` on io_uring, nothing of it is replaced.
//!
//! A server here is this program run again with the verb `serve`, so that it can be killed without being asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ioengine::disk::DiskOpen;
use ioengine::uring::Runtime;
use ioengine::{CoreConfig, HostKind, Launcher};
use layout::units::{Space, Uuid};
use net::client::blocking::Client;
use net::client::{ClientConfig, Done, OwnedKey, ScanRange, Work};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;
use shard::format::{FormatPlan, format};
use shard::limits::Limits;
use shard::node::{Event, NodeConfig, start};

use super::CrashError;
use super::campaign::CrashState;
use super::device::Recorder;
use super::history::{History, KEY_COUNT, Operation, STREAM_COUNT, key_of, stream, time, value};
use super::image::Image;
use super::log::Entry;
use super::state::below;

/// Bytes of the device: small, so that a state is laid down fast and the journal goes round.
pub const DEVICE_BYTES: u64 = 32 << 20;
/// Shards, each with its journal.
const CORES: u16 = 2;
/// The mark that says the device is formatted; operations are marked with 1 and up, number + 1.
const FORMATTED: u64 = 0;
/// Operations in flight while recording.
const WINDOW: usize = 8;

/// Serves the disk at `path` on a free port of the loopback until killed; prints `ready ADDRESS`, or `failed TEXT`.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub fn serve(path: &str) -> ! {
    let config = NodeConfig {
        disk: path.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: None,
        map: None,
        without: Vec::new(),
        versions: net::peer::PeerVersions::ALL,
        core_count: CORES,
        host: HostKind::Own,
        pin: false,
        spin_us: 0,
        limits: Limits::small(),
        sink: None,
    };
    let damaged = AtomicUsize::new(0);
    let listener = move |event| match event {
        Event::Recovered { damaged_tablet_count, .. } => {
            // Relaxed: the shard that serves last has seen the others ready, through the node's own ordering.
            damaged.fetch_add(damaged_tablet_count, Ordering::Relaxed);
        }
        Event::Serving(address) => match damaged.load(Ordering::Relaxed) {
            0 => println!("ready {address}"),
            // A power cut damages nothing: it tears what was not acknowledged.
            count => println!("failed: {count} tablets are said to be damaged"),
        },
        Event::Failed(text) => println!("failed {}", text.replace('\n', " ")),
    };
    let node = start(&Launcher::Threads, &config, Arc::new(listener));
    if let Err(error) = &node {
        println!("failed {error}");
    }
    // The parent holds the other end: when it has gone, so do we.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

/// A serving child; dropped, it is killed.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts one on `path`, its shared memory in `folder`. `Err` is what it said in place of being ready.
    fn start(path: &Path, folder: &Path) -> Result<Server, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut child = Command::new(program)
            .arg("serve")
            .arg(path)
            .env(ioengine::uring::SHARED_MEMORY_VARIABLE, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut line = String::new();
        let output = child.stdout.take().expect("it is piped");
        let read = BufReader::new(output).read_line(&mut line);
        let mut server = Server { child, address: String::new() };
        match (read, line.trim().strip_prefix("ready ")) {
            (Ok(_), Some(address)) => {
                server.address = address.to_owned();
                Ok(server)
            }
            _ => Err(server.last_words(line.trim())),
        }
    }

    /// Kills it without being asked; what it said.
    fn last_words(&mut self, line: &str) -> String {
        self.kill();
        let mut words = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            let _ = errors.read_to_string(&mut words);
        }
        format!("{line} {}", words.trim().chars().take(2000).collect::<String>())
    }

    fn kill(&mut self) {
        // Both fail only where it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn client(&self) -> Result<Client, String> {
        Client::connect(&[&self.address], ClientConfig::default()).map_err(|e| e.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a recording asks of the engine.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Chooses operations and when servers die.
    pub seed: u64,
    /// Servers started one after the other; each but the last is killed without being asked.
    pub start_count: usize,
    /// Operations acknowledged under each server.
    pub operations_per_start: usize,
}

/// What the world knows at the beginning of a recording: nothing, or what a crash state of an earlier one left.
#[derive(Debug, Clone, Default)]
pub struct Before {
    /// What is on the device.
    pub image: Image,
    /// What was sent.
    pub history: History,
    /// What had been said, as marks.
    pub marks: Vec<u64>,
}

/// A recording of the engine.
#[derive(Debug)]
pub struct Recorded {
    /// What was on the device, and was known, before it.
    pub before: Before,
    /// The writes, flushes and marks.
    pub entries: Vec<Entry>,
    /// What was sent, earlier recordings included.
    pub history: History,
}

/// Runs the engine on a recorded device in `folder`, as planned. An empty device is formatted first, recorded too.
/// Errors: the harness cannot run here, or the engine refuses a device it must take.
pub fn record(folder: &Path, plan: &Plan, before: Before) -> Result<Recorded, CrashError> {
    let engine = |message: String| CrashError::Tool { command: "engine".to_owned(), message };
    let mut recorder = Recorder::start(folder, DEVICE_BYTES, &before.image)?;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(plan.seed);
    let mut history = before.history.clone();
    if before.marks.is_empty() {
        format_device(recorder.path()).map_err(engine)?;
        recorder.mark(FORMATTED)?;
    }
    let memory = shared_memory(folder)?;
    for start in 0..plan.start_count {
        let mut server = Server::start(recorder.path(), &memory).map_err(engine)?;
        let client = server.client().map_err(engine)?;
        load(&client, &mut recorder, &mut history, plan.operations_per_start, &mut random)?;
        if start + 1 < plan.start_count {
            server.kill();
        }
    }
    Ok(Recorded { before, entries: recorder.finish()?, history })
}

/// Formats the device as a node with small journals, so that zeroing them costs little in each recording.
fn format_device(path: &Path) -> Result<(), String> {
    let runtime = Runtime::new(CoreConfig::small("format", 0)).map_err(|e| e.to_string())?;
    let io = runtime.io().clone();
    let path = path.to_str().ok_or("the path of a device is text")?;
    let plan = FormatPlan {
        cluster: Uuid([7; 16]),
        node: 1,
        shard_count: CORES,
        journal_bytes: Some(2 << 20),
        segment_bytes: 256 << 10,
        recovers: false,
        anew: false,
    };
    runtime.block_on(async {
        let disk = io.open_disk(path, DiskOpen::default()).map_err(|e| e.to_string())?;
        format(&io, &disk, &plan).await.map_err(|e| e.to_string()).map(drop)
    })
}

/// Sends operations until `wanted` were acknowledged, and marks each when its answer has come. Leaves some in flight.
fn load(
    client: &Client,
    recorder: &mut Recorder,
    history: &mut History,
    wanted: usize,
    random: &mut Xoshiro256PlusPlus,
) -> Result<(), CrashError> {
    let bulk = client.bulk(WINDOW);
    let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
    let mut busy_keys: BTreeSet<usize> = BTreeSet::new();
    let mut acknowledged = 0;
    while acknowledged < wanted {
        while numbers.len() < WINDOW {
            let key = below(random, KEY_COUNT);
            if !busy_keys.insert(key) {
                continue;
            }
            let operation = Operation { key, delete: below(random, 8) == 0 };
            let number = history.push(operation);
            let owned = OwnedKey { space: Space(0), stream: stream(key), time: time(key) };
            let work = if operation.delete {
                Work::Delete(owned)
            } else {
                Work::Put { key: owned, expiry: 0, value: value(key, number) }
            };
            numbers.insert(bulk.submit(work), number);
        }
        let Some((ticket, result)) = bulk.next() else { break };
        let number = numbers.remove(&ticket).expect("each ticket comes back once");
        match result {
            Ok(_) => recorder.mark(number + 1)?,
            Err(error) => {
                let message = format!("operation {number}: {error}");
                return Err(CrashError::Tool { command: "engine".to_owned(), message });
            }
        }
        busy_keys.remove(&history.operation(number).key);
        acknowledged += 1;
    }
    Ok(())
}

/// The folder for the shared memory of a server whose machine has just been switched on: nothing is in it.
fn shared_memory(folder: &Path) -> Result<PathBuf, CrashError> {
    let memory = folder.join("shared-memory");
    let what = || format!("{}", memory.display());
    if memory.exists() {
        std::fs::remove_dir_all(&memory).map_err(CrashError::io(what()))?;
    }
    std::fs::create_dir_all(&memory).map_err(CrashError::io(what()))?;
    Ok(memory)
}

/// Opens a crash state with the engine and asks for everything, by key and by scan; then writes and reads once more.
/// `Err` says what is wrong.
pub fn check(state: &CrashState, history: &History, before: &[u64], folder: &Path) -> Result<(), String> {
    let marks: Vec<u64> = before.iter().chain(state.marks).copied().collect();
    let memory = shared_memory(folder).map_err(|e| e.to_string())?;
    let server = match Server::start(state.path, &memory) {
        Ok(server) => server,
        // A device whose format was cut off is refused; but nothing was promised on it.
        Err(words) if !marks.contains(&FORMATTED) && words.starts_with("failed ") => return Ok(()),
        Err(words) => return Err(format!("does not start: {words}")),
    };
    let client = server.client()?;
    let acknowledged: Vec<u64> =
        marks.iter().filter(|mark| **mark != FORMATTED).map(|mark| mark - 1).collect();
    let by_key = gets(&client)?;
    let complaints = history.complaints(&acknowledged, &by_key);
    if !complaints.is_empty() {
        return Err(complaints.join("; "));
    }
    if scans(&client)? != by_key {
        return Err("scans return other records than gets".to_owned());
    }
    let key = OwnedKey { space: Space(1), stream: b"afterwards".to_vec(), time: 1 };
    client.put(key.key(), 0, b"written").map_err(|e| format!("takes no writes: {e}"))?;
    match client.get(key.key()).map_err(|e| e.to_string())? {
        Some(found) if found.value == b"written" => Ok(()),
        other => Err(format!("a put after the power cut reads as {other:?}")),
    }
}

fn gets(client: &Client) -> Result<BTreeMap<usize, Vec<u8>>, String> {
    let bulk = client.bulk(32);
    let mut found = BTreeMap::new();
    let mut tickets = BTreeMap::new();
    for key in 0..KEY_COUNT {
        let owned = OwnedKey { space: Space(0), stream: stream(key), time: time(key) };
        tickets.insert(bulk.submit(Work::Get(owned)), key);
    }
    while let Some((ticket, result)) = bulk.next() {
        let key = tickets[&ticket];
        match result.map_err(|e| format!("key {key}: {e}"))? {
            Done::Found(Some(record)) => {
                found.insert(key, record.value);
            }
            Done::Found(None) => {}
            other => return Err(format!("a get was answered with {other:?}")),
        }
    }
    Ok(found)
}

fn scans(client: &Client) -> Result<BTreeMap<usize, Vec<u8>>, String> {
    let mut found = BTreeMap::new();
    for index in 0..STREAM_COUNT {
        let mut pages = client.scan(ScanRange::all(Space(0), &stream(index)));
        while let Some(page) = pages.next().map_err(|e| format!("stream {index}: {e}"))? {
            for record in page.records {
                let key = key_of(&stream(index), record.time)
                    .ok_or_else(|| format!("stream {index} has a record at time {}", record.time))?;
                if found.insert(key, record.value).is_some() {
                    return Err(format!("key {key} is scanned twice"));
                }
            }
        }
    }
    Ok(found)
}
