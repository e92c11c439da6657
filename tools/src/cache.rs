//! Settings of a cache node, and the map that it begins with: the store's own, which names it.
//!
//! Must never make up a map: without a word from a node of the store there is no cache. Invariant: a cache serves at the address
//! under which the map of the store names it.

use std::net::SocketAddr;
use std::time::Duration;

use ioengine::Io;
use layout::superblock::Superblock;
use layout::value_ring::{CHAIN_BYTES_MIN, LINE_SLOTS, RingGeometry};
use net::client::{Client, ClientConfig};
use net::route::ClusterMap;
use shard::cache::{CacheConfig, CacheLimits};

use crate::config::Settings;
use crate::failure::Failure;

/// Chains of a core.
const CHAIN_COUNT: u16 = 16;
/// What a record takes, about: half of the slots are used when the rings are full of such.
const RECORD_BYTES: u64 = 256;
/// How long nobody of the store answers before that is worth a line in the log.
const TELL_AFTER: u32 = 20;
/// Pause between two tries.
const AGAIN: Duration = Duration::from_millis(100);

/// Asks the nodes of the store for a map that names this cache, for as long as it takes.
///
/// # Errors
/// Its settings cannot be.
pub(crate) async fn config(io: &Io, settings: &Settings) -> Result<CacheConfig, Failure> {
    let stores: Vec<SocketAddr> = settings.cluster.addresses();
    let of_client = ClientConfig { patience: Duration::from_millis(500), ..ClientConfig::default() };
    let mut tries = 0;
    loop {
        let trouble = match Client::connect(io, &stores, of_client.clone()).await {
            Ok(client) if !is_named(&client.known_map(), settings) => unnamed(settings).to_string(),
            Ok(client) => return of_map(client.known_map(), settings),
            Err(error) => error.to_string(),
        };
        tries += 1;
        if tries % TELL_AFTER == 0 {
            tracing::warn!(trouble, "waiting for a cluster map of the store that names this cache");
        }
        io.sleep(AGAIN).await;
    }
}

/// Whether the map has a cache at the address of this one.
fn is_named(map: &ClusterMap, settings: &Settings) -> bool {
    let address = settings.advertise.unwrap_or(settings.listen);
    map.caches().any(|node| node.address == address)
}

fn unnamed(settings: &Settings) -> Failure {
    let address = settings.advertise.unwrap_or(settings.listen);
    Failure::wrong_use(
        format!("the cluster map of the store names no cache at {address}"),
        "name it with `thermocline map set caches=...`, or mend network.listen or network.advertise",
    )
}

/// The same where a disk of the store is at hand, and its settings are these: in a trial.
///
/// # Errors
/// The settings do not name this cache.
pub(crate) fn config_by(superblock: &Superblock, settings: &Settings) -> Result<CacheConfig, Failure> {
    let map = settings.cluster.map(superblock)?;
    of_map(
        map.ok_or_else(|| Failure::wrong_use("a cache needs a group", "name its nodes in [cluster]"))?,
        settings,
    )
}

fn of_map(map: ClusterMap, settings: &Settings) -> Result<CacheConfig, Failure> {
    let address = settings.advertise.unwrap_or(settings.listen);
    let own = map.caches().find(|node| node.address == address).copied().ok_or_else(|| unnamed(settings))?;
    let limits = CacheLimits { rings: geometry(settings.cache_bytes), ..CacheLimits::default() };
    if let Err(what) = limits.check() {
        return Err(Failure::wrong_use(format!("tier.cache_bytes: {what}"), "name another size"));
    }
    Ok(CacheConfig {
        node: own.id,
        listen: settings.listen,
        core_count: own.shard_count,
        map,
        host: settings.host,
        pin: settings.pin,
        spin_us: u64::try_from(settings.spin.as_micros()).unwrap_or(u64::MAX),
        limits,
    })
}

/// Rings of a core that take about so many bytes.
fn geometry(bytes: u64) -> RingGeometry {
    let chain_bytes = (bytes / u64::from(CHAIN_COUNT)).next_multiple_of(CHAIN_BYTES_MIN).max(CHAIN_BYTES_MIN);
    let line_count = (2 * chain_bytes / RECORD_BYTES / LINE_SLOTS as u64).max(1);
    RingGeometry { chain_count: CHAIN_COUNT, chain_bytes, line_count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_take_what_was_named_and_a_sixteenth_for_slots() {
        for bytes in [1, 1 << 20, 256 << 20, 3 << 30] {
            let geometry = geometry(bytes);
            assert!(geometry.is_valid(), "{geometry:?}");
            let all = geometry.file_bytes();
            assert!(all >= bytes && all <= bytes + bytes / 15 + (128 << 10), "{bytes}: {all}");
        }
    }

    #[test]
    fn a_cache_that_the_store_does_not_name_is_told_so() {
        let map = ClusterMap::single(layout::units::Uuid([1; 16]), 1, "127.0.0.1:1".parse().unwrap(), 1);
        let failure = of_map(map, &Settings::default()).unwrap_err();
        assert!(failure.to_string().contains("no cache at 127.0.0.1:7420"), "{failure}");
    }
}
