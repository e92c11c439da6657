//! Where a record lies that a get asked for: said by a store that would have to ask a cold node itself, to who asked to be told.
//!
//! Owns the bytes behind the head of such a reply. Must never name a place that was not linked when the store looked. Invariant: each of
//! the three nodes has the same bytes there, or says `Moved`.

use std::net::SocketAddr;

use crate::cold::ColdBlocks;
use crate::field::{Read, Sink, SliceSink, Table, Write, ip_bytes, ip_of, wire_table};
use crate::reply::{ReplyError, Rest, encode_redirect_head, reply_head_bytes};
use layout::units::LogTime;

/// Feature of Hello: a Get may carry REDIRECT, and then be answered with [`Redirect`].
pub const FEATURE_REDIRECT: u64 = 1 << 0;

wire_table! {
    node = "Redirect node", 20;
    ADDRESS = "address", 0, 16;
    PORT = "port", 16, 2;
    RESERVED = "reserved", 18, 2;
}

/// The table of this file for the test that reads the document.
pub(crate) fn tables() -> [&'static Table; 1] {
    [&node::TABLE]
}

/// Machines of a cold group.
pub const REDIRECT_NODES: usize = 3;

/// The record, if there is one, lies in this block of three cold nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirect {
    /// The block.
    pub blocks: ColdBlocks,
    /// The nodes that have it, each the same.
    pub nodes: [SocketAddr; REDIRECT_NODES],
}

impl Redirect {
    /// Bytes of the reply.
    pub const REPLY_BYTES: usize = reply_head_bytes() + ColdBlocks::BYTES + REDIRECT_NODES * node::BYTES;

    pub(crate) fn decode(rest: &mut Rest<'_>) -> Result<Redirect, ReplyError> {
        let blocks = ColdBlocks::decode_reply(rest)?;
        let mut nodes = [SocketAddr::from(([0, 0, 0, 0], 0)); REDIRECT_NODES];
        for address in &mut nodes {
            let fixed = rest.head::<{ node::BYTES }>()?;
            rest.reserved(fixed, node::RESERVED)?;
            let port = fixed.u16(node::PORT);
            if port == 0 {
                return Err(rest.wrong(node::PORT));
            }
            *address = SocketAddr::new(ip_of(fixed.bytes(node::ADDRESS)), port);
            rest.take(node::BYTES)?;
        }
        Ok(Redirect { blocks, nodes })
    }
}

/// The reply; `log_time` is the tablet's. Returns its bytes.
///
/// # Panics
/// When `out` is shorter than [`Redirect::REPLY_BYTES`].
pub fn encode_redirect(out: &mut [u8], log_time: LogTime, redirect: &Redirect) -> usize {
    let mut out = SliceSink::new(out);
    encode_redirect_head(&mut out, log_time);
    out.put(&redirect.blocks.bytes());
    for address in &redirect.nodes {
        out.put(
            &[0; node::BYTES]
                .set(node::ADDRESS, ip_bytes(address.ip()))
                .set(node::PORT, address.port().to_le_bytes()),
        );
    }
    out.used()
}
