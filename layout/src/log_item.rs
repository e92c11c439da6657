//! What a replica of a group writes to its journal: votes, and entries that are known to be chosen.
//!
//! Owns the items' bytes and the walk over a record's body. Must never decide what is applied: an accepted entry may yet be
//! replaced by another one (that is the replay's). Invariant: an item that decodes encodes to the same bytes again.
//!
//! ```text
//! record body: | item header 32 | state 88, of a vote | entry header 24, operations, if there is one | item header 32 | ..
//! ```

use crate::field::{Corrupt, Field, Table, byte_table};
use crate::log_entry::{ENTRY_HEADER_BYTES, Entry, EntryHeader};
use crate::units::TabletIndex;
use crate::vote::{
    STATE_BYTES, VALUE_ID_BYTES, decode_state, decode_value_id, encode_state, encode_value_id,
};
use paxos::{Chosen, LogIndex, State};

/// Bytes of an item's header.
pub const ITEM_HEADER_BYTES: usize = 32;
const KIND_VOTE: u8 = 1;
const KIND_CHOSEN: u8 = 2;

byte_table! {
    /// Byte table of an item's header.
    ITEM_TABLE = "log item", ITEM_HEADER_BYTES;
    I_KIND = "kind", 0, 1;
    I_TABLET = "tablet", 1, 1;
    I_RESERVED = "reserved", 2, 2;
    I_ENTRY_BYTES = "entry_bytes", 4, 4;
    I_CHOSEN_INDEX = "chosen_index", 8, 8;
    I_CHOSEN_VALUE = "chosen_value", 16, 16;
}

/// One thing that a replica must remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// The state that the replica votes by.
    Vote {
        /// The last entry applied when this was written.
        applied: Chosen,
        /// The state; its `chosen` is the last entry before the open one.
        state: State,
        /// The entry accepted; `None` when nothing is, or when the item before of this tablet carried it.
        entry: Option<Entry<'a>>,
    },
    /// An entry that is chosen, and was not the one accepted here.
    Chosen {
        /// Index and name.
        chosen: Chosen,
        /// The entry.
        entry: Entry<'a>,
    },
}

/// Bytes of a vote with an entry of this many; 0 for none.
#[must_use]
pub const fn vote_bytes(entry_bytes: usize) -> usize {
    ITEM_HEADER_BYTES + STATE_BYTES + entry_bytes
}

fn header(kind: u8, tablet: TabletIndex, entry_bytes: usize, chosen: Chosen) -> [u8; ITEM_HEADER_BYTES] {
    let mut bytes = [0; ITEM_HEADER_BYTES];
    let entry_bytes = u32::try_from(entry_bytes).expect("an entry is bounded");
    I_KIND.put(&mut bytes, [kind]);
    I_TABLET.put(&mut bytes, [tablet.get()]);
    I_ENTRY_BYTES.put(&mut bytes, entry_bytes.to_le_bytes());
    I_CHOSEN_INDEX.put(&mut bytes, chosen.index.0.to_le_bytes());
    I_CHOSEN_VALUE.put(&mut bytes, encode_value_id(chosen.value));
    bytes
}

/// Append a vote.
pub fn push_vote(
    out: &mut Vec<u8>,
    tablet: TabletIndex,
    applied: Chosen,
    state: &State,
    entry: Option<(EntryHeader, &[u8])>,
) {
    let entry_bytes = entry.map_or(0, |(header, _)| header.entry_bytes());
    out.extend_from_slice(&header(KIND_VOTE, tablet, entry_bytes, applied));
    out.extend_from_slice(&encode_state(state));
    if let Some((header, body)) = entry {
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(body);
    }
}

/// Append a chosen entry.
pub fn push_chosen(out: &mut Vec<u8>, chosen: Chosen, entry: &EntryHeader, body: &[u8]) {
    out.extend_from_slice(&header(KIND_CHOSEN, entry.tablet, entry.entry_bytes(), chosen));
    out.extend_from_slice(&entry.encode());
    out.extend_from_slice(body);
}

/// Walks the items of a record's body; ends after the first error.
#[derive(Debug, Clone)]
pub struct ItemIter<'a> {
    rest: &'a [u8],
    at: u64,
}

impl<'a> ItemIter<'a> {
    /// Starts at the first byte of a record's body.
    #[must_use]
    pub fn new(body: &'a [u8]) -> ItemIter<'a> {
        ItemIter { rest: body, at: 0 }
    }

    fn split(&mut self, bytes: usize, field: Field, base: u64) -> Result<&'a [u8], Corrupt> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(ITEM_TABLE.corrupt(field, base))?;
        self.rest = rest;
        self.at += bytes as u64;
        Ok(taken)
    }

    fn take(&mut self) -> Result<(TabletIndex, Item<'a>), Corrupt> {
        let base = self.at;
        let wrong = |field: Field| ITEM_TABLE.corrupt(field, base);
        let head = self.split(ITEM_HEADER_BYTES, I_KIND, base)?;
        let tablet = TabletIndex::new(I_TABLET.u8(head)).ok_or(wrong(I_TABLET))?;
        if !I_RESERVED.is_zero(head) {
            return Err(wrong(I_RESERVED));
        }
        let value = decode_value_id(&I_CHOSEN_VALUE.array::<VALUE_ID_BYTES>(head));
        let chosen =
            Chosen { index: LogIndex(I_CHOSEN_INDEX.u64(head)), value: value.ok_or(wrong(I_CHOSEN_VALUE))? };
        let entry_bytes = I_ENTRY_BYTES.u32(head) as usize;
        match I_KIND.u8(head) {
            KIND_VOTE => {
                let at = self.at;
                let bytes = self.split(STATE_BYTES, I_KIND, base)?;
                let state = decode_state(bytes.try_into().expect("so many were split"), at)?;
                let entry = if entry_bytes == 0 {
                    None
                } else {
                    Some(self.entry(tablet, state.open(), entry_bytes, base)?)
                };
                let is_accepted = state.vote.accepted.is_some();
                if (entry.is_some() && !is_accepted) || chosen.index < state.chosen.index {
                    return Err(wrong(I_CHOSEN_INDEX));
                }
                Ok((tablet, Item::Vote { applied: chosen, state, entry }))
            }
            KIND_CHOSEN => Ok((
                tablet,
                Item::Chosen { chosen, entry: self.entry(tablet, chosen.index, entry_bytes, base)? },
            )),
            _ => Err(wrong(I_KIND)),
        }
    }

    fn entry(
        &mut self,
        tablet: TabletIndex,
        index: LogIndex,
        bytes: usize,
        base: u64,
    ) -> Result<Entry<'a>, Corrupt> {
        let at = self.at;
        let entry = self.split(bytes, I_ENTRY_BYTES, base)?;
        let entry = read_entry(entry, at)?;
        if entry.header.tablet != tablet || entry.header.log_index.0 != index.0 {
            return Err(ITEM_TABLE.corrupt(I_TABLET, base));
        }
        Ok(entry)
    }
}

/// An entry that takes all of `bytes`, which stand at `at`. Its operations are not looked at.
///
/// # Errors
/// What of its header is wrong.
pub fn read_entry(bytes: &[u8], at: u64) -> Result<Entry<'_>, Corrupt> {
    let header = EntryHeader::decode(bytes, at)?;
    if header.entry_bytes() != bytes.len() {
        return Err(ITEM_TABLE.corrupt(I_ENTRY_BYTES, at));
    }
    Ok(Entry { header, body: &bytes[ENTRY_HEADER_BYTES..], body_at: at + ENTRY_HEADER_BYTES as u64 })
}

impl<'a> Iterator for ItemIter<'a> {
    type Item = Result<(TabletIndex, Item<'a>), Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let taken = self.take();
        if taken.is_err() {
            self.rest = &[];
        }
        Some(taken)
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub const TABLES: [Table; 1] = [ITEM_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Operation;
    use crate::units;
    use crate::vote::tests::{state, value};

    fn entry(tablet: u8, index: u64) -> (EntryHeader, Vec<u8>) {
        let mut body = Vec::new();
        Operation::Tick.encode_into(&mut |piece| body.extend_from_slice(piece));
        let header = EntryHeader {
            tablet: TabletIndex::new(tablet).expect("below 64"),
            log_index: units::LogIndex(index),
            stamp: units::LogTime(5),
            operation_count: 1,
            body_bytes: body.len() as u32,
        };
        (header, body)
    }

    fn record() -> Vec<u8> {
        let mut out = Vec::new();
        let tablet = TabletIndex::new(9).expect("below 64");
        let (accepted, body) = entry(9, 42);
        let applied = state().chosen;
        push_vote(&mut out, tablet, applied, &state(), Some((accepted, &body)));
        push_vote(&mut out, tablet, applied, &state(), None);
        let (chosen, body) = entry(9, 43);
        push_chosen(&mut out, Chosen { index: LogIndex(43), value: value(8) }, &chosen, &body);
        out
    }

    #[test]
    fn items_go_through_a_body_and_back() {
        let bytes = record();
        let items: Vec<_> = ItemIter::new(&bytes).collect::<Result<_, _>>().expect("what was pushed");
        assert_eq!(items.len(), 3);
        assert!(
            matches!(items[0].1, Item::Vote { entry: Some(entry), .. } if entry.header.log_index.0 == 42)
        );
        assert!(matches!(items[1].1, Item::Vote { entry: None, state: found, .. } if found == state()));
        assert!(matches!(items[2].1, Item::Chosen { chosen, .. } if chosen.index == LogIndex(43)));
    }

    #[test]
    fn cuts_and_flips_are_values() {
        let good = record();
        let whole: Vec<_> = ItemIter::new(&good).collect();
        for cut in 0..good.len() {
            let _ = ItemIter::new(&good[..cut]).count();
        }
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x55;
            let found: Vec<_> = ItemIter::new(&bytes).collect();
            // What an entry's operations say is theirs to check.
            let is_operation = |at: usize| {
                let vote = vote_bytes(ENTRY_HEADER_BYTES);
                let tick = entry(9, 42).1.len();
                (vote..vote + tick).contains(&at) || at >= good.len() - tick
            };
            assert!(found != whole || is_operation(at), "byte {at}");
        }
    }
}
