//! Who is answered, and how an answer finds its way: to a connection of this core, or over the ring of the core that
//! holds the connection.

use net::frame::{HEADER_BYTES, seal};
use net::operation::{Operation, REPLY_BIT};

/// Bytes of the largest reply to a write, and of any outcome without a result, frame header included. Every request
/// that is answered later has this much room reserved with its connection.
pub(crate) const SMALL_REPLY_BYTES: usize = 96;
const _: () = assert!(
    SMALL_REPLY_BYTES >= HEADER_BYTES + net::reply::reply_bytes_batch_written(),
    "the largest reply to a write fits what is reserved for it"
);

/// Where the answer to a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyTo {
    /// Core that holds the connection.
    pub(crate) core: u16,
    /// Its slot among that core's connections, or among its gathers.
    pub(crate) slot: u32,
    /// Which connection it was that held the slot.
    pub(crate) generation: u32,
    /// The client's number for the request.
    pub(crate) request: u64,
    /// Largest body of an answer: what its connection has agreed on.
    pub(crate) frame_bytes: u32,
    /// What was asked.
    pub(crate) operation: Operation,
}

impl ReplyTo {
    /// Bytes on a ring.
    pub(crate) const BYTES: usize = 24;

    pub(crate) fn to_bytes(self) -> [u8; ReplyTo::BYTES] {
        let mut bytes = [0; ReplyTo::BYTES];
        bytes[0..2].copy_from_slice(&self.core.to_le_bytes());
        bytes[2] = self.operation.code();
        bytes[4..8].copy_from_slice(&self.slot.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.generation.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.request.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.frame_bytes.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; ReplyTo::BYTES]) -> ReplyTo {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        ReplyTo {
            core: u16::from_le_bytes([bytes[0], bytes[1]]),
            slot: number(4),
            generation: number(8),
            request: u64::from_le_bytes(bytes[12..20].try_into().expect("8 bytes")),
            frame_bytes: number(20),
            operation: Operation::from_code(bytes[2]).expect("rings carry what this process put on them"),
        }
    }

    /// Make the reply's frame in `out`: `encode` writes the body and says how long it is. Returns the frame's bytes.
    #[inline]
    pub(crate) fn frame(
        &self,
        map_epoch: u32,
        out: &mut [u8],
        encode: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        self.try_frame(map_epoch, out, |body| Some(encode(body))).expect("this encoder never declines")
    }

    /// As [`ReplyTo::frame`], for an encoder that may decline: then there is no frame.
    #[inline]
    pub(crate) fn try_frame(
        &self,
        map_epoch: u32,
        out: &mut [u8],
        encode: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        let bytes = HEADER_BYTES + encode(&mut out[HEADER_BYTES..])?;
        seal(&mut out[..bytes], self.operation.code() | REPLY_BIT, self.request, map_epoch);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_survives_a_ring() {
        for operation in Operation::ALL {
            let to = ReplyTo {
                core: 513,
                slot: 70_000,
                generation: u32::MAX,
                request: u64::MAX - 5,
                frame_bytes: u32::MAX - 6,
                operation,
            };
            assert_eq!(ReplyTo::from_bytes(&to.to_bytes()), to);
        }
    }
}
