//! `thermocline bench`: runs what was asked for, shows it, keeps it. Owns the order of rounds and sides; what is asked
//! of whom is in the files below.

mod background;
mod caches;
mod cluster;
mod cold;
mod disk;
mod gets;
mod hosts;
mod idle;
mod puts;
mod rebuild;
mod scan;
mod sections;
mod session;
mod sink;
mod timeline;
mod ycsb;

use crate::args::{BenchArgs, BenchName};
use crate::load::LoadError;
use crate::machine::Machine;
use crate::micro;
use crate::outside::{self, OutsideError};
use crate::report::{Run, compare, html, markdown};
use crate::target::TargetError;
use crate::workloads::ingest::DataError;
use ioengine::CoreConfig;
use ioengine::uring::Runtime;
use session::Session;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Why a bench ended early, or what a smoke run found.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Load could not be made.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A server could not be started.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A file could not be used.
    #[error(transparent)]
    Outside(#[from] OutsideError),
    /// Data to ingest could not be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A peer failed.
    #[error("{0}")]
    Peer(String),
    /// A report is not one.
    #[error("{file}: no report of a bench: {error}")]
    Report {
        /// The file.
        file: String,
        /// What is wrong with it.
        error: String,
    },
    /// The command line does not fit together.
    #[error("{0}")]
    Usage(&'static str),
    /// A smoke run got answers that are wrong, or none.
    #[error("smoke: {0}")]
    Wrong(String),
    /// What stands on disks is not what should.
    #[error(
        "what was filled is not what it was filled from: {0}; the disks are left as they are, to be looked at"
    )]
    Differs(String),
    /// Steps that take more instructions than they may.
    #[error("{0}")]
    Worse(String),
    /// What was to be shown could not be written.
    #[error("cannot write the report: {0}")]
    Show(#[from] std::io::Error),
}

/// Run what `args` ask for and show it on `out`.
///
/// # Errors
/// [`BenchError`]; what was measured before is lost then.
pub fn bench_main(args: &BenchArgs, out: &mut dyn Write) -> Result<(), BenchError> {
    if args.name == BenchName::Compare {
        return show_comparison(args, out);
    }
    if !args.disks.is_empty() && !matches!(args.name, BenchName::Rebuild | BenchName::Sink) {
        return Err(BenchError::Usage(
            "only `rebuild` and `sink` take --disks: no other bench has cold disks to put there",
        ));
    }
    if args.name == BenchName::Micro && args.bare {
        micro::run_bare(args);
        return Ok(());
    }
    if !args.reports.is_empty() {
        return Err(BenchError::Usage("only `compare` takes reports"));
    }
    if args.name == BenchName::Micro {
        return micro::run(args, out);
    }
    let args = args.clone().sized();
    let (at, random) = moment();
    let run = Run {
        bench: name_of(args.name),
        at,
        command: std::env::args().collect::<Vec<String>>().join(" "),
        machine: Machine::look(&args.dir),
        ..Run::default()
    };
    let mut session = Session::new(&args, out, run, random);
    measure(args.name, &mut session)?;
    let run = session.finish()?;
    let text = markdown(&run);
    writeln!(out, "\n{text}")?;
    let json = serde_json::to_vec_pretty(&run).expect("a run is plain data");
    if let Some(file) = &args.out {
        outside::write(file, &json)?;
    }
    if let Some(file) = &args.markdown {
        outside::write(file, text.as_bytes())?;
    }
    if let Some(file) = &args.html {
        outside::write(file, html(&run).as_bytes())?;
    }
    if let Some(folder) = &args.keep {
        let folder = folder.join(folder_name(&run));
        outside::write(&folder.join(format!("{}.json", run.bench)), &json)?;
        outside::write(&folder.join(format!("{}.md", run.bench)), text.as_bytes())?;
        outside::write(&folder.join(format!("{}.html", run.bench)), html(&run).as_bytes())?;
        writeln!(out, "kept in {}", folder.display())?;
    }
    Ok(())
}

fn measure(name: BenchName, session: &mut Session<'_>) -> Result<(), BenchError> {
    match name {
        BenchName::GetMemory => gets::get_memory(session),
        BenchName::GetDisk => disk::get_disk(session),
        BenchName::Cold => cold::cold(session),
        BenchName::Limits => gets::limits(session),
        BenchName::PutDurable => puts::put_durable(session),
        BenchName::PutCluster => cluster::put_cluster(session),
        BenchName::Sink => sink::sink(session),
        BenchName::Rebuild => rebuild::rebuild(session),
        BenchName::Background => background::background(session),
        BenchName::Ingest => puts::ingest(session),
        BenchName::GetCache => caches::get_cache(session),
        BenchName::Timeline => match session.args.through {
            Some(through) => caches::timeline_through(session, through),
            None => timeline::timeline(session),
        },
        BenchName::Peers => {
            gets::get_memory(session)?;
            disk::get_disk_beside_peers(session)?;
            puts::put_durable(session)?;
            cluster::put_cluster(session)?;
            ycsb::ycsb(session, false)?;
            scan::scan(session)
        }
        BenchName::Ycsb => ycsb::ycsb(session, true),
        BenchName::Scan => scan::scan(session),
        BenchName::Hosts => hosts::hosts(session),
        BenchName::Idle => idle::idle(session),
        BenchName::All => {
            let all = [
                BenchName::Limits,
                BenchName::GetMemory,
                BenchName::GetCache,
                BenchName::GetDisk,
                BenchName::Cold,
                BenchName::PutDurable,
                BenchName::Ingest,
                BenchName::Timeline,
                BenchName::Ycsb,
                BenchName::Scan,
                BenchName::Background,
                BenchName::Hosts,
                BenchName::Idle,
            ];
            all.into_iter().try_for_each(|name| measure(name, session))
        }
        BenchName::Compare | BenchName::Micro => panic!("they measure nothing in rounds"),
    }
}

fn name_of(name: BenchName) -> String {
    use clap::ValueEnum;
    name.to_possible_value().expect("no name is hidden").get_name().to_owned()
}

/// The wall clock, RFC 3339 to the second, and a random number.
fn moment() -> (String, u64) {
    let Ok(runtime) = Runtime::new(CoreConfig::small("clock", 0)) else {
        // Nothing will run on this machine; the first server to be started says why.
        return ("unknown".to_owned(), 1);
    };
    let seconds = i64::try_from(runtime.io().wall_us() / 1_000_000).unwrap_or(0);
    let at = jiff::Timestamp::from_second(seconds).map_or_else(|_| "unknown".to_owned(), |at| at.to_string());
    (at, runtime.io().random())
}

/// DATE-HOST-COMMIT.
fn folder_name(run: &Run) -> String {
    let date = run.at.split('T').next().unwrap_or("unknown");
    format!("{date}-{}-{}", run.machine.host, run.machine.commit)
}

fn show_comparison(args: &BenchArgs, out: &mut dyn Write) -> Result<(), BenchError> {
    let [before, after] = &args.reports[..] else {
        return Err(BenchError::Usage("compare takes two reports: bench compare BEFORE AFTER"));
    };
    for (before, after) in pairs(before, after) {
        writeln!(out, "{}", compare(&load(&before)?, &load(&after)?))?;
    }
    Ok(())
}

/// Two files, or the reports of the same name in two folders.
fn pairs(before: &Path, after: &Path) -> Vec<(PathBuf, PathBuf)> {
    if !outside::is_folder(before) || !outside::is_folder(after) {
        return vec![(before.to_owned(), after.to_owned())];
    }
    let of_after = outside::names(after);
    let both =
        outside::names(before).into_iter().filter(|name| name.ends_with(".json") && of_after.contains(name));
    both.map(|name| (before.join(&name), after.join(&name))).collect()
}

fn load(file: &Path) -> Result<Run, BenchError> {
    let wrong = |error: serde_json::Error| BenchError::Report {
        file: file.display().to_string(),
        error: error.to_string(),
    };
    serde_json::from_slice(&outside::read(file)?).map_err(wrong)
}
