//! Group commit of a replica: the task that takes votes and entries of all tablets to the journal, one record at a time.
//!
//! Order, and what a crash between two steps leaves: queue to record, record durable (before: nothing of it was shown to
//! anybody), told to the replicas, which then show it. While a record is on its way the next one fills.

use super::queue::Queue;
use super::{Logs, drive, message_entry_bytes, propose};
use crate::commit::{self, fail, freeze_if_due, idle, mark, stage_ticks};
use crate::core::Shard;
use crate::journal::{Claim, Journal};
use crate::limits::Limits;
use ioengine::sync::race;
use ioengine::{Buf, DiskError};
use layout::journal_record::{RecordKind, body_bytes_max};
use layout::log_entry::ENTRY_HEADER_BYTES;
use layout::log_item::vote_bytes;
use layout::units;
use paxos::Input;
use std::rc::Rc;
use std::time::Duration;

/// How long to wait for room in the journal before it is looked for again.
const ROOM_RETRY: Duration = Duration::from_millis(10);

/// Bytes of items that one record holds.
pub(super) fn record_room(limits: &Limits) -> usize {
    body_bytes_max(limits.record_bytes_max as usize)
}

/// Bytes of operations of an entry whose vote a record holds, and which a frame can carry twice.
pub(crate) fn entry_bytes_max(limits: &Limits) -> usize {
    let room = record_room(limits).saturating_sub(vote_bytes(ENTRY_HEADER_BYTES));
    room.min(message_entry_bytes(limits))
}

/// Run until the core ends. `buffer` holds a record, `scratch` a record's items.
pub(crate) async fn run(shard: Rc<Shard>, mut buffer: Buf, mut scratch: Vec<u8>) {
    let (Some(journal), Some(logs)) = (&shard.journal, &shard.logs) else { return };
    loop {
        stage_ticks(&shard);
        propose::staged(&shard, logs, &mut scratch);
        tell_applied(logs);
        let wrote = if logs.queue.borrow().is_empty() {
            if !idle(&shard).await {
                freeze(&shard, logs, journal);
                continue;
            }
            mark(&shard, journal, buffer).await
        } else {
            write(&shard, logs, journal, buffer, &mut scratch).await
        };
        match wrote {
            Ok(back) => buffer = back,
            Err(error) => return fail(&shard, &error),
        }
        freeze(&shard, logs, journal);
        shard.settled.notify();
    }
}

/// Write what a start has queued, before anything else is said.
///
/// # Errors
/// [`DiskError`].
pub(crate) async fn write_queued(shard: &Shard, mut buffer: Buf) -> Result<Buf, DiskError> {
    let (Some(journal), Some(logs)) = (&shard.journal, &shard.logs) else { return Ok(buffer) };
    let mut scratch = Vec::new();
    while !logs.queue.borrow().is_empty() && journal.has_room(Claim::Own, 0, record_room(&shard.limits)) {
        buffer = write(shard, logs, journal, buffer, &mut scratch).await?;
    }
    Ok(buffer)
}

/// Write the next items, and tell their replicas.
async fn write(
    shard: &Shard,
    logs: &Logs,
    journal: &Journal,
    buffer: Buf,
    scratch: &mut Vec<u8>,
) -> Result<Buf, DiskError> {
    let bytes = logs.queue.borrow().next_bytes(record_room(&shard.limits));
    if !journal.has_room(Claim::Own, 0, bytes) {
        ioengine::sometimes!("votes wait for room in the journal");
        race(shard.settled.notified(), shard.io.sleep(ROOM_RETRY)).await;
        return Ok(buffer);
    }
    scratch.clear();
    {
        let mut queue = logs.queue.borrow_mut();
        scratch.extend_from_slice(queue.head(bytes));
        queue.take(bytes, &mut logs.writing.borrow_mut());
    }
    shard.flying_bytes.set(bytes);
    shard.marked.set(false);
    if ioengine::canary("vote_before_flush") {
        tell(shard, logs);
    }
    let buffer = commit::write(shard, journal, buffer, RecordKind::Items, |writer| {
        assert!(writer.append(scratch), "an item that does not fit a record is not queued");
    })
    .await?;
    shard.flying_bytes.set(0);
    tell(shard, logs);
    Ok(buffer)
}

/// The items are durable.
fn tell(shard: &Shard, logs: &Logs) {
    let written = std::mem::take(&mut *logs.writing.borrow_mut());
    for item in &written {
        {
            let mut log = logs.tablet(item.tablet).expect("only own tablets queue items").borrow_mut();
            log.told = log.told.max(item.told);
            if let Some(index) = item.entry {
                log.durable = log.durable.max(index);
                let coherent = units::LogIndex(log.durable.min(log.applied.index).0);
                shard.state.borrow_mut().versions.set_coherent_index(item.tablet, coherent);
            }
        }
        if let Some(token) = item.token {
            drive(shard, logs, item.tablet, Input::Flushed(token));
        }
        if item.restated {
            logs.restating.set(logs.restating.get() - 1);
            logs.restated.notify();
        }
    }
    logs.told.notify();
    let mut written = written;
    written.clear();
    *logs.writing.borrow_mut() = written;
}

/// Between two records, with nothing waiting for the next: say how far the logs are applied that somebody waits for.
fn tell_applied(logs: &Logs) {
    let mut queue = logs.queue.borrow_mut();
    if logs.tells_wanted.get() == 0 || !queue.is_empty() {
        return;
    }
    let wanted = logs.tells_wanted.replace(0);
    for tablet in logs.own().filter(|tablet| wanted & (1 << tablet.index()) != 0) {
        let log = logs.tablet(tablet).expect("an own tablet").borrow();
        log.say_applied(&mut queue);
    }
}

/// Between two records: freeze if it is time, and say all votes again behind the freeze.
fn freeze(shard: &Shard, logs: &Logs, journal: &Journal) {
    if logs.restating.get() > 0 || !freeze_if_due(shard, journal) {
        return;
    }
    let mut first = Queue::default();
    for tablet in logs.own() {
        let log = logs.tablet(tablet).expect("an own tablet").borrow();
        log.restate(&mut first, logs.copied(tablet));
    }
    logs.restating.set(first.mark_restated());
    logs.queue.borrow_mut().put_first(first);
}
