//! The end of a turn, the same under each host. A *turn* polls ready tasks for a while, then enters the kernel at most
//! once, to submit what they asked for, to collect what has completed, and, when no task is ready, to sleep. Without
//! work there is no turn: an idle core costs nothing. The core sleeps here and nowhere else: whatever can wake a task
//! (completion, bell of a peer, timer) ends this sleep.

use super::driver::UringDriver;
use super::ring::Wait;
use crate::driver::Driver;
use crate::io::Io;
use std::rc::Rc;

/// A turn ends after this long, so that completions of short requests are not kept waiting by ready tasks. A task's
/// own step may be longer; background work keeps below a millisecond.
pub(crate) const TURN_NS_MAX: u64 = 200_000;
/// A turn ends after this many polls.
pub(crate) const TURN_POLL_COUNT_MAX: usize = 256;

/// What a core does between the polls of its tasks.
pub(crate) struct Turn {
    io: Io,
    driver: Rc<UringDriver>,
    /// How long to look for work before sleeping, after a turn that had some.
    spin_ns: u64,
}

impl Turn {
    pub(crate) fn new(io: Io, driver: Rc<UringDriver>, spin_us: u64) -> Turn {
        Turn { io, driver, spin_ns: spin_us * 1000 }
    }

    pub(crate) fn io(&self) -> &Io {
        &self.io
    }

    pub(crate) fn driver(&self) -> &UringDriver {
        &self.driver
    }

    /// Submit, sleep unless a task is ready, collect, wake what is due. May come back without a ready task.
    pub(crate) fn end(&self, has_ready: bool, had_work: bool) {
        self.io.ring_bells();
        if has_ready {
            self.driver.ring().enter(Wait::No);
        } else if !(had_work && self.spin_ns > 0 && self.spin()) {
            self.sleep();
        }
        self.driver.reap();
        self.io.poll_inbound();
        self.io.fire_timers();
    }

    /// The main task has ended. Other tasks of this turn may have asked for something; nobody asks the kernel otherwise.
    pub(crate) fn last(&self) {
        self.io.ring_bells();
        self.driver.ring().enter(Wait::No);
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
