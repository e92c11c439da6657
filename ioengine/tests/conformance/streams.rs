//! Streams: 21–25.

use crate::env::{Done, Env, eventually, fill, is_filled, poll_once};
use ioengine::{Buf, Io, Queue, Stream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

async fn pair(io: &Io, env: &Env) -> (Stream, Stream) {
    let listener = io.listen(env.listen).unwrap();
    let near = io.connect(listener.address()).await.unwrap();
    let far = listener.accept().await.unwrap();
    (near, far)
}

fn ended(result: Result<usize, ioengine::NetError>) -> bool {
    result.map_or(true, |count| count == 0)
}

/// The byte at `place` of the streams below.
fn byte(place: usize, seed: usize) -> u8 {
    let word = (place / 8 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.to_le_bytes()[place % 8]
}

async fn send_all(stream: &Stream, mut buffer: Buf, total: usize, seed: usize) {
    let mut sent = 0;
    while sent < total {
        let bytes = (1 + sent * 31 % buffer.len()).min(total - sent);
        for (at, byte_at) in buffer[..bytes].iter_mut().enumerate() {
            *byte_at = byte(sent + at, seed);
        }
        let (result, back) = stream.send(buffer, 0..bytes).await;
        result.unwrap();
        buffer = back;
        sent += bytes;
    }
}

async fn receive_all(stream: &Stream, mut buffer: Buf, total: usize, seed: usize) {
    let mut received = 0;
    while received < total {
        let room = 1 + received * 17 % (buffer.len() - 1);
        let (result, back) = stream.receive(buffer, 1..1 + room).await;
        let count = result.unwrap();
        assert!(count > 0 && count <= room, "at least one byte, at most what was asked for");
        for (at, &found) in back[1..1 + count].iter().enumerate() {
            assert_eq!(found, byte(received + at, seed), "place {}", received + at);
        }
        received += count;
        buffer = back;
    }
    assert_eq!(received, total);
}

/// 21, 22: both directions at once, in pieces of all sizes.
pub(crate) async fn bytes_arrive_in_order_and_once(io: Io, env: Env) {
    let (near, far) = pair(&io, &env).await;
    let done = Done::default();
    const TOTAL: usize = 3 << 20;
    let streams = [Rc::new(near), Rc::new(far)];
    for end in 0..2 {
        let (from, to) = (Rc::clone(&streams[end]), Rc::clone(&streams[1 - end]));
        let (out, into) = (io.buffer(100_000).unwrap(), io.buffer(100_000).unwrap());
        let done_sending = done.clone();
        io.spawn(Queue::Foreground, async move {
            send_all(&from, out, TOTAL, end).await;
            done_sending.add();
        });
        let done_receiving = done.clone();
        io.spawn(Queue::Foreground, async move {
            receive_all(&to, into, TOTAL, end).await;
            done_receiving.add();
        });
    }
    eventually(&io, "both directions", || done.count() == 4).await;
}

/// 22.
pub(crate) async fn a_closed_stream_is_read_to_its_end(io: Io, env: Env) {
    let (near, far) = pair(&io, &env).await;
    send_all(&near, io.buffer(4096).unwrap(), 10_000, 0).await;
    drop(near);
    receive_all(&far, io.buffer(4096).unwrap(), 10_000, 0).await;
    let (result, buffer) = far.receive(io.buffer(4096).unwrap(), 0..4096).await;
    assert_eq!(result.unwrap(), 0);
    let (result, _) = far.receive(buffer, 0..4096).await;
    assert!(ended(result), "it stays at its end");
}

/// 22.
pub(crate) async fn sending_does_not_wait_for_the_reader(io: Io, env: Env) {
    let (near, far) = pair(&io, &env).await;
    send_all(&near, io.buffer(4096).unwrap(), 5000, 5).await;
    receive_all(&far, io.buffer(4096).unwrap(), 5000, 5).await;
}

/// 23.
pub(crate) async fn shutdown_ends_a_waiting_receive(io: Io, env: Env) {
    let (near, far) = pair(&io, &env).await;
    let near = Rc::new(near);
    let done = Done::default();
    let (stream, buffer, ends) = (Rc::clone(&near), io.buffer(4096).unwrap(), done.clone());
    io.spawn(Queue::Foreground, async move {
        let (result, _) = stream.receive(buffer, 0..4096).await;
        assert!(ended(result));
        ends.add();
    });
    io.sleep(Duration::from_millis(2)).await;
    assert_eq!(done.count(), 0, "nothing was sent");
    near.shutdown();
    near.shutdown();
    eventually(&io, "the receive's end", || done.count() == 1).await;
    let (result, _) = far.receive(io.buffer(4096).unwrap(), 0..4096).await;
    assert!(ended(result), "the far end sees it too");
    let (result, _) = near.send(io.buffer(4096).unwrap(), 0..10).await;
    assert!(result.is_err(), "nothing goes out after a shutdown");
}

/// 23.
pub(crate) async fn shutdown_ends_a_blocked_send(io: Io, env: Env) {
    let (near, _far) = pair(&io, &env).await;
    let near = Rc::new(near);
    let (stream, done) = (Rc::clone(&near), Done::default());
    let (sends, ends, mut buffer) = (done.clone(), Done::default(), io.buffer(1 << 20).unwrap());
    let has_ended = ends.clone();
    io.spawn(Queue::Foreground, async move {
        // Nobody reads: at some point it goes no further.
        loop {
            let (result, back) = stream.send(buffer, 0..1 << 20).await;
            buffer = back;
            if result.is_err() {
                break;
            }
            sends.add();
        }
        ends.add();
    });
    let mut before = usize::MAX;
    while done.count() != before {
        before = done.count();
        io.sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((has_ended.count(), io.operations_in_flight()), (0, 1), "blocked");
    near.shutdown();
    eventually(&io, "the send's end", || has_ended.count() == 1).await;
}

/// 8, 23: a descriptor may go only when nothing is in flight on it; the abandoned receive still owns its buffer.
pub(crate) async fn dropping_a_stream_ends_its_operations(io: Io, env: Env) {
    let (near, far) = pair(&io, &env).await;
    {
        let mut receive = pin!(near.receive(io.buffer(4096).unwrap(), 0..4096));
        assert!(poll_once(receive.as_mut()).await.is_none());
    }
    assert_eq!(io.operations_in_flight(), 1);
    drop(near);
    eventually(&io, "the receive's end", || io.operations_in_flight() == 0).await;
    assert_eq!(io.arena_bytes().1, 0);
    let (result, _) = far.receive(io.buffer(4096).unwrap(), 0..4096).await;
    assert!(ended(result));
}

/// Addresses of both ends.
pub(crate) async fn both_ends_know_their_peer(io: Io, env: Env) {
    let listener = io.listen(env.listen).unwrap();
    assert_ne!(listener.address().port(), 0);
    let near = io.connect(listener.address()).await.unwrap();
    let far = listener.accept().await.unwrap();
    assert_eq!(near.peer(), Some(listener.address()));
    assert_eq!(far.peer().map(|peer| peer.ip()), Some(listener.address().ip()));
}

/// 25.
pub(crate) async fn connecting_to_nobody_is_refused(io: Io, env: Env) {
    for _ in 0..5 {
        let error = io.connect(env.nobody).await.err().expect("nobody listens there");
        assert_eq!(error.errno.0, libc::ECONNREFUSED, "{error}");
        assert!(error.address.contains(&env.nobody.to_string()));
    }
    // The listener that was there is gone as well.
    let listener = io.listen(env.listen).unwrap();
    let address = listener.address();
    drop(io.connect(address).await.unwrap());
    drop(listener);
    assert!(io.connect(address).await.is_err());
}

/// 24.
pub(crate) async fn cores_share_an_address(io: Io, env: Env) {
    const STREAM_COUNT: usize = 40;
    let listener = io.listen(env.listen).unwrap();
    let address = listener.address();
    let accepted = Arc::new(AtomicUsize::new(0));
    let ready = Arc::new(OnceLock::new());
    let (theirs, is_ready) = (Arc::clone(&accepted), Arc::clone(&ready));
    env.launch(1, move |io| async move {
        let listener = io.listen(address).unwrap();
        is_ready.set(()).unwrap();
        serve(&io, listener, &theirs, STREAM_COUNT, 1).await;
    });
    eventually(&io, "the other core's listener", || ready.get().is_some()).await;
    let ours = Arc::clone(&accepted);
    let serving = io.clone();
    io.spawn(Queue::Foreground, async move { serve(&serving, listener, &ours, STREAM_COUNT, 0).await });
    let mut by_core = [0; 2];
    for _ in 0..STREAM_COUNT {
        let stream = io.connect(address).await.unwrap();
        let (result, buffer) = stream.receive(io.buffer(4096).unwrap(), 0..4096).await;
        assert_eq!(result.unwrap(), 1, "one core answers, once");
        by_core[usize::from(buffer[0])] += 1;
        let (result, _) = stream.receive(buffer, 0..4096).await;
        assert!(ended(result));
    }
    assert_eq!(by_core[0] + by_core[1], STREAM_COUNT);
    eventually(&io, "every stream counted", || accepted.load(Ordering::SeqCst) == STREAM_COUNT).await;
}

/// Answer each stream with the core's number and close it, until `total` were accepted by all.
async fn serve(io: &Io, listener: ioengine::Listener, accepted: &AtomicUsize, total: usize, core: u8) {
    while accepted.load(Ordering::SeqCst) < total {
        let Ok(stream) = io.timeout(Duration::from_millis(5), listener.accept()).await else { continue };
        let stream = stream.unwrap();
        let mut buffer = io.buffer(4096).unwrap();
        buffer[0] = core;
        stream.send(buffer, 0..1).await.0.unwrap();
        accepted.fetch_add(1, Ordering::SeqCst);
    }
}

/// 23: descriptors and numbers are used again, for others.
pub(crate) async fn many_short_streams_leave_nothing_behind(io: Io, env: Env) {
    let listener = Rc::new(io.listen(env.listen).unwrap());
    let address = listener.address();
    let accepting = io.clone();
    io.spawn(Queue::Foreground, async move {
        loop {
            let stream = listener.accept().await.unwrap();
            let buffer = accepting.buffer(4096).unwrap();
            accepting.spawn(Queue::Foreground, async move {
                let (mut buffer, mut received) = (buffer, 0);
                while received < 64 {
                    let (result, back) = stream.receive(buffer, received..64).await;
                    let Ok(count @ 1..) = result else { return };
                    (buffer, received) = (back, received + count);
                }
                // The far end may be gone by now.
                let _ = stream.send(buffer, 0..64).await;
            });
        }
    });
    for round in 0..300_u64 {
        let stream = io.connect(address).await.unwrap();
        let mut buffer = io.buffer(4096).unwrap();
        fill(&mut buffer[..64], round);
        let (result, mut buffer) = stream.send(buffer, 0..64).await;
        result.unwrap();
        match round % 3 {
            0 => drop(stream),
            1 => {
                let mut receive = pin!(stream.receive(buffer, 0..64));
                poll_once(receive.as_mut()).await;
            }
            _ => {
                buffer[..64].fill(0);
                let (result, buffer) = stream.receive(buffer, 0..64).await;
                let count = result.unwrap();
                assert!(count > 0 && is_filled(&buffer[..count], round), "an answer to somebody else");
            }
        }
    }
    // Only the accept is left.
    eventually(&io, "every other operation's end", || io.operations_in_flight() == 1).await;
    assert_eq!(io.arena_bytes().1, 0);
}
