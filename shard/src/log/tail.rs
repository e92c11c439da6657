//! The last chosen entries of a tablet, in memory, for replicas that are a little behind.
//!
//! Bounded in entries and bytes: the oldest go. Invariant: without a gap, and the newest is the last one applied here.

use super::tablet::tell_chosen;
use super::values::Value;
use crate::memtable::Charge;
use layout::log_entry::Entry;
use paxos::{Chosen, LogIndex, ValueId};
use std::collections::VecDeque;

/// Entries at most.
const COUNT_MAX: usize = 4096;

/// How many times more are kept while a copy is given.
const HELD_FACTOR: usize = 16;

/// The tail of one tablet's log.
pub(crate) struct Tail {
    entries: VecDeque<(Chosen, Value)>,
    bytes: usize,
    bytes_max: usize,
    /// A copy is being given that these follow: more of them are kept.
    is_held: bool,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Tail {
        Tail { entries: VecDeque::new(), bytes: 0, bytes_max, is_held: false }
    }

    /// Keep more while a copy is given.
    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// The next entry, of a replay.
    pub(crate) fn remember(&mut self, entry: &Entry<'_>, value: ValueId) {
        let chosen = Chosen { index: LogIndex(entry.header.log_index.0), value };
        tell_chosen(entry.header.tablet, chosen);
        self.push(chosen, Value::new(value, entry.header, entry.body, Charge::NONE));
    }

    /// The next entry.
    pub(crate) fn push(&mut self, chosen: Chosen, value: Value) {
        if self.entries.back().is_some_and(|(last, _)| last.index.next() != chosen.index) {
            // What was skipped is not here: what came before it is of no use.
            self.entries.clear();
            self.bytes = 0;
        }
        self.bytes += value.bytes();
        self.entries.push_back((chosen, value));
        let more = if self.is_held { HELD_FACTOR } else { 1 };
        let is_full = |tail: &Tail| {
            tail.entries.len() > COUNT_MAX * more
                || (tail.bytes > tail.bytes_max * more && tail.entries.len() > 1)
        };
        while is_full(self) {
            let (_, oldest) = self.entries.pop_front().expect("just seen");
            self.bytes -= oldest.bytes();
        }
    }

    /// The entry of this index, if it has this name.
    pub(crate) fn get(&self, index: LogIndex, value: ValueId) -> Option<&Value> {
        let chosen = Chosen { index, value };
        self.from(index)?.next().filter(|(entry, _)| *entry == chosen).map(|(_, value)| value)
    }

    /// Entries from `index` on; `None` if that one is not held: it is gone, or behind the last one, as after a copy.
    pub(crate) fn from(&self, index: LogIndex) -> Option<impl Iterator<Item = &(Chosen, Value)>> {
        let first = self.entries.front()?.0.index;
        let skip = usize::try_from(index.0.checked_sub(first.0)?).ok()?;
        (skip < self.entries.len()).then(|| self.entries.iter().skip(skip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::log_entry::EntryHeader;
    use layout::units::{LogIndex as Index, LogTime, TabletIndex};
    use paxos::{Incarnation, Node};

    fn push(tail: &mut Tail, index: u64) {
        let value = ValueId { node: Node(0), incarnation: Incarnation(1), sequence: index };
        let header = EntryHeader {
            tablet: TabletIndex::new(7).expect("a tablet"),
            log_index: Index(index),
            stamp: LogTime(index),
            operation_count: 0,
            body_bytes: 0,
        };
        tail.push(Chosen { index: LogIndex(index), value }, Value::new(value, header, &[], Charge::NONE));
    }

    fn indexes(tail: &Tail, from: u64) -> Option<Vec<u64>> {
        Some(tail.from(LogIndex(from))?.map(|(chosen, _)| chosen.index.0).collect())
    }

    #[test]
    fn what_is_not_held_is_not_an_empty_answer() {
        let mut tail = Tail::new(1 << 20);
        assert_eq!(indexes(&tail, 1), None);
        for index in 2..=4 {
            push(&mut tail, index);
        }
        assert_eq!(indexes(&tail, 1), None, "gone");
        assert_eq!(indexes(&tail, 3), Some(vec![3, 4]));
        // A copy has taken the tablet on to 9: what lies behind 4 is not held, though it is applied.
        assert_eq!(indexes(&tail, 5), None);
        push(&mut tail, 10);
        assert_eq!(indexes(&tail, 4), None, "there is a gap before 10");
        assert_eq!(indexes(&tail, 10), Some(vec![10]));
    }
}
