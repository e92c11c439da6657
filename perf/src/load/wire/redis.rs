//! Redis' protocol (RESP 2), as far as gets and sets need it. A record is a string under the key `stream:time`;
//! a batch is as many SETs. Answers come in the order of the requests.

use super::{Answered, Next, Wire, WireError};
use crate::load::meter::Heard;
use layout::key::Key;
use layout::units::LogTime;
use net::Request;
use net::outcome::OutcomeCode;
use net::request::Change;
use std::collections::VecDeque;
use std::io::Write;

/// Bytes that a command takes beside stream and value: words, lengths, line ends and the time.
const COMMAND_BYTES: usize = 96;
/// Digits of a time in a key: all keys of a stream are equally long.
const TIME_DIGITS: usize = 16;
/// Longest length line: `$`, ten digits, line end.
const LINE_BYTES_MAX: usize = 16;

/// One connection.
#[derive(Clone, Debug)]
pub struct RedisWire {
    /// Tag, answers still to come, and the worst so far, of each request in flight.
    waiting: VecDeque<(u32, u32, Heard)>,
}

const OK: Heard = Heard::Outcome(OutcomeCode::Ok);

impl RedisWire {
    /// With room for this many requests in flight.
    #[must_use]
    pub fn new(in_flight: usize) -> RedisWire {
        RedisWire { waiting: VecDeque::with_capacity(in_flight) }
    }

    /// The answer to the oldest command, all of its `bytes` being there.
    fn take(&mut self, heard: Heard, bytes: usize) -> Result<Next, WireError> {
        let first = self
            .waiting
            .front_mut()
            .ok_or_else(|| WireError("an answer to nothing that was asked".to_owned()))?;
        first.1 -= 1;
        if heard != OK {
            first.2 = heard;
        }
        if first.1 > 0 {
            return Ok(Next::Part(bytes));
        }
        let (tag, _, heard) = self.waiting.pop_front().expect("it was looked at above");
        Ok(Next::Answer(Answered { tag, heard, log_time: LogTime(0), hint_ms: 0 }, bytes))
    }
}

fn set(out: &mut &mut [u8], key: Key<'_>, value: &[u8]) {
    put_key(out, b"*3\r\n$3\r\nSET\r\n", key);
    let fits = "request_bytes_max counted it";
    write!(out, "${}\r\n", value.len()).expect(fits);
    out.write_all(value).expect(fits);
    out.write_all(b"\r\n").expect(fits);
}

fn put_key(out: &mut &mut [u8], words: &[u8], key: Key<'_>) {
    let fits = "request_bytes_max counted it";
    out.write_all(words).expect(fits);
    write!(out, "${}\r\n", key.stream.len() + 1 + TIME_DIGITS).expect(fits);
    out.write_all(key.stream).expect(fits);
    write!(out, ":{:0width$x}\r\n", key.time, width = TIME_DIGITS).expect(fits);
}

impl Wire for RedisWire {
    fn open(&mut self, _: &mut [u8]) -> usize {
        0
    }

    fn opened(&mut self, _: &[u8]) -> Result<Option<usize>, WireError> {
        Ok(Some(0))
    }

    fn request_bytes_max(&self, request: &Request<'_>) -> usize {
        let stream = request.stream().map_or(0, |(_, stream)| stream.len());
        match request {
            Request::Batch(batch) => (batch.count() * (COMMAND_BYTES + stream)) + request.encoded_bytes(),
            _ => COMMAND_BYTES + request.encoded_bytes(),
        }
    }

    fn request(&mut self, request: &Request<'_>, tag: u32, out: &mut [u8]) -> usize {
        let room = out.len();
        let mut rest = out;
        let commands = match request {
            Request::Get(get) => {
                put_key(&mut rest, b"*2\r\n$3\r\nGET\r\n", get.key);
                1
            }
            Request::Put(put) => {
                set(&mut rest, put.key, put.value);
                1
            }
            Request::Batch(batch) => {
                for one in batch.operations() {
                    let key = Key { space: batch.space, stream: batch.stream, time: one.time };
                    match one.change {
                        Change::Put { value, .. } => set(&mut rest, key, value),
                        Change::Delete => panic!("no workload deletes"),
                    }
                }
                u32::try_from(batch.count()).expect("a batch is small")
            }
            other => panic!("redis is not asked for {:?}", other.operation()),
        };
        self.waiting.push_back((tag, commands, OK));
        room - rest.len()
    }

    fn next(&mut self, input: &[u8]) -> Result<Next, WireError> {
        let Some(end) = input.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
            // Errors have longer lines.
            let end = input.iter().position(|&byte| byte == b'\n');
            return match (input.first(), end) {
                (Some(b'-'), Some(end)) => self.take(Heard::Failure, end + 1),
                (Some(b'-') | None, None) => Ok(Next::Need(input.len() + 1)),
                _ if input.len() < LINE_BYTES_MAX => Ok(Next::Need(input.len() + 1)),
                _ => Err(WireError(format!("{:?} is no answer", String::from_utf8_lossy(&input[..16])))),
            };
        };
        match input[0] {
            b'+' => self.take(OK, end + 1),
            b'-' => self.take(Heard::Failure, end + 1),
            b'$' if input[1] == b'-' => self.take(Heard::Outcome(OutcomeCode::NotFound), end + 1),
            b'$' => {
                let digits = input[1..end].iter().filter(|byte| byte.is_ascii_digit());
                let bytes = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
                let all = end + 1 + bytes + 2;
                if input.len() < all { Ok(Next::Need(all)) } else { self.take(OK, all) }
            }
            _ => Err(WireError(format!("{:?} is no answer", String::from_utf8_lossy(&input[..end])))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::units::{RequestId, Space};
    use net::request::{BatchBody, BatchOperation, Get, Put};

    const KEY: Key<'static> = Key { space: Space(0), stream: b"user-1", time: 0x1f };

    fn text(wire: &mut RedisWire, request: &Request<'_>, tag: u32) -> String {
        let mut out = vec![0; wire.request_bytes_max(request)];
        let bytes = wire.request(request, tag, &mut out);
        String::from_utf8(out[..bytes].to_vec()).unwrap()
    }

    #[test]
    fn commands_are_those_of_redis_and_fit_their_room() {
        let mut wire = RedisWire::new(4);
        let get = Request::Get(Get { key: KEY, local: false, if_newer: None, redirect: false });
        let key = "$23\r\nuser-1:000000000000001f\r\n";
        assert_eq!(text(&mut wire, &get, 1), format!("*2\r\n$3\r\nGET\r\n{key}"));
        let id = RequestId { client: 1, log_time: 0, sequence: 1 };
        let put = Request::Put(Put { id, key: KEY, expiry: 0, value: b"hello" });
        assert_eq!(text(&mut wire, &put, 2), format!("*3\r\n$3\r\nSET\r\n{key}$5\r\nhello\r\n"));
    }

    #[test]
    fn answers_are_told_apart_at_every_cut() {
        let mut wire = RedisWire::new(8);
        let get = Request::Get(Get { key: KEY, local: false, if_newer: None, redirect: false });
        let mut body = BatchBody::new();
        for time in 0..2 {
            assert!(body.push(&BatchOperation { time, change: Change::Put { expiry: 0, value: b"x" } }));
        }
        let id = RequestId { client: 1, log_time: 0, sequence: 1 };
        let batch = Request::Batch(body.request(id, Space(0), b"user-1").unwrap());
        for (tag, request) in [(1, &get), (2, &batch), (3, &get), (4, &get)] {
            let _ = text(&mut wire, request, tag);
        }
        let input = b"$5\r\nhello\r\n+OK\r\n+OK\r\n$-1\r\n-ERR wrong kind of value, as a long line\r\n";
        let (mut at, mut cut, mut heard) = (0, 0, Vec::new());
        while at < input.len() {
            match wire.next(&input[at..cut]).unwrap() {
                Next::Need(bytes) => {
                    assert!(bytes > cut - at && cut < input.len());
                    cut += 1;
                }
                Next::Part(bytes) => at += bytes,
                Next::Answer(answered, bytes) => {
                    heard.push((answered.tag, answered.heard));
                    at += bytes;
                }
            }
        }
        let not_found = Heard::Outcome(OutcomeCode::NotFound);
        assert_eq!(heard, [(1, OK), (2, OK), (3, not_found), (4, Heard::Failure)]);
        assert!(wire.next(b"+OK\r\n").is_err(), "nothing was asked");
    }
}
