//! The logs of a core's tablets where a group has several replicas: each tablet's Paxos replica, and what it needs of the
//! world. The rules of consensus are the crate `paxos`'s; this drives them.
//!
//! Owns the order in which things become durable and known. What must be durable before which message leaves stands in
//! `shard/paxos/README.md`; here it comes down to: what a replica wants remembered goes into the queue of items in order, the queue
//! goes to the journal in order, and `Flushed` is said when it is there. Must never apply an entry that is not chosen.
//!
//! Life of a put: staged at the door, becomes an entry with what else waits for its tablet (`propose.rs`), is proposed to the
//! peers and queued for the journal in the same turn (`tablet.rs: follow`), written with the votes of all tablets (`commit.rs`),
//! chosen when a majority has flushed it, applied, answered. What the core itself has to say, ticks and seals, goes the same way.

mod clock;
mod clocks;
mod commit;
mod files;
mod give;
mod propose;
mod queue;
mod reads;
mod receive;
mod seals;
mod start;
mod tablet;
mod tail;
mod take;
mod values;
mod verify;
mod wire;

pub(crate) use clock::run as run_clock;
pub(crate) use commit::{entry_bytes_max, run as run_commit, write_queued};
pub(crate) use files::{File, pieces_bytes_max};
pub(crate) use reads::wait_for_tip;
pub(crate) use receive::receive;
pub(crate) use start::{RecoveredLog, tail as new_tail};
pub(crate) use tail::Tail;
pub(crate) use take::Install;
pub(crate) use verify::{cannot_read, run as run_verify};
pub(crate) use wire::version_of;

use crate::core::Shard;
use crate::limits::Limits;
use clocks::Clocks;
use files::Files;
use give::GiveSession;
use ioengine::sync::Notify;
use layout::log_item::vote_bytes;
use layout::units::TabletIndex;
use net::peer::Refusal;
use paxos::{Input, Output};
use queue::{Queue, Queued};
use reads::Reads;
use seals::SealTalk;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tablet::TabletLog;
use take::TakeSession;

/// How far ahead of this node's clock an entry's stamp may be.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(1);
/// The same beyond log time that is ahead of the clock already.
const AHEAD_SLACK: Duration = Duration::from_secs(60);
/// For how long an entry ahead of that is refused, while nothing else is chosen in its place. See decision 0053.
const AHEAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take before what was not answered is sent again; doubled each time.
const ANSWER_WAIT: Duration = Duration::from_millis(40);
/// Longest such wait.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);
/// Shortest back-off after somebody else's higher ballot; the longest is doubled each time.
const BACK_OFF: Duration = Duration::from_millis(4);
/// How long a chosen entry waits for a next message to be told with.
const TELL_WAIT: Duration = Duration::from_millis(5);
/// How long an accepted entry may stay open before the first replica completes it; each further one waits as long again.
const COMPLETE_WAIT: Duration = Duration::from_millis(250);
/// The same when a get waits for it.
const COMPLETE_WAIT_READ: Duration = Duration::from_millis(20);
/// How long a fetch of entries may take before another peer is asked.
const FETCH_WAIT: Duration = Duration::from_millis(200);
/// How often, at least, a learner-only replica tries to vote again.
const RETURN_WAIT: Duration = Duration::from_millis(200);
/// How often a replica asks for the tip when nobody else makes it.
const SYNC_PERIOD: Duration = Duration::from_secs(2);
/// How long a get may wait for a majority before the client is sent to the next replica.
const TIP_GIVE_UP: Duration = Duration::from_millis(800);
/// What a message has beside its entries, at most.
const MESSAGE_HEAD_BYTES: usize = 1024;

/// Bytes of an entry that a message may carry: two of them fit a frame.
fn message_entry_bytes(limits: &Limits) -> usize {
    limits.frame_bytes_max as usize / 2 - MESSAGE_HEAD_BYTES
}

/// Bytes of entries, or of a copy, that are sent at once to who is behind: little enough that others find their turn.
fn bulk_bytes(limits: &Limits) -> usize {
    (limits.frame_bytes_max as usize / 8).clamp(4 << 10, 128 << 10)
}

/// The logs of a core.
pub(crate) struct Logs {
    /// By tablet index; `None` for tablets of other cores, and those not held by this node.
    tablets: Vec<Option<RefCell<TabletLog>>>,
    /// Items that wait for the journal.
    queue: RefCell<Queue>,
    /// Items of the record on its way.
    writing: RefCell<Vec<Queued>>,
    /// Room for outputs, used again and again.
    out: Cell<Vec<Output>>,
    reads: RefCell<Reads>,
    /// Tablets that gets wait for, one bit each.
    tips_wanted: Cell<u64>,
    /// A timer was set, or a tip is wanted.
    wake: Notify,
    /// Votes that were said again after a freeze and are not durable yet.
    restating: Cell<usize>,
    restated: Notify,
    /// Tablets whose progress the journal shall tell, one bit each.
    tells_wanted: Cell<u64>,
    told: Notify,
    /// Copies of tablets that are being given to peers.
    giving: RefCell<Vec<Rc<GiveSession>>>,
    /// Copies of tablets that are being taken.
    taking: RefCell<Vec<Rc<TakeSession>>>,
    /// Sealed tables on their way as files.
    files: Files,
    /// Copies whose records are on their way.
    streams: Cell<usize>,
    /// A copy has found no space: one at a time.
    narrow: Cell<bool>,
    /// What the peers' clocks say.
    clocks: Clocks,
    /// Another node refuses the disk of this one.
    outcast: Cell<bool>,
    /// Tablets that are being compared.
    verifying: verify::Waiting,
    rounds: verify::Rounds,
    /// Tablets whose replicas shall be compared, one bit each.
    verifies_wanted: Cell<u64>,
    /// What was heard of seals.
    seal_talk: SealTalk,
}

impl Logs {
    fn tablet(&self, tablet: TabletIndex) -> Option<&RefCell<TabletLog>> {
        self.tablets[tablet.index()].as_ref()
    }

    /// Tablets with a log here.
    fn own(&self) -> impl Iterator<Item = TabletIndex> + '_ {
        TabletIndex::all().filter(|tablet| self.tablets[tablet.index()].is_some())
    }

    /// Of the tablets of this core in the group: those held here, those whose replica votes, those known to lack entries.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let logs = self.own().map(|tablet| (self.is_voter(tablet), self.tablet(tablet)));
        logs.fold((0, 0, 0), |(held, voting, behind), (votes, log)| {
            let lacks = log.is_some_and(|log| log.borrow().fetch.is_some());
            (held + 1, voting + u64::from(votes), behind + u64::from(lacks))
        })
    }

    /// Tablets whose replicas shall be compared, one bit each; they are not wanted any more.
    pub(crate) fn take_verifies_wanted(&self) -> u64 {
        self.verifies_wanted.replace(0)
    }

    /// Is a replica of this tablet here that votes, and has what it votes on?
    pub(crate) fn is_voter(&self, tablet: TabletIndex) -> bool {
        self.tablet(tablet).is_some_and(|log| {
            let log = log.borrow();
            log.replica.durable().voter && !log.needs_copy && !self.outcast.get()
        })
    }

    /// Is what this replica has of the tablet whole up to its last entry, and stays so while a copy of it is given? One that only lacks entries
    /// gives, too. Failing history otherwise: two voters of three know of an entry that only a learner has, which gives nothing; the one
    /// that accepted it would get it chosen with the other, but that one is an entry behind, and nobody gives it a copy.
    pub(crate) fn gives(&self, shard: &Shard, tablet: TabletIndex) -> bool {
        let is_whole = || {
            let state = shard.state.borrow();
            let own = state.tablet(tablet);
            own.damage.is_none() && !own.awaits_tables
        };
        let log = self.tablet(tablet).map(RefCell::borrow);
        log.is_some_and(|log| log.replica.durable().voter && !log.is_wrong)
            && is_whole()
            && !self.outcast.get()
            && !self.is_installing(tablet)
    }

    /// Nothing waits for the journal, and no write for its entry.
    pub(crate) fn is_settled(&self) -> bool {
        self.queue.borrow().is_empty()
            && self.writing.borrow().is_empty()
            && self.tablets.iter().flatten().all(|log| log.borrow().own.is_none())
    }

    /// Bytes that the next records will take, with one more vote of each tablet.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queue.borrow().bytes() + vote_bytes(0) * layout::units::TABLET_COUNT
    }

    /// The votes that stood before the last freeze are in the journal behind it, too: what came before it may be trimmed.
    /// Failing history otherwise: a vote is accepted, the memtable is frozen and flushed, the journal is trimmed, power is
    /// cut: the vote is forgotten.
    pub(crate) async fn restated(&self) {
        loop {
            let done = self.restated.notified();
            if self.restating.get() == 0 {
                return;
            }
            done.await;
        }
    }
}

/// The journal tells that the log of the tablet is applied as far as it is now. For whoever makes something durable by the
/// log time of an entry. Failing history otherwise: an entry is applied that a majority has and this journal does not tell
/// of, a merge drops what has expired by it, power is cut: the replica shows its tablet at the entry before, without a
/// record that had not expired then.
pub(crate) async fn until_told(shard: &Shard, tablet: TabletIndex) {
    let Some(logs) = &shard.logs else { return };
    let Some(log) = logs.tablet(tablet) else { return };
    let applied = log.borrow().applied.index;
    while log.borrow().told < applied && !ioengine::canary("drop_before_told") {
        ioengine::sometimes!("a merge waits until its log time is durable");
        let told = logs.told.notified();
        logs.tells_wanted.set(logs.tells_wanted.get() | 1 << tablet.index());
        shard.staged.notify();
        told.await;
    }
}

/// A peer refuses the disk of this node: what it has promised may be forgotten. It takes part in nothing from here on, also not
/// with a peer who knows no better; clients are sent to other replicas.
pub(crate) fn cast_out(shard: &Shard, node: u32, refusal: Refusal) {
    let Some(logs) = shard.logs.as_ref().filter(|logs| !logs.outcast.replace(true)) else { return };
    ioengine::sometimes!("a node stops because its disk is refused");
    tracing::error!(node, %refusal, "another node refuses this one, which takes part in nothing any more");
    logs.own().for_each(|tablet| drive(shard, logs, tablet, Input::GiveUp));
    logs.wake.notify();
}

/// Give a tablet's replica an input, and do what it says.
fn drive(shard: &Shard, logs: &Logs, tablet: TabletIndex, input: Input) {
    let Some(log) = logs.tablet(tablet) else { return };
    let mut log = log.borrow_mut();
    let mut out = logs.out.take();
    log.replica.step(input, &mut out);
    for output in out.drain(..) {
        log.follow(shard, logs, output);
    }
    logs.out.set(out);
    log.settle(shard, logs);
}
