//! What a test does to a disk from outside: damage, stalls, snapshots, faults, crash states.

use super::disk::{DiskCounts, DiskState, Flight, Work};
use super::disk_io::write_bytes;
use super::fault::{DiskFaults, FaultKind};
use super::image::{DiskImage, SECTOR_BYTES};
use super::media::Landing;
use super::recording::{CrashLimits, CrashState, Recorded, RecordedKind, Recording};
use super::world::{self, Shared};
use crate::clock::Instant;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// A disk of the simulated world. A plain number, as [`NodeHandle`](super::NodeHandle) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskHandle {
    pub(crate) world: u64,
    pub(crate) disk: u32,
}

impl DiskHandle {
    fn shared(&self) -> Rc<Shared> {
        world::of(self.world)
    }

    fn with<T>(&self, change: impl FnOnce(&mut DiskState) -> T) -> T {
        change(&mut self.shared().disks.borrow_mut()[self.disk as usize])
    }

    fn note(&self, offset: u64, bytes: u64, kind: FaultKind) {
        let node = self.with(|disk| disk.node);
        self.shared().fault(node, Some(self.disk), offset, bytes, kind);
    }

    /// Its name on its node.
    #[must_use]
    pub fn name(&self) -> String {
        self.with(|disk| disk.name.clone())
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.with(|disk| disk.config.bytes)
    }

    /// The fault plan.
    #[must_use]
    pub fn faults(&self) -> DiskFaults {
        self.with(|disk| disk.config.faults.clone())
    }

    /// Change the fault plan.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.with(|disk| disk.config.faults = faults);
    }

    /// Flip one to three bits of the stored sector at `offset`.
    pub fn rot(&self, offset: u64) {
        self.with(|disk| disk.media.rot(offset, &mut disk.random));
        self.note(offset - offset % SECTOR_BYTES as u64, SECTOR_BYTES as u64, FaultKind::Rot);
    }

    /// Make the sector at `offset` unreadable until it is written.
    pub fn make_unreadable(&self, offset: u64) {
        let sector = offset - offset % SECTOR_BYTES as u64;
        self.with(|disk| disk.unreadable.insert(sector));
        self.note(sector, SECTOR_BYTES as u64, FaultKind::LatentError);
    }

    /// Overwrite bytes behind everyone's back, durably.
    pub fn overwrite(&self, offset: u64, bytes: &[u8]) {
        self.with(|disk| {
            let mut image = disk.media.current().clone();
            image.write(offset, bytes);
            disk.media.replace(image);
        });
        self.note(offset, bytes.len() as u64, FaultKind::Restored);
    }

    /// Complete nothing for `duration`.
    pub fn stall(&self, duration: Duration) {
        let until = Instant { ns: self.shared().now() }.after(duration).ns;
        self.with(|disk| disk.stalled_until = until);
        self.note(0, 0, FaultKind::Stall);
    }

    /// Complete nothing until [`DiskHandle::release`].
    pub fn stall_until_released(&self) {
        self.with(|disk| disk.stalled_until = u64::MAX);
        self.note(0, 0, FaultKind::Stall);
    }

    /// Does it complete nothing now?
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        let now = self.shared().now();
        self.with(|disk| disk.stalled_until > now)
    }

    /// The next operation ends so much later than it would; others go on.
    pub fn starve_next(&self, duration: Duration) {
        self.with(|disk| disk.starve_ns = Instant::default().after(duration).ns);
        self.note(0, 0, FaultKind::Starved);
    }

    /// Does an operation starve, will the next one, or did one so long ago or less?
    #[must_use]
    pub fn starves(&self, ago: Duration) -> bool {
        let now = self.shared().now();
        self.with(|disk| disk.starve_ns > 0 || Instant { ns: disk.starved_until }.after(ago).ns > now)
    }

    /// When the oldest operation in flight was submitted.
    #[must_use]
    pub fn oldest_in_flight(&self) -> Option<Instant> {
        self.with(|disk| disk.in_flight.values().map(|flight| Instant { ns: flight.since }).min())
    }

    /// When the only operation in flight was submitted, if it is a read.
    #[must_use]
    pub fn lone_read(&self) -> Option<Instant> {
        self.with(|disk| match disk.in_flight.values().collect::<Vec<_>>()[..] {
            [Flight { work: Work::Read, since, .. }] => Some(Instant { ns: *since }),
            _ => None,
        })
    }

    /// When an operation last completed.
    #[must_use]
    pub fn last_completed(&self) -> Instant {
        self.with(|disk| Instant { ns: disk.completed_at })
    }

    /// End a stall.
    pub fn release(&self) {
        self.shared().disk_release_stall(self.disk);
    }

    /// What reads see now. Cheap.
    #[must_use]
    pub fn snapshot(&self) -> DiskImage {
        self.with(|disk| disk.media.current().clone())
    }

    /// Replace the contents, durably: a stale backup, a swapped or prepared disk.
    pub fn restore(&self, image: &DiskImage) {
        self.with(|disk| {
            assert!(image.bytes() == disk.config.bytes, "the image of {} has its size", disk.name);
            disk.media.replace(image.clone());
            disk.unreadable.clear();
            disk.recording = None;
        });
        self.note(0, image.bytes(), FaultKind::Restored);
    }

    /// Replace the contents by zeroes.
    pub fn wipe(&self) {
        let bytes = self.bytes();
        self.with(|disk| {
            disk.media.replace(DiskImage::new(bytes));
            disk.unreadable.clear();
            disk.recording = None;
        });
        self.note(0, bytes, FaultKind::Wiped);
    }

    /// Exchange the contents of two disks of one size, as if someone had exchanged the devices. Neither is in use.
    pub fn swap(&self, other: &DiskHandle) {
        assert!(self.with(|disk| disk.in_flight.is_empty()) && other.with(|disk| disk.in_flight.is_empty()));
        let (mine, theirs) = (self.snapshot(), other.snapshot());
        for (disk, image) in [(self, theirs), (other, mine)] {
            disk.with(|disk| {
                assert!(image.bytes() == disk.config.bytes, "disks of one size");
                disk.media.replace(image);
                disk.recording = None;
            });
            disk.note(0, disk.bytes(), FaultKind::Swapped);
        }
        let bad = self.with(|disk| std::mem::take(&mut disk.unreadable));
        let bad = other.with(|disk| std::mem::replace(&mut disk.unreadable, bad));
        self.with(|disk| disk.unreadable = bad);
    }

    /// Operations completed so far.
    #[must_use]
    pub fn counts(&self) -> DiskCounts {
        self.with(|disk| disk.counts)
    }

    /// Whether a flush or a durable write has failed, so that the process that has it open gets no more of it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.with(|disk| disk.ended)
    }

    /// Operations in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.with(|disk| disk.in_flight.len())
    }

    /// Record completed writes and flushes from now on. What is unflushed now counts as the first writes.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        let now = Instant { ns: self.shared().now() };
        self.with(|disk| {
            let (base, landings) = disk.media.crash_base();
            let mut recording = Recording::new(base.clone());
            for (began, landing) in landings.into_iter().enumerate() {
                let kind = RecordedKind::Write {
                    offset: landing.offset,
                    data: landing.data,
                    durable: landing.forced,
                };
                recording.push(Recorded { at: now, began, kind });
            }
            let recording = Rc::new(RefCell::new(recording));
            disk.recording = Some(Rc::clone(&recording));
            // Operations in flight began before everything that is recorded from now on; a flush covers what had
            // completed when it was asked for.
            for flight in disk.in_flight.values_mut() {
                flight.recorded = match flight.work {
                    Work::Flush { sequence } => disk.media.logged_through(sequence),
                    Work::Read | Work::Write { .. } => 0,
                };
            }
            Recorder { recording }
        })
    }

    /// What a loss of power at this moment could leave: what is durable, with any part of the rest.
    #[must_use]
    pub fn crash_states(&self, limits: CrashLimits, seed: u64) -> Vec<CrashState> {
        let shared = self.shared();
        let recording = self.with(|disk| {
            let (base, mut landings) = disk.media.crash_base();
            for flight in disk.in_flight.values().filter(|flight| matches!(flight.work, Work::Write { .. })) {
                let core = shared.core(flight.core).expect("a process takes its operations along");
                let data = Rc::from(write_bytes(&core, flight));
                landings.push(Landing { offset: flight.offset, data, forced: false });
            }
            let mut recording = Recording::new(base.clone());
            for (began, Landing { offset, data, forced: durable }) in landings.into_iter().enumerate() {
                let kind = RecordedKind::Write { offset, data, durable };
                recording.push(Recorded { at: Instant { ns: shared.now() }, began, kind });
            }
            recording
        });
        recording.final_crash_states(limits, seed).collect()
    }
}

/// Keeps what happens to a disk, until a power cut, a restore or the next recorder of that disk.
pub struct Recorder {
    recording: Rc<RefCell<Recording>>,
}

impl Recorder {
    /// What was recorded so far.
    #[must_use]
    pub fn recording(&self) -> Recording {
        self.recording.borrow().clone()
    }
}
