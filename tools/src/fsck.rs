//! `thermocline fsck`: is a disk that no node uses sound? Reads only.
//!
//! Walks every journal as a start does, by the same replay and the same rule of proof. What shared memory knows beyond
//! the disk is left to the start itself.

use clap::Args;
use layout::superblock::Superblock;
use layout::superblock_copies::{choose, incarnation_next};
use layout::units::{BLOCK_BYTES, Incarnation, LogIndex, TabletIndex};
use serde_json::json;
use shard::journal::{JournalStart, Replayed, Tail, replay};
use shard::limits::Limits;
use shard::proof::Proofs;
use shard::recover::journal_zone;

use crate::disk::Offline;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Arguments of `fsck`.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Device or file
    disk: String,
    /// Say it as JSON
    #[arg(long)]
    json: bool,
}

/// `thermocline fsck`: no when anything is damaged.
///
/// # Errors
/// The disk cannot be opened, is not ours, or a node uses it.
pub(crate) fn run(args: &FsckArgs) -> Result<Exit, Failure> {
    // Opened for writing, though nothing is written: that claims it, so that no node changes it meanwhile.
    let offline = Offline::open(&args.disk, false)?;
    let copies = offline.copies();
    let superblock = offline.superblock()?;
    let good = copies.iter().filter(|copy| copy.as_ref() == Ok(&superblock)).count();
    let behind = copies.iter().flatten().filter(|copy| **copy != superblock).count();
    assert_eq!(choose(&copies).as_ref(), Ok(&superblock), "read twice, the disk is claimed");
    let mut report = Report { out: Output::new(), json: args.json, sound: true };
    report.superblock(&superblock, good, behind)?;
    let next = incarnation_next(&copies, &superblock).unwrap_or(superblock.incarnation);
    for shard in 0..superblock.shard_count {
        report.shard(shard, &walk(&offline, &superblock, next, shard)?)?;
    }
    report.end()
}

/// What was found in the journal of a shard.
struct Found {
    proofs: Proofs,
    replayed: Replayed,
    operation_count: u64,
}

/// Walks the journal of a shard. `next` is the start that would come now.
fn walk(offline: &Offline, superblock: &Superblock, next: Incarnation, shard: u16) -> Result<Found, Failure> {
    let failed = |what: String| Failure::failed(what, "");
    // The largest record that the disk's own segments and the buffers allow, whatever it was written with.
    let largest = (ioengine::buffer::BUFFER_BYTES_MAX as u64).min(superblock.segment_bytes);
    let limits = Limits { record_bytes_max: largest, ..Limits::default() };
    let zone = journal_zone(superblock, shard, &limits).map_err(|error| failed(error.to_string()))?;
    let buffer = |bytes| offline.io().buffer(bytes).expect("the arena holds a record and a block");
    let (window, block) = (buffer(largest as usize), buffer(BLOCK_BYTES));
    let mut proofs = Proofs::new(shard, superblock.shard_count);
    let mut operation_count = 0;
    let walk = replay(offline.disk(), &zone, JournalStart::FIRST, window, block, |record| {
        proofs.take(&record, |entry| {
            entry.operations().try_for_each(|operation| operation.map(drop))?;
            operation_count += u64::from(entry.header.operation_count);
            Ok(())
        });
    });
    let replayed = offline.run(walk).map_err(|error| failed(error.to_string()))?;
    proofs.judge(&replayed, next, |_| LogIndex(0));
    Ok(Found { proofs, replayed, operation_count })
}

struct Report {
    out: Output,
    json: bool,
    sound: bool,
}

impl Report {
    fn superblock(&mut self, superblock: &Superblock, good: usize, behind: usize) -> Result<(), Failure> {
        let bad = layout::superblock::COPY_COUNT - good - behind;
        self.sound &= bad == 0;
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

    fn shard(&mut self, shard: u16, found: &Found) -> Result<(), Failure> {
        let Found { proofs, replayed, operation_count } = found;
        let proof = |tablet: TabletIndex| (tablet, proofs.tablet(tablet).applied);
        let lost: Vec<_> = TabletIndex::all()
            .filter_map(|tablet| Some((proof(tablet), proofs.tablet(tablet).damage?)))
            .collect();
        let entry_count = proofs.entry_count();
        self.sound &= lost.is_empty() && replayed.gaps.is_empty();
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
                "part": "journal", "shard": shard, "records": replayed.record_count, "entries": entry_count,
                "operations": operation_count, "gaps": replayed.gaps.len(), "tail": tail,
                "records_strange": proofs.strange_count(), "tablets_damaged": damaged,
            });
            return self.out.line(&line.to_string());
        }
        self.out.line(&format!(
            "journal of shard {shard}: {} records, {entry_count} entries, {} operations, {} gaps, tail {tail}",
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

    fn end(mut self) -> Result<Exit, Failure> {
        let verdict = if self.sound { "sound" } else { "damaged" };
        if self.json {
            self.out.line(&json!({"part": "verdict", "sound": self.sound}).to_string())?;
        } else {
            self.out.line(verdict)?;
        }
        let exit = if self.sound { Exit::Done } else { Exit::No };
        self.out.finish()?;
        Ok(exit)
    }
}
