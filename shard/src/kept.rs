//! What a ring held at a moment, while the ring goes on: a place that is about to be written again gives what it held to the
//! side first. Taking the moment down costs nothing, and each write at most one copy.
//!
//! Invariant: places are written again in the order of the ring, so that what stands at the side are the oldest.

/// The moment.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    /// Position of the oldest.
    first: usize,
    count: usize,
    /// The oldest, whose places were written again.
    aside: Vec<T>,
}

impl<T: Copy> Kept<T> {
    /// The ring holds `count` from position `first` on.
    pub(crate) fn new(first: usize, count: usize) -> Kept<T> {
        Kept { first, count, aside: Vec::new() }
    }

    /// `ring[position]` is written next.
    #[inline]
    pub(crate) fn save(&mut self, ring: &[T], position: usize) {
        let rank = (position + ring.len() - self.first) % ring.len();
        if rank >= self.count || rank < self.aside.len() {
            return;
        }
        assert!(rank == self.aside.len(), "a ring is written in its order");
        self.aside.push(ring[position]);
    }

    /// The one that was `rank` younger than the oldest.
    pub(crate) fn get(&self, ring: &[T], rank: usize) -> T {
        assert!(rank < self.count, "so many there were");
        self.aside.get(rank).copied().unwrap_or_else(|| ring[(self.first + rank) % ring.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_kept_as_it_was_however_far_it_goes_on() {
        for (len, first, count) in [(1, 0, 1), (5, 3, 5), (8, 6, 4), (8, 2, 0)] {
            let mut ring: Vec<usize> = (0..len).collect();
            let before: Vec<usize> = (0..count).map(|rank| ring[(first + rank) % len]).collect();
            let mut kept = Kept::new(first, count);
            for step in 0..3 * len {
                let position = (first + count + step) % len;
                kept.save(&ring, position);
                ring[position] = 1000 + step;
                let now: Vec<usize> = (0..count).map(|rank| kept.get(&ring, rank)).collect();
                assert_eq!(now, before, "{len} {first} {count}, after {step}");
            }
        }
    }
}
