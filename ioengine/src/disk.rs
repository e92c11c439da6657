//! Disks: files and block devices alike, direct I/O, whole blocks only. A failed flush ends the disk until restart.

use crate::buffer::Buf;
use crate::io::Io;
use crate::operation::{Errno, Operation};
use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How to open a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskOpen {
    /// Reads only; writes are our bug then. No exclusive claim is made.
    pub read_only: bool,
}

/// Facts of an open disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in bytes, rounded down to whole blocks.
    pub bytes: u64,
    /// Smallest unit of reads and writes, and their alignment, in bytes (512 or 4096).
    pub block_bytes: u32,
    /// Whether a completed write may still be lost with power: then only a flush makes it stay.
    pub volatile_cache: bool,
    /// A block device, not a file.
    pub block_device: bool,
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open disk {name}: {what}; {mend}")]
pub struct DiskOpenError {
    /// The path or name asked for.
    pub name: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

/// Why a disk operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DiskError {
    /// The device said no. Its data at this place is unknown.
    #[error(
        "disk {name}: {operation} of {bytes} bytes at offset {offset} failed: {errno}; check the device (dmesg, smartctl)"
    )]
    Device {
        /// Path or name.
        name: Rc<str>,
        /// `read`, `write` or `flush`.
        operation: &'static str,
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        bytes: usize,
        /// What the system said.
        errno: Errno,
    },
    /// No room: a file-backed disk on a full file system.
    #[error(
        "disk {name}: no space for {bytes} bytes at offset {offset}: the file system under it is full; free space there"
    )]
    Full {
        /// Path or name.
        name: Rc<str>,
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        bytes: usize,
    },
    /// An earlier flush failed: what the device holds is not known any more.
    #[error(
        "disk {name}: ended after a failed flush; restart the node, and replace the disk if it happens again"
    )]
    Ended {
        /// Path or name.
        name: Rc<str>,
    },
}

struct ShareState {
    name: String,
    ended: Arc<AtomicBool>,
    /// The driver's own: a file descriptor, or the simulated disk's number.
    inner: Box<dyn Any + Send + Sync>,
}

/// A disk as it travels between the cores of one node. The flag that ends it is shared by all of them.
#[derive(Clone)]
pub struct DiskShare(Arc<ShareState>);

impl DiskShare {
    pub(crate) fn new(name: &str, inner: Box<dyn Any + Send + Sync>) -> DiskShare {
        DiskShare(Arc::new(ShareState { name: name.to_owned(), ended: Arc::default(), inner }))
    }

    /// The flag that ends the disk on every core.
    pub(crate) fn ended(&self) -> &Arc<AtomicBool> {
        &self.0.ended
    }

    pub(crate) fn inner<T: 'static>(&self) -> Option<&T> {
        self.0.inner.downcast_ref()
    }

    /// Path or name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

/// An open disk on one core.
pub struct Disk {
    io: Io,
    handle: u32,
    geometry: Geometry,
    share: DiskShare,
    name: Rc<str>,
}

impl Disk {
    pub(crate) fn new(io: Io, handle: u32, geometry: Geometry, share: DiskShare) -> Disk {
        let name = Rc::from(share.name());
        io.disk_ends(handle, Arc::clone(share.ended()));
        Disk { io, handle, geometry, share, name }
    }

    /// Path or name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Facts of this disk.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// For [`Io::attach_disk`] on another core.
    #[must_use]
    pub fn share(&self) -> DiskShare {
        self.share.clone()
    }

    /// A flush failed on some core: writes and flushes are refused until restart.
    #[must_use]
    pub fn ended(&self) -> bool {
        // Acquire pairs with the Release in `OperationTable::complete`: the failure is seen with its flag.
        self.share.0.ended.load(Ordering::Acquire)
    }

    fn error(&self, operation: &'static str, offset: u64, bytes: usize, errno: Errno) -> DiskError {
        let name = Rc::clone(&self.name);
        if errno.is_want_of_space() {
            return DiskError::Full { name, offset, bytes };
        }
        DiskError::Device { name, operation, offset, bytes, errno }
    }

    fn check(&self, offset: u64, bytes: usize, buffer: &Buf) {
        let block = u64::from(self.geometry.block_bytes);
        assert!(bytes > 0 && bytes <= buffer.len(), "{bytes} bytes do not fit a buffer of {}", buffer.len());
        assert!(
            offset.is_multiple_of(block) && (bytes as u64).is_multiple_of(block),
            "whole blocks of {block} only"
        );
        assert!(
            offset + bytes as u64 <= self.geometry.bytes,
            "beyond the end of {}: {offset} + {bytes}",
            self.name
        );
    }

    /// Fill `buffer[..bytes]` from `offset`. Whole blocks; a wrong alignment or range is our bug and stops the process.
    /// The buffer comes back with the result; its contents are arbitrary after an error.
    pub async fn read(&self, buffer: Buf, offset: u64, bytes: usize) -> (Result<(), DiskError>, Buf) {
        self.check(offset, bytes, &buffer);
        let count = u32::try_from(bytes).expect("a buffer's length fits u32");
        let operation = Operation::DiskRead { disk: self.handle, offset, buffer, bytes: count };
        let (result, operation) = self.io.start(operation).await;
        let buffer = operation.into_buffer().expect("a read gives its buffer back");
        let result = match result {
            Ok(done) if done == count => Ok(()),
            // The driver repeats short reads; what is still short lies behind the end of a file that was cut.
            Ok(_) => Err(self.error("read", offset, bytes, Errno(libc::EIO))),
            Err(errno) => Err(self.error("read", offset, bytes, errno)),
        };
        (result, buffer)
    }

    /// Write `buffer[..bytes]` at `offset`. It may be lost, whole or in part (each block of 512 bytes on its own),
    /// until a flush that began after its completion has succeeded.
    pub async fn write(&self, buffer: Buf, offset: u64, bytes: usize) -> (Result<(), DiskError>, Buf) {
        self.write_with(buffer, offset, bytes, false).await
    }

    /// Write and make durable: on a disk with a volatile cache write-through or write then flush, whichever the
    /// driver measured to be faster. On success it stays, come what may. A failure ends the disk as a failed flush does.
    pub async fn write_durable(
        &self,
        buffer: Buf,
        offset: u64,
        bytes: usize,
    ) -> (Result<(), DiskError>, Buf) {
        self.write_with(buffer, offset, bytes, true).await
    }

    async fn write_with(
        &self,
        buffer: Buf,
        offset: u64,
        bytes: usize,
        durable: bool,
    ) -> (Result<(), DiskError>, Buf) {
        self.check(offset, bytes, &buffer);
        if self.ended() {
            return (Err(DiskError::Ended { name: Rc::clone(&self.name) }), buffer);
        }
        let count = u32::try_from(bytes).expect("a buffer's length fits u32");
        let operation = Operation::DiskWrite { disk: self.handle, offset, buffer, bytes: count, durable };
        let (result, operation) = self.io.start(operation).await;
        let buffer = operation.into_buffer().expect("a write gives its buffer back");
        let result = match result {
            // Another flush failed meanwhile: what this one says of the device's cache is worth nothing.
            Ok(_) if durable && self.ended() => Err(DiskError::Ended { name: Rc::clone(&self.name) }),
            Ok(done) if done == count => Ok(()),
            Ok(_) => Err(self.error("write", offset, bytes, Errno(libc::EIO))),
            Err(errno) => Err(self.error("write", offset, bytes, errno)),
        };
        (result, buffer)
    }

    /// Make every write that completed before this call durable.
    ///
    /// # Errors
    /// Any failure ends the disk on all cores: what it holds is not known any more, and asking again could
    /// succeed without the lost write.
    pub async fn flush(&self) -> Result<(), DiskError> {
        if self.ended() {
            return Err(DiskError::Ended { name: Rc::clone(&self.name) });
        }
        let (result, _) = self.io.start(Operation::DiskFlush { disk: self.handle }).await;
        match result {
            // The system reports a failure to one flush only. Another one that was in flight with it succeeds
            // although a write it stands for may be lost.
            Ok(_) if self.ended() => Err(DiskError::Ended { name: Rc::clone(&self.name) }),
            Ok(_) => Ok(()),
            Err(errno) => Err(self.error("flush", 0, 0, errno)),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.io.driver().disk_close(self.handle);
    }
}
