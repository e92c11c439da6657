//! What a cold node is, by its disks: each says of which node, cluster and cold group it is.
//!
//! Must never start a node on disks of two: which of them is meant is not ours to guess. A disk that does not answer is left to
//! the node, which serves without it.

use layout::cold_disk::ColdSuperblock;
use shard::cold::ColdConfig;

use crate::config::Settings;
use crate::disk::{self, ColdSeen};
use crate::doctor;
use crate::failure::Failure;

/// What a disk belongs to, as a sentence says it.
pub(crate) fn owner(of: &ColdSuperblock) -> String {
    format!("cluster {}, node {}, cold group {}", of.cluster, of.node, of.group)
}

/// What to start for these settings.
///
/// # Errors
/// No disk is named or answers, one is not a cold disk, or they belong to different nodes.
pub(crate) fn config(settings: &Settings) -> Result<ColdConfig, Failure> {
    let cold = &settings.cold;
    if cold.disks.is_empty() {
        let mend = "set disks in [cold] of the config file, or --set cold.disks='[\"DISK\", ...]'; \
                    `thermocline disk format --cold` makes one ready";
        return Err(Failure::wrong_use("a cold node needs disks, and none is named", mend));
    }
    let (mut own, mut silent): (Option<(&str, ColdSuperblock)>, Vec<String>) = (None, Vec::new());
    for path in &cold.disks {
        let found = match disk::cold_superblock(path)? {
            ColdSeen::Is(found) => *found,
            ColdSeen::Silent(what) => {
                silent.push(what);
                continue;
            }
        };
        let of = |one: &ColdSuperblock| (one.cluster, one.node, one.group);
        match &own {
            Some((first, other)) if of(other) != of(&found) => {
                let what =
                    format!("disk {first} belongs to {}, and disk {path} to {}", owner(other), owner(&found));
                return Err(Failure::wrong_use(what, "name the disks of one node in cold.disks"));
            }
            Some(_) => {}
            None => own = Some((path, found)),
        }
    }
    let Some((_, own)) = own else {
        let mend = "mend one, or name the right ones in cold.disks";
        return Err(Failure::failed(format!("no disk of [cold] answers:\n{}", silent.join("\n")), mend));
    };
    Ok(ColdConfig {
        node: own.node,
        cluster: own.cluster,
        group: own.group,
        listen: settings.listen,
        disks: cold.disks.clone(),
        peers: cold.peers.clone(),
        core_count: cold.core_count(doctor::processor_count()),
        host: settings.host,
        pin: settings.pin,
        spin_us: u64::try_from(settings.spin.as_micros()).unwrap_or(u64::MAX),
        limits: cold.limits.clone(),
    })
}
