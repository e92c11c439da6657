//! What a replica remembers, durable or not, and what it knows of the others. Owns the order "newer than" of votes.
//!
//! Invariants: a vote is about exactly one index, the one after the highest chosen index known (the *open* index), so
//! that no replica votes on i+1 before it knows i; within an incarnation a state only ever grows newer.
//! Must never decide: the rules stand in `replica.rs` and `propose.rs`.

use crate::ballot::{Ballot, Incarnation, LogIndex, MEMBERS_MAX, ValueId};

/// An entry known to be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Chosen {
    /// Its index; 0 = nothing is chosen yet.
    pub index: LogIndex,
    /// What was chosen there. Its maker owns round 0 of the next entry.
    pub value: ValueId,
}

/// An acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Accepted {
    /// Of this proposal.
    pub ballot: Ballot,
    /// Its value.
    pub value: ValueId,
}

/// What an acceptor has said at the open index. Ordered: newer is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Vote {
    /// Nothing below it is accepted any more.
    pub promised: Ballot,
    /// The newest acceptance.
    pub accepted: Option<Accepted>,
}

impl Vote {
    /// Nothing promised, nothing accepted: true of every acceptor that has not voted, without a flush.
    pub const NONE: Vote = Vote { promised: Ballot::NONE, accepted: None };
}

/// What a replica must have after a restart. The caller writes it as one record; see README.md for what goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// Highest index known to be chosen, and all below it.
    pub chosen: Chosen,
    /// At the open index.
    pub vote: Vote,
    /// Highest incarnation heard of, by member. Durable, because those who let a replica come back from amnesia must
    /// refuse its former votes also after a crash of their own.
    pub known: [Incarnation; MEMBERS_MAX],
    /// False: learner-only.
    pub voter: bool,
}

impl State {
    /// A replica of a new tablet.
    pub const NEW: State = State {
        chosen: Chosen { index: LogIndex(0), value: ValueId::NONE },
        vote: Vote::NONE,
        known: [Incarnation(0); MEMBERS_MAX],
        voter: true,
    };

    /// The index that is voted on.
    #[must_use]
    pub fn open(&self) -> LogIndex {
        self.chosen.index.next()
    }
}

/// What a replica has shown: what it knows to be chosen, and its flushed vote at the index after. Ordered by newness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct View {
    /// Highest index it knows to be chosen.
    pub chosen_index: LogIndex,
    /// At the index after; `None` for a learner-only replica and for one never heard of.
    pub vote: Option<Vote>,
}
