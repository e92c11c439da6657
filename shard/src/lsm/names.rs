//! What a manifest says, as a value: which tables there are, where the tablets' state lies, where replay begins. Pure.
//!
//! Invariant: no table is named twice. That no extent is, the allocator sees when what was read is claimed.

use crate::journal::{JournalStart, record_bytes};
use crate::manifest::Reading;
use layout::Corrupt;
use layout::manifest::{AddTable, Edit, EditIter, ExtentRange, Extents, SetJournalStart, SetState};
use layout::units::{Sequence, TableId};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A table as the manifest names it.
#[derive(Clone, Debug)]
pub struct NamedTable {
    /// All but its extents.
    pub facts: AddTable<'static>,
    /// Where its bytes lie, in order.
    pub ranges: Vec<ExtentRange>,
}

/// The blob with the state of the tablets.
#[derive(Clone, Debug)]
pub struct NamedState {
    /// Its number.
    pub blob: TableId,
    /// Where its bytes lie, in order.
    pub ranges: Vec<ExtentRange>,
    /// All of its bytes.
    pub bytes: u64,
    /// The checksum at its end.
    pub checksum: u128,
}

/// A manifest. A clone shares the tables.
#[derive(Clone, Debug)]
pub struct Names {
    /// The tables, by number.
    pub tables: BTreeMap<u64, Rc<NamedTable>>,
    /// The state of the tablets; none before the first flush.
    pub state: Option<NamedState>,
    /// Where replay begins.
    pub start: JournalStart,
    /// Numbers below this one may have been used.
    pub next_table: u64,
}

impl Names {
    /// Of a device that was just formatted.
    pub(crate) fn new() -> Names {
        Names { tables: BTreeMap::new(), state: None, start: JournalStart::FIRST, next_table: 1 }
    }

    /// What a manifest that was read says.
    pub(crate) fn of(reading: &Reading) -> Result<Names, Corrupt> {
        let mut names = Names::new();
        reading.snapshot.iter().chain(&reading.edits).try_for_each(|body| names.read(body))?;
        Ok(names)
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
                if self.tables.insert(add.table.0, Rc::new(named)).is_some() {
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

    /// The edits that make the whole manifest, and which of them have no room in a body of at most `bytes_max` with
    /// those before: they begin the next.
    fn packed(&self, bytes_max: usize) -> impl Iterator<Item = (Edit<'_>, bool)> {
        let first = [Edit::SetNextTableId(TableId(self.next_table)), start_edit(self.start)];
        let state = self.state.iter().map(NamedState::edit);
        let tables = self.tables.values().map(|table| table.edit());
        let mut body_bytes = 0;
        first.into_iter().chain(state).chain(tables).map(move |edit| {
            let bytes = edit.encoded_bytes();
            let begins = body_bytes + bytes > bytes_max;
            body_bytes = if begins { bytes } else { body_bytes + bytes };
            (edit, begins)
        })
    }

    /// Bytes of the edits that make the whole manifest.
    pub(crate) fn encoded_bytes(&self) -> u64 {
        self.packed(usize::MAX).map(|(edit, _)| edit.encoded_bytes() as u64).sum()
    }

    /// The whole manifest, as bodies of at most `bytes_max`.
    #[must_use]
    pub fn bodies(&self, bytes_max: usize) -> Vec<Vec<u8>> {
        let mut bodies = vec![Vec::new()];
        for (edit, begins) in self.packed(bytes_max) {
            if begins {
                bodies.push(Vec::new());
            }
            edit.encode_into(bodies.last_mut().expect("there is one"));
        }
        bodies
    }

    /// Bytes that the records of [`Names::bodies`] take on the device. Encodes nothing.
    pub(crate) fn snapshot_bytes(&self, bytes_max: usize) -> u64 {
        let (mut before, mut body_bytes) = (0, 0);
        for (edit, begins) in self.packed(bytes_max) {
            if begins {
                before += record_bytes(body_bytes);
                body_bytes = 0;
            }
            body_bytes += edit.encoded_bytes();
        }
        before + record_bytes(body_bytes)
    }
}

/// Replay begins here from now on.
pub(crate) fn start_edit(start: JournalStart) -> Edit<'static> {
    let JournalStart { at, incarnation, sequence } = start;
    Edit::SetJournalStart(SetJournalStart { at, incarnation, sequence: sequence.next() })
}

impl NamedTable {
    /// It joins.
    fn edit(&self) -> Edit<'_> {
        Edit::AddTable(AddTable { extents: Extents::List(&self.ranges), ..self.facts })
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use layout::manifest::TableKind;
    use layout::units::{LogIndex, TabletIndex};

    fn facts(table: u64) -> AddTable<'static> {
        AddTable {
            table: TableId(table),
            tablet: TabletIndex::new(3).unwrap(),
            kind: TableKind::Run,
            level: 1,
            window_from: 0,
            window_to: 0,
            window_generation: 0,
            extents: Extents::List(&[]),
            bytes: 4096,
            data_bytes: 1000,
            record_count: 5,
            tombstone_count: 1,
            time_min: 7,
            time_max: 9,
            log_index_min: LogIndex(1),
            log_index_max: LogIndex(table),
            expiry_min: 0,
            expiry_max: 0,
            checksum: u128::from(table),
        }
    }

    /// `table_count` tables, of which each has one range more than the one before.
    fn names(table_count: u64) -> Names {
        let mut names = Names { next_table: table_count + 2, ..Names::new() };
        let range = |first| ExtentRange { first, count: 1 };
        let mut ranges = Vec::new();
        for table in 1..=table_count {
            ranges.push(range(table as u32 * 2));
            let add = AddTable { extents: Extents::List(&ranges), ..facts(table) };
            names.apply(&Edit::AddTable(add)).unwrap();
        }
        let ranges = vec![range(0)];
        names.state = Some(NamedState { blob: TableId(table_count + 1), ranges, bytes: 99, checksum: 7 });
        names
    }

    #[test]
    fn a_snapshot_is_measured_as_it_is_written_and_read_as_it_was() {
        for (table_count, bytes_max) in [(0, 8000), (1, 300), (50, 600), (50, 1000), (50, 8000), (200, 8000)]
        {
            let names = names(table_count);
            let bodies = names.bodies(bytes_max);
            assert!(bodies.iter().all(|body| body.len() <= bytes_max));
            let bytes: u64 = bodies.iter().map(|body| record_bytes(body.len())).sum();
            assert_eq!(names.snapshot_bytes(bytes_max), bytes, "{table_count} tables, {bytes_max}");
            let mut read = Names::new();
            bodies.iter().for_each(|body| read.read(body).unwrap());
            assert_eq!(format!("{read:?}"), format!("{names:?}"));
        }
    }
}
