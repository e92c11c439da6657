//! The memtable against a map, and at its limits.

use std::collections::BTreeMap;
use std::ops::Bound;

use layout::units::Space;
use proptest::prelude::*;

use super::*;

type OwnedKey = (BucketIndex, u16, Vec<u8>, u64);
type OwnedRecord = (Version, u64, Option<Vec<u8>>);

fn config(bytes: usize, record_count_max: usize) -> MemtableConfig {
    MemtableConfig { bytes, record_count_max, seed: 42 }
}

fn key(owned: &OwnedKey) -> Key<'_> {
    Key { space: Space(owned.1), stream: &owned.2, time: owned.3 }
}

fn owned(entry: Entry<'_>) -> (OwnedKey, OwnedRecord) {
    let Entry { bucket, key, record } = entry;
    let key = (bucket, key.space.0, key.stream.to_vec(), key.time);
    (key, (record.version, record.expiry_us, record.value.map(<[u8]>::to_vec)))
}

fn put(memtable: &mut Memtable, at: &OwnedKey, record: &OwnedRecord) -> Result<(), Full> {
    let key = key(at);
    let hash = memtable.key_hash(key);
    memtable.put(key.tablet(), at.0, hash, key, record.0, record.1, record.2.as_deref())
}

fn get(memtable: &Memtable, at: &OwnedKey) -> Option<OwnedRecord> {
    let key = key(at);
    let record = memtable.get(memtable.key_hash(key), key)?;
    Some((record.version, record.expiry_us, record.value.map(<[u8]>::to_vec)))
}

fn at(space: u16, stream: &[u8], time: u64) -> OwnedKey {
    let bucket = Key { space: Space(space), stream, time }.bucket();
    (bucket, space, stream.to_vec(), time)
}

/// Few streams, some of which share a tablet or are prefixes of one another.
fn some_key() -> impl Strategy<Value = OwnedKey> {
    (0u16..2, prop::collection::vec(0u8..3, 1..4), 0u64..6)
        .prop_map(|(space, stream, time)| at(space, &stream, time))
}

fn some_value() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        1 => Just(None),
        8 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Some),
        1 => prop::collection::vec(any::<u8>(), 200..300).prop_map(Some),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Put(OwnedKey, u64, u64, Option<Vec<u8>>),
    Clear(u8),
}

fn some_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (some_key(), 1u64..1000, any::<u64>(), some_value()).prop_map(|(k, v, e, x)| Step::Put(k, v, e, x)),
        1 => (0u8..64).prop_map(Step::Clear),
    ]
}

fn check_ranges(
    memtable: &Memtable,
    model: &BTreeMap<OwnedKey, OwnedRecord>,
    from: &OwnedKey,
    tablet: TabletIndex,
) {
    let of_tablet = |key: &OwnedKey| key.0.get() % 64 == u32::from(tablet.get());
    let start = |bound: Bound<OwnedKey>, direction| {
        let bound = bound.as_ref().map(|owned| (owned.0, key(owned)));
        memtable.range(tablet, bound, direction).map(owned).collect::<Vec<_>>()
    };
    for bound in [Bound::Unbounded, Bound::Included(from.clone()), Bound::Excluded(from.clone())] {
        let up = model.range((bound.clone(), Bound::Unbounded)).filter(|(key, _)| of_tablet(key));
        let up: Vec<_> = up.map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(start(bound.clone(), Direction::Forward), up);
        let down = model.range((Bound::Unbounded, bound.clone())).rev().filter(|(key, _)| of_tablet(key));
        let down: Vec<_> = down.map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(start(bound, Direction::Backward), down);
    }
}

fn check_stream(
    memtable: &Memtable,
    model: &BTreeMap<OwnedKey, OwnedRecord>,
    of: &OwnedKey,
    low: u64,
    high: u64,
) {
    let (bucket, space, stream) = (of.0, Space(of.1), &of.2);
    let tablet = key(of).tablet();
    let same =
        |(k, _): &(&OwnedKey, &OwnedRecord)| (k.1, &k.2) == (of.1, &of.2) && (low..=high).contains(&k.3);
    let mut expected: Vec<_> = model.iter().filter(same).map(|(k, v)| (k.clone(), v.clone())).collect();
    let range = |direction| StreamRange { bucket, space, stream, times: low..=high, direction };
    let found = memtable.stream_range(range(Direction::Forward));
    assert_eq!(found.map(owned).collect::<Vec<_>>(), expected);
    expected.reverse();
    let found = memtable.stream_range(range(Direction::Backward));
    assert_eq!(found.map(owned).collect::<Vec<_>>(), expected);
    let after = model
        .iter()
        .find(|(k, _)| key(k).tablet() == tablet && (k.0, k.1, &k.2) > (bucket, of.1, stream))
        .map(|(k, v)| (k.clone(), v.clone()));
    assert_eq!(memtable.stream_after(tablet, bucket, space, stream).map(owned), after);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Random writes, overwrites, deletes, repeats and clears; hashes cut to few bits collide in line and tag.
    #[test]
    fn behaves_like_a_map(
        steps in prop::collection::vec(some_step(), 1..250),
        hash_mask in prop::sample::select(vec![u64::MAX, 0, 3 << 62, 1, (7 << 61) | 1]),
        probes in prop::collection::vec((some_key(), 0u64..7, 0u64..7), 4),
    ) {
        let mut memtable = Memtable::new(config(1 << 20, 500));
        memtable.hash_mask = hash_mask;
        let mut model: BTreeMap<OwnedKey, OwnedRecord> = BTreeMap::new();
        for step in &steps {
            match step {
                Step::Put(key, version, expiry_us, value) => {
                    let record = (Version(*version), *expiry_us, value.clone());
                    prop_assert_eq!(put(&mut memtable, key, &record), Ok(()));
                    if model.get(key).is_none_or(|old| old.0 < record.0) {
                        model.insert(key.clone(), record);
                    }
                    prop_assert_eq!(get(&memtable, key), model.get(key).cloned());
                }
                Step::Clear(tablet) => {
                    memtable.clear_tablet(TabletIndex::new(*tablet).expect("below 64"));
                    model.retain(|key, _| key.0.get() % 64 != u32::from(*tablet));
                }
            }
            prop_assert_eq!(memtable.usage().record_count, model.len());
        }
        let levels = TabletIndex::all().map(|tablet| memtable.lists.check(&memtable.arena, tablet));
        prop_assert_eq!(levels.map(|counts| counts[0]).sum::<usize>(), model.len());
        for (key, record) in &model {
            prop_assert_eq!(get(&memtable, key), Some(record.clone()));
        }
        for (probe, low, high) in &probes {
            prop_assert_eq!(get(&memtable, probe), model.get(probe).cloned());
            check_ranges(&memtable, &model, probe, key(probe).tablet());
            check_stream(&memtable, &model, probe, *low, *high);
        }
        for tablet in TabletIndex::all() {
            let count = model.keys().filter(|k| k.0.get() % 64 == u32::from(tablet.get())).count();
            prop_assert_eq!(memtable.record_count(tablet), count);
            memtable.clear_tablet(tablet);
        }
        let empty = Memtable::new(config(1 << 20, 500)).usage();
        prop_assert_eq!(memtable.usage(), empty);
        prop_assert_eq!(memtable.index.taken_count(), 0);
    }

    /// What is admitted fits when it is applied, in any order of releases, and again when a restart replays it
    /// with another seed.
    #[test]
    fn admitted_writes_fit_twice(
        writes in prop::collection::vec((some_key(), prop::collection::vec(any::<u8>(), 0..700)), 1..200),
        in_flight in 1usize..20,
        seed in any::<u64>(),
    ) {
        let mut memtable = Memtable::new(config(8192, 40));
        let mut applied: Vec<(OwnedKey, OwnedRecord)> = Vec::new();
        let mut version = 0;
        for batch in writes.chunks(in_flight) {
            let mut admitted = Vec::new();
            for (key, value) in batch {
                let charge = Charge::write(key.2.len(), value.len());
                if memtable.admit(charge).is_ok() {
                    admitted.push((key, value, charge));
                }
            }
            for (key, value, charge) in admitted {
                version += 1;
                let record = (Version(version), 0, Some(value.clone()));
                prop_assert_eq!(put(&mut memtable, key, &record), Ok(()));
                memtable.release(charge);
                applied.push((key.clone(), record));
            }
        }
        prop_assert_eq!(memtable.usage().admitted_bytes, 0);
        let mut again = Memtable::new(MemtableConfig { seed, ..config(8192, 40) });
        for (key, record) in &applied {
            prop_assert_eq!(put(&mut again, key, record), Ok(()));
        }
    }
}

#[test]
fn a_full_arena_says_which_limit_and_keeps_what_it_has() {
    let mut memtable = Memtable::new(config(64 << 10, 1 << 20));
    let mut count = 0u64;
    let full = loop {
        match put(&mut memtable, &at(0, b"stream", count), &(Version(1), 0, Some(vec![7; 100]))) {
            Ok(()) => count += 1,
            Err(full) => break full,
        }
    };
    assert_eq!(full.limit, LIMIT_BYTES);
    assert!(count > 300, "{count} records of 160 bytes in 64 KiB");
    assert_eq!(memtable.admit(Charge::write(6, 100)), Err(Full { limit: LIMIT_BYTES }));
    for time in 0..count {
        assert_eq!(get(&memtable, &at(0, b"stream", time)), Some((Version(1), 0, Some(vec![7; 100]))));
    }
    // In place there is room, also for a delete; for a longer value there is none, and the old one stays.
    assert_eq!(put(&mut memtable, &at(0, b"stream", 0), &(Version(2), 9, Some(vec![8; 104]))), Ok(()));
    assert_eq!(put(&mut memtable, &at(0, b"stream", 1), &(Version(2), 0, None)), Ok(()));
    assert!(put(&mut memtable, &at(0, b"stream", 2), &(Version(2), 0, Some(vec![8; 5000]))).is_err());
    assert_eq!(get(&memtable, &at(0, b"stream", 0)), Some((Version(2), 9, Some(vec![8; 104]))));
    assert_eq!(get(&memtable, &at(0, b"stream", 1)), Some((Version(2), 0, None)));
    assert_eq!(get(&memtable, &at(0, b"stream", 2)), Some((Version(1), 0, Some(vec![7; 100]))));
}

/// All is admitted at once, as much as there is room for, and applied; then one by one, to the last byte. Restarts
/// with other seeds, so with other towers, replay it. Sizes differ so that the runs of 256 nodes end anywhere.
#[test]
fn an_admission_to_the_last_byte_holds_with_every_tower() {
    for bytes in (100_000..116_000).step_by(3192) {
        let mut memtable = Memtable::new(config(bytes, 10_000));
        let charge = Charge::write(1, 0);
        let mut admitted = 0;
        while memtable.admit(charge).is_ok() {
            admitted += 1;
        }
        let mut count = 0;
        while count < admitted || memtable.admit(charge).is_ok() {
            put(&mut memtable, &at(0, b"s", count), &(Version(1), 0, None)).expect("admitted");
            memtable.release(charge);
            count += 1;
        }
        for seed in 0..10 {
            let mut again = Memtable::new(MemtableConfig { seed, ..config(bytes, 10_000) });
            for time in 0..count {
                let outcome = put(&mut again, &at(0, b"s", time), &(Version(1), 0, None));
                assert_eq!(outcome, Ok(()), "{bytes} bytes, seed {seed}, {time} of {count}");
            }
        }
    }
}

#[test]
fn a_full_index_says_which_limit() {
    let mut memtable = Memtable::new(config(64 << 10, 3));
    for time in 0..3 {
        assert_eq!(put(&mut memtable, &at(0, b"s", time), &(Version(1), 0, None)), Ok(()));
    }
    assert_eq!(
        put(&mut memtable, &at(0, b"s", 3), &(Version(1), 0, None)),
        Err(Full { limit: LIMIT_RECORDS })
    );
    assert_eq!(memtable.room_for(Charge::write(1, 0)), Err(Full { limit: LIMIT_RECORDS }));
    assert_eq!(put(&mut memtable, &at(0, b"s", 2), &(Version(2), 0, None)), Ok(()));
}

#[test]
fn pending_admissions_count_against_both_limits() {
    let mut memtable = Memtable::new(config(4096, 2));
    let one = Charge::write(1, 10);
    assert_eq!(memtable.admit(one), Ok(()));
    assert_eq!(memtable.admit(one), Ok(()));
    assert_eq!(memtable.admit(one), Err(Full { limit: LIMIT_RECORDS }));
    memtable.release(one);
    assert_eq!(memtable.admit(Charge::write(1, 4000)), Err(Full { limit: LIMIT_BYTES }));
    assert_eq!(memtable.admit(one.plus(Charge::NONE)), Ok(()));
}

#[test]
fn the_longest_stream_and_value_fit_and_come_back() {
    let mut memtable = Memtable::new(config(4 << 20, 10));
    let stream = [0xff; STREAM_BYTES_MAX];
    let value: Vec<u8> = (0..VALUE_BYTES_MAX).map(|i| (i * 31) as u8).collect();
    let here = at(u16::MAX, &stream, u64::MAX);
    let charge = Charge::write(STREAM_BYTES_MAX, VALUE_BYTES_MAX);
    assert_eq!(memtable.admit(charge), Ok(()));
    let record = (Version(u64::MAX), u64::MAX, Some(value));
    assert_eq!(put(&mut memtable, &here, &(Version(1), 1, Some(vec![1]))), Ok(()));
    assert_eq!(put(&mut memtable, &here, &record), Ok(()));
    assert_eq!(get(&memtable, &here), Some(record.clone()));
    assert_eq!(memtable.usage().garbage_bytes, UNIT_BYTES);
    let found = memtable.range(key(&here).tablet(), Bound::Unbounded, Direction::Backward).map(owned).next();
    assert_eq!(found, Some((here, record)));
}

#[test]
fn an_overwrite_that_fits_makes_no_garbage_and_uses_nothing() {
    let mut memtable = Memtable::new(config(4096, 10));
    put(&mut memtable, &at(0, b"s", 0), &(Version(1), 0, Some(vec![1; 64]))).expect("room");
    let used = memtable.usage().used_bytes;
    for (version, bytes) in [(2, 64), (3, 0), (4, 1), (5, 64)] {
        put(&mut memtable, &at(0, b"s", 0), &(Version(version), 0, Some(vec![2; bytes]))).expect("room");
    }
    assert_eq!((memtable.usage().used_bytes, memtable.usage().garbage_bytes), (used, 0));
}

/// Streams that grow at the end, at the start and anywhere, in turns, so that hints help, miss and lie.
#[test]
fn hints_never_break_the_links() {
    let mut memtable = Memtable::new(config(1 << 20, 5000));
    let mut random = 1u64;
    for number in 0..4000u64 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let stream = [b's', (random >> 60) as u8];
        let time = match number / 500 % 3 {
            0 => 1 << 20 | number,
            1 => 1 << 20 | (4000 - number),
            _ => random >> 44,
        };
        put(&mut memtable, &at(0, &stream, time), &(Version(1), 0, None)).expect("room");
        if number == 2500 {
            memtable.clear_tablet(key(&at(0, &stream, 0)).tablet());
        }
    }
    let levels: Vec<_> =
        TabletIndex::all().map(|tablet| memtable.lists.check(&memtable.arena, tablet)).collect();
    assert_eq!(levels.iter().map(|counts| counts[0]).sum::<usize>(), memtable.usage().record_count);
    assert!(levels.iter().any(|counts| counts[4] > 0), "{levels:?}");
}

#[test]
fn prefetches_find_the_way_to_the_node_and_never_past_the_end() {
    let mut memtable = Memtable::new(config(4096, 10));
    let here = at(0, b"s", 5);
    memtable.prefetch_node(memtable.key_hash(key(&here)));
    put(&mut memtable, &here, &(Version(1), 0, Some(vec![1; 3000]))).expect("room");
    let hash = memtable.key_hash(key(&here));
    memtable.prefetch_line(hash);
    memtable.prefetch_node(hash);
    assert_eq!(memtable.index.guess(hash), Some(1));
}

/// Many streams of one space around few of another: the list of the few is right from every place, and takes a number of
/// searches that does not grow with the many.
#[test]
fn streams_of_one_space_are_found_without_looking_at_all() {
    let mut memtable = Memtable::new(config(8 << 20, 40_000));
    let mut model: Vec<(BucketIndex, u16, Vec<u8>)> = Vec::new();
    for n in 0..30_000u32 {
        // Two spaces before and two behind the wanted one.
        let space = if n % 1000 == 0 { 5 } else { [1, 4, 6, 65_535][n as usize % 4] };
        let key = at(space, format!("stream {n}").as_bytes(), 9);
        let tablet = Key { space: Space(space), stream: &key.2, time: 9 }.tablet();
        put(&mut memtable, &key, &(Version(1), 0, None)).unwrap();
        if tablet == TabletIndex::new(3).unwrap() {
            model.push((key.0, space, key.2));
        }
    }
    model.sort();
    let tablet = TabletIndex::new(3).unwrap();
    let mut buckets: Vec<_> = model.iter().map(|name| name.0).collect();
    buckets.dedup();
    for space in [None, Some(5), Some(0), Some(1), Some(65_535), Some(7)] {
        let is_wanted = |name: &&(BucketIndex, u16, Vec<u8>)| space.is_none_or(|space| space == name.1);
        for from in (0..=model.len()).step_by(17) {
            let after = from.checked_sub(1).map(|last| &model[last]);
            let after = after.map(|(bucket, space, stream)| (*bucket, Space(*space), stream.as_slice()));
            let looks: Vec<Look<'_>> = memtable.streams(tablet, after, space.map(Space)).collect();
            let found: Vec<(u16, &[u8])> = looks
                .iter()
                .filter_map(|look| match look {
                    Look::Stream(space, stream) => Some((space.0, *stream)),
                    Look::Passed => None,
                })
                .collect();
            let expected: Vec<(u16, &[u8])> =
                model[from..].iter().filter(is_wanted).map(|name| (name.1, name.2.as_slice())).collect();
            assert_eq!(found, expected, "space {space:?} behind {from}");
            let passed = looks.len() - found.len();
            assert!(passed <= 2 * buckets.len(), "{passed} searches in vain over {} buckets", buckets.len());
        }
    }
}

/// A memtable that is full to the brim grows: it has the same records, with room for as many again beside what is admitted.
#[test]
fn one_that_grows_has_the_same_and_room_for_as_much_again() {
    let record = |number| (Version(number + 1), 0, (number % 7 > 0).then(|| vec![7; 50]));
    let key = |number: u64| at(0, format!("stream {}", number % 9).as_bytes(), number);
    for config in [config(8192, 1000), config(1 << 20, 40)] {
        let mut memtable = Memtable::new(config);
        let open = Charge::write(8, 50);
        memtable.admit_again(open).unwrap();
        let mut count = 0;
        while memtable.room_to_replay(open.plus(open)).is_ok() {
            put(&mut memtable, &key(count), &record(count)).unwrap();
            count += 1;
        }
        assert!(memtable.admit(open).is_err(), "it is full");
        let mut memtable = memtable.grown();
        for number in count..2 * count {
            memtable.room_for(open).unwrap();
            put(&mut memtable, &key(number), &record(number)).unwrap();
        }
        assert!((0..2 * count).all(|number| get(&memtable, &key(number)) == Some(record(number))));
        memtable.release(open);
    }
}
