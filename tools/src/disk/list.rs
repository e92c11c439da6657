//! `thermocline disk list|inspect`: what disks hold, without changing anything.
//!
//! Must never open a disk for more than reading: one that somebody uses is looked at, too.

use std::path::Path;

use clap::Args;
use ioengine::uring::{Verdict, probe_disk};
use layout::superblock_copies::choose;
use serde_json::{Map, Value, json};

use super::content::Content;
use super::{Offline, cold};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::units::size_text;
use crate::{file, version_caches};

/// Where the system names disks by model and serial number.
const BY_ID: &str = "/dev/disk/by-id";

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only these devices or files [default: the block devices of this machine]
    disks: Vec<String>,
    /// Say it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Device or file
    disk: String,
    /// Say it as JSON
    #[arg(long)]
    json: bool,
}

/// What was seen of a disk.
struct Seen {
    bytes: Option<u64>,
    /// store, cold, empty, foreign, unreadable
    kind: &'static str,
    what: String,
    /// Who uses it.
    used: Option<String>,
}

fn look(path: &str) -> Seen {
    // An open that is refused is among the findings, too.
    let refused = probe_disk(path).into_iter().find(|finding| finding.verdict == Verdict::Refused);
    let used = refused.map(|finding| finding.what);
    let offline = match Offline::open(path, true) {
        Ok(offline) => offline,
        Err(failure) => {
            return Seen { bytes: None, kind: "unreadable", what: failure.what, used: None };
        }
    };
    let (kind, what) = match offline.content() {
        Err(failure) => ("unreadable", failure.what),
        Ok(Content::Empty) => ("empty", String::new()),
        Ok(Content::Foreign(what)) => ("foreign", what.to_owned()),
        Ok(Content::Store) => match choose(&offline.copies()) {
            Ok(of) => {
                ("store", format!("node {}, cluster {}, {} shards", of.node, of.cluster, of.shard_count))
            }
            Err(_) => ("store", "DAMAGED: none of its superblock copies is in force".to_owned()),
        },
        Ok(Content::Cold) => match super::cold_superblock(path) {
            Ok(cold::ColdSeen::Is(of)) => (
                "cold",
                format!(
                    "disk {} of cold group {}, node {}, cluster {}",
                    of.disk, of.group, of.node, of.cluster
                ),
            ),
            Ok(cold::ColdSeen::Silent(what)) => ("cold", what),
            Err(failure) => ("cold", format!("DAMAGED: {}", failure.what)),
        },
    };
    Seen { bytes: Some(offline.geometry().bytes), kind, what, used }
}

/// `thermocline disk list`.
///
/// # Errors
/// Nobody reads what it says.
pub(super) fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let stable = file::links(Path::new(BY_ID));
    let disks = if args.disks.is_empty() { version_caches::block_devices() } else { args.disks.clone() };
    let mut out = Output::new();
    for path in &disks {
        let seen = look(path);
        let names: Vec<String> = stable
            .iter()
            .filter(|(_, target)| target == Path::new(path))
            .map(|(name, _)| name.display().to_string())
            .collect();
        if args.json {
            let all = json!({
                "disk": path, "bytes": seen.bytes, "kind": seen.kind, "what": seen.what, "used": seen.used,
                "names": names,
            });
            out.line(&all.to_string())?;
            continue;
        }
        let size = seen.bytes.map_or_else(String::new, |bytes| size_text(bytes >> 20 << 20));
        out.line(&format!("{path:<24} {size:>12}  {:<10} {}", seen.kind, seen.what))?;
        for more in seen.used.iter().chain(&names) {
            out.line(&format!("{:<38}  {more}", ""))?;
        }
    }
    out.finish()?;
    Ok(Exit::Done)
}

/// `thermocline disk inspect`.
///
/// # Errors
/// It cannot be read, is not ours, or is damaged.
pub(super) fn inspect(args: &InspectArgs) -> Result<Exit, Failure> {
    let offline = Offline::open(&args.disk, true)?;
    let mut fields = vec![("disk", json!(args.disk)), ("bytes", json!(offline.geometry().bytes))];
    if offline.content()? == Content::Cold {
        fields.push(("kind", json!("cold")));
        fields.extend(cold::fields(&cold::seen(&offline, &args.disk)?));
    } else {
        let of = offline.superblock()?;
        fields.push(("kind", json!("store")));
        fields.push(("device", json!(of.device.to_string())));
        fields.push(("cluster", json!(of.cluster.to_string())));
        fields.push(("node", json!(of.node)));
        fields.push(("shards", json!(of.shard_count)));
        fields.push(("incarnation", json!(of.incarnation.0)));
    }
    let mut out = Output::new();
    if args.json {
        let all: Map<String, Value> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        out.line(&Value::Object(all).to_string())?;
    } else {
        for (name, value) in fields {
            out.line(&format!(
                "{name:<20} {}",
                value.as_str().map_or_else(|| value.to_string(), str::to_owned)
            ))?;
        }
    }
    out.finish()?;
    Ok(Exit::Done)
}
