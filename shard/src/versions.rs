//! The version cache of a shard, in shared memory: the newest version of the keys asked about, which survives a
//! restart of the process.
//!
//! Owns the region that `layout::version_file` and `layout::version_cell` describe, and the change counters of its
//! rows in the process's own memory. Must never say a version that was not the newest applied one of exactly that
//! key: it may say nothing at any time. Invariant: an apply updates the cell before the write becomes visible;
//! whatever changes a tablet without an apply raises its generation first.
//!
//! A look-up reads one cache line, a row of four cells. A move within a row is nine stores of eight bytes, between
//! any two of which the process may be killed; such a row is torn, recognised, and emptied.

use ioengine::Region;
use layout::key::Key;
use layout::units::{Incarnation, LogIndex, ShardIndex, TABLET_COUNT, TabletIndex, Uuid, Version};
use layout::version_cell::{
    Cells, HEADER_BYTES, Header, Inserted, ROW_BYTES, ROW_WORDS, Row, TabletState, Tag, Torn, row_and_tag,
};

const WORD_BYTES: usize = 8;
const HEADER_WORDS: usize = HEADER_BYTES / WORD_BYTES;
/// Change counters at most (256 KiB): rows share them, and a fill that is dropped for a neighbour's sake is only a
/// fill less. One per row would be a second line for each apply.
const CHANGE_COUNTER_MAX: usize = 1 << 16;

const _: () = assert!(ROW_BYTES == ROW_WORDS * WORD_BYTES);

/// Whose cache it is: compared with what an earlier process left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionsOwner {
    /// Device whose journal feeds it.
    pub device: Uuid,
    /// Generation of the device's format.
    pub generation: u32,
    /// Shard on it.
    pub shard: ShardIndex,
    /// Boot of the machine.
    pub boot: Uuid,
    /// This start.
    pub incarnation: Incarnation,
    /// The last start of the device before this one. If that start did not attach the cache, it has applied
    /// writes that the cells do not know.
    pub previous_incarnation: Incarnation,
}

/// What was found in shared memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attached {
    /// What the last process left; the journal's replay updates it.
    Kept,
    /// Nothing that can be believed: it starts empty.
    Emptied {
        /// Why, for the log.
        reason: String,
    },
}

/// Where a key's cell would be, for one generation of its tablet: computed once per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    tablet: TabletIndex,
    generation: u64,
    row: usize,
    tag: Tag,
}

/// Taken when a read begins: with it the read may fill the cell, if nothing was applied in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillToken {
    place: Place,
    changes: u32,
}

/// What happened since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VersionCounters {
    /// Look-ups that found a version.
    pub hit_count: u64,
    /// Look-ups that found nothing.
    pub miss_count: u64,
    /// Rows found torn and emptied.
    pub torn_row_count: u64,
    /// Fills dropped because something was applied since their read began.
    pub dropped_fill_count: u64,
    /// Versions above what a cell holds (61 bits).
    pub refused_count: u64,
}

/// The version cache of one shard.
pub struct Versions {
    region: Region,
    row_count: usize,
    /// The tablets' words of the region, read once; nobody else writes them.
    tablets: [TabletState; TABLET_COUNT],
    changes: Vec<u32>,
    counters: VersionCounters,
}

impl Versions {
    /// Attach the region of a shard: keep what the last process left if it is coherent with what that process
    /// applied, else start empty and say why. The region holds the header (4096 bytes) and at least one row of 64
    /// bytes; more is our own bug. `random` is 64 random bits: the first generation of each tablet, not
    /// known to clients, so that they cannot choose two keys that share a cell.
    ///
    /// To be called once per start, after the incarnation is durable and before anything is applied.
    #[must_use]
    pub fn attach(region: Region, owner: &VersionsOwner, random: u64) -> (Versions, Attached) {
        let words = region.word_count();
        assert!(
            words > HEADER_WORDS && (words - HEADER_WORDS).is_multiple_of(ROW_WORDS),
            "a version cache is a header of 4096 bytes and rows of 64"
        );
        let row_count = (words - HEADER_WORDS) / ROW_WORDS;
        let mut header = Header {
            device: owner.device,
            shard: owner.shard,
            generation: owner.generation,
            boot: owner.boot,
            incarnation: owner.incarnation,
            row_count: row_count as u64,
            tablets: [TabletState { coherent_index: 0, generation: random }; TABLET_COUNT],
        };
        let attached = match believe(&region, owner, row_count as u64) {
            Ok(found) => {
                header.tablets = found.tablets;
                let attached = if found.incarnation == owner.previous_incarnation
                    || ioengine::canary("skip_identity_check")
                {
                    Attached::Kept
                } else {
                    Attached::Emptied { reason: empty_cells(&region, &mut header, &found, owner) }
                };
                // One store: before it the file belongs to the last start, after it to this one.
                region.store(Header::INCARNATION_OFFSET / WORD_BYTES, header.incarnation_word());
                attached
            }
            Err(reason) => {
                start_empty(&region, &header);
                Attached::Emptied { reason }
            }
        };
        let versions = Versions {
            region,
            row_count,
            tablets: header.tablets,
            changes: vec![0; row_count.next_power_of_two().min(CHANGE_COUNTER_MAX)],
            counters: VersionCounters::default(),
        };
        (versions, attached)
    }

    /// Bytes of the region for a cache of so many rows (four keys each).
    #[must_use]
    pub fn region_bytes(row_count: usize) -> usize {
        HEADER_BYTES + row_count * ROW_BYTES
    }

    /// Where the cell of a key is. Good until the generation of its tablet is raised.
    #[must_use]
    pub fn place(&self, tablet: TabletIndex, key: Key<'_>) -> Place {
        let generation = self.tablets[tablet.index()].generation;
        let (row, tag) = row_and_tag(tablet, generation, &key, self.row_count as u64);
        Place { tablet, generation, row: row as usize, tag }
    }

    fn is_current(&self, place: &Place) -> bool {
        place.generation == self.tablets[place.tablet.index()].generation
    }

    fn first_word(row: usize) -> usize {
        HEADER_WORDS + row * ROW_WORDS
    }

    /// Bring the row of a place near: first step of a batch.
    pub fn prefetch(&self, place: &Place) {
        self.region.prefetch(Versions::first_word(place.row));
    }

    fn cells(&mut self, row: usize) -> Cells {
        let first = Versions::first_word(row);
        let found = Row(std::array::from_fn(|word| self.region.load(first + word)));
        found.decode().unwrap_or_else(|Torn| {
            self.counters.torn_row_count += 1;
            self.store(row, &Cells::EMPTY);
            Cells::EMPTY
        })
    }

    fn store(&self, row: usize, cells: &Cells) {
        let first = Versions::first_word(row);
        for (word, value) in cells.encode().stores() {
            self.region.store(first + word, value);
        }
    }

    /// The newest version of the key, `ABSENT` for a known absence; `None` when the cache does not know. A cell
    /// that is found moves to the front of its row.
    pub fn lookup(&mut self, place: &Place) -> Option<Version> {
        if !self.is_current(place) {
            self.counters.miss_count += 1;
            return None;
        }
        let mut cells = self.cells(place.row);
        let Some((position, version)) = cells.find(place.tag) else {
            self.counters.miss_count += 1;
            return None;
        };
        self.counters.hit_count += 1;
        // A row whose first cell is asked for again, the common case, is not written.
        if position > 0 {
            cells.touch(position);
            self.store(place.row, &cells);
        }
        Some(version)
    }

    /// A write was applied: this is the key's version now (`ABSENT` for a delete). Always, before the write becomes
    /// visible; if the row is full, its last cell goes. The place is of the current generation.
    pub fn update(&mut self, place: &Place, version: Version) {
        assert!(self.is_current(place), "an apply asks for its place after the generation was raised");
        let counter = self.counter_index(place);
        self.changes[counter] = self.changes[counter].wrapping_add(1);
        self.insert(place, version);
    }

    /// A write was applied whose version a cell must not hold: the cache knows nothing of the key from now on.
    pub fn forget(&mut self, place: &Place) {
        assert!(self.is_current(place), "an apply asks for its place after the generation was raised");
        let counter = self.counter_index(place);
        self.changes[counter] = self.changes[counter].wrapping_add(1);
        let mut cells = self.cells(place.row);
        if cells.remove(place.tag) {
            self.store(place.row, &cells);
        }
    }

    fn insert(&mut self, place: &Place, version: Version) {
        let mut cells = self.cells(place.row);
        if cells.insert(place.tag, version) == Inserted::Refused {
            self.counters.refused_count += 1;
        }
        self.store(place.row, &cells);
    }

    fn counter_index(&self, place: &Place) -> usize {
        place.row & (self.changes.len() - 1)
    }

    /// A read begins that may fill the cell with what it finds.
    #[must_use]
    pub fn begin_fill(&self, place: Place) -> FillToken {
        FillToken { place, changes: self.changes[self.counter_index(&place)] }
    }

    /// The read has found this version: remember it, unless a write that may be the key's was applied since it
    /// began, or the tablet's generation was raised. True if it was taken.
    pub fn fill(&mut self, token: FillToken, version: Version) -> bool {
        let counter = self.counter_index(&token.place);
        let is_overtaken =
            self.changes[counter] != token.changes && !ioengine::canary("fill_what_was_overtaken");
        if is_overtaken || !self.is_current(&token.place) {
            self.counters.dropped_fill_count += 1;
            return false;
        }
        self.insert(&token.place, version);
        true
    }

    /// Empty the tablet's cells: what changes it other than by apply (a file copied in, a repair, damage found)
    /// calls this before the change is visible.
    pub fn raise_generation(&mut self, tablet: TabletIndex) {
        let state = &mut self.tablets[tablet.index()];
        state.generation = state.generation.wrapping_add(1);
        self.region.store(TabletState::generation_offset(tablet) / WORD_BYTES, state.generation);
    }

    /// Log index up to which the cells know what was applied to the tablet; 0 when they know nothing. If a replay
    /// starts above the next one, the cells have missed entries: raise the generation.
    #[must_use]
    pub fn coherent_index(&self, tablet: TabletIndex) -> LogIndex {
        LogIndex(self.tablets[tablet.index()].coherent_index)
    }

    /// All entries of the tablet up to this index are applied, and their cells updated. It only rises: a replay comes
    /// again to where the process before it was. Failing history otherwise: shared memory knows of entry 49, which the
    /// journal has lost; a start replays 25 entries, says so, and is killed; the next one knows nothing of 49.
    pub fn set_coherent_index(&mut self, tablet: TabletIndex, index: LogIndex) {
        let state = &mut self.tablets[tablet.index()];
        if index.0 <= state.coherent_index && !ioengine::canary("forget_while_replaying") {
            return;
        }
        state.coherent_index = index.0;
        self.region.store(TabletState::coherent_index_offset(tablet) / WORD_BYTES, index.0);
    }

    /// Rows, of four cells each.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.row_count
    }

    /// What happened since the start of the process.
    #[must_use]
    pub fn counters(&self) -> VersionCounters {
        self.counters
    }
}

/// The header that an earlier process left, or why it cannot be believed.
fn believe(region: &Region, owner: &VersionsOwner, row_count: u64) -> Result<Header, String> {
    if !region.existed() {
        return Err("there was none of this size".to_owned());
    }
    let mut bytes = [0; HEADER_BYTES];
    for (word, place) in bytes.as_chunks_mut::<WORD_BYTES>().0.iter_mut().enumerate() {
        *place = region.load(word).to_le_bytes();
    }
    let found = Header::decode(&bytes).map_err(|corrupt| corrupt.to_string())?;
    if found.row_count != row_count {
        return Err(format!("it has {} rows, not {row_count}", found.row_count));
    }
    if ioengine::canary("skip_identity_check") {
        return Ok(found);
    }
    if found.device != owner.device {
        return Err(format!("it belongs to device {}, not {}", found.device, owner.device));
    }
    if found.generation != owner.generation {
        return Err(format!("it is of format generation {}, not {}", found.generation, owner.generation));
    }
    if found.shard != owner.shard {
        return Err(format!("it belongs to shard {}, not {}", found.shard, owner.shard));
    }
    if found.boot != owner.boot {
        return Err("the machine has booted since".to_owned());
    }
    Ok(found)
}

/// The cells of an older start may have missed entries: forget them all, and keep how far each tablet had come, which is
/// as true as ever. Failing history otherwise: shared memory knows of entry 45, which the journal has lost; a start takes
/// its incarnation and is killed before it attaches; the next one knows nothing of 45.
fn empty_cells(region: &Region, header: &mut Header, found: &Header, owner: &VersionsOwner) -> String {
    for tablet in TabletIndex::all() {
        let state = &mut header.tablets[tablet.index()];
        state.generation = state.generation.wrapping_add(1);
        region.store(TabletState::generation_offset(tablet) / WORD_BYTES, state.generation);
    }
    format!(
        "start {} attached it last, and start {} may have applied writes without it",
        found.incarnation, owner.previous_incarnation
    )
}

/// Empty the rows and write the header, its magic last: killed in between, the next start begins again.
fn start_empty(region: &Region, header: &Header) {
    region.store(0, 0);
    if region.existed() {
        // A word that is zero already is not written: its page may not exist yet.
        for word in (HEADER_WORDS..region.word_count()).filter(|word| region.load(*word) != 0) {
            region.store(word, 0);
        }
    }
    let mut bytes = [0; HEADER_BYTES];
    header.encode(&mut bytes);
    let words = bytes.as_chunks::<WORD_BYTES>().0.iter().map(|word| u64::from_le_bytes(*word));
    for (word, value) in words.enumerate().skip(1).chain([(0, first_word(&bytes))]) {
        region.store(word, value);
    }
}

fn first_word(bytes: &[u8; HEADER_BYTES]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("a header is longer than a word"))
}

#[cfg(test)]
mod tests;
