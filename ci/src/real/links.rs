//! The ways between the nodes: a proxy from each node to each other one, so that what goes from one to the other can be held up.
//!
//! Must never lose or change a byte of a connection that goes on: bytes wait, as behind a network that drops packets and a sender
//! that sends them again. Invariant: while a way is cut, nothing passes it, on connections of either side.

use super::RealError;
use ioengine::{Io, Queue, Stream, stream::Listener};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Bytes that a pump takes at once.
const PIECE_BYTES: usize = 16 << 10;
/// How often a pump that is held up looks again.
const LOOK: Duration = Duration::from_millis(5);

/// Which ways are cut, from one node to another.
pub(super) struct Cuts {
    nodes: usize,
    ways: Vec<Cell<bool>>,
    /// Raised when connections that were held up shall end in place of going on.
    resets: Cell<u64>,
}

impl Cuts {
    pub(super) fn none(nodes: usize) -> Rc<Cuts> {
        let ways = (0..nodes * nodes).map(|_| Cell::new(false)).collect();
        Rc::new(Cuts { nodes, ways, resets: Cell::new(0) })
    }

    /// Nothing passes from `from` to `to` from now on, or all of it again.
    pub(super) fn set(&self, from: usize, to: usize, cut: bool) {
        self.ways[from * self.nodes + to].set(cut);
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.ways[from * self.nodes + to].get()
    }

    /// All ways are open; connections that were held up go on, or end.
    pub(super) fn heal(&self, reset: bool) {
        self.resets.set(self.resets.get() + u64::from(reset));
        self.ways.iter().for_each(|way| way.set(false));
    }
}

/// Listens for `from` in place of `to`; where, for the map of `from`.
pub(super) fn proxy(
    io: &Io,
    cuts: &Rc<Cuts>,
    (from, to): (usize, usize),
    address: SocketAddr,
) -> Result<SocketAddr, RealError> {
    let any = SocketAddr::new(address.ip(), 0);
    let listener = io.listen(any).map_err(|error| RealError::Tool(error.to_string()))?;
    let at = listener.address();
    io.spawn(Queue::Foreground, accept(io.clone(), listener, Rc::clone(cuts), (from, to), address));
    Ok(at)
}

async fn accept(io: Io, listener: Listener, cuts: Rc<Cuts>, way: (usize, usize), address: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(near) => io.spawn(Queue::Foreground, carry(io.clone(), near, Rc::clone(&cuts), way, address)),
            Err(_) => io.sleep(LOOK).await,
        }
    }
}

async fn carry(io: Io, near: Stream, cuts: Rc<Cuts>, (from, to): (usize, usize), address: SocketAddr) {
    // Its connect would not be answered either.
    while cuts.is_cut(from, to) || cuts.is_cut(to, from) {
        io.sleep(LOOK).await;
    }
    let Ok(far) = io.connect(address).await else { return };
    let (near, far) = (Rc::new(near), Rc::new(far));
    let back = pump(io.clone(), Rc::clone(&far), Rc::clone(&near), Rc::clone(&cuts), (to, from));
    io.spawn(Queue::Foreground, back);
    pump(io.clone(), near, far, cuts, (from, to)).await;
}

async fn pump(io: Io, source: Rc<Stream>, sink: Rc<Stream>, cuts: Rc<Cuts>, (from, to): (usize, usize)) {
    let mut buffer = io.buffer(PIECE_BYTES);
    while let Some(piece) = buffer.take() {
        let (received, piece) = source.receive(piece, 0..PIECE_BYTES).await;
        let Ok(count @ 1..) = received else { break };
        let resets = cuts.resets.get();
        while cuts.is_cut(from, to) {
            io.sleep(LOOK).await;
        }
        if cuts.resets.get() != resets {
            break;
        }
        let (sent, piece) = sink.send(piece, 0..count).await;
        if sent.is_err() {
            break;
        }
        buffer = Some(piece);
    }
    source.shutdown();
    sink.shutdown();
}
