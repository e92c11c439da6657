//! Timers of one core: a heap of deadlines. The host asks for the next deadline before it sleeps and fires what
//! is due after it woke. Granularity is the host's turn; a timer never fires early.
//!
//! A sleeper that goes away leaves a stale heap entry behind. When more than half are stale the heap is cleaned,
//! so a timeout of seconds around each of many short requests costs neither memory nor wake-ups.

use crate::clock::Instant;
use crate::io::Io;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Stale entries that are not worth a cleaning.
const STALE_COUNT_FREE: usize = 64;

/// Ordered by deadline, then by registration: equal deadlines fire in the order they were asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    deadline: Instant,
    sequence: u64,
    slot: u32,
    generation: u32,
}

struct Slot {
    waker: Option<Waker>,
    /// Counts the timers this slot has served: an entry or a handle of another generation is stale.
    generation: u32,
}

/// Pending timers.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    sequence: u64,
    stale: usize,
}

/// A registered timer.
#[derive(Clone, Copy)]
struct Handle {
    slot: u32,
    generation: u32,
}

impl Timers {
    fn register(&mut self, deadline: Instant, waker: Waker) -> Handle {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { waker: None, generation: 0 });
            u32::try_from(self.slots.len() - 1).expect("timers fit u32")
        });
        let state = &mut self.slots[slot as usize];
        state.waker = Some(waker);
        self.sequence += 1;
        let generation = state.generation;
        self.heap.push(Reverse(Entry { deadline, sequence: self.sequence, slot, generation }));
        Handle { slot, generation }
    }

    fn slot(&mut self, handle: Handle) -> Option<&mut Slot> {
        let slot = &mut self.slots[handle.slot as usize];
        (slot.generation == handle.generation).then_some(slot)
    }

    fn update(&mut self, handle: Handle, waker: &Waker) {
        if let Some(Slot { waker: Some(known), .. }) = self.slot(handle)
            && !known.will_wake(waker)
        {
            *known = waker.clone();
        }
    }

    fn release(&mut self, slot: u32) -> Option<Waker> {
        let state = &mut self.slots[slot as usize];
        state.generation = state.generation.wrapping_add(1);
        self.free.push(slot);
        state.waker.take()
    }

    fn forget(&mut self, handle: Handle) {
        if self.slot(handle).is_some() {
            self.release(handle.slot);
            self.stale += 1;
            if self.stale > STALE_COUNT_FREE && self.stale * 2 > self.heap.len() {
                let slots = &self.slots;
                self.heap.retain(|Reverse(entry)| slots[entry.slot as usize].generation == entry.generation);
                self.stale = 0;
            }
        }
    }

    /// The earliest entry somebody waits for.
    fn first(&mut self) -> Option<Entry> {
        loop {
            let Reverse(entry) = *self.heap.peek()?;
            if self.slots[entry.slot as usize].generation == entry.generation {
                return Some(entry);
            }
            self.heap.pop();
            self.stale -= 1;
        }
    }

    /// The earliest deadline, or none.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        self.first().map(|entry| entry.deadline)
    }

    /// Wake everything due at `now`. Returns how many were woken.
    pub(crate) fn fire(&mut self, now: Instant) -> usize {
        let mut woken = 0;
        while let Some(entry) = self.first() {
            if entry.deadline > now {
                break;
            }
            self.heap.pop();
            if let Some(waker) = self.release(entry.slot) {
                waker.wake();
                woken += 1;
            }
        }
        woken
    }
}

/// Resolves once the clock has reached its deadline.
pub struct Sleep {
    io: Io,
    deadline: Instant,
    registered: Option<Handle>,
}

impl Sleep {
    pub(crate) fn new(io: Io, deadline: Instant) -> Sleep {
        Sleep { io, deadline, registered: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.io.now() >= self.deadline {
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        let io = self.io.clone();
        let mut timers = io.timers().borrow_mut();
        match self.registered {
            Some(handle) => timers.update(handle, context.waker()),
            None => self.registered = Some(timers.register(deadline, context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(handle) = self.registered {
            self.io.timers().borrow_mut().forget(handle);
        }
    }
}

/// A wait reached its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not finished within its deadline")]
pub struct TimedOut;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Order(Arc<AtomicUsize>, AtomicUsize);

    impl Wake for Order {
        fn wake(self: Arc<Self>) {
            self.1.store(self.0.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    fn at(ns: u64) -> Instant {
        Instant { ns }
    }

    #[test]
    fn fires_what_is_due_in_order_of_deadline_then_of_asking() {
        let mut timers = Timers::default();
        let count = Arc::new(AtomicUsize::new(0));
        let sleepers: Vec<Arc<Order>> = [30, 10, 20, 10]
            .into_iter()
            .map(|deadline| {
                let order = Arc::new(Order(Arc::clone(&count), AtomicUsize::new(0)));
                timers.register(at(deadline), Waker::from(Arc::clone(&order)));
                order
            })
            .collect();
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.fire(at(9)), 0);
        assert_eq!(timers.fire(at(29)), 3);
        assert_eq!(timers.next(), Some(at(30)));
        assert_eq!(timers.fire(at(30)), 1);
        let order: Vec<usize> = sleepers.iter().map(|sleeper| sleeper.1.load(Ordering::Relaxed)).collect();
        assert_eq!(order, [4, 1, 3, 2]);
    }

    #[test]
    fn forgotten_timers_leave_nothing_behind() {
        let mut timers = Timers::default();
        let kept = timers.register(at(7), Waker::noop().clone());
        for number in 0..100_000 {
            let handle = timers.register(at(1_000_000 + number), Waker::noop().clone());
            timers.forget(handle);
            timers.forget(handle);
        }
        assert!(timers.heap.len() < 3 * STALE_COUNT_FREE, "{} entries", timers.heap.len());
        assert!(timers.slots.len() < 3);
        assert_eq!(timers.next(), Some(at(7)));
        timers.forget(kept);
        assert_eq!(timers.next(), None, "no wake-up for who is gone");
    }
}
