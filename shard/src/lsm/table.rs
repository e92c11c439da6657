//! A table that can be read: what the manifest says of it, its footer, dictionary, index and filter, in memory.
//!
//! Held by `Rc`: whoever reads goes on with it though a merge has replaced it. Its extents are free again when the last
//! one who holds it has let go, unless the manifest names it: then they are kept for the next start.

use super::window::{Spread, Window};
use super::zone::{HeldExtents, ReadError};
use layout::table_filter::Filter;
use layout::table_footer::{FOOTER_BYTES, Footer, open_dictionary, open_filter, open_index, open_sections};
use layout::table_index::{BlockHandle, Index};
use layout::table_key::key_hash;
use layout::table_seal::{BlockChecksum, BlockKind, Decompressor, Dictionary, TableIdentity, open_block};
use layout::units::TableId;

/// What is needed to open a table.
pub(crate) struct TablePlace {
    pub(crate) id: TableId,
    pub(crate) level: u8,
    pub(crate) identity: TableIdentity,
    pub(crate) extents: HeldExtents,
    /// Bytes of the table.
    pub(crate) bytes: u64,
    /// Of all of them.
    pub(crate) checksum: u128,
    /// Of a run: what it knew of windows when it was written.
    pub(crate) spread: Spread,
}

/// What is in memory of a table that can be read.
pub(crate) struct Parts {
    pub(crate) footer: Footer,
    pub(crate) index: Index,
    filter: Filter,
    dictionary: Option<Dictionary>,
}

/// A table in use.
pub(crate) struct Table {
    pub(crate) place: TablePlace,
    checksum: BlockChecksum,
    /// `None`: its footer, dictionary, index or filter cannot be read, and what it holds is not known.
    parts: Option<Parts>,
}

impl Table {
    /// Open a table: read its footer, dictionary, index and filter.
    ///
    /// # Errors
    /// [`ReadError`]; the table is there all the same, and broken.
    pub(crate) async fn open(place: TablePlace, unpack: &mut Decompressor) -> (Table, Result<(), ReadError>) {
        let checksum = BlockChecksum::new(&place.identity);
        let mut table = Table { checksum, parts: None, place };
        match table.read_parts(unpack).await {
            Ok(parts) => {
                table.parts = Some(parts);
                (table, Ok(()))
            }
            Err(error) => (table, Err(error)),
        }
    }

    /// All but the blocks, as it stands on the device: also the sections, which nobody needs to read a record.
    pub(super) async fn check_parts(&self, unpack: &mut Decompressor) -> Result<(), ReadError> {
        let Parts { footer, .. } = self.read_parts(unpack).await?;
        let mut bytes = Vec::new();
        self.read(footer.sections_offset(), footer.sections_bytes as usize, &mut bytes).await?;
        let sections = open_sections(&self.checksum, &footer, &bytes, unpack);
        sections.map(|_| ()).map_err(|corrupt| ReadError::Corrupt { table: self.place.id, corrupt })
    }

    /// Footer, dictionary, index and filter as they stand on the device.
    async fn read_parts(&self, unpack: &mut Decompressor) -> Result<Parts, ReadError> {
        let corrupt = |corrupt| ReadError::Corrupt { table: self.place.id, corrupt };
        let end = self.place.bytes;
        let mut bytes = Vec::new();
        let outside = ReadError::Outside { table: self.place.id, offset: end };
        let at = end.checked_sub(FOOTER_BYTES as u64).ok_or(outside)?;
        self.read(at, FOOTER_BYTES, &mut bytes).await?;
        let whole = bytes.first_chunk().expect("all of it was read");
        let footer = Footer::decode(&self.place.identity, end, whole).map_err(corrupt)?;
        // They stand one behind the other.
        bytes.clear();
        let (begin, end) = (footer.dictionary_offset(), footer.footer_offset());
        self.read(begin, (end - begin) as usize, &mut bytes).await?;
        let (dictionary, rest) = bytes.split_at(footer.dictionary_bytes as usize);
        let (index, filter) = rest.split_at(footer.index_bytes as usize);
        let mut dictionary = open_dictionary(&self.checksum, &footer, dictionary, unpack).map_err(corrupt)?;
        if dictionary.is_some() && ioengine::canary("another_dictionary") {
            dictionary = Dictionary::new(b"what another table was compressed with");
        }
        let index = open_index(&self.checksum, &footer, index, unpack).map_err(corrupt)?;
        let filter = open_filter(&self.checksum, &footer, filter, unpack).map_err(corrupt)?;
        Ok(Parts { footer, index, filter, dictionary })
    }

    /// The manifest names it, or names it no more: its extents are kept, or free again when the last one who holds it lets go.
    pub(crate) fn set_named(&self, named: bool) {
        self.place.extents.set_named(named);
        self.tell_place(named);
    }

    /// Tell who damages disks where a sealed table begins on the device, and how much of it follows there.
    pub(super) fn tell_place(&self, named: bool) {
        let extents = &self.place.extents;
        if ioengine::collects_facts()
            && self.window().is_some()
            && let Some((at, together)) = extents.zone().place(extents.ranges(), 0)
        {
            ioengine::fact("sealed table", at, if named { together.min(self.place.bytes) } else { 0 });
        }
    }

    /// Its footer, dictionary, index or filter cannot be read.
    pub(crate) fn is_broken(&self) -> bool {
        self.parts.is_none()
    }

    /// What is in memory of a table that is not broken.
    pub(crate) fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("whoever reads a table has seen that it is not broken")
    }

    /// The window that it is the sealed table of; `None` for a run.
    #[inline]
    pub(crate) fn window(&self) -> Option<Window> {
        match self.place.identity {
            TableIdentity::Run { .. } => None,
            TableIdentity::Sealed {
                window_from: from, window_to: to, window_generation: generation, ..
            } => Some(Window { from, to, generation }),
        }
    }

    /// May it hold the key? A broken one may, in its window.
    pub(crate) fn may_hold(&self, time: u64, key: &[u8]) -> bool {
        self.window().is_none_or(|window| window.holds(time))
            && (self.is_broken() || self.block_of(time, key, key_hash(key)).is_some())
    }

    /// May it hold records of these times? A broken one may, in its window.
    pub(crate) fn may_hold_times(&self, from: u64, to: u64) -> bool {
        if self.window().is_some_and(|window| window.from > to || from >= window.to) {
            return false;
        }
        self.parts.as_ref().is_none_or(|parts| parts.footer.time_min <= to && from <= parts.footer.time_max)
    }

    /// The block that has this key if the table has it; `None` when it has not.
    #[inline]
    pub(crate) fn block_of(&self, time: u64, key: &[u8], hash: u64) -> Option<(u32, BlockHandle)> {
        let Parts { footer, index, filter, .. } = self.parts.as_ref()?;
        if !(footer.time_min..=footer.time_max).contains(&time) || !filter.contains(hash) {
            return None;
        }
        index.find(key)
    }

    /// Does it keep a dictionary in memory?
    pub(crate) fn has_dictionary(&self) -> bool {
        self.parts.as_ref().is_some_and(|parts| parts.dictionary.is_some())
    }

    /// Append bytes of the table to `out`.
    pub(crate) async fn read(&self, offset: u64, bytes: usize, out: &mut Vec<u8>) -> Result<(), ReadError> {
        let extents = &self.place.extents;
        extents.zone().read(self.place.id, extents.ranges(), offset, bytes, out).await
    }

    /// Check a stored block and append what it holds to `out`.
    pub(crate) fn unpack(
        &self,
        offset: u64,
        stored: &[u8],
        unpack: &mut Decompressor,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let dictionary = self.parts.as_ref().and_then(|parts| parts.dictionary.as_ref());
        let block = open_block(&self.checksum, offset, BlockKind::Data, stored, dictionary, unpack, out);
        block.map_err(|corrupt| ReadError::Corrupt { table: self.place.id, corrupt })
    }

    /// Memory of index, filter and dictionary, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.parts.as_ref().map_or(0, |Parts { index, filter, dictionary, .. }| {
            let dictionary = dictionary.as_ref().map_or(0, Dictionary::memory_bytes);
            index.memory_bytes() + filter.memory_bytes() + dictionary
        })
    }
}
