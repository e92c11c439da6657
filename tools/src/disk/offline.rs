//! A disk opened by a tool, with no node running on it.
//!
//! Owns a core on the calling thread for as long as the disk is open.

use ioengine::disk::{DiskOpen, DiskOpenError, Geometry};
use ioengine::uring::Runtime;
use ioengine::{CoreConfig, Disk, DiskError, Io};
use layout::Corrupt;
use layout::superblock::{SUPERBLOCK_BYTES, Superblock, copy_offset};
use layout::superblock_copies::{ChooseError, Copies, choose};

use super::content::{Content, END_BYTES, content};
use crate::failure::Failure;

/// Buffers for the largest journal record and some blocks beside it.
const ARENA_BYTES: usize = 64 << 20;
/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A disk and the core it is read on.
pub(crate) struct Offline {
    // Before the runtime, so that it is closed before its core goes.
    disk: Disk,
    runtime: Runtime,
}

/// A core for tools on the calling thread.
///
/// # Errors
/// The machine refuses a ring or the memory.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let config = CoreConfig { arena_bytes: ARENA_BYTES, ..CoreConfig::small("tool", 0) };
    Runtime::new(config).map_err(|error| Failure::failed(error.to_string(), "thermocline doctor says more"))
}

impl Offline {
    /// Opens a disk; for writing it is claimed.
    ///
    /// # Errors
    /// What the system says, and what to do.
    pub(crate) fn open(path: &str, read_only: bool) -> Result<Offline, Failure> {
        Offline::try_open(path, read_only)?.map_err(|error| Failure::failed(error.to_string(), ""))
    }

    /// The same, where a disk that cannot be opened is an answer, too.
    ///
    /// # Errors
    /// The machine refuses a core.
    pub(super) fn try_open(path: &str, read_only: bool) -> Result<Result<Offline, DiskOpenError>, Failure> {
        let runtime = runtime()?;
        let disk = runtime.io().open_disk(path, DiskOpen { read_only });
        Ok(disk.map(|disk| Offline { disk, runtime }))
    }

    /// What it holds, by both of its ends.
    ///
    /// # Errors
    /// The device cannot read them.
    pub(super) fn content(&self) -> Result<Content, Failure> {
        let last = self.geometry().bytes.saturating_sub(END_BYTES as u64) / 4096 * 4096;
        let end =
            |offset| self.read(offset, END_BYTES).map_err(|error| Failure::failed(error.to_string(), ""));
        Ok(content(&end(0)?, &end(last)?))
    }

    /// Is it a cold disk of ours, sound or damaged?
    ///
    /// # Errors
    /// The device cannot read its ends.
    pub(crate) fn is_cold(&self) -> Result<bool, Failure> {
        Ok(self.content()? == Content::Cold)
    }

    /// The disk.
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Its facts.
    pub(crate) fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    /// The core.
    pub(crate) fn io(&self) -> &Io {
        self.runtime.io()
    }

    /// Runs something on the core to its end.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// What stands at the places of the superblock. A place that cannot be read, or lies behind the end, counts as
    /// damaged.
    pub(crate) fn copies(&self) -> Copies {
        std::array::from_fn(|index| {
            let offset = copy_offset(index);
            let bytes = self.read(offset.0, SUPERBLOCK_BYTES).unwrap_or_default();
            match bytes.first_chunk::<SUPERBLOCK_BYTES>() {
                Some(block) => Superblock::decode(block, offset),
                None => Err(Corrupt { structure: "superblock", field: "block", at: offset.0 }),
            }
        })
    }

    /// The superblock in force of a disk that is as long as it says.
    ///
    /// # Errors
    /// It is not formatted (with the command that formats it), damaged, or was cut.
    pub(crate) fn superblock(&self) -> Result<Superblock, Failure> {
        let name = self.disk.name();
        let superblock = match choose(&self.copies()) {
            Ok(superblock) => superblock,
            Err(error) => return Err(self.not_ours(&error)),
        };
        let bytes = self.geometry().bytes;
        if superblock.device_bytes > bytes {
            return Err(Failure::failed(
                format!("disk {name} has {bytes} bytes and was formatted with {}", superblock.device_bytes),
                "the file or partition was cut: bring back what was cut off, nothing is lost then",
            ));
        }
        Ok(superblock)
    }

    fn not_ours(&self, error: &ChooseError) -> Failure {
        let name = self.disk.name();
        let content = match self.content() {
            Ok(content) => content,
            Err(failure) => return failure,
        };
        match content {
            Content::Cold => Failure::failed(
                format!("disk {name} is a cold disk, not the disk of a store"),
                "name it in cold.disks of a node with the role cold, or name another one here",
            ),
            Content::Store => Failure::failed(
                format!("disk {name}: {error}"),
                format!("see `thermocline inspect superblock {name}`; do not format it if its data matters"),
            ),
            Content::Empty => Failure::failed(
                format!("disk {name} is not formatted"),
                format!("thermocline disk format {name} --yes"),
            ),
            Content::Foreign(what) => Failure::failed(
                format!("disk {name} is not formatted and holds {what}"),
                "name another disk, or clear this one and format it (thermocline disk format)",
            ),
        }
    }

    /// Bytes of the disk; fewer where it ends. `offset` is a multiple of 4096.
    ///
    /// # Errors
    /// The device cannot read them.
    pub(crate) fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, DiskError> {
        let end = offset.saturating_add(bytes as u64).min(self.geometry().bytes);
        let wanted = usize::try_from(end.saturating_sub(offset)).expect("no more than was asked for");
        let mut out = Vec::with_capacity(wanted);
        self.run(async {
            let mut buffer =
                self.io().buffer(CHUNK_BYTES).expect("the arena holds 64 such buffers, this is one");
            while out.len() < wanted {
                // A disk is whole blocks, and so is what is left of it.
                let block = self.geometry().block_bytes as usize;
                let count = (wanted - out.len()).min(CHUNK_BYTES);
                let (result, back) =
                    self.disk.read(buffer, offset + out.len() as u64, count.next_multiple_of(block)).await;
                buffer = back;
                result?;
                out.extend_from_slice(&buffer[..count]);
            }
            Ok(())
        })?;
        Ok(out)
    }
}
