//! What may go wrong, how often, and the list of what did. Every injected fault is written down, so that a checker
//! can tell what a disk was made to lose from what the code above lost.

use super::disk_handle::DiskHandle;
use super::random::Random;
use crate::clock::Instant;
use std::collections::BTreeMap;
use std::ops::Range;

/// Fault plan of one disk. Chances in parts per million, per operation, unless said otherwise.
#[derive(Clone, Debug)]
pub struct DiskFaults {
    /// At a crash each unflushed sector of 512 bytes is old or new on its own; else whole writes are.
    pub torn: bool,
    /// A write fails with EIO; each of its sectors is old or new.
    pub write_error_ppm: u32,
    /// A read fails with EIO, and one of its sectors from then on until it is written again.
    pub latent_error_ppm: u32,
    /// A read fails with EIO, this time.
    pub read_error_ppm: u32,
    /// A flush fails with EIO; what was not durable may be gone at the end of the process.
    pub flush_error_ppm: u32,
    /// Operations take this many hundredths of their time; 100 is normal.
    pub slow_percent: u32,
    /// An operation starts a stall of the whole disk, of a length drawn from `stall_ns`.
    pub stall_ppm: u32,
    /// Lengths of stalls, in nanoseconds.
    pub stall_ns: Range<u64>,
    /// No room for pages beyond this many stored bytes: writes to fresh pages fail with ENOSPC.
    pub full_after_bytes: Option<u64>,
    /// Lying: a write is acknowledged and never stored.
    pub write_lost_ppm: u32,
    /// Lying: a write is acknowledged and stored at another place of the same alignment.
    pub write_misdirected_ppm: u32,
    /// Lying: a flush is acknowledged and makes nothing durable.
    pub flush_ignored_ppm: u32,
    /// Lying: before a read, bits of a stored sector in its range flip.
    pub rot_read_ppm: u32,
    /// Lying: at an operation, bits of a stored sector anywhere flip.
    pub rot_anywhere_ppm: u32,
    /// Where the disk lies; empty means everywhere.
    pub lies_within: Vec<Range<u64>>,
}

impl Default for DiskFaults {
    /// No faults beyond what a crash may do to what was not flushed.
    fn default() -> DiskFaults {
        DiskFaults {
            torn: true,
            write_error_ppm: 0,
            latent_error_ppm: 0,
            read_error_ppm: 0,
            flush_error_ppm: 0,
            slow_percent: 100,
            stall_ppm: 0,
            stall_ns: 1_000_000..2_000_000_000,
            full_after_bytes: None,
            write_lost_ppm: 0,
            write_misdirected_ppm: 0,
            flush_ignored_ppm: 0,
            rot_read_ppm: 0,
            rot_anywhere_ppm: 0,
            lies_within: Vec::new(),
        }
    }
}

/// A chance that is often zero and otherwise spread over orders of magnitude up to `most`.
fn some_ppm(random: &mut Random, most: u32) -> u32 {
    if random.coin() {
        return 0;
    }
    most >> random.below(8)
}

impl DiskFaults {
    /// A subset of the faults of an honest disk, drawn with their strengths: it fails, is slow, stalls, but never
    /// acknowledges what it did not do and never returns what was not written.
    #[must_use]
    pub fn honest(random: &mut Random) -> DiskFaults {
        DiskFaults {
            torn: !random.chance(250_000),
            write_error_ppm: some_ppm(random, 200),
            latent_error_ppm: some_ppm(random, 200),
            flush_error_ppm: some_ppm(random, 200),
            slow_percent: if random.chance(200_000) { 200 + 100 * random.below(50) as u32 } else { 100 },
            stall_ppm: some_ppm(random, 500),
            stall_ns: 1_000_000..1_000_000 << random.below(12),
            ..DiskFaults::default()
        }
    }

    /// An honest disk's faults and a subset of lies: lost and misdirected writes, ignored flushes, rot.
    #[must_use]
    pub fn lying(random: &mut Random) -> DiskFaults {
        let mut faults = DiskFaults {
            write_lost_ppm: some_ppm(random, 5_000),
            write_misdirected_ppm: some_ppm(random, 5_000),
            flush_ignored_ppm: some_ppm(random, 2_000),
            rot_read_ppm: some_ppm(random, 2_000),
            rot_anywhere_ppm: some_ppm(random, 2_000),
            ..DiskFaults::honest(random)
        };
        if !faults.lies() {
            faults.rot_anywhere_ppm = 500;
        }
        faults
    }

    /// Whether any lie is possible.
    #[must_use]
    pub fn lies(&self) -> bool {
        self.write_lost_ppm
            | self.write_misdirected_ppm
            | self.flush_ignored_ppm
            | self.rot_read_ppm
            | self.rot_anywhere_ppm
            != 0
    }

    /// Whether a lie about these bytes is allowed.
    pub(crate) fn may_lie(&self, offset: u64, bytes: u64) -> bool {
        self.lies_within.is_empty()
            || self.lies_within.iter().any(|range| range.start <= offset && offset + bytes <= range.end)
    }
}

/// Kinds of injected faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Acknowledged, never stored.
    WriteLost,
    /// Acknowledged, stored at offset `to` instead.
    WriteMisdirected {
        /// Where the bytes went.
        to: u64,
    },
    /// A flush was acknowledged and made nothing durable; one of these for each write it should have kept.
    FlushIgnored,
    /// Bits of a stored sector flipped.
    Rot,
    /// A sector became unreadable.
    LatentError,
    /// A read failed, and may not the next time.
    ReadError,
    /// A write failed.
    WriteError,
    /// A flush failed; one of these for each write it should have kept.
    FlushError,
    /// A write found no room.
    Full,
    /// The disk completes nothing for a while.
    Stall,
    /// An operation ends long after others that came with it.
    Starved,
    /// The contents were replaced by an older state.
    Restored,
    /// The contents were replaced by zeroes.
    Wiped,
    /// The contents were exchanged with another disk's.
    Swapped,
    /// Power went: `lost_sectors` completed but unflushed sectors of this disk fell back.
    PowerCut {
        /// Sectors that hold an older version than the last completed write's.
        lost_sectors: u64,
    },
    /// The process was killed.
    Kill,
    /// The process was stopped (SIGSTOP).
    Pause,
}

impl FaultKind {
    /// Name without details.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::WriteLost => "write_lost",
            FaultKind::WriteMisdirected { .. } => "write_misdirected",
            FaultKind::FlushIgnored => "flush_ignored",
            FaultKind::Rot => "rot",
            FaultKind::LatentError => "latent_error",
            FaultKind::ReadError => "read_error",
            FaultKind::WriteError => "write_error",
            FaultKind::FlushError => "flush_error",
            FaultKind::Full => "full",
            FaultKind::Stall => "stall",
            FaultKind::Starved => "starved",
            FaultKind::Restored => "restored",
            FaultKind::Wiped => "wiped",
            FaultKind::Swapped => "swapped",
            FaultKind::PowerCut { .. } => "power_cut",
            FaultKind::Kill => "kill",
            FaultKind::Pause => "pause",
        }
    }

    /// Whether an honest disk never does this.
    #[must_use]
    pub fn is_lie(self) -> bool {
        matches!(
            self,
            FaultKind::WriteLost
                | FaultKind::WriteMisdirected { .. }
                | FaultKind::FlushIgnored
                | FaultKind::Rot
                | FaultKind::Restored
                | FaultKind::Wiped
                | FaultKind::Swapped
        )
    }
}

/// One injected fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// When.
    pub at: Instant,
    /// Index of the node, in the order they were added.
    pub node: u32,
    /// Which disk, if it is about one.
    pub disk: Option<DiskHandle>,
    /// First byte concerned.
    pub offset: u64,
    /// Count of bytes concerned.
    pub bytes: u64,
    /// What was done.
    pub kind: FaultKind,
}

/// Everything injected so far.
#[derive(Default)]
pub(crate) struct FaultLog {
    pub(crate) list: Vec<Fault>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl FaultLog {
    pub(crate) fn add(&mut self, fault: Fault) {
        *self.counts.entry(fault.kind.name()).or_insert(0) += 1;
        self.list.push(fault);
    }

    pub(crate) fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_insert(0) += 1;
    }
}
