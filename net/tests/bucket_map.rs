//! The exhaustive test of the bucket map: every count of groups, every group, every tablet, every bucket.

use layout::units::{BUCKET_COUNT, BucketIndex, TabletIndex};
use net::route::{BucketMap, GROUP_COUNT_MAX};
use xxhash_rust::xxh3::xxh3_64;

fn owners(map: &BucketMap) -> Vec<u16> {
    (0..BUCKET_COUNT).map(|bucket| map.group_of(BucketIndex::new(bucket).expect("below the count"))).collect()
}

/// Spread of groups, floor or ceil in each tablet, and growth that moves only to the new group: for 1..=1000.
#[test]
fn every_count_of_groups_is_even_in_groups_and_tablets_and_moves_only_what_must() {
    let mut map = BucketMap::new(1).unwrap();
    let mut before = owners(&map);
    let mut worst = 1.0f64;
    for groups in 1..=GROUP_COUNT_MAX {
        let (floor, ceil) = (2048 / groups, 2048u16.div_ceil(groups));
        let mut least = u32::MAX;
        let mut most = 0;
        let mut counted = vec![[0u16; 64]; groups as usize];
        for (bucket, owner) in before.iter().enumerate() {
            counted[*owner as usize][bucket & 63] += 1;
        }
        for (group, tablets) in counted.iter().enumerate() {
            for tablet in TabletIndex::all() {
                let count = tablets[tablet.index()];
                assert!(
                    count == floor || count == ceil,
                    "{groups} groups: {group} has {count} in tablet {tablet}"
                );
                assert_eq!(count, map.bucket_count(group as u16, tablet), "the map counts itself wrong");
            }
            let total = tablets.iter().map(|&count| u32::from(count)).sum();
            least = least.min(total);
            most = most.max(total);
        }
        assert!(most - least <= 1, "{groups} groups: {least}..{most} buckets");
        worst = worst.max(f64::from(most) / f64::from(least));
        if groups == GROUP_COUNT_MAX {
            break;
        }

        let mut said = Vec::new();
        map.grow(|bucket, from| said.push((bucket.get(), from))).unwrap();
        let after = owners(&map);
        for (bucket, (old, new)) in before.iter().zip(&after).enumerate() {
            assert!(old == new || *new == groups, "{groups} + 1 groups: bucket {bucket} went {old} to {new}");
        }
        said.sort_unstable();
        let moved: Vec<(u32, u16)> = (0..BUCKET_COUNT)
            .filter(|&bucket| after[bucket as usize] == groups)
            .map(|bucket| (bucket, before[bucket as usize]))
            .collect();
        assert_eq!(said, moved, "{groups} + 1 groups: what the map said it moved");
        before = after;
    }
    assert!(worst <= 1.01, "the busiest group has {worst} times the buckets of the idlest");
    assert!(map.grow(|_, _| {}).is_err(), "1001 groups");
    // The map is part of the protocol: nodes and clients of all builds must compute the same one.
    let bytes: Vec<u8> = before.iter().flat_map(|owner| owner.to_le_bytes()).collect();
    assert_eq!(xxh3_64(&bytes), DIGEST_1000, "the map of 1000 groups changed");
}

/// xxh3-64 over the owners of all buckets as u16, little-endian, at 1000 groups.
const DIGEST_1000: u64 = 0x34b5_7bfd_9df6_e294;

#[test]
fn a_map_built_at_once_is_the_one_that_grew() {
    for groups in [1u16, 2, 3, 5, 45, 46, 100, 683] {
        let mut grown = BucketMap::new(1).unwrap();
        while grown.group_count() < groups {
            grown.grow(|_, _| {}).unwrap();
        }
        assert_eq!(owners(&BucketMap::new(groups).unwrap()), owners(&grown), "{groups} groups");
    }
    assert!(BucketMap::new(0).is_err());
    assert!(BucketMap::new(1001).is_err());
}
