//! Bytes of a core that requests may hold while they wait for a disk or for another core. What is taken is given back
//! when its holder goes, however it goes; what is not there is refused, never waited for.

use std::cell::Cell;
use std::rc::Rc;

/// The bytes of a core.
pub(crate) struct Budget {
    left: Rc<Cell<usize>>,
}

/// Bytes that somebody holds.
pub(crate) struct Held {
    left: Rc<Cell<usize>>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Budget {
        Budget { left: Rc::new(Cell::new(bytes)) }
    }

    /// Are there `bytes` left?
    pub(crate) fn has(&self, bytes: usize) -> bool {
        self.left.get() >= bytes
    }

    /// Bytes that nobody holds.
    pub(crate) fn left(&self) -> usize {
        self.left.get()
    }

    /// Take `bytes`, if they are there.
    pub(crate) fn take(&self, bytes: usize) -> Option<Held> {
        let mut held = Held { left: Rc::clone(&self.left), bytes: 0 };
        held.grow(bytes).then_some(held)
    }
}

impl Held {
    /// Hold `bytes` more; false, and nothing taken, when they are not there.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let Some(left) = self.left.get().checked_sub(bytes) else { return false };
        self.left.set(left);
        self.bytes += bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.left.set(self.left.get() + self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_back_and_what_is_not_there_is_refused() {
        let budget = Budget::new(10);
        let mut first = budget.take(6).unwrap();
        assert!(budget.take(5).is_none() && !first.grow(5));
        assert!(first.grow(4) && !budget.has(1));
        drop(first);
        assert!(budget.has(10) && !budget.has(11));
    }
}
