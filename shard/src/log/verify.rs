//! Verification: at an index that the log itself names, each replica takes its tablet down and says as one number what a copy of it
//! would be. Who has another number than a majority takes a copy.
//!
//! Owns what the replicas of a tablet have said. Must never compare numbers of different indexes, and never give up what this
//! replica has for the word of less than a majority. Invariant: of each replica the number of the newest index is kept only.

use super::tablet::TabletLog;
use super::{Logs, wire};
use crate::core::Shard;
use crate::lsm::copy::{Giving, TakenDown};
use crate::lsm::{ReadError, Table};
use crate::seals::Sinking;
use crate::sink::ColdFailure;
use ioengine::sync::Notify;
use ioengine::{DiskError, Instant};
use layout::Corrupt;
use layout::units::TabletIndex;
use net::outcome::{Limit, Outcome};
use paxos::{Chosen, LogIndex, Node};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3Default;

/// Tablets taken down that wait for their number, at most: what their memtables held is held twice.
const WAITING_MAX: usize = 8;
/// How long all replicas may take to say what they hold before the next tablet's turn.
const ANSWERS_WAIT: Duration = Duration::from_secs(10);
/// Bytes of a copy that are made before others find their turn.
const STEP_BYTES: usize = 64 << 10;
/// When to ask again for what cold nodes do not give now.
const COLD_HINT_MS: u32 = 500;
/// Index and number.
const SAID_BYTES: usize = 24;

/// What the replicas of a tablet said of it at one index.
#[derive(Debug, Default)]
pub(super) struct Said {
    at: LogIndex,
    /// By place.
    digests: Vec<Option<u128>>,
    /// What came of it is known.
    is_settled: bool,
}

/// What they say together.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Not enough have said anything.
    Open,
    /// All are equal.
    Equal,
    /// A majority has what this one has, and not all have.
    Others,
    /// A majority has something else.
    Own,
    /// All have spoken, and no majority has the same.
    Nobody,
}

impl Said {
    /// A replica says its number; older indexes are not of interest any more.
    fn hear(&mut self, count: usize, place: Node, at: LogIndex, digest: u128) {
        if at > self.at {
            *self = Said { at, digests: vec![None; count], is_settled: false };
        }
        if at == self.at
            && let Some(said) = self.digests.get_mut(place.place())
        {
            *said = Some(digest);
        }
    }

    fn verdict(&self, own: Node) -> Verdict {
        let Some(mine) = self.digests.get(own.place()).copied().flatten() else { return Verdict::Open };
        let count_of = |digest: u128| self.digests.iter().filter(|said| **said == Some(digest)).count();
        let is_majority = |digest: u128| count_of(digest) > self.digests.len() / 2;
        let have_all_spoken = self.digests.iter().all(Option::is_some);
        if self.digests.iter().flatten().any(|&digest| digest != mine && is_majority(digest)) {
            Verdict::Own
        } else if !have_all_spoken {
            Verdict::Open
        } else if count_of(mine) == self.digests.len() {
            Verdict::Equal
        } else if is_majority(mine) {
            Verdict::Others
        } else {
            Verdict::Nobody
        }
    }
}

/// Tablets that were taken down and have no number yet.
#[derive(Default)]
pub(super) struct Waiting {
    taken: RefCell<VecDeque<(TabletIndex, Chosen, TakenDown)>>,
    called: Notify,
}

/// The comparisons that this core begins, one after the other.
#[derive(Default)]
pub(super) struct Rounds {
    queue: RefCell<VecDeque<TabletIndex>>,
    /// The one under way, and since when.
    current: Cell<Option<(TabletIndex, Instant)>>,
    /// How often everything was asked for, as far as it was heeded.
    heeded: Cell<u64>,
}

/// The first replica of a tablet has the others compared with it, now and then.
pub(super) fn mind(shard: &Shard, logs: &Logs, log: &mut TabletLog, now: Instant) {
    let period = shard.limits.verify_period;
    if period.is_zero() || log.rank != 0 {
        return;
    }
    // Spread: not all tablets at once.
    let after = |least: Duration| {
        now.after(least + Duration::from_nanos(shard.io.random() % period.as_nanos() as u64))
    };
    match log.verify_at {
        None => log.verify_at = Some(after(Duration::ZERO)),
        Some(at) if at <= now => {
            log.verify_at = Some(after(period / 2));
            want(logs, log.tablet);
        }
        Some(_) => {}
    }
}

fn want(logs: &Logs, tablet: TabletIndex) {
    let mut queue = logs.rounds.queue.borrow_mut();
    if !queue.contains(&tablet) {
        queue.push_back(tablet);
    }
}

/// Begin the next comparison if the last one has ended. When to look again.
pub(super) fn begin_next(shard: &Shard, logs: &Logs, now: Instant) -> Option<Instant> {
    let (rounds, counters) = (&logs.rounds, &shard.counters);
    let asked = shard.facts.verifies_asked.load(Relaxed);
    if rounds.heeded.replace(asked) != asked {
        let is_first = |tablet: TabletIndex| logs.tablet(tablet).is_some_and(|log| log.borrow().rank == 0);
        logs.own().filter(|&tablet| is_first(tablet)).for_each(|tablet| want(logs, tablet));
        counters.verify_waiting.set(rounds.queue.borrow().len() as u64);
        counters.verify_rounds.add(1);
    }
    if let Some((tablet, since)) = rounds.current.get() {
        if now.since(since) <= ANSWERS_WAIT {
            return Some(since.after(ANSWERS_WAIT));
        }
        ioengine::sometimes!("a comparison of replicas has no end");
        counters.verify_unanswered.add(1);
        tracing::warn!(tablet = tablet.get(), "not all replicas have said what they hold");
        rounds.current.set(None);
    }
    let next = rounds.queue.borrow_mut().pop_front();
    counters.verify_waiting.set(rounds.queue.borrow().len() as u64 + u64::from(next.is_some()));
    let tablet = next?;
    rounds.current.set(Some((tablet, now)));
    logs.verifies_wanted.set(logs.verifies_wanted.get() | 1 << tablet.index());
    counters.verify_begun.add(1);
    shard.staged.notify();
    Some(now.after(ANSWERS_WAIT))
}

/// An entry that asks for it was just applied.
pub(super) fn take_down(shard: &Shard, logs: &Logs, log: &TabletLog) {
    let mut taken = logs.verifying.taken.borrow_mut();
    // What is sunk is what the log says: its links are in the state, and its records are compared by who scrubs the cold disks.
    let sunk: Vec<Sinking> = {
        let state = shard.state.borrow();
        let sinks = &state.tablet(log.tablet).seals.sinks;
        sinks.iter().filter(|sinking| sinking.sink.sunk.is_some()).cloned().collect()
    };
    let is_whole = {
        let state = shard.state.borrow();
        let own = state.tablet(log.tablet);
        let is_here = sunk.iter().all(|sinking| has_table(state.tables.windows(log.tablet), sinking));
        own.damage.is_none() && !own.awaits_tables && !log.needs_copy && is_here
    };
    if !is_whole || taken.len() >= WAITING_MAX {
        return shard.counters.verify_passed.add(1);
    }
    let tables = |sinking: &Sinking| [Some(sinking.sink.checksum), sinking.sink.sunk];
    let left_out: Vec<u128> = sunk.iter().flat_map(tables).flatten().collect();
    taken.push_back((
        log.tablet,
        log.applied,
        Giving::take_down(shard, log.tablet, log.applied, &left_out).bare(),
    ));
    logs.verifying.called.notify();
}

/// Is a table of a sunk window here: the sealed one, or the one that takes its place?
fn has_table(windows: &[Rc<Table>], sinking: &Sinking) -> bool {
    let of = |table: &Rc<Table>| Some(table.place.checksum);
    windows.iter().any(|table| of(table) == Some(sinking.sink.checksum) || of(table) == sinking.sink.sunk)
}

/// Say the numbers of what was taken down, until the core ends.
pub(crate) async fn run(shard: Rc<Shard>) {
    let Some(logs) = &shard.logs else { return };
    loop {
        let called = logs.verifying.called.notified();
        let next = logs.verifying.taken.borrow_mut().pop_front();
        let Some((tablet, chosen, taken)) = next else {
            called.await;
            continue;
        };
        let log = logs.tablet(tablet).expect("only own tablets are taken down");
        match digest(&shard, taken).await {
            Ok(digest) => {
                ioengine::fact("digest", (u64::from(tablet.get()) << 56) | chosen.index.0, digest as u64);
                let mut log = log.borrow_mut();
                let body = [&chosen.index.0.to_le_bytes()[..], &digest.to_le_bytes()].concat();
                let own = log.replica.node();
                for place in (0..u8::try_from(log.members.len()).expect("members are few")).map(Node) {
                    if place != own {
                        log.tell(&shard, place, wire::DIGEST, &[&body]);
                    }
                }
                hear(&shard, logs, &mut log, own, chosen.index, digest);
            }
            Err(error) => {
                tracing::error!(%error, tablet = tablet.get(), "a tablet cannot be read: it is copied from a peer");
                cannot_read(&shard, tablet, &error);
            }
        }
    }
}

async fn digest(shard: &Shard, taken: TakenDown) -> Result<u128, ReadError> {
    let (mut hasher, mut bytes) = (Xxh3Default::new(), Vec::new());
    let mut giving = Giving::open(taken, &mut bytes).await?;
    loop {
        let is_last = giving.next(STEP_BYTES, &mut bytes).await?;
        hasher.update(&bytes);
        shard.counters.verify_bytes.add(bytes.len() as u64);
        bytes.clear();
        if is_last {
            return Ok(hasher.digest128());
        }
        ioengine::sync::yield_now().await;
    }
}

/// A peer says its number.
pub(super) fn heard(
    shard: &Shard,
    logs: &Logs,
    log: &mut TabletLog,
    from: Node,
    body: &[u8],
) -> Result<(), Corrupt> {
    let wrong = Corrupt { structure: "digest", field: "index", at: 0 };
    let body: &[u8; SAID_BYTES] = body.try_into().map_err(|_| wrong)?;
    let (index, digest) = body.split_first_chunk::<8>().expect("24 bytes");
    let digest = u128::from_le_bytes(digest.try_into().expect("16 bytes"));
    hear(shard, logs, log, from, LogIndex(u64::from_le_bytes(*index)), digest);
    Ok(())
}

fn hear(shard: &Shard, logs: &Logs, log: &mut TabletLog, place: Node, at: LogIndex, digest: u128) {
    log.said.hear(log.members.len(), place, at, digest);
    if log.said.is_settled {
        return;
    }
    let verdict = log.said.verdict(log.replica.node());
    log.said.is_settled = verdict != Verdict::Open;
    let current = logs.rounds.current.get();
    if log.said.is_settled && current.is_some_and(|(tablet, _)| tablet == log.tablet) {
        logs.rounds.current.set(None);
        logs.wake.notify();
    }
    let (tablet, index) = (log.tablet.get(), at.0);
    match verdict {
        Verdict::Open => {}
        Verdict::Equal => {
            ioengine::sometimes!("a tablet is verified");
            shard.counters.verify_equal.add(1);
        }
        Verdict::Others => {
            shard.counters.verify_others.add(1);
            tracing::warn!(tablet, index, "a replica of another node differs from the majority's");
        }
        Verdict::Own => {
            tracing::error!(tablet, index, "this replica differs from the majority's: it takes a copy");
            distrust(shard, log);
        }
        Verdict::Nobody => {
            shard.counters.verify_undecided.add(1);
            tracing::error!(tablet, index, "the replicas differ, and no majority holds the same");
        }
    }
}

/// A table of the tablet cannot be read: what a request is told. The peers have what it held.
pub(crate) fn cannot_read(shard: &Shard, tablet: TabletIndex, error: &ReadError) -> Outcome {
    let Some(log) = shard.logs.as_ref().and_then(|logs| logs.tablet(tablet)) else { return Outcome::Corrupt };
    if let ReadError::Cold { failure, .. } = error
        && *failure != ColdFailure::Gone
    {
        // Nothing is wrong here: the cold nodes do not give it now. Another replica would not get it either.
        return Outcome::Busy { limit: Limit::Device, hint_ms: COLD_HINT_MS };
    }
    // Without its device this node can take no copy.
    if !matches!(error, ReadError::Disk(DiskError::Ended { .. })) {
        distrust(shard, &mut log.borrow_mut());
    }
    Outcome::NotCurrent
}

/// What this replica has of the tablet is wrong or cannot be read: it shows nothing of it until it has a copy.
fn distrust(shard: &Shard, log: &mut TabletLog) {
    if log.needs_copy {
        return;
    }
    ioengine::sometimes!("a replica that is wrong takes a copy");
    shard.counters.verify_own.add(1);
    log.needs_copy = true;
    log.is_wrong = true;
    shard.state.borrow_mut().tablet_mut(log.tablet).awaits_tables = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(own: u8, said: &[(u8, u64, u128)]) -> Verdict {
        let mut all = Said::default();
        said.iter().for_each(|&(place, at, digest)| all.hear(3, Node(place), LogIndex(at), digest));
        all.verdict(Node(own))
    }

    #[test]
    fn a_majority_is_right() {
        assert_eq!(verdict(0, &[(0, 5, 1), (1, 5, 1), (2, 5, 1)]), Verdict::Equal);
        assert_eq!(verdict(0, &[(0, 5, 1), (1, 5, 1)]), Verdict::Open, "one has not spoken");
        assert_eq!(verdict(0, &[(1, 5, 1), (2, 5, 1)]), Verdict::Open, "the own number is not there yet");
        assert_eq!(verdict(0, &[(0, 5, 2), (1, 5, 1)]), Verdict::Open, "nobody knows who is right");
        assert_eq!(verdict(0, &[(0, 5, 2), (1, 5, 1), (2, 5, 1)]), Verdict::Own);
        assert_eq!(verdict(1, &[(0, 5, 2), (1, 5, 1), (2, 5, 1)]), Verdict::Others);
        assert_eq!(verdict(1, &[(0, 5, 2), (1, 5, 1), (2, 5, 3)]), Verdict::Nobody);
    }

    #[test]
    fn only_numbers_of_one_index_are_compared() {
        assert_eq!(verdict(0, &[(0, 5, 1), (1, 6, 2), (2, 6, 2)]), Verdict::Open);
        assert_eq!(verdict(0, &[(1, 6, 1), (2, 6, 1), (0, 5, 2)]), Verdict::Open, "an older one comes late");
        assert_eq!(verdict(0, &[(0, 5, 1), (1, 6, 2), (2, 6, 2), (0, 6, 2)]), Verdict::Equal);
        assert_eq!(verdict(0, &[(7, 5, 1), (0, 5, 1)]), Verdict::Open, "nobody has that place");
    }
}
