//! Bodies of the requests that write: Put, Delete, CompareAndSet, Batch. Each carries a request id, so that a retry
//! is applied once.

use layout::key::Key;
use layout::units::{OPERATION_COUNT_MAX, RequestId, Space, VALUE_BYTES_MAX, Version};

use super::{Body, RequestError, key, stream_bytes};
use crate::field::{Field, Read, Sink, Table, Write, wire_table};
use crate::operation::Operation;
use crate::outcome::{Limit, Why};

wire_table! {
    put = "Put", 48;
    SPACE = "space", 0, 2;
    STREAM_BYTES = "stream_bytes", 2, 1;
    RESERVED = "reserved", 3, 1;
    VALUE_BYTES = "value_bytes", 4, 4;
    TIME = "time", 8, 8;
    EXPIRY = "expiry", 16, 8;
    REQUEST_ID = "request_id", 24, 24;
}
wire_table! {
    delete = "Delete", 40;
    SPACE = "space", 0, 2;
    STREAM_BYTES = "stream_bytes", 2, 1;
    RESERVED = "reserved", 3, 5;
    TIME = "time", 8, 8;
    REQUEST_ID = "request_id", 16, 24;
}
wire_table! {
    compare_and_set = "CompareAndSet", 56;
    SPACE = "space", 0, 2;
    STREAM_BYTES = "stream_bytes", 2, 1;
    RESERVED = "reserved", 3, 1;
    VALUE_BYTES = "value_bytes", 4, 4;
    TIME = "time", 8, 8;
    EXPIRY = "expiry", 16, 8;
    REQUEST_ID = "request_id", 24, 24;
    EXPECTED = "expected", 48, 8;
}
wire_table! {
    batch = "Batch", 32;
    SPACE = "space", 0, 2;
    STREAM_BYTES = "stream_bytes", 2, 1;
    RESERVED = "reserved", 3, 1;
    COUNT = "count", 4, 2;
    RESERVED_2 = "reserved", 6, 2;
    REQUEST_ID = "request_id", 8, 24;
}
wire_table! {
    batch_operation = "batch operation", 24;
    KIND = "kind", 0, 1;
    RESERVED = "reserved", 1, 3;
    VALUE_BYTES = "value_bytes", 4, 4;
    TIME = "time", 8, 8;
    EXPIRY = "expiry", 16, 8;
}

/// The tables of this file for the test that reads the document.
pub(crate) fn tables() -> [&'static Table; 5] {
    [&put::TABLE, &delete::TABLE, &compare_and_set::TABLE, &batch::TABLE, &batch_operation::TABLE]
}

/// Where in the body of a put, delete or compare-and-set the time stands.
pub const TIME_AT: u32 = put::TIME.offset as u32;
const _: () = assert!(
    put::TIME.offset == delete::TIME.offset && put::TIME.offset == compare_and_set::TIME.offset,
    "the three have their time at one place"
);

/// Where in the body of a write its request id stands; None for other requests.
pub const fn request_id_at(operation: Operation) -> Option<u32> {
    let field = match operation {
        Operation::Put => put::REQUEST_ID,
        Operation::Delete => delete::REQUEST_ID,
        Operation::CompareAndSet => compare_and_set::REQUEST_ID,
        Operation::Batch => batch::REQUEST_ID,
        _ => return None,
    };
    Some(field.offset as u32)
}

/// Kind of a batch operation: put.
const KIND_PUT: u8 = 1;
/// Kind of a batch operation: delete.
const KIND_DELETE: u8 = 2;

/// Reads the request id at `field`; neither its client nor its sequence is zero.
#[inline]
fn request_id<const N: usize>(
    body: &Body<'_>,
    fixed: &[u8; N],
    field: Field,
) -> Result<RequestId, RequestError> {
    let id = RequestId::from_bytes(&fixed.bytes(field));
    if id.client == 0 || id.sequence == 0 {
        return Err(body.bad(Why::RequestId, field.offset));
    }
    Ok(id)
}

fn value_bytes(value: &[u8]) -> [u8; 4] {
    u32::try_from(value.len()).expect("the caller has checked the value's length").to_le_bytes()
}

/// Checks a value's length against its limit before the bytes are looked at.
#[inline]
fn checked_value_bytes(bytes: u32) -> Result<usize, RequestError> {
    if bytes as usize > VALUE_BYTES_MAX {
        Err(RequestError::TooLarge { limit: Limit::Value })
    } else {
        Ok(bytes as usize)
    }
}

/// The value at the end of a body: exactly the rest, else its length field, `length_before` bytes before here, is wrong.
#[inline]
fn last_value<'a>(body: &mut Body<'a>, bytes: usize, length_before: usize) -> Result<&'a [u8], RequestError> {
    if body.rest().len() != bytes {
        return Err(RequestError::Bad { why: Why::ValueBytes, at: (body.at - length_before) as u32 });
    }
    body.take(bytes)
}

/// Writes one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put<'a> {
    /// Makes a retry harmless.
    pub id: RequestId,
    /// Which record.
    pub key: Key<'a>,
    /// When it expires by log time, µs since the epoch; 0 = never.
    pub expiry: u64,
    /// 0 to 1 MiB.
    pub value: &'a [u8],
}

impl<'a> Put<'a> {
    #[inline]
    pub(super) fn decode(body: &mut Body<'a>) -> Result<Put<'a>, RequestError> {
        let fixed = body.head::<{ put::BYTES }>()?;
        if !fixed.is_zero(put::RESERVED) {
            return Err(body.bad(Why::Reserved, put::RESERVED.offset));
        }
        let bytes = checked_value_bytes(fixed.u32(put::VALUE_BYTES))?;
        let id = request_id(body, fixed, put::REQUEST_ID)?;
        body.skip(put::BYTES);
        let stream = body.stream(fixed.u8(put::STREAM_BYTES), put::BYTES - put::STREAM_BYTES.offset)?;
        let value = last_value(body, bytes, put::BYTES - put::VALUE_BYTES.offset + stream.len())?;
        let key = key(fixed.u16(put::SPACE), stream, fixed.u64(put::TIME));
        Ok(Put { id, key, expiry: fixed.u64(put::EXPIRY), value })
    }

    pub(super) fn encode(&self, out: &mut impl Sink) {
        out.put(
            &[0; put::BYTES]
                .set(put::SPACE, self.key.space.0.to_le_bytes())
                .set(put::STREAM_BYTES, [stream_bytes(self.key.stream)])
                .set(put::VALUE_BYTES, value_bytes(self.value))
                .set(put::TIME, self.key.time.to_le_bytes())
                .set(put::EXPIRY, self.expiry.to_le_bytes())
                .set(put::REQUEST_ID, self.id.to_bytes()),
        );
        out.put(self.key.stream);
        out.put(self.value);
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        put::BYTES + self.key.stream.len() + self.value.len()
    }
}

/// Deletes one record. Deleting an absent one is Ok, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delete<'a> {
    /// Makes a retry harmless.
    pub id: RequestId,
    /// Which record.
    pub key: Key<'a>,
}

impl<'a> Delete<'a> {
    pub(super) fn decode(body: &mut Body<'a>) -> Result<Delete<'a>, RequestError> {
        let fixed = body.head::<{ delete::BYTES }>()?;
        if !fixed.is_zero(delete::RESERVED) {
            return Err(body.bad(Why::Reserved, delete::RESERVED.offset));
        }
        let id = request_id(body, fixed, delete::REQUEST_ID)?;
        body.skip(delete::BYTES);
        let stream =
            body.stream(fixed.u8(delete::STREAM_BYTES), delete::BYTES - delete::STREAM_BYTES.offset)?;
        Ok(Delete { id, key: key(fixed.u16(delete::SPACE), stream, fixed.u64(delete::TIME)) })
    }

    pub(super) fn encode(&self, out: &mut impl Sink) {
        out.put(
            &[0; delete::BYTES]
                .set(delete::SPACE, self.key.space.0.to_le_bytes())
                .set(delete::STREAM_BYTES, [stream_bytes(self.key.stream)])
                .set(delete::TIME, self.key.time.to_le_bytes())
                .set(delete::REQUEST_ID, self.id.to_bytes()),
        );
        out.put(self.key.stream);
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        delete::BYTES + self.key.stream.len()
    }
}

/// Writes one record when its current version is the expected one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompareAndSet<'a> {
    /// Makes a retry harmless.
    pub id: RequestId,
    /// Which record.
    pub key: Key<'a>,
    /// The version it must have; 0 = it must be absent (put if absent).
    pub expected: Version,
    /// When it expires by log time, µs since the epoch; 0 = never.
    pub expiry: u64,
    /// 0 to 1 MiB.
    pub value: &'a [u8],
}

impl<'a> CompareAndSet<'a> {
    pub(super) fn decode(body: &mut Body<'a>) -> Result<CompareAndSet<'a>, RequestError> {
        use compare_and_set as cas;
        let fixed = body.head::<{ cas::BYTES }>()?;
        if !fixed.is_zero(cas::RESERVED) {
            return Err(body.bad(Why::Reserved, cas::RESERVED.offset));
        }
        let bytes = checked_value_bytes(fixed.u32(cas::VALUE_BYTES))?;
        let id = request_id(body, fixed, cas::REQUEST_ID)?;
        body.skip(cas::BYTES);
        let stream = body.stream(fixed.u8(cas::STREAM_BYTES), cas::BYTES - cas::STREAM_BYTES.offset)?;
        let value = last_value(body, bytes, cas::BYTES - cas::VALUE_BYTES.offset + stream.len())?;
        Ok(CompareAndSet {
            id,
            key: key(fixed.u16(cas::SPACE), stream, fixed.u64(cas::TIME)),
            expected: Version(fixed.u64(cas::EXPECTED)),
            expiry: fixed.u64(cas::EXPIRY),
            value,
        })
    }

    pub(super) fn encode(&self, out: &mut impl Sink) {
        use compare_and_set as cas;
        out.put(
            &[0; cas::BYTES]
                .set(cas::SPACE, self.key.space.0.to_le_bytes())
                .set(cas::STREAM_BYTES, [stream_bytes(self.key.stream)])
                .set(cas::VALUE_BYTES, value_bytes(self.value))
                .set(cas::TIME, self.key.time.to_le_bytes())
                .set(cas::EXPIRY, self.expiry.to_le_bytes())
                .set(cas::REQUEST_ID, self.id.to_bytes())
                .set(cas::EXPECTED, self.expected.0.to_le_bytes()),
        );
        out.put(self.key.stream);
        out.put(self.value);
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        compare_and_set::BYTES + self.key.stream.len() + self.value.len()
    }
}

/// Puts and deletes of one stream: all happen at one point, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Makes a retry harmless; one for the whole batch.
    pub id: RequestId,
    /// Namespace.
    pub space: Space,
    /// The stream of all operations.
    pub stream: &'a [u8],
    count: u16,
    /// `count` operations, one after the other; checked when decoded or built.
    operations: &'a [u8],
}

/// One operation of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOperation<'a> {
    /// Time of the record, µs.
    pub time: u64,
    /// What happens to it.
    pub change: Change<'a>,
}

/// What a batch operation does to its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Writes it.
    Put {
        /// When it expires by log time, µs since the epoch; 0 = never.
        expiry: u64,
        /// 0 to 1 MiB.
        value: &'a [u8],
    },
    /// Deletes it.
    Delete,
}

impl<'a> BatchOperation<'a> {
    #[inline]
    fn decode(body: &mut Body<'a>) -> Result<BatchOperation<'a>, RequestError> {
        use batch_operation as operation;
        let fixed = body.head::<{ operation::BYTES }>()?;
        let kind = fixed.u8(operation::KIND);
        if kind != KIND_PUT && kind != KIND_DELETE {
            return Err(body.bad(Why::Kind, operation::KIND.offset));
        }
        if !fixed.is_zero(operation::RESERVED) {
            return Err(body.bad(Why::Reserved, operation::RESERVED.offset));
        }
        let bytes = checked_value_bytes(fixed.u32(operation::VALUE_BYTES))?;
        let time = fixed.u64(operation::TIME);
        if kind == KIND_DELETE {
            for field in [operation::VALUE_BYTES, operation::EXPIRY] {
                if !fixed.is_zero(field) {
                    return Err(body.bad(Why::Reserved, field.offset));
                }
            }
            body.skip(operation::BYTES);
            return Ok(BatchOperation { time, change: Change::Delete });
        }
        body.skip(operation::BYTES);
        let value = body.take(bytes)?;
        Ok(BatchOperation { time, change: Change::Put { expiry: fixed.u64(operation::EXPIRY), value } })
    }
}

impl<'a> Batch<'a> {
    pub(super) fn decode(body: &mut Body<'a>) -> Result<Batch<'a>, RequestError> {
        let fixed = body.head::<{ batch::BYTES }>()?;
        if !fixed.is_zero(batch::RESERVED) {
            return Err(body.bad(Why::Reserved, batch::RESERVED.offset));
        }
        let count = fixed.u16(batch::COUNT);
        if count == 0 {
            return Err(body.bad(Why::Count, batch::COUNT.offset));
        }
        if count as usize > OPERATION_COUNT_MAX {
            return Err(RequestError::TooLarge { limit: Limit::Operations });
        }
        if !fixed.is_zero(batch::RESERVED_2) {
            return Err(body.bad(Why::Reserved, batch::RESERVED_2.offset));
        }
        let id = request_id(body, fixed, batch::REQUEST_ID)?;
        body.skip(batch::BYTES);
        let stream = body.stream(fixed.u8(batch::STREAM_BYTES), batch::BYTES - batch::STREAM_BYTES.offset)?;
        let operations = body.rest();
        for _ in 0..count {
            BatchOperation::decode(body)?;
        }
        let operations = &operations[..operations.len() - body.rest().len()];
        Ok(Batch { id, space: Space(fixed.u16(batch::SPACE)), stream, count, operations })
    }

    pub(super) fn encode(&self, out: &mut impl Sink) {
        out.put(
            &[0; batch::BYTES]
                .set(batch::SPACE, self.space.0.to_le_bytes())
                .set(batch::STREAM_BYTES, [stream_bytes(self.stream)])
                .set(batch::COUNT, self.count.to_le_bytes())
                .set(batch::REQUEST_ID, self.id.to_bytes()),
        );
        out.put(self.stream);
        out.put(self.operations);
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        batch::BYTES + self.stream.len() + self.operations.len()
    }

    /// How many operations, 1..=4096.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Where in the body the time of operation `number` stands.
    pub fn time_at(&self, number: usize) -> u32 {
        let before = self.operations().take(number).map(|one| {
            batch_operation::BYTES
                + match one.change {
                    Change::Put { value, .. } => value.len(),
                    Change::Delete => 0,
                }
        });
        let at = batch::BYTES + self.stream.len() + before.sum::<usize>() + batch_operation::TIME.offset;
        u32::try_from(at).expect("a body is at most 4 MiB")
    }

    /// The operations in order. Where two have the same time the later one wins.
    pub fn operations(&self) -> impl Iterator<Item = BatchOperation<'a>> + use<'a> {
        let mut body = Body::new(self.operations);
        (0..self.count).map(move |_| {
            BatchOperation::decode(&mut body).expect("the operations were checked when the request was made")
        })
    }
}

/// Builds the operations of a [`Batch`]. Reuse it to keep its memory.
#[derive(Debug, Clone, Default)]
pub struct BatchBody {
    count: u16,
    operations: Vec<u8>,
}

impl BatchBody {
    /// Empty.
    pub fn new() -> BatchBody {
        BatchBody::default()
    }

    /// Forgets all operations and keeps the memory.
    pub fn clear(&mut self) {
        self.count = 0;
        self.operations.clear();
    }

    /// How many operations were pushed.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Bytes of the operations pushed.
    pub fn bytes(&self) -> usize {
        self.operations.len()
    }

    /// Adds an operation; false when 4096 are there already or the value is over 1 MiB.
    #[must_use]
    pub fn push(&mut self, operation: &BatchOperation<'_>) -> bool {
        use batch_operation as fields;
        let (kind, expiry, value) = match operation.change {
            Change::Put { expiry, value } => (KIND_PUT, expiry, value),
            Change::Delete => (KIND_DELETE, 0, &[][..]),
        };
        if self.count as usize == OPERATION_COUNT_MAX || value.len() > VALUE_BYTES_MAX {
            return false;
        }
        self.operations.put(
            &[0; fields::BYTES]
                .set(fields::KIND, [kind])
                .set(fields::VALUE_BYTES, value_bytes(value))
                .set(fields::TIME, operation.time.to_le_bytes())
                .set(fields::EXPIRY, expiry.to_le_bytes()),
        );
        self.operations.put(value);
        self.count += 1;
        true
    }

    /// The request; None when nothing was pushed.
    pub fn request<'a>(&'a self, id: RequestId, space: Space, stream: &'a [u8]) -> Option<Batch<'a>> {
        (self.count > 0).then_some(Batch {
            id,
            space,
            stream,
            count: self.count,
            operations: &self.operations,
        })
    }
}
