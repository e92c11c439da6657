//! The version cache against a map, killed between any two of its stores, and attached by the wrong owner.

use std::collections::{BTreeMap, BTreeSet};

use layout::units::Space;
use proptest::prelude::*;

use super::*;

const ROW_COUNT: usize = 3;

fn owner(start: u32) -> VersionsOwner {
    VersionsOwner {
        device: Uuid([1; 16]),
        generation: 2,
        shard: ShardIndex(3),
        boot: Uuid([4; 16]),
        incarnation: Incarnation(start),
        previous_incarnation: Incarnation(start - 1),
    }
}

fn empty_words() -> Vec<u64> {
    vec![0; Versions::region_bytes(ROW_COUNT) / WORD_BYTES]
}

fn words(versions: &Versions) -> Vec<u64> {
    (0..versions.region.word_count()).map(|word| versions.region.load(word)).collect()
}

fn attach(words: &[u64], owner: &VersionsOwner) -> (Versions, Attached) {
    Versions::attach(Region::in_memory(words, u64::MAX), owner, 77)
}

fn fresh() -> Versions {
    attach(&empty_words(), &owner(5)).0
}

fn tablet(number: u8) -> TabletIndex {
    TabletIndex::new(number).expect("below 64")
}

fn place(versions: &Versions, key: (u8, u64)) -> Place {
    versions.place(tablet(key.0), Key { space: Space(0), stream: b"stream", time: key.1 })
}

fn reason(words: &[u64], owner: &VersionsOwner) -> String {
    match attach(words, owner) {
        (mut versions, Attached::Emptied { reason }) => {
            let place = place(&versions, (1, 1));
            assert_eq!(versions.lookup(&place), None);
            assert!(self::words(&versions)[HEADER_WORDS..].iter().all(|word| *word == 0));
            reason
        }
        (_, Attached::Kept) => panic!("kept"),
    }
}

/// Words of a cache of start 5 that knows version 9 of key (1, 1).
fn left_by_start_5() -> Vec<u64> {
    let mut versions = fresh();
    let at = place(&versions, (1, 1));
    versions.update(&at, Version(9));
    versions.set_coherent_index(tablet(1), LogIndex(40));
    words(&versions)
}

#[test]
fn the_next_start_finds_what_the_last_one_left() {
    let (mut versions, attached) = attach(&left_by_start_5(), &owner(6));
    assert_eq!(attached, Attached::Kept);
    let at = place(&versions, (1, 1));
    assert_eq!(versions.lookup(&at), Some(Version(9)));
    assert_eq!(versions.coherent_index(tablet(1)), LogIndex(40));
    assert_eq!(versions.coherent_index(tablet(2)), LogIndex(0));
    // And the one after it, though that one wrote nothing.
    assert_eq!(attach(&words(&versions), &owner(7)).1, Attached::Kept);
}

#[test]
fn an_older_start_leaves_no_cells_and_how_far_its_tablets_had_come() {
    for stores in 0..200 {
        // The start before this one took its incarnation and was killed within its first stores.
        let region = Region::in_memory(&left_by_start_5(), stores);
        let killed = Versions::attach(region, &owner(7), 78).0;
        let (mut versions, attached) = attach(&words(&killed), &owner(8));
        if let Attached::Emptied { reason } = attached {
            assert!(reason.contains("start 5 attached it last, and start 7"), "{reason}");
        }
        let at = place(&versions, (1, 1));
        assert_eq!(versions.lookup(&at), None, "after {stores} stores");
        assert_eq!(versions.coherent_index(tablet(1)), LogIndex(40), "after {stores} stores");
    }
    assert!(matches!(attach(&left_by_start_5(), &owner(5)).1, Attached::Emptied { .. }));
}

#[test]
fn who_does_not_fit_starts_empty_and_says_why() {
    let left = left_by_start_5();
    let right = owner(6);
    assert_eq!(reason(&empty_words(), &right), "there was none of this size");
    let cases = [
        (VersionsOwner { device: Uuid([9; 16]), ..right }, "belongs to device"),
        (VersionsOwner { generation: 3, ..right }, "format generation 2, not 3"),
        (VersionsOwner { shard: ShardIndex(0), ..right }, "shard 3, not 0"),
        (VersionsOwner { boot: Uuid([5; 16]), ..right }, "booted since"),
    ];
    for (owner, expected) in cases {
        let found = reason(&left, &owner);
        assert!(found.contains(expected), "{found}");
    }
    let mut other = left.clone();
    other.extend([0; ROW_WORDS]);
    assert!(reason(&other, &right).contains("3 rows, not 4"));
    let mut other = left;
    other[1] ^= 1;
    assert!(reason(&other, &right).contains("format_version"));
}

#[test]
fn a_raised_generation_empties_one_tablet_for_good() {
    let mut versions = fresh();
    let keys = [(1, 1), (2, 1)];
    for key in keys {
        let at = place(&versions, key);
        versions.update(&at, Version(9));
    }
    let [old, other] = keys.map(|key| place(&versions, key));
    let token = versions.begin_fill(old);
    versions.raise_generation(tablet(1));
    let new = place(&versions, (1, 1));
    assert_ne!(old, new);
    assert_eq!((versions.lookup(&old), versions.lookup(&new)), (None, None));
    assert_eq!(versions.lookup(&other), Some(Version(9)));
    assert!(!versions.fill(token, Version(9)), "the read began before");
    let (mut versions, attached) = attach(&words(&versions), &owner(6));
    assert_eq!(attached, Attached::Kept);
    assert_eq!(versions.lookup(&new), None);
    assert_eq!(versions.lookup(&other), Some(Version(9)));
}

#[test]
#[should_panic(expected = "asks for its place after")]
fn an_apply_with_an_old_place_is_our_own_bug() {
    let mut versions = fresh();
    let old = place(&versions, (1, 1));
    versions.raise_generation(tablet(1));
    versions.update(&old, Version(9));
}

/// Read begins and finds version 1; version 2 is applied; the read ends. The fill would bring 1 back.
#[test]
fn a_fill_that_an_apply_has_overtaken_is_dropped() {
    let mut versions = fresh();
    let at = place(&versions, (1, 1));
    let token = versions.begin_fill(at);
    versions.update(&at, Version(2 << 16));
    assert!(!versions.fill(token, Version(1 << 16)));
    assert_eq!(versions.lookup(&at), Some(Version(2 << 16)));
    let at = place(&versions, (1, 2));
    let token = versions.begin_fill(at);
    assert!(versions.fill(token, Version::ABSENT));
    assert_eq!(versions.lookup(&at), Some(Version::ABSENT), "an absence is known, too");
    assert_eq!(versions.counters().dropped_fill_count, 1);
}

#[test]
fn a_torn_row_is_emptied_and_counted_once() {
    let mut versions = fresh();
    let at = place(&versions, (1, 1));
    versions.update(&at, Version(9));
    let first = Versions::first_word(at.row);
    versions.region.store(first + 3, 5);
    assert_eq!(versions.lookup(&at), None);
    assert_eq!(versions.lookup(&at), None);
    assert_eq!(versions.counters().torn_row_count, 1);
    assert_eq!(words(&versions)[first..first + ROW_WORDS], [0; ROW_WORDS]);
    versions.update(&at, Version(10));
    assert_eq!(versions.lookup(&at), Some(Version(10)));
}

/// One row, five keys: the one that nobody asked about goes.
#[test]
fn a_replay_that_comes_again_to_where_the_last_process_was_takes_nothing_back() {
    let mut versions = fresh();
    versions.set_coherent_index(tablet(3), LogIndex(49));
    // A replay says how far it is, entry by entry, and is killed.
    versions.set_coherent_index(tablet(3), LogIndex(25));
    assert_eq!(versions.coherent_index(tablet(3)), LogIndex(49));
    let (again, _) = attach(&words(&versions), &owner(6));
    assert_eq!(again.coherent_index(tablet(3)), LogIndex(49), "the next start knows of what was lost");
    versions.set_coherent_index(tablet(3), LogIndex(50));
    assert_eq!(versions.coherent_index(tablet(3)), LogIndex(50));
}

#[test]
fn what_is_asked_for_stays() {
    let one_row = vec![0; Versions::region_bytes(1) / WORD_BYTES];
    let (mut versions, _) = attach(&one_row, &owner(5));
    let places: Vec<Place> = (0..5).map(|time| place(&versions, (1, time))).collect();
    places[..4].iter().for_each(|place| versions.update(place, Version(9)));
    assert_eq!(versions.lookup(&places[0]), Some(Version(9)));
    versions.update(&places[4], Version(9));
    let found: Vec<bool> = places.iter().map(|place| versions.lookup(place).is_some()).collect();
    assert_eq!(found, [true, false, true, true, true]);
}

#[test]
fn a_version_too_large_for_a_cell_leaves_nothing_behind() {
    let mut versions = fresh();
    let at = place(&versions, (1, 1));
    versions.update(&at, Version(9));
    versions.update(&at, Version(u64::MAX));
    assert_eq!(versions.lookup(&at), None);
    assert_eq!(versions.counters().refused_count, 1);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Update((u8, u64), u64),
    Lookup((u8, u64)),
    Fill((u8, u64)),
    BeginFill((u8, u64)),
    Raise(u8),
    /// A write that expires: its version is not kept.
    Forget((u8, u64)),
}

fn some_step() -> impl Strategy<Value = Step> {
    let key = (0u8..2, 0u64..12);
    prop_oneof![
        6 => (key.clone(), any::<bool>()).prop_map(|(key, delete)| Step::Update(key, u64::from(!delete))),
        6 => key.clone().prop_map(Step::Lookup),
        3 => key.clone().prop_map(Step::BeginFill),
        3 => key.clone().prop_map(Step::Fill),
        2 => key.prop_map(Step::Forget),
        1 => (0u8..2).prop_map(Step::Raise),
    ]
}

/// What the cache must agree with: the newest version of each key, and all it ever had.
#[derive(Default)]
struct Truth {
    newest: BTreeMap<(u8, u64), Version>,
    ever: BTreeSet<((u8, u64), Version)>,
    reads: BTreeMap<(u8, u64), (FillToken, Version)>,
    number: u64,
}

impl Truth {
    /// Does a step and checks every answer. True if the cell of the key was the front one before and is still.
    fn step(&mut self, versions: &mut Versions, step: Step) {
        self.number += 1;
        match step {
            Step::Update(key, present) => {
                let version = Version((self.number << 16) * present);
                self.newest.insert(key, version);
                self.ever.insert((key, version));
                let at = place(versions, key);
                versions.update(&at, version);
                assert_eq!(versions.lookup(&at), Some(version));
            }
            Step::Lookup(key) => {
                let at = place(versions, key);
                if let Some(version) = versions.lookup(&at) {
                    assert_eq!(Some(&version), self.newest.get(&key), "{key:?}");
                    assert_eq!(versions.lookup(&at), Some(version));
                }
            }
            Step::BeginFill(key) => {
                let version = self.newest.get(&key).copied().unwrap_or_default();
                self.newest.insert(key, version);
                self.ever.insert((key, version));
                self.reads.insert(key, (versions.begin_fill(place(versions, key)), version));
            }
            Step::Fill(key) => {
                if let Some((token, version)) = self.reads.remove(&key) {
                    let taken = versions.fill(token, version);
                    assert!(!taken || self.newest[&key] == version);
                }
            }
            Step::Raise(number) => versions.raise_generation(tablet(number)),
            Step::Forget(key) => {
                let version = Version(self.number << 16);
                self.newest.insert(key, version);
                let at = place(versions, key);
                versions.forget(&at);
                assert_eq!(versions.lookup(&at), None);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Three rows, 24 keys: rows are full and cells fall off. Every answer is the newest version or none.
    #[test]
    fn never_says_a_wrong_version(steps in prop::collection::vec(some_step(), 1..200)) {
        let mut versions = fresh();
        let mut truth = Truth::default();
        steps.into_iter().for_each(|step| truth.step(&mut versions, step));
        prop_assert_eq!(versions.counters().torn_row_count, 0);
        let (mut versions, attached) = attach(&words(&versions), &owner(6));
        prop_assert_eq!(attached, Attached::Kept);
        for (key, newest) in &truth.newest {
            let at = place(&versions, *key);
            prop_assert!(versions.lookup(&at).is_none_or(|version| version == *newest));
        }
    }

    /// The last step, and the attaching after it, are cut after every number of stores. What the next start finds
    /// is nothing, or what the key had before or after that step.
    #[test]
    fn a_kill_between_any_two_stores_leaves_no_wrong_version(
        steps in prop::collection::vec(some_step(), 0..60),
        last in some_step(),
    ) {
        let mut versions = fresh();
        let mut truth = Truth::default();
        steps.into_iter().for_each(|step| truth.step(&mut versions, step));
        let before = words(&versions);
        for stores_max in 0..12 {
            let (mut killed, _) = attach(&before, &owner(6));
            killed.region = Region::in_memory(&words(&killed), stores_max);
            // What a killed process reads back of its own is nothing to anybody: only do the stores.
            match last {
                Step::Update(key, present) => {
                    let at = place(&killed, key);
                    let version = Version(((truth.number + 1) << 16) * present);
                    truth.ever.insert((key, version));
                    killed.update(&at, version);
                }
                Step::Lookup(key) | Step::BeginFill(key) | Step::Fill(key) => {
                    let at = place(&killed, key);
                    killed.lookup(&at);
                }
                Step::Raise(number) => killed.raise_generation(tablet(number)),
                Step::Forget(key) => killed.forget(&place(&killed, key)),
            }
            let left = words(&killed);
            for attach_stores_max in [0, 1, u64::MAX] {
                let (halfway, attached) =
                    Versions::attach(Region::in_memory(&left, attach_stores_max), &owner(7), 78);
                prop_assert_eq!(attached, Attached::Kept);
                let start = if attach_stores_max == 0 { 7 } else { 8 };
                let (mut next, attached) = attach(&words(&halfway), &owner(start));
                prop_assert_eq!(attached, Attached::Kept);
                for key in (0..2).flat_map(|tablet| (0..12).map(move |time| (tablet, time))) {
                    let at = place(&next, key);
                    if let Some(version) = next.lookup(&at) {
                        let newest = truth.newest.get(&key) == Some(&version);
                        let of_last = matches!(last, Step::Update(updated, _) if updated == key);
                        prop_assert!(truth.ever.contains(&(key, version)) && (newest || of_last), "{:?}", key);
                    }
                }
            }
        }
    }
}

/// To start empty takes many stores: cut after each, the next start does not believe the rest.
#[test]
fn a_kill_while_it_is_emptied_starts_empty_again() {
    let left = left_by_start_5();
    let other = VersionsOwner { boot: Uuid([5; 16]), ..owner(6) };
    let next = VersionsOwner { boot: Uuid([5; 16]), ..owner(7) };
    for stores_max in 0.. {
        let (halfway, _) = Versions::attach(Region::in_memory(&left, stores_max), &other, 78);
        let (mut versions, attached) = attach(&words(&halfway), &next);
        let at = place(&versions, (1, 1));
        assert_eq!(versions.lookup(&at), None, "{stores_max}");
        if attached == Attached::Kept {
            assert!(stores_max > HEADER_WORDS as u64, "all of the header was written, and a row emptied");
            break;
        }
    }
}
