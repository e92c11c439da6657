//! A cache node in this process, before a node that is measured. Owns its shared memory, and removes it.

use crate::cpu::{self, CpuOf};
use crate::outside;
use crate::target::{Target, TargetError};
use ioengine::uring::region_path;
use ioengine::{HostKind, Launcher};
use layout::units::Uuid;
use layout::value_ring::{LINE_SLOTS, RingGeometry};
use net::client::ClientConfig;
use net::client::blocking::Client;
use net::route::ClusterMap;
use shard::cache::{CacheConfig, CacheLimits, CacheNode, rings_name, start_cache};
use shard::node::Event;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

/// Chains of its core.
const CHAIN_COUNT: u16 = 16;
/// What an entry of a bench takes in a ring, about.
const ENTRY_BYTES: u64 = 256;

fn failed(error: impl std::fmt::Display) -> TargetError {
    TargetError(format!("a cache: {error}"))
}

/// What its core has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) gets: f64,
    pub(crate) shared: f64,
    pub(crate) not_modified: f64,
    pub(crate) newer: f64,
    pub(crate) absent: f64,
    pub(crate) batches: f64,
    pub(crate) batched_keys: f64,
    pub(crate) busy: f64,
}

/// A cache node of one core in this process.
pub struct InProcessCache {
    node: Option<CacheNode>,
    rings: PathBuf,
    target: Target,
}

impl InProcessCache {
    /// Start one before the node of `store`, with room for so many records, on this processor.
    ///
    /// # Errors
    /// It does not come to serve, and why.
    pub fn start(store: &Target, records: u64, cpu: Option<usize>) -> Result<InProcessCache, TargetError> {
        let chain_bytes =
            (records * ENTRY_BYTES / u64::from(CHAIN_COUNT)).next_multiple_of(4096).max(1 << 20);
        let line_count = (2 * records / u64::from(CHAIN_COUNT) / LINE_SLOTS as u64).max(64);
        let limits = CacheLimits {
            rings: RingGeometry { chain_count: CHAIN_COUNT, chain_bytes, line_count },
            ..CacheLimits::default()
        };
        let config = CacheConfig {
            node: 101,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            map: ClusterMap::single(Uuid(*b"thermocline perf"), 1, store.address, 1),
            core_count: 1,
            host: HostKind::Own,
            pin: false,
            spin_us: 0,
            limits,
        };
        let rings = region_path(&rings_name(&config, 0));
        outside::remove(&rings);
        let before = cpu::threads();
        let (tell, told) = mpsc::channel();
        let node = start_cache(&Launcher::Threads, &config, Arc::new(move |event| drop(tell.send(event))));
        let mut this = InProcessCache {
            node: Some(node.map_err(failed)?),
            rings,
            target: Target { address: config.listen, cpu: CpuOf::Unknown },
        };
        this.target.address = loop {
            match told.recv().map_err(failed)? {
                Event::Serving(address) => break address,
                Event::Recovered { .. } => {}
                Event::Failed(text) => return Err(failed(text)),
            }
        };
        let own: Vec<u32> = cpu::threads().into_iter().filter(|thread| !before.contains(thread)).collect();
        if let Some(cpu) = cpu {
            cpu::keep_to(&own, cpu).map_err(failed)?;
        }
        this.target.cpu = CpuOf::Threads(own);
        Ok(this)
    }

    /// Where it listens, and whose time it uses alone.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What it has counted so far.
    pub(crate) fn counted(&self) -> Result<Counted, TargetError> {
        let client =
            Client::connect(&[&self.target.address.to_string()], ClientConfig::default()).map_err(failed)?;
        let status: serde_json::Value =
            serde_json::from_str(&client.status().map_err(failed)?).map_err(failed)?;
        let of = |name: &str| status["cache_cores"][0][name].as_f64().unwrap_or(0.0);
        Ok(Counted {
            gets: of("gets"),
            shared: of("shared"),
            not_modified: of("not_modified"),
            newer: of("newer"),
            absent: of("absent"),
            batches: of("batches"),
            batched_keys: of("batched_keys"),
            busy: of("busy"),
        })
    }
}

impl Drop for InProcessCache {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            node.drain();
            node.join();
        }
        outside::remove(&self.rings);
    }
}
