//! The places that a disk keeps, in memory and on the disk: who asks again for the same sections gets the same place, after any crash.
//!
//! Must never let an answer leave before both copies of a page are durable. Invariant: a page that is not `dirty` stands on the disk as it is
//! in memory, twice. Reserved places stay until they are freed; sealed ones until others need their room.
//!
//! Failing history otherwise: a disk forgets a reservation at a restart and gives its place to another sinker, while the first goes on to
//! write there: one of the two publishes links to the bytes of the other.

use super::ColdError;
use super::device::Device;
use super::open::buffer;
use super::table::Run;
use ioengine::Io;
use layout::cold_disk::ColdSuperblock;
use layout::cold_kept::{
    KEPT_PAGE_BYTES, KEPT_PAGE_COUNT, KEPT_PAGE_PLACES, KeptFor, KeptPage, KeptPlace, choose_kept,
};
use layout::units::BLOCK_BYTES;

/// The run that a place is for.
#[must_use]
pub fn run_of(place: &KeptPlace) -> Run {
    let KeptPlace { file, file_generation, offset, number, section_count, .. } = *place;
    let bytes = place.content_bytes.next_multiple_of(BLOCK_BYTES as u32);
    Run { file, file_generation, offset, bytes, number, section_count }
}

#[derive(Clone, Copy)]
struct Entry {
    place: KeptPlace,
    /// Somebody may have written there.
    may_be_written: bool,
}

#[derive(Default)]
struct Page {
    sequence: u64,
    entries: Vec<Entry>,
    /// It is not on the disk as it is here.
    dirty: bool,
}

/// The kept places of a disk.
pub struct KeptPlaces {
    pages: Vec<Page>,
    order_next: u64,
    /// Pages of which nobody knows what they said.
    lost_count: u32,
}

impl KeptPlaces {
    /// What a disk keeps.
    ///
    /// # Errors
    /// [`ColdError::Arena`], [`ColdError::Aside`]. What cannot be read counts as refused.
    pub(super) async fn read(
        io: &Io,
        disk: Device<'_>,
        superblock: &ColdSuperblock,
    ) -> Result<KeptPlaces, ColdError> {
        let mut kept = KeptPlaces { pages: Vec::new(), order_next: 1, lost_count: 0 };
        let mut block = buffer(io, KEPT_PAGE_BYTES)?;
        for page in 0..KEPT_PAGE_COUNT {
            let mut copies = [Ok(None), Ok(None)];
            for (copy, found) in copies.iter_mut().enumerate() {
                let at = superblock.geometry.kept_offset(page, copy);
                let (result, back) = disk.read(block, at.0, KEPT_PAGE_BYTES).await?;
                block = back;
                if let Err(error) = result {
                    tracing::warn!(disk = disk.name(), page, %error, "a page of kept places cannot be read");
                    // No magic: refused.
                    block[..KEPT_PAGE_BYTES].fill(0xff);
                }
                let bytes = block.first_chunk().expect("a page was read");
                *found = KeptPage::decode(bytes, (superblock.device, page), at);
            }
            let (found, are_equal) = choose_kept(copies).unwrap_or_else(|[first, second]| {
                tracing::error!(disk = disk.name(), page, %first, %second, "a page of kept places is lost: this disk gives no places");
                kept.lost_count += 1;
                (KeptPage::default(), true)
            });
            if !are_equal {
                ioengine::sometimes!("two copies of a page of kept places differ");
            }
            let mut places = found.places;
            if ioengine::canary("forget_reservations_at_a_start") {
                places.retain(|place| place.is_sealed);
            }
            let newest = places.iter().map(|place| place.order + 1).max();
            kept.order_next = kept.order_next.max(newest.unwrap_or(0));
            let entries = places.into_iter().map(|place| Entry { place, may_be_written: true }).collect();
            kept.pages.push(Page { sequence: found.sequence, entries, dirty: !are_equal });
        }
        Ok(kept)
    }

    /// Bring every page to the disk that is not on it as it is here.
    ///
    /// # Errors
    /// [`ColdError::Disk`], [`ColdError::Aside`], [`ColdError::Arena`]: nobody may be told what is here.
    pub(super) async fn store(
        &mut self,
        io: &Io,
        disk: Device<'_>,
        superblock: &ColdSuperblock,
    ) -> Result<(), ColdError> {
        for (number, page) in (0..).zip(&mut self.pages).filter(|(_, page)| page.dirty) {
            page.sequence += 1;
            let state = KeptPage {
                sequence: page.sequence,
                places: page.entries.iter().map(|entry| entry.place).collect(),
            };
            let mut block = buffer(io, KEPT_PAGE_BYTES)?;
            for copy in 0..2 {
                let at = superblock.geometry.kept_offset(number, copy);
                let bytes = (&mut block[..KEPT_PAGE_BYTES]).try_into().expect("a page");
                state.encode(superblock.device, number, at, bytes);
                let (result, back) = disk.write_durable(block, at.0, KEPT_PAGE_BYTES).await?;
                block = back;
                result?;
            }
            page.dirty = false;
        }
        Ok(())
    }

    /// Pages of which nobody knows what they said: then no place is given any more.
    #[must_use]
    pub fn lost_count(&self) -> u32 {
        self.lost_count
    }

    /// Pages that are not on the disk, twice, as they are here: as read, those whose copies differ.
    #[must_use]
    pub fn unequal_count(&self) -> usize {
        self.pages.iter().filter(|page| page.dirty).count()
    }

    /// All that is kept, in no order.
    pub fn places(&self) -> impl Iterator<Item = &KeptPlace> {
        self.pages.iter().flat_map(|page| &page.entries).map(|entry| &entry.place)
    }

    /// What is kept for these sections.
    #[must_use]
    pub fn find(&self, whom: &KeptFor) -> Option<&KeptPlace> {
        self.places().find(|place| place.whom == *whom)
    }

    fn entry(&mut self, place: &KeptPlace) -> Option<(&mut Entry, &mut bool)> {
        self.pages.iter_mut().find_map(|page| {
            let dirty = &mut page.dirty;
            let found = page.entries.iter_mut().find(|entry| entry.place.order == place.order);
            found.map(|entry| (entry, dirty))
        })
    }

    /// May somebody have written to this place?
    pub(super) fn may_be_written(&mut self, place: &KeptPlace) -> bool {
        self.entry(place).is_some_and(|(entry, _)| entry.may_be_written)
    }

    pub(super) fn is_written_to(&mut self, place: &KeptPlace) {
        if let Some((entry, _)) = self.entry(place) {
            entry.may_be_written = true;
        }
    }

    /// Keep one more; not durable yet. `None` when all that is kept is reserved, and there is no room.
    pub(super) fn add(&mut self, whom: KeptFor, run: &Run, content_bytes: u32) -> Option<KeptPlace> {
        let order = self.order_next;
        let Run { file, file_generation, offset, number, section_count, .. } = *run;
        let is_sealed = false;
        let place = KeptPlace {
            whom,
            file,
            file_generation,
            offset,
            content_bytes,
            number,
            section_count,
            is_sealed,
            order,
        };
        let page = match self.pages.iter_mut().find(|page| page.entries.len() < KEPT_PAGE_PLACES) {
            Some(page) => page,
            None => {
                let sealed = self.places().filter(|place| place.is_sealed);
                let oldest = *sealed.min_by_key(|place| place.order)?;
                ioengine::sometimes!("a sealed place makes room for a reservation");
                let of = |page: &&mut Page| page.entries.iter().any(|entry| entry.place == oldest);
                let page = self.pages.iter_mut().find(of).expect("it is in a page");
                page.entries.retain(|entry| entry.place != oldest);
                page
            }
        };
        page.entries.push(Entry { place, may_be_written: false });
        page.dirty = true;
        self.order_next += 1;
        Some(place)
    }

    /// It is sealed; not durable yet.
    pub(super) fn seal(&mut self, place: &KeptPlace) {
        let (entry, dirty) = self.entry(place).expect("a kept place is sealed");
        entry.place.is_sealed = true;
        *dirty = true;
    }

    /// These are not kept any more; not durable yet.
    pub(super) fn remove(&mut self, mut goes: impl FnMut(&KeptPlace) -> bool) {
        for page in &mut self.pages {
            let before = page.entries.len();
            page.entries.retain(|entry| !goes(&entry.place));
            page.dirty |= page.entries.len() != before;
        }
    }
}
