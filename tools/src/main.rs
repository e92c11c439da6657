//! The `thermocline` binary: one verb per file, what each was asked, and its exit code.
//!
//! Owns the process: arguments, logs, exit codes. Must never hold logic that the server needs.

mod bench;
mod cache;
mod client;
mod cold;
mod config;
mod del;
mod dev;
mod disk;
mod doctor;
mod export;
mod failure;
mod file;
mod fsck;
mod get;
mod head;
mod hot;
mod import;
mod input;
mod inspect;
mod interrupt;
mod map;
mod mget;
mod node;
mod output;
mod put;
mod record;
mod scan;
mod serve;
mod sim;
mod status;
mod units;
mod verify;
mod version_caches;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use failure::{Exit, Failure};

/// A storage appliance for time-ordered records.
#[derive(Debug, Parser)]
#[command(name = "thermocline", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// A node on a file-backed disk that it makes, for trying out
    Dev(dev::DevArgs),
    /// A node with the settings of a config file
    Serve(serve::ServeArgs),
    /// One record
    Get(get::GetArgs),
    /// Write one record
    Put(put::PutArgs),
    /// Delete one record
    Del(del::DelArgs),
    /// Records of a stream in a range of times
    Scan(scan::ScanArgs),
    /// The newest records of a stream
    Head(head::HeadArgs),
    /// Many records by their keys
    Mget(mget::MgetArgs),
    /// Load CSV or NDJSON
    Import(import::ImportArgs),
    /// Write every record as NDJSON
    Export(export::ExportArgs),
    /// Counters of a node
    Status(status::StatusArgs),
    /// The keys that the nodes are asked for most
    Hot(hot::HotArgs),
    /// The cluster map, and where reads go by it
    Map(map::MapArgs),
    /// Have the replicas of every tablet compared; what differs is copied from a majority
    Verify(verify::VerifyArgs),
    /// Settings of a node: each with its reason, and what is wrong with them
    Config(config::ConfigArgs),
    /// Disks: make one ready for a node
    Disk(disk::DiskArgs),
    /// What stands on a disk or in shared memory, on damaged ones too; changes nothing
    Inspect(inspect::InspectArgs),
    /// Check disks that no node uses: superblock copies, manifests, every block of every table, journals, what each tablet can prove; of
    /// cold disks every section
    Fsck(fsck::FsckArgs),
    /// A node in simulated worlds drawn from a seed
    Sim(ci::sim_main::SimArgs),
    /// How fast a node is, beside upper bounds and others
    Bench(perf::BenchArgs),
    /// What this machine can do for a node, and what mends what it cannot
    Doctor(doctor::DoctorArgs),
}

impl Verb {
    fn run(&self) -> Result<Exit, Failure> {
        match self {
            Verb::Dev(args) => dev::run(args),
            Verb::Serve(args) => serve::run(args),
            Verb::Get(args) => get::run(args),
            Verb::Put(args) => put::run(args),
            Verb::Del(args) => del::run(args),
            Verb::Scan(args) => scan::run(args),
            Verb::Head(args) => head::run(args),
            Verb::Mget(args) => mget::run(args),
            Verb::Import(args) => import::run(args),
            Verb::Export(args) => export::run(args),
            Verb::Status(args) => status::run(args),
            Verb::Hot(args) => hot::run(args),
            Verb::Map(args) => map::run(args),
            Verb::Verify(args) => verify::run(args),
            Verb::Config(args) => config::run(args),
            Verb::Disk(args) => disk::run(args),
            Verb::Inspect(args) => inspect::run(args),
            Verb::Fsck(args) => fsck::run(args),
            Verb::Sim(args) => sim::run(args),
            Verb::Bench(args) => bench::run(args),
            Verb::Doctor(args) => doctor::run(args),
        }
    }
}

/// Logs go to standard error. `THERMOCLINE_LOG` chooses what, in the syntax of tracing's filters.
///
/// # Errors
/// The variable is no filter.
fn start_logs() -> Result<(), Failure> {
    let filter = match std::env::var("THERMOCLINE_LOG") {
        Err(_) => EnvFilter::new("warn"),
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| {
            let what = format!("THERMOCLINE_LOG=\"{text}\" is no filter: {error}");
            Failure::wrong_use(what, "set it to error, warn, info, debug or trace, or to target=level,...")
        })?,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let exit = start_logs().and_then(|()| arguments.verb.run()).unwrap_or_else(|failure| {
        if !failure.what.is_empty() {
            crate::output::note!("thermocline: {failure}");
        }
        failure.exit
    });
    ExitCode::from(exit as u8)
}
