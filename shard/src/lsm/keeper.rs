//! What the tasks that change a shard's tables share: the extents, the manifest, and what waits for what.
//!
//! Owns the order of commits: one at a time is on its way. Must never give a table a number that was used before on this
//! device.

use super::agree::Agreeing;
use super::build::BuildError;
use super::names::{NamedState, Names};
use super::pace::Pace;
use super::room::{Purpose, Room};
use super::window::Window;
use super::work::Work;
use super::zone::Zone;
use crate::core::Shard;
use crate::journal::{JournalStart, record_bytes};
use crate::limits::Limits;
use crate::manifest::{Manifest, Wrote};
use ioengine::sync::Notify;
use ioengine::{Disk, DiskError};
use layout::manifest::{AddTable, Edit, EditWriter, TableKind};
use layout::seal_operation::SealOptions;
use layout::table::TableOptions;
use layout::table_seal::TableIdentity;
use layout::units::{ShardIndex, TableId, TabletIndex, Uuid};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// No block of a sealed table crosses a multiple of this. Where extents are smaller, one in some needs two reads (decision
/// 0024).
const SEALED_EXTENT_BYTES: u32 = 256 << 10;
/// Bytes of the manifest for a table in few pieces.
const TABLE_EDIT_BYTES: u64 = 200;

/// What identifies the tables of a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableOwner {
    pub(crate) cluster: Uuid,
    pub(crate) device: Uuid,
    pub(crate) shard: ShardIndex,
    pub(crate) generation: u32,
}

impl TableOwner {
    /// Identity of the blocks of a run.
    pub(crate) fn run(&self, tablet: TabletIndex, table: TableId) -> TableIdentity {
        let TableOwner { device, shard, generation, .. } = *self;
        TableIdentity::Run { device, shard, generation, tablet, table }
    }

    /// Identity of the blocks of a sealed table: nothing in it is of this device.
    pub(crate) fn sealed(&self, tablet: TabletIndex, window: Window) -> TableIdentity {
        TableIdentity::Sealed {
            cluster: self.cluster,
            tablet,
            window_from: window.from,
            window_to: window.to,
            window_generation: window.generation,
        }
    }

    /// Identity of what a sunk table consists of: the same at every replica, too.
    pub(crate) fn sunk(&self, tablet: TabletIndex, window: Window) -> TableIdentity {
        TableIdentity::Sunk {
            cluster: self.cluster,
            tablet,
            window_from: window.from,
            window_to: window.to,
            window_generation: window.generation,
        }
    }

    /// Identity of the blocks of a table that a manifest names.
    pub(crate) fn named(&self, facts: &AddTable<'_>) -> TableIdentity {
        let AddTable { tablet, table, window_from: from, window_to: to, .. } = *facts;
        let window = || Window { from, to, generation: facts.window_generation };
        match facts.kind {
            TableKind::Run => self.run(tablet, table),
            TableKind::Sealed => self.sealed(tablet, window()),
            TableKind::Sunk => self.sunk(tablet, window()),
        }
    }
}

/// Changes the tables of a shard.
pub(crate) struct Keeper {
    pub(crate) zone: Rc<Zone>,
    pub(crate) owner: TableOwner,
    /// What the manifest says, as last made durable.
    names: RefCell<Names>,
    /// Taken while a commit is on its way; never there when the manifest was lost.
    manifest: RefCell<Option<Manifest>>,
    given_back: Notify,
    next_table: Cell<u64>,
    /// Where replay begins once the frozen memtable is flushed: set while one waits.
    pub(crate) frozen_at: Cell<Option<JournalStart>>,
    /// A memtable was frozen.
    pub(crate) froze: Notify,
    /// There may be something to merge or to seal, or it is done.
    pub(crate) merge_due: Notify,
    /// What stands in the journal or in the blob of the state has decayed, or space is short and memory holds what may free
    /// some: flush what memory has, with the next record.
    pub(crate) flush_wanted: Cell<bool>,
    /// Bytes of a half of the manifest, if there is one.
    manifest_half_bytes: Option<u64>,
    /// What merges and seals are at.
    pub(crate) work: Work,
    /// Of a group: seals that the log has not ended yet.
    pub(crate) agreeing: Agreeing,
    /// How fast they go.
    pub(crate) pace: Pace,
    /// A flush found no space and it is not ample yet: deletes and ticks go on, writes only into what memory has left.
    short: Cell<bool>,
    /// A flush has taken of the reserve since: no writes at all.
    spent: Cell<bool>,
    /// Bytes that the manifest has left, as of the last commit.
    manifest_room: Cell<Room>,
}

impl Keeper {
    pub(crate) fn new(
        zone: Rc<Zone>,
        owner: TableOwner,
        names: Names,
        manifest: Option<Manifest>,
        next_table: u64,
    ) -> Keeper {
        let manifest_room = manifest.as_ref().map(|manifest| room(manifest, &names));
        Keeper {
            work: Work::new(),
            agreeing: Agreeing::default(),
            pace: Pace::new(zone.now()),
            short: Cell::new(false),
            spent: Cell::new(false),
            manifest_room: Cell::new(manifest_room.unwrap_or(Room::of_manifest(0, 0))),
            zone,
            owner,
            names: RefCell::new(names),
            manifest_half_bytes: manifest.as_ref().map(|manifest| manifest.bytes().0),
            manifest: RefCell::new(manifest),
            given_back: Notify::new(),
            next_table: Cell::new(next_table),
            frozen_at: Cell::new(None),
            froze: Notify::new(),
            merge_due: Notify::new(),
            flush_wanted: Cell::new(false),
        }
    }

    /// A number for a new table, or for a blob.
    pub(crate) fn next_table(&self) -> TableId {
        let id = self.next_table.get();
        self.next_table.set(id + 1);
        TableId(id)
    }

    /// How a run is made.
    pub(crate) fn options(&self, limits: &Limits) -> TableOptions<'static> {
        TableOptions {
            block_bytes: limits.block_bytes,
            level: (limits.run_level > 0).then_some(limits.run_level),
            extent_bytes: u32::try_from(self.zone.extent_bytes()).expect("the superblock says it in 32 bits"),
            dictionary: None,
            dictionary_bytes_max: 0,
        }
    }

    /// How a sealed table is made: the same on every device, whatever its extents.
    pub(crate) fn sealed_options(limits: &Limits) -> TableOptions<'static> {
        TableOptions {
            block_bytes: limits.sealed_block_bytes,
            level: (limits.sealed_level > 0).then_some(limits.sealed_level),
            extent_bytes: SEALED_EXTENT_BYTES,
            dictionary: None,
            dictionary_bytes_max: u32::try_from(limits.sealed_dictionary_bytes)
                .expect("at most 512 KiB, by the check of the limits"),
        }
    }

    /// The same as the log says it.
    pub(crate) fn logged_options(options: &SealOptions) -> TableOptions<'static> {
        TableOptions {
            block_bytes: options.block_bytes,
            level: (options.level > 0).then_some(i32::from(options.level)),
            extent_bytes: SEALED_EXTENT_BYTES,
            dictionary: None,
            dictionary_bytes_max: options.dictionary_bytes,
        }
    }

    /// Make edits durable in both copies of the manifest, all or none.
    ///
    /// # Errors
    /// [`BuildError::Space`] when the manifest would be larger than this purpose may make it; [`BuildError::Disk`].
    pub(crate) async fn commit(&self, edits: &[Edit<'_>], purpose: Purpose) -> Result<(), BuildError> {
        let mut manifest = self.take_manifest().await;
        let mut names = self.names.borrow().clone();
        let mut body = EditWriter::new();
        for edit in edits {
            names.apply(edit).expect("the tables' tasks make edits that follow from what is there");
            body.append(edit);
        }
        // What does not fit a snapshot could not be read again by the next start; nor what does not fit a record: a
        // table in too many pieces.
        let body_bytes_max = manifest.body_bytes_max();
        let (before, after) = (self.manifest_room.get(), room(&manifest, &names));
        let grown = before.free.saturating_sub(after.free);
        let fits = edits.iter().all(|edit| edit.encoded_bytes() <= body_bytes_max)
            && names.snapshot_bytes(body_bytes_max) <= manifest.snapshot_bytes_max()
            && (grown == 0 || before.holds(grown, purpose));
        if !fits {
            ioengine::sometimes!("the manifest is full");
            self.give_manifest(manifest);
            return Err(BuildError::Space);
        }
        let wrote = write(self.zone.disk(), &mut manifest, body.bytes(), &names).await;
        if let Err(error) = wrote {
            // Half of it may be there.
            self.zone.close();
            return Err(BuildError::Disk(error));
        }
        self.give_manifest(manifest);
        if let Ok(Wrote::Full) = wrote {
            return Err(BuildError::Space);
        }
        *self.names.borrow_mut() = names;
        self.manifest_room.set(after);
        Ok(())
    }

    /// Wait until nobody writes the manifest, and take it.
    pub(super) async fn take_manifest(&self) -> Manifest {
        loop {
            let given_back = self.given_back.notified();
            let taken = self.manifest.borrow_mut().take();
            match taken {
                Some(manifest) => return manifest,
                None => given_back.await,
            }
        }
    }

    /// Give it back, for the next who waits.
    pub(super) fn give_manifest(&self, manifest: Manifest) {
        *self.manifest.borrow_mut() = Some(manifest);
        self.given_back.notify();
    }

    /// Write all that the manifest says anew, into the halves that are not in force, and put them in force.
    pub(super) async fn write_anew(&self, manifest: &mut Manifest) -> Result<(), DiskError> {
        let bodies = self.names.borrow().bodies(manifest.body_bytes_max());
        match manifest.rewrite(self.zone.disk(), bodies).await {
            Ok(Wrote::Durable) => Ok(()),
            Ok(Wrote::Full) => unreachable!("a commit sees to it that a snapshot fits"),
            Err(error) => {
                self.zone.close();
                Err(error)
            }
        }
    }

    /// Bytes of a half of the manifest; `None` when it was lost.
    pub(crate) fn manifest_half_bytes(&self) -> Option<u64> {
        self.manifest_half_bytes
    }

    /// Something was freed: is space ample again? Not while a flush waits for some, however much it wants.
    pub(crate) fn look_at_room(&self) {
        let waits = self.frozen_at.get().is_some();
        if self.short.get() && !waits && self.rooms().iter().all(Room::is_ample) {
            self.short.set(false);
            self.spent.set(false);
        }
    }

    /// A flush found no space.
    pub(crate) fn set_short(&self) {
        self.short.set(true);
    }

    /// A flush has taken of the reserve: what it still has is for deletes.
    pub(crate) fn set_spent(&self) {
        self.spent.set(true);
    }

    /// No writes until space is ample. Failing history otherwise: memory is emptied into the reserve and filled again by
    /// writes, until the reserve is gone and no delete comes to the device any more.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent.get()
    }

    /// Space is short: what frees some comes first.
    pub(crate) fn is_short(&self) -> bool {
        self.short.get()
    }

    /// Is there room for so many tables more, and then for a run of each tablet? What flushes need is not sealed away.
    pub(crate) fn has_room_for_tables(&self, count: usize, tablet_count: usize) -> bool {
        let (more, runs) = (count as u64, tablet_count as u64);
        let [extents, manifest] = self.rooms();
        let tables = more + runs;
        more == 0
            || (!self.is_short()
                && extents.holds(tables, Purpose::Flush)
                && manifest.holds(tables * TABLE_EDIT_BYTES, Purpose::Flush))
    }

    /// Is there room in the manifest for an edit of so many bytes, and then for a run of each tablet? Failing history otherwise: a
    /// copy waits in a flush for room that no merge gives.
    pub(crate) fn has_room_for_edit(&self, bytes: u64, tablet_count: usize) -> bool {
        let runs = tablet_count as u64 * TABLE_EDIT_BYTES;
        !self.is_short() && self.manifest_room.get().holds(bytes + runs, Purpose::Flush)
    }

    /// Room for extents, and in the manifest.
    fn rooms(&self) -> [Room; 2] {
        [self.zone.extents().borrow().room(), self.manifest_room.get()]
    }

    /// The blob that the manifest names.
    pub(crate) fn state(&self) -> Option<NamedState> {
        self.names.borrow().state.clone()
    }

    /// The device has failed under the tables: nothing is written any more. What is there can be read.
    pub(crate) fn end(&self, shard: &Shard, error: &DiskError) {
        tracing::error!(%error, "tables are written no more until restart");
        shard.counters.device_ended.set(1);
        shard.failed.set(true);
        shard.staged.notify();
    }
}

/// What a manifest has left. Finer than the blocks of which its records are made.
fn room(manifest: &Manifest, names: &Names) -> Room {
    let body_bytes_max = manifest.body_bytes_max();
    let body_count = manifest.snapshot_bytes_max() / record_bytes(body_bytes_max);
    Room::of_manifest(body_count * body_bytes_max as u64, names.encoded_bytes())
}

/// Append an edit; when the half is full, write the manifest anew.
async fn write(disk: &Disk, manifest: &mut Manifest, body: &[u8], names: &Names) -> Result<Wrote, DiskError> {
    if body.len() <= manifest.body_bytes_max() && manifest.append(disk, body).await? == Wrote::Durable {
        return Ok(Wrote::Durable);
    }
    ioengine::sometimes!("the manifest is written anew");
    manifest.rewrite(disk, names.bodies(manifest.body_bytes_max())).await
}
