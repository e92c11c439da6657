//! The files in shared memory that version caches leave: which disk each is of, and when it may go.
//!
//! Must never remove one that a process uses. Losing one costs what a reboot costs: the cache starts empty.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ioengine::uring::{Finding, RegionFile, Verdict, region_files, region_path, remove_region_file};
use layout::superblock_copies::Copies;
use layout::units::{SHARD_COUNT_MAX, Uuid};
use shard::recover::{device_of_region, region_name};

use crate::disk::Offline;
use crate::failure::Failure;
use crate::file;
use crate::units::size_text;

/// Where the cache of a shard may be: in shared memory, or beside the disk, where `dev` keeps its own.
fn places(disk: &str, device: Uuid, shard: u16) -> [PathBuf; 2] {
    let shared = region_path(&region_name(device, shard));
    let beside = shared.file_name().map_or_else(PathBuf::new, |name| Path::new(disk).with_file_name(name));
    [shared, beside]
}

/// The cache of a shard; the place in shared memory when there is none.
pub(crate) fn of_shard(disk: &str, device: Uuid, shard: u16) -> PathBuf {
    let [shared, beside] = places(disk, device, shard);
    if !file::exists(&shared) && file::exists(&beside) { beside } else { shared }
}

/// Every device that a disk was by what is left of its superblocks.
pub(crate) fn devices(copies: &Copies) -> Vec<Uuid> {
    let mut devices: Vec<Uuid> = copies.iter().flatten().map(|copy| copy.device).collect();
    devices.sort();
    devices.dedup();
    devices
}

/// Removes the caches of these devices, which are no more: their disk `path` has another life. Files and bytes removed.
///
/// # Errors
/// A process uses one, or it may not be removed.
pub(crate) fn remove(path: &str, devices: &[Uuid]) -> Result<(usize, u64), Failure> {
    let (mut count, mut bytes) = (0, 0);
    let shards = 0..u16::try_from(SHARD_COUNT_MAX).expect("64");
    for place in
        devices.iter().flat_map(|device| shards.clone().flat_map(|shard| places(path, *device, shard)))
    {
        let length = file::bytes_of(&place);
        let removed = remove_region_file(&place).map_err(|error| file::failure("remove", &place, &error))?;
        if removed {
            count += 1;
            bytes += length;
        }
    }
    Ok((count, bytes))
}

/// The disks of this machine that can be read, beside those that were named.
pub(crate) fn block_devices() -> Vec<String> {
    let text = file::text(Path::new("/proc/partitions")).unwrap_or_default();
    let names = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3));
    let memory = |name: &str| ["ram", "zram", "sr", "fd"].iter().any(|kind| name.starts_with(kind));
    names.filter(|name| !memory(name)).map(|name| format!("/dev/{name}")).collect()
}

/// What `doctor` says about them: one finding per device whose caches nobody uses and whose disk is none of these.
pub(crate) fn findings(disks: &[String]) -> Vec<Finding> {
    let files = region_files();
    if files.iter().all(|file| file.in_use || device_of_region(&file.name).is_none()) {
        return judge(&files, &[]);
    }
    let open = |path: &String| Offline::open(path, true).map(|offline| devices(&offline.copies()));
    let known: Vec<Uuid> = disks.iter().filter_map(|path| open(path).ok()).flatten().collect();
    judge(&files, &known)
}

fn judge(files: &[RegionFile], known: &[Uuid]) -> Vec<Finding> {
    let topic = "version caches".to_owned();
    let mut owned = (0, 0);
    let mut orphans: BTreeMap<Uuid, Vec<&RegionFile>> = BTreeMap::new();
    for file in files {
        let Some(device) = device_of_region(&file.name) else { continue };
        if file.in_use || known.contains(&device) {
            owned = (owned.0 + 1, owned.1 + file.bytes);
        } else {
            orphans.entry(device).or_default().push(file);
        }
    }
    let mut found: Vec<Finding> = orphans
        .into_iter()
        .map(|(device, files)| {
            let bytes: u64 = files.iter().map(|file| file.bytes).sum();
            let paths: Vec<String> = files.iter().map(|file| file.path.display().to_string()).collect();
            Finding {
                topic: topic.clone(),
                verdict: Verdict::Plainer,
                what: format!(
                    "{} files with {} in memory are of device {device}, which is none of the disks seen, and nobody uses them",
                    files.len(),
                    size_text(bytes)
                ),
                mend: format!("if its disk is gone: rm {}; else name the disk (thermocline doctor DISK)", paths.join(" ")),
            }
        })
        .collect();
    if found.is_empty() {
        let what =
            format!("{} files with {}, each of a disk that is here or in use", owned.0, size_text(owned.1));
        found.push(Finding { topic, verdict: Verdict::Good, what, mend: String::new() });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(device: Uuid, shard: u16, in_use: bool) -> RegionFile {
        let name = region_name(device, shard);
        RegionFile { path: region_path(&name), name, bytes: 4096, in_use }
    }

    #[test]
    fn only_what_nobody_uses_and_no_disk_owns_is_named() {
        let (here, gone, served) = (Uuid([1; 16]), Uuid([2; 16]), Uuid([3; 16]));
        let other = RegionFile { name: "test-1".into(), path: "/x".into(), bytes: 1, in_use: false };
        let files =
            [file(here, 0, false), file(gone, 0, false), file(gone, 63, false), file(served, 0, true), other];
        let found = judge(&files, &[here]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].verdict, Verdict::Plainer);
        assert!(found[0].what.contains("2 files") && found[0].what.contains("8 KiB"), "{}", found[0].what);
        assert!(found[0].mend.contains(&format!("thermocline-versions-{gone}-63")), "{}", found[0].mend);
        assert_eq!(judge(&files, &[here, gone])[0].verdict, Verdict::Good);
        assert_eq!(judge(&[], &[])[0].verdict, Verdict::Good);
    }
}
