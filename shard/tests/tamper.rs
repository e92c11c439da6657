//! The offline check against manifests that say something else than the tables do: one fact changed at a time, each in a
//! manifest whose checksums are right. Each must be named.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use ioengine::Io;
use ioengine::disk::DiskOpen;
use ioengine::sim::{DiskConfig, DiskImage};
use layout::manifest::{AddTable, Edit, EditWriter, Extents, TableKind};
use layout::units::{Incarnation, LogIndex, TableId};
use shard::examine::{Finding, NamedTable, Site, examine};
use shard::manifest::{Manifest, Wrote};
use shard::recover::journal_zone;
use std::rc::Rc;
use std::time::Duration;
use support::Scene;

const SECOND: Duration = Duration::from_secs(60);

/// A device with runs and sealed windows, some tombstones among them.
fn image() -> (Scene, DiskImage) {
    let mut scene = Scene::new(5, 1);
    let limits = &mut scene.config.limits;
    limits.memtable_record_count_max = 1200;
    limits.request_count_max = 32_768;
    limits.merge_fan_in = 4;
    limits.seal_age = Duration::ZERO;
    limits.window_bytes = 4 << 10;
    let _node = scene.start();
    scene.client(|mut client| async move {
        let day = 86_400_000_000;
        for batch in 0..160u64 {
            let stream = [&b"first"[..], b"second", b"third"][batch as usize % 3];
            // Old days that are sealed, and what is of today.
            let from = if batch % 4 == 0 { 20_454 * day + batch * 40 } else { batch * day };
            for time in from..from + 20 {
                while client.put(stream, time, &[b'v'; 300]).await.is_err() {
                    client.io.sleep(Duration::from_millis(20)).await;
                }
            }
        }
    });
    scene.world.run_for(Duration::from_secs(2));
    scene.store.power_cut();
    let image = scene.disk().snapshot();
    (scene, image)
}

/// Changes what the manifest says of one table.
type Tamper = fn(&mut AddTable<'_>, &[Rc<NamedTable>]);

async fn tampered(
    io: Io,
    name: String,
    limits: shard::limits::Limits,
    kind: TableKind,
    tamper: Option<Tamper>,
) -> Vec<Finding> {
    let disk = io.open_disk(&name, DiskOpen::default()).unwrap();
    let superblock = shard::format::read(&io, &disk).await.unwrap();
    let journal_bytes = journal_zone(&superblock, 0, &limits).unwrap().bytes();
    let site = Site::new(&superblock, 0);
    let half = site.manifest().half_bytes() / 2;
    let buffer = || io.buffer(1 << half.ilog2().min(16)).unwrap();
    let next = Incarnation(superblock.incarnation.0 + 1);
    let opened = Manifest::open(&io, &disk, *site.manifest(), next, [buffer(), buffer()]).await.unwrap();
    let names = site.names(&opened.reading).unwrap();
    let all: Vec<Rc<NamedTable>> = names.tables.values().cloned().collect();
    // One of a tablet that has two of its kind, so that there is something to overlap; the later one.
    let victim = all
        .iter()
        .filter(|table| table.facts.kind == kind)
        .max_by_key(|table| {
            let facts = &table.facts;
            let same =
                |other: &&Rc<NamedTable>| other.facts.kind == kind && other.facts.tablet == facts.tablet;
            (all.iter().filter(same).count(), facts.window_from, facts.log_index_min)
        })
        .unwrap();
    let mut manifest = opened.manifest.unwrap();
    let mut bodies = names.bodies(manifest.body_bytes_max());
    if let Some(tamper) = tamper {
        let mut facts = AddTable { extents: Extents::List(&victim.ranges), ..victim.facts };
        tamper(&mut facts, &all);
        let mut writer = EditWriter::new();
        writer.append(&Edit::RemoveTable(victim.facts.table));
        writer.append(&Edit::AddTable(facts));
        bodies.push(writer.bytes().to_vec());
    }
    assert_eq!(manifest.rewrite(&disk, bodies).await.unwrap(), Wrote::Durable);
    let after = Incarnation(next.0 + 1);
    examine(&io, &disk, &superblock, 0, after, journal_bytes).await.unwrap().findings
}

#[test]
fn each_fact_that_is_changed_is_named() {
    use TableKind::{Run, Sealed};
    let (scene, image) = image();
    let cases: Vec<(&str, TableKind, Option<Tamper>, &str)> = vec![
        ("nothing", Run, None, ""),
        ("number", Run, Some(|facts, _| facts.table = TableId(u64::MAX >> 1)), "is not below"),
        ("records", Run, Some(|facts, _| facts.record_count += 1), "record"),
        ("tombstones", Run, Some(|facts, _| facts.tombstone_count += 1), "tombstone"),
        (
            "tombstones of a window",
            Sealed,
            Some(|facts, _| facts.tombstone_count += 1),
            "nothing lies beneath it",
        ),
        ("first time", Run, Some(|facts, _| facts.time_min -= 1), "time"),
        ("last time", Run, Some(|facts, _| facts.time_max += 1), "time"),
        (
            "time outside of its window",
            Sealed,
            Some(|facts, _| facts.time_max = facts.window_to),
            "its window is from",
        ),
        (
            "log index",
            Run,
            Some(|facts, _| facts.log_index_max = LogIndex(1 << 40)),
            "by the state the tablet",
        ),
        (
            "overlap of runs",
            Run,
            Some(|facts, _| facts.log_index_min = LogIndex(1)),
            "which is newer is not known",
        ),
        ("overlap of windows", Sealed, Some(overlap), "shares times with"),
        ("generation", Sealed, Some(|facts, _| facts.window_generation += 1), "footer"),
        ("checksum", Run, Some(|facts, _| facts.checksum ^= 1), "checksum of the table"),
        ("tablet", Run, Some(|facts, _| facts.tablet = other_tablet(facts)), "footer"),
    ];
    for (number, (what, kind, tamper, words)) in cases.into_iter().enumerate() {
        let (name, limits) = (format!("case-{number}"), scene.config.limits.clone());
        scene.world.add_disk_with(&scene.clients, &name, DiskConfig::new(32 << 20), image.clone());
        let findings =
            scene.world.block_on(&scene.clients, SECOND, move |io| tampered(io, name, limits, kind, tamper));
        if tamper.is_none() {
            assert_eq!(findings, [], "a manifest that says the truth");
        } else {
            let is_named = findings.iter().any(|finding| finding.what.contains(words));
            assert!(is_named, "{what}: {words:?} is not in {findings:#?}");
        }
    }
}

/// The window reaches into the one before it.
fn overlap(facts: &mut AddTable<'_>, all: &[Rc<NamedTable>]) {
    let before = all
        .iter()
        .filter(|table| table.facts.kind == TableKind::Sealed && table.facts.tablet == facts.tablet)
        .filter(|table| table.facts.window_to <= facts.window_from)
        .max_by_key(|table| table.facts.window_to)
        .unwrap();
    facts.window_from = before.facts.window_to - 1;
}

fn other_tablet(facts: &AddTable<'_>) -> layout::units::TabletIndex {
    layout::units::TabletIndex::all().find(|tablet| *tablet != facts.tablet).unwrap()
}
