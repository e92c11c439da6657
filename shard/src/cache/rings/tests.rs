//! Value rings against a map that may forget: never another value than the one put in last, over restarts, tears and damage.

use super::*;
use layout::units::Space;
use proptest::prelude::*;
use std::collections::BTreeMap;

const OWNER: RingsOwner = RingsOwner { cluster: Uuid([7; 16]), node: 9, core: 1 };
const SMALL: RingGeometry = RingGeometry { chain_count: 2, chain_bytes: 8192, line_count: 4 };

fn words(region: &Region) -> Vec<u64> {
    (0..region.word_count()).map(|word| region.load(word)).collect()
}

fn empty(geometry: RingGeometry) -> Vec<u64> {
    vec![0; geometry.file_bytes() as usize / 8]
}

fn fresh(geometry: RingGeometry) -> Rings {
    let region = Region::in_memory(&empty(geometry), u64::MAX);
    let (rings, found) = Rings::attach(region, &OWNER, geometry, 5);
    assert!(matches!(found, RingsFound::Emptied { .. }));
    rings
}

/// A restart: the words as they stand, or as a kill has left them.
fn again(words: &[u64], geometry: RingGeometry) -> Rings {
    let (rings, found) = Rings::attach(Region::in_memory(words, u64::MAX), &OWNER, geometry, 6);
    assert_eq!(found, RingsFound::Kept);
    rings
}

fn key(time: u64) -> Key<'static> {
    Key { space: Space(1), stream: b"user", time }
}

/// The value that a version of a key has: no two have the same.
fn value(time: u64, version: u64) -> Vec<u8> {
    let bytes = (time * 37 + version * 61) % 700;
    (0..bytes).map(|at| (at + time * 3 + version * 7) as u8).collect()
}

fn put(rings: &mut Rings, time: u64, version: u64) -> bool {
    let value = value(time, version);
    let value = (version != 0).then_some(value.as_slice());
    rings.put(&Entry { key: key(time), version: Version(version), expiry: time * version, value })
}

/// The version that is there, with all that belongs to it.
fn look(rings: &mut Rings, time: u64) -> Option<u64> {
    let entry = rings.get(&key(time))?;
    let version = entry.version.0;
    assert_eq!(entry.key, key(time));
    assert_eq!(entry.expiry, time * version, "the expiry of version {version}");
    let expected = (version != 0).then(|| value(time, version));
    assert_eq!(entry.value, expected.as_deref(), "the value of version {version}");
    Some(version)
}

proptest! {
    /// Against a map: what is there is what was put in last. With restarts, over many laps.
    #[test]
    fn rings_are_a_map_that_forgets(
        steps in prop::collection::vec((0u8..10, 0u64..40, 0u64..9), 0..600),
    ) {
        let mut rings = fresh(SMALL);
        let mut map: BTreeMap<u64, u64> = BTreeMap::new();
        for (what, time, version) in steps {
            match what {
                0..5 => {
                    prop_assert!(put(&mut rings, time, version));
                    map.insert(time, version);
                    prop_assert_eq!(look(&mut rings, time), Some(version), "what was just put in is there");
                }
                5..9 => {
                    let seen = rings.peek(&key(time)).map(|version| version.0);
                    let found = look(&mut rings, time);
                    prop_assert_eq!(found, seen);
                    prop_assert!(found.is_none() || found == map.get(&time).copied());
                }
                _ => rings = again(&words(&rings.region), SMALL),
            }
        }
        prop_assert_eq!(rings.counters().damaged_count, 0);
    }
}

#[test]
fn what_is_read_outlives_what_is_not() {
    let mut rings = fresh(RingGeometry { chain_count: 1, chain_bytes: 16384, line_count: 64 });
    (0..10).for_each(|time| assert!(put(&mut rings, time, 1)));
    // Ten laps of others; 0..3 are read now and then.
    for time in 100..700 {
        assert!(put(&mut rings, time, 1));
        if time % 10 == 0 {
            (0..3).for_each(|time| assert_eq!(look(&mut rings, time), Some(1), "read, and kept"));
        }
    }
    assert!(rings.given_bytes() > 10 * 16384);
    (3..10).for_each(|time| assert_eq!(look(&mut rings, time), None, "never read, and gone"));
    assert!(rings.counters().second_chance_count > 20);
}

/// All are read all the time: a put is still short, and ends.
#[test]
fn second_chances_end() {
    let mut rings = fresh(RingGeometry { chain_count: 1, chain_bytes: 4096, line_count: 64 });
    for time in 0..1000 {
        assert!(put(&mut rings, time, 1));
        let before = rings.counters().second_chance_count;
        (0..=time)
            .rev()
            .take(30)
            .for_each(|time| assert!(look(&mut rings, time).is_none_or(|version| version <= 1 + 300 / 20)));
        assert!(put(&mut rings, time, 2));
        assert!(rings.counters().second_chance_count - before <= u64::from(SECOND_CHANCES_MAX));
    }
    assert!(rings.counters().lost_count > 0, "not all can stay");
}

#[test]
fn what_is_too_large_is_refused_and_the_rest_stays() {
    let mut rings = fresh(SMALL);
    assert!(put(&mut rings, 1, 1));
    let large = vec![1; 2048];
    assert!(!rings.put(&Entry { key: key(2), version: Version(1), expiry: 0, value: Some(&large) }));
    assert_eq!((look(&mut rings, 1), look(&mut rings, 2)), (Some(1), None));
    assert_eq!(rings.counters().refused_count, 1);
}

/// Killed at any store of a put, in the first lap and in the third: the next start shows old, new or nothing.
#[test]
fn a_kill_at_any_store_leaves_old_new_or_nothing() {
    for puts in [3, 200] {
        let mut rings = fresh(SMALL);
        (0..puts).for_each(|number| assert!(put(&mut rings, number % 20, 1 + number / 20)));
        let before = words(&rings.region);
        let old: Vec<_> = (0..20).map(|time| look(&mut rings, time)).collect();
        let mut seen_new = 0;
        for stores in 0.. {
            let region = Region::in_memory(&before, stores);
            let (mut killed, _) = Rings::attach(region, &OWNER, SMALL, 6);
            assert!(put(&mut killed, 7, 99));
            let mut next = again(&words(&killed.region), SMALL);
            for time in 0..20 {
                let found = look(&mut next, time);
                let fine = found.is_none() || found == old[time as usize] || (time == 7 && found == Some(99));
                assert!(fine, "killed before store {stores}: {time} is {found:?}");
                seen_new += u32::from(found == Some(99));
            }
            // And it goes on from there.
            (0..50).for_each(|time| assert!(put(&mut next, time, 5) && look(&mut next, time) == Some(5)));
            if seen_new > 3 {
                break;
            }
        }
    }
}

/// Any byte of slots and rings changed: never another value than the one that was put in.
#[test]
fn a_change_of_any_byte_is_a_miss_at_worst() {
    let mut rings = fresh(RingGeometry { chain_count: 1, chain_bytes: 4096, line_count: 2 });
    let geometry = rings.geometry;
    (0..16).for_each(|number| assert!(put(&mut rings, number % 8, 1 + number / 8)));
    let good = words(&rings.region);
    let mut damaged = 0;
    for byte in RING_HEADER_BYTES..good.len() * 8 {
        for bit in [0, 5, 7] {
            let mut changed = good.clone();
            changed[byte / 8] ^= 1 << (byte % 8 * 8 + bit);
            let mut next = again(&changed, geometry);
            for time in 0..8 {
                let found = look(&mut next, time);
                assert!(found.is_none_or(|version| version <= 2), "byte {byte}: {found:?}");
            }
            damaged += next.counters().damaged_count;
            assert!(put(&mut next, 3, 7) && look(&mut next, 3) == Some(7), "byte {byte}: it goes on");
        }
    }
    assert!(damaged > 100, "only {damaged} were seen as damaged");
}

/// Heads are outside the header's checksum: any value is survived.
#[test]
fn any_head_is_survived() {
    let mut rings = fresh(SMALL);
    (0..300).for_each(|number| assert!(put(&mut rings, number % 20, 1 + number / 20)));
    let good = words(&rings.region);
    let at = RingGeometry::head_offset(1) as usize / 8;
    for head in
        [0, 16, 8, 4096, good[at] - 16, good[at] + 16, good[at] + 8192, HEAD_MAX, HEAD_MAX + 16, u64::MAX]
    {
        let mut changed = good.clone();
        changed[at] = head;
        let mut next = again(&changed, SMALL);
        assert!((0..20).all(|time| look(&mut next, time).is_none_or(|version| version <= 15)));
        (0..300).for_each(|number| assert!(put(&mut next, number % 20, 50)));
        assert_eq!(look(&mut next, 19), Some(50), "head {head}");
    }
}

#[test]
fn rings_of_another_owner_or_size_or_without_header_are_emptied() {
    let mut rings = fresh(SMALL);
    assert!(put(&mut rings, 1, 1));
    let good = words(&rings.region);
    assert_eq!(look(&mut again(&good, SMALL), 1), Some(1));
    for owner in [
        RingsOwner { cluster: Uuid([8; 16]), ..OWNER },
        RingsOwner { node: 1, ..OWNER },
        RingsOwner { core: 0, ..OWNER },
    ] {
        let (mut next, found) = Rings::attach(Region::in_memory(&good, u64::MAX), &owner, SMALL, 5);
        assert!(matches!(found, RingsFound::Emptied { .. }), "{owner:?}");
        assert_eq!(look(&mut next, 1), None);
    }
    let other = RingGeometry { chain_count: 1, chain_bytes: 16384, ..SMALL };
    let mut as_long = good.clone();
    as_long.resize(other.file_bytes() as usize / 8, 0);
    let (_, found) = Rings::attach(Region::in_memory(&as_long, u64::MAX), &OWNER, other, 5);
    assert!(matches!(found, RingsFound::Emptied { .. }));
    // A start that empties it is killed at any store: the one after it empties it again.
    let mut spoiled = good;
    spoiled[2] ^= 1;
    for stores in 0.. {
        let (killed, _) = Rings::attach(Region::in_memory(&spoiled, stores), &OWNER, SMALL, 5);
        let (mut next, found) =
            Rings::attach(Region::in_memory(&words(&killed.region), u64::MAX), &OWNER, SMALL, 6);
        assert_eq!(look(&mut next, 1), None, "after {stores} stores");
        if found == RingsFound::Kept {
            break;
        }
    }
}
