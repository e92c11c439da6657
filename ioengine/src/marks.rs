//! Marks of rare paths (`sometimes!`), facts for checkers and planted bugs (canaries). All live in the simulator's thread
//! only: outside a simulated world a mark or a fact costs one thread-local look. A canary is off there, but for one that a program
//! built for checks takes from its environment, so that harnesses of real processes can show that they complain.
//!
//! Must never change what the code does that says them: a fact is told, nothing comes back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// Names the planted bug of a real process. Looked at only where debug assertions are on: what people run has none.
pub const CANARY_VARIABLE: &str = "THERMOCLINE_CANARY";

static OF_PROCESS: OnceLock<Option<String>> = OnceLock::new();

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static MARKS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    static FACTS: RefCell<Vec<Fact>> = const { RefCell::new(Vec::new()) };
    /// The node and the process whose task is being polled.
    static AT: Cell<(u32, u32)> = const { Cell::new((u32::MAX, 0)) };
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

/// Something that a node of a simulated world holds for true, for checkers that compare nodes and lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Index of the node, in the order they were added.
    pub node: u32,
    /// Number of the process, in the order in which they were started.
    pub process: u32,
    /// What kind of fact.
    pub name: &'static str,
    /// What it is about.
    pub key: u64,
    /// What it says of it.
    pub value: u64,
}

/// Tell a fact: `name` says which kind, `key` what it is about (the place in a log, say), `value` what holds of it.
pub fn fact(name: &'static str, key: u64, value: u64) {
    if WATCHING.get() {
        let (node, process) = AT.get();
        FACTS.with_borrow_mut(|facts| facts.push(Fact { node, process, name, key, value }));
    }
}

/// Whether somebody collects facts: asked before one is told that takes work to make.
#[must_use]
pub fn collects_facts() -> bool {
    WATCHING.get()
}

/// From here on the tasks of this process are polled.
pub(crate) fn at(node: u32, process: u32) {
    AT.set((node, process));
}

/// The facts told since the last call.
pub(crate) fn take_facts() -> Vec<Fact> {
    FACTS.with_borrow_mut(std::mem::take)
}

/// Whether the planted bug `name` was chosen for the world that runs on this thread; on a real core, for the process.
#[must_use]
pub fn canary(name: &str) -> bool {
    if WATCHING.get() {
        return CANARIES.with_borrow(|canaries| canaries.contains(name));
    }
    cfg!(debug_assertions)
        && OF_PROCESS.get_or_init(|| std::env::var(CANARY_VARIABLE).ok()).as_deref() == Some(name)
}

/// A world begins on this thread: count marks from zero, with these planted bugs.
pub(crate) fn begin(canaries: impl IntoIterator<Item = String>) {
    WATCHING.set(true);
    MARKS.with_borrow_mut(BTreeMap::clear);
    FACTS.with_borrow_mut(Vec::clear);
    CANARIES.with_borrow_mut(|set| *set = canaries.into_iter().collect());
}

/// The world ends: what was reached, and how often.
pub(crate) fn end() -> BTreeMap<&'static str, u64> {
    WATCHING.set(false);
    CANARIES.with_borrow_mut(BTreeSet::clear);
    MARKS.with_borrow_mut(std::mem::take)
}
