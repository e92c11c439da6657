//! Start of a shard: its version cache, its tablets as the journal tells them, and what of them is lost.
//!
//! The amnesia rule in one place: a tablet that cannot prove that it still has every entry it acknowledged is damaged,
//! and answers no strong request until it is mended. Proof is continuity of log indexes: over a gap in the journal a
//! later entry, or a tip, of the tablet says whether one is missing; behind a damaged tail nothing can say so. Shared
//! memory that outlived the process knows how far each tablet had come: a journal that ends before that has lost what
//! it had acknowledged.

use crate::apply::{ApplyError, State, apply};
use crate::journal::{Claim, Journal, JournalZone, Record, Replayed, Tail, identity, replay};
use crate::limits::Limits;
use crate::memtable::{Memtable, MemtableConfig};
use crate::recent::RecentKeys;
use crate::requests::RequestTable;
use crate::tablet::Tablet;
use crate::versions::{Attached, Versions, VersionsOwner};
use ioengine::{Buf, Disk, DiskError, Io, Region};
use layout::journal_record::RecordKind;
use layout::log_entry::EntryIter;
use layout::superblock::Superblock;
use layout::tip::{self, TIP_BYTES, TipIter};
use layout::units::{
    BLOCK_BYTES, Incarnation, LogIndex, LogTime, ShardIndex, TABLET_COUNT, TabletIndex, Uuid,
};

/// Why a shard cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The device said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Memory is laid out smaller than what the disk holds.
    #[error(
        "shard {shard}: the journal holds more than the memtable: raise memtable_bytes or memtable_record_count_max"
    )]
    MemtableFull {
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
    pub(crate) journal: Option<Journal>,
    /// Holds a record; the commit task goes on with it.
    pub(crate) buffer: Buf,
    pub(crate) report: Report,
}

/// Recover shard `shard` of the disk. `previous` is the last start of the device before this one.
///
/// # Errors
/// [`RecoverError`].
pub(crate) async fn recover(
    io: &Io,
    disk: Disk,
    superblock: &Superblock,
    previous: Incarnation,
    shard: u16,
    limits: &Limits,
    region: Region,
) -> Result<Recovered, RecoverError> {
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
    let known: Vec<LogIndex> = match attached {
        Attached::Kept => TabletIndex::all().map(|tablet| versions.coherent_index(tablet)).collect(),
        Attached::Emptied { .. } => vec![LogIndex(0); TABLET_COUNT],
    };
    let state = State {
        tablets: tablets(io, shard, superblock.shard_count, limits),
        memtable: Memtable::new(MemtableConfig { seed: io.random(), ..limits.memtable() }),
        versions,
    };
    let arena = |bytes: u64| io.buffer(bytes as usize).ok_or(RecoverError::Arena { bytes });
    let mut walk =
        Walk { state, unproven: [false; TABLET_COUNT], entry_count: 0, full: false, all_lost: false };
    let (window, block) = (arena(limits.record_bytes_max)?, arena(BLOCK_BYTES as u64)?);
    let replayed = replay(&disk, &zone, window, block, |record| walk.take(record)).await?;
    if walk.full {
        return Err(RecoverError::MemtableFull { shard });
    }
    walk.judge(&replayed, superblock.incarnation, &known);
    let Walk { mut state, entry_count, .. } = walk;
    let damaged: Vec<TabletIndex> = TabletIndex::all()
        .filter(|tablet| state.tablets[tablet.index()].as_ref().is_some_and(|own| own.damage.is_some()))
        .collect();
    for &tablet in &damaged {
        state.versions.raise_generation(tablet);
    }
    let buffer = arena(limits.record_bytes_max)?;
    let (journal, buffer) =
        open_journal(disk, zone, superblock.incarnation, &replayed, &state, buffer).await?;
    let report = Report { replayed, entry_count, damaged, versions: attached };
    Ok(Recovered { state, journal, buffer, report })
}

fn tablets(io: &Io, shard: u16, shard_count: u16, limits: &Limits) -> Vec<Option<Tablet>> {
    let requests = limits.requests();
    let tablet = |index: TabletIndex| {
        (index.shard(shard_count).0 == shard).then(|| Tablet {
            applied: LogIndex(0),
            log_time: LogTime(0),
            requests: RequestTable::new(requests, io.random()),
            recent: RecentKeys::new(limits.recent_count, LogIndex(0), io.random()),
            damage: None,
        })
    };
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
    buffer: Buf,
) -> Result<(Option<Journal>, Buf), DiskError> {
    if matches!(replayed.tail, Tail::Damaged { .. }) || incarnation <= replayed.incarnation_max {
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

/// Replay as it goes.
struct Walk {
    state: State,
    /// Tablets that have shown nothing since the last gap.
    unproven: [bool; TABLET_COUNT],
    entry_count: u64,
    full: bool,
    /// A record that checks and still cannot be understood.
    all_lost: bool,
}

impl Walk {
    fn take(&mut self, record: Record<'_>) {
        if record.after_gap {
            self.unproven = [true; TABLET_COUNT];
        }
        match record.header.fields.kind {
            RecordKind::Open | RecordKind::Mark => {
                for tip in TipIter::new(record.body) {
                    match tip {
                        Ok((tablet, index)) => self.tip(tablet, index),
                        Err(corrupt) => self.lost(&corrupt),
                    }
                }
            }
            RecordKind::Entries => {
                for entry in EntryIter::new(record.body) {
                    let result = match entry {
                        Ok(entry) => self.entry(&entry),
                        Err(corrupt) => Err(ApplyError::Corrupt(corrupt)),
                    };
                    match result {
                        Ok(()) => self.entry_count += 1,
                        Err(ApplyError::MemtableFull) => self.full = true,
                        Err(ApplyError::Corrupt(corrupt)) => self.lost(&corrupt),
                    }
                }
            }
        }
    }

    fn entry(&mut self, entry: &layout::log_entry::Entry<'_>) -> Result<(), ApplyError> {
        let header = entry.header;
        if let Some(tablet) = &mut self.state.tablets[header.tablet.index()] {
            if header.log_index <= tablet.applied {
                // One log, two entries of one index: not from one life of this shard.
                let corrupt =
                    layout::Corrupt { structure: "log entry", field: "log_index", at: entry.body_at };
                return Err(ApplyError::Corrupt(corrupt));
            }
            let skips = header.log_index > tablet.applied.next();
            if skips && !ioengine::canary("skip_index_continuity") {
                tablet.lose(Some(LogIndex(header.log_index.0 - 1)));
            }
            self.unproven[header.tablet.index()] = false;
        }
        apply(&mut self.state, entry, &mut |_| {})
    }

    /// At this point of the journal the tablet had come to `index`.
    fn tip(&mut self, tablet: TabletIndex, index: LogIndex) {
        if let Some(own) = &mut self.state.tablets[tablet.index()] {
            if index > own.applied {
                own.lose(Some(index));
            }
            self.unproven[tablet.index()] = false;
        }
    }

    fn lost(&mut self, corrupt: &layout::Corrupt) {
        tracing::error!(%corrupt, "a journal record checks and cannot be understood");
        self.all_lost = true;
    }

    /// The journal has been read to its end: what can no tablet prove?
    fn judge(&mut self, replayed: &Replayed, incarnation: Incarnation, known: &[LogIndex]) {
        // A journal from a later start than the superblock's: the superblock was rolled back, and with it perhaps
        // more. A damaged tail may have held an entry of any tablet.
        let all = self.all_lost
            || matches!(replayed.tail, Tail::Damaged { .. })
            || replayed.incarnation_max >= incarnation;
        for (index, tablet) in self.state.tablets.iter_mut().enumerate() {
            let Some(tablet) = tablet else { continue };
            let unproven = self.unproven[index] && !ioengine::canary("trust_behind_gap");
            let known_lost = known[index] > tablet.applied && !ioengine::canary("forget_shared_memory");
            if all || unproven {
                tablet.lose(None);
            } else if known_lost {
                ioengine::sometimes!("shared memory knows of a lost entry");
                tablet.lose(Some(known[index]));
            }
        }
    }
}
