//! The extents of a shard's tables: which are free. Pure; what is used at a start is what the manifest names.
//!
//! Must never give out an extent that a durable manifest still names, or that a reader may still read: whoever gives
//! extents back has waited for both. Invariant: an extent is free, or used by exactly one owner.

use super::room::{Purpose, Room};
pub(crate) use layout::manifest::ExtentRange;

/// An extent is named twice, or lies outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("extents {} to {} are used already, or lie outside the zone", .0.first, u64::from(.0.first) + u64::from(.0.count))]
pub(crate) struct Taken(pub(crate) ExtentRange);

/// Device offset of byte `offset` of what lies in these ranges, and how many bytes of it follow each other there. Extent 0
/// is at `base`.
pub(crate) fn place(base: u64, extent_bytes: u64, ranges: &[ExtentRange], offset: u64) -> Option<(u64, u64)> {
    let mut before = 0;
    for range in ranges {
        let bytes = u64::from(range.count) * extent_bytes;
        if offset < before + bytes {
            let within = offset - before;
            return Some((base + u64::from(range.first) * extent_bytes + within, bytes - within));
        }
        before += bytes;
    }
    None
}

/// The free extents.
pub(crate) struct Extents {
    /// One bit each; 1 = used.
    used: Vec<u64>,
    count: u32,
    free: u32,
    /// Kept for merges.
    reserve: u32,
    /// Where the next search begins: behind the last one given out, so that neighbours are written together.
    next: u32,
}

impl Extents {
    /// All `count` extents free, but for `reserve` of them that only merges may take.
    pub(crate) fn new(count: u32, reserve: u32) -> Extents {
        Extents {
            used: vec![0; (count as usize).div_ceil(64)],
            count,
            free: count,
            reserve: reserve.min(count),
            next: 0,
        }
    }

    fn is_used(&self, extent: u32) -> bool {
        self.used[extent as usize / 64] & (1 << (extent % 64)) != 0
    }

    /// Mark what the manifest names. Nothing is marked if it cannot be.
    pub(crate) fn claim(&mut self, range: ExtentRange) -> Result<(), Taken> {
        let end = u64::from(range.first) + u64::from(range.count);
        if range.count == 0 || end > u64::from(self.count) {
            return Err(Taken(range));
        }
        let all = range.first..range.first + range.count;
        if all.clone().any(|extent| self.is_used(extent)) {
            return Err(Taken(range));
        }
        all.for_each(|extent| self.used[extent as usize / 64] |= 1 << (extent % 64));
        self.free -= range.count;
        Ok(())
    }

    /// Take up to `want` extents that follow each other; fewer if no such place is found, at least one. `None` when
    /// there is none for this purpose.
    pub(crate) fn take(&mut self, want: u32, purpose: Purpose) -> Option<ExtentRange> {
        let kept = purpose.leaves(u64::from(self.reserve)) as u32;
        let want = want.max(1).min(self.free.saturating_sub(kept));
        if want == 0 {
            return None;
        }
        let mut best = ExtentRange { first: 0, count: 0 };
        let mut run = ExtentRange { first: 0, count: 0 };
        // Once around, and on to the end of a run that begins just before the start.
        for step in 0..u64::from(self.count) + u64::from(want) {
            let extent = ((u64::from(self.next) + step) % u64::from(self.count)) as u32;
            if extent == 0 {
                run.count = 0;
            }
            if self.is_used(extent) {
                run.count = 0;
                if step >= u64::from(self.count) {
                    break;
                }
                continue;
            }
            if run.count == 0 {
                run.first = extent;
            }
            run.count += 1;
            if run.count > best.count {
                best = run;
            }
            if best.count == want {
                break;
            }
        }
        self.claim(best).expect("these are free");
        self.next = (best.first + best.count) % self.count;
        Some(best)
    }

    /// Give extents back.
    pub(crate) fn give(&mut self, range: ExtentRange) {
        for extent in range.first..range.first + range.count {
            assert!(self.is_used(extent), "only what was taken is given back");
            self.used[extent as usize / 64] &= !(1 << (extent % 64));
        }
        self.free += range.count;
    }

    /// Three quarters of the reserve hold flushes of so many extents, if the reserve is not more than a quarter of all then: so that deletes come
    /// to the device when everything else is used.
    pub(crate) fn reserve_for_flushes(&mut self, extents: u64) {
        let wanted = u32::try_from(extents.div_ceil(3) * 4).unwrap_or(u32::MAX).min(self.count / 4);
        self.reserve = self.reserve.max(wanted);
    }

    /// How much room there is.
    pub(crate) fn room(&self) -> Room {
        Room { all: u64::from(self.count), free: u64::from(self.free), reserve: u64::from(self.reserve) }
    }

    /// Extents in all, and free ones.
    pub(crate) fn counts(&self) -> (u32, u32) {
        (self.count, self.free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_reserve_is_for_merges() {
        let mut extents = Extents::new(10, 4);
        assert_eq!(extents.take(100, Purpose::Flush), Some(ExtentRange { first: 0, count: 6 }));
        assert_eq!(extents.take(1, Purpose::Flush), None);
        assert_eq!(extents.take(100, Purpose::LateFlush), Some(ExtentRange { first: 6, count: 3 }));
        extents.give(ExtentRange { first: 6, count: 3 });
        extents.next = 6;
        assert_eq!(extents.take(3, Purpose::Merge), Some(ExtentRange { first: 6, count: 3 }));
        assert_eq!(extents.counts(), (10, 1));
    }

    #[test]
    fn what_the_manifest_names_twice_is_refused() {
        let mut extents = Extents::new(10, 0);
        extents.claim(ExtentRange { first: 3, count: 4 }).unwrap();
        for bad in [(6, 1), (0, 4), (9, 2), (10, 1), (u32::MAX, 1), (0, 0)] {
            let range = ExtentRange { first: bad.0, count: bad.1 };
            assert_eq!(extents.claim(range), Err(Taken(range)));
        }
        assert_eq!(extents.counts(), (10, 6));
    }

    #[test]
    fn the_largest_place_is_taken_when_none_is_large_enough() {
        let mut extents = Extents::new(12, 0);
        extents.claim(ExtentRange { first: 2, count: 1 }).unwrap();
        extents.claim(ExtentRange { first: 8, count: 1 }).unwrap();
        assert_eq!(extents.take(7, Purpose::Flush), Some(ExtentRange { first: 3, count: 5 }));
        assert_eq!(extents.take(7, Purpose::Flush), Some(ExtentRange { first: 9, count: 3 }));
        assert_eq!(extents.take(7, Purpose::Flush), Some(ExtentRange { first: 0, count: 2 }));
        assert_eq!(extents.take(7, Purpose::Flush), None);
    }

    proptest! {
        /// Nothing is given out twice, and everything that is free can be had.
        #[test]
        fn each_extent_has_one_owner(count in 1u32..200, steps in prop::collection::vec((0u32..20, any::<bool>()), 1..200)) {
            let mut extents = Extents::new(count, 0);
            let mut owned: Vec<ExtentRange> = Vec::new();
            let mut used = vec![false; count as usize];
            for (number, take) in steps {
                if take {
                    let got = extents.take(number, Purpose::Flush);
                    prop_assert_eq!(got.is_none(), used.iter().all(|used| *used));
                    if let Some(range) = got {
                        prop_assert!(range.count >= 1 && range.count <= number.max(1));
                        for extent in range.first..range.first + range.count {
                            prop_assert!(!std::mem::replace(&mut used[extent as usize], true));
                        }
                        owned.push(range);
                    }
                } else if !owned.is_empty() {
                    let range = owned.swap_remove(number as usize % owned.len());
                    extents.give(range);
                    (range.first..range.first + range.count).for_each(|extent| used[extent as usize] = false);
                }
                let free = used.iter().filter(|used| !**used).count();
                prop_assert_eq!(extents.counts().1 as usize, free);
            }
        }
    }
}
