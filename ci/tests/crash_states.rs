//! States that a loss of power may leave: opened, and right; and a planted bug is found in them.

use ci::sim::crash_states::run;

#[test]
fn crash_states_keep_what_was_acknowledged() {
    for seed in 0..3 {
        let report = run(seed, 60, &[]);
        assert!(report.violations.is_empty(), "{report}");
        assert!(report.state_count > 2_000, "{report}");
        assert!(report.opened_count > report.unformatted_count + 30, "{report}");
    }
}

#[test]
fn an_answer_before_the_flush_is_found() {
    let canaries = ["answer_before_flush".to_owned()];
    assert!((0..3).any(|seed| !run(seed, 400, &canaries).violations.is_empty()));
}
