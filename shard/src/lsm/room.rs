//! How much room a shard's tables have left, and who may use it. Pure.
//!
//! ```text
//! extents:  | used .. | anyone: flushes, merges, seals | flushes while writes are refused | merges and seals only |
//!                                                      ^ reserve                          ^ a quarter of it
//! ```
//!
//! The bytes of the manifest are cut in the same way. Must never let a flush take the last part: merges, seals and what
//! expires are the only way to have room again, and each needs some first.

/// What room is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// New data: leaves the reserve alone.
    Flush,
    /// What memory holds while new writes are refused, deletes among it: takes three quarters of the reserve.
    LateFlush,
    /// Frees more than it takes, in the end: may use all.
    Merge,
}

impl Purpose {
    /// The part of a reserve that it leaves alone.
    pub(crate) fn leaves(self, reserve: u64) -> u64 {
        match self {
            Purpose::Flush => reserve,
            Purpose::LateFlush => reserve / 4,
            Purpose::Merge => 0,
        }
    }
}

/// Extents, or bytes of a manifest: all of them, how many are free, and how many of these are for merges and seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) all: u64,
    pub(crate) free: u64,
    pub(crate) reserve: u64,
}

impl Room {
    /// Of a manifest: a sixteenth is kept. Merges make it smaller, and need little of that.
    pub(crate) fn of_manifest(bytes_max: u64, bytes: u64) -> Room {
        Room { all: bytes_max, free: bytes_max.saturating_sub(bytes), reserve: bytes_max / 16 }
    }

    /// May so much be taken for this purpose?
    pub(crate) fn holds(&self, wanted: u64, purpose: Purpose) -> bool {
        wanted <= self.free.saturating_sub(purpose.leaves(self.reserve))
    }

    /// Writes were refused for want of room, and may be taken again: a quarter more than the reserve is free, so that not
    /// every flush turns it around.
    pub(crate) fn is_ample(&self) -> bool {
        self.free > self.reserve + self.reserve / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_taken_in_steps() {
        let room = Room { all: 100, free: 20, reserve: 16 };
        for (purpose, most) in [(Purpose::Flush, 4), (Purpose::LateFlush, 16), (Purpose::Merge, 20)] {
            assert!(room.holds(most, purpose) && !room.holds(most + 1, purpose), "{purpose:?}");
        }
        assert!(!room.is_ample() && Room { free: 21, ..room }.is_ample());
        assert!(!Room { free: 0, ..room }.holds(1, Purpose::Merge));
        assert_eq!(Room::of_manifest(800, 900), Room { all: 800, free: 0, reserve: 50 });
    }
}
