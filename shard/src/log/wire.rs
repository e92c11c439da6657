//! What replicas tell each other beside the message of the consensus: asking for chosen entries, and giving them.
//!
//! Owns their bytes. Invariant: what decodes is whole; its operations are checked where they are used.

use super::tail::Tail;
use layout::Corrupt;
use layout::log_entry::Entry;
use layout::log_item::read_entry;
use layout::vote::{VALUE_ID_BYTES, decode_value_id, encode_value_id};
use paxos::{Chosen, LogIndex};

/// A message of the consensus.
pub(crate) const MESSAGE: u8 = 1;
/// "Give me entries from this index on": 8 bytes.
pub(crate) const FETCH: u8 = 2;
/// Chosen entries: name 16, bytes 4, entry; back to back.
pub(crate) const ENTRIES: u8 = 3;
/// The entries asked for are not held any more.
pub(crate) const GONE: u8 = 4;
/// "Give me this part of a copy of the tablet": session 8, number 4. The one behind the last part: "I have all of it".
pub(crate) const COPY_ASK: u8 = 5;
/// A part of a copy: session 8, number 4, whether it is the last 1, bytes.
pub(crate) const COPY_PART: u8 = 6;
/// No copy can be had here: session 8.
pub(crate) const COPY_NOT: u8 = 7;
/// "At this index my tablet is this": index 8, number 16.
pub(crate) const DIGEST: u8 = 8;

/// Which tables were built for a seal: generation 4, a list as in its end.
pub(crate) const SEAL_BUILT: u8 = 9;
/// "Give me this part of a sealed table": checksum 16, offset 8.
pub(crate) const TABLE_ASK: u8 = 10;
/// A part of it: the same, bytes of the table 8, bytes. Without these it is not here.
pub(crate) const TABLE_PART: u8 = 11;

/// "Which sealed tables do you have of this tablet?": session 8. The answer without any is [`COPY_NOT`].
pub(crate) const FILES_ASK: u8 = 12;
/// Those that are in place: session 8, then of each begin and end of its window 8 + 8, generation 4, bytes 8, checksum 16.
pub(crate) const FILES: u8 = 13;
/// "Give me this piece of a sealed table": checksum 16, offset 8, bytes 4.
pub(crate) const PIECE_ASK: u8 = 14;
/// A piece: checksum 16, offset 8, bytes. Without these the table is not here.
pub(crate) const PIECE: u8 = 15;
/// "Give me a copy of the tablet without what these sealed tables have": session 8, checksums 16 each. The parts behind the first
/// are asked for as of any copy.
pub(crate) const REST_ASK: u8 = 16;

/// The version of the messages between nodes that brought this kind.
pub(crate) fn version_of(kind: u8) -> u8 {
    if kind >= FILES_ASK { FILES_VERSION } else { 1 }
}

/// The version that has sealed tables as files, and copies without them.
pub(crate) const FILES_VERSION: u8 = 2;

const HEAD_BYTES: usize = VALUE_ID_BYTES + 4;

/// The answer to a fetch from `index` on, of about `bytes_max`, and at least one entry; `None` if they are gone.
pub(crate) fn entries_from(tail: &Tail, index: LogIndex, bytes_max: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for (chosen, value) in tail.from(index)? {
        if !out.is_empty() && out.len() + value.bytes() > bytes_max {
            break;
        }
        let bytes = u32::try_from(value.bytes()).expect("an entry is bounded");
        out.extend_from_slice(&encode_value_id(chosen.value));
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&value.header(chosen.index).encode());
        out.extend_from_slice(&value.body);
    }
    Some(out)
}

/// The entries of an answer, in order.
pub(crate) fn entries(bytes: &[u8]) -> impl Iterator<Item = Result<(Chosen, Entry<'_>), Corrupt>> {
    let wrong = |field| Corrupt { structure: "fetched entries", field, at: 0 };
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut take = || {
            let (head, tail) = rest.split_first_chunk::<HEAD_BYTES>().ok_or(wrong("head"))?;
            let (name, bytes) = head.split_first_chunk::<VALUE_ID_BYTES>().ok_or(wrong("head"))?;
            let value = decode_value_id(name).ok_or(wrong("value"))?;
            let bytes = bytes.iter().rev().fold(0usize, |sum, &byte| sum << 8 | usize::from(byte));
            let (entry, tail) = tail.split_at_checked(bytes).ok_or(wrong("bytes"))?;
            let entry = read_entry(entry, 0)?;
            rest = tail;
            Ok((Chosen { index: LogIndex(entry.header.log_index.0), value }, entry))
        };
        let taken = take();
        if taken.is_err() {
            rest = &[];
        }
        Some(taken)
    })
}
