//! From a table that was written to one that can be read: its facts for the manifest, and itself, opened.

use super::build::{BuildError, Built, Sink};
use super::room::Purpose;
use super::table::{Table, TablePlace};
use super::window::{Spread, Window};
use crate::core::Shard;
use layout::manifest::{AddTable, Edit, Extents, TableKind};
use layout::table::TableSummary;
use layout::table_seal::{Decompressor, TableIdentity};
use layout::units::{TableId, TabletIndex};
use std::rc::Rc;

/// A table whose bytes are given to the device.
pub(crate) struct Written {
    pub(crate) id: TableId,
    pub(crate) tablet: TabletIndex,
    pub(crate) level: u8,
    pub(crate) identity: TableIdentity,
    pub(crate) built: Built,
}

/// A table that can be read, and named by the manifest.
pub(crate) struct Made {
    pub(crate) facts: AddTable<'static>,
    pub(crate) table: Rc<Table>,
}

impl Made {
    /// The manifest names it from now on.
    pub(crate) fn edit(&self) -> Edit<'_> {
        Edit::AddTable(AddTable { extents: Extents::List(self.table.place.extents.ranges()), ..self.facts })
    }
}

/// How the manifest says what a run knew of windows.
fn window_of(spread: &Spread) -> Window {
    let Spread { sealed_to, late_count, open_from } = *spread;
    let to = if open_from == u64::MAX { sealed_to } else { open_from };
    Window { from: sealed_to, to, generation: u32::try_from(late_count).unwrap_or(u32::MAX) }
}

/// What a run knew of windows, as the manifest says it.
pub(crate) fn spread_of(facts: &AddTable<'_>) -> Spread {
    let (sealed_to, late_count) = (facts.window_from, u64::from(facts.window_generation));
    Spread { sealed_to, late_count, open_from: facts.window_to }
}

impl Written {
    /// Open it: read back what readers need.
    pub(crate) async fn open(self, unpack: &mut Decompressor) -> Result<Made, BuildError> {
        let Written { id, tablet, level, identity, built } = self;
        let (summary, footer) = (built.summary, built.summary.footer);
        let spread = built.spread;
        let (kind, window) = match identity {
            TableIdentity::Run { .. } => (TableKind::Run, window_of(&spread)),
            TableIdentity::Sealed {
                window_from: from, window_to: to, window_generation: generation, ..
            } => (TableKind::Sealed, Window { from, to, generation }),
            TableIdentity::Sunk {
                window_from: from, window_to: to, window_generation: generation, ..
            } => (TableKind::Sunk, Window { from, to, generation }),
        };
        let facts = AddTable {
            table: id,
            tablet,
            kind,
            level,
            window_from: window.from,
            window_to: window.to,
            window_generation: window.generation,
            extents: Extents::List(&[]),
            bytes: summary.bytes,
            data_bytes: footer.data_bytes,
            record_count: footer.record_count,
            tombstone_count: footer.tombstone_count,
            time_min: footer.time_min,
            time_max: footer.time_max,
            log_index_min: footer.log_index_min,
            log_index_max: footer.log_index_max,
            expiry_min: footer.expiry_min,
            expiry_max: footer.expiry_max,
            checksum: summary.checksum,
        };
        let place = TablePlace {
            id,
            level,
            identity,
            extents: built.extents,
            bytes: summary.bytes,
            checksum: summary.checksum,
            spread,
        };
        let (table, opened) = Table::open(place, unpack).await;
        opened?;
        Ok(Made { facts, table: Rc::new(table) })
    }
}

/// Write a sunk table whose bytes are here, and open it. Nothing names it yet; it is not flushed.
pub(crate) async fn make_sunk(
    shard: &Shard,
    tablet: TabletIndex,
    (bytes, summary): (&[u8], TableSummary),
    identity: TableIdentity,
) -> Result<Made, BuildError> {
    let keeper = &shard.keeper;
    let mut sink = Sink::new(Rc::clone(&keeper.zone), Purpose::Merge, bytes.len() as u64);
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = sink.write(rest, true).await?;
        rest = &rest[taken..];
    }
    let built = Built { summary, extents: sink.finish(), spread: Spread::new(0) };
    let written = Written { id: keeper.next_table(), tablet, level: 0, identity, built };
    written.open(&mut Decompressor::new()).await
}
