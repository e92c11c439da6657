//! A group of real processes under faults: three or five `thermocline serve` on loopback addresses, clients at work, trouble from a
//! seed; then everything is mended, and the checkers of the simulator judge what clients saw.
//!
//! Owns the order of a run and its report. Must never look into a node but by what it answers. Invariant: whatever happens to the
//! harness, no process outlives it, and it ends only processes that it started.
//!
//! ```text
//! clients (sim::load, sim::client) ──► node ──► links (a proxy each way, can be cut) ──► other nodes
//!    └─ history ─► sim::checkers         └─ disk file, damaged while its node is down
//! ```

mod damage;
mod disks;
pub mod gap;
mod links;
mod peace;
mod process;
pub mod recovery;
mod scene;
mod trouble;
mod work;

use crate::sim::checkers::{self, Final, Law};
use crate::sim::client::Shared;
use crate::sim::cluster::quiet::{FRAME_BYTES, patience};
use crate::sim::history::{History, Violation};
use crate::sim::plan::Mode;
use ioengine::signal::{Signal, Signals};
use ioengine::sim::Random;
use ioengine::sync::{Either, race};
use ioengine::uring::Runtime;
use ioengine::{CoreConfig, Io};
use scene::Scene;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use trouble::Nemesis;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program `thermocline`.
    pub binary: PathBuf,
    /// Where disks and logs are made.
    pub folder: PathBuf,
    /// What happens.
    pub seed: u64,
    /// Nodes: 3 or 5, each with a replica of everything.
    pub nodes: u16,
    /// Length of the part with trouble.
    pub life: Duration,
    /// Whether disks are damaged, rolled back and lost, too: those of a minority.
    pub damage: bool,
    /// A planted bug for all nodes.
    pub canary: Option<String>,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum RealError {
    /// The system refused something that the harness needs.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Its answer.
        source: std::io::Error,
    },
    /// The program could not do what every run begins with.
    #[error("{0}")]
    Tool(String),
    /// Somebody asked the harness to end.
    #[error("interrupted")]
    Interrupted,
}

impl RealError {
    /// Of an error of the system while doing `what`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> RealError {
        let what = what.into();
        move |source| RealError::Io { what, source }
    }
}

/// What a run showed.
#[derive(Debug, Default)]
pub struct Report {
    /// Operations of clients that were answered.
    pub operations: u64,
    /// Answers by name, and silences.
    pub answers: BTreeMap<&'static str, u64>,
    /// What was done to the nodes, by name.
    pub troubles: BTreeMap<&'static str, u64>,
    /// Damage that was done, in order.
    pub story: Vec<String>,
    /// Starts of nodes.
    pub starts: u64,
    /// Records in the last export.
    pub records: u64,
    /// From the last trouble until every tablet had taken a write.
    pub healed: Duration,
    /// What is wrong.
    pub violations: Vec<Violation>,
}

/// Runs a group.
///
/// # Errors
/// The harness could not do its work: nothing is said of the nodes then.
pub fn run(options: &Options) -> Result<Report, RealError> {
    let config =
        CoreConfig { arena_bytes: 64 << 20, operation_count_max: 4096, ..CoreConfig::small("harness", 0) };
    let runtime = Runtime::new(config).map_err(|error| RealError::Tool(error.to_string()))?;
    let io = runtime.io().clone();
    let signals = io.signals();
    runtime.block_on(until_signal(&signals, play(&io, options)))
}

/// The end of `work`, or that somebody asked for ours.
async fn until_signal<T>(
    signals: &Signals,
    work: impl Future<Output = Result<T, RealError>>,
) -> Result<T, RealError> {
    let ended = async {
        loop {
            if signals.next().await == Signal::Terminate {
                return;
            }
        }
    };
    match race(Box::pin(work), ended).await {
        Either::First(report) => report,
        Either::Second(()) => Err(RealError::Interrupted),
    }
}

async fn play(io: &Io, options: &Options) -> Result<Report, RealError> {
    let random = Random::new(options.seed);
    let history = Rc::new(RefCell::new(History::new((options.seed % 65_521) as u16).repeating(true)));
    let mut scene = Scene::new(io, options, scene::small(), &history).await?;
    let shared = Rc::new(Shared {
        history,
        device_failed: Cell::new(0),
        may_be_corrupt: options.damage,
        stop: Cell::new(false),
        busy: Cell::new(0),
    });
    let mut report = Report::default();
    scene.start_all().await?;
    work::launch(io, &scene, &shared, &mut random.fork("work", 0));
    let mut nemesis = Nemesis::new(io, options, random.fork("trouble", 0));
    let looker = scene.routes.client(io, &shared, 1_100, 0, patience(), FRAME_BYTES);
    nemesis.rage(&mut scene, &looker, &mut report).await?;
    shared.stop.set(true);
    let last = peace::come(io, &mut scene, &shared, &mut nemesis.disks, &mut report).await?;
    judge(&scene, &shared, &last, &mut report);
    Ok(report)
}

fn judge(scene: &Scene, shared: &Shared, last: &Final, report: &mut Report) {
    let history = shared.history.borrow();
    let law =
        Law { mode: Mode::Cluster, excused: 0, core_count: 1, limits: &scene.limits, memtables_grew: true };
    report.violations.extend(checkers::judge(&history, last, law));
    report.operations = history.operation_count;
    report.answers = history.answers.clone();
    report.starts = scene.nodes.iter().map(|node| node.starts).sum();
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(
            f,
            "  {} operations, {} starts, {} records; healed in {:.1} s",
            self.operations,
            self.starts,
            self.records,
            self.healed.as_secs_f64()
        )?;
        writeln!(f, "  answers: {}", list(&self.answers))?;
        writeln!(f, "  trouble: {}", list(&self.troubles))?;
        for line in self.story.iter().filter(|_| !self.violations.is_empty()) {
            writeln!(f, "  {line}")?;
        }
        for violation in self.violations.iter().take(20) {
            writeln!(f, "  WRONG {violation}")?;
        }
        Ok(())
    }
}
