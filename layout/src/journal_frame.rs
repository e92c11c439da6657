//! A journal frame: 512 bytes, the unit that a device writes whole or not at all.
//!
//! Owns the frame's header and its checksum, and the sorting of what recovery finds into zero, bad
//! and valid. Must never judge what a frame means for a record (that is recovery's). Invariant: a
//! frame is valid only on the device, in the shard, in the generation of the format and at the
//! address it was written for.

use crate::FORMAT_VERSION;
use crate::checksum::Crc;
use crate::field::{Corrupt, Table, byte_table, is_zero};
use crate::units::{DiskOffset, Incarnation, SECTOR_BYTES, Sequence, ShardIndex, Uuid};

/// Bytes of a frame.
pub const FRAME_BYTES: usize = 512;
/// Bytes of a frame that carry a record.
pub const FRAME_PAYLOAD_BYTES: usize = 496;
/// First bytes of a journal frame's identity.
pub const FRAME_MAGIC: [u8; 8] = *b"TCLFRAME";
/// First bytes of a manifest frame's identity: neither is ever valid as the other.
pub const MANIFEST_FRAME_MAGIC: [u8; 8] = *b"TCLMANFR";

byte_table! {
    /// Byte table of a frame.
    FRAME_TABLE = "journal frame", FRAME_BYTES;
    F_CHECKSUM = "checksum", 0, 4;
    F_INCARNATION = "incarnation", 4, 4;
    F_SEQUENCE = "sequence", 8, 8;
    F_PAYLOAD = "payload", 16, FRAME_PAYLOAD_BYTES;
}

byte_table! {
    /// Byte table of what a frame's checksum is bound to. It is never stored.
    IDENTITY_TABLE = "journal frame identity", 42;
    I_MAGIC = "magic", 0, 8;
    I_FORMAT_VERSION = "format_version", 8, 4;
    I_DEVICE = "device", 12, 16;
    I_SHARD = "shard", 28, 2;
    I_GENERATION = "generation", 30, 4;
    I_OFFSET = "device_offset", 34, 8;
}

/// The same fields for a frame of a manifest; only the magic differs.
pub const MANIFEST_IDENTITY_TABLE: Table = Table { structure: "manifest frame identity", ..IDENTITY_TABLE };

pub(crate) const FRAME_HEADER_BYTES: usize = F_PAYLOAD.offset;

const _: () = assert!(FRAME_BYTES == SECTOR_BYTES, "torn and damaged are told apart per sector");

/// What the frames of one shard's journal on one device have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalIdentity {
    /// Device uuid of the superblock.
    pub device: Uuid,
    /// Shard that owns the journal.
    pub shard: ShardIndex,
    /// Generation of the superblock: counts formats, so frames from before a format are foreign.
    pub generation: u32,
}

/// What stands at a frame's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// All zero: never written since the format.
    Zero,
    /// The checksum fails: damaged, misdirected, of another device, shard, generation or address.
    Bad,
    /// Written for this place by this journal.
    Valid {
        /// Start of the process that wrote it.
        incarnation: Incarnation,
        /// Record it belongs to.
        sequence: Sequence,
    },
}

impl Frame {
    /// What a frame says of itself, right or wrong: incarnation and sequence.
    pub(crate) fn said(frame: &[u8; FRAME_BYTES]) -> (Incarnation, Sequence) {
        (Incarnation(F_INCARNATION.u32(frame)), Sequence(F_SEQUENCE.u64(frame)))
    }
}

/// Checksums of the frames of one journal; holds the common part of their identity, already hashed.
#[derive(Debug, Clone)]
pub struct FrameChecksum(Crc);

impl FrameChecksum {
    /// Hashes what the journal's frames have in common.
    #[must_use]
    pub fn new(identity: JournalIdentity) -> FrameChecksum {
        FrameChecksum::bound(FRAME_MAGIC, identity)
    }

    /// The same for frames of the shard's manifest.
    #[must_use]
    pub fn manifest(identity: JournalIdentity) -> FrameChecksum {
        FrameChecksum::bound(MANIFEST_FRAME_MAGIC, identity)
    }

    fn bound(magic: [u8; 8], identity: JournalIdentity) -> FrameChecksum {
        let mut bytes = [0u8; I_OFFSET.offset];
        I_MAGIC.put(&mut bytes, magic);
        I_FORMAT_VERSION.put(&mut bytes, FORMAT_VERSION.to_le_bytes());
        I_DEVICE.put(&mut bytes, identity.device.0);
        I_SHARD.put(&mut bytes, identity.shard.0.to_le_bytes());
        I_GENERATION.put(&mut bytes, identity.generation.to_le_bytes());
        FrameChecksum(Crc::with(&bytes))
    }

    /// The checksum of the frame at `offset`.
    #[inline]
    fn of(&self, offset: DiskOffset, frame: &[u8; FRAME_BYTES]) -> u32 {
        self.0.clone().and(&offset.0.to_le_bytes()).and(&frame[F_CHECKSUM.bytes..]).finish()
    }

    /// Fills in the header of a frame whose payload is complete.
    #[inline]
    pub(crate) fn seal(
        &self,
        offset: DiskOffset,
        incarnation: Incarnation,
        sequence: Sequence,
        frame: &mut [u8; FRAME_BYTES],
    ) {
        F_INCARNATION.put(frame, incarnation.0.to_le_bytes());
        F_SEQUENCE.put(frame, sequence.0.to_le_bytes());
        let checksum = self.of(offset, frame);
        F_CHECKSUM.put(frame, checksum.to_le_bytes());
    }

    /// Sorts what was read at `offset`.
    #[inline]
    #[must_use]
    pub fn classify(&self, offset: DiskOffset, frame: &[u8; FRAME_BYTES]) -> Frame {
        match self.check(offset, frame) {
            Ok((incarnation, sequence)) => Frame::Valid { incarnation, sequence },
            Err(_) if is_zero(frame) => Frame::Zero,
            Err(_) => Frame::Bad,
        }
    }

    /// The frame's record, or the first field that is wrong; zeros fail like any other bytes.
    pub(crate) fn check(
        &self,
        offset: DiskOffset,
        frame: &[u8; FRAME_BYTES],
    ) -> Result<(Incarnation, Sequence), Corrupt> {
        if F_CHECKSUM.u32(frame) != self.of(offset, frame) {
            return Err(FRAME_TABLE.corrupt(F_CHECKSUM, offset.0));
        }
        if F_INCARNATION.u32(frame) == 0 {
            return Err(FRAME_TABLE.corrupt(F_INCARNATION, offset.0));
        }
        if F_SEQUENCE.u64(frame) == 0 {
            return Err(FRAME_TABLE.corrupt(F_SEQUENCE, offset.0));
        }
        Ok((Incarnation(F_INCARNATION.u32(frame)), Sequence(F_SEQUENCE.u64(frame))))
    }
}

/// Sorts one frame that was read at `offset`; bytes of another length than 512 are `Bad`.
///
/// To sort many, keep a [`FrameChecksum`].
#[must_use]
pub fn classify_frame(identity: JournalIdentity, offset: DiskOffset, frame: &[u8]) -> Frame {
    match frame.try_into() {
        Ok(frame) => FrameChecksum::new(identity).classify(offset, frame),
        Err(_) => Frame::Bad,
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub const TABLES: [Table; 3] = [FRAME_TABLE, IDENTITY_TABLE, MANIFEST_IDENTITY_TABLE];

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: JournalIdentity =
        JournalIdentity { device: Uuid([7; 16]), shard: ShardIndex(2), generation: 3 };
    const AT: DiskOffset = DiskOffset(1 << 20);

    fn frame() -> [u8; FRAME_BYTES] {
        let mut frame = [0x5a; FRAME_BYTES];
        FrameChecksum::new(HOME).seal(AT, Incarnation(4), Sequence(9), &mut frame);
        frame
    }

    #[test]
    fn valid_only_for_its_own_device_shard_generation_and_address() {
        let valid = Frame::Valid { incarnation: Incarnation(4), sequence: Sequence(9) };
        assert_eq!(classify_frame(HOME, AT, &frame()), valid);
        for (identity, at) in [
            (JournalIdentity { device: Uuid([8; 16]), ..HOME }, AT),
            (JournalIdentity { shard: ShardIndex(3), ..HOME }, AT),
            (JournalIdentity { generation: 4, ..HOME }, AT),
            (HOME, AT.plus(512)),
        ] {
            assert_eq!(classify_frame(identity, at, &frame()), Frame::Bad, "{identity:?} {at}");
        }
    }

    #[test]
    fn every_flipped_bit_is_bad_and_only_zeros_are_zero() {
        for bit in 0..FRAME_BYTES * 8 {
            let mut bytes = frame();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(classify_frame(HOME, AT, &bytes), Frame::Bad, "bit {bit}");
        }
        assert_eq!(classify_frame(HOME, AT, &[0; FRAME_BYTES]), Frame::Zero);
        assert_eq!(classify_frame(HOME, AT, &[0; FRAME_BYTES - 1]), Frame::Bad);
        assert_eq!(classify_frame(HOME, AT, &[]), Frame::Bad);
    }

    #[test]
    fn a_right_checksum_over_sequence_zero_is_bad() {
        let mut bytes = frame();
        FrameChecksum::new(HOME).seal(AT, Incarnation(4), Sequence(0), &mut bytes);
        assert_eq!(classify_frame(HOME, AT, &bytes), Frame::Bad);
    }
}
