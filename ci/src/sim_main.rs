//! The command line of the simulator: `thermocline sim`, and the program `sim` of this crate. Runs seeds, prints what
//! each did, and fails when one of them is wrong.

use crate::sim::one_node::{self, Options};
use crate::sim::plan::Mode;
use clap::{Args, ValueEnum};
use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;

/// Which disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WantedMode {
    /// Disks that fail, and never lie.
    Honest,
    /// Disks that also rot, lose and misplace.
    Lying,
    /// Both, by turns.
    All,
}

/// Run simulated worlds from seeds.
#[derive(Clone, Debug, Args)]
pub struct SimArgs {
    /// Run this seed.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    pub seed: Option<u64>,
    /// Run these seeds, A..B.
    #[arg(long, value_parser = seeds)]
    pub seeds: Option<Range<u64>>,
    /// Run for so many minutes of processor time, from the first seed of --seeds on, or from 0.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Which disks.
    #[arg(long, value_enum, default_value = "all")]
    pub mode: WantedMode,
    /// Switch a planted bug on; several times for several.
    #[arg(long)]
    pub canary: Vec<String>,
    /// Print the trace of every event.
    #[arg(long)]
    pub trace: bool,
    /// Print one JSON object per seed.
    #[arg(long)]
    pub json: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text} is not A..B, two numbers");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    Ok(number(from)?..number(to)?)
}

/// Run what `args` ask for and print to `out`.
///
/// # Errors
/// When `out` cannot be written to.
pub fn run(args: &SimArgs, out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let seeds = match (args.seed, &args.seeds) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) if args.minutes.is_none() => seeds.clone(),
        (None, Some(seeds)) => seeds.start..u64::MAX,
        (None, None) => 0..if args.minutes.is_some() { u64::MAX } else { 20 },
    };
    let options = Options { canaries: args.canary.clone(), trace: args.trace, hash: args.seed.is_some() };
    let modes: &[Mode] = match args.mode {
        WantedMode::Honest => &[Mode::Honest],
        WantedMode::Lying => &[Mode::Lying],
        WantedMode::All => &[Mode::Honest, Mode::Lying],
    };
    let mut cpu_s = 0.0;
    let mut wrong = 0;
    'seeds: for seed in seeds {
        for &mode in modes {
            let report = one_node::run(seed, mode, &options);
            for line in &report.trace {
                writeln!(out, "{line}")?;
            }
            writeln!(out, "{report}")?;
            if args.seed.is_some() {
                writeln!(out, "{report:#?}")?;
            }
            wrong += u64::from(!report.violations.is_empty());
            cpu_s += report.cpu_s;
            if args.minutes.is_some_and(|minutes| cpu_s > minutes * 60.0) {
                break 'seeds;
            }
        }
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
