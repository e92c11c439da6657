//! Encoding and decoding allocate nothing, counted.
//!
//! Counted on the test's own thread: the harness allocates on its own whenever it likes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use layout::journal_record::{
    FrameChecksum, JournalIdentity, RecordFields, RecordKind, RecordWriter, classify_frame, read_record,
};
use layout::key::Key;
use layout::log_entry::{Change, EntryIter, Operation, Write, append_entry};
use layout::superblock::{Superblock, copy_offset};
use layout::units::{
    DiskOffset, Incarnation, LogIndex, LogTime, RequestId, Sequence, ShardIndex, Space, TabletIndex, Uuid,
    Version,
};
use layout::version_cell::{Row, row_and_tag};

struct Counting;

thread_local! {
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

/// Allocations while `body` ran. Relaxed: one thread counts and reads.
fn allocations(body: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    body();
    COUNT.get() - before
}

#[test]
fn encoding_and_decoding_allocate_nothing() {
    let identity = JournalIdentity { device: Uuid([7; 16]), shard: ShardIndex(0), generation: 1 };
    let fields = RecordFields {
        kind: RecordKind::Entries,
        incarnation: Incarnation(1),
        sequence: Sequence(2),
        previous_incarnation: Incarnation(1),
        previous_sequence: Sequence(1),
        flushed_sequence: Sequence(1),
        memtable_number: 0,
    };
    let at = DiskOffset(1 << 20);
    let tablet = TabletIndex::new(5).expect("below 64");
    let key = Key { space: Space(0), stream: b"user-1", time: 9 };
    let value = [3; 700];
    let write = Write {
        key,
        request: RequestId { client: 1, log_time: 2, sequence: 3 },
        expiry_us: 0,
        atomic_with_next: false,
        change: Change::Put { value: &value },
    };
    let operations = [Operation::Write(write); 20];
    let mut buffer = vec![0; 64 << 10];
    let mut body = Vec::with_capacity(64 << 10);
    let image = include_bytes!("../golden/superblock_copy_1.bin");

    let counted = allocations(|| {
        let checksum = FrameChecksum::new(identity);
        let mut writer = RecordWriter::new(&mut buffer);
        let header = append_entry(&mut writer, tablet, LogIndex(1), LogTime(2), operations.iter().copied());
        assert!(header.is_some());
        let written = writer.seal_with(&checksum, at, fields);
        buffer[..written].chunks(512).for_each(|frame| {
            let _ = classify_frame(identity, at, frame);
        });
        assert!(read_record(identity, at, &buffer[..written], &mut body).is_ok());
        let entries = EntryIter::new(&body).flatten();
        assert_eq!(entries.flat_map(|entry| entry.operations()).flatten().count(), 20);

        let (_, tag) = row_and_tag(tablet, 1, &key, 1000);
        let mut cells = Row::EMPTY.decode().expect("an empty row");
        cells.insert(tag, Version(1 << 16));
        assert!(cells.encode().stores()[8].1 != 0);

        assert!(Superblock::decode(image, copy_offset(1)).is_ok());
    });
    assert_eq!(counted, 0);
    assert!(allocations(|| drop(vec![1u8; 10])) > 0, "the counter counts");
}
