//! Nothing acknowledged is lost: after everything has come to rest, each key shows the newest version that anybody had been
//! told of by then, or nothing if that was a delete or has expired. A write of which nobody knew what became of it may
//! come about later still.
//!
//! Says again, without any order of events, what the sweep says of the last reads; the two share only the table of
//! versions.

use super::known::{By, Known, is_excused};
use crate::sim::history::{Does, Fate, History, KeyIndex, Order, Seen, Violation, WriteRef};
use layout::units::{LogTime, Version};
use std::collections::{BTreeMap, BTreeSet};

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
    let seen = seen_before(history, since);
    let mut out = Vec::new();
    for number in 0..history.keys.keys.len() {
        let key = KeyIndex(u32::try_from(number).expect("keys are few"));
        if is_excused(excused, history.keys.tablet(key)) || unanswered.contains_key(&key) {
            continue;
        }
        let wrong = match last.get(&key) {
            None => Some("was never answered for".to_owned()),
            Some((last, log_time)) => {
                let told = newest_told(history, known, &seen, key);
                told.and_then(|told| judge(history, known, told, (key, last.version()), *log_time))
            }
        };
        if let Some(wrong) = wrong {
            out.push(Violation { checker: NAME, text: format!("{} {wrong}", history.keys.name(key)) });
        }
    }
    out
}

/// Versions that a read or a page had shown by then.
fn seen_before(history: &History, since: Order) -> BTreeSet<(KeyIndex, Version)> {
    let reads = history.reads.iter().filter(|read| read.returned < since);
    let pages = history.pages.iter().filter(|page| page.returned < since);
    let of_pages = pages.flat_map(|page| page.records.iter().map(|one| (one.0, one.1.version())));
    reads.map(|read| (read.key, read.seen.version())).chain(of_pages).collect()
}

/// The newest version of a key that was acknowledged, or had been seen.
fn newest_told(
    history: &History,
    known: &Known,
    seen: &BTreeSet<(KeyIndex, Version)>,
    key: KeyIndex,
) -> Option<(Version, By)> {
    let is_acked = |by: By| match by {
        By::Change(by) => matches!(history.writes[by.write as usize].fate, Fate::Acked { .. }),
        By::Someone => false,
    };
    let mut versions = known.versions[key.0 as usize].iter().rev();
    let is_told = |&(version, by): &(&Version, &By)| is_acked(*by) || seen.contains(&(key, *version));
    versions.find(is_told).map(|(version, by)| (*version, *by))
}

fn judge(
    history: &History,
    known: &Known,
    (newest, by): (Version, By),
    (key, found): (KeyIndex, Version),
    log_time: LogTime,
) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::history::{Change, Read, Write};
    use layout::units::{RequestId, Space};

    const SINCE: Order = 100;

    fn write(history: &mut History, key: KeyIndex, fate: Fate) {
        history.writes.push(Write {
            client: 0,
            invoked: 1,
            sent: 1,
            returned: 2,
            at_ns: (1, 2),
            stream: history.keys.keys[key.0 as usize].0,
            changes: vec![Change { key, does: Does::Put { bytes: 100, expiry: 0 } }],
            expected: None,
            id: RequestId::default(),
            fate,
            log_time: LogTime(0),
        });
    }

    fn sees(history: &mut History, key: KeyIndex, invoked: Order, version: u64, write: u32) {
        history.reads.push(Read {
            by: "a get",
            client: 0,
            invoked,
            returned: invoked + 1,
            at_ns: 0,
            key,
            log_time: LogTime(0),
            seen: Seen::Value(Version(version), WriteRef { write, position: 0 }),
            expiry: Some(0),
        });
    }

    /// An acknowledged write 1, a write 2 of unknown fate that is seen at `seen_at`, and a read of 1 that counts as the last.
    fn found(seen_at: Order) -> usize {
        let mut history = History::new(0);
        let stream = history.keys.stream(Space(0), b"s");
        let key = history.keys.key(stream, 1);
        write(&mut history, key, Fate::Acked { first: Version(10), repeated: false });
        write(&mut history, key, Fate::Unknown);
        sees(&mut history, key, seen_at, 20, 1);
        sees(&mut history, key, SINCE + 10, 10, 0);
        let known = Known::new(&history, 0);
        check(&history, &known, 0, SINCE, &BTreeMap::new()).len()
    }

    #[test]
    fn what_was_seen_before_the_end_is_not_lost_and_what_comes_later_may() {
        assert_eq!(found(SINCE - 50), 1);
        assert_eq!(found(SINCE + 20), 0);
    }
}
