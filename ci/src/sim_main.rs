//! The command line of the simulator: `thermocline sim`, and the program `sim` of this crate. Runs seeds, prints what
//! each did, and fails when one of them is wrong.

use crate::sim::campaign::{self, Campaign, regressions};
use crate::sim::crash_states;
use crate::sim::one_node::Options;
use crate::sim::plan::Mode;
use crate::sim::report::SeedReport;
use clap::{Args, Subcommand, ValueEnum};
use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;

/// Which worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WantedMode {
    /// One node; disks that fail, and never lie.
    Honest,
    /// One node; disks that also rot, lose and misplace.
    Lying,
    /// Both of one node, by turns.
    All,
    /// A group of nodes, as much trouble as must be survived.
    Cluster,
    /// A group of nodes, any trouble; only that nothing wrong is said.
    ClusterUnsafe,
    /// Three cold nodes and clients that sink to them.
    Cold,
    /// A group of nodes that sinks what is old to three cold nodes.
    Sink,
}

/// Something else than worlds with faults.
#[derive(Clone, Debug, Subcommand)]
pub enum SimVerb {
    /// Open every state that a loss of power may leave on a recorded disk
    CrashStates {
        /// Open at most so many states of each recording.
        #[arg(long, default_value_t = 300)]
        limit: u64,
        /// Record the lives of these seeds, A..B.
        #[arg(long, value_parser = seeds, default_value = "0..4")]
        seeds: Range<u64>,
        /// Switch a planted bug on.
        #[arg(long)]
        canary: Vec<String>,
    },
    /// Look for each planted bug on seeds that nobody chose for it, and print the line of the list of canaries that it then has
    Hunt {
        /// The first seed tried.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Give a planted bug up after so many seeds.
        #[arg(long, default_value_t = 400)]
        most: u64,
        /// Only this one; several times for several.
        #[arg(long)]
        canary: Vec<String>,
    },
}

/// Run simulated worlds from seeds.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SimArgs {
    #[command(subcommand)]
    verb: Option<SimVerb>,
    /// Run this seed.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    pub seed: Option<u64>,
    /// Run these seeds, A..B.
    #[arg(long, value_parser = seeds)]
    pub seeds: Option<Range<u64>>,
    /// Run for so many minutes of processor time, from the first seed of --seeds on, or from 0.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Which worlds.
    #[arg(long, value_enum, default_value = "all")]
    pub mode: WantedMode,
    /// Switch a planted bug on; several times for several.
    #[arg(long)]
    pub canary: Vec<String>,
    /// Print the trace of every event.
    #[arg(long)]
    pub trace: bool,
    /// Print one JSON object per seed, and nothing else.
    #[arg(long)]
    pub json: bool,
    /// Print a line per seed, not only the sum and what is wrong.
    #[arg(long)]
    pub each: bool,
    /// Run the seeds that found something once, before the others.
    #[arg(long)]
    pub regressions: bool,
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
    match &args.verb {
        Some(SimVerb::CrashStates { limit, seeds, canary }) => {
            return crash_states(*limit, seeds.clone(), canary, out);
        }
        Some(SimVerb::Hunt { from, most, canary }) => {
            return hunt(*from..from.saturating_add(*most), canary, out);
        }
        None => {}
    }
    let seeds = match (args.seed, &args.seeds) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) if args.minutes.is_none() => seeds.clone(),
        (None, Some(seeds)) => seeds.start..u64::MAX,
        (None, None) if args.minutes.is_some() => 0..u64::MAX,
        (None, None) if args.regressions => 0..0,
        (None, None) => 0..20,
    };
    let options = Options { canaries: args.canary.clone(), trace: args.trace, hash: args.seed.is_some() };
    let modes: &[Mode] = match args.mode {
        WantedMode::Honest => &[Mode::Honest],
        WantedMode::Lying => &[Mode::Lying],
        WantedMode::All => &[Mode::Honest, Mode::Lying],
        WantedMode::Cluster => &[Mode::Cluster],
        WantedMode::ClusterUnsafe => &[Mode::ClusterUnsafe],
        WantedMode::Cold => &[Mode::Cold],
        WantedMode::Sink => &[Mode::Sink],
    };
    let mut cpu_s = 0.0;
    let mut campaign = Campaign::default();
    let mut show = |report: &SeedReport, out: &mut dyn Write| -> std::io::Result<()> {
        for line in &report.trace {
            writeln!(out, "{line}")?;
        }
        if args.json {
            writeln!(out, "{}", report.json())?;
        } else if args.seed.is_some() {
            writeln!(out, "{report}\n{:#}", report.json())?;
        } else if args.each || !report.sum.violations.is_empty() {
            writeln!(out, "{report}")?;
        }
        campaign.add(report);
        Ok(())
    };
    if args.regressions {
        for (mode, seed, what) in regressions() {
            writeln!(out, "{what}:")?;
            show(&campaign::run(seed, mode, &options), out)?;
        }
    }
    'seeds: for seed in seeds {
        for &mode in modes {
            let report = campaign::run(seed, mode, &options);
            cpu_s += report.cpu_s;
            show(&report, out)?;
            if args.minutes.is_some_and(|minutes| cpu_s > minutes * 60.0) {
                break 'seeds;
            }
        }
    }
    if !args.json {
        write!(out, "{}", campaign.summary())?;
    }
    let wrong = campaign.is_wrong(args.mode == WantedMode::All);
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn hunt(seeds: Range<u64>, only: &[String], out: &mut dyn Write) -> std::io::Result<ExitCode> {
    let (mut found, mut missed) = (0, 0);
    for (name, mode, _) in campaign::canaries() {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        match campaign::hunt(name, mode, seeds.clone()) {
            Some((seed, violation)) => {
                found += 1;
                writeln!(out, "{name} {} {seed}: {violation}", mode.name())?;
            }
            None => {
                missed += 1;
                writeln!(out, "MISSED {name} {} on seeds {}..{}", mode.name(), seeds.start, seeds.end)?;
            }
        }
        out.flush()?;
    }
    writeln!(out, "{found} planted bugs found, {missed} missed")?;
    Ok(if missed == 0 && found > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn crash_states(
    limit: u64,
    seeds: Range<u64>,
    canaries: &[String],
    out: &mut dyn Write,
) -> std::io::Result<ExitCode> {
    let (mut states, mut opened, mut wrong) = (0, 0, 0);
    for seed in seeds {
        let report = crash_states::run(seed, limit, canaries);
        writeln!(out, "seed {seed}: {report}")?;
        states += report.state_count;
        opened += report.opened_count;
        wrong += report.violations.len();
    }
    writeln!(out, "{opened} of {states} legal crash states opened, {wrong} wrong")?;
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
