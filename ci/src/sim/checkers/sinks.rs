//! What has gone to cold disks: every replica has the same links for it, and the three machines hold what is linked, all of it and nothing
//! else, and not in files of which most is dead.

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

/// Bytes of a block of a cold disk.
const BLOCK_BYTES: u32 = 4096;
/// What is judged of one disk: a window of at most so many blocks there.
const JUDGED_BLOCKS: usize = 16;
/// And a disk with so many files that hold nothing: then there is room for it, however it is cut.
const UNUSED_FILES: u32 = 2;
/// Machines that must show it.
const SHOW: usize = 2;

/// A file of a machine: disk and file.
pub type FileName = (u16, u32);

/// A section that a machine holds.
#[derive(Clone, Copy, Debug)]
pub struct HeldSection {
    /// Tablet and generation, as in [`Counts`].
    pub sink: u64,
    /// Where it stands.
    pub file: FileName,
    /// Byte of the file.
    pub offset: u32,
    /// Its bytes.
    pub bytes: u32,
}

/// All that a machine holds.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    /// Sections.
    pub sections: Vec<HeldSection>,
    /// Byte up to which each file is written.
    pub heads: BTreeMap<FileName, u32>,
    /// Files of each disk, begun or not.
    pub file_counts: BTreeMap<u16, u32>,
}

/// Where a sink stands on a machine, in blocks.
#[derive(Default)]
struct Footing {
    by_disk: BTreeMap<u16, usize>,
    /// In files less than half of which is held.
    wasted: usize,
    /// Written to those of these files that hold nothing else.
    alone: usize,
}

impl Holding {
    /// Sinks that are judged and stay in files less than half of which is held by anybody, though it were worth to leave: three quarters
    /// of them stand there, or less, where they alone keep much from being used again.
    fn back(&self, judged: &Counts) -> BTreeSet<u64> {
        let mut blocks: BTreeMap<FileName, BTreeMap<u32, u64>> = BTreeMap::new();
        for section in &self.sections {
            let own = section.offset / BLOCK_BYTES..(section.offset + section.bytes).div_ceil(BLOCK_BYTES);
            blocks.entry(section.file).or_default().extend(own.map(|block| (block, section.sink)));
        }
        let mut footings: BTreeMap<u64, Footing> = BTreeMap::new();
        for (file, held) in &blocks {
            let head = (self.heads.get(file).copied().unwrap_or(0) / BLOCK_BYTES) as usize;
            let is_wasted = held.len() * 2 < head;
            let owners: BTreeSet<u64> = held.values().copied().collect();
            for sink in &owners {
                let count = held.values().filter(|owner| *owner == sink).count();
                let footing = footings.entry(*sink).or_default();
                *footing.by_disk.entry(file.0).or_insert(0) += count;
                footing.wasted += if is_wasted { count } else { 0 };
                footing.alone += if is_wasted && owners.len() == 1 { head } else { 0 };
            }
        }
        let used = |disk: u16| blocks.keys().filter(|file| file.0 == disk).count() as u32;
        let unused =
            |disk: u16| self.file_counts.get(&disk).map_or(0, |count| count.saturating_sub(used(disk)));
        let fits = |disk: u16, count: usize| count <= JUDGED_BLOCKS && unused(disk) >= UNUSED_FILES;
        let is_back = |footing: &Footing| {
            let all: usize = footing.by_disk.values().sum();
            let is_worth = footing.wasted as f64 + footing.alone as f64 / 4.0 > all as f64 * 0.75;
            is_worth && footing.by_disk.iter().all(|(disk, count)| fits(*disk, *count))
        };
        let found = footings.into_iter().filter(|(sink, found)| judged.contains_key(sink) && is_back(found));
        found.map(|(sink, _)| sink).collect()
    }
}

/// A window that stays where most is dead, and so keeps that from being used again: `linked` are those that do not expire.
#[must_use]
pub fn held_back(linked: &Counts, machines: &[Holding]) -> Option<String> {
    let shown: Vec<BTreeSet<u64>> = machines.iter().map(|machine| machine.back(linked)).collect();
    let of = |sink: &u64| shown.iter().filter(|shown| shown.contains(sink)).count();
    let sink = linked.keys().find(|sink| of(sink) >= SHOW)?;
    Some(format!(
        "sink {sink:016x} stays in files of which most is dead, by the lists of {} machines, though others are unused",
        of(sink)
    ))
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

    #[test]
    fn a_window_that_stays_where_most_is_dead_is_named() {
        let section = |sink, file, block: u32, blocks: u32| HeldSection {
            sink,
            file: (0, file),
            offset: block * BLOCK_BYTES,
            bytes: blocks * BLOCK_BYTES - 7,
        };
        let holding = |head: u32, file_count, sections: &[HeldSection]| Holding {
            sections: sections.to_vec(),
            heads: [((0, 0), head * BLOCK_BYTES), ((0, 1), 4 * BLOCK_BYTES)].into(),
            file_counts: [(0, file_count)].into(),
        };
        let linked = Counts::from([(1, 1), (2, 1)]);
        let found = |machines: [Holding; 3]| held_back(&linked, &machines).is_some();
        let own = [section(1, 0, 3, 2), section(2, 1, 0, 4)];
        let wasted = || holding(5, 4, &own);
        let healthy = || holding(4, 4, &own);
        assert!(found([wasted(), wasted(), healthy()]));
        assert!(!found([wasted(), healthy(), healthy()]), "one machine shows it");
        let three = |holding: Holding| found([holding.clone(), holding.clone(), holding]);
        assert!(!three(holding(5, 3, &own)), "no other file may have room");
        let beside = |own: u32| {
            let healthy = [section(1, 1, 0, own), section(2, 1, own, 4 - own)];
            three(holding(30, 4, &[&[section(1, 0, 0, 4), section(2, 0, 8, 1)], &healthy[..]].concat()))
        };
        assert!(beside(1) && !beside(2), "a quarter of it stands elsewhere");
        let alone = |head| three(holding(head, 4, &[section(1, 0, 0, 1), section(1, 1, 0, 4)]));
        assert!(alone(12) && !alone(11), "12 + 4 > 3 * 5");
        assert!(!three(holding(9, 4, &[section(3, 0, 0, 2)])), "it expires");
        assert!(!three(holding(64, 9, &[section(1, 0, 0, 17)])), "it is too large to be judged");
        let shared = [section(1, 0, 0, 1), HeldSection { offset: 4_090, bytes: 2, ..section(1, 0, 0, 1) }];
        assert!(three(holding(3, 4, &shared)) && !three(holding(2, 4, &shared)), "they share a block");
    }
}
