//! Writing a table to extents, as its bytes are made. Nothing refers to it before the manifest does; given up, it gives
//! its extents back.

use super::gather::time_of;
use super::room::Purpose;
use super::window::Spread;
use super::zone::{HeldExtents, Zone};
use ioengine::DiskError;
use layout::table::{Record, TableOptions, TableSummary, TableWriter};
use layout::table_seal::{Compressor, TableIdentity};
use layout::units::BLOCK_BYTES;
use std::rc::Rc;

/// Bytes of one write.
pub(crate) const WRITE_BYTES: usize = 256 << 10;

/// Why a table cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// The device said no.
    #[error(transparent)]
    Disk(DiskError),
    /// What was just written cannot be read.
    #[error(transparent)]
    Read(#[from] super::zone::ReadError),
    /// No extents are left for this purpose.
    #[error("the tables' zone is full")]
    Space,
}

impl From<DiskError> for BuildError {
    /// Want of space passes; every other refusal does not.
    fn from(error: DiskError) -> BuildError {
        match error {
            DiskError::Full { .. } => BuildError::Space,
            other => BuildError::Disk(other),
        }
    }
}

/// A finished table: its bytes are given to the device, and not flushed yet.
pub(crate) struct Built {
    pub(crate) summary: TableSummary,
    pub(crate) extents: HeldExtents,
    /// How its records lie to the end of the sealed windows.
    pub(crate) spread: Spread,
}

/// A string of bytes on its way into extents.
pub(crate) struct Sink {
    extents: HeldExtents,
    offset: u64,
    purpose: Purpose,
    /// What is left to come, as far as anyone knows.
    expected_bytes: u64,
}

impl Sink {
    pub(crate) fn new(zone: Rc<Zone>, purpose: Purpose, expected_bytes: u64) -> Sink {
        Sink { extents: HeldExtents::none(zone), offset: 0, purpose, expected_bytes }
    }

    /// Write the first bytes of `pending`, whole blocks and at most one write; with `last`, all that is left of it, the
    /// last block filled up with zeros. Bytes taken.
    pub(crate) async fn write(&mut self, pending: &[u8], last: bool) -> Result<usize, BuildError> {
        if self.extents.zone().bytes_of(self.extents.ranges()) == self.offset {
            let want = self.expected_bytes.max(pending.len() as u64);
            if !self.extents.grow(want, self.purpose) {
                return Err(BuildError::Space);
            }
        }
        let (zone, ranges) = (self.extents.zone(), self.extents.ranges());
        let (_, together) = zone.place(ranges, self.offset).expect("just grown");
        let room = usize::try_from(together).unwrap_or(usize::MAX).min(WRITE_BYTES);
        let take = pending.len().min(room);
        let take = if last { take } else { take / BLOCK_BYTES * BLOCK_BYTES };
        if take == 0 {
            return Ok(0);
        }
        let whole = take.next_multiple_of(BLOCK_BYTES);
        let mut buffer = zone.buffer(whole).await;
        buffer[..take].copy_from_slice(&pending[..take]);
        buffer[take..whole].fill(0);
        zone.write(ranges, self.offset, buffer, whole).await?;
        self.offset += whole as u64;
        self.expected_bytes = self.expected_bytes.saturating_sub(whole as u64);
        Ok(take)
    }

    /// Done: the extents, without those at the end that were not needed.
    pub(crate) fn finish(mut self) -> HeldExtents {
        self.extents.trim(self.offset);
        self.extents
    }
}

/// A table that is being written.
pub(crate) struct TableBuilder {
    writer: TableWriter,
    sink: Sink,
    spread: Spread,
}

impl TableBuilder {
    /// Of a tablet whose sealed windows end at `sealed_to`.
    pub(crate) fn new(
        identity: TableIdentity,
        options: TableOptions<'_>,
        compressor: Compressor,
        sink: Sink,
        sealed_to: u64,
    ) -> TableBuilder {
        let writer = TableWriter::new(identity, options, compressor);
        TableBuilder { writer, sink, spread: Spread::new(sealed_to) }
    }

    /// Append a record; keys ascend.
    pub(crate) fn push(&mut self, key: &[u8], record: &Record<'_>) {
        self.writer.push(key, record.version, record.expiry_us, record.value);
        self.spread.add(time_of(key));
    }

    /// The sealed windows end elsewhere than was thought; between there and here it has no records.
    pub(crate) fn set_sealed_to(&mut self, sealed_to: u64) {
        self.spread.sealed_to = sealed_to;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writer.is_empty()
    }

    /// Bytes that were given to the device.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.sink.offset
    }

    /// Enough was made for a write, or for a dictionary.
    pub(crate) fn is_due(&self) -> bool {
        self.writer.pending().len() >= WRITE_BYTES || self.writer.has_work()
    }

    /// Write what makes whole writes.
    pub(crate) async fn write(&mut self) -> Result<(), BuildError> {
        while self.writer.work() {
            ioengine::sync::yield_now().await;
        }
        while self.writer.pending().len() >= WRITE_BYTES {
            let taken = self.sink.write(self.writer.pending(), false).await?;
            self.writer.consume(taken);
        }
        Ok(())
    }

    /// End the table and write the rest. The compressor comes back for the next one.
    pub(crate) async fn finish(mut self) -> Result<(Built, Compressor), BuildError> {
        while self.writer.step() {
            ioengine::sync::yield_now().await;
        }
        let summary = self.writer.finish();
        while !self.writer.pending().is_empty() {
            let taken = self.sink.write(self.writer.pending(), true).await?;
            self.writer.consume(taken);
        }
        let built = Built { summary, extents: self.sink.finish(), spread: self.spread };
        Ok((built, self.writer.into_compressor()))
    }
}
