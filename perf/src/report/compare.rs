//! Two kept runs side by side. Absolute figures of different days say little: a ratio of ratios, where both runs have
//! the same other side, says more, and is shown beside.

use super::text::number;
use super::{Case, Run};
use std::fmt::Write;

/// Figures worth comparing, by the ends of their names.
const FIGURES: [&str; 3] = ["per_second", "per_server_cpu_second", "latency_us_p99"];
/// Figures that end so and say nothing of their own: what is sent follows from what is answered.
const LEFT_OUT: [&str; 2] = ["sent_mb_per_second", "received_mb_per_second"];

/// Every side and figure that both runs have.
pub(crate) fn compare(before: &Run, after: &Run) -> String {
    let mut out = String::new();
    let fits = "a string takes what it is given";
    writeln!(out, "# {} of {} against {} of {}\n", before.bench, before.at, after.bench, after.at)
        .expect(fits);
    writeln!(out, "commits {} and {}", before.machine.commit, after.machine.commit).expect(fits);
    if before.machine.host != after.machine.host || before.machine.processor != after.machine.processor {
        writeln!(out, "\nThe machines differ: only ratios within a run can be compared.").expect(fits);
    }
    writeln!(out, "\n| case | side | figure | before | after | after / before | own / other side |")
        .expect(fits);
    writeln!(out, "|---|---|---|---|---|---|---|").expect(fits);
    for old in &before.cases {
        let Some(new) = after.cases.iter().find(|new| new.name == old.name) else { continue };
        for side in old.sides() {
            let names = old.figure_names().into_iter();
            let names = names.filter(|name| FIGURES.iter().any(|end| name.ends_with(end)));
            for figure in names.filter(|name| !LEFT_OUT.contains(name)) {
                let summaries = old.summary(side, figure).zip(new.summary(side, figure));
                let Some((was, is)) = summaries else { continue };
                let relative = if side == old.own { relative(old, new, figure) } else { String::new() };
                writeln!(
                    out,
                    "| {} | {side} | {figure} | {} | {} | {} | {relative} |",
                    old.name,
                    number(was.median),
                    number(is.median),
                    if was.median > 0.0 { format!("{:.3}", is.median / was.median) } else { "-".to_owned() }
                )
                .expect(fits);
            }
        }
    }
    let differences = differences(before, after);
    if !differences.is_empty() {
        writeln!(out, "\n{}", differences.join("\n")).expect(fits);
    }
    out
}

/// What cannot be compared, or not without a thought: rows and sides of one run only, sides of another version or durability.
fn differences(before: &Run, after: &Run) -> Vec<String> {
    let mut lines = Vec::new();
    for (one, other, when) in [(before, after, "before"), (after, before, "after")] {
        for case in &one.cases {
            let Some(twin) = other.cases.iter().find(|twin| twin.name == case.name) else {
                lines.push(format!("- {}: only {when}", case.name));
                continue;
            };
            let sides = twin.sides();
            let alone = case.sides().into_iter().filter(|side| !sides.contains(side));
            lines.extend(alone.map(|side| format!("- {}, {side}: only {when}", case.name)));
        }
    }
    for old in &before.cases {
        let Some(new) = after.cases.iter().find(|new| new.name == old.name) else { continue };
        // Ours is of another commit each time: that is what is compared.
        for (side, was) in old.about.iter().filter(|(side, _)| **side != old.own) {
            let Some(is) = new.about.get(side) else { continue };
            for (what, was, is) in
                [("version", &was.version, &is.version), ("durable", &was.durability, &is.durability)]
            {
                if was != is {
                    lines.push(format!("- {}, {side}: {what} was \"{was}\" and is \"{is}\"", old.name));
                }
            }
        }
    }
    lines
}

/// How the ratio to each other side has changed.
fn relative(old: &Case, new: &Case, figure: &str) -> String {
    let others = old.sides().into_iter().filter(|side| *side != old.own);
    let changes = others.filter_map(|side| {
        let (was, is) = old.ratio(side, figure).zip(new.ratio(side, figure))?;
        Some(format!("{side} {:.2} → {:.2}", was.median, is.median))
    });
    changes.collect::<Vec<String>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::case;
    use crate::report::{About, Aim};

    #[test]
    fn a_change_shows_absolutely_and_relative_to_the_peer() {
        let run = |own, peer| Run { cases: vec![case("get", own, peer)], ..Run::default() };
        // A slower machine, and yet better than before beside the peer.
        let text = compare(&run([200.0; 3], [100.0; 3]), &run([150.0; 3], [50.0; 3]));
        assert!(text.contains("| get | own | per_second | 200 | 150 | 0.750 | peer 2.00 → 3.00 |"), "{text}");
        assert!(!text.contains("only"), "{text}");
    }

    /// A run of peers through its JSON.
    fn run_of_peers(cases: &[(&str, &str)]) -> Run {
        let cases = cases.iter().map(|(name, version)| {
            let mut case = case(name, [200.0; 3], [100.0; 3]);
            for round in &mut case.rounds {
                round.figures.insert("received_mb_per_second".to_owned(), 5.0);
                round.figures.insert("put_latency_us_p99".to_owned(), 0.0);
            }
            let about = About { version: (*version).to_owned(), ..About::default() };
            case.about = [("peer".to_owned(), about.clone()), ("own".to_owned(), about)].into();
            case.aims = vec![Aim::least("peer", "per_second", 3.0)];
            case
        });
        let run = Run { bench: "peers".to_owned(), cases: cases.collect(), ..Run::default() };
        serde_json::from_slice(&serde_json::to_vec(&run).unwrap()).unwrap()
    }

    #[test]
    fn runs_of_peers_are_compared_row_by_row_and_differences_are_named() {
        let before = run_of_peers(&[("get", "7.0"), ("put", "7.0"), ("scan", "7.0")]);
        let mut after = run_of_peers(&[("get", "7.0"), ("put", "7.2"), ("ycsb a", "7.2")]);
        after.cases[0].rounds.retain(|round| round.side == "own");
        let text = compare(&before, &after);
        assert!(text.contains("| put | own | per_second | 200 | 200 | 1.000 | peer 2.00 → 2.00 |"), "{text}");
        assert!(text.contains("| put | own | put_latency_us_p99 | 0 | 0 | - |"), "{text}");
        assert!(!text.contains("received"), "{text}");
        for line in [
            "- get, peer: only before",
            "- scan: only before",
            "- ycsb a: only after",
            "- put, peer: version was \"7.0\" and is \"7.2\"",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert_eq!(text.matches("version was").count(), 1, "ours is of another commit anyway: {text}");
    }

    #[test]
    fn reports_of_before_there_were_aims_are_still_read() {
        let old = r#"{"bench":"get-memory","at":"","command":"","machine":{"host":"","processor":"","kernel":"","memory_mib":1,
            "file_system":"","commit":"","build":""},"peers":{},"cases":[{"name":"get","load":"","own":"own","rounds":
            [{"side":"own","round":0,"figures":{"per_second":5.0}}]}],"notes":[]}"#;
        let old: Run = serde_json::from_str(old).unwrap();
        assert!(compare(&old, &old).contains("| get | own | per_second | 5 | 5 | 1.000 |"));
    }
}
