//! Our own protocol. Every header's checksum is checked and every outcome is looked at; whole bodies are checked and
//! decoded for one answer in [`CHECK_PERIOD`]: a generator that is slower than the server measures itself.

use super::{Answered, Next, Wire, WireError};
use crate::load::meter::Heard;
use layout::units::{LogTime, Uuid};
use net::field::SliceSink;
use net::frame::{FrameHeader, HEADER_BYTES, next_frame, seal};
use net::outcome::OutcomeCode;
use net::reply::{Answer, Reply};
use net::request::{AuthMethod, Hello};
use net::{Operation, Request};

/// One answer in this many is checked whole.
pub const CHECK_PERIOD: u64 = 16;
/// Bytes of the head of a reply's body.
const REPLY_HEAD_BYTES: usize = 16;
const BODY_BYTES_MAX: u32 = net::frame::BODY_BYTES_MAX;

/// One connection.
#[derive(Clone, Debug)]
pub struct ThermoclineWire {
    client: u64,
    in_flight: u32,
    /// Counts requests: the upper half of their numbers.
    sent: u64,
    answered: u64,
}

impl ThermoclineWire {
    /// A connection of the client with this random number (0 = it does not write) that wants `in_flight` requests
    /// in flight.
    #[must_use]
    pub fn new(client: u64, in_flight: u32) -> ThermoclineWire {
        ThermoclineWire { client, in_flight, sent: 0, answered: 0 }
    }
}

fn frame(request: &Request<'_>, number: u64, out: &mut [u8]) -> usize {
    let bytes = HEADER_BYTES + request.encoded_bytes();
    let mut body = SliceSink::new(&mut out[HEADER_BYTES..bytes]);
    request.encode(&mut body);
    seal(&mut out[..bytes], request.operation().code(), number, 0);
    bytes
}

fn broken(error: impl std::fmt::Display) -> WireError {
    WireError(error.to_string())
}

impl Wire for ThermoclineWire {
    fn open(&mut self, out: &mut [u8]) -> usize {
        let hello = Hello {
            protocol_min: 1,
            protocol_max: 1,
            method: AuthMethod::None,
            auth: &[],
            features: 0,
            frame_bytes: BODY_BYTES_MAX,
            in_flight: self.in_flight,
            client: self.client,
            cluster: Uuid::default(),
        };
        frame(&Request::Hello(hello), 0, out)
    }

    fn opened(&mut self, input: &[u8]) -> Result<Option<usize>, WireError> {
        let Some(frame) = next_frame(input, BODY_BYTES_MAX).map_err(broken)? else { return Ok(None) };
        match Reply::decode(Operation::Hello, frame.body).map_err(broken)?.answer {
            Answer::Hello(agreed) if agreed.in_flight >= self.in_flight => Ok(Some(frame.consumed)),
            Answer::Hello(agreed) => Err(WireError(format!(
                "the server allows {} requests in flight and {} are wanted: ask for fewer, or raise in_flight_max",
                agreed.in_flight, self.in_flight
            ))),
            other => Err(WireError(format!("{other:?} to hello"))),
        }
    }

    fn request_bytes_max(&self, request: &Request<'_>) -> usize {
        HEADER_BYTES + request.encoded_bytes()
    }

    fn request(&mut self, request: &Request<'_>, tag: u32, out: &mut [u8]) -> usize {
        self.sent += 1;
        frame(request, self.sent << 32 | u64::from(tag), out)
    }

    fn next(&mut self, input: &[u8]) -> Result<Next, WireError> {
        let Some((head, rest)) = input.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(Next::Need(HEADER_BYTES));
        };
        let header = FrameHeader::decode(head, BODY_BYTES_MAX).map_err(broken)?;
        let bytes = HEADER_BYTES + header.body_bytes as usize;
        let Some(body) = rest.get(..header.body_bytes as usize) else { return Ok(Next::Need(bytes)) };
        if !header.is_reply || body.len() < REPLY_HEAD_BYTES {
            return Err(WireError(format!("{header:?} is no reply")));
        }
        self.answered += 1;
        if self.answered.is_multiple_of(CHECK_PERIOD) {
            next_frame(&input[..bytes], BODY_BYTES_MAX).map_err(broken)?;
            Reply::decode(header.operation, body).map_err(broken)?;
        }
        let outcome = OutcomeCode::from_code(body[0])
            .ok_or_else(|| WireError(format!("outcome {} is unknown", body[0])))?;
        let log_time = u64::from_le_bytes(body[8..16].try_into().expect("8 bytes"));
        let tag = (header.request & u64::from(u32::MAX)) as u32;
        let detail = u32::from_le_bytes(body[4..8].try_into().expect("4 bytes"));
        let hint_ms = if outcome == OutcomeCode::Busy { detail.max(1) } else { 0 };
        let heard = Heard::Outcome(outcome);
        let answered = Answered { tag, heard, log_time: LogTime(log_time), hint_ms };
        Ok(Next::Answer(answered, bytes))
    }
}
