//! The scrub of a running node against rot of every kind: what it calls whole is whole after a start, what a copy or memory
//! still has is written again, and a sound disk raises no alarm. The offline check, which knows nothing of it, is the
//! witness.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use ioengine::disk::DiskOpen;
use ioengine::sim::{DiskConfig, Random};
use net::operation::Operation;
use net::reply::{Answer, Reply};
use net::request::Request;
use std::collections::BTreeMap;
use std::time::Duration;
use support::Scene;

const SECTOR: usize = 512;
const PERIOD: Duration = Duration::from_secs(20);
/// Batches of the first and of the second part, 40 records each.
const BATCHES: u64 = 60;

/// Records that come last, each alone.
const LATE: u64 = 40;

/// A node whose tables, journal, manifest and state are all in use, and whose scrub goes round every twenty seconds.
fn scene(seed: u64) -> Scene {
    let mut scene = Scene::new(seed, 1);
    let limits = &mut scene.config.limits;
    limits.memtable_record_count_max = 1200;
    limits.merge_fan_in = 2;
    limits.seal_age = Duration::ZERO;
    limits.scrub_period = PERIOD;
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    scene.client(|mut client| async move {
        for batch in 0..BATCHES {
            while client.put_batch(stream(batch), times(batch)).await.is_err() {
                client.io.sleep(Duration::from_millis(20)).await;
            }
        }
        // Stay in memory and in the journal.
        for time in 0..LATE {
            client.put(b"late", time, &[7; 900]).await.unwrap();
        }
    });
    scene.world.run_for(Duration::from_secs(1));
    scene
}

fn stream(batch: u64) -> &'static [u8] {
    [&b"first"[..], b"second", b"third"][batch as usize % 3]
}

fn times(batch: u64) -> std::ops::Range<u64> {
    batch * 40..batch * 40 + 40
}

/// A counter of the node's one core.
fn counters(scene: &Scene) -> BTreeMap<String, u64> {
    let text = scene.client(|mut client| async move { client.ask(&Request::Status).await.unwrap() });
    let Answer::Status(text) = Reply::decode(Operation::Status, &text).unwrap().answer else { panic!() };
    let status: serde_json::Value = serde_json::from_str(text).unwrap();
    let core = status["cores"][0].as_object().unwrap();
    // Of each peer a core counts by itself: those are no numbers.
    core.iter().filter_map(|(name, value)| Some((name.clone(), value.as_u64()?))).collect()
}

/// Offsets of the sectors that hold anything, by the part of the disk that they stand in.
fn sectors(scene: &Scene) -> BTreeMap<&'static str, Vec<u64>> {
    let image = scene.disk().snapshot();
    scene.world.add_disk_with(&scene.clients, "map", DiskConfig::new(32 << 20), image);
    scene.world.block_on(&scene.clients, Duration::from_secs(60), move |io| async move {
        let disk = io.open_disk("map", DiskOpen::default()).unwrap();
        let superblock = shard::format::read(&io, &disk).await.unwrap();
        let zones = superblock.shard_zones()[0];
        let (extents, _) = zones.extents(superblock.tables);
        let part = |offset: u64| match offset {
            0..16_384 => "superblock",
            _ if zones.journal.offset.0 <= offset
                && offset < zones.journal.offset.0 + zones.journal.bytes =>
            {
                "journal"
            }
            _ if offset >= extents.0 => "tables",
            _ => "manifest",
        };
        let mut found: BTreeMap<&'static str, Vec<u64>> = BTreeMap::new();
        let mut buffer = io.buffer(1 << 20).unwrap();
        for at in (0..disk.geometry().bytes).step_by(1 << 20) {
            let (result, back) = disk.read(buffer, at, 1 << 20).await;
            result.unwrap();
            buffer = back;
            for (index, sector) in buffer[..1 << 20].chunks(SECTOR).enumerate() {
                if sector.iter().any(|&byte| byte != 0) {
                    let offset = at + (index * SECTOR) as u64;
                    found.entry(part(offset)).or_default().push(offset);
                }
            }
        }
        found
    })
}

/// Every record can be read.
fn all_there(scene: &Scene) -> bool {
    scene.client(|mut client| async move {
        let batches = (0..BATCHES).flat_map(|batch| times(batch).map(move |time| (stream(batch), time)));
        for (stream, time) in batches.chain((0..LATE).map(|time| (&b"late"[..], time))) {
            if client.get(stream, time).await.is_err() {
                return false;
            }
        }
        true
    })
}

/// What came of one sector that decayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Nothing in use stood there.
    Unused,
    Mended,
    /// Found, and nothing on this disk could mend it.
    Reported,
}

/// Let a sector decay, let the scrub go round, start anew.
fn decay(seed: u64, part: &'static str, rot: bool) -> Fate {
    let scene = scene(seed);
    let of_part = &sectors(&scene)[part];
    let offset = of_part[Random::new(seed).fork("sector", 0).index(of_part.len())];
    let at = format!("seed {seed}, {part}, offset {offset}, rot {rot}");
    if rot {
        scene.disk().rot(offset);
    } else {
        scene.disk().make_unreadable(offset);
    }
    let is_found_offline = rot && !scene.look("decayed").findings.is_empty();
    scene.world.run_for(PERIOD * 3);
    let counters = counters(&scene);
    let (found, mended) =
        (counters["scrub_corrupt"] + counters["scrub_unreadable"], counters["scrub_mended"]);
    assert!(counters["scrub_passes"] >= 2, "{at}");
    assert!(found > 0 || !is_found_offline, "{at}: the offline check sees it");
    let fate = match (found, mended) {
        (0, 0) => Fate::Unused,
        (_, 0) => Fate::Reported,
        _ => Fate::Mended,
    };
    scene.store.power_cut();
    let findings = scene.look("after").findings;
    let _node = scene.start();
    assert_eq!(scene.failure(), None, "{at}");
    let is_whole = scene.damaged_tablet_count() == 0 && all_there(&scene);
    if fate == Fate::Reported {
        assert_eq!(part, "tables", "{at}: all else has a copy, or is in memory");
    } else {
        assert_eq!(findings, [], "{at}, {fate:?}");
        assert!(is_whole, "{at}, {fate:?}: what the scrub calls whole is whole");
    }
    fate
}

#[test]
fn what_decays_is_mended_or_reported_and_what_is_called_whole_is_whole() {
    let mut tally: BTreeMap<(&str, Fate), u64> = BTreeMap::new();
    for (part, count) in [("superblock", 6), ("manifest", 16), ("journal", 40), ("tables", 50)] {
        for seed in 0..count {
            *tally.entry((part, decay(seed, part, seed % 2 == 0))).or_default() += 1;
        }
    }
    let count = |part, fate| tally.get(&(part, fate)).copied().unwrap_or(0);
    assert_eq!(count("superblock", Fate::Mended), 6, "{tally:?}");
    for (part, fate) in [
        ("manifest", Fate::Mended),
        ("journal", Fate::Mended),
        ("journal", Fate::Unused),
        ("tables", Fate::Mended),
        ("tables", Fate::Reported),
    ] {
        assert!(count(part, fate) > 0, "{part} {fate:?}: {tally:?}");
    }
}

#[test]
fn a_sound_disk_raises_no_alarm_and_is_looked_at_whole() {
    let scene = scene(3);
    let start_us = counters(&scene);
    assert_eq!(start_us["scrub_covered_since_us"], 0, "no pass has ended");
    // Flushes, merges and seals under the scrub's eyes.
    scene.client(|mut client| async move {
        for batch in 0..BATCHES * 4 {
            while client.put_batch(stream(batch), times(batch)).await.is_err() {
                client.io.sleep(Duration::from_millis(20)).await;
            }
            client.io.sleep(Duration::from_millis(300)).await;
        }
    });
    let counters = counters(&scene);
    assert!(counters["flushes"] > 4 && counters["merges"] > 1 && counters["seals"] > 0, "{counters:?}");
    assert!(counters["scrub_passes"] >= 3, "{counters:?}");
    assert_eq!(
        (counters["scrub_corrupt"], counters["scrub_unreadable"], counters["scrub_mended"]),
        (0, 0, 0)
    );
    assert!(counters["scrub_covered_since_us"] > 0);
    assert!(counters["scrub_pass_total_bytes"] >= counters["table_bytes"] / 2, "{counters:?}");
}
