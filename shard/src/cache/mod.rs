//! The memory tier: what a core of a cache node owns. It answers gets by asking the store one question, "value of this key if
//! newer than that version", and keeps what it has heard in value rings.
//!
//! Must never answer without the store's word. Invariant: a value that is shown has the version that the store has named since
//! the get arrived.

mod ahead;
mod chain;
mod core;
mod counters;
mod fetch;
mod get;
mod limits;
mod many;
mod maps;
mod node;
mod rings;
mod status;

pub use counters::CacheCounters;
pub use limits::CacheLimits;
pub use node::{CacheConfig, CacheNode, is_rings_name, rings_name, start_cache};
pub use rings::{RingCounters, Rings, RingsFound, RingsOwner};
