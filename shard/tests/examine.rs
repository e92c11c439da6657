//! What a shard leaves, whenever power goes, is found sound by the offline check: each record is in a table or in the
//! journal, no copy is worse than the other, no extent is lost. And one bad block is found.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use ioengine::disk::DiskOpen;
use shard::examine::{Grade, Site};
use std::time::Duration;
use support::Scene;

/// A node that flushes and merges often.
fn scene(seed: u64) -> Scene {
    let mut scene = Scene::new(seed, 1);
    scene.config.limits.memtable_record_count_max = 1200;
    scene.config.limits.merge_fan_in = 2;
    scene
}

/// Puts records in batches until the connection ends.
fn put_all(scene: &Scene, from: u64, batches: u64) {
    scene.client(move |mut client| async move {
        for batch in from..from + batches {
            let stream = format!("stream-{}", batch % 3).into_bytes();
            let mut attempts = 0;
            while client.put_batch(&stream, batch * 40..batch * 40 + 40).await.is_err() && attempts < 200 {
                attempts += 1;
                client.io.sleep(Duration::from_millis(20)).await;
            }
        }
    });
}

#[test]
fn a_shard_that_lost_power_is_found_sound() {
    let mut tables = 0;
    for seed in 0..24 {
        let scene = scene(seed);
        for (life, name) in [(0, "first"), (1, "second")] {
            let _node = scene.start();
            assert_eq!(scene.failure(), None);
            put_all(&scene, life * 60, 20 + seed * 7 % 41);
            // In the middle of a flush or a merge, or behind it.
            scene.world.run_for(Duration::from_micros(seed * 911 % 9000));
            scene.store.power_cut();
            let examined = scene.look(name);
            assert_eq!(examined.findings, [], "seed {seed}");
            assert_eq!(examined.lost, None, "seed {seed}");
            assert_eq!(examined.coverage.bytes_read, examined.coverage.bytes_in_use);
            tables += examined.coverage.table_count;
        }
    }
    assert!(tables > 100, "{tables} tables only");
}

#[test]
fn a_block_that_rots_is_found() {
    let scene = scene(7);
    let _node = scene.start();
    put_all(&scene, 0, 60);
    scene.store.power_cut();
    let sound = scene.look("sound");
    assert_eq!((sound.findings.len(), sound.coverage.table_count > 0), (0, true));
    let image = scene.disk().snapshot();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
    let mut found = 0;
    // Behind the journal and the manifest, one place in an extent at a time: some of them are in use.
    for (extent, name) in (0..).zip(names) {
        scene.disk().restore(&image);
        scene.disk().rot((7 << 19) + extent * (16 << 10) + 512);
        let examined = scene.look(name);
        assert!(
            examined.findings.iter().all(|finding| finding.grade == Grade::Damage),
            "{:?}",
            examined.findings
        );
        found += usize::from(!examined.findings.is_empty());
    }
    assert!(found > 0, "rot was found {found} times");
}

/// Both copies of the manifest, and where they stand.
fn manifest(scene: &Scene) -> (u64, Vec<u8>) {
    let image = scene.disk().snapshot();
    scene.world.add_disk_with(&scene.clients, "manifest", ioengine::sim::DiskConfig::new(32 << 20), image);
    scene.world.block_on(&scene.clients, Duration::from_secs(60), |io| async move {
        let disk = io.open_disk("manifest", DiskOpen::default()).unwrap();
        let superblock = shard::format::read(&io, &disk).await.unwrap();
        let at = Site::new(&superblock, 0).manifest().offset(0, 0, 0).0;
        let bytes = usize::try_from(superblock.tables.manifest_bytes()).unwrap();
        let (result, buffer) = disk.read(io.buffer(bytes).unwrap(), at, bytes).await;
        result.unwrap();
        (at, buffer[..bytes].to_vec())
    })
}

#[test]
fn a_manifest_that_was_put_back_is_not_believed() {
    let scene = Scene::new(3, 1);
    let node = scene.start();
    put_all(&scene, 0, 2);
    scene.store.power_cut();
    drop(node);
    let (at, bytes) = manifest(&scene);
    // Shared memory, which would know better, goes with the power; the journal does not go round.
    let node = scene.start();
    put_all(&scene, 2, 2);
    scene.store.power_cut();
    drop(node);
    assert_eq!(scene.look("before").findings, []);
    scene.disk().overwrite(at, &bytes);
    let _node = scene.start();
    assert_eq!((scene.failure(), scene.damaged_tablet_count()), (None, 64));
}
