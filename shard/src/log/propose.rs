//! From what is staged to a proposal: all that waits for a tablet becomes one entry as soon as its log has no write of this
//! replica under way.

use super::tablet::{Asker, Own};
use super::values::Value;
use super::{Logs, drive};
use crate::core::Shard;
use crate::door::tell;
use crate::memtable::Charge;
use layout::units::{LogTime, TabletIndex};
use net::outcome::Outcome;
use net::reply::encode_outcome;
use paxos::{Incarnation, Input, ValueId};

/// Propose what waits.
pub(super) fn staged(shard: &Shard, logs: &Logs, scratch: &mut Vec<u8>) {
    let is_free = |tablet: TabletIndex| {
        logs.tablet(tablet).is_some_and(|log| {
            let log = log.borrow();
            log.own.is_none() && !log.replica.has_write()
        })
    };
    let ready = shard.batch.borrow().tablets().filter(|&tablet| is_free(tablet));
    let ready = ready.fold(0u64, |bits, tablet| bits | 1 << tablet.index());
    if ready == 0 {
        return;
    }
    shard.batch.swap(&shard.flying);
    shard.batch.borrow_mut().carry_over(&shard.flying.borrow(), !ready);
    for tablet in TabletIndex::all().filter(|tablet| ready & (1 << tablet.index()) != 0) {
        let log = logs.tablet(tablet).expect("only own tablets are ready");
        let is_on_time = {
            let (own, wall_us) = (shard.facts.node, shard.io.wall_us());
            logs.clocks.agree(&log.borrow().members, own, wall_us, shard.io.now())
        };
        if logs.is_voter(tablet) && is_on_time {
            let input = make(shard, logs, tablet, scratch);
            drive(shard, logs, tablet, input);
        } else {
            refuse(shard, tablet);
        }
    }
    shard.flying.borrow_mut().clear();
}

/// Make an entry of what waits for a tablet.
fn make(shard: &Shard, logs: &Logs, tablet: TabletIndex, scratch: &mut Vec<u8>) -> Input {
    let mut log = logs.tablet(tablet).expect("only own tablets are ready").borrow_mut();
    let flying = shard.flying.borrow();
    let stamp = {
        let mut state = shard.state.borrow_mut();
        let (wall_us, now_us) = (shard.io.wall_us(), shard.io.now().ns / 1000);
        let own = state.tablet_mut(tablet);
        let stamp = own.clock(wall_us, || now_us);
        own.stamped = (stamp, now_us);
        stamp
    };
    let (operation_count, body_bytes) = flying.entry_body(tablet, scratch);
    let (mut charge, mut since) = (Charge::NONE, shard.io.now());
    let mut askers = Vec::new();
    for waiting in flying.line(tablet).map(|number| flying.waiting(number)) {
        charge = charge.plus(waiting.charge);
        since = since.min(waiting.since);
        askers.push(Asker { reply_to: waiting.reply_to, operation_count: waiting.operation_count });
    }
    log.sequence += 1;
    let value = ValueId {
        node: log.replica.node(),
        incarnation: Incarnation(u64::from(shard.facts.incarnation.0)),
        sequence: log.sequence,
    };
    let header = log.own_header(stamp, operation_count, body_bytes);
    log.values.add(Value::new(value, header, scratch, charge));
    log.own = Some(Own { value, askers, since });
    Input::Propose(value)
}

/// The replica votes no more since these were staged: another one may take them.
fn refuse(shard: &Shard, tablet: TabletIndex) {
    let flying = shard.flying.borrow();
    for waiting in flying.line(tablet).map(|number| flying.waiting(number)) {
        shard.state.borrow_mut().memtables.active.release(waiting.charge);
        if let Some(to) = waiting.reply_to {
            tell(shard, &to, |out| encode_outcome(out, LogTime(0), &Outcome::NotCurrent));
        }
    }
}
