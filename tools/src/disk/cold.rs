//! Cold disks, with no node running on them: what one says it is.

use layout::cold_disk::ColdSuperblock;
use shard::cold::{ColdError, open};

use super::Offline;
use super::content::Content;
use crate::failure::Failure;

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
pub(super) fn not_ours(offline: &Offline, path: &str, error: &ColdError) -> Failure {
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
            format!("thermocline disk format --cold {path} --yes"),
        ),
        Content::Foreign(what) => Failure::failed(
            format!("disk {path} is not formatted and holds {what}"),
            "name another disk, or clear this one and format it (thermocline disk format --cold)",
        ),
    }
}
