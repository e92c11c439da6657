//! Whether what tables, the blob of the tablets' state and the manifest hold still stands on the device as it was written.
//!
//! Reads and compares; the one thing it writes is a manifest of which one copy has decayed. Must never hold up a flush or
//! a merge for longer than the manifest takes to read. Invariant: a table that is let go while it is looked at is not
//! written again before the look is over, because who looks holds it.

use super::cursor::Window;
use super::keeper::Keeper;
use super::merge::WINDOW_BYTES;
use super::names::NamedState;
use super::open::{state_bytes, state_reader};
use super::table::Table;
use super::zone::ReadError;
use crate::manifest::{self, Verdict};
use ioengine::{Buf, DiskError};
use layout::table_seal::Decompressor;
use layout::tablet_state::StateItem;
use std::rc::Rc;

/// A part of a table on its way through a pass.
pub(crate) struct TableCheck {
    table: Rc<Table>,
    /// Next block.
    block: u32,
    window: Window,
    raw: Vec<u8>,
    unpack: Decompressor,
    /// What was wrong first, and how many places are.
    pub(crate) first: Option<ReadError>,
    pub(crate) wrong_count: u64,
}

impl TableCheck {
    pub(crate) fn new(table: Rc<Table>) -> TableCheck {
        TableCheck {
            table,
            block: 0,
            window: Window::default(),
            raw: Vec::new(),
            unpack: Decompressor::new(),
            first: None,
            wrong_count: 0,
        }
    }

    /// Look at the next blocks, at most a window of them; behind the last at all else. The bytes read; `None`
    /// when all was looked at.
    pub(crate) async fn step(&mut self) -> Option<u64> {
        if self.table.is_broken() {
            // Said at the start; nothing of it can be found.
            self.note(ReadError::Broken { table: self.table.place.id });
            return None;
        }
        let (index, data_bytes) = (&self.table.parts().index, self.table.parts().footer.data_bytes);
        // What stands on cold disks is theirs to scrub.
        let first = index.handle(self.block).filter(|_| !self.table.is_sunk());
        let Some(first) = first else {
            let read = self.table.check_parts(&mut self.unpack).await;
            return match read {
                Ok(()) => None,
                Err(error) => {
                    self.note(error);
                    None
                }
            };
        };
        let want =
            WINDOW_BYTES.min(data_bytes.saturating_sub(first.offset)).max(u64::from(first.stored_bytes));
        let read = self.window.load(&self.table, first.offset, want as usize).await;
        let readable = read.map_err(|error| self.note(error)).is_ok();
        while let Some(handle) = self.table.parts().index.handle(self.block) {
            if handle.offset + u64::from(handle.stored_bytes) > first.offset + want {
                break;
            }
            self.block += 1;
            if let Some(stored) = self.window.part(handle.offset, handle.stored_bytes as usize)
                && readable
            {
                self.raw.clear();
                let opened = self.table.unpack(handle.offset, stored, &mut self.unpack, &mut self.raw);
                opened.unwrap_or_else(|error| self.note(error));
                ioengine::sync::yield_now().await;
            }
        }
        Some(want)
    }

    fn note(&mut self, error: ReadError) {
        self.wrong_count += 1;
        self.first.get_or_insert(error);
    }
}

/// Bytes of the four halves of the manifest.
pub(crate) fn manifest_bytes(keeper: &Keeper) -> u64 {
    keeper.manifest_half_bytes().unwrap_or(0) * 4
}

/// What became of a look at the manifest.
pub(crate) enum ManifestCheck {
    /// Both copies are whole.
    Whole,
    /// One was not, and it was written anew.
    Mended(String),
    /// There is none: it was lost before.
    None,
}

/// Read the manifest; write it anew when a copy has decayed. Commits wait meanwhile.
///
/// # Errors
/// The device said no while it was written or flushed.
pub(crate) async fn check_manifest(keeper: &Keeper, buffer: Buf) -> Result<ManifestCheck, DiskError> {
    if keeper.manifest_half_bytes().is_none() {
        return Ok(ManifestCheck::None);
    }
    let mut taken = keeper.take_manifest().await;
    let read = manifest::read(keeper.zone.disk(), taken.zones(), buffer).await;
    let reading = match read {
        Ok(reading) => reading,
        Err(error) => {
            keeper.give_manifest(taken);
            return Err(error);
        }
    };
    let is_whole =
        reading.verdict == Verdict::Whole && reading.single_count == 0 && reading.sequence == taken.last();
    if is_whole {
        keeper.give_manifest(taken);
        return Ok(ManifestCheck::Whole);
    }
    let what = match reading.verdict {
        Verdict::Damaged { what, at } => format!("{what}, at {at}"),
        Verdict::Whole | Verdict::Fresh => {
            format!(
                "one copy misses {} records; the last readable one is {}",
                reading.single_count, reading.sequence.0
            )
        }
    };
    let wrote = keeper.write_anew(&mut taken).await;
    if wrote.is_ok() {
        keeper.give_manifest(taken);
    }
    wrote.map(|()| ManifestCheck::Mended(what))
}

/// Read the blob of the tablets' state. The text says what is wrong with it; what it is when it was replaced meanwhile does not
/// count.
pub(crate) async fn check_state(keeper: &Keeper, state: &NamedState) -> Result<(), String> {
    let bytes = state_bytes(&keeper.zone, state).await;
    let wrong = bytes.and_then(|bytes| {
        let mut reader = state_reader(keeper.owner, state);
        let mut input = &bytes[..];
        loop {
            match reader.next(&mut input).map_err(|corrupt| corrupt.to_string())? {
                Some(StateItem::End { checksum }) if checksum == state.checksum => return Ok(()),
                Some(StateItem::End { .. }) => {
                    return Err("it is not the one that the manifest names".to_owned());
                }
                Some(_) => {}
                None => return Err("it ends early".to_owned()),
            }
        }
    });
    let is_current = keeper.state().is_some_and(|now| now.blob == state.blob);
    if is_current { wrong } else { Ok(()) }
}
