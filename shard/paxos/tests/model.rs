//! The model check, small: each guard is needed, the worlds of `examples/model` hold, long walks do, too. Owns only how
//! much of it a test can afford; `cargo run --example model` has the rest.

#[path = "../examples/model/bounds.rs"]
#[expect(dead_code, reason = "the program uses more of it")]
mod bounds;
#[path = "../examples/model/ghost.rs"]
mod ghost;
#[path = "../examples/model/intern.rs"]
mod intern;
#[path = "../examples/model/search.rs"]
#[expect(dead_code, reason = "the program reports more of it")]
mod search;
#[path = "../examples/model/walk.rs"]
mod walk;
#[path = "../examples/model/words.rs"]
#[expect(dead_code, reason = "scripts use more of it")]
mod words;
#[path = "../examples/model/world.rs"]
mod world;

use paxos::{Guard, Guards};
use search::End;

/// Guards whose histories are too deep to search for; each has a script (tests/scripts.rs).
const BY_SCRIPT: [Guard; 4] =
    [Guard::OldLifeDiscarded, Guard::KnownFlushed, Guard::KnownPassedOn, Guard::TipBeforeRound];

/// Guards of what the worlds leave out; walks miss them, and not only them.
const BY_WALK: [Guard; 1] = [Guard::BytesHere];

#[test]
fn walks_miss_guards() {
    for guard in
        [Guard::BytesHere, Guard::PromiseKept, Guard::PendingFirst, Guard::VoteFlushed, Guard::ReturnPrepared]
    {
        let guards = Guards::ALL.without(guard);
        let missed = (0..100).any(|seed| walk::walk(seed, 5, 2_000, guards).is_err());
        assert!(missed, "{guard:?} is not missed by any walk");
    }
}

#[test]
fn each_guard_removed_alone_is_missed() {
    for guard in Guard::ALL {
        let worlds = bounds::NEEDED.iter().find(|(needed, _)| *needed == guard);
        let elsewhere = BY_SCRIPT.contains(&guard) || BY_WALK.contains(&guard);
        assert!(worlds.is_some() != elsewhere, "{guard:?} has worlds, a script or walks");
        let Some((_, bounds)) = worlds else { continue };
        let without = world::Bounds { guards: bounds.guards.without(guard), ..*bounds };
        let found = search::search(without, 20_000_000, &mut |_, _| {});
        assert!(matches!(found.end, End::Wrong(_)), "{guard:?} is not missed in {} states", found.states);
    }
}

#[test]
fn the_worlds_in_which_a_guard_is_missed_are_right_with_it() {
    for (guard, bounds) in bounds::NEEDED {
        let found = search::search(*bounds, 300_000, &mut |_, _| {});
        if let End::Wrong(history) = found.end {
            panic!("worlds of {guard:?}:\n{history}");
        }
    }
}

#[test]
fn long_walks_of_three_and_five() {
    for seed in 0..600 {
        for members in [1, 3, 5] {
            let walked = walk::walk(seed, members, 2_000, Guards::ALL);
            assert!(walked.is_ok(), "seed {seed}, {members} replicas: {walked:?}");
        }
    }
}

#[test]
fn walks_reach_what_is_rare() {
    let mut sum = walk::Walked::default();
    for seed in 0..50 {
        let walked = walk::walk(seed, 5, 2_000, Guards::ALL).expect("walks are right");
        sum.chosen += walked.chosen;
        sum.wipes += walked.wipes;
        sum.returns += walked.returns;
        sum.tips += walked.tips;
        sum.own_rounds += walked.own_rounds;
    }
    assert!(sum.chosen > 500 && sum.wipes > 50 && sum.returns > 50, "{sum:?}");
    assert!(sum.tips > 100 && sum.own_rounds > 300, "{sum:?}");
}
