//! Our own host for tasks: ready queues with shares. The same executor runs a real core (between two enters of
//! its ring) and every simulated core (in virtual time).
//!
//! Beside its tasks an executor knows one *root*: a future that its host polls itself (`block_on`), so that it may
//! borrow. It takes its turn in the foreground queue like a task.
//!
//! Wakers are plain `std::task::Waker`s. They must be woken on the thread that polls the task: a task is woken
//! by completions, timers and rings of its own core only. Waking from elsewhere is our bug and stops the process.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A task before it is spawned. It never leaves its core.
pub type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Which ready queue a task belongs to. When several have work, they get processor time by their shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    /// Requests and journal.
    Foreground = 0,
    /// Peers and catch-up.
    Replication = 1,
    /// Compaction, seal and sink.
    Maintenance = 2,
    /// Scrub and verification.
    Scrub = 3,
}

/// Count of queues.
pub(crate) const QUEUE_COUNT: usize = 4;
/// Shares by queue: a busy neighbour of the foreground gets at most its part of a core.
pub(crate) const SHARES: [u64; QUEUE_COUNT] = [1000, 500, 100, 50];

/// Ready task numbers, one line per queue. Shared with wakers through the thread-local registry.
struct Ready {
    lines: RefCell<[VecDeque<u32>; QUEUE_COUNT]>,
}

thread_local! {
    /// Executors that live on this thread. Linear search is fine: one on a real core; the simulator keeps
    /// a live executor's position in the waker.
    static REGISTRY: RefCell<Vec<(u64, Weak<Ready>)>> = const { RefCell::new(Vec::new()) };
}

/// Numbers of executors and threads; only for telling them apart, so the order of allocation is enough.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

thread_local! {
    // Relaxed: the number only has to be unique.
    static THREAD: u64 = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
}

/// Tells threads apart, for wakers that must not leave theirs.
fn thread_number() -> u64 {
    THREAD.with(|&thread| thread)
}

/// Task number of the root in the ready lines and in its waker.
const ROOT: u32 = u32::MAX;

/// Of a task: it is ready, or finished, so that a wake changes nothing. Only the thread that polls the task touches it,
/// hence Relaxed; atomic because a waker is Sync by type.
pub(crate) struct Queued {
    thread: u64,
    queued: AtomicBool,
}

impl Queued {
    /// Of a task of this thread that is ready from the start.
    pub(crate) fn new() -> Queued {
        Queued { thread: thread_number(), queued: AtomicBool::new(true) }
    }

    /// It is ready. False if it was before.
    pub(crate) fn enter(&self) -> bool {
        assert!(
            thread_number() == self.thread,
            "a task is woken on the thread that runs it; cross-core waking goes over rings"
        );
        !self.queued.swap(true, Ordering::Relaxed)
    }

    /// It waits, or is polled.
    pub(crate) fn leave(&self) {
        self.queued.store(false, Ordering::Relaxed);
    }
}

struct TaskWaker {
    executor: u64,
    position: usize,
    task: u32,
    queue: Queue,
    queued: Queued,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.enter() {
            return;
        }
        REGISTRY.with_borrow(|registry| {
            let (executor, ready) = &registry[self.position];
            // Another executor took the place: the task's own is gone, and the task with it.
            if *executor == self.executor
                && let Some(ready) = ready.upgrade()
            {
                ready.lines.borrow_mut()[self.queue as usize].push_back(self.task);
            }
        });
    }
}

/// For a task that stands in a ready line from the start.
fn task_waker(executor: u64, position: usize, task: u32, queue: Queue) -> Arc<TaskWaker> {
    Arc::new(TaskWaker { executor, position, task, queue, queued: Queued::new() })
}

struct Task {
    /// Lent out while it is polled, with its waker: a clone of that at each poll would be two atomic operations.
    future: Option<(LocalFuture, Waker)>,
    state: Arc<TaskWaker>,
}

/// Tasks of one core.
pub(crate) struct Executor {
    number: u64,
    position: usize,
    ready: Rc<Ready>,
    tasks: RefCell<Vec<Option<Task>>>,
    free: RefCell<Vec<u32>>,
    /// Virtual run time of each queue: cost divided by share. The least runs next.
    passes: Cell<[u64; QUEUE_COUNT]>,
    /// Pass of the queue that ran last.
    clock: Cell<u64>,
    closed: Cell<bool>,
    root: (Waker, Arc<TaskWaker>),
    root_due: Cell<bool>,
}

/// How far a queue that wakes from idleness may stand behind, in cost units: a burst of one millisecond.
const LAG: u64 = 1_000_000;

impl Executor {
    pub(crate) fn new() -> Rc<Executor> {
        // Relaxed: the number only has to be unique.
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let ready =
            Rc::new(Ready { lines: RefCell::new(std::array::from_fn(|_| VecDeque::with_capacity(256))) });
        let position = REGISTRY.with_borrow_mut(|registry| {
            let entry = (number, Rc::downgrade(&ready));
            match registry.iter().position(|(_, ready)| ready.strong_count() == 0) {
                Some(position) => {
                    registry[position] = entry;
                    position
                }
                None => {
                    registry.push(entry);
                    registry.len() - 1
                }
            }
        });
        let root = task_waker(number, position, ROOT, Queue::Foreground);
        root.queued.leave();
        Rc::new(Executor {
            root: (Waker::from(Arc::clone(&root)), root),
            root_due: Cell::new(false),
            number,
            position,
            ready,
            tasks: RefCell::new(Vec::with_capacity(256)),
            free: RefCell::new(Vec::with_capacity(256)),
            passes: Cell::new([0; QUEUE_COUNT]),
            clock: Cell::new(0),
            closed: Cell::new(false),
        })
    }

    pub(crate) fn spawn(&self, queue: Queue, future: LocalFuture) {
        if self.closed.get() {
            return; // the core is being torn down: dropping the future is what its end means
        }
        let mut tasks = self.tasks.borrow_mut();
        let number = self.free.borrow_mut().pop().unwrap_or_else(|| {
            tasks.push(None);
            u32::try_from(tasks.len() - 1).expect("tasks fit u32")
        });
        let state = task_waker(self.number, self.position, number, queue);
        tasks[number as usize] =
            Some(Task { future: Some((future, Waker::from(Arc::clone(&state)))), state });
        self.ready.lines.borrow_mut()[queue as usize].push_back(number);
    }

    pub(crate) fn has_ready(&self) -> bool {
        self.ready.lines.borrow().iter().any(|line| !line.is_empty())
    }

    /// The queue with work that has had the least for its share. A queue that was idle does not save up a claim:
    /// it starts at most `LAG` behind whoever ran last.
    fn choose(&self) -> Option<usize> {
        let lines = self.ready.lines.borrow();
        let mut passes = self.passes.get();
        let floor = self.clock.get().saturating_sub(LAG);
        let mut least: Option<usize> = None;
        for queue in (0..QUEUE_COUNT).filter(|&queue| !lines[queue].is_empty()) {
            passes[queue] = passes[queue].max(floor);
            if least.is_none_or(|least| passes[queue] < passes[least]) {
                least = Some(queue);
            }
        }
        self.passes.set(passes);
        self.clock.set(passes[least?].max(self.clock.get()));
        least
    }

    /// Wakes the root.
    pub(crate) fn root_waker(&self) -> &Waker {
        &self.root.0
    }

    /// The root's turn has come since the last call: poll it now, and charge the foreground queue for it.
    pub(crate) fn take_root_due(&self) -> bool {
        self.root_due.replace(false)
    }

    /// Account `cost` (nanoseconds, or any unit that is the same for all) to `queue`.
    pub(crate) fn charge(&self, queue: usize, cost: u64) {
        let mut passes = self.passes.get();
        passes[queue] += cost.max(1) * SHARES[0] / SHARES[queue];
        self.passes.set(passes);
    }

    /// Run one ready task of the queue whose turn it is; `pick` chooses among the `count` ready tasks of that
    /// queue (0 = the longest waiting), `cost` measures what the poll took. False when nothing was ready.
    pub(crate) fn run_one(&self, pick: impl FnOnce(usize) -> usize, cost: impl FnOnce() -> u64) -> bool {
        let Some(queue) = self.run_uncharged(pick) else { return false };
        self.charge(queue, cost());
        true
    }

    /// [`Executor::run_one`] without charging for it: returns the queue to charge.
    pub(crate) fn run_uncharged(&self, pick: impl FnOnce(usize) -> usize) -> Option<usize> {
        let queue = self.choose()?;
        let number = {
            let mut lines = self.ready.lines.borrow_mut();
            let count = lines[queue].len();
            let at = pick(count);
            if at == 0 { lines[queue].pop_front() } else { lines[queue].remove(at) }
        }
        .expect("the chosen line holds the picked task");
        self.poll(number);
        Some(queue)
    }

    /// Another queue than this one has work, too.
    pub(crate) fn has_ready_beside(&self, queue: usize) -> bool {
        self.ready.lines.borrow().iter().enumerate().any(|(other, line)| other != queue && !line.is_empty())
    }

    fn poll(&self, number: u32) {
        if number == ROOT {
            self.root.1.queued.leave();
            self.root_due.set(true);
            return;
        }
        let (mut future, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            // Absent: it has finished, or all were dropped.
            let Some(Some(task)) = tasks.get_mut(number as usize) else { return };
            task.state.queued.leave();
            // Absent while it is being polled further up this stack: cannot happen, polls do not nest.
            task.future.take().expect("a task is polled by one at a time")
        };
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => {
                if let Some(Some(task)) = self.tasks.borrow_mut().get_mut(number as usize) {
                    task.future = Some((future, waker));
                }
            }
            Poll::Ready(()) => {
                drop(future);
                // Absent when the executor was closed from within this poll.
                let task = self.tasks.borrow_mut().get_mut(number as usize).and_then(Option::take);
                if let Some(task) = task {
                    // A stale waker of the finished task must never queue the number for whoever takes it over. Should
                    // the number stand in a ready line already, the next owner gets one poll too many: harmless.
                    task.state.queued.enter();
                    self.free.borrow_mut().push(number);
                }
            }
        }
    }

    /// Drop every task: the core ends. New spawns are dropped too.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        loop {
            let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            if tasks.is_empty() {
                break;
            }
            drop(tasks); // outside the borrow: drops may wake or spawn
        }
        self.ready.lines.borrow_mut().iter_mut().for_each(VecDeque::clear);
        self.free.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUES: [Queue; QUEUE_COUNT] =
        [Queue::Foreground, Queue::Replication, Queue::Maintenance, Queue::Scrub];

    /// Polls of tasks that never stop asking, by queue.
    struct Busy {
        executor: Rc<Executor>,
        polls: Rc<[Cell<u64>; QUEUE_COUNT]>,
    }

    impl Busy {
        fn new() -> Busy {
            Busy { executor: Executor::new(), polls: Rc::default() }
        }

        fn add(&self, queue: Queue, task_count: usize) {
            for _ in 0..task_count {
                let polls = Rc::clone(&self.polls);
                let busy = std::future::poll_fn(move |context| {
                    let count = &polls[queue as usize];
                    count.set(count.get() + 1);
                    context.waker().wake_by_ref();
                    Poll::<()>::Pending
                });
                self.executor.spawn(queue, Box::pin(busy));
            }
        }

        /// `poll_count` polls, each of `cost`; the polls of each queue meanwhile.
        fn run(&self, poll_count: usize, cost: u64) -> [u64; QUEUE_COUNT] {
            self.polls.iter().for_each(|count| count.set(0));
            for _ in 0..poll_count {
                assert!(self.executor.run_one(|_| 0, || cost));
            }
            std::array::from_fn(|queue| self.polls[queue].get())
        }
    }

    #[test]
    fn busy_queues_share_by_their_shares() {
        let busy = Busy::new();
        for (queue, task_count) in QUEUES.into_iter().zip([3, 1, 5, 2]) {
            busy.add(queue, task_count);
        }
        let polls = busy.run(16_500, 10_000);
        for (queue, &count) in polls.iter().enumerate() {
            let due = SHARES[queue] * 10;
            assert!(count.abs_diff(due) <= due / 50 + 2, "queue {queue}: {count} polls of {due}");
        }
    }

    #[test]
    fn shares_are_of_time_not_of_polls() {
        let busy = Busy::new();
        busy.add(Queue::Foreground, 1);
        busy.add(Queue::Maintenance, 1);
        let mut time = [0_u64; QUEUE_COUNT];
        for _ in 0..20_000 {
            let before = busy.polls[0].get();
            // A step of maintenance takes fifty times as long.
            busy.executor.run_one(
                |_| 0,
                || {
                    let (queue, cost) = if busy.polls[0].get() > before { (0, 1000) } else { (2, 50_000) };
                    time[queue] += cost;
                    cost
                },
            );
        }
        let ratio = time[0] as f64 / time[2] as f64;
        assert!((9.5..10.5).contains(&ratio), "foreground to maintenance {ratio}");
    }

    #[test]
    fn an_idle_queue_saves_up_no_claim() {
        let busy = Busy::new();
        busy.add(Queue::Foreground, 1);
        busy.run(100_000, 10_000);
        busy.add(Queue::Scrub, 1);
        // A second of processor time has passed; scrub may catch up with one millisecond of share-weighted time.
        let polls = busy.run(1000, 10_000);
        let at_most = LAG / (10_000 * SHARES[0] / SHARES[3]) + 2 + 1000 / 20;
        assert!(polls[3] <= at_most, "{} polls of a queue that was idle, at most {at_most}", polls[3]);
        assert!(polls[3] >= 40, "and it is not starved: {}", polls[3]);
    }

    #[test]
    fn the_root_takes_turns_with_the_foreground() {
        let busy = Busy::new();
        busy.add(Queue::Foreground, 3);
        let mut polls = 0;
        busy.executor.root_waker().wake_by_ref();
        busy.executor.root_waker().wake_by_ref();
        for _ in 0..400 {
            busy.executor.run_one(|_| 0, || 1);
            if busy.executor.take_root_due() {
                polls += 1;
                busy.executor.root_waker().wake_by_ref();
            }
        }
        assert_eq!(polls, 100, "one of four");
    }

    #[test]
    fn finished_tasks_are_not_woken_and_their_numbers_serve_again() {
        let executor = Executor::new();
        let stale: Rc<RefCell<Option<Waker>>> = Rc::default();
        let kept = Rc::clone(&stale);
        let once = std::future::poll_fn(move |context| {
            *kept.borrow_mut() = Some(context.waker().clone());
            Poll::Ready(())
        });
        executor.spawn(Queue::Foreground, Box::pin(once));
        assert!(executor.run_one(|_| 0, || 1));
        stale.borrow().as_ref().expect("polled once").wake_by_ref();
        assert!(!executor.has_ready(), "woken after its end");
        for _ in 0..10 {
            executor.spawn(Queue::Foreground, Box::pin(async {}));
            assert!(executor.run_one(|_| 0, || 1));
        }
        assert_eq!(executor.tasks.borrow().len(), 1);
        executor.spawn(Queue::Scrub, Box::pin(std::future::pending()));
        executor.close();
        stale.borrow().as_ref().expect("polled once").wake_by_ref();
        assert!(!executor.run_one(|_| 0, || 1));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a thread that is no core is what this is about")]
    fn waking_from_another_thread_is_our_bug() {
        let executor = Executor::new();
        let waker = executor.root_waker().clone();
        assert!(std::thread::spawn(move || waker.wake_by_ref()).join().is_err());
    }
}
