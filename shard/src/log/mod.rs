//! The log of the tablets among the nodes of a group.
//!
//! Owns nothing yet: messages of other nodes are counted and dropped.

use crate::core::Shard;
use layout::units::TabletIndex;
use std::rc::Rc;

/// A message of node `from` about a tablet of this core.
pub(crate) fn receive(shard: &Rc<Shard>, from: u32, tablet: TabletIndex, kind: u8, body: &[u8]) {
    tracing::trace!(from, %tablet, kind, bytes = body.len(), "a message that nobody expects");
    shard.counters.peer_unexpected.add(1);
}
