//! The steps that must not get worse. Owns what each case sets up and does; each goes through one call of [`counted`].

use super::merging::Merging;
use super::voting::Voting;
use ioengine::ring::mesh;
use ioengine::sim::{NodeConfig, World, WorldConfig};
use ioengine::{CoreConfig, Region};
use layout::key::{Key, bucket_of, tablet_of};
use layout::table_block::{Block, BlockBuilder};
use layout::table_directory::{Directory, write_directory};
use layout::table_key::{encode_key, key_hash};
use layout::table_seal::{
    BlockChecksum, BlockKind, Compression, Compressor, Decompressor, TableIdentity, open_block, seal_block,
};
use layout::units::{
    Incarnation, LogTime, RequestId, ShardIndex, Space, TableId, TabletIndex, Uuid, Version,
};
use net::Operation;
use net::frame::{BODY_BYTES_MAX, HEADER_BYTES, next_frame, seal};
use net::operation::REPLY_BIT;
use net::reply::{encode_get_ok, reply_bytes_get_ok};
use net::request::{Get, Put, Request};
use net::route::{ClusterMap, Router};
use shard::memtable::{Memtable, MemtableConfig};
use shard::versions::{Versions, VersionsOwner};
use std::hint::black_box;
use std::net::SocketAddr;

/// A step that is counted.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// How often [`Case::run`] does it.
    pub(super) operations: u64,
    pub(super) run: fn(),
}

const MANY: u64 = 20_000;
const FEW: u64 = 500;
/// Records of memtable and version cells: more than fits the caches.
const RECORDS: u64 = 1 << 16;
const VALUE_BYTES: usize = 128;
/// Gets that go together, as one frame of a pipelining client brings them.
const BATCH: usize = 32;

pub(super) const ALL: [Case; 15] = [
    Case { name: "decode a get", operations: MANY, run: decode_get },
    Case { name: "decode a put of 128 bytes", operations: MANY, run: decode_put },
    Case { name: "answer a get of 128 bytes", operations: MANY, run: answer_get },
    Case { name: "route a stream", operations: MANY, run: route },
    Case { name: "version cell, found, 32 at once", operations: MANY, run: version_found },
    Case { name: "version cell, changed", operations: MANY, run: version_changed },
    Case { name: "memtable get", operations: MANY, run: memtable_get },
    Case { name: "memtable put", operations: MANY, run: memtable_put },
    Case { name: "block search", operations: MANY, run: block_search },
    Case { name: "block search by directory", operations: MANY, run: directory_search },
    Case { name: "directory of a block of 4 KiB", operations: FEW, run: make_directory },
    Case { name: "check and unpack a block of 4 KiB", operations: FEW, run: unpack },
    Case { name: "merge step", operations: MANY, run: merge_step },
    Case { name: "Paxos, an entry of three replicas", operations: FEW, run: paxos_entry },
    Case { name: "ring hop of 128 bytes", operations: MANY, run: ring_hop },
];

/// What callgrind counts: it knows this function by its name.
#[inline(never)]
pub(super) fn counted(operations: u64, step: &mut dyn FnMut(u64)) {
    for number in 0..operations {
        step(number);
    }
}

/// Numbers in an order that no cache likes, the same each time.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20
}

fn stream(number: u64) -> [u8; 16] {
    let mut name = *b"stream-000000000";
    let digits = format!("{:09}", number % 1_000_000_000);
    name[7..].copy_from_slice(digits.as_bytes());
    name
}

fn streams() -> Vec<[u8; 16]> {
    (0..RECORDS).map(stream).collect()
}

fn key(stream: &[u8]) -> Key<'_> {
    Key { space: Space(1), stream, time: 1_700_000_000_000_000 }
}

fn value() -> Vec<u8> {
    (0..VALUE_BYTES as u64).map(|at| b'a' + (scattered(at) % 16) as u8).collect()
}

/// A frame with this request.
fn framed(operation: Operation, request: &Request<'_>) -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    request.encode(&mut frame);
    seal(&mut frame, operation.code(), 7, 1);
    frame
}

fn decode(frame: &[u8]) {
    counted(MANY, &mut |_| {
        let found = next_frame(black_box(frame), BODY_BYTES_MAX).expect("a frame just made is right");
        let found = found.expect("it is whole");
        black_box(Request::decode(found.header.operation, found.body).expect("so is its request"));
    });
}

fn decode_get() {
    let name = stream(1);
    let get = Get { key: key(&name), local: false, if_newer: None, redirect: false };
    decode(&framed(Operation::Get, &Request::Get(get)));
}

fn decode_put() {
    let (name, value) = (stream(1), value());
    let id = RequestId { client: 9, log_time: 5, sequence: 3 };
    let put = Put { id, key: key(&name), expiry: 0, value: &value };
    decode(&framed(Operation::Put, &Request::Put(put)));
}

fn answer_get() {
    let value = value();
    let mut frame = vec![0; HEADER_BYTES + reply_bytes_get_ok(VALUE_BYTES)];
    counted(MANY, &mut |number| {
        let body = &mut frame[HEADER_BYTES..];
        encode_get_ok(body, LogTime(number), Version(number), 0, black_box(&value));
        seal(&mut frame, Operation::Get.code() | REPLY_BIT, number, 1);
        black_box(&frame);
    });
}

fn route() {
    let address = SocketAddr::from(([127, 0, 0, 1], 7420));
    let router = Router::new(ClusterMap::single(Uuid([1; 16]), 1, address, 8)).expect("one node is a map");
    let streams = streams();
    counted(MANY, &mut |number| {
        let place = router.place(Space(1), black_box(&streams[(number % RECORDS) as usize]));
        black_box(router.shard(1, place.tablet));
    });
}

/// Version cells of [`RECORDS`] keys.
fn versions(streams: &[[u8; 16]]) -> Versions {
    let owner = VersionsOwner {
        device: Uuid([1; 16]),
        generation: 1,
        shard: ShardIndex(0),
        boot: Uuid([2; 16]),
        incarnation: Incarnation(2),
        previous_incarnation: Incarnation(1),
    };
    let words = vec![0; Versions::region_bytes(RECORDS as usize) / size_of::<u64>()];
    let (mut versions, _) = Versions::attach(Region::in_memory(&words, u64::MAX), &owner, 77);
    for name in streams {
        let place = versions.place(tablet(name), key(name));
        versions.update(&place, Version(5));
    }
    versions
}

fn tablet(name: &[u8]) -> TabletIndex {
    tablet_of(bucket_of(Space(1), name))
}

fn version_found() {
    let streams = streams();
    let mut versions = versions(&streams);
    // Of whom the tablet is known: the route has hashed the stream.
    let tablets: Vec<TabletIndex> = streams.iter().map(|name| tablet(name)).collect();
    let mut places = Vec::with_capacity(BATCH);
    counted(MANY, &mut |number| {
        // A batch brings the rows of all near, then looks.
        let at = (scattered(number) % RECORDS) as usize;
        let place = versions.place(tablets[at], key(&streams[at]));
        versions.prefetch(&place);
        places.push(place);
        if places.len() == BATCH {
            for place in places.drain(..) {
                black_box(versions.lookup(&place));
            }
        }
    });
    assert!(versions.counters().hit_count > MANY / 2, "what was written is found");
}

fn version_changed() {
    let streams = streams();
    let mut versions = versions(&streams);
    let tablets: Vec<TabletIndex> = streams.iter().map(|name| tablet(name)).collect();
    counted(MANY, &mut |number| {
        let at = (scattered(number) % RECORDS) as usize;
        let place = versions.place(tablets[at], key(&streams[at]));
        versions.update(&place, Version(10 + number));
    });
}

fn memtable(streams: &[[u8; 16]], value: &[u8]) -> Memtable {
    let config = MemtableConfig { bytes: 64 << 20, record_count_max: 2 * RECORDS as usize, seed: 3 };
    let mut memtable = Memtable::new(config);
    streams.iter().for_each(|name| put(&mut memtable, name, 1, value));
    memtable
}

fn put(memtable: &mut Memtable, name: &[u8], version: u64, value: &[u8]) {
    let (key, bucket) = (key(name), bucket_of(Space(1), name));
    let hash = memtable.key_hash(key);
    let done = memtable.put(tablet_of(bucket), bucket, hash, key, Version(version), 0, Some(value));
    done.expect("the memtable has room for all");
}

fn memtable_get() {
    let streams = streams();
    let memtable = memtable(&streams, &value());
    counted(MANY, &mut |number| {
        let key = key(&streams[(scattered(number) % RECORDS) as usize]);
        let hash = memtable.key_hash(key);
        assert!(black_box(memtable.get(hash, key)).is_some(), "it was put");
    });
}

fn memtable_put() {
    let (streams, value) = (streams(), value());
    let (before, new) = streams.split_at(streams.len() - MANY as usize);
    let mut memtable = memtable(before, &value);
    // Not in the order of their names.
    let step = 7_919;
    counted(MANY, &mut |number| {
        put(&mut memtable, &new[(number * step % MANY) as usize], 2, &value);
    });
    assert_eq!(memtable.usage().record_count, streams.len(), "each was put");
}

/// A block of about 4 KiB of every so manyth stream from one on, and its keys.
fn block(from: u64, step: u64) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut builder, mut keys, value) = (BlockBuilder::new(), Vec::new(), value());
    for number in (from..).step_by(step as usize) {
        // One stream at many times, as most blocks are.
        let time = 1_700_000_000_000_000 + number * 60_000_000;
        let mut bytes = Vec::new();
        let name = stream(1);
        encode_key(&mut bytes, bucket_of(Space(1), &name), Key { time, ..key(&name) });
        builder.push(&bytes, Version(number + 1), 0, Some(&value));
        keys.push(bytes);
        if builder.raw_bytes() >= 4096 {
            break;
        }
    }
    (builder.finish().to_vec(), keys)
}

fn parsed(raw: &[u8]) -> Block<'_> {
    Block::parse(raw).expect("a block just built is right")
}

fn block_search() {
    let (raw, keys) = block(0, 1);
    counted(MANY, &mut |number| {
        let key = &keys[(scattered(number) % keys.len() as u64) as usize];
        let found = parsed(black_box(&raw)).get(key).expect("a block just built is right");
        assert!(found.is_some(), "it is in the block");
    });
}

fn directory_search() {
    let (raw, keys) = block(0, 1);
    let mut bytes = vec![0; 4096];
    let used = write_directory(&parsed(&raw), &mut bytes).expect("a block of 4 KiB has a directory");
    bytes.truncate(used);
    counted(MANY, &mut |number| {
        let key = &keys[(scattered(number) % keys.len() as u64) as usize];
        let directory = Directory::new(black_box(&bytes), &raw);
        let found = directory.get(key, key_hash(key)).expect("a block just built is right");
        assert!(found.is_some(), "it is in the block");
    });
}

fn make_directory() {
    let (raw, _) = block(0, 1);
    let mut bytes = vec![0; 4096];
    counted(FEW, &mut |_| {
        black_box(write_directory(&parsed(black_box(&raw)), &mut bytes));
    });
}

fn unpack() {
    let (raw, _) = block(0, 1);
    let checksum = BlockChecksum::new(&TableIdentity::Run {
        device: Uuid([1; 16]),
        shard: ShardIndex(0),
        generation: 1,
        tablet: tablet(&stream(1)),
        table: TableId(1),
    });
    let mut stored = Vec::new();
    let level = Compression::Level(3);
    seal_block(&checksum, 0, BlockKind::Data, &raw, level, &mut Compressor::new(), &mut stored);
    let (mut unpacker, mut out) = (Decompressor::new(), Vec::new());
    counted(FEW, &mut |_| {
        open_block(&checksum, 0, BlockKind::Data, black_box(&stored), None, &mut unpacker, &mut out)
            .expect("a block just sealed is right");
    });
    assert_eq!(out, raw, "it comes back as it was");
}

fn merge_step() {
    let ((one, _), (other, _)) = (block(0, 2), block(1, 2));
    let mut merging = Merging::new([parsed(&one), parsed(&other)]);
    counted(MANY, &mut |_| merging.step());
}

fn paxos_entry() {
    let mut voting = Voting::new();
    counted(FEW, &mut |_| voting.decide());
    assert_eq!(voting.chosen(), FEW, "each was chosen");
}

fn ring_hop() {
    let world = World::new(1, WorldConfig::default());
    let node = world.add_node(NodeConfig::numbered(1));
    // Both ends on one core: what is counted is the ring, not who runs the cores.
    let main = |io: ioengine::Io| async move {
        let mut ends = mesh(2, 64 << 10).into_iter().map(|port| port.attach(&io));
        let (mut first, mut second) = (ends.next().expect("two ports"), ends.next().expect("two ports"));
        let (sender, _) = first[1].as_mut().expect("a ring to the other");
        let (_, receiver) = second[0].as_mut().expect("a ring from the other");
        let (message, mut scratch) = (value(), Vec::new());
        counted(MANY, &mut |_| {
            assert!(sender.push(&[black_box(&message)]), "there is room");
            let bytes = receiver.pop(&mut scratch, <[u8]>::len);
            assert_eq!(bytes, Some(VALUE_BYTES), "it arrives whole");
        });
    };
    node.launch(CoreConfig::small("ring", 0), main).expect("a simulated core starts");
    assert!(world.run_until_idle(std::time::Duration::from_secs(1)), "it ends by itself");
}
