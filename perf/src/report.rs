//! What is kept of a run: every round of every side, the machine, the commands; and what is read off it: medians,
//! spread, ratios. Owns the JSON, its markdown and its page. Must never drop a round: an outlier is a figure too.

mod chart;
mod compare;
mod html;
mod text;

pub(crate) use compare::compare;
pub(crate) use html::html;
pub(crate) use text::{is_failure, markdown, number};

use crate::load::Measured;
use crate::machine::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Percentiles of latencies that are kept, with the ends of their names.
pub(crate) const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999)];

/// Figures by name; names end in their unit, those without one are counts.
pub(crate) type Figures = BTreeMap<String, f64>;

/// One side measured once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Round {
    /// Who was measured.
    pub(crate) side: String,
    /// From 0; the sides of a round ran one directly after the other.
    pub(crate) round: u32,
    /// What was seen.
    pub(crate) figures: Figures,
}

/// What a side is: without it its figures say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// What it says of itself.
    pub(crate) version: String,
    /// The whole command, or how it was laid out where it runs in this process.
    pub(crate) command: String,
    /// What of a write is on the disk when it is answered.
    pub(crate) durability: String,
}

/// What is aimed for. It is told, and never asserted: machines are shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Aim {
    /// The side that own is divided by; own itself: the figure as it is.
    pub(crate) side: String,
    /// The figure.
    pub(crate) figure: String,
    /// At least this much.
    #[serde(default)]
    pub(crate) least: Option<f64>,
    /// At most this much.
    #[serde(default)]
    pub(crate) most: Option<f64>,
}

impl Aim {
    /// Own is at least `least` times the side.
    pub(crate) fn least(side: &str, figure: &str, least: f64) -> Aim {
        Aim { side: side.to_owned(), figure: figure.to_owned(), least: Some(least), most: None }
    }

    /// Own is at most `most` times the side.
    pub(crate) fn most(side: &str, figure: &str, most: f64) -> Aim {
        Aim { side: side.to_owned(), figure: figure.to_owned(), least: None, most: Some(most) }
    }
}

/// Sides under the same load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Short name: the key of comparisons.
    pub(crate) name: String,
    /// What was asked, in a sentence.
    pub(crate) load: String,
    /// The side that others are divided by.
    pub(crate) own: String,
    /// In the order they ran.
    pub(crate) rounds: Vec<Round>,
    /// What the sides are, by name.
    #[serde(default)]
    pub(crate) about: BTreeMap<String, About>,
    /// What is aimed for.
    #[serde(default)]
    pub(crate) aims: Vec<Aim>,
}

/// A run of one bench.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Name of the bench.
    pub(crate) bench: String,
    /// When it began, RFC 3339.
    pub(crate) at: String,
    /// The command line.
    pub(crate) command: String,
    /// What it ran on.
    pub(crate) machine: Machine,
    /// Versions and commands of others, by name.
    pub(crate) peers: BTreeMap<String, String>,
    /// What was measured.
    pub(crate) cases: Vec<Case>,
    /// What a reader must know: what is missing, what was cut short.
    pub(crate) notes: Vec<String>,
}

/// A figure over the rounds of a side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Summary {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Summary> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Summary { median, least, most })
    }
}

impl Case {
    /// Sides in the order they first ran.
    pub(crate) fn sides(&self) -> Vec<&str> {
        let mut sides: Vec<&str> = Vec::new();
        for round in &self.rounds {
            if !sides.contains(&round.side.as_str()) {
                sides.push(&round.side);
            }
        }
        sides
    }

    /// Names of the figures that any side has.
    pub(crate) fn figure_names(&self) -> Vec<&str> {
        let names = self.rounds.iter().flat_map(|round| round.figures.keys().map(String::as_str));
        names.collect::<std::collections::BTreeSet<&str>>().into_iter().collect()
    }

    /// A figure of a side over its rounds.
    pub(crate) fn summary(&self, side: &str, figure: &str) -> Option<Summary> {
        let of_side = self.rounds.iter().filter(|round| round.side == side);
        Summary::of(of_side.filter_map(|round| round.figures.get(figure).copied()).collect())
    }

    /// `own` divided by `side`, round by round: what the machine did to both at that time falls out.
    pub(crate) fn ratio(&self, side: &str, figure: &str) -> Option<Summary> {
        let figure_of = |side: &str, round: u32| {
            let found = self.rounds.iter().find(|known| known.side == side && known.round == round)?;
            found.figures.get(figure).copied().filter(|value| *value > 0.0)
        };
        let rounds = self.rounds.iter().filter(|round| round.side == side).map(|round| round.round);
        Summary::of(
            rounds.filter_map(|round| Some(figure_of(&self.own, round)? / figure_of(side, round)?)).collect(),
        )
    }

    /// What an aim is measured by, and whether it is met by the median; `None` when the run does not say.
    pub(crate) fn verdict(&self, aim: &Aim) -> Option<(Summary, bool)> {
        let found = if aim.side == self.own {
            self.summary(&self.own, &aim.figure)?
        } else {
            self.ratio(&aim.side, &aim.figure)?
        };
        let is_met = aim.least.is_none_or(|least| found.median >= least)
            && aim.most.is_none_or(|most| found.median <= most);
        Some((found, is_met))
    }
}

/// Figures of a load.
pub(crate) fn figures_of(measured: &Measured) -> Figures {
    let mut figures = Figures::new();
    let mut set = |name: &str, value: f64| {
        figures.insert(name.to_owned(), value);
    };
    set("seconds", measured.seconds);
    set("answers", measured.meter.answer_count() as f64);
    set("per_second", measured.per_second());
    if let (Some(server), Some(rate)) = (measured.server, measured.per_server_second()) {
        set("per_server_cpu_second", rate);
        set("server_cpu_percent", 100.0 * server.seconds() / measured.seconds);
        let ticks = (server.user_ns + server.system_ns).max(1) as f64;
        set("server_system_share_percent", 100.0 * server.system_ns as f64 / ticks);
    }
    set("generator_cpu_percent", 100.0 * measured.generator.seconds() / measured.seconds);
    set("others_cpu_percent", 100.0 * measured.others);
    set("stolen_cpu_percent", 100.0 * measured.stolen);
    set("unanswered", measured.unanswered as f64);
    let (sent, received) = measured.meter.bytes();
    set("sent_mb_per_second", sent as f64 / 1e6 / measured.seconds);
    set("received_mb_per_second", received as f64 / 1e6 / measured.seconds);
    for (name, count) in measured.meter.outcomes() {
        set(&format!("outcome_{name}"), count as f64);
    }
    for (operation, latencies) in measured.meter.latencies() {
        let us = |ns: u64| ns as f64 / 1000.0;
        let name = format!("{operation:?}").to_lowercase();
        set(&format!("{name}_count"), latencies.len() as f64);
        for (label, quantile) in PERCENTILES {
            set(&format!("{name}_latency_us_{label}"), us(latencies.value_at_quantile(quantile)));
        }
        set(&format!("{name}_latency_us_max"), us(latencies.max()));
    }
    let late = measured.meter.lateness();
    if !late.is_empty() {
        set("generator_late_us_p50", late.value_at_quantile(0.5) as f64 / 1000.0);
        set("generator_late_us_p99", late.value_at_quantile(0.99) as f64 / 1000.0);
    }
    figures
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn case(name: &str, own: [f64; 3], peer: [f64; 3]) -> Case {
        let mut rounds = Vec::new();
        for round in 0..3 {
            for (side, values) in [("own", own), ("peer", peer)] {
                let figures = Figures::from([("per_second".to_owned(), values[round as usize])]);
                rounds.push(Round { side: side.to_owned(), round, figures });
            }
        }
        Case {
            name: name.to_owned(),
            load: "gets".to_owned(),
            own: "own".to_owned(),
            rounds,
            about: BTreeMap::new(),
            aims: Vec::new(),
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was slow in round 1, for both.
        let case = case("get", [200.0, 20.0, 220.0], [100.0, 10.0, 100.0]);
        let ratio = case.ratio("peer", "per_second").unwrap();
        assert_eq!((ratio.least, ratio.median), (2.0, 2.0));
        assert!((ratio.most - 2.2).abs() < 1e-9);
        assert_eq!(case.summary("own", "per_second").unwrap().median, 200.0);
        assert_eq!(case.summary("own", "nothing"), None);
        assert_eq!(case.sides(), ["own", "peer"]);
    }

    #[test]
    fn a_run_survives_its_json() {
        let run = Run { cases: vec![case("get", [1.5, 2.0, 3.0], [1.0, 1.0, 1.0])], ..Run::default() };
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<Run>(&text).unwrap(), run);
    }
}
