//! glommio as host: its `LocalExecutor` queues the tasks and shares the processor among them; our private ring does
//! all I/O, timers and sleep, as under our own host. Owns the tasks' futures, so that the end of a core drops them as
//! our own host does.
//!
//! ```text
//!   tasks ── glommio's queues ── keeper: the task that ends turns ── Turn ── ring
//! ```
//!
//! glommio must never sleep itself. It can do so with runnable tasks: when anything has completed on its latency ring
//! (its preemption timer, above all) before the first task ran, it takes that for "nothing to do" and sleeps until
//! the next event, which may never come. So:
//! - the *keeper*, a task like any other, sleeps in our ring when no task of the node is ready. Invariant: the keeper
//!   is runnable, or a task of the node is; glommio never finds all its queues empty while the core runs;
//! - nothing of ours uses glommio's rings, and its preemption timer runs longer than any machine takes the processor
//!   away. Turns end by count and time instead, and with them the turn of a queue.

use crate::driver::Driver;
use crate::executor::{LocalFuture, QUEUE_COUNT, Queue, Queued, SHARES};
use crate::io::{Host, Io};
use crate::launch::{CoreConfig, LaunchError};
use crate::uring::{
    Parts, Refusal, Report, TURN_NS_MAX, TURN_POLL_COUNT_MAX, Turn, UringDriver, launch_error, lay_out, pin,
    started,
};
use glommio::{
    Latency, LocalExecutor, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle, executor,
    spawn_local_into,
};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Memory for glommio's own I/O, in bytes. It does none; this is close to the least it takes.
const HOST_IO_BYTES: usize = 64 << 10;
/// Longer than a core is ever without its processor between two lines of glommio's loop.
const PREEMPT: Duration = Duration::from_secs(3600);
const QUEUE_MADE: &str = "the queue was made with the host and is never removed";

/// Counts a task as ready from its wake to its poll, and passes the wake on to glommio. One waker of glommio's per
/// task, whoever holds ours: it counts its wakers in 15 bits.
struct SlotWaker {
    /// Tasks of the core that are ready. Relaxed and atomic for the same reasons as `queued`.
    ready: Arc<AtomicUsize>,
    queued: Queued,
    inner: OnceLock<Waker>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.enter() {
            return;
        }
        self.ready.fetch_add(1, Ordering::Relaxed);
        self.inner.get().expect("a task that is not queued has been polled").wake_by_ref();
    }
}

struct Slot {
    /// Absent while it is polled.
    future: Option<LocalFuture>,
    /// glommio's handle; dropping it would cancel.
    task: Option<glommio::Task<()>>,
}

struct GlommioHost {
    this: Weak<GlommioHost>,
    queues: [TaskQueueHandle; QUEUE_COUNT],
    driver: Rc<UringDriver>,
    slots: RefCell<Vec<Option<Slot>>>,
    free: RefCell<Vec<usize>>,
    closed: Cell<bool>,
    ready: Arc<AtomicUsize>,
    turn: Progress,
}

/// How far the turn has come, and whom to call at its end.
#[derive(Default)]
struct Progress {
    start_ns: Cell<u64>,
    polls: Cell<usize>,
    /// The main task has finished: no more turns.
    main_ended: Cell<bool>,
    keeper: RefCell<Option<Waker>>,
}

/// Polls the future in a slot: what glommio runs.
struct SlotTask {
    host: Rc<GlommioHost>,
    number: usize,
    state: Arc<SlotWaker>,
    /// Of `state`.
    waker: Waker,
}

impl Future for SlotTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (host, state) = (&self.host, &self.state);
        let future = host.slots.borrow_mut()[self.number].as_mut().and_then(|slot| slot.future.take());
        // Absent: the core has closed, and this is the poll that ends the task.
        let Some(mut future) = future else { return Poll::Ready(()) };
        state.inner.get_or_init(|| context.waker().clone());
        state.queued.leave();
        let before = state.ready.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a task that is polled was counted as ready");
        let polled = future.as_mut().poll(&mut Context::from_waker(&self.waker));
        let mut slots = host.slots.borrow_mut();
        if polled.is_pending() {
            if let Some(slot) = &mut slots[self.number] {
                slot.future = Some(future);
            }
            drop(slots);
            host.polled();
            return Poll::Pending;
        }
        let slot = slots[self.number].take();
        host.free.borrow_mut().push(self.number);
        drop(slots);
        drop(future); // outside the borrow: it may spawn
        if !state.queued.enter() {
            // Woken during its last poll; glommio forgets that.
            state.ready.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(task) = slot.and_then(|slot| slot.task) {
            drop(task.detach());
        }
        host.polled();
        Poll::Ready(())
    }
}

impl Host for GlommioHost {
    fn name(&self) -> &'static str {
        "glommio"
    }

    fn spawn(&self, queue: Queue, future: LocalFuture) {
        if self.closed.get() {
            return; // the core is being torn down: dropping the future is what its end means
        }
        let host = self.this.upgrade().expect("called through the host's own Rc");
        let slot = Some(Slot { future: Some(future), task: None });
        let number = match self.free.borrow_mut().pop() {
            Some(number) => {
                self.slots.borrow_mut()[number] = slot;
                number
            }
            None => {
                let mut slots = self.slots.borrow_mut();
                slots.push(slot);
                slots.len() - 1
            }
        };
        let ready = Arc::clone(&self.ready);
        self.ready.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(SlotWaker { ready, queued: Queued::new(), inner: OnceLock::new() });
        let waker = Waker::from(Arc::clone(&state));
        let task = SlotTask { host, number, state, waker };
        let task = spawn_local_into(task, self.queues[queue as usize]).expect(QUEUE_MADE);
        let mut slots = self.slots.borrow_mut();
        slots[number].as_mut().expect("a spawn runs nothing").task = Some(task);
    }
}

impl GlommioHost {
    fn new(driver: Rc<UringDriver>) -> Rc<GlommioHost> {
        let names = ["foreground", "replication", "maintenance", "scrub"];
        let queues = std::array::from_fn(|queue| make_queue(SHARES[queue], names[queue]));
        Rc::new_cyclic(|this| GlommioHost {
            this: this.clone(),
            queues,
            driver,
            slots: RefCell::default(),
            free: RefCell::default(),
            closed: Cell::new(false),
            ready: Arc::default(),
            turn: Progress::default(),
        })
    }

    fn has_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) > 0
    }

    /// A task was polled: call the keeper when that ends the turn.
    fn polled(&self) {
        let turn = &self.turn;
        turn.polls.set(turn.polls.get() + 1);
        let idle = !self.has_ready() || turn.main_ended.get();
        let full = turn.polls.get() >= TURN_POLL_COUNT_MAX
            || self.driver.now_ns() - turn.start_ns.get() >= TURN_NS_MAX;
        if !idle && !full {
            return;
        }
        if let Some(keeper) = &*turn.keeper.borrow() {
            keeper.wake_by_ref();
        }
        // The first poll of this future marks the running queue, so that glommio takes the next; the rest of the
        // future has no meaning outside a task of its own.
        let glommio = executor();
        let give_way = pin!(glommio.yield_task_queue_now());
        assert!(give_way.poll(&mut Context::from_waker(Waker::noop())).is_pending(), "it gives way once");
    }

    /// Drop every task and wait until glommio has let go of it.
    async fn close(&self) {
        self.closed.set(true);
        let slots = std::mem::take(&mut *self.slots.borrow_mut());
        let (futures, tasks): (Vec<_>, Vec<_>) =
            slots.into_iter().flatten().map(|slot| (slot.future, slot.task)).unzip();
        // The tasks find no slot any more; their table stays as long as they are polled.
        self.slots.borrow_mut().resize_with(tasks.len() + self.free.borrow().len(), || None);
        drop(futures);
        for task in tasks.into_iter().flatten() {
            task.cancel().await;
        }
    }
}

/// Ends turns until the main task has finished. Pending only while a task of the node is ready.
struct Keeper {
    host: Rc<GlommioHost>,
    turn: Turn,
}

impl Future for Keeper {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let progress = &self.host.turn;
        loop {
            if progress.main_ended.get() {
                self.turn.last();
                return Poll::Ready(());
            }
            self.turn.end(self.host.has_ready(), progress.polls.replace(0) > 0);
            progress.start_ns.set(self.turn.driver().now_ns());
            if self.host.has_ready() {
                let mut keeper = progress.keeper.borrow_mut();
                if !keeper.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                    *keeper = Some(context.waker().clone());
                }
                return Poll::Pending;
            }
        }
    }
}

fn make_queue(shares: u64, name: &str) -> TaskQueueHandle {
    let shares = usize::try_from(shares).expect("shares are small");
    executor().create_task_queue(Shares::Static(shares), Latency::NotImportant, name)
}

fn make_executor(config: &CoreConfig) -> Result<LocalExecutor, LaunchError> {
    LocalExecutorBuilder::new(config.cpu.map_or(Placement::Unbound, Placement::Fixed))
        .name(&config.name)
        .io_memory(HOST_IO_BYTES)
        .preempt_timer(PREEMPT)
        .make()
        .map_err(|error| {
            let mend = "raise the limit of locked memory (ulimit -l) to 512 KiB, or choose the own host";
            launch_error(&config.name, Refusal::new(format!("glommio does not start: {error}"), mend))
        })
}

/// Run a core on this thread under glommio, until `main` has ended.
pub(crate) fn run<F, M>(config: &CoreConfig, report: &Report, main: F) -> Result<(), LaunchError>
where
    F: FnOnce(Io) -> M,
    M: Future<Output = ()> + 'static,
{
    // First, so that a processor that is not there is told as such.
    pin(config)?;
    let executor = make_executor(config)?;
    let Parts { arena, table, driver } = lay_out(config)?;
    executor.run(async {
        let host = GlommioHost::new(Rc::clone(&driver));
        let io = Io::new(config.index, Rc::clone(&driver) as _, Rc::clone(&host) as _, table, arena);
        started(report);
        let (main, ending) = (main(io.clone()), Rc::clone(&host));
        io.spawn(Queue::Foreground, async move {
            main.await;
            ending.turn.main_ended.set(true);
        });
        let turn = Turn::new(io, Rc::clone(&driver), config.spin_us);
        let keeper = Keeper { host: Rc::clone(&host), turn };
        spawn_local_into(keeper, make_queue(SHARES[0], "keeper")).expect(QUEUE_MADE).await;
        // In this order (contract 4): tasks, then their operations, then the memory.
        host.close().await;
        driver.teardown();
    });
    Ok(())
}
