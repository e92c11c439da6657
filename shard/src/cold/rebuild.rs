//! The task of a disk that took another's place: fills it from the two other machines of the group, file by file.
//!
//! Must never be in the way of a read, nor end before every file is there. Invariant: what it has done stands on the disk, file by file; who starts again
//! goes on behind it.
//!
//! | step | where |
//! |---|---|
//! | both others say which files there are, and what is reserved in them | `hear` |
//! | two files at a time: one is copied, while the other is flushed, looked at again and said to be there | `round`, `rebuild_file.rs` |
//! | those that could not be filled are tried again | `run` |
//! | all are there: the superblock says so | `fill.rs: end_fill` |

use super::ColdError;
use super::agreed::Agreed;
use super::core::{ColdCore, Spindle};
use super::fill::Heard;
use super::open::buffer;
use super::others::{FilesSaid, Named, NotGiven};
use super::rebuild_file::NotFilled;
use ioengine::sync::{Notify, join};
use ioengine::{Buf, Instant};
use net::cold::{ColdFilesOf, ColdReservedRun};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Between two rounds of what could not be done.
const AGAIN: Duration = Duration::from_millis(500);
/// While nobody gives anything.
const SILENT: Duration = Duration::from_secs(2);
/// Longest wait until the others are asked again what they hold.
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// The time over which the rate is taken.
const RATE_OVER: Duration = Duration::from_secs(5);

/// The filling of a disk.
pub(super) struct Rebuild {
    pub(super) core: Rc<ColdCore>,
    pub(super) spindle: Rc<Spindle>,
    /// What was reserved in files when the others were first asked: somebody may still write there, and count on this disk's old word.
    pub(super) undecided: RefCell<BTreeMap<u32, Vec<ColdReservedRun>>>,
    left: RefCell<VecDeque<u32>>,
    later: RefCell<VecDeque<u32>>,
    tries: RefCell<BTreeMap<u32, u32>>,
    is_copying: Cell<bool>,
    turn_ended: Notify,
    /// Since when the others do not answer.
    silent_since: RefCell<Vec<Option<Instant>>>,
    may_write_from: Cell<Instant>,
    rate_since: Cell<Instant>,
    rate_bytes: Cell<u64>,
}

/// Only one file is copied at a time.
pub(super) struct Turn<'a>(&'a Rebuild);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.is_copying.set(false);
        self.0.turn_ended.notify();
    }
}

/// Fill the disk, then end.
pub(super) async fn run(core: Rc<ColdCore>, spindle: Rc<Spindle>) {
    let now = core.io.now();
    let silent_since = RefCell::new(vec![None; core.others.count()]);
    let all = Rebuild {
        core,
        spindle,
        undecided: RefCell::default(),
        left: RefCell::default(),
        later: RefCell::default(),
        tries: RefCell::default(),
        is_copying: Cell::new(false),
        turn_ended: Notify::new(),
        silent_since,
        may_write_from: Cell::new(now),
        rate_since: Cell::new(now),
        rate_bytes: Cell::new(0),
    };
    let (io, disk) = (all.core.io.clone(), all.spindle.superblock.disk);
    tracing::info!(disk, "a disk takes the place of another: it is filled from the other machines");
    let mut wait = AGAIN;
    while let Err(error) = all.hear().await {
        tracing::warn!(disk, %error, "a new disk is not filled yet: it is not known what the other machines hold");
        io.sleep(wait).await;
        wait = (wait * 2).min(AGAIN_MAX);
    }
    loop {
        Box::pin(join(all.round(), all.round())).await;
        let later = std::mem::take(&mut *all.later.borrow_mut());
        all.spindle.counters.rebuild_waiting_files.set(later.len() as u64);
        if later.is_empty() {
            break;
        }
        *all.left.borrow_mut() = later;
        io.sleep(AGAIN).await;
    }
    while let Err(error) = all.spindle.end_fill(io.now()).await {
        tracing::warn!(disk, %error, "a new disk is filled, and cannot be told so");
        io.sleep(AGAIN).await;
    }
    let counters = &all.spindle.counters;
    counters.rebuild_bytes_per_second.set(0);
    counters.rebuilds.add(1);
    ioengine::sometimes!("a disk that took another's place is filled");
    tracing::info!(
        disk,
        files = counters.rebuild_files.get(),
        bytes = counters.rebuild_bytes.get(),
        mended = counters.rebuild_mended.get(),
        left_out = counters.rebuild_left_out.get(),
        "a disk that took another's place is filled"
    );
}

impl Rebuild {
    /// What the others hold, and which files are to be filled.
    async fn hear(&self) -> Result<(), NotFilled> {
        let count = self.spindle.superblock.geometry.file_count;
        let mut files: BTreeMap<u32, Agreed> = BTreeMap::new();
        let mut first = Some(0);
        while let Some(file) = first {
            first = None;
            for FilesSaid { more: next, items, .. } in self.ask_all(file, 0, false).await? {
                // The one that is less far says where to go on; what the other said beyond is said again.
                first = [first, next].into_iter().flatten().min();
                for (file, agreed) in items.into_iter().filter(|(file, _)| *file < count) {
                    let joined = files.entry(file).or_default();
                    joined.join(&agreed);
                }
            }
        }
        files.retain(|_, agreed| !agreed.is_blank());
        let reserved = files.iter().map(|(file, agreed)| (*file, agreed.reserved().to_vec()));
        *self.undecided.borrow_mut() = reserved.collect();
        let counters = &self.spindle.counters;
        let of = |file: &u32| self.spindle.is_due(*file);
        counters.rebuild_files_total.set(files.len() as u64);
        counters.rebuild_files.set(files.keys().filter(|file| !of(file)).count() as u64);
        let bytes = |agreed: &Agreed| u64::from(agreed.head);
        counters
            .rebuild_total_bytes
            .set(files.iter().filter(|(file, _)| of(file)).map(|(_, a)| bytes(a)).sum());
        let due: VecDeque<u32> = files.keys().copied().filter(|file| of(file)).collect();
        if due.len() < files.len() {
            ioengine::sometimes!("a rebuild goes on where it was");
        }
        let heard = Heard { files: files.into_iter().collect(), is_all: true };
        self.spindle.hear(self.core.io.now(), heard).await?;
        *self.left.borrow_mut() = due;
        Ok(())
    }

    /// Fill files until none is left.
    async fn round(&self) {
        loop {
            let next = self.left.borrow_mut().pop_front();
            let Some(file) = next else { return };
            match self.one(file).await {
                Ok(()) => {
                    self.spindle.counters.rebuild_files.add(1);
                    self.tries.borrow_mut().remove(&file);
                }
                Err(error) => {
                    let disk = self.spindle.superblock.disk;
                    tracing::warn!(disk, file, %error, "a file of a new disk is not filled yet");
                    ioengine::sometimes!("a file of a new disk is tried again");
                    if matches!(error, NotFilled::Unproven { .. }) {
                        *self.tries.borrow_mut().entry(file).or_default() += 1;
                    }
                    self.later.borrow_mut().push_back(file);
                    let wait = match error {
                        NotFilled::Undecided => Duration::ZERO,
                        NotFilled::NotGiven(_) | NotFilled::Pull(_) => SILENT,
                        _ => AGAIN / 5,
                    };
                    if matches!(error, NotFilled::Disk(ColdError::Aside { .. })) {
                        ioengine::sometimes!("a rebuild waits for its disk, which is set aside");
                        self.spindle.watch.is_back().await;
                    }
                    self.core.io.sleep(wait).await;
                }
            }
        }
    }

    /// How often a file was tried while nobody proved all of it.
    pub(super) fn tried(&self, file: u32) -> u32 {
        self.tries.borrow().get(&file).copied().unwrap_or(0)
    }

    /// Until no other file is being copied.
    pub(super) async fn turn(&self) -> Turn<'_> {
        loop {
            let ended = self.turn_ended.notified();
            if !self.is_copying.replace(true) {
                return Turn(self);
            }
            ended.await;
        }
    }

    pub(super) fn buffer(&self) -> Result<Buf, ColdError> {
        buffer(&self.core.io, self.core.others.copy_bytes() as usize)
    }

    /// Until so many bytes more may be written.
    pub(super) async fn pace(&self, bytes: u32) {
        let io = &self.core.io;
        io.sleep_until(self.may_write_from.get()).await;
        let takes = u128::from(bytes) * 1_000_000_000 / u128::from(self.core.limits.rebuild_bytes_per_second);
        let from = self.may_write_from.get().max(io.now());
        // Who was held up does not hurry.
        self.may_write_from.set(from.after(Duration::from_nanos(u64::try_from(takes).unwrap_or(u64::MAX))));
    }

    /// So many bytes were written.
    pub(super) fn count_bytes(&self, bytes: u64) {
        let (counters, now) = (&self.spindle.counters, self.core.io.now());
        counters.rebuild_bytes.add(bytes);
        self.rate_bytes.set(self.rate_bytes.get() + bytes);
        let over = now.since(self.rate_since.get());
        if over >= RATE_OVER {
            let rate = u128::from(self.rate_bytes.get()) * 1_000_000 / over.as_micros().max(1);
            counters.rebuild_bytes_per_second.set(u64::try_from(rate).unwrap_or(u64::MAX));
            self.rate_since.set(now);
            self.rate_bytes.set(0);
        }
    }

    /// How many of the others have not been silent for long.
    pub(super) fn others_answer(&self) -> usize {
        let now = self.core.io.now();
        let alone_after = self.core.limits.rebuild_alone_after;
        let is_lost = |since: &&Option<Instant>| since.is_none_or(|since| now.since(since) < alone_after);
        self.silent_since.borrow().iter().filter(is_lost).count()
    }

    /// What a machine said, or `None` where it has not answered for so long that the rebuild goes on without it.
    fn heard<T>(&self, machine: usize, said: Result<T, NotGiven>) -> Result<Option<T>, NotGiven> {
        let mut silent_since = self.silent_since.borrow_mut();
        match said {
            Ok(said) => {
                silent_since[machine] = None;
                Ok(Some(said))
            }
            Err(error) => {
                let now = self.core.io.now();
                let since = *silent_since[machine].get_or_insert(now);
                if now.since(since) < self.core.limits.rebuild_alone_after {
                    return Err(error);
                }
                ioengine::sometimes!("a disk is filled from one machine alone");
                Ok(None)
            }
        }
    }

    /// What the others say of files from one on.
    ///
    /// # Errors
    /// [`NotGiven`]: one of them does not answer, and has not for long, or none does.
    async fn ask_all(&self, file: u32, limit: u32, freed: bool) -> Result<Vec<FilesSaid>, NotGiven> {
        let superblock = &self.spindle.superblock;
        let (group, disk) = (superblock.group, superblock.disk);
        let of = ColdFilesOf { group, disk, file, limit, freed };
        let (mut all, mut last) = (Vec::new(), None);
        for machine in 0..self.core.others.count() {
            let said = self.core.others.files(machine, &of, &superblock.geometry).await;
            if let Err(error) = &said {
                last = Some(error.clone());
            }
            all.extend(self.heard(machine, said)?);
        }
        match last {
            Some(error) if all.is_empty() => Err(error),
            _ => Ok(all),
        }
    }

    /// What the others hold of one file.
    pub(super) async fn ask_of(&self, file: u32) -> Result<Agreed, NotGiven> {
        let mut joined = Agreed::default();
        for FilesSaid { items, .. } in self.ask_all(file, 1, true).await? {
            items.iter().filter(|(of, _)| *of == file).for_each(|(_, agreed)| joined.join(agreed));
        }
        Ok(joined)
    }

    /// The sections of a file's generation that others name.
    pub(super) async fn named(&self, file: u32, generation: u32) -> Result<Vec<Named>, NotGiven> {
        let disk = (self.spindle.superblock.group, self.spindle.superblock.disk);
        let mut all: Vec<Named> = Vec::new();
        let mut last = None;
        let mut is_heard = false;
        for machine in 0..self.core.others.count() {
            let said = match self.core.others.file(machine, disk, file).await {
                // It is being filled itself, or has other things to do.
                Err(error @ NotGiven::Refused(..)) => {
                    last = Some(error);
                    continue;
                }
                said => self.heard(machine, said)?,
            };
            is_heard |= said.is_some();
            for named in said.into_iter().flatten() {
                if named.blocks.file_generation == generation && !all.contains(&named) {
                    all.push(named);
                }
            }
        }
        match last {
            Some(error) if !is_heard => Err(error),
            _ => Ok(all),
        }
    }
}
