//! Opens crash states of a recorded block device: the verb behind `ci/check` and `ci/campaign`. Owns the command line
//! and which recordings are made; the work is in `ci::crash`.
//!
//!     crash_states proof  --states N [--seed S] [--folder F]     a journal of one page, right and with planted bugs
//!     crash_states engine --states N [--seed S] [--folder F]     the engine; then with flushes taken out of the record
//!     crash_states serve DISK                                    what the engine verb runs and kills
//!
//! Exit codes: 0 every state was good, 1 a state was not, 2 wrong use, 3 the harness could not run here.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ci::crash::CrashError;
use ci::crash::campaign::{Campaign, Report, run};
use ci::crash::device::Recorder;
use ci::crash::engine::{self, Before, Plan, Recorded};
use ci::crash::image::Image;
use ci::crash::log::Entry;
use ci::crash::writer::{Bug, RECORD_BYTES, TinyJournal, check};

const USE: &str = "use: crash_states proof|engine [--states N] [--seed S] [--folder F]";

/// What the command line asks.
struct Arguments {
    verb: String,
    states: usize,
    seed: u64,
    folder: PathBuf,
}

fn arguments() -> Option<Arguments> {
    let mut words = std::env::args().skip(1);
    let verb = words.next()?;
    let mut arguments =
        Arguments { verb, states: 200, seed: 1, folder: std::env::temp_dir().join("crash-states") };
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--states" => arguments.states = value.parse().ok()?,
            "--seed" => arguments.seed = value.parse().ok()?,
            "--folder" => arguments.folder = PathBuf::from(value),
            _ => return None,
        }
    }
    Some(arguments)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if let [_, verb, disk] = words.as_slice()
        && verb == "serve"
    {
        engine::serve(disk);
    }
    let outcome = match arguments() {
        Some(arguments) if arguments.verb == "proof" => proof(&arguments),
        Some(arguments) if arguments.verb == "engine" => engine_states(&arguments),
        _ => {
            eprintln!("{USE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("crash_states: {error}");
            ExitCode::from(3)
        }
    }
}

/// Proves the harness on a journal of one page: the honest one passes, each planted bug is found, on a real device.
fn proof(arguments: &Arguments) -> Result<bool, CrashError> {
    const RECORDS: u64 = 40;
    let device_bytes = (RECORDS + 1) * RECORD_BYTES as u64;
    let mut sum = Sum::default();
    for bug in [Bug::None, Bug::AcknowledgeBeforeFlush, Bug::TrustTornRecord] {
        let folder = made(arguments.folder.join(format!("proof-{bug:?}")))?;
        let entries = record(&folder, device_bytes, bug, RECORDS)?;
        let campaign = Campaign { states_max: arguments.states, seed: arguments.seed, device_bytes, folder };
        let report = run(&Image::default(), &entries, &campaign, |state| check(state, bug))?;
        sum.add(&format!("journal, {bug:?}"), &entries, &report, bug == Bug::None);
    }
    Ok(sum.close())
}

/// Runs the tiny journal on a recorded device.
fn record(folder: &Path, device_bytes: u64, bug: Bug, records: u64) -> Result<Vec<Entry>, CrashError> {
    use std::os::unix::fs::FileExt;
    let mut recorder = Recorder::start(folder, device_bytes, &Image::default())?;
    let device = std::fs::OpenOptions::new()
        .write(true)
        .open(recorder.path())
        .map_err(CrashError::io(format!("{}", recorder.path().display())))?;
    let mut journal = TinyJournal::new(bug);
    for _ in 0..records {
        journal.append(&mut |step| match step {
            Entry::Write { at, data } => device.write_all_at(&data, at).map_err(CrashError::io("write")),
            Entry::Flush => device.sync_data().map_err(CrashError::io("flush")),
            Entry::Mark(number) => recorder.mark(number),
            Entry::Zeros { .. } => Ok(()),
        })?;
    }
    drop(device);
    recorder.finish()
}

/// The engine: a device formatted, served, killed and served again; then the same from states that a power cut left,
/// so that a second power cut meets what the first one left behind; then a recording whose flushes are taken out here
/// and there, in which losses must be found.
fn engine_states(arguments: &Arguments) -> Result<bool, CrashError> {
    const SECOND_GENERATION: usize = 4;
    let (states, seed) = (arguments.states, arguments.seed);
    let operations_per_start = (states / 6).clamp(20, 300);
    let mut sum = Sum::default();

    let folder = made(arguments.folder.join("engine-first"))?;
    let plan = Plan { seed, start_count: 3, operations_per_start };
    let first = engine::record(&folder, &plan, Before::default())?;
    let mut later: Vec<Before> = Vec::new();
    let mut seen = 0usize;
    let every = (states / 2 / SECOND_GENERATION).max(1);
    let campaign = campaign(folder, states / 2, seed);
    let report = run(&first.before.image, &first.entries, &campaign, |state| {
        engine::check(state, &first.history, &[], &campaign.folder)?;
        seen += 1;
        // The format is marked first: a device without it would be formatted again, which is no second generation.
        if seen % every == every / 2 && !state.marks.is_empty() {
            let marks = state.marks.to_vec();
            later.push(Before { image: state.image(), history: first.history.clone(), marks });
        }
        Ok(())
    })?;
    sum.add("engine, from an empty device", &first.entries, &report, true);

    later.truncate(SECOND_GENERATION);
    let share = states.saturating_sub(report.state_count) / later.len().max(1);
    for (index, before) in later.into_iter().enumerate() {
        let seed = seed.wrapping_mul(1000) + index as u64;
        let folder = made(arguments.folder.join(format!("engine-second-{index}")))?;
        let plan = Plan { seed, start_count: 2, operations_per_start: operations_per_start.div_ceil(2) };
        let second = engine::record(&folder, &plan, before)?;
        let campaign = self::campaign(folder, share, seed);
        let report = states_of(&second, &second.entries, &campaign)?;
        sum.add("engine, from a crash state", &second.entries, &report, true);
    }

    let folder = made(arguments.folder.join("engine-without-flushes"))?;
    let campaign = self::campaign(folder, states / 4, seed);
    // A recording is of a real run: which flush matters in it is not known before. Each is missing from one fifth.
    let (mut lying, mut report) = (Vec::new(), Report::default());
    for first_out in 0..FLUSHES_PER_LOST {
        lying = without_flushes(&first.entries, first_out);
        report = states_of(&first, &lying, &campaign)?;
        if !report.failures.is_empty() {
            break;
        }
    }
    sum.add("engine, a fifth of the flushes taken out", &lying, &report, false);
    Ok(sum.close())
}

fn campaign(folder: PathBuf, states_max: usize, seed: u64) -> Campaign {
    Campaign { states_max, seed, device_bytes: engine::DEVICE_BYTES, folder }
}

fn states_of(recorded: &Recorded, entries: &[Entry], campaign: &Campaign) -> Result<Report, CrashError> {
    let before = &recorded.before;
    run(&before.image, entries, campaign, |state| {
        engine::check(state, &recorded.history, &before.marks, &campaign.folder)
    })
}

/// Of how many flushes one is taken out.
const FLUSHES_PER_LOST: usize = 5;

/// The recording of an engine that leaves out every fifth flush behind its format, from the one after so many on.
fn without_flushes(entries: &[Entry], first_out: usize) -> Vec<Entry> {
    let formatted = entries.iter().position(|entry| matches!(entry, Entry::Mark(_))).unwrap_or(0);
    let mut flushes = 0;
    let keep = |(index, entry): &(usize, &Entry)| {
        let counted = **entry == Entry::Flush && *index > formatted;
        flushes += usize::from(counted);
        !counted || (flushes - 1) % FLUSHES_PER_LOST != first_out
    };
    entries.iter().enumerate().filter(keep).map(|(_, entry)| entry.clone()).collect()
}

fn made(folder: PathBuf) -> Result<PathBuf, CrashError> {
    std::fs::create_dir_all(&folder).map_err(CrashError::io(format!("{}", folder.display())))?;
    Ok(folder)
}

/// Counts recordings as the gate counts tests.
#[derive(Default)]
struct Sum {
    passed: u32,
    failed: u32,
    states: usize,
}

impl Sum {
    /// Counts and prints one. `wanted_good`: no state may be bad; else some state must be.
    #[expect(clippy::print_stdout, reason = "a program of the gate reports on standard output")]
    fn add(&mut self, name: &str, entries: &[Entry], report: &Report, wanted_good: bool) {
        let good = report.failures.is_empty() == wanted_good && report.state_count > 0;
        if good {
            self.passed += 1
        } else {
            self.failed += 1
        }
        self.states += report.state_count;
        let flushes = entries.iter().filter(|entry| **entry == Entry::Flush).count();
        let marks = entries.iter().filter(|entry| matches!(entry, Entry::Mark(_))).count();
        println!(
            "{}: {name}: {} writes, {flushes} flushes, {marks} marks; {} spans ({} exhausted), {} states opened, {} of them torn, {} bad",
            if good { "good" } else { "FAILED" },
            entries.len() - flushes - marks,
            report.span_count,
            report.exhausted_count,
            report.state_count,
            report.torn_count,
            report.failures.len()
        );
        // Of a planted bug the first finding is enough.
        for failure in report.failures.iter().take(if wanted_good { usize::MAX } else { 1 }) {
            println!("  {failure}");
        }
    }

    /// Prints the closing line that the gate reads; true where nothing failed.
    #[expect(clippy::print_stdout, reason = "a program of the gate reports on standard output")]
    fn close(&self) -> bool {
        println!("{} states opened", self.states);
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}
