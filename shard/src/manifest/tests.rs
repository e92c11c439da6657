//! The manifest log against every state that a crash may leave, every single damage, and lies about single writes.
//!
//! A history is run in the simulator and recorded. What it should say is a list of bodies, snapshot and edits alike, after
//! each step. Then its disk is cut, damaged or lied about, and read again by the pure reader.

use super::area::{Area, Areas};
use super::*;
use crate::journal::identity;
use ioengine::disk::DiskOpen;
use ioengine::sim::{
    CrashLimits, DiskConfig, DiskHandle, DiskImage, NodeConfig, NodeHandle, Random, RecordedKind, Recorder,
    Recording, World, WorldConfig,
};
use ioengine::{CoreConfig, Io};
use layout::journal_record::JournalIdentity;
use layout::units::{DiskOffset, ShardIndex, Uuid};
use layout::zone::Range;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const HALF: u64 = 10 * 4096;
const RECORD: usize = 2 * 4096;
const SECTOR: u64 = 512;
const HOUR: Duration = Duration::from_secs(3600);

fn own() -> JournalIdentity {
    identity(Uuid([9; 16]), ShardIndex(0), 1)
}

fn zones() -> ManifestZones {
    let half = |index: u64| Range { offset: DiskOffset(16384 + index * HALF), bytes: HALF };
    ManifestZones { identity: own(), copies: [[half(0), half(1)], [half(2), half(3)]] }
}

/// Bodies of snapshot and edits in order: what a manifest says.
type Says = Vec<Vec<u8>>;

fn says(reading: &Reading) -> Says {
    reading.snapshot.iter().chain(&reading.edits).cloned().collect()
}

fn reading(image: &DiskImage) -> Reading {
    let area = |half, copy| {
        let bytes = image.get(zones().offset(copy, half, 0).0, HALF as usize);
        Area::sort(&zones(), copy, half, bytes, &[])
    };
    let areas: Areas = [[area(0, 0), area(0, 1)], [area(1, 0), area(1, 1)]];
    read::judge(&areas)
}

/// A step of a history.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// A start: read, and write what was read as a snapshot.
    Start,
    /// A new state of so many bodies.
    Rewrite(usize),
    /// An edit with a body of so many bytes.
    Append(usize),
}

/// What it had said before a step, and says after.
struct Step {
    /// Operations of the disk that had completed when it began, and when it was done.
    begun: usize,
    done: usize,
    says: Says,
}

struct History {
    recording: Recording,
    steps: Vec<Step>,
    /// The disk after each step.
    images: Vec<DiskImage>,
}

fn body(tag: usize, bytes: usize) -> Vec<u8> {
    (0..bytes.max(2)).map(|n| (n * 3 + tag * 11) as u8).collect()
}

fn stage(seed: u64, canary: Option<&str>) -> (World, NodeHandle, DiskHandle) {
    let canaries = canary.into_iter().map(str::to_owned).collect();
    let world = World::new(seed, WorldConfig { canaries, ..WorldConfig::default() });
    let node = world.add_node(NodeConfig::numbered(1));
    let disk = world.add_disk(&node, "ssd", DiskConfig::new(1 << 20));
    (world, node, disk)
}

async fn open(io: &Io, disk: &Disk, incarnation: u32) -> Opened {
    let buffers = [io.buffer(RECORD).unwrap(), io.buffer(RECORD).unwrap()];
    Manifest::open(io, disk, zones(), Incarnation(incarnation), buffers).await.unwrap()
}

async fn play(
    io: Io,
    script: &[Does],
    device: DiskHandle,
    recorder: Rc<Recorder>,
) -> (Vec<Step>, Vec<DiskImage>) {
    let disk = io.open_disk("ssd", DiskOpen::default()).unwrap();
    let count = || recorder.recording().events().len();
    let (mut steps, mut images): (Vec<Step>, Vec<DiskImage>) = (Vec::new(), Vec::new());
    let (mut manifest, mut incarnation) = (None, 0);
    let mut now: Says = Vec::new();
    for (tag, &does) in script.iter().enumerate() {
        let begun = count();
        let wrote = match does {
            Does::Start => {
                incarnation += 1;
                let opened = open(&io, &disk, incarnation).await;
                assert_eq!(says(&opened.reading), now);
                manifest = opened.manifest;
                manifest.as_mut().unwrap().rewrite(&disk, &now).await
            }
            Does::Rewrite(bodies) => {
                now = (0..bodies).map(|n| body(tag * 7 + n, if n == 1 { 6000 } else { 300 })).collect();
                manifest.as_mut().unwrap().rewrite(&disk, &now).await
            }
            Does::Append(bytes) => {
                now.push(body(tag, bytes));
                manifest.as_mut().unwrap().append(&disk, &now[now.len() - 1]).await
            }
        };
        assert_eq!(wrote.unwrap(), Wrote::Durable);
        // An empty state is one empty body.
        if now.is_empty() {
            now.push(Vec::new());
        }
        steps.push(Step { begun, done: count(), says: now.clone() });
        images.push(device.snapshot());
    }
    (steps, images)
}

const SCRIPT: [Does; 13] = [
    Does::Start,
    Does::Append(100),
    Does::Append(5000),
    Does::Rewrite(3),
    Does::Append(200),
    Does::Start,
    Does::Append(3000),
    Does::Append(4500),
    Does::Rewrite(1),
    Does::Append(10),
    Does::Rewrite(2),
    Does::Start,
    Does::Append(4000),
];

fn history(canary: Option<&str>) -> History {
    let (world, node, disk) = stage(1, canary);
    let (steps, images, recording) = world.block_on(&node, HOUR, move |io| async move {
        let recorder = Rc::new(disk.recorder());
        let (steps, images) = play(io, &SCRIPT, disk, Rc::clone(&recorder)).await;
        (steps, images, recorder.recording())
    });
    History { recording, steps, images }
}

impl History {
    /// What may be said when the disk had completed `cut` operations.
    fn legal(&self, cut: usize) -> Vec<Says> {
        let done = self.steps.iter().rposition(|step| step.done <= cut);
        let mut legal = vec![done.map_or(Vec::new(), |done| self.steps[done].says.clone())];
        let begun = self.steps.iter().enumerate().skip(done.map_or(0, |done| done + 1));
        legal.extend(begun.filter(|(_, step)| step.begun <= cut).map(|(_, step)| step.says.clone()));
        legal
    }
}

/// What a crash may leave and must not: an illegal state, or a word of damage where there is none.
fn crash_violations(history: &History, seed: u64) -> (usize, Vec<String>) {
    let limits = CrashLimits { subset_bits: 9, sample_count: 200 };
    let (mut count, mut wrong) = (0, Vec::new());
    for state in history.recording.crash_states(limits, seed) {
        count += 1;
        let found = reading(&state.image);
        let damaged = matches!(found.verdict, Verdict::Damaged { .. });
        if damaged || !history.legal(state.cut).contains(&says(&found)) {
            wrong.push(format!("cut {}: {:?}, {} bodies", state.cut, found.verdict, says(&found).len()));
        }
    }
    (count, wrong)
}

#[test]
fn every_crash_leaves_the_state_before_or_after() {
    let history = history(None);
    assert!(history.steps.iter().all(|step| step.begun < step.done));
    let (count, wrong) = crash_violations(&history, 7);
    assert!(count > 3000, "{count} states");
    assert!(wrong.is_empty(), "{} of {count}: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
}

#[test]
fn a_state_in_force_before_its_flush_is_found() {
    let (_, wrong) = crash_violations(&history(Some("manifest_in_force_before_flush")), 7);
    assert!(!wrong.is_empty());
}

/// Ways to damage a sector.
fn damage(image: &mut DiskImage, offset: u64, way: usize, older: &DiskImage) {
    let mut sector = image.get(offset, SECTOR as usize);
    match way {
        0 => sector[(offset / SECTOR * 37 % SECTOR) as usize] ^= 4,
        1 => sector.fill(0),
        _ => sector = older.get(offset, SECTOR as usize),
    }
    image.write(offset, &sector);
}

/// Damage every sector of one copy, a few together, and all of them: how often is what was said not said any more?
fn single_copy_violations(history: &History) -> (usize, Vec<String>) {
    let (mut count, mut wrong) = (0, Vec::new());
    let blank = DiskImage::new(history.images[0].bytes());
    for (number, (image, step)) in history.images.iter().zip(&history.steps).enumerate() {
        let older = if number == 0 { &blank } else { &history.images[number - 1] };
        let mut check = |what: String, image: &DiskImage| {
            count += 1;
            let found = reading(image);
            if found.verdict != Verdict::Whole || says(&found) != step.says {
                wrong.push(format!("after step {number}, {what}: {:?}", found.verdict));
            }
        };
        for copy in 0..2 {
            for (half, way) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
                let at = |sector: u64| zones().offset(copy, half, sector * SECTOR).0;
                for sector in 0..HALF / SECTOR {
                    let mut image = image.clone();
                    damage(&mut image, at(sector), way, older);
                    check(format!("copy {copy}, half {half}, sector {sector}, way {way}"), &image);
                    if sector % 8 == 0 {
                        (1..8).for_each(|next| damage(&mut image, at(sector + next), way, older));
                        check(format!("copy {copy}, half {half}, block at {sector}, way {way}"), &image);
                    }
                }
            }
            for way in 0..3 {
                let mut image = image.clone();
                for (half, sector) in (0..2).flat_map(|half| (0..HALF / SECTOR).map(move |at| (half, at))) {
                    damage(&mut image, zones().offset(copy, half, sector * SECTOR).0, way, older);
                }
                check(format!("all of copy {copy}, way {way}"), &image);
            }
        }
    }
    (count, wrong)
}

#[test]
fn damage_in_one_copy_costs_nothing() {
    let (count, wrong) = single_copy_violations(&history(None));
    assert!(count > 10_000, "{count} damages");
    assert!(wrong.is_empty(), "{} of {count}: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
}

#[test]
fn a_record_in_one_copy_only_is_found() {
    // It cannot even be replayed: so only up to the first step that reads.
    let (_, wrong) = single_copy_violations(&history(Some("manifest_one_copy")));
    assert!(!wrong.is_empty());
}

/// First and last block of each record in force of an image, in order.
fn records_in_force(image: &DiskImage) -> (usize, Vec<(u64, u64)>) {
    let found = reading(image);
    let mut at = 0;
    let place = |body: &Vec<u8>| {
        let from = at;
        at += record_bytes(body.len());
        (from, at)
    };
    let places = found.snapshot.iter().chain(&found.edits).map(place).collect();
    (found.half, places)
}

#[test]
fn damage_of_one_record_in_both_copies_is_always_said() {
    let history = history(None);
    let (mut same, mut other) = (0, 0);
    for (number, (image, step)) in history.images.iter().zip(&history.steps).enumerate() {
        let (half, places) = records_in_force(image);
        let record_of = |sector: u64| places.iter().position(|place| sector * SECTOR < place.1);
        let used = places.last().unwrap().1 / SECTOR;
        for (first, second) in (0..used).flat_map(|first| (0..used).map(move |second| (first, second))) {
            let mut broken = image.clone();
            damage(&mut broken, zones().offset(0, half, first * SECTOR).0, 0, image);
            damage(&mut broken, zones().offset(1, half, second * SECTOR).0, 0, image);
            let found = reading(&broken);
            if record_of(first) == record_of(second) {
                same += 1;
                assert!(
                    matches!(found.verdict, Verdict::Damaged { .. }),
                    "step {number}, sectors {first} and {second}: {:?}",
                    found.verdict
                );
            } else {
                other += 1;
                assert_eq!((found.verdict, &says(&found)), (Verdict::Whole, &step.says));
            }
        }
    }
    assert!(same > 1000 && other > 1000);
}

#[test]
fn records_lost_in_both_copies_show_but_for_the_newest() {
    let history = history(None);
    let blank = DiskImage::new(history.images[0].bytes());
    let lose = |image: &mut DiskImage, copy: usize, half: usize, place: (u64, u64), older: &DiskImage| {
        let bytes = older.get(zones().offset(copy, half, place.0).0, (place.1 - place.0) as usize);
        image.write(zones().offset(copy, half, place.0).0, &bytes);
    };
    for (number, image) in history.images.iter().enumerate() {
        let (half, places) = records_in_force(image);
        let snapshot = reading(image).snapshot.len();
        let edits = places.len() - snapshot;
        for (index, &place) in places.iter().enumerate() {
            // Gone in both: the newest edit, or a part of a snapshot without edits, cannot be missed.
            let mut lost = image.clone();
            (0..2).for_each(|copy| lose(&mut lost, copy, half, place, &blank));
            let found = reading(&lost);
            let newest = index + 1 == places.len() && edits > 0 || edits == 0;
            if !newest {
                let damaged = matches!(found.verdict, Verdict::Damaged { .. });
                assert!(damaged, "step {number}, record {index}: {:?}", found.verdict);
            } else if number > 0 {
                assert_eq!(found.verdict, Verdict::Whole, "the named exception");
                assert!(edits == 0 || found.edits.len() == edits - 1);
            }
            // Gone in one copy, and one sector rotten in the other.
            for copy in 0..2 {
                let mut lost = image.clone();
                lose(&mut lost, copy, half, place, &blank);
                let sectors = (place.1 - place.0) / SECTOR;
                for sector in 0..sectors {
                    let mut lost = lost.clone();
                    let at = zones().offset(1 - copy, half, place.0 + sector * SECTOR).0;
                    damage(&mut lost, at, 0, image);
                    let found = reading(&lost);
                    let damaged = matches!(found.verdict, Verdict::Damaged { .. });
                    assert!(damaged, "step {number}, record {index}, {sector}: {:?}", found.verdict);
                }
            }
        }
    }
}

#[test]
fn one_write_lost_or_gone_astray_never_shows_an_older_state() {
    let history = history(None);
    let base = DiskImage::new(history.images[0].bytes());
    let events = history.recording.events();
    let write = |image: &mut DiskImage, index: usize, to: Option<u64>| {
        if let RecordedKind::Write { offset, data, .. } = &events[index].kind {
            image.write(to.unwrap_or(*offset), data);
        }
    };
    let first = zones().copies[0][0].offset.0;
    let (mut healed, mut said) = (0, 0);
    for (index, event) in events.iter().enumerate() {
        let RecordedKind::Write { offset, data, .. } = &event.kind else { continue };
        let end = first + 4 * HALF;
        let targets = (first..=end - data.len() as u64).step_by(4096).filter(|to| to != offset).map(Some);
        for to in targets.chain([None]) {
            let mut image = base.clone();
            let mut at = 0;
            for step in &history.steps {
                for event in at..step.done {
                    match to {
                        _ if event != index => write(&mut image, event, None),
                        Some(to) => write(&mut image, event, Some(to)),
                        None => {}
                    }
                }
                at = step.done;
                let found = reading(&image);
                if matches!(found.verdict, Verdict::Damaged { .. }) {
                    said += 1;
                    assert!(to.is_some(), "a lost write leaves the other copy");
                } else {
                    healed += 1;
                    assert_eq!(says(&found), step.says, "write {index} went to {to:?} instead of {offset}");
                }
            }
        }
    }
    assert!(healed > 3000 && said > 0, "{healed} healed, {said} said");
}

#[test]
fn only_what_was_never_written_is_fresh() {
    let image = DiskImage::new(1 << 20);
    let fresh = reading(&image);
    assert_eq!((fresh.verdict, says(&fresh).len()), (Verdict::Fresh, 0));
    for sector in 0..HALF / SECTOR {
        let mut image = image.clone();
        damage(&mut image, zones().offset(1, 0, sector * SECTOR).0, 0, &fresh_image());
        assert_eq!(reading(&image).verdict, Verdict::Fresh, "one rotten sector {sector}");
    }
    // One copy zeroed, the other of another format: nothing there is ours, and something was there.
    let history = history(None);
    let mut image = history.images[3].clone();
    for half in 0..2 {
        image.write(zones().offset(0, half, 0).0, &vec![0; HALF as usize]);
        let at = zones().offset(1, half, 0).0;
        let turned: Vec<u8> = image.get(at, HALF as usize).iter().map(|byte| !byte).collect();
        image.write(at, &turned);
    }
    assert!(matches!(reading(&image).verdict, Verdict::Damaged { .. }));
}

fn fresh_image() -> DiskImage {
    DiskImage::new(1 << 20)
}

/// What a life leaves for the next.
#[derive(Default)]
struct Model {
    incarnation: u32,
    /// The last life that got as far as to write both copies anew.
    mended: u32,
    says: Says,
    /// A change that was begun and not answered.
    begun: Option<Says>,
    changes: u64,
    full: u64,
}

async fn live(io: Io, model: Rc<RefCell<Model>>, seed: u64) {
    let mut random = Random::new(seed).fork("manifest life", u64::from(model.borrow().incarnation));
    let disk = io.open_disk("ssd", DiskOpen::default()).unwrap();
    model.borrow_mut().incarnation += 1;
    let incarnation = model.borrow().incarnation;
    let opened = open(&io, &disk, incarnation).await;
    let mut manifest = opened.manifest.unwrap_or_else(|| panic!("{:?}", opened.reading.verdict));
    {
        let mut model = model.borrow_mut();
        let found = says(&opened.reading);
        if let Some(begun) = model.begun.take().filter(|begun| *begun == found) {
            model.says = begun;
        }
        assert_eq!(found, model.says);
    }
    let now = model.borrow().says.clone();
    assert_eq!(manifest.rewrite(&disk, &now).await.unwrap(), Wrote::Durable);
    if now.is_empty() {
        model.borrow_mut().says = vec![Vec::new()];
    }
    model.borrow_mut().mended = incarnation;
    loop {
        let mut next = model.borrow().says.clone();
        let number = model.borrow().changes as usize;
        let taken: u64 = next.iter().map(|body| record_bytes(body.len())).sum();
        // The next start writes all of it as one snapshot.
        let room = manifest.snapshot_bytes_max() - taken;
        let rewrite = random.chance(100_000) || room == 0;
        if rewrite {
            next = (0..random.index(3)).map(|n| body(number + n, 300)).collect();
        } else {
            let most = layout::journal_record::body_bytes_max(room.min(RECORD as u64) as usize);
            next.push(body(number, random.index(most)));
        }
        let held = if next.is_empty() { vec![Vec::new()] } else { next.clone() };
        model.borrow_mut().begun = Some(held);
        let wrote = if rewrite {
            manifest.rewrite(&disk, &next).await
        } else {
            manifest.append(&disk, &next[next.len() - 1]).await
        };
        assert_eq!(wrote.unwrap(), Wrote::Durable);
        let mut model = model.borrow_mut();
        model.says = model.begun.take().unwrap();
        model.changes += 1;
        model.full += u64::from(room == 0);
    }
}

#[test]
fn a_full_half_says_so_and_changes_nothing() {
    let (world, node, disk) = stage(2, None);
    world.block_on(&node, HOUR, move |io| async move {
        let ssd = io.open_disk("ssd", DiskOpen::default()).unwrap();
        let mut manifest = open(&io, &ssd, 1).await.manifest.unwrap();
        let largest = body(1, manifest.body_bytes_max());
        // The largest snapshot, then one edit of the largest size, and no more.
        let mut expected = vec![largest.clone(); 4];
        assert_eq!(manifest.rewrite(&ssd, &expected).await.unwrap(), Wrote::Durable);
        assert_eq!(manifest.append(&ssd, &largest).await.unwrap(), Wrote::Durable);
        expected.push(largest.clone());
        assert_eq!(manifest.append(&ssd, b"one more").await.unwrap(), Wrote::Full);
        assert_eq!(manifest.rewrite(&ssd, &expected).await.unwrap(), Wrote::Full);
        assert_eq!(says(&reading(&disk.snapshot())), expected);
        // Its parts are left in the other half; what is written next has their number.
        assert_eq!(manifest.rewrite(&ssd, [b"small"]).await.unwrap(), Wrote::Durable);
        assert_eq!(manifest.rewrite(&ssd, &expected).await.unwrap(), Wrote::Full);
        assert_eq!(manifest.append(&ssd, b"edit").await.unwrap(), Wrote::Durable);
        let found = reading(&disk.snapshot());
        assert_eq!(
            (found.verdict, says(&found)),
            (Verdict::Whole, vec![b"small".to_vec(), b"edit".to_vec()])
        );
    });
}

#[test]
fn over_many_lives_with_ends_and_rot_nothing_is_lost() {
    let (mut changes, mut full, mut torn) = (0, 0, 0);
    for seed in 0..50 {
        let (world, node, disk) = stage(seed, None);
        let model: Rc<RefCell<Model>> = Rc::default();
        let mut random = Random::new(seed).fork("manifest ends", 0);
        for _ in 0..10 {
            let lives = Rc::clone(&model);
            node.launch(CoreConfig::small("life", 0), move |io| live(io, lives, seed)).unwrap();
            world.run_for(Duration::from_nanos(random.below(30_000_000)));
            if random.coin() {
                node.kill()
            } else {
                node.power_cut()
            }
            torn += u64::from(model.borrow().begun.is_some());
            let is_mended =
                model.borrow().incarnation > 0 && model.borrow().mended == model.borrow().incarnation;
            if model.borrow().begun.is_none() && is_mended {
                // Anything in one copy, at most: this start has mended what came before.
                let copy = random.index(2);
                for _ in 0..random.below(40) {
                    let at = random.below(HALF / SECTOR) * SECTOR;
                    disk.rot(zones().offset(copy, random.index(2), at).0);
                }
            }
        }
        changes += model.borrow().changes;
        full += model.borrow().full;
    }
    assert!(changes > 5000 && full > 100 && torn > 100, "{changes} changes, {full} full, {torn} torn");
}

#[test]
fn after_a_failure_nothing_is_written_any_more() {
    let (world, node, disk) = stage(3, None);
    world.block_on(&node, HOUR, move |io| async move {
        let ssd = io.open_disk("ssd", DiskOpen::default()).unwrap();
        let mut manifest = open(&io, &ssd, 1).await.manifest.unwrap();
        assert_eq!(manifest.rewrite(&ssd, [b"state"]).await.unwrap(), Wrote::Durable);
        let mut faults = disk.faults();
        faults.write_error_ppm = 1_000_000;
        disk.set_faults(faults.clone());
        assert!(manifest.append(&ssd, b"edit").await.is_err());
        faults.write_error_ppm = 0;
        disk.set_faults(faults);
        let before = disk.counts().writes;
        assert!(manifest.append(&ssd, b"edit").await.is_err());
        assert!(manifest.rewrite(&ssd, [b"state"]).await.is_err());
        assert_eq!(disk.counts().writes, before);
    });
}

#[test]
fn sectors_that_cannot_be_read_in_one_copy_are_mended_by_a_start() {
    let (world, node, disk) = stage(4, None);
    world.block_on(&node, HOUR, move |io| async move {
        let ssd = io.open_disk("ssd", DiskOpen::default()).unwrap();
        let mut manifest = open(&io, &ssd, 1).await.manifest.unwrap();
        assert_eq!(manifest.rewrite(&ssd, [b"state"]).await.unwrap(), Wrote::Durable);
        assert_eq!(manifest.append(&ssd, b"edit").await.unwrap(), Wrote::Durable);
        let expected: Says = vec![b"state".to_vec(), b"edit".to_vec()];
        for incarnation in 2..6 {
            let copy = incarnation as usize % 2;
            let half = manifest.half;
            (0..4).for_each(|block| disk.make_unreadable(zones().offset(copy, half, block * 4096).0));
            let opened = open(&io, &ssd, incarnation).await;
            assert_eq!(opened.reading.verdict, Verdict::Whole);
            assert!(opened.reading.single_count > 0);
            assert_eq!(says(&opened.reading), expected);
            manifest = opened.manifest.unwrap();
            assert_eq!(manifest.rewrite(&ssd, &expected).await.unwrap(), Wrote::Durable);
        }
        // A start that is not above the last one's: the superblock is older than the manifest.
        let opened = open(&io, &ssd, 5).await;
        assert!(opened.manifest.is_none() && matches!(opened.reading.verdict, Verdict::Damaged { .. }));
    });
}
