//! Damage to each record of a journal in turn: what can be proven is served, everything else is `Corrupt`, nothing is
//! wrong. The journal of one core holds one put per record, so that it is known which put each record carries.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use ioengine::disk::DiskOpen;
use layout::journal_record::RecordKind;
use layout::key::{bucket_of, tablet_of};
use layout::units::{Space, TabletIndex};
use net::outcome::Outcome;
use shard::journal::{JournalStart, Tail, replay};
use shard::recover::journal_zone;
use std::collections::BTreeMap;
use std::time::Duration;
use support::Scene;

const PUTS: u64 = 12;

fn stream(n: u64) -> Vec<u8> {
    format!("stream-{}", n % 5).into_bytes()
}

fn tablet(n: u64) -> TabletIndex {
    tablet_of(bucket_of(Space(0), &stream(n)))
}

/// Where a record lies, and what it is.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    bytes: u64,
    kind: RecordKind,
}

/// A node with `PUTS` puts, ended by `end`.
fn written(seed: u64, end: impl FnOnce(&Scene)) -> (Scene, Vec<Place>) {
    let scene = Scene::new(seed, 1);
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    scene.client(|mut client| async move {
        for n in 0..PUTS {
            client.put(&stream(n), n, &n.to_le_bytes()).await.unwrap();
        }
    });
    end(&scene);
    let limits = scene.config.limits.clone();
    let places = scene.world.block_on(&scene.clients, Duration::from_secs(60), {
        let image = scene.disk().snapshot();
        let copy = scene.world.add_disk_with(
            &scene.clients,
            "copy",
            ioengine::sim::DiskConfig::new(32 << 20),
            image,
        );
        let _ = copy;
        move |io| async move {
            let disk = io.open_disk("copy", DiskOpen::default()).unwrap();
            let superblock = shard::format::read(&io, &disk).await.unwrap();
            let zone = journal_zone(&superblock, 0, &limits).unwrap();
            let buffers = (io.buffer(zone.record_bytes_max as usize).unwrap(), io.buffer(4096).unwrap());
            let mut places = Vec::new();
            let mut at = 0;
            let replayed = replay(&disk, &zone, JournalStart::FIRST, buffers.0, buffers.1, |record| {
                let bytes = record.header.record_bytes();
                let place = zone.place(at, bytes);
                at = place + bytes;
                let offset = zone.offset(place).0;
                places.push(Place { offset, bytes, kind: record.header.fields.kind });
            })
            .await
            .unwrap();
            assert_eq!(replayed.tail, Tail::Clean);
            assert!(replayed.gaps.is_empty());
            places
        }
    });
    (scene, places)
}

/// Ask for every put: what was answered, by its number.
fn answers(scene: &Scene) -> BTreeMap<u64, Result<Vec<u8>, Outcome>> {
    scene.client(|mut client| async move {
        let mut answers = BTreeMap::new();
        for n in 0..PUTS {
            answers.insert(n, client.get(&stream(n), n).await.map(|(_, value)| value));
        }
        answers
    })
}

/// Nothing wrong, and `Corrupt` exactly where `lost` says.
fn expect(scene: &Scene, what: &str, lost: impl Fn(u64) -> bool) {
    assert_eq!(scene.failure(), None, "{what}");
    for (n, answer) in answers(scene) {
        if lost(n) {
            assert_eq!(answer, Err(Outcome::Corrupt), "{what}, put {n}");
        } else {
            assert_eq!(answer.as_deref(), Ok(&n.to_le_bytes()[..]), "{what}, put {n}");
        }
    }
}

/// The put that a record of entries carries: they come in order.
fn put_of(places: &[Place], index: usize) -> Option<u64> {
    let entries = places[..index].iter().filter(|place| place.kind == RecordKind::Entries).count() as u64;
    (places[index].kind == RecordKind::Entries).then_some(entries)
}

fn power_cut(scene: &Scene) {
    scene.world.run_for(Duration::from_secs(1)); // the mark that says that all is flushed
    scene.store.power_cut();
}

#[test]
fn a_rotten_record_costs_its_own_tablet_and_no_other() {
    let (_, places) = written(1, power_cut);
    assert!(places.iter().filter(|place| place.kind == RecordKind::Entries).count() as u64 == PUTS);
    for index in 0..places.len() {
        let (scene, places) = written(1, power_cut);
        scene.disk().rot(places[index].offset + 512 * (index as u64 % (places[index].bytes / 512)));
        let last = index + 1 == places.len();
        let _node = scene.start();
        let what = format!("record {index} {:?}", places[index]);
        match put_of(&places, index) {
            // Without its first sector nothing says what the last record was.
            _ if last && index % 8 == 0 => expect(&scene, &what, |_| true),
            Some(put) => expect(&scene, &what, |n| tablet(n) == tablet(put)),
            None => expect(&scene, &what, |_| false),
        }
    }
}

#[test]
fn a_lost_record_is_damage_unless_it_is_the_very_last() {
    let (_, places) = written(2, power_cut);
    for index in 0..places.len() {
        let (scene, places) = written(2, power_cut);
        scene.disk().overwrite(places[index].offset, &vec![0; places[index].bytes as usize]);
        let _node = scene.start();
        let what = format!("record {index} {:?}", places[index]);
        match put_of(&places, index) {
            Some(put) => expect(&scene, &what, |n| tablet(n) == tablet(put)),
            // The open record, and the mark at the end: they carry no entry.
            None => expect(&scene, &what, |_| false),
        }
    }
}

#[test]
fn shared_memory_tells_of_a_lost_last_record() {
    // The process is killed before the mark: the last record is the last put, and the version cache stays.
    let kill = |scene: &Scene| scene.store.kill();
    let (scene, places) = written(3, kill);
    let last = places.last().unwrap();
    assert_eq!(last.kind, RecordKind::Entries);
    scene.disk().overwrite(last.offset, &vec![0; last.bytes as usize]);
    let _node = scene.start();
    expect(&scene, "lost behind a kill", |n| tablet(n) == tablet(PUTS - 1));
    // What knew of it goes with the power; the journal's own records remember it.
    scene.store.power_cut();
    let _node = scene.start();
    expect(&scene, "lost behind a kill, a start and a power cut", |n| tablet(n) == tablet(PUTS - 1));
}

#[test]
fn damage_is_remembered_behind_a_record_that_proved_nothing() {
    // No mark: behind the rotten record stands only what the starts after it wrote.
    let (scene, places) = written(6, |scene| scene.store.power_cut());
    let index = places.len() - 2;
    let put = put_of(&places, index).unwrap();
    scene.disk().rot(places[index].offset + 512);
    // Nothing behind the gap speaks of the other tablets than the last put's.
    let lost = |n: u64| tablet(n) != tablet(PUTS - 1) || tablet(n) == tablet(put);
    for start in ["first", "second", "third"] {
        let _node = scene.start();
        expect(&scene, start, lost);
        scene.store.power_cut();
    }
}

#[test]
fn the_named_exception_is_what_it_says() {
    // Power is cut before the mark and the last record was never stored: nobody can know.
    let cut = |scene: &Scene| scene.store.power_cut();
    let (scene, places) = written(4, cut);
    let last = places.last().unwrap();
    scene.disk().overwrite(last.offset, &vec![0; last.bytes as usize]);
    let _node = scene.start();
    assert_eq!(scene.damaged_tablet_count(), 0);
    let answers = answers(&scene);
    assert_eq!(answers[&(PUTS - 1)], Err(Outcome::NotFound));
    assert!((0..PUTS - 1).all(|n| answers[&n].as_deref() == Ok(&n.to_le_bytes()[..])));
}

#[test]
fn a_damaged_tablet_takes_no_writes_and_others_do() {
    let (scene, places) = written(5, power_cut);
    let damaged = places.iter().position(|place| place.kind == RecordKind::Entries).unwrap() + 3;
    let put = put_of(&places, damaged).unwrap();
    scene.disk().rot(places[damaged].offset + 1024);
    let _node = scene.start();
    scene.client(move |mut client| async move {
        for n in 0..PUTS {
            let answer = client.put(&stream(n), 1000 + n, b"later").await;
            if tablet(n) == tablet(put) {
                assert_eq!(answer, Err(Outcome::Corrupt));
            } else {
                answer.unwrap();
            }
        }
    });
    // The verdict is the same at every start, also behind what was written since.
    scene.world.run_for(Duration::from_secs(1));
    scene.store.power_cut();
    let _node = scene.start();
    expect(&scene, "after another start", |n| tablet(n) == tablet(put));
}
