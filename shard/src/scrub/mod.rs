//! The scrub of a shard: everything in use on its device is read and checked once in a period, slowly, and what another
//! copy or memory still has is written again.
//!
//! | what | mended by |
//! |---|---|
//! | superblock copies (core 0) | the copies that agree |
//! | manifest | the other copy, or memory: both are written anew |
//! | blob of the tablets' state, journal | a flush: memory holds what they hold |
//! | tables | in a group a copy of the tablet; else nothing on this device: reported, and `Corrupt` to who asks |
//!
//! Must never hold up a request: it runs in the queue with the smallest share. Invariant: `scrub_covered_since_us` is the
//! beginning of a pass that has looked at everything that was in use then.

pub(crate) mod pace;

use crate::core::Shard;
use crate::format;
use crate::journal::{CheckStep, JournalCheck};
use crate::log;
use crate::lsm::scrub::{ManifestCheck, TableCheck, check_manifest, check_state, manifest_bytes};
use crate::lsm::{ReadError, Table};
use ioengine::DiskError;
use layout::superblock::{COPY_COUNT, SUPERBLOCK_BYTES};
use layout::units::{TableId, TabletIndex};
use net::outcome::Outcome;
use pace::Pace;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of the journal, or of the manifest, that are read at once.
const BUFFER_BYTES: usize = 64 << 10;
/// How often to look whether a flush has taken over what had decayed.
const MEND_POLL: Duration = Duration::from_millis(200);
/// How often to look before giving up until the next pass.
const MEND_POLLS: u32 = 300;

/// The device has ended: there is nothing more to look at until the next start.
struct Ended;

/// Look at everything, again and again, until the core or the device ends.
pub(crate) async fn run(shard: Rc<Shard>) {
    // A process that ends within each pass would never reach the last tables if each pass began with the same.
    let mut first = shard.io.random();
    loop {
        let began_us = shard.io.wall_us();
        let limits = &shard.limits;
        let pace = Pace::new(shard.io.now(), limits.scrub_period, limits.scrub_bytes_per_second);
        let mut pass = Pass { shard: &shard, pace };
        if pass.all(first).await.is_err() {
            return;
        }
        first = 0;
        let counters = &shard.counters;
        counters.scrub_passes.add(1);
        counters.scrub_covered_since_us.set(began_us);
        ioengine::sometimes!("a scrub has looked at everything");
        let until = pass.pace.ends();
        shard.io.sleep(until.since(shard.io.now())).await;
    }
}

/// One pass over everything.
struct Pass<'a> {
    shard: &'a Rc<Shard>,
    pace: Pace,
}

impl Pass<'_> {
    async fn all(&mut self, first: u64) -> Result<(), Ended> {
        let tables = self.tables();
        let journal_bytes = self.shard.journal.as_ref().map_or(0, |journal| journal.bytes().1);
        let state_bytes = self.shard.keeper.state().map_or(0, |state| state.bytes);
        let of_tables: u64 = tables.iter().map(|(.., bytes)| bytes).sum();
        let fixed = (COPY_COUNT * SUPERBLOCK_BYTES) as u64 + manifest_bytes(&self.shard.keeper);
        self.pace.begin(of_tables + journal_bytes + state_bytes + fixed);
        self.superblocks().await?;
        self.manifest().await?;
        self.state().await?;
        self.journal().await?;
        let count = tables.len().max(1);
        let skip = usize::try_from(first % count as u64).expect("below a count of tables");
        for (tablet, id, _) in tables.iter().cycle().skip(skip).take(tables.len()) {
            self.table(*tablet, *id).await?;
        }
        Ok(())
    }

    /// So many bytes were read: count them, and wait as long as they may take.
    async fn rest(&mut self, bytes: u64) {
        let shard = self.shard;
        shard.counters.scrub_bytes.add(bytes);
        self.pace.add(shard.io.now(), bytes);
        let (done, total) = self.pace.progress();
        shard.counters.scrub_pass_bytes.set(done);
        shard.counters.scrub_pass_total_bytes.set(total);
        shard.io.sleep(self.pace.due().since(shard.io.now())).await;
    }

    /// Every table there is now, with its bytes.
    fn tables(&self) -> Vec<(TabletIndex, TableId, u64)> {
        let state = self.shard.state.borrow();
        let of = |tablet: TabletIndex| {
            let all = state.tables.runs(tablet).iter().chain(state.tables.windows(tablet));
            all.map(move |table| (tablet, table.place.id, table.place.bytes)).collect::<Vec<_>>()
        };
        TabletIndex::all().flat_map(of).collect()
    }

    /// A table, if a merge has not replaced it by now.
    async fn table(&mut self, tablet: TabletIndex, id: TableId) -> Result<(), Ended> {
        let Some(table) = self.find(tablet, id) else { return Ok(()) };
        let mut check = TableCheck::new(table);
        while let Some(bytes) = check.step().await {
            self.rest(bytes).await;
        }
        let Some(error) = check.first else { return Ok(()) };
        if let ReadError::Disk(DiskError::Ended { .. }) = error {
            return Err(Ended);
        }
        self.found(matches!(error, ReadError::Disk(_)), check.wrong_count);
        let places = check.wrong_count;
        if log::cannot_read(self.shard, tablet, &error) == Outcome::NotCurrent {
            tracing::error!(
                tablet = tablet.get(), places, %error, "scrub: a table has decayed; the tablet is copied from a peer"
            );
        } else {
            tracing::error!(
                tablet = tablet.get(), places, %error,
                "scrub: a table has decayed; what stands there answers `Corrupt`: `thermocline fsck` names the records, and a \
                 copy of them has to be put again"
            );
        }
        Ok(())
    }

    fn find(&self, tablet: TabletIndex, id: TableId) -> Option<Rc<Table>> {
        let state = self.shard.state.borrow();
        let mut all = state.tables.runs(tablet).iter().chain(state.tables.windows(tablet));
        all.find(|table| table.place.id == id).cloned()
    }

    /// Something has decayed.
    fn found(&self, is_unreadable: bool, count: u64) {
        let counters = &self.shard.counters;
        if is_unreadable {
            ioengine::sometimes!("a scrub cannot read");
            counters.scrub_unreadable.add(count);
        } else {
            ioengine::sometimes!("a scrub finds decay");
            counters.scrub_corrupt.add(count);
        }
    }

    async fn superblocks(&mut self) -> Result<(), Ended> {
        if self.shard.index != 0 {
            return Ok(());
        }
        // Whoever writes them now, writes all of them.
        let Some(claim) = self.shard.facts.disks.claim() else { return Ok(()) };
        let disk = self.shard.keeper.zone.disk();
        let mended = format::mend(&self.shard.io, disk).await;
        drop(claim);
        match mended {
            Ok(0) => {}
            Ok(count) => {
                self.found(false, count);
                self.shard.counters.scrub_mended.add(1);
                tracing::error!(
                    copies = count,
                    "scrub: superblock copies had decayed, and were written again"
                );
            }
            Err(format::FormatError::Disk(DiskError::Ended { .. })) => return Err(Ended),
            Err(error) => {
                self.found(true, 1);
                tracing::error!(%error, "scrub: the superblock copies cannot be mended");
            }
        }
        self.rest((COPY_COUNT * SUPERBLOCK_BYTES) as u64).await;
        Ok(())
    }

    async fn manifest(&mut self) -> Result<(), Ended> {
        let keeper = &self.shard.keeper;
        let buffer = keeper.zone.buffer(BUFFER_BYTES).await;
        match check_manifest(keeper, buffer).await {
            Ok(ManifestCheck::Whole | ManifestCheck::None) => {}
            Ok(ManifestCheck::Mended(what)) => {
                self.found(false, 1);
                self.shard.counters.scrub_mended.add(1);
                tracing::error!(
                    what,
                    "scrub: a copy of the manifest had decayed, and both were written anew"
                );
            }
            Err(error) => {
                keeper.end(self.shard, &error);
                return Err(Ended);
            }
        }
        self.rest(manifest_bytes(&self.shard.keeper)).await;
        Ok(())
    }

    async fn state(&mut self) -> Result<(), Ended> {
        let keeper = &self.shard.keeper;
        let Some(state) = keeper.state() else { return Ok(()) };
        if let Err(what) = check_state(keeper, &state).await {
            self.found(false, 1);
            tracing::error!(what, "scrub: the state of the tablets has decayed: a flush writes it again");
            self.mend(|| keeper.state().is_some_and(|now| now.blob != state.blob)).await;
        }
        self.rest(state.bytes).await;
        Ok(())
    }

    async fn journal(&mut self) -> Result<(), Ended> {
        let shard = Rc::clone(self.shard);
        let Some(journal) = &shard.journal else { return Ok(()) };
        let mut check = JournalCheck::new(journal);
        loop {
            let buffer = shard.keeper.zone.buffer(BUFFER_BYTES).await;
            let (step, buffer) = check.step(journal, buffer).await;
            drop(buffer);
            let position = match step {
                CheckStep::Done => return Ok(()),
                CheckStep::Whole { bytes } => {
                    self.rest(bytes).await;
                    continue;
                }
                CheckStep::Unreadable { error: DiskError::Ended { .. }, .. } => return Err(Ended),
                CheckStep::Unreadable { error, position } => {
                    self.found(true, 1);
                    tracing::error!(%error, "scrub: the journal cannot be read: a flush takes over what it holds");
                    position
                }
                CheckStep::Damaged { at, position } => {
                    self.found(false, 1);
                    tracing::error!(%at, "scrub: the journal has decayed: a flush takes over what it holds");
                    position
                }
            };
            self.mend(|| journal.start() > position).await;
            return Ok(());
        }
    }

    /// Have memory flushed, until `is_mended`.
    async fn mend(&self, is_mended: impl Fn() -> bool) {
        let shard = self.shard;
        for _ in 0..MEND_POLLS {
            if is_mended() {
                ioengine::sometimes!("a scrub mends by a flush");
                shard.counters.scrub_mended.add(1);
                return;
            }
            if shard.journal.is_none() || shard.failed.get() {
                return;
            }
            shard.keeper.flush_wanted.set(true);
            // A mark comes, and behind it the freeze.
            shard.marked.set(false);
            shard.staged.notify();
            shard.io.sleep(MEND_POLL).await;
        }
    }
}
