//! Worlds of a group of nodes that sinks what is old to three cold nodes: reads stay right whatever happens to any of them, and at the end the
//! machines hold what the log links, and nothing else, and not where it keeps much that is dead from being used again.

use ci::sim::campaign::run;
use ci::sim::one_node::Options;
use ci::sim::plan::Mode;

#[test]
fn what_is_sunk_is_there_and_nothing_else() {
    let mut marks = std::collections::BTreeMap::new();
    for seed in 0..24 {
        let report = run(seed, Mode::Sink, &Options::default());
        assert!(report.sum.violations.is_empty(), "{report}");
        for (mark, count) in report.marks {
            *marks.entry(mark).or_insert(0) += count;
        }
    }
    let must = [
        "a window is sunk",
        "a sealed table gives way to a sunk one",
        "a replica copies a sealed table",
        "a sunk table is made from links",
        "a sink is given up for the next",
        "a sink is overtaken",
        "a slow cold node is not waited for alone",
        "what is nobody's on a cold disk is freed",
        "a window is sealed again",
        "a window has left cold files that are mostly dead",
        "a cold file of which most is dead is passed over",
    ];
    for mark in must {
        assert!(marks.get(mark).is_some_and(|count| *count > 0), "{mark}: never in 24 worlds");
    }
}

#[test]
fn one_seed_is_one_history() {
    let twice = [5, 5, 6].map(|seed| run(seed, Mode::Sink, &Options::default()).trace_hash);
    assert_eq!(twice[0], twice[1]);
    assert_ne!(twice[1], twice[2]);
}
