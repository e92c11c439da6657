//! Names: nodes, incarnations, log indexes, ballots, values. Owns their order; must never hold state.
//!
//! Invariant: a ballot is used by one start of one node for at most one value per index, so that two acceptances of
//! one ballot are acceptances of one value. That is why it carries the incarnation: a node that restarts has forgotten
//! which rounds it used.

/// Replicas of a tablet at most.
pub const MEMBERS_MAX: usize = 5;

/// A replica's place among the members of its tablet, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Node(pub u8);

impl Node {
    /// Its place in arrays by member.
    #[must_use]
    pub fn place(self) -> usize {
        self.0 as usize
    }
}

/// One start of one node; each start has a higher one, flushed before its first message. 0 = none seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

/// Index of an entry, from 1; 0 = before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogIndex(pub u64);

impl LogIndex {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }
}

/// What a proposal is made with. Ordered by round, then node, then incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ballot {
    /// 0: fast accept, without a prepare.
    pub round: u32,
    /// Who proposes.
    pub node: Node,
    /// In which of its lives.
    pub incarnation: Incarnation,
}

impl Ballot {
    /// Below every ballot that is used, because incarnations in use start at 1.
    pub const NONE: Ballot = Ballot { round: 0, node: Node(0), incarnation: Incarnation(0) };
}

/// Name of a value: who made it, in which life, the how-many-th there. The maker need not be who gets it chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ValueId {
    /// Who made it.
    pub node: Node,
    /// In which of its lives; 0 only in [`ValueId::NONE`].
    pub incarnation: Incarnation,
    /// Counts within that life.
    pub sequence: u64,
}

impl ValueId {
    /// What stands at index 0.
    pub const NONE: ValueId = ValueId { node: Node(0), incarnation: Incarnation(0), sequence: 0 };
}
