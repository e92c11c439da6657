//! A journal of one page of code, right or with a planted bug: the proof that the harness finds what it looks for.
//! Owns nothing of the system; a harness that never fails is no evidence.
//!
//! ```text
//! record N at N * RECORD_BYTES:  number u64 | CRC-32 of the rest u32 | the number repeated to the end
//! ```
//! Each record is written, flushed, then acknowledged; recovery reads records from the front until one is not whole.

use std::os::unix::fs::FileExt;

use super::campaign::CrashState;
use super::log::Entry;

/// Bytes of a record: two pages, sixteen sectors.
pub const RECORD_BYTES: usize = 8192;

/// What is wrong with the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Nothing.
    None,
    /// The answer leaves before the flush: a power cut between them loses what was promised.
    AcknowledgeBeforeFlush,
    /// Recovery believes a record by its number alone: a torn one comes back with holes.
    TrustTornRecord,
}

/// The writer: hands each step (write, flush, mark with the record's number) to whoever carries it out.
#[derive(Debug)]
pub struct TinyJournal {
    bug: Bug,
    next: u64,
}

impl TinyJournal {
    /// A journal that begins at record 1.
    pub fn new(bug: Bug) -> TinyJournal {
        TinyJournal { bug, next: 1 }
    }

    /// Writes one record, flushes, acknowledges, in the order of the bug. Errors: those of `step`.
    pub fn append<E>(&mut self, step: &mut impl FnMut(Entry) -> Result<(), E>) -> Result<(), E> {
        let number = self.next;
        self.next += 1;
        step(Entry::Write { at: (number - 1) * RECORD_BYTES as u64, data: record(number) })?;
        if self.bug == Bug::AcknowledgeBeforeFlush {
            step(Entry::Mark(number))?;
            step(Entry::Flush)
        } else {
            step(Entry::Flush)?;
            step(Entry::Mark(number))
        }
    }
}

fn record(number: u64) -> Vec<u8> {
    let body: Vec<u8> = (12..RECORD_BYTES).map(|at| number.to_le_bytes()[at % 8] ^ 0x5a).collect();
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(crc32fast::hash(&body).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Recovers the journal of a crash state and asks whether each acknowledged record is there, whole. `Err` says which
/// is not.
#[expect(clippy::disallowed_methods, reason = "the reader of a test device, outside the system under test")]
pub fn check(state: &CrashState, bug: Bug) -> Result<(), String> {
    let file = std::fs::File::open(state.path).map_err(|e| e.to_string())?;
    let device_bytes = file.metadata().map_err(|e| e.to_string())?.len();
    let mut found = 0;
    let mut bytes = vec![0; RECORD_BYTES];
    while (found + 1) * RECORD_BYTES as u64 <= device_bytes {
        file.read_exact_at(&mut bytes, found * RECORD_BYTES as u64).map_err(|e| e.to_string())?;
        let whole = bytes[..8] == (found + 1).to_le_bytes()
            && (bug == Bug::TrustTornRecord || bytes[8..12] == crc32fast::hash(&bytes[12..]).to_le_bytes());
        if !whole {
            break;
        }
        found += 1;
        if bytes != record(found) {
            return Err(format!("record {found} is returned with wrong bytes"));
        }
    }
    match state.marks.iter().max() {
        Some(acknowledged) if *acknowledged > found => {
            Err(format!("record {acknowledged} was acknowledged, recovery found {found}"))
        }
        _ => Ok(()),
    }
}
