//! A put as async steps (a task per request that waits for its record) against explicit stages (requests staged, one
//! task that commits and answers): what the control flow alone costs, with a record that is durable at once.
//!
//!     cargo run --release -p ioengine --example put_both_ways

#![expect(clippy::print_stdout, reason = "a measurement prints its result")]

use ioengine::sync::{Notify, yield_now};
use ioengine::uring::Runtime;
use ioengine::{CoreConfig, Io, Queue};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

/// Requests that arrive together, as from 64 writers.
const BATCH: u64 = 64;
const ROUNDS: u64 = 20_000;

#[derive(Default)]
struct Core {
    staged: RefCell<Vec<u64>>,
    durable: Cell<u64>,
    arrived: Notify,
    committed: Notify,
    answered: Cell<u64>,
}

async fn commit(core: Rc<Core>, answer: bool) {
    let mut flying = Vec::with_capacity(BATCH as usize);
    loop {
        while core.staged.borrow().is_empty() {
            core.arrived.notified().await;
        }
        std::mem::swap(&mut *core.staged.borrow_mut(), &mut flying);
        if answer {
            core.answered.set(core.answered.get() + flying.len() as u64);
        }
        core.durable.set(flying.last().copied().unwrap_or(0));
        flying.clear();
        core.committed.notify();
    }
}

async fn put(core: Rc<Core>, number: u64) {
    core.staged.borrow_mut().push(number);
    core.arrived.notify();
    while core.durable.get() < number {
        core.committed.notified().await;
    }
    core.answered.set(core.answered.get() + 1);
}

async fn round(io: &Io, core: &Rc<Core>, first: u64, tasks: bool) {
    for number in first..first + BATCH {
        if tasks {
            io.spawn(Queue::Foreground, put(Rc::clone(core), number));
        } else {
            core.staged.borrow_mut().push(number);
            core.arrived.notify();
        }
    }
    while core.answered.get() < first + BATCH - 1 {
        yield_now().await;
    }
}

fn measure(tasks: bool) -> (f64, f64) {
    let runtime = Runtime::new(CoreConfig::small("put", 0)).expect("a core");
    let io = runtime.io().clone();
    let core = Rc::new(Core::default());
    core.staged.borrow_mut().reserve(BATCH as usize);
    io.spawn(Queue::Foreground, commit(Rc::clone(&core), !tasks));
    runtime.block_on(async {
        for warm in 0..100 {
            round(&io, &core, 1 + warm * BATCH, tasks).await;
        }
        let (before, start) = (ALLOCATIONS.load(Ordering::Relaxed), io.now());
        for n in 100..100 + ROUNDS {
            round(&io, &core, 1 + n * BATCH, tasks).await;
        }
        let puts = (ROUNDS * BATCH) as f64;
        let ns = io.now().since(start).as_nanos() as f64 / puts;
        (ns, (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / puts)
    })
}

fn main() {
    for _ in 0..5 {
        let (stages, tasks) = (measure(false), measure(true));
        println!(
            "stages {:.1} ns, {:.2} allocations; a task per put {:.1} ns, {:.2} allocations; ratio {:.1}",
            stages.0,
            stages.1,
            tasks.0,
            tasks.1,
            tasks.0 / stages.0
        );
    }
}
