//! The ring against a model: random sizes, trims, ends of the process and losses of power, over many laps. And damage
//! placed where each shortcut of the proof of a torn tail could miss it.

use super::*;
use ioengine::disk::DiskOpen;
use ioengine::sim::{DiskConfig, DiskHandle, NodeConfig, NodeHandle, Random, World, WorldConfig};
use ioengine::{CoreConfig, Io};
use layout::journal_record::RecordHeader;
use layout::units::{DiskOffset, ShardIndex, Uuid};
use layout::zone::Range;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const SEGMENT: u64 = 64 << 10;
const SEGMENTS: u64 = 5;
const HOUR: Duration = Duration::from_secs(3600);

fn zone() -> JournalZone {
    JournalZone {
        identity: identity(Uuid([3; 16]), ShardIndex(1), 2),
        range: Range { offset: DiskOffset(8192), bytes: SEGMENTS * SEGMENT },
        segment_bytes: SEGMENT,
        record_bytes_max: SEGMENT,
    }
}

/// A record as the model knows it: number, memtable, body.
type Known = (u64, u32, Vec<u8>);

/// What must come back.
struct Model {
    random: Random,
    incarnation: u32,
    /// What a manifest would say.
    start: JournalStart,
    flushed: Vec<Known>,
    in_flight: Option<Known>,
    positions: Vec<JournalStart>,
    /// Trims, each of a random part, else none are made.
    trims: bool,
    /// Number of the memtable that records go to, in the model's own count.
    memtable: u32,
}

struct Found {
    records: Vec<(RecordHeader, Vec<u8>)>,
    replayed: Replayed,
}

async fn read(io: &Io, disk: &Disk, start: JournalStart) -> Found {
    let mut records = Vec::new();
    let buffers = (io.buffer(SEGMENT as usize).unwrap(), io.buffer(4096).unwrap());
    let replayed = replay(disk, &zone(), start, buffers.0, buffers.1, |record| {
        records.push((*record.header, record.body.to_vec()));
    })
    .await
    .unwrap();
    Found { records, replayed }
}

impl Model {
    fn new(seed: u64) -> Rc<RefCell<Model>> {
        Rc::new(RefCell::new(Model {
            random: Random::new(seed).fork("journal ring", 0),
            incarnation: 0,
            start: JournalStart::FIRST,
            flushed: Vec::new(),
            in_flight: None,
            positions: Vec::new(),
            trims: true,
            memtable: 0,
        }))
    }

    /// Compare what a start found, and take over the record that was in flight if it is there.
    fn compare(&mut self, found: &Found) {
        let replayed = &found.replayed;
        assert!(replayed.gaps.is_empty(), "{replayed:?}");
        assert!(matches!(replayed.tail, Tail::Clean | Tail::Torn { .. }), "{replayed:?}");
        let records: Vec<_> =
            found.records.iter().map(|(header, body)| (header.fields.sequence.0, body)).collect();
        if let Some(in_flight) = self.in_flight.take()
            && records.last() == Some(&(in_flight.0, &in_flight.2))
        {
            self.flushed.push(in_flight);
        }
        let since = self.start.sequence.0;
        let expected: Vec<&Known> = self.flushed.iter().filter(|known| known.0 > since).collect();
        let bodies: Vec<_> = expected.iter().map(|known| (known.0, &known.2)).collect();
        assert_eq!(records, bodies, "from {:?}", self.start);
        let numbers: Vec<u32> =
            found.records.iter().map(|(header, _)| header.fields.memtable_number).collect();
        for (place, pair) in expected.windows(2).enumerate() {
            let begins = numbers[place] != numbers[place + 1];
            assert_eq!(begins, pair[0].1 != pair[1].1, "a memtable begins at record {}", pair[1].0);
        }
        self.memtable = expected.last().map_or(self.memtable, |last| last.1);
    }
}

async fn write(
    journal: &Journal,
    model: &RefCell<Model>,
    buffer: Buf,
    kind: RecordKind,
    bytes: usize,
) -> Buf {
    let sequence = journal.last().next().0;
    let body: Vec<u8> = (0..bytes).map(|n| (n as u64 + sequence * 7) as u8).collect();
    let memtable = model.borrow().memtable;
    model.borrow_mut().in_flight = Some((sequence, memtable, body.clone()));
    let (result, buffer, _) = journal.write(buffer, kind, |writer| assert!(writer.append(&body))).await;
    result.unwrap();
    let mut model = model.borrow_mut();
    let known = model.in_flight.take().unwrap();
    model.flushed.push(known);
    model.positions.push(journal.position());
    buffer
}

/// A life: replay, compare, then write and trim, `count` times or until the process ends.
async fn live(io: Io, model: Rc<RefCell<Model>>, count: u64) {
    let disk = io.open_disk("ssd", DiskOpen::default()).unwrap();
    let start = model.borrow().start;
    let found = read(&io, &disk, start).await;
    model.borrow_mut().compare(&found);
    model.borrow_mut().incarnation += 1;
    let incarnation = Incarnation(model.borrow().incarnation);
    let journal = Journal::new(disk, zone(), incarnation, &found.replayed);
    model.borrow_mut().positions = vec![start, journal.position()];
    let mut buffer = io.buffer(SEGMENT as usize).unwrap();
    assert!(journal.has_room(Claim::Own, 0, 9));
    buffer = write(&journal, &model, buffer, RecordKind::Open, 9).await;
    for _ in 0..count {
        let (bytes, trim) = {
            let mut model = model.borrow_mut();
            let most = layout::journal_record::body_bytes_max(SEGMENT as usize) as u64;
            let most = if model.random.coin() { most } else { 9000 };
            (model.random.below(most) as usize, model.random.chance(150_000))
        };
        let room = journal.has_room(Claim::Write, 0, bytes);
        if room {
            buffer = write(&journal, &model, buffer, RecordKind::Entries, bytes).await;
        }
        let mut model = model.borrow_mut();
        if model.random.chance(100_000) {
            journal.begin_memtable();
            model.memtable += 1;
        }
        if model.trims && (trim || !room) {
            // A ring that is full needs all of it: part of the first segment may free nothing.
            let positions = model.positions.len();
            let to = if room { model.random.index(positions) } else { positions - 1 };
            model.positions.drain(..to);
            model.start = model.positions[0];
            journal.trim(model.start);
        }
        let (bytes, used) = journal.bytes();
        assert!(used <= bytes, "{used} of {bytes} bytes");
    }
}

fn stage(seed: u64) -> (World, NodeHandle, DiskHandle) {
    let world = World::new(seed, WorldConfig::default());
    let node = world.add_node(NodeConfig::numbered(1));
    let disk = world.add_disk(&node, "ssd", DiskConfig::new(1 << 20));
    (world, node, disk)
}

#[test]
fn after_every_end_exactly_what_was_flushed_since_the_start_comes_back() {
    let (mut laps, mut torn) = (0, 0);
    for seed in 0..60 {
        let (world, node, _) = stage(seed);
        let model = Model::new(seed);
        for _ in 0..8 {
            let lives = Rc::clone(&model);
            let launched = node.launch(CoreConfig::small("life", 0), move |io| live(io, lives, 10_000));
            launched.unwrap();
            let (length, power) = {
                let mut model = model.borrow_mut();
                // Short ones end within the replay or the first record.
                let most = if model.random.coin() { 2_000_000 } else { 40_000_000 };
                (Duration::from_nanos(model.random.below(most)), model.random.coin())
            };
            world.run_for(length);
            torn += u64::from(model.borrow().in_flight.is_some());
            if power { node.power_cut() } else { node.kill() }
        }
        world.block_on(&node, HOUR, {
            let model = Rc::clone(&model);
            move |io| live(io, model, 3)
        });
        let model = model.borrow();
        let bytes: usize = model.flushed.iter().map(|known| known.2.len()).sum();
        laps += bytes as u64 / zone().bytes();
    }
    assert!(laps > 60 * 5, "the ring was filled only {laps} times");
    assert!(torn > 60, "only {torn} lives ended within a write");
}

#[test]
fn room_is_what_can_be_written_whatever_the_sizes() {
    for seed in 0..40 {
        let (world, node, _) = stage(seed);
        let model = Model::new(seed);
        world.block_on(&node, HOUR, {
            let model = Rc::clone(&model);
            move |io| live(io, model, 100 + seed)
        });
        let model = Rc::clone(&model);
        world.block_on(&node, HOUR, move |io| async move {
            let disk = io.open_disk("ssd", DiskOpen::default()).unwrap();
            let start = model.borrow().start;
            let found = read(&io, &disk, start).await;
            model.borrow_mut().compare(&found);
            model.borrow_mut().incarnation += 1;
            let incarnation = Incarnation(model.borrow().incarnation);
            let journal = Journal::new(disk, zone(), incarnation, &found.replayed);
            let mut buffer = io.buffer(SEGMENT as usize).unwrap();
            buffer = write(&journal, &model, buffer, RecordKind::Open, 9).await;
            // Fill it for each claim in turn: `write` asserts that nothing untrimmed is written over.
            let mut counts = Vec::new();
            for (claim, sizes) in [(Claim::Write, 60_000), (Claim::Delete, 60_000), (Claim::Own, 448)] {
                let mut count = 0;
                loop {
                    let bytes = 1 + model.borrow_mut().random.index(sizes);
                    if !journal.has_room(claim, 0, bytes) {
                        break;
                    }
                    buffer = write(&journal, &model, buffer, RecordKind::Entries, bytes).await;
                    count += 1;
                }
                counts.push(count);
            }
            assert!(counts[1] > 0, "a segment for deletes: {counts:?}");
            assert!(counts[2] >= SEGMENT / 4096, "a segment for the journal's own records: {counts:?}");
            assert!(!journal.has_room(Claim::Own, 0, 1));
            let found = read(&io, journal.disk(), start).await;
            model.borrow_mut().compare(&found);
            // All of it at once: the end is where the start is.
            let all = journal.position();
            journal.trim(all);
            assert_eq!(journal.bytes().1, 0);
            assert!(journal.has_room(Claim::Write, 60_000, 60_000));
        });
    }
}

/// Zero blocks of the zone, by their numbers, which count on behind its end.
fn blocks(disk: &DiskHandle, at: std::ops::Range<u64>) {
    for at in at {
        disk.overwrite(zone().offset(at * 4096).0, &[0; 4096]);
    }
}

/// A ring in its second lap: one start, then records of two blocks, replay begins at block 70 of the first lap. Returns
/// where each record written since begins and its number, in blocks of the first lap on.
fn second_lap(seed: u64) -> (World, NodeHandle, DiskHandle, JournalStart, Vec<(u64, u64)>) {
    let (world, node, disk) = stage(seed);
    let (start, places) = world.block_on(&node, HOUR, |io| async move {
        let model = RefCell::new(Rc::into_inner(Model::new(0)).unwrap().into_inner());
        let disk = io.open_disk("ssd", DiskOpen::default()).unwrap();
        let found = read(&io, &disk, JournalStart::FIRST).await;
        let journal = Journal::new(disk, zone(), Incarnation(1), &found.replayed);
        let mut buffer = io.buffer(SEGMENT as usize).unwrap();
        buffer = write(&journal, &model, buffer, RecordKind::Open, 9).await;
        let (mut start, mut places) = (JournalStart::FIRST, Vec::new());
        // 16 blocks a segment: the first has the open record and 7 of two blocks, the others 8.
        for n in 0..70 {
            if n == 34 {
                start = journal.position();
                journal.trim(start);
                places.clear();
            }
            let at = zone().place(journal.end.get(), 8192) / 4096;
            buffer = write(&journal, &model, buffer, RecordKind::Entries, 4000).await;
            places.push((at, journal.last().0));
        }
        (start, places)
    });
    (world, node, disk, start, places)
}

fn second_replay(world: &World, node: &NodeHandle, start: JournalStart) -> Found {
    world.block_on(node, HOUR, move |io| async move {
        let disk = io.open_disk("ssd", DiskOpen::default()).unwrap();
        read(&io, &disk, start).await
    })
}

/// Damage the record of index `lost` and the blocks `more` besides, counted from the start of its segment.
fn damaged(lost: usize, more: std::ops::Range<u64>) -> (Found, Vec<(u64, u64)>, usize) {
    let (world, node, disk, start, places) = second_lap(5);
    let at = places[lost].0;
    let segment = at / 16 * 16;
    blocks(&disk, at..at + 2);
    blocks(&disk, segment + more.start..segment + more.end);
    (second_replay(&world, &node, start), places, lost)
}

fn assert_gap((found, places, lost): &(Found, Vec<(u64, u64)>, usize), next: u64) {
    let gap = Gap { after: Sequence(places[*lost].1 - 1), before: Sequence(next) };
    assert_eq!(found.replayed.gaps, [gap], "{:?}", found.replayed);
    assert_eq!(
        found.records.last().unwrap().0.fields.sequence.0,
        places.last().unwrap().1,
        "and goes on to the end"
    );
    assert_eq!(found.replayed.tail, Tail::Clean);
}

#[test]
fn a_lost_record_shows_by_what_is_later_wherever_that_stands() {
    let (world, node, _, start, places) = second_lap(5);
    let whole = second_replay(&world, &node, start);
    assert_eq!(whole.replayed.record_count as usize, places.len());
    assert_eq!((whole.replayed.tail, whole.replayed.gaps.len()), (Tail::Clean, 0));
    let (first, last) = (places[0].0, places.last().unwrap().0);
    assert!(first < SEGMENTS * 16 && last >= SEGMENTS * 16 + 32, "behind the wrap: {first} to {last}");
    for lost in 0..places.len() - 1 {
        // The next record is there.
        let one = damaged(lost, 0..0);
        assert_gap(&one, places[lost + 1].1);
    }
    // One in the middle of the first lap's last segment.
    let lost = (0..places.len()).find(|&lost| places[lost].0 % 16 == 8).unwrap();
    let sequence_at = |block: u64| places.iter().find(|place| place.0 >= block).unwrap().1;
    let segment = places[lost].0 / 16 * 16;
    assert!(segment < SEGMENTS * 16 && segment + 16 >= SEGMENTS * 16, "what is later lies behind the wrap");
    // Only the rest of its own segment tells: everything from the next segment on is gone.
    let own = damaged(lost, 16..78);
    assert_eq!(own.0.replayed.gaps.len(), 1, "{:?}", own.0.replayed);
    // The rest of its segment is gone too: the next one tells by its first block, and by any other.
    assert_gap(&damaged(lost, 8..16), sequence_at(segment + 16));
    assert_gap(&damaged(lost, 8..28), sequence_at(segment + 28));
    // Both segments are gone: those behind tell by their first blocks.
    assert_gap(&damaged(lost, 8..32), sequence_at(segment + 32));
    assert_gap(&damaged(lost, 8..48), sequence_at(segment + 48));
}

#[test]
fn what_the_bounded_look_gives_up_is_what_it_says() {
    let (world, node, disk, start, places) = second_lap(5);
    let lost = (0..places.len()).find(|&lost| places[lost].0 % 16 == 8).unwrap();
    let segment = places[lost].0 / 16 * 16;
    blocks(&disk, places[lost].0..segment + 32);
    for head in [segment + 32, segment + 48, segment + 64] {
        blocks(&disk, head..head + 1);
    }
    let found = second_replay(&world, &node, start);
    assert_eq!((found.replayed.tail, found.replayed.gaps.len()), (Tail::Clean, 0));
    assert_eq!(found.replayed.last.1, Sequence(places[lost].1 - 1));
}

#[test]
fn the_proof_of_a_clean_end_reads_little() {
    let (world, node, disk, _, places) = second_lap(5);
    let &(at, sequence) = places.last().unwrap();
    let start = JournalStart {
        at: (at + 2) * 4096 % zone().bytes(),
        incarnation: Incarnation(1),
        sequence: Sequence(sequence),
    };
    let before = disk.counts().read_bytes;
    let found = second_replay(&world, &node, start);
    assert_eq!((found.replayed.record_count, found.replayed.tail), (0, Tail::Clean));
    let read = disk.counts().read_bytes - before;
    // A window from each of the two places where a record may follow. Then the proof: the two blocks that are left of the
    // segment, the next segment, and a block of each of the three others.
    assert_eq!(read, 2 * SEGMENT + 2 * 4096 + SEGMENT + 3 * 4096);
}

#[test]
fn a_check_of_records_that_are_trimmed_and_written_again_meanwhile_finds_nothing() {
    let mut checked = 0;
    for seed in 0..20 {
        let world = World::new(seed, WorldConfig::default());
        let node = world.add_node(NodeConfig::numbered(1));
        let usual = DiskConfig::new(1 << 20);
        // A read takes as long as many writes.
        let latency = ioengine::sim::DiskLatency { read_ns: 4_000_000, ..usual.latency };
        world.add_disk(&node, "ssd", DiskConfig { latency, ..usual });
        checked += world.block_on(&node, HOUR, move |io| async move {
            let disk = io.open_disk("ssd", DiskOpen::default()).unwrap();
            let replayed = Replayed::nothing(JournalStart::FIRST);
            let journal = Rc::new(Journal::new(disk, zone(), Incarnation(1), &replayed));
            let model = Model::new(seed);
            let ended = Rc::new(Cell::new(false));
            let (writing, done) = (Rc::clone(&journal), Rc::clone(&ended));
            let mut buffer = io.buffer(SEGMENT as usize).unwrap();
            io.spawn(ioengine::Queue::Foreground, async move {
                buffer = write(&writing, &model, buffer, RecordKind::Open, 9).await;
                for _ in 0..2000 {
                    let bytes = 1 + model.borrow_mut().random.index(20_000);
                    if !writing.has_room(Claim::Write, 0, bytes) {
                        let positions = std::mem::take(&mut model.borrow_mut().positions);
                        writing.trim(positions[positions.len() / 2]);
                        model.borrow_mut().positions = positions[positions.len() / 2..].to_vec();
                        continue;
                    }
                    buffer = write(&writing, &model, buffer, RecordKind::Entries, bytes).await;
                }
                done.set(true);
            });
            let mut checked = 0;
            while !ended.get() {
                let mut check = JournalCheck::new(&journal);
                loop {
                    let (step, _) = check.step(&journal, io.buffer(16 << 10).unwrap()).await;
                    match step {
                        CheckStep::Whole { bytes } => checked += bytes,
                        CheckStep::Done => break,
                        other => panic!("seed {seed}: {other:?}"),
                    }
                }
                io.sleep(Duration::from_micros(100)).await;
            }
            checked
        });
    }
    assert!(checked > 20 * (100 << 10), "{checked} bytes were looked at");
}

/// In a group: the last record rots, which no tear looks like, and the journal goes on beyond it. Later replays find the gap, and all
/// that came after it, also when the first record beyond was torn.
#[test]
fn a_journal_goes_on_beyond_its_damaged_end() {
    for (seed, tears) in [(7, false), (8, true)] {
        let (world, node, disk) = stage(seed);
        let life = |incarnation: u32, count: usize| {
            world.block_on(&node, HOUR, move |io| go_on(io, JournalStart::FIRST, incarnation, count))
        };
        let (last, _, at) = life(1, 10);
        (0..8).for_each(|frame| disk.rot(zone().offset(at - 8192).0 + frame * 512));
        let lost = second_replay(&world, &node, JournalStart::FIRST);
        assert!(matches!(lost.replayed.tail, Tail::Damaged { .. }), "{:?}", lost.replayed);
        if tears {
            let main = |io: Io| async move {
                let _never = go_on(io, JournalStart::FIRST, 2, 0).await;
            };
            node.launch(CoreConfig::small("torn", 0), main).unwrap();
            while disk.in_flight() == 0 {
                world.run_for(Duration::from_micros(3));
            }
            node.power_cut();
        }
        let (end, position, _) = life(3, 5);
        assert!(end.0 > last.0 + SEGMENTS * 16, "numbers of all that may be lost are left out: {end:?}");
        let found = second_replay(&world, &node, JournalStart::FIRST).replayed;
        assert_eq!((found.tail, found.gaps.len(), found.last.1), (Tail::Clean, 1, end), "{found:?}");
        assert_eq!(found.record_count, 10 + 6);
        life(4, 2);
        let found = second_replay(&world, &node, position).replayed;
        assert_eq!((found.record_count, found.gaps.len()), (3, 0), "behind the gap there is none: {found:?}");
    }
}

/// A life that replays from `start` and writes an open record and so many of two blocks: its last record, and where it ends.
async fn go_on(io: Io, start: JournalStart, incarnation: u32, count: usize) -> (Sequence, JournalStart, u64) {
    let disk = io.open_disk("ssd", DiskOpen::default()).unwrap();
    let found = read(&io, &disk, start).await;
    let journal = Journal::new(disk, zone(), Incarnation(incarnation), &found.replayed);
    let model = RefCell::new(Rc::into_inner(Model::new(0)).unwrap().into_inner());
    let mut buffer = io.buffer(SEGMENT as usize).unwrap();
    buffer = write(&journal, &model, buffer, RecordKind::Open, 9).await;
    for _ in 0..count {
        buffer = write(&journal, &model, buffer, RecordKind::Items, 4000).await;
    }
    (journal.last(), journal.position(), journal.end.get())
}
