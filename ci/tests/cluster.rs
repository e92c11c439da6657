//! The scenario of a group of nodes: seeds run clean, and one seed is one history.

use ci::sim::cluster::run;
use ci::sim::one_node::Options;
use ci::sim::plan::Mode;

fn options() -> Options {
    Options { hash: true, ..Options::default() }
}

#[test]
fn groups_lose_nothing_and_go_on() {
    for seed in 0..6 {
        let report = run(seed, Mode::Cluster, &options());
        assert!(report.sum.violations.is_empty(), "{report}");
        assert!(report.sum.operations > 100, "{report}");
    }
}

#[test]
fn groups_to_which_anything_happens_say_nothing_wrong() {
    for seed in 0..3 {
        let report = run(seed, Mode::ClusterUnsafe, &options());
        assert!(report.sum.violations.is_empty(), "{report}");
    }
}

#[test]
fn one_seed_is_one_history_and_two_seeds_are_two() {
    let both = |seed| {
        let report = run(seed, Mode::Cluster, &options());
        (report.trace_hash, report.sum.history_hash, report.events)
    };
    let (three, four) = (both(3), both(4));
    assert_eq!(three, both(3));
    assert!(three.0 != four.0 && three.1 != four.1, "two seeds with one history");
}
