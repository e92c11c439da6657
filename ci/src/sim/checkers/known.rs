//! Which version every change got, as far as anybody was told: by its acknowledgement, or by being seen. The log gives
//! each key its versions in order, so with this table a history can be checked without guessing an order.
//!
//! Finds by itself: one change with two versions (applied twice), one version with two changes, a change that was
//! refused and is there all the same.

use crate::sim::history::{Does, Fate, History, KeyIndex, Seen, Violation, WriteRef};
use layout::units::{TabletIndex, Version};
use std::collections::BTreeMap;

const NAME: &str = "requests";

/// Who wrote a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// This change.
    Change(WriteRef),
    /// One of several: its value is too short to tell.
    Someone,
}

/// Versions of every key, and the first version of every write.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// By key: its versions in order.
    pub versions: Vec<BTreeMap<Version, By>>,
    /// By write: version of its first change, when anybody was told.
    pub first: Vec<Option<Version>>,
    /// By key: changes whose version nobody was told, and which may have happened.
    pub maybe: Vec<Vec<WriteRef>>,
    /// What is wrong with it.
    pub violations: Vec<Violation>,
}

impl Known {
    /// The table of a history. Keys of `excused` tablets are left out: they are allowed to have forgotten.
    #[must_use]
    pub fn new(history: &History, excused: u64) -> Known {
        let key_count = history.keys.keys.len();
        let mut known = Known {
            versions: vec![BTreeMap::new(); key_count],
            first: vec![None; history.writes.len()],
            maybe: vec![Vec::new(); key_count],
            violations: Vec::new(),
        };
        let counts = |key: KeyIndex| !is_excused(excused, history.keys.tablet(key));
        for (number, write) in (0u32..).zip(&history.writes) {
            if let Fate::Acked { first, .. } = write.fate
                && counts(write.changes[0].key)
            {
                known.learn(history, number, first);
            }
        }
        let seen: Vec<(KeyIndex, Seen)> = history
            .reads
            .iter()
            .map(|read| (read.key, read.seen))
            .chain(history.pages.iter().flat_map(|page| page.records.iter().map(|one| (one.0, one.1))))
            .filter(|(key, _)| counts(*key))
            .collect();
        for &(_, seen) in &seen {
            if let Seen::Value(version, by) = seen {
                known.saw(history, version, by);
            }
        }
        // Short values last: what is known by then tells most of them apart.
        for &(key, seen) in &seen {
            if let Seen::Short(version, bytes, count) = seen {
                known.saw_short(history, key, version, &bytes[..usize::from(count)]);
            }
        }
        for (number, write) in (0u32..).zip(&history.writes) {
            if write.fate == Fate::Unknown && known.first[number as usize].is_none() {
                for (position, change) in (0u16..).zip(&write.changes) {
                    known.maybe[change.key.0 as usize].push(WriteRef { write: number, position });
                }
            }
        }
        known
    }

    fn wrong(&mut self, text: String) {
        self.violations.push(Violation { checker: NAME, text });
    }

    /// The changes of `write` have versions from `first` on.
    fn learn(&mut self, history: &History, write: u32, first: Version) {
        if let Some(before) = self.first[write as usize] {
            if before != first {
                self.wrong(format!("write {write} has version {before} and version {first}: applied twice"));
            }
            return;
        }
        self.first[write as usize] = Some(first);
        for (position, change) in (0u16..).zip(&history.writes[write as usize].changes) {
            let version = Version(first.0 + u64::from(position));
            let by = By::Change(WriteRef { write, position });
            let before = self.versions[change.key.0 as usize].insert(version, by);
            if let Some(before) = before.filter(|before| *before != by) {
                let name = history.keys.name(change.key);
                self.wrong(format!("{name}: version {version} is of {before:?} and of {by:?}"));
            }
        }
    }

    fn saw(&mut self, history: &History, version: Version, by: WriteRef) {
        let write = &history.writes[by.write as usize];
        if write.fate == Fate::Refused {
            let name = history.keys.name(write.changes[0].key);
            self.wrong(format!("{name}: write {} was refused and has version {version}", by.write));
        }
        match version.0.checked_sub(u64::from(by.position)) {
            Some(first) => self.learn(history, by.write, Version(first)),
            None => self.wrong(format!("version {version} at position {} of an entry", by.position)),
        }
    }

    fn saw_short(&mut self, history: &History, key: KeyIndex, version: Version, value: &[u8]) {
        let fits = |by: WriteRef| {
            let change = history.change(by);
            matches!(change.does, Does::Put { bytes, .. } if bytes as usize == value.len()
                && history.value(by.write, by.position, bytes) == value)
        };
        let name = || history.keys.name(key);
        match self.versions[key.0 as usize].get(&version) {
            Some(By::Change(by)) if fits(*by) => return,
            Some(By::Change(by)) => {
                let text = format!(
                    "{}: version {version} shows {value:?}, not what write {} sent",
                    name(),
                    by.write
                );
                return self.wrong(text);
            }
            Some(By::Someone) | None => {}
        }
        let mut able = Vec::new();
        for (number, write) in (0u32..).zip(&history.writes) {
            if write.fate == Fate::Unknown && self.first[number as usize].is_none() {
                let refs = (0u16..).zip(&write.changes).filter(|(_, change)| change.key == key);
                able.extend(
                    refs.map(|(position, _)| WriteRef { write: number, position }).filter(|by| fits(*by)),
                );
            }
        }
        match able[..] {
            [] => self.wrong(format!("{}: version {version} shows {value:?}, which nobody wrote", name())),
            [by] => self.saw(history, version, by),
            _ => {
                self.versions[key.0 as usize].insert(version, By::Someone);
            }
        }
    }

    /// The newest known version of a key at or below `version`.
    #[must_use]
    pub fn newest(&self, key: KeyIndex, version: Version) -> Option<(Version, By)> {
        self.versions[key.0 as usize].range(..=version).next_back().map(|(version, by)| (*version, *by))
    }
}

/// Whether a tablet is among the excused, one bit each.
#[must_use]
pub fn is_excused(excused: u64, tablet: TabletIndex) -> bool {
    excused & (1 << tablet.index()) != 0
}
