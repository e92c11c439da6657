//! A table that can be read: what the manifest says of it, its footer, dictionary, index and filter, in memory.
//!
//! Held by `Rc`: whoever reads goes on with it though a merge has replaced it. Its extents are free again when the last
//! one who holds it has let go, unless the manifest names it: then they are kept for the next start.

use super::window::{Spread, Window};
use super::zone::{HeldExtents, ReadError};
use crate::sink::ColdFailure;
use layout::table_filter::Filter;
use layout::table_footer::{FOOTER_BYTES, Footer, open_dictionary, open_filter, open_index, open_sections};
use layout::table_index::{BlockHandle, Index};
use layout::table_key::key_hash;
use layout::table_seal::{BlockChecksum, BlockKind, Decompressor, Dictionary, TableIdentity, open_block};
use layout::table_sunk::{SunkSection, SunkSections, open_sunk_sections, section_identity};
use layout::tablet_sink::ColdLink;
use layout::units::TableId;
use net::cold::ColdBlocks;
use net::redirect::Redirect;
use std::cell::Cell;

/// Bytes that one read of a cold disk gets at most, unless a block is larger: every frame carries them.
const READ_BYTES_MAX: u64 = 96 << 10;

/// No place of a block cache.
const NOWHERE: u32 = u32::MAX;

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
    /// Of a sunk table: where its sections stand.
    pub(crate) sunk: Option<SunkSections>,
    /// By block: where the block cache has put it last.
    kept: Box<[Cell<u32>]>,
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
        if footer.is_sunk {
            // They were read with the rest.
            return Ok(());
        }
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
        let mut sunk = None;
        if footer.is_sunk {
            bytes.clear();
            self.read(footer.sections_offset(), footer.sections_bytes as usize, &mut bytes).await?;
            sunk = Some(open_sunk_sections(&self.checksum, &footer, &bytes, unpack).map_err(corrupt)?);
        }
        let kept = vec![Cell::new(NOWHERE); index.block_count() as usize].into();
        Ok(Parts { footer, index, filter, dictionary, sunk, kept })
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
            }
            | TableIdentity::Sunk {
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
    pub(crate) fn block_of(&self, time: u64, key: &[u8], hash: u64) -> Option<u32> {
        let Parts { footer, index, filter, .. } = self.parts.as_ref()?;
        if !(footer.time_min..=footer.time_max).contains(&time) || !filter.contains(hash) {
            return None;
        }
        index.find_block(key)
    }

    /// The same for a reader of blocks in memory, who asks [`Table::passes`] before the device is asked. Behind a window
    /// nothing is asked, and most that ask for a time of its have their record here: a block in memory says so itself, without
    /// the three far bytes of the filter.
    #[inline]
    pub(super) fn block_near(&self, time: u64, key: &[u8], hash: u64) -> Option<u32> {
        if self.window().is_none() {
            return self.block_of(time, key, hash);
        }
        let Parts { footer, index, .. } = self.parts.as_ref()?;
        if !(footer.time_min..=footer.time_max).contains(&time) {
            return None;
        }
        let block = index.find_block(key)?;
        (self.kept_at(block).is_some() || self.passes(hash)).then_some(block)
    }

    /// Does its filter say maybe?
    #[inline]
    pub(super) fn passes(&self, hash: u64) -> bool {
        self.parts.as_ref().is_none_or(|parts| parts.filter.contains(hash))
    }

    /// Where a block lies.
    pub(crate) fn handle(&self, block: u32) -> BlockHandle {
        self.parts().index.handle(block).expect("the block was found in the index")
    }

    /// Where the block cache has put a block last; it may hold another by now.
    #[inline]
    pub(super) fn kept_at(&self, block: u32) -> Option<u32> {
        let place = self.parts.as_ref()?.kept.get(block as usize)?.get();
        (place != NOWHERE).then_some(place)
    }

    /// The block cache has put a block there.
    pub(super) fn set_kept(&self, block: u32, place: u32) {
        if let Some(kept) = self.parts.as_ref().and_then(|parts| parts.kept.get(block as usize)) {
            kept.set(place);
        }
    }

    /// Its records stand on cold disks, and only what finds them is here.
    pub(crate) fn is_sunk(&self) -> bool {
        matches!(self.place.identity, TableIdentity::Sunk { .. })
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

    /// Append stored data blocks to `out`, from the device or the cold disks; `offset` is as in the index.
    pub(crate) async fn read_data(
        &self,
        offset: u64,
        bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        match &self.parts().sunk {
            None => self.read(offset, bytes, out).await,
            Some(sections) => self.read_cold(sections, offset, bytes as u64, out).await,
        }
    }

    /// Whole blocks, each section's by one read of a cold disk.
    async fn read_cold(
        &self,
        sections: &SunkSections,
        offset: u64,
        bytes: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let (table, zone) = (self.place.id, self.place.extents.zone());
        let cold = zone.cold().ok_or(ReadError::Cold { table, failure: ColdFailure::NoGroup })?;
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let outside = ReadError::Outside { table, offset: at };
            let (section, link) = sections.at(at).ok_or(outside)?;
            let from = at - section.data_from;
            let most = u64::from(section.data_bytes).min(end - section.data_from);
            let to = self.last_block_end(section.data_from, from, most.min(from + READ_BYTES_MAX));
            let blocks = self.cold_blocks(sections.generation, section, link, (from, to - from));
            let Some(blocks) = blocks else { return Err(ReadError::Outside { table, offset: at }) };
            cold.read(&blocks, out).await.map_err(|failure| ReadError::Cold { table, failure })?;
            at = section.data_from + to;
        }
        Ok(())
    }

    /// Of a section whose data begins there: the end of the last block that begins at or behind `from` and ends at or before `to`; of the
    /// first one if that is larger.
    fn last_block_end(&self, data_from: u64, from: u64, to: u64) -> u64 {
        let index = &self.parts().index;
        let mut block = index.block_at(data_from + from);
        let mut end = None;
        while let Some(handle) = index.handle(block) {
            let here = handle.end() - data_from;
            if here > to && end.is_some() {
                break;
            }
            end = Some(here);
            if here >= to {
                break;
            }
            block += 1;
        }
        end.unwrap_or(to)
    }

    /// Where on cold disks a block of a sunk table lies, and with whom; `None` where it is not a sunk table's, or nothing says it.
    pub(crate) fn redirect(&self, handle: BlockHandle) -> Option<Redirect> {
        let sections = self.parts.as_ref()?.sunk.as_ref()?;
        let (section, link) = sections.at(handle.offset)?;
        let within = (handle.offset - section.data_from, u64::from(handle.stored_bytes));
        let blocks = self.cold_blocks(sections.generation, section, link, within)?;
        Some(Redirect { blocks, nodes: self.place.extents.zone().cold()?.addresses() })
    }

    /// How a cold node is asked for bytes `from`, `bytes` of a section's data.
    fn cold_blocks(
        &self,
        generation: u32,
        section: &SunkSection,
        link: &ColdLink,
        (from, bytes): (u64, u64),
    ) -> Option<ColdBlocks> {
        let identity = section_identity(&self.place.identity, generation, section.bucket)?;
        Some(ColdBlocks {
            group: link.group,
            disk: link.disk,
            bucket: section.bucket,
            window_from: identity.window_from,
            window_days: identity.window_days,
            window_generation: identity.window_generation,
            file: link.file,
            file_generation: link.file_generation,
            offset: section.offset,
            block_offset: u32::try_from(from).ok()?,
            block_bytes: u32::try_from(bytes).ok()?,
        })
    }

    /// Check a stored block and append what it holds to `out`.
    pub(crate) fn unpack(
        &self,
        offset: u64,
        stored: &[u8],
        unpack: &mut Decompressor,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        if let Some(sections) = self.parts.as_ref().and_then(|parts| parts.sunk.as_ref()) {
            return self.unpack_cold(sections, offset, stored, unpack, out);
        }
        let dictionary = self.parts.as_ref().and_then(|parts| parts.dictionary.as_ref());
        let block = open_block(&self.checksum, offset, BlockKind::Data, stored, dictionary, unpack, out);
        block.map_err(|corrupt| ReadError::Corrupt { table: self.place.id, corrupt })
    }

    /// The same of a block of a section: it is proven by the identity of that section.
    fn unpack_cold(
        &self,
        sections: &SunkSections,
        offset: u64,
        stored: &[u8],
        unpack: &mut Decompressor,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let table = self.place.id;
        let outside = ReadError::Outside { table, offset };
        let Some((section, _)) = sections.at(offset) else { return Err(outside) };
        let identity = section_identity(&self.place.identity, sections.generation, section.bucket);
        let Some(identity) = identity else { return Err(outside) };
        let at = offset - section.data_from;
        let block = open_block(&identity.checksum(), at, BlockKind::Data, stored, None, unpack, out);
        block.map_err(|_| ReadError::Cold { table, failure: ColdFailure::Wrong })
    }

    /// Memory of index, filter, dictionary, places of sections and places in the block cache, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.parts.as_ref().map_or(0, |Parts { index, filter, dictionary, sunk, kept, .. }| {
            let dictionary = dictionary.as_ref().map_or(0, Dictionary::memory_bytes);
            let sunk = sunk.as_ref().map_or(0, SunkSections::memory_bytes);
            index.memory_bytes() + filter.memory_bytes() + dictionary + sunk + size_of_val(&kept[..])
        })
    }
}
