//! A row of the version cache: four cells of {tag, version} in one 64-byte cache line.
//!
//! Owns the packing of a row, its check, and the moves within it as pure functions; the header of
//! the file is in [`crate::version_file`]. Must never touch shared memory itself: ioengine stores
//! the words, in the order of [`Row::stores`]. Invariant: tags of a row differ and its empty cells
//! are last, so cells are in order of recency; a row that breaks this is torn.
//!
//! ```text
//! word   0                 1                  2        3           4..7
//!        | c0 | tag 0 63 | c1..3 | version 0 61 | c4 | tag 1 | c5..7 | version 1 | ..
//! ```
//! Why four: a row is one cache line, 512 bits, so that a look-up is one miss and a move stays
//! within the line. Four cells leave 128 bits each: 63 of tag, 61 of version, 4 of the row's check.
//! That is 16 bytes per key, check included. Five cells would leave 102 bits, and with 16 bits of
//! check a tag of 38 bits beside the version: a false match every 2^36 look-ups, and a false match
//! is a wrong `NotModified`. With four, a false match has a chance of 4 / 2^63 = 2^-61 per look-up.
//!
//! Why a torn row is recognised for certain when a process is killed: [`Row::stores`] first zeroes
//! word 0, then stores words 1..8, then word 0. Stores of one thread reach memory in order, so
//! every state in between has an empty cell before others, or is all zero: both empty. The 16 bits of
//! check are for what does not come from our stores (a foreign writer, a flipped bit): those pass
//! with a chance of 2^-16.

use crate::checksum::short;
use crate::field::{Table, byte_table};
use crate::units::Version;
pub use crate::version_file::{
    HEADER_BYTES, HEADER_TABLE, Header, MAGIC, TabletState, file_bytes, row_and_tag, row_offset,
};

/// Cells of a row.
pub const CELL_COUNT: usize = 4;
/// Bytes of a row: a cache line.
pub const ROW_BYTES: usize = 64;
/// Words of a row.
pub const ROW_WORDS: usize = 8;
/// Largest tag: 63 bits.
pub const TAG_MAX: u64 = (1 << 63) - 1;
/// Largest version a cell can hold: 61 bits, a log index below 2^45.
pub const VERSION_MAX: u64 = (1 << 61) - 1;

byte_table! {
    /// Byte table of a row: its words.
    ROW_TABLE = "version row", ROW_BYTES;
    W_TAG_0 = "tag_0", 0, 8;
    W_VERSION_0 = "version_0", 8, 8;
    W_TAG_1 = "tag_1", 16, 8;
    W_VERSION_1 = "version_1", 24, 8;
    W_TAG_2 = "tag_2", 32, 8;
    W_VERSION_2 = "version_2", 40, 8;
    W_TAG_3 = "tag_3", 48, 8;
    W_VERSION_3 = "version_3", 56, 8;
}

const _: () = assert!(ROW_BYTES == ROW_WORDS * 8 && ROW_WORDS == CELL_COUNT * 2);
const _: () = assert!(CELL_COUNT * (63 + 61) + 16 == ROW_BYTES * 8, "tags, versions and check fill the line");

/// 63 bits of the hash of (tablet, tablet generation, key); never 0, which marks an empty cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u64);

impl Tag {
    /// The low 63 bits of a hash; 0 becomes 1.
    #[must_use]
    pub const fn from_hash(hash: u64) -> Tag {
        let tag = hash & TAG_MAX;
        Tag(if tag == 0 { 1 } else { tag })
    }

    /// The bits, 1..2^63.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A key's last known version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Whose version it is.
    pub tag: Tag,
    /// `ABSENT` is a cached absence.
    pub version: Version,
}

/// A row that was killed in the middle of a move, or damaged: to be treated as empty and emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("torn version row")]
pub struct Torn;

/// A row as it stands in shared memory; word i is stored little-endian at byte 8 i.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row(pub [u64; ROW_WORDS]);

/// The cells of a row, most recent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cells {
    cells: [Option<Cell>; CELL_COUNT],
}

/// What [`Cells::insert`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The key was not in the row; the cell that fell off the end, if the row was full.
    Added(Option<Cell>),
    /// The key was in the row with this version.
    Replaced(Version),
    /// The version is above [`VERSION_MAX`] and was not stored. A cell of that key was removed: kept,
    /// it would go on to say that an older version is the newest.
    Refused,
}

impl Row {
    /// A row without cells: what a fresh file holds.
    pub const EMPTY: Row = Row([0; ROW_WORDS]);

    /// The cells, or `Torn`.
    pub fn decode(&self) -> Result<Cells, Torn> {
        if *self == Row::EMPTY {
            return Ok(Cells::EMPTY);
        }
        let mut cells = [None; CELL_COUNT];
        let mut content = [0; ROW_WORDS];
        let mut stored_check = 0;
        let mut ended = false;
        for index in 0..CELL_COUNT {
            let (tag_word, version_word) = (self.0[2 * index], self.0[2 * index + 1]);
            let (tag, version) = (tag_word & TAG_MAX, version_word & VERSION_MAX);
            content[2 * index] = tag;
            content[2 * index + 1] = version;
            stored_check |= ((tag_word >> 63) | (version_word >> 61 << 1)) << (4 * index);
            if tag == 0 {
                ended = true;
                if version != 0 {
                    return Err(Torn);
                }
            } else {
                let tag = Tag(tag);
                let seen = cells[..index].iter().flatten().any(|cell: &Cell| cell.tag == tag);
                if ended || seen {
                    return Err(Torn);
                }
                cells[index] = Some(Cell { tag, version: Version(version) });
            }
        }
        if cells[0].is_none() || stored_check != check_of(&content) {
            return Err(Torn);
        }
        Ok(Cells { cells })
    }

    /// The stores (word, value) that bring this row into memory, in their order; see the top of this
    /// file. Each is one aligned 8-byte store, not to be reordered by compiler or processor.
    #[must_use]
    pub fn stores(&self) -> [(usize, u64); ROW_WORDS + 1] {
        std::array::from_fn(|step| match step {
            0 => (0, 0),
            ROW_WORDS => (0, self.0[0]),
            word => (word, self.0[word]),
        })
    }

    /// The row's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ROW_BYTES] {
        let mut bytes = [0; ROW_BYTES];
        for (word, place) in self.0.iter().zip(bytes.as_chunks_mut::<8>().0) {
            *place = word.to_le_bytes();
        }
        bytes
    }

    /// The row in these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; ROW_BYTES]) -> Row {
        let mut words = [0; ROW_WORDS];
        for (word, place) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*place);
        }
        Row(words)
    }
}

/// 16 bits over a row whose check bits are zero: the top of xxh3-64, seed 0, of its 64 bytes.
fn check_of(content: &[u64; ROW_WORDS]) -> u64 {
    short(&Row(*content).to_bytes()) >> 48
}

impl Cells {
    /// No cells.
    pub const EMPTY: Cells = Cells { cells: [None; CELL_COUNT] };

    /// The row's words, check included.
    #[must_use]
    pub fn encode(&self) -> Row {
        if *self == Cells::EMPTY {
            return Row::EMPTY;
        }
        let mut words = [0; ROW_WORDS];
        for (index, cell) in self.cells.iter().enumerate() {
            if let Some(cell) = cell {
                words[2 * index] = cell.tag.0;
                words[2 * index + 1] = cell.version.0;
            }
        }
        let check = check_of(&words);
        for index in 0..CELL_COUNT {
            let bits = check >> (4 * index);
            words[2 * index] |= (bits & 1) << 63;
            words[2 * index + 1] |= (bits >> 1 & 7) << 61;
        }
        Row(words)
    }

    /// Where a key's cell is, and its version. Position 0 is the most recent.
    #[must_use]
    pub fn find(&self, tag: Tag) -> Option<(usize, Version)> {
        let position = self.cells.iter().position(|cell| cell.is_some_and(|cell| cell.tag == tag))?;
        self.cells[position].map(|cell| (position, cell.version))
    }

    /// Moves the cell at `position` to the front. A position without a cell is our own bug.
    pub fn touch(&mut self, position: usize) {
        assert!(position < CELL_COUNT && self.cells[position].is_some(), "a found cell is touched");
        self.cells[..=position].rotate_right(1);
    }

    /// Puts a key's version to the front; the last cell of a full row falls off.
    pub fn insert(&mut self, tag: Tag, version: Version) -> Inserted {
        if version.0 > VERSION_MAX {
            self.remove(tag);
            return Inserted::Refused;
        }
        let cell = Some(Cell { tag, version });
        match self.find(tag) {
            Some((position, old)) => {
                self.touch(position);
                self.cells[0] = cell;
                Inserted::Replaced(old)
            }
            None => {
                let dropped = self.cells[CELL_COUNT - 1];
                self.cells.rotate_right(1);
                self.cells[0] = cell;
                Inserted::Added(dropped)
            }
        }
    }

    /// Takes a key's cell out; true if there was one.
    pub fn remove(&mut self, tag: Tag) -> bool {
        let Some((position, _)) = self.find(tag) else { return false };
        self.cells[position] = None;
        self.cells[position..].rotate_left(1);
        true
    }

    /// The cells, most recent first.
    pub fn iter(&self) -> impl Iterator<Item = Cell> + '_ {
        self.cells.iter().flatten().copied()
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub const TABLES: [Table; 1] = [ROW_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tag(number: u64) -> Tag {
        Tag::from_hash(number)
    }

    fn cells(count: u64) -> Cells {
        let mut cells = Cells::EMPTY;
        (1..=count)
            .rev()
            .for_each(|n| assert!(matches!(cells.insert(tag(n), Version(n * 100)), Inserted::Added(None))));
        cells
    }

    fn tags(cells: &Cells) -> Vec<u64> {
        cells.iter().map(|cell| cell.tag.get()).collect()
    }

    #[test]
    fn rows_round_trip_with_any_number_of_cells() {
        for count in 0..=4 {
            let row = cells(count).encode();
            assert_eq!(row.decode(), Ok(cells(count)), "{count}");
            assert_eq!(Row::from_bytes(&row.to_bytes()), row);
        }
        assert_eq!(cells(0).encode(), Row([0; 8]));
        let mut extreme = Cells::EMPTY;
        extreme.insert(tag(TAG_MAX), Version(VERSION_MAX));
        extreme.insert(tag(0), Version::ABSENT);
        assert_eq!(extreme.encode().decode(), Ok(extreme));
    }

    #[test]
    fn touch_insert_and_remove_keep_recency() {
        let mut row = cells(4);
        row.touch(2);
        assert_eq!(tags(&row), [3, 1, 2, 4]);
        assert_eq!(row.insert(tag(2), Version(7)), Inserted::Replaced(Version(200)));
        assert_eq!(tags(&row), [2, 3, 1, 4]);
        let dropped = Cell { tag: tag(4), version: Version(400) };
        assert_eq!(row.insert(tag(9), Version(8)), Inserted::Added(Some(dropped)));
        assert_eq!(tags(&row), [9, 2, 3, 1]);
        assert!(row.remove(tag(2)) && !row.remove(tag(2)));
        assert_eq!(tags(&row), [9, 3, 1]);
        assert_eq!(row.find(tag(1)), Some((2, Version(100))));
        assert_eq!(row.find(tag(4)), None);
    }

    #[test]
    fn a_version_too_large_leaves_no_older_one_behind() {
        let mut row = cells(3);
        assert_eq!(row.insert(tag(2), Version(VERSION_MAX + 1)), Inserted::Refused);
        assert_eq!(tags(&row), [1, 3]);
        assert_eq!(row.insert(tag(8), Version(u64::MAX)), Inserted::Refused);
        assert_eq!(tags(&row), [1, 3]);
    }

    /// A kill between any two stores, from any of many rows to any other, is recognised for certain.
    #[test]
    fn a_kill_between_any_two_stores_leaves_old_new_or_empty() {
        let mut rows: Vec<Row> = (0..=4).map(|count| cells(count).encode()).collect();
        for position in 0..4 {
            let mut moved = cells(4);
            moved.touch(position);
            rows.push(moved.encode());
            moved.insert(tag(50 + position as u64), Version::ABSENT);
            rows.push(moved.encode());
        }
        for old in &rows {
            for new in &rows {
                let mut memory = old.0;
                let stores = new.stores();
                for (step, (word, value)) in stores.iter().enumerate() {
                    memory[*word] = *value;
                    let last = step == stores.len() - 1;
                    match Row(memory).decode() {
                        Ok(found) if last => assert_eq!(Ok(found), new.decode()),
                        Ok(found) => assert!(found == Cells::EMPTY, "{old:?} to {new:?} at store {step}"),
                        Err(Torn) => assert!(!last, "{old:?} to {new:?}"),
                    }
                }
            }
        }
    }

    /// Rows that no order of our moves makes, under a right check.
    #[test]
    fn a_gap_or_one_key_twice_is_torn() {
        let [one, two] = [1, 2].map(|n| Some(Cell { tag: tag(n), version: Version(n) }));
        for cells in
            [[one, one, None, None], [one, two, two, None], [one, None, two, None], [None, one, None, None]]
        {
            assert_eq!(Cells { cells }.encode().decode(), Err(Torn), "{cells:?}");
        }
        assert!(Cells { cells: [one, two, None, None] }.encode().decode().is_ok());
    }

    #[test]
    fn every_flipped_bit_of_a_full_row_is_torn() {
        // 2^-16 chance per bit; this row has no bit that passes.
        let row = cells(4).encode();
        for bit in 0..512 {
            let mut words = row.0;
            words[bit / 64] ^= 1 << (bit % 64);
            assert_eq!(Row(words).decode(), Err(Torn), "bit {bit}");
        }
    }

    proptest! {
        /// Against a list: the most recent four, newest first.
        #[test]
        fn a_row_is_a_list_of_the_four_most_recent(
            steps in prop::collection::vec((0u8..3, 1u64..8, 0u64..=VERSION_MAX), 0..60),
        ) {
            let mut row = Row::EMPTY;
            let mut list: Vec<(u64, u64)> = Vec::new();
            for (what, number, version) in steps {
                let mut cells = row.decode().expect("what was encoded");
                let known = list.iter().position(|(tag, _)| *tag == number);
                match what {
                    0 => {
                        known.map(|at| list.remove(at));
                        list.insert(0, (number, version));
                        list.truncate(4);
                        cells.insert(tag(number), Version(version));
                    }
                    1 => {
                        if let Some(at) = known {
                            let cell = list.remove(at);
                            list.insert(0, cell);
                        }
                        if let Some((position, _)) = cells.find(tag(number)) {
                            cells.touch(position);
                        }
                    }
                    _ => {
                        known.map(|at| list.remove(at));
                        prop_assert_eq!(cells.remove(tag(number)), known.is_some());
                    }
                }
                row = cells.encode();
                let found: Vec<_> =
                    row.decode().expect("valid").iter().map(|c| (c.tag.get(), c.version.0)).collect();
                prop_assert_eq!(&found, &list);
            }
        }
    }
}
