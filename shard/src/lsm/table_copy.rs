//! Taking a sealed table from a peer: its bytes as they are, in parts.
//!
//! Must never be believed before the checksum of all of its bytes is the one that the log names. Nothing names it before the
//! edit that puts it in place; given up, its extents are free again.

use super::build::{Built, Sink, WRITE_BYTES};
use super::merge::MergeError;
use super::publish::{Made, Written};
use super::room::Purpose;
use super::window::{Spread, Window};
use crate::core::Shard;
use layout::table::{ContentChecksum, TableSummary};
use layout::table_footer::{FOOTER_BYTES, Footer};
use layout::table_seal::Decompressor;
use layout::tablet_window::TabletWindow;
use layout::units::TabletIndex;
use std::rc::Rc;

/// Take the table of a window that is sealed; `None` if no peer gives it.
///
/// # Errors
/// [`MergeError`]: there is no room for it, or the device says no.
pub(super) async fn take_table(
    shard: &Shard,
    tablet: TabletIndex,
    window: &TabletWindow,
) -> Result<Option<Made>, MergeError> {
    let (Some(logs), Some(checksum)) = (&shard.logs, window.checksum) else { return Ok(None) };
    ioengine::sometimes!("a replica copies a sealed table");
    let (mut offset, mut pending, mut content) = (0u64, Vec::new(), ContentChecksum::new());
    let mut last = Vec::new();
    let mut sink: Option<(Sink, u64)> = None;
    let mut turn = usize::try_from(shard.io.random() % 7).expect("small");
    loop {
        let Some(part) = logs.ask_table(shard, tablet, (checksum, offset), &mut turn).await else {
            return Ok(None);
        };
        let (sink, all) = sink.get_or_insert_with(|| {
            let sink = Sink::new(Rc::clone(&shard.keeper.zone), Purpose::Merge, part.table_bytes);
            (sink, part.table_bytes)
        });
        if *all != part.table_bytes {
            return Ok(None);
        }
        content.add(&part.bytes);
        pending.extend_from_slice(&part.bytes);
        last.extend_from_slice(&part.bytes);
        last.drain(..last.len().saturating_sub(FOOTER_BYTES));
        offset += part.bytes.len() as u64;
        let is_last = offset == *all;
        while pending.len() >= WRITE_BYTES || (is_last && !pending.is_empty()) {
            let taken = sink.write(&pending, is_last).await?;
            pending.drain(..taken);
        }
        if is_last {
            break;
        }
    }
    let Some((sink, bytes)) = sink else { return Ok(None) };
    if content.finish() != checksum {
        ioengine::sometimes!("a sealed table of a peer is not the one asked for");
        return Ok(None);
    }
    let keeper = &shard.keeper;
    let own = Window { from: window.from, to: window.to, generation: window.generation };
    let identity = keeper.owner.sealed(tablet, own);
    let footer = last.first_chunk().map(|footer| Footer::decode(&identity, bytes, footer));
    let Some(Ok(footer)) = footer else {
        tracing::error!(tablet = tablet.get(), "the log names a table that is none");
        return Ok(None);
    };
    let summary = TableSummary { footer, bytes, checksum };
    let built = Built { summary, extents: sink.finish(), spread: Spread::new(0) };
    let written = Written { id: keeper.next_table(), tablet, level: 0, identity, built };
    let made = written.open(&mut Decompressor::new()).await?;
    Ok(Some(made))
}
