//! The proposer: a write's way to be chosen, completing what others left, and coming back from amnesia, which is the same
//! prepare with a stricter majority.
//!
//! Owns the attempt under way and the write that waits. Must never propose two values with one ballot, nor its own value
//! where another may be chosen. Invariant: an attempt is about the open index; when that moves, the attempt is over.

use crate::ballot::{Ballot, Incarnation, Node, ValueId};
use crate::guard::Guard;
use crate::replica::{Origin, Output, Reason, Replica, Wait};
use crate::state::{Accepted, Chosen, View, Vote};

/// By how many lives a member that is given up is declared to be further: more often nobody restarts a lost node by mistake, and much
/// less than lies between a disk and the one that takes its place (the caller's, 2^16).
const LIVES_GIVEN_UP: u64 = 1 << 10;

/// A ballot under way at the open index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Attempt {
    pub(crate) ballot: Ballot,
    /// `None` while preparing.
    pub(crate) value: Option<ValueId>,
    /// It began after the write was given, so that its acceptances say what the tip was since.
    pub(crate) checks: bool,
}

/// The write that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Write {
    pub(crate) value: ValueId,
    pub(crate) prepare_count: u8,
    /// From here on nobody can say that it will not happen.
    pub(crate) accept_left: bool,
}

impl Replica {
    pub(crate) fn propose(&mut self, value: ValueId, out: &mut Vec<Output>) {
        if self.write.is_some() {
            return out.push(Output::Rejected(value, Reason::Busy));
        }
        if !self.flushed.voter {
            return out.push(Output::Rejected(value, Reason::LearnerOnly));
        }
        self.write = Some(Write { value, prepare_count: 0, accept_left: false });
        if !self.config.guards.has(Guard::TipBeforeRound)
            && let Some(attempt) = &mut self.attempt
        {
            attempt.checks = true;
        }
        self.begin(out);
    }

    pub(crate) fn complete(&mut self, out: &mut Vec<Output>) {
        if self.flushed.voter && self.attempt.is_none() {
            self.prepare(out);
        }
    }

    /// Amnesia ends with a prepare at an index where a majority of *others* vote. Any majority that this replica's
    /// forgotten vote may be part of shares a member with them: what that member said before is found here, and what
    /// it says later tells that the former life is over. Indexes below theirs are chosen and need no vote.
    ///
    /// With members given up, all others are asked, if they are fewer: the promise to remember is broken where only those who are
    /// given up could have kept it.
    pub(crate) fn come_back(&mut self, given_up: u8, out: &mut Vec<Output>) {
        if !self.now.voter {
            self.given_up = given_up & !(1 << self.config.node.0);
            self.attempt = None;
            self.prepare(out);
            self.progress(out);
        }
    }

    pub(crate) fn give_up(&mut self, out: &mut Vec<Output>) {
        if self.write.is_some() {
            self.attempt = None;
            self.reject(out);
        }
    }

    pub(crate) fn reject(&mut self, out: &mut Vec<Output>) {
        if let Some(write) = self.write.take() {
            let reason = if write.accept_left { Reason::UnknownOutcome } else { Reason::NotChosen };
            out.push(Output::Rejected(write.value, reason));
        }
    }

    /// Nobody answered, or the back-off is over, or there was no next message to tell what is chosen.
    pub(crate) fn timer(&mut self, out: &mut Vec<Output>) {
        if let Some(attempt) = self.attempt {
            self.send(attempt, out);
        } else if self.write.is_some() {
            self.begin(out);
        } else {
            for peer in
                self.peers().filter(|peer| self.views[peer.place()].chosen_index < self.now.chosen.index)
            {
                out.push(Output::Send(peer, self.message_for(peer, None)));
            }
        }
    }

    /// The write's next try: an accept at once where round 0 is ours and unused, else a prepare.
    pub(crate) fn begin(&mut self, out: &mut Vec<Output>) {
        let Some(write) = &mut self.write else { return };
        if self.attempt.is_some() {
            return;
        }
        let value = write.value;
        let fast = Ballot { round: 0, node: self.config.node, incarnation: self.ballot_life() };
        if self.now.vote == Vote::NONE && self.owns_round_zero(fast) {
            self.accept(Attempt { ballot: fast, value: Some(value), checks: true }, out);
        } else if self.write.is_some_and(|write| write.prepare_count < self.config.prepare_count_max) {
            if let Some(write) = &mut self.write {
                write.prepare_count += 1;
            }
            self.prepare(out);
        } else {
            self.reject(out);
        }
    }

    fn prepare(&mut self, out: &mut Vec<Output>) {
        let seen = self.members().filter_map(|node| self.view(node).vote).map(|vote| vote.promised.round);
        let round = seen.max().unwrap_or(0).max(self.now.vote.promised.round) + 1;
        let ballot = Ballot { round, node: self.config.node, incarnation: self.ballot_life() };
        assert!(ballot > self.now.vote.promised, "a ballot is used once");
        let attempt = Attempt { ballot, value: None, checks: self.write.is_some() };
        self.attempt = Some(attempt);
        self.now.vote.promised = ballot;
        self.send(attempt, out);
    }

    /// Proposes. The accept leaves while the own acceptance is still being written: it is no vote.
    fn accept(&mut self, attempt: Attempt, out: &mut Vec<Output>) {
        let Some(value) = attempt.value else { return };
        self.attempt = Some(attempt);
        self.now.vote =
            Vote { promised: attempt.ballot, accepted: Some(Accepted { ballot: attempt.ballot, value }) };
        if let Some(write) = &mut self.write
            && write.value == value
        {
            write.accept_left = true;
        }
        self.send(attempt, out);
    }

    /// To each peer that has not answered it.
    fn send(&self, attempt: Attempt, out: &mut Vec<Output>) {
        let index = self.now.chosen.index;
        for peer in self.peers() {
            let view = self.views[peer.place()];
            let vote = view.vote.filter(|_| view.chosen_index == index).unwrap_or_default();
            let answered = match attempt.value {
                None => vote.promised == attempt.ballot,
                Some(_) => vote.accepted.is_some_and(|accepted| accepted.ballot == attempt.ballot),
            };
            if !answered {
                out.push(Output::Send(peer, self.message_for(peer, Some((attempt.ballot, attempt.value)))));
            }
        }
        out.push(Output::Wait(Wait::Answers));
    }

    /// After anything new was seen or flushed: is an entry chosen, is the prepare done, has somebody gone ahead?
    pub(crate) fn progress(&mut self, out: &mut Vec<Output>) {
        if let Some(accepted) = self.counted() {
            let own = self.attempt.is_some_and(|attempt| attempt.checks && attempt.ballot == accepted.ballot);
            let chosen = Chosen { index: self.now.open(), value: accepted.value };
            return self.advance(chosen, if own { Origin::OwnRound } else { Origin::Other }, out);
        }
        let Some(attempt) = self.attempt else { return };
        let ahead =
            self.votes().map(|(_, vote)| vote.promised).max().unwrap_or_default().max(self.now.vote.promised);
        if ahead > attempt.ballot {
            self.attempt = None;
            return out.push(Output::Wait(Wait::BackOff));
        }
        if attempt.value.is_none() && self.is_prepared(attempt.ballot) {
            self.prepared(attempt, out);
        }
    }

    /// The acceptance that a majority has flushed at one ballot.
    fn counted(&self) -> Option<Accepted> {
        self.votes().filter_map(|(_, vote)| vote.accepted).find(|accepted| {
            self.is_majority(self.votes().filter(|(_, vote)| vote.accepted == Some(*accepted)).count())
        })
    }

    /// A majority has promised: of all, or, on the way back from amnesia, a majority's number among the others.
    fn is_prepared(&self, ballot: Ballot) -> bool {
        let alone = !self.now.voter && !self.config.guards.has(Guard::ReturnByOthers);
        let promises = self.votes().filter(|(_, vote)| vote.promised == ballot).count();
        if !self.now.voter && self.given_up != 0 {
            let asked = self.peers().filter(|peer| self.given_up & 1 << peer.0 == 0).count();
            return promises >= asked || self.is_majority(promises);
        }
        self.is_majority(promises + usize::from(alone))
    }

    /// What is found goes first, newest ballot first, whoever showed it: a value that was ever accepted agrees with
    /// whatever was chosen below its ballot.
    fn prepared(&mut self, attempt: Attempt, out: &mut Vec<Output>) {
        let last_resort = self.found().filter(|_| self.given_up != 0);
        let found = self.votes().filter_map(|(_, vote)| vote.accepted).chain(last_resort).max();
        let found = found.map(|accepted| accepted.value);
        let guards = self.config.guards;
        let comes_back = !self.now.voter;
        if comes_back {
            self.end_lives();
        }
        self.now.voter = true;
        if comes_back && !guards.has(Guard::ReturnAdopts) {
            self.attempt = None;
            return;
        }
        let own = self.write.map(|write| write.value);
        let value = if guards.has(Guard::PendingFirst) { found.or(own) } else { own.or(found) };
        match value {
            Some(value) => self.accept(Attempt { value: Some(value), ..attempt }, out),
            None => self.attempt = None,
        }
    }

    /// The lives of those who are given up are over: what they have said, and will say, is of no account, here and at all who
    /// hear of it. A disk that takes the place of one of theirs is born with a higher incarnation.
    fn end_lives(&mut self) {
        for place in self.peers().map(Node::place).filter(|place| self.given_up & 1 << place != 0) {
            let known = &mut self.now.known[place];
            *known = Incarnation(known.0 + LIVES_GIVEN_UP);
            self.views[place] = View::default();
        }
        self.given_up = 0;
    }

    /// The incarnation in this replica's ballots.
    fn ballot_life(&self) -> Incarnation {
        if self.config.guards.has(Guard::BallotIncarnation) { self.incarnation } else { Incarnation(1) }
    }
}
