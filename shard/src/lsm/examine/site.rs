//! Where the manifest, the tables and the state of a shard lie on its device, and what they are bound to: for who looks at
//! them with other means than the engine's. Must never judge.

use super::super::extents::place;
use super::super::names::Names;
use super::super::open::Ground;
use crate::manifest::{ManifestZones, Reading};
use layout::Corrupt;
use layout::manifest::{AddTable, ExtentRange};
use layout::superblock::Superblock;
use layout::table_seal::TableIdentity;
use layout::tablet_state::StateIdentity;
use layout::units::{DiskOffset, TableId};

/// The tables zone of one shard.
pub struct Site(Ground);

impl Site {
    /// As the superblock cuts it.
    #[must_use]
    pub fn new(superblock: &Superblock, shard: u16) -> Site {
        Site(Ground::new(superblock, shard))
    }

    /// The four halves of the manifest.
    #[must_use]
    pub fn manifest(&self) -> &ManifestZones {
        &self.0.manifest
    }

    /// What a manifest says, also of one that is damaged: an older state then.
    ///
    /// # Errors
    /// The first edit that cannot be understood.
    pub fn names(&self, reading: &Reading) -> Result<Names, Corrupt> {
        Names::of(reading)
    }

    /// Identity of the blocks of a table that a manifest names.
    #[must_use]
    pub fn table_identity(&self, facts: &AddTable<'_>) -> TableIdentity {
        self.0.owner.named(facts)
    }

    /// Identity of a state blob.
    #[must_use]
    pub fn state_identity(&self, blob: TableId) -> StateIdentity {
        let owner = self.0.owner;
        StateIdentity { device: owner.device, shard: owner.shard, generation: owner.generation, blob }
    }

    /// Bytes of an extent.
    #[must_use]
    pub fn extent_bytes(&self) -> u64 {
        self.0.extents.1
    }

    /// Device offset of byte `offset` of what lies in these extents, and how many bytes follow each other there.
    #[must_use]
    pub fn place(&self, ranges: &[ExtentRange], offset: u64) -> Option<(DiskOffset, u64)> {
        let (base, extent_bytes, _) = self.0.extents;
        let (at, together) = place(base, extent_bytes, ranges, offset)?;
        Some((DiskOffset(at), together))
    }

    /// The extent that a byte of the device lies in.
    #[must_use]
    pub fn extent_at(&self, at: DiskOffset) -> Option<u32> {
        let (base, extent_bytes, count) = self.0.extents;
        let number = at.0.checked_sub(base)? / extent_bytes;
        u32::try_from(number).ok().filter(|number| *number < count)
    }
}
