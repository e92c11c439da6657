//! The scenario of one node: seeds run clean, and one seed is one history.

use ci::sim::one_node::{Options, run};
use ci::sim::plan::Mode;

fn options() -> Options {
    Options { hash: true, ..Options::default() }
}

#[test]
fn honest_disks_lose_nothing() {
    for seed in 0..8 {
        let report = run(seed, Mode::Honest, &options());
        assert!(report.sum.violations.is_empty(), "{report}");
        assert!(report.sum.operations > 100, "{report}");
    }
}

#[test]
fn one_seed_is_one_history_and_two_seeds_are_two() {
    let mut hashes = Vec::new();
    for seed in [3, 4, 5] {
        let one = run(seed, Mode::Honest, &options());
        let two = run(seed, Mode::Honest, &options());
        assert_eq!(
            (one.trace_hash, one.sum.history_hash),
            (two.trace_hash, two.sum.history_hash),
            "seed {seed}"
        );
        assert_eq!((one.events, one.sum.operations), (two.events, two.sum.operations), "seed {seed}");
        hashes.push((one.trace_hash, one.sum.history_hash));
    }
    for (at, hash) in hashes.iter().enumerate() {
        for other in &hashes[..at] {
            assert!(hash.0 != other.0 && hash.1 != other.1, "two seeds with one history");
        }
    }
}
