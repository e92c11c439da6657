//! Connections of a core: a reader and a writer task each, and between them the outbox. The reader takes what has
//! arrived, walks through it, and answers in the same turn whatever memory can answer; what comes later finds the
//! connection again by slot and generation. An idle connection holds 4 KiB.

use crate::ahead::{Ahead, Seen};
use crate::cluster;
use crate::core::Shard;
use crate::door::{self, Served};
use crate::outbox::Outbox;
use crate::reply::{ReplyTo, SMALL_REPLY_BYTES};
use ioengine::sync::{Notify, race};
use ioengine::{Buf, Instant, Queue, Stream};
use layout::units::LogTime;
use net::peer::PeerSession;
use net::reply::{encode_hello, encode_outcome, reply_bytes_hello};
use net::session::{ServerIdentity, ServerLimits, ServerSession, SessionReply, Step};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// What an idle connection holds for receiving.
const RECEIVE_BYTES_FIRST: usize = 4096;
/// What a busy one grows to, beside what a large frame needs.
const RECEIVE_BYTES_BUSY: usize = 64 << 10;
/// Receives of less than the first size after which a busy buffer shrinks again.
const QUIET_RECEIVES: u32 = 64;
/// Longest time that a far end may leave what was sent unread.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// How often time limits of connections are looked at.
const EXPIRY_PERIOD: Duration = Duration::from_millis(250);

/// One client's connection.
pub(crate) struct Connection {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    stream: Stream,
    pub(crate) outbox: RefCell<Outbox>,
    pub(crate) session: RefCell<ServerSession>,
    /// Another node's connection; no client's any more.
    peer: RefCell<Option<PeerSession>>,
    /// Beyond what clients may have: only another node is let in.
    for_nodes: bool,
    /// Something was put into the outbox, or the connection ends.
    filled: Notify,
    /// Something was sent, or answered.
    drained: Notify,
    closing: Cell<bool>,
    /// When the send in flight began.
    sending_since: Cell<Option<Instant>>,
}

impl Connection {
    /// Wake the writer.
    pub(crate) fn wake_writer(&self) {
        self.filled.notify();
    }

    /// A request that was given out has been answered.
    pub(crate) fn answered(&self, shard: &Shard) {
        self.session.borrow_mut().answered(shard.turn_us.get());
        self.drained.notify();
    }

    /// Its time is up.
    fn expired(&self, now_us: u64) -> bool {
        let silent = self.peer.borrow().as_ref().is_some_and(|peer| peer.expired(now_us));
        silent || self.session.borrow_mut().expired(now_us).is_some()
    }

    /// End it: the reader stops at once, the writer after what waits.
    fn close(&self) {
        self.closing.set(true);
        self.filled.notify();
        self.drained.notify();
    }
}

struct Slot {
    generation: u32,
    connection: Option<Rc<Connection>>,
}

/// The connections of a core, by slot.
#[derive(Default)]
pub(crate) struct Connections {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
    count: Cell<usize>,
}

impl Connections {
    pub(crate) fn count(&self) -> usize {
        self.count.get()
    }

    /// Those of other nodes.
    pub(crate) fn peer_count(&self) -> usize {
        self.all().filter(|connection| connection.peer.borrow().is_some()).count()
    }

    /// The connection that a late answer is for, if it is still the same.
    pub(crate) fn find(&self, to: &ReplyTo) -> Option<Rc<Connection>> {
        let slots = self.slots.borrow();
        let slot = slots.get(to.slot as usize)?;
        slot.connection.as_ref().filter(|_| slot.generation == to.generation).cloned()
    }

    fn add(&self, make: impl FnOnce(u32, u32) -> Connection) -> Rc<Connection> {
        let mut slots = self.slots.borrow_mut();
        let number = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot { generation: 0, connection: None });
            u32::try_from(slots.len() - 1).expect("bounded by the config")
        });
        let slot = &mut slots[number as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let connection = Rc::new(make(number, slot.generation));
        slot.connection = Some(Rc::clone(&connection));
        self.count.set(self.count.get() + 1);
        connection
    }

    fn remove(&self, connection: &Connection) {
        self.slots.borrow_mut()[connection.slot as usize].connection = None;
        self.free.borrow_mut().push(connection.slot);
        self.count.set(self.count.get() - 1);
    }

    /// Every connection that there is when its turn comes. Nothing is borrowed in between, and nothing allocated.
    fn all(&self) -> impl Iterator<Item = Rc<Connection>> + '_ {
        let at = |slot: usize| self.slots.borrow().get(slot).map(|slot| slot.connection.clone());
        (0..).map_while(at).flatten()
    }

    /// Let every reader end; writers send what waits.
    pub(crate) fn close_readers(&self) {
        for connection in self.all() {
            connection.close();
        }
    }

    /// Shut every stream down: readers and writers end.
    pub(crate) fn close_all(&self) {
        for connection in self.all() {
            connection.close();
            connection.stream.shutdown();
        }
    }
}

fn server_limits(shard: &Shard) -> ServerLimits {
    ServerLimits {
        frame_bytes: shard.limits.frame_bytes_max,
        in_flight: shard.limits.in_flight_max,
        hello_us: shard.limits.hello_deadline.as_micros() as u64,
        ..ServerLimits::default()
    }
}

/// Take over an accepted stream.
pub(crate) fn serve(shard: &Rc<Shard>, stream: Stream) {
    let (count, clients_max) = (shard.connections.count(), shard.limits.connection_count_max);
    // Clients may not keep the other nodes out: each of those has a link per core, twice while it starts again.
    let peers = shard.facts.group.peers().iter();
    let nodes_max = 2 * peers.map(|peer| usize::from(peer.shard_count)).sum::<usize>();
    if count >= clients_max + nodes_max {
        ioengine::sometimes!("connections full");
        shard.counters.connections_refused.add(1);
        return;
    }
    let identity = ServerIdentity {
        cluster: shard.facts.cluster,
        node: shard.facts.node,
        incarnation: shard.facts.incarnation.0,
        features: net::redirect::FEATURE_REDIRECT,
    };
    let now_us = shard.io.now().ns / 1000;
    let session = ServerSession::new(server_limits(shard), identity, now_us);
    let connection = shard.connections.add(|slot, generation| Connection {
        slot,
        generation,
        stream,
        outbox: RefCell::new(Outbox::new(shard.limits.outbox_bytes_max)),
        session: RefCell::new(session),
        peer: RefCell::new(None),
        for_nodes: count >= clients_max,
        filled: Notify::new(),
        drained: Notify::new(),
        closing: Cell::new(false),
        sending_since: Cell::new(None),
    });
    shard.counters.connections_accepted.add(1);
    let (of_reader, of_writer) = (Rc::clone(shard), Rc::clone(shard));
    let reader = Rc::clone(&connection);
    shard.io.spawn(Queue::Foreground, async move {
        read(&of_reader, &reader).await;
        reader.close();
    });
    shard.io.spawn(Queue::Foreground, async move {
        write(&of_writer, &connection).await;
        connection.close();
        connection.stream.shutdown();
        of_writer.connections.remove(&connection);
    });
}

/// The reader: everything that arrives, until the far end, the protocol or the node ends it.
async fn read(shard: &Rc<Shard>, connection: &Rc<Connection>) {
    let Some(mut buffer) = shard.io.buffer(RECEIVE_BYTES_FIRST) else {
        shard.counters.connections_refused.add(1);
        return;
    };
    let mut filled = 0;
    let mut quiet = 0;
    while !connection.closing.get() {
        let end = buffer.len();
        let (result, back) = connection.stream.receive(buffer, filled..end).await;
        buffer = back;
        let count = match result {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        shard.counters.received_bytes.add(count as u64);
        filled += count;
        let Some((taken, want)) = walk(shard, connection, &buffer[..filled]).await else { return };
        connection.filled.notify();
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
        quiet = if count < RECEIVE_BYTES_FIRST { quiet + 1 } else { 0 };
        let size = if want > end {
            want
        } else if taken + filled == end {
            end.max(RECEIVE_BYTES_BUSY)
        } else if filled == 0 && quiet > QUIET_RECEIVES {
            RECEIVE_BYTES_FIRST
        } else {
            end
        };
        if size != end {
            let Some(other) = resize(shard, &buffer[..filled], size, want > end).await else { return };
            buffer = other.unwrap_or(buffer);
        }
    }
}

/// A buffer of another size with the same content; `None` inside when there is none to be had and the old one will
/// do. `None` when the old one will not do, and none came in time.
async fn resize(shard: &Shard, content: &[u8], size: usize, must: bool) -> Option<Option<Buf>> {
    let deadline = shard.io.now().after(shard.limits.request_deadline);
    let (all, taken) = shard.io.arena_bytes();
    if !must && size > content.len().max(RECEIVE_BYTES_FIRST) && taken + size > all / 4 * 3 {
        return Some(None);
    }
    loop {
        if let Some(mut other) = shard.io.buffer(size) {
            other[..content.len()].copy_from_slice(content);
            return Some(Some(other));
        }
        if !must {
            return Some(None);
        }
        ioengine::sometimes!("a large frame waits for a buffer");
        if shard.io.now() >= deadline {
            return None;
        }
        shard.io.sleep(Duration::from_millis(5)).await;
    }
}

/// Walk through the frames that are there. Bytes taken, and bytes that the next frame needs in all; `None` when the
/// connection ends.
async fn walk(shard: &Rc<Shard>, connection: &Rc<Connection>, input: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    let mut ahead = Ahead::new();
    shard.look_at_clock();
    if let Some(peer) = connection.peer.borrow_mut().as_mut() {
        return cluster::walk(shard, connection, peer, input);
    }
    loop {
        let now_us = shard.turn_us.get();
        let drained = connection.drained.notified();
        let step = connection.session.borrow_mut().next(now_us, shard.facts.map_epoch(), &input[at..]);
        if connection.for_nodes && !matches!(step, Step::Need { .. } | Step::Peer { .. }) {
            ioengine::sometimes!("connections full");
            shard.counters.connections_refused.add(1);
            return None;
        }
        match step {
            Step::Need { bytes } => return Some((at, bytes)),
            Step::Full => {
                ioengine::sometimes!("a connection has all it may have in flight");
                connection.filled.notify();
                drained.await;
                shard.look_at_clock();
                if connection.closing.get() {
                    return None;
                }
            }
            Step::Request { header, request, consumed } => {
                let to = ReplyTo {
                    core: shard.index,
                    slot: connection.slot,
                    generation: connection.generation,
                    request: header.request,
                    frame_bytes: if ioengine::canary("answer_larger_than_agreed") {
                        shard.limits.frame_bytes_max
                    } else {
                        connection.session.borrow().frame_bytes()
                    },
                    operation: header.operation,
                };
                let body = &input[at + net::frame::HEADER_BYTES..at + consumed];
                let seen = ahead.seen(shard, input, at);
                serve_one(shard, connection, &to, &request, body, seen).await?;
                at += consumed;
            }
            Step::Answer { code, request, reply, consumed, close } => {
                answer_of_session(shard, connection, code, request, &reply);
                at += consumed;
                if close.is_some() {
                    return None;
                }
            }
            Step::Peer { hello, consumed } => {
                let mut peer = cluster::greet(shard, connection, &hello)?;
                let (taken, want) = cluster::walk(shard, connection, &mut peer, &input[at + consumed..])?;
                *connection.peer.borrow_mut() = Some(peer);
                return Some((at + consumed + taken, want));
            }
            Step::Close(_) => return None,
        }
    }
}

/// Serve a request, waiting for room to answer it. `None` when the connection ends first.
async fn serve_one(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    to: &ReplyTo,
    request: &net::request::Request<'_>,
    body: &[u8],
    seen: Option<Seen>,
) -> Option<()> {
    let mut deadline = None;
    loop {
        let drained = connection.drained.notified();
        if let Served::Done = door::serve(shard, connection, to, request, body, seen) {
            return Some(());
        }
        ioengine::sometimes!("an answer waits for room");
        connection.filled.notify();
        let deadline = *deadline.get_or_insert(shard.io.now().after(shard.limits.request_deadline));
        // Room comes when the far end reads, or when others give buffers back.
        race(drained, shard.io.sleep(Duration::from_millis(5))).await;
        if connection.closing.get() {
            return None;
        }
        if shard.io.now() >= deadline {
            shard.counters.replies_refused.add(1);
            return door::refuse(shard, connection, to).then_some(());
        }
    }
}

fn answer_of_session(shard: &Shard, connection: &Connection, code: u8, request: u64, reply: &SessionReply) {
    let mut outbox = connection.outbox.borrow_mut();
    let bytes_max = net::frame::HEADER_BYTES + reply_bytes_hello().max(SMALL_REPLY_BYTES);
    if outbox.make_room(&shard.io, bytes_max) {
        let out = outbox.room();
        let head = net::frame::HEADER_BYTES;
        let bytes = head
            + match reply {
                SessionReply::Hello(hello) => encode_hello(&mut out[head..], hello),
                SessionReply::Not(outcome) => encode_outcome(&mut out[head..], LogTime(0), outcome),
            };
        net::frame::seal(&mut out[..bytes], code, request, shard.facts.map_epoch());
        outbox.advance(bytes);
    }
    drop(outbox);
    connection.filled.notify();
}

/// The writer: whatever waits in the outbox, one send at a time.
async fn write(shard: &Rc<Shard>, connection: &Rc<Connection>) {
    let mut close_by = None;
    loop {
        let filled = connection.filled.notified();
        let taken = connection.outbox.borrow_mut().take(&shard.io);
        if let Some((buffer, bytes)) = taken {
            connection.sending_since.set(Some(shard.io.turn_began()));
            let (result, buffer) = connection.stream.send(buffer, 0..bytes).await;
            connection.sending_since.set(None);
            connection.outbox.borrow_mut().give_back(buffer);
            connection.drained.notify();
            shard.counters.sent_bytes.add(bytes as u64);
            if result.is_err() {
                return;
            }
            continue;
        }
        let waits = {
            let mut outbox = connection.outbox.borrow_mut();
            outbox.rest();
            (outbox.len() > 0, outbox.in_flight > 0)
        };
        if connection.closing.get() {
            let close_by = *close_by.get_or_insert(shard.io.now().after(shard.limits.request_deadline));
            if waits == (false, false) || shard.io.now() >= close_by {
                return;
            }
            race(filled, shard.io.sleep(Duration::from_millis(10))).await;
        } else if waits.0 {
            // No second buffer to go on with: others give theirs back soon.
            shard.io.sleep(Duration::from_millis(1)).await;
        } else {
            filled.await;
        }
    }
}

/// Looks at time limits now and then: connections without hello, idle ones, those whose far end does not read, and
/// requests that wait for too long.
pub(crate) async fn watch(shard: Rc<Shard>) {
    loop {
        shard.io.sleep(EXPIRY_PERIOD).await;
        let now = shard.io.now();
        for connection in shard.connections.all() {
            let expired = connection.expired(now.ns / 1000);
            let stuck = connection.sending_since.get().is_some_and(|since| now.since(since) > SEND_DEADLINE);
            if stuck || expired {
                ioengine::sometimes!("a connection ran out of time");
                shard.counters.connections_expired.add(1);
                connection.close();
                connection.stream.shutdown();
            }
        }
        shard.publish_counters();
        crate::commit::answer_overdue(&shard, now);
        crate::parked::answer_overdue(&shard, now);
        crate::gather::answer_overdue(&shard, now);
    }
}
