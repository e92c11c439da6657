//! What a manifest says, as a value: which tables there are, where the tablets' state lies, where replay begins. Pure.
//!
//! Invariant: no table is named twice. That no extent is, the allocator sees when what was read is claimed.

use crate::journal::JournalStart;
use layout::Corrupt;
use layout::manifest::{AddTable, Edit, EditIter, ExtentRange, Extents, SetJournalStart, SetState};
use layout::units::{Sequence, TableId};
use std::collections::BTreeMap;

/// A table as the manifest names it.
#[derive(Clone, Debug)]
pub(crate) struct NamedTable {
    /// All but its extents.
    pub(crate) facts: AddTable<'static>,
    pub(crate) ranges: Vec<ExtentRange>,
}

/// The blob with the state of the tablets.
#[derive(Clone, Debug)]
pub(crate) struct NamedState {
    pub(crate) blob: TableId,
    pub(crate) ranges: Vec<ExtentRange>,
    pub(crate) bytes: u64,
    pub(crate) checksum: u128,
}

/// A manifest.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) tables: BTreeMap<u64, NamedTable>,
    pub(crate) state: Option<NamedState>,
    pub(crate) start: JournalStart,
    /// Numbers below this one may have been used.
    pub(crate) next_table: u64,
}

impl Names {
    /// Of a device that was just formatted.
    pub(crate) fn new() -> Names {
        Names { tables: BTreeMap::new(), state: None, start: JournalStart::FIRST, next_table: 1 }
    }

    /// Apply the edits of one record of a manifest.
    pub(crate) fn read(&mut self, body: &[u8]) -> Result<(), Corrupt> {
        EditIter::new(body).try_for_each(|edit| self.apply(&edit?))
    }

    /// Apply an edit.
    pub(crate) fn apply(&mut self, edit: &Edit<'_>) -> Result<(), Corrupt> {
        let wrong = |field| Corrupt { structure: "manifest", field, at: 0 };
        match *edit {
            Edit::AddTable(add) => {
                let named = NamedTable { facts: without_extents(add), ranges: add.extents.iter().collect() };
                if self.tables.insert(add.table.0, named).is_some() {
                    return Err(wrong("table named twice"));
                }
            }
            Edit::RemoveTable(id) => {
                self.tables.remove(&id.0).ok_or(wrong("table removed that is not there"))?;
            }
            Edit::SetState(SetState { blob, extents, bytes, checksum }) => {
                self.state = Some(NamedState { blob, ranges: extents.iter().collect(), bytes, checksum });
            }
            Edit::SetJournalStart(SetJournalStart { at, incarnation, sequence }) => {
                let before = sequence.0.checked_sub(1).ok_or(wrong("journal start"))?;
                self.start = JournalStart { at, incarnation, sequence: Sequence(before) };
            }
            Edit::SetNextTableId(next) => self.next_table = next.0,
        }
        Ok(())
    }

    /// The whole manifest, as bodies of at most `bytes_max`.
    pub(crate) fn bodies(&self, bytes_max: usize) -> Vec<Vec<u8>> {
        let mut bodies = vec![Vec::new()];
        let mut add = |edit: Edit<'_>| {
            let bytes = edit.encoded_bytes();
            if bodies.last().is_some_and(|body| body.len() + bytes > bytes_max) {
                bodies.push(Vec::new());
            }
            edit.encode_into(bodies.last_mut().expect("there is one"));
        };
        add(Edit::SetNextTableId(TableId(self.next_table)));
        add(start_edit(self.start));
        if let Some(state) = &self.state {
            add(state.edit());
        }
        for table in self.tables.values() {
            add(Edit::AddTable(AddTable { extents: Extents::List(&table.ranges), ..table.facts }));
        }
        bodies
    }
}

/// Replay begins here from now on.
pub(crate) fn start_edit(start: JournalStart) -> Edit<'static> {
    let JournalStart { at, incarnation, sequence } = start;
    Edit::SetJournalStart(SetJournalStart { at, incarnation, sequence: sequence.next() })
}

impl NamedState {
    /// This is the state from now on.
    pub(crate) fn edit(&self) -> Edit<'_> {
        let NamedState { blob, ref ranges, bytes, checksum } = *self;
        Edit::SetState(SetState { blob, extents: Extents::List(ranges), bytes, checksum })
    }
}

/// The facts of a table without its extents.
fn without_extents(add: AddTable<'_>) -> AddTable<'static> {
    AddTable { extents: Extents::List(&[]), ..add }
}
