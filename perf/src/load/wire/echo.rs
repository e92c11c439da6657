//! Messages of a fixed size that come back as they went: for the bare echo. What is asked does not matter to it.

use super::{Answered, Next, Wire, WireError};
use crate::load::meter::Heard;
use layout::units::LogTime;
use net::Request;
use net::outcome::OutcomeCode;

/// One connection.
#[derive(Clone, Debug)]
pub struct EchoWire {
    message_bytes: usize,
}

impl EchoWire {
    /// With messages of this many bytes, at least 4: the tag.
    ///
    /// # Panics
    /// When they are shorter.
    #[must_use]
    pub fn new(message_bytes: usize) -> EchoWire {
        assert!(message_bytes >= 4, "a message holds its tag");
        EchoWire { message_bytes }
    }
}

impl Wire for EchoWire {
    fn open(&mut self, _: &mut [u8]) -> usize {
        0
    }

    fn opened(&mut self, _: &[u8]) -> Result<Option<usize>, WireError> {
        Ok(Some(0))
    }

    fn request_bytes_max(&self, _: &Request<'_>) -> usize {
        self.message_bytes
    }

    fn request(&mut self, _: &Request<'_>, tag: u32, out: &mut [u8]) -> usize {
        let message = &mut out[..self.message_bytes];
        message[4..].fill(b'e');
        message[..4].copy_from_slice(&tag.to_le_bytes());
        self.message_bytes
    }

    fn next(&mut self, input: &[u8]) -> Result<Next, WireError> {
        let Some(message) = input.get(..self.message_bytes) else {
            return Ok(Next::Need(self.message_bytes));
        };
        if message.last() != Some(&b'e') && message.len() > 4 {
            return Err(WireError("the echo sent something else back".to_owned()));
        }
        let tag = u32::from_le_bytes(message[..4].try_into().expect("4 bytes"));
        let heard = Heard::Outcome(OutcomeCode::Ok);
        Ok(Next::Answer(Answered { tag, heard, log_time: LogTime(0), hint_ms: 0 }, self.message_bytes))
    }
}
