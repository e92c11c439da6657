//! What has gone to cold disks: every replica has the same links for it, and the three machines hold what is linked, all of it and nothing
//! else.

use crate::sim::history::Violation;
use ioengine::marks::Fact;
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "sinks";
const SUNK: &str = "sunk";
const SINKS_AT: &str = "sinks at";
const LINKED_AT: &str = "linked at";
const SECTIONS: &str = "linked sections";
const UNTIL: &str = "linked until";

/// Every sink for which replicas, or lives of one, know different links.
#[must_use]
pub fn check(facts: &[Fact]) -> Vec<Violation> {
    let mut known: BTreeMap<u64, &Fact> = BTreeMap::new();
    let mut out = Vec::new();
    for fact in facts.iter().filter(|fact| fact.name == SUNK) {
        let first = *known.entry(fact.key).or_insert(fact);
        if first.value != fact.value {
            let text = format!(
                "sink {:016x} has links {:016x} at node {}, and {:016x} at node {}",
                fact.key, first.value, first.node, fact.value, fact.node
            );
            out.push(Violation { checker: NAME, text });
        }
    }
    out
}

/// Sections by tablet and generation: tablet in the upper 8 bits, generation in the lower 32.
pub type Counts = BTreeMap<u64, u64>;

/// What is linked: sections that must be there, and sinks of which some may be gone because they expire.
#[must_use]
pub fn linked(facts: &[Fact]) -> (Counts, Counts) {
    let of = |name| facts.iter().filter(move |fact| fact.name == name);
    // Of each tablet, what the replica says that has applied most.
    let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
    for fact in of(SINKS_AT) {
        let applied = newest.entry(fact.key).or_default();
        *applied = fact.value.max(*applied);
    }
    let is_now = |fact: &&Fact| newest.get(&(fact.key >> 56)) == Some(&fact.value);
    let now: BTreeSet<u64> = of(LINKED_AT).filter(is_now).map(|fact| fact.key).collect();
    let counts = of(SECTIONS).filter(|fact| now.contains(&fact.key)).map(|fact| (fact.key, fact.value));
    let ends: BTreeMap<u64, u64> = of(UNTIL).map(|fact| (fact.key, fact.value)).collect();
    counts.partition(|(key, _)| ends.get(key).is_none_or(|end| *end == 0))
}

/// What is wrong with what a machine holds.
#[must_use]
pub fn compare((linked, expiring): &(Counts, Counts), held: &Counts) -> Option<String> {
    let missing = linked.iter().find(|(key, count)| held.get(key) != Some(count));
    if let Some((key, count)) = missing {
        let found = held.get(key).copied().unwrap_or(0);
        return Some(format!("{found} sections of sink {key:016x}, and {count} are linked"));
    }
    let is_nobodys = |(key, _): &(&u64, &u64)| !linked.contains_key(key) && !expiring.contains_key(key);
    held.iter()
        .find(is_nobodys)
        .map(|(key, count)| format!("{count} sections of sink {key:016x}, which is nobody's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(name: &'static str, key: u64, value: u64) -> Fact {
        Fact { node: 1, process: 1, name, key, value }
    }

    #[test]
    fn what_is_linked_is_there_and_nothing_else() {
        let of = |tablet: u64, generation: u64| tablet << 56 | generation;
        let linked_at = |key, applied, count, until| {
            [fact(LINKED_AT, key, applied), fact(SECTIONS, key, count), fact(UNTIL, key, until)]
        };
        let mut facts = vec![fact(SUNK, 1, 5), fact(SUNK, 1, 5)];
        facts.push(fact(SINKS_AT, 6, 40));
        facts.extend(linked_at(of(6, 2), 40, 4, 0));
        facts.push(fact(SINKS_AT, 6, 50));
        facts.extend(linked_at(of(6, 1), 50, 3, 0));
        facts.extend(linked_at(of(6, 3), 50, 1, 99));
        // Of one that is behind.
        facts.push(fact(SINKS_AT, 6, 45));
        facts.extend(linked_at(of(6, 2), 45, 4, 0));
        assert!(check(&facts).is_empty());
        assert_eq!(check(&[facts[0], fact(SUNK, 1, 6)]).len(), 1);
        let linked = linked(&facts);
        let held = |list: &[(u64, u64)]| -> Counts { list.iter().map(|one| (of(6, one.0), one.1)).collect() };
        assert_eq!(compare(&linked, &held(&[(1, 3)])), None);
        assert_eq!(compare(&linked, &held(&[(1, 3), (3, 1)])), None);
        assert!(compare(&linked, &held(&[(1, 2)])).is_some(), "one is missing");
        assert!(compare(&linked, &held(&[])).is_some());
        assert!(compare(&linked, &held(&[(1, 3), (2, 4)])).is_some(), "it was unlinked");
    }
}
