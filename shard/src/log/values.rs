//! Entries of a tablet whose fate is open: proposed, accepted or shown by a peer, and not known to be chosen.
//!
//! Owns their bytes and the room that they hold in the memtable, so that whichever is chosen can be applied at once. Must
//! never give up one that the replica has shown to hold. Invariant: each name has one value.

use crate::memtable::Charge;
use layout::Corrupt;
use layout::log_entry::{Entry, EntryHeader, Operation};
use layout::units::{LogIndex, TabletIndex};
use paxos::ValueId;
use std::rc::Rc;

/// An entry without its place in the log.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) id: ValueId,
    /// Its index is the one that it was first proposed for.
    header: EntryHeader,
    pub(crate) body: Rc<[u8]>,
    /// Room that is reserved for it in the memtable.
    pub(crate) charge: Charge,
}

impl Value {
    pub(crate) fn new(id: ValueId, header: EntryHeader, body: &[u8], charge: Charge) -> Value {
        Value { id, header, body: Rc::from(body), charge }
    }

    /// Its header at an index.
    pub(crate) fn header(&self, index: paxos::LogIndex) -> EntryHeader {
        EntryHeader { log_index: LogIndex(index.0), ..self.header }
    }

    /// Bytes of header and operations.
    pub(crate) fn bytes(&self) -> usize {
        self.header.entry_bytes()
    }
}

/// The open values of a tablet: a handful.
#[derive(Debug, Default)]
pub(crate) struct Values(Vec<Value>);

impl Values {
    pub(crate) fn get(&self, id: ValueId) -> Option<&Value> {
        self.0.iter().find(|value| value.id == id)
    }

    pub(crate) fn add(&mut self, value: Value) {
        assert!(self.get(value.id).is_none(), "a name has one value");
        self.0.push(value);
    }

    /// Let go of those that are not needed; the room that they held.
    pub(crate) fn keep(&mut self, is_needed: impl Fn(ValueId) -> bool) -> Charge {
        let mut freed = Charge::NONE;
        self.0.retain(|value| {
            let needed = is_needed(value.id);
            freed = if needed { freed } else { freed.plus(value.charge) };
            needed
        });
        freed
    }

    /// Bytes of the largest.
    pub(crate) fn largest_bytes(&self) -> usize {
        self.0.iter().map(Value::bytes).max().unwrap_or(0)
    }
}

/// Room that the operations of an entry may take in the memtable, and whether all of them free space. An entry from
/// elsewhere is checked as a whole: what is accepted must be applicable.
///
/// # Errors
/// The first operation that cannot be understood, or is of another tablet.
pub(crate) fn weigh(tablet: TabletIndex, entry: &Entry<'_>) -> Result<(Charge, bool), Corrupt> {
    let (mut charge, mut frees, mut open) = (Charge::NONE, true, false);
    let wrong = |field| Corrupt { structure: "log entry", field, at: entry.body_at };
    for operation in entry.operations() {
        let operation = operation?;
        if let Operation::Write(write) = operation {
            if write.key.tablet() != tablet {
                return Err(wrong("key of another tablet"));
            }
            frees &= write.value().is_none();
            charge = charge.plus(Charge::of(&write));
        }
        open = operation.atomic_with_next();
    }
    if open || entry.header.tablet != tablet {
        return Err(wrong("end of an atomic batch"));
    }
    Ok((charge, frees))
}
