//! What must hold of a history. Each checker is a pure function of what clients saw; none looks into the node.

pub mod known;
pub mod linear;
pub mod lost;

use super::history::{History, KeyIndex, Order, Violation};
use super::plan::Mode;
use known::Known;
use std::collections::BTreeMap;

/// What the last, undisturbed part of a run showed.
#[derive(Clone, Debug, Default)]
pub struct Final {
    /// Everything is read back from here on.
    pub since: Order,
    /// Keys whose last read had no value as its answer, and why.
    pub unanswered: BTreeMap<KeyIndex, &'static str>,
    /// The node refused to start: an answer of `Corrupt` for all.
    pub refused_to_start: bool,
    /// The node is full.
    pub full: bool,
    /// Status text.
    pub status: Option<String>,
}

/// Everything that is wrong with a history.
#[must_use]
pub fn judge(history: &History, last: &Final, mode: Mode) -> Vec<Violation> {
    let excused = 0;
    let mut out = history.troubles.clone();
    let known = Known::new(history, excused);
    out.extend(known.violations.iter().cloned());
    out.extend(linear::check(history, &known, excused));
    if last.since > 0 && !last.refused_to_start {
        if mode == Mode::Honest {
            for (key, why) in &last.unanswered {
                let text = format!("{} is answered {why} at the end", history.keys.name(*key));
                out.push(Violation { checker: "lost", text });
            }
        }
        out.extend(lost::check(history, &known, excused, last.since, &last.unanswered));
    }
    out
}
