//! A cold disk as all that asks it does: with a watch each operation is timed, and nobody waits for one any more once the disk is set aside.
//!
//! Must never give up an operation and forget it: it runs on by itself, its buffer with it, and ends in the watch's books. Invariant: while a disk is aside
//! nothing but probes begins on it, and who had asked has heard so in the turn in which it was set aside.

use super::ColdError;
use super::core::ColdCounters;
use super::gray::{Ended, Gauge, GrayLimits, Kind, Probe};
use ioengine::disk::Geometry;
use ioengine::sync::{Either, Notify, race};
use ioengine::{Buf, Disk, DiskError, Io, Queue};
use layout::cold_disk::ColdSuperblock;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

/// The disk is set aside: it was not asked, or is not waited for. What was asked of it before may still happen.
#[derive(Debug, Clone)]
pub(super) struct Aside(pub(super) Rc<str>);

impl From<Aside> for ColdError {
    fn from(Aside(name): Aside) -> ColdError {
        ColdError::Aside { name: name.to_string() }
    }
}

/// What is known of a disk while a node serves it.
pub(super) struct Watch {
    pub(super) io: Io,
    pub(super) disk: Rc<Disk>,
    pub(super) counters: Arc<ColdCounters>,
    pub(super) gauge: RefCell<Gauge>,
    pub(super) is_aside: Cell<bool>,
    /// It was set aside, or back.
    pub(super) changed: Notify,
    /// Something began on an idle disk, or a probe has ended.
    pub(super) stirred: Notify,
    /// What it says of itself, once that is known: a probe may write a copy of it.
    pub(super) superblock: Cell<Option<ColdSuperblock>>,
    name: Rc<str>,
}

impl Watch {
    pub(super) fn new(io: &Io, disk: Disk, limits: GrayLimits) -> Rc<Watch> {
        let name = Rc::from(disk.name());
        Rc::new(Watch {
            io: io.clone(),
            disk: Rc::new(disk),
            counters: Arc::default(),
            gauge: RefCell::new(Gauge::new(limits, io.now())),
            is_aside: Cell::new(false),
            changed: Notify::new(),
            stirred: Notify::new(),
            superblock: Cell::new(None),
            name,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Resolves once the disk is not aside.
    pub(super) async fn is_back(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.is_aside.get() {
                return;
            }
            changed.await;
        }
    }

    /// An operation begins.
    pub(super) fn begin(&self, kind: Kind, bytes: usize, probe: Option<Probe>) -> u64 {
        let mut gauge = self.gauge.borrow_mut();
        let was_idle = gauge.rest().is_none();
        let number = gauge.begin(self.io.now(), kind, bytes, probe);
        drop(gauge);
        if was_idle {
            self.stirred.notify();
        }
        number
    }

    pub(super) fn end(&self, number: u64, result: &Result<(), DiskError>) {
        let ended = match result {
            Err(DiskError::Device { .. }) => Ended::Failed,
            // Want of space is an answer of the file system under a disk of a trial, and a refusal none of the device.
            Err(DiskError::Ended { .. }) => Ended::NotDone,
            Ok(()) | Err(DiskError::Full { .. }) => Ended::Well,
        };
        self.gauge.borrow_mut().end(self.io.now(), number, ended);
    }

    /// Wait for an operation as long as the disk is not aside.
    async fn wait<T: 'static>(
        self: &Rc<Watch>,
        (kind, bytes): (Kind, usize),
        operation: impl Future<Output = (Result<(), DiskError>, T)> + 'static,
    ) -> Result<(Result<(), DiskError>, T), Aside> {
        if self.is_aside.get() {
            return Err(Aside(Rc::clone(&self.name)));
        }
        let number = self.begin(kind, bytes, None);
        let mut operation = Box::pin(operation);
        loop {
            let changed = self.changed.notified();
            match race(operation.as_mut(), changed).await {
                Either::First(done) => {
                    self.end(number, &done.0);
                    return Ok(done);
                }
                Either::Second(())
                    if !self.is_aside.get() || ioengine::canary("wait_for_a_disk_that_is_aside") => {}
                Either::Second(()) => break,
            }
        }
        ioengine::sometimes!("an operation of a disk that is set aside is not waited for");
        self.counters.given_up.add(1);
        let watch = Rc::clone(self);
        self.io.spawn(Queue::Maintenance, async move {
            let (result, _) = operation.await;
            watch.end(number, &result);
        });
        Err(Aside(Rc::clone(&self.name)))
    }
}

/// A cold disk, with or without a watch.
#[derive(Clone, Copy)]
pub(super) struct Device<'a> {
    disk: &'a Disk,
    watch: Option<&'a Rc<Watch>>,
}

/// What came of an operation and its buffer; or the disk was set aside, and nothing came of it.
type Done = Result<(Result<(), DiskError>, Buf), Aside>;

impl<'a> Device<'a> {
    /// A disk that only one asks, who waits as long as it takes.
    pub(super) fn plain(disk: &'a Disk) -> Device<'a> {
        Device { disk, watch: None }
    }

    pub(super) fn watched(watch: &'a Rc<Watch>) -> Device<'a> {
        Device { disk: &watch.disk, watch: Some(watch) }
    }

    pub(super) fn name(self) -> &'a str {
        self.disk.name()
    }

    pub(super) fn geometry(self) -> Geometry {
        self.disk.geometry()
    }

    /// As [`Disk::read`].
    pub(super) async fn read(self, buffer: Buf, offset: u64, bytes: usize) -> Done {
        let Some(watch) = self.watch else { return Ok(self.disk.read(buffer, offset, bytes).await) };
        let disk = Rc::clone(&watch.disk);
        watch.wait((Kind::Read, bytes), async move { disk.read(buffer, offset, bytes).await }).await
    }

    /// As [`Disk::write`].
    pub(super) async fn write(self, buffer: Buf, offset: u64, bytes: usize) -> Done {
        let Some(watch) = self.watch else { return Ok(self.disk.write(buffer, offset, bytes).await) };
        let disk = Rc::clone(&watch.disk);
        watch.wait((Kind::Write, bytes), async move { disk.write(buffer, offset, bytes).await }).await
    }

    /// As [`Disk::write_durable`]. Not waited for any more, it may have been made all the same.
    pub(super) async fn write_durable(self, buffer: Buf, offset: u64, bytes: usize) -> Done {
        let Some(watch) = self.watch else { return Ok(self.disk.write_durable(buffer, offset, bytes).await) };
        let disk = Rc::clone(&watch.disk);
        watch.wait((Kind::Flush, bytes), async move { disk.write_durable(buffer, offset, bytes).await }).await
    }

    /// As [`Disk::flush`].
    pub(super) async fn flush(self) -> Result<Result<(), DiskError>, Aside> {
        let Some(watch) = self.watch else { return Ok(self.disk.flush().await) };
        let disk = Rc::clone(&watch.disk);
        let done = watch.wait((Kind::Flush, 0), async move { (disk.flush().await, ()) }).await;
        done.map(|(result, ())| result)
    }
}
