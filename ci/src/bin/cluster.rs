//! Real processes of a group under faults: the verb behind the block `cluster`. Owns the command line; the work is in `ci::real`.
//!
//!     cluster --binary PATH --folder F [--nodes 3] [--seconds 30] [--seed 1] [--damage | --caches 2] [--colds] [--canary NAME]
//!
//! Exit codes: 0 nothing wrong, 1 something is, 2 wrong use, 3 the harness could not run here.

use ci::real::{Options, run};
use clap::Parser;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Runs a group of real nodes under faults from a seed and judges what clients saw.
#[derive(Parser)]
struct Arguments {
    /// The program `thermocline`
    #[arg(long)]
    binary: PathBuf,
    /// Where disks and logs are made; they stay
    #[arg(long)]
    folder: PathBuf,
    /// Nodes: 3 or 5
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..=5))]
    nodes: u16,
    /// Length of the part with trouble
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// What happens
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Damage the disks of a minority, too
    #[arg(long)]
    damage: bool,
    /// Cache nodes before the group, that most reads go through
    #[arg(long, default_value_t = 0, conflicts_with = "damage", value_parser = clap::value_parser!(u16).range(0..=4))]
    caches: u16,
    /// Three cold nodes behind the group, that it sinks to within seconds
    #[arg(long)]
    colds: bool,
    /// A planted bug for all nodes, which must be built with debug assertions
    #[arg(long)]
    canary: Option<String>,
}

fn main() -> std::io::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout();
    if arguments.nodes == 4 {
        writeln!(out, "a group has 3 or 5 nodes here")?;
        return Ok(ExitCode::from(2));
    }
    let options = Options {
        binary: arguments.binary,
        folder: arguments.folder,
        seed: arguments.seed,
        nodes: arguments.nodes,
        caches: arguments.caches,
        colds: arguments.colds,
        life: Duration::from_secs(arguments.seconds),
        damage: arguments.damage,
        canary: arguments.canary,
    };
    let damage = if options.damage { ", disks damaged" } else { "" };
    let caches = if options.caches > 0 { format!(", {} caches", options.caches) } else { String::new() };
    let colds = if options.colds { ", 3 cold nodes" } else { "" };
    writeln!(
        out,
        "seed {}: {} nodes{caches}{colds}, {} s{damage}",
        options.seed, options.nodes, arguments.seconds
    )?;
    match run(&options) {
        Ok(report) => {
            write!(out, "{report}")?;
            let failed = usize::from(!report.violations.is_empty());
            writeln!(out, "{} passed, {failed} failed", 1 - failed)?;
            Ok(ExitCode::from(failed as u8))
        }
        Err(error) => {
            writeln!(out, "cluster: {error}")?;
            Ok(ExitCode::from(3))
        }
    }
}
