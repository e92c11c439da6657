//! A run as markdown: a table of medians per case with least and most, and the ratios.

use super::{Case, Run, Summary};
use std::fmt::Write;

/// Figures that everybody wants to see, in this order; the JSON has all.
const SHOWN: [(&str, &str); 45] = [
    ("per_second", "per second"),
    ("per_server_cpu_second", "per CPU-second of the server"),
    ("mb_per_second", "MB per second"),
    ("operations_per_second", "operations per second"),
    ("records_per_second", "records per second"),
    ("value_mb_per_second", "MB of values per second"),
    ("device_mb_per_second", "MB per second read of the device"),
    ("gets_that_miss_memory_percent", "gets that miss memory %"),
    ("device_reads_per_get_that_misses_memory", "device reads per get that misses memory"),
    ("device_bytes_per_byte_of_one_read", "bytes read of the device per byte of one read"),
    ("cpu_us_per_get", "µs of CPU per get"),
    ("unpack_and_search_share_of_cpu_percent", "check, unpack and search, % of it"),
    ("table_bytes_per_given_byte", "bytes in tables per byte given"),
    ("written_bytes_per_given_byte_journal_included", "bytes written per byte given, journal included"),
    ("index_and_filter_bytes_per_record", "bytes of memory per record for indexes and filters"),
    ("flushes", "flushes"),
    ("hit_percent", "of what the cache asked, not modified %"),
    ("shared_percent", "gets that shared a question %"),
    ("keys_per_batch", "keys per batch to the store"),
    ("cache_busy", "gets refused by the cache"),
    ("store_not_modified_by_cell_percent", "of the gets of the store, by the version cell alone %"),
    ("store_gets_from_disk_percent", "of the gets of the store, from its disk %"),
    ("store_disk_reads", "disk reads of the store, warm-up included"),
    ("store_cpu_s", "CPU seconds of the store, warm-up included"),
    ("cache_cpu_s", "CPU seconds of the cache, warm-up included"),
    ("store_cpu_ns_per_get", "CPU of the store per get, ns"),
    ("cache_cpu_ns_per_get", "CPU of the cache per get, ns"),
    ("mb_per_second_of_its_life", "MB per second from the start of its process"),
    ("read_mb_per_second", "MB per second read"),
    ("write_mb_per_second", "MB per second written"),
    ("target_cpu_s_per_gb", "CPU seconds of the machine that is filled, per GB"),
    ("sources_cpu_s_per_gb", "CPU seconds of the two others together, per GB"),
    ("copy_bytes_per_record", "bytes of a copy per record"),
    ("device_bytes_per_byte_of_a_copy", "bytes written by a cold node per byte of its copy"),
    ("store_device_bytes_per_byte_of_a_copy", "bytes written by a store meanwhile per byte of a copy"),
    ("stores_cpu_s_per_gb", "CPU seconds of the three stores per GB of a copy"),
    ("colds_cpu_s_per_gb", "CPU seconds of the three cold nodes per GB of a copy"),
    ("merges", "merges"),
    ("seals", "seals"),
    ("tables", "tables"),
    ("server_cpu_percent", "server CPU %"),
    ("server_system_share_percent", "kernel's share of it %"),
    ("generator_cpu_percent", "generator CPU %"),
    ("others_cpu_percent", "others CPU %"),
    ("stolen_cpu_percent", "stolen CPU %"),
];
/// Figures that ratios are taken of.
pub(super) const RATIOS: [(&str, &str); 3] = [
    ("per_second", "per second"),
    ("per_server_cpu_second", "per CPU-second of the server"),
    ("mb_per_second", "MB per second"),
];

/// An aim with what came of it, in words.
pub(super) struct AimLine {
    pub(super) case: String,
    pub(super) figure: String,
    pub(super) side: String,
    pub(super) aim: String,
    pub(super) found: String,
    /// `met` or `missed`; `not measured` where a side is missing.
    pub(super) verdict: &'static str,
}

/// All aims of a run.
pub(super) fn aim_lines(run: &Run) -> Vec<AimLine> {
    let mut lines = Vec::new();
    for case in &run.cases {
        for aim in &case.aims {
            let bound = |sign: &str, value: Option<f64>| value.map(|value| format!("{sign} {value}"));
            let bounds = [bound("≥", aim.least), bound("≤", aim.most)];
            let (found, verdict) = match case.verdict(aim) {
                Some((found, true)) => (ratio(found), "met"),
                Some((found, false)) => (ratio(found), "missed"),
                None => (String::new(), "not measured"),
            };
            lines.push(AimLine {
                case: case.name.clone(),
                figure: words(&aim.figure),
                side: if aim.side == case.own { String::new() } else { format!("/ {}", aim.side) },
                aim: bounds.into_iter().flatten().collect::<Vec<String>>().join(", "),
                found,
                verdict,
            });
        }
    }
    lines
}

fn ratio(found: Summary) -> String {
    format!("{:.2} ({:.2}..{:.2})", found.median, found.least, found.most)
}

/// The name of a figure for people.
fn words(figure: &str) -> String {
    let known = SHOWN.iter().find(|(name, _)| *name == figure);
    known.map_or_else(|| figure.replace("_us_", " µs ").replace('_', " "), |(_, label)| (*label).to_owned())
}

/// The whole run.
pub(crate) fn markdown(run: &Run) -> String {
    let mut out = String::new();
    let machine = &run.machine;
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("# bench {}\n", run.bench));
    line(format!("`{}`\n", run.command));
    line(format!(
        "{}, commit {} ({}), host {}, {}, {} MiB, Linux {}, {}\n",
        run.at,
        machine.commit,
        machine.build,
        machine.host,
        machine.processor,
        machine.memory_mib,
        machine.kernel,
        machine.file_system
    ));
    for (name, what) in &run.peers {
        line(format!("- {name}: `{what}`"));
    }
    for note in &run.notes {
        line(format!("- note: {note}"));
    }
    let aims = aim_lines(run);
    if !aims.is_empty() {
        line("\n## Aims\n\n| row | figure | aim | found | |\n|---|---|---|---|---|".to_owned());
    }
    for aim in aims {
        let AimLine { case, figure, side, aim, found, verdict } = aim;
        line(format!("| {case} | {figure} {side} | {aim} | {found} | {verdict} |"));
    }
    for case in &run.cases {
        line(String::new());
        line(table(case));
    }
    out
}

/// One case.
pub(crate) fn table(case: &Case) -> String {
    let mut out = String::new();
    let sides = case.sides();
    let rounds = case.rounds.iter().map(|round| round.round + 1).max().unwrap_or(0);
    let fits = "a string takes what it is given";
    writeln!(out, "## {}\n\n{} {rounds} rounds; median (least..most).\n", case.name, case.load).expect(fits);
    writeln!(out, "| | {} |", sides.join(" | ")).expect(fits);
    writeln!(out, "|---|{}", "---|".repeat(sides.len())).expect(fits);
    for (label, figure) in rows(case) {
        let cells: Vec<String> =
            sides.iter().map(|side| case.summary(side, &figure).map_or_else(String::new, cell)).collect();
        writeln!(out, "| {label} | {} |", cells.join(" | ")).expect(fits);
    }
    for (figure, label) in RATIOS {
        let cells: Vec<String> = sides
            .iter()
            .filter(|side| **side != case.own)
            .filter_map(|side| Some(format!("{side} {}", ratio(case.ratio(side, figure)?))))
            .collect();
        if !cells.is_empty() {
            writeln!(out, "\n{} divided by the other, {label}: {}", case.own, cells.join(", ")).expect(fits);
        }
    }
    if !case.about.is_empty() {
        out.push('\n');
    }
    for (side, about) in &case.about {
        let version = if about.version.is_empty() { String::new() } else { format!("{}; ", about.version) };
        writeln!(out, "- {side}: {version}`{}`; {}", about.command, about.durability).expect(fits);
    }
    out
}

/// Labels and names of the figures to show: the common ones, latencies, and every outcome that is not Ok.
pub(super) fn rows(case: &Case) -> Vec<(String, String)> {
    let names = case.figure_names();
    let common = SHOWN.iter().filter(|(figure, _)| names.contains(figure));
    let mut rows: Vec<(String, String)> =
        common.map(|(figure, label)| ((*label).to_owned(), (*figure).to_owned())).collect();
    let others = names.iter().filter(|name| {
        name.contains("latency_us") || name.contains("late_us") || is_failure(name) || **name == "unanswered"
    });
    for name in others {
        let never =
            case.rounds.iter().all(|round| round.figures.get(*name).is_none_or(|value| *value == 0.0));
        if !never {
            rows.push((words(name), (*name).to_owned()));
        }
    }
    rows
}

/// An outcome that a reader must hear of.
pub(crate) fn is_failure(figure: &str) -> bool {
    figure.starts_with("outcome_") && figure != "outcome_Ok"
}

pub(super) fn cell(summary: Summary) -> String {
    if summary.least == summary.most {
        return number(summary.median);
    }
    format!("{} ({}..{})", number(summary.median), number(summary.least), number(summary.most))
}

/// Three digits and a suffix.
pub(crate) fn number(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if size >= 100.0 || scaled.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{scaled:.digits$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Aim;
    use crate::report::tests::case;

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [0.0, 7.0, 0.123, 12.34, 152.7, 9_999.0, 15_200.0, 870_000.0, 1_234_567.0]
            .into_iter()
            .map(number)
            .collect();
        assert_eq!(shown, ["0", "7", "0.12", "12.3", "153", "9999", "15.2 k", "870 k", "1.23 M"]);
    }

    #[test]
    fn a_case_shows_medians_and_ratios() {
        let text = table(&case("get", [200.0, 20.0, 220.0], [100.0, 10.0, 100.0]));
        assert!(text.contains("| per second | 200 (20..220) | 100 (10..100) |"), "{text}");
        assert!(text.contains("own divided by the other, per second: peer 2.00 (2.00..2.20)"), "{text}");
    }

    #[test]
    fn aims_are_judged_by_medians_and_missing_sides_are_named() {
        let mut case = case("get", [200.0, 20.0, 220.0], [100.0, 10.0, 100.0]);
        case.aims = vec![
            Aim::least("peer", "per_second", 2.0),
            Aim::least("peer", "per_second", 2.1),
            Aim::most("own", "per_second", 199.0),
            Aim::least("absent", "per_second", 1.0),
        ];
        let run = Run { cases: vec![case], ..Run::default() };
        let verdicts: Vec<&str> = aim_lines(&run).iter().map(|line| line.verdict).collect();
        assert_eq!(verdicts, ["met", "missed", "missed", "not measured"]);
        let text = markdown(&run);
        assert!(text.contains("| get | per second / peer | ≥ 2.1 | 2.00 (2.00..2.20) | missed |"), "{text}");
    }
}
