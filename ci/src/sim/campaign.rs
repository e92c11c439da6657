//! Many seeds: their sum, how dense and fast they were, and whether every rare path was reached.

use super::cluster;
use super::cold;
use super::history::Violation;
use super::one_node::{self, Options};
use super::plan::Mode;
use super::report::SeedReport;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Names of the marks that a campaign must reach, one a line; `#` begins a remark. Of single nodes, and of clusters.
const REQUIRED_MARKS: [&str; 2] =
    [include_str!("../../sim_marks.txt"), include_str!("../../sim_marks_cluster.txt")];
/// Seeds that found something once, one a line: mode, seed, name; `#` begins a remark.
const REGRESSIONS: &str = include_str!("../../seeds.txt");
/// Planted bugs, one a line: name, mode, a seed that finds it, what it is; `#` begins a remark.
const CANARIES: &str = include_str!("../../canaries.txt");
/// Runs from which on a mark that never fired is wrong.
const MARKS_FROM_RUNS: u64 = 200;
/// Client operations per simulated second from which on simulated time counts.
const DENSE: f64 = 50.0;

/// The sum over runs.
#[derive(Clone, Debug, Default)]
pub struct Campaign {
    runs: u64,
    wrong: Vec<(u64, Mode)>,
    operations: u64,
    simulated_s: f64,
    dense_s: f64,
    cpu_s: f64,
    starts: u64,
    failed_starts: u64,
    formats: u64,
    excused: u64,
    crashed_runs: u64,
    sealed_runs: u64,
    caught_up_runs: u64,
    faults: BTreeMap<&'static str, u64>,
    /// Of single nodes, and of clusters.
    of: [Marks; 2],
    answers: BTreeMap<&'static str, u64>,
}

/// What the runs of one kind reached.
#[derive(Clone, Debug, Default)]
struct Marks {
    runs: u64,
    counts: BTreeMap<&'static str, u64>,
}

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}

/// Marks that a campaign must reach, of single nodes or of clusters.
#[must_use]
pub fn required_marks(of_clusters: bool) -> Vec<&'static str> {
    lines(REQUIRED_MARKS[usize::from(of_clusters)]).collect()
}

fn mode(word: &str) -> Option<Mode> {
    Mode::ALL.into_iter().find(|mode| mode.name() == word)
}

/// Planted bugs: name, the mode in which they show, a seed that finds them.
#[must_use]
pub fn canaries() -> Vec<(&'static str, Mode, u64)> {
    let parse = |line: &'static str| {
        let mut words = line.splitn(4, ' ');
        let canary = (words.next()?, mode(words.next()?)?, words.next()?.parse().ok()?);
        words.next().map(|_what| canary)
    };
    lines(CANARIES)
        .map(|line| parse(line).expect("a line of canaries.txt is name, mode, seed, what"))
        .collect()
}

/// Seeds that found something once: mode, seed, what.
#[must_use]
pub fn regressions() -> Vec<(Mode, u64, &'static str)> {
    let parse = |line: &'static str| {
        let mut words = line.splitn(3, ' ');
        Some((mode(words.next()?)?, words.next()?.parse().ok()?, words.next()?))
    };
    lines(REGRESSIONS).map(|line| parse(line).expect("a line of seeds.txt is mode, seed, name")).collect()
}

/// Run a seed; a panic, which is an assertion of ours, is a violation like any other.
#[must_use]
pub fn run(seed: u64, mode: Mode, options: &Options) -> SeedReport {
    let run = match mode {
        Mode::Honest | Mode::Lying => one_node::run,
        Mode::Cluster | Mode::ClusterUnsafe | Mode::Sink => cluster::run,
        Mode::Cold => cold::run,
    };
    let ran = catch_unwind(AssertUnwindSafe(|| run(seed, mode, options)));
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let text = text.unwrap_or_else(|| "a panic without words".to_owned());
        SeedReport::panicked(seed, mode, Violation { checker: "panic", text })
    })
}

/// The first of `seeds` on which the planted bug is seen, and all is quiet without it; and what was seen. By a checker of safety, if there
/// is such a seed: that a group makes no progress, or a node does not start, has many causes.
#[must_use]
pub fn hunt(canary: &str, mode: Mode, seeds: Range<u64>) -> Option<(u64, Violation)> {
    let with = Options { canaries: vec![canary.to_owned()], ..Options::default() };
    let mut stuck = None;
    for seed in seeds {
        let mut seen = run(seed, mode, &with).sum.violations;
        seen.sort_by_key(|seen| seen.checker == "run");
        let Some(first) = seen.into_iter().next() else { continue };
        let is_stuck = first.checker == "run";
        if is_stuck && stuck.is_some() || !run(seed, mode, &Options::default()).sum.violations.is_empty() {
            continue;
        }
        if !is_stuck {
            return Some((seed, first));
        }
        stuck = Some((seed, first));
    }
    stuck
}

fn add(sum: &mut BTreeMap<&'static str, u64>, more: &BTreeMap<&'static str, u64>) {
    for (name, count) in more {
        *sum.entry(name).or_insert(0) += count;
    }
}

impl Campaign {
    /// One more run.
    pub fn add(&mut self, report: &SeedReport) {
        self.runs += 1;
        if !report.sum.violations.is_empty() {
            self.wrong.push((report.seed, report.mode));
        }
        self.operations += report.sum.operations;
        self.simulated_s += report.simulated_s;
        if report.density() >= DENSE {
            self.dense_s += report.simulated_s;
        }
        self.cpu_s += report.cpu_s;
        self.starts += report.sum.starts;
        self.failed_starts += report.sum.failed_starts;
        self.formats += report.sum.formats;
        self.excused += report.sum.excused;
        let crashed = ["kill", "power_cut"].iter().any(|kind| report.faults.contains_key(kind));
        self.crashed_runs += u64::from(crashed);
        let reached = |names: &[&str]| u64::from(names.iter().any(|name| report.marks.contains_key(name)));
        self.sealed_runs += reached(&["a window is sealed", "a group seals a window"]);
        self.caught_up_runs += reached(&["entries are fetched", "a copy is installed"]);
        add(&mut self.faults, &report.faults);
        if report.mode != Mode::Cold {
            let of = &mut self.of[usize::from(report.mode.is_cluster())];
            of.runs += 1;
            add(&mut of.counts, &report.marks);
        }
        add(&mut self.answers, &report.sum.answers);
    }

    /// Processor seconds so far.
    #[must_use]
    pub fn cpu_s(&self) -> f64 {
        self.cpu_s
    }

    /// Required marks that never fired in the runs of a kind; none while there are too few of those.
    fn missing_marks(&self, of_clusters: bool) -> Vec<&'static str> {
        let of = &self.of[usize::from(of_clusters)];
        let is_missing = |name: &&'static str| !of.counts.contains_key(name);
        let required = required_marks(of_clusters).into_iter();
        required.filter(is_missing).filter(|_| of.runs >= MARKS_FROM_RUNS).collect()
    }

    /// Whether anything is wrong. The marks of single nodes count when all their modes were run.
    #[must_use]
    pub fn is_wrong(&self, all_modes: bool) -> bool {
        let is_unreached = |of_clusters| !self.missing_marks(of_clusters).is_empty();
        !self.wrong.is_empty() || all_modes && is_unreached(false) || is_unreached(true)
    }

    /// The sum as text.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let list = |map: &BTreeMap<&'static str, u64>| {
            map.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        let per = |sum: f64, by: f64| if by > 0.0 { sum / by } else { 0.0 };
        let _infallible = write!(
            out,
            "{} runs, {} wrong; {} operations in {:.1} h of simulated time ({:.0}/s); {:.0} s of processor time\n\
             speed {:.0} x real time; {:.0} x counting only runs of {DENSE} operations/s and more ({:.0} % of the time)\n\
             {} starts, {} failed starts, {} formats, {:.0} % of runs with a crash, {:.0} % with a seal, \
             {:.0} % with a catch-up; {} losses excused (FORMAT.md, journal)\n\
             faults: {}\nanswers: {}\nmarks of single nodes: {}\nmarks of clusters: {}\n\
             required marks that never fired: {:?} {:?}\n",
            self.runs,
            self.wrong.len(),
            self.operations,
            self.simulated_s / 3600.0,
            per(self.operations as f64, self.simulated_s),
            self.cpu_s,
            per(self.simulated_s, self.cpu_s),
            per(self.dense_s, self.cpu_s),
            per(100.0 * self.dense_s, self.simulated_s),
            self.starts,
            self.failed_starts,
            self.formats,
            per(100.0 * self.crashed_runs as f64, self.runs as f64),
            per(100.0 * self.sealed_runs as f64, self.runs as f64),
            per(100.0 * self.caught_up_runs as f64, self.runs as f64),
            self.excused,
            list(&self.faults),
            list(&self.answers),
            list(&self.of[0].counts),
            list(&self.of[1].counts),
            self.missing_marks(false),
            self.missing_marks(true),
        );
        for (seed, mode) in &self.wrong {
            let _infallible = writeln!(out, "WRONG: --seed {seed} --mode {}", mode.name());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_can_be_read() {
        assert!(required_marks(false).len() > 10 && required_marks(true).len() > 10);
        let regressions = regressions();
        assert!(regressions.iter().all(|(_, _, what)| !what.is_empty()));
    }

    #[test]
    fn a_mark_that_no_cluster_reached_is_wrong() {
        let mut campaign = Campaign::default();
        campaign.of[0].runs = MARKS_FROM_RUNS;
        assert!(!campaign.is_wrong(false) && campaign.is_wrong(true), "one mode reaches less");
        campaign.of[0].counts = required_marks(false).into_iter().map(|name| (name, 1)).collect();
        campaign.of[1].runs = MARKS_FROM_RUNS - 1;
        assert!(!campaign.is_wrong(true), "too few clusters");
        campaign.of[1].runs += 1;
        assert!(campaign.is_wrong(false) && campaign.is_wrong(true));
        campaign.of[1].counts = required_marks(true).into_iter().map(|name| (name, 1)).collect();
        assert!(!campaign.is_wrong(true));
        campaign.of[1].counts.remove("entries are fetched");
        assert_eq!(campaign.missing_marks(true), ["entries are fetched"]);
        assert!(campaign.is_wrong(false));
    }
}
