//! How fast a wiped node of a real group comes back: three nodes, loaded and sealed; the disk of one is formatted anew, and it is started;
//! the time until it votes on all its tablets, and until it has all sealed tables again. By files, and record by record, as a node
//! that speaks the first version of messages does; beside it, in the same round, what the file system reads and writes in a row.
//!
//! Must never measure while the group is still at work on its tables. It measures, and judges nothing.

use super::disks::{counter, votes_of};
use super::scene::{LOOK, Scene, Setup};
use super::{Options, RealError, until_signal};
use crate::sim::history::History;
use ioengine::sim::Random;
use ioengine::uring::Runtime;
use ioengine::{CoreConfig, Io, Queue};
use layout::key::Key;
use layout::units::Space;
use net::client::{Client, ClientConfig, ClientError};
use shard::limits::Limits;
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

/// Puts in flight while the group is loaded.
const LANES: u64 = 32;
/// Times that a put is tried: its fate may be unknown when a node is slow, and the same value may be put again.
const TRIES: u32 = 10;
/// Streams written to.
const STREAMS: u64 = 4096;
/// Of each record: a few make a block of a sealed table.
const VALUE_BYTES: usize = 4096;
/// The node that loses its disk.
const WIPED: usize = 2;
/// How long the group may take to seal what was loaded, and a wiped node to come back.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long nothing may change until all is sealed.
const STILL: Duration = Duration::from_secs(5);
/// Bytes that the file system is made to read and write in a row.
const ROW_BYTES: &str = "2g";

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Bytes of values to load.
    pub bytes: u64,
    /// Wiped and filled so often, in each way.
    pub rounds: u32,
    /// Whether also record by record.
    pub by_records: bool,
}

/// How a wiped node came back.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    /// Bytes of the sealed tables of a peer.
    pub sealed_bytes: u64,
    /// From the start of the process until it voted on all tablets.
    pub voted: Duration,
    /// Until it had sealed tables of as many bytes.
    pub sealed: Duration,
    /// Sealed tables that came as files, and their bytes.
    pub files: (u64, u64),
}

/// A round.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// What the disk file of a peer gives in a row, bytes per second.
    pub read: f64,
    /// What a file beside the new disk takes in a row, bytes per second.
    pub written: f64,
    /// By files.
    pub files: Filled,
    /// Record by record.
    pub records: Option<Filled>,
}

/// Loads a group, wipes one node again and again, and says how it came back.
///
/// # Errors
/// The group could not be started or loaded, or a node did not come back.
pub fn run(options: &Options, plan: &Plan, tell: &mut dyn FnMut(&Round)) -> Result<(), RealError> {
    let config =
        CoreConfig { arena_bytes: 64 << 20, operation_count_max: 4096, ..CoreConfig::small("load", 0) };
    let runtime = Runtime::new(config).map_err(|error| RealError::Tool(error.to_string()))?;
    let io = runtime.io().clone();
    let signals = io.signals();
    runtime.block_on(until_signal(&signals, measure(&io, options, plan, tell)))
}

fn setup() -> Setup {
    let settings = vec![
        "limits.memtable_bytes=128MiB",
        "limits.memtable_record_count_max=500000",
        "limits.block_cache_bytes=16MiB",
        "limits.sealed_cache_bytes=16MiB",
        // The values are random: nothing is gained by packing them.
        "limits.window_bytes=1MiB",
        "limits.run_level=0",
        "limits.sealed_level=0",
        "limits.sealed_dictionary_bytes=0",
        "limits.maintenance_bytes_per_second=1GiB",
        "limits.maintenance_every=1s",
        "limits.scrub_period=0s",
        "limits.verify_period=0s",
    ];
    Setup { settings, limits: Limits::default(), disk_size: "12 GiB", segment: "16 MiB", proxies: false }
}

async fn measure(
    io: &Io,
    options: &Options,
    plan: &Plan,
    tell: &mut dyn FnMut(&Round),
) -> Result<(), RealError> {
    let history = Rc::new(RefCell::new(History::new(0)));
    let mut scene = Scene::new(io, options, setup(), &history).await?;
    scene.start_all().await?;
    load(io, &scene, plan.bytes).await?;
    settled(io, &scene).await?;
    for _ in 0..plan.rounds {
        let file = options.folder.join("row.data");
        let read = in_a_row(&scene.nodes[0].disk, "read", false)?;
        let written = in_a_row(&file, "write", true)?;
        let files = fill(io, &mut scene, "2").await?;
        settled(io, &scene).await?;
        let records = if plan.by_records {
            let filled = fill(io, &mut scene, "1").await?;
            settled(io, &scene).await?;
            Some(filled)
        } else {
            None
        };
        tell(&Round { read, written, files, records });
    }
    Ok(())
}

/// Puts random values until there are enough, all of them a year old.
async fn load(io: &Io, scene: &Scene, bytes: u64) -> Result<(), RealError> {
    let endpoints: Vec<_> = scene.nodes.iter().map(|node| node.address).collect();
    let client = Client::connect(io, &endpoints, ClientConfig::default()).await;
    let client = Rc::new(client.map_err(|error| RealError::Tool(error.to_string()))?);
    let (next, busy) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(LANES)));
    let failed: Rc<RefCell<Option<ClientError>>> = Rc::default();
    let count = bytes.div_ceil(VALUE_BYTES as u64);
    for lane in 0..LANES {
        let (client, next, busy, failed) =
            (Rc::clone(&client), Rc::clone(&next), Rc::clone(&busy), Rc::clone(&failed));
        io.spawn(Queue::Foreground, async move {
            let mut random = Random::new(lane);
            let mut value = vec![0; VALUE_BYTES];
            while next.get() < count && failed.borrow().is_none() {
                let record: u64 = next.replace(next.get() + 1);
                value.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = random.bits().to_le_bytes());
                let stream = format!("stream-{}", record.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52);
                let time = 1_748_736_000_000_000 + record / STREAMS;
                let key = Key { space: Space::DEFAULT, stream: stream.as_bytes(), time };
                let mut put = client.put(key, 0, &value).await;
                for _ in 1..TRIES {
                    if put.is_err() {
                        put = client.put(key, 0, &value).await;
                    }
                }
                if let Err(error) = put {
                    *failed.borrow_mut() = Some(error);
                }
            }
            busy.set(busy.get() - 1);
        });
    }
    while busy.get() > 0 {
        io.sleep(LOOK).await;
    }
    let failed = failed.borrow_mut().take();
    failed.map_or(Ok(()), |error| Err(RealError::Tool(format!("the group cannot be loaded: {error}"))))
}

/// What a node says of itself, if it says something.
async fn status(io: &Io, scene: &Scene, node: usize) -> Option<String> {
    let ask = async {
        let client = Client::connect(io, &[scene.nodes[node].address], ClientConfig::default()).await.ok()?;
        client.status().await.ok()
    };
    io.timeout(Duration::from_secs(2), ask).await.ok().flatten()
}

/// Wait until no node works on its tables any more: bytes of tables, and of sealed ones, stay as they are, and are the same at all.
async fn settled(io: &Io, scene: &Scene) -> Result<(), RealError> {
    let until = io.now().after(PATIENCE);
    let (mut before, mut since) = (Vec::new(), io.now());
    while io.now() < until {
        let mut now = Vec::new();
        for node in 0..scene.nodes.len() {
            let status = status(io, scene, node).await.unwrap_or_default();
            let of = |name| counter(&status, name);
            now.push((of("sealed_bytes"), of("table_bytes"), of("table_written_bytes")));
        }
        let are_same = now.iter().all(|node| node.0.is_some_and(|bytes| bytes > 0) && node.0 == now[0].0);
        if now != before || !are_same {
            (before, since) = (now, io.now());
        }
        if io.now().since(since) >= STILL {
            return Ok(());
        }
        io.sleep(Duration::from_millis(200)).await;
    }
    Err(RealError::Tool(format!("the group does not come to rest: {before:?}")))
}

/// The disk of a node is lost, and a new one takes its place: how it is filled.
async fn fill(io: &Io, scene: &mut Scene, version: &str) -> Result<Filled, RealError> {
    let said = status(io, scene, 0).await.unwrap_or_default();
    let sealed_bytes = counter(&said, "sealed_bytes").unwrap_or(0);
    scene.nodes[WIPED].kill();
    scene.format_again(WIPED)?;
    scene.nodes[WIPED].set("cluster.peer_version", version);
    let began = io.now();
    scene.start(WIPED)?;
    let until = began.after(PATIENCE);
    let mut voted = None;
    while io.now() < until {
        if let Some(said) = status(io, scene, WIPED).await {
            let (held, votes) = votes_of(&said).unwrap_or((1, 0));
            if held == votes && held > 0 {
                voted = voted.or(Some(io.now().since(began)));
            }
            let of = |name| counter(&said, name).unwrap_or(0);
            if let Some(voted) = voted.filter(|_| of("sealed_bytes") >= sealed_bytes) {
                let files = (of("files_taken"), of("file_taken_bytes"));
                return Ok(Filled { sealed_bytes, voted, sealed: io.now().since(began), files });
            }
        }
        io.sleep(LOOK).await;
    }
    Err(RealError::Tool("a wiped node does not come back".to_owned()))
}

/// What fio does with a file in a row, bytes per second: pieces of 1 MiB, eight at a time, by direct I/O.
fn in_a_row(file: &Path, rw: &str, is_own: bool) -> Result<f64, RealError> {
    let mut command = Command::new("fio");
    command.args(["--name=row", "--bs=1M", "--iodepth=8", "--ioengine=io_uring", "--direct=1"]);
    command.args([&format!("--filename={}", file.display()), &format!("--rw={rw}")]);
    command.args([&format!("--size={ROW_BYTES}"), "--output-format=json"]);
    if is_own {
        command.args(["--unlink=1", "--end_fsync=1"]);
    }
    let output = command.output().map_err(RealError::io("fio"))?;
    let said = || RealError::Tool(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)));
    let text: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|_| said())?;
    text["jobs"][0][rw]["bw_bytes"].as_f64().filter(|rate| *rate > 0.0).ok_or_else(said)
}
