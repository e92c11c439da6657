//! Operations and buffers: 8–12.

use crate::env::{
    ARENA_BYTES, Done, Env, OPERATION_COUNT_MAX, eventually, filled, holds, is_filled, poll_once,
};
use ioengine::buffer::BUFFER_BYTES_MAX;
use ioengine::sync::yield_now;
use ioengine::{Io, Queue};
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// 9: many at once, each with the bytes of its own place.
pub(crate) async fn completions_find_their_operations(io: Io, env: Env) {
    let disk = Rc::new(env.disk(&io));
    for number in 0..32 {
        let (result, _) = disk.write(filled(&io, 4096, number), number * 4096, 4096).await;
        result.unwrap();
    }
    let done = Done::default();
    for number in 0..200 {
        let (io, disk, done) = (io.clone(), Rc::clone(&disk), done.clone());
        io.clone().spawn(Queue::Foreground, async move {
            let place = number * 7 % 32;
            assert!(holds(&io, &disk, place * 4096, 4096, place).await, "bytes of another place");
            done.add();
        });
    }
    eventually(&io, "200 reads", || done.count() == 200).await;
    assert_eq!(io.operations_in_flight(), 0);
}

/// 8.
pub(crate) async fn a_dropped_write_still_lands(io: Io, env: Env) {
    let disk = env.disk(&io);
    {
        let mut write = pin!(disk.write(filled(&io, 65536, 8), 65536, 65536));
        poll_once(write.as_mut()).await;
    }
    assert!(io.arena_bytes().1 >= 65536, "the operation still owns its buffer");
    eventually(&io, "the write's completion", || io.operations_in_flight() == 0).await;
    assert_eq!(io.arena_bytes().1, 0, "the buffer came back");
    assert!(holds(&io, &disk, 65536, 65536, 8).await);
}

/// 8: the bytes a dropped read still brings go to nobody else's buffer.
pub(crate) async fn a_dropped_read_keeps_its_buffer(io: Io, env: Env) {
    let disk = env.disk(&io);
    disk.write(filled(&io, 4096, 3), 0, 4096).await.0.unwrap();
    let mut taken: Vec<_> = std::iter::from_fn(|| io.buffer(4096)).collect();
    for _ in 0..20 {
        let buffer = taken.pop().expect("one to read into");
        {
            let mut read = pin!(disk.read(buffer, 0, 4096));
            assert!(poll_once(read.as_mut()).await.is_none(), "a completion cannot have been seen yet");
        }
        assert!(io.buffer(4096).is_none(), "handed out while the disk may still write to it");
        eventually(&io, "the read's completion", || io.operations_in_flight() == 0).await;
        taken.push(io.buffer(4096).expect("free again"));
    }
}

/// 10: also when one of those waiting goes away, and when a newcomer asks while a slot is free.
pub(crate) async fn operations_beyond_the_slots_wait_in_order(io: Io, env: Env) {
    let disk = Rc::new(env.disk(&io));
    let listener = Rc::new(io.listen(env.listen).unwrap());
    // All slots but one wait for somebody to connect, so that one operation runs at a time.
    let endless: Vec<_> = (1..OPERATION_COUNT_MAX)
        .map(|_| {
            let listener = Rc::clone(&listener);
            Box::pin(async move { drop(listener.accept().await) })
        })
        .collect();
    let mut endless = endless;
    for accept in &mut endless {
        assert!(poll_once(accept.as_mut()).await.is_none());
    }
    assert_eq!(io.operations_in_flight(), OPERATION_COUNT_MAX - 1);
    let (asked, order) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(Vec::new())));
    for number in 0..40 {
        let (io, disk, asked, order) = (io.clone(), Rc::clone(&disk), Rc::clone(&asked), Rc::clone(&order));
        io.clone().spawn(Queue::Foreground, async move {
            let read = disk.read(io.buffer(4096).unwrap(), 4096 * number, 4096);
            if number % 5 == 4 {
                // Gone before its turn.
                let mut read = pin!(read);
                poll_once(read.as_mut()).await;
                return;
            }
            asked.borrow_mut().push(number);
            read.await.0.unwrap();
            order.borrow_mut().push(number);
        });
    }
    eventually(&io, "32 reads, one after the other", || order.borrow().len() == 32).await;
    assert_eq!(*order.borrow(), *asked.borrow());
    drop(endless);
    eventually(&io, "the cancelled accepts", || io.operations_in_flight() == 0).await;
}

/// 11.
pub(crate) async fn an_empty_arena_answers_none(io: Io, _env: Env) {
    let (bytes, taken) = io.arena_bytes();
    assert_eq!((bytes, taken), (ARENA_BYTES, 0));
    let all: Vec<_> = std::iter::from_fn(|| io.buffer(4096)).collect();
    assert_eq!(all.len(), ARENA_BYTES / 4096);
    assert!(io.buffer(1).is_none());
    drop(all);
    assert_eq!(io.arena_bytes().1, 0);
    assert!(io.buffer(ARENA_BYTES).is_some(), "all of it as one again");
    assert!(io.buffer(BUFFER_BYTES_MAX + 1).is_none());
}

/// 11.
pub(crate) async fn buffers_are_aligned_powers_of_two(io: Io, _env: Env) {
    for (asked, given) in [(1, 4096), (4096, 4096), (4097, 8192), (100_000, 131_072), (1 << 20, 1 << 20)] {
        let buffer = io.buffer(asked).unwrap();
        assert_eq!(buffer.len(), given);
        assert!((buffer.as_ptr() as usize).is_multiple_of(4096));
    }
}

/// 12: the connecting side sees an end, whether the accept had already completed or not.
pub(crate) async fn an_abandoned_accept_closes_its_stream(io: Io, env: Env) {
    for wait in [0, 5] {
        let listener = io.listen(env.listen).unwrap();
        let mut accept = Box::pin(listener.accept());
        assert!(poll_once(accept.as_mut()).await.is_none());
        let stream = io.connect(listener.address()).await.unwrap();
        io.sleep(Duration::from_millis(wait)).await;
        drop(accept);
        // One that was not accepted at all ends with the listener.
        drop(listener);
        let (result, _) = stream.receive(io.buffer(4096).unwrap(), 0..4096).await;
        assert!(result.is_err() || result.is_ok_and(|count| count == 0));
        drop(stream);
        eventually(&io, "everything completed", || io.operations_in_flight() == 0).await;
    }
}

/// 12.
pub(crate) async fn an_abandoned_connect_closes_its_stream(io: Io, env: Env) {
    let listener = io.listen(env.listen).unwrap();
    for wait in [0, 5] {
        let mut connect = Box::pin(io.connect(listener.address()));
        assert!(poll_once(connect.as_mut()).await.is_none());
        if wait > 0 {
            io.sleep(Duration::from_millis(wait)).await;
        }
        drop(connect);
        // Cancelled before it left, or connected and closed: then the far end sees that.
        if let Ok(stream) = io.timeout(Duration::from_millis(50), listener.accept()).await {
            let (result, _) = stream.unwrap().receive(io.buffer(4096).unwrap(), 0..4096).await;
            assert!(result.is_err() || result.is_ok_and(|count| count == 0));
        }
        for _ in 0..3 {
            yield_now().await;
        }
        eventually(&io, "everything completed", || io.operations_in_flight() == 0).await;
    }
    assert!(!is_filled(&[1; 8], 0), "the pattern tells zeros and ones from its own bytes");
}
