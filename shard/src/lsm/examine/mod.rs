//! Whether what a shard holds in tables is right, all of it: for `fsck`. And where it lies: for `inspect`.
//!
//! Reads the manifest as a start does, by the same code, and then what a start does not: every block of every table. Must
//! never write, nor stop at the first thing that is wrong. Invariant: what a healthy shard left, also when power went,
//! gives no finding.

mod site;
mod state;
mod table;

pub use super::names::{NamedState, NamedTable, Names};
pub use super::open::OpenError;
pub use site::Site;

use super::extents::ExtentRange;
use super::open::{Ground, read_names};
use super::zone::Zone;
use crate::journal::JournalStart;
use crate::manifest::{self, Reading, Verdict};
use ioengine::{Disk, Io};
use layout::manifest::{AddTable, TableKind};
use layout::superblock::Superblock;
use layout::table_sunk::SunkSections;
use layout::tablet_state::TabletHead;
use layout::units::{DiskOffset, Incarnation, TableId, TabletIndex};
use std::collections::BTreeMap;

/// Most findings told of one table; the others are counted.
const FINDINGS_MAX: usize = 100;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Space is held that nothing needs.
    Leak,
    /// What one copy lost the other has, and the next start writes both anew.
    Mends,
    /// Something cannot be read, or is not what it should be.
    Damage,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// Of what: "manifest", "table 7 of tablet 3", "state".
    pub part: String,
    /// What is wrong, with what was expected and what was found.
    pub what: String,
    /// Where it shows on the device.
    pub at: Option<DiskOffset>,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Tables that the manifest names.
    pub table_count: u64,
    /// Data blocks that were opened.
    pub block_count: u64,
    /// Records in them.
    pub record_count: u64,
    /// Extents of the zone.
    pub extent_count: u32,
    /// Those that something lies in.
    pub extent_used_count: u32,
    /// Those of them that their owner does not need.
    pub extent_leaked_count: u64,
    /// Bytes of the manifest's halves, of the tables and of the state.
    pub bytes_in_use: u64,
    /// Those of them that were read.
    pub bytes_read: u64,
}

/// What was found of the tables of a shard.
#[derive(Debug)]
pub struct Examined {
    /// The manifest.
    pub reading: Reading,
    /// Nobody can say which tables there are, or what state the tablets had, and why.
    pub lost: Option<String>,
    /// Where replay begins.
    pub start: JournalStart,
    /// The tablets as the state has them; without a state none.
    pub tablets: Vec<TabletHead>,
    /// What was looked at.
    pub coverage: Coverage,
    /// Where on cold disks the sections of each sunk table stand, of those whose list can be read.
    pub sunk: Vec<SunkSections>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Examined {
    fn find(&mut self, grade: Grade, part: &str, what: impl Into<String>, at: Option<DiskOffset>) {
        self.findings.push(Finding { grade, part: part.to_owned(), what: what.into(), at });
    }

    /// The rest of a shard of which `part` cannot be read.
    fn lose(&mut self, part: &str, what: String, at: Option<DiskOffset>) {
        self.find(Grade::Damage, part, what.clone(), at);
        self.lost = Some(format!("{part}: {what}"));
    }
}

/// Read and check all that a shard holds in tables. `next` is the start that would come now, `journal_bytes` what its journal
/// holds in whole segments.
///
/// # Errors
/// [`OpenError`]: the device cannot be flushed, or memory for buffers is missing. All else is a finding.
pub async fn examine(
    io: &Io,
    disk: &Disk,
    superblock: &Superblock,
    shard: u16,
    next: Incarnation,
    journal_bytes: u64,
) -> Result<Examined, OpenError> {
    let ground = Ground::new(superblock, shard);
    let zone = ground.zone(io, disk)?;
    let buffer_bytes = ground.record_bytes();
    let buffer = io.buffer(buffer_bytes).ok_or(OpenError::Arena { bytes: buffer_bytes as u64 })?;
    let mut reading = manifest::read(disk, &ground.manifest, buffer).await?;
    reading.judge_start(&ground.manifest, next);
    let halves_bytes = 4 * ground.manifest.half_bytes();
    let coverage = Coverage {
        extent_count: ground.extents.2,
        bytes_in_use: halves_bytes,
        bytes_read: halves_bytes,
        ..Coverage::default()
    };
    let mut examined = Examined {
        reading,
        lost: None,
        start: JournalStart::FIRST,
        tablets: Vec::new(),
        coverage,
        sunk: Vec::new(),
        findings: Vec::new(),
    };
    if let Verdict::Damaged { what, at } = examined.reading.verdict {
        examined.lose("manifest", what.to_owned(), Some(at));
        return Ok(examined);
    }
    if examined.reading.decayed_count > 0 {
        let count = examined.reading.decayed_count;
        let what =
            format!("{count} records stand in one of the two copies only: the next start writes both anew");
        let at = ground.manifest.offset(0, examined.reading.half, 0);
        examined.find(Grade::Mends, "manifest", what, Some(at));
    }
    let names = match read_names(&examined.reading, &zone, journal_bytes) {
        Ok(names) => names,
        Err(error) => {
            examined.lose("manifest", error.to_string(), None);
            return Ok(examined);
        }
    };
    examined.start = names.start;
    let (all, free) = zone.extents().borrow().counts();
    examined.coverage.extent_used_count = all - free;
    state::examine(&mut examined, &zone, &ground, superblock.shard_count, &names).await;
    order(&mut examined, &names);
    for named in names.tables.values() {
        table::examine(&mut examined, &zone, &ground, named).await;
    }
    Ok(examined)
}

/// A table, as it is called in findings.
fn title(table: TableId, tablet: TabletIndex) -> String {
    format!("table {table} of tablet {tablet}")
}

/// The tables beside each other and beside the state: numbers, tablets, which run has the newer versions, and windows that
/// share times.
fn order(examined: &mut Examined, names: &Names) {
    let heads: BTreeMap<_, _> = examined.tablets.iter().map(|head| (head.tablet, *head)).collect();
    let mut newest: BTreeMap<TabletIndex, Vec<(u64, u64, TableId)>> = BTreeMap::new();
    let mut windows = newest.clone();
    for named in names.tables.values() {
        let facts = &named.facts;
        let part = title(facts.table, facts.tablet);
        if facts.table.0 >= names.next_table {
            let what = format!("its number is not below {}, the next one", names.next_table);
            examined.find(Grade::Damage, &part, what, None);
        }
        let (low, high) = (facts.log_index_min.0, facts.log_index_max.0);
        match facts.kind {
            TableKind::Run => newest.entry(facts.tablet).or_default().push((low, high, facts.table)),
            TableKind::Sealed | TableKind::Sunk => {
                sealed(examined, facts, &part);
                windows.entry(facts.tablet).or_default().push((
                    facts.window_from,
                    facts.window_to,
                    facts.table,
                ));
            }
        }
        let Some(head) = heads.get(&facts.tablet) else {
            if examined.lost.is_none() {
                examined.find(Grade::Damage, &part, "the state does not name its tablet", None);
            }
            continue;
        };
        let reached = [("had applied", head.applied), ("has seen written", head.recent_newest)];
        for (done, index) in reached.into_iter().filter(|(_, index)| facts.log_index_max > *index) {
            let what = format!("it holds log index {high}, and by the state the tablet {done} {index}");
            examined.find(Grade::Damage, &part, what, None);
        }
    }
    for (tablet, mut spans) in windows {
        spans.sort_unstable();
        for pair in spans.windows(2) {
            let [(_, end, other), (from, _, table)] = [pair[0], pair[1]];
            if from < end {
                let what = format!(
                    "its window, from {from} on, shares times with that of table {other}, up to {end}"
                );
                examined.find(Grade::Damage, &title(table, tablet), what, None);
            }
        }
    }
    for (tablet, mut spans) in newest {
        spans.sort_unstable();
        for pair in spans.windows(2) {
            let [(_, below, _), (above, _, table)] = [pair[0], pair[1]];
            if above <= below {
                let what = format!(
                    "its log indexes, from {above} on, overlap those of table {}, up to {below}: which is newer is not known",
                    pair[0].2
                );
                examined.find(Grade::Damage, &title(table, tablet), what, None);
            }
        }
    }
}

/// A sealed table by itself: its window, and what may be in it.
fn sealed(examined: &mut Examined, facts: &AddTable<'_>, part: &str) {
    let (from, to) = (facts.window_from, facts.window_to);
    if facts.window_generation == 0 {
        examined.find(Grade::Damage, part, "its window was never sealed", None);
    }
    if facts.time_min < from || facts.time_max >= to {
        let (low, high) = (facts.time_min, facts.time_max);
        let what = format!("it holds times {low} to {high}, its window is from {from} to before {to}");
        examined.find(Grade::Damage, part, what, None);
    }
    if facts.tombstone_count > 0 {
        let what = format!("it holds {} tombstones, and nothing lies beneath it", facts.tombstone_count);
        examined.find(Grade::Damage, part, what, None);
    }
}

/// Do these extents hold so many bytes, and no extent more?
fn fit(examined: &mut Examined, part: &str, zone: &Zone, ranges: &[ExtentRange], bytes: u64) -> bool {
    let needed = bytes.div_ceil(zone.extent_bytes());
    let given: u64 = ranges.iter().map(|range| u64::from(range.count)).sum();
    if given > needed {
        examined.coverage.extent_leaked_count += given - needed;
        let what = format!("the manifest gives it {given} extents, {needed} hold its {bytes} bytes");
        examined.find(Grade::Leak, part, what, None);
    } else if given < needed {
        let what = format!("the manifest gives it {given} extents, its {bytes} bytes need {needed}");
        examined.find(Grade::Damage, part, what, None);
    }
    given >= needed
}
