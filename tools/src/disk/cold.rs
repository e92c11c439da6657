//! Cold disks, with no node running on them: made, cleared, and what one says it is.
//!
//! Must never format what holds anything, unless told to by name. Invariant: a disk is a cold one or a store's, never both.

use clap::Args;
use layout::cold_disk::{ColdGeometry, ColdState, ColdSuperblock, FILE_BYTES_DEFAULT};
use serde_json::{Value, json};
use shard::cold::open::{ColdFormat, ColdOverview};
use shard::cold::{ColdError, open};

use super::content::Content;
use super::{FormatArgs, Offline, create_file};
use crate::failure::{Exit, Failure};
use crate::output;
use crate::units::{size_argument, size_text};
use crate::version_caches;

/// What `disk format` asks for a cold disk.
#[derive(Debug, Args)]
pub(super) struct ColdArgs {
    /// A disk of a cold node, not of a store
    #[arg(
        long,
        requires_all = ["cluster", "group", "disk"],
        conflicts_with_all = ["shards", "journal", "segment", "found", "recover"]
    )]
    pub(super) cold: bool,
    /// With --cold: cold group of the node
    #[arg(long, value_name = "N", requires = "cold")]
    group: Option<u16>,
    /// With --cold: its number in the group; the disks of one number on the three nodes hold the same
    #[arg(long, value_name = "N", requires = "cold")]
    disk: Option<u16>,
    /// With --cold: size of its files, the same on the three nodes [default: 256 MiB]
    #[arg(long, value_name = "SIZE", value_parser = size_argument, requires = "cold")]
    file: Option<u64>,
    /// With --cold: most files; as many as the smallest disk of its number has [default: as many as it has room for]
    #[arg(long, value_name = "N", requires = "cold")]
    files: Option<u32>,
    /// With --cold: it takes the place of a disk that was lost, and is to be filled from the two others
    #[arg(long, requires = "cold")]
    fills: bool,
}

impl ColdArgs {
    /// Those of a disk that is to take another's place: its cold group, its number, and how the others of that number are cut.
    pub(super) fn in_place_of((group, disk): (u16, u16), (file_bytes, files): (u64, u32)) -> ColdArgs {
        ColdArgs {
            cold: true,
            group: Some(group),
            disk: Some(disk),
            file: Some(file_bytes),
            files: Some(files),
            fills: true,
        }
    }
}

/// `thermocline disk format --cold`.
///
/// # Errors
/// The disk is refused, cannot be cut like this, or writing to it failed.
pub(super) fn format(args: &FormatArgs) -> Result<Exit, Failure> {
    let (cold, path) = (&args.cold, &args.path);
    let (Some(cluster), Some(group), Some(disk)) = (args.cluster, cold.group, cold.disk) else {
        return Err(Failure::wrong_use("--cold needs --cluster, --group and --disk", "name them"));
    };
    if let (Some(bytes), true) = (args.create, args.yes) {
        create_file(path, bytes)?;
    }
    let offline = match args.create {
        Some(_) if !args.yes => None,
        _ => Some(Offline::open(path, !args.yes)?),
    };
    if let Some(offline) = &offline {
        refuse_content(offline, path, args.anew)?;
    }
    let bytes = offline.as_ref().map_or(args.create.unwrap_or(0), |offline| offline.geometry().bytes);
    let (file_bytes, file_count_max) =
        (cold.file.unwrap_or(FILE_BYTES_DEFAULT), cold.files.unwrap_or(u32::MAX));
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("disk {path}: {error}"), "");
    // Before anything that it holds is cleared.
    let geometry = ColdGeometry::plan(bytes, file_bytes, file_count_max).map_err(|error| failed(&error))?;
    if cold.fills && cold.files.is_some_and(|files| files != geometry.file_count) {
        return Err(Failure::failed(
            format!(
                "disk {path} has room for {} files of {}, and those of its number have {file_count_max}",
                geometry.file_count,
                size_text(file_bytes)
            ),
            "take a larger one",
        ));
    }
    if let (Some(offline), true) = (&offline, args.yes) {
        let wanted = ColdFormat {
            cluster,
            node: args.node,
            group,
            disk,
            file_bytes,
            file_count_max,
            fills: cold.fills,
            anew: args.anew,
        };
        if offline.content()? == Content::Store {
            let former = version_caches::devices(&offline.copies());
            offline.run(shard::format::wipe(offline.io(), offline.disk())).map_err(|error| failed(&error))?;
            version_caches::remove(path, &former)?;
        }
        offline
            .run(open::format(offline.io(), offline.disk(), &wanted))
            .map_err(|error| Failure::failed(error.to_string(), ""))?;
    }
    let ColdGeometry { file_count, .. } = geometry;
    if args.json {
        let all = json!({
            "disk": path, "bytes": bytes, "kind": "cold", "cluster": cluster.to_string(), "node": args.node,
            "group": group, "number": disk, "file_bytes": file_bytes, "files": file_count, "fills": cold.fills,
            "done": args.yes,
        });
        output::line(&all.to_string())?;
        return Ok(Exit::Done);
    }
    let fills = if cold.fills { ", to be filled from the others" } else { "" };
    output::line(&format!(
        "{path}: {}, disk {disk} of cold group {group} at node {}{fills}",
        size_text(bytes),
        args.node
    ))?;
    output::line(&format!("{file_count} files of {}", size_text(file_bytes)))?;
    output::line(&if args.yes && cold.fills {
        format!(
            "formatted for cluster {cluster}; next: start the node with it in cold.disks in place of the lost one, and the two others in \
             cold.peers; `thermocline status` says how far it is filled"
        )
    } else if args.yes {
        format!(
            "formatted for cluster {cluster}; next: thermocline serve --set node.role=cold --set cold.disks='[\"{path}\"]'"
        )
    } else {
        "nothing was written: say --yes to do it".to_owned()
    })?;
    Ok(Exit::Done)
}

fn refuse_content(offline: &Offline, path: &str, anew: bool) -> Result<(), Failure> {
    let kind = match offline.content()? {
        Content::Empty => return Ok(()),
        Content::Store | Content::Cold if anew => return Ok(()),
        Content::Store => "the disk of a store",
        Content::Cold => "a cold disk",
        Content::Foreign(what) => return Err(super::refuse_foreign(path, what)),
    };
    Err(Failure::failed(
        format!("disk {path} is formatted already, or was and is damaged: it is {kind}"),
        format!("look at it with `thermocline disk inspect {path}`; or say --anew if its data may go"),
    ))
}

/// Take the mark from a cold disk that is open.
///
/// # Errors
/// Writing to it failed.
pub(super) fn wipe(offline: &Offline) -> Result<usize, Failure> {
    offline
        .run(open::wipe(offline.io(), offline.disk()))
        .map_err(|error| Failure::failed(error.to_string(), ""))
}

/// The superblock in force and how full it is, of a disk that is open.
///
/// # Errors
/// It is no cold disk of ours, was cut, or cannot be read.
pub(super) fn seen(offline: &Offline, path: &str) -> Result<(ColdSuperblock, ColdOverview), Failure> {
    let found = offline.run(async {
        let superblock = open::read(offline.io(), offline.disk()).await?;
        Ok((superblock, open::overview(offline.io(), offline.disk(), &superblock).await?))
    });
    found.map_err(|error| not_ours(offline, path, &error))
}

/// The same for people and programs, field by field.
pub(super) fn fields((of, all): &(ColdSuperblock, ColdOverview)) -> Vec<(&'static str, Value)> {
    let state = match of.state {
        ColdState::Whole => "whole",
        ColdState::Filling => "filling",
    };
    vec![
        ("device", json!(of.device.to_string())),
        ("cluster", json!(of.cluster.to_string())),
        ("node", json!(of.node)),
        ("group", json!(of.group)),
        ("number", json!(of.disk)),
        ("state", json!(state)),
        ("file_bytes", json!(of.geometry.file_bytes)),
        ("files", json!(of.geometry.file_count)),
        ("files_used", json!(all.file_used_count)),
        ("files_walked", json!(all.file_walked_count)),
        ("written_bytes", json!(all.head_bytes)),
        ("sections", json!(all.section_count)),
        ("sections_freed", json!(all.freed_count)),
        ("places_reserved", json!(all.reserved_count)),
        ("kept_pages_lost", json!(all.kept_lost_count)),
    ]
}

/// What was seen of a disk that should be a cold one.
pub(crate) enum ColdSeen {
    /// What it says it is.
    Is(Box<ColdSuperblock>),
    /// It does not answer: why.
    Silent(String),
}

/// What a cold disk says it is.
///
/// # Errors
/// It answers and is no cold disk of ours, or was cut; with the command that mends it.
pub(crate) fn superblock(path: &str) -> Result<ColdSeen, Failure> {
    let offline = match Offline::try_open(path, true)? {
        Ok(offline) => offline,
        Err(error) => return Ok(ColdSeen::Silent(error.to_string())),
    };
    match offline.run(open::read(offline.io(), offline.disk())) {
        Ok(found) => Ok(ColdSeen::Is(Box::new(found))),
        Err(ColdError::Disk(error)) => Ok(ColdSeen::Silent(error.to_string())),
        Err(error) => Err(not_ours(&offline, path, &error)),
    }
}

/// Why a disk is not taken for a cold one.
pub(crate) fn not_ours(offline: &Offline, path: &str, error: &ColdError) -> Failure {
    let ColdError::Superblock { .. } = error else { return Failure::failed(error.to_string(), "") };
    let content = match offline.content() {
        Ok(content) => content,
        Err(failure) => return failure,
    };
    match content {
        Content::Cold => Failure::failed(error.to_string(), "do not format it if its data matters"),
        Content::Store => Failure::failed(
            format!("disk {path} is the disk of a store, not of a cold node"),
            "name it in disk.path of a node with the role store, or name another one here",
        ),
        Content::Empty => Failure::failed(
            format!("disk {path} is not formatted"),
            format!("thermocline disk format {path} --cold --cluster UUID --node N --group N --disk N --yes"),
        ),
        Content::Foreign(what) => Failure::failed(
            format!("disk {path} is not formatted and holds {what}"),
            "name another disk, or clear this one and format it (thermocline disk format --cold)",
        ),
    }
}
