//! A get from memory allocates nothing on the core that answers it, and one through a cache only for the batch it leaves with: counted
//! over loopback, on the real engine, between two moments while a client asks. The allocator of this test counts per thread.

use ioengine::uring::Runtime;
use ioengine::{CoreConfig, Stream};
use perf::cache_target::InProcessCache;
use perf::load::wire::thermocline::ThermoclineWire;
use perf::load::wire::{Next, Wire};
use perf::target::{InProcess, NodePlan, Target};
use perf::workloads::Workload;
use perf::workloads::get_memory::GetMemory;
use shard::limits::Limits;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Threads that are counted; the test starts fewer.
const THREADS: usize = 64;

struct Counting;

static COUNTS: [AtomicU64; THREADS] = [const { AtomicU64::new(0) }; THREADS];
/// Kernel's number of the thread at each place.
static NUMBERS: [AtomicU64; THREADS] = [const { AtomicU64::new(0) }; THREADS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static PLACE: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn count() {
    // Gone while a thread ends: those are not counted.
    let _ = PLACE.try_with(|place| {
        if place.get() == usize::MAX {
            place.set(NEXT.fetch_add(1, Ordering::Relaxed));
            // SAFETY: asks the kernel for a number, touches no memory.
            let number = unsafe { libc::gettid() };
            if let Some(of) = NUMBERS.get(place.get()) {
                of.store(u64::from(number.cast_unsigned()), Ordering::Release);
            }
        }
        if let Some(count) = COUNTS.get(place.get()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting touches only atomics and a Cell.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of a thread so far.
fn allocations(thread: u32) -> u64 {
    let place = NUMBERS.iter().position(|number| number.load(Ordering::Acquire) == u64::from(thread));
    place.map_or(0, |place| COUNTS[place].load(Ordering::Relaxed))
}

/// Whose threads are whose is seen by who starts them: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// One connection.
struct Client {
    stream: Stream,
    wire: ThermoclineWire,
}

/// `count` requests of `workload` in one go, and their answers.
async fn ask(io: &ioengine::Io, client: &mut Client, workload: &mut impl Workload, count: u32) {
    let room = count as usize * workload.request_bytes_max();
    let (mut out, mut bytes, mut asked) = (io.buffer(room).expect("the arena is large"), 0, 0);
    while asked < count
        && let Some(request) = workload.next()
    {
        bytes += client.wire.request(&request, asked, &mut out[bytes..]);
        asked += 1;
    }
    client.stream.send(out, 0..bytes).await.0.expect("the node is there");
    let (mut input, mut filled, mut answered) = (io.buffer(1 << 20).expect("the arena is large"), 0, 0);
    while answered < asked {
        let end = input.len();
        let (result, back) = client.stream.receive(input, filled..end).await;
        input = back;
        filled += result.expect("the node is there");
        let mut at = 0;
        while let Next::Answer(answer, taken) = client.wire.next(&input[at..filled]).expect("it answers") {
            assert_eq!(answer.heard, perf::load::meter::Heard::Outcome(net::outcome::OutcomeCode::Ok));
            answered += 1;
            at += taken;
        }
        input.copy_within(at..filled, 0);
        filled -= at;
    }
}

/// A connection to a node that listens there.
async fn connect(io: &ioengine::Io, address: SocketAddr) -> Client {
    let mut wire = ThermoclineWire::new(7, 64);
    let stream = io.connect(address).await.expect("the node is there");
    let mut out = io.buffer(4096).expect("the arena is large");
    let bytes = wire.open(&mut out);
    let out = stream.send(out, 0..bytes).await.1;
    let end = out.len();
    let (count, input) = stream.receive(out, 0..end).await;
    let count = count.expect("the node is there");
    assert_eq!(wire.opened(&input[..count]), Ok(Some(count)));
    Client { stream, wire }
}

fn start(folder: &tempfile::TempDir) -> InProcess {
    let plan = NodePlan {
        dir: folder.path().to_owned(),
        journal_bytes: 64 << 20,
        table_bytes: 64 << 20,
        // The mark that the journal gets once writes have ended is no part of a get.
        limits: Limits { mark_after: Duration::from_secs(3600), ..Limits::default() },
        host: ioengine::HostKind::Own,
        spin_us: 0,
        cpu: None,
    };
    InProcess::start(&plan).expect("a folder on a disk is all it needs")
}

/// The thread of a node of one core in this process.
fn thread_of(target: &Target) -> u32 {
    let perf::load::CpuOf::Threads(threads) = &target.cpu else { panic!("it runs here") };
    let [thread] = threads[..] else { panic!("a node of one core has one thread") };
    thread
}

#[test]
fn a_get_from_memory_allocates_nothing() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = start(&folder);
    let shard = thread_of(node.target());
    let runtime = Runtime::new(CoreConfig { arena_bytes: 64 << 20, ..CoreConfig::small("asks", 0) }).unwrap();
    let io = runtime.io().clone();
    let address = node.target().address;
    let (before, after) = runtime.block_on(async move {
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(connect(&io, address).await);
        }
        let mut gets = GetMemory::new(10_000, 1);
        let mut history = gets.history(7);
        for _ in 0..20 {
            ask(&io, &mut clients[0], &mut history, 32).await;
        }
        assert!(history.next().is_none(), "everything was written");
        // Buffers of connections grow in the first rounds, and every list finds its size.
        let round = async |clients: &mut Vec<Client>, gets: &mut GetMemory| {
            for client in clients {
                ask(&io, client, gets, 32).await;
                ask(&io, client, gets, 1).await;
            }
        };
        for _ in 0..200 {
            round(&mut clients, &mut gets).await;
        }
        let before = allocations(shard);
        for _ in 0..500 {
            round(&mut clients, &mut gets).await;
        }
        (before, allocations(shard))
    });
    assert!(before > 0, "the allocations of the shard's thread are counted");
    assert_eq!(after - before, 0, "allocations during 66,000 gets");
}

/// What the cache allocates at most for a get that comes alone: 13 as it is, a question of one key on its way to the store and back.
const LONE_MAX: f64 = 16.0;
/// And for each of 64 that come together: 0.55 as it is. One copy of a key is more than this leaves room for.
const TOGETHER_MAX: f64 = 1.0;

/// Each get is asked of the store, and its value is one that the cache holds.
#[test]
fn a_get_through_a_cache_allocates_for_its_batch_and_not_for_its_key() {
    const LONE: u32 = 2_000;
    const TOGETHER: u32 = 64;
    const ROUNDS: u32 = 500;
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let node = start(&folder);
    let cache = InProcessCache::start(node.target(), 10_000, None).unwrap();
    let core = thread_of(cache.target());
    let runtime = Runtime::new(CoreConfig { arena_bytes: 64 << 20, ..CoreConfig::small("asks", 0) }).unwrap();
    let io = runtime.io().clone();
    let (store, address) = (node.target().address, cache.target().address);
    let (lone, together) = runtime.block_on(async move {
        let mut gets = GetMemory::new(10_000, 1);
        let mut history = gets.history(7);
        let mut of_store = connect(&io, store).await;
        for _ in 0..20 {
            ask(&io, &mut of_store, &mut history, 32).await;
        }
        assert!(history.next().is_none(), "everything was written");
        let mut client = connect(&io, address).await;
        for _ in 0..1_000 {
            ask(&io, &mut client, &mut gets, TOGETHER).await;
        }
        let before = allocations(core);
        for _ in 0..LONE {
            ask(&io, &mut client, &mut gets, 1).await;
        }
        let between = allocations(core);
        for _ in 0..ROUNDS {
            ask(&io, &mut client, &mut gets, TOGETHER).await;
        }
        let after = allocations(core);
        let lone = (between - before) as f64 / f64::from(LONE);
        (lone, (after - between) as f64 / f64::from(ROUNDS * TOGETHER))
    });
    println!("allocations of a get that comes alone {lone:.2}, of one of {TOGETHER} together {together:.2}");
    assert!(lone > 0.0 && lone <= LONE_MAX, "{lone} for a get that comes alone");
    assert!(together <= TOGETHER_MAX, "{together} for one of {TOGETHER} that come together");
}
