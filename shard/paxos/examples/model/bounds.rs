//! Which worlds are searched. Owns the list: each entry bounds a part of what may happen so that it can be closed.

use crate::world::{Bounds, Budget};
use paxos::{Guard, Guards};

const NOTHING: Budget = Budget {
    writes: [0; 3],
    crashes: 0,
    wipes: 0,
    duplicates: 0,
    tips: 0,
    returns: 0,
    completes: 0,
    resends: 0,
    tells: 0,
};

const fn bounds(budget: Budget, prepares: u8, flight: usize) -> Bounds {
    Bounds { budget, prepares, begun: false, flight, flush_at_once: true, guards: Guards::ALL }
}

const fn begun(budget: Budget, prepares: u8, flight: usize) -> Bounds {
    Bounds { begun: true, ..bounds(budget, prepares, flight) }
}

const fn slow(bounds: Bounds) -> Bounds {
    Bounds { flush_at_once: false, ..bounds }
}

/// In the check. Three entries are one of them chosen before, and two written, or three written.
pub(crate) const CHECKED: &[(&str, Bounds)] = &[
    ("rivals", bounds(Budget { writes: [1, 1, 0], ..NOTHING }, 1, 2)),
    ("entries", begun(Budget { writes: [2, 1, 0], ..NOTHING }, 1, 1)),
    ("late", begun(Budget { writes: [1, 1, 0], duplicates: 1, ..NOTHING }, 1, 2)),
    ("crashes", begun(Budget { writes: [1, 1, 0], crashes: 2, ..NOTHING }, 1, 1)),
    ("unflushed", slow(begun(Budget { writes: [1, 1, 0], crashes: 1, ..NOTHING }, 1, 1))),
    ("amnesia", begun(Budget { writes: [1, 1, 0], wipes: 1, returns: 1, ..NOTHING }, 1, 1)),
    ("amnesia_return", begun(Budget { writes: [1, 0, 1], wipes: 1, returns: 1, ..NOTHING }, 1, 2)),
    ("tips", begun(Budget { writes: [1, 1, 0], tips: 1, ..NOTHING }, 1, 1)),
    ("all", begun(ALL, 1, 2)),
];

const ALL: Budget = Budget {
    writes: [2, 1, 0],
    crashes: 2,
    wipes: 1,
    duplicates: 1,
    tips: 1,
    returns: 1,
    completes: 1,
    resends: 1,
    tells: 1,
};

/// Worlds in which a guard, removed alone, is missed.
pub(crate) const NEEDED: &[(Guard, Bounds)] = &[
    (Guard::VoteFlushed, slow(begun(Budget { writes: [1, 1, 0], crashes: 1, ..NOTHING }, 1, 2))),
    (Guard::OwnVoteFlushed, begun(Budget { writes: [1, 0, 0], ..NOTHING }, 1, 2)),
    (
        Guard::BallotIncarnation,
        begun(Budget { writes: [0, 2, 0], crashes: 1, duplicates: 1, ..NOTHING }, 1, 3),
    ),
    (Guard::RoundZeroOwner, begun(Budget { writes: [1, 1, 0], ..NOTHING }, 1, 2)),
    (Guard::RoundZeroRestart, begun(Budget { writes: [2, 0, 0], crashes: 1, ..NOTHING }, 1, 2)),
    (Guard::PromiseKept, begun(Budget { writes: [1, 1, 0], ..NOTHING }, 1, 2)),
    (Guard::PendingFirst, begun(Budget { writes: [1, 1, 0], ..NOTHING }, 1, 2)),
    (Guard::WriteSkipped, begun(Budget { writes: [1, 1, 0], ..NOTHING }, 2, 1)),
    (Guard::ReturnPrepared, begun(Budget { writes: [1, 1, 0], wipes: 1, ..NOTHING }, 1, 2)),
    (Guard::ReturnByOthers, begun(Budget { writes: [1, 0, 1], wipes: 1, returns: 1, ..NOTHING }, 1, 1)),
    (
        Guard::ReturnAdopts,
        begun(Budget { writes: [1, 0, 1], wipes: 1, returns: 1, resends: 1, ..NOTHING }, 1, 1),
    ),
    (Guard::LearnerNoTip, begun(Budget { writes: [1, 0, 0], wipes: 1, tips: 1, ..NOTHING }, 1, 2)),
    (Guard::TipAsked, begun(Budget { writes: [1, 0, 0], tips: 2, ..NOTHING }, 1, 2)),
    (Guard::TipPending, begun(Budget { writes: [1, 0, 0], tips: 1, ..NOTHING }, 1, 2)),
    (Guard::TipMajority, begun(Budget { writes: [1, 0, 0], tips: 1, ..NOTHING }, 1, 2)),
    (Guard::TipOwnRound, begun(Budget { writes: [1, 2, 0], ..NOTHING }, 1, 1)),
];

/// Only when asked for by name.
pub(crate) const LONG: &[(&str, Bounds)] = &[
    (
        "crashes_and_amnesia",
        begun(Budget { writes: [1, 1, 0], crashes: 2, wipes: 1, returns: 1, ..NOTHING }, 1, 1),
    ),
    (
        "crash_and_amnesia",
        begun(Budget { writes: [1, 1, 0], crashes: 1, wipes: 1, returns: 1, ..NOTHING }, 1, 1),
    ),
    ("three_entries_crash", begun(Budget { writes: [2, 1, 0], crashes: 1, ..NOTHING }, 1, 1)),
];

pub(crate) fn is_long(name: &str) -> bool {
    LONG.iter().any(|(long, _)| *long == name)
}
