//! What was asked is what was done, once: a compare-and-set follows directly on the version it expects, a failed
//! device takes no writes until the next start. (That no change has two versions, and that nothing refused is there, the
//! table of versions says.)

use super::known::{By, Known, is_excused};
use crate::sim::history::{Does, Fate, History, KeyIndex, Violation, Write};
use layout::units::Version;

const NAME: &str = "requests";

/// Every write that should not have happened, or not so. `core_count` says which tablets share a device's journal.
#[must_use]
pub fn check(history: &History, known: &Known, excused: u64, core_count: u16) -> Vec<Violation> {
    let mut out = Vec::new();
    for (number, write) in history.writes.iter().enumerate() {
        let key = write.changes[0].key;
        if is_excused(excused, history.keys.tablet(key)) {
            continue;
        }
        let wrong = write.expected.and_then(|expected| {
            let version = known.first[number]?;
            miscompared(history, known, write, key, expected, version)
        });
        if let Some(wrong) = wrong {
            let text = format!("{}: write {number} {wrong}", history.keys.name(key));
            out.push(Violation { checker: NAME, text });
        }
    }
    out.extend(written_on_failed_device(history, core_count));
    out
}

fn miscompared(
    history: &History,
    known: &Known,
    write: &Write,
    key: KeyIndex,
    expected: Version,
    version: Version,
) -> Option<String> {
    let before = known.newest(key, Version(version.0 - 1));
    if !expected.is_absent() {
        let deleted = matches!(known.versions[key.0 as usize].get(&expected), Some(By::Change(by))
            if history.change(*by).does == Does::Delete);
        if deleted {
            return Some(format!("expected {expected}, a delete, and has version {version}"));
        }
        let (newest, _) = before?;
        return (newest > expected)
            .then(|| format!("expected {expected}, met {newest}, and has version {version}"));
    }
    let (newest, by) = before?;
    let By::Change(by) = by else { return None };
    // A retry is answered later than it was applied: log time had come at most so far. Who was not told what became of it may have heard
    // the log time of before.
    let is_told = matches!(write.fate, Fate::Acked { .. }) && write.log_time.0 != 0;
    let gone = |does: Does| match does {
        Does::Delete => true,
        Does::Put { expiry, .. } => expiry != 0 && (!is_told || expiry <= write.log_time.0),
    };
    let maybe = known.maybe[key.0 as usize].iter().any(|&by| {
        history.writes[by.write as usize].invoked < write.returned && gone(history.change(by).does)
    });
    (!gone(history.change(by).does) && !maybe)
        .then(|| format!("expected no record, met {newest}, and has version {version}"))
}

/// Once somebody was told that the device has failed, no write sent later is acknowledged before the next start.
fn written_on_failed_device(history: &History, core_count: u16) -> Option<Violation> {
    for &(asked, failed, tablet) in &history.device_failures {
        // The answer may have been on its way while the node was started again.
        if history.starts.iter().any(|start| (asked..failed).contains(start)) {
            continue;
        }
        let restart = history.starts.iter().copied().find(|&start| start > failed).unwrap_or(u64::MAX);
        let shard = tablet.shard(core_count);
        let bad = history.writes.iter().find(|write| {
            matches!(write.fate, Fate::Acked { repeated: false, .. })
                && write.invoked > failed
                && write.returned < restart
                && history.keys.facts(write.stream).tablet.shard(core_count) == shard
        });
        if let Some(write) = bad {
            let text = format!("{write:?} was acknowledged by a shard whose device had failed");
            return Some(Violation { checker: NAME, text });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::history::{Change, StreamIndex};
    use layout::units::{LogTime, RequestId, Space};

    /// A put that expires at 50, then a compare-and-set that expects nothing, with what it was told.
    fn wrong(fate: Fate, log_time: u64) -> Option<String> {
        let mut history = History::new(0);
        let stream = history.keys.stream(Space(0), b"s");
        let key = history.keys.key(stream, 1);
        let put = |expiry| vec![Change { key, does: Does::Put { bytes: 1, expiry } }];
        let write = |changes, expected, fate, log_time| Write {
            client: 0,
            invoked: 1,
            sent: 1,
            returned: 2,
            at_ns: (1, 2),
            stream: StreamIndex(0),
            changes,
            expected,
            id: RequestId::default(),
            fate,
            log_time: LogTime(log_time),
        };
        let acked = Fate::Acked { first: Version(10), repeated: false };
        history.writes.push(write(put(50), None, acked, 40));
        history.writes.push(write(put(0), Some(Version::ABSENT), fate, log_time));
        let known = Known::new(&history, 0);
        miscompared(&history, &known, &history.writes[1], key, Version::ABSENT, Version(20))
    }

    #[test]
    fn what_is_applied_after_its_answer_may_meet_what_has_expired_since() {
        let acked = Fate::Acked { first: Version(20), repeated: false };
        assert!(wrong(acked, 45).is_some(), "it was there");
        assert!(wrong(acked, 50).is_none(), "it had expired");
        assert!(wrong(Fate::Unknown, 45).is_none(), "nobody knows when it was applied");
    }
}
