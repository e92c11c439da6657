//! Where a store node sinks its sealed windows to: the settings, nothing that acts on them.
//!
//! Must never change while a node runs, and be the same at all nodes of a group: any of them may be the one that sinks a window.

use std::net::SocketAddr;
use std::time::Duration;

/// The cold group of a store node, and from which age on it gets sealed windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkSettings {
    /// Where the three nodes of the cold group serve: each holds what the two others do.
    pub nodes: [SocketAddr; 3],
    /// Number of the cold group, as its disks say.
    pub group: u16,
    /// Disks of the group: each node has those with the numbers below this. At least one.
    pub disk_count: u16,
    /// A sealed window is sunk once its end is older than this by log time.
    pub after: Duration,
}
