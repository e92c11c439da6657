//! A replica's start: from what its journal proves to a log that takes part.

use super::Logs;
use super::clocks::Clocks;
use super::queue::Queue;
use super::reads::{Reads, TabletReads};
use super::tablet::TabletLog;
use super::tail::Tail;
use super::values::{Value, Values, weigh};
use crate::apply::State as Core;
use crate::cluster::Group;
use crate::limits::Limits;
use crate::proof::{Damage, Pending, Proof};
use ioengine::Io;
use ioengine::sync::Notify;
use layout::log_entry::Entry;
use layout::units::{Incarnation, LogIndex, TabletIndex};
use paxos::{Accepted, Ballot, Chosen, Config, Guard, Guards, Node, Replica, State, ValueId, Vote};
use std::cell::{Cell, RefCell};

/// Prepares that a write may cost.
const PREPARE_COUNT_MAX: u8 = 3;

/// What a replay says of one tablet's log.
pub(crate) struct RecoveredLog {
    state: State,
    pending: Option<Pending>,
    /// It is not proven that every promise made is here.
    is_amnesic: bool,
    /// The journal has no vote of it.
    is_silent: bool,
    /// The last entries, in order.
    pub(crate) tail: Tail,
}

impl RecoveredLog {
    /// From what the journal proves; `applied` is the last entry here. A journal has a vote of each tablet from the first start on, if only to say that
    /// there is none: without it the log may have forgotten, unless the disk is new. On a disk that took another one's place nobody knows
    /// what the other had said: a tablet is learner-only there until it says that it votes.
    pub(crate) fn new(proof: &Proof, applied: LogIndex, tail: Tail, is_new: bool) -> RecoveredLog {
        let last = proof.last.filter(|last| last.index.0 == applied.0);
        // Without the name of the last entry nothing that is said of the next one could be judged.
        let nameless = Chosen { index: paxos::LogIndex(applied.0), value: ValueId::NONE };
        let (state, known) = match (proof.state, last) {
            (None, _) => (State { chosen: nameless, ..State::NEW }, applied.0 == 0 && is_new),
            (Some(state), _) if state.chosen.index.0 == applied.0 => (state, true),
            (Some(state), Some(last)) => (State { chosen: last, vote: Vote::NONE, ..state }, true),
            (Some(state), None) => (State { chosen: nameless, vote: Vote::NONE, ..state }, false),
        };
        let is_amnesic = proof.damage.is_some() || !known || !state.voter;
        let open = state.open();
        let pending = proof.pending.clone().filter(|pending| pending.header.log_index.0 == open.0);
        RecoveredLog { state, pending, is_amnesic, is_silent: proof.state.is_none(), tail }
    }

    /// What makes a tablet's log not provable, as damage of the tablet.
    pub(crate) fn damage(&self, applied: LogIndex) -> Option<Damage> {
        self.is_amnesic.then_some(Damage { from: applied.next(), to: None })
    }
}

/// Memory for the tail of one log: its share of a core's.
pub(crate) fn tail(limits: &Limits, shard_count: u16) -> Tail {
    Tail::new(limits.log_tail_bytes / layout::units::TABLET_COUNT * usize::from(shard_count))
}

/// The rules, all of them but in tests.
fn guards() -> Guards {
    let removable = [
        ("paxos_vote_flushed", Guard::VoteFlushed),
        ("paxos_own_vote_flushed", Guard::OwnVoteFlushed),
        ("paxos_round_zero_owner", Guard::RoundZeroOwner),
        ("paxos_round_zero_restart", Guard::RoundZeroRestart),
        ("paxos_promise_kept", Guard::PromiseKept),
        ("paxos_pending_first", Guard::PendingFirst),
        ("paxos_tip_majority", Guard::TipMajority),
        ("paxos_tip_pending", Guard::TipPending),
        ("paxos_tip_asked", Guard::TipAsked),
        ("paxos_write_skipped", Guard::WriteSkipped),
        ("paxos_return_prepared", Guard::ReturnPrepared),
    ];
    let removed = removable.into_iter().filter(|(name, _)| ioengine::canary(name));
    removed.fold(Guards::ALL, |guards, (_, guard)| guards.without(guard))
}

impl Logs {
    /// Begin to take part. `incarnation` is flushed.
    ///
    /// # Errors
    /// The memtable has no room for what was accepted before.
    pub(crate) fn start(
        io: &Io,
        group: &Group,
        limits: &Limits,
        incarnation: Incarnation,
        core: &mut Core,
        recovered: Vec<Option<RecoveredLog>>,
    ) -> Result<Logs, String> {
        let (mut tablets, mut silent) = (Vec::new(), 0);
        for (tablet, recovered) in TabletIndex::all().zip(recovered) {
            silent |= u64::from(recovered.as_ref().is_some_and(|log| log.is_silent)) << tablet.index();
            let log = match (recovered, group.place(tablet)) {
                (Some(recovered), Some(place)) => {
                    Some(RefCell::new(start(io, group, incarnation, core, tablet, place, recovered)?))
                }
                _ => None,
            };
            tablets.push(log);
        }
        // A replay that froze a memtable lets the journal be trimmed as much as life does.
        let mut queue = Queue::default();
        let mut restating = 0;
        let is_frozen = core.memtables.frozen().is_some();
        for log in tablets.iter().flatten().map(RefCell::borrow) {
            // And that a replica is learner-only, or has never voted, is durable before anything is said.
            let is_silent = silent & 1 << log.tablet.index() != 0;
            if is_frozen || !log.replica.durable().voter || is_silent {
                log.restate(&mut queue, None);
            }
        }
        if is_frozen {
            restating = queue.mark_restated();
        }
        Ok(Logs {
            tablets,
            queue: RefCell::new(queue),
            writing: RefCell::new(Vec::new()),
            out: Cell::new(Vec::new()),
            reads: RefCell::new(Reads::default()),
            tips_wanted: Cell::new(0),
            tells_wanted: Cell::new(0),
            told: Notify::new(),
            wake: Notify::new(),
            restating: Cell::new(restating),
            restated: Notify::new(),
            giving: RefCell::default(),
            taking: RefCell::default(),
            files: super::files::Files::new(limits),
            streams: Cell::new(0),
            narrow: Cell::new(false),
            clocks: Clocks::default(),
            outcast: Cell::new(false),
            verifying: super::verify::Waiting::default(),
            rounds: super::verify::Rounds::default(),
            verifies_wanted: Cell::new(0),
            seal_talk: Default::default(),
        })
    }
}

fn start(
    io: &Io,
    group: &Group,
    incarnation: Incarnation,
    core: &mut Core,
    tablet: TabletIndex,
    place: u8,
    recovered: RecoveredLog,
) -> Result<TabletLog, String> {
    let RecoveredLog { state, pending, is_amnesic, tail, .. } = recovered;
    let members = group.replicas(tablet).to_vec();
    let own = members[usize::from(place)];
    let rank = (0u32..).zip(group.order(tablet)).find(|(_, node)| **node == own);
    let rank = rank.expect("a replica is in the order").0;
    let member_count = u8::try_from(members.len()).expect("a group is small");
    let config =
        Config { node: Node(place), member_count, prepare_count_max: PREPARE_COUNT_MAX, guards: guards() };
    let life = paxos::Incarnation(u64::from(incarnation.0));
    let mut replica = Replica::start(config, life, state, is_amnesic);
    if let Some(pending) = pending.as_ref().filter(|_| is_amnesic) {
        let nameless = Accepted { ballot: Ballot::NONE, value: pending.value };
        let voted = state.vote.accepted.filter(|accepted| accepted.value == pending.value);
        replica = replica.with_found(voted.unwrap_or(nameless));
    }
    ioengine::fact("voter", u64::from(tablet.get()), u64::from(replica.durable().voter));
    let mut values = Values::default();
    if let Some(Pending { value, header, body, .. }) = pending {
        let entry = Entry { header, body: &body, body_at: 0 };
        let (charge, _) = weigh(tablet, &entry).map_err(|corrupt| corrupt.to_string())?;
        core.memtables.active.admit_again(charge).map_err(|_| {
            "the memtable has no room for what was accepted before: raise memtable_bytes".to_owned()
        })?;
        values.add(Value::new(value, header, &body, charge));
    }
    let applied: Chosen = state.chosen;
    let journaled = state.vote.accepted.map(|accepted| (state.open(), accepted.value));
    Ok(TabletLog {
        tablet,
        members,
        rank,
        replica,
        values,
        own: None,
        sequence: 0,
        applied,
        journaled,
        told: applied.index,
        durable: if journaled.is_some() { state.open() } else { applied.index },
        tail,
        reads: TabletReads::default(),
        timer: None,
        wait_count: 0,
        fetch: None,
        open_since: None,
        refused: None,
        // The tip is asked for at once: that tells what was missed, and the clocks.
        synced_at: None,
        needs_copy: is_amnesic,
        copy_at: io.now(),
        is_wrong: false,
        said: super::verify::Said::default(),
        verify_at: None,
        gone_count: 0,
        return_at: io.now(),
    })
}
