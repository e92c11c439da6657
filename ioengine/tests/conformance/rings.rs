//! Rings between cores: 26–28.

use crate::env::{Env, eventually};
use ioengine::Io;
use ioengine::ring::{MeshPort, Receiver, Sender, mesh};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn ends(port: MeshPort, io: &Io, peer: usize) -> (Sender, Receiver) {
    port.attach(io).remove(peer).expect("a ring to every peer")
}

fn message(number: usize) -> Vec<u8> {
    (0..number * 37 % 700).map(|at| (at * 31 + number).to_le_bytes()[0]).collect()
}

async fn push(io: &Io, sender: &mut Sender, parts: &[&[u8]]) {
    while !sender.push(parts) {
        io.sleep(Duration::from_micros(50)).await;
    }
}

/// 26: of many lengths, also none, in two parts, over a ring they wrap around many times.
pub(crate) async fn messages_arrive_once_in_order_and_whole(io: Io, env: Env) {
    const COUNT: usize = 3000;
    let mut ports = mesh(2, 2048);
    let (theirs, ours) = (ports.remove(1), ports.remove(0));
    env.launch(1, move |io| async move {
        let (mut sender, mut receiver) = ends(theirs, &io, 0);
        let mut scratch = Vec::new();
        for number in 0..COUNT {
            receiver.ready().await;
            let found = receiver.pop(&mut scratch, <[u8]>::to_vec).expect("ready said so");
            assert_eq!(found, message(number), "message {number}");
            push(&io, &mut sender, &[&found]).await;
        }
    });
    let (mut sender, mut receiver) = ends(ours, &io, 1);
    let (mut sent, mut received) = (0, 0);
    let mut scratch = Vec::new();
    while received < COUNT {
        while sent < COUNT {
            let bytes = message(sent);
            let (head, tail) = bytes.split_at(bytes.len() / 3);
            if !sender.push(&[head, tail]) {
                break;
            }
            sent += 1;
        }
        receiver.ready().await;
        while let Some(found) = receiver.pop(&mut scratch, <[u8]>::to_vec) {
            assert_eq!(found, message(received));
            received += 1;
        }
    }
    assert!(receiver.pop(&mut scratch, |_| ()).is_none());
}

/// 26.
pub(crate) async fn a_full_ring_refuses_and_changes_nothing(io: Io, env: Env) {
    let mut ports = mesh(2, 1000);
    let (theirs, ours) = (ports.remove(1), ports.remove(0));
    let total = Arc::new(AtomicUsize::new(usize::MAX));
    let go = Arc::clone(&total);
    env.launch(1, move |io| async move {
        let (mut sender, mut receiver) = ends(theirs, &io, 0);
        eventually(&io, "the full ring", || go.load(Ordering::SeqCst) != usize::MAX).await;
        let mut scratch = Vec::new();
        for number in 0..go.load(Ordering::SeqCst) {
            let found = receiver.pop(&mut scratch, <[u8]>::to_vec);
            assert_eq!(found, Some(vec![u8::try_from(number).unwrap(); 60]));
        }
        assert!(receiver.pop(&mut scratch, |_| ()).is_none(), "what was refused is not there");
        assert!(sender.push(&[b"done"]));
        receiver.ready().await;
        assert_eq!(receiver.pop(&mut scratch, <[u8]>::to_vec), Some(vec![9; 900]));
        assert!(sender.push(&[b"done"]));
    });
    let (mut sender, mut receiver) = ends(ours, &io, 1);
    let mut count = 0;
    while sender.push(&[&[u8::try_from(count).unwrap(); 60]]) {
        count += 1;
    }
    assert_eq!(count, 1000 / 64, "four bytes of length each");
    assert!(!sender.has_room(60) && !sender.push(&[&[0; 900]]));
    total.store(count, Ordering::SeqCst);
    let mut scratch = Vec::new();
    receiver.ready().await;
    receiver.pop(&mut scratch, |found| assert_eq!(found, b"done")).expect("ready said so");
    assert!(sender.has_room(900) && sender.push(&[&[9; 900]]), "room again, around the end");
    receiver.ready().await;
    receiver.pop(&mut scratch, |found| assert_eq!(found, b"done")).expect("ready said so");
}

/// 27, 28: both sides sleep between messages, and neither has a timer to wake it by chance.
pub(crate) async fn a_sleeping_peer_is_woken(io: Io, env: Env) {
    let mut ports = mesh(2, 4096);
    let (theirs, ours) = (ports.remove(1), ports.remove(0));
    env.launch(1, move |io| async move {
        let (mut sender, mut receiver) = ends(theirs, &io, 0);
        let mut scratch = Vec::new();
        let mut more = true;
        while more {
            receiver.ready().await;
            while let Some(word) = receiver.pop(&mut scratch, |found| found[0]) {
                assert!(sender.push(&[&[word]]));
                more = word != 255;
            }
        }
    });
    let (mut sender, mut receiver) = ends(ours, &io, 1);
    let mut scratch = Vec::new();
    for round in 0..200_u64 {
        if round % 10 == 0 {
            // Long enough for the peer to fall asleep; this core sleeps anyway while it waits for the echo.
            io.sleep(Duration::from_millis(2)).await;
        }
        let word = if round == 199 { 255 } else { 7 };
        assert!(sender.push(&[&[word], b"and more"]));
        receiver.ready().await;
        assert_eq!(receiver.pop(&mut scratch, |found| found.to_vec()), Some(vec![word]));
    }
}

/// 4: a core that has ended says so to its peers.
pub(crate) async fn the_end_of_a_core_abandons_its_rings(io: Io, env: Env) {
    let mut ports = mesh(2, 256);
    let (theirs, ours) = (ports.remove(1), ports.remove(0));
    env.launch(1, move |io| async move {
        let (_sender, mut receiver) = ends(theirs, &io, 0);
        receiver.ready().await;
        receiver.pop(&mut Vec::new(), |found| assert_eq!(found, b"end")).expect("ready said so");
    });
    let (mut sender, _receiver) = ends(ours, &io, 1);
    assert!(!sender.is_abandoned());
    assert!(sender.push(&[b"end"]));
    eventually(&io, "the end of the peer", || sender.is_abandoned()).await;
    // Ringing a bell that is gone does no harm.
    sender.push(&[b"anybody?"]);
    io.sleep(Duration::from_millis(1)).await;
}
