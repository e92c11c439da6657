//! Known answers of placement for other languages: `golden/placement.json`, made and checked as `tests/golden` does.
//!
//! ```text
//! NET_GOLDEN_WRITE=1 cargo test -p net --test placement
//! ```

use layout::key::{bucket_of, tablet_of};
use layout::units::{Space, TabletIndex};
use net::route::{BucketMap, ReplicaOrder};
use serde_json::{Value, json};

const FILE: &str = include_str!("../golden/placement.json");

/// Counts of groups that clients check: small ones, each side of a fall of the floor, the greatest.
const GROUP_COUNTS: [u16; 12] = [1, 2, 3, 5, 7, 16, 46, 100, 341, 512, 683, 1000];

fn streams() -> Vec<Value> {
    let maps: Vec<BucketMap> =
        GROUP_COUNTS.iter().map(|&count| BucketMap::new(count).expect("1 to 1000")).collect();
    let mut names: Vec<(u16, Vec<u8>)> = (0..40).map(|n| (0, format!("user-{n}").into_bytes())).collect();
    // Each length has its own path through the hash.
    names.extend([1, 2, 5, 6, 7, 14, 15, 62, 126, 127, 128].map(|bytes| (0x1234, vec![0xa5; bytes])));
    names.push((u16::MAX, (0..128).collect()));
    let place = |(space, name): (u16, Vec<u8>)| {
        let bucket = bucket_of(Space(space), &name);
        let groups: serde_json::Map<String, Value> =
            maps.iter().map(|map| (map.group_count().to_string(), json!(map.group_of(bucket)))).collect();
        let stream: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({ "space": space, "stream": stream, "bucket": bucket.get(), "tablet": tablet_of(bucket).get(), "groups": groups })
    };
    names.into_iter().map(place).collect()
}

fn replica_orders() -> Vec<Value> {
    let shapes: [(&[u16], usize); 7] = [
        (&[0], 1),
        (&[0, 1, 2], 3),
        (&[0, 1, 2, 3, 4], 5),
        (&[0, 0, 1, 1, 2], 3),
        (&[0, 0, 1, 1, 2], 5),
        (&[0, 0, 1, 1, 2, 2], 3),
        (&[0, 1, 2, 0, 1, 2], 5),
    ];
    let order = |(zones, replicas): (&[u16], usize)| {
        let order = ReplicaOrder::new(zones, replicas).expect("an allowed shape");
        let lists: Vec<&[u8]> = TabletIndex::all().map(|tablet| order.of(tablet)).collect();
        json!({ "zones": zones, "replicas": replicas, "orders": lists })
    };
    shapes.into_iter().map(order).collect()
}

#[test]
fn the_file_is_what_the_code_says() {
    let lines =
        |items: Vec<Value>| items.iter().map(|item| format!("  {item}")).collect::<Vec<_>>().join(",\n");
    let fresh = format!(
        "{{\n\"streams\": [\n{}\n],\n\"replica_orders\": [\n{}\n]\n}}\n",
        lines(streams()),
        lines(replica_orders())
    );
    if std::env::var_os("NET_GOLDEN_WRITE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/placement.json");
        #[expect(
            clippy::disallowed_methods,
            reason = "a developer's tool that writes a file of the source tree"
        )]
        std::fs::write(path, &fresh).expect("the source tree can be written");
        return;
    }
    for (line, (said, is)) in FILE.lines().zip(fresh.lines()).enumerate() {
        assert_eq!(said, is, "golden/placement.json line {}", line + 1);
    }
    assert_eq!(FILE, fresh, "golden/placement.json has other lines");
}
