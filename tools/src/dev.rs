//! `thermocline dev`: a node on a file-backed disk that it makes.
//!
//! Must never leave a disk under its name that is not formatted: it is made beside it and renamed.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::Settings;
use crate::disk::{self, Offline};
use crate::failure::{Exit, Failure};
use crate::units::size_argument;
use crate::{doctor, file, node};

/// Shards of a disk made here, at most: a trial needs no more, and each lays out memory.
const SHARD_COUNT_MAX: u16 = 4;
/// Part of the disk that journals take, one of this many. There are no tables yet: the journal holds all.
const JOURNAL_SHARE: u64 = 2;

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Nodes; one is all there is yet
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: u32,
    /// Where the disk is made, or found again
    #[arg(long, value_name = "DIR", default_value = "dev-data")]
    dir: PathBuf,
    /// Port on 127.0.0.1; 0 takes any that is free
    #[arg(long, value_name = "P", default_value_t = net::frame::PORT_DEFAULT)]
    port: u16,
    /// Size of the disk when it is made
    #[arg(long, value_name = "SIZE", value_parser = size_argument, default_value = "2 GiB")]
    disk_size: u64,
}

/// `thermocline dev`.
///
/// # Errors
/// The disk cannot be made, the port is taken, or the node failed.
pub(crate) fn run(args: &DevArgs) -> Result<Exit, Failure> {
    if args.nodes != 1 {
        return Err(Failure::wrong_use(
            format!("--nodes {}: replication is not there yet, a trial has one node", args.nodes),
            "thermocline dev --nodes 1",
        ));
    }
    file::create_folder(&args.dir)?;
    let path = args.dir.join("disk-1.img");
    if !file::exists(&path) {
        make(&path, args.disk_size)?;
    }
    // They go with the folder: in shared memory they would outlive it, and fill the machine's memory trial by trial.
    ioengine::uring::keep_regions_in(&args.dir);
    let settings = Settings {
        disk_path: path.to_string_lossy().into_owned(),
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], args.port)),
        ..Settings::default()
    };
    node::run(&settings, |address| crate::output::note!("{}", next(address, &path)))
}

/// Makes and formats the disk under another name, then gives it its own.
fn make(path: &Path, bytes: u64) -> Result<(), Failure> {
    let part = path.with_extension("img.part");
    let name = part.to_string_lossy().into_owned();
    crate::output::note!("making a disk of {} in {}", crate::units::size_text(bytes), path.display());
    if !file::exists(&part) {
        disk::create_file(&name, bytes)?;
    }
    // Claims the file: what an earlier start left half made is ours, what another one makes right now is not.
    let offline = Offline::open(&name, false)?;
    let shard_count = doctor::processor_count().min(SHARD_COUNT_MAX);
    let journal_bytes = offline.geometry().bytes / JOURNAL_SHARE / u64::from(shard_count);
    let cluster = disk::new_cluster(&offline);
    let segment = disk::SEGMENT_BYTES;
    disk::format_offline(&offline, cluster, 1, shard_count, Some(journal_bytes), segment, true)?;
    file::rename(&part, path)
}

/// What to type next.
fn next(address: &str, path: &Path) -> String {
    let endpoint = if address == crate::config::LISTEN_DEFAULT {
        String::new()
    } else {
        format!(" --endpoint {address}")
    };
    format!(
        "serving on {address}, disk {}. In another terminal:\n\
         \x20 thermocline put alice 2026-11-20T08:00:00Z \"first light\"{endpoint}\n\
         \x20 thermocline get alice 2026-11-20T08:00:00Z{endpoint}\n\
         \x20 thermocline import tools/sample/commits-sample.ndjson.zst{endpoint}\n\
         \x20 thermocline export --out all.ndjson{endpoint}\n\
         \x20 thermocline status{endpoint}\n\
         Ctrl-C ends it; the next start finds everything.",
        path.display()
    )
}
