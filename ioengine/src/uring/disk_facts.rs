//! Facts of disks that only the kernel knows: sizes, alignment, write cache, who else uses a device.

use super::refusal::Refusal;
use super::system;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

mod ioctls {
    nix::ioctl_read!(size_bytes, 0x12, 114, u64); // BLKGETSIZE64
    nix::ioctl_read_bad!(logical_block_bytes, libc::BLKSSZGET, libc::c_int);
    nix::ioctl_read_bad!(physical_block_bytes, nix::request_code_none!(0x12, 123), libc::c_uint); // BLKPBSZGET
}

/// The unit of reads and writes when the device's own is `bytes`.
fn block_bytes(bytes: u32) -> Result<u32, Refusal> {
    match bytes {
        1..=512 => Ok(512),
        513..=4096 if bytes.is_power_of_two() => Ok(4096),
        _ => Err(Refusal::new(
            format!("its blocks of {bytes} bytes are not 512 or 4096"),
            "format the device with 512 or 4096 byte sectors (nvme format, sg_format)",
        )),
    }
}

/// Size and smallest unit of an open block device, in bytes.
pub(super) fn device_size(fd: RawFd) -> Result<(u64, u32), Refusal> {
    let (mut size, mut logical, mut physical) = (0_u64, 0, 0);
    // SAFETY: each call writes the one integer it is given, of the type the kernel documents for it.
    let asked = unsafe {
        ioctls::size_bytes(fd, &raw mut size)
            .and_then(|_| ioctls::logical_block_bytes(fd, &raw mut logical))
            .and_then(|_| ioctls::physical_block_bytes(fd, &raw mut physical))
    };
    asked.map_err(|error| Refusal::new(format!("it does not tell its size: {error}"), "check dmesg"))?;
    let unit = block_bytes(u32::try_from(logical).unwrap_or(0))?;
    if physical > unit {
        tracing::debug!(
            logical,
            physical,
            "writes smaller than a physical block are read, changed and written"
        );
    }
    Ok((size, unit))
}

/// Smallest unit of direct I/O on an open file, in bytes.
pub(super) fn file_block_bytes(fd: RawFd) -> Result<u32, Refusal> {
    // SAFETY: all-zero is a valid statx; the kernel writes one statx to it; the path is an empty C string.
    let (result, facts) = unsafe {
        let mut facts: libc::statx = std::mem::zeroed();
        let result = libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut facts);
        (result, facts)
    };
    if result != 0 || facts.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Ok(4096); // an older kernel or a file system that does not tell; every device takes 4096
    }
    if facts.stx_dio_offset_align == 0 || facts.stx_dio_mem_align > 4096 {
        return Err(Refusal::new(
            "the file system refuses direct I/O on this file",
            "put it on ext4 or XFS, not encrypted and not compressed",
        ));
    }
    block_bytes(facts.stx_dio_offset_align)
}

/// The directory of the device in /sys, and that of the whole disk when it is a partition.
fn directories(device: u64) -> (PathBuf, PathBuf) {
    let own = PathBuf::from(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device)));
    // The link leads into the tree, where a partition lies inside its disk.
    let own = std::fs::canonicalize(&own).unwrap_or(own);
    let whole = match own.parent() {
        Some(parent) if own.join("partition").exists() => parent.to_owned(),
        _ => own.clone(),
    };
    (own, whole)
}

/// Whether a completed write may still be lost with power. Unknown counts as yes.
pub(super) fn volatile_cache(device: u64) -> bool {
    let (_, whole) = directories(device);
    // A loop device passes flushes on to its file, whatever it says of itself.
    whole.join("loop").exists()
        || system::text(whole.join("queue/write_cache")).is_none_or(|cache| cache != "write through")
}

/// The device numbers below `directory`: its own and its partitions'.
fn numbers(directory: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let partitions = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let partitions = partitions.filter(|path| path.join("partition").exists());
    for path in std::iter::once(directory.to_owned()).chain(partitions) {
        if let Some(number) = system::text(path.join("dev")) {
            found.push((number, path));
        }
    }
    found
}

/// Refuse a device that holds a mounted file system or swap, or is part of a volume, with the name of its user.
/// O_EXCL refuses them too, but cannot say who it is.
pub(super) fn refuse_in_use(device: u64) -> Result<(), Refusal> {
    let (own, whole) = directories(device);
    let mut devices = numbers(&own);
    if own != whole {
        // A partition's disk may be in use as a whole.
        devices.extend(system::text(whole.join("dev")).map(|number| (number, whole.clone())));
    }
    let mounts = system::text("/proc/self/mountinfo").unwrap_or_default();
    let swaps = system::text("/proc/swaps").unwrap_or_default();
    for (number, path) in devices {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(place) = mounted_at(&mounts, &number, &name) {
            return Err(Refusal::new(
                format!("/dev/{name} is mounted at {place}"),
                format!("unmount it if its data may go (umount {place}), or name another device"),
            ));
        }
        let swap = format!("/dev/{name}");
        if swaps.lines().any(|line| line.split_whitespace().next() == Some(&swap)) {
            return Err(Refusal::new(
                format!("{swap} is swap"),
                format!("swapoff {swap}, or name another device"),
            ));
        }
        let holders = std::fs::read_dir(path.join("holders")).into_iter().flatten().flatten();
        if let Some(holder) = holders.map(|entry| entry.file_name()).next() {
            return Err(Refusal::new(
                format!("/dev/{name} is part of {}", holder.to_string_lossy()),
                "take it out of that volume (lvm, mdadm, cryptsetup), or name another device",
            ));
        }
    }
    Ok(())
}

/// Where `mounts` (/proc/self/mountinfo) has device `number` ("major:minor"), or `/dev/name` as its source: some
/// file systems (btrfs) hide their device's number.
fn mounted_at<'a>(mounts: &'a str, number: &str, name: &str) -> Option<&'a str> {
    let device = format!("/dev/{name}");
    mounts.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(2);
        let (its, place) = (head.next()?, head.nth(1)?);
        let source = tail.split(' ').nth(1)?;
        (its == number || source == device).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        30 21 0:25 /sub /data rw,relatime shared:2 master:3 - btrfs /dev/nvme0n1p2 rw,subvol=/sub\n\
        31 21 0:26 / /dev/shm rw - tmpfs tmpfs rw";

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        assert_eq!(mounted_at(MOUNTS, "254:0", "other"), Some("/"));
        assert_eq!(mounted_at(MOUNTS, "259:2", "nvme0n1p2"), Some("/data"));
        assert_eq!(mounted_at(MOUNTS, "25:0", "vd"), None);
    }

    #[test]
    fn only_blocks_of_512_and_4096_pass() {
        let passed: Vec<Option<u32>> =
            [0, 1, 512, 520, 1024, 4096, 8192].into_iter().map(|bytes| block_bytes(bytes).ok()).collect();
        assert_eq!(passed, [None, Some(512), Some(512), None, Some(4096), Some(4096), None]);
    }
}
