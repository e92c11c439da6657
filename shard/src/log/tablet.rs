//! One tablet's log at this replica: what it holds for its Paxos replica, and how it follows what that one says.
//!
//! Must never answer a write before its entry is chosen and applied here.

use super::queue::Queue;
use super::reads::TabletReads;
use super::tail::Tail;
use super::values::{Value, Values};
use super::verify::{self, Said};
use super::{ANSWER_WAIT, ANSWER_WAIT_MAX, BACK_OFF, Logs, TELL_WAIT, wire};
use crate::apply::{Decided, apply};
use crate::core::Shard;
use crate::door::{tell, tell_decided};
use crate::reply::ReplyTo;
use ioengine::Instant;
use layout::log_entry::{Entry, EntryHeader, Operation};
use layout::log_item::{push_chosen, push_vote};
use layout::log_message::encode_message;
use layout::units::{self, LogTime, TabletIndex};
use net::outcome::Outcome;
use net::reply::encode_outcome;
use paxos::{Chosen, LogIndex, Message, Node, Output, Reason, Replica, State, ValueId, Vote, Wait};
use std::time::Duration;

/// A planted bug: the bytes of an entry that is one put, with another value.
fn bent(value: &Value) -> Vec<u8> {
    let mut body = value.body.to_vec();
    let entry = Entry { header: value.header(LogIndex(1)), body: &value.body, body_at: 0 };
    let first = entry.operations().next();
    let has_value = matches!(first, Some(Ok(Operation::Write(write))) if write.value().is_some_and(|value| !value.is_empty()));
    if has_value && entry.header.operation_count == 1 {
        *body.last_mut().expect("a put has bytes") ^= 1;
    }
    body
}

/// For whoever compares what replicas take for chosen.
pub(super) fn tell_chosen(tablet: TabletIndex, Chosen { index, value }: Chosen) {
    let name = (u64::from(value.node.0) << 56) ^ (value.incarnation.0 << 32) ^ value.sequence;
    ioengine::fact("chosen", (u64::from(tablet.get()) << 56) | index.0, name);
}

/// Who waits for a request of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    /// `None` for what the core itself staged.
    pub(super) reply_to: Option<ReplyTo>,
    pub(super) operation_count: u16,
}

/// The write of this replica that is under way.
pub(super) struct Own {
    pub(super) value: ValueId,
    pub(super) askers: Vec<Asker>,
    /// When the oldest of its requests came.
    pub(super) since: Instant,
}

/// Catching up.
pub(super) struct Fetch {
    /// Entries up to this one are known to be chosen.
    pub(super) to: LogIndex,
    /// Who is asked.
    pub(super) from: Node,
    pub(super) since: Instant,
}

/// A tablet's log.
pub(super) struct TabletLog {
    pub(super) tablet: TabletIndex,
    /// Ids of the nodes that hold it; a member's place is its place here.
    pub(super) members: Vec<u32>,
    /// Place of this replica in the order that clients try.
    pub(super) rank: u32,
    pub(super) replica: Replica,
    pub(super) values: Values,
    pub(super) own: Option<Own>,
    /// For the names of values.
    pub(super) sequence: u64,
    /// Last entry applied.
    pub(super) applied: Chosen,
    /// The accepted entry that the journal, with what waits for it, has last.
    pub(super) journaled: Option<(LogIndex, ValueId)>,
    /// Highest entry whose bytes are durable here.
    pub(super) durable: LogIndex,
    /// A start finds the log applied up to here.
    pub(super) told: LogIndex,
    pub(super) tail: Tail,
    pub(super) reads: TabletReads,
    pub(super) timer: Option<Instant>,
    /// Waits in a row of the same try.
    pub(super) wait_count: u32,
    pub(super) fetch: Option<Fetch>,
    /// Since when an entry is accepted here and not known to be chosen.
    pub(super) open_since: Option<(LogIndex, Instant)>,
    /// Where entries are refused whose makers' clocks are ahead: since when, and when last.
    pub(super) refused: Option<(LogIndex, Instant, Instant)>,
    /// When the tip was asked for last.
    pub(super) synced_at: Option<Instant>,
    /// A peer has not what this replica lacks: only a copy of the whole tablet helps.
    pub(super) needs_copy: bool,
    /// When to begin to take one.
    pub(super) copy_at: Instant,
    /// What it has differs from what a majority has, or cannot be read.
    pub(super) is_wrong: bool,
    /// What the replicas said of the tablet.
    pub(super) said: Said,
    /// When to compare the replicas next, if this one is the first of them; `None`: never.
    pub(super) verify_at: Option<Instant>,
    /// Answers that entries are gone since anything was fetched.
    pub(super) gone_count: usize,
    /// Learner-only: when to try to vote again.
    pub(super) return_at: Instant,
}

impl TabletLog {
    /// Do what the replica says.
    pub(super) fn follow(&mut self, shard: &Shard, logs: &Logs, output: Output) {
        match output {
            Output::Persist(token, state) => {
                let entry = self.vote_entry(&state);
                let index = entry.is_some().then_some(state.open());
                let (tablet, applied) = (self.tablet, self.applied);
                let pushed = entry.as_ref().map(|value| (value.header(state.open()), &*value.body));
                logs.queue.borrow_mut().push(tablet, Some(token), index, state.chosen.index, |out| {
                    push_vote(out, tablet, applied, &state, pushed);
                });
                if let Some(value) = entry {
                    self.journaled = Some((state.open(), value.id));
                }
                shard.staged.notify();
            }
            Output::Send(to, message) => {
                if message.proposal.is_some_and(|proposal| proposal.value.is_none()) {
                    ioengine::sometimes!("a prepare is sent");
                }
                self.send(shard, to, &message);
            }
            // What came with a copy is applied.
            Output::Chosen(chosen, _) if chosen.index <= self.applied.index => {}
            Output::Chosen(chosen, _) => self.apply(shard, logs, chosen),
            Output::Rejected(value, reason) => self.reject(shard, value, reason),
            Output::Behind(peer, to) => self.fetch(shard, peer, to),
            Output::Tip(tip) => self.reads.tip(tip, shard.io.now()),
            Output::NoTip => self.reads.refuse(shard, logs),
            Output::Wait(wait) => self.wait(shard, logs, wait),
            Output::Returned => {
                ioengine::sometimes!("a learner returns");
                ioengine::fact("voter", u64::from(self.tablet.get()), 1);
                if shard.facts.group.given_up(self.tablet) == 0 {
                    tracing::info!(tablet = self.tablet.get(), "the replica votes again");
                } else {
                    // Nobody may be left to give a copy of what is lost.
                    let mut state = shard.state.borrow_mut();
                    let own = state.tablet_mut(self.tablet);
                    (own.damage, own.awaits_tables) = (None, false);
                    ioengine::sometimes!("a learner returns without those that are given up");
                    tracing::warn!(
                        tablet = self.tablet.get(),
                        applied = self.applied.index.0,
                        "the replica votes again without the word of the nodes that were given up: acknowledged writes behind \
                         that entry are lost if none of the others has them"
                    );
                }
            }
            Output::Superseded => {
                ioengine::sometimes!("another life of this node was started later");
                tracing::error!(
                    "another process runs as this node and was started later, or an operator has given this disk up: it stops taking part"
                );
                shard.failed.set(true);
            }
        }
    }

    /// The accepted value's entry, if the journal has not got it.
    fn vote_entry(&self, state: &State) -> Option<Value> {
        let accepted = state.vote.accepted?.value;
        let is_there = self.journaled == Some((state.open(), accepted));
        let held = || self.values.get(accepted).expect("what a replica accepts it holds").clone();
        (!is_there).then(held)
    }

    /// The vote as it is durable, for a journal whose earlier part is trimmed.
    /// With a copy about to be installed, `copied` is the last entry in it.
    pub(super) fn restate(&self, queue: &mut Queue, copied: Option<Chosen>) {
        let state = *self.replica.durable();
        let applied = copied.unwrap_or(self.applied);
        // Also of an entry that is applied: that it is chosen stands nowhere in the journal yet.
        let value = state.vote.accepted.and_then(|accepted| {
            self.values.get(accepted.value).or_else(|| self.tail.get(state.open(), accepted.value))
        });
        let entry = value.map(|value| (value.header(state.open()), &*value.body));
        queue.push(self.tablet, None, entry.map(|_| state.open()), state.chosen.index, |out| {
            push_vote(out, self.tablet, applied, &state, entry);
        });
    }

    /// Nothing of it waits for the journal: say there that all which is applied is chosen. The vote as it is durable may not say so,
    /// and a start goes by what it says.
    pub(super) fn say_applied(&self, queue: &mut Queue) {
        let (durable, applied) = (*self.replica.durable(), self.applied);
        if durable.chosen.index < applied.index {
            let state = State { chosen: applied, vote: Vote::NONE, ..durable };
            queue.push(self.tablet, None, None, applied.index, |out| {
                push_vote(out, self.tablet, applied, &state, None);
            });
        }
    }

    fn send(&self, shard: &Shard, to: Node, message: &Message) {
        let index = message.chosen.index.next();
        let entry = |value: ValueId| {
            let value = self.values.get(value).expect("what is attached is held");
            (value.header(index).encode(), value)
        };
        let named = message.vote.and_then(|vote| vote.accepted).map(|accepted| accepted.value);
        let accepted = named.filter(|_| message.vote_attached).map(entry);
        let proposal = message.proposal.filter(|proposal| proposal.attached);
        let proposed = proposal.and_then(|proposal| proposal.value).map(entry);
        let bytes = |of: &Option<(_, &Value)>| of.as_ref().map_or(0, |(_, value)| value.bytes());
        let head = encode_message(message, bytes(&accepted), bytes(&proposed));
        let clock = shard.io.wall_us().to_le_bytes();
        let mut parts: [&[u8]; 6] = [&[]; 6];
        parts[..2].copy_from_slice(&[&clock, &head]);
        for (place, (head, value)) in accepted.iter().chain(&proposed).enumerate() {
            parts[2 + 2 * place..][..2].copy_from_slice(&[&head[..], &value.body]);
        }
        self.tell(shard, to, wire::MESSAGE, &parts);
    }

    /// Send something to a member; it may get lost.
    pub(super) fn tell(&self, shard: &Shard, to: Node, kind: u8, parts: &[&[u8]]) {
        shard.links.send(self.members[to.place()], self.tablet, kind, parts);
    }

    /// An entry is chosen: it takes effect, and who waits for it hears so.
    fn apply(&mut self, shard: &Shard, logs: &Logs, chosen: Chosen) {
        let value = self.values.get(chosen.value).expect("what is taken for chosen is held").clone();
        let header = value.header(chosen.index);
        let bent = (ioengine::canary("bend_a_write") && self.rank == 2).then(|| bent(&value));
        let entry = Entry { header, body: bent.as_deref().unwrap_or(&value.body), body_at: 0 };
        let own = self.own.take_if(|own| own.value == chosen.value);
        let mut askers = own.into_iter().flat_map(|own| own.askers);
        let mut state = shard.state.borrow_mut();
        let log_time = state.tablet(self.tablet).log_time.max(header.stamp);
        let (mut verifies, mut seals) = (false, false);
        let applied = apply(&mut state, &entry, &mut |decided| {
            verifies |= decided == Decided::Verified;
            seals |= decided == Decided::Sealed;
            if let Some(Asker { reply_to: Some(to), operation_count }) = askers.next() {
                tell_decided(shard, &to, decided, log_time, u32::from(operation_count));
            }
        });
        applied.expect("an entry is checked when it comes, and its room is reserved");
        if seals {
            shard.keeper.merge_due.notify();
        }
        if self.journaled != Some((chosen.index, chosen.value)) {
            ioengine::sometimes!("an entry is chosen that was not accepted here");
            logs.queue.borrow_mut().push(self.tablet, None, Some(chosen.index), chosen.index, |out| {
                push_chosen(out, chosen, &header, &value.body);
            });
            self.journaled = None;
            shard.staged.notify();
        }
        self.applied = chosen;
        if self.durable >= chosen.index {
            state.versions.set_coherent_index(self.tablet, units::LogIndex(chosen.index.0));
        }
        drop(state);
        tell_chosen(self.tablet, chosen);
        self.tail.push(chosen, value);
        self.open_since = None;
        self.gone_count = 0;
        self.wait_count = 0;
        if shard.marked.replace(false) {
            shard.staged.notify();
        }
        shard.counters.entries_chosen.add(1);
        if verifies {
            verify::take_down(shard, logs, self);
        }
    }

    fn reject(&mut self, shard: &Shard, value: ValueId, reason: Reason) {
        let Some(own) = self.own.take_if(|own| own.value == value) else { return };
        // What has not happened and will not may be tried at another replica.
        let outcome = match reason {
            Reason::UnknownOutcome => Outcome::UnknownOutcome,
            Reason::Busy | Reason::LearnerOnly | Reason::NotChosen => Outcome::NotCurrent,
        };
        ioengine::sometimes!("a write of a group is given up");
        for to in own.askers.into_iter().filter_map(|asker| asker.reply_to) {
            shard.counters.writes_unknown.add(u64::from(outcome == Outcome::UnknownOutcome));
            tell(shard, &to, |out| encode_outcome(out, LogTime(0), &outcome));
        }
    }

    fn wait(&mut self, shard: &Shard, logs: &Logs, wait: Wait) {
        let doubled = |base: Duration, count: u32| base.saturating_mul(1 << count.min(16));
        let duration = match wait {
            Wait::Answers => doubled(ANSWER_WAIT, self.wait_count).min(ANSWER_WAIT_MAX),
            Wait::BackOff => {
                let most = doubled(BACK_OFF, self.wait_count + 1).min(ANSWER_WAIT_MAX).as_nanos() as u64;
                BACK_OFF + Duration::from_nanos(shard.io.random() % most)
            }
            Wait::Tell => TELL_WAIT,
        };
        if wait != Wait::Tell {
            self.wait_count += 1;
        }
        self.timer = Some(shard.io.now().after(duration));
        logs.wake.notify();
    }

    /// Entries up to `to` are missing here and known at that peer.
    pub(super) fn fetch(&mut self, shard: &Shard, from: Node, to: LogIndex) {
        if let Some(fetch) = &mut self.fetch {
            fetch.to = fetch.to.max(to);
            return;
        }
        ioengine::sometimes!("entries are fetched");
        self.fetch = Some(Fetch { to, from, since: shard.io.now() });
        self.ask_entries(shard, from);
    }

    pub(super) fn ask_entries(&self, shard: &Shard, from: Node) {
        shard.counters.entry_fetches.add(1);
        self.tell(shard, from, wire::FETCH, &[&self.applied.index.next().0.to_le_bytes()]);
    }

    /// Who was asked has not got what is missing, or says nothing.
    pub(super) fn ask_another(&mut self, shard: &Shard) {
        let member_count = u8::try_from(self.members.len()).expect("members are few");
        let own = self.replica.node();
        let Some(fetch) = &mut self.fetch else { return };
        let after = |node: Node| Node((node.0 + 1) % member_count);
        fetch.since = shard.io.now();
        fetch.from = after(fetch.from);
        if fetch.from == own {
            fetch.from = after(own);
        }
        let from = fetch.from;
        self.ask_entries(shard, from);
    }

    /// After a step: what is not needed any more goes, what has become possible is done.
    pub(super) fn settle(&mut self, shard: &Shard, logs: &Logs) {
        let freed = self.values.keep(|value| self.replica.needs(value));
        shard.state.borrow_mut().memtables.active.release(freed);
        if self.fetch.as_ref().is_some_and(|fetch| fetch.to <= self.applied.index) {
            self.fetch = None;
        }
        self.reads.applied(shard, logs, self.applied.index);
    }

    /// The header of an entry of this replica's own making.
    pub(super) fn own_header(&self, stamp: LogTime, operation_count: u16, body_bytes: u32) -> EntryHeader {
        let log_index = units::LogIndex(self.applied.index.next().0);
        EntryHeader { tablet: self.tablet, log_index, stamp, operation_count, body_bytes }
    }
}
