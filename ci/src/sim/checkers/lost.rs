//! Nothing acknowledged is lost: after everything has come to rest, each key shows the newest version that anybody was
//! ever told of, or nothing if that was a delete or has expired.
//!
//! Says again, without any order of events, what the sweep says of the last reads; the two share only the table of
//! versions.

use super::known::{By, Known, is_excused};
use crate::sim::history::{Does, History, KeyIndex, Order, Seen, Violation, WriteRef};
use layout::units::{LogTime, Version};
use std::collections::BTreeMap;

const NAME: &str = "lost";

/// Check the reads from `since` on, which nothing ran beside. `unanswered` are keys that the node says it cannot prove.
#[must_use]
pub fn check(
    history: &History,
    known: &Known,
    excused: u64,
    since: Order,
    unanswered: &BTreeMap<KeyIndex, bool>,
) -> Vec<Violation> {
    let mut last: BTreeMap<KeyIndex, (Seen, LogTime)> = BTreeMap::new();
    for read in history.reads.iter().filter(|read| read.invoked > since) {
        last.insert(read.key, (read.seen, read.log_time));
    }
    let mut out = Vec::new();
    for number in 0..history.keys.keys.len() {
        let key = KeyIndex(u32::try_from(number).expect("keys are few"));
        if is_excused(excused, history.keys.tablet(key)) || unanswered.contains_key(&key) {
            continue;
        }
        let wrong = match last.get(&key) {
            None => Some("was never answered for".to_owned()),
            Some((seen, log_time)) => judge(history, known, key, seen.version(), *log_time),
        };
        if let Some(wrong) = wrong {
            out.push(Violation { checker: NAME, text: format!("{} {wrong}", history.keys.name(key)) });
        }
    }
    out
}

fn judge(
    history: &History,
    known: &Known,
    key: KeyIndex,
    found: Version,
    log_time: LogTime,
) -> Option<String> {
    let (newest, by) = known.newest(key, Version(u64::MAX))?;
    if !found.is_absent() {
        return (found < newest).then(|| format!("shows version {found}, and {newest} is lost"));
    }
    let takes = |by: WriteRef| match history.change(by).does {
        Does::Delete => true,
        Does::Put { expiry, .. } => expiry != 0 && expiry <= log_time.0,
    };
    let away = match by {
        By::Change(by) => takes(by),
        By::Someone => true,
    };
    let maybe = known.maybe[key.0 as usize].iter().any(|by| takes(*by));
    (!away && !maybe).then(|| format!("shows nothing at log time {log_time}, and {newest} ({by:?}) is lost"))
}
