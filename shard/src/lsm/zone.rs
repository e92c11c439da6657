//! Where a shard's tables lie on its device: extents, and reading and writing through them.
//!
//! A table is a string of bytes; it lies in ranges of extents, in order. Whoever reads or writes names places in the
//! table; only this file knows places on the device.

use super::extents::{ExtentRange, Extents, place};
use super::room::Purpose;
use crate::sink::{ColdFailure, ColdGroup};
use ioengine::{Buf, Disk, DiskError, Instant, Io};
use layout::Corrupt;
use layout::units::{BLOCK_BYTES, TableId};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Why bytes of a table cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The device said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// They are not what was written.
    #[error("table {table}: {corrupt}")]
    Corrupt {
        /// Number of the table.
        table: TableId,
        /// What is wrong.
        corrupt: Corrupt,
    },
    /// What it holds is not known.
    #[error("table {table}: its footer, index or filter cannot be read")]
    Broken {
        /// Number of the table.
        table: TableId,
    },
    /// Its blocks stand on cold disks, and none of the three copies gives them.
    #[error("table {table}: {failure}")]
    Cold {
        /// Number of the table.
        table: TableId,
        /// Why not.
        failure: ColdFailure,
    },
    /// The manifest gives it fewer extents than it has bytes.
    #[error("table {table}: byte {offset} lies in none of its extents")]
    Outside {
        /// Number of the table.
        table: TableId,
        /// Place in the table.
        offset: u64,
    },
}

/// How long to wait before a buffer is asked for again.
const BUFFER_RETRY: Duration = Duration::from_millis(1);

/// The extents of one shard.
pub(crate) struct Zone {
    io: Io,
    disk: Disk,
    /// Device offset of extent 0.
    base: u64,
    extent_bytes: u64,
    extents: RefCell<Extents>,
    read_count: Cell<u64>,
    written_bytes: Cell<u64>,
    /// Nobody knows which manifest is in force: no extent is given out, and none is free again.
    closed: Cell<bool>,
    /// Where the blocks of sunk tables are.
    cold: RefCell<Option<Rc<ColdGroup>>>,
}

impl Zone {
    /// `count` extents of `extent_bytes` from `base` on, all free.
    pub(crate) fn new(io: Io, disk: Disk, base: u64, extent_bytes: u64, count: u32) -> Zone {
        // Room for merges: an eighth of a small zone, less of a large one.
        let reserve = (count / 8).min(4096.max(count / 32));
        let extents = RefCell::new(Extents::new(count, reserve));
        Zone {
            io,
            disk,
            base,
            extent_bytes,
            extents,
            read_count: Cell::new(0),
            written_bytes: Cell::new(0),
            closed: Cell::new(false),
            cold: RefCell::default(),
        }
    }

    /// Sunk tables of the shard have their blocks there.
    pub(crate) fn set_cold(&self, cold: Option<Rc<ColdGroup>>) {
        *self.cold.borrow_mut() = cold;
    }

    /// Where the blocks of sunk tables are.
    pub(crate) fn cold(&self) -> Option<Rc<ColdGroup>> {
        self.cold.borrow().clone()
    }

    /// Now, by the clock of the core.
    pub(crate) fn now(&self) -> Instant {
        self.io.now()
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(crate) fn extent_bytes(&self) -> u64 {
        self.extent_bytes
    }

    pub(crate) fn extents(&self) -> &RefCell<Extents> {
        &self.extents
    }

    /// Reads given to the device, and bytes written to it.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.read_count.get(), self.written_bytes.get())
    }

    /// A manifest may or may not have become the one in force. Failing history otherwise: it has, in one copy; its tables
    /// were given up and their extents written again; the next start finds others' bytes in them.
    pub(crate) fn close(&self) {
        self.closed.set(true);
    }

    /// Give extents back.
    pub(crate) fn give(&self, ranges: &[ExtentRange]) {
        if self.closed.get() {
            return;
        }
        let mut extents = self.extents.borrow_mut();
        ranges.iter().for_each(|range| extents.give(*range));
    }

    /// More extents at the end of `ranges`, as many as `bytes` want and are to be had in one piece.
    pub(crate) fn grow(&self, ranges: &mut Vec<ExtentRange>, bytes: u64, purpose: Purpose) -> bool {
        let want = u32::try_from(bytes.div_ceil(self.extent_bytes)).unwrap_or(u32::MAX);
        if self.closed.get() {
            return false;
        }
        let Some(more) = self.extents.borrow_mut().take(want, purpose) else { return false };
        match ranges.last_mut() {
            Some(last) if last.first + last.count == more.first => last.count += more.count,
            _ => ranges.push(more),
        }
        true
    }

    /// Bytes that ranges hold.
    pub(crate) fn bytes_of(&self, ranges: &[ExtentRange]) -> u64 {
        ranges.iter().map(|range| u64::from(range.count)).sum::<u64>() * self.extent_bytes
    }

    /// Device offset of byte `offset` of a table, and how many bytes of it follow each other there.
    pub(crate) fn place(&self, ranges: &[ExtentRange], offset: u64) -> Option<(u64, u64)> {
        place(self.base, self.extent_bytes, ranges, offset)
    }

    /// A buffer of `bytes`; waits until the arena has one.
    pub(crate) async fn buffer(&self, bytes: usize) -> Buf {
        loop {
            if let Some(buffer) = self.io.buffer(bytes) {
                return buffer;
            }
            ioengine::sometimes!("a disk read waits for a buffer");
            self.io.sleep(BUFFER_RETRY).await;
        }
    }

    /// Append `bytes` bytes from byte `offset` of table `table` to `out`. One read of the device where they lie in one
    /// piece, as blocks do that are not larger than an extent.
    pub(crate) async fn read(
        &self,
        table: TableId,
        ranges: &[ExtentRange],
        offset: u64,
        bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let (mut offset, mut left) = (offset, bytes);
        let unit = BLOCK_BYTES as u64;
        while left > 0 {
            let (at, together) = self.place(ranges, offset).ok_or(ReadError::Outside { table, offset })?;
            let most = self.io_bytes_max();
            let count = left.min(usize::try_from(together).unwrap_or(usize::MAX)).min(most);
            let begin = at / unit * unit;
            let end = (at + count as u64).div_ceil(unit) * unit;
            let whole = usize::try_from(end - begin).expect("bounded by the largest buffer");
            let buffer = self.buffer(whole).await;
            self.read_count.set(self.read_count.get() + 1);
            let (result, buffer) = self.disk.read(buffer, begin, whole).await;
            result?;
            let skip = (at - begin) as usize;
            out.extend_from_slice(&buffer[skip..skip + count]);
            offset += count as u64;
            left -= count;
        }
        Ok(())
    }

    /// Largest single read or write, bytes.
    fn io_bytes_max(&self) -> usize {
        (1 << 20) - BLOCK_BYTES
    }

    /// Write `buffer[..bytes]` at byte `offset` of a table, which lies in one piece there.
    pub(crate) async fn write(
        &self,
        ranges: &[ExtentRange],
        offset: u64,
        buffer: Buf,
        bytes: usize,
    ) -> Result<Buf, DiskError> {
        let (at, together) = self.place(ranges, offset).expect("the writer has grown the table");
        assert!(bytes as u64 <= together, "a write does not leave its extents");
        self.written_bytes.set(self.written_bytes.get() + bytes as u64);
        let (result, buffer) = self.disk.write(buffer, at, bytes).await;
        result.map(|()| buffer)
    }
}

/// Extents with an owner: free again when it lets go of them, unless the manifest names them.
pub(crate) struct HeldExtents {
    zone: Rc<Zone>,
    ranges: Vec<ExtentRange>,
    named: Cell<bool>,
}

impl HeldExtents {
    /// None yet, and not named.
    pub(crate) fn none(zone: Rc<Zone>) -> HeldExtents {
        HeldExtents { zone, ranges: Vec::new(), named: Cell::new(false) }
    }

    /// Those that the manifest names.
    pub(crate) fn named(zone: Rc<Zone>, ranges: Vec<ExtentRange>) -> HeldExtents {
        HeldExtents { zone, ranges, named: Cell::new(true) }
    }

    /// Where they lie.
    pub(crate) fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Which they are, in order.
    pub(crate) fn ranges(&self) -> &[ExtentRange] {
        &self.ranges
    }

    /// More of them, as [`Zone::grow`].
    pub(crate) fn grow(&mut self, bytes: u64, purpose: Purpose) -> bool {
        self.zone.grow(&mut self.ranges, bytes, purpose)
    }

    /// Give those at the end back that `bytes` do not reach.
    pub(crate) fn trim(&mut self, bytes: u64) {
        let mut spare = (self.zone.bytes_of(&self.ranges) - bytes) / self.zone.extent_bytes;
        while spare > 0 {
            let last = self.ranges.last_mut().expect("what is spare stands in a range");
            let count = u64::from(last.count).min(spare) as u32;
            last.count -= count;
            let rest = ExtentRange { first: last.first + last.count, count };
            self.zone.give(&[rest]);
            spare -= u64::from(count);
            if last.count == 0 {
                self.ranges.pop();
            }
        }
    }

    /// The manifest names them, or names them no more.
    pub(crate) fn set_named(&self, named: bool) {
        self.named.set(named);
    }
}

impl Drop for HeldExtents {
    fn drop(&mut self) {
        if !self.named.get() {
            self.zone.give(&self.ranges);
        }
    }
}
