//! Opens crash states of a recorded block device: the verb behind `ci/check crash` and `ci/campaign crash`. Owns the
//! command line; the work is in `ci::crash`.
//!
//!     crash_states proof --states N [--seed S] [--folder F]
//!
//! Exit codes: 0 every state was good, 1 a state was not, 2 wrong use, 3 the harness could not run here.

use std::path::PathBuf;
use std::process::ExitCode;

use ci::crash::CrashError;
use ci::crash::campaign::{Campaign, Report, run};
use ci::crash::device::Recorder;
use ci::crash::log::Entry;
use ci::crash::writer::{Bug, RECORD_BYTES, TinyJournal, check};

const USE: &str = "crash_states proof --states N [--seed S] [--folder F]";

/// What the command line asks.
struct Arguments {
    verb: String,
    states: usize,
    seed: u64,
    folder: PathBuf,
}

fn arguments() -> Option<Arguments> {
    let mut words = std::env::args().skip(1);
    let mut arguments = Arguments {
        verb: words.next()?,
        states: 200,
        seed: 1,
        folder: std::env::temp_dir().join("crash-states"),
    };
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
    let Some(arguments) = arguments() else {
        eprintln!("use: {USE}");
        return ExitCode::from(2);
    };
    let outcome = match arguments.verb.as_str() {
        "proof" => proof(&arguments),
        _ => {
            eprintln!("use: {USE}");
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
        let folder = arguments.folder.join(format!("proof-{bug:?}"));
        std::fs::create_dir_all(&folder).map_err(CrashError::io(format!("{}", folder.display())))?;
        let entries = record(&folder, device_bytes, bug, RECORDS)?;
        let campaign = Campaign {
            states_max: arguments.states,
            seed: arguments.seed,
            device_bytes,
            folder: folder.clone(),
        };
        let report = run(&entries, &campaign, |state| check(state, bug))?;
        print(&format!("{bug:?}"), &entries, &report, bug != Bug::None);
        sum.add(report.failures.is_empty() == (bug == Bug::None) && report.state_count > 0);
    }
    Ok(sum.close())
}

/// Counts campaigns as the gate counts tests.
#[derive(Default)]
struct Sum {
    passed: u32,
    failed: u32,
}

impl Sum {
    fn add(&mut self, good: bool) {
        if good { self.passed += 1 } else { self.failed += 1 }
    }

    /// Prints the closing line that the gate reads; true where nothing failed.
    #[expect(clippy::print_stdout, reason = "a program of the gate reports on standard output")]
    fn close(&self) -> bool {
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}

/// Runs the tiny journal on a recorded device.
fn record(
    folder: &std::path::Path,
    device_bytes: u64,
    bug: Bug,
    records: u64,
) -> Result<Vec<Entry>, CrashError> {
    use std::os::unix::fs::FileExt;
    let mut recorder = Recorder::start(folder, device_bytes)?;
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

#[expect(clippy::print_stdout, reason = "a program of the gate reports on standard output")]
fn print(name: &str, entries: &[Entry], report: &Report, wanted: bool) {
    let flushes = entries.iter().filter(|entry| **entry == Entry::Flush).count();
    println!(
        "{name}: {} operations, {flushes} flushes, {} spans ({} exhausted), {} states opened, {} of them torn, {} bad",
        entries.len(),
        report.span_count,
        report.exhausted_count,
        report.state_count,
        report.torn_count,
        report.failures.len()
    );
    // Of a planted bug the first finding is enough.
    for failure in report.failures.iter().take(if wanted { 1 } else { usize::MAX }) {
        println!("  {failure}");
    }
}
