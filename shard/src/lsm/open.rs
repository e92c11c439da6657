//! Start of a shard's tables: the manifest, the tables that it names, and the state of the tablets.

use super::Tables;
use super::capture::{forget, restore};
use super::extents::ExtentRange;
use super::keeper::{Keeper, RunOwner};
use super::names::{NamedState, Names};
use super::table::{Table, TablePlace};
use super::zone::{HeldExtents, Zone};
use crate::journal::{JournalStart, identity};
use crate::limits::Limits;
use crate::manifest::{self, Manifest, ManifestZones, Reading, Verdict, Wrote};
use crate::tablet::Tablet;
use ioengine::{Disk, DiskError, Io};
use layout::superblock::Superblock;
use layout::table_seal::Decompressor;
use layout::tablet_state::{StateIdentity, StateReader};
use layout::units::{BLOCK_BYTES, ShardIndex};
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
    /// No manifest was ever committed: the journal has no record then, or something is lost.
    pub(crate) is_fresh: bool,
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
    let zones = superblock.shard_zones()[usize::from(shard)];
    let geometry = superblock.tables;
    let attach = || io.attach_disk(&disk.share()).map_err(OpenError::Attach);
    let slot = |copy, half| zones.manifest_half(geometry, copy, half);
    let copies = [[slot(0, 0), slot(0, 1)], [slot(1, 0), slot(1, 1)]];
    let owner =
        RunOwner { device: superblock.device, shard: ShardIndex(shard), generation: superblock.generation };
    let zones_of_manifest =
        ManifestZones { identity: identity(owner.device, owner.shard, owner.generation), copies };
    let buffer_bytes = record_bytes(copies[0][0].bytes);
    let buffer = || io.buffer(buffer_bytes).ok_or(OpenError::Arena { bytes: buffer_bytes as u64 });
    let buffers = [buffer()?, buffer()?];
    let manifest::Opened { manifest, reading } =
        Manifest::open(io, disk, zones_of_manifest, superblock.incarnation, buffers).await?;
    let (extents, count) = zones.extents(geometry);
    let extent_bytes = u64::from(geometry.extent_bytes);
    let zone = Rc::new(Zone::new(io.clone(), attach()?, extents.0, extent_bytes, count));
    let mut tables = Tables::new(limits.block_cache_bytes, limits.block_slot_bytes());
    let is_fresh = reading.verdict == Verdict::Fresh;
    let read = manifest.filter(|_| !matches!(reading.verdict, Verdict::Damaged { .. }));
    let named = read.and_then(|manifest| Some((manifest, read_names(&reading, &zone, journal_bytes)?)));
    let Some((mut manifest, mut names)) = named else {
        ioengine::sometimes!("the manifest is lost");
        tracing::error!(shard, verdict = ?reading.verdict, "nobody can say which tables there are");
        forget(tablets);
        let keeper = Keeper::new(zone, owner, Names::new(), None, 0);
        return Ok(Opened { keeper, tables, start: JournalStart::FIRST, is_lost: true, is_fresh });
    };
    let mut unpack = Decompressor::new();
    // Oldest first: each comes to the front of its tablet's list.
    let mut in_order: Vec<_> = names.tables.values().collect();
    in_order.sort_by_key(|table| table.facts.log_index_max);
    for named in in_order {
        let id = named.facts.table;
        let place = TablePlace {
            id,
            level: named.facts.level,
            identity: owner.identity(named.facts.tablet, id),
            extents: HeldExtents::named(Rc::clone(&zone), named.ranges.clone()),
            bytes: named.facts.bytes,
        };
        let (table, opened) = Table::open(place, &mut unpack).await;
        if let Err(error) = opened {
            tracing::error!(shard, %error, "a table cannot be opened: what it may hold answers `Corrupt`");
        }
        tables.add(named.facts.tablet, Rc::new(table));
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
    Ok(Opened { keeper, tables, start, is_lost, is_fresh })
}

/// Bytes of the largest record of a manifest whose halves have so many.
fn record_bytes(half_bytes: u64) -> usize {
    let most = usize::try_from(half_bytes / 2).unwrap_or(usize::MAX).min(RECORD_BYTES_MAX);
    1 << most.ilog2()
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

/// The manifest, if it makes sense; its extents are claimed then.
fn read_names(reading: &Reading, zone: &Zone, journal_bytes: u64) -> Option<Names> {
    let mut names = Names::new();
    for body in reading.snapshot.iter().chain(&reading.edits) {
        if let Err(corrupt) = names.read(body) {
            tracing::error!(%corrupt, "the manifest checks and cannot be understood");
            return None;
        }
    }
    if names.start.at >= journal_bytes || !names.start.at.is_multiple_of(BLOCK_BYTES as u64) {
        tracing::error!(at = names.start.at, "the manifest begins the journal outside of it");
        return None;
    }
    let of_tables = names.tables.values().flat_map(|table| &table.ranges);
    let of_state = names.state.iter().flat_map(|state| &state.ranges);
    let mut extents = zone.extents().borrow_mut();
    for range in of_tables.chain(of_state) {
        if let Err(taken) = extents.claim(ExtentRange { first: range.first, count: range.count }) {
            tracing::error!(%taken, "the manifest names extents twice");
            return None;
        }
    }
    drop(extents);
    Some(names)
}

async fn read_state(
    zone: &Zone,
    owner: RunOwner,
    state: &NamedState,
    tablets: &mut [Option<Tablet>],
) -> Result<(), String> {
    let mut bytes = Vec::new();
    if zone.bytes_of(&state.ranges) < state.bytes {
        return Err("the manifest gives it too few extents".to_owned());
    }
    let count = usize::try_from(state.bytes).map_err(|error| error.to_string())?;
    zone.read(state.blob, &state.ranges, 0, count, &mut bytes).await.map_err(|error| error.to_string())?;
    let RunOwner { device, shard, generation } = owner;
    let reader =
        StateReader::new(&StateIdentity { device, shard, generation, blob: state.blob }, state.bytes);
    restore(reader, &bytes, state.checksum, tablets).map_err(|error| error.to_string())
}
