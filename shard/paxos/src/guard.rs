//! The rules that can be switched off, so that tests can show that each is needed. Owns the list.
//!
//! Must never be anything but complete outside tests: [`Guards::ALL`] is what the engine runs with. Invariant: each
//! guard removed alone makes the model check, a script or a walk fail (tests/model.rs, tests/scripts.rs).

/// A rule that can be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Guard {
    /// A message shows the flushed vote, not the one still being written.
    VoteFlushed,
    /// A proposer counts its own vote as the others': when it is flushed.
    OwnVoteFlushed,
    /// A ballot carries the incarnation.
    BallotIncarnation,
    /// Round 0 belongs to the maker of the value before, not to anybody.
    RoundZeroOwner,
    /// Round 0 belongs to the maker in that same life: after a restart comes a prepare.
    RoundZeroRestart,
    /// Nothing is accepted below a promise.
    PromiseKept,
    /// A proposer takes up the newest value accepted.
    PendingFirst,
    /// A value whose bytes are not here is neither accepted nor taken for chosen.
    BytesHere,
    /// A write whose accept has left is not proposed again at an index beyond entries that were skipped.
    WriteSkipped,
    /// A replica with amnesia does not vote before it has prepared with others.
    ReturnPrepared,
    /// Its own promise is no part of that prepare's majority.
    ReturnByOthers,
    /// It accepts what it found before its vote counts again.
    ReturnAdopts,
    /// Votes of a life that is known to be over do not count.
    OldLifeDiscarded,
    /// Which lives are over is remembered over a restart.
    KnownFlushed,
    /// Which lives are over is passed on.
    KnownPassedOn,
    /// A learner-only replica neither answers tip checks nor counts itself.
    LearnerNoTip,
    /// Only an answer to this very question counts.
    TipAsked,
    /// Something accepted above the tip may be chosen.
    TipPending,
    /// It takes a majority to know the tip.
    TipMajority,
    /// A write round is a tip check only if a majority accepted at its own ballot.
    TipOwnRound,
    /// And only for what came before its first message.
    TipBeforeRound,
}

impl Guard {
    /// All of them.
    pub const ALL: [Guard; 21] = [
        Guard::VoteFlushed,
        Guard::OwnVoteFlushed,
        Guard::BallotIncarnation,
        Guard::RoundZeroOwner,
        Guard::RoundZeroRestart,
        Guard::PromiseKept,
        Guard::PendingFirst,
        Guard::BytesHere,
        Guard::WriteSkipped,
        Guard::ReturnPrepared,
        Guard::ReturnByOthers,
        Guard::ReturnAdopts,
        Guard::OldLifeDiscarded,
        Guard::KnownFlushed,
        Guard::KnownPassedOn,
        Guard::LearnerNoTip,
        Guard::TipAsked,
        Guard::TipPending,
        Guard::TipMajority,
        Guard::TipOwnRound,
        Guard::TipBeforeRound,
    ];
}

/// A set of guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guards(u32);

impl Guards {
    /// Every rule holds.
    pub const ALL: Guards = Guards((1 << Guard::ALL.len()) - 1);

    /// The set without one.
    #[must_use]
    pub fn without(self, guard: Guard) -> Guards {
        Guards(self.0 & !(1 << guard as u32))
    }

    /// Whether the rule holds.
    #[must_use]
    pub fn has(self, guard: Guard) -> bool {
        self.0 & (1 << guard as u32) != 0
    }
}
