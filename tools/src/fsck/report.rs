//! What `fsck` says: a line for each part of a disk, a line for each finding, a verdict. Owns the exit code.

use layout::superblock::{COPY_COUNT, Superblock};
use layout::units::TabletIndex;
use serde_json::json;
use shard::examine::{Coverage, Examined, Finding, Grade};
use shard::journal::Tail;
use shard::manifest::Verdict;

use super::Found;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// What is wrong with a disk, or with all of them.
#[derive(Clone, Copy, Default)]
struct Sum {
    /// Findings after which something cannot be read.
    damage_count: u64,
    /// Findings after which everything can.
    warning_count: u64,
}

impl Sum {
    fn count(&mut self, grade: Grade) {
        match grade {
            Grade::Damage => self.damage_count += 1,
            Grade::Mends | Grade::Leak => self.warning_count += 1,
        }
    }

    fn is_sound(self) -> bool {
        self.damage_count + self.warning_count == 0
    }
}

/// Writes the report.
pub(super) struct Report {
    out: Output,
    json: bool,
    disk: Sum,
    all: Sum,
}

fn grade_name(grade: Grade) -> &'static str {
    match grade {
        Grade::Damage => "damage",
        Grade::Mends => "mends",
        Grade::Leak => "leak",
    }
}

impl Report {
    pub(super) fn new(json: bool) -> Report {
        Report { out: Output::new(), json, disk: Sum::default(), all: Sum::default() }
    }

    /// A line as it is.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.out.line(line)
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Counts a finding of a cold disk.
    pub(super) fn count_cold(&mut self, is_damage: bool) {
        *(if is_damage { &mut self.disk.damage_count } else { &mut self.disk.warning_count }) += 1;
    }

    /// The next disk.
    pub(super) fn begin(&mut self, disk: &str, titled: bool) -> Result<(), Failure> {
        self.disk = Sum::default();
        match (titled, self.json) {
            (false, _) => Ok(()),
            (true, true) => self.out.line(&json!({"part": "disk", "disk": disk}).to_string()),
            (true, false) => self.out.line(&format!("{disk}:")),
        }
    }

    pub(super) fn superblock(
        &mut self,
        superblock: &Superblock,
        good: usize,
        behind: usize,
    ) -> Result<(), Failure> {
        let bad = COPY_COUNT - good - behind;
        self.disk.warning_count += bad as u64;
        if self.json {
            let line = json!({
                "part": "superblock", "sequence": superblock.sequence, "incarnation": superblock.incarnation.0,
                "copies_good": good, "copies_older": behind, "copies_bad": bad,
            });
            return self.out.line(&line.to_string());
        }
        self.out.line(&format!(
            "superblock: sequence {}, incarnation {}, {good} copies good, {behind} older, {bad} bad{}",
            superblock.sequence,
            superblock.incarnation,
            if bad > 0 { "; the next start writes all four" } else { "" }
        ))
    }

    /// Manifest, state and tables.
    pub(super) fn tables(&mut self, shard: u16, examined: &Examined) -> Result<(), Failure> {
        let Examined { reading, coverage, .. } = examined;
        let verdict = match reading.verdict {
            Verdict::Fresh => "never written",
            Verdict::Whole => "whole",
            Verdict::Damaged { .. } => "damaged",
        };
        let Coverage { table_count, block_count, record_count, bytes_in_use, bytes_read, .. } = *coverage;
        let (extents, used, leaked) =
            (coverage.extent_count, coverage.extent_used_count, coverage.extent_leaked_count);
        if self.json {
            let manifest = json!({
                "part": "manifest", "shard": shard, "verdict": verdict, "sequence": reading.sequence.0,
                "edits": reading.edits.len(), "records_in_one_copy": reading.single_count,
            });
            self.out.line(&manifest.to_string())?;
            let tables = json!({
                "part": "tables", "shard": shard, "tables": table_count, "blocks": block_count,
                "records": record_count, "tablets_in_state": examined.tablets.len(), "extents": extents,
                "extents_used": used, "extents_leaked": leaked, "bytes_in_use": bytes_in_use,
                "bytes_read": bytes_read, "lost": examined.lost,
            });
            self.out.line(&tables.to_string())?;
        } else {
            self.out.line(&format!(
                "manifest of shard {shard}: {verdict}, sequence {}, {} edits, {} records in one copy only",
                reading.sequence,
                reading.edits.len(),
                reading.single_count
            ))?;
            self.out.line(&format!(
                "tables of shard {shard}: {table_count} tables, {block_count} blocks, {record_count} records; {used} of {extents} extents in use, {leaked} leaked; {bytes_read} of {bytes_in_use} bytes in use were read"
            ))?;
        }
        examined.findings.iter().try_for_each(|finding| self.finding(shard, finding))?;
        if examined.lost.is_some() && !self.json {
            self.out.line("  nobody can say what this shard held: every tablet of it answers Corrupt")?;
        }
        Ok(())
    }

    fn finding(&mut self, shard: u16, finding: &Finding) -> Result<(), Failure> {
        let Finding { grade, part, what, at } = finding;
        self.disk.count(*grade);
        if self.json {
            let line = json!({
                "part": "finding", "shard": shard, "grade": grade_name(*grade), "of": part, "what": what,
                "at": at.map(|at| at.0),
            });
            return self.out.line(&line.to_string());
        }
        let place = at.map_or_else(String::new, |at| format!(" at {at}"));
        let warning = if *grade == Grade::Damage { "" } else { "warning: " };
        self.out.line(&format!("  {warning}{part}{place}: {what}"))
    }

    pub(super) fn journal(&mut self, shard: u16, found: &Found) -> Result<(), Failure> {
        let Found { proofs, replayed, operation_count, examined } = found;
        let proof = |tablet: TabletIndex| (tablet, proofs.tablet(tablet).applied);
        let lost: Vec<_> = TabletIndex::all()
            .filter_map(|tablet| Some((proof(tablet), proofs.tablet(tablet).damage?)))
            .collect();
        let entry_count = proofs.entry_count();
        self.disk.damage_count += (lost.len() + replayed.gaps.len()) as u64;
        let tail = match replayed.tail {
            Tail::Clean => "clean".to_owned(),
            Tail::Torn { frame_count } => {
                format!("torn, {frame_count} sectors of a record that was never acknowledged")
            }
            Tail::Damaged { at } => format!("damaged at {at}"),
        };
        if self.json {
            let damaged: Vec<_> = lost
                .iter()
                .map(|((tablet, applied), damage)| {
                    json!({"tablet": tablet.get(), "last_index": applied.0, "lost_to": damage.to.map(|to| to.0)})
                })
                .collect();
            let line = json!({
                "part": "journal", "shard": shard, "start": examined.start.at, "records": replayed.record_count,
                "entries": entry_count, "operations": operation_count, "gaps": replayed.gaps.len(), "tail": tail,
                "records_strange": proofs.strange_count(), "tablets_damaged": damaged,
            });
            return self.out.line(&line.to_string());
        }
        if examined.lost.is_some() {
            return self.out.line(&format!(
                "journal of shard {shard}: not read, what it begins from is lost; {} tablets damaged",
                lost.len()
            ));
        }
        self.out.line(&format!(
            "journal of shard {shard}: from {} on {} records, {entry_count} entries, {} operations, {} gaps, tail {tail}",
            examined.start.at,
            replayed.record_count,
            operation_count,
            replayed.gaps.len()
        ))?;
        for gap in &replayed.gaps {
            self.out.line(&format!("  records between {} and {} cannot be read", gap.after, gap.before))?;
        }
        for ((tablet, _), damage) in lost {
            let what = match damage.to {
                None => "cannot prove that it has all entries".to_owned(),
                Some(to) => format!("may have lost entries up to {to}"),
            };
            self.out.line(&format!("  tablet {tablet}: damaged, {what}; it answers Corrupt, restore it"))?;
        }
        Ok(())
    }

    /// A disk was looked at.
    pub(super) fn verdict(&mut self) -> Result<(), Failure> {
        let Sum { damage_count, warning_count } = self.disk;
        self.all.damage_count += damage_count;
        self.all.warning_count += warning_count;
        if self.json {
            let line = json!({
                "part": "verdict", "sound": self.disk.is_sound(), "damages": damage_count,
                "warnings": warning_count,
            });
            return self.out.line(&line.to_string());
        }
        self.out.line(match (damage_count, warning_count) {
            (0, 0) => "sound",
            (0, _) => "damaged, and nothing is lost",
            _ => "damaged",
        })
    }

    /// All disks were looked at.
    pub(super) fn end(self) -> Result<Exit, Failure> {
        let exit = if self.all.is_sound() { Exit::Done } else { Exit::No };
        self.out.finish()?;
        Ok(exit)
    }
}
