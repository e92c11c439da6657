//! Writing the replies of a node with cold disks into the caller's bytes, which has room for what `*_bytes` say.

use super::tables::{freed, index, item, listed, place, read, reserved, seal};
use super::{COLD_LIST_COUNT_MAX, COLD_READ_BYTES_MAX, ColdIndex, ColdKept, ColdPlace, ITEM_BYTES};
use crate::field::{Sink, SliceSink, Write};
use crate::reply::{encode_ok_head, reply_bytes_payload};
use layout::units::LogTime;

/// Bytes of a reply to ColdReserve.
pub const RESERVED_REPLY_BYTES: usize = reply_bytes_payload(reserved::BYTES + place::BYTES);
/// Bytes of a reply to ColdSeal.
pub const SEALED_REPLY_BYTES: usize = reply_bytes_payload(seal::BYTES);
/// Bytes of a reply to ColdFree.
pub const FREED_REPLY_BYTES: usize = reply_bytes_payload(freed::BYTES);

/// Bytes of a reply to ColdList with so many places.
#[must_use]
pub const fn listed_reply_bytes(count: usize) -> usize {
    reply_bytes_payload(listed::BYTES + count * ITEM_BYTES)
}

/// Bytes of a reply to ColdIndex with an index of so many.
#[must_use]
pub const fn index_reply_bytes(index_bytes: usize) -> usize {
    reply_bytes_payload(index::BYTES + index_bytes)
}

/// Bytes of a reply to ColdRead with blocks of so many.
#[must_use]
pub const fn read_reply_bytes(block_bytes: usize) -> usize {
    reply_bytes_payload(read::BYTES + block_bytes)
}

fn begun(out: &mut [u8]) -> SliceSink<'_> {
    let mut out = SliceSink::new(out);
    encode_ok_head(&mut out, LogTime(0));
    out
}

/// The reply to ColdReserve. Returns its bytes, as the others do; they panic when `out` is too short for them.
pub fn encode_reserved(out: &mut [u8], kept: ColdKept, of: &ColdPlace) -> usize {
    let mut out = begun(out);
    out.put(&[0; reserved::BYTES].set(reserved::STATE, [kept as u8]));
    out.put(&of.bytes());
    out.used()
}

/// The reply to ColdWrite.
pub fn encode_written(out: &mut [u8]) -> usize {
    begun(out).used()
}

/// The reply to ColdSeal.
pub fn encode_sealed(out: &mut [u8], checksum: u128) -> usize {
    let mut out = begun(out);
    out.put(&checksum.to_le_bytes());
    out.used()
}

/// The reply to ColdFree.
pub fn encode_freed(out: &mut [u8], count: u32) -> usize {
    let mut out = begun(out);
    out.put(&[0; freed::BYTES].set(freed::COUNT, count.to_le_bytes()));
    out.used()
}

/// The reply to ColdList: at most [`COLD_LIST_COUNT_MAX`] places.
pub fn encode_listed(out: &mut [u8], places: &[(ColdKept, ColdPlace)], more: Option<(u32, u32)>) -> usize {
    assert!(places.len() <= COLD_LIST_COUNT_MAX as usize, "a page is bounded");
    let mut out = begun(out);
    let (file, offset) = more.unwrap_or((0, 0));
    out.put(
        &[0; listed::BYTES]
            .set(listed::COUNT, (places.len() as u32).to_le_bytes())
            .set(listed::MORE, [u8::from(more.is_some())])
            .set(listed::FILE, file.to_le_bytes())
            .set(listed::OFFSET, offset.to_le_bytes()),
    );
    for (kept, one) in places {
        out.put(&[0; item::BYTES].set(item::STATE, [*kept as u8]));
        out.put(&one.bytes());
    }
    out.used()
}

/// The reply to ColdIndex.
pub fn encode_index(out: &mut [u8], of: &ColdIndex<'_>) -> usize {
    let mut out = begun(out);
    out.put(
        &[0; index::BYTES]
            .set(index::RECORD_COUNT, of.record_count.to_le_bytes())
            .set(index::DATA_BYTES, of.data_bytes.to_le_bytes())
            .set(index::INDEX_BYTES, (of.index.len() as u32).to_le_bytes())
            .set(index::NUMBER, of.number.to_le_bytes())
            .set(index::DIGEST, of.digest.to_le_bytes()),
    );
    out.put(of.index);
    out.used()
}

/// The reply to ColdRead: blocks as they are stored, at most [`COLD_READ_BYTES_MAX`] bytes of them.
pub fn encode_read(out: &mut [u8], blocks: &[u8]) -> usize {
    assert!((1..=COLD_READ_BYTES_MAX as usize).contains(&blocks.len()), "a request names as many");
    let mut out = begun(out);
    out.put(&[0; read::BYTES].set(read::BLOCK_BYTES, (blocks.len() as u32).to_le_bytes()));
    out.put(blocks);
    out.used()
}
