//! An operation: one change of one record, or a tick of log time.
//!
//! Owns its bytes and the strict reading of them. Must never allocate: a decoded operation borrows
//! stream and value from the entry. Invariant: each operation has exactly one encoding, so what
//! decodes encodes to the same bytes (replicas compare entries byte for byte).
//!
//! ```text
//! | fixed 49 | compare 32, only compare-and-set | stream 1..=128 | value 0..=1 MiB |
//! ```

use crate::field::{Corrupt, Field, Table, byte_table};
use crate::key::Key;
use crate::seal_operation::{self, KIND_SEAL, KIND_SEALED, Seal, Sealed};
use crate::sink_operation::{self, KIND_SINK, Sink};
use crate::units::{
    LogIndex, RequestId, STREAM_BYTES_MAX, STREAM_BYTES_MIN, Space, VALUE_BYTES_MAX, Version,
};

const FIXED_BYTES: usize = 49;
const COMPARE_BYTES: usize = 32;
/// Bytes of the smallest operation, a tick or a verify.
pub const OPERATION_BYTES_MIN: usize = FIXED_BYTES;
/// Bytes of the largest operation.
pub const OPERATION_BYTES_MAX: usize = FIXED_BYTES + COMPARE_BYTES + STREAM_BYTES_MAX + VALUE_BYTES_MAX;

byte_table! {
    /// Byte table of an operation's fixed part; stream and value follow.
    OPERATION_TABLE = "operation", FIXED_BYTES;
    O_KIND = "kind", 0, 1;
    O_FLAGS = "flags", 1, 1;
    O_SPACE = "space", 2, 2;
    O_VALUE_BYTES = "value_bytes", 4, 4;
    O_TIME = "time", 8, 8;
    O_EXPIRY = "expiry_us", 16, 8;
    O_REQUEST = "request", 24, 24;
    O_STREAM_BYTES = "stream_bytes", 48, 1;
}

byte_table! {
    /// Byte table of what a compare-and-set has between its fixed part and its stream.
    COMPARE_TABLE = "compare", COMPARE_BYTES;
    C_EXPECTED = "expected", 0, 8;
    C_OBSERVED = "observed", 8, 8;
    C_OBSERVED_INDEX = "observed_index", 16, 8;
    C_OBSERVED_EXPIRY = "observed_expiry_us", 24, 8;
}

const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;
const KIND_COMPARE_AND_SET: u8 = 3;
const KIND_TICK: u8 = 4;
const KIND_VERIFY: u8 = 5;

const FLAG_ATOMIC_WITH_NEXT: u8 = 1;
/// Of a compare-and-set: deletes instead of writing a value.
const FLAG_DELETES: u8 = 2;

/// One operation of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Moves log time to the entry's stamp, so that expiries and windows fall due without a write.
    Tick,
    /// A tick at whose index the replicas compare what they hold.
    Verify,
    /// Begins a seal of windows.
    Seal(Seal<'a>),
    /// Ends it.
    Sealed(Sealed<'a>),
    /// A sealed window goes to cold disks, step by step.
    Sink(Sink<'a>),
    /// Changes one record.
    Write(Write<'a>),
}

/// What all changes of a record have in common, and the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write<'a> {
    /// The record.
    pub key: Key<'a>,
    /// Makes a retry harmless.
    pub request: RequestId,
    /// Log time from which the record counts as absent, microseconds; 0 = never. 0 for deletes.
    pub expiry_us: u64,
    /// This and the next operation of the entry take effect together or not at all.
    pub atomic_with_next: bool,
    /// What happens to the record.
    pub change: Change<'a>,
}

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Sets the value.
    Put {
        /// 0..=1 MiB.
        value: &'a [u8],
    },
    /// Removes the record.
    Delete,
    /// Sets or removes only if the record still has the version the client expects.
    CompareAndSet {
        /// The version that the client gave; `ABSENT` = only if there is no record.
        expected: Version,
        /// The version that the proposer saw.
        observed: Version,
        /// Index that was applied when the proposer looked; apply compares it with the list of keys
        /// written since.
        observed_index: LogIndex,
        /// Expiry of the record that the proposer saw; 0 = none. If log time has passed it when the entry is
        /// applied, the record is absent by then.
        observed_expiry_us: u64,
        /// 0..=1 MiB; `None` removes.
        value: Option<&'a [u8]>,
    },
}

impl<'a> Operation<'a> {
    /// Bytes of the encoded operation.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        match self {
            Operation::Tick | Operation::Verify => FIXED_BYTES,
            Operation::Seal(seal) => seal.encoded_bytes(),
            Operation::Sealed(sealed) => sealed.encoded_bytes(),
            Operation::Sink(sink) => sink.encoded_bytes(),
            Operation::Write(write) => {
                let compare = match write.change {
                    Change::CompareAndSet { .. } => COMPARE_BYTES,
                    Change::Put { .. } | Change::Delete => 0,
                };
                FIXED_BYTES + compare + write.key.stream.len() + write.value().unwrap_or_default().len()
            }
        }
    }

    /// True when the next operation of the entry belongs to the same atomic batch.
    #[must_use]
    pub fn atomic_with_next(&self) -> bool {
        matches!(self, Operation::Write(write) if write.atomic_with_next)
    }

    /// True for what may stand behind an operation that is atomic with its next.
    pub(crate) fn can_follow_in_batch(&self) -> bool {
        matches!(self, Operation::Write(_))
    }

    /// Calls `piece` with the encoded operation, in up to four pieces. Lengths outside their limits,
    /// or a delete with an expiry, are our own bug: the door has checked them.
    pub fn encode_into(&self, piece: &mut impl FnMut(&[u8])) {
        let mut fixed = [0u8; FIXED_BYTES];
        let write = match self {
            Operation::Tick | Operation::Verify => {
                let kind = if *self == Operation::Tick { KIND_TICK } else { KIND_VERIFY };
                O_KIND.put(&mut fixed, [kind]);
                return piece(&fixed);
            }
            Operation::Seal(seal) => return seal.encode_into(piece),
            Operation::Sealed(sealed) => return sealed.encode_into(piece),
            Operation::Sink(sink) => return sink.encode_into(piece),
            Operation::Write(write) => write,
        };
        let stream = write.key.stream;
        let value = write.value();
        let value_bytes = value.unwrap_or_default().len();
        assert!((STREAM_BYTES_MIN..=STREAM_BYTES_MAX).contains(&stream.len()), "the door checked the stream");
        assert!(value_bytes <= VALUE_BYTES_MAX, "the door checked the value");
        assert!(value.is_some() || write.expiry_us == 0, "a delete does not expire");
        let (kind, deletes) = match write.change {
            Change::Put { .. } => (KIND_PUT, 0),
            Change::Delete => (KIND_DELETE, 0),
            Change::CompareAndSet { value, .. } => {
                (KIND_COMPARE_AND_SET, if value.is_none() { FLAG_DELETES } else { 0 })
            }
        };
        let atomic = if write.atomic_with_next { FLAG_ATOMIC_WITH_NEXT } else { 0 };
        O_KIND.put(&mut fixed, [kind]);
        O_FLAGS.put(&mut fixed, [atomic | deletes]);
        O_SPACE.put(&mut fixed, write.key.space.0.to_le_bytes());
        O_VALUE_BYTES.put(&mut fixed, (value_bytes as u32).to_le_bytes());
        O_TIME.put(&mut fixed, write.key.time.to_le_bytes());
        O_EXPIRY.put(&mut fixed, write.expiry_us.to_le_bytes());
        O_REQUEST.put(&mut fixed, write.request.to_bytes());
        O_STREAM_BYTES.put(&mut fixed, [stream.len() as u8]);
        piece(&fixed);
        if let Change::CompareAndSet { expected, observed, observed_index, observed_expiry_us, .. } =
            write.change
        {
            let mut compare = [0u8; COMPARE_BYTES];
            C_EXPECTED.put(&mut compare, expected.0.to_le_bytes());
            C_OBSERVED.put(&mut compare, observed.0.to_le_bytes());
            C_OBSERVED_INDEX.put(&mut compare, observed_index.0.to_le_bytes());
            C_OBSERVED_EXPIRY.put(&mut compare, observed_expiry_us.to_le_bytes());
            piece(&compare);
        }
        piece(stream);
        if value_bytes > 0 {
            piece(value.unwrap_or_default());
        }
    }

    /// Reads the operation at the start of `bytes` and its length; `at` is its place in the record's
    /// body, for the error.
    pub fn decode(bytes: &'a [u8], at: u64) -> Result<(Operation<'a>, usize), Corrupt> {
        let wrong = |field: Field| Err(OPERATION_TABLE.corrupt(field, at));
        if bytes.len() < FIXED_BYTES {
            return wrong(O_KIND);
        }
        let kind = O_KIND.u8(bytes);
        let flags = O_FLAGS.u8(bytes);
        let (compares, flags_allowed) = match kind {
            KIND_PUT | KIND_DELETE => (false, FLAG_ATOMIC_WITH_NEXT),
            KIND_COMPARE_AND_SET => (true, FLAG_ATOMIC_WITH_NEXT | FLAG_DELETES),
            KIND_TICK => return decode_bare(Operation::Tick, bytes, at),
            KIND_VERIFY => return decode_bare(Operation::Verify, bytes, at),
            KIND_SEAL | KIND_SEALED => return decode_seal(bytes, at),
            KIND_SINK => {
                let (sink, end) = sink_operation::decode(bytes, at)?;
                return Ok((Operation::Sink(sink), end));
            }
            _ => return wrong(O_KIND),
        };
        if flags & !flags_allowed != 0 {
            return wrong(O_FLAGS);
        }
        let deletes = kind == KIND_DELETE || flags & FLAG_DELETES != 0;
        let stream_bytes = usize::from(O_STREAM_BYTES.u8(bytes));
        if !(STREAM_BYTES_MIN..=STREAM_BYTES_MAX).contains(&stream_bytes) {
            return wrong(O_STREAM_BYTES);
        }
        let value_bytes = O_VALUE_BYTES.u32(bytes) as usize;
        if value_bytes > VALUE_BYTES_MAX || (deletes && value_bytes > 0) {
            return wrong(O_VALUE_BYTES);
        }
        let expiry_us = O_EXPIRY.u64(bytes);
        if deletes && expiry_us > 0 {
            return wrong(O_EXPIRY);
        }
        let stream_at = FIXED_BYTES + if compares { COMPARE_BYTES } else { 0 };
        let value_at = stream_at + stream_bytes;
        let end = value_at + value_bytes;
        if bytes.len() < value_at {
            return wrong(O_STREAM_BYTES);
        }
        if bytes.len() < end {
            return wrong(O_VALUE_BYTES);
        }
        let value = &bytes[value_at..end];
        let compare = &bytes[FIXED_BYTES..stream_at];
        let change = match kind {
            KIND_PUT => Change::Put { value },
            KIND_DELETE => Change::Delete,
            _ => Change::CompareAndSet {
                expected: Version(C_EXPECTED.u64(compare)),
                observed: Version(C_OBSERVED.u64(compare)),
                observed_index: LogIndex(C_OBSERVED_INDEX.u64(compare)),
                observed_expiry_us: C_OBSERVED_EXPIRY.u64(compare),
                value: if deletes { None } else { Some(value) },
            },
        };
        let write = Write {
            key: Key {
                space: Space(O_SPACE.u16(bytes)),
                stream: &bytes[stream_at..value_at],
                time: O_TIME.u64(bytes),
            },
            request: RequestId::from_bytes(&O_REQUEST.array(bytes)),
            expiry_us,
            atomic_with_next: flags & FLAG_ATOMIC_WITH_NEXT != 0,
            change,
        };
        Ok((Operation::Write(write), end))
    }
}

impl<'a> Write<'a> {
    /// The value it sets; `None` when it removes the record.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        match self.change {
            Change::Put { value } => Some(value),
            Change::Delete => None,
            Change::CompareAndSet { value, .. } => value,
        }
    }
}

/// A tick or a verify has nothing but its kind.
fn decode_bare<'a>(
    operation: Operation<'a>,
    bytes: &'a [u8],
    at: u64,
) -> Result<(Operation<'a>, usize), Corrupt> {
    let mut others = OPERATION_TABLE.fields.iter().filter(|field| **field != O_KIND);
    match others.find(|field| !field.is_zero(bytes)) {
        Some(field) => Err(OPERATION_TABLE.corrupt(*field, at)),
        None => Ok((operation, FIXED_BYTES)),
    }
}

fn decode_seal(bytes: &[u8], at: u64) -> Result<(Operation<'_>, usize), Corrupt> {
    let (read, end) = seal_operation::decode(bytes, at)?;
    let operation = match read {
        seal_operation::Read::Seal(seal) => Operation::Seal(seal),
        seal_operation::Read::Sealed(sealed) => Operation::Sealed(sealed),
    };
    Ok((operation, end))
}

/// Walks the operations of an entry; ends after the first error.
///
/// Also checks that the entry's operations are as many and as long as its header says, and that an
/// atomic batch ends inside the entry and holds writes only.
#[derive(Debug, Clone)]
pub struct OperationIter<'a> {
    rest: &'a [u8],
    left: u16,
    at: u64,
    in_batch: bool,
}

impl<'a> OperationIter<'a> {
    /// `body` are the operations' bytes, `count` the entry's operation count, `at` the place of
    /// `body` in the record's body.
    #[must_use]
    pub fn new(body: &'a [u8], count: u16, at: u64) -> OperationIter<'a> {
        OperationIter { rest: body, left: count, at, in_batch: false }
    }

    fn take(&mut self) -> Result<Operation<'a>, Corrupt> {
        let wrong = |field: Field| Err(OPERATION_TABLE.corrupt(field, self.at));
        let (operation, bytes) = Operation::decode(self.rest, self.at)?;
        if self.in_batch && !operation.can_follow_in_batch() {
            return wrong(O_KIND);
        }
        let last = self.left == 1;
        if last && operation.atomic_with_next() {
            return wrong(O_FLAGS);
        }
        if last && bytes != self.rest.len() {
            // The entry is longer than its operations.
            return Err(crate::log_entry::operations_end_early(self.at + bytes as u64));
        }
        self.in_batch = operation.atomic_with_next();
        self.rest = &self.rest[bytes..];
        self.at += bytes as u64;
        self.left -= 1;
        Ok(operation)
    }
}

impl<'a> Iterator for OperationIter<'a> {
    type Item = Result<Operation<'a>, Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let operation = self.take();
        if operation.is_err() {
            self.left = 0;
        }
        Some(operation)
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub const TABLES: [Table; 2] = [OPERATION_TABLE, COMPARE_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(operation: &Operation<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        operation.encode_into(&mut |piece: &[u8]| bytes.extend_from_slice(piece));
        assert_eq!(bytes.len(), operation.encoded_bytes());
        bytes
    }

    fn write<'a>(stream: &'a [u8], change: Change<'a>) -> Write<'a> {
        let expiry_us = if matches!(change, Change::Put { .. }) { 77 } else { 0 };
        Write {
            key: Key { space: Space(1), stream, time: 5 },
            request: RequestId { client: 1, log_time: 2, sequence: 3 },
            expiry_us,
            atomic_with_next: false,
            change,
        }
    }

    fn compare<'a>(value: Option<&'a [u8]>) -> Change<'a> {
        Change::CompareAndSet {
            expected: Version(1),
            observed: Version(2),
            observed_index: LogIndex(3),
            observed_expiry_us: 77,
            value,
        }
    }

    fn body(operations: &[Operation<'_>]) -> Vec<u8> {
        operations.iter().flat_map(encoded).collect()
    }

    fn first_error(body: &[u8], count: u16) -> &'static str {
        let mut walk = OperationIter::new(body, count, 0);
        let error = walk.find_map(Result::err).expect("an error");
        assert!(walk.next().is_none(), "the walk ends after an error");
        error.field
    }

    #[test]
    fn operations_of_each_kind_round_trip() {
        let longest = [7; STREAM_BYTES_MAX];
        let largest = vec![1; VALUE_BYTES_MAX];
        let changes = [
            Change::Put { value: b"" },
            Change::Put { value: &largest },
            Change::Delete,
            compare(None),
            compare(Some(b"")),
            compare(Some(&largest)),
        ];
        for change in changes {
            let operation = Operation::Write(write(&longest, change));
            let bytes = encoded(&operation);
            assert!(bytes.len() <= OPERATION_BYTES_MAX);
            assert_eq!(Operation::decode(&bytes, 0), Ok((operation, bytes.len())));
            for cut in [0, 48, 49, 72, 73, bytes.len() - 1] {
                let cut = cut.min(bytes.len() - 1);
                assert!(Operation::decode(&bytes[..cut], 0).is_err(), "cut at {cut}");
            }
        }
        assert_eq!(encoded(&Operation::Tick).len(), OPERATION_BYTES_MIN);
        for operation in [Operation::Tick, Operation::Verify] {
            assert_eq!(Operation::decode(&encoded(&operation), 0), Ok((operation, 49)));
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let put = encoded(&Operation::Write(write(b"s", Change::Put { value: b"v" })));
        let delete = encoded(&Operation::Write(write(b"s", Change::Delete)));
        let tick = encoded(&Operation::Tick);
        let cases: [(&[u8], Field, u8); 10] = [
            (&put, O_KIND, 0),
            (&put, O_KIND, 99),
            (&put, O_FLAGS, 4),
            (&put, O_FLAGS, FLAG_DELETES),
            (&put, O_STREAM_BYTES, 0),
            (&put, O_STREAM_BYTES, 129),
            (&put, O_VALUE_BYTES, 2),
            (&delete, O_VALUE_BYTES, 1),
            (&delete, O_EXPIRY, 1),
            (&tick, O_SPACE, 1),
        ];
        for (good, field, value) in cases {
            let mut bytes = good.to_vec();
            bytes[field.offset] = value;
            let corrupt = Operation::decode(&bytes, 100).expect_err(field.name);
            assert_eq!((corrupt.field, corrupt.at), (field.name, 100 + field.offset as u64), "{value}");
        }
        let mut huge = put.clone();
        O_VALUE_BYTES.put(&mut huge, u32::MAX.to_le_bytes());
        assert_eq!(Operation::decode(&huge, 0).expect_err("4 GiB").field, "value_bytes");
    }

    #[test]
    fn the_walk_holds_the_entry_to_its_header() {
        let put = Operation::Write(write(b"s", Change::Put { value: b"v" }));
        let open = Operation::Write(Write { atomic_with_next: true, ..write(b"s", Change::Delete) });
        let two = body(&[put, put]);
        assert_eq!(OperationIter::new(&two, 2, 0).filter(Result::is_ok).count(), 2);
        assert_eq!(first_error(&two, 1), "body_bytes");
        assert_eq!(first_error(&two, 3), "kind");
        assert_eq!(first_error(&body(&[open]), 1), "flags");
        assert_eq!(first_error(&body(&[open, Operation::Tick]), 2), "kind");
        assert_eq!(OperationIter::new(&body(&[open, put]), 2, 0).filter(Result::is_ok).count(), 2);
    }

    proptest! {
        /// One encoding per operation: whatever decodes, encodes to the same bytes.
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(
            kind in 0u8..8, flags in 0u8..4, expiry in 0u64..2, value_bytes in 0u32..4,
            stream_bytes in 0u8..4, rest in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = vec![0; FIXED_BYTES];
            O_KIND.put(&mut bytes, [kind]);
            O_FLAGS.put(&mut bytes, [flags]);
            O_EXPIRY.put(&mut bytes, expiry.to_le_bytes());
            O_VALUE_BYTES.put(&mut bytes, value_bytes.to_le_bytes());
            O_STREAM_BYTES.put(&mut bytes, [stream_bytes]);
            bytes.extend_from_slice(&rest);
            if let Ok((operation, taken)) = Operation::decode(&bytes, 0) {
                prop_assert_eq!(encoded(&operation), &bytes[..taken]);
            }
        }
    }
}
