//! `thermocline bench micro`: instructions and cache misses of single steps, counted and not timed, so that they are the
//! same on a noisy machine. Valgrind runs this program once more, which goes through the cases; callgrind counts what
//! stands inside of [`cases::counted`] and writes one file after each of them.
//!
//! Owns how it is counted, and the budgets beside the figures. Must never count the set-up of a case. Invariant: as many
//! files as cases, in their order.

mod cases;
mod merging;
mod voting;

use crate::args::BenchArgs;
use crate::bench::BenchError;
use crate::outside;
use cases::Case;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

/// What is counted, as callgrind names it.
const COUNTED: &str = "perf::micro::cases::counted";
/// The caches that are simulated, the same everywhere: those of a small core.
const CACHES: [&str; 3] = ["--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64"];
const GET: &str = "apt-get install valgrind";
/// A step that takes more than this of its budget has become worse.
const WORSE: f64 = 1.05;
/// One that takes less than this is better than the budget says.
const BETTER: f64 = 0.90;

/// What one operation of a case takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    instructions: f64,
    /// Data that the first level of the cache does not have.
    first_misses: f64,
    /// Data that has to come from memory.
    last_misses: f64,
}

/// The profile that this program was built with: assertions cost instructions.
fn profile() -> &'static str {
    if cfg!(debug_assertions) { "checked" } else { "release" }
}

/// Run the cases here: valgrind watches.
pub(crate) fn run_bare(args: &BenchArgs) {
    for case in chosen(args) {
        (case.run)();
    }
}

/// Count all cases, show them beside their budgets.
///
/// # Errors
/// Valgrind is not there or fails, the budgets cannot be read, or a case takes more than its budget.
pub(crate) fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<(), BenchError> {
    let cases = chosen(args);
    if cases.is_empty() {
        return Err(BenchError::Usage("no case has that in its name"));
    }
    let budgets = match &args.budgets {
        Some(file) => budgets(file)?,
        None => BTreeMap::new(),
    };
    let folder = args.dir.join(format!("micro-{}", std::process::id()));
    outside::make_folder(&folder)?;
    let costs = count(args, &cases, &folder);
    outside::remove_folder(&folder);
    let costs = costs?;
    let (text, worse) = table(&cases, &costs, &budgets, args.budgets.is_some());
    writeln!(out, "{text}")?;
    if let Some(file) = &args.markdown {
        outside::write(file, text.as_bytes())?;
    }
    match worse.is_empty() {
        true => Ok(()),
        false => Err(BenchError::Worse(worse.join("; "))),
    }
}

fn chosen(args: &BenchArgs) -> Vec<&'static Case> {
    let part = args.case.as_deref().unwrap_or_default();
    cases::ALL.iter().filter(|case| case.name.contains(part)).collect()
}

/// Run this program under callgrind, and read what it has counted.
fn count(args: &BenchArgs, cases: &[&Case], folder: &Path) -> Result<Vec<Cost>, BenchError> {
    let wrong = |what: String| BenchError::Peer(what);
    if outside::ask("valgrind", &["--version"]).is_none() {
        return Err(wrong(format!("valgrind is not installed: {GET}")));
    }
    let own = std::env::current_exe()?;
    let file = folder.join("counts");
    let (own, file_text) = (own.to_string_lossy(), file.to_string_lossy());
    let toggle = format!("--toggle-collect={COUNTED}");
    let (dump, out_file) = (format!("--dump-after={COUNTED}"), format!("--callgrind-out-file={file_text}"));
    let mut arguments = vec![
        "--tool=callgrind",
        "--quiet",
        "--cache-sim=yes",
        "--compress-strings=no",
        &toggle,
        &dump,
        &out_file,
    ];
    arguments.extend(CACHES);
    arguments.extend([&*own, "bench", "micro", "--bare"]);
    if let Some(part) = &args.case {
        arguments.extend(["--case", part]);
    }
    outside::run("valgrind", &arguments).map_err(|error| wrong(error.to_string()))?;
    let of_case = |(number, case): (usize, &&Case)| {
        let file = folder.join(format!("counts.{}", number + 1));
        let text = outside::read(&file)?;
        cost(&String::from_utf8_lossy(&text), case.operations)
            .ok_or_else(|| wrong(format!("{}: callgrind counted nothing for {}", file.display(), case.name)))
    };
    cases.iter().enumerate().map(of_case).collect()
}

/// What a file of callgrind says of so many operations.
fn cost(text: &str, operations: u64) -> Option<Cost> {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let events: Vec<&str> = line("events:")?.split_whitespace().collect();
    let totals: Vec<u64> = line("totals:")
        .or(line("summary:"))?
        .split_whitespace()
        .map(|word| word.parse().unwrap_or(0))
        .collect();
    let of = |name: &str| {
        let at = events.iter().position(|event| *event == name)?;
        // Trailing zeros are left out.
        Some(totals.get(at).copied().unwrap_or(0) as f64 / operations as f64)
    };
    let cost = Cost {
        instructions: of("Ir")?,
        first_misses: of("D1mr")? + of("D1mw")?,
        last_misses: of("DLmr")? + of("DLmw")?,
    };
    (cost.instructions > 0.0).then_some(cost)
}

/// Instructions that a case may take, by its name: the part of the file for this profile.
fn budgets(file: &Path) -> Result<BTreeMap<String, f64>, BenchError> {
    let wrong = |error: String| BenchError::Peer(format!("{}: {error}", file.display()));
    let bytes = outside::read(file)?;
    let text = String::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
    let mut all: BTreeMap<String, BTreeMap<String, f64>> =
        toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    all.remove(profile()).ok_or_else(|| wrong(format!("it has no part [{}]", profile())))
}

/// The report, and what is worse than it may be.
fn table(
    cases: &[&Case],
    costs: &[Cost],
    budgets: &BTreeMap<String, f64>,
    is_checked: bool,
) -> (String, Vec<String>) {
    let mut text = format!(
        "Per operation, program built as \"{}\"; caches as callgrind simulates them ({}).\n\n\
         | what | instructions | budget | ratio | misses of D1 | of LL |\n|---|---|---|---|---|---|\n",
        profile(),
        CACHES.join(" ")
    );
    let mut worse = Vec::new();
    for (case, cost) in cases.iter().zip(costs) {
        let (budget, ratio) = match budgets.get(case.name) {
            Some(budget) => {
                let ratio = cost.instructions / budget;
                if ratio > WORSE {
                    worse.push(format!(
                        "\"{}\" takes {:.1} instructions, {ratio:.2} of its budget of {budget}",
                        case.name, cost.instructions
                    ));
                }
                let note = if ratio < BETTER { ": lower the budget" } else { "" };
                (budget.to_string(), format!("{ratio:.2}{note}"))
            }
            None if is_checked => {
                worse.push(format!("\"{}\" has no budget: it takes {:.1}", case.name, cost.instructions));
                ("none".to_owned(), String::new())
            }
            None => (String::new(), String::new()),
        };
        writeln!(
            text,
            "| {} | {:.1} | {budget} | {ratio} | {:.2} | {:.2} |",
            case.name, cost.instructions, cost.first_misses, cost.last_misses
        )
        .expect("a string takes all");
    }
    (text, worse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_callgrind_is_read() {
        let text = "version: 1\nevents: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw\nfn=x\ntotals: 1000 5 4 3 200 50 1 30\n";
        let read = cost(text, 10).expect("it is whole");
        assert_eq!(read, Cost { instructions: 100.0, first_misses: 25.0, last_misses: 3.0 });
        assert_eq!(cost("events: Ir\ntotals: 0\n", 10), None, "nothing was counted");
        assert_eq!(cost("totals: 7\n", 10), None);
    }

    #[test]
    fn what_takes_more_than_its_budget_is_named() {
        let case = &cases::ALL[0];
        let cost = |instructions| Cost { instructions, ..Cost::default() };
        let of = |budget: f64, instructions| {
            let budgets = BTreeMap::from([(case.name.to_owned(), budget)]);
            table(&[case], &[cost(instructions)], &budgets, true).1
        };
        assert!(of(100.0, 104.0).is_empty());
        let worse = of(100.0, 106.0);
        assert!(worse[0].contains(case.name) && worse[0].contains("1.06"), "{worse:?}");
        assert_eq!(table(&[case], &[cost(1.0)], &BTreeMap::new(), true).1.len(), 1, "each has a budget");
        assert!(table(&[case], &[cost(1.0)], &BTreeMap::new(), false).1.is_empty());
    }

    #[test]
    fn every_case_runs() {
        let mut names: Vec<&str> = cases::ALL.iter().map(|case| case.name).collect();
        cases::ALL.iter().for_each(|case| (case.run)());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases::ALL.len(), "a budget has a name of its own");
    }
}
