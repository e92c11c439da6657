//! Prints what clients notice when nodes of a real group die: the verb for [`ci::real::gap`]. Owns the command line and the table.
//!
//!     gap --binary PATH --folder F [--nodes 3] [--victims 1] [--rate 2000]
//!
//! Exit codes: 0 measured, 2 wrong use, 3 it could not be.

use ci::real::Options;
use ci::real::gap::{Plan, Row, Sample, rows, run};
use clap::Parser;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Kills nodes of a real group under a steady load and prints the latencies around that.
#[derive(Parser)]
struct Arguments {
    /// The program `thermocline`
    #[arg(long)]
    binary: PathBuf,
    /// Where disks and logs are made; they stay
    #[arg(long)]
    folder: PathBuf,
    /// Nodes
    #[arg(long, default_value_t = 3)]
    nodes: u16,
    /// Nodes killed
    #[arg(long, default_value_t = 1)]
    victims: u16,
    /// Requests per second, half puts, half gets
    #[arg(long, default_value_t = 2000)]
    rate: u64,
}

fn main() -> std::io::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout();
    if let Some(error) = misuse(arguments.nodes, arguments.victims) {
        writeln!(out, "gap: {error}")?;
        return Ok(ExitCode::from(2));
    }
    let options = Options {
        binary: arguments.binary,
        folder: arguments.folder,
        seed: 1,
        nodes: arguments.nodes,
        life: Duration::ZERO,
        caches: 0,
        colds: false,
        damage: false,
        canary: None,
    };
    let plan = Plan {
        victims: arguments.victims,
        rate: arguments.rate,
        before: Duration::from_secs(5),
        down: Duration::from_secs(5),
        after: Duration::from_secs(5),
    };
    match run(&options, &plan) {
        Ok(samples) => {
            let title = (arguments.victims, arguments.nodes, arguments.rate);
            print(&mut out, title, &samples, plan.down.as_millis() as i64)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            writeln!(out, "gap: {error}")?;
            Ok(ExitCode::from(3))
        }
    }
}

/// Why there is nothing to measure: a group without a majority serves nobody until its nodes are back.
fn misuse(nodes: u16, victims: u16) -> Option<String> {
    let most = nodes.saturating_sub(1) / 2;
    (victims > most).then(|| {
        format!("without {victims} of {nodes} nodes there is no majority, and nobody is served: --victims is at most {most}")
    })
}

fn print(
    out: &mut impl Write,
    (victims, nodes, rate): (u16, u16, u64),
    samples: &[Sample],
    restart_ms: i64,
) -> std::io::Result<()> {
    let rows = rows(samples);
    let failed = samples.iter().filter(|sample| sample.failed.is_some()).count();
    writeln!(out, "# kill -9 of {victims} of {nodes}, {rate} requests/s\n")?;
    writeln!(out, "{} requests, {failed} failed; restart {restart_ms} ms after the kill\n", samples.len())?;
    for sample in samples.iter().filter(|sample| sample.failed.is_some()).take(5) {
        let (at_ms, error) = (sample.at_ns / 1_000_000, sample.failed.as_ref().map(ToString::to_string));
        writeln!(out, "failed, due at {at_ms} ms after {:?}: {}\n", sample.took, error.unwrap_or_default())?;
    }
    let part = |from: i64, to: i64| {
        let inside = |one: &&Sample| (from..to).contains(&(one.at_ns / 1_000_000));
        let mut took: Vec<f64> =
            samples.iter().filter(inside).map(|one| one.took.as_secs_f64() * 1e3).collect();
        took.sort_by(f64::total_cmp);
        let at =
            |share: f64| took.get((took.len().saturating_sub(1) as f64 * share).round() as usize).copied();
        (at(0.5).unwrap_or(0.0), at(0.99).unwrap_or(0.0), at(1.0).unwrap_or(0.0))
    };
    writeln!(out, "| when | p50 ms | p99 ms | max ms |\n|---|---|---|---|")?;
    for (name, from, to) in [
        ("4 s before", -4_000, 0),
        ("first 100 ms", 0, 100),
        ("first 2 s", 0, 2_000),
        ("2 s to the restart", 2_000, restart_ms),
        ("first 2 s of the restart", restart_ms, restart_ms + 2_000),
        ("after", restart_ms + 2_000, restart_ms + 5_000),
    ] {
        let (p50, p99, max) = part(from, to);
        writeln!(out, "| {name} | {p50:.2} | {p99:.2} | {max:.2} |")?;
    }
    writeln!(
        out,
        "\n| ms after the kill | requests | failed | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|---|"
    )?;
    let near = |row: &&Row| {
        (-500..1_500).contains(&row.from_ms) || (restart_ms - 200..restart_ms + 1_500).contains(&row.from_ms)
    };
    for row in rows.iter().filter(near) {
        let Row { from_ms, count, failed, p50_ms, p99_ms, max_ms } = row;
        writeln!(out, "| {from_ms} | {count} | {failed} | {p50_ms:.2} | {p99_ms:.2} | {max_ms:.2} |")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::misuse;

    #[test]
    fn only_a_minority_may_be_killed() {
        assert_eq!([misuse(3, 1), misuse(5, 2), misuse(3, 0)], [None, None, None]);
        for (nodes, victims) in [(3, 2), (5, 3), (4, 2), (1, 1), (0, 1)] {
            assert!(misuse(nodes, victims).is_some_and(|text| text.contains("--victims is at most")));
        }
    }
}
