//! Operations in flight on one core: a fixed table of slots. A slot owns the operation, and with it the buffer,
//! from submission until its completion was seen. Invariant: a buffer the kernel may still write to is never
//! reachable by anyone else, also when the future that asked was dropped.

use crate::buffer::Buf;
use crate::driver::Driver;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

impl Errno {
    /// The file system under a disk is full: nothing is wrong with what it holds.
    pub(crate) fn is_want_of_space(self) -> bool {
        self.0 == libc::ENOSPC || self.0 == libc::EDQUOT
    }
}

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

/// An operation that found no free slot. Whoever asked first gets the next one: only the holder of the first
/// ticket may claim, however often or late the others are polled.
struct Waiter {
    ticket: u64,
    waker: Option<Waker>,
}

/// The slots of one core. Fixed at start: an operation beyond the last slot waits its turn in the caller.
pub(crate) struct OperationTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// In the order of their tickets.
    waiting: VecDeque<Waiter>,
    tickets: u64,
    /// By the driver's disk number: the flag that ends the disk.
    disks: Vec<Option<Arc<AtomicBool>>>,
}

impl OperationTable {
    pub(crate) fn new(count: usize) -> OperationTable {
        let slots = (0..count).map(|_| Slot { state: State::Free, operation: None }).collect();
        let free = (0..u32::try_from(count).expect("slot count fits u32")).rev().collect();
        OperationTable {
            slots,
            free,
            waiting: VecDeque::with_capacity(64),
            tickets: 0,
            disks: Vec::with_capacity(16),
        }
    }

    /// From now on a failed flush or durable write of `disk` sets `ended`, also when nobody waits for it any more:
    /// the system reports such a failure once, and the next flush may well succeed without the lost write.
    pub(crate) fn disk_ends(&mut self, disk: u32, ended: Arc<AtomicBool>) {
        let index = disk as usize;
        if self.disks.len() <= index {
            self.disks.resize_with(index + 1, || None);
        }
        self.disks[index] = Some(ended);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A slot for `operation`, or the operation back with the ticket to come again with. `ticket` is what an
    /// earlier call gave.
    fn claim(&mut self, operation: Operation, ticket: Option<u64>) -> Result<OperationId, (Operation, u64)> {
        let first = self.waiting.front().map(|waiter| waiter.ticket);
        if first != ticket || self.free.is_empty() {
            let ticket = ticket.unwrap_or_else(|| {
                self.tickets += 1;
                self.waiting.push_back(Waiter { ticket: self.tickets, waker: None });
                self.tickets
            });
            return Err((operation, ticket));
        }
        if ticket.is_some() {
            self.waiting.pop_front();
        }
        let index = self.free.pop().expect("seen above");
        let slot = &mut self.slots[index as usize];
        assert!(matches!(slot.state, State::Free), "a free slot is free");
        *slot = Slot { state: State::Pending(None), operation: Some(operation) };
        self.wake_first_waiter();
        Ok(OperationId(index))
    }

    fn wake_first_waiter(&mut self) {
        if !self.free.is_empty()
            && let Some(first) = self.waiting.front_mut()
            && let Some(waker) = first.waker.take()
        {
            waker.wake();
        }
    }

    fn wait(&mut self, ticket: u64, waker: &Waker) {
        let at = self.waiting.binary_search_by_key(&ticket, |waiter| waiter.ticket);
        let waiter = &mut self.waiting[at.expect("a ticket stays until it is used or given up")];
        if !waiter.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            waiter.waker = Some(waker.clone());
        }
    }

    fn give_up(&mut self, ticket: u64) {
        let at = self.waiting.binary_search_by_key(&ticket, |waiter| waiter.ticket);
        self.waiting.remove(at.expect("a ticket stays until it is used or given up"));
        // It may have been woken for a slot that it does not take any more.
        self.wake_first_waiter();
    }

    fn release(&mut self, id: OperationId) -> Option<Operation> {
        let slot = &mut self.slots[id.0 as usize];
        slot.state = State::Free;
        let operation = slot.operation.take();
        self.free.push(id.0);
        self.wake_first_waiter();
        operation
    }

    /// Operations the driver has not completed yet.
    pub(crate) fn pending(&self) -> impl Iterator<Item = OperationId> + '_ {
        (0_u32..).zip(&self.slots).filter_map(|(index, slot)| {
            matches!(slot.state, State::Pending(_) | State::Abandoned).then_some(OperationId(index))
        })
    }

    /// The operation in a slot, for the driver that fills its submission from it.
    pub(crate) fn operation_mut(&mut self, id: OperationId) -> &mut Operation {
        self.slots[id.0 as usize].operation.as_mut().expect("an operation in flight has its slot")
    }

    /// Called by the driver exactly once per operation.
    pub(crate) fn complete(&mut self, id: OperationId, result: Result<u32, Errno>) -> Option<Orphan> {
        let slot = &mut self.slots[id.0 as usize];
        if let Err(errno) = result
            && let Some(Operation::DiskFlush { disk } | Operation::DiskWrite { disk, durable: true, .. }) =
                slot.operation
            && !errno.is_want_of_space()
            && let Some(Some(ended)) = self.disks.get(disk as usize)
        {
            // Release: who sees the flag (`Disk::ended`) also sees that the flush had failed.
            ended.store(true, Ordering::Release);
        }
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
    /// No slot yet: the operation and its ticket.
    Waiting(Operation, u64),
    Submitted(OperationId),
    Finished,
}

impl InFlight {
    pub(crate) fn start(
        table: &Rc<RefCell<OperationTable>>,
        driver: &Rc<dyn Driver>,
        operation: Operation,
    ) -> InFlight {
        let mut this =
            InFlight { table: Rc::clone(table), driver: Rc::clone(driver), stage: Stage::Finished };
        this.submit(operation, None);
        this
    }

    fn submit(&mut self, operation: Operation, ticket: Option<u64>) {
        let claimed = self.table.borrow_mut().claim(operation, ticket);
        match claimed {
            Ok(id) => {
                self.stage = Stage::Submitted(id);
                self.driver.submit(id);
            }
            Err((operation, ticket)) => self.stage = Stage::Waiting(operation, ticket),
        }
    }
}

impl Future for InFlight {
    type Output = (Result<u32, Errno>, Operation);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Stage::Waiting(..) = self.stage
            && let Stage::Waiting(operation, ticket) = std::mem::replace(&mut self.stage, Stage::Finished)
        {
            self.submit(operation, Some(ticket));
        }
        let id = match self.stage {
            Stage::Submitted(id) => id,
            Stage::Waiting(_, ticket) => {
                self.table.borrow_mut().wait(ticket, context.waker());
                return Poll::Pending;
            }
            Stage::Finished => panic!("polled after completion"),
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
        if let Stage::Waiting(_, ticket) = self.stage {
            self.table.borrow_mut().give_up(ticket);
        }
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
