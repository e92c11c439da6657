//! Making a disk ours: zeroed journals and manifests, then four superblock copies. And reading what a disk says it is.
//!
//! Must never leave a disk that looks formatted and is not: the superblock goes last, and the copies of an earlier
//! format are destroyed first. Failing history: a format that wrote its superblock before it zeroed the journals, cut
//! in between, would open with another life's records in its ring (their generation tells them apart; this is the
//! second lock).

use ioengine::{Buf, Disk, DiskError, Io};
use layout::superblock::{
    COPY_COUNT, ChooseError, Copies, Role, SUPERBLOCK_BYTES, Superblock, UpdatePlan, choose, copy_offset,
    incarnation_next, sequence_next,
};
use layout::superblock_peers::{Lives, Origin, PeerDisks};
use layout::superblock_reads::StoredReads;
use layout::units::{DiskOffset, Incarnation, SHARD_COUNT_MAX, Uuid};
use layout::zone::{HEADER_AREA_BYTES, PlanError, Range, ShardZones, TableGeometry, plan};
use net::peer::Introduction;

/// Why a disk could not be formatted or opened.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The device said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The zones do not fit.
    #[error("disk {name}: {source}")]
    Plan {
        /// Disk.
        name: String,
        /// What does not fit.
        source: PlanError,
    },
    /// Its superblocks cannot be believed.
    #[error("disk {name}: {source}")]
    Superblock {
        /// Disk.
        name: String,
        /// What the copies say.
        source: ChooseError,
    },
    /// It is formatted already.
    #[error(
        "disk {name} is already formatted (cluster {cluster}, node {node}): start with it, or wipe it if its data may go"
    )]
    Formatted {
        /// Disk.
        name: String,
        /// Cluster it belongs to.
        cluster: Uuid,
        /// Node it belongs to.
        node: u32,
    },
    /// Nodes are numbered from 1.
    #[error("disk {name}: node 0 does not exist: nodes are numbered from 1")]
    Node {
        /// Disk.
        name: String,
    },
    /// Starts are numbered with 32 bits.
    #[error("disk {name}: its 2^32 starts are used up: format it anew")]
    StartsUsedUp {
        /// Disk.
        name: String,
    },
    /// Too small for even its superblocks.
    #[error(
        "disk {name} has {bytes} bytes, fewer than four superblock copies take ({SUPERBLOCKS_BYTES}): name another one"
    )]
    TooSmall {
        /// Disk.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// Part of it is missing.
    #[error(
        "disk {name} has {bytes} bytes and was formatted with {formatted}: the file or partition was cut; bring back what was cut off, \
         nothing is lost then"
    )]
    Cut {
        /// Disk.
        name: String,
        /// Its size.
        bytes: u64,
        /// Its size when it was formatted.
        formatted: u64,
    },
    /// No buffer.
    #[error("the arena has no room for {bytes} bytes: raise arena_bytes")]
    Arena {
        /// Bytes asked for.
        bytes: usize,
    },
}

/// What to make of a disk.
#[derive(Clone, Copy, Debug)]
pub struct FormatPlan {
    /// Cluster it will belong to.
    pub cluster: Uuid,
    /// Node it will belong to, from 1.
    pub node: u32,
    /// Shards to cut it for, 1..=64; fixed from then on.
    pub shard_count: u16,
    /// Bytes of journal per shard; `None` takes a share of the disk.
    pub journal_bytes: Option<u64>,
    /// Bytes of a journal segment.
    pub segment_bytes: u64,
    /// It takes the place of another disk of this node, which has voted: it is no voter before the others have let it return.
    pub recovers: bool,
    /// Format it even if it is formatted already; what it held is gone.
    pub anew: bool,
}

/// Bytes of the four copies together.
const SUPERBLOCKS_BYTES: u64 = (COPY_COUNT * SUPERBLOCK_BYTES) as u64;
/// Bytes zeroed per write.
const ZERO_BYTES: usize = 1 << 20;

fn buffer(io: &Io, bytes: usize) -> Result<Buf, FormatError> {
    io.buffer(bytes).ok_or(FormatError::Arena { bytes })
}

/// What stands at the four places of the superblock. Flushes first: a killed process may have left its last update in
/// the device's cache.
///
/// # Errors
/// [`FormatError::Disk`], [`FormatError::Arena`], [`FormatError::TooSmall`]. A copy that cannot be read by the device counts as
/// damaged.
pub async fn read_copies(io: &Io, disk: &Disk) -> Result<Box<Copies>, FormatError> {
    let bytes = disk.geometry().bytes;
    if bytes < SUPERBLOCKS_BYTES {
        return Err(FormatError::TooSmall { name: disk.name().to_owned(), bytes });
    }
    let mut block = buffer(io, SUPERBLOCK_BYTES)?;
    let mut copies: Vec<Result<Superblock, layout::Corrupt>> = Vec::with_capacity(COPY_COUNT);
    for index in 0..COPY_COUNT {
        let offset = copy_offset(index);
        let (result, back) = disk.read(block, offset.0, SUPERBLOCK_BYTES).await;
        block = back;
        if let Err(error) = result {
            tracing::warn!(%error, copy = index, "a superblock copy cannot be read");
            block[..SUPERBLOCK_BYTES].fill(0);
        }
        let bytes: &[u8; SUPERBLOCK_BYTES] = block[..SUPERBLOCK_BYTES].try_into().expect("one block");
        copies.push(Superblock::decode(bytes, offset));
    }
    // Four of them would fill the future of whoever waits for this.
    Ok(copies.into_boxed_slice().try_into().expect("four copies"))
}

/// Write one copy, not flushed. `block` comes back.
async fn write_copy(
    disk: &Disk,
    superblock: &Superblock,
    index: usize,
    mut block: Buf,
) -> Result<Buf, DiskError> {
    let bytes: &mut [u8; SUPERBLOCK_BYTES] = (&mut block[..SUPERBLOCK_BYTES]).try_into().expect("one block");
    superblock.encode(index, bytes);
    let (result, block) = disk.write(block, copy_offset(index).0, SUPERBLOCK_BYTES).await;
    result.map(|()| block)
}

async fn write_copies(
    io: &Io,
    disk: &Disk,
    current: &Superblock,
    superblock: &Superblock,
    plan: UpdatePlan,
) -> Result<(), FormatError> {
    let mut block = buffer(io, SUPERBLOCK_BYTES)?;
    if let Some(index) = plan.twin {
        block = write_copy(disk, current, index, block).await?;
        disk.flush().await?;
    }
    for index in plan.order {
        block = write_copy(disk, superblock, index, block).await?;
        disk.flush().await?;
    }
    Ok(())
}

/// Format `disk`.
///
/// # Errors
/// [`FormatError`]; the disk is then not formatted, or formatted as before when `anew` was not set.
pub async fn format(io: &Io, disk: &Disk, wanted: &FormatPlan) -> Result<Superblock, FormatError> {
    let name = disk.name().to_owned();
    if wanted.node == 0 {
        return Err(FormatError::Node { name });
    }
    let copies = read_copies(io, disk).await?;
    match choose(&copies) {
        _ if wanted.anew => {}
        Ok(before) => {
            return Err(FormatError::Formatted { name, cluster: before.cluster, node: before.node });
        }
        Err(source @ ChooseError::Version { .. }) => return Err(FormatError::Superblock { name, source }),
        Err(ChooseError::NoQuorum { .. } | ChooseError::Split { .. }) => {}
    }
    let geometry = disk.geometry();
    let zones = plan(
        geometry.bytes,
        geometry.block_bytes,
        wanted.shard_count,
        wanted.journal_bytes,
        wanted.segment_bytes,
    )
    .map_err(|source| FormatError::Plan { name, source })?;
    let highest = copies.iter().flatten();
    let generation = highest.map(|copy| copy.generation).max().unwrap_or(0) + 1;
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&io.random().to_le_bytes());
    uuid[8..].copy_from_slice(&io.random().to_le_bytes());
    let unborn = Origin::Recovered { birth: Incarnation(0) };
    let mut superblock = Superblock {
        sequence: sequence_next(&copies),
        device: Uuid(uuid),
        cluster: wanted.cluster,
        node: wanted.node,
        role: Role::Store,
        generation,
        incarnation: Incarnation(0),
        origin: if wanted.recovers { unborn } else { Origin::Founder },
        served: Incarnation(0),
        lives: Lives::default(),
        peers: PeerDisks::default(),
        reads: StoredReads::default(),
        block_bytes: geometry.block_bytes,
        device_bytes: geometry.bytes,
        segment_bytes: wanted.segment_bytes,
        tables: TableGeometry::default(),
        shard_count: wanted.shard_count,
        zones: [ShardZones::default(); SHARD_COUNT_MAX],
    };
    superblock.set_zones(&zones);
    // No copy of an earlier life may win over what comes.
    zero(io, disk, [Range { offset: DiskOffset(0), bytes: SUPERBLOCKS_BYTES }]).await?;
    zero(io, disk, zones.iter().map(|zone| zone.journal)).await?;
    let tables = superblock.tables;
    let halves = |zone: &ShardZones| {
        [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(copy, half)| zone.manifest_half(tables, copy, half))
    };
    zero(io, disk, zones.iter().flat_map(halves)).await?;
    write_copies(io, disk, &superblock, &superblock, UpdatePlan::ALL_EQUAL).await?;
    Ok(superblock)
}

/// Take our mark from a disk: its superblocks are gone and nobody finds what it held, though the bytes are still there.
///
/// # Errors
/// [`FormatError::Disk`], [`FormatError::Arena`]; the disk may then have lost some of its copies.
pub async fn wipe(io: &Io, disk: &Disk) -> Result<(), FormatError> {
    let bytes = HEADER_AREA_BYTES.min(disk.geometry().bytes);
    zero(io, disk, [Range { offset: DiskOffset(0), bytes }]).await
}

/// Zero parts of a disk and flush: where the frames of a journal or of a manifest will stand, zeros mean that nothing was
/// ever written.
///
/// # Errors
/// [`FormatError::Disk`], [`FormatError::Arena`].
pub async fn zero(io: &Io, disk: &Disk, ranges: impl IntoIterator<Item = Range>) -> Result<(), FormatError> {
    let mut block = buffer(io, ZERO_BYTES)?;
    block.fill(0);
    for range in ranges {
        let mut at = 0;
        while at < range.bytes {
            let count = (block.len() as u64).min(range.bytes - at) as usize;
            let (result, back) = disk.write(block, range.offset.plus(at).0, count).await;
            block = back;
            result?;
            at += count as u64;
        }
    }
    disk.flush().await?;
    Ok(())
}

/// The superblock in force, without changing anything.
///
/// # Errors
/// [`FormatError::Superblock`] when no state counts.
pub async fn read(io: &Io, disk: &Disk) -> Result<Superblock, FormatError> {
    let copies = read_copies(io, disk).await?;
    choose(&copies).map_err(|source| FormatError::Superblock { name: disk.name().to_owned(), source })
}

/// Write those copies of the superblock again that do not hold the state in force. How many there were. For the running
/// node that owns the disk: nobody else writes them meanwhile.
///
/// # Errors
/// [`FormatError::Superblock`] when no state counts: then nothing is written. [`FormatError::Disk`].
pub async fn mend(io: &Io, disk: &Disk) -> Result<u64, FormatError> {
    let copies = read_copies(io, disk).await?;
    let name = || disk.name().to_owned();
    let current = choose(&copies).map_err(|source| FormatError::Superblock { name: name(), source })?;
    let decayed = (0..COPY_COUNT).filter(|&index| copies[index].as_ref() != Ok(&current));
    let mut block = buffer(io, SUPERBLOCK_BYTES)?;
    let mut count = 0;
    for index in decayed {
        block = write_copy(disk, &current, index, block).await?;
        disk.flush().await?;
        count += 1;
    }
    Ok(count)
}

/// Change the superblock of the running node that owns the disk; what it is then. Nobody else writes it meanwhile.
///
/// # Errors
/// [`FormatError::Superblock`] when no state counts: then nothing is written. [`FormatError::Disk`]: it says what it
/// said before, or what it was to say.
pub async fn update(
    io: &Io,
    disk: &Disk,
    change: impl FnOnce(&mut Superblock),
) -> Result<Superblock, FormatError> {
    let copies = read_copies(io, disk).await?;
    let name = || disk.name().to_owned();
    let current = choose(&copies).map_err(|source| FormatError::Superblock { name: name(), source })?;
    let plan = UpdatePlan::new(&copies, &current);
    let mut changed = Superblock { sequence: sequence_next(&copies), ..current.clone() };
    change(&mut changed);
    write_copies(io, disk, &current, &changed, plan).await?;
    Ok(changed)
}

/// What a node says of its disk to the others.
#[must_use]
pub fn introduction(superblock: &Superblock) -> Introduction {
    let Superblock { incarnation, device, origin, lives, .. } = *superblock;
    Introduction { incarnation, device, origin, lives }
}

/// A disk that is about to be started with: what it says, and how to change that.
#[derive(Debug)]
pub struct Opening {
    /// The superblock in force.
    pub current: Superblock,
    plan: UpdatePlan,
    sequence_next: u64,
    incarnation_next: Incarnation,
}

/// Look at a disk for a start; nothing is written.
///
/// # Errors
/// [`FormatError`].
pub async fn look(io: &Io, disk: &Disk) -> Result<Opening, FormatError> {
    let name = || disk.name().to_owned();
    disk.flush().await?;
    let copies = read_copies(io, disk).await?;
    let current = choose(&copies).map_err(|source| FormatError::Superblock { name: name(), source })?;
    let bytes = disk.geometry().bytes;
    if bytes < current.device_bytes {
        return Err(FormatError::Cut { name: name(), bytes, formatted: current.device_bytes });
    }
    let incarnation_next =
        incarnation_next(&copies, &current).ok_or_else(|| FormatError::StartsUsedUp { name: name() })?;
    let (plan, sequence_next) = (UpdatePlan::new(&copies, &current), sequence_next(&copies));
    Ok(Opening { current, plan, sequence_next, incarnation_next })
}

impl Opening {
    /// Take a new incarnation and flush it, before anything else is done with the disk. Returns the superblock now in
    /// force. `birth` is the incarnation of a disk that is started for the first time in another one's place, `life` a
    /// random name of this start, 0 for a node without peers.
    ///
    /// # Errors
    /// [`FormatError::Disk`], [`FormatError::Arena`].
    pub async fn begin(
        &self,
        io: &Io,
        disk: &Disk,
        birth: Option<Incarnation>,
        life: u64,
    ) -> Result<Superblock, FormatError> {
        let incarnation = birth.map_or(self.incarnation_next, |birth| birth.max(self.incarnation_next));
        let mut started = Superblock { sequence: self.sequence_next, incarnation, ..self.current.clone() };
        started.lives.begin(incarnation, life);
        if birth.is_some() {
            started.origin = Origin::Recovered { birth: incarnation };
        }
        write_copies(io, disk, &self.current, &started, self.plan).await?;
        Ok(started)
    }
}
