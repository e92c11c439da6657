//! Memory is bounded, and comes back: what a node says of itself once its clients have gone.

use crate::sim::history::Violation;
use serde_json::Value;
use shard::limits::Limits;

const NAME: &str = "bounds";

/// Bytes of buffers that a connection may hold while it is idle: its receive buffer and what it sends from.
const CONNECTION_BYTES: u64 = 128 << 10;

/// The largest record of a manifest.
const MANIFEST_BYTES: u64 = 64 << 10;

/// What a core hears answers of other nodes in: 8 KiB a link, of at most eight in these worlds.
const LINKS_BYTES: u64 = 8 * (8 << 10);

/// What a core hears and asks cold nodes in.
const COLDS_BYTES: u64 = 3 * net::client::CONNECTION_ARENA_BYTES as u64;

/// What a flush, a merge or a reader has in flight at most.
const BACKGROUND_BYTES: u64 = 256 << 10;

/// A replay lays a memtable out twice as large until it holds what the journal has, seldom more often than twice.
const GROWN: u64 = 4;

/// Check the status text of a node with no more than a few idle connections.
#[must_use]
pub fn check(status: &str, limits: &Limits, memtables_grew: bool) -> Vec<Violation> {
    let wrong = |text: String| Violation { checker: NAME, text };
    let Ok(status) = serde_json::from_str::<Value>(status) else {
        return vec![wrong(format!("a status is JSON: {status}"))];
    };
    let sinks = status["sink"].is_object();
    let mut out = Vec::new();
    for (core, counters) in status["cores"].as_array().into_iter().flatten().enumerate() {
        let number = |name: &str| counters[name].as_u64().unwrap_or(u64::MAX);
        let connections = number("connections");
        // The buffers of the journal's and the manifest's records, those of connections, and what flushes, merges and
        // readers have in flight.
        let colds = if sinks { COLDS_BYTES } else { 0 };
        let background = 2 * MANIFEST_BYTES + (2 + limits.reader_count as u64) * BACKGROUND_BYTES;
        let arena = limits.record_bytes_max.next_power_of_two()
            + connections * CONNECTION_BYTES
            + LINKS_BYTES
            + colds
            + background;
        let grown = if memtables_grew { GROWN } else { 1 };
        let bounds = [
            ("arena_used_bytes", arena.min(limits.arena_bytes as u64 + colds)),
            ("connections", limits.connection_count_max as u64),
            ("memtable_used_bytes", grown * limits.memtable_bytes as u64),
            ("memtable_records", grown * limits.memtable_record_count_max as u64),
        ];
        for (name, most) in bounds {
            if number(name) > most {
                out.push(wrong(format!("core {core} has {name} {}, more than {most}", number(name))));
            }
        }
        if number("journal_used_bytes") > number("journal_bytes") {
            out.push(wrong(format!("core {core} uses more journal than there is: {counters}")));
        }
    }
    out
}
