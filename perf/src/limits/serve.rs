//! The servers themselves. One task per connection, one receive and one send at a time: the least that can be done.

use super::Answers;
use ioengine::sync::{Either, race};
use ioengine::{Io, Queue, Stream};
use layout::units::{LogIndex, LogTime, Version};
use net::frame::{BODY_BYTES_MAX, HEADER_BYTES, next_frame, seal};
use net::operation::REPLY_BIT;
use net::reply::{
    HelloReply, RecordsWriter, encode_get_ok, encode_hello, encode_written, reply_bytes_get_ok,
    reply_bytes_hello, reply_bytes_record, reply_bytes_records, reply_bytes_written,
};
use net::request::Request;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// What a connection receives at once.
const RECEIVE_BYTES: usize = 64 << 10;
/// Answers are at most this much longer than their requests: 4 times with a record of 128 bytes.
const GROWTH: usize = 4;
/// How often the server looks whether it shall end.
const POLL: Duration = Duration::from_millis(100);

pub(super) async fn run(
    io: Io,
    answers: Answers,
    ends: Arc<AtomicBool>,
    report: Sender<Result<SocketAddr, String>>,
) {
    let listener = match io.listen(SocketAddr::from(([127, 0, 0, 1], 0))) {
        Ok(listener) => listener,
        Err(error) => return drop(report.send(Err(error.to_string()))),
    };
    // Whoever started it waits for this.
    let _ = report.send(Ok(listener.address()));
    let mut accept = std::pin::pin!(listener.accept());
    // Relaxed: the flag carries nothing else.
    while !ends.load(Ordering::Relaxed) {
        match race(accept.as_mut(), io.sleep(POLL)).await {
            Either::First(Ok(stream)) => {
                let of_task = io.clone();
                io.spawn(Queue::Foreground, async move {
                    match answers {
                        Answers::Same => echo(&of_task, &stream).await,
                        Answers::Record(bytes) => answer(&of_task, &stream, bytes).await,
                    };
                });
            }
            Either::First(Err(_)) => io.sleep(POLL).await,
            Either::Second(()) => continue,
        }
        accept.set(listener.accept());
    }
}

/// Bytes back as they came, until the far end goes.
async fn echo(io: &Io, stream: &Stream) -> Option<()> {
    let mut buffer = io.buffer(RECEIVE_BYTES)?;
    loop {
        let end = buffer.len();
        let (result, back) = stream.receive(buffer, 0..end).await;
        let count = result.ok().filter(|&count| count > 0)?;
        let (result, back) = stream.send(back, 0..count).await;
        result.ok()?;
        buffer = back;
    }
}

/// Frames cut, checked and decoded; each answered with the same record, or as a write that was done.
async fn answer(io: &Io, stream: &Stream, value_bytes: usize) -> Option<()> {
    let value = vec![b'v'; value_bytes];
    let mut input = io.buffer(RECEIVE_BYTES)?;
    let mut out = io.buffer(GROWTH * RECEIVE_BYTES)?;
    let mut filled = 0;
    loop {
        let end = input.len();
        let (result, back) = stream.receive(input, filled..end).await;
        input = back;
        filled += result.ok().filter(|&count| count > 0)?;
        let (mut at, mut bytes) = (0, 0);
        while let Some(frame) = next_frame(&input[at..filled], BODY_BYTES_MAX).ok()? {
            let request = Request::decode(frame.header.operation, frame.body).ok()?;
            let head = bytes + HEADER_BYTES;
            let body = match request {
                Request::Hello(hello) => {
                    let reply = HelloReply {
                        protocol: 1,
                        frame_bytes: hello.frame_bytes,
                        in_flight: hello.in_flight,
                        node: 1,
                        features: 0,
                        cluster: hello.cluster,
                        incarnation: 1,
                        map_epoch: 1,
                        idle_ms: 0,
                    };
                    encode_hello(&mut out[head..head + reply_bytes_hello()], &reply)
                }
                Request::Get(_) => {
                    let room = &mut out[head..head + reply_bytes_get_ok(value_bytes)];
                    encode_get_ok(room, LogTime(1), Version(1), 0, &value)
                }
                Request::Scan(_) | Request::Head(_) => {
                    let bytes = reply_bytes_records() + reply_bytes_record(value_bytes);
                    let room = &mut out[head..head + bytes];
                    let mut records = RecordsWriter::new(room, LogTime(1), LogIndex(1));
                    assert!(records.push(1, Version(1), 0, &value), "room for one was made");
                    records.finish(None)
                }
                _ => encode_written(
                    &mut out[head..head + reply_bytes_written()],
                    LogTime(1),
                    Version(1),
                    false,
                ),
            };
            let code = frame.header.operation.code() | REPLY_BIT;
            seal(&mut out[bytes..head + body], code, frame.header.request, 1);
            bytes = head + body;
            at += frame.consumed;
        }
        input.copy_within(at..filled, 0);
        filled -= at;
        if bytes > 0 {
            let (result, back) = stream.send(out, 0..bytes).await;
            result.ok()?;
            out = back;
        }
    }
}
