//! Expiry by log time: no answer shows a record whose expiry its own log time has reached, and log time never runs
//! backwards. (That nothing is hidden before its time, the checkers of reads and pages say.)

use super::known::{By, Known, is_excused};
use crate::sim::history::{Does, History, KeyIndex, Order, Seen, Violation};
use layout::units::{LogTime, TABLET_COUNT};

const NAME: &str = "expiry";

/// Every answer that is wrong about time.
#[must_use]
pub fn check(history: &History, known: &Known, excused: u64) -> Vec<Violation> {
    let mut out = Vec::new();
    let counts = |key: KeyIndex| !is_excused(excused, history.keys.tablet(key));
    for read in history.reads.iter().filter(|read| counts(read.key)) {
        let expiry = read.expiry.unwrap_or_else(|| expiry_of(history, known, read.key, read.seen));
        shown(&mut out, history, read.key, expiry, read.log_time, read.at_ns);
    }
    for page in &history.pages {
        for (key, _, expiry) in page.records.iter().filter(|(key, ..)| counts(*key)) {
            shown(&mut out, history, *key, *expiry, page.log_time, page.at_ns);
        }
    }
    out.extend(backwards(history, excused));
    out
}

/// Expiry of a version that was confirmed without being sent.
fn expiry_of(history: &History, known: &Known, key: KeyIndex, seen: Seen) -> u64 {
    match known.versions[key.0 as usize].get(&seen.version()) {
        Some(By::Change(by)) => match history.change(*by).does {
            Does::Put { expiry, .. } => expiry,
            Does::Delete => 0,
        },
        Some(By::Someone) | None => 0,
    }
}

fn shown(
    out: &mut Vec<Violation>,
    history: &History,
    key: KeyIndex,
    expiry: u64,
    log_time: LogTime,
    at_ns: u64,
) {
    if expiry != 0 && expiry <= log_time.0 {
        let name = history.keys.name(key);
        let text =
            format!("{name} was shown at {at_ns} ns, log time {log_time}, though it expired at {expiry}");
        out.push(Violation { checker: NAME, text });
    }
}

/// Per tablet, whoever asks after an answer came is told no earlier log time.
fn backwards(history: &History, excused: u64) -> Vec<Violation> {
    let mut points: Vec<(Order, bool, usize)> = Vec::with_capacity(2 * history.told.len());
    for (number, told) in history.told.iter().enumerate() {
        if !is_excused(excused, told.tablet) {
            points.push((told.invoked, true, number));
            points.push((told.returned, false, number));
        }
    }
    points.sort_unstable();
    let mut newest = [LogTime(0); TABLET_COUNT];
    let mut at_begin = vec![LogTime(0); history.told.len()];
    let mut out = Vec::new();
    for (_, begins, number) in points {
        let told = &history.told[number];
        let newest = &mut newest[told.tablet.index()];
        if begins {
            at_begin[number] = *newest;
        } else {
            if told.log_time < at_begin[number] {
                let (tablet, before) = (told.tablet.get(), at_begin[number]);
                let text =
                    format!("log time of tablet {tablet} went back from {before} to {}", told.log_time);
                out.push(Violation { checker: NAME, text });
            }
            *newest = (*newest).max(told.log_time);
        }
    }
    out
}
