//! A run as one page of HTML: the table of aims, charts, and what markdown has. Everything is in the file: it opens in any browser
//! without a network. Escaping is maud's; charts are SVG by plotters.

use super::chart::{self, Curve};
use super::text::{RATIOS, cell, number, rows};
use super::{Case, PERCENTILES, Run, Summary};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = "
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1a1a1a; background: #fff }
table { border-collapse: collapse; margin: .6rem 0 1rem; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .7rem; text-align: left; vertical-align: top }
td.number { text-align: right; white-space: nowrap }
code { font-size: 85%; word-break: break-word }
.met { color: #0a6b2d } .missed { color: #a3230f }
svg { max-width: 100%; height: auto; margin: .4rem 0 }
h2 { margin-top: 2.4rem }
";
/// Beginning of the names of figures that are bytes of a tier.
const TIER: &str = "tier_bytes_";

/// The whole page.
pub(crate) fn html(run: &Run) -> String {
    let machine = &run.machine;
    let title = format!("bench {}", run.bench);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " " (run.at) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                p { code { (run.command) } }
                p {
                    (run.at) ", commit " (machine.commit) " (" (machine.build) "), host " (machine.host) ", "
                    (machine.processor) ", " (machine.memory_mib) " MiB, Linux " (machine.kernel) ", " (machine.file_system)
                }
                @if !run.notes.is_empty() {
                    ul { @for note in &run.notes { li { (note) } } }
                }
                (aims(run))
                (ratios(run))
                @for case in &run.cases { (section(case)) }
                (peers(run))
            }
        }
    };
    page.into_string()
}

/// What is aimed for, and what came of it.
fn aims(run: &Run) -> Markup {
    let lines = super::text::aim_lines(run);
    html! {
        @if !lines.is_empty() {
            h2 { "Aims" }
            table {
                tr { th { "row" } th { "figure" } th { "beside" } th { "aim" } th { "found" } th {} }
                @for line in &lines {
                    tr {
                        td { (line.case) }
                        td { (line.figure) }
                        td { (line.side) }
                        td.number { (line.aim) }
                        td.number { (line.found) }
                        td class=(line.verdict) { (line.verdict) }
                    }
                }
            }
        }
    }
}

/// Ratios of all rows in one chart.
fn ratios(run: &Run) -> Markup {
    let bars = |figure: &str| {
        let mut bars = Vec::new();
        for case in &run.cases {
            for side in case.sides().into_iter().filter(|side| *side != case.own) {
                if let Some(ratio) = case.ratio(side, figure) {
                    bars.push((format!("{} / {side}", case.name), ratio));
                }
            }
        }
        bars
    };
    html! {
        @for (figure, label) in RATIOS {
            @let bars = bars(figure);
            @if !bars.is_empty() {
                h2 { "Ratio per row, " (label) }
                p { "Ours divided by the other, within a round; the bar is the median, the line least to most. Beyond 1 ours is more." }
                (PreEscaped(chart::ratios(&bars)))
            }
        }
    }
}

fn section(case: &Case) -> Markup {
    let sides = case.sides();
    let rounds = case.rounds.iter().map(|round| round.round + 1).max().unwrap_or(0);
    let curves = curves(case);
    let tiers = tiers(case);
    html! {
        h2 { (case.name) }
        p { (case.load) " " (rounds) " rounds; median (least..most)." }
        table {
            tr { th {} @for side in &sides { th { (side) } } }
            @for (label, figure) in rows(case) {
                tr {
                    td { (label) }
                    @for side in &sides {
                        td.number { @if let Some(found) = case.summary(side, &figure) { (cell(found)) } }
                    }
                }
            }
        }
        @if !case.about.is_empty() {
            table {
                tr { th { "side" } th { "version" } th { "command" } th { "durable" } }
                @for (side, about) in &case.about {
                    tr { td { (side) } td { (about.version) } td { code { (about.command) } } td { (about.durability) } }
                }
            }
        }
        @if curves.iter().any(|curve| curve.points.len() > 1) {
            h3 { "Latency by percentile" }
            @if !case.figure_names().contains(&"generator_late_us_p50") {
                p { "Of a closed loop: what waits for an answer asks for nothing else meanwhile, so these say how the sides compare and promise nothing." }
            }
            (PreEscaped(chart::latencies(&curves)))
        }
        @if !tiers.is_empty() {
            h3 { "Bytes per tier" }
            (PreEscaped(chart::bytes(&tiers)))
        }
    }
}

fn peers(run: &Run) -> Markup {
    html! {
        @if !run.peers.is_empty() {
            h2 { "Versions and commands" }
            table { @for (name, what) in &run.peers { tr { td { (name) } td { code { (what) } } } } }
        }
    }
}

/// Latencies of each side and operation: place of the percentile in [`chart::LATENCY_LABELS`], microseconds.
fn curves(case: &Case) -> Vec<Curve> {
    const END: &str = "_latency_us_p50";
    let names = case.figure_names();
    let operations: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(END)).collect();
    let mut curves = Vec::new();
    for side in case.sides() {
        for operation in &operations {
            let places = PERCENTILES.iter().map(|(name, _)| *name).chain(["max"]).enumerate();
            let points: Vec<(usize, f64)> = places
                .filter_map(|(place, name)| {
                    let found = case.summary(side, &format!("{operation}_latency_us_{name}"))?;
                    (found.median > 0.0).then_some((place, found.median))
                })
                .collect();
            if !points.is_empty() {
                let name =
                    if operations.len() > 1 { format!("{side}, {operation}") } else { side.to_owned() };
                curves.push(Curve { name, points });
            }
        }
    }
    curves
}

/// Bytes per tier of own, where the run has them.
fn tiers(case: &Case) -> Vec<(String, Summary)> {
    let names = case.figure_names().into_iter().filter(|name| name.starts_with(TIER));
    names
        .filter_map(|name| {
            let found = case.summary(&case.own, name)?;
            Some((format!("{}: {}B", name[TIER.len()..].replace('_', " "), number(found.median)), found))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::case;
    use crate::report::{About, Aim, Figures, Round};

    fn page() -> String {
        let mut case = case("get <fast>", [200.0; 3], [100.0; 3]);
        for round in &mut case.rounds {
            for (name, us) in [("p50", 10.0), ("p99", 40.0), ("max", 900.0)] {
                round.figures.insert(format!("get_latency_us_{name}"), us);
            }
        }
        let about = About {
            version: "7 <beta>".to_owned(),
            command: "peer --save \"\"".to_owned(),
            durability: "nothing".to_owned(),
        };
        case.about.insert("peer".to_owned(), about);
        case.aims = vec![Aim::least("peer", "per_second", 3.0), Aim::most("peer", "get_latency_us_p99", 1.0)];
        let figures = Figures::from([("tier_bytes_tables".to_owned(), 3e6)]);
        case.rounds.push(Round { side: "own".to_owned(), round: 0, figures });
        let notes = vec!["<script>alert(1)</script>".to_owned()];
        html(&Run { bench: "peers".to_owned(), cases: vec![case], notes, ..Run::default() })
    }

    #[test]
    fn a_page_stands_alone() {
        let page = page();
        assert!(page.starts_with("<!DOCTYPE html>"));
        for outside in ["src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        // The one address in it names a format, and nobody fetches it.
        let addresses: Vec<&str> = page.match_indices("http").map(|(at, _)| &page[at..at + 26]).collect();
        assert!(addresses.iter().all(|address| *address == "http://www.w3.org/2000/svg"), "{addresses:?}");
    }

    #[test]
    fn what_others_said_is_escaped() {
        let page = page();
        assert!(page.contains("&lt;script&gt;alert(1)"));
        assert!(page.contains("7 &lt;beta&gt;") && page.contains("get &lt;fast&gt; / peer"), "{page}");
        assert!(!page.contains("get <fast>"));
    }

    #[test]
    fn charts_and_verdicts_are_there() {
        let page = page();
        // Two ratios have no figures per CPU-second: one chart of ratios, one of latencies, one of tiers.
        assert_eq!(page.matches("<svg").count(), 3, "{page}");
        assert!(page.contains("class=\"missed\"") && page.contains("class=\"met\""));
        assert!(page.contains("tables: 3 MB"), "{page}");
    }
}
