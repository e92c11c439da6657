//! After start, the tables of a shard allocate nothing, counted.
//!
//! Counted for the thread of the test alone: the harness allocates beside it when it likes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Bound;

use ioengine::Region;
use layout::key::Key;
use layout::units::{
    Incarnation, LogIndex, LogTime, RequestId, ShardIndex, Space, TabletIndex, Uuid, Version,
};
use shard::memtable::{Charge, Direction, Memtable, MemtableConfig, StreamRange};
use shard::recent::RecentKeys;
use shard::requests::{Outcome, RequestLimits, RequestTable, Seen};
use shard::versions::{Versions, VersionsOwner};

struct Counting;

thread_local! {
    // Made without an allocation, and never dropped: the allocator may ask for it at any time.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn tables_allocate_nothing_after_start() {
    let mut memtable = Memtable::new(MemtableConfig { bytes: 2 << 20, record_count_max: 2000, seed: 1 });
    let limits = RequestLimits { capacity: 100, horizon_us: 1000, horizon_min_us: 10 };
    let mut requests = RequestTable::new(limits, 1);
    let mut recent = RecentKeys::new(100, LogIndex(0), 1);
    let owner = VersionsOwner {
        device: Uuid([1; 16]),
        generation: 1,
        shard: ShardIndex(0),
        boot: Uuid([2; 16]),
        incarnation: Incarnation(2),
        previous_incarnation: Incarnation(1),
    };
    let region = Region::in_memory(&vec![0; Versions::region_bytes(100) / 8], u64::MAX);
    let (mut versions, _) = Versions::attach(region, &owner, 1);
    let value = [7u8; 200];

    let before = COUNT.get();
    let mut found = 0;
    for number in 0..3000u64 {
        let stream = [b's', (number % 7) as u8];
        let key = Key { space: Space(0), stream: &stream, time: number % 1400 };
        let (bucket, tablet, hash) = (key.bucket(), key.tablet(), memtable.key_hash(key));
        let version = Version::new(LogIndex(number + 1), 0, 0);
        let bytes = (number / 10) as usize % 200;
        let charge = Charge::write(stream.len(), bytes);
        memtable.admit(charge).expect("room");
        memtable.put(tablet, bucket, hash, key, version, 0, Some(&value[..bytes])).expect("admitted");
        memtable.release(charge);
        found += usize::from(memtable.get(hash, key).is_some());
        let (Key { space, stream, .. }, direction) = (key, Direction::Backward);
        found += memtable
            .stream_range(StreamRange { bucket, space, stream, times: 0..=u64::MAX, direction })
            .take(3)
            .count();

        let place = versions.place(tablet, key);
        let token = versions.begin_fill(place);
        versions.update(&place, version);
        assert_eq!(versions.lookup(&place), Some(version));
        assert!(!versions.fill(token, version));

        let id = RequestId { client: number, log_time: number, sequence: 0 };
        assert_eq!(requests.check(id, LogTime(number)), Seen::New);
        requests.record(id, Outcome { status: 0, version }, LogTime(number));
        recent.note(u128::from(number % 60), LogIndex(number + 1));
        found += usize::from(requests.digest() != recent.digest());
    }
    for tablet in TabletIndex::all() {
        found += memtable.range(tablet, Bound::Unbounded, Direction::Forward).count();
        versions.raise_generation(tablet);
        memtable.clear_tablet(tablet);
    }
    let count = COUNT.get() - before;
    assert_eq!(count, 0, "{found} found");
    assert!(found > 9000 && memtable.usage().record_count == 0);
}
