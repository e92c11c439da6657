//! Replicas of a tablet agree: what two of them hold at one index of its log is the same, records, expiries and log time. And
//! what was chosen at an index stays so, at every node and in every life. A sealed table is one table, wherever it is in place.

use crate::sim::history::{History, KeyIndex, Page, Seen, Violation};
use ioengine::marks::Fact;
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "replicas";

/// Every pair of pages of different nodes that differ though they are of one stream and index.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut groups: BTreeMap<_, Vec<&Page>> = BTreeMap::new();
    for page in history.pages.iter().filter(|page| page.local.is_some()) {
        groups.entry((page.stream, page.log_index)).or_default().push(page);
    }
    let mut out = Vec::new();
    for pages in groups.values() {
        let (first, others) = pages.split_first().expect("a group has a page");
        let differs = others.iter().find_map(|other| differ(history, first, other));
        out.extend(differs.map(|text| Violation { checker: NAME, text }));
    }
    out
}

/// The last time that a page from `times.0` on speaks of.
fn end(page: &Page) -> u64 {
    page.resume.map_or(u64::MAX, |resume| resume.saturating_sub(1))
}

fn differ(history: &History, one: &Page, other: &Page) -> Option<String> {
    let times = one.times.0.max(other.times.0)..=end(one).min(end(other));
    let part = |page: &Page| -> Vec<(KeyIndex, Seen, u64)> {
        let time = |key: KeyIndex| history.keys.keys[key.0 as usize].1;
        page.records.iter().filter(|(key, ..)| times.contains(&time(*key))).copied().collect()
    };
    let place = || {
        let facts = history.keys.facts(one.stream);
        let name = String::from_utf8_lossy(&facts.name);
        let nodes = (one.local.unwrap_or(0), other.local.unwrap_or(0));
        format!(
            "stream {name} (tablet {}) at log index {}: nodes {nodes:?} at {} and {} ns",
            facts.tablet.get(),
            one.log_index,
            one.at_ns,
            other.at_ns
        )
    };
    if one.log_time != other.log_time {
        return Some(format!("{} have log times {} and {}", place(), one.log_time, other.log_time));
    }
    let (mine, theirs) = (part(one), part(other));
    let odd = mine.iter().find(|one| !theirs.contains(one)).or(theirs.iter().find(|one| !mine.contains(one)));
    odd.map(|odd| {
        let write = match odd.1 {
            Seen::Value(_, by) => Some(&history.writes[by.write as usize]),
            _ => None,
        };
        let (mine, theirs) = (mine.len(), theirs.len());
        format!("{} hold {mine} and {theirs} records, one only {odd:?} of {write:?}", place())
    })
}

/// Every window and generation for which nodes, or lives of one, put two tables in place.
#[must_use]
pub fn check_tables(facts: &[Fact]) -> Vec<Violation> {
    let mut known: BTreeMap<u64, &Fact> = BTreeMap::new();
    let mut out = Vec::new();
    for fact in facts.iter().filter(|fact| fact.name == SEALED) {
        let first = *known.entry(fact.key).or_insert(fact);
        if first.value != fact.value {
            let text = format!(
                "sealed window {:016x} has table {:016x} at node {}, and {:016x} at node {}",
                fact.key, first.value, first.node, fact.value, fact.node
            );
            out.push(Violation { checker: NAME, text });
        }
    }
    out
}

/// Every message that came to a node which does not speak its version.
#[must_use]
pub fn check_messages(facts: &[Fact]) -> Vec<Violation> {
    let wrong = facts.iter().filter(|fact| fact.name == UNSPOKEN).map(|fact| {
        let text = format!(
            "node {} is sent a message of kind {} by node {}, which is of a version that it does not speak",
            fact.node, fact.key, fact.value
        );
        Violation { checker: NAME, text }
    });
    wrong.collect()
}

/// Every place in a log for which two values were told, and every entry that a process left out.
#[must_use]
pub fn check_logs(facts: &[Fact]) -> Vec<Violation> {
    let mut out = Vec::new();
    let mut known: BTreeMap<(&str, u64), (u64, u32)> = BTreeMap::new();
    let mut last: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    // A replay goes on behind what is damaged, and says at its end that the tablet is no voter: what comes then is without gaps again.
    // A process that ends before it has said so has shown nobody anything.
    let mut begun: BTreeMap<(u32, u64), bool> = BTreeMap::new();
    for fact in facts.iter().filter(|fact| fact.name == VOTER) {
        begun.entry((fact.process, fact.key)).or_insert(fact.value != 0);
    }
    let mut lives: BTreeSet<(u32, u64)> = BTreeSet::new();
    for fact in facts.iter().filter(|fact| [CHOSEN, APPLIED, BEGUN, DIGEST, VOTER].contains(&fact.name)) {
        if fact.name == VOTER {
            lives.insert((fact.process, fact.key));
            continue;
        }
        let (tablet, index) = (fact.key >> INDEX_BITS, fact.key & ((1 << INDEX_BITS) - 1));
        if fact.name == BEGUN {
            last.insert((fact.process, tablet), index);
            continue;
        }
        let (value, node) = *known.entry((fact.name, fact.key)).or_insert((fact.value, fact.node));
        if value != fact.value {
            let text = format!(
                "entry {index} of tablet {tablet} is {} as {value:016x} at node {node}, as {:016x} at node {}",
                fact.name, fact.value, fact.node
            );
            out.push(Violation { checker: NAME, text });
        }
        if fact.name == APPLIED
            && let Some(before) = last.insert((fact.process, tablet), index)
            && index != before + 1
            && (lives.contains(&(fact.process, tablet)) || begun.get(&(fact.process, tablet)) == Some(&true))
        {
            let text = format!(
                "process {} of node {} applies entry {index} of tablet {tablet} after entry {before}",
                fact.process, fact.node
            );
            out.push(Violation { checker: NAME, text });
        }
    }
    out
}

/// The fact that an entry is known to be chosen: key is the tablet above its index, value its name.
const CHOSEN: &str = "chosen";
/// The fact that an entry is applied, at its time or in a replay: the same key, value a checksum of the entry.
const APPLIED: &str = "applied";
/// The fact that a replay begins behind this entry, which tables have: the same key.
const BEGUN: &str = "begun";
/// The fact that a whole tablet has this number behind the entry: the same key.
const DIGEST: &str = "digest";
/// The fact that a sealed table is in place: key is tablet, window and generation, value its checksum.
const SEALED: &str = "sealed";
/// The fact that a message came whose version is not spoken here: key is its kind, value who sent it.
const UNSPOKEN: &str = "unspoken";
/// The fact that a replica votes, or not: key is the tablet, value 1 or 0.
const VOTER: &str = "voter";
/// Bits of the index in the key.
const INDEX_BITS: u32 = 56;

#[cfg(test)]
mod tests {
    use super::*;
    use layout::units::{LogIndex, LogTime, Space, Version};

    fn page(history: &mut History, node: u16, index: u64, versions: &[(u64, u64)]) -> Page {
        let stream = history.keys.stream(Space(0), b"one");
        let record = |&(time, version): &(u64, u64)| {
            (history.keys.key(stream, time), Seen::Version(Version(version)), 0)
        };
        Page {
            client: 0,
            invoked: 1,
            returned: 2,
            at_ns: 0,
            stream,
            times: (0, u64::MAX),
            backward: false,
            record_limit: 0,
            log_index: LogIndex(index),
            log_time: LogTime(5),
            resume: None,
            local: Some(node),
            records: versions.iter().map(record).collect(),
        }
    }

    fn wrong(change: impl FnOnce(&mut Page)) -> usize {
        let mut history = History::new(0);
        let one = page(&mut history, 0, 7, &[(1, 10), (2, 11)]);
        let mut other = page(&mut history, 1, 7, &[(1, 10), (2, 11)]);
        change(&mut other);
        history.pages.extend([one, other]);
        check(&history).len()
    }

    #[test]
    fn pages_of_one_index_are_compared_where_both_speak() {
        assert_eq!(wrong(|_| ()), 0);
        assert_eq!(wrong(|page| page.records[1].1 = Seen::Version(Version(12))), 1);
        assert_eq!(
            wrong(|page| {
                page.records.pop();
            }),
            1
        );
        assert_eq!(wrong(|page| page.log_time = LogTime(6)), 1);
        assert_eq!(wrong(|page| page.log_index = LogIndex(8)), 0);
        assert_eq!(wrong(|page| (page.resume, page.records) = (Some(2), page.records[..1].to_vec())), 0);
    }

    #[test]
    fn one_place_has_one_value() {
        let fact = |node, key, value| Fact { node, process: node, name: CHOSEN, key, value };
        assert!(check_logs(&[fact(0, 1, 5), fact(1, 1, 5), fact(0, 2, 6)]).is_empty());
        assert_eq!(check_logs(&[fact(0, 1, 5), fact(1, 1, 6)]).len(), 1);
    }

    #[test]
    fn a_sealed_window_has_one_table() {
        let fact = |node, key, value| Fact { node, process: node, name: SEALED, key, value };
        assert!(check_tables(&[fact(0, 1, 5), fact(1, 1, 5), fact(0, 2, 6), fact(0, 1, 5)]).is_empty());
        assert_eq!(check_tables(&[fact(0, 1, 5), fact(1, 1, 6)]).len(), 1);
        assert_eq!(check_tables(&[fact(0, 1, 5), fact(0, 1, 6)]).len(), 1, "in another life");
    }

    #[test]
    fn a_message_that_is_not_spoken_is_wrong() {
        let fact = |name| Fact { node: 0, process: 1, name, key: 12, value: 3 };
        assert_eq!((check_messages(&[fact(SEALED)]).len(), check_messages(&[fact(UNSPOKEN)]).len()), (0, 1));
    }

    #[test]
    fn a_process_applies_one_entry_after_the_other() {
        let fact = |process, key| Fact { node: 0, process, name: APPLIED, key, value: key };
        let other_tablet = 1 << INDEX_BITS;
        assert!(check_logs(&[fact(1, 4), fact(1, other_tablet), fact(1, 5), fact(2, 3)]).is_empty());
        let says = |votes: u64| Fact { node: 0, process: 1, name: VOTER, key: 0, value: votes };
        assert!(check_logs(&[fact(1, 4), fact(1, 6), says(0), fact(1, 7), says(1)]).is_empty());
        assert_eq!(check_logs(&[fact(1, 4), fact(1, 6), says(1)]).len(), 1);
        assert_eq!(check_logs(&[fact(1, 4), fact(1, 4), says(1)]).len(), 1);
        assert!(check_logs(&[fact(1, 4), fact(1, 6), fact(2, 7)]).is_empty(), "it never came to serve");
        assert_eq!(check_logs(&[fact(1, 4), says(0), fact(1, 6)]).len(), 1);
    }
}
