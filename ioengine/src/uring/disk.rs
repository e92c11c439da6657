//! Opening disks: files and block devices, with direct I/O, claimed for this process. Owns the descriptors and
//! the claims; the reads and writes themselves are the driver's. Invariant: a disk open for writing is open for
//! writing once on this machine.

use super::disk_facts;
use super::refusal::{Refusal, patiently};
use crate::disk::{DiskOpen, DiskOpenError, DiskShare, Geometry};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Blocks of a disk whose file system does not tell its alignment, in bytes: what every device can do.
const BLOCK_BYTES_SAFE: u32 = 4096;

/// An open disk, shared by the cores of this process. The claim goes with the last of them.
pub(super) struct OpenDisk {
    file: Claim,
    pub(super) geometry: Geometry,
    pub(super) read_only: bool,
}

enum Claim {
    /// Reads only, or claimed by O_EXCL (block devices).
    Plain(File),
    /// Locked (files).
    Locked(Flock<File>),
}

impl OpenDisk {
    pub(super) fn fd(&self) -> RawFd {
        match &self.file {
            Claim::Plain(file) => file.as_raw_fd(),
            Claim::Locked(file) => file.as_raw_fd(),
        }
    }
}

/// What a path means to the kernel: device number of a block device, or file system and inode.
type Identity = (u64, u64);

/// Every disk this process opened for writing, with the flag that ends it: one that ended stays so until the
/// process does, also when it is opened again.
static OPENED: Mutex<Vec<(Identity, Arc<AtomicBool>)>> = Mutex::new(Vec::new());

/// Open and claim `name`.
pub(super) fn open(name: &str, open: DiskOpen) -> Result<(Geometry, DiskShare), DiskOpenError> {
    let refused =
        |refusal: Refusal| DiskOpenError { name: name.to_owned(), what: refusal.what, mend: refusal.mend };
    let (disk, identity) = open_path(Path::new(name), open).map_err(refused)?;
    let geometry = disk.geometry;
    let share = DiskShare::new(name, Box::new(disk));
    if !open.read_only {
        let mut opened = OPENED.lock().expect("nothing panics while holding it");
        if opened.iter().any(|(known, ended)| *known == identity && ended.load(Ordering::Acquire)) {
            return Err(refused(Refusal::new(
                "it ended after a failed flush",
                "restart the node, and replace the disk if it happens again",
            )));
        }
        opened.retain(|(_, ended)| Arc::strong_count(ended) > 1 || ended.load(Ordering::Acquire));
        opened.push((identity, Arc::clone(share.ended())));
    }
    Ok((geometry, share))
}

fn open_path(path: &Path, open: DiskOpen) -> Result<(OpenDisk, Identity), Refusal> {
    let facts = std::fs::metadata(path).map_err(|error| missing(&error))?;
    let device = facts.file_type().is_block_device();
    if !device && !facts.is_file() {
        return Err(Refusal::new(
            "it is neither a block device nor a file",
            "name a device such as /dev/nvme0n1, or a file made for this",
        ));
    }
    if device && !open.read_only {
        disk_facts::refuse_in_use(facts.rdev())?;
    }
    let (file, direct) = open_direct(path, device, open)?;
    let claim = if device || open.read_only { Claim::Plain(file) } else { Claim::Locked(lock(file)?) };
    let mut disk = OpenDisk {
        file: claim,
        geometry: Geometry { bytes: 0, block_bytes: 0, volatile_cache: true, block_device: device },
        read_only: open.read_only,
    };
    let (bytes, block_bytes) = if device {
        disk.geometry.volatile_cache = disk_facts::volatile_cache(facts.rdev());
        disk_facts::device_size(disk.fd())?
    } else {
        // Asked again through the descriptor: now it is claimed, nobody of ours changes it.
        let facts = disk.file_metadata().map_err(|error| unreadable(&error))?;
        let block_bytes = if direct { disk_facts::file_block_bytes(disk.fd())? } else { BLOCK_BYTES_SAFE };
        (facts.len(), block_bytes)
    };
    disk.geometry.block_bytes = block_bytes;
    disk.geometry.bytes = bytes - bytes % u64::from(block_bytes);
    if disk.geometry.bytes == 0 {
        return Err(Refusal::new(
            format!("it holds {bytes} bytes, less than one block"),
            "make the file large enough first, or check that the device has a medium",
        ));
    }
    let identity = if device { (0, facts.rdev()) } else { (facts.dev(), facts.ino()) };
    Ok((disk, identity))
}

impl OpenDisk {
    fn file_metadata(&self) -> std::io::Result<std::fs::Metadata> {
        match &self.file {
            Claim::Plain(file) => file.metadata(),
            Claim::Locked(file) => file.metadata(),
        }
    }
}

fn missing(error: &std::io::Error) -> Refusal {
    let mend = match error.kind() {
        std::io::ErrorKind::NotFound => {
            "check the path (lsblk); a file for a disk is made by the format command"
        }
        _ => "check the path and its permissions",
    };
    Refusal::new(error.to_string(), mend)
}

fn unreadable(error: &std::io::Error) -> Refusal {
    Refusal::new(format!("its facts cannot be read: {error}"), "check the device (dmesg)")
}

/// Open past the page cache. A file system that cannot do that gets the plainer path, said in the log.
fn open_direct(path: &Path, device: bool, open: DiskOpen) -> Result<(File, bool), Refusal> {
    let attempt = |direct: i32| {
        let exclusive = if device && !open.read_only { libc::O_EXCL } else { 0 };
        let mut options = OpenOptions::new();
        options.read(true).write(!open.read_only).custom_flags(direct | exclusive);
        patiently(|| options.open(path), |error| error.raw_os_error() == Some(libc::EBUSY))
    };
    match attempt(libc::O_DIRECT) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !device => {
            tracing::warn!(path = %path.display(), "no direct I/O on this file system; going through the page cache");
            let file = attempt(0).map_err(|error| refusal_of_open(&error, device))?;
            Ok((file, false))
        }
        Err(error) => Err(refusal_of_open(&error, device)),
    }
}

fn refusal_of_open(error: &std::io::Error, device: bool) -> Refusal {
    let mend = match error.raw_os_error() {
        Some(libc::EBUSY) => {
            return Refusal::new(
                "another process, a file system or a volume manager has claimed it",
                "end that one (lsblk, fuser), or name another device",
            );
        }
        Some(libc::EACCES | libc::EPERM) if device => {
            "run as root or as a member of the group disk; in a container, allow it the device"
        }
        Some(libc::EACCES | libc::EPERM) => "make it readable and writable for this user",
        Some(libc::EROFS) => {
            "it is write-protected: remount the file system or release the device's read-only flag"
        }
        Some(libc::EINVAL) => "the device refuses direct I/O: name another one",
        Some(libc::ENXIO | libc::ENODEV | libc::ENOMEDIUM) => {
            "no device answers there: check lsblk and dmesg"
        }
        Some(libc::EMFILE) => "raise the limit of open files (ulimit -n, LimitNOFILE=)",
        _ => "check the path and dmesg",
    };
    Refusal::new(error.to_string(), mend)
}

fn lock(file: File) -> Result<Flock<File>, Refusal> {
    let mut file = Some(file);
    let attempt = || {
        let unlocked = file.take().expect("put back after each refusal");
        Flock::lock(unlocked, FlockArg::LockExclusiveNonblock).map_err(|(back, errno)| {
            file = Some(back);
            errno
        })
    };
    patiently(attempt, |errno| *errno == Errno::EWOULDBLOCK).map_err(|errno| match errno {
        Errno::EWOULDBLOCK => {
            Refusal::new("another process uses it", "end that one (fuser), or name another file")
        }
        errno => Refusal::new(format!("it cannot be locked: {errno}"), "put it on a local file system"),
    })
}

/// Make a file to serve as a disk: `bytes` long, room reserved now (a full file system is refused here and not in
/// the middle of a write), reading as zeros, its name durable.
///
/// # Errors
/// [`DiskOpenError`] when it exists already, or there is no room for it.
pub fn create_file(path: &Path, bytes: u64) -> Result<(), DiskOpenError> {
    create_with(path, bytes, reserve)
}

/// The same with room that is taken as it is written: a file system that is full refuses a write then, with
/// [`DiskError::Full`](crate::DiskError::Full), and a first write costs more than a later one. For trials.
///
/// # Errors
/// [`DiskOpenError`] when it exists already.
pub fn create_thin_file(path: &Path, bytes: u64) -> Result<(), DiskOpenError> {
    create_with(path, bytes, |file, bytes| {
        length_of(bytes)?;
        file.set_len(bytes).map_err(|error| refusal_of_room(bytes, &error))
    })
}

fn create_with(
    path: &Path,
    bytes: u64,
    take_room: impl FnOnce(&File, u64) -> Result<(), Refusal>,
) -> Result<(), DiskOpenError> {
    create(path, bytes, take_room).map_err(|refusal| DiskOpenError {
        name: path.display().to_string(),
        what: refusal.what,
        mend: refusal.mend,
    })
}

fn create(
    path: &Path,
    bytes: u64,
    take_room: impl FnOnce(&File, u64) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let file =
        OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Refusal::new("it exists already", "name another file, or remove this one if nobody needs it")
            }
            _ => Refusal::new(error.to_string(), "check that the directory exists and can be written to"),
        })?;
    take_room(&file, bytes)
        .and_then(|()| file.sync_all().map_err(|error| refusal_of_room(bytes, &error)))
        .and_then(|()| sync_parent(path))
        .inspect_err(|_| {
            // Nobody gets a file of half the size; when removing fails too, the first error says more.
            let _ = std::fs::remove_file(path);
        })
}

fn refusal_of_room(bytes: u64, error: &std::io::Error) -> Refusal {
    let mend = "free space on that file system (df), or make it smaller";
    Refusal::new(format!("no room for {bytes} bytes: {error}"), mend)
}

fn length_of(bytes: u64) -> Result<i64, Refusal> {
    i64::try_from(bytes)
        .ok()
        .filter(|&length| length > 0)
        .ok_or_else(|| Refusal::new(format!("{bytes} is no size of a file"), "give a size such as 1 GiB"))
}

fn reserve(file: &File, bytes: u64) -> Result<(), Refusal> {
    let length = length_of(bytes)?;
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP) => write_zeros(file, bytes).map_err(|error| refusal_of_room(bytes, &error)),
        Err(errno) => Err(refusal_of_room(bytes, &errno.into())),
    }
}

/// For file systems that cannot reserve room.
fn write_zeros(file: &File, bytes: u64) -> std::io::Result<()> {
    use std::io::{Read, Write};
    let mut writer = std::io::BufWriter::with_capacity(1 << 20, file);
    std::io::copy(&mut std::io::repeat(0).take(bytes), &mut writer)?;
    writer.flush()
}

/// The name is durable only with its directory.
fn sync_parent(path: &Path) -> Result<(), Refusal> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = OpenOptions::new().read(true).open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Refusal::new(format!("its directory cannot be synced: {error}"), "check dmesg"))
}
