//! `thermocline disk list|inspect|format|replace|wipe`: what disks hold; makes a disk ours, or nobody's. Dry runs unless `--yes`.
//!
//! Must never touch a disk that is mounted, partitioned, claimed or holds anything, not even ours, unless told to by
//! name.

mod cold;
mod content;
mod list;
mod offline;
mod replace;

use std::path::Path;

use clap::{Args, Subcommand};
use layout::superblock::Superblock;
use layout::units::Uuid;
use layout::zone::{SEGMENT_BYTES_DEFAULT, ShardZones, plan};
use serde_json::json;
use shard::cold::open::ColdFormat;
use shard::format::{FormatPlan, format, wipe};

use crate::doctor;
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::units::{size_argument, size_text};
use crate::version_caches;
pub(crate) use cold::{ColdSeen, not_ours as not_cold, superblock as cold_superblock};
use content::Content;
pub(crate) use offline::{Offline, runtime};

/// Arguments of `disk`.
#[derive(Debug, Args)]
pub(crate) struct DiskArgs {
    #[command(subcommand)]
    verb: DiskVerb,
}

#[derive(Debug, Subcommand)]
enum DiskVerb {
    /// Disks of this machine, what each holds and who uses it
    List(list::ListArgs),
    /// One disk: what it says it is, and how full it is
    Inspect(list::InspectArgs),
    /// Make a disk ready for a node; says what it would do unless --yes
    Format(FormatArgs),
    /// Make a disk ready in place of one that was lost, as another machine of its group says; says what it would do unless --yes
    Replace(replace::ReplaceArgs),
    /// Take our mark from a disk, and the version caches of its shards from memory; says what it would do unless --yes
    Wipe(WipeArgs),
}

#[derive(Debug, Args)]
struct WipeArgs {
    /// Device (by its stable name, /dev/disk/by-id/...) or file
    path: String,
    /// Do it: nobody finds again what the disk holds
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct FormatArgs {
    /// Device (by its stable name, /dev/disk/by-id/...) or file
    path: String,
    /// Make the file first, of this size
    #[arg(long, value_name = "SIZE", value_parser = size_argument)]
    create: Option<u64>,
    /// Shards to cut it for, 1 to 64; fixed from then on [default: processors of this machine]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// Journal of each shard [default: a quarter of the disk for all]
    #[arg(long, value_name = "SIZE", value_parser = size_argument)]
    journal: Option<u64>,
    /// Journal segment
    #[arg(long, value_name = "SIZE", value_parser = size_argument, default_value = "16 MiB")]
    segment: u64,
    #[command(flatten)]
    cold: cold::ColdArgs,
    /// Cluster it will belong to, with --found, --recover or --cold [default: a new one]
    #[arg(long, value_name = "UUID")]
    cluster: Option<Uuid>,
    /// With --cluster: the first disk that this node ever has, in a group that is new; it votes at once
    #[arg(long, conflicts_with = "recover", requires = "cluster")]
    found: bool,
    /// With --cluster: anything else, for instance in place of a disk that died; it takes its data from the other nodes, and
    /// votes when they have let it
    #[arg(long, requires = "cluster")]
    recover: bool,
    /// Number of the node it will belong to
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    node: u32,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Do it although the disk is one of ours: what it holds is gone
    #[arg(long)]
    anew: bool,
    /// Say it as JSON
    #[arg(long)]
    json: bool,
}

/// `thermocline disk`.
///
/// # Errors
/// The disk is refused, or writing to it failed.
pub(crate) fn run(args: &DiskArgs) -> Result<Exit, Failure> {
    match &args.verb {
        DiskVerb::List(args) => list::list(args),
        DiskVerb::Inspect(args) => list::inspect(args),
        DiskVerb::Format(args) if args.cold.cold => cold::format(args),
        DiskVerb::Format(args) => format_disk(args),
        DiskVerb::Replace(args) => replace::replace(args),
        DiskVerb::Wipe(args) => wipe_disk(args),
    }
}

fn wipe_disk(args: &WipeArgs) -> Result<Exit, Failure> {
    let path = &args.path;
    let failed = |error: String| Failure::failed(error, "");
    let offline = Offline::open(path, !args.yes)?;
    match offline.content()? {
        Content::Store => {}
        Content::Cold => return wipe_cold(args, &offline),
        Content::Empty => {
            output::line(&format!("{path}: not one of ours, nothing to wipe"))?;
            return Ok(Exit::No);
        }
        Content::Foreign(what) => {
            let mend = format!("if its data may go: wipefs -a {path}");
            return Err(Failure::failed(format!("disk {path} is not ours, it holds {what}"), mend));
        }
    }
    let devices = version_caches::devices(&offline.copies());
    let named: Vec<String> = devices.iter().map(Uuid::to_string).collect();
    output::line(&format!(
        "{path}: {}, ours, device {}",
        size_text(offline.geometry().bytes),
        named.join(" and ")
    ))?;
    if !args.yes {
        output::line("nothing was wiped: say --yes to do it; nobody finds again what it holds then")?;
        return Ok(Exit::Done);
    }
    offline.run(wipe(offline.io(), offline.disk())).map_err(|error| failed(error.to_string()))?;
    let (count, bytes) = version_caches::remove(path, &devices)?;
    output::line(&format!("wiped, and {count} version caches with {} removed", size_text(bytes)))?;
    Ok(Exit::Done)
}

fn wipe_cold(args: &WipeArgs, offline: &Offline) -> Result<Exit, Failure> {
    let path = &args.path;
    let size = size_text(offline.geometry().bytes);
    output::line(&match cold::seen(offline, path) {
        Ok((of, _)) => format!(
            "{path}: {size}, ours, disk {} of cold group {} at node {} of cluster {}, device {}",
            of.disk, of.group, of.node, of.cluster, of.device
        ),
        Err(_) => format!("{path}: {size}, ours, a cold disk whose superblock is damaged"),
    })?;
    if !args.yes {
        output::line("nothing was wiped: say --yes to do it; nobody finds again what it holds then")?;
        return Ok(Exit::Done);
    }
    let count = cold::wipe(offline)?;
    output::line(&format!("wiped, {count} superblock copies cleared"))?;
    Ok(Exit::Done)
}

fn format_disk(args: &FormatArgs) -> Result<Exit, Failure> {
    let shard_count = args.shards.unwrap_or_else(doctor::processor_count);
    if args.cluster.is_some() && !args.found && !args.recover {
        return Err(Failure::wrong_use(
            "--cluster without --found or --recover: a blank disk of a node that has voted before would vote as if it never had",
            format!(
                "--found if node {0} never had a disk in this cluster and the group is new; --recover in every other case: \
                 then it takes its data from the other nodes first",
                args.node
            ),
        ));
    }
    if let (Some(bytes), true) = (args.create, args.yes) {
        create_file(&args.path, bytes)?;
    }
    let geometry = match args.create {
        Some(bytes) if !args.yes => (bytes, 4096),
        _ => {
            let offline = Offline::open(&args.path, !args.yes)?;
            refuse_content(&offline, &args.path, args.anew)?;
            (offline.geometry().bytes, offline.geometry().block_bytes)
        }
    };
    let zones = zones(&args.path, geometry.0, geometry.1, shard_count, args.journal, args.segment)?;
    let cluster = if args.yes { Some(make(args, shard_count)?) } else { args.cluster };
    say(args, shard_count, geometry.0, &zones, cluster)
}

fn zones(
    name: &str,
    bytes: u64,
    block_bytes: u32,
    shard_count: u16,
    journal: Option<u64>,
    segment: u64,
) -> Result<Vec<ShardZones>, Failure> {
    plan(bytes, block_bytes, shard_count, journal, segment)
        .map_err(|error| Failure::failed(format!("disk {name}: {error}"), ""))
}

/// Makes a file to serve as a disk.
///
/// # Errors
/// It is there already, or there is no room.
pub(crate) fn create_file(path: &str, bytes: u64) -> Result<(), Failure> {
    ioengine::uring::create_file(Path::new(path), bytes)
        .map_err(|error| Failure::failed(error.to_string(), ""))
}

/// The same, with room that is taken as it is written.
pub(crate) fn create_thin_file(path: &str, bytes: u64) -> Result<(), Failure> {
    ioengine::uring::create_thin_file(Path::new(path), bytes)
        .map_err(|error| Failure::failed(error.to_string(), ""))
}

fn make(args: &FormatArgs, shard_count: u16) -> Result<Uuid, Failure> {
    let offline = Offline::open(&args.path, false)?;
    let cluster = args.cluster.unwrap_or_else(|| new_cluster(&offline));
    let former = version_caches::devices(&offline.copies());
    let plan = FormatPlan {
        cluster,
        node: args.node,
        shard_count,
        journal_bytes: args.journal,
        segment_bytes: args.segment,
        recovers: args.recover,
        anew: args.anew,
    };
    format_offline(&offline, &plan)?;
    version_caches::remove(&args.path, &former)?;
    Ok(cluster)
}

/// A cluster that nobody else has.
pub(crate) fn new_cluster(offline: &Offline) -> Uuid {
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&offline.io().random().to_le_bytes());
    uuid[8..].copy_from_slice(&offline.io().random().to_le_bytes());
    Uuid(uuid)
}

/// Formats an open disk.
///
/// # Errors
/// The device said no, or it is formatted already and `anew` is not set.
pub(crate) fn format_offline(offline: &Offline, plan: &FormatPlan) -> Result<(), Failure> {
    let geometry = offline.geometry();
    zones(
        offline.disk().name(),
        geometry.bytes,
        geometry.block_bytes,
        plan.shard_count,
        plan.journal_bytes,
        plan.segment_bytes,
    )?;
    let formatted = offline.run(format(offline.io(), offline.disk(), plan));
    formatted.map(|_| ()).map_err(|error| Failure::failed(error.to_string(), ""))
}

/// Format a cold disk that is open.
///
/// # Errors
/// It is too small, or writing to it failed.
pub(crate) fn format_cold_offline(offline: &Offline, plan: &ColdFormat) -> Result<(), Failure> {
    let formatted = offline.run(shard::cold::open::format(offline.io(), offline.disk(), plan));
    formatted.map(|_| ()).map_err(|error| Failure::failed(error.to_string(), ""))
}

/// Default segment of a journal, bytes.
pub(crate) const SEGMENT_BYTES: u64 = SEGMENT_BYTES_DEFAULT;

fn refuse_content(offline: &Offline, path: &str, anew: bool) -> Result<(), Failure> {
    match offline.content()? {
        Content::Empty => Ok(()),
        // Not even anew: the node of a cold disk names it elsewhere.
        Content::Cold => Err(Failure::failed(
            format!("disk {path} is a cold disk"),
            format!("name another disk; if its data may go, clear it first: thermocline disk wipe {path}"),
        )),
        Content::Store if anew => Ok(()),
        Content::Store => Err(Failure::failed(
            format!("disk {path} is formatted already, or was and is damaged"),
            format!(
                "look at it with `thermocline inspect superblock {path}`; start with it; or say --anew if its data may go"
            ),
        )),
        Content::Foreign(what) => Err(refuse_foreign(path, what)),
    }
}

fn refuse_foreign(path: &str, what: &str) -> Failure {
    Failure::failed(
        format!("disk {path} holds {what}"),
        format!(
            "name another disk; if its data may go, clear it first: wipefs -a {path} && blkdiscard {path}"
        ),
    )
}

fn say(
    args: &FormatArgs,
    shard_count: u16,
    bytes: u64,
    zones: &[ShardZones],
    cluster: Option<Uuid>,
) -> Result<Exit, Failure> {
    let first = zones.first().expect("a plan has a zone per shard");
    if args.json {
        let all = json!({
            "disk": args.path, "bytes": bytes, "shards": shard_count, "journal_bytes": first.journal.bytes,
            "tables_bytes": first.tables.bytes, "segment_bytes": args.segment, "node": args.node,
            "cluster": cluster.map(|cluster| cluster.to_string()), "recovers": args.recover, "done": args.yes,
        });
        output::line(&all.to_string())?;
        return Ok(Exit::Done);
    }
    let mut out = Output::new();
    let per_shard = format!(
        "{shard_count} shards, each with a journal of {} and {} for tables",
        size_text(first.journal.bytes),
        size_text(first.tables.bytes >> 20 << 20)
    );
    let place = if args.recover { ", in place of its former disk" } else { "" };
    out.line(&format!("{}: {}, node {}{place}", args.path, size_text(bytes), args.node))?;
    out.line(&per_shard)?;
    if args.yes {
        let cluster = cluster.expect("a disk that was formatted has its cluster");
        out.line(&format!(
            "formatted for cluster {cluster}; next: thermocline serve --set disk.path={}",
            args.path
        ))?;
    } else {
        out.line("nothing was written: say --yes to do it")?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

/// What a disk says it is.
///
/// # Errors
/// It cannot be opened, or is not formatted; with the command that formats it.
pub(crate) fn superblock(path: &str) -> Result<Superblock, Failure> {
    Offline::open(path, true)?.superblock()
}
