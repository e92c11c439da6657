//! Everything at once, drawn from seeds: a disk against a model of what each sector may hold (15 to 20), and nodes
//! that are killed, cut off, stopped and switched off while streams of known bytes run between them (21 to 25).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ioengine::disk::DiskOpen;
use ioengine::sim::{DiskConfig, DiskFaults, NodeConfig, NodeHandle, Random, World, WorldConfig};
use ioengine::{CoreConfig, Disk, Io, Queue, Stream};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const SECTORS: usize = 24;

/// What a sector may hold after a crash: versions in the order of their completion, the first one certain to have
/// been there; and versions of writes in flight, which may come before or after any of them.
#[derive(Clone, Default)]
struct Sector {
    versions: Vec<u16>,
    in_flight: Vec<u16>,
}

/// The contract, sector by sector.
struct Model {
    sectors: Vec<Sector>,
    next_version: u16,
}

impl Model {
    fn new(held: &[u16]) -> Model {
        let sectors =
            held.iter().map(|&version| Sector { versions: vec![version], in_flight: Vec::new() }).collect();
        Model { sectors, next_version: held.iter().max().unwrap() + 1 }
    }

    fn begin(&mut self, first: usize, count: usize) -> u16 {
        let version = self.next_version;
        self.next_version += 1;
        self.sectors[first..first + count].iter_mut().for_each(|sector| sector.in_flight.push(version));
        version
    }

    fn complete(&mut self, first: usize, count: usize, version: u16, durable: bool) {
        for sector in &mut self.sectors[first..first + count] {
            sector.in_flight.retain(|&other| other != version);
            if durable {
                sector.versions.clear();
            }
            sector.versions.push(version);
        }
    }

    /// Completed versions when a flush begins, by sector.
    fn mark(&self) -> Vec<u16> {
        self.sectors.iter().map(|sector| *sector.versions.last().unwrap()).collect()
    }

    fn flushed(&mut self, mark: &[u16]) {
        for (sector, version) in self.sectors.iter_mut().zip(mark) {
            // Absent: a durable write came after, so that it does not matter any more.
            if let Some(at) = sector.versions.iter().position(|known| known == version) {
                sector.versions.drain(..at);
            }
        }
    }
}

fn held(image: &ioengine::sim::DiskImage) -> Vec<u16> {
    (0..SECTORS)
        .map(|sector| {
            let bytes = image.get(sector as u64 * 512, 512);
            let version = u16::from_le_bytes([bytes[0], bytes[1]]);
            assert!(bytes.chunks(2).all(|pair| pair == version.to_le_bytes()), "torn inside a sector");
            version
        })
        .collect()
}

/// One writer among several: random writes of its own third of the disk, flushes, reads that must see the newest.
async fn write_at_random(io: Io, disk: Rc<Disk>, model: Rc<RefCell<Model>>, third: usize) {
    let mut random = Random::new(io.random());
    let span = SECTORS / 3;
    for _ in 0..40 {
        let first = third * span + random.index(span);
        let count = 1 + random.index((third + 1) * span - first);
        match random.below(10) {
            0..6 => {
                let version = model.borrow_mut().begin(first, count);
                let mut buffer = io.buffer(count * 512).unwrap();
                buffer.chunks_mut(2).for_each(|pair| pair.copy_from_slice(&version.to_le_bytes()));
                let durable = random.chance(300_000);
                let offset = first as u64 * 512;
                let (result, _) = if durable {
                    disk.write_durable(buffer, offset, count * 512).await
                } else {
                    disk.write(buffer, offset, count * 512).await
                };
                result.unwrap();
                model.borrow_mut().complete(first, count, version, durable);
            }
            6..8 => {
                let mark = model.borrow().mark();
                disk.flush().await.unwrap();
                model.borrow_mut().flushed(&mark);
            }
            8 => {
                let newest: Vec<u16> = model.borrow().mark()[first..first + count].to_vec();
                let (result, buffer) =
                    disk.read(io.buffer(count * 512).unwrap(), first as u64 * 512, count * 512).await;
                result.unwrap();
                for (sector, version) in newest.into_iter().enumerate() {
                    assert_eq!(buffer[sector * 512..][..2], version.to_le_bytes());
                }
            }
            _ => io.sleep(Duration::from_micros(random.below(500))).await,
        }
    }
}

#[test]
fn a_crash_leaves_of_every_sector_what_the_contract_allows() {
    let (mut old, mut newest, mut flying) = (0, 0, 0);
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let world = World::new(seed, WorldConfig::swarm(&mut random));
        let node = world.add_node(NodeConfig::numbered(1));
        let faults = DiskFaults { torn: random.chance(800_000), ..DiskFaults::default() };
        let volatile_cache = random.chance(800_000);
        let config = DiskConfig { block_bytes: 512, volatile_cache, faults, ..DiskConfig::new(1 << 20) };
        let disk = world.add_disk(&node, "disk", config);
        let model = Rc::new(RefCell::new(Model::new(&held(&disk.snapshot()))));
        for round in 0..4 {
            let theirs = Rc::clone(&model);
            node.launch(CoreConfig::small("main", 0), move |io| async move {
                let disk = Rc::new(io.open_disk("disk", DiskOpen::default()).unwrap());
                for third in 0..3 {
                    let (disk, model) = (Rc::clone(&disk), Rc::clone(&theirs));
                    io.spawn(Queue::Foreground, write_at_random(io.clone(), disk, model, third));
                }
                std::future::pending::<()>().await;
            })
            .unwrap();
            world.run_for(Duration::from_micros(random.below(8_000)));
            let power = random.coin();
            if power {
                node.power_cut();
            } else {
                node.kill();
            }
            for (sector, found) in held(&disk.snapshot()).into_iter().enumerate() {
                let may = &mut model.borrow_mut().sectors[sector];
                let kept = if power && volatile_cache { 0 } else { may.versions.len() - 1 };
                let completed = may.versions[kept..].contains(&found);
                let in_flight = may.in_flight.contains(&found);
                assert!(
                    completed || in_flight,
                    "seed {seed} round {round}, power {power}: sector {sector} holds {found}, may hold {:?} or {:?}",
                    &may.versions[kept..],
                    may.in_flight
                );
                flying += u32::from(in_flight);
                newest += u32::from(may.versions.last() == Some(&found));
                old += u32::from(completed && may.versions.last() != Some(&found));
                may.in_flight.clear();
                if power || !volatile_cache {
                    may.versions = vec![found];
                } else if may.versions.last() != Some(&found) {
                    // It landed and is not flushed: a later loss of power may still take it.
                    may.versions.push(found);
                }
            }
        }
    }
    assert!(old > 500 && newest > 5000 && flying > 200, "all three happen: {old} {newest} {flying}");
}

const PORT: u16 = 7000;
const STREAM_BYTES: usize = 60_000;

fn address(node: &NodeHandle) -> SocketAddr {
    SocketAddr::new(node.address(), PORT)
}

/// The byte at a place of the stream with this number.
fn byte(place: usize, number: u64) -> u8 {
    ((place as u64 ^ number << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
}

/// Send the stream's number, then its bytes, in pieces, slowly.
async fn send_numbered(io: Io, stream: Stream, number: u64) {
    let mut buffer = io.buffer(16 << 10).unwrap();
    let mut place = 0;
    while place < STREAM_BYTES {
        let count = (8 + io.random() as usize % (16 << 10)).min(16 << 10);
        for (at, to) in buffer[..count].iter_mut().enumerate() {
            *to = match place + at {
                at @ 0..8 => number.to_le_bytes()[at],
                at => byte(at, number),
            };
        }
        let (result, back) = stream.send(buffer, 0..count).await;
        if result.is_err() {
            return;
        }
        buffer = back;
        place += count;
        io.sleep(Duration::from_micros(io.random() % 100_000)).await;
    }
}

/// Two cores that serve one numbered stream per connection.
fn launch_source(node: NodeHandle, numbers: &Rc<Cell<u64>>) {
    for index in 0..2 {
        let numbers = Rc::clone(numbers);
        let source = move |io: Io| async move {
            let listener = io.listen(address(&node)).unwrap();
            while let Ok(stream) = listener.accept().await {
                numbers.set(numbers.get() + 1);
                io.spawn(Queue::Foreground, send_numbered(io.clone(), stream, numbers.get()));
            }
        };
        node.launch(CoreConfig::small("source", index), source).unwrap();
    }
}

/// Read streams of a node one after the other; whatever comes is right, whether it comes to an end or not.
/// Counts whole streams, broken ones, and connections that came to nothing.
async fn read_streams(io: Io, from: SocketAddr, counts: Rc<RefCell<[u32; 3]>>) {
    loop {
        io.sleep(Duration::from_millis(io.random() % 400)).await;
        let connected = io.timeout(Duration::from_secs(2), io.connect(from)).await;
        let Ok(Ok(stream)) = connected else {
            counts.borrow_mut()[2] += 1;
            continue;
        };
        let mut buffer = io.buffer(8 << 10).unwrap();
        let (mut place, mut number) = (0, [0; 8]);
        while place < STREAM_BYTES {
            let room = io.buffer(8 << 10).unwrap();
            let spare = std::mem::replace(&mut buffer, room);
            let received = io.timeout(Duration::from_secs(3), stream.receive(spare, 0..8 << 10)).await;
            let Ok((Ok(count @ 1..), back)) = received else { break };
            for &found in &back[..count] {
                if place < 8 {
                    number[place] = found;
                } else {
                    assert_eq!(found, byte(place, u64::from_le_bytes(number)), "at {place}");
                }
                place += 1;
            }
        }
        counts.borrow_mut()[usize::from(place < STREAM_BYTES)] += 1;
    }
}

/// What happened, and the hash of it all.
fn chaos(seed: u64) -> (u64, [u32; 3], BTreeMap<&'static str, u64>) {
    let mut random = Random::new(seed);
    let world = World::new(seed, WorldConfig::swarm(&mut random));
    let nodes: Vec<NodeHandle> = (1..=3).map(|number| world.add_node(NodeConfig::numbered(number))).collect();
    let (numbers, counts) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new([0; 3])));
    let launch = |node: NodeHandle| {
        launch_source(node, &numbers);
        for (index, from) in nodes.iter().enumerate() {
            let (from, counts) = (address(from), Rc::clone(&counts));
            node.launch(CoreConfig::small("reader", 2 + index), move |io| read_streams(io, from, counts))
                .unwrap();
        }
    };
    nodes.iter().for_each(|&node| launch(node));
    for _ in 0..60 {
        world.run_for(Duration::from_millis(random.below(800)));
        let node = random.pick(&nodes);
        let other = random.pick(&nodes);
        match random.below(8) {
            0 => node.kill(),
            1 => node.power_cut(),
            2 if node != other => world.partition(node, other),
            3 if node != other => world.partition_one_way(node, other),
            4 => node.pause(),
            5 => nodes.iter().for_each(NodeHandle::resume),
            6 => nodes.iter().filter(|node| !node.is_running()).for_each(|&node| launch(node)),
            _ => world.heal_all(),
        }
    }
    // Heal, and everything must go on.
    world.heal_all();
    nodes.iter().for_each(NodeHandle::resume);
    nodes.iter().filter(|node| !node.is_running()).for_each(|&node| launch(node));
    world.run_for(Duration::from_secs(20));
    let before = counts.borrow()[0];
    world.run_for(Duration::from_secs(20));
    let counts = *counts.borrow();
    assert!(counts[0] > before + 10, "seed {seed}: nothing comes through after healing");
    (world.trace_hash(), counts, world.fault_counts())
}

#[test]
fn streams_hold_right_bytes_whatever_happens_to_their_nodes() {
    let mut totals = [0; 3];
    let mut faults = BTreeMap::<&str, u64>::new();
    for seed in 0..8 {
        let (hash, counts, found) = chaos(seed);
        if seed < 2 {
            assert_eq!(chaos(seed).0, hash, "seed {seed}: one history");
        }
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        found.into_iter().for_each(|(name, count)| *faults.entry(name).or_default() += count);
    }
    assert!(totals.iter().all(|&total| total > 20), "whole, broken, not connected: {totals:?}");
    for kind in ["kill", "pause", "partition", "segment_lost"] {
        assert!(faults.get(kind).is_some_and(|&count| count > 5), "{kind}: {faults:?}");
    }
}
