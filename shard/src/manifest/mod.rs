//! The manifest log of a shard: which tables there are and where replay begins, as opaque edits behind a snapshot, in two
//! copies of two halves each.
//!
//! ```text
//! copy 0 | half 0: snapshot 1, edits 2..=6, (older) | half 1: snapshot 7, edits 8, 9 | <- in force
//! copy 1 | half 0: the same, position by position   | half 1: the same               |
//! ```
//!
//! Owns the order: a record is flushed in both copies before it counts; a snapshot goes into the half that is not in
//! force, and is flushed before it is in force. Must never write into the half in force but behind its end, and never
//! anything after a failure. Invariant: at any moment the newest state that counts is whole in both copies, so that
//! a crash or the loss of one copy of anything leaves it, and every start writes it anew, which mends what one copy lost.

mod area;
mod read;
#[cfg(test)]
mod tests;

pub use area::ManifestZones;
pub use read::{Reading, Verdict};

use crate::journal::record_bytes;
use ioengine::sync::join;
use ioengine::{Buf, Disk, DiskError, Io};
use layout::journal_record::{FrameChecksum, RecordWriter, body_bytes_max};
use layout::manifest_record::{ManifestKind, seal};
use layout::units::{Incarnation, Sequence};
use std::rc::Rc;
use std::time::Duration;

/// How long to wait before a record that found no space is written again.
const SPACE_RETRY: Duration = Duration::from_millis(100);

/// How a write to the manifest went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Wrote {
    /// It is durable in both copies.
    Durable,
    /// It does not fit the half; nothing has changed. After `append`: rewrite. After `rewrite`: the state is too large.
    Full,
}

/// Writing end of a manifest.
pub struct Manifest {
    io: Io,
    zones: ManifestZones,
    checksum: FrameChecksum,
    incarnation: Incarnation,
    /// One for each copy.
    buffers: [Option<Buf>; 2],
    record_bytes_max: u64,
    half: usize,
    end: u64,
    /// Of the snapshot in force, if this start has written it.
    snapshot: Option<Sequence>,
    last: Sequence,
    failed: bool,
}

/// A manifest as a start finds it.
pub struct Opened {
    /// To go on with: [`Manifest::rewrite`] comes first. `None` when it is damaged: nothing is written over evidence.
    pub manifest: Option<Manifest>,
    /// What it holds.
    pub reading: Reading,
}

/// Bytes of a read of a start, if there is memory for two of them, one for each copy: less than what tables may take of an arena, who take
/// nothing yet.
const LOAD_BYTES: usize = 512 << 10;

/// Read a manifest, changing nothing. `buffer` is at least one block.
///
/// The device is flushed once before anything is believed: what a killed process left in the device's cache can be
/// read, and is lost by the next power cut unless it is flushed.
///
/// # Errors
/// [`DiskError`] when the flush fails. What cannot be read is damage, not an error.
pub async fn read(disk: &Disk, zones: &ManifestZones, buffer: Buf) -> Result<Reading, DiskError> {
    let (reading, _) = read_with(disk, zones, (buffer, None)).await?;
    Ok(reading)
}

async fn read_with(
    disk: &Disk,
    zones: &ManifestZones,
    buffers: area::Buffers,
) -> Result<(Reading, area::Buffers), DiskError> {
    disk.flush().await?;
    let (areas, buffers) = area::load(disk, zones, buffers).await;
    let reading = read::judge(&areas);
    match reading.verdict {
        Verdict::Damaged { what, at } => tracing::error!(what, %at, "the manifest is damaged"),
        Verdict::Whole if reading.single_count > 0 => {
            tracing::warn!(records = reading.single_count, "one copy of the manifest misses records");
        }
        Verdict::Whole | Verdict::Fresh => {}
    }
    Ok((reading, buffers))
}

/// What the bytes of the halves say, by copy, then by half: for checkers that have an image of a device.
#[must_use]
pub fn read_image(zones: &ManifestZones, halves: [[Vec<u8>; 2]; 2]) -> Reading {
    let [[a, b], [c, d]] = halves;
    let sort = |copy, half, bytes| area::Area::sort(zones, copy, half, bytes, &[]);
    read::judge(&[[sort(0, 0, a), sort(1, 0, c)], [sort(0, 1, b), sort(1, 1, d)]])
}

impl Reading {
    /// The last start that wrote it; 0 when none was finished.
    #[must_use]
    pub fn written_by(&self) -> Incarnation {
        if self.verdict == Verdict::Fresh { Incarnation(0) } else { self.incarnation_max }
    }

    /// Judge it beside the superblock: `incarnation` is the start that reads it, or the one that would come next.
    pub fn judge_start(&mut self, zones: &ManifestZones, incarnation: Incarnation) {
        if self.incarnation_max >= incarnation && !matches!(self.verdict, Verdict::Damaged { .. }) {
            let what = "it is of a later start than the superblock, which was rolled back";
            self.verdict = Verdict::Damaged { what, at: zones.offset(0, self.half, 0) };
        }
    }
}

impl Manifest {
    /// Read a manifest and take it over for this start. Both buffers have one size, that of the largest record; a half
    /// holds at least two of them.
    ///
    /// [`Verdict::Fresh`] says only that all four halves were never written. Both copies wiped look the same: whoever
    /// knows better, from a journal that has records or starts that served, must not take it for an empty shard.
    ///
    /// # Errors
    /// [`DiskError`] when the flush fails.
    pub async fn open(
        io: &Io,
        disk: &Disk,
        zones: ManifestZones,
        incarnation: Incarnation,
        buffers: [Buf; 2],
    ) -> Result<Opened, DiskError> {
        let [first, second] = buffers;
        let record_bytes_max = first.len() as u64;
        assert_eq!(first.len(), second.len(), "a record goes to both copies");
        assert!(zones.half_bytes() >= 2 * record_bytes_max, "a half holds a snapshot and an edit");
        let wide = || io.buffer(LOAD_BYTES);
        let (mut reading, first, second) = match (wide(), wide()) {
            (Some(one), two @ Some(_)) => (read_with(disk, &zones, (one, two)).await?.0, first, second),
            _ => {
                let (reading, (first, _)) = read_with(disk, &zones, (first, None)).await?;
                (reading, first, second)
            }
        };
        reading.judge_start(&zones, incarnation);
        let damaged = matches!(reading.verdict, Verdict::Damaged { .. });
        let manifest = (!damaged).then(|| Manifest {
            io: io.clone(),
            zones,
            checksum: FrameChecksum::manifest(zones.identity),
            incarnation,
            buffers: [Some(first), Some(second)],
            record_bytes_max,
            half: reading.half,
            end: reading.end,
            snapshot: None,
            last: reading.sequence,
            failed: false,
        });
        Ok(Opened { manifest, reading })
    }

    /// Bytes of the largest body of a record.
    #[must_use]
    pub fn body_bytes_max(&self) -> usize {
        body_bytes_max(self.record_bytes_max as usize)
    }

    /// Bytes that the records of a snapshot may take: sum of [`record_bytes`] over its bodies.
    #[must_use]
    pub fn snapshot_bytes_max(&self) -> u64 {
        self.zones.half_bytes() - self.record_bytes_max
    }

    /// Number of the last record that counts.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// Where it stands.
    #[must_use]
    pub fn zones(&self) -> &ManifestZones {
        &self.zones
    }

    /// Bytes of the half in force, and how many of them are used.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.zones.half_bytes(), self.end)
    }

    /// Make one edit durable in both copies.
    ///
    /// # Errors
    /// [`DiskError`]: the edit may be there or not, and nothing more is written until the next start.
    pub async fn append(&mut self, disk: &Disk, body: &[u8]) -> Result<Wrote, DiskError> {
        let snapshot = self.snapshot.expect("a start writes its snapshot before its first edit");
        let bytes = record_bytes(body.len());
        if self.end + bytes > self.zones.half_bytes() {
            return Ok(Wrote::Full);
        }
        let sequence = self.last.next();
        self.write(disk, self.half, self.end, sequence, ManifestKind::Edit { snapshot }, body).await?;
        self.flush(disk).await?;
        self.last = sequence;
        self.end += bytes;
        Ok(Wrote::Durable)
    }

    /// Write a whole new state, as bodies in order, into the half that is not in force, and put it in force. No bodies
    /// are one empty body. What a snapshot may take leaves room for one edit of the largest size.
    ///
    /// # Errors
    /// [`DiskError`]: either state may be found by the next start, and nothing more is written before.
    pub async fn rewrite<B: AsRef<[u8]>>(
        &mut self,
        disk: &Disk,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<Wrote, DiskError> {
        let (half, sequence) = (1 - self.half, self.last.next());
        let most = self.snapshot_bytes_max();
        let mut bodies = bodies.into_iter().peekable();
        let (mut at, mut part) = (0, 0);
        loop {
            let next = bodies.next();
            let body = next.as_ref().map_or(&[][..], AsRef::as_ref);
            let last = bodies.peek().is_none();
            let bytes = record_bytes(body.len());
            if at + bytes > most {
                // What was written of it has no last part, so it never counts, and its number is taken by the next.
                return Ok(Wrote::Full);
            }
            self.write(disk, half, at, sequence, ManifestKind::Snapshot { part, last }, body).await?;
            at += bytes;
            part += 1;
            if last {
                break;
            }
        }
        // Were it in force before this, a power cut would leave what counts in neither half: edits behind a snapshot
        // that is not there.
        self.flush(disk).await?;
        self.half = half;
        self.end = at;
        self.snapshot = Some(sequence);
        self.last = sequence;
        Ok(Wrote::Durable)
    }

    /// Write one record to both copies, side by side.
    async fn write(
        &mut self,
        disk: &Disk,
        half: usize,
        at: u64,
        sequence: Sequence,
        kind: ManifestKind,
        body: &[u8],
    ) -> Result<(), DiskError> {
        if self.failed {
            return Err(DiskError::Ended { name: Rc::from(disk.name()) });
        }
        // Until both writes have been seen to succeed nobody knows what is there, also when the caller goes away.
        self.failed = true;
        let (zones, checksum, incarnation) = (self.zones, &self.checksum, self.incarnation);
        let copy = |copy: usize, mut buffer: Buf| {
            let mut writer = RecordWriter::new(&mut buffer);
            assert!(writer.append(body), "a body fits a record");
            let offset = zones.offset(copy, half, at);
            let bytes = seal(writer, checksum, offset, incarnation, sequence, kind);
            disk.write(buffer, offset.0, bytes)
        };
        loop {
            let [first, second] =
                self.buffers.each_mut().map(|buffer| buffer.take().expect("one write at a time"));
            let first = copy(0, first);
            let ((first, buffer), second) = if ioengine::canary("manifest_one_copy") {
                (first.await, (Ok(()), second))
            } else {
                join(first, copy(1, second)).await
            };
            self.buffers = [Some(buffer), Some(second.1)];
            match first.and(second.0) {
                // Part of it may be there: the same bytes go to the same place until there is space.
                Err(DiskError::Full { .. }) => {
                    ioengine::sometimes!("a manifest record finds no space");
                    self.io.sleep(SPACE_RETRY).await;
                }
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        self.failed = false;
        Ok(())
    }

    async fn flush(&mut self, disk: &Disk) -> Result<(), DiskError> {
        if ioengine::canary("manifest_in_force_before_flush") {
            return Ok(());
        }
        self.failed = true;
        disk.flush().await?;
        self.failed = false;
        Ok(())
    }
}
