//! Disks that hang, are slow or fail: looked at while anything is under way on them, set aside, probed, and set back.
//!
//! Must never leave anybody waiting for a disk that is aside. Invariant: each change is in the log once, in the counters, and known to all who wait in the
//! turn in which it happens. When what is gray, and when it is well again, is `gray.rs`.

use super::core::{ColdCore, Spindle};
use super::device::Watch;
use super::gray::{Change, Kind, Probe, Standing};
use ioengine::sync::race;
use ioengine::{Buf, DiskError, Queue};
use layout::cold_disk::{COLD_COPY_COUNT, COLD_SUPERBLOCK_BYTES};
use layout::units::BLOCK_BYTES;
use net::outcome::{Limit, Outcome};
use std::rc::Rc;

/// What who asks a disk that is aside is told: the same as of one that has failed, so that it asks another copy.
pub(super) const REFUSAL: Outcome = Outcome::Busy { limit: Limit::Device, hint_ms: 1_000 };

/// Look at a disk for as long as the core lives.
pub(super) async fn run(watch: Rc<Watch>) {
    loop {
        let stirred = watch.stirred.notified();
        look(&watch);
        let due = watch.gauge.borrow().probe(watch.io.now());
        if let Some(probe) = due {
            begin_probe(&watch, probe);
        }
        let rest = watch.gauge.borrow().rest();
        match rest {
            None => stirred.await,
            Some(rest) => {
                race(stirred, watch.io.sleep(rest)).await;
            }
        }
    }
}

fn look(watch: &Rc<Watch>) {
    let may_write = watch.superblock.get().is_some() && !watch.disk.ended();
    let mut gauge = watch.gauge.borrow_mut();
    gauge.set_may_write(may_write);
    let change = gauge.look(watch.io.now());
    watch.counters.suspect.set(u64::from(gauge.standing() == Standing::Suspect));
    drop(gauge);
    let (counters, disk) = (&watch.counters, watch.name());
    match change {
        None | Some(Change::Suspected) => return,
        Some(Change::Cleared) => {
            ioengine::sometimes!("a cold disk that was suspected is well");
            return;
        }
        Some(Change::Aside(why)) => {
            tracing::warn!(
                disk,
                why = why.name(),
                "a cold disk is set aside: other copies answer, and it is probed until it is well"
            );
            ioengine::sometimes!("a cold disk is set aside");
            counters.asides.add(1);
            counters.aside.set(why as u64);
            counters.aside_since_us.set(watch.io.wall_us());
            ioengine::fact("a cold disk is set aside", fact_key(watch), watch.io.now().ns);
        }
        Some(Change::Back(after)) => {
            tracing::warn!(disk, after_s = after.as_secs_f64(), "a cold disk is well and set back");
            ioengine::sometimes!("a cold disk is set back");
            counters.aside.set(0);
            counters.aside_since_us.set(0);
            ioengine::fact("a cold disk is set back", fact_key(watch), watch.io.now().ns);
        }
    }
    watch.is_aside.set(counters.aside.get() > 0);
    watch.changed.notify();
}

/// What checkers know a disk by: its name. Its number may not be known yet.
fn fact_key(watch: &Watch) -> u64 {
    layout::checksum::long(watch.name().as_bytes()) as u64
}

fn begin_probe(watch: &Rc<Watch>, probe: Probe) {
    watch.counters.probes.add(1);
    let (kind, bytes) = match probe {
        Probe::Read => (Kind::Read, BLOCK_BYTES),
        Probe::Write => (Kind::Flush, BLOCK_BYTES),
    };
    let number = watch.begin(kind, bytes, Some(probe));
    let probing = Rc::clone(watch);
    watch.io.spawn(Queue::Maintenance, async move {
        let result = match probing.io.buffer(BLOCK_BYTES) {
            Some(buffer) if probe == Probe::Write => write(&probing, buffer).await,
            Some(buffer) => read(&probing, buffer).await,
            // Not the disk's doing, and no proof of it.
            None => Err(DiskError::Ended { name: Rc::from(probing.name()) }),
        };
        if result.is_err() {
            probing.counters.probes_failed.add(1);
        }
        probing.end(number, &result);
        probing.stirred.notify();
    });
}

/// A block anywhere: what is read again and again is in the disk's own memory.
async fn read(watch: &Watch, buffer: Buf) -> Result<(), DiskError> {
    let blocks = watch.disk.geometry().bytes / BLOCK_BYTES as u64;
    let at = watch.io.random() % blocks * BLOCK_BYTES as u64;
    watch.disk.read(buffer, at, BLOCK_BYTES).await.0
}

/// The last copy of the superblock, as it is, and a flush: a write that is torn or lost changes nothing.
async fn write(watch: &Watch, mut buffer: Buf) -> Result<(), DiskError> {
    let superblock = watch.superblock.get().expect("it is known before a probe may write");
    let copy = COLD_COPY_COUNT - 1;
    let bytes = (&mut buffer[..COLD_SUPERBLOCK_BYTES]).try_into().expect("one block");
    superblock.encode(copy, bytes);
    let at = superblock.geometry.copy_offset(copy).0;
    watch.disk.write(buffer, at, COLD_SUPERBLOCK_BYTES).await.0?;
    ioengine::sometimes!("a cold disk that is aside is probed with a write");
    watch.disk.flush().await
}

/// Answer all that waits for a disk when it is set aside, for as long as the core lives.
pub(super) async fn refuse(core: Rc<ColdCore>, spindle: Rc<Spindle>) {
    loop {
        let changed = spindle.watch.changed.notified();
        while spindle.watch.is_aside.get() && !ioengine::canary("wait_for_a_disk_that_is_aside") {
            let mut queue = spindle.queue.borrow_mut();
            let Some(job) = queue.take_read().or_else(|| queue.take_work()) else { break };
            drop(queue);
            ioengine::sometimes!("a request that waits for a cold disk hears that it is set aside");
            spindle.refuse(&core, &job.to);
        }
        changed.await;
    }
}

impl Spindle {
    /// Say that the disk is aside.
    pub(super) fn refuse(&self, core: &ColdCore, to: &crate::reply::ReplyTo) {
        self.counters.refused.add(1);
        core.say(to, &REFUSAL);
    }
}
