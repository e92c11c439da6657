//! The one message between replicas of a tablet. Owns its parts; must never say what is not flushed, the proposal aside.
//!
//! Semi-symmetric, after PaxosStore (Zheng et al., VLDB 2017): whatever a message is for, it carries what its sender has
//! flushed and what the sender has seen of the receiver. So one rule gives acknowledgement, refusal, re-sending after
//! loss, and learning; and a duplicate says nothing new. Invariant: all of it is about index `chosen.index + 1`.

use crate::ballot::{Ballot, Incarnation, MEMBERS_MAX, ValueId};
use crate::state::{Chosen, View, Vote};

/// What the sender proposes at the index after its chosen one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proposal {
    /// With which ballot.
    pub ballot: Ballot,
    /// `None`: a prepare.
    pub value: Option<ValueId>,
    /// The value's bytes go with it; else the receiver holds them.
    pub attached: bool,
}

/// A message. The caller adds the bytes of the values that are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Message {
    /// Highest incarnations that the sender has heard of; its own at its own place.
    pub known: [Incarnation; MEMBERS_MAX],
    /// Highest entry it knows to be chosen: a fact, whether flushed or not.
    pub chosen: Chosen,
    /// Its vote at the next index **as last flushed**; `None` while it is learner-only.
    pub vote: Option<Vote>,
    /// The bytes of the vote's accepted value go with it.
    pub vote_attached: bool,
    /// What it has seen of the receiver.
    pub view: View,
    /// Not its vote: it may leave before the sender's own write is flushed.
    pub proposal: Option<Proposal>,
    /// "What is your tip?", with the question's number.
    pub question: Option<u64>,
    /// `chosen` and `vote` are the answer to the receiver's question of this number, asked in this incarnation.
    pub answer: Option<(Incarnation, u64)>,
}
