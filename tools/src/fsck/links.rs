//! Links made again from cold disks alone, and beside those that stores have.
//!
//! Must never call a section linked that a store's table does not name with the same place, owner and digest. Invariant: each section of each
//! disk given is in one link, and each that a store names is found on each disk given that should have it, or is a finding.

use layout::cold_section::{SectionHeader, SectionIdentity};
use layout::table_sunk::SunkSections;
use layout::units::BucketIndex;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

use super::report::Report;
use crate::failure::Failure;

/// Findings told one by one; the others are counted.
const TOLD_MAX: usize = 100;

/// Where a section stands, on each machine of its cold group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    group: u16,
    disk: u16,
    file: u32,
    file_generation: u32,
    number: u32,
}

/// What stands there, as a store knows it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Section {
    bucket: BucketIndex,
    window_generation: u32,
    offset: u32,
    bytes: u64,
    record_count: u32,
    digest: u128,
}

impl Section {
    fn of(header: &SectionHeader) -> Section {
        Section {
            bucket: header.identity.bucket,
            window_generation: header.identity.window_generation,
            offset: header.place.offset,
            bytes: header.bytes(),
            record_count: header.record_count,
            digest: header.digest,
        }
    }
}

/// A section that disks hold.
struct Held {
    section: Section,
    identity: SectionIdentity,
    /// Which of the disks given.
    disks: BTreeSet<usize>,
}

/// Links of the disks given, and of the stores given.
#[derive(Default)]
pub(super) struct Links {
    /// Names of cold disks, with the group and number of each.
    disks: Vec<(String, (u16, u16))>,
    stores: BTreeSet<String>,
    held: BTreeMap<Place, Held>,
    linked: BTreeMap<Place, Section>,
    wrong: Vec<String>,
}

impl Links {
    /// The sound sections of a cold disk.
    pub(super) fn add_disk(&mut self, name: &str, of: (u16, u16), sound: &[SectionHeader]) {
        let disk = self.disks.len();
        self.disks.push((name.to_owned(), of));
        for header in sound {
            let at = &header.place;
            let place = Place {
                group: of.0,
                disk: of.1,
                file: at.file,
                file_generation: at.file_generation,
                number: at.number,
            };
            let (section, identity) = (Section::of(header), header.identity);
            let held =
                self.held.entry(place).or_insert_with(|| Held { section, identity, disks: BTreeSet::new() });
            if (held.section, held.identity) == (section, identity) {
                held.disks.insert(disk);
            } else {
                self.wrong.push(format!(
                    "{name} holds something else at {place:?} than another disk of its number"
                ));
            }
        }
    }

    /// What the sunk tables of a shard of a store name.
    pub(super) fn add_store(&mut self, name: &str, sunk: &[SunkSections]) {
        self.stores.insert(name.to_owned());
        for table in sunk {
            for one in table.sections() {
                let link = &table.links()[one.link as usize];
                let place = Place {
                    group: link.group,
                    disk: link.disk,
                    file: link.file,
                    file_generation: link.file_generation,
                    number: one.number,
                };
                let section = Section {
                    bucket: one.bucket,
                    window_generation: table.generation,
                    offset: one.offset,
                    bytes: one.bytes(),
                    record_count: one.record_count,
                    digest: one.digest,
                };
                if *self.linked.entry(place).or_insert(section) != section {
                    self.wrong.push(format!(
                        "{name} links something else at {place:?} than another store, or table"
                    ));
                }
            }
        }
    }

    /// What is wrong, beyond what was found when they were added.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (place, section) in &self.linked {
            let held = self.held.get(place).filter(|held| held.section == *section);
            for (disk, (name, of)) in self.disks.iter().enumerate() {
                if *of == (place.group, place.disk) && !held.is_some_and(|held| held.disks.contains(&disk)) {
                    missing
                        .push(format!("{name} does not hold what a store links at {place:?}: {section:?}"));
                }
            }
        }
        missing
    }

    /// Sections that stand back to back for one window, from one to the next.
    fn runs(&self) -> Vec<Vec<(&Place, &Held)>> {
        let mut runs: Vec<Vec<(&Place, &Held)>> = Vec::new();
        for (place, held) in &self.held {
            let goes_on = runs.last().and_then(|run| run.last()).is_some_and(|(before, last)| {
                let window = |of: &SectionIdentity| (of.window_from, of.window_days, of.window_generation);
                Place { number: place.number, ..**before } == *place
                    && before.number + 1 == place.number
                    && u64::from(last.section.offset) + last.section.bytes == u64::from(held.section.offset)
                    && window(&last.identity) == window(&held.identity)
                    && last.disks == held.disks
            });
            match runs.last_mut() {
                Some(run) if goes_on => run.push((place, held)),
                _ => runs.push(vec![(place, held)]),
            }
        }
        runs
    }

    /// Says the links, what they lack, and what nobody links.
    pub(super) fn report(&self, report: &mut Report) -> Result<(), Failure> {
        report.begin("links", true)?;
        let runs = self.runs();
        for run in &runs {
            self.say(report, run)?;
        }
        let wrong: Vec<String> = self.wrong.iter().cloned().chain(self.missing()).collect();
        for what in &wrong {
            report.count_cold(true);
            if wrong.len() <= TOLD_MAX {
                let line = json!({ "part": "finding", "grade": "damage", "of": "links", "what": what });
                let text = if report.is_json() { line.to_string() } else { format!("  {what}") };
                report.line(&text)?;
            }
        }
        let is_linked = |(place, held): &(&Place, &Held)| self.linked.get(place) == Some(&held.section);
        let unlinked = self.held.iter().filter(|one| !is_linked(one)).count();
        let (section_count, linked_count) = (self.held.len(), self.linked.len());
        let store_count = self.stores.len();
        if report.is_json() {
            let line = json!({
                "part": "links", "links": runs.len(), "sections": section_count, "stores": store_count, "linked": linked_count,
                "unlinked": (store_count > 0).then_some(unlinked), "wrong": wrong.len(),
            });
            report.line(&line.to_string())?;
            return report.verdict();
        }
        report.line(&format!("{} links lead to all {section_count} sections of these disks", runs.len()))?;
        if store_count > 0 {
            report.line(&format!(
                "{store_count} stores link {linked_count} sections; {} of them lacked or unlike; {unlinked} sections on these disks are linked by none of \
                 them: of a sink under way, of one that was given up and is swept, or of another store",
                wrong.len()
            ))?;
        }
        report.verdict()
    }

    fn say(&self, report: &mut Report, run: &[(&Place, &Held)]) -> Result<(), Failure> {
        let (place, first) = run[0];
        let bytes: u64 = run.iter().map(|(_, held)| held.section.bytes).sum();
        let records: u64 = run.iter().map(|(_, held)| u64::from(held.section.record_count)).sum();
        let names: Vec<&str> = first.disks.iter().map(|disk| self.disks[*disk].0.as_str()).collect();
        let Place { group, disk, file, file_generation, number } = *place;
        let SectionIdentity { bucket, window_from, window_days, window_generation, .. } = first.identity;
        if report.is_json() {
            let line = json!({
                "part": "link", "group": group, "disk": disk, "bucket": bucket.get(), "file": file,
                "file_generation": file_generation, "offset": first.section.offset, "content_bytes": bytes, "number": number,
                "section_count": run.len(), "window_from": window_from, "window_days": window_days,
                "window_generation": window_generation, "tablet": bucket.get() % 64, "records": records, "on": names,
            });
            return report.line(&line.to_string());
        }
        report.line(&format!(
            "  {} sections from bucket {bucket} on, window from {window_from} of {window_days} days, generation {window_generation}: group {group} disk {disk} \
             file {file} generation {file_generation} offset {}, {bytes} bytes, {records} records, from number {number} on; on {}",
            run.len(),
            first.section.offset,
            names.join(", ")
        ))
    }
}
