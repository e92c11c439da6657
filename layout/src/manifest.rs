//! Edits of a shard's manifest: which tables it has, where they lie, and from where its journal counts.
//!
//! Owns the bytes of edits. Must never decide what an edit does to the set of tables, nor how edits are put on the
//! disk: what holds them has a checksum of its own. Invariant: an edit that decodes encodes to the same bytes again.
//!
//! ```text
//! | header 8 | body | header 8 | body | ..        body of add table and set state: fixed part, then extent ranges 8 each
//! ```

use crate::FORMAT_VERSION;
use crate::field::{Corrupt, Field, Table, byte_table};
use crate::units::{Incarnation, LogIndex, Sequence, TableId, TabletIndex};

/// The format version, as an edit carries it.
const EDIT_VERSION: u8 = FORMAT_VERSION as u8;
const _: () = assert!(EDIT_VERSION as u32 == FORMAT_VERSION, "an edit has one byte for it");

const HEADER_BYTES: usize = 8;
const RANGE_BYTES: usize = 8;
const ADD_BYTES: usize = 136;
const REMOVE_BYTES: usize = 8;
const STATE_BYTES: usize = 40;
const START_BYTES: usize = 24;
const NEXT_BYTES: usize = 8;

byte_table! {
    /// Byte table of an edit's header.
    EDIT_TABLE = "manifest edit", HEADER_BYTES;
    E_KIND = "kind", 0, 1;
    E_VERSION = "version", 1, 1;
    E_RESERVED = "reserved", 2, 2;
    E_BYTES = "bytes", 4, 4;
}

byte_table! {
    /// Byte table of the fixed part of an edit that adds a table.
    ADD_TABLE = "add table", ADD_BYTES;
    A_TABLE_ID = "table_id", 0, 8;
    A_TABLET = "tablet", 8, 1;
    A_KIND = "table_kind", 9, 1;
    A_LEVEL = "level", 10, 1;
    A_RESERVED = "reserved", 11, 1;
    A_WINDOW_GENERATION = "window_generation", 12, 4;
    A_WINDOW_FROM = "window_from", 16, 8;
    A_WINDOW_TO = "window_to", 24, 8;
    A_TABLE_BYTES = "table_bytes", 32, 8;
    A_DATA_BYTES = "data_bytes", 40, 8;
    A_RECORD_COUNT = "record_count", 48, 8;
    A_TOMBSTONE_COUNT = "tombstone_count", 56, 8;
    A_TIME_MIN = "time_min", 64, 8;
    A_TIME_MAX = "time_max", 72, 8;
    A_LOG_INDEX_MIN = "log_index_min", 80, 8;
    A_LOG_INDEX_MAX = "log_index_max", 88, 8;
    A_EXPIRY_MIN = "expiry_min", 96, 8;
    A_EXPIRY_MAX = "expiry_max", 104, 8;
    A_CHECKSUM = "checksum", 112, 16;
    A_RANGE_COUNT = "range_count", 128, 4;
    A_RESERVED_2 = "reserved_2", 132, 4;
}

byte_table! {
    /// Byte table of an edit that removes a table.
    REMOVE_TABLE = "remove table", REMOVE_BYTES;
    D_TABLE_ID = "table_id", 0, 8;
}

byte_table! {
    /// Byte table of the fixed part of an edit that replaces the state blob.
    STATE_TABLE = "set state", STATE_BYTES;
    S_BLOB_ID = "blob_id", 0, 8;
    S_BLOB_BYTES = "blob_bytes", 8, 8;
    S_CHECKSUM = "checksum", 16, 16;
    S_RANGE_COUNT = "range_count", 32, 4;
    S_RESERVED = "reserved", 36, 4;
}

byte_table! {
    /// Byte table of an edit that moves the start of the journal.
    START_TABLE = "set journal start", START_BYTES;
    J_AT = "at", 0, 8;
    J_SEQUENCE = "sequence", 8, 8;
    J_INCARNATION = "incarnation", 16, 4;
    J_RESERVED = "reserved", 20, 4;
}

byte_table! {
    /// Byte table of an edit that says which ids were used.
    NEXT_TABLE = "set next table id", NEXT_BYTES;
    N_TABLE_ID = "table_id", 0, 8;
}

byte_table! {
    /// Byte table of a range of extents.
    RANGE_TABLE = "extent range", RANGE_BYTES;
    X_FIRST = "first", 0, 4;
    X_COUNT = "count", 4, 4;
}

/// Extents that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtentRange {
    /// Number of the first extent of the shard's zone.
    pub first: u32,
    /// Extents, at least one.
    pub count: u32,
}

impl ExtentRange {
    fn is_right(&self) -> bool {
        self.count > 0 && self.first.checked_add(self.count).is_some()
    }
}

/// The extents of a table or a blob, in the order of its bytes: a list to write, or bytes that were read.
#[derive(Debug, Clone, Copy)]
pub enum Extents<'a> {
    /// To be written.
    List(&'a [ExtentRange]),
    /// As they stand in an edit.
    Stored(&'a [[u8; RANGE_BYTES]]),
}

impl<'a> Extents<'a> {
    /// Ranges.
    #[must_use]
    pub fn range_count(&self) -> usize {
        match self {
            Extents::List(list) => list.len(),
            Extents::Stored(stored) => stored.len(),
        }
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = ExtentRange> + use<'a> {
        let (list, stored) = match *self {
            Extents::List(list) => (list, &[][..]),
            Extents::Stored(stored) => (&[][..], stored),
        };
        let stored =
            stored.iter().map(|bytes| ExtentRange { first: X_FIRST.u32(bytes), count: X_COUNT.u32(bytes) });
        list.iter().copied().chain(stored)
    }

    /// Extents in all ranges.
    #[must_use]
    pub fn extent_count(&self) -> u64 {
        self.iter().map(|range| u64::from(range.count)).sum()
    }
}

impl PartialEq for Extents<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Extents<'_> {}

/// What a table is to its tablet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// Flushed or merged, of this device.
    Run,
    /// The whole of a closed window.
    Sealed,
    /// What stays of a closed window whose records are on cold disks.
    Sunk,
}

/// A table joins the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddTable<'a> {
    /// Its id, never used before on the device.
    pub table: TableId,
    /// Tablet whose records it holds.
    pub tablet: TabletIndex,
    /// Run or sealed.
    pub kind: TableKind,
    /// How often its records were merged.
    pub level: u8,
    /// First time of its window, microseconds; of a run where the sealed windows ended when it was written.
    pub window_from: u64,
    /// First time behind its window; of a run its lowest time at or above `window_from`.
    pub window_to: u64,
    /// How often the window was sealed; of a run its records below `window_from`.
    pub window_generation: u32,
    /// Where its bytes lie.
    pub extents: Extents<'a>,
    /// All of its bytes.
    pub bytes: u64,
    /// Its data blocks and the padding between them.
    pub data_bytes: u64,
    /// Records, tombstones among them.
    pub record_count: u64,
    /// Tombstones.
    pub tombstone_count: u64,
    /// Lowest time of a key.
    pub time_min: u64,
    /// Highest time of a key.
    pub time_max: u64,
    /// Lowest version >> 16.
    pub log_index_min: LogIndex,
    /// Highest version >> 16.
    pub log_index_max: LogIndex,
    /// Lowest expiry; 0 = no record has one.
    pub expiry_min: u64,
    /// Highest expiry.
    pub expiry_max: u64,
    /// xxh3-128 of all of its bytes.
    pub checksum: u128,
}

/// The blob of replicated state is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetState<'a> {
    /// Its id, from the numbers of tables.
    pub blob: TableId,
    /// Where its bytes lie.
    pub extents: Extents<'a>,
    /// All of its bytes.
    pub bytes: u64,
    /// The checksum at its end.
    pub checksum: u128,
}

/// The journal counts from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetJournalStart {
    /// Where the first record that counts stands, or will: bytes from the start of the journal's zone.
    pub at: u64,
    /// Start that wrote the record before it.
    pub incarnation: Incarnation,
    /// Sequence of the first record that counts.
    pub sequence: Sequence,
}

/// One change of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit<'a> {
    /// A table joins.
    AddTable(AddTable<'a>),
    /// A table leaves.
    RemoveTable(TableId),
    /// Another state blob.
    SetState(SetState<'a>),
    /// Another start of the journal.
    SetJournalStart(SetJournalStart),
    /// Ids below this one were used.
    SetNextTableId(TableId),
}

impl Edit<'_> {
    /// Kind, bytes of the fixed part, extents.
    fn shape(&self) -> (u8, usize, Extents<'_>) {
        const NONE: Extents<'static> = Extents::List(&[]);
        match self {
            Edit::AddTable(add) => (1, ADD_BYTES, add.extents),
            Edit::RemoveTable(_) => (2, REMOVE_BYTES, NONE),
            Edit::SetState(state) => (3, STATE_BYTES, state.extents),
            Edit::SetJournalStart(_) => (4, START_BYTES, NONE),
            Edit::SetNextTableId(_) => (5, NEXT_BYTES, NONE),
        }
    }

    /// Bytes of the encoded edit.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        let (_, fixed, extents) = self.shape();
        HEADER_BYTES + fixed + extents.range_count() * RANGE_BYTES
    }

    /// Appends the edit. Values that the decoder would refuse are our own bug.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let (kind, fixed, extents) = self.shape();
        out.resize(start + HEADER_BYTES + fixed, 0);
        let header = &mut out[start..];
        E_KIND.put(header, [kind]);
        E_VERSION.put(header, [EDIT_VERSION]);
        E_BYTES.put(header, (self.encoded_bytes() as u32).to_le_bytes());
        let body = &mut header[HEADER_BYTES..];
        match self {
            Edit::AddTable(add) => add.put(body),
            Edit::RemoveTable(table) => D_TABLE_ID.put(body, table.0.to_le_bytes()),
            Edit::SetState(state) => {
                S_BLOB_ID.put(body, state.blob.0.to_le_bytes());
                S_BLOB_BYTES.put(body, state.bytes.to_le_bytes());
                S_CHECKSUM.put(body, state.checksum.to_le_bytes());
                S_RANGE_COUNT.put(body, (extents.range_count() as u32).to_le_bytes());
            }
            Edit::SetJournalStart(start) => {
                J_AT.put(body, start.at.to_le_bytes());
                J_SEQUENCE.put(body, start.sequence.0.to_le_bytes());
                J_INCARNATION.put(body, start.incarnation.0.to_le_bytes());
            }
            Edit::SetNextTableId(table) => N_TABLE_ID.put(body, table.0.to_le_bytes()),
        }
        for range in extents.iter() {
            let mut bytes = [0; RANGE_BYTES];
            X_FIRST.put(&mut bytes, range.first.to_le_bytes());
            X_COUNT.put(&mut bytes, range.count.to_le_bytes());
            out.extend_from_slice(&bytes);
        }
        let again = decode(&out[start..], 0);
        assert!(again == Ok((*self, out.len() - start)), "an edit we write can be read again: {again:?}");
    }
}

impl AddTable<'_> {
    fn put(&self, body: &mut [u8]) {
        A_TABLE_ID.put(body, self.table.0.to_le_bytes());
        A_TABLET.put(body, [self.tablet.get()]);
        let kind = match self.kind {
            TableKind::Run => 1,
            TableKind::Sealed => 2,
            TableKind::Sunk => 3,
        };
        A_KIND.put(body, [kind]);
        A_LEVEL.put(body, [self.level]);
        A_WINDOW_GENERATION.put(body, self.window_generation.to_le_bytes());
        A_WINDOW_FROM.put(body, self.window_from.to_le_bytes());
        A_WINDOW_TO.put(body, self.window_to.to_le_bytes());
        A_TABLE_BYTES.put(body, self.bytes.to_le_bytes());
        A_DATA_BYTES.put(body, self.data_bytes.to_le_bytes());
        A_RECORD_COUNT.put(body, self.record_count.to_le_bytes());
        A_TOMBSTONE_COUNT.put(body, self.tombstone_count.to_le_bytes());
        A_TIME_MIN.put(body, self.time_min.to_le_bytes());
        A_TIME_MAX.put(body, self.time_max.to_le_bytes());
        A_LOG_INDEX_MIN.put(body, self.log_index_min.0.to_le_bytes());
        A_LOG_INDEX_MAX.put(body, self.log_index_max.0.to_le_bytes());
        A_EXPIRY_MIN.put(body, self.expiry_min.to_le_bytes());
        A_EXPIRY_MAX.put(body, self.expiry_max.to_le_bytes());
        A_CHECKSUM.put(body, self.checksum.to_le_bytes());
        A_RANGE_COUNT.put(body, (self.extents.range_count() as u32).to_le_bytes());
    }

    fn first_wrong_field(&self) -> Option<Field> {
        let right = [
            (A_TABLE_ID, self.table.0 > 0),
            (A_WINDOW_TO, self.window_from <= self.window_to),
            (A_TABLE_BYTES, self.bytes > 0),
            // The data of a sunk table is not in it.
            (A_DATA_BYTES, self.kind == TableKind::Sunk || self.data_bytes <= self.bytes),
            (A_RECORD_COUNT, self.record_count > 0),
            (A_TOMBSTONE_COUNT, self.tombstone_count <= self.record_count),
            (A_TIME_MAX, self.time_min <= self.time_max),
            (A_LOG_INDEX_MAX, self.log_index_min <= self.log_index_max),
            (A_EXPIRY_MAX, self.expiry_min <= self.expiry_max),
            (A_RANGE_COUNT, self.extents.range_count() > 0),
        ];
        right.into_iter().find_map(|(field, right)| (!right).then_some(field))
    }
}

/// The ranges behind a fixed part: as many as it says, to the end.
fn ranges<'a>(
    table: &Table,
    field: Field,
    count: u32,
    rest: &'a [u8],
    at: u64,
) -> Result<Extents<'a>, Corrupt> {
    let (stored, left) = rest.as_chunks::<RANGE_BYTES>();
    let extents = Extents::Stored(stored);
    if !left.is_empty() || stored.len() != count as usize {
        return Err(table.corrupt(field, at));
    }
    match extents.iter().position(|range| !range.is_right()) {
        Some(index) => Err(RANGE_TABLE.corrupt(X_COUNT, at + (table.bytes + index * RANGE_BYTES) as u64)),
        None => Ok(extents),
    }
}

/// The edit at the start of `bytes`, and how many it takes.
fn decode(bytes: &[u8], at: u64) -> Result<(Edit<'_>, usize), Corrupt> {
    let wrong = |field| Err(EDIT_TABLE.corrupt(field, at));
    if bytes.len() < HEADER_BYTES {
        return wrong(E_BYTES);
    }
    if E_VERSION.u8(bytes) != EDIT_VERSION {
        return wrong(E_VERSION);
    }
    if !E_RESERVED.is_zero(bytes) {
        return wrong(E_RESERVED);
    }
    let edit_bytes = E_BYTES.u32(bytes) as usize;
    let table = match E_KIND.u8(bytes) {
        1 => ADD_TABLE,
        2 => REMOVE_TABLE,
        3 => STATE_TABLE,
        4 => START_TABLE,
        5 => NEXT_TABLE,
        _ => return wrong(E_KIND),
    };
    let body = bytes.get(HEADER_BYTES..edit_bytes).and_then(|body| body.split_at_checked(table.bytes));
    let Some((body, rest)) = body else { return wrong(E_BYTES) };
    let at = at + HEADER_BYTES as u64;
    let edit = match E_KIND.u8(bytes) {
        1 => Edit::AddTable(add_table(body, rest, at)?),
        3 => Edit::SetState(set_state(body, rest, at)?),
        _ if !rest.is_empty() => return wrong(E_BYTES),
        2 => Edit::RemoveTable(TableId(D_TABLE_ID.u64(body))),
        4 => {
            if !J_RESERVED.is_zero(body) {
                return Err(START_TABLE.corrupt(J_RESERVED, at));
            }
            Edit::SetJournalStart(SetJournalStart {
                at: J_AT.u64(body),
                incarnation: Incarnation(J_INCARNATION.u32(body)),
                sequence: Sequence(J_SEQUENCE.u64(body)),
            })
        }
        _ => Edit::SetNextTableId(TableId(N_TABLE_ID.u64(body))),
    };
    Ok((edit, edit_bytes))
}

fn add_table<'a>(body: &[u8], rest: &'a [u8], at: u64) -> Result<AddTable<'a>, Corrupt> {
    let wrong = |field| Err(ADD_TABLE.corrupt(field, at));
    let Some(tablet) = TabletIndex::new(A_TABLET.u8(body)) else { return wrong(A_TABLET) };
    let kind = match A_KIND.u8(body) {
        1 => TableKind::Run,
        2 => TableKind::Sealed,
        3 => TableKind::Sunk,
        _ => return wrong(A_KIND),
    };
    if let Some(field) = [A_RESERVED, A_RESERVED_2].into_iter().find(|field| !field.is_zero(body)) {
        return wrong(field);
    }
    let add = AddTable {
        table: TableId(A_TABLE_ID.u64(body)),
        tablet,
        kind,
        level: A_LEVEL.u8(body),
        window_from: A_WINDOW_FROM.u64(body),
        window_to: A_WINDOW_TO.u64(body),
        window_generation: A_WINDOW_GENERATION.u32(body),
        extents: ranges(&ADD_TABLE, A_RANGE_COUNT, A_RANGE_COUNT.u32(body), rest, at)?,
        bytes: A_TABLE_BYTES.u64(body),
        data_bytes: A_DATA_BYTES.u64(body),
        record_count: A_RECORD_COUNT.u64(body),
        tombstone_count: A_TOMBSTONE_COUNT.u64(body),
        time_min: A_TIME_MIN.u64(body),
        time_max: A_TIME_MAX.u64(body),
        log_index_min: LogIndex(A_LOG_INDEX_MIN.u64(body)),
        log_index_max: LogIndex(A_LOG_INDEX_MAX.u64(body)),
        expiry_min: A_EXPIRY_MIN.u64(body),
        expiry_max: A_EXPIRY_MAX.u64(body),
        checksum: u128::from_le_bytes(A_CHECKSUM.array(body)),
    };
    match add.first_wrong_field() {
        Some(field) => wrong(field),
        None => Ok(add),
    }
}

fn set_state<'a>(body: &[u8], rest: &'a [u8], at: u64) -> Result<SetState<'a>, Corrupt> {
    if !S_RESERVED.is_zero(body) {
        return Err(STATE_TABLE.corrupt(S_RESERVED, at));
    }
    let extents = ranges(&STATE_TABLE, S_RANGE_COUNT, S_RANGE_COUNT.u32(body), rest, at)?;
    let bytes = S_BLOB_BYTES.u64(body);
    if bytes == 0 || extents.range_count() == 0 {
        return Err(STATE_TABLE.corrupt(S_BLOB_BYTES, at));
    }
    let checksum = u128::from_le_bytes(S_CHECKSUM.array(body));
    Ok(SetState { blob: TableId(S_BLOB_ID.u64(body)), extents, bytes, checksum })
}

/// Collects the edits that are written together.
#[derive(Debug, Default, Clone)]
pub struct EditWriter {
    bytes: Vec<u8>,
    edit_count: usize,
}

impl EditWriter {
    /// Without edits.
    #[must_use]
    pub fn new() -> EditWriter {
        EditWriter::default()
    }

    /// Adds an edit. Values that the decoder would refuse are our own bug.
    pub fn append(&mut self, edit: &Edit<'_>) {
        edit.encode_into(&mut self.bytes);
        self.edit_count += 1;
    }

    /// The edits' bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Edits so far.
    #[must_use]
    pub fn edit_count(&self) -> usize {
        self.edit_count
    }

    /// Forgets them; the memory stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.edit_count = 0;
    }
}

/// Walks edits that stand back to back; ends after the first error.
#[derive(Debug, Clone)]
pub struct EditIter<'a> {
    rest: &'a [u8],
    at: u64,
}

impl<'a> EditIter<'a> {
    /// Starts at the first edit.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> EditIter<'a> {
        EditIter { rest: bytes, at: 0 }
    }

    /// Where the next edit starts.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }
}

impl<'a> Iterator for EditIter<'a> {
    type Item = Result<Edit<'a>, Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let found = decode(self.rest, self.at);
        let taken = found.map_or(self.rest.len(), |(_, bytes)| bytes);
        self.rest = &self.rest[taken..];
        self.at += taken as u64;
        Some(found.map(|(edit, _)| edit))
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 7] =
    [EDIT_TABLE, ADD_TABLE, REMOVE_TABLE, STATE_TABLE, START_TABLE, NEXT_TABLE, RANGE_TABLE];

#[cfg(test)]
mod tests {
    use super::*;

    const RANGES: [ExtentRange; 2] =
        [ExtentRange { first: 7, count: 2 }, ExtentRange { first: 0, count: u32::MAX }];

    fn add(extents: Extents<'_>) -> AddTable<'_> {
        AddTable {
            table: TableId(9),
            tablet: TabletIndex::new(63).unwrap(),
            kind: TableKind::Sealed,
            level: 3,
            window_from: 10,
            window_to: 20,
            window_generation: 1,
            extents,
            bytes: 5000,
            data_bytes: 4000,
            record_count: 7,
            tombstone_count: 7,
            time_min: 11,
            time_max: 19,
            log_index_min: LogIndex(1),
            log_index_max: LogIndex(4),
            expiry_min: 0,
            expiry_max: 0,
            checksum: u128::MAX - 5,
        }
    }

    fn all() -> [Edit<'static>; 5] {
        let extents = Extents::List(&RANGES);
        [
            Edit::AddTable(add(extents)),
            Edit::RemoveTable(TableId(4)),
            Edit::SetState(SetState { blob: TableId(5), extents, bytes: 77, checksum: 1 }),
            Edit::SetJournalStart(SetJournalStart {
                at: 4096,
                incarnation: Incarnation(2),
                sequence: Sequence(8),
            }),
            Edit::SetNextTableId(TableId(10)),
        ]
    }

    #[test]
    fn edits_round_trip() {
        let mut writer = EditWriter::new();
        all().iter().for_each(|edit| writer.append(edit));
        assert_eq!(writer.edit_count(), 5);
        let read: Vec<_> = EditIter::new(writer.bytes()).collect::<Result<_, _>>().expect("what was written");
        assert_eq!(read, all());
        let bytes: usize = read.iter().map(Edit::encoded_bytes).sum();
        assert_eq!(bytes, writer.bytes().len());
        let Edit::AddTable(first) = read[0] else { panic!("the first adds a table") };
        assert_eq!(first.extents.extent_count(), 2 + u64::from(u32::MAX));
        writer.clear();
        assert!(EditIter::new(writer.bytes()).next().is_none());
    }

    #[test]
    fn what_is_cut_or_wrong_is_named_and_ends_the_walk() {
        let mut bytes = Vec::new();
        Edit::RemoveTable(TableId(1)).encode_into(&mut bytes);
        Edit::AddTable(add(Extents::List(&RANGES))).encode_into(&mut bytes);
        let at_of = |bytes: &[u8]| {
            let mut walk = EditIter::new(bytes);
            assert!(walk.next().expect("the first").is_ok());
            let corrupt = walk.next().expect("the second").expect_err("wrong");
            assert!(walk.next().is_none());
            (corrupt.structure, corrupt.field, corrupt.at)
        };
        for cut in 17..bytes.len() {
            assert_eq!(at_of(&bytes[..cut]), ("manifest edit", "bytes", 20), "{cut}");
        }
        let changed = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[16 + at] = byte;
            at_of(&bytes)
        };
        assert_eq!(changed(0, 9), ("manifest edit", "kind", 16));
        assert_eq!(changed(1, 99), ("manifest edit", "version", 17));
        assert_eq!(changed(4, 8), ("manifest edit", "bytes", 20));
        assert_eq!(changed(8 + 8, 64), ("add table", "tablet", 32));
        assert_eq!(changed(8 + 9, 4), ("add table", "table_kind", 33));
        assert_eq!(changed(8 + 11, 3), ("add table", "reserved", 35));
        assert_eq!(changed(8 + 56, 8), ("add table", "tombstone_count", 80));
        assert_eq!(changed(8 + 128, 1), ("add table", "range_count", 152));
        assert_eq!(changed(8 + 136 + 4, 0), ("extent range", "count", 164));
    }

    #[test]
    #[should_panic(expected = "can be read again")]
    fn an_impossible_edit_is_our_own_bug() {
        Edit::AddTable(add(Extents::List(&[]))).encode_into(&mut Vec::new());
    }
}
