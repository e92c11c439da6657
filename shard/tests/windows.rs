//! Sealed windows of a whole node: the same bytes on two devices, few tables for twenty years, and nothing lost, hidden or
//! back again, whatever is flushed, merged, sealed and started anew.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use ioengine::disk::DiskOpen;
use ioengine::sim::{DiskConfig, World, WorldConfig};
use layout::key::{Key, bucket_of, tablet_of};
use layout::manifest::TableKind;
use layout::units::{Incarnation, Space, Uuid, Version};
use net::operation::Operation;
use net::outcome::Outcome;
use net::reply::{Answer, Reply};
use net::request::{Delete, Put, Request};
use shard::examine::{Finding, NamedTable, Site, examine};
use shard::limits::Limits;
use shard::recover::journal_zone;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use support::{Client, Scene};

const DAY_US: u64 = 86_400_000_000;
/// Day of the world's first moment, 2026-01-01.
const TODAY: u64 = 20_454;
const SEAL_NOTHING: Duration = Duration::from_secs(1 << 40);

/// Memtables of 64 KiB, so that little is flushed often.
fn limits() -> Limits {
    Limits {
        staging_bytes: 16 << 10,
        memtable_bytes: 128 << 10,
        request_count_max: 32_768,
        memtable_record_count_max: 4096,
        merge_fan_in: 3,
        seal_age: Duration::ZERO,
        window_bytes: 64 << 10,
        ..Limits::small()
    }
}

/// The device, and the tables that its one shard's manifest names; fsck has nothing to say.
fn tables(scene: &Scene, name: &'static str) -> (Uuid, Vec<Rc<NamedTable>>) {
    let (device, tables, findings) = examined(scene, name);
    assert_eq!(findings, []);
    (device, tables)
}

/// The device, its tables, and what fsck says.
fn examined(scene: &Scene, name: &'static str) -> (Uuid, Vec<Rc<NamedTable>>, Vec<Finding>) {
    scene.store.kill();
    let image = scene.disk().snapshot();
    scene.world.add_disk_with(&scene.clients, name, DiskConfig::new(32 << 20), image);
    let limits = scene.config.limits.clone();
    scene.world.block_on(&scene.clients, Duration::from_secs(60), move |io| async move {
        let disk = io.open_disk(name, DiskOpen::default()).unwrap();
        let superblock = shard::format::read(&io, &disk).await.unwrap();
        let journal = journal_zone(&superblock, 0, &limits).unwrap();
        let next = Incarnation(superblock.incarnation.0 + 1);
        let examined = examine(&io, &disk, &superblock, 0, next, journal.bytes()).await.unwrap();
        let names = Site::new(&superblock, 0).names(&examined.reading).unwrap();
        (superblock.device, names.tables.values().cloned().collect(), examined.findings)
    })
}

/// A flush makes room.
async fn wait_for_room(client: &Client, outcome: Outcome) {
    assert!(matches!(outcome, Outcome::Busy { .. }), "{outcome:?}");
    client.io.sleep(Duration::from_millis(20)).await;
}

/// A change, tried until there is room for it.
async fn write(client: &mut Client, request: &Request<'_>) -> Result<Version, Outcome> {
    loop {
        match client.written(request).await {
            Err(Outcome::Busy { .. }) => client.io.sleep(Duration::from_millis(20)).await,
            other => return other,
        }
    }
}

async fn put(client: &mut Client, stream: &[u8], time: u64, value: &[u8]) {
    let (id, key) = (client.id(), Key { space: Space(0), stream, time });
    write(client, &Request::Put(Put { id, key, expiry: 0, value })).await.unwrap();
}

/// Write so much of today that everything before it is flushed.
async fn fill(client: &mut Client) {
    for n in 0..400 {
        put(client, b"filler", TODAY * DAY_US + n, &[1; 1000]).await;
    }
}

fn wait(scene: &Scene) {
    scene.world.run_for(Duration::from_secs(5));
}

/// What a sealed table is, without its place.
type Sealed = (u8, u64, u64, u32, u64, u64, u128);

fn sealed(tables: &[Rc<NamedTable>]) -> Vec<Sealed> {
    let mut list: Vec<Sealed> = tables
        .iter()
        .map(|table| table.facts)
        .filter(|facts| facts.kind == TableKind::Sealed)
        .map(|facts| {
            let (from, to, generation) = (facts.window_from, facts.window_to, facts.window_generation);
            (facts.tablet.get(), from, to, generation, facts.record_count, facts.bytes, facts.checksum)
        })
        .collect();
    list.sort_unstable();
    list
}

/// One of 16 that have nothing in common: each comes again, seldom in the same block.
fn phrase(number: u64) -> String {
    let mut numbers = Numbers(number * 7 % 16);
    (0..90).map(|_| char::from(b'!' + numbers.below(90) as u8)).collect()
}

/// The same records, flushed and merged as these limits have it, then sealed.
fn history(seed: u64, limits: Limits) -> (Uuid, Vec<Sealed>, usize) {
    let mut scene = Scene::new(seed, 1);
    scene.config.limits = Limits { seal_age: SEAL_NOTHING, ..limits };
    let node = scene.start();
    assert_eq!(scene.failure(), None);
    scene.client(|mut client| async move {
        for n in 0..600u64 {
            let stream = format!("stream-{}", n % 3);
            // Every seventh is written again, every eleventh is gone.
            for n in [n, n / 7 * 7].into_iter().take(1 + usize::from(n % 7 == 6)) {
                let value = format!("value {n} {}", phrase(n));
                put(&mut client, stream.as_bytes(), n / 3 * DAY_US / 10, value.as_bytes()).await;
            }
            if n % 11 == 10 {
                let key = Key { space: Space(0), stream: stream.as_bytes(), time: n / 6 * DAY_US / 10 };
                let id = client.id();
                let _version = write(&mut client, &Request::Delete(Delete { id, key })).await;
            }
        }
        fill(&mut client).await;
    });
    wait(&scene);
    let runs = tables(&scene, "before").1;
    assert!(runs.iter().all(|table| table.facts.kind == TableKind::Run), "nothing is old enough");
    drop(node);
    scene.config.limits.seal_age = Duration::ZERO;
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    wait(&scene);
    let (device, after) = tables(&scene, "after");
    (device, sealed(&after), runs.len())
}

#[test]
fn two_devices_seal_the_same_bytes() {
    let (device, here, here_runs) = history(1, limits());
    let larger =
        Limits { memtable_bytes: 512 << 10, merge_fan_in: 7, run_level: 3, block_bytes: 4096, ..limits() };
    let (other, there, there_runs) = history(2, larger);
    assert_ne!(device, other);
    assert_ne!(here_runs, there_runs, "the histories differ");
    assert!(here.len() >= 3, "{here:?}");
    assert_eq!(here, there);
    // Their dictionaries, too: without them they are larger.
    let (_, without, _) = history(1, Limits { sealed_dictionary_bytes: 0, ..limits() });
    let bytes = |list: &[Sealed]| list.iter().map(|table| table.5).sum::<u64>();
    assert!(bytes(&here) < bytes(&without), "{here:?}, {without:?}");
}

#[test]
fn twenty_years_of_days_end_in_few_tables() {
    let mut scene = Scene::new(3, 1);
    scene.config.limits = Limits { window_bytes: 16 << 10, ..limits() };
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    let days = || TODAY - 7300..TODAY;
    scene.client(move |mut client| async move {
        for first in days().step_by(100) {
            let times = (first..first + 100).map(|day| day * DAY_US);
            while let Err(outcome) = client.put_batch(b"history", times.clone()).await {
                wait_for_room(&client, outcome).await;
            }
        }
        fill(&mut client).await;
    });
    wait(&scene);
    scene.client(move |mut client| async move {
        let (mut found, mut from) = (Vec::new(), Some(0));
        while let Some(start) = from {
            let (times, resume) = client.scan_page(b"history", start).await;
            found.extend(times);
            from = resume;
        }
        assert!(found.into_iter().eq(days().map(|day| day * DAY_US)));
    });
    let all = tables(&scene, "copy").1;
    let sealed = sealed(&all);
    assert!((2..24).contains(&sealed.len()), "{sealed:?}");
    assert!(sealed.iter().map(|table| table.4).sum::<u64>() > 5000, "{sealed:?}");
}

#[test]
fn a_record_outside_its_window_is_found_by_fsck() {
    let canaries = vec!["seal_what_is_newer".to_owned()];
    let mut scene = Scene::of(World::new(4, WorldConfig { canaries, ..WorldConfig::default() }), 1);
    scene.config.limits = limits();
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    scene.client(|mut client| async move {
        // Yesterday is sealed; this morning is not.
        for n in 0..100 {
            put(&mut client, b"filler", (TODAY - 1) * DAY_US + n, &[2; 300]).await;
        }
        fill(&mut client).await;
    });
    wait(&scene);
    let findings = examined(&scene, "copy").2;
    assert!(!findings.is_empty());
    assert!(findings.iter().all(|finding| finding.what.contains("its window is from")), "{findings:?}");
}

/// The node's core has counted so many.
fn counter(scene: &Scene, name: &str) -> u64 {
    let text = scene.client(|mut client| async move { client.ask(&Request::Status).await.unwrap() });
    let Answer::Status(text) = Reply::decode(Operation::Status, &text).unwrap().answer else { panic!() };
    let status: serde_json::Value = serde_json::from_str(text).unwrap();
    status["cores"][0][name].as_u64().unwrap()
}

#[test]
fn a_list_of_sections_that_decays_is_found_and_no_read_needs_it() {
    let mut scene = Scene::new(7, 1);
    scene.config.limits = limits();
    let node = scene.start();
    assert_eq!(scene.failure(), None);
    // Streams of one tablet, each in a bucket of its own: their list fills some sectors.
    let names = (0..12_000_u64).map(|number| format!("stream-{number}").into_bytes());
    let streams: Vec<_> =
        names.filter(|name| tablet_of(bucket_of(Space(0), name)).get() == 9).take(150).collect();
    let written = streams.clone();
    scene.client(|mut client| async move {
        for stream in written {
            put(&mut client, &stream, DAY_US, &[3; 100]).await;
        }
        fill(&mut client).await;
    });
    wait(&scene);
    let sealed = tables(&scene, "before").1.into_iter().find(|table| {
        (table.facts.kind, table.facts.tablet.get(), table.facts.record_count) == (TableKind::Sealed, 9, 150)
    });
    let sealed = sealed.expect("they are sealed together");
    drop(node);
    // The second sector behind the data has nothing but the list.
    let (at, _) = scene.world.block_on(&scene.clients, Duration::from_secs(60), move |io| async move {
        let disk = io.open_disk("before", DiskOpen::default()).unwrap();
        let superblock = shard::format::read(&io, &disk).await.unwrap();
        Site::new(&superblock, 0).place(&sealed.ranges, sealed.facts.data_bytes + 512).unwrap()
    });
    scene.disk().rot(at.0);
    scene.config.limits.scrub_period = Duration::from_secs(2);
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    scene.world.run_for(Duration::from_secs(10));
    assert!(counter(&scene, "scrub_corrupt") > 0);
    scene.client(|mut client| async move {
        for stream in streams {
            assert_eq!(client.get(&stream, DAY_US).await.map(|got| got.1), Ok(vec![3; 100]));
        }
    });
    let findings = examined(&scene, "after").2;
    assert!(findings.len() == 1 && findings[0].what.starts_with("sections: "), "{findings:?}");
}

/// Numbers that look random, from a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What should be there: value, and expiry or 0.
type Model = BTreeMap<(u64, u64), (Vec<u8>, u64)>;

fn stream(number: u64) -> Vec<u8> {
    format!("stream-{number}").into_bytes()
}

const STREAMS: u64 = 3;

/// Some hundred changes.
async fn change(client: &mut Client, model: &mut Model, numbers: &mut Numbers) {
    for _ in 0..350 {
        let number = numbers.below(STREAMS);
        let time = match numbers.below(3) {
            0 => numbers.below(40) * DAY_US,
            1 => (TODAY - numbers.below(60)) * DAY_US + 5,
            _ => numbers.below(TODAY) * DAY_US + 9,
        };
        let name = stream(number);
        let key = Key { space: Space(0), stream: &name, time };
        let id = client.id();
        if numbers.below(4) == 0 {
            let written = write(client, &Request::Delete(Delete { id, key })).await;
            assert!(matches!(written, Ok(_) | Err(Outcome::NotFound)), "{written:?}");
            model.remove(&(number, time));
            continue;
        }
        let value = vec![numbers.below(256) as u8; numbers.below(300) as usize];
        let expiry = if numbers.below(5) == 0 { client.io.wall_us() + numbers.below(8_000_000) } else { 0 };
        write(client, &Request::Put(Put { id, key, expiry, value: &value })).await.unwrap();
        model.insert((number, time), (value, expiry));
    }
}

/// Everything by get, and each stream by scan.
async fn compare(client: &mut Client, model: &mut Model, known: &[(u64, u64)], what: &str) {
    // So that log time has passed what the wall clock has: nothing is in doubt but what expires just now.
    client.io.sleep(Duration::from_secs(2)).await;
    for number in 0..STREAMS {
        put(client, &stream(number), 1, b"tick").await;
        model.insert((number, 1), (b"tick".to_vec(), 0));
    }
    let now = client.io.wall_us();
    let in_doubt = |expiry: u64| expiry > 0 && expiry.abs_diff(now) < 1_900_000;
    let is_there = |expiry: u64| expiry == 0 || expiry > now;
    for (number, time) in known {
        let got = client.get(&stream(*number), *time).await;
        match model.get(&(*number, *time)) {
            Some((_, expiry)) if in_doubt(*expiry) => {}
            Some((value, expiry)) if is_there(*expiry) => {
                assert_eq!(got.map(|got| got.1), Ok(value.clone()), "{what}: stream {number}, time {time}");
            }
            _ => assert_eq!(got, Err(Outcome::NotFound), "{what}: stream {number}, time {time}"),
        }
    }
    for number in 0..STREAMS {
        let (mut found, mut from) = (Vec::new(), Some(0));
        while let Some(start) = from {
            let (times, resume) = client.scan_page(&stream(number), start).await;
            found.extend(times);
            from = resume;
        }
        let doubtful = |time: &u64| model.get(&(number, *time)).is_some_and(|(_, expiry)| in_doubt(*expiry));
        found.retain(|time| !doubtful(time));
        let of_stream = model.range((number, 0)..=(number, u64::MAX));
        let expected: Vec<u64> = of_stream
            .filter(|(_, (_, expiry))| is_there(*expiry) && !in_doubt(*expiry))
            .map(|((_, time), _)| *time)
            .collect();
        assert_eq!(found, expected, "{what}: stream {number}");
    }
}

#[test]
fn a_node_that_seals_is_a_map() {
    let (mut sealed_count, mut again_count) = (0, 0);
    for seed in 0..6u64 {
        let mut scene = Scene::new(100 + seed, 1);
        scene.config.limits = Limits {
            window_bytes: (4 << 10) << (seed % 4),
            seal_age: Duration::from_secs([0, 24 * 3600][(seed % 2) as usize]),
            merge_fan_in: 2 + (seed % 3) as usize,
            ..limits()
        };
        let state = Rc::new(RefCell::new((Model::new(), Numbers(seed), Vec::new())));
        for round in 0..5 {
            let _node = scene.start();
            assert_eq!(scene.failure(), None, "seed {seed} round {round}");
            let state = Rc::clone(&state);
            scene.client(move |mut client| async move {
                let (mut model, mut numbers, mut known) =
                    state.replace((Model::new(), Numbers(0), Vec::new()));
                let what = format!("seed {seed} round {round}");
                compare(&mut client, &mut model, &known, &what).await;
                for part in 0..3 {
                    change(&mut client, &mut model, &mut numbers).await;
                    known.extend(model.keys().copied());
                    known.sort_unstable();
                    known.dedup();
                    compare(&mut client, &mut model, &known, &format!("{what} part {part}")).await;
                }
                state.replace((model, numbers, known));
            });
            if round % 2 == 0 { scene.store.power_cut() } else { scene.store.kill() }
        }
        let sealed = sealed(&tables(&scene, "copy").1);
        sealed_count += sealed.len();
        again_count += sealed.iter().filter(|table| table.3 > 1).count();
    }
    assert!(
        sealed_count > 20 && again_count > 5,
        "{sealed_count} windows, {again_count} of them sealed again"
    );
}
