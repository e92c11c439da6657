//! `thermocline disk replace`: a disk in place of one that was lost, made ready by what another machine of its group says of its own.
//!
//! Must never format what `disk format` would refuse. Invariant: the new disk has as many files of the same size as the others of its number.

use clap::Args;
use layout::units::Uuid;
use serde_json::Value;

use super::FormatArgs;
use super::cold::{self, ColdArgs};
use crate::client::Endpoint;
use crate::failure::{Exit, Failure};

#[derive(Debug, Args)]
pub(super) struct ReplaceArgs {
    /// The new device (by its stable name, /dev/disk/by-id/...) or file
    path: String,
    /// A disk of a cold node
    #[arg(long)]
    cold: bool,
    /// Number of the node that has lost a disk
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    node: u32,
    /// Number that the lost disk had in its group
    #[arg(long, value_name = "N")]
    disk: u16,
    /// Where another machine of the cold group serves: it says cluster, group, and how its disk of that number is cut
    #[arg(long, value_name = "HOST:PORT")]
    from: String,
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

/// `thermocline disk replace`.
///
/// # Errors
/// The other machine does not answer or has no such disk, the new one is refused or too small, or writing to it failed.
pub(super) fn replace(args: &ReplaceArgs) -> Result<Exit, Failure> {
    if !args.cold {
        return Err(Failure::wrong_use(
            "a store's disk is replaced by `disk format --recover`",
            "say --cold of a cold node",
        ));
    }
    let text = Endpoint::of(&args.from).status()?;
    let status: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::failed(format!("{} says no status: {error}", args.from), ""))?;
    let (cluster, cold) = like(args, &status)?;
    cold::format(&FormatArgs {
        path: args.path.clone(),
        create: None,
        shards: None,
        journal: None,
        segment: layout::zone::SEGMENT_BYTES_DEFAULT,
        cold,
        cluster: Some(cluster),
        found: false,
        recover: false,
        node: args.node,
        yes: args.yes,
        anew: args.anew,
        json: args.json,
    })
}

/// What the lost disk was, by what a machine says that has one of the same number.
fn like(args: &ReplaceArgs, status: &Value) -> Result<(Uuid, ColdArgs), Failure> {
    let from = &args.from;
    if status["role"] != "cold" {
        return Err(Failure::failed(
            format!("{from} is no cold node"),
            "name one of the two other machines of the cold group",
        ));
    }
    if status["node"] == args.node {
        return Err(Failure::failed(
            format!("{from} is node {} itself", args.node),
            "name one of the two other machines of its cold group",
        ));
    }
    let cluster = status["cluster"].as_str().and_then(|text| text.parse().ok());
    let group = status["group"].as_u64().and_then(|group| u16::try_from(group).ok());
    let counters = &status["disks"][args.disk.to_string()]["counters"];
    let file_bytes = counters["file_bytes"].as_u64();
    let files = counters["files"].as_u64().and_then(|files| u32::try_from(files).ok());
    match (cluster, group, file_bytes, files) {
        (Some(cluster), Some(group), Some(file_bytes), Some(files)) => {
            Ok((cluster, ColdArgs::in_place_of((group, args.disk), (file_bytes, files))))
        }
        _ => Err(Failure::failed(
            format!("{from} has no disk {} that it can tell of", args.disk),
            "see `thermocline status` there; name another machine of the group, or the right number",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn args(node: u32, disk: u16) -> ReplaceArgs {
        let (path, from) = ("/dev/new".to_owned(), "10.0.0.2:7420".to_owned());
        ReplaceArgs { path, cold: true, node, disk, from, yes: false, anew: false, json: false }
    }

    #[test]
    fn the_new_disk_is_as_the_others_of_its_number() {
        let cluster = "0f0e0d0c-0b0a-0908-0706-050403020100".to_owned();
        let status = json!({"role": "cold", "node": 12, "cluster": cluster, "group": 3,
            "disks": {"5": {"counters": {"files": 40, "file_bytes": 65_536}}}});
        let (found, cold) = like(&args(11, 5), &status).unwrap();
        assert_eq!(found.to_string(), cluster);
        assert_eq!(format!("{cold:?}"), format!("{:?}", ColdArgs::in_place_of((3, 5), (65_536, 40))));
        let refused = |args: &ReplaceArgs, status: &Value| like(args, status).unwrap_err().what;
        assert!(refused(&args(11, 4), &status).contains("no disk 4"));
        assert!(refused(&args(12, 5), &status).contains("node 12 itself"));
        assert!(refused(&args(11, 5), &json!({"role": "store"})).contains("no cold node"));
    }
}
