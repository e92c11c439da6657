//! Operations in flight on one core: a fixed table of slots. A slot owns the operation, and with it the buffer,
//! from submission until its completion was seen. Invariant: a buffer the kernel may still write to is never
//! reachable by anyone else, also when the future that asked was dropped.

use crate::buffer::Buf;
use crate::driver::Driver;
use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// An error number of the operating system, as the kernel gave it or as the simulator chose it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", nix::errno::Errno::from_raw(self.0).desc(), self.0)
    }
}

impl std::error::Error for Errno {}

/// What a driver is asked to do. Handles (`disk`, `stream`, `listener`) are the driver's own numbers.
pub(crate) enum Operation {
    /// Fill `buffer[..bytes]` from the disk at `offset`. Completes with the count of bytes read.
    DiskRead { disk: u32, offset: u64, buffer: Buf, bytes: u32 },
    /// Write `buffer[..bytes]` at `offset`; with `durable` it is on stable media when it completes.
    DiskWrite { disk: u32, offset: u64, buffer: Buf, bytes: u32, durable: bool },
    /// Everything that completed before is on stable media when this completes.
    DiskFlush { disk: u32 },
    /// Completes with the handle of a new stream.
    Accept { listener: u32 },
    /// Completes with the handle of a new stream.
    Connect { address: SocketAddr },
    /// Receive into `buffer[start..end]`; completes with the count, 0 when the peer closed.
    Receive { stream: u32, buffer: Buf, start: u32, end: u32 },
    /// Send all of `buffer[start..end]`; completes with the count sent (less only on error after some bytes).
    Send { stream: u32, buffer: Buf, start: u32, end: u32 },
    /// Completes with the next signal's number.
    Signal,
}

impl Operation {
    pub(crate) fn into_buffer(self) -> Option<Buf> {
        match self {
            Operation::DiskRead { buffer, .. }
            | Operation::DiskWrite { buffer, .. }
            | Operation::Receive { buffer, .. }
            | Operation::Send { buffer, .. } => Some(buffer),
            Operation::DiskFlush { .. }
            | Operation::Accept { .. }
            | Operation::Connect { .. }
            | Operation::Signal => None,
        }
    }
}

/// Number of a slot, unique among the operations in flight of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OperationId(pub(crate) u32);

enum State {
    Free,
    Pending(Option<Waker>),
    Done(Result<u32, Errno>),
    /// The future was dropped; the slot waits for the completion alone.
    Abandoned,
}

struct Slot {
    state: State,
    operation: Option<Operation>,
}

/// What came back for an operation nobody waits for any more; the driver must release what it made.
pub(crate) enum Orphan {
    /// A stream was accepted or connected and has no owner: close it.
    Stream(u32),
}

/// The slots of one core. Fixed at start: an operation beyond the last slot waits its turn in the caller.
pub(crate) struct OperationTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    waiting: std::collections::VecDeque<Waker>,
}

impl OperationTable {
    pub(crate) fn new(count: usize) -> OperationTable {
        let slots = (0..count).map(|_| Slot { state: State::Free, operation: None }).collect();
        let free = (0..u32::try_from(count).expect("slot count fits u32")).rev().collect();
        OperationTable { slots, free, waiting: std::collections::VecDeque::with_capacity(64) }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn claim(&mut self, operation: Operation) -> Result<OperationId, Operation> {
        match self.free.pop() {
            None => Err(operation),
            Some(index) => {
                let slot = &mut self.slots[index as usize];
                assert!(matches!(slot.state, State::Free), "a free slot is free");
                *slot = Slot { state: State::Pending(None), operation: Some(operation) };
                Ok(OperationId(index))
            }
        }
    }

    fn release(&mut self, id: OperationId) -> Option<Operation> {
        let slot = &mut self.slots[id.0 as usize];
        slot.state = State::Free;
        let operation = slot.operation.take();
        self.free.push(id.0);
        if let Some(waker) = self.waiting.pop_front() {
            waker.wake();
        }
        operation
    }

    /// The operation in a slot, for the driver that fills its submission from it.
    pub(crate) fn operation_mut(&mut self, id: OperationId) -> &mut Operation {
        self.slots[id.0 as usize].operation.as_mut().expect("an operation in flight has its slot")
    }

    /// Called by the driver exactly once per operation.
    pub(crate) fn complete(&mut self, id: OperationId, result: Result<u32, Errno>) -> Option<Orphan> {
        let slot = &mut self.slots[id.0 as usize];
        match std::mem::replace(&mut slot.state, State::Done(result)) {
            State::Pending(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                None
            }
            State::Abandoned => match (self.release(id), result) {
                (Some(Operation::Accept { .. } | Operation::Connect { .. }), Ok(stream)) => {
                    Some(Orphan::Stream(stream))
                }
                _ => None,
            },
            State::Free | State::Done(_) => panic!("operation {id:?} completed twice"),
        }
    }
}

/// A submitted or still to be submitted operation; resolves to its result and the operation with its buffer.
pub(crate) struct InFlight {
    table: Rc<RefCell<OperationTable>>,
    driver: Rc<dyn Driver>,
    stage: Stage,
}

enum Stage {
    Waiting(Option<Operation>),
    Submitted(OperationId),
    Finished,
}

impl InFlight {
    pub(crate) fn start(
        table: &Rc<RefCell<OperationTable>>,
        driver: &Rc<dyn Driver>,
        operation: Operation,
    ) -> InFlight {
        let mut this = InFlight {
            table: Rc::clone(table),
            driver: Rc::clone(driver),
            stage: Stage::Waiting(Some(operation)),
        };
        this.submit();
        this
    }

    fn submit(&mut self) {
        if let Stage::Waiting(operation) = &mut self.stage {
            let claimed =
                self.table.borrow_mut().claim(operation.take().expect("waiting holds its operation"));
            match claimed {
                Ok(id) => {
                    self.stage = Stage::Submitted(id);
                    self.driver.submit(id);
                }
                Err(back) => *operation = Some(back),
            }
        }
    }

    /// Ask the driver to end the operation early; its completion still comes.
    pub(crate) fn cancel(&self) {
        if let Stage::Submitted(id) = self.stage {
            self.driver.cancel(id);
        }
    }
}

impl Future for InFlight {
    type Output = (Result<u32, Errno>, Operation);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.submit();
        let Stage::Submitted(id) = self.stage else {
            assert!(matches!(self.stage, Stage::Waiting(_)), "polled after completion");
            self.table.borrow_mut().waiting.push_back(context.waker().clone());
            return Poll::Pending;
        };
        let mut table = self.table.borrow_mut();
        let slot = &mut table.slots[id.0 as usize];
        match &mut slot.state {
            State::Done(result) => {
                let result = *result;
                let operation = table.release(id).expect("a finished operation is still in its slot");
                drop(table);
                self.stage = Stage::Finished;
                Poll::Ready((result, operation))
            }
            State::Pending(waker) => {
                match waker {
                    Some(known) if known.will_wake(context.waker()) => {}
                    _ => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            State::Free | State::Abandoned => panic!("operation {id:?} lost its slot"),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Stage::Submitted(id) = self.stage {
            let mut table = self.table.borrow_mut();
            let slot = &mut table.slots[id.0 as usize];
            match slot.state {
                State::Done(result) => {
                    let orphan = match (table.release(id), result) {
                        (Some(Operation::Accept { .. } | Operation::Connect { .. }), Ok(stream)) => {
                            Some(stream)
                        }
                        _ => None,
                    };
                    drop(table);
                    if let Some(stream) = orphan {
                        self.driver.stream_close(stream);
                    }
                }
                State::Pending(_) => {
                    slot.state = State::Abandoned;
                    let endless = matches!(
                        slot.operation,
                        Some(Operation::Accept { .. } | Operation::Connect { .. } | Operation::Signal)
                    );
                    drop(table);
                    if endless {
                        self.driver.cancel(id);
                    }
                }
                State::Free | State::Abandoned => panic!("operation {id:?} lost its slot"),
            }
        }
    }
}
