//! One cold disk through lives that end at any moment, in the simulator: what was told to be written is there, whole and in its
//! place, what was freed stays free, and nothing that counts is written over. On a disk that lies nothing wrong is shown.

use ioengine::disk::DiskOpen;
use ioengine::sim::{DiskConfig, DiskFaults, DiskHandle, NodeConfig, NodeHandle, Random, World, WorldConfig};
use ioengine::{CoreConfig, Io};
use layout::cold_kept::{KeptFor, KeptPlace};
use layout::cold_section::{
    MadeSection, SECTION_HEADER_BYTES, SectionHeader, SectionIdentity, SectionPlace, SectionWriter,
    open_section_index,
};
use layout::key::Key;
use layout::table::{Block, Cursor, encode_key};
use layout::table_seal::Decompressor;
use layout::units::{BLOCK_BYTES, BucketIndex, Space, Uuid, Version};
use shard::cold::disk::{ColdBlock, ColdDisk, ColdLimits};
use shard::cold::kept::run_of;
use shard::cold::open::{ColdFormat, format};
use shard::cold::table::{Run, Wanted};
use shard::cold::{ColdError, open};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

const DISK: &str = "hdd";
const CLUSTER: Uuid = Uuid([5; 16]);
const DISK_BYTES: u64 = 3 << 20;
const LIMITS: ColdLimits = ColdLimits { reserved_max: 4, reuse_delay: Duration::from_millis(200) };

fn wanted(anew: bool) -> ColdFormat {
    ColdFormat {
        cluster: CLUSTER,
        node: 2,
        group: 1,
        disk: 3,
        file_bytes: 256 << 10,
        file_count_max: 6,
        fills: false,
        anew,
    }
}

/// What the outside knows of a section that was written.
#[derive(Clone)]
struct Known {
    identity: SectionIdentity,
    place: SectionPlace,
    bytes: Vec<u8>,
    freed: bool,
}

/// What was told, and what is wrong with it.
#[derive(Default)]
struct Told {
    /// By file, generation and number.
    sections: BTreeMap<(u32, u32, u32), Known>,
    /// Frees that were asked for and not answered: nobody knows.
    in_doubt: Vec<(u32, u32, u32)>,
    runs: u64,
    reads: u64,
    frees: u64,
    begun_again: u64,
    refused_reads: u64,
    made: u64,
    /// The disk lies.
    lies: bool,
    sealed_again: u64,
    given_up: u64,
    /// A place that was given up.
    earlier: Option<(KeptFor, Run)>,
    /// Reservations that were answered, and neither sealed nor given up.
    kept: BTreeMap<KeptFor, KeptPlace>,
    /// All that were asked for, and not given up for sure.
    asked: BTreeSet<KeptFor>,
    wrong: Vec<String>,
}

struct Stage {
    world: World,
    node: NodeHandle,
    disk: DiskHandle,
    told: Rc<RefCell<Told>>,
}

fn section(random: &mut Random, number: u64, window: u64) -> MadeSection {
    let bucket = BucketIndex::new((number % 131_072) as u32).expect("a bucket");
    let identity = SectionIdentity {
        cluster: CLUSTER,
        bucket,
        window_from: 86_400_000_000 * (window % 9),
        window_days: 1,
        window_generation: 1 + (number / 131_072) as u32,
    };
    let mut writer = SectionWriter::new(identity, 1);
    let most = 1 << random.below(9);
    let count = 1 + random.below(most);
    let mut time = 0;
    for at in 0..count {
        time += 1 + random.below(1_000);
        let mut key = Vec::new();
        encode_key(&mut key, bucket, Key { space: Space(0), stream: b"one", time });
        let value: Vec<u8> = (0..random.below(300)).map(|_| random.below(256) as u8).collect();
        writer.push(&key, Version((number + at) << 16), 0, Some(&value));
    }
    writer.finish()
}

/// Sections as one run, with their places.
async fn write(
    io: &Io,
    disk: &mut ColdDisk,
    random: &mut Random,
    told: &RefCell<Told>,
) -> Result<(), ColdError> {
    let mut sections: Vec<MadeSection> = Vec::new();
    let window = told.borrow().made;
    for _ in 0..1 + random.below(4) {
        told.borrow_mut().made += 1;
        let number = told.borrow().made;
        sections.push(section(random, number, window));
    }
    let content: u64 = sections.iter().map(MadeSection::bytes).sum();
    let whom = whom(&sections[0]);
    told.borrow_mut().asked.insert(whom);
    let place = disk.reserve(whom, content as u32, sections.len() as u32, Wanted::From(0)).await?;
    told.borrow_mut().kept.insert(whom, place);
    let run = run_of(&place);
    if random.chance(100_000) {
        // A sinker that is never heard of again, or one that thinks better of it.
        if random.coin() {
            give_up(disk, &place, told).await?;
            told.borrow_mut().earlier = Some((whom, run));
        }
        return Ok(());
    }
    let mut bytes = Vec::new();
    let mut known = Vec::new();
    for (number, section) in (run.number..).zip(&mut sections) {
        let superblock = disk.superblock();
        let place = SectionPlace {
            group: superblock.group,
            disk: superblock.disk,
            file: run.file,
            file_generation: run.file_generation,
            offset: run.offset + bytes.len() as u32,
            number,
        };
        let own = section.at(place).to_vec();
        bytes.extend_from_slice(&own);
        known.push(Known { identity: section.identity, place, bytes: own, freed: false });
    }
    let expected = layout::checksum::long(&bytes);
    bytes.resize(run.bytes as usize, 0);
    pieces(io, disk, random, &whom, &run, &bytes).await?;
    if random.chance(50_000) {
        // Or one whose writes nobody hears of.
        return Ok(());
    }
    match disk.seal(&whom, &run, content as u32, Some(expected)).await {
        Err(ColdError::Unequal { .. }) => {
            // Only on a disk that lies.
            told.borrow_mut().refused_reads += 1;
            return Ok(());
        }
        sealed => assert_eq!(sealed?, expected),
    }
    if random.chance(100_000) && disk.seal(&whom, &run, content as u32, Some(expected)).await.is_ok() {
        told.borrow_mut().sealed_again += 1;
    }
    let mut told = told.borrow_mut();
    told.kept.remove(&whom);
    told.runs += 1;
    for one in known {
        let place = one.place;
        let earlier = told.sections.keys().any(|of| of.0 == place.file && of.1 == place.file_generation);
        told.begun_again += u64::from(place.file_generation > 1 && !earlier);
        told.sections.insert((place.file, place.file_generation, place.number), one);
    }
    Ok(())
}

fn whom(section: &MadeSection) -> KeptFor {
    let SectionIdentity { bucket, window_from, window_days, window_generation, .. } = section.identity;
    KeptFor { tablet_group: 1, bucket, window_from, window_days, window_generation }
}

async fn give_up(disk: &mut ColdDisk, place: &KeptPlace, told: &RefCell<Told>) -> Result<(), ColdError> {
    // Not answered yet: it may be there or not.
    told.borrow_mut().kept.remove(&place.whom);
    let count = disk.give_up(&place.whom, &run_of(place)).await?;
    let again = disk.give_up(&place.whom, &run_of(place)).await?;
    let mut told = told.borrow_mut();
    if (count, again) != (place.section_count, 0) && !told.lies {
        told.wrong.push(format!("{place:?} was given up: {count}, and then {again}"));
    }
    told.asked.remove(&place.whom);
    told.given_up += 1;
    Ok(())
}

async fn pieces(
    io: &Io,
    disk: &mut ColdDisk,
    random: &mut Random,
    whom: &KeptFor,
    run: &Run,
    bytes: &[u8],
) -> Result<(), ColdError> {
    let mut at = 0;
    while at < bytes.len() {
        let count = (BLOCK_BYTES << random.below(6)).min(bytes.len() - at);
        let mut piece = io.buffer(count).expect("the arena has room");
        piece[..count].copy_from_slice(&bytes[at..at + count]);
        disk.write(whom, run, at as u32, piece, count).await?;
        at += count;
    }
    Ok(())
}

/// Every block of a section by itself, as cold gets read them.
async fn check(disk: &ColdDisk, known: &Known, told: &RefCell<Told>, lies: bool) -> Result<(), ColdError> {
    let header = known.bytes.first_chunk::<SECTION_HEADER_BYTES>().expect("a header");
    let place = known.place;
    let header =
        SectionHeader::decode(header, CLUSTER, (place.group, place.disk), (place.file, place.offset))
            .expect("it was made for its place");
    let mut unpack = Decompressor::new();
    let (data, stored) = known.bytes[SECTION_HEADER_BYTES..].split_at(header.data_bytes as usize);
    let index = open_section_index(&known.identity.checksum(), &header, stored, &mut unpack)
        .expect("the index was kept by who made it");
    let reader = disk.reader();
    for number in 0..index.block_count() {
        let handle = index.handle(number).expect("a block of the index");
        let wanted = ColdBlock { identity: known.identity, place, handle };
        let (mut out, mut right) = (Vec::new(), Vec::new());
        told.borrow_mut().reads += 1;
        match reader.block(&wanted, &mut unpack, &mut out).await {
            Err(ColdError::Corrupt { .. }) if lies => {
                told.borrow_mut().refused_reads += 1;
                continue;
            }
            // Where a lie took the entry of a file, its place was given again.
            Err(ColdError::Moved { .. }) if known.freed || lies => continue,
            Err(ColdError::Corrupt { .. }) if known.freed => continue,
            Err(ColdError::Disk(_)) if lies => {
                told.borrow_mut().refused_reads += 1;
                continue;
            }
            Err(error @ (ColdError::Corrupt { .. } | ColdError::Moved { .. })) => {
                told.borrow_mut().wrong.push(format!("{place:?}: {error}"));
                continue;
            }
            read => read?,
        }
        let stored = &data[handle.offset as usize..handle.end() as usize];
        let (checksum, kind) = (known.identity.checksum(), layout::table_seal::BlockKind::Data);
        layout::table_seal::open_block(&checksum, handle.offset, kind, stored, None, &mut unpack, &mut right)
            .expect("it was kept");
        let count = |bytes: &[u8]| {
            let block = Block::parse(bytes).expect("the block is whole");
            let mut cursor = Cursor::new();
            cursor.seek_first(&block).expect("the block is whole") as usize + block.entry_count()
        };
        if out != right || count(&out) != count(&right) {
            told.borrow_mut().wrong.push(format!("{place:?}: other records"));
        }
    }
    Ok(())
}

async fn free(disk: &mut ColdDisk, random: &mut Random, told: &RefCell<Told>) -> Result<(), ColdError> {
    let live: Vec<(u32, u32, u32)> =
        told.borrow().sections.iter().filter(|one| !one.1.freed).map(|one| *one.0).collect();
    if live.is_empty() {
        return Ok(());
    }
    // Sometimes a whole file, as when a window expires; its numbers that were never written go with it.
    let (file, generation, number) = *random.pick(&live);
    let whole = random.coin();
    let count = disk.table().file(file).map_or(0, |facts| facts.section_count);
    let is_reserved = disk.table().reserved().iter().any(|run| run.file == file);
    let numbers: Vec<u32> = if whole && !is_reserved { (0..count).collect() } else { vec![number] };
    let keys: Vec<(u32, u32, u32)> = numbers.iter().map(|number| (file, generation, *number)).collect();
    told.borrow_mut().in_doubt.extend(&keys);
    // Sealed without anybody hearing of it, and freed with the rest.
    told.borrow_mut()
        .kept
        .retain(|_, place| (place.file, place.file_generation) != (file, generation) || !whole);
    disk.free(file, generation, &numbers).await?;
    let mut told = told.borrow_mut();
    told.in_doubt.clear();
    told.frees += 1;
    for key in keys {
        if let Some(known) = told.sections.get_mut(&key) {
            known.freed = true;
        }
    }
    Ok(())
}

/// What a start finds is what was told, or more.
async fn compare(disk: &ColdDisk, told: &RefCell<Told>, lies: bool) -> Result<(), ColdError> {
    let kept = told.borrow().kept.clone();
    for (whom, place) in kept {
        let found = disk.kept().find(&whom).copied();
        let is_kept = found.is_some_and(|found| KeptPlace { is_sealed: false, ..found } == place);
        if !is_kept && !lies {
            told.borrow_mut().wrong.push(format!("{place:?} was told, and {found:?} is kept"));
        }
    }
    let places: Vec<KeptPlace> = disk.kept().places().copied().collect();
    for (number, place) in places.iter().enumerate() {
        if !place.is_sealed && !told.borrow().asked.contains(&place.whom) && !lies {
            told.borrow_mut().wrong.push(format!("nobody asked for {place:?}"));
        }
        let same = |other: &&KeptPlace| {
            other.file_generation == place.file_generation && run_of(other).overlaps(&run_of(place))
        };
        if places[..number].iter().any(|other| same(&other)) && !lies {
            told.borrow_mut().wrong.push(format!("{place:?} is kept for two"));
        }
    }
    // A free that was not answered may have happened.
    let in_doubt = std::mem::take(&mut told.borrow_mut().in_doubt);
    for key in in_doubt {
        if let Some(known) = told.borrow_mut().sections.get_mut(&key) {
            known.freed = true;
        }
    }
    let sections: Vec<Known> = told.borrow().sections.values().cloned().collect();
    for known in sections.iter().filter(|known| !known.freed) {
        let facts = *disk.table().file(known.place.file).expect("a file");
        let place = known.place;
        let covers = facts.generation == place.file_generation
            && place.number < facts.section_count
            && u64::from(place.offset) + known.bytes.len() as u64 <= u64::from(facts.head);
        if !covers && !lies {
            told.borrow_mut().wrong.push(format!("{place:?} is not in {facts:?}"));
        }
        check(disk, known, told, lies).await?;
    }
    for file in 0..disk.table().files().len() as u32 {
        let facts = *disk.table().file(file).expect("a file");
        let (generation, freed) = disk.freed(file).await?;
        let of_file = |known: &&Known| known.place.file == file && known.place.file_generation == generation;
        for known in sections.iter().filter(of_file) {
            // What was freed stays so; a slot that decayed forgets it, and it is freed again.
            if known.freed != freed.contains(&known.place.number) && !lies && !known.freed {
                told.borrow_mut().wrong.push(format!("{:?} is free in {facts:?}", known.place));
            }
        }
        let walked = disk.reader().walk(file).await?;
        let live = sections.iter().filter(|known| of_file(known) && !known.freed);
        for known in live {
            let found = walked.iter().find(|header| header.place == known.place);
            if found.is_none_or(|header| header.identity != known.identity) && !lies {
                told.borrow_mut().wrong.push(format!("{:?} is not found by walking", known.place));
            }
            if let Some(header) = found.filter(|_| !lies)
                && let Some(corrupt) = disk.reader().examine(header).await?
            {
                told.borrow_mut().wrong.push(format!("{:?}: {corrupt}", known.place));
            }
        }
    }
    Ok(())
}

/// A life: open, compare, work until the end.
async fn live(io: &Io, seed: u64, told: &RefCell<Told>, lies: bool) -> Result<(), ColdError> {
    let mut random = Random::new(seed);
    let disk = io.open_disk(DISK, DiskOpen::default()).expect("the disk is there");
    let mut disk = ColdDisk::open(io, disk, LIMITS).await?;
    compare(&disk, told, lies).await?;
    let earlier = told.borrow().earlier;
    if let Some((whom, run)) = earlier {
        let block = io.buffer(BLOCK_BYTES).expect("the arena has room");
        let refused = disk.write(&whom, &run, 0, block, BLOCK_BYTES).await;
        if !matches!(refused, Err(ColdError::Unreserved { .. })) {
            told.borrow_mut().wrong.push(format!("{run:?} is written without being kept"));
        }
    }
    // Who asked in an earlier life asks again, or thinks better of it.
    let places: Vec<KeptPlace> = disk.kept().places().filter(|place| !place.is_sealed).copied().collect();
    for place in places {
        if random.coin() {
            give_up(&mut disk, &place, told).await?;
        }
    }
    loop {
        match random.below(8) {
            0..4 => match write(io, &mut disk, &mut random, told).await {
                Err(ColdError::Refused { .. }) | Ok(()) => {}
                Err(ColdError::Forgotten { .. }) if lies => {}
                Err(error) => return Err(error),
            },
            4 | 5 => free(&mut disk, &mut random, told).await?,
            6 => io.sleep(Duration::from_millis(random.below(300))).await,
            _ => {
                let sections: Vec<Known> = told.borrow().sections.values().cloned().collect();
                if !sections.is_empty() {
                    check(&disk, random.pick(&sections), told, lies).await?;
                }
            }
        }
    }
}

impl Stage {
    fn new(seed: u64, faults: DiskFaults) -> Stage {
        Stage::with(seed, faults, &[])
    }

    fn with(seed: u64, faults: DiskFaults, canaries: &[&str]) -> Stage {
        let canaries = canaries.iter().map(|name| (*name).to_owned()).collect();
        let world = World::new(seed, WorldConfig { canaries, ..WorldConfig::default() });
        let node = world.add_node(NodeConfig::numbered(1));
        let disk = world.add_disk(&node, DISK, DiskConfig::new(DISK_BYTES));
        world.block_on(&node, Duration::from_secs(60), |io: Io| async move {
            let disk = io.open_disk(DISK, DiskOpen::default()).expect("the disk was just added");
            format(&io, &disk, &wanted(false)).await.expect("an empty disk can be formatted");
        });
        disk.set_faults(faults);
        Stage { world, node, disk, told: Rc::default() }
    }

    /// Lives that end in the middle of something: killed, or without power.
    fn torture(&self, lives: u64, lies: bool) {
        self.told.borrow_mut().lies = lies;
        let mut random = Random::new(self.world.seed()).fork("lives", 0);
        for life in 0..lives {
            let (told, seed) = (Rc::clone(&self.told), random.bits());
            let launched = self.node.launch(CoreConfig::small("cold", 0), move |io| async move {
                let ended = live(&io, seed, &told, lies).await;
                let is_expected = |error: &ColdError| match error {
                    ColdError::Arena { .. } => false,
                    ColdError::Unreserved { .. } | ColdError::Malformed { .. } => lies,
                    // Sectors of both copies at the ends may have become unreadable.
                    ColdError::Superblock { .. } => lies,
                    _ => true,
                };
                if let Err(error) = ended
                    && !is_expected(&error)
                {
                    told.borrow_mut().wrong.push(error.to_string());
                }
            });
            launched.expect("a simulated core can be launched");
            let millis = 1 << random.below(10);
            self.world.run_for(Duration::from_millis(millis));
            if life % 3 == 0 {
                self.node.kill()
            } else {
                self.node.power_cut()
            }
            self.world.run_for(Duration::from_millis(1));
        }
        // The last one is let compare in peace.
        self.disk.set_faults(DiskFaults::default());
        let told = Rc::clone(&self.told);
        let ended = self.world.block_on(&self.node, Duration::from_secs(600), move |io: Io| async move {
            let disk = io.open_disk(DISK, DiskOpen::default()).expect("the disk is there");
            let disk = ColdDisk::open(&io, disk, LIMITS).await?;
            compare(&disk, &told, lies).await
        });
        if let Err(error) = ended
            && !(lies && matches!(error, ColdError::Disk(_) | ColdError::Superblock { .. }))
        {
            self.told.borrow_mut().wrong.push(error.to_string());
        }
    }
}

fn honest(seed: u64) -> DiskFaults {
    let mut random = Random::new(seed).fork("faults", 0);
    // A sector that cannot be read is for the disk that lies: another copy has to answer.
    let faults = DiskFaults { latent_error_ppm: 0, ..DiskFaults::honest(&mut random) };
    if random.coin() { faults } else { DiskFaults::default() }
}

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("COLD_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    0..count
}

#[test]
fn what_was_told_to_be_written_is_there_after_any_end() {
    let (mut runs, mut reads, mut frees, mut begun_again) = (0, 0, 0, 0);
    let (mut sealed_again, mut given_up) = (0, 0);
    for seed in seeds() {
        let stage = Stage::new(seed, honest(seed));
        stage.torture(24, false);
        let told = stage.told.borrow();
        assert!(told.wrong.is_empty(), "seed {seed}: {:#?}", &told.wrong[..told.wrong.len().min(4)]);
        (runs, reads, frees) = (runs + told.runs, reads + told.reads, frees + told.frees);
        begun_again += told.begun_again;
        sealed_again += told.sealed_again;
        given_up += told.given_up;
    }
    assert!(sealed_again > 20 && given_up > 50, "{sealed_again} sealed again, {given_up} given up");
    assert!(runs > 500 && reads > 5_000 && frees > 200, "{runs} runs, {reads} reads, {frees} frees");
    assert!(begun_again > 20, "files were begun again {begun_again} times");
}

/// The test above is able to fail.
#[test]
fn planted_bugs_are_found() {
    for canary in [
        "say_a_section_is_there_too_early",
        "write_unreserved_places",
        "forget_reservations_at_a_start",
        "answer_a_reservation_before_it_is_kept",
    ] {
        let found = seeds().find(|&seed| {
            let stage = Stage::with(seed, honest(seed), &[canary]);
            stage.torture(24, false);
            !stage.told.borrow().wrong.is_empty()
        });
        assert!(found.is_some(), "{canary}");
    }
}

/// Acknowledged, and then the file's entry decays, one slot or both: what stands in the file is found, and not written over.
#[test]
fn a_decayed_entry_of_the_file_table_is_found_out_by_walking() {
    for (seed, decayed) in [(1, vec![0]), (2, vec![1]), (3, vec![0, 1])] {
        let stage = Stage::new(seed, DiskFaults::default());
        let told = Rc::clone(&stage.told);
        let geometry = stage.world.block_on(&stage.node, Duration::from_secs(60), move |io: Io| async move {
            let disk = io.open_disk(DISK, DiskOpen::default()).expect("the disk is there");
            let mut disk = ColdDisk::open(&io, disk, LIMITS).await.expect("it is whole");
            let mut random = Random::new(seed);
            while told.borrow().sections.len() < 12 {
                match write(&io, &mut disk, &mut random, &told).await {
                    Err(ColdError::Refused { .. }) => {
                        let left: Vec<KeptPlace> =
                            disk.kept().places().filter(|place| !place.is_sealed).copied().collect();
                        for place in left {
                            give_up(&mut disk, &place, &told).await.expect("nothing is in the way");
                        }
                    }
                    written => written.expect("nothing is in the way"),
                }
            }
            disk.superblock().geometry
        });
        for slot in decayed {
            stage.disk.overwrite(geometry.slot_offset(0, slot).0 + 512, &[0xaa; 512]);
        }
        stage.torture(3, false);
        let told = stage.told.borrow();
        assert!(told.wrong.is_empty(), "seed {seed}: {:#?}", &told.wrong[..told.wrong.len().min(4)]);
    }
}

#[test]
fn a_disk_that_lies_shows_nothing_wrong() {
    let mut refused = 0;
    for seed in seeds() {
        let mut random = Random::new(seed).fork("lies", 0);
        let faults = DiskFaults {
            write_lost_ppm: 20_000 >> random.below(6),
            write_misdirected_ppm: 20_000 >> random.below(6),
            flush_ignored_ppm: 50_000 >> random.below(6),
            rot_anywhere_ppm: 50_000 >> random.below(6),
            latent_error_ppm: 20_000 >> random.below(6),
            // The superblock has its own test, and a misplaced write stays within the first part or the second.
            lies_within: vec![
                64 << 10..DISK_BYTES / 2 - (128 << 10),
                DISK_BYTES / 2 + (256 << 10)..DISK_BYTES - (128 << 10),
            ],
            ..DiskFaults::default()
        };
        let stage = Stage::new(seed, faults);
        stage.torture(12, true);
        let told = stage.told.borrow();
        assert!(told.wrong.is_empty(), "seed {seed}: {:#?}", &told.wrong[..told.wrong.len().min(4)]);
        refused += told.refused_reads;
    }
    assert!(refused > 50, "lies were met {refused} times");
}

#[test]
fn a_disk_says_what_it_is_with_any_two_of_its_copies_gone() {
    for whole in 0..3 {
        let stage = Stage::new(7, DiskFaults::default());
        let found = |stage: &Stage| {
            stage.world.block_on(&stage.node, Duration::from_secs(60), |io: Io| async move {
                let disk = io.open_disk(DISK, DiskOpen::default()).expect("the disk is there");
                open::read(&io, &disk).await
            })
        };
        let before = found(&stage).expect("it was formatted");
        for copy in (0..3).filter(|copy| *copy != whole) {
            stage.disk.overwrite(before.geometry.copy_offset(copy).0, &[0xaa; 4096]);
        }
        match found(&stage) {
            Ok(found) => assert_eq!(found, before),
            // The one in the middle is found by one at an end.
            Err(error) => assert!(whole == 1 && matches!(error, ColdError::Superblock { .. }), "{error}"),
        }
    }
}

/// Reserve a place for one section, where a run says, and write it there: the run, bytes, and their checksum.
async fn put(
    io: &Io,
    disk: &mut ColdDisk,
    random: &mut Random,
    mut section: MadeSection,
    run: Run,
) -> (Run, u32, u128) {
    let of = whom(&section);
    let bytes = section.at(SectionPlace {
        group: 1,
        disk: 3,
        file: run.file,
        file_generation: run.file_generation,
        offset: run.offset,
        number: run.number,
    });
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    let run = Run { bytes: padded.len() as u32, section_count: 1, ..run };
    let (content, sum) = (bytes.len() as u32, layout::checksum::long(bytes));
    disk.reserve(of, content, 1, Wanted::Exactly(run)).await.expect("nothing is there");
    pieces(io, disk, random, &of, &run, &padded).await.expect("it is kept for it");
    (run, content, sum)
}

/// Sections in a file by its entry, after a start that had to walk it: one was sealed, and one was written behind numbers that nobody has and not sealed.
fn sections_after_a_walk(canaries: &[&str]) -> u32 {
    let stage = Stage::with(9, DiskFaults::default(), canaries);
    let geometry = stage.world.block_on(&stage.node, Duration::from_secs(60), |io: Io| async move {
        let disk = io.open_disk(DISK, DiskOpen::default()).expect("the disk is there");
        let mut disk = ColdDisk::open(&io, disk, LIMITS).await.expect("it is whole");
        let mut random = Random::new(9);
        let (first, second) = (section(&mut random, 1, 1), section(&mut random, 2, 2));
        let (of, at) = (
            whom(&first),
            Run { file: 0, file_generation: 1, offset: 0, bytes: 0, number: 0, section_count: 1 },
        );
        let (run, content, sum) = put(&io, &mut disk, &mut random, first, at).await;
        disk.seal(&of, &run, content, Some(sum)).await.expect("it was just written");
        put(&io, &mut disk, &mut random, second, Run { offset: run.end() + 4_096, number: 7, ..run }).await;
        disk.superblock().geometry
    });
    let slots = [0, 1].map(|slot| geometry.slot_offset(0, slot).0 + 512);
    slots.iter().for_each(|at| stage.disk.overwrite(*at, &[0xaa; 512]));
    stage.world.block_on(&stage.node, Duration::from_secs(60), |io: Io| async move {
        let disk = io.open_disk(DISK, DiskOpen::default()).expect("the disk is there");
        let disk = ColdDisk::open(&io, disk, LIMITS).await.expect("it is whole");
        assert_eq!(disk.lost_entries(), BTreeSet::from([0]));
        disk.table().file(0).expect("the first").section_count
    })
}

#[test]
fn what_was_written_and_not_sealed_makes_no_number_count() {
    assert_eq!((sections_after_a_walk(&[]), sections_after_a_walk(&["count_what_is_reserved"])), (1, 8));
}

/// An entry of which the device reads no slot, the newer one, or the older one, while the disk is in use: sections are freed before and after.
fn freed_beside_unread(slots: &[usize], canaries: &[&str]) -> Result<Vec<u32>, ColdError> {
    let stage = Stage::with(9, DiskFaults::default(), canaries);
    let (disk, slots) = (stage.disk, slots.to_vec());
    stage.world.block_on(&stage.node, Duration::from_secs(60), move |io: Io| async move {
        let device = io.open_disk(DISK, DiskOpen::default()).expect("the disk is there");
        let mut cold = ColdDisk::open(&io, device, LIMITS).await.expect("it is whole");
        let mut random = Random::new(9);
        let mut run = Run { file: 0, file_generation: 1, offset: 0, bytes: 0, number: 0, section_count: 1 };
        for number in 0..4 {
            let made = section(&mut random, number, number);
            let of = whom(&made);
            let (put, content, sum) = put(&io, &mut cold, &mut random, made, run).await;
            cold.seal(&of, &put, content, Some(sum)).await.expect("it was just written");
            run = Run { offset: put.end(), number: put.number + 1, ..put };
        }
        // Four seals and two frees: the newest state stands in slot 0.
        cold.free(0, 1, &[0]).await.expect("it counts");
        cold.free(0, 1, &[1]).await.expect("it counts");
        let geometry = cold.superblock().geometry;
        slots.iter().for_each(|slot| disk.make_unreadable(geometry.slot_offset(0, *slot).0 + 1_024));
        assert_eq!(cold.free(0, 1, &[3]).await?, 1);
        assert_eq!(cold.lost_entries(), BTreeSet::from([0]));
        cold.mend_entry(0).await?;
        assert_eq!(cold.lost_entries(), BTreeSet::new());
        drop(cold);
        let device = io.open_disk(DISK, DiskOpen::default()).expect("the disk is there");
        let cold = ColdDisk::open(&io, device, LIMITS).await?;
        assert_eq!(cold.lost_entries(), BTreeSet::new(), "both slots are written again");
        assert_eq!(cold.table().file(0).expect("the first").section_count, 4);
        Ok(cold.freed(0).await?.1)
    })
}

#[test]
fn an_entry_that_is_read_in_part_is_used_and_written_again() {
    assert_eq!(freed_beside_unread(&[1], &[]).expect("it is mended"), [0, 1, 3]);
    assert_eq!(
        freed_beside_unread(&[0], &[]).expect("it is mended"),
        [0, 3],
        "the other machines know of the last"
    );
    assert_eq!(freed_beside_unread(&[0, 1], &[]).expect("it is mended"), [3]);
    let failing = freed_beside_unread(&[1], &["take_a_decayed_entry_for_a_failing_disk"]);
    assert!(matches!(failing, Err(ColdError::Disk(_))));
}

/// One machine of a group is ahead, so that the others pass over numbers of a file: those hold nothing, and the file is empty without them.
#[test]
fn a_file_is_empty_although_numbers_of_it_were_passed_over() {
    let stage = Stage::new(9, DiskFaults::default());
    let told = Rc::clone(&stage.told);
    stage.world.block_on(&stage.node, Duration::from_secs(60), move |io: Io| async move {
        let disk = io.open_disk(DISK, DiskOpen::default()).expect("the disk is there");
        let mut disk = ColdDisk::open(&io, disk, LIMITS).await.expect("it is whole");
        let mut random = Random::new(9);
        let room = disk.table().room();
        // Kept before the rest, and given up behind it.
        let early = whom(&section(&mut random, 1, 1));
        let kept = disk.reserve(early, 5_000, 2, Wanted::From(0)).await.expect("there is room");
        let later = section(&mut random, 2, 2);
        let of = whom(&later);
        let run = Run { offset: 16_384, number: 7, ..run_of(&kept) };
        let (run, content, sum) = put(&io, &mut disk, &mut random, later, run).await;
        disk.seal(&of, &run, content, Some(sum)).await.expect("it was just written");
        assert_eq!(disk.freed(run.file).await.expect("it can be read").1, [2, 3, 4, 5, 6]);
        give_up(&mut disk, &kept, &told).await.expect("nothing is in the way");
        assert_eq!(disk.freed(run.file).await.expect("it can be read").1, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(disk.free(run.file, run.file_generation, &[7]).await.expect("it counts"), 1);
        io.sleep(LIMITS.reuse_delay * 2).await;
        assert_eq!(disk.table().room(), room, "the file can be begun anew");
    });
}

#[test]
fn a_formatted_disk_is_not_formatted_again_unless_that_is_said() {
    let stage = Stage::new(3, DiskFaults::default());
    let (again, anew) = stage.world.block_on(&stage.node, Duration::from_secs(60), |io: Io| async move {
        let disk = io.open_disk(DISK, DiskOpen::default()).expect("the disk is there");
        let again = format(&io, &disk, &wanted(false)).await;
        let smaller = ColdFormat { file_bytes: 64 << 10, fills: true, ..wanted(true) };
        (again, format(&io, &disk, &smaller).await)
    });
    assert!(matches!(again, Err(ColdError::Formatted { node: 2, .. })));
    let anew = anew.expect("it was said");
    assert_eq!(anew.geometry.file_bytes, 64 << 10);
    let read = stage.world.block_on(&stage.node, Duration::from_secs(60), |io: Io| async move {
        let disk = io.open_disk(DISK, DiskOpen::default()).expect("the disk is there");
        let found = open::read(&io, &disk).await?;
        open::fill_ended(&io, &disk, &found).await?;
        open::read(&io, &disk).await
    });
    let whole = read.expect("no copy of the earlier life is in its way");
    assert_eq!((whole.device, whole.sequence), (anew.device, 2));
    assert_eq!(whole.state, layout::cold_disk::ColdState::Whole);
}
