//! Connections that mean no good: garbage, half a frame and silence, a frame that claims four gigabytes, requests
//! before hello. Each does one thing and goes away after a while; nothing it does may harm the others.

use ioengine::sim::Random;
use ioengine::{Io, Queue};
use layout::key::Key;
use layout::units::{Space, Version};
use net::request::{Get, Request};
use net::session::append_frame;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Run until told to stop; `wanted` is how many connections to make.
pub(super) async fn run(
    io: Io,
    address: SocketAddr,
    wanted: Rc<Cell<u32>>,
    stop: Rc<Cell<bool>>,
    mut random: Random,
) {
    while !stop.get() {
        io.sleep(Duration::from_millis(20)).await;
        for _ in 0..wanted.replace(0) {
            let number = random.bits();
            io.spawn(Queue::Foreground, one(io.clone(), address, random.fork("hostile", number)));
        }
    }
}

async fn one(io: Io, address: SocketAddr, mut random: Random) {
    let Ok(Ok(stream)) = io.timeout(Duration::from_secs(2), io.connect(address)).await else { return };
    let bytes = message(&mut random);
    if let Some(mut buffer) = io.buffer(bytes.len().max(1)) {
        buffer[..bytes.len()].copy_from_slice(&bytes);
        if !bytes.is_empty() {
            let _gone = io.timeout(Duration::from_secs(2), stream.send(buffer, 0..bytes.len())).await;
        }
    }
    io.sleep(Duration::from_millis(random.below(6_000))).await;
}

fn message(random: &mut Random) -> Vec<u8> {
    let mut frame = Vec::new();
    let key = Key { space: Space(0), stream: b"hot-0", time: 0 };
    let get = Request::Get(Get { key, local: false, if_newer: Some(Version(1)), redirect: false });
    append_frame(&get, 1, 0, &mut frame);
    match random.below(6) {
        // Silence.
        0 => Vec::new(),
        1 => (0..random.below(4_000)).map(|_| random.bits() as u8).collect(),
        // A request before hello.
        2 => frame,
        // Half a frame.
        3 => {
            frame.truncate(1 + random.index(frame.len() - 1));
            frame
        }
        // One bit wrong anywhere.
        4 => {
            let at = random.index(frame.len());
            frame[at] ^= 1 << random.below(8);
            frame
        }
        // A header that claims 4 GiB, with a checksum that fits.
        _ => {
            frame[16..20].fill(0xff);
            let checksum = crc32fast::hash(&frame[..28]);
            frame[28..32].copy_from_slice(&checksum.to_le_bytes());
            frame
        }
    }
}
