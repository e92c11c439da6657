//! A disk that took another's place: which of its files are still to be filled, and what it says once one is.
//!
//! Must never say that a file is there before all that counts in it is durable. Invariant: a file that is due has no entry on the disk that anybody
//! believes; no place is given in it, nothing in it is freed or read, and only the rebuild writes to it. Its entry is written once, at its end: that is
//! what a rebuild goes on from.

use super::ColdError;
use super::agreed::Agreed;
use super::core::Spindle;
use super::disk::ColdDisk;
use super::errand::Deed;
use super::open;
use super::table::FileFacts;
use ioengine::Instant;
use layout::cold_disk::ColdState;

/// Where a disk stands that took another's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filling {
    /// It holds all that it should.
    Ended,
    /// What the others hold is not known yet.
    Unheard,
    /// Files that are due are being filled.
    Heard,
}

/// What the rebuild says of the files that are due.
pub(super) struct Heard {
    /// A file, and what the others hold of it.
    pub(super) files: Vec<(u32, Agreed)>,
    /// These are all that there is: the others hold nothing of the rest.
    pub(super) is_all: bool,
}

impl ColdDisk {
    /// Which files of a disk that is being filled are due, by their entries: `walked` are those whose entry is not believed.
    pub(super) fn due_at_start(files: &mut [FileFacts], walked: &[u32]) -> Vec<u32> {
        let mut due = Vec::new();
        for (file, facts) in (0u32..).zip(files) {
            if facts.generation == 0 || walked.contains(&file) {
                *facts = FileFacts { sequence: facts.sequence, ..FileFacts::default() };
                due.push(file);
            }
        }
        due
    }

    /// What the others hold of files that are due.
    pub(super) fn hear(&mut self, heard: &Heard) {
        for (file, agreed) in &heard.files {
            if self.table().is_due(*file) {
                let sequence = self.table().file(*file).map_or(0, |facts| facts.sequence);
                self.table_mut().set(*file, agreed.facts(sequence));
            }
        }
        if heard.is_all {
            for file in 0..self.superblock().geometry.file_count {
                let is_held = heard.files.iter().any(|(held, _)| *held == file);
                if self.table().is_due(file) && !is_held {
                    self.table_mut().set_due(file, false);
                }
            }
            self.set_filling(Filling::Heard);
        }
    }

    /// All that counts in a file is there: its entry says so, and it is as any other from now on.
    ///
    /// # Errors
    /// [`ColdError`]: it is due as before.
    pub(super) async fn filled(&mut self, file: u32, agreed: &Agreed) -> Result<(), ColdError> {
        let mut state = self.state(file).await?;
        agreed.write_to(&mut state);
        self.store(file, state).await?;
        self.table_mut().set_due(file, false);
        Ok(())
    }

    /// All files are there: the superblock says so.
    ///
    /// # Errors
    /// [`ColdError`]: it says what it said before, or that all are there.
    pub(super) async fn end_fill(&mut self) -> Result<(), ColdError> {
        let reader = self.reader();
        let (io, disk, superblock) = reader.parts();
        if superblock.state == ColdState::Filling {
            let whole = open::fill_ended_on(io, disk, superblock).await?;
            self.set_superblock(whole);
        }
        self.set_filling(Filling::Ended);
        Ok(())
    }
}

impl Spindle {
    /// Is this file still to be filled?
    pub(super) fn is_due(&self, file: u32) -> bool {
        self.due.borrow().get(file as usize) == Some(&true)
    }

    /// Is the disk still being filled?
    pub(super) fn is_filling(&self) -> bool {
        self.counters.rebuilding.get() > 0
    }

    /// What readers know of the files follows what the one that writes knows.
    pub(super) fn follow(&self, disk: &ColdDisk) {
        *self.generations.borrow_mut() = disk.generations();
        // A probe writes what the disk says of itself now.
        self.watch.superblock.set(Some(*disk.superblock()));
        self.counters.rebuilding.set(u64::from(disk.filling() != Filling::Ended));
        let mut due = self.due.borrow_mut();
        for (file, due) in (0u32..).zip(due.iter_mut()) {
            *due = disk.table().is_due(file);
        }
        let lost = disk.lost_entries();
        self.counters.lost_entries.set(lost.len() as u64);
        let is_more = !lost.is_subset(&self.lost_entries.replace(lost.clone()));
        if is_more {
            self.entry_lost.notify();
        }
    }

    /// Tell the one that writes what the others hold of files that are due.
    pub(super) async fn hear(&self, now: Instant, heard: Heard) -> Result<(), ColdError> {
        self.have(now, Deed::Hear(heard)).await.map(|_| ())
    }

    /// Have the entry of a file written that is there now.
    pub(super) async fn filled(&self, now: Instant, file: u32, agreed: Agreed) -> Result<(), ColdError> {
        self.have(now, Deed::Filled { file, agreed }).await.map(|_| ())
    }

    /// Have the superblock say that all is there.
    pub(super) async fn end_fill(&self, now: Instant) -> Result<(), ColdError> {
        self.have(now, Deed::EndFill).await.map(|_| ())
    }
}
