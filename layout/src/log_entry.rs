//! A log entry: a batch of operations at one index of a tablet's log, as the journal stores it.
//!
//! Owns the entry header and the walk over a record's body. The operations are in
//! [`crate::operation`]. Must never decide what an operation does (that is decided when applied).
//! Invariant: an entry that decodes without error encodes to the same bytes again.
//!
//! ```text
//! record body: | entry header 24 | operation | operation | .. | entry header 24 | operation | ..
//! ```

use crate::FORMAT_VERSION;
use crate::field::{Corrupt, Field, Table, byte_table};
use crate::journal_record::RecordWriter;
pub use crate::operation::{
    Change, OPERATION_BYTES_MAX, OPERATION_BYTES_MIN, OPERATION_TABLE, Operation, OperationIter, Write,
};
use crate::units::{ENTRY_BODY_BYTES_MAX, LogIndex, LogTime, TabletIndex};

/// Bytes of an entry header.
pub const ENTRY_HEADER_BYTES: usize = 24;
/// The format version as it stands in an entry.
const ENTRY_VERSION: u8 = FORMAT_VERSION as u8;
const _: () = assert!(ENTRY_VERSION as u32 == FORMAT_VERSION, "an entry has one byte for it");

byte_table! {
    /// Byte table of an entry header.
    ENTRY_TABLE = "log entry", ENTRY_HEADER_BYTES;
    E_LOG_INDEX = "log_index", 0, 8;
    E_STAMP = "stamp", 8, 8;
    E_BODY_BYTES = "body_bytes", 16, 4;
    E_OPERATION_COUNT = "operation_count", 20, 2;
    E_TABLET = "tablet", 22, 1;
    E_VERSION = "version", 23, 1;
}

/// What stands before an entry's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// Tablet whose log it is.
    pub tablet: TabletIndex,
    /// Its index in that log, from 1.
    pub log_index: LogIndex,
    /// The proposer's time; log time after it is the larger of the two.
    pub stamp: LogTime,
    /// Operations, 1..=65,535; an operation's position in the entry is part of its version.
    pub operation_count: u16,
    /// Bytes of all operations, at most 4 MiB.
    pub body_bytes: u32,
}

impl EntryHeader {
    /// Bytes of the header and its operations.
    #[must_use]
    pub fn entry_bytes(&self) -> usize {
        ENTRY_HEADER_BYTES + self.body_bytes as usize
    }

    /// The header's bytes. Values that the decoder would refuse are our own bug.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_HEADER_BYTES] {
        assert!(self.first_wrong_field().is_none(), "an entry we write can be read again: {self:?}");
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        E_LOG_INDEX.put(&mut bytes, self.log_index.0.to_le_bytes());
        E_STAMP.put(&mut bytes, self.stamp.0.to_le_bytes());
        E_BODY_BYTES.put(&mut bytes, self.body_bytes.to_le_bytes());
        E_OPERATION_COUNT.put(&mut bytes, self.operation_count.to_le_bytes());
        E_TABLET.put(&mut bytes, [self.tablet.get()]);
        E_VERSION.put(&mut bytes, [ENTRY_VERSION]);
        bytes
    }

    /// Reads the header at the start of `bytes`; `at` is its place in the record's body.
    pub fn decode(bytes: &[u8], at: u64) -> Result<EntryHeader, Corrupt> {
        let wrong = |field: Field| Err(ENTRY_TABLE.corrupt(field, at));
        if bytes.len() < ENTRY_HEADER_BYTES {
            return wrong(E_LOG_INDEX);
        }
        if E_VERSION.u8(bytes) != ENTRY_VERSION {
            return wrong(E_VERSION);
        }
        let Some(tablet) = TabletIndex::new(E_TABLET.u8(bytes)) else { return wrong(E_TABLET) };
        let header = EntryHeader {
            tablet,
            log_index: LogIndex(E_LOG_INDEX.u64(bytes)),
            stamp: LogTime(E_STAMP.u64(bytes)),
            operation_count: E_OPERATION_COUNT.u16(bytes),
            body_bytes: E_BODY_BYTES.u32(bytes),
        };
        match header.first_wrong_field() {
            Some(field) => wrong(field),
            None => Ok(header),
        }
    }

    fn first_wrong_field(&self) -> Option<Field> {
        let (count, bytes) = (usize::from(self.operation_count), self.body_bytes as usize);
        // Version = (index + base) << 16: an index from 2^48 on has no version.
        if !(1..1 << 48).contains(&self.log_index.0) {
            Some(E_LOG_INDEX)
        } else if count == 0 {
            Some(E_OPERATION_COUNT)
        } else if bytes > ENTRY_BODY_BYTES_MAX || bytes < count * OPERATION_BYTES_MIN {
            Some(E_BODY_BYTES)
        } else {
            None
        }
    }
}

/// An entry in a record's body: its header and its operations' bytes, not yet decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The header.
    pub header: EntryHeader,
    /// The operations' bytes.
    pub body: &'a [u8],
    /// Where `body` starts in the record's body.
    pub body_at: u64,
}

impl<'a> Entry<'a> {
    /// The operations in order; ends after the first error.
    #[must_use]
    pub fn operations(&self) -> OperationIter<'a> {
        OperationIter::new(self.body, self.header.operation_count, self.body_at)
    }
}

/// Walks the entries of a record's body; ends after the first error.
#[derive(Debug, Clone)]
pub struct EntryIter<'a> {
    rest: &'a [u8],
    at: u64,
}

impl<'a> EntryIter<'a> {
    /// Starts at the first byte of a record's body.
    #[must_use]
    pub fn new(body: &'a [u8]) -> EntryIter<'a> {
        EntryIter { rest: body, at: 0 }
    }

    fn take(&mut self) -> Result<Entry<'a>, Corrupt> {
        let header = EntryHeader::decode(self.rest, self.at)?;
        let Some((entry, rest)) = self.rest.split_at_checked(header.entry_bytes()) else {
            return Err(ENTRY_TABLE.corrupt(E_BODY_BYTES, self.at));
        };
        let body_at = self.at + ENTRY_HEADER_BYTES as u64;
        self.rest = rest;
        self.at += entry.len() as u64;
        Ok(Entry { header, body: &entry[ENTRY_HEADER_BYTES..], body_at })
    }
}

impl<'a> Iterator for EntryIter<'a> {
    type Item = Result<Entry<'a>, Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.take();
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry)
    }
}

/// Appends an entry with these operations to a record; `None`, with nothing written, when the record
/// has no room for it.
///
/// More than 65,535 operations or 4 MiB, none at all, or an atomic batch without its end are our own
/// bug: the batch that becomes an entry is cut before.
#[must_use]
pub fn append_entry<'o>(
    writer: &mut RecordWriter<'_>,
    tablet: TabletIndex,
    log_index: LogIndex,
    stamp: LogTime,
    operations: impl Iterator<Item = Operation<'o>> + Clone,
) -> Option<EntryHeader> {
    let (mut count, mut bytes, mut open) = (0usize, 0usize, false);
    for operation in operations.clone() {
        count += 1;
        bytes += operation.encoded_bytes();
        assert!(!open || operation.can_follow_in_batch(), "an atomic batch holds writes only");
        open = operation.atomic_with_next();
    }
    assert!(!open, "an atomic batch ends inside its entry");
    let header = EntryHeader {
        tablet,
        log_index,
        stamp,
        operation_count: u16::try_from(count).expect("an entry holds at most 65,535 operations"),
        body_bytes: u32::try_from(bytes).expect("an entry holds at most 4 MiB"),
    };
    if writer.room() < header.entry_bytes() {
        return None;
    }
    let mut append = |piece: &[u8]| assert!(writer.append(piece), "room was checked for the whole entry");
    append(&header.encode());
    operations.for_each(|operation| operation.encode_into(&mut append));
    Some(header)
}

/// The error of an entry whose body goes on behind its last operation, at `at` in the record's body.
pub(crate) fn operations_end_early(at: u64) -> Corrupt {
    Corrupt { structure: ENTRY_TABLE.structure, field: E_BODY_BYTES.name, at }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub const TABLES: [Table; 1] = [ENTRY_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal_record::{JournalIdentity, RecordFields, RecordKind, body_bytes_max, read_record};
    use crate::key::Key;
    use crate::units::{DiskOffset, Incarnation, RequestId, Sequence, ShardIndex, Space, Uuid};

    const HOME: JournalIdentity =
        JournalIdentity { device: Uuid([7; 16]), shard: ShardIndex(0), generation: 1 };

    fn put(value: &[u8], atomic_with_next: bool) -> Operation<'_> {
        Operation::Write(Write {
            key: Key { space: Space(3), stream: b"user-1", time: 99 },
            request: RequestId { client: 1, log_time: 2, sequence: 3 },
            expiry_us: 0,
            atomic_with_next,
            change: Change::Put { value },
        })
    }

    fn tablet(index: u8) -> TabletIndex {
        TabletIndex::new(index).expect("below 64")
    }

    #[test]
    fn entries_go_through_a_record_and_back() {
        let mut buffer = vec![0; 8192];
        let mut writer = RecordWriter::new(&mut buffer);
        let long = vec![9; 4000];
        let batches: [Vec<Operation<'_>>; 3] =
            [vec![put(b"one", true), put(b"", false)], vec![Operation::Tick], vec![put(&long, false)]];
        for (index, batch) in batches.iter().enumerate() {
            let index = index as u64 + 1;
            let header =
                append_entry(&mut writer, tablet(5), LogIndex(index), LogTime(50), batch.iter().copied());
            assert_eq!(header.map(|h| usize::from(h.operation_count)), Some(batch.len()));
        }
        let fields = RecordFields {
            kind: RecordKind::Entries,
            incarnation: Incarnation(1),
            sequence: Sequence(2),
            previous_incarnation: Incarnation(1),
            previous_sequence: Sequence(1),
            flushed_sequence: Sequence(1),
            memtable_number: 0,
        };
        let written = writer.seal(HOME, DiskOffset(4096), fields);
        let mut body = Vec::new();
        read_record(HOME, DiskOffset(4096), &buffer[..written], &mut body).expect("what was sealed");
        let entries: Vec<_> = EntryIter::new(&body).collect::<Result<_, _>>().expect("what was appended");
        assert_eq!(entries.len(), 3);
        for (index, (entry, batch)) in entries.iter().zip(&batches).enumerate() {
            assert_eq!(entry.header.log_index, LogIndex(index as u64 + 1));
            assert_eq!((entry.header.tablet, entry.header.stamp), (tablet(5), LogTime(50)));
            let operations: Vec<_> = entry.operations().collect::<Result<_, _>>().expect("valid");
            assert_eq!(&operations, batch);
        }
    }

    #[test]
    fn an_entry_without_room_leaves_the_record_as_it_was() {
        let mut buffer = vec![0; 4096];
        let value = vec![1; body_bytes_max(4096)];
        let mut writer = RecordWriter::new(&mut buffer);
        let refused =
            append_entry(&mut writer, tablet(0), LogIndex(1), LogTime(0), [put(&value, false)].into_iter());
        assert_eq!((refused, writer.body_bytes()), (None, 0));
    }

    #[test]
    fn wrong_headers_are_named_and_end_the_walk() {
        let good = EntryHeader {
            tablet: tablet(1),
            log_index: LogIndex(1),
            stamp: LogTime(2),
            operation_count: 1,
            body_bytes: OPERATION_BYTES_MIN as u32,
        };
        let encoded = good.encode();
        assert_eq!(EntryHeader::decode(&encoded, 0), Ok(good));
        let cases =
            [(E_VERSION, 99), (E_TABLET, 64), (E_OPERATION_COUNT, 0), (E_BODY_BYTES, 1), (E_LOG_INDEX, 0)];
        for (field, value) in cases {
            let mut bytes = encoded;
            bytes[field.offset] = value;
            let corrupt = EntryHeader::decode(&bytes, 1000).expect_err(field.name);
            assert_eq!((corrupt.field, corrupt.at), (field.name, 1000 + field.offset as u64));
        }
        assert!(EntryHeader::decode(&encoded[..23], 0).is_err());
        let mut walk = EntryIter::new(&encoded);
        assert_eq!(walk.next().expect("one error").expect_err("body is missing").field, "body_bytes");
        assert!(walk.next().is_none());
    }

    #[test]
    #[should_panic(expected = "ends inside its entry")]
    fn a_batch_cut_by_its_entry_is_our_own_bug() {
        let mut buffer = vec![0; 4096];
        let mut writer = RecordWriter::new(&mut buffer);
        let _ = append_entry(&mut writer, tablet(0), LogIndex(1), LogTime(0), [put(b"x", true)].into_iter());
    }
}
