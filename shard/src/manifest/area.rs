//! Where the four parts of a manifest lie and what stands in them, frame by frame. Reads only. Never judges.
//!
//! ```text
//! copy 0: | half 0 | half 1 |        copy 1: | half 0 | half 1 |        a record stands at one position of both copies
//! ```

use ioengine::sync::join;
use ioengine::{Buf, Disk};
use layout::journal_record::{FRAME_BYTES, FRAME_PAYLOAD_BYTES, Frame, FrameChecksum, JournalIdentity};
use layout::manifest_record::ManifestHeader;
use layout::units::{BLOCK_BYTES, DiskOffset};
use layout::zone::Range;

/// How often a block that cannot be read is asked for again before it counts as unreadable.
const READ_ATTEMPTS: u32 = 3;

/// The manifest of one shard: its place and what its frames are bound to.
#[derive(Clone, Copy, Debug)]
pub struct ManifestZones {
    /// What its frames are bound to, besides their own magic.
    pub identity: JournalIdentity,
    /// By copy, then by half: four ranges of one size that do not overlap.
    pub copies: [[Range; 2]; 2],
}

impl ManifestZones {
    /// Bytes of a half.
    #[must_use]
    pub fn half_bytes(&self) -> u64 {
        let bytes = self.copies[0][0].bytes;
        let equal = self.copies.iter().flatten().all(|range| range.bytes == bytes);
        assert!(equal && bytes.is_multiple_of(BLOCK_BYTES as u64), "four halves of one size in whole blocks");
        bytes
    }

    /// Device offset of position `at` of a half.
    #[must_use]
    pub fn offset(&self, copy: usize, half: usize, at: u64) -> DiskOffset {
        self.copies[copy][half].offset.plus(at)
    }
}

/// One half of one copy, read and sorted.
pub(super) struct Area {
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    offset: DiskOffset,
}

/// By half, then by copy.
pub(super) type Areas = [[Area; 2]; 2];

impl Area {
    /// Sort what was read of `half` of `copy`. `unreadable` says of each block whether the device refused it.
    ///
    /// A frame that was written for the same position of the other copy counts as this copy's. Both copies hold the same
    /// there, and it closes the one way in which a single misdirected write could take both copies of a record without a
    /// trace: the write for copy 0 that lands on the same position of copy 1.
    pub(super) fn sort(
        zones: &ManifestZones,
        copy: usize,
        half: usize,
        bytes: Vec<u8>,
        unreadable: &[bool],
    ) -> Area {
        assert_eq!(bytes.len() as u64, zones.half_bytes(), "a whole half");
        let checksum = FrameChecksum::manifest(zones.identity);
        let frame = |(index, frame): (usize, &[u8; FRAME_BYTES])| {
            let at = (index * FRAME_BYTES) as u64;
            if unreadable.get(index * FRAME_BYTES / BLOCK_BYTES) == Some(&true) {
                return Frame::Bad;
            }
            match checksum.classify(zones.offset(copy, half, at), frame) {
                Frame::Bad => checksum.classify(zones.offset(1 - copy, half, at), frame),
                sorted => sorted,
            }
        };
        let frames = bytes.as_chunks::<FRAME_BYTES>().0.iter().enumerate().map(frame).collect();
        Area { bytes, frames, offset: zones.offset(copy, half, 0) }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Frames of `[from, to)`.
    pub(super) fn frames(&self, from: u64, to: u64) -> &[Frame] {
        &self.frames[from as usize / FRAME_BYTES..to as usize / FRAME_BYTES]
    }

    pub(super) fn all_frames(&self) -> &[Frame] {
        &self.frames
    }

    pub(super) fn offset(&self, at: u64) -> DiskOffset {
        self.offset.plus(at)
    }

    /// Header of the record that begins at `at` with a whole first frame, if one does and fits the half.
    pub(super) fn header(&self, at: u64) -> Option<ManifestHeader> {
        let Frame::Valid { incarnation, sequence } = *self.frames.get(at as usize / FRAME_BYTES)? else {
            return None;
        };
        let frame = &self.bytes[at as usize..at as usize + FRAME_BYTES];
        let payload = &frame[FRAME_BYTES - FRAME_PAYLOAD_BYTES..];
        let header = ManifestHeader::decode(incarnation, sequence, payload, self.offset(at)).ok()?;
        (header.record_bytes() <= self.bytes() - at).then_some(header)
    }

    /// Body of the record at `at`, all of whose frames are its own; `None` when it does not check.
    pub(super) fn body(&self, at: u64, header: &ManifestHeader) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        let record = &self.bytes[at as usize..(at + header.record_bytes()) as usize];
        match header.body(record, self.offset(at), &mut body) {
            Ok(()) => Some(body),
            Err(corrupt) => {
                tracing::error!(%corrupt, "a manifest record is whole and wrong");
                None
            }
        }
    }
}

/// Buffers to read with: with the second both copies are read at once.
pub(super) type Buffers = (Buf, Option<Buf>);

/// Read all four parts. Blocks that cannot be read are so marked, they are no errors. The buffers come back.
pub(super) async fn load(disk: &Disk, zones: &ManifestZones, buffers: Buffers) -> (Areas, Buffers) {
    let (first, second) = buffers;
    let (copies, buffers) = match second {
        Some(second) => {
            let both = join(load_copy(disk, zones, 0, first), load_copy(disk, zones, 1, second)).await;
            let ((zero, first), (one, second)) = both;
            ([zero, one], (first, Some(second)))
        }
        None => {
            let (zero, buffer) = load_copy(disk, zones, 0, first).await;
            let (one, buffer) = load_copy(disk, zones, 1, buffer).await;
            ([zero, one], (buffer, None))
        }
    };
    let [[a, b], [c, d]] = copies;
    ([[a, c], [b, d]], buffers)
}

/// Both halves of a copy.
async fn load_copy(disk: &Disk, zones: &ManifestZones, copy: usize, mut buffer: Buf) -> ([Area; 2], Buf) {
    let mut halves = Vec::with_capacity(2);
    for half in 0..2 {
        let mut bytes = vec![0; zones.half_bytes() as usize];
        let mut unreadable = vec![false; bytes.len() / BLOCK_BYTES];
        let step = buffer.len() / BLOCK_BYTES * BLOCK_BYTES;
        for (index, piece) in bytes.chunks_mut(step).enumerate() {
            let at = index * step;
            let unreadable = &mut unreadable[at / BLOCK_BYTES..][..piece.len() / BLOCK_BYTES];
            let offset = zones.offset(copy, half, at as u64);
            buffer = read_piece(disk, offset, piece, unreadable, buffer).await;
        }
        halves.push(Area::sort(zones, copy, half, bytes, &unreadable));
    }
    let mut halves = halves.into_iter();
    let mut next = || halves.next().expect("two halves were read");
    ([next(), next()], buffer)
}

async fn read_piece(
    disk: &Disk,
    offset: DiskOffset,
    piece: &mut [u8],
    unreadable: &mut [bool],
    mut buffer: Buf,
) -> Buf {
    let (result, back) = disk.read(buffer, offset.0, piece.len()).await;
    buffer = back;
    if result.is_ok() {
        piece.copy_from_slice(&buffer[..piece.len()]);
        return buffer;
    }
    // The slow way, so that one bad sector costs one block.
    for (index, block) in piece.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().enumerate() {
        unreadable[index] = true;
        for _ in 0..READ_ATTEMPTS {
            let (result, back) =
                disk.read(buffer, offset.0 + (index * BLOCK_BYTES) as u64, BLOCK_BYTES).await;
            buffer = back;
            match result {
                Ok(()) => {
                    block.copy_from_slice(&buffer[..BLOCK_BYTES]);
                    unreadable[index] = false;
                    break;
                }
                Err(error) => tracing::error!(%error, "a block of the manifest cannot be read"),
            }
        }
    }
    buffer
}
