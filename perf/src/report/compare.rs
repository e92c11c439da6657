//! Two kept runs side by side. Absolute figures of different days say little: a ratio of ratios, where both runs have
//! the same other side, says more, and is shown beside.

use super::text::number;
use super::{Case, Run};
use std::fmt::Write;

/// Figures worth comparing, by the ends of their names.
const FIGURES: [&str; 3] = ["per_second", "per_server_cpu_second", "latency_us_p99"];

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
            for figure in names.filter(|name| FIGURES.iter().any(|end| name.ends_with(end))) {
                let summaries = old.summary(side, figure).zip(new.summary(side, figure));
                let Some((was, is)) = summaries else { continue };
                let relative = if side == old.own { relative(old, new, figure) } else { String::new() };
                writeln!(
                    out,
                    "| {} | {side} | {figure} | {} | {} | {:.3} | {relative} |",
                    old.name,
                    number(was.median),
                    number(is.median),
                    is.median / was.median
                )
                .expect(fits);
            }
        }
    }
    out
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

    #[test]
    fn a_change_shows_absolutely_and_relative_to_the_peer() {
        let run = |own, peer| Run { cases: vec![case("get", own, peer)], ..Run::default() };
        // A slower machine, and yet better than before beside the peer.
        let text = compare(&run([200.0; 3], [100.0; 3]), &run([150.0; 3], [50.0; 3]));
        assert!(text.contains("| get | own | per_second | 200 | 150 | 0.750 | peer 2.00 → 3.00 |"), "{text}");
    }
}
