//! What a back end gives a core. Never blocks, never calls a task: it only starts operations, reports their
//! completions into the operation table and tells the time.

use crate::disk::{DiskOpen, DiskOpenError, DiskShare, Geometry};
use crate::operation::OperationId;
use crate::region::{Region, RegionError};
use crate::ring::Bell;
use crate::stream::NetError;
use std::net::SocketAddr;

/// One core's half of a back end.
pub(crate) trait Driver {
    /// Monotonic time in nanoseconds.
    fn now_ns(&self) -> u64;
    /// Wall clock: microseconds since the Unix epoch; may jump.
    fn wall_us(&self) -> u64;
    /// Fresh seed for this core's generator.
    fn seed(&self) -> u64;
    /// 16 bytes that change with every boot of the machine (not of the process).
    fn boot_id(&self) -> [u8; 16];

    /// Start the operation that stands in slot `id` of the core's table. Completion is reported exactly once.
    fn submit(&self, id: OperationId);
    /// Ask for an early end of `id`. It completes with `ECANCELED`, or as if it had not been asked.
    fn cancel(&self, id: OperationId);

    fn disk_open(&self, name: &str, open: DiskOpen) -> Result<(u32, Geometry, DiskShare), DiskOpenError>;
    fn disk_attach(&self, share: &DiskShare) -> Result<(u32, Geometry), DiskOpenError>;
    fn disk_close(&self, disk: u32);

    fn listen(&self, address: SocketAddr) -> Result<(u32, SocketAddr), NetError>;
    fn listener_close(&self, listener: u32);
    fn stream_peer(&self, stream: u32) -> Option<SocketAddr>;
    /// End both directions: operations in flight on it complete soon. Idempotent.
    fn stream_shutdown(&self, stream: u32);
    /// Shut down and release the handle once no operation is in flight on it.
    fn stream_close(&self, stream: u32);

    /// Map (creating when absent or of another size) the named shared region of this node.
    fn region(&self, name: &str, bytes: usize) -> Result<Region, RegionError>;

    /// Wake the core that sleeps behind `bell`. Called at most once per bell and turn.
    fn ring_bell(&self, bell: &Bell);
    /// The bell by which others wake this core.
    fn bell(&self) -> std::sync::Arc<Bell>;
}
