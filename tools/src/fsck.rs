//! `thermocline fsck`: is a disk that no node uses sound? Reads only.
//!
//! Walks every journal as a start does, by the same replay, and says per tablet what it can prove: by continuity of
//! log indexes over gaps, and by the tips that records carry. What shared memory knows beyond the disk is left to the
//! start itself.

use clap::Args;
use layout::journal_record::RecordKind;
use layout::log_entry::EntryIter;
use layout::superblock::Superblock;
use layout::superblock_copies::choose;
use layout::tip::TipIter;
use layout::units::{BLOCK_BYTES, TABLET_COUNT, TabletIndex};
use serde_json::json;
use shard::journal::{Record, Replayed, Tail, replay};
use shard::limits::Limits;
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

/// What a journal says of one tablet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Proof {
    /// Last entry.
    applied: u64,
    entry_count: u64,
    /// Highest index that may be missing; `u64::MAX` when nothing can say.
    lost: Option<u64>,
    /// Nothing was seen of it since the last gap.
    unproven: bool,
}

#[derive(Debug)]
struct Walk {
    tablets: [Proof; TABLET_COUNT],
    operation_count: u64,
    /// Records that check and cannot be understood.
    strange_count: u64,
}

impl Walk {
    fn take(&mut self, record: &Record<'_>) {
        if record.after_gap {
            self.tablets.iter_mut().for_each(|tablet| tablet.unproven = true);
        }
        let understood = match record.header.fields.kind {
            RecordKind::Open | RecordKind::Mark => self.tips(record.body),
            RecordKind::Entries => self.entries(record.body),
        };
        self.strange_count += u64::from(!understood);
    }

    fn tips(&mut self, body: &[u8]) -> bool {
        for tip in TipIter::new(body) {
            let Ok((tablet, index)) = tip else { return false };
            let tablet = &mut self.tablets[tablet.index()];
            if index.0 > tablet.applied {
                tablet.lose(index.0);
            }
            tablet.unproven = false;
        }
        true
    }

    fn entries(&mut self, body: &[u8]) -> bool {
        for entry in EntryIter::new(body) {
            let Ok(entry) = entry else { return false };
            let index = entry.header.log_index.0;
            let tablet = &mut self.tablets[entry.header.tablet.index()];
            if index <= tablet.applied || entry.operations().any(|operation| operation.is_err()) {
                return false;
            }
            if index > tablet.applied + 1 {
                tablet.lose(index - 1);
            }
            tablet.applied = index;
            tablet.entry_count += 1;
            tablet.unproven = false;
            self.operation_count += u64::from(entry.header.operation_count);
        }
        true
    }

    /// The journal was read to its end: what can no tablet prove?
    fn judge(&mut self, shard: u16, superblock: &Superblock, replayed: &Replayed) {
        let rolled_back = replayed.incarnation_max > superblock.incarnation;
        let all = self.strange_count > 0 || rolled_back || matches!(replayed.tail, Tail::Damaged { .. });
        for tablet in TabletIndex::all().filter(|tablet| tablet.shard(superblock.shard_count).0 == shard) {
            let tablet = &mut self.tablets[tablet.index()];
            if all || tablet.unproven {
                tablet.lose(u64::MAX);
            }
        }
    }
}

impl Proof {
    fn lose(&mut self, up_to: u64) {
        self.lost = self.lost.max(Some(up_to));
    }
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
    for shard in 0..superblock.shard_count {
        let (walk, replayed) = walk(&offline, &superblock, shard)?;
        report.shard(shard, &superblock, &walk, &replayed)?;
    }
    report.end()
}

fn walk(offline: &Offline, superblock: &Superblock, shard: u16) -> Result<(Walk, Replayed), Failure> {
    let failed = |what: String| Failure::failed(what, "");
    // The largest record that the disk's own segments and the buffers allow, whatever it was written with.
    let largest = (ioengine::buffer::BUFFER_BYTES_MAX as u64).min(superblock.segment_bytes);
    let limits = Limits { record_bytes_max: largest, ..Limits::default() };
    let zone = journal_zone(superblock, shard, &limits).map_err(|error| failed(error.to_string()))?;
    let buffer = |bytes| offline.io().buffer(bytes).expect("the arena holds a record and a block");
    let (window, block) = (buffer(largest as usize), buffer(BLOCK_BYTES));
    let mut walk = Walk { tablets: [Proof::default(); TABLET_COUNT], operation_count: 0, strange_count: 0 };
    let replayed = offline
        .run(replay(offline.disk(), &zone, window, block, |record| walk.take(&record)))
        .map_err(|error| failed(error.to_string()))?;
    walk.judge(shard, superblock, &replayed);
    Ok((walk, replayed))
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

    fn shard(
        &mut self,
        shard: u16,
        superblock: &Superblock,
        walk: &Walk,
        replayed: &Replayed,
    ) -> Result<(), Failure> {
        let own = TabletIndex::all().filter(|tablet| tablet.shard(superblock.shard_count).0 == shard);
        let lost: Vec<(TabletIndex, Proof)> = own
            .map(|tablet| (tablet, walk.tablets[tablet.index()]))
            .filter(|(_, proof)| proof.lost.is_some())
            .collect();
        let entry_count: u64 = walk.tablets.iter().map(|tablet| tablet.entry_count).sum();
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
                .map(|(tablet, proof)| json!({"tablet": tablet.get(), "last_index": proof.applied, "lost_to": proof.lost}))
                .collect();
            let line = json!({
                "part": "journal", "shard": shard, "records": replayed.record_count, "entries": entry_count,
                "operations": walk.operation_count, "gaps": replayed.gaps.len(), "tail": tail,
                "records_strange": walk.strange_count, "tablets_damaged": damaged,
            });
            return self.out.line(&line.to_string());
        }
        self.out.line(&format!(
            "journal of shard {shard}: {} records, {entry_count} entries, {} operations, {} gaps, tail {tail}",
            replayed.record_count,
            walk.operation_count,
            replayed.gaps.len()
        ))?;
        for gap in &replayed.gaps {
            self.out.line(&format!("  records between {} and {} cannot be read", gap.after, gap.before))?;
        }
        for (tablet, proof) in lost {
            let what = match proof.lost {
                Some(u64::MAX) => "cannot prove that it has all entries".to_owned(),
                lost => format!("may have lost entries up to {}", lost.unwrap_or(0)),
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
