//! Start of a shard's tables: the manifest, the tables that it names, and the state of the tablets.

use super::Tables;
use super::agree::tell_in_place;
use super::capture::{forget, restore};
use super::extents::Taken;
use super::keeper::{Keeper, TableOwner};
use super::names::{NamedState, Names};
use super::publish::spread_of;
use super::table::{Table, TablePlace};
use super::zone::{HeldExtents, Zone};
use crate::journal::{JournalStart, identity};
use crate::limits::Limits;
use crate::manifest::{self, Manifest, ManifestZones, Reading, Verdict, Wrote};
use crate::tablet::Tablet;
use ioengine::{Disk, DiskError, Io};
use layout::manifest::TableKind;
use layout::superblock::Superblock;
use layout::table_seal::Decompressor;
use layout::tablet_state::{StateIdentity, StateReader};
use layout::units::{BLOCK_BYTES, Incarnation, ShardIndex};
use std::rc::Rc;

/// Numbers of tables that a start sets aside: a process that ends has used fewer.
const IDS_PER_START: u64 = 1 << 32;

/// Bytes of the largest record of a manifest.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 10;

/// A shard's tables, ready.
pub(crate) struct Opened {
    pub(crate) keeper: Keeper,
    pub(crate) tables: Tables,
    /// Where replay begins.
    pub(crate) start: JournalStart,
    /// The start that last wrote the manifest, before this one: the journal has no record of a later one, or something is
    /// lost.
    pub(crate) written_by: Incarnation,
    /// Nobody can say which tables there are, or what state the tablets had: every tablet has lost all.
    pub(crate) is_lost: bool,
}

/// Read what is there, and commit it anew: so that both copies of the manifest are whole again.
///
/// # Errors
/// [`DiskError`] when the device cannot be flushed or written.
pub(crate) async fn open(
    io: &Io,
    disk: &Disk,
    superblock: &Superblock,
    shard: u16,
    limits: &Limits,
    journal_bytes: u64,
    tablets: &mut [Option<Tablet>],
) -> Result<Opened, OpenError> {
    let ground = Ground::new(superblock, shard);
    let owner = ground.owner;
    let buffer_bytes = ground.record_bytes();
    let buffer = || io.buffer(buffer_bytes).ok_or(OpenError::Arena { bytes: buffer_bytes as u64 });
    let buffers = [buffer()?, buffer()?];
    let manifest::Opened { manifest, reading } =
        Manifest::open(io, disk, ground.manifest, superblock.incarnation, buffers).await?;
    let zone = Rc::new(ground.zone(io, disk)?);
    let own_count = tablets.iter().flatten().count() as u64;
    // Both memtables: runs of each tablet, and the state of all, in which a request id has 41 bytes.
    let bytes = limits.memtable_bytes as u64 / 2 + own_count * limits.request_count_max as u64 * 41;
    let extents = 2 * (own_count + bytes.div_ceil(zone.extent_bytes()));
    zone.extents().borrow_mut().reserve_for_flushes(extents);
    let mut tables = Tables::new(limits);
    let written_by = reading.written_by();
    let read = manifest.filter(|_| !matches!(reading.verdict, Verdict::Damaged { .. }));
    let named = read.and_then(|manifest| match read_names(&reading, &zone, journal_bytes) {
        Ok(names) => Some((manifest, names)),
        Err(error) => {
            tracing::error!(shard, %error, "the manifest checks and cannot be used");
            None
        }
    });
    let Some((mut manifest, mut names)) = named else {
        ioengine::sometimes!("the manifest is lost");
        tracing::error!(shard, verdict = ?reading.verdict, "nobody can say which tables there are");
        forget(tablets);
        let keeper = Keeper::new(zone, owner, Names::new(), None, 0);
        return Ok(Opened { keeper, tables, start: JournalStart::FIRST, is_lost: true, written_by });
    };
    let mut unpack = Decompressor::new();
    // Oldest first: each run comes to the front of its tablet's list.
    let mut in_order: Vec<_> = names.tables.values().collect();
    in_order.sort_by_key(|table| table.facts.log_index_max);
    for named in in_order {
        let id = named.facts.table;
        let place = TablePlace {
            id,
            level: named.facts.level,
            identity: owner.named(&named.facts),
            extents: HeldExtents::named(Rc::clone(&zone), named.ranges.clone()),
            bytes: named.facts.bytes,
            checksum: named.facts.checksum,
            spread: spread_of(&named.facts),
        };
        let (table, opened) = Table::open(place, &mut unpack).await;
        if let Err(error) = opened {
            tracing::error!(shard, %error, "a table cannot be opened: what it may hold answers `Corrupt`");
        }
        match named.facts.kind {
            TableKind::Run => tables.add(named.facts.tablet, Rc::new(table)),
            TableKind::Sealed | TableKind::Sunk => {
                tell_in_place(&table, named.facts.tablet);
                table.tell_place(true);
                tables.add_window(named.facts.tablet, Rc::new(table));
            }
        }
    }
    let mut is_lost = false;
    if let Some(state) = &names.state
        && let Err(text) = read_state(&zone, owner, state, tablets).await
    {
        ioengine::sometimes!("the state of the tablets is lost");
        tracing::error!(shard, text, "the state of the tablets cannot be read");
        forget(tablets);
        is_lost = true;
    }
    let next_table = names.next_table;
    names.next_table += IDS_PER_START;
    let start = names.start;
    if !is_lost {
        let bodies = names.bodies(manifest.body_bytes_max());
        if manifest.rewrite(disk, bodies).await? == Wrote::Full {
            return Err(OpenError::ManifestFull { shard });
        }
    }
    let keeper = Keeper::new(zone, owner, names, (!is_lost).then_some(manifest), next_table);
    Ok(Opened { keeper, tables, start, is_lost, written_by })
}

/// Where what a shard holds in tables lies on its device, and what it is bound to.
pub(super) struct Ground {
    pub(super) owner: TableOwner,
    pub(super) manifest: ManifestZones,
    /// Device offset of extent 0, bytes of an extent, how many there are.
    pub(super) extents: (u64, u64, u32),
}

impl Ground {
    pub(super) fn new(superblock: &Superblock, shard: u16) -> Ground {
        let zones = superblock.shard_zones()[usize::from(shard)];
        let geometry = superblock.tables;
        let slot = |copy, half| zones.manifest_half(geometry, copy, half);
        let copies = [[slot(0, 0), slot(0, 1)], [slot(1, 0), slot(1, 1)]];
        let Superblock { cluster, device, generation, .. } = *superblock;
        let owner = TableOwner { cluster, device, shard: ShardIndex(shard), generation };
        let manifest = ManifestZones { identity: identity(device, owner.shard, generation), copies };
        let (first, count) = zones.extents(geometry);
        Ground { owner, manifest, extents: (first.0, u64::from(geometry.extent_bytes), count) }
    }

    /// Bytes of the largest record of the manifest.
    pub(super) fn record_bytes(&self) -> usize {
        let half = self.manifest.copies[0][0].bytes;
        let most = usize::try_from(half / 2).unwrap_or(usize::MAX).min(RECORD_BYTES_MAX);
        1 << most.ilog2()
    }

    /// The extents, all free.
    pub(super) fn zone(&self, io: &Io, disk: &Disk) -> Result<Zone, OpenError> {
        let (base, extent_bytes, count) = self.extents;
        let disk = io.attach_disk(&disk.share()).map_err(OpenError::Attach)?;
        Ok(Zone::new(io.clone(), disk, base, extent_bytes, count))
    }
}

/// Why a shard's tables cannot be opened at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// No buffer.
    #[error("the arena has no room for {bytes} bytes: raise arena_bytes")]
    Arena {
        /// Bytes asked for.
        bytes: u64,
    },
    /// Too many tables.
    #[error("shard {shard}: the manifest does not fit its place any more")]
    ManifestFull {
        /// Which shard.
        shard: u16,
    },
    /// The device cannot be opened once more.
    #[error(transparent)]
    Attach(ioengine::disk::DiskOpenError),
}

/// Why a manifest that checks is not believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum NamesError {
    #[error("an edit cannot be understood: {0}")]
    Corrupt(#[from] layout::Corrupt),
    #[error("it begins the journal at {at}, outside of it")]
    Start { at: u64 },
    #[error("it names extents twice, or outside: {0}")]
    Taken(#[from] Taken),
}

/// What a manifest says, if it makes sense; its extents are claimed then.
pub(super) fn read_names(reading: &Reading, zone: &Zone, journal_bytes: u64) -> Result<Names, NamesError> {
    let names = Names::of(reading)?;
    let at = names.start.at;
    if at >= journal_bytes || !at.is_multiple_of(BLOCK_BYTES as u64) {
        return Err(NamesError::Start { at });
    }
    let of_tables = names.tables.values().flat_map(|table| &table.ranges);
    let of_state = names.state.iter().flat_map(|state| &state.ranges);
    let mut extents = zone.extents().borrow_mut();
    for range in of_tables.chain(of_state) {
        extents.claim(*range)?;
    }
    drop(extents);
    Ok(names)
}

async fn read_state(
    zone: &Zone,
    owner: TableOwner,
    state: &NamedState,
    tablets: &mut [Option<Tablet>],
) -> Result<(), String> {
    let bytes = state_bytes(zone, state).await?;
    restore(state_reader(owner, state), &bytes, state.checksum, tablets).map_err(|error| error.to_string())
}

/// The blob's bytes, as they stand.
pub(super) async fn state_bytes(zone: &Zone, state: &NamedState) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    if zone.bytes_of(&state.ranges) < state.bytes {
        return Err("the manifest gives it too few extents".to_owned());
    }
    let count = usize::try_from(state.bytes).map_err(|error| error.to_string())?;
    zone.read(state.blob, &state.ranges, 0, count, &mut bytes).await.map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// For the blob that a manifest names.
pub(super) fn state_reader(owner: TableOwner, state: &NamedState) -> StateReader {
    let TableOwner { device, shard, generation, .. } = owner;
    StateReader::new(&StateIdentity { device, shard, generation, blob: state.blob }, state.bytes)
}
