//! What a node does for its tables without being asked: it frees what has expired though nobody writes, keeps tables few
//! while it seals, and comes out of a full disk by itself.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use ioengine::Queue;
use ioengine::sim::{DiskConfig, DiskLatency, World, WorldConfig};
use layout::key::Key;
use layout::units::Space;
use net::outcome::{Limit, Outcome};
use net::reply::{Answer, Reply};
use net::request::{Delete, Put, Request};
use shard::format::{FormatPlan, format};
use shard::limits::Limits;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use support::{Client, Scene, plan};

const DAY_US: u64 = 86_400_000_000;
const HOUR: Duration = Duration::from_secs(3600);
/// Day of the world's first moment, 2026-01-01.
const TODAY: u64 = 20_454;

fn limits() -> Limits {
    Limits {
        staging_bytes: 16 << 10,
        memtable_bytes: 128 << 10,
        memtable_record_count_max: 4096,
        request_count_max: 4096,
        merge_fan_in: 3,
        seal_age: Duration::ZERO,
        ..Limits::small()
    }
}

/// Bytes that do not become fewer by compression.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| byte()).collect()
}

/// Clients that write at once.
const WRITERS: u64 = 30;

/// A counter of the one core.
async fn counter(client: &mut Client, name: &str) -> u64 {
    let body = client.ask(&Request::Status).await.unwrap();
    match Reply::decode(Request::Status.operation(), &body).unwrap().answer {
        Answer::Status(text) => {
            let at = text.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
            text[at..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn counters<const N: usize>(scene: &Scene, names: [&'static str; N]) -> [u64; N] {
    scene.client(move |mut client| async move {
        let mut all = [0; N];
        for (value, name) in all.iter_mut().zip(names) {
            *value = counter(&mut client, name).await;
        }
        all
    })
}

async fn try_put(
    client: &mut Client,
    stream: &[u8],
    time: u64,
    value: &[u8],
    expiry: u64,
) -> Result<(), Outcome> {
    let (id, key) = (client.id(), Key { space: Space(0), stream, time });
    client.written(&Request::Put(Put { id, key, expiry, value })).await.map(|_| ())
}

async fn put(client: &mut Client, stream: &[u8], time: u64, value: &[u8], expiry: u64) {
    while let Err(outcome) = try_put(client, stream, time, value, expiry).await {
        assert!(matches!(outcome, Outcome::Busy { .. }), "{outcome:?}");
        client.io.sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn an_idle_node_frees_what_has_expired() {
    let mut scene = Scene::new(1, 1);
    scene.config.limits = limits();
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    // A month of old days, gone in three hours; then something that stays, and pushes it out of memory.
    scene.client(|mut client| async move {
        let expiry = client.io.wall_us() + 3 * HOUR.as_micros() as u64;
        for n in 0..1500 {
            put(&mut client, b"short", (TODAY - 1 - n % 30) * DAY_US + n, &noise(n, 600), expiry).await;
        }
        for n in 0..400 {
            put(&mut client, b"filler", TODAY * DAY_US + n, &noise(n, 1000), 0).await;
        }
    });
    scene.world.run_for(HOUR);
    let [table_bytes, free, records] = counters(&scene, ["table_bytes", "extents_free", "journal_records"]);
    assert!(table_bytes > 1_000_000, "{table_bytes}");
    scene.world.run_for(5 * HOUR);
    let [after_bytes, after_free, after_records] =
        counters(&scene, ["table_bytes", "extents_free", "journal_records"]);
    assert!(after_bytes < 600_000, "{after_bytes} of {table_bytes} bytes are left");
    assert!(after_free > free + 20, "{free} extents free before, {after_free} after");
    // Two tablets have something to do with time: not one tick a minute, but one each time that it frees something.
    assert!(after_records - records <= 8, "{} records in five idle hours", after_records - records);
}

#[test]
fn an_idle_node_seals_what_has_become_old() {
    let mut scene = Scene::new(2, 1);
    scene.config.limits = Limits { seal_age: 30 * HOUR, ..limits() };
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    scene.client(|mut client| async move {
        for n in 0..400 {
            put(&mut client, b"filler", TODAY * DAY_US + n, &noise(n, 1000), 0).await;
        }
    });
    scene.world.run_for(HOUR);
    assert_eq!(counters(&scene, ["seals"]), [0]);
    scene.world.run_for(60 * HOUR);
    assert_eq!(counters(&scene, ["seals"]), [1]);
}

#[test]
fn a_tablet_has_no_more_runs_than_it_may() {
    let mut scene = Scene::new(4, 1);
    let latency = DiskLatency { write_ns: 3_000_000, flush_ns: 30_000_000, ..DiskLatency::default() };
    scene.world.add_disk(&scene.store, "slow", DiskConfig { latency, ..DiskConfig::new(32 << 20) });
    scene.world.block_on(&scene.store, HOUR, |io| async move {
        let disk = io.open_disk("slow", ioengine::disk::DiskOpen::default()).unwrap();
        format(&io, &disk, &plan(1)).await.unwrap();
    });
    "slow".clone_into(&mut scene.config.disk);
    scene.config.limits = Limits {
        memtable_record_count_max: 1024,
        runs_per_tablet_max: 5,
        maintenance_bytes_per_second: 64 << 10,
        seal_age: HOUR * 24 * 365,
        ..limits()
    };
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    let address = scene.config.listen;
    let most = scene.client(move |mut client| async move {
        let busy = Rc::new(Cell::new(WRITERS));
        for writer in 0..WRITERS {
            let (io, busy) = (client.io.clone(), Rc::clone(&busy));
            client.io.spawn(Queue::Foreground, async move {
                let mut client = Client::connect(io, address).await;
                for n in 0..120 {
                    let stream = format!("stream-{writer}-{}", n % 8).into_bytes();
                    put(&mut client, &stream, TODAY * DAY_US + n, &noise(n, 100), 0).await;
                }
                busy.set(busy.get() - 1);
            });
        }
        let mut most = 0;
        while busy.get() > 0 {
            client.io.sleep(Duration::from_millis(50)).await;
            most = most.max(counter(&mut client, "runs_most").await);
        }
        most
    });
    assert!((4..=5).contains(&most), "{most}");
    assert!(scene.world.marks().contains_key("a flush waits for merges"), "{:?}", scene.world.marks());
}

/// A node whose zone of tables is this large.
fn small_scene(world: World, tables_bytes: u64) -> Scene {
    let scene = Scene::of(world, 1);
    let plan = FormatPlan { anew: true, ..plan(1) };
    let bytes = (7 << 19) + tables_bytes;
    let store = scene.store;
    scene.world.add_disk(&store, "small", DiskConfig::new(bytes));
    scene.world.block_on(&store, Duration::from_secs(60), move |io| async move {
        let disk = io.open_disk("small", ioengine::disk::DiskOpen::default()).unwrap();
        format(&io, &disk, &plan).await.unwrap();
    });
    let mut scene = scene;
    "small".clone_into(&mut scene.config.disk);
    scene
}

#[test]
fn a_full_disk_takes_deletes_and_is_freed_by_them() {
    let mut scene = small_scene(World::new(3, WorldConfig::default()), 6 << 20);
    scene.config.limits = Limits { seal_age: HOUR * 24 * 365, ..limits() };
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    // One stream is one tablet: it alone must not be more than the reserve, or it cannot be written again.
    let stream = |n: u64| format!("stream-{}", n % 24).into_bytes();
    let count = scene.client(move |mut client| async move {
        let mut full_since = 0;
        let mut n = 0;
        while full_since < 100 {
            match try_put(&mut client, &stream(n), TODAY * DAY_US + n, &noise(n, 1500), 0).await {
                Ok(()) => (n, full_since) = (n + 1, 0),
                Err(Outcome::Busy { limit, .. }) => {
                    full_since += u64::from(limit == Limit::Space);
                    client.io.sleep(Duration::from_millis(100)).await;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        n
    });
    assert!(count > 1500, "full after {count}");
    scene.client(move |mut client| async move {
        for n in 0..count {
            let at = TODAY * DAY_US + n;
            assert!(n % 50 > 0 || client.get(&stream(n), at).await.is_ok(), "reads go on");
            let name = stream(n);
            let (id, key) = (client.id(), Key { space: Space(0), stream: &name, time: at });
            loop {
                match client.written(&Request::Delete(Delete { id, key })).await {
                    Ok(_) => break,
                    Err(Outcome::Busy { .. }) => client.io.sleep(Duration::from_millis(50)).await,
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        // As much again.
        for n in 0..count / 2 {
            put(&mut client, &stream(n), TODAY * DAY_US + n, &noise(n, 1500), 0).await;
        }
    });
}

/// A node whose memtables are both full, in the order that packs the first one fuller in a replay that forgets where it was
/// frozen; then killed and started.
fn start_with_full_memtables(canaries: Vec<String>) -> Option<String> {
    let world = World::new(5, WorldConfig { canaries, ..WorldConfig::default() });
    let mut scene = small_scene(world, 0);
    scene.config.limits = Limits { request_count_max: 256, ..limits() };
    let node = scene.start();
    assert_eq!(scene.failure(), None);
    scene.client(|mut client| async move {
        let stream = |n: u64| format!("stream-{n}").into_bytes();
        let mut n = 0;
        // A run for each of more tablets than there are extents.
        while counter(&mut client, "space_short").await == 0 {
            put(&mut client, &stream(n), TODAY * DAY_US, &noise(n, 1000), 0).await;
            client.io.sleep(Duration::from_millis(30)).await;
            n += 1;
        }
        for bytes in [1000, 500, 1000] {
            for n in 1000..1020 {
                put(&mut client, &stream(n), TODAY * DAY_US, &noise(n, bytes), 0).await;
            }
        }
        while try_put(&mut client, &stream(n), TODAY * DAY_US, &noise(n, 400), 0).await.is_ok() {
            n += 1;
        }
        assert_eq!(counter(&mut client, "flushes").await, 0);
    });
    scene.store.kill();
    drop(node);
    let _node = scene.start();
    scene.failure()
}

#[test]
fn two_full_memtables_are_replayed_as_they_were_filled() {
    assert_eq!(start_with_full_memtables(Vec::new()), None);
    let failure = start_with_full_memtables(vec!["forget_freezes".to_owned()]);
    assert!(failure.is_some_and(|text| text.contains("memtable")), "a planted bug is found");
}
