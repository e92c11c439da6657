//! Prints how fast a wiped node of a real group comes back: the verb for [`ci::real::recovery`]. Owns the command line and the table.
//!
//!     recovery --binary PATH --folder F [--gib 2] [--rounds 3] [--no-records]
//!
//! Exit codes: 0 measured, 3 it could not be.

use ci::real::Options;
use ci::real::recovery::{Filled, Plan, Round, run};
use clap::Parser;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Wipes a node of a real group again and again, and prints how fast it comes back.
#[derive(Parser)]
struct Arguments {
    /// The program `thermocline`
    #[arg(long)]
    binary: PathBuf,
    /// Where disks and logs are made; they stay
    #[arg(long)]
    folder: PathBuf,
    /// GiB of values to load
    #[arg(long, default_value_t = 2.0)]
    gib: f64,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Not record by record
    #[arg(long)]
    no_records: bool,
}

/// MB per second.
fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

fn row(out: &mut impl Write, name: &str, filled: &Filled, slower: f64) -> std::io::Result<()> {
    let Filled { sealed_bytes, voted, sealed, files } = *filled;
    writeln!(
        out,
        "| {name} | {:.0} | {:.2} | {:.0} | {:.2} | {:.0} | {:.2} | {} |",
        sealed_bytes as f64 / 1e6,
        voted.as_secs_f64(),
        rate(sealed_bytes, voted),
        sealed.as_secs_f64(),
        rate(sealed_bytes, sealed),
        rate(sealed_bytes, sealed) * 1e6 / slower,
        files.0,
    )
}

/// Median, least and most.
fn spread(mut of: Vec<f64>) -> (f64, f64, f64) {
    of.sort_by(f64::total_cmp);
    (of[of.len() / 2], of[0], of[of.len() - 1])
}

fn sum(out: &mut impl Write, rounds: &[Round]) -> std::io::Result<()> {
    let of = |pick: &dyn Fn(&Round) -> f64| spread(rounds.iter().map(pick).collect());
    let mut line = |name: &str, (median, least, most): (f64, f64, f64)| {
        writeln!(out, "| {name} | {median:.2} | {least:.2} | {most:.2} |")
    };
    line("read in a row, MB/s", of(&|round| round.read / 1e6))?;
    line("written in a row, MB/s", of(&|round| round.written / 1e6))?;
    let files = |round: &Round| rate(round.files.sealed_bytes, round.files.sealed);
    line("by files, MB/s of sealed tables", of(&files))?;
    line(
        "by files / the slower of read and write",
        of(&|round| files(round) * 1e6 / round.read.min(round.written)),
    )?;
    if rounds.iter().all(|round| round.records.is_some()) {
        let records =
            |round: &Round| round.records.map_or(0.0, |records| rate(records.sealed_bytes, records.sealed));
        line("record by record, MB/s of sealed tables", of(&records))?;
        line("by files / record by record", of(&|round| files(round) / records(round)))?;
    }
    Ok(())
}

fn main() -> std::io::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout();
    let options = Options {
        binary: arguments.binary,
        folder: arguments.folder,
        seed: 1,
        nodes: 3,
        life: Duration::ZERO,
        caches: 0,
        colds: false,
        damage: false,
        canary: None,
    };
    let bytes = (arguments.gib * f64::from(1 << 30)) as u64;
    let plan = Plan { bytes, rounds: arguments.rounds.max(1), by_records: !arguments.no_records };
    let command = std::env::args().collect::<Vec<String>>().join(" ");
    writeln!(out, "# A wiped node of three comes back\n\n    {command}\n")?;
    writeln!(
        out,
        "| way | sealed MB | votes on all after s | MB/s | all tables after s | MB/s | of the slower of read and write | files |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    let mut rounds: Vec<Round> = Vec::new();
    let mut told = Ok(());
    let measured = run(&options, &plan, &mut |round: &Round| {
        let slower = round.read.min(round.written);
        told = row(&mut std::io::stdout(), "files", &round.files, slower);
        if let Some(records) = &round.records {
            told = row(&mut std::io::stdout(), "records", records, slower);
        }
        rounds.push(*round);
    });
    told?;
    if let Err(error) = measured {
        writeln!(out, "recovery: {error}")?;
        return Ok(ExitCode::from(3));
    }
    writeln!(out, "\n| of {} rounds | median | least | most |\n|---|---|---|---|", rounds.len())?;
    sum(&mut out, &rounds)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::{rate, spread};
    use std::time::Duration;

    #[test]
    fn figures_are_per_second_and_medians_are_in_the_middle() {
        assert_eq!(rate(3_000_000, Duration::from_millis(1_500)), 2.0);
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
    }
}
