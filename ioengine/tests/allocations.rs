//! In a steady state the engine allocates nothing: not for a poll, a wake, a timer, a buffer, an operation of a disk
//! or a stream, nor for a message between cores. Counted on the core's own thread, after a while of the same.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use ioengine::ring::mesh;
use ioengine::sync::{Notify, yield_now};
use ioengine::uring::{Runtime, create_file};
use ioengine::{CoreConfig, Io, Launcher, Queue};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes on to the system's allocator unchanged; the counter is const-initialised and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(pointer, layout) };
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: by the caller's contract.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Rounds before counting: tables and lines have grown to what the work needs.
const WARM_COUNT: usize = 500;
const COUNTED_COUNT: usize = 500;

/// Run `round` many times and panic if the later half allocates.
async fn steady(what: &str, mut round: impl AsyncFnMut()) {
    for _ in 0..WARM_COUNT {
        round().await;
    }
    let before = COUNT.get();
    for _ in 0..COUNTED_COUNT {
        round().await;
    }
    let count = COUNT.get() - before;
    assert_eq!(count, 0, "{what}: {count} allocations in {COUNTED_COUNT} rounds");
}

async fn polls_wakes_and_timers(io: &Io) {
    let (ping, pong) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
    let (heard, answer) = (Rc::clone(&ping), Rc::clone(&pong));
    io.spawn(Queue::Maintenance, async move {
        loop {
            heard.notified().await;
            answer.notify();
        }
    });
    yield_now().await;
    steady("wakes between tasks", async || {
        let answered = pong.notified();
        ping.notify();
        answered.await;
    })
    .await;
    steady("timers", async || {
        io.sleep(Duration::from_micros(20)).await;
        let long = io.timeout(Duration::from_secs(1000), yield_now()).await;
        assert!(long.is_ok());
    })
    .await;
    steady("buffers", async || {
        let taken: [_; 6] = std::array::from_fn(|number| io.buffer(4096 << (number * 7 % 5)));
        assert!(taken.iter().all(Option::is_some));
    })
    .await;
}

async fn disk(io: &Io) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk");
    create_file(&path, 1 << 20).unwrap();
    let disk = io.open_disk(path.to_str().unwrap(), Default::default()).unwrap();
    steady("disk operations", async || {
        let buffer = io.buffer(4096).unwrap();
        let (result, buffer) = disk.write(buffer, 8192, 4096).await;
        result.unwrap();
        disk.flush().await.unwrap();
        let (result, buffer) = disk.write_durable(buffer, 4096, 4096).await;
        result.unwrap();
        disk.read(buffer, 0, 4096).await.0.unwrap();
    })
    .await;
}

async fn streams(io: &Io) {
    let listener = io.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let near = io.connect(listener.address()).await.unwrap();
    let far = listener.accept().await.unwrap();
    let echo = io.buffer(4096).unwrap();
    io.spawn(Queue::Foreground, async move {
        let mut buffer = echo;
        loop {
            let (received, back) = far.receive(buffer, 0..4096).await;
            let Ok(count @ 1..) = received else { return };
            buffer = far.send(back, 0..count).await.1;
        }
    });
    steady("streams", async || {
        let (result, buffer) = near.send(io.buffer(4096).unwrap(), 0..64).await;
        result.unwrap();
        let (result, _) = near.receive(buffer, 0..64).await;
        assert!(result.unwrap() > 0);
    })
    .await;
}

async fn messages(io: &Io) {
    let mut ports = mesh(2, 4096);
    let (theirs, ours) = (ports.remove(1), ports.remove(0));
    let echo = async move |io: Io| {
        let (mut sender, mut receiver) = theirs.attach(&io).remove(0).unwrap();
        let mut scratch = Vec::new();
        while !sender.is_abandoned() {
            receiver.ready().await;
            receiver.pop(&mut scratch, |bytes| assert!(sender.push(&[bytes]))).unwrap();
        }
    };
    let core = Launcher::Threads.launch(CoreConfig::small("echo", 1), move |io| async move {
        // Ends with the process: nobody rings it once this side has gone.
        echo(io).await;
    });
    drop(core.unwrap());
    let (mut sender, mut receiver) = ours.attach(io).remove(1).unwrap();
    let mut scratch = Vec::with_capacity(4096);
    steady("messages between cores", async || {
        assert!(sender.push(&[b"to", b"gether"]));
        receiver.ready().await;
        receiver.pop(&mut scratch, |bytes| assert_eq!(bytes, b"together")).unwrap();
    })
    .await;
}

#[test]
fn a_steady_state_allocates_nothing() {
    let runtime = Runtime::new(CoreConfig::small("counted", 0)).unwrap();
    let io = runtime.io();
    runtime.block_on(async {
        polls_wakes_and_timers(io).await;
        disk(io).await;
        streams(io).await;
        messages(io).await;
    });
}
