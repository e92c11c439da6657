//! Frames: the 32 bytes that precede each body, and cutting a stream of bytes into frames.
//!
//! Owns the header and both checksums. Must never copy a body, and never believe a length before it is checked
//! against the caller's limit: a header that claims 4 GiB costs nothing. Invariant: what `next_frame` returns has a
//! valid header checksum, a body within the limit and a valid body checksum.
//!
//! Picture: `| header 32 | body 0..=4 MiB | header 32 | body … `

use thiserror::Error;

use crate::field::{Read, Write, wire_table};
use crate::operation::{Operation, REPLY_BIT};

/// "TCL1" as bytes on the wire.
pub const MAGIC: [u8; 4] = *b"TCL1";
/// The protocol version that this code speaks.
pub const PROTOCOL_VERSION: u8 = 1;
/// The TCP port of a node that is told no other.
pub const PORT_DEFAULT: u16 = 7420;
/// Bytes of a frame header.
pub const HEADER_BYTES: usize = header::BYTES;
/// The longest body, bytes (4 MiB): what hello can agree on at most.
pub const BODY_BYTES_MAX: u32 = 4 << 20;
/// The longest body before hello, bytes.
pub const BODY_BYTES_BEFORE_HELLO: u32 = 4 << 10;

wire_table! {
    /// The frame header.
    header = "frame header", 32;
    MAGIC = "magic", 0, 4;
    VERSION = "version", 4, 1;
    OPERATION = "operation", 5, 1;
    FLAGS = "flags", 6, 2;
    REQUEST = "request", 8, 8;
    BODY_BYTES = "body_bytes", 16, 4;
    MAP_EPOCH = "map_epoch", 20, 4;
    BODY_CHECKSUM = "body_checksum", 24, 4;
    HEADER_CHECKSUM = "header_checksum", 28, 4;
}

/// A decoded frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame asks for or answers.
    pub operation: Operation,
    /// True for a reply.
    pub is_reply: bool,
    /// Correlation on this connection: a reply carries its request's number.
    pub request: u64,
    /// Bytes of the body that follows.
    pub body_bytes: u32,
    /// Epoch of the cluster map that the sender knows; 0 = none.
    pub map_epoch: u32,
    /// CRC-32 of the body.
    pub body_checksum: u32,
}

/// A frame whose checksums are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header.
    pub header: FrameHeader,
    /// The body, borrowed from the input.
    pub body: &'a [u8],
    /// Bytes of the input that the frame takes.
    pub consumed: usize,
}

/// Why bytes are not a frame. After the first two the framing is lost: close without an answer.
/// After the others an answer with `request` can be sent, then the connection closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The first four bytes are not the magic: not this protocol.
    #[error("the bytes do not begin with \"TCL1\": not a Thermocline client")]
    BadMagic,
    /// The header's own checksum is wrong.
    #[error("the checksum of the frame header is wrong")]
    HeaderChecksum,
    /// A version of the protocol that is not spoken here.
    #[error("protocol version {version} is not spoken here")]
    BadVersion {
        /// The version asked for.
        version: u8,
        /// The operation code as sent.
        code: u8,
        /// The request number.
        request: u64,
    },
    /// An operation code that nobody has.
    #[error("operation code {code} is unknown")]
    UnknownOperation {
        /// The operation code as sent.
        code: u8,
        /// The request number.
        request: u64,
    },
    /// Header flags that are not defined.
    #[error("header flags {flags:#06x} are not defined")]
    BadFlags {
        /// The flags as sent.
        flags: u16,
        /// The operation code as sent.
        code: u8,
        /// The request number.
        request: u64,
    },
    /// The body is longer than the limit in force.
    #[error("a body of {body_bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Bytes claimed.
        body_bytes: u32,
        /// Bytes allowed.
        limit: u32,
        /// The operation code as sent.
        code: u8,
        /// The request number.
        request: u64,
    },
    /// The body's checksum is wrong.
    #[error("the checksum of the frame body is wrong")]
    BodyChecksum {
        /// The operation code as sent.
        code: u8,
        /// The request number.
        request: u64,
    },
}

impl FrameError {
    /// The operation code as sent and the request number, when an answer can still be addressed.
    pub fn addressed(&self) -> Option<(u8, u64)> {
        match *self {
            FrameError::BadMagic | FrameError::HeaderChecksum => None,
            FrameError::BadVersion { code, request, .. }
            | FrameError::UnknownOperation { code, request }
            | FrameError::BadFlags { code, request, .. }
            | FrameError::TooLarge { code, request, .. }
            | FrameError::BodyChecksum { code, request } => Some((code, request)),
        }
    }
}

impl FrameHeader {
    /// Decodes and checks a header. `body_bytes_max` is the limit in force on the connection.
    ///
    /// # Errors
    /// In this order: magic, header checksum, version, length, operation, flags.
    pub fn decode(bytes: &[u8; HEADER_BYTES], body_bytes_max: u32) -> Result<FrameHeader, FrameError> {
        if bytes.bytes::<4>(header::MAGIC) != MAGIC {
            return Err(FrameError::BadMagic);
        }
        if crc32fast::hash(&bytes[..header::HEADER_CHECKSUM.offset]) != bytes.u32(header::HEADER_CHECKSUM) {
            return Err(FrameError::HeaderChecksum);
        }
        let version = bytes.u8(header::VERSION);
        let code = bytes.u8(header::OPERATION);
        let request = bytes.u64(header::REQUEST);
        if version != PROTOCOL_VERSION {
            return Err(FrameError::BadVersion { version, code, request });
        }
        let body_bytes = bytes.u32(header::BODY_BYTES);
        if body_bytes > body_bytes_max {
            return Err(FrameError::TooLarge { body_bytes, limit: body_bytes_max, code, request });
        }
        let Some(operation) = Operation::from_code(code & !REPLY_BIT) else {
            return Err(FrameError::UnknownOperation { code, request });
        };
        let flags = bytes.u16(header::FLAGS);
        if flags != 0 {
            return Err(FrameError::BadFlags { flags, code, request });
        }
        Ok(FrameHeader {
            operation,
            is_reply: code & REPLY_BIT != 0,
            request,
            body_bytes,
            map_epoch: bytes.u32(header::MAP_EPOCH),
            body_checksum: bytes.u32(header::BODY_CHECKSUM),
        })
    }

    /// The operation code with the reply bit.
    pub fn code(&self) -> u8 {
        self.operation.code() | if self.is_reply { REPLY_BIT } else { 0 }
    }
}

/// The first frame of `bytes`; None when more bytes are needed (see [`bytes_wanted`]).
///
/// # Errors
/// As [`FrameHeader::decode`], found as soon as 32 bytes are there (the magic with 4), and then the body's checksum.
#[inline]
pub fn next_frame(bytes: &[u8], body_bytes_max: u32) -> Result<Option<Frame<'_>>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        // Strangers are turned away at the first wrong byte, not after they have sent 32.
        let known = bytes.len().min(MAGIC.len());
        return if bytes[..known] == MAGIC[..known] { Ok(None) } else { Err(FrameError::BadMagic) };
    };
    let header = FrameHeader::decode(head, body_bytes_max)?;
    let Some(body) = rest.get(..header.body_bytes as usize) else {
        return Ok(None);
    };
    if crc32fast::hash(body) != header.body_checksum {
        return Err(FrameError::BodyChecksum { code: header.code(), request: header.request });
    }
    Ok(Some(Frame { header, body, consumed: HEADER_BYTES + body.len() }))
}

/// How many bytes in all the first frame of `bytes` takes, as far as can be told: 32 until the header is there.
/// Call it only after [`next_frame`] returned `Ok(None)`, which has checked the length.
pub fn bytes_wanted(bytes: &[u8]) -> usize {
    match bytes.first_chunk::<HEADER_BYTES>() {
        None => HEADER_BYTES,
        Some(head) => HEADER_BYTES + head.u32(header::BODY_BYTES) as usize,
    }
}

/// Operation code and body bytes of the header at the start of `input`, unchecked: for looking ahead, never for
/// believing. None when the header is not there.
#[inline]
pub(crate) fn peek(input: &[u8]) -> Option<(u8, usize)> {
    let head = input.first_chunk::<HEADER_BYTES>()?;
    Some((head.u8(header::OPERATION), head.u32(header::BODY_BYTES) as usize))
}

/// Writes the header of a frame whose body already stands at `frame[32..]`; `code` has the reply bit when it is one.
///
/// # Panics
/// When `frame` is shorter than a header or its body longer than 4 MiB: the writer checked both.
#[inline]
pub fn seal(frame: &mut [u8], code: u8, request: u64, map_epoch: u32) {
    let (head, body) =
        frame.split_first_chunk_mut::<HEADER_BYTES>().expect("a frame has room for its header");
    assert!(body.len() <= BODY_BYTES_MAX as usize, "a body is at most 4 MiB");
    let bytes = [0; HEADER_BYTES]
        .set(header::MAGIC, MAGIC)
        .set(header::VERSION, [PROTOCOL_VERSION])
        .set(header::OPERATION, [code])
        .set(header::REQUEST, request.to_le_bytes())
        .set(header::BODY_BYTES, (body.len() as u32).to_le_bytes())
        .set(header::MAP_EPOCH, map_epoch.to_le_bytes())
        .set(header::BODY_CHECKSUM, crc32fast::hash(body).to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..header::HEADER_CHECKSUM.offset]);
    *head = bytes.set(header::HEADER_CHECKSUM, checksum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(code: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(body);
        seal(&mut bytes, code, 7, 3);
        bytes
    }

    #[test]
    fn a_frame_comes_back_whole_and_only_when_complete() {
        let bytes = frame(Operation::Ping.code() | REPLY_BIT, b"hello");
        for cut in 0..bytes.len() {
            assert_eq!(next_frame(&bytes[..cut], 4096), Ok(None), "cut at {cut}");
            assert_eq!(bytes_wanted(&bytes[..cut]), if cut < 32 { 32 } else { 37 });
        }
        let mut two = bytes.clone();
        two.extend_from_slice(&bytes);
        let first = next_frame(&two, 4096).unwrap().unwrap();
        assert_eq!((first.body, first.consumed), (&b"hello"[..], 37));
        assert!(first.header.is_reply);
        assert_eq!((first.header.request, first.header.map_epoch), (7, 3));
        assert_eq!(first.header.operation, Operation::Ping);
    }

    #[test]
    fn each_flipped_bit_is_found() {
        let bytes = frame(Operation::Get.code(), b"body");
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(next_frame(&bad, 4096).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_from_the_header_alone() {
        let mut bytes = frame(Operation::Put.code(), b"");
        bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
        let refused = FrameError::TooLarge { body_bytes: u32::MAX, limit: 4096, code: 5, request: 7 };
        assert_eq!(next_frame(&bytes, 4096), Err(refused));
    }

    #[test]
    fn a_stranger_is_told_from_a_slow_friend_at_the_first_byte() {
        assert_eq!(next_frame(b"", 0), Ok(None));
        assert_eq!(next_frame(b"TCL", 0), Ok(None));
        assert_eq!(next_frame(b"G", 0), Err(FrameError::BadMagic));
        assert_eq!(next_frame(b"TCL2", 0), Err(FrameError::BadMagic));
    }
}
