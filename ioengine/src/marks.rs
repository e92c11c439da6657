//! Marks of rare paths (`sometimes!`) and planted bugs (canaries). Both live in the simulator's thread only: outside
//! a simulated world a mark costs one thread-local look and a canary is always off.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static MARKS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    static CANARIES: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Count that this place was reached. A campaign in which a mark never fires has not tested what it claims.
#[macro_export]
macro_rules! sometimes {
    ($name:literal) => {
        $crate::marks::hit($name)
    };
}

/// See [`sometimes!`](crate::sometimes).
pub fn hit(name: &'static str) {
    if WATCHING.get() {
        MARKS.with_borrow_mut(|marks| *marks.entry(name).or_default() += 1);
    }
}

/// Whether the planted bug `name` was chosen for the world that runs on this thread. Always false on real cores.
#[must_use]
pub fn canary(name: &str) -> bool {
    WATCHING.get() && CANARIES.with_borrow(|canaries| canaries.contains(name))
}

/// A world begins on this thread: count marks from zero, with these planted bugs.
pub(crate) fn begin(canaries: impl IntoIterator<Item = String>) {
    WATCHING.set(true);
    MARKS.with_borrow_mut(BTreeMap::clear);
    CANARIES.with_borrow_mut(|set| *set = canaries.into_iter().collect());
}

/// The world ends: what was reached, and how often.
pub(crate) fn end() -> BTreeMap<&'static str, u64> {
    WATCHING.set(false);
    CANARIES.with_borrow_mut(BTreeSet::clear);
    MARKS.with_borrow_mut(std::mem::take)
}
