//! From a table that was written to one that can be read: its facts for the manifest, and itself, opened.

use super::build::{BuildError, Built};
use super::table::{Table, TablePlace};
use layout::manifest::{AddTable, Edit, Extents, TableKind};
use layout::table_seal::{Decompressor, TableIdentity};
use layout::units::{TableId, TabletIndex};
use std::rc::Rc;

/// A run whose bytes are given to the device.
pub(crate) struct Written {
    pub(crate) id: TableId,
    pub(crate) tablet: TabletIndex,
    pub(crate) level: u8,
    pub(crate) identity: TableIdentity,
    pub(crate) built: Built,
}

/// A run that can be read, and named by the manifest.
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

impl Written {
    /// Open it: read back what readers need.
    pub(crate) async fn open(self, unpack: &mut Decompressor) -> Result<Made, BuildError> {
        let Written { id, tablet, level, identity, built } = self;
        let (summary, footer) = (built.summary, built.summary.footer);
        let facts = AddTable {
            table: id,
            tablet,
            kind: TableKind::Run,
            level,
            window_from: 0,
            window_to: 0,
            window_generation: 0,
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
        let place = TablePlace { id, level, identity, extents: built.extents, bytes: summary.bytes };
        let (table, opened) = Table::open(place, unpack).await;
        opened?;
        Ok(Made { facts, table: Rc::new(table) })
    }
}
