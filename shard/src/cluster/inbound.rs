//! What comes from the other nodes of the group, on connections that they opened.
//!
//! Owns who is let in, and the way of a message to the core that owns its tablet: by a call on this core, over a ring to another.
//! Must never block: what finds no room on a ring is dropped and counted. Invariant: nothing is passed on from a connection
//! without an accepted hello (`disks.rs` says whose disk is taken), and no message of a tablet that its sender or this node does not hold.

use super::disks;
use crate::connection::Connection;
use crate::core::Shard;
use layout::units::LogTime;
use layout::units::TabletIndex;
use net::frame::{HEADER_BYTES, seal};
use net::operation::{Operation, REPLY_BIT};
use net::outcome::{Outcome, Why};
use net::peer::{
    HELLO_FRAME_BYTES, Message, PeerHello, PeerHelloReply, PeerSession, PeerStep, PeerVersions, Refusal,
    batch_answer,
};
use net::reply::encode_outcome;
use std::rc::Rc;

/// Who has called is let in, or told why not: then `None`.
pub(crate) fn greet(shard: &Rc<Shard>, connection: &Connection, hello: &PeerHello) -> Option<PeerSession> {
    if shard.facts.versions == PeerVersions::FIRST && hello.versions != PeerVersions::FIRST {
        say_it_is_wrong(shard, connection);
        return None;
    }
    let comes = &hello.introduction;
    let refusal = refusal(shard, hello).or_else(|| disks::meet(shard, hello.node, comes));
    let agreed = hello.frame_bytes.min(shard.limits.frame_bytes_max);
    let reply = PeerHelloReply {
        refusal,
        node: shard.facts.node,
        map_epoch: shard.facts.settings_epoch,
        frame_bytes: agreed,
        spoken: hello.spoken(shard.facts.versions).unwrap_or(PeerVersions::FIRST.newest()),
        known: shard.facts.disks.highest(hello.node),
        cluster: shard.facts.cluster,
        introduction: shard.facts.disks.introduction(),
    };
    let told = say(shard, connection, &reply.frame());
    if let Some(refusal) = refusal {
        if refusal.is_for_now() {
            return None;
        }
        ioengine::sometimes!("a node that calls is refused");
        shard.counters.peers_refused.add(1);
        let (node, cluster) = (hello.node, hello.cluster);
        if refusal.is_of_disk() {
            ioengine::sometimes!("a disk is refused");
            let (device, incarnation) = (comes.device, comes.incarnation.0);
            tracing::error!(node, %device, incarnation, %refusal, "a node that called was refused");
            return None;
        }
        tracing::warn!(node, %cluster, map_epoch = hello.map_epoch, ?refusal, "a node that called was refused");
        return None;
    }
    shard.facts.calls.add(hello.node);
    tracing::debug!(node = hello.node, incarnation = comes.incarnation.0, "a node called");
    told.then(|| PeerSession::new(hello.node, agreed, shard.turn_us.get()))
}

fn refusal(shard: &Shard, hello: &PeerHello) -> Option<Refusal> {
    let facts = &shard.facts;
    if let Some(map) = facts.group.map() {
        return hello.refusal(map, facts.node, facts.versions);
    }
    Some(match () {
        () if hello.spoken(facts.versions).is_none() => Refusal::Protocol,
        () if hello.cluster != facts.cluster => Refusal::Cluster,
        () if hello.to != facts.node => Refusal::Node,
        () => Refusal::Stranger,
    })
}

/// A build of the first version takes a range of versions for a mistake, and so does one that shall be as that.
fn say_it_is_wrong(shard: &Shard, connection: &Connection) {
    let outcome = Outcome::BadRequest { why: Why::Reserved, at: 60 };
    let mut frame = [0; 256];
    let bytes = HEADER_BYTES + encode_outcome(&mut frame[HEADER_BYTES..], LogTime(0), &outcome);
    seal(&mut frame[..bytes], Operation::PeerHello.code() | REPLY_BIT, 0, shard.facts.settings_epoch);
    say(shard, connection, &frame[..bytes]);
}

/// Answer with these bytes. False when there is no room for them.
fn say(shard: &Shard, connection: &Connection, bytes: &[u8]) -> bool {
    let mut outbox = connection.outbox.borrow_mut();
    let fits = outbox.make_room(&shard.io, bytes.len().max(HELLO_FRAME_BYTES));
    if fits {
        outbox.room()[..bytes.len()].copy_from_slice(bytes);
        outbox.advance(bytes.len());
    }
    drop(outbox);
    connection.wake_writer();
    fits
}

/// Walk through the batches that are there. Bytes taken, and bytes that the next one needs in all; `None` when the
/// connection ends.
pub(crate) fn walk(
    shard: &Rc<Shard>,
    connection: &Connection,
    peer: &mut PeerSession,
    input: &[u8],
) -> Option<(usize, usize)> {
    let mut at = 0;
    loop {
        match peer.next(shard.turn_us.get(), &input[at..]) {
            PeerStep::Need { bytes } => return Some((at, bytes)),
            PeerStep::Batch { messages, answer, consumed } => {
                shard.counters.peer_received_bytes.add(consumed as u64);
                for message in messages {
                    pass(shard, peer.node, &message);
                }
                // Unanswered for lack of room: who calls tries another connection, which has its own.
                if let Some(number) = answer {
                    say(shard, connection, &batch_answer(number, shard.facts.settings_epoch));
                }
                at += consumed;
            }
            PeerStep::Close(broken) => {
                shard.counters.peers_broken.add(1);
                tracing::warn!(node = peer.node, %broken, "closed a connection of another node");
                return None;
            }
        }
    }
}

/// A message to the core that owns its tablet.
fn pass(shard: &Rc<Shard>, from: u32, message: &Message<'_>) {
    let (group, tablet) = (&shard.facts.group, message.tablet);
    if !group.holds(tablet) || !group.replicas(tablet).contains(&from) {
        ioengine::sometimes!("a message is not for this node");
        return shard.counters.peer_misplaced.add(1);
    }
    let owner = shard.facts.owner(tablet);
    if owner == shard.index {
        deliver(shard, from, tablet, message.kind, message.payload);
    } else if !shard.peers.relay(shard, owner, from, tablet, message.kind, message.payload) {
        ioengine::sometimes!("a ring has no room for a message of another node");
        shard.counters.peer_not_relayed.add(1);
    }
}

/// A message is on the core that owns its tablet.
pub(crate) fn deliver(shard: &Rc<Shard>, from: u32, tablet: TabletIndex, kind: u8, body: &[u8]) {
    assert!(shard.owns(tablet), "messages are passed to the owner");
    shard.counters.peer_received.add(1);
    #[cfg(test)]
    if kind == super::tests::KIND {
        return super::tests::received(shard, from, tablet, body);
    }
    crate::log::receive(shard, from, tablet, kind, body);
}
