//! A group of three nodes in one simulated world, with the client that people use: writes are read everywhere, one node may be lost,
//! and comes back with what it missed.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod group_scene;

use group_scene::*;
use ioengine::sim::{DiskHandle, DiskImage};
use net::client::{Client, ClientConfig};
use net::peer::PeerVersions;
use net::route::{ClusterMap, Node, Reads, Roles};
use shard::limits::Limits;
use std::time::Duration;

#[test]
fn what_is_written_is_read_and_every_replica_has_it() {
    let scene = Scene::new(1, 3, 2);
    scene.client(|client| async move {
        put_all(&client, 0..300).await;
        check_all(&client, 0..300).await;
    });
    scene.wait(Duration::from_secs(3));
    for number in 0..3 {
        assert_eq!(scene.local(number, 300), all(300), "node {number}");
    }
}

#[test]
fn one_of_three_may_be_lost_and_catches_up() {
    let scene = Scene::new(2, 3, 2);
    scene.client(|client| async move { put_all(&client, 0..100).await });
    scene.stores[0].node.power_cut();
    scene.client(|client| async move {
        put_all(&client, 100..250).await;
        check_all(&client, 0..250).await;
    });
    scene.start(0);
    scene.wait(Duration::from_secs(5));
    for number in 0..3 {
        assert_eq!(scene.local(number, 250), all(250), "node {number}");
    }
}

#[test]
fn all_may_lose_power_at_once() {
    let scene = Scene::new(3, 3, 1);
    scene.client(|client| async move { put_all(&client, 0..200).await });
    scene.stores.iter().for_each(|store| store.node.power_cut());
    (0..3).for_each(|number| scene.start(number));
    scene.client(|client| async move {
        check_all(&client, 0..200).await;
        put_all(&client, 200..260).await;
    });
    scene.wait(Duration::from_secs(5));
    for number in 0..3 {
        assert_eq!(scene.local(number, 260), all(260), "node {number}");
    }
}

/// A put that follows one by the same replica: the proposal to each peer and its answer, and one record in each journal. A strong
/// get: no record anywhere.
#[test]
fn a_consecutive_put_is_one_round_trip_and_one_journal_write_and_a_get_is_none() {
    const PUTS: u64 = 200;
    let scene = Scene::new(7, 3, 1);
    let put = |records: std::ops::Range<u64>| {
        scene.client(|client| async move {
            for record in records {
                client.put(key("one", record), 0, &value(record)).await.unwrap();
            }
        });
    };
    put(0..20);
    scene.wait(Duration::from_millis(100));
    let prepares = || scene.world.marks().get("a prepare is sent").copied().unwrap_or(0);
    let (before, prepared) = (scene.counters("journal_records"), prepares());
    put(20..20 + PUTS);
    let records: Vec<u64> =
        scene.counters("journal_records").iter().zip(&before).map(|(now, then)| now - then).collect();
    assert_eq!(prepares(), prepared, "only a new proposer prepares");
    for written in &records {
        // Beside the votes there is a mark now and then.
        assert!((PUTS..PUTS + PUTS / 20).contains(written), "{records:?} records for {PUTS} puts");
    }
    let before = scene.counters("journal_records");
    scene.client(|client| async move {
        for record in 0..PUTS {
            client.get(key("one", record)).await.unwrap().unwrap();
        }
    });
    let after = scene.counters("journal_records");
    let more: u64 = after.iter().zip(&before).map(|(now, then)| now - then).sum();
    assert!(more <= PUTS / 20, "{more} records for {PUTS} gets");
}

/// What makes a replica differ is planted; that the others notice, and mend it, is not.
#[test]
fn a_replica_that_differs_takes_a_copy() {
    let verify_period = Duration::from_secs(4);
    for plants in [false, true] {
        let canaries: &[&str] = if plants { &["bend_a_write"] } else { &[] };
        let scene = Scene::with(5, 3, 2, canaries, Limits { verify_period, ..Limits::small() });
        scene.client(|client| async move { put_all(&client, 0..300).await });
        scene.wait(Duration::from_secs(1));
        let differs = |number| scene.local(number, 300) != all(300);
        assert_eq!((0..3).any(differs), plants);
        scene.wait(4 * verify_period);
        for number in 0..3 {
            assert_eq!(scene.local(number, 300), all(300), "node {number}");
        }
        let marks = scene.world.marks();
        assert_eq!(marks.contains_key("a replica that is wrong takes a copy"), plants, "{marks:?}");
        assert!(marks.contains_key("a tablet is verified"), "{marks:?}");
    }
}

/// Sectors of one node's tables rot. Nobody is told a wrong thing, or none at all, and the node comes to hold all again.
#[test]
fn tables_that_cannot_be_read_are_copied_from_peers() {
    let limits = Limits { verify_period: Duration::from_secs(4), ..Limits::small() };
    let scene = Scene::with(6, 3, 1, &[], limits);
    scene.client(|client| async move { put_all(&client, 0..4_000).await });
    scene.wait(Duration::from_secs(5));
    let disk = scene.stores[1].node.disk("ssd").unwrap();
    // Behind superblock, journal and manifest are tables.
    for sector in (16_384..131_072).step_by(7) {
        disk.rot(sector * 512);
    }
    scene.client(|client| async move { check_all(&client, 0..4_000).await });
    // Each is found in its turn, and copied one after the other.
    scene.wait(Duration::from_secs(240));
    for number in 0..3 {
        assert_eq!(scene.local(number, 4_000), all(4_000), "node {number}");
    }
    let marks = scene.world.marks();
    assert!(marks.contains_key("a replica that is wrong takes a copy"), "{marks:?}");
}

/// Put until the others have forgotten entries that the lost node lacks: it takes copies of its tablets.
#[test]
fn who_is_far_behind_takes_copies() {
    let scene = Scene::new(4, 3, 1);
    scene.client(|client| async move { put_all(&client, 0..100).await });
    scene.stores[2].node.power_cut();
    scene.client(|client| async move {
        put_all(&client, 100..4_000).await;
        for record in 0..50 {
            client.delete(key(&stream(record), record)).await.unwrap();
        }
    });
    scene.start(2);
    scene.wait(Duration::from_secs(60));
    let mut expected = all(4_000);
    expected[..50].fill(None);
    for number in 0..3 {
        assert_eq!(scene.local(number, 4_000), expected, "node {number}");
    }
    assert!(scene.world.marks().contains_key("a copy is installed"), "{:?}", scene.world.marks());
    // What was copied is there after a restart, too.
    scene.stores[2].node.power_cut();
    scene.start(2);
    scene.wait(Duration::from_secs(5));
    assert_eq!(scene.local(2, 4_000), expected);
}

#[test]
fn a_disk_that_is_replaced_is_filled_and_votes_again() {
    let scene = Scene::new(5, 3, 2);
    scene.client(|client| async move { put_all(&client, 0..300).await });
    scene.replace_disk(1, true);
    scene.start(1);
    scene.wait(Duration::from_secs(60));
    assert_eq!(scene.local(1, 300), all(300), "a copy of everything");
    assert!(scene.marks("a learner returns"));
    // It is needed for every majority from here on.
    scene.stores[0].node.power_cut();
    scene.client(|client| async move {
        put_all(&client, 300..400).await;
        check_all(&client, 0..400).await;
    });
    scene.start(0);
    scene.wait(Duration::from_secs(5));
    // And what it voted then it knows after a restart.
    scene.stores[1].node.power_cut();
    scene.start(1);
    scene.stores[2].node.power_cut();
    scene.client(|client| async move { check_all(&client, 0..400).await });
}

/// Two of three lose their disks, and one of them for good. Nobody can vote again by the rules: the new disk waits for the node that
/// is lost. An operator gives that up; what the third has is kept, and when the lost node comes after all, with its old disk, it is not heard.
#[test]
fn where_too_few_are_left_an_operator_gives_the_lost_up() {
    let mut scene = Scene::new(14, 3, 2);
    scene.client(|client| async move { put_all(&client, 0..200).await });
    scene.wait(Duration::from_secs(1));
    scene.stores[2].node.power_cut();
    scene.replace_disk(1, true);
    assert_eq!(scene.stores[1].config.without, [0u32; 0]);
    scene.stores[1].config.without = vec![4];
    let refused = scene.try_start(1).expect("no node 4");
    assert!(refused.contains("node 4 cannot be given up") && refused.contains("(1, 3)"), "{refused}");
    scene.stores[1].config.without = vec![3];
    scene.start(1);
    scene.wait(Duration::from_secs(30));
    assert!(scene.marks("a learner returns without those that are given up"));
    scene.client(|client| async move {
        check_all(&client, 0..200).await;
        put_all(&client, 200..260).await;
    });
    scene.stores[2].node.power_cut();
    scene.start(2);
    scene.wait(Duration::from_secs(10));
    assert!(scene.marks("another life of this node was started later"), "{:?}", scene.world.marks());
    // Formatted anew it is one of them again, without anybody's word.
    scene.replace_disk(2, true);
    scene.stores[1].node.power_cut();
    scene.stores[1].config.without.clear();
    scene.start(1);
    scene.start(2);
    scene.wait(Duration::from_secs(60));
    scene.stores[0].node.power_cut();
    scene.client(|client| async move {
        check_all(&client, 0..260).await;
        put_all(&client, 260..280).await;
    });
}

/// The journals of all three rot at their ends while none of them runs: all are learners, and wait for each other. One of them is told to go on
/// alone with what it has, the others get new disks.
#[test]
fn where_nobody_votes_an_operator_lets_one_go_on_alone() {
    let mut scene = Scene::new(15, 3, 1);
    scene.client(|client| async move { put_all(&client, 0..200).await });
    scene.wait(Duration::from_secs(1));
    scene.stores.iter().for_each(|store| store.node.power_cut());
    for store in &scene.stores {
        let (at, bytes) = journal_of(&store.disk.snapshot(), 0);
        let image = store.disk.snapshot();
        let is_written = |at: &u64| image.get(*at, 4096).iter().any(|byte| *byte != 0);
        store.disk.rot((at..at + bytes as u64).step_by(4096).filter(is_written).last().unwrap());
    }
    (0..3).for_each(|number| scene.start(number));
    scene.wait(Duration::from_secs(30));
    assert!(!scene.marks("a learner returns"), "nobody votes");
    scene.stores.iter().for_each(|store| store.node.power_cut());
    scene.stores[0].config.without = vec![2, 3];
    scene.start(0);
    scene.wait(Duration::from_secs(5));
    assert!(scene.marks("a learner returns without those that are given up"));
    // The second waits for the third, which is not there; the third then only for those that vote.
    scene.stores[0].config.without.clear();
    scene.stores[0].node.power_cut();
    scene.start(0);
    scene.replace_disk(1, true);
    scene.stores[1].config.without = vec![3];
    scene.start(1);
    scene.wait(Duration::from_secs(30));
    scene.client(|client| async move {
        check_all(&client, 0..200).await;
        put_all(&client, 200..250).await;
    });
    scene.replace_disk(2, true);
    scene.start(2);
    scene.wait(Duration::from_secs(30));
    scene.stores[0].node.power_cut();
    scene.client(|client| async move { check_all(&client, 0..250).await });
}

#[test]
fn a_disk_formatted_as_a_founders_is_refused_and_stops() {
    let scene = Scene::new(6, 3, 1);
    scene.client(|client| async move { put_all(&client, 0..50).await });
    scene.replace_disk(1, false);
    scene.start(1);
    scene.wait(Duration::from_secs(5));
    assert!(scene.marks("a disk is refused") && scene.marks("a node stops because its disk is refused"));
    assert_eq!(scene.local(1, 1), [None], "it knows nothing, and is told nothing");
    scene.client(|client| async move {
        put_all(&client, 50..100).await;
        check_all(&client, 0..100).await;
    });
    // As the refusal says.
    scene.replace_disk(1, true);
    scene.start(1);
    scene.wait(Duration::from_secs(60));
    assert_eq!(scene.local(1, 100), all(100));
}

#[test]
fn an_old_image_of_a_disk_is_refused() {
    let scene = Scene::new(7, 3, 1);
    scene.client(|client| async move { put_all(&client, 0..50).await });
    scene.stores[1].node.power_cut();
    let old = scene.stores[1].disk.snapshot();
    scene.start(1);
    scene.client(|client| async move { put_all(&client, 50..100).await });
    scene.wait(Duration::from_secs(1));
    scene.stores[1].node.power_cut();
    let new = scene.stores[1].disk.snapshot();
    scene.stores[1].disk.restore(&old);
    // However often it starts: the life that the others know is not among its own.
    for _ in 0..4 {
        scene.start(1);
        scene.wait(Duration::from_secs(2));
        scene.stores[1].node.power_cut();
    }
    assert!(scene.marks("a disk is refused"));
    scene.stores[1].disk.restore(&new);
    scene.start(1);
    scene.stores[0].node.power_cut();
    scene.client(|client| async move { check_all(&client, 0..100).await });
}

/// Each believes to be the node of the disk that it has: nobody hears it at the other's address.
#[test]
fn swapped_disks_are_refused_until_they_are_swapped_back() {
    let scene = Scene::new(8, 3, 1);
    scene.client(|client| async move { put_all(&client, 0..50).await });
    let swap = || {
        scene.stores[1].node.power_cut();
        scene.stores[2].node.power_cut();
        scene.stores[1].disk.swap(&scene.stores[2].disk);
    };
    swap();
    (1..3).for_each(|number| scene.start(number));
    scene.wait(Duration::from_secs(5));
    assert!(scene.marks("a node that calls is refused"));
    swap();
    (1..3).for_each(|number| scene.start(number));
    scene.stores[0].node.power_cut();
    scene.client(|client| async move {
        check_all(&client, 0..50).await;
        put_all(&client, 50..60).await;
    });
}

/// The superblocks of a disk as they were; the rest stays.
fn superblocks_of(disk: &DiskHandle, image: &DiskImage) {
    disk.overwrite(0, &image.get(0, 16 << 10));
}

#[test]
fn a_superblock_older_than_its_journal_ends_the_start() {
    let scene = Scene::new(9, 3, 2);
    let old = scene.stores[1].disk.snapshot();
    for _ in 0..2 {
        scene.stores[1].node.power_cut();
        scene.start(1);
    }
    scene.client(|client| async move { put_all(&client, 0..50).await });
    scene.stores[1].node.power_cut();
    superblocks_of(&scene.stores[1].disk, &old);
    let why = scene.try_start(1).unwrap();
    assert!(why.contains("the superblock is older"), "{why}");
}

#[test]
fn a_lost_journal_makes_its_shard_learn_again() {
    let scene = Scene::new(10, 3, 2);
    scene.client(|client| async move { put_all(&client, 0..200).await });
    scene.stores[1].node.power_cut();
    let disk = scene.stores[1].disk;
    let (at, bytes) = journal_of(&disk.snapshot(), 1);
    disk.overwrite(at, &vec![0; bytes]);
    scene.start(1);
    scene.wait(Duration::from_secs(30));
    assert!(scene.marks("a journal that does not know its last start") && scene.marks("a learner returns"));
    assert_eq!(scene.local(1, 200), all(200));
    scene.stores[0].node.power_cut();
    scene.client(|client| async move { check_all(&client, 0..200).await });
}

/// The last block of the journal rots: no torn write looks like that. The node learns again by itself, what it writes then is found by
/// its next start, and it counts for a majority.
#[test]
fn a_rotten_end_of_a_journal_is_learnt_again() {
    let scene = Scene::new(12, 3, 1);
    scene.client(|client| async move { put_all(&client, 0..200).await });
    let disk = scene.stores[1].disk;
    let (at, bytes) = journal_of(&disk.snapshot(), 0);
    scene.stores[1].node.power_cut();
    let image = disk.snapshot();
    let is_written = |at: &u64| image.get(*at, 4096).iter().any(|byte| *byte != 0);
    let written = (at..at + bytes as u64).step_by(4096).filter(is_written);
    disk.rot(written.last().unwrap());
    scene.start(1);
    scene.wait(Duration::from_secs(10));
    let marks = scene.world.marks();
    assert!(marks.contains_key("a journal goes on beyond its damaged end"), "{marks:?}");
    assert!(marks.contains_key("a learner returns"), "{marks:?}");
    assert_eq!(scene.local(1, 200), all(200));
    let learners = || scene.world.marks().get("a learner returns").copied();
    let before = learners();
    scene.stores[1].node.power_cut();
    scene.start(1);
    scene.wait(Duration::from_secs(5));
    assert_eq!(learners(), before, "it votes since its start");
    scene.stores[0].node.power_cut();
    scene.client(|client| async move {
        check_all(&client, 0..200).await;
        put_all(&client, 200..220).await;
    });
}

/// The rules that the tests above rely on, removed: what they see is not seen then.
#[test]
fn without_a_rule_a_disk_is_taken_for_what_it_is_not() {
    let filled = |canary| {
        let scene = Scene::with(11, 3, 1, &[canary], Limits::small());
        scene.client(|client| async move { put_all(&client, 0..50).await });
        scene
    };
    let started = |scene: &Scene| {
        scene.start(1);
        scene.wait(Duration::from_secs(5));
    };
    let scene = filled("forget_peer_disk");
    scene.replace_disk(1, false);
    started(&scene);
    assert!(!scene.marks("a disk is refused"));
    let scene = filled("format_makes_a_voter");
    scene.replace_disk(1, true);
    started(&scene);
    assert!(!scene.marks("a learner returns"), "it votes at once");
    let scene = filled("forget_what_served");
    scene.stores[1].node.power_cut();
    let disk = scene.stores[1].disk;
    let (at, bytes) = journal_of(&disk.snapshot(), 0);
    disk.overwrite(at, &vec![0; bytes]);
    started(&scene);
    assert!(!scene.marks("a learner returns"));
}

#[test]
fn windows_are_sealed_with_the_same_bytes_everywhere() {
    let scene = Scene::with(5, 3, 1, &[], Limits { window_bytes: 4096, ..Limits::small() });
    scene.client(|client| async move {
        put_all(&client, 0..3_000).await;
        for record in 0..50 {
            client.delete(key(&stream(record), record)).await.unwrap();
        }
    });
    scene.wait(Duration::from_secs(120));
    let marks = scene.world.marks();
    let windows = in_place(&scene);
    assert!(!windows.is_empty(), "{marks:?}");
    for checksums in windows.values() {
        assert_eq!(checksums.len(), 3, "{windows:?} {marks:?}");
        assert!(checksums.values().all(|checksum| Some(checksum) == checksums.values().next()));
    }
    assert!(!marks.contains_key("a replica copies a sealed table"), "all built the same");
    let mut expected = all(3_000);
    expected[..50].fill(None);
    for number in 0..3 {
        assert_eq!(scene.local(number, 3_000), expected, "node {number}");
    }
}

/// A node is away while windows are sealed, and while records of them are deleted: it takes tables that still have them. What
/// it shows afterwards.
fn away_during_a_seal(canaries: &[&str], versions: PeerVersions) -> (Vec<Option<Vec<u8>>>, Scene) {
    let limits = Limits { window_bytes: 4096, ..Limits::small() };
    let mut scene = Scene::with(5, 3, 1, canaries, limits);
    scene.stores[2].config.versions = versions;
    scene.client(|client| async move { put_all(&client, 0..20).await });
    scene.stores[2].node.power_cut();
    scene.client(|client| async move { put_all(&client, 20..3_000).await });
    scene.wait(Duration::from_secs(60));
    assert!(!in_place(&scene).is_empty(), "nothing is sealed");
    scene.client(|client| async move {
        for record in 20..70 {
            client.delete(key(&stream(record), record)).await.unwrap();
        }
    });
    scene.start(2);
    scene.wait(Duration::from_secs(120));
    // What memory still knows of the deletes is lost.
    scene.stores[2].node.power_cut();
    scene.start(2);
    scene.wait(Duration::from_secs(10));
    (scene.local(2, 3_000), scene)
}

#[test]
fn who_was_away_during_a_seal_keeps_what_is_deleted_above_it() {
    let mut expected = all(3_000);
    expected[20..70].fill(None);
    // Its tables come one by one, by seals, when its records have; or as files, with the copies of its tablets.
    for (versions, mark) in [
        (PeerVersions::FIRST, "a replica copies a sealed table"),
        (PeerVersions::ALL, "a sealed table is taken as a file"),
    ] {
        let (found, scene) = away_during_a_seal(&[], versions);
        assert!(scene.marks(mark), "{:?}", scene.world.marks());
        assert_eq!(found, expected);
    }
    let (found, _) = away_during_a_seal(&["drop_what_is_above_a_seal"], PeerVersions::FIRST);
    assert!(found != expected, "the planted bug is not seen");
    let (found, _) = away_during_a_seal(&["copy_forgets_what_is_above"], PeerVersions::ALL);
    assert!(found != expected, "the planted bug is not seen where tables come as files");
}

/// Said to one node alone: what it answers.
fn say(scene: &Scene, number: usize, revision: u32, recent_us: u64) -> ClusterMap {
    let map = scene.stores[number].config.map.clone().unwrap();
    let caches = vec![Node { id: 9, roles: Roles::CACHE, ..map.nodes[0] }];
    let map = map.with_reads(&Reads { revision, recent_us, cache_share: 1, caches }).unwrap();
    let id = number as u32 + 1;
    scene.client(move |client| async move { client.set_map_at(id, &map).await.unwrap() })
}

/// What each node says of reads: revision and age.
fn said(scene: &Scene, number: usize) -> (u32, u64) {
    let endpoint = scene.stores[number].config.listen;
    scene.world.block_on(&scene.clients, Duration::from_secs(60), move |io| async move {
        let map = Client::connect(&io, &[endpoint], ClientConfig::default()).await.unwrap().known_map();
        assert_eq!(map.epoch, 1 + map.revision);
        (map.revision, map.recent_us)
    })
}

#[test]
fn where_reads_go_is_said_to_one_node_and_kept_by_all() {
    let scene = Scene::new(31, 3, 2);
    scene.stores[2].node.power_cut();
    assert_eq!(say(&scene, 0, 1, 500).epoch, 2);
    scene.wait(Duration::from_secs(3));
    assert_eq!(said(&scene, 1), (1, 500));
    scene.start(2);
    scene.wait(Duration::from_secs(3));
    assert_eq!(said(&scene, 2), (1, 500), "told when it is back");
    scene.stores.iter().for_each(|store| store.node.power_cut());
    (0..3).for_each(|number| scene.start(number));
    assert_eq!(say(&scene, 1, 1, 400).recent_us, 500, "of two with one revision the greater holds");
    scene.replace_disk(0, true);
    scene.start(0);
    scene.wait(Duration::from_secs(5));
    assert_eq!([0, 1, 2].map(|number| said(&scene, number)), [(1, 500); 3], "a new disk is told");
}

#[test]
fn what_was_said_at_two_nodes_at_once_ends_as_one() {
    for (canaries, agreed) in [(&[][..], true), (&["keep_two_maps_of_one_epoch"][..], false)] {
        let scene = Scene::with(32, 3, 1, canaries, Limits::small());
        scene.world.partition(&scene.stores[0].node, &scene.stores[1].node);
        scene.stores[2].node.power_cut();
        assert_eq!((say(&scene, 0, 1, 500).epoch, say(&scene, 1, 1, 600).epoch), (2, 2));
        scene.world.heal_all();
        scene.start(2);
        scene.wait(Duration::from_secs(10));
        let all = [0, 1, 2].map(|number| said(&scene, number));
        assert_eq!(all.iter().all(|reads| *reads == (2, 600)), agreed, "{all:?}");
    }
}

/// A client that has an epoch has its map, also after a start: else two maps would have one epoch.
#[test]
fn no_map_is_shown_that_a_loss_of_power_undoes() {
    for (canaries, kept) in [(&[][..], true), (&["show_a_map_before_it_is_durable"][..], false)] {
        let scene = Scene::with(33, 3, 1, canaries, Limits::small());
        (1..3).for_each(|number| scene.stores[number].node.power_cut());
        let node = scene.stores[0].node;
        let map = scene.stores[0].config.map.clone().unwrap();
        scene.client(move |client| async move {
            let mut map =
                map.with_reads(&Reads { revision: 1, recent_us: 5, cache_share: 1, caches: Vec::new() });
            let asking = client.clone();
            let shown = async move {
                while asking.map().await.unwrap().epoch < 2 {}
                node.power_cut();
            };
            let map = map.as_mut().unwrap();
            ioengine::sync::race(shown, client.set_map_at(1, map)).await;
            node.power_cut();
        });
        scene.start(0);
        assert_eq!(said(&scene, 0) == (1, 5), kept);
    }
}

/// Two of three clocks are an hour ahead. One of the two proposes, which the other's clock allows, and is cut off while it does; the other dies,
/// and the clocks are set right. What it has accepted alone can neither be passed over nor, by the only other voter's clock, be taken.
#[test]
fn an_entry_far_ahead_of_the_clocks_is_taken_in_the_end() {
    let goes_on = |canaries: &[&str]| {
        let scene = Scene::with(16, 3, 1, canaries, Limits::small());
        scene.client(|client| async move { put_all(&client, 0..97).await });
        let [first, second, third] = [0, 1, 2].map(|number| scene.stores[number].node);
        let hour_us = 3_600_000_000;
        second.jump_wall(hour_us);
        third.jump_wall(hour_us);
        scene.wait(Duration::from_secs(6));
        scene.world.partition(&scene.clients, &first);
        scene.world.partition(&scene.clients, &third);
        scene.world.partition_one_way(&second, &first);
        scene.world.partition_one_way(&second, &third);
        scene.client(|client| async move {
            let puts = (97..194).map(|record| (stream(record), record));
            for (stream, record) in puts.take(6) {
                // Nobody hears of it.
                drop(client.put(key(&stream, record), 0, &value(record)).await);
            }
        });
        third.power_cut();
        second.jump_wall(-hour_us);
        scene.world.heal_all();
        scene.wait(Duration::from_secs(20));
        let is_taken = scene.marks("an entry's stamp is too far ahead");
        assert!(is_taken, "the others were asked to take it: {:?}", scene.world.marks());
        scene.client(|client| async move {
            let mut served = 0;
            for record in 97..109 {
                let stream = stream(record);
                served +=
                    u32::from(client.put(key(&stream, 1_000 + record), 0, &value(record)).await.is_ok());
            }
            served
        })
    };
    assert_eq!(goes_on(&[]), 12);
    assert!(goes_on(&["refuse_ahead_for_ever"]) < 12);
}

/// The device fails at a write to the superblock, on a node that has nothing to write to its journal: it finds out all the same, and says so.
#[test]
fn a_device_that_ends_at_the_superblock_is_noticed_without_a_write() {
    for (canaries, is_noticed) in [(&[][..], true), (&["overlook_an_ended_disk"][..], false)] {
        let scene = Scene::with(35, 3, 1, canaries, Limits::small());
        scene.client(|client| async move { put_all(&client, 0..20).await });
        // Alone it has nobody to write for.
        (1..3).for_each(|number| scene.stores[number].node.power_cut());
        scene.wait(Duration::from_secs(2));
        let disk = scene.stores[0].disk;
        disk.set_faults(ioengine::sim::DiskFaults { flush_error_ppm: 1_000_000, ..disk.faults() });
        let map = scene.stores[0].config.map.clone().unwrap();
        scene.client(move |client| async move {
            let map =
                map.with_reads(&Reads { revision: 1, recent_us: 5, cache_share: 1, caches: Vec::new() });
            assert!(client.set_map_at(1, &map.unwrap()).await.is_err(), "it cannot be kept");
        });
        scene.wait(Duration::from_secs(3));
        let endpoint = scene.stores[0].config.listen;
        let text: String =
            scene.world.block_on(&scene.clients, Duration::from_secs(60), move |io| async move {
                let config = ClientConfig { cluster: CLUSTER, ..ClientConfig::default() };
                Client::connect(&io, &[endpoint], config).await.unwrap().status().await.unwrap()
            });
        assert_eq!(text.contains("\"device_ended\":1"), is_noticed, "{text}");
    }
}
