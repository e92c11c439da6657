//! Between the cores of a node: requests on their way to the core that owns the tablet, and answers on their way
//! back, as messages on the rings. A message is a kind, a destination and bytes.
//!
//! Room: a request is pushed only while few enough are on their way that all their small answers fit; an answer that
//! is larger than small is pushed only if it leaves that room. So a small answer always fits, and nobody waits for a
//! ring.

use crate::cluster;
use crate::connection::Connection;
use crate::core::Shard;
use crate::door::{self, Wrote};
use crate::gather::{self, NoPart};
use crate::reply::{ReplyTo, SMALL_REPLY_BYTES};
use ioengine::ring::{Receiver, Sender};
use layout::units::{LogTime, TabletIndex};
use net::frame::HEADER_BYTES;
use net::outcome::{Limit, Outcome};
use net::reply::encode_outcome;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A request's body, to the owner of its tablet.
    Request,
    /// A reply's frame, to the core that holds the connection.
    Reply,
    /// Keys of a multi-get, to the owner of their tablets.
    Part,
    /// Items of a multi-get, back.
    PartReply,
    /// There was no room for the items of a multi-get: ask again.
    PartBusy,
    /// The items of a multi-get are more than its answer can hold.
    PartTooLarge,
    /// A message of another node, to the owner of its tablet. Nothing comes back.
    Peer,
    /// This replica cannot say what is the newest of a part's keys.
    PartNotCurrent,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Request,
        Kind::Reply,
        Kind::Part,
        Kind::PartReply,
        Kind::PartBusy,
        Kind::PartTooLarge,
        Kind::Peer,
        Kind::PartNotCurrent,
    ];

    fn code(self) -> u8 {
        self as u8
    }

    fn from_code(code: u8) -> Kind {
        Kind::ALL[usize::from(code)]
    }
}

/// Bytes before a message's own: kind and destination.
const HEAD_BYTES: usize = 1 + ReplyTo::BYTES;
/// Bytes before a message of another node: kind, node, tablet and the message's own kind.
const PEER_HEAD_BYTES: usize = 1 + 4 + 1 + 1;
/// Bytes on a ring of a small answer, its length prefix included.
pub(crate) const SMALL_MESSAGE_BYTES: usize = 4 + HEAD_BYTES + SMALL_REPLY_BYTES;

struct Peer {
    sender: RefCell<Sender>,
    /// Requests of ours that it has not answered.
    in_flight: Cell<u32>,
}

/// The other cores of the node.
#[derive(Default)]
pub(crate) struct Peers {
    peers: Vec<Option<Peer>>,
    scratch: RefCell<Vec<u8>>,
}

impl Peers {
    pub(crate) fn new(senders: Vec<Option<Sender>>, scratch_bytes: usize) -> Peers {
        let peers = senders
            .into_iter()
            .map(|sender| sender.map(|sender| Peer { sender: RefCell::new(sender), in_flight: Cell::new(0) }))
            .collect();
        Peers { peers, scratch: RefCell::new(vec![0; scratch_bytes]) }
    }

    fn peer(&self, core: u16) -> &Peer {
        self.peers[usize::from(core)].as_ref().expect("a core has no ring to itself")
    }

    /// Send a request to `core`. False, and nothing sent, when too much is on its way.
    pub(crate) fn ask(&self, shard: &Shard, core: u16, kind: Kind, to: &ReplyTo, parts: &[&[u8]]) -> bool {
        let sent = self.ask_within(shard.limits.forward_count_max, core, kind, to, parts);
        shard.counters.forwarded.add(u64::from(sent));
        sent
    }

    /// As [`Peers::ask`], for any node whose cores have at most so many requests on their way to each other.
    pub(crate) fn ask_within(
        &self,
        forward_count_max: u32,
        core: u16,
        kind: Kind,
        to: &ReplyTo,
        parts: &[&[u8]],
    ) -> bool {
        let peer = self.peer(core);
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if peer.in_flight.get() >= forward_count_max || !peer.has_room(forward_count_max, bytes) {
            return false;
        }
        peer.push(kind, to, parts);
        peer.in_flight.set(peer.in_flight.get() + 1);
        true
    }

    /// Send a message that is always small enough: a small answer.
    pub(crate) fn tell(&self, core: u16, kind: Kind, to: &ReplyTo, bytes: &[u8]) {
        assert!(bytes.len() <= SMALL_REPLY_BYTES, "small messages are small");
        self.peer(core).push(kind, to, &[bytes]);
    }

    /// Pass a message of node `from` on to `core`, which owns its tablet. False, and nothing sent, when its ring has no room.
    pub(crate) fn relay(
        &self,
        shard: &Shard,
        core: u16,
        from: u32,
        tablet: TabletIndex,
        kind: u8,
        body: &[u8],
    ) -> bool {
        let peer = self.peer(core);
        // No destination: nothing comes back, and so nothing is reserved for an answer.
        let mut head = [0; PEER_HEAD_BYTES];
        head[0] = Kind::Peer.code();
        head[1..5].copy_from_slice(&from.to_le_bytes());
        head[5..].copy_from_slice(&[tablet.get(), kind]);
        peer.has_room(shard.limits.forward_count_max, PEER_HEAD_BYTES + body.len())
            && peer.sender.borrow_mut().push(&[&head, body])
    }

    /// `core` has answered one of ours.
    pub(crate) fn answered(&self, core: u16) {
        let peer = self.peer(core);
        assert!(peer.in_flight.get() > 0, "an answer follows its request");
        peer.in_flight.set(peer.in_flight.get() - 1);
    }

    /// Encode an answer for `core` of at most `bytes_max` and send it.
    pub(crate) fn answer(
        &self,
        shard: &Shard,
        core: u16,
        kind: Kind,
        to: &ReplyTo,
        bytes_max: usize,
        encode: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Wrote {
        self.answer_within((shard.limits.forward_count_max, bytes_max), core, kind, to, encode)
    }

    /// As [`Peers::answer`], for any node whose cores have at most so many requests on their way to each other.
    pub(crate) fn answer_within(
        &self,
        (forward_count_max, bytes_max): (u32, usize),
        core: u16,
        kind: Kind,
        to: &ReplyTo,
        encode: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Wrote {
        let peer = self.peer(core);
        let mut scratch = self.scratch.borrow_mut();
        if bytes_max > scratch.len() || !peer.has_room(forward_count_max, bytes_max) {
            return Wrote::NoRoom;
        }
        let Some(bytes) = encode(&mut scratch[..bytes_max]) else { return Wrote::Nothing };
        peer.push(kind, to, &[&scratch[..bytes]]);
        Wrote::Done
    }
}

impl Peer {
    /// Room for `bytes` beside the small answers to everything the peer may have asked.
    fn has_room(&self, forward_count_max: u32, bytes: usize) -> bool {
        let reserved = forward_count_max as usize * SMALL_MESSAGE_BYTES;
        self.sender.borrow().has_room(HEAD_BYTES + bytes + reserved)
    }

    fn push(&self, kind: Kind, to: &ReplyTo, parts: &[&[u8]]) {
        let mut head = [0; HEAD_BYTES];
        head[0] = kind.code();
        head[1..].copy_from_slice(&to.to_bytes());
        let mut all: [&[u8]; 4] = [&[]; 4];
        all[0] = &head;
        all[1..=parts.len()].copy_from_slice(parts);
        let mut sender = self.sender.borrow_mut();
        assert!(
            sender.push(&all[..=parts.len()]) || sender.is_abandoned(),
            "room was checked, or is kept for small answers"
        );
    }
}

/// Kind, destination and bytes of a message that has a destination.
pub(crate) fn parted(message: &[u8]) -> (Kind, ReplyTo, &[u8]) {
    let (head, bytes) = message.split_first_chunk::<HEAD_BYTES>().expect("messages have a head");
    let to = ReplyTo::from_bytes(head[1..].try_into().expect("the rest of the head"));
    (Kind::from_code(head[0]), to, bytes)
}

/// Receive from one other core until this one ends.
pub(crate) async fn receive(shard: Rc<Shard>, core: u16, mut receiver: Receiver) {
    let mut scratch = Vec::with_capacity(shard.limits.frame_bytes_max as usize + 4096);
    loop {
        receiver.ready().await;
        // A bounded number per turn: connections want their turn too.
        for _ in 0..256 {
            let handled = receiver.pop(&mut scratch, |message| handle(&shard, core, message));
            if handled.is_none() {
                break;
            }
        }
        ioengine::sync::yield_now().await;
    }
}

fn handle(shard: &Rc<Shard>, core: u16, message: &[u8]) {
    let kind = Kind::from_code(*message.first().expect("messages have a kind"));
    if kind == Kind::Peer {
        let (head, body) = message.split_first_chunk::<PEER_HEAD_BYTES>().expect("they have their head");
        let from = u32::from_le_bytes(head[1..5].try_into().expect("4 bytes"));
        let tablet = TabletIndex::new(head[5]).expect("rings carry what this process put on them");
        return cluster::deliver(shard, from, tablet, head[6], body);
    }
    let (_, to, bytes) = parted(message);
    match kind {
        Kind::Request => door::serve_forwarded(shard, &to, bytes),
        Kind::Part => gather::serve_part(shard, &to, bytes),
        Kind::Reply => {
            shard.peers.answered(core);
            if let Some(connection) = shard.connections.find(&to) {
                pass_on(shard, &connection, &to, bytes);
            }
        }
        Kind::PartReply => {
            shard.peers.answered(core);
            gather::take_part(shard, &to, Ok(bytes));
        }
        Kind::PartBusy => {
            shard.peers.answered(core);
            gather::take_part(shard, &to, Err(NoPart::Busy));
        }
        Kind::PartTooLarge => {
            shard.peers.answered(core);
            gather::take_part(shard, &to, Err(NoPart::TooLarge));
        }
        Kind::Peer => unreachable!("taken above"),
        Kind::PartNotCurrent => {
            shard.peers.answered(core);
            gather::take_part(shard, &to, Err(NoPart::NotCurrent));
        }
    }
}

/// A reply's frame from another core goes to its connection as it is.
fn pass_on(shard: &Shard, connection: &Connection, to: &ReplyTo, frame: &[u8]) {
    let mut outbox = connection.outbox.borrow_mut();
    outbox.release();
    assert!(frame.len() <= HEADER_BYTES + to.frame_bytes as usize, "the other core knows what was agreed");
    if outbox.make_room(&shard.io, frame.len()) {
        outbox.room()[..frame.len()].copy_from_slice(frame);
        outbox.advance(frame.len());
    } else {
        ioengine::sometimes!("a passed-on answer finds no room");
        shard.counters.replies_refused.add(1);
        let busy = Outcome::Busy { limit: Limit::ReplyBuffers, hint_ms: 20 };
        let epoch = shard.facts.map_epoch();
        let bytes = to.frame(epoch, outbox.room(), |out| encode_outcome(out, LogTime(0), &busy));
        outbox.advance(bytes);
    }
    drop(outbox);
    connection.answered(shard);
    connection.wake_writer();
}
