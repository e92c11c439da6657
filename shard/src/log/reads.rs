//! Strong reads: they wait until a majority has said what the tip is, and until that is applied here.
//!
//! A read waits for the *next* check of each tablet that it reads: one under way may have been answered before the read came.
//! Must never serve a read by a check that was asked before it. Bounded by the places for parked requests.

use super::{COMPLETE_WAIT_READ, Logs};
use crate::core::Shard;
use crate::door;
use crate::gather::{self, NoPart};
use crate::parked::{Parked, Work};
use crate::reply::ReplyTo;
use ioengine::Instant;
use layout::units::{LogTime, TabletIndex};
use net::outcome::Outcome;
use net::reply::encode_outcome;
use paxos::{LogIndex, Tip};
use std::collections::BTreeMap;

/// A read, and of how many tablets it waits for the tip.
struct Read {
    left: u32,
    parked: Parked,
}

/// The reads of a core that wait for tips.
#[derive(Default)]
pub(super) struct Reads {
    open: BTreeMap<u64, Read>,
    next: u64,
}

/// Those that wait for one tablet.
#[derive(Default)]
pub(super) struct TabletReads {
    /// For a check that is not asked yet.
    next: Vec<(u64, Instant)>,
    /// For the one under way.
    asked: Vec<(u64, Instant)>,
    /// For an entry to be applied.
    due: Vec<(LogIndex, u64, Instant)>,
    /// A check is under way since.
    pub(super) asked_at: Option<Instant>,
    /// How often it was asked again.
    pub(super) again_count: u32,
    /// An entry that may be chosen is in the way: when to complete it.
    pub(super) complete_at: Option<Instant>,
}

/// Let a read wait. The caller has asked the parking for room, and reserved the answer's.
pub(crate) fn wait_for_tip(
    shard: &Shard,
    to: &ReplyTo,
    work: Work,
    tablets: impl Iterator<Item = TabletIndex>,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let Some(logs) = &shard.logs else { panic!("only tablets of a group have tips to ask for") };
    let tablets = tablets.fold(0u64, |bits, tablet| bits | 1 << tablet.index());
    let now = shard.io.now();
    let parked = shard.parking.hold(*to, work, now, fill);
    let mut reads = logs.reads.borrow_mut();
    let number = reads.next;
    reads.next += 1;
    reads.open.insert(number, Read { left: tablets.count_ones(), parked });
    drop(reads);
    for tablet in TabletIndex::all().filter(|tablet| tablets & (1 << tablet.index()) != 0) {
        let log = logs.tablet(tablet).expect("the door has asked whose tablet it is");
        log.borrow_mut().reads.next.push((number, now));
    }
    logs.tips_wanted.set(logs.tips_wanted.get() | tablets);
    logs.wake.notify();
}

impl TabletReads {
    /// Is somebody waiting for a check that is not asked yet?
    pub(super) fn wants_tip(&self) -> bool {
        !self.next.is_empty()
    }

    /// Is somebody waiting for the answers of the check under way?
    pub(super) fn waits_for_answers(&self) -> bool {
        !self.asked.is_empty()
    }

    /// A check is asked now: also for those whose check had no answer.
    pub(super) fn ask(&mut self, now: Instant) {
        self.asked.append(&mut self.next);
        self.asked_at = Some(now);
        self.again_count = 0;
    }

    /// Its answers are late: it is asked again now.
    pub(super) fn ask_again(&mut self, now: Instant) {
        self.asked_at = Some(now);
        self.again_count += 1;
    }

    /// The check's outcome.
    pub(super) fn tip(&mut self, tip: Tip, now: Instant) {
        self.asked_at = None;
        if tip.pending && !self.asked.is_empty() && self.complete_at.is_none() {
            self.complete_at = Some(now.after(COMPLETE_WAIT_READ));
        }
        self.due.extend(self.asked.drain(..).map(|(read, since)| (tip.index, read, since)));
    }

    /// Entries up to `index` are applied: who waited for no more is served.
    pub(super) fn applied(&mut self, shard: &Shard, logs: &Logs, index: LogIndex) {
        let ready = |due: &(LogIndex, u64, Instant)| due.0 <= index || ioengine::canary("serve_before_tip");
        if !self.due.iter().any(ready) {
            return;
        }
        let mut reads = logs.reads.borrow_mut();
        for (_, number, _) in self.due.extract_if(.., |due| ready(due)) {
            reads.confirmed(shard, number);
        }
        if self.due.is_empty() {
            self.complete_at = None;
        }
    }

    /// No tip can be had here: the client may ask another replica.
    pub(super) fn refuse(&mut self, shard: &Shard, logs: &Logs) {
        self.asked_at = None;
        self.refuse_those(shard, logs, |_| true);
    }

    /// Those that came before `before` have waited for too long.
    pub(super) fn refuse_older(&mut self, shard: &Shard, logs: &Logs, before: Instant) {
        self.refuse_those(shard, logs, |since| since < before);
    }

    fn refuse_those(&mut self, shard: &Shard, logs: &Logs, which: impl Fn(Instant) -> bool) {
        let mut reads = logs.reads.borrow_mut();
        for (number, _) in self.next.extract_if(.., |read| which(read.1)) {
            reads.refused(shard, number);
        }
        for (number, _) in self.asked.extract_if(.., |read| which(read.1)) {
            reads.refused(shard, number);
        }
        for (_, number, _) in self.due.extract_if(.., |read| which(read.2)) {
            reads.refused(shard, number);
        }
    }

    /// When the oldest came.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let waiting = self.next.iter().chain(&self.asked).map(|read| read.1);
        waiting.chain(self.due.iter().map(|read| read.2)).min()
    }
}

impl Reads {
    fn confirmed(&mut self, shard: &Shard, number: u64) {
        let Some(read) = self.open.get_mut(&number) else { return };
        read.left -= 1;
        if read.left == 0
            && let Some(read) = self.open.remove(&number)
        {
            shard.parking.resume(read.parked);
        }
    }

    fn refused(&mut self, shard: &Shard, number: u64) {
        let Some(Read { parked, .. }) = self.open.remove(&number) else { return };
        ioengine::sometimes!("a read finds no majority");
        shard.counters.reads_not_current.add(1);
        match parked.work {
            Work::Part => gather::give_no_part(shard, &parked.to, NoPart::NotCurrent),
            Work::Request => {
                door::tell(shard, &parked.to, |out| encode_outcome(out, LogTime(0), &Outcome::NotCurrent));
            }
        }
        shard.parking.drop_held(parked);
    }
}
