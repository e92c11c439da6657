//! One simulated core: the real executor, its operations, timers and rings, driven one poll at a time. A turn is a
//! batch of polls: completions and timers are looked at when it begins, bells are rung when it ends, and other
//! cores' events fall between its polls.

use super::driver::SimDriver;
use super::node::ProcessState;
use super::queue::Event;
use super::trace::Tag;
use super::world::Shared;
use crate::executor::{Executor, LocalFuture, Queue};
use crate::io::{Host, Io};
use crate::launch::CoreConfig;
use crate::operation::{Errno, OperationId, OperationTable, Orphan};
use crate::ring::Bell;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// Makes the main task once the core runs.
pub(crate) type Start = Box<dyn FnOnce(Io) -> LocalFuture>;

struct SimHost {
    executor: Rc<Executor>,
}

impl Host for SimHost {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn spawn(&self, queue: Queue, task: LocalFuture) {
        self.executor.spawn(queue, task);
    }
}

pub(crate) struct SimCore {
    pub(crate) id: u32,
    pub(crate) node: u32,
    pub(crate) process: Rc<ProcessState>,
    pub(crate) table: Rc<RefCell<OperationTable>>,
    pub(crate) executor: Rc<Executor>,
    pub(crate) io: Io,
    bell: Arc<Bell>,
    start: RefCell<Option<Start>>,
    main_done: Rc<Cell<bool>>,
    ending: Cell<bool>,
    /// A step is scheduled, running, or withheld while the process is stopped.
    awake: Cell<bool>,
    withheld: Cell<bool>,
    /// Polls left in this turn.
    turn_left: Cell<u64>,
    /// Time of the `Timer` event that counts; others are stale.
    timer_at: Cell<u64>,
    /// Completions not looked at yet.
    completed: RefCell<VecDeque<(OperationId, Result<u32, Errno>)>>,
}

impl SimCore {
    pub(crate) fn new(
        shared: &Rc<Shared>,
        id: u32,
        node: u32,
        process: &Rc<ProcessState>,
        config: &CoreConfig,
        start: Start,
    ) -> std::io::Result<Rc<SimCore>> {
        let executor = Executor::new();
        let table = Rc::new(RefCell::new(OperationTable::new(config.operation_count_max)));
        let bell = Bell::new(u64::from(id));
        let driver = Rc::new(SimDriver::new(
            shared,
            id,
            node,
            Rc::clone(process),
            Rc::clone(&table),
            Arc::clone(&bell),
        ));
        let host = Rc::new(SimHost { executor: Rc::clone(&executor) });
        let arena = crate::buffer::Arena::new(config.arena_bytes)?;
        let io = Io::new(config.index, driver, host, Rc::clone(&table), arena);
        Ok(Rc::new(SimCore {
            id,
            node,
            process: Rc::clone(process),
            table,
            executor,
            io,
            bell,
            start: RefCell::new(Some(start)),
            main_done: Rc::new(Cell::new(false)),
            ending: Cell::new(false),
            awake: Cell::new(false),
            withheld: Cell::new(false),
            turn_left: Cell::new(0),
            timer_at: Cell::new(u64::MAX),
            completed: RefCell::default(),
        }))
    }

    /// The kernel has finished an operation; the core sees it when its next turn begins.
    pub(crate) fn complete(&self, shared: &Shared, id: OperationId, result: Result<u32, Errno>) {
        self.completed.borrow_mut().push_back((id, result));
        self.wake(shared);
    }

    /// Something is there for this core: have it take a step, unless it is awake anyway.
    pub(crate) fn wake(&self, shared: &Shared) {
        if !self.awake.replace(true) {
            let delay = shared.draw(&shared.config.wake_ns);
            shared.push(delay, Event::Step { core: self.id });
        }
    }

    /// Whether it sleeps although it has something to do: someone outside the world woke a task.
    pub(crate) fn overslept(&self) -> bool {
        !self.awake.get() && self.executor.has_ready()
    }

    /// The stopped process goes on.
    pub(crate) fn resume(&self, shared: &Shared) {
        if self.withheld.replace(false) {
            shared.push(shared.draw(&shared.config.wake_ns), Event::Step { core: self.id });
        }
    }

    /// A `Timer` event scheduled for `time` fires.
    pub(crate) fn timer_fires(&self, shared: &Shared, time: u64) {
        if self.timer_at.get() != time {
            return;
        }
        self.timer_at.set(u64::MAX);
        if self.awake.get() {
            return; // its next turn looks at the timers itself
        }
        if self.io.next_timer().is_some_and(|due| due.ns <= time) {
            self.wake(shared);
        } else {
            self.arrange_timer(shared);
        }
    }

    fn arrange_timer(&self, shared: &Shared) {
        let Some(due) = self.io.next_timer() else { return };
        if due.ns == u64::MAX {
            return; // the end of time
        }
        let late = shared.draw(&(0..shared.config.timer_late_ns + 1));
        let at = due.ns.max(shared.now()).saturating_add(late);
        if at < self.timer_at.get() {
            self.timer_at.set(at);
            shared.push_at(at, Event::Timer { core: self.id });
        }
    }

    /// Completions that arrived, in any order; streams that nobody waits for any more are closed.
    fn drain_completed(&self, shared: &Shared) {
        loop {
            let next = {
                let mut completed = self.completed.borrow_mut();
                let count = completed.len();
                let at = if count > 1 && shared.config.shuffle_tasks { shared.below(count) } else { 0 };
                completed.swap_remove_front(at)
            };
            let Some((id, result)) = next else { return };
            let orphan = self.table.borrow_mut().complete(id, result);
            if let Some(Orphan::Stream(stream)) = orphan {
                shared.stream_close(stream);
            }
        }
    }

    fn begin_turn(&self, shared: &Shared) {
        self.bell.awake();
        self.drain_completed(shared);
        self.io.fire_timers();
        self.io.poll_inbound();
        self.turn_left.set(1 + shared.draw(&(0..shared.config.turn_polls_max)));
        let start = self.start.borrow_mut().take();
        if let Some(start) = start {
            shared.trace.note(shared.now(), Tag::CoreStarts, u64::from(self.id), self.io.core_index() as u64);
            let main = start(self.io.clone());
            let done = Rc::clone(&self.main_done);
            let main = Box::pin(async move {
                main.await;
                done.set(true);
            });
            self.executor.spawn(Queue::Foreground, main);
        }
    }

    /// One poll, and what belongs before and after it. Returns when the next step is due, or `None` when the core
    /// sleeps, was stopped or has ended.
    pub(crate) fn step(&self, shared: &Shared) -> Option<u64> {
        if self.process.paused.get() {
            self.withheld.set(true);
            return None;
        }
        if self.turn_left.get() == 0 {
            self.begin_turn(shared);
        }
        let cost = shared.draw(&shared.config.poll_ns).max(1);
        let mut picked = 0;
        self.executor.run_one(
            |count| {
                picked = if count > 1 && shared.config.shuffle_tasks { shared.below(count) } else { 0 };
                picked
            },
            || cost,
        );
        shared.trace.note(shared.now(), Tag::Poll, u64::from(self.id), picked as u64);
        if !self.process.alive.get() {
            return None; // killed by what it did itself; the world tears it down
        }
        if self.main_done.get() && !self.ending.replace(true) {
            shared.trace.note(shared.now(), Tag::CoreEnds, u64::from(self.id), 0);
            self.executor.close();
            self.io.ring_bells();
        }
        if self.ending.get() {
            self.drain_completed(shared);
            if self.table.borrow().in_flight() == 0 {
                shared.core_ended(self);
                return None;
            }
            if self.completed.borrow().is_empty() {
                self.turn_left.set(0);
                self.awake.set(false);
                return None;
            }
            return Some(shared.now() + cost);
        }
        let left = self.turn_left.get() - 1;
        self.turn_left.set(left);
        if left == 0 || !self.executor.has_ready() {
            self.turn_left.set(0);
            self.io.ring_bells();
            if !self.executor.has_ready() && self.completed.borrow().is_empty() && self.sleeps(shared) {
                return None;
            }
        }
        Some(shared.now() + cost)
    }

    /// Try to sleep; false if something came in meanwhile.
    fn sleeps(&self, shared: &Shared) -> bool {
        self.bell.going_to_sleep();
        if self.io.poll_inbound() {
            self.bell.awake();
            return false;
        }
        self.awake.set(false);
        shared.trace.note(shared.now(), Tag::Sleep, u64::from(self.id), 0);
        self.arrange_timer(shared);
        true
    }

    /// Drop every task: the process was killed. No operation of theirs has any effect any more.
    pub(crate) fn tear_down(&self) {
        self.start.borrow_mut().take();
        self.executor.close();
    }
}
