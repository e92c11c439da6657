//! What the tasks of one generator share: workload, meter, the end of the load, and the connections' common part.

use super::LoadError;
use super::meter::Meter;
use super::wire::{Answered, Next, Wire};
use crate::workloads::Workload;
use ioengine::sync::{Notify, race};
use ioengine::{Buf, Instant, Io, Queue, Stream};
use layout::units::TabletIndex;
use net::{Operation, Request};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Room for what arrives at once.
const RECEIVE_BYTES: usize = 64 << 10;
/// Pause before another try to connect.
const CONNECT_RETRY: Duration = Duration::from_millis(20);

/// State of one load.
pub(super) struct Ground<L> {
    pub(super) io: Io,
    workload: RefCell<Option<L>>,
    pub(super) meter: RefCell<Meter>,
    stopping: Cell<bool>,
    tasks: Cell<usize>,
    in_flight: Cell<usize>,
    failure: RefCell<Option<LoadError>>,
    /// A task has ended, or all shall.
    changed: Notify,
}

/// A request in flight, by its tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    operation: Operation,
    /// Of a write: the tablet whose log time its answer tells.
    tablet: Option<TabletIndex>,
    /// When it should have started.
    begun_ns: u64,
}

impl Slot {
    pub(super) const EMPTY: Slot = Slot { operation: Operation::Ping, tablet: None, begun_ns: 0 };
}

impl<L: Workload> Ground<L> {
    pub(super) fn new(io: Io, workload: L) -> Ground<L> {
        Ground {
            io,
            meter: RefCell::new(Meter::new(workload.operations())),
            workload: RefCell::new(Some(workload)),
            stopping: Cell::new(false),
            tasks: Cell::new(0),
            in_flight: Cell::new(0),
            failure: RefCell::default(),
            changed: Notify::new(),
        }
    }

    /// Start a task of the load; its failure ends all.
    pub(super) fn spawn(self: &Rc<Self>, task: impl Future<Output = Result<(), LoadError>> + 'static)
    where
        L: 'static,
    {
        self.tasks.set(self.tasks.get() + 1);
        let of_task = Rc::clone(self);
        self.io.spawn(Queue::Foreground, async move {
            let result = task.await;
            of_task.tasks.set(of_task.tasks.get() - 1);
            match result {
                Ok(()) => of_task.changed.notify(),
                Err(error) => of_task.fail(error),
            }
        });
    }

    /// End the load; the first failure is the one that is told.
    pub(super) fn fail(&self, error: LoadError) {
        self.failure.borrow_mut().get_or_insert(error);
        self.stop();
    }

    pub(super) fn failure(&self) -> Option<LoadError> {
        self.failure.borrow().clone()
    }

    /// Begin nothing new.
    pub(super) fn stop(&self) {
        self.stopping.set(true);
        self.changed.notify();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// All tasks have ended, or one has failed.
    pub(super) async fn ended(&self) {
        while self.tasks.get() > 0 && self.failure.borrow().is_none() {
            self.changed.notified().await;
        }
    }

    /// Resolves when `ended` does, or when this time has passed.
    pub(super) async fn sleep(&self, duration: Duration) {
        race(self.ended(), self.io.sleep(duration)).await;
    }

    /// Resolves at the next change: a task ended, or all shall.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }

    /// Write the next request of a connection into `out`, if the workload has one and `out` has room for it. Bytes written; 0 when not.
    pub(super) fn ask<W: Wire>(
        &self,
        wire: &mut W,
        (connection, tag): (usize, u32),
        begun_ns: u64,
        slot: &mut Slot,
        out: &mut [u8],
    ) -> usize {
        let mut workload = self.workload.borrow_mut();
        let Some(request) = workload.as_mut().expect("taken only at the end").next_on(connection) else {
            return 0;
        };
        assert!(wire.request_bytes_max(&request) <= out.len(), "a workload keeps to its request_bytes_max");
        let tablet = written_tablet(&request);
        *slot = Slot { operation: request.operation(), tablet, begun_ns };
        let bytes = wire.request(&request, tag, out);
        self.in_flight.set(self.in_flight.get() + 1);
        self.meter.borrow_mut().sent(bytes);
        bytes
    }

    /// An answer has come at `now_ns`.
    pub(super) fn answered(&self, slot: &Slot, answered: &Answered, now_ns: u64) {
        self.in_flight.set(self.in_flight.get() - 1);
        let latency_ns = now_ns.saturating_sub(slot.begun_ns);
        self.meter.borrow_mut().answered(slot.operation, answered.heard, latency_ns);
        if let Some(tablet) = slot.tablet {
            let mut workload = self.workload.borrow_mut();
            workload.as_mut().expect("taken only at the end").learn(tablet, answered.log_time);
        }
    }

    /// What is left at the end: the counts, and the workload as it stands.
    pub(super) fn take(&self) -> (Meter, L) {
        let workload = self.workload.borrow_mut().take().expect("taken once");
        (self.meter.borrow().clone(), workload)
    }
}

fn written_tablet(request: &Request<'_>) -> Option<TabletIndex> {
    let (space, stream) = request.stream()?;
    let writes = matches!(
        request.operation(),
        Operation::Put | Operation::Delete | Operation::CompareAndSet | Operation::Batch
    );
    writes.then(|| layout::key::tablet_of(layout::key::bucket_of(space, stream)))
}

/// A connection that was opened.
pub(super) struct Connection<W> {
    /// From 0.
    pub(super) number: usize,
    pub(super) stream: Stream,
    pub(super) wire: W,
    pub(super) inbox: Inbox,
}

/// A buffer, or the error that says what is short.
pub(super) fn buffer(io: &Io, bytes: usize) -> Result<Buf, LoadError> {
    io.buffer(bytes).ok_or(LoadError::Buffer { bytes })
}

/// Connect and open, trying again until the deadline: a server that was just started may not listen yet.
pub(super) async fn connect<W: Wire>(
    io: &Io,
    address: SocketAddr,
    (number, mut wire): (usize, W),
    deadline: Instant,
) -> Result<Connection<W>, LoadError> {
    let stream = loop {
        match io.connect(address).await {
            Ok(stream) => break stream,
            Err(error) if io.now() >= deadline => return Err(LoadError::Net(error.to_string())),
            Err(_) => io.sleep(CONNECT_RETRY).await,
        }
    };
    let mut inbox = Inbox { buffer: Some(buffer(io, RECEIVE_BYTES)?), filled: 0 };
    let mut out = buffer(io, 4096)?;
    let bytes = wire.open(&mut out);
    if bytes > 0 {
        let (result, _) = stream.send(out, 0..bytes).await;
        result.map_err(|error| LoadError::Net(error.to_string()))?;
        loop {
            inbox.receive(io, &stream, 0).await?;
            let filled = inbox.filled;
            let input = &inbox.buffer.as_ref().expect("back after each receive")[..filled];
            if let Some(taken) = wire.opened(input)? {
                assert!(taken == filled, "a server says nothing unasked");
                inbox.filled = 0;
                break;
            }
        }
    }
    Ok(Connection { number, stream, wire, inbox })
}

/// What has arrived and is not looked at yet.
pub(super) struct Inbox {
    /// `None` while a receive is in flight.
    buffer: Option<Buf>,
    filled: usize,
}

impl Inbox {
    /// Wait for at least one byte more, with room for `want` bytes in all.
    pub(super) async fn receive(
        &mut self,
        io: &Io,
        stream: &Stream,
        want: usize,
    ) -> Result<usize, LoadError> {
        let mut room = self.buffer.take().expect("one receive at a time");
        if want > room.len() {
            let mut larger = buffer(io, want)?;
            larger[..self.filled].copy_from_slice(&room[..self.filled]);
            room = larger;
        }
        let end = room.len();
        let (result, back) = stream.receive(room, self.filled..end).await;
        self.buffer = Some(back);
        match result {
            Ok(0) => Err(LoadError::Net("the server has closed the connection".to_owned())),
            Ok(count) => {
                self.filled += count;
                Ok(count)
            }
            Err(error) => Err(LoadError::Net(error.to_string())),
        }
    }

    /// Hand every whole answer to `each`. Returns the bytes that the first unfinished one takes in all.
    pub(super) fn walk<W: Wire>(
        &mut self,
        wire: &mut W,
        mut each: impl FnMut(&Answered),
    ) -> Result<usize, LoadError> {
        let bytes = self.buffer.as_mut().expect("back after each receive");
        let mut at = 0;
        let want = loop {
            match wire.next(&bytes[at..self.filled])? {
                Next::Answer(answered, taken) => {
                    each(&answered);
                    at += taken;
                }
                Next::Part(taken) => at += taken,
                Next::Need(want) => break want,
            }
        };
        bytes.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(want)
    }
}
