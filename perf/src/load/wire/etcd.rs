//! etcd's puts over gRPC, as far as a load of puts needs them: HTTP/2 frames and a protobuf message by hand, one call at a time on a
//! connection. The generator is the same for both sides so, and costs about as little.
//!
//! Must never take a failed call for a put: a put is answered by a message and an end, a failure by an end alone. Headers of
//! answers are not looked into.
//!
//! ```text
//! ask:    | HEADERS :method :scheme :path :authority content-type te | DATA: 0, length, PutRequest { key, value }, end |
//! answer: | HEADERS | DATA: 0, length, PutResponse | HEADERS, end |
//! ```

use super::{Answered, Next, Wire, WireError};
use crate::load::meter::Heard;
use layout::units::LogTime;
use net::Request;
use net::outcome::OutcomeCode;
use std::io::Write;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// What the far end may send without being told to go on: more than any run brings.
const WINDOW: u32 = (1 << 31) - 1;
const WINDOW_FIRST: u32 = 65_535;
/// Frame heads, header block, gRPC prefix, the key's hex time and protobuf's lengths.
const CALL_BYTES: usize = 192;
/// Digits of a time in a key: all keys of a stream are equally long.
const TIME_DIGITS: usize = 16;

/// Headers of every call (RFC 7541: static table, nothing indexed anew, no Huffman code).
fn header_block() -> Vec<u8> {
    // :method POST, :scheme http
    let mut block = vec![0x83, 0x86];
    // A name of the static table, in as many bytes as its number needs; then the value.
    let mut literal = |name: &[u8], value: &[u8]| {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).expect("a header is short"));
        block.extend_from_slice(value);
    };
    literal(&[0x04], b"/etcdserverpb.KV/Put");
    literal(&[0x01], b"localhost");
    // content-type is number 31: 15 and 16 more.
    literal(&[0x0f, 16], b"application/grpc");
    literal(b"\0\x02te", b"trailers");
    block
}

/// One connection.
#[derive(Clone, Debug)]
pub struct EtcdWire {
    headers: Vec<u8>,
    stream: u32,
    tag: u32,
    has_message: bool,
}

impl Default for EtcdWire {
    fn default() -> EtcdWire {
        EtcdWire { headers: header_block(), stream: 1, tag: 0, has_message: false }
    }
}

fn frame(out: &mut &mut [u8], kind: u8, flags: u8, stream: u32, payload: &[&[u8]]) {
    let bytes: usize = payload.iter().map(|part| part.len()).sum();
    let fits = "request_bytes_max counted it";
    let length = u32::try_from(bytes).expect("a frame is short").to_be_bytes();
    out.write_all(&length[1..]).expect(fits);
    out.write_all(&[kind, flags]).expect(fits);
    out.write_all(&stream.to_be_bytes()).expect(fits);
    payload.iter().for_each(|part| out.write_all(part).expect(fits));
}

/// Protobuf's numbers; the bytes used.
fn varint(mut number: usize, out: &mut [u8; 4]) -> usize {
    let mut used = 0;
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        out[used] = if number == 0 { low } else { low | 0x80 };
        used += 1;
        if number == 0 {
            return used;
        }
    }
}

/// Length, type, flags of a frame that begins so; `None` when less than its head is there.
fn head(input: &[u8]) -> Option<(usize, u8, u8)> {
    let head = input.first_chunk::<FRAME_HEAD_BYTES>()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    Some((length, head[3], head[4]))
}

impl Wire for EtcdWire {
    fn open(&mut self, out: &mut [u8]) -> usize {
        let room = out.len();
        let mut rest = out;
        rest.write_all(PREFACE).expect("a page holds it");
        // SETTINGS_INITIAL_WINDOW_SIZE
        frame(&mut rest, SETTINGS, 0, 0, &[&[0, 4], &WINDOW.to_be_bytes()]);
        frame(&mut rest, WINDOW_UPDATE, 0, 0, &[&(WINDOW - WINDOW_FIRST).to_be_bytes()]);
        frame(&mut rest, SETTINGS, ACK, 0, &[]);
        room - rest.len()
    }

    fn opened(&mut self, input: &[u8]) -> Result<Option<usize>, WireError> {
        // Its settings, and that it has taken ours: everything that comes with them is taken, too.
        let (mut at, mut own, mut taken) = (0, false, false);
        while at < input.len() {
            let Some((length, kind, flags)) = head(&input[at..]) else { return Ok(None) };
            if at == 0 && kind != SETTINGS {
                return Err(WireError(format!(
                    "it begins with an HTTP/2 frame of type {kind}, not with settings"
                )));
            }
            let acknowledges = flags & ACK != 0;
            own |= kind == SETTINGS && !acknowledges;
            taken |= kind == SETTINGS && acknowledges;
            at += FRAME_HEAD_BYTES + length;
        }
        Ok((at == input.len() && own && taken).then_some(at))
    }

    fn request_bytes_max(&self, request: &Request<'_>) -> usize {
        CALL_BYTES + request.encoded_bytes()
    }

    fn request(&mut self, request: &Request<'_>, tag: u32, out: &mut [u8]) -> usize {
        let Request::Put(put) = request else {
            panic!("etcd is not asked for {:?}", request.operation());
        };
        (self.tag, self.has_message) = (tag, false);
        let room = out.len();
        let mut rest = out;
        frame(&mut rest, HEADERS, END_HEADERS, self.stream, &[&self.headers]);
        let mut time = [0; TIME_DIGITS + 1];
        write!(&mut time[..], ":{:0width$x}", put.key.time, width = TIME_DIGITS).expect("it fits");
        let (mut key_bytes, mut value_bytes) = ([0; 4], [0; 4]);
        let key_used = varint(put.key.stream.len() + time.len(), &mut key_bytes);
        let value_used = varint(put.value.len(), &mut value_bytes);
        let parts: [&[u8]; 7] = [
            &[0x0a],
            &key_bytes[..key_used],
            put.key.stream,
            &time,
            &[0x12],
            &value_bytes[..value_used],
            put.value,
        ];
        let message: usize = parts.iter().map(|part| part.len()).sum();
        let message = u32::try_from(message).expect("a put is small").to_be_bytes();
        let mut payload: [&[u8]; 9] = [&[0]; 9];
        payload[1] = &message;
        payload[2..].copy_from_slice(&parts);
        frame(&mut rest, DATA, END_STREAM, self.stream, &payload);
        self.stream += 2;
        room - rest.len()
    }

    fn next(&mut self, input: &[u8]) -> Result<Next, WireError> {
        let Some((length, kind, flags)) = head(input) else { return Ok(Next::Need(FRAME_HEAD_BYTES)) };
        let bytes = FRAME_HEAD_BYTES + length;
        if input.len() < bytes {
            return Ok(Next::Need(bytes));
        }
        let ends = match kind {
            DATA => {
                // Prefix and at least the response's header.
                self.has_message |= length > 5;
                flags & END_STREAM != 0
            }
            HEADERS => flags & END_STREAM != 0,
            RST_STREAM => {
                self.has_message = false;
                true
            }
            GOAWAY => return Err(WireError("it says goodbye".to_owned())),
            _ => false,
        };
        if !ends {
            return Ok(Next::Part(bytes));
        }
        let heard = if self.has_message { Heard::Outcome(OutcomeCode::Ok) } else { Heard::Failure };
        Ok(Next::Answer(Answered { tag: self.tag, heard, log_time: LogTime(0), hint_ms: 0 }, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::key::Key;
    use layout::units::{RequestId, Space};
    use net::request::Put;

    fn id() -> RequestId {
        RequestId { client: 1, log_time: 0, sequence: 1 }
    }

    #[test]
    fn a_put_is_two_frames_that_say_how_long_they_are() {
        let mut wire = EtcdWire::default();
        let key = Key { space: Space::DEFAULT, stream: b"s", time: 0xabc };
        let request = Request::Put(Put { id: id(), key, expiry: 0, value: &[7; 128] });
        let mut out = vec![0; wire.request_bytes_max(&request)];
        let bytes = wire.request(&request, 3, &mut out);
        let (length, kind, flags) = head(&out).unwrap();
        assert_eq!((kind, flags), (HEADERS, END_HEADERS));
        let data = &out[FRAME_HEAD_BYTES + length..bytes];
        let (length, kind, flags) = head(data).unwrap();
        assert_eq!((kind, flags, FRAME_HEAD_BYTES + length), (DATA, END_STREAM, data.len()));
        let message = &data[FRAME_HEAD_BYTES..];
        assert_eq!(message[..5], [0, 0, 0, 0, u8::try_from(length - 5).unwrap()]);
        assert_eq!(message[5..26], *b"\x0a\x12s:0000000000000abc\x12");
        assert_eq!(message[26..28], [0x80, 1], "128 in two bytes");
    }

    #[test]
    fn a_connection_is_open_when_both_know_the_settings_of_each_other() {
        let mut wire = EtcdWire::default();
        let own = [0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x40, 0];
        let update = [0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        let taken = [0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0];
        let all = [&own[..], &taken, &update].concat();
        assert_eq!(wire.opened(&all[..15]), Ok(None));
        assert_eq!(wire.opened(&all[..24]), Ok(Some(24)));
        assert_eq!(wire.opened(&all[..30]), Ok(None));
        assert_eq!(wire.opened(&all), Ok(Some(37)));
        assert!(wire.opened(&update).is_err());
    }

    #[test]
    fn only_a_message_and_an_end_are_an_answer() {
        let mut wire = EtcdWire::default();
        let ok = [&[0, 0, 0, HEADERS, END_HEADERS, 0, 0, 0, 1][..], &[0, 0, 7, DATA, 0, 0, 0, 0, 1], &[0; 7]]
            .concat();
        assert_eq!(wire.next(&ok), Ok(Next::Part(9)));
        assert_eq!(wire.next(&ok[9..20]), Ok(Next::Need(16)));
        assert_eq!(wire.next(&ok[9..]), Ok(Next::Part(16)));
        let end = [0, 0, 0, HEADERS, END_HEADERS | END_STREAM, 0, 0, 0, 1];
        let answer =
            |heard| Ok(Next::Answer(Answered { tag: 0, heard, log_time: LogTime(0), hint_ms: 0 }, 9));
        assert_eq!(wire.next(&end), answer(Heard::Outcome(OutcomeCode::Ok)));
        let mut wire = EtcdWire::default();
        assert_eq!(wire.next(&end), answer(Heard::Failure), "an end alone is a failure");
        assert!(wire.next(&[0, 0, 0, GOAWAY, 0, 0, 0, 0, 0]).is_err());
    }
}
