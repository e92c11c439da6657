//! Copies of tablets by files: sealed tables come whole, from several peers, those that are here stay, and nodes that speak an older version
//! give and take everything record by record.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod group_scene;

use group_scene::*;
use net::peer::PeerVersions;
use shard::limits::Limits;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A group with sealed windows, and something above them.
fn with_sealed_windows(seed: u64, canaries: &[&str]) -> Scene {
    let scene = Scene::with(seed, 3, 1, canaries, Limits { window_bytes: 4096, ..Limits::small() });
    scene.client(|client| async move { put_all(&client, 0..3_000).await });
    scene.wait(Duration::from_secs(60));
    assert!(scene.marks("a group seals a window"), "nothing is sealed");
    scene.client(|client| async move {
        for record in 0..50 {
            client.delete(key(&stream(record), record)).await.unwrap();
        }
    });
    scene
}

/// The disk of a node is replaced: it has the same tables again, and shows the same.
fn is_filled_again(scene: &Scene, number: usize) {
    let before = in_place(scene);
    scene.replace_disk(number, true);
    scene.start(number);
    scene.wait(Duration::from_secs(90));
    let mut expected = all(3_000);
    expected[..50].fill(None);
    assert_eq!(scene.local(number, 3_000), expected);
    let after = in_place(scene);
    assert!(!after.is_empty() && after.values().all(|nodes| nodes.contains_key(&(number as u32))));
    for (window, tables) in &after {
        let of_peers = before.get(window).into_iter().flatten().chain(tables);
        assert!(of_peers.clone().all(|(_, checksum)| Some(checksum) == tables.values().next()));
    }
}

#[test]
fn a_new_disk_takes_sealed_tables_as_files_from_both_peers() {
    let scene = with_sealed_windows(5, &[]);
    is_filled_again(&scene, 2);
    let (files, bytes) = (scene.counters("files_taken"), scene.counters("file_taken_bytes"));
    let given = scene.counters("file_given_bytes");
    assert!(files[2] > 0 && files[..2] == [0, 0], "{files:?}");
    assert!(given[0] > 0 && given[1] > 0, "both give: {given:?}");
    assert!(given.iter().sum::<u64>() >= bytes[2], "{given:?} {bytes:?}");
    assert!(scene.marks("copies of several tablets are put in place at once"), "{:?}", scene.world.marks());
    assert!(!scene.marks("a tablet is copied record by record"), "{:?}", scene.world.marks());
}

/// Builds are brought forward and back one node after the other: who speaks the first version only is asked, and served, record by record.
#[test]
fn a_node_of_the_first_version_gives_and_takes_record_by_record() {
    let mut scene = with_sealed_windows(6, &[]);
    let by_files =
        |scene: &Scene| scene.world.marks().get("a tablet is copied by files").copied().unwrap_or(0);
    let speak = |scene: &mut Scene, number: usize, versions: PeerVersions| {
        scene.stores[number].node.power_cut();
        scene.stores[number].config.versions = versions;
        scene.start(number);
    };
    // The one that is filled is old.
    scene.stores[2].config.versions = PeerVersions::FIRST;
    is_filled_again(&scene, 2);
    assert!(scene.marks("a tablet is copied record by record"), "{:?}", scene.world.marks());
    assert!(scene.marks("a node is called as one of the first version"), "{:?}", scene.world.marks());
    assert_eq!((by_files(&scene), scene.counters("files_taken")), (0, vec![0; 3]));
    // Those that give are.
    speak(&mut scene, 0, PeerVersions::FIRST);
    speak(&mut scene, 1, PeerVersions::FIRST);
    scene.stores[2].config.versions = PeerVersions::ALL;
    is_filled_again(&scene, 2);
    assert_eq!((by_files(&scene), scene.counters("files_taken")), (0, vec![0; 3]));
    // One of those two is new: it gives all files.
    speak(&mut scene, 1, PeerVersions::ALL);
    is_filled_again(&scene, 2);
    let (files, given) = (scene.counters("files_taken"), scene.counters("file_given_bytes"));
    assert!(by_files(&scene) > 0 && files[2] > 0, "{files:?}");
    assert!(given[0] == 0 && given[1] > 0, "{given:?}");
    assert!(!scene.world.take_facts().iter().any(|fact| fact.name == "unspoken"));
}

/// A replica whose journal is lost has its sealed tables still: they are looked at, and stay.
#[test]
fn what_is_here_and_whole_is_not_taken_again() {
    let filled = |canaries: &[&str], rots: bool| {
        let scene = with_sealed_windows(7, canaries);
        scene.stores[2].node.power_cut();
        let image = scene.stores[2].disk.snapshot();
        let (at, bytes) = journal_of(&image, 0);
        scene.stores[2].disk.overwrite(at, &vec![0; bytes]);
        let in_place = |facts: &[ioengine::marks::Fact]| -> BTreeSet<u64> {
            let of_it = facts.iter().filter(|fact| (fact.name, fact.node) == ("sealed", 2));
            of_it.map(|fact| fact.key).collect()
        };
        let facts = scene.world.take_facts();
        let had = in_place(&facts);
        let mut tables = BTreeMap::new();
        for fact in facts.iter().filter(|fact| (fact.name, fact.node) == ("sealed table", 2)) {
            tables.insert(fact.key, fact.value);
        }
        tables.retain(|_, bytes| *bytes > 0);
        if rots {
            tables.keys().for_each(|at| scene.stores[2].disk.rot(*at));
        }
        scene.start(2);
        scene.wait(Duration::from_secs(60));
        // What the others sealed meanwhile it takes.
        let new = in_place(&scene.world.take_facts()).difference(&had).count() as u64;
        let most = if rots { new + tables.len() as u64 } else { new };
        (scene.counters("files_kept")[2], scene.counters("files_taken")[2], most, scene)
    };
    let (kept, taken, most, scene) = filled(&[], false);
    assert!(kept > 0 && taken <= most, "{kept} kept, {taken} taken, {most} new, {:?}", scene.world.marks());
    let mut expected = all(3_000);
    expected[..50].fill(None);
    assert_eq!(scene.local(2, 3_000), expected);
    let is_seen = |scene: &Scene| scene.marks("a sealed table that is here is not whole");
    let (kept, taken, most, scene) = filled(&[], true);
    assert!(
        is_seen(&scene) && kept == 0 && taken <= most,
        "{kept} kept, {taken} taken, {most} new or rotten"
    );
    assert_eq!(scene.local(2, 3_000), expected);
    let (.., scene) = filled(&["keep_what_may_be_rotten"], true);
    assert!(!is_seen(&scene), "the planted bug is not seen");
}

/// One of two peers has a sealed table that has rotted: what comes is not the table that was asked for, and the other gives it alone.
#[test]
fn a_table_that_rotted_at_a_peer_is_taken_of_the_other() {
    let filled = |canaries: &[&str]| {
        let scene = with_sealed_windows(8, canaries);
        let facts = scene.world.take_facts();
        let tables =
            facts.iter().filter(|fact| (fact.name, fact.node) == ("sealed table", 0) && fact.value > 0);
        tables.for_each(|table| scene.stores[0].disk.rot(table.key));
        let mut sealed = std::collections::BTreeMap::new();
        sealed.extend(facts.iter().filter(|fact| fact.name == "sealed").map(|fact| (fact.key, fact.value)));
        scene.replace_disk(2, true);
        scene.start(2);
        scene.wait(Duration::from_secs(90));
        let facts = scene.world.take_facts();
        let placed: Vec<_> = facts.iter().filter(|fact| (fact.name, fact.node) == ("sealed", 2)).collect();
        assert!(!placed.is_empty(), "{:?}", scene.world.marks());
        let is_right =
            placed.iter().all(|fact| sealed.get(&fact.key).is_none_or(|known| *known == fact.value));
        (is_right, scene)
    };
    let (is_right, scene) = filled(&[]);
    assert!(
        is_right && scene.marks("a file of several peers is not the one asked for"),
        "{:?}",
        scene.world.marks()
    );
    let mut expected = all(3_000);
    expected[..50].fill(None);
    assert_eq!(scene.local(2, 3_000), expected);
    assert!(!filled(&["take_any_table"]).0, "the planted bug is not seen");
}
