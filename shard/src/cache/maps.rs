//! The cluster map of a core of a cache node. Every answer of the store tells whether there is a newer one, and the client fetches it; a
//! core that nobody asks hears nothing so, and asks by itself.
//!
//! Must never end a node: a map that names it no more, or otherwise, is said in the log. Invariant: a word that the store has
//! taken is known at every core that reaches one of its nodes, a few seconds later.

use super::core::Cache;
use net::route::ClusterMap;
use std::rc::Rc;
use std::time::Duration;

/// How often the store is asked for its map: "in seconds" is said of new maps, and two requests of 8 bytes cost a core nothing.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Ask for as long as the core lives.
pub(super) async fn follow(cache: Rc<Cache>) {
    let mut known = cache.client.known_map();
    loop {
        cache.io.sleep(ASK_EVERY).await;
        cache.client.renew_map().await;
        if cache.client.epoch() == known.epoch {
            continue;
        }
        ioengine::sometimes!("a cache hears of another map");
        let map = cache.client.known_map();
        if cache.index == 0 {
            let (epoch, before) = (map.epoch, known.epoch);
            tracing::info!(epoch, before, "another cluster map");
            if let Some(trouble) = trouble(cache.facts.node, &known, &map) {
                tracing::warn!(trouble, "the cluster map has changed what this cache is");
            }
        }
        known = map;
    }
}

/// What a new map says of a node that only its next start can do.
fn trouble(node: u32, known: &ClusterMap, map: &ClusterMap) -> Option<&'static str> {
    let own = |map: &ClusterMap| map.caches().find(|cache| cache.id == node).copied();
    match (own(known), own(map)) {
        (Some(_), None) => Some("it is named no more: clients that know this map ask it nothing"),
        (Some(before), Some(now)) if now.address != before.address => {
            Some("it is named at another address: start it there")
        }
        (Some(before), Some(now)) if now.shard_count != before.shard_count => {
            Some("it is named with another number of cores: the next start takes that up")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::units::Uuid;
    use net::route::{Node, Reads, Roles};

    #[test]
    fn what_only_a_start_can_do_is_named() {
        let at = |port: u16| std::net::SocketAddr::from(([10, 0, 0, 9], port));
        let store = ClusterMap::single(Uuid([1; 16]), 1, at(1), 1);
        let cache =
            |port, shard_count| Node { id: 9, address: at(port), zone: 0, roles: Roles::CACHE, shard_count };
        let named = |caches: &[Node]| {
            let reads = Reads { revision: 1, recent_us: 1, cache_share: 1, caches: caches.to_vec() };
            store.with_reads(&reads).expect("a cache fits the map")
        };
        let known = named(&[cache(2, 1)]);
        let says = |map: &ClusterMap| trouble(9, &known, map).unwrap_or("nothing");
        assert!(says(&store).contains("named no more"));
        assert!(says(&named(&[cache(3, 1)])).contains("address"));
        assert!(says(&named(&[cache(2, 4)])).contains("cores"));
        let zone = Node { zone: 5, ..cache(2, 1) };
        assert_eq!(says(&named(&[zone])), "nothing");
    }
}
