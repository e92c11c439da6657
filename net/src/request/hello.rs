//! Bodies of Hello and Map.

use layout::units::Uuid;

use super::{Body, RequestError};
use crate::field::{Read, Sink, Table, Write, wire_table};
use crate::outcome::Why;

/// The longest authentication token, bytes.
pub const AUTH_BYTES_MAX: usize = 1024;
/// The smallest body limit that hello can agree on, bytes: every reply without records fits.
pub const FRAME_BYTES_MIN: u32 = 4 << 10;

wire_table! {
    hello = "Hello", 48;
    PROTOCOL_MIN = "protocol_min", 0, 1;
    PROTOCOL_MAX = "protocol_max", 1, 1;
    METHOD = "method", 2, 1;
    RESERVED = "reserved", 3, 1;
    AUTH_BYTES = "auth_bytes", 4, 2;
    RESERVED_2 = "reserved", 6, 2;
    FEATURES = "features", 8, 8;
    FRAME_BYTES = "frame_bytes", 16, 4;
    IN_FLIGHT = "in_flight", 20, 4;
    CLIENT = "client", 24, 8;
    CLUSTER = "cluster", 32, 16;
}
wire_table! {
    map = "Map", 8;
    KNOWN_EPOCH = "known_epoch", 0, 4;
    RESERVED = "reserved", 4, 4;
}

/// The tables of this file for the test that reads the document.
pub(crate) fn tables() -> [&'static Table; 2] {
    [&hello::TABLE, &map::TABLE]
}

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AuthMethod {
    /// Not at all.
    None = 0,
    /// With a token that the operator gave it.
    Token = 1,
}

impl AuthMethod {
    /// The method of a code; None when nobody has it.
    pub const fn from_code(code: u8) -> Option<AuthMethod> {
        match code {
            0 => Some(AuthMethod::None),
            1 => Some(AuthMethod::Token),
            _ => None,
        }
    }
}

/// The first request of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The oldest protocol version the client speaks.
    pub protocol_min: u8,
    /// The newest protocol version the client speaks; not below the oldest.
    pub protocol_max: u8,
    /// How the client proves who it is.
    pub method: AuthMethod,
    /// The proof: empty for [`AuthMethod::None`], else up to 1024 bytes.
    pub auth: &'a [u8],
    /// Features that the client can use, one bit each; unknown bits are ignored.
    pub features: u64,
    /// The longest body that the client takes and wants to send, bytes; at least 4096.
    pub frame_bytes: u32,
    /// Requests that the client wants in flight; at least 1.
    pub in_flight: u32,
    /// The 64 random bits of the client's request ids; 0 = it does not write.
    pub client: u64,
    /// The cluster that the client means; all zero = any.
    pub cluster: Uuid,
}

impl<'a> Hello<'a> {
    pub(super) fn decode(body: &mut Body<'a>) -> Result<Hello<'a>, RequestError> {
        let fixed = body.head::<{ hello::BYTES }>()?;
        let (protocol_min, protocol_max) = (fixed.u8(hello::PROTOCOL_MIN), fixed.u8(hello::PROTOCOL_MAX));
        if protocol_min > protocol_max {
            return Err(body.bad(Why::Range, hello::PROTOCOL_MIN.offset));
        }
        let Some(method) = AuthMethod::from_code(fixed.u8(hello::METHOD)) else {
            return Err(body.bad(Why::Method, hello::METHOD.offset));
        };
        if !fixed.is_zero(hello::RESERVED) {
            return Err(body.bad(Why::Reserved, hello::RESERVED.offset));
        }
        let auth_bytes = usize::from(fixed.u16(hello::AUTH_BYTES));
        if auth_bytes > AUTH_BYTES_MAX || (method == AuthMethod::None && auth_bytes > 0) {
            return Err(body.bad(Why::Count, hello::AUTH_BYTES.offset));
        }
        if !fixed.is_zero(hello::RESERVED_2) {
            return Err(body.bad(Why::Reserved, hello::RESERVED_2.offset));
        }
        let (frame_bytes, in_flight) = (fixed.u32(hello::FRAME_BYTES), fixed.u32(hello::IN_FLIGHT));
        if frame_bytes < FRAME_BYTES_MIN {
            return Err(body.bad(Why::HelloLimits, hello::FRAME_BYTES.offset));
        }
        if in_flight == 0 {
            return Err(body.bad(Why::HelloLimits, hello::IN_FLIGHT.offset));
        }
        body.skip(hello::BYTES);
        Ok(Hello {
            protocol_min,
            protocol_max,
            method,
            auth: body.take(auth_bytes)?,
            features: fixed.u64(hello::FEATURES),
            frame_bytes,
            in_flight,
            client: fixed.u64(hello::CLIENT),
            cluster: Uuid(fixed.bytes(hello::CLUSTER)),
        })
    }

    pub(super) fn encode(&self, out: &mut impl Sink) {
        assert!(self.auth.len() <= AUTH_BYTES_MAX, "a token has at most 1024 bytes");
        out.put(
            &[0; hello::BYTES]
                .set(hello::PROTOCOL_MIN, [self.protocol_min])
                .set(hello::PROTOCOL_MAX, [self.protocol_max])
                .set(hello::METHOD, [self.method as u8])
                .set(hello::AUTH_BYTES, (self.auth.len() as u16).to_le_bytes())
                .set(hello::FEATURES, self.features.to_le_bytes())
                .set(hello::FRAME_BYTES, self.frame_bytes.to_le_bytes())
                .set(hello::IN_FLIGHT, self.in_flight.to_le_bytes())
                .set(hello::CLIENT, self.client.to_le_bytes())
                .set(hello::CLUSTER, self.cluster.0),
        );
        out.put(self.auth);
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        hello::BYTES + self.auth.len()
    }
}

/// Asks for the cluster map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// The epoch the client has; `NotModified` when it is current. 0 = none.
    pub known_epoch: u32,
}

impl Map {
    pub(super) const BYTES: usize = map::BYTES;

    pub(super) fn decode(body: &mut Body<'_>) -> Result<Map, RequestError> {
        let fixed = body.head::<{ map::BYTES }>()?;
        if !fixed.is_zero(map::RESERVED) {
            return Err(body.bad(Why::Reserved, map::RESERVED.offset));
        }
        body.skip(map::BYTES);
        Ok(Map { known_epoch: fixed.u32(map::KNOWN_EPOCH) })
    }

    pub(super) fn encode(&self, out: &mut impl Sink) {
        out.put(&[0; map::BYTES].set(map::KNOWN_EPOCH, self.known_epoch.to_le_bytes()));
    }
}
