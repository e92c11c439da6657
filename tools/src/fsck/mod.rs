//! `thermocline fsck`: are disks that no node uses sound? Reads only.
//!
//! Reads every manifest and walks every journal as a start does, by the same code and the same rule of proof, and beyond
//! that every block of every table; of a cold disk every section. With `--rebuild-links` also what links must lead to these sections,
//! beside the links that stores have. What shared memory knows beyond the disk is left to the start itself.

mod cold;
mod links;
mod report;

use clap::Args;
use layout::superblock::Superblock;
use layout::superblock_copies::{choose, incarnation_next};
use layout::units::{BLOCK_BYTES, Incarnation, LogIndex};
use shard::examine::{Examined, examine};
use shard::journal::{Replayed, replay};
use shard::limits::Limits;
use shard::proof::{Damage, Proofs};
use shard::recover::journal_zone;

use crate::disk::Offline;
use crate::failure::{Exit, Failure};
use links::Links;
use report::Report;

/// Arguments of `fsck`.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Devices or files
    #[arg(required = true)]
    disks: Vec<String>,
    /// Say which links lead to the sections of the cold disks, by these disks alone; with disks of stores, too, whether those have the same
    #[arg(long)]
    rebuild_links: bool,
    /// Say it as JSON
    #[arg(long)]
    json: bool,
}

/// `thermocline fsck`: no when anything is damaged.
///
/// # Errors
/// A disk cannot be opened, is not ours, or a node uses it.
pub(crate) fn run(args: &FsckArgs) -> Result<Exit, Failure> {
    let mut report = Report::new(args.json);
    let mut links = args.rebuild_links.then(Links::default);
    let mut failed = None;
    for disk in &args.disks {
        // The others are looked at all the same.
        if let Err(failure) = check(disk, args.disks.len() > 1, &mut report, links.as_mut()) {
            if args.disks.len() == 1 || failure.what.is_empty() {
                return Err(failure);
            }
            crate::output::note!("thermocline: {failure}");
            failed.get_or_insert(failure.exit);
        }
    }
    if let Some(links) = &links {
        links.report(&mut report)?;
    }
    let exit = report.end()?;
    Ok(failed.unwrap_or(exit))
}

fn check(
    disk: &str,
    titled: bool,
    report: &mut Report,
    mut links: Option<&mut Links>,
) -> Result<(), Failure> {
    // Opened for writing, though nothing is written: that claims it, so that no node changes it meanwhile.
    let offline = Offline::open(disk, false)?;
    if offline.is_cold()? {
        return cold::check(&offline, disk, titled, report, links);
    }
    let copies = offline.copies();
    let superblock = offline.superblock()?;
    let good = copies.iter().filter(|copy| copy.as_ref() == Ok(&superblock)).count();
    let behind = copies.iter().flatten().filter(|copy| **copy != superblock).count();
    assert_eq!(choose(&copies).as_ref(), Ok(&superblock), "read twice, the disk is claimed");
    report.begin(disk, titled)?;
    report.superblock(&superblock, good, behind)?;
    let next = incarnation_next(&copies, &superblock).unwrap_or(superblock.incarnation);
    for shard in 0..superblock.shard_count {
        let found = walk(&offline, &superblock, next, shard)?;
        report.tables(shard, &found.examined)?;
        report.journal(shard, &found)?;
        if let Some(links) = &mut links {
            links.add_store(disk, &found.examined.sunk);
        }
    }
    report.verdict()
}

/// What was found of a shard.
struct Found {
    examined: Examined,
    proofs: Proofs,
    replayed: Replayed,
    operation_count: u64,
}

/// Checks the tables of a shard and walks its journal. `next` is the start that would come now.
fn walk(offline: &Offline, superblock: &Superblock, next: Incarnation, shard: u16) -> Result<Found, Failure> {
    let failed = |what: String| Failure::failed(what, "");
    // The largest record that the disk's own segments and the buffers allow, whatever it was written with.
    let largest = (ioengine::buffer::BUFFER_BYTES_MAX as u64).min(superblock.segment_bytes);
    let limits = Limits { record_bytes_max: largest, ..Limits::default() };
    let zone = journal_zone(superblock, shard, &limits).map_err(|error| failed(error.to_string()))?;
    let examine = examine(offline.io(), offline.disk(), superblock, shard, next, zone.bytes());
    let examined = offline.run(examine).map_err(|error| failed(error.to_string()))?;
    let mut proofs = Proofs::new(shard, superblock.shard_count, superblock.served > Incarnation(0));
    for head in &examined.tablets {
        let damage = head.damage.map(|(from, to)| Damage { from, to });
        proofs.begin_at(head.tablet, head.applied, damage);
    }
    let mut operation_count = 0;
    let replayed = if examined.lost.is_some() {
        // As a start does: where it begins is not known, and nothing it says could be applied.
        proofs.lose_all();
        Replayed::nothing(examined.start)
    } else {
        let buffer = |bytes| offline.io().buffer(bytes).expect("the arena holds a record and a block");
        let (window, block) = (buffer(largest as usize), buffer(BLOCK_BYTES));
        let walk = replay(offline.disk(), &zone, examined.start, window, block, |record| {
            proofs.take(&record, |entry, _| {
                entry.operations().try_for_each(|operation| operation.map(drop))?;
                operation_count += u64::from(entry.header.operation_count);
                Ok(())
            });
        });
        offline.run(walk).map_err(|error| failed(error.to_string()))?
    };
    if examined.lost.is_none() {
        proofs.beside_manifest(examined.reading.written_by(), &replayed);
    }
    proofs.judge(&replayed, next, |_| LogIndex(0));
    Ok(Found { examined, proofs, replayed, operation_count })
}
