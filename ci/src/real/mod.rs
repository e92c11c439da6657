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
//! With `caches` there are no proxies, but cache nodes that most reads go through, with troubles of their own, and an operator who says
//! anew where reads go; some readers are clients of the library. With `colds` there are three cold nodes behind the group, that all of it
//! sinks to within seconds, with troubles of their own.

mod beside;
mod caches;
mod colds;
mod damage;
mod disks;
pub mod gap;
mod links;
mod peace;
mod process;
mod readers;
pub mod recovery;
mod scene;
mod trouble;
mod work;

use crate::sim::checkers::{self, Final, Law};
use crate::sim::client::Shared;
use crate::sim::cluster::operator::{Said, speak};
use crate::sim::cluster::quiet::{FRAME_BYTES, patience};
use crate::sim::history::{History, Violation};
use crate::sim::plan::Mode;
use ioengine::signal::{Signal, Signals};
use ioengine::sim::Random;
use ioengine::sync::{Either, race};
use ioengine::uring::Runtime;
use ioengine::{CoreConfig, Io, Queue};
use layout::units::Uuid;
use net::client::Routed;
use scene::Scene;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use trouble::Nemesis;

/// Mean time from one word of where reads go to the next.
const SAID_EVERY: Duration = Duration::from_millis(1_500);

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
    /// Cache nodes before the group.
    pub caches: u16,
    /// Cold nodes behind the group, that it sinks to at once.
    pub colds: bool,
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
    /// What caches said of themselves, by name: the sum over their lives, as far as they were asked before each ended.
    pub cached: BTreeMap<&'static str, u64>,
    /// What clients of the library counted of their gets.
    pub routed: Routed,
    /// Reads that were judged, keys of multi-gets each.
    pub reads: u64,
    /// Runs of sections on the disks of each cold node in the end.
    pub sunk_runs: u64,
    /// Sections that stores link there.
    pub linked_sections: u64,
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
    let setup = scene::Setup { proxies: options.caches == 0, ..scene::small() };
    let mut scene = Scene::new(io, options, setup, &history).await?;
    let shared = Rc::new(Shared {
        history,
        device_failed: Cell::new(0),
        may_be_corrupt: options.damage,
        may_begin_late: Cell::new(true),
        stop: Cell::new(false),
        busy: Cell::new(0),
    });
    let mut report = Report::default();
    scene.start_all().await?;
    let mut nemesis = Nemesis::new(io, options, random.fork("trouble", 0));
    let looker = scene.routes.client(io, &shared, 1_100, 0, patience(), FRAME_BYTES);
    let mut work = random.fork("work", 0);
    let mut before_caches = None;
    if options.caches == 0 {
        work::launch(io, &scene, &shared, &mut work);
    } else {
        let readers = work::launch_before_caches(io, &scene, &shared, &mut work);
        before_caches = Some((readers, operator(io, &scene, random.fork("operator", 0))));
    }
    nemesis.rage(&mut scene, &looker, &mut report).await?;
    shared.stop.set(true);
    let operator = before_caches.as_ref().map(|(_, operator)| &**operator);
    let last = peace::come(io, &mut scene, &shared, operator, &mut nemesis.disks, &mut report).await?;
    if let Some((readers, _)) = &before_caches {
        report.routed = readers.routed.get();
    }
    judge(&scene, &shared, &last, &mut report);
    if before_caches.is_some() {
        unreached(&mut report);
    }
    if options.colds {
        colds::unreached(&mut report);
    }
    Ok(report)
}

/// Who says anew where reads go, until told to stop, and how often a node took it.
struct Operator {
    said: Rc<Said>,
    /// Still at it.
    busy: Cell<bool>,
    taken: Cell<u64>,
}

fn operator(io: &Io, scene: &Scene, random: Random) -> Rc<Operator> {
    let (_, share_ppm) = scene.routes.caches.as_ref().expect("there are caches");
    let named = scene.caches.iter().map(caches::Cache::node).collect();
    let said = Said::new(Uuid::default(), scene.routes.addresses.iter().copied(), share_ppm, true, named);
    let operator = Rc::new(Operator { said, busy: Cell::new(true), taken: Cell::new(0) });
    let (of_task, io) = (Rc::clone(&operator), io.clone());
    io.clone().spawn(Queue::Foreground, async move {
        let taken = speak(io, Rc::clone(&of_task.said), SAID_EVERY, random).await;
        of_task.taken.set(taken);
        of_task.busy.set(false);
    });
    operator
}

/// A run whose reads do not go through caches, or meet nothing there, says nothing of them.
fn unreached(report: &mut Report) {
    let of_caches = |name| report.cached.get(name).copied().unwrap_or(0);
    let ways = [
        ("the store's word that a value held is the newest", of_caches("not_modified")),
        ("a newer value of the store", of_caches("newer")),
        (
            "an answer of a cache to a client of the simulator",
            report.answers.get("Ok of a cache").copied().unwrap_or(0),
        ),
        ("an answer of a cache to a client of the library", report.routed.by_cache),
    ];
    for (what, _) in ways.iter().filter(|(_, count)| *count == 0) {
        let text = format!("nobody ever had {what}");
        report.violations.push(Violation { checker: "run", text });
    }
}

fn judge(scene: &Scene, shared: &Shared, last: &Final, report: &mut Report) {
    let history = shared.history.borrow();
    let law =
        Law { mode: Mode::Cluster, excused: 0, core_count: 1, limits: &scene.limits, memtables_grew: true };
    report.violations.extend(checkers::judge(&history, last, law));
    report.operations = history.operation_count;
    report.reads = history.reads.len() as u64;
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
            "  {} operations, {} reads of a key, {} starts, {} records; healed in {:.1} s",
            self.operations,
            self.reads,
            self.starts,
            self.records,
            self.healed.as_secs_f64()
        )?;
        writeln!(f, "  answers: {}", list(&self.answers))?;
        writeln!(f, "  trouble: {}", list(&self.troubles))?;
        if !self.cached.is_empty() {
            writeln!(f, "  caches: {}", list(&self.cached))?;
            let Routed { by_cache, fell_back, hedged, hedges_won } = self.routed;
            writeln!(
                f,
                "  calls of the library: {by_cache} answered by a cache, {fell_back} by the store in its place; {hedged} asked twice, {hedges_won} answered first by the second"
            )?;
        }
        if self.linked_sections > 0 {
            writeln!(
                f,
                "  sunk: {} sections in {} runs, on three disks each",
                self.linked_sections, self.sunk_runs
            )?;
        }
        for line in self.story.iter().filter(|_| !self.violations.is_empty()) {
            writeln!(f, "  {line}")?;
        }
        for violation in self.violations.iter().take(20) {
            writeln!(f, "  WRONG {violation}")?;
        }
        Ok(())
    }
}
