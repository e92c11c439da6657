//! Seeds that found something once find nothing now.

use ci::sim::campaign::{regressions, run};
use ci::sim::one_node::Options;

#[test]
fn seeds_that_found_something_once_run_clean() {
    for (mode, seed, what) in regressions() {
        let report = run(seed, mode, &Options::default());
        assert!(report.sum.violations.is_empty(), "{what}: {report}");
    }
}
