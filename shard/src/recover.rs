//! Start of a shard: its version cache, its tablets as the journal tells them, and what of them is lost.
//!
//! What a journal proves is said by [`crate::proof`]: a tablet that cannot prove that it still has every entry it
//! acknowledged answers no strong request until it is mended. Shared memory that outlived the process knows how far each
//! tablet had come: a journal that ends before that has lost what it had acknowledged.

use crate::apply::{ApplyError, State, apply};
use crate::cluster::Group;
use crate::journal::{Claim, Journal, JournalZone, Record, Replayed, Tail, identity, replay};
use crate::limits::Limits;
use crate::log::{self, RecoveredLog};
use crate::lsm::{self, Keeper, OpenError, Opened};
use crate::memtable::{Charge, MemtableConfig};
use crate::memtables::Memtables;
use crate::proof::Proofs;

use crate::tablet::Tablet;
use crate::versions::{Attached, Versions, VersionsOwner};
use ioengine::{Buf, Disk, DiskError, Io, Region};
use layout::journal_record::RecordKind;
use layout::log_entry::{Entry, EntryIter};
use layout::log_item::{Item, ItemIter};
use layout::superblock::Superblock;
use layout::superblock_peers::Origin;
use layout::tip::{self, TIP_BYTES};
use layout::units::{BLOCK_BYTES, Incarnation, LogIndex, ShardIndex, TabletIndex, Uuid};
use paxos::ValueId;

/// Why a shard cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The device said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The tables cannot be opened at all.
    #[error(transparent)]
    Tables(#[from] OpenError),
    /// Memory is laid out smaller than what the disk holds.
    #[error(
        "shard {shard}: the journal holds more than the memtable: raise memtable_bytes or memtable_record_count_max"
    )]
    MemtableFull {
        /// Which shard.
        shard: u16,
    },
    /// The disk's starts are older than what its journal tells of them.
    #[error(
        "shard {shard}: the superblock is older than what stands beside it: bring the disk's newest state back, or format it with \
         `thermocline disk format --recover`"
    )]
    SuperblockOld {
        /// Which shard.
        shard: u16,
    },
    /// No buffer.
    #[error("the arena has no room for {bytes} bytes: raise arena_bytes")]
    Arena {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The record limit does not fit the disk's segments.
    #[error(
        "record_bytes_max is {record_bytes}, more than a journal segment of this disk, {segment_bytes}: lower it"
    )]
    Segment {
        /// Limit in the config.
        record_bytes: u64,
        /// Segment of the disk.
        segment_bytes: u64,
    },
}

/// What a start found, for the log and the status.
#[derive(Debug)]
pub struct Report {
    /// What the journal told.
    pub replayed: Replayed,
    /// Log entries applied.
    pub entry_count: u64,
    /// Tablets that lost part of their log, or may have.
    pub damaged: Vec<TabletIndex>,
    /// Whether the version cache was kept, and why not.
    pub versions: Attached,
}

/// A shard's journal zone, as the superblock and the limits have it.
///
/// # Errors
/// [`RecoverError::Segment`] when a record could be larger than a segment.
pub fn journal_zone(
    superblock: &Superblock,
    shard: u16,
    limits: &Limits,
) -> Result<JournalZone, RecoverError> {
    let zones = superblock.shard_zones()[usize::from(shard)];
    if limits.record_bytes_max > superblock.segment_bytes {
        return Err(RecoverError::Segment {
            record_bytes: limits.record_bytes_max,
            segment_bytes: superblock.segment_bytes,
        });
    }
    Ok(JournalZone {
        identity: identity(superblock.device, ShardIndex(shard), superblock.generation),
        range: zones.journal,
        segment_bytes: superblock.segment_bytes,
        record_bytes_max: limits.record_bytes_max,
    })
}

/// Name of a shard's region in shared memory: unique by device, so that no two nodes of a machine meet.
#[must_use]
pub fn region_name(device: Uuid, shard: u16) -> String {
    format!("versions-{device}-{shard}")
}

/// The device whose region this is, by the region's name; None for other regions.
#[must_use]
pub fn device_of_region(name: &str) -> Option<Uuid> {
    let (device, shard) = name.strip_prefix("versions-")?.rsplit_once('-')?;
    shard.parse::<u16>().ok().and_then(|_| device.parse().ok())
}

/// A shard ready to run.
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) keeper: Keeper,
    pub(crate) journal: Option<Journal>,
    /// Holds a record; the commit task goes on with it.
    pub(crate) buffer: Buf,
    pub(crate) report: Report,
    /// By tablet index; `None` for those whose log is not shared with other nodes.
    pub(crate) logs: Vec<Option<RecoveredLog>>,
}

/// What a shard starts from.
pub(crate) struct Start<'a> {
    pub(crate) disk: Disk,
    pub(crate) superblock: &'a Superblock,
    /// The last start of the device before this one.
    pub(crate) previous: Incarnation,
    pub(crate) shard: u16,
    pub(crate) limits: &'a Limits,
    /// Of its version cache.
    pub(crate) region: Region,
    pub(crate) group: &'a Group,
}

/// Recover a shard of the disk.
///
/// # Errors
/// [`RecoverError`].
pub(crate) async fn recover(io: &Io, start: Start<'_>) -> Result<Recovered, RecoverError> {
    let Start { disk, superblock, previous, shard, limits, region, group } = start;
    let zone = journal_zone(superblock, shard, limits)?;
    let owner = VersionsOwner {
        device: superblock.device,
        generation: superblock.generation,
        shard: ShardIndex(shard),
        boot: Uuid(io.boot_id()),
        incarnation: superblock.incarnation,
        previous_incarnation: previous,
    };
    let (versions, attached) = Versions::attach(region, &owner, io.random());
    // Also of a region whose cells were not believed: how far the tablets had come it knows all the same.
    let known: Vec<LogIndex> = TabletIndex::all().map(|tablet| versions.coherent_index(tablet)).collect();
    let mut tablets = tablets(io, shard, superblock.shard_count, limits);
    let Opened { keeper, tables, start, is_lost, written_by } =
        lsm::open(io, &disk, superblock, shard, limits, zone.bytes(), &mut tablets).await?;
    let flushed = tablets.iter().map(|own| own.as_ref().map_or(LogIndex(0), |own| own.applied)).collect();
    let mut state = State {
        tablets,
        flushed,
        memtables: Memtables::new(MemtableConfig { seed: io.random(), ..limits.memtable() }),
        tables,
        versions,
        capture: None,
    };
    let arena = |bytes: u64| io.buffer(bytes as usize).ok_or(RecoverError::Arena { bytes });
    let (window, block) = (arena(limits.record_bytes_max)?, arena(BLOCK_BYTES as u64)?);
    let mut proofs = Proofs::new(shard, superblock.shard_count, !group.is_alone());
    begin(&mut state, &mut proofs, &known);
    let mut tails: Vec<_> =
        TabletIndex::all().map(|_| log::new_tail(limits, superblock.shard_count)).collect();
    let (mut full, mut memtable_number) = (false, None);
    let replayed = if is_lost {
        // Where it begins is not known, and nothing it says could be applied.
        proofs.lose_all();
        Replayed::nothing(start)
    } else {
        replay(&disk, &zone, start, window, block, |record| {
            let number = record.header.fields.memtable_number;
            let is_next = memtable_number.replace(number).is_some_and(|before| before != number);
            make_room(&mut state, &proofs, &keeper, &record, (is_next, !group.is_alone()));
            proofs.take(&record, |entry, value| match apply(&mut state, entry, &mut |_| {}) {
                Err(ApplyError::Corrupt(corrupt)) => Err(corrupt),
                Err(ApplyError::MemtableFull) => {
                    full = true;
                    Ok(())
                }
                Ok(()) => {
                    let (tablet, index) = (entry.header.tablet, entry.header.log_index);
                    state.versions.set_coherent_index(tablet, index);
                    if value != ValueId::NONE {
                        tails[tablet.index()].remember(entry, value);
                    }
                    Ok(())
                }
            });
        })
        .await?
    };
    if !is_lost {
        proofs.beside_manifest(written_by, &replayed);
    }
    if !group.is_alone() {
        // A life that has been may be lived again, and its ballots used again.
        if replayed.incarnation_max.max(written_by) >= superblock.incarnation {
            return Err(RecoverError::SuperblockOld { shard });
        }
        proofs.beside_superblock(superblock.served, &replayed);
    }
    if full {
        return Err(RecoverError::MemtableFull { shard });
    }
    proofs.judge(&replayed, superblock.incarnation, |tablet| known[tablet.index()]);
    note_damage(&mut state, &proofs);
    let logs = logs(&mut state, &proofs, group, is_new(superblock), tails);
    // A memtable may have been frozen before all of it was known.
    state.capture_damage();
    let damaged = disbelieve_cells(&mut state);
    let buffer = arena(limits.record_bytes_max)?;
    let (journal, buffer) = if is_lost {
        (None, buffer)
    } else {
        let is_alone = group.is_alone();
        open_journal(disk, zone, superblock.incarnation, &replayed, &state, is_alone, buffer).await?
    };
    let report = Report { replayed, entry_count: proofs.entry_count(), damaged, versions: attached };
    Ok(Recovered { state, keeper, journal, buffer, report, logs })
}

/// The tablets that are damaged, of whose records no version cell is believed any more.
fn disbelieve_cells(state: &mut State) -> Vec<TabletIndex> {
    let is_damaged =
        |tablet: &TabletIndex| state.tablets[tablet.index()].as_ref().is_some_and(|own| own.damage.is_some());
    let damaged: Vec<TabletIndex> = TabletIndex::all().filter(is_damaged).collect();
    damaged.iter().for_each(|&tablet| state.versions.raise_generation(tablet));
    damaged
}

/// Where the replay begins: what the tables hold, beside what shared memory knows.
fn begin(state: &mut State, proofs: &mut Proofs, known: &[LogIndex]) {
    for tablet in TabletIndex::all() {
        if let Some(own) = &state.tablets[tablet.index()] {
            proofs.begin_at(tablet, own.applied, own.damage);
            ioengine::fact("begun", (u64::from(tablet.get()) << 56) | own.applied.0, 0);
            if known[tablet.index()] < own.applied {
                // The cells have missed entries that no replay brings.
                state.versions.raise_generation(tablet);
                state.versions.set_coherent_index(tablet, own.applied);
            }
        }
    }
}

/// Has nothing been said from this disk, nor from one whose place it took?
fn is_new(superblock: &Superblock) -> bool {
    let is_founder = superblock.origin == Origin::Founder || ioengine::canary("format_makes_a_voter");
    is_founder && (superblock.served == Incarnation(0) || ioengine::canary("forget_what_served"))
}

fn note_damage(state: &mut State, proofs: &Proofs) {
    for tablet in TabletIndex::all() {
        if let Some(own) = &mut state.tablets[tablet.index()] {
            own.damage = proofs.tablet(tablet).damage;
        }
    }
}

/// What the journal says of the logs that are shared with other nodes. A log of which it cannot be proven that every promise
/// is here makes its tablet a damaged one: it takes part in nothing.
fn logs(
    state: &mut State,
    proofs: &Proofs,
    group: &Group,
    is_new: bool,
    tails: Vec<log::Tail>,
) -> Vec<Option<RecoveredLog>> {
    let recovered = TabletIndex::all().zip(tails).map(|(tablet, tail)| {
        let own = state.tablets[tablet.index()].as_mut()?;
        if group.is_alone() || group.place(tablet).is_none() {
            return None;
        }
        let log = RecoveredLog::new(proofs.tablet(tablet), own.applied, tail, is_new);
        own.damage = own.damage.or(log.damage(own.applied));
        // Without an entry in the middle it is no older state, but one that never was; without its end neither, if tables know more than
        // is left of the log (group 2158: a page lacked what only a lost entry deletes). Local reads wait for the copy, too.
        own.awaits_tables = own.damage.is_some() && !ioengine::canary("show_what_has_gaps");
        Some(log)
    });
    recovered.collect()
}

/// Before a record of the journal is applied: freeze the memtable where it happened before (`is_next`: the record went
/// to the next one). And where the record might not fit, because the memtables were larger then, or records are lost, or because entries were
/// applied before that freeze of which the journal says so only behind it. When the other one is full already this one grows: it is better
/// to take more memory for a while than never to start again. A node alone applies and tells at once: its memtables are as large as
/// they were, and keep their bound. (Failing history: a node of a group is killed while writers keep both of its
/// memtables full.)
fn make_room(
    state: &mut State,
    proofs: &Proofs,
    keeper: &Keeper,
    record: &Record<'_>,
    (is_next, may_grow): (bool, bool),
) {
    let is_next = is_next && !ioengine::canary("forget_freezes");
    let needed = charge(record).plus(open_charge(proofs));
    let is_full = |state: &State| state.memtables.active.room_to_replay(needed).is_err();
    if state.memtables.active.usage().record_count == 0 {
        return;
    }
    if !state.memtables.can_freeze() {
        while may_grow && is_full(state) {
            ioengine::sometimes!("a memtable grows in a replay");
            tracing::warn!(
                "the journal holds more than the memtables: one of them is laid out larger, for this life"
            );
            state.memtables.grow();
        }
        return;
    }
    if is_next || is_full(state) {
        ioengine::sometimes!("a memtable is frozen in a replay");
        if !is_next {
            ioengine::sometimes!("a memtable is frozen in a replay because it is full");
        }
        note_damage(state, proofs);
        state.memtables.freeze();
        state.begin_capture();
        keeper.frozen_at.set(Some(proofs.begin_next(record.before)));
    }
}

/// Room that the entries of a record may need.
fn charge(record: &Record<'_>) -> Charge {
    let sum = |entries: &mut dyn Iterator<Item = Entry<'_>>| {
        entries.fold(Charge::NONE, |sum, entry| sum.plus(Charge::of_entry(&entry)))
    };
    match record.header.fields.kind {
        RecordKind::Entries => sum(&mut EntryIter::new(record.body).filter_map(Result::ok)),
        RecordKind::Items => sum(&mut ItemIter::new(record.body).filter_map(|item| match item.ok()?.1 {
            Item::Vote { entry, .. } => entry,
            Item::Chosen { entry, .. } => Some(entry),
        })),
        RecordKind::Open | RecordKind::Mark => Charge::NONE,
    }
}

/// Room that entries need whose fate the record may tell.
fn open_charge(proofs: &Proofs) -> Charge {
    let pending = TabletIndex::all().filter_map(|tablet| proofs.tablet(tablet).pending.as_ref());
    pending.fold(Charge::NONE, |sum, pending| sum.plus(pending.charge))
}

fn tablets(io: &Io, shard: u16, shard_count: u16, limits: &Limits) -> Vec<Option<Tablet>> {
    let tablet = |index: TabletIndex| (index.shard(shard_count).0 == shard).then(|| Tablet::new(io, limits));
    TabletIndex::all().map(tablet).collect()
}

/// The first record of this start: it voids what an earlier one left unfinished, and names each tablet's last entry.
/// `None` when nothing may be, or can be, written.
async fn open_journal(
    disk: Disk,
    zone: JournalZone,
    incarnation: Incarnation,
    replayed: &Replayed,
    state: &State,
    is_alone: bool,
    buffer: Buf,
) -> Result<(Option<Journal>, Buf), DiskError> {
    // In a group the tablets are learner-only then, and take from their peers what is lost.
    let is_first = incarnation == Incarnation(1);
    let is_end_lost = matches!(replayed.tail, Tail::Damaged { .. }) && (is_alone || is_first);
    if is_end_lost || incarnation <= replayed.incarnation_max {
        return Ok((None, buffer));
    }
    let journal = Journal::new(disk, zone, incarnation, replayed);
    let tip = |tablet: TabletIndex| Some((tablet, state.tablets[tablet.index()].as_ref()?.tip()));
    let tips: Vec<_> = TabletIndex::all().filter_map(tip).collect();
    if !journal.has_room(Claim::Own, 0, tips.len() * TIP_BYTES) {
        tracing::error!("the journal has no room left for even one more start: reads only");
        return Ok((None, buffer));
    }
    let (result, buffer, _) = journal
        .write(buffer, RecordKind::Open, |writer| {
            for (tablet, index) in tips {
                assert!(writer.append(&tip::encode(tablet, index)), "an open record is small");
            }
        })
        .await;
    result?;
    Ok((Some(journal), buffer))
}
