//! What waits for a disk: reads in the order of the disk, and work in the order in which it came.
//!
//! Must never let a read wait behind reads that came later and lie on the other side: the head goes one way and begins again at the
//! front (C-SCAN). Invariant: as many wait as were put in and not taken; a full queue takes nothing.

use std::collections::{BTreeMap, VecDeque};

/// The queue of a disk. No clock and no disk.
pub(crate) struct DiskQueue<T> {
    reads: BTreeMap<(u64, u64), T>,
    work: VecDeque<T>,
    /// Where the head is thought to be.
    head: u64,
    next: u64,
    read_count_max: usize,
    work_count_max: usize,
}

impl<T> DiskQueue<T> {
    pub(crate) fn new(read_count_max: usize, work_count_max: usize) -> DiskQueue<T> {
        let (reads, work) = (BTreeMap::new(), VecDeque::new());
        DiskQueue { reads, work, head: 0, next: 0, read_count_max, work_count_max }
    }

    /// A read of this place. False when there is no room.
    pub(crate) fn put_read(&mut self, place: u64, job: T) -> bool {
        let fits = self.reads.len() < self.read_count_max;
        if fits {
            self.next += 1;
            self.reads.insert((place, self.next), job);
        }
        fits
    }

    /// Something else. False when there is no room.
    pub(crate) fn put_work(&mut self, job: T) -> bool {
        let fits = self.work.len() < self.work_count_max;
        if fits {
            self.work.push_back(job);
        }
        fits
    }

    /// The next read: the first at the head or behind it, else the first of all.
    pub(crate) fn take_read(&mut self) -> Option<T> {
        let ahead = self.reads.range((self.head, 0)..).next().or_else(|| self.reads.iter().next());
        let at = *ahead?.0;
        self.head = at.0;
        self.reads.remove(&at)
    }

    /// The next work.
    pub(crate) fn take_work(&mut self) -> Option<T> {
        self.work.pop_front()
    }

    pub(crate) fn read_count(&self) -> usize {
        self.reads.len()
    }

    pub(crate) fn work_count(&self) -> usize {
        self.work.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_head_goes_one_way_and_begins_again() {
        let mut queue = DiskQueue::new(8, 2);
        for place in [50, 10, 30, 10] {
            assert!(queue.put_read(place, place));
        }
        assert_eq!((queue.take_read(), queue.take_read()), (Some(10), Some(10)));
        assert!(queue.put_read(20, 20) && queue.put_read(5, 5));
        let rest: Vec<u64> = std::iter::from_fn(|| queue.take_read()).collect();
        assert_eq!(rest, [20, 30, 50, 5]);
        assert!(queue.put_work(1) && queue.put_work(2) && !queue.put_work(3));
        assert_eq!((queue.take_work(), queue.take_work(), queue.take_work()), (Some(1), Some(2), None));
    }

    proptest! {
        /// However others come, a read is overtaken by no more than those ahead of the head and one round of the rest.
        #[test]
        fn no_read_waits_for_more_than_a_round(places in prop::collection::vec(0u64..100, 1..40), other in 0u64..100) {
            let mut queue = DiskQueue::new(1_000, 1);
            prop_assert!(queue.put_read(places[0], true));
            let mut taken = Vec::new();
            for (number, place) in places.iter().enumerate().skip(1) {
                prop_assert!(queue.put_read(*place, false));
                if number % 2 == 0 {
                    taken.extend(queue.take_read());
                }
                prop_assert!(queue.put_read(other, false));
            }
            taken.extend(std::iter::from_fn(|| queue.take_read()));
            prop_assert_eq!(taken.iter().filter(|one| **one).count(), 1);
            prop_assert_eq!(taken.len(), 1 + 2 * (places.len() - 1));
        }
    }
}
