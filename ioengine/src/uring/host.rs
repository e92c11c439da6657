//! Our own host: runs a core's tasks on its thread and drives its ring. A *turn* polls ready tasks for a while, then
//! enters the kernel at most once, to submit what they asked for, to collect what has completed, and, when no task is
//! ready, to sleep. Without work there is no turn: an idle core costs nothing.

use super::driver::UringDriver;
use super::ring::Wait;
use crate::driver::Driver;
use crate::executor::{Executor, LocalFuture, Queue};
use crate::io::{Host, Io};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A turn ends after this long, so that completions of short requests are not kept waiting by ready tasks. A task's
/// own step may be longer; background work keeps below a millisecond.
const TURN_NS_MAX: u64 = 200_000;
/// A turn ends after this many polls.
const TURN_POLL_COUNT_MAX: usize = 256;

/// Spawns on our executor.
pub(super) struct OwnHost {
    pub(super) executor: Rc<Executor>,
}

impl Host for OwnHost {
    fn name(&self) -> &'static str {
        "own"
    }

    fn spawn(&self, queue: Queue, task: LocalFuture) {
        self.executor.spawn(queue, task);
    }
}

/// One core under our own host.
pub(super) struct OwnCore {
    io: Io,
    driver: Rc<UringDriver>,
    executor: Rc<Executor>,
    /// How long to look for work before sleeping, after a turn that had some.
    spin_ns: u64,
    running: Cell<bool>,
}

impl OwnCore {
    pub(super) fn new(io: Io, driver: Rc<UringDriver>, executor: Rc<Executor>, spin_us: u64) -> OwnCore {
        OwnCore { io, driver, executor, spin_ns: spin_us * 1000, running: Cell::new(false) }
    }

    pub(super) fn io(&self) -> &Io {
        &self.io
    }

    /// Run the core's tasks until `future` has finished.
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        assert!(!self.running.replace(true), "a core is run by one block_on at a time");
        let mut future = pin!(future);
        let waker = self.executor.root_waker();
        let mut context = Context::from_waker(waker);
        // A wake of an earlier future may stand in line still: a poll too many is always possible.
        waker.wake_by_ref();
        loop {
            let start = self.driver.now_ns();
            let mut last = start;
            let mut had_work = false;
            for _ in 0..TURN_POLL_COUNT_MAX {
                let cost = || self.lap(&mut last);
                if !self.executor.run_one(|_| 0, cost) {
                    break;
                }
                had_work = true;
                if self.executor.take_root_due() {
                    let polled = future.as_mut().poll(&mut context);
                    self.executor.charge(Queue::Foreground as usize, self.lap(&mut last));
                    if let Poll::Ready(out) = polled {
                        self.running.set(false);
                        // Other tasks of this turn may have asked for something; nobody asks the kernel otherwise.
                        self.io.ring_bells();
                        self.driver.ring().enter(Wait::No);
                        return out;
                    }
                }
                if last - start >= TURN_NS_MAX {
                    break;
                }
            }
            self.turn_end(had_work);
        }
    }

    fn lap(&self, last: &mut u64) -> u64 {
        let now = self.driver.now_ns();
        let cost = now - *last;
        *last = now;
        cost
    }

    fn turn_end(&self, had_work: bool) {
        self.io.ring_bells();
        if self.executor.has_ready() {
            self.driver.ring().enter(Wait::No);
        } else if !(had_work && self.spin_ns > 0 && self.spin()) {
            self.sleep();
        }
        self.driver.reap();
        self.io.poll_inbound();
        self.io.fire_timers();
    }

    /// Look for work for a while before sleeping: a peer's message then costs no wake-up. True if some came.
    fn spin(&self) -> bool {
        self.driver.ring().enter(Wait::No);
        let start = self.driver.now_ns();
        while self.driver.now_ns() - start < self.spin_ns {
            if self.driver.ring().has_news() {
                self.driver.ring().enter(Wait::No);
                return true;
            }
            if self.io.poll_inbound() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// Wait in the kernel until something completes, a peer rings or the next timer is due.
    fn sleep(&self) {
        let bell = self.driver.bell();
        bell.going_to_sleep();
        // Looked at after the flag is up: a peer that pushed before saw no flag, one that pushes now rings.
        let wait = if self.io.poll_inbound() {
            Wait::No
        } else {
            match self.io.next_timer() {
                None => Wait::Forever,
                Some(deadline) => match deadline.ns.saturating_sub(self.driver.now_ns()) {
                    0 => Wait::No,
                    ns => Wait::AtMost(ns),
                },
            }
        };
        self.driver.ring().enter(wait);
        bell.awake();
    }
}

impl Drop for OwnCore {
    fn drop(&mut self) {
        // In this order (contract 4): tasks, then their operations, then (with the last owner) the memory.
        self.executor.close();
        self.driver.teardown();
    }
}
