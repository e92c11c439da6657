//! `thermocline dev`: a group of nodes in one process, or one alone, on file-backed disks that it makes.
//!
//! Must never leave a disk under its name that is not formatted: all are made beside their names and renamed when the last one is
//! done. Invariant: the disks of a folder belong to one cluster, and all of its nodes are started or none.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use layout::units::Uuid;
use shard::cold::ColdNodeLimits;
use shard::cold::open::ColdFormat;
use shard::format::FormatPlan;
use shard::limits::Limits;
use std::time::Duration;

use crate::config::cluster::{Cluster, member};
use crate::config::cold::Cold;
use crate::config::sink::Sink;
use crate::config::{Role, Settings};
use crate::disk::{self, Offline};
use crate::failure::{Exit, Failure};
use crate::units::size_argument;
use crate::{doctor, file, node};

/// Shards of a disk made here, at most: a trial needs no more, and each lays out memory.
const SHARD_COUNT_MAX: u16 = 4;
/// Shards of each of several disks: the nodes share the processors.
const SHARD_COUNT_OF_MANY: u16 = 2;
/// Part of the disk that journals take, one of this many.
const JOURNAL_SHARE: u64 = 2;
/// Journal of each shard of several disks at most: a journal is written whole when its disk is made, so that no later write waits for
/// the file system's own. The segments are no longer than a record may be.
const JOURNAL_BYTES_OF_MANY: u64 = 64 << 20;
const SEGMENT_BYTES_OF_MANY: u64 = 8 << 20;
/// Number of the first cache node.
const CACHES_FROM: u32 = 101;
/// Value rings of a cache.
const CACHE_BYTES: u64 = 64 << 20;
/// Gets of records younger than this go to the cache: a day, as most reads are of the last one.
const RECENT_US: u64 = 86_400_000_000;
/// Number of the first cold node.
const COLDS_FROM: u32 = 201;
/// Cold nodes: each holds what the others do.
const COLD_COUNT: u16 = 3;
/// Disks of each, and their size; a file of them is no larger, so that space is free again soon.
const COLD_DISKS: u16 = 2;
const COLD_DISK_BYTES: u64 = 1 << 30;
const COLD_FILE_BYTES: u64 = 16 << 20;
const COLD_GROUP: u16 = 0;
/// A record of a trial sinks soon, not after months: whoever tries wants to see it.
const SEAL_AGE: Duration = Duration::from_secs(2 * 86_400);
const SINK_AFTER: Duration = Duration::from_secs(7 * 86_400);
/// Of a trial's little data most is sealed, and little stays in memory.
const WINDOW_BYTES: usize = 256 << 10;
const MEMTABLE_BYTES: usize = 96 << 20;
const SWEEP_EVERY: Duration = Duration::from_secs(20);
const REUSE_DELAY: Duration = Duration::from_secs(60);
/// Nodes of a folder without disks.
const NODES_DEFAULT: u16 = 3;

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Nodes: 1, or a group of 3 or 5 that hold the same [default: as many as the folder has disks, 3 where it has none]
    #[arg(long, value_name = "N", value_parser = node_count)]
    nodes: Option<u16>,
    /// Where the disks are made, or found again
    #[arg(long, value_name = "DIR", default_value = "dev-data")]
    dir: PathBuf,
    /// Cache nodes before the group; a node alone has none
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=4))]
    caches: u16,
    /// Without cold nodes: windows that are old stay on the disks of the group
    #[arg(long)]
    no_cold: bool,
    /// Port on 127.0.0.1 of the first node, the others and the caches have those after it; 0 takes any that are free
    #[arg(long, value_name = "P", default_value_t = net::frame::PORT_DEFAULT)]
    port: u16,
    /// Size of each disk when it is made; its file takes room as it fills
    #[arg(long, value_name = "SIZE", value_parser = size_argument, default_value = "2 GiB")]
    disk_size: u64,
}

fn node_count(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|count| matches!(count, 1 | 3 | 5)).ok_or_else(|| "write 1, 3 or 5".to_owned())
}

/// `thermocline dev`.
///
/// # Errors
/// A disk cannot be made, a port is taken, the folder has the disks of another number of nodes, or a node failed.
pub(crate) fn run(args: &DevArgs) -> Result<Exit, Failure> {
    file::create_folder(&args.dir)?;
    let node_count = args.nodes.unwrap_or_else(|| node_count_of(&args.dir));
    let disks: Vec<PathBuf> = (1..=node_count).map(|number| disk_path(&args.dir, number)).collect();
    make_missing(args, &disks)?;
    // They go with the folder: in shared memory they would outlive it, and fill the machine's memory trial by trial.
    ioengine::uring::keep_regions_in(&args.dir);
    let cache_count = if node_count == 1 { 0 } else { args.caches };
    let cold_count = if node_count == 1 || args.no_cold { 0 } else { COLD_COUNT };
    let mut addresses = addresses(args, node_count + cache_count + cold_count)?;
    let mut caches = addresses.split_off(usize::from(node_count));
    let colds = caches.split_off(usize::from(cache_count));
    let cold_disks = make_cold(args, &disks, cold_count)?;
    let members = addresses.iter().zip(1..).map(|(address, id)| member(u32::from(id), *address, id - 1));
    let cluster = match node_count {
        1 => Cluster::default(),
        _ => Cluster {
            nodes: members.collect(),
            caches: caches.iter().zip(CACHES_FROM..).map(|(address, id)| member(id, *address, 0)).collect(),
            replicas: node_count as u8,
            recent_us: RECENT_US,
            ..Cluster::default()
        },
    };
    let node = |(path, listen): (&PathBuf, &SocketAddr)| Settings {
        disk_path: path.to_string_lossy().into_owned(),
        listen: *listen,
        cluster: cluster.clone(),
        limits: limits(node_count, cold_count > 0),
        sink: sink(&colds),
        ..Settings::default()
    };
    let cold = |(disks, listen): (&Vec<String>, &SocketAddr)| Settings {
        role: Role::Cold,
        listen: *listen,
        cold: Cold {
            disks: disks.clone(),
            peers: colds.iter().filter(|other| *other != listen).copied().collect(),
            limits: ColdNodeLimits { reuse_delay: REUSE_DELAY, ..Cold::default().limits },
            ..Cold::default()
        },
        ..Settings::default()
    };
    let cache = |listen: &SocketAddr| Settings {
        role: Role::Cache,
        cache_bytes: CACHE_BYTES,
        // It says what the map is: whoever has the ports may be another trial.
        disk_path: disks[0].to_string_lossy().into_owned(),
        listen: *listen,
        cluster: cluster.clone(),
        ..Settings::default()
    };
    let stores = disks.iter().zip(&addresses).map(node);
    let nodes: Vec<Settings> =
        stores.chain(caches.iter().map(cache)).chain(cold_disks.iter().zip(&colds).map(cold)).collect();
    node::run(&nodes, &[], |address| crate::output::note!("{}", next(address, &disks, &caches, &colds)))
}

/// As many as the folder has disks, counted from what an earlier start has named or was about to name.
fn node_count_of(folder: &Path) -> u16 {
    let is_there = |number: &u16| file::exists(&disk_path(folder, *number));
    let highest =
        (1..=5).rev().find(|number| is_there(number) || file::exists(&part(&disk_path(folder, *number))));
    match highest.filter(|_| (1..=5).any(|number| is_there(&number))) {
        None => NODES_DEFAULT,
        Some(1) => 1,
        Some(2 | 3) => 3,
        Some(_) => 5,
    }
}

fn disk_path(folder: &Path, number: u16) -> PathBuf {
    folder.join(format!("disk-{number}.img"))
}

/// Bounds of a core: those of a node that has the machine for itself, or its part of them.
fn limits(nodes: u16, sinks: bool) -> Limits {
    let all = match sinks {
        true => Limits {
            seal_age: SEAL_AGE,
            sweep_every: SWEEP_EVERY,
            window_bytes: WINDOW_BYTES,
            memtable_bytes: MEMTABLE_BYTES,
            ..Limits::default()
        },
        false => Limits::default(),
    };
    match nodes {
        1 => all,
        _ => Limits {
            memtable_bytes: all.memtable_bytes / 4,
            memtable_record_count_max: all.memtable_record_count_max / 4,
            block_cache_bytes: all.block_cache_bytes / 4,
            sealed_cache_bytes: all.sealed_cache_bytes / 4,
            // It stays in memory, used or not.
            arena_bytes: all.arena_bytes * 3 / 8,
            ..all
        },
    }
}

/// Where windows of a trial go.
fn sink(colds: &[SocketAddr]) -> Sink {
    match colds {
        [] => Sink::default(),
        _ => Sink { nodes: colds.to_vec(), group: COLD_GROUP, disks: COLD_DISKS, after: SINK_AFTER },
    }
}

/// The disks of each cold node; those that are not there are made and formatted, under other names until they are.
fn make_cold(args: &DevArgs, disks: &[PathBuf], count: u16) -> Result<Vec<Vec<String>>, Failure> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let cluster = disk::superblock(&disks[0].to_string_lossy())?.cluster;
    let mut all = Vec::new();
    for node in 0..count {
        let mut own = Vec::new();
        for number in 0..COLD_DISKS {
            let path = args.dir.join(format!("cold-{}-{number}.img", node + 1));
            if !file::exists(&path) {
                let part = part(&path);
                let name = part.to_string_lossy().into_owned();
                if !file::exists(&part) {
                    disk::create_thin_file(&name, COLD_DISK_BYTES)?;
                }
                let plan = ColdFormat {
                    cluster,
                    node: COLDS_FROM + u32::from(node),
                    group: COLD_GROUP,
                    disk: number,
                    file_bytes: COLD_FILE_BYTES,
                    file_count_max: u32::MAX,
                    fills: false,
                    anew: true,
                };
                disk::format_cold_offline(&Offline::open(&name, false)?, &plan)?;
                file::rename(&part, &path)?;
            }
            own.push(path.to_string_lossy().into_owned());
        }
        all.push(own);
    }
    Ok(all)
}

/// Where each node listens. The map of a group names the ports before anybody listens on them, so free ones are looked for.
fn addresses(args: &DevArgs, node_count: u16) -> Result<Vec<SocketAddr>, Failure> {
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    if node_count == 1 {
        return Ok(vec![at(args.port)]);
    }
    if args.port == 0 {
        let runtime = disk::runtime()?;
        let listen = |_| runtime.io().listen(at(0)).map_err(|error| Failure::failed(error.to_string(), ""));
        let listeners = (0..node_count).map(listen).collect::<Result<Vec<_>, _>>()?;
        return Ok(listeners.iter().map(|listener| listener.address()).collect());
    }
    let ports = (0..node_count).map(|place| args.port.checked_add(place).map(at));
    ports.collect::<Option<_>>().ok_or_else(|| {
        let what = format!("--port {}: {} nodes need as many ports from there", args.port, node_count);
        Failure::wrong_use(what, "name a lower port")
    })
}

/// Makes and formats the disks under other names, then gives them their own.
fn make_missing(args: &DevArgs, disks: &[PathBuf]) -> Result<(), Failure> {
    let there = disks.iter().filter(|path| file::exists(path)).count();
    let missing: Vec<(&PathBuf, u16)> =
        disks.iter().zip(1..).filter(|(path, _)| !file::exists(path)).collect();
    // Half renamed: an earlier start was ended between the last disk made and the last one named.
    let half = there > 0 && missing.iter().all(|(path, _)| file::exists(&part(path)));
    let more = file::exists(&disk_path(&args.dir, disks.len() as u16 + 1));
    if more || (there > 0 && !missing.is_empty() && !half) {
        let dir = args.dir.display();
        return Err(Failure::wrong_use(
            format!("{dir} has the disks of another number of nodes than {}", disks.len()),
            "say --nodes as when they were made, or another --dir",
        ));
    }
    let mut cluster = match there {
        0 => None,
        _ => Some(disk::superblock(&disks[0].to_string_lossy())?.cluster),
    };
    for (path, number) in &missing {
        cluster = Some(make(path, args, (*number, disks.len()), cluster)?);
    }
    for (path, _) in &missing {
        file::rename(&part(path), path)?;
    }
    Ok(())
}

fn part(path: &Path) -> PathBuf {
    path.with_extension("img.part")
}

/// Makes and formats disk `number` of `count`.
fn make(
    path: &Path,
    args: &DevArgs,
    (number, count): (u16, usize),
    cluster: Option<Uuid>,
) -> Result<Uuid, Failure> {
    let part = part(path);
    let (name, bytes) = (part.to_string_lossy().into_owned(), args.disk_size);
    crate::output::note!("making a disk of {} in {}", crate::units::size_text(bytes), path.display());
    if !file::exists(&part) {
        disk::create_thin_file(&name, bytes)?;
    }
    // Claims the file: what an earlier start left half made is ours, what another one makes right now is not.
    let offline = Offline::open(&name, false)?;
    let (shards_max, journal_bytes_max, segment_bytes) = match count {
        1 => (SHARD_COUNT_MAX, u64::MAX, disk::SEGMENT_BYTES),
        _ => (SHARD_COUNT_OF_MANY, JOURNAL_BYTES_OF_MANY, SEGMENT_BYTES_OF_MANY),
    };
    let shard_count = doctor::processor_count().min(shards_max);
    let journal_bytes = offline.geometry().bytes / JOURNAL_SHARE / u64::from(shard_count);
    let cluster = cluster.unwrap_or_else(|| disk::new_cluster(&offline));
    let plan = FormatPlan {
        cluster,
        node: u32::from(number),
        shard_count,
        journal_bytes: Some(journal_bytes.min(journal_bytes_max)),
        segment_bytes,
        // Disks are made for a folder that has none.
        recovers: false,
        anew: true,
    };
    disk::format_offline(&offline, &plan)?;
    Ok(cluster)
}

/// What to type next.
fn next(address: &str, disks: &[PathBuf], caches: &[SocketAddr], colds: &[SocketAddr]) -> String {
    let endpoint = if address == crate::config::LISTEN_DEFAULT {
        String::new()
    } else {
        format!(" --endpoint {address}")
    };
    let disks: Vec<String> = disks.iter().map(|path| path.display().to_string()).collect();
    let many = if disks.len() > 1 { "disks" } else { "disk" };
    let caches: Vec<String> = caches.iter().map(|cache| format!(", a cache on {cache}")).collect();
    let colds = match colds.len() {
        0 => String::new(),
        count => format!(", {count} cold nodes that take what is older than a week"),
    };
    let caches = caches.concat() + &colds;
    format!(
        "serving on {address}{caches}, {many} {}. In another terminal:\n\
         \x20 thermocline put alice 2026-11-20T08:00:00Z \"first light\"{endpoint}\n\
         \x20 thermocline get alice 2026-11-20T08:00:00Z{endpoint}\n\
         \x20 thermocline import tools/sample/commits-sample.ndjson.zst{endpoint}\n\
         \x20 thermocline export --out all.ndjson{endpoint}\n\
         \x20 thermocline status{endpoint}\n\
         \x20 thermocline map show{endpoint}\n\
         Ctrl-C ends it; the next start finds everything.",
        disks.join(", ")
    )
}
