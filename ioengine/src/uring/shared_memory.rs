//! Shared-memory regions: one file per region on a memory file system. They survive the process, not the boot.
//! A region is locked while it is mapped: two processes on one region would tear its words apart.

use super::refusal::{Refusal, patiently};
use crate::region::{Region, RegionError};
use nix::fcntl::{FallocateFlags, Flock, FlockArg, OFlag, fallocate};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

/// Names the directory of the region files when it is not `/dev/shm`.
pub const DIRECTORY_VARIABLE: &str = "THERMOCLINE_SHM_DIR";
/// Longest name of a region, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// What the name of every region file begins with.
const FILE_PREFIX: &str = "thermocline-";
/// The directory of this process, if it was told one.
static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// Where region files are: as the environment says, else as this process was told, else `/dev/shm`.
pub(super) fn directory() -> PathBuf {
    let of_process = || DIRECTORY.get().cloned().unwrap_or_else(|| PathBuf::from("/dev/shm"));
    std::env::var_os(DIRECTORY_VARIABLE).map_or_else(of_process, PathBuf::from)
}

/// Keep the regions of this process in `directory`, unless the environment names another. For processes whose regions are
/// to go with their data. Said once, before the first region; later calls change nothing.
pub fn keep_regions_in(directory: &Path) {
    // The first word holds: regions in two directories would be two sets of regions.
    let _ = DIRECTORY.set(directory.to_owned());
}

/// A region's file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RegionFile {
    /// The region's name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// A process has it mapped, or this one may not ask.
    pub in_use: bool,
}

/// The region files of the directory in force, by name. None where the directory cannot be read.
#[must_use]
pub fn region_files() -> Vec<RegionFile> {
    let mut files: Vec<RegionFile> = std::fs::read_dir(directory())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.strip_prefix(FILE_PREFIX)?.to_owned();
            let facts = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            let path = entry.path();
            Some(RegionFile { name, in_use: is_in_use(&path), path, bytes: facts.len() })
        })
        .collect();
    files.sort();
    files
}

fn is_in_use(path: &Path) -> bool {
    // For the moment of asking it is ours; a node that starts just then tries again.
    OpenOptions::new()
        .read(true)
        .open(path)
        .map_or(true, |file| Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
}

/// Remove a region's file. False where there was none.
///
/// # Errors
/// A process has it mapped, or the system does not let it be removed.
pub fn remove_region_file(path: &Path) -> std::io::Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    if is_in_use(path) {
        return Err(std::io::Error::new(std::io::ErrorKind::ResourceBusy, "a process has it mapped"));
    }
    std::fs::remove_file(path).map(|()| true)
}

/// The file of region `name`, for tools that look at it.
#[must_use]
pub fn region_path(name: &str) -> PathBuf {
    path_in(&directory(), name)
}

fn path_in(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{FILE_PREFIX}{name}"))
}

struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
    /// Held as long as the mapping.
    _lock: Flock<File>,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; every Region that points into it holds this Mapping.
        unsafe { munmap(self.start, self.bytes) }.expect("what was mapped can be unmapped");
    }
}

/// Map region `name`, creating it, or emptying one of another size.
pub(super) fn region(name: &str, bytes: usize) -> Result<Region, RegionError> {
    region_in(&directory(), name, bytes).map_err(|refusal| RegionError {
        name: name.to_owned(),
        bytes,
        what: refusal.what,
        mend: refusal.mend,
    })
}

fn region_in(directory: &Path, name: &str, bytes: usize) -> Result<Region, Refusal> {
    assert!(bytes > 0 && bytes.is_multiple_of(64), "a region is whole cache lines");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    assert!(
        !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain),
        "a region's name is letters, digits, '-', '_' and '.': {name}"
    );
    let path = path_in(directory, name);
    let system = |what: &str, error: &dyn std::fmt::Display, mend: String| {
        Refusal::new(format!("{what} {}: {error}", path.display()), mend)
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(&path)
        .map_err(|error| {
            let mend = format!(
                "make {} writable for this user, or set {DIRECTORY_VARIABLE} to a directory on tmpfs",
                directory.display()
            );
            system("opening", &error, mend)
        })?;
    let lock = lock(file).map_err(|error| {
        system(
            "locking",
            &error,
            "another process uses it: end that one, or give this node its own name".into(),
        )
    })?;
    let length =
        lock.metadata().map_err(|error| system("asking for the size of", &error, String::new()))?.len();
    let existed = length == bytes as u64;
    if !existed {
        let sized = lock.set_len(0).map_err(nix_error).and_then(|()| {
            let whole = i64::try_from(bytes).map_err(|_| nix::errno::Errno::EFBIG)?;
            // Takes the memory now: a later store never meets a full file system (SIGBUS).
            fallocate(&*lock, FallocateFlags::empty(), 0, whole)
        });
        if let Err(error) = sized {
            // Leave no half region behind that a later start could take for a whole one.
            let _ = lock.set_len(0);
            let mend =
                format!("free memory in {} (df), or lower the sizes in the config", directory.display());
            return Err(system("sizing", &error, mend));
        }
    }
    let length = NonZeroUsize::new(bytes).expect("asserted above");
    // SAFETY: a fresh shared mapping at an address of the kernel's choice; the file has this length and the lock
    // keeps other processes of ours from shortening it.
    let start = unsafe {
        mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &*lock, 0)
    }
    .map_err(|error| system("mapping", &error, "free memory, or lower the sizes in the config".into()))?;
    let words: *const AtomicU64 = start.as_ptr().cast();
    let owner = Rc::new(Mapping { start, bytes, _lock: lock });
    // SAFETY: `bytes / 8` words, page-aligned, alive as long as the Mapping; only Region touches them, atomically.
    Ok(unsafe { Region::new(words, bytes / 8, existed, None, owner) })
}

fn lock(file: File) -> Result<Flock<File>, nix::errno::Errno> {
    let mut file = Some(file);
    patiently(
        || {
            let attempt = file.take().expect("put back below");
            Flock::lock(attempt, FlockArg::LockExclusiveNonblock).map_err(|(back, errno)| {
                file = Some(back);
                errno
            })
        },
        |errno| *errno == nix::errno::Errno::EWOULDBLOCK,
    )
}

fn nix_error(error: std::io::Error) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
