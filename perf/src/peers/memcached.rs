//! memcached: in memory alone; it keeps nothing. One thread, because it has one processor, and as many requests of a connection in a
//! turn as the generator sends at once, where its default of 20 would part them.

use super::Missing;
use super::server::{PeerServer, free_address};
use crate::outside;
use crate::report::About;
use crate::target::{Target, TargetError};

const PROGRAM: &str = "memcached";
const GET: &str = "apt-get install memcached";
/// Bytes that an item takes beside its value, with its key: more than its own 56 and the share of its slab.
const ITEM_BYTES: u64 = 192;

/// A running memcached.
pub(crate) struct Memcached {
    server: PeerServer,
}

impl Memcached {
    /// The version installed.
    pub(crate) fn version() -> Result<String, Missing> {
        outside::ask(PROGRAM, &["-V"]).ok_or(Missing { program: PROGRAM, get: GET })
    }

    /// Start one on the processor `cpu` with room for so many values of this size, none of them ever evicted.
    pub(crate) fn start(
        version: String,
        records: u64,
        value_bytes: u64,
        cpu: Option<usize>,
    ) -> Result<Memcached, TargetError> {
        let address = free_address()?;
        let megabytes = 256 + 2 * records * (value_bytes + ITEM_BYTES) / (1 << 20);
        let command = [
            PROGRAM,
            "-l",
            "127.0.0.1",
            "-p",
            &address.port().to_string(),
            "-U",
            "0",
            "-u",
            "nobody",
            "-t",
            "1",
            "-R",
            "32",
            "-M",
            "-m",
            &megabytes.to_string(),
        ]
        .map(str::to_owned);
        let durability = "nothing durable: it has no disk";
        Ok(Memcached { server: PeerServer::start(&command, address, cpu, version, durability)? })
    }

    pub(crate) fn target(&self) -> &Target {
        self.server.target()
    }

    pub(crate) fn about(&self) -> About {
        self.server.about()
    }
}
