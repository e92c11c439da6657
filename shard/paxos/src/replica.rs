//! One replica of one tablet's log: what comes in, what goes out, and what a message does.
//!
//! Owns the replica's memory. Must never let an unflushed vote out, nor count one. Three states are kept apart:
//!
//! ```text
//!   now ──(Persist)──► writing ──(Flushed)──► flushed ──► messages, views, majorities
//!   changed by inputs    one at a time         all that a restart keeps
//! ```
//!
//! The failing history: A promises 2 in memory and says so; power cut; A has forgotten it, accepts 1; what was chosen
//! with ballot 1 thanks to A is not seen by the proposer of 2, who got A's promise.
//!
//! Invariants: `now` is never older than `writing`, nor that than `flushed`; every ballot that this life used at the
//! open index is at most `now.vote.promised`.

use crate::ballot::{Ballot, Incarnation, LogIndex, MEMBERS_MAX, Node, ValueId};
use crate::guard::{Guard, Guards};
use crate::message::{Message, Proposal};
use crate::propose::{Attempt, Write};
use crate::state::{Accepted, Chosen, State, View, Vote};
use crate::tip::{Tip, TipCheck};

/// What does not change while a replica lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Its own place.
    pub node: Node,
    /// 1, 3 or 5.
    pub member_count: u8,
    /// Prepares that a write may cost.
    pub prepare_count_max: u8,
    /// [`Guards::ALL`], but for tests.
    pub guards: Guards,
}

/// Names a write of the state; grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "inputs are passed by value, one at a time, and kept nowhere")]
pub enum Input {
    /// A client's write, under a value id never used before. Gets that wait now may be served by its round.
    Propose(ValueId),
    /// A message that arrived.
    Message(Node, Message),
    /// The write of that token is durable.
    Flushed(Token),
    /// A wait asked for by [`Output::Wait`] is over.
    Timer,
    /// All entries up to this one are here: fetched from a peer who knew them chosen.
    Fetched(Chosen),
    /// Gets wait: ask for the tip.
    AskTip,
    /// Answers to that question are late: ask it again of who has not answered.
    AskAgain,
    /// An entry has been pending for long: get it chosen.
    Complete,
    /// Learner-only: try to become a voter again. The members in these bits, by place, are given up by an operator: their word is not
    /// waited for, and what only they have voted for or know is lost. 0 but in an emergency.
    Return(u8),
    /// The write's deadline has passed.
    GiveUp,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Make this state durable, in the order of tokens; then say [`Input::Flushed`]. The bytes of every entry up to
    /// `chosen` and of the accepted value must be durable no later.
    Persist(Token, State),
    /// Send it.
    Send(Node, Message),
    /// An entry is chosen.
    Chosen(Chosen, Origin),
    /// The write ended without being known chosen.
    Rejected(ValueId, Reason),
    /// Entries up to that index are missing here and known at that peer: fetch them.
    Behind(Node, LogIndex),
    /// The answer to [`Input::AskTip`].
    Tip(Tip),
    /// Learner-only: no tip check here. Another replica may serve.
    NoTip,
    /// Say [`Input::Timer`] after a while.
    Wait(Wait),
    /// A vote counts again: amnesia is over.
    Returned,
    /// Another process runs as this node, started later: stop.
    Superseded,
}

/// Who found out that an entry is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This replica's own round, begun after the write's [`Input::Propose`], got a majority at its own ballot: gets that
    /// arrived before that input may be served when this entry is applied.
    OwnRound,
    /// This replica counted or heard of it otherwise: no tip check.
    Other,
}

/// Why a write was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// One write at a time.
    Busy,
    /// Learner-only.
    LearnerOnly,
    /// No accept has left: it has not happened and will not.
    NotChosen,
    /// An accept has left: it may have happened or happen yet.
    UnknownOutcome,
}

/// How long to wait, in the caller's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// As long as an answer takes: then what was not answered is sent again.
    Answers,
    /// At random, longer after each prepare: somebody else is proposing.
    BackOff,
    /// Until no next message has told the peers what is chosen.
    Tell,
}

/// One replica of one tablet's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Replica {
    pub(crate) config: Config,
    pub(crate) incarnation: Incarnation,
    pub(crate) now: State,
    pub(crate) writing: Option<(Token, State)>,
    pub(crate) flushed: State,
    pub(crate) token_last: Token,
    /// What peers have shown. Its own is never stored: see [`Replica::view`].
    pub(crate) views: [View; MEMBERS_MAX],
    /// Peers, as bits, to whom an answer is due when the state is flushed.
    pub(crate) owed: u8,
    /// Peers, as bits, whose last proposal was the value accepted here: its bytes need not go back to them.
    pub(crate) givers: u8,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) write: Option<Write>,
    pub(crate) question_last: u64,
    pub(crate) tip_check: Option<TipCheck>,
    /// Members, as bits, whose word the return from amnesia does without.
    pub(crate) given_up: u8,
    /// What an amnesic replica found that it had accepted at the open index then. It may have promised more since, so it is no vote; but where
    /// members are given up it may be all that is left of a chosen value.
    pub(crate) found: Option<(Chosen, Accepted)>,
}

impl Replica {
    /// Starts with what was recovered. `incarnation` is higher than any earlier of this node and flushed. Amnesic: it
    /// is not proven that every promise made is in `recovered`; then that this replica is learner-only must be
    /// flushed, too, before this call.
    #[must_use]
    pub fn start(config: Config, incarnation: Incarnation, recovered: State, amnesic: bool) -> Replica {
        assert!(matches!(config.member_count, 1 | 3 | 5), "1, 3 or 5 replicas");
        assert!(config.node.0 < config.member_count, "a replica is a member");
        let mut state = recovered;
        if !config.guards.has(Guard::KnownFlushed) {
            state.known = [Incarnation(0); MEMBERS_MAX];
        }
        assert!(state.known[config.node.place()] < incarnation, "each start has a higher incarnation");
        state.known[config.node.place()] = incarnation;
        if amnesic {
            state.vote = Vote::NONE;
            state.voter = !config.guards.has(Guard::ReturnPrepared);
        }
        Replica {
            config,
            incarnation,
            now: state,
            writing: None,
            flushed: state,
            token_last: Token(0),
            views: [View::default(); MEMBERS_MAX],
            owed: 0,
            givers: 0,
            attempt: None,
            write: None,
            question_last: 0,
            tip_check: None,
            given_up: 0,
            found: None,
        }
    }

    /// An amnesic replica that has found an entry which it accepted at the open index; the ballot may be lost. The caller has its bytes.
    #[must_use]
    pub fn with_found(mut self, accepted: Accepted) -> Replica {
        self.found = Some((self.now.chosen, accepted));
        self
    }

    /// Takes one input; appends what is to be done.
    pub fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Propose(value) => self.propose(value, out),
            Input::Message(from, message) => self.receive(from, &message, out),
            Input::Flushed(token) => self.flushed(token, out),
            Input::Timer => self.timer(out),
            Input::Fetched(chosen) => self.fetched(chosen, out),
            Input::AskTip => self.ask_tip(out),
            Input::AskAgain => self.ask_again(out),
            Input::Complete => self.complete(out),
            Input::Return(given_up) => self.come_back(given_up, out),
            Input::GiveUp => self.give_up(out),
        }
        self.persist(out);
    }

    fn receive(&mut self, from: Node, message: &Message, out: &mut Vec<Output>) {
        if from == self.config.node || from.0 >= self.config.member_count {
            return;
        }
        if !self.hear_of_lives(from, message, out) {
            return;
        }
        self.learn(message.chosen, out);
        if message.chosen.index > self.now.chosen.index {
            out.push(Output::Behind(from, message.chosen.index));
        }
        self.see(from, message);
        self.progress(out);
        if message.chosen.index == self.now.chosen.index
            && let Some(proposal) = message.proposal
        {
            self.vote(from, proposal);
        }
        self.take_answer(from, message, out);
        self.answer(from, message, out);
    }

    /// False: the message is of a life that is over, and says nothing any more.
    ///
    /// The failing history: A accepts, answers, loses its disk and comes back; the answer, on its way all the while,
    /// arrives and makes a majority with one other, although A holds nothing.
    fn hear_of_lives(&mut self, from: Node, message: &Message, out: &mut Vec<Output>) -> bool {
        let guards = self.config.guards;
        if message.known[self.config.node.place()] > self.incarnation {
            out.push(Output::Superseded);
            return false;
        }
        if message.known[from.place()] < self.now.known[from.place()] && guards.has(Guard::OldLifeDiscarded) {
            return false;
        }
        for (place, &heard) in message.known.iter().enumerate() {
            let told = place == from.place() || guards.has(Guard::KnownPassedOn);
            if told && heard > self.now.known[place] {
                self.now.known[place] = heard;
                self.givers &= !(1 << place);
                if guards.has(Guard::OldLifeDiscarded) {
                    self.views[place] = View::default();
                }
            }
        }
        true
    }

    /// A peer knows an entry to be chosen. It is the open one and its bytes are here: on to the next.
    fn learn(&mut self, chosen: Chosen, out: &mut Vec<Output>) {
        if chosen.index == self.now.open() && self.holds(chosen.value) {
            self.advance(chosen, Origin::Other, out);
        }
    }

    /// Takes the sender's flushed state into the view of it. A value named here whose bytes are not is as good as lost:
    /// the sender sees from our next message that we lack it.
    fn see(&mut self, from: Node, message: &Message) {
        let named = message.vote.and_then(|vote| vote.accepted);
        if message.vote_attached || named.is_none_or(|accepted| self.holds(accepted.value)) {
            let view = View { chosen_index: message.chosen.index, vote: message.vote };
            self.views[from.place()] = self.views[from.place()].max(view);
        }
    }

    /// The acceptor. Raises the promise; accepts what is not below it.
    fn vote(&mut self, from: Node, proposal: Proposal) {
        let guards = self.config.guards;
        let ballot = proposal.ballot;
        let vote = self.now.vote;
        let below = ballot < vote.promised && guards.has(Guard::PromiseKept);
        if !self.now.voter || below || (ballot.round == 0 && !self.owns_round_zero(ballot)) {
            return;
        }
        self.now.vote.promised = vote.promised.max(ballot);
        self.givers &= !(1 << from.0);
        if let Some(value) = proposal.value
            && (proposal.attached || self.holds(value))
        {
            let giver = 1 << from.0;
            let same = vote.accepted.is_some_and(|accepted| accepted.value == value);
            self.givers = if same { self.givers | giver } else { giver };
            self.now.vote.accepted = Some(Accepted { ballot, value });
        }
    }

    /// Whether round 0 of the open entry belongs to who made the ballot: the maker of the value chosen before, in the
    /// same life. That is one proposer at most, because the value is one, whoever got it chosen.
    ///
    /// The failing history: P fast-accepts v at 5 and restarts, its own acceptance unflushed; P fast-accepts w at 5.
    /// Some acceptors hold v, some w, none is newer, and a majority asked by somebody else cannot tell which is chosen.
    pub(crate) fn owns_round_zero(&self, ballot: Ballot) -> bool {
        let guards = self.config.guards;
        let maker = self.now.chosen.value;
        let life = maker.incarnation == ballot.incarnation
            || !guards.has(Guard::RoundZeroRestart)
            || !guards.has(Guard::BallotIncarnation);
        (maker != ValueId::NONE && maker.node == ballot.node && life) || !guards.has(Guard::RoundZeroOwner)
    }

    /// Answers if the sender asked for something and its view of us is older than what is flushed; while something is
    /// being written, when that is flushed.
    fn answer(&mut self, from: Node, message: &Message, out: &mut Vec<Output>) {
        if message.question.is_some() && (self.flushed.voter || !self.config.guards.has(Guard::LearnerNoTip))
        {
            let answer = message.question.map(|question| (message.known[from.place()], question));
            let message = Message { answer, ..self.message_for(from, None) };
            out.push(Output::Send(from, message));
        } else if message.proposal.is_some() {
            let former_life = message.known[self.config.node.place()] < self.incarnation;
            if self.flushed_lags() {
                self.owed |= 1 << from.0;
            } else if former_life || self.view(self.config.node) > message.view {
                out.push(Output::Send(from, self.message_for(from, None)));
            }
        }
    }

    fn flushed(&mut self, token: Token, out: &mut Vec<Output>) {
        let Some((writing, state)) = self.writing else { return };
        if writing != token {
            return;
        }
        let returned = state.voter && !self.flushed.voter;
        self.writing = None;
        self.flushed = state;
        if returned {
            out.push(Output::Returned);
        }
        let owed = self.owed;
        self.owed = if self.flushed_lags() { owed } else { 0 };
        for peer in self.peers().filter(|peer| owed & (1 << peer.0) != 0) {
            out.push(Output::Send(peer, self.message_for(peer, None)));
        }
        self.progress(out);
    }

    fn fetched(&mut self, chosen: Chosen, out: &mut Vec<Output>) {
        if chosen.index == self.now.open() {
            self.advance(chosen, Origin::Other, out);
        } else if chosen.index > self.now.chosen.index {
            // The write may be among the entries that were skipped; proposed again it would be chosen twice.
            if let Some(write) = self.write
                && write.accept_left
                && self.config.guards.has(Guard::WriteSkipped)
            {
                self.reject(out);
            }
            self.advance(chosen, Origin::Other, out);
        }
    }

    /// On to the next index.
    pub(crate) fn advance(&mut self, chosen: Chosen, origin: Origin, out: &mut Vec<Output>) {
        assert!(chosen.index > self.now.chosen.index, "the log grows");
        let ours = origin == Origin::OwnRound
            || (!self.config.guards.has(Guard::TipOwnRound)
                && self.attempt.is_some_and(|attempt| attempt.checks));
        self.now.chosen = chosen;
        self.now.vote = Vote::NONE;
        self.givers = 0;
        let tried = self.attempt.take().is_some();
        out.push(Output::Chosen(chosen, if ours { Origin::OwnRound } else { Origin::Other }));
        match self.write {
            Some(write) if write.value == chosen.value => self.write = None,
            Some(_) if origin == Origin::OwnRound => return self.begin(out),
            Some(_) => return out.push(Output::Wait(Wait::BackOff)),
            None => {}
        }
        if tried {
            out.push(Output::Wait(Wait::Tell));
        }
    }

    /// Writes the state if there is a vote, or a right to vote, that is not written yet. That an entry is chosen is no
    /// reason to write: it can be learnt again.
    fn persist(&mut self, out: &mut Vec<Output>) {
        if self.writing.is_none() && self.flushed_lags() {
            self.token_last = Token(self.token_last.0 + 1);
            self.writing = Some((self.token_last, self.now));
            out.push(Output::Persist(self.token_last, self.now));
        }
    }

    fn flushed_lags(&self) -> bool {
        let vote = if self.flushed.open() == self.now.open() { self.flushed.vote } else { Vote::NONE };
        self.now.vote != vote || self.now.voter != self.flushed.voter
    }

    /// What a member has shown; of this replica, what it may show: its flushed vote. Where the flushed state is of an
    /// earlier index, nothing has been voted yet at this one.
    pub(crate) fn view(&self, node: Node) -> View {
        if node != self.config.node {
            return self.views[node.place()];
        }
        let flushed = if self.flushed.open() == self.now.open() { self.flushed.vote } else { Vote::NONE };
        let guards = self.config.guards;
        let vote = if guards.has(Guard::VoteFlushed) { flushed } else { self.now.vote };
        View { chosen_index: self.now.chosen.index, vote: self.flushed.voter.then_some(vote) }
    }

    /// The members' views, as far as they are about the open index.
    pub(crate) fn votes(&self) -> impl Iterator<Item = (Node, Vote)> + '_ {
        let index = self.now.chosen.index;
        self.members().filter_map(move |node| {
            let view = self.view(node);
            let own_early = node == self.config.node && !self.config.guards.has(Guard::OwnVoteFlushed);
            let vote = if own_early && self.now.voter { Some(self.now.vote) } else { view.vote };
            vote.filter(|_| view.chosen_index == index).map(|vote| (node, vote))
        })
    }

    /// Whether the caller has to keep the bytes of a value that came with a message, or was proposed here: until it is known
    /// what is chosen at its index. A peer that is ahead may have shown it at an index that is not yet the open one here.
    #[must_use]
    pub fn needs(&self, value: ValueId) -> bool {
        let is = |vote: Vote| vote.accepted.is_some_and(|accepted| accepted.value == value);
        let index = self.now.chosen.index;
        let shown = |view: &View| view.chosen_index >= index && view.vote.is_some_and(is);
        // What is being written will be shown once it is flushed, whatever has been accepted since.
        let kept = |state: &State| state.chosen.index >= index && is(state.vote);
        let written = self.writing.as_ref().is_some_and(|(_, state)| kept(state));
        written || kept(&self.flushed) || self.holds(value) || self.views.iter().any(shown)
    }

    /// What it found at its start, if the log still stands there.
    pub(crate) fn found(&self) -> Option<Accepted> {
        self.found
            .filter(|(chosen, _)| *chosen == self.now.chosen && !self.now.voter)
            .map(|(_, accepted)| accepted)
    }

    /// Whether the caller has the bytes of a value, as far as the open index goes.
    fn holds(&self, value: ValueId) -> bool {
        let is = |accepted: Option<Accepted>| accepted.is_some_and(|accepted| accepted.value == value);
        is(self.now.vote.accepted)
            || is(self.found())
            || self.write.is_some_and(|write| write.value == value)
            || self.attempt.is_some_and(|attempt| attempt.value == Some(value))
            || self.votes().any(|(_, vote)| is(vote.accepted))
            || !self.config.guards.has(Guard::BytesHere)
    }

    /// A message to a peer, with or without a proposal. Values that the peer has shown to hold are only named.
    pub(crate) fn message_for(&self, to: Node, proposal: Option<(Ballot, Option<ValueId>)>) -> Message {
        let own = self.view(self.config.node);
        let theirs = self.views[to.place()];
        let held = |value: ValueId| {
            let accepted = theirs.vote.and_then(|vote| vote.accepted);
            theirs.chosen_index == own.chosen_index
                && accepted.is_some_and(|accepted| accepted.value == value)
        };
        let gave = |value: ValueId| {
            let accepted = self.now.vote.accepted.is_some_and(|accepted| accepted.value == value);
            accepted && self.givers & (1 << to.0) != 0
        };
        let named = own.vote.and_then(|vote| vote.accepted).map(|accepted| accepted.value);
        let proposed = proposal.and_then(|(_, value)| value);
        Message {
            known: self.now.known,
            chosen: self.now.chosen,
            vote: own.vote,
            vote_attached: named.is_some_and(|value| !gave(value) && !held(value) && proposed != Some(value)),
            view: theirs,
            proposal: proposal.map(|(ballot, value)| Proposal {
                ballot,
                value,
                attached: value.is_some_and(|value| !held(value)),
            }),
            question: None,
            answer: None,
        }
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = Node> + use<> {
        (0..self.config.member_count).map(Node)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = Node> + use<> {
        let own = self.config.node;
        self.members().filter(move |node| *node != own)
    }

    pub(crate) fn is_majority(&self, count: usize) -> bool {
        count > usize::from(self.config.member_count) / 2
    }

    /// What it waits for, other than a flush: what a timer would go on with.
    #[must_use]
    pub fn waits_for(&self) -> Option<Wait> {
        let write = self.write.map(|_| Wait::BackOff);
        self.attempt.map_or(write, |_| Some(Wait::Answers))
    }

    /// Whether a client's write waits here.
    #[must_use]
    pub fn has_write(&self) -> bool {
        self.write.is_some()
    }

    /// Its place.
    #[must_use]
    pub fn node(&self) -> Node {
        self.config.node
    }

    /// Its life.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The write of the state that is under way.
    #[must_use]
    pub fn is_writing(&self) -> Option<Token> {
        self.writing.map(|(token, _)| token)
    }

    /// The same replica with its tokens counted anew: two that differ in nothing else behave alike.
    #[must_use]
    pub fn renumbered(mut self) -> Replica {
        self.token_last = Token(1);
        if let Some((token, _)) = &mut self.writing {
            *token = Token(1);
        }
        self
    }

    /// What a restart would find.
    #[must_use]
    pub fn durable(&self) -> &State {
        &self.flushed
    }

    /// What it knows in memory.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.now
    }
}
