//! The value rings of a core: what it has read, with versions, in shared memory; they survive a restart of the process.
//!
//! Owns the region that `layout::value_ring` and `layout::value_entry` describe. Must never allocate while running, and never give
//! out a record that was not put in for just that key: it may forget anything at any time. Invariant: heads only move forward,
//! and a head is stored before the bytes below it, a slot after the bytes that it names.
//!
//! ```text
//! key ──hash──► chain, line of eight slots ──tag──► place in the chain's ring ──position, key, checksum──► the record
//! ```
//! What is about to be overwritten is looked at first: if it was read since it was written, it is written again at the head.

use super::chain::Chain;
use ioengine::Region;
use layout::key::Key;
use layout::units::{Uuid, Version};
use layout::value_entry::{ENTRY_BYTES_MAX, ENTRY_HEAD_BYTES, Entry, Shape};
use layout::value_ring::{
    CHAIN_COUNT_MAX, HEAD_MAX, LINE_SLOTS, RING_HEADER_BYTES, RingGeometry, RingHeader, Slot, Spot,
    position_at,
};

pub(super) const WORD_BYTES: usize = 8;
/// Entries that are written again for one that is put in, at most: more are lost, so that a put stays short.
const SECOND_CHANCES_MAX: u32 = 4;
/// An entry has at most this part of a ring.
const RING_PART: u64 = 4;

/// Whose rings they are: compared with what an earlier process left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingsOwner {
    /// Whose records are kept.
    pub cluster: Uuid,
    /// The cache node.
    pub node: u32,
    /// Its core.
    pub core: u16,
}

/// What was found in shared memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingsFound {
    /// What the last process left.
    Kept,
    /// Nothing that can be believed: they start empty.
    Emptied {
        /// Why, for the log.
        reason: String,
    },
}

/// What happened since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingCounters {
    /// Entries put in.
    pub put_count: u64,
    /// Entries written again because they were read.
    pub second_chance_count: u64,
    /// Entries overwritten although they were read.
    pub lost_count: u64,
    /// Entries found damaged, or torn by a kill.
    pub damaged_count: u64,
    /// Entries too large for a ring.
    pub refused_count: u64,
}

/// The value rings of one core.
pub struct Rings {
    region: Region,
    geometry: RingGeometry,
    salt: u64,
    chains: Vec<Chain>,
    /// The entry that was looked at last.
    read: Vec<u8>,
    /// The entry that is being written.
    written: Vec<u8>,
    counters: RingCounters,
}

/// Where an entry was found.
#[derive(Clone, Copy)]
struct Seen {
    /// Word of the slot.
    slot_word: usize,
    slot: Slot,
    position: u64,
    shape: Shape,
}

impl Rings {
    /// Attach the region of a core: keep what the last process left if it is of the same owner and sizes, else start empty
    /// and say why. The region has [`RingGeometry::file_bytes`]; another size is our own bug. `random` is 64 random bits, not
    /// known to clients, so that they cannot choose keys that share a line.
    #[must_use]
    pub fn attach(
        region: Region,
        owner: &RingsOwner,
        geometry: RingGeometry,
        random: u64,
    ) -> (Rings, RingsFound) {
        assert!(geometry.is_valid(), "the geometry was checked");
        assert_eq!(
            region.word_count() as u64 * 8,
            geometry.file_bytes(),
            "the region has the geometry's size"
        );
        let heads = [0; CHAIN_COUNT_MAX];
        let RingsOwner { cluster, node, core } = *owner;
        let mut header = RingHeader { cluster, node, core, geometry, salt: random, heads };
        let found = match believe(&region, &header) {
            Ok(found) => {
                header = found;
                RingsFound::Kept
            }
            Err(reason) => {
                start_empty(&region, &header);
                RingsFound::Emptied { reason }
            }
        };
        let entry_bytes = ENTRY_BYTES_MAX.min((geometry.chain_bytes / RING_PART) as usize);
        let mut rings = Rings {
            region,
            geometry,
            salt: header.salt,
            chains: Vec::with_capacity(usize::from(geometry.chain_count)),
            read: vec![0; entry_bytes],
            written: vec![0; entry_bytes],
            counters: RingCounters::default(),
        };
        for chain in 0..geometry.chain_count {
            let head = header.heads[usize::from(chain)];
            let is_whole = head <= HEAD_MAX && head.is_multiple_of(layout::value_entry::UNIT_BYTES as u64);
            if !is_whole {
                clear_slots(&rings.region, &geometry, chain);
                rings.counters.damaged_count += 1;
            }
            rings.chains.push(Chain::new(&geometry, chain, if is_whole { head } else { 0 }));
        }
        (rings, found)
    }

    /// The record of a key, if there is one; it counts as read. Its version says what it was, not that it is the newest.
    pub fn get(&mut self, key: &Key<'_>) -> Option<Entry<'_>> {
        self.get_at(&self.spot(key), key)
    }

    /// The same, by the key's spot.
    pub(super) fn get_at(&mut self, spot: &Spot, key: &Key<'_>) -> Option<Entry<'_>> {
        let seen = self.find(spot, key)?;
        self.load(spot, &seen);
        let bytes = seen.shape.bytes;
        let is_proven = Entry::decode(&self.read[..bytes], self.salt, seen.position).is_ok();
        if !is_proven && !ioengine::canary("believe_a_damaged_value") {
            ioengine::sometimes!("a cached value is damaged");
            self.counters.damaged_count += 1;
            self.region.store(seen.slot_word, Slot::EMPTY.0);
            return None;
        }
        if !seen.slot.is_touched() {
            self.region.store(seen.slot_word, seen.slot.touched().0);
        }
        Entry::decode_unproven(&self.read[..bytes]).filter(|entry| entry.key == *key)
    }

    /// The version that a record of the key seems to have; [`Rings::get`] proves it.
    pub fn peek(&self, key: &Key<'_>) -> Option<Version> {
        self.peek_at(&self.spot(key), key)
    }

    /// The same, by the key's spot.
    pub(super) fn peek_at(&self, spot: &Spot, key: &Key<'_>) -> Option<Version> {
        self.find(spot, key).map(|seen| seen.shape.version)
    }

    /// Where a key belongs; as long as these rings live.
    pub(super) fn spot(&self, key: &Key<'_>) -> Spot {
        self.geometry.spot(self.salt, key)
    }

    /// Bring the line of slots of a key near. First of two steps of a batch.
    pub(super) fn prefetch_line(&self, spot: &Spot) {
        self.region.prefetch(self.line_word(spot));
    }

    /// Bring the front of what may be the key's entry near, when its line is there.
    pub(super) fn prefetch_entry(&self, spot: &Spot) {
        let first = self.line_word(spot);
        for word in first..first + LINE_SLOTS {
            let slot = Slot(self.region.load(word));
            // A word that was damaged may name a place behind the ring.
            if slot.is_of(spot.tag) && slot.offset() < self.geometry.chain_bytes {
                self.region.prefetch(self.chains[usize::from(spot.chain)].word(slot.offset()));
            }
        }
    }

    /// Keep a record; what was known of its key is forgotten. False when it is too large.
    pub fn put(&mut self, entry: &Entry<'_>) -> bool {
        let bytes = entry.bytes();
        if bytes > self.written.len() {
            self.counters.refused_count += 1;
            return false;
        }
        let spot = self.geometry.spot(self.salt, &entry.key);
        let mut chances = SECOND_CHANCES_MAX;
        // Room first: what is written again for it moves the head.
        while let Some(position) = self.chains[usize::from(spot.chain)].next_to_go(bytes) {
            self.let_go(spot.chain, position, &mut chances);
        }
        let known = self.find(&spot, &entry.key).map(|seen| seen.slot_word);
        self.write(&spot, entry, known);
        self.counters.put_count += 1;
        true
    }

    /// What happened since the start of the process.
    #[must_use]
    pub fn counters(&self) -> RingCounters {
        self.counters
    }

    /// Bytes that the chains have given out, ever.
    #[must_use]
    pub fn given_bytes(&self) -> u64 {
        self.chains.iter().map(Chain::head).sum()
    }

    /// The slot of a key whose entry seems to be there.
    fn find(&self, spot: &Spot, key: &Key<'_>) -> Option<Seen> {
        let first = self.line_word(spot);
        (first..first + LINE_SLOTS).find_map(|slot_word| {
            let slot = Slot(self.region.load(slot_word));
            if !slot.is_of(spot.tag) {
                return None;
            }
            let (position, shape, head) = self.shape_at(spot.chain, slot.offset())?;
            let stands = !shape.is_gap && Shape::is_of(&head, key);
            stands.then_some(Seen { slot_word, slot, position, shape })
        })
    }

    fn line_word(&self, spot: &Spot) -> usize {
        self.geometry.line_offset(spot.chain, spot.line) as usize / WORD_BYTES
    }

    /// What seems to stand at a byte of a ring, whole and at the position it must have there.
    fn shape_at(&self, chain: u16, offset: u64) -> Option<(u64, Shape, [u8; ENTRY_HEAD_BYTES])> {
        let ring = &self.chains[usize::from(chain)];
        let position = position_at(ring.head(), self.geometry.chain_bytes, offset)?;
        if offset + ENTRY_HEAD_BYTES as u64 > self.geometry.chain_bytes {
            return None;
        }
        let mut head = [0; ENTRY_HEAD_BYTES];
        load(&self.region, ring.word(offset), &mut head);
        let shape = Shape::of(&head)?;
        let bytes = shape.bytes as u64;
        // One that the head has begun to overwrite has its first bytes gone, and so another position.
        let fits = offset + bytes <= self.geometry.chain_bytes && position + bytes <= ring.head();
        let stands = shape.position == position || ioengine::canary("believe_a_damaged_value");
        (fits && stands && shape.bytes <= self.read.len()).then_some((position, shape, head))
    }

    fn load(&mut self, spot: &Spot, seen: &Seen) {
        let word = self.chains[usize::from(spot.chain)].word(seen.slot.offset());
        load(&self.region, word, &mut self.read[..seen.shape.bytes]);
    }

    /// The entry at `position` is about to be overwritten: write it again if it was read, and step over it.
    fn let_go(&mut self, chain: u16, position: u64, chances: &mut u32) {
        let offset = position % self.geometry.chain_bytes;
        let shape = match self.shape_at(chain, offset) {
            Some((found, shape, _)) if found == position => shape,
            _ => return self.chains[usize::from(chain)].step_unit(),
        };
        self.chains[usize::from(chain)].step(shape.bytes);
        if shape.is_gap {
            return;
        }
        let mut read = std::mem::take(&mut self.read);
        load(&self.region, self.chains[usize::from(chain)].word(offset), &mut read[..shape.bytes]);
        if let Ok(entry) = Entry::decode(&read[..shape.bytes], self.salt, position) {
            let spot = self.geometry.spot(self.salt, &entry.key);
            let first = self.line_word(&spot);
            let named = (first..first + LINE_SLOTS).find(|&word| {
                let slot = Slot(self.region.load(word));
                slot.is_of(spot.tag) && slot.offset() == offset
            });
            let has_room = self.chains[usize::from(chain)].next_to_go(shape.bytes).is_none();
            if let Some(word) = named {
                let was_read = Slot(self.region.load(word)).is_touched();
                if was_read && *chances > 0 && has_room {
                    *chances -= 1;
                    self.counters.second_chance_count += 1;
                    self.write(&spot, &entry, Some(word));
                } else {
                    self.counters.lost_count += u64::from(was_read);
                    self.region.store(word, Slot::EMPTY.0);
                }
            }
        }
        self.read = read;
    }

    /// Write an entry at the head of its chain, where room was made, and name it in a slot: `known`, or one of its line.
    fn write(&mut self, spot: &Spot, entry: &Entry<'_>, known: Option<usize>) {
        let bytes = entry.bytes();
        let chain = &mut self.chains[usize::from(spot.chain)];
        if let Some((offset, gap)) = chain.gap_before(bytes) {
            let position = chain.head();
            chain.advance(&self.region, gap);
            if gap >= ENTRY_HEAD_BYTES {
                store(&self.region, chain.word(offset), &Shape::gap(position, gap));
            }
        }
        let position = chain.head();
        let offset = position % self.geometry.chain_bytes;
        // The head first: from here on nothing below it is taken for what stood there.
        chain.advance(&self.region, bytes);
        entry.encode(self.salt, position, &mut self.written[..bytes]);
        store(&self.region, chain.word(offset), &self.written[..bytes]);
        let word = known.unwrap_or_else(|| self.free_slot(spot));
        self.region.store(word, Slot::new(spot.tag, offset).0);
    }

    /// A slot of the line that names nothing, or the one whose entry goes next.
    fn free_slot(&self, spot: &Spot) -> usize {
        let first = self.line_word(spot);
        let head = self.chains[usize::from(spot.chain)].head();
        let age = |word: usize| {
            let slot = Slot(self.region.load(word));
            let position = position_at(head, self.geometry.chain_bytes, slot.offset());
            if slot.is_used() { position.map_or(0, |position| position + 1) } else { 0 }
        };
        (first..first + LINE_SLOTS).min_by_key(|&word| age(word)).expect("a line has slots")
    }
}

/// Copy words of the region; `out` is whole words.
fn load(region: &Region, word: usize, out: &mut [u8]) {
    for (at, place) in out.as_chunks_mut::<WORD_BYTES>().0.iter_mut().enumerate() {
        *place = region.load(word + at).to_le_bytes();
    }
}

fn store(region: &Region, word: usize, bytes: &[u8]) {
    for (at, place) in bytes.as_chunks::<WORD_BYTES>().0.iter().enumerate() {
        region.store(word + at, u64::from_le_bytes(*place));
    }
}

/// The header that an earlier process left, or why it cannot be believed.
fn believe(region: &Region, wanted: &RingHeader) -> Result<RingHeader, String> {
    if !region.existed() {
        return Err("there were none of this size".to_owned());
    }
    let mut bytes = [0; RING_HEADER_BYTES];
    load(region, 0, &mut bytes);
    let found = RingHeader::decode(&bytes).map_err(|corrupt| corrupt.to_string())?;
    if found.geometry != wanted.geometry {
        return Err("they have other sizes".to_owned());
    }
    if (found.cluster, found.node, found.core) != (wanted.cluster, wanted.node, wanted.core) {
        return Err(format!(
            "they are of core {} of node {} of cluster {}",
            found.core, found.node, found.cluster
        ));
    }
    Ok(found)
}

/// Empty the slots and write the header, its magic last: killed in between, the next start begins again.
fn start_empty(region: &Region, header: &RingHeader) {
    region.store(0, 0);
    if region.existed() {
        (0..header.geometry.chain_count).for_each(|chain| clear_slots(region, &header.geometry, chain));
    }
    let mut bytes = [0; RING_HEADER_BYTES];
    header.encode(&mut bytes);
    for (word, value) in bytes.as_chunks::<WORD_BYTES>().0.iter().enumerate().rev() {
        region.store(word, u64::from_le_bytes(*value));
    }
}

fn clear_slots(region: &Region, geometry: &RingGeometry, chain: u16) {
    let first = geometry.line_offset(chain, 0) as usize / WORD_BYTES;
    let end = geometry.line_offset(chain, geometry.line_count) as usize / WORD_BYTES;
    for word in first..end {
        // A word that is zero already is not written: its page may not exist yet.
        if region.load(word) != 0 {
            region.store(word, 0);
        }
    }
}

#[cfg(test)]
mod tests;
