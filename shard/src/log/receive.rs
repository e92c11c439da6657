//! What peers send: checked as a whole, and taken only if there is room for all that it may lead to.
//!
//! A message that is not taken is as good as lost, which the protocol bears: so a replica without room simply does not
//! vote. Must never let bytes of a peer reach a tablet unchecked.

use super::clocks::CLOCK_BYTES;
use super::tablet::TabletLog;
use super::values::{Value, weigh};
use super::{
    AHEAD_PATIENCE, AHEAD_SLACK, CLOCK_SKEW_MAX, Logs, bulk_bytes, drive, files, give, seals, take, verify,
    wire,
};
use crate::core::Shard;
use crate::journal::Claim;
use crate::memtable::Charge;
use layout::Corrupt;
use layout::log_entry::Entry;
use layout::log_item::vote_bytes;
use layout::log_message::{Received, decode_message};
use layout::units::TabletIndex;
use paxos::{Input, LogIndex, Node, ValueId};
use std::rc::Rc;

/// A message of node `from` for a tablet of this core.
pub(crate) fn receive(shard: &Rc<Shard>, from: u32, tablet: TabletIndex, kind: u8, body: &[u8]) {
    let Some(logs) = &shard.logs else { return };
    let Some(log) = logs.tablet(tablet) else { return };
    let Some(place) = log.borrow().members.iter().position(|&member| member == from) else { return };
    let place = Node(u8::try_from(place).expect("members are few"));
    if shard.failed.get() || shard.journal.is_none() || logs.outcast.get() {
        return;
    }
    // While a copy is taken nothing else may change the tablet.
    let is_copied = logs.is_taking(tablet);
    let taken = match kind {
        wire::COPY_ASK => give::asked(shard, tablet, place, body),
        wire::COPY_PART => take::part(logs, tablet, body),
        wire::COPY_NOT => take::refused(logs, tablet, body),
        _ if wire::version_of(kind) > shard.facts.versions.newest() => {
            ioengine::fact("unspoken", u64::from(kind), u64::from(from));
            Err(Corrupt { structure: "peer message", field: "kind", at: 0 })
        }
        wire::REST_ASK => give::asked_rest(shard, tablet, place, body),
        wire::FILES_ASK => files::listed(shard, logs, tablet, place, body),
        wire::FILES => files::list(logs, body),
        wire::PIECE_ASK => files::asked(shard, logs, tablet, place, body),
        wire::PIECE => files::piece(logs, tablet, place, body),
        wire::SEAL_BUILT => seals::built(shard, logs, tablet, place, body),
        wire::TABLE_ASK => seals::asked(shard, logs, tablet, place, body),
        wire::TABLE_PART => seals::part(logs, body),
        wire::MESSAGE | wire::FETCH | wire::ENTRIES | wire::GONE if is_copied => Ok(()),
        wire::MESSAGE => message(shard, logs, tablet, place, body),
        wire::FETCH => give_entries(shard, &log.borrow(), place, body),
        wire::ENTRIES => entries(shard, logs, tablet, place, body),
        wire::DIGEST => verify::heard(shard, logs, &mut log.borrow_mut(), place, body),
        wire::GONE => {
            gone(shard, &mut log.borrow_mut(), place);
            Ok(())
        }
        _ => Err(Corrupt { structure: "peer message", field: "kind", at: 0 }),
    };
    if let Err(corrupt) = taken {
        shard.counters.peer_unexpected.add(1);
        tracing::warn!(%corrupt, from, tablet = tablet.get(), "a peer sent what cannot be understood");
    }
}

/// Why something that can be understood is not taken now.
struct NoRoom;

/// What may be written in consequence of an input beside its own entries.
pub(super) fn has_room(shard: &Shard, logs: &Logs, log: &TabletLog, bytes: usize, claim: Claim) -> bool {
    let Some(journal) = &shard.journal else { return false };
    let more = 2 * vote_bytes(0) + 2 * log.values.largest_bytes().max(bytes);
    journal.has_room(claim, shard.flying_bytes.get(), logs.queued_bytes() + more)
}

/// Keep an entry that a peer sent, unless it is here already.
fn keep(
    shard: &Shard,
    logs: &Logs,
    log: &mut TabletLog,
    id: ValueId,
    entry: &Entry<'_>,
) -> Result<Result<(), NoRoom>, Corrupt> {
    if log.values.get(id).is_some() {
        return Ok(Ok(()));
    }
    let (charge, frees) = weigh(log.tablet, entry)?;
    let claim = if frees { Claim::Delete } else { Claim::Write };
    let bytes = entry.header.entry_bytes();
    let fits = vote_bytes(bytes) <= super::commit::record_room(&shard.limits);
    if !fits || shard.stuck.get() || !has_room(shard, logs, log, bytes, claim) {
        ioengine::sometimes!("a peer's entry finds no room in the journal");
        return Ok(Err(NoRoom));
    }
    Ok(admit(shard, charge).map(|()| log.values.add(Value::new(id, entry.header, entry.body, charge))))
}

fn admit(shard: &Shard, charge: Charge) -> Result<(), NoRoom> {
    let admitted = shard.state.borrow_mut().memtables.active.admit(charge);
    if admitted.is_err() {
        ioengine::sometimes!("a peer's entry finds no room in the memtable");
        // What the memtable has is flushed now, however little it is: entries that are open hold the rest.
        if shard.state.borrow().memtables.active.usage().record_count > 0 {
            shard.keeper.flush_wanted.set(true);
            shard.staged.notify();
        }
    }
    admitted.map_err(|_| NoRoom)
}

fn message(shard: &Shard, logs: &Logs, tablet: TabletIndex, from: Node, body: &[u8]) -> Result<(), Corrupt> {
    let wrong = Corrupt { structure: "log message", field: "clock", at: 0 };
    let (clock, body) = body.split_first_chunk::<CLOCK_BYTES>().ok_or(wrong)?;
    let Received { mut message, accepted, proposed } = decode_message(body)?;
    let log = logs.tablet(tablet).expect("the caller has looked");
    {
        let mut log = log.borrow_mut();
        let wall_us = shard.io.wall_us();
        logs.clocks.heard(log.members[from.place()], u64::from_le_bytes(*clock), wall_us, shard.io.now());
        // Its maker's clock is ahead of ours: log time would run away with it. What else the message says counts: were it lost
        // as a whole, its sender would be as good as dead to us for as long as it holds the entry.
        let latest = latest_stamp(shard, tablet, wall_us);
        let mut is_ahead = |entry: &Option<(ValueId, Entry<'_>)>| {
            let is_ahead = entry.as_ref().is_some_and(|(_, entry)| entry.header.stamp.0 > latest);
            is_ahead && refuses(shard, &mut log)
        };
        let (accepted_is_ahead, proposed_is_ahead) = (is_ahead(&accepted), is_ahead(&proposed));
        message.vote_attached &= !accepted_is_ahead;
        message.proposal = message.proposal.filter(|_| !proposed_is_ahead);
        let taken = accepted.iter().filter(|_| !accepted_is_ahead);
        for (id, entry) in taken.chain(proposed.iter().filter(|_| !proposed_is_ahead)) {
            if let Err(NoRoom) = keep(shard, logs, &mut log, *id, entry)? {
                return Ok(());
            }
        }
        if message.proposal.is_some() && !has_room(shard, logs, &log, 0, Claim::Delete) {
            return Ok(());
        }
    }
    drive(shard, logs, tablet, Input::Message(from, message));
    Ok(())
}

/// An entry's stamp is ahead of what is taken: is it refused still? Who made it may be one of a majority whose clocks were set back
/// since, and have accepted it alone: then nothing else can be chosen in its place, however long that takes.
fn refuses(shard: &Shard, log: &mut TabletLog) -> bool {
    let (now, open) = (shard.io.now(), log.replica.state().open());
    let since = match log.refused {
        Some((index, since, last)) if index == open && now.since(last) < AHEAD_PATIENCE => since,
        _ => now,
    };
    log.refused = Some((open, since, now));
    let is_refused = now.since(since) < AHEAD_PATIENCE || ioengine::canary("refuse_ahead_for_ever");
    if is_refused {
        ioengine::sometimes!("an entry's stamp is too far ahead");
        shard.counters.entries_ahead.add(1);
    } else {
        ioengine::sometimes!("an entry's stamp is taken, far ahead as it is");
    }
    is_refused
}

/// The highest stamp that is taken. Where log time is ahead of the clock already, because clocks were set back, it does not run
/// away any further with what its makers give: they go on at half the speed of time from their own last stamps.
fn latest_stamp(shard: &Shard, tablet: TabletIndex, wall_us: u64) -> u64 {
    let state = shard.state.borrow();
    let own = state.tablet(tablet);
    let skew_us = CLOCK_SKEW_MAX.as_micros() as u64;
    let is_ahead = own.log_time.0 > wall_us;
    let slack_us = if is_ahead { AHEAD_SLACK.as_micros() as u64 } else { skew_us };
    shard.clock(own).0.max(wall_us).saturating_add(slack_us)
}

fn give_entries(shard: &Shard, log: &TabletLog, to: Node, body: &[u8]) -> Result<(), Corrupt> {
    let wrong = Corrupt { structure: "fetch", field: "index", at: 0 };
    let index = LogIndex(u64::from_le_bytes(body.try_into().map_err(|_| wrong)?));
    if index > log.applied.index {
        return Ok(());
    }
    match wire::entries_from(&log.tail, index, bulk_bytes(&shard.limits)) {
        Some(entries) => log.tell(shard, to, wire::ENTRIES, &[&entries]),
        None => log.tell(shard, to, wire::GONE, &[]),
    }
    Ok(())
}

/// Chosen entries that were asked for.
fn entries(shard: &Shard, logs: &Logs, tablet: TabletIndex, from: Node, body: &[u8]) -> Result<(), Corrupt> {
    let cell = logs.tablet(tablet).expect("the caller has looked");
    let before = cell.borrow().applied.index;
    for taken in wire::entries(body) {
        let (chosen, entry) = taken?;
        {
            let mut log = cell.borrow_mut();
            if chosen.index <= log.applied.index {
                continue;
            }
            if chosen.index != log.applied.index.next() {
                return Ok(());
            }
            // Without room the rest is asked for again later.
            if let Err(NoRoom) = keep(shard, logs, &mut log, chosen.value, &entry)? {
                return Ok(());
            }
        }
        shard.counters.entries_fetched.add(1);
        drive(shard, logs, tablet, Input::Fetched(chosen));
    }
    let mut log = cell.borrow_mut();
    // Nothing new: the same question would get the same answer. The clock asks somebody else.
    if log.applied.index == before {
        return Ok(());
    }
    let now = shard.io.now();
    let more = log.fetch.as_mut().map(|fetch| {
        fetch.since = now;
        fetch.from = from;
    });
    if more.is_some() {
        log.ask_entries(shard, from);
    }
    Ok(())
}

/// The entries are gone at one peer. If none has them, only a copy helps.
fn gone(shard: &Shard, log: &mut TabletLog, from: Node) {
    log.gone_count += 1;
    if log.gone_count <= log.members.len() {
        if log.fetch.as_ref().is_some_and(|fetch| fetch.from == from) {
            log.ask_another(shard);
        }
    } else if log.fetch.is_some() && !log.needs_copy {
        ioengine::sometimes!("a replica needs a copy of its tablet");
        tracing::warn!(
            tablet = log.tablet.get(),
            "the entries that this replica lacks are gone at its peers"
        );
        shard.counters.copies_needed.add(1);
        log.needs_copy = true;
    }
}
