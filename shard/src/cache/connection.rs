//! Connections of clients to a core of a cache node: a reader and a writer task each, and between them the outbox.
//!
//! Must never take a request without room for a small answer to it. Invariant: a request is answered once, over the connection it
//! came from, if that is still there.

use super::core::{Asker, Cache, Waiter};
use super::{get, many, status};
use crate::door::payload_bytes_max;
use crate::hot;
use crate::outbox::Outbox;
use crate::reply::{ReplyTo, SMALL_REPLY_BYTES};
use ioengine::sync::{Notify, race};
use ioengine::{Instant, Queue, Stream};
use layout::units::LogTime;
use net::frame::HEADER_BYTES;
use net::outcome::Outcome;
use net::reply::{
    encode_echo, encode_hello, encode_map, encode_outcome, encode_status, reply_bytes_hello,
    reply_bytes_payload,
};
use net::request::Request;
use net::session::{ServerIdentity, ServerLimits, ServerSession, SessionReply, Step};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Bytes of a receive.
const RECEIVE_BYTES: usize = 16 << 10;
/// Longest time that a far end may leave what was sent unread.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// How long an answer waits for room before it is looked for again.
const ROOM_RETRY: Duration = Duration::from_millis(5);

/// One client's connection.
pub(super) struct Connection {
    slot: u32,
    generation: u32,
    stream: Stream,
    pub(super) outbox: RefCell<Outbox>,
    session: RefCell<ServerSession>,
    /// Something was put into the outbox, or the connection ends.
    filled: Notify,
    /// Something was sent, or answered.
    drained: Notify,
    closing: Cell<bool>,
    /// When the send in flight began.
    sending_since: Cell<Option<Instant>>,
}

impl Connection {
    /// A request that was given out has been answered.
    pub(super) fn answered(&self, cache: &Cache) {
        self.session.borrow_mut().answered(cache.io.now().ns / 1000);
        self.drained.notify();
        self.filled.notify();
    }

    /// Its time is up.
    pub(super) fn expired(&self, now: Instant) -> bool {
        let stuck = self.sending_since.get().is_some_and(|since| now.since(since) > SEND_DEADLINE);
        stuck || self.session.borrow_mut().expired(now.ns / 1000).is_some()
    }

    /// The reader ends at once, the writer after what waits.
    fn close(&self) {
        self.closing.set(true);
        self.filled.notify();
        self.drained.notify();
    }

    /// Both end.
    pub(super) fn end(&self) {
        self.close();
        self.stream.shutdown();
    }
}

/// The connections of a core, by slot.
#[derive(Default)]
pub(super) struct Connections {
    slots: RefCell<Vec<(u32, Option<Rc<Connection>>)>>,
}

impl Connections {
    pub(super) fn count(&self) -> usize {
        self.slots.borrow().iter().filter(|(_, connection)| connection.is_some()).count()
    }

    /// The connection that an answer is for, if it is still the same.
    pub(super) fn find(&self, to: &ReplyTo) -> Option<Rc<Connection>> {
        let slots = self.slots.borrow();
        let (generation, connection) = slots.get(to.slot as usize)?;
        connection.as_ref().filter(|_| *generation == to.generation).cloned()
    }

    fn add(&self, make: impl FnOnce(u32, u32) -> Connection) -> Rc<Connection> {
        let mut slots = self.slots.borrow_mut();
        let free = slots.iter().position(|(_, connection)| connection.is_none());
        let number = free.unwrap_or_else(|| {
            slots.push((0, None));
            slots.len() - 1
        });
        let (generation, place) = &mut slots[number];
        *generation = generation.wrapping_add(1);
        let connection = Rc::new(make(u32::try_from(number).expect("bounded by the config"), *generation));
        *place = Some(Rc::clone(&connection));
        connection
    }

    fn remove(&self, connection: &Connection) {
        self.slots.borrow_mut()[connection.slot as usize].1 = None;
    }

    /// Every connection that there is.
    pub(super) fn all(&self) -> Vec<Rc<Connection>> {
        self.slots.borrow().iter().filter_map(|(_, connection)| connection.clone()).collect()
    }

    /// Let every reader end; writers send what waits.
    pub(super) fn close_readers(&self) {
        self.all().iter().for_each(|connection| connection.close());
    }

    /// End them all.
    pub(super) fn close_all(&self) {
        self.all().iter().for_each(|connection| connection.end());
    }
}

/// Take over an accepted stream.
pub(super) fn serve(cache: &Rc<Cache>, stream: Stream) {
    if cache.connections.count() >= cache.limits.connection_count_max {
        ioengine::sometimes!("connections of a cache are full");
        cache.counters.connections_refused.add(1);
        return;
    }
    let limits = ServerLimits {
        frame_bytes: cache.limits.frame_bytes_max,
        in_flight: cache.limits.in_flight_max,
        hello_us: cache.limits.hello_deadline.as_micros() as u64,
        ..ServerLimits::default()
    };
    let facts = &cache.facts;
    // A cache promises nothing that a later start must keep: it has no incarnations.
    let identity = ServerIdentity { cluster: facts.cluster, node: facts.node, incarnation: 1, features: 0 };
    let session = ServerSession::new(limits, identity, cache.io.now().ns / 1000);
    let connection = cache.connections.add(|slot, generation| Connection {
        slot,
        generation,
        stream,
        outbox: RefCell::new(Outbox::new(cache.limits.outbox_bytes_max)),
        session: RefCell::new(session),
        filled: Notify::new(),
        drained: Notify::new(),
        closing: Cell::new(false),
        sending_since: Cell::new(None),
    });
    let (of_reader, of_writer, reader) = (Rc::clone(cache), Rc::clone(cache), Rc::clone(&connection));
    cache.io.spawn(Queue::Foreground, async move {
        read(&of_reader, &reader).await;
        reader.close();
    });
    cache.io.spawn(Queue::Foreground, async move {
        write(&of_writer, &connection).await;
        connection.end();
        of_writer.connections.remove(&connection);
    });
}

/// The reader: everything that arrives, until the far end, the protocol or the node ends it.
async fn read(cache: &Rc<Cache>, connection: &Rc<Connection>) {
    let Some(mut buffer) = cache.io.buffer(RECEIVE_BYTES) else {
        return cache.counters.connections_refused.add(1);
    };
    let mut filled = 0;
    while !connection.closing.get() {
        let end = buffer.len();
        let (result, back) = connection.stream.receive(buffer, filled..end).await;
        buffer = back;
        match result {
            Ok(0) | Err(_) => return,
            Ok(count) => filled += count,
        }
        let Some((taken, want)) = walk(cache, connection, &buffer[..filled]).await else { return };
        connection.filled.notify();
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
        let size = want.max(RECEIVE_BYTES);
        if size > end || (end > RECEIVE_BYTES && filled == 0) {
            let deadline = cache.io.now().after(cache.limits.request_deadline);
            let mut other = loop {
                if let Some(other) = cache.io.buffer(size) {
                    break other;
                }
                if cache.io.now() >= deadline {
                    return;
                }
                cache.io.sleep(ROOM_RETRY).await;
            };
            other[..filled].copy_from_slice(&buffer[..filled]);
            buffer = other;
        }
    }
}

/// Walk through the frames that are there. Bytes taken, and bytes that the next frame needs in all; `None` when the connection ends.
async fn walk(cache: &Rc<Cache>, connection: &Connection, input: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    loop {
        let drained = connection.drained.notified();
        let now_us = cache.io.now().ns / 1000;
        let step = connection.session.borrow_mut().next(now_us, cache.client.epoch(), &input[at..]);
        match step {
            Step::Need { bytes } => return Some((at, bytes)),
            Step::Full => {
                ioengine::sometimes!("a connection to a cache has all it may have in flight");
                drained.await;
                if connection.closing.get() {
                    return None;
                }
            }
            Step::Request { header, request, consumed } => {
                let to = ReplyTo {
                    core: cache.index,
                    slot: connection.slot,
                    generation: connection.generation,
                    request: header.request,
                    frame_bytes: connection.session.borrow().frame_bytes(),
                    operation: header.operation,
                };
                reserve(cache, connection).await?;
                take(cache, &to, &request);
                at += consumed;
            }
            Step::Answer { code, request, reply, consumed, close } => {
                answer_of_session(cache, connection, code, request, &reply);
                at += consumed;
                if close.is_some() {
                    return None;
                }
            }
            // No node has business here.
            Step::Peer { .. } | Step::Close(_) => return None,
        }
    }
}

/// Wait for room for a small answer; `None` when the connection ends first, or none comes in time.
async fn reserve(cache: &Cache, connection: &Connection) -> Option<()> {
    let deadline = cache.io.now().after(cache.limits.request_deadline);
    loop {
        let drained = connection.drained.notified();
        if connection.outbox.borrow_mut().reserve(&cache.io) {
            return Some(());
        }
        ioengine::sometimes!("an answer of a cache waits for room");
        connection.filled.notify();
        race(drained, cache.io.sleep(ROOM_RETRY)).await;
        if connection.closing.get() || cache.io.now() >= deadline {
            return None;
        }
    }
}

/// A request, for whose answer a small room is reserved.
fn take(cache: &Rc<Cache>, to: &ReplyTo, request: &Request<'_>) {
    match request {
        // A `local` get may be answered with less; what the store says is as good.
        Request::Get(one) => {
            let waiter = Waiter { asker: Asker::Get(*to), if_newer: one.if_newer, since: cache.io.now() };
            get::ask(cache, &one.key, waiter);
        }
        Request::MultiGet(all) => many::ask(cache, to, all),
        Request::Ping(echo) => {
            cache.write(to, reply_bytes_payload(echo.len()), |out| encode_echo(out, echo));
        }
        Request::Map(map) if map.known_epoch == cache.client.epoch() => {
            cache.tell(to, |out| encode_outcome(out, LogTime(0), &Outcome::NotModified));
        }
        Request::Map(_) => {
            let map = cache.client.known_map();
            let mut bytes = Vec::with_capacity(map.encoded_bytes());
            map.encode(&mut bytes);
            cache.write(to, reply_bytes_payload(bytes.len()), |out| encode_map(out, &bytes));
        }
        Request::Status => {
            let text = status::text(cache);
            cache.write(to, reply_bytes_payload(text.len()), |out| encode_status(out, &text));
        }
        Request::Hot => {
            let boards = cache.facts.counters.iter().map(|counters| &counters.hot);
            let text = hot::text(cache.facts.node, "cache", boards, payload_bytes_max(to));
            cache.write(to, reply_bytes_payload(text.len()), |out| encode_status(out, &text));
        }
        // No tablet is here: the map says where they are.
        _ => {
            let wrong = Outcome::WrongGroup { epoch: cache.client.epoch() };
            cache.tell(to, |out| encode_outcome(out, LogTime(0), &wrong));
        }
    }
}

fn answer_of_session(cache: &Cache, connection: &Connection, code: u8, request: u64, reply: &SessionReply) {
    let mut outbox = connection.outbox.borrow_mut();
    let bytes_max = HEADER_BYTES + reply_bytes_hello().max(SMALL_REPLY_BYTES);
    if outbox.make_room(&cache.io, bytes_max) {
        let out = outbox.room();
        let body = &mut out[HEADER_BYTES..];
        let bytes = HEADER_BYTES
            + match reply {
                SessionReply::Hello(hello) => encode_hello(body, hello),
                SessionReply::Not(outcome) => encode_outcome(body, LogTime(0), outcome),
            };
        net::frame::seal(&mut out[..bytes], code, request, cache.client.epoch());
        outbox.advance(bytes);
    }
    drop(outbox);
    connection.filled.notify();
}

/// The writer: whatever waits in the outbox, one send at a time.
async fn write(cache: &Rc<Cache>, connection: &Rc<Connection>) {
    let mut close_by = None;
    loop {
        let filled = connection.filled.notified();
        let taken = connection.outbox.borrow_mut().take(&cache.io);
        if let Some((buffer, bytes)) = taken {
            connection.sending_since.set(Some(cache.io.now()));
            let (result, buffer) = connection.stream.send(buffer, 0..bytes).await;
            connection.sending_since.set(None);
            connection.outbox.borrow_mut().give_back(buffer);
            connection.drained.notify();
            if result.is_err() {
                return;
            }
            continue;
        }
        let (waits, in_flight) = {
            let mut outbox = connection.outbox.borrow_mut();
            outbox.rest();
            (outbox.len() > 0, outbox.in_flight > 0)
        };
        if connection.closing.get() {
            let close_by = *close_by.get_or_insert(cache.io.now().after(cache.limits.request_deadline));
            if (!waits && !in_flight) || cache.io.now() >= close_by {
                return;
            }
            race(filled, cache.io.sleep(Duration::from_millis(10))).await;
        } else if waits {
            // No second buffer to go on with: others give theirs back soon.
            cache.io.sleep(Duration::from_millis(1)).await;
        } else {
            filled.await;
        }
    }
}
