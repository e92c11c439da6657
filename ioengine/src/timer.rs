//! Timers of one core: a heap of deadlines. The host asks for the next deadline before it sleeps and fires what
//! is due after it woke. Granularity is the host's turn; a timer never fires early.

use crate::clock::Instant;
use crate::io::Io;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Pending timers. An entry whose sleeper is gone is dropped when due.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
    slots: Vec<Option<Waker>>,
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl Timers {
    fn register(&mut self, deadline: Instant, waker: Waker) -> (u32, u32) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.generations.push(0);
            u32::try_from(self.slots.len() - 1).expect("timers fit u32")
        });
        self.slots[slot as usize] = Some(waker);
        self.heap.push(Reverse((deadline, slot)));
        (slot, self.generations[slot as usize])
    }

    fn update(&mut self, (slot, generation): (u32, u32), waker: &Waker) {
        if self.generations[slot as usize] == generation
            && let Some(known) = &mut self.slots[slot as usize]
            && !known.will_wake(waker)
        {
            *known = waker.clone();
        }
    }

    fn forget(&mut self, (slot, generation): (u32, u32)) {
        // The heap entry stays until due; only the waker goes, so that a gone task is not woken.
        if self.generations[slot as usize] == generation {
            self.slots[slot as usize] = None;
        }
    }

    /// The earliest deadline, or none.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Wake everything due at `now`. Returns how many were woken.
    pub(crate) fn fire(&mut self, now: Instant) -> usize {
        let mut woken = 0;
        while let Some(&Reverse((deadline, slot))) = self.heap.peek() {
            if deadline > now {
                break;
            }
            self.heap.pop();
            self.generations[slot as usize] = self.generations[slot as usize].wrapping_add(1);
            self.free.push(slot);
            if let Some(waker) = self.slots[slot as usize].take() {
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
    registered: Option<(u32, u32)>,
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
