//! Worlds of three cold nodes: what all three have sealed is there, whatever happens; and one seed is one history.

use ci::sim::campaign::run;
use ci::sim::one_node::Options;
use ci::sim::plan::Mode;

#[test]
fn what_three_cold_nodes_have_sealed_is_there() {
    let (mut sealed, mut freed) = (0, 0);
    let mut reached = std::collections::BTreeSet::new();
    for seed in 0..16 {
        let report = run(seed, Mode::Cold, &Options::default());
        assert!(report.sum.violations.is_empty(), "{report}");
        let count = |name| report.sum.answers.get(name).copied().unwrap_or(0);
        (sealed, freed) = (sealed + count("sealed"), freed + count("freed"));
        reached.extend(report.marks.keys().copied());
    }
    let gray = [
        "a cold disk is set aside",
        "a cold disk is set back",
        "a cold disk that was suspected is well",
        "a cold disk that is aside is probed with a write",
        "an operation of a disk that is set aside is not waited for",
        "a request that waits for a cold disk hears that it is set aside",
    ];
    let missing: Vec<&str> = gray.into_iter().filter(|mark| !reached.contains(mark)).collect();
    assert!(missing.is_empty(), "never reached: {missing:?}");
    assert!(sealed > 2_000 && freed > 1_000, "{sealed} sealed, {freed} freed");
}

#[test]
fn one_seed_is_one_history() {
    let twice = [7, 7, 8].map(|seed| run(seed, Mode::Cold, &Options::default()).trace_hash);
    assert_eq!(twice[0], twice[1]);
    assert_ne!(twice[1], twice[2]);
}
