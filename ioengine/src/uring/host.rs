//! Our own host: runs a core's tasks on its thread, turn by turn.

use super::turn::{TURN_NS_MAX, TURN_POLL_COUNT_MAX, Turn};
use crate::driver::Driver;
use crate::executor::{Executor, LocalFuture, Queue};
use crate::io::{Host, Io};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// While one queue alone has work, the clock is looked at after this many polls; else after each.
const POLL_COUNT_PER_LOOK: usize = 8;

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
    turn: Turn,
    executor: Rc<Executor>,
    running: Cell<bool>,
}

impl OwnCore {
    pub(super) fn new(turn: Turn, executor: Rc<Executor>) -> OwnCore {
        OwnCore { turn, executor, running: Cell::new(false) }
    }

    pub(super) fn io(&self) -> &Io {
        self.turn.io()
    }

    /// Run the core's tasks until `future` has finished.
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        assert!(!self.running.replace(true), "a core is run by one block_on at a time");
        let mut future = pin!(future);
        let waker = self.executor.root_waker();
        let mut context = Context::from_waker(waker);
        // A wake of an earlier future may stand in line still: a poll too many is always possible.
        waker.wake_by_ref();
        // Time may have passed since the last call.
        self.io().fire_timers();
        loop {
            let start = self.io().turn_began().ns;
            let mut last = start;
            let mut had_work = false;
            let (mut unmeasured, mut ran) = (0, Queue::Foreground as usize);
            for _ in 0..TURN_POLL_COUNT_MAX {
                let Some(queue) = self.executor.run_uncharged(|_| 0) else { break };
                had_work = true;
                (unmeasured, ran) = (unmeasured + 1, queue);
                if self.executor.take_root_due() {
                    // The root runs in the foreground queue, and is charged to it below.
                    if let Poll::Ready(out) = future.as_mut().poll(&mut context) {
                        self.running.set(false);
                        self.turn.last();
                        return out;
                    }
                }
                if unmeasured < POLL_COUNT_PER_LOOK && !self.executor.has_ready_beside(queue) {
                    continue;
                }
                self.executor.charge(queue, self.lap(&mut last));
                unmeasured = 0;
                if last - start >= TURN_NS_MAX {
                    break;
                }
            }
            if unmeasured > 0 {
                self.executor.charge(ran, self.lap(&mut last));
            }
            self.turn.end(self.executor.has_ready(), had_work);
        }
    }

    fn lap(&self, last: &mut u64) -> u64 {
        let now = self.turn.driver().now_ns();
        let cost = now - *last;
        *last = now;
        cost
    }
}

impl Drop for OwnCore {
    fn drop(&mut self) {
        // In this order (contract 4): tasks, then their operations, then (with the last owner) the memory.
        self.executor.close();
        self.turn.driver().teardown();
    }
}
