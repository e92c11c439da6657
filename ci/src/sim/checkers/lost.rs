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
    // Or what came about later still.
    let mut since = known.versions[key.0 as usize].range(newest..);
    let away = since.any(|(_, by)| match *by {
        By::Change(by) => takes(by),
        By::Someone => true,
    });
    let maybe = known.maybe[key.0 as usize].iter().any(|by| takes(*by));
    (!away && !maybe).then(|| format!("shows nothing at log time {log_time}, and {newest} ({by:?}) is lost"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::history::{Change, Read, StreamIndex, Write};
    use layout::units::{RequestId, Space};

    const SINCE: Order = 100;

    fn write(history: &mut History, changes: &[(KeyIndex, Does)], fate: Fate) {
        history.writes.push(Write {
            client: 0,
            invoked: 1,
            sent: 1,
            returned: 2,
            at_ns: (1, 2),
            stream: StreamIndex(0),
            changes: changes.iter().map(|&(key, does)| Change { key, does }).collect(),
            expected: None,
            id: RequestId::default(),
            fate,
            log_time: LogTime(0),
        });
    }

    fn sees(history: &mut History, key: KeyIndex, invoked: Order, seen: Seen) {
        history.reads.push(Read {
            by: "a get",
            client: 0,
            invoked,
            returned: invoked + 1,
            at_ns: 0,
            key,
            log_time: LogTime(0),
            seen,
            expiry: Some(0),
        });
    }

    const PUT: Does = Does::Put { bytes: 100, expiry: 0 };
    const ACKED: Fate = Fate::Acked { first: Version(10), repeated: false };

    fn of(version: u64, write: u32, position: u16) -> Seen {
        Seen::Value(Version(version), WriteRef { write, position })
    }

    fn begun() -> (History, KeyIndex, KeyIndex) {
        let mut history = History::new(0);
        let stream = history.keys.stream(Space(0), b"s");
        let (key, other) = (history.keys.key(stream, 1), history.keys.key(stream, 2));
        write(&mut history, &[(key, PUT)], ACKED);
        (history, key, other)
    }

    fn count(history: &History) -> usize {
        check(history, &Known::new(history, 0), 0, SINCE, &BTreeMap::new()).len()
    }

    /// An acknowledged write, one of unknown fate that is seen at `seen_at`, and a read of the first that counts as the last.
    fn found(seen_at: Order) -> usize {
        let (mut history, key, other) = begun();
        write(&mut history, &[(key, PUT)], Fate::Unknown);
        sees(&mut history, key, seen_at, of(20, 1, 0));
        sees(&mut history, key, SINCE + 10, of(10, 0, 0));
        sees(&mut history, other, SINCE + 10, Seen::Absent);
        count(&history)
    }

    #[test]
    fn what_was_seen_before_the_end_is_not_lost_and_what_comes_later_may() {
        assert_eq!(found(SINCE - 50), 1);
        assert_eq!(found(SINCE + 20), 0);
    }

    #[test]
    fn a_delete_of_which_only_its_batch_is_seen_takes_the_record() {
        let deleted = |with: &[Does]| {
            let (mut history, key, other) = begun();
            let changes: Vec<_> = [other, key].into_iter().zip(with.iter().copied()).collect();
            write(&mut history, &changes, Fate::Unknown);
            sees(&mut history, other, SINCE + 5, of(20, 1, 0));
            sees(&mut history, key, SINCE + 10, Seen::Absent);
            count(&history)
        };
        assert_eq!(deleted(&[PUT, Does::Delete]), 0);
        assert_eq!(deleted(&[PUT]), 1, "nobody has deleted it");
    }
}
