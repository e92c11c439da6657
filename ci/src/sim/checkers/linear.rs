//! Linearizability of every key, and of every tablet's log, by the order that versions give.
//!
//! One sweep over the invocations and returns of a history. For each key it keeps the newest state that anybody was
//! told of (its floor): whatever is invoked from there on must be at that state or a later one. A read of nothing needs
//! a delete or an expiry that may lie at or behind the floor. The sum of these rules is linearizability: versions are
//! a total order of the writes of a key, so an order of the whole history exists iff it agrees with real time and every
//! read fits it. Sound with unknown outcomes: what nobody was told of may lie anywhere behind its invocation.

use super::known::{By, Known, is_excused};
use crate::sim::history::{Does, Fate, History, KeyIndex, NEVER, Order, Read, Seen, Violation, WriteRef};
use layout::units::{LogIndex, TABLET_COUNT, Version};

const NAME: &str = "linear";

/// How far a key had come: a version, and whether it was seen gone since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Floor {
    version: u64,
    gone: bool,
}

#[derive(Clone, Copy)]
enum What {
    Write(u32),
    Read(u32),
    Page(u32),
}

#[derive(Clone, Copy)]
struct Point {
    at: Order,
    begins: bool,
    what: What,
}

struct Sweep<'a> {
    history: &'a History,
    known: &'a Known,
    floors: Vec<Floor>,
    /// By tablet: the highest log index that anybody was told of.
    indexes: [u64; TABLET_COUNT],
    /// Floors at the invocation of what is in flight: of reads, then of each change of writes.
    at_read: Vec<Floor>,
    at_write: Vec<(u64, Vec<Floor>)>,
    at_page: Vec<u64>,
    out: Vec<Violation>,
}

/// Every violation of the order that versions give.
#[must_use]
pub fn check(history: &History, known: &Known, excused: u64) -> Vec<Violation> {
    let mut points = Vec::new();
    let mut add = |begin: Order, end: Order, what: What| {
        points.push(Point { at: begin, begins: true, what });
        if end != NEVER {
            points.push(Point { at: end, begins: false, what });
        }
    };
    for (number, write) in (0u32..).zip(&history.writes) {
        if !is_excused(excused, history.keys.facts(write.stream).tablet) {
            add(write.invoked, write.returned, What::Write(number));
        }
    }
    for (number, read) in (0u32..).zip(&history.reads) {
        if !is_excused(excused, history.keys.tablet(read.key)) {
            add(read.invoked, read.returned, What::Read(number));
        }
    }
    for (number, page) in (0u32..).zip(&history.pages) {
        // What one node holds may be old.
        if page.local.is_none() && !is_excused(excused, history.keys.facts(page.stream).tablet) {
            add(page.invoked, page.returned, What::Page(number));
        }
    }
    points.sort_unstable_by_key(|point| point.at);
    let mut sweep = Sweep {
        history,
        known,
        floors: vec![Floor::default(); history.keys.keys.len()],
        indexes: [0; TABLET_COUNT],
        at_read: vec![Floor::default(); history.reads.len()],
        at_write: vec![(0, Vec::new()); history.writes.len()],
        at_page: vec![0; history.pages.len()],
        out: Vec::new(),
    };
    for point in points {
        match point.what {
            What::Write(number) => sweep.write(number, point.begins),
            What::Read(number) => sweep.read(number, point.begins),
            What::Page(number) => sweep.page(number, point.begins),
        }
    }
    sweep.out
}

impl Sweep<'_> {
    fn wrong(&mut self, text: String) {
        self.out.push(Violation { checker: NAME, text });
    }

    fn floor(&self, key: KeyIndex) -> Floor {
        self.floors[key.0 as usize]
    }

    fn raise(&mut self, key: KeyIndex, floor: Floor) {
        let known = &mut self.floors[key.0 as usize];
        *known = (*known).max(floor);
        if !floor.gone {
            let index = &mut self.indexes[self.history.keys.tablet(key).index()];
            *index = (*index).max(Version(floor.version).log_index(0).0);
        }
    }

    /// Somebody was told of a version: with it, of everything its write changed.
    fn raise_write(&mut self, key: KeyIndex, version: Version) {
        self.raise(key, Floor { version: version.0, gone: false });
        let by = self.known.versions[key.0 as usize].get(&version);
        if let Some(By::Change(WriteRef { write, .. })) = by
            && let Some(first) = self.known.first[*write as usize]
        {
            for (position, change) in (0u64..).zip(&self.history.writes[*write as usize].changes) {
                self.raise(change.key, Floor { version: first.0 + position, gone: false });
            }
        }
    }

    fn write(&mut self, number: u32, begins: bool) {
        let write = &self.history.writes[number as usize];
        let tablet = self.history.keys.facts(write.stream).tablet.index();
        if begins {
            let floors = write.changes.iter().map(|change| self.floor(change.key)).collect();
            self.at_write[number as usize] = (self.indexes[tablet], floors);
            // What was seen of it must be new, whether or not it was ever acknowledged.
            let Some(first) = self.known.first[number as usize] else { return };
            self.newer(number, first);
            return;
        }
        if let (Fate::Acked { .. }, Some(first)) = (write.fate, self.known.first[number as usize]) {
            for (position, change) in (0u64..).zip(&write.changes) {
                self.raise(change.key, Floor { version: first.0 + position, gone: false });
            }
        }
    }

    /// A write's versions lie above everything that was known when it was first sent.
    fn newer(&mut self, number: u32, first: Version) {
        let write = &self.history.writes[number as usize];
        let (index, floors) = &self.at_write[number as usize];
        if first.log_index(0) <= LogIndex(*index) {
            let text = format!(
                "write {number} (at {} ns) has version {first}, though log index {index} of its tablet was known before",
                write.at_ns.0
            );
            return self.wrong(text);
        }
        for (position, (change, floor)) in (0u64..).zip(write.changes.iter().zip(floors)) {
            if first.0 + position <= floor.version {
                let name = self.history.keys.name(change.key);
                let text = format!(
                    "{name}: write {number} (at {} ns) has version {}, though {} was known before",
                    write.at_ns.0,
                    first.0 + position,
                    floor.version
                );
                return self.wrong(text);
            }
        }
    }

    fn read(&mut self, number: u32, begins: bool) {
        let read = &self.history.reads[number as usize];
        if begins {
            self.at_read[number as usize] = self.floor(read.key);
            return;
        }
        let floor = self.at_read[number as usize];
        if let Some(text) = self.misread(read, floor) {
            self.wrong(text);
        }
        match read.seen {
            Seen::Absent => self.raise(read.key, Floor { gone: true, ..floor }),
            other => self.raise_write(read.key, other.version()),
        }
    }

    fn misread(&self, read: &Read, floor: Floor) -> Option<String> {
        let name = || {
            let name = self.history.keys.name(read.key);
            format!("{name}: {} of client {} at {} ns", read.by, read.client, read.at_ns)
        };
        let version = read.seen.version();
        if version.is_absent() {
            return (!self.may_be_gone(read, floor)).then(|| {
                let now = read.log_time.0;
                format!("{} found nothing at log time {now}, though {} was known", name(), floor.version)
            });
        }
        if version.0 < floor.version || (version.0 == floor.version && floor.gone) {
            let gone = if floor.gone { " and gone" } else { "" };
            return Some(format!(
                "{} found version {version}, though {}{gone} was known",
                name(),
                floor.version
            ));
        }
        None
    }

    /// Something at or behind the floor, sent before the read returned, takes the record away.
    fn may_be_gone(&self, read: &Read, floor: Floor) -> bool {
        if floor.gone || floor.version == 0 {
            return true;
        }
        let takes = |by: WriteRef| {
            let write = &self.history.writes[by.write as usize];
            let away = match write.changes[usize::from(by.position)].does {
                Does::Delete => true,
                Does::Put { expiry, .. } => expiry != 0 && expiry <= read.log_time.0,
            };
            away && write.invoked < read.returned
        };
        let key = read.key.0 as usize;
        let later = self.known.versions[key].range(Version(floor.version)..);
        later.into_iter().any(|(_, by)| match by {
            By::Change(by) => takes(*by),
            By::Someone => true,
        }) || self.known.maybe[key].iter().any(|by| takes(*by))
    }

    fn page(&mut self, number: u32, begins: bool) {
        let page = &self.history.pages[number as usize];
        let tablet = self.history.keys.facts(page.stream).tablet.index();
        if begins {
            self.at_page[number as usize] = self.indexes[tablet];
            return;
        }
        if page.log_index.0 < self.at_page[number as usize] {
            let text = format!(
                "a page of {:?} at {} ns was read at log index {}, though {} was known",
                page.stream, page.at_ns, page.log_index, self.at_page[number as usize]
            );
            self.wrong(text);
        }
        self.indexes[tablet] = self.indexes[tablet].max(page.log_index.0);
        for (key, seen, _) in &page.records {
            self.raise_write(*key, seen.version());
        }
    }
}
