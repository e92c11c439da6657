//! Taking a sealed table from peers: its bytes as they are, in parts of one peer, or as a file of many.
//!
//! Must never be believed before the checksum of all of its bytes is the one that the log names. Nothing names it before the
//! edit that puts it in place; given up, its extents are free again.

use super::agree::tell_table;
use super::build::{BuildError, Built, Sink, WRITE_BYTES};
use super::merge::MergeError;
use super::publish::{Made, Written};
use super::room::Purpose;
use super::table::Table;
use super::window::{Spread, Window};
use super::zone::ReadError;
use crate::core::Shard;
use crate::log::{File, Logs};
use layout::table::{ContentChecksum, TableSummary};
use layout::table_footer::{FOOTER_BYTES, Footer};
use layout::table_seal::Decompressor;
use layout::units::TabletIndex;
use paxos::Node;
use std::rc::Rc;

/// Take a table of a window, its sealed or its sunk one, by the checksum that the log names; `None` if no peer gives it.
///
/// # Errors
/// [`MergeError`]: there is no room for it, or the device says no.
pub(super) async fn take_window(
    shard: &Shard,
    tablet: TabletIndex,
    own: Window,
    checksum: u128,
) -> Result<Option<Made>, MergeError> {
    let Some(logs) = &shard.logs else { return Ok(None) };
    ioengine::sometimes!("a replica copies a sealed table");
    let mut coming: Option<(Coming, u64)> = None;
    let mut offset = 0;
    let mut turn = usize::try_from(shard.io.random() % 7).expect("small");
    loop {
        let Some(part) = logs.ask_table(shard, tablet, (checksum, offset), &mut turn).await else {
            return Ok(None);
        };
        let (coming, all) = coming.get_or_insert_with(|| {
            (Coming::new(shard, tablet, own, Purpose::Merge, part.table_bytes), part.table_bytes)
        });
        if *all != part.table_bytes {
            return Ok(None);
        }
        offset += part.bytes.len() as u64;
        coming.add(&part.bytes, offset == *all).await?;
        if offset == *all {
            break;
        }
    }
    let Some((coming, _)) = coming else { return Ok(None) };
    Ok(coming.finish(shard, checksum).await?)
}

/// Take a sealed table as a file, from all peers that have it; `None` if none gives it.
///
/// # Errors
/// [`BuildError`]: there is no room for it, or the device says no.
pub(crate) async fn take_file(
    shard: &Shard,
    logs: &Logs,
    tablet: TabletIndex,
    file: &File,
) -> Result<Option<Made>, BuildError> {
    let mut alone = logs.who_gives_files(shard, tablet).into_iter();
    let mut only = None;
    loop {
        match fetch(shard, logs, tablet, file, only).await? {
            Fetched::Whole(made) => return Ok(Some(made)),
            Fetched::Wrong => ioengine::sometimes!("a file of several peers is not the one asked for"),
            Fetched::Nothing if only.is_none() => return Ok(None),
            Fetched::Nothing => {}
        }
        // One of them has given what is not of the table, and nobody knows which: each alone.
        only = alone.next();
        if only.is_none() {
            return Ok(None);
        }
    }
}

/// What came of a file.
enum Fetched {
    Whole(Made),
    /// Another table, or a damaged one.
    Wrong,
    Nothing,
}

async fn fetch(
    shard: &Shard,
    logs: &Logs,
    tablet: TabletIndex,
    file: &File,
    only: Option<Node>,
) -> Result<Fetched, BuildError> {
    let own = Window { from: file.from, to: file.to, generation: file.generation };
    let mut coming = Coming::new(shard, tablet, own, Purpose::Flush, file.bytes);
    let mut fetch = logs.fetch_file(shard, tablet, *file, only);
    let mut left = file.bytes;
    while left > 0 {
        let Some(piece) = fetch.next().await else { return Ok(Fetched::Nothing) };
        left -= piece.bytes.len() as u64;
        coming.add(&piece.bytes, left == 0).await?;
    }
    drop(fetch);
    Ok(coming.finish(shard, file.checksum).await?.map_or(Fetched::Wrong, Fetched::Whole))
}

/// Do the bytes of a table that is here still have the checksum that they were written with?
///
/// # Errors
/// They cannot be read.
pub(crate) async fn is_whole(table: &Table) -> Result<bool, ReadError> {
    if ioengine::canary("keep_what_may_be_rotten") {
        return Ok(true);
    }
    let (mut content, mut bytes, mut at) = (ContentChecksum::new(), Vec::new(), 0);
    while at < table.place.bytes {
        let count = (table.place.bytes - at).min(WRITE_BYTES as u64);
        bytes.clear();
        table.read(at, usize::try_from(count).expect("one write's"), &mut bytes).await?;
        content.add(&bytes);
        at += count;
        ioengine::sync::yield_now().await;
    }
    Ok(content.finish() == table.place.checksum)
}

/// A sealed table whose bytes are coming, in order.
struct Coming {
    tablet: TabletIndex,
    window: Window,
    sink: Sink,
    bytes: u64,
    content: ContentChecksum,
    /// What makes no whole write yet.
    pending: Vec<u8>,
    /// The last bytes, for the footer.
    last: Vec<u8>,
}

impl Coming {
    fn new(shard: &Shard, tablet: TabletIndex, window: Window, purpose: Purpose, bytes: u64) -> Coming {
        let sink = Sink::new(Rc::clone(&shard.keeper.zone), purpose, bytes);
        let content = ContentChecksum::new();
        Coming { tablet, window, sink, bytes, content, pending: Vec::new(), last: Vec::new() }
    }

    async fn add(&mut self, bytes: &[u8], is_last: bool) -> Result<(), BuildError> {
        self.content.add(bytes);
        self.last.extend_from_slice(&bytes[bytes.len().saturating_sub(FOOTER_BYTES)..]);
        self.last.drain(..self.last.len().saturating_sub(FOOTER_BYTES));
        let mut rest = bytes;
        // Pieces are mostly whole writes: those are not copied once more.
        while self.pending.is_empty() && (rest.len() >= WRITE_BYTES || (is_last && !rest.is_empty())) {
            let taken = self.sink.write(rest, is_last).await?;
            rest = &rest[taken..];
        }
        self.pending.extend_from_slice(rest);
        while self.pending.len() >= WRITE_BYTES || (is_last && !self.pending.is_empty()) {
            let taken = self.sink.write(&self.pending, is_last).await?;
            self.pending.drain(..taken);
        }
        Ok(())
    }

    /// All bytes are here: the table, if it is the one with this checksum.
    async fn finish(self, shard: &Shard, checksum: u128) -> Result<Option<Made>, BuildError> {
        let Coming { tablet, window, sink, bytes, content, last, .. } = self;
        let content = content.finish();
        if content != checksum && !ioengine::canary("take_any_table") {
            ioengine::sometimes!("a sealed table of a peer is not the one asked for");
            return Ok(None);
        }
        // What it is says its footer, to who asks as the right one.
        let owner = &shard.keeper.owner;
        let found = last.first_chunk().and_then(|footer| {
            let identities = [owner.sealed(tablet, window), owner.sunk(tablet, window)];
            let opened =
                |identity| Footer::decode(&identity, bytes, footer).ok().map(|read| (identity, read));
            identities.into_iter().find_map(opened)
        });
        let Some((identity, footer)) = found else {
            tracing::error!(tablet = tablet.get(), "the log names a table that is none");
            return Ok(None);
        };
        if !footer.is_sunk {
            tell_table(tablet, window, content);
        }
        let summary = TableSummary { footer, bytes, checksum };
        let built = Built { summary, extents: sink.finish(), spread: Spread::new(0) };
        let written = Written { id: shard.keeper.next_table(), tablet, level: 0, identity, built };
        let made = written.open(&mut Decompressor::new()).await?;
        Ok(Some(made))
    }
}
