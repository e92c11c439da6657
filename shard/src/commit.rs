//! Group commit: the task that turns what was staged into journal records, and records into answers.
//!
//! Order, and what a crash between two steps leaves: seal the record, write it and make it durable (before: nothing
//! was acknowledged), apply its entries to the tablets (after: the same entries are replayed), answer. An answer
//! leaves only for what is durable. While a record is on its way the next batch fills: the slower the device, the
//! larger the records.

use crate::apply::{Decided, apply};
use crate::core::{Phase, Shard};
use crate::door::{tell, tell_decided};
use crate::journal::{Claim, Journal};
use crate::log::Logs;
use crate::memtable::Charge;
use crate::staging::{Batch, Request};
use ioengine::sync::{Either, race};
use ioengine::{Buf, DiskError, Instant};
use layout::journal_record::{RecordKind, RecordWriter};
use layout::log_entry::{Entry, EntryHeader, Operation};
use layout::tip::{self, TIP_BYTES};
use layout::units::{LogIndex, LogTime, TABLET_COUNT, TabletIndex};
use net::outcome::{Limit, Outcome};
use net::reply::encode_outcome;
use std::rc::Rc;
use std::time::Duration;

/// How long to wait before a record that found no space is written again.
const SPACE_RETRY: Duration = Duration::from_millis(100);

/// Index and stamp of each tablet's entry in the record on its way.
type Heads = [(LogIndex, LogTime); TABLET_COUNT];

/// Run until the core ends. `buffer` holds a record, `scratch` the operations of an entry.
pub(crate) async fn run(shard: Rc<Shard>, mut buffer: Buf, mut scratch: Vec<u8>) {
    let Some(journal) = &shard.journal else { return };
    loop {
        stage_ticks(&shard);
        let wrote = if shard.batch.borrow().is_empty() {
            if !idle(&shard).await {
                // A flush may be over. Failing history otherwise: the next memtable was full before, every write is refused
                // for it, nothing is staged any more, and nobody freezes it.
                freeze_if_due(&shard, journal);
                continue;
            }
            mark(&shard, journal, buffer).await
        } else {
            commit(&shard, journal, buffer, &mut scratch).await
        };
        match wrote {
            Ok(back) => buffer = back,
            Err(error) => return fail(&shard, &error),
        }
        freeze_if_due(&shard, journal);
        shard.settled.notify();
    }
}

/// Between two records: is the memtable, or the journal, so full that it is time to flush? Then it is frozen.
pub(crate) fn freeze_if_due(shard: &Shard, journal: &Journal) -> bool {
    let mut state = shard.state.borrow_mut();
    if !state.memtables.can_freeze() {
        return false;
    }
    let usage = state.memtables.active.usage();
    let config = shard.limits.memtable();
    let is_full =
        usage.used_bytes > config.bytes / 4 * 3 || usage.record_count > config.record_count_max / 4 * 3;
    let is_due = is_full || journal.wants_trim() || shard.keeper.flush_wanted.take();
    if is_due {
        ioengine::sometimes!("a memtable is frozen");
        if let Some(logs) = &shard.logs {
            logs.begin_install(&mut state);
        }
        state.memtables.freeze();
        state.begin_capture();
        shard.keeper.frozen_at.set(Some(journal.begin_memtable()));
        shard.keeper.froze.notify();
    }
    is_due
}

/// Nothing is staged: wait until something is, or until a mark is due (true).
pub(crate) async fn idle(shard: &Shard) -> bool {
    if shard.marked.get() {
        shard.staged.notified().await;
        return false;
    }
    if shard.phase.get() == Phase::Draining {
        return true;
    }
    let waited = race(shard.staged.notified(), shard.io.sleep(shard.limits.mark_after)).await;
    waited == Either::Second(())
}

/// Make a record of what is staged, and answers of the record.
async fn commit(
    shard: &Shard,
    journal: &Journal,
    buffer: Buf,
    scratch: &mut Vec<u8>,
) -> Result<Buf, DiskError> {
    shard.batch.swap(&shard.flying);
    let heads = heads(shard);
    if ioengine::canary("answer_before_flush") {
        settle(shard, &heads, scratch);
        shard.flying.borrow_mut().all_mut().iter_mut().for_each(|waiting| waiting.reply_to = None);
    }
    shard.flying_bytes.set(shard.flying.borrow().body_bytes());
    let written = write(shard, journal, buffer, RecordKind::Entries, |writer| {
        shard.flying.borrow().fill(writer, |tablet| heads[tablet.index()]);
    })
    .await;
    if written.is_err() && ioengine::canary("answer_on_device_error") {
        settle(shard, &heads, scratch);
        shard.flying.borrow_mut().clear();
    }
    let buffer = written?;
    settle(shard, &heads, scratch);
    shard.flying.borrow_mut().clear();
    shard.flying_bytes.set(0);
    shard.marked.set(false);
    Ok(buffer)
}

/// Say that everything so far is flushed, with the last index of each tablet: a record lost before it then shows.
pub(crate) async fn mark(shard: &Shard, journal: &Journal, buffer: Buf) -> Result<Buf, DiskError> {
    shard.marked.set(true);
    let tips = shard.tips();
    if !journal.has_room(Claim::Write, 0, tips.len() * TIP_BYTES) {
        return Ok(buffer);
    }
    write(shard, journal, buffer, RecordKind::Mark, |writer| {
        for (tablet, index) in tips {
            assert!(writer.append(&tip::encode(tablet, index)), "a mark is small");
        }
    })
    .await
}

/// Write a record until it is durable. Without space the same bytes are tried again at the same place: the record may
/// be there in part, and nothing else may follow it. Meanwhile who waits is told that the outcome is unknown.
pub(crate) async fn write(
    shard: &Shard,
    journal: &Journal,
    buffer: Buf,
    kind: RecordKind,
    fill: impl FnOnce(&mut RecordWriter<'_>),
) -> Result<Buf, DiskError> {
    let (mut result, mut buffer, pending) = journal.write(buffer, kind, fill).await;
    while let Err(DiskError::Full { .. }) = result {
        ioengine::sometimes!("a record finds no space");
        answer_batch(shard, &mut shard.flying.borrow_mut(), &Outcome::UnknownOutcome, |_| true);
        shard.stuck.set(true);
        shard.io.sleep(SPACE_RETRY).await;
        (result, buffer) = journal.write_again(buffer, &pending).await;
    }
    shard.stuck.set(false);
    result.map(|()| buffer)
}

/// Index and stamp of the next entry of each tablet with staged writes.
fn heads(shard: &Shard) -> Heads {
    let mut state = shard.state.borrow_mut();
    let (wall_us, now_us) = (shard.io.wall_us(), shard.io.now().ns / 1000);
    let mut heads = [(LogIndex(0), LogTime(0)); TABLET_COUNT];
    for tablet in shard.flying.borrow().tablets() {
        let own = state.tablet_mut(tablet);
        let stamp = own.clock(wall_us, || now_us);
        own.stamped = (stamp, now_us);
        heads[tablet.index()] = (own.applied.next(), stamp);
    }
    heads
}

/// Apply the record that became durable, and answer those who wait for it.
fn settle(shard: &Shard, heads: &Heads, scratch: &mut Vec<u8>) {
    let mut state = shard.state.borrow_mut();
    let flying = shard.flying.borrow();
    for tablet in flying.tablets() {
        let (log_index, stamp) = heads[tablet.index()];
        if state.tablet(tablet).applied >= log_index {
            continue; // only behind the canary: it was settled too early
        }
        let (operation_count, body_bytes) = flying.entry_body(tablet, scratch);
        let header = EntryHeader { tablet, log_index, stamp, operation_count, body_bytes };
        let entry = Entry { header, body: scratch, body_at: 0 };
        let mut line = flying.line(tablet);
        let mut charge = Charge::NONE;
        let applied = apply(&mut state, &entry, &mut |decided: Decided| {
            let waiting = flying.waiting(line.next().expect("an entry has the requests of its line"));
            charge = charge.plus(waiting.charge);
            if let Some(to) = waiting.reply_to {
                tell_decided(shard, &to, decided, stamp, u32::from(waiting.operation_count));
            }
        });
        applied.expect("what was staged decodes, and its room was reserved");
        state.versions.set_coherent_index(tablet, log_index);
        state.memtables.active.release(charge);
    }
}

/// Log time of tablets stands still for want of writes while records wait to expire: give them an entry.
pub(crate) fn stage_ticks(shard: &Shard) {
    let (wanted, due) = (shard.ticks_wanted.replace(0), shard.keeper.work.take_ticks_due());
    let verify = shard.logs.as_ref().map_or(0, Logs::take_verifies_wanted);
    let Some(journal) = &shard.journal else { return };
    let has = |bits: u64, tablet: TabletIndex| bits & (1 << tablet.index()) != 0;
    for tablet in TabletIndex::all().filter(|tablet| has(wanted | due | verify, *tablet)) {
        // What frees space goes on when the disk is full. Reads may ask for any number of ticks: those may not.
        let claim = if has(due, tablet) { Claim::Delete } else { Claim::Write };
        if shard.state.borrow().tablet(tablet).damage.is_some() {
            continue;
        }
        let operation = if has(verify, tablet) { Operation::Verify } else { Operation::Tick };
        let mut batch = shard.batch.borrow_mut();
        let bytes = operation.encoded_bytes();
        let Some(body_bytes) = batch.body_bytes_with(tablet, bytes, 1) else { return };
        if !journal.has_room(claim, shard.flying_bytes.get(), body_bytes) {
            continue;
        }
        ioengine::sometimes!("tick");
        let request = Request { tablet, reply_to: None, since: shard.io.now(), charge: Charge::NONE };
        batch.push(request, |add| add(operation));
    }
}

/// Stage an operation that no client sends. False: there is no room.
pub(crate) fn stage(shard: &Shard, tablet: TabletIndex, operation: Operation<'_>) -> bool {
    let Some(journal) = &shard.journal else { return false };
    if shard.state.borrow().tablet(tablet).damage.is_some() {
        return false;
    }
    let mut batch = shard.batch.borrow_mut();
    let room = batch.body_bytes_with(tablet, operation.encoded_bytes(), 1);
    let fits = room.is_some_and(|bytes| journal.has_room(Claim::Delete, shard.flying_bytes.get(), bytes));
    if fits {
        let request = Request { tablet, reply_to: None, since: shard.io.now(), charge: Charge::NONE };
        batch.push(request, |add| add(operation));
        shard.staged.notify();
    }
    fits
}

/// Whether the device has ended by a flush that was not the journal's: the superblock is written, too. Where no link comes about for
/// that, no write would come that finds it out.
pub(crate) fn mind_device(shard: &Shard) {
    let disk = shard.keeper.zone.disk();
    if disk.ended() && !shard.failed.get() && !ioengine::canary("overlook_an_ended_disk") {
        ioengine::sometimes!("a device has ended, and no record found it out");
        fail(shard, &DiskError::Ended { name: disk.name().into() });
    }
}

/// The device has failed: nobody knows what of the record on its way is there. Those behind it were never written.
pub(crate) fn fail(shard: &Shard, error: &DiskError) {
    ioengine::sometimes!("the journal's device failed");
    tracing::error!(%error, "the journal has ended: writes are refused until restart");
    shard.counters.device_ended.set(1);
    shard.failed.set(true);
    answer_batch(shard, &mut shard.flying.borrow_mut(), &Outcome::UnknownOutcome, |_| true);
    let busy = Outcome::Busy { limit: Limit::Device, hint_ms: 1000 };
    answer_batch(shard, &mut shard.batch.borrow_mut(), &busy, |_| true);
    shard.batch.borrow_mut().clear();
    shard.flying_bytes.set(0);
    shard.settled.notify();
}

fn answer_batch(shard: &Shard, batch: &mut Batch, outcome: &Outcome, which: impl Fn(Instant) -> bool) {
    for waiting in batch.all_mut() {
        if which(waiting.since)
            && let Some(to) = waiting.reply_to.take()
        {
            if *outcome == Outcome::UnknownOutcome {
                shard.counters.writes_unknown.add(1);
            }
            tell(shard, &to, |out| encode_outcome(out, LogTime(0), outcome));
        }
    }
}

/// Answer writes that have waited for too long: they may still happen.
pub(crate) fn answer_overdue(shard: &Shard, now: Instant) {
    let overdue = |since: Instant| now.since(since) > shard.limits.request_deadline;
    for batch in [&shard.flying, &shard.batch] {
        answer_batch(shard, &mut batch.borrow_mut(), &Outcome::UnknownOutcome, overdue);
    }
}
